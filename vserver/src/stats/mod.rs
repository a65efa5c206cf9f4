//! What operators read: a snapshot of a host.

mod copied;
pub mod json;
mod links;
mod neighbours;
mod processing;
mod qos;
mod runtime;
mod snapshot;
pub mod table;
mod take;

pub use copied::{CopiedPerByte, copied_per_byte};
pub use links::LinkSnapshot;
pub(crate) use processing::processing;
pub use runtime::{RuntimeSnapshot, StageCost, WorkerRuntime};
pub use snapshot::{
    HostSnapshot, MdnsSnapshot, NameSnapshot, NicSnapshot, RecordSnapshot, ServiceSnapshot,
    VserverSnapshot,
};
pub(crate) use take::{mac_text, of_vserver, take, take_runtime};

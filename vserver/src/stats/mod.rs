//! What operators read: a snapshot of a host.

pub mod json;
mod snapshot;
pub mod table;
mod take;

pub use snapshot::{HostSnapshot, NicSnapshot, ServiceSnapshot, VserverSnapshot};
pub(crate) use take::{mac_text, take};

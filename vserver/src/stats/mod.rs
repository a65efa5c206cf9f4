//! What operators read: a snapshot of a host.

mod snapshot;
mod take;

pub use snapshot::{HostSnapshot, NicSnapshot, ServiceSnapshot, VserverSnapshot};
pub(crate) use take::{mac_text, take};

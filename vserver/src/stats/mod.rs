//! What operators read: a snapshot of a host.

mod snapshot;

pub use snapshot::{HostSnapshot, NicSnapshot, ServiceSnapshot, VserverSnapshot};

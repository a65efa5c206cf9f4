//! Built-in services of vservers: echo, discard, chargen, http, proxy.
//!
//! One thread serves all services of all vservers, event-driven.

use crate::Host;
use crate::stats::HostSnapshot;

/// The running services of a host. Dropping it closes them.
#[derive(Debug)]
pub struct Services {}

impl Services {
    /// Starts the services that the host's configuration asks for.
    pub fn start(host: &Host) -> Result<Services, std::io::Error> {
        let _ = host;
        todo!()
    }

    /// Adds what is known about services to a snapshot of the same host.
    pub fn fill(&self, snapshot: &mut HostSnapshot) {
        let _ = snapshot;
    }

    /// Stops the services; connections are reset.
    pub fn stop(&self) {}
}

//! A host: devices, workers, vservers.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_drivers::device::{AnyDevice, DeviceError};
use weft_stack::socket::SocketInfo;
use weft_stack::stack::ChangeError;

use crate::Vserver;
use crate::config::HostConfig;
use crate::stats::HostSnapshot;

/// Devices by NIC name (`eth0`), one per queue from 0: what [`Host::start_with_devices`] takes
/// instead of opening those of the configuration.
pub type Devices = BTreeMap<String, Vec<AnyDevice>>;

/// Why a host did not start. Nothing stays open or half applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A device could not be opened.
    #[error("nic {nic}: {source}")]
    Device {
        /// Name in the configuration.
        nic: String,
        /// Operation, object, reason and hint.
        source: DeviceError,
    },
    /// The configuration asks for what this host cannot do.
    #[error("{object}: {problem} ({hint})")]
    Config {
        /// What of the configuration: `alias data0`.
        object: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A vserver's stack refused an address or a route.
    #[error("vserver {vserver}: {operation} {object}: {source}")]
    Change {
        /// Which vserver.
        vserver: String,
        /// What was tried: `add address`.
        operation: &'static str,
        /// With what: `10.0.0.1/24`.
        object: String,
        /// The stack's answer.
        source: ChangeError,
    },
    /// The operating system refused something that every host needs.
    #[error("{operation}: {source} (check the limits of the process: ulimit -n, -u)")]
    Os {
        /// What was tried.
        operation: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

/// A running host. Dropping it stops the workers, detaches XDP programs and closes the devices;
/// sockets that outlive it fail.
#[derive(Debug)]
pub struct Host {
    shared: Arc<()>,
}

impl Host {
    /// Opens the devices of `config`, starts the workers, and configures the vservers. Built-in
    /// services are started by [`crate::service`](crate), not here. IPv6 addresses are usable after
    /// duplicate address detection, about a second later.
    pub fn start(config: HostConfig) -> Result<Host, HostError> {
        Host::start_with_devices(config, Devices::new())
    }

    /// As [`Host::start`], with devices the caller made for the NICs it names; others are opened.
    pub fn start_with_devices(config: HostConfig, devices: Devices) -> Result<Host, HostError> {
        let _ = (config, devices);
        todo!()
    }

    /// The far end of a NIC with the `mem` driver (queue 0), once.
    pub fn take_mem_peer(&self, nic: &str) -> Option<AnyDevice> {
        let _ = (nic, &self.shared);
        todo!()
    }

    /// What it was started from.
    pub fn config(&self) -> &HostConfig {
        todo!()
    }

    /// A handle on the vserver of that name.
    pub fn vserver(&self, name: &str) -> Option<Vserver> {
        let _ = name;
        todo!()
    }

    /// Handles on all vservers, in order of the configuration.
    pub fn vservers(&self) -> Vec<Vserver> {
        todo!()
    }

    /// Counters and facts of the whole host, consistent per worker. Takes the worker's lock for
    /// one vserver at a time, so traffic goes on.
    pub fn snapshot(&self) -> HostSnapshot {
        todo!()
    }

    /// The sockets of a vserver, `None` if there is no such vserver.
    pub fn sockets(&self, vserver: &str) -> Option<Vec<SocketInfo>> {
        let _ = vserver;
        todo!()
    }

    /// Stops the workers, detaches and closes the devices. Blocked calls on sockets return with
    /// an error. The same as dropping the host; calling it twice is harmless.
    pub fn stop(&self) {
        todo!()
    }
}

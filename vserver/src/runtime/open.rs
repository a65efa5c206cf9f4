//! Devices from configuration.

use std::io;

use weft_drivers::device::{AnyDevice, DeviceError, Medium};
use weft_drivers::mem::{self, MemConfig};

use crate::config::{Driver, Nic, Workers};

/// The devices of one NIC, and the far end if it is a memory pair.
pub(crate) struct Opened {
    pub(crate) devices: Vec<AnyDevice>,
    pub(crate) peer: Option<AnyDevice>,
}

/// Opens all queues of a NIC.
pub(crate) fn open(nic: &Nic, workers: &Workers) -> Result<Opened, DeviceError> {
    match nic.driver {
        Driver::Mem => open_mem(nic, workers),
        Driver::AfXdp | Driver::Tap | Driver::Tun | Driver::Packet => Err(DeviceError::new(
            "open",
            nic.device.clone(),
            io::Error::from(io::ErrorKind::Unsupported),
        )),
    }
}

fn open_mem(nic: &Nic, workers: &Workers) -> Result<Opened, DeviceError> {
    let defaults = MemConfig::default();
    let config = MemConfig {
        medium: Medium::Ethernet,
        mtu: nic.mtu.unwrap_or(defaults.mtu),
        pool_frames: workers.frames,
        macs: [nic.mac.unwrap_or(defaults.macs[0]), defaults.macs[1]],
        ..defaults
    };
    let (ours, theirs) = mem::pair(&config)?;
    Ok(Opened { devices: vec![Box::new(ours)], peer: Some(Box::new(theirs)) })
}

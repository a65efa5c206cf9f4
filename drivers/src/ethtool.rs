//! The few ethtool calls that a host and its lab need: offloads off and on, queues in use, the
//! driver's name, threaded NAPI. They act on the calling thread's network namespace.

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::device::DeviceError;

// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// An offload that can be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Transmit checksums: off means that frames leave with complete checksums.
    TxChecksum,
    /// TCP segmentation.
    Tso,
    /// Generic segmentation.
    Gso,
    /// Generic receive merging.
    Gro,
}

#[repr(C)]
#[derive(Default)]
struct Value {
    cmd: u32,
    data: u32,
}

#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// A struct of linux/ethtool.h that the kernel may read and write in full.
///
/// # Safety
/// The type must be `repr(C)`, valid for every bit pattern, and as long as the kernel's struct of
/// the command that its first field holds.
unsafe trait EthtoolStruct {}
// SAFETY: `struct ethtool_value`.
unsafe impl EthtoolStruct for Value {}
// SAFETY: `struct ethtool_channels`.
unsafe impl EthtoolStruct for Channels {}
// SAFETY: `struct ethtool_drvinfo` is 196 bytes: 4 + 32 + 160.
unsafe impl EthtoolStruct for DriverInfo {}

fn call<T: EthtoolStruct>(ifname: &str, argument: &mut T) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut name = [0 as libc::c_char; libc::IFNAMSIZ];
    if ifname.len() >= name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in name.iter_mut().zip(ifname.bytes()) {
        #[allow(clippy::cast_possible_wrap)] // c_char is signed on some machines only
        let from = from as libc::c_char;
        *to = from;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: std::ptr::from_mut(argument).cast() },
    };
    // SAFETY: `request` is a whole ifreq whose data pointer is an exclusive borrow of the struct
    // that the command in its first field asks for (contract of EthtoolStruct).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches an offload of an interface.
pub fn set_offload(ifname: &str, offload: Offload, on: bool) -> Result<(), DeviceError> {
    let cmd = match offload {
        Offload::TxChecksum => ETHTOOL_STXCSUM,
        Offload::Tso => ETHTOOL_STSO,
        Offload::Gso => ETHTOOL_SGSO,
        Offload::Gro => ETHTOOL_SGRO,
    };
    call(ifname, &mut Value { cmd, data: u32::from(on) })
        .map_err(|e| DeviceError::new("switch offload", format!("{ifname} {offload:?}"), e))
}

/// Whether the interface takes tags of VLANs out of received frames.
pub fn set_vlan_stripping(ifname: &str, on: bool) -> Result<(), DeviceError> {
    let fail = |e| DeviceError::new("switch offload", format!("{ifname} rxvlan"), e);
    let mut flags = Value { cmd: ETHTOOL_GFLAGS, data: 0 };
    call(ifname, &mut flags).map_err(fail)?;
    let data = if on { flags.data | ETH_FLAG_RXVLAN } else { flags.data & !ETH_FLAG_RXVLAN };
    if data == flags.data {
        return Ok(());
    }
    call(ifname, &mut Value { cmd: ETHTOOL_SFLAGS, data }).map_err(fail)
}

/// Receive and transmit queues in use.
pub fn channels(ifname: &str) -> io::Result<(usize, usize)> {
    let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
    call(ifname, &mut channels)?;
    let count = |own: u32| (own + channels.combined).max(1) as usize;
    Ok((count(channels.rx), count(channels.tx)))
}

/// Name of the kernel driver.
pub fn driver(ifname: &str) -> io::Result<String> {
    let mut info = DriverInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    call(ifname, &mut info)?;
    let name: Vec<u8> = info.driver.into_iter().take_while(|b| *b != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Threaded NAPI of an interface: its receive work then runs in a kernel thread of its own rather
/// than on the sender's CPU (veth). Needs a sysfs that shows the calling thread's namespace; see
/// [`crate::netns::Netns::enter_with_sysfs`].
pub fn set_threaded_napi(ifname: &str, on: bool) -> Result<(), DeviceError> {
    std::fs::write(format!("/sys/class/net/{ifname}/threaded"), if on { "1" } else { "0" })
        .map_err(|e| DeviceError::new("set threaded NAPI", ifname, e))
}

//! The seam between a worker and whatever carries frames.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use weft_stack::frame::{Frame, FrameDomain, FramePool, HEADROOM_BYTES};

/// Largest super-segment payload that the devices here take: with every header of
/// [`HEADROOM_BYTES`] it stays within the 16-bit length of an IP packet.
pub const SUPER_SEGMENT_BYTES_MAX: usize = 65_535 - HEADROOM_BYTES;

/// Longest link header: Ethernet with two VLAN tags.
pub const LINK_HEADER_BYTES_MAX: usize = 22;

/// Bytes per pool slot for ordinary frames of a link with this MTU, headroom included.
pub fn slot_bytes(mtu: usize) -> usize {
    (HEADROOM_BYTES + LINK_HEADER_BYTES_MAX + mtu).max(2048).next_multiple_of(64)
}

/// What a frame of the device starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// An Ethernet header.
    Ethernet,
    /// An IPv4 or IPv6 header (TUN).
    Ip,
}

/// What the device can do, fixed while it is open (the MTU may change, see [`Link`]).
#[derive(Clone, Debug)]
pub struct Caps {
    /// What frames start with.
    pub medium: Medium,
    /// Largest super-segment payload the device takes, in bytes; 0: it takes MTU-size frames only.
    /// A device that cuts in software (AF_XDP, AF_PACKET) sets this too.
    pub gso_bytes_max: usize,
    /// The device completes [`weft_stack::frame::Checksum::Partial`] on transmit, in hardware or
    /// while it copies.
    pub tx_checksum: bool,
    /// Received frames carry `Verified` or `Partial` checksums where the kernel says so.
    pub rx_checksum: bool,
    /// Reported wherever numbers are: `af-xdp zero-copy`, `af-xdp native copy`, `af-xdp generic`,
    /// `tap vnet`, `tun vnet`, `packet messages vnet`, `packet v3 vnet`, `mem offload`.
    pub mode: String,
}

/// Link facts that change while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Administratively up and with carrier.
    pub up: bool,
    /// L3 MTU in bytes.
    pub mtu: usize,
    /// MAC address; `None` on an L3 device.
    pub mac: Option<[u8; 6]>,
}

weft_stack::counters! {
    /// Counters of one device queue.
    pub struct DeviceStats, "Device" {
        /// Frames received.
        rx_frames: "InFrames",
        /// Bytes received.
        rx_bytes: "InBytes",
        /// Frames the kernel or ring dropped before us (ring full, no buffer).
        rx_dropped: "InDropped",
        /// Frames received but unusable: too long, truncated.
        rx_errors: "InErrors",
        /// Frames sent; a super-segment counts as the frames it was cut into.
        tx_frames: "OutFrames",
        /// Bytes sent.
        tx_bytes: "OutBytes",
        /// Frames the device refused for good.
        tx_dropped: "OutDropped",
        /// System calls made to send or to wake the kernel.
        kicks: "Kicks",
        /// Bytes of received frames that the driver copied.
        rx_copied_bytes: "InCopiedBytes",
        /// Payload bytes that the driver copied on their way out.
        tx_copied_bytes: "OutCopiedBytes",
    }
}

impl DeviceStats {
    /// Bytes that the driver copied, in either direction.
    pub fn copied_bytes(&self) -> u64 {
        self.rx_copied_bytes + self.tx_copied_bytes
    }
}

/// One queue of something that carries frames.
///
/// A device is used by one thread at a time and never blocks: a full ring is backpressure (frames
/// stay with the caller), an empty one is zero frames. It owns the pool that its receive ring is
/// filled from and that transmit frames should come from; frames of other pools are copied, and
/// that is counted.
pub trait Device: Send {
    /// What it can do.
    fn caps(&self) -> &Caps;

    /// Link state, MTU and MAC as last told by the kernel. No system call.
    fn link(&self) -> Link;

    /// Takes over a link change seen by the owner's [`LinkMonitor`](crate::nic::LinkMonitor); what
    /// [`Device::link`] says changes, the MAC address of a device that has its own does not.
    fn set_link(&mut self, link: Link);

    /// The pool to build frames from.
    fn pool(&self) -> &FramePool;

    /// Makes its pools those of the worker that it belongs to from now on.
    fn join_domain(&mut self, domain: &mut FrameDomain) {
        domain.adopt(self.pool());
    }

    /// Appends up to `max` received frames to `burst`; returns how many.
    ///
    /// `Err` means the device is unusable (gone, down for good), never a bad frame.
    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize>;

    /// Whether [`Device::receive`] may find something, or has other work to do: what a worker that
    /// polls asks between turns, for a fraction of what a receive costs. `false` only if it is
    /// certain.
    fn may_receive(&mut self) -> bool {
        true
    }

    /// Takes frames from the front of `burst` while there is room and returns how many. What
    /// remains did not fit; offer it again after [`Device::flush`] or when the descriptor is
    /// writable. Super-segments are cut as needed and taken whole or not at all.
    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize>;

    /// Ends a batch: makes queued frames visible and wakes the kernel, at most one system call.
    /// Also reclaims completed frames and refills the receive ring. Returns whether frames are
    /// still in flight that need another call.
    fn flush(&mut self) -> io::Result<bool>;

    /// A descriptor that polls readable when frames wait; `None` for a device that must be polled.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether [`Device::fd`] has to tell of frames, which it does from the start. An owner that
    /// polls all the time switches it off: the kernel then has nobody to wake, which it else tries
    /// for every frame, on the sender's CPU where that is the same machine. Before it sleeps the
    /// owner switches it on; frames that wait already make the descriptor readable then. One
    /// system call when it changes, nothing otherwise.
    fn watch(&mut self, on: bool) -> io::Result<()> {
        let _ = on;
        Ok(())
    }

    /// Counters since it was opened.
    fn stats(&self) -> DeviceStats;

    /// Lets the kernel's driver run inside our calls instead of in interrupts, for a worker that
    /// polls all the time: at most `budget` frames per call, for `us` microseconds; 0 microseconds
    /// turn it off. May be changed while running. Nothing to do where there is no such thing.
    fn set_busy_poll(&mut self, budget: u16, us: u32) -> io::Result<()> {
        let _ = (budget, us);
        Ok(())
    }

    /// Changes which frames come to us on a NIC that is shared with the kernel. A device that
    /// receives everything has nothing to do.
    fn steer(&mut self, change: Steer) -> io::Result<()> {
        let _ = change;
        Ok(())
    }
}

/// What comes to the vservers of a NIC that is shared with the kernel. Adding twice is harmless; the
/// caller counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// A destination (unicast address, or multicast group) whose frames are ours from now on. ARP
    /// follows its target address, neighbour solicitations their solicited-node group.
    Add(IpAddr),
    /// The kernel's again.
    Remove(IpAddr),
    /// All frames of a protocol of the link (LACP, LLDP), with the groups that it sends to. At most
    /// 16; not those of IP and ARP.
    AddEthertype(u16),
    /// The kernel's again.
    RemoveEthertype(u16),
    /// Frames to this MAC address are let through by the NIC, though it is not its own. What becomes
    /// of them goes by their addresses, as with others.
    AddMac([u8; 6]),
    /// No longer.
    RemoveMac([u8; 6]),
}

impl Steer {
    /// What undoes an `Add`; a `Remove` is left as it is.
    #[must_use]
    pub fn undone(self) -> Steer {
        match self {
            Steer::Add(a) => Steer::Remove(a),
            Steer::AddEthertype(e) => Steer::RemoveEthertype(e),
            Steer::AddMac(m) => Steer::RemoveMac(m),
            remove => remove,
        }
    }
}

impl fmt::Display for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Steer::Add(a) | Steer::Remove(a) => write!(f, "{a}"),
            Steer::AddEthertype(e) | Steer::RemoveEthertype(e) => write!(f, "ethertype {e:#06x}"),
            Steer::AddMac(mac) | Steer::RemoveMac(mac) => {
                write!(f, "MAC address {}", mac.map(|octet| format!("{octet:02x}")).join(":"))
            }
        }
    }
}

/// What a wrapper's [`Device`] implementation leaves to the device in its field: everything but
/// `receive`, `transmit` and `flush`.
#[macro_export]
macro_rules! forward_facts {
    ($inner:ident) => {
        fn caps(&self) -> &$crate::device::Caps {
            self.$inner.caps()
        }
        fn link(&self) -> $crate::device::Link {
            self.$inner.link()
        }
        fn set_link(&mut self, link: $crate::device::Link) {
            self.$inner.set_link(link);
        }
        fn pool(&self) -> &::weft_stack::frame::FramePool {
            self.$inner.pool()
        }
        fn join_domain(&mut self, domain: &mut ::weft_stack::frame::FrameDomain) {
            self.$inner.join_domain(domain);
        }
        fn fd(&self) -> ::std::option::Option<::std::os::fd::BorrowedFd<'_>> {
            self.$inner.fd()
        }
        fn watch(&mut self, on: bool) -> ::std::io::Result<()> {
            self.$inner.watch(on)
        }
        fn stats(&self) -> $crate::device::DeviceStats {
            self.$inner.stats()
        }
        fn set_busy_poll(&mut self, budget: u16, us: u32) -> ::std::io::Result<()> {
            self.$inner.set_busy_poll(budget, us)
        }
        fn steer(&mut self, change: $crate::device::Steer) -> ::std::io::Result<()> {
            self.$inner.steer(change)
        }
    };
}

/// A device behind a pointer: called per burst, not per frame.
pub type AnyDevice = Box<dyn Device>;

impl Device for AnyDevice {
    fn caps(&self) -> &Caps {
        (**self).caps()
    }
    fn link(&self) -> Link {
        (**self).link()
    }
    fn set_link(&mut self, link: Link) {
        (**self).set_link(link);
    }
    fn pool(&self) -> &FramePool {
        (**self).pool()
    }
    fn join_domain(&mut self, domain: &mut FrameDomain) {
        (**self).join_domain(domain);
    }
    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        (**self).receive(burst, max)
    }
    fn may_receive(&mut self) -> bool {
        (**self).may_receive()
    }
    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        (**self).transmit(burst)
    }
    fn flush(&mut self) -> io::Result<bool> {
        (**self).flush()
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).fd()
    }
    fn watch(&mut self, on: bool) -> io::Result<()> {
        (**self).watch(on)
    }
    fn stats(&self) -> DeviceStats {
        (**self).stats()
    }
    fn set_busy_poll(&mut self, budget: u16, us: u32) -> io::Result<()> {
        (**self).set_busy_poll(budget, us)
    }
    fn steer(&mut self, change: Steer) -> io::Result<()> {
        (**self).steer(change)
    }
}

/// A system call on a device failed: which call, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("{operation} on {object}: {source}{}", hint_suffix(.hint))]
pub struct DeviceError {
    /// What was tried: `open`, `bind AF_XDP socket`, `attach XDP program`.
    pub operation: &'static str,
    /// On what: `eth0 queue 3`.
    pub object: String,
    /// The operating system's answer.
    pub source: io::Error,
    /// What to do next; may be empty.
    pub hint: String,
}

fn hint_suffix(hint: &str) -> impl fmt::Display + '_ {
    struct Suffix<'a>(&'a str);
    impl fmt::Display for Suffix<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
        }
    }
    Suffix(hint)
}

impl DeviceError {
    /// Wraps an OS error.
    pub fn new(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> DeviceError {
        DeviceError { operation, object: object.into(), source: source.into(), hint: String::new() }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> DeviceError {
        self.hint = hint.into();
        self
    }
}

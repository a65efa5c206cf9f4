//! Facts about a NIC that the rest is built on, and a descriptor that tells when they change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::SocketFlags;

use crate::device::{DeviceError, Link};
use crate::ethtool;
use crate::netlink::{self, LinkFacts, Netlink};

/// What a NIC is, at the moment of the query.
#[derive(Clone, Debug)]
pub struct NicFacts {
    /// Interface index.
    pub index: u32,
    /// MAC address; `None` on an L3 interface.
    pub mac: Option<[u8; 6]>,
    /// L3 MTU in bytes.
    pub mtu: usize,
    /// Administratively up and with carrier.
    pub up: bool,
    /// Receive queues in use.
    pub rx_queues: usize,
    /// Transmit queues in use.
    pub tx_queues: usize,
    /// Name of the kernel driver (`veth`, `virtio_net`, `ixgbe`); empty if it has none.
    pub driver: String,
}

/// A NIC of the calling thread's namespace.
#[derive(Debug)]
pub struct Nic;

impl Nic {
    /// Asks the kernel about an interface; the error names it when it does not exist.
    pub fn query(ifname: &str) -> Result<NicFacts, DeviceError> {
        let link = Netlink::open()?.link(ifname)?;
        // a device that has no channel operations uses every queue it has
        let (rx_queues, tx_queues) =
            ethtool::channels(ifname).unwrap_or((link.rx_queues, link.tx_queues));
        Ok(NicFacts {
            index: link.index,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up && link.carrier,
            rx_queues,
            tx_queues,
            driver: ethtool::driver(ifname).unwrap_or_default(),
        })
    }
}

/// Link changes of the namespace it was opened in, without blocking.
#[derive(Debug)]
pub struct LinkMonitor {
    fd: OwnedFd,
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It appeared, or a fact of it changed.
    Changed(LinkFacts),
    /// It is gone: index.
    Gone(u32),
    /// The kernel dropped messages: query the interfaces that matter again.
    Overrun,
}

impl From<&LinkFacts> for Link {
    fn from(facts: &LinkFacts) -> Link {
        Link { up: facts.up && facts.carrier, mtu: facts.mtu, mac: facts.mac }
    }
}

impl LinkMonitor {
    /// Subscribes in the calling thread's network namespace.
    pub fn open() -> Result<LinkMonitor, DeviceError> {
        let fd = netlink::open_socket(netlink::GROUP_LINK, SocketFlags::NONBLOCK)
            .map_err(|e| DeviceError::new("open", "netlink link monitor", e))?;
        Ok(LinkMonitor { fd })
    }

    /// Polls readable when a change waits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The changes of one netlink datagram, which may be none; `None` if no datagram waits.
    pub fn poll(&mut self) -> io::Result<Option<Vec<LinkChange>>> {
        use netlink_packet_core::NetlinkPayload;
        use netlink_packet_route::RouteNetlinkMessage;
        let messages = match netlink::receive(self.fd.as_fd()) {
            Ok(messages) => messages,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                return Ok(Some(vec![LinkChange::Overrun]));
            }
            Err(e) => return Err(e),
        };
        let mut changes = Vec::new();
        for message in messages {
            let NetlinkPayload::InnerMessage(inner) = message.payload else { continue };
            match &inner {
                RouteNetlinkMessage::DelLink(link) => {
                    changes.push(LinkChange::Gone(link.header.index));
                }
                other => changes.extend(netlink::link_facts(other).map(LinkChange::Changed)),
            }
        }
        Ok(Some(changes))
    }
}

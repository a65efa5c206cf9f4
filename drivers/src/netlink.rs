//! A small synchronous rtnetlink client: what a host and its lab ask of the kernel about links,
//! addresses, routes and neighbours. A client speaks to the network namespace it was opened in.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, send,
    socket_with,
};

use crate::device::DeviceError;

/// Multicast group of link changes (`RTMGRP_LINK`).
pub(crate) const GROUP_LINK: u32 = 1;

/// One interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address; `None` on an interface without one (TUN).
    pub mac: Option<[u8; 6]>,
    /// L3 MTU in bytes.
    pub mtu: usize,
    /// Administratively up.
    pub up: bool,
    /// The other side is there (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Receive queues allocated; channels may use fewer.
    pub rx_queues: usize,
    /// Transmit queues allocated.
    pub tx_queues: usize,
    /// Link kind (`veth`, `tun`); `None` for hardware.
    pub kind: Option<String>,
    /// The interface's own counters.
    pub stats: LinkStats,
}

/// Counters of an interface, seen from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LinkStats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// One neighbour entry of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourFacts {
    /// Interface index.
    pub link: u32,
    /// Address.
    pub address: IpAddr,
    /// MAC, once resolved.
    pub mac: Option<[u8; 6]>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    /// Interface name.
    pub name: &'a str,
    /// The namespace it is born in; `None`: the client's own.
    pub netns: Option<BorrowedFd<'a>>,
    /// MAC address; `None`: random.
    pub mac: Option<[u8; 6]>,
}

/// A netlink route socket.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a client in the calling thread's network namespace.
    pub fn open() -> Result<Netlink, DeviceError> {
        let fd = open_socket(0, SocketFlags::CLOEXEC)
            .map_err(|e| DeviceError::new("open", "netlink route socket", e))?;
        Ok(Netlink { fd, sequence: 0 })
    }

    /// Makes a veth pair with `queues` receive and transmit queues on both ends, both down.
    ///
    /// The two ends should have the same number of queues: a native XDP program can only be
    /// attached where there are as many receive queues as the peer has transmit queues.
    pub fn add_veth(
        &mut self,
        a: &VethEnd<'_>,
        b: &VethEnd<'_>,
        queues: usize,
        mtu: usize,
    ) -> Result<(), DeviceError> {
        let mut near = veth_message(a, queues, mtu);
        near.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(veth_message(b, queues, mtu)))),
        ]));
        self.create(RouteNetlinkMessage::NewLink(near))
            .map_err(|e| DeviceError::new("create veth", format!("{} and {}", a.name, b.name), e))
    }

    /// Makes a macvlan (bridge mode: siblings hear each other) on `parent`, down, born in `netns`.
    pub fn add_macvlan(
        &mut self,
        name: &str,
        parent: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<(), DeviceError> {
        let parent_index = self.link(parent)?.index;
        let message = link_message(vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Link(parent_index),
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
            ]),
        ]);
        self.create(RouteNetlinkMessage::NewLink(message))
            .map_err(|e| DeviceError::new("create macvlan", format!("{name} on {parent}"), e))
    }

    /// Deletes an interface; the peer of a veth goes with it.
    pub fn delete_link(&mut self, name: &str) -> Result<(), DeviceError> {
        let message = link_message(vec![LinkAttribute::IfName(name.into())]);
        self.acknowledged(RouteNetlinkMessage::DelLink(message), 0)
            .map_err(|e| DeviceError::new("delete link", name, e))
    }

    /// Sets an interface up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), DeviceError> {
        let mut message = link_message(vec![LinkAttribute::IfName(name.into())]);
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let operation = if up { "set up" } else { "set down" };
        self.set_link(message, operation, name)
    }

    /// Sets the MTU.
    pub fn set_mtu(&mut self, name: &str, mtu: usize) -> Result<(), DeviceError> {
        self.set_attribute(name, "set MTU of", LinkAttribute::Mtu(mtu as u32))
    }

    /// Sets the MAC address.
    pub fn set_mac(&mut self, name: &str, mac: [u8; 6]) -> Result<(), DeviceError> {
        self.set_attribute(name, "set MAC of", LinkAttribute::Address(mac.to_vec()))
    }

    /// Makes an interface a port of a bridge, or of none.
    pub fn set_master(&mut self, name: &str, bridge: Option<&str>) -> Result<(), DeviceError> {
        let index = bridge.map_or(Ok(0), |bridge| self.link(bridge).map(|facts| facts.index))?;
        self.set_attribute(name, "set bridge of", LinkAttribute::Controller(index))
    }

    /// Renames an interface (it must be down).
    pub fn rename(&mut self, name: &str, to: &str) -> Result<(), DeviceError> {
        let index = self.link(name)?.index;
        let mut message = link_message(vec![LinkAttribute::IfName(to.into())]);
        message.header.index = index;
        self.set_link(message, "rename", name)
    }

    /// Adds an address; an IPv6 address is usable at once (no duplicate address detection).
    pub fn add_address(
        &mut self,
        name: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), DeviceError> {
        let index = self.link(name)?.index;
        self.create(RouteNetlinkMessage::NewAddress(address_message(index, address, prefix)))
            .map_err(|e| {
                DeviceError::new("add address", format!("{address}/{prefix} to {name}"), e)
            })
    }

    /// Deletes an address.
    pub fn delete_address(
        &mut self,
        name: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), DeviceError> {
        let index = self.link(name)?.index;
        let message = address_message(index, address, prefix);
        self.acknowledged(RouteNetlinkMessage::DelAddress(message), 0).map_err(|e| {
            DeviceError::new("delete address", format!("{address}/{prefix} of {name}"), e)
        })
    }

    /// Adds a unicast route to the main table, through `via` or directly onto the link `dev`.
    pub fn add_route(
        &mut self,
        to: IpAddr,
        prefix: u8,
        via: Option<IpAddr>,
        dev: Option<&str>,
    ) -> Result<(), DeviceError> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(to),
            destination_prefix_length: prefix,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if via.is_some() { RouteScope::Universe } else { RouteScope::Link },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        if prefix > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
        }
        if let Some(via) = via {
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(via)));
        }
        if let Some(dev) = dev {
            message.attributes.push(RouteAttribute::Oif(self.link(dev)?.index));
        }
        self.create(RouteNetlinkMessage::NewRoute(message))
            .map_err(|e| DeviceError::new("add route", format!("{to}/{prefix}"), e))
    }

    /// Adds a permanent neighbour entry, or makes one permanent.
    pub fn add_neighbour(
        &mut self,
        dev: &str,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), DeviceError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = self.link(dev)?.index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::from(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.acknowledged(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|e| DeviceError::new("add neighbour", format!("{address} on {dev}"), e))
    }

    /// Facts of one interface.
    pub fn link(&mut self, name: &str) -> Result<LinkFacts, DeviceError> {
        let message = link_message(vec![LinkAttribute::IfName(name.into())]);
        let replies = self
            .request(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST | NLM_F_ACK)
            .map_err(|e| {
                DeviceError::new("find interface", name, e)
                    .hint("`ip link` lists those of this network namespace")
            })?;
        replies.iter().find_map(link_facts).ok_or_else(|| {
            DeviceError::new("find interface", name, io::Error::from(io::ErrorKind::NotFound))
        })
    }

    /// Facts of every interface of the namespace.
    pub fn links(&mut self) -> Result<Vec<LinkFacts>, DeviceError> {
        let replies = self
            .request(RouteNetlinkMessage::GetLink(link_message(vec![])), NLM_F_REQUEST | NLM_F_DUMP)
            .map_err(|e| DeviceError::new("list", "interfaces", e))?;
        Ok(replies.iter().filter_map(link_facts).collect())
    }

    /// The kernel's neighbour table, IPv4 and IPv6.
    pub fn neighbours(&mut self) -> Result<Vec<NeighbourFacts>, DeviceError> {
        let message = NeighbourMessage::default();
        let replies = self
            .request(RouteNetlinkMessage::GetNeighbour(message), NLM_F_REQUEST | NLM_F_DUMP)
            .map_err(|e| DeviceError::new("list", "neighbours", e))?;
        Ok(replies.iter().filter_map(neighbour_facts).collect())
    }

    fn set_attribute(
        &mut self,
        name: &str,
        operation: &'static str,
        attribute: LinkAttribute,
    ) -> Result<(), DeviceError> {
        let message = link_message(vec![LinkAttribute::IfName(name.into()), attribute]);
        self.set_link(message, operation, name)
    }

    fn set_link(
        &mut self,
        message: LinkMessage,
        operation: &'static str,
        name: &str,
    ) -> Result<(), DeviceError> {
        self.acknowledged(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|e| DeviceError::new(operation, name, e))
    }

    fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.acknowledged(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.request(message, NLM_F_REQUEST | NLM_F_ACK | flags).map(|_| ())
    }

    /// Sends one request and collects its answers up to the acknowledgement or the end of the dump,
    /// one of which `flags` must ask for: an answer alone may be one that cannot be parsed.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        retry_on_intr(|| send(&self.fd, &bytes, SendFlags::empty()))?;

        let mut answers = Vec::new();
        loop {
            for message in receive(self.fd.as_fd())? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                    NetlinkPayload::Error(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }
}

/// A netlink route socket that listens to `groups`.
pub(crate) fn open_socket(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    let fd = socket_with(
        rustix::net::AddressFamily::NETLINK,
        SocketType::RAW,
        flags | SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

/// Reads one datagram and returns the messages in it; what this crate cannot parse is left out.
pub(crate) fn receive(fd: BorrowedFd<'_>) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
    // the kernel never makes a dump datagram longer than this
    let mut buffer = vec![0u8; 32 << 10];
    let (n, _) = retry_on_intr(|| recv(fd, buffer.as_mut_slice(), RecvFlags::empty()))?;
    let mut messages = Vec::new();
    let mut rest = buffer.get(..n).unwrap_or_default();
    while let Some(head) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*head) as usize;
        if length < 16 || length > rest.len() {
            break;
        }
        if let Ok(message) = NetlinkMessage::deserialize(&rest[..length]) {
            messages.push(message);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn link_message(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    message
}

fn veth_message(end: &VethEnd<'_>, queues: usize, mtu: usize) -> LinkMessage {
    let mut message = link_message(vec![
        LinkAttribute::IfName(end.name.into()),
        LinkAttribute::NumTxQueues(queues as u32),
        LinkAttribute::NumRxQueues(queues as u32),
        LinkAttribute::Mtu(mtu as u32),
    ]);
    if let Some(mac) = end.mac {
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    if let Some(netns) = end.netns {
        message.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    }
    message
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// Facts from a `NewLink` message; `None` for any other.
pub(crate) fn link_facts(message: &RouteNetlinkMessage) -> Option<LinkFacts> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let mut facts = LinkFacts {
        index: link.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        rx_queues: 1,
        tx_queues: 1,
        kind: None,
        stats: LinkStats::default(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu as usize,
            LinkAttribute::Address(mac) => facts.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::NumRxQueues(n) => facts.rx_queues = *n as usize,
            LinkAttribute::NumTxQueues(n) => facts.tx_queues = *n as usize,
            LinkAttribute::LinkInfo(infos) => {
                facts.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Stats64(s) => {
                facts.stats = LinkStats {
                    rx_packets: s.rx_packets,
                    tx_packets: s.tx_packets,
                    rx_bytes: s.rx_bytes,
                    tx_bytes: s.tx_bytes,
                    rx_dropped: s.rx_dropped,
                    tx_dropped: s.tx_dropped,
                };
            }
            _ => {}
        }
    }
    Some(facts)
}

fn neighbour_facts(message: &RouteNetlinkMessage) -> Option<NeighbourFacts> {
    let RouteNetlinkMessage::NewNeighbour(neighbour) = message else { return None };
    let mut address = None;
    let mut mac = None;
    for attribute in &neighbour.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                address = Some(IpAddr::V4(*a));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                address = Some(IpAddr::V6(*a));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(NeighbourFacts { link: neighbour.header.ifindex, address: address?, mac })
}

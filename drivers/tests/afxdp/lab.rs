//! Two namespaces joined by veth pairs, a very small host on the device, and frames by hand.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::afxdp::{AfXdp, AfXdpOptions, Gather, UmemPool, XdpMode, XdpProgram};
use weft_drivers::device::{Device, Medium, Steer};
use weft_drivers::ethtool::{self, Offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::{Netns, may_make_namespaces};
use weft_drivers::segment::Headers;
use weft_stack::frame::Frame;
use weft_stack::wire::checksum;

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NIC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const BROADCAST: [u8; 6] = [0xff; 6];
pub const KERNEL4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const PEER4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub const OURS4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 50);
pub const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 60);
pub const KERNEL6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
pub const OURS6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x50);
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x60);
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// `near` has the shared NIC (`nic`), `far` is the other machine (`peer`).
pub struct Lab {
    pub near: Netns,
    pub far: Netns,
}

impl Lab {
    /// `None`, with the reason printed, where this machine cannot do it.
    pub fn new(queues: usize, mtu: usize) -> Option<Lab> {
        if !may_make_namespaces() {
            println!("SKIP: network namespaces need root");
            return None;
        }
        let lab = Lab { near: Netns::new().unwrap(), far: Netns::new().unwrap() };
        lab.add_pair("nic", "peer", NIC_MAC, PEER_MAC, queues, mtu);
        for (ns, name, v4, v6) in
            [(&lab.near, "nic", KERNEL4, KERNEL6), (&lab.far, "peer", PEER4, PEER6)]
        {
            ns.enter(|| {
                let mut netlink = Netlink::open().unwrap();
                netlink.add_address(name, v4.into(), 24).unwrap();
                netlink.add_address(name, v6.into(), 64).unwrap();
            })
            .unwrap();
        }
        match lab.near.enter(|| XdpProgram::attach("nic", XdpMode::Generic)).unwrap() {
            Ok(_) => Some(lab),
            Err(e) => {
                println!("SKIP: {e}");
                None
            }
        }
    }

    pub fn add_pair(
        &self,
        near: &str,
        far: &str,
        near_mac: [u8; 6],
        far_mac: [u8; 6],
        queues: usize,
        mtu: usize,
    ) {
        self.near
            .enter(|| {
                let mut netlink = Netlink::open().unwrap();
                let a = VethEnd { name: near, netns: None, mac: Some(near_mac) };
                let b = VethEnd { name: far, netns: Some(self.far.as_fd()), mac: Some(far_mac) };
                netlink.add_veth(&a, &b, queues, mtu).unwrap();
                netlink.set_up(near, true).unwrap();
            })
            .unwrap();
        self.far
            .enter(|| {
                Netlink::open().unwrap().set_up(far, true).unwrap();
                ethtool::set_offload(far, Offload::TxChecksum, false).unwrap();
            })
            .unwrap();
    }

    pub fn attach(&self, mode: XdpMode) -> Arc<XdpProgram> {
        self.near.enter(|| XdpProgram::attach("nic", mode)).unwrap().unwrap()
    }

    /// Queue 0 of the shared NIC, with our two addresses.
    pub fn host(&self, mode: XdpMode, umem: &UmemPool) -> Host {
        let program = self.attach(mode);
        let device = self.open(&program, 0, umem);
        program.steer(Steer::Add(OURS4.into())).unwrap();
        program.steer(Steer::Add(OURS6.into())).unwrap();
        Host::new(device, program)
    }

    pub fn open(&self, program: &Arc<XdpProgram>, queue: u32, umem: &UmemPool) -> AfXdp {
        let options =
            AfXdpOptions { fill_frames: 512, gather: Gather::Always, ..AfXdpOptions::default() };
        self.near.enter(|| AfXdp::open(program, queue, umem, options)).unwrap().unwrap()
    }

    /// A device at the other end, which sends frames made by hand and receives what is for
    /// PEER4 and PEER6.
    pub fn far_device(&self, umem: &UmemPool, queue: u32, program: &Arc<XdpProgram>) -> AfXdp {
        let options =
            AfXdpOptions { fill_frames: 512, gather: Gather::Always, ..AfXdpOptions::default() };
        self.far.enter(|| AfXdp::open(program, queue, umem, options)).unwrap().unwrap()
    }

    pub fn far_program(&self) -> Arc<XdpProgram> {
        self.far.enter(|| XdpProgram::attach("peer", XdpMode::Native)).unwrap().unwrap()
    }

    pub fn far_socket(&self, address: impl Into<IpAddr>) -> UdpSocket {
        udp_socket(&self.far, address.into())
    }
}

pub fn udp_socket(ns: &Netns, address: IpAddr) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Memory for the NICs of a namespace.
pub fn umem(ns: &Netns, frames: u32, frame_bytes: u32) -> UmemPool {
    ns.enter(|| UmemPool::new(frames, frame_bytes, false)).unwrap().unwrap()
}

/// A device, what it received, and answers to ARP and neighbour solicitation for our addresses.
pub struct Host {
    pub device: AfXdp,
    pub program: Arc<XdpProgram>,
    pub inbox: VecDeque<Frame>,
}

/// What a UDP datagram for us said.
pub struct Datagram {
    pub source_port: u16,
    pub port: u16,
    pub payload: Vec<u8>,
}

impl Host {
    pub fn new(device: AfXdp, program: Arc<XdpProgram>) -> Host {
        Host { device, program, inbox: VecDeque::new() }
    }

    /// Receives until `wanted` finds something in the frames that came.
    pub fn wait<T>(&mut self, mut wanted: impl FnMut(&Frame) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(frame) = self.inbox.pop_front() {
                if let Some(answer) = resolution_answer(&frame) {
                    send(&mut self.device, [answer]);
                } else if let Some(found) = wanted(&frame) {
                    return found;
                }
            }
            let mut burst = Vec::new();
            if receive(&mut self.device, &mut burst) == 0 {
                assert!(Instant::now() < deadline, "nothing came");
            }
            self.inbox.extend(burst);
        }
    }

    pub fn datagram(&mut self) -> Datagram {
        self.wait(datagram)
    }
}

/// One receive call, after waiting up to 100 ms for the descriptor.
pub fn receive(device: &mut impl Device, burst: &mut Vec<Frame>) -> usize {
    device.flush().unwrap();
    let n = device.receive(burst, 256).unwrap();
    if n == 0 {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let fd = device.fd().unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
    }
    n
}

/// Receives exactly `n` frames that `wanted` accepts.
pub fn collect(
    device: &mut impl Device,
    n: usize,
    mut wanted: impl FnMut(&Frame) -> bool,
) -> Vec<Frame> {
    let deadline = Instant::now() + PATIENCE;
    let mut frames = Vec::new();
    while frames.len() < n {
        let mut burst = Vec::new();
        if receive(device, &mut burst) == 0 {
            assert!(Instant::now() < deadline, "{} of {n} frames came", frames.len());
        }
        frames.extend(burst.into_iter().filter(&mut wanted));
    }
    frames
}

pub fn send(device: &mut impl Device, frames: impl IntoIterator<Item = Frame>) {
    let mut burst: VecDeque<Frame> = frames.into_iter().collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        device.transmit(&mut burst).unwrap();
        if !device.flush().unwrap() && burst.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "no room for frames");
    }
}

/// A frame in the device's own pool, as the stack builds them.
pub fn pooled(device: &impl Device, bytes: &[u8]) -> Frame {
    let mut frame = device.pool().alloc().unwrap();
    frame.append(&bytes[14..]);
    frame.push_front(14).copy_from_slice(&bytes[..14]);
    frame
}

/// A UDP datagram, its checksum verified; `None` for other frames.
pub fn datagram(frame: &Frame) -> Option<Datagram> {
    let flat = frame.to_heap();
    let data = flat.data();
    let headers = Headers::parse(data, Medium::Ethernet).ok()?;
    if headers.protocol != 17 {
        return None;
    }
    assert!(transport_checksum_is_valid(data), "UDP checksum");
    let udp = &data[headers.transport..];
    let be16 = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let payload = udp[8..usize::from(be16(4))].to_vec();
    Some(Datagram { source_port: be16(0), port: be16(2), payload })
}

pub fn transport_checksum_is_valid(data: &[u8]) -> bool {
    let Ok(h) = Headers::parse(data, Medium::Ethernet) else { return false };
    let ip = &data[h.network..];
    let (addresses, end) = if h.ip_version == 4 {
        (&ip[12..20], usize::from(u16::from_be_bytes([ip[2], ip[3]])))
    } else {
        (&ip[8..40], 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])))
    };
    let transport = &data[h.transport..h.network + end];
    let mut sum = checksum::combine(checksum::sum(addresses), u16::from(h.protocol));
    sum = checksum::combine(sum, transport.len() as u16);
    checksum::combine(sum, checksum::sum(transport)) == 0xffff
}

pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

pub fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00], &tag.to_be_bytes(), &frame[12..]].concat()
}

pub fn arp(
    to: [u8; 6],
    from: [u8; 6],
    operation: u8,
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, operation];
    body.extend(from);
    body.extend(sender.octets());
    body.extend(if operation == 1 { [0; 6] } else { to });
    body.extend(target.octets());
    ethernet(to, from, 0x0806, &body)
}

/// An IP packet of a transport whose checksum is at `field` of `segment`.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8], field: usize) -> Vec<u8> {
    let mut segment = segment.to_vec();
    let pseudo = match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => [a.octets(), b.octets()].concat(),
        (IpAddr::V6(a), IpAddr::V6(b)) => [a.octets(), b.octets()].concat(),
        _ => panic!("one family"),
    };
    let mut sum = checksum::combine(checksum::sum(&pseudo), u16::from(protocol));
    sum = checksum::combine(sum, segment.len() as u16);
    sum = checksum::combine(sum, checksum::sum(&segment));
    segment[field..field + 2].copy_from_slice(&checksum::finish_udp(sum).to_be_bytes());
    let mut packet = if from.is_ipv4() {
        let len = ((20 + segment.len()) as u16).to_be_bytes();
        let mut header = vec![0x45, 0, len[0], len[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
        header.extend(&pseudo);
        let sum = checksum::finish(checksum::sum(&header)).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    } else {
        let len = (segment.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0, len[0], len[1], protocol, 255][..], &pseudo].concat()
    };
    packet.extend(segment);
    packet
}

pub fn udp(
    mac: ([u8; 6], [u8; 6]),
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    segment.extend(((8 + payload.len()) as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    let (from, to) = (from.0.into(), to.0.into());
    let ethertype = if from.is_ipv4() { 0x0800 } else { 0x86dd };
    ethernet(mac.1, mac.0, ethertype, &ip(from, to, 17, &segment, 6))
}

/// A neighbour solicitation to the target's solicited-node group, or an advertisement to all nodes.
pub fn neighbour(kind: u8, from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, if kind == 136 { 0x60 } else { 0 }, 0, 0, 0];
    message.extend(target.octets());
    message.extend(if kind == 136 { [2, 1] } else { [1, 1] });
    message.extend(if from == OURS6 { NIC_MAC } else { PEER_MAC });
    let [.., a, b, c, d] = to.octets();
    let (to_mac, from_mac) = match () {
        () if to.is_multicast() => ([0x33, 0x33, a, b, c, d], PEER_MAC),
        () => (PEER_MAC, NIC_MAC),
    };
    let packet = ip(from.into(), to.into(), 58, &message, 2);
    ethernet(to_mac, from_mac, 0x86dd, &packet)
}

pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c))
}

fn resolution_answer(frame: &Frame) -> Option<Frame> {
    let data = frame.data();
    let answer = match data.get(12..14)? {
        [0x08, 0x06] if data.get(20..22)? == [0, 1] && data[38..42] == OURS4.octets() => {
            arp(PEER_MAC, NIC_MAC, 2, OURS4, PEER4)
        }
        [0x86, 0xdd] if data.len() >= 78 && data[20] == 58 && data[54] == 135 => {
            if data[62..78] != OURS6.octets() {
                return None;
            }
            let source: [u8; 16] = data[22..38].try_into().unwrap();
            neighbour(136, OURS6, source.into(), OURS6)
        }
        _ => return None,
    };
    Some(Frame::from_heap(64, &answer))
}

//! A very small host on top of a device, to talk to the kernel at the other end: it answers ARP,
//! sends UDP and TCP over IPv4, and waits for frames with a deadline.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::device::{Device, Medium};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_drivers::packet::{self, PacketConfig};
use weft_drivers::segment::Headers;
use weft_stack::frame::{Checksum, Frame, Gso};
use weft_stack::wire::checksum;

pub const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// Bytes that [`kernel_client`] reads.
pub const REPLY_BYTES: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Peer<D> {
    pub device: D,
    /// The kernel's MAC address.
    pub kernel_mac: [u8; 6],
    waiting: VecDeque<Frame>,
    /// Addresses that the kernel asked for by ARP.
    pub asked: Vec<Ipv4Addr>,
}

/// How a packet is put together.
#[derive(Clone, Copy, Default)]
pub struct How {
    /// Leave the checksum to the device.
    pub partial: bool,
    /// Put the payload into fragments of this size.
    pub frag: Option<usize>,
    /// Mark as a super-segment with segments of this size.
    pub segment: Option<u16>,
}

impl<D: Device> Peer<D> {
    /// Finds the kernel. A new link drops frames silently until the kernel noticed its carrier, so
    /// it asks until there is an answer.
    pub fn new(device: D) -> Peer<D> {
        let mut peer = Peer::unresolved(device);
        let deadline = Instant::now() + PATIENCE;
        while peer.device.caps().medium == Medium::Ethernet && peer.kernel_mac == [0xff; 6] {
            let mut request = peer.link_header(0x0806);
            request.extend([0, 1, 8, 0, 6, 4, 0, 1]);
            request.extend([&peer.mac()[..], &OURS.octets(), &[0; 6], &KERNEL.octets()].concat());
            peer.send(Frame::from_heap(0, &request));
            peer.wait(Instant::now() + Duration::from_millis(100));
            assert!(Instant::now() < deadline, "no answer to ARP");
            while let Some(frame) = peer.waiting.pop_front() {
                if frame.data()[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] {
                    peer.kernel_mac.copy_from_slice(&frame.data()[22..28]);
                }
            }
        }
        peer
    }

    /// Broadcasts what it sends.
    pub fn unresolved(device: D) -> Peer<D> {
        Peer { device, kernel_mac: [0xff; 6], waiting: VecDeque::new(), asked: Vec::new() }
    }

    fn mac(&self) -> [u8; 6] {
        self.device.link().mac.unwrap_or_default()
    }

    /// Sends all, waiting for room as needed.
    pub fn send(&mut self, frame: Frame) {
        let mut burst = VecDeque::from([frame]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.device.transmit(&mut burst).unwrap();
            if !self.device.flush().unwrap() && burst.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "no room for a frame");
            std::thread::yield_now();
        }
    }

    fn link_header(&self, ethertype: u16) -> Vec<u8> {
        if self.device.caps().medium == Medium::Ip {
            return Vec::new();
        }
        [&self.kernel_mac[..], &self.mac(), &ethertype.to_be_bytes()].concat()
    }

    /// Sends `header` (its checksum field at `offset` zero) and `payload` as one IPv4 packet.
    pub fn send_ip(
        &mut self,
        protocol: u8,
        header: &[u8],
        offset: usize,
        payload: &[u8],
        how: How,
    ) {
        let len = header.len() + payload.len();
        let mut ip = vec![0x45, 0];
        ip.extend(((20 + len) as u16).to_be_bytes());
        ip.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        ip.extend(OURS.octets());
        ip.extend(KERNEL.octets());
        let sum = checksum::finish(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut header = header.to_vec();
        let pseudo = checksum::pseudo_v4(OURS, KERNEL, protocol, len);
        let mut sum = checksum::Accumulator::starting_with(pseudo);
        sum.add(&header);
        sum.add(payload);
        let field = if how.partial { pseudo } else { checksum::finish_udp(sum.sum()) };
        header[offset..offset + 2].copy_from_slice(&field.to_be_bytes());

        let mut data = self.link_header(0x0800);
        data.extend(ip);
        let start = data.len();
        data.extend(header);
        let mut frags = Vec::new();
        match how.frag {
            Some(size) => frags.extend(payload.chunks(size).map(Bytes::copy_from_slice)),
            None => data.extend(payload),
        }
        let mut frame = Frame::from_heap(32, &data);
        frame.frags = frags.into();
        if how.partial {
            let (start, offset) = (start as u16, offset as u16);
            frame.meta.checksum = Checksum::Partial { start, offset };
        }
        frame.meta.gso = match how.segment {
            None => Gso::None,
            Some(mss) if protocol == TCP => Gso::Tcp4 { mss },
            Some(size) => Gso::Udp { size },
        };
        self.send(frame);
    }

    pub fn send_udp(&mut self, from: u16, to: u16, payload: &[u8], how: How) {
        let mut header = [from.to_be_bytes(), to.to_be_bytes()].concat();
        header.extend(((8 + payload.len()) as u16).to_be_bytes());
        header.extend([0, 0]);
        self.send_ip(UDP, &header, 6, payload, how);
    }

    /// The next IPv4 packet of `protocol`. Answers ARP on the way, ignores the rest.
    pub fn receive(&mut self, protocol: u8) -> Packet {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(frame) = self.waiting.pop_front() {
                if self.answer_arp(&frame) {
                    continue;
                }
                let medium = self.device.caps().medium;
                let Ok(headers) = Headers::parse(frame.data(), medium) else { continue };
                if headers.protocol == protocol && headers.ip_version == 4 {
                    let flat = frame.to_heap();
                    return Packet { frame, flat, headers };
                }
            }
            assert!(Instant::now() < deadline, "no frame came");
            self.wait(deadline);
        }
    }

    /// The next Ethernet frame of a type.
    pub fn next_of(&mut self, ethertype: u16) -> Frame {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(frame) = self.waiting.pop_front() {
                if frame.data()[12..14] == ethertype.to_be_bytes() {
                    return frame;
                }
            }
            assert!(Instant::now() < deadline, "no frame came");
            self.wait(deadline);
        }
    }

    /// Waits until frames came, or the deadline.
    fn wait(&mut self, deadline: Instant) {
        let mut burst = Vec::new();
        while self.device.receive(&mut burst, 32).unwrap() == 0 {
            self.device.flush().unwrap();
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            let left = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: i64::from(left.subsec_nanos().max(1_000_000)),
            };
            let fd = self.device.fd().unwrap();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)).unwrap();
        }
        self.waiting.extend(burst);
    }

    pub fn answer_arp(&mut self, frame: &Frame) -> bool {
        let data = frame.data();
        if self.device.caps().medium == Medium::Ip || data[12..14] != [8, 6] {
            return false;
        }
        self.asked.push(<[u8; 4]>::try_from(&data[38..42]).unwrap().into());
        if data[20..22] == [0, 1] && data[38..42] == OURS.octets() {
            let mut reply =
                [&data[6..12], &self.mac(), &data[12..20], &[0, 2], &self.mac()].concat();
            reply.extend(OURS.octets());
            reply.extend(&data[22..32]);
            self.send(Frame::from_heap(0, &reply));
        }
        true
    }
}

/// Makes the kernel send several datagrams of `size` bytes as one frame (`UDP_SEGMENT`); `false`
/// where it cannot.
pub fn segment_datagrams(socket: &UdpSocket, size: libc::c_int) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the option is one int, of which the length is given.
    let result = unsafe {
        let value = std::ptr::from_ref(&size).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, 4)
    };
    result == 0
}

/// Lets the kernel send in one call, segmented: the datagrams come in one frame, or singly if the
/// kernel cut them.
pub fn datagrams_come_together<D: Device>(peer: &mut Peer<D>, socket: &UdpSocket) {
    if !segment_datagrams(socket, 1000) {
        return println!("SKIP: no UDP_SEGMENT");
    }
    let payload = pattern(20 * 1000 + 7);
    socket.send_to(&payload, (OURS, 5000)).unwrap();
    let mut got = Vec::new();
    while got.len() < payload.len() {
        let packet = peer.receive(UDP);
        match packet.frame.meta.gso {
            Gso::None => assert!(packet.payload().len() <= 1000),
            gso => assert_eq!(gso, Gso::Udp { size: 1000 }),
        }
        got.extend_from_slice(packet.payload());
    }
    assert_eq!(got, payload);
}

/// A received packet with its headers found.
pub struct Packet {
    /// As it came.
    pub frame: Frame,
    /// All bytes in one piece.
    pub flat: Frame,
    pub headers: Headers,
}

impl Packet {
    pub fn payload(&self) -> &[u8] {
        &self.flat.data()[self.headers.payload..]
    }

    fn transport(&self) -> &[u8] {
        &self.flat.data()[self.headers.transport..]
    }

    pub fn ports(&self) -> (u16, u16) {
        let t = self.transport();
        (u16::from_be_bytes([t[0], t[1]]), u16::from_be_bytes([t[2], t[3]]))
    }

    pub fn seq(&self) -> u32 {
        u32::from_be_bytes(self.transport()[4..8].try_into().unwrap())
    }

    pub fn acknowledges(&self) -> u32 {
        u32::from_be_bytes(self.transport()[8..12].try_into().unwrap())
    }

    pub fn flags(&self) -> u8 {
        self.transport()[13]
    }

    /// Whether the transport checksum in the packet is right as it stands.
    pub fn checksum_is_complete(&self) -> bool {
        let t = self.transport();
        let ip = &self.flat.data()[self.headers.network..];
        let pseudo = checksum::combine(
            checksum::sum(&ip[12..20]),
            checksum::combine(t.len() as u16, u16::from(self.headers.protocol)),
        );
        checksum::is_valid(checksum::combine(pseudo, checksum::sum(t)))
    }
}

/// The peer's side of one TCP connection: in order, no loss, no timers.
pub struct Tcp {
    kernel_port: u16,
    port: u16,
    pub seq: u32,
    pub ack: u32,
}

pub const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

impl Tcp {
    /// Answers the SYN that a kernel client sends to our `port`.
    pub fn accept<D: Device>(peer: &mut Peer<D>, port: u16) -> Tcp {
        let syn = loop {
            let packet = peer.receive(TCP);
            if packet.flags() & SYN != 0 && packet.ports().1 == port {
                break packet;
            }
        };
        let mut tcp =
            Tcp { kernel_port: syn.ports().0, port, seq: 1000, ack: syn.seq().wrapping_add(1) };
        tcp.send_header(peer, SYN | ACK, &[2, 4, 5, 0xb4, 1, 3, 3, 8], &[], How::default());
        tcp.seq += 1;
        tcp
    }

    fn send_header<D: Device>(
        &self,
        peer: &mut Peer<D>,
        flags: u8,
        options: &[u8],
        payload: &[u8],
        how: How,
    ) {
        let mut header = [self.port.to_be_bytes(), self.kernel_port.to_be_bytes()].concat();
        header.extend(self.seq.to_be_bytes());
        header.extend(self.ack.to_be_bytes());
        header.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        header.extend(options);
        peer.send_ip(TCP, &header, 16, payload, how);
    }

    pub fn send<D: Device>(&mut self, peer: &mut Peer<D>, payload: &[u8], how: How) {
        self.send_header(peer, ACK | 8, &[], payload, how);
        self.seq = self.seq.wrapping_add(payload.len() as u32);
        // The kernel's receive window is not larger than one call.
        while peer.receive(TCP).acknowledges() != self.seq {}
    }

    /// Receives and acknowledges `len` bytes; returns them and the largest frame's metadata.
    pub fn receive<D: Device>(&mut self, peer: &mut Peer<D>, len: usize) -> (Vec<u8>, Packet) {
        let mut stream = Vec::new();
        let mut largest: Option<Packet> = None;
        while stream.len() < len {
            let packet = peer.receive(TCP);
            if packet.seq() != self.ack || packet.payload().is_empty() {
                continue;
            }
            stream.extend(packet.payload());
            self.ack = self.ack.wrapping_add(packet.payload().len() as u32);
            self.send_header(peer, ACK, &[], &[], How { partial: true, ..How::default() });
            if largest.as_ref().is_none_or(|l| l.payload().len() < packet.payload().len()) {
                largest = Some(packet);
            }
        }
        (stream, largest.unwrap())
    }
}

/// Bytes that differ at every offset a cut could confuse.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

/// The kernel's end, where [`Peer::send_udp`] sends to.
pub fn kernel_udp() -> UdpSocket {
    let socket = UdpSocket::bind((KERNEL, 7)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends a datagram to the kernel, which sends it back; returns what came.
pub fn echoed<D: Device>(
    peer: &mut Peer<D>,
    socket: &UdpSocket,
    payload: &[u8],
    how: How,
) -> Packet {
    let mut buffer = [0; 2048];
    peer.send_udp(5000, 7, payload, how);
    let (n, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from.ip()), (payload, IpAddr::V4(OURS)));
    socket.send_to(&buffer[..n], from).unwrap();
    let reply = peer.receive(UDP);
    assert_eq!((reply.payload(), reply.ports()), (payload, (7, 5000)));
    reply
}

/// Sends datagrams of 1000 bytes as one super-segment; they arrive singly.
pub fn one_super_segment_arrives_cut<D: Device>(
    peer: &mut Peer<D>,
    socket: &UdpSocket,
    payload: &[u8],
) {
    let how = How { partial: true, frag: Some(4096), segment: Some(1000) };
    peer.send_udp(5000, 7, payload, how);
    let mut buffer = [0; 2048];
    for datagram in payload.chunks(1000) {
        let n = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], datagram);
    }
}

/// A kernel client that sends a pattern of `len` bytes to port 80 and expects one of
/// [`REPLY_BYTES`].
pub fn kernel_client(len: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect((OURS, 80)).unwrap();
        stream.write_all(&pattern(len)).unwrap();
        let mut got = vec![0; REPLY_BYTES];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, pattern(REPLY_BYTES));
    })
}

/// What [`kernel_client`] expects, in super-segments of 40,000 bytes.
pub fn send_to_kernel_client<D: Device>(peer: &mut Peer<D>, tcp: &mut Tcp) {
    let how = How { partial: true, frag: Some(16_384), segment: Some(1460) };
    for part in pattern(REPLY_BYTES).chunks(40_000) {
        tcp.send(peer, part, how);
    }
}

/// Runs a test where the kernel has its address on `kernel0`, with a device on `weft0`, which is in
/// another namespace.
pub fn with_packet(config: &PacketConfig, test: impl FnOnce(Vec<packet::Packet>) + Send) {
    let (ours, kernels) = match (Netns::new(), Netns::new()) {
        (Ok(ours), Ok(kernels)) => (ours, kernels),
        (Err(e), _) | (_, Err(e)) => return println!("SKIP: {e}"),
    };
    let devices = ours
        .enter(|| {
            let mut netlink = Netlink::open().unwrap();
            let near = VethEnd { name: "weft0", netns: None, mac: None };
            let far = VethEnd { name: "kernel0", netns: Some(kernels.as_fd()), mac: None };
            netlink.add_veth(&near, &far, 1, 1500).unwrap();
            netlink.set_up("weft0", true).unwrap();
            packet::Packet::open(config).unwrap()
        })
        .unwrap();
    kernels
        .enter(move || {
            let mut netlink = Netlink::open().unwrap();
            netlink.set_up("kernel0", true).unwrap();
            netlink.add_address("kernel0", IpAddr::V4(KERNEL), 24).unwrap();
            test(devices);
        })
        .unwrap();
}

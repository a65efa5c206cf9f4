//! A peer that is no stack: its frames are made before anything is measured.

use std::cell::RefCell;
use std::net::Ipv4Addr;

use weft_stack::Stack;
use weft_stack::frame::{Frame, FrameDomain, FramePool};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::seq::SeqNum;
use weft_stack::stack::{Change, Limits, StackConfig, TxBurst};
use weft_stack::time::Instant;
use weft_stack::wire::checksum;
use weft_stack::wire::tcp::{Flags, Header, Options};

/// The only alias of a measured stack.
pub const ALIAS: AliasId = AliasId(0);
/// The measured stack.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Its MAC address.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Its open port.
pub const PORT: u16 = 7;
/// The peer.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Its MAC address.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Payload of a full segment with timestamps at an MTU of 1500.
pub const MSS: usize = 1448;
/// When a measurement begins.
pub const START: Instant = Instant::from_millis(10_000);
/// Bytes of Ethernet and IPv4 headers.
pub const IP_END: usize = 34;

thread_local! {
    /// What a worker's lock guards; here the thread is the worker for good.
    static DOMAIN: RefCell<FrameDomain> = RefCell::new(FrameDomain::new());
}

/// A pool of the calling thread's domain, inside of which it stays.
pub fn pool(slots: usize) -> FramePool {
    let pool = FramePool::heap(slots, 2048);
    DOMAIN.with_borrow_mut(|domain| {
        domain.adopt(&pool);
        std::mem::forget(domain.enter());
    });
    pool
}

/// A stack at [`HOST`] on Ethernet that knows its peer, with super-segments up to `gso_bytes_max`.
///
/// # Panics
/// Never: the configuration is plain.
pub fn host(gso_bytes_max: usize, connections: usize) -> (Stack, FramePool) {
    let limits =
        Limits { tcp_connections: connections + 64, tcp_half_open: 1024, ..Limits::default() };
    let config = StackConfig { limits, seed: [7; 16], ..StackConfig::default() };
    let pool = pool(1024);
    let mut stack = Stack::new(config, pool.clone(), Instant::ZERO);
    let alias = AliasConfig {
        gso_bytes_max,
        tx_checksum: gso_bytes_max > 0,
        ..AliasConfig::up_without_offload(ALIAS, AliasMedium::Ethernet { mac: HOST_MAC })
    };
    let cidr = Cidr { addr: HOST.into(), prefix_len: 8 };
    let pinned = Change::NeighbourAdd { alias: ALIAS, addr: PEER.into(), mac: PEER_MAC };
    let changes = [Change::AliasAdd(alias), Change::AddressAdd { alias: ALIAS, cidr }, pinned];
    for change in changes {
        stack.handle_config(Instant::ZERO, change).expect("a plain configuration");
    }
    // What it announces about itself is over when the measurement begins.
    let mut burst = TxBurst::new(64);
    while let Some(at) = stack.poll_timeout().filter(|at| *at <= START) {
        stack.handle_timeout(at);
        stack.poll_transmit(at, &mut burst);
        burst.frames.clear();
    }
    stack.poll_transmit(START, &mut burst);
    while stack.poll_event().is_some() {}
    (stack, pool)
}

/// Ethernet and IPv4 headers of a packet from `src` to [`HOST`] with `protocol` and `len` bytes
/// behind them; then room for those.
fn packet(src: Ipv4Addr, protocol: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![0; IP_END + len];
    frame[..6].copy_from_slice(&HOST_MAC);
    frame[6..12].copy_from_slice(&PEER_MAC);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[14..IP_END];
    ip[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol]);
    ip[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&src.octets());
    ip[16..20].copy_from_slice(&HOST.octets());
    let sum = checksum::finish(checksum::sum(ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A TCP segment from `src` to [`HOST`], with all checksums.
pub fn segment(src: Ipv4Addr, header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut frame = packet(src, 6, header.len() + payload.len());
    let tcp = &mut frame[IP_END..];
    header.emit(&mut tcp[..header.len()]);
    tcp[header.len()..].copy_from_slice(payload);
    let pseudo = checksum::pseudo(src.into(), HOST.into(), 6, tcp.len());
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(tcp)));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A UDP datagram from [`PEER`] to [`HOST`], port [`PORT`].
pub fn datagram(src_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = packet(PEER, 17, 8 + payload.len());
    let udp = &mut frame[IP_END..];
    udp[..2].copy_from_slice(&src_port.to_be_bytes());
    udp[2..4].copy_from_slice(&PORT.to_be_bytes());
    let len = udp.len();
    udp[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    udp[8..].copy_from_slice(payload);
    let pseudo = checksum::pseudo(PEER.into(), HOST.into(), 17, len);
    let sum = checksum::finish_udp(checksum::combine(pseudo, checksum::sum(udp)));
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// [`PEER`] asks for the MAC address of [`HOST`].
pub fn arp_request() -> Vec<u8> {
    let mut frame = vec![0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&PEER_MAC);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&PEER_MAC);
    frame[28..32].copy_from_slice(&PEER.octets());
    frame[38..42].copy_from_slice(&HOST.octets());
    frame
}

/// The peer's end of one connection to [`PORT`].
#[derive(Clone, Debug)]
pub struct End {
    /// Its address.
    pub addr: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// What it sends next.
    pub seq: SeqNum,
    /// What it acknowledges.
    pub ack: SeqNum,
    /// The host's timestamp that it echoes.
    pub echo: u32,
}

impl End {
    /// An end that has said nothing yet.
    pub fn new(addr: Ipv4Addr, port: u16) -> End {
        End { addr, port, seq: SeqNum(1000), ack: SeqNum(0), echo: 0 }
    }

    /// The SYN; the next segment follows it.
    pub fn syn(&mut self) -> Vec<u8> {
        let options = Options {
            mss: Some(1460),
            window_scale: Some(8),
            sack_permitted: true,
            timestamp: Some((1, 0)),
            ..Options::default()
        };
        let header = Header { flags: Flags::SYN, options, ..self.header(1) };
        self.seq += 1;
        segment(self.addr, &header, &[])
    }

    /// Reads the host's frame: what it has to be answered with.
    ///
    /// # Panics
    /// If it is no TCP segment.
    pub fn hear(&mut self, frame: &[u8]) {
        let header = Header::parse(&frame[IP_END..]).expect("a TCP header").0;
        if header.flags.has(Flags::SYN) {
            self.ack = header.seq + 1;
        }
        if let Some((value, _)) = header.options.timestamp {
            self.echo = value;
        }
    }

    fn header(&self, now_ms: u64) -> Header {
        Header {
            src_port: self.port,
            dst_port: PORT,
            seq: self.seq,
            ack: self.ack,
            flags: Flags::ACK,
            window: 0xffff,
            options: Options { timestamp: Some((now_ms as u32, self.echo)), ..Options::default() },
            ..Header::default()
        }
    }

    /// An acknowledgement of everything up to `ack`.
    pub fn acknowledge(&mut self, now_ms: u64, ack: SeqNum) -> Vec<u8> {
        self.ack = ack;
        segment(self.addr, &self.header(now_ms), &[])
    }

    /// The next data.
    pub fn data(&mut self, now_ms: u64, payload: &[u8]) -> Vec<u8> {
        let frame = segment(self.addr, &self.header(now_ms), payload);
        self.seq += payload.len() as u32;
        frame
    }
}

/// What a driver does with a received frame: into a buffer of the pool.
///
/// # Panics
/// If the pool is too small for the harness.
pub fn received(pool: &FramePool, bytes: &[u8]) -> Frame {
    let mut frame = pool.alloc().expect("a pool as large as a batch");
    frame.append(bytes);
    frame
}

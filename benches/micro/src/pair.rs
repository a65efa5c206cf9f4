//! Two stacks back to back in virtual time: what a segment costs without any device.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use weft_stack::Stack;
use weft_stack::frame::Frame;
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::seq::SeqNum;
use weft_stack::socket::{Event, SocketId, SocketKind};
use weft_stack::stack::{Change, Limits, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::checksum;
use weft_stack::wire::tcp::{Flags, Header, Options};

const ALIAS: AliasId = AliasId(0);
/// Idle connections that a pair takes.
const IDLE_MAX: usize = 1 << 20;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: u16 = 7;
const IDLE_PORT: u16 = 8;
const IDLE_PEERS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);

/// A client and a server stack joined by a wire without delay, frame by frame.
pub struct Pair {
    now: Instant,
    client: Stack,
    server: Stack,
    listener: SocketId,
    burst: TxBurst,
    /// Client and server ends, by position.
    pub connections: Vec<(SocketId, SocketId)>,
}

impl Pair {
    /// Two stacks with `connections` established TCP connections and super-segments of at most
    /// `gso_bytes_max` bytes (0: none).
    ///
    /// # Panics
    /// If a connection cannot be made: the bench would measure nothing.
    pub fn new(connections: usize, gso_bytes_max: usize) -> Pair {
        let now = Instant::from_millis(1);
        let mut pair = Pair {
            now,
            client: stack(1, CLIENT, gso_bytes_max, connections),
            server: stack(2, SERVER, gso_bytes_max, connections),
            listener: SocketId { kind: SocketKind::TcpListener, index: 0, generation: 0 },
            burst: TxBurst::new(64),
            connections: Vec::with_capacity(connections),
        };
        let any = SocketAddr::new(IpAddr::V4(SERVER), PORT);
        let listener = pair.server.tcp_listen(now, any, 64).expect("the port is free");
        for i in 0..connections {
            let port = 1024 + (i % 60_000) as u16;
            let local = SocketAddr::new(IpAddr::V4(CLIENT), port);
            // Sixty thousand connections a server address; more need another port.
            let id = pair.client.tcp_connect(now, Some(local), any).expect("a free four-tuple");
            pair.exchange();
            let accepted = pair.server.tcp_accept(listener).expect("the handshake is done");
            pair.connections.push((id, accepted.id));
        }
        pair.listener = listener;
        pair
    }

    /// Adds `count` established connections to the server that never say anything; their peers are
    /// no stacks, so that what memory grows by is the server's.
    ///
    /// # Panics
    /// If a connection cannot be made.
    pub fn add_idle(&mut self, count: usize) {
        let any = SocketAddr::new(IpAddr::V4(SERVER), IDLE_PORT);
        let listener = self.server.tcp_listen(self.now, any, 64).expect("the port is free");
        for i in 0..count as u32 {
            let peer = Ipv4Addr::from(u32::from(IDLE_PEERS) + i / 16_384);
            let port = 1024 + (i % 16_384) as u16;
            self.idle_sends(peer, port, Flags::SYN, SeqNum(i), SeqNum(0));
            self.server.poll_transmit(self.now, &mut self.burst);
            let (_, frame) = self.burst.frames.pop().expect("a SYN-ACK");
            let answer = Header::parse(&frame.data()[20..]).expect("a TCP header").0;
            self.idle_sends(peer, port, Flags::ACK, SeqNum(i) + 1, answer.seq + 1);
            self.server.tcp_accept(listener).expect("the handshake is done");
        }
        while self.server.poll_event().is_some() {}
    }

    /// A bare segment of an idle peer.
    fn idle_sends(&mut self, peer: Ipv4Addr, port: u16, flags: Flags, seq: SeqNum, ack: SeqNum) {
        let syn = flags.has(Flags::SYN);
        let options = Options {
            mss: syn.then_some(1460),
            window_scale: syn.then_some(7),
            sack_permitted: syn,
            timestamp: Some((1, 0)),
            ..Options::default()
        };
        let header = Header {
            src_port: port,
            dst_port: IDLE_PORT,
            seq,
            ack,
            flags,
            window: 0xffff,
            options,
            ..Header::default()
        };
        let mut packet = vec![0; 20 + header.len()];
        packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6]);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[12..16].copy_from_slice(&peer.octets());
        packet[16..20].copy_from_slice(&SERVER.octets());
        let sum = checksum::finish(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        header.emit(&mut packet[20..]);
        let pseudo = checksum::pseudo(peer.into(), SERVER.into(), 6, packet.len() - 20);
        let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&packet[20..])));
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        let frame = Frame::from_heap(64, &packet);
        self.server.handle_frame(self.now, ALIAS, frame);
    }

    /// Moves frames both ways until neither side has one.
    pub fn exchange(&mut self) {
        loop {
            let there = carry(self.now, &mut self.client, &mut self.server, &mut self.burst);
            let back = carry(self.now, &mut self.server, &mut self.client, &mut self.burst);
            if there + back == 0 {
                break;
            }
        }
        while let Some(Event::Socket { .. }) = self.client.poll_event() {}
        while let Some(Event::Socket { .. }) = self.server.poll_event() {}
    }

    /// One byte there and one back on connection `i`.
    ///
    /// # Panics
    /// If the byte does not arrive.
    pub fn ping_pong(&mut self, i: usize) {
        let (client, server) = self.connections[i];
        let mut byte = [0];
        self.client.tcp_send(self.now, client, &[1]).expect("room for a byte");
        self.exchange();
        assert_eq!(self.server.tcp_recv(self.now, server, &mut byte), Ok(1));
        self.server.tcp_send(self.now, server, &byte).expect("room for a byte");
        self.exchange();
        assert_eq!(self.client.tcp_recv(self.now, client, &mut byte), Ok(1));
        self.advance(Duration::from_micros(10));
    }

    /// `data` from client to server on connection 0, read as it arrives.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn bulk(&mut self, data: &[u8], read: &mut [u8]) {
        let (client, server) = self.connections[0];
        let (mut sent, mut received) = (0, 0);
        while received < data.len() {
            if let Ok(n) = self.client.tcp_send(self.now, client, &data[sent..]) {
                sent += n;
            }
            self.exchange();
            while let Ok(n @ 1..) = self.server.tcp_recv(self.now, server, read) {
                received += n;
            }
            self.advance(Duration::from_micros(50));
        }
    }

    /// One connection, from SYN to both FINs.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn open_and_close(&mut self) {
        let to = SocketAddr::new(IpAddr::V4(SERVER), PORT);
        let id = self.client.tcp_connect(self.now, None, to).expect("a free port");
        self.exchange();
        let accepted = self.server.tcp_accept(self.listener).expect("the handshake is done");
        self.client.tcp_close(self.now, id);
        self.exchange();
        self.server.tcp_close(self.now, accepted.id);
        self.exchange();
        // A minute of TIME-WAIT for less than the ports of a client.
        self.advance(Duration::from_millis(5));
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        for stack in [&mut self.client, &mut self.server] {
            if stack.poll_timeout().is_some_and(|at| at <= self.now) {
                stack.handle_timeout(self.now);
            }
        }
    }
}

fn carry(now: Instant, from: &mut Stack, to: &mut Stack, burst: &mut TxBurst) -> usize {
    let n = from.poll_transmit(now, burst);
    for (alias, frame) in burst.frames.drain(..) {
        to.handle_frame(now, alias, frame);
    }
    n
}

fn stack(seed: u8, addr: Ipv4Addr, gso_bytes_max: usize, connections: usize) -> Stack {
    let limits = Limits {
        tcp_connections: connections.max(64) + IDLE_MAX + 16,
        tcp_half_open: 1024,
        ..Limits::default()
    };
    let config = StackConfig { limits, seed: [seed; 16], ..StackConfig::default() };
    let mut stack = Stack::new(config, crate::peer::pool(4096), Instant::ZERO);
    let alias = AliasConfig {
        gso_bytes_max,
        tx_checksum: gso_bytes_max > 0,
        ..AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip)
    };
    let cidr = Cidr { addr: IpAddr::V4(addr), prefix_len: 8 };
    for change in [Change::AliasAdd(alias), Change::AddressAdd { alias: ALIAS, cidr }] {
        stack.handle_config(Instant::ZERO, change).expect("a plain configuration");
    }
    stack
}

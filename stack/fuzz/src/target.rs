//! A stack with everything open that a frame can reach.

use std::net::SocketAddr;

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::socket::raw::Family;
use weft_stack::socket::tcp::TcpState;
use weft_stack::socket::udp::UdpOption;
use weft_stack::socket::{Event, SocketId, SocketKind};
use weft_stack::stack::{Change, Limits, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};

use crate::build::{self, ACK, OUR_MAC, PEER_MAC, SYN};

const ALIAS: AliasId = AliasId(1);
/// The peer's ports are above; frames from it are aimed.
const FIRST_PORT: u16 = 4000;
/// Slots of the pool; a leak empties it soon.
const SLOTS: usize = 512;

/// See the module documentation.
pub struct Target {
    stack: Stack,
    pool: FramePool,
    now: Instant,
    burst: TxBurst,
    listener: SocketId,
    udp: SocketId,
    accepted: Vec<SocketId>,
    /// The peer's side of the established connection: its port, and what the stack expects next.
    port: u16,
    seq: u32,
    ack: u32,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Default for Target {
    fn default() -> Target {
        Target::new()
    }
}

fn limits() -> Limits {
    Limits {
        neighbours: 32,
        reassemblies: 8,
        reassembly_bytes: 64 << 10,
        tcp_connections: 64,
        tcp_half_open: 16,
        udp_recv_bytes: 16 << 10,
        raw_sockets: 8,
        raw_recv_bytes: 16 << 10,
        groups: 16,
        addresses: 16,
        ..Limits::default()
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Raw sockets of three protocols, and an echo request that waits for its answer.
fn open_raw(stack: &mut Stack, now: Instant) {
    for (family, protocol) in [(Family::V4, 1), (Family::V4, 17), (Family::V6, 58)] {
        stack.raw_open(now, family, protocol).unwrap_or_else(|e| panic!("{e}"));
    }
    let echo = stack.icmp_open(now, Family::V4).unwrap_or_else(|e| panic!("{e}"));
    let _ = stack.icmp_send_echo(now, echo, 1, b"fuzz", Some(addr("10.0.0.2:0")));
}

impl Target {
    /// A stack at 10.0.0.1, fd00::1 and link-local addresses: SLAAC on, a listener on port 80, a
    /// UDP socket on port 7, a group, a connection from 10.0.0.2, another being opened.
    ///
    /// # Panics
    /// If the stack refuses its configuration.
    pub fn new() -> Target {
        let pool = FramePool::heap(SLOTS, 2048);
        let config = StackConfig { limits: limits(), seed: [7; 16], ..StackConfig::default() };
        let mut now = Instant::from_millis(1);
        let mut stack = Stack::new(config, pool.clone(), now);
        let alias = AliasConfig {
            slaac: true,
            ..AliasConfig::up_without_offload(ALIAS, AliasMedium::Ethernet { mac: OUR_MAC })
        };
        let mut change = |c| stack.handle_config(now, c).unwrap_or_else(|e| panic!("{e}"));
        change(Change::AliasAdd(alias));
        for cidr in ["10.0.0.1/24", "fd00::1/64"] {
            let cidr = cidr.parse().unwrap_or_else(|e| panic!("{e}"));
            change(Change::AddressAdd { alias: ALIAS, cidr });
        }
        for _ in 0..30 {
            now += Duration::from_millis(100);
            stack.handle_timeout(now);
        }
        let listener = stack.tcp_listen(now, addr("[::]:80"), 8).unwrap_or_else(|e| panic!("{e}"));
        let udp = stack.udp_bind(now, addr("[::]:7")).unwrap_or_else(|e| panic!("{e}"));
        let group = "239.1.2.3".parse().unwrap_or_else(|e| panic!("{e}"));
        stack.udp_join(now, udp, ALIAS, group).unwrap_or_else(|e| panic!("{e}"));
        stack.udp_set_option(udp, UdpOption::ErrorQueue(true));
        open_raw(&mut stack, now);
        let (burst, accepted) = (TxBurst::new(64), Vec::new());
        let (port, seq, ack) = (FIRST_PORT, 0, 0);
        let mut target =
            Target { stack, pool, now, burst, listener, udp, accepted, port, seq, ack };
        target.frame(&build::arp(&build::arp_message(1, build::PEER_V4, build::OUR_V4)));
        // Its port is ephemeral; the SYN waits for an answer.
        let _ = target.stack.tcp_connect(now, None, addr("10.0.0.2:90"));
        target.connect();
        target
    }

    /// What the stack counted.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The handshake of the peer, from a new port.
    fn connect(&mut self) {
        self.port = if self.port >= 4900 { FIRST_PORT } else { self.port + 1 };
        let isn = 0x1000_0000;
        self.seq = isn;
        self.take(&build::tcp4(self.port, 80, isn, 0, SYN, &[2, 4, 5, 0xb4, 4, 2, 1, 1], &[]));
        self.take(&build::tcp4(self.port, 80, isn + 1, self.ack, ACK, &[], &[]));
    }

    /// Gives a TCP frame from port 4000 the port of the established connection, and counts its
    /// sequence and acknowledgement number from what the connection expects next.
    pub fn aim(&self, frame: &mut [u8]) {
        let tcp4 = frame.len() >= 54 && frame[12..15] == [8, 0, 0x45] && frame[23] == 6;
        if !tcp4 || frame[34..38] != [0x0f, 0xa0, 0, 80] {
            return;
        }
        frame[34..36].copy_from_slice(&self.port.to_be_bytes());
        for (at, base) in [(38, self.seq), (42, self.ack)] {
            let field = &mut frame[at..at + 4];
            let offset = field.iter().fold(0u32, |v, b| v << 8 | u32::from(*b));
            field.copy_from_slice(&base.wrapping_add(offset).to_be_bytes());
        }
        build::repair(frame);
    }

    /// As [`Target::aim`], of a segment of ours that an ICMPv4 message quotes.
    pub fn aim_quote(&self, message: &mut [u8]) {
        let Some(quote) = message.get_mut(8..36).filter(|q| q[0] == 0x45 && q[9] == 6) else {
            return;
        };
        quote[12..16].copy_from_slice(&build::OUR_V4.octets());
        quote[16..20].copy_from_slice(&build::PEER_V4.octets());
        quote[20..22].copy_from_slice(&80u16.to_be_bytes());
        quote[22..24].copy_from_slice(&self.port.to_be_bytes());
        let offset = u32::from(quote[27] & 63);
        quote[24..28].copy_from_slice(&self.ack.wrapping_sub(offset).to_be_bytes());
    }

    /// The application of the oldest accepted connection writes so many bytes, as far as they fit.
    pub fn write(&mut self, len: usize) {
        if let Some(id) = self.accepted.first().copied() {
            let _ = self.stack.tcp_send(self.now, id, &vec![0x77; len]);
            self.settle();
        }
    }

    /// A frame arrives; the applications read; everything is checked.
    pub fn frame(&mut self, frame: &[u8]) {
        self.take(frame);
        self.check();
    }

    /// A burst arrives, whatever its frames are.
    pub fn frames(&mut self, burst: Vec<Frame>) {
        for frame in burst {
            self.stack.handle_frame(self.now, ALIAS, frame);
        }
        self.settle();
        self.check();
    }

    fn take(&mut self, frame: &[u8]) {
        self.now += Duration::from_micros(50);
        let frame = Frame::from_heap(HEADROOM_BYTES, frame);
        self.stack.handle_frame(self.now, ALIAS, frame);
        self.settle();
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            let Some(at) = self.stack.poll_timeout().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.stack.handle_timeout(self.now);
            self.settle();
        }
        panic!("timers do not come to rest");
    }

    /// Reads, accepts and sends until the stack is at rest; notes what the peer learns.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut busy = false;
            while let Some(event) = self.stack.poll_event() {
                busy = true;
                self.event(event);
            }
            let mut burst = std::mem::take(&mut self.burst);
            busy |= self.stack.poll_transmit(self.now, &mut burst) > 0;
            for (_, frame) in burst.frames.drain(..) {
                self.sent(frame.to_heap().data());
            }
            self.burst = burst;
            if !busy {
                return;
            }
        }
        panic!("the stack does not come to rest");
    }

    fn event(&mut self, event: Event) {
        let Event::Socket { id, .. } = event else { return };
        match id.kind {
            SocketKind::TcpListener => {
                while let Some(accepted) = self.stack.tcp_accept(self.listener) {
                    self.accepted.push(accepted.id);
                    if self.accepted.len() > 8 {
                        let oldest = self.accepted.remove(0);
                        self.stack.tcp_close(self.now, oldest);
                    }
                }
            }
            SocketKind::TcpStream => self.echo(id),
            SocketKind::Udp => {
                while self.stack.udp_recv(self.udp).is_ok() {}
                while self.stack.udp_recv_error(self.udp).is_some() {}
            }
            SocketKind::Raw => while self.stack.raw_recv(id).is_ok() {},
            SocketKind::Icmp => while self.stack.icmp_recv(id).is_ok() {},
        }
    }

    /// Sends back what came; closes when the peer does.
    fn echo(&mut self, id: SocketId) {
        for _ in 0..64 {
            match self.stack.tcp_recv_bytes(self.now, id, 4096) {
                Ok(data) if !data.is_empty() => {
                    let _ = self.stack.tcp_send(self.now, id, &data);
                }
                Ok(_) => return self.close(id),
                Err(_) if self.stack.tcp_state(id) == TcpState::Closed => return self.close(id),
                Err(_) => return,
            }
        }
    }

    fn close(&mut self, id: SocketId) {
        self.accepted.retain(|a| *a != id);
        self.stack.tcp_close(self.now, id);
    }

    /// The peer follows the connection by what the stack sends.
    fn sent(&mut self, frame: &[u8]) {
        let tcp4 = frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6;
        if !tcp4 || frame[36..38] != self.port.to_be_bytes() || frame[..6] != PEER_MAC {
            return;
        }
        let word = |at: usize| {
            u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
        };
        let flags = frame[47];
        let header = usize::from(frame[46] >> 4) * 4;
        let len = (frame.len() - 34).saturating_sub(header) as u32;
        let syn_fin = u32::from(flags & SYN != 0) + u32::from(flags & build::FIN != 0);
        self.ack = word(38).wrapping_add(len + syn_fin);
        if flags & ACK != 0 {
            self.seq = word(42);
        }
    }

    /// Opens the connection again if a frame ended it.
    pub fn reconnect(&mut self) {
        self.connect();
        self.check();
    }

    /// What has to hold after every frame.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self) {
        self.stack.check().unwrap_or_else(|e| panic!("{e}"));
        let (held, limits) = (self.stack.memory(), limits());
        assert!(held.neighbours <= limits.neighbours, "{held:?}");
        assert!(held.reassemblies <= limits.reassemblies, "{held:?}");
        assert!(held.reassembly_bytes <= limits.reassembly_bytes, "{held:?}");
        let connections = limits.tcp_connections + limits.tcp_half_open;
        assert!(held.tcp_connections <= connections, "{held:?}");
        assert!(held.udp_bytes <= limits.udp_recv_bytes, "{held:?}");
        assert!(self.stack.addresses(ALIAS).len() <= limits.addresses);
    }

    /// Closes everything, lets all timers run out and checks that nothing is held.
    ///
    /// # Panics
    /// If something is.
    pub fn finish(&mut self) {
        self.pass(Duration::from_secs(1));
        self.stack.tcp_close(self.now, self.listener);
        self.stack.udp_close(self.udp);
        let mut open = Vec::new();
        self.stack.for_each_socket(|s| open.push(s.id));
        for id in open {
            self.stack.raw_close(id);
            self.stack.tcp_abort(self.now, id);
        }
        self.settle();
        // Longer than an orphan's last retransmission.
        self.pass(Duration::from_mins(30));
        self.check();
        let held = self.stack.memory();
        let sockets =
            held.tcp_connections + held.tcp_listeners + held.udp_sockets + held.raw_sockets;
        let waiting = held.reassemblies + held.neighbour_frames + held.out_frames;
        assert_eq!((sockets, waiting), (0, 0), "{held:?}");
        assert_eq!(self.pool.free(), self.pool.slots(), "frames did not come back");
    }
}

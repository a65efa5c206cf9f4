//! Segment-list tests: a connection alone, driven segment by segment in virtual time.
//!
//! Our initial sequence number is 1000, the peer's 5000, so the first bytes are 1001 and 5001.
//! Times are milliseconds since the SYN.

use core::time::Duration;

use crate::frame::Frame;
use crate::ip::address::AliasId;
use crate::seq::SeqNum;
use crate::socket::tcp::TcpState;
use crate::stats::TcpStats;
use crate::time::Instant;
use crate::wire::tcp::{Flags, Header, Options};

use super::flow_table::FlowKey;
use super::input::{Outcome, Reply};
use super::output::PathLimits;
use super::pressure::Budget;
use super::state::{Connection, Cx, Origin, Settings};

mod acking;
mod autotune;
mod close;
mod data;
mod ecn;
mod handshake;
mod limited_transmit;
mod options;
mod pacing;
mod path_moved;
mod pressure;
mod prr;
mod rack;
mod recovery;
mod reset;
mod sending;
mod soft_errors;
mod timing;
mod undo;
mod urgent;
mod walk;
mod window;
mod wrap;

/// A segment as tests write it. What an expectation leaves out is not compared.
#[derive(Clone, Debug, Default)]
struct Seg {
    flags: Flags,
    seq: u32,
    ack: Option<u32>,
    data: Vec<u8>,
    win: Option<u16>,
    urgent: Option<u16>,
    ts: Option<(u32, u32)>,
    sack: Option<Vec<(u32, u32)>>,
    options: Option<Options>,
    /// Codepoint of the packet around it.
    ecn: Option<u8>,
}

impl Seg {
    fn win(mut self, win: u16) -> Seg {
        self.win = Some(win);
        self
    }
    fn ts(mut self, value: u32, echo: u32) -> Seg {
        self.ts = Some((value, echo));
        self
    }
    fn sack(mut self, blocks: &[(u32, u32)]) -> Seg {
        self.sack = Some(blocks.to_vec());
        self
    }
    fn ecn(mut self, codepoint: u8) -> Seg {
        self.ecn = Some(codepoint);
        self
    }
    fn data(mut self, data: &[u8]) -> Seg {
        self.data = data.to_vec();
        self
    }
    fn opt(mut self, options: Options) -> Seg {
        self.options = Some(options);
        self
    }
    fn mss(self, mss: u16) -> Seg {
        let options = self.options.unwrap_or_default();
        self.opt(Options { mss: Some(mss), ..options })
    }
    fn urgent(mut self, pointer: u16) -> Seg {
        self.urgent = Some(pointer);
        self.flag(Flags::URG)
    }
    fn flag(mut self, flags: Flags) -> Seg {
        self.flags = self.flags.with(flags);
        self
    }

    fn header(&self) -> Header {
        let mut options = self.options.unwrap_or_default();
        if self.ts.is_some() {
            options.timestamp = self.ts;
        }
        for (from, to) in self.sack.iter().flatten() {
            options.sack.push((SeqNum(*from), SeqNum(*to)));
        }
        Header {
            src_port: 80,
            dst_port: 40_000,
            seq: SeqNum(self.seq),
            ack: SeqNum(self.ack.unwrap_or(0)),
            flags: self.flags,
            window: self.win.unwrap_or(30_000),
            urgent: self.urgent.unwrap_or(0),
            options,
            ecn: self.ecn.unwrap_or(0),
        }
    }

    fn check(&self, header: &Header, data: &[u8]) {
        let got = format!("{header:?} with {} bytes", data.len());
        assert_eq!(header.flags.without(Flags::PSH), self.flags, "flags of {got}");
        assert_eq!(header.seq.0, self.seq, "seq of {got}");
        if self.flags.has(Flags::ACK) {
            assert_eq!(Some(header.ack.0), self.ack, "ack of {got}");
        }
        assert_eq!(data.len(), self.data.len(), "length of {got}");
        assert!(data == self.data, "payload of {got}");
        if let Some(win) = self.win {
            assert_eq!(header.window, win, "window of {got}");
        }
        if let Some(urgent) = self.urgent {
            assert_eq!(header.urgent, urgent, "urgent pointer of {got}");
        }
        if let Some(ecn) = self.ecn {
            assert_eq!(header.ecn, ecn, "codepoint of {got}");
        }
        if let Some(ts) = self.ts {
            assert_eq!(header.options.timestamp, Some(ts), "timestamp of {got}");
        }
        if let Some(sack) = &self.sack {
            let blocks = header.options.sack;
            let blocks: Vec<_> = blocks.as_slice().iter().map(|(a, b)| (a.0, b.0)).collect();
            assert_eq!(&blocks, sack, "SACK of {got}");
        }
        if let Some(options) = self.options {
            assert_eq!(header.options, options, "options of {got}");
        }
    }
}

fn syn(seq: u32) -> Seg {
    Seg { flags: Flags::SYN, seq, ..Seg::default() }
}
fn syn_ack(seq: u32, ack: u32) -> Seg {
    Seg { flags: Flags::SYN.with(Flags::ACK), seq, ack: Some(ack), ..Seg::default() }
}
fn ack(seq: u32, ack: u32) -> Seg {
    Seg { flags: Flags::ACK, seq, ack: Some(ack), ..Seg::default() }
}
fn fin(seq: u32, ack: u32) -> Seg {
    Seg { flags: Flags::FIN.with(Flags::ACK), seq, ack: Some(ack), ..Seg::default() }
}
fn rst(seq: u32) -> Seg {
    Seg { flags: Flags::RST, seq, ..Seg::default() }
}

/// Bytes `from..from + len` of an endless pattern, named by sequence number.
fn bytes(from: u32, len: u32) -> Vec<u8> {
    (from..from + len).map(|i| (i % 251) as u8).collect()
}

struct Bench {
    c: Connection,
    now: Instant,
    stats: TcpStats,
    limits: PathLimits,
    budget: Budget,
}

const UNLIMITED: Budget = Budget::new(1 << 40);

const START: Instant = Instant::from_millis(100_000);

pub(super) fn settings() -> Settings {
    Settings {
        send_buffer: 100_000,
        recv_buffer: 60_000,
        rto_min: Duration::from_millis(200),
        delayed_ack: Duration::from_millis(40),
        nodelay: false,
        keepalive: None,
        user_timeout: None,
        congestion: crate::socket::tcp::CongestionControl::NewReno,
        // The tests of pacing, of autotuning and of quick ACKs switch them on.
        pacing: false,
        quick_acks: 0,
        send_buffer_max: 0,
        recv_buffer_max: 0,
        ..Settings::new(&crate::stack::TcpConfig::default())
    }
}

fn origin() -> Origin {
    let key = FlowKey::new("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    // The timestamp clock reads 0 at the start.
    let ts_offset = 0u32.wrapping_sub(100_000);
    Origin { key, alias: AliasId(0), iss: SeqNum(1000), ts_offset, mtu: 1500 }
}

impl Bench {
    fn new(make: impl FnOnce(&mut Cx<'_>) -> Connection) -> Bench {
        let mut stats = TcpStats::default();
        let c = make(&mut Cx { now: START, stats: &mut stats, budget: UNLIMITED });
        Bench {
            c,
            now: START,
            stats,
            limits: PathLimits { mtu: 1500, gso_bytes_max: 0 },
            budget: UNLIMITED,
        }
    }

    /// SYN-SENT, the SYN not sent yet.
    fn connecting(settings: Settings) -> Bench {
        Bench::new(|cx| Connection::connect(origin(), settings, cx))
    }

    /// SYN-RECEIVED after a SYN with sequence number 5000.
    fn accepting(options: Options) -> Bench {
        let syn = (SeqNum(5000), 30_000, &options);
        Bench::new(|cx| Connection::accept(origin(), settings(), 0, syn, cx))
    }

    /// ESTABLISHED at time 0 with the peer's options; MSS 1000 unless they say otherwise.
    fn established_with(settings: Settings, options: Options) -> Bench {
        let mut b = Bench::connecting(settings);
        let options = Options { mss: options.mss.or(Some(1000)), ..options };
        b.recv(0, &[syn(1000)]);
        b.send(0, syn_ack(5000, 1001).opt(options));
        b.recv(0, &[ack(1001, 5001)]);
        assert_eq!(b.c.state, TcpState::Established);
        // The handshake above took no time, which no path does.
        let rtt = Duration::from_millis(30);
        b.c.rtt = super::rtt::Rtt::new(b.c.settings.rto_min);
        b.c.rtt.sample(rtt, 1);
        b.c.rtt.observe_min(b.now, rtt);
        b
    }

    /// Without timestamps and SACK.
    fn established() -> Bench {
        Bench::established_with(settings(), Options::default())
    }

    fn established_sack() -> Bench {
        let options = Options { sack_permitted: true, ..Options::default() };
        Bench::established_with(settings(), options)
    }

    fn established_ts() -> Bench {
        let options = Options { timestamp: Some((700, 0)), ..Options::default() };
        Bench::established_with(settings(), options)
    }

    /// Time passes to `ms`; what is due happens, nothing is sent.
    fn at(&mut self, ms: u64) {
        let to = START + Duration::from_millis(ms);
        assert!(to >= self.now, "time goes back");
        while let Some(at) = self.c.next_deadline().filter(|at| *at <= to) {
            self.now = self.now.max(at);
            let mut cx = Cx { now: self.now, stats: &mut self.stats, budget: self.budget };
            self.c.on_timer(&mut cx);
        }
        self.now = to;
    }

    /// The peer sends.
    #[allow(clippy::needless_pass_by_value)]
    fn send(&mut self, ms: u64, seg: Seg) -> Outcome {
        self.at(ms);
        let frame = Frame::from_heap(0, &seg.data);
        let mut cx = Cx { now: self.now, stats: &mut self.stats, budget: self.budget };
        let outcome = self.c.on_segment(&mut cx, &seg.header(), frame);
        if outcome.reply == Reply::Challenge {
            self.c.ack_now = true;
        }
        outcome
    }

    fn poll(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut cx = Cx { now: self.now, stats: &mut self.stats, budget: self.budget };
        let out = self.c.poll_segment(&mut cx, &self.limits)?;
        let payload = self.c.send.slice(out.offset, out.payload_len);
        let data: Vec<u8> = payload.iter().flat_map(|b| b.iter().copied()).collect();
        assert_eq!(data.len(), out.payload_len);
        let options = out.header.options.len();
        assert!(options <= 40, "{options} bytes of options");
        assert!(data.len().min(out.mss) + options + 40 <= self.limits.mtu);
        Some((out.header, data))
    }

    /// We send exactly these.
    fn recv(&mut self, ms: u64, expected: &[Seg]) {
        self.at(ms);
        for (i, seg) in expected.iter().enumerate() {
            let Some((header, data)) = self.poll() else {
                panic!("at {ms} ms segment {i} is missing: {seg:?}");
            };
            seg.check(&header, &data);
        }
        if let Some(more) = self.poll() {
            panic!("at {ms} ms there is more to send: {:?}, {} bytes", more.0, more.1.len());
        }
    }

    fn recv_nothing(&mut self, ms: u64) {
        self.recv(ms, &[]);
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let mut cx = Cx { now: self.now, stats: &mut self.stats, budget: self.budget };
        self.c.write(&mut cx, data).unwrap()
    }

    /// Writes `len` bytes that [`bytes`] names by sequence number.
    fn write_bytes(&mut self, len: u32) {
        let from = self.c.data_end().0;
        assert_eq!(self.write(&bytes(from, len)), len as usize);
    }

    fn read(&mut self) -> Vec<u8> {
        let mut out = vec![0; 100_000];
        let mut cx = Cx { now: self.now, stats: &mut self.stats, budget: self.budget };
        let n = self.c.read(&mut cx, &mut out).unwrap_or(0);
        out.truncate(n);
        out
    }

    fn cx<R>(&mut self, f: impl FnOnce(&mut Connection, &mut Cx<'_>) -> R) -> R {
        let mut cx = Cx { now: self.now, stats: &mut self.stats, budget: self.budget };
        f(&mut self.c, &mut cx)
    }

    fn state(&self) -> TcpState {
        self.c.state
    }
}

/// `count` full segments of 1000 bytes from `seq` on, as we send them.
fn full(seq: u32, count: u32, acked: u32) -> Vec<Seg> {
    (0..count).map(|i| ack(seq + i * 1000, acked).data(&bytes(seq + i * 1000, 1000))).collect()
}

//! Goodput over loss, round trip and congestion control, and how flows share a bottleneck: in
//! virtual time, exact to the byte, kept in `matrix.txt` and `fairness.txt`.
//!
//! `WEFT_BLESS=1 cargo test --profile sim -p weft-sim --test matrix` writes them anew. Without
//! optimisation only the lines that few segments make are compared.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use weft_sim::{ActorId, Discipline, HostId, HostSpec, LinkSpec, Net, Sink, Source, topology};
use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, TcpConfig};
use weft_stack::time::Duration;

use CongestionControl::{Bbr, Cubic, Dctcp, NewReno};

/// Below this a line is compared in builds without optimisation too.
const SLOW_MBIT: f64 = 12.0;

fn host(ecn: EcnMode) -> HostSpec {
    // Nothing but the path and the controller limits.
    let tcp = TcpConfig {
        send_buffer_max: 16 << 20,
        recv_buffer: 4 << 20,
        recv_buffer_max: 16 << 20,
        ecn,
        ..TcpConfig::default()
    };
    HostSpec { tcp, frames: 16_384, ..HostSpec::named("host") }
}

fn ecn_of(cc: CongestionControl) -> EcnMode {
    if cc == Dctcp { EcnMode::Accurate } else { EcnMode::Off }
}

/// A sender to a sink; the sink counts.
fn flow(net: &mut Net, from: HostId, to: HostId, port: u16, cc: CongestionControl) -> ActorId {
    let address = SocketAddr::new(net.address(to, 0, false), port);
    let sink = net.add_actor(to, Sink::new(address));
    net.add_actor(from, Source::new(address, cc));
    sink
}

fn mbit(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / time.as_secs_f64() / 1e6
}

#[derive(Clone, Copy)]
struct Cell {
    cc: CongestionControl,
    mbit: u64,
    loss: f64,
    rtt_ms: u64,
}

impl Cell {
    fn name(&self) -> String {
        let Cell { cc, mbit, loss, rtt_ms } = *self;
        format!("{:<6} {mbit:>5} {:>5.1} {rtt_ms:>7}", cc.name(), loss * 100.0)
    }

    /// Goodput in Mbit/s from the second to the tenth second, and the share of segments sent again.
    fn measure(&self) -> (f64, f64) {
        let rate = self.mbit * 1_000_000;
        let bdp = (rate / 8 * self.rtt_ms / 1000) as usize;
        let marks = if self.cc == Dctcp {
            // RFC 8257 section 4.1: more than a seventh of the product of bandwidth and delay.
            Discipline::Step((bdp / 5).max(30_000))
        } else {
            Discipline::Tail
        };
        let spec = LinkSpec {
            latency: Duration::from_micros(self.rtt_ms * 500),
            rate: Some(rate),
            queue_bytes: bdp.max(128 << 10),
            discipline: marks,
            loss: self.loss,
            ..LinkSpec::default()
        };
        let mut net = Net::new(1);
        net.set_template(host(ecn_of(self.cc)));
        let pair = topology::pair(&mut net, spec);
        // Only data is lost.
        net.set_egress(pair.right, 0, Some(LinkSpec { loss: 0.0, ..spec }));
        let sink = flow(&mut net, pair.left, pair.right, 5001, self.cc);
        net.run_for(Duration::from_secs(2));
        let before = net.progress(sink);
        let time = Duration::from_secs(8);
        net.run_for(time);
        net.check_so_far().unwrap();
        let tcp = &net.stack(pair.left).mib().tcp;
        let again = tcp.retrans_segs as f64 / (tcp.out_segs + tcp.retrans_segs).max(1) as f64;
        (mbit(net.progress(sink) - before, time), again * 100.0)
    }
}

/// Compares lines with a file's, or writes them there. `None` as a value: not measured.
fn compare(file: &str, head: &str, lines: &[(String, Option<String>)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    if std::env::var_os("WEFT_BLESS").is_some() {
        let mut text = format!("{head}\n");
        for (name, value) in lines {
            let value = value.as_ref().expect("bless with optimisation: --profile sim");
            writeln!(text, "{name} {value}").unwrap();
        }
        fs::write(&path, text).unwrap();
        return;
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut wrong = String::new();
    for (name, value) in lines {
        let Some(value) = value else { continue };
        let kept = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
        if kept != Some(value) {
            writeln!(wrong, "  {name} {value}, was {}", kept.unwrap_or("nothing")).unwrap();
        }
    }
    let bless = "if it is better, or as good: WEFT_BLESS=1 cargo test --profile sim -p weft-sim --test matrix";
    assert!(wrong.is_empty(), "{file} differs:\n{wrong}{bless}");
}

/// What a line of the kept file says, for deciding what to measure.
fn kept(file: &str, name: &str) -> Option<f64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")).map(str::to_owned))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn goodput_over_loss_and_round_trip() {
    let mut cells = Vec::new();
    for cc in [NewReno, Cubic, Bbr, Dctcp] {
        for loss in [0.0, 0.001, 0.01, 0.03] {
            for rtt_ms in [1, 20, 100] {
                cells.push(Cell { cc, mbit: 100, loss, rtt_ms });
            }
        }
        cells.push(Cell { cc, mbit: 1000, loss: 0.0, rtt_ms: 20 });
        cells.push(Cell { cc, mbit: 1000, loss: 0.01, rtt_ms: 20 });
    }
    let line = |cell: &Cell| {
        let name = cell.name();
        let slow = kept("matrix.txt", &name).is_some_and(|g| g < SLOW_MBIT);
        let value = (cfg!(optimised) || slow).then(|| {
            let (goodput, again) = cell.measure();
            format!("{goodput:>9.3} {again:>7.3}")
        });
        (name, value)
    };
    // The halves are about as much work.
    let (left, right) = cells.split_at(cells.len() / 2);
    let lines = std::thread::scope(|scope| {
        let right = scope.spawn(|| right.iter().map(line).collect::<Vec<_>>());
        let left: Vec<_> = left.iter().map(line).collect();
        [left, right.join().unwrap()].concat()
    });
    compare("matrix.txt", "cc      Mbit loss%  rtt_ms  goodput resent%", &lines);
}

struct Sharing {
    name: &'static str,
    flows: &'static [(CongestionControl, u64)],
    /// Jain's index must be at least this.
    fair: f64,
}

/// Jain's index of fairness: 1 if all are equal, 1/n if one has everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|s| s * s).sum();
    sum * sum / (shares.len() as f64 * squares)
}

const SHARINGS: &[Sharing] = &[
    Sharing { name: "reno, reno", flows: &[(NewReno, 20), (NewReno, 20)], fair: 0.9 },
    Sharing { name: "cubic, cubic", flows: &[(Cubic, 20), (Cubic, 20)], fair: 0.9 },
    Sharing { name: "reno, cubic", flows: &[(NewReno, 20), (Cubic, 20)], fair: 0.7 },
    Sharing { name: "bbr, cubic", flows: &[(Bbr, 20), (Cubic, 20)], fair: 0.6 },
    Sharing { name: "bbr, bbr", flows: &[(Bbr, 20), (Bbr, 20)], fair: 0.8 },
    Sharing { name: "dctcp, dctcp", flows: &[(Dctcp, 20), (Dctcp, 20)], fair: 0.9 },
    Sharing { name: "cubic 10 ms, cubic 60 ms", flows: &[(Cubic, 10), (Cubic, 60)], fair: 0.55 },
    Sharing {
        name: "four of cubic",
        flows: &[(Cubic, 20), (Cubic, 20), (Cubic, 20), (Cubic, 20)],
        fair: 0.85,
    },
];

/// Shares of a 20 Mbit/s bottleneck in Mbit/s, over the last 20 of 30 seconds; flows start half a
/// second apart.
fn share(s: &Sharing) -> Vec<f64> {
    let marked = s.flows[0].0 == Dctcp;
    let mut net = Net::new(1);
    net.set_template(host(ecn_of(s.flows[0].0)));
    let bottleneck = LinkSpec {
        rate: Some(20_000_000),
        queue_bytes: 100_000,
        discipline: if marked { Discipline::Step(15_000) } else { Discipline::Tail },
        ..LinkSpec::default()
    };
    let count = s.flows.len() as u32;
    let d = topology::dumbbell(&mut net, count, LinkSpec::default(), bottleneck);
    let mut sinks = Vec::new();
    for (i, (cc, rtt_ms)) in s.flows.iter().enumerate() {
        let access = net.segment(d.access[i]);
        let latency = Duration::from_micros(rtt_ms * 500);
        net.set_segment(d.access[i], LinkSpec { latency, ..access });
        sinks.push(flow(&mut net, d.left[i], d.right[i], 5001, *cc));
        net.run_for(Duration::from_millis(500));
    }
    net.run_for(Duration::from_secs(10));
    let before: Vec<_> = sinks.iter().map(|s| net.progress(*s)).collect();
    let time = Duration::from_secs(20);
    net.run_for(time);
    net.check_so_far().unwrap();
    sinks.iter().zip(before).map(|(s, b)| mbit(net.progress(*s) - b, time)).collect()
}

#[cfg(optimised)]
#[test]
fn flows_share_a_bottleneck() {
    let mut lines = Vec::new();
    let mut unfair = String::new();
    for s in SHARINGS {
        let shares = share(s);
        let index = jain(&shares);
        let each: Vec<_> = shares.iter().map(|s| format!("{s:.3}")).collect();
        if index < s.fair || shares.iter().sum::<f64>() < 15.0 {
            writeln!(unfair, "  {}: {index:.3} < {}: {}", s.name, s.fair, each.join(" ")).unwrap();
        }
        lines.push((format!("{:<26}", s.name), Some(format!("{index:.3} {}", each.join(" ")))));
    }
    compare("fairness.txt", "flows at 20 Mbit/s          Jain  Mbit/s each", &lines);
    assert!(unfair.is_empty(), "unfair:\n{unfair}");
}

#[cfg(not(optimised))]
#[test]
fn two_flows_share_a_bottleneck() {
    let s = &SHARINGS[0];
    let shares = share(s);
    assert!(jain(&shares) >= s.fair, "{}: {shares:?}", s.name);
}

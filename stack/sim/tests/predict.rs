//! Header prediction is a matter of speed alone: two runs of one seed, with it and without, are
//! equal frame for frame, counter for counter and field for field of every connection.
//!
//! That this can fail was tried with faults put into `transport/tcp/predict.rs` one at a time, each a
//! line of `predicts` or `take_predicted` left out or changed. Seen: a segment counted twice, a
//! segment behind a hole or with an older timestamp taken as predicted, the timestamp remembered
//! without the question of RFC 7323 section 4.3, a round-trip sample left out, the question for ECN
//! left out (by the paths that mark; no other marks). Not seen, with holes most of the time: the question
//! for out-of-order data left out. It is no fault: both ways take data beside a hole by the same call.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::SocketAddr;

use weft_sim::{
    Discipline, HostSpec, LinkSpec, Net, Sink, Source, UdpEcho, UdpRole, each_seed, scenario,
    topology,
};
use weft_stack::rng::Rng;
use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, Offers, TcpConfig};
use weft_stack::time::Duration;

fn equal(run: impl Fn(bool) -> Result<(u64, u64), String>) -> Result<(), String> {
    let (short, long) = (run(true)?, run(false)?);
    if short == long { Ok(()) } else { Err(format!("{short:?} is not {long:?}")) }
}

#[test]
fn scenarios_do_not_depend_on_prediction() {
    each_seed("scenarios_do_not_depend_on_prediction", 40, |seed| {
        equal(|predict| scenario::run_traced(seed, predict).map(|r| (r.digest, r.steps)))
    });
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize]
}

/// What the path of a bulk transfer does besides.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    /// Loses a little, or nothing.
    Little,
    /// Marks what waits; both ends know what that means.
    Marks,
    /// Loses and reorders, so that there are holes most of the time.
    Holes,
}

/// Bulk one way or both over a path with some trouble.
fn bulk(seed: u64, predict: bool, trouble: Trouble) -> (u64, u64) {
    use CongestionControl::{Bbr, Cubic, Dctcp, NewReno};
    let mut rng = Rng::from_u64(seed ^ 0x6a09_e667);
    let mut net = Net::new(seed);
    let timestamps = rng.below(4) > 0;
    let ecn = match trouble {
        // Accurate ECN counts in flags that are no plain header's: prediction meets classic ECN.
        Trouble::Marks => pick(&mut rng, &[EcnMode::Classic, EcnMode::Classic, EcnMode::Accurate]),
        _ => pick(&mut rng, &[EcnMode::Off, EcnMode::Accept, EcnMode::Accurate]),
    };
    let tcp = TcpConfig {
        ecn,
        offers: Offers { timestamps, ..Offers::default() },
        pacing: rng.below(2) > 0,
        quick_acks: pick(&mut rng, &[0, 16]),
        ..TcpConfig::default()
    };
    net.set_template(HostSpec { tcp, ..HostSpec::named("host") });
    let marks = trouble == Trouble::Marks;
    let holes = trouble == Trouble::Holes;
    let spec = LinkSpec {
        latency: Duration::from_micros(pick(&mut rng, &[50, 1000, 10_000])),
        rate: Some(pick(&mut rng, &[5_000_000, 40_000_000])),
        loss: if holes { 0.03 } else { pick(&mut rng, &[0.0, 0.0, 0.001, 0.02]) },
        reorder: if holes { 0.1 } else { 0.0 },
        duplicate: if holes { 0.02 } else { 0.0 },
        discipline: if marks { Discipline::Step(6_000) } else { Discipline::Tail },
        offload: rng.below(3) == 0,
        ..LinkSpec::default()
    };
    let pair = topology::pair(&mut net, spec);
    net.start_trace(predict);
    for (from, to, port) in [(pair.left, pair.right, 5001), (pair.right, pair.left, 5002)] {
        let address = SocketAddr::new(net.address(to, 0, rng.below(2) > 0), port);
        net.add_actor(to, Sink::new(address));
        if port == 5001 || rng.below(2) > 0 {
            let cc = pick(&mut rng, &[NewReno, Cubic, Bbr, Dctcp]);
            net.add_actor(from, Source::new(address, cc));
        }
    }
    net.run_for(Duration::from_millis(1400));
    net.check_so_far().unwrap();
    assert!(!marks || net.link_stats(pair.segment).marked > 0, "nothing was marked");
    (net.digest(), net.steps())
}

#[test]
fn bulk_transfers_do_not_depend_on_prediction() {
    each_seed("bulk_transfers_do_not_depend_on_prediction", 8, |seed| {
        equal(|predict| Ok(bulk(seed, predict, Trouble::Little)))
    });
}

#[test]
fn marked_transfers_do_not_depend_on_prediction() {
    each_seed("marked_transfers_do_not_depend_on_prediction", 6, |seed| {
        equal(|predict| Ok(bulk(seed, predict, Trouble::Marks)))
    });
}

#[test]
fn transfers_with_holes_do_not_depend_on_prediction() {
    each_seed("transfers_with_holes_do_not_depend_on_prediction", 6, |seed| {
        equal(|predict| Ok(bulk(seed, predict, Trouble::Holes)))
    });
}

/// Datagrams there and back, small ones and such as have to be cut, while the neighbour is learnt,
/// grows old and is asked again.
fn datagrams(seed: u64, predict: bool) -> Result<(u64, u64), String> {
    let mut rng = Rng::from_u64(seed ^ 0x3c6e_f372);
    let mut net = Net::new(seed);
    let spec = LinkSpec {
        loss: pick(&mut rng, &[0.0, 0.02]),
        duplicate: pick(&mut rng, &[0.0, 0.05]),
        offload: rng.below(3) == 0,
        ..LinkSpec::default()
    };
    let lan = net.add_segment(spec);
    let (a, b) = (net.add_host(HostSpec::named("client")), net.add_host(HostSpec::named("server")));
    net.attach(a, lan, &["10.0.0.1/24", "fd00::1/64"]);
    net.attach(b, lan, &["10.0.0.2/24", "fd00::2/64"]);
    net.start_trace(predict);
    net.run_for(Duration::from_secs(2));
    // Bound to one address, or to all.
    let local = pick(&mut rng, &["[::]:7", "0.0.0.0:7", "10.0.0.2:7", "[fd00::2]:7"]);
    let remote = match local {
        "10.0.0.2:7" | "0.0.0.0:7" => "10.0.0.2:7",
        "[fd00::2]:7" => "[fd00::2]:7",
        _ => pick(&mut rng, &["10.0.0.2:7", "[fd00::2]:7"]),
    };
    let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
    let size_max = pick(&mut rng, &[64, 1500, 4000]);
    net.add_actor(b, UdpEcho::new(UdpRole::Server(local, Duration::from_mins(2)), 0));
    net.add_actor(a, UdpEcho::new(UdpRole::Client { remote, count: 4000, size_max }, 1000));
    net.run_for(Duration::from_mins(1));
    net.check_so_far()?;
    let mib = net.stack(b).mib();
    assert!(mib.udp.in_datagrams > 1000, "{} arrived", mib.udp.in_datagrams);
    Ok((net.digest(), net.steps()))
}

#[test]
fn datagrams_do_not_depend_on_prediction() {
    each_seed("datagrams_do_not_depend_on_prediction", 16, |seed| {
        equal(|predict| datagrams(seed, predict))
    });
}

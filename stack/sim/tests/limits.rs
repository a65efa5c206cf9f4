//! What a sender may have in flight and how fast it may send, watched every millisecond.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::SocketAddr;

use weft_sim::{Discipline, HostId, HostSpec, LinkSpec, Net, Sink, Source, topology};
use weft_stack::socket::SocketKind;
use weft_stack::socket::tcp::{CongestionControl, TcpInfo};
use weft_stack::stack::{EcnMode, TcpConfig};
use weft_stack::time::Duration;

const STEP: Duration = Duration::from_millis(1);

fn info(net: &Net, host: HostId) -> Option<TcpInfo> {
    let stack = net.stack(host);
    let mut id = None;
    stack.for_each_socket(|s| {
        if s.id.kind == SocketKind::TcpStream {
            id = Some(s.id);
        }
    });
    stack.tcp_info(net.now(), id?)
}

/// Bytes on the path as the sender sees it.
fn pipe(i: &TcpInfo) -> usize {
    i.in_flight.saturating_sub(i.sacked + i.lost)
}

fn watched(cc: CongestionControl, loss: f64) -> (Net, HostId) {
    let mut net = Net::new(1);
    let tcp = TcpConfig {
        ecn: if cc == CongestionControl::Dctcp { EcnMode::Accurate } else { EcnMode::Off },
        ..TcpConfig::default()
    };
    net.set_template(HostSpec { tcp, ..HostSpec::named("host") });
    let spec = LinkSpec {
        latency: Duration::from_millis(10),
        rate: Some(20_000_000),
        queue_bytes: 60_000,
        discipline: Discipline::Step(30_000),
        loss,
        ..LinkSpec::default()
    };
    let pair = topology::pair(&mut net, spec);
    let remote = SocketAddr::new(net.address(pair.right, 0, false), 80);
    net.add_actor(pair.right, Sink::new(remote));
    net.add_actor(pair.left, Source::new(remote, cc));
    (net, pair.left)
}

fn every_way(mut f: impl FnMut(CongestionControl, f64)) {
    for cc in CongestionControl::ALL {
        for loss in [0.0, 0.01] {
            f(cc, loss);
        }
    }
}

// RFC 5681 3.1
#[test]
fn no_more_is_in_flight_than_the_congestion_window_allows() {
    every_way(|cc, loss| {
        let (mut net, left) = watched(cc, loss);
        let mut before: Option<TcpInfo> = None;
        let mut looked = 0;
        for _ in 0..6_000 {
            net.run_for(STEP);
            let Some(now) = info(&net, left) else { continue };
            if let Some(old) = &before
                && pipe(&now) > pipe(old)
            {
                // Limited transmit sends two segments beyond (RFC 3042), a loss probe one.
                let most = now.cwnd.max(old.cwnd) + 3 * now.mss;
                let name = cc.name();
                assert!(pipe(&now) <= most, "{name}, {loss}: {} > {most}: {now:?}", pipe(&now));
                looked += 1;
            }
            before = Some(now);
        }
        assert!(looked > 100, "{looked}");
    });
}

#[test]
fn no_more_leaves_than_the_pacing_rate_allows() {
    every_way(|cc, loss| {
        let (mut net, left) = watched(cc, loss);
        let mut before: Option<TcpInfo> = None;
        let mut looked = 0;
        for _ in 0..6_000 {
            net.run_for(STEP);
            let Some(now) = info(&net, left) else { continue };
            if let Some(old) = &before
                && let (Some(a), Some(b)) = (old.pacing_rate, now.pacing_rate)
                && old.segments_sent > 20
            {
                let sent = now.bytes_sent - old.bytes_sent;
                // A quantum is a millisecond or two segments, and a timer may have missed one.
                let per_ms = a.max(b) / 1000;
                let most = 3 * per_ms + 5 * now.mss as u64;
                let name = cc.name();
                assert!(
                    sent <= most,
                    "{name}, {loss}: {sent} > {most} at {:?}: {now:?}",
                    net.now()
                );
                looked += 1;
            }
            before = Some(now);
        }
        assert!(looked > 1_000, "{looked}");
    });
}

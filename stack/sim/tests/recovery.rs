//! What loss costs: goodput over paths that lose much, or everything for a while.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{
    ActorId, Blackhole, Fault, HostId, HostSpec, LinkSpec, Medium, Net, SegmentId, Sink, Source,
};
use weft_stack::socket::tcp::CongestionControl;
use weft_stack::time::Duration;

const SERVER: &str = "10.0.0.2:80";

/// An endless transfer over one link.
fn transfer(seed: u64, spec: LinkSpec, cc: CongestionControl) -> (Net, HostId, SegmentId, ActorId) {
    let mut net = Net::new(seed);
    net.unchecked();
    let link = net.add_segment(spec);
    let client = net.add_host(HostSpec::named("client"));
    let server = net.add_host(HostSpec::named("server"));
    net.attach(client, link, &["10.0.0.1/24"]);
    net.attach(server, link, &["10.0.0.2/24"]);
    let sink = net.add_actor(server, Sink::new(SERVER.parse().unwrap()));
    net.add_actor(client, Source::new(SERVER.parse().unwrap(), cc));
    (net, client, link, sink)
}

/// Bytes per second that arrive between `from` and `to`.
fn goodput(net: &mut Net, sink: ActorId, over: Duration) -> u64 {
    let before = net.progress(sink);
    net.run_for(over);
    (net.progress(sink) - before) * 1000 / over.as_millis() as u64
}

// A super-segment that is lost whole is one loss of up to 64 KiB. Each is noticed by what follows it
// or by a probe, not by a timeout.
#[test]
fn the_loss_of_whole_super_segments_does_not_wait_for_timeouts() {
    for seed in 0..2 {
        let spec = LinkSpec {
            latency: Duration::from_micros(250),
            loss: 0.05,
            offload: true,
            medium: Medium::Ip,
            ..LinkSpec::default()
        };
        let (mut net, client, _, sink) = transfer(seed, spec, CongestionControl::Cubic);
        net.run_for(Duration::from_millis(500));
        let rate = goodput(&mut net, sink, Duration::from_secs(5));
        let tcp = net.stack(client).mib().tcp.clone();
        assert!(rate > 1_500_000, "seed {seed}: {rate} bytes per second, {tcp:?}");
        assert!(tcp.timeouts * 10 < tcp.sack_recovery, "seed {seed}: {} timeouts", tcp.timeouts);
    }
}

#[test]
fn after_a_blackhole_the_flow_is_back_within_a_timeout_and_two_round_trips() {
    for cc in CongestionControl::ALL {
        let latency = Duration::from_millis(10);
        let spec = LinkSpec { latency, rate: Some(20_000_000), ..LinkSpec::default() };
        let (mut net, client, link, sink) = transfer(1, spec, cc);
        net.run_for(Duration::from_secs(2));
        let rate = goodput(&mut net, sink, Duration::from_secs(1));
        net.apply(Fault::Segment(link, LinkSpec { blackhole: Blackhole::All, ..spec }));
        net.run_for(Duration::from_secs(3));
        net.apply(Fault::Segment(link, spec));
        let (before, healed) = (net.progress(sink), net.now());
        let rto = timeout_of(&net, client);
        let most = rto + latency * 4;
        // Three segments: the one that the timeout repeats, and two that follow it.
        let back = net.run_until(most, |net| net.progress(sink) >= before + 3 * 1448);
        assert!(back, "{cc:?}: not back {most:?} after {healed:?}");
        net.run_for(Duration::from_secs(5));
        let again = goodput(&mut net, sink, Duration::from_secs(1));
        assert!(again * 10 > rate * 8, "{cc:?}: {again} bytes per second, {rate} before");
    }
}

/// The retransmission timeout of a host's only connection, backed off.
fn timeout_of(net: &Net, host: HostId) -> Duration {
    let mut rto = Duration::ZERO;
    net.stack(host).for_each_socket(|socket| {
        if let Some(info) = net.stack(host).tcp_info(net.now(), socket.id) {
            rto = info.rto;
        }
    });
    assert!(!rto.is_zero(), "a connection");
    rto
}

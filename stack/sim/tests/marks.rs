//! Congestion marks end to end: a queue that marks stays short, and nothing is lost.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{Discipline, HostId, HostSpec, LinkSpec, LinkStats, Net, Sink, Source};
use weft_stack::socket::SocketKind;
use weft_stack::socket::tcp::{CongestionControl, EcnState, TcpInfo};
use weft_stack::stack::{EcnMode, SynCookies, TcpConfig};
use weft_stack::time::Duration;

const RATE: u64 = 20_000_000;
const RTT: Duration = Duration::from_millis(10);
const FAMILIES: [[&str; 3]; 2] =
    [["10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:80"], ["fd00::1/64", "fd00::2/64", "[fd00::2]:80"]];

struct Flow {
    /// Of the link's rate, payload only.
    share: f64,
    link: LinkStats,
    info: TcpInfo,
    timeouts: u64,
    /// Packets with each codepoint that the receiver saw: none, ECT(1), ECT(0), CE.
    codepoints: [u64; 4],
}

fn info(net: &mut Net, host: HostId) -> TcpInfo {
    net.with_stack(host, |stack, now| {
        let mut found = None;
        stack.for_each_socket(|s| {
            if s.id.kind == SocketKind::TcpStream {
                found = Some(s.id);
            }
        });
        stack.tcp_info(now, found.unwrap()).unwrap()
    })
}

/// One flow for some seconds over a link whose queue marks from `mark` waiting bytes on.
fn flow(family: [&str; 3], cc: CongestionControl, ecn: [EcnMode; 2], mark: usize) -> Flow {
    let mut net = Net::new(7);
    let link = net.add_segment(LinkSpec {
        latency: RTT / 2,
        rate: Some(RATE),
        queue_bytes: 400_000,
        discipline: Discipline::Step(mark),
        ..LinkSpec::default()
    });
    let buffers = 1 << 20;
    let host = |name, ecn| HostSpec {
        tcp: TcpConfig {
            ecn,
            congestion: cc,
            send_buffer: buffers,
            recv_buffer: buffers,
            ..TcpConfig::default()
        },
        ..HostSpec::named(name)
    };
    let (client, server) =
        (net.add_host(host("client", ecn[0])), net.add_host(host("server", ecn[1])));
    net.attach(client, link, &[family[0]]);
    net.attach(server, link, &[family[1]]);
    let remote = family[2].parse().unwrap();
    let sink = net.add_actor(server, Sink::new(remote));
    net.add_actor(client, Source::new(remote, cc));
    net.run_for(Duration::from_secs(1));
    let before = net.progress(sink);
    net.run_for(Duration::from_secs(2));
    let share = (net.progress(sink) - before) as f64 * 8.0 / 2.0 / RATE as f64;
    net.check().unwrap();
    let info = info(&mut net, client);
    let v4 = remote.is_ipv4();
    let mib = net.stack(server).mib();
    let ip = if v4 { &mib.ip4 } else { &mib.ip6 };
    let codepoints = [ip.in_no_ect_pkts, ip.in_ect1_pkts, ip.in_ect0_pkts, ip.in_ce_pkts];
    let timeouts = net.stack(client).mib().tcp.timeouts;
    Flow { share, link: net.link_stats(link), info, timeouts, codepoints }
}

fn check(flow: &Flow, state: EcnState, rtt_most: Duration, share_least: f64) {
    assert_eq!(flow.info.ecn, state);
    assert!(flow.link.marked > 0 && flow.link.queue_full == 0, "{:?}", flow.link);
    assert_eq!((flow.info.retransmits.total(), flow.timeouts), (0, 0));
    assert!(flow.info.bytes_ce > 0);
    // The last ones are still under way.
    let [none, ect1, ect0, ce] = flow.codepoints;
    assert!(ect0 > 0 && ect1 == 0 && none < 10, "{:?}", flow.codepoints);
    assert!(ce <= flow.link.marked && ce + 20 >= flow.link.marked);
    assert!(flow.info.rtt < rtt_most, "{:?}", flow.info.rtt);
    assert!(flow.share > share_least, "{}", flow.share);
}

// RFC 3168 6.1.2
#[test]
fn a_classic_flow_keeps_the_queue_short_without_loss() {
    for family in FAMILIES {
        for cc in [CongestionControl::NewReno, CongestionControl::Cubic] {
            let flow = flow(family, cc, [EcnMode::Classic, EcnMode::Accept], 25_000);
            check(&flow, EcnState::Classic, RTT + Duration::from_millis(13), 0.8);
        }
    }
}

// RFC 9768 3.2
#[test]
fn an_accecn_flow_keeps_the_queue_short_and_counts_every_marked_byte() {
    for family in FAMILIES {
        for cc in [CongestionControl::NewReno, CongestionControl::Cubic] {
            let flow = flow(family, cc, [EcnMode::Accurate, EcnMode::Accept], 25_000);
            check(&flow, EcnState::Accurate, RTT + Duration::from_millis(13), 0.8);
            // Marks under way are not reported yet; every segment is full.
            let marked = flow.link.marked * flow.info.mss as u64;
            assert!(flow.info.bytes_ce <= marked && flow.info.bytes_ce * 10 >= marked * 9);
        }
    }
}

// RFC 8257 3.3
#[test]
fn dctcp_fills_the_link_with_a_queue_of_a_few_segments() {
    for (asked, state) in
        [(EcnMode::Accept, EcnState::Accurate), (EcnMode::Classic, EcnState::Classic)]
    {
        for family in FAMILIES {
            let flow = flow(family, CongestionControl::Dctcp, [asked, EcnMode::Accept], 6_000);
            check(&flow, state, RTT + Duration::from_millis(4), 0.85);
        }
    }
}

// RFC 9768 5.1
#[test]
fn a_syn_cookie_keeps_ecn() {
    for (asked, state) in
        [(EcnMode::Accurate, EcnState::Accurate), (EcnMode::Classic, EcnState::Classic)]
    {
        let mut net = Net::new(3);
        let link = net.add_segment(LinkSpec { rate: Some(RATE), ..LinkSpec::default() });
        let tcp = TcpConfig { ecn: asked, syn_cookies: SynCookies::Always, ..TcpConfig::default() };
        let host = |name| HostSpec { tcp: tcp.clone(), ..HostSpec::named(name) };
        let (client, server) = (net.add_host(host("client")), net.add_host(host("server")));
        net.attach(client, link, &["10.0.0.1/24"]);
        net.attach(server, link, &["10.0.0.2/24"]);
        let remote = "10.0.0.2:80".parse().unwrap();
        net.add_actor(server, Sink::new(remote));
        net.add_actor(client, Source::new(remote, CongestionControl::Cubic));
        net.run_for(Duration::from_millis(50));
        assert_eq!(net.stack(server).mib().tcp.syncookies_recv, 1);
        assert_eq!((info(&mut net, client).ecn, info(&mut net, server).ecn), (state, state));
        net.check().unwrap();
    }
}

// RFC 9768 3.1.2
#[test]
fn a_peer_without_ecn_gets_no_capable_packets() {
    for asked in [EcnMode::Classic, EcnMode::Accurate] {
        let flow = flow(FAMILIES[0], CongestionControl::Cubic, [asked, EcnMode::Off], 25_000);
        assert_eq!(flow.info.ecn, EcnState::Off);
        assert_eq!((flow.link.marked, flow.codepoints[2]), (0, 0));
        assert!(flow.share > 0.85);
    }
}

//! Path MTU discovery end to end, where no router says anything: the link swallows what is too long.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{ActorId, HostId, HostSpec, LinkSpec, Net, SegmentId, Sink, Source};
use weft_stack::socket::SocketKind;
use weft_stack::socket::tcp::{CongestionControl, TcpInfo};
use weft_stack::stack::{MtuProbing, TcpConfig};
use weft_stack::time::Duration;

const FAMILIES: [[&str; 3]; 2] =
    [["10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:80"], ["fd00::1/64", "fd00::2/64", "[fd00::2]:80"]];

struct Path {
    net: Net,
    link: SegmentId,
    client: HostId,
    server: HostId,
    sink: ActorId,
}

/// A flow over a link on which the hosts believe in `host_mtu`.
fn path(family: [&str; 3], mtu: usize, host_mtu: usize, probing: MtuProbing) -> Path {
    let mut net = Net::new(11);
    let link = net.add_segment(LinkSpec {
        latency: Duration::from_millis(5),
        rate: Some(10_000_000),
        queue_bytes: 40_000,
        mtu,
        host_mtu: Some(host_mtu),
        ..LinkSpec::default()
    });
    let tcp = TcpConfig { mtu_probing: probing, ..TcpConfig::default() };
    let host = |name| HostSpec { tcp: tcp.clone(), ..HostSpec::named(name) };
    let (client, server) = (net.add_host(host("client")), net.add_host(host("server")));
    net.attach(client, link, &[family[0]]);
    net.attach(server, link, &[family[1]]);
    let remote = family[2].parse().unwrap();
    let sink = net.add_actor(server, Sink::new(remote));
    net.add_actor(client, Source::new(remote, CongestionControl::Cubic));
    Path { net, link, client, server, sink }
}

impl Path {
    fn infos(&mut self) -> Vec<TcpInfo> {
        self.net.with_stack(self.client, |stack, now| {
            let mut ids = Vec::new();
            stack.for_each_socket(|s| {
                if s.id.kind == SocketKind::TcpStream {
                    ids.push(s.id);
                }
            });
            ids.iter().filter_map(|id| stack.tcp_info(now, *id)).collect()
        })
    }

    fn pmtu(&mut self) -> usize {
        self.infos()[0].pmtu
    }

    fn timeouts(&self) -> u64 {
        self.net.stack(self.client).mib().tcp.timeouts
    }
}

// RFC 4821 7.7
// RFC 8899 4.3
#[test]
fn a_black_hole_in_the_middle_of_a_transfer_heals_after_two_timeouts() {
    for family in FAMILIES {
        for mtu in [1300, 1400, 1492] {
            let mut p = path(family, 1500, 1500, MtuProbing::BlackHole);
            p.net.run_for(Duration::from_secs(2));
            assert_eq!((p.timeouts(), p.pmtu()), (0, 1500));
            let narrow = LinkSpec { mtu, ..p.net.segment(p.link) };
            p.net.set_segment(p.link, narrow);
            // What was under way arrives.
            p.net.run_for(Duration::from_millis(100));
            let before = p.net.progress(p.sink);
            p.net.run_for(Duration::from_millis(150));
            assert_eq!(p.net.progress(p.sink), before, "nothing passes");
            // Two timeouts of 200 ms and more, the second twice as long.
            p.net.run_for(Duration::from_millis(700));
            assert!(p.net.progress(p.sink) > before, "{mtu}: it goes on");
            assert_eq!(p.timeouts(), 2);
            p.net.run_for(Duration::from_secs(5));
            let found = p.pmtu();
            assert!((mtu - 8..=mtu).contains(&found), "{found} of {mtu}");
            assert_eq!(p.timeouts(), 2, "probes that are lost cost no timeout");
            p.net.check().unwrap();
            let tcp = &p.net.stack(p.client).mib().tcp;
            assert!(tcp.mtu_probes_failed > 0 && tcp.mtu_black_holes == 1);
        }
    }
}

// RFC 8899 5.1.2
#[test]
fn a_path_below_the_base_is_an_error_that_heals_as_well() {
    let mut p = path(FAMILIES[0], 1500, 1500, MtuProbing::BlackHole);
    p.net.run_for(Duration::from_secs(1));
    p.net.set_segment(p.link, LinkSpec { mtu: 800, ..p.net.segment(p.link) });
    p.net.run_for(Duration::from_secs(15));
    assert_eq!(p.timeouts(), 4);
    let found = p.pmtu();
    assert!((792..=800).contains(&found), "{found}");
}

// RFC 8899 5.3
// RFC 4821 7.2
#[test]
fn probing_upwards_finds_what_the_path_takes() {
    for family in FAMILIES {
        for (mtu, host_mtu) in [(9000, 9000), (1500, 9000), (4000, 9000), (1500, 1500)] {
            let mut p = path(family, mtu, host_mtu, MtuProbing::Always);
            p.net.run_for(Duration::from_secs(5));
            let found = p.pmtu();
            assert!((mtu - 8..=mtu).contains(&found), "{found} of {mtu}");
            let tcp = &p.net.stack(p.client).mib().tcp;
            assert_eq!((tcp.timeouts, tcp.mtu_black_holes), (0, 0), "{mtu} {host_mtu} {family:?}");
            assert_eq!(tcp.mtu_probes_failed == 0, mtu == host_mtu);
            assert!(tcp.mtu_probes_passed > 0);
            p.net.check().unwrap();
        }
    }
}

// RFC 4821 7.5
#[test]
fn a_lost_probe_is_no_sign_of_congestion() {
    let mut p = path(FAMILIES[0], 1500, 9000, MtuProbing::Always);
    p.net.set_segment(p.link, LinkSpec { queue_bytes: 10 << 20, ..p.net.segment(p.link) });
    p.net.run_for(Duration::from_millis(400));
    assert!(p.net.stack(p.client).mib().tcp.mtu_probes_failed > 0);
    let tcp = p.net.stack(p.client).mib().tcp.clone();
    assert_eq!((tcp.sack_recovery, tcp.timeouts), (0, 0));
    let info = p.infos()[0];
    assert_eq!((info.retransmits.fast, info.retransmits.timeout), (0, 0));
    assert!(info.retransmits.path_mtu > 0);
}

// RFC 4821 5.2
#[test]
fn other_connections_to_the_host_start_from_what_one_found() {
    let mut p = path(FAMILIES[0], 1400, 1500, MtuProbing::BlackHole);
    p.net.run_for(Duration::from_secs(10));
    assert_eq!(p.timeouts(), 2);
    let remote = "10.0.0.2:81".parse().unwrap();
    let sink = p.net.add_actor(p.server, Sink::new(remote));
    p.net.add_actor(p.client, Source::new(remote, CongestionControl::Cubic));
    p.net.run_for(Duration::from_secs(2));
    assert!(p.net.progress(sink) > 500_000);
    assert_eq!(p.timeouts(), 2);
    // RFC 8201 section 4: after ten minutes it is tried again, here in vain.
    let found: Vec<_> = p.infos().iter().map(|i| i.pmtu).collect();
    assert_eq!(found[0], found[1]);
}

// RFC 8899 5.1.1
// RFC 8201 4
#[test]
fn a_path_that_widens_is_found_when_the_timer_says_so() {
    let mut p = path(FAMILIES[1], 1400, 1500, MtuProbing::BlackHole);
    p.net.run_for(Duration::from_secs(10));
    assert!(p.pmtu() <= 1400);
    p.net.set_segment(p.link, LinkSpec { mtu: 1500, rate: Some(300_000), ..p.net.segment(p.link) });
    p.net.run_for(Duration::from_mins(9));
    assert!(p.pmtu() <= 1400, "not before ten minutes");
    p.net.run_for(Duration::from_mins(2));
    assert_eq!(p.pmtu(), 1500);
}

// RFC 4821 7.7
#[test]
fn a_path_that_is_gone_for_a_while_is_no_black_hole_for_long() {
    let mut p = path(FAMILIES[0], 1500, 1500, MtuProbing::BlackHole);
    p.net.run_for(Duration::from_secs(1));
    let good = p.net.segment(p.link);
    p.net.set_segment(p.link, LinkSpec { loss: 1.0, ..good });
    p.net.run_for(Duration::from_secs(3));
    p.net.set_segment(p.link, good);
    p.net.run_for(Duration::from_secs(6));
    assert_eq!(p.pmtu(), 1500);
}

// RFC 4821 7.7
#[test]
fn a_black_hole_is_found_although_the_first_lost_segment_was_small() {
    let mut net = Net::new(3);
    let spec = LinkSpec { mtu: 1400, host_mtu: Some(1500), ..LinkSpec::default() };
    let link = net.add_segment(spec);
    let (a, b) = (net.add_host(HostSpec::named("a")), net.add_host(HostSpec::named("b")));
    net.attach(a, link, &["10.0.0.1/24"]);
    net.attach(b, link, &["10.0.0.2/24"]);
    let remote = "10.0.0.2:80".parse().unwrap();
    let sink = net.add_actor(b, Sink::new(remote));
    let id = net.with_stack(a, |s, now| s.tcp_connect(now, None, remote).unwrap());
    net.run_for(Duration::from_millis(50));
    // A small segment is lost by chance, the rest is too long; repeated, both are one segment.
    net.set_segment(link, LinkSpec { loss: 1.0, ..spec });
    net.with_stack(a, |s, now| s.tcp_send(now, id, &[7; 800]).unwrap());
    net.run_for(Duration::from_millis(5));
    net.set_segment(link, spec);
    net.with_stack(a, |s, now| s.tcp_send(now, id, &[7; 8_000]).unwrap());
    net.run_for(Duration::from_secs(10));
    assert_eq!(net.progress(sink), 8_800);
    assert_eq!(net.stack(a).mib().tcp.mtu_black_holes, 1);
}

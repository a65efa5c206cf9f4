//! Links and hosts at their worst: every byte once and in order all the same, or a clean end.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{
    Burst, Discipline, Fault, HostId, HostSpec, LinkSpec, Manner, Medium, Net, Peer, Role,
    SegmentId, each_seed,
};
use weft_stack::stack::{Change, TcpConfig};
use weft_stack::time::Duration;

const V4: [&str; 3] = ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:80"];
const V6: [&str; 3] = ["fd00::1/64", "fd00::2/64", "[fd00::2]:80"];

struct Pair {
    net: Net,
    lan: SegmentId,
    client: HostId,
    server: HostId,
}

/// Two hosts on one segment; odd seeds use IPv6.
fn pair(seed: u64, spec: LinkSpec, tcp: &TcpConfig) -> Pair {
    let mut net = Net::new(seed);
    let lan = net.add_segment(spec);
    let host = |name: &str| HostSpec { tcp: tcp.clone(), ..HostSpec::named(name) };
    let (client, server) = (net.add_host(host("client")), net.add_host(host("server")));
    let [a, b, _] = if seed.is_multiple_of(2) { V4 } else { V6 };
    net.attach(client, lan, &[a]);
    net.attach(server, lan, &[b]);
    Pair { net, lan, client, server }
}

impl Pair {
    fn transfer(&mut self, seed: u64, max: u64, shape: impl Fn(Peer) -> Peer) {
        let remote = (if seed.is_multiple_of(2) { V4 } else { V6 })[2].parse().unwrap();
        let (up, down) = (self.net.rng().below(max), self.net.rng().below(max));
        let server = Peer::new(Role::Server(remote), 1, 2).sending(down).expecting(up);
        let client = Peer::new(Role::Client(remote), 2, 1).sending(up).expecting(down);
        self.net.add_actor(self.server, shape(server));
        self.net.add_actor(self.client, shape(client));
    }

    fn finish(&mut self) -> Result<(), String> {
        self.net.run_until(Duration::from_mins(20), Net::all_done);
        self.net.check_at_rest()
    }
}

fn simple(seed: u64, spec: LinkSpec, max: u64) -> Result<(), String> {
    let mut pair = pair(seed, spec, &TcpConfig::default());
    pair.transfer(seed, max, |p| p);
    pair.finish()
}

#[test]
fn bursts_and_flipped_bits() {
    let spec = LinkSpec {
        latency: Duration::from_millis(5),
        burst: Some(Burst { enter: 0.01, lasts: Duration::from_millis(300), loss: 0.8 }),
        corrupt: 0.03,
        duplicate: 0.01,
        ..LinkSpec::default()
    };
    each_seed("bursts_and_flipped_bits", 60, |seed| simple(seed, spec, 100_000));
}

#[test]
fn a_narrow_queue_with_marks() {
    let spec = LinkSpec {
        latency: Duration::from_millis(10),
        rate: Some(10_000_000),
        queue_bytes: 20_000,
        discipline: Discipline::Step(8_000),
        ..LinkSpec::default()
    };
    each_seed("a_narrow_queue_with_marks", 30, |seed| simple(seed, spec, 300_000));
}

#[test]
fn super_segments_pass_whole() {
    for medium in [Medium::Ethernet, Medium::Ip] {
        let spec =
            LinkSpec { offload: true, loss: 0.02, reorder: 0.02, medium, ..LinkSpec::default() };
        each_seed("super_segments_pass_whole", 30, |seed| simple(seed, spec, 500_000));
    }
}

#[test]
fn slow_readers_close_the_window() {
    let tcp = TcpConfig { send_buffer: 8_000, recv_buffer: 6_000, ..TcpConfig::default() };
    let spec = LinkSpec { loss: 0.05, reorder: 0.05, ..LinkSpec::default() };
    each_seed("slow_readers_close_the_window", 60, |seed| {
        let mut pair = pair(seed, spec, &tcp);
        pair.transfer(seed, 40_000, |p| p.reading_slowly(Duration::from_millis(300)));
        pair.finish()
    });
}

#[test]
fn a_link_that_flaps() {
    each_seed("a_link_that_flaps", 40, |seed| {
        let spec = LinkSpec { rate: Some(2_000_000), ..LinkSpec::default() };
        let mut pair = pair(seed, spec, &TcpConfig::default());
        pair.transfer(seed, 200_000, |p| p);
        let alias = weft_stack::ip::address::AliasId(0);
        for _ in 0..4 {
            pair.net.run_for(Duration::from_millis(150));
            let host = if pair.net.rng().below(2) == 0 { pair.client } else { pair.server };
            pair.net.change(host, Change::AliasLink { alias, up: false, mtu: 1500 });
            pair.net.run_for(Duration::from_millis(400));
            pair.net.change(host, Change::AliasLink { alias, up: true, mtu: 1500 });
        }
        pair.finish()
    });
}

/// Client, router, server; the second link is narrower than the first.
fn through_a_router(seed: u64, far: LinkSpec) -> Result<(), String> {
    let mut net = Net::new(seed);
    let near = net.add_segment(LinkSpec { loss: 0.01, ..LinkSpec::default() });
    let far = net.add_segment(far);
    let client = net.add_host(HostSpec::named("client"));
    let router = net.add_host(HostSpec { forwarding: true, ..HostSpec::named("router") });
    let server = net.add_host(HostSpec::named("server"));
    let a = net.attach(client, near, &["10.0.1.1/24", "fd00:1::1/64"]);
    net.attach(router, near, &["10.0.1.254/24", "fd00:1::254/64"]);
    net.attach(router, far, &["10.0.2.254/24", "fd00:2::254/64"]);
    let b = net.attach(server, far, &["10.0.2.1/24", "fd00:2::1/64"]);
    for (host, alias, net4, net6) in
        [(client, a, "10.0.1.254", "fd00:1::254"), (server, b, "10.0.2.254", "fd00:2::254")]
    {
        net.route(host, alias, "0.0.0.0/0", net4);
        net.route(host, alias, "::/0", net6);
    }
    let remote = if seed.is_multiple_of(2) { "10.0.2.1:80" } else { "[fd00:2::1]:80" };
    let remote = remote.parse().unwrap();
    let (up, down) = (net.rng().below(200_000), net.rng().below(200_000));
    net.add_actor(server, Peer::new(Role::Server(remote), 1, 2).sending(down).expecting(up));
    net.add_actor(client, Peer::new(Role::Client(remote), 2, 1).sending(up).expecting(down));
    net.run_until(Duration::from_mins(20), Net::all_done);
    net.check_at_rest()?;
    let forwarded = net.stack(router).mib().frames.forwarded;
    if forwarded == 0 { Err("nothing was forwarded".into()) } else { Ok(()) }
}

#[test]
fn a_narrower_link_is_found_out() {
    let far = LinkSpec { mtu: 1300, loss: 0.01, ..LinkSpec::default() };
    each_seed("a_narrower_link_is_found_out", 30, |seed| through_a_router(seed, far));
}

#[test]
fn many_clients_of_one_server() {
    each_seed("many_clients_of_one_server", 5, |seed| {
        let mut net = Net::new(seed);
        let spec = LinkSpec { loss: 0.02, reorder: 0.02, duplicate: 0.01, ..LinkSpec::default() };
        let lan = net.add_segment(spec);
        let server = net.add_host(HostSpec::named("server"));
        net.attach(server, lan, &["10.0.0.1/24", "fd00::1/64"]);
        for i in 0..20u64 {
            let client = net.add_host(HostSpec::named(&format!("client{i}")));
            let (v4, v6) = (format!("10.0.0.{}/24", i + 10), format!("fd00::{}/64", i + 10));
            net.attach(client, lan, &[&v4, &v6]);
            for j in 0..3 {
                let port = 1000 + i * 10 + j;
                let v6 = (i + j).is_multiple_of(2);
                let remote =
                    if v6 { format!("[fd00::1]:{port}") } else { format!("10.0.0.1:{port}") };
                let remote = remote.parse().unwrap();
                let (up, down) = (net.rng().below(20_000), net.rng().below(20_000));
                let (s, c) = (port * 2, port * 2 + 1);
                let peer = Peer::new(Role::Server(remote), s, c).sending(down).expecting(up);
                net.add_actor(server, peer);
                let peer = Peer::new(Role::Client(remote), c, s).sending(up).expecting(down);
                net.add_actor(client, peer);
            }
        }
        net.run_until(Duration::from_mins(20), Net::all_done);
        net.check_at_rest()
    });
}

#[test]
fn a_cut_cable_ends_connections_and_leaves_nothing() {
    each_seed("a_cut_cable_ends_connections_and_leaves_nothing", 20, |seed| {
        let spec = LinkSpec { rate: Some(1_000_000), ..LinkSpec::default() };
        let mut pair = pair(seed, spec, &TcpConfig::default());
        pair.transfer(seed, 900_000, |p| p);
        let after = pair.net.rng().below(1_500);
        pair.net.run_for(Duration::from_millis(after));
        let cut = LinkSpec { loss: 1.0, ..spec };
        let lan = pair.lan;
        pair.net.set_segment(lan, cut);
        // Data in flight times out; a side that only listens for more is closed by its owner.
        pair.net.run_until(Duration::from_hours(1), Net::all_done);
        pair.net.close_all();
        pair.net.check_memory()
    });
}

// RFC 9293 3.8.3 SHLD-11
#[test]
fn an_orphan_waits_for_a_reader_that_pauses_however_short_its_timeouts_are() {
    let tcp = TcpConfig { rto_ms_min: 10, recv_buffer: 8_000, ..TcpConfig::default() };
    let tcp = TcpConfig { recv_buffer_max: 8_000, ..tcp };
    let mut p = pair(0, LinkSpec::default(), &tcp);
    let remote = V4[2].parse().unwrap();
    let pause = Some((10_000, Duration::from_mins(1)));
    let manner = Manner { read_stall: pause, ..Manner::default() };
    let server = Peer::new(Role::Server(remote), 1, 2).expecting(40_000);
    p.net.add_actor(p.server, server.behaving(manner));
    // It has nothing to wait for: its handle is closed while data waits in its buffer.
    p.net.add_actor(p.client, Peer::new(Role::Client(remote), 2, 1).sending(40_000));
    p.finish().unwrap();
}

#[test]
fn a_syn_ack_that_finds_no_frame_is_sent_later_and_counted_once() {
    let mut p = pair(0, LinkSpec::default(), &TcpConfig::default());
    p.net.run_for(Duration::from_millis(10));
    p.transfer(0, 5_000, |peer| peer);
    // Neighbours are known by now, the next handshake finds an empty pool.
    p.finish().unwrap();
    let listener = p.net.with_stack(p.server, |s, now| {
        s.tcp_listen(now, "10.0.0.2:81".parse().unwrap(), 4).unwrap()
    });
    p.net.apply(Fault::SeizeFrames(p.server, 1 << 20));
    p.net.at(Duration::from_secs(5), Fault::ReleaseFrames(p.server));
    let sent = p.net.stack(p.server).mib().tcp.out_segs;
    let id = p.net.with_stack(p.client, |s, now| {
        s.tcp_connect(now, None, "10.0.0.2:81".parse().unwrap()).unwrap()
    });
    p.net.run_for(Duration::from_secs(4));
    assert_eq!(p.net.stack(p.server).mib().tcp.out_segs, sent, "nothing has left");
    p.net.run_for(Duration::from_secs(30));
    assert!(p.net.with_stack(p.server, |s, _| s.tcp_accept(listener)).is_some());
    p.net.with_stack(p.client, |s, now| s.tcp_abort(now, id));
    p.net.close_all();
    p.net.check_memory().unwrap();
}

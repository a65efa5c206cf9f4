//! Captures on demand: what a vserver sends and receives, above and below its shim.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use common::{
    PATIENCE, addr, config, connect, echo, echo_server, nic, pair, pattern, start, start_on, until,
    vs, write_key,
};
use weft_stack::wire::checksum;
use weft_vserver::capture::{
    CaptureBatch, CaptureEnd, CaptureError, CaptureWish, CapturedPacket, Captures, Hold, Layers,
    SNAPLEN_MAX,
};
use weft_vserver::control::{Answer, Command, Connection, Gate, Socket};
use weft_vserver::net::UdpSocket;
use weft_vserver::{Host, ShimWish};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn captures(host: &Arc<Host>) -> (Arc<Captures>, Receiver<CaptureEnd>) {
    let (tell, told) = channel();
    let ended = move |end: &CaptureEnd| tell.send(end.clone()).unwrap_or_default();
    (Captures::new(Arc::clone(host), ended), told)
}

fn of(vserver: &str, filter: &str, layers: Layers) -> CaptureWish {
    CaptureWish {
        vserver: vserver.into(),
        filter: filter.into(),
        layers,
        snaplen: SNAPLEN_MAX,
        count: None,
    }
}

/// Everything to the end of a capture that is stopped now.
fn all(captures: &Captures, (number, _hold): (u64, Hold)) -> CaptureBatch {
    let mut all = CaptureBatch::default();
    loop {
        let batch = captures.next(number, true).unwrap();
        all.packets.extend(batch.packets);
        (all.captured, all.lost) = (batch.captured, batch.lost);
        if batch.ended.is_some() {
            assert_eq!(all.packets.len() as u64, all.captured);
            return all;
        }
    }
}

fn begin(captures: &Arc<Captures>, wish: &CaptureWish) -> (u64, Hold) {
    let (begun, hold) = captures.start(wish).unwrap();
    (begun.capture, hold)
}

/// A packet taken apart: addresses, protocol behind extension headers, and what it is of.
#[derive(Debug)]
struct Seen {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    body: Vec<u8>,
}

/// `None`: no IP.
fn seen(packet: &CapturedPacket) -> Option<Seen> {
    let mut data = packet.bytes().unwrap();
    assert_eq!(data.len(), packet.len);
    if packet.ethernet {
        let ethertype = u16::from_be_bytes([data[12], data[13]]);
        data.drain(..14);
        if !matches!(ethertype, 0x800 | 0x86dd) {
            return None;
        }
    }
    if data[0] >> 4 == 4 {
        assert!(checksum::is_valid(checksum::sum(&data[..20])), "{data:?}");
        let word = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
        let (src, dst) = (IpAddr::V4(word(12).into()), IpAddr::V4(word(16).into()));
        let (protocol, len) = (data[9], usize::from(u16::from_be_bytes([data[2], data[3]])));
        return Some(Seen { src, dst, protocol, body: data[20..len].to_vec() });
    }
    let octets = |at: usize| <[u8; 16]>::try_from(&data[at..at + 16]).unwrap();
    let (src, dst) = (IpAddr::from(octets(8)), IpAddr::from(octets(24)));
    let (protocol, len) = (data[6], usize::from(u16::from_be_bytes([data[4], data[5]])));
    Some(Seen { src, dst, protocol, body: data[40..40 + len].to_vec() })
}

fn sum_is_right(p: &Seen) -> bool {
    let pseudo = checksum::pseudo(p.src, p.dst, p.protocol, p.body.len());
    checksum::is_valid(checksum::combine(pseudo, checksum::sum(&p.body)))
}

/// Two networks, the second of IPv6 too or of IPv4, where shim packets go in UDP.
fn shimmed(n: u8, key: &Path, second: &str) -> String {
    let name = if n == 1 { "web" } else { "c" };
    let nics = [0, 1].map(|i| nic(&format!("eth{i}"), 16 * n + i)).concat();
    format!(
        "{nics}[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth1\"\n[vserver.{name}]\n\
         addresses = [\"data0 2001:db8:a::{n}/64\", \"data1 {second}\"]\n\
         [vserver.{name}.shim]\nset_up = \"immediate\"\nreap = \"rfc\"\nudp_port = 4140\n\
         keys = [\"2001:db8::/32 {}\"]\n",
        key.display()
    )
}

/// Two hosts whose connections can go by a second network.
fn two(second: [&str; 2]) -> (Host, Arc<Host>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let (server, peers) = start(&shimmed(1, &key, second[0]));
    let client = Arc::new(start_on(&shimmed(2, &key, second[1]), peers));
    let locator = |text: &str| ip(text.split('/').next().unwrap());
    until("addresses", || {
        let has = |host: &Host, name: &str, n: u8, second: &str| {
            let own = vs(host, name).addresses();
            own.contains(&ip(&format!("2001:db8:a::{n}"))) && own.contains(&locator(second))
        };
        has(&server, "web", 1, second[0]) && has(&client, "c", 2, second[1])
    });
    (server, client, directory)
}

const SERVER: &str = "2001:db8:a::1";
const CLIENT: &str = "2001:db8:a::2";

/// Moves the context to the second network, each way by itself; `by` sends something.
fn switch(server: &Host, client: &Host, [remote, local]: [&str; 2], mut by: impl FnMut()) {
    let ends = [(client, "c", SERVER, (local, remote)), (server, "web", CLIENT, (remote, local))];
    for (host, vserver, peer, (here, there)) in ends {
        let pair = (ip(here), ip(there));
        let switch = Some(pair);
        let wish = ShimWish { vserver: vserver.into(), peer: ip(peer), local: None, switch };
        let contexts = || host.shims(Some(vserver)).unwrap().contexts;
        until("a context", || contexts().iter().any(|c| c.state == "established"));
        until("the other pair", || {
            host.shim_wish(&wish).unwrap();
            by();
            contexts().iter().any(|c| (c.locator, c.peer_locator) == pair)
        });
    }
}

/// What was rewritten has its packet above, with the same bytes and a right checksum.
fn faces_match(batch: &CaptureBatch, locators: [&str; 2], in_udp: bool) {
    let (above, below): (Vec<_>, Vec<_>) = batch.packets.iter().partition(|p| p.above);
    let above: Vec<_> = above.into_iter().map(|p| (p.out, seen(p).unwrap())).collect();
    let ulids = [ip(SERVER), ip(CLIENT)];
    for (_, packet) in above.iter().filter(|(_, p)| p.protocol == 6) {
        assert!(ulids.contains(&packet.src) && ulids.contains(&packet.dst), "{packet:?}");
        assert!(sum_is_right(packet), "{packet:?}");
    }
    let mut ways = [0, 0];
    for packet in below {
        let Some(Seen { src, dst, protocol, body }) = seen(packet) else { continue };
        let header = if in_udp { 8 } else { 0 };
        let is_shim = protocol == if in_udp { 17 } else { 140 };
        // A payload header of TCP.
        if !is_shim || body.get(header + 2).is_none_or(|b| b & 0x80 == 0) || body[header] != 6 {
            continue;
        }
        let locators = locators.map(ip);
        assert!(locators.contains(&src) && locators.contains(&dst), "{src} {dst}");
        let inner = &body[header + 8..];
        let twin = above.iter().find(|(out, p)| *out == packet.out && p.body == inner);
        let (_, twin) = twin.expect("the same packet above");
        assert_eq!(twin.src == ip(CLIENT), packet.out, "each way has its addresses");
        ways[usize::from(packet.out)] += 1;
    }
    assert!(ways[0] > 0 && ways[1] > 0, "{ways:?} rewritten packets");
}

#[test]
fn a_rewritten_flow_shows_ulids_above_and_locators_below() {
    let locators = ["2001:db8:b::1", "2001:db8:b::2"];
    let (server, client, _directory) = two(["2001:db8:b::1/64", "2001:db8:b::2/64"]);
    let _listening = echo_server(&vs(&server, "web"), addr(&format!("[{SERVER}]:7")));
    let stream = connect(&vs(&client, "c"), addr(&format!("[{SERVER}]:7")));
    echo(&stream, &pattern(10_000));
    let (captures, ended) = captures(&client);
    let both = begin(&captures, &of("c", "", Layers::Both));
    let filtered =
        begin(&captures, &of("c", &format!("host {} and port 7", locators[0]), Layers::Both));
    switch(&server, &client, locators, || echo(&stream, &pattern(200_000)));
    echo(&stream, &pattern(10_000));
    let batch = all(&captures, both);
    assert_eq!(batch.lost, 0);
    faces_match(&batch, locators, false);
    // The filter names locators below, and above nobody has them.
    let batch = all(&captures, filtered);
    assert!(batch.captured > 0 && batch.packets.iter().all(|p| !p.above));
    for packet in batch.packets.iter().filter_map(seen) {
        assert!(packet.protocol == 140 && packet.body[0] == 6, "{packet:?}");
    }
    assert_eq!((ended.try_iter().count(), captures.vserver_of(1)), (2, None));

    // And ULIDs above.
    let above = begin(&captures, &of("C", "host 2001:db8:a::1 and proto tcp", Layers::Both));
    echo(&stream, &pattern(10_000));
    let batch = all(&captures, above);
    assert!(batch.captured > 0 && batch.packets.iter().all(|p| p.above));
    // Of the shim's protocol there is nothing above; a short packet still has its length.
    let wish = CaptureWish { snaplen: 60, ..of("c", "shim", Layers::Both) };
    let shim = begin(&captures, &wish);
    echo(&stream, &pattern(10_000));
    let batch = all(&captures, shim);
    assert!(batch.packets.iter().all(|p| !p.above && p.bytes().unwrap().len() <= 60));
    assert!(batch.packets.iter().any(|p| p.len > 1000), "lengths are true");
}

#[test]
fn packets_of_the_shim_in_udp_show_what_they_carry() {
    let (server, client, _directory) = two(["10.0.0.1/24", "10.0.0.2/24"]);
    let _listening = echo_server(&vs(&server, "web"), addr(&format!("[{SERVER}]:7")));
    let stream = connect(&vs(&client, "c"), addr(&format!("[{SERVER}]:7")));
    echo(&stream, &pattern(10_000));
    let (captures, _ended) = captures(&client);
    let both = begin(&captures, &of("c", "", Layers::Both));
    let locators = ["10.0.0.1", "10.0.0.2"];
    switch(&server, &client, locators, || echo(&stream, &pattern(100_000)));
    echo(&stream, &pattern(10_000));
    faces_match(&all(&captures, both), locators, true);
}

#[test]
fn pieces_of_a_rewritten_packet_are_fragments_between_ulids() {
    let (server, client, _directory) = two(["2001:db8:b::1/64", "2001:db8:b::2/64"]);
    let there = UdpSocket::bind(&vs(&server, "web"), addr(&format!("[{SERVER}]:9"))).unwrap();
    there.set_read_timeout(Some(PATIENCE)).unwrap();
    let here = UdpSocket::bind(&vs(&client, "c"), addr(&format!("[{CLIENT}]:9"))).unwrap();
    let sent = pattern(3_000);
    let mut got = vec![0; 4_000];
    let mut transfer = || {
        here.send_to(&sent, addr(&format!("[{SERVER}]:9"))).unwrap();
        let (n, _) = there.recv_from(&mut got).unwrap();
        assert!(got[..n] == sent);
    };
    transfer();
    switch(&server, &client, ["2001:db8:b::1", "2001:db8:b::2"], &mut transfer);
    let (captures, _ended) = captures(&client);
    let wish = of("c", &format!("net {CLIENT}/64 and udp"), Layers::Above);
    let above = begin(&captures, &wish);
    transfer();
    let mut whole = vec![0; sent.len() + 8];
    let batch = all(&captures, above);
    assert!(batch.captured >= 3, "{}", batch.captured);
    for packet in batch.packets.iter().filter_map(seen) {
        assert_eq!((packet.src, packet.dst, packet.protocol), (ip(CLIENT), ip(SERVER), 44));
        let at = usize::from(u16::from_be_bytes([packet.body[2], packet.body[3]]) & 0xfff8);
        let piece = &packet.body[8..];
        whole[at..at + piece.len()].copy_from_slice(piece);
    }
    assert!(whole[8..] == sent);
}

#[test]
fn frames_between_vservers_of_one_host_are_seen_by_both() {
    let text = format!(
        "{}[alias.data0]\nover = \"eth0\"\n[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n\
         [vserver.b]\naddresses = [\"data0 10.0.0.2/24\"]\n",
        nic("eth0", 1)
    );
    let (host, _peers) = start(&text);
    let host = Arc::new(host);
    let (captures, _ended) = captures(&host);
    let begun = ["a", "b"].map(|v| begin(&captures, &of(v, "udp and port 9", Layers::Both)));
    let there = UdpSocket::bind(&vs(&host, "b"), addr("10.0.0.2:9")).unwrap();
    there.set_read_timeout(Some(PATIENCE)).unwrap();
    let here = UdpSocket::bind(&vs(&host, "a"), addr("10.0.0.1:0")).unwrap();
    here.send_to(b"hello", addr("10.0.0.2:9")).unwrap();
    there.recv_from(&mut [0; 9]).unwrap();
    for (out, begun) in [true, false].into_iter().zip(begun) {
        let batch = all(&captures, begun);
        assert_eq!(batch.captured, 2, "once above and once below");
        for packet in &batch.packets {
            assert_eq!((packet.out, packet.ethernet), (out, !packet.above));
            let packet = seen(packet).unwrap();
            assert!(packet.body.ends_with(b"hello") && sum_is_right(&packet));
        }
    }
}

#[test]
fn a_full_queue_loses_packets_and_says_so_while_traffic_goes_on() {
    let (server, client) = pair();
    let client = Arc::new(client);
    let _listening = echo_server(&vs(&server, "web"), addr("10.0.0.1:7"));
    let (captures, ended) = captures(&client);
    let begun = begin(&captures, &of("c", "", Layers::Both));
    let stream = connect(&vs(&client, "c"), addr("10.0.0.1:7"));
    // More than waits at most, of either kind, and nobody takes it.
    echo(&stream, &pattern(40 << 20));
    let batch = all(&captures, begun);
    assert!(batch.lost > 0 && batch.captured > 0, "{} {}", batch.captured, batch.lost);
    let bytes: usize = batch.packets.iter().map(|p| p.len).sum();
    assert!(bytes <= 16 << 20, "{bytes} bytes waited");
    let end = ended.try_recv().unwrap();
    assert_eq!((end.captured, end.lost), (batch.captured, batch.lost));
    echo(&stream, &pattern(1_000));
}

#[test]
fn merged_and_super_segments_have_right_lengths_and_checksums() {
    let (server, client) = pair();
    let client = Arc::new(client);
    until("addresses", || {
        [vs(&server, "web"), vs(&client, "c")].iter().all(|v| v.addresses().len() >= 3)
    });
    for to in ["10.0.0.1:7", "[fd00::1]:7"] {
        let _listening = echo_server(&vs(&server, "web"), addr(to));
        let stream = connect(&vs(&client, "c"), addr(to));
        let (captures, _ended) = captures(&client);
        let begun = begin(&captures, &of("c", "tcp", Layers::Both));
        echo(&stream, &pattern(2 << 20));
        let batch = all(&captures, begun);
        let mut longest = 0;
        for packet in batch.packets.iter().filter_map(seen) {
            assert!(sum_is_right(&packet), "{} bytes", packet.body.len());
            longest = longest.max(packet.body.len());
        }
        assert!(longest > 1_500, "{longest} bytes: none was whole");
    }
}

#[test]
fn captures_are_bounded_and_refused_with_reason() {
    let one = |n| format!("[vserver.v{n}]\naddresses = [\"data0 10.0.0.{n}/24\"]\n");
    let vservers = [1, 2, 3, 4, 5].map(one).concat();
    let (host, _peers) =
        start(&format!("{}[alias.data0]\nover = \"eth0\"\n{vservers}", nic("eth0", 1)));
    let host = Arc::new(host);
    let (captures, _ended) = captures(&host);
    let start =
        |v: &str, filter: &str| captures.start(&of(v, filter, Layers::Both)).map(|(_, h)| h);
    assert_eq!(start("x", "").unwrap_err(), CaptureError::NoSuchVserver("x".into()));
    let bad = start("v1", "host").unwrap_err().to_string();
    assert_eq!(bad, "filter: 'host' needs an address behind it");
    let mut held: Vec<_> = ["v1", "v1"].iter().map(|v| start(v, "").unwrap()).collect();
    assert_eq!(start("v1", "").unwrap_err(), CaptureError::BusyVserver("v1".into()));
    held.extend(["v2", "v2", "v3", "v3", "v4", "v4"].iter().map(|v| start(v, "").unwrap()));
    assert_eq!(start("v5", "").unwrap_err(), CaptureError::Busy);
    held.pop();
    start("v5", "").unwrap();
}

#[test]
fn a_capture_ends_with_its_count() {
    let (server, client) = pair();
    let client = Arc::new(client);
    let _listening = echo_server(&vs(&server, "web"), addr("10.0.0.1:7"));
    let (captures, ended) = captures(&client);
    let wish = CaptureWish { count: Some(3), ..of("c", "tcp", Layers::Above) };
    let (number, _hold) = begin(&captures, &wish);
    echo(&connect(&vs(&client, "c"), addr("10.0.0.1:7")), &pattern(50_000));
    let batch = captures.next(number, false).unwrap();
    assert_eq!((batch.packets.len(), batch.captured, batch.lost), (3, 3, 0));
    assert!(batch.ended.is_some());
    assert_eq!(captures.next(number, false), Err(CaptureError::Over));
    assert_eq!(ended.try_recv().unwrap().captured, 3);
}

#[test]
fn a_capture_ends_when_its_client_goes() {
    let (host, _peers) = start(&format!(
        "{}[alias.data0]\nover = \"eth0\"\n[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n",
        nic("eth0", 1)
    ));
    let host = Arc::new(host);
    let (captures, ended) = captures(&host);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weft.sock");
    let gate = Arc::new(Gate::new(&config("")).unwrap());
    let of_server = Arc::clone(&captures);
    let answer = move |command: &Command, caller: &weft_vserver::control::Caller| match command {
        Command::CaptureStart(wish) => match of_server.start(wish) {
            Ok((begun, hold)) => {
                caller.keep(hold);
                Answer::Capturing(begun)
            }
            Err(e) => e.into(),
        },
        _ => CaptureError::Over.into(),
    };
    let _server = Socket::bind(&path).unwrap().serve(gate, answer).unwrap();
    let mut client = Connection::open(&path).unwrap();
    let begun = client.ask(Command::CaptureStart(of("a", "", Layers::Both))).unwrap();
    let Answer::Capturing(begun) = begun else { panic!("{begun:?}") };
    assert_eq!(captures.vserver_of(begun.capture).as_deref(), Some("a"));
    drop(client);
    let end = ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!((end.capture, &*end.why), (begun.capture, "the client went away"));
    assert_eq!(captures.vserver_of(begun.capture), None);
}

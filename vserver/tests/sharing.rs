//! Many vservers on one NIC.
#![allow(missing_docs)]

mod common;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    PATIENCE, addr, config, connect, echo, echo_server, nic, pattern, start, start_on, until, vs,
};
use mio::{Interest, Token};
use weft_drivers::device::{AnyDevice, Device};
use weft_drivers::fault::{Fault, FaultConfig};
use weft_stack::frame::Frame;
use weft_vserver::net::{Poller, TcpListener, UdpSocket};
use weft_vserver::{Devices, Host, HostError};

fn client_on(peers: Vec<AnyDevice>) -> Host {
    let text = nic("eth0", 2)
        + "[alias.data0]\nover = \"eth0\"\n[vserver.c]\naddresses = [\"data0 10.0.0.100/16\"]\n";
    start_on(&text, peers)
}

#[test]
fn three_vservers_on_one_nic() {
    let mut text = nic("eth0", 1) + "[alias.data0]\nover = \"eth0\"\n";
    for n in 1..=3 {
        let _ = write!(text, "[vserver.v{n}]\naddresses = [\"data0 10.0.0.{n}/16\"]\n");
    }
    let (server, peers) = start(&text);
    let client = client_on(peers);
    let c = vs(&client, "c");
    for n in 1..=3 {
        let at = SocketAddr::new(Ipv4Addr::new(10, 0, 0, n).into(), 7);
        let thread = echo_server(&vs(&server, &format!("v{n}")), at);
        echo(&connect(&c, at), &pattern(100_000 * usize::from(n)));
        drop(thread);
    }
    // From one vserver to another, over the NIC they share and not over its wire.
    let wire_before = server.snapshot().nics[0].counters["DeviceOutBytes"];
    echo(&connect(&vs(&server, "v1"), addr("10.0.0.2:7")), &pattern(500_000));
    let wire_after = server.snapshot().nics[0].counters["DeviceOutBytes"];
    assert!(wire_after - wire_before < 100_000, "{wire_before} {wire_after}");

    let s = server.snapshot();
    let octets = |v: usize| s.vservers[v].counters["TcpInOctets"];
    assert_eq!([octets(1), octets(2)], [200_000 + 500_000, 300_000], "bytes by vserver");
    assert_eq!(octets(0), 100_000 + 500_000);
    assert_eq!(s.vservers[0].tcp_listeners, 1);
    for v in &s.vservers {
        let sum = v.counters["FrameInDelivered"] + v.counters["FrameInConsumed"];
        assert_eq!(
            v.rx_frames,
            sum + v.counters["FrameInForwarded"] + v.counters["FrameInDropped"]
        );
    }
    assert_eq!(s.schema_version, 1);
    let json = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<weft_vserver::stats::HostSnapshot>(&json).unwrap(), s);
    // Connections may still be ending between one look and the other.
    until("as many sockets as are counted", || {
        let v = &server.snapshot().vservers[0];
        server.sockets("v1").unwrap().len() == v.tcp_listeners + v.tcp_connections
    });
    assert!(server.sockets("nobody").is_none());
}

#[test]
fn the_same_address_on_two_aliases_does_not_mix() {
    let mut text = nic("eth0", 1) + &nic("eth1", 3);
    text += "[alias.data0]\nover = \"eth0\"\n[alias.san0]\nover = \"eth1\"\n";
    text += "[vserver.a]\naddresses = [\"data0 10.0.0.1/16\"]\n";
    text += "[vserver.b]\naddresses = [\"san0 10.0.0.1/16\"]\n";
    let (server, mut peers) = start(&text);
    let right = client_on(vec![peers.remove(1)]);
    let left = client_on(peers);
    for (name, answer) in [("a", b"I am a"), ("b", b"I am b")] {
        let socket = UdpSocket::bind(&vs(&server, name), addr("10.0.0.1:53")).unwrap();
        std::thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 9]) {
                let _ = socket.send_to(answer, from);
            }
        });
    }
    for (client, answer) in [(&left, b"I am a"), (&right, b"I am b"), (&left, b"I am a")] {
        let socket = UdpSocket::bind(&vs(client, "c"), addr("0.0.0.0:0")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"who?", addr("10.0.0.1:53")).unwrap();
        let mut buf = [0; 9];
        let (n, _) = socket.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..n], answer);
    }
}

#[test]
fn frames_for_nobody_are_counted() {
    let text = nic("eth0", 1)
        + "[alias.data0]\nover = \"eth0\"\n[vserver.v]\naddresses = [\"data0 10.0.0.1/16\"]\n";
    let (server, mut peers) = start(&text);
    let peer = &mut peers[0];
    let mut burst = VecDeque::new();
    let mut unicast = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45];
    unicast.resize(34, 0);
    unicast[30..34].copy_from_slice(&[10, 0, 7, 7]);
    let mut group = unicast.clone();
    group[..6].copy_from_slice(&[1, 0, 0x5e, 1, 1, 1]);
    group[30..34].copy_from_slice(&[239, 1, 1, 1]);
    let mut other = unicast.clone();
    other[5] = 77;
    for frame in [&unicast, &group, &group, &other, &vec![0; 9]] {
        burst.push_back(Frame::from_heap(0, frame));
    }
    while !burst.is_empty() {
        peer.transmit(&mut burst).unwrap();
        peer.flush().unwrap();
    }
    until("count of five drops", || server.snapshot().drops.values().sum::<u64>() == 5);
    let drops = server.snapshot().drops;
    assert_eq!(drops["DemuxNoVserver"], 1);
    assert_eq!(drops["DemuxMulticastUnwanted"], 2);
    assert_eq!(drops["NotForThisHost"], 1);
    assert_eq!(drops["EthernetTruncated"], 1);
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    let base = nic("eth0", 1) + "[alias.data0]\nover = \"eth0\"\n";
    let text = base.clone() + "[vserver.v]\naddresses = [\"data0 10.0.0.1/16\"]\n";
    let fail = |c| Host::start(c).unwrap_err();
    let mut c = config(&text);
    c.workers.count = 65;
    assert!(fail(c).to_string().starts_with("workers: count is 65"));
    let mut c = config(&text);
    c.vservers[0].addresses[0].0 = 5;
    assert!(matches!(fail(c), HostError::Config { .. }));
    let mut c = config(&text);
    c.vservers.push(c.vservers[0].clone());
    assert!(fail(c).to_string().contains("is there twice"));
    let mut c = config(&text);
    c.vservers.push(c.vservers[0].clone());
    c.vservers[1].name = "w".into();
    assert!(fail(c).to_string().starts_with("vserver w: address 10.0.0.1 is on data0"));
    let mut c = config(&text);
    c.vservers[0].addresses.push((0, "224.0.0.1/32".parse().unwrap()));
    assert!(matches!(fail(c), HostError::Change { .. }));
    let mut c = config(&text);
    c.nics[0].driver = weft_vserver::config::Driver::Tun;
    c.nics[0].device = "a-name-longer-than-any-interface-has".into();
    let e = fail(c);
    assert!(e.to_string().starts_with("nic eth0: "), "{e}");
    let devices = Devices::from([("eth7".into(), Vec::new())]);
    let e = Host::start_with_devices(config(&text), devices).unwrap_err();
    assert!(e.to_string().starts_with("device eth7"));
}

const MANY: u16 = 1000;

fn many_config() -> String {
    let mut text = String::from("[workers]\nframes = 16384\nframe_bytes = 2048\n")
        + &nic("eth0", 1)
        + "[alias.data0]\nover = \"eth0\"\n";
    for n in 0..MANY {
        let [hi, lo] = (256 + n).to_be_bytes();
        let _ = write!(text, "[vserver.v{n}]\naddresses = [\"data0 10.0.{hi}.{lo}/16\"]\n");
    }
    text
}

fn many_addr(n: u16) -> IpAddr {
    let [hi, lo] = (256 + n).to_be_bytes();
    Ipv4Addr::new(10, 0, hi, lo).into()
}

/// Each of a thousand vservers echoes, served by one thread and one poller.
#[test]
fn a_thousand_vservers_echo() {
    let (server, peers) = start(&many_config());
    let client = client_on(peers);
    let poller = Poller::new().unwrap();
    let sockets: Vec<_> = (0..MANY)
        .map(|n| {
            let at = SocketAddr::new(many_addr(n), 7);
            let socket = UdpSocket::bind(&vs(&server, &format!("v{n}")), at).unwrap();
            socket.set_nonblocking(true).unwrap();
            poller.register(&socket, Token(usize::from(n)), Interest::READABLE).unwrap();
            socket
        })
        .collect();
    let serve = std::thread::spawn(move || {
        let mut ready = Vec::new();
        let mut served = 0;
        while served < sockets.len() {
            poller.wait(&mut ready, Some(PATIENCE)).unwrap();
            assert!(!ready.is_empty(), "only {served} were asked");
            for r in &ready {
                while let Ok(d) = sockets[r.token.0].recv_datagram() {
                    sockets[r.token.0].send_to(&d.payload, d.from).unwrap();
                    served += 1;
                }
            }
        }
        sockets
    });
    let c = UdpSocket::bind(&vs(&client, "c"), addr("0.0.0.0:0")).unwrap();
    c.set_read_timeout(Some(PATIENCE)).unwrap();
    for n in 0..MANY {
        c.send_to(&n.to_be_bytes(), SocketAddr::new(many_addr(n), 7)).unwrap();
        let (len, from) = c.recv_from(&mut [0; 9]).unwrap();
        assert_eq!((len, from.ip()), (2, many_addr(n)));
    }
    drop(serve.join().unwrap());
    let snapshot = server.snapshot();
    assert_eq!(snapshot.vservers.len(), usize::from(MANY));
    assert!(snapshot.vservers.iter().all(|v| v.counters["UdpInDatagrams"] == 1));
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
}

#[test]
fn a_thousand_listeners_accept() {
    let (server, peers) = start(&many_config());
    let client = client_on(peers);
    let listeners: Vec<_> = (0..MANY)
        .map(|n| {
            let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80);
            TcpListener::bind(&vs(&server, &format!("v{n}")), at).unwrap()
        })
        .collect();
    for n in (0..MANY).step_by(37) {
        let stream = connect(&vs(&client, "c"), SocketAddr::new(many_addr(n), 80));
        let (accepted, _) = listeners[usize::from(n)].accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), SocketAddr::new(many_addr(n), 80));
        assert_eq!(accepted.peer_addr().unwrap(), stream.local_addr().unwrap());
    }
}

#[test]
fn a_capture_holds_what_went_over_the_nic() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("eth0.pcapng");
    let text = nic("eth0", 1)
        + &format!("capture = \"{}\"\n[alias.data0]\nover = \"eth0\"\n", file.display())
        + "[vserver.v]\naddresses = [\"data0 10.0.0.1/16\"]\n";
    let (server, peers) = start(&text);
    let client = client_on(peers);
    echo_server(&vs(&server, "v"), addr("10.0.0.1:7"));
    let mark = b"this text goes over the wire, there and back";
    echo(&connect(&vs(&client, "c"), addr("10.0.0.1:7")), mark);
    server.stop();
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a section header block");
    let found = bytes.windows(mark.len()).filter(|w| w == mark).count();
    assert!(found >= 2, "seen {found} times");
    assert!(server.snapshot().problems.is_empty());
}

/// `c` behind one NIC of a router, `far` behind the other; the router is a vserver that forwards.
#[test]
fn a_vserver_forwards_between_its_aliases_if_told_to() {
    let end = |name: &str, mac, net: u8| {
        nic("eth0", mac)
            + &format!(
                "[alias.data0]\nover = \"eth0\"\n[vserver.{name}]\n\
                 addresses = [\"data0 10.0.{net}.2/24\"]\n\
                 routes = [{{ to = \"default\", via = \"10.0.{net}.1\" }}]\n"
            )
    };
    for forwarding in [true, false] {
        let text = nic("eth0", 1)
            + &nic("eth1", 3)
            + "[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth1\"\n"
            + "[vserver.r]\naddresses = [\"data0 10.0.1.1/24\", \"data1 10.0.2.1/24\"]\n"
            + &format!("forwarding = {forwarding}\n");
        let (router, mut peers) = start(&text);
        let far = start_on(&end("far", 4, 2), vec![peers.remove(1)]);
        let near = start_on(&end("c", 2, 1), peers);
        let socket = UdpSocket::bind(&vs(&far, "far"), addr("10.0.2.2:53")).unwrap();
        let c = UdpSocket::bind(&vs(&near, "c"), addr("10.0.1.2:0")).unwrap();
        c.send_to(b"through", addr("10.0.2.2:53")).unwrap();
        if !forwarding {
            until("drop", || router.snapshot().drops.contains_key("DemuxNoVserver"));
            continue;
        }
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let datagram = socket.recv_datagram().unwrap();
        assert_eq!(
            (&datagram.payload[..], datagram.from),
            (&b"through"[..], c.local_addr().unwrap())
        );
        echo_server(&vs(&far, "far"), addr("10.0.2.2:7"));
        echo(&connect(&vs(&near, "c"), addr("10.0.2.2:7")), &pattern(300_000));
        assert!(router.snapshot().vservers[0].counters["FrameInForwarded"] > 2);
    }
}

/// Every byte arrives once and in order over a link that loses, repeats and swaps frames.
#[test]
fn a_bad_link_delays_and_nothing_else() {
    let text = nic("eth0", 1)
        + "[alias.data0]\nover = \"eth0\"\n[vserver.v]\naddresses = [\"data0 10.0.0.1/16\"]\n";
    let (server, mut peers) = start(&text);
    let faults = FaultConfig {
        loss: 20,
        duplicate: 20,
        reorder: 20,
        reorder_frames: 4,
        ..FaultConfig::default()
    };
    let bad: AnyDevice = Box::new(Fault::new(peers.remove(0), faults));
    let client = client_on(vec![bad]);
    echo_server(&vs(&server, "v"), addr("10.0.0.1:7"));
    let stream = connect(&vs(&client, "c"), addr("10.0.0.1:7"));
    for _ in 0..20 {
        echo(&stream, &pattern(100_000));
    }
}

/// A device that goes away while it is in use.
struct Mortal {
    inner: AnyDevice,
    dead: Arc<AtomicBool>,
}

impl Mortal {
    fn alive(&self) -> io::Result<()> {
        let dead = self.dead.load(Ordering::Relaxed);
        if dead { Err(io::Error::other("the device is gone")) } else { Ok(()) }
    }
}

impl Device for Mortal {
    weft_drivers::forward_facts!(inner);

    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        self.alive()?;
        self.inner.receive(burst, max)
    }
    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        self.alive()?;
        self.inner.transmit(burst)
    }
    fn flush(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.inner.flush()
    }
}

#[test]
fn a_device_that_fails_is_a_link_that_is_down() {
    let text = nic("eth0", 1)
        + "[alias.data0]\nover = \"eth0\"\n[vserver.v]\naddresses = [\"data0 10.0.0.1/16\"]\n";
    let (server, mut peers) = start(&text);
    let dead = Arc::new(AtomicBool::new(false));
    let device = Mortal { inner: peers.remove(0), dead: Arc::clone(&dead) };
    let client = client_on(vec![Box::new(device)]);
    echo_server(&vs(&server, "v"), addr("10.0.0.1:7"));
    let stream = connect(&vs(&client, "c"), addr("10.0.0.1:7"));
    echo(&stream, b"alive");
    dead.store(true, Ordering::Relaxed);
    let mut to = &stream;
    to.write_all(b"dead").unwrap();
    until("link down", || !client.snapshot().nics[0].up);
    let snapshot = client.snapshot();
    assert!(snapshot.problems[0].contains("the device is gone"), "{:?}", snapshot.problems);
    assert_eq!(snapshot.problems.len(), 1, "told once");
    assert!(client.is_running());
}

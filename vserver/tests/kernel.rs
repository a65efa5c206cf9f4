//! A host against the kernel, in namespaces that the test makes: every driver, every way to wait,
//! and what happens when the link changes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket as KernelUdp};
use std::process::Command;

use common::kernel::{KERNEL_AT, Kernel, heard, v_on};
use common::{PATIENCE, addr, echo_server, pattern, until, vs};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_vserver::net::{
    Family, IcmpSocket, RawSocket, SourceFilter, UdpError, UdpOption, UdpSocket,
};
use weft_vserver::sockets::SocketQuery;
use weft_vserver::{Host, Vserver};

fn host(kernel: &Kernel, nic: &str) -> Option<Host> {
    kernel.start(&(v_on(nic) + "[vserver.v.limits]\nraw_sockets = 8\n"))
}

fn kernel_echo(kernel: &Netns, to: &str) {
    let bytes = pattern(2_000_000);
    let got = kernel
        .enter(|| {
            let stream = TcpStream::connect_timeout(&addr(to), PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = vec![0; bytes.len()];
            std::thread::scope(|scope| {
                scope.spawn(|| (&stream).write_all(&bytes).unwrap());
                (&stream).read_exact(&mut got).unwrap();
            });
            got
        })
        .unwrap();
    assert!(got == bytes, "{to}: wrong bytes");
}

fn serves(host: &Host, kernel: &Netns) {
    let v = vs(host, "v");
    echo_server(&v, addr("[::]:7"));
    until("IPv6 address", || v.addresses().contains(&IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, 2])));
    kernel_echo(kernel, "10.9.0.2:7");
    kernel_echo(kernel, "[fd09::2]:7");
    let snapshot = host.snapshot();
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    let c = &snapshot.vservers[0].counters;
    assert_eq!(c["TcpInErrs"] + c["TcpInCsumErrors"], 0);
}

#[test]
fn af_xdp_in_every_way_of_waiting() {
    for poll in ["interrupt", "adaptive", "busy"] {
        let Some(kernel) = Kernel::behind_cable(1, &KERNEL_AT) else { return };
        let Some(first) = host(&kernel, &format!("poll = \"{poll}\"")) else { return };
        serves(&first, &kernel.netns);
        drop(first);
        // The queue and the NIC's program are free at once.
        assert!(host(&kernel, "").is_some());
    }
}

#[test]
fn several_queues_of_one_nic() {
    let Some(kernel) = Kernel::behind_cable(2, &KERNEL_AT) else { return };
    let Some(host) = host(&kernel, "queues = 2") else { return };
    assert_eq!(host.snapshot().nics[0].queues, 2);
    serves(&host, &kernel.netns);
    for _ in 0..8 {
        kernel_echo(&kernel.netns, "10.9.0.2:7");
    }
}

#[test]
fn af_packet_beside_the_kernel() {
    let Some(kernel) = Kernel::behind_cable(1, &KERNEL_AT) else { return };
    let Some(host) = host(&kernel, "driver = \"packet\"") else { return };
    serves(&host, &kernel.netns);
}

#[test]
fn tap_and_tun_in_the_namespace_of_the_caller() {
    for driver in ["tap", "tun"] {
        let Some(kernel) = Kernel::beside(&KERNEL_AT) else { return };
        let Some(host) = host(&kernel, &format!("driver = \"{driver}\"")) else { return };
        serves(&host, &kernel.netns);
    }
}

#[test]
fn link_changes_reach_the_host() {
    let Some(kernel) = Kernel::behind_cable(1, &KERNEL_AT) else { return };
    let Some(host) = host(&kernel, "driver = \"packet\"") else { return };
    let change = |f: &(dyn Fn(&mut Netlink) + Sync)| {
        kernel.weft.enter(|| f(&mut Netlink::open().unwrap())).unwrap();
    };
    assert!(host.snapshot().nics[0].up);
    change(&|n| n.set_mtu("w0", 1400).unwrap());
    until("new MTU", || host.snapshot().nics[0].mtu == 1400);
    change(&|n| n.set_up("w0", false).unwrap());
    until("link down", || !host.snapshot().nics[0].up);
    change(&|n| n.set_up("w0", true).unwrap());
    until("link up", || host.snapshot().nics[0].up);
    change(&|n| n.delete_link("w0").unwrap());
    until("interface gone", || !host.snapshot().nics[0].up);
    until("told", || !host.snapshot().problems.is_empty());
    assert_eq!(
        host.snapshot().problems,
        ["interface w0 was removed; restart weft when it is back"]
    );
    // Another interface of that name is none that the daemon has opened, nor may open now.
    let end = |name| VethEnd { name, netns: None, mac: None };
    change(&|n| n.add_veth(&end("w0"), &end("w1"), 1, 1500).unwrap());
    change(&|n| n.set_up("w0", true).unwrap());
    change(&|n| n.set_up("w1", true).unwrap());
    assert!(!host.snapshot().nics[0].up);
    assert_eq!(host.snapshot().problems.len(), 1);
    assert!(host.is_running());
}

/// A host on a veth by AF_PACKET, and one on a TUN interface, whose kernel takes and gives
/// super-segments; each with the kernel's namespace.
fn with_hosts(f: impl Fn(&Host, &Vserver, &Netns)) {
    for driver in ["packet", "tun"] {
        let Some(kernel) = Kernel::of_driver(driver, 1) else { return };
        let Some(host) = host(&kernel, &format!("driver = \"{driver}\"")) else { continue };
        let v = vs(&host, "v");
        kernel.until_ready(&v);
        f(&host, &v, &kernel.netns);
    }
}

fn kernel_socket(kernel: &Netns, at: &str) -> KernelUdp {
    let socket = kernel.enter(|| KernelUdp::bind(addr(at)).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

// RFC 792
// RFC 4443 4.2
#[test]
fn the_kernel_and_the_stack_ping_one_another() {
    with_hosts(|_, v, kernel| {
        for (size, to) in [("56", "10.9.0.2"), ("4000", "10.9.0.2"), ("4000", "fd09::2")] {
            // With a deadline it waits for three answers; else for two round trips after the last
            // question, which a busy machine exceeds.
            let args = ["-c", "3", "-i", "0.01", "-w", "20", "-s", size, to];
            let output = kernel.enter(|| Command::new("ping").args(args).output()).unwrap();
            let Ok(output) = output else { return println!("SKIP: ping is not installed") };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let answered = |n| text.contains(&format!("icmp_seq={n} "));
            assert!((1..=3).all(answered), "{text}");
        }
        for (family, to) in [(Family::V4, "10.9.0.1:0"), (Family::V6, "[fd09::1]:0")] {
            let socket = IcmpSocket::open(v, family).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let payload = pattern(4000);
            for (sequence, bytes) in [(1, &payload[..56]), (2, &payload[..])] {
                socket.send_echo(sequence, bytes, Some(addr(to))).unwrap();
                let answer = socket.recv_answer().unwrap();
                assert_eq!((answer.sequence, answer.result.as_deref()), (sequence, Ok(bytes)));
                assert_eq!(answer.from, Some(addr(to)));
            }
        }
    });
}

// RFC 1122 4.1.3.3
#[test]
fn closed_ports_refuse_on_both_sides() {
    with_hosts(|_, v, kernel| {
        for (any, to) in [("0.0.0.0:0", "10.9.0.1:99"), ("[::]:0", "[fd09::1]:99")] {
            let socket = UdpSocket::bind(v, addr(any)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_option(UdpOption::ErrorQueue(true)).unwrap();
            socket.connect(addr(to)).unwrap();
            socket.send(b"anybody?").unwrap();
            let told = socket.recv(&mut [0; 9]).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::ConnectionRefused, "{told}");
            let report = socket.recv_error().unwrap().expect("the queue has it too");
            assert_eq!((report.error, report.to), (UdpError::Refused, addr(to)));
            assert_eq!(report.origin, Some(addr(to).ip()));
            assert_eq!(&report.payload[..], b"anybody?");
        }
        for (any, to) in [("0.0.0.0:0", "10.9.0.2:99"), ("[::]:0", "[fd09::2]:99")] {
            let socket = kernel_socket(kernel, any);
            socket.connect(addr(to)).unwrap();
            socket.send(b"anybody?").unwrap();
            let told = heard(&socket, &mut [0; 9]).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::ConnectionRefused, "{told}");
        }
    });
}

// RFC 8085 3.2
#[test]
fn segments_arrive_at_the_kernel_as_datagrams() {
    with_hosts(|host, v, kernel| {
        let payload = pattern(30_000 + 7);
        for (any, to) in [("0.0.0.0:0", "10.9.0.1:9"), ("[::]:0", "[fd09::1]:9")] {
            let receiver = kernel_socket(kernel, to);
            let socket = UdpSocket::bind(v, addr(any)).unwrap();
            socket.connect(addr(to)).unwrap();
            // The neighbour is known before, so that nothing waits for it.
            socket.send(b"first").unwrap();
            let mut buf = [0; 2000];
            assert_eq!(heard(&receiver, &mut buf).unwrap().0, 5);
            for size in [1000, socket.payload_max().unwrap()] {
                socket.send_segments(&payload, size, None).unwrap();
                for part in payload.chunks(size) {
                    let (n, _) = heard(&receiver, &mut buf).unwrap();
                    assert!(buf[..n] == *part, "a datagram of {} bytes came with {n}", part.len());
                }
            }
            let too_big = socket.send_segments(&payload, 1473, None).unwrap_err();
            assert!(too_big.to_string().contains("1500 bytes"), "{too_big}");
        }
        let c = &host.snapshot().vservers[0].counters;
        assert_eq!(c["UdpInErrors"], 0);
    });
}

/// Sends 20,007 bytes in datagrams of 1,000 with one call.
const SEGMENTS: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 1000)
s.sendto(bytes(i * 7 % 256 for i in range(20007)), ('10.9.0.2', 5000))
";

#[test]
fn what_the_kernel_sends_in_one_call_arrives_together() {
    with_hosts(|host, v, kernel| {
        let ours = UdpSocket::bind(v, addr("0.0.0.0:5000")).unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_option(UdpOption::KeepSegments(true)).unwrap();
        let python = || Command::new("python3").args(["-c", SEGMENTS]).status();
        if !kernel.enter(python).unwrap().is_ok_and(|s| s.success()) {
            return println!("SKIP: python3 or UDP_SEGMENT is not there");
        }
        let (mut got, mut pieces) = (Vec::new(), 0);
        while got.len() < 20_007 {
            let datagram = ours.recv_datagram().unwrap();
            assert!(datagram.payload.len() <= 1000 || datagram.segment_bytes == Some(1000));
            got.extend_from_slice(&datagram.payload);
            pieces += 1;
        }
        let sent: Vec<u8> = (0..20_007u32).map(|i| (i * 7 % 256) as u8).collect();
        assert!(got == sent, "wrong bytes");
        let snapshot = host.snapshot();
        assert_eq!(snapshot.vservers[0].counters["UdpInDatagrams"], 21);
        println!("{} pieces by {}", pieces, snapshot.nics[0].mode);
    });
}

// RFC 1112 6.1
// RFC 3376 5.1
#[test]
fn multicast_goes_both_ways() {
    with_hosts(|_, v, kernel| {
        let data0 = v.alias("data0").unwrap();
        let group: IpAddr = [239, 1, 2, 3].into();
        let ours = UdpSocket::bind(v, addr("0.0.0.0:5000")).unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_option(UdpOption::MulticastAlias(Some(data0))).unwrap();
        ours.join_multicast(data0, group).unwrap();
        let theirs = kernel_socket(kernel, "0.0.0.0:5000");
        let near = Ipv4Addr::new(10, 9, 0, 1);
        kernel.enter(|| theirs.join_multicast_v4(&[239, 1, 2, 3].into(), &near).unwrap()).unwrap();
        // By its source the kernel knows the interface without a route.
        let sender = kernel_socket(kernel, "10.9.0.1:5001");
        sender.set_multicast_loop_v4(false).unwrap();
        ours.set_option(UdpOption::MulticastLoop(false)).unwrap();
        let to = addr("239.1.2.3:5000");
        let mut buf = [0; 100];
        ours.send_to(b"from weft", to).unwrap();
        let (n, from) = heard(&theirs, &mut buf).unwrap();
        assert_eq!((&buf[..n], from), (&b"from weft"[..], addr("10.9.0.2:5000")));
        sender.send_to(b"from the kernel", to).unwrap();
        let got = ours.recv_datagram().unwrap();
        assert_eq!((&got.payload[..], got.to, got.hop_limit), (&b"from the kernel"[..], group, 1));
        // Another sender is wanted: this one is not heard.
        let only = SourceFilter::Include(vec![[10, 9, 0, 77].into()]);
        ours.set_multicast_sources(data0, group, only).unwrap();
        sender.send_to(b"unwanted", to).unwrap();
        sender.send_to(b"direct", addr("10.9.0.2:5000")).unwrap();
        assert_eq!(&ours.recv_datagram().unwrap().payload[..], b"direct");
    });
}

// RFC 3542 3
#[test]
fn raw_sockets_see_what_the_kernel_sends() {
    with_hosts(|host, v, kernel| {
        let raw = RawSocket::open(v, Family::V4, 17).unwrap();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        let ours = UdpSocket::bind(v, addr("0.0.0.0:5000")).unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let theirs = kernel_socket(kernel, "10.9.0.1:5001");
        theirs.send_to(b"datagram", addr("10.9.0.2:5000")).unwrap();
        let packet = raw.recv_packet().unwrap();
        assert_eq!((packet.from, packet.payload[0]), (addr("10.9.0.1:0"), 0x45));
        assert!(packet.payload.ends_with(b"datagram"));
        assert_eq!(&ours.recv_datagram().unwrap().payload[..], b"datagram");
        // And the kernel takes a datagram made by hand, without a checksum (RFC 768).
        let datagram = [&[0x13, 0x88, 0x13, 0x89, 0, 14, 0, 0][..], b"mine!!"].concat();
        raw.send_to(&datagram, Some(addr("10.9.0.1:0"))).unwrap();
        let mut buf = [0; 100];
        let (n, from) = heard(&theirs, &mut buf).unwrap();
        assert_eq!((&buf[..n], from), (&b"mine!!"[..], addr("10.9.0.2:5000")));
        let query = SocketQuery { filter: String::from("sport 5000"), ..SocketQuery::default() };
        let found = host.socket_page(&query).unwrap().sockets;
        let lines: Vec<_> = found.iter().map(|s| (s.protocol.as_str(), s.state.as_str())).collect();
        assert_eq!(lines, [("udp", "UNCONN")]);
    });
}

//! What TCP agrees on with the kernel, in both directions and both families: congestion marks, Fast
//! Open, SYN cookies. Over TUN, in a namespace that the test makes; the kernel's own counters are
//! the second witness.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as KernelListener, TcpStream as KernelStream};
use std::os::fd::AsFd;

use common::kernel::{KERNEL_AT, Kernel, v_on};
use common::{PATIENCE, addr, connect, echo, echo_server, pattern, vs};
use rustix::net::{AddressFamily, SendFlags, SocketType, sendto, socket};
use weft_stack::socket::tcp::EcnState;
use weft_vserver::net::{TcpConnect, TcpStream};
use weft_vserver::sockets::SocketQuery;
use weft_vserver::{Host, Vserver};

const OURS: [&str; 2] = ["10.9.0.2:7", "[fd09::2]:7"];
const KERNELS: [&str; 2] = ["10.9.0.1:7", "[fd09::1]:7"];

/// A vserver with an echo service at port 7 of 10.9.0.2 and fd09::2, and the kernel at 10.9.0.1
/// and fd09::1.
struct Pair {
    host: Host,
    v: Vserver,
    kernel: Kernel,
}

impl Pair {
    /// `tcp` are keys of `[vserver.v.tcp]`.
    fn new(tcp: &str) -> Option<Pair> {
        let kernel = Kernel::beside(&KERNEL_AT)?;
        let host =
            kernel.start(&format!("{}[vserver.v.tcp]\n{tcp}\n", v_on("driver = \"tun\"")))?;
        let v = vs(&host, "v");
        kernel.until_ready(&v);
        echo_server(&v, addr("[::]:7"));
        Some(Pair { host, v, kernel })
    }

    /// A counter of the kernel.
    fn kernel_counter(&self, name: &str) -> u64 {
        let read = || std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let text = self.kernel.netns.enter(read).unwrap();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        let of = |pair: &[Vec<&str>]| {
            let at = pair[0].iter().position(|n| *n == name)?;
            Some(pair[1][at].parse().unwrap())
        };
        lines.chunks(2).find_map(of).unwrap_or_else(|| panic!("the kernel has no {name}"))
    }

    fn counter(&self, name: &str) -> u64 {
        self.host.snapshot().vservers[0].counters[name]
    }

    /// What an echo client of the kernel's moves both ways.
    fn kernel_client(&self, to: &str) -> KernelStream {
        let stream = self.kernel.netns.enter(|| KernelStream::connect(addr(to)).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (bytes, mut got) = (pattern(300_000), vec![0; 300_000]);
        std::thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&bytes).unwrap());
            (&stream).read_exact(&mut got).unwrap();
        });
        assert!(got == bytes, "{to}: wrong bytes");
        stream
    }

    fn kernel_echoes(&self) {
        for at in KERNELS {
            let listener =
                self.kernel.netns.enter(|| KernelListener::bind(addr(at)).unwrap()).unwrap();
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut &stream, &mut &stream);
                    });
                }
            });
        }
    }

    /// What our side of the connection from `peer` says.
    fn ecn_of(&self, peer: SocketAddr) -> String {
        let filter = format!("sport 7 and dport {}", peer.port());
        let query = SocketQuery { filter, tcp_info: true, ..SocketQuery::default() };
        let sockets = self.host.socket_page(&query).unwrap().sockets;
        sockets[0].tcp.as_ref().unwrap().ecn.clone()
    }
}

// RFC 3168 6.1.1
// RFC 9768 3.1.2
#[test]
fn congestion_marks_are_agreed_with_the_kernel_in_both_directions() {
    for (mode, kernel, passive, active) in [
        ("off", "1", "off", EcnState::Off),
        ("accept", "1", "classic", EcnState::Off),
        ("classic", "2", "off", EcnState::Classic),
        ("classic", "0", "off", EcnState::Off),
        ("accurate", "1", "classic", EcnState::Classic),
        // Skipped by kernels that do not ask for Accurate ECN.
        ("accurate", "3", "accurate", EcnState::Accurate),
    ] {
        let Some(pair) = Pair::new(&format!("ecn = \"{mode}\"")) else { return };
        if pair.kernel.netns.set_sysctl("net/ipv4/tcp_ecn", kernel).is_err() {
            println!("SKIP: this kernel has no tcp_ecn={kernel}");
            continue;
        }
        let expected = passive != "off";
        for to in OURS {
            let stream = pair.kernel_client(to);
            let agreed = pair.ecn_of(stream.local_addr().unwrap());
            assert_eq!(agreed, passive, "{mode}, kernel {kernel}, {to}");
        }
        // What data carries shows on both sides.
        assert_eq!(pair.counter("IpInECT0Pkts") > 0, expected, "{mode}, kernel {kernel}");
        assert_eq!(pair.counter("Ip6InECT0Pkts") > 0, expected, "{mode}, kernel {kernel}");
        let before = pair.kernel_counter("InECT0Pkts");
        assert_eq!(before > 0, expected, "{mode}, kernel {kernel}");
        pair.kernel_echoes();
        for to in KERNELS {
            let stream = connect(&pair.v, addr(to));
            echo(&stream, &pattern(300_000));
            assert_eq!(stream.info().unwrap().ecn, active, "{mode}, kernel {kernel}, {to}");
        }
        let marked = pair.kernel_counter("InECT0Pkts") > before;
        assert_eq!(marked, active != EcnState::Off, "{mode}, kernel {kernel}");
    }
}

// RFC 7413 4.2
#[test]
fn fast_open_with_the_kernel_as_client() {
    let Some(pair) = Pair::new("fast_open = \"server\"") else { return };
    pair.kernel.netns.set_sysctl("net/ipv4/tcp_fastopen", "1").unwrap();
    const MSG_FASTOPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
    for to in OURS {
        // The first asks for a cookie, the others bring it.
        for _ in 0..3 {
            let family =
                if addr(to).is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let open = || socket(family, SocketType::STREAM, None).unwrap();
            let fd = pair.kernel.netns.enter(open).unwrap();
            assert_eq!(sendto(fd.as_fd(), b"data of a SYN", MSG_FASTOPEN, &addr(to)), Ok(13));
            let mut stream = KernelStream::from(fd);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = [0; 13];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"data of a SYN");
        }
    }
    assert_eq!(pair.kernel_counter("TCPFastOpenActive"), 4);
    assert_eq!(pair.kernel_counter("TCPFastOpenActiveFail"), 0);
    assert_eq!(pair.counter("TcpExtTCPFastOpenCookieReqd"), 2);
    assert_eq!(pair.counter("TcpExtTCPFastOpenPassive"), 4);
    assert_eq!(pair.counter("TcpExtTCPFastOpenPassiveFail"), 0);
}

// RFC 7413 4.1
#[test]
fn fast_open_with_the_kernel_as_server() {
    let Some(pair) = Pair::new("fast_open = \"client\"") else { return };
    // Every listener of this kernel takes data of a SYN, unasked.
    pair.kernel.netns.set_sysctl("net/ipv4/tcp_fastopen", "0x403").unwrap();
    pair.kernel_echoes();
    for to in KERNELS {
        for round in 0..3 {
            let how = TcpConnect {
                data: b"data of a SYN",
                timeout: Some(PATIENCE),
                ..TcpConnect::default()
            };
            let (mut stream, taken) = TcpStream::connect_with(&pair.v, addr(to), how).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = [0; 13];
            stream.read_exact(&mut got).unwrap();
            assert_eq!((taken, &got), (13, b"data of a SYN"));
            assert_eq!(stream.info().unwrap().fast_open, round > 0, "{to}, connection {round}");
        }
    }
    assert_eq!(pair.kernel_counter("TCPFastOpenCookieReqd"), 2);
    assert_eq!(pair.kernel_counter("TCPFastOpenPassive"), 4);
    assert_eq!(pair.counter("TcpExtTCPFastOpenActive"), 4);
    assert_eq!(pair.counter("TcpExtTCPFastOpenActiveFail"), 0);
}

// RFC 4987 3.6
#[test]
fn syn_cookies_of_either_side_keep_scale_sack_and_marks() {
    let Some(pair) = Pair::new("syn_cookies = \"always\"\necn = \"classic\"") else { return };
    pair.kernel.netns.set_sysctl("net/ipv4/tcp_ecn", "1").unwrap();
    for to in OURS {
        let stream = pair.kernel_client(to);
        let filter = format!("sport 7 and dport {}", stream.local_addr().unwrap().port());
        let query = SocketQuery { filter, tcp_info: true, ..SocketQuery::default() };
        let sockets = pair.host.socket_page(&query).unwrap().sockets;
        let tcp = sockets[0].tcp.as_ref().unwrap();
        assert!(tcp.window_scale.is_some() && tcp.sack && tcp.timestamps, "{tcp:?}");
        assert_eq!(tcp.ecn, "classic");
    }
    assert_eq!(pair.counter("TcpExtSyncookiesSent"), 2);
    assert_eq!(pair.counter("TcpExtSyncookiesRecv"), 2);
    assert_eq!(pair.counter("TcpExtSyncookiesFailed"), 0);
    // 2: the kernel answers with cookies whether it has to or not.
    pair.kernel.netns.set_sysctl("net/ipv4/tcp_syncookies", "2").unwrap();
    pair.kernel_echoes();
    for to in KERNELS {
        let stream = connect(&pair.v, addr(to));
        echo(&stream, &pattern(300_000));
        let info = stream.info().unwrap();
        assert!(info.window_scale.is_some() && info.sack && info.timestamps, "{info:?}");
        assert_eq!(info.ecn, EcnState::Classic);
    }
    assert_eq!(pair.kernel_counter("SyncookiesRecv"), 2);
}

//! Hosts of several workers against the kernel, in namespaces that the test makes: as many queues
//! as workers, fewer, and more; AF_XDP, AF_PACKET, TAP and TUN.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{
    IpAddr, TcpListener as KernelListener, TcpStream as KernelStream, UdpSocket as KernelUdp,
};

use common::kernel::{Kernel, heard, v_on};
use common::{PATIENCE, addr, connect, echo, echo_server, pattern, until, vs};
use weft_drivers::netlink::Netlink;
use weft_vserver::net::{Family, IcmpSocket, SourceFilter, UdpSocket};
use weft_vserver::{Host, Vserver};

const OURS: [&str; 2] = ["10.9.0.2:7", "[fd09::2]:7"];

/// The kernel at 10.9.0.1 and fd09::1, and the vserver at .2 of the same networks.
struct Pair {
    host: Host,
    v: Vserver,
    kernel: Kernel,
}

impl Pair {
    /// `driver` with `queues` queues, served by `workers` workers; of AF_XDP on a veth.
    fn new(driver: &str, queues: usize, workers: usize) -> Option<Pair> {
        let kernel = Kernel::of_driver(driver, queues)?;
        let nic = format!("driver = \"{driver}\"\nqueues = {queues}");
        let workers = format!("[workers]\ncount = {workers}\nframes = 4096\n");
        let host = kernel.start(&(v_on(&nic) + &workers))?;
        let v = vs(&host, "v");
        kernel.until_ready(&v);
        Some(Pair { host, v, kernel })
    }

    fn kernel_pings(&self, size: &str, to: &str) -> bool {
        // With a deadline it waits for three answers; else for two round trips after the last
        // question, which a busy machine exceeds.
        let args = ["-c", "3", "-i", "0.01", "-w", "20", "-s", size, to];
        self.kernel.ping(&args)
    }

    /// Both directions, both families, every protocol.
    fn try_everything(&self) {
        self.serve_the_kernel();
        self.ask_the_kernel();
        self.datagrams();
        for (size, to) in [("56", "10.9.0.2"), ("4000", "10.9.0.2"), ("4000", "fd09::2")] {
            assert!(self.kernel_pings(size, to), "{size} to {to}");
        }
        for (family, to) in [(Family::V4, "10.9.0.1:0"), (Family::V6, "[fd09::1]:0")] {
            let socket = IcmpSocket::open(&self.v, family).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_echo(7, &pattern(4000), Some(addr(to))).unwrap();
            assert_eq!(socket.recv_answer().unwrap().sequence, 7);
        }
        let snapshot = self.host.snapshot();
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
        let c = &snapshot.vservers[0].counters;
        assert_eq!(c["TcpInErrs"] + c["TcpInCsumErrors"], 0);
        assert_eq!(
            c["FrameInFrames"],
            c["FrameInDelivered"]
                + c["FrameInForwarded"]
                + c["FrameInConsumed"]
                + c["FrameInDropped"]
        );
    }

    fn serve_the_kernel(&self) {
        echo_server(&self.v, addr("[::]:7"));
        let bytes = pattern(500_000);
        for to in OURS {
            let talk = || {
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| {
                            let stream = self
                                .kernel
                                .netns
                                .enter(|| KernelStream::connect_timeout(&addr(to), PATIENCE))
                                .unwrap()
                                .unwrap();
                            stream.set_read_timeout(Some(PATIENCE)).unwrap();
                            let mut got = vec![0; bytes.len()];
                            std::thread::scope(|scope| {
                                scope.spawn(|| (&stream).write_all(&bytes).unwrap());
                                (&stream).read_exact(&mut got).unwrap();
                            });
                            assert!(got == bytes, "{to}: wrong bytes");
                        });
                    }
                });
            };
            talk();
        }
    }

    fn ask_the_kernel(&self) {
        for at in ["10.9.0.1:0", "[fd09::1]:0"] {
            let listener =
                self.kernel.netns.enter(|| KernelListener::bind(addr(at)).unwrap()).unwrap();
            let at = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().take(8) {
                    let stream = stream.unwrap();
                    std::thread::spawn(move || {
                        std::io::copy(&mut &stream, &mut &stream).ok();
                    });
                }
            });
            let bytes = pattern(300_000);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| echo(&connect(&self.v, at), &bytes));
                }
            });
        }
    }

    fn datagrams(&self) {
        for (any, to) in [("0.0.0.0:0", "10.9.0.2:0"), ("[::]:0", "[fd09::2]:0")] {
            for len in [1, 1400, 5000] {
                let socket = UdpSocket::bind(&self.v, addr(to)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let asker =
                    self.kernel.netns.enter(|| KernelUdp::bind(addr(any)).unwrap()).unwrap();
                asker.set_read_timeout(Some(PATIENCE)).unwrap();
                let sent = pattern(len);
                asker.send_to(&sent, socket.local_addr().unwrap()).unwrap();
                let got = socket.recv_datagram().unwrap();
                assert!(got.payload == sent);
                socket.send_to(&got.payload, got.from).unwrap();
                let mut back = vec![0; len + 1];
                let (n, _) = heard(&asker, &mut back).unwrap();
                assert!(back[..n] == sent);
            }
        }
    }
}

#[test]
fn a_queue_for_each_worker() {
    for (driver, count) in
        [("af-xdp", 2), ("af-xdp", 4), ("tap", 2), ("tap", 4), ("tun", 2), ("packet", 2)]
    {
        let Some(pair) = Pair::new(driver, count, count) else { continue };
        pair.try_everything();
        assert_eq!(pair.host.snapshot().nics[0].queues, count);
    }
}

#[test]
fn one_queue_for_several_workers() {
    for (driver, workers) in [("af-xdp", 4), ("tap", 2), ("tun", 3)] {
        let Some(pair) = Pair::new(driver, 1, workers) else { continue };
        pair.try_everything();
        let handed = pair.host.snapshot().hand_over;
        assert!(handed["HandOverArrived"] > 0 && handed["HandOverTransmits"] > 0, "{handed:?}");
    }
}

#[test]
fn more_queues_than_workers() {
    let Some(pair) = Pair::new("af-xdp", 3, 2) else { return };
    pair.try_everything();
}

#[test]
fn a_host_that_stopped_leaves_queues_and_nic_free() {
    for _ in 0..2 {
        let Some(pair) = Pair::new("af-xdp", 2, 2) else { return };
        pair.serve_the_kernel();
        pair.host.stop();
        assert!(pair.v.addresses().len() >= 2, "a handle outlives the host");
    }
}

/// The kernel as the sender to a group: what a shard other than 0 wants, shard 0 asks for.
#[test]
fn groups_reach_the_worker_of_the_port() {
    let Some(pair) = Pair::new("af-xdp", 2, 4) else { return };
    let group: IpAddr = "239.1.2.3".parse().unwrap();
    let alias = pair.v.alias("data0").unwrap();
    let sender = pair.kernel.netns.enter(|| KernelUdp::bind(addr("10.9.0.1:0")).unwrap()).unwrap();
    for port in 9000..9008 {
        let socket = UdpSocket::bind(&pair.v, addr(&format!("0.0.0.0:{port}"))).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let sources = SourceFilter::Include(vec!["10.9.0.1".parse().unwrap()]);
        socket.set_multicast_sources(alias, group, sources).unwrap();
        // Steering follows the join a moment later.
        let mut got = [0; 8];
        until("datagram to the group", || {
            sender.send_to(b"all", (group, port)).unwrap();
            socket.recv(&mut got).is_ok_and(|n| &got[..n] == b"all")
        });
        socket.leave_multicast(alias, group).unwrap();
    }
    let counters = pair.host.snapshot().vservers[0].counters.clone();
    assert!(counters["NeighOutGroupReports"] > 0);
}

#[test]
fn a_link_that_went_is_down_for_every_worker_and_comes_back() {
    let Some(pair) = Pair::new("af-xdp", 2, 4) else { return };
    let down = |up| {
        pair.kernel.netns.enter(|| Netlink::open().unwrap().set_up("k0", up).unwrap()).unwrap();
        until("change of the link", || pair.host.snapshot().nics[0].up == up);
    };
    down(false);
    down(true);
    pair.kernel
        .netns
        .enter(|| {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_address("k0", "fd09::1".parse().unwrap(), 64).ok();
        })
        .unwrap();
    until("IPv6 of the kernel", || pair.kernel_pings("56", "fd09::2"));
    pair.try_everything();
}

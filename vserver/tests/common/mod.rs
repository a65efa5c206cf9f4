//! What tests of hosts share: two hosts joined by a memory pair, echoes, cables.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod kernel;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_drivers::device::{AnyDevice, Device};
use weft_drivers::ethtool::{Offload, set_offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_vserver::config::{self, HostConfig};
use weft_vserver::net::TcpStream;
use weft_vserver::{Devices, Host, Vserver};

/// Longer than anything here takes, so that a lost wake-up fails a test instead of hanging it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn config(text: &str) -> HostConfig {
    config::parse(text, Path::new("test.toml")).unwrap_or_else(|e| panic!("{e}"))
}

pub fn nic(name: &str, mac: u8) -> String {
    format!(
        "[nic.{name}]\ndevice = \"mem-{name}\"\ndriver = \"mem\"\nmac = \"02:00:00:00:00:{mac:02x}\"\n"
    )
}

/// A key of two hosts in a file that only its owner reads.
pub fn write_key(directory: &Path) -> PathBuf {
    let path = directory.join("peers.key");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&path).unwrap();
    file.write_all(b"a secret of two hosts\n").unwrap();
    path
}

/// A host over memory, and the far ends of its NICs in order.
pub fn start(text: &str) -> (Host, Vec<AnyDevice>) {
    let config = config(text);
    let names: Vec<_> = config.nics.iter().map(|n| n.name.clone()).collect();
    let host = Host::start(config).unwrap_or_else(|e| panic!("{e}"));
    let peers = names.iter().map(|n| host.take_mem_peer(n).expect("a mem NIC")).collect();
    (host, peers)
}

/// A host on given devices, for the NICs of its configuration in order.
pub fn start_on(text: &str, devices: Vec<AnyDevice>) -> Host {
    let config = config(text);
    let names = config.nics.iter().map(|n| n.name.clone());
    let devices: Devices = names.zip(devices.into_iter().map(|d| vec![d])).collect();
    Host::start_with_devices(config, devices).unwrap_or_else(|e| panic!("{e}"))
}

/// `server` with `web` at 10.0.0.1 and fd00::1, `client` with `c` at 10.0.0.2 and fd00::2.
pub fn pair() -> (Host, Host) {
    let one = |name: &str, mac, n: u8| {
        format!(
            "{}[alias.data0]\nover = \"eth0\"\n[vserver.{name}]\n\
             addresses = [\"data0 10.0.0.{n}/24\", \"data0 fd00::{n}/64\"]\n",
            nic("eth0", mac)
        )
    };
    let (server, peers) = start(&one("web", 1, 1));
    let client = start_on(&one("c", 2, 2), peers);
    (server, client)
}

pub fn vs(host: &Host, name: &str) -> Vserver {
    host.vserver(name).expect("the vserver is configured")
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Waits for what the far side does in its own time: duplicate address detection, mostly.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "no {what} in {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Waits for events of mio. A child of another test that ends may interrupt it, which is no event.
pub fn wait_events(poll: &mut mio::Poll, events: &mut mio::Events, timeout: Option<Duration>) {
    while let Err(e) = poll.poll(events, timeout) {
        assert_eq!(e.kind(), std::io::ErrorKind::Interrupted, "{e}");
    }
}

/// Echoes every connection of a listener until the host stops.
pub fn echo_server(vserver: &Vserver, at: SocketAddr) -> std::thread::JoinHandle<()> {
    let listener = weft_vserver::net::TcpListener::bind(vserver, at).expect("bind");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    })
}

pub fn connect(vserver: &Vserver, to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(vserver, to, PATIENCE)
        .unwrap_or_else(|e| panic!("{} to {to}: {e}", vserver.name()));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Sends `bytes` and wants them back.
pub fn echo(stream: &TcpStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut to = stream;
            to.write_all(bytes).expect("write");
        });
        let mut got = vec![0; bytes.len()];
        let mut from = stream;
        from.read_exact(&mut got).expect("read");
        assert!(got == bytes, "{} bytes came back wrong", bytes.len());
    });
}

/// Gives every frame to all ends but the one it came from, as a switch does that knows nobody.
pub fn hub(mut ends: Vec<AnyDevice>, stop: &AtomicBool) {
    let mut queues: Vec<VecDeque<_>> = ends.iter().map(|_| VecDeque::new()).collect();
    let mut burst = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut moved = 0;
        for (from, end) in ends.iter_mut().enumerate() {
            if queues.iter().any(|q| q.len() > 1000) {
                break;
            }
            moved += end.receive(&mut burst, 64).expect("receive");
            for frame in burst.drain(..) {
                let others = queues.iter_mut().enumerate().filter(|(to, _)| *to != from);
                others.for_each(|(_, queue)| queue.push_back(frame.to_heap()));
            }
        }
        for (end, queue) in ends.iter_mut().zip(&mut queues) {
            moved += end.transmit(queue).expect("transmit");
            end.flush().expect("flush");
        }
        if moved == 0 {
            std::thread::yield_now();
        }
    }
}

/// Tells others to stop at its end, also when a test fails.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two network namespaces with cables of so many queues between them, whose ends are `w0`, `w1`, ... in both, with
/// MAC addresses `02:00:00:00:01:00` and so on in the first and `02:00:00:00:02:00` in the second.
pub fn cabled(cables: u8, queues: usize) -> Option<(Netns, Netns)> {
    let (Ok(a), Ok(b)) = (Netns::new(), Netns::new()) else {
        println!("SKIP: network namespaces need root");
        return None;
    };
    for i in 0..cables {
        let name = format!("w{i}");
        let other = b.clone();
        let made = a.enter(|| {
            let ends = [(1, None), (2, Some(other.as_fd()))];
            let ends = ends.map(|(n, netns)| VethEnd {
                name: &name,
                netns,
                mac: Some([2, 0, 0, 0, n, i]),
            });
            let mut netlink = Netlink::open().expect("netlink");
            netlink.add_veth(&ends[0], &ends[1], queues, 1500).expect("a veth pair");
            netlink.set_up(&name, true).expect("up");
            // A veth never completes the checksums that the kernel leaves to it.
            set_offload(&name, Offload::TxChecksum, false).expect("offload");
        });
        made.expect("the namespace");
        let up = || Netlink::open().and_then(|mut netlink| netlink.set_up(&name, true));
        b.enter(up).expect("the namespace").expect("up");
    }
    Some((a, b))
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

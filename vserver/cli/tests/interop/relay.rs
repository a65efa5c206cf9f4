//! weft and the kernel through a link that loses, reorders and duplicates.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use weft_cli::lab::client::{curl, url};
use weft_cli::lab::plan::sha256;
use weft_cli::lab::relay::{MTU_MAX, Wire, port};
use weft_cli::lab::topology::{CLIENT, KERNEL, Machine, WAN, nic, v4, v6};
use weft_drivers::capture::{Capture, CaptureFile};
use weft_drivers::device::Device;
use weft_sim::{Burst, LinkSpec, LinkStats, Relay};
use weft_stack::rng::Rng;

use crate::common::{ALPHA, Daemon, alpha, installed, tun};
use crate::judge_with;

/// What the link does to frames, both ways.
fn faults(mtu: usize, loss: f64) -> LinkSpec {
    LinkSpec {
        latency: Duration::from_millis(1),
        loss,
        burst: Some(Burst { enter: 0.0005, lasts: Duration::from_millis(4), loss: 0.5 }),
        reorder: 0.02,
        reorder_delay: Duration::from_millis(3),
        duplicate: 0.01,
        mtu,
        ..LinkSpec::default()
    }
}

/// Noise of a seed.
fn noise(path: &Path, bytes: usize, seed: u64) {
    let mut rng = Rng::from_u64(seed);
    let data: Vec<u8> = (0..bytes / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    fs::write(path, data).expect("write");
}

/// Bytes that each family and direction transfers.
fn size(mtu: usize) -> usize {
    if mtu > 9000 { 24 << 20 } else { 4 << 20 }
}

fn transfers(mtu: usize, loss: f64, captures: &Path) -> [LinkStats; 2] {
    let dir = tempfile::tempdir().expect("directory");
    let root = dir.path().join("www");
    fs::create_dir_all(root.join("upload")).expect("root");
    noise(&root.join("big"), size(mtu), mtu as u64);
    noise(&dir.path().join("up"), size(mtu), mtu as u64 + 1);
    let machines = [Machine::new("weft").expect("weft"), Machine::new("client").expect("client")];
    let [home, client] = &machines;
    let capture = CaptureFile::create(&captures.join(format!("{mtu}.pcapng"))).expect("capture");
    let ends = [(home, nic(0)), (client, WAN)].map(|(machine, interface)| {
        let end = port(&machine.netns, interface, mtu).expect("port");
        Box::new(Capture::new(end, interface, &capture)) as Box<dyn Device>
    });
    let relay = Relay::new([faults(mtu, loss); 2], 1000 + mtu as u64);
    let wire = Wire::start(ends, relay).expect("relay");
    home.number(nic(0), KERNEL).expect("address");
    client.number(WAN, CLIENT).expect("address");
    let http = format!(
        "[[vserver.alpha.service]]\nkind = \"http\"\nport = 80\nroot = \"{0}\"\n\
         upload = \"{0}/upload\"\nupload_bytes_max = 100000000\n",
        root.display()
    );
    let config = alpha("packet", dir.path(), &http);
    let daemon = Daemon::start(home, &client.netns, dir.path(), &config, 80);
    for address in [IpAddr::V4(v4(ALPHA)), IpAddr::V6(v6(ALPHA))] {
        both_ways(client, address, dir.path(), &root, mtu);
    }
    drop(daemon);
    let stats = wire.stop().expect("relay");
    assert_eq!(capture.failure(), None);
    stats
}

fn both_ways(client: &Machine, address: IpAddr, dir: &Path, root: &Path, mtu: usize) {
    let (never, begin) = (AtomicBool::new(false), Instant::now());
    let (got, up) = (dir.join("got"), dir.join("up"));
    let down = curl(&client.netns, &url(address, "big"), &got, None, &never).expect("curl");
    assert!(down.ok(), "MTU {mtu}, download from {address}: {down:?}");
    let sum = |path: &Path| sha256(path).expect("hash");
    assert_eq!(sum(&got), sum(&root.join("big")), "MTU {mtu}, download from {address}");
    let to = url(address, "up");
    let sent = curl(&client.netns, &to, &dir.join("answer"), Some(&up), &never).expect("curl");
    assert!(sent.ok(), "MTU {mtu}, upload to {address}: {sent:?}");
    let stored = root.join("upload/up");
    assert_eq!(sum(&stored), sum(&up), "MTU {mtu}, upload to {address}");
    fs::remove_file(stored).expect("remove");
    println!(
        "NUMBER relay, MTU {mtu}, {address}: down in {:.1} s, up in {:.1} s",
        down.seconds,
        sent.seconds.min(begin.elapsed().as_secs_f64())
    );
}

#[test]
fn every_byte_arrives_through_a_relay_that_loses_reorders_and_duplicates() {
    if !tun() || !installed("curl") || !installed("tshark") {
        return;
    }
    let captures = tempfile::tempdir().expect("directory");
    for (mtu, loss) in [(1280, 0.003), (1500, 0.003), (9000, 0.01), (MTU_MAX, 0.02)] {
        let stats = transfers(mtu, loss, captures.path());
        for way in stats {
            assert!(way.lost > 0 && way.reordered > 0 && way.duplicated > 0, "MTU {mtu}: {way:?}");
            assert_eq!(way.too_long, 0, "MTU {mtu}");
        }
        let sum = |f: fn(&LinkStats) -> u64| stats.iter().map(f).sum::<u64>();
        println!(
            "NUMBER relay, MTU {mtu}: {} frames, {} lost, {} reordered, {} duplicated",
            sum(|s| s.sent),
            sum(|s| s.lost),
            sum(|s| s.reordered),
            sum(|s| s.duplicated)
        );
    }
    // Segments sent again overlap what came before, which tshark's reassembly calls an error. That
    // the bytes are right is known by now.
    let alone = ["-o", "tcp.desegment_tcp_streams:FALSE", "--disable-protocol", "http"];
    // weft leaves checksums to the kernel here (AF_PACKET), the client does anyway: all are its work.
    let frames = judge_with(captures.path(), &alone, "tcp");
    println!("NUMBER relay: {frames} frames read by tshark, none malformed, no bad checksum");
}

//! A capture of real traffic, read by tshark with checksum checking on.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use common::{How, KERNEL, OURS, Peer, Tcp, UDP, pattern};
use weft_drivers::capture::{Capture, CaptureFile};
use weft_drivers::device::Medium;
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_drivers::tuntap::{TunTap, TunTapConfig};

/// What tshark says of every packet that matches `filter`; `None` if there is no tshark.
fn tshark(file: &Path, filter: &str) -> Option<String> {
    let checks = ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-Y", filter]);
    for check in checks {
        command.args(["-o", &format!("{check}:TRUE")]);
    }
    let output = command.output().ok()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("cut short"), "tshark: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

const BAD: &str = "_ws.malformed || ip.checksum.status == \"Bad\" || tcp.checksum.status == \"Bad\" \
                   || udp.checksum.status == \"Bad\" || frame.len > 1514";

fn talk(peer: &mut Peer<Capture<TunTap>>) {
    let socket = UdpSocket::bind((KERNEL, 7)).unwrap();
    peer.send_udp(5000, 7, &pattern(500), How { partial: true, ..How::default() });
    let (n, from) = socket.recv_from(&mut [0; 2048]).unwrap();
    socket.send_to(&pattern(n), from).unwrap();
    peer.receive(UDP);
    let client = std::thread::spawn(|| {
        let mut stream = TcpStream::connect((OURS, 80)).unwrap();
        stream.write_all(&pattern(100_000)).unwrap();
        stream.read_exact(&mut vec![0; 40_000]).unwrap();
    });
    let mut tcp = Tcp::accept(peer, 80);
    tcp.receive(peer, 100_000);
    let how = How { partial: true, frag: Some(16_384), segment: Some(1460) };
    tcp.send(peer, &pattern(40_000), how);
    client.join().unwrap();
}

#[test]
fn tshark_reads_a_running_capture_without_complaint() {
    let Ok(netns) = Netns::new() else { return println!("SKIP: no network namespaces") };
    let directory = tempfile::tempdir().unwrap();
    for medium in [Medium::Ip, Medium::Ethernet] {
        let path = directory.path().join(format!("{medium:?}.pcapng"));
        netns
            .enter(|| {
                let config = TunTapConfig::new("weft0", medium);
                let device = match TunTap::open(&config) {
                    Ok(mut devices) => devices.remove(0),
                    Err(e) => return println!("SKIP: {e}"),
                };
                Netlink::open().unwrap().add_address("weft0", IpAddr::V4(KERNEL), 24).unwrap();
                let file = CaptureFile::create(&path).unwrap();
                let mut peer = Peer::new(Capture::new(device, "weft0", &file));
                talk(&mut peer);
                // The file is read while the capture still runs.
                let Some(bad) = tshark(&path, BAD) else { return println!("SKIP: no tshark") };
                assert_eq!(bad, "");
                for (direction, to) in [(1, 80), (2, 5000)] {
                    let own = format!("frame.packet_flags_direction == {direction}");
                    let own = format!("{own} && (tcp.dstport == {to} || udp.srcport == {to})");
                    assert!(!tshark(&path, &own).unwrap().is_empty(), "{own}");
                }
                let data = tshark(&path, "tcp.dstport == 80 && tcp.len == 1460").unwrap();
                assert!(data.lines().count() >= 60, "super-segments are written as they are cut");
                assert_eq!(file.failure(), None);
            })
            .unwrap();
    }
}

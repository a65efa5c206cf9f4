//! AF_PACKET on one end of a veth pair, the kernel on the other.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::{How, OURS, Peer, Tcp, UDP, pattern};
use weft_drivers::device::{Device, Steer};
use weft_drivers::netns::Netns;
use weft_drivers::packet::{Packet, PacketConfig, PacketReceive};
use weft_stack::frame::{Checksum, Frame, Gso};

fn configs() -> Vec<PacketConfig> {
    let mut configs = Vec::new();
    for receive in [PacketReceive::Messages, PacketReceive::Ring] {
        for vnet in [true, false] {
            configs.push(PacketConfig { receive, vnet, ..PacketConfig::new("weft0") });
        }
    }
    configs
}

#[test]
fn datagrams_go_both_ways_with_their_checksum_states() {
    for config in configs() {
        common::with_packet(&config, |mut devices| {
            let mut peer = Peer::new(devices.remove(0));
            let socket = common::kernel_udp();
            for (i, partial) in [true, false, true].into_iter().enumerate() {
                let frag = (i > 0).then_some(100);
                let how = How { partial, frag, ..How::default() };
                let reply = common::echoed(&mut peer, &socket, &pattern(300 + i), how);
                // A veth never completes what its kernel left to hardware; the state says so.
                let left = matches!(reply.frame.meta.checksum, Checksum::Partial { .. });
                assert_ne!(left, reply.checksum_is_complete());
                assert!(left);
            }
            let stats = peer.device.stats();
            assert_eq!((stats.tx_dropped, stats.rx_errors, stats.rx_dropped), (0, 0, 0));
        });
    }
}

#[test]
fn tcp_super_segments_cross_whole() {
    const LEN: usize = 400_000;
    for config in configs().into_iter().filter(|config| config.vnet) {
        common::with_packet(&config, |mut devices| {
            let mut peer = Peer::new(devices.remove(0));
            let client = common::kernel_client(LEN);
            let mut tcp = Tcp::accept(&mut peer, 80);
            let (got, largest) = tcp.receive(&mut peer, LEN);
            assert_eq!(got, pattern(LEN));
            let Gso::Tcp4 { mss } = largest.frame.meta.gso else { panic!("no super-segment") };
            assert_eq!(mss, 1460);
            assert!(largest.payload().len() > 4 * usize::from(mss));
            common::send_to_kernel_client(&mut peer, &mut tcp);
            client.join().unwrap();
            let stats = peer.device.stats();
            assert!(stats.tx_frames >= 5 * 40_000_u64.div_ceil(1460));
            assert_eq!((stats.tx_dropped, stats.rx_errors), (0, 0));
        });
    }
}

#[test]
fn super_segments_are_cut_in_software_without_the_header() {
    let config = PacketConfig { vnet: false, ..PacketConfig::new("weft0") };
    common::with_packet(&config, |mut devices| {
        let mut peer = Peer::new(devices.remove(0));
        let socket = common::kernel_udp();
        let payload = pattern(10 * 1000 + 10);
        common::one_super_segment_arrives_cut(&mut peer, &socket, &payload);
        let stats = peer.device.stats();
        assert!(stats.tx_frames >= 11 && stats.copied_bytes() >= payload.len() as u64);
    });
}

#[test]
fn several_datagrams_in_one_frame_stay_together() {
    for config in configs().into_iter().filter(|config| config.vnet) {
        common::with_packet(&config, |mut devices| {
            let mut peer = Peer::new(devices.remove(0));
            common::datagrams_come_together(&mut peer, &common::kernel_udp());
        });
    }
}

#[test]
fn the_filter_follows_the_steering() {
    common::with_packet(&PacketConfig::new("weft0"), |mut devices| {
        let mut peer = Peer::new(devices.remove(0));
        let socket = common::kernel_udp();
        let other = Ipv4Addr::new(10, 9, 0, 3);
        peer.device.steer(Steer::Add(other.into())).unwrap();
        peer.device.steer(Steer::Add(OURS.into())).unwrap();
        peer.device.steer(Steer::Remove(other.into())).unwrap();
        // The kernel asks for the one that is not ours first; only the other question arrives.
        socket.send_to(b"lost", (other, 9)).unwrap();
        socket.send_to(b"found", (OURS, 9)).unwrap();
        let packet = peer.receive(UDP);
        assert_eq!(packet.payload(), b"found");
        assert!(!peer.asked.contains(&other));
    });
}

#[test]
fn flows_are_spread_over_queues_and_nothing_arrives_twice() {
    let config = PacketConfig { queues: 2, ..PacketConfig::new("weft0") };
    common::with_packet(&config, |mut devices| {
        assert_eq!(devices.len(), 2);
        let mut second = devices.remove(1);
        let mut first = Peer::unresolved(devices.remove(0));
        let socket = common::kernel_udp();
        let mut flows = 0;
        let mut burst = Vec::new();
        let mut arp = std::collections::VecDeque::new();
        for port in 0..64u16 {
            socket.send_to(b"x", (OURS, 6000 + port)).unwrap();
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let mut per_queue = [0; 2];
        while flows < 64 {
            for (queue, device) in [&mut first.device, &mut second].into_iter().enumerate() {
                device.receive(&mut burst, 32).unwrap();
                for frame in burst.drain(..) {
                    if frame.data()[12..14] == [8, 6] {
                        arp.push_back(frame);
                    } else if frame.data()[23] == UDP && frame.data()[36] >= 0x17 {
                        flows += 1;
                        per_queue[queue] += 1;
                    }
                }
            }
            for request in arp.drain(..) {
                first.answer_arp(&request);
            }
            assert!(std::time::Instant::now() < deadline, "{flows} of 64");
        }
        assert!(per_queue[0] > 0 && per_queue[1] > 0, "{per_queue:?}");
        let total = first.device.stats().rx_frames + second.stats().rx_frames;
        assert!(total < 64 + 16, "{total} frames for 64 datagrams");
    });
}

#[test]
fn a_dropped_ring_is_unmapped() {
    let config = PacketConfig { receive: PacketReceive::Ring, ..PacketConfig::new("weft0") };
    common::with_packet(&config, |devices| {
        let inode = rustix::fs::fstat(devices[0].fd().unwrap()).unwrap().st_ino;
        let mapped = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.contains(&format!("socket:[{inode}]"))
        };
        assert!(mapped());
        drop(devices);
        assert!(!mapped());
    });
}

#[test]
fn an_absent_interface_is_named() {
    let Ok(netns) = Netns::new() else { return println!("SKIP: no network namespaces") };
    let error = netns.enter(|| Packet::open(&PacketConfig::new("nic7")).err()).unwrap().unwrap();
    assert!(error.to_string().contains("nic7"), "{error}");
}

#[test]
fn a_tag_that_the_kernel_takes_out_is_put_back() {
    for config in configs() {
        common::with_packet(&config, |mut devices| {
            let mut peer = Peer::new(devices.remove(0));
            let sender = Packet::open(&PacketConfig::new("kernel0")).unwrap().remove(0);
            let mut sender = Peer::unresolved(sender);
            let mut tagged = [&peer.device.link().mac.unwrap()[..], &peer.kernel_mac].concat();
            tagged.extend([0x81, 0, 0x20, 7, 0x88, 0xb5]);
            tagged.extend(pattern(64));
            sender.send(Frame::from_heap(0, &tagged));
            assert_eq!(peer.next_of(0x8100).data(), tagged);
        });
    }
}

#[test]
fn frames_that_nobody_took_are_counted_as_dropped() {
    for config in configs().into_iter().filter(|config| config.vnet) {
        common::with_packet(&config, |mut devices| {
            let mut peer = Peer::new(devices.remove(0));
            let socket = common::kernel_udp();
            for _ in 0..40_000 {
                socket.send_to(&[7; 1400], (OURS, 5000)).unwrap();
            }
            let mut burst = Vec::new();
            while peer.device.receive(&mut burst, 64).unwrap() > 0 {
                burst.clear();
            }
            let stats = peer.device.stats();
            assert!(stats.rx_dropped > 0 && stats.rx_frames > 1000, "{stats:?}");
            // Reading does not forget.
            assert!(peer.device.stats().rx_dropped >= stats.rx_dropped);
        });
    }
}

//! TUN and TAP against the kernel, each in a namespace of its own.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::IpAddr;

use common::{How, KERNEL, Peer, Tcp, pattern};
use weft_drivers::device::{Device, Medium};
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_drivers::tuntap::{TunTap, TunTapConfig};
use weft_stack::frame::{Checksum, Gso};

/// Runs a test in a namespace that has the interface `weft0` with the kernel's address.
fn with_device(config: TunTapConfig, test: impl FnOnce(Peer<TunTap>) + Send) {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(e) => return println!("SKIP: {e}"),
    };
    netns
        .enter(move || {
            let mut devices = match TunTap::open(&config) {
                Ok(devices) => devices,
                Err(e) if e.operation == "open" => return println!("SKIP: {e}"),
                Err(e) => panic!("{e}"),
            };
            let mut netlink = Netlink::open().unwrap();
            netlink.add_address("weft0", IpAddr::V4(KERNEL), 24).unwrap();
            test(Peer::new(devices.remove(0)));
        })
        .unwrap();
}

fn configs() -> Vec<TunTapConfig> {
    let mut configs = Vec::new();
    for medium in [Medium::Ip, Medium::Ethernet] {
        for vnet in [true, false] {
            configs.push(TunTapConfig { vnet, ..TunTapConfig::new("weft0", medium) });
        }
    }
    configs
}

#[test]
fn datagrams_go_both_ways() {
    for config in configs() {
        with_device(config, |mut peer| {
            let socket = common::kernel_udp();
            for (i, partial) in [true, false, true].into_iter().enumerate() {
                let frag = (i > 0).then_some(100);
                let how = How { partial, frag, ..How::default() };
                let reply = common::echoed(&mut peer, &socket, &pattern(300 + i), how);
                let left = matches!(reply.frame.meta.checksum, Checksum::Partial { .. });
                assert_ne!(left, reply.checksum_is_complete());
                assert_eq!(left, peer.device.caps().rx_checksum);
            }
            let stats = peer.device.stats();
            assert!(stats.tx_frames >= 3 && stats.rx_frames >= 3);
            assert_eq!((stats.tx_dropped, stats.rx_errors), (0, 0));
        });
    }
}

#[test]
fn tcp_super_segments_cross_whole_with_offload_and_cut_without() {
    const LEN: usize = 400_000;
    for config in configs() {
        let vnet = config.vnet;
        with_device(config, |mut peer| {
            let client = common::kernel_client(LEN);
            let mut tcp = Tcp::accept(&mut peer, 80);
            let (got, largest) = tcp.receive(&mut peer, LEN);
            assert_eq!(got, pattern(LEN));
            if vnet {
                let Gso::Tcp4 { mss } = largest.frame.meta.gso else { panic!("no super-segment") };
                assert_eq!(mss, 1460);
                assert!(largest.payload().len() > 8 * usize::from(mss));
                assert!(matches!(largest.frame.meta.checksum, Checksum::Partial { .. }));
            } else {
                assert!(largest.checksum_is_complete() && largest.payload().len() <= 1460);
            }
            common::send_to_kernel_client(&mut peer, &mut tcp);
            client.join().unwrap();
            let stats = peer.device.stats();
            // One packet for each 1460 bytes, however it crossed.
            assert!(stats.tx_frames >= 5 * 40_000_u64.div_ceil(1460));
            assert_eq!(stats.tx_dropped, 0);
            assert!(!vnet || stats.copied_bytes() < LEN as u64);
        });
    }
}

#[test]
fn udp_super_segments_are_cut_by_kernel_or_driver() {
    for config in configs() {
        with_device(config, |mut peer| {
            let socket = common::kernel_udp();
            let payload = pattern(10 * 1000 + 10);
            common::one_super_segment_arrives_cut(&mut peer, &socket, &payload);
            common::datagrams_come_together(&mut peer, &socket);
        });
    }
}

#[test]
fn an_interface_goes_with_its_descriptors_and_several_queues_carry() {
    let Ok(netns) = Netns::new() else { return println!("SKIP: no network namespaces") };
    netns
        .enter(|| {
            let config = TunTapConfig {
                queues: 2,
                mtu: Some(9000),
                ..TunTapConfig::new("weft%d", Medium::Ethernet)
            };
            let devices = match TunTap::open(&config) {
                Ok(devices) => devices,
                Err(e) => return println!("SKIP: {e}"),
            };
            assert_eq!((devices.len(), devices[1].name()), (2, "weft0"));
            assert_eq!(devices[0].link().mtu, 9000);
            assert!(devices[0].link().up);
            let mut netlink = Netlink::open().unwrap();
            let kernel = netlink.link("weft0").unwrap().mac;
            assert!(devices[0].link().mac.is_some() && devices[0].link().mac != kernel);
            let busy = TunTap::open(&TunTapConfig::new("weft0", Medium::Ip)).err().unwrap();
            assert!(busy.to_string().starts_with("attach on weft0: "), "{busy}");
            drop(devices);
            assert!(netlink.link("weft0").is_err());
        })
        .unwrap();
}

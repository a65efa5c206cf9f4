//! Multicast and broadcast frames reach both the kernel and us.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use weft_drivers::afxdp::XdpMode;
use weft_drivers::device::{Device, Steer};
use weft_drivers::netlink::Netlink;
use weft_stack::frame::Frame;

use crate::lab::*;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const UNKNOWN_GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 9, 9);

fn both_get_a_group(mode: XdpMode) {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(mode, &umem(&lab.near, 2048, 2048));
    host.device.steer(Steer::Add(GROUP.into())).unwrap();
    let listener = udp_socket(&lab.near, Ipv4Addr::UNSPECIFIED.into());
    listener.join_multicast_v4(&GROUP, &KERNEL4).unwrap();
    let port = listener.local_addr().unwrap().port();
    let everywhere: IpAddr = Ipv4Addr::new(224, 0, 0, 0).into();
    lab.far
        .enter(|| Netlink::open().unwrap().add_route(everywhere, 4, None, Some("peer")))
        .unwrap()
        .unwrap();
    let socket: UdpSocket = lab.far_socket(PEER4);
    for i in 0..50u8 {
        socket.send_to(&[0], (UNKNOWN_GROUP, port)).unwrap();
        socket.send_to(&[i; 100], (GROUP, port)).unwrap();
        let ours = host.datagram();
        assert_eq!((ours.port, ours.payload), (port, vec![i; 100]));
        let mut buffer = [0; 200];
        let n = listener.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..n], [i; 100]);
    }
}

#[test]
fn a_group_reaches_the_kernel_and_us_in_native_mode() {
    both_get_a_group(XdpMode::Native);
}

#[test]
fn a_group_reaches_the_kernel_and_us_in_generic_mode() {
    both_get_a_group(XdpMode::Generic);
}

#[test]
fn what_every_host_must_hear_is_copied_with_its_vlan_tag() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(XdpMode::Native, &umem(&lab.near, 2048, 2048));
    let far_program = lab.far_program();
    let mut far = lab.far_device(&umem(&lab.far, 2048, 2048), 0, &far_program);
    let to_all = ([1, 0, 0x5e, 0, 0, 1], PEER_MAC);
    let heard = [
        neighbour(136, PEER6, ALL_NODES, PEER6),
        tagged(&neighbour(136, PEER6, ALL_NODES, PEER6), 9),
        arp(BROADCAST, PEER_MAC, 1, PEER4, PEER4),
        arp(BROADCAST, PEER_MAC, 2, PEER4, PEER4),
        // Somebody announces our address: a conflict that both must hear of.
        arp(BROADCAST, PEER_MAC, 1, OURS4, OURS4),
        udp((PEER_MAC, BROADCAST), (PEER4, 1), (Ipv4Addr::BROADCAST, 2), b"limited broadcast"),
        udp((to_all.1, to_all.0), (PEER4, 1), (Ipv4Addr::new(224, 0, 0, 1), 2), b"all hosts"),
    ];
    let not_heard = [
        udp((PEER_MAC, BROADCAST), (PEER4, 1), (Ipv4Addr::new(10, 1, 0, 255), 2), b"subnet"),
        neighbour(136, PEER6, "ff02::2".parse().unwrap(), PEER6),
        arp(BROADCAST, PEER_MAC, 1, PEER4, OTHER4),
    ];
    let passed_before = host.program.counters().unwrap().passed;
    let frames = not_heard.iter().chain(&heard).map(|bytes| Frame::from_heap(0, bytes));
    send(&mut far, frames.collect::<Vec<_>>());
    let got = collect(&mut host.device, heard.len(), |f| heard.iter().any(|h| h == f.data()));
    for (got, sent) in got.iter().zip(&heard) {
        assert_eq!(got.data(), sent);
    }
    let passed = host.program.counters().unwrap().passed - passed_before;
    assert!(passed >= (heard.len() + not_heard.len()) as u64, "the kernel got them too: {passed}");
    let mut later = Vec::new();
    host.device.receive(&mut later, 64).unwrap();
    assert!(!later.iter().any(|f| not_heard.iter().any(|h| h == f.data())));
}

#[test]
fn the_nic_is_told_of_the_groups_while_the_device_is_open() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let groups = || {
        lab.near
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev_mcast"))
            .unwrap()
            .unwrap()
    };
    let host = lab.host(XdpMode::Native, &umem(&lab.near, 2048, 2048));
    assert!(groups().contains("3333ff000050"), "solicited-node group of our address");
    host.program.steer(Steer::Add(GROUP.into())).unwrap();
    assert!(groups().contains("01005e010203"));
    host.program.steer(Steer::Remove(GROUP.into())).unwrap();
    assert!(!groups().contains("01005e010203"));
    drop(host);
    assert!(!groups().contains("3333ff000050"));
}

#[test]
fn a_thousand_groups_are_no_more_than_one_wide_filter() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(XdpMode::Native, &umem(&lab.near, 2048, 2048));
    let address = |i: u16| IpAddr::from([0xfd02, 0, 0, 0, 0, 0, i >> 8, i & 0xff | 0x100]);
    for i in 0..1000 {
        host.device.steer(Steer::Add(address(i))).unwrap();
    }
    host.device.steer(Steer::Add(GROUP.into())).unwrap();
    let far_program = lab.far_program();
    let mut far = lab.far_device(&umem(&lab.far, 2048, 2048), 0, &far_program);
    let frame = udp((PEER_MAC, [1, 0, 0x5e, 1, 2, 3]), (PEER4, 1), (GROUP, 2), b"still heard");
    send(&mut far, [Frame::from_heap(0, &frame)]);
    collect(&mut host.device, 1, |f| f.data() == frame);
    for i in 0..1000 {
        host.device.steer(Steer::Remove(address(i))).unwrap();
    }
}

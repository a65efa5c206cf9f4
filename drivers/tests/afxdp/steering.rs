//! What comes to us and what stays the kernel's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use weft_drivers::afxdp::{AfXdp, AfXdpOptions, XdpMode, XdpProgram};
use weft_drivers::device::{Device, Steer};
use weft_stack::frame::Frame;

use crate::lab::*;

const IN: ([u8; 6], [u8; 6]) = (PEER_MAC, NIC_MAC);

fn marker() -> Vec<u8> {
    udp(IN, (PEER6, 9), (OURS6, 9), b"marker")
}

/// Sends frames from the far end, then a marker; returns what came before the marker.
fn inject(far: &mut impl Device, near: &mut AfXdp, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let marker = marker();
    let all: Vec<Frame> =
        frames.iter().chain([&marker]).map(|bytes| Frame::from_heap(0, bytes)).collect();
    send(far, all);
    let mut got = Vec::new();
    collect(near, 1, |frame| {
        let ended = frame.data() == marker;
        got.push(frame.data().to_vec());
        ended
    });
    got
}

fn for_us() -> Vec<Vec<u8>> {
    vec![
        udp(IN, (PEER4, 1), (OURS4, 2), b"v4"),
        udp(IN, (PEER6, 1), (OURS6, 2), b"v6"),
        tagged(&udp(IN, (PEER4, 1), (OURS4, 2), b"v4 in a VLAN"), 7),
        tagged(&udp(IN, (PEER6, 1), (OURS6, 2), b"v6 in a VLAN"), 7),
        tagged(&tagged(&udp(IN, (PEER4, 1), (OURS4, 2), b"two tags"), 7), 8),
        arp(BROADCAST, PEER_MAC, 1, PEER4, OURS4),
        arp(NIC_MAC, PEER_MAC, 2, PEER4, OURS4),
        neighbour(135, PEER6, solicited_node(OURS6), OURS6),
        neighbour(136, PEER6, OURS6, PEER6),
    ]
}

fn for_others() -> Vec<Vec<u8>> {
    vec![
        udp(IN, (PEER4, 1), (OTHER4, 2), b"v4"),
        udp(IN, (PEER6, 1), (OTHER6, 2), b"v6"),
        udp(IN, (PEER4, 1), (KERNEL4, 2), b"v4"),
        udp(IN, (PEER6, 1), (KERNEL6, 2), b"v6"),
        tagged(&udp(IN, (PEER4, 1), (OTHER4, 2), b"v4 in a VLAN"), 7),
        tagged(&tagged(&udp(IN, (PEER4, 1), (OTHER4, 2), b"two tags"), 7), 8),
        tagged(&tagged(&tagged(&udp(IN, (PEER4, 1), (OURS4, 2), b"three tags"), 7), 8), 9),
        arp(BROADCAST, PEER_MAC, 1, PEER4, OTHER4),
        arp(BROADCAST, PEER_MAC, 1, PEER4, KERNEL4),
        neighbour(135, PEER6, solicited_node(OTHER6), OTHER6),
        // The same solicited-node group as ours, another target.
        neighbour(135, PEER6, solicited_node(OURS6), OTHER6),
        ethernet(NIC_MAC, PEER_MAC, 0x88cc, &[0; 50]),
        ethernet(NIC_MAC, PEER_MAC, 0x0800, &[0x45; 10]),
        ethernet(NIC_MAC, PEER_MAC, 0x86dd, &[0x60; 30]),
        ethernet(NIC_MAC, PEER_MAC, 0x0806, &[0; 20]),
        ethernet(NIC_MAC, PEER_MAC, 0x8100, &[0, 7]),
    ]
}

fn only_listed_addresses_come(mode: XdpMode) {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(mode, &umem(&lab.near, 2048, 2048));
    let far_program = lab.far_program();
    let mut far = lab.far_device(&umem(&lab.far, 2048, 2048), 0, &far_program);
    let (ours, others) = (for_us(), for_others());
    let mixed: Vec<_> =
        ours.iter().zip(&others).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let rest = others[ours.len()..].to_vec();
    let mut got = inject(&mut far, &mut host.device, &mixed);
    got.extend(inject(&mut far, &mut host.device, &rest));
    for frame in &ours {
        assert!(got.contains(frame), "missing: {frame:02x?}");
    }
    for frame in &others {
        assert!(!got.contains(frame), "came to us: {frame:02x?}");
    }
    let counters = host.program.counters().unwrap();
    assert!(counters.redirected >= ours.len() as u64 + 2, "{counters:?}");
    assert!(counters.passed >= others.len() as u64, "{counters:?}");
}

#[test]
fn only_listed_addresses_come_in_native_mode() {
    only_listed_addresses_come(XdpMode::Native);
}

#[test]
fn only_listed_addresses_come_in_generic_mode() {
    only_listed_addresses_come(XdpMode::Generic);
}

#[test]
fn an_address_taken_back_is_the_kernels_again() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(XdpMode::Native, &umem(&lab.near, 2048, 2048));
    let far_program = lab.far_program();
    let mut far = lab.far_device(&umem(&lab.far, 2048, 2048), 0, &far_program);
    let frame = udp(IN, (PEER4, 1), (OURS4, 2), b"v4");
    let frames = [frame.clone()];
    host.device.steer(Steer::Add(OURS4.into())).unwrap();
    assert!(inject(&mut far, &mut host.device, &frames).contains(&frame));
    host.device.steer(Steer::Remove(OURS4.into())).unwrap();
    host.device.steer(Steer::Remove(OURS4.into())).unwrap();
    assert!(!inject(&mut far, &mut host.device, &frames).contains(&frame));
    host.device.steer(Steer::Add(OURS4.into())).unwrap();
    assert!(inject(&mut far, &mut host.device, &frames).contains(&frame));
}

#[test]
fn protocols_of_the_link_come_while_they_are_wanted() {
    const SLOW: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 2];
    const BOND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let Some(lab) = Lab::new(1, 1500) else { return };
        let mut host = lab.host(mode, &umem(&lab.near, 2048, 2048));
        let far_program = lab.far_program();
        let mut far = lab.far_device(&umem(&lab.far, 2048, 2048), 0, &far_program);
        let lacp = ethernet(SLOW, PEER_MAC, 0x8809, &[1; 110]);
        let probe = tagged(&ethernet(BOND_MAC, PEER_MAC, 0x88b5, &[2; 50]), 5);
        let lldp = ethernet([0x01, 0x80, 0xc2, 0, 0, 0x0e], PEER_MAC, 0x88cc, &[0; 50]);
        let frames = [lacp.clone(), probe.clone(), lldp.clone()];
        assert!(inject(&mut far, &mut host.device, &frames).len() == 1, "only the marker");
        for change in
            [Steer::AddEthertype(0x8809), Steer::AddEthertype(0x88b5), Steer::AddMac(BOND_MAC)]
        {
            host.device.steer(change).unwrap();
            host.device.steer(change).unwrap();
        }
        let got = inject(&mut far, &mut host.device, &frames);
        assert!(got.contains(&lacp) && got.contains(&probe) && !got.contains(&lldp));
        assert_eq!(got.len(), 3, "each comes once");
        // A bond has one address for all its ports: not this NIC's own.
        let unicast = udp((PEER_MAC, BOND_MAC), (PEER4, 1), (OURS4, 2), b"to the bond");
        assert!(
            inject(&mut far, &mut host.device, std::slice::from_ref(&unicast)).contains(&unicast)
        );
        for change in [Steer::RemoveEthertype(0x8809), Steer::RemoveMac(BOND_MAC)] {
            host.device.steer(change).unwrap();
            host.device.steer(change).unwrap();
        }
        let got = inject(&mut far, &mut host.device, &frames);
        assert!(!got.contains(&lacp) && got.contains(&probe));
    }
}

#[test]
fn the_kernels_own_address_still_serves_udp_and_tcp() {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let Some(lab) = Lab::new(1, 1500) else { return };
        let _host = lab.host(mode, &umem(&lab.near, 2048, 2048));
        for (near, far) in [(KERNEL4.into(), PEER4.into()), (KERNEL6.into(), PEER6.into())] {
            let server = udp_socket(&lab.near, near);
            let client = udp_socket(&lab.far, far);
            client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 16];
            assert_eq!(server.recv_from(&mut buffer).unwrap().1, client.local_addr().unwrap());

            let listener = lab.near.enter(|| TcpListener::bind((near, 0))).unwrap().unwrap();
            let to = listener.local_addr().unwrap();
            let mut stream = lab.far.enter(|| TcpStream::connect(to)).unwrap().unwrap();
            stream.write_all(b"hello").unwrap();
            let mut text = [0; 5];
            listener.accept().unwrap().0.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
        }
    }
}

#[test]
fn four_queues_split_their_frames_exactly() {
    let Some(lab) = Lab::new(4, 1500) else { return };
    let near_umem = umem(&lab.near, 4096, 2048);
    let far_umem = umem(&lab.far, 4096, 2048);
    let program = lab.attach(XdpMode::Native);
    assert_eq!(program.nic().rx_queues, 4);
    program.steer(Steer::Add(OURS4.into())).unwrap();
    let far_program = lab.far_program();
    let mut near: Vec<_> = (0..4).map(|q| lab.open(&program, q, &near_umem)).collect();
    let mut far: Vec<_> = (0..4).map(|q| lab.far_device(&far_umem, q, &far_program)).collect();
    for (q, device) in far.iter_mut().enumerate() {
        let frames: Vec<_> = (0..50)
            .map(|i| pooled(device, &udp(IN, (PEER4, 1), (OURS4, 2), &[q as u8, i])))
            .collect();
        send(device, frames);
    }
    for (q, device) in near.iter_mut().enumerate() {
        let frames = collect(device, 50, |f| datagram(f).is_some());
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(datagram(frame).unwrap().payload, [q as u8, i as u8]);
            assert_eq!(usize::from(frame.meta.queue), q);
        }
        assert_eq!(device.receive(&mut Vec::new(), 1).unwrap(), 0);
    }
    assert!(program.unserved_queues().is_none());
    near.pop();
    let text = program.unserved_queues().unwrap();
    assert!(text.contains("3 of 4") && text.contains("ethtool -L nic combined 3"), "{text}");
    near.push(lab.open(&program, 3, &near_umem));
    let fifth = lab
        .near
        .enter(|| AfXdp::open(&program, 4, &near_umem, AfXdpOptions::default()).map(|_| ()))
        .unwrap();
    let error = fifth.unwrap_err().to_string();
    assert!(error.contains("4 receive queues") && error.contains("ethtool -L"), "{error}");
    let again = lab
        .near
        .enter(|| AfXdp::open(&program, 3, &near_umem, AfXdpOptions::default()).map(|_| ()))
        .unwrap();
    let error = again.unwrap_err().to_string();
    assert!(error.contains("already open"), "{error}");
}

#[test]
fn each_nic_of_a_process_has_room_for_its_own_number_of_queues() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    for (number, queues) in [(2, 4), (3, 1), (4, 2)] {
        let (near, far) = (format!("nic{number}"), format!("peer{number}"));
        let macs = [[2, 0, 0, 0, 0, 2 * number - 1], [2, 0, 0, 0, 0, 2 * number]];
        lab.add_pair(&near, &far, macs[0], macs[1], queues, 1500);
        let attached = lab.near.enter(|| XdpProgram::attach(&near, XdpMode::Auto)).unwrap();
        let program = attached.unwrap();
        assert_eq!(program.nic().rx_queues, queues);
        let umem = umem(&lab.near, 1024, 2048);
        // The last one is what the map of a NIC with fewer has no place for.
        lab.open(&program, queues as u32 - 1, &umem);
    }
}

#[test]
fn a_frame_goes_from_one_nic_to_another_without_a_copy() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    lab.add_pair("nic2", "peer2", [2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4], 1, 1500);
    let near_umem = umem(&lab.near, 4096, 2048);
    let mut host = lab.host(XdpMode::Auto, &near_umem);
    let second = lab.near.enter(|| XdpProgram::attach("nic2", XdpMode::Auto)).unwrap().unwrap();
    let mut second = lab.open(&second, 0, &near_umem);
    let far_program =
        lab.far.enter(|| XdpProgram::attach("peer2", XdpMode::Native)).unwrap().unwrap();
    far_program.steer(Steer::Add(OURS4.into())).unwrap();
    let mut far = lab.far_device(&umem(&lab.far, 2048, 2048), 0, &far_program);

    lab.far_socket(PEER4).send_to(b"forward me", (OURS4, 7)).unwrap();
    host.wait(|f| datagram(f).map(|_| ()));
    // Once more, now that our address is resolved.
    let copied_before = host.device.stats().copied_bytes();
    lab.far_socket(PEER4).send_to(b"forward me", (OURS4, 7)).unwrap();
    let mut frame = collect(&mut host.device, 1, |f| datagram(f).is_some()).remove(0);
    assert!(near_umem.pool().owns(&frame));
    frame.pull_front(14);
    frame.push_front(14).copy_from_slice(&ethernet([2, 0, 0, 0, 0, 4], NIC_MAC, 0x0800, &[]));
    send(&mut second, [frame]);
    let got = collect(&mut far, 1, |f| datagram(f).is_some()).remove(0);
    assert_eq!(datagram(&got).unwrap().payload, b"forward me");
    assert_eq!(second.stats().copied_bytes(), 0);
    assert_eq!(host.device.stats().copied_bytes(), copied_before);
}

#[test]
fn the_most_addresses_are_a_limit_with_words() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let program = lab.attach(XdpMode::Native);
    let address = |i: u32| std::net::IpAddr::V4(std::net::Ipv4Addr::from(0x0b00_0000 + i));
    for i in 0..65_536 {
        program.steer(Steer::Add(address(i))).unwrap();
    }
    for _ in 0..2 {
        let text = program.steer(Steer::Add(address(65_536))).unwrap_err().to_string();
        assert!(text.contains("steer on 11.1.0.0 on nic") && text.contains("65536"), "{text}");
    }
    program.steer(Steer::Remove(address(7))).unwrap();
    program.steer(Steer::Add(address(65_536))).unwrap();
}

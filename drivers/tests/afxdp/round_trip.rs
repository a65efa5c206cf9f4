//! Frames to and from the kernel and another device, in every mode and size.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use weft_drivers::afxdp::{AfXdp, AfXdpOptions, XdpMode};
use weft_drivers::device::{Device, Steer};
use weft_drivers::ethtool::{Offload, set_offload};
use weft_drivers::segment::{Headers, complete_checksum};
use weft_stack::frame::{Frame, Gso};

use crate::lab::*;

/// The kernel asks over both families, we answer.
fn round_trip(mode: XdpMode, reported: &str) {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let umem = umem(&lab.near, 2048, 2048);
    let mut host = lab.host(mode, &umem);
    assert_eq!(host.device.caps().mode, reported);
    let mac = (NIC_MAC, PEER_MAC);
    let socket4 = lab.far_socket(PEER4);
    let socket6 = lab.far_socket(PEER6);
    for i in 0..20 {
        let question = vec![i; 1 + usize::from(i) * 70];
        socket4.send_to(&question, (OURS4, 7)).unwrap();
        let asked = host.datagram();
        assert_eq!((asked.port, &asked.payload), (7, &question));
        let answer = udp(mac, (OURS4, 7), (PEER4, asked.source_port), &asked.payload);
        let answer = pooled(&host.device, &answer);
        send(&mut host.device, [answer]);

        socket6.send_to(&question, (OURS6, 7)).unwrap();
        let asked = host.datagram();
        assert_eq!((asked.port, &asked.payload), (7, &question));
        let answer = udp(mac, (OURS6, 7), (PEER6, asked.source_port), &asked.payload);
        send(&mut host.device, [Frame::from_heap(0, &answer)]);

        let mut buffer = [0; 2000];
        for socket in [&socket4, &socket6] {
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..n], question);
        }
    }
    let stats = host.device.stats();
    assert!(stats.rx_frames >= 42 && stats.tx_frames >= 42, "{stats:?}");
    assert_eq!((stats.rx_dropped, stats.tx_dropped, stats.rx_errors), (0, 0, 0));
}

#[test]
fn the_kernel_is_answered_in_native_mode() {
    round_trip(XdpMode::Native, "af-xdp native copy");
}

#[test]
fn the_kernel_is_answered_in_generic_mode() {
    round_trip(XdpMode::Generic, "af-xdp generic");
}

#[test]
fn automatic_mode_falls_back_to_copying_where_there_is_no_zero_copy() {
    round_trip(XdpMode::Auto, "af-xdp native copy");
}

#[test]
fn zero_copy_on_a_driver_without_it_is_an_error_that_says_so() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let program = lab.attach(XdpMode::ZeroCopy);
    let umem = umem(&lab.near, 512, 2048);
    let opened =
        lab.near.enter(|| AfXdp::open(&program, 0, &umem, AfXdpOptions::default()).map(|_| ()));
    let error = opened.unwrap().unwrap_err().to_string();
    assert!(error.contains("bind AF_XDP socket on nic queue 0") && error.contains("zero-copy"));
}

#[test]
fn two_devices_pass_ten_thousand_frames_in_order() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let (near_umem, far_umem) = (umem(&lab.near, 2048, 2048), umem(&lab.far, 2048, 2048));
    let mut host = lab.host(XdpMode::Native, &near_umem);
    let far_program = lab.far_program();
    let mut far = lab.far_device(&far_umem, 0, &far_program);
    let mut next = 0u32;
    for _ in 0..100 {
        let frames: Vec<Frame> = (next..next + 100)
            .map(|i| udp((PEER_MAC, NIC_MAC), (PEER4, 1), (OURS4, 2), &i.to_be_bytes()))
            .map(|bytes| pooled(&far, &bytes))
            .collect();
        send(&mut far, frames);
        for frame in collect(&mut host.device, 100, |f| datagram(f).is_some()) {
            assert_eq!(datagram(&frame).unwrap().payload, next.to_be_bytes());
            next += 1;
        }
    }
    assert_eq!(far.stats().tx_frames, 10_000);
    assert_eq!(far.stats().copied_bytes(), 0, "pool frames go out as they are");
    drop(far);
    assert_eq!(far_umem.pool().free(), 2048, "every sent slot came back");
}

#[test]
fn jumbo_frames_cross_in_chains_of_descriptors() {
    for (mode, frame_bytes) in [(XdpMode::Native, 4096), (XdpMode::Generic, 2048)] {
        let Some(lab) = Lab::new(1, 9000) else { return };
        let umem = umem(&lab.near, 2048, frame_bytes);
        let mut host = lab.host(mode, &umem);
        let socket = lab.far_socket(PEER4);
        let question: Vec<u8> = (0..8900u32).map(|i| (i / 7) as u8).collect();
        socket.send_to(&question, (OURS4, 7)).unwrap();
        let (frags, asked) = host.wait(|f| datagram(f).map(|d| (f.frags.len(), d)));
        assert_eq!(asked.payload, question);
        assert!(frags >= 2, "{frags}");
        let mac = (NIC_MAC, PEER_MAC);
        let answer = udp(mac, (OURS4, 7), (PEER4, asked.source_port), &asked.payload);
        send(&mut host.device, [Frame::from_heap(0, &answer)]);
        let mut buffer = vec![0; 9000];
        let n = socket.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..n], question);
    }
}

/// Ethernet, IPv4 and TCP headers of a super-segment, its payload in fragments, the checksum left
/// to the device.
fn super_segment(payload: &[u8]) -> Frame {
    let mut tcp = vec![0, 80, 0, 81, 0, 0, 1, 0, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
    tcp.extend(payload);
    let packet = ip(OURS4.into(), PEER4.into(), 6, &tcp, 16);
    let bytes = ethernet(PEER_MAC, NIC_MAC, 0x0800, &packet);
    let mut frame = Frame::from_heap(0, &bytes[..54]);
    let headers = Headers::parse(&bytes, weft_drivers::device::Medium::Ethernet).unwrap();
    frame.meta.checksum = headers.partial();
    // The field holds the pseudo-header sum only.
    let pseudo = [&OURS4.octets()[..], &PEER4.octets()].concat();
    let sum = weft_stack::wire::checksum::sum(&pseudo);
    let sum = weft_stack::wire::checksum::combine(sum, 6);
    let sum = weft_stack::wire::checksum::combine(sum, tcp.len() as u16);
    frame.data_mut()[50..52].copy_from_slice(&sum.to_be_bytes());
    frame.frags = payload.chunks(9999).map(Bytes::copy_from_slice).collect();
    frame.meta.gso = Gso::Tcp4 { mss: 1460 };
    frame
}

#[test]
fn a_super_segment_arrives_as_segments_with_valid_checksums() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let (near_umem, far_umem) = (umem(&lab.near, 2048, 2048), umem(&lab.far, 2048, 2048));
    let mut host = lab.host(XdpMode::Native, &near_umem);
    let far_program = lab.far_program();
    let mut far = lab.far_device(&far_umem, 0, &far_program);
    far_program.steer(Steer::Add(PEER4.into())).unwrap();
    let payload: Vec<u8> = (0..60_000u32).map(|i| (i / 3) as u8).collect();
    send(&mut host.device, [super_segment(&payload)]);
    let frames = payload.len().div_ceil(1460);
    let mut got: Vec<u8> = Vec::new();
    for frame in collect(&mut far, frames, |f| f.data()[23] == 6) {
        assert!(transport_checksum_is_valid(frame.data()));
        assert!(frame.len() <= 1514);
        let seq = u32::from_be_bytes(frame.data()[38..42].try_into().unwrap());
        assert_eq!(seq as usize, 256 + got.len());
        got.extend(&frame.data()[54..]);
    }
    assert_eq!(got, payload);
    let stats = host.device.stats();
    assert_eq!((stats.tx_frames, stats.tx_dropped), (frames as u64, 0));
}

#[test]
fn frames_that_no_link_takes_are_refused_and_counted() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(XdpMode::Native, &umem(&lab.near, 512, 2048));
    let long = udp((NIC_MAC, PEER_MAC), (OURS4, 7), (PEER4, 7), &[0; 1600]);
    let mut super_of_nothing = super_segment(&[1; 5000]);
    super_of_nothing.meta.gso = Gso::Tcp4 { mss: 0 };
    send(&mut host.device, [Frame::from_heap(0, &long), super_of_nothing]);
    assert_eq!(host.device.stats().tx_dropped, 2);
    assert_eq!(host.device.stats().tx_frames, 0);
}

/// In generic mode the sender's kernel does not cut for us.
#[test]
fn uncut_datagrams_in_generic_mode_are_refused_and_counted() {
    use std::os::fd::AsRawFd;
    let Some(lab) = Lab::new(1, 1500) else { return };
    lab.far.enter(|| set_offload("peer", Offload::TxChecksum, true).unwrap()).unwrap();
    let mut host = lab.host(XdpMode::Generic, &umem(&lab.near, 2048, 2048));
    let socket = lab.far_socket(PEER4);
    socket.send_to(b"resolve", (OURS4, 7)).unwrap();
    host.wait(|f| (f.data()[23] == 17).then_some(()));
    let size: libc::c_int = 1400;
    // SAFETY: pointer and length are of a live c_int.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, 103, (&raw const size).cast(), 4)
    };
    assert_eq!(set, 0);
    socket.send_to(&vec![7; 28_000], (OURS4, 7)).unwrap();
    socket.send_to(b"after it", (OURS4, 7)).unwrap();
    let mut uncut = 0;
    host.wait(|f| {
        assert!(f.total_len() <= 1514, "{f:?}");
        uncut += usize::from(f.total_len() > 1400);
        (f.total_len() < 100 && f.data()[23] == 17).then_some(())
    });
    let errors = host.device.stats().rx_errors;
    assert!(errors == 1 && uncut == 0 || errors == 0 && uncut == 20, "{errors} {uncut}");
}

/// Waits on an edge-triggered epoll of one descriptor, as the worker does; whether it woke.
fn wakes(set: &impl std::os::fd::AsFd, ms: i64) -> bool {
    let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    let mut events = Vec::with_capacity(4);
    epoll::wait(set, spare_capacity(&mut events), Some(&timeout)).unwrap() > 0
}

#[test]
fn an_edge_triggered_worker_is_woken_by_every_frame_and_by_nothing_else() {
    let Some(lab) = Lab::new(2, 1500) else { return };
    let program = lab.attach(XdpMode::Native);
    program.steer(Steer::Add(OURS4.into())).unwrap();
    let far_program = lab.far_program();
    for queue in [0, 1] {
        let near_umem = umem(&lab.near, 2048, 2048);
        let far_umem = umem(&lab.far, 2048, 2048);
        let mut near = lab.open(&program, queue, &near_umem);
        let mut far = lab.far_device(&far_umem, queue, &far_program);
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&set, near.fd().unwrap(), epoll::EventData::new_u64(0), flags).unwrap();
        while wakes(&set, 10) {
            near.receive(&mut Vec::new(), 64).unwrap();
        }
        let unicast = udp((PEER_MAC, NIC_MAC), (PEER4, 1), (OURS4, 2), b"wake up");
        let all = (Ipv4Addr::new(224, 0, 0, 1), 2);
        let copied = udp((PEER_MAC, [1, 0, 0x5e, 0, 0, 1]), (PEER4, 1), all, b"wake up");
        for round in 0..100 {
            let frame = if queue == 0 && round % 2 == 1 { &copied } else { &unicast };
            // A worker that polled for a while, and sleeps now or did when the frame came.
            let late = round % 3 == 0;
            near.watch(!late).unwrap();
            send(&mut far, [Frame::from_heap(0, frame)]);
            near.watch(true).unwrap();
            let mut burst = Vec::new();
            while !burst.iter().any(|f: &Frame| f.data() == frame) {
                assert!(wakes(&set, 20_000), "asleep on a frame in round {round}");
                while near.receive(&mut burst, 64).unwrap() > 0 {}
                near.flush().unwrap();
            }
        }
        while wakes(&set, 10) {
            near.receive(&mut Vec::new(), 64).unwrap();
        }
        assert!(!wakes(&set, 50), "woken for nothing");
        near.watch(false).unwrap();
        send(&mut far, [Frame::from_heap(0, &unicast)]);
        assert!(!wakes(&set, 50), "nobody asked");
        collect(&mut near, 1, |f| f.data() == unicast);
    }
}

#[test]
fn a_batch_costs_few_system_calls() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(XdpMode::Native, &umem(&lab.near, 4096, 2048));
    let frame = udp((NIC_MAC, PEER_MAC), (OURS4, 7), (PEER4, 7), &[0; 1000]);
    let mut burst = (0..1024).map(|_| Frame::from_heap(0, &frame)).collect();
    assert_eq!(host.device.transmit(&mut burst).unwrap(), 1024);
    let before = host.device.stats().kicks;
    while host.device.flush().unwrap() {}
    let kicks = host.device.stats().kicks - before;
    println!("{kicks} system calls for 1024 frames");
    // One since Linux 6.17, before that one for every 32 frames.
    assert!((1..=33).contains(&kicks), "{kicks}");
}

/// A kernel that leaves segmentation to its NIC; the generic program sees what it never cut.
#[test]
fn uncut_tcp_in_generic_mode_arrives_merged_and_can_be_completed() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    lab.far
        .enter(|| {
            for offload in [Offload::TxChecksum, Offload::Tso, Offload::Gso] {
                set_offload("peer", offload, true).unwrap();
            }
        })
        .unwrap();
    let mut host = lab.host(XdpMode::Generic, &umem(&lab.near, 2048, 2048));
    let data: Vec<u8> = (0..12_000u32).map(|i| (i / 5) as u8).collect();
    let merged = std::thread::scope(|scope| {
        scope.spawn(|| {
            let stream = lab.far.enter(|| TcpStream::connect((OURS4, 80))).unwrap();
            stream.unwrap().write_all(&data).unwrap();
        });
        let syn = host.wait(|f| (f.data()[23] == 6 && f.data()[47] & 2 != 0).then(|| f.to_heap()));
        let syn = syn.data();
        let seq = u32::from_be_bytes(syn[38..42].try_into().unwrap()).wrapping_add(1);
        let mut tcp = [&[0, 80][..], &syn[34..36], &[0, 0, 0, 1], &seq.to_be_bytes()].concat();
        // SYN and ACK, a large window, an MSS of 1460.
        tcp.extend([0x60, 0x12, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4]);
        let packet = ip(OURS4.into(), PEER4.into(), 6, &tcp, 16);
        let answer = ethernet(PEER_MAC, NIC_MAC, 0x0800, &packet);
        send(&mut host.device, [Frame::from_heap(0, &answer)]);
        host.wait(|f| (f.data()[23] == 6 && f.total_len() > 3000).then(|| f.to_heap()))
    });
    assert_eq!(merged.meta.gso, Gso::Tcp4 { mss: 1460 });
    let mut merged = merged;
    assert!(complete_checksum(&mut merged));
    assert!(transport_checksum_is_valid(merged.data()));
    assert!(data.starts_with(&merged.data()[54..]));
    assert_eq!(host.device.stats().rx_errors, 0);
}

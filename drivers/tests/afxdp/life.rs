//! Opening, holding on, letting go, and being killed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use weft_drivers::afxdp::{AfXdp, AfXdpOptions, UmemPool, XdpMode, XdpProgram};
use weft_drivers::device::{Device, Link, Steer};
use weft_drivers::netlink::Netlink;
use weft_stack::frame::Frame;

use crate::lab::*;

/// Asks the host over UDP from the far kernel.
fn is_served(lab: &Lab, host: &mut Host) {
    lab.far_socket(PEER4).send_to(b"alive?", (OURS4, 7)).unwrap();
    host.wait(|f| datagram(f).filter(|d| d.payload == b"alive?").map(|_| ()));
}

#[test]
fn a_dropped_queue_is_bound_again_at_once() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    for mode in [XdpMode::Native, XdpMode::Generic, XdpMode::Native] {
        let umem_a = umem(&lab.near, 2048, 2048);
        let mut host = lab.host(mode, &umem_a);
        is_served(&lab, &mut host);
        let frame = umem_a.pool().alloc().unwrap();
        drop(host);
        assert_eq!(umem_a.pool().free(), 2047, "every slot came back");
        let mut host = lab.host(mode, &umem_a);
        is_served(&lab, &mut host);
        drop(host);
        assert_eq!(umem_a.pool().free(), 2047, "the same memory, once more");
        let mut host = lab.host(mode, &umem(&lab.near, 1024, 4096));
        is_served(&lab, &mut host);
        drop(frame);
    }
}

/// Also the first queue of a UMEM, which to the kernel is the UMEM itself.
#[test]
fn queues_close_and_reopen_in_any_order_while_one_is_open() {
    let Some(lab) = Lab::new(3, 1500) else { return };
    let near_umem = umem(&lab.near, 4096, 2048);
    let program = lab.attach(XdpMode::Native);
    program.steer(Steer::Add(OURS4.into())).unwrap();
    let far_program = lab.far_program();
    let far_umem = umem(&lab.far, 4096, 2048);
    let mut far: Vec<_> = (0..3).map(|q| lab.far_device(&far_umem, q, &far_program)).collect();
    let mut near: Vec<_> = (0..3).map(|q| Some(lab.open(&program, q, &near_umem))).collect();
    for closed in [0, 0, 1, 2, 0, 1] {
        near[closed] = None;
        let other = lab.open(&program, closed as u32, &umem(&lab.near, 1024, 2048));
        drop(other);
        near[closed] = Some(lab.open(&program, closed as u32, &near_umem));
        for (q, device) in near.iter_mut().enumerate() {
            let frame = udp((PEER_MAC, NIC_MAC), (PEER4, 1), (OURS4, 2), &[q as u8]);
            send(&mut far[q], [Frame::from_heap(0, &frame)]);
            collect(device.as_mut().unwrap(), 1, |f| f.data() == frame);
        }
    }
    drop(near);
    assert_eq!(near_umem.pool().free(), 4096);
}

#[test]
fn frames_outlive_their_device() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let umem = umem(&lab.near, 2048, 2048);
    let mut host = lab.host(XdpMode::Native, &umem);
    lab.far_socket(PEER4).send_to(b"kept", (OURS4, 7)).unwrap();
    host.wait(|f| datagram(f).map(|_| ()));
    lab.far_socket(PEER4).send_to(b"kept", (OURS4, 7)).unwrap();
    let frame = collect(&mut host.device, 1, |f| datagram(f).is_some()).remove(0);
    drop(host);
    drop(umem);
    assert_eq!(datagram(&frame).unwrap().payload, b"kept");
}

#[test]
fn a_second_program_on_a_nic_is_an_error_that_names_the_remedy() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let _first = lab.attach(XdpMode::Native);
    for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
        let error = lab.near.enter(|| XdpProgram::attach("nic", mode)).unwrap().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("attach XDP program on nic") && text.contains("xdp off"), "{text}");
    }
}

#[test]
fn a_queue_is_opened_once_whatever_the_memory() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let host = lab.host(XdpMode::Native, &umem(&lab.near, 512, 2048));
    let other = umem(&lab.near, 512, 2048);
    let opened = lab
        .near
        .enter(|| AfXdp::open(&host.program, 0, &other, AfXdpOptions::default()).map(|_| ()));
    let text = opened.unwrap().unwrap_err().to_string();
    assert!(text.contains("already open in this process"), "{text}");
}

#[test]
fn one_memory_serves_nics_of_two_namespaces_without_copies() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let both = umem(&lab.far, 2048, 2048);
    let mut host = lab.host(XdpMode::Native, &both);
    let far_program = lab.far_program();
    let mut far = lab.far_device(&both, 0, &far_program);
    far_program.steer(Steer::Add(PEER4.into())).unwrap();
    let there = udp((NIC_MAC, PEER_MAC), (OURS4, 1), (PEER4, 2), b"there and back");
    send(&mut host.device, [pooled(&far, &there)]);
    let mut frame = collect(&mut far, 1, |f| f.data() == there).remove(0);
    let back = udp((PEER_MAC, NIC_MAC), (PEER4, 1), (OURS4, 2), b"there and back");
    frame.data_mut().copy_from_slice(&back);
    send(&mut far, [frame]);
    collect(&mut host.device, 1, |f| f.data() == back);
    assert_eq!((host.device.stats().copied_bytes(), far.stats().copied_bytes()), (0, 0));
}

#[test]
fn without_hugepages_there_are_ordinary_pages_and_a_note() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let umem = lab.near.enter(|| UmemPool::new(1000, 2048, true)).unwrap().unwrap();
    assert_eq!(umem.pool().slots(), 1024, "whole hugepages");
    let note = umem.notes().first().map_or("hugepages", String::as_str);
    assert!(note.contains("hugepages"), "{note}");
    is_served(&lab, &mut lab.host(XdpMode::Native, &umem));
}

/// An application that never lets go costs copies, not frames.
#[test]
fn the_fill_ring_never_starves_while_frames_are_held() {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let Some(lab) = Lab::new(1, 1500) else { return };
        let umem = umem(&lab.near, 1024, 2048);
        let mut host = lab.host(mode, &umem);
        is_served(&lab, &mut host);
        let socket = lab.far_socket(PEER4);
        let mut held: Vec<Frame> = Vec::new();
        for round in 0..30u8 {
            for i in 0..100 {
                socket.send_to(&[round, i], (OURS4, 7)).unwrap();
            }
            held.extend(collect(&mut host.device, 100, |f| datagram(f).is_some()));
        }
        for (n, frame) in held.iter().enumerate() {
            let n = n as u32;
            assert_eq!(datagram(frame).unwrap().payload, [(n / 100) as u8, (n % 100) as u8]);
        }
        let stats = host.device.stats();
        assert_eq!((stats.rx_dropped, stats.rx_errors), (0, 0));
        assert!(stats.copied_bytes() > 0 && umem.pool().free() >= 32, "{stats:?}");
        let from = socket.local_addr().unwrap().port();
        let answer = udp((NIC_MAC, PEER_MAC), (OURS4, 7), (PEER4, from), b"enough");
        send(&mut host.device, [Frame::from_heap(0, &answer)]);
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 6);
    }
}

#[test]
fn a_full_transmit_side_is_backpressure_and_recovers() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let umem = umem(&lab.near, 1024, 2048);
    let mut host = lab.host(XdpMode::Native, &umem);
    let frame = udp((NIC_MAC, PEER_MAC), (OURS4, 7), (PEER4, 7), b"x");
    let mut burst: VecDeque<_> = (0..3000).map(|_| Frame::from_heap(0, &frame)).collect();
    // 512 of 1024 slots are kept for receiving.
    assert_eq!(host.device.transmit(&mut burst).unwrap(), 512);
    assert_eq!(burst.len(), 2488);
    send(&mut host.device, burst);
    assert_eq!(host.device.stats().tx_frames, 3000);
    assert_eq!(umem.pool().free(), 512);
}

#[test]
fn busy_polling_and_link_changes_are_taken_over() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let mut host = lab.host(XdpMode::Native, &umem(&lab.near, 1024, 2048));
    host.device.set_busy_poll(64, 20).unwrap();
    is_served(&lab, &mut host);
    assert!(host.device.stats().kicks > 0);
    host.device.set_busy_poll(64, 0).unwrap();
    is_served(&lab, &mut host);
    let link = host.device.link();
    assert_eq!(link, Link { up: true, mtu: 1500, mac: Some(NIC_MAC) });
    host.device.set_link(Link { mtu: 1000, ..link });
    let long = udp((NIC_MAC, PEER_MAC), (OURS4, 7), (PEER4, 7), &[0; 1200]);
    send(&mut host.device, [Frame::from_heap(0, &long)]);
    assert_eq!(host.device.stats().tx_dropped, 1);
}

#[test]
fn a_link_that_goes_down_and_up_carries_frames_again() {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let Some(lab) = Lab::new(1, 1500) else { return };
        let mut host = lab.host(mode, &umem(&lab.near, 1024, 2048));
        is_served(&lab, &mut host);
        for up in [false, true] {
            lab.near.enter(|| Netlink::open().unwrap().set_up("nic", up)).unwrap().unwrap();
            host.device.set_link(Link { up, ..host.device.link() });
            let mut burst = VecDeque::from([Frame::from_heap(
                0,
                &udp((NIC_MAC, PEER_MAC), (OURS4, 7), (PEER4, 7), b"into a dead link"),
            )]);
            host.device.transmit(&mut burst).unwrap();
            let again = host.device.flush().unwrap();
            assert!(up || !again, "a dead link asks for no more calls");
        }
        is_served(&lab, &mut host);
        let group = Ipv4Addr::new(224, 0, 0, 1);
        let frame = udp((PEER_MAC, [1, 0, 0x5e, 0, 0, 1]), (PEER4, 1), (group, 2), b"all hosts");
        let far_program = lab.far_program();
        let mut far = lab.far_device(&umem(&lab.far, 2048, 2048), 0, &far_program);
        send(&mut far, [Frame::from_heap(0, &frame)]);
        host.wait(|f| (f.data() == frame).then_some(()));
    }
}

#[test]
fn a_nic_that_is_gone_is_an_error_and_nothing_else() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let umem = umem(&lab.near, 1024, 2048);
    let mut host = lab.host(XdpMode::Native, &umem);
    is_served(&lab, &mut host);
    lab.near.enter(|| Netlink::open().unwrap().delete_link("nic")).unwrap().unwrap();
    let frame = udp((NIC_MAC, PEER_MAC), (OURS4, 7), (PEER4, 7), b"nobody there");
    let mut burst = VecDeque::from([Frame::from_heap(0, &frame)]);
    assert_eq!(host.device.transmit(&mut burst).unwrap(), 1);
    assert!(host.device.flush().is_err());
    host.program.steer(Steer::Remove(OURS4.into())).unwrap();
    drop(host);
    assert_eq!(umem.pool().free(), 1024);
}

const CHILD: &str = "WEFT_AFXDP_TEST_CHILD";

/// Holds the NIC until it is killed.
fn child() {
    let umem = UmemPool::new(1024, 2048, false).unwrap();
    let program = XdpProgram::attach("nic", XdpMode::Native).unwrap();
    let _device = AfXdp::open(&program, 0, &umem, AfXdpOptions::default()).unwrap();
    program.steer(Steer::Add(OURS4.into())).unwrap();
    program.steer(Steer::Add(OURS6.into())).unwrap();
    println!("\nready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[test]
fn a_killed_process_leaves_the_nic_as_it_was() {
    // The process that is killed is this same test, started once more.
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    for signal in [Signal::KILL, Signal::TERM] {
        let Some(lab) = Lab::new(1, 1500) else { return };
        // The far kernel learns our address.
        is_served(&lab, &mut lab.host(XdpMode::Native, &umem(&lab.near, 1024, 2048)));
        let mut child = lab
            .near
            .command(std::env::current_exe().unwrap())
            .args(["life::a_killed_process_leaves_the_nic_as_it_was", "--exact", "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"), "the child came up");
        let busy = lab.near.enter(|| XdpProgram::attach("nic", XdpMode::Native)).unwrap();
        assert!(busy.is_err(), "the child has the NIC");
        // Traffic in the rings while it dies.
        let socket = lab.far_socket(PEER4);
        for _ in 0..100 {
            socket.send_to(b"into the void", (OURS4, 7)).unwrap();
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();

        // No program is in the way, the queue is free, and the kernel has its NIC.
        let server = udp_socket(&lab.near, KERNEL4.into());
        socket.send_to(b"still there?", server.local_addr().unwrap()).unwrap();
        server.recv(&mut [0; 32]).unwrap();
        let mut host = lab.host(XdpMode::Native, &umem(&lab.near, 1024, 2048));
        is_served(&lab, &mut host);
    }
}

#[test]
fn a_panicking_process_leaves_the_nic_as_it_was() {
    let Some(lab) = Lab::new(1, 1500) else { return };
    let result = std::thread::scope(|scope| {
        let run = || {
            let _host = lab.host(XdpMode::Native, &umem(&lab.near, 1024, 2048));
            panic!("on purpose");
        };
        scope.spawn(run).join()
    });
    assert!(result.is_err());
    is_served(&lab, &mut lab.host(XdpMode::Native, &umem(&lab.near, 1024, 2048)));
}

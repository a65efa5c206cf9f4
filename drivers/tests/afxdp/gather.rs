//! Frames of several descriptors: jumbo frames, and payload that is sent from where it lies.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpListener;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use weft_drivers::afxdp::{AfXdp, AfXdpOptions, UmemPool, XdpMode};
use weft_drivers::device::{Device, Medium, Steer};
use weft_drivers::netlink::Netlink;
use weft_drivers::segment::Headers;
use weft_stack::frame::{Frame, FramePool, Gso};
use weft_stack::wire::checksum;

use crate::lab::*;

/// Bytes of which no two stretches are the same (xorshift).
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The payload in frames of the pool, as an application's buffers are.
fn pool_buffers(pool: &FramePool, payload: &[u8], each: usize) -> Vec<Bytes> {
    let buffers = payload.chunks(each).map(|part| {
        let mut frame = pool.alloc().unwrap();
        frame.append(part);
        frame.into_bytes()
    });
    buffers.collect()
}

/// A TCP super-segment of ours to the peer, its headers in the device's pool (or not).
fn super_segment(pool: Option<&FramePool>, frags: Vec<Bytes>, mss: u16, seq: u32) -> Frame {
    let payload: usize = frags.iter().map(Bytes::len).sum();
    let mut tcp = vec![0, 80, 0, 81];
    tcp.extend(seq.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    let packet = ip(OURS4.into(), PEER4.into(), 6, &tcp, 16);
    let mut bytes = ethernet(PEER_MAC, NIC_MAC, 0x0800, &packet);
    bytes[16..18].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
    let pseudo = [&OURS4.octets()[..], &PEER4.octets()].concat();
    let sum = checksum::combine(checksum::sum(&pseudo), 6);
    let sum = checksum::combine(sum, (20 + payload) as u16);
    bytes[50..52].copy_from_slice(&sum.to_be_bytes());
    let mut frame = match pool {
        Some(pool) => {
            let mut frame = pool.alloc().unwrap();
            frame.append(&bytes);
            frame
        }
        None => Frame::from_heap(0, &bytes),
    };
    frame.meta.checksum = Headers::parse(&bytes, Medium::Ethernet).unwrap().partial();
    frame.meta.gso = Gso::Tcp4 { mss };
    frame.frags = frags.into();
    frame
}

/// Both ends ours, and what the far one needs.
struct Two {
    lab: Lab,
    near: Host,
    far: AfXdp,
    near_umem: UmemPool,
}

fn two(mode: XdpMode, mtu: usize, frame_bytes: u32) -> Option<Two> {
    let lab = Lab::new(1, mtu)?;
    let near_umem = umem(&lab.near, 4096, frame_bytes);
    let far_umem = umem(&lab.far, 4096, frame_bytes);
    let near = lab.host(mode, &near_umem);
    let far_program = lab.far_program();
    let far = lab.far_device(&far_umem, 0, &far_program);
    far_program.steer(Steer::Add(PEER4.into())).unwrap();
    Some(Two { lab, near, far, near_umem })
}

/// The TCP payload that came, in order; every checksum is verified.
fn stream(far: &mut AfXdp, bytes: usize, seq: u32) -> Vec<u8> {
    let mut got = vec![0; bytes];
    let mut left = bytes;
    while left > 0 {
        for frame in collect(far, 1, |f| f.data()[23] == 6) {
            let flat = frame.to_heap();
            let data = flat.data();
            assert!(transport_checksum_is_valid(data));
            let at = u32::from_be_bytes(data[38..42].try_into().unwrap()).wrapping_sub(seq);
            let payload = &data[54..];
            got[at as usize..][..payload.len()].copy_from_slice(payload);
            left -= payload.len();
        }
    }
    got
}

#[test]
fn payload_in_the_umem_is_sent_from_where_it_lies() {
    for (mode, mtu, frame_bytes) in [
        (XdpMode::Native, 1500, 2048),
        (XdpMode::Generic, 3500, 4096),
        (XdpMode::Native, 9000, 4096),
    ] {
        let Some(mut t) = two(mode, mtu, frame_bytes) else { return };
        let mss = (mtu - 40) as u16;
        // Pieces that fit no segment, and pieces longer and shorter than one.
        for (round, each) in [1800, 1000, 1460, 700].into_iter().enumerate() {
            let payload = noise(40_000 + round);
            let pool = t.near_umem.pool();
            let free = pool.free();
            let frags = pool_buffers(pool, &payload, each);
            let frame = super_segment(Some(pool), frags, mss, 1);
            send(&mut t.near.device, [frame]);
            assert_eq!(stream(&mut t.far, payload.len(), 1), payload, "{mode:?} {mtu} {each}");
            while t.near.device.flush().unwrap() {}
            assert_eq!(t.near_umem.pool().free(), free, "every slot came back");
        }
        let stats = t.near.device.stats();
        assert_eq!((stats.copied_bytes(), stats.tx_dropped), (0, 0));
    }
}

#[test]
fn foreign_and_finely_cut_payload_is_copied_once_and_counted() {
    let Some(mut t) = two(XdpMode::Native, 1500, 2048) else { return };
    let payload = noise(20_000);
    let pool = t.near_umem.pool().clone();
    let mut mixed = pool_buffers(&pool, &payload, 1500);
    mixed[3] = Bytes::copy_from_slice(&mixed[3]);
    let fine = {
        let whole = pool_buffers(&pool, &payload[..1500], 1500).remove(0);
        (0..1500).map(|i| whole.slice(i..=i)).collect::<Vec<_>>()
    };
    let foreign = payload.chunks(7777).map(Bytes::copy_from_slice).collect();
    for (frags, bytes) in [(mixed, 20_000), (fine, 1500), (foreign, 20_000)] {
        let before = t.near.device.stats().copied_bytes();
        send(&mut t.near.device, [super_segment(Some(&pool), frags, 1460, 1)]);
        assert_eq!(stream(&mut t.far, bytes, 1), payload[..bytes]);
        assert_eq!(t.near.device.stats().copied_bytes() - before, bytes as u64);
    }
}

/// In the copying modes a copy into one slot costs less than a second descriptor.
#[test]
fn by_default_only_frames_longer_than_a_slot_are_gathered() {
    for (mtu, copied) in [(1500, 20_000), (9000, 0)] {
        let Some(lab) = Lab::new(1, mtu) else { return };
        let (near_umem, far_umem) = (umem(&lab.near, 4096, 2048), umem(&lab.far, 4096, 2048));
        let program = lab.attach(XdpMode::Native);
        let options = AfXdpOptions { fill_frames: 512, ..AfXdpOptions::default() };
        let open = || AfXdp::open(&program, 0, &near_umem, options).unwrap();
        let mut near = lab.near.enter(open).unwrap();
        let far_program = lab.far_program();
        far_program.steer(Steer::Add(PEER4.into())).unwrap();
        let mut far = lab.far_device(&far_umem, 0, &far_program);
        let payload = noise(20_000);
        let frags = pool_buffers(near_umem.pool(), &payload, 1500);
        let frame = super_segment(Some(near_umem.pool()), frags, mtu as u16 - 40, 1);
        send(&mut near, [frame]);
        assert_eq!(stream(&mut far, payload.len(), 1), payload);
        assert_eq!(near.stats().copied_bytes(), copied);
    }
}

/// What the driver was given is its own until the kernel has read it: the application's handle may
/// go at once, and the buffer must not come back while descriptors point at it.
#[test]
fn a_payload_in_flight_is_not_reused() {
    let Some(mut t) = two(XdpMode::Native, 1500, 2048) else { return };
    let pool = t.near_umem.pool().clone();
    let payload = noise(30_000);
    let free = pool.free();
    let frags = pool_buffers(&pool, &payload, 1800);
    let buffers = frags.len();
    // Two super-segments of the same buffers, as for a retransmission.
    let mut burst = VecDeque::from([
        super_segment(Some(&pool), frags.clone(), 1460, 1),
        super_segment(Some(&pool), frags, 1000, 1),
    ]);
    assert_eq!(t.near.device.transmit(&mut burst).unwrap(), 2);
    // Taken, not flushed: nothing has left, the application holds nothing any more.
    let mut others = Vec::new();
    while let Some(mut frame) = pool.alloc() {
        let n = frame.tailroom();
        frame.push_back(n).fill(0xee);
        others.push(frame);
    }
    assert!(free - others.len() >= buffers, "the buffers are not among the free ones");
    while t.near.device.flush().unwrap() {}
    let frames = payload.len().div_ceil(1460) + payload.len().div_ceil(1000);
    let mut bytes = 0;
    for frame in collect(&mut t.far, frames, |f| f.data()[23] == 6) {
        let flat = frame.to_heap();
        assert!(transport_checksum_is_valid(flat.data()));
        let at = u32::from_be_bytes(flat.data()[38..42].try_into().unwrap()) as usize - 1;
        assert_eq!(flat.data()[54..], payload[at..][..flat.len() - 54]);
        bytes += flat.len() - 54;
    }
    assert_eq!(bytes, 2 * payload.len());
    drop(others);
    while t.near.device.flush().unwrap() {}
    assert_eq!(pool.free(), free);
}

#[test]
fn a_device_that_is_dropped_lets_go_of_payload_that_never_left() {
    let Some(mut t) = two(XdpMode::Native, 1500, 2048) else { return };
    let pool = t.near_umem.pool().clone();
    let payload = noise(30_000);
    let frags = pool_buffers(&pool, &payload, 1800);
    let kept = frags.clone();
    let mut burst = VecDeque::from([super_segment(Some(&pool), frags, 1460, 1)]);
    assert_eq!(t.near.device.transmit(&mut burst).unwrap(), 1);
    drop(t.near);
    assert_eq!(pool.free() + kept.len(), pool.slots(), "all but what the application holds");
    assert_eq!(kept.concat(), payload);
    drop(kept);
    assert_eq!(pool.free(), pool.slots());
}

#[test]
fn received_payload_is_sent_on_without_a_copy() {
    let Some(mut t) = two(XdpMode::Native, 1500, 2048) else { return };
    let pool = t.near_umem.pool().clone();
    let mut frags = Vec::new();
    let payload = noise(10 * 1400);
    for (i, part) in payload.chunks(1400).enumerate() {
        let frame = udp((PEER_MAC, NIC_MAC), (PEER4, i as u16), (OURS4, 2), part);
        send(&mut t.far, [Frame::from_heap(0, &frame)]);
        let mut frame = collect(&mut t.near.device, 1, |f| f.data() == frame).remove(0);
        frame.pull_front(42);
        frags.push(frame.into_bytes());
    }
    send(&mut t.near.device, [super_segment(Some(&pool), frags, 1460, 1)]);
    assert_eq!(stream(&mut t.far, payload.len(), 1), payload);
    assert_eq!(t.near.device.stats().copied_bytes(), 0);
}

/// Ordinary frames of any length, made in each of the ways that the stack has, both ends ours.
#[test]
fn jumbo_frames_of_every_making_arrive_whole() {
    for (mtu, frame_bytes) in
        [(3500, 4096), (9000, 4096), (9000, 2048), (34_000, 2048), (65_535, 4096)]
    {
        let Some(mut t) = two(XdpMode::Native, mtu, frame_bytes) else { return };
        let pool = t.near_umem.pool().clone();
        let most = mtu.min(65_535) - 28;
        for len in [1, 100, 1400, 2030, 3472, 3800, 4054, 8192, 8972, 20_000, most] {
            if len > most {
                continue;
            }
            let bytes = udp((NIC_MAC, PEER_MAC), (OURS4, 1), (PEER4, 2), &noise(len));
            let mut chain = pool.alloc().unwrap();
            let first = bytes.len().min(chain.tailroom());
            chain.append(&bytes[..first]);
            let rest = pool_buffers(&pool, &bytes[first..], pool.slot_bytes() - 192);
            chain.frags.extend(rest);
            let copied = Frame::from_heap(0, &bytes);
            let mut foreign = Frame::from_heap(0, &bytes[..42]);
            foreign.frags.extend([Bytes::copy_from_slice(&bytes[42..])]);
            for frame in [chain, copied, foreign] {
                send(&mut t.near.device, [frame]);
                let got = collect(&mut t.far, 1, |f| f.data()[23] == 17).remove(0);
                assert_eq!(got.to_heap().data(), bytes, "{len} bytes at MTU {mtu}");
            }
        }
        let stats = t.near.device.stats();
        assert_eq!((stats.tx_dropped, stats.rx_errors), (0, 0));
        assert_eq!(t.far.stats().rx_dropped, 0);
    }
}

/// The kernel's TCP on the other side, as a check of every byte that crossed in jumbo frames.
#[test]
fn jumbo_streams_have_the_same_hash_on_both_sides_of_the_kernel() {
    for mtu in [3500, 9000] {
        let Some(lab) = Lab::new(1, mtu) else { return };
        let near_umem = umem(&lab.near, 4096, 4096);
        let mut host = lab.host(XdpMode::Native, &near_umem);
        let payload = noise(200_000);
        let sent = Sha256::digest(&payload);
        let listener = lab.far.enter(|| TcpListener::bind((PEER4, 0))).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut all = vec![0; 200_000];
                stream.read_exact(&mut all).unwrap();
                // Back the same way.
                stream.write_all(&all).unwrap();
                Sha256::digest(&all)
            });
            let back =
                Conversation::open(&mut host, port).exchange(&mut host, &near_umem, &payload, mtu);
            assert_eq!(Sha256::digest(&back), sent, "from the kernel at MTU {mtu}");
            server.join().unwrap()
        });
        assert_eq!(received, sent, "to the kernel at MTU {mtu}");
        // Answers to ARP are no payload.
        assert!(host.device.stats().copied_bytes() < 1000, "{:?}", host.device.stats());
    }
}

/// Our side of a TCP connection to the far kernel: in order, no loss, no timers.
struct Conversation {
    port: u16,
    seq: u32,
    ack: u32,
}

impl Conversation {
    const OUR_PORT: u16 = 4000;

    fn open(host: &mut Host, port: u16) -> Conversation {
        let mut c = Conversation { port, seq: 1000, ack: 0 };
        // An MSS as large as it gets.
        c.send(host, 2, &[2, 4, 0xff, 0xd7]);
        let (seq, ..) = host.wait(Conversation::parse);
        c.seq += 1;
        c.ack = seq.wrapping_add(1);
        c.send(host, 0x10, &[]);
        c
    }

    fn send(&self, host: &mut Host, flags: u8, options: &[u8]) {
        let frame = pooled(&host.device, &self.segment(flags, options));
        send(&mut host.device, [frame]);
    }

    fn segment(&self, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut tcp = [Self::OUR_PORT.to_be_bytes(), self.port.to_be_bytes()].concat();
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(options);
        let packet = ip(OURS4.into(), PEER4.into(), 6, &tcp, 16);
        ethernet(PEER_MAC, NIC_MAC, 0x0800, &packet)
    }

    /// Sequence number, acknowledgement and payload of a segment of the connection.
    fn parse(frame: &Frame) -> Option<(u32, u32, Vec<u8>)> {
        let flat = frame.to_heap();
        let data = flat.data();
        if data[12..14] != [8, 0] || data[23] != 6 || data[36..38] != Self::OUR_PORT.to_be_bytes() {
            return None;
        }
        assert!(transport_checksum_is_valid(data));
        let be32 = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
        let end = 14 + usize::from(u16::from_be_bytes([data[16], data[17]]));
        let payload = data[34 + usize::from(data[46] >> 4) * 4..end].to_vec();
        Some((be32(38), be32(42), payload))
    }

    /// Sends all in super-segments, from the UMEM, and takes what comes back.
    fn exchange(mut self, host: &mut Host, umem: &UmemPool, payload: &[u8], mtu: usize) -> Vec<u8> {
        let mss = (mtu - 40) as u16;
        for part in payload.chunks(30_000) {
            let frags = pool_buffers(umem.pool(), part, 3000);
            let mut frame = super_segment(Some(umem.pool()), frags, mss, self.seq);
            frame.data_mut()[34..38]
                .copy_from_slice(&[Self::OUR_PORT.to_be_bytes(), self.port.to_be_bytes()].concat());
            frame.data_mut()[42..46].copy_from_slice(&self.ack.to_be_bytes());
            frame.data_mut()[48..50].copy_from_slice(&[0xff, 0xff]);
            send(&mut host.device, [frame]);
            self.seq = self.seq.wrapping_add(part.len() as u32);
            while host.wait(Conversation::parse).1 != self.seq {}
        }
        let mut back = Vec::new();
        while back.len() < payload.len() {
            let (seq, _, data) = host.wait(Conversation::parse);
            if seq == self.ack && !data.is_empty() {
                self.ack = self.ack.wrapping_add(data.len() as u32);
                back.extend(data);
                self.send(host, 0x10, &[]);
            }
        }
        back
    }
}

#[test]
fn a_device_goes_away_under_traffic_in_both_directions_and_all_memory_comes_back() {
    let Some(lab) = Lab::new(2, 9000) else { return };
    let far_program = lab.far_program();
    far_program.steer(Steer::Add(PEER4.into())).unwrap();
    let far_umem = umem(&lab.far, 4096, 4096);
    let mut far: Vec<_> = (0..2).map(|q| lab.far_device(&far_umem, q, &far_program)).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bytes = udp((PEER_MAC, NIC_MAC), (PEER4, 1), (OURS4, 2), &noise(8000));
            while !stopped() {
                for device in &mut far {
                    let mut burst: VecDeque<_> =
                        (0..32).map(|_| Frame::from_heap(0, &bytes)).collect();
                    device.transmit(&mut burst).unwrap();
                    device.flush().unwrap();
                    device.receive(&mut Vec::new(), 256).unwrap();
                }
            }
        });
        for _ in 0..10 {
            let near_umem = umem(&lab.near, 4096, 4096);
            let pool = near_umem.pool().clone();
            let program = lab.attach(XdpMode::Native);
            program.steer(Steer::Add(OURS4.into())).unwrap();
            let mut near: Vec<_> = (0..2).map(|q| lab.open(&program, q, &near_umem)).collect();
            let payload = noise(40_000);
            let mut received = 0;
            while received < 200 {
                for device in &mut near {
                    let frags = pool_buffers(&pool, &payload, 3000);
                    let mut burst = VecDeque::from([super_segment(Some(&pool), frags, 8960, 1)]);
                    device.transmit(&mut burst).unwrap();
                    if received % 3 != 0 {
                        device.flush().unwrap();
                    }
                    received += device.receive(&mut Vec::new(), 64).unwrap();
                }
            }
            drop(near);
            assert_eq!(pool.free(), pool.slots());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A NIC that goes away with descriptors in flight: an error, and nothing is lost.
#[test]
fn payload_comes_back_from_a_nic_that_is_gone() {
    let Some(mut t) = two(XdpMode::Native, 1500, 2048) else { return };
    let pool = t.near_umem.pool().clone();
    let frags = pool_buffers(&pool, &noise(20_000), 1800);
    t.lab.near.enter(|| Netlink::open().unwrap().delete_link("nic")).unwrap().unwrap();
    let mut burst = VecDeque::from([super_segment(Some(&pool), frags, 1460, 1)]);
    assert_eq!(t.near.device.transmit(&mut burst).unwrap(), 1);
    assert!(t.near.device.flush().is_err());
    drop(t.near);
    assert_eq!(pool.free(), pool.slots());
}

#[test]
fn a_receiver_that_keeps_jumbo_frames_costs_copies_and_no_frames() {
    let Some(mut t) = two(XdpMode::Native, 9000, 4096) else { return };
    let mut kept = Vec::new();
    for i in 0..1500u16 {
        let bytes = udp((NIC_MAC, PEER_MAC), (OURS4, i), (PEER4, 2), &[i as u8; 8900]);
        send(&mut t.near.device, [Frame::from_heap(0, &bytes)]);
        kept.extend(collect(&mut t.far, 1, |f| f.data()[23] == 17));
    }
    for (i, frame) in kept.iter().enumerate() {
        let d = datagram(frame).unwrap();
        assert_eq!((usize::from(d.source_port), d.payload), (i, vec![i as u8; 8900]));
    }
    let stats = t.far.stats();
    assert_eq!((stats.rx_dropped, stats.rx_errors), (0, 0));
    assert!(stats.copied_bytes() > 0);
}

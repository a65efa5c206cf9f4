//! Receive merging and its reverse, `segment::Cut`: whatever was merged, cut again, is what came.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use weft_drivers::device::Medium;
use weft_drivers::segment::{Cut, Headers};
use weft_stack::frame::{Checksum, Frame, FramePool, Gso};
use weft_stack::link::gro::{BurstFacts, Gro, GroStats, Takes};
use weft_stack::wire::checksum;

/// One packet of a burst.
#[derive(Clone, Debug)]
struct Packet {
    flow: u8,
    v6: bool,
    tcp: bool,
    len: usize,
    /// What is not as in the packet before: mostly nothing.
    odd: u8,
    flags: u8,
    timestamp: bool,
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop_oneof![12 => Just(0x10u8), 2 => Just(0x18), 1 => Just(0x11), 1 => 0..0x80u8];
    let len = prop_oneof![6 => Just(1000usize), 2 => 0..1200usize, 1 => Just(40)];
    let odd = prop_oneof![10 => Just(0u8), 1 => 1..14u8];
    (0..3u8, any::<bool>(), prop_oneof![3 => Just(true), 1 => Just(false)], len, odd, flags)
        .prop_map(|(flow, v6, tcp, len, odd, flags)| Packet {
            flow,
            v6,
            tcp,
            len,
            odd,
            flags,
            timestamp: flow == 1,
        })
}

/// Sequence number and identification of each flow.
struct Sender {
    seq: [u32; 48],
    id: [u16; 48],
}

impl Default for Sender {
    fn default() -> Sender {
        Sender { seq: [u32::MAX - 5000; 48], id: [u16::MAX - 3; 48] }
    }
}

impl Sender {
    /// The packet as it would arrive on a wire without Ethernet.
    fn build(&mut self, p: &Packet, n: usize) -> Vec<u8> {
        let flow = usize::from(p.flow) * 4 + usize::from(p.v6) * 2 + usize::from(p.tcp);
        let mut l4 = vec![0x12, p.flow, 0, 80];
        if p.tcp {
            let seq = self.seq[flow].wrapping_add(u32::from(p.odd == 1));
            self.seq[flow] = seq.wrapping_add(p.len as u32);
            l4.extend(seq.to_be_bytes());
            l4.extend(7u32.wrapping_add(u32::from(p.odd == 2)).to_be_bytes());
            let words = if p.timestamp { 8 } else { 5 };
            l4.extend([
                words << 4,
                p.flags,
                1,
                u8::from(p.odd == 3),
                0,
                0,
                0,
                u8::from(p.odd == 4),
            ]);
            if p.timestamp {
                l4.extend([1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 5 + u8::from(p.odd == 5)]);
            }
        } else {
            l4.extend(((8 + p.len) as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend((0..p.len).map(|i| (i + n) as u8));
        self.id[flow] = self.id[flow].wrapping_add(1 + u16::from(p.odd == 6));
        let traffic_class = if p.odd == 7 { 3 } else { 0 };
        let hops = if p.odd == 8 { 63 } else { 64 };
        let number = if p.tcp { 6 } else { 17 };
        let (mut ip, addresses) = if p.v6 {
            let mut ip = vec![0x60, traffic_class << 4, 0, u8::from(p.odd == 9)];
            ip.extend((l4.len() as u16).to_be_bytes());
            ip.extend([number, hops]);
            ip.extend([0xfd; 16]);
            ip.extend([0xfc; 16]);
            (ip, 8..40)
        } else {
            let mut ip = vec![0x45, traffic_class];
            ip.extend(((20 + l4.len()) as u16).to_be_bytes());
            ip.extend(self.id[flow].to_be_bytes());
            let fragment = if p.odd == 10 { 0x20 } else { 0 };
            ip.extend([fragment, 0, hops, number, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
            let sum = checksum::finish(checksum::sum(&ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            (ip, 12..20)
        };
        let sum = checksum::combine(checksum::sum(&ip[addresses]), u16::from(number));
        let sum = checksum::combine(checksum::combine(sum, l4.len() as u16), checksum::sum(&l4));
        let at = if p.tcp { 16 } else { 6 };
        let mut value = checksum::finish_at(at, sum);
        value ^= u16::from(p.odd == 11);
        if p.odd == 12 && !p.tcp {
            value = 0;
        }
        l4[at..at + 2].copy_from_slice(&value.to_be_bytes());
        ip.append(&mut l4);
        if p.odd == 13 {
            ip.push(0);
        }
        ip
    }
}

fn frame(pool: Option<&FramePool>, data: &[u8]) -> Frame {
    let Some(pool) = pool else { return Frame::from_heap(64, data) };
    let mut frame = pool.alloc().unwrap();
    frame.append(data);
    frame
}

fn merge(frames: Vec<Frame>) -> (Vec<Frame>, GroStats) {
    let mut burst: Vec<_> = frames.into_iter().map(|f| ((), Some(f))).collect();
    let facts = BurstFacts { ethernet: false, trust: false };
    let stats = Gro::default().merge(&mut burst, facts, |()| Takes::Units);
    (burst.into_iter().filter_map(|b| b.1).collect(), stats)
}

fn cut(frame: &Frame) -> Vec<Vec<u8>> {
    let mut cut = Cut::new(frame, Medium::Ip).unwrap();
    let mut out = Vec::new();
    while let Some(len) = cut.next_len() {
        out.push(vec![0; len]);
        cut.write_next(out.last_mut().unwrap());
    }
    out
}

/// Which flow a packet is of: its addresses, protocol and ports, as far as they can be told.
fn flow(packet: &[u8]) -> Vec<u8> {
    let (number, addresses, ports) = match packet[0] >> 4 {
        4 => (packet[9], &packet[12..20], &packet[20..24]),
        _ => (packet[6], &packet[8..40], &packet[40..44]),
    };
    [&[number], addresses, ports].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_merged_is_cut_into_what_came(
        packets in proptest::collection::vec(packet(), 0..48), pooled in any::<bool>(),
    ) {
        let mut sender = Sender::default();
        let wire: Vec<_> = packets.iter().enumerate().map(|(n, p)| sender.build(p, n)).collect();
        let pool = pooled.then(|| FramePool::heap(64, 2048));
        let (merged, stats) = merge(wire.iter().map(|w| frame(pool.as_ref(), w)).collect());
        let units = merged.iter().filter(|f| f.meta.gso != Gso::None).count() as u64;
        prop_assert_eq!(stats.units, units);
        let merged_away = stats.packets - stats.units;
        prop_assert_eq!(merged.len() as u64 + merged_away, wire.len() as u64);
        let mut again = Vec::new();
        for frame in &merged {
            if frame.meta.gso == Gso::None {
                again.push(frame.data().to_vec());
                continue;
            }
            prop_assert_eq!(frame.meta.checksum, Checksum::Verified);
            let headers = Headers::parse(frame.data(), Medium::Ip).unwrap();
            prop_assert_eq!(headers.ip_version == 6, frame.data()[0] >> 4 == 6);
            let parts = cut(frame);
            prop_assert!(parts.len() > 1);
            again.extend(parts);
        }
        // Within each flow: the same packets in the same order.
        for one in wire.iter().map(|w| flow(w)) {
            let before: Vec<_> = wire.iter().filter(|w| flow(w) == one).collect();
            let after: Vec<_> = again.iter().filter(|w| flow(w) == one).collect();
            prop_assert_eq!(before, after);
        }
        drop(merged);
        if let Some(pool) = pool {
            prop_assert_eq!(pool.free(), pool.slots());
        }
    }
}

fn data(len: usize) -> Packet {
    Packet { flow: 0, v6: false, tcp: true, len, odd: 0, flags: 0x10, timestamp: false }
}

fn merged_from(packets: &[Packet]) -> (Vec<Frame>, GroStats) {
    let mut sender = Sender::default();
    let frames = packets.iter().enumerate().map(|(n, p)| frame(None, &sender.build(p, n)));
    merge(frames.collect())
}

#[test]
fn a_run_of_full_segments_is_one_frame() {
    let mut packets = vec![data(1000); 20];
    packets.push(Packet { flags: 0x18, ..data(300) });
    packets.push(data(1000));
    let (merged, stats) = merged_from(&packets);
    assert_eq!((merged.len(), stats.units, stats.packets), (2, 1, 21));
    assert_eq!(merged[0].meta.gso, Gso::Tcp4 { mss: 1000 });
    assert_eq!(merged[0].total_len(), 40 + 20_300);
    assert_eq!(merged[0].data()[33], 0x18, "PSH of the last is kept");
    assert_eq!(usize::from(u16::from_be_bytes([merged[0].data()[2], merged[0].data()[3]])), 20_340);
}

#[test]
fn a_unit_is_no_longer_than_an_ip_packet() {
    let (merged, _) = merged_from(&vec![data(1000); 140]);
    let lens: Vec<_> = merged.iter().map(Frame::total_len).collect();
    assert_eq!(lens, [65_040, 65_040, 10_040]);
}

#[test]
fn what_differs_begins_a_unit_and_marks_are_not_lost() {
    for odd in [1, 2, 3, 6, 7, 8, 10, 11, 13] {
        let mut packets = vec![data(1000); 8];
        packets[4].odd = odd;
        let (merged, stats) = merged_from(&packets);
        assert!(merged.len() >= 2, "{odd}");
        assert!(stats.packets >= 7, "{odd}: {stats:?}");
        let marked = merged.iter().filter(|f| f.data()[1] & 3 == 3);
        assert_eq!(marked.count(), usize::from(odd == 7), "{odd}");
    }
}

#[test]
fn flows_that_alternate_are_merged_each() {
    let one = |flow| Packet { flow, timestamp: false, ..data(1000) };
    let packets: Vec<_> = (0..60).map(|i| one(i % 12)).collect();
    let (merged, stats) = merged_from(&packets);
    assert_eq!((stats.packets as usize - stats.units as usize) + merged.len(), 60);
    assert!(merged.len() <= 24, "{} frames of 12 flows", merged.len());
}

#[test]
fn the_clock_of_the_sender_may_tick_within_a_unit() {
    let mut sender = Sender::default();
    let mut wire: Vec<Vec<u8>> = Vec::new();
    for n in 0..6 {
        wire.push(sender.build(&Packet { timestamp: true, ..data(1000) }, n));
    }
    for (n, tsval) in [(2usize, 10u8), (3, 10), (4, 11), (5, 10)] {
        let packet = &mut wire[n];
        packet[47] = tsval;
        packet[36..38].copy_from_slice(&[0, 0]);
        let sum = checksum::combine(checksum::sum(&packet[12..20]), 6);
        let len = (packet.len() - 20) as u16;
        let sum = checksum::combine(checksum::combine(sum, len), checksum::sum(&packet[20..]));
        packet[36..38].copy_from_slice(&checksum::finish(sum).to_be_bytes());
    }
    let (merged, _) = merge(wire.iter().map(|w| frame(None, w)).collect());
    let lens: Vec<_> = merged.iter().map(Frame::total_len).collect();
    // 9 9 10 10 11 10: none is older than the first, which is what PAWS would compare them with.
    assert_eq!(lens, [52 + 6000]);
    assert_eq!(merged[0].data()[47], 9, "the first one's");
}

#[test]
fn frames_to_different_receivers_stay_apart() {
    let mut sender = Sender::default();
    let frames = (0..4).map(|n| frame(None, &sender.build(&data(1000), n)));
    let mut burst: Vec<_> = frames.enumerate().map(|(n, f)| (n / 2, Some(f))).collect();
    let facts = BurstFacts { ethernet: false, trust: false };
    let mut gro = Gro::default();
    let stats =
        gro.merge(&mut burst, facts, |to| if *to == 1 { Takes::Units } else { Takes::Frames });
    assert_eq!((stats.units, stats.packets), (1, 2));
    assert!(burst[3].1.is_none() && burst[1].1.is_some());
}

// RFC 9768 3.1: as a counter CWR is set in one packet after the other; cutting clears it, which is
// why forwarders merge nothing.
#[test]
fn counters_in_the_flags_are_merged_if_they_are_equal() {
    for (flags, units) in [([0xd0, 0xd0, 0xd0, 0xd0], 1), ([0xd0, 0xd0, 0x50, 0x50], 2)] {
        let packets = flags.map(|flags| Packet { flags, ..data(1000) });
        let (merged, _) = merged_from(&packets);
        assert_eq!(merged.len(), units);
        assert_eq!(merged[0].data()[33], 0xd0);
    }
}

#[test]
fn small_payloads_do_not_hold_a_buffer_each() {
    let pool = FramePool::heap(64, 2048);
    let mut sender = Sender::default();
    let wire: Vec<_> = (0..60).map(|n| sender.build(&data(100), n)).collect();
    let (merged, stats) = merge(wire.iter().map(|w| frame(Some(&pool), w)).collect());
    assert!(merged.iter().all(|f| f.frags.is_empty()));
    assert_eq!(pool.slots() - pool.free(), merged.len());
    assert_eq!(stats.copied_bytes, 100 * (60 - merged.len() as u64));
    assert!(merged.len() <= 4, "{}", merged.len());
    assert_eq!(merged.iter().flat_map(cut).collect::<Vec<_>>(), wire);
}

//! Receive merging changes nothing that an application or a peer can tell: the same bursts with and
//! without it give the same bytes, state and counters.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::SocketAddr;

use proptest::prelude::*;
use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::link::gro::{BurstFacts, Gro, Takes};
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::checksum;

const ALIAS: AliasId = AliasId(0);
const OURS: [u8; 4] = [10, 0, 0, 1];
const PEER: [u8; 4] = [10, 0, 0, 2];
const START: Instant = Instant::from_millis(1000);
const ISN: u32 = 0xffff_0000;
const MSS: usize = 1000;

fn ip4(number: u8, id: u16, traffic_class: u8, l4: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, traffic_class];
    p.extend(((20 + l4.len()) as u16).to_be_bytes());
    p.extend(id.to_be_bytes());
    p.extend([0x40, 0, 64, number, 0, 0]);
    p.extend(PEER);
    p.extend(OURS);
    let sum = checksum::finish(checksum::sum(&p));
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p.extend(l4);
    let pseudo = checksum::pseudo(PEER.into(), OURS.into(), number, l4.len());
    let at = if number == 6 { 16 } else { 6 };
    let sum = checksum::combine(pseudo, checksum::sum(l4));
    p[20 + at..22 + at].copy_from_slice(&checksum::finish_at(at, sum).to_be_bytes());
    p
}

fn tcp(seq: u32, ack: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut s = [4000u16.to_be_bytes(), 80u16.to_be_bytes()].concat();
    s.extend(seq.to_be_bytes());
    s.extend(ack.to_be_bytes());
    s.extend([((20 + options.len()) / 4 * 16) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    s.extend(options);
    s.extend(payload);
    s
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut d = [5000u16.to_be_bytes(), 7u16.to_be_bytes()].concat();
    d.extend(((8 + payload.len()) as u16).to_be_bytes());
    d.extend([0, 0]);
    d.extend(payload);
    d
}

/// A stack with an accepted connection and a UDP socket.
struct Receiver {
    stack: Stack,
    now: Instant,
    conn: SocketId,
    udp: SocketId,
    /// Our sequence number, for acknowledgements.
    snd_nxt: u32,
    merge: bool,
    units: u64,
    bytes: Vec<u8>,
    datagrams: Vec<Vec<u8>>,
}

impl Receiver {
    fn new(merge: bool) -> Receiver {
        let config = StackConfig { seed: [3; 16], ..StackConfig::default() };
        let mut stack = Stack::new(config, FramePool::heap(256, 2048), START);
        let alias = AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip);
        stack.handle_config(START, Change::AliasAdd(alias)).unwrap();
        let cidr = "10.0.0.1/24".parse().unwrap();
        stack.handle_config(START, Change::AddressAdd { alias: ALIAS, cidr }).unwrap();
        let at = |port: u16| SocketAddr::from((OURS, port));
        let listener = stack.tcp_listen(START, at(80), 4).unwrap();
        let udp = stack.udp_bind(START, at(7)).unwrap();
        let syn = ip4(6, 1, 0, &tcp(ISN, 0, 2, &[2, 4, 5, 0xb4, 4, 2, 1, 1], &[]));
        stack.handle_frame(START, ALIAS, Frame::from_heap(0, &syn));
        let mut tx = TxBurst::new(8);
        stack.poll_transmit(START, &mut tx);
        let syn_ack = tx.frames.pop().unwrap().1;
        let snd_nxt = u32::from_be_bytes(syn_ack.data()[24..28].try_into().unwrap()) + 1;
        let ack = ip4(6, 2, 0, &tcp(ISN + 1, snd_nxt, 0x10, &[], &[]));
        stack.handle_frame(START, ALIAS, Frame::from_heap(0, &ack));
        let conn = stack.tcp_accept(listener).unwrap().id;
        let (bytes, datagrams) = (Vec::new(), Vec::new());
        Receiver { stack, now: START, conn, udp, snd_nxt, merge, units: 0, bytes, datagrams }
    }

    fn burst(&mut self, wire: &[Vec<u8>], read: bool) {
        self.now += Duration::from_millis(1);
        let pool = FramePool::heap(64, 2048);
        let frame = |w: &Vec<u8>| {
            let mut frame = pool.alloc().unwrap();
            frame.reset(HEADROOM_BYTES);
            frame.append(w);
            ((), Some(frame))
        };
        let mut burst: Vec<_> = wire.iter().map(frame).collect();
        if self.merge {
            let facts = BurstFacts { ethernet: false, trust: false };
            self.units += Gro::default().merge(&mut burst, facts, |()| Takes::Units).units;
        }
        for frame in burst.into_iter().filter_map(|b| b.1) {
            self.stack.handle_frame(self.now, ALIAS, frame);
        }
        let mut tx = TxBurst::new(64);
        self.stack.poll_transmit(self.now, &mut tx);
        while self.stack.poll_event().is_some() {}
        if read {
            let mut out = [0; 4096];
            while let Ok(n @ 1..) = self.stack.tcp_recv(self.now, self.conn, &mut out) {
                self.bytes.extend(&out[..n]);
            }
            while let Ok(d) = self.stack.udp_recv(self.udp) {
                self.datagrams.push(d.payload.to_vec());
            }
        }
    }

    /// What must not depend on merging. What was copied may: a short datagram is copied out of a
    /// super-datagram.
    fn counters(&self) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        let mib = self.stack.mib();
        mib.for_each(|name, n| {
            let same = ["IpIn", "TcpInSegs", "UdpIn", "UdpNo", "TcpInErrs", "IpReasm"];
            if same.iter().any(|s| name.starts_with(s)) && !name.ends_with("CopiedOctets") {
                out.push((name.to_owned(), n));
            }
        });
        out
    }
}

#[derive(Clone, Debug)]
enum Packet {
    /// From `skip` bytes (of a unit of ten) past the end of the last one.
    Data {
        skip: i32,
        len: usize,
        flags: u8,
        mark: u8,
        broken: bool,
    },
    Ack,
    Datagram {
        len: usize,
    },
    Fragment,
}

fn packet() -> impl Strategy<Value = Packet> {
    let skip = prop_oneof![12 => Just(0i32), 1 => -300..300i32];
    let len = prop_oneof![8 => Just(MSS), 1 => 1..MSS, 1 => 1..40usize];
    let flags = prop_oneof![12 => Just(0x10u8), 2 => Just(0x18)];
    let mark = prop_oneof![10 => Just(0u8), 1 => 0..4u8];
    let broken = proptest::bool::weighted(0.03);
    let data = (skip, len, flags, mark, broken).prop_map(|(skip, len, flags, mark, broken)| {
        Packet::Data { skip, len, flags, mark, broken }
    });
    let datagram = prop_oneof![4 => Just(600usize), 1 => Just(2), 1 => 0..600usize];
    prop_oneof![
        12 => data,
        1 => Just(Packet::Ack),
        2 => datagram.prop_map(|len| Packet::Datagram { len }),
        1 => Just(Packet::Fragment),
    ]
}

/// The packets as they arrive; `at` is where the stream stands.
fn on_wire(packets: &[Packet], at: &mut i64, snd_nxt: u32) -> Vec<Vec<u8>> {
    let one = |(n, packet): (usize, &Packet)| match packet {
        Packet::Data { skip, len, flags, mark, broken } => {
            *at = (*at + i64::from(skip * 10)).max(0);
            let payload: Vec<u8> = (*at..*at + *len as i64).map(|i| ((i * 7) >> 3) as u8).collect();
            let seq = (ISN + 1).wrapping_add(*at as u32);
            *at += *len as i64;
            let mut p = ip4(6, n as u16, *mark, &tcp(seq, snd_nxt, *flags, &[], &payload));
            *p.last_mut().unwrap() ^= u8::from(*broken);
            p
        }
        Packet::Ack => {
            let seq = (ISN + 1).wrapping_add(*at as u32);
            ip4(6, n as u16, 0, &tcp(seq, snd_nxt, 0x10, &[], &[]))
        }
        Packet::Datagram { len } => ip4(17, n as u16, 0, &udp(&vec![n as u8; *len])),
        Packet::Fragment => {
            let mut p = ip4(17, n as u16, 0, &udp(&[1; 32]));
            p[6] = 0x20;
            p[10..12].fill(0);
            let sum = checksum::finish(checksum::sum(&p[..20]));
            p[10..12].copy_from_slice(&sum.to_be_bytes());
            p
        }
    };
    packets.iter().enumerate().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn merging_changes_nothing_that_can_be_told(
        bursts in proptest::collection::vec(
            (proptest::collection::vec(packet(), 1..40), any::<bool>()), 1..8,
        ),
    ) {
        let mut plain = Receiver::new(false);
        let mut merging = Receiver::new(true);
        let mut at = 0;
        for (packets, read) in &bursts {
            let wire = on_wire(packets, &mut at, plain.snd_nxt);
            plain.burst(&wire, *read);
            merging.burst(&wire, *read);
            prop_assert_eq!(plain.bytes.len(), merging.bytes.len());
        }
        plain.burst(&[], true);
        merging.burst(&[], true);
        prop_assert!(plain.bytes == merging.bytes && plain.datagrams == merging.datagrams);
        prop_assert_eq!(plain.counters(), merging.counters());
        let state = |r: &Receiver| {
            let info = r.stack.tcp_info(r.now, r.conn).unwrap();
            (info.state, info.bytes_received, info.segments_received, info.recv_window)
        };
        prop_assert_eq!(state(&plain), state(&merging));
    }
}

#[test]
fn a_burst_of_full_segments_reaches_the_stack_as_one() {
    let mut merging = Receiver::new(true);
    let data = Packet::Data { skip: 0, len: MSS, flags: 0x10, mark: 0, broken: false };
    let wire = on_wire(&vec![data; 32], &mut 0, merging.snd_nxt);
    let before = merging.stack.mib().frames.rx_frames;
    merging.burst(&wire, true);
    assert_eq!(merging.units, 1);
    assert_eq!(merging.stack.mib().frames.rx_frames, before + 1);
    assert_eq!(merging.bytes.len(), 32 * MSS);
}

#[test]
fn merged_datagrams_are_counted_and_lost_one_by_one() {
    let mut merging = Receiver::new(true);
    let wire = on_wire(&vec![Packet::Datagram { len: 600 }; 5], &mut 0, 0);
    merging.burst(&wire, true);
    assert_eq!((merging.units, merging.datagrams.len()), (1, 5));
    assert_eq!(merging.stack.mib().udp.in_datagrams, 5);
    merging.stack.udp_close(merging.udp);
    merging.burst(&wire, true);
    assert_eq!(merging.stack.mib().udp.no_ports, 5);
}

#[test]
fn datagrams_too_short_for_the_flags_of_a_segment_merge_too() {
    for len in 1..8 {
        let mut merging = Receiver::new(true);
        merging.burst(&on_wire(&vec![Packet::Datagram { len }; 5], &mut 0, 0), true);
        assert_eq!((merging.units, merging.datagrams.len()), (1, 5), "{len}");
    }
}

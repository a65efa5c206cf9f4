//! Bursts of a few bytes per packet, merged and taken.

use weft_drivers::device::Medium;
use weft_drivers::segment::Cut;
use weft_stack::frame::{Frame, Gso, HEADROOM_BYTES};
use weft_stack::link::gro::{BurstFacts, Gro, Takes};

use crate::build::{self, ACK, FIN, PSH, SYN};
use crate::target::Target;

/// Bytes that describe one packet.
const RECORD: usize = 4;
/// Packets of one burst.
const BURST: usize = 64;
const NETWORK: usize = 14;

/// Every four bytes are a packet: flow and flags, length, and what is changed of its headers. What
/// is merged of a burst must be, cut again, what came; a stack takes it.
pub fn gro(data: &[u8]) {
    let mut target = Target::new();
    gro_into(&mut target, data);
    target.finish();
}

/// As [`gro`], into a target that lives on.
///
/// # Panics
/// If merging lost, changed or moved something within its flow.
pub fn gro_into(target: &mut Target, data: &[u8]) {
    for records in data.chunks(RECORD * BURST) {
        let mut seq = [0u32; 2];
        let wire: Vec<_> =
            records.chunks_exact(RECORD).map(|r| packet(target, &mut seq, r)).collect();
        let mut burst: Vec<_> =
            wire.iter().map(|w| ((), Some(Frame::from_heap(HEADROOM_BYTES, w)))).collect();
        let facts = BurstFacts { ethernet: true, trust: false };
        let stats = Gro::default().merge(&mut burst, facts, |()| Takes::Units);
        let merged: Vec<_> = burst.into_iter().filter_map(|b| b.1).collect();
        assert_eq!(merged.len() as u64 + stats.packets, wire.len() as u64 + stats.units);
        let again: Vec<_> = merged.iter().flat_map(wire_packets).collect();
        assert_eq!(again.len(), wire.len());
        let mut flows: Vec<_> = wire.iter().map(|w| flow(w)).collect();
        flows.sort_unstable();
        flows.dedup();
        for one in flows {
            let of = |all: &[Vec<u8>]| -> Vec<_> {
                all.iter().filter(|w| flow(w) == one).map(|w| comparable(w)).collect()
            };
            assert!(of(&wire) == of(&again), "flow {one:?}");
        }
        target.frames(merged);
    }
}

fn packet(target: &Target, seq: &mut [u32; 2], r: &[u8]) -> Vec<u8> {
    let payload = vec![r[1]; usize::from(r[1] & 0x7f) * 10 + 1];
    let flags = match r[0] >> 4 {
        0..=9 => ACK,
        10 | 11 => ACK | PSH,
        12 => ACK | FIN,
        13 => ACK | SYN,
        14 => ACK | 0xc0,
        _ => r[3],
    };
    let clock = if r[0] & 4 != 0 { r[3] & 1 } else { 0 };
    let options = [1, 1, 8, 10, 0, 0, 0, clock, 0, 0, 0, 0];
    let options = if r[0] & 8 != 0 { &options[..] } else { &[] };
    let next = &mut seq[usize::from(r[0] & 1)];
    let at = *next;
    let mut frame = match r[0] & 3 {
        0 => build::tcp4(4000, 80, at, 0, flags, options, &payload),
        1 => build::tcp6(4001, 80, at, 0, flags, options, &payload),
        2 => build::udp4(4002, 7, &payload),
        _ => build::udp6(4003, 7, &payload),
    };
    if r[0] & 2 == 0 {
        *next = at.wrapping_add(payload.len() as u32);
    }
    target.aim(&mut frame);
    if r[2] & 0xc0 == 0xc0 {
        let at = usize::from(r[2] & 0x3f).min(frame.len() - 1);
        frame[at] ^= r[3];
        if r[3] & 1 == 0 {
            build::repair(&mut frame);
        }
    }
    frame
}

fn wire_packets(frame: &Frame) -> Vec<Vec<u8>> {
    if frame.meta.gso == Gso::None {
        return vec![frame.data().to_vec()];
    }
    let mut cut = Cut::new(frame, Medium::Ethernet).unwrap_or_else(|e| panic!("{e}"));
    let mut out = Vec::new();
    while let Some(len) = cut.next_len() {
        let mut packet = vec![0; len];
        cut.write_next(&mut packet);
        out.push(packet);
    }
    assert!(out.len() > 1);
    out
}

/// Ethertype, addresses, protocol and ports, as far as they can be told.
fn flow(frame: &[u8]) -> Vec<u8> {
    let field = |at: core::ops::Range<usize>| frame.get(at).unwrap_or_default();
    let mut flow = field(12..NETWORK + 1).to_vec();
    if flow.last().is_some_and(|b| b >> 4 == 4) {
        flow.extend(field(23..24).iter().chain(field(26..38)));
    } else {
        flow.extend(field(20..21).iter().chain(field(22..58)));
    }
    flow
}

/// Without what merging does not keep: the identification where "don't fragment" makes it
/// meaningless, TSval behind the first packet, CWR that cutting clears, and the checksums over them.
fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut f = frame.to_vec();
    let v4 = f.len() > 34 && f[NETWORK] == 0x45;
    let transport = if v4 { 34 } else { 54 };
    let number = f.get(if v4 { 23 } else { 20 }).copied();
    if v4 {
        f[18..20].fill(0);
        f[24..26].fill(0);
    }
    if number == Some(6) && f.len() >= transport + 20 {
        f[transport + 13] &= !0x80;
        f[transport + 16..transport + 18].fill(0);
        if f[transport + 12] >> 4 == 8 && f.len() > transport + 32 {
            f[transport + 24..transport + 28].fill(0);
        }
    } else if number == Some(17) && f.len() >= transport + 8 {
        f[transport + 6..transport + 8].fill(0);
    }
    f
}

//! Reassembly of both families (RFC 791, RFC 8200 4.5), bounded.
//!
//! Each fragment's payload is copied out of its frame, so that waiting packets never hold slots of
//! a frame pool. Bytes are charged with what bookkeeping costs; a packet that would exceed the
//! limits of the vserver is refused. Overlaps discard the whole packet, and what still comes of it
//! until its time is up (RFC 5722).

use core::net::IpAddr;
use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::ctx::{Ctx, Fate, Timer};
use crate::drop::DropReason;
use crate::frame::{Frame, HEADROOM_BYTES};
use crate::ip::address::AliasId;
use crate::rng::Key;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerHandle;

/// RFC 1122 3.3.2 wants 60 s or more, everybody uses 30 s: identifiers are used again quickly.
const IPV4_TIMEOUT: Duration = Duration::from_secs(30);
/// RFC 8200 4.5.
const IPV6_TIMEOUT: Duration = Duration::from_mins(1);
/// What a waiting fragment is charged beside its bytes.
const FRAGMENT_OVERHEAD_BYTES: usize = 64;
/// What a waiting packet is charged at least.
const PACKET_OVERHEAD_BYTES: usize = 256;
/// 60 kB in fragments of 576 bytes are 110.
const FRAGMENTS_MAX: usize = 256;
/// How much of the first fragment is kept for an ICMP error.
const QUOTE_BYTES: usize = 128;

/// What makes fragments belong together (RFC 791 3.2, RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FragmentKey {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ident: u32,
    /// IPv4 only; 0 for IPv6.
    pub(crate) protocol: u8,
    pub(crate) alias: AliasId,
}

/// One fragment: `frame` starts with the fragment's payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    pub(crate) key: FragmentKey,
    /// In bytes.
    pub(crate) offset: usize,
    pub(crate) more: bool,
    /// ECN bits of the fragment's header.
    pub(crate) ecn: u8,
    /// What follows the fragment header; counts from the first fragment.
    pub(crate) next_header: u8,
}

/// A packet whose fragments are all here.
pub(crate) struct Whole {
    /// The payload, with headroom.
    pub(crate) frame: Frame,
    pub(crate) next_header: u8,
    /// ECN of the whole (RFC 3168 5.3).
    pub(crate) ecn: u8,
}

/// What became of a fragment.
pub(crate) enum Reassembled {
    Whole(Whole),
    Done(Fate),
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    data: Box<[u8]>,
}

#[derive(Debug)]
struct Partial {
    /// By offset, no two overlap.
    pieces: Vec<Piece>,
    /// Where the packet ends, once the last fragment is here.
    end: Option<usize>,
    held_bytes: usize,
    next_header: u8,
    /// Bits 1 << codepoint of the ECN fields seen.
    ecn_seen: u8,
    quote: Box<[u8]>,
    /// Overlap or the like: everything else of this packet is discarded.
    poisoned: bool,
    until: Instant,
}

/// A packet given up for lack of fragments, for an ICMP error (RFC 792, RFC 4443 3.3).
pub(crate) struct TimedOut {
    pub(crate) is_v4: bool,
    pub(crate) alias: AliasId,
    /// IP header and what followed in the first fragment.
    pub(crate) quote: Box<[u8]>,
}

/// Packets being reassembled.
#[derive(Debug)]
pub(crate) struct Reassembly {
    partials: HashMap<FragmentKey, Partial, Key>,
    /// In order of expiry, one queue per family. Finished packets stay mentioned until then.
    order4: VecDeque<(Instant, FragmentKey)>,
    order6: VecDeque<(Instant, FragmentKey)>,
    held_bytes: usize,
    timer: Option<(Instant, TimerHandle)>,
}

impl Partial {
    fn new(until: Instant) -> Partial {
        Partial {
            pieces: Vec::new(),
            end: None,
            held_bytes: PACKET_OVERHEAD_BYTES,
            next_header: 0,
            ecn_seen: 0,
            quote: Box::default(),
            poisoned: false,
            until,
        }
    }

    /// Where `fragment` goes; `Err`: it is refused, with the fate.
    fn place(&self, fragment: &Fragment, data: &[u8]) -> Result<usize, Fate> {
        let (from, to) = (fragment.offset, fragment.offset + data.len());
        let at = self.pieces.partition_point(|p| p.offset < from);
        if let Some(same) = self.pieces.get(at)
            && same.offset == from
            && *same.data == *data
        {
            // RFC 8200 4.5: exact duplicates may be ignored.
            return Err(Fate::Consumed);
        }
        let before = at.checked_sub(1).and_then(|i| self.pieces.get(i));
        let overlaps = before.is_some_and(|p| p.offset + p.data.len() > from)
            || self.pieces.get(at).is_some_and(|p| p.offset < to)
            || self.end.is_some_and(|end| to > end || (!fragment.more && to != end))
            || (!fragment.more && self.pieces.last().is_some_and(|p| p.offset + p.data.len() > to));
        if overlaps { Err(Fate::Dropped(DropReason::FragmentOverlap)) } else { Ok(at) }
    }

    fn complete(&self) -> bool {
        let mut at = 0;
        let contiguous = self.pieces.iter().all(|p| {
            let follows = p.offset == at;
            at += p.data.len();
            follows
        });
        contiguous && self.end == Some(at)
    }

    fn join(&self) -> Frame {
        let len = self.end.unwrap_or(0);
        let mut frame = Frame::heap_with_capacity(HEADROOM_BYTES, len);
        for piece in &self.pieces {
            frame.append(&piece.data);
        }
        frame
    }

    /// RFC 3168 5.3: any CE makes CE; see [`mixes_marks`].
    fn ecn(&self) -> u8 {
        if self.ecn_seen & 1 << 3 != 0 {
            return 3;
        }
        self.ecn_seen.trailing_zeros().min(3) as u8
    }
}

/// RFC 3168 5.3: CE beside Not-ECT must not become CE, and the mark must not be lost.
fn mixes_marks(seen: u8) -> bool {
    seen & 1 != 0 && seen & 1 << 3 != 0
}

impl Reassembly {
    /// Nothing waits.
    pub(crate) fn new(key: Key) -> Reassembly {
        Reassembly {
            partials: HashMap::with_hasher(key),
            order4: VecDeque::new(),
            order6: VecDeque::new(),
            held_bytes: 0,
            timer: None,
        }
    }

    /// Bytes charged.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Packets waiting.
    pub(crate) fn len(&self) -> usize {
        self.partials.len()
    }

    /// Takes a fragment; `frame` starts with its payload and still knows its network header.
    pub(crate) fn input(
        &mut self,
        ctx: &mut Ctx<'_>,
        fragment: &Fragment,
        frame: &Frame,
    ) -> Reassembled {
        let key = fragment.key;
        if !self.partials.contains_key(&key) && !self.admit(ctx, key) {
            return Reassembled::Done(Fate::Dropped(DropReason::FragmentTooMany));
        }
        let Some(partial) = self.partials.get_mut(&key) else {
            return Reassembled::Done(Fate::Dropped(DropReason::FragmentTooMany));
        };
        if partial.poisoned {
            return Reassembled::Done(Fate::Dropped(DropReason::FragmentOverlap));
        }
        if mixes_marks(partial.ecn_seen | 1 << (fragment.ecn & 3)) {
            self.poison(ctx, key);
            return Reassembled::Done(Fate::Dropped(DropReason::FragmentEcnMixed));
        }
        let data = frame.data();
        let at = match partial.place(fragment, data) {
            Ok(at) => at,
            Err(Fate::Consumed) => return Reassembled::Done(Fate::Consumed),
            Err(fate) => {
                self.poison(ctx, key);
                return Reassembled::Done(fate);
            }
        };
        let charge = data.len() + FRAGMENT_OVERHEAD_BYTES;
        if partial.pieces.len() >= FRAGMENTS_MAX
            || self.held_bytes + charge > ctx.limits.reassembly_bytes
        {
            return Reassembled::Done(Fate::Dropped(DropReason::FragmentTooMany));
        }
        partial.pieces.insert(at, Piece { offset: fragment.offset, data: data.into() });
        partial.held_bytes += charge;
        self.held_bytes += charge;
        partial.ecn_seen |= 1 << (fragment.ecn & 3);
        if fragment.offset == 0 {
            partial.next_header = fragment.next_header;
            let header = frame.network_header();
            partial.quote = header[..header.len().min(QUOTE_BYTES)].into();
        }
        if !fragment.more {
            partial.end = Some(fragment.offset + data.len());
        }
        if !partial.complete() {
            return Reassembled::Done(Fate::Consumed);
        }
        let whole =
            Whole { frame: partial.join(), next_header: partial.next_header, ecn: partial.ecn() };
        self.forget(&key);
        self.rearm(ctx);
        Reassembled::Whole(whole)
    }

    /// Makes room for a new packet, if the limits allow.
    fn admit(&mut self, ctx: &mut Ctx<'_>, key: FragmentKey) -> bool {
        let limits = ctx.limits;
        if self.partials.len() >= limits.reassemblies
            || self.held_bytes + PACKET_OVERHEAD_BYTES > limits.reassembly_bytes
        {
            return false;
        }
        let v4 = key.src.is_ipv4();
        let until = ctx.now + if v4 { IPV4_TIMEOUT } else { IPV6_TIMEOUT };
        let order = if v4 { &mut self.order4 } else { &mut self.order6 };
        order.push_back((until, key));
        self.partials.insert(key, Partial::new(until));
        self.held_bytes += PACKET_OVERHEAD_BYTES;
        self.rearm(ctx);
        true
    }

    /// Gives back the memory of a packet but remembers to discard the rest of it.
    fn poison(&mut self, ctx: &mut Ctx<'_>, key: FragmentKey) {
        let Some(partial) = self.partials.get_mut(&key) else { return };
        lose(ctx, partial.pieces.len(), DropReason::FragmentOverlap);
        self.held_bytes -= partial.held_bytes - PACKET_OVERHEAD_BYTES;
        partial.held_bytes = PACKET_OVERHEAD_BYTES;
        partial.pieces = Vec::new();
        partial.quote = Box::default();
        partial.poisoned = true;
    }

    fn forget(&mut self, key: &FragmentKey) -> Option<Partial> {
        let partial = self.partials.remove(key)?;
        self.held_bytes -= partial.held_bytes;
        Some(partial)
    }

    /// The next packet whose time is up; `None` when there is none (the timer is set again).
    pub(crate) fn expire(&mut self, ctx: &mut Ctx<'_>) -> Option<TimedOut> {
        loop {
            self.prune();
            let due = |q: &VecDeque<(Instant, FragmentKey)>| {
                q.front().is_some_and(|(until, _)| *until <= ctx.now)
            };
            let order = if due(&self.order4) {
                &mut self.order4
            } else if due(&self.order6) {
                &mut self.order6
            } else {
                self.rearm(ctx);
                return None;
            };
            let (_, key) = order.pop_front()?;
            let Some(partial) = self.forget(&key) else { continue };
            if partial.poisoned {
                continue;
            }
            lose(ctx, partial.pieces.len(), DropReason::FragmentTimeout);
            let is_v4 = key.src.is_ipv4();
            return Some(TimedOut { is_v4, alias: key.alias, quote: partial.quote });
        }
    }

    /// Drops mentions of finished packets: from the front of the queues, and everywhere when most
    /// of a queue is such mentions, which keeps its length within twice the packets that wait.
    fn prune(&mut self) {
        let partials = &self.partials;
        for order in [&mut self.order4, &mut self.order6] {
            if order.len() > 2 * partials.len() + 16 {
                order.retain(|(until, key)| partials.get(key).is_some_and(|p| p.until == *until));
            }
            while let Some((until, key)) = order.front()
                && partials.get(key).is_none_or(|p| p.until != *until)
            {
                order.pop_front();
            }
        }
    }

    /// Sets the stack's one reassembly timer to the first deadline.
    fn rearm(&mut self, ctx: &mut Ctx<'_>) {
        self.prune();
        let first = [&self.order4, &self.order6].into_iter().filter_map(|q| q.front());
        let wanted = first.map(|(until, _)| *until).min();
        match (wanted, self.timer) {
            (Some(at), Some((set, _))) if at == set && set > ctx.now => return,
            (_, Some((_, handle))) => {
                ctx.timers.cancel(handle);
            }
            (_, None) => {}
        }
        self.timer = wanted.map(|at| (at, ctx.timers.schedule(at, Timer::Reassembly)));
    }
}

/// Fragments that waited were counted as consumed; they turn out lost.
fn lose(ctx: &mut Ctx<'_>, fragments: usize, reason: DropReason) {
    ctx.mib.frames.consumed -= fragments as u64;
    ctx.mib.frames.rx_dropped += fragments as u64;
    ctx.mib.drops.add(reason, fragments as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::testing::World;
    use proptest::prelude::*;

    fn fragment(ident: u32, offset: usize, more: bool) -> Fragment {
        let (src, dst) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let key = FragmentKey { src, dst, ident, protocol: 0, alias: AliasId(0) };
        Fragment { key, offset, more, ecn: 0, next_header: 17 }
    }

    fn whole(result: Reassembled) -> Option<Frame> {
        match result {
            Reassembled::Whole(whole) => Some(whole.frame),
            Reassembled::Done(fate) => {
                assert_eq!(fate, Fate::Consumed);
                None
            }
        }
    }

    // RFC 3168 5.3
    #[test]
    fn marked_fragments_beside_such_that_are_not_ecn_capable_are_discarded() {
        for order in [[0, 3], [3, 0]] {
            let mut world = World::new();
            let mut table = Reassembly::new(world.secrets.flow);
            for (ecn, offset, more) in [(order[0], 0, true), (order[1], 8, false)] {
                let f = Fragment { ecn, ..fragment(1, offset, more) };
                world.mib.frames.consumed += 1;
                match table.input(&mut world.ctx(), &f, &Frame::from_heap(0, &[0; 8])) {
                    Reassembled::Done(Fate::Consumed) if more => {}
                    Reassembled::Done(Fate::Dropped(DropReason::FragmentEcnMixed)) if !more => {}
                    _ => panic!("the fragment at {offset}"),
                }
            }
        }
    }

    // RFC 3168 5.3
    #[test]
    fn congestion_marks_survive() {
        let mut world = World::new();
        let mut table = Reassembly::new(world.secrets.flow);
        for (ecn, offset, more) in [(2, 0, true), (3, 8, true), (2, 16, false)] {
            let f = Fragment { ecn, ..fragment(1, offset, more) };
            world.mib.frames.consumed += 1;
            if let Reassembled::Whole(whole) =
                table.input(&mut world.ctx(), &f, &Frame::from_heap(0, &[0; 8]))
            {
                assert_eq!(whole.ecn, 3);
                return;
            }
        }
        panic!("not whole");
    }

    proptest! {
        /// Packets cut anywhere, fragments of many packets mixed, some sent twice: each packet comes
        /// out once and unchanged, and nothing stays behind.
        #[test]
        fn packets_come_out_as_they_went_in(
            lens in proptest::collection::vec(9usize..600, 1..6),
            step in 1usize..20,
            order in proptest::collection::vec(any::<u32>(), 400),
            doubled in any::<u64>(),
        ) {
            let mut world = World::new();
            let mut table = Reassembly::new(world.secrets.flow);
            let payload = |i: usize| -> Vec<u8> { (0..lens[i]).map(|n| (n * 7 + i) as u8).collect() };
            let mut pieces = Vec::new();
            for (i, len) in lens.iter().enumerate() {
                for at in (0..*len).step_by(step * 8) {
                    let end = (at + step * 8).min(*len);
                    pieces.push((i, at, end, end < *len));
                }
            }
            let single: Vec<bool> = lens.iter().map(|len| *len <= step * 8).collect();
            let mut keyed: Vec<_> = pieces.iter().enumerate().map(|(n, p)| (order[n % 400], p)).collect();
            keyed.sort_by_key(|(k, _)| *k);
            let mut out = vec![0; lens.len()];
            for (n, (_, (i, at, end, more))) in keyed.into_iter().enumerate() {
                if single[*i] {
                    continue;
                }
                let data = &payload(*i)[*at..*end];
                // A duplicate after the last piece would start the packet anew.
                let again = doubled >> (n % 64) & 1 == 1 && out[*i] == 0;
                for _ in 0..=usize::from(again) {
                    if out[*i] > 0 {
                        break;
                    }
                    world.mib.frames.consumed += 1;
                    let frame = Frame::from_heap(0, data);
                    let f = fragment(*i as u32, *at, *more);
                    if let Some(frame) = whole(table.input(&mut world.ctx(), &f, &frame)) {
                        prop_assert_eq!(frame.data(), &payload(*i)[..]);
                        out[*i] += 1;
                    }
                }
            }
            for (i, n) in out.iter().enumerate() {
                prop_assert_eq!(*n, i32::from(!single[i]));
            }
            prop_assert_eq!((table.len(), table.held_bytes()), (0, 0));
            prop_assert!(table.order6.is_empty());
        }
    }
}

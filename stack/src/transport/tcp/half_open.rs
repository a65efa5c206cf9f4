//! The SYN queue: half-open connections of listeners (RFC 9293 3.10.7.2), small until the ACK that
//! completes them (RFC 4987 section 3.5).
//!
//! Every entry is in exactly one list: that of the SYN-ACKs it has sent again. All entries of a list
//! wait equally long, so a list in order of arrival is a timer, and one timer of the wheel serves
//! them all. A connection block is made by the ACK; until then nothing is allocated per peer beside
//! the entry and eight bytes of the flow table.

use core::time::Duration;

use slab::Slab;

use crate::drop::DropReason;
use crate::ip::address::AliasId;
use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::tcp::{Flags, Header, Options};

use super::ecn::Negotiated;
use super::flow_table::FlowKey;
use super::input::in_window;
use super::settings::{Settings, WINDOW_SCALE_MAX};
use super::state::Connection;

/// RFC 6298 2.1; doubled for every SYN-ACK sent again.
const WAIT_FIRST: Duration = Duration::from_secs(1);

/// SYN-ACKs sent again before the peer is given up (63 s).
const RETRIES_MAX: usize = 5;

const NONE: u32 = u32::MAX;

/// Stands for "not offered" where a shift is kept.
const NO_SCALE: u8 = u8::MAX;

/// A SYN that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) key: FlowKey,
    pub(crate) alias: AliasId,
    pub(crate) listener: u32,
    pub(crate) iss: SeqNum,
    pub(crate) irs: SeqNum,
    /// The peer's last timestamp, if timestamps are in use.
    ts_recent: u32,
    /// The peer's window and segment size as its SYN says; 0: no MSS named.
    pub(crate) window: u16,
    mss: u16,
    /// The peer's shift, and the one we offered.
    scale: u8,
    scale_ours: u8,
    sack_ok: bool,
    ts_ok: bool,
    /// The SYN-ACK brings a Fast Open cookie.
    pub(crate) gives_cookie: bool,
    pub(crate) marks: Negotiated,
    /// The ACK is here, without data (`TCP_DEFER_ACCEPT`).
    pub(crate) acked: bool,
    /// SYN-ACKs sent again so far: the list it is in.
    retries: u8,
    /// When the first SYN-ACK left.
    pub(crate) sent_at: Instant,
    due: Instant,
    prev: u32,
    next: u32,
}

/// What keeps a SYN flood cheap: with its share of the flow table an entry stays below 128 bytes.
const _: () = assert!(size_of::<Request>() <= 96);

/// What a segment means for a half-open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The handshake is complete: a connection takes the segment.
    Complete,
    /// The same SYN again: the SYN-ACK again.
    Repeat,
    /// Back to LISTEN.
    Forget,
    /// An ACK, within the budgets (RFC 5961).
    Challenge(DropReason),
    /// A RST.
    Reset(DropReason),
    Drop(DropReason),
}

impl Request {
    /// A SYN from `key`, answered at `now` with `iss`.
    pub(crate) fn new(
        (key, alias, listener): (FlowKey, AliasId, u32),
        iss: SeqNum,
        syn: &Header,
        settings: &Settings,
        now: Instant,
    ) -> Request {
        let o = settings.offers.taken_up(&syn.options);
        Request {
            key,
            alias,
            listener,
            iss,
            irs: syn.seq,
            ts_recent: o.timestamp.map_or(0, |t| t.0),
            window: syn.window,
            mss: o.mss.unwrap_or(0),
            scale: o.window_scale.map_or(NO_SCALE, |s| s.min(WINDOW_SCALE_MAX)),
            scale_ours: settings.window_scale(),
            sack_ok: o.sack_permitted,
            ts_ok: o.timestamp.is_some(),
            gives_cookie: false,
            marks: Negotiated::of_syn(settings.ecn, settings.congestion, syn),
            acked: false,
            retries: 0,
            sent_at: now,
            due: now + WAIT_FIRST,
            prev: NONE,
            next: NONE,
        }
    }

    /// The options of the peer's SYN.
    pub(crate) fn options(&self) -> Options {
        Options {
            mss: (self.mss > 0).then_some(self.mss),
            window_scale: (self.scale != NO_SCALE).then_some(self.scale),
            sack_permitted: self.sack_ok,
            timestamp: self.ts_ok.then_some((self.ts_recent, 0)),
            ..Options::default()
        }
    }

    /// The SYN-ACK (RFC 9293 3.10.7.2): what the peer offered is taken up. `clock` is our timestamp,
    /// `mss` and `window` are ours.
    pub(crate) fn syn_ack(&self, clock: u32, mss: u16, window: u16) -> Header {
        let offered = self.options();
        let mut header = Header {
            src_port: self.key.local_port,
            dst_port: self.key.peer_port,
            seq: self.iss,
            ack: self.irs + 1,
            flags: Flags::SYN.with(Flags::ACK),
            window,
            options: Options {
                mss: Some(mss),
                window_scale: offered.window_scale.map(|_| self.scale_ours),
                timestamp: offered.timestamp.map(|(recent, _)| (clock, recent)),
                ..offered
            },
            ..Header::default()
        };
        self.marks.write_syn_ack(u32::from(self.retries), &mut header);
        header
    }

    /// The ACK that answers what is out of order.
    pub(crate) fn bare_ack(&self, clock: u32, window: u16) -> Header {
        let shift = if self.scale == NO_SCALE { 0 } else { self.scale_ours };
        let timestamp = self.ts_ok.then_some((clock, self.ts_recent));
        Header {
            src_port: self.key.local_port,
            dst_port: self.key.peer_port,
            seq: self.iss + 1,
            ack: self.irs + 1,
            flags: Flags::ACK,
            window: window >> shift,
            options: Options { timestamp, ..Options::default() },
            ..Header::default()
        }
    }

    /// The completing ACK again, for a connection that was deferred.
    pub(crate) fn kept_ack(&self) -> Header {
        Header {
            src_port: self.key.peer_port,
            dst_port: self.key.local_port,
            seq: self.irs + 1,
            ack: self.iss + 1,
            flags: Flags::ACK.with(self.marks.kept_flags()),
            window: self.window,
            options: Options {
                timestamp: self.ts_ok.then_some((self.ts_recent, 0)),
                ..Options::default()
            },
            ..Header::default()
        }
    }

    /// RFC 9293 3.10.7.4 for SYN-RECEIVED after a passive open, with RFC 5961 and RFC 7323;
    /// `window` is what the SYN-ACK offered.
    pub(crate) fn judge(&self, seg: &Header, payload_len: usize, window: u16) -> Verdict {
        let (rst, syn) = (seg.flags.has(Flags::RST), seg.flags.has(Flags::SYN));
        if syn && !rst && !seg.flags.has(Flags::ACK) && seg.seq == self.irs {
            return Verdict::Repeat;
        }
        if self.ts_ok && !rst {
            match seg.options.timestamp {
                // RFC 7323 3.2
                None if !syn => return Verdict::Drop(DropReason::TcpPaws),
                Some((value, _)) if (value.wrapping_sub(self.ts_recent) as i32) < 0 => {
                    return Verdict::Challenge(DropReason::TcpPaws);
                }
                _ => {}
            }
        }
        let next = self.irs + 1;
        if !in_window(next, u32::from(window), seg, payload_len) {
            if rst {
                return Verdict::Drop(DropReason::TcpRstInvalid);
            }
            return Verdict::Challenge(DropReason::TcpOutOfWindow);
        }
        if rst {
            // RFC 5961 section 3
            let exact = seg.seq == next;
            return if exact {
                Verdict::Forget
            } else {
                Verdict::Challenge(DropReason::TcpRstInvalid)
            };
        }
        if syn {
            // Fourth: the peer starts over; its next SYN finds LISTEN.
            return Verdict::Forget;
        }
        if !seg.flags.has(Flags::ACK) {
            return Verdict::Drop(DropReason::TcpFlagsInvalid);
        }
        if seg.ack != self.iss + 1 {
            return Verdict::Reset(DropReason::TcpAckInvalid);
        }
        Verdict::Complete
    }

    /// `TCP_DEFER_ACCEPT`: keeps an ACK that brings nothing for the application, for at most `limit`
    /// after the SYN; false: the connection is to be made.
    pub(crate) fn keep_ack(
        &mut self,
        seg: &Header,
        payload_len: usize,
        now: Instant,
        limit: Duration,
    ) -> bool {
        let bare = payload_len == 0 && !seg.flags.has(Flags::FIN);
        if !bare || now - self.sent_at >= limit {
            return false;
        }
        self.acked = true;
        self.marks.keep_ack(seg);
        self.window = seg.window;
        self.take_timestamp(seg);
        true
    }

    /// Time to the next SYN-ACK, and how many went out again.
    pub(crate) fn timer(&self, now: Instant) -> (Duration, u32) {
        (self.due.saturating_since(now), u32::from(self.retries))
    }

    /// Whether it is known how long the SYN-ACK took.
    pub(crate) fn is_timed(&self) -> bool {
        self.retries == 0 && !self.acked
    }

    /// A repeated SYN may bring a newer timestamp (RFC 7323 4.3).
    pub(crate) fn take_timestamp(&mut self, seg: &Header) {
        if let Some((value, _)) = seg.options.timestamp.filter(|_| self.ts_ok)
            && value.wrapping_sub(self.ts_recent) as i32 >= 0
        {
            self.ts_recent = value;
        }
    }
}

impl Connection {
    /// The SYN-ACK of `request` was sent, and sent again, before this block existed.
    /// `timed`: it is known when.
    pub(crate) fn resume_handshake(&mut self, request: &Request, timed: bool) {
        if self.scale_agreed {
            self.rcv_wscale = request.scale_ours;
        }
        self.snd_nxt = self.iss + 1;
        self.syn_pending = false;
        self.rcv_adv = self.rcv_nxt + u32::from(self.settings.window_of_syn());
        self.rtx_count = u32::from(request.retries);
        self.ecn.serve(request.marks, self.rtx_count, self.iss);
        if request.retries > 0 {
            self.totals.losses.retransmits.handshake += u64::from(request.retries);
        }
        self.progress_at = request.sent_at;
        self.notes.opening.untimed = !timed;
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

/// What is due for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The SYN-ACK again.
    Again(u32),
    /// The ACK is here and waits for data; no SYN-ACK. `last`: it will not be asked again.
    Deferred { slot: u32, last: bool },
    /// Nobody answered.
    GiveUp(u32),
}

/// All half-open connections of a stack's listeners.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    entries: Slab<Request>,
    lists: [List; RETRIES_MAX + 1],
}

impl Default for HalfOpen {
    fn default() -> HalfOpen {
        HalfOpen { entries: Slab::new(), lists: [List { head: NONE, tail: NONE }; RETRIES_MAX + 1] }
    }
}

impl HalfOpen {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Slots, free ones counted.
    pub(crate) fn slots(&self) -> usize {
        self.entries.capacity()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Request> {
        self.entries.get(slot as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Request> {
        self.entries.get_mut(slot as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Request)> {
        self.entries.iter().map(|(i, r)| (i as u32, r))
    }

    pub(crate) fn insert(&mut self, request: Request) -> u32 {
        let slot = self.entries.insert(request) as u32;
        self.link(slot);
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Request> {
        if !self.entries.contains(slot as usize) {
            return None;
        }
        self.unlink(slot);
        self.entries.try_remove(slot as usize)
    }

    /// The earliest instant at which [`HalfOpen::pop_due`] has something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let heads = self.lists.iter().filter_map(|l| self.get(l.head));
        heads.map(|r| r.due).min()
    }

    /// What is due; an entry waits for its next turn unless this was the last, when the caller
    /// removes it.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        let heads = self.lists.iter().map(|l| l.head);
        let slot = heads.into_iter().find(|s| self.get(*s).is_some_and(|r| r.due <= now))?;
        let request = &self.entries[slot as usize];
        let acked = request.acked;
        if usize::from(request.retries) >= RETRIES_MAX {
            let last = true;
            return Some(if acked { Due::Deferred { slot, last } } else { Due::GiveUp(slot) });
        }
        self.unlink(slot);
        let request = &mut self.entries[slot as usize];
        request.retries += 1;
        request.due = now + WAIT_FIRST * (1 << request.retries);
        self.link(slot);
        let last = false;
        Some(if acked { Due::Deferred { slot, last } } else { Due::Again(slot) })
    }

    fn link(&mut self, slot: u32) {
        let list = &mut self.lists[usize::from(self.entries[slot as usize].retries)];
        let last = std::mem::replace(&mut list.tail, slot);
        if last == NONE {
            list.head = slot;
        } else {
            self.entries[last as usize].next = slot;
        }
        let request = &mut self.entries[slot as usize];
        (request.prev, request.next) = (last, NONE);
    }

    fn unlink(&mut self, slot: u32) {
        let request = &self.entries[slot as usize];
        let (prev, next) = (request.prev, request.next);
        let list = usize::from(request.retries);
        match prev {
            NONE => self.lists[list].head = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.lists[list].tail = prev,
            next => self.entries[next as usize].prev = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(
            "10.0.0.1:80".parse().unwrap(),
            core::net::SocketAddr::new([10, 0, 0, 2].into(), port),
        )
    }

    fn syn() -> Header {
        Header {
            seq: SeqNum(5000),
            window: 30_000,
            flags: Flags::SYN,
            options: Options {
                mss: Some(1000),
                window_scale: Some(15),
                sack_permitted: true,
                timestamp: Some((700, 0)),
                ..Options::default()
            },
            ..Header::default()
        }
    }

    fn request(port: u16, at_ms: u64) -> Request {
        let settings = super::super::tests::settings();
        let now = Instant::from_millis(at_ms);
        Request::new((key(port), AliasId(0), 0), SeqNum(1000), &syn(), &settings, now)
    }

    // RFC 7323 2.3
    #[test]
    fn the_syn_ack_takes_up_what_was_offered_and_caps_the_shift() {
        let r = request(1, 0);
        assert_eq!(r.options().window_scale, Some(14));
        let h = r.syn_ack(9, 1460, 60_000);
        assert_eq!((h.seq, h.ack, h.window), (SeqNum(1000), SeqNum(5001), 60_000));
        assert_eq!(h.options.timestamp, Some((9, 700)));
        assert!(h.options.sack_permitted && h.options.window_scale == Some(0));
        let mut bare = syn();
        bare.options = Options::default();
        let settings = super::super::tests::settings();
        let r = Request::new((key(1), AliasId(0), 0), SeqNum(1), &bare, &settings, Instant::ZERO);
        let h = r.syn_ack(9, 1460, 60_000);
        assert_eq!(h.options, Options { mss: Some(1460), ..Options::default() });
    }

    // RFC 9293 3.10.7.4 SYN-RECEIVED
    // RFC 5961 3.2
    #[test]
    fn every_kind_of_segment_has_its_verdict() {
        let r = request(1, 0);
        let seg = |flags, seq, ack, value| Header {
            flags,
            seq: SeqNum(seq),
            ack: SeqNum(ack),
            options: Options { timestamp: Some((value, 0)), ..Options::default() },
            ..Header::default()
        };
        let judge = |flags, seq, ack| r.judge(&seg(flags, seq, ack, 700), 0, 60_000);
        let (ack, rst, syn) = (Flags::ACK, Flags::RST, Flags::SYN);
        assert_eq!(judge(ack, 5001, 1001), Verdict::Complete);
        assert_eq!(judge(ack, 5002, 1001), Verdict::Complete);
        assert_eq!(judge(ack, 5001, 1000), Verdict::Reset(DropReason::TcpAckInvalid));
        assert_eq!(judge(ack, 5001, 1002), Verdict::Reset(DropReason::TcpAckInvalid));
        assert_eq!(judge(ack, 5000, 1001), Verdict::Challenge(DropReason::TcpOutOfWindow));
        assert_eq!(judge(ack, 65_001, 1001), Verdict::Challenge(DropReason::TcpOutOfWindow));
        assert_eq!(judge(rst, 5001, 0), Verdict::Forget);
        assert_eq!(judge(rst, 5002, 0), Verdict::Challenge(DropReason::TcpRstInvalid));
        assert_eq!(judge(rst, 5000, 0), Verdict::Drop(DropReason::TcpRstInvalid));
        assert_eq!(judge(syn, 5000, 0), Verdict::Repeat);
        assert_eq!(judge(syn, 5001, 0), Verdict::Forget);
        assert_eq!(judge(syn, 4000, 0), Verdict::Challenge(DropReason::TcpOutOfWindow));
        assert_eq!(judge(Flags::default(), 5001, 0), Verdict::Drop(DropReason::TcpFlagsInvalid));
        let old = seg(ack, 5001, 1001, 699);
        assert_eq!(r.judge(&old, 0, 60_000), Verdict::Challenge(DropReason::TcpPaws));
        let mut bare = old;
        bare.options.timestamp = None;
        assert_eq!(r.judge(&bare, 0, 60_000), Verdict::Drop(DropReason::TcpPaws));
    }

    // RFC 6298 5.5
    #[test]
    fn every_entry_has_its_turns_at_doubling_intervals() {
        let mut q = HalfOpen::default();
        let at = Instant::from_millis;
        let a = q.insert(request(1, 0));
        let b = q.insert(request(2, 500));
        let gone = q.insert(request(3, 600));
        assert_eq!(q.next_deadline(), Some(at(1000)));
        assert!(q.remove(gone).is_some() && q.remove(gone).is_none());
        let mut turns = Vec::new();
        while let Some(next) = q.next_deadline() {
            let due = q.pop_due(next).unwrap();
            turns.push((next.as_millis(), due));
            if let Due::GiveUp(slot) = due {
                q.remove(slot);
            }
        }
        let mut expected = Vec::new();
        for (wait, last) in [(1, 0), (3, 0), (7, 0), (15, 0), (31, 0), (63, 1)] {
            for (slot, late) in [(a, 0), (b, 500)] {
                let due = if last == 1 { Due::GiveUp(slot) } else { Due::Again(slot) };
                expected.push((wait * 1000 + late, due));
            }
        }
        assert_eq!(turns, expected);
        assert_eq!(q.len(), 0);
    }
}

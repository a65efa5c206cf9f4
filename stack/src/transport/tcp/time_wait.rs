//! TIME-WAIT: connections that are over, kept small until old segments have died out.
//!
//! Every entry lives equally long, so a queue in order of arrival is a timer; an entry whose
//! timer was restarted goes to the back again. One wheel timer serves them all.

use core::time::Duration;
use std::collections::VecDeque;

use slab::Slab;

use crate::ip::address::AliasId;
use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::tcp::{Flags, Header, Options};

use super::flow_table::FlowKey;

/// Entries that were taken over may leave this many traces in the queue.
const STALE_MAX: usize = 1024;

/// How old an entry is that a connect takes over.
const CONNECT_AFTER: Duration = Duration::from_secs(1);

/// What is left of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) key: FlowKey,
    pub(crate) alias: AliasId,
    pub(crate) snd_nxt: SeqNum,
    pub(crate) rcv_nxt: SeqNum,
    /// As in the header, scaled.
    pub(crate) window: u16,
    /// Their last timestamp and our clock's offset, if timestamps are in use.
    pub(crate) timestamp: Option<(u32, u32)>,
    pub(crate) expires: Instant,
    /// When it began.
    since: Instant,
    serial: u32,
}

impl Entry {
    pub(crate) fn new(
        (key, alias): (FlowKey, AliasId),
        (snd_nxt, rcv_nxt): (SeqNum, SeqNum),
        window: u16,
        timestamp: Option<(u32, u32)>,
    ) -> Entry {
        let expires = Instant::ZERO;
        Entry {
            key,
            alias,
            snd_nxt,
            rcv_nxt,
            window,
            timestamp,
            expires,
            since: expires,
            serial: 0,
        }
    }
}

/// What to do with a segment for a TIME-WAIT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A new connection may take the tuple over (RFC 6191); its ISN starts after this.
    Reuse(SeqNum),
    /// Answer with the last ACK.
    Ack,
    /// Answer with the last ACK and stay for the full time again.
    AckAndRestart,
    Ignore,
}

impl Entry {
    /// RFC 9293 3.10.7.4, RFC 6191, RFC 1337 (a RST does not end TIME-WAIT).
    pub(crate) fn judge(&self, seg: &Header, payload_len: usize) -> Verdict {
        if seg.flags.has(Flags::RST) {
            return Verdict::Ignore;
        }
        let stale = match (self.timestamp, seg.options.timestamp) {
            (Some((recent, _)), Some((value, _))) => (value.wrapping_sub(recent) as i32) < 0,
            _ => false,
        };
        if seg.flags.has(Flags::SYN) && !seg.flags.has(Flags::ACK) {
            let newer = match (self.timestamp, seg.options.timestamp) {
                (Some((recent, _)), Some((value, _))) if value != recent => !stale,
                _ => seg.seq > self.rcv_nxt,
            };
            return if newer { Verdict::Reuse(self.snd_nxt) } else { Verdict::Ack };
        }
        let fin = seg.flags.has(Flags::FIN);
        if fin && !stale && seg.seq + payload_len as u32 + 1 == self.rcv_nxt {
            return Verdict::AckAndRestart;
        }
        let in_order = seg.seq == self.rcv_nxt;
        if stale || fin || payload_len > 0 || !in_order { Verdict::Ack } else { Verdict::Ignore }
    }

    /// RFC 6191 section 2: whether a connect of ours may take the tuple over. Our timestamps have gone
    /// on for a second, so that the peer can tell the new SYN from old segments.
    pub(crate) fn may_connect(&self, now: Instant) -> bool {
        self.timestamp.is_some() && now.saturating_since(self.since) >= CONNECT_AFTER
    }

    /// The last ACK.
    pub(crate) fn ack(&self, now: Instant) -> Header {
        let timestamp = self
            .timestamp
            .map(|(recent, offset)| ((now.as_millis() as u32).wrapping_add(offset), recent));
        Header {
            src_port: self.key.local_port,
            dst_port: self.key.peer_port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK,
            window: self.window,
            urgent: 0,
            options: Options { timestamp, ..Options::default() },
            ..Header::default()
        }
    }
}

#[derive(Debug)]
pub(crate) struct TimeWaits {
    entries: Slab<Entry>,
    /// Oldest first: slot, serial, and when to look at it.
    queue: VecDeque<(u32, u32, Instant)>,
    duration: Duration,
    serial: u32,
}

impl TimeWaits {
    pub(crate) fn new(duration: Duration) -> TimeWaits {
        TimeWaits { entries: Slab::new(), queue: VecDeque::new(), duration, serial: 0 }
    }

    /// For entries from now on. A shorter time counts once longer ones before it have ended.
    pub(crate) fn set_length(&mut self, duration: Duration) {
        self.duration = duration;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)
    }

    /// Slots, free ones counted.
    pub(crate) fn slots(&self) -> usize {
        self.entries.capacity()
    }

    pub(crate) fn insert(&mut self, mut entry: Entry, now: Instant) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        entry.serial = self.serial;
        (entry.since, entry.expires) = (now, now + self.duration);
        if self.queue.len() > 2 * self.entries.len() + STALE_MAX {
            let entries = &self.entries;
            self.queue.retain(|(slot, serial, _)| {
                entries.get(*slot as usize).is_some_and(|e| e.serial == *serial)
            });
        }
        let slot = self.entries.insert(entry) as u32;
        self.queue.push_back((slot, self.serial, entry.expires));
        slot
    }

    /// Lets an entry live for the full time again.
    pub(crate) fn restart(&mut self, slot: u32, now: Instant) {
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.expires = now + self.duration;
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Entry> {
        self.entries.try_remove(slot as usize)
    }

    /// The earliest instant at which [`TimeWaits::pop_expired`] may have something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.queue.front().map(|(_, _, at)| *at)
    }

    /// Removes an entry that is over; tells its slot.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<(u32, Entry)> {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let (slot, serial, _) = self.queue.pop_front()?;
            let Some(entry) = self.current(slot, serial) else { continue };
            if entry.expires <= now {
                return self.remove(slot).map(|e| (slot, e));
            }
            self.queue.push_back((slot, serial, entry.expires));
        }
        None
    }

    /// Removes the oldest entry, to make room; tells its slot.
    pub(crate) fn evict(&mut self) -> Option<(u32, Entry)> {
        while let Some((slot, serial, _)) = self.queue.pop_front() {
            if self.current(slot, serial).is_some() {
                return self.remove(slot).map(|e| (slot, e));
            }
        }
        None
    }

    fn current(&self, slot: u32, serial: u32) -> Option<Entry> {
        self.entries.get(slot as usize).filter(|e| e.serial == serial).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(port: u16, timestamp: Option<(u32, u32)>) -> Entry {
        let key = FlowKey {
            local: [10, 0, 0, 1].into(),
            peer: [10, 0, 0, 2].into(),
            local_port: 80,
            peer_port: port,
        };
        let seqs = (SeqNum(5000), SeqNum(9000));
        Entry::new((key, AliasId(0)), seqs, 100, timestamp)
    }

    fn segment(flags: Flags, seq: u32) -> Header {
        Header { flags, seq: SeqNum(seq), ..Header::default() }
    }

    const FIN_ACK: Flags = Flags::FIN.with(Flags::ACK);

    #[test]
    fn a_repeated_fin_restarts_the_time() {
        let e = entry(1, None);
        assert_eq!(e.judge(&segment(FIN_ACK, 8999), 0), Verdict::AckAndRestart);
        assert_eq!(e.judge(&segment(FIN_ACK, 8899), 100), Verdict::AckAndRestart);
        assert_eq!(e.judge(&segment(FIN_ACK, 8000), 0), Verdict::Ack);
    }

    // RFC 1337 3
    #[test]
    fn a_reset_is_ignored() {
        assert_eq!(entry(1, None).judge(&segment(Flags::RST, 9000), 0), Verdict::Ignore);
    }

    // RFC 6191 2
    #[test]
    fn a_connect_takes_over_what_has_timestamps_and_is_a_second_old() {
        let mut t = TimeWaits::new(Duration::from_mins(1));
        let with = t.insert(entry(1, Some((700, 0))), Instant::from_millis(500));
        let without = t.insert(entry(2, None), Instant::from_millis(500));
        let may = |slot, ms| t.get(slot).unwrap().may_connect(Instant::from_millis(ms));
        assert!(!may(with, 1499) && may(with, 1500) && !may(without, 60_000));
    }

    // RFC 6191 2
    #[test]
    fn a_newer_syn_takes_the_tuple_over() {
        let reuse = Verdict::Reuse(SeqNum(5000));
        assert_eq!(entry(1, None).judge(&segment(Flags::SYN, 9001), 0), reuse);
        assert_eq!(entry(1, None).judge(&segment(Flags::SYN, 8000), 0), Verdict::Ack);
        let e = entry(1, Some((700, 0)));
        let mut syn = segment(Flags::SYN, 1);
        syn.options.timestamp = Some((701, 0));
        assert_eq!(e.judge(&syn, 0), reuse);
        syn.options.timestamp = Some((699, 0));
        assert_eq!(e.judge(&syn, 0), Verdict::Ack);
    }

    #[test]
    fn old_data_is_answered_and_a_bare_ack_is_not() {
        let e = entry(1, None);
        assert_eq!(e.judge(&segment(Flags::ACK, 8000), 10), Verdict::Ack);
        assert_eq!(e.judge(&segment(Flags::ACK, 9000), 0), Verdict::Ignore);
        assert_eq!(e.ack(Instant::ZERO).ack, SeqNum(9000));
    }

    #[test]
    fn entries_expire_in_order_unless_restarted() {
        let mut t = TimeWaits::new(Duration::from_mins(1));
        let at = |s: u64| Instant::from_millis(s * 1000);
        let first = t.insert(entry(1, None), at(0));
        t.insert(entry(2, None), at(1));
        t.restart(first, at(10));
        assert!(t.pop_expired(at(59)).is_none());
        assert_eq!(t.pop_expired(at(61)).unwrap().1.key.peer_port, 2);
        assert!(t.pop_expired(at(69)).is_none());
        assert_eq!(t.pop_expired(at(70)).unwrap().1.key.peer_port, 1);
        assert_eq!((t.len(), t.next_deadline()), (0, None));
    }

    #[test]
    fn the_oldest_makes_room_and_stale_slots_are_skipped() {
        let mut t = TimeWaits::new(Duration::from_mins(1));
        let first = t.insert(entry(1, None), Instant::ZERO);
        t.insert(entry(2, None), Instant::ZERO);
        t.remove(first);
        t.insert(entry(3, None), Instant::ZERO);
        assert_eq!(t.evict().unwrap().1.key.peer_port, 2);
        assert_eq!(t.evict().unwrap().1.key.peer_port, 3);
        assert!(t.evict().is_none());
    }
}

//! Neighbours that several stacks know together, as a table with a name in the configuration.
//!
//! A stack looks here before it would ask for a neighbour, and leaves here what its own questions
//! were answered: thousands of stacks on one link then ask for their gateway once. What a packet of
//! a known neighbour costs is not touched; the lock is taken where an entry changes its state.
//!
//! What is believed: only an answer to a question (or progress of a transport, RFC 4861 7.3.1), and
//! only for as long as whoever got it believes it; what neighbours say unasked never comes in, it can
//! only take out. While one stack's question is open the others wait for its answer; a stack whose
//! question was not answered leaves the next one to another, so none can hold up the rest. Failures
//! are not shared.
//!
//! The stacks of a table belong to one worker, which carries answers to those that wait
//! ([`SharedNeighbours::take_woken`], `Stack::handle_neighbour_known`).

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ip::address::AliasId;
use crate::time::{Duration, Instant};

/// How many of the oldest entries are looked at for one that may go.
const EVICT_SCAN: usize = 16;

/// A neighbour: the alias it is behind, its address.
pub type NeighbourKey = (AliasId, IpAddr);

/// What one stack learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) mac: [u8; 6],
    pub(crate) router: bool,
    /// `None`: configured.
    pub(crate) until: Option<Instant>,
}

/// Whose turn it is to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Ask,
    /// Another's question is open, the answer will be told.
    Wait,
}

#[derive(Debug, Default)]
struct Entry {
    known: Option<Known>,
    /// Who asked last, and until when an answer may come.
    asked: Option<(u32, Instant)>,
    waiters: BTreeSet<u32>,
    /// Place in the order of [`Inner::order`].
    since: u64,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<NeighbourKey, Entry>,
    /// From the oldest on; what is gone stands there until it is met.
    order: VecDeque<(u64, NeighbourKey)>,
    next: u64,
    /// Entries whose neighbour nobody knows: at most a quarter of all, so that a scan of the subnet
    /// cannot push out neighbours that exist.
    unresolved: usize,
    woken: Vec<(u32, NeighbourKey)>,
    evicted: u64,
}

/// How a table stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedNeighbourCounts {
    /// Neighbours learned or asked for.
    pub entries: usize,
    /// Removed to make room.
    pub evicted: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct SharedNeighbours {
    fixed: BTreeMap<NeighbourKey, [u8; 6]>,
    entries_max: usize,
    inner: Mutex<Inner>,
    /// Length of `woken`, to see that nobody waits without the lock.
    woken: AtomicUsize,
}

impl SharedNeighbours {
    /// A table with configured neighbours, and room for `entries_max` that are learned; 0: none are.
    pub fn new(
        fixed: impl IntoIterator<Item = (NeighbourKey, [u8; 6])>,
        entries_max: usize,
    ) -> SharedNeighbours {
        SharedNeighbours {
            fixed: fixed.into_iter().collect(),
            entries_max,
            inner: Mutex::default(),
            woken: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    pub fn counts(&self) -> SharedNeighbourCounts {
        let inner = self.lock();
        SharedNeighbourCounts { entries: inner.entries.len(), evicted: inner.evicted }
    }

    /// Whether [`SharedNeighbours::take_woken`] has something.
    #[inline]
    pub fn has_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed) > 0
    }

    /// Stacks (the numbers they gave) that waited for neighbours which are known now.
    pub fn take_woken(&self) -> Vec<(u32, NeighbourKey)> {
        self.woken.store(0, Ordering::Relaxed);
        core::mem::take(&mut self.lock().woken)
    }

    pub(crate) fn known(&self, key: NeighbourKey, now: Instant) -> Option<Known> {
        if let Some(mac) = self.fixed.get(&key) {
            return Some(Known { mac: *mac, router: false, until: None });
        }
        let known = self.lock().entries.get(&key)?.known;
        known.filter(|k| k.until.is_none_or(|until| now < until))
    }

    /// Stack `me` would ask now, and again after `retrans`.
    pub(crate) fn turn(&self, key: NeighbourKey, me: u32, now: Instant, retrans: Duration) -> Turn {
        let mut inner = self.lock();
        // Without room each asks for itself.
        if inner.unresolved >= (self.entries_max / 4).max(1) && !inner.entries.contains_key(&key) {
            return Turn::Ask;
        }
        let Some(entry) = inner.entry(key, self.entries_max, now) else { return Turn::Ask };
        let wait = match entry.asked {
            // Who was not answered lets another try, once.
            Some((by, _)) if by == me => {
                entry.asked = None;
                entry.waiters.iter().any(|w| *w != me)
            }
            Some((_, until)) => now < until,
            None => false,
        };
        if wait {
            entry.waiters.insert(me);
            return Turn::Wait;
        }
        entry.waiters.remove(&me);
        entry.asked = Some((me, now + retrans));
        Turn::Ask
    }

    /// A question of stack `me` was answered, or a transport made progress.
    pub(crate) fn learned(&self, key: NeighbourKey, me: u32, known: Known, now: Instant) {
        let mut inner = self.lock();
        let Some(entry) = inner.entry(key, self.entries_max, now) else { return };
        let unknown = entry.known.replace(known).is_none();
        entry.asked = None;
        let waiters = core::mem::take(&mut entry.waiters);
        inner.unresolved -= usize::from(unknown);
        inner.woken.extend(waiters.into_iter().filter(|w| *w != me).map(|w| (w, key)));
        self.woken.store(inner.woken.len(), Ordering::Relaxed);
    }

    /// The link of an alias went down: who comes up again may be another.
    pub(crate) fn forget_alias(&self, alias: AliasId) {
        let mut inner = self.lock();
        let Inner { entries, unresolved, .. } = &mut *inner;
        for (_, entry) in entries.iter_mut().filter(|(key, _)| key.0 == alias) {
            *unresolved += usize::from(entry.known.take().is_some());
        }
    }

    /// The neighbour answers no more, or says that it has another MAC address.
    pub(crate) fn doubted(&self, key: NeighbourKey) {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(&key) else { return };
        let known = entry.known.take().is_some();
        inner.unresolved += usize::from(known);
        inner.remove_idle(key);
    }

    /// Stack `me` has given up.
    pub(crate) fn gave_up(&self, key: NeighbourKey, me: u32) {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(&key) else { return };
        entry.waiters.remove(&me);
        entry.asked = entry.asked.filter(|(by, _)| *by != me);
        inner.remove_idle(key);
    }
}

impl Inner {
    /// The entry of a neighbour, made if there is room or can be.
    fn entry(&mut self, key: NeighbourKey, most: usize, now: Instant) -> Option<&mut Entry> {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= most && !self.make_room(now) {
                return None;
            }
            self.next += 1;
            let since = self.next;
            // What was removed out of turn must not pile up.
            if self.order.len() > 2 * self.entries.len() + 16 {
                let entries = &self.entries;
                self.order.retain(|(s, k)| entries.get(k).is_some_and(|e| e.since == *s));
            }
            self.order.push_back((since, key));
            self.entries.insert(key, Entry { since, ..Entry::default() });
            self.unresolved += 1;
        }
        self.entries.get_mut(&key)
    }

    /// Removes an entry that says nothing.
    fn remove_idle(&mut self, key: NeighbourKey) {
        let Some(entry) = self.entries.get(&key) else { return };
        if entry.known.is_none() && entry.asked.is_none() && entry.waiters.is_empty() {
            self.entries.remove(&key);
            self.unresolved -= 1;
        }
    }

    /// Removes an old entry for which nobody waits.
    fn make_room(&mut self, now: Instant) -> bool {
        for _ in 0..EVICT_SCAN {
            let Some((since, key)) = self.order.pop_front() else { return false };
            let Some(entry) = self.entries.get(&key).filter(|e| e.since == since) else { continue };
            let open = entry.asked.is_some_and(|(_, until)| now < until);
            if open || !entry.waiters.is_empty() {
                self.order.push_back((since, key));
                continue;
            }
            self.unresolved -= usize::from(entry.known.is_none());
            self.entries.remove(&key);
            self.evicted += 1;
            return true;
        }
        false
    }
}

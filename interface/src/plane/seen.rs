//! What came in on the NICs below bonds and failover groups: evidence for those who look for errors
//! of a switch.
//!
//! Each worker counts what its queues gave; whoever looks adds them up. A count has one writer, so
//! that counting costs no more than a number would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::doctor::Sample;
use crate::{Mac, vlan};

/// To all stations of a network, whatever a switch knows of who listens: broadcast, and the groups
/// of all IPv4 and IPv6 hosts (RFC 4541 sections 2.1.2 and 3).
const TO_ALL: [Mac; 3] = [[0xff; 6], [0x01, 0x00, 0x5e, 0, 0, 0x01], [0x33, 0x33, 0, 0, 0, 0x01]];

/// Counters of one worker. Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<[Option<NicSeen>]>);

/// Frames of one NIC, LACP and LLDP left out.
#[derive(Debug)]
pub(super) struct NicSeen {
    frames: AtomicU64,
    own: AtomicU64,
    /// Sorted.
    tags: Box<[TagSeen]>,
}

#[derive(Debug)]
struct TagSeen {
    tag: u16,
    frames: AtomicU64,
    /// Those to all stations that are not from here.
    flooded: AtomicU64,
}

fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

impl NicSeen {
    /// Nothing came in yet; `tags` are the VLANs that stand on the NIC, its bond or its group.
    pub(super) fn new(mut tags: Vec<u16>) -> NicSeen {
        tags.sort_unstable();
        tags.dedup();
        let none = AtomicU64::default;
        let tag = |tag| TagSeen { tag, frames: none(), flooded: none() };
        NicSeen { frames: none(), own: none(), tags: tags.into_iter().map(tag).collect() }
    }

    fn go_on(&self, before: &NicSeen) {
        let take = |to: &AtomicU64, from: &AtomicU64| to.store(from.load(Relaxed), Relaxed);
        take(&self.frames, &before.frames);
        take(&self.own, &before.own);
        for counted in &self.tags {
            if let Some(old) = before.tags.iter().find(|t| t.tag == counted.tag) {
                take(&counted.frames, &old.frames);
                take(&counted.flooded, &old.flooded);
            }
        }
    }

    fn count(&self, frame: &[u8], is_ours: impl Fn(Mac) -> bool) {
        add_one(&self.frames);
        let Some((to, rest)) = frame.split_first_chunk::<6>() else { return };
        let Some((from, rest)) = rest.split_first_chunk::<6>() else { return };
        let Some(&[a, b, c, d]) = rest.first_chunk::<4>() else { return };
        if self.tags.is_empty() || !vlan::is_tag(u16::from_be_bytes([a, b])) {
            return;
        }
        let tag = u16::from_be_bytes([c, d]) & vlan::ID_MASK;
        let Ok(at) = self.tags.binary_search_by_key(&tag, |t| t.tag) else { return };
        add_one(&self.tags[at].frames);
        if TO_ALL.contains(to) && !is_ours(*from) {
            add_one(&self.tags[at].flooded);
        }
    }

    fn sample(&self) -> Sample {
        let tags = |count: fn(&TagSeen) -> &AtomicU64| {
            self.tags.iter().map(|t| (t.tag, count(t).load(Relaxed))).collect()
        };
        Sample {
            frames: self.frames.load(Relaxed),
            own: self.own.load(Relaxed),
            tags: tags(|t| &t.frames),
            flooded: tags(|t| &t.flooded),
        }
    }
}

impl Seen {
    /// By NIC; `None`: no bond or group has it.
    pub(super) fn new(nics: Vec<Option<NicSeen>>) -> Seen {
        Seen(nics.into())
    }

    fn of(&self, nic: usize) -> Option<&NicSeen> {
        self.0.get(nic)?.as_ref()
    }

    /// What was counted of a NIC before goes on.
    pub(super) fn go_on(&self, nic: usize, before: &Seen, old: usize) {
        if let (Some(seen), Some(before)) = (self.of(nic), before.of(old)) {
            seen.go_on(before);
        }
    }

    /// A frame came in; `is_ours` knows the MAC addresses of this host.
    #[inline]
    pub(super) fn count(&self, nic: usize, frame: &[u8], is_ours: impl Fn(Mac) -> bool) {
        if let Some(seen) = self.of(nic) {
            seen.count(frame, is_ours);
        }
    }

    /// The frame was one that the NIC's bond sent itself.
    pub(super) fn count_own(&self, nic: usize) {
        if let Some(seen) = self.of(nic) {
            add_one(&seen.own);
        }
    }

    /// The counters, by NIC; those of a NIC that no bond or group has are 0.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.iter().map(|nic| nic.as_ref().map(NicSeen::sample).unwrap_or_default()).collect()
    }
}

//! Which member a packet leaves by: one for each destination.
//!
//! IPMP latches a member for each destination, in turn, in the routing cache, which has an entry
//! for each destination. Here the destination's hash falls into one of [`BUCKETS`] buckets, and the
//! *bucket* is latched, when it is first used, to the member that has the fewest. So the table does
//! not grow with what peers do, few destinations are spread as evenly as by turn, and
//!
//! - when a member leaves, only the destinations that used it choose again, at once, as in IPMP;
//! - when one joins it takes over its share of the latched buckets, and no other moves. IPMP moves
//!   none then, so that a repaired member idles until new destinations come; its source calls that
//!   an improvement to be made. A move costs order once, not packets: both members work.
//!
//! (With rendezvous hashing, as bonds have it, all workers would agree without a table; but a
//! hundred destinations over three members would be 33 ± 5 each, not 33.)

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::GroupSelection;

/// Destinations that can be told apart.
pub const BUCKETS: usize = 4096;

const FREE: u16 = u16::MAX;

/// Chooses members on the data path. One for each worker and group; allocates only when it is made.
#[derive(Clone, Debug)]
pub struct Outbound {
    table: Box<[u16]>,
    /// Active members and how many buckets each has.
    active: SmallVec<[(u16, u32); 8]>,
}

impl Default for Outbound {
    fn default() -> Outbound {
        Outbound::new()
    }
}

impl Outbound {
    /// For a group without an active member.
    pub fn new() -> Outbound {
        Outbound { table: vec![FREE; BUCKETS].into(), active: SmallVec::new() }
    }

    /// Members are counted anew: each is `to[old]` now, or gone. What used one that is gone chooses
    /// again.
    pub fn renumber(&mut self, to: &[Option<u16>]) {
        let new = |member: u16| to.get(usize::from(member)).copied().flatten();
        for latched in &mut self.table {
            *latched = new(*latched).unwrap_or(FREE);
        }
        let stay = self.active.iter().filter_map(|(member, n)| Some((new(*member)?, *n)));
        self.active = stay.collect();
    }

    /// From now on these members are active.
    pub fn apply(&mut self, selection: &GroupSelection) {
        let is_same = self.active.iter().map(|(member, _)| member).eq(&selection.active);
        if is_same {
            return;
        }
        let known = |member: u16| self.active.iter().find(|(m, _)| *m == member).copied();
        self.active =
            selection.active.iter().map(|member| known(*member).unwrap_or((*member, 0))).collect();
        let mut total = 0;
        for latched in &mut self.table {
            if self.active.iter().any(|(member, _)| member == latched) {
                total += 1;
            } else {
                *latched = FREE;
            }
        }
        self.level(total / self.active.len().max(1) as u32);
    }

    /// Moves buckets to members that have less than `share`, from those that have more.
    fn level(&mut self, share: u32) {
        for latched in &mut self.table {
            let Some(short) = self.active.iter().position(|(_, buckets)| *buckets < share) else {
                return;
            };
            let from = self.active.iter_mut().find(|(member, _)| member == latched);
            if let Some((_, buckets)) = from.filter(|(_, buckets)| *buckets > share) {
                *buckets -= 1;
                self.active[short].1 += 1;
                *latched = self.active[short].0;
            }
        }
    }

    /// The member for a destination with this hash ([`destination_key`]); `None` while the group
    /// is down. With several, the same until one of them leaves or joins.
    #[inline]
    pub fn choose(&mut self, key: u64) -> Option<u16> {
        match self.active.as_slice() {
            [] => None,
            [(member, _)] => Some(*member),
            _ => match self.table[key as usize % BUCKETS] {
                FREE => self.latch(key),
                member => Some(member),
            },
        }
    }

    #[cold]
    fn latch(&mut self, key: u64) -> Option<u16> {
        let (member, buckets) = self.active.iter_mut().min_by_key(|(_, buckets)| *buckets)?;
        *buckets += 1;
        self.table[key as usize % BUCKETS] = *member;
        Some(*member)
    }
}

/// The hash of a destination: of its address, or of the next hop's. It has no secret: whoever can
/// choose addresses can load one member, as with any switch.
#[inline]
pub fn destination_key(address: IpAddr) -> u64 {
    let word = match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            bits as u64 ^ ((bits >> 64) as u64).rotate_left(29)
        }
    };
    mix(word)
}

/// The finish of splitmix64.
#[inline]
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

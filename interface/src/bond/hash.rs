//! Distribution: which port a frame leaves by.
//!
//! Frames of one conversation hash alike, so they stay in order on one port. The hash falls into
//! one of [`BUCKETS`] buckets, and each bucket has the port that scores highest for it (rendezvous
//! hashing). So when a port leaves, only its own conversations move, and when one comes, only those
//! that it takes; with a modulo nearly all would move, and each move may reorder. The table makes
//! it one look-up for a frame whatever the number of ports, and it depends on nothing but the set
//! of ports: all workers agree, whatever changes each of them saw.
//!
//! The hash has no secret: whoever can choose addresses can load one port, as with any switch, and
//! two hosts that use the symmetric hash with as many ports send both directions the same way.

use super::config::{BondConfig, HashPolicy, Mode};
use crate::BondSelection;

/// Entries of a distributor's table: even to some 3 % with two ports.
pub const BUCKETS: usize = 1024;

const ETHERTYPE_IP4: u16 = 0x0800;
const ETHERTYPE_IP6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what was used before it.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const TAGS_MAX: usize = 2;
const EXTENSIONS_MAX: usize = 8;

/// Chooses ports on the data path. One for each worker; allocates only when it is made.
#[derive(Clone, Debug)]
pub struct Distributor {
    mode: Mode,
    policy: HashPolicy,
    table: Box<[u16]>,
    /// The ports, if there are any; one alone needs no hash.
    ports: smallvec::SmallVec<[u16; 8]>,
    turn: usize,
}

impl Distributor {
    /// For a bond that has no port yet.
    pub fn new(config: &BondConfig) -> Distributor {
        Distributor {
            mode: config.mode,
            policy: config.hash,
            table: vec![0; BUCKETS].into(),
            ports: smallvec::SmallVec::new(),
            turn: 0,
        }
    }

    /// From now on these ports distribute.
    pub fn apply(&mut self, selection: &BondSelection) {
        if self.ports == selection.distributing {
            return;
        }
        self.ports.clone_from(&selection.distributing);
        for (bucket, port) in self.table.iter_mut().enumerate() {
            let best = self.ports.iter().max_by_key(|p| score(bucket as u64, **p));
            *port = best.copied().unwrap_or(0);
        }
    }

    /// The port for a frame that begins with `frame` (its headers are enough); `None` while the
    /// bond is down.
    #[inline]
    pub fn choose(&mut self, frame: &[u8]) -> Option<u16> {
        match self.ports.as_slice() {
            [] => None,
            [port] => Some(*port),
            ports if self.mode == Mode::RoundRobin => {
                self.turn = if self.turn + 1 < ports.len() { self.turn + 1 } else { 0 };
                Some(ports[self.turn])
            }
            _ => Some(self.table[hash(self.policy, frame) as usize % BUCKETS]),
        }
    }
}

/// The finish of splitmix64: unlike [`mix`] alone it is even for numbers that are close together.
fn score(bucket: u64, port: u16) -> u64 {
    let mut z =
        (bucket << 16 | u64::from(port)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Multiplies and folds.
#[inline]
fn mix(h: u64, word: u64) -> u64 {
    let product =
        u128::from(h ^ word ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xbf58_476d_1ce4_e5b9_u64);
    (product as u64) ^ (product >> 64) as u64
}

/// The hash of a frame: equal for frames of one conversation as `policy` sees it. What has no IP
/// header goes by its MAC addresses.
#[inline]
pub fn hash(policy: HashPolicy, frame: &[u8]) -> u64 {
    let symmetric = policy == HashPolicy::Symmetric;
    let with_ports = policy == HashPolicy::L34 || symmetric;
    let mut at = 12;
    let mut vlan = 0;
    for _ in 0..=TAGS_MAX {
        let ip = match be16(frame, at) {
            Some(ETHERTYPE_IP4 | ETHERTYPE_IP6) if policy == HashPolicy::L2 => None,
            Some(ETHERTYPE_IP4) => hash_v4(frame, at + 2, with_ports, symmetric),
            Some(ETHERTYPE_IP6) => hash_v6(frame, at + 2, with_ports, symmetric),
            Some(tag) if TAGS.contains(&tag) => {
                // Priority bits do not make another conversation.
                vlan = vlan << 12 | u64::from(be16(frame, at + 2).unwrap_or(0) & 0x0fff);
                at += 4;
                continue;
            }
            _ => None,
        };
        match ip {
            Some(hash) => return hash,
            None => break,
        }
    }
    ends(vlan, mac(frame, 6), mac(frame, 0), symmetric)
}

fn be16(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn mac(frame: &[u8], at: usize) -> u64 {
    let low = frame.get(at + 2..at + 6).and_then(|b| b.try_into().ok());
    let low = u32::from_be_bytes(low.unwrap_or_default());
    u64::from(be16(frame, at).unwrap_or(0)) << 32 | u64::from(low)
}

/// Of both ends of a conversation.
fn ends(start: u64, a: u64, b: u64, symmetric: bool) -> u64 {
    let (a, b) = if symmetric && b < a { (b, a) } else { (a, b) };
    mix(mix(mix(start, a), b), 0)
}

/// `at` is where the header begins. Fragments of a datagram stay together, so none of them counts
/// its ports, not even the one that has them.
fn hash_v4(frame: &[u8], at: usize, with_ports: bool, symmetric: bool) -> Option<u64> {
    let header: &[u8; 20] = frame.get(at..at + 20)?.try_into().ok()?;
    let address = |i: usize| {
        u64::from(u32::from_be_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]))
    };
    let fragment = (u16::from(header[6]) << 8 | u16::from(header[7])) & 0x3fff != 0;
    let (from, to) = if with_ports && !fragment {
        ports(frame, header[9], at + usize::from(header[0] & 15) * 4)
    } else {
        (0, 0)
    };
    let a = address(12) << 16 | u64::from(from);
    let b = address(16) << 16 | u64::from(to);
    Some(ends(0, a, b, symmetric))
}

fn hash_v6(frame: &[u8], at: usize, with_ports: bool, symmetric: bool) -> Option<u64> {
    let (fixed, addresses) = frame.get(at..at + 40)?.split_at(8);
    let (from, to) = addresses.split_at(16);
    let address = |bytes: &[u8]| bytes.try_into().map_or(0, u128::from_be_bytes);
    let ports = if with_ports { ports_v6(frame, fixed[6], at + 40) } else { (0, 0) };
    let (a, b) = ((address(from), ports.0), (address(to), ports.1));
    let (a, b) = if symmetric && b < a { (b, a) } else { (a, b) };
    let mut h = u64::from(a.1) << 16 | u64::from(b.1);
    for word in [a.0 as u64, (a.0 >> 64) as u64, b.0 as u64, (b.0 >> 64) as u64] {
        h = mix(h, word);
    }
    Some(mix(h, 0))
}

/// Skips extension headers. A fragment has none that count.
fn ports_v6(frame: &[u8], mut next: u8, mut at: usize) -> (u16, u16) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    for _ in 0..EXTENSIONS_MAX {
        let Some(extension) = frame.get(at..at + 2) else { break };
        let words = usize::from(extension[1]);
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (words + 1) * 8,
            AUTHENTICATION => (words + 2) * 4,
            _ => return ports(frame, next, at),
        };
        next = extension[0];
        at += len;
    }
    (0, 0)
}

/// Ports, for protocols that begin with them: TCP, UDP, DCCP, SCTP, UDP-Lite.
fn ports(frame: &[u8], protocol: u8, at: usize) -> (u16, u16) {
    if !matches!(protocol, 6 | 17 | 33 | 132 | 136) {
        return (0, 0);
    }
    match (be16(frame, at), be16(frame, at + 2)) {
        (Some(from), Some(to)) => (from, to),
        _ => (0, 0),
    }
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;

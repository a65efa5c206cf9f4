//! SYN cookies (RFC 4987 section 3.6): the answer to a SYN without keeping anything of it.
//!
//! Our initial sequence number carries a keyed hash of the tuple and of the peer's sequence number,
//! the minute it was made, and the peer's segment size. Window scale, SACK and ECN travel in the
//! lowest bits of our timestamp, which the peer echoes; without timestamps they are lost, and the
//! connection goes without them.

use core::net::IpAddr;

use crate::rng::Key;
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};
use crate::wire::tcp::{Header, Options};

use super::flow_table::FlowKey;

/// The count in a cookie changes this often.
const PERIOD_MS: u64 = 64_000;

/// Cookies of this period and the one before are good.
const AGE_MAX: u32 = 1;

/// How long ACKs are looked at after a cookie was sent.
pub(crate) const VALID_FOR: Duration = Duration::from_millis(PERIOD_MS * (AGE_MAX as u64 + 1));

/// Bits below the count: hash and segment size.
const HASH_BITS: u32 = 24;
const HASH_MASK: u32 = (1 << HASH_BITS) - 1;

/// The sizes a cookie can name: each additional one makes guessing easier.
const MSS_V4: [u16; 4] = [536, 1300, 1440, 1460];
const MSS_V6: [u16; 4] = [1220, 1380, 1420, 1440];

/// Bits of the timestamp that carry options: shift, SACK, ECN.
const OPTION_BITS: u32 = 6;
const OPTION_MASK: u32 = (1 << OPTION_BITS) - 1;
const SCALE_MASK: u32 = 0xf;
const SACK_BIT: u32 = 1 << 4;
const ECN_BIT: u32 = 1 << 5;

fn sizes(flow: &FlowKey) -> &'static [u16; 4] {
    if matches!(flow.local, IpAddr::V4(_)) { &MSS_V4 } else { &MSS_V6 }
}

fn count(now: Instant) -> u32 {
    (now.as_millis() / PERIOD_MS) as u32
}

/// The part that does not change with time, and the one that does. The peer's number is part of the
/// latter: were it only added, a segment a few bytes further on would name another segment size.
fn hashes(key: &Key, flow: &FlowKey, count: u32, irs: SeqNum) -> (u32, u32) {
    let name = flow.hash(key).to_be_bytes();
    let base = key.hash(&[&name, b"base"]) as u32;
    (base, key.hash(&[&name, &count.to_be_bytes(), &irs.0.to_be_bytes()]) as u32)
}

/// Whether a cookie can name a segment size that the peer of `syn` takes. Smaller ones than the
/// smallest are an oddity or an attack on our CPU.
pub(crate) fn can_name(flow: &FlowKey, syn: &Header) -> bool {
    syn.options.mss.is_none_or(|mss| mss >= sizes(flow)[0])
}

/// The initial sequence number that answers `syn`.
pub(crate) fn make(key: &Key, flow: &FlowKey, syn: &Header, now: Instant) -> SeqNum {
    let table = sizes(flow);
    let wanted = syn.options.mss.unwrap_or(table[0]);
    let index = table.iter().rposition(|mss| *mss <= wanted).unwrap_or(0) as u32;
    let count = count(now);
    let (base, moving) = hashes(key, flow, count, syn.seq);
    let hash = moving.wrapping_add(index) & HASH_MASK;
    SeqNum(base.wrapping_add(syn.seq.0).wrapping_add(count << HASH_BITS).wrapping_add(hash))
}

/// The peer's segment size, if `ack` acknowledges a cookie of ours that is not too old.
pub(crate) fn check(key: &Key, flow: &FlowKey, ack: &Header, now: Instant) -> Option<u16> {
    let (cookie, irs) = (ack.ack - 1, ack.seq - 1);
    let count = count(now);
    let (base, _) = hashes(key, flow, 0, irs);
    let rest = cookie.0.wrapping_sub(base).wrapping_sub(irs.0);
    let age = count.wrapping_sub(rest >> HASH_BITS) & (u32::MAX >> HASH_BITS);
    if age > AGE_MAX {
        return None;
    }
    let (_, moving) = hashes(key, flow, count.wrapping_sub(age), irs);
    let index = rest.wrapping_sub(moving) & HASH_MASK;
    sizes(flow).get(index as usize).copied()
}

/// Whether a segment that brings no cookie back may still follow one that will: the count is what it
/// would be, give or take the bytes in between. Of strangers this is true one time in 85.
pub(crate) fn may_follow(key: &Key, flow: &FlowKey, seg: &Header, now: Instant) -> bool {
    let (base, _) = hashes(key, flow, 0, seg.seq);
    let rest = (seg.ack - 1).0.wrapping_sub(base).wrapping_sub((seg.seq - 1).0);
    let age = count(now).wrapping_sub(rest >> HASH_BITS) & (u32::MAX >> HASH_BITS);
    age <= AGE_MAX + 1
}

/// Our clock as the timestamp of a SYN-ACK with a cookie: never ahead of the true one, so that
/// later timestamps are not older.
pub(crate) fn encode(clock: u32, syn: &Options, ecn: bool) -> u32 {
    let mut bits = syn.window_scale.map_or(SCALE_MASK, |s| u32::from(s.min(14)));
    if syn.sack_permitted {
        bits |= SACK_BIT;
    }
    if ecn {
        bits |= ECN_BIT;
    }
    let value = clock & !OPTION_MASK | bits;
    if value > clock { value.wrapping_sub(OPTION_MASK + 1) } else { value }
}

/// What the peer's SYN offered and whether it asked for ECN, from the echo of our clock.
pub(crate) fn decode(echo: u32) -> (Options, bool) {
    let scale = echo & SCALE_MASK;
    let options = Options {
        window_scale: (scale != SCALE_MASK).then_some(scale as u8),
        sack_permitted: echo & SACK_BIT != 0,
        ..Options::default()
    };
    (options, echo & ECN_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::wire::tcp::Flags;

    fn flow(port: u16) -> FlowKey {
        FlowKey::new(
            "10.0.0.1:80".parse().unwrap(),
            core::net::SocketAddr::new([10, 0, 0, 2].into(), port),
        )
    }

    fn syn(mss: Option<u16>) -> Header {
        let options = Options { mss, ..Options::default() };
        Header { seq: SeqNum(77), flags: Flags::SYN, options, ..Header::default() }
    }

    fn answer(cookie: SeqNum) -> Header {
        Header { seq: SeqNum(78), ack: cookie + 1, flags: Flags::ACK, ..Header::default() }
    }

    // RFC 4987 3.6
    #[test]
    fn a_cookie_comes_back_with_the_segment_size() {
        let key = Key::generate(&mut Rng::from_u64(1));
        let now = Instant::from_millis(1_000_000);
        for (mss, known) in [(None, 536), (Some(100), 536), (Some(1459), 1440), (Some(9000), 1460)]
        {
            let cookie = make(&key, &flow(9), &syn(mss), now);
            assert_eq!(check(&key, &flow(9), &answer(cookie), now), Some(known));
        }
        let v6 = FlowKey::new("[fd00::1]:80".parse().unwrap(), "[fd00::2]:9".parse().unwrap());
        let cookie = make(&key, &v6, &syn(Some(1440)), now);
        assert_eq!(check(&key, &v6, &answer(cookie), now), Some(1440));
    }

    // RFC 4987 3.6
    #[test]
    fn a_cookie_is_good_for_one_tuple_one_sequence_and_two_periods() {
        let (key, other) = (1, 2);
        let key = Key::generate(&mut Rng::from_u64(key));
        let other = Key::generate(&mut Rng::from_u64(other));
        let now = Instant::from_millis(10 * PERIOD_MS + 5);
        let cookie = make(&key, &flow(9), &syn(None), now);
        let ack = answer(cookie);
        let later = |periods: u64| now + Duration::from_millis(periods * PERIOD_MS);
        assert!(check(&key, &flow(9), &ack, later(1)).is_some());
        assert_eq!(check(&key, &flow(9), &ack, later(2)), None);
        assert_eq!(check(&key, &flow(10), &ack, now), None);
        assert_eq!(check(&other, &flow(9), &ack, now), None);
        for mss in [None, Some(1300), Some(1440), Some(1460)] {
            // Data that overtook the first bytes must not become them.
            let ack = answer(make(&key, &flow(9), &syn(mss), now));
            for ahead in 1..8 {
                let seq = SeqNum(78) + ahead;
                assert_eq!(check(&key, &flow(9), &Header { seq, ..ack }, now), None);
                assert!(may_follow(&key, &flow(9), &Header { seq, ..ack }, now));
            }
        }
        assert_eq!(check(&key, &flow(9), &answer(cookie + 4), now), None);
    }

    #[test]
    fn guesses_are_refused() {
        let key = Key::generate(&mut Rng::from_u64(1));
        let mut rng = Rng::from_u64(2);
        let now = Instant::from_millis(12_345_678);
        let hits = (0..200_000)
            .filter(|_| check(&key, &flow(9), &answer(SeqNum(rng.next_u32())), now).is_some())
            .count();
        // Eight of 2^32 numbers are right.
        assert_eq!(hits, 0);
        let guess = |rng: &mut Rng| answer(SeqNum(rng.next_u32()));
        let follow = |rng: &mut Rng| may_follow(&key, &flow(9), &guess(rng), now);
        let hits = (0..10_000).filter(|_| follow(&mut rng)).count();
        assert!((80..160).contains(&hits), "{hits}");
    }

    // RFC 7323 5.2
    #[test]
    fn options_travel_in_a_timestamp_that_is_never_ahead() {
        for clock in [0u32, 1, 63, 64, 1_000_003, u32::MAX] {
            for (scale, sack, ecn) in
                [(None, false, false), (Some(0), true, false), (Some(14), true, true)]
            {
                let offer =
                    Options { window_scale: scale, sack_permitted: sack, ..Options::default() };
                let value = encode(clock, &offer, ecn);
                assert!(clock.wrapping_sub(value) < 64, "{clock} {value}");
                assert_eq!(decode(value), (offer, ecn));
            }
        }
    }
}

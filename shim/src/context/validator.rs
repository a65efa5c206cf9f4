//! What a responder gets back instead of remembering anything (RFC 5533 7.10.1, 7.17.1).
//!
//! The responder nonce is a count of seconds, so that its age is known; the validator is a MAC over
//! it and whatever the answer must repeat, under a secret that changes every minute.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use crate::locator::{Pair, to_octets};
use crate::wire::Tag;

/// Bytes of a validator.
pub(crate) const VALIDATOR_BYTES: usize = 16;
/// VALIDATOR_MIN_LIFETIME in seconds (RFC 5533 14).
pub(crate) const LIFETIME_S: u32 = 30;
/// A secret is used for so long, and accepted as long again.
const PERIOD_S: u64 = 60;

type Secret = [u8; 32];

/// Makes and checks validators.
#[derive(Debug)]
pub(crate) struct Validators {
    /// What the count of seconds starts from.
    offset: u32,
    period: u64,
    current: Secret,
    previous: Secret,
}

/// What a validator is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// An I1: ULIDs, locators, the initiator's tag, forked instance.
    Names { ulids: Pair, locators: Pair, tag: Tag, fii: u32 },
    /// A packet with an unknown tag: locators and the tag.
    Packet { locators: Pair, tag: Tag },
}

fn secret(rng: &mut Rng) -> Secret {
    let mut out = [0; 32];
    for chunk in out.as_chunks_mut::<8>().0 {
        *chunk = rng.next_u64().to_be_bytes();
    }
    out
}

impl Validators {
    pub(crate) fn new(rng: &mut Rng) -> Validators {
        let (current, previous) = (secret(rng), secret(rng));
        Validators { offset: rng.next_u32(), period: 0, current, previous }
    }

    const fn seconds(now: Instant) -> u64 {
        now.as_millis() / 1000
    }

    /// The responder nonce of now.
    pub(crate) fn nonce(&self, now: Instant) -> u32 {
        self.offset.wrapping_add(Validators::seconds(now) as u32)
    }

    /// The validator to send with [`Validators::nonce`].
    pub(crate) fn make(
        &mut self,
        rng: &mut Rng,
        now: Instant,
        subject: &Subject,
    ) -> [u8; VALIDATOR_BYTES] {
        self.turn(rng, now);
        mac(&self.current, self.nonce(now), subject)
    }

    /// Whether this host made the validator at most [`LIFETIME_S`] seconds ago for the same.
    pub(crate) fn check(
        &mut self,
        rng: &mut Rng,
        now: Instant,
        nonce: u32,
        validator: &[u8],
        subject: &Subject,
    ) -> bool {
        self.turn(rng, now);
        let age = self.nonce(now).wrapping_sub(nonce);
        if age > LIFETIME_S {
            return false;
        }
        let made = Validators::seconds(now).saturating_sub(u64::from(age)) / PERIOD_S;
        let secret = if made == self.period { &self.current } else { &self.previous };
        let right = mac(secret, nonce, subject);
        // No early exit: how much of a guess is right must not show.
        let wrong = right.iter().zip(validator).fold(0, |d, (a, b)| d | (a ^ b));
        validator.len() == VALIDATOR_BYTES && wrong == 0
    }

    fn turn(&mut self, rng: &mut Rng, now: Instant) {
        let period = Validators::seconds(now) / PERIOD_S;
        if period != self.period {
            let next = secret(rng);
            let last = core::mem::replace(&mut self.current, next);
            self.previous = if period == self.period + 1 { last } else { secret(rng) };
            self.period = period;
        }
    }
}

fn mac(secret: &Secret, nonce: u32, subject: &Subject) -> [u8; VALIDATOR_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(&nonce.to_be_bytes());
    let mut pair = |p: Pair| {
        mac.update(&to_octets(p.local));
        mac.update(&to_octets(p.remote));
    };
    match *subject {
        Subject::Names { ulids, locators, tag, fii } => {
            pair(ulids);
            pair(locators);
            mac.update(&tag.octets());
            mac.update(&fii.to_be_bytes());
        }
        Subject::Packet { locators, tag } => {
            pair(locators);
            mac.update(&tag.octets());
            mac.update(b"bis");
        }
    }
    let sum = mac.finalize().into_bytes();
    let mut out = [0; VALIDATOR_BYTES];
    out.copy_from_slice(&sum[..VALIDATOR_BYTES]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(a: &str, b: &str) -> Pair {
        Pair::new(a.parse().unwrap(), b.parse().unwrap())
    }

    fn names(tag: u64, fii: u32) -> Subject {
        let ulids = pair("fd00::1", "fd00::2");
        Subject::Names { ulids, locators: ulids, tag: Tag::new(tag), fii }
    }

    // RFC 5533 7.13 SHOULD
    // RFC 5533 7.20 SHOULD
    #[test]
    fn a_validator_is_good_for_thirty_seconds_whatever_secrets_change() {
        let mut rng = Rng::from_u64(1);
        let mut v = Validators::new(&mut rng);
        for start in (0..200_000).step_by(700) {
            let now = Instant::from_millis(start);
            let (nonce, made) = (v.nonce(now), v.make(&mut rng, now, &names(7, 0)));
            let mut good = |ms| {
                let then = Instant::from_millis(start + ms);
                v.check(&mut rng, then, nonce, &made, &names(7, 0))
            };
            assert!(good(0) && good(15_000) && good(30_000), "made at {start} ms");
            assert!(!good(31_000));
        }
    }

    // RFC 5533 5.15.1
    #[test]
    fn a_validator_is_good_for_its_subject_only() {
        let mut rng = Rng::from_u64(2);
        let mut v = Validators::new(&mut rng);
        let now = Instant::from_millis(500);
        let (nonce, made) = (v.nonce(now), v.make(&mut rng, now, &names(7, 0)));
        let ulids = pair("fd00::1", "fd00::2");
        let others = [
            names(8, 0),
            names(7, 1),
            Subject::Names {
                ulids,
                locators: pair("fd00::1", "fd00::3"),
                tag: Tag::new(7),
                fii: 0,
            },
            Subject::Names { ulids: ulids.reversed(), locators: ulids, tag: Tag::new(7), fii: 0 },
            Subject::Packet { locators: ulids, tag: Tag::new(7) },
        ];
        for other in others {
            assert!(!v.check(&mut rng, now, nonce, &made, &other), "{other:?}");
        }
        assert!(!v.check(&mut rng, now, nonce.wrapping_add(1), &made, &names(7, 0)), "the future");
        assert!(!v.check(&mut rng, now, nonce, &made[..15], &names(7, 0)));
        assert!(!v.check(&mut rng, now, nonce, &[], &names(7, 0)));
    }
}

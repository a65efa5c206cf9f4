//! The Transmit machine (802.1AX 6.4.16): at most three LACPDUs in any second.

use weft_stack::time::{Duration, Instant};

use super::wire::{Lacpdu, State};
use super::{FAST_PERIODIC, PDUS_PER_SECOND, PeriodicState, Port};

/// What is wanted and what went out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transmit {
    /// Need To Transmit.
    pub(super) ntt: bool,
    /// The last ones, oldest first from `oldest` on.
    sent: [Option<Instant>; PDUS_PER_SECOND],
    oldest: usize,
}

impl Transmit {
    /// When the next LACPDU may go out; `None` is at once.
    pub(super) fn allowed_at(&self) -> Option<Instant> {
        self.sent[self.oldest].map(|at| at + FAST_PERIODIC)
    }

    /// How long ago the last ones went out, the latest first.
    pub(crate) fn ages(&self, now: Instant) -> impl Iterator<Item = Duration> {
        let latest = (1..=PDUS_PER_SECOND).map(|n| self.oldest + PDUS_PER_SECOND - n);
        latest.filter_map(move |i| Some(now - self.sent[i % PDUS_PER_SECOND]?))
    }

    /// What a former process sent counts as well. `ages` has the latest first.
    pub(crate) fn remember(&mut self, now: Instant, ages: impl Iterator<Item = Duration>) {
        for (slot, age) in self.sent.iter_mut().rev().zip(ages) {
            let before = now.as_nanos().saturating_sub(age.as_nanos() as u64);
            *slot = Some(Instant::from_nanos(before));
        }
        self.oldest = 0;
    }

    fn note(&mut self, now: Instant) {
        self.sent[self.oldest] = Some(now);
        self.oldest = (self.oldest + 1) % PDUS_PER_SECOND;
    }
}

/// Builds a LACPDU if one is due. It says what is true now, not when it became due.
pub(super) fn step(port: &mut Port, now: Instant) {
    // Whoever may not talk has nothing to tell later either (6.4.16).
    if port.periodic == PeriodicState::NoPeriodic {
        port.transmit.ntt = false;
        port.outgoing = None;
        return;
    }
    if !port.transmit.ntt {
        return;
    }
    // One that the host has not taken yet is replaced, and was counted.
    if port.outgoing.is_none() {
        if port.transmit.allowed_at().is_some_and(|at| at > now) {
            return;
        }
        port.transmit.note(now);
    }
    port.transmit.ntt = false;
    port.outgoing = Some(pdu(port).emit(port.mac));
}

fn pdu(port: &Port) -> Lacpdu {
    let mut partner = port.partner;
    if port.resumed {
        // As in EXPIRED: the partner sees that we did not hear it, and answers at once.
        partner.state.set(State::SYNC, false);
        partner.state.set(State::TIMEOUT, true);
    }
    Lacpdu { version: 1, actor: port.actor, partner, max_delay: 0 }
}

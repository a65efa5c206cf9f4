//! The Marker protocol (802.1AX 6.5): the responder, and the generator that empties a port before
//! it leaves. When the answer is here, the partner has taken every frame that we sent before.

use weft_stack::time::{Duration, Instant};

use super::Port;
use super::port::Leaving;
use super::wire::Marker;

/// Answers of one port in any second; 802.3 annex 57A allows ten slow frames.
const RESPONSES_PER_SECOND: u8 = 5;
/// A partner that does not answer does not hold us up for longer.
pub(crate) const MARKER_WAIT: Duration = Duration::from_millis(500);

/// Limits the answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Responder {
    second: Option<Instant>,
    answers: u8,
}

impl Responder {
    fn may_answer(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|from| now - from >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.answers = 0;
        }
        self.answers += 1;
        self.answers <= RESPONSES_PER_SECOND
    }
}

/// A Marker PDU came in.
pub(super) fn take(port: &mut Port, now: Instant, marker: &Marker) {
    let mine = marker.system == port.actor.system.mac;
    if marker.response {
        port.counters.marker_responses_in += 1;
        let awaited = matches!(port.leaving, Leaving::Draining { transaction, .. }
            if transaction == marker.transaction);
        if mine && awaited && marker.port == port.actor.port.number {
            port.leaving = Leaving::Drained;
        }
        return;
    }
    port.counters.markers_in += 1;
    if mine {
        // Our own question came back.
        port.counters.loopback += 1;
    } else if port.responder.may_answer(now) {
        port.counters.marker_responses_out += 1;
        let answer = Marker { response: true, ..*marker };
        port.markers.push(answer.emit(port.mac));
    } else {
        port.counters.marker_limit += 1;
    }
}

/// Sends a marker behind the last frame of the port.
pub(super) fn ask(port: &mut Port, now: Instant, transaction: u32) {
    let marker = Marker {
        response: false,
        port: port.actor.port.number,
        system: port.actor.system.mac,
        transaction,
    };
    port.markers.push(marker.emit(port.mac));
    port.counters.markers_out += 1;
    port.leaving = Leaving::Draining { transaction, until: now + MARKER_WAIT };
}

//! When the ACK of data that arrived in order leaves (RFC 9293 3.8.6.3, RFC 5681 4.2).
//!
//! A sender in slow start lives on ACKs, and one that waits for the ACK of a last small segment
//! gains nothing by our patience. So the first ACKs, and those after idleness, leave at once; a
//! connection whose application answers before the delay is over has its ACKs ride on answers.

use crate::time::{Duration, Instant};

use super::state::{Connection, Cx};

/// What decides about the next ACK.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DelayedAck {
    /// When the ACK that is owed leaves.
    pub(crate) at: Option<Instant>,
    /// When data last arrived in order.
    received_at: Option<Instant>,
    /// ACKs that are not delayed.
    quick: u8,
    /// The application answers: ACKs ride on its data.
    interactive: bool,
}

impl Connection {
    /// In-order data has arrived; `hole`: not all that arrived is in order.
    pub(crate) fn owe_ack(&mut self, cx: &Cx<'_>, hole: bool) {
        let acking = &mut self.acking;
        let idle = acking.received_at.is_none_or(|at| cx.now - at > self.rtt.rto());
        if idle {
            acking.quick = self.settings.quick_acks;
        }
        acking.received_at = Some(cx.now);
        let quick = self.settings.quickack || (acking.quick > 0 && !acking.interactive);
        // RFC 5681 4.2: at once for every second full segment, and while a hole is open.
        let waiting = (self.rcv_nxt - self.rcv_acked) as usize;
        if hole || waiting >= 2 * self.rcv_mss || quick {
            self.ack_now = true;
        } else if self.acking.at.is_none() {
            self.acking.at = Some(cx.now + self.settings.delayed_ack);
        }
    }

    /// Whether data arrived in order in the last `time`.
    pub(crate) fn has_received_within(&self, now: Instant, time: Duration) -> bool {
        self.acking.received_at.is_some_and(|at| now - at <= time)
    }

    /// A segment leaves with the acknowledgement; `data`: it is one of the application's.
    pub(crate) fn note_acked(&mut self, now: Instant, data: bool) {
        let acking = &mut self.acking;
        acking.quick = acking.quick.saturating_sub(1);
        if data {
            let answers = acking.received_at.is_some_and(|at| now - at < self.settings.delayed_ack);
            acking.interactive |= answers;
        }
        (self.ack_now, self.acking.at) = (false, None);
    }

    /// An ACK waited for an answer that did not come.
    pub(crate) fn ack_was_delayed(&mut self, cx: &mut Cx<'_>) {
        self.acking.interactive = false;
        (self.ack_now, self.acking.at) = (true, None);
        cx.stats.delayed_acks += 1;
    }
}

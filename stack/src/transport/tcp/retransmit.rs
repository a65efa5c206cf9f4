//! Segments sent again.

use crate::wire::tcp::Flags;

use super::output::{PathLimits, SegmentOut};
use super::recovery::Phase;
use super::state::{Connection, Cx};

impl Connection {
    /// The next lost bytes, as the window allows (RFC 6675 section 5 step C).
    pub(crate) fn poll_retransmission(
        &mut self,
        cx: &mut Cx<'_>,
        limits: &PathLimits,
    ) -> Option<SegmentOut> {
        if self.sent.lost() == 0 || self.frto_holds() {
            return None;
        }
        let mss = self.mss_now();
        let room = self.window().saturating_sub(self.pipe());
        let forced = self.recovery.force;
        if room < mss && !forced {
            self.note_limit();
            return None;
        }
        if !forced && !self.may_send_paced(cx.now) {
            return None;
        }
        let budget = if forced { mss } else { room / mss * mss };
        let budget = budget.min(self.super_len(mss, limits));
        let (from, to) = self.sent.next_lost(budget as u32)?;
        self.recovery.force = false;
        let fin = self.fin_sent && to == self.snd_nxt;
        let data = ((to - from) as usize).saturating_sub(usize::from(fin));
        let len = data.min(budget);
        let fin = fin && len == data;
        let flags = if fin { Flags::ACK.with(Flags::FIN) } else { Flags::ACK };
        let end = from + len as u32 + u32::from(fin);
        let stamp = self.stamp(cx, end - from);
        let out = self.data_segment(cx, from, (len, mss), flags);
        self.sent.resend(from, end, stamp);
        self.episode_resends(cx, end - from);
        self.count_resent(cx, len, mss);
        self.arm_retransmission(cx);
        Some(out)
    }

    fn count_resent(&mut self, cx: &mut Cx<'_>, len: usize, mss: usize) {
        let segments = len.div_ceil(mss).max(1) as u64;
        cx.stats.retrans_segs += segments;
        self.totals.losses.bytes_retransmitted += len as u64;
        let by_cause = &mut self.totals.losses.retransmits;
        match self.recovery.phase {
            Phase::Timeout => by_cause.timeout += segments,
            Phase::Resegment => by_cause.path_mtu += segments,
            Phase::Open | Phase::Fast => by_cause.fast += segments,
        }
    }
}

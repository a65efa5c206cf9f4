//! What the SACK option of an acknowledgement says (RFC 2018, 2883, 3708).

use crate::wire::tcp::{Header, SackBlock};

use super::rate::Newly;
use super::state::{Connection, Cx};

impl Connection {
    /// Notes the reported blocks; returns the duplicate that is reported, if there is one.
    pub(crate) fn take_sack(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Header,
        newly: &mut Newly,
    ) -> Option<SackBlock> {
        if !self.sack_ok || seg.options.sack.is_empty() {
            return None;
        }
        let blocks = seg.options.sack.as_slice();
        let dsack = self.duplicate_report(seg);
        let (una, nxt) = (self.snd_una.max(seg.ack), self.snd_nxt);
        for block in blocks.iter().skip(usize::from(dsack.is_some())) {
            // At or below `una`: old news, or a lie. Above `nxt`: a lie.
            let (start, end) = *block;
            if start < end && start > una && end <= nxt {
                let noted = self.sent.sack(*block, |sent| newly.take(sent, false));
                cx.stats.sack_blocks_ignored += u64::from(!noted);
            }
        }
        dsack
    }

    /// RFC 2883 section 4: the first block is a duplicate if it lies below the acknowledgement or
    /// inside the second one.
    fn duplicate_report(&self, seg: &Header) -> Option<SackBlock> {
        let mut blocks = seg.options.sack.as_slice().iter();
        let (start, end) = *blocks.next()?;
        let below = end <= seg.ack;
        let inside = blocks.next().is_some_and(|second| start >= second.0 && end <= second.1);
        // Older than any window: not about this flight, or a lie.
        let oldest = self.snd_una - self.snd_wnd_max.max(1);
        ((below || inside) && start < end && start >= oldest && end <= self.snd_nxt)
            .then_some((start, end))
    }
}

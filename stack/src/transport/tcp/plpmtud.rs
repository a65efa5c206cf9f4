//! The packet size of a connection's path: what ICMP says, as far as it can be believed (RFC 1191,
//! RFC 8201, RFC 5927 section 7), and what the connection finds out by itself when ICMP is silent
//! (RFC 4821, with the states of RFC 8899).
//!
//! A probe is a segment of new data, larger than the others, which goes alone. Its loss says that
//! it was too large, not that the path is congested (RFC 4821 7.5): it is cut and sent again, and
//! neither window nor controller learn of it. Probes leave only when more data follows that shows
//! at once what became of them.

use core::time::Duration;

use crate::seq::SeqNum;
use crate::stack::MtuProbing;
use crate::time::Instant;
use crate::wire::tcp::HEADER_BYTES;

use super::cc::Controller;
use super::output::{PathLimits, SegmentOut};
use super::recovery::Phase as Recovering;
use super::state::{Connection, Cx};

/// RFC 8899 5.1.2 BASE_PLPMTU; IPv6 has no links below 1280 (RFC 8200 section 5).
const BASE_V4: usize = 1200;
const BASE_V6: usize = 1280;

/// What is tried when the base does not pass (RFC 8899 MIN_PLPMTU).
const LEAST_V4: usize = 576;

/// RFC 8899 5.1.2 MAX_PROBES: losses of one size that show that it does not pass.
const PROBES_MAX: u8 = 3;

/// RFC 8899 5.1.1 PMTU_RAISE_TIMER.
const RAISE_AFTER: Duration = Duration::from_mins(10);

/// The search ends when less than this is to be gained.
const GAP_BYTES: usize = 8;

/// The size most paths have that do not have the link's.
const COMMON: usize = 1500;

/// Timeouts in a row of a full segment that make a black hole, and of the base that make an error.
const BLACK_HOLE_TIMEOUTS: u32 = 2;
const ERROR_TIMEOUTS: u32 = 4;

/// Segments that must follow a probe.
const FOLLOWERS: usize = 3;

/// RFC 8899 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The base is in use, and not known to pass.
    Base,
    Searching,
    Complete,
    /// Not even the base passes.
    Error,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    start: SeqNum,
    end: SeqNum,
    size: usize,
}

/// The search for the largest packet.
#[derive(Debug)]
struct Search {
    phase: Phase,
    /// The smallest packet that does not pass; `usize::MAX`: none is known.
    refuted: usize,
    probe: Option<Probe>,
    /// Losses of the size that is tried.
    losses: u8,
    /// When a completed search begins anew.
    raise_at: Instant,
    /// To be shared with other connections to the same host.
    news: Option<usize>,
}

impl Search {
    fn new(phase: Phase, now: Instant) -> Search {
        Search {
            phase,
            refuted: usize::MAX,
            probe: None,
            losses: 0,
            raise_at: now + RAISE_AFTER,
            news: None,
        }
    }

    /// The next size to try, above `mtu` and up to `top`.
    fn next_size(&self, mtu: usize, top: usize) -> Option<usize> {
        if self.refuted > top {
            return (top > mtu).then_some(top);
        }
        if mtu < COMMON && COMMON < self.refuted {
            return Some(COMMON);
        }
        let gap = self.refuted.saturating_sub(mtu);
        (gap > GAP_BYTES).then(|| mtu + gap / 2)
    }

    fn complete(&mut self, mtu: usize, now: Instant) {
        self.phase = Phase::Complete;
        self.raise_at = now + RAISE_AFTER;
        self.news = Some(mtu);
    }

    /// A probe of `size` was lost.
    fn on_loss(&mut self, size: usize) {
        self.losses += 1;
        if self.losses >= PROBES_MAX {
            (self.refuted, self.losses) = (self.refuted.min(size), 0);
        }
    }
}

/// "Packet too big" that contradicts what was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Claim {
    mtu: u32,
    /// The segment it is about.
    seq: SeqNum,
    /// That segment timed out since: it seems true.
    believed: bool,
}

/// What to do about "packet too big".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooBig {
    /// The path's MTU is lower.
    Believe,
    /// Wait for what becomes of the segment.
    Doubt,
    /// It says nothing new.
    Ignore,
}

/// Packet sizes of one connection.
#[derive(Debug)]
pub(crate) struct PathMtu {
    /// Largest IP packet, probes aside (RFC 8899 PLPMTU).
    pub(crate) mtu: usize,
    /// Largest IP packet that was acknowledged (RFC 5927 `maxsizeacked`).
    acked: u32,
    /// End of the first full segment of this size in flight.
    full_end: Option<SeqNum>,
    claim: Option<Claim>,
    search: Option<Box<Search>>,
}

impl PathMtu {
    pub(crate) fn new(mtu: usize) -> PathMtu {
        PathMtu { mtu, acked: 0, full_end: None, claim: None, search: None }
    }

    /// Packets have another size from here on.
    pub(crate) fn resize(&mut self, mtu: usize) {
        (self.mtu, self.full_end) = (mtu, None);
    }

    /// A segment of new data leaves; `full`: as large as `mtu` allows.
    pub(crate) fn on_sent(&mut self, full: bool, end: SeqNum) {
        if full && self.full_end.is_none() {
            self.full_end = Some(end);
        }
    }

    /// Where the probe in flight begins.
    pub(crate) fn probe_start(&self) -> Option<SeqNum> {
        self.search.as_ref()?.probe.map(|probe| probe.start)
    }

    /// A size for other connections to the same host to start from.
    pub(crate) fn take_news(&mut self) -> Option<usize> {
        self.search.as_mut()?.news.take()
    }

    /// A claim that turned out true.
    pub(crate) fn take_believed(&mut self) -> Option<usize> {
        self.claim.take_if(|claim| claim.believed).map(|claim| claim.mtu as usize)
    }

    /// RFC 5927 7.2: less than what was acknowledged is doubted, no less than what is sent ignored.
    pub(crate) fn judge(&mut self, seq: SeqNum, mtu: usize) -> TooBig {
        let probed = self.search.as_ref().and_then(|s| s.probe).map_or(0, |probe| probe.size);
        if mtu >= self.mtu.max(probed) {
            return TooBig::Ignore;
        }
        if mtu < self.acked as usize {
            self.claim = Some(Claim { mtu: mtu as u32, seq, believed: false });
            return TooBig::Doubt;
        }
        TooBig::Believe
    }
}

impl Connection {
    fn header_bytes(&self) -> usize {
        let ip = if self.key.local.is_ipv4() { 20 } else { 40 };
        ip + HEADER_BYTES
    }

    fn base_mtu(&self) -> usize {
        if self.key.local.is_ipv4() { BASE_V4 } else { BASE_V6 }
    }

    /// The way to the peer takes packets of `limit` bytes as far as routes and ICMP tell.
    pub(crate) fn follow_path(&mut self, now: Instant, limit: usize) {
        let base = self.base_mtu();
        let always = self.settings.mtu_probing == MtuProbing::Always;
        if always && self.path.search.is_none() && self.is_synchronised() && limit > base {
            self.path.search = Some(Box::new(Search::new(Phase::Searching, now)));
            self.set_mtu(base);
        }
        let found = self.path.search.is_some().then_some(self.path.mtu);
        self.set_mtu(found.map_or(limit, |mtu| mtu.min(limit)));
    }

    /// Another connection found that the path takes no more than `found`. A base is where a search
    /// stands, anything else where it ended.
    pub(crate) fn adopt_mtu(&mut self, now: Instant, found: usize, limit: usize) {
        let probes = self.settings.mtu_probing != MtuProbing::Off && self.is_synchronised();
        if !probes || self.path.search.is_some() || found >= limit {
            return;
        }
        let phase = if found <= self.base_mtu() { Phase::Searching } else { Phase::Complete };
        self.path.search = Some(Box::new(Search::new(phase, now)));
        self.set_mtu(found);
    }

    /// A segment that is larger than the others, if it is time for one.
    pub(crate) fn poll_mtu_probe(
        &mut self,
        cx: &mut Cx<'_>,
        limits: &PathLimits,
    ) -> Option<SegmentOut> {
        let quiet = self.recovery.phase == Recovering::Open
            && self.sack_ok
            && self.sent.lost() + self.sent.sacked() == 0;
        let mss_max = self.mss_peer.min(usize::from(self.settings.mss_max));
        let top = limits.mtu.min(mss_max + self.header_bytes());
        let (mtu, now) = (self.path.mtu, cx.now);
        let search = self.path.search.as_mut()?;
        if search.phase == Phase::Complete && search.raise_at <= now {
            // RFC 8899 5.3.3, RFC 8201 section 4: the path may take more by now.
            **search = Search::new(Phase::Searching, now);
        }
        if search.phase != Phase::Searching || search.probe.is_some() || !quiet {
            return None;
        }
        let Some(size) = search.next_size(mtu, top) else {
            search.complete(mtu, now);
            return None;
        };
        let mss = self.mss_now();
        let len = (size - mtu) + mss;
        let followed = len + FOLLOWERS * mss;
        let room = self.window().saturating_sub(self.pipe());
        if self.unsent() < followed
            || self.usable_window() < followed
            // Ordinary data would fill the window before a probe fits: it goes a little beyond.
            || room < mss
            || self.window() < followed
            || self.urgent_end().is_some()
            || !self.may_send_paced(now)
        {
            return None;
        }
        let start = self.snd_nxt;
        let mut out = self.new_segment(cx, len, mss);
        // One packet, whatever its size.
        out.mss = len;
        if let Some(search) = &mut self.path.search {
            search.probe = Some(Probe { start, end: self.snd_nxt, size });
        }
        Some(out)
    }

    /// An acknowledgement was taken; `acked`: it moved `snd_una`.
    pub(crate) fn path_on_ack(&mut self, cx: &mut Cx<'_>, acked: bool) {
        let una = self.snd_una;
        let path = &mut self.path;
        if acked && path.full_end.is_some_and(|end| una >= end) {
            path.acked = path.acked.max(path.mtu as u32);
            path.full_end = None;
        }
        if path.claim.is_some_and(|claim| una > claim.seq) {
            // It arrived: whoever said otherwise was wrong.
            path.claim = None;
        }
        let Some(search) = &mut path.search else { return };
        if acked && matches!(search.phase, Phase::Base | Phase::Error) {
            search.phase = Phase::Searching;
            search.news = Some(path.mtu);
        }
        let Some(probe) = search.probe else { return };
        if una < probe.end && !self.sent.is_sacked(probe.start) {
            return;
        }
        search.probe = None;
        search.losses = 0;
        cx.stats.mtu_probes_passed += 1;
        self.set_mtu(probe.size);
        self.path.acked = self.path.acked.max(probe.size as u32);
    }

    /// RACK judged `lost` bytes lost. True if the probe is all of it: then there is no congestion,
    /// and what it carried goes again in smaller segments (RFC 4821 7.5, RFC 8899 3 item 7).
    pub(crate) fn is_only_probe_lost(&mut self, cx: &mut Cx<'_>, lost: u32) -> bool {
        let Some(search) = &mut self.path.search else { return false };
        let Some(probe) = search.probe.filter(|p| self.sent.is_lost(p.start)) else {
            return false;
        };
        search.probe = None;
        let alone = lost == probe.end - probe.start && self.recovery.phase == Recovering::Open;
        if !alone {
            // The path loses others as well: this says nothing about sizes.
            return false;
        }
        search.on_loss(probe.size);
        cx.stats.mtu_probes_failed += 1;
        let r = &mut self.recovery;
        (r.phase, r.recover, r.force) = (Recovering::Resegment, self.snd_nxt, true);
        true
    }

    /// The timeout was about sizes, not about congestion (RFC 1191 section 6.4).
    pub(crate) fn forgive_timeout(&mut self, now: Instant) {
        if self.recovery.phase == Recovering::Timeout {
            self.recovery.phase = Recovering::Resegment;
            self.cc.undo(now);
        }
    }

    /// The retransmission timer expired: may the size of segments be the reason (RFC 4821 7.7,
    /// RFC 8899 4.3)?
    pub(crate) fn path_on_timeout(&mut self, cx: &mut Cx<'_>) {
        if let Some(claim) = &mut self.path.claim {
            // RFC 5927 7.2: the segment it was about did not arrive.
            claim.believed = true;
            return;
        }
        if let Some(search) = &mut self.path.search {
            search.probe = None;
        }
        let probes = self.settings.mtu_probing != MtuProbing::Off;
        let (base, mtu) = (self.base_mtu(), self.path.mtu);
        // A repetition takes along what lies behind, however small the first segment was.
        let first = match self.sent.first() {
            Some(sent) if self.sent.sacked() > 0 => sent.bytes() as usize,
            _ => self.flight().min(self.mss_full()),
        };
        if !probes || self.rtx_count < BLACK_HOLE_TIMEOUTS {
            return;
        }
        let (phase, to) = if mtu > base {
            if first <= base - self.header_bytes() {
                // Small ones do not pass either.
                return;
            }
            cx.stats.mtu_black_holes += 1;
            (Phase::Base, base)
        } else if self.rtx_count >= ERROR_TIMEOUTS && self.key.local.is_ipv4() && mtu > LEAST_V4 {
            (Phase::Error, LEAST_V4)
        } else {
            return;
        };
        self.path.search = Some(Box::new(Search::new(phase, cx.now)));
        self.set_mtu(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes tried on a path that takes `path` bytes, and where the search ends.
    fn search(mut mtu: usize, top: usize, path: usize) -> (Vec<usize>, usize) {
        let mut s = Search::new(Phase::Searching, Instant::ZERO);
        let mut tried = Vec::new();
        while let Some(size) = s.next_size(mtu, top) {
            assert!(size > mtu && size <= top, "{size} of {mtu} to {top}");
            if tried.last() != Some(&size) {
                tried.push(size);
            }
            if size <= path {
                mtu = size;
                s.losses = 0;
            } else {
                s.on_loss(size);
            }
            assert!(tried.len() < 40);
        }
        (tried, mtu)
    }

    // RFC 8899 5.3
    // RFC 4821 7.3
    #[test]
    fn the_search_tries_the_link_then_the_usual_then_halves() {
        assert_eq!(search(1200, 1500, 1500), (vec![1500], 1500));
        assert_eq!(search(1200, 9000, 1500).0[..2], [9000, 1500]);
        for path in 1200..=9000 {
            let (tried, found) = search(1200, 9000, path);
            assert!(found <= path && path - found <= GAP_BYTES, "{path}: {found}");
            assert!(tried.len() <= 13, "{tried:?}");
        }
    }

    // RFC 8899 5.1.2
    #[test]
    fn one_loss_of_a_probe_refutes_nothing() {
        let mut s = Search::new(Phase::Searching, Instant::ZERO);
        s.on_loss(1500);
        s.on_loss(1500);
        assert_eq!(s.next_size(1200, 1500), Some(1500));
        s.on_loss(1500);
        assert_eq!(s.next_size(1200, 1500), Some(1350));
    }

    // RFC 5927 7.2
    #[test]
    fn too_big_is_believed_between_what_arrived_and_what_is_sent() {
        let mut path = PathMtu::new(1500);
        path.acked = 1400;
        assert_eq!(path.judge(SeqNum(1), 1500), TooBig::Ignore);
        assert_eq!(path.judge(SeqNum(1), 1450), TooBig::Believe);
        assert_eq!(path.judge(SeqNum(1), 1300), TooBig::Doubt);
        assert_eq!(path.take_believed(), None);
    }
}

//! How much was delivered and how fast (draft-ietf-ccwg-bbr, section 4.1), and what held the
//! sender back: the window or the application.

use core::time::Duration;

use crate::seq::SeqNum;
use crate::time::Instant;

use super::cc::{Controller, Lost, Rate};
use super::recovery::Phase;
use super::sent::{Fate, Sent, Stamp};
use super::state::{Connection, Cx};

/// Totals of one connection, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// Delivered, cumulatively or by SACK, each byte once.
    pub(crate) delivered: u64,
    delivered_at: Instant,
    /// When the newest delivered segment left: the start of the next sample's sending.
    first_sent_at: Instant,
    /// Judged lost.
    pub(crate) lost: u64,
    /// Reported as CE-marked.
    pub(crate) ce: u64,
    /// The application held the flight back until this much is delivered; 0: it does not.
    app_limited: u64,
    /// The window held back what left below this.
    window_limited: Option<SeqNum>,
    /// The newest sample, bytes per second.
    pub(crate) rate: u64,
    pub(crate) rate_app_limited: bool,
}

/// What one acknowledgement delivers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Newly {
    /// Bytes, each once.
    pub(crate) bytes: usize,
    /// The newest transmission among it.
    newest: Option<Sent>,
    /// When the oldest that was sent once left, of what was acknowledged cumulatively.
    pub(crate) oldest_once: Option<Instant>,
    /// When the newest that was sent once left.
    pub(crate) newest_once: Option<Instant>,
    /// Something that was sent once and left before `SndNxt` of the last timeout (RFC 5682).
    pub(crate) original_end: Option<SeqNum>,
    /// When the first of what is acknowledged cumulatively and was sent again left last.
    pub(crate) resent_at: Option<Instant>,
    /// The lowest first transmission, for reordering.
    pub(crate) lowest_once: Option<SeqNum>,
    /// The highest.
    pub(crate) highest: Option<SeqNum>,
}

impl Newly {
    /// A record, as it was before it was delivered.
    pub(crate) fn take(&mut self, sent: &Sent, cumulative: bool) {
        if cumulative && sent.resent > 0 && self.resent_at.is_none() {
            self.resent_at = Some(sent.stamp.sent_at);
        }
        if sent.fate == Fate::Sacked {
            return;
        }
        self.bytes += sent.bytes() as usize;
        self.highest = Some(self.highest.map_or(sent.end, |h| h.max(sent.end)));
        if self.newest.is_none_or(|n| sent.transmission().is_after(n.transmission())) {
            self.newest = Some(*sent);
        }
        if sent.resent > 0 {
            return;
        }
        let at = sent.stamp.sent_at;
        if cumulative {
            self.oldest_once = Some(self.oldest_once.map_or(at, |o| o.min(at)));
        }
        self.newest_once = Some(self.newest_once.map_or(at, |n| n.max(at)));
        self.original_end = Some(self.original_end.map_or(sent.end, |e| e.min(sent.end)));
        self.lowest_once = Some(self.lowest_once.map_or(sent.end, |e| e.min(sent.end)));
    }

    pub(crate) fn newest(&self) -> Option<&Sent> {
        self.newest.as_ref()
    }
}

impl Delivery {
    pub(crate) fn new(now: Instant) -> Delivery {
        Delivery {
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            lost: 0,
            ce: 0,
            app_limited: 0,
            window_limited: None,
            rate: 0,
            rate_app_limited: false,
        }
    }

    /// Something is about to leave; `pipe` bytes are in flight before it.
    fn stamp(&mut self, now: Instant, pipe: usize, bytes: u32) -> Stamp {
        if pipe == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        Stamp {
            sent_at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            flight: pipe as u32 + bytes,
            lost: self.lost as u32,
            ce: self.ce as u32,
            app_limited: self.app_limited > 0,
        }
    }

    /// Counts what an acknowledgement delivers and takes the sample it gives; `lost` bytes were
    /// newly judged so and `ce` newly marked.
    pub(crate) fn sample(
        &mut self,
        now: Instant,
        newly: &Newly,
        rtt_min: Option<Duration>,
    ) -> Option<Rate> {
        if newly.bytes == 0 {
            return None;
        }
        self.delivered += newly.bytes as u64;
        self.delivered_at = now;
        if self.delivered > self.app_limited {
            self.app_limited = 0;
        }
        let Sent { stamp, .. } = newly.newest?;
        self.first_sent_at = stamp.sent_at;
        // The slower of sending and acknowledging: neither a burst of ACKs nor one of segments
        // is the speed of the path.
        let sending = stamp.sent_at.saturating_since(stamp.first_sent_at);
        let interval = sending.max(now.saturating_since(stamp.delivered_at));
        let delivered = self.delivered - stamp.delivered;
        if interval.is_zero() || rtt_min.is_some_and(|min| interval < min) {
            return None;
        }
        let nanos = interval.as_nanos();
        // Almost always small enough for a division of 64 bits.
        let per_s = match (delivered.checked_mul(1_000_000_000), u64::try_from(nanos)) {
            (Some(scaled), Ok(nanos)) => u128::from(scaled / nanos),
            _ => u128::from(delivered) * 1_000_000_000 / nanos,
        };
        let rate = Rate {
            bytes_per_s: u64::try_from(per_s).unwrap_or(u64::MAX),
            prior_delivered: stamp.delivered,
            flight_at_send: stamp.flight as usize,
            lost: u64::from((self.lost as u32).wrapping_sub(stamp.lost)),
            ce: u64::from((self.ce as u32).wrapping_sub(stamp.ce)),
            delivered,
            app_limited: stamp.app_limited,
        };
        if !rate.app_limited || rate.bytes_per_s >= self.rate {
            (self.rate, self.rate_app_limited) = (rate.bytes_per_s, rate.app_limited);
        }
        Some(rate)
    }

    /// A record is judged lost.
    pub(crate) fn lose(&mut self, sent: &Sent) -> Lost {
        self.lost += u64::from(sent.bytes());
        Lost {
            seq: sent.start,
            bytes: sent.bytes() as usize,
            flight_at_send: sent.stamp.flight as usize,
            lost: u64::from((self.lost as u32).wrapping_sub(sent.stamp.lost)),
            delivered: self.delivered,
            app_limited: sent.stamp.app_limited,
        }
    }

    /// RFC 7661: whether the window was the limit when what is acknowledged now left.
    pub(crate) fn was_window_limited(&mut self, una: SeqNum) -> bool {
        if self.window_limited.is_some_and(|end| una > end) {
            self.window_limited = None;
        }
        self.window_limited.is_some()
    }
}

impl Connection {
    /// The state that the next transmission of `bytes` is remembered with.
    pub(crate) fn stamp(&mut self, cx: &Cx<'_>, bytes: u32) -> Stamp {
        let pipe = self.pipe();
        self.delivery.stamp(cx.now, pipe, bytes)
    }

    /// New data or a FIN up to `end` leaves; `snd_nxt` has not moved yet.
    pub(crate) fn on_send_new(&mut self, cx: &mut Cx<'_>, end: SeqNum) {
        let app_limited = self.delivery.app_limited > 0;
        let pipe = self.pipe();
        self.cc.on_send(cx.now, pipe, app_limited);
        let start = self.snd_nxt;
        let stamp = self.delivery.stamp(cx.now, pipe, end - start);
        let shared = self.sent.push(start, end, stamp);
        cx.stats.sent_records_shared += u64::from(shared);
        if self.recovery.phase == Phase::Fast
            && let Some(e) = &mut self.recovery.episode
        {
            e.prr.on_send(end - start);
        }
    }

    /// Output stopped: was it the window, or is there nothing to send
    /// (draft-ietf-ccwg-bbr 4.1.2.4)?
    pub(crate) fn note_limit(&mut self) {
        let (pipe, unsent) = (self.pipe(), self.unsent());
        let mss = self.mss_full();
        let room = self.window().saturating_sub(pipe);
        if room < mss {
            if unsent > 0 {
                self.delivery.window_limited = Some(self.snd_nxt);
            }
        } else if unsent < mss && self.sent.lost() == 0 {
            self.delivery.app_limited = (self.delivery.delivered + pipe as u64).max(1);
        }
    }
}

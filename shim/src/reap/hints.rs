//! What others see of the paths (RFC 5534 3.1 to 3.3).

use core::net::IpAddr;

use weft_stack::time::Instant;

use super::paths::uses;
use super::{Hint, Purpose, Reap, Why};
use crate::wire::probe::ReapState;

impl Reap {
    /// Takes a hint. What this host knows of itself is acted upon; the rest only starts a test, and
    /// not too often (RFC 5534 8).
    pub fn hint(&mut self, now: Instant, hint: Hint) {
        self.stats.hints += 1;
        match hint {
            Hint::LocatorGone(addr) => self.locator_lost(now, addr, Why::LocatorGone),
            Hint::LinkDown(addr) => self.locator_lost(now, addr, Why::LinkDown),
            Hint::LocatorBack(addr) => self.locator_back(now, addr),
            Hint::Icmp(pair) => {
                if let Some(path) = self.paths.get_mut(pair) {
                    path.misses = path.misses.max(1);
                }
                if pair == self.current {
                    self.suspect(now, Why::Icmp);
                }
                // The next pair need not wait for the answer to this one's probe.
                if self.config.parallel == 1
                    && self.explorer.timer.is_some()
                    && self.explorer.last_sent() == Some(pair)
                {
                    self.explorer.timer = Some(now);
                }
            }
            Hint::NoProgress => self.suspect(now, Why::NoProgress),
            Hint::Progress => self.progress(now),
        }
    }

    /// Whether the hint says of an address anything but what was said of it last.
    pub(crate) fn is_news(&self, hint: Hint) -> bool {
        match hint {
            Hint::LocatorGone(addr) | Hint::LinkDown(addr) => !self.paths.is_away(addr),
            Hint::LocatorBack(addr) => self.paths.is_away(addr),
            Hint::Icmp(_) | Hint::NoProgress | Hint::Progress => true,
        }
    }

    /// Tests the pair in use, if it was not just tested.
    fn suspect(&mut self, now: Instant, why: Why) {
        if self.state == ReapState::Operational && now >= self.hints_after {
            self.explore(now, why, false);
        }
    }

    fn progress(&mut self, now: Instant) {
        if self.state == ReapState::Operational {
            self.detector.stop_send();
            if let Some(path) = self.paths.get_mut(self.current) {
                path.works(now);
            }
        }
    }

    fn locator_lost(&mut self, now: Instant, addr: IpAddr, why: Why) {
        if !self.paths.set_away(addr, true) {
            return;
        }
        self.queue.retain(|(pair, _)| !uses(*pair, addr));
        if uses(self.current, addr) {
            self.leave(now, why);
        }
    }

    /// The pair in use is out of the question. One that is known to work is used at once, and
    /// tested; otherwise all are.
    pub(super) fn leave(&mut self, now: Instant, why: Why) {
        if self.state != ReapState::Operational {
            self.explorer.hard = true;
            self.round(now);
            return;
        }
        let (damping, failed) = (self.config.damping, self.current);
        if let Some(path) = self.paths.get_mut(failed) {
            path.failed(now, damping);
        }
        let ready = self.paths.best_alive(now, &self.config, failed);
        let ready = ready.filter(|p| why != Why::Broken || !p.broken).map(|p| p.pair);
        if let Some(pair) = ready {
            self.use_pair(now, pair, why);
        }
        self.explore(now, why, ready.is_none());
        if ready.is_some_and(|pair| pair.local == failed.local || pair.remote == failed.remote) {
            // It may have gone the same way: the others need not wait for its answer.
            self.explorer.again = true;
            self.explorer.stagger = None;
            self.second_wave(now);
        }
    }

    /// The peer says that the pair in use does not work. While there are others it is left for that;
    /// the operator's is tested. Packets go on by it until another one works.
    pub(super) fn disowned(&mut self, now: Instant) {
        if !self.paths.has_sound() {
            return;
        }
        if self.pinned {
            self.explore(now, Why::Broken, false);
        } else {
            self.leave(now, Why::Broken);
        }
    }

    fn locator_back(&mut self, now: Instant, addr: IpAddr) {
        if !self.paths.set_away(addr, false) {
            return;
        }
        self.measures.start(&self.config, now);
        if self.state == ReapState::Operational {
            return;
        }
        let back: Vec<_> =
            self.paths.all.iter().filter(|p| uses(p.pair, addr) && !p.gone).collect();
        let back: Vec<_> = back.into_iter().map(|p| p.pair).take(self.config.parallel).collect();
        for pair in back {
            self.queue(pair, Purpose::Explore);
        }
        self.explorer.restart_backoff();
    }
}

//! What is known of each pair: whether it can be used, whether it works, how well, how often it
//! failed.

use core::net::IpAddr;
use core::time::Duration;

use smallvec::SmallVec;
use weft_stack::rng::Key;
use weft_stack::time::Instant;

use super::config::{Damping, Policy, ReapConfig};
use crate::locator::{Locator, Pair, is_unicast};

/// Pairs of one context; those of the lowest cost are kept.
pub const PATHS_MAX: usize = 32;

/// Added to a penalty by each failure.
const FAILURE: u32 = 1_000;
/// A penalty does not grow beyond.
const PENALTY_MAX: u32 = 12_000;
/// Requests without answer after which a pair counts as not working.
pub(super) const MISSES_MAX: u8 = 3;
/// Outcomes before loss is judged.
const OUTCOMES_MIN: u8 = 8;

#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) pair: Pair,
    /// Sum of both priorities.
    pub(super) cost: u16,
    weight: u16,
    /// Its owner says that it does not work.
    pub(super) broken: bool,
    /// The peer says so of its end.
    pub(super) disowned: bool,
    /// An end of it is not there, or its link is down.
    pub(super) gone: bool,
    /// The last sign that it works.
    pub(super) heard: Option<Instant>,
    /// The first sign since it failed.
    works_since: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    /// The last requests, newest lowest; a set bit is a loss.
    outcomes: u32,
    outcomes_len: u8,
    pub(super) misses: u8,
    /// It answered: silence means something. Of one that works in one direction only it does not.
    pub(super) answered: bool,
    pub(super) lossy: bool,
    /// The request on its way.
    pub(super) request: Option<(u32, Instant)>,
    penalty: u32,
    penalty_at: Instant,
    suppressed: bool,
    /// What `suppressed` was before the last failure, while that may turn out to be none.
    pub(super) blamed: Option<bool>,
}

impl Path {
    fn new(local: &Locator, remote: &Locator) -> Path {
        let (l, r) = (local.preference, remote.preference);
        Path {
            pair: Pair::new(local.addr, remote.addr),
            cost: u16::from(l.priority) + u16::from(r.priority),
            weight: u16::from(l.weight.max(1)) * u16::from(r.weight.max(1)),
            broken: l.is_broken() || r.is_broken(),
            disowned: r.is_broken(),
            gone: false,
            heard: None,
            works_since: None,
            rtt: None,
            outcomes: 0,
            outcomes_len: 0,
            misses: 0,
            answered: false,
            lossy: false,
            request: None,
            penalty: 0,
            penalty_at: Instant::ZERO,
            suppressed: false,
            blamed: None,
        }
    }

    /// A sign that packets pass.
    pub(super) fn works(&mut self, now: Instant) {
        self.heard = Some(now);
        self.misses = 0;
        self.works_since.get_or_insert(now);
    }

    /// A round trip was measured (RFC 6298's smoothing).
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
    }

    /// How a request ended.
    pub(super) fn outcome(&mut self, now: Instant, lost: bool, config: &ReapConfig) {
        if self.misses >= MISSES_MAX && !lost {
            // It was away, which is not loss.
            self.outcomes_len = 0;
        }
        self.outcomes = self.outcomes << 1 | u32::from(lost);
        self.outcomes_len = (self.outcomes_len + 1).min(32);
        if lost {
            self.misses = self.misses.saturating_add(1);
            if self.misses == MISSES_MAX && self.works_since.is_some() {
                self.failed(now, config.damping);
            }
        } else {
            self.answered = true;
            self.works(now);
        }
        let limit = u32::from(config.lossy_percent) * 10;
        let loss = self.loss_permille().unwrap_or(0);
        self.lossy = if self.lossy { loss * 2 >= limit } else { loss > limit };
    }

    /// Loss over the last 32 requests; `None` before there are enough.
    pub(super) fn loss_permille(&self) -> Option<u32> {
        let len = u32::from(self.outcomes_len);
        let seen = if len == 32 { u32::MAX } else { (1 << len) - 1 };
        (self.outcomes_len >= OUTCOMES_MIN)
            .then(|| (self.outcomes & seen).count_ones() * 1_000 / len)
    }

    /// It was in use and failed.
    pub(super) fn failed(&mut self, now: Instant, damping: Damping) {
        self.penalty = (self.penalty(now, damping) + FAILURE).min(PENALTY_MAX);
        self.penalty_at = now;
        self.suppressed = self.is_suppressed(now, damping) || self.penalty >= damping.suppress;
        self.works_since = None;
        self.heard = None;
    }

    /// It was left because another one was known to work first, and has perhaps not failed.
    pub(super) fn blame(&mut self, now: Instant, damping: Damping) {
        let before = self.suppressed;
        self.failed(now, damping);
        self.blamed = Some(before);
    }

    /// A probe of that exploration had come through after all.
    pub(super) fn pardon(&mut self, now: Instant, damping: Damping) {
        if let Some(before) = self.blamed.take() {
            self.penalty = self.penalty(now, damping).saturating_sub(FAILURE);
            self.penalty_at = now;
            self.suppressed = before;
        }
    }

    /// The penalty as it is now: halved every half-life, in a straight line between.
    pub(super) fn penalty(&self, now: Instant, damping: Damping) -> u32 {
        let half = (damping.half_life.as_millis() as u64).max(1);
        let age = (now - self.penalty_at).as_millis() as u64;
        let whole = self.penalty.checked_shr((age / half).min(32) as u32).unwrap_or(0);
        whole - (u64::from(whole / 2) * (age % half) / half) as u32
    }

    /// Failed so often that others are used while there are any.
    pub(super) fn is_suppressed(&self, now: Instant, damping: Damping) -> bool {
        self.suppressed && self.penalty(now, damping) >= damping.reuse
    }

    /// Known to work: there was a sign not long ago, and nothing against it since.
    pub(super) fn is_alive(&self, now: Instant, config: &ReapConfig) -> bool {
        let fresh = config.measure.map_or(Duration::ZERO, |interval| interval * 3);
        !self.gone && self.misses == 0 && self.heard.is_some_and(|at| now - at <= fresh)
    }

    /// Has worked since it last failed, for the time that a move to it wants: the longer the
    /// oftener it failed.
    fn has_settled(&self, now: Instant, config: &ReapConfig) -> bool {
        let failures = (self.penalty(now, config.damping) + FAILURE / 2) / FAILURE;
        let hold = config.hold * (1 << failures.saturating_sub(1).min(5));
        self.works_since.is_some_and(|at| now - at >= hold)
    }
}

/// The pairs of a context, cheapest first.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) all: Vec<Path>,
    /// Ends of pairs that are not there, or whose link is down.
    away: SmallVec<[IpAddr; 2]>,
    /// Spreads contexts over pairs.
    salt: Key,
    /// Pairs that found no place.
    pub(super) left_out: u32,
}

/// How good a pair is to be used; the least is the best.
pub(super) type Rank = (bool, bool, bool, u16, u64);

impl Paths {
    pub(super) fn new(salt: Key) -> Paths {
        Paths { all: Vec::new(), away: SmallVec::new(), salt, left_out: 0 }
    }

    /// All pairs of two sets of locators that a packet can go between. What is known of pairs
    /// that stay is kept; `current` is among them if it is a pair at all.
    pub(super) fn set(&mut self, local: &[Locator], remote: &[Locator], current: Pair) {
        let old = core::mem::take(&mut self.all);
        for l in local {
            for r in remote {
                let new = Path::new(l, r);
                if !can_talk(new.pair) || self.get(new.pair).is_some() {
                    continue;
                }
                let known = old.iter().find(|p| p.pair == new.pair).cloned();
                self.all.push(match known {
                    Some(known) => Path {
                        cost: new.cost,
                        weight: new.weight,
                        broken: new.broken,
                        disowned: new.disowned,
                        ..known
                    },
                    None => new,
                });
            }
        }
        self.all.sort_by_key(|p| (p.pair != current, p.cost));
        self.left_out = self.all.len().saturating_sub(PATHS_MAX) as u32;
        self.all.truncate(PATHS_MAX);
        self.all.sort_by_key(|p| p.cost);
        self.away.retain(|addr| self.all.iter().any(|p| uses(p.pair, *addr)));
        self.mark_gone();
    }

    pub(super) fn get(&self, pair: Pair) -> Option<&Path> {
        self.all.iter().find(|p| p.pair == pair)
    }

    pub(super) fn get_mut(&mut self, pair: Pair) -> Option<&mut Path> {
        self.all.iter_mut().find(|p| p.pair == pair)
    }

    /// Packets can be given to the pair at all. While no locators are known every pair can.
    pub(super) fn is_usable(&self, pair: Pair) -> bool {
        self.all.is_empty() || self.get(pair).is_some_and(|p| !p.gone)
    }

    /// The peer says that its end of the pair does not work.
    pub(super) fn is_disowned(&self, pair: Pair) -> bool {
        self.get(pair).is_some_and(|p| p.disowned)
    }

    /// There are pairs that nobody says anything against.
    pub(super) fn has_sound(&self) -> bool {
        self.all.iter().any(|p| !p.broken && !p.gone)
    }

    /// Pairs with this end are out of the question.
    pub(super) fn is_away(&self, addr: IpAddr) -> bool {
        self.away.contains(&addr)
    }

    /// An end of pairs went or came back. False if it is an end of none, or nothing new.
    pub(super) fn set_away(&mut self, addr: IpAddr, away: bool) -> bool {
        let known = self.away.contains(&addr);
        if known == away || !self.all.iter().any(|p| uses(p.pair, addr)) {
            return false;
        }
        self.away.retain(|a| *a != addr);
        if away {
            self.away.push(addr);
        }
        self.mark_gone();
        true
    }

    fn mark_gone(&mut self) {
        for path in &mut self.all {
            path.gone = self.away.iter().any(|addr| uses(path.pair, *addr));
            if path.gone {
                path.request = None;
                path.works_since = None;
                path.heard = None;
            }
        }
    }

    /// How good a pair is now by the policy.
    pub(super) fn rank(&self, path: &Path, now: Instant, config: &ReapConfig) -> Rank {
        let spread = match config.policy {
            Policy::Spread => self.lot(path),
            Policy::Failover | Policy::Prefer => 0,
        };
        let suppressed = path.is_suppressed(now, config.damping);
        (path.broken, suppressed, path.lossy, path.cost, spread)
    }

    /// A weighted lot (rendezvous hashing): the context takes the pair with the least.
    fn lot(&self, path: &Path) -> u64 {
        let hash = self.salt.hash(&[
            &crate::locator::to_octets(path.pair.local),
            &crate::locator::to_octets(path.pair.remote),
        ]);
        let uniform = ((hash >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        // Of numbers that are not negative, the bits are in the order of the numbers.
        (-uniform.ln() / f64::from(path.weight)).abs().to_bits()
    }

    /// The pair known to work that is best now that `failed` does not. Of equally good ones it is one
    /// that shares no address with it: what took that pair may have taken others through the same link
    /// or provider, though nothing was said of them.
    pub(super) fn best_alive(
        &self,
        now: Instant,
        config: &ReapConfig,
        failed: Pair,
    ) -> Option<&Path> {
        let alive = self.all.iter().filter(|p| p.is_alive(now, config));
        alive.min_by_key(|p| {
            let (broken, suppressed, lossy, cost, spread) = self.rank(p, now, config);
            let shares = p.pair.local == failed.local || p.pair.remote == failed.remote;
            (broken, suppressed, lossy, cost, shares, spread)
        })
    }

    /// The pair to move to though `current` works.
    pub(super) fn preferred(
        &self,
        now: Instant,
        config: &ReapConfig,
        current: Pair,
    ) -> Option<Pair> {
        let mine = self.rank(self.get(current)?, now, config);
        let alive = self.all.iter().filter(|p| p.is_alive(now, config));
        let settled = alive.filter(|p| p.has_settled(now, config));
        let best = settled.min_by_key(|p| self.rank(p, now, config))?;
        (self.rank(best, now, config) < mine).then_some(best.pair)
    }
}

pub(super) fn uses(pair: Pair, addr: IpAddr) -> bool {
    pair.local == addr || pair.remote == addr
}

/// Two addresses between which packets can go (RFC 5534 4.3: combinations that make no sense are
/// left out).
fn can_talk(pair: Pair) -> bool {
    let is_link_local = |addr| match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    pair.same_family()
        && is_unicast(pair.local)
        && is_unicast(pair.remote)
        && is_link_local(pair.local) == is_link_local(pair.remote)
}

//! The slate: destinations and sources known so far, and the order in which their pairs are tried.

use core::net::IpAddr;

use smallvec::SmallVec;
use weft_stack::time::Instant;

use super::history::History;
use super::order::{Facts, Labels, rank};
use super::policy::Form;
use crate::locator::Pair;

/// Destinations one race looks at.
const DESTINATIONS_MAX: usize = 32;
/// Sources tried towards one destination.
const SOURCES_MAX: usize = 16;

/// An address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub addr: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// Its preferred lifetime is over.
    pub deprecated: bool,
}

/// Our addresses, by destination.
pub trait Addresses {
    /// Addresses that packets to `dst` can come from, the best first (RFC 6724 5): the first is the
    /// one that the stack takes if nobody chooses. Empty: there is no way there.
    fn sources(&self, dst: IpAddr) -> SmallVec<[Source; 4]>;
}

/// Where an attempt goes from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Our address; `None`: whichever the stack takes.
    pub local: Option<IpAddr>,
    /// The peer's.
    pub remote: IpAddr,
}

impl Ends {
    /// The pair, if our end is known.
    pub fn pair(self) -> Option<Pair> {
        self.local.map(|local| Pair::new(local, self.remote))
    }
}

#[derive(Clone, Debug)]
struct Destination {
    addr: IpAddr,
    /// The application named it.
    given: bool,
    form: Form,
    sources: SmallVec<[Source; 4]>,
}

impl Destination {
    fn pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        self.sources.iter().map(|s| Pair::new(s.addr, self.addr))
    }

    /// What is tried first: the stack's choice among those that suit (RFC 6724 5 rule 6).
    fn source(&self, labels: &Labels) -> Option<&Source> {
        let suits = self.sources.iter().find(|s| labels.suits(s, self.addr));
        suits.or_else(|| self.sources.first())
    }

    /// Every pair failed lately.
    fn is_failing(&self, now: Instant, history: &History) -> bool {
        !self.sources.is_empty() && self.pairs().all(|p| history.is_failing(now, p))
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slate {
    destinations: Vec<Destination>,
}

impl Slate {
    /// A destination, from the addresses that may be used towards it.
    pub(super) fn add(
        &mut self,
        addr: IpAddr,
        given: bool,
        form: Form,
        mut sources: SmallVec<[Source; 4]>,
    ) {
        let known = self.destinations.iter().any(|d| d.addr == addr);
        if known || self.destinations.len() == DESTINATIONS_MAX {
            return;
        }
        sources.truncate(SOURCES_MAX);
        self.destinations.push(Destination { addr, given, form, sources });
    }

    /// Every pair, in the order of trying.
    pub(super) fn pairs(&self, now: Instant, labels: &Labels, history: &History) -> Vec<Ends> {
        let order = self.order(now, labels, history);
        let queues: Vec<Vec<Ends>> =
            order.iter().enumerate().map(|(i, d)| queue(d, i, now, labels, history)).collect();
        let rounds = queues.iter().map(Vec::len).max().unwrap_or(0);
        let mut pairs: Vec<Ends> = (0..rounds)
            .flat_map(|r| queues.iter().filter_map(move |q| q.get(r).copied()))
            .collect();
        // What did not answer lately comes last, whatever its destination.
        pairs.sort_by_key(|e| e.pair().is_some_and(|p| history.is_failing(now, p)));
        pairs
    }

    /// Destinations in order, families in turn (RFC 8305 4).
    fn order(&self, now: Instant, labels: &Labels, history: &History) -> Vec<&Destination> {
        let mut sorted: Vec<&Destination> = self.destinations.iter().collect();
        sorted.sort_by_cached_key(|d| {
            let facts = Facts {
                addr: d.addr,
                source: d.source(labels),
                failing: d.is_failing(now, history),
                rtt: d.pairs().filter_map(|p| history.rtt(p)).min(),
            };
            (!d.given, rank(labels, &facts))
        });
        let usable = |d: &&Destination| !d.sources.is_empty() && !d.is_failing(now, history);
        let (good, poor): (Vec<_>, Vec<_>) = sorted.into_iter().partition(usable);
        let mut order = interleave(good);
        order.extend(poor);
        order
    }
}

/// One of each family in turn, beginning with the family of the first.
fn interleave(sorted: Vec<&Destination>) -> Vec<&Destination> {
    let Some(first) = sorted.first().map(|d| d.addr.is_ipv6()) else { return sorted };
    let (mine, other): (Vec<_>, Vec<_>) =
        sorted.into_iter().partition(|d| d.addr.is_ipv6() == first);
    let (mut mine, mut other) = (mine.into_iter(), other.into_iter());
    let mut order = Vec::new();
    loop {
        let (a, b) = (mine.next(), other.next());
        if a.is_none() && b.is_none() {
            return order;
        }
        order.extend(a);
        order.extend(b);
    }
}

/// The pairs of one destination. Neighbours in the order begin with different sources: if it is our
/// provider that is dead, the second attempt already goes by another.
fn queue(
    dst: &Destination,
    place: usize,
    now: Instant,
    labels: &Labels,
    history: &History,
) -> Vec<Ends> {
    let ends = |local| Ends { local, remote: dst.addr };
    if dst.form == Form::Off || dst.sources.is_empty() {
        return vec![ends(None)];
    }
    let pair = |s: &Source| Pair::new(s.addr, dst.addr);
    let (mut good, poor): (Vec<&Source>, Vec<&Source>) =
        dst.sources.iter().partition(|s| labels.suits(s, dst.addr));
    let known = good.iter().any(|s| history.rtt(pair(s)).is_some());
    if known {
        good.sort_by_key(|s| history.rtt(pair(s)).map_or((true, None), |rtt| (false, Some(rtt))));
    } else if !good.is_empty() {
        let turn = place % good.len();
        good.rotate_left(turn);
    }
    good.sort_by_key(|s| history.is_failing(now, pair(s)));
    good.into_iter().chain(poor).map(|s| ends(Some(s.addr))).collect()
}

//! The Selection logic (802.1AX 6.4.14): which ports are one aggregate, and which of them may work.
//!
//! Ports may be aggregated that have one actor key, one partner (system and key) and one speed. A
//! bond is one aggregate: if its ports could form several, one is chosen and the others stay out,
//! so that their partners are told so (not in sync). Within it the first `max_ports` are selected,
//! counted by the port identifiers of the system with the better identifier, as 802.1AX 6.7.1 has
//! it for both ends to come to the same result; the others are standby.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use weft_stack::time::{Duration, Instant};

use super::port::Leaving;
use super::wire::{PortId, State, SystemId};
use super::{MuxState, Port, ReceiveState, mux};
use crate::bond::config::SelectPolicy;

/// `Selected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selected {
    /// Not in the aggregate.
    #[default]
    Unselected,
    /// In it, when another fails.
    Standby,
    /// In it.
    Selected,
}

/// Why a port cannot be part of any aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    LinkDown,
    Offline,
    HalfDuplex,
    NoPartner,
    Loopback,
}

/// What ports of one aggregate have in common (the Link Aggregation Group identifier).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) partner: SystemId,
    pub(crate) key: u16,
    /// Unknown goes with any.
    pub(crate) speed_mbit: Option<u32>,
    /// The position of a port that is alone.
    pub(crate) individual: Option<usize>,
    /// Nobody is there (fallback).
    pub(crate) defaulted: bool,
}

impl Lag {
    pub(crate) fn is_of_speed(&self, mbit: Option<u32>) -> bool {
        self.speed_mbit.is_none() || mbit.is_none() || self.speed_mbit == mbit
    }

    fn takes(&self, other: &Lag) -> bool {
        self.is_of_speed(other.speed_mbit) && *self == Lag { speed_mbit: self.speed_mbit, ..*other }
    }
}

/// Limits of a bond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) min_links: usize,
    pub(crate) max_ports: usize,
    pub(crate) policy: SelectPolicy,
    pub(crate) fallback: bool,
}

/// The aggregate in use.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) lag: Option<Lag>,
    /// When it last had enough ports whose partners were in sync, or was chosen.
    good: Instant,
    /// Transaction of the next marker.
    transaction: u32,
}

/// How long an aggregate may be without ports in sync before one that has some is taken instead:
/// twice the time that both ends need to join.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long frames are taken from a port that left in order: the partner learns of it only now.
const LINGER: Duration = Duration::from_millis(100);
/// How long a port that is to become standby waits for the one that takes its place.
const RETIRE_WAIT: Duration = Duration::from_secs(1);

impl Selection {
    pub(crate) fn new(transaction: u32) -> Selection {
        Selection { lag: None, good: Instant::ZERO, transaction }
    }

    /// Chooses the aggregate and the ports in it.
    pub(crate) fn step(&mut self, ports: &mut [Port], now: Instant, limits: &Limits) {
        self.choose(ports, now, limits);
        let order = self.order(ports);
        for (place, &index) in order.iter().enumerate() {
            let want =
                if place < limits.max_ports { Selected::Selected } else { Selected::Standby };
            self.want(ports, index, want, now, limits);
        }
        for index in 0..ports.len() {
            if !order.contains(&index) {
                self.want(ports, index, Selected::Unselected, now, limits);
            }
        }
    }

    /// When an aggregate that does not work may be left for another.
    pub(crate) fn poll_timeout(
        &self,
        ports: &[Port],
        now: Instant,
        limits: &Limits,
    ) -> Option<Instant> {
        let lag = self.lag?;
        let until = self.good + PATIENCE;
        (until > now && !Tally::of(ports, &lag, limits).in_sync).then_some(until)
    }

    fn choose(&mut self, ports: &[Port], now: Instant, limits: &Limits) {
        let current = self.lag.map(|lag| Tally::of(ports, &lag, limits));
        if current.is_some_and(|t| t.in_sync) {
            self.good = self.good.max(now);
        }
        let mut best: Option<(Tally, Lag)> = None;
        for index in 0..ports.len() {
            let Ok(lag) = lag_of(ports, index, limits) else { continue };
            let tally = Tally::of(ports, &lag, limits);
            if best.as_ref().is_none_or(|(b, _)| tally.rank(limits) > b.rank(limits)) {
                best = Some((tally, lag));
            }
        }
        let keep = current.zip(best).is_some_and(|(c, (b, _))| {
            let makeshift = b.in_sync && (b.enough, b.kind()) > (c.enough, c.kind());
            let policy = limits.policy != SelectPolicy::Stable;
            let better = policy && b.in_sync && b.merit(limits) > c.merit(limits);
            let patient = c.heard && now < self.good + PATIENCE;
            let works = c.in_sync || patient || !b.in_sync;
            c.ports > 0 && (c.enough || !b.enough) && works && !better && !makeshift
        });
        if !keep {
            let lag = best.map(|(_, lag)| lag);
            if lag != self.lag {
                self.good = now;
            }
            self.lag = lag;
        }
        if let Some(lag) = &mut self.lag {
            let known = members(ports, lag).find_map(|i| ports[i].speed_mbit);
            lag.speed_mbit = lag.speed_mbit.or(known);
        }
    }

    /// Ports of the aggregate, the best first.
    fn order(&self, ports: &[Port]) -> SmallVec<[usize; 8]> {
        let Some(lag) = self.lag else { return SmallVec::new() };
        let mut order: SmallVec<[usize; 8]> = members(ports, &lag).collect();
        order.sort_by_key(|&i| {
            let port = &ports[i];
            // A port that is silent, or that has to wait first, does not displace one that works.
            let works = port.receive != ReceiveState::Expired && !needs_wait(port);
            (!works, deciding_id(port), i)
        });
        order
    }

    fn want(
        &mut self,
        ports: &mut [Port],
        index: usize,
        want: Selected,
        now: Instant,
        limits: &Limits,
    ) {
        let others = (0..ports.len()).filter(|i| *i != index && ports[*i].distributes()).count();
        let port = &mut ports[index];
        let leaves = port.selected == Selected::Selected && want != Selected::Selected;
        let planned = port.enabled && (want == Selected::Standby || port.offline);
        let works = port.distributes() || port.is_draining();
        if !(leaves && planned && works) {
            port.selected = want;
            port.leaving = Leaving::No;
            return;
        }
        if port.leaving == Leaving::No {
            port.leaving = Leaving::Retiring { until: now + RETIRE_WAIT };
        }
        let replaced = others >= limits.max_ports || port.offline;
        match port.leaving {
            Leaving::Retiring { until } if now < until && !replaced => {}
            Leaving::No | Leaving::Retiring { .. } => {
                self.transaction = self.transaction.wrapping_add(1);
                port.drain(now, self.transaction);
            }
            Leaving::Draining { until, .. } if now < until => {}
            Leaving::Draining { .. } | Leaving::Drained => {
                port.emptied = Some(port.leaving == Leaving::Drained);
                port.collect_until = Some(now + LINGER);
                port.selected = want;
                port.leaving = Leaving::No;
            }
        }
    }
}

/// What speaks for an aggregate.
#[derive(Clone, Copy, Debug)]
struct Tally {
    ports: usize,
    /// As many as `min_links` asks for.
    enough: bool,
    /// As many of them have partners in sync.
    in_sync: bool,
    /// The partner is heard on some.
    heard: bool,
    aggregates: bool,
    defaulted: bool,
    mbit: u64,
    /// The best port.
    best: Option<(PortId, usize)>,
}

impl Tally {
    fn of(ports: &[Port], lag: &Lag, limits: &Limits) -> Tally {
        let (mut count, mut sync, mut heard, mut best) = (0, 0, false, None);
        for i in members(ports, lag) {
            count += 1;
            heard |= ports[i].receive == ReceiveState::Current;
            sync += usize::from(ports[i].partner.state.has(State::SYNC));
            let id = (ports[i].actor.port, i);
            best = Some(best.map_or(id, |b: (PortId, usize)| b.min(id)));
        }
        Tally {
            ports: count,
            enough: count >= limits.min_links,
            in_sync: sync >= limits.min_links,
            heard,
            aggregates: lag.individual.is_none(),
            defaulted: lag.defaulted,
            mbit: count as u64 * u64::from(lag.speed_mbit.unwrap_or(0)),
            best,
        }
    }

    /// An aggregate is better than a port alone, and that better than a makeshift.
    fn kind(&self) -> (bool, bool) {
        (!self.defaulted, self.aggregates)
    }

    /// Higher is better.
    fn merit(&self, limits: &Limits) -> impl Ord + use<> {
        let measure = match limits.policy {
            SelectPolicy::Bandwidth => (self.mbit, self.ports as u64),
            SelectPolicy::Count | SelectPolicy::Stable => (self.ports as u64, self.mbit),
        };
        (self.kind(), measure)
    }

    /// Higher is better, with something to decide by if all else is equal.
    fn rank(&self, limits: &Limits) -> impl Ord + use<> {
        (self.enough, self.in_sync, self.merit(limits), self.best.map(core::cmp::Reverse))
    }
}

fn members<'a>(ports: &'a [Port], lag: &'a Lag) -> impl Iterator<Item = usize> + 'a {
    let fallback = lag.defaulted;
    (0..ports.len())
        .filter(move |&i| group_of(&ports[i], i, fallback).is_ok_and(|own| lag.takes(&own)))
}

fn lag_of(ports: &[Port], index: usize, limits: &Limits) -> Result<Lag, Refused> {
    group_of(&ports[index], index, limits.fallback)
}

/// What the port could be part of.
pub(crate) fn group_of(port: &Port, index: usize, fallback: bool) -> Result<Lag, Refused> {
    if !port.enabled {
        return Err(Refused::LinkDown);
    }
    if port.offline {
        return Err(Refused::Offline);
    }
    if !port.lacp_enabled {
        return Err(Refused::HalfDuplex);
    }
    let heard = matches!(port.receive, ReceiveState::Current | ReceiveState::Expired)
        && port.partner.system.mac != [0; 6];
    let defaulted = fallback && port.receive == ReceiveState::Defaulted;
    if !heard && !defaulted {
        return Err(Refused::NoPartner);
    }
    if port.partner.system.mac == port.actor.system.mac {
        return Err(Refused::Loopback);
    }
    let alone =
        !port.actor.state.has(State::AGGREGATION) || !port.partner.state.has(State::AGGREGATION);
    Ok(Lag {
        partner: port.partner.system,
        key: port.partner.key,
        speed_mbit: port.speed_mbit,
        individual: alone.then_some(index),
        defaulted,
    })
}

/// The identifier by which both ends count the port.
fn deciding_id(port: &Port) -> PortId {
    if port.actor.system <= port.partner.system || port.partner.system == SystemId::default() {
        port.actor.port
    } else {
        port.partner.port
    }
}

fn needs_wait(port: &Port) -> bool {
    port.mux < MuxState::Attached && port.waits == 0
}

/// For each port: those that wait for the aggregate have waited long enough (`Ready`).
pub(crate) fn ready(ports: &[Port], index: usize) -> bool {
    let port = &ports[index];
    let all = || {
        ports
            .iter()
            .filter(|p| p.mux == MuxState::Waiting && p.selected == Selected::Selected)
            .all(|p| p.waits > 0)
    };
    port.mux == MuxState::Waiting && (port.waits >= mux::WAITS_MAX || port.waits > 0 && all())
}

/// Ports that both ends have attached: what `min_links` counts.
pub(crate) fn in_sync(ports: &[Port]) -> usize {
    ports
        .iter()
        .filter(|p| {
            p.selected == Selected::Selected
                && p.mux >= MuxState::Attached
                && p.partner.state.has(State::SYNC)
        })
        .count()
}

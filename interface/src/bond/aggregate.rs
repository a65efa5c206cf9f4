//! The bond itself: its ports, what they are allowed to do now, and what is told of it.

use std::collections::VecDeque;

use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::config::{BondConfig, Mode};
use super::event::{BondEvent, Unused};
use super::lacp::selection::{self, Limits, Refused, Selection};
use super::lacp::wire::{Info, State, SystemId};
use super::lacp::{ChurnState, MuxState, Port, ReceiveState, Selected};
use crate::{BondSelection, Mac};

/// Events that nobody took; older ones are lost, and counted.
const EVENTS_MAX: usize = 256;

/// The link of a port, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLink {
    /// Carrier, and the device is up.
    pub up: bool,
    /// Megabits per second, if the device tells.
    pub speed_mbit: Option<u32>,
    /// False only if the device tells so.
    pub full_duplex: bool,
}

impl PortLink {
    /// No link.
    pub const DOWN: PortLink = PortLink { up: false, speed_mbit: None, full_duplex: true };
    /// A link whose device tells nothing of it.
    pub const UP: PortLink = PortLink { up: true, speed_mbit: None, full_duplex: true };
}

/// What does not belong to LACP of a port.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    /// When its link came up.
    up_since: Option<Instant>,
    /// It was told to distribute.
    carries: bool,
    /// Churn was told of, of the actor and of the partner.
    churn_told: [bool; 2],
    pub(super) steady: Steady,
}

/// Since when something is as it is: whoever looks for errors has to tell them from what is just
/// coming about.
#[derive(Clone, Debug, Default)]
pub(super) struct Steady {
    pub(super) link: (bool, Instant),
    pub(super) unused: (Option<Unused>, Instant),
    /// What the partner says of itself.
    pub(super) said: (Option<Info>, Instant),
}

/// Notes a value, with the time if it is another than before.
fn note<T: PartialEq>(known: &mut (T, Instant), value: T, now: Instant) {
    if known.0 != value {
        *known = (value, now);
    }
}

/// An aggregate of ports.
#[derive(Clone, Debug)]
pub struct Bond {
    pub(super) config: BondConfig,
    pub(super) mac: Mac,
    pub(super) ports: Vec<Port>,
    pub(super) members: Vec<Member>,
    pub(super) limits: Limits,
    pub(super) aggregate: Selection,
    pub(super) selection: BondSelection,
    pub(super) changed: bool,
    pub(super) up: bool,
    /// `active-backup`: the active port.
    pub(super) active: Option<usize>,
    pub(super) primary: Option<usize>,
    /// `active-backup`: the active port before a restart, and until when it is waited for.
    pub(super) resume_active: Option<(usize, Instant)>,
    pub(super) partner_told: Option<SystemId>,
    pub(super) events: VecDeque<BondEvent>,
    pub(super) events_lost: u64,
    pub(super) now: Instant,
}

/// More than any chain of causes within one instant: each round moves a port's Mux machine.
const ROUNDS_MAX: usize = 16;

impl Bond {
    /// A bond whose ports have these MAC addresses, in the order of its configuration. No port has
    /// a link yet. `seed` is random; it keeps answers to a former process's markers apart.
    ///
    /// # Panics
    ///
    /// If there are not as many addresses as configured ports, or none.
    pub fn new(config: &BondConfig, ports: &[Mac], seed: u64) -> Bond {
        assert!(!ports.is_empty(), "a bond has a port");
        assert_eq!(ports.len(), config.ports.len(), "a bond has one MAC address for each port");
        let mac = config.mac.unwrap_or(ports[0]);
        let system = config.lacp.system.unwrap_or(mac);
        let machines = config.ports.iter().zip(ports).enumerate();
        let limits = Limits {
            min_links: usize::from(config.min_links.max(1)),
            max_ports: config.lacp.max_ports.map_or(usize::MAX, |n| usize::from(n.max(1))),
            policy: config.lacp.select,
            fallback: config.lacp.fallback,
        };
        let primary = config.primary.as_ref();
        Bond {
            mac,
            ports: machines
                .map(|(i, (port, mac))| Port::new(i, port, &config.lacp, system, *mac))
                .collect(),
            members: vec![Member::default(); ports.len()],
            limits,
            aggregate: Selection::new(Rng::from_u64(seed).next_u32()),
            selection: BondSelection::default(),
            changed: false,
            up: false,
            active: None,
            primary: primary.and_then(|name| config.ports.iter().position(|p| p.name == *name)),
            resume_active: None,
            partner_told: None,
            events: VecDeque::new(),
            events_lost: 0,
            now: Instant::ZERO,
            config: config.clone(),
        }
    }

    /// The MAC address of the bond, on all its ports.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// What it was made from.
    pub fn config(&self) -> &BondConfig {
        &self.config
    }

    /// The link of a port changed, or is told again.
    pub fn handle_link(&mut self, now: Instant, port: usize, link: PortLink) {
        let (Some(machine), Some(member)) = (self.ports.get_mut(port), self.members.get_mut(port))
        else {
            return;
        };
        if link.up != machine.enabled {
            member.up_since = link.up.then_some(now);
        }
        if !link.up {
            machine.said = None;
        }
        machine.enabled = link.up;
        machine.lacp_enabled = link.full_duplex;
        machine.speed_mbit = link.speed_mbit;
        self.run(now);
    }

    /// A frame of the Slow Protocols came in on a port, from its destination address on.
    pub fn handle_frame(&mut self, now: Instant, port: usize, frame: &[u8]) {
        let Some(machine) = self.ports.get_mut(port) else { return };
        let negotiates = self.config.mode == Mode::Lacp;
        if let Some(end) = machine.handle_frame(now, frame, negotiates)
            && end.system.mac != [0; 6]
        {
            // The other end of a port without link was seen here: it was plugged over.
            for (i, other) in self.ports.iter_mut().enumerate() {
                other.moved |= i != port
                    && other.receive == ReceiveState::PortDisabled
                    && other.partner.system == end.system
                    && other.partner.port.number == end.port.number;
            }
        }
        self.run(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.run(now);
    }

    /// When [`Bond::handle_timeout`] has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut at = None;
        let mut sooner = |other: Option<Instant>| {
            at = at.into_iter().chain(other).min();
        };
        if self.config.mode == Mode::Lacp {
            self.ports.iter().for_each(|p| sooner(p.poll_timeout()));
            sooner(self.aggregate.poll_timeout(&self.ports, self.now, &self.limits));
        } else {
            let ready = self.members.iter().filter_map(|m| m.up_since);
            sooner(ready.map(|t| t + self.config.up_delay).filter(|t| *t > self.now).min());
        }
        at
    }

    /// A frame to send as it is, and the port to send it on.
    pub fn poll_transmit(&mut self) -> Option<(usize, Vec<u8>)> {
        self.ports.iter_mut().enumerate().find_map(|(i, p)| Some((i, p.poll_transmit()?)))
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<BondEvent> {
        self.events.pop_front()
    }

    /// The ports in use.
    pub fn selection(&self) -> &BondSelection {
        &self.selection
    }

    /// Whether the selection changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// Whether it carries frames.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// The operator takes a port out (or back in). With LACP it is emptied first: frames go other
    /// ways at once, and [`BondEvent::Drained`] tells when the partner has taken the last one.
    pub fn set_offline(&mut self, now: Instant, port: usize, offline: bool) {
        if let Some(machine) = self.ports.get_mut(port) {
            machine.offline = offline;
            self.run(now);
        }
    }

    /// Why a port does not send; `None` if it does, or if there is no such port.
    pub fn why_unused(&self, port: usize) -> Option<Unused> {
        (port < self.ports.len()).then(|| self.unused(port)).flatten()
    }

    pub(super) fn run(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.config.mode == Mode::Lacp {
            self.negotiate(self.now);
        }
        self.refresh();
    }

    fn negotiate(&mut self, now: Instant) {
        self.ports.iter_mut().for_each(|p| p.step_receive(now));
        for _ in 0..ROUNDS_MAX {
            // A port that is not selected any more leaves before it may be selected anew.
            let mut moved = self.step_mux(now);
            self.aggregate.step(&mut self.ports, now, &self.limits);
            moved |= self.step_mux(now);
            if !moved {
                break;
            }
        }
        self.ports.iter_mut().for_each(|p| p.step_rest(now));
    }

    fn step_mux(&mut self, now: Instant) -> bool {
        let enough = selection::in_sync(&self.ports) >= self.limits.min_links;
        let mut moved = false;
        for i in 0..self.ports.len() {
            let ready = selection::ready(&self.ports, i);
            moved |= self.ports[i].step_mux(now, ready, enough);
        }
        moved
    }

    /// Without LACP: whether a port may carry frames.
    fn is_usable(&self, port: usize) -> bool {
        let machine = &self.ports[port];
        machine.enabled && !machine.offline && !self.is_delayed(port)
    }

    fn is_delayed(&self, port: usize) -> bool {
        let up_since = self.members[port].up_since;
        up_since.is_some_and(|at| self.now < at + self.config.up_delay)
    }

    fn choose_active(&self) -> Option<usize> {
        let usable = |port: &usize| self.is_usable(*port);
        let primary = self.primary.filter(usable);
        let former = self.resume_active.filter(|(_, until)| self.now < *until).map(|(p, _)| p);
        let kept = former.filter(usable).or(self.active.filter(usable));
        let first = (0..self.ports.len()).find(usable);
        if self.config.failback { primary.or(kept).or(first) } else { kept.or(primary).or(first) }
    }

    fn select(&mut self) -> BondSelection {
        let all = 0..self.ports.len();
        match self.config.mode {
            Mode::Lacp => BondSelection {
                distributing: positions(all.clone().filter(|i| self.ports[*i].distributes())),
                collecting: positions(all.filter(|i| self.ports[*i].collects())),
            },
            Mode::ActiveBackup => {
                let active = self.choose_active();
                if active != self.active {
                    self.active = active;
                    if let Some(port) = active {
                        self.tell(BondEvent::Announce { port });
                    }
                }
                both(positions(active.into_iter()))
            }
            Mode::Static | Mode::RoundRobin => {
                let usable: Vec<usize> = all.filter(|i| self.is_usable(*i)).collect();
                let enough = usable.len() >= self.limits.min_links;
                both(positions(usable.into_iter().filter(|_| enough)))
            }
        }
    }

    /// Draws the conclusions: selection and events.
    fn refresh(&mut self) {
        let selection = self.select();
        for port in 0..self.ports.len() {
            let carries = selection.distributing.contains(&(port as u16));
            if carries != self.members[port].carries {
                self.members[port].carries = carries;
                let why = if carries { None } else { self.unused(port) };
                self.tell(
                    why.map_or(BondEvent::PortUp { port }, |why| BondEvent::PortDown { port, why }),
                );
            }
            self.tell_machines(port);
            self.note_steady(port);
        }
        let partner = self.aggregate.lag.filter(|l| !l.defaulted).map(|l| l.partner);
        if partner != self.partner_told {
            let from = core::mem::replace(&mut self.partner_told, partner);
            self.tell(BondEvent::PartnerChanged { from, to: partner });
        }
        let up = !selection.distributing.is_empty();
        if up != self.up {
            self.up = up;
            self.tell(if up { BondEvent::Up } else { BondEvent::Down });
        }
        if selection != self.selection {
            self.selection = selection;
            self.changed = true;
        }
    }

    fn note_steady(&mut self, port: usize) {
        let unused = self.unused(port);
        let Port { enabled, said, .. } = self.ports[port];
        let steady = &mut self.members[port].steady;
        note(&mut steady.link, enabled, self.now);
        note(&mut steady.unused, unused, self.now);
        note(&mut steady.said, said.map(|s| s.0), self.now);
    }

    fn tell_machines(&mut self, port: usize) {
        let machine = &mut self.ports[port];
        let emptied = machine.emptied.take();
        let churn = [&machine.actor_churn, &machine.partner_churn]
            .map(|churn| churn.state == ChurnState::Churn);
        let told = core::mem::replace(&mut self.members[port].churn_told, churn);
        if churn[0] != told[0] {
            self.tell(BondEvent::ActorChurn { port, on: churn[0] });
        }
        if churn[1] != told[1] {
            self.tell(BondEvent::PartnerChurn { port, on: churn[1] });
        }
        if let Some(answered) = emptied {
            self.tell(BondEvent::Drained { port, answered });
        }
    }

    fn tell(&mut self, event: BondEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.events_lost += 1;
        }
        self.events.push_back(event);
    }

    /// Why a port does not send; `None` if it does.
    pub(super) fn unused(&self, port: usize) -> Option<Unused> {
        let machine = &self.ports[port];
        if self.config.mode == Mode::Lacp {
            return self.unused_lacp(port);
        }
        let usable = (0..self.ports.len()).filter(|i| self.is_usable(*i)).count();
        if !machine.enabled {
            Some(Unused::LinkDown)
        } else if machine.offline {
            Some(Unused::Offline)
        } else if self.is_delayed(port) {
            Some(Unused::UpDelay)
        } else if self.config.mode == Mode::ActiveBackup {
            (self.active != Some(port)).then_some(Unused::Standby)
        } else {
            (usable < self.limits.min_links).then_some(Unused::MinLinks)
        }
    }

    fn unused_lacp(&self, port: usize) -> Option<Unused> {
        let machine = &self.ports[port];
        if machine.is_draining() {
            return Some(Unused::Draining);
        }
        if machine.distributes() {
            return None;
        }
        let own = match selection::group_of(machine, port, self.limits.fallback) {
            Err(why) => return Some(why.into()),
            Ok(own) => own,
        };
        let silent = machine.receive == ReceiveState::Expired;
        Some(match self.aggregate.lag {
            _ if silent => Unused::PartnerSilent,
            None => Unused::Waiting,
            Some(used) if used.partner != own.partner => Unused::OtherPartner,
            Some(used) if used.key != own.key => Unused::OtherKey,
            Some(used) if !used.is_of_speed(own.speed_mbit) => Unused::OtherSpeed,
            Some(used) if used.individual != own.individual => Unused::Individual,
            Some(_) if machine.selected == Selected::Standby => Unused::Standby,
            Some(_) if machine.mux < MuxState::Attached => Unused::Waiting,
            Some(_) if !machine.partner.state.has(State::SYNC) => Unused::PartnerNotInSync,
            Some(_) if machine.mux == MuxState::Attached => Unused::MinLinks,
            Some(_) => Unused::PartnerNotCollecting,
        })
    }
}

impl From<Refused> for Unused {
    fn from(why: Refused) -> Unused {
        match why {
            Refused::LinkDown => Unused::LinkDown,
            Refused::Offline => Unused::Offline,
            Refused::HalfDuplex => Unused::HalfDuplex,
            Refused::NoPartner => Unused::NoPartner,
            Refused::Loopback => Unused::Loopback,
        }
    }
}

fn positions(ports: impl Iterator<Item = usize>) -> smallvec::SmallVec<[u16; 8]> {
    ports.map(|port| port as u16).collect()
}

fn both(ports: smallvec::SmallVec<[u16; 8]>) -> BondSelection {
    BondSelection { distributing: ports.clone(), collecting: ports }
}

//! The machines of the interfaces (bonds, failover groups, probes), on worker 0: what they are told,
//! and what becomes of what they say.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use weft_drivers::device::Link;
use weft_interface::bond::{BondReport, PortLink};
use weft_interface::events::{EVENT_VERSION, EVENTS_KEPT, Event, Page, Stream, What, micros};
use weft_interface::keeper::{OfflineError, Probe, Saved, Standing, Where};
use weft_interface::name::InterfaceName;
use weft_interface::paths::{PathsReport, ProbeLine};
use weft_interface::{Keeper, Mac, Selection, Tree};
use weft_stack::ip::address::AliasId;
use weft_stack::time::{Duration, Instant};

use super::Core;
use super::hooks::Hooks;
use super::retree::prober_addresses;

/// Probes that ended, kept for readers.
const PROBES_KEPT: usize = 1024;
/// Items of one page.
const PAGE: usize = 256;

/// The machines of a host.
#[derive(Debug)]
pub(crate) struct Keeping {
    keeper: Keeper,
    events: Stream<Event>,
    probes: Stream<ProbeLine>,
    /// By name of the group or alias.
    programs: HashMap<String, PathBuf>,
    hooks: Option<Hooks>,
}

/// By name of the group, or of the alias that is bound to targets beyond its link.
fn programs(tree: &Tree) -> HashMap<String, PathBuf> {
    let hook = |group: &weft_interface::tree::Group| {
        let program = PathBuf::from(group.config.hook.as_ref()?);
        Some((tree.at(group.link).name.to_string(), program))
    };
    let of_alias = |alias: &weft_interface::tree::Alias| {
        let bound = !alias.beyond.targets.is_empty();
        let program = alias.beyond.hook.as_ref().filter(|_| bound)?;
        Some((alias.name.to_string(), PathBuf::from(program)))
    };
    let groups = tree.groups.iter().filter_map(hook);
    groups.chain(tree.aliases.iter().filter_map(of_alias)).collect()
}

impl Keeping {
    /// The machines of a tree; nothing runs yet. `seed` is random.
    pub(crate) fn new(tree: &Tree, macs: &[Mac], seed: u64) -> Keeping {
        Keeping {
            keeper: Keeper::new(tree, macs, seed),
            events: Stream::new(EVENTS_KEPT),
            probes: Stream::new(PROBES_KEPT),
            programs: programs(tree),
            hooks: None,
        }
    }

    /// Goes on from what a former process left.
    pub(crate) fn restore(&mut self, now: Instant, saved: &Saved, away: Duration) {
        self.keeper.restore(now, saved, away);
    }

    /// The tree is another; gives what may be used of it.
    pub(super) fn update(
        &mut self,
        now: Instant,
        tree: &Tree,
        seed: u64,
        standing: &Standing,
    ) -> Arc<Selection> {
        self.programs = programs(tree);
        self.keeper.update(now, tree, seed, standing);
        // Whoever asked for the change tells the workers.
        self.keeper.take_selection();
        Arc::clone(self.keeper.selection())
    }

    /// Links of all NICs as they are.
    pub(super) fn handle_links(&mut self, now: Instant, links: impl IntoIterator<Item = Link>) {
        let links = links.into_iter().enumerate();
        self.keeper.handle_links(now, links.map(|(nic, link)| (nic, port_link(link), link.mac)));
    }

    pub(crate) fn save(&self, now: Instant) -> Saved {
        self.keeper.save(now)
    }

    /// When the machines have something to do by themselves.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.keeper.poll_timeout()
    }

    /// The machines themselves.
    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Failover groups.
    pub(crate) fn paths(&self, now: Instant) -> PathsReport {
        self.keeper.paths(now)
    }

    /// Bonds by name.
    pub(crate) fn bonds(&self, now: Instant) -> Vec<(String, BondReport)> {
        self.keeper.bonds(now)
    }

    /// A page of what happened.
    pub(crate) fn events(&self, after: Option<u64>) -> Page<Event> {
        self.events.after(after.unwrap_or(self.events.newest()), PAGE)
    }

    /// A page of probes that ended.
    pub(crate) fn probes(&self, after: Option<u64>) -> Page<ProbeLine> {
        self.probes.after(after.unwrap_or(self.probes.newest()), PAGE)
    }

    /// What went wrong with hooks since the last call.
    pub(crate) fn take_failures(&self) -> Vec<String> {
        self.hooks.as_ref().map(Hooks::take_failures).unwrap_or_default()
    }

    fn record(&mut self, now: Instant, what: What) -> Result<(), String> {
        let program = what.group().filter(|_| what.is_for_hook());
        let program = program.and_then(|group| self.programs.get(group)).cloned();
        let mut told = None;
        self.events.push(|number| {
            let event = Event { version: EVENT_VERSION, number, at_us: micros(now), what };
            told = Some(event.clone());
            event
        });
        let (Some(program), Some(event)) = (program, told) else { return Ok(()) };
        if self.hooks.is_none() {
            // The first hook that runs: most hosts have none.
            let started = Hooks::start();
            self.hooks = Some(started.map_err(|e| format!("hooks cannot be run: {e}"))?);
        }
        if let Some(hooks) = &self.hooks {
            hooks.call(&program, &event);
        }
        Ok(())
    }

    fn record_probe(&mut self, probe: Probe) {
        let interface = self.keeper.tree().at(probe.member).name.to_string();
        self.probes.push(|number| ProbeLine {
            number,
            at_us: micros(probe.sent),
            interface,
            probe: probe.sequence.into(),
            net_rtt_us: probe.net_rtt_us,
            rtt_us: probe.rtt_us,
            rtt_avg_us: probe.rtt_avg_us,
            rtt_dev_us: probe.rtt_dev_us,
            target: probe.target,
        });
    }
}

fn port_link(link: Link) -> PortLink {
    // What devices tell of speed is not asked for: ports of one bond count as equal.
    PortLink { up: link.up, ..PortLink::UP }
}

impl Core {
    /// Machines decide from now on; before the worker's thread runs, and on worker 0.
    pub(crate) fn set_machines(&mut self, now: Instant, keeping: Keeping) {
        self.keeping = Some(Box::new(keeping));
        self.machines.decide = true;
        let links: Vec<_> = self.nics.iter().map(|nic| nic.link).enumerate().collect();
        let all = links.into_iter().map(|(nic, link)| (nic, port_link(link), link.mac));
        self.with_keeper(now, |keeper| keeper.handle_links(now, all));
    }

    /// What probers have to hear reaches them; on every worker.
    pub(crate) fn set_probers(&mut self, tree: &Tree) {
        self.show_probers(tree);
        for (link, addr) in prober_addresses(tree) {
            self.steer(usize::from(link.0), addr, true);
        }
    }

    /// Routers of whoever stands on a failover group. While interfaces change there may be none of
    /// that name yet.
    pub(crate) fn set_routers(&mut self, now: Instant, group: &InterfaceName, routers: &[IpAddr]) {
        self.with_keeper(now, |keeper| {
            if let Some(link) = keeper.tree().link(group) {
                keeper.handle_routers(now, link, routers);
            }
        });
    }

    /// The same of routes out of an alias.
    pub(crate) fn set_alias_routers(
        &mut self,
        now: Instant,
        alias: &InterfaceName,
        routers: &[IpAddr],
    ) {
        self.with_keeper(now, |keeper| {
            let aliases = &keeper.tree().aliases;
            if let Some(number) = aliases.iter().position(|a| a.name == *alias) {
                keeper.handle_alias_routers(now, number, routers);
            }
        });
    }

    /// The link of a NIC is another: what follows for others happens before this returns.
    pub(super) fn keep_link(&mut self, now: Instant, nic: usize) {
        let link = self.nics[nic].link;
        self.with_keeper(now, |keeper| keeper.handle_link(now, nic, port_link(link), link.mac));
    }

    /// A data address of a stack came or went.
    pub(super) fn keep_address(&mut self, now: Instant, alias: AliasId, addr: IpAddr, there: bool) {
        let Some(place) = self.alias_place(alias) else { return };
        self.with_keeper(now, |keeper| {
            keeper.handle_alias_address(now, usize::from(alias.0), addr, there);
            if there {
                keeper.address_added(now, place.on, addr, place.mac);
            } else {
                keeper.address_removed(now, place.on, addr, place.mac);
            }
        });
    }

    /// A stack joined a multicast group or left it.
    pub(super) fn keep_membership(
        &mut self,
        now: Instant,
        alias: AliasId,
        group: IpAddr,
        there: bool,
    ) {
        let Some(place) = self.alias_place(alias) else { return };
        self.with_keeper(now, |keeper| {
            if there {
                keeper.membership_added(place.on, group);
            } else {
                keeper.membership_removed(place.on, group);
            }
        });
    }

    /// Takes an interface out, or puts it back. `None`: there are no machines.
    pub(crate) fn set_offline(
        &mut self,
        now: Instant,
        name: &str,
        offline: bool,
    ) -> Result<(), OfflineError> {
        let done = self.with_keeper(now, |keeper| keeper.set_offline(now, name, offline));
        done.unwrap_or_else(|| Err(OfflineError::Unknown(name.to_owned())))
    }

    /// What hooks could not do is a problem that an operator sees.
    pub(crate) fn take_hook_failures(&mut self) {
        let failures = self.keeping.as_ref().map(|k| k.take_failures()).unwrap_or_default();
        for failure in failures {
            self.problem(failure);
        }
    }

    /// Gives the machines what came for them, and their time; returns whether there was something.
    pub(super) fn run_keeping(&mut self, now: Instant) -> bool {
        let due = self.keeping_at().is_some_and(|at| at <= now);
        if !due {
            return false;
        }
        let mut inbox = std::mem::take(&mut self.machines.inbox);
        inbox.retain(|(link, frame)| !self.is_for_station(now, *link, frame));
        self.with_keeper(now, |keeper| {
            for (link, frame) in &inbox {
                keeper.handle_frame(now, *link, frame.data());
            }
            keeper.handle_timeout(now);
        });
        self.run_station(now);
        true
    }

    /// When there is something for the machines to do.
    pub(super) fn keeping_at(&self) -> Option<Instant> {
        let keeping = self.keeping.as_ref()?;
        if !self.machines.inbox.is_empty() {
            return Some(Instant::ZERO);
        }
        keeping.wake_at().into_iter().chain(self.station_at()).min()
    }

    /// The tree of the machines, if there are any.
    pub(super) fn keeping_tree(&self) -> Option<&Tree> {
        self.keeping.as_ref().map(|keeping| keeping.keeper.tree())
    }

    /// Sends and tells what machines have to send and to tell.
    pub(super) fn speak_machines(&mut self, now: Instant) {
        self.with_keeper(now, |_| ());
    }

    /// Calls the machines and does what they say.
    fn with_keeper<R>(&mut self, now: Instant, f: impl FnOnce(&mut Keeper) -> R) -> Option<R> {
        let mut keeping = self.keeping.take()?;
        let result = f(&mut keeping.keeper);
        // First, so that an announcement leaves where the address is.
        if let Some(selection) = keeping.keeper.take_selection() {
            self.publish(now, &selection);
        }
        while let Some((at, frame)) = keeping.keeper.poll_transmit() {
            let link = match at {
                Where::Nic(nic) => nic,
                Where::Link(link) => usize::from(link.0),
            };
            self.send_frame(link, &frame);
        }
        while let Some(what) = keeping.keeper.poll_event() {
            if let Err(problem) = keeping.record(now, what) {
                self.problem(problem);
            }
        }
        while let Some(probe) = keeping.keeper.poll_probe() {
            keeping.record_probe(probe);
        }
        self.keeping = Some(keeping);
        Some(result)
    }
}

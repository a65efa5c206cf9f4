//! A failover group with its probes, as one machine.

use std::net::IpAddr;

use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::{Keeper, OfflineError, Probe};
use crate::events::What;
use crate::fail::{Announcement, Group, MemberInfo};
use crate::probe::{
    ProbeConfig, ProbeEvent, ProbeMember, ProbeNotice, ProbeOutcome, ProbeTarget, ProbeVerdict,
    Prober, TargetState,
};
use crate::tree::Tree;
use crate::{GroupSelection, LinkId, Mac};

/// Usable members that are left when one is taken out.
const REDUNDANCY: usize = 1;

/// What was last told of a member.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    health: Option<(bool, ProbeVerdict)>,
    offline: bool,
    /// Of each family the address that it may ask from.
    bound: [Option<IpAddr>; 2],
}

#[derive(Debug)]
pub(super) struct Failover {
    pub(super) group: Group,
    pub(super) prober: Prober,
    pub(super) members: Vec<LinkId>,
    names: Vec<String>,
    told: Vec<Told>,
}

impl Failover {
    /// The group of that number; `mac` knows the MAC address of each link.
    pub(super) fn new(tree: &Tree, number: usize, mac: impl Fn(LinkId) -> Mac, seed: u64) -> Self {
        let at = &tree.groups[number];
        let config = &at.config;
        let mut rng = Rng::from_u64(seed);
        let (names, infos) = members(tree, number, mac);
        let macs: Vec<Mac> = infos.iter().map(|info| info.mac).collect();
        let probed = ProbeMember::of(config, &macs);
        let probes = ProbeConfig::of(number as u32, config);
        let name = tree.at(at.link).name.to_string();
        Failover {
            group: Group::new(&name, config, &infos),
            prober: Prober::new(&probes, &probed, rng.next_u64()),
            members: at.members.clone(),
            told: vec![Told::default(); names.len()],
            names,
        }
    }

    /// The group is that of another tree from now on; what is known of members that stay goes on.
    /// Before it, [`Failover::farewell`] and the frames of both.
    pub(super) fn update(
        &mut self,
        now: Instant,
        (tree, number): (&Tree, usize),
        mac: impl Fn(LinkId) -> Mac,
    ) {
        let at = &tree.groups[number];
        let (names, infos) = members(tree, number, mac);
        let macs: Vec<Mac> = infos.iter().map(|info| info.mac).collect();
        let from: Vec<Option<usize>> =
            names.iter().map(|name| self.names.iter().position(|n| n == name)).collect();
        let probes = ProbeConfig::of(number as u32, &at.config);
        let probed = ProbeMember::of(&at.config, &macs);
        self.group.update(now, &at.config, &infos);
        self.prober.update(now, &probes, &probed, &from);
        let told = |from: &Option<usize>| from.map(|old| self.told[old]).unwrap_or_default();
        self.told = from.iter().map(told).collect();
        (self.names, self.members) = (names, at.members.clone());
    }

    /// Tells peers of sessions that end with a change to this group, or with all of it (`None`).
    pub(super) fn farewell(&mut self, now: Instant, next: Option<(&Tree, usize)>) {
        let Some((tree, number)) = next else {
            return self.prober.farewell(now, &ProbeConfig::default(), |_| false);
        };
        let at = &tree.groups[number];
        let names = &self.names;
        let stays = |member: usize| at.config.members.contains(&names[member]);
        self.prober.farewell(now, &ProbeConfig::of(number as u32, &at.config), stays);
    }

    pub(super) fn handle_frame(&mut self, now: Instant, member: usize, frame: &[u8]) {
        self.prober.handle_frame(now, member, frame);
    }

    /// The links of all members as they are now, one call for all: what fails together is one event.
    pub(super) fn handle_links(&mut self, now: Instant, up: impl Fn(LinkId) -> bool) {
        for member in 0..self.members.len() {
            let up = up(self.members[member]);
            if self.told[member].health.is_none_or(|(was, _)| was != up) {
                self.prober.handle_link(now, member, up);
            }
            let health = (up, self.prober.verdict(member));
            if self.told[member].health.replace(health) != Some(health) {
                self.group.handle_health(now, member as u16, health.0, health.1);
            }
        }
        while let Some((target, reached)) = self.prober.poll_beyond() {
            self.group.handle_beyond(now, target, reached);
        }
    }

    pub(super) fn handle_mac(&mut self, now: Instant, member: usize, mac: Mac) {
        self.group.handle_mac(now, member as u16, mac);
    }

    pub(super) fn handle_routers(&mut self, now: Instant, routers: &[IpAddr]) {
        self.prober.handle_routers(now, routers);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.prober.handle_timeout(now);
        self.group.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.prober.poll_timeout().into_iter().chain(self.group.poll_timeout()).min()
    }

    pub(super) fn address_added(&mut self, now: Instant, addr: IpAddr, mac: Option<Mac>) {
        // One that is too many is counted by the group, and down in its report.
        let _fits = self.group.address_added(now, addr, mac);
    }

    pub(super) fn address_removed(&mut self, now: Instant, addr: IpAddr, mac: Option<Mac>) {
        self.group.address_removed(now, addr, mac);
    }

    pub(super) fn set_offline(
        &mut self,
        now: Instant,
        member: usize,
        offline: bool,
    ) -> Result<(), OfflineError> {
        if offline {
            self.group.offline(now, member as u16, REDUNDANCY).map_err(OfflineError::Stays)
        } else {
            self.group.undo(now, member as u16).map_err(OfflineError::StaysOut)
        }
    }

    pub(super) fn selection(&self) -> &GroupSelection {
        self.group.selection()
    }

    pub(super) fn is_up(&self) -> bool {
        self.group.is_up()
    }

    pub(super) fn announcements(&mut self) -> Vec<Announcement> {
        self.group.announcements()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        let (member, frame) = self.prober.poll_transmit()?;
        Some((*self.members.get(member)?, frame))
    }

    /// What happened; the prober learns of it what concerns it.
    pub(super) fn poll_event(&mut self, now: Instant) -> Option<What> {
        if let Some(what) = self.group.poll_event() {
            if let What::Interface { interface, state, .. } = &what
                && let Some(member) = self.names.iter().position(|n| n == interface)
            {
                let offline = state == "offline";
                if std::mem::replace(&mut self.told[member].offline, offline) != offline {
                    self.prober.handle_offline(now, member, offline);
                }
            }
            return Some(what);
        }
        let notice = self.prober.poll_notice()?;
        Some(self.notice(&notice))
    }

    fn notice(&self, notice: &ProbeNotice) -> What {
        let name = |member: &usize| self.names.get(*member).cloned();
        let (interface, text) = match notice {
            ProbeNotice::DuplicateTestAddress { member, address } => {
                (name(member), format!("test address {address} is in use elsewhere; not probed"))
            }
            ProbeNotice::TestAddressUnique { member, address } => {
                (name(member), format!("test address {address} is unique; probed again"))
            }
            ProbeNotice::DetectRaised { detect_ms } => {
                (None, format!("targets are slow: failures are noticed within {detect_ms} ms"))
            }
            ProbeNotice::DetectLowered { detect_ms } => {
                (None, format!("failures are noticed within {detect_ms} ms again"))
            }
            ProbeNotice::Target { member, target, state } => {
                let state = match state {
                    None => "forgotten",
                    Some(TargetState::Active) => "probed",
                    Some(TargetState::Unused) => "not needed",
                    Some(TargetState::Slow) => "too slow",
                    Some(TargetState::Dead) => "silent",
                };
                (name(member), format!("target {} is {state}", self.target_name(target)))
            }
            ProbeNotice::Session { member, peer, state, diagnostic } => {
                (name(member), format!("BFD with {peer} is {state:?} ({diagnostic:?})"))
            }
        };
        What::Notice { group: self.group.name().to_owned(), interface, text }
    }

    pub(super) fn name(&self, member: usize) -> String {
        self.names.get(member).cloned().unwrap_or_default()
    }

    pub(super) fn target_name(&self, target: &ProbeTarget) -> String {
        match target {
            ProbeTarget::Address(address) => address.to_string(),
            ProbeTarget::Member(member) => {
                self.names.get(usize::from(*member)).cloned().unwrap_or_default()
            }
        }
    }

    /// A probe that was answered or given up.
    pub(super) fn poll_probe(&mut self) -> Option<Probe> {
        loop {
            let event = self.prober.poll_probe_event()?;
            let Some(member) = self.members.get(event.member) else { continue };
            if event.outcome == ProbeOutcome::Sent {
                continue;
            }
            let target = event.target.map_or_else(|| String::from("all"), |t| self.target_name(&t));
            return Some(probe(*member, &event, target));
        }
    }

    /// Members may ask from the data addresses that are bound to them.
    pub(super) fn tell_bindings(&mut self, now: Instant) {
        if !self.group.take_changed() {
            return;
        }
        let mut bound = vec![[None; 2]; self.members.len()];
        for (addr, member) in &self.group.selection().bindings {
            let Some(of) = bound.get_mut(usize::from(*member)) else { continue };
            let first: &mut Option<IpAddr> = &mut of[usize::from(addr.is_ipv6())];
            *first = Some(first.map_or(*addr, |known| known.min(*addr)));
        }
        for (member, bound) in bound.into_iter().enumerate() {
            if self.told[member].bound == bound {
                continue;
            }
            self.told[member].bound = bound;
            self.prober.handle_bindings(now, member, bound);
        }
    }
}

/// A probe that ended, sent by this link.
pub(super) fn probe(link: LinkId, event: &ProbeEvent, target: String) -> Probe {
    let answered = event.outcome == ProbeOutcome::Acked;
    let us = |ns: Option<u64>| ns.map(|ns| ns / 1000);
    Probe {
        member: link,
        sent: Instant::from_nanos(event.sent_ns),
        sequence: event.number,
        target,
        net_rtt_us: us(event.netrtt_ns.filter(|_| answered)),
        rtt_us: us(event.rtt_ns.filter(|_| answered)),
        rtt_avg_us: us(event.rttavg_ns),
        rtt_dev_us: us(event.rttdev_ns),
    }
}

/// Names and facts of the members of a group.
fn members(
    tree: &Tree,
    number: usize,
    mac: impl Fn(LinkId) -> Mac,
) -> (Vec<String>, Vec<MemberInfo>) {
    let links = &tree.groups[number].members;
    let names: Vec<String> = links.iter().map(|link| tree.at(*link).name.to_string()).collect();
    let info =
        |(link, name): (&LinkId, &String)| MemberInfo { name: name.clone(), mac: mac(*link) };
    let infos = links.iter().zip(&names).map(info).collect();
    (names, infos)
}

impl Keeper {
    pub(super) fn new_failover(&self, number: usize, seed: u64) -> Failover {
        Failover::new(&self.tree, number, |link| self.mac(link), seed)
    }

    /// Tells a group of its members and takes what it has; returns whether it carries frames.
    pub(super) fn run_group(&mut self, now: Instant, number: usize) -> bool {
        let (group, up) = (&mut self.groups[number], &self.up);
        group.handle_links(now, |link| up[usize::from(link.0)]);
        group.tell_bindings(now);
        while let Some((link, frame)) = self.groups[number].poll_transmit() {
            self.send(super::Where::Link(link), frame);
        }
        while let Some(what) = self.groups[number].poll_event(now) {
            self.tell(what);
        }
        while let Some(probe) = self.groups[number].poll_probe() {
            self.keep_probe(probe);
        }
        self.groups[number].is_up()
    }
}

//! An alias that is bound to targets beyond its link: whether they are reached from its own
//! addresses. To listeners it is a failover group of one; the data path takes no notice.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::{Keeper, Where};
use crate::events::What;
use crate::fail::ProbeMode;
use crate::fail::config::{BeyondConfig, FLAPS_MAX};
use crate::fail::damping::Recent;
use crate::paths::{GroupHealth, GroupPath, PathsReport, ProbingPath, TargetMode, TargetPath};
use crate::probe::{FarRow, ProbeConfig, ProbeMember, ProbeOutcome, ProbeTarget, Prober};
use crate::tree::{Alias, Tree};
use crate::{LinkId, Mac};

#[derive(Debug)]
pub(super) struct Outlook {
    /// Name of the alias, and its position.
    name: String,
    alias: usize,
    link: LinkId,
    own: Option<Mac>,
    config: BeyondConfig,
    mac: Mac,
    /// Its only member is the link.
    prober: Prober,
    routers: Vec<IpAddr>,
    lost: Vec<IpAddr>,
    up: bool,
    /// What listeners know.
    failed: bool,
    /// They heard once that it works.
    worked: bool,
    /// When they heard that it works again.
    repairs: Recent,
    /// It works again, and they are not to hear that before.
    damped: Option<Instant>,
}

fn probes(config: &BeyondConfig) -> ProbeConfig {
    ProbeConfig {
        method: ProbeMode::Link,
        detect: config.detect,
        beyond: config.targets.clone(),
        ..ProbeConfig::default()
    }
}

fn member(mac: Mac) -> [ProbeMember; 1] {
    [ProbeMember { mac, test: Vec::new() }]
}

/// How many bits two addresses have in common from the first one on.
fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => 0,
    }
}

impl Outlook {
    fn new((number, alias): (usize, &Alias), mac: Mac, seed: u64) -> Outlook {
        Outlook {
            name: alias.name.to_string(),
            alias: number,
            link: alias.link,
            own: alias.mac,
            config: alias.beyond.clone(),
            mac,
            prober: Prober::new(&probes(&alias.beyond), &member(mac), seed),
            routers: Vec::new(),
            lost: Vec::new(),
            up: false,
            failed: true,
            worked: false,
            repairs: Recent::default(),
            damped: None,
        }
    }

    /// The alias is as another tree has it from now on.
    fn update(&mut self, now: Instant, (number, alias): (usize, &Alias), mac: Mac) {
        (self.alias, self.link, self.own) = (number, alias.link, alias.mac);
        self.config = alias.beyond.clone();
        self.lost.retain(|target| alias.beyond.targets.contains(target));
        self.set_mac(now, mac, true);
    }

    fn set_mac(&mut self, now: Instant, mac: Mac, anyway: bool) {
        if anyway || mac != self.mac {
            self.mac = mac;
            self.prober.update(now, &probes(&self.config), &member(mac), &[Some(0)]);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.prober.poll_timeout().into_iter().chain(self.damped).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.prober.handle_timeout(now);
    }

    /// The address to ask from: that which is nearest to the router.
    fn source(&self, addresses: &[IpAddr], v6: bool) -> Option<IpAddr> {
        let router = self.routers.iter().find(|r| r.is_ipv6() == v6);
        let usable = |a: &&IpAddr| match a {
            IpAddr::V4(v4) => !v6 && !v4.is_link_local(),
            IpAddr::V6(ip) => v6 && !ip.is_unicast_link_local(),
        };
        let near = |a: &&IpAddr| {
            let bits = router.map_or(0, |r| common_bits(**a, *r));
            (std::cmp::Reverse(bits), **a)
        };
        addresses.iter().filter(usable).min_by_key(near).copied()
    }

    /// Its link and its addresses as they are now.
    fn stand(&mut self, now: Instant, up: bool, addresses: &[IpAddr]) {
        if self.up != up {
            self.up = up;
            self.prober.handle_link(now, 0, up);
        }
        let sources = [false, true].map(|v6| self.source(addresses, v6));
        self.prober.handle_bindings(now, 0, sources);
    }

    /// Until when it is not said that it works again, because that was said too often in a minute.
    /// Frames go on all the while, so that there is nothing to be lost by it.
    fn withheld_until(&self, now: Instant, failed: bool) -> Option<Instant> {
        let again = self.failed && !failed && self.worked;
        let until = again.then(|| self.repairs.too_many_until(FLAPS_MAX, 1)).flatten();
        until.filter(|until| now < *until)
    }

    /// What became of targets, and of the alias.
    fn take_events(&mut self, now: Instant) -> Vec<What> {
        let mut events = Vec::new();
        while let Some((target, reached)) = self.prober.poll_beyond() {
            self.lost.retain(|lost| *lost != target);
            if !reached {
                self.lost.push(target);
            }
            let how = if reached { "reached" } else { "not reached any more" };
            let text = format!("{target} beyond the link is {how}");
            events.push(What::Notice { group: self.name.clone(), interface: None, text });
        }
        let failed = !self.up || self.lost.len() == self.config.targets.len();
        let until = self.withheld_until(now, failed);
        let before = std::mem::replace(&mut self.damped, until);
        if self.damped.is_some() {
            if before.is_none() {
                let text = format!(
                    "it came back more than {FLAPS_MAX} times in a minute; it is ok again when it is stable"
                );
                events.push(What::Notice { group: self.name.clone(), interface: None, text });
            }
        } else if self.failed != failed {
            self.failed = failed;
            if !failed && std::mem::replace(&mut self.worked, true) {
                self.repairs.push(now, FLAPS_MAX);
            }
            let (group, signature) = (self.name.clone(), self.sign());
            let state = if failed { "failed" } else { "ok" };
            events.push(What::Group { group, signature, state: state.to_owned() });
        }
        events
    }

    fn sign(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(self.name.as_bytes());
        hasher.write_u8(u8::from(self.failed));
        hasher.finish()
    }

    fn group_path(&self, tree: &Tree) -> GroupPath {
        let link = vec![tree.at(self.link).name.to_string()];
        let (active, unusable) = if self.up { (link, Vec::new()) } else { (Vec::new(), link) };
        GroupPath {
            group: self.name.clone(),
            group_name: self.name.clone(),
            state: if self.failed { GroupHealth::Failed } else { GroupHealth::Ok },
            detection_ms: Some(self.prober.detect().as_millis() as u64),
            active,
            inactive: Vec::new(),
            unusable,
            signature: self.sign(),
            beyond_lost: self.lost.clone(),
        }
    }
}

/// A target beyond the link, as `weft paths -t` has it.
pub(super) fn target_path(interface: &str, row: &FarRow) -> TargetPath {
    let target = vec![row.target.to_string()];
    let (targets, lost) = if row.lost { (Vec::new(), target) } else { (target, Vec::new()) };
    let asked = row.source.filter(|_| row.gateway.is_some());
    TargetPath {
        interface: interface.to_owned(),
        // Without an address or a router nobody is asked.
        mode: if asked.is_some() || row.lost { TargetMode::Beyond } else { TargetMode::Disabled },
        test_address: row.source.map(|a| a.to_string()),
        targets,
        lost,
    }
}

impl Keeper {
    /// A stack has the address on an alias, by its position in the tree, or not any more.
    pub fn handle_alias_address(&mut self, now: Instant, alias: usize, addr: IpAddr, there: bool) {
        let count = self.of_aliases.entry((alias, addr)).or_default();
        *count = if there { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.of_aliases.remove(&(alias, addr));
        }
        if self.outlooks.iter().any(|o| o.alias == alias) {
            self.run(now);
        }
    }

    /// Routers of routes out of an alias, by its position in the tree: the way to what it is bound
    /// to.
    pub fn handle_alias_routers(&mut self, now: Instant, alias: usize, routers: &[IpAddr]) {
        let Some(outlook) = self.outlooks.iter_mut().find(|o| o.alias == alias) else { return };
        outlook.routers = routers.to_vec();
        outlook.prober.handle_routers(now, routers);
        self.run(now);
    }

    /// Those of the tree; what is known of aliases that stay goes on.
    pub(super) fn update_outlooks(&mut self, now: Instant, rng: &mut Rng) {
        let mut before = std::mem::take(&mut self.outlooks);
        for number in 0..self.tree.aliases.len() {
            let alias = &self.tree.aliases[number];
            if alias.beyond.targets.is_empty() {
                continue;
            }
            let name = alias.name.to_string();
            let mac = alias.mac.unwrap_or_else(|| self.mac(alias.link));
            let outlook = match before.iter().position(|o| o.name == name) {
                Some(at) => {
                    let mut known = before.swap_remove(at);
                    known.update(now, (number, alias), mac);
                    known
                }
                None => Outlook::new((number, alias), mac, rng.next_u64()),
            };
            self.outlooks.push(outlook);
        }
    }

    /// Gives a frame to those who may have asked for it; false if there is nobody.
    pub(super) fn hear_outlooks(&mut self, now: Instant, link: LinkId, frame: &[u8]) -> bool {
        let mut heard = false;
        for outlook in &mut self.outlooks {
            // What came by a member of a group may be for an alias on the group.
            if self.tree.path(outlook.link).iter().any(|(_, below)| *below == link) {
                outlook.prober.handle_frame(now, 0, frame);
                heard = true;
            }
        }
        heard
    }

    /// Tells them of their links and addresses, and takes what they have.
    pub(super) fn run_outlooks(&mut self, now: Instant) {
        for at in 0..self.outlooks.len() {
            let (link, alias) = (self.outlooks[at].link, self.outlooks[at].alias);
            let (up, mac) = (self.is_up(link), self.mac(link));
            let from = (alias, IpAddr::from([0_u8; 4]));
            let own = self.of_aliases.range(from..).take_while(|((of, _), _)| *of == alias);
            let addresses: Vec<IpAddr> = own.map(|((_, addr), _)| *addr).collect();
            let outlook = &mut self.outlooks[at];
            outlook.set_mac(now, outlook.own.unwrap_or(mac), false);
            outlook.stand(now, up, &addresses);
            let events = outlook.take_events(now);
            while let Some((_, frame)) = self.outlooks[at].prober.poll_transmit() {
                self.send(Where::Link(link), frame);
            }
            while let Some(event) = self.outlooks[at].prober.poll_probe_event() {
                let ended = event.outcome != ProbeOutcome::Sent;
                let Some(ProbeTarget::Address(target)) = event.target.filter(|_| ended) else {
                    continue;
                };
                self.keep_probe(super::failover::probe(link, &event, target.to_string()));
            }
            for what in events {
                self.tell(what);
            }
        }
    }

    /// Adds lines of them, as of failover groups.
    pub(super) fn outlook_paths(&self, now: Instant, paths: &mut PathsReport) {
        for outlook in &self.outlooks {
            let report = outlook.prober.report(now);
            paths.groups.push(outlook.group_path(&self.tree));
            paths.targets.extend(report.beyond.iter().map(|row| target_path(&outlook.name, row)));
            let (group, probes) = (outlook.name.clone(), report.counters);
            paths.probing.push(ProbingPath { group, probes, ..ProbingPath::default() });
        }
    }
}

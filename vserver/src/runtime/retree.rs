//! Another tree of interfaces under a running worker: the data path, the demultiplexer, steering and
//! stacks follow in one go, while all workers stand still.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use weft_interface::doctor::Station;
use weft_interface::fail::ProbeMode;
use weft_interface::keeper::Standing;
use weft_interface::plane::{ETHERTYPE_PROBE, ETHERTYPE_SLOW};
use weft_interface::tree::{Link, LinkKind};
use weft_interface::{Layout, LinkId, LinkSpec, Mac, Plane, Selection, Tree};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::stack::Change;
use weft_stack::time::Instant;

use super::above::{self, Above};
use super::examining::show_home;
use super::handover::MAIL;
use super::keeping::Keeping;
use super::mesh::RING;
use super::{AliasPlace, Core, Nic};
use crate::qos::Plan;

/// What a NIC is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Want {
    /// Frames for an address or group.
    Address(IpAddr),
    /// Frames for a MAC address that is not its own.
    Mac(Mac),
    /// Frames of a protocol of the link.
    Protocol(u16),
}

/// Links of another tree, made before anything is changed.
pub(crate) struct Retree {
    pub(crate) tree: Tree,
    /// The last link is nothing: for aliases whose link is gone.
    pub(crate) layout: Layout,
    /// By link of before.
    to: Vec<Option<LinkId>>,
    /// By alias.
    pub(crate) places: Vec<AliasPlace>,
    /// What stacks are told of each alias.
    pub(crate) aliases: Vec<AliasConfig>,
    /// By alias: it stands on another link or has another MAC address.
    elsewhere: Vec<bool>,
}

/// The links of a layout as worker 0 will have them.
pub(crate) struct LinksView<'a> {
    pub(crate) plane: &'a Plane,
    pub(crate) links: &'a [Above],
    pub(crate) nics: &'a [Nic],
}

fn mac_of(alias: &AliasConfig) -> Option<Mac> {
    match alias.medium {
        AliasMedium::Ethernet { mac } => Some(mac),
        AliasMedium::Ip => None,
    }
}

impl LinksView<'_> {
    /// That of a worker as it is.
    pub(crate) fn of(core: &Core) -> LinksView<'_> {
        LinksView { plane: &core.plane, links: &core.links, nics: &core.nics }
    }
}

impl Retree {
    /// Of a worker that has `before`, on which aliases stand as `aliases` say. `config` gives what
    /// stacks are to be told of an alias on a link.
    pub(crate) fn new<E>(
        core: &Core,
        (before, next): (&Tree, &Tree),
        aliases: &[AliasConfig],
        config: impl Fn(usize, AliasPlace, &LinksView<'_>) -> Result<AliasConfig, E>,
    ) -> Result<Retree, E> {
        let to = before.successors(next);
        let macs: Vec<_> =
            core.nics.iter().map(|nic| nic.link.mac.filter(|_| nic.ethernet)).collect();
        let mut layout = Layout::new(next, &macs);
        layout.keep_macs(&core.layout, &to);
        layout.links.push(LinkSpec::Nothing);
        let nothing = LinkId(next.links.len() as u16);
        let plane = Plane::new(&layout);
        let links = above::links(&plane, &core.nics);
        let view = LinksView { plane: &plane, links: &links, nics: &core.nics };
        let (mut places, mut made, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (old, told)) in core.aliases.iter().zip(aliases).enumerate() {
            let stays = to.get(old.link()).copied().flatten();
            let place = match next.aliases.get(number) {
                Some(a) => AliasPlace { on: a.link, mtu: a.mtu, mac: a.mac },
                // It goes away soon.
                None => AliasPlace { on: stays.unwrap_or(nothing), ..*old },
            };
            let alias = if place.on == nothing {
                AliasConfig { up: false, ..told.clone() }
            } else {
                config(number, place, &view)?
            };
            elsewhere.push(stays != Some(place.on) || mac_of(&alias) != mac_of(told));
            places.push(place);
            made.push(alias);
        }
        Ok(Retree { tree: next.clone(), layout, to, places, aliases: made, elsewhere })
    }

    /// By alias: the link that has its rates, that below a tag.
    pub(crate) fn lanes(&self) -> Vec<usize> {
        let base = |place: &AliasPlace| {
            let mut at = place.on;
            while let Some(Link { kind: LinkKind::Vlan { over, .. }, .. }) =
                self.tree.links.get(usize::from(at.0))
            {
                at = *over;
            }
            usize::from(at.0)
        };
        self.places.iter().map(base).collect()
    }

    fn is_nothing(&self, link: LinkId) -> bool {
        usize::from(link.0) >= self.tree.links.len()
    }
}

/// Puts all workers of a host, which stand still, on another tree. `cores` are in order; `plan` are
/// the rates by the new links, if there are any; `seed` is random, `station` makes what speaks LLDP.
pub(crate) fn retree(
    cores: &mut [&mut Core],
    now: Instant,
    next: &Retree,
    (plan, seed): (Option<&Plan>, u64),
    station: impl FnOnce(&Tree, &[Mac]) -> Station,
) {
    empty_mail(cores, now);
    let before = cores[0].wants(cores[0].keeping_tree());
    let selection = cores[0].retree_machines(now, next, seed, station);
    for core in cores.iter_mut().rev() {
        let _inside = core.enter();
        core.retree(now, next, &selection);
        if let Some(plan) = plan {
            core.set_qos(now, plan);
        }
        core.mesh.ring();
    }
    show_home(cores);
    let home = &mut *cores[0];
    let _inside = home.enter();
    let after = home.wants(Some(&next.tree));
    home.change_wants(before, after);
    home.speak_machines(now);
}

/// Messages between workers name links: none is on its way when these change.
fn empty_mail(cores: &mut [&mut Core], now: Instant) {
    // What is taken gives rise to no more messages; the rest is for what found a ring full.
    for _ in 0..4 * RING / MAIL {
        let mut waits = false;
        for core in cores.iter_mut() {
            let _inside = core.enter();
            core.mesh.ring();
            waits |= core.take_mail(now) || core.mesh.has_later();
        }
        if !waits {
            return;
        }
    }
}

impl Core {
    /// Machines of another tree, and what they say may be used.
    fn retree_machines(
        &mut self,
        now: Instant,
        next: &Retree,
        seed: u64,
        station: impl FnOnce(&Tree, &[Mac]) -> Station,
    ) -> Arc<Selection> {
        let tree = &next.tree;
        if self.keeping.is_none() && !tree.has_machines() {
            let up = |nic: usize| self.nics[nic].link.up;
            return Arc::new(next.layout.selection(up));
        }
        let standing = self.standing(next);
        if let Some(keeping) = &mut self.keeping {
            return keeping.update(now, tree, seed, &standing);
        }
        let macs: Vec<_> = self.nics.iter().map(|nic| nic.link.mac.unwrap_or_default()).collect();
        let mut keeping = Keeping::new(tree, &macs, seed);
        keeping.handle_links(now, self.nics.iter().map(|nic| nic.link));
        let selection = keeping.update(now, tree, seed, &standing);
        self.keeping = Some(Box::new(keeping));
        self.machines.decide = true;
        self.set_station(now, station(tree, &macs));
        selection
    }

    /// What stacks have on the links of a tree.
    fn standing(&self, next: &Retree) -> Standing {
        let place = |alias: &AliasId| next.places.get(usize::from(alias.0)).copied();
        let place = |alias: &AliasId| place(alias).filter(|p| !next.is_nothing(p.on));
        let mut standing = Standing::default();
        for node in &self.nodes {
            let addresses = node.addresses.iter();
            let addresses = addresses.filter_map(|(on, addr)| Some((place(on)?, *addr)));
            standing.addresses.extend(addresses.map(|(on, addr)| (on.on, addr, on.mac)));
            let of_aliases = node.addresses.iter().filter(|(on, _)| place(on).is_some());
            let of_aliases = of_aliases.map(|(on, addr)| (usize::from(on.0), *addr));
            standing.of_aliases.extend(of_aliases);
            let groups = node.groups.iter();
            let groups = groups.filter_map(|(on, group)| Some((place(on)?.on, *group)));
            standing.memberships.extend(groups);
        }
        standing
    }

    /// The part of one worker.
    fn retree(&mut self, now: Instant, next: &Retree, selection: &Arc<Selection>) {
        let told: Vec<(bool, usize)> =
            self.aliases.iter().map(|place| self.state_of(*place)).collect();
        let mut plane = Plane::new(&next.layout);
        plane.succeed(std::mem::take(&mut self.plane), &next.to);
        self.plane = plane;
        self.layout = next.layout.clone();
        self.aliases.clone_from(&next.places);
        for place in &next.places {
            if let Some(mac) = place.mac {
                self.plane.add_mac(place.on, mac);
            }
        }
        self.show_probers(&next.tree);
        self.plane.select(selection);
        self.links = above::links(&self.plane, &self.nics);
        self.machines.inbox.retain_mut(|(link, _)| {
            let new = next.to.get(usize::from(link.0)).copied().flatten();
            *link = new.unwrap_or(*link);
            new.is_some()
        });
        let stand = next.places.iter().zip(&next.aliases);
        self.demux.set_links(self.links.len(), stand.map(|(p, a)| (p.link(), a.id, mac_of(a))));
        for index in 0..self.nodes.len() as u32 {
            self.set_links(index);
            // What it waited for may be below it no more.
            self.nodes[index as usize].blocked = false;
            self.mark_dirty(index);
        }
        for (alias, told) in told.into_iter().enumerate() {
            self.retree_alias(now, alias, next, told);
        }
    }

    /// Whether an alias has a link, and its MTU.
    fn state_of(&self, place: AliasPlace) -> (bool, usize) {
        let link = &self.links[place.link()];
        (link.up, place.mtu.unwrap_or(link.mtu).min(link.mtu))
    }

    /// Tells stacks of an alias whose link is another, or is in another state than they know.
    fn retree_alias(&mut self, now: Instant, alias: usize, next: &Retree, told: (bool, usize)) {
        let config = &next.aliases[alias];
        let (up, mtu) = self.state_of(next.places[alias]);
        for index in self.demux.attached(config.id) {
            let node = &mut self.nodes[index as usize];
            let Some((known, _)) = node.stack.aliases().find(|(a, _)| a.id == config.id) else {
                continue;
            };
            let same = (known.gso_bytes_max, known.tx_checksum, known.rx_checksum_trust)
                == (config.gso_bytes_max, config.tx_checksum, config.rx_checksum_trust);
            if next.elsewhere[alias] || !same {
                let elsewhere = next.elsewhere[alias];
                let said = node.mtus.iter().find(|m| m.0 == config.id).map_or(usize::MAX, |m| m.1);
                let config = AliasConfig { up, mtu: mtu.min(said), ..config.clone() };
                // It is attached, and its medium was looked at.
                let _ = node.stack.handle_config(now, Change::AliasMove { config, elsewhere });
                self.mark_dirty(index);
            } else if told != (up, mtu) {
                self.tell_link(now, index, config.id, up, mtu);
            }
        }
    }

    /// Everything that the tree and the stacks on it want of NICs, as often as it is wanted; on
    /// worker 0, which speaks for all. `tree`: that of the machines, if there are any.
    fn wants(&self, tree: Option<&Tree>) -> Vec<(usize, Want)> {
        let mut wants = Vec::new();
        let mut want = |link: usize, what: Want| {
            wants.extend(self.links[link].nics.iter().map(|nic| (*nic, what)));
        };
        for node in &self.nodes {
            let packets = node.addresses.iter().chain(&node.broadcasts);
            for (alias, addr) in packets.chain(&node.probed).chain(&node.groups) {
                want(self.aliases[usize::from(alias.0)].link(), Want::Address(*addr));
            }
        }
        for place in &self.aliases {
            if let Some(mac) = place.mac {
                want(place.link(), Want::Mac(mac));
            }
        }
        for (link, addr) in tree.into_iter().flat_map(prober_addresses) {
            want(usize::from(link.0), Want::Address(addr));
        }
        for spec in &self.layout.links {
            match spec {
                LinkSpec::Bond { ports, config, .. } => {
                    let mac = config.mac.or_else(|| self.layout.mac(*ports.first()?));
                    for port in ports {
                        want(usize::from(port.0), Want::Protocol(ETHERTYPE_SLOW));
                        if let Some(mac) = mac {
                            want(usize::from(port.0), Want::Mac(mac));
                        }
                    }
                }
                LinkSpec::Group { members, .. } => {
                    for member in members {
                        want(usize::from(member.0), Want::Protocol(ETHERTYPE_PROBE));
                    }
                }
                LinkSpec::Nic(_) | LinkSpec::Vlan { .. } | LinkSpec::Nothing => {}
            }
        }
        wants
    }

    /// New wants first: nothing that both have is unwanted for a moment.
    fn change_wants(&mut self, before: Vec<(usize, Want)>, after: Vec<(usize, Want)>) {
        let mut counts: HashMap<(usize, Want), i64> = HashMap::new();
        let is_protocol = |want: &(usize, Want)| matches!(want.1, Want::Protocol(_));
        // Asking for a protocol twice is asking once.
        let once = |all: &[(usize, Want)]| -> HashSet<(usize, Want)> {
            all.iter().copied().filter(is_protocol).collect()
        };
        let (had, has) = (once(&before), once(&after));
        for want in after.into_iter().filter(|w| !is_protocol(w)).chain(has) {
            *counts.entry(want).or_default() += 1;
        }
        for want in before.into_iter().filter(|w| !is_protocol(w)).chain(had) {
            *counts.entry(want).or_default() -= 1;
        }
        let (come, go): (Vec<_>, Vec<_>) =
            counts.into_iter().filter(|(_, n)| *n != 0).partition(|(_, n)| *n > 0);
        for ((nic, want), times) in come.into_iter().chain(go) {
            for _ in 0..times.abs() {
                self.change_want(nic, want, times > 0);
            }
        }
    }

    fn change_want(&mut self, nic: usize, want: Want, wanted: bool) {
        match want {
            Want::Address(addr) => self.steer_nic(nic, addr, wanted),
            Want::Mac(mac) => self.want_mac(nic, mac, wanted),
            Want::Protocol(ethertype) => self.want_protocol(nic, ethertype, wanted),
        }
    }

    /// What the data path gives to probers.
    pub(super) fn show_probers(&mut self, tree: &Tree) {
        for group in &tree.groups {
            if asks_without_address(group) {
                self.plane.listen(group.link);
            }
            self.plane.listen_beyond(group.link, &group.config.beyond);
        }
        for alias in tree.aliases.iter().filter(|a| !a.beyond.targets.is_empty()) {
            self.plane.listen_for_alias(alias.link, &alias.beyond.targets);
        }
        self.plane.set_test_addresses(test_addresses(tree));
    }
}

fn asks_without_address(group: &weft_interface::tree::Group) -> bool {
    matches!(group.config.probe, ProbeMode::Arp | ProbeMode::Transitive)
}

/// Test addresses with their members.
fn test_addresses(tree: &Tree) -> Vec<(LinkId, IpAddr)> {
    let mut tests = Vec::new();
    for group in &tree.groups {
        for (name, cidr) in &group.config.test {
            let member = group.config.members.iter().position(|m| m == name);
            tests.extend(member.map(|at| (group.members[at], cidr.addr)));
        }
    }
    tests
}

/// Addresses whose frames the probers of a tree have to hear, and on which links.
pub(super) fn prober_addresses(tree: &Tree) -> Vec<(LinkId, IpAddr)> {
    let mut out = Vec::new();
    for group in tree.groups.iter().filter(|g| asks_without_address(g)) {
        // A member without an address asks with none, and is answered so.
        out.extend(group.members.iter().map(|m| (*m, Ipv4Addr::UNSPECIFIED.into())));
    }
    for (link, addr) in test_addresses(tree) {
        out.push((link, addr));
        if let IpAddr::V6(addr) = addr {
            let [.., a, b, c] = addr.octets();
            let (high, low) = (0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            // RFC 4291 2.7.1: whoever asks for it asks this group.
            out.push((link, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low).into()));
        }
    }
    out
}

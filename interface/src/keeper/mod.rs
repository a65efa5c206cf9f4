//! Runs all machines of a host: bonds, failover groups with their probes, and what follows of one
//! for the other.
//!
//! State flows upwards: the link of a NIC changes a bond, a bond the VLANs on it, those a group. A
//! link stands after what it stands on in the [`Tree`], so one pass over the links in order sees
//! every consequence. Frames flow downwards: what a machine has to send it gives at the place where
//! it stands ([`Where`]), and the data path adds tags and chooses ports below.
//!
//! Everything is driven by calls with the time as argument; after any of them look at
//! [`Keeper::take_selection`], [`Keeper::poll_transmit`], [`Keeper::poll_event`] and
//! [`Keeper::poll_timeout`]. The selection first: an announcement must not find the data path of
//! before the move.

mod above;
mod change;
mod failover;
mod offline;
mod outlook;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_stack::time::{Duration, Instant};

use crate::bond::{Bond, BondEvent, PortLink, SavedBond};
use crate::events::What;
use crate::tree::{LinkKind, Owner, Tree};
use crate::{LinkId, Mac, Selection};
use failover::Failover;
use outlook::Outlook;

pub use change::Standing;
pub use offline::OfflineError;

/// LACP and markers (IEEE 802.3 annex 57A).
const ETHERTYPE_SLOW: u16 = 0x8809;
/// Frames that wait to be sent; more are lost, and counted.
const TRANSMIT_MAX: usize = 4096;
/// Events that nobody took; more are lost, and counted.
const EVENTS_MAX: usize = 4096;
/// Probes that ended and that nobody took; more are lost, and counted.
const PROBES_MAX: usize = 1024;

/// Where a frame enters the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// As it is on this NIC.
    Nic(usize),
    /// On a link: tags are added and a port is chosen below it.
    Link(LinkId),
}

/// What a host keeps over a restart of its process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Bonds by name.
    pub bonds: BTreeMap<String, SavedBond>,
}

/// All machines of a host.
#[derive(Debug)]
pub struct Keeper {
    tree: Tree,
    /// By NIC.
    links: Vec<PortLink>,
    macs: Vec<Mac>,
    bonds: Vec<Bond>,
    groups: Vec<Failover>,
    /// Aliases that are bound to targets beyond their links.
    outlooks: Vec<Outlook>,
    /// Addresses of aliases, by position, and how often each is there.
    of_aliases: BTreeMap<(usize, IpAddr), usize>,
    /// By link: whether it carries frames.
    up: Vec<bool>,
    /// Data addresses of stacks, with the MAC address of their alias if it has one of its own, and how
    /// often each is there.
    addresses: BTreeMap<(LinkId, IpAddr, Option<Mac>), usize>,
    /// Multicast groups that stacks are in, on failover groups.
    memberships: BTreeMap<(LinkId, IpAddr), usize>,
    selection: Arc<Selection>,
    fresh: bool,
    transmit: VecDeque<(Where, Vec<u8>)>,
    events: VecDeque<What>,
    probes: VecDeque<Probe>,
    lost: Lost,
}

/// A probe that ended; see [`crate::paths::ProbeLine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The member.
    pub member: LinkId,
    /// When it was sent.
    pub sent: Instant,
    /// Its sequence number.
    pub sequence: u16,
    /// Whom it was sent to.
    pub target: String,
    /// Round trip on the wire in microseconds; `None`: lost.
    pub net_rtt_us: Option<u64>,
    /// Round trip until the prober had the answer; `None`: lost.
    pub rtt_us: Option<u64>,
    /// Smoothed round trip of the target.
    pub rtt_avg_us: Option<u64>,
    /// Its smoothed deviation.
    pub rtt_dev_us: Option<u64>,
}

/// What was not taken in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Frames to send.
    pub frames: u64,
    /// Control frames of links that no machine runs on.
    pub stray: u64,
    /// Events.
    pub events: u64,
    /// Probes that ended.
    pub probes: u64,
}

impl Keeper {
    /// The machines of a tree whose NICs have these MAC addresses. No NIC has a link yet. `seed` is
    /// random.
    ///
    /// # Panics
    ///
    /// If there are not as many MAC addresses as NICs.
    pub fn new(tree: &Tree, macs: &[Mac], seed: u64) -> Keeper {
        assert_eq!(macs.len(), tree.nics, "every NIC has a MAC address");
        let mut rng = weft_stack::rng::Rng::from_u64(seed);
        let bonds = tree.bonds.iter().map(|bond| {
            let macs: Vec<Mac> = bond.ports.iter().map(|p| macs[usize::from(p.0)]).collect();
            Bond::new(&bond.config, &macs, rng.next_u64())
        });
        let mut keeper = Keeper {
            links: vec![PortLink::DOWN; tree.nics],
            macs: macs.to_vec(),
            bonds: bonds.collect(),
            groups: Vec::new(),
            outlooks: Vec::new(),
            of_aliases: BTreeMap::new(),
            up: vec![false; tree.links.len()],
            addresses: BTreeMap::new(),
            memberships: BTreeMap::new(),
            selection: Arc::default(),
            fresh: false,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            probes: VecDeque::new(),
            lost: Lost::default(),
            tree: tree.clone(),
        };
        for number in 0..tree.groups.len() {
            let group = keeper.new_failover(number, rng.next_u64());
            keeper.groups.push(group);
        }
        keeper.update_outlooks(Instant::ZERO, &mut rng);
        keeper.select();
        keeper
    }

    /// What it was made from.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The link of a NIC changed, or is told again; `mac` if it has another address now.
    pub fn handle_link(&mut self, now: Instant, nic: usize, link: PortLink, mac: Option<Mac>) {
        self.handle_links(now, [(nic, link, mac)]);
    }

    /// The links of several NICs as they are at one moment, for [`Keeper::handle_link`]: conclusions
    /// are drawn when all of them are known.
    pub fn handle_links(
        &mut self,
        now: Instant,
        links: impl IntoIterator<Item = (usize, PortLink, Option<Mac>)>,
    ) {
        let mut moved = false;
        for (nic, link, mac) in links {
            let Some(known) = self.links.get_mut(nic) else { continue };
            *known = link;
            if let Some(mac) = mac.filter(|mac| self.macs[nic] != *mac) {
                self.macs[nic] = mac;
                moved = true;
            }
            if let Some((bond, port)) = self.port_of(nic) {
                self.bonds[bond].handle_link(now, port, link);
            }
        }
        if moved {
            self.tell_macs(now);
        }
        self.run(now);
    }

    /// A control frame came in on a link, from its destination address on, its tags taken off: of
    /// slow protocols that of a NIC, of probes that of a member.
    pub fn handle_frame(&mut self, now: Instant, link: LinkId, frame: &[u8]) {
        let slow = frame.get(12..14) == Some(&ETHERTYPE_SLOW.to_be_bytes()[..]);
        if slow && let Some((bond, port)) = self.port_of(usize::from(link.0)) {
            self.bonds[bond].handle_frame(now, port, frame);
        } else {
            let heard = self.hear_outlooks(now, link, frame);
            if let Some((group, member)) = self.member_of(link) {
                self.groups[group].handle_frame(now, member, frame);
            } else if !heard {
                self.lost.stray += 1;
                return;
            }
        }
        self.run(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for bond in &mut self.bonds {
            if bond.poll_timeout().is_some_and(|at| at <= now) {
                bond.handle_timeout(now);
            }
        }
        for group in &mut self.groups {
            if group.poll_timeout().is_some_and(|at| at <= now) {
                group.handle_timeout(now);
            }
        }
        for outlook in &mut self.outlooks {
            if outlook.poll_timeout().is_some_and(|at| at <= now) {
                outlook.handle_timeout(now);
            }
        }
        self.run(now);
    }

    /// When [`Keeper::handle_timeout`] has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let bonds = self.bonds.iter().filter_map(Bond::poll_timeout);
        let groups = self.groups.iter().filter_map(Failover::poll_timeout);
        let outlooks = self.outlooks.iter().filter_map(Outlook::poll_timeout);
        bonds.chain(groups).chain(outlooks).min()
    }

    /// A frame to send, and where.
    pub fn poll_transmit(&mut self) -> Option<(Where, Vec<u8>)> {
        self.transmit.pop_front()
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<What> {
        self.events.pop_front()
    }

    /// A probe that ended.
    pub fn poll_probe(&mut self) -> Option<Probe> {
        self.probes.pop_front()
    }

    /// What may be used, if that changed since this was last asked.
    pub fn take_selection(&mut self) -> Option<Arc<Selection>> {
        std::mem::take(&mut self.fresh).then(|| Arc::clone(&self.selection))
    }

    /// What may be used.
    pub fn selection(&self) -> &Arc<Selection> {
        &self.selection
    }

    /// Whether a link carries frames.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.up.get(usize::from(link.0)).copied().unwrap_or(false)
    }

    /// The MAC address that a link shows to what stands on it: that of the NIC, the bond, or of the
    /// first member of a group.
    pub fn mac(&self, link: LinkId) -> Mac {
        match self.tree.at(link).kind {
            LinkKind::Nic(nic) => self.macs[nic],
            LinkKind::Vlan { over, .. } => self.mac(over),
            LinkKind::Bond(bond) => self.bonds[bond].mac(),
            LinkKind::Group(group) => self.groups.get(group).map_or([0; 6], |g| g.group.mac()),
        }
    }

    /// What to keep over a restart.
    pub fn save(&self, now: Instant) -> Saved {
        let named = self.tree.bonds.iter().zip(&self.bonds);
        let record = |(at, bond): (&crate::tree::Bond, &Bond)| {
            (self.tree.at(at.link).name.to_string(), bond.save(now))
        };
        Saved { bonds: named.map(record).collect() }
    }

    /// Goes on from a record that was written `away` ago. Call it before the first link is told.
    pub fn restore(&mut self, now: Instant, saved: &Saved, away: Duration) {
        for (at, bond) in self.tree.bonds.iter().zip(&mut self.bonds) {
            if let Some(record) =
                saved.bonds.get(&self.tree.links[usize::from(at.link.0)].name.to_string())
            {
                bond.restore(now, record, away);
            }
        }
        self.run(now);
    }

    /// Routers of the routes of whoever stands on a failover group: whom its members probe if nobody
    /// is configured.
    pub fn handle_routers(&mut self, now: Instant, link: LinkId, routers: &[IpAddr]) {
        if let Some(group) = self.group_below(link) {
            self.groups[group].handle_routers(now, routers);
            self.run(now);
        }
    }

    fn tell_macs(&mut self, now: Instant) {
        for group in 0..self.groups.len() {
            for member in 0..self.tree.groups[group].members.len() {
                let mac = self.mac(self.tree.groups[group].members[member]);
                self.groups[group].handle_mac(now, member, mac);
            }
        }
    }

    /// The bond that a NIC is a port of, and which.
    fn port_of(&self, nic: usize) -> Option<(usize, usize)> {
        let Some(Owner::Bond(bond)) = self.tree.links.get(nic)?.above else { return None };
        let ports = &self.tree.bonds[bond].ports;
        Some((bond, ports.iter().position(|p| usize::from(p.0) == nic)?))
    }

    /// The group that a link is a member of, and which.
    fn member_of(&self, link: LinkId) -> Option<(usize, usize)> {
        let Some(Owner::Group(group)) = self.tree.links.get(usize::from(link.0))?.above else {
            return None;
        };
        let members = &self.tree.groups[group].members;
        Some((group, members.iter().position(|m| *m == link)?))
    }

    /// Draws all conclusions, from below to above.
    fn run(&mut self, now: Instant) {
        for at in 0..self.tree.links.len() {
            let link = LinkId(at as u16);
            let up = match self.tree.links[at].kind {
                LinkKind::Nic(nic) => self.links[nic].up,
                LinkKind::Vlan { over, .. } => self.is_up(over),
                LinkKind::Bond(bond) => self.run_bond(bond),
                LinkKind::Group(group) => self.run_group(now, group),
            };
            if self.up[at] != up {
                self.up[at] = up;
                let interface = self.tree.at(link).name.to_string();
                self.tell(What::Link { interface, up });
            }
        }
        self.run_outlooks(now);
        self.select();
        // After the selection: they are for the world as it is now.
        self.announce();
    }

    /// Publishes what may be used if it is something else.
    fn select(&mut self) {
        let bonds = self.bonds.iter().map(|b| b.selection().clone()).collect();
        let groups = self.groups.iter().map(|g| g.selection().clone()).collect();
        let up = self.up.clone();
        let next = Selection { generation: self.selection.generation, bonds, groups, up };
        if next != *self.selection || next.generation == 0 {
            self.selection =
                Arc::new(Selection { generation: self.selection.generation + 1, ..next });
            self.fresh = true;
        }
    }

    fn send(&mut self, at: Where, frame: Vec<u8>) {
        if self.transmit.len() < TRANSMIT_MAX {
            self.transmit.push_back((at, frame));
        } else {
            self.lost.frames += 1;
        }
    }

    fn tell(&mut self, what: What) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.lost.events += 1;
        }
        self.events.push_back(what);
    }

    fn keep_probe(&mut self, probe: Probe) {
        if self.probes.len() == PROBES_MAX {
            self.probes.pop_front();
            self.lost.probes += 1;
        }
        self.probes.push_back(probe);
    }

    /// Takes what a bond has; returns whether it carries frames.
    fn run_bond(&mut self, number: usize) -> bool {
        let tree = &self.tree.bonds[number];
        let (link, ports) = (tree.link, tree.ports.clone());
        while let Some((port, frame)) = self.bonds[number].poll_transmit() {
            self.send(Where::Nic(usize::from(ports[port].0)), frame);
        }
        while let Some(event) = self.bonds[number].poll_event() {
            if let BondEvent::Announce { .. } = event {
                self.bond_moved(link);
            }
            if let Some(what) = self.bond_event(number, event) {
                self.tell(what);
            }
        }
        self.bonds[number].is_up()
    }
}

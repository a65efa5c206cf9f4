//! Link state and MTU: as the kernel tells them, and on their way to the stacks.

use std::os::fd::BorrowedFd;

use weft_drivers::device::{DeviceError, Link};
use weft_drivers::nic::{LinkChange, LinkMonitor, Nic, NicFacts};
use weft_stack::ip::address::AliasId;
use weft_stack::stack::Change;
use weft_stack::time::Instant;

use super::core::Core;
use super::mesh::Control;

/// Watches the kernel's interfaces below a host's NICs.
#[derive(Debug)]
pub(crate) struct Links {
    monitor: LinkMonitor,
    /// NIC number, interface index and name.
    watched: Vec<(usize, u32, String)>,
    /// Names of interfaces that were removed, until they are told.
    gone: Vec<String>,
}

fn link_of(facts: &NicFacts) -> Link {
    Link { up: facts.up, mtu: facts.mtu, mac: facts.mac }
}

impl Links {
    /// `names`: the kernel interface of each NIC that has one.
    /// Also returns the links as they are now: they may have changed since the devices were opened.
    pub(crate) fn open(
        names: Vec<(usize, String)>,
    ) -> Result<(Links, Vec<(usize, Link)>), DeviceError> {
        let monitor = LinkMonitor::open()?;
        let (mut watched, mut now) = (Vec::new(), Vec::new());
        for (nic, name) in names {
            let facts = Nic::query(&name)?;
            now.push((nic, link_of(&facts)));
            watched.push((nic, facts.index, name));
        }
        Ok((Links { monitor, watched, gone: Vec::new() }, now))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.monitor.fd()
    }

    /// What changed since the last call: NIC number and its link.
    pub(crate) fn changes(&mut self) -> Vec<(usize, Link)> {
        let mut out = Vec::new();
        // To the end: wake-ups come by edges, so none would come for what is left.
        // After an error the next message comes with a fresh one.
        while let Ok(Some(changes)) = self.monitor.poll() {
            for change in changes {
                self.apply(&change, &mut out);
            }
        }
        out
    }

    /// Interfaces removed since the last call. One made later under the same name is another one: the
    /// devices open here do not come back with it.
    pub(crate) fn take_gone(&mut self) -> Vec<String> {
        std::mem::take(&mut self.gone)
    }

    fn apply(&mut self, change: &LinkChange, out: &mut Vec<(usize, Link)>) {
        let watched = &self.watched;
        let of = |index: u32| watched.iter().filter(move |w| w.1 == index);
        match change {
            LinkChange::Changed(facts) => {
                out.extend(of(facts.index).map(|w| (w.0, Link::from(facts))));
            }
            LinkChange::Gone(index) => {
                out.extend(of(*index).map(|w| (w.0, Link { up: false, mtu: 0, mac: None })));
                self.gone.extend(of(*index).map(|w| w.2.clone()));
            }
            LinkChange::Overrun => {
                for (nic, _, name) in &self.watched {
                    if let Ok(f) = Nic::query(name) {
                        out.push((*nic, link_of(&f)));
                    }
                }
            }
        }
    }
}

impl Core {
    /// Takes over what the kernel tells of links.
    pub(crate) fn apply_links(&mut self, now: Instant) {
        let Some(mut links) = self.poll.links.take() else { return };
        for (nic, link) in links.changes() {
            self.set_link(now, nic, link);
        }
        // Vservers at home elsewhere wait for it: now, and not at the end of this worker's next turn.
        self.mesh.ring();
        for name in links.take_gone() {
            self.problem(format!("interface {name} was removed; restart weft when it is back"));
        }
        self.poll.links = Some(links);
    }

    /// The kernel told of a link change; every stack on the NIC learns it, on all workers.
    pub(crate) fn set_link(&mut self, now: Instant, nic: usize, link: Link) {
        self.mesh.tell_all(&Control::Link { nic, link });
        self.link_is(now, nic, link);
    }

    /// An alias of a vserver has this state and MTU, or a smaller MTU that its server gave.
    pub(super) fn tell_link(
        &mut self,
        now: Instant,
        index: u32,
        alias: AliasId,
        up: bool,
        mtu: usize,
    ) {
        let node = &mut self.nodes[index as usize];
        let said = node.mtus.iter().find(|m| m.0 == alias).map_or(usize::MAX, |m| m.1);
        let change = Change::AliasLink { alias, up, mtu: mtu.min(said) };
        // The alias is attached, which is all the stack can object to.
        let _ = node.stack.handle_config(now, change);
        self.mark_dirty(index);
    }

    /// A server says how large packets of an alias may be; `None`: no longer.
    pub(crate) fn set_mtu(&mut self, now: Instant, index: u32, alias: AliasId, mtu: Option<usize>) {
        let mtus = &mut self.nodes[index as usize].mtus;
        mtus.retain(|m| m.0 != alias);
        mtus.extend(mtu.map(|mtu| (alias, mtu)));
        let place = self.aliases[alias.0 as usize];
        let (up, most) = (self.links[place.link()].up, self.links[place.link()].mtu);
        self.tell_link(now, index, alias, up, place.mtu.unwrap_or(most).min(most));
    }

    pub(super) fn link_is(&mut self, now: Instant, nic: usize, link: Link) {
        if self.nics[nic].set_link(link) {
            // What the machines make of it first: a bond that lost a port is not down for a moment.
            self.keep_link(now, nic);
            self.station_link(now, nic);
            self.nic_changed(now);
        }
    }

    /// Tells the state of a link to the stacks on it.
    pub(super) fn tell_links(&mut self, now: Instant, link: usize) {
        let (up, most) = (self.links[link].up, self.links[link].mtu);
        if let Some(tap) = self.dhcp.as_ref().filter(|_| up && self.mesh.is_home()) {
            tap.link_up(link);
        }
        for alias in 0..self.aliases.len() {
            if self.aliases[alias].link() != link {
                continue;
            }
            let mtu = self.aliases[alias].mtu.unwrap_or(most).min(most);
            let alias = AliasId(alias as u16);
            for index in self.demux.attached(alias) {
                self.tell_link(now, index, alias, up, mtu);
            }
        }
    }
}

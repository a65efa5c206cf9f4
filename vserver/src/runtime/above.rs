//! What aliases stand on, as a worker sees it: links over NICs, their state, and the frames of both.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use smallvec::SmallVec;
use weft_interface::plane::{ETHERTYPE_PROBE, ETHERTYPE_SLOW};
use weft_interface::{Ingress, Layout, LinkId, LinkSpec, Mac, Plane, Selection};
use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::ip::address::AliasId;
use weft_stack::time::Instant;

use super::mesh::{Control, Message};
use super::tx_queue::IN_ORDER;
use super::{AliasPlace, Core, Nic};

/// A NIC, untagged, or a VLAN, bond or failover group.
pub(crate) struct Above {
    /// NICs that its frames leave or come by.
    pub(crate) nics: SmallVec<[usize; 2]>,
    /// Frames start with an Ethernet header.
    pub(crate) ethernet: bool,
    /// The link that has the rates of this one: that below a tag.
    pub(crate) lane: usize,
    /// What the stacks were told last.
    pub(crate) up: bool,
    pub(crate) mtu: usize,
}

/// What the machines of worker 0 have to do with the data path.
#[derive(Default)]
pub(crate) struct Machines {
    /// They say what may be used; else whatever has link is.
    pub(crate) decide: bool,
    /// Frames for them, without tags, and the link that each came by.
    pub(crate) inbox: VecDeque<(LinkId, Frame)>,
}

/// Frames that wait for the machines: more than all ports and probers of a host send in a round.
const CONTROL_FRAMES_MAX: usize = 4096;
/// A link without a NIC carries nothing; it does not come up.
const MTU_OF_NOTHING: usize = 1500;

/// The NICs alone.
pub(crate) fn bare(nics: &[Nic]) -> Layout {
    Layout::bare(nics.iter().map(|n| n.link.mac.filter(|_| n.ethernet)))
}

pub(super) fn links(plane: &Plane, nics: &[Nic]) -> Vec<Above> {
    let link = |at: usize| {
        let below = plane.nics_below(LinkId(at as u16));
        let ethernet = below.iter().all(|n| nics[*n].ethernet);
        let lane = usize::from(plane.base(LinkId(at as u16)).0);
        let mut link = Above { nics: below, ethernet, lane, up: false, mtu: 0 };
        (link.up, link.mtu) = state(plane, LinkId(at as u16), &link.nics, nics);
        link
    };
    (0..plane.links()).map(link).collect()
}

/// Whether a link carries frames, and the largest packet that all its NICs take.
fn state(plane: &Plane, link: LinkId, below: &[usize], nics: &[Nic]) -> (bool, usize) {
    let up = plane.is_up(link, |nic| nics[nic].link.up);
    let mtu = below.iter().map(|n| nics[*n].link.mtu).min();
    (up, mtu.unwrap_or(MTU_OF_NOTHING))
}

impl Core {
    /// Puts links above the NICs; before there are vservers.
    pub(crate) fn set_layout(&mut self, layout: &Layout) {
        self.plane = Plane::new(layout);
        self.layout = layout.clone();
        self.plane.select(&layout.selection(|nic| self.nics[nic].link.up));
        self.links = links(&self.plane, &self.nics);
        for link in &layout.links {
            match link {
                LinkSpec::Bond { ports, config, .. } => {
                    let mac = config.mac.or_else(|| layout.mac(*ports.first()?));
                    for port in ports.iter().map(|p| usize::from(p.0)) {
                        self.want_protocol(port, ETHERTYPE_SLOW, true);
                        if let Some(mac) = mac {
                            self.want_mac(port, mac, true);
                        }
                    }
                }
                LinkSpec::Group { members, .. } => {
                    let below = |m: &LinkId| self.plane.nics_below(*m);
                    let nics: Vec<usize> = members.iter().flat_map(below).collect();
                    for nic in nics {
                        self.want_protocol(nic, ETHERTYPE_PROBE, true);
                    }
                }
                LinkSpec::Nic(_) | LinkSpec::Vlan { .. } | LinkSpec::Nothing => {}
            }
        }
        for place in self.aliases.clone() {
            self.admit_mac(place);
        }
    }

    /// Frames for an alias with a MAC address of its own are let through from now on.
    pub(super) fn admit_mac(&mut self, place: AliasPlace) {
        let Some(mac) = place.mac else { return };
        self.plane.add_mac(place.on, mac);
        for at in 0..self.links[place.link()].nics.len() {
            self.want_mac(self.links[place.link()].nics[at], mac, true);
        }
    }

    /// No longer, unless another alias of the link has the same one.
    pub(super) fn forget_mac(&mut self, place: AliasPlace) {
        let Some(mac) = place.mac else { return };
        if !self.aliases.iter().any(|a| (a.on, a.mac) == (place.on, place.mac)) {
            self.plane.remove_mac(place.on, mac);
        }
        for at in 0..self.links[place.link()].nics.len() {
            self.want_mac(self.links[place.link()].nics[at], mac, false);
        }
    }

    pub(super) fn want_mac(&mut self, nic: usize, mac: Mac, wanted: bool) {
        if self.mesh.is_home() && self.nics[nic].link.mac != Some(mac) {
            let steered = self.nics[nic].want_mac(mac, wanted);
            self.tell_unsteered(steered);
        }
    }

    /// Frames of a protocol of the link are wanted from a NIC, or no longer. Worker 0 says so for
    /// all; asking twice is harmless.
    pub(crate) fn want_protocol(&mut self, nic: usize, ethertype: u16, wanted: bool) {
        if self.mesh.is_home() {
            let steered = self.nics[nic].want_protocol(ethertype, wanted);
            self.tell_unsteered(steered);
        }
    }

    fn tell_unsteered(&mut self, steered: io::Result<()>) {
        if let Err(e) = steered {
            self.problem(format!("steering failed: {e}; what it is for does not come"));
        }
    }

    /// Takes over what may be used, and tells the stacks whose links changed by it.
    pub(super) fn select(&mut self, now: Instant, selection: &Selection) {
        let moved = self.plane.select(selection);
        self.refresh_links(now);
        for link in moved {
            self.tell_moved(now, link);
        }
    }

    /// What the stacks sent over a link was lost, and its frames take another path now.
    fn tell_moved(&mut self, now: Instant, link: LinkId) {
        for alias in 0..self.aliases.len() {
            if !self.plane.stands_on(self.aliases[alias].on, link) {
                continue;
            }
            let alias = AliasId(alias as u16);
            for index in self.demux.attached(alias) {
                self.nodes[index as usize].stack.handle_path_moved(now, alias);
                self.mark_dirty(index);
            }
        }
    }

    /// What may be used changed: all workers follow.
    pub(crate) fn publish(&mut self, now: Instant, selection: &Arc<Selection>) {
        self.mesh.tell_all(&Control::Selection(Arc::clone(selection)));
        self.select(now, selection);
    }

    /// The link of a NIC changed. While no machine decides, whatever has link is used.
    pub(super) fn nic_changed(&mut self, now: Instant) {
        if self.mesh.is_home() && !self.machines.decide && self.plane.has_choice() {
            let selection = self.layout.selection(|nic| self.nics[nic].link.up);
            self.publish(now, &Arc::new(selection));
        } else {
            self.refresh_links(now);
        }
    }

    /// Tells the stacks of links whose state or MTU is another than they know.
    pub(super) fn refresh_links(&mut self, now: Instant) {
        for link in 0..self.links.len() {
            let known = &self.links[link];
            let (up, mtu) = state(&self.plane, LinkId(link as u16), &known.nics, &self.nics);
            if (up, mtu) != (known.up, known.mtu) {
                (self.links[link].up, self.links[link].mtu) = (up, mtu);
                self.tell_links(now, link);
            }
        }
    }

    /// Where a frame that a NIC gave belongs; `None`: it is taken care of.
    #[inline]
    pub(super) fn climb(&mut self, nic: usize, frame: &mut Frame) -> Option<usize> {
        match self.plane.receive(nic, frame) {
            Ingress::Link(link) => Some(usize::from(link.0)),
            Ingress::Control(link) => {
                self.give_machines(link, frame.to_heap());
                None
            }
            Ingress::Both { link, member } => {
                self.give_machines(member, frame.to_heap());
                Some(usize::from(link.0))
            }
            Ingress::Drop(reason) => {
                self.drops.count(reason);
                None
            }
        }
    }

    /// A frame for the machines, which are on worker 0.
    pub(super) fn give_machines(&mut self, link: LinkId, frame: Frame) {
        if !self.mesh.is_home() {
            if !self.mesh.send(0, Message::Control { link, frame }) {
                self.drops.count(DropReason::HandOverFull);
            }
        } else if !self.machines.decide {
            self.drops.count(DropReason::EthertypeUnknown);
        } else if self.machines.inbox.len() < CONTROL_FRAMES_MAX {
            self.machines.inbox.push_back((link, frame));
        } else {
            self.drops.count(DropReason::InputQueueFull);
        }
    }

    /// A frame of a link leaves now, or by the worker that has the NIC's queue.
    #[inline]
    pub(super) fn give(&mut self, link: usize, vserver: u32, mut frame: Frame) {
        match self.plane.send(LinkId(link as u16), &mut frame) {
            Ok(nic) => self.give_nic(nic, vserver, frame),
            Err(reason) => self.drops.count(reason),
        }
    }

    /// A frame of the host itself leaves by a link; without room it is lost.
    pub(crate) fn send_frame(&mut self, link: usize, frame: &[u8]) {
        let mut frame = Frame::from_heap(weft_stack::frame::HEADROOM_BYTES, frame);
        let nic = match self.plane.send(LinkId(link as u16), &mut frame) {
            Ok(nic) => nic,
            Err(reason) => return self.drops.count(reason),
        };
        if self.nics[nic].ports.is_empty() || self.nics[nic].room() == 0 {
            return self.drops.count(DropReason::OutQueueFull);
        }
        self.nics[nic].enqueue(IN_ORDER, frame);
    }
}

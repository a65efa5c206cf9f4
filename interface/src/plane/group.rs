//! One failover group on the data path: which member a frame leaves by and may come by.
//!
//! The stacks see one MAC address, the group's; on the wire are those of the members. An alias with
//! an address of its own keeps it, and all its frames take one member.

use std::net::IpAddr;

use hashbrown::HashSet;
use smallvec::SmallVec;
use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;

use super::headers::{self, Meaning, Network};
use crate::fail::Outbound;
use crate::fail::outbound::destination_key;
use crate::{GroupSelection, LinkId, Mac};

/// Protocol of the probes that one member sends to another (IEEE local experimental 1).
pub const ETHERTYPE_PROBE: u16 = 0x88b5;

/// What becomes of a frame that came by a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    Group,
    Probe,
    /// To both.
    Both,
    Drop(DropReason),
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Towards the stacks.
    mac: Mac,
    pub(super) members: Vec<Member>,
    selection: GroupSelection,
    /// The same as a set.
    active: u64,
    /// Of aliases that have one of their own.
    own: SmallVec<[Mac; 2]>,
    /// The member of each destination.
    outbound: Outbound,
    /// The prober asks with the addresses of the stacks: it hears the answers.
    pub(super) listens: bool,
    /// Hosts beyond the link that the prober asks with the addresses of the stacks.
    pub(super) beyond: Box<[IpAddr]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) link: LinkId,
    pub(super) mac: Mac,
}

impl Group {
    pub(super) fn new(mac: Mac, members: Vec<Member>) -> Group {
        Group {
            mac,
            members,
            selection: GroupSelection::default(),
            active: 0,
            own: SmallVec::new(),
            outbound: Outbound::new(),
            listens: false,
            beyond: Box::default(),
        }
    }

    /// Destinations stay with their members; `renumbered` gives the new number of an old link.
    pub(super) fn succeed(&mut self, old: Group, renumbered: impl Fn(LinkId) -> Option<LinkId>) {
        let place = |member: &Member| {
            let link = renumbered(member.link)?;
            self.members.iter().position(|m| m.link == link).map(|at| at as u16)
        };
        let to: Vec<Option<u16>> = old.members.iter().map(place).collect();
        self.outbound = old.outbound;
        self.outbound.renumber(&to);
    }

    pub(super) fn apply(&mut self, selection: &GroupSelection) {
        let active = selection.active.iter().filter(|m| usize::from(**m) < self.members.len());
        self.active = active.fold(0, |set, m| set | 1 << m);
        self.outbound.apply(selection);
        self.selection.clone_from(selection);
    }

    /// Members that carry frames.
    pub(super) fn selected(&self) -> &[u16] {
        &self.selection.active
    }

    pub(super) fn is_up(&self) -> bool {
        self.active != 0
    }

    pub(super) fn active(&self) -> impl Iterator<Item = LinkId> + '_ {
        let on = |at: &usize| self.active >> at & 1 == 1;
        (0..self.members.len()).filter(on).map(|at| self.members[at].link)
    }

    pub(super) fn add_mac(&mut self, mac: Mac) {
        if mac != self.mac && !self.own.contains(&mac) {
            self.own.push(mac);
        }
    }

    pub(super) fn remove_mac(&mut self, mac: Mac) {
        self.own.retain(|m| *m != mac);
    }

    /// A frame that came by a member. `tests` are addresses that the prober has on members.
    pub(super) fn receive(
        &self,
        position: usize,
        frame: &mut Frame,
        tests: &HashSet<(LinkId, IpAddr)>,
    ) -> Admit {
        let answers = self.listens && headers::is_answer(frame.data())
            || !self.beyond.is_empty() && headers::is_echo_reply(frame.data(), &self.beyond);
        match self.sort(position, frame, tests) {
            Admit::Group if answers => Admit::Both,
            // Answers to all come by every member, and each asked for its own.
            Admit::Drop(DropReason::MemberNotNominee) if answers => Admit::Probe,
            other => other,
        }
    }

    fn sort(&self, position: usize, frame: &mut Frame, tests: &HashSet<(LinkId, IpAddr)>) -> Admit {
        let data = frame.data();
        let Some(network) = headers::network(data) else {
            return Admit::Drop(DropReason::EthernetTruncated);
        };
        if network.ethertype == ETHERTYPE_PROBE {
            return Admit::Probe;
        }
        let member = self.members[position];
        if !tests.is_empty() && is_for_test_address(data, network, member.link, tests) {
            return Admit::Probe;
        }
        let (to, from) = (headers::destination_mac(data), headers::source_mac(data));
        if self.members.iter().any(|m| m.mac == from) || self.own.contains(&from) {
            return Admit::Drop(DropReason::OwnFrameReflected);
        }
        if to[0] & 1 == 1 {
            let wanted = self.nominee(to).map(usize::from);
            return if wanted == Some(position) {
                Admit::Group
            } else {
                Admit::Drop(DropReason::MemberNotNominee)
            };
        }
        if to == member.mac {
            frame.data_mut()[..6].copy_from_slice(&self.mac);
            return Admit::Group;
        }
        if !self.own.contains(&to) {
            return Admit::Drop(DropReason::NotForThisHost);
        }
        let home = self.selection.member_of_mac(to).map(usize::from);
        if home == Some(position) {
            return Admit::Group;
        }
        Admit::Drop(DropReason::MemberNotNominee)
    }

    /// The member for frames to a group or to everybody.
    fn nominee(&self, to: Mac) -> Option<u16> {
        let v6 = to[..2] == [0x33, 0x33];
        if v6 { self.selection.nominee6 } else { self.selection.nominee4 }
    }

    /// The member that a frame leaves by; what it says of our hardware address becomes true of that.
    pub(super) fn send(&mut self, frame: &mut Frame) -> Option<LinkId> {
        let data = frame.data();
        let from = headers::source_mac(data);
        let network = headers::network(data)?;
        if from != self.mac {
            let member = self.selection.member_of_mac(from)?;
            return self.usable(member).map(|m| m.link);
        }
        let to = headers::destination_mac(data);
        let (member, resolves) = match headers::meaning(data, network) {
            Meaning::Resolution { sender, about } => {
                let bound = self.bound(sender).or_else(|| self.bound(about));
                let v6 = network.ethertype == headers::IP6;
                let nominee = if v6 { self.selection.nominee6 } else { self.selection.nominee4 };
                (bound.or(nominee), true)
            }
            _ if to[0] & 1 == 1 => (self.nominee(to), false),
            Meaning::Packet { to } => (self.outbound.choose(destination_key(to)), false),
            Meaning::Other => (self.selection.nominee4, false),
        };
        let member = self.usable(member?)?;
        if resolves {
            headers::rewrite_hardware_address(frame, network, self.mac, member.mac);
        }
        frame.data_mut()[6..12].copy_from_slice(&member.mac);
        Some(member.link)
    }

    fn usable(&self, member: u16) -> Option<Member> {
        self.members.get(usize::from(member)).copied().filter(|_| self.active >> member & 1 == 1)
    }

    fn bound(&self, addr: IpAddr) -> Option<u16> {
        let member = *self.selection.bindings.get(&addr)?;
        self.usable(member).map(|_| member)
    }
}

fn is_for_test_address(
    data: &[u8],
    network: Network,
    member: LinkId,
    tests: &HashSet<(LinkId, IpAddr)>,
) -> bool {
    match headers::meaning(data, network) {
        Meaning::Packet { to } => tests.contains(&(member, to)),
        // A solicitation goes by its target; an advertisement, which may answer us, by where it goes.
        Meaning::Resolution { sender, about } => {
            tests.contains(&(member, about))
                || headers::receiver(data, network)
                    .is_some_and(|to| tests.contains(&(member, to)))
                // Somebody speaks from our address: the prober has to know.
                || tests.contains(&(member, sender))
        }
        Meaning::Other => false,
    }
}

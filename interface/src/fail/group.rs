//! The group itself: its members, what they may do now, and what is told of it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;
use thiserror::Error;
use weft_stack::time::Instant;

use super::config::{GroupConfig, MEMBERS_MAX};
use super::inbound::{Announcement, Inbound};
use super::member::{Member, Told};
use super::report::GroupCounters;
use crate::events::What;
use crate::paths::{GroupHealth, MemberHealth};
use crate::{GroupSelection, Mac};

/// Events that nobody took; older ones are lost, and counted.
const EVENTS_MAX: usize = 1024;
/// Moved addresses that are told of one by one after one call; more are counted as lost.
const MOVED_MAX: usize = 256;
/// Multicast groups that a group remembers for its next nominee.
pub(super) const MEMBERSHIPS_MAX: usize = 4096;

/// What a member is, as far as the group has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its name, unique in the group.
    pub name: String,
    /// Its MAC address; all zero if it is not known.
    pub mac: Mac,
}

/// Why a member is not added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MemberError {
    /// There are [`MEMBERS_MAX`].
    #[error("{0} has {MEMBERS_MAX} members, as many as possible")]
    Full(String),
    /// It is there.
    #[error("{1} is a member of {0} already")]
    Twice(String, String),
}

/// Multicast that goes by one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 multicast and broadcast.
    V4,
    /// IPv6 multicast.
    V6,
}

/// Another member takes multicast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Of which family.
    pub family: Family,
    /// Who did; `None` if nobody, or if it is no member any more.
    pub from: Option<u16>,
    /// Who does.
    pub to: u16,
    /// Groups to join there: those of [`Group::membership_added`] of this family.
    pub memberships: Vec<IpAddr>,
}

/// Several members that act as one interface. Members are named by their positions.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) name: String,
    pub(super) config: GroupConfig,
    pub(super) mac: Mac,
    pub(super) members: Vec<Member>,
    pub(super) inbound: Inbound,
    pub(super) nominees: [Option<u16>; 2],
    nominees_told: [Option<u16>; 2],
    memberships: BTreeMap<IpAddr, u32>,
    /// Targets beyond the link that are lost.
    pub(super) beyond_lost: Vec<IpAddr>,
    pub(super) state: GroupHealth,
    state_told: GroupHealth,
    pub(super) signature: u64,
    events: VecDeque<What>,
    pub(super) counters: GroupCounters,
    pub(super) now: Instant,
}

impl Group {
    /// A group with these members, in the order of its configuration. Nothing is known of any of
    /// them yet, so none is active. More than [`MEMBERS_MAX`] are left out.
    pub fn new(name: &str, config: &GroupConfig, members: &[MemberInfo]) -> Group {
        let mut group = Group {
            name: name.to_owned(),
            config: config.clone(),
            mac: members.first().map_or([0; 6], |m| m.mac),
            members: Vec::new(),
            inbound: Inbound::default(),
            nominees: [None; 2],
            nominees_told: [None; 2],
            memberships: BTreeMap::new(),
            beyond_lost: Vec::new(),
            state: GroupHealth::Failed,
            state_told: GroupHealth::Failed,
            signature: 0,
            events: VecDeque::new(),
            counters: GroupCounters::default(),
            now: Instant::ZERO,
        };
        for info in members.iter().take(MEMBERS_MAX) {
            group.push_member(info.clone());
        }
        group.settle(Instant::ZERO);
        group
    }

    fn push_member(&mut self, info: MemberInfo) {
        let standby = self.config.is_standby(&info.name);
        self.members.push(Member::new(info, standby));
        self.inbound.grow();
    }

    /// One more member, behind the others: its position.
    pub fn member_added(
        &mut self,
        now: Instant,
        info: MemberInfo,
        standby: bool,
    ) -> Result<u16, MemberError> {
        if self.position(&info.name).is_some() {
            return Err(MemberError::Twice(self.name.clone(), info.name));
        }
        if self.members.len() == MEMBERS_MAX {
            return Err(MemberError::Full(self.name.clone()));
        }
        self.config.members.push(info.name.clone());
        if standby {
            self.config.standby.push(info.name.clone());
        }
        self.push_member(info);
        let i = self.members.len() - 1;
        self.tell_member(i, true);
        self.settle(now);
        Ok(i as u16)
    }

    /// A member is taken away; those behind it move up by one.
    pub fn member_removed(&mut self, now: Instant, member: u16) {
        let i = usize::from(member);
        if i >= self.members.len() {
            return;
        }
        self.now = self.now.max(now);
        self.tell_member(i, false);
        // As if it were gone: its addresses find their places while it can still be named.
        let was_active = self.members[i].is_active();
        let leaving = &mut self.members[i];
        (leaving.link, leaving.inactive, leaving.standby) = (None, true, true);
        leaving.info.mac = [0; 6];
        let name = leaving.info.name.clone();
        if was_active {
            self.replace();
        }
        self.trim();
        self.decide();
        self.spread();
        self.tell_moves();
        self.config.members.retain(|m| *m != name);
        self.config.standby.retain(|m| *m != name);
        let shift = |old: usize| match old.cmp(&i) {
            std::cmp::Ordering::Less => Some(old as u16),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(old as u16 - 1),
        };
        let to: Vec<_> = (0..self.members.len()).map(shift).collect();
        self.members.remove(i);
        self.renumber(&to);
        self.settle(now);
    }

    /// The configuration is another: members come and go, stay what they are, and are counted in
    /// its order from now on. `members` are all of them.
    pub fn update(&mut self, now: Instant, config: &GroupConfig, members: &[MemberInfo]) {
        for i in (0..self.members.len()).rev() {
            if !members.iter().any(|m| m.name == self.members[i].info.name) {
                self.member_removed(now, i as u16);
            }
        }
        for info in members {
            let standby = config.is_standby(&info.name);
            let Some(i) = self.position(&info.name) else {
                // More than there may be are left out, as in the beginning.
                let _full = self.member_added(now, info.clone(), standby);
                continue;
            };
            self.members[i].info = info.clone();
            if self.members[i].standby != standby {
                self.members[i].standby = standby;
                if self.members[i].is_usable() {
                    self.place(i, super::policy::Return::Online);
                }
            }
        }
        self.reorder(members);
        let comes_back = config.failback && !self.config.failback;
        self.config = config.clone();
        self.beyond_lost.retain(|target| config.beyond.contains(target));
        if comes_back {
            self.fail_back();
        }
        self.trim();
        self.settle(now);
    }

    fn reorder(&mut self, order: &[MemberInfo]) {
        let mut to = vec![None; self.members.len()];
        let mut sorted = Vec::new();
        for info in order {
            if let Some(old) = self.position(&info.name).filter(|old| to[*old].is_none()) {
                to[old] = Some(sorted.len() as u16);
                sorted.push(self.members[old].clone());
            }
        }
        self.members = sorted;
        self.renumber(&to);
    }

    fn renumber(&mut self, to: &[Option<u16>]) {
        self.inbound.renumber(to, self.members.len());
        for nominee in self.nominees.iter_mut().chain(&mut self.nominees_told) {
            *nominee = nominee.and_then(|old| to[usize::from(old)]);
        }
    }

    /// The position of a member.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|m| m.info.name == name)
    }

    /// A target beyond the link is reached, or not any more. While all that are configured are
    /// lost, the group counts as failed for its listeners.
    pub fn handle_beyond(&mut self, now: Instant, target: IpAddr, reached: bool) {
        let was_lost = self.beyond_lost.contains(&target);
        if reached != was_lost || !self.config.beyond.contains(&target) {
            return;
        }
        if reached {
            self.beyond_lost.retain(|lost| *lost != target);
        } else {
            self.beyond_lost.push(target);
        }
        let how = if reached { "reached" } else { "not reached any more" };
        self.notice(None, format!("{target} beyond the link is {how}"));
        self.settle(now);
    }

    /// A data address came up, of an alias with this MAC address of its own, if any. Whoever adds
    /// it announces it himself if it is reachable at once. An address may be added several times,
    /// and is there until it was removed as often. False if there are too many: it is not reachable
    /// then.
    pub fn address_added(&mut self, now: Instant, address: IpAddr, mac: Option<Mac>) -> bool {
        let fits = self.inbound.add(address, mac);
        self.settle(now);
        fits
    }

    /// A data address is gone.
    pub fn address_removed(&mut self, now: Instant, address: IpAddr, mac: Option<Mac>) {
        self.inbound.remove(address, mac);
        self.settle(now);
    }

    /// A multicast group was joined on the group's interface. False if there are too many to carry
    /// over.
    pub fn membership_added(&mut self, address: IpAddr) -> bool {
        let fits =
            self.memberships.len() < MEMBERSHIPS_MAX || self.memberships.contains_key(&address);
        if fits {
            *self.memberships.entry(address).or_default() += 1;
        } else {
            self.counters.memberships_refused += 1;
        }
        fits
    }

    /// A multicast group was left.
    pub fn membership_removed(&mut self, address: IpAddr) {
        if let Some(count) = self.memberships.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.memberships.remove(&address);
            }
        }
    }

    /// The multicast groups that are joined are these, each as often as it is named.
    pub fn set_memberships(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.memberships.clear();
        for address in addresses {
            // One that is too many is counted.
            let _fits = self.membership_added(address);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// When [`Group::handle_timeout`] has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (0..self.members.len()).filter_map(|i| self.judge_at(i)).min()
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<What> {
        self.events.pop_front()
    }

    /// Addresses that are reached by another member since this was last asked, each once: the
    /// neighbours have to be told.
    pub fn announcements(&mut self) -> Vec<Announcement> {
        self.inbound.announcements()
    }

    /// Multicast that goes by another member.
    pub fn poll_handover(&mut self) -> Option<Handover> {
        for (i, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            let from = core::mem::replace(&mut self.nominees_told[i], self.nominees[i]);
            if let Some(to) = self.nominees[i].filter(|_| from != self.nominees[i]) {
                let is_family = |a: &&IpAddr| a.is_ipv4() == (family == Family::V4);
                let memberships = self.memberships.keys().filter(is_family).copied().collect();
                return Some(Handover { family, from, to, memberships });
            }
        }
        None
    }

    /// What may be used.
    pub fn selection(&self) -> &GroupSelection {
        self.inbound.selection()
    }

    /// Whether the selection changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        self.inbound.take_changed()
    }

    /// Whether it carries frames: a member is active.
    pub fn is_up(&self) -> bool {
        !self.inbound.active().is_empty()
    }

    /// How it is: whether all members can be used, some, or none.
    pub fn state(&self) -> GroupHealth {
        self.state
    }

    /// The MAC address that the group has for what is above it: that of its first member when it
    /// was made. It is on no wire.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// What it was made from; members and standby as they are now.
    pub fn config(&self) -> &GroupConfig {
        &self.config
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Follows from facts to what is used and told. Every input ends here.
    pub(super) fn settle(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.decide();
        self.spread();
        self.tell();
    }

    /// Judges members until nothing changes.
    fn decide(&mut self) {
        // Each round lets at least one member change; few can change twice.
        for _ in 0..2 * self.members.len() + 2 {
            let mut changed = self.check_duplicates();
            for i in 0..self.members.len() {
                changed |= self.judge(self.now, i);
            }
            if !self.members.iter().any(Member::is_usable) {
                for m in self.members.iter_mut().filter(|m| m.failed.is_some()) {
                    m.with_group = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Binds addresses and nominates.
    fn spread(&mut self) {
        let is_active = |i: &usize| self.members[*i].is_active();
        let active: SmallVec<[u16; 8]> =
            (0..self.members.len()).filter(is_active).map(|i| i as u16).collect();
        self.inbound.set_active(&active);
        for nominee in &mut self.nominees {
            let stays = nominee.is_some_and(|member| active.contains(&member));
            if !stays {
                *nominee = self.inbound.active().first().copied();
            }
        }
        self.inbound.nominate(self.nominees);
    }

    /// Tells what is different from what was told last.
    fn tell(&mut self) {
        self.tell_moves();
        self.state = self.health();
        let is_news = |m: &Member| m.told != told(m);
        let signature = self.sign();
        self.signature = signature;
        let news: Vec<usize> =
            (0..self.members.len()).filter(|i| is_news(&self.members[*i])).collect();
        for i in news {
            let now = told(&self.members[i]);
            self.members[i].told = now;
            let event = What::Interface {
                group: self.name.clone(),
                signature,
                interface: self.members[i].info.name.clone(),
                state: health_text(now.health).to_owned(),
                active: now.active,
                standby: now.standby,
                why: self.why(i).to_owned(),
            };
            self.push_event(event);
        }
        if self.state != self.state_told {
            self.state_told = self.state;
            let state = state_text(self.state).to_owned();
            self.push_event(What::Group { group: self.name.clone(), signature, state });
        }
    }

    fn tell_moves(&mut self) {
        let moves = self.inbound.take_moves();
        self.counters.events_lost += moves.len().saturating_sub(MOVED_MAX) as u64;
        for (address, from, to) in moves.into_iter().take(MOVED_MAX) {
            let name =
                |member: Option<u16>| Some(self.members[usize::from(member?)].info.name.clone());
            let (from, to) = (name(from), name(to));
            self.push_event(What::Moved { group: self.name.clone(), address, from, to });
        }
    }

    fn tell_member(&mut self, i: usize, added: bool) {
        let m = &self.members[i];
        let (interface, standby) = (m.info.name.clone(), m.standby);
        let state = health_text(m.health()).to_owned();
        let (group, signature) = (self.name.clone(), self.sign());
        self.push_event(What::Member { group, signature, interface, added, standby, state });
    }

    /// Something for people, of a member or of the group.
    pub(super) fn notice(&mut self, member: Option<usize>, text: String) {
        let interface = member.map(|i| self.members[i].info.name.clone());
        self.push_event(What::Notice { group: self.name.clone(), interface, text });
    }

    fn push_event(&mut self, event: What) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(event);
    }

    fn health(&self) -> GroupHealth {
        let usable = self.members.iter().filter(|m| m.is_usable()).count();
        let beyond = &self.config.beyond;
        let is_cut = !beyond.is_empty() && self.beyond_lost.len() == beyond.len();
        match usable {
            0 => GroupHealth::Failed,
            _ if is_cut => GroupHealth::Failed,
            n if n == self.members.len() => GroupHealth::Ok,
            _ => GroupHealth::Degraded,
        }
    }

    /// A hash of what events tell: two with the same have seen the same last state.
    fn sign(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(self.name.as_bytes());
        hasher.write(state_text(self.health()).as_bytes());
        for m in &self.members {
            let told = told(m);
            hasher.write(m.info.name.as_bytes());
            hasher.write(health_text(told.health).as_bytes());
            hasher.write_u8(u8::from(told.active) | u8::from(told.standby) << 1);
        }
        hasher.finish()
    }
}

fn told(m: &Member) -> Told {
    Told { health: m.health(), active: m.is_active(), standby: m.standby }
}

fn health_text(health: MemberHealth) -> &'static str {
    match health {
        MemberHealth::Ok => "ok",
        MemberHealth::Failed => "failed",
        MemberHealth::Offline => "offline",
        MemberHealth::Unknown => "unknown",
    }
}

fn state_text(state: GroupHealth) -> &'static str {
    match state {
        GroupHealth::Ok => "ok",
        GroupHealth::Degraded => "degraded",
        GroupHealth::Failed => "failed",
    }
}

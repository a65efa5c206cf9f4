//! Group membership: IGMPv3 (RFC 3376) and MLDv2 (RFC 3810), host side, with the older protocols
//! for queriers that speak no other. Where all users of a group name senders, these are asked for;
//! where one wants all but some, all are, and sockets leave out what is not wanted.
//!
//! A group is counted per user. Joining and leaving are reported at once (by the timer, so that
//! changes of one instant share a report) and again, as often as the robustness variable says;
//! queries are answered after a random delay. All-nodes groups are members always and never
//! reported. What speaks here is bounded by `Limits::groups` per alias.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;

use super::Ip;
use super::address::{Alias, AliasId};
use super::ndp::ALL_NODES;
use crate::ctx::{Ctx, Fate, Timer};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::link::Link;
use crate::lower::InPacket;
use crate::socket::Event;
use crate::stack::ChangeError;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerHandle;
use crate::wire::header::IpHeader;
use crate::wire::{checksum, protocol};

#[cfg(test)]
mod tests;
mod wire;

use wire::{GroupRecord, Input, Query, Record};

const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_IGMPV3: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_MLDV2: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// RFC 3376 8.1.
const ROBUSTNESS: u8 = 2;
/// RFC 3376 8.2.
const QUERY_INTERVAL: Duration = Duration::from_secs(125);
/// RFC 3376 8.11: between repetitions of a report, at most.
const REPEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Records in one report, so that it fits the smallest IPv6 MTU with router alert.
const RECORD_BYTES_MAX: usize = 1280 - 40 - 8 - 8;
/// Senders told of one group; of more all are asked for, and sockets filter.
const SOURCES_TOLD_MAX: usize = 64;

/// A group of an alias. One that was left stays until that has been said often enough.
#[derive(Clone, Debug, Default)]
struct Member {
    /// Users that want all of it.
    users: u32,
    /// Senders that other users want, and how many of them do.
    sources: BTreeMap<IpAddr, u32>,
    /// Reports of the last change still to send, and when the next is due.
    repeats: u8,
    repeat_at: Option<Instant>,
    /// A query wants an answer.
    answer_at: Option<Instant>,
}

/// What is known of the querier of one family.
#[derive(Clone, Copy, Debug)]
struct Querier {
    robustness: u8,
    interval: Duration,
    /// An older querier was heard; its protocol is spoken until then (RFC 3376 7.2.1).
    older_until: Option<Instant>,
}

impl Default for Querier {
    fn default() -> Querier {
        Querier { robustness: ROBUSTNESS, interval: QUERY_INTERVAL, older_until: None }
    }
}

/// Groups of one alias.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    members: BTreeMap<IpAddr, Member>,
    v4: Querier,
    v6: Querier,
}

/// Groups that everybody is in, or that do not leave the host: never reported (RFC 3810 6).
fn unreported(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(a) => a == ALL_SYSTEMS,
        IpAddr::V6(a) => a == ALL_NODES || a.octets()[1] & 0x0f < 2,
    }
}

impl Groups {
    /// Whether packets to `group` are wanted (224.0.0.1 and ff02::1 always are).
    pub(crate) fn contains(&self, group: IpAddr) -> bool {
        group == IpAddr::V4(ALL_SYSTEMS)
            || group == IpAddr::V6(ALL_NODES)
            || self.members.get(&group).is_some_and(Member::is_wanted)
    }

    /// What the alias wants of a group.
    pub(crate) fn filter(&self, group: IpAddr) -> GroupFilter {
        match self.members.get(&group).filter(|m| m.is_wanted()).map(Member::filter) {
            None => GroupFilter::Nothing,
            Some(None) => GroupFilter::All,
            Some(Some(sources)) => GroupFilter::Only(sources),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.members.values().flat_map(|m| [m.repeat_at, m.answer_at]).flatten().min()
    }

    fn querier(&mut self, v4: bool) -> &mut Querier {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }
}

/// The timer of all aliases.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    armed: Option<(Instant, TimerHandle)>,
}

fn arm(ctx: &mut Ctx<'_>, ip: &mut Ip) {
    let up = |a: &&Alias| a.config.up;
    let want = ip.aliases.values().filter(up).filter_map(|a| a.groups.deadline()).min();
    if ip.membership.armed.map(|a| a.0) == want {
        return;
    }
    if let Some((_, handle)) = ip.membership.armed.take() {
        ctx.timers.cancel(handle);
    }
    ip.membership.armed = want.map(|at| (at, ctx.timers.schedule(at, Timer::Membership)));
}

/// What a shard wants of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GroupFilter {
    /// It is no member.
    #[default]
    Nothing,
    /// Whatever is sent to it.
    All,
    /// What these send.
    Only(Vec<IpAddr>),
}

impl GroupFilter {
    pub(crate) fn wanted(&self) -> Option<Wanted<'_>> {
        match self {
            GroupFilter::Nothing => None,
            GroupFilter::All => Some(Wanted::Any),
            GroupFilter::Only(sources) => Some(Wanted::Only(sources)),
        }
    }
}

/// What a user of a group wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// Whatever is sent to it.
    Any,
    /// What these send.
    Only(&'a [IpAddr]),
}

/// Whether a user of `group` may be added on the alias.
pub(crate) fn may_join(
    ctx: &mut Ctx<'_>,
    ip: &Ip,
    alias: AliasId,
    group: IpAddr,
) -> Result<(), ChangeError> {
    let entry = ip.aliases.get(&alias).ok_or(ChangeError::NoAlias(alias))?;
    if !group.is_multicast() {
        return Err(ChangeError::AddressInvalid(group));
    }
    let new = !entry.groups.members.contains_key(&group);
    if new && entry.groups.members.len() >= ctx.limits.groups {
        ctx.mib.limits.groups += 1;
        return Err(ChangeError::Limit("multicast groups"));
    }
    Ok(())
}

/// A join that the limit does not refuse: groups of our own addresses, which have their limit.
pub(super) fn join_internal(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, group: IpAddr) {
    set_sources(ctx, ip, alias, group, None, Some(Wanted::Any));
}

/// One user of `group` that wanted all of it less.
pub(crate) fn leave(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, group: IpAddr) {
    set_sources(ctx, ip, alias, group, Some(Wanted::Any), None);
}

/// A user of `group` on the alias wants `after` in place of `before`; `None`: nothing. What changes
/// for the alias is reported (RFC 3376 5.1); its first user makes `Event::GroupJoined`, its last
/// one `Event::GroupLeft`.
pub(crate) fn set_sources(
    ctx: &mut Ctx<'_>,
    ip: &mut Ip,
    alias: AliasId,
    group: IpAddr,
    before: Option<Wanted<'_>>,
    after: Option<Wanted<'_>>,
) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let robustness = entry.groups.querier(group.is_ipv4()).robustness;
    let peer = !ctx.shard.is_home();
    let reported = !unreported(group) && entry.config.has_link() && !peer;
    // A leave needs no word while the link is down; a join is told when it comes up.
    let (tells_join, tells_leave) = (reported, reported && entry.config.up);
    let member = entry.groups.members.entry(group).or_default();
    let (old, was) = (member.filter(), member.is_wanted());
    member.add(after);
    member.remove(before);
    let is = member.is_wanted();
    if member.filter() == old && was == is {
        if !is && member.repeats == 0 {
            entry.groups.members.remove(&group);
        }
        return;
    }
    if if is { tells_join } else { tells_leave } {
        (member.repeats, member.repeat_at) = (robustness, Some(ctx.now));
        member.answer_at = member.answer_at.filter(|_| is);
    } else if !is {
        entry.groups.members.remove(&group);
    }
    if peer {
        ctx.outbox.events.push_back(Event::GroupChanged { alias, group });
    }
    match (was, is) {
        (false, true) => ctx.outbox.events.push_back(Event::GroupJoined { alias, group }),
        (true, false) => ctx.outbox.events.push_back(Event::GroupLeft { alias, group }),
        _ => {}
    }
    arm(ctx, ip);
}

/// The alias came up: joins the all-nodes groups, reports every group (again).
pub(super) fn alias_up(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId) {
    for group in [IpAddr::V4(ALL_SYSTEMS), IpAddr::V6(ALL_NODES)] {
        let known = ip.aliases.get(&alias).is_none_or(|a| a.groups.members.contains_key(&group));
        if !known {
            join_internal(ctx, ip, alias, group);
        }
    }
    report_again(ctx, ip, alias, true);
    report_again(ctx, ip, alias, false);
}

/// Reports every group of a family: the link is new, or the first report had no source address,
/// which switches that listen in may not have believed (RFC 3590 4).
pub(super) fn report_again(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, v4: bool) {
    if !ctx.shard.is_home() {
        return;
    }
    let Some(entry) = ip.aliases.get_mut(&alias).filter(|a| a.config.has_link()) else { return };
    let robustness = entry.groups.querier(v4).robustness;
    let wanted = |g: &IpAddr| g.is_ipv4() == v4 && !unreported(*g);
    for (_, member) in entry.groups.members.iter_mut().filter(|(g, _)| wanted(g)) {
        member.repeats = robustness;
        member.repeat_at = Some(ctx.now);
    }
    arm(ctx, ip);
}

/// The alias went down: nothing is pending, nothing is known of the queriers.
pub(super) fn alias_down(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId) {
    if let Some(entry) = ip.aliases.get_mut(&alias) {
        let groups = &mut entry.groups;
        (groups.v4, groups.v6) = (Querier::default(), Querier::default());
        groups.members.retain(|_, m| m.is_wanted());
        for member in groups.members.values_mut() {
            (member.repeats, member.repeat_at, member.answer_at) = (0, None, None);
        }
    }
    arm(ctx, ip);
}

/// An IGMP message; `frame` starts with it, the checksum is not verified.
pub(crate) fn input_igmp(ctx: &mut Ctx<'_>, ip: &mut Ip, packet: &InPacket, frame: &Frame) -> Fate {
    match wire::parse_igmp(frame.data()) {
        Some(message) => input(ctx, ip, packet, message),
        None => Fate::Dropped(DropReason::MembershipInvalid),
    }
}

/// ICMPv6 types 130, 131, 132 and 143; `frame` starts with it, the checksum is verified.
pub(crate) fn input_mld(ctx: &mut Ctx<'_>, ip: &mut Ip, packet: &InPacket, frame: &Frame) -> Fate {
    // RFC 3810 6.2: never from beyond the link.
    let near = match packet.src {
        IpAddr::V6(src) => src.is_unicast_link_local() || src.is_unspecified(),
        IpAddr::V4(_) => false,
    };
    match wire::parse_mld(frame.data()).filter(|_| near && packet.hop_limit == 1) {
        Some(Input::Query(_)) if matches!(packet.src, IpAddr::V6(s) if s.is_unspecified()) => {
            Fate::Dropped(DropReason::MembershipInvalid)
        }
        Some(message) => input(ctx, ip, packet, message),
        None => Fate::Dropped(DropReason::MembershipInvalid),
    }
}

fn input(ctx: &mut Ctx<'_>, ip: &mut Ip, packet: &InPacket, message: Input) -> Fate {
    let Some(entry) = ip.aliases.get_mut(&packet.alias) else {
        return Fate::Dropped(DropReason::AliasUnknown);
    };
    match message {
        Input::Query(query) => {
            ctx.mib.neighbour.in_group_queries += 1;
            queried(ctx, &mut entry.groups, packet.src.is_ipv4(), &query);
        }
        // RFC 2236 3, RFC 2710 4: one member's report is enough in the older protocols.
        Input::Report(group) => {
            let older = entry.groups.querier(group.is_ipv4()).older_until.is_some();
            if older && let Some(member) = entry.groups.members.get_mut(&group) {
                member.answer_at = None;
            }
        }
        Input::Other => {}
    }
    arm(ctx, ip);
    Fate::Consumed
}

/// RFC 3376 5.2: each group asked for answers within the time the querier gives.
fn queried(ctx: &mut Ctx<'_>, groups: &mut Groups, v4: bool, query: &Query) {
    let now = ctx.now;
    let querier = groups.querier(v4);
    if query.older {
        let present = querier.interval * querier.robustness.into() + query.response_max;
        querier.older_until = Some(now + present);
    } else {
        if query.robustness > 0 {
            querier.robustness = query.robustness;
        }
        if !query.interval.is_zero() {
            querier.interval = query.interval;
        }
    }
    let older = querier.older_until.is_some_and(|until| until > now);
    let mut delay = || Duration::from_micros(ctx.rng.below(query.response_max.as_micros() as u64));
    // One delay for all, so that the answer is one report; the older protocols want them spread.
    let common = now + delay();
    let asked = groups.members.iter_mut().filter(|(group, member)| {
        let this = query.group.is_none_or(|q| q == **group);
        this && group.is_ipv4() == v4 && member.is_wanted() && !unreported(**group)
    });
    for (_, member) in asked {
        let at = if older { now + delay() } else { common };
        member.answer_at = Some(member.answer_at.map_or(at, |pending| pending.min(at)));
    }
}

/// `Timer::Membership` fired.
pub(crate) fn timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    ip.membership.armed = None;
    let due = |a: &Alias| a.config.up && a.groups.deadline().is_some_and(|at| at <= ctx.now);
    let aliases: Vec<AliasId> =
        ip.aliases.iter().filter(|(_, a)| due(a)).map(|(id, _)| *id).collect();
    for alias in aliases {
        speak(ctx, link, ip, alias, true);
        speak(ctx, link, ip, alias, false);
    }
    arm(ctx, ip);
}

/// Sends the reports of one family that are due.
fn speak(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId, v4: bool) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let now = ctx.now;
    let querier = entry.groups.querier(v4);
    querier.older_until = querier.older_until.filter(|until| *until > now);
    let older = querier.older_until.is_some();
    let mut records: Vec<GroupRecord> = Vec::new();
    entry.groups.members.retain(|group, member| {
        if group.is_ipv4() == v4
            && let Some(kind) = member.take_due(ctx, older)
        {
            let sources = member.filter().unwrap_or_default();
            records.push(GroupRecord { kind, group: *group, sources });
        }
        member.is_wanted() || member.repeats > 0
    });
    if older {
        for GroupRecord { kind, group, .. } in records {
            let dst = match (kind, group) {
                (Record::Left, IpAddr::V4(_)) => ALL_ROUTERS_V4.into(),
                (Record::Left, IpAddr::V6(_)) => ALL_ROUTERS_V6.into(),
                _ => group,
            };
            send(ctx, link, ip, alias, dst, &wire::older(kind, group));
        }
        return;
    }
    let dst = if v4 { ALL_IGMPV3.into() } else { ALL_MLDV2.into() };
    let mut rest = &records[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|r| {
            bytes += r.len();
            bytes <= RECORD_BYTES_MAX
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        send(ctx, link, ip, alias, dst, &wire::report(now));
        rest = later;
    }
}

impl Member {
    fn is_wanted(&self) -> bool {
        self.users > 0 || !self.sources.is_empty()
    }

    /// What the alias asks for: all (`None`), or the packets of these senders (RFC 3376 3.2).
    fn filter(&self) -> Option<Vec<IpAddr>> {
        let only = self.users == 0 && self.sources.len() <= SOURCES_TOLD_MAX;
        only.then(|| self.sources.keys().copied().collect())
    }

    fn add(&mut self, wanted: Option<Wanted<'_>>) {
        match wanted {
            Some(Wanted::Any) => self.users += 1,
            Some(Wanted::Only(sources)) => {
                for source in sources {
                    *self.sources.entry(*source).or_default() += 1;
                }
            }
            None => {}
        }
    }

    fn remove(&mut self, wanted: Option<Wanted<'_>>) {
        match wanted {
            Some(Wanted::Any) => self.users = self.users.saturating_sub(1),
            Some(Wanted::Only(sources)) => {
                for source in sources {
                    if let Some(users) = self.sources.get_mut(source) {
                        *users -= 1;
                        if *users == 0 {
                            self.sources.remove(source);
                        }
                    }
                }
            }
            None => {}
        }
    }

    /// What is to be said now, if anything; a change takes the place of an answer.
    fn take_due(&mut self, ctx: &mut Ctx<'_>, older: bool) -> Option<Record> {
        let now = ctx.now;
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.repeats = self.repeats.saturating_sub(1);
            // The older protocols say good-bye once (RFC 2236 3).
            if older && !self.is_wanted() {
                self.repeats = 0;
            }
            let wait = Duration::from_micros(ctx.rng.below(REPEAT_INTERVAL.as_micros() as u64));
            self.repeat_at = (self.repeats > 0).then_some(now + wait);
            self.answer_at = self.answer_at.filter(|at| *at > now);
            return Some(match (self.is_wanted(), self.filter()) {
                (false, _) => Record::Left,
                (true, None) => Record::Joined,
                (true, Some(_)) => Record::JoinedSources,
            });
        }
        self.answer_at.filter(|at| *at <= now)?;
        self.answer_at = None;
        Some(if self.filter().is_none() { Record::Member } else { Record::MemberSources })
    }
}

/// Sends a message with hop limit 1 and router alert.
fn send(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    dst: IpAddr,
    message: &[u8],
) {
    let Some(mut frame) = ctx.pool.alloc() else {
        return ctx.drop_out(DropReason::FramePoolEmpty);
    };
    frame.append(message);
    let (src, protocol) = match dst {
        IpAddr::V4(_) => (ip.aliases.get(&alias).and_then(source_v4), protocol::IGMP),
        IpAddr::V6(_) => (ip.link_local(alias).map(IpAddr::V6), protocol::ICMPV6),
    };
    // RFC 3376 4.2.13, RFC 3590 4: an alias without address speaks all the same.
    let src = src.unwrap_or(match dst {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    if dst.is_ipv6() {
        let pseudo = checksum::pseudo(src, dst, protocol, frame.len());
        let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(frame.data())));
        frame.data_mut()[2..4].copy_from_slice(&sum.to_be_bytes());
        ctx.mib.icmp6.out_msgs += 1;
    }
    ctx.mib.neighbour.out_group_reports += 1;
    let mut header = IpHeader::new(src, dst, protocol, 1);
    header.router_alert = true;
    // RFC 3376 4: internetwork control.
    header.traffic_class = 0xc0;
    ip.send_on_link(ctx, link, alias, &header, frame);
}

fn source_v4(alias: &Alias) -> Option<IpAddr> {
    let usable = alias.addresses.iter().filter(|a| a.state.usable());
    usable.map(|a| a.cidr.addr).find(IpAddr::is_ipv4)
}

//! What comes in: answers to probes, and what other hosts ask of test addresses.

use std::net::{IpAddr, Ipv6Addr};

use weft_stack::time::{Duration, Instant};

use super::bfd::Refused;
use super::event::ProbeNotice;
use super::fast;
use super::group::{PEERS, Prober, V4, V6, Way, family};
use super::path::{Outcome, Probe, ProbeTarget, TARGETS_ACTIVE_MAX, TargetSource, TargetState};
use super::wire::{self, Arp, Echo, Ether, ICMP, ICMPV6, Ip, Neighbour, Transitive, UDP};
use crate::Mac;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// An answer to a probe that only measures is not older.
const MEASURE_MAX: Duration = Duration::from_secs(10);

impl Prober {
    /// A frame that came in on a member: ARP, ND, packets to test addresses, transitive probes,
    /// BFD. Everything else is counted and ignored.
    pub fn handle_frame(&mut self, now: Instant, member: usize, frame: &[u8]) {
        self.now = self.now.max(now);
        let now = self.now;
        let Some(state) = self.members.get(member) else { return };
        let Some(ether) = Ether::parse(frame) else {
            self.counters.malformed += 1;
            return;
        };
        // What the switch floods back, and what answers a link that is gone.
        let own = self.members.iter().any(|m| m.mac == ether.src);
        let transitive = ether.ethertype == wire::ETHERTYPE_TRANSITIVE;
        if !state.up || (own && !transitive) || ether.src[0] & 1 != 0 {
            self.counters.ignored += 1;
            return;
        }
        let taken = match ether.ethertype {
            wire::ETHERTYPE_ARP => self.handle_arp(now, member, &ether),
            wire::ETHERTYPE_IPV4 => {
                Ip::parse_v4(ether.payload).map(|ip| self.handle_ip(now, member, &ether, &ip))
            }
            wire::ETHERTYPE_IPV6 => {
                Ip::parse_v6(ether.payload).map(|ip| self.handle_ip(now, member, &ether, &ip))
            }
            wire::ETHERTYPE_TRANSITIVE => self.handle_transitive(now, member, &ether),
            _ => Some(false),
        };
        match taken {
            None => self.counters.malformed += 1,
            Some(false) => self.counters.ignored += 1,
            Some(true) => {}
        }
        self.run(now);
    }

    fn handle_arp(&mut self, now: Instant, index: usize, ether: &Ether<'_>) -> Option<bool> {
        let arp = Arp::parse(ether.payload)?;
        if arp.sha != ether.src || arp.sha[0] & 1 != 0 {
            return Some(false);
        }
        let (spa, tpa) = (IpAddr::V4(arp.spa), IpAddr::V4(arp.tpa));
        let member = &self.members[index];
        if member.has(spa) {
            // RFC 5227 2.4.
            self.handle_duplicate(now, index, spa);
            return Some(true);
        }
        let ours = member.has(tpa);
        let held = member.held[V4];
        if arp.op == wire::ARP_REQUEST
            && ours
            && let Some(held) = held
        {
            if arp.spa.is_unspecified() && held.duplicate.is_some() {
                // Another wants it too: who asks first gets it. (Two that use it at once find out
                // by the answers; a question alone may be a probe of who has no address.)
                self.handle_duplicate(now, index, tpa);
            } else if held.duplicate.is_none() && self.may_answer(now, index) {
                let sha = self.members[index].mac;
                let answer =
                    Arp { op: wire::ARP_REPLY, sha, spa: arp.tpa, tha: arp.sha, tpa: arp.spa };
                self.transmit(index, answer.emit(arp.sha, sha));
            }
            self.learn(now, index, spa, arp.sha, false);
            return Some(true);
        }
        let announced = arp.spa == arp.tpa;
        // On a failover group our own MAC address is on no wire; that the frame is ours was seen to
        // by the data path.
        let bound = member.binding[V4] == Some(tpa);
        let answers = arp.op == wire::ARP_REPLY && (arp.tha == member.mac || bound);
        if !(answers || announced) {
            return Some(false);
        }
        self.learn(now, index, spa, arp.sha, answers);
        if answers {
            self.resolve_answered(now, index, V4, spa, false);
        }
        Some(true)
    }

    fn handle_ip(&mut self, now: Instant, index: usize, ether: &Ether<'_>, ip: &Ip<'_>) -> bool {
        if !ip.sum_is_valid() {
            self.counters.checksum += 1;
            return false;
        }
        let kind = ip.payload.first().copied().unwrap_or(u8::MAX);
        let solicits = matches!(kind, wire::SOLICITATION | wire::ADVERTISEMENT);
        if ip.protocol == ICMPV6 && solicits && ip.dst.is_ipv6() {
            return Neighbour::parse(ip).is_some_and(|n| self.handle_neighbour(now, index, ip, &n));
        }
        let usable = self.members[index].held[family(ip.dst)]
            .is_some_and(|h| h.test.address == ip.dst && h.duplicate.is_none());
        if !usable || ether.dst != self.members[index].mac {
            // The data path looked at where it goes.
            return self.handle_bound(now, ip, kind);
        }
        match (ip.protocol, kind) {
            (ICMP, ECHO_REQUEST) if ip.dst.is_ipv4() => self.answer_echo(now, index, ether, ip),
            (ICMPV6, ECHO_REQUEST_V6) if ip.dst.is_ipv6() => {
                self.answer_echo(now, index, ether, ip)
            }
            (ICMP, ECHO_REPLY) if ip.dst.is_ipv4() => self.handle_reply(now, index, V4, ether, ip),
            (ICMPV6, ECHO_REPLY_V6) if ip.dst.is_ipv6() => {
                self.handle_reply(now, index, V6, ether, ip)
            }
            (UDP, _) => self.handle_bfd(now, index, ether, ip),
            _ => false,
        }
    }

    /// An echo reply to a data address: perhaps from beyond the link, else a vserver's own.
    fn handle_bound(&mut self, now: Instant, ip: &Ip<'_>, kind: u8) -> bool {
        let replies = match ip.dst {
            IpAddr::V4(_) => (ip.protocol, kind) == (ICMP, ECHO_REPLY),
            IpAddr::V6(_) => (ip.protocol, kind) == (ICMPV6, ECHO_REPLY_V6),
        };
        let echo = Echo::parse(ip.payload).filter(|_| replies && self.is_bound(ip.dst));
        echo.is_some_and(|echo| self.handle_far(now, &echo, ip.src))
    }

    fn handle_neighbour(&mut self, now: Instant, index: usize, ip: &Ip<'_>, n: &Neighbour) -> bool {
        let target = IpAddr::V6(n.target);
        let ours = self.members[index].has(target);
        if n.advertisement {
            if ours {
                // RFC 4862 5.4.4.
                self.handle_duplicate(now, index, target);
                return true;
            }
            return self.handle_advertisement(now, index, ip.dst, n);
        }
        let Some(held) = self.members[index].held[V6].filter(|_| ours) else { return false };
        let asks_for_itself = ip.src == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if asks_for_itself && held.duplicate.is_some() {
            self.handle_duplicate(now, index, target);
            return true;
        }
        if held.duplicate.is_some() || !self.may_answer(now, index) {
            return true;
        }
        let own = self.members[index].mac;
        let answer = Neighbour { advertisement: true, target: n.target, mac: Some(own) };
        let (dst, mac, flags) = match (ip.src, n.mac.filter(|m| m[0] & 1 == 0)) {
            (src, Some(mac)) if !asks_for_itself => (src, mac, 0x60),
            _ => (ALL_NODES.into(), wire::multicast_mac(ALL_NODES.into()), 0x20),
        };
        self.send_icmp(index, mac, (target, dst), 255, answer.message(flags));
        if let Some(mac) = n.mac.filter(|_| !asks_for_itself) {
            self.learn(now, index, ip.src, mac, false);
        }
        true
    }

    /// A neighbour answers, or tells by itself. Who was asked by a frame to itself need not say its
    /// hardware address (RFC 4861 4.4), and Linux does not.
    fn handle_advertisement(
        &mut self,
        now: Instant,
        index: usize,
        dst: IpAddr,
        n: &Neighbour,
    ) -> bool {
        let target = IpAddr::V6(n.target);
        if let Some(mac) = n.mac {
            if mac[0] & 1 == 1 {
                return false;
            }
            // Of ND probes only an answer to this member says that the address is right.
            let asked = !matches!(self.way(index, V6), Some(Way::Resolve(_)));
            self.learn(now, index, target, mac, asked);
        }
        self.resolve_answered(now, index, V6, target, dst.is_multicast());
        true
    }

    /// Echo requests to a test address are answered to where they came from.
    fn answer_echo(&mut self, now: Instant, index: usize, ether: &Ether<'_>, ip: &Ip<'_>) -> bool {
        let unicast = match ip.src {
            IpAddr::V4(a) => !(a.is_unspecified() || a.is_multicast() || a.is_broadcast()),
            IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast()),
        };
        let fits = (8..=wire::PACKET_BYTES_MAX - 40).contains(&ip.payload.len());
        if !unicast || !fits || ip.payload[1] != 0 || !self.may_answer(now, index) {
            return false;
        }
        let mut message = ip.payload.to_vec();
        message[0] = if ip.dst.is_ipv6() { ECHO_REPLY_V6 } else { ECHO_REPLY };
        message[2..4].fill(0);
        self.send_icmp(index, ether.src, (ip.dst, ip.src), 64, message);
        true
    }

    fn handle_reply(
        &mut self,
        now: Instant,
        index: usize,
        slot: usize,
        ether: &Ether<'_>,
        ip: &Ip<'_>,
    ) -> bool {
        let path = &self.members[index].paths[slot];
        let echo = Echo::parse(ip.payload);
        let Some(echo) = echo.filter(|e| e.id == path.id) else {
            let far = echo.is_some_and(|echo| self.handle_far(now, &echo, ip.src));
            self.counters.unknown += u64::from(!far);
            return far;
        };
        let aim = ProbeTarget::Address(ip.src);
        // RFC 4291 2.1: neighbours answer from where they were asked.
        let near = ip.src.is_ipv4() || matches!(ip.src, IpAddr::V6(a) if a.is_unicast_link_local());
        let found = path.probes.iter().position(|p| p.sequence == echo.sequence);
        let known = match echo.kind {
            wire::KIND_MULTICAST => found.is_some_and(|at| path.probes[at].aim.is_none()),
            wire::KIND_RTT => path.active().any(|t| t.aim == aim),
            wire::KIND_UNICAST => found.is_some_and(|at| {
                let probe = &path.probes[at];
                probe.aim == Some(aim) && probe.outcome != Outcome::Acked && !probe.held
            }),
            _ => false,
        };
        if !near || !known {
            self.counters.unknown += 1;
            return false;
        }
        match echo.kind {
            wire::KIND_MULTICAST => self.found_host(index, slot, ip.src, ether.src),
            wire::KIND_RTT => {
                let age = now.saturating_since(Instant::from_nanos(echo.sent_ns));
                if age <= MEASURE_MAX && echo.sent_ns <= now.as_nanos() {
                    self.measured(now, index, slot, aim, age);
                }
            }
            _ => self.answered(now, index, slot, found.unwrap_or_default()),
        }
        true
    }

    /// A host answered a probe to all: it is a target for every member that it is a neighbour of.
    fn found_host(&mut self, index: usize, slot: usize, host: IpAddr, mac: Mac) {
        let aim = ProbeTarget::Address(host);
        for other in 0..self.members.len() {
            let echo = self.members[other].held[slot].is_some_and(|h| h.duplicate.is_none());
            let path = &self.members[other].paths[slot];
            let hosts = path.targets.iter().all(|t| t.source == TargetSource::Host);
            if !echo
                || !hosts
                || path.targets.len() >= TARGETS_ACTIVE_MAX
                || !self.may_be_target(other, host)
            {
                continue;
            }
            let path = &mut self.members[other].paths[slot];
            if !path.add_target(aim, TargetSource::Host) {
                continue;
            }
            path.refresh_targets(self.now);
            if other == index
                && let Some(target) = path.target(aim)
            {
                target.mac = Some(mac);
            }
            let state = Some(TargetState::Active);
            self.notify(ProbeNotice::Target { member: other, target: aim, state });
        }
    }

    /// The MAC address of a neighbour. `asked`: it answers us, so it is taken in any case.
    fn learn(&mut self, now: Instant, index: usize, address: IpAddr, mac: Mac, asked: bool) {
        let slot = family(address);
        for session in &mut self.sessions {
            if session.member == index && session.peer == address {
                session.mac = Some(mac);
            }
        }
        self.learn_gate(address, mac);
        let mut held = Vec::new();
        let aim = ProbeTarget::Address(address);
        let path = &mut self.members[index].paths[slot];
        if let Some(target) = path.target(aim) {
            target.mac = Some(mac);
            target.doubtful &= !asked;
            for probe in &mut path.probes {
                if probe.held && probe.aim == Some(aim) && probe.outcome == Outcome::Open {
                    let wait = probe.deadline.saturating_since(probe.sent);
                    (probe.held, probe.sent, probe.deadline) = (false, now, now + wait);
                    held.push(probe.sequence);
                }
            }
        }
        if let Some(Way::Echo(src)) = self.way(index, slot) {
            for sequence in held {
                self.emit_echo(now, index, slot, (src, address), (sequence, wire::KIND_UNICAST));
            }
        }
    }

    /// A target of ARP or ND probes answered; those have no numbers, so it is the newest probe.
    /// What all members hear (`to_all`) answers none that asked from its own address, and of the
    /// others only one that still waits.
    fn resolve_answered(
        &mut self,
        now: Instant,
        index: usize,
        slot: usize,
        from: IpAddr,
        to_all: bool,
    ) {
        if !matches!(self.way(index, slot), Some(Way::Resolve(_))) {
            return;
        }
        let aim = Some(ProbeTarget::Address(from));
        let probes = &self.members[index].paths[slot].probes;
        let newest = probes.iter().rposition(|p| p.aim == aim);
        let waits = |at: &usize| {
            let Probe { outcome, to_all: all, .. } = probes[*at];
            let ended = if to_all { outcome != Outcome::Open } else { outcome == Outcome::Acked };
            all == to_all && !ended
        };
        match newest.filter(waits) {
            Some(at) => self.answered(now, index, slot, at),
            None => self.counters.unknown += 1,
        }
    }

    fn handle_transitive(&mut self, now: Instant, index: usize, ether: &Ether<'_>) -> Option<bool> {
        let probe = Transitive::parse(ether.payload)?;
        let (asker, other) = (usize::from(probe.from), usize::from(probe.to));
        let sender = if probe.answer { other } else { asker };
        let receiver = if probe.answer { asker } else { other };
        let ours = probe.group == self.config.group
            && receiver == index
            && sender != index
            && ether.dst == self.members[index].mac
            && self.members.get(sender).is_some_and(|m| m.mac == ether.src);
        if !ours {
            return Some(false);
        }
        if !probe.answer {
            if !self.members[index].offline && self.may_answer(now, index) {
                let own = self.members[index].mac;
                self.transmit(index, Transitive { answer: true, ..probe }.emit(ether.src, own));
            }
            return Some(true);
        }
        let aim = Some(ProbeTarget::Member(probe.to));
        let found = self.members[index].paths[PEERS].probes.iter().position(|p| {
            p.sequence == probe.sequence
                && p.token == probe.token
                && p.aim == aim
                && p.outcome != Outcome::Acked
        });
        match found {
            Some(at) => self.answered(now, index, PEERS, at),
            None => self.counters.unknown += 1,
        }
        Some(found.is_some())
    }

    fn handle_bfd(&mut self, now: Instant, index: usize, ether: &Ether<'_>, ip: &Ip<'_>) -> bool {
        let packet = match fast::parse_udp(ip.payload, ip.hop_limit) {
            None => return false,
            Some(Ok(packet)) => packet,
            Some(Err(refused)) => {
                self.bfd_counters.count(refused);
                return true;
            }
        };
        let discriminator = packet.your_discriminator;
        let mut here = self.sessions.iter().enumerate().filter(|(_, s)| s.member == index);
        // RFC 5880 6.8.6: by our discriminator, before that is known by where it comes from.
        let found = here.find(|(_, s)| match discriminator {
            0 => s.peer == ip.src,
            number => s.session.discriminator() == number,
        });
        let refused = match found.map(|(at, s)| (at, s.peer == ip.src)) {
            None if discriminator == 0 => Err(Refused::Peer),
            None => Err(Refused::YourDiscriminator),
            Some((_, false)) => Err(Refused::Peer),
            Some((at, true)) => {
                let entry = &mut self.sessions[at];
                let before = entry.session.state();
                let taken = entry.session.receive(now, &packet);
                if taken.is_ok() {
                    entry.mac = Some(ether.src);
                }
                self.tell_session(at, before);
                taken
            }
        };
        if let Err(why) = refused {
            self.bfd_counters.count(why);
        } else {
            self.bfd_counters.received += 1;
            self.bfd_counters.demand += u64::from(packet.demand);
        }
        true
    }
}

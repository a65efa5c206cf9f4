//! What goes out: probes when they are due, and questions for MAC addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::time::{Duration, Instant};

use super::event::{ProbeEvent, ProbeNotice, ProbeOutcome};
use super::group::{DUPLICATE_REST, DUPLICATE_WAIT, PEERS, Prober, V4, V6, Way, family};
use super::path::{Outcome, Probe, ProbeTarget, TargetSource, TargetState};
use super::wire::{self, Arp, BROADCAST, Echo, Envelope, ICMP, ICMPV6, Neighbour, Transitive};
use crate::Mac;
use crate::fail::ProbeMode;

const ALL_HOSTS_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));
const ALL_HOSTS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

impl Prober {
    /// Gives up probes that were not answered in time.
    pub(super) fn expire(&mut self, now: Instant, index: usize, slot: usize) {
        loop {
            let member = &mut self.members[index];
            let quiet = member.quiet_until.is_some_and(|until| now < until);
            let path = &mut member.paths[slot];
            let due = |p: &&mut Probe| p.outcome == Outcome::Open && p.deadline <= now;
            let Some(probe) = path.probes.iter_mut().find(due) else { return };
            let counts = !quiet && probe.aim.is_some();
            probe.outcome = if counts { Outcome::Lost } else { Outcome::Void };
            probe.held = false;
            let probe = *probe;
            if let Some(target) = probe.aim.and_then(|aim| path.target(aim)) {
                target.doubtful = true;
            }
            path.note_run();
            self.counters.lost += 1;
            self.tell_probe(index, slot, &probe, ProbeOutcome::Lost, None);
            if counts {
                self.drop_dead_target(now, index, slot, probe.aim);
            }
        }
    }

    pub(super) fn tell_probe(
        &mut self,
        index: usize,
        slot: usize,
        probe: &Probe,
        outcome: ProbeOutcome,
        rtt: Option<Duration>,
    ) {
        let known = probe.aim.and_then(|aim| self.members[index].paths[slot].target(aim));
        let rtt_known = known.map(|t| t.rtt).unwrap_or_default();
        let ns = |d: Duration| d.as_nanos() as u64;
        self.tell(ProbeEvent {
            sent_ns: probe.sent.as_nanos(),
            member: index,
            number: probe.sequence,
            outcome,
            netrtt_ns: rtt.map(ns),
            rtt_ns: rtt.map(ns),
            rttavg_ns: rtt_known.average().map(ns),
            rttdev_ns: rtt_known.deviation().map(ns),
            target: probe.aim,
        });
    }

    /// Sends what is due on a path, if it is in use.
    pub(super) fn send_due(&mut self, now: Instant, index: usize, slot: usize) {
        let way = self.way(index, slot).filter(|way| self.has_work(index, slot, *way));
        let interval = self.interval;
        let Some(way) = way else {
            let path = &mut self.members[index].paths[slot];
            if path.send_at.is_some() {
                path.stop();
            }
            return;
        };
        let Some(at) = self.members[index].paths[slot].send_at else {
            // A random start keeps hosts from probing all at once.
            let start = now + self.random(interval);
            let path = &mut self.members[index].paths[slot];
            (path.base, path.send_at) = (start, Some(start));
            return;
        };
        if at <= now {
            self.send_probe(now, index, slot, way);
            let wait = interval / 2 + self.random(interval / 2);
            let path = &mut self.members[index].paths[slot];
            path.base += interval;
            if path.base + interval <= now {
                // Called late: what was missed is not made up for.
                path.base = now;
            }
            path.send_at = Some((path.base + wait).max(now));
        }
        self.measure(now, index, slot, way);
    }

    pub(super) fn random(&mut self, below: Duration) -> Duration {
        Duration::from_nanos(self.rng.below(below.as_nanos() as u64 + 1))
    }

    /// There are targets, or hosts may be found.
    fn has_work(&self, index: usize, slot: usize, way: Way) -> bool {
        !self.members[index].paths[slot].targets.is_empty() || matches!(way, Way::Echo(_))
    }

    fn send_probe(&mut self, now: Instant, index: usize, slot: usize, way: Way) {
        let path = &mut self.members[index].paths[slot];
        path.refresh_targets(now);
        let aim = match way {
            Way::Peers => self.next_peer(index),
            _ => path.next_target(),
        };
        if let Way::Echo(src) = way {
            let targets = &self.members[index].paths[slot].targets;
            let hosts = targets.iter().all(|t| t.source == TargetSource::Host);
            if hosts && targets.len() <= 1 {
                self.discover(now, index, slot, src);
            }
        }
        let Some(aim) = aim else { return };
        let wait = self.patience(index, slot, aim);
        let probe = self.members[index].paths[slot].open(Some(aim), now, wait);
        self.counters.sent += 1;
        self.tell_probe(index, slot, &probe, ProbeOutcome::Sent, None);
        match (way, aim) {
            (Way::Echo(src), ProbeTarget::Address(to)) => {
                self.send_echo(now, index, slot, (src, to), probe.sequence);
            }
            (Way::Resolve(src), ProbeTarget::Address(to)) => {
                let path = &mut self.members[index].paths[slot];
                if let Some(probe) = path.probes.back_mut() {
                    probe.to_all = to.is_ipv6() && src.is_none();
                }
                let mac = path.target(aim).and_then(|t| t.mac.filter(|_| !t.doubtful));
                self.ask(index, src, to, mac);
            }
            (_, ProbeTarget::Member(to)) => self.send_transitive(index, to, probe.sequence),
            (Way::Peers, ProbeTarget::Address(_)) => {}
        }
    }

    /// How long an answer is waited for: what a round trip may take, half a period at least, for
    /// a short round trip says nothing of how soon a busy host answers.
    fn patience(&mut self, index: usize, slot: usize, aim: ProbeTarget) -> Duration {
        let interval = self.interval;
        let target = self.members[index].paths[slot].target(aim);
        target.and_then(|t| t.rtt.conservative()).map_or(interval, |c| c.max(interval / 2))
    }

    /// The next member that works as far as is known.
    fn next_peer(&mut self, index: usize) -> Option<ProbeTarget> {
        for _ in 0..self.members.len() {
            let aim = self.members[index].paths[PEERS].next_target()?;
            let ProbeTarget::Member(other) = aim else { return None };
            if self.is_good_peer(usize::from(other)) {
                return Some(aim);
            }
        }
        None
    }

    /// While targets are too slow: another probe at the configured rate that only measures.
    fn measure(&mut self, now: Instant, index: usize, slot: usize, way: Way) {
        let user = self.user_interval();
        let Way::Echo(src) = way else { return };
        let path = &mut self.members[index].paths[slot];
        if self.interval <= user {
            path.measure_at = None;
            return;
        }
        let at = *path.measure_at.get_or_insert(now + user);
        if at > now {
            return;
        }
        path.measure_at = Some(now + user);
        let Some(ProbeTarget::Address(to)) = path.active().find(|t| t.mac.is_some()).map(|t| t.aim)
        else {
            return;
        };
        self.emit_echo(now, index, slot, (src, to), (0, wire::KIND_RTT));
    }

    /// Asks all hosts who is there.
    fn discover(&mut self, now: Instant, index: usize, slot: usize, src: IpAddr) {
        let all = if slot == V6 { ALL_HOSTS_V6 } else { ALL_HOSTS_V4 };
        let wait = self.interval;
        let probe = self.members[index].paths[slot].open(None, now, wait);
        self.counters.discoveries += 1;
        self.tell_probe(index, slot, &probe, ProbeOutcome::Sent, None);
        let message = self.echo_message(now, index, slot, probe.sequence, wire::KIND_MULTICAST);
        self.send_icmp(index, wire::multicast_mac(all), (src, all), 1, message);
    }

    /// An echo probe, which waits for the MAC address of its target if that is not known.
    fn send_echo(
        &mut self,
        now: Instant,
        index: usize,
        slot: usize,
        (src, to): (IpAddr, IpAddr),
        sequence: u16,
    ) {
        let Some(target) = self.members[index].paths[slot].target(ProbeTarget::Address(to)) else {
            return;
        };
        let (known, doubtful) = (target.mac.is_some(), target.doubtful);
        if !known || doubtful {
            self.ask(index, Some(src), to, None);
        }
        if known {
            self.emit_echo(now, index, slot, (src, to), (sequence, wire::KIND_UNICAST));
        } else if let Some(probe) = self.members[index].paths[slot].probes.back_mut() {
            probe.held = true;
        }
    }

    pub(super) fn emit_echo(
        &mut self,
        now: Instant,
        index: usize,
        slot: usize,
        (src, to): (IpAddr, IpAddr),
        (sequence, kind): (u16, u32),
    ) {
        let target = self.members[index].paths[slot].target(ProbeTarget::Address(to));
        let Some(mac) = target.and_then(|t| t.mac) else { return };
        let message = self.echo_message(now, index, slot, sequence, kind);
        self.send_icmp(index, mac, (src, to), 255, message);
    }

    fn echo_message(
        &self,
        now: Instant,
        index: usize,
        slot: usize,
        seq: u16,
        kind: u32,
    ) -> Vec<u8> {
        let id = self.members[index].paths[slot].id;
        Echo { id, sequence: seq, sent_ns: now.as_nanos(), kind }.message(slot == V6)
    }

    pub(super) fn send_icmp(
        &mut self,
        index: usize,
        dst_mac: Mac,
        (src, dst): (IpAddr, IpAddr),
        hop_limit: u8,
        message: Vec<u8>,
    ) {
        let src_mac = self.members[index].mac;
        let envelope = Envelope { src_mac, dst_mac, src, dst, hop_limit, traffic_class: 0 };
        let protocol = if dst.is_ipv6() { ICMPV6 } else { ICMP };
        self.transmit(index, envelope.frame(protocol, 2, message));
    }

    fn send_transitive(&mut self, index: usize, to: u16, sequence: u16) {
        let Some(peer) = self.members.get(usize::from(to)) else { return };
        let (dst, src) = (peer.mac, self.members[index].mac);
        let token = self.rng.next_u64();
        if let Some(probe) = self.members[index].paths[PEERS].probes.back_mut() {
            probe.token = token;
        }
        let group = self.config.group;
        let probe = Transitive { answer: false, group, from: index as u16, to, sequence, token };
        self.transmit(index, probe.emit(dst, src));
    }

    /// Asks for the MAC address of a neighbour: by broadcast or multicast, or of `mac` only.
    pub(super) fn ask(&mut self, index: usize, src: Option<IpAddr>, to: IpAddr, mac: Option<Mac>) {
        let own = self.members[index].mac;
        match to {
            IpAddr::V4(tpa) => {
                let spa = src.and_then(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
                let spa = spa.unwrap_or(Ipv4Addr::UNSPECIFIED);
                let arp = Arp { op: wire::ARP_REQUEST, sha: own, spa, tha: [0; 6], tpa };
                self.transmit(index, arp.emit(mac.unwrap_or(BROADCAST), own));
            }
            IpAddr::V6(target) => {
                let src = src.filter(IpAddr::is_ipv6);
                // RFC 4861 4.3: no link-layer address from the unspecified address.
                let option = src.map(|_| own);
                let src = src.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
                let all = IpAddr::V6(wire::solicited_node(target));
                // From no address it has to go to the group: RFC 4861 7.1.1.
                let (dst, dst_mac) = match mac.filter(|_| option.is_some()) {
                    Some(mac) => (to, mac),
                    None => (all, wire::multicast_mac(all)),
                };
                let ask = Neighbour { advertisement: false, target, mac: option };
                self.send_icmp(index, dst_mac, (src, dst), 255, ask.message(0));
            }
        }
    }

    /// Asks whether anybody else has a test address (RFC 5227 2.1.1, RFC 4862 5.4.2).
    pub(super) fn ask_for_duplicates(&mut self, index: usize, address: IpAddr) {
        self.ask(index, None, address, None);
    }

    /// Looks again whether a duplicate test address still is one, and uses it if not.
    pub(super) fn recheck_duplicates(&mut self, now: Instant, index: usize) {
        if !self.members[index].up {
            return;
        }
        for slot in [V4, V6] {
            let Some(held) = &mut self.members[index].held[slot] else { continue };
            let Some(again) = held.duplicate.filter(|at| *at <= now) else { continue };
            let address = held.test.address;
            if held.asking_until <= again {
                held.asking_until = now + DUPLICATE_WAIT;
                self.ask_for_duplicates(index, address);
            } else if held.asking_until <= now {
                held.duplicate = None;
                self.notify(ProbeNotice::TestAddressUnique { member: index, address });
            }
        }
    }

    /// Another host uses a test address: it is put aside.
    pub(super) fn handle_duplicate(&mut self, now: Instant, index: usize, address: IpAddr) {
        // At random, so that two who found each other do not ask at the same time again.
        let rest = DUPLICATE_REST + self.random(DUPLICATE_REST / 4);
        let Some(held) = &mut self.members[index].held[family(address)] else { return };
        let new = held.duplicate.is_none();
        if held.duplicate.is_some_and(|at| at > now + DUPLICATE_REST * 2) {
            return;
        }
        held.duplicate = Some(now + rest);
        if new {
            self.counters.duplicates += 1;
            self.notify(ProbeNotice::DuplicateTestAddress { member: index, address });
        }
    }

    /// A target that alone does not answer is not the fault of the member.
    fn drop_dead_target(
        &mut self,
        now: Instant,
        index: usize,
        slot: usize,
        aim: Option<ProbeTarget>,
    ) {
        let Some(aim) = aim else { return };
        let path = &mut self.members[index].paths[slot];
        let run = path.run(Some(aim));
        let since = run.first_loss.unwrap_or(now);
        let others = path.probes.iter().any(|p| {
            p.outcome == Outcome::Acked && p.aim.is_some_and(|a| a != aim) && p.sent >= since
        });
        if run.lost < super::path::LOSSES_FAIL || !others {
            return;
        }
        let Some(target) = path.target(aim) else { return };
        if target.source == TargetSource::Host {
            path.targets.retain(|t| t.aim != aim);
            self.notify(ProbeNotice::Target { member: index, target: aim, state: None });
        } else if target.state == TargetState::Active {
            self.rest_target(now, index, slot, aim, TargetState::Dead);
        }
        self.counters.targets_dropped += 1;
    }

    pub(super) fn rest_target(
        &mut self,
        now: Instant,
        index: usize,
        slot: usize,
        aim: ProbeTarget,
        state: TargetState,
    ) {
        let path = &mut self.members[index].paths[slot];
        if let Some(target) = path.target(aim) {
            target.state = state;
            target.until = now + super::path::TARGET_REST;
            target.mac = None;
        }
        path.refresh_targets(now);
        self.notify(ProbeNotice::Target { member: index, target: aim, state: Some(state) });
    }

    /// Whether the group is probed at all.
    pub(super) fn is_probed(&self) -> bool {
        self.config.method != ProbeMode::Link
    }
}

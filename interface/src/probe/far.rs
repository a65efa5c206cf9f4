//! Targets beyond the link: whether hosts behind a router are reached. This is no matter of one
//! member, so those that work send in turn; what it means is decided by the group.
//!
//! An IPv4 probe has the test address of its member as source. IPv6 test addresses are link-local,
//! which no router forwards, and members may have none: then it is a data address that is bound to
//! the member.

use std::net::IpAddr;

use weft_stack::time::{Duration, Instant};

use super::event::{ProbeEvent, ProbeOutcome};
use super::group::{Prober, V4, Way, family};
use super::path::{ACKS_REPAIR, LOSSES_FAIL, Outcome, Path, Probe, ProbeTarget};
use super::report::FarRow;
use super::rtt::Rtt;
use super::wire::{self, Echo};
use crate::Mac;

/// A target beyond the link.
#[derive(Clone, Debug)]
pub(super) struct Far {
    pub(super) target: IpAddr,
    pub(super) lost: bool,
    path: Path,
    rtt: Rtt,
    /// Whose turn it is.
    member: usize,
}

impl Far {
    pub(super) fn new(target: IpAddr, id: u16) -> Far {
        Far { target, lost: false, path: Path::new(id), rtt: Rtt::default(), member: 0 }
    }

    /// Members are others: probes on their way name those of before.
    pub(super) fn renumber(&mut self) {
        self.path.stop();
        self.member = 0;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.path.send_at.into_iter().chain(self.path.next_deadline()).min()
    }

    fn event(&self, probe: &Probe, outcome: ProbeOutcome, rtt: Option<Duration>) -> ProbeEvent {
        let ns = |d: Duration| d.as_nanos() as u64;
        ProbeEvent {
            sent_ns: probe.sent.as_nanos(),
            member: probe.token as usize,
            number: probe.sequence,
            outcome,
            netrtt_ns: rtt.map(ns),
            rtt_ns: rtt.map(ns),
            rttavg_ns: self.rtt.average().map(ns),
            rttdev_ns: self.rtt.deviation().map(ns),
            target: probe.aim,
        }
    }
}

impl Prober {
    /// A target beyond the link was lost after five probes in a row (false), or is back after ten
    /// answers (true). It counts as reached before.
    pub fn poll_beyond(&mut self) -> Option<(IpAddr, bool)> {
        self.beyond.pop_front()
    }

    /// A member that works and can send to what is beyond: itself, its address.
    fn far_member(&self, from: usize, slot: usize) -> Option<(usize, IpAddr)> {
        let count = self.members.len();
        (0..count).map(|i| (from + i) % count).find_map(|index| {
            let member = &self.members[index];
            let broken = !member.up || member.offline || member.failed || member.failed_fast;
            // What is not probed works by its link.
            let works = !broken && (member.heard || !self.is_enabled(index));
            self.far_source(index, slot).filter(|_| works).map(|src| (index, src))
        })
    }

    /// The address that a member asks from what is beyond.
    fn far_source(&self, index: usize, slot: usize) -> Option<IpAddr> {
        match self.way(index, slot) {
            Some(Way::Echo(src)) if slot == V4 => Some(src),
            _ => self.members[index].binding[slot].filter(leaves_the_link),
        }
    }

    /// The router to what is beyond.
    fn gateway(&self, index: usize, slot: usize) -> Option<IpAddr> {
        let mut near = self.routers.iter().chain(&self.config.targets);
        // An IPv6 router may be known by an address of any scope.
        let usable =
            |a: &&IpAddr| family(**a) == slot && (slot != V4 || self.may_be_target(index, **a));
        near.find(usable).copied()
    }

    /// A router answered, or told of itself.
    pub(super) fn learn_gate(&mut self, address: IpAddr, mac: Mac) {
        let known = self.routers.contains(&address) || self.config.targets.contains(&address);
        if self.far.is_empty() || !known {
            return;
        }
        match self.gates.iter_mut().find(|gate| gate.0 == address) {
            Some(gate) => gate.1 = mac,
            None => self.gates.push((address, mac)),
        }
    }

    /// Whether somebody may answer to this address what was sent beyond the link.
    pub(super) fn is_bound(&self, address: IpAddr) -> bool {
        self.members.iter().any(|m| m.binding.contains(&Some(address)))
    }

    /// Targets beyond the link as they are now.
    pub(super) fn far_rows(&self) -> Vec<FarRow> {
        let row = |far: &Far| {
            let slot = family(far.target);
            let by = self.far_member(far.member, slot);
            FarRow {
                target: far.target,
                lost: far.lost,
                source: by.map(|(_, src)| src),
                gateway: by.and_then(|(index, _)| self.gateway(index, slot)),
            }
        };
        self.far.iter().map(row).collect()
    }

    pub(super) fn run_far(&mut self, now: Instant, at: usize) {
        self.expire_far(now, at);
        let slot = family(self.far[at].target);
        let Some((index, src)) = self.far_member(self.far[at].member, slot) else {
            // That no member works is told by them.
            self.far[at].path.stop();
            return;
        };
        let Some(due) = self.far[at].path.send_at else {
            self.far[at].path.send_at = Some(now + self.random(self.interval));
            return;
        };
        let Some(gateway) = self.gateway(index, slot).filter(|_| due <= now) else {
            if due <= now {
                self.far[at].path.send_at = Some(now + self.interval);
            }
            return;
        };
        let wait = self.interval / 4 * 3 + self.random(self.interval / 4);
        let far = &mut self.far[at];
        far.member = index + 1;
        far.path.send_at = Some(now + wait);
        let aim = Some(ProbeTarget::Address(far.target));
        let probe = far.path.open(aim, now, self.interval);
        if let Some(open) = far.path.probes.back_mut() {
            open.token = index as u64;
        }
        let event = far.event(&Probe { token: index as u64, ..probe }, ProbeOutcome::Sent, None);
        let (id, to) = (far.path.id, far.target);
        self.counters.sent += 1;
        self.tell(event);
        let gate = self.gates.iter().find(|gate| gate.0 == gateway).map(|gate| gate.1);
        if gate.is_none() || self.far[at].path.run(None).lost > 0 {
            // It may be another by now.
            self.ask(index, Some(src), gateway, None);
        }
        if let Some(mac) = gate {
            let sent_ns = now.as_nanos();
            let echo = Echo { id, sequence: probe.sequence, sent_ns, kind: wire::KIND_UNICAST };
            self.send_icmp(index, mac, (src, to), 64, echo.message(slot != V4));
        }
    }

    fn expire_far(&mut self, now: Instant, at: usize) {
        let far = &mut self.far[at];
        let mut events = Vec::new();
        for i in 0..far.path.probes.len() {
            let probe = far.path.probes[i];
            if probe.outcome == Outcome::Open && probe.deadline <= now {
                far.path.probes[i].outcome = Outcome::Lost;
                events.push(far.event(&probe, ProbeOutcome::Lost, None));
            }
        }
        if !far.lost && far.path.run(None).lost >= LOSSES_FAIL {
            far.lost = true;
            let told = (far.target, false);
            self.tell_beyond(told);
        }
        self.counters.lost += events.len() as u64;
        for event in events {
            self.tell(event);
        }
    }

    /// An echo reply from beyond; false if no probe waits for it.
    pub(super) fn handle_far(&mut self, now: Instant, echo: &Echo, src: IpAddr) -> bool {
        let Some(far) = self.far.iter_mut().find(|f| f.path.id == echo.id && f.target == src)
        else {
            return false;
        };
        let open = |p: &&mut Probe| p.sequence == echo.sequence && p.outcome != Outcome::Acked;
        let Some(probe) = far.path.probes.iter_mut().find(open) else { return false };
        probe.outcome = Outcome::Acked;
        let probe = *probe;
        let rtt = now.saturating_since(probe.sent);
        far.rtt = far.rtt.with(rtt);
        let back = far.lost && far.path.run(None).acked >= ACKS_REPAIR;
        far.lost &= !back;
        let event = far.event(&probe, ProbeOutcome::Acked, Some(rtt));
        if back {
            self.tell_beyond((src, true));
        }
        self.counters.acked += 1;
        self.tell(event);
        true
    }

    /// The newest of each target is all that matters.
    fn tell_beyond(&mut self, (target, reached): (IpAddr, bool)) {
        self.beyond.retain(|told| told.0 != target);
        self.beyond.push_back((target, reached));
    }
}

/// Whether routers forward what comes from it.
fn leaves_the_link(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

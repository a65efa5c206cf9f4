//! Targets beyond the link: whether hosts behind a router are reached. This is no matter of one
//! member, so those that work send in turn; what it means is decided by the group.

use std::net::IpAddr;

use weft_stack::time::{Duration, Instant};

use super::event::{ProbeEvent, ProbeOutcome};
use super::group::{Prober, V4, Way};
use super::path::{ACKS_REPAIR, LOSSES_FAIL, Outcome, Path, Probe, ProbeTarget};
use super::rtt::Rtt;
use super::wire::{self, Echo};

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
    /// IPv6 test addresses are link-local, which no router forwards: such targets are not probed.
    pub(super) fn new(target: IpAddr, id: u16) -> Option<Far> {
        let path = Path::new(id);
        target.is_ipv4().then_some(Far {
            target,
            lost: false,
            path,
            rtt: Rtt::default(),
            member: 0,
        })
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
    fn far_member(&self, from: usize) -> Option<(usize, IpAddr)> {
        let count = self.members.len();
        (0..count).map(|i| (from + i) % count).find_map(|index| {
            let works = self.members[index].heard && !self.members[index].failed;
            match self.way(index, V4).filter(|_| works)? {
                Way::Echo(src) => Some((index, src)),
                _ => None,
            }
        })
    }

    /// The router to what is beyond.
    fn gateway(&self, index: usize) -> Option<IpAddr> {
        let mut near = self.routers.iter().chain(&self.config.targets);
        near.find(|a| a.is_ipv4() && self.may_be_target(index, **a)).copied()
    }

    pub(super) fn run_far(&mut self, now: Instant, at: usize) {
        self.expire_far(now, at);
        let Some((index, src)) = self.far_member(self.far[at].member) else {
            // That no member works is told by them.
            self.far[at].path.stop();
            return;
        };
        let Some(due) = self.far[at].path.send_at else {
            self.far[at].path.send_at = Some(now + self.random(self.interval));
            return;
        };
        let Some(gateway) = self.gateway(index).filter(|_| due <= now) else {
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
        let path = &mut self.members[index].paths[V4];
        let router = path.target(ProbeTarget::Address(gateway));
        match router.and_then(|t| t.mac) {
            Some(mac) => {
                let sent_ns = now.as_nanos();
                let echo = Echo { id, sequence: probe.sequence, sent_ns, kind: wire::KIND_UNICAST };
                self.send_icmp(index, mac, (src, to), 64, echo.message(false));
            }
            None => self.ask(index, Some(src), gateway, None),
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

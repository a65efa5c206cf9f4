//! Probers, hosts and a switch in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use super::wire::{self, Arp, Ether, ICMP, ICMPV6, Ip, Neighbour};
use super::*;
use crate::Mac;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const S: Duration = Duration::from_secs(1);

/// A port of a prober: the cable to the switch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cable {
    pub(super) mac: Mac,
    /// Frames to the switch, and from it, get through.
    pub(super) tx: bool,
    pub(super) rx: bool,
    /// Of a hundred frames, both ways.
    pub(super) loss: u64,
}

/// A host that answers ARP, ND and echo.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) alive: bool,
    pub(super) all_hosts: bool,
    /// Until it answers.
    pub(super) delay: Duration,
    pub(super) echoes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Prober(usize, usize),
    Host(usize),
}

pub(super) struct Lab {
    pub(super) now: Instant,
    pub(super) probers: Vec<Prober>,
    pub(super) cables: Vec<Vec<Cable>>,
    pub(super) hosts: Vec<Host>,
    pub(super) delay: Duration,
    flying: BTreeMap<(Instant, u64), (Port, Vec<u8>)>,
    number: u64,
    rng: Rng,
    pub(super) probes: Vec<ProbeEvent>,
    pub(super) notices: Vec<(Instant, ProbeNotice)>,
    /// All frames of probers.
    pub(super) wire: Vec<(Instant, usize, usize, Vec<u8>)>,
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn member(prober: u8, index: u8, test: &[&str]) -> ProbeMember {
    let test = test.iter().map(|t| TestAddress { address: ip(t), prefix_len: 24 }).collect();
    ProbeMember { mac: [2, 0, 0, 0, prober, index], test }
}

pub(super) fn host(number: u8, addresses: &[&str]) -> Host {
    Host {
        mac: [2, 0, 0, 1, 0, number],
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        alive: true,
        all_hosts: false,
        delay: Duration::ZERO,
        echoes: 0,
    }
}

pub(super) fn icmp(detect_ms: u64, targets: &[&str]) -> ProbeConfig {
    ProbeConfig {
        method: ProbeMode::Icmp,
        detect: Duration::from_millis(detect_ms),
        targets: targets.iter().map(|t| ip(t)).collect(),
        ..ProbeConfig::default()
    }
}

impl Lab {
    pub(super) fn new(probers: &[(ProbeConfig, Vec<ProbeMember>)], hosts: Vec<Host>) -> Lab {
        let cable = |m: &ProbeMember| Cable { mac: m.mac, tx: true, rx: true, loss: 0 };
        let mut lab = Lab {
            now: Instant::from_millis(1000),
            cables: probers.iter().map(|(_, m)| m.iter().map(cable).collect()).collect(),
            probers: probers
                .iter()
                .enumerate()
                .map(|(i, (c, m))| Prober::new(c, m, i as u64))
                .collect(),
            hosts,
            delay: Duration::from_micros(100),
            flying: BTreeMap::new(),
            number: 0,
            rng: Rng::from_u64(9),
            probes: Vec::new(),
            notices: Vec::new(),
            wire: Vec::new(),
        };
        for (prober, (_, members)) in probers.iter().enumerate() {
            for index in 0..members.len() {
                lab.probers[prober].handle_link(lab.now, index, true);
                lab.drain(prober);
            }
        }
        lab
    }

    /// One prober with two members on v4, and hosts `10.0.0.1..`.
    pub(super) fn pair(config: &ProbeConfig, hosts: &[&str]) -> Lab {
        let members = vec![member(0, 0, &["10.0.0.201"]), member(0, 1, &["10.0.0.202"])];
        let hosts = hosts.iter().enumerate().map(|(i, h)| host(i as u8, &[h])).collect();
        Lab::new(&[(config.clone(), members)], hosts)
    }

    fn fly(&mut self, port: Port, delay: Duration, frame: Vec<u8>) {
        self.number += 1;
        self.flying.insert((self.now + delay, self.number), (port, frame));
    }

    fn lost(&mut self, cable: Cable) -> bool {
        self.rng.below(100) < cable.loss
    }

    /// To whom it is addressed, as a switch that knows all.
    fn switch(&mut self, from: Port, delay: Duration, frame: &[u8]) {
        let ether = Ether::parse(frame).expect("a frame");
        let all = ether.dst[0] & 1 == 1;
        let mut to = BTreeSet::new();
        for (p, cables) in self.cables.iter().enumerate() {
            let here = cables.iter().enumerate().filter(|(_, c)| all || c.mac == ether.dst);
            to.extend(here.map(|(m, _)| Port::Prober(p, m)));
        }
        let hosts = self.hosts.iter().enumerate().filter(|(_, h)| all || h.mac == ether.dst);
        to.extend(hosts.map(|(h, _)| Port::Host(h)));
        to.remove(&from);
        for port in to {
            self.fly(port, delay, frame.to_vec());
        }
    }

    pub(super) fn drain(&mut self, prober: usize) {
        while let Some((index, frame)) = self.probers[prober].poll_transmit() {
            self.wire.push((self.now, prober, index, frame.clone()));
            let cable = self.cables[prober][index];
            if cable.tx && !self.lost(cable) {
                self.switch(Port::Prober(prober, index), self.delay, &frame);
            }
        }
        while let Some(event) = self.probers[prober].poll_probe_event() {
            self.probes.push(event);
        }
        while let Some(notice) = self.probers[prober].poll_notice() {
            self.notices.push((self.now, notice));
        }
    }

    fn deliver(&mut self, port: Port, frame: &[u8]) {
        match port {
            Port::Prober(prober, index) => {
                let cable = self.cables[prober][index];
                if cable.rx && !self.lost(cable) {
                    self.probers[prober].handle_frame(self.now, index, frame);
                    self.drain(prober);
                }
            }
            Port::Host(index) => {
                let answer = self.hosts[index].answer(frame);
                if let Some(answer) = answer {
                    let delay = self.delay + self.hosts[index].delay;
                    self.switch(Port::Host(index), delay, &answer);
                }
            }
        }
    }

    /// Until then.
    pub(super) fn run_to(&mut self, end: Instant) {
        self.run_until(end, |_| false);
    }

    pub(super) fn run(&mut self, time: Duration) {
        self.run_to(self.now + time);
    }

    /// Until something is so, at most until `end`; whether it became so.
    pub(super) fn run_until(&mut self, end: Instant, so: impl Fn(&Lab) -> bool) -> bool {
        let mut idle = 0;
        loop {
            if so(self) {
                return true;
            }
            let timer = (0..self.probers.len())
                .filter_map(|p| Some((self.probers[p].poll_timeout()?, p)))
                .min();
            let frame = self.flying.first_key_value().map(|(k, _)| k.0);
            let next = timer.map(|t| t.0).into_iter().chain(frame).min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = end;
                return so(self);
            };
            // A timer that does not move is an endless loop of the host.
            idle = if next > self.now { 0 } else { idle + 1 };
            assert!(idle < 10_000, "time does not pass at {next:?}");
            self.now = self.now.max(next);
            if frame == Some(next) {
                let (_, (port, frame)) = self.flying.pop_first().expect("there is one");
                self.deliver(port, &frame);
            } else if let Some((_, prober)) = timer {
                self.probers[prober].handle_timeout(self.now);
                self.drain(prober);
            }
        }
    }

    pub(super) fn state(&self, member: usize) -> ProbeState {
        self.probers[0].verdict(member).state
    }

    pub(super) fn states(&self) -> Vec<ProbeState> {
        (0..self.cables[0].len()).map(|m| self.state(m)).collect()
    }

    pub(super) fn cut(&mut self, member: usize) {
        (self.cables[0][member].tx, self.cables[0][member].rx) = (false, false);
    }

    pub(super) fn mend(&mut self, member: usize) {
        (self.cables[0][member].tx, self.cables[0][member].rx) = (true, true);
    }

    pub(super) fn targets(&self, member: usize) -> Vec<(String, TargetState)> {
        let rows = self.probers[0].report(self.now).rows;
        let rows = rows.into_iter().filter(|r| r.member == member).flat_map(|r| r.targets);
        rows.map(|t| {
            let name = match t.target {
                ProbeTarget::Address(a) => a.to_string(),
                ProbeTarget::Member(m) => format!("member {m}"),
            };
            (name, t.state)
        })
        .collect()
    }
}

impl Host {
    /// What a host says to a frame.
    fn answer(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let ether = Ether::parse(frame).filter(|_| self.alive)?;
        match ether.ethertype {
            wire::ETHERTYPE_ARP => {
                let arp = Arp::parse(ether.payload)?;
                let asked = arp.op == 1 && self.addresses.contains(&arp.tpa.into());
                let reply = Arp { op: 2, sha: self.mac, spa: arp.tpa, tha: arp.sha, tpa: arp.spa };
                asked.then(|| reply.emit(arp.sha, self.mac))
            }
            wire::ETHERTYPE_IPV4 => self.answer_ip(&ether, &Ip::parse_v4(ether.payload)?),
            wire::ETHERTYPE_IPV6 => self.answer_ip(&ether, &Ip::parse_v6(ether.payload)?),
            _ => None,
        }
    }

    fn answer_ip(&mut self, ether: &Ether<'_>, ip: &Ip<'_>) -> Option<Vec<u8>> {
        assert!(ip.sum_is_valid(), "every packet of ours has a right checksum");
        let own = |to: IpAddr| wire::Envelope {
            src_mac: self.mac,
            dst_mac: ether.src,
            src: to,
            dst: ip.src,
            hop_limit: 255,
            traffic_class: 0,
        };
        if ip.protocol == ICMPV6 && ip.payload[0] == wire::SOLICITATION {
            let asked = Neighbour::parse(ip).expect("a right solicitation");
            let target = IpAddr::V6(asked.target);
            if !self.addresses.contains(&target) {
                return None;
            }
            // As Linux: who asked by unicast knows the MAC address.
            let mac = (ether.dst[0] & 1 == 1).then_some(self.mac);
            let answer = Neighbour { advertisement: true, target: asked.target, mac };
            let mut envelope = own(target);
            if ip.src == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
                envelope.dst = super::lab_tests::ip("ff02::1");
                envelope.dst_mac = wire::multicast_mac(envelope.dst);
            }
            return Some(envelope.frame(ICMPV6, 2, answer.message(0x60)));
        }
        let (request, reply) = if ip.dst.is_ipv6() { (128, 129) } else { (8, 0) };
        let to_all = self.all_hosts
            && (ip.dst == IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1))
                || ip.dst == super::lab_tests::ip("ff02::1"));
        let from = self.addresses.iter().find(|a| a.is_ipv6() == ip.dst.is_ipv6()).copied();
        let from = if to_all { from? } else { ip.dst };
        if !self.addresses.contains(&from) || ip.payload[0] != request {
            return None;
        }
        let mut message = ip.payload.to_vec();
        message[0] = reply;
        message[2..4].fill(0);
        let protocol = if ip.dst.is_ipv6() { ICMPV6 } else { ICMP };
        let frame = own(from).frame(protocol, 2, message);
        self.echoes += 1;
        Some(frame)
    }
}

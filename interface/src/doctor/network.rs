//! What does not depend on LACP: VLANs, frame sizes, and cables in the wrong port as LLDP shows it.

use super::{
    BondEvidence, Code, Diagnosis, Evidence, GroupEvidence, NicEvidence, Recent, Severity, list,
    place, seconds, settle,
};
use crate::bond::config::Mode;
use crate::fail::{MemberReport, MemberState};
use crate::lldp::NeighbourReport;

/// Frames of a VLAN that should have come over every member of a group: broadcasts do.
const GROUP_FRAMES_MIN: u64 = 20;
/// Frames of a VLAN that should have come over every port of a bond: a switch spreads
/// conversations, and few could all go one way.
const BOND_FRAMES_MIN: u64 = 5000;
/// Bytes around a packet without tag: header and FCS.
const FRAME_EXTRA: usize = 18;

pub(super) fn examine(all: &Evidence, found: &mut Vec<Diagnosis>) {
    for bond in &all.bonds {
        let nics: Vec<&NicEvidence> =
            bond.report.ports.iter().filter_map(|p| all.nic(&p.name)).filter(|n| n.link).collect();
        let of = Together { all, name: &bond.name, nics: &nics, tags: &bond.tags, untagged: true };
        let told = found.len();
        of.vlans_told(found);
        if found.len() == told {
            let ports: Vec<_> = nics.iter().map(|nic| vec![*nic]).collect();
            of.vlans_seen(&ports, Spread::Conversations, found);
        }
        of.mtus(found);
        wrong_ports(all, bond, &nics, found);
    }
    for group in &all.groups {
        examine_group(all, group, found);
    }
    alone(all, found);
    heard_twice(all, found);
}

fn examine_group(all: &Evidence, group: &GroupEvidence, found: &mut Vec<Diagnosis>) {
    let members: Vec<_> = group.members.iter().map(|(names, _)| with_link(all, names)).collect();
    let nics = members.concat();
    let mut own: Vec<u16> = group.members.iter().filter_map(|(_, tag)| *tag).collect();
    own.sort_unstable();
    own.dedup();
    let tags = if own.is_empty() { &group.tags } else { &own };
    let of = Together { all, name: &group.name, nics: &nics, tags, untagged: own.is_empty() };
    let told = found.len();
    of.vlans_told(found);
    if found.len() == told && group.members.iter().all(|m| m.1 == group.members[0].1) {
        of.vlans_seen(&members, Spread::Everywhere, found);
    }
    of.mtus(found);
    same_address(group, found);
}

fn with_link<'a>(all: &'a Evidence, names: &[String]) -> Vec<&'a NicEvidence> {
    names.iter().filter_map(|name| all.nic(name)).filter(|nic| nic.link).collect()
}

/// Members that are out of use because others have their hardware address.
fn same_address(group: &GroupEvidence, found: &mut Vec<Diagnosis>) {
    for member in group.reports.iter().filter(|m| m.state == MemberState::Duplicate) {
        let has_it = |m: &&MemberReport| {
            let out = matches!(m.state, MemberState::Duplicate | MemberState::Offline);
            m.mac == member.mac && !out
        };
        let Some(twin) = group.reports.iter().find(has_it) else { continue };
        let (name, other) = (&member.path.interface, &twin.path.interface);
        found.push(Diagnosis {
            severity: Severity::Error,
            code: Code::DuplicateMac,
            interface: group.name.clone(),
            ports: vec![name.clone()],
            evidence: vec![
                format!("{other}: hardware address {}", twin.mac),
                format!("{name}: hardware address {}, taken out of {}", member.mac, group.name),
            ],
            advice: format!(
                "give {name} a hardware address of its own: a switch would see this one at two ports; or take {name} or {other} out of {}",
                group.name
            ),
        });
    }
}

/// How a switch sends frames to what should be alike.
#[derive(Clone, Copy)]
enum Spread {
    /// Each conversation to one port of a bond.
    Conversations,
    /// What is for all to every member of a group.
    Everywhere,
}

impl Spread {
    /// Frames of a VLAN on one that say that others should have some.
    fn least(self) -> u64 {
        match self {
            Spread::Conversations => BOND_FRAMES_MIN,
            Spread::Everywhere => GROUP_FRAMES_MIN,
        }
    }

    fn counts(self, recent: &Recent) -> &[(u16, u64)] {
        match self {
            Spread::Conversations => &recent.tags,
            Spread::Everywhere => &recent.flooded,
        }
    }
}

/// What came in lately on a port of a bond, or on all NICs of a member.
struct Heard<'a> {
    nics: Vec<&'a NicEvidence>,
    window_ms: u64,
    frames: u64,
    /// Of one VLAN.
    tagged: u64,
}

impl<'a> Heard<'a> {
    /// By NICs that had a link all the time; `None`: there is none for which that was counted.
    fn new(nics: &[&'a NicEvidence], tag: u16, spread: Spread) -> Option<Heard<'a>> {
        let mut heard = Heard { nics: Vec::new(), window_ms: 0, frames: 0, tagged: 0 };
        for &nic in nics {
            let Some(recent) = nic.recent.as_ref().filter(|r| nic.link_ms >= r.window_ms) else {
                continue;
            };
            let Some(count) = spread.counts(recent).iter().find(|t| t.0 == tag) else { continue };
            heard.nics.push(nic);
            heard.window_ms = heard.window_ms.max(recent.window_ms);
            heard.frames += recent.frames;
            heard.tagged += count.1;
        }
        (!heard.nics.is_empty()).then_some(heard)
    }

    fn names(&self) -> Vec<String> {
        self.nics.iter().map(|nic| nic.name.clone()).collect()
    }
}

/// NICs that should be alike.
struct Together<'a> {
    all: &'a Evidence,
    name: &'a str,
    nics: &'a [&'a NicEvidence],
    /// VLANs that are used on all of them.
    tags: &'a [u16],
    /// Untagged frames are used, or might be.
    untagged: bool,
}

impl Together<'_> {
    fn push(
        &self,
        found: &mut Vec<Diagnosis>,
        (code, severity): (Code, Severity),
        ports: Vec<String>,
        evidence: Vec<String>,
        advice: String,
    ) {
        let interface = self.name.to_owned();
        // A group over a bond has nothing to add.
        let known = |d: &Diagnosis| d.code == code && ports.iter().all(|p| d.ports.contains(p));
        if ports.is_empty() || !found.iter().any(known) {
            found.push(Diagnosis { severity, code, interface, ports, evidence, advice });
        }
    }

    /// What LLDP says of each, as soon as it is said for long enough.
    fn neighbours(&self) -> Vec<(&NicEvidence, &NeighbourReport)> {
        let told = self.nics.iter().filter_map(|n| Some((*n, self.all.neighbour(&n.name)?)));
        told.filter(|(_, n)| n.known_ms >= settle::LLDP).collect()
    }

    /// VLANs by LLDP: those of the ports against each other, and against those in use.
    fn vlans_told(&self, found: &mut Vec<Diagnosis>) {
        let told = self.neighbours();
        let pvids: Vec<_> = told
            .iter()
            .filter_map(|(nic, n)| Some((*nic, n.pvid.filter(|id| *id != 0)?, *n)))
            .collect();
        if let Some(odd) = odd_one(pvids.iter().map(|p| p.1)).filter(|_| self.untagged) {
            let line = |(nic, pvid, n): &(&NicEvidence, u16, &NeighbourReport)| {
                format!("{}: {} puts untagged frames into VLAN {pvid}", nic.name, place(n))
            };
            let (nic, _, n) = pvids[odd];
            let right = pvids[usize::from(odd == 0)].1;
            self.push(
                found,
                (Code::VlanMismatch, Severity::Error),
                vec![nic.name.clone()],
                pvids.iter().map(line).collect(),
                format!("set the untagged VLAN of {} to {right} as on the others", place(n)),
            );
            return;
        }
        let listed: Vec<_> =
            told.into_iter().filter(|(_, n)| !n.vlans.is_empty() && !n.vlans_cut).collect();
        for &(nic, n) in &listed {
            let mut wanted: Vec<u16> = self.tags.to_vec();
            wanted.extend(listed.iter().flat_map(|(_, n)| n.vlans.iter().copied()));
            wanted.sort_unstable();
            wanted.dedup();
            wanted.retain(|id| !n.vlans.contains(id) && n.pvid != Some(*id));
            if wanted.is_empty() {
                continue;
            }
            let severity = if wanted.iter().any(|id| self.tags.contains(id)) {
                Severity::Error
            } else {
                Severity::Warning
            };
            let line = |(nic, n): &(&NicEvidence, &NeighbourReport)| {
                format!("{}: {} has the VLANs {}", nic.name, place(n), list(&n.vlans))
            };
            let mut evidence: Vec<String> = listed.iter().map(line).collect();
            if !self.tags.is_empty() {
                evidence.push(format!("{} uses the VLANs {}", self.name, list(self.tags)));
            }
            self.push(
                found,
                (Code::VlanMismatch, severity),
                vec![nic.name.clone()],
                evidence,
                format!("add the VLANs {} to {}", list(&wanted), place(n)),
            );
        }
    }

    /// VLANs that come in on some and not on others that receive enough.
    fn vlans_seen(
        &self,
        receivers: &[Vec<&NicEvidence>],
        spread: Spread,
        found: &mut Vec<Diagnosis>,
    ) {
        for &tag in self.tags {
            let heard = receivers.iter().filter_map(|nics| Heard::new(nics, tag, spread));
            let heard: Vec<Heard<'_>> = heard.collect();
            let most = heard.iter().map(|h| h.tagged).max().unwrap_or(0);
            let lacks = |h: &&Heard<'_>| h.tagged == 0 && h.frames >= GROUP_FRAMES_MIN;
            let missing: Vec<_> = heard.iter().filter(lacks).collect();
            if most < spread.least() || missing.is_empty() {
                continue;
            }
            let what = match spread {
                Spread::Conversations => "of VLAN",
                Spread::Everywhere => "to everybody in VLAN",
            };
            let line = |h: &Heard<'_>| {
                format!(
                    "{}: {} of {} frames in {} are {what} {tag}",
                    list(&h.names()),
                    h.tagged,
                    h.frames,
                    seconds(h.window_ms)
                )
            };
            let ports: Vec<String> = missing.iter().flat_map(|h| h.names()).collect();
            let ends: Vec<String> = ports.iter().map(|name| self.all.other_end(name)).collect();
            self.push(
                found,
                (Code::VlanMismatch, Severity::Warning),
                ports,
                heard.iter().map(line).collect(),
                format!("look whether VLAN {tag} is on {}", list(&ends)),
            );
        }
    }

    fn mtus(&self, found: &mut Vec<Diagnosis>) {
        let told: Vec<_> = self
            .neighbours()
            .into_iter()
            .filter_map(|(nic, n)| Some((nic, n.max_frame?, n)))
            .collect();
        let line = |(nic, max, n): &(&NicEvidence, u16, &NeighbourReport)| {
            let mtu = nic.mtu.map_or_else(String::new, |mtu| format!(", our MTU is {mtu}"));
            format!("{}: {} takes frames of {max} bytes{mtu}", nic.name, place(n))
        };
        let small = |(nic, max, _): &&(&NicEvidence, u16, &NeighbourReport)| {
            nic.mtu.is_some_and(|mtu| mtu + FRAME_EXTRA > usize::from(*max))
        };
        let too_small: Vec<_> = told.iter().filter(small).collect();
        if !too_small.is_empty() {
            let ends: Vec<_> = too_small.iter().map(|(_, _, n)| place(n)).collect();
            self.push(
                found,
                (Code::MtuMismatch, Severity::Error),
                too_small.iter().map(|(nic, _, _)| nic.name.clone()).collect(),
                told.iter().map(line).collect(),
                format!("raise the MTU of {}, or lower that of {}", list(&ends), self.name),
            );
        } else if let Some(odd) = odd_one(told.iter().map(|t| t.1)) {
            let (nic, _, n) = told[odd];
            self.push(
                found,
                (Code::MtuMismatch, Severity::Warning),
                vec![nic.name.clone()],
                told.iter().map(line).collect(),
                format!("set one MTU at {} and the other ports of {}", place(n), self.name),
            );
        }
        let own: Vec<_> = self.nics.iter().filter_map(|n| Some((*n, n.mtu?))).collect();
        if let Some(odd) = odd_one(own.iter().map(|o| o.1)) {
            let line = |(nic, mtu): &(&NicEvidence, usize)| format!("{}: MTU {mtu}", nic.name);
            self.push(
                found,
                (Code::MtuMismatch, Severity::Warning),
                vec![own[odd].0.name.clone()],
                own.iter().map(line).collect(),
                format!("give all NICs of {} one MTU", self.name),
            );
        }
    }
}

/// The position of a value that most others differ from; the later one of two.
fn odd_one<T: PartialEq>(values: impl Iterator<Item = T>) -> Option<usize> {
    let values: Vec<T> = values.collect();
    let alike = |v: &T| values.iter().filter(|other| *other == v).count();
    let most = values.iter().map(alike).max()?;
    let usual = values.iter().find(|v| alike(v) == most)?;
    values.iter().rposition(|v| v != usual)
}

fn aggregate(all: &Evidence, nic: &str) -> Option<(String, u32)> {
    let n = all.neighbour(nic).filter(|n| n.known_ms >= settle::LLDP)?;
    let aggregation = n.aggregation.filter(|a| a.enabled && a.id != 0)?;
    Some((n.chassis.clone(), aggregation.id))
}

/// The aggregate of most ports that work, or of most if none does; each with whether it works.
fn usual_aggregate(known: &[((String, u32), bool)]) -> Option<(String, u32)> {
    let works = known.iter().any(|k| k.1);
    let votes = || known.iter().filter(move |k| k.1 || !works).map(|k| &k.0);
    let most = votes().map(|v| votes().filter(|o| *o == v).count()).max()?;
    votes().find(|v| votes().filter(|o| o == v).count() == most).cloned()
}

/// What is to be said of a port that is not in the aggregate `right`.
fn misplaced(
    all: &Evidence,
    bond: &BondEvidence,
    (nic, n): (&NicEvidence, &NeighbourReport),
    right: u32,
    outside: Option<&NicEvidence>,
) -> (Vec<String>, String) {
    let is = match n.aggregation.filter(|a| a.enabled) {
        Some(told) => format!("in aggregate {}", told.id),
        None => "in no aggregate".to_owned(),
    };
    let mut evidence = vec![
        format!("{}: {} is {is}", nic.name, place(n)),
        format!("the others of {} are in aggregate {right} of that switch", bond.name),
    ];
    let Some(outside) = outside else {
        let advice = format!(
            "plug {} into a port of aggregate {right}, or add {} to it",
            nic.name,
            place(n)
        );
        return (evidence, advice);
    };
    let there = all.other_end(&outside.name);
    evidence.push(format!(
        "{} is no port of {}, and is connected to {there}, in that aggregate",
        outside.name, bond.name
    ));
    (evidence, format!("exchange the cables of {} and {}", nic.name, outside.name))
}

/// Ports of a bond against the aggregates of the switch that LLDP names.
fn wrong_ports(
    all: &Evidence,
    bond: &BondEvidence,
    nics: &[&NicEvidence],
    found: &mut Vec<Diagnosis>,
) {
    let carries = |nic: &str| bond.report.ports.iter().any(|p| p.name == nic && p.distributing);
    let known: Vec<_> =
        nics.iter().filter_map(|n| Some((aggregate(all, &n.name)?, carries(&n.name)))).collect();
    let Some(right) = usual_aggregate(&known) else { return };
    let outside = all.nics.iter().find(|n| {
        let is_port = bond.report.ports.iter().any(|p| p.name == n.name);
        n.link && !is_port && aggregate(all, &n.name).as_ref() == Some(&right)
    });
    let negotiated = bond.report.mode == Mode::Lacp;
    for nic in nics {
        let Some(n) = all.neighbour(&nic.name).filter(|n| n.known_ms >= settle::LLDP) else {
            continue;
        };
        let Some(told) = n.aggregation else { continue };
        let odd = n.chassis == right.0 && !(told.enabled && told.id == right.1);
        // One that works by LACP is in the right place, whatever else is said of it.
        if !odd || negotiated && carries(&nic.name) {
            continue;
        }
        let by_lacp = found.iter().position(|d| {
            d.interface == bond.name && d.ports == [nic.name.clone()] && is_consequence(d.code)
        });
        if by_lacp.is_some() && outside.is_none() {
            continue;
        }
        let (mut evidence, advice) = misplaced(all, bond, (nic, n), right.1, outside);
        if let Some(at) = by_lacp {
            evidence.extend(found.remove(at).evidence);
        }
        found.push(Diagnosis {
            severity: Severity::Error,
            code: Code::WrongPort,
            interface: bond.name.clone(),
            ports: vec![nic.name.clone()],
            evidence,
            advice,
        });
    }
}

/// What a cable in the wrong port causes.
fn is_consequence(code: Code) -> bool {
    matches!(
        code,
        Code::NoPartner
            | Code::StaticOrNone
            | Code::KeyMismatch
            | Code::PartnerIndividual
            | Code::PartnerChurn
    )
}

/// NICs that are part of nothing: their own frames do not come back.
fn alone(all: &Evidence, found: &mut Vec<Diagnosis>) {
    let in_bond =
        |name: &str| all.bonds.iter().any(|b| b.report.ports.iter().any(|p| p.name == name));
    let in_group = |name: &str| {
        all.groups.iter().any(|g| g.members.iter().any(|(nics, _)| nics.iter().any(|n| n == name)))
    };
    for nic in &all.nics {
        let Some(recent) = nic.recent.as_ref().filter(|r| r.own >= 3) else { continue };
        if !nic.link || in_bond(&nic.name) || in_group(&nic.name) {
            continue;
        }
        found.push(Diagnosis {
            severity: Severity::Error,
            code: Code::Looped,
            interface: nic.name.clone(),
            ports: vec![nic.name.clone()],
            evidence: vec![format!(
                "{}: {} of our own frames came back in {}",
                nic.name,
                recent.own,
                seconds(recent.window_ms)
            )],
            advice: format!("look for a loop in the network behind {}", all.other_end(&nic.name)),
        });
    }
}

/// Two NICs that LLDP connects to one port.
fn heard_twice(all: &Evidence, found: &mut Vec<Diagnosis>) {
    for (i, nic) in all.nics.iter().enumerate() {
        let Some(n) = all.neighbour(&nic.name).filter(|n| n.known_ms >= settle::LLDP) else {
            continue;
        };
        let same = all.nics[..i].iter().find(|other| {
            let known = all.neighbour(&other.name).filter(|o| o.known_ms >= settle::LLDP);
            known.is_some_and(|o| o.chassis == n.chassis && o.port == n.port)
        });
        let Some(other) = same else { continue };
        let known = |d: &Diagnosis| d.code == Code::Duplicate && d.ports.contains(&nic.name);
        if found.iter().any(known) {
            continue;
        }
        found.push(Diagnosis {
            severity: Severity::Warning,
            code: Code::Duplicate,
            interface: nic.name.clone(),
            ports: vec![other.name.clone(), nic.name.clone()],
            evidence: vec![format!("LLDP of {} comes in on {} and {}", place(n), other.name, nic.name)],
            advice: format!(
                "connect {} and {} directly to ports of their own: something between repeats frames",
                other.name, nic.name
            ),
        });
    }
}

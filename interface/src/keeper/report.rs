//! What the machines say, in the words of operators.

use weft_stack::time::Instant;

use super::Keeper;
use super::failover::Failover;
use super::outlook::target_path;
use crate::bond::lacp::wire::SystemId;
use crate::bond::{BondEvent, BondReport};
use crate::doctor::Reports;
use crate::events::What;
use crate::fail::MemberReport;
use crate::paths::{GroupPath, MemberCount, PathsReport, ProbingPath, SessionPath, TargetPath};
use crate::probe::{ProbeRow, SessionRow, TargetState};

impl Keeper {
    /// Bonds by name, in the order of the configuration.
    pub fn bonds(&self, now: Instant) -> Vec<(String, BondReport)> {
        let named = self.tree.bonds.iter().zip(&self.bonds);
        named.map(|(at, bond)| (self.tree.at(at.link).name.to_string(), bond.report(now))).collect()
    }

    /// Bonds and failover groups, for those who look for errors.
    pub fn reports(&self, now: Instant) -> Reports {
        Reports {
            bonds: self.bonds.iter().map(|bond| bond.report(now)).collect(),
            groups: self.groups.iter().map(|group| group.group.report()).collect(),
        }
    }

    /// Failover groups.
    pub fn paths(&self, now: Instant) -> PathsReport {
        let mut paths = PathsReport { lost: self.lost, ..PathsReport::default() };
        for (group, at) in self.groups.iter().zip(&self.tree.groups) {
            let (report, probes) = (group.group.report(), group.prober.report(now));
            let detection_ms = report.path.detection_ms.map(|ms| ms.max(probes.detect_ms));
            paths.groups.push(GroupPath { detection_ms, ..report.path });
            let count = |m: &MemberReport| MemberCount {
                interface: m.path.interface.clone(),
                counters: m.counters,
                damped_ms: m.damped_ms,
            };
            let members = report.members.iter().map(count).collect();
            paths.interfaces.extend(report.members.into_iter().map(|m| m.path));
            paths.addresses.extend(report.addresses);
            paths.targets.extend(probes.rows.iter().map(|row| target(group, row)));
            let name = group.group.name();
            paths.targets.extend(probes.beyond.iter().map(|row| target_path(name, row)));
            paths.sessions.extend(probes.sessions.iter().map(|row| session(group, row)));
            let group = self.tree.at(at.link).name.to_string();
            let (counters, probes, bfd) = (report.counters, probes.counters, probes.bfd);
            paths.probing.push(ProbingPath { group, counters, members, probes, bfd });
        }
        self.outlook_paths(now, &mut paths);
        paths
    }

    pub(super) fn bond_event(&self, number: usize, event: BondEvent) -> Option<What> {
        let at = &self.tree.bonds[number];
        let bond = self.tree.at(at.link).name.to_string();
        let name = |port: usize| self.tree.at(at.ports[port]).name.to_string();
        Some(match event {
            // The link of the bond tells that.
            BondEvent::Up | BondEvent::Down => return None,
            BondEvent::PortUp { port } => {
                What::BondPort { bond, interface: name(port), up: true, why: None }
            }
            BondEvent::PortDown { port, why } => {
                What::BondPort { bond, interface: name(port), up: false, why: Some(why) }
            }
            BondEvent::Announce { port } => What::BondActive { bond, interface: name(port) },
            BondEvent::PartnerChanged { from, to } => {
                What::BondPartner { bond, from: from.map(system), to: to.map(system) }
            }
            BondEvent::ActorChurn { port, on } => {
                What::BondChurn { bond, interface: name(port), partner: false, on }
            }
            BondEvent::PartnerChurn { port, on } => {
                What::BondChurn { bond, interface: name(port), partner: true, on }
            }
            BondEvent::Drained { port, answered } => {
                What::BondDrained { bond, interface: name(port), answered }
            }
        })
    }
}

fn target(group: &Failover, row: &ProbeRow) -> TargetPath {
    let active = row.targets.iter().filter(|t| t.state == TargetState::Active);
    TargetPath {
        interface: group.name(row.member),
        mode: row.mode,
        test_address: row.address.map(|a| a.to_string()),
        targets: active.map(|t| group.target_name(&t.target)).collect(),
        lost: Vec::new(),
    }
}

fn session(group: &Failover, row: &SessionRow) -> SessionPath {
    SessionPath {
        interface: group.name(row.member),
        peer: row.peer,
        state: row.state,
        diagnostic: row.diagnostic,
        remote_diagnostic: row.remote_diagnostic,
        discriminator: row.discriminator,
        tx_us: row.tx_us,
        detect_us: row.detect_us,
    }
}

fn system(id: SystemId) -> String {
    let mac = id.mac.map(|byte| format!("{byte:02x}")).join(":");
    format!("{},{mac}", id.priority)
}

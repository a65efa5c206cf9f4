//! What is wrong at the other end of our cables: diagnoses, each with the evidence for it and what
//! to change where.
//!
//! [`diagnose`] is a function of the [`Evidence`]: reports of bonds, what LLDP heard, what came in
//! lately on each NIC, and the interface tree. A port gets one diagnosis, that nearest to the
//! cause: a port whose partner does not hear us is not told to be out of sync as well.
//!
//! Nothing is diagnosed that is still coming about: each rule asks for its state to have lasted
//! ([`settle`]), longer than the protocol needs to leave it by itself.

mod lacp;
mod lint;
mod network;
mod station;
mod watch;

#[cfg(test)]
mod tests;

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::bond::BondReport;
use crate::fail::{GroupReport, MemberReport};
use crate::lldp::NeighbourReport;
use crate::tree::{LinkKind, Tree, Warning};

pub use station::{NicFacts, Station};
pub use watch::{Sample, Watch};

/// How long a state has to last before it is diagnosed, in milliseconds.
pub mod settle {
    /// Silence of a partner: three slow periods.
    pub const SILENT: u64 = 90_000;
    /// What one exchange of LACPDUs should end; at the slow rate one period is added.
    pub const EXCHANGE: u64 = 10_000;
    /// What both ends have to agree on: the time of churn detection.
    pub const CHURN: u64 = 60_000;
    /// What LLDP says: one interval and a little, in which both ends were told.
    pub const LLDP: u64 = 35_000;
}

/// What is known. Names of NICs and bonds are those of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Bonds.
    pub bonds: Vec<BondEvidence>,
    /// Failover groups.
    pub groups: Vec<GroupEvidence>,
    /// All NICs.
    pub nics: Vec<NicEvidence>,
    /// What the configuration alone shows.
    pub lint: Vec<Diagnosis>,
}

/// A bond.
#[derive(Clone, Debug)]
pub struct BondEvidence {
    /// Its name.
    pub name: String,
    /// Its state.
    pub report: BondReport,
    /// VLANs that stand on it.
    pub tags: Vec<u16>,
}

/// A failover group.
#[derive(Clone, Debug)]
pub struct GroupEvidence {
    /// Its name.
    pub name: String,
    /// The NICs below each member, and the tag that the member's frames have.
    pub members: Vec<(Vec<String>, Option<u16>)>,
    /// VLANs that stand on it.
    pub tags: Vec<u16>,
    /// What its members are doing, in the same order; empty: that is not known.
    pub reports: Vec<MemberReport>,
}

/// What the machines say of themselves, each in the order of the tree.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// Bonds.
    pub bonds: Vec<BondReport>,
    /// Failover groups; none: nothing is known of them.
    pub groups: Vec<GroupReport>,
}

/// A NIC.
#[derive(Clone, Debug, Default)]
pub struct NicEvidence {
    /// Its name.
    pub name: String,
    /// It has a link.
    pub link: bool,
    /// For how long, in milliseconds.
    pub link_ms: u64,
    /// Its MTU, if known.
    pub mtu: Option<usize>,
    /// Who is at the other end.
    pub lldp: Vec<NeighbourReport>,
    /// What came in lately.
    pub recent: Option<Recent>,
}

/// Frames of the last minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// How far back this goes, in milliseconds.
    pub window_ms: u64,
    /// Frames that came in, but for those of control protocols.
    pub frames: u64,
    /// Of those, sent by this host itself and brought back.
    pub own: u64,
    /// By VLAN; those are there that were looked for.
    pub tags: Vec<(u16, u64)>,
    /// Of those, the ones that a switch sends out of every port, and that are not from this host.
    pub flooded: Vec<(u16, u64)>,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// A port is connected to a port of this same host.
    Loopback,
    /// Two ports hear one and the same port.
    Duplicate,
    /// What we send comes back.
    Looped,
    /// Nobody speaks LACP at the other end.
    NoPartner,
    /// Nobody speaks LACP, but frames come over several ports: a static group, or none.
    StaticOrNone,
    /// The switch speaks LACP and we do not.
    ModeMismatch,
    /// The partner does not hear us.
    OneWay,
    /// The partner does not aggregate the port.
    PartnerIndividual,
    /// The ports are in several groups of one switch.
    KeyMismatch,
    /// The ports are connected to several systems.
    SystemMismatch,
    /// LLDP shows that a cable is in the wrong port.
    WrongPort,
    /// The partner takes us for another.
    StaleView,
    /// The partner does not take the port into its group.
    PartnerChurn,
    /// We do not take the port into the bond.
    ActorChurn,
    /// The partner took the port into its group but takes no frames.
    PartnerNotCollecting,
    /// The partner takes frames but sends none.
    PartnerNotDistributing,
    /// The partner sends LACPDUs rarely although we ask for them often.
    RateIgnored,
    /// Ports of one bond have several speeds.
    SpeedMismatch,
    /// A port is half duplex.
    HalfDuplex,
    /// VLANs are not the same on all ports.
    VlanMismatch,
    /// Members of a group have one hardware address.
    DuplicateMac,
    /// Longest frames are not the same everywhere.
    MtuMismatch,
    /// A bond carries several VLANs.
    BondVlans,
    /// Nothing takes over when one NIC fails.
    NoFailover,
    /// An interface that nobody uses.
    Unused,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Frames are lost, or a port carries none.
    Error,
    /// It works, but not as it should, or not for long.
    Warning,
    /// Perhaps it is meant so.
    Info,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// How bad.
    pub severity: Severity,
    /// What.
    pub code: Code,
    /// Where: a bond, a group or a NIC.
    pub interface: String,
    /// The ports that are wrong, if it is not the whole.
    pub ports: Vec<String>,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What to change.
    pub advice: String,
}

/// Everything that is wrong, the worst first.
pub fn diagnose(evidence: &Evidence) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for bond in &evidence.bonds {
        lacp::examine(evidence, bond, &mut found);
    }
    network::examine(evidence, &mut found);
    found.extend(evidence.lint.iter().cloned());
    found.sort_by(|a, b| {
        (a.severity, &a.interface, a.code).cmp(&(b.severity, &b.interface, b.code))
    });
    found
}

impl Evidence {
    /// What is known of a host. Of a NIC without evidence nothing is known.
    pub fn new(tree: &Tree, reports: Reports, nics: Vec<NicEvidence>) -> Evidence {
        let mut groups = reports.groups.into_iter();
        let name = |link| tree.at(link).name.to_string();
        let nic = |nic: usize| tree.links[nic].name.to_string();
        let tags = |on: crate::LinkId| {
            let tags = tree.links.iter().filter_map(move |l| match l.kind {
                LinkKind::Vlan { over, tag, .. } if over == on => Some(tag),
                _ => None,
            });
            tags.collect::<Vec<_>>()
        };
        let members = |group: &crate::tree::Group| {
            let one = |m: &crate::LinkId| {
                let nics = tree.nics_below(*m);
                (nics.iter().map(|n| nic(*n)).collect(), tree.tag(*m))
            };
            group.members.iter().map(one).collect()
        };
        Evidence {
            bonds: tree
                .bonds
                .iter()
                .zip(reports.bonds)
                .map(|(b, report)| BondEvidence { name: name(b.link), report, tags: tags(b.link) })
                .collect(),
            groups: tree
                .groups
                .iter()
                .map(|g| GroupEvidence {
                    name: name(g.link),
                    members: members(g),
                    tags: tags(g.link),
                    reports: groups.next().map(|report| report.members).unwrap_or_default(),
                })
                .collect(),
            nics,
            lint: lint::examine(tree),
        }
    }

    fn nic(&self, name: &str) -> Option<&NicEvidence> {
        self.nics.iter().find(|nic| nic.name == name)
    }

    /// The one bridge at the other end, if LLDP is sure of it.
    fn neighbour(&self, nic: &str) -> Option<&NeighbourReport> {
        match &self.nic(nic)?.lldp[..] {
            [one] => Some(one),
            several => {
                let mut bridges = several.iter().filter(|n| n.bridge == Some(true));
                bridges.next().filter(|_| bridges.next().is_none())
            }
        }
    }

    /// A port of a switch, as precisely as it is known.
    fn other_end(&self, nic: &str) -> String {
        match self.neighbour(nic) {
            Some(n) => place(n),
            None => format!("the switch port that {nic} is connected to"),
        }
    }
}

/// A port of a switch in words.
fn place(n: &NeighbourReport) -> String {
    let system = n.system_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&n.chassis);
    match n.port_description.as_deref().filter(|d| !d.is_empty() && *d != n.port) {
        Some(description) => format!("port {} ({description}) of {system}", n.port),
        None => format!("port {} of {system}", n.port),
    }
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1000)
}

fn list(items: &[impl fmt::Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

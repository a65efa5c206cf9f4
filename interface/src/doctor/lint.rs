//! What the configuration alone shows.

use super::{Code, Diagnosis, LinkKind, Severity, Tree, Warning, list};
use crate::LinkId;

pub(super) fn examine(tree: &Tree) -> Vec<Diagnosis> {
    let mut found: Vec<Diagnosis> = tree.warnings().iter().map(of_warning).collect();
    bonds(tree, &mut found);
    aliases(tree, &mut found);
    found
}

fn of_warning(warning: &Warning) -> Diagnosis {
    let interface = warning.subject().to_string();
    let (code, severity, advice) = match warning {
        Warning::DifferentVlans { .. } => (
            Code::VlanMismatch,
            Severity::Warning,
            format!("give all members of {interface} one VLAN tag"),
        ),
        Warning::Single(..) => {
            (Code::NoFailover, Severity::Info, format!("add another to {interface}"))
        }
        Warning::Unused(_) => {
            (Code::Unused, Severity::Info, format!("give {interface} an alias, or remove it"))
        }
        Warning::DifferentMtus { .. } => {
            (Code::MtuMismatch, Severity::Warning, format!("give all parts of {interface} one mtu"))
        }
    };
    let evidence = vec![warning.to_string()];
    Diagnosis { severity, code, interface, ports: Vec::new(), evidence, advice }
}

/// A bond usually is one network; several VLANs on it share its fate and its load.
fn bonds(tree: &Tree, found: &mut Vec<Diagnosis>) {
    for bond in &tree.bonds {
        let name = tree.at(bond.link).name.to_string();
        let mut vlans: Vec<String> = tree
            .links
            .iter()
            .filter(|l| matches!(l.kind, LinkKind::Vlan { over, .. } if over == bond.link))
            .map(|l| l.name.to_string())
            .collect();
        if tree.aliases_of(bond.link).next().is_some() {
            vlans.push(format!("{name} untagged"));
        }
        if vlans.len() < 2 {
            continue;
        }
        found.push(Diagnosis {
            severity: Severity::Info,
            code: Code::BondVlans,
            evidence: vec![format!("{name} carries {} networks: {}", vlans.len(), list(&vlans))],
            advice: format!(
                "every switch port of {name} has to carry all of them; if that is not meant, leave one VLAN on {name}"
            ),
            interface: name,
            ports: Vec::new(),
        });
    }
}

/// Aliases that one NIC can take away. Bonds and groups of one are told of already.
fn aliases(tree: &Tree, found: &mut Vec<Diagnosis>) {
    for alias in &tree.aliases {
        let mut link = alias.link;
        while let LinkKind::Vlan { over, .. } = tree.at(link).kind {
            link = over;
        }
        if !matches!(tree.at(link).kind, LinkKind::Nic(_)) || tree.nics < 2 {
            continue;
        }
        found.push(single(tree, &alias.name.to_string(), link));
    }
}

fn single(tree: &Tree, alias: &str, nic: LinkId) -> Diagnosis {
    let nic = tree.at(nic).name.to_string();
    Diagnosis {
        severity: Severity::Info,
        code: Code::NoFailover,
        interface: alias.to_owned(),
        ports: Vec::new(),
        evidence: vec![format!("{alias} stands on {nic} alone")],
        advice: format!(
            "put {alias} over a failover group or a bond, or accept that it fails with {nic}"
        ),
    }
}

//! Members of failover groups.

use super::{Code, Diagnosis, Evidence, Severity, list};

/// A switch learns an address at one port: of two members that have it, one hears nothing.
pub(super) fn examine(evidence: &Evidence, found: &mut Vec<Diagnosis>) {
    for duplicate in &evidence.duplicates {
        let (member, mac) = (&duplicate.member, &duplicate.mac);
        let others = list(&duplicate.others);
        found.push(Diagnosis {
            severity: Severity::Error,
            code: Code::DuplicateMac,
            interface: duplicate.group.clone(),
            ports: vec![member.clone()],
            evidence: vec![format!(
                "{member} has the hardware address {mac} of {others}; it was taken offline until it has another"
            )],
            advice: format!(
                "give the device of {member} an address of its own (ip link set dev DEVICE address ...); it comes back by itself"
            ),
        });
    }
}

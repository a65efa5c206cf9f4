//! The work sheet: for whoever administers the servers, before the machines arrive.

use std::fmt::Write as _;

use super::{Plan, list};

/// A table of identifiers and addresses, the networks, and how servers are to compare.
pub fn worksheet(plan: &Plan) -> String {
    let cluster = &plan.cluster;
    let mut out = format!("Addresses of cluster {}\n\n", cluster.id);
    let rows: Vec<_> = plan.entries().map(|(id, a)| (id.to_string(), a.to_string())).collect();
    let width = rows.iter().map(|(id, _)| id.len()).max().unwrap_or(0);
    // Writing to a String cannot fail.
    for (id, address) in &rows {
        let _ = writeln!(out, "{id:width$}  {address}");
    }
    out.push_str("\nNetworks\n\n");
    for s in plan.links.iter().flatten() {
        let _ = write!(out, "{}", s.network);
        if let Some(gateway) = s.gateway {
            let _ = write!(out, ", gateway {gateway}");
        }
        for (what, all) in [("DNS", &s.dns), ("NTP", &s.ntp)] {
            if !all.is_empty() {
                let _ = write!(out, ", {what} {}", list(all));
            }
        }
        if !s.search.is_empty() {
            let _ = write!(out, ", search {}", list(&s.search));
        }
        if let Some(mtu) = s.mtu {
            let _ = write!(out, ", MTU {mtu}");
        }
        if let Some((low, high)) = s.pool {
            let _ = write!(out, ", other hosts {low} to {high}");
        }
        let _ = writeln!(out, ", leases {} s", s.lease_s);
    }
    let _ = write!(
        out,
        "\nIdentification\n\n\
         DHCP: client identifier (option 61) is a byte 0 and the text above, as it stands; vendor \
         class (option 60) is \"{}\".\n\
         DHCPv6: the identifier (DUID) is that of enterprise {} with the text above.\n\
         Give no other host these addresses, and each of these clients no other address.\n",
        cluster.vendor_class, cluster.enterprise
    );
    out
}

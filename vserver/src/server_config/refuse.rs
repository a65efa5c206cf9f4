//! What an external server is told when the cluster has one of its own: to leave our clients alone.

use serde_json::json;

use super::{Plan, Version};

/// Servers whose configuration can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// ISC DHCP.
    Isc,
    /// Kea.
    Kea,
    /// dnsmasq.
    Dnsmasq,
}

/// Lines for the file of a server that is to answer none of our clients, which it tells by their
/// vendor class. `None`: it cannot (dhcpd over DHCPv6; it has no address for them unless it has a
/// range).
pub fn refusal(plan: &Plan, program: Program, version: Version) -> Option<String> {
    let cluster = &plan.cluster;
    let (class, name, enterprise) =
        (&cluster.vendor_class, cluster.vendor_name(), cluster.enterprise);
    // Enterprise number and length stand before the text (RFC 8415 21.16).
    let from = |option: &str| format!("substring({option}, 6, {})", class.len());
    let text = match (program, version) {
        (Program::Isc, Version::V6) => return None,
        (Program::Isc, Version::V4) => format!(
            "class \"{name}-refused\" {{\n  match if option vendor-class-identifier = \"{class}\";\n  \
             ignore booting;\n}}\n"
        ),
        (Program::Kea, _) => {
            let test = match version {
                Version::V4 => format!("option[60].text == '{class}'"),
                Version::V6 => format!("{} == '{class}'", from("option[16].hex")),
            };
            // Packets of this class are dropped before anything else is done with them.
            let classes = json!({ "client-classes": [{ "name": "DROP", "test": test }] });
            let text = serde_json::to_string_pretty(&classes).unwrap_or_default();
            // To stand among the other keys of the server.
            let inner = text.trim_start_matches('{').trim_end_matches('}').trim();
            return Some(format!("  // cluster {}\n  {inner}\n", cluster.id));
        }
        (Program::Dnsmasq, Version::V4) => {
            format!("dhcp-vendorclass=set:{name}-refused,{class}\ndhcp-ignore=tag:{name}-refused\n")
        }
        (Program::Dnsmasq, Version::V6) => format!(
            "dhcp-vendorclass=set:{name}-refused,enterprise:{enterprise},{class}\n\
             dhcp-ignore=tag:{name}-refused\n"
        ),
    };
    Some(format!("# cluster {}, written by weft dhcp-config\n{text}", cluster.id))
}

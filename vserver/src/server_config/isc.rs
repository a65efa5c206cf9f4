//! `dhcpd.conf` of ISC DHCP 4.4.

use std::fmt::Write as _;

use weft_stack::ip::address::Cidr;

use super::{Plan, Version, hex, list, only};
use crate::config::Subnet;

/// For `dhcpd`, or `dhcpd -6`.
pub fn isc(plan: &Plan, version: Version) -> String {
    let cluster = &plan.cluster;
    let mut out = format!("# cluster {}, written by weft dhcp-config\n", cluster.id);
    let interfaces = plan.interfaces(version);
    if !interfaces.is_empty() {
        // dhcpd takes them from its command line only.
        let _ = writeln!(out, "# to be started with: {}", interfaces.join(" "));
    }
    out.push('\n');
    vendor(&mut out, plan, version);
    // Writing to a String cannot fail.
    for (number, link) in plan.links(version).iter().enumerate() {
        let shared = link.len() > 1;
        if shared {
            let _ = writeln!(out, "shared-network {}-{number} {{", cluster.vendor_name());
        }
        for s in link {
            subnet(&mut out, s, version, if shared { "  " } else { "" });
        }
        if shared {
            out.push_str("}\n");
        }
        out.push('\n');
    }
    for e in plan.of_version(version) {
        let id = plan.id(e);
        let name = e.claim.to_string().replace(':', "-");
        let _ = writeln!(out, "# {id}");
        let _ = match version {
            // The byte 0 is the type (RFC 2132 9.14).
            Version::V4 => writeln!(
                out,
                "host {name} {{\n  option dhcp-client-identifier \"\\000{id}\";\n  fixed-address {};\n}}",
                e.address
            ),
            Version::V6 => writeln!(
                out,
                "host {name}-v6 {{\n  host-identifier option dhcp6.client-id {};\n  fixed-address6 {};\n}}",
                hex(&id.duid(cluster.enterprise)),
                e.address
            ),
        };
    }
    out
}

fn vendor(out: &mut String, plan: &Plan, version: Version) {
    let cluster = &plan.cluster;
    let (class, name) = (&cluster.vendor_class, cluster.vendor_name());
    let options = &cluster.vendor_options;
    let space = match version {
        Version::V4 => format!("option space {name};\n"),
        Version::V6 => format!("option space {name} code width 2 length width 2;\n"),
    };
    if !options.is_empty() {
        out.push_str(&space);
    }
    for (code, _) in options {
        let _ = writeln!(out, "option {name}.option-{code} code {code} = text;");
    }
    if !options.is_empty() && version == Version::V6 {
        let _ =
            writeln!(out, "option vsio.{name} code {} = encapsulate {name};", cluster.enterprise);
    }
    let _ = match version {
        Version::V4 => writeln!(
            out,
            "class \"{class}\" {{\n  match if option vendor-class-identifier = \"{class}\";"
        ),
        // enterprise number and length stand before the text (RFC 8415 21.16)
        Version::V6 => writeln!(
            out,
            "option dhcp6.vendor-class code 16 = string;\nclass \"{class}\" {{\n  match if substring(option dhcp6.vendor-class, 6, {}) = \"{class}\";",
            class.len()
        ),
    };
    if !options.is_empty() && version == Version::V4 {
        let _ = writeln!(out, "  vendor-option-space {name};");
    }
    for (code, text) in options {
        let _ = writeln!(out, "  option {name}.option-{code} \"{text}\";");
    }
    out.push_str("}\n\n");
}

fn subnet(out: &mut String, s: &Subnet, version: Version, margin: &str) {
    let inner = format!("{margin}  ");
    let (dns, ntp) = (only(version, &s.dns), only(version, &s.ntp));
    let quoted: Vec<String> = s.search.iter().map(|d| format!("\"{d}\"")).collect();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let v6 = version == Version::V6;
    if v6 {
        line(format!("{margin}subnet6 {} {{", s.network));
    } else {
        line(format!("{margin}subnet {} netmask {} {{", s.network.addr, netmask(s.network)));
    }
    let prefix = if v6 { "dhcp6." } else { "" };
    if let Some(gateway) = s.gateway.filter(|_| !v6) {
        line(format!("{inner}option routers {gateway};"));
    }
    if !dns.is_empty() {
        let key = if v6 { "dhcp6.name-servers" } else { "domain-name-servers" };
        line(format!("{inner}option {key} {};", list(&dns)));
    }
    if !quoted.is_empty() {
        line(format!("{inner}option {prefix}domain-search {};", list(&quoted)));
    }
    if !ntp.is_empty() {
        let key = if v6 { "dhcp6.sntp-servers" } else { "ntp-servers" };
        line(format!("{inner}option {key} {};", list(&ntp)));
    }
    if let Some(mtu) = s.mtu.filter(|_| !v6) {
        line(format!("{inner}option interface-mtu {mtu};"));
    }
    if let Some((low, high)) = s.pool {
        let key = if v6 { "range6" } else { "range" };
        line(format!("{inner}{key} {low} {high};"));
    }
    line(format!("{inner}default-lease-time {};", s.lease_s));
    line(format!("{inner}max-lease-time {};", s.lease_s));
    line(format!("{margin}}}"));
}

/// `255.255.255.0`.
pub(super) fn netmask(network: Cidr) -> std::net::Ipv4Addr {
    let bits = u32::from(network.prefix_len).min(32);
    u32::MAX.checked_shl(32 - bits).unwrap_or(0).into()
}

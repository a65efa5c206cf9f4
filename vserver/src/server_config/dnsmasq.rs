//! `dnsmasq.conf`, for dnsmasq 2.80 and newer.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::isc::netmask;
use super::{Plan, Version, hex, only};
use crate::config::Subnet;

/// For `dnsmasq`; both versions may go into one file.
pub fn dnsmasq(plan: &Plan, version: Version) -> String {
    let cluster = &plan.cluster;
    let mut out = format!("# cluster {}, written by weft dhcp-config\n", cluster.id);
    let name = cluster.vendor_name();
    for interface in plan.interfaces(version) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "interface={interface}");
    }
    let _ = match version {
        Version::V4 => {
            writeln!(out, "dhcp-vendorclass=set:{name},{}", cluster.vendor_class)
        }
        Version::V6 => {
            let (enterprise, class) = (cluster.enterprise, &cluster.vendor_class);
            writeln!(out, "dhcp-vendorclass=set:{name},enterprise:{enterprise},{class}")
        }
    };
    for (code, text) in &cluster.vendor_options {
        let _ = match version {
            Version::V4 => {
                writeln!(out, "dhcp-option=vendor:{},{code},\"{text}\"", cluster.vendor_class)
            }
            Version::V6 => {
                let enterprise = cluster.enterprise;
                writeln!(out, "dhcp-option=vi-encap:{enterprise},option6:{code},\"{text}\"")
            }
        };
    }
    for link in plan.links(version) {
        for (i, s) in link.iter().enumerate() {
            out.push('\n');
            let (first, addr) = (link[0].network, s.network.addr);
            let _ = match plan.interface(s.network) {
                _ if i == 0 => Ok(()),
                Some(interface) => writeln!(out, "shared-network={interface},{addr}"),
                None => writeln!(
                    out,
                    "# On the link of {first} too: name the server's interface with --interface.\n\
                     #shared-network=INTERFACE,{addr}"
                ),
            };
            subnet(&mut out, s, version);
        }
    }
    out.push('\n');
    for e in plan.of_version(version) {
        let id = plan.id(e);
        // Text with colons would be taken for hexadecimal digits.
        let _ = match version {
            Version::V4 => {
                writeln!(out, "# {id}\ndhcp-host=id:{},{}", hex(&id.option_61()), e.address)
            }
            Version::V6 => {
                let duid = hex(&id.duid(cluster.enterprise));
                writeln!(out, "# {id}\ndhcp-host=id:{duid},[{}]", e.address)
            }
        };
    }
    out
}

fn subnet(out: &mut String, s: &Subnet, version: Version) {
    let v6 = version == Version::V6;
    let tag = s.network.to_string().replace(['.', ':', '/'], "-");
    let (first, kind) = match s.pool {
        Some((low, high)) => (low, high.to_string()),
        None => (s.network.addr, String::from("static")),
    };
    let mask = if v6 { s.network.prefix_len.to_string() } else { netmask(s.network).to_string() };
    let _ = writeln!(out, "dhcp-range=set:{tag},{first},{kind},{mask},{}s", s.lease_s);
    let (prefix, dns, search, ntp) = if v6 {
        ("option6", "dns-server", "domain-search", "ntp-server")
    } else {
        ("option", "dns-server", "domain-search", "ntp-server")
    };
    let mut option = |key: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "dhcp-option=tag:{tag},{prefix}:{key},{value}");
        }
    };
    if !v6 {
        option("router", s.gateway.map(|g| g.to_string()).unwrap_or_default());
        option("mtu", s.mtu.map(|m| m.to_string()).unwrap_or_default());
    }
    option(dns, addresses(&only(version, &s.dns)));
    option(search, s.search.join(","));
    option(ntp, addresses(&only(version, &s.ntp)));
}

fn addresses(all: &[IpAddr]) -> String {
    let text = |a: &IpAddr| if a.is_ipv6() { format!("[{a}]") } else { a.to_string() };
    all.iter().map(text).collect::<Vec<_>>().join(",")
}

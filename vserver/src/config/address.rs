//! Addresses of vservers: what can be one, and on which alias.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use weft_stack::ip::address::Cidr;

use super::diagnostic::Report;
use super::interface::{Interfaces, find_alias};
use super::reader::{At, Section};
use super::vserver::{Kind, Own};

/// Aliases (indices) and addresses on them.
pub(super) type Addresses = Vec<(usize, Cidr)>;

/// Its addresses, where each stands, and the aliases where more are learned.
pub(super) fn read_addresses(
    report: &mut Report,
    s: &mut Section,
    kind: Kind,
    interfaces: &Interfaces,
) -> (Addresses, Vec<Range<usize>>, Vec<usize>) {
    let mut addresses = Vec::new();
    let mut address_spans = Vec::new();
    let texts = if kind == Kind::Group { Vec::new() } else { s.strings(report, "addresses") };
    for text in texts {
        if let Some(a) = read_address(report, &text, interfaces) {
            addresses.push(a);
            address_spans.push(text.span);
        }
    }
    let slaac = read_slaac(report, s, interfaces);
    (addresses, address_spans, slaac)
}

fn read_slaac(report: &mut Report, s: &mut Section, interfaces: &Interfaces) -> Vec<usize> {
    let mut slaac = Vec::new();
    for text in s.strings(report, "slaac") {
        match find_alias(report, &text, text.value, interfaces) {
            Some(a) if slaac.contains(&a) => report.error(
                &text.span,
                format!("alias '{}' twice in 'slaac'; name it once", text.value),
            ),
            Some(a) => slaac.push(a),
            None => {}
        }
    }
    slaac
}

fn read_address(
    report: &mut Report,
    text: &At<&str>,
    interfaces: &Interfaces,
) -> Option<(usize, Cidr)> {
    let mut words = text.value.split_whitespace();
    let (Some(alias), Some(address), None) = (words.next(), words.next(), words.next()) else {
        report.error(
            &text.span,
            format!(
                "'{}' is no alias and address; write \"{} 192.0.2.1/24\"",
                text.value,
                interfaces.example()
            ),
        );
        return None;
    };
    let alias = find_alias(report, text, alias, interfaces);
    let cidr = read_host_cidr(report, text, address);
    let (alias, cidr) = (alias?, cidr?);
    if cidr.addr.is_ipv6()
        && let Some(mtu) = interfaces.mtu(alias).filter(|m| *m < 1280)
    {
        // RFC 8200 5
        report.error(
            &text.span,
            format!("IPv6 needs an MTU of 1280, '{}' has {mtu}; raise it", interfaces.name(alias)),
        );
    }
    Some((alias, cidr))
}

fn read_host_cidr(report: &mut Report, text: &At<&str>, address: &str) -> Option<Cidr> {
    let span = report.span_of(address, &text.span);
    let Some((addr, _)) = address.split_once('/') else {
        let right = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("add the prefix length, like {address}/24"),
            Ok(IpAddr::V6(_)) => format!("add the prefix length, like {address}/64"),
            Err(_) => String::from("write an address like 192.0.2.1/24 or 2001:db8::1/64"),
        };
        report.error(&span, format!("'{address}' is no address with a prefix length; {right}"));
        return None;
    };
    let cidr = match address.parse::<Cidr>() {
        Ok(c) => c,
        Err(e) => {
            let right = if addr.contains(':') { "2001:db8::1/64" } else { "192.0.2.1/24" };
            report.error(&span, format!("{e}; write an address like {right}"));
            return None;
        }
    };
    if let Some(what) = not_a_host(&cidr) {
        report.error(&span, format!("{} is {what}; use the address of a host", cidr.addr));
        return None;
    }
    Some(cidr)
}

/// Why an address cannot be a vserver's.
pub(super) fn not_a_host(cidr: &Cidr) -> Option<&'static str> {
    let a = cidr.addr;
    if a.is_unspecified() {
        return Some("the unspecified address");
    }
    if a.is_multicast() {
        return Some("a multicast address");
    }
    if a.is_loopback() {
        return Some("a loopback address");
    }
    match a {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => return Some("in 0.0.0.0/8, which has no hosts"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => {
            return Some("in the reserved range 240.0.0.0/4");
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => return Some("an IPv4-mapped address"),
        _ => {}
    }
    if cidr.prefix_len == 0 {
        return Some("given with prefix length 0, which makes every host a neighbour");
    }
    if cidr.broadcast() == Some(a) {
        return Some("the broadcast address of its network");
    }
    // RFC 4291 2.6.1: the subnet-router anycast address; RFC 3021 and 6164: none on /31 and /127.
    let host_bits = if a.is_ipv4() { 32 } else { 128 } - cidr.prefix_len;
    (host_bits > 1 && cidr.network().addr == a).then_some("the address of its network itself")
}

pub(super) fn check_address_count(
    report: &mut Report,
    addresses: &[(usize, Cidr)],
    spans: &[Range<usize>],
    limit: usize,
    interfaces: &Interfaces,
) {
    let mut counts: HashMap<usize, usize> = HashMap::new();
    for ((alias, _), span) in addresses.iter().zip(spans) {
        let n = counts.entry(*alias).or_default();
        *n += 1;
        if *n == limit + 1 {
            report.error(
                span,
                format!(
                    "more than {limit} addresses on '{}'; raise 'addresses' in the limits",
                    interfaces.name(*alias)
                ),
            );
        }
    }
}

/// Checks an address that must be the vserver's own.
pub(super) fn check_source(report: &mut Report, addr: IpAddr, span: &Range<usize>, own: &Own) {
    if own.kind == Kind::Group {
        return;
    }
    if own.kind == Kind::All {
        report.error(
            span,
            format!("{addr} cannot be the address of every vserver; use \"0.0.0.0\" or \"::\", or remove it"),
        );
    } else if own.kind == Kind::Several {
        report.error(
            span,
            format!("{addr} cannot be the address of every vserver of a 'count'; remove it"),
        );
    } else if !own.has(addr) && (own.slaac.is_empty() || addr.is_ipv4()) {
        report.error(
            span,
            format!("{addr} is no address of this vserver; use one of {}", own.list()),
        );
    }
}

//! `[neighbours.*]`, and `neighbours` of a vserver: what is behind an alias, known to many.

use std::net::IpAddr;

use super::diagnostic::Report;
use super::interface::{Interfaces, find_alias, read_mac, suggest};
use super::reader::{At, Section};
use super::route::read_ip;
use super::vserver::check_name;
use super::{NeighbourSpec, NeighbourTable};

/// Learned neighbours of a table that says nothing else.
pub(super) const LEARNED_DEFAULT: usize = 1024;

/// `[neighbours.*]`.
pub(super) fn read_tables(
    report: &mut Report,
    mut section: Section,
    interfaces: &Interfaces,
) -> Vec<NeighbourTable> {
    let mut tables = Vec::new();
    for (name, mut s) in section.named_tables(report) {
        check_name(report, &name, "neighbour table");
        let learned = s.integer(report, "learned", 0..=1_048_576);
        let mut entries: Vec<NeighbourSpec> = Vec::new();
        for e in s.tables(report, "entries") {
            let span = e.span.clone();
            let Some(entry) = read_entry(report, e, interfaces) else { continue };
            if entries.iter().any(|o| (o.alias, o.addr) == (entry.alias, entry.addr)) {
                report.error(&span, format!("{} twice on one alias; keep one of them", entry.addr));
                continue;
            }
            entries.push(entry);
        }
        s.finish(report);
        tables.push(NeighbourTable {
            name: name.value.to_owned(),
            entries,
            learned: learned.map_or(LEARNED_DEFAULT, |l| l.value as usize),
        });
    }
    tables
}

fn read_entry(
    report: &mut Report,
    mut s: Section,
    interfaces: &Interfaces,
) -> Option<NeighbourSpec> {
    let alias = s.string(report, "alias").map(|t| find_alias(report, &t, t.value, interfaces));
    let addr = s.string(report, "address").map(|t| read_neighbour(report, &t));
    let mac = read_mac(report, &mut s);
    for key in ["alias", "address", "mac"] {
        if s.span_of_key(key).is_none() {
            report.error(
                &s.span,
                format!(
                    "a neighbour has no '{key}'; write {{ alias = \"{}\", address = \"192.0.2.1\", mac = \"02:00:00:00:00:01\" }}",
                    interfaces.example()
                ),
            );
        }
    }
    s.finish(report);
    Some(NeighbourSpec { alias: alias??, addr: addr??, mac: mac?.value })
}

fn read_neighbour(report: &mut Report, text: &At<&str>) -> Option<IpAddr> {
    let addr = read_ip(report, text)?;
    if addr.is_multicast() || addr.is_unspecified() || addr.is_loopback() {
        report.error(&text.span, format!("{addr} is no neighbour; use the address of a host"));
        return None;
    }
    Some(addr)
}

/// `neighbours` of a vserver.
pub(super) fn read(
    report: &mut Report,
    s: &mut Section,
    interfaces: &Interfaces,
) -> Option<String> {
    let text = s.string(report, "neighbours")?;
    let found = interfaces.neighbours.iter().any(|t| t.name == text.value);
    if !found {
        let names: Vec<_> = interfaces.neighbours.iter().map(|t| t.name.as_str()).collect();
        let right = suggest(text.value, &names, "neighbours", "lan");
        report.error(&text.span, format!("unknown neighbour table '{}'; {right}", text.value));
    }
    found.then(|| text.value.to_owned())
}

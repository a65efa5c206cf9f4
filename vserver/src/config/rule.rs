//! `[table.*]`, and `tables` and `rules` of a vserver: policy routing.

use weft_stack::ip::address::Cidr;
use weft_stack::ip::rule::Rule;

use super::diagnostic::Report;
use super::interface::{Interfaces, find_alias, suggest};
use super::reader::{At, Section};
use super::route::{read_ip, read_network};
use super::vserver::{Own, check_name};
use super::{RouteSpec, RuleSpec, RuleTarget, TableSpec};
use super::{access, client};
use crate::access::Ports;

/// The name of a vserver's own routes where a rule names a table.
pub const MAIN: &str = "main";
/// Priority of the first rule that has none of its own; the next ones follow.
const PRIORITY_FIRST: u32 = 1000;

/// `[table.*]`.
pub(super) fn read_tables(
    report: &mut Report,
    mut section: Section,
    interfaces: &Interfaces,
) -> Vec<TableSpec> {
    let mut tables = Vec::new();
    for (name, mut s) in section.named_tables(report) {
        check_name(report, &name, "route table");
        if name.value == MAIN {
            report.error(
                &name.span,
                "'main' is the name of every vserver's own routes; use another name",
            );
        }
        let mut routes = Vec::new();
        for r in s.tables(report, "routes") {
            routes.extend(read_shared_route(report, r, interfaces));
        }
        s.finish(report);
        tables.push(TableSpec { name: name.value.to_owned(), routes });
    }
    tables
}

/// A route of a shared table: it belongs to no vserver, so its alias is named.
fn read_shared_route(
    report: &mut Report,
    mut s: Section,
    interfaces: &Interfaces,
) -> Option<RouteSpec> {
    let via = s.string(report, "via").map(|t| read_ip(report, &t));
    let to = s.string(report, "to").map(|t| read_network(report, &t, via));
    let alias = s.string(report, "alias").map(|t| find_alias(report, &t, t.value, interfaces));
    let metric = s.integer(report, "metric", 0..=u64::from(u32::MAX)).map_or(0, |v| v.value as u32);
    for (key, there) in [("to", to.is_some()), ("alias", alias.is_some())] {
        if !there && s.span_of_key(key).is_none() {
            report.error(
                &s.span,
                format!("a route of a shared table has no '{key}'; add to = \"default\" and alias = \"{}\"", interfaces.example()),
            );
        }
    }
    let whole = s.span.clone();
    s.finish(report);
    let (to, alias) = (to??, alias??);
    let via = match via {
        None => None,
        Some(via) => Some(via?),
    };
    if let Some(via) = via.filter(|via| via.is_ipv4() != to.addr.is_ipv4()) {
        report.error(
            &whole,
            format!("gateway {via} and network {to} are of different families; use one family"),
        );
        return None;
    }
    Some(RouteSpec { to, via, alias, src: None, metric })
}

/// `tables` and `rules` of a vserver.
pub(super) fn read(
    report: &mut Report,
    s: &mut Section,
    own: &Own,
    interfaces: &Interfaces,
) -> (Vec<String>, Vec<RuleSpec>) {
    let used = read_used(report, s, own, interfaces);
    (used, read_rules(report, s, own, interfaces))
}

/// `tables` of a vserver: those that add to its own routes.
fn read_used(
    report: &mut Report,
    s: &mut Section,
    own: &Own,
    interfaces: &Interfaces,
) -> Vec<String> {
    let mut used: Vec<String> = Vec::new();
    for text in s.strings(report, "tables") {
        let Some(table) = find_table(report, &text, interfaces) else { continue };
        if used.contains(&table.name) {
            report.error(&text.span, format!("table '{}' twice; name it once", table.name));
            continue;
        }
        check_gateways(report, &text, table, own, interfaces);
        used.push(table.name.clone());
    }
    used
}

fn find_table<'t>(
    report: &mut Report,
    text: &At<&str>,
    interfaces: &Interfaces<'t>,
) -> Option<&'t TableSpec> {
    let found = interfaces.tables.iter().find(|t| t.name == text.value);
    if found.is_none() {
        let names: Vec<_> = interfaces.tables.iter().map(|t| t.name.as_str()).collect();
        let right = suggest(text.value, &names, "table", "transit");
        report.error(&text.span, format!("unknown route table '{}'; {right}", text.value));
    }
    found
}

/// A member must reach the gateways of a table out of the aliases that it has.
fn check_gateways(
    report: &mut Report,
    text: &At<&str>,
    table: &TableSpec,
    own: &Own,
    interfaces: &Interfaces,
) {
    for route in &table.routes {
        let Some(via) = route.via else { continue };
        let mut here = own.addresses.iter().filter(|(alias, _)| *alias == route.alias).peekable();
        let link_local = matches!(via, std::net::IpAddr::V6(a) if a.is_unicast_link_local());
        let known =
            link_local || own.slaac.contains(&route.alias) || interfaces.is_tun(route.alias);
        if here.peek().is_some() && !known && !here.any(|(_, cidr)| cidr.contains(via)) {
            report.error(
                &text.span,
                format!(
                    "gateway {via} of table '{}' is on no network of the vserver on '{}'; add an address of its network, or do not use the table",
                    table.name,
                    interfaces.name(route.alias)
                ),
            );
        }
    }
}

/// `rules` of a vserver.
fn read_rules(
    report: &mut Report,
    s: &mut Section,
    own: &Own,
    interfaces: &Interfaces,
) -> Vec<RuleSpec> {
    let mut rules: Vec<RuleSpec> = Vec::new();
    for r in s.tables(report, "rules") {
        let next = PRIORITY_FIRST + rules.len() as u32;
        let span = r.span.clone();
        let Some(rule) = read_rule(report, r, next, own, interfaces) else { continue };
        if rules.contains(&rule) {
            report.error(&span, "the same rule twice; keep one of them");
            continue;
        }
        rules.push(rule);
        client::check_count(report, &span, rules.iter().filter_map(|r| r.from_name.as_deref()));
    }
    rules
}

fn read_rule(
    report: &mut Report,
    mut s: Section,
    next: u32,
    own: &Own,
    interfaces: &Interfaces,
) -> Option<RuleSpec> {
    let (from, from_name) = read_from(report, &mut s, own);
    let to = s.string(report, "to").map(|t| read_network(report, &t, None));
    let mark = s.integer(report, "mark", 0..=u64::from(u32::MAX));
    let mask = s.integer(report, "mask", 1..=u64::from(u32::MAX));
    let input = s.string(report, "input").map(|t| find_alias(report, &t, t.value, interfaces));
    let dscp = s.integer(report, "dscp", 0..=63);
    let (class, ports) = read_class(report, &mut s, interfaces);
    let priority = s.integer(report, "priority", 1..=u64::from(u32::MAX));
    let table = s.string(report, "table");
    let words = [
        ("prohibit", RuleTarget::Prohibit),
        ("blackhole", RuleTarget::Blackhole),
        ("unreachable", RuleTarget::Unreachable),
    ];
    let action = s.string(report, "action").and_then(|t| {
        let found = words.iter().find(|(word, _)| *word == t.value).map(|(_, target)| target.clone());
        if found.is_none() {
            report.error(
                &t.span,
                format!("'{}' is no action; use \"prohibit\", \"blackhole\" or \"unreachable\", or name a 'table'", t.value),
            );
        }
        found
    });
    let whole = s.span.clone();
    let named = (s.span_of_key("table").is_some(), s.span_of_key("action").is_some());
    s.finish(report);
    if named.0 == named.1 {
        report.error(&whole, "a rule has a 'table' or an 'action'; write one of them");
        return None;
    }
    if let Some(mask) = mask.as_ref().filter(|_| mark.is_none()) {
        report.error(&mask.span, "'mask' without 'mark'; add the mark");
    }
    let target = match table {
        Some(t) if t.value == MAIN => RuleTarget::Table(MAIN.to_owned()),
        Some(t) => {
            let table = find_table(report, &t, interfaces)?;
            check_gateways(report, &t, table, own, interfaces);
            RuleTarget::Table(table.name.clone())
        }
        None => action?,
    };
    let mask = mask.map_or(u32::MAX, |m| m.value as u32);
    Some(RuleSpec {
        priority: priority.map_or(next.min(Rule::MAIN_PRIORITY), |p| p.value as u32),
        from: given(from)?,
        from_name,
        to: given(to)?,
        mark: mark.map(|m| (m.value as u32, mask)),
        input: given(input)?,
        dscp: dscp.map(|d| d.value as u8),
        class,
        ports,
        target,
    })
}

/// The source: a network (`Some(None)`: a wrong one) or a name.
#[allow(clippy::option_option)]
fn read_from(
    report: &mut Report,
    s: &mut Section,
    own: &Own,
) -> (Option<Option<Cidr>>, Option<String>) {
    let Some(t) = s.string(report, "from") else { return (None, None) };
    if t.value != "default" && own.takes_name(report, t.value, &t.span) {
        return (None, Some(t.value.to_ascii_lowercase()));
    }
    (Some(read_network(report, &t, None)), None)
}

/// Services as written, and their ports.
fn read_class(
    report: &mut Report,
    s: &mut Section,
    interfaces: &Interfaces,
) -> (Option<String>, Vec<Ports>) {
    let Some(class) = s.string(report, "class") else { return (None, Vec::new()) };
    let known = interfaces.services;
    let ports = known.map(|catalogue| access::read_services(report, &class, catalogue));
    (Some(class.value.to_owned()), ports.unwrap_or_default())
}

/// `None`: it is there and wrong, which has been reported.
#[allow(clippy::option_option)]
fn given<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

/// As in a file.
pub(super) fn text<'c>(r: &RuleSpec, alias: impl Fn(&usize) -> &'c str) -> String {
    let RuleSpec { priority, from, from_name, to, mark, input, dscp, class, ports: _, target } = r;
    let mut keys = vec![format!("priority = {priority}")];
    keys.extend(from.map(|net| format!("from = \"{net}\"")));
    keys.extend(from_name.as_ref().map(|name| format!("from = \"{name}\"")));
    keys.extend(to.map(|net| format!("to = \"{net}\"")));
    keys.extend(mark.map(|(value, mask)| format!("mark = {value}, mask = {mask}")));
    keys.extend(input.as_ref().map(|a| format!("input = {}", format_args!("\"{}\"", alias(a)))));
    keys.extend(dscp.map(|dscp| format!("dscp = {dscp}")));
    keys.extend(class.as_ref().map(|class| format!("class = \"{class}\"")));
    keys.push(match target {
        RuleTarget::Table(name) => format!("table = \"{name}\""),
        RuleTarget::Prohibit => String::from("action = \"prohibit\""),
        RuleTarget::Blackhole => String::from("action = \"blackhole\""),
        RuleTarget::Unreachable => String::from("action = \"unreachable\""),
    });
    format!("{{ {} }}", keys.join(", "))
}

//! `[access]`, and `access` of a vserver.

use weft_stack::ip::address::Cidr;

use super::client::{ClientName, check_count};
use super::diagnostic::Report;
use super::dns::is_domain_name;
use super::interface::{Interfaces, find_alias, suggest};
use super::reader::{At, Section};
use super::vserver::Own;
use crate::access::{
    AccessConfig, AccessRule, Action, Catalogue, Class, Established, Place, Ports, RULES_MAX,
    Written,
};
use crate::interface::AliasClass;

/// Whose list a rule stands in.
pub(super) enum Whose<'a> {
    Host,
    Vserver(&'a Own<'a>),
}

pub(super) fn read_access(
    report: &mut Report,
    mut s: Section,
    interfaces: &Interfaces,
) -> AccessConfig {
    let mut catalogue = Catalogue::default();
    if let Some(mut services) = s.table(report, "service") {
        for (name, mut t) in services.named_tables(report) {
            let listed = t.strings(report, "ports");
            if listed.is_empty() && t.span_of_key("ports").is_none() {
                t.missing(report, "ports", "[\"tcp/8080\"]");
            }
            t.finish(report);
            let read = |report: &mut Report, v: &At<&str>| match Ports::parse(v.value) {
                Some(Ok(ports)) => Some(ports),
                Some(Err(problem)) => {
                    report.error(&v.span, problem);
                    None
                }
                None => {
                    let hint = "write it like tcp/8080 or udp/5000-5010";
                    report.error(&v.span, format!("'{}' is no port; {hint}", v.value));
                    None
                }
            };
            let ports = listed.iter().filter_map(|v| read(report, v)).collect();
            if is_name(report, &name, "service") {
                catalogue.services.insert(name.value.to_owned(), ports);
            }
        }
    }
    if let Some(mut classes) = s.table(report, "class") {
        for (name, t) in classes.named_tables(report) {
            if let Some(class) = read_class(report, t, &name, &catalogue) {
                catalogue.classes.insert(name.value.to_owned(), class);
            }
        }
    }
    catalogue.resolve();
    let words = [("keep", Established::Keep), ("end", Established::End)];
    let established =
        s.choice(report, "established", &words).map_or(Established::Keep, |v| v.value);
    let tables = s.tables(report, "rules");
    let rules = read_rules(report, tables, &catalogue, interfaces, &Whose::Host);
    s.finish(report);
    AccessConfig { catalogue, rules, established }
}

/// A name that cannot be taken for a port.
fn is_name(report: &mut Report, name: &At<&str>, what: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let good = name.value.starts_with(|c: char| c.is_ascii_lowercase())
        && name.value.chars().all(plain)
        && !["any", "tcp", "udp", "icmp"].contains(&name.value);
    if !good {
        let hint = "use a lower-case letter and then a-z, 0-9, '-', '_'; not any, tcp, udp, icmp";
        report.error(&name.span, format!("'{}' is no name of a {what}; {hint}", name.value));
    }
    good
}

fn read_class(
    report: &mut Report,
    mut t: Section,
    name: &At<&str>,
    catalogue: &Catalogue,
) -> Option<Class> {
    let listed = t.strings(report, "services");
    if listed.is_empty() && t.span_of_key("services").is_none() {
        t.missing(report, "services", "[\"http\", \"tcp/8080\"]");
    }
    let built_in = Catalogue::default().classes.get(name.value).is_some_and(|c| c.management);
    let management = t.boolean(report, "management").map_or(built_in, |v| v.value);
    t.finish(report);
    for v in &listed {
        if let Err(problem) = catalogue.find_service(v.value) {
            let names: Vec<&str> = catalogue.services.keys().map(String::as_str).collect();
            let hint = suggest(v.value, &names, "access.service", "NAME");
            report.error(&v.span, format!("{problem}; {hint}"));
        }
    }
    if !is_name(report, name, "class") {
        return None;
    }
    if catalogue.services.contains_key(name.value) {
        let problem = format!("'{}' is a service already; use another name", name.value);
        report.error(&name.span, problem);
        return None;
    }
    let services = listed.iter().map(|v| v.value.to_owned()).collect();
    Some(Class { services, ports: Vec::new(), management })
}

/// The rules of one list, in order.
pub(super) fn read_rules(
    report: &mut Report,
    tables: Vec<Section>,
    catalogue: &Catalogue,
    interfaces: &Interfaces,
    whose: &Whose,
) -> Vec<AccessRule> {
    let mut rules = Vec::new();
    for s in tables {
        if rules.len() == RULES_MAX {
            report.error(&s.span, format!("more than {RULES_MAX} rules; use prefixes and classes"));
            break;
        }
        let span = s.span.clone();
        rules.extend(read_rule(report, s, catalogue, interfaces, whose));
        if rules.last().is_some_and(|r: &AccessRule| !r.names.is_empty()) {
            let all = rules.iter().flat_map(|r| &r.names).map(|n| n.name.as_str());
            check_count(report, &span, all);
        }
    }
    rules
}

fn read_rule(
    report: &mut Report,
    mut s: Section,
    catalogue: &Catalogue,
    interfaces: &Interfaces,
    whose: &Whose,
) -> Option<AccessRule> {
    let origin = s.origin(report, if matches!(whose, Whose::Host) { "host" } else { "vserver" });
    let mut found = None;
    for (key, action) in Action::ALL {
        let Some(v) = s.string(report, key) else { continue };
        if found.is_some() {
            let second = s.span_of_key(key).unwrap_or(v.span);
            report.error(&second, "a rule has one action; write two rules");
            continue;
        }
        found = Some((action, v));
    }
    let on = s.string(report, "on").map(|v| read_places(report, &v, interfaces));
    let of = match whose {
        Whose::Host => s.string(report, "of").map(|v| read_names(report, &v)),
        Whose::Vserver(_) => None,
    };
    let from = s.string(report, "from").map(|v| read_clients(report, &v, whose));
    let mark = s.integer(report, "mark", 1..=u64::from(u32::MAX));
    let log = s.boolean(report, "log").is_some_and(|v| v.value);
    let span = s.span.clone();
    let any_action = Action::ALL.iter().any(|(key, _)| s.span_of_key(key).is_some());
    s.finish(report);
    let Some((action, what)) = found else {
        if !any_action {
            let hint = "add allow, drop, reject or prohibit = \"SERVICES\"";
            report.error(&span, format!("a rule says nothing; {hint}"));
        }
        return None;
    };
    if let Some(mark) = mark.as_ref().filter(|_| action != Action::Allow) {
        report.error(&mark.span, "'mark' is for what is allowed; remove it, or write allow");
    }
    let ports = read_services(report, &what, catalogue);
    let (from, names) = from.unwrap_or_default();
    Some(AccessRule {
        action,
        services: what.value.to_owned(),
        ports,
        on: on.unwrap_or_default(),
        of: of.unwrap_or_default(),
        from,
        names,
        mark: mark.map_or(0, |v| v.value as u32),
        log,
        written: Written(origin),
    })
}

/// The words of a list with commas; an empty one is reported.
fn words<'v>(report: &mut Report, v: &At<&'v str>) -> Vec<&'v str> {
    let all: Vec<&str> = v.value.split(',').map(str::trim).collect();
    if all.iter().any(|w| w.is_empty()) {
        report.error(&v.span, "a word is missing; write a list like \"one, two\"");
    }
    all.into_iter().filter(|w| !w.is_empty()).collect()
}

pub(super) fn read_services(
    report: &mut Report,
    v: &At<&str>,
    catalogue: &Catalogue,
) -> Vec<Ports> {
    let mut ports = Vec::new();
    for word in words(report, v) {
        match catalogue.find(word) {
            Ok(some) => ports.extend(some),
            Err(problem) => {
                let span = report.span_of(word, &v.span);
                let hint = suggest(word, &catalogue.names(), "access.service", "NAME");
                let hint = if word.contains('/') { String::new() } else { format!("; {hint}") };
                report.error(&span, format!("{problem}{hint}"));
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn read_places(report: &mut Report, v: &At<&str>, interfaces: &Interfaces) -> Vec<Place> {
    let mut places = Vec::new();
    for word in words(report, v) {
        match word {
            "mgmt" => places.push(Place::Kind(AliasClass::Mgmt)),
            "data" => places.push(Place::Kind(AliasClass::Data)),
            "san" => places.push(Place::Kind(AliasClass::San)),
            name => {
                if let Some(alias) = find_alias(report, v, name, interfaces) {
                    places.push(Place::Alias(alias, interfaces.name(alias).to_owned()));
                }
            }
        }
    }
    places
}

fn read_names(report: &mut Report, v: &At<&str>) -> Vec<String> {
    let mut names = Vec::new();
    for word in words(report, v) {
        let star = word.find('*').is_some_and(|at| at + 1 != word.len());
        if star {
            let span = report.span_of(word, &v.span);
            report.error(&span, format!("'{word}': a '*' stands at the end only, as in web*"));
        }
        // As those of vservers are compared.
        names.push(word.to_ascii_lowercase());
    }
    names
}

fn read_clients(report: &mut Report, v: &At<&str>, whose: &Whose) -> (Vec<Cidr>, Vec<ClientName>) {
    let (mut clients, mut names) = (Vec::new(), Vec::new());
    for word in words(report, v) {
        let whole = match word.parse::<std::net::IpAddr>() {
            Ok(ip) => Some(Cidr { addr: ip, prefix_len: if ip.is_ipv4() { 32 } else { 128 } }),
            Err(_) => word.parse::<Cidr>().ok(),
        };
        let span = report.span_of(word, &v.span);
        let is_name = whole.is_none()
            && match whose {
                // Each vserver that it concerns resolves it.
                Whose::Host => is_domain_name(word),
                Whose::Vserver(own) => own.takes_name(report, word, &span),
            };
        match whole {
            _ if is_name => names.push(ClientName::new(word)),
            Some(cidr) if cidr.network() == cidr => clients.push(cidr),
            Some(cidr) => {
                let right = cidr.network();
                report.error(&span, format!("{cidr} has bits behind its prefix; write {right}"));
            }
            None => report.error(
                &span,
                format!(
                    "'{word}' is no client; write an address, a network like 10.0.0.0/8, or a name"
                ),
            ),
        }
    }
    (clients, names)
}

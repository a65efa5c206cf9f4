//! `[vserver.*]`: addresses, routes, limits. A table with `count` stands for that many vservers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use weft_stack::ip::address::Cidr;

use super::address::{check_address_count, not_a_host, read_addresses};
use super::diagnostic::Report;
use super::inherit::{Groups, Settings, check_cut};
use super::interface::Interfaces;
use super::mdns::read_mdns;
use super::reader::{At, Section};
use super::register::read_register;
use super::stack::read_stack;
use super::{
    Connect, Dns, Identity, Vserver, access, connect, dhcp, dns, neighbours, qos, route, rule,
    service, shim,
};
use crate::naming::is_holder;

/// The most vservers of one host.
const VSERVERS_MAX: u64 = 65_536;

/// Which vserver has an address of a link, to find it twice.
type Owners = HashMap<(usize, IpAddr), (String, usize)>;

pub(super) fn read_vservers<'a, 'i>(
    report: &mut Report,
    mut section: Section<'a, 'i>,
    groups: &mut Groups<'a, 'i>,
    interfaces: &Interfaces,
    base: &Path,
) -> (Vec<Vserver>, Spans, Vec<At<String>>) {
    let mut roles = Vec::new();
    for (s, cut) in groups.take_sections() {
        roles.extend(read_vserver(report, s, Kind::Group, &cut, interfaces, base).roles);
    }
    let mut owners = Owners::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    let mut all = Vec::new();
    let mut spans = Vec::new();
    for (name, mut s) in section.named_tables(report) {
        check_name(report, &name, "vserver");
        report.trail_begin(name.value);
        let count = s.integer(report, "count", 1..=VSERVERS_MAX);
        s.trace();
        let group = s.string(report, "group").and_then(|g| groups.find(report, &g));
        let cut = s.strings(report, "cut");
        s.cut(cut.iter().map(|c| c.value).collect());
        s.inherit(groups.layers(group));
        let kind = if count.is_some() { Kind::Several } else { Kind::One };
        let mut one = read_vserver(report, s, kind, &cut, interfaces, base);
        one.vserver.name = name.value.to_ascii_lowercase();
        one.vserver.spelled = name.value.to_owned();
        one.vserver.table.clone_from(&one.vserver.name);
        roles.append(&mut one.roles);
        one.vserver.group = group;
        one.vserver.settings = report.trail_end();
        let line = report.line(name.span.start);
        for i in 0..count.as_ref().map_or(1, |c| c.value) {
            let Some(v) = instance(report, &one, count.is_some().then_some(i)) else { break };
            if let Some(other) = lines.insert(v.name.clone(), line) {
                report.error(
                    &name.span,
                    format!("vserver '{}' is at line {other} too; use another name", v.name),
                );
            }
            if !own_addresses(report, &v, &one, interfaces, &mut owners) {
                break;
            }
            all.push(v);
            let qos = one.qos_span.clone();
            let shim = one.shim_span.clone();
            spans.push(Places { addresses: one.address_spans.clone(), qos, shim });
        }
        if all.len() as u64 > VSERVERS_MAX {
            report.error(&name.span, format!("more than {VSERVERS_MAX} vservers; use fewer"));
            break;
        }
    }
    (all, spans, roles)
}

/// Where things of a vserver stand that are checked when all of them are known.
pub(super) struct Places {
    /// In the order of its addresses.
    pub(super) addresses: Vec<Range<usize>>,
    /// What it is promised, or the vserver.
    pub(super) qos: Range<usize>,
    /// Its shim, or the vserver.
    pub(super) shim: Range<usize>,
}

type Spans = Vec<Places>;

/// What a table stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A vserver.
    One,
    /// As many as its `count` says.
    Several,
    /// None: what is there waits for members.
    Group,
    /// All that there are: none has an address or a resolver to speak of.
    All,
}

/// A vserver as written, with the places of what is checked later.
struct Written {
    vserver: Vserver,
    address_spans: Vec<Range<usize>>,
    via_spans: Vec<Range<usize>>,
    qos_span: Range<usize>,
    shim_span: Range<usize>,
    roles: Vec<At<String>>,
}

/// The `i`th of a table with `count`: its number, from 1, ends the name, and each address is `i`
/// higher. `None` if an address leaves its network (reported).
fn instance(report: &mut Report, written: &Written, i: Option<u64>) -> Option<Vserver> {
    let mut v = written.vserver.clone();
    let Some(i) = i else { return Some(v) };
    v.name = format!("{}{}", v.name, i + 1);
    v.spelled = format!("{}{}", v.spelled, i + 1);
    for (k, (_, cidr)) in v.addresses.iter_mut().enumerate() {
        let next = advance(cidr.addr, i).filter(|a| cidr.contains(*a));
        let valid = next.and_then(|addr| {
            let moved = Cidr { addr, prefix_len: cidr.prefix_len };
            not_a_host(&moved).is_none().then_some(moved)
        });
        let Some(moved) = valid else {
            report.error(
                &written.address_spans[k],
                format!(
                    "network {} ends before the address of vserver '{}'; use a shorter prefix or a smaller 'count'",
                    cidr.network(),
                    v.name
                ),
            );
            return None;
        };
        *cidr = moved;
    }
    Some(v)
}

fn advance(addr: IpAddr, n: u64) -> Option<IpAddr> {
    Some(match addr {
        IpAddr::V4(a) => IpAddr::V4(u32::from(a).checked_add(u32::try_from(n).ok()?)?.into()),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).checked_add(u128::from(n))?.into()),
    })
}

pub(super) fn check_name(report: &mut Report, name: &At<&str>, what: &str) {
    // Vservers are called as the file spells them in client identifiers; groups are not.
    let capital = what != "vserver" && name.value.bytes().any(|b| b.is_ascii_uppercase());
    if !is_holder(name.value) || capital {
        report.error(
            &name.span,
            format!(
                "'{}' is no name of a {what}; use a {}letter and then up to 62 {}letters, digits, '-', '_'",
                name.value,
                if what == "vserver" { "" } else { "lower-case " },
                if what == "vserver" { "" } else { "lower-case " },
            ),
        );
    }
    if name.value.to_ascii_lowercase().starts_with("vs_mgmt") {
        report.error(
            &name.span,
            format!("'{}' starts with the reserved name vs_mgmt; use another name", name.value),
        );
    }
}

fn read_vserver(
    report: &mut Report,
    mut s: Section,
    kind: Kind,
    cut: &[At<&str>],
    interfaces: &Interfaces,
    base: &Path,
) -> Written {
    let (addresses, address_spans, slaac) = read_addresses(report, &mut s, kind, interfaces);
    let identity = read_identity(report, &mut s);
    let dhcp = dhcp::read_dhcp(report, &mut s, interfaces, &identity);
    let acd = dhcp::read_acd(report, &mut s);
    if kind != Kind::Group {
        want_addresses(report, &s, interfaces);
    }
    let forwarding = s.boolean(report, "forwarding").is_some_and(|v| v.value);
    s.default(report, "forwarding", &false);
    let (dns, connect) = read_outward(report, &mut s);
    let register = s.table(report, "register").and_then(|s| read_register(report, s, base));
    let mdns = s.table(report, "mdns").map(|s| read_mdns(report, s));
    let (limits, tcp) = read_stack(report, &mut s);
    check_address_count(report, &addresses, &address_spans, limits.addresses, interfaces);
    let resolves = !dns.servers.is_empty() || !dhcp.is_empty();
    let own = Own { addresses: &addresses, slaac: &slaac, kind, resolves };
    let routes = route::read_routes(report, &mut s, &own, interfaces);
    let (tables, ruled) = rule::read(report, &mut s, &own, interfaces);
    let neighbours = neighbours::read(report, &mut s, interfaces);
    let rules = s.tables(report, "access");
    let access = interfaces.services.map(|catalogue| {
        access::read_rules(report, rules, catalogue, interfaces, &access::Whose::Vserver(&own))
    });
    let service_tables = s.tables(report, "service");
    let services = service::read_services(report, service_tables, &own, base);
    let (shim, shim_span) = read_own_shim(report, &mut s, base, interfaces.workers);
    let (qos, qos_span) = read_own_qos(report, &mut s, interfaces, &own);
    let roles = read_role_names(report, &mut s);
    check_cut(report, cut, s.known());
    s.finish(report);
    let vserver = Vserver {
        name: String::new(),
        spelled: String::new(),
        identity,
        addresses,
        slaac,
        dhcp,
        acd,
        alias_conflicts: interfaces.all_conflicts(),
        routes: routes.literal,
        named_routes: routes.named,
        tables,
        rules: ruled,
        neighbours,
        forwarding,
        limits,
        tcp,
        access: access.unwrap_or_default(),
        services,
        qos,
        dns,
        connect,
        register,
        mdns,
        shim,
        table: String::new(),
        group: None,
        roles: roles.iter().map(|r| r.value.clone()).collect(),
        settings: Settings::default(),
    };
    Written { vserver, address_spans, via_spans: routes.via_spans, qos_span, shim_span, roles }
}

fn read_own_shim(
    report: &mut Report,
    s: &mut Section,
    base: &Path,
    workers: usize,
) -> (Option<shim::Shim>, Range<usize>) {
    let part = s.table(report, "shim");
    let span = part.as_ref().map_or_else(|| s.span.clone(), |p| p.span.clone());
    (part.map(|part| shim::read_shim(report, part, base, workers)), span)
}

fn read_own_qos(
    report: &mut Report,
    s: &mut Section,
    interfaces: &Interfaces,
    own: &Own,
) -> (super::qos::Qos, Range<usize>) {
    let part = s.table_or_empty(report, "qos");
    let span = part.span.clone();
    (qos::read_qos(report, part, interfaces.qos_groups, own), span)
}

/// How it finds others, and sets up connections to them.
fn read_outward(report: &mut Report, s: &mut Section) -> (Dns, Connect) {
    let part = s.table_or_empty(report, "dns");
    let dns = dns::read_dns(report, part);
    let part = s.table_or_empty(report, "connect");
    (dns, connect::read_connect(report, part))
}

/// A vserver has addresses, or says where they come from.
fn want_addresses(report: &mut Report, s: &Section, interfaces: &Interfaces) {
    if !["addresses", "slaac", "dhcp"].iter().any(|key| s.span_of_key(key).is_some()) {
        s.missing(report, "addresses", &format!("[\"{} 192.0.2.1/24\"]", interfaces.example()));
    }
}

fn read_role_names(report: &mut Report, s: &mut Section) -> Vec<At<String>> {
    let roles = s.strings(report, "roles");
    roles.into_iter().map(|t| At::new(t.value.to_owned(), t.span)).collect()
}

fn read_identity(report: &mut Report, s: &mut Section) -> Identity {
    s.default(report, "identity", &"vserver");
    let Some(t) = s.string(report, "identity") else { return Identity::default() };
    match t.value {
        "vserver" => Identity::Vserver,
        "node" => Identity::Node,
        kind => {
            let name = kind.strip_prefix("kind ").map(str::trim).filter(|k| is_holder(k));
            if name.is_none() {
                let text = format!(
                    "'{kind}' is no identity; use \"vserver\", \"node\" or \"kind MySQLMgmtNode\""
                );
                report.error(&t.span, text);
            }
            Identity::Kind(name.unwrap_or_default().to_owned())
        }
    }
}

/// What a vserver calls its own, for routes and services.
pub(super) struct Own<'a> {
    pub(super) addresses: &'a [(usize, Cidr)],
    pub(super) slaac: &'a [usize],
    /// Of several vservers single addresses mean nothing, of a group none are known.
    pub(super) kind: Kind,
    /// It has DNS servers, so names may stand for addresses.
    pub(super) resolves: bool,
}

impl Own<'_> {
    pub(super) fn has(&self, addr: IpAddr) -> bool {
        self.addresses.iter().any(|(_, c)| c.addr == addr)
    }

    /// Whether text is a name that the vserver can resolve; reports one that it cannot.
    pub(super) fn takes_name(&self, report: &mut Report, text: &str, span: &Range<usize>) -> bool {
        if !dns::is_domain_name(text) {
            return false;
        }
        if self.kind == Kind::All {
            report.error(
                span,
                format!(
                    "'{text}' is a name, and a service of all vservers has no resolver; write an address"
                ),
            );
        } else if !self.resolves {
            report.error(
                span,
                format!(
                    "'{text}' is a name, and the vserver has no DNS servers; write an address, or \
                     add dns = {{ servers = [...] }}"
                ),
            );
        }
        true
    }

    /// Its addresses, for messages.
    pub(super) fn list(&self) -> String {
        let all: Vec<_> = self.addresses.iter().map(|(_, c)| c.addr.to_string()).collect();
        all.join(", ")
    }
}

/// Notes the addresses of a vserver; `false` if one belongs to another (reported).
fn own_addresses(
    report: &mut Report,
    v: &Vserver,
    written: &Written,
    interfaces: &Interfaces,
    owners: &mut Owners,
) -> bool {
    for (k, (alias, cidr)) in v.addresses.iter().enumerate() {
        let span = &written.address_spans[k];
        let link = interfaces.link(*alias);
        let owner = (v.name.clone(), span.start);
        let Some((other, at)) = owners.insert((link, cidr.addr), owner) else { continue };
        let line = report.line(at);
        let why = if link == *alias {
            format!("is on '{}' already", interfaces.name(*alias))
        } else {
            format!(
                "is on '{}' already, which shares a NIC and its MAC address with '{}'",
                interfaces.name(link),
                interfaces.name(*alias)
            )
        };
        let right = if link == *alias {
            "use another address or another alias"
        } else {
            "give one of the aliases a 'mac', or use another address"
        };
        report.error(
            span,
            format!("address {} {why} (vserver '{other}', line {line}); {right}", cidr.addr),
        );
        return false;
    }
    for (route, span) in v.routes.iter().zip(&written.via_spans) {
        if v.addresses.iter().any(|(_, c)| Some(c.addr) == route.via) {
            report.error(
                span,
                format!("the gateway is vserver '{}' itself; use the router's address", v.name),
            );
            return false;
        }
    }
    true
}

//! `[vserver.*]`: addresses, routes, limits. A table with `count` stands for that many vservers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use weft_stack::ip::address::Cidr;
use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, FastOpen, Limits, MtuProbing, SynCookies, TcpConfig};

use super::diagnostic::Report;
use super::inherit::{Groups, Settings, check_cut};
use super::interface::suggest;
use super::mdns::read_mdns;
use super::qos::QosGroup;
use super::reader::{At, Section};
use super::register::read_register;
use super::{
    Alias, Cluster, Driver, Identity, Nic, TableSpec, Vserver, access, dhcp, dns, qos, route, rule,
    service,
};
use crate::access::Catalogue;
use crate::naming::is_holder;

/// The most vservers of one host.
const VSERVERS_MAX: u64 = 65_536;

/// What vservers are checked against.
pub(super) struct Interfaces<'a> {
    nics: &'a [At<Nic>],
    aliases: &'a [At<Alias>],
    qos_groups: &'a [QosGroup],
    cluster: Option<&'a Cluster>,
    /// What access rules may name.
    services: Option<&'a Catalogue>,
    /// Route tables shared by name.
    pub(super) tables: &'a [TableSpec],
}

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
            spans.push(one.address_spans.clone());
        }
        if all.len() as u64 > VSERVERS_MAX {
            report.error(&name.span, format!("more than {VSERVERS_MAX} vservers; use fewer"));
            break;
        }
    }
    (all, spans, roles)
}

/// Where the addresses of each vserver stand.
type Spans = Vec<Vec<Range<usize>>>;

/// Aliases (indices) and addresses on them.
type Addresses = Vec<(usize, Cidr)>;

/// What a table stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A vserver.
    One,
    /// As many as its `count` says.
    Several,
    /// None: what is there waits for members.
    Group,
}

/// A vserver as written, with the places of what is checked later.
struct Written {
    vserver: Vserver,
    address_spans: Vec<Range<usize>>,
    via_spans: Vec<Range<usize>>,
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

/// Its addresses, where each stands, and the aliases where more are learned.
fn read_addresses(
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
    let part = s.table_or_empty(report, "dns");
    let dns = dns::read_dns(report, part);
    let register = s.table(report, "register").and_then(|s| read_register(report, s, base));
    let mdns = s.table(report, "mdns").map(|s| read_mdns(report, s));
    let (limits, tcp) = read_stack(report, &mut s);
    check_address_count(report, &addresses, &address_spans, limits.addresses, interfaces);
    let resolves = !dns.servers.is_empty() || !dhcp.is_empty();
    let own = Own { addresses: &addresses, slaac: &slaac, kind, resolves };
    let routes = route::read_routes(report, &mut s, &own, interfaces);
    let (tables, ruled) = rule::read(report, &mut s, &own, interfaces);
    let rules = s.tables(report, "access");
    let access = interfaces.services.map(|catalogue| {
        access::read_rules(report, rules, catalogue, interfaces, &access::Whose::Vserver)
    });
    let service_tables = s.tables(report, "service");
    let services = service::read_services(report, service_tables, &own, base);
    let part = s.table_or_empty(report, "qos");
    let qos = qos::read_qos(report, part, interfaces.qos_groups);
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
        routes: routes.literal,
        named_routes: routes.named,
        tables,
        rules: ruled,
        forwarding,
        limits,
        tcp,
        access: access.unwrap_or_default(),
        services,
        qos,
        dns,
        register,
        mdns,
        table: String::new(),
        group: None,
        roles: roles.iter().map(|r| r.value.clone()).collect(),
        settings: Settings::default(),
    };
    Written { vserver, address_spans, via_spans: routes.via_spans, roles }
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
        if !self.resolves {
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

impl<'a> Interfaces<'a> {
    pub(super) fn new(
        nics: &'a [At<Nic>],
        aliases: &'a [At<Alias>],
        qos_groups: &'a [QosGroup],
        cluster: Option<&'a Cluster>,
    ) -> Interfaces<'a> {
        Interfaces { nics, aliases, qos_groups, cluster, services: None, tables: &[] }
    }

    /// With the route tables that vservers may use.
    pub(super) fn with_tables(self, tables: &'a [TableSpec]) -> Interfaces<'a> {
        Interfaces { tables, ..self }
    }

    /// With the services that access rules may name.
    pub(super) fn with_services(self, services: &'a Catalogue) -> Interfaces<'a> {
        Interfaces { services: Some(services), ..self }
    }

    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster
    }

    pub(super) fn example(&self) -> &str {
        self.aliases.first().map_or("data0", |a| a.value.name.as_str())
    }

    pub(super) fn name(&self, alias: usize) -> &str {
        &self.aliases[alias].value.name
    }

    /// The device an alias's frames cannot be told apart on: itself if it has a MAC address of its
    /// own, else the first alias of the same NIC without one.
    fn link(&self, alias: usize) -> usize {
        let a = &self.aliases[alias].value;
        let same = |b: &At<Alias>| b.value.nic == a.nic && b.value.mac == a.mac;
        self.aliases.iter().position(same).unwrap_or(alias)
    }

    pub(super) fn is_tun(&self, alias: usize) -> bool {
        let nic = self.aliases[alias].value.nic;
        self.nics.get(nic).is_some_and(|n| n.value.driver == Driver::Tun)
    }

    /// The MTU as far as the file knows it.
    fn mtu(&self, alias: usize) -> Option<usize> {
        let a = &self.aliases[alias].value;
        a.mtu.or_else(|| self.nics.get(a.nic).and_then(|n| n.value.mtu))
    }
}

pub(super) fn find_alias(
    report: &mut Report,
    text: &At<&str>,
    name: &str,
    interfaces: &Interfaces,
) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let found = interfaces.aliases.iter().position(|a| a.value.name == lower);
    if found.is_none() {
        let names: Vec<_> = interfaces.aliases.iter().map(|a| a.value.name.as_str()).collect();
        let span = report.span_of(name, &text.span);
        report.error(
            &span,
            format!("unknown alias '{name}'; {}", suggest(&lower, &names, "alias", "data0")),
        );
    }
    found
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
fn not_a_host(cidr: &Cidr) -> Option<&'static str> {
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

fn check_address_count(
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

/// Checks an address that must be the vserver's own.
pub(super) fn check_source(report: &mut Report, addr: IpAddr, span: &Range<usize>, own: &Own) {
    if own.kind == Kind::Group {
        return;
    }
    if own.kind == Kind::Several {
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

/// Reads integers into fields of the same name.
macro_rules! integers {
    ($report:expr, $section:expr, $target:expr, $( $field:ident: $range:expr, )*) => {
        $( if let Some(v) = $section.integer($report, stringify!($field), $range) {
            $target.$field = v.value as _;
        } else {
            $section.default($report, stringify!($field), &$target.$field);
        } )*
    };
}

/// `limits` and `tcp`.
fn read_stack(report: &mut Report, s: &mut Section) -> (Limits, TcpConfig) {
    let part = s.table_or_empty(report, "limits");
    let limits = read_limits(report, part);
    let part = s.table_or_empty(report, "tcp");
    (limits, read_tcp(report, part))
}

fn read_limits(report: &mut Report, mut s: Section) -> Limits {
    let mut l = Limits::default();
    integers!(report, s, l,
        neighbours: 1..=1_048_576,
        neighbour_queue: 1..=1024,
        reassemblies: 1..=65_536,
        reassembly_bytes: 65_536..=1_073_741_824,
        routes: 1..=4_194_304,
        rules: 0..=65_536,
        addresses: 1..=65_536,
        groups: 1..=65_536,
        pmtu: 1..=1_048_576,
        tcp_connections: 1..=16_777_216,
        tcp_half_open: 1..=1_048_576,
        tcp_fast_open: 0..=65_536,
        tcp_listeners: 1..=65_536,
        tcp_bytes: 65_536..=1_099_511_627_776,
        access_states: 1..=1_048_576,
        udp_sockets: 1..=65_536,
        udp_recv_bytes: 2048..=1_073_741_824,
        raw_sockets: 0..=65_536,
        icmp_sockets: 0..=65_536,
        raw_recv_bytes: 2048..=1_073_741_824,
        app_frames: 0..=16_777_216,
        service_timers: 16..=16_777_216,
        out_queue: 16..=65_536,
        icmp_errors_per_second: 0..=1_000_000,
        input_frames: 16..=65_536,
        round_us: 1..=100_000,
        weight: 1..=10_000,
    );
    s.finish(report);
    l
}

/// Reads words into fields of the same name.
macro_rules! choices {
    ($report:expr, $section:expr, $target:expr, $( $field:ident: [$( $word:literal => $value:expr ),*], )*) => {
        $( if let Some(v) = $section.choice($report, stringify!($field), &[$( ($word, $value) ),*]) {
            $target.$field = v.value;
        } else {
            let words = [$( ($word, $value) ),*];
            let word = words.iter().find(|(_, v)| *v == $target.$field).map_or("", |(w, _)| w);
            $section.default($report, stringify!($field), &format_args!("{word:?}"));
        } )*
    };
}

fn read_tcp(report: &mut Report, mut s: Section) -> TcpConfig {
    let mut t = TcpConfig::default();
    integers!(report, s, t,
        send_buffer: 4096..=1_073_741_824,
        send_buffer_max: 4096..=1_073_741_824,
        recv_buffer: 4096..=1_073_741_824,
        recv_buffer_max: 4096..=1_073_741_824,
        rto_ms_min: 1..=60_000,
        time_wait_s: 0..=240,
        delayed_ack_ms: 0..=499,
        quick_acks: 0..=255,
    );
    choices!(report, s, t,
        congestion: [
            "reno" => CongestionControl::NewReno,
            "cubic" => CongestionControl::Cubic,
            "bbr" => CongestionControl::Bbr,
            "dctcp" => CongestionControl::Dctcp
        ],
        ecn: [
            "off" => EcnMode::Off,
            "accept" => EcnMode::Accept,
            "classic" => EcnMode::Classic,
            "accurate" => EcnMode::Accurate
        ],
        fast_open: [
            "off" => FastOpen::Off,
            "client" => FastOpen::Client,
            "server" => FastOpen::Server,
            "both" => FastOpen::Both
        ],
        syn_cookies: [
            "off" => SynCookies::Off,
            "pressure" => SynCookies::Pressure,
            "always" => SynCookies::Always
        ],
        mtu_probing: [
            "off" => MtuProbing::Off,
            "black-hole" => MtuProbing::BlackHole,
            "always" => MtuProbing::Always
        ],
    );
    let o = &mut t.offers;
    for (key, on) in [
        ("pacing", &mut t.pacing),
        ("timestamps", &mut o.timestamps),
        ("sack", &mut o.sack),
        ("window_scaling", &mut o.window_scaling),
    ] {
        if let Some(v) = s.boolean(report, key) {
            *on = v.value;
        } else {
            s.default(report, key, on);
        }
    }
    s.finish(report);
    t
}

//! `[qos.*]`, `[nic.*.qos]`, `[vserver.*.qos]`: rates, shares, priorities; see `docs/qos.md`.

use std::ops::Range;

use weft_stack::ip::address::Cidr;

use super::client::{ClientName, check_count};
use super::diagnostic::Report;
use super::reader::{At, Section, nearest};
use super::units;
use super::vserver::Own;

/// Bytes that a bucket or a queue may hold.
const BYTES: std::ops::RangeInclusive<u64> = 0..=1_073_741_824;
/// Classes of one vserver.
pub(crate) const CLASSES_MAX: usize = 64;
/// How deep groups may lie in one another.
const GROUP_DEPTH_MAX: usize = 8;
/// Weight of whoever says none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Priority of whoever says none; 0 goes first, 7 last.
pub const PRIORITY_DEFAULT: u8 = 4;

/// One direction of a NIC, group, vserver, class or client. `None`: not limited, not guaranteed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Ceiling, in bit/s of whole frames.
    pub limit: Option<u64>,
    /// Ceiling, in packets/s.
    pub limit_packets: Option<u64>,
    /// Bytes that may go at once after a pause; `None`: what the limit gives in 20 ms.
    pub burst: Option<u64>,
    /// Guaranteed minimum, in bit/s.
    pub guarantee: Option<u64>,
    /// Guaranteed minimum, in packets/s.
    pub guarantee_packets: Option<u64>,
    /// Share of what its parent has left, among those of equal priority: 1 to 10,000.
    pub weight: u32,
    /// 0 (first) to 7 (last), for what is above the guarantees.
    pub priority: u8,
    /// Bytes that may wait; `None`: by the limit. With 0 on receive what is over the limit is
    /// lost at once, after ECN marks (policing).
    pub queue: Option<u64>,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            limit: None,
            limit_packets: None,
            burst: None,
            guarantee: None,
            guarantee_packets: None,
            weight: WEIGHT_DEFAULT,
            priority: PRIORITY_DEFAULT,
            queue: None,
        }
    }
}

/// Both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Both {
    /// What the vservers send.
    pub send: Rates,
    /// What they receive.
    pub receive: Rates,
}

/// Which packets belong to a class: all that is given must fit; nothing given fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// One of these DSCPs.
    pub dscp: Vec<u8>,
    /// One of these protocols and ports of the vserver; the port range (0, 65535) is any.
    pub services: Vec<(u8, u16, u16)>,
    /// The peer's port is in one of these ranges.
    pub peer_ports: Vec<(u16, u16)>,
    /// The peer is in one of these networks, or has one of the names.
    pub clients: Vec<Cidr>,
    /// The peer has one of these names; with `clients` empty too: any peer.
    pub names: Vec<ClientName>,
}

/// A class of a vserver's packets, or of each client of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Its name within the vserver.
    pub name: String,
    /// What belongs to it.
    pub matches: Match,
    /// Every so long prefix of the peer's address has queue and rates of its own.
    pub each: Option<u8>,
    /// Clients that are told apart at a time, of `each`.
    pub clients_max: usize,
    /// DSCP written into what the vserver sends.
    pub mark: Option<u8>,
    /// What policy routing rules see as the mark of what the vserver receives and forwards; 0: none.
    pub route_mark: u32,
    /// Of the class, or with `each` of every client.
    pub rates: Both,
}

/// What one vserver may use of its NICs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qos {
    /// Index into [`super::HostConfig::qos_groups`].
    pub group: Option<usize>,
    /// Of the vserver as a whole, on all its NICs together.
    pub rates: Both,
    /// Tried in order; what fits none is the class `default`.
    pub classes: Vec<Class>,
}

/// Several vservers that share rates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QosGroup {
    /// Its name.
    pub name: String,
    /// The group it is in: an index below its own.
    pub parent: Option<usize>,
    /// Of all its vservers and groups together.
    pub rates: Both,
}

/// Well-known services: protocol and port.
const SERVICES: &[(&str, &[(u8, u16)])] = &[
    ("ftp", &[(6, 20), (6, 21)]),
    ("ssh", &[(6, 22)]),
    ("telnet", &[(6, 23)]),
    ("smtp", &[(6, 25)]),
    ("dns", &[(6, 53), (17, 53)]),
    ("dhcp", &[(17, 67), (17, 68)]),
    ("tftp", &[(17, 69)]),
    ("http", &[(6, 80)]),
    ("ntp", &[(17, 123)]),
    ("snmp", &[(17, 161), (17, 162)]),
    ("ldap", &[(6, 389), (17, 389)]),
    ("https", &[(6, 443), (17, 443)]),
    ("cifs", &[(6, 445), (6, 139)]),
    ("nfs", &[(6, 2049), (17, 2049), (6, 111), (17, 111)]),
    ("iscsi", &[(6, 3260)]),
    ("rdp", &[(6, 3389)]),
    ("sip", &[(6, 5060), (17, 5060)]),
];

const PROTOCOLS: &[(&str, u8)] =
    &[("tcp", 6), ("udp", 17), ("icmp", 1), ("icmp6", 58), ("sctp", 132)];

/// As a file has it.
pub(crate) fn protocol_name(number: u8) -> &'static str {
    PROTOCOLS.iter().find(|(_, n)| *n == number).map_or("tcp", |(name, _)| name)
}

/// Names of code points (RFC 2474, 2597, 3246, 5865, 8622).
const DSCPS: &[(&str, u8)] = &[
    ("default", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

/// Reads a class, given those of nearer tables and those before it.
type ReadClass = fn(&mut Report, Section, (&[Class], &[Class]), &Own) -> Option<Class>;

/// `[qos.*]`.
pub(super) fn read_groups(report: &mut Report, mut section: Section) -> Vec<QosGroup> {
    let mut groups: Vec<QosGroup> = Vec::new();
    let mut depths: Vec<usize> = Vec::new();
    for (name, mut s) in section.named_tables(report) {
        let parent = s.string(report, "parent").and_then(|v| find(report, &groups, &v));
        let rates = read_both(report, &mut s);
        s.finish(report);
        let depth = parent.map_or(1, |p| depths[p] + 1);
        if depth > GROUP_DEPTH_MAX {
            report.error(&name.span, format!("groups lie {GROUP_DEPTH_MAX} deep at most"));
        }
        if let Some(p) = parent {
            check_within(report, &name.span, &rates, &groups[p].name, &groups[p].rates);
        }
        groups.push(QosGroup { name: name.value.to_owned(), parent, rates });
        depths.push(depth);
    }
    groups
}

fn find(report: &mut Report, groups: &[QosGroup], v: &At<&str>) -> Option<usize> {
    let found = groups.iter().position(|g| g.name == v.value);
    if found.is_none() {
        let names: Vec<_> = groups.iter().map(|g| g.name.as_str()).collect();
        let hint = match nearest(v.value, &names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("add [qos.{}] before", v.value),
        };
        report.error(&v.span, format!("no QoS group '{}' so far; {hint}", v.value));
    }
    found
}

/// `[nic.*.qos]`.
pub(super) fn read_link(report: &mut Report, mut s: Section) -> Both {
    let rates = read_both(report, &mut s);
    s.finish(report);
    rates
}

/// `[vserver.*.qos]`, or what a group of vservers inherits.
pub(super) fn read_qos(report: &mut Report, mut s: Section, groups: &[QosGroup], own: &Own) -> Qos {
    let group = s.string(report, "group").and_then(|v| find(report, groups, &v));
    let rates = read_both(report, &mut s);
    if let Some(g) = group {
        check_within(report, &s.span, &rates, &groups[g].name, &groups[g].rates);
    }
    let mut classes: Vec<Class> = Vec::new();
    for (key, read) in [("class", read_class as ReadClass), ("clients", read_clients)] {
        // How many come from nearer tables than the one being read.
        let (mut nearer, mut source) = (0, None);
        for t in s.tables(report, key) {
            if source.replace(t.source()) != Some(t.source()) {
                nearer = classes.len();
            }
            classes.extend(read(report, t, classes.split_at(nearer), own));
        }
    }
    if classes.len() > CLASSES_MAX {
        report.error(&s.span, format!("a vserver has {CLASSES_MAX} classes at most"));
    }
    let names = classes.iter().flat_map(|c| &c.matches.names).map(|n| n.name.as_str());
    check_count(report, &s.span, names);
    check_sum(report, &s.span, &rates, &classes);
    s.finish(report);
    Qos { group, rates, classes }
}

fn read_both(report: &mut Report, s: &mut Section) -> Both {
    let mut one = |key| s.table(report, key).map(|t| read_rates(report, t)).unwrap_or_default();
    Both { send: one("send"), receive: one("receive") }
}

fn read_rates(report: &mut Report, mut s: Section) -> Rates {
    let limit = units::bit_rate(report, &mut s, "limit");
    let limit_packets = units::packet_rate(report, &mut s, "limit_packets");
    let guarantee = units::bit_rate(report, &mut s, "guarantee");
    let guarantee_packets = units::packet_rate(report, &mut s, "guarantee_packets");
    for (low, high, key) in
        [(&guarantee, &limit, "limit"), (&guarantee_packets, &limit_packets, "limit_packets")]
    {
        if let (Some(low), Some(high)) = (low, high)
            && low.value > high.value
        {
            report.error(&low.span, format!("the guarantee is above '{key}'; lower it"));
        }
    }
    let burst = units::size(report, &mut s, "burst", &(1514..=*BYTES.end()));
    let queue = units::size(report, &mut s, "queue", &BYTES);
    let weight = s.integer(report, "weight", 1..=10_000);
    let priority = s.integer(report, "priority", 0..=7);
    s.finish(report);
    let value = |v: Option<At<u64>>| v.map(|v| v.value);
    Rates {
        limit: value(limit),
        limit_packets: value(limit_packets),
        burst: value(burst),
        guarantee: value(guarantee),
        guarantee_packets: value(guarantee_packets),
        weight: weight.map_or(WEIGHT_DEFAULT, |v| v.value as u32),
        priority: priority.map_or(PRIORITY_DEFAULT, |v| v.value as u8),
        queue: value(queue),
    }
}

/// A guarantee that the parent's limit cannot give is none.
fn check_within(report: &mut Report, span: &Range<usize>, own: &Both, name: &str, parent: &Both) {
    for (way, own, parent) in
        [("send", &own.send, &parent.send), ("receive", &own.receive, &parent.receive)]
    {
        if let (Some(low), Some(high)) = (own.guarantee, parent.limit)
            && low > high
        {
            report.error(
                span,
                format!("guarantees {low} bit/s to {way}, group '{name}' has a limit of {high} bit/s; lower it"),
            );
        }
    }
}

fn check_sum(report: &mut Report, span: &Range<usize>, own: &Both, classes: &[Class]) {
    let sum = |way: fn(&Both) -> &Rates| -> u64 {
        classes.iter().filter(|c| c.each.is_none()).filter_map(|c| way(&c.rates).guarantee).sum()
    };
    for (word, sum, limit) in [
        ("send", sum(|b| &b.send), own.send.limit),
        ("receive", sum(|b| &b.receive), own.receive.limit),
    ] {
        if let Some(limit) = limit.filter(|l| sum > *l) {
            report.error(
                span,
                format!("its classes guarantee {sum} bit/s to {word}, the vserver's limit is {limit} bit/s; raise it"),
            );
        }
    }
}

fn read_class(
    report: &mut Report,
    mut s: Section,
    before: (&[Class], &[Class]),
    own: &Own,
) -> Option<Class> {
    let whole = s.span.clone();
    let name = s.string(report, "name");
    if name.is_none() && s.span_of_key("name").is_none() {
        s.missing(report, "name", "\"bulk\"");
    }
    let (clients, names) = read_peers(report, &mut s, own);
    let matches = Match {
        dscp: s.strings(report, "dscp").iter().filter_map(|v| dscp(report, v)).collect(),
        services: read_services(report, &mut s),
        peer_ports: s
            .strings(report, "peer_ports")
            .iter()
            .filter_map(|v| ports(report, v))
            .collect(),
        clients,
        names,
    };
    let mark = s.string(report, "mark").and_then(|v| dscp(report, &v));
    let route_mark = read_route_mark(report, &mut s);
    let rates = read_both(report, &mut s);
    s.finish(report);
    let name = name?;
    if !is_new(report, &name, &whole, before) {
        return None;
    }
    let name = name.value.to_owned();
    Some(Class { name, matches, each: None, clients_max: 0, mark, route_mark, rates })
}

/// Networks and names of `clients`.
fn read_peers(report: &mut Report, s: &mut Section, own: &Own) -> (Vec<Cidr>, Vec<ClientName>) {
    let (mut clients, mut names) = (Vec::new(), Vec::new());
    for v in s.strings(report, "clients") {
        if own.takes_name(report, v.value, &v.span) {
            names.push(ClientName::new(v.value));
        } else {
            clients.extend(network(report, &v));
        }
    }
    (clients, names)
}

/// Whether a class is to be there: an inherited one gives way to a nearer one of its name.
fn is_new(
    report: &mut Report,
    name: &At<&str>,
    whole: &Range<usize>,
    (nearer, before): (&[Class], &[Class]),
) -> bool {
    if nearer.iter().any(|c| c.name == name.value) {
        report.trail_hide(whole);
        return false;
    }
    let is_network = name.value.parse::<Cidr>().is_ok();
    if name.value == "default" || before.iter().any(|c| c.name == name.value) {
        report.error(&name.span, format!("class '{}' is there already; rename it", name.value));
    } else if name.value.is_empty() || (name.value.contains('/') && !is_network) {
        report.error(&name.span, format!("'{}' is no name of a class", name.value));
    }
    true
}

fn read_clients(
    report: &mut Report,
    mut s: Section,
    before: (&[Class], &[Class]),
    _: &Own,
) -> Option<Class> {
    let whole = s.span.clone();
    let prefix = s.string(report, "prefix");
    if prefix.is_none() && s.span_of_key("prefix").is_none() {
        s.missing(report, "prefix", "\"10.0.0.0/8\"");
    }
    let network = prefix.as_ref().and_then(|v| network(report, v));
    let full = network.map_or(128, |n| if n.addr.is_ipv4() { 32 } else { 128 });
    let least = u64::from(network.map_or(0, |n| n.prefix_len));
    let each = s.integer(report, "each", least..=full);
    let most = s.integer(report, "clients_max", 1..=65_536);
    let mark = s.string(report, "mark").and_then(|v| dscp(report, &v));
    let route_mark = read_route_mark(report, &mut s);
    let rates = read_both(report, &mut s);
    s.finish(report);
    let (prefix, network) = (prefix?, network?);
    if !is_new(report, &prefix, &whole, before) {
        return None;
    }
    Some(Class {
        name: prefix.value.to_owned(),
        matches: Match { clients: vec![network], ..Match::default() },
        each: Some(each.map_or(full, |v| v.value) as u8),
        clients_max: most.map_or(1024, |v| v.value as usize),
        mark,
        route_mark,
        rates,
    })
}

fn read_route_mark(report: &mut Report, s: &mut Section) -> u32 {
    s.integer(report, "route_mark", 1..=u64::from(u32::MAX)).map_or(0, |v| v.value as u32)
}

fn network(report: &mut Report, v: &At<&str>) -> Option<Cidr> {
    match v.value.parse::<Cidr>() {
        Ok(c) if c.network().addr == c.addr => Some(c),
        Ok(c) => {
            let right = c.network();
            report
                .error(&v.span, format!("'{}' has bits below its prefix; write {right}", v.value));
            None
        }
        Err(e) => {
            report.error(&v.span, format!("{e}; write a network like 10.0.0.0/8 or fd00::/64"));
            None
        }
    }
}

fn dscp(report: &mut Report, v: &At<&str>) -> Option<u8> {
    let named = DSCPS.iter().find(|(n, _)| n.eq_ignore_ascii_case(v.value)).map(|(_, d)| *d);
    let found = named.or_else(|| v.value.parse().ok().filter(|d| *d < 64));
    if found.is_none() {
        report.error(
            &v.span,
            format!(
                "'{}' is no DSCP; use 0 to 63 or a name like \"ef\", \"af41\", \"cs1\"",
                v.value
            ),
        );
    }
    found
}

/// `"80"`, `"8000-8100"`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (low <= high).then_some((low, high))
}

fn ports(report: &mut Report, v: &At<&str>) -> Option<(u16, u16)> {
    let found = range(v.value);
    if found.is_none() {
        report.error(&v.span, format!("'{}' is no port; write \"80\" or \"8000-8100\"", v.value));
    }
    found
}

/// `"nfs"`, `"tcp"`, `"udp 5000-5010"`.
fn read_services(report: &mut Report, s: &mut Section) -> Vec<(u8, u16, u16)> {
    let mut found = Vec::new();
    for v in s.strings(report, "services") {
        if let Some((_, all)) = SERVICES.iter().find(|(n, _)| *n == v.value) {
            found.extend(all.iter().map(|(protocol, port)| (*protocol, *port, *port)));
            continue;
        }
        let (word, rest) = v.value.split_once(' ').unwrap_or((v.value, "0-65535"));
        let protocol = PROTOCOLS.iter().find(|(n, _)| *n == word).map(|(_, p)| *p);
        if let (Some(protocol), Some((low, high))) = (protocol, range(rest)) {
            found.push((protocol, low, high));
            continue;
        }
        let names: Vec<_> = SERVICES.iter().map(|(n, _)| *n).collect();
        report.error(
            &v.span,
            format!(
                "'{}' is no service; write \"tcp\", \"udp 5000-5010\" or one of {}",
                v.value,
                names.join(", ")
            ),
        );
    }
    found
}

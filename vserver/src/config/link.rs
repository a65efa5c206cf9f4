//! `[bond.*]`, `[vlan.*]` and `[fail.*]`, and the tree that everything makes together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use weft_interface::bond::config::{Activity, Rate, SelectPolicy};
use weft_interface::bond::{BondConfig, HashPolicy, LacpConfig, Mode, PortConfig};
use weft_interface::fail::config::{FastConfig, GroupConfig, ProbeMode};
use weft_interface::tree::{At as Place, Illegal, Owner, Tree, TreeSpec};
use weft_stack::ip::address::Cidr;
use weft_stack::time::Duration;

use super::diagnostic::Report;
use super::interface::{read_aliases, read_mac, read_mac_of};
use super::qos::{self, Both};
use super::reader::{At, Section};
use super::{Alias, BondSpec, GroupSpec, HostConfig, Nic, VlanSpec};
use crate::interface::InterfaceName;

pub(super) const MODES: [(&str, Mode); 4] = [
    ("lacp", Mode::Lacp),
    ("static", Mode::Static),
    ("active-backup", Mode::ActiveBackup),
    ("round-robin", Mode::RoundRobin),
];
pub(super) const HASHES: [(&str, HashPolicy); 4] = [
    ("l2", HashPolicy::L2),
    ("l3", HashPolicy::L3),
    ("l3+4", HashPolicy::L34),
    ("symmetric", HashPolicy::Symmetric),
];

pub(super) const PROBES: [(&str, ProbeMode); 4] = [
    ("link", ProbeMode::Link),
    ("icmp", ProbeMode::Icmp),
    ("arp", ProbeMode::Arp),
    ("transitive", ProbeMode::Transitive),
];

/// Failure detection time: [`fail::config::DETECT_MIN`](weft_interface::fail::config::DETECT_MIN) at
/// least.
pub(super) const DETECT_MS: std::ops::RangeInclusive<u64> = 100..=600_000;
/// Spanning tree takes less than a minute.
const QUIET_MS_MAX: u64 = 600_000;
/// Longer than any switch needs until it forwards.
const UP_DELAY_MS_MAX: u64 = 600_000;

/// Where in the file the parts of the tree stand.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<Place, Range<usize>>);

impl Places {
    pub(super) fn set(&mut self, place: Place, span: &Range<usize>) {
        self.0.insert(place, span.clone());
    }

    fn find(&self, place: Place) -> Range<usize> {
        let whole = match place {
            Place::Port(bond, _) | Place::MinLinks(bond) => Place::Bond(bond),
            Place::Member(group, _) | Place::Standby(group, _) | Place::Test(group, _) => {
                Place::Group(group)
            }
            Place::Over(alias) | Place::Mtu(alias) | Place::Mac(alias) => Place::Alias(alias),
            other => other,
        };
        self.0.get(&place).or_else(|| self.0.get(&whole)).cloned().unwrap_or(0..0)
    }
}

/// What all interfaces make together; reports what does not fit, once at each place.
pub(super) fn check(report: &mut Report, spec: TreeSpec, places: &Places) -> Option<Tree> {
    match Tree::new(spec) {
        Ok(tree) => Some(tree),
        Err(errors) => {
            for e in errors {
                let span = places.find(e.at);
                // Who reads an alias without 'over' has said so, in its own words.
                let told = matches!(e.why, Illegal::NoOver(_)) || report.has_error_at(&span);
                if !told {
                    report.error(&span, e.to_string());
                }
            }
            None
        }
    }
}

/// A bond of that name without ports. Every bond has a key of its own, as several bonds of one
/// system need.
pub(super) fn bond_default(name: &str) -> BondConfig {
    let number = match name.parse() {
        Ok(InterfaceName::Bond(number)) => number,
        _ => 0,
    };
    BondConfig {
        lacp: LacpConfig { key: number + 1, ..LacpConfig::default() },
        ..BondConfig::default()
    }
}

/// Rates of bonds and groups, and where they stand.
type LinkRates = Vec<At<(String, Both)>>;

/// `[bond.*.qos]` and `[fail.*.qos]`.
fn read_rates(report: &mut Report, s: &mut Section, name: &str, rates: &mut LinkRates) {
    let Some(table) = s.table(report, "qos") else { return };
    let span = table.span.clone();
    let both = qos::read_link(report, table);
    if both != Both::default() {
        rates.push(At::new((name.to_owned(), both), span));
    }
}

pub(super) fn read_bonds(
    report: &mut Report,
    mut section: Section,
    places: &mut Places,
    rates: &mut LinkRates,
) -> Vec<BondSpec> {
    let mut bonds = Vec::new();
    for (i, (name, mut s)) in section.named_tables(report).into_iter().enumerate() {
        places.set(Place::Bond(i), &name.span);
        let name = name.value.to_ascii_lowercase();
        read_rates(report, &mut s, &name, rates);
        let config = read_bond(report, s, &name, |place, span| match place {
            Some(port) => places.set(Place::Port(i, port), span),
            None => places.set(Place::MinLinks(i), span),
        });
        bonds.push(BondSpec { name, config });
    }
    bonds
}

fn read_bond(
    report: &mut Report,
    mut s: Section,
    name: &str,
    mut place: impl FnMut(Option<usize>, &Range<usize>),
) -> BondConfig {
    let mut bond = bond_default(name);
    for (i, port) in s.strings(report, "ports").into_iter().enumerate() {
        place(Some(i), &port.span);
        bond.ports.push(PortConfig::named(&port.value.to_ascii_lowercase()));
    }
    if bond.ports.is_empty() && s.span_of_key("ports").is_none() {
        s.missing(report, "ports", "[\"eth0\", \"eth1\"]");
    }
    let mode = s.choice(report, "mode", &MODES);
    bond.mode = mode.map_or(bond.mode, |v| v.value);
    bond.hash = s.choice(report, "hash", &HASHES).map_or(bond.hash, |v| v.value);
    if let Some(v) = s.integer(report, "min_links", 0..=u64::from(u16::MAX)) {
        place(None, &v.span);
        bond.min_links = v.value as u16;
    }
    bond.mac = read_mac(report, &mut s).map(|v| v.value);
    if let Some(v) = s.string(report, "primary") {
        let primary = v.value.to_ascii_lowercase();
        if bond.mode != Mode::ActiveBackup {
            report.error(&v.span, "'primary' is for mode \"active-backup\"; remove it");
        } else if !bond.ports.iter().any(|p| p.name == primary) {
            let text = format!("primary '{}' of {name} is none of its ports", v.value);
            report.error(&v.span, text);
        }
        bond.primary = Some(primary);
    }
    bond.failback = s.boolean(report, "failback").map_or(bond.failback, |v| v.value);
    if let Some(v) = s.integer(report, "up_delay_ms", 0..=UP_DELAY_MS_MAX) {
        bond.up_delay = Duration::from_millis(v.value);
    }
    let mode = bond.mode;
    if let Some(lacp) = s.table(report, "lacp") {
        if mode != Mode::Lacp {
            report.error(&lacp.span, "'lacp' is for mode \"lacp\"; remove it");
        }
        read_lacp(report, lacp, &mut bond);
    }
    s.finish(report);
    bond
}

fn read_lacp(report: &mut Report, mut s: Section, bond: &mut BondConfig) {
    const NUMBER: std::ops::RangeInclusive<u64> = 0..=u16::MAX as u64;
    let lacp = &mut bond.lacp;
    let words = [("active", Activity::Active), ("passive", Activity::Passive)];
    lacp.activity = s.choice(report, "activity", &words).map_or(lacp.activity, |v| v.value);
    let words = [("fast", Rate::Fast), ("slow", Rate::Slow)];
    lacp.rate = s.choice(report, "rate", &words).map_or(lacp.rate, |v| v.value);
    if let Some(v) = s.integer(report, "system_priority", NUMBER) {
        lacp.system_priority = v.value as u16;
    }
    lacp.system = read_mac_of(report, &mut s, "system").map(|v| v.value);
    if let Some(v) = s.integer(report, "key", NUMBER) {
        lacp.key = v.value as u16;
    }
    lacp.independent = s.boolean(report, "independent").map_or(lacp.independent, |v| v.value);
    lacp.max_ports = s.integer(report, "max_ports", 1..=*NUMBER.end()).map(|v| v.value as u16);
    let words = [
        ("stable", SelectPolicy::Stable),
        ("bandwidth", SelectPolicy::Bandwidth),
        ("count", SelectPolicy::Count),
    ];
    lacp.select = s.choice(report, "select", &words).map_or(lacp.select, |v| v.value);
    lacp.fallback = s.boolean(report, "fallback").map_or(lacp.fallback, |v| v.value);
    if let Some(mut ports) = s.table(report, "ports") {
        for (name, port) in ports.named_tables(report) {
            let lower = name.value.to_ascii_lowercase();
            let at = bond.ports.iter_mut().find(|p| p.name == lower);
            if at.is_none() {
                let text = format!("'{}' is none of the bond's ports; add it there", name.value);
                report.error(&name.span, text);
            }
            read_port(report, port, at);
        }
    }
    s.finish(report);
}

fn read_port(report: &mut Report, mut s: Section, port: Option<&mut PortConfig>) {
    let mut unused = PortConfig::default();
    let port = port.unwrap_or(&mut unused);
    let most = u64::from(u16::MAX);
    if let Some(v) = s.integer(report, "priority", 0..=most) {
        port.priority = v.value as u16;
    }
    port.number = s.integer(report, "number", 1..=most).map(|v| v.value as u16);
    port.individual = s.boolean(report, "individual").is_some_and(|v| v.value);
    s.finish(report);
}

pub(super) fn read_vlans(
    report: &mut Report,
    mut section: Section,
    places: &mut Places,
) -> Vec<VlanSpec> {
    let mut vlans = Vec::new();
    for (i, (name, mut s)) in section.named_tables(report).into_iter().enumerate() {
        places.set(Place::Vlan(i), &name.span);
        let priority = s.integer(report, "priority", 0..=7).map(|v| v.value as u8);
        let text = name.value.to_ascii_lowercase();
        s.finish(report);
        vlans.push(VlanSpec { name: text, priority });
    }
    vlans
}

pub(super) fn read_groups(
    report: &mut Report,
    mut section: Section,
    places: &mut Places,
    rates: &mut LinkRates,
) -> Vec<GroupSpec> {
    let mut groups = Vec::new();
    for (i, (name, mut s)) in section.named_tables(report).into_iter().enumerate() {
        places.set(Place::Group(i), &name.span);
        let name = name.value.to_ascii_lowercase();
        read_rates(report, &mut s, &name, rates);
        groups.push(GroupSpec { name, config: read_group(report, s, i, places) });
    }
    groups
}

fn read_group(report: &mut Report, mut s: Section, i: usize, places: &mut Places) -> GroupConfig {
    let mut group = GroupConfig::default();
    for (n, member) in s.strings(report, "members").into_iter().enumerate() {
        places.set(Place::Member(i, n), &member.span);
        group.members.push(member.value.to_ascii_lowercase());
    }
    if group.members.is_empty() && s.span_of_key("members").is_none() {
        s.missing(report, "members", "[\"eth0\", \"eth1\"]");
    }
    for (n, member) in s.strings(report, "standby").into_iter().enumerate() {
        places.set(Place::Standby(i, n), &member.span);
        group.standby.push(member.value.to_ascii_lowercase());
    }
    group.failback = s.boolean(report, "failback").map_or(group.failback, |v| v.value);
    if let Some(v) = s.integer(report, "detect_ms", DETECT_MS) {
        group.detect = Duration::from_millis(v.value);
    }
    group.probe = s.choice(report, "probe", &PROBES).map_or(group.probe, |v| v.value);
    for text in s.strings(report, "test") {
        let Some(test) = read_test(report, &text) else { continue };
        places.set(Place::Test(i, group.test.len()), &text.span);
        group.test.push(test);
    }
    group.targets = read_hosts(report, &mut s, "targets");
    group.fast = s.table(report, "fast").map(|s| read_fast(report, s));
    group.beyond = read_hosts(report, &mut s, "beyond");
    group.hook = read_hook(report, &mut s);
    if let Some(v) = s.integer(report, "quiet_ms", 0..=QUIET_MS_MAX) {
        group.quiet = Duration::from_millis(v.value);
    }
    if let Some(v) = s.integer(report, "flaps_max", 1..=u64::from(u8::MAX)) {
        group.flaps_max = v.value as u8;
    }
    s.finish(report);
    group
}

fn read_fast(report: &mut Report, mut s: Section) -> FastConfig {
    let peers = read_hosts(report, &mut s, "peers");
    let mut fast = FastConfig { peers, ..FastConfig::default() };
    if fast.peers.is_empty() && s.span_of_key("peers").is_none() {
        s.missing(report, "peers", "[\"10.0.0.9\"], hosts that have BFD");
    }
    if let Some(v) = s.integer(report, "interval_ms", 1..=60_000) {
        fast.interval = Duration::from_millis(v.value);
    }
    if let Some(v) = s.integer(report, "multiplier", 1..=u64::from(u8::MAX)) {
        fast.multiplier = v.value as u8;
    }
    s.finish(report);
    fast
}

/// A program that is run for each event.
pub(super) fn read_hook(report: &mut Report, s: &mut Section) -> Option<String> {
    let hook = s.string(report, "hook")?;
    if !hook.value.starts_with('/') {
        let text = format!("hook '{}' is no absolute path; begin it with '/'", hook.value);
        report.error(&hook.span, text);
    }
    Some(hook.value.to_owned())
}

pub(super) fn read_hosts(report: &mut Report, s: &mut Section, key: &'static str) -> Vec<IpAddr> {
    let mut hosts: Vec<IpAddr> = Vec::new();
    for v in s.strings(report, key) {
        match v.value.parse::<IpAddr>() {
            Ok(host) if hosts.contains(&host) => {
                report.error(&v.span, format!("{host} twice in '{key}'; remove one"));
            }
            Ok(host) => hosts.push(host),
            Err(_) => {
                let text = format!("'{}' is no address; write one like \"10.0.0.1\"", v.value);
                report.error(&v.span, text);
            }
        }
    }
    hosts
}

/// `eth2 10.0.0.201/24`: a member and its test address.
fn read_test(report: &mut Report, text: &At<&str>) -> Option<(String, Cidr)> {
    let mut words = text.value.split_whitespace();
    let parts = (words.next(), words.next().map(str::parse::<Cidr>), words.next());
    if let (Some(member), Some(Ok(cidr)), None) = parts {
        return Some((member.to_ascii_lowercase(), cidr));
    }
    let right = "write a member and its test address, like \"eth2 10.0.0.201/24\"";
    report.error(&text.span, format!("'{}': {right}", text.value));
    None
}

/// Everything below the vservers but the NICs.
#[derive(Default)]
pub(super) struct Below {
    pub(super) bonds: Vec<BondSpec>,
    pub(super) vlans: Vec<VlanSpec>,
    pub(super) groups: Vec<GroupSpec>,
    pub(super) rates: LinkRates,
    pub(super) aliases: Vec<At<Alias>>,
    places: Places,
}

impl Below {
    pub(super) fn read(report: &mut Report, root: &mut Section, nics: &[At<Nic>]) -> Below {
        let mut places = Places::default();
        for (i, nic) in nics.iter().enumerate() {
            places.set(Place::Nic(i), &nic.span);
        }
        let mut rates = LinkRates::new();
        let bonds = root.table(report, "bond");
        let bonds = bonds.map(|s| read_bonds(report, s, &mut places, &mut rates));
        let vlans = root.table(report, "vlan").map(|s| read_vlans(report, s, &mut places));
        let groups = root.table(report, "fail");
        let groups = groups.map(|s| read_groups(report, s, &mut places, &mut rates));
        let aliases = root.table(report, "alias");
        let aliases = aliases.map(|s| read_aliases(report, s, nics, &mut places));
        Below {
            bonds: bonds.unwrap_or_default(),
            vlans: vlans.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            rates,
            aliases: aliases.unwrap_or_default(),
            places,
        }
    }

    /// What all of it makes together.
    pub(super) fn tree(&self, report: &mut Report, nics: &[At<Nic>]) -> Option<Tree> {
        let config = HostConfig {
            nics: nics.iter().map(|n| n.value.clone()).collect(),
            bonds: self.bonds.clone(),
            vlans: self.vlans.clone(),
            failover: self.groups.clone(),
            aliases: self.aliases.iter().map(|a| a.value.clone()).collect(),
            ..HostConfig::default()
        };
        let mut spec = config.tree_spec();
        // Two on one device were told with their lines.
        spec.nics.iter_mut().for_each(|nic| nic.device.clear());
        let tree = check(report, spec, &self.places)?;
        self.check_rates(report, nics, &tree);
        Some(tree)
    }

    /// Rates are those of what aliases stand on: those of its components would not be in force.
    fn check_rates(&self, report: &mut Report, nics: &[At<Nic>], tree: &Tree) {
        let of_nics = nics.iter().filter(|n| n.value.qos != Both::default());
        let of_nics = of_nics.map(|n| (n.value.name.as_str(), &n.span));
        let above = self.rates.iter().map(|r| (r.value.0.as_str(), &r.span));
        for (name, span) in of_nics.chain(above) {
            let link = name.parse().ok().and_then(|name| tree.link(&name));
            if let Some(owner) = link.and_then(|link| tree.at(link).above) {
                let by = tree.owner_name(owner);
                let section = if matches!(owner, Owner::Bond(_)) { "bond" } else { "fail" };
                let text = format!(
                    "{name} is a part of {by}, whose rates are in force; say them in [{section}.{by}.qos]"
                );
                report.error(span, text);
            }
        }
    }
}

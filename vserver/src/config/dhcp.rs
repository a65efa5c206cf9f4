//! `dhcp = [...]` of a vserver: addresses that servers give.

use std::net::Ipv4Addr;
use std::ops::Range;

use weft_stack::ip::address::{Acd, AcdPace, AddressTerms};
use weft_stack::time::Duration;

use super::Identity;
use super::diagnostic::Report;
use super::export::{array, quoted, texts};
use super::interface::{Interfaces, find_alias};
use super::reader::{At, Item, Section};

/// Addresses asked for on one alias.
const INSTANCE_MAX: u64 = 65_535;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DhcpFamily {
    /// DHCPv4 (RFC 2131).
    #[default]
    V4,
    /// DHCPv6 (RFC 8415).
    V6,
}

impl DhcpFamily {
    /// As in a configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            DhcpFamily::V4 => "v4",
            DhcpFamily::V6 => "v6",
        }
    }
}

/// When the lease of the cache is used while no server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// As long as it is valid (RFC 2131 3.2).
    #[default]
    Valid,
    /// Even after that: for fixed addresses, which their server gives to nobody else.
    Always,
    /// Never.
    Off,
}

impl CacheUse {
    /// As in a configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            CacheUse::Valid => "valid",
            CacheUse::Always => "always",
            CacheUse::Off => "off",
        }
    }
}

/// One address that a vserver asks servers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpClient {
    /// Index into [`super::HostConfig::aliases`].
    pub alias: usize,
    /// Which protocol.
    pub family: DhcpFamily,
    /// Which one of the vserver's on this alias: the last part of its client identifier.
    pub instance: u32,
    /// Conflicts (IPv4).
    pub acd: Acd,
    /// What the cache is good for.
    pub cache: CacheUse,
    /// Seconds that servers have before the cache is used.
    pub cached_after_s: u32,
    /// Servers that may give addresses (DHCPv4); empty: all.
    pub servers: Vec<Ipv4Addr>,
    /// Servers whose offers go before those of others (DHCPv4).
    pub prefer: Vec<Ipv4Addr>,
    /// Take only offers with vendor options.
    pub vendor_only: bool,
    /// Ask for an exchange of two messages instead of four (DHCPv6).
    pub rapid_commit: bool,
    /// Take routes and MTU from the server, too.
    pub routes: bool,
}

impl DhcpClient {
    /// The first address of a vserver on an alias.
    pub fn new(alias: usize, family: DhcpFamily) -> DhcpClient {
        DhcpClient {
            alias,
            family,
            instance: 0,
            acd: Acd::On,
            cache: CacheUse::Valid,
            cached_after_s: 5,
            servers: Vec::new(),
            prefer: Vec::new(),
            vendor_only: false,
            rapid_commit: false,
            routes: true,
        }
    }
}

/// How conflicts over the IPv4 addresses of an alias are settled (RFC 5227).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AliasConflicts {
    /// Unless a vserver says otherwise; `None`: the defaults of configured and leased addresses.
    pub acd: Option<Acd>,
    /// How fast addresses are probed.
    pub pace: AcdPace,
}

/// How conflicts over a configured IPv4 address are settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// By which rule.
    pub acd: Acd,
    /// How fast it is probed.
    pub pace: AcdPace,
}

impl Conflicts {
    /// As terms of the address.
    pub(crate) fn terms(self) -> AddressTerms {
        AddressTerms { acd: self.acd, pace: self.pace, ..AddressTerms::default() }
    }
}

impl std::fmt::Display for Conflicts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(acd_name(self.acd))?;
        if self.pace == AcdPace::default() {
            return Ok(());
        }
        write!(f, ", {} probes, {} ms", self.pace.probes, self.pace.interval.as_millis())
    }
}

/// Reads what an alias says of conflicts.
pub(super) fn read_conflicts(report: &mut Report, s: &mut Section) -> AliasConflicts {
    let mut pace = AcdPace::default();
    s.default(report, "acd_interval_ms", &pace.interval.as_millis());
    s.default(report, "acd_probes", &pace.probes);
    let acd = s.choice(report, "acd", &ACD).map(|v| v.value);
    if let Some(v) = s.integer(report, "acd_interval_ms", 10..=10_000) {
        pace.interval = Duration::from_millis(v.value);
    }
    if let Some(v) = s.integer(report, "acd_probes", 1..=10) {
        pace.probes = v.value as u8;
    }
    AliasConflicts { acd, pace }
}

/// Words of [`Acd`].
pub(super) const ACD: [(&str, Acd); 3] =
    [("off", Acd::Off), ("defend", Acd::Defend), ("on", Acd::On)];

/// An [`Acd`] as in a configuration file.
pub(super) fn acd_name(acd: Acd) -> &'static str {
    ACD.iter().find(|(_, a)| *a == acd).map_or("on", |(word, _)| word)
}

/// Reads `acd` of a vserver.
pub(super) fn read_acd(report: &mut Report, s: &mut Section) -> Option<Acd> {
    s.default(report, "acd", &acd_name(Acd::default()));
    s.choice(report, "acd", &ACD).map(|v| v.value)
}

/// Reads the `dhcp` list of a vserver.
pub(super) fn read_dhcp(
    report: &mut Report,
    s: &mut Section,
    interfaces: &Interfaces,
    identity: &Identity,
) -> Vec<DhcpClient> {
    let mut clients: Vec<DhcpClient> = Vec::new();
    for item in s.items(report, "dhcp") {
        let (client, instance, span) = match item {
            Item::Text(text) => match read_text(report, &text, interfaces) {
                Some((client, instance)) => (client, instance, text.span),
                None => continue,
            },
            Item::Table(table) => {
                let span = table.span.clone();
                match read_table(report, table, interfaces) {
                    Some((client, instance)) => (client, instance, span),
                    None => continue,
                }
            }
        };
        let alike = |c: &&DhcpClient| (c.alias, c.family) == (client.alias, client.family);
        // Without a number: the next one.
        let next = clients.iter().filter(alike).map(|c| c.instance + 1).max().unwrap_or(0);
        let client = DhcpClient { instance: instance.unwrap_or(next), ..client };
        if clients.iter().filter(alike).any(|c| c.instance == client.instance) {
            report.error(
                &span,
                format!(
                    "instance {} twice on '{}'; use another number",
                    client.instance,
                    interfaces.name(client.alias)
                ),
            );
        }
        check(report, &client, &span, interfaces, identity);
        clients.push(client);
    }
    clients
}

/// `data0`, `data0 v6`, `data0 v6 2`.
fn read_text(
    report: &mut Report,
    text: &At<&str>,
    interfaces: &Interfaces,
) -> Option<(DhcpClient, Option<u32>)> {
    let mut words = text.value.split_whitespace();
    let alias = find_alias(report, text, words.next().unwrap_or_default(), interfaces)?;
    let (mut family, mut instance, mut good) = (None, None, true);
    for word in words {
        match word {
            "v4" if family.is_none() => family = Some(DhcpFamily::V4),
            "v6" if family.is_none() => family = Some(DhcpFamily::V6),
            _ => {
                let number = word.parse().ok().filter(|n| u64::from(*n) <= INSTANCE_MAX);
                good &= instance.is_none() && number.is_some();
                instance = number;
            }
        }
    }
    if !good {
        report.error(
            &text.span,
            format!(
                "'{}' asks for no address; write \"data0\", \"data0 v6\" or \"data0 v6 1\"",
                text.value
            ),
        );
        return None;
    }
    let mut client = DhcpClient::new(alias, family.unwrap_or_default());
    client.acd = interfaces.conflicts(alias).acd.unwrap_or(client.acd);
    Some((client, instance))
}

fn read_table(
    report: &mut Report,
    mut s: Section,
    interfaces: &Interfaces,
) -> Option<(DhcpClient, Option<u32>)> {
    let alias = s.string(report, "alias");
    if alias.is_none() && s.span_of_key("alias").is_none() {
        s.missing(report, "alias", &format!("\"{}\"", interfaces.example()));
    }
    let alias = alias.and_then(|t| find_alias(report, &t, t.value, interfaces));
    let families = [("v4", DhcpFamily::V4), ("v6", DhcpFamily::V6)];
    let family = s.choice(report, "family", &families).map(|v| v.value).unwrap_or_default();
    let mut client = DhcpClient::new(alias.unwrap_or(0), family);
    let instance = s.integer(report, "instance", 0..=INSTANCE_MAX).map(|v| v.value as u32);
    if let Some(v) = s.choice(report, "acd", &ACD) {
        client.acd = v.value;
    } else if let Some(acd) = alias.and_then(|a| interfaces.conflicts(a).acd) {
        client.acd = acd;
    }
    let uses = [("valid", CacheUse::Valid), ("always", CacheUse::Always), ("off", CacheUse::Off)];
    if let Some(v) = s.choice(report, "cache", &uses) {
        client.cache = v.value;
    }
    if let Some(v) = s.integer(report, "cached_after_s", 0..=3600) {
        client.cached_after_s = v.value as u32;
    }
    for (key, list) in [("servers", &mut client.servers), ("prefer", &mut client.prefer)] {
        for t in s.strings(report, key) {
            match t.value.parse() {
                Ok(server) => list.push(server),
                Err(_) => report.error(
                    &t.span,
                    format!(
                        "'{}' is no IPv4 address of a server; write one like 10.0.0.1",
                        t.value
                    ),
                ),
            }
        }
    }
    for (key, on) in [
        ("vendor_only", &mut client.vendor_only),
        ("rapid_commit", &mut client.rapid_commit),
        ("routes", &mut client.routes),
    ] {
        if let Some(v) = s.boolean(report, key) {
            *on = v.value;
        }
    }
    s.finish(report);
    alias?;
    Some((client, instance))
}

fn check(
    report: &mut Report,
    client: &DhcpClient,
    span: &Range<usize>,
    interfaces: &Interfaces,
    identity: &Identity,
) {
    if interfaces.is_tun(client.alias) {
        let name = interfaces.name(client.alias);
        report.error(span, format!("'{name}' has no link for DHCP; use static addresses"));
    }
    if client.family == DhcpFamily::V6 && !client.servers.is_empty() {
        report.error(span, "'servers' are of DHCPv4; remove them, or use vendor_only");
    }
    if client.family == DhcpFamily::V6 && !client.prefer.is_empty() {
        report.error(
            span,
            "'prefer' is of DHCPv4; remove it, DHCPv6 servers say their preference themselves",
        );
    }
    match (interfaces.cluster(), identity) {
        (None, _) => report.error(
            span,
            "'dhcp' needs a name for its clients; add [cluster] with id = \"00:07:34:04:12:0E\"",
        ),
        (Some(cluster), Identity::Node) if cluster.node.is_none() => {
            report.error(span, "addresses of a node need its name; add 'node' in [cluster]");
        }
        (_, Identity::Vserver) => {}
        _ if client.instance > 0 => {
            report.error(span, "a node has one address on an alias; remove this one");
        }
        _ => {}
    }
}

/// A client as it stands in a file.
pub(super) fn export_client(c: &DhcpClient, alias: &str) -> String {
    let default = DhcpClient { instance: c.instance, ..DhcpClient::new(c.alias, c.family) };
    if *c == default {
        return quoted(&format!("{alias} {} {}", c.family.name(), c.instance));
    }
    let DhcpClient {
        alias: _,
        family,
        instance,
        acd,
        cache,
        cached_after_s,
        servers,
        prefer,
        vendor_only,
        rapid_commit,
        routes,
    } = c;
    let mut keys = vec![format!("alias = {}", quoted(alias))];
    keys.push(format!("family = {}, instance = {instance}", quoted(family.name())));
    keys.push(format!("acd = {}", quoted(acd_name(*acd))));
    keys.push(format!("cache = {}, cached_after_s = {cached_after_s}", quoted(cache.name())));
    keys.push(format!("servers = {}, prefer = {}", array(&texts(servers)), array(&texts(prefer))));
    keys.push(format!("vendor_only = {vendor_only}, rapid_commit = {rapid_commit}"));
    keys.push(format!("routes = {routes}"));
    format!("{{ {} }}", keys.join(", "))
}

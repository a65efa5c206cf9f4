//! `[cluster]`: who asks DHCP servers, and what they are to answer.
//!
//! Holds for every node of a cluster, so every node's file may carry the same text but for `node`.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use weft_stack::ip::address::Cidr;

use super::diagnostic::Report;
use super::reader::{At, Section};
use super::vserver::Places;
use super::{HostConfig, Identity, Vserver};
use crate::naming::{Claim, ClientId, ClusterId, ENTERPRISE_DEFAULT, Holder, is_holder};

/// Vendor class unless the file says otherwise (DHCP option 60).
pub(super) const VENDOR_CLASS_DEFAULT: &str = "weft";
/// Lease time unless a subnet says otherwise: a day.
pub(super) const LEASE_S_DEFAULT: u32 = 86_400;
/// Longest vendor class and vendor option (one byte of length).
const VENDOR_BYTES_MAX: usize = 255;

/// A cluster: nodes that share a set of vservers and one DHCP server.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// First part of every identifier.
    pub id: ClusterId,
    /// Name of this node; `None`: addresses by the rule of nodes cannot be asked for.
    pub node: Option<String>,
    /// Vendor class, sent in option 60 (DHCPv6: 16).
    pub vendor_class: String,
    /// Enterprise number of DHCPv6 identifiers.
    pub enterprise: u32,
    /// Encapsulated options, sent by the server in option 43 (DHCPv6: 17): code and text.
    pub vendor_options: Vec<(u8, String)>,
    /// What servers give to whom.
    pub leases: Vec<Lease>,
    /// The networks they serve.
    pub subnets: Vec<Subnet>,
}

/// A fixed address of a server's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who gets it.
    pub claim: Claim,
    /// The address.
    pub address: IpAddr,
    /// Where the file says so.
    pub place: Place,
}

/// A line of a configuration file, for messages. Equal to every other: the same text elsewhere is
/// the same configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place(pub u32);

impl PartialEq for Place {
    fn eq(&self, _: &Place) -> bool {
        true
    }
}

impl Eq for Place {}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.0)
    }
}

/// A network that a DHCP server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The network.
    pub network: Cidr,
    /// Default gateway (DHCPv4 only: IPv6 hosts learn it from router advertisements).
    pub gateway: Option<IpAddr>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// DNS search list.
    pub search: Vec<String>,
    /// NTP servers.
    pub ntp: Vec<IpAddr>,
    /// MTU (option 26, DHCPv4 only).
    pub mtu: Option<u16>,
    /// First and last address for hosts without a lease of their own; `None`: there are none.
    pub pool: Option<(IpAddr, IpAddr)>,
    /// Seconds that leases last.
    pub lease_s: u32,
}

impl Subnet {
    /// A network with nothing said about it.
    pub fn new(network: Cidr) -> Subnet {
        Subnet {
            network,
            gateway: None,
            dns: Vec::new(),
            search: Vec::new(),
            ntp: Vec::new(),
            mtu: None,
            pool: None,
            lease_s: LEASE_S_DEFAULT,
        }
    }
}

impl Cluster {
    /// The vendor class as servers' files can name things after: letters, digits and `-`.
    pub(crate) fn vendor_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = self.vendor_class.chars().map(plain).collect();
        // dhcpd's names begin with a letter.
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("v{name}") }
    }
}

impl HostConfig {
    /// What the `instance`th address of a vserver on an alias is called, if there is a cluster, and
    /// a node's name where it is needed. Of a node there is no instance but the first.
    pub fn claim(&self, vserver: &Vserver, alias: usize, instance: u32) -> Option<Claim> {
        let alias = &self.aliases.get(alias)?.name;
        match &vserver.identity {
            Identity::Vserver => Claim::vserver(alias, &vserver.spelled, instance).ok(),
            Identity::Node => Claim::node(alias, self.cluster.as_ref()?.node.as_deref()?).ok(),
            Identity::Kind(kind) => Claim::node(alias, kind).ok(),
        }
        .filter(|c| instance == 0 || matches!(c.holder, Holder::Vserver { .. }))
    }

    /// The client identifier that belongs to [`HostConfig::claim`].
    pub fn client_id(&self, vserver: &Vserver, alias: usize, instance: u32) -> Option<ClientId> {
        let cluster = self.cluster.as_ref()?.id.clone();
        Some(ClientId::new(cluster, self.claim(vserver, alias, instance)?))
    }
}

pub(super) fn read_cluster(report: &mut Report, mut s: Section) -> Option<Cluster> {
    let id = s.string(report, "id");
    if id.is_none() && s.span_of_key("id").is_none() {
        s.missing(report, "id", "\"00:07:34:04:12:0E\", the text that came with the licence");
    }
    let id = id.and_then(|t| match t.value.parse::<ClusterId>() {
        Ok(id) => Some(id),
        Err(e) => {
            report.error(&t.span, e.to_string());
            None
        }
    });
    let node = s.string(report, "node").filter(|t| {
        let good = is_holder(t.value);
        if !good {
            let text = format!("'{}' is no name of a node; use a letter and then up to 62 letters, digits, '-', '_'", t.value);
            report.error(&t.span, text);
        }
        good
    });
    let vendor_class = s.string(report, "vendor_class").map(|t| vendor_text(report, &t));
    let enterprise = s.integer(report, "enterprise", 1..=u64::from(u32::MAX));
    let mut vendor_options: Vec<(u8, String)> = Vec::new();
    for o in s.tables(report, "vendor_options") {
        let Some((code, text, span)) = read_vendor_option(report, o) else { continue };
        if vendor_options.iter().any(|(c, _)| *c == code) {
            report.error(&span, format!("a second vendor option {code}; use another code"));
        }
        vendor_options.push((code, text));
    }
    let subnet_tables = s.tables(report, "subnet");
    let mut subnets: Vec<At<Subnet>> = Vec::new();
    for t in subnet_tables {
        let Some(found) = read_subnet(report, t) else { continue };
        let network = found.value.network;
        let overlaps = |o: &&At<Subnet>| {
            o.value.network.contains(network.addr) || network.contains(o.value.network.addr)
        };
        if let Some(other) = subnets.iter().find(overlaps) {
            let line = report.line(other.span.start);
            report.error(
                &found.span,
                format!(
                    "network {network} overlaps {} at line {line}; keep one",
                    other.value.network
                ),
            );
        }
        subnets.push(found);
    }
    let subnets: Vec<Subnet> = subnets.into_iter().map(|s| s.value).collect();
    let leases = s.table(report, "leases").map(|t| read_leases(report, t, &subnets));
    s.finish(report);
    Some(Cluster {
        id: id?,
        node: node.map(|t| t.value.to_owned()),
        vendor_class: vendor_class.unwrap_or_else(|| VENDOR_CLASS_DEFAULT.to_owned()),
        enterprise: enterprise.map_or(ENTERPRISE_DEFAULT, |v| v.value as u32),
        vendor_options,
        leases: leases.unwrap_or_default(),
        subnets,
    })
}

/// Text that goes into the servers' files as it stands.
fn vendor_text(report: &mut Report, t: &At<&str>) -> String {
    let plain = |b: u8| (b' '..=b'~').contains(&b) && !b"\"\\',".contains(&b);
    if t.value.is_empty() || t.value.len() > VENDOR_BYTES_MAX || !t.value.bytes().all(plain) {
        let text = format!(
            "vendor text has 1 to {VENDOR_BYTES_MAX} printable ASCII characters without quotes, '\\' and ','"
        );
        report.error(&t.span, text);
    }
    t.value.to_owned()
}

fn read_vendor_option(report: &mut Report, mut s: Section) -> Option<(u8, String, Range<usize>)> {
    let code = s.integer(report, "code", 1..=254);
    let text = s.string(report, "text").map(|t| vendor_text(report, &t));
    if code.is_none() && s.span_of_key("code").is_none() {
        s.missing(report, "code", "1");
    }
    if text.is_none() && s.span_of_key("text").is_none() {
        s.missing(report, "text", "\"...\"");
    }
    let span = s.span.clone();
    s.finish(report);
    Some((code?.value as u8, text?, span))
}

fn address(report: &mut Report, t: &At<&str>) -> Option<IpAddr> {
    let found = t.value.parse().ok();
    if found.is_none() {
        let text = format!(
            "'{}' is no address; what DHCP servers give is written like 192.0.2.1 or 2001:db8::1",
            t.value
        );
        report.error(&t.span, text);
    }
    found
}

fn addresses(report: &mut Report, s: &mut Section, key: &'static str) -> Vec<IpAddr> {
    let texts = s.strings(report, key);
    texts.iter().filter_map(|t| address(report, t)).collect()
}

fn read_subnet(report: &mut Report, mut s: Section) -> Option<At<Subnet>> {
    let span = s.span.clone();
    let text = s.string(report, "network");
    if text.is_none() && s.span_of_key("network").is_none() {
        s.missing(report, "network", "\"10.2.2.0/24\"");
    }
    let network = text.as_ref().and_then(|t| match t.value.parse::<Cidr>() {
        Ok(c) if c.network() == c => Some(c),
        Ok(c) => {
            let text = format!("{c} has bits behind its prefix; write {}", c.network());
            report.error(&t.span, text);
            None
        }
        Err(e) => {
            report.error(&t.span, format!("{e}; write a network like 10.2.2.0/24"));
            None
        }
    });
    let gateway = s.string(report, "gateway");
    let gateway_at = gateway.as_ref().and_then(|t| address(report, t));
    let (dns, ntp) = (addresses(report, &mut s, "dns"), addresses(report, &mut s, "ntp"));
    let search = super::dns::read_search(report, &mut s);
    let mtu = s.integer(report, "mtu", 68..=65_535).map(|v| v.value as u16);
    let pool = s.string(report, "pool");
    let lease_s = s.integer(report, "lease_s", 60..=u64::from(u32::MAX - 1));
    s.finish(report);
    let mut subnet = Subnet::new(network?);
    for (t, at) in gateway.iter().zip(gateway_at) {
        if subnet.network.contains(at) {
            subnet.gateway = Some(at);
        } else {
            let text = format!("gateway {at} is not in {}; use one that is", subnet.network);
            report.error(&t.span, text);
        }
    }
    if let Some(t) = &pool {
        subnet.pool = read_pool(report, t, subnet.network);
    }
    (subnet.dns, subnet.ntp, subnet.search, subnet.mtu) = (dns, ntp, search, mtu);
    subnet.lease_s = lease_s.map_or(LEASE_S_DEFAULT, |v| v.value as u32);
    Some(At::new(subnet, text.map_or(span, |t| t.span)))
}

fn read_pool(report: &mut Report, t: &At<&str>, network: Cidr) -> Option<(IpAddr, IpAddr)> {
    let parsed = t.value.split_once('-').and_then(|(low, high)| {
        Some((low.trim().parse::<IpAddr>().ok()?, high.trim().parse::<IpAddr>().ok()?))
    });
    let good = parsed
        .filter(|(low, high)| network.contains(*low) && network.contains(*high) && low <= high);
    if good.is_none() {
        let text = format!("'{}' is no range of {network}; write \"first-last\"", t.value);
        report.error(&t.span, text);
    }
    good
}

fn read_leases(report: &mut Report, section: Section, subnets: &[Subnet]) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    for (key, values) in section.named_strings(report) {
        let claim = match key.value.parse::<Claim>() {
            Ok(claim) => claim,
            Err(e) => {
                report.error(&key.span, e.to_string());
                continue;
            }
        };
        for t in values {
            let Some(address) = address(report, &t) else { continue };
            let line = report.line(t.span.start);
            let place = Place(line as u32);
            let v6 = address.is_ipv6();
            let twice = |l: &&Lease| l.claim == claim && l.address.is_ipv6() == v6;
            if let Some(other) = leases.iter().find(|l| l.address == address) {
                let text = format!(
                    "address {address} is given to {claim} here and to {} at {}; an address has one \
                     holder, change one of them",
                    other.claim, other.place
                );
                report.error(&t.span, text);
            } else if let Some(other) = leases.iter().find(twice) {
                let text = format!(
                    "{claim} has {} at {} already; use the next instance for another address",
                    other.address, other.place
                );
                report.error(&t.span, text);
            }
            if !subnets.is_empty() && !subnets.iter().any(|s| s.network.contains(address)) {
                let text =
                    format!("address {address} is in no [[cluster.subnet]]; add its network");
                report.error(&t.span, text);
            }
            leases.push(Lease { claim: claim.clone(), address, place });
        }
    }
    leases
}

/// Holds the vservers' own addresses against the leases: an address has one holder in a cluster,
/// and a holder one spelling. `spans` has the place of each address, by vserver.
pub(super) fn check_vservers(report: &mut Report, config: &HostConfig, places: &[Places]) {
    let Some(cluster) = &config.cluster else { return };
    let mut seen: HashMap<IpAddr, (String, usize)> = HashMap::new();
    for (v, places) in config.vservers.iter().zip(places) {
        for ((alias, cidr), span) in v.addresses.iter().zip(&places.addresses) {
            let Some(claim) = config.claim(v, *alias, 0) else { continue };
            let line = report.line(span.start);
            let (addr, holder) =
                (cidr.addr, format!("vserver '{}' on {}", v.spelled, claim.alias()));
            let lease = cluster.leases.iter().find(|l| l.address == addr);
            if let Some(l) = lease.filter(|l| !l.claim.same_holder(&claim)) {
                let text = format!(
                    "address {addr} is that of {holder} here and given to {} at {}; an address has \
                     one holder, change one of them",
                    l.claim, l.place
                );
                report.error(span, text);
            }
            if let Some((other, at)) = seen.insert(addr, (holder.clone(), line)) {
                let text = format!(
                    "address {addr} is that of {holder} here and of {other} at line {at}; in a \
                     cluster an address has one holder, change one of them"
                );
                report.error(span, text);
            }
        }
    }
}

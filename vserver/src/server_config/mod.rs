//! Configuration of DHCP servers, from that of a host alone: no hardware need exist.
//!
//! A [`Plan`] has who gets which address and the networks; [`isc`], [`kea`] and [`dnsmasq`] write
//! it for a server, [`worksheet`] for people, and [`changes`] says what of it must be edited when
//! the configuration of a host changed, for example because a vserver got another name.

use std::fmt;
use std::net::IpAddr;

use weft_stack::ip::address::Cidr;

use crate::config::{Cluster, HostConfig, Lease, Place, Subnet};
use crate::interface::{AliasClass, InterfaceName};
use crate::naming::{Claim, ClientId, Holder, NamingError};

mod dnsmasq;
mod isc;
mod kea;
mod refuse;
mod worksheet;

#[cfg(test)]
mod tests;

pub use dnsmasq::dnsmasq;
pub use isc::isc;
pub use kea::kea;
pub use refuse::{Program, refusal};
pub use worksheet::worksheet;

/// Which of the two protocols a server's file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// DHCP (RFC 2131).
    V4,
    /// DHCPv6 (RFC 8415).
    V6,
}

impl Version {
    fn takes(self, address: IpAddr) -> bool {
        address.is_ipv6() == (self == Version::V6)
    }
}

/// Why a configuration gives no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is no cluster.
    #[error("the configuration has no [cluster]; add it with id = \"00:07:34:04:12:0E\"")]
    NoCluster,
    /// Nothing says in which network an address is.
    #[error(
        "{claim} ({place}): {address} is in no network; add [[cluster.subnet]] network = \"...\""
    )]
    NoNetwork {
        /// Whose address.
        claim: Claim,
        /// The address.
        address: IpAddr,
        /// Where the file has it.
        place: Place,
    },
    /// A node has two addresses of one family on one alias.
    #[error(
        "vserver '{vserver}' is named by node and has a second address {address} on {alias}; a node \
         has one there, give the vserver identity = \"vserver\""
    )]
    Second {
        /// The vserver.
        vserver: String,
        /// The address too many.
        address: IpAddr,
        /// On which alias.
        alias: String,
    },
    /// The node has no name.
    #[error("vserver '{0}' is named by node; add node = \"...\" to [cluster]")]
    NoNode(String),
    /// Text that names no interface of a server.
    #[error(
        "'{0}' is no interface of a server; write NAME for all networks, or NETWORK=NAME for one of the \
         configuration's"
    )]
    Interface(String),
    /// No such alias or holder.
    #[error(transparent)]
    Naming(#[from] NamingError),
}

/// What a DHCP server has to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    cluster: Cluster,
    /// Networks that are on one link stand together.
    links: Vec<Vec<Subnet>>,
    entries: Vec<Lease>,
    /// The server's own interfaces: of one network, or of all that have none of their own.
    interfaces: Vec<(Option<Cidr>, String)>,
}

impl Plan {
    /// From a configuration: its leases in order of the file, then the vservers' own addresses that
    /// are not among them.
    pub fn of(config: &HostConfig) -> Result<Plan, PlanError> {
        let cluster = config.cluster.clone().ok_or(PlanError::NoCluster)?;
        let mut entries = cluster.leases.clone();
        let mut networks: Vec<Cidr> = Vec::new();
        for v in &config.vservers {
            for (alias, cidr) in &v.addresses {
                if !networks.contains(&cidr.network()) {
                    networks.push(cidr.network());
                }
                if !entries.iter().any(|e| e.address == cidr.addr) {
                    let claim = next_claim(config, v, *alias, cidr.addr, &entries)?;
                    entries.push(Lease { claim, address: cidr.addr, place: Place::default() });
                }
            }
        }
        let mut subnets = cluster.subnets.clone();
        if subnets.is_empty() {
            subnets = networks.into_iter().map(Subnet::new).collect();
        }
        let served = |e: &&Lease| !subnets.iter().any(|s| s.network.contains(e.address));
        if let Some(Lease { claim, address, place }) = entries.iter().find(served) {
            let (claim, address, place) = (claim.clone(), *address, *place);
            return Err(PlanError::NoNetwork { claim, address, place });
        }
        let links = links(subnets, &entries);
        Ok(Plan { cluster, links, entries, interfaces: Vec::new() })
    }

    /// The same for a server that reaches its networks over these interfaces of its own, each
    /// `NETWORK=NAME`, or `NAME` for all networks without one. Who runs the server knows them; Kea
    /// serves no DHCPv6 network without, and dnsmasq joins no networks of one link.
    pub fn served_on(mut self, interfaces: &[String]) -> Result<Plan, PlanError> {
        for text in interfaces {
            let (network, name) = match text.split_once('=') {
                None => (None, text.as_str()),
                Some((network, name)) => {
                    let mut known = self.links.iter().flatten().map(|s| s.network);
                    let network = known.find(|n| network.parse() == Ok(*n));
                    (Some(network.ok_or_else(|| PlanError::Interface(text.clone()))?), name)
                }
            };
            let plain = |b: u8| b.is_ascii_graphic() && !b"\"/\\,#".contains(&b);
            if !(1..=15).contains(&name.len()) || !name.bytes().all(plain) {
                return Err(PlanError::Interface(text.clone()));
            }
            self.interfaces.push((network, name.to_owned()));
        }
        Ok(self)
    }

    /// The server's interface for a network.
    fn interface(&self, network: Cidr) -> Option<&str> {
        let own = self.interfaces.iter().find(|(n, _)| *n == Some(network));
        let any = || self.interfaces.iter().find(|(n, _)| n.is_none());
        own.or_else(any).map(|(_, name)| name.as_str())
    }

    /// The server's interfaces for networks of a version, each once.
    fn interfaces(&self, version: Version) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for subnet in self.links(version).into_iter().flatten() {
            names.extend(self.interface(subnet.network));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Who gets what, in order.
    pub fn entries(&self) -> impl Iterator<Item = (ClientId, IpAddr)> + '_ {
        self.entries.iter().map(|e| (self.id(e), e.address))
    }

    fn id(&self, lease: &Lease) -> ClientId {
        ClientId::new(self.cluster.id.clone(), lease.claim.clone())
    }

    /// Entries of a version within a network.
    fn within(&self, network: Cidr) -> impl Iterator<Item = &Lease> + '_ {
        self.entries.iter().filter(move |e| network.contains(e.address))
    }

    fn of_version(&self, version: Version) -> impl Iterator<Item = &Lease> + '_ {
        self.entries.iter().filter(move |e| version.takes(e.address))
    }

    /// Links that have networks of a version, with those.
    fn links(&self, version: Version) -> Vec<Vec<&Subnet>> {
        let of = |link: &'_ Vec<Subnet>| -> Vec<usize> {
            let all = link.iter().enumerate();
            all.filter(|(_, s)| version.takes(s.network.addr)).map(|(i, _)| i).collect()
        };
        let all = self.links.iter().map(|l| of(l).into_iter().map(|i| &l[i]).collect::<Vec<_>>());
        all.filter(|l| !l.is_empty()).collect()
    }
}

/// The claim of an address that no lease has: the lowest instance that is free.
fn next_claim(
    config: &HostConfig,
    v: &crate::config::Vserver,
    alias: usize,
    address: IpAddr,
    entries: &[Lease],
) -> Result<Claim, PlanError> {
    let claim = config.claim(v, alias, 0).ok_or_else(|| PlanError::NoNode(v.spelled.clone()))?;
    let taken = |claim: &Claim| {
        let family = |e: &&Lease| e.address.is_ipv6() == address.is_ipv6();
        entries.iter().filter(family).any(|e| e.claim == *claim)
    };
    if !taken(&claim) {
        return Ok(claim);
    }
    if matches!(claim.holder, Holder::Node(_)) {
        let alias = claim.alias();
        return Err(PlanError::Second { vserver: v.spelled.clone(), address, alias });
    }
    let mut later = (1..).filter_map(|i| config.claim(v, alias, i));
    // There are more instances than addresses in any file.
    Ok(later.find(|c| !taken(c)).unwrap_or(claim))
}

/// Class and number of each, and the tag in its name.
type Aliases = Vec<(AliasClass, u16, Option<u16>)>;

/// Networks stand on one link if an alias has addresses in both.
fn links(subnets: Vec<Subnet>, entries: &[Lease]) -> Vec<Vec<Subnet>> {
    let aliases = |s: &Subnet| -> Aliases {
        let own = entries.iter().filter(|e| s.network.contains(e.address));
        own.map(|e| (e.claim.class, e.claim.number, e.claim.tag)).collect()
    };
    let mut links: Vec<(Vec<Subnet>, Aliases)> = Vec::new();
    for subnet in subnets {
        let mut on = aliases(&subnet);
        let mut link = Vec::new();
        links.retain_mut(|(subnets, aliases)| {
            let apart = !aliases.iter().any(|a| on.contains(a));
            if !apart {
                link.append(subnets);
                on.append(aliases);
            }
            apart
        });
        link.push(subnet);
        links.push((link, on));
    }
    links.into_iter().map(|(subnets, _)| subnets).collect()
}

/// The lowest instance of a vserver's addresses on an alias that neither a lease nor an address of
/// the configuration has.
pub fn next_instance(config: &HostConfig, alias: &str, vserver: &str) -> Result<u32, PlanError> {
    let plan = Plan::of(config)?;
    let wanted = Claim::vserver(alias, vserver, 0)?;
    let taken: Vec<u32> = plan
        .entries
        .iter()
        .filter(|e| e.claim.same_holder(&wanted))
        .filter_map(|e| match e.claim.holder {
            Holder::Vserver { instance, .. } => Some(instance),
            Holder::Node(_) => None,
        })
        .collect();
    Ok((0..=u32::MAX).find(|n| !taken.contains(n)).unwrap_or(u32::MAX))
}

/// The lowest number of an alias of a class (`data`) that is free in the cluster: neither an alias
/// of this host nor one that a lease names.
pub fn next_alias(config: &HostConfig, class: &str) -> Result<String, PlanError> {
    let wanted = |n: u16| format!("{}{n}", class.to_ascii_lowercase());
    let InterfaceName::Alias(kind, _) =
        wanted(0).parse().map_err(|_| NamingError::Alias(class.to_owned()))?
    else {
        return Err(NamingError::Alias(class.to_owned()).into());
    };
    let leases = config.cluster.iter().flat_map(|c| &c.leases);
    let mut taken: Vec<u16> =
        leases.filter(|l| l.claim.class == kind).map(|l| l.claim.number).collect();
    taken.extend(config.aliases.iter().filter_map(|a| match a.name.parse() {
        Ok(InterfaceName::Alias(class, number)) if class == kind => Some(number),
        _ => None,
    }));
    Ok(wanted((0..u16::MAX).find(|n| !taken.contains(n)).unwrap_or(u16::MAX)))
}

/// An edit that servers need.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Another identifier gets this address: the vserver or node, or the cluster, was renamed.
    Rename {
        /// Whose address it was.
        from: ClientId,
        /// Whose it is.
        to: ClientId,
        /// The address.
        address: IpAddr,
    },
    /// The identifier gets another address.
    Move {
        /// Whose.
        id: ClientId,
        /// The address it had.
        from: IpAddr,
        /// The address it gets.
        to: IpAddr,
    },
    /// A new entry.
    Add(ClientId, IpAddr),
    /// An entry less.
    Remove(ClientId, IpAddr),
    /// Something about a network or the vendor class changed: this, in words.
    Setting(String),
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edit::Rename { from, to, address } => write!(f, "rename  {address}  {from} -> {to}"),
            Edit::Move { id, from, to } => write!(f, "move    {from} -> {to}  {id}"),
            Edit::Add(id, address) => write!(f, "add     {address}  {id}"),
            Edit::Remove(id, address) => write!(f, "remove  {address}  {id}"),
            Edit::Setting(text) => write!(f, "change  {text}"),
        }
    }
}

/// What must be edited at servers that were configured for `old`.
pub fn changes(old: &Plan, new: &Plan) -> Vec<Edit> {
    let mut edits = Vec::new();
    let (mut gone, mut come): (Vec<_>, Vec<_>) = (old.entries().collect(), new.entries().collect());
    let same = |a: &(ClientId, IpAddr), b: &(ClientId, IpAddr)| a == b;
    take_pairs(&mut gone, &mut come, same, |_, _| ());
    take_pairs(
        &mut gone,
        &mut come,
        |a, b| a.1 == b.1,
        |a, b| {
            edits.push(Edit::Rename { from: a.0, to: b.0, address: a.1 });
        },
    );
    let moved = |a: &(ClientId, IpAddr), b: &(ClientId, IpAddr)| {
        a.0 == b.0 && a.1.is_ipv6() == b.1.is_ipv6()
    };
    take_pairs(&mut gone, &mut come, moved, |a, b| {
        edits.push(Edit::Move { id: a.0, from: a.1, to: b.1 });
    });
    edits.extend(gone.into_iter().map(|(id, address)| Edit::Remove(id, address)));
    edits.extend(come.into_iter().map(|(id, address)| Edit::Add(id, address)));
    edits.extend(settings(old, new).into_iter().map(Edit::Setting));
    edits
}

/// Takes out of both lists what belongs together.
fn take_pairs<T>(
    a: &mut Vec<T>,
    b: &mut Vec<T>,
    belongs: impl Fn(&T, &T) -> bool,
    mut found: impl FnMut(T, T),
) {
    let mut i = 0;
    while i < a.len() {
        match b.iter().position(|other| belongs(&a[i], other)) {
            Some(j) => found(a.remove(i), b.remove(j)),
            None => i += 1,
        }
    }
}

fn settings(old: &Plan, new: &Plan) -> Vec<String> {
    let mut out = Vec::new();
    let (a, b) = (&old.cluster, &new.cluster);
    if a.vendor_class != b.vendor_class {
        out.push(format!("vendor class {} -> {}", a.vendor_class, b.vendor_class));
    }
    if a.vendor_options != b.vendor_options {
        out.push(String::from("vendor options"));
    }
    if a.enterprise != b.enterprise {
        out.push(format!("DHCPv6 identifiers: enterprise {} -> {}", a.enterprise, b.enterprise));
    }
    let (olds, news): (Vec<_>, Vec<_>) =
        (old.links.iter().flatten().collect(), new.links.iter().flatten().collect());
    for s in &olds {
        match news.iter().find(|n| n.network == s.network) {
            None => out.push(format!("network {} is gone", s.network)),
            Some(n) if n != s => out.push(format!("settings of network {}", s.network)),
            Some(_) => {}
        }
    }
    let new = news.iter().filter(|n| !olds.iter().any(|o| o.network == n.network));
    out.extend(new.map(|n| format!("network {} is new", n.network)));
    out
}

/// `00:02:7e`.
fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    pairs.join(":")
}

/// `a, b`.
fn list<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Those of the version.
fn only(version: Version, addresses: &[IpAddr]) -> Vec<IpAddr> {
    addresses.iter().copied().filter(|a| version.takes(*a)).collect()
}

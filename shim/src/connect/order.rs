//! The order of destinations (RFC 6724 6), with what RFC 8305 4 adds to it.
//!
//! Rules 4 (home addresses) and 7 (native transport) have no object here. Rules 9 and 10 may be
//! superseded by better knowledge; what is known is the round-trip time of earlier connections.

use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr};

use weft_stack::ip::address::Cidr;
use weft_stack::time::Duration;

use super::slate::Source;

/// One row of the policy table (RFC 6724 2.1). IPv4 addresses are looked up as `::ffff:0:0/96`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// An IPv6 prefix.
    pub prefix: Cidr,
    /// Higher is tried earlier.
    pub precedence: u8,
    /// Source and destination are preferred to have the same.
    pub label: u8,
}

impl Row {
    /// A row for addresses of either family: those of IPv4 stand in it mapped.
    pub fn new(network: Cidr, precedence: u8, label: u8) -> Row {
        let network = network.network();
        let longer = if network.addr.is_ipv4() { 96 } else { 0 };
        let addr = IpAddr::V6(mapped(network.addr));
        let prefix = Cidr { addr, prefix_len: network.prefix_len + longer };
        Row { prefix, precedence, label }
    }
}

/// As the configuration has it: `2001:db8::/32 45 1`.
impl core::fmt::Display for Row {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {} {}", self.prefix, self.precedence, self.label)
    }
}

/// The policy table; the longest prefix decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    rows: Vec<Row>,
}

impl Default for Labels {
    fn default() -> Labels {
        let rows: [(&str, u8, u8); 9] = [
            ("::1/128", 50, 0),
            ("::/0", 40, 1),
            ("::ffff:0:0/96", 35, 4),
            ("2002::/16", 30, 2),
            ("2001::/32", 5, 5),
            ("fc00::/7", 3, 13),
            ("::/96", 1, 3),
            ("fec0::/10", 1, 11),
            ("3ffe::/16", 1, 12),
        ];
        let row = |(prefix, precedence, label): (&str, u8, u8)| Row {
            prefix: prefix.parse().expect("prefixes of the standard"),
            precedence,
            label,
        };
        Labels::new(rows.map(row).to_vec())
    }
}

impl Labels {
    /// A table of these rows.
    pub fn new(mut rows: Vec<Row>) -> Labels {
        rows.sort_by_key(|r| Reverse(r.prefix.prefix_len));
        Labels { rows }
    }

    /// The standard's table with rows of an administrator: one takes the place of that with the same
    /// prefix, or is added. The others stay, so that a single row says a single thing.
    pub fn with(rows: &[Row]) -> Labels {
        let mut all = Labels::default().rows;
        all.retain(|standard| rows.iter().all(|r| r.prefix != standard.prefix));
        all.extend_from_slice(rows);
        Labels::new(all)
    }

    fn row(&self, addr: IpAddr) -> (u8, u8) {
        let mapped = IpAddr::V6(mapped(addr));
        let row = self.rows.iter().find(|r| r.prefix.contains(mapped));
        row.map_or((0, 0), |r| (r.precedence, r.label))
    }

    /// How early an address is tried.
    pub fn precedence(&self, addr: IpAddr) -> u8 {
        self.row(addr).0
    }

    /// What kind of address it is.
    pub fn label(&self, addr: IpAddr) -> u8 {
        self.row(addr).1
    }

    /// Source and destination go well together (rules 2, 3 and 5).
    pub(super) fn suits(&self, source: &Source, dst: IpAddr) -> bool {
        scope(source.addr) == scope(dst)
            && !source.deprecated
            && self.label(source.addr) == self.label(dst)
    }
}

/// How far an address reaches, as the numbers of multicast scopes (RFC 6724 3.1, 3.2).
pub fn scope(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(a) if a.is_loopback() || a.is_link_local() => 2,
        IpAddr::V4(_) => 14,
        IpAddr::V6(a) if a.is_multicast() => a.octets()[1] & 15,
        IpAddr::V6(a) if a.is_loopback() || a.is_unicast_link_local() => 2,
        IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfec0 => 5,
        IpAddr::V6(_) => 14,
    }
}

fn mapped(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// Leading bits that two addresses share, no more than the source's prefix (RFC 6724 2.2).
fn common_prefix(source: &Source, dst: IpAddr) -> u32 {
    let bits = mapped(source.addr).to_bits() ^ mapped(dst).to_bits();
    // Where IPv4 addresses are near says nothing of the way (RFC 6724 10.3 on rule 9 and DNS).
    if dst.is_ipv4() { 0 } else { bits.leading_zeros().min(u32::from(source.prefix_len)) }
}

/// What of a destination decides its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) addr: IpAddr,
    /// The source that the stack would take; `None`: no way there.
    pub(super) source: Option<&'a Source>,
    /// It did not answer lately.
    pub(super) failing: bool,
    /// Round trips of earlier connections.
    pub(super) rtt: Option<Duration>,
}

/// The rank of a destination: lower is tried earlier; equals stay as they came (rule 10).
pub(super) fn rank(labels: &Labels, facts: &Facts<'_>) -> impl Ord + use<> {
    let dst = facts.addr;
    let source = facts.source;
    let of = |f: &dyn Fn(&Source) -> bool| source.is_none_or(f);
    (
        // Rule 1: avoid what cannot be used.
        source.is_none() || facts.failing,
        // Rule 2: matching scope.
        of(&|s| scope(s.addr) != scope(dst)),
        // Rule 3: avoid deprecated sources.
        of(&|s| s.deprecated),
        // Rule 5: matching label.
        of(&|s| labels.label(s.addr) != labels.label(dst)),
        // Rule 6: higher precedence.
        Reverse(labels.precedence(dst)),
        // Rule 8: smaller scope.
        scope(dst),
        // RFC 8305 4: what was used before, the nearest first.
        (facts.rtt.is_none(), facts.rtt),
        // Rule 9: longest matching prefix.
        Reverse(source.map_or(0, |s| common_prefix(s, dst))),
    )
}

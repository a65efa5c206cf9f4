//! Locators, lists of them with their generation, and pairs of them.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

/// Locators one host may have in one context. With proofs of every kind a list of so many still
/// fits in a control message of 1280 bytes (RFC 5533 5.1).
pub const LOCATORS_MAX: usize = 16;

/// How a locator is tied to the ULID (RFC 5533 table 4; the IANA section of the RFC exchanges the
/// first two, every implementation known follows the table).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verification {
    /// The address is in the hash-based set of the ULID (RFC 5535).
    Hba,
    /// The list is signed with the key that the ULID is a hash of (RFC 3972).
    Cga,
    /// The list carries a MAC under a key both administrators hold. Ours, of the experimental
    /// numbers: the only proof an IPv4 locator can have.
    Keyed,
    /// Anything else; never accepted.
    Other(u8),
}

impl Verification {
    /// The octet in a locator list option.
    pub const fn octet(self) -> u8 {
        match self {
            Verification::Hba => 1,
            Verification::Cga => 2,
            Verification::Keyed => 201,
            Verification::Other(octet) => octet,
        }
    }

    /// What `octet` of a locator list option says.
    pub const fn from_octet(octet: u8) -> Verification {
        match octet {
            1 => Verification::Hba,
            2 => Verification::Cga,
            201 => Verification::Keyed,
            other => Verification::Other(other),
        }
    }
}

/// What its owner says of a locator (RFC 5533 5.15.3); priority and weight mean what they mean in
/// an SRV record (RFC 2782): the lowest priority first, weights share among equals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Preference {
    /// [`Preference::BROKEN`] and [`Preference::TRANSIENT`].
    pub flags: u8,
    /// Lower is tried earlier.
    pub priority: u8,
    /// Share among locators of one priority.
    pub weight: u8,
}

impl Preference {
    /// The locator is known not to work.
    pub const BROKEN: u8 = 0x01;
    /// The locator is less stable than others.
    pub const TRANSIENT: u8 = 0x02;

    /// Known not to work.
    pub const fn is_broken(self) -> bool {
        self.flags & Preference::BROKEN != 0
    }
}

/// An address a host can be reached at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Locator {
    /// The address; IPv4 addresses travel IPv4-mapped.
    pub addr: IpAddr,
    /// Reached through UDP on this port instead of protocol 140.
    pub port: Option<u16>,
    /// What its owner says of it.
    pub preference: Preference,
    /// How it is tied to the ULID.
    pub verification: Verification,
}

impl Locator {
    /// A locator of equal preference, protocol 140.
    pub const fn new(addr: IpAddr, verification: Verification) -> Locator {
        let preference = Preference { flags: 0, priority: 0, weight: 0 };
        Locator { addr, port: None, preference, verification }
    }
}

/// The locators of one host in the order its preferences refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocatorList {
    /// Names this list; preferences say which list they belong to.
    pub generation: u32,
    /// At most [`LOCATORS_MAX`].
    pub locators: SmallVec<[Locator; 4]>,
}

impl LocatorList {
    /// The list of one address.
    pub fn single(addr: IpAddr, verification: Verification) -> LocatorList {
        let locators = SmallVec::from_slice(&[Locator::new(addr, verification)]);
        LocatorList { generation: 0, locators }
    }

    /// The locator with this address.
    pub fn get(&self, addr: IpAddr) -> Option<&Locator> {
        self.locators.iter().find(|l| l.addr == addr)
    }

    /// Has a locator with this address.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.get(addr).is_some()
    }

    /// A keyed proof covers it, where it is that of `ulid`: alone, the ULID needs none.
    pub fn is_keyed(&self, ulid: IpAddr) -> bool {
        self.locators.iter().any(|l| l.verification == Verification::Keyed && l.addr != ulid)
    }

    /// Both lists name a locator: they are of one host (RFC 5533 7.15).
    pub fn overlaps(&self, other: &LocatorList) -> bool {
        self.locators.iter().any(|l| other.contains(l.addr))
    }
}

/// Where packets leave and where they go; for ULIDs as for locators.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// This host's end.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
}

impl Pair {
    /// A pair.
    pub const fn new(local: IpAddr, remote: IpAddr) -> Pair {
        Pair { local, remote }
    }

    /// The same pair seen by the peer.
    pub const fn reversed(self) -> Pair {
        Pair { local: self.remote, remote: self.local }
    }

    /// Both ends of one family; no packet goes between others.
    pub const fn same_family(self) -> bool {
        matches!(
            (self.local, self.remote),
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
        )
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.local, self.remote)
    }
}

/// The 16 bytes of an address in a control message.
pub const fn to_octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that 16 bytes of a control message mean.
pub const fn from_octets(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from_octets(octets).to_canonical()
}

/// Neither multicast, broadcast, unspecified nor loopback: what can be a ULID or locator.
pub const fn is_unicast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => {
            !(v4.is_multicast() || v4.is_loopback() || v4.octets()[0] == 0)
                && v4.to_bits() != Ipv4Addr::BROADCAST.to_bits()
        }
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified() || v6.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_locator_travels_mapped() {
        for text in ["192.0.2.7", "2001:db8::7"] {
            assert_eq!(from_octets(to_octets(ip(text))), ip(text));
        }
        assert_eq!(to_octets(ip("192.0.2.7"))[10..12], [0xff, 0xff]);
    }

    // RFC 5533 5.15.2
    #[test]
    fn verification_methods_have_the_numbers_of_the_table() {
        assert_eq!(Verification::Hba.octet(), 1);
        assert_eq!(Verification::Cga.octet(), 2);
        for octet in 0..=255 {
            assert_eq!(Verification::from_octet(octet).octet(), octet);
        }
    }

    #[test]
    fn only_unicast_addresses_are_locators() {
        for text in ["ff02::1", "::", "::1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "127.0.0.1"]
        {
            assert!(!is_unicast(ip(text)), "{text}");
        }
        assert!(is_unicast(ip("fe80::1")) && is_unicast(ip("10.0.0.1")));
    }

    #[test]
    fn lists_overlap_by_address_only() {
        let a = LocatorList::single(ip("fd00::1"), Verification::Hba);
        let mut b = LocatorList::single(ip("fd00::2"), Verification::Hba);
        assert!(!a.overlaps(&b));
        b.locators.push(Locator::new(ip("fd00::1"), Verification::Keyed));
        assert!(a.overlaps(&b) && b.overlaps(&a));
    }
}

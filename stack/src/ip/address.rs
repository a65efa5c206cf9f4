//! Aliases, their addresses, and prefixes.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use super::multicast::Groups;
use super::ndp::AliasNdp;
use super::terms::Terms;
use crate::small_map::SmallMap;
use crate::time::{Duration, Instant};

/// An attachment of a stack to a shared device. Chosen by the host, unique within a stack; the
/// same number means the same alias in every stack of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AliasId(pub u16);

/// What frames of an alias start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasMedium {
    /// Ethernet, with the MAC address to answer for.
    Ethernet {
        /// Our address on the link.
        mac: [u8; 6],
    },
    /// Bare IP packets (TUN); there are no neighbours.
    Ip,
}

/// An alias as the host configures it.
#[derive(Clone, Debug)]
pub struct AliasConfig {
    /// Its number.
    pub id: AliasId,
    /// `data0`, `mgmt1`, `san0`.
    pub name: String,
    /// What frames start with.
    pub medium: AliasMedium,
    /// Largest IP packet, in bytes.
    pub mtu: usize,
    /// Largest super-segment the device takes; 0: none.
    pub gso_bytes_max: usize,
    /// Leave transport checksums `Partial`; the device completes them.
    pub tx_checksum: bool,
    /// Do not verify transport checksums of received frames (veth peers leave them partial).
    pub rx_checksum_trust: bool,
    /// Administratively up, with carrier.
    pub up: bool,
    /// Solicit routers and configure addresses from their advertisements (RFC 4862).
    pub slaac: bool,
}

impl AliasConfig {
    /// `data` and its number, up, with an MTU of 1500: the stack computes and verifies every
    /// checksum and cuts segments itself. No router is solicited.
    pub fn up_without_offload(id: AliasId, medium: AliasMedium) -> AliasConfig {
        AliasConfig {
            id,
            name: format!("data{}", id.0),
            medium,
            mtu: 1500,
            gso_bytes_max: 0,
            tx_checksum: false,
            rx_checksum_trust: false,
            up: true,
            slaac: false,
        }
    }

    /// Whether there is a link with neighbours below.
    pub(crate) fn has_link(&self) -> bool {
        matches!(self.medium, AliasMedium::Ethernet { .. })
    }
}

/// Where an address is in its life (RFC 4862 5.4, 5.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// Duplicate address detection is running; not used.
    Tentative,
    /// In use.
    Preferred,
    /// In use by old connections, not chosen for new ones.
    Deprecated,
    /// Another host has it; not used.
    Duplicate,
}

impl AddressState {
    /// Whether packets to and from the address are taken.
    pub const fn usable(self) -> bool {
        matches!(self, AddressState::Preferred | AddressState::Deprecated)
    }
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Configured.
    Static,
    /// Made by the stack: link-local, or from a router's prefix (RFC 4862).
    Slaac,
    /// Leased from a DHCP server.
    Dhcp,
}

/// How an IPv4 address is kept apart from another host's (address conflict detection, RFC 5227).
/// IPv6 addresses are always tried first (RFC 4862 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acd {
    /// In use at once, never given up, not defended; a conflict is only told.
    Off,
    /// In use at once, announced, and asked for once: a host that has it answers and is told of.
    /// Kept and defended at most every ten seconds (RFC 5227 2.4 (c)).
    #[default]
    Defend,
    /// Probed before it is used, 4 to 7 seconds (RFC 5227 2.1.1), announced, defended once; given up
    /// when the other insists within ten seconds (2.4 (b)), and tried again every minute if it was
    /// configured.
    On,
}

/// How fast an IPv4 address is probed (RFC 5227 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcdPace {
    /// The second of the RFC: the first probe waits at most one, the others one to two, and the
    /// address is in use two after the last.
    pub interval: Duration,
    /// Probes, at least one.
    pub probes: u8,
}

impl Default for AcdPace {
    /// That of the RFC: 4 to 7 seconds.
    fn default() -> AcdPace {
        AcdPace { interval: Duration::from_secs(1), probes: 3 }
    }
}

/// What an address comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressTerms {
    /// Who gives it.
    pub origin: Origin,
    /// Conflicts (IPv4).
    pub acd: Acd,
    /// How fast it is probed.
    pub pace: AcdPace,
    /// New connections prefer other addresses after this time; `None`: never.
    pub preferred: Option<Duration>,
    /// It is removed after this time; `None`: never.
    pub valid: Option<Duration>,
}

impl Default for AddressTerms {
    /// Those of a configured address.
    fn default() -> AddressTerms {
        AddressTerms {
            origin: Origin::Static,
            acd: Acd::default(),
            pace: AcdPace::default(),
            preferred: None,
            valid: None,
        }
    }
}

/// An address of an alias.
#[derive(Clone, Debug)]
pub struct Address {
    /// Address and the network it is on.
    pub cidr: Cidr,
    /// Whether it may be used.
    pub state: AddressState,
    /// Who put it there.
    pub origin: Origin,
}

/// An alias with what the stack knows of it.
#[derive(Debug)]
pub(crate) struct Alias {
    pub(crate) config: AliasConfig,
    /// In order of configuration; few.
    pub(crate) addresses: Vec<Address>,
    pub(crate) groups: Groups,
    pub(crate) ndp: AliasNdp,
    /// Of addresses that came with others than [`AddressTerms::default`].
    pub(crate) terms: Vec<Terms>,
}

impl Alias {
    /// An alias without addresses.
    pub(crate) fn new(config: AliasConfig) -> Alias {
        Alias {
            config,
            addresses: Vec::new(),
            groups: Groups::default(),
            ndp: AliasNdp::default(),
            terms: Vec::new(),
        }
    }

    /// How conflicts over an address are settled.
    pub(crate) fn acd(&self, addr: IpAddr) -> Acd {
        self.terms.iter().find(|t| t.addr == addr).map_or(Acd::default(), |t| t.acd)
    }

    /// How fast an address is probed.
    pub(crate) fn acd_pace(&self, addr: IpAddr) -> AcdPace {
        self.terms.iter().find(|t| t.addr == addr).map_or(AcdPace::default(), |t| t.pace)
    }

    /// When something of the alias is due that `Timer::Ndp` wakes for.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let terms = self.terms.iter().filter_map(Terms::deadline).min();
        [self.ndp.deadline(), terms].into_iter().flatten().min()
    }

    /// An address of the alias, in whatever state.
    pub(crate) fn address(&self, addr: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|a| a.cidr.addr == addr)
    }

    /// An address of the alias, in whatever state.
    pub(crate) fn address_mut(&mut self, addr: IpAddr) -> Option<&mut Address> {
        self.addresses.iter_mut().find(|a| a.cidr.addr == addr)
    }

    /// Largest packet to `dst`: for IPv6 routers may have said less than the link takes.
    pub(crate) fn mtu(&self, dst: IpAddr) -> usize {
        let said = self.ndp.mtu.filter(|_| dst.is_ipv6());
        said.unwrap_or(usize::MAX).min(self.config.mtu)
    }

    /// Our MAC address; `None` without a link layer.
    pub(crate) fn mac(&self) -> Option<[u8; 6]> {
        match self.config.medium {
            AliasMedium::Ethernet { mac } => Some(mac),
            AliasMedium::Ip => None,
        }
    }
}

/// The aliases of a stack, by number.
pub(crate) type Aliases = SmallMap<AliasId, Alias, 1>;

/// An address and its prefix length: `10.0.0.5/24`, `fd00::5/64`. Host bits may be set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The address.
    pub addr: IpAddr,
    /// Leading bits that name the network; at most 32 or 128.
    pub prefix_len: u8,
}

/// Why text is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not an IPv4 or IPv6 address.
    #[error("'{0}' is not an IPv4 or IPv6 address")]
    Address(String),
    /// Not a number, or longer than the address.
    #[error("prefix length '{0}' is not a number from 0 to {1}")]
    PrefixLen(String, u8),
}

impl Cidr {
    /// `None` if the prefix is longer than the address.
    pub fn new(addr: IpAddr, prefix_len: u8) -> Option<Cidr> {
        (prefix_len <= bits(addr)).then_some(Cidr { addr, prefix_len })
    }

    /// Whether `other` lies in the network.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.addr, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.prefix_len);
                (u32::from(a) ^ u32::from(b)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.prefix_len);
                (u128::from(a) ^ u128::from(b)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// The network: host bits cleared.
    pub fn network(&self) -> Cidr {
        let addr = match self.addr {
            IpAddr::V4(a) => {
                let shift = 32 - u32::from(self.prefix_len);
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::V4((u32::from(a) & mask).into())
            }
            IpAddr::V6(a) => {
                let shift = 128 - u32::from(self.prefix_len);
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::V6((u128::from(a) & mask).into())
            }
        };
        Cidr { addr, prefix_len: self.prefix_len }
    }

    /// The directed broadcast address of an IPv4 network shorter than /31.
    pub fn broadcast(&self) -> Option<IpAddr> {
        match self.addr {
            IpAddr::V4(a) if self.prefix_len < 31 => {
                let host = u32::MAX >> self.prefix_len;
                Some(IpAddr::V4((u32::from(a) | host).into()))
            }
            _ => None,
        }
    }
}

/// Bits of an address: 32 or 128.
pub fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Without a length the address stands for itself (/32, /128).
    fn from_str(s: &str) -> Result<Cidr, CidrError> {
        let (addr, len) = s.split_once('/').map_or((s, None), |(a, l)| (a, Some(l)));
        let addr: IpAddr = addr.parse().map_err(|_| CidrError::Address(addr.to_owned()))?;
        let Some(len) = len else {
            return Ok(Cidr { addr, prefix_len: bits(addr) });
        };
        let wrong = || CidrError::PrefixLen(len.to_owned(), bits(addr));
        Cidr::new(addr, len.parse().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_contain_their_hosts() {
        let c: Cidr = "10.1.2.3/24".parse().unwrap();
        assert!(c.contains("10.1.2.200".parse().unwrap()));
        assert!(!c.contains("10.1.3.1".parse().unwrap()));
        assert!(!c.contains("::1".parse().unwrap()));
        assert_eq!(c.network().to_string(), "10.1.2.0/24");
        assert_eq!(c.broadcast(), Some("10.1.2.255".parse().unwrap()));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.1.1".parse().unwrap()));
        let all6: Cidr = "::/0".parse().unwrap();
        assert!(all6.contains("fd00::1".parse().unwrap()));
    }

    #[test]
    fn bad_text_says_what_is_wrong() {
        let e = "10.0.0.1/33".parse::<Cidr>().unwrap_err();
        assert_eq!(e.to_string(), "prefix length '33' is not a number from 0 to 32");
        assert!("10.0.0/8".parse::<Cidr>().is_err());
        assert!("fd00::/129".parse::<Cidr>().is_err());
    }
}

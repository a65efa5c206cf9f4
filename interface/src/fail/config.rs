//! What an operator says of a failover group.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use weft_stack::ip::address::Cidr;
use weft_stack::time::Duration;

pub use crate::tree::MEMBERS_MAX;

/// The shortest failure detection time.
pub const DETECT_MIN: Duration = Duration::from_millis(100);
/// `flaps_max` of a group that says nothing of it, and of aliases that are bound to targets.
pub(crate) const FLAPS_MAX: u8 = 2;
/// Targets that probes of one group may be given.
pub const TARGETS_MAX: usize = 64;

/// One failover group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    /// Names of its members, in the order that everything else counts them.
    pub members: Vec<String>,
    /// Those of them that wait until another fails.
    pub standby: Vec<String>,
    /// A repaired member is used again. If not, it waits until another fails.
    pub failback: bool,
    /// How soon a failure that only probes can notice is noticed, at the latest; 100 ms at least.
    pub detect: Duration,
    /// What is looked at besides the links.
    pub probe: ProbeMode,
    /// Addresses that probes are sent from, with the member that has them.
    pub test: Vec<(String, Cidr)>,
    /// What is probed; the routers of the routes, else all hosts, if empty.
    pub targets: Vec<IpAddr>,
    /// BFD with other hosts that have it: milliseconds instead of `detect`.
    pub fast: Option<FastConfig>,
    /// Targets beyond the link. With all of them lost the group counts as failed for those who
    /// listen to events; the data path goes on.
    pub beyond: Vec<IpAddr>,
    /// A program that is run for each event.
    pub hook: Option<String>,
    /// For so long after its link came up lost probes do not fail a member, unless one was
    /// answered: switches with spanning tree do not forward at once.
    pub quiet: Duration,
    /// A member whose link came up more often than this within a minute (or, with probes, that
    /// was repaired as often) is not used until that is a minute ago.
    pub flaps_max: u8,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            members: Vec::new(),
            standby: Vec::new(),
            failback: true,
            detect: Duration::from_secs(10),
            probe: ProbeMode::Link,
            test: Vec::new(),
            targets: Vec::new(),
            fast: None,
            beyond: Vec::new(),
            hook: None,
            quiet: Duration::from_secs(40),
            flaps_max: FLAPS_MAX,
        }
    }
}

/// How members are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeMode {
    /// By link only.
    #[default]
    Link,
    /// ICMP and ICMPv6 echo, from test addresses.
    Icmp,
    /// ARP and neighbour discovery, without test addresses.
    Arp,
    /// Members with data addresses ask targets, others are reached through those.
    Transitive,
}

/// BFD (RFC 5880) with other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastConfig {
    /// The others.
    pub peers: Vec<IpAddr>,
    /// A packet so often, 1 ms to 60 s.
    pub interval: Duration,
    /// So many lost are a failure, 1 or more.
    pub multiplier: u8,
}

impl Default for FastConfig {
    fn default() -> FastConfig {
        FastConfig { peers: Vec::new(), interval: Duration::from_millis(3), multiplier: 3 }
    }
}

/// Targets beyond its link that an alias is bound to: with all of them lost it counts as failed for
/// those who listen to events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeyondConfig {
    /// The targets; none: it is bound to nothing.
    pub targets: Vec<IpAddr>,
    /// How soon a loss is noticed, at the latest; 100 ms at least.
    pub detect: Duration,
    /// A program that is run for each event.
    pub hook: Option<String>,
}

impl Default for BeyondConfig {
    fn default() -> BeyondConfig {
        BeyondConfig { targets: Vec::new(), detect: Duration::from_secs(10), hook: None }
    }
}

impl BeyondConfig {
    /// Checks what can be told without the alias.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.detect < DETECT_MIN {
            return Err(ConfigError::DetectTooShort(self.detect));
        }
        check_hosts(&self.targets, "beyond")?;
        check_hook(self.hook.as_ref())
    }
}

/// Why a group, or what an alias is bound to, cannot be as configured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No member.
    #[error("it has no members; name at least one")]
    NoMembers,
    /// More than [`MEMBERS_MAX`].
    #[error("it has {0} members, at most {MEMBERS_MAX} are possible")]
    TooManyMembers(usize),
    /// A name stands twice.
    #[error("member {0} stands twice")]
    MemberTwice(String),
    /// Standby, but not a member.
    #[error("{0} is standby but not a member; add it to `members`")]
    StandbyUnknown(String),
    /// A standby name stands twice.
    #[error("{0} stands twice in `standby`")]
    StandbyTwice(String),
    /// Below [`DETECT_MIN`].
    #[error("`detect_ms` is {} ms, at least 100 are needed; `fast` detects sooner", .0.as_millis())]
    DetectTooShort(Duration),
    /// Of no member.
    #[error("test address {1} is for {0}, which is not a member")]
    TestUnknown(String, IpAddr),
    /// The same address for two members.
    #[error("test address {0} stands twice; each member needs its own")]
    TestTwice(IpAddr),
    /// IPv6, but not link-local.
    #[error("test address {0} is not link-local, as IPv6 test addresses must be")]
    TestNotLinkLocal(IpAddr),
    /// Not of a host.
    #[error("{0} in `{1}` is not the address of a host")]
    NotAHost(IpAddr, &'static str),
    /// An address stands twice in one list.
    #[error("{0} stands twice in `{1}`")]
    AddressTwice(IpAddr, &'static str),
    /// More than [`TARGETS_MAX`].
    #[error("`{0}` has more than {TARGETS_MAX} addresses")]
    TooManyAddresses(&'static str),
    /// A target is a test address of the group itself.
    #[error("target {0} is a test address of this group")]
    TargetIsTest(IpAddr),
    /// Fast mode with nobody.
    #[error("`fast` names no peers")]
    FastWithoutPeers,
    /// Out of 1 ms to 60 s.
    #[error("`fast` has an interval of {} us, it may be from 1 ms to 60 s", .0.as_micros())]
    FastInterval(Duration),
    /// Zero.
    #[error("`fast` has a multiplier of 0; at least one packet is lost in a failure")]
    FastMultiplier,
    /// Not a full path.
    #[error("hook `{0}` is not a full path")]
    HookPath(String),
    /// Zero.
    #[error("`flaps_max` is 0; a member could never come back")]
    FlapsZero,
}

impl GroupConfig {
    /// Checks what can be told from the group alone.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_members()?;
        if self.detect < DETECT_MIN {
            return Err(ConfigError::DetectTooShort(self.detect));
        }
        if self.flaps_max == 0 {
            return Err(ConfigError::FlapsZero);
        }
        self.validate_tests()?;
        check_hosts(&self.targets, "targets")?;
        check_hosts(&self.beyond, "beyond")?;
        let is_test = |target: &&IpAddr| self.test.iter().any(|t| t.1.addr == **target);
        if let Some(target) = self.targets.iter().find(is_test) {
            return Err(ConfigError::TargetIsTest(*target));
        }
        self.fast.as_ref().map_or(Ok(()), FastConfig::validate)?;
        check_hook(self.hook.as_ref())
    }

    fn validate_members(&self) -> Result<(), ConfigError> {
        match self.members.len() {
            0 => return Err(ConfigError::NoMembers),
            n if n > MEMBERS_MAX => return Err(ConfigError::TooManyMembers(n)),
            _ => {}
        }
        if let Some(name) = twice(&self.members) {
            return Err(ConfigError::MemberTwice(name.clone()));
        }
        if let Some(name) = twice(&self.standby) {
            return Err(ConfigError::StandbyTwice(name.clone()));
        }
        match self.standby.iter().find(|name| !self.members.contains(name)) {
            Some(name) => Err(ConfigError::StandbyUnknown(name.clone())),
            None => Ok(()),
        }
    }

    fn validate_tests(&self) -> Result<(), ConfigError> {
        for (member, cidr) in &self.test {
            if !self.members.contains(member) {
                return Err(ConfigError::TestUnknown(member.clone(), cidr.addr));
            }
            if !is_host(&cidr.addr) {
                return Err(ConfigError::NotAHost(cidr.addr, "test"));
            }
            if matches!(cidr.addr, IpAddr::V6(v6) if !v6.is_unicast_link_local()) {
                return Err(ConfigError::TestNotLinkLocal(cidr.addr));
            }
        }
        let addresses: Vec<IpAddr> = self.test.iter().map(|t| t.1.addr).collect();
        twice(&addresses).map_or(Ok(()), |address| Err(ConfigError::TestTwice(*address)))
    }

    /// Whether a member waits until another fails.
    pub fn is_standby(&self, member: &str) -> bool {
        self.standby.iter().any(|name| name == member)
    }
}

impl FastConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.peers.is_empty() {
            return Err(ConfigError::FastWithoutPeers);
        }
        check_hosts(&self.peers, "fast.peers")?;
        if !(Duration::from_millis(1)..=Duration::from_mins(1)).contains(&self.interval) {
            return Err(ConfigError::FastInterval(self.interval));
        }
        if self.multiplier == 0 {
            return Err(ConfigError::FastMultiplier);
        }
        Ok(())
    }
}

fn twice<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter().enumerate().find(|(i, item)| list[..*i].contains(item)).map(|(_, item)| item)
}

fn is_host(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}

fn check_hook(hook: Option<&String>) -> Result<(), ConfigError> {
    match hook.filter(|hook| !hook.starts_with('/')) {
        Some(hook) => Err(ConfigError::HookPath(hook.clone())),
        None => Ok(()),
    }
}

fn check_hosts(list: &[IpAddr], key: &'static str) -> Result<(), ConfigError> {
    if list.len() > TARGETS_MAX {
        return Err(ConfigError::TooManyAddresses(key));
    }
    if let Some(address) = list.iter().find(|a| !is_host(a)) {
        return Err(ConfigError::NotAHost(*address, key));
    }
    twice(list).map_or(Ok(()), |address| Err(ConfigError::AddressTwice(*address, key)))
}

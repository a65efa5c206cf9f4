//! Why interfaces do not fit together.

use std::net::IpAddr;

use crate::Mac;
use crate::fail::config::ConfigError;
use crate::name::{InterfaceName, NameError};

/// Where in a [`TreeSpec`](super::TreeSpec) something is wrong, by positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// All of it.
    Whole,
    /// A NIC.
    Nic(usize),
    /// A bond.
    Bond(usize),
    /// A port of a bond.
    Port(usize, usize),
    /// A bond's number of links that it needs.
    MinLinks(usize),
    /// A VLAN's section.
    Vlan(usize),
    /// A failover group.
    Group(usize),
    /// A member of a group.
    Member(usize, usize),
    /// An entry of a group's `standby`.
    Standby(usize, usize),
    /// An entry of a group's `test`.
    Test(usize, usize),
    /// An alias.
    Alias(usize),
    /// What an alias stands over.
    Over(usize),
    /// An alias's MTU.
    Mtu(usize),
    /// An alias's MAC address.
    Mac(usize),
}

/// One thing that is wrong with a tree, and where. Displays as what is wrong and what would be
/// right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TreeError {
    /// Where.
    pub at: At,
    /// What.
    pub why: Illegal,
}

/// What is illegal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that is right, but not here.
    #[error("'{name}' cannot be {place}: {wanted}")]
    Place {
        /// The name.
        name: InterfaceName,
        /// Where it stood.
        place: &'static str,
        /// What can.
        wanted: &'static str,
    },
    /// Two of one name.
    #[error("'{0}' is defined twice; give one of them another number")]
    Twice(InterfaceName),
    /// Two NICs on one kernel interface.
    #[error("'{0}' and '{1}' use the same device '{2}'; a device has one owner")]
    DeviceShared(InterfaceName, InterfaceName, String),
    /// A name of nothing.
    #[error("there is no '{0}'; add [{section}.{0}] or name another", section = section(.0))]
    Unknown(InterfaceName),
    /// Bare IP packets have neither tags nor MAC addresses.
    #[error("{name} carries no Ethernet frames (driver \"tun\"), so {what}; use \"tap\"")]
    NotEthernet {
        /// The NIC, or what stands on it.
        name: InterfaceName,
        /// What is impossible.
        what: &'static str,
    },
    /// A component with two owners.
    #[error("{name} is used by {by} already; a component has one owner")]
    Used {
        /// The component.
        name: InterfaceName,
        /// Its first owner.
        by: InterfaceName,
    },
    /// Something on a component of a bond or group.
    #[error("{name} is a part of {by}, so nothing else stands on it; put {what} over {by}")]
    Locked {
        /// The component.
        name: InterfaceName,
        /// The bond or group that has it.
        by: InterfaceName,
        /// What would stand on it.
        what: InterfaceName,
    },
    /// Ports that cannot act as one.
    #[error("{a} has driver \"{a_driver}\" and {b} has \"{b_driver}\"; ports of a bond have one")]
    Drivers {
        /// The first port.
        a: InterfaceName,
        /// Its driver.
        a_driver: &'static str,
        /// The other port.
        b: InterfaceName,
        /// Its driver.
        b_driver: &'static str,
    },
    /// A bond or group of nothing.
    #[error("{0} has no {1}; name one at least")]
    Empty(InterfaceName, &'static str),
    /// A limit.
    #[error("{count} {what}; at most {most}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// A bond that can never be up.
    #[error("{bond} needs {min} links and may use {ports}; it would never be up")]
    MinLinks {
        /// The bond.
        bond: InterfaceName,
        /// Links that it needs.
        min: u16,
        /// Ports that it may use.
        ports: usize,
    },
    /// Two ports of one LACP system with one number.
    #[error("{a} and {b} are both port {number} of one LACP system; give one another 'number'")]
    PortNumber {
        /// A port.
        a: InterfaceName,
        /// Another.
        b: InterfaceName,
        /// Their number.
        number: u16,
    },
    /// Number 0 means "no port" (802.1AX 6.3.4).
    #[error("{0} has port number 0, which means no port; use 1 to 65535")]
    PortNumberZero(InterfaceName),
    /// Two bonds that a partner would take for one.
    #[error("{a} and {b} have one LACP system and key {key}; a partner takes them for one bond")]
    Key {
        /// A bond.
        a: InterfaceName,
        /// Another.
        b: InterfaceName,
        /// Their key.
        key: u16,
    },
    /// Two devices with one MAC address.
    #[error("{a} and {b} have one MAC address, {}; use another", hex(*.mac))]
    MacTwice {
        /// One.
        a: InterfaceName,
        /// The other.
        b: InterfaceName,
        /// The address.
        mac: Mac,
    },
    /// A preferred port that is none.
    #[error("primary '{primary}' of {bond} is none of its ports")]
    Primary {
        /// The bond.
        bond: InterfaceName,
        /// As written.
        primary: String,
    },
    /// Members that fail together.
    #[error("{a} and {b} both go over {nic}, so they fail together; members of {group} share none")]
    SharedNic {
        /// The group.
        group: InterfaceName,
        /// A member.
        a: InterfaceName,
        /// Another.
        b: InterfaceName,
        /// What both stand on.
        nic: InterfaceName,
    },
    /// A group in a group.
    #[error("{member} stands on a failover group, and {group} is one; groups do not nest")]
    Nested {
        /// The outer group.
        group: InterfaceName,
        /// Its member.
        member: InterfaceName,
    },
    /// A group that stands on itself.
    #[error("{member} stands on {group}, which would stand on it; a group is no member of itself")]
    Cycle {
        /// The group.
        group: InterfaceName,
        /// Its member.
        member: InterfaceName,
    },
    /// `standby` or `test` of something else.
    #[error("{name} is no member of {group}; add it to 'members'")]
    NoMember {
        /// The group.
        group: InterfaceName,
        /// What was named.
        name: InterfaceName,
    },
    /// Nobody would work while nobody fails.
    #[error("every member of {0} is standby; leave one out of 'standby'")]
    AllStandby(InterfaceName),
    /// Two members with one test address.
    #[error("test address {addr} is given twice in {group}; every member needs its own")]
    TestTwice {
        /// The group.
        group: InterfaceName,
        /// The address.
        addr: IpAddr,
    },
    /// IPv6 test addresses are of the link.
    #[error("test address {0} is not link-local; an IPv6 one is in fe80::/10")]
    TestNotLocal(IpAddr),
    /// An address that no host has.
    #[error("test address {0} is no address of one host")]
    TestNoHost(IpAddr),
    /// Something of a group that its members have no part in.
    #[error("{group}: {why}")]
    Group {
        /// The group.
        group: InterfaceName,
        /// What.
        why: ConfigError,
    },
    /// Something of what an alias is bound to.
    #[error("{alias}: {why}")]
    Beyond {
        /// The alias.
        alias: InterfaceName,
        /// What.
        why: ConfigError,
    },
    /// Two tags in a frame.
    #[error("{name} would be the second VLAN tag over {over}; a frame carries one")]
    TwoTags {
        /// What has the second tag.
        name: InterfaceName,
        /// What has the first.
        over: InterfaceName,
    },
    /// An alias on nothing.
    #[error("{0} stands on nothing; say 'over', a NIC, bond, VLAN or failover group")]
    NoOver(InterfaceName),
    /// `data0.5` elsewhere than `data0`.
    #[error(
        "{name} is {base} with a VLAN tag, and {base} stands over {over}; say the same or leave 'over' out"
    )]
    OverDiffers {
        /// The alias with a tag.
        name: InterfaceName,
        /// That without.
        base: InterfaceName,
        /// Where that one stands.
        over: InterfaceName,
    },
    /// An MTU that does not fit through.
    #[error("mtu {mtu} of {name} is larger than that of {link} below it; at most {most}")]
    Mtu {
        /// The alias.
        name: InterfaceName,
        /// Its MTU.
        mtu: usize,
        /// What it stands on.
        link: InterfaceName,
        /// The MTU of that.
        most: usize,
    },
    /// More than three bits.
    #[error("VLAN priority {0}; it is 0 to 7")]
    Priority(u8),
}

impl Illegal {
    pub(super) fn at(self, at: At) -> TreeError {
        TreeError { at, why: self }
    }
}

fn section(name: &InterfaceName) -> &'static str {
    match name {
        InterfaceName::Eth(_) => "nic",
        InterfaceName::Bond(_) => "bond",
        InterfaceName::Fail(_) => "fail",
        InterfaceName::Vlan { .. } => "vlan",
        InterfaceName::Alias(..) => "alias",
    }
}

pub(super) fn hex(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

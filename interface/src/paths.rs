//! Failover groups as `weft paths` shows them: plain lines of one moment.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::fail::{GroupCounters, MemberCounters};
use crate::keeper::Lost;
use crate::probe::bfd::{Diagnostic, State};
use crate::probe::{BfdCounters, ProbeCounters};

/// All groups of a host, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathsReport {
    /// Data addresses.
    pub addresses: Vec<AddressPath>,
    /// Groups.
    pub groups: Vec<GroupPath>,
    /// Members.
    pub interfaces: Vec<InterfacePath>,
    /// Test addresses and whom they probe.
    pub targets: Vec<TargetPath>,
    /// BFD sessions of fast modes.
    pub sessions: Vec<SessionPath>,
    /// What each group counted, and each alias that is bound to targets.
    pub probing: Vec<ProbingPath>,
    /// What of all machines together was not taken in time, or is for none of them.
    #[serde(default)]
    pub lost: Lost,
}

/// A BFD session: a member and a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPath {
    /// The member.
    pub interface: String,
    /// The other end.
    pub peer: IpAddr,
    /// State.
    pub state: State,
    /// Why it left its last state (RFC 5880 4.1).
    pub diagnostic: Diagnostic,
    /// The same of the other end, as it says.
    pub remote_diagnostic: Diagnostic,
    /// Our discriminator.
    pub discriminator: u32,
    /// Between two packets of ours, before jitter, in microseconds.
    pub tx_us: u64,
    /// Silence of this length is a failure, in microseconds; 0: nothing is expected.
    pub detect_us: u64,
}

/// Counters of a group, or of an alias that is bound to targets beyond its link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbingPath {
    /// The group or alias.
    pub group: String,
    /// What the group did.
    #[serde(default)]
    pub counters: GroupCounters,
    /// Its members.
    #[serde(default)]
    pub members: Vec<MemberCount>,
    /// Probes.
    pub probes: ProbeCounters,
    /// BFD.
    pub bfd: BfdCounters,
}

/// Counters of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCount {
    /// Which.
    pub interface: String,
    /// Counters.
    #[serde(flatten)]
    pub counters: MemberCounters,
    /// For so many milliseconds more its repair is withheld, because it came back too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damped_ms: Option<u64>,
}

/// One data address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPath {
    /// Which.
    pub address: IpAddr,
    /// Whether it is reachable.
    pub up: bool,
    /// Its group.
    pub group: String,
    /// The member that receives for it.
    pub inbound: Option<String>,
    /// The members that send for it.
    pub outbound: Vec<String>,
}

/// How a group is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupHealth {
    /// All members can be used.
    Ok,
    /// Some can be used.
    Degraded,
    /// None can be used.
    #[default]
    Failed,
}

/// One group, or an alias that is bound to targets beyond its link: that is a group of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPath {
    /// Its interface.
    pub group: String,
    /// Its name.
    pub group_name: String,
    /// How it is.
    pub state: GroupHealth,
    /// Time to detect a failure in milliseconds, as it is now; `None`: nothing is probed.
    pub detection_ms: Option<u64>,
    /// Members that carry frames.
    pub active: Vec<String>,
    /// Members that could, and wait.
    pub inactive: Vec<String>,
    /// Members that cannot.
    pub unusable: Vec<String>,
    /// See [`crate::events::What`].
    pub signature: u64,
    /// Targets beyond the link that are not reached any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beyond_lost: Vec<IpAddr>,
}

/// What is known of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkHealth {
    /// There is a carrier.
    Up,
    /// There is none.
    Down,
    /// The device does not tell.
    #[default]
    Unknown,
}

/// What probes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeHealth {
    /// They are answered.
    Ok,
    /// They are not.
    Failed,
    /// There is nobody to answer.
    Unknown,
    /// There are none.
    #[default]
    Disabled,
}

/// State of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberHealth {
    /// It can be used.
    Ok,
    /// It cannot.
    Failed,
    /// Taken out by the operator, or for a duplicate hardware address.
    Offline,
    /// Not known yet; used as if it could be.
    #[default]
    Unknown,
}

/// The flags of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "seven letters of one column")]
pub struct MemberFlags {
    /// `i`: it could carry frames, and waits.
    pub inactive: bool,
    /// `s`: it waits for the failure of another by configuration.
    pub standby: bool,
    /// `m`: IPv4 multicast goes by it.
    pub multicast4: bool,
    /// `b`: broadcast goes by it.
    pub broadcast: bool,
    /// `M`: IPv6 multicast goes by it.
    pub multicast6: bool,
    /// `d`: its interface is down by configuration.
    pub down: bool,
    /// `h`: it was taken out because another member has the same hardware address.
    pub duplicate_mac: bool,
}

impl MemberFlags {
    /// Always seven characters, `-` for what is not set.
    pub fn letters(self) -> String {
        let all = [
            (self.inactive, 'i'),
            (self.standby, 's'),
            (self.multicast4, 'm'),
            (self.broadcast, 'b'),
            (self.multicast6, 'M'),
            (self.down, 'd'),
            (self.duplicate_mac, 'h'),
        ];
        all.iter().map(|(set, letter)| if *set { *letter } else { '-' }).collect()
    }
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfacePath {
    /// Which.
    pub interface: String,
    /// It carries frames of the group.
    pub active: bool,
    /// Its group.
    pub group: String,
    /// Flags.
    pub flags: MemberFlags,
    /// Link.
    pub link: LinkHealth,
    /// Probes.
    pub probe: ProbeHealth,
    /// What follows of all that.
    pub state: MemberHealth,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How targets are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetMode {
    /// Nothing is probed.
    #[default]
    Disabled,
    /// Configured, or routers of routes.
    Routes,
    /// Whoever answers a probe to all.
    Multicast,
    /// By ARP or ND, without a test address.
    Arp,
    /// Another member.
    Transitive,
    /// Configured, behind a router.
    Beyond,
}

/// Whom a test address probes; of targets beyond the link, what asks them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPath {
    /// The member; of targets beyond the link, the group or alias that is bound to them.
    pub interface: String,
    /// How they were found.
    pub mode: TargetMode,
    /// The test address, or the data address that is asked from; none if probes need none.
    pub test_address: Option<String>,
    /// Targets; the one in turn first.
    pub targets: Vec<String>,
    /// Targets beyond the link that are not reached any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeLine {
    /// Counts probes of the host that ended, from 1.
    pub number: u64,
    /// When it was sent: microseconds of the host's clock.
    pub at_us: u64,
    /// The member.
    pub interface: String,
    /// Its sequence number.
    pub probe: u64,
    /// Round trip on the wire; `None`: lost.
    pub net_rtt_us: Option<u64>,
    /// Round trip with all of this process; `None`: lost.
    pub rtt_us: Option<u64>,
    /// Smoothed round trip of the target.
    pub rtt_avg_us: Option<u64>,
    /// Its smoothed deviation.
    pub rtt_dev_us: Option<u64>,
    /// Whom it was sent to.
    pub target: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_seven_letters_in_order() {
        assert_eq!(MemberFlags::default().letters(), "-------");
        let cast = MemberFlags {
            multicast4: true,
            broadcast: true,
            multicast6: true,
            ..MemberFlags::default()
        };
        assert_eq!(cast.letters(), "--mbM--");
        let waits = MemberFlags { inactive: true, standby: true, ..MemberFlags::default() };
        assert_eq!(waits.letters(), "is-----");
        let out = MemberFlags { down: true, duplicate_mac: true, ..MemberFlags::default() };
        assert_eq!(out.letters(), "-----dh");
    }
}

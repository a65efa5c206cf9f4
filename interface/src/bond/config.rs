//! What an operator says of a bond.

use serde::{Deserialize, Serialize};
use weft_stack::time::Duration;

use crate::Mac;

/// One bond.
#[derive(Clone, Debug, PartialEq)]
pub struct BondConfig {
    /// Its ports, in the order that everything else counts them.
    pub ports: Vec<PortConfig>,
    /// How ports are chosen.
    pub mode: Mode,
    /// How frames are spread over the chosen ports (`lacp` and `static`).
    pub hash: HashPolicy,
    /// The bond is down while fewer ports than this may carry frames. 0 counts as 1.
    pub min_links: u16,
    /// MAC address of the bond; that of its first port if not set.
    pub mac: Option<Mac>,
    /// `active-backup`: name of the port that is preferred.
    pub primary: Option<String>,
    /// `active-backup`: return to the primary when it is back; else only when the active one fails.
    pub failback: bool,
    /// All modes but `lacp`: a port carries frames only after its link was up for this long. For
    /// switches that do not forward at once.
    pub up_delay: Duration,
    /// `lacp`: what is told to the partner.
    pub lacp: LacpConfig,
}

impl Default for BondConfig {
    fn default() -> BondConfig {
        BondConfig {
            ports: Vec::new(),
            mode: Mode::Lacp,
            hash: HashPolicy::L34,
            min_links: 1,
            mac: None,
            primary: None,
            failback: true,
            up_delay: Duration::ZERO,
            lacp: LacpConfig::default(),
        }
    }
}

/// One port of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Name of the NIC.
    pub name: String,
    /// LACP port priority; lower is preferred when not all ports may be used.
    pub priority: u16,
    /// LACP port number, unique in the system and not 0; the position in the bond plus 1 if not
    /// set.
    pub number: Option<u16>,
    /// Never aggregated with others: it is a bond of one port if it is chosen at all.
    pub individual: bool,
}

impl PortConfig {
    /// A port with default values.
    pub fn named(name: &str) -> PortConfig {
        PortConfig { name: name.to_owned(), ..PortConfig::default() }
    }
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig { name: String::new(), priority: 255, number: None, individual: false }
    }
}

/// The `lacp` table of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LacpConfig {
    /// Whether we begin to talk, or only answer.
    pub activity: Activity,
    /// How often the partner shall send to us, and so how soon its silence is noticed.
    pub rate: Rate,
    /// Of two systems the one with the lower priority decides which ports are standby.
    pub system_priority: u16,
    /// System identifier; the bond's MAC address if not set.
    pub system: Option<Mac>,
    /// Ports with one key may be aggregated. Every bond of a system needs its own.
    pub key: u16,
    /// Independent control of collecting and distributing: nothing is sent before the partner
    /// says that it takes it. Otherwise both begin together.
    pub independent: bool,
    /// More ports than this are kept as standby; no limit if not set.
    pub max_ports: Option<u16>,
    /// Which aggregate is used if the ports could form several.
    pub select: SelectPolicy,
    /// Use one port alone if nobody speaks LACP on any.
    pub fallback: bool,
}

impl Default for LacpConfig {
    fn default() -> LacpConfig {
        LacpConfig {
            activity: Activity::Active,
            rate: Rate::Slow,
            system_priority: 65535,
            system: None,
            key: 1,
            independent: true,
            max_ports: None,
            select: SelectPolicy::Stable,
            fallback: false,
        }
    }
}

/// How the ports of a bond are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As negotiated with the partner (802.1AX).
    #[default]
    Lacp,
    /// All that have a link.
    Static,
    /// One that has a link; the others wait.
    ActiveBackup,
    /// All that have a link, in turn for each frame. Reorders conversations.
    RoundRobin,
}

/// What frames of one conversation have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashPolicy {
    /// MAC addresses and VLAN.
    #[serde(rename = "l2")]
    L2,
    /// IP addresses.
    #[serde(rename = "l3")]
    L3,
    /// IP addresses and ports.
    #[default]
    #[serde(rename = "l3+4")]
    L34,
    /// IP addresses and ports, both directions alike.
    #[serde(rename = "symmetric")]
    Symmetric,
}

/// `LACP_Activity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// Sends whoever the partner is.
    #[default]
    Active,
    /// Sends only to a partner that is active.
    Passive,
}

/// `LACP_Timeout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rate {
    /// A PDU every second, silence is noticed after 3 s.
    Fast,
    /// A PDU every 30 s, silence is noticed after 90 s.
    #[default]
    Slow,
}

/// Which of several possible aggregates is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectPolicy {
    /// The one in use, as long as it works.
    #[default]
    Stable,
    /// The one with the highest sum of speeds.
    Bandwidth,
    /// The one with most ports.
    Count,
}

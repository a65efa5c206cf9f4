//! How the shim of a vserver behaves.

use core::ops::RangeInclusive;

use weft_stack::time::Duration;

use crate::limit::Rate;

/// When contexts are set up for traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetUp {
    /// Only peers set up contexts.
    Never,
    /// When a pair of ULIDs has exchanged some packets, bytes, or talked for some time: short
    /// exchanges do not pay for four messages.
    #[default]
    Deferred,
    /// With the first packet.
    Immediate,
}

/// What is special about a port: whichever end of a packet has it, the first rule counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// IP protocol.
    pub protocol: u8,
    /// Ports, of either end.
    pub ports: RangeInclusive<u16>,
    /// [`SetUp::Never`]: such packets take no part in the shim at all, they are not rewritten.
    pub set_up: SetUp,
}

/// The deferred set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetUpConfig {
    /// For ports without a rule.
    pub default: SetUp,
    /// Deferred: after so many packets in either direction.
    pub packets: u32,
    /// Deferred: or so many bytes.
    pub bytes: u64,
    /// Deferred: or with the first packet after so long.
    pub age: Duration,
    /// Rules of ports. With any, flows without context do not take the stack's shortest way.
    pub ports: Vec<PortRule>,
    /// Pairs of ULIDs that are counted at once.
    pub flows_max: usize,
}

impl Default for SetUpConfig {
    fn default() -> SetUpConfig {
        SetUpConfig {
            default: SetUp::Deferred,
            packets: 50,
            bytes: 65_536,
            age: Duration::from_secs(5),
            ports: Vec::new(),
            flows_max: 4096,
        }
    }
}

/// The constants of RFC 5533 14.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timers {
    /// I1_TIMEOUT, I2_TIMEOUT, I2bis_TIMEOUT.
    pub handshake: Duration,
    /// I1_RETRIES_MAX.
    pub i1_retries: u8,
    /// I2_RETRIES_MAX, I2bis_RETRIES_MAX.
    pub i2_retries: u8,
    /// NO_R1_HOLDDOWN_TIME.
    pub no_r1_hold: Duration,
    /// ICMP_HOLDDOWN_TIME.
    pub icmp_hold: Duration,
    /// UPDATE_TIMEOUT.
    pub update: Duration,
    /// MAX_UPDATE_TIMEOUT.
    pub update_max: Duration,
    /// A context ends when nothing was sent or received for so long (RFC 5533 9).
    pub quiet: Duration,
}

impl Default for Timers {
    fn default() -> Timers {
        let s = Duration::from_secs;
        Timers {
            handshake: s(4),
            i1_retries: 4,
            i2_retries: 2,
            no_r1_hold: s(60),
            icmp_hold: s(600),
            update: s(4),
            update_max: s(120),
            quiet: s(300),
        }
    }
}

/// Bounds of what peers, and those who pretend to be, can make grow or happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Contexts of the vserver.
    pub contexts_max: usize,
    /// Contexts with peers of one /64 (IPv4: one address).
    pub contexts_per_prefix_max: u32,
    /// Contexts that are being set up by this host.
    pub initiating_max: usize,
    /// Peers that are not asked for a while because they did not answer.
    pub holds_max: usize,
    /// Control messages that wait to be sent.
    pub queue_max: usize,
    /// I1 for traffic.
    pub i1: Rate,
    /// Answers to I1: costs a hash and a packet, no memory.
    pub r1: Rate,
    /// Answers to unknown tags: the same.
    pub r1bis: Rate,
    /// Answers to I2, I2bis and repeated I1.
    pub r2: Rate,
    /// Error messages.
    pub error: Rate,
    /// Messages of peers whose locators are verified and taken over: two hashes for each, and a look
    /// at every pair.
    pub lists: Rate,
    /// Signatures of peers verified: an RSA operation each.
    pub signatures: Rate,
    /// Between two messages that packets of a peer make one context send again (I2, I2bis).
    pub again: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            contexts_max: 16_384,
            contexts_per_prefix_max: 1024,
            initiating_max: 1024,
            holds_max: 4096,
            queue_max: 1024,
            i1: Rate::new(500, 200),
            r1: Rate::new(2000, 500),
            r1bis: Rate::new(500, 200),
            r2: Rate::new(2000, 500),
            error: Rate::new(20, 20),
            lists: Rate::new(2000, 1000),
            signatures: Rate::new(200, 50),
            again: Duration::from_millis(200),
        }
    }
}

/// The shim of one vserver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShimConfig {
    /// When contexts are set up.
    pub set_up: SetUpConfig,
    /// Timers of RFC 5533.
    pub timers: Timers,
    /// Bounds.
    pub bounds: Bounds,
    /// ICMP errors that the shim acts on are told upwards all the same (RFC 5533 8).
    pub deliver_icmp: bool,
}

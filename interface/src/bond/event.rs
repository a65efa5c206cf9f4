//! What a bond tells whoever listens.

use serde::{Deserialize, Serialize};

use super::lacp::wire::SystemId;

/// Something that changed. Ports are positions in the bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum BondEvent {
    /// The bond carries frames.
    Up,
    /// Fewer ports than `min_links` are left.
    Down,
    /// The port sends frames from now on.
    PortUp {
        /// The port.
        port: usize,
    },
    /// The port does not send frames any more.
    PortDown {
        /// The port.
        port: usize,
        /// Why.
        why: Unused,
    },
    /// `active-backup`: another port is the active one. The addresses of the bond have to be
    /// announced on it, for the switches to learn where they are.
    Announce {
        /// The new active port.
        port: usize,
    },
    /// The aggregate's partner is another; `None` if there is none.
    PartnerChanged {
        /// Who it was.
        from: Option<SystemId>,
        /// Who it is.
        to: Option<SystemId>,
    },
    /// For 60 s with link, we would not take the port into the aggregate; or that is over.
    ActorChurn {
        /// The port.
        port: usize,
        /// It began.
        on: bool,
    },
    /// For 60 s with link, the partner would not; or that is over.
    PartnerChurn {
        /// The port.
        port: usize,
        /// It began.
        on: bool,
    },
    /// `lacp`: a port that was taken out, or became standby, is empty.
    Drained {
        /// The port.
        port: usize,
        /// The partner said so: it has taken every frame. Otherwise it did not answer in time.
        answered: bool,
    },
}

/// Why a port does not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unused {
    /// No link.
    LinkDown,
    /// Taken out by the operator.
    Offline,
    /// Half duplex.
    HalfDuplex,
    /// Its link is up for less than `up_delay`.
    UpDelay,
    /// Nobody speaks LACP at the other end.
    NoPartner,
    /// The partner was heard, but not lately.
    PartnerSilent,
    /// It is connected to this same system.
    Loopback,
    /// Its partner is another system than that of the aggregate.
    OtherPartner,
    /// Its partner has another key than that of the aggregate.
    OtherKey,
    /// Its speed is another than that of the aggregate.
    OtherSpeed,
    /// It is individual by its own or its partner's choice, and the bond uses something else.
    Individual,
    /// `max_ports` others, or the active one, are preferred.
    Standby,
    /// It waits for other ports to join with.
    Waiting,
    /// The partner has not taken it into its aggregate.
    PartnerNotInSync,
    /// Fewer than `min_links` ports could carry frames.
    MinLinks,
    /// The partner does not take frames on it.
    PartnerNotCollecting,
    /// It is being emptied.
    Draining,
}

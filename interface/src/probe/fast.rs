//! BFD sessions of members: encapsulation in UDP over IPv4 and IPv6, one hop (RFC 5881).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use super::bfd::{Packet, Refused, Session, Timers};
use super::wire::{Envelope, UDP};
use crate::Mac;
use crate::fail::FastConfig;

/// UDP port of single-hop BFD.
pub const BFD_PORT: u16 = 3784;
/// Source ports of BFD begin here (RFC 5881 4).
const SOURCE_PORT_MIN: u16 = 49152;
/// CS6: before everything that may wait.
const TRAFFIC_CLASS: u8 = 0xc0;

/// Sessions of one group.
pub(super) const SESSIONS_MAX: usize = 256;

/// BFD packets that were not taken, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdCounters {
    /// Taken.
    pub received: u64,
    /// Sent.
    pub sent: u64,
    /// Taken from a peer that asks for demand mode: it is heard, and gets packets on polls only.
    pub demand: u64,
    /// Version is not 1.
    pub version: u64,
    /// Too short.
    pub length: u64,
    /// Detection multiplier of 0.
    pub multiplier: u64,
    /// Multipoint bit.
    pub multipoint: u64,
    /// No discriminator of the sender.
    pub my_discriminator: u64,
    /// No such session.
    pub your_discriminator: u64,
    /// Authenticated.
    pub authentication: u64,
    /// Hop limit is not 255.
    pub hop_limit: u64,
    /// Not from a configured peer.
    pub peer: u64,
    /// The session is held down.
    pub admin_down: u64,
}

impl BfdCounters {
    pub(super) fn count(&mut self, refused: Refused) {
        match refused {
            Refused::Version => self.version += 1,
            Refused::Length => self.length += 1,
            Refused::Multiplier => self.multiplier += 1,
            Refused::Multipoint => self.multipoint += 1,
            Refused::MyDiscriminator => self.my_discriminator += 1,
            Refused::YourDiscriminator => self.your_discriminator += 1,
            Refused::Authentication => self.authentication += 1,
            Refused::HopLimit => self.hop_limit += 1,
            Refused::Peer => self.peer += 1,
            Refused::AdminDown => self.admin_down += 1,
        }
    }
}

/// A session from a member to a peer.
#[derive(Clone, Debug)]
pub(super) struct FastSession {
    pub(super) member: usize,
    pub(super) peer: IpAddr,
    pub(super) mac: Option<Mac>,
    pub(super) session: Session,
    pub(super) running: bool,
    source_port: u16,
}

impl FastSession {
    pub(super) fn frame(&self, src: (Mac, IpAddr), packet: &Packet) -> Option<Vec<u8>> {
        let envelope = Envelope {
            src_mac: src.0,
            dst_mac: self.mac?,
            src: src.1,
            dst: self.peer,
            hop_limit: 255,
            traffic_class: TRAFFIC_CLASS,
        };
        let body = packet.emit();
        let mut message = Vec::with_capacity(8 + body.len());
        for half in [self.source_port, BFD_PORT, 8 + body.len() as u16, 0] {
            message.extend_from_slice(&half.to_be_bytes());
        }
        message.extend_from_slice(&body);
        Some(envelope.frame(UDP, 6, message))
    }
}

/// Timers of a configuration.
pub(super) fn timers(config: &FastConfig) -> Timers {
    let interval = config.interval.clamp(Duration::from_millis(1), Duration::from_mins(1));
    let us = interval.as_micros() as u32;
    Timers { desired_tx_us: us, required_rx_us: us, multiplier: config.multiplier.max(1) }
}

/// Sessions of these members (those with a test address) with all peers.
pub(super) fn sessions(
    config: &FastConfig,
    members: impl Iterator<Item = (usize, IpAddr)>,
    rng: &mut Rng,
) -> Vec<FastSession> {
    let mut out: Vec<FastSession> = Vec::new();
    let first_port = rng.below(8192) as u16;
    for (member, address) in members {
        for peer in config.peers.iter().filter(|p| p.is_ipv4() == address.is_ipv4()) {
            let known = out.iter().any(|s| s.member == member && s.peer == *peer);
            if known || *peer == address || out.len() == SESSIONS_MAX {
                continue;
            }
            let mut discriminator = rng.next_u32();
            while discriminator == 0
                || out.iter().any(|s| s.session.discriminator() == discriminator)
            {
                discriminator = rng.next_u32();
            }
            out.push(FastSession {
                member,
                peer: *peer,
                mac: None,
                session: Session::new(timers(config), discriminator, Rng::from_u64(rng.next_u64())),
                running: false,
                // Unique among sessions: there are fewer than the rest of the range.
                source_port: SOURCE_PORT_MIN + first_port + out.len() as u16,
            });
        }
    }
    out
}

/// The BFD packet of a UDP datagram to our port; `None`: another port.
pub(super) fn parse_udp(datagram: &[u8], hop_limit: u8) -> Option<Result<Packet, Refused>> {
    let (head, body) = datagram.split_first_chunk::<8>()?;
    if u16::from_be_bytes([head[2], head[3]]) != BFD_PORT {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if hop_limit != 255 {
        return Some(Err(Refused::HopLimit));
    }
    Some(
        len.checked_sub(8)
            .and_then(|n| body.get(..n))
            .ok_or(Refused::Length)
            .and_then(Packet::parse),
    )
}

/// What became of a session, for the verdict of its member.
pub(super) fn up_since_loss(session: &Session, loss: Instant) -> bool {
    session.last_rx().is_some_and(|at| at > loss)
}

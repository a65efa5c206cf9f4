//! LACPDUs and Marker PDUs (IEEE 802.1AX 6.4.2, 6.5.3), as frames without FCS.
//!
//! As 802.1AX 6.4.12 asks, version, TLV types and reserved fields of what comes in are not
//! examined: a later version may mean more by them, and what version 1 knows stays in its place. A
//! TLV that is longer than ours is read as far as we know it. What cannot be read is named by an
//! [`Ignored`], for the counters.

use serde::{Deserialize, Serialize};

use crate::Mac;

/// Destination of all Slow Protocols frames.
pub const SLOW_PROTOCOLS_MAC: Mac = [0x01, 0x80, 0xc2, 0, 0, 2];
/// Ethertype of the Slow Protocols.
pub const ETHERTYPE_SLOW: u16 = 0x8809;

const HEADER_BYTES: usize = 14;
/// From the subtype to the end of the reserved field.
const PDU_BYTES: usize = 110;
const SUBTYPE_LACP: u8 = 1;
const SUBTYPE_MARKER: u8 = 2;
/// The highest subtype that 802.3 annex 57A gives out; those between are other protocols.
const SUBTYPE_MAX: u8 = 10;
const INFO_BYTES: usize = 20;
const COLLECTOR_BYTES: usize = 16;
const MARKER_BYTES: usize = 16;

/// A system: lower is better.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SystemId {
    /// System priority.
    pub priority: u16,
    /// System identifier.
    pub mac: Mac,
}

/// A port of a system: lower is better.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PortId {
    /// Port priority.
    pub priority: u16,
    /// Port number.
    pub number: u16,
}

/// The state octet of an actor or partner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State(pub u8);

impl State {
    /// Active (1) or passive (0).
    pub const ACTIVITY: State = State(0x01);
    /// Short (1) or long (0) timeout.
    pub const TIMEOUT: State = State(0x02);
    /// May be aggregated (1) or is individual (0).
    pub const AGGREGATION: State = State(0x04);
    /// Attached to the right aggregator.
    pub const SYNC: State = State(0x08);
    /// Takes frames.
    pub const COLLECTING: State = State(0x10);
    /// Sends frames.
    pub const DISTRIBUTING: State = State(0x20);
    /// Acts on configured facts of its partner: none was heard.
    pub const DEFAULTED: State = State(0x40);
    /// Has not heard its partner lately.
    pub const EXPIRED: State = State(0x80);

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: State) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other`.
    pub const fn with(self, other: State) -> State {
        State(self.0 | other.0)
    }

    /// Sets or clears the bits of `other`.
    pub const fn set(&mut self, other: State, on: bool) {
        if on { self.0 |= other.0 } else { self.0 &= !other.0 }
    }
}

/// What a PDU says of one end of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The system.
    pub system: SystemId,
    /// Operational key.
    pub key: u16,
    /// The port.
    pub port: PortId,
    /// Its state.
    pub state: State,
}

impl Info {
    /// Same end, and the same answer to whether it may be aggregated: what 802.1AX compares before
    /// it believes a partner.
    pub fn is_same_end(&self, other: &Info) -> bool {
        (self.system, self.key, self.port) == (other.system, other.key, other.port)
            && self.state.has(State::AGGREGATION) == other.state.has(State::AGGREGATION)
    }
}

/// A LACPDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacpdu {
    /// Version of the sender; 1 is what we send.
    pub version: u8,
    /// The sender.
    pub actor: Info,
    /// What the sender knows of us.
    pub partner: Info,
    /// How long the sender may hold what it receives, in tens of microseconds.
    pub max_delay: u16,
}

/// A Marker PDU or its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// An answer.
    pub response: bool,
    /// Port number of who asked.
    pub port: u16,
    /// System of who asked.
    pub system: Mac,
    /// Its name for the question.
    pub transaction: u32,
}

/// What is in a frame for a bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pdu {
    /// LACP.
    Lacp(Lacpdu),
    /// Marker protocol.
    Marker(Marker),
}

/// Why a frame was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// Not to the Slow Protocols address, or of another ethertype.
    NotSlow,
    /// Cut off.
    Short,
    /// Another slow protocol (OAM, OSSP).
    OtherProtocol,
    /// A subtype that nobody may use.
    IllegalSubtype,
    /// A TLV that is shorter than version 1 has it.
    BadLength,
    /// A Marker PDU that neither asks nor answers.
    UnknownMarker,
}

/// Reads a frame, from its destination address on.
pub fn parse(frame: &[u8]) -> Result<Pdu, Ignored> {
    if frame.len() < HEADER_BYTES {
        return Err(Ignored::Short);
    }
    let (header, pdu) = frame.split_at(HEADER_BYTES);
    if header[..6] != SLOW_PROTOCOLS_MAC || header[12..14] != ETHERTYPE_SLOW.to_be_bytes() {
        return Err(Ignored::NotSlow);
    }
    match pdu.first() {
        Some(&(SUBTYPE_LACP | SUBTYPE_MARKER)) if pdu.len() < PDU_BYTES => Err(Ignored::Short),
        Some(&SUBTYPE_LACP) => parse_lacpdu(pdu).map(Pdu::Lacp),
        Some(&SUBTYPE_MARKER) => parse_marker(pdu).map(Pdu::Marker),
        Some(0) => Err(Ignored::IllegalSubtype),
        Some(&subtype) if subtype > SUBTYPE_MAX => Err(Ignored::IllegalSubtype),
        Some(_) => Err(Ignored::OtherProtocol),
        None => Err(Ignored::Short),
    }
}

/// The value of the TLV that begins `rest`, at least `want` bytes of it, and what follows.
fn tlv(rest: &[u8], want: usize) -> Result<(&[u8], &[u8]), Ignored> {
    let len = usize::from(*rest.get(1).ok_or(Ignored::BadLength)?);
    if len < want || len > rest.len() {
        return Err(Ignored::BadLength);
    }
    Ok((&rest[2..want], &rest[len..]))
}

fn parse_lacpdu(pdu: &[u8]) -> Result<Lacpdu, Ignored> {
    let (actor, rest) = tlv(&pdu[2..], INFO_BYTES)?;
    let (partner, rest) = tlv(rest, INFO_BYTES)?;
    let (collector, _) = tlv(rest, COLLECTOR_BYTES)?;
    Ok(Lacpdu {
        version: pdu[1],
        actor: parse_info(actor),
        partner: parse_info(partner),
        max_delay: be16(collector, 0),
    })
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn mac_at(bytes: &[u8], at: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[at..at + 6]);
    mac
}

/// `value` has the 18 bytes after type and length.
fn parse_info(value: &[u8]) -> Info {
    Info {
        system: SystemId { priority: be16(value, 0), mac: mac_at(value, 2) },
        key: be16(value, 8),
        port: PortId { priority: be16(value, 10), number: be16(value, 12) },
        state: State(value[14]),
    }
}

fn parse_marker(pdu: &[u8]) -> Result<Marker, Ignored> {
    let response = match pdu[2] {
        1 => false,
        2 => true,
        _ => return Err(Ignored::UnknownMarker),
    };
    let (value, _) = tlv(&pdu[2..], MARKER_BYTES)?;
    Ok(Marker {
        response,
        port: be16(value, 0),
        system: mac_at(value, 2),
        transaction: u32::from(be16(value, 8)) << 16 | u32::from(be16(value, 10)),
    })
}

fn begin(source: Mac, subtype: u8, version: u8) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + PDU_BYTES);
    frame.extend_from_slice(&SLOW_PROTOCOLS_MAC);
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&ETHERTYPE_SLOW.to_be_bytes());
    frame.extend_from_slice(&[subtype, version]);
    frame
}

impl Lacpdu {
    /// The frame, sent by a port with MAC address `source`.
    pub fn emit(&self, source: Mac) -> Vec<u8> {
        let mut frame = begin(source, SUBTYPE_LACP, self.version);
        for (kind, info) in [(1, &self.actor), (2, &self.partner)] {
            frame.extend_from_slice(&[kind, INFO_BYTES as u8]);
            frame.extend_from_slice(&info.system.priority.to_be_bytes());
            frame.extend_from_slice(&info.system.mac);
            frame.extend_from_slice(&info.key.to_be_bytes());
            frame.extend_from_slice(&info.port.priority.to_be_bytes());
            frame.extend_from_slice(&info.port.number.to_be_bytes());
            frame.extend_from_slice(&[info.state.0, 0, 0, 0]);
        }
        frame.extend_from_slice(&[3, COLLECTOR_BYTES as u8]);
        frame.extend_from_slice(&self.max_delay.to_be_bytes());
        // Reserved, terminator (0, 0), reserved.
        frame.resize(HEADER_BYTES + PDU_BYTES, 0);
        frame
    }
}

impl Marker {
    /// The frame, sent by a port with MAC address `source`.
    pub fn emit(&self, source: Mac) -> Vec<u8> {
        let mut frame = begin(source, SUBTYPE_MARKER, 1);
        frame.extend_from_slice(&[1 + u8::from(self.response), MARKER_BYTES as u8]);
        frame.extend_from_slice(&self.port.to_be_bytes());
        frame.extend_from_slice(&self.system);
        frame.extend_from_slice(&self.transaction.to_be_bytes());
        // Pad, terminator (0, 0), reserved.
        frame.resize(HEADER_BYTES + PDU_BYTES, 0);
        frame
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;

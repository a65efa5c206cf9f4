//! Control messages (RFC 5533 5.4-5.14).

use super::header::{self, MESSAGE_BYTES_MAX, NO_NEXT_HEADER, Tag};
use super::option::{self, Allowed, Options, Places};
use super::probe;

/// Message types.
pub mod kind {
    /// First message of the initiator.
    pub const I1: u8 = 1;
    /// First answer of the responder.
    pub const R1: u8 = 2;
    /// Second message of the initiator.
    pub const I2: u8 = 3;
    /// Second answer of the responder.
    pub const R2: u8 = 4;
    /// Answer to a tag that names no context.
    pub const R1BIS: u8 = 5;
    /// Answer to it.
    pub const I2BIS: u8 = 6;
    /// Update request.
    pub const UPDATE: u8 = 64;
    /// Its acknowledgement.
    pub const UPDATE_ACK: u8 = 65;
    /// Keepalive (RFC 5534).
    pub const KEEPALIVE: u8 = 66;
    /// Probe (RFC 5534).
    pub const PROBE: u8 = 67;
    /// Error.
    pub const ERROR: u8 = 68;
}

/// Error codes (RFC 5533 table 2).
pub mod code {
    /// Message type not known.
    pub const UNKNOWN_TYPE: u8 = 0;
    /// A critical option is not known.
    pub const CRITICAL_OPTION: u8 = 1;
    /// A locator is not proved.
    pub const VERIFICATION: u8 = 2;
    /// Preferences of another list.
    pub const GENERATION: u8 = 3;
    /// Preferences of another number of locators.
    pub const PREFERENCES: u8 = 4;
}

/// The fixed part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in RFC 5533 section 5")]
pub enum Body {
    I1 {
        initiator_tag: Tag,
        initiator_nonce: u32,
    },
    R1 {
        initiator_nonce: u32,
        responder_nonce: u32,
    },
    I2 {
        initiator_tag: Tag,
        initiator_nonce: u32,
        responder_nonce: u32,
    },
    R2 {
        responder_tag: Tag,
        initiator_nonce: u32,
    },
    R1bis {
        packet_tag: Tag,
        responder_nonce: u32,
    },
    I2bis {
        initiator_tag: Tag,
        initiator_nonce: u32,
        responder_nonce: u32,
        packet_tag: Tag,
    },
    Update {
        receiver_tag: Tag,
        nonce: u32,
    },
    UpdateAck {
        receiver_tag: Tag,
        nonce: u32,
    },
    Keepalive {
        receiver_tag: Tag,
    },
    /// `report`: everything after the tag (RFC 5534 5.2), options too, none of which is known.
    Probe {
        receiver_tag: Tag,
        report: Vec<u8>,
    },
    /// `packet`: the front of the packet in error, from its IP header on; may end in padding.
    Error {
        code: u8,
        pointer: u16,
        packet: Vec<u8>,
    },
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Type and fixed part.
    pub body: Body,
    /// Options.
    pub options: Options,
}

/// Why a message is not processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Lengths or contents are impossible: dropped in silence.
    Malformed,
    /// The checksum is wrong: dropped in silence.
    Checksum,
    /// No such message; the sender is told (RFC 5533 12.3).
    UnknownType {
        /// The type.
        kind: u8,
    },
    /// An option that must be understood is not; the sender is told (RFC 5533 5.15).
    CriticalOption {
        /// Offset of the option in the message.
        at: usize,
    },
}

/// Where the body of a probe begins.
const PROBE_BODY: usize = 12;

/// Tags of messages from which on an unknown tag is answered with R1bis (RFC 5533 5.3).
const TYPES_OF_CONTEXTS: u8 = 64;

impl Message {
    /// A message without options.
    pub fn new(body: Body) -> Message {
        Message { body, options: Options::default() }
    }

    /// Reads a whole message, whose length [`header::Header::read`] gave. The checksum comes first.
    pub fn read(message: &[u8]) -> Result<(Message, Places), ReadError> {
        if !header::checksum_is_valid(message) {
            return Err(ReadError::Checksum);
        }
        let kind = message[2] & 0x7f;
        let Some((fixed, allowed)) = shape(kind) else {
            return Err(ReadError::UnknownType { kind });
        };
        if message.len() < fixed {
            return Err(ReadError::Malformed);
        }
        let body = read_body(kind, message).ok_or(ReadError::Malformed)?;
        let (options, places) = match kind {
            kind::ERROR => Default::default(),
            kind::PROBE => {
                let end = probe::options_at(&message[PROBE_BODY..]).ok_or(ReadError::Malformed)?;
                option::read(message, PROBE_BODY + end, allowed)?
            }
            _ => option::read(message, fixed, allowed)?,
        };
        Ok((Message { body, options }, places))
    }

    /// The tag of a message whose type says that it belongs to a context, known or not: one that
    /// names no context here is answered with R1bis.
    pub fn context_tag(message: &[u8]) -> Option<Tag> {
        let kind = message.get(2)? & 0x7f;
        // An error carries no tag.
        (kind >= TYPES_OF_CONTEXTS && kind != kind::ERROR)
            .then(|| message.get(6..12)?.try_into().ok())
            .flatten()
            .map(Tag::read)
    }

    /// As bytes, with length and checksum. `None` if longer than [`MESSAGE_BYTES_MAX`].
    pub fn write(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(128);
        self.body.write(&mut out);
        self.options.write(&mut out);
        out.resize(out.len().next_multiple_of(8), 0);
        if out.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        header::seal(&mut out);
        Some(out)
    }
}

/// Bytes of the fixed part and the options a type may have.
const fn shape(kind: u8) -> Option<(usize, Allowed)> {
    Some(match kind {
        kind::I1 => (16, Allowed::NAMES),
        kind::R1 | kind::R1BIS => (16, Allowed::VALIDATOR),
        kind::I2 => (24, Allowed::ALL),
        kind::R2 | kind::UPDATE => (16, Allowed::LIST),
        kind::I2BIS => (32, Allowed::ALL),
        kind::UPDATE_ACK | kind::KEEPALIVE | kind::PROBE | kind::ERROR => (16, Allowed::NONE),
        _ => return None,
    })
}

fn read_body(kind: u8, message: &[u8]) -> Option<Body> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
    };
    let tag =
        |at: usize| -> Option<Tag> { Some(Tag::read(message.get(at..at + 6)?.try_into().ok()?)) };
    Some(match kind {
        kind::I1 => Body::I1 { initiator_tag: tag(6)?, initiator_nonce: word(12)? },
        kind::R1 => Body::R1 { initiator_nonce: word(8)?, responder_nonce: word(12)? },
        kind::I2 => Body::I2 {
            initiator_tag: tag(6)?,
            initiator_nonce: word(12)?,
            responder_nonce: word(16)?,
        },
        kind::R2 => Body::R2 { responder_tag: tag(6)?, initiator_nonce: word(12)? },
        kind::R1BIS => Body::R1bis { packet_tag: tag(6)?, responder_nonce: word(12)? },
        kind::I2BIS => Body::I2bis {
            initiator_tag: tag(6)?,
            initiator_nonce: word(12)?,
            responder_nonce: word(16)?,
            packet_tag: tag(26)?,
        },
        kind::UPDATE => Body::Update { receiver_tag: tag(6)?, nonce: word(12)? },
        kind::UPDATE_ACK => Body::UpdateAck { receiver_tag: tag(6)?, nonce: word(12)? },
        kind::KEEPALIVE => Body::Keepalive { receiver_tag: tag(6)? },
        kind::PROBE => {
            Body::Probe { receiver_tag: tag(6)?, report: message[PROBE_BODY..].to_vec() }
        }
        kind::ERROR => Body::Error {
            code: message[3] >> 1,
            pointer: u16::from_be_bytes([message[6], message[7]]),
            packet: message[8..].to_vec(),
        },
        _ => return None,
    })
}

impl Body {
    /// The message type.
    pub const fn kind(&self) -> u8 {
        match self {
            Body::I1 { .. } => kind::I1,
            Body::R1 { .. } => kind::R1,
            Body::I2 { .. } => kind::I2,
            Body::R2 { .. } => kind::R2,
            Body::R1bis { .. } => kind::R1BIS,
            Body::I2bis { .. } => kind::I2BIS,
            Body::Update { .. } => kind::UPDATE,
            Body::UpdateAck { .. } => kind::UPDATE_ACK,
            Body::Keepalive { .. } => kind::KEEPALIVE,
            Body::Probe { .. } => kind::PROBE,
            Body::Error { .. } => kind::ERROR,
        }
    }

    /// What ties a keyed proof to this message: type and fixed part, so that a proof cannot be
    /// used in another one.
    pub fn binding(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[NO_NEXT_HEADER, 0, self.kind(), 0, 0, 0]);
        let mut tag = |tag: &Tag, words: &[u32]| {
            out.extend_from_slice(&tag.octets());
            out.extend(words.iter().flat_map(|w| w.to_be_bytes()));
        };
        match self {
            Body::I1 { initiator_tag, initiator_nonce } => tag(initiator_tag, &[*initiator_nonce]),
            Body::R1 { initiator_nonce, responder_nonce } => {
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&initiator_nonce.to_be_bytes());
                out.extend_from_slice(&responder_nonce.to_be_bytes());
            }
            Body::I2 { initiator_tag, initiator_nonce, responder_nonce } => {
                tag(initiator_tag, &[*initiator_nonce, *responder_nonce, 0]);
            }
            Body::R2 { responder_tag, initiator_nonce } => tag(responder_tag, &[*initiator_nonce]),
            Body::R1bis { packet_tag, responder_nonce } => tag(packet_tag, &[*responder_nonce]),
            Body::I2bis { initiator_tag, initiator_nonce, responder_nonce, packet_tag } => {
                tag(initiator_tag, &[*initiator_nonce, *responder_nonce, 0]);
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&packet_tag.octets());
            }
            Body::Update { receiver_tag, nonce } | Body::UpdateAck { receiver_tag, nonce } => {
                tag(receiver_tag, &[*nonce]);
            }
            Body::Keepalive { receiver_tag } => tag(receiver_tag, &[0]),
            Body::Probe { receiver_tag, report } => {
                tag(receiver_tag, &[]);
                out.extend_from_slice(report);
            }
            Body::Error { code, pointer, packet } => {
                let start = out.len() - 6;
                out[start + 3] = code << 1;
                out.extend_from_slice(&pointer.to_be_bytes());
                // At least 16 bytes, as much of the packet as fits.
                let room = MESSAGE_BYTES_MAX - 8;
                out.extend_from_slice(&packet[..packet.len().min(room)]);
                out.resize(out.len().max(start + 16), 0);
            }
        }
    }
}

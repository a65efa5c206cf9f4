//! The BFD control packet (RFC 5880 4.1).

use serde::{Deserialize, Serialize};

/// Bytes of a packet without authentication.
pub const PACKET_BYTES: usize = 24;

/// State of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Held down by its operator.
    AdminDown,
    /// The other end is not heard.
    #[default]
    Down,
    /// The other end is heard, and does not hear us yet.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    fn from_bits(bits: u8) -> State {
        [State::AdminDown, State::Down, State::Init, State::Up][usize::from(bits & 3)]
    }
}

/// Why a session left its state (RFC 5880 4.1). Other values are kept as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No diagnostic.
    pub const NONE: Diagnostic = Diagnostic(0);
    /// Control detection time expired.
    pub const EXPIRED: Diagnostic = Diagnostic(1);
    /// Neighbor signaled session down.
    pub const NEIGHBOR_DOWN: Diagnostic = Diagnostic(3);
    /// Path down.
    pub const PATH_DOWN: Diagnostic = Diagnostic(5);
    /// Administratively down.
    pub const ADMIN_DOWN: Diagnostic = Diagnostic(7);
}

/// A control packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender left its last state.
    pub diagnostic: Diagnostic,
    /// State of the sender.
    pub state: State,
    /// Poll: asks for a packet with `last`.
    pub poll: bool,
    /// Final: answers a poll.
    pub last: bool,
    /// Control plane independent.
    pub independent: bool,
    /// The sender works in demand mode.
    pub demand: bool,
    /// So many missing packets are a failure.
    pub multiplier: u8,
    /// The sender's session.
    pub my_discriminator: u32,
    /// The receiver's session, 0 if not known.
    pub your_discriminator: u32,
    /// The sender wants to send so often, in microseconds.
    pub desired_tx_us: u32,
    /// The sender takes packets so often; 0: none at all.
    pub required_rx_us: u32,
    /// The sender takes echo packets so often; 0: none.
    pub required_echo_us: u32,
}

/// Why a packet was not taken (RFC 5880 6.8.6, RFC 5881 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Version is not 1.
    Version,
    /// Shorter than a packet is, or than it says.
    Length,
    /// Detection multiplier of 0.
    Multiplier,
    /// The multipoint bit is set.
    Multipoint,
    /// No discriminator of the sender.
    MyDiscriminator,
    /// No such session, or no discriminator although the sender says it is up.
    YourDiscriminator,
    /// It is authenticated; our sessions are not.
    Authentication,
    /// Hop limit is not 255: not from a neighbour.
    HopLimit,
    /// The sender is no configured peer, or not that of the session.
    Peer,
    /// The session is held down.
    AdminDown,
}

impl Packet {
    /// Reads the payload of a UDP datagram, in the order of RFC 5880 6.8.6.
    pub fn parse(data: &[u8]) -> Result<Packet, Refused> {
        let head: &[u8; PACKET_BYTES] = data.first_chunk().ok_or(Refused::Length)?;
        let (len, authenticated) = (usize::from(head[3]), head[1] & 0x04 != 0);
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[0] >> 5 != 1 {
            return Err(Refused::Version);
        }
        if len < PACKET_BYTES + 2 * usize::from(authenticated) || len > data.len() {
            return Err(Refused::Length);
        }
        if head[2] == 0 {
            return Err(Refused::Multiplier);
        }
        if head[1] & 0x01 != 0 {
            return Err(Refused::Multipoint);
        }
        if word(4) == 0 {
            return Err(Refused::MyDiscriminator);
        }
        let state = State::from_bits(head[1] >> 6);
        if word(8) == 0 && matches!(state, State::Init | State::Up) {
            return Err(Refused::YourDiscriminator);
        }
        if authenticated {
            return Err(Refused::Authentication);
        }
        Ok(Packet {
            diagnostic: Diagnostic(head[0] & 0x1f),
            state,
            poll: head[1] & 0x20 != 0,
            last: head[1] & 0x10 != 0,
            independent: head[1] & 0x08 != 0,
            demand: head[1] & 0x02 != 0,
            multiplier: head[2],
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_tx_us: word(12),
            required_rx_us: word(16),
            required_echo_us: word(20),
        })
    }

    /// Its bytes.
    pub fn emit(&self) -> [u8; PACKET_BYTES] {
        let mut out = [0; PACKET_BYTES];
        out[0] = 1 << 5 | self.diagnostic.0 & 0x1f;
        out[1] = (self.state as u8) << 6
            | u8::from(self.poll) << 5
            | u8::from(self.last) << 4
            | u8::from(self.independent) << 3
            | u8::from(self.demand) << 1;
        out[2] = self.multiplier;
        out[3] = PACKET_BYTES as u8;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_tx_us,
            self.required_rx_us,
            self.required_echo_us,
        ];
        for (slot, word) in out[4..].chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}

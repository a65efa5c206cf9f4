//! Which numbers of a script are which on the wire.
//!
//! Scripts count both directions from their SYN at 0 (or whatever they write there); the stack
//! chooses its own initial sequence number and timestamp clock. The peer's numbers are the script's.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::packet::Segment;
use crate::script::{OptionSpec, flag};

/// One connection (or pair of UDP ports) of a script.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Our initial sequence number: of the script, of the stack.
    pub(crate) isn: Option<(u32, u32)>,
    /// The peer's, which both have.
    pub(crate) peer_isn: Option<u32>,
    /// FINs seen from us and from the peer, and a RST from either.
    fins: (bool, bool),
    reset: bool,
    /// Timestamps the stack sent: script's to live.
    stamps: HashMap<u32, u32>,
    first_stamp: Option<(u32, u32)>,
}

impl Flow {
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr) -> Flow {
        Flow {
            local,
            remote,
            isn: None,
            peer_isn: None,
            fins: (false, false),
            reset: false,
            stamps: HashMap::new(),
            first_stamp: None,
        }
    }

    /// What a segment says about the end of the connection.
    pub(crate) fn note(&mut self, flags: u16, inbound: bool) {
        self.reset |= flags & flag::RST != 0;
        if flags & flag::FIN != 0 {
            if inbound {
                self.fins.1 = true;
            } else {
                self.fins.0 = true;
            }
        }
    }

    /// Whether both sides know that it ended.
    pub(crate) fn over(&self) -> bool {
        self.reset || self.fins == (true, true)
    }

    /// A new connection on the same ports.
    pub(crate) fn restart(&mut self) {
        *self = Flow::new(self.local, self.remote);
    }

    /// A sequence number of ours as the stack has it.
    pub(crate) fn to_live(&self, seq: u32) -> u32 {
        self.isn.map_or(seq, |(script, live)| seq.wrapping_sub(script).wrapping_add(live))
    }

    /// A sequence number of ours as the script has it.
    pub(crate) fn to_script(&self, seq: u32) -> u32 {
        self.isn.map_or(seq, |(script, live)| seq.wrapping_sub(live).wrapping_add(script))
    }

    /// Makes an inbound segment of the script one for the stack.
    pub(crate) fn map_inbound(&self, segment: &mut Segment) {
        let acks = segment.flags & flag::ACK != 0;
        if acks {
            segment.ack = self.to_live(segment.ack);
        }
        for option in &mut segment.options {
            match option {
                OptionSpec::Sack(blocks) => {
                    for (left, right) in blocks {
                        (*left, *right) = (self.to_live(*left), self.to_live(*right));
                    }
                }
                OptionSpec::Timestamp(_, echo) if acks => *echo = self.stamp_to_live(*echo),
                _ => {}
            }
        }
    }

    fn stamp_to_live(&self, echo: u32) -> u32 {
        if let Some(live) = self.stamps.get(&echo) {
            return *live;
        }
        self.first_stamp.map_or(echo, |(script, live)| echo.wrapping_sub(script).wrapping_add(live))
    }

    /// Makes an outbound segment of the stack one of the script; `expected` is the script's, from
    /// which initial numbers are learned. Also gives how far the timestamp is from the expected
    /// one, in ticks.
    pub(crate) fn map_outbound(&mut self, actual: &mut Segment, expected: &Segment) -> Option<i32> {
        if actual.flags & flag::SYN != 0 && self.isn.is_none() {
            self.isn = Some((expected.seq, actual.seq));
        }
        // A RST that answers a segment without ACK has the number 0 and no other.
        let bare_reset = actual.flags & flag::RST != 0 && actual.seq == 0;
        if !bare_reset {
            actual.seq = self.to_script(actual.seq);
        }
        let wanted = expected.options.iter().find_map(stamp)?;
        let value = actual.options.iter_mut().find_map(|o| match o {
            OptionSpec::Timestamp(value, _) => Some(value),
            _ => None,
        })?;
        self.stamps.insert(wanted, *value);
        let (script, live) = *self.first_stamp.get_or_insert((wanted, *value));
        *value = value.wrapping_sub(live).wrapping_add(script);
        Some(value.wrapping_sub(wanted) as i32)
    }
}

fn stamp(option: &OptionSpec) -> Option<u32> {
    match option {
        OptionSpec::Timestamp(value, _) => Some(*value),
        _ => None,
    }
}

//! Copies of received packets for raw sockets, by protocol. Costs one bit test per packet where
//! nobody listens.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::frame::Frame;
use crate::lower::InPacket;
use crate::wire::protocol;

/// Which protocols are listened to, and what was copied and not taken up yet.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    v4: [u64; 4],
    v6: [u64; 4],
    /// Emptied by `Stack` after each packet.
    packets: VecDeque<(InPacket, Bytes)>,
}

impl Taps {
    fn set_of(&mut self, is_v4: bool) -> &mut [u64; 4] {
        if is_v4 { &mut self.v4 } else { &mut self.v6 }
    }

    /// Whether somebody listens to a protocol.
    #[inline]
    pub(crate) fn listens(&self, is_v4: bool, protocol: u8) -> bool {
        let set = if is_v4 { &self.v4 } else { &self.v6 };
        set[usize::from(protocol / 64)] & 1 << (protocol % 64) != 0
    }

    /// Listens to a protocol, or no longer.
    pub(crate) fn set(&mut self, is_v4: bool, protocol: u8, on: bool) {
        let word = &mut self.set_of(is_v4)[usize::from(protocol / 64)];
        let bit = 1 << (protocol % 64);
        *word = if on { *word | bit } else { *word & !bit };
    }

    /// Copies a whole packet, if somebody listens; `frame` starts behind its IP headers.
    pub(super) fn copy(&mut self, packet: &InPacket, frame: &Frame) {
        let is_v4 = packet.dst.is_ipv4();
        if !self.listens(is_v4, packet.protocol) {
            return;
        }
        // IPv4 with its header, IPv6 without: that is how raw sockets have it.
        let linear = if is_v4 { frame.network_header() } else { frame.data() };
        let extra: usize = frame.frags.bytes();
        let mut copy = BytesMut::with_capacity(linear.len() + extra);
        copy.extend_from_slice(linear);
        for frag in &frame.frags {
            copy.extend_from_slice(frag);
        }
        self.packets.push_back((*packet, copy.freeze()));
    }

    /// Copies of what access rules are about, with the port that they look at.
    pub(crate) fn judged(&self) -> impl Iterator<Item = (InPacket, u16)> + '_ {
        self.packets.iter().filter_map(|(packet, bytes)| {
            let header_len =
                if packet.dst.is_ipv4() { usize::from(bytes.first()? & 15) * 4 } else { 0 };
            let word = |at: usize| {
                let field = bytes.get(header_len + at..header_len + at + 2)?;
                Some(u16::from_be_bytes([field[0], field[1]]))
            };
            match packet.protocol {
                protocol::TCP | protocol::UDP => Some((*packet, word(2)?)),
                protocol::ICMP => (word(0)? >> 8 == 8).then_some((*packet, 0)),
                protocol::ICMPV6 => (word(0)? >> 8 == 128).then_some((*packet, 0)),
                _ => Some((*packet, 0)),
            }
        })
    }

    /// Nobody is to have the copies.
    pub(crate) fn forget(&mut self) {
        self.packets.clear();
    }

    /// The oldest copy.
    pub(crate) fn pop(&mut self) -> Option<(InPacket, Bytes)> {
        self.packets.pop_front()
    }
}

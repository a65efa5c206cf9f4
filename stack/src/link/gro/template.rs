//! The headers that the next segment of a TCP unit has, to be compared a few words at a time.
//!
//! Made once a unit has its third segment: it costs as much as comparing two. What fits
//! is what the questions of the parent module would let in; whatever does not is asked them.

use crate::frame::{Checksum, Frame, Gso};
use crate::wire::{checksum, protocol};

use super::{
    BurstFacts, DF, FIN, IPV4_LEN, IPV6_LEN, PSH, Segment, Slot, TCP_LEN, TIMESTAMP,
    UNIT_BYTES_MAX, be16, be32, is_small,
    rewritten::{Outer, Sums},
};

const WORD: usize = 16;
/// Ethernet, IPv6, UDP, a payload header, and TCP with timestamps.
const BYTES_MAX: usize = 112;

/// What a header has, and which of its bits.
#[derive(Clone, Copy)]
struct Word {
    value: u128,
    mask: u128,
}

/// The headers of a unit's next segment.
pub(super) struct Template {
    /// Of the unit; it is checked that this one still stands there.
    pub(super) slot: usize,
    words: [Word; BYTES_MAX / WORD],
    /// How many of them come one after the other; the last one ends with the headers.
    whole: usize,
    network: usize,
    transport: usize,
    /// Bytes of all headers.
    payload: usize,
    /// Payload of each segment but the last.
    size: usize,
    /// Of the IPv4 header without length, identification and checksum.
    network_sum: u16,
    /// Of the pseudo header without the length.
    pseudo: u16,
    is_v4: bool,
    outer: Outer,
    /// Of what was rewritten.
    sums: Sums,
    timestamps: bool,
    /// Identification of the unit's first packet, if it matters.
    id: Option<u16>,
    ts_val: u32,
}

fn word(data: &[u8], at: usize) -> Option<u128> {
    data.get(at..)?.first_chunk().map(|bytes| u128::from_ne_bytes(*bytes))
}

impl Template {
    /// Of a unit of TCP, from its first packet.
    pub(super) fn of(unit: &Frame, index: usize, slot: &Slot, s: &Segment) -> Option<Template> {
        let (data, transport, payload) = (unit.data(), s.transport, s.payload);
        let network = s.network();
        // A datagram may end before where flags stand.
        let plain = s.is_tcp && data[transport + 13] & (PSH | FIN) == 0;
        if !plain || !(WORD..=BYTES_MAX).contains(&payload) {
            return None;
        }
        let timestamps = payload == transport + TCP_LEN + 12
            && data[transport + TCP_LEN..].starts_with(&TIMESTAMP);
        let mut mask = [u8::MAX; BYTES_MAX];
        // Total length, identification, checksum; or payload length.
        let varies: &[(usize, usize)] = if s.is_v4 { &[(2, 4), (10, 2)] } else { &[(4, 2)] };
        for (at, len) in varies {
            mask[network + at..][..*len].fill(0);
        }
        mask[transport + 4..][..4].fill(0);
        mask[transport + 16..][..2].fill(0);
        if s.outer == Outer::Datagram {
            // Its checksum.
            mask[transport - s.outer.len() + 6..][..2].fill(0);
        }
        if timestamps {
            mask[transport + TCP_LEN + 4..][..4].fill(0);
        }
        let whole = payload / WORD;
        let mut words = [Word { value: 0, mask: 0 }; BYTES_MAX / WORD];
        for (i, place) in words.iter_mut().enumerate().take(payload.div_ceil(WORD)) {
            let at = if i < whole { i * WORD } else { payload - WORD };
            let bits = word(&mask, at)?;
            *place = Word { value: word(data, at)? & bits, mask: bits };
        }
        let end = transport - s.outer.len();
        let pseudo = checksum::sum(&data[end - if s.is_v4 { 8 } else { 32 }..end]);
        let mut template = Template {
            slot: index,
            words,
            whole,
            network,
            transport,
            payload,
            size: slot.size,
            network_sum: 0,
            pseudo: checksum::combine(pseudo, u16::from(protocol::TCP)),
            is_v4: s.is_v4,
            outer: s.outer,
            sums: Sums::of(data, s),
            timestamps,
            id: None,
            ts_val: if timestamps { be32(data, transport + TCP_LEN + 4) } else { 0 },
        };
        if s.is_v4 {
            let ip = &data[network..end];
            let fixed = checksum::combine(checksum::sum(&ip[..2]), checksum::sum(&ip[6..10]));
            template.network_sum = checksum::combine(fixed, checksum::sum(&ip[12..]));
            template.id = (ip[6] != DF).then_some(be16(ip, 4) as u16);
        }
        Some(template)
    }

    /// The packet, as what it is to the unit, if it is the next of its segments and its checksums
    /// are right.
    #[inline]
    pub(super) fn fits(
        &self,
        slot: &Slot,
        frame: &mut Frame,
        facts: BurstFacts,
    ) -> Option<Segment> {
        let data = frame.data();
        let header = data.get(..self.payload)?;
        let mut differs = 0;
        let (words, tail) = header.as_chunks::<WORD>();
        for (bytes, w) in words.iter().zip(&self.words) {
            differs |= (u128::from_ne_bytes(*bytes) & w.mask) ^ w.value;
        }
        if !tail.is_empty() {
            let w = self.words.get(self.whole)?;
            differs |= (u128::from_ne_bytes(*header.last_chunk()?) & w.mask) ^ w.value;
        }
        let alike = differs == 0
            && be32(header, self.transport + 4) == slot.next_seq
            && data.len() - self.payload == self.size
            && slot.total + self.size <= UNIT_BYTES_MAX
            && frame.frags.is_empty()
            && !is_small(frame, self.size)
            && frame.meta.gso == Gso::None
            && self.network_fits(slot, header, data.len())
            && (!self.timestamps || {
                let value = be32(header, self.transport + TCP_LEN + 4);
                value.wrapping_sub(self.ts_val) as i32 >= 0
            });
        if !alike || !self.has_right_checksum(slot, frame, facts) {
            return None;
        }
        Some(Segment {
            is_v4: self.is_v4,
            is_tcp: true,
            outer: self.outer,
            transport: self.transport,
            payload: self.payload,
            len: self.size,
            last: false,
            sum: slot.sum,
        })
    }

    #[inline]
    fn network_fits(&self, slot: &Slot, header: &[u8], frame_len: usize) -> bool {
        let Some(ip) = header.get(self.network..) else { return false };
        if !self.is_v4 {
            return ip.len() > IPV6_LEN && IPV6_LEN + be16(ip, 4) == frame_len - self.network;
        }
        if ip.len() < IPV4_LEN || be16(ip, 2) != frame_len - self.network {
            return false;
        }
        let (len, id, sum) = (be16(ip, 2) as u16, be16(ip, 4) as u16, be16(ip, 10) as u16);
        let sum =
            checksum::combine(checksum::combine(self.network_sum, len), checksum::combine(id, sum));
        checksum::is_valid(sum)
            && self.id.is_none_or(|first| id == first.wrapping_add(slot.packets))
    }

    #[inline]
    fn has_right_checksum(&self, slot: &Slot, frame: &mut Frame, facts: BurstFacts) -> bool {
        let settled = facts.trust || frame.meta.checksum != Checksum::Complete;
        if self.outer != Outer::None {
            return self.sums.fit(frame.data(), self.transport, slot.sum, settled);
        }
        if settled {
            return true;
        }
        let segment = &frame.data()[self.transport..];
        let pseudo = checksum::combine(self.pseudo, segment.len() as u16);
        let valid = checksum::is_valid(checksum::combine(pseudo, checksum::sum(segment)));
        if valid {
            frame.meta.checksum = Checksum::Verified;
        }
        valid
    }
}

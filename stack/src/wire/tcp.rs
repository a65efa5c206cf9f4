//! TCP headers and options (RFC 9293 section 3.1, RFC 7323, RFC 2018), read and written.
//!
//! Reading is lenient where the RFC asks for it: an option with an impossible length ends the
//! list, it does not fail the segment (RFC 9293 MUST-7).

use crate::seq::SeqNum;
use crate::wire::checksum;

/// Bytes of a header without options.
pub const HEADER_BYTES: usize = 20;

/// Bytes of the largest option list.
pub const OPTIONS_BYTES_MAX: usize = 40;

/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: usize = 16;

/// Bytes of the timestamp option with its padding, as every segment of a connection carries it.
pub const TIMESTAMP_BYTES: usize = 12;

/// How an option list begins that holds nothing but timestamps (RFC 7323 appendix A).
const TIMESTAMP_ONLY: [u8; 4] = [1, 1, 8, 10];

/// Control bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);
    /// Accurate ECN (RFC 9768), the former nonce sum.
    pub const AE: Flags = Flags(0x100);
    /// The three flags of congestion marks; on an AccECN connection they are the ACE field.
    pub const ACE: Flags = Flags(0x1c0);

    /// Both sets.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// All but `other`.
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Flags that show `count` modulo 8 in the ACE field (RFC 9768 section 3.2.2).
    pub const fn with_ace(self, count: u32) -> Flags {
        Flags(self.0 & !Flags::ACE.0 | ((count & 7) as u16) << 6)
    }

    /// The ACE field (RFC 9768 section 3.2.2): AE is its highest bit, ECE its lowest.
    pub const fn ace(self) -> u8 {
        ((self.0 >> 6) & 7) as u8
    }
}

/// The AccECN option (RFC 9768 section 3.2.3): bytes received under each codepoint, modulo 2^24.
/// What was left out at its end is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccEcnOption {
    /// ECT(1) first (kind 174), not ECT(0) (kind 172). CE is in the middle in either order.
    pub ect1_first: bool,
    /// How many of the counters are there, 0 to 3.
    len: u8,
    /// In the order of the header.
    counters: [u32; 3],
}

impl AccEcnOption {
    /// Values of a counter are modulo this.
    pub const MODULUS: u32 = 1 << 24;

    /// The first `len` counters, at most three, of this order; higher bits are cut.
    pub fn new(ect1_first: bool, counters: [u32; 3], len: usize) -> AccEcnOption {
        let len = len.min(3);
        let mut option = AccEcnOption { ect1_first, len: len as u8, counters: [0; 3] };
        for (to, from) in option.counters.iter_mut().zip(&counters[..len]) {
            *to = from % Self::MODULUS;
        }
        option
    }

    fn parse(ect1_first: bool, body: &[u8]) -> AccEcnOption {
        // RFC 9768 3.2.3: of other lengths the whole fields count.
        let mut option = AccEcnOption { ect1_first, ..AccEcnOption::default() };
        for (to, from) in option.counters.iter_mut().zip(body.chunks_exact(3)) {
            *to = u32::from_be_bytes([0, from[0], from[1], from[2]]);
            option.len += 1;
        }
        option
    }

    /// The counters that are there, in the order of the header.
    pub fn as_slice(&self) -> &[u32] {
        &self.counters[..usize::from(self.len)]
    }

    /// Bytes under ECT(0).
    pub fn ect0(&self) -> Option<u32> {
        self.as_slice().get(if self.ect1_first { 2 } else { 0 }).copied()
    }

    /// Bytes under CE.
    pub fn ce(&self) -> Option<u32> {
        self.as_slice().get(1).copied()
    }

    /// Bytes under ECT(1).
    pub fn ect1(&self) -> Option<u32> {
        self.as_slice().get(if self.ect1_first { 0 } else { 2 }).copied()
    }

    /// With as many counters as `room` bytes of a header take; `None`: not even the first.
    pub fn fit(self, room: usize) -> Option<AccEcnOption> {
        let shorter = |len| AccEcnOption::new(self.ect1_first, self.counters, len);
        (1..=usize::from(self.len)).rev().map(shorter).find(|o| o.option_bytes() <= room)
    }

    /// Bytes in a header, padding included.
    pub(crate) const fn option_bytes(&self) -> usize {
        (2 + 3 * self.len as usize).next_multiple_of(4)
    }
}

/// A SACK block: received bytes `[0, 1)`.
pub type SackBlock = (SeqNum, SeqNum);

/// At most four SACK blocks (three beside a timestamp).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [SackBlock; 4],
    len: u8,
}

impl SackBlocks {
    /// No blocks.
    pub const EMPTY: SackBlocks = SackBlocks { blocks: [(SeqNum(0), SeqNum(0)); 4], len: 0 };

    /// Appends a block; a fifth is ignored.
    pub fn push(&mut self, block: SackBlock) {
        if let Some(slot) = self.blocks.get_mut(usize::from(self.len)) {
            *slot = block;
            self.len += 1;
        }
    }

    /// Drops all but the first `len` blocks.
    pub fn truncate(&mut self, len: usize) {
        for at in len..usize::from(self.len) {
            self.blocks[at] = <_>::default();
        }
        self.len = self.len.min(len as u8);
    }

    /// The blocks, first (most recent) to last.
    pub fn as_slice(&self) -> &[SackBlock] {
        &self.blocks[..usize::from(self.len)]
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Longest cookie of Fast Open (RFC 7413 section 4.1.1).
pub const FAST_OPEN_COOKIE_BYTES_MAX: usize = 16;

/// The Fast Open option (RFC 7413 section 4.1.1): a cookie, or the request for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastOpenCookie {
    bytes: [u8; FAST_OPEN_COOKIE_BYTES_MAX],
    len: u8,
}

impl FastOpenCookie {
    /// Asks for a cookie.
    pub const REQUEST: FastOpenCookie =
        FastOpenCookie { bytes: [0; FAST_OPEN_COOKIE_BYTES_MAX], len: 0 };

    /// A cookie of 4 to 16 bytes, an even number, or none at all; `None`: another length.
    pub fn new(bytes: &[u8]) -> Option<FastOpenCookie> {
        if !matches!(bytes.len(), 0 | 4..=FAST_OPEN_COOKIE_BYTES_MAX) || bytes.len() % 2 == 1 {
            return None;
        }
        let mut cookie = FastOpenCookie { len: bytes.len() as u8, ..FastOpenCookie::REQUEST };
        cookie.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(cookie)
    }

    /// The cookie; empty: a request.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether it asks for a cookie.
    pub const fn is_request(&self) -> bool {
        self.len == 0
    }

    /// Bytes in a header, padding included.
    pub(crate) const fn option_bytes(&self) -> usize {
        (2 + self.len as usize).next_multiple_of(4)
    }
}

/// The options this stack understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size; SYN only.
    pub mss: Option<u16>,
    /// Window scale shift; SYN only. As received, may exceed 14.
    pub window_scale: Option<u8>,
    /// SACK may be sent; SYN only.
    pub sack_permitted: bool,
    /// Timestamp value and echo reply.
    pub timestamp: Option<(u32, u32)>,
    /// Selective acknowledgements.
    pub sack: SackBlocks,
    /// Fast Open cookie or the request for one; SYN only.
    pub fast_open: Option<FastOpenCookie>,
    /// Counters of Accurate ECN; not on a SYN.
    pub accurate_ecn: Option<AccEcnOption>,
}

impl Options {
    /// Reads an option list.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Options {
        // How everybody sends timestamps (RFC 7323 appendix A), and most segments carry no more.
        if let Ok(only) = <&[u8; TIMESTAMP_BYTES]>::try_from(bytes)
            && only[..4] == TIMESTAMP_ONLY
        {
            let timestamp = Some((word(&only[4..]), word(&only[8..])));
            return Options { timestamp, ..Options::default() };
        }
        if bytes.is_empty() {
            return Options::default();
        }
        Options::parse_list(bytes)
    }

    fn parse_list(bytes: &[u8]) -> Options {
        let mut options = Options::default();
        let mut rest = bytes;
        loop {
            rest = match *rest {
                [1, ref tail @ ..] => tail,
                [kind, len, ..] if kind != 0 && len >= 2 && usize::from(len) <= rest.len() => {
                    let (option, tail) = rest.split_at(usize::from(len));
                    options.read(kind, &option[2..]);
                    tail
                }
                _ => return options,
            };
        }
    }

    fn read(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (2, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (3, &[shift]) => self.window_scale = Some(shift),
            (4, []) => self.sack_permitted = true,
            (8, body) if body.len() == 8 => self.timestamp = Some((word(body), word(&body[4..]))),
            (172 | 174, body) => {
                self.accurate_ecn = Some(AccEcnOption::parse(kind == 174, body));
            }
            (34, body) => self.fast_open = FastOpenCookie::new(body),
            (5, body) if body.len() % 8 == 0 => {
                for block in body.chunks_exact(8) {
                    self.sack.push((SeqNum(word(block)), SeqNum(word(&block[4..]))));
                }
            }
            _ => {}
        }
    }

    /// Bytes the list takes in a header, padding included.
    pub fn len(&self) -> usize {
        let mut len = 0;
        if self.mss.is_some() {
            len += 4;
        }
        if self.window_scale.is_some() {
            len += 4;
        }
        if self.timestamp.is_some() {
            // The two bytes of SACK-permitted stand in for the padding.
            len += TIMESTAMP_BYTES;
        } else if self.sack_permitted {
            len += 4;
        }
        if !self.sack.is_empty() {
            len += 4 + 8 * usize::from(self.sack.len);
        }
        if let Some(cookie) = self.fast_open {
            len += cookie.option_bytes();
        }
        if let Some(accurate) = self.accurate_ecn {
            len += accurate.option_bytes();
        }
        len
    }

    /// Bytes that other options may still take.
    pub fn room(&self) -> usize {
        OPTIONS_BYTES_MAX.saturating_sub(self.len())
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the list; `out` is [`Options::len`] bytes.
    fn emit(&self, out: &mut [u8]) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            put(&[2, 4]);
            put(&mss.to_be_bytes());
        }
        if let Some((value, echo)) = self.timestamp {
            put(if self.sack_permitted { &[4, 2] } else { &[1, 1] });
            put(&[8, 10]);
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        } else if self.sack_permitted {
            put(&[1, 1, 4, 2]);
        }
        if let Some(shift) = self.window_scale {
            put(&[1, 3, 3, shift]);
        }
        if let Some(accurate) = self.accurate_ecn {
            let len = 2 + 3 * accurate.len;
            put(&[1, 1, 1][..accurate.option_bytes() - usize::from(len)]);
            put(&[if accurate.ect1_first { 174 } else { 172 }, len]);
            for counter in accurate.as_slice() {
                put(&counter.to_be_bytes()[1..]);
            }
        }
        if !self.sack.is_empty() {
            put(&[1, 1, 5, 2 + 8 * self.sack.len]);
            for (from, to) in self.sack.as_slice() {
                put(&from.0.to_be_bytes());
                put(&to.0.to_be_bytes());
            }
        }
        if let Some(cookie) = self.fast_open {
            let padding = cookie.option_bytes() - 2 - usize::from(cookie.len);
            put(&[34, 2 + cookie.len]);
            put(cookie.as_slice());
            put(&[1, 1][..padding]);
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A TCP header; the checksum is dealt with beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte (or of SYN).
    pub seq: SeqNum,
    /// Next byte expected; significant with [`Flags::ACK`].
    pub ack: SeqNum,
    /// Control bits.
    pub flags: Flags,
    /// Receive window, not scaled.
    pub window: u16,
    /// Urgent pointer; significant with [`Flags::URG`].
    pub urgent: u16,
    /// ECN codepoint (RFC 3168 section 5) of the IP packet around it. No part of these bytes: it
    /// travels with them from and to the IP header. 0: not ECN-capable, 1: ECT(1), 2: ECT(0), 3: CE.
    pub ecn: u8,
    /// Options.
    pub options: Options,
}

impl Header {
    /// Reads the header at the front of `bytes`; also gives its length. `None`: truncated, or an
    /// impossible data offset.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<(Header, usize)> {
        let fixed: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let len = usize::from(fixed[12] >> 4) * 4;
        if len < HEADER_BYTES || len > bytes.len() {
            return None;
        }
        let header = Header {
            src_port: u16::from_be_bytes([fixed[0], fixed[1]]),
            dst_port: u16::from_be_bytes([fixed[2], fixed[3]]),
            seq: SeqNum(word(&fixed[4..])),
            ack: SeqNum(word(&fixed[8..])),
            // The other reserved bits are ignored (RFC 9293 3.1).
            flags: Flags(u16::from_be_bytes([fixed[12] & 1, fixed[13]])),
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            urgent: u16::from_be_bytes([fixed[18], fixed[19]]),
            ecn: 0,
            options: Options::parse(&bytes[HEADER_BYTES..len]),
        };
        Some((header, len))
    }

    /// Bytes of the header with its options.
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.options.len()
    }

    /// Never: a header has bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header with a zero checksum.
    ///
    /// # Panics
    /// If `out` is not [`Header::len`] bytes long.
    pub fn emit(&self, out: &mut [u8]) {
        let len = self.len();
        assert_eq!(out.len(), len, "a TCP header of {len} bytes needs a buffer of that length");
        out[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        let [ae, flags] = self.flags.0.to_be_bytes();
        (out[12], out[13]) = (((len / 4) as u8) << 4 | ae & 1, flags);
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].fill(0);
        out[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        self.options.emit(&mut out[HEADER_BYTES..]);
    }

    /// As [`Header::emit`]; returns the sum of what was written.
    ///
    /// # Panics
    /// If `out` is not [`Header::len`] bytes long.
    #[inline]
    pub(crate) fn emit_and_sum(&self, out: &mut [u8]) -> u16 {
        if let Some((value, echo)) = self.options.timestamp.filter(|_| !self.options.sack_permitted)
            && let Ok(out) = <&mut [u8; HEADER_BYTES + TIMESTAMP_BYTES]>::try_from(&mut *out)
        {
            let join = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
            let flags = (out.len() as u16 / 4) << 12 | self.flags.0 & 0x1ff;
            let words = [
                join(self.src_port, self.dst_port),
                self.seq.0,
                self.ack.0,
                join(flags, self.window),
                join(0, self.urgent),
                u32::from_be_bytes(TIMESTAMP_ONLY),
                value,
                echo,
            ];
            for (to, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *to = word.to_be_bytes();
            }
            return checksum::fold(words.iter().map(|word| u64::from(*word)).sum());
        }
        self.emit(out);
        checksum::sum(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(options: Options) -> Options {
        let header = Header {
            src_port: 1,
            dst_port: 65535,
            seq: SeqNum(7),
            ack: SeqNum(u32::MAX),
            flags: Flags::SYN.with(Flags::CWR).with(Flags::AE),
            window: 512,
            urgent: 77,
            ecn: 0,
            options,
        };
        let mut bytes = vec![0xff; header.len()];
        header.emit(&mut bytes);
        let (parsed, len) = Header::parse(&bytes).unwrap();
        assert_eq!(len, bytes.len());
        assert_eq!(parsed, header);
        parsed.options
    }

    #[test]
    fn a_syn_carries_every_option_in_twenty_bytes() {
        let options = Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamp: Some((1, 2)),
            ..Options::default()
        };
        assert_eq!(options.len(), 20);
        round_trip(options);
        let cookie = FastOpenCookie::new(&[7; 16]).unwrap();
        let options = Options { fast_open: Some(cookie), ..options };
        assert_eq!(options.len(), OPTIONS_BYTES_MAX);
        round_trip(options);
    }

    // RFC 7413 4.1.1
    #[test]
    fn a_fast_open_cookie_has_an_even_length_from_four_to_sixteen() {
        for len in 0..=18 {
            let legal = len == 0 || (4..=16).contains(&len) && len % 2 == 0;
            let cookie = FastOpenCookie::new(&vec![9; len]);
            assert_eq!(cookie.is_some(), legal, "{len}");
            let mut list = vec![34, 2 + len as u8];
            list.extend(vec![9; len]);
            assert_eq!(Options::parse(&list).fast_open, cookie);
            if cookie.is_some() {
                round_trip(Options { fast_open: cookie, ..Options::default() });
            }
        }
    }

    // RFC 9768 3.2.3
    #[test]
    fn the_accecn_option_has_none_to_three_counters_in_either_order() {
        for (kind, ect1_first) in [(172, false), (174, true)] {
            for len in 0..=12 {
                let mut list = vec![kind, 2 + len];
                list.extend((1..=len).map(|i| i * 16));
                let option = Options::parse(&list).accurate_ecn;
                let option = option.unwrap();
                let counters = [0x0010_2030, 0x0040_5060, 0x0070_8090];
                let count = usize::from(len / 3);
                assert_eq!(option, AccEcnOption::new(ect1_first, counters, count));
                assert_eq!(option.ce(), (len >= 6).then_some(counters[1]));
                let (first, last) = ((len >= 3).then_some(counters[0]), option.ect0());
                let last = if ect1_first { last } else { option.ect1() };
                assert_eq!(last, (len >= 9).then_some(counters[2]));
                assert_eq!(first, if ect1_first { option.ect1() } else { option.ect0() });
                round_trip(Options { accurate_ecn: Some(option), ..Options::default() });
            }
        }
    }

    // RFC 9768 3.2.3.3
    #[test]
    fn the_accecn_option_takes_the_room_that_others_leave() {
        let whole = AccEcnOption::new(false, [1 << 25 | 5, 6, 7], 3);
        assert_eq!(whole.ect0(), Some(5), "modulo 2^24");
        let counters = |room| whole.fit(room).map(|o| o.as_slice().len());
        assert_eq!(
            [40, 12, 11, 8, 7, 4].map(counters),
            [Some(3), Some(3), Some(2), Some(2), None, None]
        );
        let cookie = FastOpenCookie::new(&[7; 8]);
        let mut options = Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamp: Some((1, 2)),
            fast_open: cookie,
            ..Options::default()
        };
        options.accurate_ecn = whole.fit(options.room());
        assert_eq!(options.len(), OPTIONS_BYTES_MAX);
        round_trip(options);
    }

    // RFC 9768 3.2.2
    #[test]
    fn the_ace_field_is_three_flags() {
        let flags = Flags::ACK.with(Flags::ECE);
        assert_eq!((flags.ace(), flags.with_ace(14).ace()), (1, 6));
        assert_eq!(flags.with_ace(6), Flags::ACK.with(Flags::AE).with(Flags::CWR));
    }

    #[test]
    fn three_sack_blocks_fit_beside_a_timestamp() {
        let mut options = Options { timestamp: Some((3, 4)), ..Options::default() };
        for i in 0..3 {
            options.sack.push((SeqNum(i * 10), SeqNum(i * 10 + 5)));
        }
        assert_eq!(options.len(), OPTIONS_BYTES_MAX);
        round_trip(options);
    }

    #[test]
    fn an_impossible_option_length_ends_the_list() {
        let options = Options::parse(&[2, 4, 5, 180, 8, 0, 3, 3, 7, 0]);
        assert_eq!(options.mss, Some(1460));
        assert_eq!(options.window_scale, None);
        assert_eq!(Options::parse(&[8, 10, 1]), Options::default());
        assert_eq!(Options::parse(&[253, 4, 0, 0, 3, 3, 7]).window_scale, Some(7));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some((header, len)) = Header::parse(&bytes) {
                prop_assert!(len <= bytes.len() && len >= HEADER_BYTES);
                let mut out = vec![0; header.len()];
                if out.len() <= HEADER_BYTES + OPTIONS_BYTES_MAX {
                    header.emit(&mut out);
                }
            }
        }
    }
}

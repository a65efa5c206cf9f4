//! The counters of Accurate ECN (RFC 9768 section 3.2). [`Echo`] counts the marks of what arrives
//! and says when and how the peer learns of them; [`Feedback`] reads what the peer counted.

use crate::wire::tcp::{AccEcnOption, Options};

/// ECN codepoints of an IP header (RFC 3168 section 5).
pub(crate) const NOT_ECT: u8 = 0;
pub(crate) const ECT0: u8 = 2;
pub(crate) const CE: u8 = 3;

/// RFC 9768 3.2.1: `r.cep` and `s.cep` start here, so that zeroed fields show.
const PACKETS_INITIAL: u8 = 5;

/// Positions of the byte counters.
const E0: usize = 0;
const CEB: usize = 1;
const E1: usize = 2;

/// How the codepoint of a SYN or SYN-ACK is told (RFC 9768 tables 2 and 3).
pub(crate) const fn encode_codepoint(ecn: u8) -> u8 {
    match ecn & 3 {
        NOT_ECT => 0b010,
        1 => 0b011,
        ECT0 => 0b100,
        _ => 0b110,
    }
}

/// The codepoint that [`encode_codepoint`] told; `None`: a value in no use.
pub(crate) const fn decode_codepoint(ace: u8) -> Option<u8> {
    match ace {
        0b010 => Some(NOT_ECT),
        0b011 => Some(1),
        0b100 => Some(ECT0),
        0b110 => Some(CE),
        _ => None,
    }
}

/// What arrived, as the data receiver counts it.
#[derive(Clone, Debug)]
pub(crate) struct Echo {
    /// Payload under ECT(0), CE and ECT(1): `r.e0b`, `r.ceb`, `r.e1b`.
    bytes: [u32; 3],
    /// Packets under CE modulo 256: `r.cep`.
    packets: u8,
    /// Of these, those that no ACK has told yet.
    untold: u8,
    /// A bit for each byte counter that ever moved.
    moved: u8,
    /// The same since the last option.
    fresh: u8,
    /// The last packet was marked.
    last_ce: bool,
    /// Segments that carry the option whatever there is to say: a test of the path.
    owed: u8,
    /// Segments with the option seem not to arrive.
    muted: bool,
}

impl Echo {
    /// RFC 9768 3.2.1.
    pub(crate) const fn new() -> Echo {
        Echo {
            bytes: [1, 0, 1],
            packets: PACKETS_INITIAL,
            untold: 0,
            moved: 0,
            fresh: 0,
            last_ce: false,
            owed: 0,
            muted: false,
        }
    }

    /// A SYN-ACK with this codepoint arrived: counted once (RFC 9768 3.2.2.2). The option goes with
    /// the ACK and the first data (RFC 9768 3.2.3.2.1).
    pub(crate) fn on_syn_ack(&mut self, ecn: u8) {
        self.packets = PACKETS_INITIAL + u8::from(ecn == CE);
        self.owed = 2;
    }

    /// An acceptable unit of `packets` packets with `len` bytes of payload arrived, all with one
    /// codepoint; `pending`: data waits for its ACK. True: an ACK is due at once.
    pub(crate) fn receive(&mut self, ecn: u8, len: usize, packets: u8, pending: bool) -> bool {
        let ce = ecn == CE;
        // RFC 9768 3.2.2.5.1: change-triggered ACKs.
        let changed = ce && !self.last_ce && len > 0;
        self.last_ce = ce;
        if ce {
            self.packets = self.packets.wrapping_add(packets);
            self.untold = self.untold.saturating_add(packets);
        }
        let counter = match ecn {
            NOT_ECT => None,
            ECT0 => Some(E0),
            CE => Some(CEB),
            _ => Some(E1),
        };
        if let Some(counter) = counter.filter(|_| len > 0) {
            self.bytes[counter] = self.bytes[counter].wrapping_add(len as u32);
            self.fresh |= 1 << counter;
            self.moved |= 1 << counter;
        }
        // RFC 9768 3.2.2.5.1: increment-triggered ACKs.
        let most = if pending || len > 0 { 2 } else { 3 };
        changed || self.untold >= most
    }

    /// What the ACE field of every ACK shows.
    pub(crate) fn packets(&self) -> u32 {
        u32::from(self.packets)
    }

    /// RFC 9768 3.2.3.3: with every ACK after a byte counter moved.
    pub(crate) fn wants_option(&self) -> bool {
        !self.muted && (self.fresh != 0 || self.owed > 0)
    }

    /// The option of the next segment, in at most `room` bytes. What moved since the last one is
    /// never left out, what ever moved only for want of room.
    pub(crate) fn option(&self, room: usize) -> Option<AccEcnOption> {
        if !self.wants_option() {
            return None;
        }
        let has = |mask: u8, counter: usize| mask & 1 << counter != 0;
        let ect1_first = has(self.moved, E1) && (!has(self.moved, E0) || !has(self.fresh, E0));
        let order = if ect1_first { [E1, CEB, E0] } else { [E0, CEB, E1] };
        let len_of = |mask: u8| order.iter().rposition(|c| has(mask, *c)).map_or(1, |at| at + 1);
        let wanted = if self.owed > 0 { 3 } else { len_of(self.moved) };
        let counters = order.map(|counter| self.bytes[counter]);
        let option = AccEcnOption::new(ect1_first, counters, wanted).fit(room)?;
        (option.as_slice().len() >= len_of(self.fresh)).then_some(option)
    }

    /// All counters, for a SYN-ACK.
    pub(crate) fn option_of_syn_ack(room: usize) -> Option<AccEcnOption> {
        AccEcnOption::new(false, Echo::new().bytes, 3).fit(room)
    }

    /// An ACK leaves.
    pub(crate) fn told(&mut self, with_option: bool) {
        self.untold = 0;
        if with_option {
            self.fresh = 0;
            self.owed = self.owed.saturating_sub(1);
        }
    }

    /// RFC 9768 3.2.3.2.2: no options from here on.
    pub(crate) fn mute(&mut self) {
        self.muted = true;
    }
}

/// Marks that an ACK reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) packets: u32,
    pub(crate) bytes: usize,
    /// Bytes were marked, and no packet: the counters contradict each other for good.
    pub(crate) contradictory: bool,
}

/// What the peer counted of what we sent, as the data sender knows it.
#[derive(Clone, Debug)]
pub(crate) struct Feedback {
    /// Bytes under CE, told or estimated: `s.ceb`.
    pub(crate) bytes: u64,
    /// The peer's timestamp on the newest ACK that was read.
    newest: u32,
    /// Packets under CE modulo 256: `s.cep`.
    packets: u8,
    /// Segments that one ACK acknowledges, moving average, in sixteenths.
    per_ack: u8,
    /// ACKs in a row whose counters contradict each other.
    mismatches: u8,
    /// The first ACE field was looked at.
    checked: bool,
    /// The first option was not what a peer sends.
    ignore_options: bool,
}

/// Contradictions in a row that are mangling and not a wrapped counter.
const MISMATCHES_MAX: u8 = 3;

/// Segments per ACK, in sixteenths, from which stretched ACKs are usual on a path and a counter is
/// not taken for wrapped without an option that says so (RFC 9768 A.2.1).
const STRETCHED: u8 = 4 << 4;

impl Feedback {
    pub(crate) const fn new() -> Feedback {
        Feedback {
            bytes: 0,
            newest: 0,
            packets: PACKETS_INITIAL,
            per_ack: 0,
            mismatches: 0,
            checked: false,
            ignore_options: false,
        }
    }

    /// The options of the peer's first segment: ECT counters that start at zero were zeroed on the
    /// way (RFC 9768 3.2.3.2.4), and its clock starts here.
    pub(crate) fn start(&mut self, options: Options) {
        self.ignore_options =
            options.accurate_ecn.is_some_and(|o| o.ect0() == Some(0) || o.ect1() == Some(0));
        if let Some((value, _)) = options.timestamp {
            self.newest = value;
        }
    }

    /// The peer told by the handshake that our SYN-ACK was marked or not (RFC 9768 table 4).
    pub(crate) fn on_handshake_ack(&mut self, ce: bool) {
        self.packets = PACKETS_INITIAL + u8::from(ce);
        self.checked = true;
    }

    /// RFC 9768 3.2.2.4: whether this first ACE field was zeroed on the way.
    pub(crate) fn is_zeroed(&mut self, ace: u8) -> bool {
        !std::mem::replace(&mut self.checked, true) && ace == 0
    }

    /// RFC 9768 A.1: whether an ACK that acknowledges `newly` bytes is not older than one that was
    /// read; `timestamp` is the peer's.
    pub(crate) fn is_current(&mut self, newly: usize, timestamp: Option<u32>) -> bool {
        let later = timestamp.is_some_and(|t| t.wrapping_sub(self.newest) as i32 > 0);
        if let Some(t) = timestamp.filter(|_| later) {
            self.newest = t;
        }
        newly > 0 || later
    }

    /// The marks that a current ACK reports, which acknowledges `newly` bytes in segments of `mss`.
    pub(crate) fn read(
        &mut self,
        ace: u8,
        option: Option<AccEcnOption>,
        newly: usize,
        mss: usize,
    ) -> Marks {
        let segments = (newly / mss.max(1)) as u32;
        let least = u32::from(ace.wrapping_sub(self.packets) & 7);
        let option = option.filter(|_| !self.ignore_options);
        let told = option.map(|o| o.ce().map_or(0, |ce| self.bytes_since(ce)));
        let packets = self.safe_packets(least, segments, told, mss);
        let stretch = segments.min(15) as u8;
        self.per_ack = self.per_ack - self.per_ack / 8 + stretch * 2;
        self.packets = self.packets.wrapping_add(packets as u8);
        let bytes = told.unwrap_or_else(|| {
            let estimate = packets as usize * mss;
            if newly > 0 { estimate.min(newly) } else { estimate }
        });
        self.bytes += bytes as u64;
        // RFC 9768 3.2.3.2.5. Small segments can wrap the field unnoticed, but not every time.
        let mismatch = packets == 0 && told.is_some_and(|bytes| bytes > 0);
        self.mismatches = if mismatch { self.mismatches.saturating_add(1) } else { 0 };
        Marks { packets, bytes, contradictory: self.mismatches >= MISMATCHES_MAX }
    }

    /// How far the counter of an option is ahead; behind, if we estimated too much.
    fn bytes_since(&mut self, told: u32) -> usize {
        let ahead = told.wrapping_sub(self.bytes as u32) % AccEcnOption::MODULUS;
        if ahead < AccEcnOption::MODULUS / 2 {
            return ahead as usize;
        }
        let behind = u64::from(AccEcnOption::MODULUS - ahead);
        self.bytes = self.bytes.saturating_sub(behind);
        0
    }

    /// RFC 9768 A.2: the field may have wrapped when an ACK stands for eight segments or more; the
    /// worst is assumed unless the option or the usual length of ACKs says otherwise.
    fn safe_packets(&self, least: u32, segments: u32, told: Option<usize>, mss: usize) -> u32 {
        if segments < 8 || least > segments {
            return least;
        }
        let most = segments - (segments - least) % 8;
        match told {
            _ if most == least => least,
            Some(0) => least,
            Some(bytes) if bytes > mss * least as usize => most,
            Some(bytes) if bytes / (most as usize) < mss / 2 => least,
            Some(_) => most,
            None if self.per_ack >= STRETCHED => least,
            None => most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: usize = 1000;

    fn told(ceb: u32) -> AccEcnOption {
        AccEcnOption::new(false, [1, ceb, 1], 2)
    }

    // RFC 9768 3.2.2.5.2
    // RFC 9768 A.2.1
    #[test]
    fn without_options_a_long_jump_may_hide_a_wrapped_counter() {
        let marks = |ace: u8, segments| {
            Feedback::new().read((5 + ace) % 8, None, segments * MSS, MSS).packets
        };
        assert_eq!(marks(2, 9), 2, "nine segments hold two marks or ten");
        assert_eq!(marks(2, 10), 10, "the safest likely case");
        assert_eq!(marks(0, 7), 0);
        assert_eq!(marks(0, 8), 8);
        assert_eq!(marks(3, 1), 3, "the counter is right: control packets are not counted here");
    }

    // RFC 9768 A.2.1
    #[test]
    fn where_acks_are_always_stretched_the_counter_is_believed() {
        let mut f = Feedback::new();
        for _ in 0..40 {
            f.read(f.packets & 7, Some(told(0)), 12 * MSS, MSS);
        }
        let before = f.packets;
        assert_eq!(f.read(before & 7, None, 12 * MSS, MSS).packets, 0);
    }

    // RFC 9768 A.2.2
    #[test]
    fn the_option_tells_whether_the_counter_wrapped() {
        let packets = |ace: u8, ceb, segments| {
            Feedback::new().read((5 + ace) % 8, Some(told(ceb)), segments * MSS, MSS).packets
        };
        assert_eq!(packets(0, 1460, 8), 8, "one byte more than none");
        assert_eq!(packets(2, 1000, 10), 2, "ten of them would be tiny");
        assert_eq!(packets(2, 9000, 10), 10);
        assert_eq!(packets(7, 6900, 15), 7);
        assert_eq!(packets(0, 0, 40), 0);
    }

    // RFC 9768 3.2.3.1
    // RFC 9768 A.1
    #[test]
    fn byte_counters_are_taken_modulo_two_to_the_24() {
        let mut f = Feedback { bytes: 33_554_433, ..Feedback::new() };
        let marks = f.read(6, Some(told(1461)), MSS, MSS);
        assert_eq!((marks.bytes, f.bytes), (1460, 33_555_893));
        // What was estimated too high is taken back, not counted as nearly 2^24.
        let marks = f.read(6, Some(told(461)), MSS, MSS);
        assert_eq!((marks.bytes, f.bytes), (0, 33_554_893));
    }

    // RFC 9768 A.3
    #[test]
    fn without_options_marked_bytes_are_estimated_and_corrected_by_the_next_option() {
        let mut f = Feedback::new();
        assert_eq!(f.read(6, None, 4 * MSS, MSS).bytes, MSS);
        assert_eq!(f.read(7, Some(told(2 * 700)), 2 * MSS, MSS).bytes, 400);
        assert_eq!(f.bytes, 1400);
    }

    // RFC 9768 3.2.2.2
    #[test]
    fn an_ack_that_is_older_says_nothing() {
        let mut f = Feedback::new();
        assert!(f.is_current(1, None) && !f.is_current(0, None));
        assert!(f.is_current(0, Some(10)) && !f.is_current(0, Some(10)));
        assert!(!f.is_current(0, Some(9)) && f.is_current(0, Some(11)));
    }

    // RFC 9768 3.2.3.2.5
    #[test]
    fn marked_bytes_without_marked_packets_are_mangled_feedback() {
        let mut f = Feedback::new();
        let mut verdicts = Vec::new();
        for i in 1..=3 {
            verdicts.push(f.read(5, Some(told(i * 1000)), MSS, MSS).contradictory);
        }
        assert_eq!(verdicts, [false, false, true]);
    }

    // RFC 9768 3.2
    // RFC 9768 3.2.1
    // RFC 9768 3.2.2.5.1
    #[test]
    fn a_change_to_ce_and_every_second_mark_are_told_at_once() {
        let mut e = Echo::new();
        assert_eq!(e.packets(), 5);
        assert!(!e.receive(ECT0, 100, 1, true));
        assert!(e.receive(CE, 100, 1, true), "the change");
        e.told(true);
        assert!(!e.receive(CE, 100, 1, true));
        assert!(e.receive(CE, 100, 1, true), "the second since");
        e.told(true);
        // Without data that waits it takes three; a change does not count.
        assert!(!e.receive(NOT_ECT, 0, 1, false) && !e.receive(CE, 0, 1, false));
        assert!(!e.receive(CE, 0, 1, false) && e.receive(CE, 0, 1, false));
        assert_eq!((e.packets(), e.bytes), (11, [101, 300, 1]));
    }

    // RFC 9768 3.2.3.3
    #[test]
    fn the_option_holds_what_ever_moved_in_the_shorter_order() {
        let mut e = Echo::new();
        assert_eq!(e.option(40), None);
        e.receive(ECT0, 10, 1, true);
        assert_eq!(e.option(40), Some(AccEcnOption::new(false, [11, 0, 0], 1)));
        e.told(true);
        assert_eq!(e.option(40), None, "once told it is told");
        e.receive(CE, 10, 1, true);
        assert_eq!(e.option(40), Some(AccEcnOption::new(false, [11, 10, 0], 2)));
        assert_eq!(e.option(7), None, "what moved is not left out");
        e.told(true);
        let mut only_ect1 = Echo::new();
        only_ect1.receive(1, 10, 1, true);
        assert_eq!(only_ect1.option(40), Some(AccEcnOption::new(true, [11, 0, 0], 1)));
        e.receive(1, 10, 1, true);
        assert_eq!(e.option(40), Some(AccEcnOption::new(true, [11, 10, 11], 3)));
        assert_eq!(e.option(8), Some(AccEcnOption::new(true, [11, 10, 0], 2)), "shortened");
    }
}

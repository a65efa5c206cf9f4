//! Explicit congestion notification of a connection: what the handshake agrees on (RFC 3168 6.1.1,
//! RFC 9768 3.1), which segments are ECN-capable, how marks reach the peer and what its reports
//! mean for the congestion window.
//!
//! Marks are told in one of three ways: classic (ECE until CWR), as a DCTCP receiver tells them
//! (RFC 8257 3.2: ECE says what the last segment was), and accurate (`accurate_ecn`).
//!
//! Only new data is ECN-capable: no SYN, no bare ACK, no probe, nothing that is sent again (RFC 3168
//! 6.1.4 to 6.1.6).

use crate::seq::SeqNum;
use crate::socket::tcp::{CongestionControl, EcnState};
use crate::stack::EcnMode;
use crate::wire::tcp::{Flags, Header, Options};

use super::accurate_ecn::{
    CE, ECT0, Echo, Feedback, Marks, NOT_ECT, decode_codepoint, encode_codepoint,
};
use super::cc::{Cause, Congestion, Controller};
use super::output::SegmentOut;
use super::recovery::Phase;
use super::state::{Connection, Cx};

/// An ECN-setup SYN (RFC 3168 6.1.1), and the SYN-ACK that agrees to it.
const CLASSIC_SYN: u8 = 0b011;
const CLASSIC_SYN_ACK: u8 = 0b001;

/// Rounds without a single byte that was not marked, from the start: no queue does that (RFC 9768
/// 3.2.2.3).
const MARKED_ROUNDS_MAX: u8 = 4;

/// What a server decides by the first SYN, and sticks to (RFC 9768 3.1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) state: EcnState,
    /// Codepoint of the latest SYN.
    syn: u8,
    /// A SYN without ECN flags was received, or sent.
    plain: bool,
    /// The SYN came more than once.
    repeated: bool,
    /// ACE field of an ACK that waits for data (`TCP_DEFER_ACCEPT`).
    kept_ace: u8,
}

impl Negotiated {
    /// Table 2 of RFC 9768, seen by host B; unknown combinations ask for AccECN (3.1.3).
    pub(crate) fn of_syn(mode: EcnMode, congestion: CongestionControl, syn: &Header) -> Negotiated {
        let state = match syn.flags.ace() {
            _ if mode == EcnMode::Off => EcnState::Off,
            0 => EcnState::Off,
            // A classic SYN that arrives ECN-capable was mangled: its sender cannot find out.
            CLASSIC_SYN if syn.ecn != NOT_ECT && congestion != CongestionControl::Dctcp => {
                EcnState::Off
            }
            CLASSIC_SYN => EcnState::Classic,
            _ => EcnState::Accurate,
        };
        Negotiated { state, syn: syn.ecn, ..Negotiated::default() }
    }

    /// What a SYN cookie stood for (RFC 9768 5.1): `classic` travelled in it, AccECN shows in the
    /// ACK.
    pub(crate) fn of_cookie(mode: EcnMode, classic: bool, ack: &Header) -> Negotiated {
        let state = match ack.flags.ace() {
            _ if mode == EcnMode::Off => EcnState::Off,
            _ if classic => EcnState::Classic,
            0 | 1 => EcnState::Off,
            _ => EcnState::Accurate,
        };
        Negotiated { state, ..Negotiated::default() }
    }

    /// The SYN again. False: it contradicts the first, and the handshake is over (RFC 9768 3.1.5).
    pub(crate) fn repeat(&mut self, syn: &Header) -> bool {
        match (self.state, syn.flags.ace()) {
            (EcnState::Off, _) => return true,
            (_, 0) => self.plain = true,
            (EcnState::Accurate, CLASSIC_SYN) => return false,
            (EcnState::Classic, asked) if asked != CLASSIC_SYN => return false,
            _ => {}
        }
        (self.syn, self.repeated) = (syn.ecn, true);
        true
    }

    /// Completes a SYN-ACK after as many that were not answered. The option is tried once, AccECN
    /// flags twice (RFC 9768 3.2.3.2.2).
    pub(crate) fn write_syn_ack(self, timeouts: u32, header: &mut Header) {
        let ace = match self.state {
            EcnState::Off => 0,
            EcnState::Classic => CLASSIC_SYN_ACK,
            EcnState::Accurate if timeouts >= 2 => 0,
            EcnState::Accurate => encode_codepoint(self.syn),
        };
        header.flags = header.flags.with_ace(u32::from(ace));
        if self.state == EcnState::Accurate && timeouts == 0 && !self.repeated {
            header.options.accurate_ecn = Echo::option_of_syn_ack(header.options.room());
        }
    }

    /// Keeps what the flags of a completing ACK say.
    pub(crate) fn keep_ack(&mut self, ack: &Header) {
        self.kept_ace = ack.flags.ace();
    }

    /// The flags kept by [`Negotiated::keep_ack`].
    pub(crate) fn kept_flags(self) -> Flags {
        Flags::default().with_ace(u32::from(self.kept_ace))
    }
}

/// ECN state of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Ecn {
    negotiated: Negotiated,
    /// What our SYN asks for.
    asked: EcnState,
    /// Nothing we send is ECN-capable any more: the path or the peer does not bear it.
    incapable: bool,
    /// The peer's reports are not believed.
    deaf: bool,
    /// The flags of this segment are no report.
    blind: bool,
    /// Codepoint of the SYN-ACK, for the next bare ACK to tell (RFC 9768 3.2.2.1).
    tell: Option<u8>,
    /// Classic: ECE goes with every ACK. DCTCP.CE of RFC 8257 3.2.
    echoing: bool,
    /// DCTCP: what has to be acknowledged with the state before this one.
    earlier: Option<SeqNum>,
    /// The next new data says CWR.
    cwr: bool,
    /// Some of what we sent was not marked.
    clean: bool,
    marked_rounds: u8,
    /// Marks count again once more than this is acknowledged.
    reacted: SeqNum,
    pub(crate) echo: Echo,
    feedback: Feedback,
}

const _: () = assert!(size_of::<Ecn>() <= 72);

impl Ecn {
    /// Of a connection that asks by its SYN, or is asked.
    pub(crate) fn new(mode: EcnMode, congestion: CongestionControl, iss: SeqNum) -> Ecn {
        let asked = match mode {
            EcnMode::Accurate => EcnState::Accurate,
            EcnMode::Classic => EcnState::Classic,
            // RFC 8257 says nothing without marks.
            EcnMode::Accept if congestion == CongestionControl::Dctcp => EcnState::Accurate,
            EcnMode::Accept | EcnMode::Off => EcnState::Off,
        };
        Ecn {
            negotiated: Negotiated::default(),
            asked,
            incapable: false,
            deaf: false,
            blind: false,
            tell: None,
            echoing: false,
            earlier: None,
            cwr: false,
            clean: false,
            marked_rounds: 0,
            reacted: iss,
            echo: Echo::new(),
            feedback: Feedback::new(),
        }
    }

    /// How marks are told.
    pub(crate) fn state(&self) -> EcnState {
        self.negotiated.state
    }

    /// Bytes that the peer reported as marked.
    pub(crate) fn bytes_ce(&self) -> u64 {
        self.feedback.bytes
    }

    /// A server's half was negotiated; `timeouts` SYN-ACKs were not answered.
    pub(crate) fn serve(&mut self, negotiated: Negotiated, timeouts: u32) {
        self.negotiated = negotiated;
        let accurate = negotiated.state == EcnState::Accurate;
        // RFC 9768 3.1.5, RFC 3168 6.1.1.
        self.incapable |= negotiated.plain || (accurate && timeouts >= 2);
        if accurate && (timeouts > 0 || negotiated.repeated) {
            self.echo.mute();
        }
    }

    /// Flags of a SYN after as many that were not answered: AccECN is asked for twice (RFC 9768
    /// 3.1.4.1), classic ECN once (RFC 3168 6.1.1.1).
    pub(crate) fn syn_flags(&mut self, timeouts: u32) -> Flags {
        match self.asked {
            EcnState::Accurate if timeouts < 2 => Flags::ACE,
            EcnState::Classic if timeouts < 1 => Flags::ECE.with(Flags::CWR),
            _ => {
                self.negotiated.plain = true;
                Flags::default()
            }
        }
    }

    /// Table 2 of RFC 9768, seen by host A. True: our SYN was marked.
    fn on_syn_ack(&mut self, seg: &Header) -> bool {
        let ace = seg.flags.ace();
        let told = decode_codepoint(ace);
        self.negotiated.state = match (self.asked, ace) {
            // 3.1.3: reserved, as if the SYN had arrived unchanged.
            (EcnState::Accurate, 0b101) => EcnState::Accurate,
            (EcnState::Accurate, _) if told.is_some() => EcnState::Accurate,
            (EcnState::Accurate, CLASSIC_SYN_ACK) => EcnState::Classic,
            // RFC 3168 knows ECE and CWR only.
            (EcnState::Classic, 0b001 | 0b101) => EcnState::Classic,
            _ => EcnState::Off,
        };
        match self.state() {
            EcnState::Off => false,
            EcnState::Classic => {
                // RFC 3168 6.1.1: not after a SYN that did not ask.
                self.incapable |= self.negotiated.plain;
                false
            }
            EcnState::Accurate => {
                self.echo.on_syn_ack(seg.ecn);
                self.tell = Some(seg.ecn);
                self.feedback.test_option(seg.options.accurate_ecn);
                let told = told.unwrap_or(NOT_ECT);
                // 3.2.2.3: our SYN was not ECN-capable.
                self.incapable |= told != NOT_ECT;
                told == CE
            }
        }
    }

    /// Table 4 of RFC 9768, for the first ACK of an AccECN server; `bare`: without data and SACK.
    /// True: our SYN-ACK was marked.
    fn on_handshake_ack(&mut self, seg: &Header, bare: bool) -> bool {
        if self.state() != EcnState::Accurate || self.blind {
            return false;
        }
        self.feedback.test_option(seg.options.accurate_ecn);
        if !bare {
            return false;
        }
        self.blind = true;
        let ace = seg.flags.ace();
        let told = decode_codepoint(ace);
        self.feedback.on_handshake_ack(told == Some(CE));
        if ace == 0 {
            (self.incapable, self.deaf) = (true, true);
        }
        self.incapable |= told.is_some_and(|told| told != NOT_ECT);
        told == Some(CE)
    }

    /// Data was lost before any was acknowledged: what may be to blame is left out from here on
    /// (RFC 9768 3.2.3.2.2).
    pub(crate) fn on_first_flight_lost(&mut self) {
        self.echo.mute();
        self.incapable = true;
    }

    /// A segment whose flags offload hardware would change: it takes CWR from all but the first
    /// packet it cuts (RFC 9768 3.3.4).
    pub(crate) fn goes_alone(&self) -> bool {
        let ace = Flags::default().with_ace(self.echo.packets());
        self.state() == EcnState::Accurate && ace.has(Flags::CWR)
    }

    /// Whether the next ACK carries the option.
    pub(crate) fn wants_option(&self) -> bool {
        self.state() == EcnState::Accurate && self.echo.wants_option()
    }

    /// Adds the option to a segment's other options. Two SACK blocks go before it, more do not
    /// (RFC 9768 3.2.3.3).
    pub(crate) fn add_option(&self, options: &mut Options) {
        if !self.wants_option() {
            return;
        }
        options.accurate_ecn = self.echo.option(options.room());
        if options.accurate_ecn.is_none() && options.sack.as_slice().len() > 2 {
            let mut fewer = *options;
            fewer.sack.truncate(2);
            fewer.accurate_ecn = self.echo.option(fewer.room());
            if fewer.accurate_ecn.is_some() {
                *options = fewer;
            }
        }
    }

    /// What an acknowledgement says about marks, in flags and option.
    fn read(&mut self, seg: &Header, newly: usize, mss: usize) -> Marks {
        if self.blind || self.deaf {
            return Marks::default();
        }
        let ace = seg.flags.ace();
        match self.state() {
            EcnState::Off => Marks::default(),
            EcnState::Classic => {
                let echoed = seg.flags.has(Flags::ECE);
                let bytes = if echoed { newly } else { 0 };
                self.feedback.bytes += bytes as u64;
                Marks { packets: u32::from(echoed), bytes, contradictory: false }
            }
            EcnState::Accurate => {
                if self.feedback.is_zeroed(ace) {
                    (self.incapable, self.deaf) = (true, true);
                    return Marks::default();
                }
                let timestamp = seg.options.timestamp.map(|(value, _)| value);
                if !self.feedback.is_current(newly, timestamp) {
                    return Marks::default();
                }
                self.feedback.read(ace, seg.options.accurate_ecn, newly, mss)
            }
        }
    }
}

impl Connection {
    /// Flags and option of our SYN or SYN-ACK.
    pub(crate) fn mark_syn(&mut self, header: &mut Header) {
        if header.flags.has(Flags::ACK) {
            let (negotiated, timeouts) = (self.ecn.negotiated, self.rtx_count);
            // RFC 9768 3.1.5: a server that sent a SYN-ACK without flags sends nothing ECN-capable.
            self.ecn.serve(negotiated, timeouts);
            negotiated.write_syn_ack(timeouts, header);
        } else {
            header.flags = header.flags.with(self.ecn.syn_flags(self.rtx_count));
        }
    }

    /// The peer's SYN-ACK, or its SYN in a simultaneous open.
    pub(crate) fn marks_on_syn(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        if !seg.flags.has(Flags::ACK) {
            let negotiated = Negotiated::of_syn(self.settings.ecn, self.settings.congestion, seg);
            self.ecn.serve(negotiated, 0);
            return;
        }
        if let Some((value, _)) = seg.options.timestamp {
            self.ecn.feedback.start_clock(value);
        }
        if self.ecn.on_syn_ack(seg) {
            self.reduce_for_handshake(cx);
        }
    }

    /// In a simultaneous open, the peer's SYN again. False: see [`Negotiated::repeat`].
    pub(crate) fn marks_on_repeated_syn(&mut self, seg: &Header) -> bool {
        self.ecn.negotiated.repeat(seg)
    }

    /// The ACK that establishes a connection of a server.
    pub(crate) fn marks_on_handshake_ack(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Header,
        payload_len: usize,
    ) {
        if let Some((value, _)) = seg.options.timestamp {
            self.ecn.feedback.start_clock(value);
        }
        let bare = payload_len == 0 && seg.options.sack.is_empty();
        if self.ecn.on_handshake_ack(seg, bare) {
            self.reduce_for_handshake(cx);
        }
    }

    /// RFC 9768 3.2.2.2: a marked SYN or SYN-ACK is congestion like any other.
    fn reduce_for_handshake(&mut self, cx: &Cx<'_>) {
        let (now, flight) = (cx.now, self.cc.cwnd());
        let cause = Cause::Ecn;
        self.cc.on_congestion(&Congestion { now, cause, flight, snd_nxt: self.snd_nxt });
    }

    /// The peer's SYN-ACK again: the ACK tells its codepoint as the first did (RFC 9768 3.2.2.1).
    pub(crate) fn marks_on_syn_ack_again(&mut self, seg: &Header) {
        let same = seg.seq == self.irs && seg.ack == self.iss + 1;
        if same && seg.flags.has(Flags::ACK) && self.ecn.asked == self.ecn.state() {
            self.ecn.tell = (self.ecn.state() == EcnState::Accurate).then_some(seg.ecn);
        }
    }

    /// Before anything is known of a segment; `syn`: the SYN flag was taken off it, and its flags
    /// are no report (RFC 9768 3.2.2).
    pub(crate) fn marks_begin(&mut self, syn: bool) {
        self.ecn.blind = syn;
    }

    /// Counts the mark of an acceptable segment; `packets` were merged into it, and all of them
    /// count as marked if it is: receive offload merges only what is alike.
    pub(crate) fn marks_on_segment(&mut self, seg: &Header, len: usize, packets: u64) {
        let ce = seg.ecn == CE;
        match self.ecn.state() {
            EcnState::Off => {}
            EcnState::Accurate => {
                let pending = self.rcv_nxt != self.rcv_acked;
                let packets = packets.min(255) as u8;
                self.ack_now |= self.ecn.echo.receive(seg.ecn, len, packets, pending);
            }
            EcnState::Classic if self.settings.congestion == CongestionControl::Dctcp => {
                // RFC 8257 3.2: when the state changes, what came before is acknowledged with the
                // old one.
                if len > 0 && ce != self.ecn.echoing {
                    self.ecn.earlier =
                        Some(self.rcv_nxt).filter(|_| self.rcv_nxt != self.rcv_acked);
                    self.ecn.echoing = ce;
                    self.ack_now = true;
                }
            }
            EcnState::Classic => {
                // RFC 3168 6.1.3
                if seg.flags.has(Flags::CWR) {
                    self.ecn.echoing = false;
                }
                if ce && !self.ecn.echoing {
                    self.ecn.echoing = true;
                    self.ack_now = true;
                }
            }
        }
    }

    /// Marks that an acknowledgement of `newly` bytes reports: at most one reaction per round trip
    /// (RFC 3168 6.1.2). Returns how many bytes were marked.
    pub(crate) fn marks_on_ack(&mut self, cx: &mut Cx<'_>, seg: &Header, newly: usize) -> usize {
        if self.ecn.state() == EcnState::Off || seg.ack < self.snd_una {
            return 0;
        }
        let mss = self.mss_full();
        let marks = self.ecn.read(seg, newly, mss);
        cx.stats.delivered_ce += u64::from(marks.packets);
        // RFC 9768 3.2.3.2.5
        self.ecn.incapable |= marks.contradictory;
        if marks.packets == 0 && marks.bytes == 0 {
            self.ecn.clean |= newly > 0 && self.ecn.negotiated.state != EcnState::Off;
            return 0;
        }
        self.ecn.clean |= newly > marks.bytes;
        if self.recovery.phase != Phase::Open {
            // The loss was the reaction (RFC 3168 6.1.2); the peer is told all the same.
            self.ecn.reacted = self.ecn.reacted.max(self.recovery.recover);
            self.ecn.cwr = true;
        } else if self.snd_una > self.ecn.reacted {
            self.react_to_marks(cx);
        }
        marks.bytes
    }

    fn react_to_marks(&mut self, cx: &Cx<'_>) {
        let (now, flight, snd_nxt) = (cx.now, self.flight(), self.snd_nxt);
        self.ecn.reacted = snd_nxt;
        self.ecn.cwr = true;
        if !self.ecn.clean {
            self.ecn.marked_rounds += 1;
            if self.ecn.marked_rounds >= MARKED_ROUNDS_MAX {
                (self.ecn.incapable, self.ecn.deaf) = (true, true);
                return;
            }
        }
        // A controller of every mark reads them from what it learns of each ACK (RFC 8311 4.1).
        if !self.cc.wants_every_mark() {
            let cause = Cause::Ecn;
            self.cc.on_congestion(&Congestion { now, cause, flight, snd_nxt });
        }
    }

    /// A segment with new data is about to leave.
    pub(crate) fn mark_new_data(&mut self, header: &mut Header, len: usize) {
        if self.ecn.state() == EcnState::Off || len == 0 {
            return;
        }
        if !self.ecn.incapable {
            header.ecn = ECT0;
        }
        if std::mem::take(&mut self.ecn.cwr) && self.ecn.state() == EcnState::Classic {
            header.flags = header.flags.with(Flags::CWR);
        }
    }

    /// Every ACK tells the marks of now.
    pub(crate) fn mark_ack(&mut self, header: &mut Header) {
        match self.ecn.state() {
            EcnState::Off => {}
            EcnState::Classic if self.ecn.echoing => {
                header.flags = header.flags.with(Flags::ECE);
            }
            EcnState::Classic => {}
            EcnState::Accurate => {
                header.flags = header.flags.with_ace(self.ecn.echo.packets());
                self.ecn.echo.told(header.options.accurate_ecn.is_some());
            }
        }
    }

    /// ACKs that go before anything else: that of a SYN-ACK, bare so that it can tell the codepoint
    /// of the SYN-ACK (RFC 9768 3.2.2.1), and DCTCP's of what came before a change.
    pub(crate) fn poll_mark_ack(&mut self, cx: &mut Cx<'_>) -> Option<SegmentOut> {
        if let Some(earlier) = self.ecn.earlier.take() {
            let edge = self.rcv_adv;
            let mut out = self.bare(cx, self.snd_nxt);
            out.header.ack = earlier;
            out.header.window = (edge.diff(earlier).max(0) >> self.rcv_wscale).min(0xffff) as u16;
            out.header.flags = if self.ecn.echoing {
                out.header.flags.without(Flags::ECE)
            } else {
                out.header.flags.with(Flags::ECE)
            };
            self.ack_now = true;
            return Some(out);
        }
        let codepoint = self.ecn.tell.take_if(|_| self.ack_now)?;
        let mut out = self.bare(cx, self.snd_nxt);
        if out.header.options.sack.is_empty() {
            let ace = u32::from(encode_codepoint(codepoint));
            out.header.flags = out.header.flags.with_ace(ace);
        }
        Some(out)
    }
}

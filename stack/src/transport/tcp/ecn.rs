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

/// ECN of a connection: what was agreed, and the state if it is anything.
#[derive(Clone, Debug)]
pub(crate) struct Ecn {
    negotiated: Negotiated,
    /// What our SYN asks for.
    asked: EcnState,
    active: Option<Box<Active>>,
}

/// State of a connection with ECN.
#[derive(Clone, Debug)]
struct Active {
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
    echo: Echo,
    feedback: Feedback,
}

impl Active {
    fn new(iss: SeqNum) -> Active {
        Active {
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

    /// What an acknowledgement of `newly` bytes says about marks, in flags and option.
    fn read(&mut self, accurate: bool, seg: &Header, newly: usize, mss: usize) -> Marks {
        if self.blind || self.deaf {
            return Marks::default();
        }
        if !accurate {
            let echoed = seg.flags.has(Flags::ECE);
            let bytes = if echoed { newly } else { 0 };
            self.feedback.bytes += bytes as u64;
            return Marks { packets: u32::from(echoed), bytes, contradictory: false };
        }
        let ace = seg.flags.ace();
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

    /// Counts a window that was marked. True: the window is to be reduced for it.
    fn react(&mut self, snd_nxt: SeqNum) -> bool {
        self.reacted = snd_nxt;
        self.cwr = true;
        if self.clean {
            return true;
        }
        self.marked_rounds += 1;
        if self.marked_rounds >= MARKED_ROUNDS_MAX {
            (self.incapable, self.deaf) = (true, true);
        }
        !self.deaf
    }
}

impl Ecn {
    /// Of a connection that asks by its SYN, or is asked.
    pub(crate) fn new(mode: EcnMode, congestion: CongestionControl) -> Ecn {
        let asked = match mode {
            EcnMode::Accurate => EcnState::Accurate,
            EcnMode::Classic => EcnState::Classic,
            // Without marks it is worth nothing (RFC 8257 section 3).
            EcnMode::Accept if congestion == CongestionControl::Dctcp => EcnState::Accurate,
            EcnMode::Accept | EcnMode::Off => EcnState::Off,
        };
        Ecn { negotiated: Negotiated::default(), asked, active: None }
    }

    /// Whether anything was agreed on: otherwise no segment means anything here.
    pub(crate) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// How marks are told.
    pub(crate) fn state(&self) -> EcnState {
        self.negotiated.state
    }

    fn is_accurate(&self) -> bool {
        self.state() == EcnState::Accurate
    }

    /// Bytes that the peer reported as marked.
    pub(crate) fn bytes_ce(&self) -> u64 {
        self.active.as_ref().map_or(0, |a| a.feedback.bytes)
    }

    /// A server's half was negotiated; `timeouts` SYN-ACKs were not answered.
    pub(crate) fn serve(&mut self, negotiated: Negotiated, timeouts: u32, iss: SeqNum) {
        self.negotiated = negotiated;
        if negotiated.state == EcnState::Off {
            return;
        }
        let active = self.active.get_or_insert_with(|| Box::new(Active::new(iss)));
        let accurate = negotiated.state == EcnState::Accurate;
        // RFC 9768 3.1.5, RFC 3168 6.1.1.
        active.incapable |= negotiated.plain || (accurate && timeouts >= 2);
        if accurate && (timeouts > 0 || negotiated.repeated) {
            active.echo.mute();
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
    fn on_syn_ack(&mut self, seg: &Header, iss: SeqNum) -> bool {
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
        if self.state() == EcnState::Off {
            return false;
        }
        let active = self.active.insert(Box::new(Active::new(iss)));
        if self.negotiated.state == EcnState::Classic {
            // RFC 3168 6.1.1: not after a SYN that did not ask.
            active.incapable = self.negotiated.plain;
            return false;
        }
        active.echo.on_syn_ack(seg.ecn);
        active.tell = Some(seg.ecn);
        active.feedback.start(seg.options);
        let told = told.unwrap_or(NOT_ECT);
        // 3.2.2.3: our SYN was not ECN-capable.
        active.incapable = told != NOT_ECT;
        told == CE
    }

    /// Table 4 of RFC 9768, for the first ACK of an AccECN server; `bare`: without data and SACK.
    /// True: our SYN-ACK was marked.
    fn on_handshake_ack(&mut self, seg: &Header, bare: bool) -> bool {
        let accurate = self.is_accurate();
        let Some(active) = self.active.as_mut().filter(|a| accurate && !a.blind) else {
            return false;
        };
        active.feedback.start(seg.options);
        if !bare {
            return false;
        }
        active.blind = true;
        let ace = seg.flags.ace();
        let told = decode_codepoint(ace);
        active.feedback.on_handshake_ack(told == Some(CE));
        if ace == 0 {
            (active.incapable, active.deaf) = (true, true);
        }
        active.incapable |= told.is_some_and(|told| told != NOT_ECT);
        told == Some(CE)
    }

    /// Data was lost before any was acknowledged: what may be to blame is left out from here on
    /// (RFC 9768 3.2.3.2.2).
    pub(crate) fn on_first_flight_lost(&mut self) {
        if let Some(active) = &mut self.active {
            active.echo.mute();
            active.incapable = true;
        }
    }

    /// What the data receiver counted, with AccECN.
    #[cfg(test)]
    pub(crate) fn echo(&mut self) -> Option<&mut Echo> {
        let accurate = self.is_accurate();
        self.active.as_mut().filter(|_| accurate).map(|a| &mut a.echo)
    }

    /// A segment whose flags offload hardware would change: it takes CWR from all but the first
    /// packet it cuts (RFC 9768 3.3.4).
    pub(crate) fn goes_alone(&self) -> bool {
        let Some(active) = self.active.as_ref().filter(|_| self.is_accurate()) else {
            return false;
        };
        Flags::default().with_ace(active.echo.packets()).has(Flags::CWR)
    }

    /// Whether the next ACK carries the option.
    pub(crate) fn wants_option(&self) -> bool {
        self.is_accurate() && self.active.as_ref().is_some_and(|a| a.echo.wants_option())
    }

    /// Adds the option to a segment's other options. Two SACK blocks go before it, more do not
    /// (RFC 9768 3.2.3.3).
    pub(crate) fn add_option(&self, options: &mut Options) {
        let Some(active) = self.active.as_ref().filter(|_| self.wants_option()) else { return };
        options.accurate_ecn = active.echo.option(options.room());
        if options.accurate_ecn.is_none() && options.sack.as_slice().len() > 2 {
            let mut fewer = *options;
            fewer.sack.truncate(2);
            fewer.accurate_ecn = active.echo.option(fewer.room());
            if fewer.accurate_ecn.is_some() {
                *options = fewer;
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
            self.ecn.serve(negotiated, timeouts, self.iss);
            negotiated.write_syn_ack(timeouts, header);
        } else {
            if self.snd_nxt == self.iss {
                // The application may have chosen another controller since.
                self.ecn = Ecn::new(self.settings.ecn, self.settings.congestion);
            }
            header.flags = header.flags.with(self.ecn.syn_flags(self.rtx_count));
        }
    }

    /// The peer's SYN-ACK, or its SYN if we are a server or both opened at once.
    pub(crate) fn marks_on_syn(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        if !seg.flags.has(Flags::ACK) {
            let negotiated = Negotiated::of_syn(self.settings.ecn, self.settings.congestion, seg);
            self.ecn.serve(negotiated, 0, self.iss);
        } else if self.ecn.on_syn_ack(seg, self.iss) {
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
        let same = seg.seq == self.irs && seg.ack == self.iss + 1 && seg.flags.has(Flags::ACK);
        let asked = self.ecn.asked == EcnState::Accurate && self.ecn.is_accurate();
        if let Some(active) = self.ecn.active.as_mut().filter(|_| same && asked) {
            active.tell = Some(seg.ecn);
        }
    }

    /// Before anything is known of a segment; `syn`: the SYN flag was taken off it, and its flags
    /// are no report (RFC 9768 3.2.2).
    pub(crate) fn marks_begin(&mut self, syn: bool) {
        if let Some(active) = &mut self.ecn.active {
            active.blind = syn;
        }
    }

    /// Counts the mark of an acceptable segment; `packets` were merged into it, and all of them
    /// count as marked if it is: receive offload merges only what is alike.
    pub(crate) fn marks_on_segment(&mut self, seg: &Header, len: usize, packets: u64) {
        let accurate = self.ecn.is_accurate();
        let Some(active) = &mut self.ecn.active else { return };
        let ce = seg.ecn == CE;
        let pending = self.rcv_nxt != self.rcv_acked;
        if accurate {
            let packets = packets.min(255) as u8;
            self.ack_now |= active.echo.receive(seg.ecn, len, packets, pending);
        } else if self.settings.congestion == CongestionControl::Dctcp {
            // RFC 8257 3.2: when the state changes, what came before is acknowledged with the old
            // one.
            if len > 0 && ce != active.echoing {
                active.earlier = Some(self.rcv_nxt).filter(|_| pending);
                active.echoing = ce;
                self.ack_now = true;
            }
        } else {
            // RFC 3168 6.1.3
            if seg.flags.has(Flags::CWR) {
                active.echoing = false;
            }
            if ce && !active.echoing {
                active.echoing = true;
                self.ack_now = true;
            }
        }
    }

    /// Marks that an acknowledgement of `newly` bytes reports.
    pub(crate) fn read_marks(&mut self, cx: &mut Cx<'_>, seg: &Header, newly: usize) -> Marks {
        let (accurate, mss, una) = (self.ecn.is_accurate(), self.mss_full(), self.snd_una);
        let Some(active) = self.ecn.active.as_mut().filter(|_| seg.ack >= una) else {
            return Marks::default();
        };
        if una > active.reacted {
            // Left behind, it would be ahead again after two gigabytes.
            active.reacted = una - 1;
        }
        let marks = active.read(accurate, seg, newly, mss);
        cx.stats.delivered_ce += u64::from(marks.packets);
        self.delivery.ce += marks.bytes as u64;
        // RFC 9768 3.2.3.2.5
        active.incapable |= marks.contradictory;
        active.clean |= newly > marks.bytes;
        marks
    }

    /// At most one reaction per round trip (RFC 3168 6.1.2), after what the same acknowledgement
    /// says about loss.
    pub(crate) fn react_to_marks(&mut self, cx: &Cx<'_>, marks: Marks) {
        let Some(active) = &mut self.ecn.active else { return };
        if marks.packets == 0 && marks.bytes == 0 {
            return;
        }
        if matches!(self.recovery.phase, Phase::Fast | Phase::Timeout) {
            // The loss was the reaction (RFC 3168 6.1.2); the peer is told all the same.
            active.reacted = active.reacted.max(self.recovery.recover);
            active.cwr = true;
        } else if self.snd_una > active.reacted
            && active.react(self.snd_nxt)
            // A controller of every mark reads them from what it learns of each ACK (RFC 8311 4.1).
            && !self.cc.wants_every_mark()
        {
            let (now, flight, snd_nxt) = (cx.now, self.flight(), self.snd_nxt);
            let cause = Cause::Ecn;
            self.cc.on_congestion(&Congestion { now, cause, flight, snd_nxt });
        }
    }

    /// A segment with new data is about to leave.
    pub(crate) fn mark_new_data(&mut self, header: &mut Header, len: usize) {
        let classic = self.ecn.state() == EcnState::Classic;
        let Some(active) = self.ecn.active.as_mut().filter(|_| len > 0) else { return };
        if !active.incapable {
            header.ecn = ECT0;
        }
        if std::mem::take(&mut active.cwr) && classic {
            header.flags = header.flags.with(Flags::CWR);
        }
    }

    /// Every ACK tells the marks of now.
    pub(crate) fn mark_ack(&mut self, header: &mut Header) {
        let accurate = self.ecn.is_accurate();
        let Some(active) = &mut self.ecn.active else { return };
        if accurate {
            header.flags = header.flags.with_ace(active.echo.packets());
            active.echo.told(header.options.accurate_ecn.is_some());
        } else if active.echoing {
            header.flags = header.flags.with(Flags::ECE);
        }
    }

    /// ACKs that go before anything else: that of a SYN-ACK, bare so that it can tell the codepoint
    /// of the SYN-ACK (RFC 9768 3.2.2.1), and DCTCP's of what came before a change.
    pub(crate) fn poll_mark_ack(&mut self, cx: &mut Cx<'_>) -> Option<SegmentOut> {
        let active = self.ecn.active.as_mut()?;
        if let Some(earlier) = active.earlier.take() {
            let (edge, echoed_before) = (self.rcv_adv, !active.echoing);
            let mut out = self.bare(cx, self.snd_nxt);
            out.header.ack = earlier;
            out.header.window = (edge.diff(earlier).max(0) >> self.rcv_wscale).min(0xffff) as u16;
            let flags = out.header.flags.without(Flags::ECE);
            out.header.flags = if echoed_before { flags.with(Flags::ECE) } else { flags };
            self.ack_now = true;
            return Some(out);
        }
        let codepoint = active.tell.take_if(|_| self.ack_now)?;
        let mut out = self.bare(cx, self.snd_nxt);
        if out.header.options.sack.is_empty() {
            let ace = u32::from(encode_codepoint(codepoint));
            out.header.flags = out.header.flags.with_ace(ace);
        }
        Some(out)
    }
}

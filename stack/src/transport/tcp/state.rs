//! The connection block (RFC 9293 section 3.3.1): plain data. What changes it is split by
//! direction: `input` and `ack` for segments received, `output` for segments sent, `recovery` for
//! loss, `timers`, and `calls` for the application.
//!
//! A connection is sans-IO: segments and time go in, segments and one deadline come out.

use std::sync::Arc;

use crate::ip::address::AliasId;
use crate::lower::Known;
use crate::seq::SeqNum;
use crate::socket::tcp::{Retransmits, TcpError, TcpState};
use crate::stats::TcpStats;
use crate::time::Instant;
use crate::timer_wheel::TimerHandle;
use crate::wire::tcp::{HEADER_BYTES, Options, SackBlock, TIMESTAMP_BYTES};

use super::assembler::Assembler;
use super::cc::{Algorithm, Controller};
use super::challenge::ChallengeQuota;
use super::delayed_ack::DelayedAck;
use super::ecn::Ecn;
use super::fast_open::Opening;
use super::flow_table::FlowKey;
use super::on_demand::{Blank, OnDemand};
use super::pacing::Pacer;
use super::plpmtud::PathMtu;
use super::predict::Accepted;
use super::pressure::Budget;
use super::rack::Rack;
use super::rate::Delivery;
use super::recovery::Recovery;
use super::recv_buffer::RecvBuffer;
use super::rtt::Rtt;
use super::send_buffer::SendBuffer;
use super::sent::SentQueue;
pub(crate) use super::settings::Settings;
use super::settings::{MSS_MIN, WINDOW_SCALE_MAX};
use super::small::Small;
use super::time_wait::Entry;
use super::times::Times;
use super::urgent::Urgent;

/// RFC 9293 3.7.1: what a peer that names no MSS accepts.
const MSS_DEFAULT_V4: usize = 536;
const MSS_DEFAULT_V6: usize = 1220;

/// What a connection's code may touch outside it.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) stats: &'a mut TcpStats,
    /// Memory of the stack's connections.
    pub(crate) budget: Budget,
}

/// Who answers for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The application holds its handle.
    App,
    /// It came through this listener slot and was not accepted yet.
    Listener(u32),
    /// The handle was closed; the rest happens in the background.
    Nobody,
}

/// Why a segment without new data has to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Is the peer still there?
    KeepAlive,
    /// Is its window still closed?
    Window,
}

/// Both sequence numbers and secrets a connection starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) key: FlowKey,
    pub(crate) alias: AliasId,
    pub(crate) iss: SeqNum,
    pub(crate) ts_offset: u32,
    /// Largest IP packet to the peer.
    pub(crate) mtu: usize,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: FlowKey,
    pub(crate) alias: AliasId,
    pub(crate) owner: Owner,
    pub(crate) state: TcpState,
    pub(crate) error: Option<TcpError>,
    /// The application has not seen `error` yet.
    pub(crate) error_pending: bool,
    /// Shared with its listener or all of the stack until it sets an option of its own.
    pub(crate) settings: Arc<Settings>,

    // Send sequence space.
    pub(crate) iss: SeqNum,
    pub(crate) snd_una: SeqNum,
    /// Highest sequence number sent, plus one; never goes back.
    pub(crate) snd_nxt: SeqNum,
    pub(crate) snd_wnd: u32,
    pub(crate) snd_wl1: SeqNum,
    pub(crate) snd_wl2: SeqNum,
    pub(crate) snd_wnd_max: u32,
    pub(crate) snd_wscale: u8,
    pub(crate) small: Small,
    pub(crate) urgent: Option<Box<Urgent>>,
    pub(crate) send: SendBuffer,
    /// Sequence number of the first byte of `send`.
    pub(crate) send_base: SeqNum,
    pub(crate) fin_queued: bool,
    pub(crate) fin_sent: bool,

    // Receive sequence space.
    pub(crate) irs: SeqNum,
    pub(crate) rcv_nxt: SeqNum,
    /// Right edge of the advertised window; never goes back.
    pub(crate) rcv_adv: SeqNum,
    /// `rcv_nxt` as last sent (RFC 7323 Last.ACK.sent).
    pub(crate) rcv_acked: SeqNum,
    pub(crate) rcv_wscale: u8,
    /// Estimate of the peer's segment size.
    pub(crate) rcv_mss: usize,
    pub(crate) recv: RecvBuffer,
    pub(crate) assembler: Assembler,
    pub(crate) acking: DelayedAck,
    /// Duplicate range to report once (RFC 2883).
    pub(crate) dsack: Option<SackBlock>,
    /// Sequence number of the peer's FIN, once seen.
    pub(crate) peer_fin: Option<SeqNum>,
    pub(crate) fin_received: bool,
    pub(crate) read_shut: bool,

    // Agreed in the handshake.
    pub(crate) mss_peer: usize,
    pub(crate) scale_agreed: bool,
    pub(crate) ts_ok: bool,
    pub(crate) sack_ok: bool,
    pub(crate) ts_offset: u32,
    pub(crate) ts_recent: u32,
    pub(crate) ts_recent_at: Instant,
    pub(crate) path: PathMtu,

    // Loss and congestion.
    pub(crate) rtt: Rtt,
    pub(crate) sent: SentQueue,
    pub(crate) delivery: Delivery,
    pub(crate) rack: Rack,
    pub(crate) recovery: Recovery,
    pub(crate) cc: Algorithm,
    pub(crate) ecn: Ecn,
    pub(crate) pacer: Pacer,

    // Deadlines.
    pub(crate) rtx_at: Option<Instant>,
    /// Timeouts since the last progress.
    pub(crate) rtx_count: u32,
    pub(crate) persist_at: Option<Instant>,
    pub(crate) persist_count: u32,
    /// Probes of either kind that the peer has not answered.
    pub(crate) unanswered: u32,
    pub(crate) keepalive_at: Option<Instant>,
    /// End of an orphan's FIN-WAIT-2.
    pub(crate) linger_at: Option<Instant>,
    pub(crate) progress_at: Instant,
    pub(crate) last_sent: Instant,

    // Requests to output.
    pub(crate) ack_now: bool,
    pub(crate) syn_pending: bool,
    pub(crate) probe: Option<Probe>,

    // Requests to the table.
    /// The application is to be told.
    pub(crate) wake: bool,
    /// A write did not fit; tell when a third is free.
    pub(crate) write_blocked: bool,

    pub(crate) totals: Totals,
    pub(crate) notes: Notes,
}

/// Totals for dumps.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_received: u64,
    pub(crate) losses: OnDemand<Losses>,
    pub(crate) times: Times,
}

/// Totals of a connection that lost something.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) retransmits: Retransmits,
    pub(crate) bytes_retransmitted: u64,
    pub(crate) dsacks: u32,
    pub(crate) undos: u32,
}

impl Blank for Losses {
    fn blank() -> &'static Losses {
        const BLANK: Losses = Losses {
            retransmits: Retransmits {
                fast: 0,
                tail_probe: 0,
                timeout: 0,
                handshake: 0,
                path_mtu: 0,
            },
            bytes_retransmitted: 0,
            dsacks: 0,
            undos: 0,
        };
        &BLANK
    }
}

/// What the table notes about a connection.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) generation: u32,
    /// Memory charged to the stack's account.
    pub(crate) charged: usize,
    /// In the dirty list.
    pub(crate) dirty: bool,
    pub(crate) event_queued: bool,
    pub(crate) armed: Option<(Instant, TimerHandle)>,
    /// The time to linger is over: reset it.
    pub(crate) abort: bool,
    /// It was given up, and the peer is to be told once.
    pub(crate) last_word: bool,
    /// The flow table no longer leads here.
    pub(crate) detached: bool,
    /// When a segment outside the window was last answered.
    pub(crate) stray_answered_at: Instant,
    /// When the neighbour was last confirmed by our progress.
    pub(crate) confirmed_at: Instant,
    /// When the path layer was last told of our progress.
    pub(crate) progress_told_at: Instant,
    /// When it moved the connection to another path: what left before says nothing of that.
    pub(crate) switched_at: Instant,
    /// Of a listener, and not in its accept queue yet.
    pub(crate) embryo: bool,
    pub(crate) challenges: ChallengeQuota,
    pub(crate) opening: Opening,
    pub(crate) accepted: Accepted,
    pub(crate) known: Known,
    /// What ICMP said since the last progress; told if the connection times out.
    pub(crate) soft_error: Option<TcpError>,
}

/// RFC 9293 3.7.1: what a peer accepts that does not say.
fn mss_default(key: &FlowKey) -> usize {
    if key.local.is_ipv4() { MSS_DEFAULT_V4 } else { MSS_DEFAULT_V6 }
}

impl Connection {
    fn new(origin: Origin, settings: Arc<Settings>, owner: Owner, now: Instant) -> Connection {
        Connection {
            key: origin.key,
            alias: origin.alias,
            owner,
            state: TcpState::Closed,
            error: None,
            error_pending: false,
            iss: origin.iss,
            snd_una: origin.iss,
            snd_nxt: origin.iss,
            snd_wnd: 0,
            snd_wl1: SeqNum(0),
            snd_wl2: origin.iss,
            snd_wnd_max: 0,
            snd_wscale: 0,
            small: Small::new(origin.iss),
            urgent: None,
            send: SendBuffer::new(settings.send_buffer),
            send_base: origin.iss + 1,
            fin_queued: false,
            fin_sent: false,
            irs: SeqNum(0),
            rcv_nxt: SeqNum(0),
            rcv_adv: SeqNum(0),
            rcv_acked: SeqNum(0),
            rcv_wscale: settings.window_scale(),
            rcv_mss: MSS_DEFAULT_V4,
            recv: RecvBuffer::new(settings.recv_buffer),
            assembler: Assembler::default(),
            acking: DelayedAck::default(),
            dsack: None,
            peer_fin: None,
            fin_received: false,
            read_shut: false,
            mss_peer: mss_default(&origin.key),
            scale_agreed: false,
            ts_ok: false,
            sack_ok: false,
            ts_offset: origin.ts_offset,
            ts_recent: 0,
            ts_recent_at: now,
            path: PathMtu::new(origin.mtu),
            rtt: Rtt::new(settings.rto_min),
            sent: SentQueue::default(),
            delivery: Delivery::new(now),
            rack: Rack::default(),
            recovery: Recovery::new(origin.iss),
            cc: Algorithm::new(settings.congestion, MSS_DEFAULT_V4, 0),
            ecn: Ecn::new(settings.ecn, settings.congestion),
            settings,
            pacer: Pacer::default(),
            rtx_at: None,
            rtx_count: 0,
            persist_at: None,
            persist_count: 0,
            unanswered: 0,
            keepalive_at: None,
            linger_at: None,
            progress_at: now,
            last_sent: now,
            ack_now: false,
            syn_pending: true,
            probe: None,
            wake: false,
            write_blocked: true,
            totals: Totals::default(),
            notes: Notes::default(),
        }
    }

    /// An active open: SYN-SENT, the SYN is not sent yet.
    pub(crate) fn connect(
        origin: Origin,
        settings: impl Into<Arc<Settings>>,
        cx: &mut Cx<'_>,
    ) -> Connection {
        let mut c = Connection::new(origin, settings.into(), Owner::App, cx.now);
        cx.stats.active_opens += 1;
        c.set_state(cx, TcpState::SynSent);
        c
    }

    /// A passive open by a SYN with `seq`, `window` and `options`: SYN-RECEIVED.
    pub(crate) fn accept(
        origin: Origin,
        settings: impl Into<Arc<Settings>>,
        listener: u32,
        (seq, window, options): (SeqNum, u16, &Options),
        cx: &mut Cx<'_>,
    ) -> Connection {
        let mut c = Connection::new(origin, settings.into(), Owner::Listener(listener), cx.now);
        c.notes.opening.passive = true;
        c.take_syn(cx.now, seq, window, options);
        c.set_state(cx, TcpState::SynReceived);
        c
    }

    /// What the peer's SYN says (RFC 9293 3.10.7, RFC 7323 1.3, 2.2, RFC 2018 2).
    pub(crate) fn take_syn(&mut self, now: Instant, seq: SeqNum, window: u16, o: &Options) {
        let o = self.settings.offers.taken_up(o);
        self.irs = seq;
        self.rcv_nxt = seq + 1;
        self.rcv_adv = self.rcv_nxt;
        self.rcv_acked = self.rcv_nxt;
        if let Some(mss) = o.mss {
            self.mss_peer = usize::from(mss).max(MSS_MIN);
        }
        match o.window_scale {
            Some(shift) => {
                self.scale_agreed = true;
                self.snd_wscale = shift.min(WINDOW_SCALE_MAX);
            }
            None => self.rcv_wscale = 0,
        }
        self.sack_ok = o.sack_permitted;
        if let Some((value, _)) = o.timestamp {
            self.ts_ok = true;
            self.ts_recent = value;
            self.ts_recent_at = now;
        }
        // The window of a SYN is not scaled (RFC 7323 2.2).
        self.snd_wnd = u32::from(window);
        self.snd_wnd_max = self.snd_wnd;
        self.snd_wl1 = seq;
        self.cc = Algorithm::new(self.settings.congestion, self.mss_full(), self.cc_seed());
    }

    /// What the controller's random choices are made from.
    pub(crate) fn cc_seed(&self) -> u64 {
        u64::from(self.iss.0) << 32 | u64::from(self.ts_offset)
    }

    /// Every change of state goes through here, for the gauge and the events.
    pub(crate) fn set_state(&mut self, cx: &mut Cx<'_>, state: TcpState) {
        let counted = |s| matches!(s, TcpState::Established | TcpState::CloseWait);
        match (counted(self.state), counted(state)) {
            (false, true) => cx.stats.curr_estab += 1,
            (true, false) => cx.stats.curr_estab -= 1,
            _ => {}
        }
        if state == TcpState::TimeWait {
            cx.stats.time_waits += 1;
        }
        if state == TcpState::FinWait2 && self.owner == Owner::Nobody {
            self.linger_at = Some(cx.now + super::timers::FIN_WAIT_2_ORPHAN);
        }
        self.state = state;
    }

    /// The connection is over, with an error for the application.
    pub(crate) fn fail(&mut self, cx: &mut Cx<'_>, error: TcpError) {
        match self.state {
            TcpState::SynSent | TcpState::SynReceived => cx.stats.attempt_fails += 1,
            TcpState::Established | TcpState::CloseWait => cx.stats.estab_resets += 1,
            _ => {}
        }
        self.error = Some(error);
        self.error_pending = true;
        self.finish(cx);
    }

    /// The connection is over.
    pub(crate) fn finish(&mut self, cx: &mut Cx<'_>) {
        self.set_state(cx, TcpState::Closed);
        self.stop_timers();
        self.send.clear();
        self.assembler.clear();
        self.sent.clear();
        (self.ack_now, self.syn_pending, self.probe) = (false, false, None);
        self.wake = true;
    }

    /// Whether both SYNs were exchanged.
    pub(crate) fn is_synchronised(&self) -> bool {
        !matches!(
            self.state,
            TcpState::Closed | TcpState::Listen | TcpState::SynSent | TcpState::SynReceived
        )
    }

    /// The MSS we ask for (RFC 9293 3.7.1, RFC 6691: options not subtracted).
    pub(crate) fn mss_advertised(&self) -> usize {
        mss_of_mtu(self.path.mtu, self.key.local.is_ipv4()).min(usize::from(self.settings.mss_max))
    }

    /// Payload of a full segment with the options that every segment has.
    pub(crate) fn mss_full(&self) -> usize {
        let options = if self.ts_ok { TIMESTAMP_BYTES } else { 0 };
        self.mss_advertised().min(self.mss_peer).saturating_sub(options).max(MSS_MIN - 12)
    }

    /// Bytes sent and not acknowledged, SYN and FIN included.
    pub(crate) fn flight(&self) -> usize {
        (self.snd_nxt - self.snd_una) as usize
    }

    /// Sequence number after the last byte written.
    pub(crate) fn data_end(&self) -> SeqNum {
        self.send_base + self.send.len() as u32
    }

    /// Bytes written and never sent.
    pub(crate) fn unsent(&self) -> usize {
        if self.fin_sent { 0 } else { self.data_end().diff(self.snd_nxt).max(0) as usize }
    }

    /// Whether our FIN was acknowledged.
    pub(crate) fn fin_acked(&self) -> bool {
        self.fin_sent && self.snd_una == self.snd_nxt
    }

    /// Advertised receive window.
    pub(crate) fn rcv_wnd(&self) -> u32 {
        self.rcv_adv.diff(self.rcv_nxt).max(0) as u32
    }

    /// Our timestamp clock: milliseconds and a secret offset (RFC 7323 5.4, 7.1).
    pub(crate) fn timestamp(&self, now: Instant) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.ts_offset)
    }

    /// The latest time at which our timestamp clock showed what the peer echoes at `now`.
    pub(crate) fn echoed_at(&self, now: Instant, echo: u32) -> Instant {
        let age = self.timestamp(now).wrapping_sub(echo);
        let end = now.as_millis().saturating_sub(u64::from(age)) + 1;
        Instant::from_nanos(Instant::from_millis(end).as_nanos() - 1)
    }

    /// What remains of the connection in TIME-WAIT.
    pub(crate) fn time_wait_entry(&self) -> Entry {
        let window = (self.rcv_wnd() >> self.rcv_wscale).min(0xffff) as u16;
        let timestamp = self.ts_ok.then_some((self.ts_recent, self.ts_offset));
        let seqs = (self.snd_nxt, self.rcv_nxt);
        Entry::new((self.key, self.alias), seqs, window, timestamp)
    }

    /// Memory held for data.
    pub(crate) fn held(&self) -> usize {
        self.send.len() + self.recv.held() + self.assembler.held()
    }

    /// Congestion window and slow start threshold.
    pub(crate) fn windows(&self) -> (usize, usize) {
        (self.cc.cwnd(), self.cc.ssthresh())
    }
}

/// RFC 9293 3.7.1, RFC 6691: what we ask for; options are not subtracted.
pub(crate) fn mss_of_mtu(mtu: usize, v4: bool) -> usize {
    let ip_header_bytes = if v4 { 20 } else { 40 };
    mtu.saturating_sub(ip_header_bytes + HEADER_BYTES).clamp(MSS_MIN, usize::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_does_not_grow_unnoticed() {
        let bytes = size_of::<Connection>();
        assert!(bytes <= 968, "{bytes}");
    }
}

//! What an application does with a connection.

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;

use crate::socket::Readiness;
use crate::socket::tcp::{
    ShutdownHow, TcpError, TcpInfo, TcpOption, TcpRecvError, TcpSendError, TcpState,
};
use crate::time::Instant;

use super::cc::{Algorithm, Controller};
use super::settings::Settings;
use super::state::{Connection, Cx, Owner};
use super::timers::FIN_WAIT_2_ORPHAN;

/// What a close means for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Nothing more is to be said.
    Silent,
    /// Unread data is lost: a RST.
    Reset,
    /// The application does not want to wait for what it wrote (`Linger` of zero): a RST.
    Abort,
    /// FIN, and what goes with it, in the background.
    Background,
}

impl Connection {
    /// Copies bytes into the send buffer.
    pub(crate) fn write(&mut self, cx: &mut Cx<'_>, data: &[u8]) -> Result<usize, TcpSendError> {
        let room = self.before_write(cx)?;
        let taken = self.send.push(&data[..data.len().min(room)]);
        cx.stats.snd_copied_octets += taken as u64;
        self.small.more = false;
        self.write_blocked = taken < data.len() || self.send.free() == 0;
        self.note_times(cx.now);
        Ok(taken)
    }

    /// Queues shared bytes, copied if they are fewer than `share_min`.
    pub(crate) fn write_bytes(
        &mut self,
        cx: &mut Cx<'_>,
        data: &mut Bytes,
        share_min: usize,
    ) -> Result<usize, TcpSendError> {
        let room = self.before_write(cx)?;
        let (taken, copied) = self.send.push_shared(data, room, share_min);
        cx.stats.snd_copied_octets += copied as u64;
        self.small.more = false;
        self.write_blocked = !data.is_empty() || self.send.free() == 0;
        self.note_times(cx.now);
        Ok(taken)
    }

    /// Copies bytes into the send buffer; more will follow soon, so that a tail short of a segment
    /// waits for it.
    pub(crate) fn write_more(
        &mut self,
        cx: &mut Cx<'_>,
        data: &[u8],
    ) -> Result<usize, TcpSendError> {
        let taken = self.write(cx, data)?;
        self.small.more = true;
        Ok(taken)
    }

    /// Whether a writer that was refused should try again.
    pub(crate) fn has_write_room(&self) -> bool {
        let lowat = self.settings.notsent_lowat;
        self.send.free() >= self.send.limit() / 3 && (lowat == usize::MAX || self.unsent() < lowat)
    }

    /// How much may be written, as far as memory goes.
    fn before_write(&mut self, cx: &mut Cx<'_>) -> Result<usize, TcpSendError> {
        if let Some(error) = self.error {
            return Err(TcpSendError::Failed(error));
        }
        let opening = matches!(self.state, TcpState::SynSent | TcpState::SynReceived);
        if opening && !self.fin_queued && !self.may_write() {
            return Err(TcpSendError::WouldBlock);
        }
        if !self.may_write() {
            return Err(TcpSendError::Closed);
        }
        if self.send.free() == 0 || self.unsent() >= self.settings.notsent_lowat {
            self.write_blocked = true;
            return Err(TcpSendError::WouldBlock);
        }
        let room = self.write_room(cx);
        if room == 0 {
            cx.stats.snd_memory_refused += 1;
            self.write_blocked = true;
            return Err(TcpSendError::WouldBlock);
        }
        if self.send.len() == 0 {
            // The user timeout counts from here.
            self.progress_at = cx.now;
        }
        Ok(room)
    }

    /// Copies received bytes out.
    pub(crate) fn read(&mut self, cx: &mut Cx<'_>, out: &mut [u8]) -> Result<usize, TcpRecvError> {
        if self.recv.len() == 0 {
            return self.end_of_stream().map(|()| 0);
        }
        let n = self.recv.read(out);
        cx.stats.in_octets += n as u64;
        cx.stats.rcv_copied_octets += n as u64;
        self.after_read(cx);
        Ok(n)
    }

    /// Shows received bytes where they are and gives them up.
    pub(crate) fn read_in_place(
        &mut self,
        cx: &mut Cx<'_>,
        max: usize,
        look: impl FnMut(&[u8]),
    ) -> Result<usize, TcpRecvError> {
        if self.recv.len() == 0 {
            return self.end_of_stream().map(|()| 0);
        }
        let n = self.recv.visit(max, look);
        cx.stats.in_octets += n as u64;
        self.after_read(cx);
        Ok(n)
    }

    /// Copies received bytes out and leaves them.
    pub(crate) fn peek(&self, out: &mut [u8]) -> Result<usize, TcpRecvError> {
        if self.recv.len() == 0 {
            return self.end_of_stream().map(|()| 0);
        }
        Ok(self.recv.peek(out))
    }

    /// Takes received bytes.
    pub(crate) fn read_bytes(
        &mut self,
        cx: &mut Cx<'_>,
        max: usize,
    ) -> Result<Bytes, TcpRecvError> {
        if self.recv.len() == 0 {
            return self.end_of_stream().map(|()| Bytes::new());
        }
        let (bytes, copied) = self.recv.take(max);
        cx.stats.in_octets += bytes.len() as u64;
        cx.stats.rcv_copied_octets += copied as u64;
        self.after_read(cx);
        Ok(bytes)
    }

    fn after_read(&mut self, cx: &mut Cx<'_>) {
        self.urgent_on_read();
        self.tune_recv(cx);
        self.note_memory(cx);
        self.window_update();
    }

    /// Nothing is buffered: is there ever going to be more?
    fn end_of_stream(&self) -> Result<(), TcpRecvError> {
        match self.error {
            _ if self.fin_received || self.read_shut => Ok(()),
            Some(error) => Err(TcpRecvError::Failed(error)),
            None if self.state == TcpState::Closed => Ok(()),
            None => Err(TcpRecvError::WouldBlock),
        }
    }

    pub(crate) fn shut_down(&mut self, cx: &mut Cx<'_>, how: ShutdownHow) {
        if how != ShutdownHow::Write {
            self.read_shut = true;
            // No window update: what comes is acknowledged, and that says enough.
            self.recv.clear();
        }
        if how != ShutdownHow::Read {
            self.queue_fin(cx);
        }
    }

    /// RFC 9293 3.10.4.
    fn queue_fin(&mut self, cx: &mut Cx<'_>) {
        if self.fin_queued || self.state == TcpState::Closed {
            return;
        }
        self.fin_queued = true;
        if self.send.len() == 0 {
            self.progress_at = cx.now;
        }
        match self.state {
            TcpState::Established => self.set_state(cx, TcpState::FinWait1),
            TcpState::CloseWait => self.set_state(cx, TcpState::LastAck),
            _ => {}
        }
    }

    /// The application gives its handle up.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>) -> Closing {
        self.owner = Owner::Nobody;
        match self.state {
            TcpState::Closed | TcpState::TimeWait | TcpState::Listen | TcpState::SynSent => {
                Closing::Silent
            }
            // RFC 2525 2.17
            _ if self.recv.len() > 0 => Closing::Reset,
            _ if self.settings.linger.is_some_and(|limit| limit.is_zero()) => Closing::Abort,
            _ => {
                self.queue_fin(cx);
                let fin_acked = self.state == TcpState::FinWait2;
                let limit = self.settings.linger.filter(|_| !fin_acked);
                let limit = limit.or(fin_acked.then_some(FIN_WAIT_2_ORPHAN));
                self.linger_at = limit.map(|limit| cx.now + limit);
                Closing::Background
            }
        }
    }

    pub(crate) fn set_option(&mut self, cx: &Cx<'_>, option: TcpOption) {
        Arc::make_mut(&mut self.settings).set(option);
        self.apply(cx, option);
        if self.state == TcpState::SynSent && self.snd_nxt == self.iss {
            // The SYN has not left yet.
            self.rcv_wscale = self.settings.window_scale();
        }
    }

    /// What follows from an option that is set.
    fn apply(&mut self, cx: &Cx<'_>, option: TcpOption) {
        match option {
            TcpOption::SendBuffer(_) => {
                self.send.set_limit(self.settings.send_buffer);
                self.tell_writable();
            }
            TcpOption::RecvBuffer(_) => {
                self.recv.set_limit(self.settings.recv_buffer);
                self.window_update();
            }
            TcpOption::KeepAlive(_) => self.arm_keepalive(cx.now),
            TcpOption::Congestion(kind) => {
                self.cc = Algorithm::new(kind, self.mss_full(), self.cc_seed());
            }
            TcpOption::MaxSegment(_) => self.cc.set_mss(self.mss_full()),
            TcpOption::NotSentLowat(_) => self.tell_writable(),
            // As tcp(7) says: what is corked leaves now, and the cork stays for what follows.
            TcpOption::NoDelay(true) => self.small.expired = self.unsent() > 0,
            TcpOption::QuickAck(true) if self.acking.at.is_some() => self.ack_now = true,
            _ => {}
        }
    }

    /// It has the settings of another connection, which nothing was sent or received with, in the
    /// place of `old`.
    pub(super) fn follow_settings(&mut self, cx: &Cx<'_>, old: &Settings) {
        let new = Arc::clone(&self.settings);
        if new.send_buffer != old.send_buffer {
            self.apply(cx, TcpOption::SendBuffer(new.send_buffer));
        }
        if new.recv_buffer != old.recv_buffer {
            self.apply(cx, TcpOption::RecvBuffer(new.recv_buffer));
        }
        if new.keepalive != old.keepalive {
            self.apply(cx, TcpOption::KeepAlive(new.keepalive));
        }
        if new.congestion != old.congestion {
            self.apply(cx, TcpOption::Congestion(new.congestion));
        }
        if new.mss_max != old.mss_max {
            self.apply(cx, TcpOption::MaxSegment(Some(new.mss_max)));
        }
    }

    /// What the application can do without waiting.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut ready = Readiness::default();
        let closed = self.state == TcpState::Closed;
        if self.recv.len() > 0 || self.fin_received || self.read_shut || closed {
            ready |= Readiness::READABLE;
        }
        let room = self.send.free() > 0 && self.unsent() < self.settings.notsent_lowat;
        let writable = self.may_write() && !self.write_blocked && room;
        if writable || self.error.is_some() {
            ready |= Readiness::WRITABLE;
        }
        if self.fin_received || self.read_shut || closed {
            ready |= Readiness::READ_CLOSED;
        }
        if self.fin_queued || closed {
            ready |= Readiness::WRITE_CLOSED;
        }
        if self.urgent_left().is_some() {
            ready |= Readiness::PRIORITY;
        }
        if self.error_pending {
            ready |= Readiness::ERROR;
        }
        ready
    }

    pub(crate) fn take_error(&mut self) -> Option<TcpError> {
        std::mem::take(&mut self.error_pending).then_some(self.error).flatten()
    }

    pub(crate) fn info(&self, now: Instant) -> TcpInfo {
        let (cwnd, ssthresh) = self.windows();
        let (busy, rwnd_limited, sndbuf_limited) = self.totals.times.spent(now);
        TcpInfo {
            state: self.state,
            congestion: self.settings.congestion,
            phase: self.recovery.phase.name(),
            rtt: self.rtt.srtt().unwrap_or(Duration::ZERO),
            rtt_var: self.rtt.rttvar(),
            rtt_min: self.rtt.min().unwrap_or(Duration::ZERO),
            rto: self.rtt.rto(),
            backoff: self.rtt.backoff(),
            mss: self.mss_full(),
            pmtu: self.path.mtu,
            recv_mss: self.rcv_mss,
            window_scale: self.scale_agreed.then_some((self.snd_wscale, self.rcv_wscale)),
            cwnd,
            ssthresh,
            pacing_rate: self.pacing_rate(),
            delivery_rate: self.delivery.rate,
            delivery_rate_app_limited: self.delivery.rate_app_limited,
            send_window: self.snd_wnd as usize,
            recv_window: self.rcv_wnd() as usize,
            send_buffer: self.send.limit(),
            recv_buffer: self.recv.limit(),
            in_flight: self.flight(),
            sacked: self.sent.sacked(),
            lost: self.sent.lost(),
            unsent: self.unsent(),
            unread: self.recv.len(),
            out_of_order: self.assembler.bytes(),
            retransmits: self.totals.losses.retransmits,
            dsacks: u64::from(self.totals.losses.dsacks),
            undos: u64::from(self.totals.losses.undos),
            reordering_seen: u64::from(self.rack.reordered),
            segments_sent: self.totals.times.segments_sent,
            segments_received: self.totals.times.segments_received,
            bytes_sent: self.totals.times.bytes_sent,
            bytes_retransmitted: self.totals.losses.bytes_retransmitted,
            bytes_acked: self.totals.bytes_acked,
            bytes_received: self.totals.bytes_received,
            bytes_ce: self.ecn.bytes_ce(),
            busy,
            rwnd_limited,
            sndbuf_limited,
            last_sent: now.saturating_since(self.last_sent),
            last_received: now.saturating_since(self.totals.times.last_received),
            timestamps: self.ts_ok,
            sack: self.sack_ok,
            ecn: self.ecn.state(),
            fast_open: self.notes.opening.taken,
        }
    }
}

//! Deadlines of a connection: plain instants, of which the table arms the earliest.

use core::time::Duration;

use crate::socket::tcp::{TcpError, TcpState};
use crate::time::Instant;

use super::state::{Connection, Cx, Owner, Probe};

/// How long an orphan waits for the peer's FIN.
pub(crate) const FIN_WAIT_2_ORPHAN: Duration = Duration::from_mins(1);

/// How long memory for data to come is kept, at least.
const RELEASE_AFTER_NS: u64 = 1_000_000_000;

/// RFC 9293 3.8.3 R2: timeouts in a row before a connection is given up (about 15 minutes).
const RETRIES_MAX: u32 = 15;

/// The same when no application waits.
const RETRIES_ORPHAN_MAX: u32 = 8;

/// RFC 9293 3.8.3 SHLD-11: nobody is given up before.
const GIVE_UP_MIN: Duration = Duration::from_secs(100);

/// The same for SYN: RFC 9293 MUST-23 wants three minutes at least; these are four.
const RETRIES_SYN_MAX: u32 = 7;
/// And for SYN-ACK.
const RETRIES_SYN_ACK_MAX: u32 = 5;

/// How long an answer is waited for before a path that moved is blamed, without a measured round trip.
const PATH_MOVED_INITIAL: Duration = Duration::from_millis(5);

impl Connection {
    /// When [`Connection::on_timer`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        // As plain numbers: this is asked after every segment.
        const NEVER: u64 = u64::MAX;
        let nanos = |at: Option<Instant>| at.map_or(NEVER, Instant::as_nanos);
        let first = nanos(self.rtx_at)
            .min(nanos(self.sent.recent.at))
            .min(nanos(self.sent.recent.probe.at))
            .min(nanos(self.acking.at))
            .min(nanos(self.persist_at))
            .min(nanos(self.keepalive_at))
            .min(nanos(self.linger_at))
            .min(nanos(self.user_timeout_at()))
            .min(nanos(self.pacer.deadline()))
            .min(nanos(self.small.deadline()))
            .min(self.release_at());
        (first != NEVER).then(|| Instant::from_nanos(first))
    }

    /// When an idle connection gives memory back that it keeps for data to come.
    fn release_at(&self) -> u64 {
        if !self.send.has_spare() && !self.recv.has_spare() {
            return u64::MAX;
        }
        let quiet = self.last_sent.max(self.totals.times.last_received);
        quiet.as_nanos().saturating_add(self.rtt.rto_nanos().max(RELEASE_AFTER_NS))
    }

    pub(crate) fn stop_timers(&mut self) {
        self.rtx_at = None;
        if let Some(sent) = self.sent.existing() {
            sent.recent.at = None;
            sent.recent.probe.forget();
        }
        self.persist_at = None;
        self.acking.at = None;
        self.keepalive_at = None;
        self.linger_at = None;
        self.pacer.stop();
        self.small.stop();
    }

    /// RFC 5482, local only: how long data may wait for its acknowledgement.
    fn user_timeout_at(&self) -> Option<Instant> {
        let limit = self.settings.user_timeout?;
        let waits = (self.flight() > 0 || self.unsent() > 0) && self.state != TcpState::Closed;
        waits.then(|| self.progress_at + limit)
    }

    /// Time has come to `cx.now`: does whatever is due.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (rtx, persist) = (due(self.rtx_at), due(self.persist_at));
        let (reorder, probe) = (due(self.sent.recent.at), due(self.sent.recent.probe.at));
        let (keepalive, ack) = (due(self.keepalive_at), due(self.acking.at));
        self.pacer.on_timer(cx.now);
        self.on_cork_timer(cx);
        if due(self.linger_at) {
            self.on_linger(cx);
            return;
        }
        if due(self.user_timeout_at()) {
            self.time_out(cx);
            return;
        }
        if ack {
            self.ack_was_delayed(cx);
        }
        if reorder {
            self.on_reorder_timer(cx);
        }
        if probe {
            // It may be due together with the timeout, and then goes first (RFC 8985 7.2).
            self.on_probe_timer(cx);
        } else if rtx {
            self.on_retransmission_timeout(cx);
        }
        if persist && self.state != TcpState::Closed {
            self.on_persist(cx);
        }
        if keepalive && self.state != TcpState::Closed {
            self.on_keepalive(cx);
        }
        if cx.now - self.last_sent >= self.rtt.rto() {
            // Idle: the timer that was armed for the last segment.
            self.sent.release();
            self.send.release();
            self.recv.release();
            if self.sent.is_empty() {
                self.recovery.episode = None;
            }
        }
    }

    /// An orphan has waited long enough: for the peer's FIN, or for acknowledgements (`Linger`).
    fn on_linger(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.state, TcpState::FinWait2 | TcpState::Closed) {
            self.finish(cx);
        } else {
            self.linger_at = None;
            self.notes.abort = true;
            cx.stats.abort_on_linger += 1;
        }
    }

    /// RFC 6298 section 5.
    fn on_retransmission_timeout(&mut self, cx: &mut Cx<'_>) {
        self.rtx_at = None;
        if self.flight() == 0 {
            return;
        }
        cx.stats.timeouts += 1;
        self.rtx_count += 1;
        let most = match self.state {
            TcpState::SynSent => RETRIES_SYN_MAX,
            TcpState::SynReceived => RETRIES_SYN_ACK_MAX,
            _ if self.owner == Owner::Nobody => RETRIES_ORPHAN_MAX,
            _ => RETRIES_MAX,
        };
        if self.owner == Owner::Nobody && cx.budget.is_full() {
            cx.stats.abort_on_memory += 1;
            self.notes.abort = true;
            return;
        }
        self.unanswered += 1;
        // RFC 9293 3.8.6.1: a peer that closed its window over them, but answers, is waited for.
        let waits = self.snd_wnd == 0 && self.is_synchronised() && self.owner != Owner::Nobody;
        let patience = if waits { self.unanswered } else { self.rtx_count };
        if patience > most && (!self.is_synchronised() || self.has_waited_long(cx)) {
            self.time_out(cx);
            return;
        }
        self.rtt.back_off();
        if self.is_synchronised() {
            if self.snd_una == self.iss + 1 {
                self.ecn.on_first_flight_lost();
            }
            self.path_on_timeout(cx);
            self.enter_timeout_recovery(cx);
        } else {
            self.syn_data_lost(cx);
            self.syn_pending = true;
        }
        self.rtx_at = Some(cx.now + self.rtt.rto());
    }

    /// The path below is another one, and frames were lost with the former: what the peer had time to
    /// acknowledge is sent again at once, and whatever waits longer with every try begins anew (as with
    /// RFC 6069).
    pub(crate) fn on_path_moved(&mut self, cx: &mut Cx<'_>) {
        if self.persist_at.is_some() {
            self.persist_at = Some(cx.now);
        }
        if !self.is_synchronised() {
            return self.on_path_moved_in_handshake(cx);
        }
        let Some(first) = self.sent.first().map(|sent| sent.stamp.sent_at) else { return };
        self.rtt.end_backoff();
        let rtx_at = cx.now + self.rtt.rto();
        self.rtx_at = self.rtx_at.map(|at| at.min(rtx_at));
        let answers_within = self.rtt.srtt().map_or(PATH_MOVED_INITIAL, |srtt| srtt * 2);
        if cx.now - first < answers_within {
            return;
        }
        cx.stats.path_moved_retrans += 1;
        if self.rtx_count > 0 {
            self.rtx_count += 1;
            self.enter_timeout_recovery(cx);
        } else {
            self.enter_moved_recovery(cx);
        }
        self.rtx_at = Some(rtx_at);
    }

    fn on_path_moved_in_handshake(&mut self, cx: &mut Cx<'_>) {
        if self.rtx_at.is_some() && cx.now - self.last_sent >= PATH_MOVED_INITIAL {
            cx.stats.path_moved_retrans += 1;
            self.syn_pending = true;
            self.rtx_at = Some(cx.now + self.rtt.rto());
        }
    }

    /// Where timeouts are short their number says little.
    fn has_waited_long(&self, cx: &Cx<'_>) -> bool {
        cx.now - self.progress_at >= GIVE_UP_MIN
    }

    fn time_out(&mut self, cx: &mut Cx<'_>) {
        cx.stats.abort_on_timeout += 1;
        // RFC 9293 3.10.8 deletes the TCB silently; a peer that has nothing to send would never learn
        // of it. It gets the RST that its next segment would get.
        self.notes.last_word = self.is_synchronised();
        // RFC 1122 4.2.3.9: a soft error is the better reason.
        let reason = self.notes.soft_error.unwrap_or(TcpError::TimedOut);
        self.fail(cx, reason);
    }

    /// RFC 9293 3.8.6.1: probe a closed window; send into a small one.
    fn on_persist(&mut self, cx: &mut Cx<'_>) {
        self.persist_at = None;
        if self.flight() > 0 {
            return;
        }
        self.persist_count += 1;
        self.unanswered += 1;
        let most = if self.owner == Owner::Nobody { RETRIES_ORPHAN_MAX } else { RETRIES_MAX };
        // A peer that answers may keep its window closed for ever, unless nobody waits for it.
        let patience =
            if self.owner == Owner::Nobody { self.persist_count } else { self.unanswered };
        if patience > most && self.has_waited_long(cx) {
            self.time_out(cx);
        } else if self.snd_wnd == 0 {
            self.probe = Some(Probe::Window);
        } else {
            self.small.force = true;
        }
    }

    /// RFC 9293 3.8.4.
    fn on_keepalive(&mut self, cx: &mut Cx<'_>) {
        let Some((idle, interval, count)) = self.settings.keepalive else {
            self.keepalive_at = None;
            return;
        };
        if self.flight() > 0 || self.persist_count > 0 {
            // Something else asks the peer already.
            self.keepalive_at = Some(cx.now + idle);
            return;
        }
        if self.unanswered >= count {
            self.time_out(cx);
            return;
        }
        self.unanswered += 1;
        self.probe = Some(Probe::KeepAlive);
        self.keepalive_at = Some(cx.now + interval);
    }

    pub(crate) fn arm_keepalive(&mut self, now: Instant) {
        let on = self.is_synchronised() && self.state != TcpState::TimeWait;
        self.keepalive_at = self.settings.keepalive.filter(|_| on).map(|(idle, _, _)| now + idle);
    }

    /// The peer was heard of.
    pub(crate) fn keepalive_count_reset(&mut self, now: Instant) {
        if self.keepalive_at.is_some() {
            self.unanswered = 0;
            self.arm_keepalive(now);
        }
    }
}

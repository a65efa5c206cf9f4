//! What has to hold between any two calls, whatever the network does: for simulations and fuzzing
//! (feature `check`). It reads only; its cost grows with the number of connections.

use crate::socket::tcp::TcpState;

use super::Tcp;
use super::cc::Controller;
use super::state::{Connection, Owner};

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        let holds: bool = $holds;
        if !holds {
            return Err(format!($($what)+));
        }
    };
}

impl Tcp {
    /// All that connections are.
    pub(crate) fn describe(&self, text: &mut String) {
        use core::fmt::Write as _;
        for (_, c) in &self.connections {
            let _never_fails = write!(text, "{c:?}");
        }
    }

    /// The table: gauges equal what they count, no connection waits for a turn that never comes.
    pub(crate) fn check(&self, established: u64) -> Result<(), String> {
        let (mut estab, mut dirty, mut held, mut holders) = (0, 0, 0, 0);
        for (_, c) in &self.connections {
            let told = |e| format!("{} -> {} {:?}: {e}", c.key.local(), c.key.peer(), c.state);
            c.check().map_err(told)?;
            estab += u64::from(matches!(c.state, TcpState::Established | TcpState::CloseWait));
            dirty += usize::from(c.notes.dirty);
            held += c.notes.charged;
            holders += usize::from(c.notes.charged > 0);
        }
        ensure!(estab == established, "{estab} established, the gauge says {established}");
        let waits = self.half_open.next_deadline().is_some();
        ensure!(!waits || self.half_open_armed.is_some(), "half-open connections without a timer");
        let waits = self.time_waits.next_deadline().is_some();
        ensure!(!waits || self.time_wait_armed, "TIME-WAIT without a timer");
        let total = (self.budget.held, self.budget.holders);
        ensure!(
            (held, holders) == total,
            "{held} bytes by {holders} held, the account says {total:?}"
        );
        ensure!(dirty <= self.dirty.len(), "{dirty} dirty, {} in the list", self.dirty.len());
        Ok(())
    }
}

impl Connection {
    fn check(&self) -> Result<(), String> {
        if matches!(self.state, TcpState::Closed | TcpState::TimeWait) {
            return Ok(());
        }
        self.check_send()?;
        self.check_receive()?;
        self.check_timers()
    }

    /// RFC 9293 3.3.1: the order of the send variables; what was promised to the peer.
    fn check_send(&self) -> Result<(), String> {
        let (una, nxt) = (self.snd_una, self.snd_nxt);
        ensure!(una <= nxt, "snd_una {una:?} is beyond snd_nxt {nxt:?}");
        let end = self.data_end() + u32::from(self.fin_sent);
        ensure!(nxt <= end, "snd_nxt {nxt:?} is beyond what was written, {end:?}");
        ensure!(!self.fin_sent || self.fin_queued, "a FIN nobody asked for");
        let (pipe, flight) = (self.pipe(), self.flight());
        ensure!(pipe <= flight.saturating_mul(2), "pipe {pipe} of {flight} in flight");
        if self.is_synchronised() {
            self.sent.check(una, nxt)?;
        }
        ensure!(self.cc.cwnd() > 0, "no congestion window");
        Ok(())
    }

    /// The window's right edge is where it was promised; nothing waits that is in order.
    fn check_receive(&self) -> Result<(), String> {
        if !self.is_synchronised() {
            return Ok(());
        }
        let (nxt, adv) = (self.rcv_nxt, self.rcv_adv);
        // The peer's FIN is taken even with a closed window.
        ensure!(nxt <= adv + 1, "rcv_nxt {nxt:?} is beyond the promised edge {adv:?}");
        ensure!(self.rcv_acked <= nxt, "acknowledged beyond rcv_nxt");
        Ok(())
    }

    /// Whoever waits has a deadline, or a turn.
    fn check_timers(&self) -> Result<(), String> {
        let deadline = self.next_deadline();
        if self.notes.dirty {
            return Ok(());
        }
        let (flight, unsent) = (self.flight(), self.unsent());
        let fin_waits = self.fin_queued && !self.fin_sent;
        let waits = flight > 0 || unsent > 0 || fin_waits;
        ensure!(
            !waits || deadline.is_some(),
            "no timer with {flight} in flight, {unsent} unsent, FIN waits: {fin_waits}"
        );
        let orphan = self.owner == Owner::Nobody && self.state == TcpState::FinWait2;
        ensure!(!orphan || deadline.is_some(), "an orphan without an end");
        if let Some(at) = deadline {
            let armed = self.notes.armed.map(|(armed, _)| armed);
            ensure!(armed.is_some_and(|a| a <= at), "due at {at:?}, armed {armed:?}");
        }
        Ok(())
    }
}

//! One BFD session: asynchronous mode without echo (RFC 5880 6.8).
//!
//! It knows neither addresses nor members: who gives it a packet has found that it is for it.

use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use super::wire::{Diagnostic, Packet, Refused, State};

/// A session that is not up sends no more often (RFC 5880 6.8.3).
pub const SLOW_TX_US: u32 = 1_000_000;
/// Packets after which an up session counts as repaired.
const REPAIR_PACKETS: u32 = 10;

/// Timers of a session, ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// We want to send so often, in microseconds, once up.
    pub desired_tx_us: u32,
    /// We take packets so often.
    pub required_rx_us: u32,
    /// So many missing packets are a failure, 1 at least.
    pub multiplier: u8,
}

/// A session. Fields are the variables of RFC 5880 6.8.1.
#[derive(Clone, Debug)]
pub struct Session {
    timers: Timers,
    state: State,
    remote_state: State,
    local_discriminator: u32,
    remote_discriminator: u32,
    diagnostic: Diagnostic,
    /// What we say, and what we do until the other end has agreed.
    desired_tx_us: u32,
    used_tx_us: u32,
    required_rx_us: u32,
    used_rx_us: u32,
    remote_min_rx_us: u32,
    remote_desired_tx_us: u32,
    remote_multiplier: u8,
    remote_demand: bool,
    remote_diagnostic: Diagnostic,
    /// A poll sequence runs; after it another has to, for what changed meanwhile.
    polling: bool,
    poll_again: bool,
    final_due: bool,
    /// `None`: stopped (no link).
    running: bool,
    last_tx: Option<Instant>,
    next_tx: Option<Instant>,
    last_rx: Option<Instant>,
    expires: Option<Instant>,
    /// Held down: packets say so until then.
    silent_after: Option<Instant>,
    /// It was up and is lost, and was not repaired yet: when the first packet was missing.
    lost: Option<Instant>,
    packets_up: u32,
    rng: Rng,
}

impl Session {
    /// A session that is stopped; `discriminator` is not 0 and unique.
    pub fn new(timers: Timers, discriminator: u32, rng: Rng) -> Session {
        let timers = Timers { multiplier: timers.multiplier.max(1), ..timers };
        let slow = timers.desired_tx_us.max(SLOW_TX_US);
        Session {
            timers,
            state: State::Down,
            remote_state: State::Down,
            local_discriminator: discriminator,
            remote_discriminator: 0,
            diagnostic: Diagnostic::NONE,
            desired_tx_us: slow,
            used_tx_us: slow,
            required_rx_us: timers.required_rx_us,
            used_rx_us: timers.required_rx_us,
            remote_min_rx_us: 1,
            remote_desired_tx_us: 0,
            remote_multiplier: 0,
            remote_demand: false,
            remote_diagnostic: Diagnostic::NONE,
            polling: false,
            poll_again: false,
            final_due: false,
            running: false,
            last_tx: None,
            next_tx: None,
            last_rx: None,
            expires: None,
            silent_after: None,
            lost: None,
            packets_up: 0,
            rng,
        }
    }

    /// State.
    pub fn state(&self) -> State {
        self.state
    }

    /// Our discriminator.
    pub fn discriminator(&self) -> u32 {
        self.local_discriminator
    }

    /// Why it left its last state, ours and what the other end says of itself.
    pub fn diagnostics(&self) -> (Diagnostic, Diagnostic) {
        (self.diagnostic, self.remote_diagnostic)
    }

    /// When the last packet was taken.
    pub fn last_rx(&self) -> Option<Instant> {
        self.last_rx
    }

    /// It was up, is lost, and not repaired since: when the first packet was missing.
    pub fn lost(&self) -> Option<Instant> {
        self.lost
    }

    /// Between two packets, before jitter (RFC 5880 6.8.7).
    pub fn tx_interval(&self) -> Duration {
        micros(self.used_tx_us.max(self.remote_min_rx_us))
    }

    /// Silence of this length is a failure (RFC 5880 6.8.4); zero before the first packet.
    pub fn detection_time(&self) -> Duration {
        self.rx_interval() * u32::from(self.remote_multiplier)
    }

    fn rx_interval(&self) -> Duration {
        micros(self.used_rx_us.max(self.remote_desired_tx_us))
    }

    /// The link is there: begin to send.
    pub fn start(&mut self, now: Instant) {
        self.running = true;
        let wait = self.rng.below(100_000_000);
        self.next_tx = Some(now + Duration::from_nanos(wait));
    }

    /// The link is gone.
    pub fn stop(&mut self, now: Instant) {
        self.running = false;
        if matches!(self.state, State::Init | State::Up) {
            self.enter(now, State::Down, Diagnostic::PATH_DOWN);
        }
        self.forget_remote();
        self.next_tx = None;
        self.final_due = false;
    }

    /// RFC 5880 6.8.16: holds the session down, or lets it come up again.
    pub fn set_admin_down(&mut self, now: Instant, down: bool) {
        if down && self.state != State::AdminDown {
            // The other end has to hear of it for one detection time.
            let heard = self.tx_interval() * u32::from(self.timers.multiplier);
            self.enter(now, State::AdminDown, Diagnostic::ADMIN_DOWN);
            self.silent_after = Some(now + heard + micros(SLOW_TX_US));
            self.lost = None;
            self.polling = false;
        } else if !down && self.state == State::AdminDown {
            self.silent_after = None;
            self.enter(now, State::Down, self.diagnostic);
        }
    }

    /// Other timers from now on (RFC 5880 6.8.3): told by a poll sequence.
    pub fn set_timers(&mut self, now: Instant, timers: Timers) {
        self.timers = Timers { multiplier: timers.multiplier.max(1), ..timers };
        let desired = if self.state == State::Up {
            timers.desired_tx_us
        } else {
            timers.desired_tx_us.max(SLOW_TX_US)
        };
        self.announce(now, desired, timers.required_rx_us);
    }

    /// Says new intervals; those that the other end has to know first are used after its `F`.
    fn announce(&mut self, now: Instant, desired_tx_us: u32, required_rx_us: u32) {
        if (desired_tx_us, required_rx_us) == (self.desired_tx_us, self.required_rx_us) {
            return;
        }
        (self.desired_tx_us, self.required_rx_us) = (desired_tx_us, required_rx_us);
        let up = self.state == State::Up;
        if !up || desired_tx_us <= self.used_tx_us {
            self.used_tx_us = desired_tx_us;
        }
        if !up || required_rx_us >= self.used_rx_us {
            self.used_rx_us = required_rx_us;
        }
        if self.remote_discriminator != 0 {
            self.poll_again = self.polling;
            self.polling = true;
        }
        self.update_deadlines(now);
    }

    fn update_deadlines(&mut self, now: Instant) {
        if self.state != State::AdminDown && self.remote_multiplier != 0 {
            self.expires = self.last_rx.map(|at| at + self.detection_time());
        }
        // The period changed: what was planned by the old one is planned anew.
        if let (Some(last), Some(next)) = (self.last_tx, self.next_tx) {
            let (low, high) = (self.tx_interval() * 3 / 4, self.tx_interval());
            if next > last + high || (next > now && next < last + low) {
                self.next_tx = Some(last + self.jittered());
            }
        }
    }

    /// RFC 5880 6.8.7: 75 to 100 % of the interval, 90 % if one loss is a failure.
    fn jittered(&mut self) -> Duration {
        let interval = self.tx_interval().as_nanos() as u64;
        let spread = if self.timers.multiplier == 1 { interval * 15 / 100 } else { interval / 4 };
        Duration::from_nanos(interval / 4 * 3 + self.rng.below(spread + 1))
    }

    fn enter(&mut self, now: Instant, state: State, diagnostic: Diagnostic) {
        let was = self.state;
        self.state = state;
        self.diagnostic = diagnostic;
        self.packets_up = 0;
        if was == State::Up && state != State::Up {
            let missing = self.last_rx.map_or(now, |at| at + self.rx_interval());
            self.lost.get_or_insert(missing.min(now));
        }
        let wanted = self.timers.desired_tx_us;
        let desired = if state == State::Up { wanted } else { wanted.max(SLOW_TX_US) };
        self.announce(now, desired, self.timers.required_rx_us);
        // RFC 5880 6.8.7: a change is told at once.
        if self.running {
            self.next_tx = Some(now);
        }
    }

    fn forget_remote(&mut self) {
        self.remote_discriminator = 0;
        self.remote_min_rx_us = 1;
        self.remote_desired_tx_us = 0;
        self.remote_multiplier = 0;
        self.remote_demand = false;
        self.remote_state = State::Down;
        self.polling = false;
        self.poll_again = false;
        self.expires = None;
    }

    /// Takes a packet that passed [`Packet::parse`] and is for this session (RFC 5880 6.8.6).
    pub fn receive(&mut self, now: Instant, packet: &Packet) -> Result<(), Refused> {
        if !self.running {
            return Err(Refused::AdminDown);
        }
        let your = packet.your_discriminator;
        if your != 0 && your != self.local_discriminator {
            return Err(Refused::YourDiscriminator);
        }
        self.remote_discriminator = packet.my_discriminator;
        self.remote_state = packet.state;
        self.remote_demand = packet.demand;
        self.remote_diagnostic = packet.diagnostic;
        self.remote_min_rx_us = packet.required_rx_us;
        self.remote_desired_tx_us = packet.desired_tx_us;
        self.remote_multiplier = packet.multiplier;
        if self.polling && packet.last {
            self.polling = core::mem::take(&mut self.poll_again);
            if !self.polling {
                self.used_tx_us = self.desired_tx_us;
                self.used_rx_us = self.required_rx_us;
            }
        }
        if self.state == State::AdminDown {
            return Err(Refused::AdminDown);
        }
        self.last_rx = Some(now);
        self.update_deadlines(now);
        self.step(now, packet.state);
        self.final_due |= packet.poll;
        if self.state == State::Up {
            self.packets_up = self.packets_up.saturating_add(1);
            if self.packets_up >= REPAIR_PACKETS {
                self.lost = None;
            }
        }
        Ok(())
    }

    /// RFC 5880 6.8.6, the state machine of 6.2.
    fn step(&mut self, now: Instant, heard: State) {
        match (self.state, heard) {
            (State::Init | State::Up, State::AdminDown) => {
                self.enter(now, State::Down, Diagnostic::NEIGHBOR_DOWN);
                // On purpose, so not a failure of the path.
                self.lost = None;
            }
            (State::Down, State::Down) => self.enter(now, State::Init, self.diagnostic),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(now, State::Up, Diagnostic::NONE);
            }
            (State::Up, State::Down) => self.enter(now, State::Down, Diagnostic::NEIGHBOR_DOWN),
            (State::Down, State::AdminDown) => self.lost = None,
            _ => {}
        }
    }

    /// Time has passed: the other end may be lost.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.expires.is_some_and(|at| at <= now) {
            if matches!(self.state, State::Init | State::Up) {
                self.enter(now, State::Down, Diagnostic::EXPIRED);
            }
            // RFC 5880 6.8.1: bfd.RemoteDiscr.
            self.forget_remote();
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        let demand =
            self.remote_demand && self.state == State::Up && self.remote_state == State::Up;
        !self.running
            || self.remote_min_rx_us == 0
            || (demand && !self.polling)
            || self.silent_after.is_some_and(|at| at <= now)
    }

    /// When [`Session::handle_timeout`] and [`Session::poll_transmit`] have to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tx = self.next_tx.filter(|at| !self.is_silent(*at));
        tx.into_iter().chain(self.expires).min()
    }

    /// A packet to send now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Packet> {
        if core::mem::take(&mut self.final_due) && self.running {
            return Some(self.packet(false, true));
        }
        if self.is_silent(now) || self.next_tx.is_none_or(|at| at > now) {
            return None;
        }
        self.last_tx = Some(now);
        self.next_tx = Some(now + self.jittered());
        Some(self.packet(self.polling, false))
    }

    fn packet(&self, poll: bool, last: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            last,
            independent: false,
            demand: false,
            multiplier: self.timers.multiplier,
            my_discriminator: self.local_discriminator,
            your_discriminator: self.remote_discriminator,
            desired_tx_us: self.desired_tx_us,
            required_rx_us: self.required_rx_us,
            required_echo_us: 0,
        }
    }
}

fn micros(us: u32) -> Duration {
    Duration::from_micros(u64::from(us))
}

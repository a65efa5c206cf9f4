//! Runs a script against a host in virtual time.
//!
//! The clock moves only while the script waits: for the time of its next event, for a packet that
//! is expected, or for a call that blocks. One call may block at a time, as in packetdrill, whose
//! calls run on a second thread.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use weft_stack::time::Instant;

use crate::host::{Host, HostConfig};
use crate::packet::Packet;
use crate::parse::ScriptError;
use crate::script::{Action, Event, Script, When};
use crate::settings::{Settings, later};
use crate::token::Position;
use crate::{assertions, host};

mod arguments;
mod calls;
mod packets;

use calls::Blocked;
use packets::Flows;

/// How long `*` and calls without a time of their end wait.
const PATIENCE: Duration = Duration::from_hours(1);

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Events of the script.
    pub events: usize,
    /// Virtual time it took.
    pub time: Duration,
}

/// Runs `script`; its options and commands come on top of `settings`.
pub fn run(script: &Script, settings: &Settings) -> Result<Summary, ScriptError> {
    let at = script.events.first().map_or(Position::default(), |e| e.at);
    let wrong = |(at, what)| ScriptError { file: script.name.clone(), at, what };
    let mut settings = settings.clone();
    for option in &script.options {
        settings.apply(option).map_err(|e| wrong((option.at, e)))?;
    }
    if let Some((at, command)) = &script.init {
        settings.command(command).map_err(|e| wrong((*at, e)))?;
    }
    let mut runner = Runner::new(settings).map_err(|e| wrong((at, e)))?;
    runner.script(script).map_err(wrong)?;
    Ok(Summary { events: script.events.len(), time: runner.host.now() - runner.origin })
}

/// Where and what.
type Fault = (Position, String);

struct Runner {
    settings: Settings,
    host: Host,
    /// Instant of the script's time 0.
    origin: Instant,
    /// Packets sent that no event has taken.
    sent: VecDeque<(Instant, Packet)>,
    flows: Flows,
    /// Descriptors: the script's number to the host's.
    descriptors: HashMap<i64, i32>,
    /// The connection that `%{ }%` asks about.
    asked: Option<i32>,
    blocked: Option<Blocked>,
    /// Bytes of the pattern read and written so far, by descriptor.
    read: HashMap<i32, u64>,
    written: HashMap<i32, u64>,
    /// An application wrote text of the script instead of the pattern.
    own_text: bool,
    /// What `%{ name = value }%` named.
    named: HashMap<String, i128>,
}

/// What separates a script's event from the one before.
#[derive(Clone, Copy, Default)]
struct Previous {
    /// Script time of the event before, microseconds.
    due: u64,
    inbound: bool,
}

impl Runner {
    fn new(settings: Settings) -> Result<Runner, String> {
        let len = if settings.v4 { 16 } else { 64 };
        let host = Host::new(HostConfig {
            stack: settings.stack.clone(),
            addresses: vec![(settings.local, len)],
            mtu: settings.mtu,
        })?;
        Ok(Runner {
            origin: host.now(),
            host,
            settings,
            sent: VecDeque::new(),
            flows: Flows::default(),
            descriptors: HashMap::new(),
            asked: None,
            blocked: None,
            read: HashMap::new(),
            written: HashMap::new(),
            own_text: false,
            named: HashMap::new(),
        })
    }

    fn script(&mut self, script: &Script) -> Result<(), Fault> {
        let mut previous = Previous::default();
        for (i, event) in script.events.iter().enumerate() {
            if i == 0 && event.time != When::At(0) && event.time != When::Plus(0) {
                return Err((event.at, "the first event must be at time 0".into()));
            }
            previous = self.event(event, previous)?;
        }
        self.finish_blocked()?;
        self.collect(script.events.last().map_or(Position::default(), |e| e.at))?;
        let last = script.events.last().map_or(Position::default(), |e| e.at);
        match self.sent.front() {
            Some((when, packet)) if self.settings.complete => {
                let (time, text) = (self.seconds(*when), self.flows.show(packet));
                Err((last, format!("a packet that no line expects:\nactual packet: {time} {text}")))
            }
            _ => Ok(()),
        }
    }

    /// Runs one event.
    fn event(&mut self, event: &Event, previous: Previous) -> Result<Previous, Fault> {
        let inbound = matches!(&event.action, Action::Packet(p) if p.inbound);
        if matches!(event.action, Action::Call(_)) {
            self.finish_blocked()?;
        }
        // Rounded up: what follows comes not a fraction sooner than the script says.
        let now = (self.host.now() - self.origin).as_nanos().div_ceil(1000) as u64;
        // Inbound packets in a row count from each other, everything else from what happened.
        let base = if inbound && previous.inbound { previous.due } else { now };
        let (due, end) = match event.time {
            When::At(t) => (t, t),
            When::Plus(t) => (base + t, base + t),
            When::Any => (now, now),
            When::Between(a, b) => (a, b),
            When::PlusBetween(a, b) => (base + a, base + b),
        };
        if matches!(event.time, When::At(t) if t < previous.due) {
            return Err((event.at, "time goes backwards in the script".into()));
        }
        match &event.action {
            Action::Packet(spec) if !spec.inbound => {
                let window = (event.time != When::Any).then_some((due, end));
                let tolerance = self.tolerance(due.saturating_sub(previous.due));
                self.expect_packet(event.at, spec, window, tolerance)?;
            }
            action => {
                self.advance_to(self.instant(due))?;
                let late = self.micros(self.host.now()).saturating_sub(due);
                if late > self.tolerance(due.saturating_sub(previous.due)) {
                    let now = self.seconds(self.host.now());
                    let due = self.seconds(self.instant(due));
                    return Err((event.at, format!("timing error: due at {due}, it is {now}")));
                }
                self.act(event, action, due)?;
            }
        }
        Ok(Previous { due: due.max(previous.due), inbound })
    }

    fn act(&mut self, event: &Event, action: &Action, due: u64) -> Result<(), Fault> {
        match action {
            Action::Packet(spec) => {
                self.inject(spec).map_err(|e| (event.at, e))?;
                self.retry_blocked()
            }
            Action::Call(call) => {
                let end = call.end.map(|end| match event.time {
                    When::Plus(start) => due - start + end,
                    _ => end,
                });
                self.call(event.at, call, end)
            }
            Action::Code(code) => self.code(code).map_err(|e| (event.at, e)),
            Action::Command(command) => match later(command).map_err(|e| (event.at, e))? {
                Some(mtu) => self.host.set_mtu(mtu).map_err(|e| (event.at, e)),
                None => Ok(()),
            },
        }
    }

    fn code(&mut self, code: &str) -> Result<(), String> {
        let fd = self.asked.ok_or("no connection to ask about yet")?;
        let info = self.host.tcp_info(fd).ok_or("the connection is closed")?;
        assertions::check(code, &host::info_names(&info), &mut self.named)
    }

    /// Microseconds that a time may be off, this long after the event before.
    fn tolerance(&self, since_us: u64) -> u64 {
        let relative = since_us as f64 * self.settings.tolerance_percent / 100.0;
        self.settings.tolerance_us.max(relative as u64)
    }

    fn instant(&self, us: u64) -> Instant {
        self.origin + Duration::from_micros(us)
    }

    fn micros(&self, at: Instant) -> u64 {
        (at - self.origin).as_micros() as u64
    }

    fn seconds(&self, at: Instant) -> String {
        let us = self.micros(at);
        format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
    }

    /// Goes to the next thing that happens, at most to `to`; false if nothing was left before.
    fn step(&mut self, to: Instant) -> Result<bool, Fault> {
        let call = self.blocked.as_ref().and_then(|b| b.deadline);
        let next = self.host.next_deadline().into_iter().chain(call).min();
        let next = next.filter(|t| *t < to);
        self.host.advance(next.unwrap_or(to).max(self.host.now()));
        self.retry_blocked()?;
        Ok(next.is_some())
    }

    fn advance_to(&mut self, to: Instant) -> Result<(), Fault> {
        while self.step(to)? {}
        Ok(())
    }
}

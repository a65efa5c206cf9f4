//! A DHCPv6 client (RFC 8415) for one address (IA_NA), without sockets and clocks.
//!
//! Everything is sent to all servers of the link, from the link-local address; answers are told
//! apart by transaction id and DUID.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use weft_stack::time::Instant;

use super::client::{Action, Common, Held, State, To};
use super::lease::{Lease, unhex};
use super::message6::{Answer, Ask, Kind, Status};

#[cfg(test)]
mod tests;

/// RFC 8415 7.6.
const SOL_MAX_RT_S: u32 = 3600;
const CNF_MAX_RD: Duration = Duration::from_secs(10);
const REQ_MAX_RC: u32 = 10;
const LEAVE_MAX_RC: u32 = 4;
/// After a refusal or a conflict.
const WAIT: Duration = Duration::from_secs(10);

/// What a client is told once.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Our DUID.
    pub(super) client: Vec<u8>,
    pub(super) iaid: u32,
    pub(super) enterprise: u32,
    /// Option 16.
    pub(super) class: String,
    pub(super) rapid_commit: bool,
    /// Advertisements must carry option 17.
    pub(super) vendor_only: bool,
    pub(super) cached_after: Duration,
    pub(super) keep_expired: bool,
    pub(super) spread: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// With the best advertisement so far.
    Selecting(Option<(u8, Box<Lease>)>),
    Requesting(Box<Lease>),
    Confirming(Box<Lease>),
    /// Bound, or being checked.
    Holding,
    Renewing,
    Rebinding,
    Waiting,
    /// Gives an address back (or declines it), then waits, or does nothing more.
    Leaving(Kind, Box<Lease>),
    Released,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client6 {
    pub(super) settings: Settings,
    pub(super) common: Common,
    phase: Phase,
    xid: [u8; 3],
    sent: u32,
    /// When the next message is due.
    at: Option<Instant>,
    /// The last wait between messages.
    wait: Duration,
    /// When this exchange began, and when the last message was sent.
    since: Instant,
    asked: Instant,
    sol_max_rt: Duration,
    wish: Option<Ipv6Addr>,
}

fn v6(lease: &Lease) -> Option<Ipv6Addr> {
    match lease.address {
        IpAddr::V6(a) => Some(a),
        IpAddr::V4(_) => None,
    }
}

/// First and longest wait of a phase (RFC 8415 7.6).
fn times(phase: &Phase, sol_max_rt: Duration) -> (Duration, Duration) {
    let s = Duration::from_secs;
    match phase {
        Phase::Selecting(_) => (s(1), sol_max_rt),
        Phase::Requesting(_) => (s(1), s(30)),
        Phase::Confirming(_) => (s(1), s(4)),
        Phase::Leaving(..) => (s(1), s(16)),
        _ => (s(10), s(600)),
    }
}

impl Client6 {
    /// Begins. `cached` is what the cache has, and how long ago it was given.
    pub(super) fn start(
        settings: Settings,
        seed: u64,
        now: Instant,
        cached: Option<(Lease, Duration)>,
    ) -> Client6 {
        let mut client = Client6 {
            common: Common::new(seed),
            phase: Phase::Selecting(None),
            xid: [0; 3],
            sent: 0,
            at: None,
            wait: Duration::ZERO,
            since: now,
            asked: now,
            sol_max_rt: Duration::from_secs(SOL_MAX_RT_S.into()),
            wish: None,
            settings,
        };
        let cache = (client.settings.cached_after, client.settings.keep_expired);
        let cached = client.common.remember(now, cached, cache);
        client.wish = cached.and_then(v6);
        // What no server gave, none can confirm.
        let phase = match cached.filter(|lease| !lease.server.is_empty()) {
            Some(lease) => Phase::Confirming(Box::new(lease.clone())),
            None => Phase::Selecting(None),
        };
        let wait = client.common.random(client.settings.spread);
        client.enter(now, phase, wait);
        client
    }

    fn enter(&mut self, now: Instant, phase: Phase, wait: Duration) {
        let random = self.common.rng.next_u32().to_be_bytes();
        self.xid = [random[1], random[2], random[3]];
        let waits = matches!(phase, Phase::Holding | Phase::Released);
        self.phase = phase;
        self.sent = 0;
        self.since = now + wait;
        self.at = (!waits).then(|| now + wait);
    }

    /// Transaction id of what is asked now.
    pub(super) fn xid(&self) -> [u8; 3] {
        self.xid
    }

    pub(super) fn state(&self) -> State {
        let held = self.common.held.as_ref();
        match self.phase {
            Phase::Released | Phase::Leaving(Kind::Release, _) => State::Released,
            Phase::Holding if held.is_some_and(|h| !h.ready) => State::Checking,
            Phase::Holding => State::Bound,
            Phase::Renewing => State::Renewing,
            Phase::Rebinding => State::Rebinding,
            _ if held.is_some_and(|h| !h.ready) => State::Checking,
            _ if held.is_some() => State::Cached,
            Phase::Selecting(_) => State::Selecting,
            Phase::Requesting(_) => State::Requesting,
            Phase::Confirming(_) => State::Confirming,
            Phase::Waiting | Phase::Leaving(..) => State::Waiting,
        }
    }

    /// When [`Client6::timeout`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let held = self.common.held.as_ref();
        let next = held.and_then(|h| match self.phase {
            Phase::Holding => h.renew_at,
            Phase::Renewing => h.rebind_at,
            _ => None,
        });
        [self.at, next, self.common.deadline()].into_iter().flatten().min()
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        if self.common.expire(now)
            && !matches!(self.phase, Phase::Selecting(_) | Phase::Requesting(_))
        {
            self.enter(now, Phase::Selecting(None), Duration::ZERO);
        }
        self.common.cache_timeout(now, self.settings.keep_expired);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let held = self.common.held.as_ref();
        let (renew, rebind) = (held.and_then(|h| h.renew_at), held.and_then(|h| h.rebind_at));
        if self.phase == Phase::Holding && due(renew) {
            self.enter(now, Phase::Renewing, Duration::ZERO);
        }
        if self.phase == Phase::Renewing && due(rebind) {
            self.enter(now, Phase::Rebinding, Duration::ZERO);
        }
        if due(self.at) {
            self.step(now);
        }
    }

    /// The message of this phase is due, or its last wait is over.
    fn step(&mut self, now: Instant) {
        match &mut self.phase {
            // RFC 8415 18.2.1: the best of the first wait, or the first after it.
            Phase::Selecting(best) if self.sent > 0 && best.is_some() => {
                if let Some((_, lease)) = best.take() {
                    self.enter(now, Phase::Requesting(lease), Duration::ZERO);
                }
            }
            Phase::Requesting(_) if self.sent >= REQ_MAX_RC => {
                self.enter(now, Phase::Selecting(None), Duration::ZERO);
            }
            Phase::Confirming(_) if now.saturating_since(self.since) >= CNF_MAX_RD => {
                self.enter(now, Phase::Selecting(None), Duration::ZERO);
            }
            Phase::Leaving(kind, _) if self.sent >= LEAVE_MAX_RC => {
                let kind = *kind;
                return self.left(now, kind);
            }
            Phase::Waiting => self.enter(now, Phase::Selecting(None), Duration::ZERO),
            _ => {}
        }
        self.ask(now);
        self.schedule(now);
    }

    /// RFC 8415 15.
    fn schedule(&mut self, now: Instant) {
        let (first, longest) = times(&self.phase, self.sol_max_rt);
        self.wait = if self.sent == 0 {
            let base = self.common.around(first, 1);
            // 18.2.1: longer than a second, so that advertisements that take as long are heard.
            if matches!(self.phase, Phase::Selecting(_)) { base.max(first) } else { base }
        } else if self.wait * 2 > longest {
            self.common.around(longest, 1)
        } else {
            self.wait + self.common.around(self.wait, 1)
        };
        if matches!(self.phase, Phase::Confirming(_)) {
            let left = (self.since + CNF_MAX_RD).saturating_since(now);
            self.wait = self.wait.min(left);
        }
        self.sent += 1;
        self.at = Some(now + self.wait);
    }

    fn ask(&mut self, now: Instant) {
        let held = self.common.held.as_ref().map(|h| &h.lease);
        let (kind, lease, names_server) = match &self.phase {
            Phase::Selecting(_) => (Kind::Solicit, None, false),
            Phase::Requesting(lease) => (Kind::Request, Some(&**lease), true),
            Phase::Confirming(lease) => (Kind::Confirm, Some(&**lease), false),
            Phase::Renewing => (Kind::Renew, held, true),
            Phase::Rebinding => (Kind::Rebind, held, false),
            Phase::Leaving(kind, lease) => (*kind, Some(&**lease), true),
            Phase::Holding | Phase::Waiting | Phase::Released => return,
        };
        let server = lease.filter(|_| names_server).and_then(|l| unhex(&l.server));
        let hundredths = now.saturating_since(self.since).as_millis() / 10;
        let ask = Ask {
            kind,
            xid: self.xid,
            elapsed: hundredths.min(u128::from(u16::MAX)) as u16,
            client: &self.settings.client,
            server: server.as_deref(),
            iaid: self.settings.iaid,
            address: lease.and_then(v6).or(self.wish),
            enterprise: self.settings.enterprise,
            class: &self.settings.class,
            rapid_commit: self.settings.rapid_commit,
        };
        let data = ask.emit();
        self.asked = now;
        self.common.send(To::Servers6, data);
    }

    /// A datagram to port 546 with this client's DUID.
    pub(super) fn receive(&mut self, now: Instant, data: &[u8]) {
        self.common.counts.received += 1;
        let answer = match Answer::parse(data) {
            Ok(answer) => answer,
            Err(why) => return self.common.counts.malformed(why),
        };
        if answer.xid != self.xid || answer.client != self.settings.client {
            self.common.counts.not_asked += 1;
            return;
        }
        if let Some(seconds) = answer.sol_max_rt {
            self.sol_max_rt = Duration::from_secs(seconds.into());
        }
        match (answer.kind, &self.phase) {
            (Kind::Advertise, Phase::Selecting(_)) => self.advertised(now, &answer),
            (Kind::Reply, Phase::Selecting(_))
                if self.settings.rapid_commit && answer.rapid_commit =>
            {
                self.replied(now, &answer);
            }
            (Kind::Reply, Phase::Requesting(_) | Phase::Renewing | Phase::Rebinding) => {
                self.replied(now, &answer);
            }
            (Kind::Reply, Phase::Confirming(_)) => self.confirmed(now, &answer),
            (Kind::Reply, Phase::Leaving(kind, _)) => {
                let kind = *kind;
                self.left(now, kind);
            }
            _ => self.common.counts.not_asked += 1,
        }
    }

    fn lease(&mut self, answer: &Answer) -> Option<Result<Lease, (Status, String)>> {
        match answer.lease(self.settings.iaid, self.settings.enterprise) {
            Ok(Ok((lease, bad))) => {
                self.common.counts.bad_options += bad;
                Some(Ok(lease))
            }
            Ok(Err(refusal)) => Some(Err(refusal)),
            Err(why) => {
                self.common.counts.malformed(why);
                None
            }
        }
    }

    fn advertised(&mut self, now: Instant, answer: &Answer) {
        if self.settings.vendor_only && !answer.has_vendor(self.settings.enterprise) {
            self.common.counts.no_vendor += 1;
            return;
        }
        let lease = match self.lease(answer) {
            None => return,
            Some(Err((status, text))) => {
                self.common.error = Some(refusal_text(status, &text));
                return;
            }
            Some(Ok(lease)) => Box::new(lease),
        };
        // RFC 8415 18.2.9: at once for the highest preference, or when the first wait is over.
        if answer.preference == 255 || self.sent > 1 {
            self.enter(now, Phase::Requesting(lease), Duration::ZERO);
            return self.step(now);
        }
        if let Phase::Selecting(best) = &mut self.phase
            && best.as_ref().is_none_or(|b| b.0 < answer.preference)
        {
            *best = Some((answer.preference, lease));
        }
    }

    fn replied(&mut self, now: Instant, answer: &Answer) {
        let renews = matches!(self.phase, Phase::Renewing | Phase::Rebinding);
        match self.lease(answer) {
            None => {}
            Some(Ok(lease)) => {
                self.wish = v6(&lease);
                let age = now.saturating_since(self.asked);
                self.common.take(now, lease, age);
                self.enter(now, Phase::Holding, Duration::ZERO);
            }
            // 18.2.10.1: a server that does not know of it is asked for it.
            Some(Err((Status::NoBinding, _))) if renews => {
                let Some(held) = &self.common.held else { return };
                let mut lease = held.lease.clone();
                lease.server = super::lease::hex(&answer.server);
                self.enter(now, Phase::Requesting(Box::new(lease)), Duration::ZERO);
                self.step(now);
            }
            // Another server may still extend it.
            Some(Err((status, text))) if renews && status != Status::NotOnLink => {
                self.common.error = Some(refusal_text(status, &text));
            }
            Some(Err((status, text))) => self.refused(now, status, &text),
        }
    }

    fn refused(&mut self, now: Instant, status: Status, text: &str) {
        self.common.counts.naks += 1;
        self.common.lose(refusal_text(status, text));
        self.wish = None;
        self.enter(now, Phase::Waiting, WAIT);
    }

    /// RFC 8415 18.2.10.1: the link is the right one, or not; times stay.
    fn confirmed(&mut self, now: Instant, answer: &Answer) {
        if answer.status == Status::NotOnLink {
            return self.refused(now, answer.status, &answer.text);
        }
        if self.common.held.is_none() {
            self.common.use_cached(now, self.settings.keep_expired);
        }
        if let Some(held) = &mut self.common.held {
            held.cached = false;
        }
        self.common.error = None;
        let over = |h: &Held| h.renew_at.is_some_and(|at| at <= now);
        let late = self.common.held.as_ref().is_some_and(over);
        let phase = if late { Phase::Rebinding } else { Phase::Holding };
        self.enter(now, phase, Duration::ZERO);
    }

    /// The server knows, or does not answer.
    fn left(&mut self, now: Instant, kind: Kind) {
        if kind == Kind::Release {
            return self.enter(now, Phase::Released, Duration::ZERO);
        }
        self.enter(now, Phase::Waiting, WAIT);
    }

    /// The stack has tried the address: it is in use, or another host has it.
    pub(super) fn checked(&mut self, now: Instant, addr: Ipv6Addr, rival: Option<&str>) {
        let Some(held) = self.common.held.as_mut().filter(|h| v6(&h.lease) == Some(addr)) else {
            return;
        };
        let Some(rival) = rival else {
            held.ready = true;
            return;
        };
        let lease = Box::new(held.lease.clone());
        self.common.counts.declined += 1;
        self.common.lose(format!("{addr} is in use by {rival}; declined"));
        self.wish = None;
        self.enter(now, Phase::Leaving(Kind::Decline, lease), Duration::ZERO);
        self.step(now);
    }

    /// What waits to be sent is sent now, and waits begin anew.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Some(at) = &mut self.at {
            *at = (*at).min(now);
            self.sent = 0;
        }
    }

    /// An operator wants the lease renewed, or looked for again, now.
    pub(super) fn renew(&mut self, now: Instant) {
        let phase = match &self.common.held {
            Some(held) if !held.cached => Phase::Renewing,
            _ => Phase::Selecting(None),
        };
        self.enter(now, phase, Duration::ZERO);
        self.step(now);
    }

    /// An operator gives the address back.
    pub(super) fn release(&mut self, now: Instant) {
        let lease = self.common.held.as_ref().filter(|h| !h.cached).map(|h| h.lease.clone());
        self.common.lose("released");
        self.common.error = None;
        match lease {
            Some(lease) => {
                self.enter(now, Phase::Leaving(Kind::Release, Box::new(lease)), Duration::ZERO);
                self.step(now);
            }
            None => self.enter(now, Phase::Released, Duration::ZERO),
        }
    }

    pub(super) fn poll(&mut self) -> Option<Action> {
        self.common.actions.pop_front()
    }
}

fn refusal_text(status: Status, text: &str) -> String {
    let what = match status {
        Status::Success => String::from("answered without an address"),
        Status::NoAddrsAvail => String::from("has no address for us"),
        Status::NoBinding => String::from("knows nothing of the lease"),
        Status::NotOnLink => String::from("says that the address is not of this link"),
        Status::Failure(code) => format!("failed with status {code}"),
    };
    if text.is_empty() {
        format!("the server {what}")
    } else {
        format!("the server {what}: {text}")
    }
}

//! A DHCPv4 client (RFC 2131) without sockets and clocks: messages and time go in, [`Action`]s come
//! out.
//!
//! Frames to port 68 go to whoever has their transaction id; a client that shares its MAC address
//! with others takes only answers to its own. Its name is option 61, which stays what it is
//! whatever machine it runs on.

use std::net::Ipv4Addr;
use std::time::Duration;

use weft_stack::time::Instant;

use super::client::{Action, Common, State, To};
use super::lease::{Lease, unhex};
use super::message4::{Ask, Kind, Reply};

#[cfg(test)]
mod tests;

/// RFC 2131 4.1: the first wait, doubled up to the last, each spread by a second.
const WAIT_FIRST: Duration = Duration::from_secs(4);
const WAIT_MAX: Duration = Duration::from_secs(64);
const WAIT_SPREAD: Duration = Duration::from_secs(1);
/// Requests for an offer before a server is looked for anew.
const REQUESTS_MAX: u32 = 4;
/// The same for the address of before: servers that do not know of it are silent (RFC 2131 4.3.2).
const CONFIRMS_MAX: u32 = 2;
/// How long an offer of another server waits for one of a preferred server: less than until the
/// next question.
const PREFER_WAIT: Duration = Duration::from_secs(2);
/// RFC 2131 4.4.5: renewals are tried no faster.
const RENEW_MIN: Duration = Duration::from_mins(1);
/// RFC 2131 3.1 5: the least wait after a declined address.
const DECLINE_WAIT: Duration = Duration::from_secs(10);

/// What a client is told once.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Data of option 61.
    pub(super) client: Vec<u8>,
    /// Option 60.
    pub(super) class: String,
    pub(super) mac: [u8; 6],
    /// Servers that may give addresses; none named: all.
    pub(super) servers: Vec<Ipv4Addr>,
    /// Servers whose offers go before those of others.
    pub(super) prefer: Vec<Ipv4Addr>,
    /// Offers must carry option 43.
    pub(super) vendor_only: bool,
    /// How long servers are waited for before the cache is used.
    pub(super) cached_after: Duration,
    /// Use what the cache has even when its time is over.
    pub(super) keep_expired: bool,
    /// The first message is sent after at most this time.
    pub(super) spread: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Selecting,
    Requesting(Box<Lease>),
    Confirming(Ipv4Addr),
    /// Bound, or being checked.
    Holding,
    Renewing,
    Rebinding,
    Waiting,
    Released,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client4 {
    pub(super) settings: Settings,
    pub(super) common: Common,
    phase: Phase,
    xid: u32,
    /// Messages of this phase.
    sent: u32,
    /// When the next one is due.
    at: Option<Instant>,
    /// When the looking for an address began (option `secs`), and the last request was sent.
    since: Instant,
    asked: Instant,
    /// Refusals in a row.
    refused: u32,
    /// The address of before, which is asked for.
    wish: Option<Ipv4Addr>,
    /// The first offer of a server that is not preferred, and until when it waits for others.
    kept: Option<(Instant, Box<Lease>)>,
}

fn v4(lease: &Lease) -> Option<Ipv4Addr> {
    match lease.address {
        std::net::IpAddr::V4(a) => Some(a),
        std::net::IpAddr::V6(_) => None,
    }
}

fn server_of(lease: &Lease) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(unhex(&lease.server)?).ok()?))
}

impl Client4 {
    /// Begins. `cached` is what the cache has, and how long ago it was given.
    pub(super) fn start(
        settings: Settings,
        seed: u64,
        now: Instant,
        cached: Option<(Lease, Duration)>,
    ) -> Client4 {
        let mut client = Client4 {
            common: Common::new(seed),
            phase: Phase::Selecting,
            xid: 0,
            sent: 0,
            at: None,
            since: now,
            asked: now,
            refused: 0,
            wish: None,
            kept: None,
            settings,
        };
        let cache = (client.settings.cached_after, client.settings.keep_expired);
        let cached = client.common.remember(now, cached, cache);
        client.wish = cached.and_then(v4);
        // What no server gave, none can confirm.
        let phase = match cached.filter(|lease| !lease.server.is_empty()).and_then(v4) {
            Some(addr) => Phase::Confirming(addr),
            None => Phase::Selecting,
        };
        let wait = client.common.random(client.settings.spread);
        client.enter(now, phase, wait);
        client
    }

    /// A new phase, with its first message after `wait`.
    fn enter(&mut self, now: Instant, phase: Phase, wait: Duration) {
        // RFC 2131 4.1: a request for an offer keeps the transaction of the offer.
        if !matches!(phase, Phase::Requesting(_)) {
            self.xid = self.common.rng.next_u32();
        }
        let waits = matches!(phase, Phase::Holding | Phase::Released);
        self.phase = phase;
        self.sent = 0;
        self.kept = None;
        self.at = (!waits).then(|| now + wait);
    }

    /// Transaction id of what is asked now.
    pub(super) fn xid(&self) -> u32 {
        self.xid
    }

    pub(super) fn state(&self) -> State {
        let held = self.common.held.as_ref();
        match self.phase {
            Phase::Released => State::Released,
            Phase::Holding if held.is_some_and(|h| !h.ready) => State::Checking,
            Phase::Holding => State::Bound,
            Phase::Renewing => State::Renewing,
            Phase::Rebinding => State::Rebinding,
            _ if held.is_some_and(|h| !h.ready) => State::Checking,
            _ if held.is_some() => State::Cached,
            Phase::Selecting => State::Selecting,
            Phase::Requesting(_) => State::Requesting,
            Phase::Confirming(_) => State::Confirming,
            Phase::Waiting => State::Waiting,
        }
    }

    /// When [`Client4::timeout`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let held = self.common.held.as_ref();
        let next = held.and_then(|h| match self.phase {
            Phase::Holding => h.renew_at,
            Phase::Renewing => h.rebind_at,
            _ => None,
        });
        let kept = self.kept.as_ref().map(|k| k.0);
        [self.at, next, kept, self.common.deadline()].into_iter().flatten().min()
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        if self.common.expire(now) {
            self.since = now;
            if !matches!(self.phase, Phase::Selecting | Phase::Requesting(_)) {
                self.enter(now, Phase::Selecting, Duration::ZERO);
            }
        }
        self.common.cache_timeout(now, self.settings.keep_expired);
        if let Some(held) = &self.common.held {
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if self.phase == Phase::Holding && due(held.renew_at) {
                self.enter(now, Phase::Renewing, Duration::ZERO);
            }
            let held = self.common.held.as_ref();
            if self.phase == Phase::Renewing && held.is_some_and(|h| due(h.rebind_at)) {
                self.enter(now, Phase::Rebinding, Duration::ZERO);
            }
        }
        if let Some((_, lease)) = self.kept.take_if(|k| k.0 <= now) {
            return self.request(now, lease);
        }
        if self.at.is_some_and(|at| at <= now) {
            self.step(now);
        }
    }

    /// The message of this phase is due.
    fn step(&mut self, now: Instant) {
        let most = match self.phase {
            Phase::Requesting(_) => REQUESTS_MAX,
            Phase::Confirming(_) => CONFIRMS_MAX,
            _ => u32::MAX,
        };
        if self.phase == Phase::Waiting || self.sent >= most {
            self.enter(now, Phase::Selecting, Duration::ZERO);
        }
        self.ask(now);
        self.sent += 1;
        let wait = match self.phase {
            Phase::Renewing => self.half_until(now, |h| h.rebind_at),
            Phase::Rebinding => self.half_until(now, |h| h.expires),
            _ => {
                let base = (WAIT_FIRST * 2_u32.pow((self.sent - 1).min(4))).min(WAIT_MAX);
                base.saturating_sub(WAIT_SPREAD) + self.common.random(WAIT_SPREAD * 2)
            }
        };
        self.at = Some(now + wait);
    }

    /// RFC 2131 4.4.5: half of what remains, at least a minute.
    fn half_until(
        &self,
        now: Instant,
        at: impl Fn(&super::client::Held) -> Option<Instant>,
    ) -> Duration {
        let until = self.common.held.as_ref().and_then(at);
        until.map_or(RENEW_MIN, |at| (at.saturating_since(now) / 2).max(RENEW_MIN))
    }

    /// Table 5 of RFC 2131 4.4.
    fn ask(&mut self, now: Instant) {
        let held = self.common.held.as_ref().map(|h| &h.lease);
        let (own, server) = (held.and_then(v4), held.and_then(server_of));
        let base = self.message(now, Kind::Request);
        let (ask, to) = match &self.phase {
            Phase::Selecting => {
                (Ask { kind: Kind::Discover, requested: self.wish, ..base }, To::Everybody)
            }
            Phase::Requesting(offer) => {
                let (requested, server) = (v4(offer), server_of(offer));
                (Ask { requested, server, ..base }, To::Everybody)
            }
            Phase::Confirming(addr) => (Ask { requested: Some(*addr), ..base }, To::Everybody),
            Phase::Renewing => match (own, server) {
                (Some(from), Some(to)) => (Ask { ciaddr: own, ..base }, To::Server { from, to }),
                _ => return,
            },
            Phase::Rebinding => (Ask { ciaddr: own, ..base }, To::Everybody),
            Phase::Holding | Phase::Waiting | Phase::Released => return,
        };
        let data = ask.emit();
        self.asked = now;
        self.common.send(to, data);
    }

    fn message(&self, now: Instant, kind: Kind) -> Ask<'_> {
        let secs = now.saturating_since(self.since).as_secs().min(u64::from(u16::MAX)) as u16;
        Ask {
            kind,
            xid: self.xid,
            secs,
            mac: self.settings.mac,
            client: &self.settings.client,
            class: &self.settings.class,
            ciaddr: None,
            requested: None,
            server: None,
            text: "",
        }
    }

    /// A datagram to port 68 with this client's transaction id and MAC address.
    pub(super) fn receive(&mut self, now: Instant, data: &[u8]) {
        self.common.counts.received += 1;
        let reply = match Reply::parse(data) {
            Ok(reply) => reply,
            Err(why) => return self.common.counts.malformed(why),
        };
        let theirs = reply.client.as_ref().is_some_and(|id| *id != self.settings.client);
        if reply.xid != self.xid || reply.mac != self.settings.mac || theirs {
            self.common.counts.not_asked += 1;
            return;
        }
        let strange =
            |s: &Ipv4Addr| !self.settings.servers.is_empty() && !self.settings.servers.contains(s);
        if let Some(server) = reply.server.filter(strange) {
            self.common.counts.strange_server += 1;
            self.common.error =
                Some(format!("{server} answers and is none of the servers of the configuration"));
            return;
        }
        let asks = matches!(
            self.phase,
            Phase::Requesting(_) | Phase::Confirming(_) | Phase::Renewing | Phase::Rebinding
        );
        match reply.kind {
            Kind::Offer if self.phase == Phase::Selecting => self.offered(now, &reply),
            Kind::Ack if asks => self.acknowledged(now, &reply),
            Kind::Nak if asks => self.refused(now, &reply),
            _ => self.common.counts.not_asked += 1,
        }
    }

    fn lease(&mut self, reply: &Reply) -> Option<Lease> {
        match reply.lease() {
            Ok((lease, bad)) => {
                self.common.counts.bad_options += bad;
                Some(lease)
            }
            Err(why) => {
                self.common.counts.malformed(why);
                None
            }
        }
    }

    /// The first offer that will do is taken, of a server that is not preferred after a while.
    fn offered(&mut self, now: Instant, reply: &Reply) {
        if self.settings.vendor_only && !reply.has_vendor() {
            self.common.counts.no_vendor += 1;
            return;
        }
        let Some(lease) = self.lease(reply).map(Box::new) else { return };
        let prefer = &self.settings.prefer;
        if prefer.is_empty() || reply.server.is_some_and(|s| prefer.contains(&s)) {
            return self.request(now, lease);
        }
        self.kept.get_or_insert((now + PREFER_WAIT, lease));
    }

    fn request(&mut self, now: Instant, offer: Box<Lease>) {
        self.enter(now, Phase::Requesting(offer), Duration::ZERO);
        self.step(now);
    }

    fn acknowledged(&mut self, now: Instant, reply: &Reply) {
        if let Phase::Requesting(offer) = &self.phase
            && server_of(offer) != reply.server
        {
            self.common.counts.not_asked += 1;
            return;
        }
        let Some(lease) = self.lease(reply) else { return };
        self.refused = 0;
        self.wish = v4(&lease);
        // RFC 2131 4.4.1: from when it was asked for.
        let age = now.saturating_since(self.asked);
        self.common.take(now, lease, age);
        self.enter(now, Phase::Holding, Duration::ZERO);
    }

    fn refused(&mut self, now: Instant, reply: &Reply) {
        if let Phase::Requesting(offer) = &self.phase
            && server_of(offer) != reply.server
        {
            self.common.counts.not_asked += 1;
            return;
        }
        self.common.counts.naks += 1;
        let why = if reply.text.is_empty() { "no reason given" } else { reply.text.as_str() };
        self.common.lose(format!("refused by the server: {why}"));
        self.wish = None;
        self.since = now;
        // A server that offers and refuses must not keep us busy.
        self.refused += 1;
        let wait = if self.refused == 1 {
            Duration::ZERO
        } else {
            (WAIT_FIRST * 2_u32.pow((self.refused - 2).min(4))).min(WAIT_MAX)
        };
        self.enter(now, Phase::Waiting, wait);
    }

    /// The stack has tried the address: it is in use, or another host has it.
    pub(super) fn checked(&mut self, now: Instant, addr: Ipv4Addr, rival: Option<&str>) {
        let Some(held) = self.common.held.as_mut().filter(|h| v4(&h.lease) == Some(addr)) else {
            return;
        };
        let Some(rival) = rival else {
            held.ready = true;
            return;
        };
        // RFC 2131 4.4.4
        let server = server_of(&held.lease);
        self.xid = self.common.rng.next_u32();
        let text = format!("in use by {rival}");
        let ask =
            Ask { requested: Some(addr), server, text: &text, ..self.message(now, Kind::Decline) };
        let data = ask.emit();
        self.common.send(To::Everybody, data);
        self.common.counts.declined += 1;
        self.common.lose(format!("{addr} is in use by {rival}; declined"));
        self.wish = None;
        self.since = now;
        self.enter(now, Phase::Waiting, DECLINE_WAIT);
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
        let cached = self.common.held.as_ref().map(|h| h.cached);
        let phase = match (cached, self.wish) {
            (Some(false), _) => Phase::Renewing,
            // No server knows of an address that was given back; it is only wished for.
            (_, Some(addr)) if self.phase != Phase::Released => Phase::Confirming(addr),
            _ => Phase::Selecting,
        };
        self.since = now;
        self.enter(now, phase, Duration::ZERO);
        self.step(now);
    }

    /// An operator gives the address back (RFC 2131 4.4.6).
    pub(super) fn release(&mut self, now: Instant) {
        self.xid = self.common.rng.next_u32();
        if let Some(held) = self.common.held.as_ref().filter(|h| !h.cached)
            && let (Some(from), Some(to)) = (v4(&held.lease), server_of(&held.lease))
        {
            let ask =
                Ask { ciaddr: Some(from), server: Some(to), ..self.message(now, Kind::Release) };
            let data = ask.emit();
            self.common.send(To::Farewell { from, to }, data);
        }
        self.common.lose("released");
        self.common.error = None;
        self.enter(now, Phase::Released, Duration::ZERO);
    }

    pub(super) fn poll(&mut self) -> Option<Action> {
        self.common.actions.pop_front()
    }
}

//! What both clients have in common: their states, what they want done, what they hold, the counts.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_stack::counters;
use weft_stack::time::Instant;

use super::lease::{Lease, span};
use super::message4::Malformed;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It looks for servers.
    Selecting,
    /// It asks for what a server offered.
    Requesting,
    /// It asks for the address of the cache to be confirmed.
    Confirming,
    /// The address is there and tried for conflicts.
    Checking,
    /// The address is in use.
    Bound,
    /// In use; its server is asked for more time.
    Renewing,
    /// In use; any server is asked for more time.
    Rebinding,
    /// No server answers: the address of the cache is in use, and servers are still tried.
    Cached,
    /// It waits after a refusal or a conflict.
    Waiting,
    /// An operator gave the address back; nothing happens until a renew.
    Released,
}

impl State {
    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            State::Selecting => "selecting",
            State::Requesting => "requesting",
            State::Confirming => "confirming",
            State::Checking => "checking",
            State::Bound => "bound",
            State::Renewing => "renewing",
            State::Rebinding => "rebinding",
            State::Cached => "cached",
            State::Waiting => "waiting",
            State::Released => "released",
        }
    }
}

counters! {
    /// What a client sent and got, and why it did not take it.
    pub struct DhcpCounts, "Dhcp" {
        /// Messages sent.
        sent: "Sent",
        /// Messages that came for it.
        received: "Received",
        /// Leases given or renewed.
        acks: "Acks",
        /// Refusals.
        naks: "Naks",
        /// Addresses declined because another host has them.
        declined: "Declined",
        /// Leases that ran out.
        expired: "Expired",
        /// Packets with a wrong IPv4 header checksum.
        bad_header: "BadHeader",
        /// Datagrams with a wrong UDP checksum.
        bad_checksum: "BadChecksum",
        /// DHCPv6 datagrams without a checksum, which IPv6 does not allow.
        no_checksum: "NoChecksum",
        /// Messages shorter than what they say.
        truncated: "Truncated",
        /// Messages that are no replies of DHCP.
        not_dhcp: "NotDhcp",
        /// Messages that lack an option, or have one of a wrong length, that is needed.
        bad_lease: "BadLease",
        /// Messages with an address that no host can have.
        bad_address: "BadAddress",
        /// Options left out for a wrong length.
        bad_options: "BadOptions",
        /// Answers to something that was not asked, or to somebody else.
        not_asked: "NotAsked",
        /// Offers of servers that the configuration does not name.
        strange_server: "StrangeServer",
        /// Offers without vendor options where they are wanted.
        no_vendor: "NoVendor",
    }
}

impl DhcpCounts {
    pub(super) fn malformed(&mut self, why: Malformed) {
        match why {
            Malformed::Truncated => self.truncated += 1,
            Malformed::NotDhcp => self.not_dhcp += 1,
            Malformed::Option => self.bad_lease += 1,
            Malformed::Address => self.bad_address += 1,
        }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// Every DHCPv4 server of the link, from 0.0.0.0.
    Everybody,
    /// One DHCPv4 server, from the leased address.
    Server { from: Ipv4Addr, to: Ipv4Addr },
    /// One DHCPv4 server, from a leased address that goes with this message.
    Farewell { from: Ipv4Addr, to: Ipv4Addr },
    /// Every DHCPv6 server, from the link-local address.
    Servers6,
}

/// What a client wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Send {
        to: To,
        data: Vec<u8>,
    },
    /// The stack gets the address, or new times of it.
    Assign {
        lease: Lease,
        left: Option<Duration>,
    },
    /// The stack loses it.
    Withdraw(IpAddr),
    /// The cache keeps the lease, which was given `age` ago.
    Store {
        lease: Lease,
        age: Duration,
    },
    /// The cache forgets what it has of this client.
    Forget,
}

/// A lease in use, or about to be.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) renew_at: Option<Instant>,
    pub(super) rebind_at: Option<Instant>,
    pub(super) expires: Option<Instant>,
    /// The stack uses the address.
    pub(super) ready: bool,
    /// No server confirmed it since the start.
    pub(super) cached: bool,
}

impl Held {
    /// A lease that was given `age` before `now`.
    pub(super) fn new(lease: Lease, now: Instant, age: Duration, cached: bool) -> Held {
        let at = |seconds| span(seconds).map(|s| now + s.saturating_sub(age));
        Held {
            renew_at: at(lease.renew_s),
            rebind_at: at(lease.rebind_s),
            expires: at(lease.valid_s),
            ready: false,
            cached,
            lease,
        }
    }
}

/// What a client knows besides its protocol.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) rng: weft_stack::rng::Rng,
    pub(super) actions: VecDeque<Action>,
    pub(super) counts: DhcpCounts,
    pub(super) held: Option<Held>,
    /// Of the cache, until a server spoke: the lease and how old it was at `since`.
    pub(super) cached: Option<Cached>,
    pub(super) error: Option<String>,
}

/// What the cache had.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    pub(super) lease: Lease,
    pub(super) age: Duration,
    /// When it is used without a server's word.
    pub(super) use_at: Instant,
    pub(super) read_at: Instant,
}

impl Common {
    pub(super) fn new(seed: u64) -> Common {
        Common {
            rng: weft_stack::rng::Rng::from_u64(seed),
            actions: VecDeque::new(),
            counts: DhcpCounts::default(),
            held: None,
            cached: None,
            error: None,
        }
    }

    pub(super) fn send(&mut self, to: To, data: Vec<u8>) {
        self.counts.sent += 1;
        self.actions.push_back(Action::Send { to, data });
    }

    /// A random time below `most`.
    pub(super) fn random(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.rng.below(most.as_nanos() as u64 + 1))
    }

    /// `base` times a random factor from 1 - `part`/10 to 1 + `part`/10.
    pub(super) fn around(&mut self, base: Duration, part: u32) -> Duration {
        let spread = base * part / 10;
        base.saturating_sub(spread) + self.random(spread * 2)
    }

    /// A server gave a lease, `age` ago. Returns whether the address is in use already.
    pub(super) fn take(&mut self, now: Instant, lease: Lease, age: Duration) -> bool {
        self.cached = None;
        self.error = None;
        self.counts.acks += 1;
        let before = self.held.take();
        let same = before.as_ref().is_some_and(|h| h.lease.cidr() == lease.cidr());
        let mut held = Held::new(lease.clone(), now, age, false);
        held.ready = same && before.as_ref().is_some_and(|h| h.ready);
        if let Some(old) = before.filter(|_| !same) {
            self.actions.push_back(Action::Withdraw(old.lease.address));
        }
        let (ready, left) = (held.ready, left(now, &held));
        self.held = Some(held);
        self.actions.push_back(Action::Assign { lease: lease.clone(), left });
        self.actions.push_back(Action::Store { lease, age });
        ready
    }

    /// What the cache has, and how long ago it was given, is kept for when no server speaks, unless
    /// its time is over and that counts.
    pub(super) fn remember(
        &mut self,
        now: Instant,
        cached: Option<(Lease, Duration)>,
        (cached_after, keep_expired): (Duration, bool),
    ) -> Option<&Lease> {
        let fresh = |lease: &Lease, age| span(lease.valid_s).is_none_or(|valid| age < valid);
        let cached = cached.filter(|(lease, age)| keep_expired || fresh(lease, *age));
        let use_at = now + cached_after;
        self.cached = cached.map(|(lease, age)| Cached { lease, age, use_at, read_at: now });
        self.cached.as_ref().map(|c| &c.lease)
    }

    /// The lease is lost if its time is over. Returns whether it was.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let over = self.held.as_ref().and_then(|h| h.expires).is_some_and(|at| at <= now);
        if over {
            self.counts.expired += 1;
            self.lose("the lease ran out");
        }
        over
    }

    /// The address of the cache is used if servers had their time.
    pub(super) fn cache_timeout(&mut self, now: Instant, keep_expired: bool) {
        if self.cached.as_ref().is_some_and(|c| c.use_at <= now) {
            self.use_cached(now, keep_expired);
        }
    }

    /// The address of the cache is used, since no server speaks.
    pub(super) fn use_cached(&mut self, now: Instant, keep_expired: bool) {
        let Some(cached) = self.cached.take() else { return };
        let age = cached.age + now.saturating_since(cached.read_at);
        let mut held = Held::new(cached.lease.clone(), now, age, true);
        if keep_expired {
            held.expires = None;
        }
        let left = left(now, &held);
        self.held = Some(held);
        self.error = Some(String::from("no server answers; the address is from the cache"));
        self.actions.push_back(Action::Assign { lease: cached.lease, left });
    }

    /// The address is no longer ours.
    pub(super) fn lose(&mut self, why: impl Into<String>) {
        self.error = Some(why.into());
        self.cached = None;
        if let Some(held) = self.held.take() {
            self.actions.push_back(Action::Withdraw(held.lease.address));
        }
        self.actions.push_back(Action::Forget);
    }

    /// When the cache is to be used, or the lease runs out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let cached = self.cached.as_ref().map(|c| c.use_at);
        let expires = self.held.as_ref().and_then(|h| h.expires);
        [cached, expires].into_iter().flatten().min()
    }
}

fn left(now: Instant, held: &Held) -> Option<Duration> {
    held.expires.map(|at| at.saturating_since(now))
}

//! The resolver of each vserver: names to addresses and back, over the vserver's own sockets, so by
//! its own addresses and routes (RFC 1034 5.3.1, RFC 1123 6.1.3.3).
//!
//! One thread asks for all vservers of a host; it starts with the first question. Each question goes
//! from a port of its own that the stack picks at random, with a random number and, unless switched
//! off, in mixed case (draft-vixie-dnsext-dns0x20): three things that a forger must guess. Everything
//! is bounded: questions under way, answers kept, links of a chain, time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::Vserver;
use crate::config::Dns;
use crate::config::dns::is_domain_name;

mod asking;
mod cache;
mod clients;
mod engine;
mod exchange;
mod follow;
pub(crate) mod message;
mod routes;

#[cfg(test)]
mod tests;

pub use asking::{Questions, Resolved};
use cache::{Cache, Known};
pub(crate) use clients::{Answers, NamedClients};
pub(crate) use engine::Engine;
pub use follow::{Follow, Following};
use message::{Kind, Value};
pub(crate) use routes::NamedRoutes;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The name that was found, complete; of a question by address the reverse name.
    pub name: String,
    /// Addresses, IPv4 first; empty if names were asked for.
    pub addresses: Vec<IpAddr>,
    /// Names of an address.
    pub names: Vec<String>,
    /// How long that holds.
    pub ttl: Duration,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Not a name.
    #[error("'{0}' is no name")]
    Name(String),
    /// The vserver has no servers.
    #[error("the vserver has no DNS servers; add dns = {{ servers = [...] }}")]
    NoServers,
    /// There is no such name, or it has no address.
    #[error("'{name}' {}", if *no_name { "does not exist" } else { "has no address" })]
    Nothing {
        /// The name as it was asked for.
        name: String,
        /// There is no such name at all.
        no_name: bool,
        /// How long that holds, if the server said so.
        ttl: Option<Duration>,
    },
    /// No server gave an answer.
    #[error("no DNS server answered about '{name}': {why}")]
    Unanswered {
        /// The name.
        name: String,
        /// What the last one did: `timed out`, `refused`.
        why: String,
    },
    /// Too many questions of the vserver are under way.
    #[error("{0} questions of the vserver are under way; try again later")]
    Busy(usize),
    /// Asked in a callback, where waiting would stop all vservers.
    #[error("waiting for DNS in a callback; use resolve_with")]
    InCallback,
    /// The host has stopped.
    #[error("the host has stopped")]
    Stopped,
}

/// What a resolver did, since the host started.
#[derive(Debug, Default)]
struct Counters {
    questions: AtomicU64,
    answers: AtomicU64,
    cached: AtomicU64,
    negative_cached: AtomicU64,
    retries: AtomicU64,
    over_tcp: AtomicU64,
    foreign: AtomicU64,
    unanswered: AtomicU64,
    refused: AtomicU64,
}

/// The resolver of one vserver.
#[derive(Debug)]
pub(crate) struct State {
    dns: Mutex<Dns>,
    cache: Mutex<Cache>,
    counters: Counters,
}

impl State {
    fn new(dns: Dns) -> State {
        let cache = Mutex::new(Cache::new(dns.cache));
        State { dns: Mutex::new(dns), cache, counters: Counters::default() }
    }

    fn known(&self, name: &str, kind: Kind) -> Option<(Known, Duration)> {
        let known = self.cache.lock().get(name, kind, Instant::now())?;
        let counter = match known.0 {
            Known::Found(_) => &self.counters.cached,
            Known::Nothing { .. } => &self.counters.negative_cached,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Some(known)
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn collect(&self) -> BTreeMap<String, u64> {
        let c = &self.counters;
        let cache = self.cache.lock();
        [
            ("DnsQuestions", c.questions.load(Ordering::Relaxed)),
            ("DnsAnswers", c.answers.load(Ordering::Relaxed)),
            ("DnsCached", c.cached.load(Ordering::Relaxed)),
            ("DnsNegativeCached", c.negative_cached.load(Ordering::Relaxed)),
            ("DnsRetries", c.retries.load(Ordering::Relaxed)),
            ("DnsOverTcp", c.over_tcp.load(Ordering::Relaxed)),
            ("DnsForeign", c.foreign.load(Ordering::Relaxed)),
            ("DnsUnanswered", c.unanswered.load(Ordering::Relaxed)),
            ("DnsRefused", c.refused.load(Ordering::Relaxed)),
            ("DnsCacheEntries", cache.len() as u64),
            ("DnsCacheEvicted", cache.evicted),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// Takes the outcome of a question; runs on the resolver's thread and must not wait.
pub(crate) type Done = Box<dyn FnOnce(Result<Lookup, ResolveError>) + Send>;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    /// Addresses of a name.
    Name(String),
    /// IPv4 addresses of a name.
    Ipv4(String),
    /// IPv6 addresses of a name.
    Ipv6(String),
    /// Names of an address.
    Address(IpAddr),
}

/// The resolvers of a host.
pub(crate) struct Resolvers {
    states: Mutex<HashMap<u32, Arc<State>>>,
    engine: Mutex<Option<Arc<Engine>>>,
    stopped: std::sync::atomic::AtomicBool,
}

impl fmt::Debug for Resolvers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolvers")
            .field("states", &self.states.lock().len())
            .finish_non_exhaustive()
    }
}

impl Default for Resolvers {
    fn default() -> Resolvers {
        Resolvers { states: Mutex::default(), engine: Mutex::default(), stopped: false.into() }
    }
}

impl Resolvers {
    /// The resolver of a vserver, made when it is first needed.
    fn state(&self, vserver: &Vserver) -> Arc<State> {
        let mut states = self.states.lock();
        let made = || Arc::new(State::new(vserver.configured_dns()));
        Arc::clone(states.entry(vserver.index()).or_insert_with(made))
    }

    /// Counters of a vserver; empty if its resolver was never used.
    pub(crate) fn counters(&self, index: u32) -> BTreeMap<String, u64> {
        let state = self.states.lock().get(&index).cloned();
        state.map(|s| s.collect()).unwrap_or_default()
    }

    /// Forgets a vserver that is gone: what comes in its place begins anew.
    pub(crate) fn forget(&self, index: u32) {
        self.states.lock().remove(&index);
    }

    /// The thread that asks, started when it is first needed.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>, ResolveError> {
        let mut engine = self.engine.lock();
        if self.stopped.load(Ordering::Relaxed) {
            return Err(ResolveError::Stopped);
        }
        if let Some(engine) = &*engine {
            return Ok(Arc::clone(engine));
        }
        let started = Engine::start().map_err(|e| ResolveError::Unanswered {
            name: String::from("every name"),
            why: format!("no thread for the resolver: {e}"),
        })?;
        Ok(Arc::clone(engine.insert(started)))
    }

    /// Ends the thread; questions under way fail.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let engine = self.engine.lock().take();
        if let Some(engine) = engine {
            engine.stop();
        }
    }
}

impl Vserver {
    /// Addresses of a name, blocking until a server answered or none did. An address given as text
    /// is its own answer. Names with few dots are tried with the vserver's search list; one that
    /// ends with a dot is not.
    pub fn resolve(&self, name: &str) -> Result<Lookup, ResolveError> {
        self.wait_for(Wanted::Name(name.to_owned()))
    }

    /// Names of an address, blocking.
    pub fn resolve_address(&self, address: IpAddr) -> Result<Lookup, ResolveError> {
        self.wait_for(Wanted::Address(address))
    }

    /// As [`Vserver::resolve`], without waiting: `done` is called with the outcome, at once if it is
    /// known, else on the resolver's thread, where it must not wait for anything.
    pub fn resolve_with(
        &self,
        name: &str,
        done: impl FnOnce(Result<Lookup, ResolveError>) + Send + 'static,
    ) {
        self.ask(Wanted::Name(name.to_owned()), Box::new(done));
    }

    /// How names are resolved from now on: what the configuration says, or what was set.
    pub fn dns(&self) -> Dns {
        self.resolvers().state(self).dns.lock().clone()
    }

    /// Replaces how names are resolved, as when DHCP tells other servers. What was kept is
    /// forgotten; questions under way go on with the old servers.
    pub fn set_dns(&self, dns: Dns) {
        let state = self.resolvers().state(self);
        *state.cache.lock() = Cache::new(dns.cache);
        *state.dns.lock() = dns;
    }

    /// What the resolver did: counters by name (`DnsQuestions`, ...); empty if it was never used.
    pub fn dns_counters(&self) -> BTreeMap<String, u64> {
        self.resolvers().counters(self.index())
    }

    fn wait_for(&self, wanted: Wanted) -> Result<Lookup, ResolveError> {
        if crate::app::in_callback() {
            return Err(ResolveError::InCallback);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.ask(
            wanted,
            Box::new(move |outcome| {
                // Whoever waited may have gone.
                let _ = sender.send(outcome);
            }),
        );
        receiver.recv().unwrap_or(Err(ResolveError::Stopped))
    }

    pub(crate) fn ask(&self, wanted: Wanted, done: Done) {
        let state = self.resolvers().state(self);
        let candidates = match candidates(&state.dns.lock(), &wanted) {
            Ok(candidates) => candidates,
            Err(known) => return done(known),
        };
        // Nothing needs the thread if the first candidate's answer is known.
        if let Some(known) = candidates.first().and_then(|c| all_known(&state, c, &wanted)) {
            return done(Ok(known));
        }
        if state.dns.lock().servers.is_empty() {
            return done(Err(ResolveError::NoServers));
        }
        match self.resolvers().engine() {
            Ok(engine) => engine.ask(self.clone(), state, wanted, candidates, done),
            Err(e) => done(Err(e)),
        }
    }
}

/// Complete names to try in turn, in lower case; or the outcome, where there is nothing to ask.
fn candidates(dns: &Dns, wanted: &Wanted) -> Result<Vec<String>, Result<Lookup, ResolveError>> {
    let name = match wanted {
        Wanted::Address(address) => return Ok(vec![message::reverse_name(*address)]),
        Wanted::Name(name) | Wanted::Ipv4(name) | Wanted::Ipv6(name) => name,
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        let addresses = vec![address];
        let ttl = Duration::MAX;
        return Err(Ok(Lookup { name: name.clone(), addresses, names: Vec::new(), ttl }));
    }
    if !is_domain_name(name) {
        return Err(Err(ResolveError::Name(name.clone())));
    }
    let lower = name.to_ascii_lowercase();
    if let Some(complete) = lower.strip_suffix('.') {
        return Ok(vec![complete.to_owned()]);
    }
    let mut all: Vec<String> = dns.search.iter().map(|s| format!("{lower}.{s}")).collect();
    all.retain(|n| is_domain_name(n));
    let dots = lower.bytes().filter(|b| *b == b'.').count();
    all.insert(if dots >= dns.ndots { 0 } else { all.len() }, lower);
    Ok(all)
}

/// Types that are asked for.
fn kinds(wanted: &Wanted) -> &'static [Kind] {
    match wanted {
        Wanted::Name(_) => &[Kind::A, Kind::Aaaa],
        Wanted::Ipv4(_) => &[Kind::A],
        Wanted::Ipv6(_) => &[Kind::Aaaa],
        Wanted::Address(_) => &[Kind::Ptr],
    }
}

/// The outcome, if everything about a candidate is known and something was found.
fn all_known(state: &State, name: &str, wanted: &Wanted) -> Option<Lookup> {
    let known: Option<Vec<_>> = kinds(wanted).iter().map(|k| state.known(name, *k)).collect();
    combine(name, &known?)
}

/// One answer from those by type; `None` if there is nothing in them.
fn combine(name: &str, known: &[(Known, Duration)]) -> Option<Lookup> {
    let mut found = Lookup {
        name: name.to_owned(),
        addresses: Vec::new(),
        names: Vec::new(),
        ttl: Duration::MAX,
    };
    for (known, ttl) in known {
        found.ttl = found.ttl.min(*ttl);
        let Known::Found(values) = known else { continue };
        for value in values {
            match value {
                Value::Address(a) => found.addresses.push(*a),
                Value::Name(n) => found.names.push(n.clone()),
            }
        }
    }
    (!found.addresses.is_empty() || !found.names.is_empty()).then_some(found)
}

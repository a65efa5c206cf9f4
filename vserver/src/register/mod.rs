//! Registration: vservers put their names and reverse names into DNS (RFC 2136), signed (RFC 8945),
//! and take them out again when an address or the host goes.
//!
//! One thread serves all vservers. Each has what it wants in DNS and what servers confirmed; where
//! the two differ it sends an update over the vserver's own sockets, one at a time, and after a
//! failure tries again later and later. What is registered is what the stack uses: an address that
//! is still being checked for duplicates is not in it.
//!
//! The configuration may change meanwhile. A vserver that is removed takes its records out first,
//! while it still has addresses to do that from; one whose server or key changes takes them out by
//! the old ones before it puts them in by the new ones.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Interest, Token};
use parking_lot::Mutex;

use crate::change::Follower;
use crate::config::Register;
use crate::net::{Poller, UdpSocket};
use crate::resolver::message::reverse_name;
use crate::stats::{HostSnapshot, RecordSnapshot};
use crate::{Host, Vserver};

mod key;
mod message;

use key::Key;
use message::{Data, Edit, Verdict};

/// How often addresses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a server has for its answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// After the first failure, doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// How long the end, or that of a vserver, waits for the last removals.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a change waits for the thread beyond that.
const ORDER_SLACK: Duration = Duration::from_secs(1);
/// Messages kept about records that stayed in DNS without their vserver.
const LEFT_MAX: usize = 64;
/// Bytes of an update without its signature: with it, it fits every path.
const UPDATE_BYTES_MAX: usize = 900;
/// An edit in bytes at most: two names and what is between.
const EDIT_BYTES_MAX: usize = 530;
/// Edits of one message.
const EDITS_MAX: usize = 16;

/// A record that a vserver wants or has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    zone: String,
    name: String,
    data: Data,
}

/// What a vserver has under way.
struct Flight {
    socket: UdpSocket,
    id: u16,
    key: Option<Key>,
    mac: Vec<u8>,
    until: Instant,
    /// Confirmed, and gone, once the server says so.
    adds: Vec<Record>,
    removes: Vec<Record>,
}

struct Registrant {
    vserver: Vserver,
    config: Register,
    key: Result<Option<Key>, String>,
    wanted: BTreeSet<Record>,
    confirmed: BTreeSet<Record>,
    flight: Option<Flight>,
    /// Not before.
    next: Instant,
    failures: u32,
    error: Option<String>,
    /// It takes its records out, and is over then.
    leaving: Option<Leaving>,
}

/// Why a registrant takes its records out.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// Its configuration is another one now; the vserver stays.
    Replaced,
    /// The vserver goes, at this time at the latest.
    Removed(Instant),
}

/// Who is to be registered from now on. The answer comes when vservers that go are out of DNS, or
/// their time is over.
struct Order {
    wanted: Vec<(Vserver, Register)>,
    done: Sender<()>,
}

/// What others see of a registrant.
#[derive(Default)]
struct Seen {
    vserver: String,
    records: Vec<RecordSnapshot>,
    problem: Option<String>,
}

#[derive(Default)]
struct Control {
    stop: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    orders: Mutex<Vec<Order>>,
    /// What stayed in DNS.
    left: Mutex<Vec<String>>,
}

/// The registrations of a host. Dropping it removes them from DNS, waiting a moment for that.
pub struct Registrar {
    control: Arc<Control>,
    poller: Arc<Poller>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").finish_non_exhaustive()
    }
}

impl Registrar {
    /// Registers what the host's configuration asks for. Keys are read now.
    ///
    /// Errors: those of making a thread and its queue.
    pub fn start(host: &Host) -> std::io::Result<Registrar> {
        let (control, poller) = (Arc::new(Control::default()), Arc::new(Poller::new()?));
        let registrar = Registrar { control, poller, thread: Mutex::default() };
        registrar.follow(host)?;
        Ok(registrar)
    }

    /// Adds the registrations to a snapshot of the same host.
    pub fn fill(&self, snapshot: &mut HostSnapshot) {
        for seen in &*self.control.seen.lock() {
            if let Some(v) = snapshot.vservers.iter_mut().find(|v| v.name == seen.vserver) {
                v.records.clone_from(&seen.records);
            }
            snapshot.problems.extend(seen.problem.clone());
        }
        snapshot.problems.extend(self.control.left.lock().iter().cloned());
    }

    /// Takes everything out of DNS, waiting at most a few seconds for the servers. Call it before
    /// the host stops.
    pub fn stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        // Without it the thread looks within a second.
        let _ = self.poller.wake();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been printed by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Follower for Registrar {
    fn name(&self) -> &'static str {
        "registration"
    }

    fn follow(&self, host: &Host) -> std::io::Result<()> {
        let registered =
            |v: &crate::config::Vserver| Some((host.vserver(&v.name)?, v.register.clone()?));
        let wanted: Vec<_> = host.config().vservers.iter().filter_map(registered).collect();
        let mut thread = self.thread.lock();
        if thread.is_none() {
            if wanted.is_empty() || self.control.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            let (control, poller) = (Arc::clone(&self.control), Arc::clone(&self.poller));
            *thread = Some(
                std::thread::Builder::new()
                    .name(String::from("weft-register"))
                    .spawn(move || run(&control, &poller))?,
            );
        }
        let (done, answer) = channel();
        self.control.orders.lock().push(Order { wanted, done });
        // Without it the thread looks within a second.
        let _ = self.poller.wake();
        // A thread that does not answer has told why; the change does not wait for it.
        let _ = answer.recv_timeout(FAREWELL + ORDER_SLACK);
        Ok(())
    }
}

/// What the thread has.
#[derive(Default)]
struct Registrants {
    all: Vec<Registrant>,
    /// Who waits for vservers that go.
    waiting: Vec<Sender<()>>,
    farewell: Option<Instant>,
}

fn run(control: &Control, poller: &Poller) {
    let mut ready = Vec::new();
    let mut own = Registrants::default();
    loop {
        let now = Instant::now();
        if own.farewell.is_none() && control.stop.load(Ordering::Acquire) {
            own.farewell = Some(now + FAREWELL);
            // What waits after a failure has one more chance.
            own.all.iter_mut().for_each(|r| r.next = now);
        }
        for order in std::mem::take(&mut *control.orders.lock()) {
            own.set(now, order);
        }
        let until = own.turn(now, poller);
        own.forget(now, control);
        *control.seen.lock() = own.all.iter().map(Registrant::seen).collect();
        if own.is_over(now) {
            return;
        }
        let wait = until.saturating_duration_since(now).max(Duration::from_millis(1));
        if poller.wait(&mut ready, Some(wait)).is_err() {
            return;
        }
    }
}

impl Registrants {
    /// Registrants are these from now on; others leave.
    fn set(&mut self, now: Instant, Order { wanted, done }: Order) {
        for r in &mut self.all {
            let stays = wanted.iter().find(|(v, _)| v.node() == r.vserver.node());
            match stays {
                Some((_, config)) if r.takes(config) => r.reconfigure(now, config),
                Some(_) => r.leaving = Some(Leaving::Replaced),
                None if r.vserver.exists() => r.leaving = Some(Leaving::Replaced),
                None => r.leaving = Some(Leaving::Removed(now + FAREWELL)),
            }
            if r.leaving.is_some() {
                r.next = now;
            }
        }
        for (vserver, config) in wanted {
            let has = |r: &Registrant| r.leaving.is_none() && r.vserver.node() == vserver.node();
            if !self.all.iter().any(has) {
                self.all.push(Registrant::new(vserver, config, now));
            }
        }
        self.waiting.push(done);
    }

    /// Looks at all of them; when to look again.
    fn turn(&mut self, now: Instant, poller: &Poller) -> Instant {
        let mut until = now + LOOK_EVERY;
        for i in 0..self.all.len() {
            let before = (0..i).any(|o| {
                self.all[o].leaving.is_some()
                    && self.all[o].vserver.node() == self.all[i].vserver.node()
            });
            let r = &mut self.all[i];
            // One whose predecessor is still in DNS waits.
            let nothing = before || self.farewell.is_some() || r.leaving.is_some();
            r.wanted = if nothing { BTreeSet::new() } else { r.wanted_now() };
            r.turn(now, poller, Token(i));
            let next = r.flight.as_ref().map_or(r.next, |f| f.until);
            if r.flight.is_some() || r.wanted != r.confirmed {
                until = until.min(next.max(now));
            }
            if let Some(Leaving::Removed(at)) = r.leaving {
                until = until.min(at);
            }
        }
        until
    }

    /// Those that have left, or must.
    fn forget(&mut self, now: Instant, control: &Control) {
        self.all.retain(|r| match r.leaving {
            None => true,
            Some(_) if r.flight.is_none() && r.confirmed.is_empty() => false,
            Some(Leaving::Removed(at)) if now >= at => {
                let text = r.left();
                eprintln!("weft: {text}");
                let mut left = control.left.lock();
                if left.len() < LEFT_MAX && !left.contains(&text) {
                    left.push(text);
                }
                false
            }
            Some(_) => true,
        });
        let goes = |r: &Registrant| matches!(r.leaving, Some(Leaving::Removed(_)));
        if !self.all.iter().any(goes) {
            for done in self.waiting.drain(..) {
                // Who waited may have given up.
                let _ = done.send(());
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let settled =
            |r: &Registrant| r.flight.is_none() && (r.confirmed.is_empty() || r.failures > 0);
        self.farewell.is_some_and(|f| now >= f || self.all.iter().all(settled))
    }
}

impl Registrant {
    fn new(vserver: Vserver, config: Register, now: Instant) -> Registrant {
        Registrant {
            vserver,
            key: config.key.as_deref().map(key::read).transpose(),
            config,
            wanted: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            flight: None,
            next: now,
            failures: 0,
            error: None,
            leaving: None,
        }
    }

    /// Whether it can go over to another configuration: the same server is told, in the same way.
    fn takes(&self, config: &Register) -> bool {
        (&self.config.server, &self.config.key) == (&config.server, &config.key)
    }

    fn reconfigure(&mut self, now: Instant, config: &Register) {
        self.leaving = None;
        if self.config == *config {
            return;
        }
        let ttl_changed = self.config.ttl_s != config.ttl_s;
        self.config = config.clone();
        self.key = config.key.as_deref().map(key::read).transpose();
        (self.next, self.failures, self.error) = (now, 0, None);
        if ttl_changed {
            // What stays is written again, with the new time.
            let wanted = self.wanted_now();
            self.confirmed.retain(|r| !wanted.contains(r));
        }
    }

    /// What stays in DNS without its vserver.
    fn left(&self) -> String {
        let names: Vec<&str> = self.confirmed.iter().map(|r| r.name.as_str()).collect();
        let why = self.error.as_deref().unwrap_or("the server did not answer in time");
        format!(
            "vserver {} was removed, its records stay in DNS ({}): {why}",
            self.vserver.name(),
            names.join(", ")
        )
    }

    /// What it wants in DNS now.
    fn wanted_now(&self) -> BTreeSet<Record> {
        let own = [self.config.own_name(self.vserver.name())];
        let names = if self.config.names.is_empty() { &own[..] } else { &self.config.names };
        let mut wanted = BTreeSet::new();
        for address in self.vserver.addresses().into_iter().filter(registered) {
            for n in
                names.iter().filter(|n| n.addresses.is_empty() || n.addresses.contains(&address))
            {
                wanted.insert(Record {
                    zone: self.config.zone.clone(),
                    name: n.name.clone(),
                    data: Data::Address(address),
                });
                let reverse = reverse_name(address);
                let inside = |z: &&String| {
                    reverse.strip_suffix(z.as_str()).is_some_and(|rest| rest.ends_with('.'))
                };
                let zone = self.config.reverse.iter().filter(inside).max_by_key(|z| z.len());
                // One name per address: the first that is for it.
                let named = wanted.iter().any(|r: &Record| r.name == reverse);
                if let Some(zone) = zone.filter(|_| !named) {
                    let data = Data::Name(n.name.clone());
                    wanted.insert(Record { zone: zone.clone(), name: reverse.clone(), data });
                }
            }
        }
        wanted
    }

    /// Looks at what came, gives up what did not, sends what is next.
    fn turn(&mut self, now: Instant, poller: &Poller, token: Token) {
        if let Some(verdict) = self.flight.as_mut().and_then(|f| f.take(now)) {
            let flight = self.flight.take();
            match (verdict, flight) {
                (Verdict::Done, Some(f)) => {
                    (self.failures, self.error, self.next) = (0, None, now);
                    self.confirmed.extend(f.adds);
                    self.confirmed.retain(|r| !f.removes.contains(r));
                }
                (Verdict::Refused(why), _) => self.failed(now, why),
                _ => {}
            }
        }
        if self.flight.is_none() && now >= self.next && self.wanted != self.confirmed {
            match self.send(now, poller, token) {
                Ok(flight) => self.flight = flight,
                Err(why) => self.failed(now, why),
            }
        }
    }

    fn failed(&mut self, now: Instant, why: String) {
        let delay = RETRY.0.saturating_mul(1 << self.failures.min(16)).min(RETRY.1);
        self.failures += 1;
        self.next = now + delay;
        if self.error.as_ref() != Some(&why) {
            eprintln!("weft: vserver {}: registration: {why}", self.vserver.name());
        }
        self.error = Some(why);
    }

    /// Sends the next update: of one zone, as much as fits.
    fn send(
        &mut self,
        now: Instant,
        poller: &Poller,
        token: Token,
    ) -> Result<Option<Flight>, String> {
        let Some(zone) = self.wanted.symmetric_difference(&self.confirmed).next() else {
            return Ok(None);
        };
        let (edits, adds, removes) = self.edits(&zone.zone.clone());
        let zone = zone.zone.clone();
        let key = self.key.clone()?;
        let first = self.vserver.dns().servers.first().copied();
        let server = self.config.server.or(first);
        let server = server.ok_or("there is no server; add 'server' or DNS servers")?;
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id[..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| e.to_string())?;
        let id = u16::from_be_bytes(id);
        let mut message = message::update(id, &zone, &edits);
        let mac = key.as_ref().map(|k| message::sign(&mut message, k, seconds()));
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let told = |e: std::io::Error| format!("server {server}: {e}");
        let socket = UdpSocket::bind(&self.vserver, any).map_err(told)?;
        socket.set_nonblocking(true).map_err(told)?;
        socket.connect(server).map_err(told)?;
        poller.register(&socket, token, Interest::READABLE).map_err(told)?;
        socket.send(&message).map_err(told)?;
        let mac = mac.unwrap_or_default();
        Ok(Some(Flight { socket, id, key, mac, until: now + TIMEOUT, adds, removes }))
    }

    /// Edits of a zone that fit one message, and what is in DNS and out of it after them.
    fn edits(&self, zone: &str) -> (Vec<Edit>, Vec<Record>, Vec<Record>) {
        let (mut edits, mut adds, mut removes) = (Vec::new(), Vec::new(), Vec::new());
        let mut room = UPDATE_BYTES_MAX;
        let ttl_s = self.config.ttl_s;
        let mut fits = |record: &Record, edits: usize| {
            let names =
                record.name.len() + if let Data::Name(n) = &record.data { n.len() } else { 16 };
            let bytes = (2 * names + 40).min(EDIT_BYTES_MAX);
            let fits = edits == 0 || (room >= bytes && edits < EDITS_MAX);
            room = room.saturating_sub(bytes);
            fits
        };
        for r in self.confirmed.difference(&self.wanted).filter(|r| r.zone == zone) {
            if !fits(r, edits.len()) {
                return (edits, adds, removes);
            }
            edits.push(Edit::Remove { name: r.name.clone(), data: r.data.clone() });
            removes.push(r.clone());
        }
        for r in self.wanted.difference(&self.confirmed).filter(|r| r.zone == zone) {
            if !fits(r, edits.len()) {
                break;
            }
            // What an earlier life left under the name goes with its first record.
            let kind = |d: &Data| std::mem::discriminant(d);
            let same = |o: &Record| {
                let families = match (&o.data, &r.data) {
                    (Data::Address(a), Data::Address(b)) => a.is_ipv6() == b.is_ipv6(),
                    (a, b) => kind(a) == kind(b),
                };
                o.name == r.name && families
            };
            if !self.confirmed.iter().chain(&adds).any(same) {
                edits.push(Edit::Clear { name: r.name.clone(), like: r.data.clone() });
            }
            edits.push(Edit::Add { name: r.name.clone(), ttl_s, data: r.data.clone() });
            adds.push(r.clone());
        }
        (edits, adds, removes)
    }

    fn seen(&self) -> Seen {
        let text = |r: &Record| match &r.data {
            Data::Address(IpAddr::V4(a)) => format!("{} A {a}", r.name),
            Data::Address(IpAddr::V6(a)) => format!("{} AAAA {a}", r.name),
            Data::Name(n) => format!("{} PTR {n}", r.name),
        };
        let record = |r: &Record| RecordSnapshot {
            record: text(r),
            registered: self.confirmed.contains(r),
            error: self.error.clone().filter(|_| !self.confirmed.contains(r)),
        };
        let name = self.vserver.name();
        let problem = self.error.as_ref().map(|e| format!("vserver {name}: registration: {e}"));
        let records = self.wanted.union(&self.confirmed).map(record).collect();
        Seen { vserver: name.to_owned(), records, problem }
    }
}

impl Flight {
    /// What became of it; `None`: nothing yet.
    fn take(&mut self, now: Instant) -> Option<Verdict> {
        loop {
            match self.socket.recv_datagram() {
                Ok(d) => {
                    let signed = self.key.as_ref().map(|k| (k, &self.mac[..]));
                    match message::verdict(&d.payload, self.id, signed, seconds()) {
                        Verdict::Foreign => {}
                        verdict => return Some(verdict),
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => return Some(Verdict::Refused(e.to_string())),
            }
        }
        (now >= self.until).then(|| Verdict::Refused(String::from("the server does not answer")))
    }
}

/// Whether an address means something to others.
fn registered(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_link_local(),
        IpAddr::V6(a) => !a.is_unicast_link_local(),
    }
}

/// The time that signatures carry.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

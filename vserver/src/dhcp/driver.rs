//! The thread of all clients of a host: it feeds them time and messages, sends what they say, and
//! gives their leases to the stacks.
//!
//! A thread and not the workers' loop, for nothing here is in a hurry, and the cache waits for a disk.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use parking_lot::Mutex;
use weft_stack::time::Instant;

use super::cache::{Cache, Entry};
use super::client::Action;
use super::slot::Slot;
use super::status::{DhcpError, DhcpFacts, DhcpReport, DhcpWish};
use super::tap::{Input, Tag, Tap, message};
use crate::config::HostConfig;
use crate::host::Shared;
use crate::interface::LinkId;

mod outgoing;
mod roster;

/// Routes of leases; configured ones, which have 0, go before them.
pub(super) const ROUTE_METRIC: u32 = 100;
/// How often a client without a link-local address looks again.
const LINK_LOCAL_WAIT: Duration = Duration::from_millis(100);
/// Name servers of leases that a resolver asks.
const DNS_MAX: usize = 8;
/// Changes of leases wait this long for others before they are written.
const SAVE_WAIT: Duration = Duration::from_millis(200);

/// The DHCP clients of a host.
pub(crate) struct Dhcp {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Dhcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dhcp").finish_non_exhaustive()
    }
}

struct Inner {
    shared: Arc<Shared>,
    tap: Arc<Tap>,
    clients: Mutex<Clients>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Clients {
    /// A number stays a client's for as long as it is configured.
    slots: Vec<Option<Slot>>,
    by_tag: HashMap<Tag, usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    cache: Option<Cache>,
    save_at: Option<Instant>,
    /// What resolvers were told, by vserver.
    told: HashMap<String, DhcpFacts>,
}

impl Clients {
    /// What leases of a vserver say besides addresses and routes.
    fn facts(&self, vserver: &str) -> DhcpFacts {
        let mut facts = DhcpFacts::default();
        let own = self.slots.iter().flatten().filter(|s| s.vserver == vserver);
        for held in own.filter_map(|s| s.common()?.held.as_ref()) {
            add_new(&mut facts.dns, &held.lease.dns);
            add_new(&mut facts.search, &held.lease.search);
            add_new(&mut facts.ntp, &held.lease.ntp);
        }
        facts
    }
}

/// Appends what is not there yet.
fn add_new<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}

/// Seconds since 1970, for times that outlive the process.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Dhcp {
    /// No clients yet.
    pub(crate) fn new(shared: Arc<Shared>) -> Dhcp {
        let inner = Inner {
            shared,
            tap: Arc::default(),
            clients: Mutex::default(),
            stopping: AtomicBool::new(false),
        };
        Dhcp { inner: Arc::new(inner), thread: Mutex::new(None) }
    }

    /// The clients are those of `config` from now on: new ones start, ones that are gone give their
    /// addresses back, ones that stay keep theirs. `index` gives the number of a vserver.
    pub(crate) fn update(
        &self,
        config: &HostConfig,
        index: impl Fn(&str) -> Option<crate::runtime::NodeId>,
    ) -> std::io::Result<()> {
        let any = config.vservers.iter().any(|v| !v.dhcp.is_empty());
        let mut thread = self.thread.lock();
        if !any && thread.is_none() {
            return Ok(());
        }
        self.inner.open(config);
        self.inner.set_clients(config, index);
        if thread.is_none() {
            let inner = Arc::clone(&self.inner);
            let spawned = std::thread::Builder::new().name(String::from("weft-dhcp"));
            *thread = Some(spawned.spawn(move || inner.run())?);
        }
        self.inner.tap.wake();
        Ok(())
    }

    /// Ends the thread; leases are kept, and their cache is written.
    pub(crate) fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.tap.wake();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been printed by the panic hook.
            let _ = thread.join();
        }
    }

    /// What every client does.
    pub(crate) fn report(&self) -> DhcpReport {
        let now = self.inner.shared.home().clock.now();
        let clients = self.inner.clients.lock();
        let mut lines: Vec<_> = clients.slots.iter().flatten().map(|s| s.line(now)).collect();
        lines.sort_by(|a, b| {
            let key = |l: &super::status::DhcpLine| {
                (l.vserver.clone(), l.alias.clone(), l.family.clone(), l.instance)
            };
            key(a).cmp(&key(b))
        });
        DhcpReport { clients: lines, lost: self.inner.tap.lost() }
    }

    /// What leases of a vserver say besides addresses and routes.
    pub(crate) fn facts(&self, vserver: &str) -> DhcpFacts {
        self.inner.clients.lock().facts(vserver)
    }

    /// The vserver's configured name servers changed: those of leases are to be known again.
    pub(crate) fn retell(&self, vserver: &str) {
        let mut clients = self.inner.clients.lock();
        clients.told.remove(vserver);
        let own = |s: &Option<Slot>| s.as_ref().is_some_and(|s| s.vserver == vserver);
        if let Some(at) = clients.slots.iter().position(own) {
            self.inner.tell_resolver(&mut clients, at);
        }
    }

    /// Carries out an operator's wish for all clients of a vserver on an alias, or for one instance.
    pub(crate) fn wish(
        &self,
        vserver: &str,
        alias: &str,
        instance: Option<u32>,
        wish: DhcpWish,
    ) -> Result<usize, DhcpError> {
        let now = self.inner.shared.home().clock.now();
        let mut clients = self.inner.clients.lock();
        let meant = |s: &Slot| {
            s.vserver.eq_ignore_ascii_case(vserver)
                && s.alias_name.eq_ignore_ascii_case(alias)
                && instance.is_none_or(|i| i == s.config.instance)
        };
        let found: Vec<usize> = (0..clients.slots.len())
            .filter(|i| clients.slots[*i].as_ref().is_some_and(meant))
            .collect();
        for at in &found {
            if let Some(slot) = &mut clients.slots[*at] {
                match wish {
                    DhcpWish::Renew => slot.renew(now),
                    DhcpWish::Release => slot.release(now),
                }
            }
            self.inner.carry_out(&mut clients, now, *at);
        }
        drop(clients);
        self.inner.tap.wake();
        if found.is_empty() {
            let (vserver, alias) = (vserver.to_owned(), alias.to_owned());
            return Err(DhcpError::NoClient { vserver, alias });
        }
        Ok(found.len())
    }
}

impl Inner {
    fn now(&self) -> Instant {
        self.shared.home().clock.now()
    }

    fn problem(&self, text: String) {
        // After a stop nobody asks any more.
        let _ = self.shared.home().with_core(|core, _| core.problem(text));
    }

    /// Reads the cache and listens, once.
    fn open(&self, config: &HostConfig) {
        let mut clients = self.clients.lock();
        if clients.cache.is_some() {
            return;
        }
        let (cache, problems) = Cache::open(&config.state_dir);
        clients.save_at = cache.is_changed().then(|| self.now());
        clients.cache = Some(cache);
        drop(clients);
        for problem in problems {
            self.problem(problem);
        }
        for worker in &self.shared.workers {
            let tap = Arc::clone(&self.tap);
            let _ = worker.with_core(|core, _| core.dhcp = Some(tap));
        }
    }

    /// Runs until it is stopped.
    fn run(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            let until = {
                let clients = self.clients.lock();
                let first = clients.deadlines.first().map(|d| d.0);
                [first, clients.save_at].into_iter().flatten().min()
            };
            let inputs = self.tap.wait(until.map(|at| self.shared.home().clock.at(at)));
            let mut clients = self.clients.lock();
            let now = self.now();
            for input in inputs {
                self.take(&mut clients, now, input);
            }
            while let Some((at, index)) = clients.deadlines.first().copied()
                && at <= now
            {
                clients.deadlines.pop_first();
                if let Some(slot) = &mut clients.slots[index] {
                    slot.armed = None;
                    slot.timeout(now);
                }
                self.start(&mut clients, now, index, Duration::ZERO);
                self.carry_out(&mut clients, now, index);
            }
            if clients.save_at.is_some_and(|at| at <= now) {
                self.save(&mut clients);
            }
        }
        let mut clients = self.clients.lock();
        if clients.save_at.is_some() {
            self.save(&mut clients);
        }
    }

    fn save(&self, clients: &mut Clients) {
        clients.save_at = None;
        if let Some(Err(e)) = clients.cache.as_mut().map(Cache::save) {
            let live = self.shared.live();
            let dir = live.config.state_dir.display();
            self.problem(format!("lease cache: cannot write to {dir}: {e}"));
        }
    }

    /// Whether checksums of what came by a link are not verified.
    fn is_trusted(&self, link: usize) -> bool {
        let config = &self.shared.live().config;
        let Ok(tree) = config.tree() else { return false };
        let below = u16::try_from(link).map(|link| tree.nics_below(LinkId(link)));
        below.is_ok_and(|nics| nics.iter().all(|n| config.nics[*n].rx_checksum_trust))
    }

    fn take(&self, clients: &mut Clients, now: Instant, input: Input) {
        match input {
            Input::Datagram { link, tag, frame, proven } => {
                let Some(at) = clients.by_tag.get(&tag).copied() else { return };
                if let Some(slot) = clients.slots[at].as_mut().filter(|s| s.link == link) {
                    slot.via = frame.get(6..12).and_then(|mac| mac.try_into().ok());
                    let trusted = self.is_trusted(link);
                    match message(&frame, proven || trusted) {
                        Ok(data) => slot.receive(now, data),
                        Err(why) => slot.unproven(why),
                    }
                    self.carry_out(clients, now, at);
                }
            }
            Input::Address { vserver, alias, addr, rival } => {
                for at in 0..clients.slots.len() {
                    let Some(slot) = &mut clients.slots[at] else { continue };
                    if slot.index.index == vserver && slot.alias == alias {
                        slot.checked(now, addr, rival.as_deref());
                        self.start(clients, now, at, Duration::ZERO);
                        self.carry_out(clients, now, at);
                    }
                }
            }
            Input::LinkUp { link } => {
                for at in 0..clients.slots.len() {
                    if let Some(slot) = clients.slots[at].as_mut().filter(|s| s.link == link) {
                        slot.link_up(now);
                        self.carry_out(clients, now, at);
                    }
                }
            }
        }
    }

    /// Does what a client wants, and notes when and for which answers it is called next.
    fn carry_out(&self, clients: &mut Clients, now: Instant, at: usize) {
        while let Some(slot) = &mut clients.slots[at]
            && let Some(action) = slot.poll()
        {
            match action {
                Action::Send { to, data } => self.send(slot, to, &data),
                Action::Assign { lease, left } => {
                    if let Err(e) = self.assign(slot, &lease, left) {
                        slot.checked(now, lease.address, Some(&e));
                    }
                }
                Action::Withdraw(addr) => self.withdraw(clients, at, addr),
                Action::Store { lease, age } => {
                    let key = slot.key();
                    let entry = Entry { given_s: unix_s().saturating_sub(age.as_secs()), lease };
                    if let Some(cache) = &mut clients.cache {
                        cache.put(&key, entry);
                    }
                }
                Action::Forget => {
                    let key = slot.key();
                    if let Some(cache) = &mut clients.cache {
                        cache.remove(&key);
                    }
                }
            }
        }
        if clients.cache.as_ref().is_some_and(Cache::is_changed) && clients.save_at.is_none() {
            clients.save_at = Some(now + SAVE_WAIT);
        }
        self.tell_resolver(clients, at);
        self.note(clients, now, at);
    }

    /// Name servers and search list are the leases' where the configuration has none.
    fn tell_resolver(&self, clients: &mut Clients, at: usize) {
        let Some(slot) = &clients.slots[at] else { return };
        let (vserver, index) = (slot.vserver.clone(), slot.index);
        let facts = clients.facts(&vserver);
        let told = clients.told.entry(vserver.clone()).or_default();
        if (&told.dns, &told.search) == (&facts.dns, &facts.search) {
            return;
        }
        let vserver = crate::Vserver::new(Arc::clone(&self.shared), index, &vserver);
        let mut dns = vserver.configured_dns();
        if dns.servers.is_empty() {
            dns.servers = facts.dns.iter().map(|a| SocketAddr::new(*a, 53)).take(DNS_MAX).collect();
        }
        if dns.search.is_empty() {
            dns.search.clone_from(&facts.search);
        }
        *told = facts;
        vserver.set_dns(dns);
    }

    fn note(&self, clients: &mut Clients, now: Instant, at: usize) {
        let Clients { slots, by_tag, deadlines, .. } = clients;
        let Some(slot) = &mut slots[at] else { return };
        let asks = slot.asks();
        if asks != slot.tag {
            self.tap.want(slot.tag, asks);
            if let Some(before) = slot.tag {
                by_tag.remove(&before);
            }
            if let Some(tag) = asks {
                by_tag.insert(tag, at);
            }
            slot.tag = asks;
        }
        let waits = slot.machine.is_none().then(|| now + LINK_LOCAL_WAIT);
        let due = slot.deadline().or(waits);
        if due != slot.armed {
            if let Some(before) = slot.armed {
                deadlines.remove(&(before, at));
            }
            deadlines.extend(due.map(|due| (due, at)));
            slot.armed = due;
        }
        let strange = slot.common().map_or(0, |c| c.counts.strange_server);
        if strange > slot.strange {
            slot.strange = strange;
            let error = slot.common().and_then(|c| c.error.clone()).unwrap_or_default();
            self.problem(format!("dhcp on {}: {error}", slot.alias_name));
        }
    }
}

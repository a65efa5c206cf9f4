//! The thread of all clients of a host: it feeds them time and messages, sends what they say, and
//! gives their leases to the stacks.
//!
//! A thread and not the workers' loop, for nothing here is in a hurry, and the cache waits for a disk.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use parking_lot::Mutex;
use weft_stack::ip::address::AliasId;
use weft_stack::shard::port_owner;
use weft_stack::socket::udp::UdpSend;
use weft_stack::stack::Change;
use weft_stack::time::Instant;

use super::cache::{Cache, Entry};
use super::client::{Action, To};
use super::slot::{Applied, Machine, Slot};
use super::status::{DhcpError, DhcpFacts, DhcpReport, DhcpWish};
use super::tap::{Input, Tag, Tap, frame4, frame6, message};
use super::v4::Client4;
use super::v6::Client6;
use super::{v4, v6};
use crate::config::{CacheUse, DhcpClient, DhcpFamily, HostConfig, Vserver};
use crate::host::Shared;

/// Routes of leases; configured ones, which have 0, go before them.
pub(super) const ROUTE_METRIC: u32 = 100;
/// Clients that start together send their first messages over this time each, at most `SPREAD_MAX`
/// in all.
const SPREAD: Duration = Duration::from_millis(2);
const SPREAD_MAX: Duration = Duration::from_secs(10);
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

fn seed() -> u64 {
    let mut seed = [0; 8];
    // Transaction ids that can be guessed are still matched by more than themselves.
    let _ = rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(seed)
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

    fn set_clients(
        &self,
        config: &HostConfig,
        index: impl Fn(&str) -> Option<crate::runtime::NodeId>,
    ) {
        let now = self.now();
        let mut wanted: HashMap<(String, String), (crate::runtime::NodeId, &Vserver, &DhcpClient)> =
            HashMap::new();
        for v in &config.vservers {
            let Some(index) = index(&v.name) else { continue };
            for client in &v.dhcp {
                let id = config.client_id(v, client.alias, client.instance);
                let Some(id) = id.map(|id| id.to_string()) else { continue };
                let key = format!("{} {id}", client.family.name());
                wanted.insert((v.name.clone(), key), (index, v, client));
            }
        }
        let mut clients = self.clients.lock();
        for at in 0..clients.slots.len() {
            let Some(slot) = &mut clients.slots[at] else { continue };
            let same = wanted.get(&(slot.vserver.clone(), slot.key()));
            let same = same.is_some_and(|(index, _, c)| *index == slot.index && **c == slot.config);
            if same {
                wanted.remove(&(slot.vserver.clone(), slot.key()));
                continue;
            }
            slot.release(now);
            self.carry_out(&mut clients, now, at);
            self.forget(&mut clients, at);
        }
        let spread = (SPREAD * wanted.len() as u32).min(SPREAD_MAX);
        let configured: Vec<String> = wanted
            .keys()
            .map(|k| k.1.clone())
            .chain(clients.slots.iter().flatten().map(Slot::key))
            .collect();
        if let Some(cache) = &mut clients.cache {
            let configured: hashbrown::HashSet<String> = configured.into_iter().collect();
            cache.prune(unix_s(), |client| configured.contains(client));
        }
        for (_, (index, v, client)) in wanted {
            if let Some(slot) = self.slot(config, index, v, client) {
                let free = clients.slots.iter().position(Option::is_none);
                let at = free.unwrap_or(clients.slots.len());
                if free.is_none() {
                    clients.slots.push(None);
                }
                clients.slots[at] = Some(slot);
                self.start(&mut clients, now, at, spread);
                self.carry_out(&mut clients, now, at);
            }
        }
    }

    fn slot(
        &self,
        config: &HostConfig,
        index: crate::runtime::NodeId,
        v: &Vserver,
        client: &DhcpClient,
    ) -> Option<Slot> {
        let alias = AliasId(client.alias as u16);
        let mac = self.shared.home().peek(index, |node| {
            let own = node.stack.aliases().find(|(a, _)| a.id == alias)?;
            match own.0.medium {
                weft_stack::ip::address::AliasMedium::Ethernet { mac } => Some(mac),
                weft_stack::ip::address::AliasMedium::Ip => None,
            }
        });
        let mac = mac.ok()??;
        Some(Slot {
            vserver: v.name.clone(),
            index,
            alias,
            alias_name: config.aliases[client.alias].name.clone(),
            nic: config.aliases[client.alias].nic,
            mac,
            id: config.client_id(v, client.alias, client.instance)?.to_string(),
            config: client.clone(),
            machine: None,
            applied: None,
            refused: None,
            strange: 0,
            tag: None,
            armed: None,
        })
    }

    /// Makes the state machine of a slot, when it can speak.
    fn start(&self, clients: &mut Clients, now: Instant, at: usize, spread: Duration) {
        let Clients { slots, cache, .. } = clients;
        let Some(slot) = slots[at].as_mut().filter(|s| s.machine.is_none()) else { return };
        let live = self.shared.live();
        let cluster = live.config.cluster.as_ref();
        let class = cluster.map_or("weft", |c| c.vendor_class.as_str()).to_owned();
        let id = slot.id.parse::<crate::naming::ClientId>();
        let (Ok(id), client) = (id, &slot.config) else { return };
        let cached = cache.as_ref().filter(|_| client.cache != CacheUse::Off);
        let cached = cached.and_then(|c| c.get(&slot.key(), unix_s()));
        let (cached_after, keep_expired) =
            (Duration::from_secs(client.cached_after_s.into()), client.cache == CacheUse::Always);
        let machine = match client.family {
            DhcpFamily::V4 => {
                let settings = v4::Settings {
                    client: id.option_61(),
                    class,
                    mac: slot.mac,
                    servers: client.servers.clone(),
                    vendor_only: client.vendor_only,
                    cached_after,
                    keep_expired,
                    spread,
                };
                Machine::V4(Box::new(Client4::start(settings, seed(), now, cached)))
            }
            DhcpFamily::V6 => {
                if self.link_local(slot).is_none() {
                    return;
                }
                let enterprise =
                    cluster.map_or(crate::naming::ENTERPRISE_DEFAULT, |c| c.enterprise);
                let settings = v6::Settings {
                    client: id.duid(enterprise),
                    iaid: client.instance,
                    enterprise,
                    class,
                    rapid_commit: client.rapid_commit,
                    vendor_only: client.vendor_only,
                    cached_after,
                    keep_expired,
                    spread,
                };
                Machine::V6(Box::new(Client6::start(settings, seed(), now, cached)))
            }
        };
        slot.machine = Some(machine);
    }

    /// Asks the stack for a link-local address to speak from, and whether there is one.
    fn link_local(&self, slot: &Slot) -> Option<Ipv6Addr> {
        let alias = slot.alias;
        let found = self.shared.home().call(slot.index, |node, now| {
            // The alias is attached, which is all the stack can object to.
            let _ = node.stack.handle_config(now, Change::LinkLocalAdd(alias));
            node.stack.addresses(alias).iter().find_map(|a| match a.cidr.addr {
                IpAddr::V6(addr) if addr.is_unicast_link_local() && a.state.usable() => Some(addr),
                _ => None,
            })
        });
        found.ok().flatten()
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

    fn take(&self, clients: &mut Clients, now: Instant, input: Input) {
        match input {
            Input::Datagram { nic, tag, frame, proven } => {
                let Some(at) = clients.by_tag.get(&tag).copied() else { return };
                if let Some(slot) = clients.slots[at].as_mut().filter(|s| s.nic == nic) {
                    let nics = &self.shared.live().config.nics;
                    let trusted = nics.get(nic).is_some_and(|n| n.rx_checksum_trust);
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
            Input::LinkUp { nic } => {
                for at in 0..clients.slots.len() {
                    if let Some(slot) = clients.slots[at].as_mut().filter(|s| s.nic == nic) {
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

    /// The client is no longer configured.
    fn forget(&self, clients: &mut Clients, at: usize) {
        if let Some(slot) = clients.slots[at].take() {
            self.tap.want(slot.tag, None);
            if let Some(tag) = slot.tag {
                clients.by_tag.remove(&tag);
            }
            if let Some(armed) = slot.armed {
                clients.deadlines.remove(&(armed, at));
            }
        }
    }

    fn send(&self, slot: &Slot, to: To, data: &[u8]) {
        let frame = match to {
            To::Everybody => frame4(slot.mac, data),
            To::Server { from, to } => return self.send_to(slot, from, to, data),
            To::Servers6 => match self.link_local(slot) {
                Some(from) => frame6(slot.mac, from, data),
                None => return,
            },
        };
        // What does not leave is sent again, as what is lost on the way.
        let _ = self.shared.home().with_core(|core, _| core.send_frame(slot.nic, &frame));
    }

    /// From the leased address: through the stack, which has the route and the neighbour.
    fn send_to(&self, slot: &Slot, from: Ipv4Addr, to: Ipv4Addr, data: &[u8]) {
        let workers = &self.shared.workers;
        let owner = usize::from(port_owner(68, workers.len() as u16));
        let _ = workers[owner].call(slot.index, |node, now| {
            let local = |port| SocketAddr::new(from.into(), port);
            let bound = node.stack.udp_bind(now, local(68));
            // The vserver's own client may have it; servers answer to port 68 whatever we use.
            let Ok(id) = bound.or_else(|_| node.stack.udp_bind(now, local(0))) else { return };
            let server = SocketAddr::new(to.into(), 67);
            let how = UdpSend { to: Some(server), ..UdpSend::default() };
            let _ = node.stack.udp_send_with(now, id, data, &how);
            node.stack.udp_close(id);
        });
    }

    /// Gives a lease to the stack. `Err`: who has the address already.
    fn assign(
        &self,
        slot: &mut Slot,
        lease: &super::Lease,
        left: Option<Duration>,
    ) -> Result<(), String> {
        let wanted = slot.wanted(lease);
        let given = super::apply::address(&self.shared, slot, lease, left);
        if let Err(e) = given {
            let text = format!("{}: {e}", wanted.cidr.addr);
            self.problem(format!("vserver {}: {text}", slot.vserver));
            return Err(String::from("this vserver"));
        }
        let before = slot.applied.replace(wanted.clone());
        slot.refused = super::apply::extras(&self.shared, slot, before.as_ref(), &wanted);
        Ok(())
    }

    fn withdraw(&self, clients: &mut Clients, at: usize, addr: IpAddr) {
        let Some(slot) = clients.slots[at].as_mut() else { return };
        let applied = slot.applied.take();
        super::apply::remove(&self.shared, slot, applied.as_ref(), addr);
        // What another lease of the alias gave as well is still wanted.
        let (index, alias) = (slot.index, slot.alias);
        for other in clients.slots.iter_mut().flatten() {
            if (other.index, other.alias) == (index, alias)
                && let Some(own) = other.applied.clone()
            {
                let nothing = Applied { routes: Vec::new(), mtu: None, ..own.clone() };
                other.refused = super::apply::extras(&self.shared, other, Some(&nothing), &own);
            }
        }
    }
}

//! Built-in services of vservers: echo, discard, chargen, http, proxy.
//!
//! Echo, discard and chargen run to completion on the workers (`small.rs`). One thread serves http
//! and proxy for all vservers: they wait for files and for sockets of the kernel, which a worker
//! must not. It waits on one [`Poller`] for their sockets, and on a `mio::Poll` around it while a
//! proxy has sockets of the kernel open. A connection moves a bounded number of bytes before the
//! next one's turn; one whose peer does not read is not read from either. Everything has a limit:
//! connections per service, time without progress, heads, bodies, accepts per turn.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::app::ServiceHandle;
use crate::config::{self, ProxyTarget, ServiceKind};
use crate::net::Poller;
use crate::resolver::Follow;
use crate::stats::{HostSnapshot, ServiceSnapshot};
use crate::{Host, Vserver};

mod connection;
mod counters;
mod datagram;
mod event_loop;
mod http;
mod place;
mod proxy;
mod session;
mod small;

use counters::Counters;
use event_loop::EventLoop;
use place::Place;
use small::Small;

/// How often an address that was not there yet is tried again.
const BIND_RETRY: Duration = Duration::from_millis(200);
/// Idle time, interval and number of keepalive probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(10), 6);
/// How long the service thread may take to bind a listener.
const ORDER_WAIT: Duration = Duration::from_secs(5);
/// Connections of a service that wait to be accepted.
const BACKLOG: usize = 1024;

/// Why the services did not start. None runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A service could not be set up.
    #[error("{of}: {kind} on {listen}: {operation}: {source}")]
    Service {
        /// Which vserver, or which ones.
        of: String,
        /// Which service.
        kind: &'static str,
        /// Where it should listen.
        listen: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The operating system refused something that all services need.
    #[error("services: {operation}: {source} (check the limits of the process: ulimit -n, -u)")]
    Os {
        /// What was tried.
        operation: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// The running services of a host. Dropping it stops them.
#[derive(Debug)]
pub struct Services {
    all: Mutex<Vec<Arc<Running>>>,
    control: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Those that run on the workers.
    small: SmallServices,
    /// Names of addresses and targets, by vserver, and what for.
    follows: Mutex<Vec<(String, Follow, &'static str)>>,
}

/// Services that run on the workers.
type SmallServices = Arc<Mutex<Vec<(Arc<Running>, ServiceHandle)>>>;

/// How the service thread is told to end.
#[derive(Debug)]
struct Control {
    poller: Poller,
    stop: AtomicBool,
    /// Services whose name stands for another address now.
    moved: Mutex<Vec<Arc<Running>>>,
    orders: Mutex<Vec<Order>>,
}

/// What the service thread is to do besides.
#[derive(Debug)]
enum Order {
    /// Serve it, and tell whether it listens.
    Add(Arc<Running>, Sender<io::Result<()>>),
    /// Close its listener and its connections.
    Remove(Arc<Running>),
}

/// One service of one vserver, or of all.
#[derive(Debug)]
struct Running {
    place: Place,
    config: config::Service,
    site: Option<Arc<http::Site>>,
    counters: Counters,
    /// Listeners there are: on the workers one each.
    listening: AtomicUsize,
    /// Token of the listener, once it listens, if the thread serves it.
    listener: AtomicUsize,
    /// Why a worker cannot listen.
    refused: Mutex<Option<io::Error>>,
    /// Where it listens, if its configuration has a name for that.
    moved_to: Mutex<Option<IpAddr>>,
    /// Where a proxy forwards to, if its configuration has a name for that.
    target: Mutex<Option<SocketAddr>>,
}

impl Running {
    fn kind(&self) -> &'static str {
        match self.config.kind {
            ServiceKind::Echo => "echo",
            ServiceKind::Discard => "discard",
            ServiceKind::Chargen => "chargen",
            ServiceKind::Http { .. } => "http",
            ServiceKind::Proxy(_) => "proxy",
        }
    }

    /// Whether it runs on the workers.
    fn is_small(&self) -> bool {
        matches!(self.config.kind, ServiceKind::Echo | ServiceKind::Discard | ServiceKind::Chargen)
    }

    /// Where it is to listen; `None`: its name has no address yet.
    fn listen(&self) -> Option<SocketAddr> {
        let listen = self.config.listen;
        if self.config.listen_name.is_none() {
            return Some(listen);
        }
        self.moved_to.lock().map(|ip| SocketAddr::new(ip, listen.port()))
    }

    fn listen_text(&self) -> String {
        if let Place::Any { .. } = self.place {
            return format!("{}, {}", self.place, self.config.listen);
        }
        match (&self.config.listen_name, self.listen()) {
            (None, _) => self.config.listen.to_string(),
            (Some(name), Some(at)) => format!("{name} ({at})"),
            (Some(name), None) => format!("{name}:{}", self.config.listen.port()),
        }
    }

    fn error(&self, operation: &'static str, source: io::Error) -> ServiceError {
        ServiceError::Service {
            of: self.place.to_string(),
            kind: self.kind(),
            listen: self.config.listen.to_string(),
            operation,
            source,
        }
    }

    fn snapshot(&self) -> ServiceSnapshot {
        ServiceSnapshot {
            kind: self.kind().to_owned(),
            listen: self.listen_text(),
            listening: self.listening.load(Ordering::Relaxed)
                >= if self.is_small() { self.place.workers().len() } else { 1 },
            connections: self.counters.connections.get(),
            counters: self.counters.collect(),
        }
    }
}

impl Services {
    /// Starts the services that the host's configuration asks for, all or none. One on an address
    /// that is still being checked for duplicates starts to listen when the check is over.
    pub fn start(host: &Host) -> Result<Services, ServiceError> {
        let all = collect(host)?;
        let os = |operation| move |source| ServiceError::Os { operation, source };
        let poller = Poller::new().map_err(os("create a poller"))?;
        let stop = AtomicBool::new(false);
        let control =
            Arc::new(Control { poller, stop, moved: Mutex::default(), orders: Mutex::default() });
        let mut event_loop =
            EventLoop::new(Arc::clone(&control)).map_err(os("create an event queue"))?;
        let mut small = Vec::new();
        for service in &all {
            if service.is_small() {
                let Some(listen) = service.listen() else { continue };
                let run = Small::run(service, listen).map_err(|e| service.error("listen", e))?;
                small.push((Arc::clone(service), run));
            } else {
                event_loop.add(service).map_err(|e| service.error("listen", e))?;
            }
        }
        let thread = std::thread::Builder::new()
            .name(String::from("weft-services"))
            .spawn(move || event_loop.run())
            .map_err(os("start a thread"))?;
        let thread = Mutex::new(Some(thread));
        let small: SmallServices = Arc::new(Mutex::new(small));
        let follows = all.iter().flat_map(|s| follow(s, &control, &small)).collect();
        let all = Mutex::new(all);
        Ok(Services { all, control, thread, small, follows: Mutex::new(follows) })
    }

    /// Adds the services to a snapshot of the same host.
    pub fn fill(&self, snapshot: &mut HostSnapshot) {
        let positions: HashMap<String, usize> =
            snapshot.vservers.iter().enumerate().map(|(i, v)| (v.name.clone(), i)).collect();
        for (vserver, follow, used_for) in self.follows.lock().iter() {
            let Some(at) = positions.get(vserver) else { continue };
            snapshot.vservers[*at].names.push(follow.snapshot(used_for));
        }
        for s in self.all.lock().iter() {
            match &s.place {
                Place::Vserver(v) => {
                    let Some(at) = positions.get(v.name()) else { continue };
                    snapshot.vservers[*at].services.push(s.snapshot());
                }
                Place::Any { shared, group } => {
                    let own = s.snapshot();
                    let config = &shared.live().config;
                    for v in &config.vservers {
                        let is_of = |g: &String| config.group_names(v.group).contains(&g.as_str());
                        let at =
                            positions.get(&v.name).filter(|_| group.as_ref().is_none_or(is_of));
                        let Some(at) = at else { continue };
                        let text = format!("{} on {}", own.kind, own.listen);
                        snapshot.vservers[*at].shared_services.push(text);
                    }
                    snapshot.services.push(own);
                }
            }
            if let Some(e) = s.refused.lock().take() {
                snapshot.problems.push(s.error("listen", e).to_string());
            }
        }
    }

    /// Instead of the services `from` a vserver has those in `to`: what is in both goes on, others
    /// are stopped, with their connections, and started. On an error none was started or stopped.
    pub(crate) fn update(
        &self,
        vserver: &Vserver,
        from: &[config::Service],
        to: &[config::Service],
    ) -> Result<(), ServiceError> {
        let place = |s: &config::Service| (Place::Vserver(vserver.clone()), s.clone());
        let from: Vec<_> = from.iter().map(place).collect();
        self.replace(&from, to.iter().map(place).collect())
    }

    /// The same for services of all vservers.
    pub(crate) fn update_any(
        &self,
        host: &Host,
        from: &[config::AnyService],
        to: &[config::AnyService],
    ) -> Result<(), ServiceError> {
        let place = |s: &config::AnyService| (Place::any(host, s), s.service.clone());
        let from: Vec<_> = from.iter().map(place).collect();
        self.replace(&from, to.iter().map(place).collect())
    }

    fn replace(
        &self,
        from: &[(Place, config::Service)],
        to: Vec<(Place, config::Service)>,
    ) -> Result<(), ServiceError> {
        let old = from.iter().filter(|s| !to.contains(s));
        let stopped: Vec<_> = old.filter_map(|(place, s)| self.take(place, s)).collect();
        let mut started = Vec::new();
        for (place, config) in to.into_iter().filter(|s| !from.contains(s)) {
            let begun = prepare(place, &config).and_then(|s| self.begin(&s).map(|()| s));
            match begun {
                Ok(service) => started.push(service),
                Err(e) => {
                    for service in &started {
                        self.end(service);
                    }
                    for service in &stopped {
                        let again = prepare(service.place.clone(), &service.config);
                        again.and_then(|s| self.begin(&s))?;
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Stops a service.
    fn take(&self, place: &Place, config: &config::Service) -> Option<Arc<Running>> {
        let all = self.all.lock();
        let ours = |s: &&Arc<Running>| s.place == *place && s.config == *config;
        let found = all.iter().find(ours).map(Arc::clone);
        drop(all);
        found.inspect(|service| self.end(service))
    }

    fn begin(&self, service: &Arc<Running>) -> Result<(), ServiceError> {
        if service.is_small() {
            if let Some(listen) = service.listen() {
                let run = Small::run(service, listen).map_err(|e| service.error("listen", e))?;
                self.small.lock().push((Arc::clone(service), run));
            }
        } else {
            let (told, answer) = channel();
            self.order(Order::Add(Arc::clone(service), told));
            let gone = || Err(io::ErrorKind::NotConnected.into());
            let listens = answer.recv_timeout(ORDER_WAIT).unwrap_or_else(|_| gone());
            listens.map_err(|e| service.error("listen", e))?;
        }
        self.follows.lock().extend(follow(service, &self.control, &self.small));
        self.all.lock().push(Arc::clone(service));
        Ok(())
    }

    fn end(&self, service: &Arc<Running>) {
        self.all.lock().retain(|s| !Arc::ptr_eq(s, service));
        self.unfollow(service);
        if service.is_small() {
            self.small.lock().retain(|(s, _)| !Arc::ptr_eq(s, service));
            service.place.workers().iter().for_each(|w| w.end_services_now());
        } else {
            self.order(Order::Remove(Arc::clone(service)));
        }
    }

    /// A service that ended follows no name.
    fn unfollow(&self, service: &Running) {
        let target = match &service.config.kind {
            ServiceKind::Proxy(ProxyTarget::Named(name, _)) => Some(name),
            _ => None,
        };
        let names: Vec<&String> = service.config.listen_name.iter().chain(target).collect();
        if !names.is_empty() {
            let Place::Vserver(of) = &service.place else { return };
            let vserver = of.name();
            let ours = |name: String| names.iter().any(|n| **n == name);
            self.follows.lock().retain(|(v, f, _)| *v != vserver || !ours(f.snapshot("").name));
        }
    }

    fn order(&self, order: Order) {
        self.control.orders.lock().push(order);
        // A thread that cannot be woken wakes by itself within its longest wait.
        let _ = self.control.poller.wake();
    }

    /// Stops the services and waits for their thread; connections are closed, on the workers soon
    /// after.
    pub fn stop(&self) {
        // First, so that no name starts a service again.
        let follows = std::mem::take(&mut *self.follows.lock());
        drop(follows);
        let small = std::mem::take(&mut *self.small.lock());
        drop(small);
        self.control.stop.store(true, Ordering::Release);
        // A thread that cannot be woken wakes by itself within its longest wait.
        let _ = self.control.poller.wake();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been printed by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Follows the names in a service's configuration.
fn follow(
    service: &Arc<Running>,
    control: &Arc<Control>,
    small: &SmallServices,
) -> Vec<(String, Follow, &'static str)> {
    // Who has no resolver has no names.
    let Place::Vserver(of) = &service.place else { return Vec::new() };
    let (vserver, mut follows) = (of.name(), Vec::new());
    if let Some(name) = &service.config.listen_name {
        let (running, control, small) =
            (Arc::clone(service), Arc::clone(control), Arc::clone(small));
        let follow = of.follow(name, move |addresses| {
            let Some(first) = addresses.first() else { return };
            *running.moved_to.lock() = Some(*first);
            if running.is_small() {
                move_small(&running, &small);
            } else {
                control.moved.lock().push(Arc::clone(&running));
                // Without it the thread looks within its longest wait.
                let _ = control.poller.wake();
            }
        });
        follows.push((vserver.to_owned(), follow, "address"));
    }
    if let ServiceKind::Proxy(ProxyTarget::Named(name, port)) = &service.config.kind {
        let (running, port) = (Arc::clone(service), *port);
        let follow = of.follow(name, move |addresses| {
            *running.target.lock() = addresses.first().map(|a| SocketAddr::new(*a, port));
        });
        follows.push((vserver.to_owned(), follow, "target"));
    }
    follows
}

/// Runs a service on the workers anew where its name points now; its connections end.
fn move_small(service: &Arc<Running>, small: &SmallServices) {
    let Some(listen) = service.listen() else { return };
    let mut all = small.lock();
    all.retain(|(s, _)| !Arc::ptr_eq(s, service));
    match Small::run(service, listen) {
        Ok(run) => all.push((Arc::clone(service), run)),
        Err(e) => eprintln!("weft: {}", service.error("listen", e)),
    }
}

fn collect(host: &Host) -> Result<Vec<Arc<Running>>, ServiceError> {
    let mut all = Vec::new();
    for v in &host.config().vservers {
        let Some(vserver) = host.vserver(&v.name) else { continue };
        for config in &v.services {
            all.push(prepare(Place::Vserver(vserver.clone()), config)?);
        }
    }
    for any in &host.config().services {
        all.push(prepare(Place::any(host, any), &any.service)?);
    }
    Ok(all)
}

fn prepare(place: Place, config: &config::Service) -> Result<Arc<Running>, ServiceError> {
    let mut running = Running {
        place,
        config: config.clone(),
        site: None,
        counters: Counters::default(),
        listening: AtomicUsize::new(0),
        listener: AtomicUsize::new(0),
        refused: Mutex::new(None),
        moved_to: Mutex::default(),
        target: Mutex::default(),
    };
    if let ServiceKind::Http { root, upload, upload_bytes_max } = &config.kind {
        let site = http::Site::open(root, upload.as_deref(), *upload_bytes_max);
        let site = site.map_err(|e| running.error("open its directories", e))?;
        running.site = Some(Arc::new(site));
    }
    Ok(Arc::new(running))
}

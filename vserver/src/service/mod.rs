//! Built-in services of vservers: echo, discard, chargen, http, proxy.
//!
//! Echo, discard and chargen run to completion on the workers (`small.rs`). One thread serves http
//! and proxy for all vservers: they wait for files and for sockets of the kernel, which a worker
//! must not. It waits on one [`Poller`] for their sockets, and on a `mio::Poll` around it while a
//! proxy has sockets of the kernel open. A connection moves a bounded number of bytes before the
//! next one's turn; one whose peer does not read is not read from either. Everything has a limit:
//! connections per service, time without progress, heads, bodies, accepts per turn.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
mod proxy;
mod session;
mod small;

use counters::Counters;
use event_loop::EventLoop;
use small::Small;

/// How often an address that was not there yet is tried again.
const BIND_RETRY: Duration = Duration::from_millis(200);
/// Idle time, interval and number of keepalive probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(10), 6);
/// Connections of a service that wait to be accepted.
const BACKLOG: usize = 1024;

/// Why the services did not start. None runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A service could not be set up.
    #[error("vserver {vserver}: {kind} on {listen}: {operation}: {source}")]
    Service {
        /// Which vserver.
        vserver: String,
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
    all: Vec<Arc<Running>>,
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
}

/// One service of one vserver.
#[derive(Debug)]
struct Running {
    vserver: Vserver,
    config: config::Service,
    site: Option<Arc<http::Site>>,
    counters: Counters,
    /// Listeners there are: on the workers one each.
    listening: AtomicUsize,
    /// Token of the listener, once it listens, if the thread serves it.
    listener: AtomicUsize,
    /// Why a worker cannot listen.
    refused: Mutex<Option<io::Error>>,
    /// The vserver's configured addresses.
    addresses: Vec<IpAddr>,
    /// The vserver also learns addresses.
    learns_addresses: bool,
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
        match (&self.config.listen_name, self.listen()) {
            (None, _) => self.config.listen.to_string(),
            (Some(name), Some(at)) => format!("{name} ({at})"),
            (Some(name), None) => format!("{name}:{}", self.config.listen.port()),
        }
    }

    fn error(&self, operation: &'static str, source: io::Error) -> ServiceError {
        ServiceError::Service {
            vserver: self.vserver.name().to_owned(),
            kind: self.kind(),
            listen: self.listen_text(),
            operation,
            source,
        }
    }

    fn snapshot(&self) -> ServiceSnapshot {
        ServiceSnapshot {
            kind: self.kind().to_owned(),
            listen: self.listen_text(),
            listening: self.listening.load(Ordering::Relaxed)
                >= if self.is_small() { self.vserver.workers().len() } else { 1 },
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
        let control = Arc::new(Control { poller, stop, moved: Mutex::default() });
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
        Ok(Services { all, control, thread, small, follows: Mutex::new(follows) })
    }

    /// Adds the services to a snapshot of the same host.
    pub fn fill(&self, snapshot: &mut HostSnapshot) {
        let mut services = self.all.iter().peekable();
        // Both are in order of the configuration.
        for v in &mut snapshot.vservers {
            let follows = self.follows.lock();
            let own = follows.iter().filter(|(vserver, ..)| *vserver == v.name);
            v.names.extend(own.map(|(_, follow, used_for)| follow.snapshot(used_for)));
            drop(follows);
            while let Some(s) = services.next_if(|s| s.vserver.name() == v.name) {
                v.services.push(s.snapshot());
                if let Some(e) = s.refused.lock().take() {
                    snapshot.problems.push(s.error("listen", e).to_string());
                }
            }
        }
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
    let (vserver, mut follows) = (service.vserver.name(), Vec::new());
    if let Some(name) = &service.config.listen_name {
        let (running, control, small) =
            (Arc::clone(service), Arc::clone(control), Arc::clone(small));
        let follow = service.vserver.follow(name, move |addresses| {
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
        let follow = service.vserver.follow(name, move |addresses| {
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
            let mut running = Running {
                vserver: vserver.clone(),
                config: config.clone(),
                site: None,
                counters: Counters::default(),
                listening: AtomicUsize::new(0),
                listener: AtomicUsize::new(0),
                refused: Mutex::new(None),
                addresses: v.addresses.iter().map(|(_, cidr)| cidr.addr).collect(),
                learns_addresses: !v.slaac.is_empty(),
                moved_to: Mutex::default(),
                target: Mutex::default(),
            };
            if let ServiceKind::Http { root, upload, upload_bytes_max } = &config.kind {
                let site = http::Site::open(root, upload.as_deref(), *upload_bytes_max);
                let site = site.map_err(|e| running.error("open its directories", e))?;
                running.site = Some(Arc::new(site));
            }
            all.push(Arc::new(running));
        }
    }
    Ok(all)
}

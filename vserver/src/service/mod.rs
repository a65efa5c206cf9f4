//! Built-in services of vservers: echo, discard, chargen, http, proxy.
//!
//! One thread serves all services of all vservers. It waits on one [`Poller`] for their sockets,
//! and on a `mio::Poll` around it while a proxy has sockets of the kernel open. A connection moves a
//! bounded number of bytes before the next one's turn; one whose peer does not read is not read
//! from either. Everything has a limit: connections per service, time without progress, heads,
//! bodies, accepts and datagrams per turn.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::config::{self, ServiceKind};
use crate::net::Poller;
use crate::stats::{HostSnapshot, ServiceSnapshot};
use crate::{Host, Vserver};

mod connection;
mod counters;
mod datagram;
mod event_loop;
mod http;
mod proxy;
mod session;

use counters::Counters;
use event_loop::EventLoop;

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
}

/// How the service thread is told to end.
#[derive(Debug)]
struct Control {
    poller: Poller,
    stop: AtomicBool,
}

/// One service of one vserver.
#[derive(Debug)]
struct Running {
    vserver: Vserver,
    config: config::Service,
    site: Option<Arc<http::Site>>,
    counters: Counters,
    listening: AtomicBool,
    /// Token of the listener, once it listens.
    listener: AtomicUsize,
    /// The vserver's configured addresses.
    addresses: Vec<IpAddr>,
    /// The vserver also learns addresses.
    learns_addresses: bool,
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

    fn error(&self, operation: &'static str, source: io::Error) -> ServiceError {
        ServiceError::Service {
            vserver: self.vserver.name().to_owned(),
            kind: self.kind(),
            listen: self.config.listen.to_string(),
            operation,
            source,
        }
    }

    fn snapshot(&self) -> ServiceSnapshot {
        ServiceSnapshot {
            kind: self.kind().to_owned(),
            listen: self.config.listen.to_string(),
            listening: self.listening.load(Ordering::Relaxed),
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
        let control = Arc::new(Control { poller, stop: AtomicBool::new(false) });
        let mut event_loop =
            EventLoop::new(Arc::clone(&control)).map_err(os("create an event queue"))?;
        for service in &all {
            event_loop.add(service).map_err(|e| service.error("listen", e))?;
        }
        let thread = std::thread::Builder::new()
            .name(String::from("weft-services"))
            .spawn(move || event_loop.run())
            .map_err(os("start a thread"))?;
        Ok(Services { all, control, thread: Mutex::new(Some(thread)) })
    }

    /// Adds the services to a snapshot of the same host.
    pub fn fill(&self, snapshot: &mut HostSnapshot) {
        let mut services = self.all.iter().peekable();
        // Both are in order of the configuration.
        for v in &mut snapshot.vservers {
            while let Some(s) = services.next_if(|s| s.vserver.name() == v.name) {
                v.services.push(s.snapshot());
            }
        }
    }

    /// Stops the services and waits for their thread; connections are closed.
    pub fn stop(&self) {
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
                listening: AtomicBool::new(false),
                listener: AtomicUsize::new(0),
                addresses: v.addresses.iter().map(|(_, cidr)| cidr.addr).collect(),
                learns_addresses: !v.slaac.is_empty(),
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

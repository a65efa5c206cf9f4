//! A host: devices, workers, vservers.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Mutex, MutexGuard, RwLock};
use weft_drivers::capture::CaptureFile;
use weft_drivers::device::{AnyDevice, DeviceError};
use weft_stack::stack::ChangeError;

use crate::Vserver;
use crate::access::HostAccess;
use crate::app::{Service, ServiceHandle};
use crate::arrival::VserverId;
use crate::config::qos::{Both, Qos, QosGroup};
use crate::config::{HostConfig, PollMode};
use crate::connect::Connects;
use crate::dhcp::{Dhcp, DhcpError, DhcpFacts, DhcpReport, DhcpWish};
use crate::interface::TreeError;
use crate::net::{AnyListener, AnyOptions, AnyUdpSocket};
use crate::privilege::PrivilegeError;
use crate::qos::{Plan, QosSnapshot};
use crate::resolver::{NamedClients, NamedRoutes, Resolvers};
use crate::runtime::{Pins, Worker};
use crate::sockets::{self, QueryError, SocketLine, SocketPage, SocketQuery, SocketSummary};
use crate::stats::{HostSnapshot, RuntimeSnapshot};
use any::AnyTables;
use tables::Tables;

mod access;
pub(crate) mod any;
pub(crate) mod build;
mod interfaces;
mod live;
mod neighbours;
mod shim;
mod shim_events;
pub(crate) mod tables;

pub(crate) use live::{Changing, Live};

pub(crate) use neighbours::follow as follow_neighbours;

pub use access::AccessError;
pub use neighbours::{NeighbourLine, NeighbourReport, SharedNeighbourTable};
pub(crate) use shim::ShimChange;
pub use shim::{
    PROBE_WAIT, ShimContext, ShimError, ShimLocatorLine, ShimPath, ShimReport, ShimWish,
    VserverShim,
};
pub use shim_events::{ShimEvent, ShimEventPages};

/// A change of [`Host::set_qos`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QosChange {
    /// Rates of a NIC.
    Link(String, Both),
    /// Rates of a group.
    Group(String, Both),
    /// Everything of a vserver.
    Vserver(String, Qos),
    /// All groups, which keep their order.
    Groups(Vec<QosGroup>),
}

/// Devices by NIC name (`eth0`), one per queue from 0: what [`Host::start_with_devices`] takes
/// instead of opening those of the configuration.
pub type Devices = BTreeMap<String, Vec<AnyDevice>>;

/// Why a host did not start. Nothing stays open or half applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A device could not be opened.
    #[error("nic {nic}: {source}")]
    Device {
        /// Name in the configuration.
        nic: String,
        /// Operation, object, reason and hint.
        source: DeviceError,
    },
    /// Names or places of interfaces are wrong.
    #[error(transparent)]
    Interface(#[from] TreeError),
    /// The configuration asks for what this host cannot do.
    #[error("{object}: {problem} ({hint})")]
    Config {
        /// What of the configuration: `alias data0`.
        object: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A vserver's stack refused an address or a route.
    #[error("vserver {vserver}: {operation} {object}: {source}")]
    Change {
        /// Which vserver.
        vserver: String,
        /// What was tried: `add address`.
        operation: &'static str,
        /// With what: `10.0.0.1/24`.
        object: String,
        /// The stack's answer.
        source: ChangeError,
    },
    /// Root's rights could not be given up.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The operating system refused something that every host needs.
    #[error("{operation}: {source} (check the limits of the process: ulimit -n, -u)")]
    Os {
        /// What was tried.
        operation: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

/// A running host. Dropping it stops the workers, detaches XDP programs and closes the devices;
/// sockets that outlive it fail with `NotConnected`.
#[derive(Debug)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    peers: Mutex<HashMap<String, AnyPeers>>,
    dhcp: Dhcp,
}

struct AnyPeers(Vec<AnyDevice>);

impl std::fmt::Debug for AnyPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|p| &p.caps().mode)).finish()
    }
}

/// What handles on vservers share with the host.
pub(crate) struct Shared {
    live: RwLock<Arc<Live>>,
    /// Who changes what is configured, one at a time.
    pub(crate) changing: Mutex<Changing>,
    /// By worker number; never empty. Number 0 is the home of every vserver.
    pub(crate) workers: Vec<Arc<Worker>>,
    /// Vservers with all their flows on one of them, as all workers know it.
    pub(crate) pins: RwLock<Pins>,
    pub(crate) captures: Vec<(PathBuf, CaptureFile)>,
    /// Rates and shares as the workers have them.
    pub(crate) qos: Mutex<Arc<Plan>>,
    /// Who may reach what.
    pub(crate) access: Mutex<HostAccess>,
    /// Counts changes of vservers' addresses that are made on all workers.
    editions: AtomicU64,
    /// Counts sockets that may be on any worker.
    pub(crate) next: AtomicUsize,
    /// Ports bound for any vserver.
    pub(crate) any: AnyTables,
    pub(crate) resolvers: Resolvers,
    pub(crate) connects: Arc<Connects>,
    pub(crate) named_routes: NamedRoutes,
    pub(crate) named_clients: NamedClients,
    /// Route tables that vservers share.
    pub(crate) tables: Tables,
}

impl Shared {
    /// What is configured now: a whole configuration, before or after a change.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read())
    }

    /// Waits until no change is under way, and keeps others off while it is held: what readers
    /// find in stacks then is one configuration's.
    pub(crate) fn settled(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock()
    }

    /// Readers see another configuration from now on.
    pub(crate) fn publish(&self, live: Live) {
        *self.live.write() = Arc::new(live);
    }

    /// The number of the next change of vservers' addresses that is made on all workers.
    pub(crate) fn next_edition(&self) -> u64 {
        self.editions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The worker with every vserver's home shard.
    pub(crate) fn home(&self) -> &Arc<Worker> {
        &self.workers[0]
    }

    /// The worker with all flows of a vserver; `None`: they are spread.
    pub(crate) fn flows_of(&self, vserver: u32) -> Option<usize> {
        self.pins.read().home(vserver).map(usize::from)
    }

    /// The next worker in turn.
    pub(crate) fn next_worker(&self) -> usize {
        match self.workers.len() {
            1 => 0,
            count => self.next.fetch_add(1, Ordering::Relaxed) % count,
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.live().config).finish_non_exhaustive()
    }
}

impl Host {
    /// Opens the devices of `config`, starts the worker, and configures the vservers. Built-in
    /// services are started by [`crate::service`], not here. IPv6 addresses are usable after
    /// duplicate address detection, about a second later.
    pub fn start(config: HostConfig) -> Result<Host, HostError> {
        Host::start_with_devices(config, Devices::new())
    }

    /// As [`Host::start`], with devices the caller made for the NICs it names; others are opened.
    pub fn start_with_devices(config: HostConfig, devices: Devices) -> Result<Host, HostError> {
        Host::start_and(config, devices, || Ok(()))
    }

    /// As [`Host::start_with_devices`]; calls `opened` when all devices are open and no thread is
    /// started yet: the place to give up rights, see [`crate::privilege::drop_to`].
    pub fn start_and(
        config: HostConfig,
        devices: Devices,
        opened: impl FnOnce() -> Result<(), PrivilegeError>,
    ) -> Result<Host, HostError> {
        let host = build::start(config, devices, opened)?;
        host.follow_routes(&host.config());
        host.follow_clients(&host.config());
        host.follow_routers(&host.config());
        Ok(host)
    }

    /// The far end of a NIC with the `mem` driver and one queue, once.
    pub fn take_mem_peer(&self, nic: &str) -> Option<AnyDevice> {
        self.take_mem_peers(nic)?.pop()
    }

    /// The far ends of all queues of a NIC with the `mem` driver, once.
    pub fn take_mem_peers(&self, nic: &str) -> Option<Vec<AnyDevice>> {
        self.peers.lock().remove(nic).map(|p| p.0)
    }

    /// What is configured: what it was started from, and what was changed since.
    pub fn config(&self) -> Arc<HostConfig> {
        Arc::clone(&self.shared.live().config)
    }

    /// Counts the configurations it has had, from 1.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.live().generation
    }

    /// A handle on the vserver of that name.
    pub fn vserver(&self, name: &str) -> Option<Vserver> {
        let id = *self.shared.live().names.get(name)?;
        Some(Vserver::new(Arc::clone(&self.shared), id, name))
    }

    /// Handles on all vservers, in order of the configuration.
    pub fn vservers(&self) -> Vec<Vserver> {
        let live = self.shared.live();
        let named = live.nodes.iter().zip(&live.config.vservers);
        named.map(|(id, v)| Vserver::new(Arc::clone(&self.shared), *id, &v.name)).collect()
    }

    /// A handle on the vserver that an [`Arrival`](crate::Arrival) names; `None` if it is no more.
    pub fn vserver_of(&self, id: VserverId) -> Option<Vserver> {
        Vserver::of(&self.shared, id.0)
    }

    /// Listens on `port` of every vserver of the host, those made later too; see [`AnyListener`].
    ///
    /// Errors: `AddrInUse`, `NotFound` for a group that there is not, `InvalidInput` for port 0,
    /// `NotConnected` after a stop.
    pub fn listen_any(&self, port: u16, how: &AnyOptions) -> std::io::Result<AnyListener> {
        AnyListener::new(&self.shared, port, how)
    }

    /// Binds a UDP socket on `port` of every vserver of the host; see [`AnyUdpSocket`]. Errors as
    /// [`Host::listen_any`].
    pub fn bind_any_udp(&self, port: u16, how: &AnyOptions) -> std::io::Result<AnyUdpSocket> {
        AnyUdpSocket::new(&self.shared, port, how)
    }

    /// Runs a service for every vserver of the host, one instance per worker: it listens on `tcp`,
    /// and takes datagrams on `udp`. Callbacks come with the [`Cx`](crate::app::Cx) of the vserver
    /// that was addressed, whose sockets alone it names; [`Service::start`] is not called, for there
    /// is none yet. Errors as [`Host::listen_any`] and [`Host::run_service`].
    pub fn run_service_any<S: Service>(
        &self,
        (tcp, udp): (&[u16], &[u16]),
        how: &AnyOptions,
        make: impl FnMut(usize) -> S,
    ) -> std::io::Result<ServiceHandle> {
        ServiceHandle::run_any(&self.shared, (tcp, udp), how, make)
    }

    /// Runs a service on a vserver of this host, one instance per worker, each made by `make` from
    /// the worker's number; [`crate::app::Service::start`] has been called when this returns. It
    /// ends when the handle is dropped.
    ///
    /// Errors: `InvalidInput` for a vserver of another host, `NotConnected` after a stop,
    /// `QuotaExceeded` beyond 65,535 services, `Deadlock` in a callback.
    pub fn run_service<S: Service>(
        &self,
        vserver: &Vserver,
        make: impl FnMut(usize) -> S,
    ) -> std::io::Result<ServiceHandle> {
        if !vserver.is_of(&self.shared) {
            let text = "the vserver belongs to another host; run the service on that one";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        }
        ServiceHandle::run(vserver, make)
    }

    /// Changes how a worker, or every worker (`None`), waits for frames, from now on.
    ///
    /// Errors: `NotFound` for a worker that does not exist, `NotConnected` after a stop, and those of
    /// devices that refuse to busy poll; the workers' own part is changed even then.
    pub fn set_poll_mode(&self, worker: Option<usize>, mode: PollMode) -> std::io::Result<()> {
        let workers = &self.shared.workers;
        if let Some(wrong) = worker.filter(|number| *number >= workers.len()) {
            let highest = workers.len() - 1;
            let text = format!("there is no worker {wrong}; the highest number is {highest}");
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, text));
        }
        let chosen = workers.iter().enumerate().filter(|(n, _)| worker.is_none_or(|w| w == *n));
        chosen.map(|(_, w)| w.set_poll_mode(mode)).fold(Ok(()), std::io::Result::and)
    }

    /// What the workers do with their time and what packets cost; with `clear` all counts begin anew
    /// after that.
    pub fn runtime(&self, clear: bool) -> RuntimeSnapshot {
        crate::stats::take_runtime(&self.shared, clear)
    }

    /// Counters and facts of the whole host. Takes the worker's lock for one vserver at a time, so
    /// traffic goes on; each vserver is consistent in itself. Waits for a change that is under way,
    /// so that all of it is one configuration's.
    pub fn snapshot(&self) -> HostSnapshot {
        let _settled = self.shared.settled();
        crate::stats::take(&self.shared)
    }

    /// The next sockets of a query. Takes the worker's lock for a thousand slots at a time.
    pub fn socket_page(&self, query: &SocketQuery) -> Result<SocketPage, QueryError> {
        sockets::page(&self.shared, query)
    }

    /// How many sockets a query finds. `after` and `tcp_info` mean nothing here.
    pub fn socket_summary(&self, query: &SocketQuery) -> Result<SocketSummary, QueryError> {
        sockets::summary(&self.shared, query)
    }

    /// All sockets of a vserver, `None` if there is no such vserver.
    pub fn sockets(&self, vserver: &str) -> Option<Vec<SocketLine>> {
        let mut query = SocketQuery { vserver: Some(vserver.to_owned()), ..Default::default() };
        let mut all = Vec::new();
        loop {
            let page = self.socket_page(&query).ok()?;
            all.extend(page.sockets);
            let Some(next) = page.next else { return Some(all) };
            query.after = Some(next);
        }
    }

    /// What the DHCP clients do.
    pub fn dhcp(&self) -> DhcpReport {
        self.dhcp.report()
    }

    /// Name servers, search domains and time servers that a vserver's leases name.
    pub fn dhcp_facts(&self, vserver: &str) -> DhcpFacts {
        self.dhcp.facts(vserver)
    }

    /// Renews or releases what a vserver has from DHCP on an alias: all of it, or one instance.
    /// Returns how many clients that concerns; the outcome is in [`Host::dhcp`] later.
    pub fn dhcp_wish(
        &self,
        vserver: &str,
        alias: &str,
        instance: Option<u32>,
        wish: DhcpWish,
    ) -> Result<usize, DhcpError> {
        self.dhcp.wish(vserver, alias, instance, wish)
    }

    /// Makes the DHCP clients those of a configuration: new ones start, ones that are gone give
    /// their addresses back, others are left alone.
    pub(crate) fn update_dhcp(&self, config: &HostConfig) -> Result<(), HostError> {
        let live = self.shared.live();
        let index = |name: &str| live.names.get(name).copied();
        let os = |source| HostError::Os { operation: "start the DHCP clients' thread", source };
        self.dhcp.update(config, index).map_err(os)
    }

    /// What leases say of name servers counts again, where the configuration has none.
    pub(crate) fn retell_dhcp(&self, vserver: &str) {
        self.dhcp.retell(vserver);
    }

    /// What every link, group, vserver, class and client may use and uses; with `vserver` only that
    /// one's. `None`: there is no such vserver.
    pub fn qos(&self, vserver: Option<&str>) -> Option<QosSnapshot> {
        if vserver.is_some_and(|v| !self.shared.live().names.contains_key(v)) {
            return None;
        }
        let plan = Arc::clone(&self.shared.qos.lock());
        let mut snapshot = crate::qos::take(&plan, self.shared.home().clock.now(), vserver);
        snapshot.processing = crate::stats::processing(&self.shared, vserver);
        Some(snapshot)
    }

    /// Changes rates, shares and classes of the running host: those of a NIC, a group or a vserver
    /// by its name. What waits goes on by the new values, what was used is remembered.
    ///
    /// # Errors
    /// If there is nothing of that name (nothing has changed then), or the host has stopped.
    pub fn set_qos(&self, changes: &[QosChange]) -> std::io::Result<()> {
        let mut held = self.shared.qos.lock();
        let next = held.changed(changes).map_err(|name| {
            let text = format!("no NIC, QoS group or vserver '{name}'");
            std::io::Error::new(std::io::ErrorKind::NotFound, text)
        })?;
        *held = Arc::new(next);
        for worker in &self.shared.workers {
            worker.with_core(|core, now| core.set_qos(now, &held))?;
        }
        Ok(())
    }

    pub(crate) fn named_routes(&self) -> &NamedRoutes {
        &self.shared.named_routes
    }

    /// Whether the worker runs: not after [`Host::stop`], nor after a failure that ended it.
    pub fn is_running(&self) -> bool {
        self.shared.workers.iter().all(|w| !w.lock().stopped)
    }

    /// Stops the worker, detaches and closes the devices. Blocked calls on sockets return with
    /// an error. The same as dropping the host; calling it twice is harmless.
    pub fn stop(&self) {
        self.shared.named_routes.clear();
        self.shared.named_clients.clear();
        self.shared.resolvers.stop();
        // Before the workers, which carry out what it wants.
        self.dhcp.stop();
        for worker in &self.shared.workers {
            worker.stop();
        }
        if let Err(e) = self.save_interfaces() {
            self.shared.home().lock().problem(format!("the state of bonds is not kept: {e}"));
        }
        // Held to the end: a second caller finds the devices closed, never a thread that uses them.
        let mut threads = self.threads.lock();
        // A worker that panicked has printed why; the devices are closed all the same.
        let mut ended_well = true;
        for thread in threads.drain(..) {
            ended_well &= thread.join().is_ok();
        }
        let workers = &self.shared.workers;
        if ended_well {
            for worker in workers {
                worker.drain();
            }
            for worker in workers {
                worker.drain_mail();
            }
        }
        for worker in workers {
            worker.close();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

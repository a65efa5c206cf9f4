//! From a configuration to a running host.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use weft_drivers::capture::{Capture, CaptureFile};
use weft_drivers::device::{AnyDevice, Device, DeviceError};
use weft_drivers::ethtool::set_vlan_stripping;
use weft_interface::doctor::Station;
use weft_interface::tree::{Alias, LinkKind};
use weft_interface::{Layout, Mac};
use weft_shim::layer::Layer;
use weft_stack::admission::Rules;
use weft_stack::any::AnyScopes;
use weft_stack::frame::FramePool;
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::ip::route::Route;
use weft_stack::shard::{Shard, SharedCounts};
use weft_stack::stack::{Change, ChangeError, StackConfig};
use weft_stack::time::Instant;

use super::any::AnyTables;
use super::tables::Tables;
use super::{AnyPeers, Changing, Devices, Host, HostError, Live, Shared, interfaces, shim};
use crate::access::HostAccess;
use crate::config::{self, Driver, HostConfig, PollMode, Vserver};
use crate::connect::Connects;
use crate::demux::Demux;
use crate::dhcp::Dhcp;
use crate::interface::Tree;
use crate::privilege::PrivilegeError;
use crate::qos::Plan;
use crate::resolver::{NamedClients, NamedRoutes, Resolvers};
use crate::runtime::{
    AliasPlace, Clock, Core, HostStack, Keeping, Links, LinksView, Mesh, Nic, Node, NodeId, Pins,
    Worker, open, show_home, worker_loop,
};

/// What has been opened so far. Dropping it closes everything.
#[derive(Default)]
struct Opening {
    nics: Vec<Nic>,
    peers: HashMap<String, AnyPeers>,
    /// NICs with a kernel interface below them.
    kernel: Vec<(usize, String)>,
    problems: Vec<String>,
    captures: BTreeMap<PathBuf, CaptureFile>,
}

impl Opening {
    /// AF_XDP has no place for a tag that the NIC took out of the frame.
    fn keep_tags(&mut self, nic: &config::Nic, tagged: bool) {
        if nic.driver != Driver::AfXdp || !tagged {
            return;
        }
        if let Err(e) = set_vlan_stripping(&nic.device, false) {
            self.problems.push(format!(
                "nic {}: {e}; tagged frames may come without their tags: ethtool -K {} rxvlan off",
                nic.name, nic.device
            ));
        }
    }

    fn add(
        &mut self,
        nic: &config::Nic,
        workers: &config::Workers,
        tagged: bool,
        given: Option<Vec<AnyDevice>>,
    ) -> Result<(), DeviceError> {
        let mut devices = if let Some(given) = given {
            given
        } else {
            self.keep_tags(nic, tagged);
            let opened = open::open(nic, workers)?;
            if nic.driver == Driver::Mem {
                self.peers.insert(nic.name.clone(), AnyPeers(opened.peers));
            }
            let below = (nic.driver != Driver::Mem).then(|| (self.nics.len(), nic.device.clone()));
            self.kernel.extend(below);
            let notes = opened.notes.into_iter();
            self.problems.extend(notes.map(|n| format!("nic {}: {n}", nic.name)));
            opened.devices
        };
        if let Some(path) = &nic.capture {
            let file = match self.captures.entry(path.clone()) {
                Entry::Occupied(file) => file.into_mut(),
                Entry::Vacant(vacant) => vacant.insert(CaptureFile::create(path)?),
            };
            let wrap = |d| Box::new(Capture::new(d, &nic.name, file)) as AnyDevice;
            devices = devices.into_iter().map(wrap).collect();
        }
        let mut made = Nic::new(devices);
        if nic.gro {
            made.merge_bursts(nic.rx_checksum_trust);
        }
        self.nics.push(made);
        Ok(())
    }
}

pub(super) fn start(
    config: HostConfig,
    mut devices: Devices,
    opened: impl FnOnce() -> Result<(), PrivilegeError>,
) -> Result<Host, HostError> {
    let tree = tree(&config)?;
    check(&config, &devices)?;
    let mut opening = Opening::default();
    for (number, nic) in config.nics.iter().enumerate() {
        opening
            .add(nic, &config.workers, is_tagged(&tree, number), devices.remove(&nic.name))
            .map_err(|source| HostError::Device { nic: nic.name.clone(), source })?;
    }
    let links = watch(&mut opening, &config)?;
    opened()?;
    let clock = Clock::start();
    let place = |a: &Alias| AliasPlace { on: a.link, mtu: a.mtu, mac: a.mac };
    let places: Vec<AliasPlace> = tree.aliases.iter().map(place).collect();
    let layout = layout(&tree, &opening.nics);
    let mut cores = cores(&config, opening.nics, &places, &layout);
    let mut aliases = aliases(&config, &places, &cores[0])?;
    let demux = demux(&layout, &places, &aliases);
    for core in &mut cores {
        core.demux = demux.clone();
    }
    for problem in opening.problems {
        cores[0].problem(problem);
    }
    set_machines(&mut cores, &config, &tree, clock.now())?;
    // A bond that negotiates is down until it has.
    for alias in &mut aliases {
        cores[0].refresh_link(alias);
    }
    let (any, tables) = (AnyTables::new(&config), Tables::new(&config));
    let connects = Arc::new(Connects::new(&config.vservers));
    for core in &mut cores {
        core.set_neighbours(&config.neighbours);
        core.apps.connects = Arc::clone(&connects);
    }
    let mut access = HostAccess::default();
    for index in 0..config.vservers.len() {
        let (seed, counts) = (seed()?, Arc::default());
        let ports = any.scopes(&config, &config.vservers[index]);
        let v = &config.vservers[index];
        let home = home(v, &cores[0].pins, cores.len());
        for core in &mut cores {
            let id = NodeId { index: index as u32, generation: 0 };
            let place = (id, home, &ports, &tables);
            add_vserver(core, v, &aliases, place, (seed, &counts, clock.now()))?;
        }
        set_access(&mut access, &config, index, &mut cores);
    }
    let plan = crate::qos::plan(&config, None);
    if !plan.is_empty() {
        for core in &mut cores {
            core.set_qos(clock.now(), &plan);
        }
    }
    let captures = opening.captures.into_iter().collect();
    let changing = Changing::new(aliases, tree, config.vservers.len());
    let (parts, more) = ((config, any, tables, changing), (captures, plan, access));
    let (shared, threads) = run(parts, cores, clock, links, more)?;
    let dhcp = Dhcp::new(Arc::clone(&shared));
    let (threads, peers) = (Mutex::new(threads), Mutex::new(opening.peers));
    let host = Host { shared, threads, peers, dhcp };
    host.update_dhcp(&host.config())?;
    Ok(host)
}

/// Whether a VLAN stands on what a NIC is part of.
pub(crate) fn is_tagged(tree: &Tree, nic: usize) -> bool {
    let vlan = |link: &weft_interface::tree::Link| match link.kind {
        LinkKind::Vlan { over, .. } => tree.nics_below(over).contains(&nic),
        _ => false,
    };
    tree.links.iter().any(vlan)
}

/// Machines, on worker 0, if there is anything for them.
fn set_machines(
    cores: &mut [Core],
    config: &HostConfig,
    tree: &Tree,
    now: Instant,
) -> Result<(), HostError> {
    if !tree.has_machines() {
        return Ok(());
    }
    let nics = &cores[0].nics;
    let macs: Vec<_> = nics.iter().map(|nic| nic.link.mac.unwrap_or_default()).collect();
    let seed = u128::from_ne_bytes(seed()?) as u64;
    let mut keeping = Keeping::new(tree, &macs, seed);
    if let Some((saved, away)) = interfaces::load(&config.state_dir) {
        keeping.restore(now, &saved, away);
    }
    for core in &mut *cores {
        core.set_probers(tree);
    }
    show_home(&mut cores.iter_mut().collect::<Vec<&mut Core>>());
    cores[0].set_machines(now, keeping);
    cores[0].set_station(now, station(tree, &macs, config.lldp));
    Ok(())
}

/// What speaks LLDP on the NICs of a host that has machines.
pub(crate) fn station(tree: &Tree, macs: &[Mac], lldp: config::Lldp) -> Station {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let described = (name.as_str(), concat!("weft ", env!("CARGO_PKG_VERSION")));
    Station::new(tree, macs, lldp.config(), described)
}

/// Before the first packet.
fn set_access(access: &mut HostAccess, config: &HostConfig, index: usize, cores: &mut [Core]) {
    let v = &config.vservers[index];
    let Some(guard) = access.update(config, index, (&v.name, &v.access)) else { return };
    for node in cores.iter_mut().filter_map(|core| core.nodes.get_mut(index)) {
        let rules: Arc<dyn Rules> = guard.clone();
        node.stack.set_access(Some(rules));
    }
}

/// One per worker, with its share of every NIC's queues.
fn cores(config: &HostConfig, nics: Vec<Nic>, places: &[AliasPlace], layout: &Layout) -> Vec<Core> {
    let count = config.workers.count;
    let mut dealt: Vec<Vec<Nic>> = (0..count).map(|_| Vec::new()).collect();
    for nic in nics {
        for (own, nic) in dealt.iter_mut().zip(nic.split(count)) {
            own.push(nic);
        }
    }
    let meshes = Mesh::join(count);
    let mut cores = Vec::new();
    for (worker, (nics, mesh)) in dealt.into_iter().zip(meshes).enumerate() {
        let mut core = Core::new(nics, places.to_vec(), Demux::default());
        core.mesh = mesh;
        core.set_layout(layout);
        core.apps.worker = worker;
        cores.push(core);
    }
    cores
}

fn config_error(object: String, problem: impl Into<String>, hint: impl Into<String>) -> HostError {
    HostError::Config { object, problem: problem.into(), hint: hint.into() }
}

/// What the parser of a file checks with line and column, for configurations made in code.
pub(crate) fn check(config: &HostConfig, devices: &Devices) -> Result<(), HostError> {
    let count = config.workers.count;
    if !(1..=config::WORKERS_MAX).contains(&count) {
        let hint = format!("set it to a number from 1 to {}", config::WORKERS_MAX);
        return Err(config_error("workers".into(), format!("count is {count}"), hint));
    }
    for (name, queues) in devices {
        if queues.is_empty() || !config.nics.iter().any(|n| n.name == *name) {
            let hint = "name a NIC of the configuration and give at least one queue";
            return Err(config_error(format!("device {name}"), "has no NIC or no queue", hint));
        }
    }
    let mut names = HashSet::new();
    let mut addresses = HashSet::new();
    for v in &config.vservers {
        if !names.insert(&v.name) {
            return Err(config_error(
                format!("vserver {}", v.name),
                "is there twice",
                "rename one",
            ));
        }
        let aliases = v.addresses.iter().map(|a| a.0).chain(v.slaac.iter().copied());
        if let Some(bad) = aliases.clone().find(|a| *a >= config.aliases.len()) {
            let problem = format!("alias number {bad} is not defined");
            return Err(config_error(format!("vserver {}", v.name), problem, "define it"));
        }
        for (alias, cidr) in &v.addresses {
            // Aliases that share a link and its MAC address cannot be told apart by a frame.
            let a = &config.aliases[*alias];
            if !addresses.insert((a.link(), a.mac, cidr.addr)) {
                return Err(config_error(
                    format!("vserver {}", v.name),
                    format!("address {} is on {} (or its link) already", cidr.addr, a.name),
                    "an address is on an alias once; give the alias a mac of its own to use it twice on a link",
                ));
            }
        }
    }
    Ok(())
}

/// What a stack would refuse later, for a host that runs already.
pub(crate) fn check_limits(config: &HostConfig) -> Result<(), HostError> {
    for v in &config.vservers {
        let object = || format!("vserver {}", v.name);
        let on_alias = |alias: usize| v.addresses.iter().filter(move |a| a.0 == alias).count();
        let limit = v.limits.addresses;
        if let Some(alias) = used_aliases(v).into_iter().find(|a| on_alias(*a) > limit) {
            let problem =
                format!("{} addresses on an alias, the limit is {limit}", on_alias(alias));
            return Err(config_error(object(), problem, "raise limits.addresses"));
        }
        let networks: HashSet<_> = v.addresses.iter().map(|(a, c)| (*a, c.network())).collect();
        let (routes, limit) = (v.routes.len() + networks.len(), v.limits.routes);
        if routes > limit {
            let problem =
                format!("{routes} routes with those to its networks, the limit is {limit}");
            return Err(config_error(object(), problem, "raise limits.routes"));
        }
    }
    Ok(())
}

/// The interfaces of a configuration, or the first thing that is wrong with them.
pub(crate) fn tree(config: &HostConfig) -> Result<Tree, HostError> {
    config.tree().map_err(|errors| match errors.into_iter().next() {
        Some(e) => HostError::Interface(e),
        None => config_error(String::from("interfaces"), "do not fit", "check the file"),
    })
}

fn watch(opening: &mut Opening, config: &HostConfig) -> Result<Option<Links>, HostError> {
    let kernel = std::mem::take(&mut opening.kernel);
    let Some((first, _)) = kernel.first() else { return Ok(None) };
    let nic = config.nics[*first].name.clone();
    let (links, now) = Links::open(kernel).map_err(|source| HostError::Device { nic, source })?;
    for (nic, link) in now {
        opening.nics[nic].set_link(link);
    }
    Ok(Some(links))
}

/// What stands on what.
fn layout(tree: &Tree, nics: &[Nic]) -> Layout {
    let macs: Vec<_> = nics.iter().map(|nic| nic.link.mac.filter(|_| nic.ethernet)).collect();
    Layout::new(tree, &macs)
}

/// What stacks are told of each alias, apart from SLAAC.
fn aliases(
    config: &HostConfig,
    places: &[AliasPlace],
    core: &Core,
) -> Result<Vec<AliasConfig>, HostError> {
    let mut out = Vec::new();
    for ((i, alias), place) in config.aliases.iter().enumerate().zip(places) {
        let view = LinksView::of(core);
        out.push(alias_config((i, &alias.name), *place, &config.nics, &view)?);
    }
    Ok(out)
}

/// What stacks are told of one alias. `view` is worker 0's, which has a queue of every NIC: what
/// all NICs below can do is what the link can.
pub(crate) fn alias_config(
    (number, name): (usize, &str),
    place: AliasPlace,
    nics: &[config::Nic],
    view: &LinksView<'_>,
) -> Result<AliasConfig, HostError> {
    let link = &view.links[place.link()];
    let object = || format!("alias {name}");
    let medium = match (link.ethernet, place.mac.or(view.plane.mac(place.on))) {
        (false, _) => AliasMedium::Ip,
        (true, Some(mac)) => AliasMedium::Ethernet { mac },
        (true, None) => {
            let below = link.nics.first().map_or("the link", |n| &nics[*n].device);
            let hint = "give the NIC or the alias a mac";
            return Err(config_error(object(), format!("{below} has no MAC address"), hint));
        }
    };
    let mtu = place.mtu.unwrap_or(link.mtu);
    if mtu > link.mtu {
        let names: Vec<&str> = link.nics.iter().map(|n| nics[*n].name.as_str()).collect();
        let (most, names) = (link.mtu, names.join(", "));
        let problem = format!("MTU {mtu} is larger than the {most} of {names}");
        return Err(config_error(object(), problem, "lower it, or raise the NIC's"));
    }
    let below = || link.nics.iter().map(|n| view.nics[*n].ports[0].device.caps());
    Ok(AliasConfig {
        id: AliasId(number as u16),
        name: name.to_owned(),
        medium,
        mtu,
        gso_bytes_max: below().map(|c| c.gso_bytes_max).min().unwrap_or(0),
        tx_checksum: below().all(|c| c.tx_checksum),
        rx_checksum_trust: link.nics.iter().all(|n| nics[*n].rx_checksum_trust),
        up: link.up,
        slaac: false,
    })
}

fn demux(layout: &Layout, places: &[AliasPlace], aliases: &[AliasConfig]) -> Demux {
    let mut demux = Demux::default();
    for _ in &layout.links {
        demux.add_link();
    }
    for (place, alias) in places.iter().zip(aliases) {
        let mac = match alias.medium {
            AliasMedium::Ethernet { mac } => Some(mac),
            AliasMedium::Ip => None,
        };
        demux.add_alias(place.link(), alias.id, mac);
    }
    demux
}

/// Makes the part of a vserver that one worker has.
pub(crate) fn add_vserver(
    core: &mut Core,
    v: &Vserver,
    aliases: &[AliasConfig],
    (id, home, ports, tables): (NodeId, Option<u16>, &AnyScopes, &Tables),
    (seed, counts, now): ([u8; 16], &Arc<SharedCounts>, Instant),
) -> Result<(), HostError> {
    let used = used_aliases(v);
    let places = used.iter().filter_map(|a| core.alias_place(AliasId(*a as u16)));
    let mut links: Vec<usize> = places.map(AliasPlace::link).collect();
    links.sort_unstable();
    links.dedup();
    let pool = pool(core, &links);
    let me = core.mesh.me() as u16;
    core.pins.set(id.index, home);
    let stack_config = StackConfig {
        name: v.name.clone(),
        limits: v.limits.clone(),
        tcp: v.tcp.clone(),
        forwarding: v.forwarding,
        seed,
        any: ports.clone(),
        shared: (core.mesh.count() > 1).then(|| Arc::clone(counts)),
        shard: Shard { index: me, count: core.mesh.count() as u16, flows: home },
    };
    let layer = if home.is_none_or(|home| home == me) { shim_layer(v)? } else { Layer::off() };
    let mut stack = HostStack::with_path(stack_config, pool, now, layer);
    for (operation, object, change) in changes(v, &used, aliases, tables) {
        stack.handle_config(now, change).map_err(|source: ChangeError| HostError::Change {
            vserver: v.name.clone(),
            operation,
            object,
            source,
        })?;
    }
    attach(core, aliases, v, &used, id.index)?;
    core.install(id, Node::new(stack, links));
    core.share_neighbours(now, id.index, v.neighbours.as_deref());
    for (alias, cidr) in &v.addresses {
        core.join_broadcast(id, AliasId(*alias as u16), *cidr);
    }
    Ok(())
}

fn shim_layer(v: &Vserver) -> Result<Layer, HostError> {
    shim::layer(v, seed()?).map_err(|problem| {
        let hint = "look at the file, and at the addresses of the vserver";
        config_error(format!("shim of vserver {}", v.name), problem, hint)
    })
}

/// The worker with all flows of a vserver: of one that has a shim, or may have it switched on, the
/// worker it names, or else that with the fewest such. `None`: flows are spread.
pub(crate) fn home(v: &Vserver, pins: &Pins, workers: usize) -> Option<u16> {
    let shim = v.shim.as_ref().filter(|_| workers > 1)?;
    Some(shim.home.unwrap_or_else(|| pins.emptiest(workers)))
}

/// Aliases (indices) that a vserver is attached to, each once.
pub(crate) fn used_aliases(v: &Vserver) -> Vec<usize> {
    let addresses = v.addresses.iter().map(|a| a.0);
    let routes = v.routes.iter().map(|r| r.alias);
    let leased = v.dhcp.iter().map(|c| c.alias);
    let all = addresses.chain(v.slaac.iter().copied()).chain(routes).chain(leased);
    let mut used: Vec<_> = all.collect();
    used.sort_unstable();
    used.dedup();
    used
}

/// Frames come from the pool of the worker's queue of the first NIC of the vserver's links; other devices copy
/// them. A worker without a queue has frames of the one that transmits for it.
fn pool(core: &Core, links: &[usize]) -> FramePool {
    let nic = links.first().and_then(|l| core.nics.get(*core.links[*l].nics.first()?));
    let nic = nic.or(core.nics.first());
    nic.map_or_else(|| FramePool::heap(64, 2048), |n| n.pool.clone())
}

pub(crate) fn seed() -> Result<[u8; 16], HostError> {
    let mut seed = [0; 16];
    rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| HostError::Os { operation: "read random bytes", source: e.into() })?;
    Ok(seed)
}

fn changes(
    v: &Vserver,
    used: &[usize],
    aliases: &[AliasConfig],
    tables: &Tables,
) -> Vec<(&'static str, String, Change)> {
    let mut out = Vec::new();
    for alias in used {
        let mut config = aliases[*alias].clone();
        config.slaac = v.slaac.contains(alias);
        out.push(("attach to alias", config.name.clone(), Change::AliasAdd(config)));
    }
    for (alias, cidr) in &v.addresses {
        let (alias, cidr) = (AliasId(*alias as u16), *cidr);
        let terms = v.conflicts_on(alias.0.into()).terms();
        let change = Change::AddressAssign { alias, cidr, terms };
        out.push(("add address", cidr.to_string(), change));
    }
    for r in &v.routes {
        out.push(("add route to", r.to.to_string(), Change::RouteAdd(route(r))));
    }
    out.extend(tables.changes(&v.tables, &v.rules));
    out
}

/// A route as stacks have it.
pub(crate) fn route(r: &config::RouteSpec) -> Route {
    Route {
        prefix: r.to.network(),
        via: r.via,
        alias: AliasId(r.alias as u16),
        src: r.src,
        metric: r.metric,
        mtu: None,
    }
}

/// Two vservers cannot both forward on an alias.
pub(crate) fn forwards_already(vserver: &str, alias: &str) -> HostError {
    config_error(
        format!("vserver {vserver}"),
        format!("another vserver forwards on {alias} already"),
        "a frame for a foreign address can go to one of them only; use another alias",
    )
}

fn attach(
    core: &mut Core,
    aliases: &[AliasConfig],
    v: &Vserver,
    used: &[usize],
    index: u32,
) -> Result<(), HostError> {
    for alias in used {
        let id = AliasId(*alias as u16);
        core.demux.attach(id, index);
        if v.forwarding && !core.demux.set_forwarder(id, index) {
            let alias = &aliases[*alias].name;
            return Err(forwards_already(&v.name, alias));
        }
    }
    Ok(())
}

fn run(
    (config, any, tables, changing): (HostConfig, AnyTables, Tables, Changing),
    cores: Vec<Core>,
    clock: Clock,
    mut links: Option<Links>,
    (captures, plan, access): (Vec<(PathBuf, CaptureFile)>, Arc<Plan>, HostAccess),
) -> Result<(Arc<Shared>, Vec<JoinHandle<()>>), HostError> {
    let os = |operation| move |source| HostError::Os { operation, source };
    let mode = config.nics.iter().map(|n| n.poll).max_by_key(|m| match m {
        PollMode::Interrupt => 0,
        PollMode::Adaptive => 1,
        PollMode::Busy => 2,
    });
    let mode = mode.unwrap_or(PollMode::Interrupt);
    let mut workers = Vec::new();
    for mut core in cores {
        core.poll.mode = mode;
        // The first one listens to the kernel for all.
        let made = Worker::new(core, clock, links.take());
        workers.push(made.map_err(os("make a worker's event queue"))?);
    }
    let mut threads = Vec::new();
    for (number, worker) in workers.iter().enumerate() {
        let cpu = config.workers.affinity.get(number).copied();
        let worker = Arc::clone(worker);
        let thread = std::thread::Builder::new()
            .name(format!("weft-worker-{number}"))
            .spawn(move || worker_loop(&worker, cpu));
        match thread {
            Ok(thread) => threads.push(thread),
            Err(e) => {
                for worker in &workers {
                    worker.stop();
                }
                return Err(os("start a worker's thread")(e));
            }
        }
    }
    let named_clients = NamedClients::new(Arc::clone(&access.answers));
    let (pins, connects) = {
        let core = workers[0].lock();
        (core.pins.clone(), Arc::clone(&core.apps.connects))
    };
    let shared = Shared {
        pins: RwLock::new(pins),
        live: RwLock::new(Arc::new(Live::first(config))),
        changing: Mutex::new(changing),
        workers,
        captures,
        access: Mutex::new(access),
        qos: Mutex::new(plan),
        any,
        tables,
        editions: AtomicU64::new(0),
        next: AtomicUsize::new(0),
        resolvers: Resolvers::default(),
        connects,
        named_routes: NamedRoutes::default(),
        named_clients,
    };
    Ok((Arc::new(shared), threads))
}

/// Workers of a host that nobody runs, for tests in their own time, and the far ends of each NIC's
/// queues. There are no vservers.
#[cfg(test)]
pub(crate) fn standing_still(text: &str) -> (Vec<Core>, Vec<Vec<AnyDevice>>) {
    let config = config::parse(text, "t.toml".as_ref()).unwrap_or_else(|e| panic!("{e}"));
    let tree = tree(&config).unwrap();
    let mut opening = Opening::default();
    for (number, nic) in config.nics.iter().enumerate() {
        opening.add(nic, &config.workers, is_tagged(&tree, number), None).unwrap();
    }
    let far_ends = config.nics.iter().map(|nic| opening.peers.remove(&nic.name).unwrap().0);
    let far_ends = far_ends.collect();
    let places: Vec<AliasPlace> =
        tree.aliases.iter().map(|a| AliasPlace { on: a.link, mtu: a.mtu, mac: a.mac }).collect();
    let layout = layout(&tree, &opening.nics);
    let mut cores = cores(&config, opening.nics, &places, &layout);
    let demux = demux(&layout, &places, &aliases(&config, &places, &cores[0]).unwrap());
    for core in &mut cores {
        core.demux = demux.clone();
    }
    set_machines(&mut cores, &config, &tree, Instant::ZERO).unwrap();
    (cores, far_ends)
}

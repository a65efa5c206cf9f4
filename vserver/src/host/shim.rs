//! The multipath shims of vservers: made from their configuration, shown, told what to do.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_shim::config::{Bounds, SetUpConfig, ShimConfig};
use weft_shim::contexts::{ContextReport, Contexts, StartError};
use weft_shim::encap::EncapConfig;
use weft_shim::hba::{HbaSet, Parameters, SigningKey};
use weft_shim::layer::Layer;
use weft_shim::locator::{Locator, LocatorList, Pair, Verification};
use weft_shim::reap::{ReapConfig, SwitchError};
use weft_shim::stats::ShimStats;
use weft_shim::trust::Proofs;
use weft_shim::verify::{KeyedPeers, OwnSet, SharedKey, TrustConfig};
use weft_stack::time::Instant;

use super::Host;
use crate::config::{ReapPreset, Shim, ShimProofs, Vserver};
use crate::runtime::{Core, NodeId};

/// Contexts in a [`ShimReport`].
const CONTEXTS_MAX: usize = 10_000;
/// Places of a table of contexts looked at while a worker stands still.
const PAGE_SLOTS: usize = 64;
/// Bytes of a file of parameters or a key.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The shims of vservers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShimReport {
    /// Vservers with a shim, in order of the configuration.
    pub vservers: Vec<VserverShim>,
    /// Their contexts.
    pub contexts: Vec<ShimContext>,
    /// Contexts left out because there are too many.
    #[serde(default)]
    pub left_out: usize,
}

/// The shim of one vserver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VserverShim {
    /// The vserver.
    pub vserver: String,
    /// The worker with its contexts and all its flows.
    #[serde(default)]
    pub worker: usize,
    /// The configuration says so; left out: it is the one that had the fewest such vservers.
    #[serde(default)]
    pub home: Option<u16>,
    /// When contexts are set up for its traffic.
    pub set_up: String,
    /// How failures are found.
    pub reap: String,
    /// Which of several working pairs is used.
    pub policy: String,
    /// Proofs that are taken from peers.
    #[serde(default)]
    pub accept: Vec<String>,
    /// Proofs that peers are given, where there are files for them.
    #[serde(default)]
    pub offer: Vec<String>,
    /// Its UDP port.
    #[serde(default)]
    pub udp_port: Option<u16>,
    /// Its locators.
    pub locators: Vec<ShimLocatorLine>,
    /// Number of contexts, and the most there may be.
    pub contexts: usize,
    /// See `contexts`.
    pub contexts_max: usize,
    /// Contexts that this host is setting up.
    pub initiating: usize,
    /// Peers that are not asked for a while.
    pub held_down: usize,
    /// Counters by name.
    pub counters: Vec<(String, u64)>,
}

/// A locator, of the vserver or of a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShimLocatorLine {
    /// Address.
    pub address: IpAddr,
    /// `hba`, `cga`, `keyed`, or the number of the method.
    pub verification: String,
    /// Its owner says that it does not work.
    pub broken: bool,
    /// Lower is tried earlier.
    pub priority: u8,
    /// Share among equals.
    pub weight: u8,
}

/// A context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShimContext {
    /// The vserver.
    pub vserver: String,
    /// Its ULID.
    pub local: IpAddr,
    /// The peer's.
    pub peer: IpAddr,
    /// Forked instance; 0: the context of all.
    pub instance: u32,
    /// State of RFC 5533.
    pub state: String,
    /// The locator in use here.
    pub locator: IpAddr,
    /// The peer's.
    pub peer_locator: IpAddr,
    /// Packets are rewritten.
    pub rewritten: bool,
    /// `operational`, `exploring` or `inbound-ok`; empty before it is established.
    pub reap: String,
    /// Seconds since it was made.
    pub age_s: u64,
    /// Milliseconds since the last packet.
    pub idle_ms: u64,
    /// Packets of transports sent.
    pub packets_out: u64,
    /// Packets of transports received.
    pub packets_in: u64,
    /// Times it went over to another pair.
    pub switches: u64,
    /// Microseconds since it last did.
    #[serde(default)]
    pub switched_us: Option<u64>,
    /// Why; empty if it never did.
    #[serde(default)]
    pub switched_why: String,
    /// The peer's locators.
    pub peer_locators: Vec<ShimLocatorLine>,
    /// Pairs, the cheapest first.
    pub paths: Vec<ShimPath>,
}

/// A pair of locators of a context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShimPath {
    /// Here.
    pub local: IpAddr,
    /// There.
    pub remote: IpAddr,
    /// Packets go by it.
    pub current: bool,
    /// `works`, `silent`, `gone`, `broken` or `unknown`.
    pub state: String,
    /// Failed so often that others are used while there are any.
    #[serde(default)]
    pub suppressed: bool,
    /// Round-trip time, microseconds.
    pub rtt_us: Option<u64>,
    /// Loss of the last probes, per thousand.
    pub loss_permille: Option<u32>,
    /// Sum of priorities.
    pub cost: u16,
}

/// What an operator wants of a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimWish {
    /// The vserver.
    pub vserver: String,
    /// The peer's ULID.
    pub peer: IpAddr,
    /// Ours; left out: that of the only context with the peer, or the first locator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// Packets go by this pair from now on (here, there); left out: every pair is probed, and a
    /// context is set up if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<(IpAddr, IpAddr)>,
}

/// Why a wish was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShimError {
    /// No such vserver.
    #[error("no vserver '{0}'")]
    NoSuchVserver(String),
    /// Its shim is off.
    #[error("vserver '{0}' has no shim; write [vserver.{0}.shim]")]
    Off(String),
    /// No context with the peer, or several and none was named.
    #[error("vserver '{0}' has {1} contexts with {2}; name the ULID on this side with --from")]
    WhichContext(String, usize, IpAddr),
    /// The pair cannot be used.
    #[error("{0} and {1} are {2}")]
    Pair(IpAddr, IpAddr, &'static str),
    /// No context could be set up.
    #[error("no context with {0}: {1}")]
    Start(IpAddr, &'static str),
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let length = std::fs::metadata(path).map_err(|e| told(&e))?.len();
    if length > FILE_BYTES_MAX {
        return Err(told(&format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|e| told(&e))
}

/// A set with these parameters that has one of the addresses; what is not in the parameters, the
/// security level, is in the addresses.
fn set_of(path: &Path, addresses: &[Ipv6Addr]) -> Result<HbaSet, String> {
    let bytes = read(path)?;
    let parameters = Parameters::parse(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let sets = (0..=7).map(|sec| HbaSet::restore(parameters.clone(), sec));
    let mut fits = sets.filter(|set| addresses.iter().any(|a| set.addresses().contains(a)));
    fits.next().ok_or_else(|| {
        format!("{}: none of the vserver's addresses is of this set", path.display())
    })
}

/// The key that a set was made with.
fn signing_key(path: &Path, set: Option<&HbaSet>) -> Result<SigningKey, String> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let key = SigningKey::from_pkcs8(&read(path)?).map_err(|e| told(&e))?;
    if set.is_none_or(|set| set.parameters().key != key.public_der()) {
        return Err(told(&"not the key that the set was made with; see weft hba generate -k"));
    }
    Ok(key)
}

fn proofs(v: &Vserver, shim: &Shim) -> Result<Proofs, String> {
    let mut keyed = Vec::new();
    for (peers, file) in &shim.keys {
        let key = SharedKey::new(read(file)?.trim_ascii());
        let key = key.ok_or_else(|| format!("{}: a key has 16 to 64 bytes", file.display()))?;
        keyed.push(KeyedPeers { peers: *peers, key });
    }
    let v6 = |(addr, _): (IpAddr, u8)| match addr {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => None,
    };
    let addresses: Vec<Ipv6Addr> = v.locators().into_iter().filter_map(v6).collect();
    let set = shim.parameters.as_ref().map(|path| set_of(path, &addresses)).transpose()?;
    let key = shim.signing_key.as_ref().map(|path| signing_key(path, set.as_ref())).transpose()?;
    let (accept, offer) = (shim.accept, shim.offer);
    let only = |of: ShimProofs| if of.keyed { keyed.clone() } else { Vec::new() };
    let trust = TrustConfig { hba: accept.hba, cga: accept.cga, keyed: only(accept) };
    let key = key.filter(|_| offer.cga);
    let own = OwnSet {
        set: set.filter(|_| offer.hba || key.is_some()),
        sign_all: !offer.hba,
        key,
        keyed: only(offer),
    };
    Ok(Proofs::new(&trust, own))
}

/// The locators of a vserver. Which proof each has, contexts find out for their peers.
pub(crate) fn own_locators(v: &Vserver) -> LocatorList {
    let udp = v.shim.as_ref().and_then(|shim| shim.udp);
    let mut list = LocatorList::default();
    for (addr, priority) in v.locators() {
        let mut locator = Locator::new(addr, Verification::Hba);
        locator.preference.priority = priority;
        locator.preference.weight = 1;
        locator.port = udp.filter(|udp| udp.all || addr.is_ipv4()).map(|udp| udp.port);
        list.locators.push(locator);
    }
    list
}

fn settings(shim: &Shim) -> ShimConfig {
    ShimConfig {
        set_up: SetUpConfig { default: shim.set_up, ..SetUpConfig::default() },
        bounds: Bounds { contexts_max: shim.contexts, ..Bounds::default() },
        ..ShimConfig::default()
    }
}

fn reap(shim: &Shim) -> ReapConfig {
    let reap = match shim.reap {
        ReapPreset::DataCentre => ReapConfig::data_centre(),
        ReapPreset::Rfc => ReapConfig::rfc(),
    };
    ReapConfig { policy: shim.policy, ..reap }
}

fn encap(shim: &Shim) -> Option<EncapConfig> {
    let udp = shim.udp?;
    let keepalive = Duration::from_secs(udp.keepalive_s.into());
    Some(EncapConfig { keepalive, ..EncapConfig::new(udp.port) })
}

/// The path layer of a vserver. `Err`: a file of it cannot be used, and why.
pub(crate) fn layer(v: &Vserver, seed: [u8; 16]) -> Result<Layer, String> {
    let Some(shim) = v.shim_on() else { return Ok(Layer::off()) };
    let proofs = Box::new(proofs(v, shim)?);
    let mut contexts = Contexts::new(settings(shim), reap(shim), own_locators(v), proofs, seed);
    contexts.set_encap(Instant::ZERO, encap(shim));
    Ok(Layer::on(contexts))
}

/// Whether peers have to know of the difference.
fn is_news(old: &Vserver, new: &Vserver) -> bool {
    let proving = |v: &Vserver| {
        let shim = v.shim.clone().unwrap_or_default();
        (shim.parameters, shim.signing_key, shim.keys, shim.offer)
    };
    own_locators(old) != own_locators(new) || proving(old) != proving(new)
}

/// What becomes of a shim when its table or the addresses of its vserver change.
pub(crate) enum ShimChange {
    /// It goes on like this.
    Settings(Box<Settings>),
    /// It is switched on; or off, where switching it on is taken back.
    Layer(Layer),
}

/// What a shim that goes on is to do.
pub(crate) struct Settings {
    shim: ShimConfig,
    reap: ReapConfig,
    encap: Option<EncapConfig>,
    /// Others, or the same with other proofs: peers are told.
    own: Option<LocatorList>,
    /// Others, if the table changed: a file may have another content under the same name.
    proofs: Option<Box<Proofs>>,
}

impl ShimChange {
    /// From `old` to `new`. Reads files; `Err`: one cannot be used, and why.
    pub(crate) fn of(old: &Vserver, new: &Vserver) -> Result<Option<ShimChange>, String> {
        if old.shim == new.shim && (new.shim_on().is_none() || old.locators() == new.locators()) {
            return Ok(None);
        }
        Ok(match (old.shim_on(), new.shim_on()) {
            (None, None) => None,
            (Some(_), None) => Some(ShimChange::Layer(Layer::off())),
            (None, Some(_)) => {
                let seed = super::build::seed().map_err(|e| e.to_string())?;
                Some(ShimChange::Layer(layer(new, seed)?))
            }
            (Some(before), Some(shim)) => Some(ShimChange::Settings(Box::new(Settings {
                shim: settings(shim),
                reap: reap(shim),
                encap: encap(shim),
                own: is_news(old, new).then(|| own_locators(new)),
                proofs: (before != shim).then(|| proofs(new, shim)).transpose()?.map(Box::new),
            }))),
        })
    }

    /// Makes it so.
    pub(crate) fn apply(self, core: &mut Core, now: Instant, id: NodeId) {
        let Some(node) = core.node_mut(id) else { return };
        node.stack.with_path_mut(now, |layer| match self {
            ShimChange::Layer(other) => *layer = other,
            ShimChange::Settings(settings) => {
                if let Some(contexts) = layer.shim_mut() {
                    settings.put_into(contexts, now);
                }
            }
        });
        core.mark_dirty(id.index);
        core.run_now(now, id.index);
    }
}

impl Settings {
    fn put_into(self, contexts: &mut Contexts, now: Instant) {
        contexts.set_config(&self.shim);
        contexts.set_reap(self.reap);
        contexts.set_encap(now, self.encap);
        if let Some(proofs) = self.proofs {
            contexts.set_trust(now, proofs);
        }
        if let Some(own) = self.own {
            contexts.set_own(now, own);
        }
    }
}

fn locator_line(l: &weft_shim::contexts::LocatorReport) -> ShimLocatorLine {
    ShimLocatorLine {
        address: l.addr,
        verification: l.verification.clone(),
        broken: l.broken,
        priority: l.priority,
        weight: l.weight,
    }
}

/// As its JSON has it.
pub(super) fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn context_line(vserver: &str, c: &ContextReport) -> ShimContext {
    let reap = c.reap.as_ref();
    let path = |p: &weft_shim::reap::PathReport| ShimPath {
        local: p.local,
        remote: p.remote,
        current: p.current,
        state: p.state.to_owned(),
        suppressed: p.suppressed,
        rtt_us: p.rtt_us,
        loss_permille: p.loss_permille,
        cost: p.cost,
    };
    let switch = reap.and_then(|r| r.last_switch);
    ShimContext {
        vserver: vserver.to_owned(),
        local: c.local,
        peer: c.remote,
        instance: c.fii,
        state: word(&c.state),
        locator: c.locator_local,
        peer_locator: c.locator_remote,
        rewritten: c.rewritten,
        reap: reap.map_or(String::new(), |r| r.state.to_owned()),
        age_s: c.age_s,
        idle_ms: c.idle_ms,
        packets_out: c.packets_out,
        packets_in: c.packets_in,
        switches: c.switches,
        switched_us: switch.map(|s| s.ago_us),
        switched_why: switch.map_or_else(String::new, |s| word(&s.why)),
        peer_locators: c.peer.iter().map(locator_line).collect(),
        paths: reap.map_or_else(Vec::new, |r| r.paths.iter().map(path).collect()),
    }
}

fn counters(contexts: &Contexts, stats: &ShimStats) -> Vec<(String, u64)> {
    let all = stats.all().map(|(name, _, n)| (name, n));
    let udp = contexts.encap().into_iter().flat_map(|encap| encap.stats().all());
    all.chain(udp).map(|(name, n)| (name.to_owned(), n)).collect()
}

fn vserver_line(v: &Vserver, shim: &Shim, contexts: &Contexts, worker: usize) -> VserverShim {
    let report = contexts.report();
    let [set_up, reap, policy] = shim.words().map(str::to_owned);
    let words = |of: ShimProofs| of.words().into_iter().map(str::to_owned).collect();
    VserverShim {
        vserver: v.name.clone(),
        worker,
        home: shim.home,
        set_up,
        reap,
        policy,
        accept: words(shim.accept),
        offer: words(shim.offer),
        udp_port: contexts.encap().map(weft_shim::encap::Encap::own_port),
        locators: report.locators.iter().map(locator_line).collect(),
        contexts: report.contexts,
        contexts_max: shim.contexts,
        initiating: report.initiating,
        held_down: report.held_down,
        counters: counters(contexts, &report.stats),
    }
}

fn grant(contexts: &mut Contexts, now: Instant, wish: &ShimWish) -> Result<(), ShimError> {
    let with_peer = contexts.ulids_with(wish.peer);
    let local = match (wish.local, &with_peer[..]) {
        (Some(local), _) => Some(local),
        (None, [local]) => Some(*local),
        (None, []) if wish.switch.is_none() => {
            let of_family =
                |l: &&weft_shim::contexts::LocatorReport| l.addr.is_ipv4() == wish.peer.is_ipv4();
            contexts.report().locators.iter().find(of_family).map(|l| l.addr)
        }
        _ => None,
    };
    let Some(local) = local else {
        let vserver = wish.vserver.clone();
        return Err(ShimError::WhichContext(vserver, with_peer.len(), wish.peer));
    };
    let ulids = Pair::new(local, wish.peer);
    if let Some((here, there)) = wish.switch {
        let why = |e| match e {
            SwitchError::NotAPair => "no pair of the context",
            SwitchError::Gone => "no pair that can be used: an end or its link is gone",
        };
        let done = contexts.switch(now, ulids, 0, Pair::new(here, there));
        return done.map_err(|e| ShimError::Pair(here, there, why(e)));
    }
    if contexts.probe(now, ulids, 0) {
        return Ok(());
    }
    contexts
        .start(now, ulids, 0)
        .or_else(|e| match e {
            // It is being set up.
            StartError::Exists => Ok(()),
            StartError::NotUlids => Err("the addresses cannot be ULIDs of a context"),
            StartError::HeldDown => Err("the peer did not answer a short time ago"),
            StartError::Bound => Err("a bound of the vserver is reached"),
        })
        .map_err(|why| ShimError::Start(wish.peer, why))
}

/// Where the contexts of a vserver are.
pub(super) struct ShimAt<'a> {
    host: &'a Host,
    id: NodeId,
    worker: usize,
}

impl ShimAt<'_> {
    /// Looks at the contexts while their worker stands still. `None`: there are none.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Contexts, Instant) -> R) -> Option<R> {
        let worker = &self.host.shared.workers[self.worker];
        let now = worker.clock.now();
        let core = worker.lock();
        let contexts = core.node(self.id)?.stack.path().shim()?;
        Some(look(contexts, now))
    }
}

impl Host {
    /// The shims of vservers; of one, or of all. `None`: there is no such vserver.
    pub fn shims(&self, vserver: Option<&str>) -> Option<ShimReport> {
        let mut report = ShimReport::default();
        let known = self.each_shim(vserver, |v, shim, at| {
            let mut page = Some(0);
            while let Some(from) = page.take() {
                // Traffic goes on between two pages.
                let seen = at.look(|contexts, now| {
                    if from == 0 {
                        report.vservers.push(vserver_line(v, shim, contexts, at.worker));
                        report.left_out += contexts.len();
                    }
                    contexts.report_page(now, from, PAGE_SLOTS)
                });
                let Some((lines, next)) = seen else { break };
                let room = CONTEXTS_MAX - report.contexts.len();
                let lines = lines.iter().take(room).map(|c| context_line(&v.name, c));
                report.contexts.extend(lines);
                page = next.filter(|_| report.contexts.len() < CONTEXTS_MAX);
            }
        });
        report.left_out = report.left_out.saturating_sub(report.contexts.len());
        known.then_some(report)
    }

    /// Calls `look` with each vserver that has a shim switched on, of one name or of all: its table,
    /// and where its contexts are. `false`: there is no such vserver.
    pub(super) fn each_shim(
        &self,
        vserver: Option<&str>,
        mut look: impl FnMut(&Vserver, &Shim, &ShimAt<'_>),
    ) -> bool {
        let live = self.shared.live();
        if vserver.is_some_and(|v| !live.names.contains_key(v)) {
            return false;
        }
        for v in live.config.vservers.iter().filter(|v| vserver.is_none_or(|n| n == v.name)) {
            let (Some(id), Some(shim)) = (live.names.get(&v.name), v.shim_on()) else { continue };
            let worker = self.shared.flows_of(id.index).unwrap_or(0);
            look(v, shim, &ShimAt { host: self, id: *id, worker });
        }
        true
    }

    /// Probes the pairs of a context, sets one up, or moves one to another pair.
    pub fn shim_wish(&self, wish: &ShimWish) -> Result<(), ShimError> {
        let live = self.shared.live();
        let name = wish.vserver.to_ascii_lowercase();
        let id = live.names.get(&name).copied();
        let id = id.ok_or_else(|| ShimError::NoSuchVserver(wish.vserver.clone()))?;
        let worker = self.shared.flows_of(id.index).unwrap_or(0);
        let done = self.shared.workers[worker].with_core(|core, now| {
            let off = || ShimError::Off(wish.vserver.clone());
            let node = core.node_mut(id).ok_or_else(off)?;
            let done = node.stack.with_path_mut(now, |layer| {
                layer.shim_mut().ok_or_else(off).and_then(|contexts| grant(contexts, now, wish))
            });
            core.mark_dirty(id.index);
            core.run_now(now, id.index);
            done
        });
        done.unwrap_or_else(|_| Err(ShimError::Off(wish.vserver.clone())))
    }
}

/// How long `weft shim probe` waits before it shows what came of it: handshake and probes take a
/// round trip or two.
pub const PROBE_WAIT: Duration = Duration::from_secs(1);

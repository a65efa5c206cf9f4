//! Two weft hosts at the ends of two providers: how they are configured, what their shims say, and how
//! one path after the other is taken from them.

use std::fmt::Write as _;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_vserver::change::{Applied, ApplyError, Changes, Options};
use weft_vserver::config::{self, Driver, HostConfig};
use weft_vserver::net::{TcpConnect, TcpListener, TcpStream};
use weft_vserver::{Host, ShimContext, ShimError, ShimWish, Vserver};

use super::super::report::Report;
use super::super::scenario::{interrupted, pause, wait_for_addresses};
use super::super::topology::nic;
use super::super::traffic::PATIENCE;
use super::super::{LabError, plan};
use super::network::{Fault, Network, PREFIXES, PROVIDERS, SIDES, gateways, locators};

/// Vservers of the hosts.
const NAMES: [&str; 2] = ["left", "right"];
/// Traffic before a fault, and after everything is as it was.
pub(super) const CALM: Duration = Duration::from_millis(300);
/// How long a fault lasts.
pub(super) const EFFECT: Duration = Duration::from_secs(1);
/// The same where it is measured many times.
pub(super) const SHORT: Duration = Duration::from_millis(500);
/// Within it both hosts find again what was mended.
const RECOVERY: Duration = Duration::from_secs(20);

/// Scenes over one IPv6 and one IPv4 provider.
pub(super) const MIXED: [usize; 2] = [0, 4];

/// What the providers carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ways {
    /// Both IPv6.
    V6,
    /// The second one IPv4 only, so that IPv6 packets of the ULIDs go in UDP over it.
    Mixed,
}

/// What is done to the path in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The network fails.
    Fault(Fault),
    /// The left host gives up its address of the provider.
    Withdrawn,
}

/// When what happened, and by which pair the left host sent in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) begin: Instant,
    pub(super) broken: Instant,
    /// The call that broke it came back.
    pub(super) made: Instant,
    /// When each host went over to another pair, if it did.
    pub(super) moved: [Option<Instant>; 2],
    pub(super) mended: Instant,
    pub(super) end: Instant,
    pub(super) by: Option<(IpAddr, IpAddr)>,
}

/// Both hosts and what is between them.
pub(super) struct Bench {
    /// Of the left host.
    changes: Changes,
    hosts: [Arc<Host>; 2],
    ways: Ways,
    /// What came of the stream and of answers: how often.
    pub(super) came: [AtomicUsize; 2],
    /// After whoever is in it.
    network: Network,
}

/// A connection: its end on the left, and that on the right.
pub(super) type Ends = (TcpStream, TcpStream);

fn trouble(what: impl Into<String>) -> impl FnOnce(String) -> LabError {
    move |text| LabError::io(what)(std::io::Error::other(text))
}

impl Ways {
    /// The address that a provider gives a host.
    pub(super) fn locator(self, provider: usize, side: usize) -> IpAddr {
        locators(provider, side)[self.family(provider)]
    }

    /// For files.
    fn name(self) -> &'static str {
        match self {
            Ways::V6 => "v6",
            Ways::Mixed => "v6-v4",
        }
    }

    /// What names of kinds begin with.
    pub(super) fn title(self) -> &'static str {
        match self {
            Ways::V6 => "",
            Ways::Mixed => "IPv6 and IPv4, ",
        }
    }

    /// 0: IPv6.
    fn family(self, provider: usize) -> usize {
        usize::from(self == Ways::Mixed && provider == 1)
    }

    /// The configuration of a host.
    fn text(self, side: usize, driver: Driver) -> String {
        let mut text = String::new();
        let (mut addresses, mut routes) = (Vec::new(), Vec::new());
        for provider in PROVIDERS {
            let (device, driver) = (nic(provider), plan::driver_name(driver));
            let _ = write!(
                text,
                "[nic.eth{provider}]\ndevice = \"{device}\"\ndriver = \"{driver}\"\n\
                 [alias.data{provider}]\nover = \"eth{provider}\"\n"
            );
            let (own, family) = (self.locator(provider, side), self.family(provider));
            addresses.push(format!("\"data{provider} {own}/{}\"", PREFIXES[family]));
            let via = gateways(provider, side)[family];
            // The better metric is for sources that say nothing; locators leave by their provider.
            routes.push(format!("{{ to = \"default\", via = \"{via}\", metric = {provider} }}"));
        }
        let (addresses, routes) = (addresses.join(", "), routes.join(", "));
        let udp = if self == Ways::Mixed { UDP } else { "" };
        text + &format!(
            "[vserver.{name}]\naddresses = [{addresses}]\nroutes = [{routes}]\n\
             [vserver.{name}.shim]\nset_up = \"immediate\"\nkeys = [\"fd78::/16 peers.key\"]\n{udp}",
            name = NAMES[side],
        )
    }

    /// The configurations of both hosts; `Err`: why there is none.
    pub(super) fn configs(
        self,
        driver: Driver,
        dir: &Path,
        captures: Option<&Path>,
    ) -> Result<[HostConfig; 2], String> {
        write_key(dir).map_err(|e| format!("write a key: {e}"))?;
        let one = |side: usize| -> Result<HostConfig, String> {
            let file = dir.join(format!("{}.toml", NAMES[side]));
            let mut config = config::parse(&self.text(side, driver), &file)
                .map_err(|e| e.to_string().trim_end().to_owned())?;
            config.control = dir.join(format!("{}.sock", NAMES[side]));
            for nic in &mut config.nics {
                let file = format!("{}-{}-{}.pcapng", self.name(), NAMES[side], nic.name);
                nic.capture = captures.map(|dir| dir.join(file));
            }
            Ok(config)
        };
        Ok([one(0)?, one(1)?])
    }
}

/// What makes IPv4 locators reachable.
const UDP: &str = "udp_port = 4140\n";

/// The key by which the hosts believe each other's locators.
fn write_key(dir: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let options = options.create(true).write(true).truncate(true).mode(0o600);
    options.open(dir.join("peers.key"))?.write_all(b"what left and right know, and nobody else\n")
}

/// A host's configuration without what the first provider gave.
fn withdrawn(config: &HostConfig) -> HostConfig {
    let mut config = config.clone();
    for vserver in &mut config.vservers {
        vserver.addresses.retain(|(alias, _)| *alias != 0);
        vserver.routes.retain(|route| route.alias != 0);
    }
    config
}

impl Bench {
    pub(super) fn start(
        ways: Ways,
        configs: [HostConfig; 2],
        report: &mut Report,
        stop: &AtomicBool,
    ) -> Result<Bench, LabError> {
        let network = Network::new()?;
        let begin = Instant::now();
        let [left, right] = configs;
        let left = network.hosts[0].netns.enter(|| Host::start(left))??;
        let right = network.hosts[1].netns.enter(|| Host::start(right))??;
        for host in [&left, &right] {
            wait_for_addresses(host, report, begin, stop)?;
        }
        let left = Arc::new(left);
        let changes = Changes::new(Arc::clone(&left), None, Vec::new(), |_, _| {});
        let hosts = [left, Arc::new(right)];
        let bench = Bench { network, hosts, changes, ways, came: Default::default() };
        bench.meet(stop)?;
        Ok(bench)
    }

    fn vserver(&self, side: usize) -> Vserver {
        self.hosts[side].vserver(NAMES[side]).expect("the lab's own vserver")
    }

    /// The ULIDs are what the first provider gave.
    pub(super) fn ulid(&self, side: usize) -> IpAddr {
        self.ways.locator(0, side)
    }

    /// A connection between the ULIDs, to a port of the left host.
    pub(super) fn connection(&self, port: u16) -> Result<Ends, LabError> {
        let at = SocketAddr::new(self.ulid(0), port);
        let failed = |what: &str| LabError::io(format!("{what} {at}"));
        let listener = TcpListener::bind(&self.vserver(0), at).map_err(failed("listen at"))?;
        let how = TcpConnect {
            local: Some(SocketAddr::new(self.ulid(1), 0)),
            timeout: Some(PATIENCE),
            ..TcpConnect::default()
        };
        let made = TcpStream::connect_with(&self.vserver(1), at, how);
        let (right, _) = made.map_err(failed("connect to"))?;
        let (left, _) = listener.accept().map_err(failed("accept at"))?;
        for end in [&left, &right] {
            end.set_nodelay(true)
                .and_then(|()| end.set_read_timeout(Some(PATIENCE)))
                .and_then(|()| end.set_write_timeout(Some(PATIENCE)))
                .map_err(failed("set options of the connection to"))?;
        }
        Ok((left, right))
    }

    /// A first connection, which sets the context up; both providers are measured then.
    fn meet(&self, stop: &AtomicBool) -> Result<(), LabError> {
        let first = self.connection(1)?;
        wait("a context", stop, || SIDES.into_iter().all(|side| self.context(side).is_some()))?;
        drop(first);
        self.home(stop)
    }

    /// The context of a host, once it is established.
    pub(super) fn context(&self, side: usize) -> Option<ShimContext> {
        let contexts = self.hosts[side].shims(None)?.contexts;
        let mine = |c: &ShimContext| c.peer == self.ulid(1 - side) && c.state == "established";
        contexts.into_iter().find(mine)
    }

    /// The round trip by the pair in use, ms.
    pub(super) fn rtt_ms(&self) -> Option<f64> {
        let paths = self.context(0)?.paths;
        paths.iter().find(|p| p.current)?.rtt_us.map(|us| us as f64 / 1e3)
    }

    /// Whether a host sends by another pair than the first provider's.
    fn has_moved(&self) -> bool {
        SIDES.into_iter().any(|side| {
            let context = self.context(side);
            context.is_some_and(|c| (c.locator, c.peer_locator) != self.pair(0, side))
        })
    }

    /// When a host last went over to another pair.
    fn moved_at(&self, side: usize) -> Option<Instant> {
        let ago = Duration::from_micros(self.context(side)?.switched_us?);
        Instant::now().checked_sub(ago)
    }

    /// Whether a host would rather not use the second provider, for what it failed before.
    pub(super) fn is_held_back(&self) -> bool {
        SIDES.into_iter().any(|side| {
            let paths = self.context(side).map(|c| c.paths).unwrap_or_default();
            paths.iter().any(|p| p.suppressed && (p.local, p.remote) == self.pair(1, side))
        })
    }

    fn pair(&self, provider: usize, side: usize) -> (IpAddr, IpAddr) {
        (self.ways.locator(provider, side), self.ways.locator(provider, 1 - side))
    }

    fn wish(&self, side: usize, switch: Option<(IpAddr, IpAddr)>) -> Result<(), ShimError> {
        let (vserver, peer) = (NAMES[side].to_owned(), self.ulid(1 - side));
        let local = Some(self.ulid(side));
        self.hosts[side].shim_wish(&ShimWish { vserver, peer, local, switch })
    }

    /// Whether a host knows that it has a way over each provider.
    fn has_both(&self, side: usize) -> bool {
        let Some(context) = self.context(side) else { return false };
        let works = |pair: (IpAddr, IpAddr)| {
            let mut paths = context.paths.iter();
            paths.any(|p| (p.local, p.remote) == pair && p.state == "works" && p.rtt_us.is_some())
        };
        context.reap == "operational" && PROVIDERS.into_iter().all(|p| works(self.pair(p, side)))
    }

    /// Waits until both providers work again, and goes back to the first one.
    fn home(&self, stop: &AtomicBool) -> Result<(), LabError> {
        for side in SIDES {
            let what = format!("{} finds both providers", NAMES[side]);
            let mut asked: Option<Instant> = None;
            wait(&what, stop, || {
                // The pairs are probed in any case, but not as often as somebody who waits would like.
                if asked.is_none_or(|at| at.elapsed() > CALM) {
                    asked = Some(Instant::now());
                    let _ = self.wish(side, None);
                }
                self.has_both(side)
            })
            .map_err(|e| self.explain(e))?;
        }
        for side in SIDES {
            let moved = self.wish(side, Some(self.pair(0, side)));
            moved.map_err(|e| trouble("go back to the first provider")(e.to_string()))?;
        }
        Ok(())
    }

    /// With what the hosts think of their paths.
    fn explain(&self, e: LabError) -> LabError {
        if matches!(e, LabError::Interrupted) {
            return e;
        }
        let paths = SIDES.map(|side| self.context(side).map(|c| (c.reap, c.paths)));
        trouble(e.to_string())(format!("{paths:?}"))
    }

    fn fail(&self, event: Event) -> Result<(), LabError> {
        match event {
            Event::Fault(fault) => Ok(self.network.fail(fault, 0)?),
            Event::Withdrawn => {
                let config = withdrawn(&self.hosts[0].config());
                changed(self.changes.apply(config, &Options::default()))
            }
        }
    }

    fn mend(&self, event: Event) -> Result<(), LabError> {
        match event {
            Event::Fault(fault) => Ok(self.network.mend(fault, 0)?),
            Event::Withdrawn => changed(self.changes.revert()),
        }
    }

    /// Traffic, the event at the first provider for a time, and back.
    pub(super) fn scene(
        &self,
        event: Event,
        effect: Duration,
        stop: &AtomicBool,
    ) -> Result<Told, LabError> {
        let begin = Instant::now();
        pause(CALM, stop)?;
        let broken = Instant::now();
        self.fail(event)?;
        let made = Instant::now();
        pause(effect, stop)?;
        if !self.has_moved() {
            // Starved of processors, hosts need longer to notice; whether they do is what is asked.
            wait("another pair in use", stop, || self.has_moved()).map_err(|e| self.explain(e))?;
            pause(effect, stop)?;
        }
        self.let_go_on(stop)?;
        let moved = SIDES.map(|side| self.moved_at(side).filter(|at| *at >= broken));
        let by = self.context(0).map(|c| (c.locator, c.peer_locator));
        let mended = Instant::now();
        self.mend(event)?;
        self.home(stop)?;
        pause(CALM, stop)?;
        Ok(Told { begin, broken, made, moved, mended, end: Instant::now(), by })
    }

    /// Leaves a fault as it is until something of both flows comes. If nothing does, that is seen in
    /// what came.
    fn let_go_on(&self, stop: &AtomicBool) -> Result<(), LabError> {
        let came = || self.came.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = came();
        let both = || came().iter().zip(before).all(|(now, before)| *now > before);
        match wait("both flows", stop, both) {
            Err(LabError::Interrupted) => Err(LabError::Interrupted),
            _ => Ok(()),
        }
    }

    /// Ends the hosts, and with them whatever waits for their connections.
    pub(super) fn stop(&self) {
        for host in &self.hosts {
            host.stop();
        }
    }

    /// The event for as long as `meanwhile` takes.
    pub(super) fn during<T>(
        &self,
        event: Event,
        stop: &AtomicBool,
        meanwhile: impl FnOnce() -> T,
    ) -> Result<T, LabError> {
        self.fail(event)?;
        let seen = meanwhile();
        self.mend(event)?;
        self.home(stop)?;
        Ok(seen)
    }
}

fn changed(done: Result<Applied, ApplyError>) -> Result<(), LabError> {
    done.map(|_| ()).map_err(|e| trouble("change the left host's addresses")(e.to_string()))
}

/// Waits for what hosts do in their own time.
fn wait(what: &str, stop: &AtomicBool, mut done: impl FnMut() -> bool) -> Result<(), LabError> {
    let begin = Instant::now();
    while !done() {
        interrupted(stop)?;
        if begin.elapsed() > RECOVERY {
            return Err(LabError::io(what)(std::io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hosts_have_a_locator_and_a_route_of_each_provider() {
        let dir = tempfile::tempdir().expect("directory");
        let configs = Ways::V6.configs(Driver::AfXdp, dir.path(), None).expect("a configuration");
        for (side, config) in configs.iter().enumerate() {
            let vserver = &config.vservers[0];
            let own = PROVIDERS.map(|p| Ways::V6.locator(p, side));
            assert_eq!(vserver.locators().iter().map(|l| l.0).collect::<Vec<_>>(), own);
            let via = |p: usize| (Some(gateways(p, side)[0]), p);
            let routes: Vec<_> = vserver.routes.iter().map(|r| (r.via, r.alias)).collect();
            assert_eq!(routes, PROVIDERS.map(via));
            let rest = withdrawn(config);
            assert_eq!(rest.vservers[0].locators(), [(own[1], 0)]);
            assert_eq!(rest.vservers[0].routes.len(), 1);
        }
    }
}

//! The network: hosts, segments, and how both are built and used.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::ip::route::Route;
use weft_stack::rng::Rng;
use weft_stack::socket::SocketKind;
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};

use crate::actor::Actor;
use crate::capture::Capture;
use crate::host::{Clock, Host, HostSpec, Player};
use crate::link::{Direction, LinkSpec, LinkStats, Medium, Wire};
use crate::seeds;
use crate::station::{Fates, Station};
use crate::timeline::Timeline;
use crate::witness::Witness;

/// Names a host of a [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId(pub(crate) usize);

/// Names a segment of a [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentId(pub(crate) usize);

/// Names an application of a [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActorId(usize, usize);

/// Who is at a port of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host(usize, AliasId),
    Station(usize),
}

/// An attachment to a segment.
pub(crate) struct Port {
    pub(crate) place: Place,
    pub(crate) segment: usize,
    pub(crate) mac: [u8; 6],
    pub(crate) way: Direction,
    /// Faults of what leaves here, instead of the segment's.
    pub(crate) egress: Option<LinkSpec>,
    /// Interface number in the capture.
    pub(crate) interface: usize,
    addresses: Vec<IpAddr>,
}

pub(crate) struct Segment {
    pub(crate) spec: LinkSpec,
    pub(crate) stats: LinkStats,
    pub(crate) ports: Vec<usize>,
}

/// A frame that arrives.
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) serial: u64,
    pub(crate) port: usize,
    pub(crate) wire: Wire,
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Arrival) -> bool {
        self.serial == other.serial
    }
}
impl Eq for Arrival {}
impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Arrival) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Arrival {
    fn cmp(&self, other: &Arrival) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// Changes what a host is made from.
type Vary = Box<dyn FnMut(&mut Rng, &mut HostSpec)>;

/// A network of stacks; see the crate documentation.
pub struct Net {
    pub(crate) now: Instant,
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    template: HostSpec,
    vary: Option<Vary>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) stations: Vec<Box<dyn Station>>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) ports: Vec<Port>,
    pub(crate) arrivals: BinaryHeap<Reverse<Arrival>>,
    pub(crate) timeline: Timeline,
    pub(crate) fates: Option<Box<dyn Fates>>,
    pub(crate) serial: u64,
    pub(crate) capture: Option<Capture>,
    pub(crate) burst: TxBurst,
    pub(crate) witness: Witness,
    pub(crate) checked: bool,
    pub(crate) steps: u64,
    pub(crate) trace: Option<Trace>,
}

/// A digest of everything that a run sends and comes to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    hash: DefaultHasher,
    rests: u64,
}

/// Every so many times that a host comes to rest, its whole state goes into the digest.
const RESTS_PER_STATE: u64 = 61;

impl Trace {
    /// A frame left a host.
    pub(crate) fn sent(&mut self, host: usize, now: Instant, frame: &[u8]) {
        (host, now, frame).hash(&mut self.hash);
    }

    /// A host has nothing more to do in this instant.
    pub(crate) fn rests(&mut self, stack: &Stack) {
        self.rests += 1;
        if self.rests.is_multiple_of(RESTS_PER_STATE) {
            stack.describe().hash(&mut self.hash);
        }
    }
}

/// Bytes of a pool slot: a full Ethernet frame with headroom.
const SLOT_BYTES: usize = 2048;

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net")
            .field("seed", &self.seed)
            .field("now", &self.now)
            .field("hosts", &self.hosts.len())
            .finish_non_exhaustive()
    }
}

impl Net {
    /// An empty network. Everything random in it follows from `seed`. If `WEFT_SEED` is set it
    /// records what happens, and writes it to a file when it is dropped; see
    /// [`each_seed`](crate::each_seed).
    pub fn new(seed: u64) -> Net {
        Net {
            now: Instant::from_millis(1),
            seed,
            rng: Rng::from_u64(seed),
            template: HostSpec::named(""),
            vary: None,
            hosts: Vec::new(),
            stations: Vec::new(),
            segments: Vec::new(),
            ports: Vec::new(),
            arrivals: BinaryHeap::new(),
            timeline: Timeline::default(),
            fates: None,
            serial: 0,
            capture: seeds::replaying().then(Capture::default),
            burst: TxBurst::new(64),
            witness: Witness::default(),
            checked: true,
            steps: 0,
            trace: None,
        }
    }

    /// Every frame sent, and what the stacks come to, goes into a digest from now on; `predict`:
    /// whether predicted segments take the short way up in the stacks that there are.
    pub fn start_trace(&mut self, predict: bool) {
        self.trace = Some(Trace::default());
        for host in &mut self.hosts {
            host.stack.predict(predict);
        }
    }

    /// The digest so far; 0 without [`Net::start_trace`].
    pub fn digest(&self) -> u64 {
        let Some(trace) = &self.trace else { return 0 };
        let mut hash = trace.hash.clone();
        for host in &self.hosts {
            host.stack.describe().hash(&mut hash);
        }
        hash.finish()
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The run's randomness, for building it.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// How many things have happened: frames that arrived, timers, wake-ups, faults.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Leaves out the checks after every step, for measurements of speed.
    pub fn unchecked(&mut self) {
        self.checked = false;
    }

    /// Records every frame from now on; call it before [`Net::attach`].
    pub fn start_capture(&mut self) {
        self.capture = Some(Capture::default());
    }

    /// What was recorded.
    pub fn capture(&self) -> Option<&Capture> {
        self.capture.as_ref()
    }

    /// What the hosts of [topologies](crate::topology) are made from, but for their names.
    pub fn set_template(&mut self, template: HostSpec) {
        self.template = template;
    }

    /// Lets `vary` change the template for each host of a topology.
    pub fn vary_template(&mut self, vary: impl FnMut(&mut Rng, &mut HostSpec) + 'static) {
        self.vary = Some(Box::new(vary));
    }

    pub(crate) fn host_like_template(&mut self, name: &str, forwarding: bool) -> HostId {
        let mut spec = self.template.clone();
        if let Some(vary) = &mut self.vary {
            vary(&mut self.rng, &mut spec);
        }
        self.add_host(HostSpec { name: name.to_owned(), forwarding, ..spec })
    }

    /// Adds a host.
    pub fn add_host(&mut self, spec: HostSpec) -> HostId {
        let pool = FramePool::heap(spec.frames, SLOT_BYTES);
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        seed[8..].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        let config = StackConfig {
            name: spec.name.clone(),
            limits: spec.limits,
            tcp: spec.tcp,
            forwarding: spec.forwarding,
            seed,
            ..StackConfig::default()
        };
        let stack = Stack::new(config, pool.clone(), self.now);
        self.hosts.push(Host {
            name: spec.name,
            stack,
            pool,
            players: Vec::new(),
            clock: Clock::default(),
            forwarding: spec.forwarding,
            ports: Vec::new(),
            seized: Vec::new(),
            next_at: None,
        });
        HostId(self.hosts.len() - 1)
    }

    /// Adds a segment.
    pub fn add_segment(&mut self, spec: LinkSpec) -> SegmentId {
        let stats = LinkStats::default();
        self.segments.push(Segment { spec, stats, ports: Vec::new() });
        SegmentId(self.segments.len() - 1)
    }

    /// Changes a segment's properties while the network runs.
    pub fn set_segment(&mut self, segment: SegmentId, spec: LinkSpec) {
        self.segments[segment.0].spec = spec;
    }

    /// A segment's properties.
    pub fn segment(&self, segment: SegmentId) -> LinkSpec {
        self.segments[segment.0].spec
    }

    /// Gives what a host sends into an attachment (counted from 0) properties of its own: a path
    /// that is not the same both ways. `None`: those of the segment.
    pub fn set_egress(&mut self, host: HostId, attachment: usize, spec: Option<LinkSpec>) {
        let port = self.hosts[host.0].ports[attachment];
        self.ports[port].egress = spec;
    }

    /// What a segment did so far.
    pub fn link_stats(&self, segment: SegmentId) -> LinkStats {
        self.segments[segment.0].stats
    }

    /// Lets `fates` decide what becomes of every frame, instead of the segments' properties.
    pub fn set_fates(&mut self, fates: impl Fates + 'static) {
        self.fates = Some(Box::new(fates));
    }

    /// Attaches a host to a segment, with addresses (`10.0.0.1/24`).
    ///
    /// # Panics
    /// If an address is malformed or refused.
    pub fn attach(&mut self, host: HostId, segment: SegmentId, addresses: &[&str]) -> AliasId {
        self.attach_with(host, segment, addresses, |_| {})
    }

    /// As [`Net::attach`], with a last word on the alias's configuration.
    pub fn attach_with(
        &mut self,
        host: HostId,
        segment: SegmentId,
        addresses: &[&str],
        configure: impl FnOnce(&mut AliasConfig),
    ) -> AliasId {
        let spec = self.segments[segment.0].spec;
        let index = self.hosts[host.0].ports.len();
        let alias = AliasId(index as u16);
        let mac = [2, 0, 0, 0, host.0 as u8 + 1, index as u8 + 1];
        let medium = match spec.medium {
            Medium::Ethernet => AliasMedium::Ethernet { mac },
            Medium::Ip => AliasMedium::Ip,
        };
        let mut config = AliasConfig {
            mtu: spec.host_mtu.unwrap_or(spec.mtu),
            gso_bytes_max: if spec.offload { 65_000 } else { 0 },
            tx_checksum: spec.offload,
            ..AliasConfig::up_without_offload(alias, medium)
        };
        configure(&mut config);
        let name = format!("{}.{}", self.hosts[host.0].name, config.name);
        let port = self.add_port(Place::Host(host.0, alias), segment, mac, &name);
        self.hosts[host.0].ports.push(port);
        self.change(host, Change::AliasAdd(config));
        for address in addresses {
            let cidr: Cidr = address.parse().unwrap_or_else(|e| panic!("{e}"));
            self.ports[port].addresses.push(cidr.addr);
            self.change(host, Change::AddressAdd { alias, cidr });
        }
        alias
    }

    fn add_port(&mut self, place: Place, segment: SegmentId, mac: [u8; 6], name: &str) -> usize {
        let index = self.ports.len();
        let ethernet = self.segments[segment.0].spec.medium == Medium::Ethernet;
        if let Some(capture) = &mut self.capture {
            capture.interface(name, ethernet);
        }
        self.segments[segment.0].ports.push(index);
        self.ports.push(Port {
            place,
            segment: segment.0,
            mac,
            way: Direction::default(),
            egress: None,
            interface: index,
            addresses: Vec::new(),
        });
        index
    }

    /// Puts a TCP/IP implementation of somebody else on a segment, with a MAC address if that is an
    /// Ethernet.
    pub fn add_station(&mut self, station: impl Station + 'static, on: SegmentId, mac: [u8; 6]) {
        self.add_port(Place::Station(self.stations.len()), on, mac, "station");
        self.stations.push(Box::new(station));
        self.poll_station(self.stations.len() - 1);
    }

    /// The first address of a family on an attachment (counted from 0) of a host.
    ///
    /// # Panics
    /// If there is none.
    pub fn address(&self, host: HostId, attachment: usize, v6: bool) -> IpAddr {
        let port = self.hosts[host.0].ports[attachment];
        let mut of_family = self.ports[port].addresses.iter().filter(|a| a.is_ipv6() == v6);
        *of_family.next().unwrap_or_else(|| panic!("no address of that family"))
    }

    /// Adds a route (`0.0.0.0/0` through `via`).
    ///
    /// # Panics
    /// If it is malformed or refused.
    pub fn route(&mut self, host: HostId, alias: AliasId, prefix: &str, via: &str) {
        let prefix = prefix.parse().unwrap_or_else(|e| panic!("{e}"));
        let via = via.parse().unwrap_or_else(|e| panic!("{via}: {e}"));
        let route = Route { prefix, via: Some(via), alias, src: None, metric: 0, mtu: None };
        self.change(host, Change::RouteAdd(route));
    }

    /// Changes a host's configuration.
    ///
    /// # Panics
    /// If the change is refused.
    pub fn change(&mut self, host: HostId, change: Change) {
        self.with_stack(host, |s, now| s.handle_config(now, change))
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Puts an application on a host and starts it.
    pub fn add_actor(&mut self, host: HostId, actor: impl Actor + 'static) -> ActorId {
        let rng = Rng::from_u64(self.rng.next_u64());
        let wake_at = Some(self.hosts[host.0].clock.read(self.now));
        let players = &mut self.hosts[host.0].players;
        players.push(Player { actor: Box::new(actor), rng, wake_at });
        let id = ActorId(host.0, players.len() - 1);
        self.service(host.0);
        id
    }

    /// How far an application has come; what it counts is its own affair (bytes, mostly).
    pub fn progress(&self, actor: ActorId) -> u64 {
        self.hosts[actor.0].players[actor.1].actor.progress()
    }

    /// Applications that are not done, with how far they have come.
    pub fn unfinished(&self) -> Vec<(ActorId, u64)> {
        let mut out = Vec::new();
        for (h, host) in self.hosts.iter().enumerate() {
            for (p, player) in host.players.iter().enumerate().filter(|p| !p.1.actor.done()) {
                out.push((ActorId(h, p), player.actor.progress()));
            }
        }
        out
    }

    /// A host's stack.
    pub fn stack(&self, host: HostId) -> &Stack {
        &self.hosts[host.0].stack
    }

    /// A host's name.
    pub fn host_name(&self, host: HostId) -> &str {
        &self.hosts[host.0].name
    }

    /// Lets `f` use a host's stack at the host's time, and carries out what follows from it.
    pub fn with_stack<T>(&mut self, host: HostId, f: impl FnOnce(&mut Stack, Instant) -> T) -> T {
        let host_mut = &mut self.hosts[host.0];
        let result = f(&mut host_mut.stack, host_mut.clock.read(self.now));
        self.service(host.0);
        result
    }

    /// Looks again whether a host has something to do.
    pub(crate) fn wake(&mut self, host: HostId) {
        self.service(host.0);
    }

    /// A frame from nowhere arrives at a host now.
    pub fn inject(&mut self, host: HostId, alias: AliasId, frame: &[u8]) {
        let frame = Frame::from_heap(HEADROOM_BYTES, frame);
        self.with_stack(host, |s, now| s.handle_frame(now, alias, frame));
    }

    /// Takes the actors off their hosts and aborts every socket that is left.
    pub fn close_all(&mut self) {
        for host in 0..self.hosts.len() {
            let Host { stack, players, clock, .. } = &mut self.hosts[host];
            let now = clock.read(self.now);
            players.clear();
            let mut open = Vec::new();
            stack.for_each_socket(|s| open.push(s.id));
            for id in open {
                match id.kind {
                    SocketKind::Udp => stack.udp_close(id),
                    SocketKind::Raw | SocketKind::Icmp => stack.raw_close(id),
                    SocketKind::TcpListener => stack.tcp_close(now, id),
                    SocketKind::TcpStream => stack.tcp_abort(now, id),
                }
            }
            self.service(host);
        }
    }

    /// Whether every actor and station is done.
    pub fn all_done(&self) -> bool {
        self.hosts.iter().all(|h| h.players.iter().all(|p| p.actor.done()))
            && self.stations.iter().all(|s| s.done())
    }

    /// What the actors and stations found wrong.
    pub(crate) fn verdicts(&self) -> Result<(), String> {
        for host in &self.hosts {
            for player in &host.players {
                player.actor.verdict().map_err(|e| format!("{}: {e}", host.name))?;
            }
        }
        self.stations.iter().try_for_each(|s| s.verdict().map_err(|e| format!("station: {e}")))
    }

    /// What actors and stations have found wrong, done or not.
    pub(crate) fn problems(&self) -> Result<(), String> {
        for host in &self.hosts {
            for player in &host.players {
                if let Some(e) = player.actor.problem() {
                    return Err(format!("{}: {e}", host.name));
                }
            }
        }
        Ok(())
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until `condition` holds, for `time` at most; whether it came to hold.
    pub fn run_until(&mut self, time: Duration, mut condition: impl FnMut(&Net) -> bool) -> bool {
        let until = self.now + time;
        loop {
            if condition(self) {
                return true;
            }
            if !self.step(until) {
                return condition(self);
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(capture) = self.capture.as_ref().filter(|_| seeds::replaying()) {
            seeds::keep(self.seed, capture);
        }
    }
}

//! The event loop: hosts, segments, time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weft_stack::Stack;
use weft_stack::frame::{Checksum, Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::ip::route::Route;
use weft_stack::rng::Rng;
use weft_stack::socket::{Event, SocketKind};
use weft_stack::stack::{Change, Limits, StackConfig, TcpConfig, TxBurst};
use weft_stack::time::{Duration, Instant};

use crate::actor::{Actor, Io};
use crate::capture::Capture;
use crate::link::{Direction, LinkSpec, LinkStats, Medium, Wire};

/// Names a host of a [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId(pub(crate) usize);

/// Names a segment of a [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentId(pub(crate) usize);

/// What a host is made from.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its name, for messages.
    pub name: String,
    /// Bounds of its stack.
    pub limits: Limits,
    /// TCP defaults.
    pub tcp: TcpConfig,
    /// Forward packets between its attachments.
    pub forwarding: bool,
    /// Frames in its pool.
    pub frames: usize,
}

impl HostSpec {
    /// A host with default limits.
    pub fn named(name: &str) -> HostSpec {
        HostSpec {
            name: name.to_owned(),
            limits: Limits::default(),
            tcp: TcpConfig::default(),
            forwarding: false,
            frames: 4096,
        }
    }
}

struct Attachment {
    alias: AliasId,
    segment: usize,
    mac: [u8; 6],
    way: Direction,
    /// Interface number in the capture.
    interface: usize,
}

struct Player {
    actor: Box<dyn Actor>,
    rng: Rng,
    wake_at: Option<Instant>,
}

pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) stack: Stack,
    pub(crate) pool: FramePool,
    attachments: Vec<Attachment>,
    players: Vec<Player>,
}

pub(crate) struct Segment {
    spec: LinkSpec,
    pub(crate) stats: LinkStats,
}

/// A frame that arrives.
struct Arrival {
    at: Instant,
    serial: u64,
    host: usize,
    alias: AliasId,
    wire: Wire,
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

/// A network of stacks; see the crate documentation.
pub struct Net {
    now: Instant,
    seed: u64,
    rng: Rng,
    pub(crate) hosts: Vec<Host>,
    pub(crate) segments: Vec<Segment>,
    arrivals: BinaryHeap<Reverse<Arrival>>,
    serial: u64,
    capture: Option<Capture>,
    interfaces: usize,
    burst: TxBurst,
}

/// Rounds of one host within one instant after which it counts as spinning.
const ROUNDS_MAX: usize = 10_000;
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
    /// An empty network. Everything random in it follows from `seed`.
    pub fn new(seed: u64) -> Net {
        Net {
            now: Instant::from_millis(1),
            seed,
            rng: Rng::from_u64(seed),
            hosts: Vec::new(),
            segments: Vec::new(),
            arrivals: BinaryHeap::new(),
            serial: 0,
            capture: None,
            interfaces: 0,
            burst: TxBurst::new(64),
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The run's randomness, for building it.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Records every frame from now on; call it before [`Net::attach`].
    pub fn start_capture(&mut self) {
        self.capture = Some(Capture::default());
    }

    /// What was recorded.
    pub fn capture(&self) -> Option<&Capture> {
        self.capture.as_ref()
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
        };
        let stack = Stack::new(config, pool.clone(), self.now);
        let (attachments, players) = (Vec::new(), Vec::new());
        self.hosts.push(Host { name: spec.name, stack, pool, attachments, players });
        HostId(self.hosts.len() - 1)
    }

    /// Adds a segment.
    pub fn add_segment(&mut self, spec: LinkSpec) -> SegmentId {
        self.segments.push(Segment { spec, stats: LinkStats::default() });
        SegmentId(self.segments.len() - 1)
    }

    /// Changes a segment's properties while the network runs.
    pub fn set_segment(&mut self, segment: SegmentId, spec: LinkSpec) {
        self.segments[segment.0].spec = spec;
    }

    /// What a segment did so far.
    pub fn link_stats(&self, segment: SegmentId) -> LinkStats {
        self.segments[segment.0].stats
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
        let index = self.hosts[host.0].attachments.len();
        let alias = AliasId(index as u16);
        let mac = [2, 0, 0, 0, host.0 as u8 + 1, index as u8 + 1];
        let medium = match spec.medium {
            Medium::Ethernet => AliasMedium::Ethernet { mac },
            Medium::Ip => AliasMedium::Ip,
        };
        let mut config = AliasConfig {
            id: alias,
            name: format!("data{index}"),
            medium,
            mtu: spec.host_mtu.unwrap_or(spec.mtu),
            gso_bytes_max: if spec.offload { 65_000 } else { 0 },
            tx_checksum: spec.offload,
            rx_checksum_trust: false,
            up: true,
            slaac: false,
        };
        configure(&mut config);
        if let Some(capture) = &mut self.capture {
            let ethernet = spec.medium == Medium::Ethernet;
            capture.interface(&format!("{}.{}", self.hosts[host.0].name, config.name), ethernet);
        }
        self.change(host, Change::AliasAdd(config));
        let (way, interface) = (Direction::default(), self.interfaces);
        self.interfaces += 1;
        let attachment = Attachment { alias, segment: segment.0, mac, way, interface };
        self.hosts[host.0].attachments.push(attachment);
        for address in addresses {
            let cidr = address.parse().unwrap_or_else(|e| panic!("{e}"));
            self.change(host, Change::AddressAdd { alias, cidr });
        }
        alias
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
        let now = self.now;
        let stack = &mut self.hosts[host.0].stack;
        stack.handle_config(now, change).unwrap_or_else(|e| panic!("{e}"));
        self.service(host.0);
    }

    /// Puts an application on a host and starts it.
    pub fn add_actor(&mut self, host: HostId, actor: impl Actor + 'static) {
        let rng = Rng::from_u64(self.rng.next_u64());
        let player = Player { actor: Box::new(actor), rng, wake_at: Some(self.now) };
        self.hosts[host.0].players.push(player);
        self.service(host.0);
    }

    /// A host's stack.
    pub fn stack(&self, host: HostId) -> &Stack {
        &self.hosts[host.0].stack
    }

    /// Lets `f` use a host's stack, and carries out what follows from it.
    pub fn with_stack<T>(&mut self, host: HostId, f: impl FnOnce(&mut Stack, Instant) -> T) -> T {
        let result = f(&mut self.hosts[host.0].stack, self.now);
        self.service(host.0);
        result
    }

    /// A frame from nowhere arrives at a host now.
    pub fn inject(&mut self, host: HostId, alias: AliasId, frame: &[u8]) {
        let frame = Frame::from_heap(HEADROOM_BYTES, frame);
        self.hosts[host.0].stack.handle_frame(self.now, alias, frame);
        self.service(host.0);
    }

    /// Takes the actors off their hosts and aborts every socket that is left.
    pub fn close_all(&mut self) {
        for host in 0..self.hosts.len() {
            let Host { stack, players, .. } = &mut self.hosts[host];
            players.clear();
            let mut open = Vec::new();
            stack.for_each_socket(|s| open.push(s.id));
            for id in open {
                match id.kind {
                    SocketKind::Udp => stack.udp_close(id),
                    SocketKind::TcpListener => stack.tcp_close(self.now, id),
                    SocketKind::TcpStream => stack.tcp_abort(self.now, id),
                }
            }
            self.service(host);
        }
    }

    /// Whether every actor is done.
    pub fn all_done(&self) -> bool {
        self.hosts.iter().flat_map(|h| &h.players).all(|p| p.actor.done())
    }

    /// What the actors found wrong.
    pub(crate) fn verdicts(&self) -> Result<(), String> {
        for host in &self.hosts {
            for player in &host.players {
                player.actor.verdict().map_err(|e| format!("{}: {e}", host.name))?;
            }
        }
        Ok(())
    }

    /// Moves to the next thing that happens, at `until` at the latest. `false`: nothing did.
    fn step(&mut self, until: Instant) -> bool {
        let wakes = |h: &Host| h.players.iter().filter_map(|p| p.wake_at).min();
        let host_next = |h: &Host| h.stack.poll_timeout().into_iter().chain(wakes(h)).min();
        let timer = self.hosts.iter().enumerate().filter_map(|(i, h)| Some((host_next(h)?, i)));
        let timer = timer.min();
        let arrival = self.arrivals.peek().map(|Reverse(a)| a.at);
        let next = timer.map(|t| t.0).into_iter().chain(arrival).min();
        let Some(next) = next.filter(|at| *at <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        if arrival.is_some_and(|at| at <= next)
            && let Some(Reverse(arrival)) = self.arrivals.pop()
        {
            self.deliver(&arrival);
        } else if let Some((_, host)) = timer {
            self.hosts[host].stack.handle_timeout(self.now);
            self.service(host);
        }
        true
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

    fn deliver(&mut self, arrival: &Arrival) {
        let host = &mut self.hosts[arrival.host];
        let data = &arrival.wire.data;
        let frame = host.pool.alloc().filter(|f| f.tailroom() >= data.len());
        let mut frame =
            frame.unwrap_or_else(|| Frame::heap_with_capacity(HEADROOM_BYTES, data.len()));
        frame.append(data);
        frame.meta = arrival.wire.meta;
        if let Some(capture) = &mut self.capture
            && let Some(a) = host.attachments.iter().find(|a| a.alias == arrival.alias)
        {
            capture.frame(a.interface, self.now.as_nanos(), data);
        }
        host.stack.handle_frame(self.now, arrival.alias, frame);
        self.service(arrival.host);
    }

    /// Runs a host's actors and sends its frames until it has nothing to do in this instant.
    ///
    /// # Panics
    /// If it does not come to rest.
    fn service(&mut self, host: usize) {
        for _ in 0..ROUNDS_MAX {
            let played = self.play(host);
            let sent = self.transmit(host);
            if !played && !sent {
                return;
            }
        }
        panic!("{} does not come to rest at {:?}", self.hosts[host].name, self.now);
    }

    fn play(&mut self, host: usize) -> bool {
        let Host { stack, players, .. } = &mut self.hosts[host];
        let mut played = false;
        let now = self.now;
        for player in players.iter_mut().filter(|p| p.wake_at.is_some_and(|at| at <= now)) {
            player.wake_at = None;
            let wake_at = &mut player.wake_at;
            player.actor.run(&mut Io { stack, now, rng: &mut player.rng, wake_at }, None);
            played = true;
        }
        while let Some(event) = stack.poll_event() {
            played = true;
            run_all(stack, players, now, &event);
        }
        played
    }

    fn transmit(&mut self, host: usize) -> bool {
        let mut burst = std::mem::take(&mut self.burst);
        let sent = self.hosts[host].stack.poll_transmit(self.now, &mut burst) > 0;
        for (alias, frame) in burst.frames.drain(..) {
            self.carry(host, alias, &frame);
        }
        self.burst = burst;
        sent
    }

    /// A frame leaves a host.
    fn carry(&mut self, from: usize, alias: AliasId, frame: &Frame) {
        let mut data = vec![0; frame.total_len()];
        frame.copy_to(&mut data);
        let mut wire = Wire { data, meta: frame.meta };
        wire.meta.network_offset = 0;
        let sender = self.hosts[from].attachments.iter_mut().find(|a| a.alias == alias);
        let Some(sender) = sender else { return };
        let Segment { spec, stats } = &mut self.segments[sender.segment];
        if !spec.offload {
            let offloaded = wire.meta.checksum != Checksum::Complete;
            assert!(!offloaded, "a frame for a plain link leaves work to the device");
        }
        if let Some(capture) = &mut self.capture {
            capture.frame(sender.interface, self.now.as_nanos(), &wire.data);
        }
        let arrivals = spec.pass(&mut sender.way, stats, &mut self.rng, self.now, &mut wire);
        let (segment, ethernet) = (sender.segment, spec.medium == Medium::Ethernet);
        let dst: [u8; 6] = std::array::from_fn(|i| wire.data.get(i).copied().unwrap_or(0));
        let to_all = !ethernet || dst[0] & 1 != 0;
        for (host, h) in self.hosts.iter().enumerate() {
            for a in h.attachments.iter().filter(|a| a.segment == segment) {
                let self_sent = host == from && a.alias == alias;
                if self_sent || !(to_all || a.mac == dst) {
                    continue;
                }
                for at in &arrivals {
                    self.serial += 1;
                    let (serial, alias, wire) = (self.serial, a.alias, wire.clone());
                    self.arrivals.push(Reverse(Arrival { at: *at, serial, host, alias, wire }));
                }
            }
        }
    }
}

fn run_all(stack: &mut Stack, players: &mut [Player], now: Instant, event: &Event) {
    for player in players {
        let wake_at = &mut player.wake_at;
        player.actor.run(&mut Io { stack, now, rng: &mut player.rng, wake_at }, Some(event));
    }
}

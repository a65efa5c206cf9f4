//! One vserver flooded, another not; the clock of processing time is the tests' own.

use std::cell::Cell;
use std::net::SocketAddr;

use weft_drivers::device::{AnyDevice, Device, Medium};
use weft_drivers::mem::{MemConfig, pair};
use weft_stack::Stack;
use weft_stack::drop::DropReason;
use weft_stack::ip::address::{AliasConfig, AliasMedium};
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, StackConfig};
use weft_stack::wire::checksum;

use weft_interface::LinkId;

use super::super::{AliasPlace, Core, Nic, Node};
use super::*;
use crate::app::{Cx, Service};
use crate::demux::Demux;

const ALIAS: AliasId = AliasId(0);
const START: Instant = Instant::from_millis(1);
pub(super) const A: u32 = 0;
pub(super) const B: u32 = 1;

thread_local! {
    static US: Cell<u64> = const { Cell::new(1) };
    /// Of these, the thread did not run.
    static AWAY_US: Cell<u64> = const { Cell::new(0) };
}

fn us() -> u64 {
    US.get()
}

fn ran_ns() -> u64 {
    (US.get() - AWAY_US.get()) * 1000
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) far: AnyDevice,
    sockets: Vec<SocketId>,
    pub(super) now: Instant,
}

fn alias() -> AliasConfig {
    AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip)
}

/// A packet to a vserver, its checksums right.
pub(super) fn ip(vserver: u32, protocol: u8, flags_offset: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 200, 10, 0, 0];
    p.push(vserver as u8 + 1);
    p[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    p[6..8].copy_from_slice(&flags_offset.to_be_bytes());
    p.extend(payload);
    if protocol == 6 {
        let to = [10, 0, 0, vserver as u8 + 1].into();
        let pseudo = checksum::pseudo_v4([10, 0, 0, 200].into(), to, 6, payload.len());
        let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(payload)));
        p[36..38].copy_from_slice(&sum.to_be_bytes());
    }
    World::seal(p)
}

/// A datagram to port 9 of a vserver, whose payload is `number`.
pub(super) fn datagram(vserver: u32, number: u32) -> Vec<u8> {
    let header = [0x10, 0, 0, 9, 0, 12, 0, 0];
    ip(vserver, 17, 0x4000, &[&header[..], &number.to_be_bytes()].concat())
}

impl World {
    /// Writes the checksum of an IPv4 header.
    pub(super) fn seal(mut packet: Vec<u8>) -> Vec<u8> {
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// Vservers with the limits given and 10.0.0.1, .2, ... on one NIC, each with a UDP socket.
    pub(super) fn new(limits: &[Limits]) -> World {
        let config = MemConfig { medium: Medium::Ip, queue_frames: 4096, ..MemConfig::default() };
        let config = MemConfig { pool_frames: 16_384, ..config };
        let (near, far) = pair(&config).unwrap();
        let mut demux = Demux::default();
        demux.add_link();
        demux.add_alias(0, ALIAS, None);
        let places = vec![AliasPlace { on: LinkId(0), mtu: None, mac: None }];
        let mut core = Core::new(vec![Nic::new(vec![Box::new(near)])], places, demux);
        core.shares = Shares::with_clocks(us, ran_ns);
        let mut sockets = Vec::new();
        for (index, limits) in limits.iter().enumerate() {
            core.demux.attach(ALIAS, index as u32);
            let config = StackConfig { limits: limits.clone(), ..StackConfig::default() };
            let pool = core.nics[0].pool.clone();
            let mut stack = Stack::with_path(config, pool, START, weft_shim::layer::Layer::off());
            let cidr = format!("10.0.0.{}/24", index + 1).parse().unwrap();
            for change in [Change::AliasAdd(alias()), Change::AddressAdd { alias: ALIAS, cidr }] {
                stack.handle_config(START, change).unwrap();
            }
            sockets.push(stack.udp_bind(START, "0.0.0.0:9".parse().unwrap()).unwrap());
            core.nodes.push(Node::new(stack, vec![0]));
            core.mark_dirty(index as u32);
        }
        let mut world = World { core, far: Box::new(far), sockets, now: START };
        while world.core.turn(world.now) {}
        world.core.shares.active = false;
        world
    }

    pub(super) fn send(&mut self, packets: impl IntoIterator<Item = Vec<u8>>) {
        let mut frames: VecDeque<Frame> =
            packets.into_iter().map(|p| Frame::from_heap(0, &p)).collect();
        self.far.transmit(&mut frames).unwrap();
        assert!(frames.is_empty(), "the wire is too short for the test");
    }

    pub(super) fn turn(&mut self) -> bool {
        self.now += Duration::from_micros(10);
        self.core.turn(self.now)
    }

    pub(super) fn share(&self, vserver: u32) -> &Share {
        &self.core.nodes[vserver as usize].share
    }

    pub(super) fn stats(&self, vserver: u32) -> ShareStats {
        self.core.shares.stats_of(self.share(vserver))
    }

    pub(super) fn socket(&self, vserver: u32) -> SocketId {
        self.sockets[vserver as usize]
    }

    fn received(&self, vserver: u32) -> u64 {
        self.core.nodes[vserver as usize].stack.mib().udp.in_datagrams
    }

    /// Numbers of the datagrams that came since the last call.
    pub(super) fn numbers(&mut self, vserver: u32) -> Vec<u32> {
        let (stack, id) =
            (&mut self.core.nodes[vserver as usize].stack, self.sockets[vserver as usize]);
        let next = || stack.udp_recv(id).ok();
        let number = |d: weft_stack::socket::udp::Datagram| {
            u32::from_be_bytes(d.payload[..4].try_into().unwrap())
        };
        std::iter::from_fn(next).map(number).collect()
    }

    pub(super) fn check(&self) {
        for node in &self.core.nodes {
            node.stack.mib().check_sums().unwrap();
        }
    }
}

pub(super) fn usual() -> Limits {
    Limits::default()
}

#[test]
fn what_is_for_one_does_not_wait_behind_what_is_for_another() {
    let mut w = World::new(&[usual(), usual()]);
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    w.send((1..400).map(|n| datagram(B, n)).chain([datagram(A, 0)]));
    w.send((400..450).map(|n| datagram(B, n)));
    w.turn();
    assert_eq!(w.received(A), 2, "in the first round");
    assert_eq!(w.received(B), 1 + 64);
    assert_eq!(w.share(B).waiting(), 385);
    while w.turn() {}
    assert_eq!(w.received(B), 450);
    assert_eq!(w.numbers(B), (0..450).collect::<Vec<_>>(), "in their order");
    assert_eq!(w.share(B).waiting(), 0);
    w.check();
}

#[test]
fn a_flood_costs_its_vserver_frames_and_nobody_else() {
    let mut w = World::new(&[usual(), usual()]);
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    for round in 1..100 {
        w.send((0..500).map(|_| datagram(B, 0)));
        w.send([datagram(A, round)]);
        w.turn();
        assert_eq!(w.numbers(A), if round == 1 { vec![0, 1] } else { vec![round] });
        w.numbers(B);
        assert!(w.share(B).waiting() <= 1024);
    }
    let lost = w.core.nodes[B as usize].stack.mib().drops.get(DropReason::InputQueueFull);
    let waiting = w.share(B).waiting() as u64;
    assert_eq!(1 + 99 * 500, w.received(B) + lost + waiting, "every frame has a fate");
    assert!((64 * 98..=64 * 100).contains(&w.received(B)), "{} of B", w.received(B));
    assert_eq!(w.core.nodes[A as usize].stack.mib().drops.total(), 0);
    assert_eq!(w.stats(B).queued_max, 1024);
    w.check();
}

#[test]
fn who_has_little_to_do_is_answered_before_a_backlog_is_worked_off() {
    let mut w = World::new(&[usual(), usual()]);
    let closed = |vserver| ip(vserver, 17, 0x4000, &[16, 0, 0, 99, 0, 8, 0, 0]);
    w.send([closed(A), closed(B)]);
    w.turn();
    w.send((0..400).map(|n| datagram(B, n)));
    w.turn();
    let mut sent = Vec::new();
    while w.far.receive(&mut sent, 64).unwrap() > 0 {}
    sent.clear();
    w.send((0..40).map(|_| closed(B)).chain([closed(A)]));
    while w.share(B).waiting() > 0 || !w.core.dirty.is_empty() {
        w.turn();
    }
    w.far.receive(&mut sent, 64).unwrap();
    assert!(sent.len() > 1, "B is answered too");
    assert_eq!(sent[0].data()[15], 1, "and A before it");
}

#[test]
fn who_is_alone_waits_for_nobody() {
    let mut w = World::new(&[usual(), usual()]);
    for _ in 0..20 {
        w.send((0..64).map(|n| datagram(B, n)));
        w.turn();
        assert_eq!(w.numbers(B).len(), 64);
    }
    assert_eq!(w.stats(B), ShareStats::default(), "nothing was counted");
}

#[test]
fn rounds_are_shared_by_weight() {
    let mut w = World::new(&[Limits { weight: 300, ..usual() }, usual()]);
    for _ in 0..50 {
        w.send((0..250).flat_map(|n| [datagram(A, n), datagram(B, n)]));
        w.turn();
        w.numbers(A);
        w.numbers(B);
    }
    let (a, b) = (w.received(A) as f64, w.received(B) as f64);
    assert!((2.9..3.1).contains(&(a / b)), "{a} to {b}");
}

/// Spends ten milliseconds in each call.
pub(super) struct Slow;

impl Service for Slow {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.set_timer(Duration::from_micros(100), 0);
    }
    fn timer(&mut self, _: &mut Cx<'_>, _: u64) {
        US.set(US.get() + 10_000);
    }
}

#[test]
fn time_that_a_callback_took_too_long_is_paid_back() {
    let mut w = World::new(&[usual(), usual()]);
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    w.core.start_service(w.now, B, Box::new(Slow)).unwrap();
    while w.stats(B).us < 10_000 {
        w.send([datagram(A, 0)]);
        w.turn();
    }
    w.numbers(A);
    w.numbers(B);
    let mut rounds = 0;
    w.send([datagram(B, 7)]);
    while w.numbers(B).is_empty() {
        rounds += 1;
        w.send([datagram(A, rounds)]);
        w.turn();
        assert_eq!(w.numbers(A), [rounds], "A has every round");
        assert!(rounds < 1000);
    }
    assert!((195..=200).contains(&rounds), "10,000 us at 50 a round: {rounds}");
    assert_eq!(w.stats(B).us_max, 10_000);
    assert!(w.stats(B).rounds_owing > 0 && w.stats(A).rounds_owing == 0);
}

/// The thread loses its CPU in each call.
struct Preempted;

impl Service for Preempted {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.set_timer(Duration::from_micros(100), 0);
    }
    fn timer(&mut self, _: &mut Cx<'_>, _: u64) {
        US.set(US.get() + 10_030);
        AWAY_US.set(AWAY_US.get() + 10_000);
    }
}

#[test]
fn time_in_which_the_worker_did_not_run_is_nobodys() {
    let mut w = World::new(&[usual(), usual()]);
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    w.core.start_service(w.now, B, Box::new(Preempted)).unwrap();
    while w.stats(B).us_away == 0 {
        w.send([datagram(A, 0)]);
        w.turn();
    }
    w.numbers(B);
    w.send([datagram(A, 1), datagram(B, 7)]);
    w.turn();
    assert_eq!(w.numbers(B), [7], "it owes nothing");
    let stats = w.stats(B);
    assert!(
        (25..=35).contains(&stats.us) && (9_995..=10_005).contains(&stats.us_away),
        "{stats:?}"
    );
}

#[test]
fn a_debt_to_nobody_is_forgiven() {
    let mut w = World::new(&[usual(), usual()]);
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    w.core.start_service(w.now, B, Box::new(Slow)).unwrap();
    while w.stats(B).us < 10_000 {
        w.turn();
    }
    w.numbers(B);
    w.send([datagram(B, 7)]);
    w.turn();
    w.turn();
    assert_eq!(w.numbers(B), [7], "A had nothing to do meanwhile");
}

#[test]
fn what_a_vserver_sends_counts_too() {
    let mut w = World::new(&[usual(), usual()]);
    let to: SocketAddr = "10.0.0.99:9".parse().unwrap();
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    for _ in 0..10 {
        for vserver in [A, A, A, B] {
            let stack = &mut w.core.nodes[vserver as usize].stack;
            for _ in 0..100 {
                // Until its queue is full.
                let _ = stack.udp_send(w.now, w.sockets[vserver as usize], b"x", Some(to));
            }
            w.core.mark_dirty(vserver);
        }
        w.turn();
    }
    let sent = |v: u32| w.core.nodes[v as usize].stack.mib().frames.tx_frames;
    assert!(sent(A).abs_diff(sent(B)) <= 65, "{} and {}", sent(A), sent(B));
}

#[test]
fn what_was_used_in_a_second_is_told_in_the_next_one() {
    let at = |ms| Instant::from_millis(ms);
    let mut shares = Shares::with_clocks(us, ran_ns);
    let mut share = Share { weight: 300, ..Share::default() };
    shares.changes(at(1_000), A);
    shares.changes(at(1_000), B);
    shares.begin(at(1_100));
    shares.book(&mut share, 1_500);
    shares.book(&mut share, 500);
    assert_eq!(shares.used_last(at(1_900), &mut share), 0, "the second is not over");
    shares.begin(at(1_950));
    assert_eq!(shares.used_last(at(2_100), &mut share), 2_000);
    assert_eq!(shares.used_last(at(3_100), &mut share), 0, "it did nothing in the one before");
    assert_eq!((share.weight(), shares.stats_of(&share).us), (300, 2_000));
}

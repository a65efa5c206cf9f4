//! A whole run from one number: shape of the network, faults, options, transfers.
//!
//! Nothing in a scenario excuses a wrong byte, a lost timer, or memory that does not come back. A
//! transfer may fail only if one of its ends means to (aborts, closes early).

use std::fmt::Write as _;
use std::net::SocketAddr;

use weft_stack::ip::address::AliasId;
use weft_stack::rng::Rng;
use weft_stack::socket::tcp::{CongestionControl, TcpOption};
use weft_stack::stack::{Change, EcnMode, FastOpen, MtuProbing, SynCookies, TcpConfig};
use weft_stack::time::Duration;

use crate::fate::{Blackhole, Burst, GilbertElliott};
use crate::host::HostSpec;
use crate::link::{LinkSpec, Medium};
use crate::net::{HostId, Net, SegmentId};
use crate::peer::{Manner, Peer, Role};
use crate::queue::Discipline;
use crate::seeds;
use crate::timeline::Fault;
use crate::topology;

/// The longest a path is dead in a scenario.
const OUTAGE_MS_MAX: u64 = 8_000;
/// Every transfer moves within this time once the last fault is over: several timeouts, backed off
/// during the longest outage, lost one after another.
const STILL_MAX: Duration = Duration::from_mins(4);
/// A run takes no longer.
const RUN_MAX: Duration = Duration::from_hours(2);

/// What a scenario came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it was, in words.
    pub story: String,
    /// Things that happened.
    pub steps: u64,
    /// TCP segments judged by the witness.
    pub segments: u64,
    /// Virtual time it took.
    pub took: Duration,
    /// Transfers.
    pub transfers: usize,
    /// Of everything sent and come to, for [`run_traced`]; else 0.
    pub digest: u64,
}

/// The places of a built network.
struct Stage {
    net: Net,
    /// Hosts that may talk, and the attachments they have.
    ends: Vec<HostId>,
    attachments: usize,
    segments: Vec<SegmentId>,
    routers: Vec<HostId>,
    silent: bool,
    story: String,
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize]
}

fn one_in(rng: &mut Rng, n: u64) -> bool {
    rng.below(n) == 0
}

fn ms(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + rng.below(to - from))
}

/// Up to `max`, small values as likely as large ones.
fn log_uniform(rng: &mut Rng, max: u64) -> u64 {
    let bits = rng.below(65 - u64::from(max.leading_zeros()));
    rng.below((2 << bits).min(max + 1))
}

fn tcp(rng: &mut Rng) -> TcpConfig {
    let send_buffer = pick(rng, &[4_000, 16_000, 64_000, 1 << 20]);
    let recv_buffer = pick(rng, &[3_000, 8_000, 64_000, 1 << 20]);
    TcpConfig {
        send_buffer,
        send_buffer_max: send_buffer * pick(rng, &[1, 4]),
        recv_buffer,
        recv_buffer_max: recv_buffer * pick(rng, &[1, 4]),
        rto_ms_min: pick(rng, &[10, 50, 200, 1000]),
        time_wait_s: pick(rng, &[1, 60]),
        delayed_ack_ms: pick(rng, &[5, 40, 200]),
        congestion: pick(rng, &CongestionControl::ALL),
        pacing: !one_in(rng, 4),
        ecn: pick(rng, &[EcnMode::Off, EcnMode::Accept, EcnMode::Classic, EcnMode::Accurate]),
        fast_open: pick(rng, &[FastOpen::Off, FastOpen::Both]),
        syn_cookies: pick(rng, &[SynCookies::Pressure, SynCookies::Always, SynCookies::Off]),
        mtu_probing: pick(rng, &[MtuProbing::Off, MtuProbing::BlackHole, MtuProbing::Always]),
        ..TcpConfig::default()
    }
}

fn losses(rng: &mut Rng, spec: &mut LinkSpec) {
    let permille = |rng: &mut Rng, max: u64| rng.below(max + 1) as f64 / 1000.0;
    spec.loss = if one_in(rng, 2) { 0.0 } else { permille(rng, 50) };
    if one_in(rng, 5) {
        spec.gilbert = Some(GilbertElliott {
            to_bad: permille(rng, 10),
            to_good: 0.2 + permille(rng, 300),
            loss_good: 0.0,
            loss_bad: 0.8,
        });
    }
    if one_in(rng, 5) {
        spec.burst = Some(Burst { enter: permille(rng, 10), lasts: ms(rng, 1, 300), loss: 0.8 });
    }
    if one_in(rng, 3) {
        spec.reorder = permille(rng, 200);
        spec.reorder_delay = Duration::from_micros(100 + log_uniform(rng, 50_000));
    }
    if one_in(rng, 4) {
        spec.duplicate = permille(rng, 50);
    }
    if one_in(rng, 4) {
        spec.corrupt = permille(rng, 30);
    }
}

fn link(rng: &mut Rng) -> LinkSpec {
    let mut spec = LinkSpec {
        latency: Duration::from_micros(20 + log_uniform(rng, 60_000)),
        jitter: Duration::from_micros(if one_in(rng, 2) { 0 } else { log_uniform(rng, 5_000) }),
        rate: pick(rng, &[None, Some(1_000_000), Some(20_000_000), Some(1_000_000_000)]),
        queue_bytes: pick(rng, &[12_000, 40_000, 256_000]),
        discipline: discipline(rng),
        mtu: pick(rng, &[1280, 1400, 1500, 1500, 1500, 4000, 9000]),
        ..LinkSpec::default()
    };
    losses(rng, &mut spec);
    spec
}

fn discipline(rng: &mut Rng) -> Discipline {
    match rng.below(4) {
        0 => Discipline::Step(6_000 + rng.below(20_000) as usize),
        1 => Discipline::CoDel { target: ms(rng, 1, 10), interval: ms(rng, 20, 100) },
        2 => Discipline::Red { min: 5_000, max: 60_000, max_p: 0.1 },
        _ => Discipline::Tail,
    }
}

fn vary(rng: &mut Rng, spec: &mut HostSpec) {
    spec.tcp = tcp(rng);
    spec.frames = pick(rng, &[64, 512, 4096]);
}

fn build(seed: u64, rng: &mut Rng) -> Stage {
    let mut net = Net::new(seed);
    // Routers keep quiet about packets that are too long: paths have to be probed.
    let silent = one_in(rng, 4);
    net.vary_template(move |rng, spec| {
        vary(rng, spec);
        if silent && spec.tcp.mtu_probing == MtuProbing::Off {
            spec.tcp.mtu_probing = MtuProbing::BlackHole;
        }
    });
    let first = link(rng);
    let second = link(rng);
    let (shape, ends, attachments, segments, routers) = match rng.below(6) {
        0 | 1 => {
            let offload = one_in(rng, 3);
            let medium = pick(rng, &[Medium::Ethernet, Medium::Ip]);
            let p = topology::pair(&mut net, LinkSpec { offload, medium, ..first });
            ("pair", vec![p.left, p.right], 1, vec![p.segment], vec![])
        }
        2 => {
            let offload = one_in(rng, 3);
            let s =
                topology::star(&mut net, 3 + rng.below(3) as u32, LinkSpec { offload, ..first });
            ("star", s.hosts, 1, vec![s.segment], vec![])
        }
        3 => {
            let rate = first.rate.or(Some(10_000_000));
            let d =
                topology::dumbbell(&mut net, 2, LinkSpec::default(), LinkSpec { rate, ..first });
            let ends = [d.left, d.right].concat();
            ("dumbbell", ends, 1, vec![d.bottleneck], d.routers.to_vec())
        }
        4 => {
            let more = (0..rng.below(2)).map(|_| LinkSpec::default());
            let specs: Vec<_> = [first, second].into_iter().chain(more).collect();
            let c = topology::chain(&mut net, &specs);
            ("chain", vec![c.left, c.right], 1, c.segments, c.routers)
        }
        _ => {
            let m = topology::multi_homed(&mut net, [first, second]);
            ("two ways", vec![m.left, m.right], 2, m.segments.to_vec(), vec![])
        }
    };
    let mut stage = Stage {
        net,
        ends,
        attachments,
        segments,
        routers,
        silent,
        story: format!("{shape}: {first:?}"),
    };
    if one_in(rng, 4) {
        // The way back is another one.
        let host = stage.ends[0];
        let back = LinkSpec { mtu: first.mtu, offload: first.offload, ..link(rng) };
        let same = stage.net.segment(stage.segments[0]);
        if stage.routers.is_empty() {
            let back = LinkSpec { medium: same.medium, offload: same.offload, ..back };
            stage.net.set_egress(host, 0, Some(back));
            stage.say(format!("back: {back:?}"));
        }
    }
    stage
}

impl Stage {
    fn say(&mut self, what: impl AsRef<str>) {
        let _ = write!(self.story, "\n  {}", what.as_ref());
    }

    /// A fault and its end, before `last`.
    fn fault(&mut self, rng: &mut Rng) -> Duration {
        let begin = ms(rng, 0, 5_000);
        let lasts = Duration::from_millis(5 + log_uniform(rng, OUTAGE_MS_MAX));
        let segment = pick(rng, &self.segments);
        let spec = self.net.segment(segment);
        let host = pick(rng, &self.ends);
        let worse =
            |worse: LinkSpec| (Fault::Segment(segment, worse), Fault::Segment(segment, spec));
        let link = |up| {
            let alias = AliasId(0);
            Fault::Change(host, Change::AliasLink { alias, up, mtu: spec.mtu })
        };
        let (from, to) = match rng.below(8) {
            0 => worse(LinkSpec { blackhole: Blackhole::All, ..spec }),
            1 => worse(LinkSpec { blackhole: Blackhole::Longer(600), ..spec }),
            2 => worse(LinkSpec { loss: 0.4, reorder: 0.3, ..spec }),
            3 => worse(LinkSpec { rate: Some(100_000), queue_bytes: 8_000, ..spec }),
            4 => (Fault::ClockStall(host, lasts), Fault::ClockLeap(host, ms(rng, 1, 20))),
            5 => (Fault::ClockLeap(host, lasts * 3), Fault::ClockStall(host, ms(rng, 1, 50))),
            6 => (Fault::SeizeFrames(host, 1 << 20), Fault::ReleaseFrames(host)),
            _ if self.routers.is_empty() && spec.host_mtu.is_none() => (link(false), link(true)),
            _ => worse(LinkSpec { blackhole: Blackhole::IcmpErrors, ..spec }),
        };
        let story = format!("{begin:?} for {lasts:?}: {from:?}");
        self.say(story);
        self.net.at(begin, from);
        self.net.at(begin + lasts, to);
        begin + lasts
    }

    /// The path gets narrower in the middle, and its routers know.
    fn narrow(&mut self, rng: &mut Rng) -> Duration {
        let at = ms(rng, 0, 3_000);
        let Some(router) = self.routers.first().copied() else { return at };
        let spec = self.net.segment(self.segments[0]);
        // The first router's attachment to the first segment: 0 in a chain and in a dumbbell.
        let mtu = 1280.max(spec.mtu - rng.below(400) as usize);
        let change = Change::AliasLink { alias: AliasId(0), up: true, mtu };
        self.say(format!("{at:?}: {} sends {mtu} bytes at most", self.net.host_name(router)));
        self.net.at(at, Fault::Change(router, change));
        if self.silent {
            self.say("and nobody hears of it");
            for segment in &self.segments {
                let spec = self.net.segment(*segment);
                let silent = LinkSpec { blackhole: Blackhole::IcmpErrors, ..spec };
                self.net.at(at, Fault::Segment(*segment, silent));
            }
        }
        at
    }

    fn transfer(&mut self, rng: &mut Rng, number: u64) {
        let a = rng.below(self.ends.len() as u64) as usize;
        let mut b = rng.below(self.ends.len() as u64 - 1) as usize;
        b += usize::from(b >= a);
        let way = rng.below(self.attachments as u64) as usize;
        let (client, server) = (self.ends[a], self.ends[b]);
        let address = self.net.address(server, way, one_in(rng, 2));
        let remote = SocketAddr::new(address, 1000 + number as u16);
        let max = pick(rng, &[2_000, 60_000, 60_000, 400_000]);
        let (up, down) = (log_uniform(rng, max), log_uniform(rng, max));
        let (mut cm, mut sm) = (manner(rng, up + down), manner(rng, up + down));
        // A listener must be there first.
        cm.start_after += sm.start_after + Duration::from_millis(1_500);
        let leaves = |m: &Manner| m.abort_after.is_some() || m.close_after.is_some();
        let forgiving = leaves(&cm) || leaves(&sm);
        (cm.forgiving, sm.forgiving) = (forgiving, forgiving);
        self.say(format!("{remote}: {up} up {cm:?}, {down} down {sm:?}"));
        let (c, s) = (number * 2, number * 2 + 1);
        let peer = Peer::new(Role::Server(remote), s, c).sending(down).expecting(up);
        self.net.add_actor(server, peer.behaving(sm));
        let peer = Peer::new(Role::Client(remote), c, s).sending(up).expecting(down);
        self.net.add_actor(client, peer.behaving(cm));
    }
}

/// An option that leaves a transfer whole.
fn option(rng: &mut Rng) -> TcpOption {
    match rng.below(12) {
        0 => TcpOption::Cork(true),
        1 => TcpOption::QuickAck(one_in(rng, 2)),
        2 => TcpOption::KeepAlive(Some((ms(rng, 500, 5_000), ms(rng, 500, 2_000), 60))),
        3 => TcpOption::DeferAccept(Some(ms(rng, 100, 5_000))),
        4 => TcpOption::NotSentLowat(Some(1 + rng.below(20_000) as usize)),
        5 => TcpOption::PacingRateMax(Some(20_000 + log_uniform(rng, 10_000_000))),
        6 => TcpOption::MaxSegment(Some(200 + rng.below(1_300) as u16)),
        7 => TcpOption::TrafficClass(rng.next_u32() as u8),
        8 => TcpOption::HopLimit(Some(10)),
        _ => TcpOption::NoDelay(true),
    }
}

fn manner(rng: &mut Rng, total: u64) -> Manner {
    let mut m = Manner { start_after: ms(rng, 0, 1_500), ..Manner::default() };
    if one_in(rng, 3) {
        m.options.push(TcpOption::Congestion(pick(rng, &CongestionControl::ALL)));
    }
    for _ in 0..rng.below(3) {
        m.options.push(option(rng));
    }
    if one_in(rng, 6) {
        m.options.push(TcpOption::SendBuffer(2_048 + rng.below(60_000) as usize));
    }
    if one_in(rng, 8) {
        m.options.push(TcpOption::RecvBuffer(2_048 + rng.below(60_000) as usize));
    }
    match rng.below(10) {
        0 => m.read_pause = Some(ms(rng, 1, 200)),
        1 | 2 => m.read_stall = Some((rng.below(total + 1), ms(rng, 10, 8_000))),
        _ => {}
    }
    if one_in(rng, 5) {
        // Small pieces, but not for ever.
        let most = 1 + log_uniform(rng, 4_000) + total / 300;
        m.write_pieces = Some((most, Duration::from_micros(log_uniform(rng, 30_000))));
    }
    match rng.below(16) {
        0 => m.abort_after = Some(rng.below(total + 1)),
        1 => m.close_after = Some(rng.below(total + 1)),
        _ => {}
    }
    m
}

/// Runs the scenario of `seed`: half of them with several connections, a third without faults that
/// have a date.
pub fn run(seed: u64) -> Result<Report, String> {
    run_as(seed, None)
}

/// The same with a digest; `predict`: whether predicted segments take the short way up.
pub fn run_traced(seed: u64, predict: bool) -> Result<Report, String> {
    run_as(seed, Some(predict))
}

fn run_as(seed: u64, traced: Option<bool>) -> Result<Report, String> {
    let mut rng = Rng::from_u64(seed ^ 0x5ce7_a210);
    let mut stage = build(seed, &mut rng);
    if let Some(predict) = traced {
        stage.net.start_trace(predict);
    }
    let transfers = if one_in(&mut rng, 2) { 1 } else { 2 + rng.below(4) };
    for number in 0..transfers {
        stage.transfer(&mut rng, number);
    }
    let faults = rng.below(4).saturating_sub(1);
    let mut healed = Duration::from_secs(4);
    for _ in 0..faults {
        healed = healed.max(stage.fault(&mut rng));
    }
    if one_in(&mut rng, 3) {
        healed = healed.max(stage.narrow(&mut rng));
    }
    if seeds::replaying() {
        eprintln!("{}", stage.story);
    }
    let Stage { mut net, story, .. } = stage;
    let outcome = to_the_end(&mut net, healed);
    outcome.map_err(|e| format!("{e}\n{story}"))?;
    Ok(Report {
        story,
        steps: net.steps(),
        segments: net.judged(),
        took: net.now() - <_>::default(),
        transfers: transfers as usize,
        digest: net.digest(),
    })
}

fn to_the_end(net: &mut Net, healed: Duration) -> Result<(), String> {
    net.run_until(healed, |_| false);
    let end = net.now() + RUN_MAX;
    while !net.all_done() {
        let before = net.unfinished();
        net.run_until(STILL_MAX, Net::all_done);
        net.check_so_far()?;
        let after = net.unfinished();
        if let Some((actor, come)) = before.iter().find(|b| after.contains(b)) {
            return Err(format!(
                "{:?} has not moved from {come} in {STILL_MAX:?}; now is {:?}",
                actor,
                net.now()
            ));
        }
        if net.now() > end {
            return Err(format!("not finished at {:?}", net.now()));
        }
    }
    net.check_at_rest()
}

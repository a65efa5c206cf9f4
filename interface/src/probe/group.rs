//! The prober of one failover group: its members, and when what has to be done.

use std::collections::VecDeque;
use std::net::IpAddr;

use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use super::bfd;
use super::config::{ProbeConfig, ProbeMember, TestAddress};
use super::event::{ProbeEvent, ProbeNotice};
use super::far::Far;
use super::fast::{self, BfdCounters, FastSession};
use super::path::{Path, ProbeTarget, TARGETS_MAX, TargetSource};
use super::report::ProbeCounters;
use super::verdict::ProbeVerdict;
use crate::Mac;
use crate::fail::ProbeMode;
use crate::fail::config::DETECT_MIN;

/// Frames that wait to be sent; more are lost, and counted.
const QUEUE_MAX: usize = 512;
/// Lines of the stream of probes that nobody took; older ones are lost, and counted.
const EVENTS_MAX: usize = 1024;
/// Members of a group.
pub const PROBE_MEMBERS_MAX: usize = 64;
/// Answers to other hosts (echo, ARP, ND) in a second, of each member.
pub(super) const ANSWERS_PER_S: u64 = 1000;
/// After its own question another host's answer within this time is a conflict.
pub(super) const DUPLICATE_WAIT: Duration = Duration::from_secs(1);
/// A duplicate test address is looked at again after this.
pub(super) const DUPLICATE_REST: Duration = Duration::from_mins(1);
/// A detection time that was raised is not lowered for this time.
pub(super) const LOWER_AFTER: Duration = Duration::from_mins(1);

/// Positions of the paths of a member.
pub(super) const V4: usize = 0;
pub(super) const V6: usize = 1;
pub(super) const PEERS: usize = 2;

pub(super) fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// How a path of a member is probed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Echo from the test address.
    Echo(IpAddr),
    /// ARP or ND from a data address, or from none.
    Resolve(Option<IpAddr>),
    /// Through other members.
    Peers,
}

/// A test address, in use or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) test: TestAddress,
    /// Another has it: looked at again then.
    pub(super) duplicate: Option<Instant>,
    /// Asked for by us until then.
    pub(super) asking_until: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) mac: Mac,
    /// By family.
    pub(super) held: [Option<Held>; 2],
    pub(super) binding: [Option<IpAddr>; 2],
    pub(super) up: bool,
    pub(super) offline: bool,
    /// Losses do not count before.
    pub(super) quiet_until: Option<Instant>,
    /// An answer came since the link is up.
    pub(super) heard: bool,
    pub(super) failed: bool,
    pub(super) failed_fast: bool,
    /// Since when, while failed.
    pub(super) first_loss: Option<Instant>,
    pub(super) last_success: Option<Instant>,
    pub(super) paths: [Path; 3],
    answers: (Instant, u64),
}

/// The prober of one failover group. After each call take frames, events and verdicts.
#[derive(Clone, Debug)]
pub struct Prober {
    pub(super) config: ProbeConfig,
    pub(super) members: Vec<Member>,
    pub(super) sessions: Vec<FastSession>,
    pub(super) routers: Vec<IpAddr>,
    pub(super) far: Vec<Far>,
    pub(super) beyond: VecDeque<(IpAddr, bool)>,
    /// MAC addresses of routers to what is beyond.
    pub(super) gates: Vec<(IpAddr, Mac)>,
    /// Between two probes of a path, now.
    pub(super) interval: Duration,
    pub(super) raised_at: Option<Instant>,
    pub(super) rng: Rng,
    queue: VecDeque<(usize, Vec<u8>)>,
    events: VecDeque<ProbeEvent>,
    notices: VecDeque<ProbeNotice>,
    pub(super) counters: ProbeCounters,
    pub(super) bfd_counters: BfdCounters,
    pub(super) now: Instant,
}

impl Prober {
    /// A prober of these members, in the order of the group (at most [`PROBE_MEMBERS_MAX`]). No
    /// member has a link yet. `seed` is random.
    pub fn new(config: &ProbeConfig, members: &[ProbeMember], seed: u64) -> Prober {
        let mut rng = Rng::from_u64(seed);
        let mut prober = Prober {
            config: config.clone(),
            members: Vec::new(),
            sessions: Vec::new(),
            routers: Vec::new(),
            far: Vec::new(),
            beyond: VecDeque::new(),
            gates: Vec::new(),
            interval: Duration::ZERO,
            raised_at: None,
            queue: VecDeque::new(),
            events: VecDeque::new(),
            notices: VecDeque::new(),
            counters: ProbeCounters::default(),
            bfd_counters: BfdCounters::default(),
            now: Instant::ZERO,
            rng: Rng::from_u64(rng.next_u64()),
        };
        prober.interval = prober.user_interval();
        for (i, member) in members.iter().take(PROBE_MEMBERS_MAX).enumerate() {
            let id = rng.next_u32() as u16;
            let paths = [id, id ^ 0x5555, id ^ 0xaaaa].map(Path::new);
            let held = prober.held(i, member);
            prober.members.push(Member {
                mac: member.mac,
                held,
                binding: [None; 2],
                up: false,
                offline: false,
                quiet_until: None,
                heard: false,
                failed: false,
                failed_fast: false,
                first_loss: None,
                last_success: None,
                paths,
                answers: (Instant::ZERO, 0),
            });
        }
        if let Some(fast) = &config.fast {
            let all = prober.members.iter().enumerate();
            let held = all.flat_map(|(i, m)| {
                m.held
                    .iter()
                    .flatten()
                    .filter(|h| h.duplicate.is_none())
                    .map(move |h| (i, h.test.address))
            });
            prober.sessions = fast::sessions(fast, held, &mut rng);
        }
        let id = rng.next_u32() as u16;
        let numbered = (0..).zip(&config.beyond).take(crate::fail::config::TARGETS_MAX);
        prober.far = numbered.map(|(i, to)| Far::new(*to, id.wrapping_add(i))).collect();
        prober.counters.beyond_unused = (config.beyond.len() - prober.far.len()) as u64;
        prober.rebuild_targets();
        prober
    }

    /// The test addresses of a member that can be used, by family.
    fn held(&mut self, index: usize, member: &ProbeMember) -> [Option<Held>; 2] {
        let mut out = [None; 2];
        for test in &member.test {
            let usable = match test.address {
                IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            let slot = family(test.address);
            if !usable || out[slot].is_some() {
                self.counters.test_addresses_unused += 1;
                continue;
            }
            let mut held = Held { test: *test, duplicate: None, asking_until: Instant::ZERO };
            if self.members.iter().any(|m| m.has(test.address)) {
                // Two members: this can end by a new configuration only.
                held.duplicate = Some(Instant::from_nanos(u64::MAX - 1));
                self.notify(ProbeNotice::DuplicateTestAddress {
                    member: index,
                    address: test.address,
                });
            }
            out[slot] = Some(held);
        }
        out
    }

    /// Routers of routes: whom to probe if no targets are configured, and the way to those beyond.
    pub fn handle_routers(&mut self, now: Instant, routers: &[IpAddr]) {
        let routers: Vec<_> = routers.iter().copied().take(TARGETS_MAX).collect();
        if routers != self.routers {
            self.gates.retain(|gate| routers.contains(&gate.0));
            self.routers = routers;
            self.rebuild_targets();
        }
        self.run(now);
    }

    /// The link of a member came or went.
    pub fn handle_link(&mut self, now: Instant, member: usize, up: bool) {
        if self.members.get(member).is_some_and(|m| m.up != up) {
            self.members[member].up = up;
            self.restart(now, member);
        }
        self.run(now);
    }

    /// The operator takes a member out, or back: it is not probed, BFD tells the peers so.
    pub fn handle_offline(&mut self, now: Instant, member: usize, offline: bool) {
        if self.members.get(member).is_some_and(|m| m.offline != offline) {
            self.members[member].offline = offline;
            for session in self.sessions.iter_mut().filter(|s| s.member == member) {
                session.session.set_admin_down(now, offline);
            }
            self.restart(now, member);
        }
        self.run(now);
    }

    /// The data addresses that a member is reached by, from which it may ask: IPv4, IPv6.
    pub fn handle_bindings(&mut self, now: Instant, member: usize, bound: [Option<IpAddr>; 2]) {
        if let Some(member) = self.members.get_mut(member) {
            member.binding = bound;
        }
        self.run(now);
    }

    /// What nobody has taken of a prober that this one takes the place of.
    pub(super) fn take_queues(&mut self, old: &mut Prober) {
        // Frames and lines of probes name members by their former positions.
        self.counters.frames_lost += old.queue.len() as u64;
        self.counters.events_lost += old.events.len() as u64;
        self.beyond = std::mem::take(&mut old.beyond);
    }

    /// Begins anew after a change of link or use.
    pub(super) fn restart(&mut self, now: Instant, index: usize) {
        let member = &mut self.members[index];
        let used = member.up && !member.offline;
        if used {
            member.quiet_until = Some(now + self.config.quiet);
        } else if member.heard && !member.offline {
            // What is back has to prove itself as after lost probes.
            member.failed = true;
            member.first_loss.get_or_insert(now);
        }
        member.heard = false;
        member.paths.iter_mut().for_each(Path::stop);
        if !used {
            return;
        }
        for held in self.members[index].held.iter_mut().flatten() {
            held.asking_until = now + DUPLICATE_WAIT;
        }
        for slot in [V4, V6] {
            if let Some(held) = self.members[index].held[slot] {
                self.ask_for_duplicates(index, held.test.address);
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.run(now);
    }

    /// Does what is due.
    pub(super) fn run(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let now = self.now;
        self.flush_dead_hosts();
        for index in 0..self.members.len() {
            self.recheck_duplicates(now, index);
            for slot in [V4, V6, PEERS] {
                self.expire(now, index, slot);
                self.send_due(now, index, slot);
            }
        }
        for at in 0..self.far.len() {
            self.run_far(now, at);
        }
        self.run_sessions(now);
        for index in 0..self.members.len() {
            self.judge(index);
        }
    }

    /// When [`Prober::handle_timeout`] has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let paths = self.members.iter().flat_map(|m| &m.paths);
        let probes =
            paths.flat_map(|p| [p.send_at, p.measure_at, p.next_deadline()].into_iter().flatten());
        let duplicates = self.members.iter().filter(|m| m.up).flat_map(|m| {
            m.held.iter().flatten().filter_map(|h| Some(h.duplicate?.max(h.asking_until)))
        });
        let sessions = self.sessions.iter().filter_map(|s| s.session.poll_timeout());
        let far = self.far.iter().filter_map(Far::poll_timeout);
        probes.chain(duplicates).chain(sessions).chain(far).min()
    }

    /// A frame to send as it is, and the member to send it on.
    pub fn poll_transmit(&mut self) -> Option<(usize, Vec<u8>)> {
        self.queue.pop_front()
    }

    /// The stream of probes, in order.
    pub fn poll_probe_event(&mut self) -> Option<ProbeEvent> {
        self.events.pop_front()
    }

    /// What changed, in order.
    pub fn poll_notice(&mut self) -> Option<ProbeNotice> {
        self.notices.pop_front()
    }

    /// What the probes of a member say. Members that do not exist are disabled.
    pub fn verdict(&self, member: usize) -> ProbeVerdict {
        self.members.get(member).map_or_else(ProbeVerdict::default, |m| ProbeVerdict {
            state: self.state_of(member),
            first_loss: m.first_loss,
            last_success: self.reached(member),
        })
    }

    /// The failure detection time now: that of the configuration, or longer.
    pub fn detect(&self) -> Duration {
        self.interval * 7
    }

    /// Whether it is a test address of this member, to which ARP, ND and packets are for us.
    pub fn owns(&self, member: usize, address: IpAddr) -> bool {
        self.members.get(member).is_some_and(|m| m.has(address))
    }

    /// Between two probes if the targets are fast enough: five losses and what is around them.
    pub(super) fn user_interval(&self) -> Duration {
        self.config.detect.max(DETECT_MIN) / 7
    }

    /// How a path of a member is probed now; `None`: not at all.
    pub(super) fn way(&self, index: usize, slot: usize) -> Option<Way> {
        let member = &self.members[index];
        if !member.up || member.offline || self.config.method == ProbeMode::Link {
            return None;
        }
        if member.held.iter().flatten().next().is_some() {
            let held = member.held.get(slot)?.as_ref()?;
            return held.duplicate.is_none().then_some(Way::Echo(held.test.address));
        }
        let way = match self.config.method {
            ProbeMode::Link | ProbeMode::Icmp => return None,
            ProbeMode::Arp if slot == PEERS => return None,
            ProbeMode::Arp => Way::Resolve(member.binding[slot]),
            ProbeMode::Transitive => {
                let bound = member.binding.iter().flatten().next().is_some();
                let through_peers = !bound && self.has_good_peer(index);
                match (slot, through_peers) {
                    (PEERS, true) => Way::Peers,
                    (PEERS, false) | (_, true) => return None,
                    // Bound, or nobody to go through: itself.
                    (_, false) => Way::Resolve(member.binding[slot]),
                }
            }
        };
        Some(way)
    }

    /// Whether another member works as far as is known, to go through it.
    fn has_good_peer(&self, index: usize) -> bool {
        (0..self.members.len()).any(|other| other != index && self.is_good_peer(other))
    }

    /// It reaches its targets itself; if nobody has any, it has a link.
    pub(super) fn is_good_peer(&self, index: usize) -> bool {
        let member = &self.members[index];
        if !member.up || member.offline || member.failed {
            return false;
        }
        let direct = |m: &Member| m.paths[..PEERS].iter().any(|p| !p.targets.is_empty());
        if !self.members.iter().any(direct) {
            return true;
        }
        let stands = member.held.iter().flatten().next().is_some()
            || member.binding.iter().flatten().next().is_some();
        stands && member.paths[..PEERS].iter().any(|p| p.run(None).acked > 0)
    }

    /// Gives every path the targets that it should have; what was known of them is kept.
    pub(super) fn rebuild_targets(&mut self) {
        for index in 0..self.members.len() {
            for slot in [V4, V6] {
                let wanted = self.wanted_targets(index, slot);
                let path = &mut self.members[index].paths[slot];
                path.targets.retain(|t| {
                    wanted.contains(&(t.aim, t.source))
                        || t.source == TargetSource::Host && wanted.is_empty()
                });
                for (aim, source) in wanted {
                    path.add_target(aim, source);
                }
            }
            for other in (0..self.members.len()).filter(|o| *o != index) {
                let aim = ProbeTarget::Member(other as u16);
                self.members[index].paths[PEERS].add_target(aim, TargetSource::Member);
            }
        }
    }

    fn wanted_targets(&self, index: usize, slot: usize) -> Vec<(ProbeTarget, TargetSource)> {
        let usable = |a: &&IpAddr| family(**a) == slot && self.may_be_target(index, **a);
        let list = |all: &[IpAddr], source| -> Vec<_> {
            all.iter().filter(usable).map(|a| (ProbeTarget::Address(*a), source)).collect()
        };
        let given = list(&self.config.targets, TargetSource::Given);
        if given.is_empty() { list(&self.routers, TargetSource::Router) } else { given }
    }

    /// On the subnet of the test address, unicast, and none of our own.
    pub(super) fn may_be_target(&self, index: usize, address: IpAddr) -> bool {
        let unicast = match address {
            IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()),
            IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast()),
        };
        let own = self.members.iter().any(|m| m.has(address) || m.binding.contains(&Some(address)));
        let near = self.members[index].held[family(address)]
            .is_none_or(|held| held.test.covers(address) && address != held.test.address);
        unicast && !own && near
    }

    pub(super) fn transmit(&mut self, member: usize, frame: Vec<u8>) {
        if self.queue.len() == QUEUE_MAX {
            self.counters.frames_lost += 1;
            return;
        }
        self.queue.push_back((member, frame));
    }

    pub(super) fn tell(&mut self, event: ProbeEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(event);
    }

    pub(super) fn notify(&mut self, notice: ProbeNotice) {
        if self.notices.len() == EVENTS_MAX {
            self.notices.pop_front();
            self.counters.notices_lost += 1;
        }
        self.notices.push_back(notice);
    }

    /// Whether a member may answer another host now.
    pub(super) fn may_answer(&mut self, now: Instant, index: usize) -> bool {
        let answers = &mut self.members[index].answers;
        if now.saturating_since(answers.0) >= Duration::from_secs(1) {
            *answers = (now, 0);
        }
        answers.1 += 1;
        if answers.1 > ANSWERS_PER_S {
            self.counters.answers_limited += 1;
            return false;
        }
        true
    }
}

impl Member {
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.held[family(address)].is_some_and(|h| h.test.address == address)
    }
}

/// Sessions.
impl Prober {
    fn run_sessions(&mut self, now: Instant) {
        for index in 0..self.sessions.len() {
            let member = self.sessions[index].member;
            let peer = self.sessions[index].peer;
            let held = self.members[member].held[family(peer)];
            let Some(held) = held else { continue };
            let runs = self.members[member].up && held.duplicate.is_none();
            let entry = &mut self.sessions[index];
            let before = entry.session.state();
            if runs != entry.running {
                entry.running = runs;
                if runs {
                    entry.session.start(now);
                } else {
                    entry.session.stop(now);
                }
            }
            entry.session.handle_timeout(now);
            self.tell_session(index, before);
            while let Some(packet) = self.sessions[index].session.poll_transmit(now) {
                self.send_session(index, held.test.address, &packet);
            }
        }
    }

    pub(super) fn tell_session(&mut self, index: usize, before: bfd::State) {
        let entry = &self.sessions[index];
        let (member, peer, state) = (entry.member, entry.peer, entry.session.state());
        if state != before {
            let diagnostic = entry.session.diagnostics().0;
            self.notify(ProbeNotice::Session { member, peer, state, diagnostic });
        }
    }

    fn send_session(&mut self, index: usize, src: IpAddr, packet: &bfd::Packet) {
        let entry = &self.sessions[index];
        let (member, peer) = (entry.member, entry.peer);
        let resolve = entry.session.state() != bfd::State::Up;
        let frame = entry.frame((self.members[member].mac, src), packet);
        if resolve || frame.is_none() {
            self.ask(member, Some(src), peer, None);
        }
        if let Some(frame) = frame {
            self.bfd_counters.sent += 1;
            self.transmit(member, frame);
        }
    }
}

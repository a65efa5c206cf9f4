//! Random events over random groups: what must be so after each of them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use super::outbound::destination_key;
use super::*;
use crate::Mac;
use crate::events::What;
use crate::paths::GroupHealth;
use crate::probe::{ProbeState, ProbeVerdict};

const SEEDS: u64 = 1_000;
const EVENTS: usize = 80;
const DESTINATIONS: u16 = 40;

/// Addresses, each with the MAC address of its alias, by the unit they move in.
type Bindings = BTreeMap<(IpAddr, Option<Mac>), u16>;

struct World {
    rng: Rng,
    now: Instant,
    group: Group,
    outbound: Outbound,
    addresses: BTreeMap<(IpAddr, Option<Mac>), u32>,
    verdicts: HashMap<String, ProbeVerdict>,
    links: HashMap<String, bool>,
    next_name: u16,
    /// What the events said last of each member.
    told: HashMap<String, (String, bool)>,
    told_state: GroupHealth,
    trace: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.trace.len().saturating_sub(40);
            eprintln!("{}", self.trace[last..].join("\n"));
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::from_u64(seed);
        let count = 1 + rng.below(5) as u16;
        let members: Vec<MemberInfo> = (0..count).map(info).collect();
        let standby = rng.below(u64::from(count)) as u16;
        let config = GroupConfig {
            members: members.iter().map(|m| m.name.clone()).collect(),
            standby: (count - standby / 2..count).map(|i| info(i).name).collect(),
            failback: rng.below(2) == 0,
            ..GroupConfig::default()
        };
        let group = Group::new("fail0", &config, &members);
        let told = members.iter().map(|m| (m.name.clone(), ("unknown".to_owned(), false)));
        World {
            rng,
            now: Instant::from_millis(500_000),
            group,
            outbound: Outbound::new(),
            addresses: BTreeMap::new(),
            verdicts: HashMap::new(),
            links: HashMap::new(),
            next_name: count,
            told: told.collect(),
            told_state: GroupHealth::Failed,
            trace: Vec::new(),
        }
    }

    fn any_member(&mut self) -> Option<u16> {
        let count = self.group.members.len() as u64;
        (count > 0).then(|| self.rng.below(count) as u16)
    }

    fn name(&self, member: u16) -> String {
        self.group.members[usize::from(member)].info.name.clone()
    }

    /// A verdict that could follow on the last one.
    fn verdict(&mut self, name: &str) -> ProbeVerdict {
        let last = self.verdicts.get(name).copied().unwrap_or_default();
        let now = self.now;
        let verdict = match self.rng.below(8) {
            0 => ProbeVerdict::DISABLED,
            1 => ProbeVerdict { state: ProbeState::Unknown, ..last },
            2..5 => {
                ProbeVerdict { state: ProbeState::Ok, first_loss: None, last_success: Some(now) }
            }
            5 => ProbeVerdict { state: ProbeState::Ok, first_loss: Some(now), ..last },
            _ => ProbeVerdict {
                state: ProbeState::Failed,
                first_loss: last.first_loss.or(Some(now)),
                last_success: last.last_success,
            },
        };
        self.verdicts.insert(name.to_owned(), verdict);
        verdict
    }

    fn health(&mut self, member: u16, new_verdict: bool) {
        let name = self.name(member);
        let verdict = if new_verdict {
            self.verdict(&name)
        } else {
            self.verdicts.get(&name).copied().unwrap_or(ProbeVerdict::DISABLED)
        };
        let up = *self.links.entry(name.clone()).or_insert(true);
        self.trace.push(format!("{:?} {name} link {up} {verdict:?}", self.now));
        self.group.handle_health(self.now, member, up, verdict);
    }

    fn set_link(&mut self, member: u16, up: bool) {
        self.links.insert(self.name(member), up);
        self.health(member, false);
    }

    fn wait(&mut self, at_most_ms: u64) {
        self.now += Duration::from_millis(self.rng.below(at_most_ms));
        self.trace.push(format!("timeout at {:?}", self.now));
        self.group.handle_timeout(self.now);
    }

    fn step(&mut self) {
        let Some(member) = self.any_member() else { return self.add_member() };
        match self.rng.below(32) {
            0..8 => {
                let up = self.rng.below(3) > 0;
                self.set_link(member, up);
            }
            8..15 => self.health(member, true),
            15 | 16 => {
                self.trace.push(format!("offline {member}"));
                let redundancy = self.rng.below(3) as usize;
                let _refused = self.group.offline(self.now, member, redundancy);
            }
            17..19 => {
                self.trace.push(format!("undo {member}"));
                let _refused = self.group.undo(self.now, member);
            }
            19 => self.add_member(),
            20 => self.remove_member(member),
            21 => self.change_mac(member),
            22..25 => self.add_address(),
            25 | 26 => self.remove_address(),
            27 => self.reconfigure(),
            _ => self.wait(30_000),
        }
    }

    fn add_member(&mut self) {
        let count = self.group.members.len();
        if count < 6 {
            let info = info(self.next_name);
            self.next_name += 1;
            self.trace.push(format!("add {}", info.name));
            let standby = self.rng.below(3) == 0;
            self.told.insert(info.name.clone(), ("unknown".to_owned(), false));
            self.group.member_added(self.now, info, standby).unwrap();
        }
    }

    fn remove_member(&mut self, member: u16) {
        let name = self.name(member);
        self.trace.push(format!("remove {name}"));
        self.told.remove(&name);
        self.group.member_removed(self.now, member);
        // The positions of members are others: as a worker that gets a new tree does.
        self.outbound = Outbound::new();
    }

    fn change_mac(&mut self, member: u16) {
        // Sometimes that of another.
        let number = self.rng.below(6) as u16;
        self.trace.push(format!("mac of {member} is {number}"));
        self.group.handle_mac(self.now, member, info(number).mac);
    }

    fn add_address(&mut self) {
        for _ in 0..=self.rng.below(12) {
            let number = self.rng.below(60) as u8;
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
            // Some belong to one of two aliases with a MAC address of their own.
            let own = [2, 9, 9, 9, 9, number % 2];
            let mac = (number >= 50).then_some(own);
            self.trace.push(format!("address {address} {mac:?}"));
            assert!(self.group.address_added(self.now, address, mac));
            *self.addresses.entry((address, mac)).or_default() += 1;
        }
    }

    fn remove_address(&mut self) {
        for _ in 0..=self.rng.below(6) {
            if self.addresses.is_empty() {
                return;
            }
            let at = self.rng.below(self.addresses.len() as u64) as usize;
            let (&(address, mac), _) = self.addresses.iter().nth(at).unwrap();
            self.trace.push(format!("no address {address} {mac:?}"));
            self.group.address_removed(self.now, address, mac);
            let count = self.addresses.get_mut(&(address, mac)).unwrap();
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&(address, mac));
            }
            self.check_settled();
        }
    }

    /// The same members in another order, other ones standby, and `failback` perhaps another.
    fn reconfigure(&mut self) {
        let mut infos: Vec<MemberInfo> =
            self.group.members.iter().map(|m| m.info.clone()).collect();
        let turn = self.rng.below(infos.len() as u64) as usize;
        infos.rotate_left(turn);
        let names: Vec<String> = infos.iter().map(|m| m.name.clone()).collect();
        let standby = names.iter().filter(|_| self.rng.below(4) == 0).cloned().collect();
        let failback = self.rng.below(2) == 0;
        let config = GroupConfig { members: names, standby, failback, ..GroupConfig::default() };
        self.trace.push(format!("configuration {config:?}"));
        self.group.update(self.now, &config, &infos);
        self.outbound = Outbound::new();
    }

    fn bindings(&self) -> Bindings {
        let selection = self.group.selection();
        let bound = |(address, mac): &(IpAddr, Option<Mac>)| match mac {
            None => selection.bindings.get(address),
            Some(mac) => selection.own_macs.get(mac),
        };
        let all = self.addresses.keys();
        all.filter_map(|key| Some((*key, *bound(key)?))).collect()
    }

    fn check_settled(&mut self) {
        let facts = |group: &Group| {
            let damped: Vec<bool> = group.members.iter().map(|m| m.damped).collect();
            (group.signature, group.counters, group.nominees, damped)
        };
        let before = facts(&self.group);
        self.group.take_changed();
        self.group.handle_timeout(self.now);
        assert_eq!(facts(&self.group), before, "a second look finds nothing new");
        assert!(!self.group.take_changed());
        assert!(self.group.poll_timeout().is_none_or(|at| at > self.now));
    }

    fn check_members(&self, report: &GroupReport) {
        let selection = self.group.selection();
        let mut active: Vec<u16> = selection.active.to_vec();
        active.sort_unstable();
        let of_state = |wanted: fn(MemberState) -> bool| -> Vec<u16> {
            let all = report.members.iter().enumerate();
            all.filter(|(_, m)| wanted(m.state)).map(|(i, _)| i as u16).collect()
        };
        assert_eq!(active, of_state(|state| state == MemberState::Active));
        let usable = of_state(|state| {
            matches!(state, MemberState::Active | MemberState::Inactive | MemberState::Standby)
        });
        assert_eq!(self.group.is_up(), !usable.is_empty(), "up if and only if one is usable");
        let state = match usable.len() {
            0 => GroupHealth::Failed,
            n if n == report.members.len() => GroupHealth::Ok,
            _ => GroupHealth::Degraded,
        };
        assert_eq!(self.group.state(), state);
        for nominee in [selection.nominee4, selection.nominee6] {
            assert_eq!(nominee.is_some(), !active.is_empty());
            assert!(nominee.is_none_or(|member| active.contains(&member)));
        }
        for (i, m) in report.members.iter().enumerate() {
            assert_eq!(m.path.flags.multicast4, selection.nominee4 == Some(i as u16));
            assert!(m.bound == 0 || m.state == MemberState::Active, "bound to what is not active");
            assert!(m.state != MemberState::Inactive || !report.failback || !active.is_empty());
            let online = !matches!(m.state, MemberState::Offline | MemberState::Duplicate);
            let twin = |other: &MemberReport| {
                other.mac == m.mac
                    && other.path.interface != m.path.interface
                    && !matches!(other.state, MemberState::Offline | MemberState::Duplicate)
            };
            assert!(!(online && report.members.iter().any(twin)), "one MAC address at two ports");
        }
        let normal = report.members.iter().filter(|m| !m.path.flags.standby).count();
        let spare = |m: &&MemberReport| m.path.flags.standby && m.state == MemberState::Active;
        let needless = active.len() > normal.max(1) && report.members.iter().any(|m| spare(&m));
        assert!(!needless, "a standby member carries frames for nobody");
    }

    fn check_spread(&self, bindings: &Bindings) {
        let active = &self.group.selection().active;
        let expected = if active.is_empty() { 0 } else { self.addresses.len() };
        assert_eq!(bindings.len(), expected, "each is bound if and only if one is active");
        assert!(bindings.values().all(|member| active.contains(member)));
        let loads = active.iter().map(|m| self.group.inbound.load(*m));
        let (least, most) = (loads.clone().min().unwrap_or(0), loads.max().unwrap_or(0));
        assert!(most - least <= 1, "from {least} to {most}");
    }

    /// Each move is announced once, and nothing else is.
    fn check_announcements(&mut self, before: &Bindings, known: &[(IpAddr, Option<Mac>)]) {
        let after = self.bindings();
        let moved = |(key, member): (&(IpAddr, Option<Mac>), &u16)| {
            let is_old = known.contains(key);
            (is_old && before.get(key) != Some(member)).then_some((*key, *member))
        };
        let expected: Vec<_> = after.iter().filter_map(moved).collect();
        let mut said: Vec<_> =
            self.group.announcements().iter().map(|a| ((a.address, a.mac), a.member)).collect();
        said.sort_unstable();
        assert_eq!(said, expected);
        assert_eq!(self.group.announcements(), []);
    }

    /// What was sent by a member that is still there stays, but for what a new one takes.
    fn check_outbound(&mut self) {
        let key = |i: u16| destination_key(IpAddr::V4(Ipv4Addr::new(192, 0, 2, i as u8)));
        let mut choose = |selection: Option<&crate::GroupSelection>| -> Vec<Option<u16>> {
            if let Some(selection) = selection {
                self.outbound.apply(selection);
            }
            (0..DESTINATIONS).map(|i| self.outbound.choose(key(i))).collect()
        };
        let before = choose(None);
        let after = choose(Some(self.group.selection()));
        let active = &self.group.selection().active;
        let was: Vec<u16> = before.iter().copied().flatten().collect();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.is_some(), !active.is_empty());
            assert!(after.is_none_or(|m| active.contains(&m)), "sent on one that is not active");
            let stays = before.is_some_and(|m| active.contains(&m));
            // One alone latches nothing, so two choose anew.
            let single = was.iter().all(|m| *m == was[0]);
            assert!(!stays || single || before == after || !was.contains(&after.unwrap()));
        }
        for member in active {
            let n = after.iter().filter(|m| **m == Some(*member)).count();
            let share = usize::from(DESTINATIONS) / active.len();
            assert!(n.abs_diff(share) <= 3, "{n} destinations instead of {share}");
        }
    }

    /// Who only reads events knows what is so.
    fn check_events(&mut self, report: &GroupReport) {
        let mut signature = None;
        while let Some(event) = self.group.poll_event() {
            assert!(log_line(&event).is_some());
            match event {
                What::Interface { interface, state, active, signature: s, .. } => {
                    self.told.insert(interface, (state, active));
                    signature = Some(s);
                }
                What::Group { state, signature: s, .. } => {
                    let all = [GroupHealth::Ok, GroupHealth::Degraded, GroupHealth::Failed];
                    let text = |h: &GroupHealth| format!("{h:?}").to_lowercase() == state;
                    self.told_state = all.into_iter().find(text).unwrap();
                    signature = Some(s);
                }
                _ => {}
            }
        }
        assert!(signature.is_none_or(|s| s == report.path.signature));
        assert_eq!(self.told_state, report.path.state);
        for m in &report.members {
            let state = format!("{:?}", m.path.state).to_lowercase();
            assert_eq!(self.told[&m.path.interface], (state, m.path.active));
        }
        assert_eq!(report.counters.events_lost, 0);
    }
}

fn info(i: u16) -> MemberInfo {
    MemberInfo { name: format!("eth{i}"), mac: [2, 0, 0, 0, 0, i as u8 + 1] }
}

/// The fewest moves that make what stayed where it was even over the active members.
fn fewest_moves(units: usize, active: usize, mut kept: Vec<usize>) -> usize {
    kept.sort_unstable();
    kept.resize(active.max(kept.len()), 0);
    kept.sort_unstable_by(|a, b| b.cmp(a));
    let (share, rest) = (units / active, units % active);
    let stays: usize =
        kept.iter().enumerate().map(|(i, n)| (*n).min(share + usize::from(i < rest))).sum();
    units - stays
}

/// What moves as one: an address, or an alias.
fn units(bindings: &Bindings) -> BTreeMap<(Option<IpAddr>, Option<Mac>), u16> {
    bindings
        .iter()
        .map(|((address, mac), member)| ((mac.is_none().then_some(*address), *mac), *member))
        .collect()
}

fn check_moves(before: &Bindings, after: &Bindings, active: &[u16]) {
    let (before, after) = (units(before), units(after));
    if active.is_empty() || !before.keys().eq(after.keys()) {
        return;
    }
    let moved = after.iter().filter(|(key, member)| before[*key] != **member).count();
    let kept = active.iter().map(|m| before.values().filter(|b| *b == m).count()).collect();
    assert_eq!(moved, fewest_moves(after.len(), active.len(), kept), "{before:?} {after:?}");
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for event in 0..EVENTS {
        let before = world.bindings();
        let known: Vec<_> = world.addresses.keys().copied().collect();
        let order = |w: &World| -> Vec<String> {
            w.group.members.iter().map(|m| m.info.name.clone()).collect()
        };
        let order_before = order(&world);
        match event % 2 {
            0 => world.step(),
            _ => world.wait(1_000),
        }
        world.check_settled();
        let report = world.group.report();
        world.check_members(&report);
        let after = world.bindings();
        world.check_spread(&after);
        world.check_events(&report);
        // By name, for positions may be others now.
        let order_after = order(&world);
        let renamed = |b: &Bindings| -> Bindings {
            b.iter()
                .map(|(key, member)| {
                    let name = &order_before[usize::from(*member)];
                    let now = order_after.iter().position(|n| n == name);
                    (*key, now.map_or(u16::MAX, |n| n as u16))
                })
                .collect()
        };
        let before = renamed(&before);
        check_moves(&before, &after, &world.group.selection().active);
        world.check_announcements(&before, &known);
        world.check_outbound();
    }
}

#[test]
fn a_thousand_groups_keep_their_rules_whatever_happens() {
    for seed in 0..SEEDS {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

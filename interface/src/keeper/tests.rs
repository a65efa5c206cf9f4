#![allow(missing_docs)]

mod change;
mod outlook;
mod troubles;

use std::net::IpAddr;

use weft_stack::time::{Duration, Instant};

use super::*;
use crate::bond::{BondConfig, Mode, PortConfig};
use crate::fail::config::{GroupConfig, ProbeMode};
use crate::paths::ProbeHealth;
use crate::tree::{AliasSpec, BondSpec, GroupSpec, NicSpec, TreeSpec, VlanSpec};

const START: Instant = Instant::from_millis(1000);

fn nic(number: usize) -> NicSpec {
    NicSpec {
        name: format!("eth{number}"),
        device: format!("dev{number}"),
        driver: "mem",
        ethernet: true,
        mtu: None,
    }
}

fn bond(name: &str, ports: &[&str], mode: Mode) -> BondSpec {
    let ports = ports.iter().map(|p| PortConfig::named(p)).collect();
    BondSpec { name: name.to_owned(), config: BondConfig { ports, mode, ..BondConfig::default() } }
}

fn alias(name: &str, over: &str) -> AliasSpec {
    AliasSpec { name: name.to_owned(), over: Some(over.to_owned()), ..AliasSpec::default() }
}

fn group(name: &str, members: &[&str]) -> GroupSpec {
    let members = members.iter().map(|m| (*m).to_owned()).collect();
    GroupSpec { name: name.to_owned(), config: GroupConfig { members, ..GroupConfig::default() } }
}

fn tree(spec: TreeSpec) -> Tree {
    Tree::new(spec).unwrap_or_else(|e| panic!("{e:?}"))
}

fn mac(host: u8, nic: usize) -> Mac {
    [2, 0, 0, 0, host, nic as u8 + 1]
}

fn keeper(spec: TreeSpec, host: u8) -> Keeper {
    let tree = tree(spec);
    let macs: Vec<Mac> = (0..tree.nics).map(|n| mac(host, n)).collect();
    Keeper::new(&tree, &macs, u64::from(host))
}

fn link(keeper: &Keeper, name: &str) -> LinkId {
    keeper.tree().link(&name.parse().unwrap()).unwrap()
}

/// A NIC of a host.
type End = (usize, usize);

/// Keepers with a clock.
trait Site {
    fn parts(&mut self) -> (&mut Instant, &mut Vec<Keeper>);

    /// Carries frames until none is left.
    fn carry(&mut self);

    fn run_for(&mut self, time: Duration) {
        let (now, _) = self.parts();
        let end = *now + time;
        loop {
            let (now, hosts) = self.parts();
            let next = hosts.iter().filter_map(Keeper::poll_timeout).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            *now = at.max(*now);
            for host in hosts {
                host.handle_timeout(*now);
            }
            self.carry();
        }
        *self.parts().0 = end;
    }
}

/// Keepers joined NIC by NIC, with a clock.
struct Lab {
    now: Instant,
    hosts: Vec<Keeper>,
    /// Both ends of each cable, and whether it is plugged in.
    cables: Vec<(End, End, bool)>,
    /// Frames that left at a link, by host.
    sent: Vec<Vec<(LinkId, Vec<u8>)>>,
    events: Vec<Vec<String>>,
}

impl Site for Lab {
    fn parts(&mut self) -> (&mut Instant, &mut Vec<Keeper>) {
        (&mut self.now, &mut self.hosts)
    }

    fn carry(&mut self) {
        self.exchange();
    }
}

impl Lab {
    fn new(hosts: Vec<Keeper>, cables: &[(End, End)]) -> Lab {
        let count = hosts.len();
        let mut lab = Lab {
            now: START,
            hosts,
            cables: cables.iter().map(|(a, b)| (*a, *b, false)).collect(),
            sent: vec![Vec::new(); count],
            events: vec![Vec::new(); count],
        };
        for cable in 0..lab.cables.len() {
            lab.plug(cable, true);
        }
        lab
    }

    /// A host whose NICs all have a link to nobody.
    fn alone(host: Keeper) -> Lab {
        let mut lab = Lab::new(vec![host], &[]);
        for nic in 0..lab.hosts[0].tree().nics {
            lab.carrier(nic, true);
        }
        lab
    }

    fn carrier(&mut self, nic: usize, up: bool) {
        let link = if up { PortLink::UP } else { PortLink::DOWN };
        self.hosts[0].handle_link(self.now, nic, link, None);
        self.exchange();
    }

    fn plug(&mut self, cable: usize, up: bool) {
        self.cables[cable].2 = up;
        let (a, b, _) = self.cables[cable];
        let link = if up { PortLink::UP } else { PortLink::DOWN };
        for (host, nic) in [a, b] {
            self.hosts[host].handle_link(self.now, nic, link, None);
        }
        self.exchange();
    }

    fn exchange(&mut self) {
        loop {
            let mut flying = Vec::new();
            for host in 0..self.hosts.len() {
                while let Some(event) = self.hosts[host].poll_event() {
                    self.events[host].push(event.to_string());
                }
                while let Some((at, frame)) = self.hosts[host].poll_transmit() {
                    match at {
                        Where::Nic(nic) => flying.push(((host, nic), frame)),
                        Where::Link(link) => self.sent[host].push((link, frame)),
                    }
                }
            }
            if flying.is_empty() {
                return;
            }
            for (from, frame) in flying {
                let end = self.cables.iter().filter(|c| c.2).find_map(|(a, b, _)| match from {
                    _ if *a == from => Some(*b),
                    _ if *b == from => Some(*a),
                    _ => None,
                });
                if let Some((host, nic)) = end {
                    self.hosts[host].handle_frame(self.now, LinkId(nic as u16), &frame);
                }
            }
        }
    }

    /// Announced addresses of host 0 since the last call: link, address, MAC address, tag.
    fn announced(&mut self) -> Vec<(LinkId, IpAddr, Mac, Option<u16>)> {
        let mut out = Vec::new();
        for (link, mut frame) in std::mem::take(&mut self.sent[0]) {
            let tag = (frame[12..14] == [0x81, 0x00])
                .then(|| u16::from_be_bytes([frame[14], frame[15]]) & 0xfff);
            if tag.is_some() {
                frame.drain(12..16);
            }
            let source: Mac = frame[6..12].try_into().unwrap();
            let addr: IpAddr = match frame[12..14] {
                [0x08, 0x06] => <[u8; 4]>::try_from(&frame[28..32]).unwrap().into(),
                _ => <[u8; 16]>::try_from(&frame[22..38]).unwrap().into(),
            };
            // A request and a reply are one burst.
            if out.last() != Some(&(link, addr, source, tag)) {
                out.push((link, addr, source, tag));
            }
        }
        out
    }
}

fn over_lacp() -> TreeSpec {
    TreeSpec {
        nics: vec![nic(0), nic(1), nic(2)],
        bonds: vec![bond("bond0", &["eth0", "eth1"], Mode::Lacp)],
        vlans: vec![VlanSpec { name: String::from("bond0.5"), priority: Some(3) }],
        groups: vec![],
        aliases: vec![alias("data0", "bond0.5"), alias("mgmt0", "eth2")],
    }
}

#[test]
fn links_follow_what_is_below_them_and_the_selection_is_published_when_it_changes() {
    let hosts = vec![keeper(over_lacp(), 0), keeper(over_lacp(), 1)];
    let mut lab = Lab::new(hosts, &[((0, 0), (1, 0)), ((0, 1), (1, 1))]);
    lab.run_for(Duration::from_secs(10));
    let vlan = link(&lab.hosts[0], "bond0.5");
    assert!(lab.hosts[0].is_up(vlan));
    let selection = lab.hosts[0].take_selection().unwrap();
    assert_eq!(selection.bonds[0].distributing[..], [0, 1]);
    assert!(!lab.hosts[0].is_up(LinkId(2)), "nobody is there");
    lab.run_for(Duration::from_mins(2));
    assert!(lab.hosts[0].take_selection().is_none(), "LACPDUs alone change nothing");

    lab.plug(1, false);
    let next = lab.hosts[0].take_selection().unwrap();
    assert!(next.generation > selection.generation);
    assert_eq!(next.bonds[0].distributing[..], [0]);
    assert!(lab.hosts[0].is_up(vlan));
    lab.events[0].clear();
    lab.plug(0, false);
    assert!(!lab.hosts[0].is_up(vlan));
    assert_eq!(
        lab.events[0],
        [
            "link eth0 down",
            "bond-port bond0 eth0 down LinkDown",
            "bond-partner bond0 65535,02:00:00:00:01:01 none",
            "link bond0 down",
            "link bond0.5 down"
        ]
    );
}

#[test]
fn lacpdus_of_a_port_arrive_and_leave_untagged_at_its_nic() {
    let mut host = keeper(over_lacp(), 0);
    host.handle_link(START, 1, PortLink::UP, None);
    host.handle_timeout(START + Duration::from_secs(1));
    let (at, frame) = host.poll_transmit().unwrap();
    assert_eq!(at, Where::Nic(1));
    assert_eq!((&frame[6..12], &frame[12..14]), (&mac(0, 1)[..], &[0x88, 0x09][..]));
    // No machine runs on the third NIC.
    host.handle_frame(START, LinkId(2), &frame);
    assert_eq!(host.paths(START).lost, Lost { stray: 1, ..Lost::default() });
}

#[test]
fn an_active_backup_bond_announces_its_addresses_with_those_of_its_vlans() {
    let mut backup = bond("bond0", &["eth0", "eth1"], Mode::ActiveBackup);
    backup.config.primary = Some(String::from("eth0"));
    let spec = TreeSpec {
        nics: vec![nic(0), nic(1)],
        bonds: vec![backup],
        aliases: vec![alias("data0", "bond0"), alias("data1", "bond0.7"), alias("san0", "bond0.8")],
        ..TreeSpec::default()
    };
    let mut lab = Lab::alone(keeper(spec, 0));
    let [bond, vlan, own] = ["bond0", "bond0.7", "bond0.8"].map(|n| link(&lab.hosts[0], n));
    let addr = |text: &str| -> IpAddr { text.parse().unwrap() };
    let other = [2, 9, 9, 9, 9, 9];
    lab.hosts[0].address_added(lab.now, bond, addr("10.0.0.1"), None);
    lab.hosts[0].address_added(lab.now, vlan, addr("fd00::1"), None);
    lab.hosts[0].address_added(lab.now, own, addr("10.8.0.1"), Some(other));
    lab.exchange();
    lab.announced();

    lab.carrier(0, false);
    let bond_mac = mac(0, 0);
    let all = [
        (bond, addr("10.0.0.1"), bond_mac, None),
        (vlan, addr("fd00::1"), bond_mac, None),
        (own, addr("10.8.0.1"), other, None),
    ];
    assert_eq!(lab.announced(), all, "each link adds its own tag");
    lab.carrier(1, false);
    assert_eq!(lab.announced(), [], "there is nobody to tell");
    lab.carrier(1, true);
    assert_eq!(lab.announced(), all);
    lab.hosts[0].address_removed(lab.now, own, addr("10.8.0.1"), Some(other));
    lab.carrier(0, true);
    assert_eq!(lab.announced(), all[..2], "the primary is back");
}

#[test]
fn a_bond_that_falls_below_a_group_moves_its_addresses_to_the_next_member() {
    let spec = TreeSpec {
        nics: vec![nic(0), nic(1), nic(2)],
        bonds: vec![bond("bond0", &["eth0", "eth1"], Mode::Static)],
        groups: vec![group("fail0", &["bond0", "eth2"])],
        aliases: vec![alias("data0", "fail0"), alias("data1", "fail0.5")],
        ..TreeSpec::default()
    };
    let mut lab = Lab::alone(keeper(spec, 0));
    let [fail, tagged, bond, eth2] =
        ["fail0", "fail0.5", "bond0", "eth2"].map(|n| link(&lab.hosts[0], n));
    let addr = |last: u8| -> IpAddr { [10, 0, 0, last].into() };
    for last in 1..=4 {
        let on = if last == 4 { tagged } else { fail };
        lab.hosts[0].address_added(lab.now, on, addr(last), None);
    }
    lab.exchange();
    let before = lab.hosts[0].selection().clone();
    let on_bond: Vec<IpAddr> =
        (1..=4).map(addr).filter(|a| before.groups[0].bindings[a] == 0).collect();
    assert_eq!(on_bond.len(), 2, "{before:?}");
    lab.announced();

    lab.carrier(0, false);
    assert_eq!(lab.announced(), [], "the bond goes on with one port");
    lab.carrier(1, false);
    let told = lab.announced();
    assert_eq!(told.len(), on_bond.len(), "one burst for each that moved: {told:?}");
    for (at, moved, source, tag) in told {
        assert!(on_bond.contains(&moved));
        assert_eq!((at, source), (eth2, mac(0, 2)));
        assert_eq!(tag, (moved == addr(4)).then_some(5));
    }
    assert!(lab.hosts[0].is_up(tagged) && !lab.hosts[0].is_up(bond));
    lab.carrier(2, false);
    assert!(!lab.hosts[0].is_up(tagged));
    assert!(lab.hosts[0].selection().groups[0].bindings.is_empty());
    assert_eq!(lab.announced(), []);
}

#[test]
fn multicast_groups_are_reported_by_the_member_that_takes_over() {
    let spec = TreeSpec {
        nics: vec![nic(0), nic(1)],
        groups: vec![group("fail0", &["eth0", "eth1"])],
        aliases: vec![alias("data0", "fail0"), alias("data1", "fail0.5")],
        ..TreeSpec::default()
    };
    let mut lab = Lab::alone(keeper(spec, 0));
    let [fail, tagged, eth1] = ["fail0", "fail0.5", "eth1"].map(|n| link(&lab.hosts[0], n));
    let four: IpAddr = [239, 1, 2, 3].into();
    lab.hosts[0].membership_added(fail, four);
    lab.hosts[0].membership_added(tagged, "ff05::7".parse().unwrap());
    lab.hosts[0].membership_added(tagged, four);
    lab.hosts[0].membership_removed(tagged, four);
    assert_eq!(lab.hosts[0].selection().groups[0].nominee4, Some(0));
    lab.sent[0].clear();
    lab.carrier(0, false);
    let sent = std::mem::take(&mut lab.sent[0]);
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent.iter().all(|(at, frame)| *at == eth1 && frame[6..12] == mac(0, 1)));
    assert_eq!(sent[0].1[12..14], [0x08, 0x00]);
    assert_eq!(sent[1].1[12..18], [0x81, 0x00, 0, 5, 0x86, 0xdd]);
    lab.carrier(0, true);
    assert_eq!(lab.sent[0], vec![], "who has it keeps it");
}

#[test]
fn a_restarted_process_goes_on_with_the_aggregate() {
    let hosts = vec![keeper(over_lacp(), 0), keeper(over_lacp(), 1)];
    let cables = [((0, 0), (1, 0)), ((0, 1), (1, 1))];
    let mut lab = Lab::new(hosts, &cables);
    lab.run_for(Duration::from_secs(10));
    let saved = lab.hosts[0].save(lab.now);
    lab.hosts[0] = keeper(over_lacp(), 0);
    lab.events[1].clear();
    let away = Duration::from_millis(500);
    lab.now += away;
    let now = lab.now;
    lab.hosts[0].restore(now, &saved, away);
    for nic in 0..2 {
        lab.hosts[0].handle_link(now, nic, PortLink::UP, None);
    }
    lab.exchange();
    assert_eq!(lab.hosts[0].selection().bonds[0].distributing[..], [0, 1]);
    lab.run_for(Duration::from_secs(30));
    assert_eq!(lab.hosts[0].selection().bonds[0].distributing[..], [0, 1]);
    assert_eq!(lab.events[1], Vec::<String>::new(), "the partner noticed nothing");
    let json = serde_json::to_string(&saved).unwrap();
    assert_eq!(serde_json::from_str::<Saved>(&json).unwrap(), saved);
}

/// Two hosts with a group of two members each, on one switch that never fails: a frame of a NIC
/// reaches all NICs of the others with a link.
struct Switched {
    now: Instant,
    hosts: Vec<Keeper>,
    /// NICs that hear and are heard, by host.
    works: Vec<Vec<bool>>,
    /// A NIC that hears and is not heard.
    mute: Option<End>,
    announced: Vec<IpAddr>,
    /// NICs that probes of host 0 left by.
    left: Vec<usize>,
    events: Vec<String>,
}

impl Site for Switched {
    fn parts(&mut self) -> (&mut Instant, &mut Vec<Keeper>) {
        (&mut self.now, &mut self.hosts)
    }

    fn carry(&mut self) {
        self.exchange();
    }
}

impl Switched {
    fn new(config: &GroupConfig) -> Switched {
        Switched::tested(config, |host, nic| 100 + 10 * host + nic)
    }

    /// With test addresses that end as `last` says.
    fn tested(config: &GroupConfig, last: impl Fn(u8, u8) -> u8) -> Switched {
        let host = |number: u8| {
            let test = |nic: u8| {
                let text = format!("10.0.0.{}/24", last(number, nic));
                (format!("eth{nic}"), text.parse().unwrap())
            };
            let other = |nic: u8| IpAddr::from([10, 0, 0, 100 + 10 * (1 - number) + nic]);
            let mut config = config.clone();
            config.members = vec![String::from("eth0"), String::from("eth1")];
            config.test = vec![test(0), test(1)];
            config.targets = vec![other(0), other(1)];
            config.targets.retain(|t| config.test.iter().all(|(_, own)| own.addr != *t));
            let spec = TreeSpec {
                nics: vec![nic(0), nic(1)],
                groups: vec![GroupSpec { name: String::from("fail0"), config }],
                aliases: vec![alias("data0", "fail0")],
                ..TreeSpec::default()
            };
            keeper(spec, number)
        };
        let mut lab = Switched {
            now: START,
            hosts: vec![host(0), host(1)],
            works: vec![vec![true; 2]; 2],
            mute: None,
            announced: Vec::new(),
            left: Vec::new(),
            events: Vec::new(),
        };
        for host in 0..2 {
            lab.hosts[host].handle_links(START, (0..2).map(|nic| (nic, PortLink::UP, None)));
        }
        lab.exchange();
        lab
    }

    fn exchange(&mut self) {
        loop {
            let mut flying = Vec::new();
            for host in 0..2 {
                while let Some((at, frame)) = self.hosts[host].poll_transmit() {
                    let Where::Link(LinkId(nic)) = at else { panic!("{at:?}") };
                    flying.push((host, usize::from(nic), frame));
                }
            }
            while let Some(event) = self.hosts[0].poll_event() {
                self.events.push(event.to_string());
            }
            if flying.is_empty() {
                return;
            }
            for (host, nic, frame) in flying {
                let source = &frame[6..12];
                assert_eq!(source, mac(host as u8, nic), "a member speaks with its own address");
                if host == 0 {
                    // Echo requests; others ask what they ask.
                    if frame[12..14] == [0x08, 0x00] && frame[34] == 8 {
                        self.left.push(nic);
                    }
                    if frame[12..14] == [0x08, 0x06] && frame[28..32] == frame[38..42] {
                        let addr: [u8; 4] = frame[28..32].try_into().unwrap();
                        self.announced.push(addr.into());
                    }
                }
                if !self.works[host][nic] || self.mute == Some((host, nic)) {
                    continue;
                }
                for (other, works) in self.works.iter().enumerate() {
                    for (to, _) in works.iter().enumerate().filter(|(_, works)| **works) {
                        let own = mac(other as u8, to);
                        let is_for = frame[0] & 1 == 1 || frame[..6] == own;
                        if (other, to) != (host, nic) && is_for {
                            self.hosts[other].handle_frame(self.now, LinkId(to as u16), &frame);
                        }
                    }
                }
            }
        }
    }

    fn active(&self) -> Vec<u16> {
        self.hosts[0].selection().groups[0].active.to_vec()
    }

    /// How many addresses each member has, and that each is on an active one.
    fn spread(&self) -> [usize; 2] {
        let group = &self.hosts[0].selection().groups[0];
        let mut counts = [0; 2];
        for member in group.bindings.values() {
            assert!(group.active.contains(member));
            counts[usize::from(*member)] += 1;
        }
        counts
    }
}

fn probed(detect_ms: u64) -> GroupConfig {
    GroupConfig {
        probe: ProbeMode::Icmp,
        detect: Duration::from_millis(detect_ms),
        quiet: Duration::ZERO,
        ..GroupConfig::default()
    }
}

#[test]
fn silent_loss_is_found_by_probes_and_each_address_that_moves_is_announced_once() {
    let mut lab = Switched::new(&probed(100));
    let fail0 = link(&lab.hosts[0], "fail0");
    for last in 1..=20 {
        lab.hosts[0].address_added(lab.now, fail0, [10, 0, 0, last].into(), None);
    }
    lab.run_for(Duration::from_secs(2));
    assert_eq!((lab.active(), lab.spread()), (vec![0, 1], [10, 10]));
    let paths = lab.hosts[0].paths(lab.now);
    assert_eq!(paths.groups[0].detection_ms, Some(100));
    assert!(paths.interfaces.iter().all(|i| i.probe == ProbeHealth::Ok), "{paths:?}");
    assert_eq!(paths.targets[0].targets.len(), 2, "{paths:?}");
    assert!(lab.hosts[0].poll_probe().is_some_and(|p| p.rtt_us.is_some()));

    lab.announced.clear();
    let generation = lab.hosts[0].selection().generation;
    lab.works[0][1] = false;
    lab.run_for(Duration::from_millis(150));
    assert_eq!((lab.active(), lab.spread()), (vec![0], [20, 0]));
    assert!(lab.hosts[0].selection().generation > generation);
    // A request and a reply each.
    let moved = std::mem::take(&mut lab.announced);
    assert_eq!(moved.len(), 20, "{moved:?}");
    assert_eq!(moved.iter().collect::<std::collections::BTreeSet<_>>().len(), 10);

    lab.run_for(Duration::from_secs(1));
    assert_eq!(lab.announced, Vec::<IpAddr>::new(), "nothing more moves");
    lab.works[0][1] = true;
    lab.run_for(Duration::from_secs(2));
    assert_eq!((lab.active(), lab.spread()), (vec![0, 1], [10, 10]));
    assert!(lab.events.iter().any(|e| e.starts_with("interface fail0 eth1 failed")));
}

#[test]
fn the_operator_takes_members_out_and_not_the_last_one() {
    let mut lab = Switched::new(&probed(100));
    let fail0 = link(&lab.hosts[0], "fail0");
    lab.hosts[0].address_added(lab.now, fail0, [10, 0, 0, 1].into(), None);
    lab.run_for(Duration::from_secs(1));
    lab.hosts[0].set_offline(lab.now, "eth0", true).unwrap();
    lab.exchange();
    assert_eq!((lab.active(), lab.spread()), (vec![1], [0, 1]));
    lab.left.clear();
    lab.run_for(Duration::from_secs(1));
    assert!(!lab.left.contains(&0), "it is not probed either");
    let now = lab.now;
    let refuse = |lab: &mut Switched, name: &str, offline: bool| {
        lab.hosts[0].set_offline(now, name, offline).unwrap_err().to_string()
    };
    assert!(refuse(&mut lab, "eth1", true).starts_with("eth1 stays: 0 usable members of fail0"));
    assert_eq!(refuse(&mut lab, "eth1", false), "eth1 is not offline");
    assert!(refuse(&mut lab, "eth9", true).starts_with("there is no interface 'eth9'"));
    assert!(refuse(&mut lab, "fail0", true).starts_with("fail0 is neither a member"));
    lab.hosts[0].set_offline(lab.now, "ETH0", false).unwrap();
    lab.run_for(Duration::from_secs(1));
    assert_eq!(lab.active().len(), 2);
}

#[test]
fn a_port_of_a_bond_is_taken_out_while_the_rest_is_enough() {
    let spec = || TreeSpec {
        nics: vec![nic(0), nic(1)],
        bonds: vec![bond("bond0", &["eth0", "eth1"], Mode::Lacp)],
        aliases: vec![alias("data0", "bond0")],
        ..TreeSpec::default()
    };
    let hosts = vec![keeper(spec(), 0), keeper(spec(), 1)];
    let mut lab = Lab::new(hosts, &[((0, 0), (1, 0)), ((0, 1), (1, 1))]);
    lab.run_for(Duration::from_secs(10));
    let now = lab.now;
    lab.hosts[0].set_offline(now, "eth0", true).unwrap();
    lab.exchange();
    lab.run_for(Duration::from_secs(1));
    assert_eq!(lab.hosts[0].selection().bonds[0].distributing[..], [1]);
    let now = lab.now;
    let refused = lab.hosts[0].set_offline(now, "eth1", true).unwrap_err();
    assert_eq!(refused.to_string(), "eth1 stays: bond0 needs 1 ports and 0 others can be used");
    let refused = lab.hosts[0].set_offline(now, "eth1", false).unwrap_err();
    assert_eq!(refused.to_string(), "eth1 is not offline");
    lab.hosts[0].set_offline(now, "eth0", false).unwrap();
    lab.run_for(Duration::from_secs(10));
    assert_eq!(lab.hosts[0].selection().bonds[0].distributing[..], [0, 1]);
    assert!(lab.events[0].contains(&String::from("bond-drained bond0 eth0 answered")));
}

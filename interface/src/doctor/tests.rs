use weft_stack::time::Instant;

use super::*;
use crate::bond::config::Mode;
use crate::bond::{Bond, BondConfig, PortConfig, PortLink};
use crate::fail::GroupConfig;
use crate::lldp::wire::Aggregation;
use crate::tree::{AliasSpec, BondSpec, GroupSpec, NicSpec, TreeSpec};

/// What LLDP says for long enough of port `port` of switch "sw1".
fn switch_port(port: &str) -> NeighbourReport {
    NeighbourReport {
        chassis: "02:00:00:00:00:99".to_owned(),
        port: port.to_owned(),
        port_description: Some("to the host".to_owned()),
        system_name: Some("sw1".to_owned()),
        known_ms: settle::LLDP,
        ..NeighbourReport::default()
    }
}

fn nic(index: usize, change: impl FnOnce(&mut NeighbourReport)) -> NicEvidence {
    let mut neighbour = switch_port(&format!("Gi1/0/{index}"));
    change(&mut neighbour);
    let name = format!("eth{index}");
    let (lldp, link_ms) = (vec![neighbour], 120_000);
    NicEvidence { name, link: true, link_ms, mtu: Some(1500), lldp, recent: None }
}

fn bond(mode: Mode, ports: usize, up_for_ms: u64) -> BondEvidence {
    let named = (0..ports).map(|i| PortConfig::named(&format!("eth{i}"))).collect();
    let config = BondConfig { mode, ports: named, ..BondConfig::default() };
    let macs: Vec<_> = (0..ports).map(|i| [2, 0, 0, 0, 0, i as u8]).collect();
    let mut bond = Bond::new(&config, &macs, 1);
    for port in 0..ports {
        bond.handle_link(Instant::from_millis(1000), port, PortLink::UP);
    }
    let now = Instant::from_millis(1000 + up_for_ms);
    bond.handle_timeout(Instant::from_millis(1000 + up_for_ms.min(5000)));
    bond.handle_timeout(now);
    BondEvidence { name: "bond0".to_owned(), report: bond.report(now), tags: Vec::new() }
}

/// A static bond of all NICs but those `outside`.
fn with_bond(nics: Vec<NicEvidence>, outside: usize) -> Evidence {
    let bonds = vec![bond(Mode::Static, nics.len() - outside, 0)];
    Evidence { bonds, nics, ..Evidence::default() }
}

/// A group whose members are the NICs.
fn with_group(nics: Vec<NicEvidence>, tag: Option<u16>) -> Evidence {
    let members = nics.iter().map(|n| (vec![n.name.clone()], tag)).collect();
    let (name, tags, reports) = ("fail0".to_owned(), Vec::new(), Vec::new());
    let groups = vec![GroupEvidence { name, members, tags, reports }];
    Evidence { groups, nics, ..Evidence::default() }
}

fn found(evidence: &Evidence) -> Vec<(Code, String)> {
    diagnose(evidence).into_iter().map(|d| (d.code, d.ports.join(" "))).collect()
}

fn is(code: Code, ports: &str) -> Vec<(Code, String)> {
    vec![(code, ports.to_owned())]
}

#[test]
fn without_evidence_there_is_no_diagnosis() {
    assert_eq!(diagnose(&Evidence::default()), []);
    let nics = || vec![nic(0, |_| {}), nic(1, |_| {})];
    assert_eq!(diagnose(&with_bond(nics(), 0)), []);
    assert_eq!(diagnose(&with_group(nics(), None)), []);
}

#[test]
fn untagged_frames_in_several_vlans_are_told_if_lldp_says_so_for_long_enough() {
    let nics = |ids: [u16; 3]| -> Vec<_> {
        ids.iter().enumerate().map(|(i, id)| nic(i, |n| n.pvid = Some(*id))).collect()
    };
    let wrong = with_bond(nics([5, 7, 7]), 0);
    assert_eq!(found(&wrong), is(Code::VlanMismatch, "eth0"));
    let told = &diagnose(&wrong)[0];
    assert_eq!(
        told.advice,
        "set the untagged VLAN of port Gi1/0/0 (to the host) of sw1 to 7 as on the others"
    );
    assert_eq!(found(&with_group(nics([7, 7, 5]), None)), is(Code::VlanMismatch, "eth2"));
    // Members with tags of their own do not care; 0 is unknown; all alike is right.
    assert_eq!(found(&with_group(nics([7, 7, 5]), Some(9))), []);
    assert_eq!(found(&with_bond(nics([7, 0, 7]), 0)), []);
    let mut new = wrong;
    new.nics[0].lldp[0].known_ms = settle::LLDP - 1;
    assert_eq!(found(&new), []);
    new.nics[0].link = false;
    new.nics[0].lldp[0].known_ms = settle::LLDP;
    assert_eq!(found(&new), []);
}

#[test]
fn vlans_that_a_switch_port_lacks_are_told() {
    let nics = |a: &[u16], b: &[u16]| {
        vec![nic(0, |n| n.vlans = a.to_vec()), nic(1, |n| n.vlans = b.to_vec())]
    };
    let told = diagnose(&with_bond(nics(&[5, 6], &[5]), 0));
    assert_eq!((told[0].code, told[0].severity), (Code::VlanMismatch, Severity::Warning));
    assert_eq!(told[0].advice, "add the VLANs 6 to port Gi1/0/1 (to the host) of sw1");
    // It is worse if we use it.
    let told = diagnose(&with_group(nics(&[5, 6], &[5]), Some(6)));
    assert_eq!((told[0].ports.join(" ").as_str(), told[0].severity), ("eth1", Severity::Error));
    let mut used = with_bond(nics(&[5], &[5]), 0);
    used.bonds[0].tags = vec![5, 6];
    assert_eq!(found(&used).len(), 2, "both lack 6");
    assert_eq!(found(&with_bond(nics(&[5], &[5]), 0)), []);
    assert_eq!(found(&with_bond(nics(&[5], &[]), 0)), [], "it does not tell");
    let mut cut = with_bond(nics(&[5, 6], &[5]), 0);
    cut.nics[1].lldp[0].vlans_cut = true;
    assert_eq!(found(&cut), [], "there may be more of them");
    let mut untagged = with_bond(nics(&[5, 6], &[5]), 0);
    untagged.nics[1].lldp[0].pvid = Some(6);
    assert_eq!(found(&untagged), [], "the untagged one is one of them");
}

fn receives(mut nic: NicEvidence, frames: u64, own: u64, tags: &[(u16, u64)]) -> NicEvidence {
    nic.lldp.clear();
    let (tags, flooded) = (tags.to_vec(), tags.to_vec());
    nic.recent = Some(Recent { window_ms: 90_000, frames, own, tags, flooded });
    nic
}

#[test]
fn a_vlan_that_never_comes_in_on_one_member_is_told() {
    let nics = |a: (u64, u64), b: (u64, u64)| {
        let one = |i, (frames, tagged): (u64, u64)| {
            receives(nic(i, |_| {}), frames, 0, &[(5, tagged), (0, frames - tagged)])
        };
        vec![one(0, a), one(1, b)]
    };
    let group = |a, b| found(&with_group(nics(a, b), Some(5)));
    assert_eq!(group((100, 50), (100, 0)), is(Code::VlanMismatch, "eth1"));
    assert_eq!(group((100, 19), (100, 0)), [], "too few to tell");
    assert_eq!(group((100, 50), (19, 0)), [], "it receives hardly anything");
    assert_eq!(group((100, 50), (100, 1)), []);
    // A switch may send all of a few conversations over one port of a bond.
    let bond = |a, b| {
        let mut evidence = with_bond(nics(a, b), 0);
        evidence.bonds[0].tags = vec![5];
        found(&evidence)
    };
    assert_eq!(bond((100, 50), (100, 0)), []);
    assert_eq!(bond((9000, 5000), (100, 0)), is(Code::VlanMismatch, "eth1"));
}

#[test]
fn of_a_group_only_what_is_for_all_is_compared_and_only_over_the_whole_time() {
    let member = |index, tagged, flooded| {
        let mut nic = receives(nic(index, |_| {}), 100, 0, &[(5, tagged)]);
        let recent = nic.recent.as_mut().expect("it receives");
        recent.flooded = vec![(5, flooded)];
        nic
    };
    let group = |nics| with_group(nics, Some(5));
    assert_eq!(found(&group(vec![member(0, 90, 0), member(1, 0, 0)])), [], "one has the address");
    let lacking = group(vec![member(0, 90, 50), member(1, 0, 0)]);
    assert_eq!(found(&lacking), is(Code::VlanMismatch, "eth1"));
    assert_eq!(
        diagnose(&lacking)[0].evidence[0],
        "eth0: 50 of 100 frames in 90 s are to everybody in VLAN 5"
    );
    let changes: [fn(&mut NicEvidence); 3] = [
        |nic| nic.link_ms = 89_999,
        |nic| nic.recent = None,
        // It was not looked for all the time.
        |nic| nic.recent.as_mut().expect("it receives").flooded.clear(),
    ];
    for change in changes {
        let mut early = lacking.clone();
        change(&mut early.nics[1]);
        assert_eq!(found(&early), []);
    }
}

#[test]
fn a_bond_in_a_group_receives_by_any_of_its_ports() {
    let nics = |flooded: [u64; 3]| -> Vec<_> {
        let one = |(i, n): (usize, &u64)| receives(nic(i, |_| {}), 100, 0, &[(5, *n)]);
        flooded.iter().enumerate().map(one).collect()
    };
    let group = |flooded| {
        let mut evidence = with_group(nics(flooded), None);
        let name = |i: usize| format!("eth{i}");
        evidence.groups[0].members = vec![(vec![name(0), name(1)], None), (vec![name(2)], None)];
        evidence.groups[0].tags = vec![5];
        found(&evidence)
    };
    assert_eq!(group([50, 0, 50]), []);
    assert_eq!(group([50, 0, 0]), is(Code::VlanMismatch, "eth2"));
    assert_eq!(group([0, 0, 50]), is(Code::VlanMismatch, "eth0 eth1"));
}

#[test]
fn members_that_have_one_hardware_address_are_told() {
    let tree = tree(|s| {
        s.groups.push(group_of(&["eth0", "eth1", "eth2"]));
        s.aliases.push(alias("data0", "fail0"));
    });
    let found = |last: [u8; 3], offline: Option<&str>| {
        let macs = last.map(|last| [2, 0, 0, 0, 0, last]);
        let mut keeper = crate::Keeper::new(&tree, &macs, 1);
        let now = Instant::from_millis(1000);
        keeper.handle_links(now, (0..3).map(|nic| (nic, PortLink::UP, Some(macs[nic]))));
        if let Some(name) = offline {
            keeper.set_offline(now, name, true).expect("it may go");
        }
        diagnose(&Evidence::new(&tree, keeper.reports(now), Vec::new()))
    };
    assert_eq!(found([1, 2, 3], None), []);
    let told = found([1, 2, 1], None);
    assert_eq!(
        (told.len(), told[0].code, told[0].severity),
        (1, Code::DuplicateMac, Severity::Error)
    );
    assert_eq!(
        (told[0].interface.as_str(), &told[0].ports[..]),
        ("fail0", &["eth2".to_owned()][..])
    );
    assert_eq!(
        told[0].evidence,
        [
            "eth0: hardware address 02:00:00:00:00:01",
            "eth2: hardware address 02:00:00:00:00:01, taken out of fail0"
        ]
    );
    let both: Vec<_> = found([1, 1, 1], None).into_iter().map(|d| d.ports.join(" ")).collect();
    assert_eq!(both, ["eth1", "eth2"]);
    assert_eq!(found([1, 2, 1], Some("eth2")), [], "the operator took it out");
    assert_eq!(Code::DuplicateMac.to_string(), "DUPLICATE_MAC");
}

#[test]
fn frames_that_would_not_fit_are_told() {
    let nics =
        |a: u16, b: u16| vec![nic(0, |n| n.max_frame = Some(a)), nic(1, |n| n.max_frame = Some(b))];
    assert_eq!(found(&with_bond(nics(1518, 1517), 0)), is(Code::MtuMismatch, "eth1"));
    assert_eq!(diagnose(&with_bond(nics(1518, 1517), 0))[0].severity, Severity::Error);
    let told = diagnose(&with_group(nics(9216, 1522), None));
    assert_eq!((told[0].code, told[0].severity), (Code::MtuMismatch, Severity::Warning));
    assert_eq!(found(&with_bond(nics(1518, 1518), 0)), []);
    let mut own = with_bond(vec![nic(0, |_| {}), nic(1, |_| {})], 0);
    own.nics[1].mtu = Some(9000);
    assert_eq!(found(&own), is(Code::MtuMismatch, "eth1"));
    own.nics[1].mtu = None;
    assert_eq!(found(&own), []);
}

fn aggregate(id: u32) -> Aggregation {
    Aggregation { capable: true, enabled: id != 0, id }
}

fn aggregates(ids: &[u32]) -> Vec<NicEvidence> {
    ids.iter().enumerate().map(|(i, id)| nic(i, |n| n.aggregation = Some(aggregate(*id)))).collect()
}

#[test]
fn cables_in_the_wrong_port_are_told_by_lldp() {
    assert_eq!(found(&with_bond(aggregates(&[7, 7, 7]), 0)), []);
    for wrong in [8, 0] {
        let evidence = with_bond(aggregates(&[7, 7, wrong]), 0);
        assert_eq!(found(&evidence), is(Code::WrongPort, "eth2"));
        let advice = &diagnose(&evidence)[0].advice;
        assert!(advice.contains("plug eth2 into a port of aggregate 7"), "{advice}");
        // Another NIC is where it should be.
        let evidence = with_bond(aggregates(&[7, 7, wrong, 7]), 1);
        let told = diagnose(&evidence);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].advice, "exchange the cables of eth2 and eth3");
    }
    assert_eq!(found(&with_bond(aggregates(&[8, 7, 7]), 0)), is(Code::WrongPort, "eth0"));
    let mut elsewhere = with_bond(aggregates(&[7, 7]), 0);
    let other = &mut elsewhere.nics[1].lldp[0];
    (other.chassis, other.aggregation) = ("02:00:00:00:00:98".to_owned(), Some(aggregate(3)));
    assert_eq!(found(&elsewhere), [], "numbers of two switches cannot be compared");
    let mut new = with_bond(aggregates(&[7, 8]), 0);
    new.nics[1].lldp[0].known_ms = 0;
    assert_eq!(found(&new), []);
}

#[test]
fn silence_of_lacp_is_told_with_what_lldp_and_frames_show() {
    let silent = |nics| {
        let bonds = vec![bond(Mode::Lacp, 2, settle::SILENT)];
        Evidence { bonds, nics, ..Evidence::default() }
    };
    let both = "eth0 eth1";
    let plain = silent(vec![nic(0, |_| {}), nic(1, |_| {})]);
    assert_eq!(found(&plain), is(Code::NoPartner, both));
    let advice = &diagnose(&plain)[0].advice;
    assert!(advice.contains("port Gi1/0/0 (to the host) of sw1, port Gi1/0/1"), "{advice}");
    let mut early = silent(Vec::new());
    early.bonds = vec![bond(Mode::Lacp, 2, settle::SILENT - 1)];
    assert_eq!(found(&early), []);
    // The switch has a group, without LACP.
    let grouped = silent(aggregates(&[7, 7]));
    assert_eq!(found(&grouped), is(Code::StaticOrNone, both));
    assert!(diagnose(&grouped)[0].evidence[0].ends_with("in aggregate 7"));
    // Frames come over both ports, or ours come back.
    let frames = |a, b, own| {
        let nics = vec![receives(nic(0, |_| {}), a, 0, &[]), receives(nic(1, |_| {}), b, own, &[])];
        found(&silent(nics))
    };
    assert_eq!(frames(100, 0, 0), is(Code::NoPartner, both));
    assert_eq!(frames(100, 100, 0), is(Code::StaticOrNone, both));
    assert_eq!(frames(0, 5, 5), is(Code::StaticOrNone, both));
    // Besides, one of them is in no aggregate at all.
    let wrong = found(&silent(aggregates(&[7, 0])));
    assert_eq!(wrong, [is(Code::StaticOrNone, both), is(Code::WrongPort, "eth1")].concat());
}

#[test]
fn own_frames_that_come_back_are_told_where_they_should_not() {
    let nics = |own| vec![receives(nic(0, |_| {}), 100, own, &[]), nic(1, |_| {})];
    assert_eq!(found(&with_bond(nics(3), 0)), is(Code::Looped, "eth0"));
    assert_eq!(found(&with_bond(nics(2), 0)), [], "by chance");
    let mut backup = with_bond(nics(9), 0);
    backup.bonds = vec![bond(Mode::ActiveBackup, 2, 0)];
    assert_eq!(found(&backup), [], "broadcasts are flooded to the port that waits");
    assert_eq!(found(&with_group(nics(9), None)), [], "and to other members");
    let alone = Evidence { nics: nics(9), ..Evidence::default() };
    assert_eq!(found(&alone), is(Code::Looped, "eth0"));
}

#[test]
fn one_switch_port_that_is_heard_on_two_nics_is_told() {
    let same = |port: &str| {
        let nics = vec![nic(0, |_| {}), nic(1, |n| port.clone_into(&mut n.port))];
        found(&Evidence { nics, ..Evidence::default() })
    };
    assert_eq!(same("Gi1/0/0"), is(Code::Duplicate, "eth0 eth1"));
    assert_eq!(same("Gi1/0/1"), []);
}

#[test]
fn of_several_neighbours_only_a_single_bridge_is_believed() {
    let mut nic = nic(0, |n| n.bridge = Some(true));
    nic.lldp.push(switch_port("phone"));
    let mut evidence = Evidence { nics: vec![nic], ..Evidence::default() };
    assert_eq!(evidence.other_end("eth0"), "port Gi1/0/0 (to the host) of sw1");
    evidence.nics[0].lldp[1].bridge = Some(true);
    assert_eq!(evidence.other_end("eth0"), "the switch port that eth0 is connected to");
}

fn tree(change: impl FnOnce(&mut TreeSpec)) -> Tree {
    let nic = |i| NicSpec {
        name: format!("eth{i}"),
        device: String::new(),
        driver: "tap",
        ethernet: true,
        mtu: None,
    };
    let mut spec = TreeSpec { nics: (0..3).map(nic).collect(), ..TreeSpec::default() };
    change(&mut spec);
    Tree::new(spec).expect("legal")
}

fn alias(name: &str, over: &str) -> AliasSpec {
    AliasSpec { name: name.to_owned(), over: Some(over.to_owned()), ..AliasSpec::default() }
}

fn bond_of(ports: &[&str]) -> BondSpec {
    let ports = ports.iter().map(|p| PortConfig::named(p)).collect();
    BondSpec { name: "bond0".to_owned(), config: BondConfig { ports, ..BondConfig::default() } }
}

fn group_of(members: &[&str]) -> GroupSpec {
    let members = members.iter().map(|m| (*m).to_owned()).collect();
    let config = GroupConfig { members, ..GroupConfig::default() };
    GroupSpec { name: "fail0".to_owned(), config }
}

fn lint(tree: &Tree) -> Vec<(Code, String)> {
    let found = diagnose(&Evidence { lint: lint::examine(tree), ..Evidence::default() });
    found.into_iter().map(|d| (d.code, d.interface)).collect()
}

#[test]
fn what_the_configuration_alone_shows_is_told() {
    let good = tree(|s| {
        s.bonds.push(bond_of(&["eth0", "eth1"]));
        s.groups.push(group_of(&["bond0.5", "eth2.5"]));
        s.aliases.push(alias("data0", "fail0"));
    });
    assert_eq!(lint(&good), []);
    let alone = tree(|s| s.aliases.push(alias("data0", "eth0.5")));
    assert_eq!(lint(&alone), is(Code::NoFailover, "data0"));
    let several = tree(|s| {
        s.bonds.push(bond_of(&["eth0", "eth1"]));
        s.aliases = vec![alias("data0", "bond0.5"), alias("data1", "bond0.6")];
    });
    assert_eq!(lint(&several), is(Code::BondVlans, "bond0"));
    let tags = tree(|s| {
        s.groups.push(group_of(&["eth0.5", "eth2.6"]));
        s.aliases.push(alias("data0", "fail0"));
    });
    assert_eq!(lint(&tags), is(Code::VlanMismatch, "fail0"));
}

#[test]
fn a_member_with_the_hardware_address_of_another_is_named() {
    let tree = tree(|s| {
        s.groups.push(group_of(&["eth0", "eth1", "eth2"]));
        s.aliases.push(alias("data0", "fail0"));
    });
    let macs = [1, 1, 2].map(|last| [2, 0, 0, 0, 0, last]);
    let mut keeper = crate::Keeper::new(&tree, &macs, 1);
    let now = Instant::from_millis(1000);
    let up = |keeper: &mut crate::Keeper, mac: Option<crate::Mac>| {
        keeper.handle_links(now, (0..3).map(|nic| (nic, PortLink::UP, mac.filter(|_| nic == 1))));
        let nics = vec![NicEvidence::default(); 3];
        Evidence::new(&tree, keeper.reports(now), nics)
    };
    let found = diagnose(&up(&mut keeper, None));
    assert_eq!(found.len(), 1, "{found:?}");
    let Diagnosis { severity, code, interface, ports, evidence, .. } = &found[0];
    assert_eq!(
        (*severity, *code, interface.as_str()),
        (Severity::Error, Code::DuplicateMac, "fail0")
    );
    assert_eq!(ports[..], ["eth1"]);
    assert_eq!(
        evidence[..],
        [
            "eth0: hardware address 02:00:00:00:00:01",
            "eth1: hardware address 02:00:00:00:00:01, taken out of fail0"
        ]
    );
    // With another address it is no more.
    assert_eq!(diagnose(&up(&mut keeper, Some([2, 0, 0, 0, 0, 9]))), []);
}

#[test]
fn evidence_follows_the_tree() {
    let tree = tree(|s| {
        s.bonds.push(bond_of(&["eth0", "eth1"]));
        s.groups.push(group_of(&["bond0.5", "eth2.5"]));
        s.aliases.push(alias("data0", "fail0"));
    });
    let report = bond(Mode::Lacp, 2, 0).report;
    let reports = Reports { bonds: vec![report], groups: Vec::new() };
    let evidence = Evidence::new(&tree, reports, vec![nic(0, |_| {})]);
    assert_eq!((evidence.bonds[0].name.as_str(), &evidence.bonds[0].tags[..]), ("bond0", &[5][..]));
    let text = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let members = [(text(&["eth0", "eth1"]), Some(5)), (text(&["eth2"]), Some(5))];
    assert_eq!(evidence.groups[0].members, members);
}

#[test]
fn the_worst_comes_first_and_codes_are_written_as_the_table_has_them() {
    let mut evidence = with_bond(vec![nic(0, |n| n.max_frame = Some(1000)), nic(1, |_| {})], 0);
    evidence.lint = lint::examine(&tree(|s| s.aliases.push(alias("data0", "eth0"))));
    let told = diagnose(&evidence);
    assert_eq!(
        told.iter().map(|d| d.severity).collect::<Vec<_>>(),
        [Severity::Error, Severity::Info]
    );
    assert_eq!(Code::StaticOrNone.to_string(), "STATIC_OR_NONE");
    let json = serde_json::to_value(&told[0]).expect("it is data");
    assert_eq!((&json["code"], &json["severity"]), (&"MTU_MISMATCH".into(), &"error".into()));
}

#[test]
fn recent_counts_go_back_one_to_two_minutes() {
    let sample = |frames| {
        let (tags, flooded) = (vec![(5, frames)], vec![(5, frames / 10)]);
        Sample { frames, own: frames / 10, tags, flooded }
    };
    let mut watch = Watch::default();
    for second in 0..300u64 {
        let now = second * 1000;
        watch.observe(now, &sample(second * 10));
        match watch.recent(now, &sample(second * 10)) {
            None => assert!(second < 60),
            Some(recent) => {
                assert!((60_000..=120_000).contains(&recent.window_ms), "{recent:?}");
                assert_eq!(recent.frames, recent.window_ms / 100);
                assert_eq!(
                    (recent.own, recent.tags, recent.flooded),
                    (recent.frames / 10, vec![(5, recent.frames)], vec![(5, recent.frames / 10)])
                );
            }
        }
    }
}

#[test]
fn what_several_workers_saw_is_added_and_a_vlan_counts_since_it_is_looked_for() {
    let sample = |frames, tags: &[(u16, u64)]| {
        let (tags, flooded) = (tags.to_vec(), tags.to_vec());
        Sample { frames, own: 1, tags, flooded }
    };
    let mut sum = sample(100, &[(5, 10), (6, 20)]);
    sum.add(&sample(50, &[(5, 1), (7, 2)]));
    assert_eq!(sum, Sample { own: 2, ..sample(150, &[(5, 11), (6, 20), (7, 2)]) });
    let mut watch = Watch::default();
    watch.observe(0, &sample(0, &[(5, 0)]));
    watch.observe(60_000, &sum);
    let recent = watch.recent(60_000, &sum).expect("a minute");
    assert_eq!((recent.frames, recent.tags), (150, vec![(5, 11)]));
}

#[test]
fn a_station_hears_tells_and_names_what_is_wrong() {
    use crate::lldp::wire::{self, Id, IdKind, Lldpdu};
    use crate::{BondSelection, Selection};

    let tree = tree(|s| {
        s.bonds.push(bond_of(&["eth0", "eth1"]));
        s.aliases = vec![alias("data0", "bond0"), alias("data1", "eth2")];
    });
    let macs = [[2, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
    let config = crate::lldp::LldpConfig::default();
    let mut station = Station::new(&tree, &macs, config, ("host", "weft"));
    let at = |second: u64| Instant::from_millis(second * 1000);
    let facts = NicFacts { up: true, mtu: Some(9000) };
    (0..3).for_each(|nic| station.handle_link(at(1), nic, facts));
    let both = BondSelection { distributing: [0, 1].into_iter().collect(), ..Default::default() };
    let selection = Selection { bonds: vec![both], ..Selection::default() };
    station.handle_selection(at(1), &tree, &selection);
    let mut sent = Vec::new();
    while let Some((nic, frame)) = station.poll_transmit() {
        sent.push((nic, wire::parse(&frame).expect("legal").0));
    }
    assert_eq!(sent.iter().map(|s| s.0).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(sent[1].1.aggregation, Some(aggregate(4)));
    assert_eq!((sent[2].1.aggregation, sent[2].1.max_frame), (None, Some(9018)));
    // The ports of a switch that has smaller frames, and one in another VLAN.
    for nic in 0..2 {
        let chassis = Id::mac(IdKind::Mac, [9; 6]);
        let port = Id::text(IdKind::Local, &format!("p{nic}"));
        let mut pdu = Lldpdu { ttl: 120, max_frame: Some(1518), ..Lldpdu::new(chassis, port) };
        pdu.pvid = Some(5 + nic as u16);
        station.handle_frame(at(1), nic, &pdu.emit([9; 6]));
    }
    let codes = |station: &mut Station, second: u64| {
        station.handle_timeout(at(second));
        let samples = vec![Sample { frames: second, own: second, ..Sample::default() }; 3];
        let reports = Reports { bonds: vec![bond(Mode::Lacp, 2, 0).report], groups: Vec::new() };
        let found = station.diagnose(at(second), &tree, reports, &samples);
        found.into_iter().map(|d| (d.code, d.interface)).collect::<Vec<_>>()
    };
    let (vlan, mtu) =
        ((Code::VlanMismatch, "bond0".to_owned()), (Code::MtuMismatch, "bond0".to_owned()));
    let lint = (Code::NoFailover, "data1".to_owned());
    assert_eq!(codes(&mut station, 2), std::slice::from_ref(&lint));
    assert_eq!(codes(&mut station, 60), [vlan.clone(), mtu.clone(), lint.clone()]);
    // Own frames came back while it looked.
    let looped = [(Code::Looped, "bond0".to_owned()), vlan, mtu];
    let alone = (Code::Looped, "eth2".to_owned());
    let all = [looped.as_slice(), &[alone, lint]].concat();
    assert_eq!(codes(&mut station, 100), all);
    station.shutdown();
    assert_eq!(station.neighbours(at(100))[0].neighbours, []);
}

use smallvec::SmallVec;

use super::*;
use crate::bond::PortConfig;

fn nic(name: &str) -> NicSpec {
    let device = String::new();
    NicSpec { name: name.to_owned(), device, driver: "tap", ethernet: true, mtu: None }
}

fn nics(count: usize) -> Vec<NicSpec> {
    (0..count).map(|i| nic(&format!("eth{i}"))).collect()
}

fn bond(name: &str, ports: &[&str]) -> BondSpec {
    let ports = ports.iter().map(|p| PortConfig::named(p)).collect();
    BondSpec { name: name.to_owned(), config: BondConfig { ports, ..BondConfig::default() } }
}

fn group(name: &str, members: &[&str]) -> GroupSpec {
    let members = members.iter().map(|m| (*m).to_owned()).collect();
    GroupSpec { name: name.to_owned(), config: GroupConfig { members, ..GroupConfig::default() } }
}

fn alias(name: &str, over: &str) -> AliasSpec {
    let over = Some(over).filter(|o| !o.is_empty()).map(str::to_owned);
    AliasSpec { name: name.to_owned(), over, ..AliasSpec::default() }
}

fn spec(count: usize) -> TreeSpec {
    TreeSpec { nics: nics(count), ..TreeSpec::default() }
}

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

/// The only thing that is wrong, in words, and where.
fn refused(spec: TreeSpec) -> (At, String) {
    let errors = Tree::new(spec).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    (errors[0].at, errors[0].to_string())
}

fn full() -> TreeSpec {
    TreeSpec {
        bonds: vec![bond("Bond0", &["eth0", "ETH1"])],
        vlans: vec![VlanSpec { name: "bond0.5".into(), priority: Some(3) }],
        groups: vec![group("fail0", &["bond0.5", "eth2.5"])],
        aliases: vec![
            alias("data0", "fail0"),
            alias("mgmt0", "bond0.7"),
            alias("San1", "eth3"),
            alias("san1.9", ""),
            alias("data2.5", "eth3"),
        ],
        ..spec(4)
    }
}

#[test]
fn every_layer_becomes_a_link_after_what_it_stands_on() {
    let tree = Tree::new(full()).unwrap();
    let names: Vec<_> = tree.links.iter().map(|l| l.name.to_string()).collect();
    let expected = [
        "eth0", "eth1", "eth2", "eth3", "bond0", "bond0.5", "eth2.5", "bond0.7", "eth3.9",
        "eth3.5", "fail0",
    ];
    assert_eq!(names, expected);
    assert_eq!(tree.nics, 4);
    for i in 0..tree.links.len() {
        let below = tree.below(LinkId(u16::try_from(i).unwrap()));
        assert!(below.iter().all(|b| usize::from(b.0) < i));
    }
    let link = |text| tree.link(&name(text)).unwrap();
    let below = tree.nics_below(link("fail0"));
    assert_eq!(below, SmallVec::<[usize; 8]>::from_slice(&[0, 1, 2]));
    let priority = Some(3);
    let LinkKind::Bond(0) = tree.at(link("bond0")).kind else { panic!() };
    let kind = LinkKind::Vlan { over: link("bond0"), tag: 5, priority };
    assert_eq!(tree.at(link("bond0.5")).kind, kind);
    assert_eq!(tree.at(link("eth2.5")).above, Some(Owner::Group(0)));
    assert_eq!(tree.at(link("eth0")).above, Some(Owner::Bond(0)));
    assert_eq!(tree.at(link("bond0")).above, None);
    assert_eq!(tree.aliases[2].link, link("eth3"));
    assert_eq!((tree.aliases[3].link, tree.aliases[3].tag), (link("eth3.9"), Some(9)));
    assert_eq!(tree.aliases_of(link("eth3.5")).collect::<Vec<_>>(), [4]);
    assert_eq!(tree.bonds[0].config.ports[1].number, Some(2));
    assert!(tree.warnings().is_empty(), "{:?}", tree.warnings());
}

#[test]
fn a_path_is_drawn_from_the_top_in_order() {
    let tree = Tree::new(full()).unwrap();
    let path = tree.path(tree.link(&name("fail0")).unwrap());
    let drawn: Vec<_> = path.iter().map(|(d, l)| format!("{d}{}", tree.at(*l).name)).collect();
    assert_eq!(drawn, ["0fail0", "1bond0.5", "2bond0", "3eth0", "3eth1", "1eth2.5", "2eth2"]);
}

#[test]
fn a_component_has_one_owner_and_nothing_else_stands_on_it() {
    let used = |bonds, groups| refused(TreeSpec { bonds, groups, ..spec(3) });
    let two = vec![bond("bond0", &["eth0"]), bond("bond1", &["eth1", "eth0"])];
    let (at, text) = used(two, vec![]);
    assert_eq!(
        (at, text.as_str()),
        (At::Port(1, 1), "eth0 is used by bond0 already; a component has one owner")
    );
    let (at, text) = used(vec![bond("bond0", &["eth0", "eth0"])], vec![]);
    assert_eq!((at, text.contains("eth0 is used by bond0")), (At::Port(0, 1), true));
    let (at, _) = used(vec![bond("bond0", &["eth0"])], vec![group("fail0", &["eth0", "eth1"])]);
    assert_eq!(at, At::Member(0, 0));
    let (at, _) = used(vec![], vec![group("fail0", &["eth0"]), group("fail1", &["eth1", "eth0"])]);
    assert_eq!(at, At::Member(1, 1));

    let on = |over: &str| {
        let bonds = vec![bond("bond0", &["eth0"])];
        let groups = vec![group("fail0", &["bond0", "eth2.5"])];
        refused(TreeSpec { bonds, groups, aliases: vec![alias("data0", over)], ..spec(3) })
    };
    let (at, text) = on("eth0");
    let said = "eth0 is a part of bond0, so nothing else stands on it; put data0 over bond0";
    assert_eq!((at, text.as_str()), (At::Over(0), said));
    assert_eq!(on("eth0.7").1, said.replace("data0", "eth0.7"));
    assert!(on("bond0").1.starts_with("bond0 is a part of fail0"));
    assert!(on("bond0.3").1.starts_with("bond0 is a part of fail0"));
    assert!(on("eth2.5").1.starts_with("eth2.5 is a part of fail0"));
}

#[test]
fn names_stand_where_their_kind_belongs() {
    let one = |change: fn(&mut TreeSpec)| {
        let mut s = spec(2);
        change(&mut s);
        refused(s)
    };
    let (at, text) = one(|s| s.nics.push(nic("bond0")));
    assert_eq!((at, text.as_str()), (At::Nic(2), "'bond0' cannot be a NIC: eth# is"));
    let (at, text) = one(|s| s.aliases.push(alias("eth5", "eth0")));
    assert_eq!((at, text.contains("mgmt#, data# and san# are")), (At::Alias(0), true));
    assert_eq!(one(|s| s.bonds.push(bond("bond0", &["eth0.5"]))).0, At::Port(0, 0));
    assert_eq!(one(|s| s.bonds.push(bond("bond0", &["eth7"]))).0, At::Port(0, 0));
    assert_eq!(one(|s| s.bonds.push(bond("data0", &["eth0"]))).0, At::Bond(0));
    assert_eq!(one(|s| s.groups.push(group("fail0", &["data0"]))).0, At::Member(0, 0));
    let (at, text) = one(|s| s.aliases.push(alias("data0", "eth7")));
    assert_eq!((at, text.contains("add [nic.eth7]")), (At::Over(0), true));
    let (at, text) = one(|s| s.aliases.push(alias("data0", "bond7.5")));
    assert_eq!((at, text.contains("add [bond.bond7]")), (At::Over(0), true));
    assert_eq!(one(|s| s.aliases.push(alias("data0", "data1"))).0, At::Over(0));
    assert_eq!(one(|s| s.aliases.push(alias("data0", ""))).0, At::Alias(0));
    assert_eq!(
        one(|s| s.nics.push(nic("Eth1"))).1,
        "'eth1' is defined twice; give one of them another number"
    );
    let vlan = |s: &mut TreeSpec| s.vlans.push(VlanSpec { name: "data0.5".into(), priority: None });
    assert_eq!(one(vlan).0, At::Vlan(0));
}

#[test]
fn a_frame_carries_one_tag() {
    let one = |groups, aliases| refused(TreeSpec { groups, aliases, ..spec(2) });
    let tagged = || vec![group("fail0", &["eth0.5", "eth1.5"])];
    let (at, text) = one(tagged(), vec![alias("data0", "fail0.7")]);
    assert_eq!(at, At::Over(0));
    assert!(text.starts_with("fail0.7 would be the second VLAN tag over eth0.5"), "{text}");
    assert_eq!(one(tagged(), vec![alias("data0.7", "fail0")]).0, At::Alias(0));
    assert_eq!(one(vec![], vec![alias("data0.7", "eth0.5")]).0, At::Alias(0));
}

#[test]
fn groups_do_not_nest() {
    let one = |members: &[&str]| {
        let groups = vec![group("fail1", &["eth0"]), group("fail0", members)];
        refused(TreeSpec { groups, ..spec(2) })
    };
    assert!(one(&["eth1", "fail1"]).1.contains("groups do not nest"));
    assert!(one(&["eth1", "fail1.5"]).1.contains("groups do not nest"));
    assert!(one(&["eth1", "fail0.5"]).1.contains("no member of itself"));
    assert!(one(&["eth1.5", "eth1.6"]).1.contains("both go over eth1"));
}

#[test]
fn settings_of_bonds_fit_their_ports_and_each_other() {
    let one = |change: fn(&mut BondConfig)| {
        let mut bonds = vec![bond("bond0", &["eth0"]), bond("bond1", &["eth1", "eth2"])];
        change(&mut bonds[1].config);
        refused(TreeSpec { bonds, ..spec(3) })
    };
    assert_eq!(one(|c| c.min_links = 3).0, At::MinLinks(1));
    assert_eq!(one(|c| (c.min_links, c.lacp.max_ports) = (2, Some(1))).0, At::MinLinks(1));
    assert_eq!(one(|c| c.primary = Some("eth0".into())).0, At::Bond(1));
    assert_eq!(one(|c| c.ports[1].number = Some(2)).0, At::Port(1, 1));
    assert_eq!(one(|c| c.ports[1].number = Some(0)).0, At::Port(1, 1));
    let system = Some([2, 0, 0, 0, 0, 1]);
    let mut bonds = vec![bond("bond0", &["eth0"]), bond("bond1", &["eth1"])];
    for b in &mut bonds {
        b.config.lacp.system = system;
    }
    let (at, text) = refused(TreeSpec { bonds: bonds.clone(), ..spec(3) });
    assert!(at == At::Bond(1) && text.contains("one LACP system and key 1"), "{text}");
    bonds[1].config.lacp.key = 2;
    Tree::new(TreeSpec { bonds: bonds.clone(), ..spec(3) }).unwrap();
    bonds[1].config.ports[0].number = Some(1);
    assert_eq!(refused(TreeSpec { bonds, ..spec(3) }).0, At::Port(1, 0));

    let mut s = TreeSpec { bonds: vec![bond("bond0", &["eth0", "eth1"])], ..spec(2) };
    s.nics[1].driver = "af-xdp";
    let (at, text) = refused(s);
    assert_eq!(at, At::Port(0, 1));
    assert!(text.starts_with("eth0 has driver \"tap\" and eth1 has \"af-xdp\""), "{text}");
}

#[test]
fn settings_of_groups_name_members() {
    let one = |change: fn(&mut GroupSpec)| {
        let mut g = group("fail0", &["eth0", "eth1"]);
        change(&mut g);
        refused(TreeSpec { groups: vec![g], ..spec(3) })
    };
    let test = |s: &mut GroupSpec, member: &str, cidr: &str| {
        s.config.test.push((member.to_owned(), cidr.parse().unwrap()));
    };
    assert_eq!(one(|g| g.config.standby = vec!["eth2".into()]).0, At::Standby(0, 0));
    assert_eq!(one(|g| g.config.standby = vec!["eth0".into(), "ETH1".into()]).0, At::Group(0));
    assert_eq!(
        one(|g| g.config.test = vec![("eth2".into(), "10.0.0.1/8".parse().unwrap())]).0,
        At::Test(0, 0)
    );
    assert_eq!(one(|g| g.config.hook = Some("event".into())).0, At::Group(0));
    let mut g = group("fail0", &["eth0", "eth1"]);
    test(&mut g, "eth0", "10.0.0.1/24");
    test(&mut g, "eth1", "10.0.0.1/24");
    assert!(refused(TreeSpec { groups: vec![g], ..spec(2) }).1.contains("given twice"));
    for bad in ["2001:db8::1/64", "224.0.0.1/8", "0.0.0.0/0", "::1/128"] {
        let mut g = group("fail0", &["eth0", "eth1"]);
        test(&mut g, "eth0", bad);
        assert_eq!(refused(TreeSpec { groups: vec![g], ..spec(2) }).0, At::Test(0, 0), "{bad}");
    }
}

#[test]
fn bare_ip_carries_aliases_only() {
    let one = |change: fn(&mut TreeSpec)| {
        let mut s = spec(2);
        s.nics[0] = NicSpec { ethernet: false, driver: "tun", ..nic("eth0") };
        s.aliases.push(alias("data0", "eth0"));
        Tree::new(s.clone()).unwrap();
        change(&mut s);
        refused(s)
    };
    assert_eq!(one(|s| s.bonds.push(bond("bond0", &["eth0", "eth1"]))).0, At::Port(0, 0));
    assert_eq!(one(|s| s.groups.push(group("fail0", &["eth1", "eth0"]))).0, At::Member(0, 1));
    assert_eq!(one(|s| s.aliases.push(alias("data1", "eth0.5"))).0, At::Over(1));
    assert_eq!(one(|s| s.aliases[0].mac = Some([2; 6])).0, At::Mac(0));
}

#[test]
fn an_mtu_is_at_most_that_of_everything_below() {
    let mut s = full();
    s.nics[0].mtu = Some(9000);
    s.nics[2].mtu = Some(4000);
    s.aliases[0].mtu = Some(4000);
    s.aliases[1].mtu = Some(9000);
    let tree = Tree::new(s.clone()).unwrap();
    assert_eq!(tree.at(tree.link(&name("fail0")).unwrap()).mtu, Some(4000));
    s.aliases[0].mtu = Some(4001);
    let (at, text) = refused(s);
    let said = "mtu 4001 of data0 is larger than that of fail0 below it; at most 4000";
    assert_eq!((at, text.as_str()), (At::Mtu(0), said));
}

#[test]
fn one_mac_address_is_one_device() {
    let mut s =
        TreeSpec { aliases: vec![alias("data0", "eth0"), alias("data1", "eth0")], ..spec(2) };
    s.aliases.iter_mut().for_each(|a| a.mac = Some([2; 6]));
    let (at, text) = refused(s.clone());
    assert_eq!(at, At::Mac(1));
    assert!(text.starts_with("data0 and data1 have one MAC address, 02:02:02:02:02:02"), "{text}");
    s.aliases[1].over = Some("eth1".into());
    Tree::new(s).unwrap();
}

#[test]
fn an_alias_with_a_tag_stands_where_the_one_without_does() {
    let s = |over| TreeSpec {
        aliases: vec![alias("data0", "eth0"), alias("data0.5", over)],
        ..spec(2)
    };
    assert!(Tree::new(s("")).is_ok() && Tree::new(s("eth0")).is_ok());
    assert!(refused(s("eth1")).1.contains("data0 stands over eth0"));
}

#[test]
fn limits_hold() {
    let names: Vec<_> = (0..=PORTS_MAX).map(|i| format!("eth{i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (at, text) = refused(TreeSpec { bonds: vec![bond("bond0", &names)], ..spec(40) });
    assert_eq!((at, text.as_str()), (At::Bond(0), "33 ports of a bond; at most 32"));
    assert_eq!(
        refused(TreeSpec { groups: vec![group("fail0", &names)], ..spec(40) }).0,
        At::Group(0)
    );
    assert!(
        refused(TreeSpec { bonds: vec![bond("bond0", &[])], ..spec(1) }).1.contains("no ports")
    );
    assert!(
        refused(TreeSpec { groups: vec![group("fail0", &[])], ..spec(1) }).1.contains("no members")
    );
    let vlan =
        |n: usize| VlanSpec { name: format!("eth{}.{}", n / 4094, 1 + n % 4094), priority: None };
    let many = |n| TreeSpec { vlans: (0..n).map(vlan).collect(), ..spec(20) };
    assert_eq!(refused(many(LINKS_MAX)).0, At::Whole);
    assert_eq!(refused(many(70_000)).0, At::Whole);
}

#[test]
fn what_looks_like_a_mistake_is_told() {
    let told = |s: TreeSpec| {
        let warnings = Tree::new(s).unwrap().warnings();
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let on = |members: &[&str]| TreeSpec {
        groups: vec![group("fail0", members)],
        aliases: vec![alias("data0", "fail0")],
        ..spec(3)
    };
    assert_eq!(told(on(&["eth0", "eth1"])), "");
    let text = told(on(&["eth0.5", "eth1"]));
    assert!(text.contains("eth0.5 is in VLAN 5 and eth1 is untagged"), "{text}");
    assert!(told(on(&["eth0.5", "eth1.6"])).contains("one network"));
    assert!(told(on(&["eth0"])).contains("fail0 has one member"));
    let mut s = on(&["eth0", "eth1"]);
    (s.nics[0].mtu, s.nics[1].mtu) = (Some(9000), Some(1500));
    assert!(told(s).contains("eth0 has mtu 9000 and eth1 has 1500"));
    let s = TreeSpec { bonds: vec![bond("bond0", &["eth0", "eth1"])], ..spec(3) };
    assert!(told(s).contains("bond0 carries no alias"));
}

#[test]
fn the_tree_is_drawn_with_states_from_what_carries_aliases_down() {
    let mut s = full();
    s.groups[0].config.standby = vec!["eth2.5".into()];
    let tree = Tree::new(s).unwrap();
    let facts = |up: bool| draw::NicFacts { up, mtu: 1500, mac: Some("02:00".into()) };
    let nics = [facts(true), facts(false), facts(true), facts(true)];
    let mut live = std::collections::BTreeMap::new();
    live.insert("eth1".to_owned(), ("down".to_owned(), "no link".to_owned()));
    let lines = tree.draw(&nics, &live);
    let columns = ["interface", "state", "detail", "aliases"];
    let text = draw::table(&lines, &columns).unwrap();
    let names: Vec<_> = text.lines().skip(1).map(|l| l.split("  up").next().unwrap()).collect();
    let names: Vec<_> =
        names.iter().map(|n| n.split("  down").next().unwrap().trim_end()).collect();
    let expected = [
        "eth3",
        "bond0.7",
        "└─ bond0",
        "   ├─ eth0",
        "   └─ eth1",
        "eth3.9",
        "└─ eth3",
        "eth3.5",
        "└─ eth3",
        "fail0",
        "├─ bond0.5",
        "│  └─ bond0",
        "│     ├─ eth0",
        "│     └─ eth1",
        "└─ eth2.5",
        "   └─ eth2",
    ];
    assert_eq!(names, expected, "{text}");
    assert!(text.contains("lacp, 1 of 2 ports up") && text.contains("no link"), "{text}");
    assert!(text.contains("2 of 2 members up") && text.contains("tag 5, priority 3"), "{text}");
    assert!(draw::table(&lines, &["speed"]).unwrap_err().contains("no column"));
}

//! Random trees against an oracle that knows names and rules only: what it allows loads and holds
//! the invariants, what it forbids is refused for a reason that it has too.

use std::collections::{BTreeSet, HashMap, HashSet};

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::bond::PortConfig;

const PORTS: [&str; 8] = ["eth0", "eth1", "eth2", "eth3", "ETH4", "eth5", "bond0", "eth1.5"];
const MEMBERS: [&str; 17] = [
    "eth0", "eth1", "eth2", "eth3", "eth4", "bond0", "bond1", "Eth1.5", "eth2.5", "eth3.6",
    "bond0.5", "bond1.5", "eth2.6", "fail0", "fail1", "fail0.5", "data0",
];
const OVERS: [&str; 18] = [
    "eth0", "eth1", "eth2", "eth3", "eth4", "eth5", "bond0", "bond1", "eth1.5", "ETH4.7",
    "bond0.5", "bond1.7", "fail0", "fail1", "fail0.5", "Fail1.7", "fail0.9", "data1",
];
const ALIASES: [&str; 8] =
    ["data0", "data1", "Data2", "mgmt0", "san0", "data0.5", "mgmt0.7", "san7.9"];

fn texts(
    from: &'static [&'static str],
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<String>> {
    // Without repetitions, which are rare in files too; one in a while is added.
    let distinct = vec(select(from), count).prop_map(|mut all| {
        let mut seen = HashSet::new();
        all.retain(|t| seen.insert(*t));
        all
    });
    (distinct, weighted(0.05, select(from))).prop_map(|(mut all, more)| {
        all.extend(more);
        all.into_iter().map(str::to_owned).collect()
    })
}

fn nics() -> impl Strategy<Value = Vec<NicSpec>> {
    let one = (
        prop::bool::weighted(0.03),
        prop::bool::weighted(0.05),
        weighted(0.2, select(vec![1500, 9000])),
    );
    vec(one, 2..7).prop_map(|all| {
        let nic = |(i, (ip, packet, mtu)): (usize, (bool, bool, Option<usize>))| NicSpec {
            name: format!("eth{i}"),
            device: format!("veth{i}"),
            driver: match (ip, packet) {
                (true, _) => "tun",
                (_, true) => "packet",
                _ => "af-xdp",
            },
            ethernet: !ip,
            mtu,
        };
        all.into_iter().enumerate().map(nic).collect()
    })
}

fn bonds() -> impl Strategy<Value = Vec<BondSpec>> {
    let one = (texts(&PORTS, 1..3), 0..3u16, prop::bool::weighted(0.1), 1..3u16);
    vec(one, 0..3).prop_map(|all| {
        let bond =
            |(i, (ports, min_links, system, key)): (usize, (Vec<String>, u16, bool, u16))| {
                let mut config = BondConfig { min_links, ..BondConfig::default() };
                config.ports = ports.iter().map(|p| PortConfig::named(p)).collect();
                config.lacp.system = system.then_some([2; 6]);
                config.lacp.key = key;
                BondSpec { name: format!("bond{i}"), config }
            };
        all.into_iter().enumerate().map(bond).collect()
    })
}

fn groups() -> impl Strategy<Value = Vec<GroupSpec>> {
    let one = (texts(&MEMBERS, 1..4), weighted(0.1, select(&MEMBERS[..])));
    vec(one, 0..4).prop_map(|all| {
        let group = |(i, (members, standby)): (usize, (Vec<String>, Option<&str>))| GroupSpec {
            name: format!("fail{i}"),
            config: GroupConfig {
                members,
                standby: standby.map(str::to_owned).into_iter().collect(),
                ..GroupConfig::default()
            },
        };
        all.into_iter().enumerate().map(group).collect()
    })
}

fn aliases() -> impl Strategy<Value = Vec<AliasSpec>> {
    let one = (
        select(&ALIASES[..]),
        weighted(0.95, select(&OVERS[..])),
        weighted(0.1, select(vec![1500, 9000])),
        weighted(0.05, Just([2; 6])),
    );
    vec(one, 0..5).prop_map(|all| {
        let alias = |(name, over, mtu, mac): (&str, Option<&str>, _, _)| AliasSpec {
            name: name.to_owned(),
            over: over.map(str::to_owned),
            mtu,
            mac,
            ..AliasSpec::default()
        };
        all.into_iter().map(alias).collect()
    })
}

fn specs() -> impl Strategy<Value = TreeSpec> {
    let parts = (nics(), bonds(), groups(), aliases());
    parts.prop_map(|(nics, bonds, groups, aliases)| TreeSpec {
        nics,
        bonds,
        vlans: Vec::new(),
        groups,
        aliases,
    })
}

/// What is wrong, by rules over names.
struct Oracle<'a> {
    spec: &'a TreeSpec,
    /// By lower-case name: what it consists of.
    parts: HashMap<String, Vec<String>>,
    wrong: BTreeSet<&'static str>,
}

fn split(name: &str) -> (String, Option<&str>) {
    match name.split_once('.') {
        Some((base, tag)) => (base.to_lowercase(), Some(tag)),
        None => (name.to_lowercase(), None),
    }
}

fn is(name: &str, kinds: &[&str]) -> bool {
    kinds.iter().any(|k| name.to_lowercase().starts_with(k))
}

impl Oracle<'_> {
    fn judge(spec: &TreeSpec) -> BTreeSet<&'static str> {
        let low = |all: &[String]| all.iter().map(|t| t.to_lowercase()).collect::<Vec<_>>();
        let mut parts = HashMap::new();
        parts.extend(spec.nics.iter().map(|n| (n.name.clone(), Vec::new())));
        for b in &spec.bonds {
            let ports: Vec<String> = b.config.ports.iter().map(|p| p.name.clone()).collect();
            parts.insert(b.name.clone(), low(&ports));
        }
        parts.extend(spec.groups.iter().map(|g| (g.name.clone(), low(&g.config.members))));
        let mut o = Oracle { spec, parts, wrong: BTreeSet::new() };
        o.bonds();
        o.groups();
        o.owners();
        o.aliases();
        o.wrong
    }

    fn say(&mut self, is: bool, what: &'static str) {
        if is {
            self.wrong.insert(what);
        }
    }

    fn known(&mut self, name: &str) {
        let base = split(name).0;
        self.say(!self.parts.contains_key(&base), "unknown");
    }

    fn tun(&self, name: &str) -> bool {
        let base = split(name).0;
        self.spec.nics.iter().any(|n| n.name == base && !n.ethernet)
    }

    /// All NICs a name rests on; depth bounded, for groups in groups are wrong anyway.
    fn nics(&self, name: &str, depth: usize) -> Vec<&NicSpec> {
        let base = split(name).0;
        let own = self.spec.nics.iter().filter(|n| n.name == base);
        let parts = self.parts.get(&base).filter(|_| depth < 4).into_iter().flatten();
        own.chain(parts.flat_map(|p| self.nics(p, depth + 1))).collect()
    }

    fn owners_of(&self, name: &str) -> usize {
        self.parts.values().flatten().filter(|p| **p == name.to_lowercase()).count()
    }

    fn bonds(&mut self) {
        for b in &self.spec.bonds {
            let ports = &b.config.ports;
            self.say(usize::from(b.config.min_links.max(1)) > ports.len(), "min-links");
            let mut drivers = BTreeSet::new();
            for p in ports {
                let plain = is(&p.name, &["eth"]) && split(&p.name).1.is_none();
                self.say(!plain, "place");
                self.known(&p.name);
                self.say(self.tun(&p.name), "not-ethernet");
                let of = self.spec.nics.iter().find(|n| n.name == p.name.to_lowercase());
                drivers.extend(of.map(|n| n.driver));
            }
            self.say(drivers.len() > 1, "drivers");
        }
        let systems = self.spec.bonds.iter().map(|b| &b.config.lacp);
        let systems: Vec<_> = systems.filter(|l| l.system.is_some()).map(|l| l.key).collect();
        let distinct: HashSet<_> = systems.iter().collect();
        self.say(distinct.len() < systems.len(), "key");
    }

    fn groups(&mut self) {
        for g in &self.spec.groups {
            let members = &g.config.members;
            for (i, m) in members.iter().enumerate() {
                self.say(is(m, &["data"]), "place");
                let own = split(m).0 == g.name;
                self.say(is(m, &["fail"]), if own { "cycle" } else { "nested" });
                self.known(m);
                self.say(self.tun(m), "not-ethernet");
                let (base, tag) = split(m);
                let same = |o: &String| split(o).0 == base && split(o).1.is_some();
                self.say(tag.is_some() && members[..i].iter().any(same), "shared");
            }
            for s in &g.config.standby {
                let member = members.iter().any(|m| m.eq_ignore_ascii_case(s));
                self.say(!member, "no-member");
                self.say(member && members.len() == 1, "all-standby");
            }
        }
    }

    fn owners(&mut self) {
        let all: Vec<String> = self.parts.values().flatten().cloned().collect();
        for part in all {
            self.say(self.owners_of(&part) > 1, "used");
            let (base, tag) = split(&part);
            self.say(tag.is_some() && self.owners_of(&base) > 0, "locked");
        }
    }

    fn aliases(&mut self) {
        let mut names = HashSet::new();
        for a in &self.spec.aliases {
            let name = a.name.to_lowercase();
            self.say(!names.insert(name.clone()), "twice");
            let (base, own) = split(&name);
            let of = |o: &&AliasSpec| o.name.to_lowercase() == base;
            let bases: Vec<_> = self.spec.aliases.iter().filter(of).collect();
            let theirs = bases.iter().find_map(|o| o.over.as_ref()).filter(|_| own.is_some());
            let Some(over) = a.over.as_ref().or(theirs) else {
                self.say(true, "no-over");
                continue;
            };
            self.say(theirs.is_some_and(|t| !t.eq_ignore_ascii_case(over)), "over-differs");
            self.say(is(over, &["data"]), "place");
            if is(over, &["data"]) {
                continue;
            }
            self.known(over);
            let (below, tag) = split(over);
            self.say(own.is_some() && tag.is_some(), "two-tags");
            let tag = tag.or(own);
            self.say(tag.is_some() && self.tun(over), "not-ethernet");
            self.say(a.mac.is_some() && self.tun(over), "not-ethernet");
            self.say(tag.is_some() && self.owners_of(&below) > 0, "locked");
            let link = tag.map_or(below.clone(), |t| format!("{below}.{t}"));
            self.say(self.owners_of(&link) > 0, "locked");
            let parts = self.parts.get(&below).into_iter().flatten();
            let tagged = is(&below, &["fail"]) && parts.clone().any(|p| p.contains('.'));
            self.say(tag.is_some() && tagged, "two-tags");
            let most = self.nics(over, 0).iter().filter_map(|n| n.mtu).min();
            self.say(matches!((a.mtu, most), (Some(mtu), Some(most)) if mtu > most), "mtu");
            let same = |o: &AliasSpec| {
                let over = o.over.clone().unwrap_or_default().to_lowercase();
                let own = split(&o.name).1.map_or(over.clone(), |t| format!("{over}.{t}"));
                o.mac.is_some() && own == link && !o.name.eq_ignore_ascii_case(&a.name)
            };
            // `data0.5` without `over` stands where `data0` does.
            let unsaid = self.spec.aliases.iter().any(|o| o.over.is_none() && o.mac.is_some());
            let twice = self.spec.aliases.iter().any(same) || unsaid;
            if a.mac.is_some() && twice {
                let sure = self.spec.aliases.iter().any(same);
                self.wrong.insert(if sure { "mac-twice" } else { "maybe-mac-twice" });
            }
        }
    }
}

/// The names of all reasons, of which none can be left out.
macro_rules! reasons {
    ($($variant:pat => $name:literal,)*) => {
        fn reason(why: &Illegal) -> &'static str {
            match why {
                $($variant => $name,)*
            }
        }
        const REASONS: &[&str] = &[$($name),*];
    };
}

reasons! {
    Illegal::Name(_) => "name",
    Illegal::Place { .. } => "place",
    Illegal::Twice(_) => "twice",
    Illegal::DeviceShared(..) => "device-shared",
    Illegal::Unknown(_) => "unknown",
    Illegal::NotEthernet { .. } => "not-ethernet",
    Illegal::Used { .. } => "used",
    Illegal::Locked { .. } => "locked",
    Illegal::Drivers { .. } => "drivers",
    Illegal::Empty(..) => "empty",
    Illegal::TooMany { .. } => "too-many",
    Illegal::MinLinks { .. } => "min-links",
    Illegal::PortNumber { .. } => "port-number",
    Illegal::PortNumberZero(_) => "port-number-zero",
    Illegal::Key { .. } => "key",
    Illegal::MacTwice { .. } => "mac-twice",
    Illegal::Primary { .. } => "primary",
    Illegal::SharedNic { .. } => "shared",
    Illegal::Nested { .. } => "nested",
    Illegal::Cycle { .. } => "cycle",
    Illegal::NoMember { .. } => "no-member",
    Illegal::AllStandby(_) => "all-standby",
    Illegal::TestTwice { .. } => "test-twice",
    Illegal::TestNotLocal(_) => "test-not-local",
    Illegal::TestNoHost(_) => "test-no-host",
    Illegal::Group { .. } => "group",
    Illegal::Beyond { .. } => "beyond",
    Illegal::TwoTags { .. } => "two-tags",
    Illegal::NoOver(_) => "no-over",
    Illegal::OverDiffers { .. } => "over-differs",
    Illegal::Mtu { .. } => "mtu",
    Illegal::Priority(_) => "priority",
}

/// What is added to a legal tree so that one thing is wrong with it, and with nothing else.
struct Addition {
    spec: TreeSpec,
    nics: [String; 2],
}

impl Addition {
    /// Two NICs that nobody has.
    fn to(legal: &TreeSpec) -> Addition {
        let mut spec = legal.clone();
        let nics = ["eth900", "eth901"].map(str::to_owned);
        spec.nics.extend(nics.iter().map(|name| NicSpec {
            name: name.clone(),
            device: format!("dev-{name}"),
            driver: "tap",
            ethernet: true,
            mtu: Some(1500),
        }));
        Addition { spec, nics }
    }

    fn nic(&mut self) -> &mut NicSpec {
        self.spec.nics.last_mut().unwrap()
    }

    fn bond(&mut self, ports: &[String]) -> &mut BondConfig {
        let ports = ports.iter().map(|p| PortConfig::named(p)).collect();
        let mut config = BondConfig { ports, ..BondConfig::default() };
        config.lacp.key = 900;
        self.spec.bonds.push(BondSpec { name: String::from("bond900"), config });
        &mut self.spec.bonds.last_mut().unwrap().config
    }

    fn group(&mut self, members: &[&str]) -> &mut GroupConfig {
        let members = members.iter().map(|m| (*m).to_owned()).collect();
        let config = GroupConfig { members, ..GroupConfig::default() };
        self.spec.groups.push(GroupSpec { name: String::from("fail900"), config });
        &mut self.spec.groups.last_mut().unwrap().config
    }

    fn alias(&mut self, name: &str, over: &str) -> &mut AliasSpec {
        let (name, over) = (name.to_owned(), Some(over.to_owned()));
        self.spec.aliases.push(AliasSpec { name, over, ..AliasSpec::default() });
        self.spec.aliases.last_mut().unwrap()
    }

    fn test(&mut self, tests: &[&str]) {
        let both = ["eth900", "eth901"];
        let group = self.group(&both);
        let of = |(cidr, member): (&&str, &&str)| ((*member).to_owned(), cidr.parse().unwrap());
        group.test = tests.iter().zip(&both).map(of).collect();
    }

    /// Something of the layers below aliases.
    fn spoil_links(&mut self, what: &str) -> bool {
        let nics = self.nics.clone();
        match what {
            "name" => self.nic().name = String::from("enp3s0"),
            "place" => self.nic().name = String::from("bond7"),
            "twice" => self.nic().name = String::from("ETH900"),
            "device-shared" => self.nic().device = String::from("dev-eth900"),
            "unknown" => drop(self.bond(&["eth999".to_owned()])),
            "not-ethernet" => {
                self.nic().ethernet = false;
                self.bond(&nics[1..]);
            }
            "used" => {
                self.bond(&nics);
                self.group(&["eth901"]);
            }
            "drivers" => {
                self.nic().driver = "packet";
                self.bond(&nics);
            }
            "empty" => drop(self.bond(&[])),
            "too-many" => drop(self.bond(&vec![String::from("eth900"); PORTS_MAX + 1])),
            "min-links" => self.bond(&nics).min_links = 3,
            "port-number" => {
                self.bond(&nics).ports.iter_mut().for_each(|p| p.number = Some(7));
            }
            "port-number-zero" => self.bond(&nics).ports[0].number = Some(0),
            "primary" => self.bond(&nics).primary = Some(String::from("eth999")),
            "key" => {
                self.bond(&nics[..1]).lacp.system = Some([2, 0, 0, 0, 9, 0]);
                let mut other = self.spec.bonds.last().unwrap().clone();
                other.name = String::from("bond901");
                other.config.ports = vec![PortConfig::named(&nics[1])];
                self.spec.bonds.push(other);
            }
            "priority" => {
                let name = String::from("eth900.5");
                self.spec.vlans.push(VlanSpec { name, priority: Some(8) });
            }
            _ => return self.spoil_groups(what) || self.spoil_aliases(what),
        }
        true
    }

    fn spoil_groups(&mut self, what: &str) -> bool {
        match what {
            "shared" => drop(self.group(&["eth900.5", "eth900.6"])),
            "nested" => {
                self.group(&["eth900"]);
                self.group(&["eth901", "fail900"]);
                self.spec.groups.last_mut().unwrap().name = String::from("fail901");
            }
            "cycle" => drop(self.group(&["eth900", "fail900.5"])),
            "no-member" => self.group(&["eth900"]).standby = vec![String::from("eth901")],
            "all-standby" => self.group(&["eth900"]).standby = vec![String::from("eth900")],
            "test-twice" => self.test(&["10.0.0.1/24", "10.0.0.1/24"]),
            "test-not-local" => self.test(&["2001:db8::1/64"]),
            "test-no-host" => self.test(&["224.0.0.1/24"]),
            "group" => self.group(&["eth900"]).flaps_max = 0,
            _ => return false,
        }
        true
    }

    fn spoil_aliases(&mut self, what: &str) -> bool {
        match what {
            "locked" => {
                self.group(&["eth900"]);
                self.alias("data900", "eth900");
            }
            "mac-twice" => {
                self.alias("data900", "eth900").mac = Some([2, 0, 0, 0, 9, 0]);
                self.alias("data901", "eth900").mac = Some([2, 0, 0, 0, 9, 0]);
            }
            "beyond" => {
                self.alias("data900", "eth900").beyond.hook = Some(String::from("relative"));
            }
            "two-tags" => drop(self.alias("data900.5", "eth900.6")),
            "no-over" => self.alias("data900", "").over = None,
            "over-differs" => {
                self.alias("data900", "eth900");
                self.alias("data900.5", "eth901");
            }
            "mtu" => self.alias("data900", "eth900").mtu = Some(1501),
            _ => return false,
        }
        true
    }
}

fn holds(spec: &TreeSpec, tree: &Tree) {
    let ids = || (0..tree.links.len()).map(|i| LinkId(u16::try_from(i).unwrap()));
    let mut owned: HashMap<LinkId, Owner> = HashMap::new();
    for (i, b) in tree.bonds.iter().enumerate() {
        for p in &b.ports {
            assert!(owned.insert(*p, Owner::Bond(i)).is_none());
        }
    }
    for (i, g) in tree.groups.iter().enumerate() {
        for m in &g.members {
            assert!(owned.insert(*m, Owner::Group(i)).is_none());
        }
    }
    let mut names = HashSet::new();
    for id in ids() {
        let link = tree.at(id);
        assert!(names.insert(link.name.clone()));
        assert_eq!(tree.link(&link.name), Some(id));
        assert_eq!(link.above, owned.get(&id).copied());
        assert!(tree.below(id).iter().all(|b| b.0 < id.0), "{} stands too early", link.name);
        let nics = tree.nics_below(id);
        let distinct: HashSet<_> = nics.iter().collect();
        assert!(!nics.is_empty() && distinct.len() == nics.len(), "{}", link.name);
        let tag = |l: LinkId| tree.at(l).name.tag().is_some();
        // At most one on the way to each NIC: none below one.
        if tag(id) {
            assert!(tree.path(id).iter().skip(1).all(|(_, l)| !tag(*l)), "{}", link.name);
        }
        if let LinkKind::Vlan { over, .. } = link.kind {
            assert!(tree.at(over).above.is_none());
        }
    }
    assert_eq!(tree.aliases.len(), spec.aliases.len());
    for alias in &tree.aliases {
        assert!(tree.at(alias.link).above.is_none());
        let mtus = tree.nics_below(alias.link).into_iter().filter_map(|n| spec.nics[n].mtu);
        assert_eq!(tree.at(alias.link).mtu, mtus.min());
    }
}

/// What of a specification can be added without anything becoming wrong.
fn legal_part(spec: &TreeSpec) -> TreeSpec {
    let mut out = TreeSpec { nics: spec.nics.clone(), ..TreeSpec::default() };
    for bond in &spec.bonds {
        out.bonds.push(bond.clone());
        if !Oracle::judge(&out).is_empty() {
            out.bonds.pop();
        }
    }
    for group in &spec.groups {
        out.groups.push(group.clone());
        if !Oracle::judge(&out).is_empty() {
            out.groups.pop();
        }
    }
    for alias in &spec.aliases {
        out.aliases.push(alias.clone());
        if !Oracle::judge(&out).is_empty() {
            out.aliases.pop();
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn legal_trees_load_and_illegal_ones_are_refused_with_the_right_reason(spec in specs()) {
        let wrong = Oracle::judge(&spec);
        match Tree::new(spec.clone()) {
            Ok(tree) => {
                let surely = wrong.iter().find(|w| !w.starts_with("maybe"));
                prop_assert!(surely.is_none(), "{wrong:?} was allowed");
                holds(&spec, &tree);
            }
            Err(errors) => {
                prop_assert!(!wrong.is_empty(), "legal, but {errors:?}");
                for e in &errors {
                    let reason = reason(&e.why);
                    let maybe = format!("maybe-{reason}");
                    let known = wrong.iter().any(|w| *w == reason || **w == *maybe);
                    prop_assert!(known, "{e} is not among {wrong:?}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn everything_legal_of_a_tree_loads_and_holds(spec in specs()) {
        let spec = legal_part(&spec);
        let tree = Tree::new(spec.clone());
        prop_assert!(tree.is_ok(), "{:?}", tree.unwrap_err());
        holds(&spec, &tree.unwrap());
    }
}

proptest! {
    #[test]
    fn one_thing_that_is_wrong_with_a_tree_is_its_only_reason(spec in specs()) {
        let legal = legal_part(&spec);
        let mut met = BTreeSet::new();
        for what in REASONS {
            let mut addition = Addition::to(&legal);
            prop_assert!(Tree::new(addition.spec.clone()).is_ok(), "what is added is legal");
            prop_assert!(addition.spoil_links(what), "nothing is known that is {what}");
            let errors = Tree::new(addition.spec).expect_err(what);
            let reasons: Vec<_> = errors.iter().map(|e| reason(&e.why)).collect();
            prop_assert!(reasons.iter().all(|r| r == what), "{what}: {errors:?}");
            met.extend(reasons);
        }
        prop_assert_eq!(met.len(), REASONS.len());
    }
}

#[test]
fn random_trees_are_legal_often_enough_to_say_something() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut legal, mut rich) = (0, 0);
    let mut reasons = BTreeSet::new();
    for _ in 0..2000 {
        let spec = specs().new_tree(&mut runner).unwrap().current();
        let part = legal_part(&spec);
        let full = !part.bonds.is_empty() && !part.groups.is_empty() && !part.aliases.is_empty();
        rich += usize::from(full);
        match Tree::new(spec) {
            Ok(_) => legal += 1,
            Err(errors) => reasons.extend(errors.iter().map(|e| reason(&e.why))),
        }
    }
    assert!(legal > 50 && rich > 30, "{legal} {rich}");
    assert!(reasons.len() >= 17, "{reasons:?}");
}

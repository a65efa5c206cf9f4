//! What is in force is the nearest definition, whatever the tree looks like.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;

use super::super::{HostConfig, parse};
use super::*;

fn config(text: &str) -> HostConfig {
    let text = format!("[nic.eth0]\ndevice = \"veth0\"\n[alias.data0]\nover = \"eth0\"\n{text}");
    parse(&text, Path::new("weft.toml")).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn find<'c>(c: &'c HostConfig, vserver: usize, key: &str) -> Option<&'c Setting> {
    c.vservers[vserver].settings.iter().find(|s| s.key == key)
}

/// A scalar, a list of plain values, a merged table: one key each.
const KEYS: [(&str, &str); 3] =
    [("limits", "routes"), ("limits", "tcp_listeners"), ("tcp", "time_wait_s")];

#[derive(Clone, Debug)]
struct Tree {
    /// Parent of group n, below n; the first is a root.
    parents: Vec<Option<usize>>,
    /// Per group and the vserver at the end: its values of [`KEYS`].
    values: Vec<[Option<u64>; 3]>,
    /// Per group and the vserver: cuts `limits`.
    cuts: Vec<bool>,
    group: Option<usize>,
}

fn trees() -> impl Strategy<Value = Tree> {
    (1..7_usize).prop_flat_map(|n| {
        let parents: Vec<_> = (0..n)
            .map(|i| proptest::option::of(0..i.max(1)).prop_map(move |p| p.filter(|p| *p < i)))
            .collect();
        let value = proptest::option::of(1..200_u64);
        let values = proptest::collection::vec([value.clone(), value.clone(), value], n + 1);
        let cuts = proptest::collection::vec(proptest::bool::weighted(0.2), n + 1);
        (parents, values, cuts, proptest::option::of(0..n))
            .prop_map(|(parents, values, cuts, group)| Tree { parents, values, cuts, group })
    })
}

/// The file of a tree: the order of its groups does not matter, so that they come backwards.
fn written(t: &Tree) -> String {
    let mut out = String::new();
    for (i, values) in t.values.iter().enumerate().rev() {
        let cut = if t.cuts[i] { "cut = [\"limits\"]\n" } else { "" };
        if let Some(parent) = t.parents.get(i) {
            let parent = parent.map(|p| format!("parent = \"g{p}\"\n")).unwrap_or_default();
            write!(out, "[group.g{i}]\n{parent}{cut}").unwrap();
        } else {
            let group = t.group.map(|g| format!("group = \"g{g}\"\n")).unwrap_or_default();
            let address = "addresses = [\"data0 10.0.0.1/24\"]\n";
            write!(out, "[vserver.v]\n{address}{group}{cut}").unwrap();
        }
        for ((table, key), value) in KEYS.iter().zip(values) {
            if let Some(value) = value {
                writeln!(out, "{table}.{key} = {value}").unwrap();
            }
        }
    }
    out
}

/// The model: who gives key `k`, walked by hand. The vserver is the last of `values`.
fn nearest_of(t: &Tree, k: usize) -> Option<(usize, u64)> {
    let mut at = Some(t.parents.len());
    while let Some(i) = at {
        if let Some(value) = t.values[i][k] {
            return Some((i, value));
        }
        if t.cuts[i] && KEYS[k].0 == "limits" {
            return None;
        }
        at = if i == t.parents.len() { t.group } else { t.parents[i] };
    }
    None
}

proptest! {
    #[test]
    fn in_force_is_the_nearest_definition_of_the_chain(t in trees()) {
        let c = config(&written(&t));
        let v = &c.vservers[0];
        let defaults = super::super::Vserver::default();
        let got = [v.limits.routes as u64, v.limits.tcp_listeners as u64, u64::from(v.tcp.time_wait_s)];
        let unset = [
            defaults.limits.routes as u64,
            defaults.limits.tcp_listeners as u64,
            u64::from(defaults.tcp.time_wait_s),
        ];
        for (k, (table, key)) in KEYS.iter().enumerate() {
            let key = format!("{table}.{key}");
            let noted = find(&c, 0, &key);
            match nearest_of(&t, k) {
                None => {
                    prop_assert_eq!(got[k], unset[k]);
                    prop_assert!(noted.is_none());
                    let default = c.defaults.iter().find(|s| s.key == key).unwrap();
                    prop_assert_eq!(&default.value, &unset[k].to_string());
                }
                Some((i, value)) => {
                    prop_assert_eq!(got[k], value);
                    let noted = noted.unwrap();
                    prop_assert_eq!(&noted.value, &value.to_string());
                    match &noted.origin {
                        Origin::Vserver { .. } => prop_assert_eq!(i, t.parents.len()),
                        Origin::Group { name, .. } => prop_assert_eq!(name, &format!("g{i}")),
                        Origin::Default => prop_assert!(false),
                    }
                }
            }
        }
    }
}

const FAMILY: &str = r#"
[group.base]
routes = [
    { to = "default", via = "10.0.0.1" },
    { to = "172.16.0.0/12", via = "10.0.0.2" },
]
[group.base.limits]
tcp_listeners = 7
[[group.base.service]]
kind = "echo"
port = 7
[group.gold]
parent = "base"
[group.gold.tcp]
congestion = "bbr"
[vserver.a]
group = "gold"
addresses = ["data0 10.0.0.10/24"]
routes = [{ to = "default", via = "10.0.0.254" }]
[[vserver.a.service]]
kind = "discard"
port = 9
[vserver.b]
group = "gold"
cut = ["routes", "service"]
addresses = ["data0 10.0.0.11/24"]
[vserver.web]
group = "gold"
count = 3
addresses = ["data0 10.0.0.20/24"]
"#;

#[test]
fn lists_of_tables_add_up_and_the_nearer_route_to_a_network_wins() {
    let c = config(FAMILY);
    let via = |v: usize| -> Vec<_> {
        c.vservers[v].routes.iter().map(|r| r.via.unwrap().to_string()).collect()
    };
    assert_eq!(via(0), ["10.0.0.254", "10.0.0.2"]);
    let ports: Vec<_> = c.vservers[0].services.iter().map(|s| s.listen.port()).collect();
    assert_eq!(ports, [9, 7]);
    // The route that lost is not in force.
    let routes: Vec<_> = c.vservers[0].settings.iter().filter(|s| s.key == "routes").collect();
    assert_eq!(routes.len(), 2);
    assert_eq!(routes[0].value, r#"{ to = "default", via = "10.0.0.254" }"#);
    assert!(matches!(routes[0].origin, Origin::Vserver { .. }));
    assert_eq!(routes[1].origin.to_string(), "group base, line 9");
    // A cut keeps everything out, the rest still comes.
    assert!(c.vservers[1].routes.is_empty() && c.vservers[1].services.is_empty());
    assert_eq!(c.vservers[1].limits.tcp_listeners, 7);
    assert_eq!(find(&c, 1, "tcp.congestion").unwrap().value, "\"bbr\"");
}

#[test]
fn every_vserver_of_a_count_inherits() {
    let c = config(FAMILY);
    assert_eq!(c.vservers.len(), 5);
    for v in &c.vservers[2..] {
        assert_eq!((v.routes.len(), v.limits.tcp_listeners), (2, 7), "{}", v.name);
        assert_eq!(v.group, Some(1));
        assert!(v.settings.iter().any(|s| s.key == "limits.tcp_listeners"));
    }
    let shown = c.policy("web3").unwrap();
    assert_eq!(shown.groups, ["gold", "base"]);
    assert_eq!(shown.settings[0].value, "[\"data0 10.0.0.22/24\"]");
    let pacing = shown.settings.iter().find(|s| s.key == "tcp.pacing").unwrap();
    assert_eq!((pacing.value.as_str(), &pacing.origin), ("true", &Origin::Default));
    assert!(c.policy("web").is_none());
    assert_eq!(c.groups[1], Group { name: String::from("gold"), parent: Some(0) });
}

#[test]
fn rates_are_merged_by_key_and_classes_by_name() {
    let c = config(
        "[group.base]\nqos.send = { limit = \"1Gbit/s\", weight = 3 }\n\
         qos.class = [{ name = \"bulk\", dscp = [\"cs1\"] }, { name = \"web\", dscp = [\"ef\"] }]\n\
         [vserver.a]\ngroup = \"base\"\naddresses = [\"data0 10.0.0.1/24\"]\n\
         qos.send.limit = \"10Mbit/s\"\nqos.class = [{ name = \"web\", dscp = [\"af41\"] }]\n",
    );
    let qos = &c.vservers[0].qos;
    assert_eq!((qos.rates.send.limit, qos.rates.send.weight), (Some(10_000_000), 3));
    let names: Vec<_> = qos.classes.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["web", "bulk"]);
    assert_eq!(qos.classes[0].matches.dscp, [34]);
    assert!(find(&c, 0, "qos.send.limit").unwrap().origin.to_string().starts_with("vserver"));
    assert!(find(&c, 0, "qos.send.weight").unwrap().origin.to_string().starts_with("group base"));
    let classes: Vec<_> = c.vservers[0].settings.iter().filter(|s| s.key == "qos.class").collect();
    assert_eq!(classes.len(), 2);
}

#[test]
fn where_a_value_comes_from_is_no_difference() {
    let moved = format!("# a comment\n{FAMILY}");
    assert_eq!(config(FAMILY).vservers[0].settings, config(&moved).vservers[0].settings);
}

//! Every key of a vserver is inherited from its group, overridden by its own, cut, and each time it
//! is told where the value comes from.
#![allow(missing_docs)]

use super::super::tests::{MANUAL, rows};
use super::*;

/// Keys, and two values of each.
const VALUES: [(&str, &str, &str); 31] = [
    ("identity", "\"kind Sql\"", "\"vserver\""),
    ("slaac", "[\"data0\"]", "[\"data1\"]"),
    ("dhcp", "[\"data0 v6 3\"]", "[\"data1\"]"),
    ("acd", "\"on\"", "\"off\""),
    (
        "routes",
        "[{ to = \"10.1.0.0/16\", via = \"10.0.0.3\" }]",
        "[{ to = \"10.2.0.0/16\", via = \"10.0.0.4\" }]",
    ),
    ("tables", "[\"one\"]", "[\"two\"]"),
    ("rules", "[{ dscp = 1, table = \"one\" }]", "[{ dscp = 2, table = \"two\" }]"),
    ("neighbours", "\"one\"", "\"two\""),
    ("forwarding", "true", "false"),
    ("access", "[{ allow = \"ssh\" }]", "[{ drop = \"http\" }]"),
    ("service", "[{ kind = \"echo\", port = 7 }]", "[{ kind = \"echo\", port = 8 }]"),
    ("roles", "[\"r1\"]", "[\"r2\"]"),
    ("tcp.congestion", "\"bbr\"", "\"reno\""),
    ("tcp.ecn", "\"off\"", "\"classic\""),
    ("tcp.fast_open", "\"both\"", "\"client\""),
    ("tcp.syn_cookies", "\"off\"", "\"always\""),
    ("tcp.mtu_probing", "\"off\"", "\"always\""),
    ("dns.servers", "[\"10.0.0.53\"]", "[\"10.0.0.54\"]"),
    ("dns.search", "[\"a.example\"]", "[\"b.example\"]"),
    ("qos.send", "{ limit = \"1 Gbit/s\" }", "{ limit = \"2 Gbit/s\" }"),
    ("qos.receive", "{ limit = \"1 Gbit/s\" }", "{ limit = \"2 Gbit/s\" }"),
    ("qos.group", "\"q1\"", "\"q2\""),
    ("qos.class", "[{ name = \"a\", dscp = [\"ef\"] }]", "[{ name = \"b\", dscp = [\"cs1\"] }]"),
    ("register.ttl_s", "60", "61"),
    ("connect.form", "\"weak\"", "\"full\""),
    ("mdns.host", "\"box\"", "\"other\""),
    ("shim.set_up", "\"immediate\"", "\"never\""),
    ("shim.contexts", "5", "6"),
    ("shim.home", "0", "1"),
    ("shim.udp_port", "4140", "4141"),
    ("shim.accept", "[\"hba\"]", "[\"keyed\"]"),
];

/// What the two above take to be right.
const REST: &str = "[workers]\ncount = 2\n[cluster]\nid = \"00:07:34:04:12:0E\"\nnode = \"Filer1\"\n[nic.eth0]\ndevice = \"veth0\"\n[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth0\"\n\
    [table.one]\n[table.two]\n[neighbours.one]\n[neighbours.two]\n[qos.q1]\n[qos.q2]\n\
    [role.r1]\nusers = [\"1\"]\nallow = \"vserver\"\n[role.r2]\nusers = [\"2\"]\nallow = \"vserver\"\n";

fn config(group: &str, own: &str) -> HostConfig {
    let text = format!(
        "{REST}[group.top]\n{group}\n[group.inner]\nparent = \"top\"\n\
         [vserver.v]\ngroup = \"inner\"\naddresses = [\"data0 10.0.0.1/24\"]\n{own}\n"
    );
    super::super::parse(&text, "weft.toml".as_ref()).unwrap_or_else(|e| panic!("{e}\nin\n{text}"))
}

/// Origins of what is in force for a key, or a table below it, with the values.
fn shown(c: &HostConfig, key: &str) -> Vec<(String, String)> {
    let below = format!("{key}.");
    let settings = c.policy("v").unwrap().settings.into_iter();
    let of = settings.filter(|s| s.key == key || s.key.starts_with(&below));
    of.map(|s| {
        let origin = match s.origin {
            Origin::Vserver { .. } => String::from("vserver"),
            Origin::Group { name, .. } => name,
            Origin::Default => String::from("default"),
        };
        (origin, s.value)
    })
    .collect()
}

/// Numbers and switches of a table as the manual has them, with two other values of each.
fn plain(heading: &str, table: &str) -> Vec<(String, String, String)> {
    let values = |default: &str| match (default.parse::<u64>(), default) {
        (Ok(n), _) => Some(((n + 1).to_string(), (n + 2).to_string())),
        (_, "true") => Some((String::from("false"), String::from("true"))),
        (_, "false") => Some((String::from("true"), String::from("false"))),
        _ => None,
    };
    let rows = rows(MANUAL, heading).into_iter();
    let two = rows.filter_map(|(key, default)| {
        values(default).map(|(a, b)| (format!("{table}.{key}"), a, b))
    });
    two.collect()
}

fn every_key() -> Vec<(String, String, String)> {
    let owned =
        |(key, a, b): &(&str, &str, &str)| ((*key).to_owned(), (*a).to_owned(), (*b).to_owned());
    let mut all: Vec<_> = VALUES.iter().map(owned).collect();
    all.extend(plain("[vserver.*.limits]", "limits"));
    all.extend(plain("[vserver.*.tcp]", "tcp"));
    all.extend(plain("dns = { ... }", "dns"));
    all.extend(plain("connect = { ... }", "connect"));
    all
}

/// A table that needs more than the one key.
fn with_rest(key: &str, value: &str) -> String {
    match key.split_once('.') {
        Some(("register", _)) => {
            format!(
                "dns.servers = [\"10.0.0.53\"]\nregister.zone = \"example.net\"\nregister.names = [\"a\"]\n{key} = {value}"
            )
        }
        // Switched on it would want IPv6 addresses.
        Some(("shim", _)) => format!("shim.enabled = false\n{key} = {value}"),
        _ => format!("{key} = {value}"),
    }
}

#[test]
fn each_key_is_inherited_overridden_and_cut_and_tells_whose_it_is() {
    for (key, inherited, own) in every_key() {
        let top = key.split('.').next().unwrap();
        let from = |c: &HostConfig| -> Vec<String> {
            shown(c, &key).into_iter().map(|(origin, _)| origin).collect()
        };
        let given = config(&with_rest(&key, &inherited), "");
        assert!(from(&given).iter().any(|o| o == "top"), "{key}: {:?}", shown(&given, &key));
        assert!(from(&given).iter().all(|o| o != "vserver"), "{key}");
        let alone = config("", &with_rest(&key, &own));
        let both = config(&with_rest(&key, &inherited), &with_rest(&key, &own));
        assert!(from(&both).iter().any(|o| o == "vserver"), "{key}: {:?}", shown(&both, &key));
        // Lists of tables add up; everything else is the nearest one.
        let adds = ["routes", "rules", "access", "service", "qos.class"].contains(&&*key);
        assert_eq!(from(&both).iter().any(|o| o == "top"), adds, "{key}");
        // Registration takes a resolver, which the group gives with it.
        let more = if top == "register" { ", \"dns\"" } else { "" };
        let cut = config(&with_rest(&key, &inherited), &format!("cut = [\"{top}\"{more}]"));
        assert!(from(&cut).iter().all(|o| o == "default"), "{key}: {:?}", shown(&cut, &key));
        // And what is shown is what is so.
        let bare = config("", "").vservers.remove(0);
        assert_ne!(given.vservers[0], bare, "{key} is inherited");
        assert_eq!(cut.vservers[0], bare, "{key} is cut");
        if !adds {
            assert_eq!(both.vservers[0], alone.vservers[0], "{key} is overridden");
        }
    }
}

#[test]
fn no_key_of_the_manual_is_left_out() {
    let tested = every_key();
    let covers =
        |key: &str| tested.iter().any(|(k, _, _)| k == key || k.starts_with(&format!("{key}.")));
    for (key, _) in rows(MANUAL, "[vserver.*]") {
        assert!(OWN_KEYS.contains(&key) || covers(key), "{key}");
    }
    for (heading, table) in
        [("[vserver.*.limits]", "limits"), ("[vserver.*.tcp]", "tcp"), ("dns = { ... }", "dns")]
    {
        for (key, _) in rows(MANUAL, heading) {
            assert!(covers(&format!("{table}.{key}")), "{table}.{key}");
        }
    }
}

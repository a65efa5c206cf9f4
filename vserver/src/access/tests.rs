use std::net::IpAddr;
use std::sync::Arc;

use weft_stack::admission::{First, Rules, Verdict};
use weft_stack::ip::address::AliasId;
use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::compile::{Compiler, Table, naive};
use super::intervals::Intervals;
use super::*;
use crate::config::{self, HostConfig};

const KINDS: [Option<AliasClass>; 3] =
    [Some(AliasClass::Data), Some(AliasClass::Mgmt), Some(AliasClass::San)];

fn parse(rules: &str) -> Result<HostConfig, String> {
    let text = format!(
        r#"
[nic.eth0]
driver = "mem"
[alias.data0]
over = "eth0"
[alias.mgmt0]
over = "eth0"
[alias.san0]
over = "eth0"
{rules}
"#
    );
    config::parse(&text, "weft.toml".as_ref()).map_err(|e| e.to_string())
}

fn first(alias: u16, service: &str, client: &str) -> First {
    let ports = Ports::parse(service).unwrap().unwrap();
    let protocol = match ports.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Icmp => 1,
        Protocol::Any => 132,
    };
    let port = if ports.first == ports.last { ports.first } else { 0 };
    First { alias: AliasId(alias), protocol, src: client.parse().unwrap(), port }
}

/// The action of the rules of vserver number `index` for a client.
fn decided(config: &HostConfig, index: usize, first: &First) -> Action {
    let v = &config.vservers[index];
    let mut access = HostAccess::default();
    let guard = access.update(config, index, (&v.name, &v.access)).unwrap();
    if !guard.watch().covers(first.protocol, first.port) {
        return Action::Allow;
    }
    match guard.judge(Instant::ZERO, first, 1) {
        Verdict::Allow => Action::Allow,
        Verdict::Drop => Action::Drop,
        Verdict::Reject => Action::Reject,
        Verdict::Prohibit => Action::Prohibit,
    }
}

#[test]
fn management_is_closed_on_data_and_san_and_everything_else_is_open() {
    let config = parse("[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]").unwrap();
    for service in ["tcp/22", "tcp/23", "udp/161", "tcp/8443", "udp/623", "tcp/830"] {
        for (alias, action) in [(0, Action::Drop), (1, Action::Allow), (2, Action::Drop)] {
            for client in ["10.0.0.9", "fd00::9"] {
                assert_eq!(
                    decided(&config, 0, &first(alias, service, client)),
                    action,
                    "{service}"
                );
            }
        }
    }
    for service in ["tcp/80", "tcp/2049", "udp/53", "tcp/65535", "udp/22", "icmp", "any"] {
        for alias in 0..3 {
            let first = first(alias, service, "10.0.0.9");
            assert_eq!(decided(&config, 0, &first), Action::Allow, "{service}");
        }
    }
}

#[test]
fn the_first_rule_that_matches_decides_its_own_before_its_groups_before_the_hosts() {
    let config = parse(
        r#"
[access]
rules = [
    { drop = "tcp/7000", of = "a*" },
    { reject = "any", from = "192.0.2.0/24, 2001:db8::/32" },
    { allow = "ssh", on = "data0", from = "10.1.0.0/16" },
]
[access.service.backup]
ports = ["tcp/7000-7009", "udp/7000"]
[access.class.storage]
services = ["nfs", "backup"]
[group.gold]
access = [{ prohibit = "storage", on = "data" }]
[vserver.a]
group = "gold"
addresses = ["data0 10.0.0.1/24"]
access = [{ allow = "backup", from = "10.0.0.7" }]
[vserver.b]
addresses = ["data0 10.0.0.2/24"]
"#,
    )
    .unwrap();
    for (vserver, alias, service, client, action) in [
        (0, 0, "tcp/7000", "10.0.0.7", Action::Allow),
        (0, 0, "tcp/7009", "10.0.0.7", Action::Allow),
        (0, 0, "tcp/7010", "10.0.0.7", Action::Allow),
        (0, 0, "tcp/7009", "10.0.0.8", Action::Prohibit),
        (0, 0, "udp/7000", "10.0.0.8", Action::Prohibit),
        (0, 0, "udp/7001", "10.0.0.8", Action::Allow),
        (0, 0, "tcp/2049", "10.0.0.7", Action::Prohibit),
        (0, 2, "tcp/2049", "10.0.0.7", Action::Allow),
        (0, 2, "tcp/7000", "10.0.0.8", Action::Drop),
        (1, 0, "tcp/7000", "10.0.0.8", Action::Allow),
        (1, 0, "tcp/80", "192.0.2.9", Action::Reject),
        (1, 0, "icmp", "192.0.2.9", Action::Reject),
        (1, 0, "any", "192.0.2.9", Action::Reject),
        (1, 0, "tcp/80", "2001:db8::1", Action::Reject),
        (1, 0, "tcp/80", "2001:db9::1", Action::Allow),
        (1, 0, "tcp/22", "10.1.255.255", Action::Allow),
        (1, 0, "tcp/22", "10.2.0.0", Action::Drop),
        (1, 2, "tcp/22", "10.1.0.1", Action::Drop),
    ] {
        let found = decided(&config, vserver, &first(alias, service, client));
        assert_eq!(found, action, "{vserver} {alias} {service} from {client}");
    }
    let rules = config.access.effective("a", &config.vservers[0].access);
    let origins: Vec<&str> = rules.iter().map(|r| r.written.0.as_str()).collect();
    assert_eq!(
        origins,
        [
            "vserver, line 26",
            "group gold, line 22",
            "host, line 13",
            "host, line 14",
            "host, line 15",
            "default"
        ]
    );
}

#[test]
fn errors_tell_line_column_and_what_would_be_right() {
    let vserver = "[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n";
    for (text, at, message) in [
        (
            "access = [{ allow = \"sssh\" }]",
            "12:22",
            "'sssh' is no service and no class; did you mean 'ssh'?",
        ),
        ("access = [{ allow = \"http, tcp/0\" }]", "12:28", "'0' is no port from 1 to 65535"),
        ("access = [{ allow = \"tcp/9-8\" }]", "12:22", "'9-8' ends before it begins; write 8-9"),
        ("access = [{ allow = \"sctp/9\" }]", "12:22", "'sctp' is no protocol with ports"),
        ("access = [{ drop = \"ssh\", on = \"data7\" }]", "12:33", "unknown alias 'data7'"),
        ("access = [{ drop = \"ssh\", from = \"10.0.0.1/8\" }]", "12:35", "write 10.0.0.0/8"),
        ("access = [{ drop = \"ssh\", from = \"10.0.0\" }]", "12:35", "'10.0.0' is no client"),
        ("access = [{ drop = \"ssh\", from = \"me\" }]", "12:35", "no DNS servers"),
        ("access = [{ drop = \"ssh\", allow = \"ssh\" }]", "12:13", "a rule has one action"),
        ("access = [{ on = \"data\" }]", "12:11", "a rule says nothing"),
        ("access = [{ drop = \"ssh\", of = \"a\" }]", "12:27", "unknown key 'of'"),
        ("access = [{ deny = \"ssh\" }]", "12:13", "unknown key 'deny'"),
    ] {
        let error = parse(&format!("{vserver}{text}")).expect_err(text);
        assert!(error.contains(&format!("weft.toml:{at}: ")), "{text}\n{error}");
        assert!(error.contains(message), "{text}\n{error}");
    }
    for (text, message) in [
        ("[access.class.c]\nservices = [\"nope\"]", "'nope' is no service"),
        ("[access.class.c]\n", "has no 'services'"),
        ("[access.class.http]\nservices = [\"tcp/1\"]", "'http' is a service already"),
        ("[access.service.any]\nports = [\"tcp/1\"]", "'any' is no name of a service"),
        ("[access.service.s]\nports = [\"http\"]", "'http' is no port"),
        ("[access]\nestablished = \"maybe\"", "use \"keep\" or \"end\""),
        ("[access]\nrules = [{ drop = \"any\", of = \"a*b\" }]", "at the end only"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(message), "{text}\n{error}");
    }
}

/// A rule of random parts.
fn random_rule(rng: &mut Rng) -> AccessRule {
    let mut below = |n: u64| rng.next_u64() % n;
    let action = Action::ALL[below(4) as usize].1;
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Any];
    let ports = (0..=below(3))
        .map(|_| {
            let protocol = protocols[below(4) as usize];
            // Few ports, so that ranges meet; the edges too.
            let edges = [0, 1, 5, 6, 7, 65_534, 65_535];
            let (a, b) = (edges[below(7) as usize], edges[below(7) as usize]);
            match protocol {
                Protocol::Tcp | Protocol::Udp => {
                    Ports { protocol, first: a.min(b), last: a.max(b) }
                }
                _ => Ports { protocol, ..Ports::ANY },
            }
        })
        .collect();
    let on = match below(4) {
        0 => vec![Place::Kind(AliasClass::Data)],
        1 => vec![Place::Alias(1, String::from("mgmt0")), Place::Kind(AliasClass::San)],
        _ => Vec::new(),
    };
    let from = (0..below(4))
        .map(|_| {
            let text = if below(2) == 0 {
                let bits = [0, 8, 30, 31, 32][below(5) as usize];
                format!("10.0.0.{}/{bits}", below(4))
            } else {
                let bits = [0, 64, 127, 128][below(4) as usize];
                format!("fd00::{}/{bits}", below(4))
            };
            text.parse::<Cidr>().unwrap().network()
        })
        .collect();
    AccessRule {
        action,
        services: String::new(),
        ports,
        on,
        of: Vec::new(),
        from,
        names: Vec::new(),
        mark: 0,
        log: false,
        written: Written::default(),
    }
}

#[test]
fn the_compiled_table_decides_as_the_list_does() {
    let mut rng = Rng::from_u64(29);
    let clients: Vec<IpAddr> = (0..4)
        .flat_map(|n| [format!("10.0.0.{n}"), format!("fd00::{n}")])
        .chain(["9.255.255.255", "255.255.255.255", "::", "11.0.0.0"].map(String::from))
        .map(|t| t.parse().unwrap())
        .collect();
    for round in 0..300 {
        let rules: Vec<AccessRule> =
            (0..rng.next_u64() % 8).map(|_| random_rule(&mut rng)).collect();
        let table = Table::new(rules.clone(), &KINDS);
        for alias in 0..3 {
            for (protocol, ports) in [
                (6, &[0, 1, 4, 5, 6, 7, 8, 65_534, 65_535][..]),
                (17, &[0, 1, 6, 65_535]),
                (1, &[0]),
                (58, &[0]),
                (132, &[0]),
            ] {
                for (port, src) in ports.iter().flat_map(|p| clients.iter().map(move |c| (*p, *c)))
                {
                    let first = First { alias: AliasId(alias), protocol, src, port };
                    let right = naive(&rules, &KINDS, &first);
                    assert_eq!(table.find(&first), right, "round {round}: {first:?} of {rules:#?}");
                    assert!(right.is_none() || table.watch.covers(protocol, port), "{first:?}");
                }
            }
        }
    }
}

#[test]
fn a_later_range_lies_over_earlier_ones() {
    let all = Intervals::<u16, char>::paint('-', [(10, 20, 'a'), (15, 30, 'b'), (0, 2, 'c')]);
    let text: String = (0..32).map(|n| *all.get(n)).collect();
    assert_eq!(text, "ccc-------aaaaabbbbbbbbbbbbbbbb-");
    let edge = Intervals::<u16, char>::paint('-', [(65_535, 65_535, 'z'), (0, 0, 'a')]);
    assert_eq!(
        [*edge.get(0), *edge.get(1), *edge.get(65_534), *edge.get(65_535)],
        ['a', '-', '-', 'z']
    );
}

#[test]
fn vservers_with_the_same_rules_share_one_table_and_those_that_nobody_has_go() {
    let mut compiler = Compiler::default();
    compiler.set_kinds(KINDS.to_vec());
    let rules: Vec<AccessRule> = Catalogue::default().defaults().collect();
    let one = compiler.table(rules.clone());
    assert!(Arc::ptr_eq(&one, &compiler.table(rules.clone())));
    assert!(!Arc::ptr_eq(&one, &compiler.table(Vec::new())));
    drop(one);
    let anew = compiler.table(rules);
    assert_eq!(Arc::strong_count(&anew), 1);
}

#[test]
fn hits_stay_with_their_rule_when_others_change() {
    let text = |more: &str| {
        format!(
            "[access]\nrules = [{more} {{ reject = \"tcp/7\" }}]\n[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]"
        )
    };
    let (before, after) =
        (parse(&text("")).unwrap(), parse(&text("{ drop = \"udp/9\" },")).unwrap());
    let mut access = HostAccess::default();
    let guard = access.update(&before, 0, ("a", &[])).unwrap();
    assert_eq!(
        guard.judge(Instant::from_millis(5), &first(0, "tcp/7", "10.0.0.9"), 1),
        Verdict::Reject
    );
    assert!(access.update(&before, 0, ("a", &[])).is_none(), "nothing changed");
    let guard = access.update(&after, 0, ("a", &[])).unwrap();
    let report = guard.report(Instant::from_millis(1005));
    let hits: Vec<(u64, Option<u64>)> =
        report.rules.iter().map(|r| (r.hits, r.last_ms_ago)).collect();
    assert_eq!(hits, [(0, None), (1, Some(1000)), (0, None)]);
    assert_eq!(report.rules[1].last_client, Some([10, 0, 0, 9].into()));
}

#[test]
fn a_mark_belongs_to_what_a_rule_allows_and_is_told() {
    let rules = |rule: &str| {
        parse(&format!(
            "[access]\nrules = [{rule}]\n[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]"
        ))
    };
    let config = rules("{ allow = \"http\", from = \"10.0.0.0/24\", mark = 16 }").unwrap();
    let guard = HostAccess::default().update(&config, 0, ("a", &[])).unwrap();
    assert!(guard.watch().marks);
    let mark = |service, client| guard.mark(&first(0, service, client));
    assert_eq!([mark("tcp/80", "10.0.0.9"), mark("tcp/80", "10.1.0.9")], [16, 0]);
    assert_eq!(mark("tcp/81", "10.0.0.9"), 0);
    let query = AccessQuery {
        vserver: String::from("a"),
        service: String::from("http"),
        from: [10, 0, 0, 9].into(),
        to: None,
    };
    let aliases = [(0, String::from("data0"))];
    let told = guard.test(&query, &config.access.catalogue, &aliases).unwrap();
    assert_eq!(told[0].mark, Some(16));
    assert!(told[0].render().contains("allow http from 10.0.0.0/24 mark 16"), "{told:?}");
    let mut shown = guard.report(Instant::ZERO);
    shown.rules.truncate(1);
    assert!(shown.render().contains("allow http mark 16"), "{}", shown.render());
    // Without a mark nobody asks.
    let plain = rules("{ allow = \"http\" }").unwrap();
    assert!(!HostAccess::default().update(&plain, 0, ("a", &[])).unwrap().watch().marks);
    for wrong in ["{ drop = \"http\", mark = 16 }", "{ allow = \"http\", mark = 0 }"] {
        assert!(rules(wrong).unwrap_err().contains("mark"), "{wrong}");
    }
}

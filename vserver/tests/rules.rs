//! Policy routing and shared tables of vservers, over hosts joined by memory pairs.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::time::Instant;

use common::{PATIENCE, addr, connect, nic, start, vs};
use weft_vserver::Host;
use weft_vserver::config::{RouteSpec, RuleSpec, RuleTarget};
use weft_vserver::net::{TcpListener, UdpSocket};

/// A host with members of a shared table, and one with two routers that each have 192.0.2.1.
fn routed(members: &str) -> (Host, Host) {
    let text = format!(
        "{}[alias.data0]\nover = \"eth0\"\n\
         [table.transit]\nroutes = [{{ to = \"default\", via = \"10.0.255.1\", alias = \"data0\" }}]\n\
         {members}",
        nic("eth0", 1)
    );
    let (server, far) = start(&text);
    let mut text = nic("eth0", 2) + &nic("eth1", 3) + &nic("eth2", 4);
    for n in [1, 2] {
        let _ = write!(
            text,
            "[alias.data{n}]\nover = \"eth0\"\nmac = \"02:00:00:00:01:0{n}\"\n\
             [alias.san{n}]\nover = \"eth{n}\"\n\
             [vserver.r{n}]\nforwarding = true\naddresses = [\"data{n} 10.0.255.{n}/16\", \"san{n} 192.0.2.1/24\"]\n\
             [[vserver.r{n}.service]]\nkind = \"discard\"\nport = {n}\n"
        );
    }
    let mut given = weft_vserver::Devices::new();
    given.extend(far.into_iter().map(|d| (String::from("eth0"), vec![d])));
    let routers = Host::start_with_devices(common::config(&text), given);
    (server, routers.unwrap_or_else(|e| panic!("{e}")))
}

/// The router that answers on 192.0.2.1.
fn router_of(server: &Host, routers: &Host, vserver: &str) -> u8 {
    let sockets = [1, 2].map(|n| {
        let socket = UdpSocket::bind(&vs(routers, &format!("r{n}")), addr("0.0.0.0:53")).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let from = UdpSocket::bind(&vs(server, vserver), addr("0.0.0.0:0")).unwrap();
    from.send_to(b"who", addr("192.0.2.1:53")).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        for (socket, n) in sockets.iter().zip([1, 2]) {
            if socket.recv_from(&mut [0; 8]).is_ok() {
                return n;
            }
        }
        assert!(Instant::now() < end, "nobody heard {vserver}");
        std::thread::yield_now();
    }
}

fn default_via(gateway: &str) -> RouteSpec {
    RouteSpec {
        to: "0.0.0.0/0".parse().unwrap(),
        via: gateway.parse().ok(),
        alias: 0,
        src: None,
        metric: 0,
    }
}

#[test]
fn a_shared_table_is_changed_once_and_all_members_follow() {
    let (server, routers) = routed(
        "[vserver.m]\ncount = 1000\naddresses = [\"data0 10.0.0.1/16\"]\ntables = [\"transit\"]\n\
         [vserver.own]\naddresses = [\"data0 10.0.254.1/16\"]\ntables = [\"transit\"]\n\
         routes = [{ to = \"192.0.2.0/24\", via = \"10.0.255.2\" }]\n",
    );
    assert_eq!(router_of(&server, &routers, "m1"), 1);
    assert_eq!(router_of(&server, &routers, "m1000"), 1);
    assert_eq!(router_of(&server, &routers, "own"), 2, "its own route goes before");
    let begin = Instant::now();
    assert_eq!(server.update_table("transit", &[default_via("10.0.255.2")]).unwrap(), 1001);
    eprintln!("1,001 members followed in {:?}", begin.elapsed());
    assert_eq!(router_of(&server, &routers, "m1"), 2);
    assert_eq!(router_of(&server, &routers, "m1000"), 2);
    let snapshot = server.snapshot();
    let m = snapshot.vservers.iter().find(|v| v.name == "m500").unwrap();
    assert_eq!(m.tables["transit"], ["0.0.0.0/0 via 10.0.255.2 dev data0"]);
    assert_eq!(m.rules, ["32766: from all lookup main with transit"]);
}

#[test]
fn rules_are_taken_from_the_configuration_and_changed_while_the_vserver_runs() {
    let (server, routers) = routed(
        "[vserver.a]\naddresses = [\"data0 10.0.0.1/16\"]\n\
         routes = [{ to = \"default\", via = \"10.0.255.2\" }]\n\
         rules = [{ to = \"192.0.2.0/25\", table = \"transit\", priority = 100 },\n\
                  { dscp = 8, mark = 1, mask = 3, input = \"data0\", action = \"prohibit\" }]\n",
    );
    assert_eq!(router_of(&server, &routers, "a"), 1);
    let rules = &server.snapshot().vservers[0].rules;
    assert_eq!(
        rules[..],
        [
            "100: from all to 192.0.2.0/25 lookup transit",
            "1001: from all fwmark 0x1/0x3 iif data0 dscp 8 prohibit",
            "32766: from all lookup main",
        ]
    );
    let a = vs(&server, "a");
    server.update_rules(a.id(), &[], &[]).unwrap();
    assert_eq!(router_of(&server, &routers, "a"), 2);
    assert!(server.snapshot().vservers[0].rules.is_empty());
    let prohibit = RuleSpec {
        priority: 5,
        from: None,
        from_name: None,
        to: "192.0.2.0/24".parse().ok(),
        mark: None,
        input: None,
        dscp: None,
        class: None,
        ports: Vec::new(),
        target: RuleTarget::Prohibit,
    };
    server.update_rules(a.id(), &[], &[prohibit]).unwrap();
    let socket = UdpSocket::bind(&a, addr("0.0.0.0:0")).unwrap();
    let refused = socket.send_to(b"x", addr("192.0.2.1:53")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::NetworkUnreachable);
    // What does not leave the network is not ruled out.
    let listener = TcpListener::bind(&vs(&routers, "r1"), addr("10.0.255.1:80")).unwrap();
    let _stream = connect(&a, addr("10.0.255.1:80"));
    listener.accept().unwrap();
}

#[test]
fn a_rule_by_class_chooses_the_way_of_what_the_vserver_sends() {
    let (server, routers) = routed(
        "[access.class.names]\nservices = [\"udp/53\", \"tcp/53\"]\n\
         [vserver.a]\naddresses = [\"data0 10.0.0.1/16\"]\n\
         routes = [{ to = \"default\", via = \"10.0.255.2\" }]\n\
         rules = [{ class = \"names, tcp/8080-8090\", table = \"transit\" }]\n\
         [vserver.b]\naddresses = [\"data0 10.0.0.2/16\"]\n\
         routes = [{ to = \"default\", via = \"10.0.255.2\" }]\n\
         rules = [{ class = \"http\", table = \"transit\" }]\n",
    );
    assert_eq!(router_of(&server, &routers, "a"), 1, "a question to port 53");
    assert_eq!(router_of(&server, &routers, "b"), 2, "of another class");
    let rules = &server.snapshot().vservers[0].rules;
    assert_eq!(rules[0], "1000: from all tcp/53 tcp/8080-8090 udp/53 lookup transit");
}

#[test]
fn a_thousand_vservers_have_a_thousand_tables() {
    let mut text = String::new();
    for n in 0..1000 {
        let (high, low) = (n / 250, n % 250 + 1);
        let gateway = n % 2 + 1;
        let _ = write!(
            text,
            "[table.t{n}]\nroutes = [{{ to = \"default\", via = \"10.0.255.{gateway}\", alias = \"data0\" }}]\n\
             [vserver.v{n}]\naddresses = [\"data0 10.0.{high}.{low}/16\"]\n\
             rules = [{{ from = \"10.0.0.0/16\", to = \"192.0.2.0/24\", table = \"t{n}\" }},\n\
                      {{ to = \"192.0.2.0/24\", table = \"t{n}\" }}]\n"
        );
    }
    let before = resident_kib();
    let begin = Instant::now();
    let (server, routers) = routed(&text);
    let (took, held) = (begin.elapsed(), resident_kib().saturating_sub(before));
    eprintln!("1,000 vservers with a table each: {took:?}, {held} KiB");
    for n in [0u16, 1, 500, 999] {
        assert_eq!(router_of(&server, &routers, &format!("v{n}")), (n % 2 + 1) as u8, "v{n}");
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

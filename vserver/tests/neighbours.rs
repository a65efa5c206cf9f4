//! Neighbour tables that vservers share by name, over hosts joined by memory pairs.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{addr, nic, start, until, vs};
use weft_vserver::change::{Changes, Options};
use weft_vserver::net::UdpSocket;
use weft_vserver::{Host, NeighbourLine};

const MEMBERS: usize = 500;
const ENTRIES: &str =
    "entries = [{ alias = \"data0\", address = \"10.0.255.9\", mac = \"02:00:00:00:00:99\" }]\n";

fn sharing(table: &str) -> String {
    format!(
        "{}[alias.data0]\nover = \"eth0\"\n[neighbours.lan]\n{table}[group.room]\nneighbours = \"lan\"\n\
         [vserver.m]\ncount = {MEMBERS}\ngroup = \"room\"\naddresses = [\"data0 10.0.0.1/16\", \"data0 fd00::1/64\"]\n\
         [vserver.own]\ngroup = \"room\"\ncut = [\"neighbours\"]\naddresses = [\"data0 10.0.254.1/16\"]\n",
        nic("eth0", 1)
    )
}

fn members() -> impl Iterator<Item = String> {
    (1..=MEMBERS).map(|n| format!("m{n}"))
}

fn send(host: &Host, vserver: &str, to: &str) {
    let socket = UdpSocket::bind(&vs(host, vserver), addr("[::]:0")).unwrap();
    socket.send_to(b"x", addr(to)).unwrap();
}

fn line(host: &Host, vserver: &str, address: &str) -> Option<NeighbourLine> {
    let report = host.neighbours(Some(vserver)).unwrap();
    report.neighbours.into_iter().find(|n| n.address.to_string() == address)
}

fn counted(host: &Host, counter: &str) -> u64 {
    host.snapshot().vservers.iter().map(|v| v.counters[counter]).sum()
}

#[test]
fn of_five_hundred_vservers_one_asks_for_the_gateway_and_a_change_reaches_all() {
    let (server, far) = start(&sharing(""));
    let text = format!(
        "{}[alias.data0]\nover = \"eth0\"\n[vserver.gw]\naddresses = [\"data0 10.0.255.1/16\", \"data0 fd00::ff01/64\"]\n",
        nic("eth0", 2)
    );
    let mut given = weft_vserver::Devices::new();
    given.extend(far.into_iter().map(|d| (String::from("eth0"), vec![d])));
    let gateway = Host::start_with_devices(common::config(&text), given).unwrap();
    let sink = UdpSocket::bind(&vs(&gateway, "gw"), addr("[::]:53")).unwrap();
    // IPv6 addresses are used after their detection of duplicates.
    until("the addresses are there", || {
        let v6 = |v: &weft_vserver::stats::VserverSnapshot| {
            v.addresses.iter().any(|a| a.contains("fd00::") && !a.contains("tentative"))
        };
        server.snapshot().vservers.iter().filter(|v| v.name.starts_with('m')).all(v6)
            && gateway.snapshot().vservers.iter().all(v6)
    });
    // RFC 5227 2.3: it announces itself twice, two seconds apart. Who waits for it then needs no other's
    // answer, so all have heard it before.
    let heard = 2 * (MEMBERS as u64 + 1);
    until("announcements", || counted(&server, "NeighInArpRequests") >= heard);
    // Who does not share asks for itself.
    send(&server, "own", "10.0.255.1:53");
    sink.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(line(&server, "own", "10.0.255.1").unwrap().origin, "own");
    let solicits = counted(&server, "NeighOutSolicits");
    for to in ["10.0.255.1:53", "[fd00::ff01]:53"] {
        members().for_each(|m| send(&server, &m, to));
        for _ in 0..MEMBERS {
            sink.recv_from(&mut [0; 8]).unwrap();
        }
    }
    let own = |n: &NeighbourLine| n.origin == "own" && n.address.to_string().ends_with("01");
    let report = server.neighbours(None).unwrap();
    let asked: Vec<_> = report.neighbours.iter().filter(|n| own(n)).collect();
    assert_eq!(asked.len(), 1, "who asked for the gateway's IPv6 address: {asked:?}");
    assert_eq!(counted(&server, "NeighOutSolicits") - solicits, 1);
    assert_eq!(counted(&server, "NeighSharedTaken"), 2 * (MEMBERS as u64 - 1));
    let last = line(&server, "m500", "10.0.255.1").unwrap();
    assert_eq!((last.state.as_str(), last.origin.as_str()), ("reachable", "shared lan"));
    let table = &report.tables[0];
    assert_eq!((table.name.as_str(), table.vservers, table.learned), ("lan", MEMBERS, 2));

    // Another table under the name, and nobody uses the old one.
    let server = std::sync::Arc::new(server);
    let changes = Changes::new(std::sync::Arc::clone(&server), None, Vec::new(), |_, _| {});
    let applied = changes.apply(common::config(&sharing(ENTRIES)), &Options::default());
    applied.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(line(&server, "m500", "10.0.255.1"), None);
    send(&server, "m7", "10.0.255.9:53");
    let fixed = line(&server, "m7", "10.0.255.9").unwrap();
    assert_eq!((fixed.state.as_str(), fixed.origin.as_str()), ("permanent", "static lan"));
    assert_eq!(fixed.mac.as_deref(), Some("02:00:00:00:00:99"));
    let without = sharing("").replace("group = \"room\"\naddr", "addr");
    changes.apply(common::config(&without), &Options::default()).unwrap();
    assert_eq!(line(&server, "m7", "10.0.255.9"), None);
    assert_eq!(server.neighbours(None).unwrap().tables[0].vservers, 0);
}

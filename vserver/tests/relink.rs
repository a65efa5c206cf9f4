//! Interfaces of a running host are changed under transfers: VLANs, bonds and failover groups come,
//! go and change, aliases move.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{
    Stop, addr, config, connect, echo, echo_server, hub, nic, pattern, start, start_on, until, vs,
};
use weft_drivers::device::AnyDevice;
use weft_drivers::mem::{MemConfig, pair};
use weft_vserver::change::{Changes, Options};
use weft_vserver::{Devices, Host};

fn changes(host: &Arc<Host>) -> Changes {
    Changes::new(Arc::clone(host), None, Vec::new(), |_, _| {})
}

fn apply(changes: &Changes, text: &str) {
    changes.apply(config(text), &Options::default()).unwrap_or_else(|e| panic!("{e}\n{text}"));
}

/// Two hosts with `nics` cables between them; `rest` by the number of the host, 1 and 2.
fn hosts(nics: u8, workers: usize, rest: &dyn Fn(u8) -> String) -> [Arc<Host>; 2] {
    let (one, peers) = start(&text(nics, workers, 1, &rest(1)));
    [Arc::new(one), Arc::new(start_on(&text(nics, workers, 2, &rest(2)), peers))]
}

fn text(nics: u8, workers: usize, host: u8, rest: &str) -> String {
    let nics: String = (0..nics).map(|i| nic(&format!("eth{i}"), 16 * host + i)).collect();
    format!("[workers]\ncount = {workers}\nframes = 4096\n{nics}{rest}")
}

fn wait_for(host: &Host, vserver: &str, address: &str) {
    let address = address.parse().unwrap();
    until("address", || vs(host, vserver).addresses().contains(&address));
}

/// Echoes without a pause over one connection until told to stop; counts its rounds.
fn talk(client: &Host, (vserver, to): (&str, &str), stop: &AtomicBool, rounds: &AtomicU64) {
    let stream = connect(&vs(client, vserver), addr(to));
    while !stop.load(Ordering::Relaxed) {
        echo(&stream, &pattern(20_000));
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for some more rounds.
fn more(what: &str, rounds: &AtomicU64) {
    let from = rounds.load(Ordering::Relaxed);
    until(what, || rounds.load(Ordering::Relaxed) >= from + 3);
}

/// `steady` on eth0 all the time; the rest changes.
fn vserver(name: &str, alias: &str, net: u8, host: u8) -> String {
    format!("[vserver.{name}]\naddresses = [\"{alias} 10.{net}.0.{host}/24\"]\n")
}

fn stage(stage: usize, host: u8) -> String {
    let (links, over) = match stage {
        // An alias on a NIC; on a VLAN; on a bond, in a VLAN of it; in a group of that and a NIC.
        0 => ("", "eth1"),
        1 => ("[vlan.\"eth1.5\"]\npriority = 2\n", "eth1.5"),
        2 => ("[bond.bond0]\nports = [\"eth1\", \"eth2\"]\nmode = \"static\"\n", "bond0"),
        3 => ("[bond.bond0]\nports = [\"eth2\", \"eth1\"]\nmode = \"round-robin\"\n", "bond0.7"),
        4 => ("[bond.bond0]\nports = [\"eth1\", \"eth2\"]\nmode = \"lacp\"\n", "bond0.7"),
        _ => ("[bond.bond0]\nports = [\"eth2\"]\nmode = \"static\"\n", "bond0"),
    };
    format!(
        "{links}[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"{over}\"\n\
         [alias.san0]\nover = \"eth0.9\"\n{}{}{}",
        vserver("steady", "data0", 0, host),
        vserver("moving", "data1", 1, host),
        vserver("tagged", "san0", 2, host)
    )
}

#[test]
fn an_alias_moves_through_all_kinds_of_links_with_its_connections_and_others_do_not_notice() {
    for workers in [1, 2] {
        let [server, client] = hosts(3, workers, &|host| stage(0, host));
        let apart = [changes(&server), changes(&client)];
        for (name, net) in [("steady", 0), ("moving", 1), ("tagged", 2)] {
            wait_for(&server, name, &format!("10.{net}.0.1"));
            wait_for(&client, name, &format!("10.{net}.0.2"));
            drop(echo_server(&vs(&server, name), addr(&format!("10.{net}.0.1:7"))));
        }
        let (stop, counts) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
        std::thread::scope(|scope| {
            let stop = Stop(&stop);
            for (at, who) in
                [("steady", "10.0.0.1:7"), ("moving", "10.1.0.1:7"), ("tagged", "10.2.0.1:7")]
                    .into_iter()
                    .enumerate()
            {
                let (client, stop, count) = (&client, stop.0, &counts[at]);
                scope.spawn(move || talk(client, who, stop, count));
            }
            for next in [1, 2, 3, 4, 5, 2, 0] {
                for (host, changes) in [1, 2].into_iter().zip(&apart) {
                    apply(changes, &text(3, workers, host, &stage(next, host)));
                }
                for (what, count) in ["steady", "moving", "tagged"].into_iter().zip(&counts) {
                    more(&format!("transfer of {what} in stage {next}"), count);
                }
            }
        });
        for host in [&server, &client] {
            let snapshot = host.snapshot();
            assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
            let tag = snapshot.links.iter().find(|l| l.name == "eth0.9").unwrap();
            assert!(tag.counters["VlanInBytes"] > 7 * 3 * 20_000, "it counted on");
        }
    }
}

fn group(workers: usize, fail: &str) -> String {
    let one = |n: u8| {
        format!("[vserver.v{n}]\naddresses = [\"data0 10.0.0.{n}/24\", \"data1 10.5.0.{n}/24\"]\n")
    };
    let vservers = [1, 2, 3, 4].map(one).concat();
    format!(
        "{}[alias.data0]\nover = \"fail0\"\n[alias.data1]\nover = \"fail0.5\"\n{vservers}",
        text(3, workers, 1, fail)
    )
}

fn members(names: &[&str], more: &str) -> String {
    format!("[fail.fail0]\nmembers = {names:?}\n{more}\n")
}

fn active(host: &Host) -> Vec<String> {
    let report = host.paths();
    let mut names: Vec<String> =
        report.interfaces.iter().filter(|i| i.active).map(|i| i.interface.clone()).collect();
    names.sort();
    names
}

/// Members, what else is configured, who is active then.
const MEMBERS: [(&[&str], &str, &[&str]); 6] = [
    (&["eth0", "eth1", "eth2"], "", &["eth0", "eth1", "eth2"]),
    (&["eth1", "eth2"], "", &["eth1", "eth2"]),
    (&["eth1", "eth2"], "standby = [\"eth2\"]", &["eth1"]),
    (&["eth2", "eth1"], "standby = [\"eth1\"]\nfailback = false", &["eth2"]),
    (&["eth2", "eth0", "eth1"], "detect_ms = 500", &["eth0", "eth1", "eth2"]),
    (&["eth0"], "", &["eth0"]),
];

#[test]
fn members_of_a_failover_group_come_and_go_under_load_and_no_connection_is_lost() {
    for workers in [1, 2] {
        let (near, ends): (Vec<AnyDevice>, Vec<AnyDevice>) = [0x10, 0x11, 0x12, 0x21]
            .map(|mac| {
                let macs = [[2, 0, 0, 0, 0, mac], [2, 0, 0, 0, 9, mac]];
                let (a, b) = pair(&MemConfig { macs, ..MemConfig::default() }).unwrap();
                (Box::new(a) as AnyDevice, Box::new(b) as AnyDevice)
            })
            .into_iter()
            .unzip();
        let mut near = near.into_iter();
        let first = group(workers, &members(&["eth0", "eth1"], ""));
        let devices: Devices =
            (0..3).map(|i| format!("eth{i}")).zip(near.by_ref().map(|d| vec![d])).collect();
        let server = Arc::new(Host::start_with_devices(config(&first), devices).unwrap());
        let client = start_on(
            &format!(
                "[workers]\ncount = {workers}\nframes = 4096\n{}[alias.data0]\nover = \"eth0\"\n\
                 [alias.data1]\nover = \"eth0.5\"\n[vserver.c]\n\
                 addresses = [\"data0 10.0.0.9/24\", \"data1 10.5.0.9/24\"]\n",
                nic("eth0", 0x21)
            ),
            near.collect(),
        );
        let changes = changes(&server);
        for n in 1..=4 {
            wait_for(&server, &format!("v{n}"), &format!("10.5.0.{n}"));
            let v = vs(&server, &format!("v{n}"));
            drop(echo_server(&v, addr(&format!("10.0.0.{n}:7"))));
            drop(echo_server(&v, addr(&format!("10.5.0.{n}:7"))));
        }
        wait_for(&client, "c", "10.5.0.9");
        let (unplug, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let counts = [const { AtomicU64::new(0) }; 8];
        std::thread::scope(|outer| {
            outer.spawn(|| hub(ends, &unplug));
            let _unplug = Stop(&unplug);
            std::thread::scope(|scope| {
                let stop = Stop(&stop);
                for (at, count) in counts.iter().enumerate() {
                    let (client, stop) = (&client, stop.0);
                    let to = format!("10.{}.0.{}:7", if at < 4 { 0 } else { 5 }, at % 4 + 1);
                    scope.spawn(move || talk(client, ("c", &to), stop, count));
                }
                for (names, also, works) in MEMBERS {
                    apply(&changes, &group(workers, &members(names, also)));
                    assert_eq!(active(&server), works, "{names:?} {also}");
                    for (at, count) in counts.iter().enumerate() {
                        more(&format!("transfer {at} with {names:?} {also}"), count);
                    }
                    let snapshot = server.snapshot();
                    let link = snapshot.links.iter().find(|l| l.name == "fail0").unwrap();
                    assert_eq!(link.nics.len(), names.len());
                }
            });
        });
        let snapshot = server.snapshot();
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    }
}

#[test]
fn what_does_not_fit_the_new_interfaces_changes_nothing() {
    let rest = "[alias.data0]\nover = \"eth0\"\nmtu = 9000\n[vserver.v]\naddresses = [\"data0 10.0.0.1/24\"]\n";
    let big = text(2, 1, 1, rest).replacen("driver = \"mem\"", "driver = \"mem\"\nmtu = 9000", 1);
    let (host, _far) = start(&big);
    let host = Arc::new(host);
    let changes = changes(&host);
    let before = host.snapshot();
    let moved = big.replace("over = \"eth0\"", "over = \"eth1\"");
    let refused = config_error(&moved).unwrap_or_else(|| {
        changes.apply(config(&moved), &Options::default()).unwrap_err().to_string()
    });
    assert!(refused.contains("9000") && refused.contains("data0"), "{refused}");
    assert_eq!(host.snapshot().generation, before.generation);
    assert_eq!(active(&host), [""; 0]);
}

/// What the reader of a file says already.
fn config_error(text: &str) -> Option<String> {
    weft_vserver::config::parse(text, "test.toml".as_ref()).err().map(|e| e.to_string())
}

#[test]
fn aliases_of_one_nic_have_mtus_of_their_own_which_change_live() {
    let whole = |host: u8, mtu: usize| {
        let rest = format!(
            "[alias.data0]\nover = \"eth0\"\n[alias.mgmt0]\nover = \"eth0\"\nmtu = {mtu}\n{}{}",
            vserver("a", "data0", 1, host),
            vserver("b", "mgmt0", 2, host)
        );
        let text = text(1, 1, host, &rest);
        text.replacen("driver = \"mem\"", "driver = \"mem\"\nmtu = 9000", 1)
    };
    let (one, peers) = start(&whole(1, 1500));
    let one = Arc::new(one);
    let two = start_on(&whole(2, 9000), peers);
    // Headers take 40 bytes, and 12 more with timestamps.
    let fits = |name: &str, at: &str, mtu: usize| {
        drop(echo_server(&vs(&one, name), addr(at)));
        let stream = connect(&vs(&two, name), addr(at));
        echo(&stream, &pattern(50_000));
        let mss = stream.info().unwrap().mss;
        assert!((mtu - 52..=mtu - 40).contains(&mss), "{name}: {mss} of {mtu}");
    };
    fits("a", "10.1.0.1:7", 9000);
    fits("b", "10.2.0.1:7", 1500);
    apply(&changes(&one), &whole(1, 1300));
    fits("a", "10.1.0.1:8", 9000);
    fits("b", "10.2.0.1:8", 1300);
}

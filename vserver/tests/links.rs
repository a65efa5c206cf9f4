//! VLANs, bonds and failover groups that carry the frames of vservers: over memory with one worker
//! and two, and over AF_XDP and AF_PACKET on veth pairs in namespaces that the tests make.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use common::{
    PATIENCE, Stop, addr, cabled, config, connect, echo, echo_server, hub, nic, pattern, start,
    start_on, until, vs,
};
use weft_drivers::device::AnyDevice;
use weft_drivers::mem::{MemConfig, pair};
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_vserver::net::{TcpListener, TcpStream, UdpSocket};
use weft_vserver::{Host, Vserver};

/// Two hosts with `nics` cables between them.
struct Pair {
    server: Host,
    client: Host,
    /// They end with the hosts.
    _spaces: Vec<Netns>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    Memory,
    /// The drivers of the server and of the client.
    Veth(&'static str, &'static str),
}

const VETH: [Over; 2] = [Over::Veth("af-xdp", "af-xdp"), Over::Veth("packet", "af-xdp")];

/// `rest` of a host's configuration, given its number: 1 is the server, 2 the client.
fn hosts(over: Over, nics: u8, workers: usize, rest: fn(u8) -> String) -> Option<Pair> {
    let workers = format!("[workers]\ncount = {workers}\nframes = 4096\n");
    let Over::Veth(near, far) = over else {
        let text = |n: u8| {
            let nics: String = (0..nics).map(|i| nic(&format!("eth{i}"), 16 * n + i)).collect();
            format!("{workers}{nics}{}", rest(n))
        };
        let (server, peers) = start(&text(1));
        return Some(Pair { server, client: start_on(&text(2), peers), _spaces: Vec::new() });
    };
    let (a, b) = cabled(nics, 1)?;
    let text = |n: u8, driver: &str| {
        let one = |i| format!("[nic.eth{i}]\ndevice = \"w{i}\"\ndriver = \"{driver}\"\n");
        let nics: String = (0..nics).map(one).collect();
        format!("{workers}{nics}{}", rest(n))
    };
    let mut started = Vec::new();
    for (space, n, driver) in [(&a, 1, near), (&b, 2, far)] {
        match space.enter(|| Host::start(config(&text(n, driver)))).unwrap() {
            Ok(host) => started.push(host),
            Err(e) => {
                println!("SKIP: {driver}: {e}");
                return None;
            }
        }
    }
    let client = started.pop()?;
    Some(Pair { server: started.pop()?, client, _spaces: vec![a, b] })
}

/// Says its name to everybody who connects.
fn greet(vserver: &Vserver, at: &str) -> JoinHandle<()> {
    let listener = TcpListener::bind(vserver, addr(at)).expect("bind");
    let name = vserver.name().to_owned();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(name.as_bytes());
        }
    })
}

fn greeting(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a greeting");
    text
}

fn has(vserver: &Vserver, address: &str) -> bool {
    vserver.addresses().contains(&address.parse().unwrap())
}

/// Red in VLAN 5, blue in VLAN 7, plain without a tag; all have the same addresses.
fn coloured(n: u8) -> String {
    let vserver = |name: &str, alias: &str| {
        format!(
            "[vserver.{name}]\naddresses = [\"{alias} 10.0.0.{n}/24\", \"{alias} fd00::{n}/64\"]\n"
        )
    };
    format!(
        "[vlan.\"eth0.5\"]\npriority = 3\n\
         [alias.data0]\nover = \"eth0.5\"\n[alias.data1]\nover = \"eth0.7\"\nmtu = 1400\n\
         [alias.data2]\nover = \"eth0\"\n{}{}{}",
        vserver("red", "data0"),
        vserver("blue", "data1"),
        vserver("plain", "data2")
    )
}

fn vlans_keep_one_address_apart(over: Over, workers: usize) {
    let Some(pair) = hosts(over, 1, workers, coloured) else { return };
    let names = ["red", "blue", "plain"];
    for name in names {
        for at in ["10.0.0.1:7", "[fd00::1]:7"] {
            let address = addr(at).ip().to_string();
            until("address", || has(&vs(&pair.server, name), &address));
            drop(greet(&vs(&pair.server, name), at));
        }
        drop(echo_server(&vs(&pair.server, name), addr("10.0.0.1:8")));
        until("address", || has(&vs(&pair.client, name), "fd00::2"));
    }
    for name in names {
        let client = vs(&pair.client, name);
        for at in ["10.0.0.1:7", "[fd00::1]:7"] {
            assert_eq!(greeting(connect(&client, addr(at))), name, "{over:?} {at}");
        }
        echo(&connect(&client, addr("10.0.0.1:8")), &pattern(400_000));
    }
    for host in [&pair.server, &pair.client] {
        let snapshot = host.snapshot();
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
        assert_eq!(snapshot.nics[0].aliases.len(), 3, "all stand on one NIC");
        for name in ["eth0.5", "eth0.7"] {
            let vlan = snapshot.links.iter().find(|l| l.name == name).unwrap();
            assert!(vlan.up && vlan.mtu == 1500 && vlan.nics == [0]);
            for way in ["VlanInBytes", "VlanOutBytes"] {
                assert!(vlan.counters[way] > 400_000, "{name} {:?}", vlan.counters);
            }
        }
    }
}

#[test]
fn vlans_keep_one_address_apart_over_memory() {
    vlans_keep_one_address_apart(Over::Memory, 1);
    vlans_keep_one_address_apart(Over::Memory, 2);
}

#[test]
fn vlans_keep_one_address_apart_over_veth() {
    for over in VETH {
        vlans_keep_one_address_apart(over, 1);
    }
}

fn what_is_for_everybody_on_a_network_arrives(over: Over, workers: usize) {
    let Some(pair) = hosts(over, 1, workers, coloured) else { return };
    for name in ["red", "blue", "plain"] {
        until("address", || has(&vs(&pair.server, name), "10.0.0.1"));
        until("address", || has(&vs(&pair.client, name), "10.0.0.2"));
        let to = UdpSocket::bind(&vs(&pair.server, name), addr("0.0.0.0:9")).unwrap();
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = UdpSocket::bind(&vs(&pair.client, name), addr("0.0.0.0:0")).unwrap();
        from.set_broadcast(true).unwrap();
        from.send_to(name.as_bytes(), addr("10.0.0.255:9")).unwrap();
        let mut buf = [0; 16];
        let (len, _) = to.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..len], name.as_bytes(), "{over:?}");
    }
}

#[test]
fn what_is_for_everybody_on_a_network_arrives_over_memory() {
    what_is_for_everybody_on_a_network_arrives(Over::Memory, 1);
    what_is_for_everybody_on_a_network_arrives(Over::Memory, 2);
}

#[test]
fn what_is_for_everybody_on_a_network_arrives_over_veth() {
    for over in VETH {
        what_is_for_everybody_on_a_network_arrives(over, 1);
    }
}

/// `v` on a bond of two NICs, `tagged` in VLAN 5 of it.
fn bonded(n: u8) -> String {
    format!(
        "[bond.bond0]\nports = [\"eth0\", \"eth1\"]\nmode = \"static\"\nhash = \"l3+4\"\n\
         [alias.data0]\nover = \"bond0\"\n[alias.data1]\nover = \"bond0.5\"\n\
         [vserver.v]\naddresses = [\"data0 10.0.0.{n}/24\", \"data0 fd00::{n}/64\"]\n\
         [vserver.tagged]\naddresses = [\"data1 10.0.0.{n}/24\"]\n"
    )
}

fn flows_of_a_static_bond_use_both_ports(over: Over, workers: usize) {
    let Some(pair) = hosts(over, 2, workers, bonded) else { return };
    for name in ["v", "tagged"] {
        until("address", || has(&vs(&pair.server, name), "10.0.0.1"));
        until("address", || has(&vs(&pair.client, name), "10.0.0.2"));
        drop(echo_server(&vs(&pair.server, name), addr("10.0.0.1:7")));
        let client = vs(&pair.client, name);
        std::thread::scope(|scope| {
            for i in 0..24 {
                let client = &client;
                scope.spawn(move || {
                    echo(&connect(client, addr("10.0.0.1:7")), &pattern(20_000 + i));
                });
            }
        });
    }
    until("IPv6 address", || has(&vs(&pair.server, "v"), "fd00::1"));
    drop(echo_server(&vs(&pair.server, "v"), addr("[fd00::1]:7")));
    until("IPv6 address", || has(&vs(&pair.client, "v"), "fd00::2"));
    echo(&connect(&vs(&pair.client, "v"), addr("[fd00::1]:7")), &pattern(20_000));
    for host in [&pair.server, &pair.client] {
        let snapshot = host.snapshot();
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
        let sent: Vec<u64> = snapshot.nics.iter().map(|n| n.counters["DeviceOutBytes"]).collect();
        // 48 flows of 20,000 bytes: by chance none would be on one port once in 2^47.
        assert!(sent.iter().all(|bytes| *bytes > 60_000), "{over:?} {sent:?}");
    }
}

#[test]
fn flows_of_a_static_bond_use_both_ports_over_memory() {
    flows_of_a_static_bond_use_both_ports(Over::Memory, 1);
    flows_of_a_static_bond_use_both_ports(Over::Memory, 2);
}

#[test]
fn flows_of_a_static_bond_use_both_ports_over_veth() {
    for over in VETH {
        flows_of_a_static_bond_use_both_ports(over, 1);
    }
}

#[test]
fn a_failover_group_is_one_interface_to_all_above() {
    for workers in [1, 2] {
        let (near, mut ends): (Vec<AnyDevice>, Vec<AnyDevice>) = [0x11, 0x12, 0x21]
            .map(|mac| {
                let macs = [[2, 0, 0, 0, 0, mac], [2, 0, 0, 0, 9, mac]];
                let (a, b) = pair(&MemConfig { macs, ..MemConfig::default() }).unwrap();
                (Box::new(a) as AnyDevice, Box::new(b) as AnyDevice)
            })
            .into_iter()
            .unzip();
        let mut near = near.into_iter();
        let head = format!("[workers]\ncount = {workers}\nframes = 4096\n");
        let server = start_on(
            &format!(
                "{head}{}{}[fail.fail0]\nmembers = [\"eth0\", \"eth1\"]\n\
                 [alias.data0]\nover = \"fail0\"\n[alias.data1]\nover = \"fail0.5\"\n\
                 [alias.data2]\nover = \"fail0\"\nmac = \"02:00:00:00:00:77\"\n\
                 [vserver.v]\naddresses = [\"data0 10.0.0.1/24\", \"data0 fd00::1/64\"]\n\
                 [vserver.tagged]\naddresses = [\"data1 10.0.0.1/24\"]\n\
                 [vserver.own]\naddresses = [\"data2 10.0.0.3/24\"]\n",
                nic("eth0", 0x11),
                nic("eth1", 0x12)
            ),
            near.by_ref().take(2).collect(),
        );
        let client = start_on(
            &format!(
                "{head}{}[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth0.5\"\n\
                 [vserver.c]\naddresses = [\"data0 10.0.0.2/24\", \"data0 fd00::2/64\"]\n\
                 [vserver.tagged]\naddresses = [\"data1 10.0.0.2/24\"]\n",
                nic("eth0", 0x21)
            ),
            near.collect(),
        );
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ends = std::mem::take(&mut ends);
            scope.spawn(|| hub(ends, &stop));
            let end = Stop(&stop);
            for (name, from, at) in [
                ("v", "c", "10.0.0.1:7"),
                ("v", "c", "[fd00::1]:7"),
                ("tagged", "tagged", "10.0.0.1:7"),
                ("own", "c", "10.0.0.3:7"),
            ] {
                let address = addr(at).ip().to_string();
                until("address", || has(&vs(&server, name), &address));
                drop(echo_server(&vs(&server, name), addr(at)));
                let own = if address.contains(':') { "fd00::2" } else { "10.0.0.2" };
                until("address", || has(&vs(&client, from), own));
                echo(&connect(&vs(&client, from), addr(at)), &pattern(100_000));
            }
            drop(end);
        });
        let snapshot = server.snapshot();
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
        for reason in ["OwnFrameReflected", "MemberNotNominee", "NotForThisHost"] {
            assert!(snapshot.drops.contains_key(reason), "{reason}: {:?}", snapshot.drops);
        }
    }
}

#[test]
fn the_least_mtu_of_its_members_is_that_of_a_failover_group_and_of_all_above() {
    let Some((near, _far)) = cabled(2, 1) else { return };
    let text = "[nic.eth0]\ndevice = \"w0\"\ndriver = \"packet\"\n\
         [nic.eth1]\ndevice = \"w1\"\ndriver = \"packet\"\n\
         [fail.fail0]\nmembers = [\"eth0\", \"eth1\"]\n[alias.data0]\nover = \"fail0\"\n\
         [vserver.v]\naddresses = [\"data0 10.0.0.1/24\"]\n\
         [vserver.c]\naddresses = [\"data0 10.0.0.2/24\"]\n";
    let host = match near.enter(|| Host::start(config(text))).unwrap() {
        Ok(host) => host,
        Err(e) => return println!("SKIP: {e}"),
    };
    until("addresses", || has(&vs(&host, "v"), "10.0.0.1") && has(&vs(&host, "c"), "10.0.0.2"));
    let group = || host.snapshot().links.iter().find(|l| l.name == "fail0").unwrap().mtu;
    drop(echo_server(&vs(&host, "v"), addr("10.0.0.1:7")));
    let least_mss = |mtu: usize| mtu - 60..=mtu - 40;
    // The member that is not in use as well: the group may go over to it at any time.
    for (nic, mtu, least) in [("w1", 1400, 1400), ("w0", 1300, 1300), ("w0", 1500, 1400)] {
        near.enter(|| Netlink::open().unwrap().set_mtu(nic, mtu).unwrap()).unwrap();
        until("the MTU of the group", || group() == least);
        let stream = connect(&vs(&host, "c"), addr("10.0.0.1:7"));
        echo(&stream, &pattern(30_000));
        let mss = stream.info().unwrap().mss;
        assert!(least_mss(least).contains(&mss), "{mss} of {least}");
    }
}

//! What `weft doctor` says of a switch that is configured wrongly: one host, a bond or failover group
//! for each mistake.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_cli::lab::topology::Machine;

use super::ask;
use super::ovs::{Ovs, cable, run};
use crate::common::{Daemon, operate, xdp};

/// A host's bond, how its ports are cabled, and what is to be found of it.
struct Case {
    /// More keys of the bond.
    bond: &'static str,
    /// What the switch is told; `A` and `B` are the ports, `T` a VLAN of this case alone.
    switch: &'static str,
    cabling: Cabling,
    codes: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq)]
enum Cabling {
    /// Each NIC at its port.
    Straight,
    /// The second cable loses what goes to the switch.
    OneWay,
    /// Both NICs and the first port at a hub.
    Hub,
    /// The second cables of this bond and the next one are exchanged.
    Crossed,
    /// The two NICs are cabled to each other.
    Own,
}

use Cabling::{Crossed, Hub, OneWay, Own, Straight};

const BOND: &str = "-- add-bond br0 bT A B bond_mode=balance-tcp tag=T lacp=active";
const PLAIN: &str = "-- add-port br0 A tag=T -- add-port br0 B tag=T";
/// A second member of its own makes a port one that may be aggregated.
const SEVERAL: &str = "-- add-bond br0 bT A dT bond_mode=balance-tcp tag=T lacp=active \
    -- add-bond br1 cT B eT bond_mode=balance-tcp tag=T lacp=active \
    -- set interface dT type=internal -- set interface eT type=internal";
const SINGLE: &str = "-- add-bond br0 bT A dT bond_mode=balance-tcp tag=T lacp=active \
    other_config:lacp-system-priority=100 -- add-port br0 B tag=T lacp=active \
    other_config:lacp-system-priority=100 -- set interface dT type=internal \
    -- set interface A other_config:lacp-aggregation-key=7 \
    -- set interface dT other_config:lacp-aggregation-key=7 \
    -- set interface B other_config:lacp-aggregation-key=7";

const CASES: [Case; 12] = [
    Case { bond: "", switch: BOND, cabling: Straight, codes: &[] },
    Case {
        bond: "",
        switch: "-- add-bond br0 bT A B bond_mode=balance-slb tag=T lacp=off",
        cabling: Straight,
        codes: &["NO_PARTNER"],
    },
    Case { bond: "", switch: PLAIN, cabling: Straight, codes: &["STATIC_OR_NONE"] },
    Case { bond: "", switch: BOND, cabling: Crossed, codes: &["KEY_MISMATCH"] },
    Case { bond: "", switch: BOND, cabling: Straight, codes: &["KEY_MISMATCH"] },
    Case { bond: "", switch: SEVERAL, cabling: Straight, codes: &["SYSTEM_MISMATCH"] },
    Case { bond: "", switch: SINGLE, cabling: Straight, codes: &["PARTNER_INDIVIDUAL"] },
    Case { bond: "", switch: "", cabling: Own, codes: &["LOOPBACK"] },
    Case { bond: "mode = \"static\"\n", switch: PLAIN, cabling: Straight, codes: &["LOOPED"] },
    Case {
        bond: "mode = \"static\"\n",
        switch: BOND,
        cabling: Straight,
        codes: &["MODE_MISMATCH"],
    },
    Case { bond: "", switch: BOND, cabling: OneWay, codes: &["ONE_WAY"] },
    Case {
        bond: "",
        switch: "-- add-port br0 A tag=T lacp=active",
        cabling: Hub,
        codes: &["DUPLICATE"],
    },
];

/// A failover group of two NICs that uses two VLANs, and what is to be found of it.
struct Group {
    /// Which of the two each member's port at the switch has.
    trunks: [&'static [usize]; 2],
    /// Both members have one hardware address.
    twins: bool,
    codes: &'static [&'static str],
}

const GROUPS: [Group; 3] = [
    Group { trunks: [&[0, 1], &[0, 1]], twins: false, codes: &[] },
    Group { trunks: [&[0, 1], &[1]], twins: false, codes: &["VLAN_MISMATCH"] },
    Group { trunks: [&[0, 1], &[0, 1]], twins: true, codes: &["DUPLICATE_MAC"] },
];

fn vlan(case: usize) -> usize {
    100 + case
}

/// A VLAN of a group, and the third byte of the network in it.
fn group_vlan(group: usize, which: usize) -> (usize, u8) {
    let number = 10 * group + which;
    (300 + number, 100 + number as u8)
}

/// NICs of a group.
fn members(group: usize) -> [usize; 2] {
    let first = 2 * (CASES.len() + group);
    [first, first + 1]
}

fn plug_group(ovs: &Ovs, weft: &Machine, number: usize) {
    let group = &GROUPS[number];
    for (nic, trunks) in members(number).into_iter().zip(group.trunks) {
        let port = format!("port{nic}");
        let trunks = trunks.iter().map(|which| group_vlan(number, *which).0.to_string());
        let trunks = trunks.collect::<Vec<_>>().join(",");
        cable((weft, &format!("nic{nic}")), (&ovs.machine, &port));
        ovs.vsctl(&format!("add-port br0 {port} trunks={trunks}"));
        ovs.vsctl(&format!("set interface {port} lldp:enable=true"));
        if group.twins {
            run(weft, &format!("ip link set dev nic{nic} address 02:00:00:00:77:77"));
        }
    }
}

/// Cables of a case; `middle` is where those go that are more than a cable.
fn plug(ovs: &Ovs, weft: &Machine, middle: &Machine, case: usize) {
    let cabling = CASES[case].cabling;
    let [a, b] = [2 * case, 2 * case + 1];
    let near = |n: usize| format!("nic{n}");
    let far = |n: usize| format!("port{n}");
    match cabling {
        Own => cable((weft, &near(a)), (weft, &near(b))),
        Straight => {
            for n in [a, b] {
                // the case before this one has it
                let crossed = case > 0 && CASES[case - 1].cabling == Crossed && n == b;
                let port = if crossed { b - 2 } else { n };
                cable((weft, &near(n)), (&ovs.machine, &far(port)));
            }
        }
        Crossed => {
            cable((weft, &near(a)), (&ovs.machine, &far(a)));
            cable((weft, &near(b)), (&ovs.machine, &far(b + 2)));
        }
        OneWay => {
            cable((weft, &near(a)), (&ovs.machine, &far(a)));
            cable((weft, &near(b)), (middle, &near(b)));
            cable((middle, &far(b)), (&ovs.machine, &far(b)));
            relay(middle, &far(b), &[&near(b)]);
        }
        Hub => {
            for n in [a, b] {
                cable((weft, &near(n)), (middle, &near(n)));
            }
            cable((middle, &far(a)), (&ovs.machine, &far(a)));
            relay(middle, &far(a), &[&near(a), &near(b)]);
            relay(middle, &near(a), &[&far(a)]);
            relay(middle, &near(b), &[&far(a)]);
        }
    }
}

/// What comes in at an interface goes out at others.
fn relay(machine: &Machine, from: &str, to: &[&str]) {
    run(machine, &format!("tc qdisc add dev {from} ingress"));
    let last = to.len() - 1;
    let actions = to.iter().enumerate().fold(String::new(), |mut line, (i, to)| {
        let how = if i == last { "redirect" } else { "mirror" };
        let _ = write!(line, " action mirred egress {how} dev {to}");
        line
    });
    run(
        machine,
        &format!("tc filter add dev {from} parent ffff: protocol all u32 match u32 0 0{actions}"),
    );
}

fn configuration(dir: &Path) -> String {
    let mut config = format!("[host]\ncontrol = \"{}\"\n", dir.join("weft.sock").display());
    // Memory that many NICs lock.
    config.push_str("[workers]\nframes = 1024\n");
    for n in 0..2 * (CASES.len() + GROUPS.len()) {
        let _ = writeln!(config, "[nic.eth{n}]\ndevice = \"nic{n}\"\ndriver = \"af-xdp\"");
    }
    let mut addresses = Vec::new();
    for (i, case) in CASES.iter().enumerate() {
        let _ = writeln!(
            config,
            "[bond.bond{i}]\nports = [\"eth{}\", \"eth{}\"]\n{}[alias.data{i}]\nover = \"bond{i}\"",
            2 * i,
            2 * i + 1,
            case.bond
        );
        addresses.push(format!("\"data{i} 10.79.{i}.11/24\""));
    }
    for group in 0..GROUPS.len() {
        let [a, b] = members(group);
        let _ = writeln!(config, "[fail.fail{group}]\nmembers = [\"eth{a}\", \"eth{b}\"]");
        for (tag, network) in [0, 1].map(|which| group_vlan(group, which)) {
            let _ = writeln!(config, "[alias.data{tag}]\nover = \"fail{group}.{tag}\"");
            addresses.push(format!("\"data{tag} 10.79.{network}.11/24\""));
        }
    }
    let _ = writeln!(config, "[vserver.alpha]\naddresses = [{}]", addresses.join(", "));
    config
}

/// A machine with an interface in each VLAN where somebody has to say something.
fn talker(ovs: &Ovs) -> (Machine, Vec<Ipv4Addr>) {
    let talker = Machine::new("talker").expect("talker");
    let mut to = Vec::new();
    let plain = (0..CASES.len()).filter(|i| CASES[*i].switch == PLAIN);
    let groups = (0..GROUPS.len()).flat_map(|group| [0, 1].map(|which| group_vlan(group, which)));
    for (tag, network) in plain.map(|i| (vlan(i), i as u8)).chain(groups) {
        let (wan, port) = (format!("wan{tag}"), format!("t{tag}"));
        cable((&talker, &wan), (&ovs.machine, &port));
        ovs.vsctl(&format!("add-port br0 {port} tag={tag}"));
        let address = Ipv4Addr::new(10, 79, network, 2);
        let given = talker.netlink(|netlink| netlink.add_address(&wan, IpAddr::V4(address), 24));
        given.expect("address");
        to.push(Ipv4Addr::new(10, 79, network, 255));
    }
    (talker, to)
}

/// Broadcasts in all VLANs, and questions of the host for addresses that nobody has.
fn chatter(dir: &Path, talker: &Machine, to: &[Ipv4Addr]) {
    let socket = talker.netns.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("enter");
    let socket = socket.expect("socket");
    socket.set_broadcast(true).expect("broadcast");
    for _ in 0..50 {
        for address in to {
            // an interface is the way to its own network
            let _ = socket.send_to(b"hello", (*address, 9));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for (i, _) in CASES.iter().enumerate().filter(|(_, case)| case.codes == ["LOOPED"]) {
        for n in 200..205 {
            operate(dir, &["ping", "-c", "1", "-W", "0.1", &format!("10.79.{i}.{n}")]);
        }
    }
}

/// Errors and warnings of an interface.
fn codes(document: &Value, interface: &str) -> BTreeSet<String> {
    let all = document["diagnoses"].as_array().expect("diagnoses").iter();
    all.filter(|d| d["interface"] == interface && d["severity"] != "info")
        .map(|d| d["code"].as_str().expect("code").to_owned())
        .collect()
}

#[test]
fn each_mistake_at_the_switch_has_its_name_and_a_bond_in_order_none() {
    if !xdp() || !Ovs::installed() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let (ovs, weft) = (Ovs::start(), Machine::new("weft").expect("weft"));
    let middle = Machine::new("middle").expect("middle");
    ovs.vsctl("add-br br1 -- set bridge br1 datapath_type=netdev");
    for (i, case) in CASES.iter().enumerate() {
        plug(&ovs, &weft, &middle, i);
        let [a, b] = [format!("port{}", 2 * i), format!("port{}", 2 * i + 1)];
        let words = case.switch.replace('T', &vlan(i).to_string());
        let words = words.replace(" A ", &format!(" {a} ")).replace(" B ", &format!(" {b} "));
        if !words.is_empty() {
            ovs.vsctl(words.trim_start_matches("-- "));
            ovs.vsctl(&format!("set interface {a} lldp:enable=true"));
        }
        if words.contains(&b) {
            ovs.vsctl(&format!("set interface {b} lldp:enable=true"));
        }
    }
    (0..GROUPS.len()).for_each(|group| plug_group(&ovs, &weft, group));
    let (talker, to) = talker(&ovs);
    let begin = Instant::now();
    let _daemon = Daemon::control(&weft, dir, &configuration(dir));

    let bonds = CASES.iter().enumerate().map(|(i, case)| (format!("bond{i}"), case.codes));
    let groups = GROUPS.iter().enumerate().map(|(i, group)| (format!("fail{i}"), group.codes));
    let wanted: Vec<(String, &[&str])> = bonds.chain(groups).collect();
    let mut since = vec![None; wanted.len()];
    let document = loop {
        chatter(dir, &talker, &to);
        let document = ask(dir, &["doctor", "-j"]);
        for ((interface, wanted), since) in wanted.iter().zip(&mut since) {
            let mut found = codes(&document, interface);
            // Of bonds with exchanged cables the switch may refuse one as well.
            if *wanted == ["KEY_MISMATCH"] {
                found.remove("PARTNER_CHURN");
            }
            let wanted: BTreeSet<String> = wanted.iter().map(|c| (*c).to_owned()).collect();
            assert!(found.is_subset(&wanted), "{interface}: {found:?}\n{document:#}");
            if found == wanted {
                since.get_or_insert(begin.elapsed().as_secs_f64());
            }
        }
        if since.iter().all(Option::is_some) {
            break document;
        }
        assert!(begin.elapsed() < Duration::from_secs(140), "{since:?}\n{document:#}");
        std::thread::sleep(Duration::from_millis(500));
    };
    let names = wanted.iter().map(|(_, codes)| codes.join(" "));
    for (name, seconds) in names.zip(since) {
        let seconds = seconds.expect("found");
        let name = if name.is_empty() { "nothing, rightly" } else { &name };
        println!("NUMBER doctor at Open vSwitch: {name} after {seconds:.0} s");
    }
    evidence(&document);
}

/// The ports are named as the switch's LLDP has them.
fn evidence(document: &Value) {
    for (i, code, port) in [
        (3, "KEY_MISMATCH", "port6"),
        (5, "SYSTEM_MISMATCH", "port10"),
        (6, "PARTNER_INDIVIDUAL", "port13"),
        (10, "ONE_WAY", "port21"),
    ] {
        let mut all = document["diagnoses"].as_array().expect("diagnoses").iter();
        let found = all.find(|d| d["code"] == code && d["interface"] == format!("bond{i}"));
        let found = found.expect(code).to_string();
        assert!(found.contains(&format!("port {port} ")), "{port}: {found}");
    }
    for (group, code) in [(1, "VLAN_MISMATCH"), (2, "DUPLICATE_MAC")] {
        let mut all = document["diagnoses"].as_array().expect("diagnoses").iter();
        let found = all.find(|d| d["code"] == code).expect(code);
        assert_eq!(found["ports"], serde_json::json!([format!("eth{}", members(group)[1])]));
    }
}

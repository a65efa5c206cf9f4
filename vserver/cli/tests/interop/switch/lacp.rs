//! LACP: what the switch says of an aggregate is what weft says of it; frames are spread.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_cli::lab::topology::{Machine, WAN, v4};

use super::ovs::{Member, Ovs, cable};
use super::{ask, bond, sending, until};
use crate::common::{ALPHA, Daemon, xdp};

/// The state bits, as the switch spells them and as weft does.
const BITS: [(&str, &str); 8] = [
    ("activity", "active"),
    ("timeout", "short_timeout"),
    ("aggregation", "aggregatable"),
    ("synchronized", "sync"),
    ("collecting", "collecting"),
    ("distributing", "distributing"),
    ("expired", "expired"),
    ("defaulted", "defaulted"),
];

/// One end of a link as the switch tells it, in the form of weft's report.
fn end(member: &Member, who: &str) -> String {
    let fact = |key: &str| member.facts.get(&format!("{who} {key}")).cloned().unwrap_or_default();
    let state = fact("state");
    let bits = BITS.iter().filter(|(word, _)| state.split(' ').any(|w| w == *word));
    let mut text = format!("{} {} ", fact("sys_priority"), fact("sys_id"));
    let _ = write!(text, "key {} port {} {}", fact("key"), fact("port_priority"), fact("port_id"));
    bits.fold(text, |text, (_, word)| text + " " + word)
}

/// One end of a link as weft tells it.
fn own(end: &Value) -> String {
    let text = |key: &str| end[key].as_str().map_or_else(|| end[key].to_string(), str::to_owned);
    let bits = BITS.iter().filter(|(_, word)| end["state"][*word] == true);
    let mut line = format!("{} {} ", text("system_priority"), text("system"));
    let _ = write!(line, "key {} port {} {}", text("key"), text("port_priority"), text("port"));
    bits.fold(line, |line, (_, word)| line + " " + word)
}

/// Both ends of all links of a bond, as the switch (first) and weft (second) have them: weft's end,
/// then the switch's.
fn both_views(ovs: &Ovs, dir: &Path, name: &str) -> [Vec<[String; 2]>; 2] {
    let bond = bond(dir, name);
    let mine = bond["ports"].as_array().expect("ports").iter();
    let mine = mine.map(|p| [own(&p["lacp"]["actor"]), own(&p["partner"])]).collect();
    let theirs = ovs.lacp(name);
    let theirs = theirs.iter().map(|m| [end(m, "partner"), end(m, "actor")]).collect();
    [theirs, mine]
}

/// Who speaks first at weft and at the switch, and the rates that both ask for.
const NEGOTIATIONS: [[&str; 4]; 13] = [
    ["active", "active", "fast", "fast"],
    ["active", "active", "fast", "slow"],
    ["active", "active", "slow", "fast"],
    ["active", "active", "slow", "slow"],
    ["active", "passive", "fast", "fast"],
    ["active", "passive", "fast", "slow"],
    ["active", "passive", "slow", "fast"],
    ["active", "passive", "slow", "slow"],
    ["passive", "active", "fast", "fast"],
    ["passive", "active", "fast", "slow"],
    ["passive", "active", "slow", "fast"],
    ["passive", "active", "slow", "slow"],
    // silence
    ["passive", "passive", "fast", "fast"],
];

/// A host with one bond of two cables to the switch for each negotiation.
fn negotiations(ovs: &Ovs, machine: &Machine) -> String {
    let mut config = String::new();
    for (i, [weft, switch, rate, time]) in NEGOTIATIONS.iter().enumerate() {
        let ports = [2 * i, 2 * i + 1];
        for n in ports {
            let (nic, port) = (format!("nic{n}"), format!("port{n:02}"));
            cable((machine, &nic), (&ovs.machine, &port));
            let _ = writeln!(config, "[nic.eth{n}]\ndevice = \"{nic}\"\ndriver = \"af-xdp\"");
        }
        ovs.vsctl(&format!(
            "add-bond br0 bond{i} port{:02} port{:02} lacp={switch} bond_mode=balance-tcp tag={} \
             other_config:lacp-time={time}",
            ports[0],
            ports[1],
            100 + i
        ));
        let _ = writeln!(
            config,
            "[bond.bond{i}]\nports = [\"eth{}\", \"eth{}\"]\n\
             lacp = {{ activity = \"{weft}\", rate = \"{rate}\" }}\n\
             [alias.data{i}]\nover = \"bond{i}\"",
            ports[0], ports[1]
        );
    }
    config
}

#[test]
fn the_switch_and_weft_agree_on_aggregates_of_all_activities_and_rates() {
    if !xdp() || !Ovs::installed() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let (ovs, machine) = (Ovs::start(), Machine::new("weft").expect("weft"));
    let client = Machine::new("client").expect("client");
    cable((&client, WAN), (&ovs.machine, "client"));
    client.number(WAN, 2).expect("address");
    ovs.vsctl("add-port br0 client tag=100");
    let config = format!(
        "[host]\ncontrol = \"{}\"\n{}[vserver.alpha]\naddresses = [\"data0 {}/16\"]\n\
         service = [{{ kind = \"echo\", port = 7 }}]\n",
        dir.join("weft.sock").display(),
        negotiations(&ovs, &machine),
        v4(ALPHA)
    );
    let ports: Vec<String> = (0..2 * NEGOTIATIONS.len()).map(|n| format!("port{n:02}")).collect();
    for port in &ports {
        ovs.plug(port, false);
    }
    let _daemon = Daemon::control(&machine, dir, &config);
    // An active switch that hears nobody speaks every 30 s, but also to a link that comes up.
    for port in &ports {
        ovs.plug(port, true);
    }
    for (i, [weft, switch, rate, time]) in NEGOTIATIONS.iter().enumerate() {
        let name = format!("bond{i}");
        let silent = *weft == "passive" && *switch == "passive";
        let view = until(30, || {
            let [theirs, mine] = both_views(&ovs, dir, &name);
            let done = mine.iter().flatten().filter(|end| end.contains("distributing")).count();
            if theirs == mine && done == 4 || silent {
                return Ok(mine);
            }
            Err(format!("{name}: the switch has {theirs:#?}\nweft has {mine:#?}"))
        });
        let report = bond(dir, &name);
        if silent {
            assert_eq!(sending(&report), Vec::<&str>::new(), "{name}");
            assert_eq!(report["ports"][0]["unused"], "no-partner", "{report}");
            continue;
        }
        for [own, partner] in &view {
            assert_eq!(own.contains(" active"), *weft == "active", "{name}: {own}");
            assert_eq!(partner.contains(" active"), *switch == "active", "{name}: {partner}");
            assert_eq!(own.contains("short"), *rate == "fast", "{name}: {own}");
            assert_eq!(partner.contains("short"), *time == "fast", "{name}: {partner}");
        }
        agrees_in_the_tree(dir, &name, &report);
    }
    let to = SocketAddr::new(v4(ALPHA).into(), 7);
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(20));
    client.netns.enter(connect).expect("enter").expect("connect over bond0");
    println!("NUMBER lacp: 12 of 12 aggregates of two ports agreed on by Open vSwitch and weft");
}

/// `weft interfaces` names the partner that the switch says it is.
fn agrees_in_the_tree(dir: &Path, name: &str, report: &Value) {
    let tree = ask(dir, &["interfaces", "-j"]);
    let lines = tree["interfaces"].as_array().expect("interfaces");
    let line = lines.iter().find(|l| l["interface"] == name).expect(name);
    let partner = &report["lacp"]["partner"];
    let words = format!(
        "lacp, 2 of 2 ports send, partner {} key {}",
        partner["system"].as_str().expect("system"),
        partner["key"]
    );
    assert_eq!((&line["state"], &line["detail"]), (&"up".into(), &words.into()), "{line}");
}

/// Frames each way on each port of the switch: (towards the switch, towards weft).
fn counts(ovs: &Ovs) -> [(u64, u64); 2] {
    ["port0", "port1"].map(|port| {
        let stats = ovs.stats(port);
        (stats.rx_packets, stats.tx_packets)
    })
}

#[test]
fn sixty_four_connections_use_both_ports_in_both_directions() {
    if !xdp() || !Ovs::installed() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let (ovs, machine) = (Ovs::start(), Machine::new("weft").expect("weft"));
    let client = Machine::new("client").expect("client");
    cable((&client, WAN), (&ovs.machine, "client"));
    client.number(WAN, 2).expect("address");
    for i in 0..2 {
        cable((&machine, &format!("nic{i}")), (&ovs.machine, &format!("port{i}")));
    }
    ovs.vsctl("add-port br0 client");
    ovs.vsctl("add-bond br0 bond0 port0 port1 lacp=active bond_mode=balance-tcp");
    let config = super::bonded(dir, 2, "", "service = [{ kind = \"echo\", port = 7 }]\n");
    let _daemon = Daemon::start(&machine, &client.netns, dir, &config, 7);
    until(30, || {
        let bond = bond(dir, "bond0");
        let used = sending(&bond).len();
        if used == 2 { Ok(()) } else { Err(bond.to_string()) }
    });
    let before = counts(&ovs);
    client
        .netns
        .enter(|| {
            let to = SocketAddr::new(v4(ALPHA).into(), 7);
            let connect = |_| TcpStream::connect_timeout(&to, Duration::from_secs(20));
            let streams: Vec<TcpStream> =
                (0..64).map(connect).collect::<Result<_, _>>().expect("connect");
            let (data, mut back) = ([7; 1000], [0; 1000]);
            for mut stream in streams.iter().cycle().take(64 * 10) {
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
                stream.write_all(&data).expect("write");
                stream.read_exact(&mut back).expect("read");
                assert_eq!(back, data);
            }
        })
        .expect("enter");
    let after = counts(&ovs);
    let used: Vec<(u64, u64)> =
        before.iter().zip(after).map(|(b, a)| (a.0 - b.0, a.1 - b.1)).collect();
    println!("NUMBER 64 connections over two ports, frames to the switch and to weft: {used:?}");
    // 640 echoes: were one port idle in a direction it would see a few LACPDUs only
    assert!(used.iter().all(|(out, into)| *out > 100 && *into > 100), "{used:?}");
}

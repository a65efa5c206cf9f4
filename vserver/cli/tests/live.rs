//! `weft apply` on a running daemon over AF_XDP, while a transfer and 1 ms pings run.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_cli::lab::topology::{Cabling, Topology, v4, v6};

mod common;

use common::{ALPHA, Daemon, Pings, Transfer, alpha, ask, installed, operate, xdp};

/// Rounds of three changes.
const ROUNDS: usize = 20;

fn apply(dir: &Path, file: &str) -> String {
    ask(dir, &["apply", file])
}

#[test]
fn changes_break_no_transfer_and_lose_no_ping() {
    if !xdp() || !installed("curl") || !installed("ping") {
        return;
    }
    let lab = Topology::cabled(Cabling::default()).expect("topology");
    let client = &lab.client.netns;
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let (blob, service) = blob(dir, 24_000_000);
    let base = alpha("af-xdp", dir, &service);
    for n in 1..=2u16 {
        let net = v4(ALPHA).octets();
        let gateway = format!("{}.{}.{}.{}", net[0], net[1], net[2], 240 + n);
        let text = format!(
            "{base}routes = [{{ to = \"default\", via = \"{gateway}\" }}]\nlimits.tcp_connections = {n}000\n\
             [vserver.more]\naddresses = [\"data0 {}/16\"]\n[[vserver.more.service]]\nkind = \"echo\"\nport = 7\n\
             [vserver.more.qos]\nsend = {{ limit = \"{n}00 Mbit/s\" }}\n",
            v4(200 + n)
        );
        fs::write(dir.join(format!("{n}.toml")), text).expect("write");
    }
    let _daemon = Daemon::start(&lab.weft, client, dir, &base, 80);

    let ping = Pings::start(client, &v4(ALPHA).to_string(), 3000);
    let transfer = Transfer::start(client, dir, blob, 8);
    for round in 0..ROUNDS {
        assert!(apply(dir, "1.toml").contains("+ the vserver"), "round {round}");
        apply(dir, "2.toml");
        assert!(apply(dir, "weft.toml").contains("removed more"), "round {round}");
    }
    transfer.end();
    assert_eq!(ping.end().0, 3000);
}

/// What is fetched, and the service of `alpha` that has it.
fn blob(dir: &Path, len: u32) -> (Vec<u8>, String) {
    let (blob, root) = Transfer::blob(dir, len);
    let root = root.display();
    (blob, format!("service = [{{ kind = \"http\", port = 80, root = \"{root}\" }}]\n"))
}

/// What readers are told of the configuration and of what it made.
fn told(dir: &Path) -> String {
    let all = [
        &["export", "--all"][..],
        &["export"],
        &["routes", "-j"],
        &["policy", "show", "alpha", "-j"],
    ];
    let texts = all.map(|args| ask(dir, args));
    texts.join("\n")
}

/// Everything that can be changed, one by one: what is added to alpha, and to the file.
const KINDS: [(&str, &str, &str); 13] = [
    ("route", "routes = [{ to = \"default\", via = \"10.77.0.241\" }]\n", ""),
    ("rules", "rules = [{ to = \"198.51.100.0/24\", action = \"prohibit\" }]\n", ""),
    (
        "table",
        "tables = [\"t\"]\n",
        "[table.t]\nroutes = [{ to = \"default\", via = \"10.77.0.242\", alias = \"data0\" }]\n",
    ),
    ("dns", "dns.servers = [\"10.77.0.53\"]\n", ""),
    ("register", "register = { zone = \"example.net\", server = \"10.77.0.2\" }\n", ""),
    ("mdns", "mdns = { host = \"box\" }\n", ""),
    ("acd", "acd = \"off\"\n", ""),
    ("access", "access = [{ drop = \"tcp/99\" }]\n", ""),
    ("host access", "", "[access]\nrules = [{ drop = \"tcp/98\" }]\n"),
    ("qos", "qos.send.limit = \"900 Mbit/s\"\n", ""),
    (
        "group",
        "group = \"g\"\n",
        "[group.g]\nlimits.tcp_connections = 999\naccess = [{ drop = \"tcp/97\" }]\n",
    ),
    ("role", "", "[role.look]\nusers = [\"12345\"]\nallow = \"view\"\n"),
    (
        "guest",
        "",
        "[vserver.guest]\naddresses = [\"data0 10.77.0.201/16\"]\n\
         service = [{ kind = \"echo\", port = 7 }]\nmdns = { services = [] }\n",
    ),
];

/// A file whose last step but one cannot be made: two vservers forward on one alias.
const IMPOSSIBLE: &str = "[vserver.x]\nforwarding = true\naddresses = [\"data0 10.77.0.202/16\"]\n\
                          [vserver.y]\nforwarding = true\naddresses = [\"data0 10.77.0.203/16\"]\n";

#[test]
fn every_kind_of_change_is_made_and_taken_back_beside_a_transfer_and_pings() {
    if !xdp() || !installed("curl") || !installed("ping") {
        return;
    }
    let lab = Topology::cabled(Cabling::default()).expect("topology");
    let client = &lab.client.netns;
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let (blob, service) = blob(dir, 16_000_000);
    let file = |own: &str, more: &str| alpha("af-xdp", dir, &format!("{service}{own}{more}"));
    let base = file("", "");
    for (n, (_, own, more)) in KINDS.iter().enumerate() {
        fs::write(dir.join(format!("{n}.toml")), file(own, more)).expect("write");
    }
    // All at once.
    let own: String = KINDS.iter().map(|k| k.1).collect();
    let more: String = KINDS.iter().map(|k| k.2).collect();
    fs::write(dir.join("all.toml"), file(&own, &more)).expect("write");
    fs::write(dir.join("bad.toml"), file(&own, &(more + IMPOSSIBLE))).expect("write");
    let nic = "[nic.eth9]\ndevice = \"nowhere0\"\ndriver = \"af-xdp\"\n";
    fs::write(dir.join("nic.toml"), file("", nic)).expect("write");
    let _daemon = Daemon::start(&lab.weft, client, dir, &base, 80);
    let before = told(dir);

    let ping = Pings::start(client, &v4(ALPHA).to_string(), 3000);
    let transfer = Transfer::start(client, dir, blob, 5);
    for (n, (kind, ..)) in KINDS.iter().enumerate() {
        let text = apply(dir, &format!("{n}.toml"));
        assert!(text.contains("applied: "), "{kind}: {text}");
        assert_ne!(told(dir), before, "{kind}");
        apply(dir, "weft.toml");
        assert_eq!(told(dir), before, "{kind} is taken back");
    }
    let refused = operate(dir, &["apply", "bad.toml"]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("forwards on data0 already"), "{errors}");
    assert_eq!(told(dir), before, "what failed has left nothing");
    let refused = operate(dir, &["apply", "nic.toml"]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("nic eth9: a device is opened with root's rights"), "{errors}");
    ask(dir, &["apply", "all.toml", "--confirm", "4s"]);
    assert_ne!(told(dir), before);
    let begin = Instant::now();
    while told(dir) != before {
        assert!(begin.elapsed() < Duration::from_secs(20), "nobody confirmed, and it is there");
        std::thread::sleep(Duration::from_millis(50));
    }
    transfer.end();
    assert_eq!(ping.end().0, 3000);
}

#[test]
fn an_address_that_moves_to_a_vserver_with_its_own_mac_is_found_there_at_once() {
    if !xdp() || !installed("ping") {
        return;
    }
    let lab = Topology::cabled(Cabling::default()).expect("topology");
    let client = &lab.client.netns;
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let (four, six) = (v4(200), v6(200));
    let file = |at: usize| {
        let moving = |alias: &str| format!(", \"{alias} {four}/16\", \"{alias} {six}/64\"");
        let own = ["data0", "data1"].map(moving);
        let of = |n: usize| if n == at { own[n].as_str() } else { "" };
        let base = alpha("af-xdp", dir, "");
        let base = base.replace("/64\"]", &format!("/64\"{}]", of(0)));
        format!(
            "{base}service = [{{ kind = \"echo\", port = 7 }}]\n\
             [alias.data1]\nover = \"eth0\"\nmac = \"02:00:00:00:77:01\"\n\
             [vserver.beta]\naddresses = [\"data1 {}/16\"{}]\n",
            v4(201),
            of(1)
        )
    };
    for n in 0..2 {
        fs::write(dir.join(format!("{n}.toml")), file(n)).expect("write");
    }
    let _daemon = Daemon::start(&lab.weft, client, dir, &file(0), 7);
    let begin = Instant::now();
    let lost = |to: &str| Pings::start(client, to, 1).end().0 == 0;
    while lost(&six.to_string()) {
        assert!(begin.elapsed() < Duration::from_secs(20), "no duplicate, and no address");
    }
    let beside = Pings::start(client, &v4(ALPHA).to_string(), 2000);
    let moving = [four.to_string(), six.to_string()].map(|to| Pings::start(client, &to, 2000));
    let moves = 10;
    for round in 0..moves {
        let text = apply(dir, &format!("{}.toml", 1 - round % 2));
        assert!(text.contains("(from "), "{text}");
        for to in [four.to_string(), six.to_string()] {
            // The client had the old MAC address a moment ago, and would keep it for a minute.
            assert!(!lost(&to) || !lost(&to), "round {round}: {to} is not where it went");
        }
    }
    assert_eq!(beside.end().0, 2000, "an address that stays");
    for ping in moving {
        let (count, gap) = ping.end();
        // What was on its way to the old MAC address when a new one was told; were it not told, half
        // of all would be lost.
        assert!(count >= 2000 - 50 * moves, "{count} answers, {gap:.1} ms without one");
    }
}

/// The interfaces of the host one after the other, and what `alpha` stands on.
const LINKS: [(&str, &str, &str); 5] = [
    ("a VLAN more", "eth0", "[alias.mgmt0]\nover = \"eth0.5\"\n"),
    ("a group", "fail0", "[fail.fail0]\nmembers = [\"eth0\"]\nprobe = \"arp\"\n"),
    ("a bond", "bond0", "[bond.bond0]\nports = [\"eth0\"]\nmode = \"static\"\n"),
    ("another mode", "bond0", "[bond.bond0]\nports = [\"eth0\"]\nmode = \"active-backup\"\n"),
    (
        "a group of a bond",
        "fail0",
        "[bond.bond0]\nports = [\"eth0\"]\nmode = \"static\"\n[fail.fail0]\nmembers = [\"bond0\"]\n",
    ),
];

#[test]
fn other_interfaces_below_a_vserver_break_no_transfer() {
    if !xdp() || !installed("curl") || !installed("ping") {
        return;
    }
    let lab = Topology::cabled(Cabling::default()).expect("topology");
    let client = &lab.client.netns;
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let (blob, service) = blob(dir, 16_000_000);
    // Tags are left in frames from the start: later the daemon has no right to change that.
    let file = |over: &str, links: &str| {
        let base = alpha("af-xdp", dir, &service);
        let base = base.replace("over = \"eth0\"", &format!("over = \"{over}\""));
        format!("{base}[alias.san0]\nover = \"{over}.9\"\n{links}")
    };
    for (n, (_, over, links)) in LINKS.iter().enumerate() {
        fs::write(dir.join(format!("{n}.toml")), file(over, links)).expect("write");
    }
    let _daemon = Daemon::start(&lab.weft, client, dir, &file("eth0", ""), 80);
    let before = told(dir);
    let ping = Pings::start(client, &v4(ALPHA).to_string(), 3000);
    let transfer = Transfer::start(client, dir, blob, 5);
    for round in 0..3 {
        for (n, (kind, over, _)) in LINKS.iter().enumerate() {
            let text = apply(dir, &format!("{n}.toml"));
            assert!(text.contains("applied: "), "round {round}, {kind}: {text}");
            let drawn = ask(dir, &["interfaces"]);
            assert!(drawn.contains(over), "{kind}: {drawn}");
        }
        apply(dir, "weft.toml");
        assert_eq!(told(dir), before, "round {round}");
    }
    transfer.end();
    let (count, gap) = ping.end();
    println!("{count} of 3000 pings were answered");
    // A moment without a neighbour at each of the 18 changes, longer on a busy machine.
    assert!(count > 2700, "{count} answers, {gap:.1} ms without one");
}

#[test]
fn a_first_vlan_that_takes_a_right_is_refused_with_what_to_do() {
    if !xdp() {
        return;
    }
    let lab = Topology::cabled(Cabling::default()).expect("topology");
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let base = alpha("af-xdp", dir, "service = [{ kind = \"echo\", port = 7 }]\n");
    let vlan = format!("{base}[alias.san0]\nover = \"eth0.9\"\n");
    fs::write(dir.join("vlan.toml"), vlan).expect("write");
    let _daemon = Daemon::start(&lab.weft, &lab.client.netns, dir, &base, 7);
    let before = told(dir);
    let answer = operate(dir, &["apply", "vlan.toml"]);
    let errors = String::from_utf8_lossy(&answer.stderr);
    if answer.status.success() {
        println!("the NIC leaves tags in frames already");
        return;
    }
    assert!(errors.contains("nic eth0") && errors.contains("rxvlan off"), "{errors}");
    assert_eq!(told(dir), before);
    let device = errors.split("ethtool -K ").nth(1).and_then(|t| t.split(' ').next());
    let device = device.expect("a device").to_owned();
    lab.weft
        .netns
        .enter(|| weft_drivers::ethtool::set_vlan_stripping(&device, false))
        .expect("namespace")
        .expect("as the hint says");
    apply(dir, "vlan.toml");
}

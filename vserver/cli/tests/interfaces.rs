//! `weft interfaces` of a running daemon: the tree as it is drawn, for programs, as JSON; and an
//! alias that is bound to targets beyond its link.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_cli::lab::topology::{CLIENT, FAR, Machine, v4, v6};

mod common;

use common::{ALPHA, Daemon, ask, ask_until, cable, installed, ip, namespaces, operate, weft};

/// NICs of the machine, and their other ends.
const CABLES: [(&str, &str); 3] = [("nic0", "far0"), ("nic1", "far1"), ("nic2", "far2")];
const FAR_V6: &str = "2001:db8:9::1";

/// A machine with three cables to another, which is the router at the first.
struct Lab {
    weft: Machine,
    peer: Machine,
}

impl Lab {
    fn new() -> Lab {
        let lab = Lab { weft: Machine::new("weft").unwrap(), peer: Machine::new("peer").unwrap() };
        for (nic, far) in CABLES {
            cable((&lab.weft, nic), (&lab.peer, far));
            lab.peer.netlink(|netlink| netlink.set_up(far, true)).unwrap();
        }
        lab.peer.number(CABLES[0].1, CLIENT).unwrap();
        lab
    }

    fn ip(&self, args: &[&str]) {
        ip(&self.peer, args);
    }

    /// What is behind the router is there, or not.
    fn far(&self, there: bool) {
        let change = if there { "add" } else { "del" };
        for address in [format!("{FAR}/32"), format!("{FAR_V6}/128")] {
            self.ip(&["addr", change, &address, "dev", "lo"]);
        }
    }
}

fn config(dir: &Path, alias: &str) -> String {
    let nic =
        |i: usize| format!("[nic.eth{i}]\ndevice = \"{}\"\ndriver = \"packet\"\n", CABLES[i].0);
    let nics: Vec<String> = (0..CABLES.len()).map(nic).collect();
    let nics = nics.concat();
    format!(
        r#"
[host]
control = "{control}"
state_dir = "{state}"
{nics}
[bond.bond0]
ports = ["eth1", "eth2"]
mode = "static"
[alias.data0]
over = "eth0"
{alias}
[alias.mgmt0]
over = "bond0.5"
mtu = 1400
[alias.san0]
over = "eth0.7"
[vserver.alpha]
addresses = ["data0 {v4}/16", "data0 {v6}/64", "mgmt0 10.5.0.1/24", "san0 10.7.0.1/24"]
routes = [
    {{ to = "default", via = "{gateway4}" }},
    {{ to = "default", via = "{gateway6}" }},
]
"#,
        control = dir.join("weft.sock").display(),
        state = dir.join("state").display(),
        v4 = v4(ALPHA),
        v6 = v6(ALPHA),
        gateway4 = v4(CLIENT),
        gateway6 = v6(CLIENT),
    )
}

#[test]
fn the_tree_is_drawn_listed_for_programs_and_printed_as_json() {
    if !namespaces() || !installed("ip") {
        return;
    }
    let lab = Lab::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _daemon = Daemon::control(&lab.weft, dir, &config(dir, ""));
    let up = |text: &str| !text.contains("down");
    let drawn = ask_until(dir, &["interfaces", "-o", "interface,kind,state,aliases"], up);
    assert_eq!(
        drawn,
        "\
INTERFACE   KIND  STATE  ALIASES
eth0        nic   up     data0
bond0.5     vlan  up     mgmt0
└─ bond0    bond  up     --
   ├─ eth1  nic   up     --
   └─ eth2  nic   up     --
eth0.7      vlan  up     san0
└─ eth0     nic   up     data0
"
    );
    let whole = ask(dir, &["interfaces"]);
    assert_eq!(whole, ask(dir, &["interfaces", "-o", "all"]));
    assert!(whole.contains("tag 5; mgmt0 mtu 1400"), "{whole}");
    assert!(whole.starts_with("INTERFACE   KIND  STATE  DETAIL"), "{whole}");
    assert!(whole.contains("static, 2 of 2 ports send") && whole.contains("tag 5"), "{whole}");

    // A cable is pulled.
    lab.ip(&["link", "set", CABLES[2].1, "down"]);
    let listed = ["interfaces", "-P", "-o", "interface,state,mtu,aliases"];
    let text = ask_until(dir, &listed, |text| text.contains("eth2:down"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "eth0:up:1500:data0",
            "bond0.5:up:1500:mgmt0",
            "bond0:up:1500:",
            "eth1:up:1500:",
            "eth2:down:1500:",
            "eth0.7:up:1500:san0",
            "eth0:up:1500:data0"
        ]
    );
    let macs = ask(dir, &["interfaces", "-P", "-o", "mac,interface"]);
    let first = macs.lines().next().unwrap();
    assert_eq!(first.matches("\\:").count(), 5, "colons of a MAC address: {first}");
    assert!(first.ends_with(":eth0"), "{first}");
    let alone = ask(dir, &["interfaces", "-P", "-o", "mac"]);
    assert!(!alone.contains('\\'), "{alone}");

    let json: serde_json::Value = serde_json::from_str(&ask(dir, &["interfaces", "-j"])).unwrap();
    assert_eq!(json["schema_version"], 1);
    let lines = json["interfaces"].as_array().unwrap();
    assert_eq!(lines.len(), 7);
    let bond = lines.iter().find(|l| l["interface"] == "bond0").unwrap();
    assert_eq!((&bond["depth"], &bond["kind"]), (&1.into(), &"bond".into()));
    assert_eq!(bond["detail"], "static, 1 of 2 ports send");
    assert_eq!(lines[1]["aliases"], serde_json::json!(["mgmt0"]));

    let wrong = operate(dir, &["interfaces", "-o", "speed"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there are interface, kind, state"));
    assert_eq!(operate(dir, &["interfaces", "-P"]).status.code(), Some(2), "programs name fields");
    // A file alone: nothing is known of its links.
    let file = dir.join("weft.toml");
    let drawn =
        ask(dir, &["interfaces", &file.display().to_string(), "-P", "-o", "state,interface"]);
    assert!(drawn.lines().all(|l| l.starts_with("unknown:")) && drawn.lines().count() == 7);
}

#[test]
fn loss_of_what_an_alias_is_bound_to_is_an_event_a_hook_and_shown() {
    if !namespaces() || !installed("ip") {
        return;
    }
    let lab = Lab::new();
    lab.far(true);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (hook, heard) = (dir.join("hook"), dir.join("heard"));
    fs::write(&hook, format!("#!/bin/sh\necho \"$@\" >> {}\n", heard.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let alias = format!(
        "beyond = [\"{FAR}\", \"{FAR_V6}\"]\ndetect_ms = 300\nhook = \"{}\"",
        hook.display()
    );
    let _daemon = Daemon::control(&lab.weft, dir, &config(dir, &alias));
    let state = ["paths", "-g", "-P", "-o", "group,state,interfaces"];
    ask_until(dir, &state, |text| text == "data0:ok:eth0\n");
    let targets = ["paths", "-t", "-P", "-o", "interface,mode,testaddr,targets"];
    let escaped = |text: &str| text.replace(':', "\\:");
    let v6_line = format!("data0:beyond:{}:{}\n", escaped(&v6(ALPHA).to_string()), escaped(FAR_V6));
    let all = format!("data0:beyond:{}:{FAR}\n{v6_line}", v4(ALPHA));
    ask_until(dir, &targets, |text| text == all);
    // They answer, and are not only asked.
    let (mut silent, begin) = (vec![FAR.to_string(), escaped(FAR_V6)], Instant::now());
    while !silent.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "no answer of {silent:?}");
        for line in probes(dir, "target,rtt", 4) {
            let (target, rtt) = line.rsplit_once(':').unwrap();
            silent.retain(|name| name.as_str() != target || !rtt.ends_with("ms"));
        }
    }
    ask_until(dir, &state, |text| text == "data0:ok:eth0\n");

    lab.far(false);
    ask_until(dir, &state, |text| text == "data0:failed:eth0\n");
    let events = ask(dir, &["events"]);
    for wanted in [
        format!("notice data0 none {FAR} beyond the link is not reached any more"),
        format!("notice data0 none {FAR_V6} beyond the link is not reached any more"),
        String::from("group data0 failed"),
    ] {
        assert!(events.contains(&wanted), "{wanted}: {events}");
    }
    let detail = ask(dir, &["interfaces", "-P", "-o", "detail"]);
    let detail = detail.lines().next().unwrap();
    assert!(detail.contains("data0 failed: active eth0, not reached "), "{detail}");
    let paths: serde_json::Value = serde_json::from_str(&ask(dir, &["paths", "-g", "-j"])).unwrap();
    assert_eq!(paths["paths"]["groups"][0]["beyond_lost"].as_array().unwrap().len(), 2);

    lab.far(true);
    ask_until(dir, &state, |text| text == "data0:ok:eth0\n");
    let begin = Instant::now();
    // The first target that is reached makes it ok; that the other is too is told after it.
    let told = |text: &str| {
        let after = text.split_once("group data0 failed\n");
        after.is_some_and(|(_, after)| after.contains("group data0 ok\n"))
    };
    while !told(&fs::read_to_string(&heard).unwrap_or_default()) {
        let text = fs::read_to_string(&heard).unwrap_or_default();
        assert!(begin.elapsed() < Duration::from_secs(20), "the hook hears of it: {text}");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Freed while everything runs.
    fs::write(dir.join("free.toml"), config(dir, "")).unwrap();
    let applied = ask(dir, &["apply", &dir.join("free.toml").display().to_string()]);
    let unhooked = format!("~ alias.data0 beyond.hook \"{}\" -> none\n", hook.display());
    assert!(applied.contains(&unhooked), "{applied}");
    assert_eq!(ask(dir, &state), "");
}

/// A group of the second and third cable with a target.
const GROUP: &str = r#"
[fail.fail0]
members = ["eth1", "eth2"]
probe = "icmp"
detect_ms = 300
quiet_ms = 0
flaps_max = 255
test = ["eth1 10.9.0.101/24", "eth2 10.9.0.102/24"]
targets = ["10.9.0.1"]
[alias.data0]
over = "fail0"
[vserver.alpha]
addresses = ["data0 10.9.0.11/24", "data0 10.9.0.12/24"]
"#;

fn group_config(dir: &Path) -> String {
    let nic =
        |i: usize| format!("[nic.eth{i}]\ndevice = \"{}\"\ndriver = \"packet\"\n", CABLES[i].0);
    let (control, state) = (dir.join("weft.sock"), dir.join("state"));
    let host = format!(
        "[host]\ncontrol = \"{}\"\nstate_dir = \"{}\"\n",
        control.display(),
        state.display()
    );
    format!("{host}{}{}{GROUP}", nic(1), nic(2))
}

/// The first probes that end, as `weft paths -p` prints them.
fn probes(dir: &Path, fields: &str, count: usize) -> Vec<String> {
    let mut command = Command::new(weft());
    command.arg("--control").arg(dir.join("weft.sock"));
    command.args(["paths", "-p", "-P", "-o", fields]).stdout(Stdio::piped());
    let mut stream = command.spawn().unwrap();
    let lines = BufReader::new(stream.stdout.take().unwrap()).lines();
    let lines = lines.take(count).map(Result::unwrap).collect();
    stream.kill().unwrap();
    stream.wait().unwrap();
    lines
}

#[test]
fn every_view_of_paths_shows_a_group_that_works_and_one_that_lost_a_cable() {
    if !namespaces() || !installed("ip") {
        return;
    }
    let lab = Lab::new();
    lab.ip(&["link", "add", "br0", "type", "bridge"]);
    for (_, far) in &CABLES[1..] {
        lab.ip(&["link", "set", far, "master", "br0"]);
    }
    lab.ip(&["addr", "add", "10.9.0.1/24", "dev", "br0"]);
    lab.ip(&["link", "set", "br0", "up"]);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _daemon = Daemon::control(&lab.weft, dir, &group_config(dir));
    let all = |view: &str| ["paths", view, "-P", "-o", "all"].map(str::to_owned);
    let until = |view: &str, wanted: &str| {
        let args = all(view);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        ask_until(dir, &args, |text| text == wanted);
    };
    until("-i", "eth1:yes:fail0:--mbM--:up:ok:ok\neth2:yes:fail0:-------:up:ok:ok\n");
    // Detection takes longer where answers do.
    let group = |wanted: &str| {
        ask_until(dir, &["paths", "-g", "-P", "-o", "all"], |text| {
            let mut fields: Vec<&str> = text.trim_end().splitn(5, ':').collect();
            let takes = (fields.len() == 5).then(|| fields.remove(3).strip_suffix('s')).flatten();
            let takes = takes.and_then(|seconds| seconds.parse::<f64>().ok());
            takes.is_some_and(|seconds| seconds >= 0.3) && fields.join(":") == wanted
        });
    };
    group("fail0:fail0:ok:eth1 eth2");
    let addresses = ["paths", "-a", "-P", "-o", "address,state,group,inbound,outbound"];
    let v4 = |text: &str| {
        let v4 = text.lines().filter(|l| l.starts_with("10."));
        v4.map(str::to_owned).collect::<Vec<_>>()
    };
    let both = |one: &str, other: &str| {
        vec![
            format!("10.9.0.11:up:fail0:{one}:eth1 eth2"),
            format!("10.9.0.12:up:fail0:{other}:eth1 eth2"),
        ]
    };
    let bound = v4(&ask(dir, &addresses));
    assert!(bound == both("eth1", "eth2") || bound == both("eth2", "eth1"), "{bound:?}");
    until("-t", "eth1:routes:10.9.0.101:10.9.0.1\neth2:routes:10.9.0.102:10.9.0.1\n");
    until("-b", "");
    let counted = ask(dir, &["paths", "-c", "-P", "-o", "group,counter"]);
    assert!(counted.contains("fail0:probes.acked\n"), "{counted}");
    let lines = probes(dir, "interface,target,netrtt,rtt", 8);
    for line in &lines {
        let fields: Vec<_> = line.split(':').collect();
        assert!(["eth1", "eth2"].contains(&fields[0]) && fields[1] == "10.9.0.1", "{line}");
    }
    let answered = |line: &&String| line.split(':').skip(2).all(|took| took.ends_with("ms"));
    assert!(lines.iter().filter(answered).count() >= 4, "answered: {lines:#?}");
    for view in ["-a", "-g", "-i", "-b", "-c"] {
        let json = ask(dir, &["paths", view, "-j"]);
        assert!(!json.contains("10.9.0.10"), "test addresses are for who asks: {view} {json}");
    }
    assert!(ask(dir, &["paths", "-t", "-j"]).contains("10.9.0.101"));

    lab.ip(&["link", "set", CABLES[2].1, "down"]);
    until("-i", "eth1:yes:fail0:--mbM--:up:ok:ok\neth2:no:fail0:-------:down:failed:failed\n");
    group("fail0:fail0:degraded:eth1 [eth2]");
    let alone = ["10.9.0.11:up:fail0:eth1:eth1", "10.9.0.12:up:fail0:eth1:eth1"];
    assert_eq!(v4(&ask(dir, &addresses)), alone);
    let counted = ask(dir, &["paths", "-c", "-P", "-o", "interface,counter,value"]);
    let failures = counted.lines().find_map(|line| line.strip_prefix("eth2:failures:"));
    assert!(failures.is_some_and(|times| times != "0"), "{counted}");
    let refused = operate(dir, &["interface", "offline", "eth1"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("eth1 stays"), "the last one");
}

//! BFD with FRR's bfdd, through the switch, for both families on both members of a group.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use weft_cli::lab::topology::{CLIENT, Machine, WAN, v4};

use super::ovs::{Ovs, Running, appears, cable, run};
use super::{ask, frames, until};
use crate::common::{ALPHA, Daemon, installed, xdp};
use crate::judge;

/// Where the package has its daemons.
const FRR: &str = "/usr/lib/frr";
/// The peer, as IPv6 has it; the members are `fe80::31` and `fe80::32`.
const PEER6: &str = "fe80::2";

/// zebra and bfdd in a machine, with run directories of their own. Killed when dropped.
struct Frr {
    dir: PathBuf,
    _zebra: Running,
    bfdd: Option<Running>,
}

impl Frr {
    fn start(machine: &Machine, dir: &Path) -> Frr {
        fs::create_dir(dir).expect("directory");
        let peers = [31, 32].map(|n| {
            format!(
                " peer {} local-address {} interface {WAN}\n  profile lab\n !\n \
                 peer fe80::{n} local-address {PEER6} interface {WAN}\n  profile lab\n !\n",
                v4(n),
                v4(CLIENT)
            )
        });
        let bfdd = format!(
            "bfd\n profile lab\n  receive-interval 50\n  transmit-interval 100\n  \
             detect-multiplier 3\n !\n{}{}!\n",
            peers[0], peers[1]
        );
        fs::write(dir.join("bfdd.conf"), bfdd).expect("write");
        fs::write(dir.join("zebra.conf"), "").expect("write");
        // they leave root
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.parent().expect("parent"), open).expect("permissions");
        run(machine, &format!("chown -R frr:frr {}", dir.display()));
        let zebra = daemon(machine, dir, "zebra", &[]);
        appears(&dir.join("zserv.api"));
        let mut frr = Frr { dir: dir.to_owned(), _zebra: zebra, bfdd: None };
        frr.speak(machine);
        frr
    }

    fn speak(&mut self, machine: &Machine) {
        let control = self.dir.join("bfdd.sock").display().to_string();
        self.bfdd = Some(daemon(machine, &self.dir, "bfdd", &["--bfdctl", &control]));
        appears(&self.dir.join("bfdd.vty"));
    }

    /// Sessions: peer, and what bfdd says of it.
    fn peers(&self) -> Vec<(String, Value)> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(&self.dir).args(["-c", "show bfd peers json"]);
        let output = vtysh.stdin(Stdio::null()).output().expect("vtysh");
        let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        all.into_iter().map(|p| (p["peer"].as_str().expect("peer").to_owned(), p)).collect()
    }

    /// Waits until all four sessions are in a state.
    fn all(&self, state: &str) -> Vec<(String, Value)> {
        until(20, || {
            let peers = self.peers();
            let there = peers.iter().filter(|(_, peer)| peer["status"] == state).count();
            if there == 4 { Ok(peers) } else { Err(format!("not all {state}: {peers:#?}")) }
        })
    }
}

fn daemon(machine: &Machine, dir: &Path, name: &str, args: &[&str]) -> Running {
    let file = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    let mut command = machine.netns.command(Path::new(FRR).join(name));
    command.arg("-f").arg(file("conf")).arg("-i").arg(file("pid"));
    command.arg("-z").arg(dir.join("zserv.api")).arg("--vty_socket").arg(dir);
    command.args(["-P", "0", "--log", "stdout"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().expect(name))
}

fn configuration(dir: &Path) -> String {
    let nic = |i| {
        format!(
            "[nic.eth{i}]\ndevice = \"nic{i}\"\ndriver = \"af-xdp\"\ncapture = \"{}\"\n",
            dir.join(format!("captures/eth{i}.pcapng")).display()
        )
    };
    format!(
        r#"
[host]
control = "{control}"
{}{}[fail.fail0]
members = ["eth0", "eth1"]
probe = "icmp"
detect_ms = 1000
test = ["eth0 {}/16", "eth0 fe80::31/64", "eth1 {}/16", "eth1 fe80::32/64"]
targets = ["{peer}", "{PEER6}"]
fast = {{ peers = ["{peer}", "{PEER6}"], interval_ms = 20, multiplier = 5 }}
flaps_max = 100
[alias.data0]
over = "fail0"
[vserver.alpha]
addresses = ["data0 {}/16"]
"#,
        nic(0),
        nic(1),
        v4(31),
        v4(32),
        v4(ALPHA),
        control = dir.join("weft.sock").display(),
        peer = v4(CLIENT)
    )
}

/// Waits until all four sessions are in a state.
fn sessions(dir: &Path, state: &str) -> Vec<Value> {
    until(20, || {
        let paths = ask(dir, &["paths", "-b", "-j"]);
        let all = paths["paths"]["sessions"].as_array().expect("sessions");
        let there = all.iter().filter(|s| s["state"] == state).count();
        if there == 4 { Ok(all.clone()) } else { Err(format!("not all {state}: {paths:#}")) }
    })
}

/// State of each member.
fn members(dir: &Path) -> Vec<String> {
    let paths = ask(dir, &["paths", "-i", "-j"]);
    let all = paths["paths"]["interfaces"].as_array().expect("interfaces").iter();
    all.map(|i| i["state"].as_str().expect("state").to_owned()).collect()
}

#[test]
fn fast_mode_and_bfdd_agree_on_timers_and_notice_when_the_other_is_gone() {
    if !xdp() || !Ovs::installed() || !installed("tshark") || !installed("vtysh") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    fs::create_dir(dir.join("captures")).expect("directory");
    let (ovs, weft) = (Ovs::start(), Machine::new("weft").expect("weft"));
    let peer = Machine::new("peer").expect("peer");
    cable((&peer, WAN), (&ovs.machine, "peer"));
    peer.number(WAN, CLIENT).expect("address");
    run(&peer, &format!("ip addr add {PEER6}/64 dev {WAN} nodad"));
    ovs.vsctl("add-port br0 peer");
    for i in 0..2 {
        cable((&weft, &format!("nic{i}")), (&ovs.machine, &format!("port{i}")));
        ovs.vsctl(&format!("add-port br0 port{i}"));
    }
    let mut frr = Frr::start(&peer, &dir.join("frr"));
    let mut daemon = Daemon::control(&weft, dir, &configuration(dir));

    // RFC 5880 6.8.2, 6.8.4: the slower of what one sends and what the other takes
    for session in sessions(dir, "up") {
        assert_eq!((&session["tx_us"], &session["detect_us"]), (&50_000.into(), &300_000.into()));
    }
    for (name, seen) in frr.all("up") {
        assert_eq!(seen["remote-receive-interval"], 20, "{name}: {seen}");
        assert_eq!(seen["remote-transmit-interval"], 20, "{name}: {seen}");
        assert_eq!(seen["remote-detect-multiplier"], 5, "{name}: {seen}");
    }
    until(20, || {
        let states = members(dir);
        if states == ["ok", "ok"] { Ok(()) } else { Err(format!("{states:?}")) }
    });

    one_way(&ovs, dir, &frr);

    let begin = Instant::now();
    frr.bfdd = None;
    for session in sessions(dir, "down") {
        assert_eq!(session["diagnostic"], 1, "control detection time expired: {session}");
    }
    println!(
        "NUMBER bfd: bfdd killed, four sessions down after {:.0} ms (detection time 300 ms)",
        begin.elapsed().as_secs_f64() * 1e3
    );
    // All other probes are answered: that is the peer's own matter. The member that missed it first
    // may have been blamed until the other missed it too.
    until(30, || {
        let states = members(dir);
        let all = || ask(dir, &["paths", "-c", "-j"]);
        if states == ["ok", "ok"] { Ok(()) } else { Err(format!("{states:?}: {:#}", all())) }
    });
    frr.speak(&peer);
    sessions(dir, "up");
    frr.all("up");

    let begin = Instant::now();
    daemon.kill(Signal::KILL);
    for (name, seen) in frr.all("down") {
        assert_eq!(seen["diagnostic"], "control detection time expired", "{name}: {seen}");
    }
    println!(
        "NUMBER bfd: weft killed, four sessions of bfdd down after {:.0} ms (detection time 250 ms)",
        begin.elapsed().as_secs_f64() * 1e3
    );
    reads(&dir.join("captures"));
}

/// The switch takes nothing of one member's BFD: bfdd says so, and the member has failed.
fn one_way(ovs: &Ovs, dir: &Path, frr: &Frr) {
    for kind in ["udp", "udp6"] {
        ovs.ofctl(
            "add-flow",
            &format!("priority=100,in_port=port1,{kind},tp_dst=3784,actions=drop"),
        );
    }
    until(20, || {
        let states = members(dir);
        if states == ["ok", "failed"] { Ok(()) } else { Err(format!("{states:?}")) }
    });
    let down = frr.peers().iter().filter(|(_, peer)| peer["status"] == "down").count();
    assert_eq!(down, 2, "sessions of one member");
    let paths = ask(dir, &["paths", "-b", "-j"]);
    let lost = paths["paths"]["sessions"].as_array().expect("sessions").iter();
    for session in lost.filter(|s| s["interface"] == "eth1") {
        assert_eq!(session["diagnostic"], 3, "neighbour signalled session down: {session}");
        assert_eq!(session["remote_diagnostic"], 1, "{session}");
    }
    ovs.ofctl("del-flows", "udp");
    ovs.ofctl("del-flows", "udp6");
    until(30, || {
        let states = members(dir);
        if states == ["ok", "ok"] { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

fn reads(captures: &Path) {
    let read = judge(captures);
    for nic in 0..2 {
        let capture = captures.join(format!("eth{nic}.pcapng"));
        for (what, filter) in [
            ("BFD of weft", "bfd && (ip.src == 10.77.0.31/31 || ipv6.src == fe80::30/124)"),
            ("BFD of FRR", "bfd && (ip.src == 10.77.0.2 || ipv6.src == fe80::2)"),
            ("session up", "bfd.sta == 3 && (ip.dst == 10.77.0.2 || ipv6.dst == fe80::2)"),
            ("echo request", "icmp.type == 8 && ip.dst == 10.77.0.2"),
            ("ICMPv6 echo request", "icmpv6.type == 128 && ipv6.dst == fe80::2"),
            ("neighbour solicitation", "icmpv6.type == 135"),
        ] {
            assert!(!frames(&capture, filter).is_empty(), "{what} on eth{nic}");
        }
    }
    println!("NUMBER bfd: {read} frames of BFD and probes read by tshark, none malformed");
}

//! Open vSwitch as the switch of a lab: its userspace datapath in a namespace, with a database and
//! a run directory of its own. Nothing of the installed service is used or started.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_cli::lab::topology::Machine;
use weft_drivers::device::DeviceError;
use weft_drivers::ethtool::{self, Offload};
use weft_drivers::netlink::{LinkStats, VethEnd};

use crate::common::installed;

/// A process, killed when dropped.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is there.
pub(super) fn appears(path: &Path) {
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command line in a machine; what it printed.
pub(super) fn run(machine: &Machine, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = machine.netns.command(words.next().expect("a program"));
    finish(command.args(words), line)
}

fn finish(command: &mut Command, line: &str) -> String {
    let output = command.stdin(Stdio::null()).output().expect(line);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Joins two machines with a veth pair whose frames carry whole checksums.
pub(super) fn cable(near: (&Machine, &str), far: (&Machine, &str)) {
    let end = VethEnd { name: far.1, netns: Some(far.0.netns.as_fd()), mac: None };
    let begin = VethEnd { name: near.1, netns: None, mac: None };
    near.0.netlink(|netlink| netlink.add_veth(&begin, &end, 1, 1500)).expect("veth");
    // the switch's kernel says nothing on its ports
    far.0.netns.set_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", far.1), "1").expect("IPv6");
    for (machine, name) in [near, far] {
        let quiet = machine.netns.enter(|| {
            for offload in [Offload::TxChecksum, Offload::Tso, Offload::Gso] {
                ethtool::set_offload(name, offload, false)?;
            }
            Ok::<(), DeviceError>(())
        });
        quiet.expect("enter").expect("offloads");
        machine.netlink(|netlink| netlink.set_up(name, true)).expect("up");
    }
}

/// The switch.
pub(super) struct Ovs {
    /// Where it runs and its ports are.
    pub(super) machine: Machine,
    dir: tempfile::TempDir,
    vswitchd: Option<Running>,
    _database: Running,
}

/// A port of an aggregate, as `lacp/show` has it.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) name: String,
    /// `actor sys_id`, `partner key`, ...
    pub(super) facts: BTreeMap<String, String>,
}

impl Ovs {
    /// Whether there is one; says that the test is skipped if not.
    pub(super) fn installed() -> bool {
        ["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-appctl", "ovs-ofctl"]
            .iter()
            .all(|program| installed(program))
    }

    /// Starts it, with one bridge `br0` without ports.
    pub(super) fn start() -> Ovs {
        let machine = Machine::new("switch").expect("switch");
        let dir = tempfile::tempdir().expect("directory");
        let database = dir.path().join("conf.db");
        let mut create = command(&machine, dir.path(), "ovsdb-tool");
        create.arg("create").arg(&database).arg("/usr/share/openvswitch/vswitch.ovsschema");
        finish(&mut create, "ovsdb-tool create");
        let socket = dir.path().join("db.sock");
        let mut server = command(&machine, dir.path(), "ovsdb-server");
        server.arg(&database).arg(format!("--remote=punix:{}", socket.display()));
        server.arg(format!("--unixctl={}", dir.path().join("db.ctl").display()));
        let database = Running(quiet(&mut server, dir.path()).spawn().expect("ovsdb-server"));
        appears(&socket);
        let mut ovs = Ovs { machine, dir, vswitchd: None, _database: database };
        ovs.vsctl("--no-wait init");
        ovs.boot();
        ovs.vsctl("add-br br0 -- set bridge br0 datapath_type=netdev");
        ovs
    }

    fn boot(&mut self) {
        let path = self.dir.path();
        let mut daemon = command(&self.machine, path, "ovs-vswitchd");
        daemon.arg(format!("unix:{}", path.join("db.sock").display()));
        daemon.arg(format!("--unixctl={}", self.control().display()));
        self.vswitchd = Some(Running(quiet(&mut daemon, path).spawn().expect("ovs-vswitchd")));
        appears(&self.control());
    }

    /// Power off.
    pub(super) fn die(&mut self) {
        self.vswitchd = None;
        std::fs::remove_file(self.control()).expect("remove the control socket");
    }

    /// Power on again, with the configuration that it had.
    pub(super) fn revive(&mut self) {
        self.boot();
        // returns when the bridges are as the database has them
        self.vsctl("set bridge br0 other_config:revived=1");
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("vs.ctl")
    }

    /// `ovs-vsctl`; waits until it is done.
    pub(super) fn vsctl(&self, line: &str) -> String {
        let mut command = command(&self.machine, self.dir.path(), "ovs-vsctl");
        let socket = self.dir.path().join("db.sock");
        command.arg(format!("--db=unix:{}", socket.display())).arg("--timeout=20");
        finish(command.args(line.split_whitespace()), line)
    }

    /// `ovs-appctl`.
    pub(super) fn appctl(&self, line: &str) -> String {
        let mut command = command(&self.machine, self.dir.path(), "ovs-appctl");
        command.arg("-t").arg(self.control());
        finish(command.args(line.split_whitespace()), line)
    }

    /// `ovs-ofctl`, of bridge `br0`.
    pub(super) fn ofctl(&self, verb: &str, rule: &str) {
        let mut command = command(&self.machine, self.dir.path(), "ovs-ofctl");
        let bridge = self.dir.path().join("br0.mgmt");
        command.args(["-O", "OpenFlow13", verb]).arg(format!("unix:{}", bridge.display()));
        finish(command.arg(rule), rule);
    }

    /// Counters of a port.
    pub(super) fn stats(&self, port: &str) -> LinkStats {
        self.machine.link_stats(port).expect("counters")
    }

    /// Cuts or mends the cable at a port: both ends lose their carrier.
    pub(super) fn plug(&self, port: &str, up: bool) {
        self.machine.netlink(|netlink| netlink.set_up(port, up)).expect("link");
    }

    /// The ports of an aggregate, by name.
    pub(super) fn lacp(&self, bond: &str) -> Vec<Member> {
        let text = self.appctl(&format!("lacp/show {bond}"));
        let mut members: Vec<Member> = Vec::new();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once(':') else { continue };
            let value = value.trim();
            if key == "member" {
                let (name, _state) = value.split_once(": ").expect(line);
                members.push(Member { name: name.to_owned(), ..Member::default() });
            } else if let Some(member) = members.last_mut() {
                member.facts.insert(key.to_owned(), value.to_owned());
            }
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }
}

fn command(machine: &Machine, dir: &Path, program: &str) -> Command {
    let mut command = machine.netns.command(program);
    for key in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
        command.env(key, dir);
    }
    command
}

/// The command writes to a log in `dir`.
fn quiet<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("log");
    let errors = log.try_clone().expect("log");
    command.stdin(Stdio::null()).stdout(log).stderr(errors)
}

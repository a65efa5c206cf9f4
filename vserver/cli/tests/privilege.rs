//! Who may do what: users of different rights at a running daemon, the log of what they did, and
//! what the daemon itself keeps of root's rights.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use weft_cli::lab::topology::{Cabling, Topology, nic, v4, v6};
use weft_vserver::config::PollMode;
use weft_vserver::control::{Command as Ask, Connection};

mod common;

use common::{ALPHA, Daemon, alpha, installed, weft, xdp};

const CONFIG: &str = r#"
[host]
control = "weft.sock"
audit = "log/audit.log"
audit_bytes = 65536
[workers]
frames = 1024
[nic.eth0]
driver = "mem"
mac = "02:00:00:00:00:01"
[alias.data0]
over = "eth0"
[group.gold]
[vserver.files]
group = "gold"
addresses = ["data0 10.0.0.10/24"]
[vserver.web]
count = 2
addresses = ["data0 10.0.0.20/24"]
[role.watchers]
users = ["61001"]
allow = "view"
[role.webmasters]
users = ["61002"]
allow = "vserver"
vservers = ["web"]
[role.golden]
groups = ["61500"]
allow = "vserver"
vserver_groups = ["gold"]
[role.operators]
groups = ["61501"]
allow = "cluster"
"#;

/// A daemon of that configuration in a directory that everybody may enter.
struct Tenancy {
    dir: TempDir,
    child: Child,
    introduction: String,
}

impl Tenancy {
    /// `None` without root: then nobody else's identity can be taken.
    fn start(config: &str) -> Option<Tenancy> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: other users' identities need root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        // The program must lie where everybody may read it.
        let program = dir.path().join("weft");
        fs::hard_link(weft(), &program).or_else(|_| fs::copy(weft(), &program).map(drop)).unwrap();
        fs::write(dir.path().join("weft.toml"), config).unwrap();
        Some(Tenancy::run(dir))
    }

    fn run(dir: TempDir) -> Tenancy {
        let mut child = Command::new(dir.path().join("weft"))
            .args(["run", "weft.toml"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut introduction = String::new();
        while !introduction.contains("ready: ") {
            assert!(stdout.read_line(&mut introduction).unwrap() > 0, "{introduction}");
        }
        Tenancy { dir, child, introduction }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `weft` as a user: exit code, standard output, standard error.
    fn as_user(&self, uid: u32, gid: u32, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(self.path("weft"));
        command.uid(uid).gid(gid);
        self.output(&mut command, args)
    }

    fn output(&self, command: &mut Command, args: &[&str]) -> (i32, String, String) {
        command.args(["--control", "weft.sock"]).args(args);
        let out = command.current_dir(self.dir.path()).stdin(Stdio::null()).output().unwrap();
        let text = |b| String::from_utf8(b).unwrap();
        (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
    }

    /// Asserts that a user may not do something and is told which role it takes.
    fn refused(&self, (uid, gid): (u32, u32), args: &[&str], role: &str) {
        let (code, out, err) = self.as_user(uid, gid, args);
        assert_eq!((code, out.as_str()), (4, ""), "{err}");
        assert!(err.contains("not allowed") && err.contains(role), "{role} in {err}");
    }

    /// The log as root sees it.
    fn log(&self) -> Vec<Value> {
        let (code, out, err) = self.as_user(0, 0, &["audit", "-j"]);
        assert_eq!(code, 0, "{err}");
        out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SET_POLL: [&str; 3] = ["runtime", "--set-poll", "interrupt"];

#[test]
fn users_may_what_their_roles_say_and_the_log_tells_all_of_it() {
    let Some(t) = Tenancy::start(CONFIG) else { return };
    // Nobody: not even a look.
    t.refused((61009, 61009), &["stat"], "any role");
    // Who may look looks, and changes nothing.
    let watcher = (61001, 61001);
    for args in [&["stat"][..], &["list", "-j"], &["sockets"], &["policy", "show", "files"]] {
        let (code, out, err) = t.as_user(watcher.0, watcher.1, args);
        assert!(code == 0 && !out.is_empty(), "{args:?}: {err}");
    }
    t.refused(watcher, &SET_POLL, "'operators'");
    t.refused(watcher, &["runtime", "--clear"], "'operators'");
    t.refused(watcher, &["ping", "web1", "10.0.0.10", "-c", "1"], "'webmasters'");
    // A tenant: its own vservers, no other's, nothing that all share.
    let tenant = (61002, 61002);
    let ping = |to| ["ping", to, "10.0.0.99", "-c", "1", "-W", "0.01"];
    for own in ["web1", "web2"] {
        let (code, out, err) = t.as_user(tenant.0, tenant.1, &ping(own));
        assert!(code != 4 && out.contains("1 sent"), "{code} {err}");
    }
    t.refused(tenant, &ping("files"), "'golden'");
    t.refused(tenant, &SET_POLL, "'operators'");
    // By group of users, and by group of vservers.
    let (_, out, err) = t.as_user(61003, 61500, &ping("files"));
    assert!(out.contains("1 sent"), "{err}");
    t.refused((61003, 61500), &ping("web1"), "'webmasters'");
    // A supplementary group counts.
    if installed("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "61004", "--regid", "61004", "--groups", "61499,61501", "--"]);
        command.arg(t.path("weft"));
        let (code, out, err) = t.output(&mut command, &SET_POLL);
        assert_eq!((code, out.as_str()), (0, "polling: interrupt\n"), "{err}");
    }
    let (code, _, err) = t.as_user(61005, 61501, &["runtime", "--set-poll", "adaptive"]);
    assert_eq!(code, 0, "{err}");
    assert_told(&t);
}

fn assert_told(t: &Tenancy) {
    let log = t.log();
    let of = |uid: u32, what: &str| -> Vec<&Value> {
        log.iter().filter(|r| r["uid"] == uid && r["what"] == what).collect()
    };
    let result = |r: &Value| r["result"].as_str().unwrap_or("").to_owned();
    assert_eq!(of(0, "start").len(), 1, "{log:#?}");
    assert!(result(of(61009, "connect")[0]).starts_with("refused: needs any role"));
    for (uid, role) in [(61001, "watchers"), (61002, "webmasters")] {
        let tried = of(uid, "set-poll");
        assert_eq!(tried.len(), 1, "{log:#?}");
        assert_eq!(
            (tried[0]["role"].as_str(), tried[0]["gid"].as_u64()),
            (Some(role), Some(u64::from(uid)))
        );
        assert!(result(tried[0]).starts_with("refused: needs a role with allow = \"cluster\""));
        assert_eq!(tried[0]["request"]["mode"], "interrupt");
    }
    // The change: begun, then ended, with what was there before and after.
    let done = of(61005, "set-poll");
    let [begun, ended] = done[..] else { panic!("{log:#?}") };
    assert_eq!((&begun["result"], &begun["id"]), (&Value::Null, &ended["id"]));
    assert_eq!((result(ended), ended["after"][0].as_str()), (String::from("ok"), Some("adaptive")));
    assert!(ended["before"][0].is_string() && ended["pid"].as_u64() > Some(1));
    // Looking is not told.
    assert!(log.iter().all(|r| r["what"] != "snapshot"));
    // A page for people, from a time on.
    let (_, text, _) = t.as_user(61001, 61001, &["audit", "--since", "1h"]);
    assert!(text.lines().any(|l| l.contains(" uid 61005 (operators) set-poll: ok; ")), "{text}");
    let (_, text, _) = t.as_user(61001, 61001, &["audit", "--since", "2999-01-01T00:00:00Z"]);
    assert_eq!(text, "");
    // The file is the daemon's alone.
    let mode = fs::metadata(t.path("log/audit.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_tenant_changes_the_network_of_its_vservers_and_nothing_else() {
    let config = CONFIG.replace("[group.gold]", "[alias.mgmt0]\nover = \"eth0\"\n[group.gold]");
    let Some(t) = Tenancy::start(&config) else { return };
    let apply = |uid: u32, gid: u32, from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        fs::write(t.path("next.toml"), config.replacen(from, to, 1)).unwrap();
        t.as_user(uid, gid, &["apply", "next.toml"])
    };
    let web = "data0 10.0.0.20/24";
    // Who may look, who has other vservers.
    for (uid, gid) in [(61001, 61001), (61003, 61500)] {
        let (code, _, err) = apply(uid, gid, web, "data0 10.0.0.30/24");
        assert!(
            code == 4 && err.contains("'webmasters'") || err.contains("allow ="),
            "{code} {err}"
        );
    }
    // Another's address, a management alias, a limit, a NIC, a new vserver.
    for (from, to) in [
        ("data0 10.0.0.10/24", "data0 10.0.0.11/24"),
        (web, "mgmt0 10.0.0.20/24"),
        ("[role.watchers]", "[vserver.web.limits]\ntcp_connections = 9\n[role.watchers]"),
        ("[alias.data0]", "mtu = 1400\n[alias.data0]"),
        ("count = 2", "count = 3"),
        ("users = [\"61001\"]", "users = [\"61002\"]"),
    ] {
        let (code, out, err) = apply(61002, 61002, from, to);
        assert_eq!(code, 4, "{from} to {to}: {out} {err}");
    }
    let addresses = || t.as_user(61001, 61001, &["list"]).1;
    assert!(addresses().contains("10.0.0.20/24"), "{}", addresses());
    // Its own: in force, and in the log with what was there before.
    let (code, out, err) = apply(61002, 61002, web, "data0 10.0.0.30/24");
    assert_eq!(code, 0, "{out} {err}");
    assert!(addresses().contains("10.0.0.30/24") && !addresses().contains("10.0.0.20/24"));
    let log = t.log();
    let tried: Vec<_> = log.iter().filter(|r| r["uid"] == 61002 && r["what"] == "apply").collect();
    let refused =
        tried.iter().filter(|r| r["result"].as_str().is_some_and(|r| r.starts_with("refused: ")));
    assert_eq!(refused.count(), 6, "{log:#?}");
    let done = tried.last().unwrap();
    assert_eq!(done["result"], "ok");
    assert!(done["before"].to_string().contains("10.0.0.20"), "{done}");
    assert!(done["after"].to_string().contains("10.0.0.30"), "{done}");
    // Who is in which role follows the configuration.
    let (code, _, err) = apply(0, 0, "users = [\"61002\"]", "users = [\"61007\"]");
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = t.as_user(61002, 61002, &["stat"]);
    assert!(code == 4 && err.contains("connect needs any role"), "{code} {err}");
}

#[test]
fn without_roles_the_socket_is_for_its_owner_alone() {
    let config = CONFIG.split("[role.").next().unwrap();
    let Some(t) = Tenancy::start(config) else { return };
    let (code, _, err) = t.as_user(61001, 61001, &["stat"]);
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("may not talk to the daemon"), "{err}");
    assert_eq!(t.as_user(0, 0, &["stat"]).0, 0);
    let (_, out, _) = t.as_user(0, 0, &["policy", "show", "files"]);
    assert!(
        out.starts_with("vserver files: in group gold; changed by cluster roles only\n"),
        "{out}"
    );
}

#[test]
fn a_log_that_cannot_be_written_refuses_the_change_and_not_the_look() {
    let Some(t) = Tenancy::start(CONFIG) else { return };
    let set = |mode| {
        let mut c = Connection::open(&t.path("weft.sock")).unwrap();
        c.ask(Ask::SetPoll { mode, worker: None }).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(set(PollMode::Interrupt), Ok(()));
    // The next record that does not fit turns the log over, and the directory does not take that:
    // even root's process needs a capability for it, which it has given up.
    fs::set_permissions(t.path("log"), PermissionsExt::from_mode(0o555)).unwrap();
    let mut refused = String::new();
    for _ in 0..1000 {
        match set(PollMode::Interrupt) {
            Ok(()) => {}
            Err(e) => {
                refused = e;
                break;
            }
        }
    }
    assert!(
        refused.contains("it cannot be logged") || refused.contains("its end is not logged"),
        "{refused}"
    );
    assert!(refused.contains("audit.log: begin the next file: Permission denied"), "{refused}");
    let refused = set(PollMode::Busy).unwrap_err();
    assert!(
        refused.starts_with("set-poll: nothing was changed, for it cannot be logged"),
        "{refused}"
    );
    let (_, out, _) = t.as_user(0, 0, &["runtime"]);
    assert!(out.contains(": interrupt,"), "{out}");
    // With room again, changes are made again.
    fs::set_permissions(t.path("log"), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(set(PollMode::Adaptive), Ok(()));
    assert!(t.path("log/audit.log.1").exists());
    let first = fs::metadata(t.path("log/audit.log.1")).unwrap().len();
    assert!(first <= 65_536, "{first}");
}

/// `CapEff` and so on of every thread of a process.
fn status(pid: u32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let line = |text: String| {
        let found = text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        found.unwrap_or_default().to_owned()
    };
    tasks.filter_map(|t| fs::read_to_string(t.path().join("status")).ok()).map(line).collect()
}

const NONE: &str = "0000000000000000";

fn assert_all(pid: u32, key: &str, value: &str) {
    let found = status(pid, key);
    assert!(found.len() > 2 && found.iter().all(|v| v == value), "{key} {found:?}, not {value}");
}

#[test]
fn the_daemon_has_no_capability_after_start_and_becomes_its_user() {
    let Some(t) = Tenancy::start(CONFIG) else { return };
    let told = "runs as uid 0, gid 0, capabilities: none, bounding set: none, no_new_privs\n";
    assert!(t.introduction.contains(told), "{}", t.introduction);
    let pid = t.child.id();
    for key in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert_all(pid, key, NONE);
    }
    assert_all(pid, "NoNewPrivs:", "1");
    let (_, out, _) = t.as_user(61001, 61001, &["stat"]);
    assert!(out.contains("\ndaemon: uid 0, gid 0, capabilities: none,"), "{out}");
    drop(t);

    let config = CONFIG.replace("[workers]", "user = \"nobody\"\n[workers]");
    let Some(mut t) = Tenancy::start(&config) else { return };
    let pid = t.child.id();
    assert_all(pid, "CapPrm:", NONE);
    let nobody = nix_id(&t);
    for uid in status(pid, "Uid:") {
        assert!(uid.split_whitespace().all(|u| u == nobody), "{uid}");
    }
    // Its log is its own, and still written.
    let (code, _, err) = t.as_user(0, 0, &SET_POLL);
    assert_eq!(code, 0, "{err}");
    assert_eq!(t.log().last().unwrap()["result"], "ok");
    // The daemon's user is the owner too.
    let uid: u32 = nobody.parse().unwrap();
    assert_eq!(t.as_user(uid, uid, &SET_POLL).0, 0);
    kill_process(Pid::from_child(&t.child), Signal::TERM).unwrap();
    assert!(t.child.wait().unwrap().success());
}

/// User id of nobody, by the owner of the log.
fn nix_id(t: &Tenancy) -> String {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(t.path("log/audit.log")).unwrap().uid().to_string()
}

#[test]
fn all_rights_or_those_for_devices_are_kept_if_the_file_says_so() {
    for (word, permitted) in [("devices", "0000008000003000"), ("keep", "")] {
        let config = CONFIG.replace("[workers]", &format!("privileges = \"{word}\"\n[workers]"));
        let Some(t) = Tenancy::start(&config) else { return };
        let had = status(std::process::id(), "CapPrm:").remove(0);
        let wanted = if permitted.is_empty() { had.clone() } else { permitted.to_owned() };
        if u64::from_str_radix(&had, 16).unwrap() & 0x80_0000_3000 != 0x80_0000_3000 {
            return println!("SKIP: the test itself has not all capabilities");
        }
        assert_all(t.child.id(), "CapEff:", &wanted);
        assert_all(t.child.id(), "NoNewPrivs:", if word == "keep" { "0" } else { "1" });
    }
}

fn connects(topology: &Topology, to: IpAddr, port: u16) -> bool {
    let to = SocketAddr::new(to, port);
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok();
    topology.client.netns.enter(connect).unwrap()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "not so: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn devices_that_go_down_and_come_back_need_no_capability_and_ones_made_anew_a_restart() {
    if !xdp() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let topology = Topology::cabled(Cabling::default()).unwrap();
    let echo = "[[vserver.alpha.service]]\nkind = \"echo\"\nport = 7\n";
    let config = alpha("af-xdp", dir.path(), echo);
    let mut daemon = Daemon::start(&topology.weft, &topology.client.netns, dir.path(), &config, 7);
    for key in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_all(daemon.pid(), key, NONE);
    }
    // Usable after duplicate address detection, so steered to the socket when all is given up.
    eventually("connections by IPv6", || connects(&topology, v6(ALPHA).into(), 7));
    let control = dir.path().join("weft.sock");
    let snapshot = || Connection::open(&control).unwrap().snapshot().unwrap();
    for _ in 0..3 {
        topology.weft.netlink(|n| n.set_up(nic(0), false)).unwrap();
        eventually("weft sees the link go down", || !snapshot().nics[0].up);
        topology.weft.netlink(|n| n.set_up(nic(0), true)).unwrap();
        eventually("connections after the link came back", || {
            connects(&topology, v4(ALPHA).into(), 7)
        });
    }
    // One that is gone is told, with what to do: what opens another is not there any more.
    topology.weft.netlink(|n| n.delete_link(nic(0))).unwrap();
    let told = || snapshot().problems.iter().any(|p| p.contains("restart"));
    eventually("the problem says that a restart is needed", told);
    assert!(daemon.kill(Signal::TERM).success());
    assert!(!Path::new(&control).exists());
}

#[test]
fn three_capabilities_open_a_nic_and_none_is_kept() {
    if !xdp() || !installed("setpriv") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let program = dir.path().join("weft");
    fs::hard_link(weft(), &program).or_else(|_| fs::copy(weft(), &program).map(drop)).unwrap();
    let topology = Topology::cabled(Cabling::default()).unwrap();
    let config = dir.path().join("weft.toml");
    // Locked memory is bounded for who has not CAP_IPC_LOCK.
    let locked = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    if locked.is_some_and(|bytes| bytes < 8 << 20) {
        return println!("SKIP: {locked:?} bytes of locked memory are too few for AF_XDP");
    }
    let workers = "[workers]\nframes = 1024\n";
    fs::write(&config, alpha("af-xdp", dir.path(), "") + workers).unwrap();
    let three = "-all,+net_admin,+net_raw,+bpf";
    let mut child = topology
        .weft
        .netns
        .command("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args([format!("--inh-caps={three}"), format!("--ambient-caps={three}")])
        .arg("--")
        .arg(&program)
        .arg("run")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    while !text.contains("ready: ") && stdout.read_line(&mut text).unwrap() > 0 {}
    let told = "runs as uid 65534, gid 65534, capabilities: none, ";
    assert!(text.contains("af-xdp") && text.contains(told), "{text}");
    for key in ["CapEff:", "CapPrm:"] {
        assert_all(child.id(), key, NONE);
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

//! The program as an operator meets it: output, errors and exit codes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const CONFIG: &str = r#"
[host]
control = "weft.sock"
[workers]
frames = 1024
[nic.eth0]
driver = "mem"
mac = "02:00:00:00:00:01"
[alias.data0]
over = "eth0"
[vserver.files]
addresses = ["data0 10.0.0.10/24"]
[[vserver.files.service]]
kind = "http"
port = 80
root = "."
[vserver.web]
count = 2
addresses = ["data0 10.0.0.20/24"]
"#;

/// A directory with `weft.toml`.
fn directory(config: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("weft.toml"), config).unwrap();
    directory
}

fn command(directory: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_weft"));
    c.args(args).current_dir(directory).stdin(Stdio::null());
    c
}

/// Exit code, standard output, standard error.
fn weft(directory: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(directory, args).output().unwrap();
    let text = |b| String::from_utf8(b).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A running daemon, killed when dropped.
struct Daemon {
    child: Child,
    stdout: BufReader<ChildStdout>,
    introduction: String,
}

impl Daemon {
    fn start(directory: &Path) -> Daemon {
        let mut child =
            command(directory, &["run", "weft.toml"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut introduction = String::new();
        while !introduction.contains("ready: ") {
            assert!(stdout.read_line(&mut introduction).unwrap() > 0, "{introduction}");
        }
        Daemon { child, stdout, introduction }
    }

    /// Exit code and the last words.
    fn end(&mut self, signal: Signal) -> (i32, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), text)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_names_every_command() {
    let d = directory("");
    let (code, out, err) = weft(d.path(), &["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for name in
        ["run", "check", "list", "stat", "policy", "audit", "sockets", "ping", "lab", "completions"]
    {
        assert!(out.contains(&format!("\n  {name} ")), "{name} in {out}");
        let (code, help, _) = weft(d.path(), &[name, "--help"]);
        assert!(code == 0 && help.contains(&format!("Usage: weft {name}")), "{help}");
    }
    assert_eq!(weft(d.path(), &["--version"]).1, format!("weft {}\n", env!("CARGO_PKG_VERSION")));
    let (code, out, err) = weft(d.path(), &["frobnicate"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("unrecognized subcommand 'frobnicate'"), "{err}");
}

#[test]
fn completions_and_the_manual_come_from_the_same_definition() {
    let d = directory("");
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = weft(d.path(), &["completions", shell]);
        assert!(code == 0 && out.contains("completions") && out.contains("control"), "{shell}");
    }
    let (code, out, _) = weft(d.path(), &["man"]);
    assert!(code == 0 && out.contains(".TH weft 1") && out.contains("stat"), "{out}");
    let (code, out, _) = weft(d.path(), &["man", "stat"]);
    assert!(code == 0 && out.contains(".TH weft-stat 1") && out.contains("watch"), "{out}");
    assert_eq!(weft(d.path(), &["man", "none"]).0, 3);
}

#[test]
fn check_tells_what_a_file_makes() {
    let d = directory(CONFIG);
    let (code, out, err) = weft(d.path(), &["check", "weft.toml"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "1 worker(s) with 1024 frames of 4096 bytes each (4 MiB in all), control socket weft.sock\n\
         runs as the user who starts it with no capability; no roles; changes are logged to standard error\n\
         nic eth0: mem on eth0, 1 queue(s), aliases: data0\n\
         vserver files: 10.0.0.10/24 on data0; http on port 80\n\
         vserver web1: 10.0.0.20/24 on data0\n\
         vserver web2: 10.0.0.21/24 on data0\n\
         ok: 1 NIC(s), 1 alias(es), 3 vserver(s)\n"
    );
    assert_eq!(weft(d.path(), &["check", "-q", "weft.toml"]).1, "");
}

#[test]
fn a_wrong_file_is_refused_whole() {
    let d = directory(&CONFIG.replace("/24", "/33").replace("over", "ovr"));
    let (code, out, err) = weft(d.path(), &["check", "weft.toml"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(
        err,
        "weft.toml:10:1: unknown key 'ovr' in [alias.data0]; did you mean 'over'?\n  10 | ovr = \"eth0\"\n     | ^^^\n\
         weft.toml:12:21: prefix length '33' is not a number from 0 to 32; write an address like 192.0.2.1/24\n  12 | addresses = [\"data0 10.0.0.10/33\"]\n     |                     ^^^^^^^^^^^^\n\
         weft.toml:19:21: prefix length '33' is not a number from 0 to 32; write an address like 192.0.2.1/24\n  19 | addresses = [\"data0 10.0.0.20/33\"]\n     |                     ^^^^^^^^^^^^\n\
         3 errors; nothing was applied\n"
    );
    let (code, out, err) = weft(d.path(), &["run", "weft.toml"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.ends_with("3 errors; nothing was applied\n"), "{err}");
    assert!(!d.path().join("weft.sock").exists());
    let (code, _, err) = weft(d.path(), &["check", "none.toml"]);
    assert_eq!(code, 2);
    assert_eq!(err, "weft: cannot read none.toml: No such file or directory (os error 2)\n");
}

#[test]
fn without_a_daemon_the_commands_say_so() {
    let d = directory("");
    for args in [&["list"][..], &["stat"], &["stat", "files"], &["sockets", "files"]] {
        let (code, out, err) = weft(d.path(), &[&["--control", "none.sock"], args].concat());
        assert_eq!((code, out.as_str()), (5, ""));
        assert_eq!(
            err,
            "weft: no daemon answers on none.sock: No such file or directory (os error 2); start it \
             with 'weft run CONFIG' or name its socket with --control\n"
        );
    }
}

#[test]
fn a_daemon_serves_operators_and_ends_cleanly() {
    let d = directory(CONFIG);
    let mut daemon = Daemon::start(d.path());
    assert!(daemon.introduction.starts_with("nic eth0: eth0, mem"), "{}", daemon.introduction);
    assert!(daemon.introduction.contains("\nvserver files: data0 10.0.0.10/24; http on [::]:80\n"));
    let control = d.path().join("weft.sock");
    let ready = format!("ready: 3 vservers, control {}\n", control.display());
    assert!(daemon.introduction.ends_with(&ready), "{}", daemon.introduction);
    let ask = |args: &[&str]| weft(d.path(), &[&["--control", "weft.sock"], args].concat());

    let (code, out, _) = ask(&["list"]);
    assert_eq!(code, 0);
    let names: Vec<_> = out.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["VSERVER", "files", "web1", "web2"]);
    assert!(out.contains("http:80   data0 10.0.0.10/24"), "{out}");

    let (code, out, _) = ask(&["stat"]);
    assert!(code == 0 && out.contains("\ntotal ") && out.contains("\neth0 "), "{out}");
    let (code, out, _) = ask(&["stat", "files", "-a"]);
    assert!(
        code == 0
            && out.contains("TcpInSegs")
            && out.contains("service http on [::]:80: listening")
    );
    let (code, out, _) = ask(&["stat", "-j", "web2"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["schema_version"]), (0, &serde_json::json!(1)));
    assert_eq!(json["vservers"][0]["name"], "web2");
    assert_eq!(json["vservers"].as_array().unwrap().len(), 1);
    let (code, out, _) = ask(&["list", "--json"]);
    assert!(code == 0 && serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
    for args in [&["-l"][..], &["-a", "sport", "80"], &["state", "listening"], &["-lt"]] {
        let (code, out, _) = ask(&[&["sockets", "files"], args].concat());
        assert!(code == 0 && out.contains("tcp    LISTEN       0    1024  [::]:80"), "{out}");
    }
    assert_eq!(ask(&["sockets", "files", "-H"]), (0, String::new(), String::new()));
    assert_eq!(ask(&["sockets", "files", "-lH", "sport = :81"]).1, "");
    for filter in [&["sport", "80"][..], &["sport = :80"], &["(", "sport", "80", ")"]] {
        let all = ask(&[&["sockets", "--all", "-l"], filter].concat());
        assert_eq!(ask(&[&["sockets", "-l"], filter].concat()), all, "a filter needs no vserver");
    }
    let (code, out, _) = ask(&["sockets", "--all", "-lj", "sport", "80"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, json[0]["vserver"].as_str(), json.as_array().unwrap().len()),
        (0, Some("files"), 1)
    );
    let (code, out, _) = ask(&["sockets", "-s"]);
    assert!(code == 0 && out.starts_with("Total: ") && out.contains("listen 1"), "{out}");
    let (code, out, err) = ask(&["sockets", "files", "dst 10.0.0.0/8", "and", "sport", "x"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.ends_with("found 'x'\n  dst 10.0.0.0/8 and sport x\n                           ^\n"),
        "{err}"
    );
    let (code, out, err) = ask(&["ping", "files", "10.0.0.21", "-c2", "-i", "0.01"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("PING 10.0.0.21 from vserver files: 56 bytes\n"), "{out}");
    assert!(out.contains("64 bytes from 10.0.0.21: seq=2 ttl=64 time="), "{out}");
    assert!(out.contains("2 sent, 2 answered, 0% lost, min/avg/max "), "{out}");
    let (code, _, err) = ask(&["ping", "files", "10.0.0.99", "-c1", "-W", "0.05"]);
    assert_eq!((code, err.as_str()), (1, "weft: 10.0.0.99 did not answer\n"));
    let (code, _, err) = ask(&["ping", "10.0.0.1000"]);
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = ask(&["ping", "10.0.0.21"]);
    assert_eq!(code, 1);
    assert_eq!(err, "weft: there are 3 vservers; name the one that is to ask\n");
    let (code, _, err) = ask(&["ping", "web1", "fd00::1"]);
    assert_eq!((code, err.as_str()), (1, "weft: echo request to fd00::1: network unreachable\n"));
    for args in [&["stat", "web3"][..], &["sockets", "web3"], &["ping", "web3", "10.0.0.1"]] {
        let (code, out, err) = ask(args);
        assert_eq!((code, out.as_str()), (3, ""));
        assert_eq!(err, "weft: no vserver 'web3'; see 'weft list'\n");
    }
    for mode in ["busy", "interrupt", "adaptive"] {
        let set = ask(&["runtime", "--set-poll", mode]);
        assert_eq!(set, (0, format!("polling: {mode}\n"), String::new()));
    }
    let (code, _, err) = ask(&["runtime", "--set-poll", "busy", "--worker", "1"]);
    assert_eq!(code, 1);
    assert_eq!(err, "weft: set poll mode: there is no worker 1; the highest number is 0\n");
    let (code, _, err) = weft(d.path(), &["run", "weft.toml"]);
    assert_eq!(code, 1);
    let control = control.display();
    assert_eq!(
        err,
        format!("weft: another daemon answers on {control}; stop it or choose another socket\n")
    );

    assert_eq!(daemon.end(Signal::TERM), (0, String::from("SIGTERM: stopping\nstopped\n")));
    assert!(!d.path().join("weft.sock").exists());
}

#[test]
fn a_daemon_follows_one_that_was_killed() {
    let d = directory(CONFIG);
    let mut daemon = Daemon::start(d.path());
    daemon.end(Signal::KILL);
    assert!(d.path().join("weft.sock").exists());
    assert_eq!(Daemon::start(d.path()).end(Signal::INT).0, 0);
}

#[test]
fn watching_repeats_until_nobody_reads() {
    let d = directory(CONFIG);
    let _daemon = Daemon::start(d.path());
    let args = ["--control", "weft.sock", "stat", "--json", "--watch", "0.1"];
    let mut child =
        command(d.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let uptime = |line: Option<std::io::Result<String>>| {
        let json: serde_json::Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        json["uptime_ms"].as_u64().unwrap()
    };
    let first = uptime(lines.next());
    assert!(uptime(lines.next()) > first);
    // A closed pipe is the reader's business: no error, no words.
    drop(lines);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn colour_is_for_terminals_only() {
    let d = directory(CONFIG);
    let _daemon = Daemon::start(d.path());
    let (_, out, _) = weft(d.path(), &["--control", "weft.sock", "stat"]);
    assert!(!out.contains('\x1b'));
    let (_, _, err) = weft(d.path(), &["--control", "none.sock", "stat"]);
    assert!(!err.contains('\x1b'));
}

#[test]
fn the_exported_configuration_of_a_daemon_and_of_its_file_are_the_same_and_run_again() {
    let d = directory(CONFIG);
    let _daemon = Daemon::start(d.path());
    let (code, daemons, errors) = weft(d.path(), &["--control", "weft.sock", "export"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(weft(d.path(), &["export", "weft.toml"]).1, daemons);
    assert!(
        daemons.contains("[vserver.web2]\naddresses = [\"data0 10.0.0.21/24\"]\n"),
        "{daemons}"
    );
    std::fs::write(d.path().join("again.toml"), &daemons).unwrap();
    assert_eq!(weft(d.path(), &["export", "again.toml"]).1, daemons);
    let (_, all, _) = weft(d.path(), &["export", "--all", "weft.toml"]);
    assert!(all.contains("tcp_half_open = 1024\n"), "{all}");
}

#[test]
fn dhcp_servers_are_configured_before_anything_exists() {
    let config = "[cluster]\nid = \"00:07:34:04:12:0E\"\n[nic.eth0]\ndevice = \"none0\"\n\
                  [alias.data0]\nover = \"eth0\"\n[vserver.VsvrA]\n\
                  addresses = [\"data0 10.2.2.1/24\"]\n[[vserver.VsvrA.service]]\n\
                  kind = \"http\"\nport = 80\nroot = \"/nowhere/at/all\"\n";
    let d = directory(config);
    let ask = |args: &[&str]| weft(d.path(), &[&["dhcp-config", "weft.toml"], args].concat());
    let (code, sheet, errors) = ask(&["--worksheet"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(sheet.contains("\n00:07:34:04:12:0E:data0:VsvrA:0  10.2.2.1\n"), "{sheet}");
    assert!(ask(&["--for", "isc"]).1.contains("fixed-address 10.2.2.1;"));
    assert!(ask(&["--for", "kea", "--v6"]).1.contains("\"Dhcp6\""));
    assert_eq!(ask(&["--next", "data0", "VsvrA"]).1, "1\n");
    assert_eq!(ask(&["--next", "data"]).1, "data1\n");
    let renamed = config.replace("VsvrA", "VsvrB");
    std::fs::write(d.path().join("new.toml"), renamed).unwrap();
    let (_, edits, _) = weft(d.path(), &["dhcp-config", "new.toml", "--changes-from", "weft.toml"]);
    let id = "00:07:34:04:12:0E:data0";
    assert_eq!(edits, format!("rename  10.2.2.1  {id}:VsvrA:0 -> {id}:VsvrB:0\n"));
    assert_eq!(ask(&["--changes-from", "weft.toml"]).1, "nothing to change\n");
    assert_eq!((ask(&[]).0, ask(&["--next", "eth"]).0), (2, 2));
}

#[test]
fn a_set_of_addresses_that_prove_each_other_is_made_and_shown() {
    let d = tempfile::tempdir().unwrap();
    let (code, out, err) =
        weft(d.path(), &["hba", "generate", "2001:db8:1::/64", "2001:db8:2::/64", "-o", "set.pds"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let addresses: Vec<&str> = out.lines().collect();
    assert_eq!(addresses.len(), 2);
    assert!(addresses[0].starts_with("2001:db8:1:") && addresses[1].starts_with("2001:db8:2:"));
    let (code, shown, _) = weft(d.path(), &["hba", "show", "set.pds"]);
    assert_eq!((code, &shown), (0, &out));
    let (_, json, _) = weft(d.path(), &["hba", "show", "set.pds", "--collided", "-j"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["collisions"], &json["sec"], &json["signs"]),
        (&1.into(), &1.into(), &false.into())
    );
    let (_, other, _) = weft(d.path(), &["hba", "show", "set.pds"]);
    assert!(other != out, "after a collision every address is another");
    // What is there is not written over, and what is wrong is said.
    let (code, _, err) = weft(d.path(), &["hba", "generate", "2001:db8:1::/64", "-o", "set.pds"]);
    assert!(code == 1 && err.contains("set.pds"), "{err}");
    let (code, _, err) = weft(d.path(), &["hba", "generate", "2001:db8:1::/48"]);
    assert!(code == 2 && err.contains("'2001:db8:1::/48' is no prefix"), "{err}");
    std::fs::write(d.path().join("key"), "no key").unwrap();
    let generate = ["hba", "generate", "2001:db8:1::/64", "-k", "key"];
    let (code, _, err) = weft(d.path(), &generate);
    assert!(code == 1 && err.contains("others may read it"), "{err}");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(d.path().join("key"), private).unwrap();
    let (code, _, err) = weft(d.path(), &generate);
    assert!(code == 1 && err.contains("no RSA private key"), "{err}");
}

#[test]
fn nodes_are_compared_by_their_files() {
    let directory = directory(CONFIG);
    let check = |other: &str| {
        std::fs::write(directory.path().join("other.toml"), other).unwrap();
        weft(directory.path(), &["check", "-q", "weft.toml", "--node", "other.toml"])
    };
    assert_eq!(check(CONFIG), (0, String::new(), String::new()));
    let elsewhere = CONFIG.replace("over = \"eth0\"", "over = \"eth0.5\"");
    let (code, out, _) = check(&elsewhere);
    assert_eq!(code, 0, "it may be one network");
    assert!(
        out.starts_with("warning: data0 is untagged on weft.toml and in VLAN 5 on other.toml"),
        "{out}"
    );
    let (code, out, err) = check("[nic.eth0]\ndriver = \"mem\"\n");
    assert_eq!(code, 1, "{err}");
    assert_eq!(
        out,
        "error: other.toml has no alias 'data0'; files, web1, web2 of weft.toml cannot move there\n"
    );
}

//! weft and BIND: names that are followed, names that are registered.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weft_cli::lab::topology::{CLIENT, Cabling, Topology, v4};
use weft_drivers::netns::Netns;

use crate::common::{ALPHA, Daemon, alpha, installed, operate, xdp};

const FORWARD: &str = "lab.test";
const REVERSE: &str = "77.10.in-addr.arpa";
const REVERSE6: &str = "0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa";

/// `named` in the client's namespace, killed when dropped.
struct Bind {
    child: Child,
    dir: PathBuf,
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key(name: &str, secret: &str) -> String {
    format!("key \"{name}\" {{\n  algorithm hmac-sha256;\n  secret \"{secret}\";\n}};\n")
}

const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

impl Bind {
    /// Serves the zones, which the key may change.
    fn start(netns: &Netns, dir: &Path) -> Bind {
        let dir = dir.join("bind");
        fs::create_dir_all(&dir).expect("directory");
        let mut conf = format!(
            "options {{ directory \"{0}\"; pid-file none; session-keyfile none; listen-on port 53 {{ any; }};\n\
             listen-on-v6 {{ any; }}; recursion no; dnssec-validation no; allow-query {{ any; }};\n\
             minimal-responses no; }};\ncontrols {{ }};\n{1}",
            dir.display(),
            key("weft-key", SECRET)
        );
        for (i, zone) in [FORWARD, REVERSE, REVERSE6].iter().enumerate() {
            let file = dir.join(format!("zone{i}"));
            if !file.exists() {
                let text = format!(
                    "$TTL 1\n@ IN SOA ns.{FORWARD}. root.{FORWARD}. ( 1 60 60 600 1 )\n@ IN NS ns.{FORWARD}.\n"
                );
                let more = if i == 0 { "ns IN A 10.77.0.2\nmoving 1 IN A 10.77.0.2\n" } else { "" };
                fs::write(&file, text + more).expect("zone");
            }
            let _ = writeln!(
                conf,
                "zone \"{zone}\" {{ type primary; file \"{}\"; allow-update {{ key weft-key; }}; }};",
                file.display()
            );
        }
        let path = dir.join("named.conf");
        fs::write(&path, conf).expect("named.conf");
        let log = fs::File::create(dir.join("log")).expect("log");
        let child = netns
            .command("named")
            .args(["-g", "-c"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("named");
        let bind = Bind { child, dir };
        let begin = Instant::now();
        while dig(netns, &["ns.lab.test", "A"]).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20), "named: {}", bind.log());
        }
        bind
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Changes a zone as an administrator does.
    fn update(&self, netns: &Netns, commands: &str) {
        let dir = self.dir.join("admin.key");
        fs::write(&dir, key("weft-key", SECRET)).expect("key");
        let script = self.dir.join("script");
        fs::write(&script, format!("server 10.77.0.2\n{commands}\nsend\n")).expect("script");
        let output = netns.command("nsupdate").arg("-k").arg(&dir).arg(&script).output();
        let output = output.expect("nsupdate");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Short answers, sorted.
fn dig(netns: &Netns, question: &[&str]) -> Vec<String> {
    let server = format!("@{CLIENT4}", CLIENT4 = v4(CLIENT));
    let mut command = netns.command("dig");
    command.args(["+short", "+time=1", "+tries=1", &server]).args(question);
    let output = command.stdin(Stdio::null()).output().expect("dig");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines: Vec<String> =
        text.lines().filter(|l| !l.starts_with(';')).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn text(dir: &Path, args: &[&str]) -> String {
    let output = operate(dir, args);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Waits until `done` says so; shows what `seen` is if it never does.
fn wait<T: std::fmt::Debug>(
    what: &str,
    mut seen: impl FnMut() -> T,
    done: impl Fn(&T) -> bool,
) -> T {
    let begin = Instant::now();
    loop {
        let now = seen();
        if done(&now) {
            return now;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}: {now:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn programs() -> bool {
    xdp() && installed("dig") && Path::new("/usr/sbin/named").exists()
}

#[test]
fn names_in_the_configuration_follow_the_records_of_a_name_server() {
    if !programs() {
        println!("SKIP: bind9 is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let client = &topology.client.netns;
    let bind = Bind::start(client, dir.path());
    let more = "dns = { servers = [\"10.77.0.2\"], search = [\"lab.test\"], timeout_ms = 500 }\n\
                routes = [{ to = \"10.200.0.0/16\", via = \"moving\", alias = \"data0\" }]\n\
                [[vserver.alpha.service]]\nkind = \"echo\"\nport = 7\n";
    let config = alpha("af-xdp", dir.path(), more);
    let _daemon = Daemon::start(&topology.weft, client, dir.path(), &config, 7);
    assert_eq!(text(dir.path(), &["resolve", "alpha", "ns"]), "10.77.0.2\n");
    let missing = text(dir.path(), &["resolve", "alpha", "nowhere.lab.test."]);
    assert!(missing.contains("'nowhere.lab.test.' does not exist"), "{missing}");
    let routes = || text(dir.path(), &["stat", "alpha"]);
    wait("first route", routes, |t| t.contains("10.200.0.0/16 via 10.77.0.2 "));
    let begin = Instant::now();
    bind.update(
        client,
        "update delete moving.lab.test A\nupdate add moving.lab.test 1 A 10.77.0.9",
    );
    wait("moved route", routes, |t| {
        t.contains("10.200.0.0/16 via 10.77.0.9 ") && !t.contains("via 10.77.0.2 ")
    });
    println!(
        "NUMBER resolver: a route follows a record of 1 s in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    // Many answers do not fit a datagram: BIND truncates, the resolver asks over TCP.
    let mut many = String::new();
    for i in 0..100 {
        let _ = writeln!(many, "update add many.lab.test 1 A 10.200.0.{i}");
    }
    bind.update(client, many.trim_end());
    let found = text(dir.path(), &["resolve", "alpha", "many"]);
    assert_eq!(found.lines().count(), 64, "{found}");
    let stat = routes();
    assert!(stat.contains("DnsOverTcp"), "{stat}");
}

/// Registers `alpha` with what `register` adds to its table; `records` of a running daemon.
fn registered(dir: &Path, topology: &Topology, register: &str) -> Daemon {
    let more = format!(
        "[vserver.alpha.register]\nzone = \"{FORWARD}\"\nserver = \"10.77.0.2\"\n\
         reverse = [\"{REVERSE}\", \"{REVERSE6}\"]\n{register}\n\
         [[vserver.alpha.service]]\nkind = \"echo\"\nport = 7\n"
    );
    let config = alpha("af-xdp", dir, &more);
    Daemon::start(&topology.weft, &topology.client.netns, dir, &config, 7)
}

fn write_key(path: &Path, name: &str, secret: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, key(name, secret)).expect("key");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode");
}

#[test]
fn a_keyed_zone_gets_and_loses_the_records_and_wrong_updates_are_told() {
    if !programs() {
        println!("SKIP: bind9 is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let client = &topology.client.netns;
    let bind = Bind::start(client, dir.path());
    let file = dir.path().join("weft.key");
    write_key(&file, "weft-key", SECRET);
    let here = IpAddr::V4(v4(ALPHA));
    let names = "key = \"weft.key\"\nnames = [\"alpha\", \"old1 10.77.0.11\"]\nttl_s = 60";
    let mut daemon = registered(dir.path(), &topology, names);
    let six = || dig(client, &["alpha.lab.test", "AAAA"]);
    wait("AAAA", six, |r| *r == ["fd77::b"]);
    assert_eq!(dig(client, &["alpha.lab.test", "A"]), [here.to_string()]);
    assert_eq!(dig(client, &["old1.lab.test", "A"]), [here.to_string()]);
    assert_eq!(dig(client, &["old1.lab.test", "AAAA"]), [""; 0]);
    let back = || dig(client, &["-x", "10.77.0.11"]);
    wait("PTR", back, |r| *r == ["alpha.lab.test."]);
    wait("PTR of IPv6", || dig(client, &["-x", "fd77::b"]), |r| *r == ["alpha.lab.test."]);
    let shown = || text(dir.path(), &["register"]);
    wait("weft register", shown, |t| t.matches("registered").count() == 5);
    assert!(daemon.kill(Signal::TERM).success());
    for question in
        [&["alpha.lab.test", "A"][..], &["alpha.lab.test", "AAAA"], &["-x", "10.77.0.11"]]
    {
        assert_eq!(dig(client, question), [""; 0], "{question:?} after the end\n{}", bind.log());
    }
    for (name, secret, register, why) in [
        ("weft-key", SECRET, "", "was not signed"),
        ("weft-key", OTHER, "key = \"weft.key\"", "BADSIG"),
        ("other-key", SECRET, "key = \"weft.key\"", "BADKEY"),
    ] {
        write_key(&file, name, secret);
        let _daemon = registered(dir.path(), &topology, register);
        wait(why, shown, |t| t.contains(why));
        let stat = text(dir.path(), &["stat"]);
        assert!(stat.contains("problem: vserver alpha: registration: "), "{stat}");
        assert_eq!(dig(client, &["alpha.lab.test", "A"]), [""; 0]);
    }
    // The server is away and comes back.
    drop(bind);
    write_key(&file, "weft-key", SECRET);
    let _daemon = registered(dir.path(), &topology, "key = \"weft.key\"");
    wait("no server", shown, |t| t.contains("failed: "));
    let _bind = Bind::start(client, dir.path());
    wait("server back", || dig(client, &["alpha.lab.test", "A"]), |r| *r == [here.to_string()]);
    // Nobody else may read the key.
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("mode");
    let refused =
        operate(dir.path(), &["check", dir.path().join("weft.toml").to_str().expect("UTF-8")]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("has mode 644, so others can read"), "{told}");
}

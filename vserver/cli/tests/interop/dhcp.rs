//! weft's DHCP clients and the servers that networks have.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_cli::lab::topology::{Cabling, Topology, WAN, nic};

use crate::common::{installed, operate, weft, xdp};

/// Who asks for what: vserver, alias, family, instance, and the address its identifier stands for.
const LEASES: [(&str, &str, &str, u64, &str); 7] = [
    ("alpha", "data0", "v4", 0, "10.77.1.1"),
    ("alpha", "data0", "v4", 1, "10.77.1.2"),
    ("beta", "data0", "v4", 0, "10.77.1.3"),
    ("beta", "data1", "v4", 0, "10.77.1.4"),
    ("box", "mgmt0", "v4", 0, "10.77.1.5"),
    ("alpha", "data0", "v6", 0, "fd77::101"),
    ("beta", "data1", "v6", 0, "fd77::102"),
];
const PORT: u16 = 7;
const FIXED: &str = "10.77.9.9";

fn configuration(dir: &Path) -> String {
    format!(
        r#"
[host]
control = "{control}"
state_dir = "{state}"
[cluster]
id = "00:07:34:04:12:0E"
node = "Filer1"
vendor_options = [{{ code = 1, text = "one" }}]
[cluster.leases]
"data0:alpha:0" = ["10.77.1.1", "fd77::101"]
"data0:alpha:1" = "10.77.1.2"
"data0:beta:0" = "10.77.1.3"
"data1:beta:0" = ["10.77.1.4", "fd77::102"]
"mgmt0:Filer1" = "10.77.1.5"
[[cluster.subnet]]
network = "10.77.0.0/16"
gateway = "10.77.0.2"
dns = ["10.77.0.53"]
search = ["lab.example"]
ntp = ["10.77.0.123"]
mtu = 1400
[[cluster.subnet]]
network = "fd77::/64"
dns = ["fd77::53"]
[nic.eth0]
device = "{nic}"
[alias.data0]
over = "eth0"
[alias.data1]
over = "eth0"
[alias.mgmt0]
over = "eth0"
[vserver.alpha]
dhcp = ["data0", {{ alias = "data0", acd = "off", cached_after_s = 1 }}, {{ alias = "data0", family = "v6", cached_after_s = 1 }}]
routes = [{{ to = "fd77::/64", alias = "data0" }}]
service = [{{ kind = "echo", port = {PORT} }}]
[vserver.beta]
dhcp = [
    {{ alias = "data0", acd = "off", cached_after_s = 1 }},
    {{ alias = "data1", acd = "off", cached_after_s = 1 }},
    {{ alias = "data1", family = "v6", rapid_commit = true, cached_after_s = 1 }},
]
routes = [{{ to = "fd77::/64", alias = "data1" }}]
service = [{{ kind = "echo", port = {PORT} }}]
[vserver.box]
identity = "node"
dhcp = [{{ alias = "mgmt0", acd = "off", cached_after_s = 1 }}]
service = [{{ kind = "echo", port = {PORT} }}]
[vserver.fixed]
addresses = ["data0 {FIXED}/16"]
service = [{{ kind = "echo", port = {PORT} }}]
"#,
        control = dir.join("weft.sock").display(),
        state = dir.join("state").display(),
        nic = nic(0),
    )
}

/// A process that is killed when dropped, with what it printed in a file.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn spawn(mut command: Command, log: PathBuf) -> Process {
        let out = fs::File::create(&log).expect("log");
        let err = out.try_clone().expect("log");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("spawn");
        Process { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it as a service manager would.
    fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let begin = Instant::now();
        while self.child.try_wait().expect("wait").is_none() {
            if begin.elapsed() > Duration::from_secs(5) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lab of one test: weft's machine, a machine for servers, a directory.
struct Bench {
    topology: Topology,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let topology = Topology::cabled(Cabling::default()).expect("topology");
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("weft.toml"), configuration(dir.path())).expect("write");
        Bench { topology, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `weft dhcp-config` prints for a server.
    fn generated(&self, server: &str, v6: bool) -> PathBuf {
        let mut command = Command::new(weft());
        command.arg("dhcp-config").arg(self.path("weft.toml")).args(["--for", server]);
        command.args(v6.then_some("--v6")).args(["--interface", WAN]);
        let output = command.stdin(Stdio::null()).output().expect("weft dhcp-config");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{server}: {errors}");
        let path = self.path(&format!("{server}{}.conf", if v6 { 6 } else { 4 }));
        fs::write(&path, output.stdout).expect("write");
        path
    }

    fn server(&self, server: &str, v6: bool) -> Process {
        let config = self.generated(server, v6);
        let version = if v6 { "6" } else { "4" };
        let leases = self.path(&format!("{server}{version}.leases"));
        let pid = self.path(&format!("{server}{version}.pid"));
        let machine = &self.topology.client.netns;
        let command = match server {
            "dnsmasq" => {
                let mut c = machine.command("dnsmasq");
                c.args(["--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--port=0"]);
                c.args(["--user=root", "--dhcp-authoritative"]);
                c.arg(format!("--conf-file={}", config.display()));
                c.arg(format!("--dhcp-leasefile={}", leases.display()));
                c.arg(format!("--pid-file={}", pid.display()));
                c
            }
            "isc" => {
                fs::write(&leases, "").expect("write");
                let mut c = machine.command("dhcpd");
                c.args([&format!("-{version}"), "-f", "-d", "--no-pid", "-cf"]).arg(&config);
                c.arg("-lf").arg(&leases).arg(WAN);
                c
            }
            _ => {
                // Its leases and identity go to a directory of the system: it sees an empty one.
                let mut c = machine.command("unshare");
                let script =
                    "mount -t tmpfs none /var/lib && mkdir /var/lib/kea && exec \"$0\" -c \"$1\"";
                c.args(["--mount", "sh", "-c", script, &format!("kea-dhcp{version}")]).arg(&config);
                c.env("KEA_PIDFILE_DIR", self.dir.path()).env("KEA_LOCKFILE_DIR", "none");
                c
            }
        };
        Process::spawn(command, self.path(&format!("{server}{version}.log")))
    }

    fn daemon(&self) -> Process {
        let mut command = self.topology.weft.netns.command(weft());
        command.arg("run").arg(self.path("weft.toml"));
        Process::spawn(command, self.path("weft.log"))
    }

    fn ask(&self, args: &[&str]) -> Option<String> {
        let output = operate(self.dir.path(), args);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn json(&self, command: &str) -> Value {
        let text = self.ask(&[command, "--json"]).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until every client is in `state` with the address of its identifier.
    fn expect(&self, state: &str, seconds: u64, servers: &[&Process]) -> Value {
        let begin = Instant::now();
        loop {
            let report = self.json("dhcp");
            let wrong: Vec<String> =
                LEASES.iter().filter_map(|lease| wrong(&report, *lease, state)).collect();
            if wrong.is_empty() {
                return report;
            }
            if begin.elapsed() > Duration::from_secs(seconds) {
                let logs: Vec<String> = servers.iter().map(|s| s.log()).collect();
                let table = self.ask(&["dhcp"]).unwrap_or_default();
                panic!("not {state}: {}\n{table}\n{}", wrong.join("\n"), logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn serves(&self, addr: &str) -> bool {
        let to = SocketAddr::new(addr.parse::<IpAddr>().expect("address"), PORT);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(1));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            if self.topology.client.netns.enter(connect).expect("enter").is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn all_serve(&self) {
        for (vserver, _, _, _, addr) in LEASES {
            assert!(self.serves(addr), "{vserver} does not answer on {addr}");
        }
        assert!(self.serves(FIXED), "the static address");
    }

    fn problems(&self) -> String {
        self.json("stat")["problems"].to_string()
    }
}

/// What is wrong with a client, if something is.
fn wrong(report: &Value, lease: (&str, &str, &str, u64, &str), state: &str) -> Option<String> {
    let (vserver, alias, family, instance, addr) = lease;
    let id = match vserver {
        "box" => format!("00:07:34:04:12:0E:{alias}:Filer1"),
        name => format!("00:07:34:04:12:0E:{alias}:{name}:{instance}"),
    };
    let Some(lines) = report["clients"].as_array() else { return Some("no answer".to_owned()) };
    let line = lines.iter().find(|l| l["id"] == id.as_str() && l["family"] == family);
    let Some(line) = line else { return Some(format!("no client {id} {family}")) };
    let found = line["address"].as_str().and_then(|a| a.split('/').next());
    (line["state"] != state || found != Some(addr))
        .then(|| format!("{id} {family}: {} {found:?}, {}", line["state"], line["error"]))
}

/// Both servers of a kind.
fn servers(bench: &Bench, name: &str) -> Vec<Process> {
    vec![bench.server(name, false), bench.server(name, true)]
}

fn leases_match_the_identifiers(name: &str, programs: [&str; 2]) {
    if !xdp() || !programs.iter().all(|p| installed(p)) {
        return;
    }
    let bench = Bench::new();
    let running = servers(&bench, name);
    let daemon = bench.daemon();
    let begin = Instant::now();
    let refs: Vec<&Process> = running.iter().chain([&daemon]).collect();
    let report = bench.expect("bound", 40, &refs);
    println!(
        "NUMBER dhcp, {name}: {} leases bound after {:.1} s",
        LEASES.len(),
        begin.elapsed().as_secs_f64()
    );
    bench.all_serve();
    let clients = report["clients"].as_array().expect("clients");
    let of = |id: &str, family: &str| {
        let found = clients.iter().find(|c| c["id"] == id && c["family"] == family);
        found.expect("client").clone()
    };
    let alpha = of("00:07:34:04:12:0E:data0:alpha:0", "v4");
    assert_eq!(alpha["server"], "10.77.0.2", "{alpha}");
    assert_eq!(
        (&alpha["dns"][0], &alpha["search"][0]),
        (&"10.77.0.53".into(), &"lab.example".into())
    );
    assert_eq!((&alpha["ntp"][0], &alpha["mtu"]), (&"10.77.0.123".into(), &1400.into()), "{alpha}");
    assert_eq!(alpha["vendor"], serde_json::json!([[1, "6f6e65"]]), "{alpha}");
    let v6 = of("00:07:34:04:12:0E:data0:alpha:0", "v6");
    assert_eq!(v6["dns"][0], "fd77::53", "{v6}");
    // sub-option 1, and the text of the configuration
    assert_eq!(v6["vendor"], serde_json::json!([[1, "6f6e65"]]), "{v6}");
    let stat = bench.json("stat");
    let text = stat["vservers"].to_string();
    assert!(text.contains("data0 10.77.1.1/16 dhcp"), "{text}");
    assert!(text.contains("0.0.0.0/0 via 10.77.0.2 dev data0 metric 100"), "{text}");

    // more time, by unicast
    let acks = |report: &Value| {
        let clients = report["clients"].as_array().cloned().unwrap_or_default();
        let line = clients.into_iter().find(|c| c["id"] == "00:07:34:04:12:0E:mgmt0:Filer1");
        line.and_then(|l| l["counters"]["DhcpAcks"].as_u64()).unwrap_or(0)
    };
    let before = acks(&bench.json("dhcp"));
    bench.ask(&["dhcp", "renew", "box", "mgmt0"]).expect("renew");
    let begin = Instant::now();
    while acks(&bench.json("dhcp")) == before {
        assert!(begin.elapsed() < Duration::from_secs(20), "no renewal\n{}", running[0].log());
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.expect("bound", 20, &refs);

    // given back, and asked for again
    bench.ask(&["dhcp", "release", "beta", "data0"]).expect("release");
    let text = bench.ask(&["dhcp"]).expect("dhcp");
    assert!(text.contains("released"), "{text}");
    let stat = bench.json("stat")["vservers"].to_string();
    assert!(!stat.contains("10.77.1.3"), "{stat}");
    bench.ask(&["dhcp", "renew", "beta", "data0"]).expect("renew");
    bench.expect("bound", 20, &refs);
    println!("{}", bench.ask(&["dhcp"]).expect("dhcp"));
}

#[test]
fn leases_of_dnsmasq_match_the_identifiers() {
    leases_match_the_identifiers("dnsmasq", ["dnsmasq", "dnsmasq"]);
}

#[test]
fn leases_of_kea_match_the_identifiers() {
    leases_match_the_identifiers("kea", ["kea-dhcp4", "kea-dhcp6"]);
}

#[test]
fn leases_of_isc_dhcp_server_match_the_identifiers() {
    leases_match_the_identifiers("isc", ["dhcpd", "dhcpd"]);
}

/// SystemX 5.2.6: the cluster's own server is found although another one serves the link.
#[test]
fn the_cluster_s_own_server_is_taken_and_the_external_one_refuses() {
    if !xdp() || !["dnsmasq", "kea-dhcp4", "kea-dhcp6"].iter().all(|p| installed(p)) {
        return;
    }
    let bench = Bench::new();
    // "External": on the third host of the link, with a range for everybody.
    let external = &bench.topology.gateways[0];
    external
        .netlink(|n| n.add_address("gw0", "10.77.0.9".parse().expect("address"), 16))
        .expect("address");
    let start = |refuse: &str| {
        let file = bench.path("external.conf");
        let range =
            "interface=gw0\nbind-interfaces\ndhcp-range=10.77.7.1,10.77.7.200,255.255.0.0\n";
        fs::write(&file, format!("{range}{refuse}")).expect("write");
        let mut c = external.netns.command("dnsmasq");
        c.args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--log-dhcp",
            "--port=0",
            "--user=root",
        ]);
        c.args(["--no-ping", "--dhcp-authoritative"]);
        c.arg(format!("--conf-file={}", file.display()));
        c.arg(format!("--dhcp-leasefile={}", bench.path("external.leases").display()));
        c.arg(format!("--pid-file={}", bench.path("external.pid").display()));
        Process::spawn(c, bench.path("external.log"))
    };
    // The external server refuses: all leases are those of the cluster's own.
    let mut command = Command::new(weft());
    command.arg("dhcp-config").arg(bench.path("weft.toml"));
    let output = command.args(["--for", "dnsmasq", "--refuse"]).output().expect("weft dhcp-config");
    let refusing = start(&String::from_utf8(output.stdout).expect("UTF-8"));
    let running = servers(&bench, "kea");
    let daemon = bench.daemon();
    let refs: Vec<&Process> = running.iter().chain([&daemon, &refusing]).collect();
    bench.expect("bound", 40, &refs);
    let log = refusing.log();
    assert!(log.contains("ignored") && !log.contains("DHCPOFFER"), "{log}");
    daemon.end();
    drop(refusing);

    // It offers what it has, at once: the cluster's server is preferred, and found.
    let offering = start("");
    let text = configuration(bench.dir.path());
    let text = text.replace("family = \"v6\"", "FAMILY6").replace("acd = \"off\",", "PREFER");
    let text = text.replace("PREFER", "acd = \"off\", prefer = [\"10.77.0.2\"],");
    let text = text.replace(
        "\"data0\", { alias",
        "{ alias = \"data0\", instance = 0, prefer = [\"10.77.0.2\"] }, { alias",
    );
    fs::write(bench.path("weft.toml"), text.replace("FAMILY6", "family = \"v6\"")).expect("write");
    for name in ["state/leases.a", "state/leases.b"] {
        fs::remove_file(bench.path(name)).expect("cache");
    }
    let daemon = bench.daemon();
    let refs: Vec<&Process> = running.iter().chain([&daemon, &offering]).collect();
    bench.expect("bound", 40, &refs);
    let log = offering.log();
    assert!(log.contains("DHCPOFFER"), "{log}");
}

#[test]
fn without_a_server_everything_comes_up_from_the_cache() {
    if !xdp() || !installed("dnsmasq") {
        return;
    }
    let bench = Bench::new();
    let running = servers(&bench, "dnsmasq");
    let daemon = bench.daemon();
    let refs: Vec<&Process> = running.iter().chain([&daemon]).collect();
    bench.expect("bound", 40, &refs);
    daemon.end();
    drop(running);

    let daemon = bench.daemon();
    let begin = Instant::now();
    bench.expect("cached", 30, &[&daemon]);
    bench.all_serve();
    println!(
        "NUMBER dhcp: all addresses from the cache after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    // a server is back: found by the clients themselves
    let running = servers(&bench, "dnsmasq");
    let refs: Vec<&Process> = running.iter().chain([&daemon]).collect();
    bench.expect("bound", 150, &refs);
    bench.all_serve();
    daemon.end();
    drop(running);

    // one copy damaged: the other is used, and both are whole again
    let copy = bench.path("state/leases.a");
    let whole = fs::read(&copy).expect("cache");
    fs::write(&copy, &whole[..whole.len() / 2]).expect("damage");
    let daemon = bench.daemon();
    bench.expect("cached", 30, &[&daemon]);
    let problems = bench.problems();
    assert!(problems.contains("the other copy is used"), "{problems}");
    daemon.end();
    assert_eq!(fs::read(&copy).expect("a"), fs::read(bench.path("state/leases.b")).expect("b"));

    // both damaged: told, static addresses are up, servers are asked
    for name in ["state/leases.a", "state/leases.b"] {
        fs::write(bench.path(name), b"weft leases 1 sha256 00\n{}\n").expect("damage");
    }
    let daemon = bench.daemon();
    assert!(bench.serves(FIXED), "the static address\n{}", daemon.log());
    let problems = bench.problems();
    assert!(problems.contains("no whole copy is left"), "{problems}");
    let running = servers(&bench, "dnsmasq");
    let refs: Vec<&Process> = running.iter().chain([&daemon]).collect();
    bench.expect("bound", 150, &refs);
    bench.all_serve();
}

#[test]
fn an_address_that_another_host_has_is_not_used_or_told_of() {
    if !xdp() || !installed("dnsmasq") {
        return;
    }
    let bench = Bench::new();
    let more = r#"
[vserver.tries]
acd = "on"
addresses = ["data0 10.77.8.1/16"]
service = [{ kind = "echo", port = 7 }]
[vserver.keeps]
addresses = ["data0 10.77.8.2/16"]
"#;
    let text = configuration(bench.dir.path()) + more;
    fs::write(bench.path("weft.toml"), text).expect("write");
    // a third host on the shared link, which has what the vservers want
    let other = &bench.topology.gateways[0];
    let mac = other
        .netlink(|n| {
            for addr in ["10.77.8.1", "10.77.8.2", "10.77.1.1"] {
                n.add_address("gw0", addr.parse().expect("address"), 16)?;
            }
            n.links()
        })
        .expect("addresses")
        .into_iter()
        .find(|l| l.name == "gw0")
        .and_then(|l| l.mac)
        .expect("mac");
    let mac = mac.map(|b| format!("{b:02x}")).join(":");
    let server = bench.server("dnsmasq", false);
    let daemon = bench.daemon();
    let begin = Instant::now();
    loop {
        let problems = bench.problems();
        let told = |vserver: &str, addr: &str, what: &str| {
            problems.contains(&format!("vserver {vserver}: {addr} is in use by {mac}; {what}"))
        };
        let all = told("tries", "10.77.8.1", "not used")
            && told("keeps", "10.77.8.2", "kept")
            && told("alpha", "10.77.1.1", "not used");
        if all {
            break;
        }
        let logs = format!("{}\n{}", daemon.log(), server.log());
        assert!(begin.elapsed() < Duration::from_secs(20), "{mac}: {problems}\n{logs}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let report = bench.json("dhcp");
    let clients = report["clients"].as_array().expect("clients");
    let alpha =
        clients.iter().find(|c| c["id"] == "00:07:34:04:12:0E:data0:alpha:0").expect("alpha");
    // Once more each time that the server offers it again.
    assert!(alpha["counters"]["DhcpDeclined"].as_u64() >= Some(1), "{alpha}");
    let log = server.log();
    assert!(log.contains("DHCPDECLINE"), "{log}");
    // the other host goes: within a minute and a few seconds the configured address is in use
    other
        .netlink(|n| n.delete_address("gw0", "10.77.8.1".parse().expect("address"), 16))
        .expect("remove");
    let begin = Instant::now();
    while !bench.serves("10.77.8.1") {
        assert!(begin.elapsed() < Duration::from_secs(90), "{}", bench.problems());
    }
}

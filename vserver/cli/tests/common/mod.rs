//! What the end-to-end tests share: the program, a daemon in the lab's weft machine, what a lab
//! leaves behind.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Pid, Signal, kill_process};
use weft_cli::lab::topology::{Machine, nic, v4};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::{Netns, may_make_namespaces};

/// Host number of the daemon's vserver.
pub(crate) const ALPHA: u16 = 11;

/// The program under test.
pub(crate) fn weft() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_weft"))
}

/// Whether namespaces can be made; says that the test is skipped if not.
pub(crate) fn namespaces() -> bool {
    let may = may_make_namespaces();
    if !may {
        println!("SKIP: network namespaces need root");
    }
    may
}

/// Whether namespaces can be made and have AF_XDP; says that the test is skipped if not.
pub(crate) fn xdp() -> bool {
    if !namespaces() {
        return false;
    }
    let family = AddressFamily::from_raw(44);
    let socket = Netns::new().expect("namespace").enter(|| socket(family, SocketType::RAW, None));
    if let Err(e) = socket.expect("enter") {
        println!("SKIP: AF_XDP: {e}");
        return false;
    }
    true
}

/// Whether namespaces can be made and have TUN; says that the test is skipped if not.
pub(crate) fn tun() -> bool {
    if !Path::new("/dev/net/tun").exists() {
        println!("SKIP: there is no /dev/net/tun");
        return false;
    }
    namespaces()
}

/// Whether a program is installed; says that the test is skipped if not.
pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("SKIP: {program} is not installed");
    }
    found
}

/// A command to the daemon whose control socket is `weft.sock` in `dir`; files are named from there.
pub(crate) fn operate(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(weft());
    command.arg("--control").arg(dir.join("weft.sock")).args(args);
    command.current_dir(dir).stdin(Stdio::null()).output().expect("weft")
}

/// What the daemon answers to a command that succeeds.
pub(crate) fn ask(dir: &Path, args: &[&str]) -> String {
    let output = operate(dir, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks until the answer is as wanted.
pub(crate) fn ask_until(dir: &Path, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    let begin = Instant::now();
    loop {
        let text = ask(dir, args);
        if wanted(&text) {
            return text;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "never as wanted, {args:?}: {text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `ip` in a machine.
pub(crate) fn ip(machine: &Machine, args: &[&str]) {
    let output = machine.netns.command("ip").args(args).output().expect("ip");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args:?}: {errors}");
}

/// A cable from a NIC of one machine, which is set up, to one of another.
pub(crate) fn cable(near: (&Machine, &str), far: (&Machine, &str)) {
    let end = VethEnd { name: far.1, netns: Some(far.0.netns.as_fd()), mac: None };
    let begin = VethEnd { name: near.1, netns: None, mac: None };
    let plugged = near.0.netlink(|netlink| {
        netlink.add_veth(&begin, &end, 1, 1500)?;
        netlink.set_up(near.1, true)
    });
    plugged.expect("a veth pair");
}

/// A daemon: `weft run` in a machine of the lab, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it with a configuration; returns once `alpha` accepts connections on `port`.
    pub(crate) fn start(
        machine: &Machine,
        client: &Netns,
        dir: &Path,
        config: &str,
        port: u16,
    ) -> Daemon {
        let to = SocketAddr::new(v4(ALPHA).into(), port);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
        let serves = || client.enter(connect).expect("enter").is_ok();
        Daemon::spawn(machine, dir, config, &format!("does not serve {to}"), serves)
    }

    /// Starts it with a configuration; returns once it answers at its control socket, which is
    /// `weft.sock` in `dir`: its NICs are open then.
    pub(crate) fn control(machine: &Machine, dir: &Path, config: &str) -> Daemon {
        let answers = || operate(dir, &["list", "-j"]).status.success();
        Daemon::spawn(machine, dir, config, "does not answer", answers)
    }

    fn spawn(
        machine: &Machine,
        dir: &Path,
        config: &str,
        wrong: &str,
        ready: impl Fn() -> bool,
    ) -> Daemon {
        let path = dir.join("weft.toml");
        fs::write(&path, config).expect("write the configuration");
        let mut command = machine.netns.command(weft());
        command.arg("run").arg(&path).stdin(Stdio::null());
        let mut daemon = Daemon { child: command.spawn().expect("weft run") };
        let begin = Instant::now();
        while !ready() {
            let ended = daemon.child.try_wait().expect("wait");
            assert_eq!(ended, None, "weft run ended early");
            assert!(begin.elapsed() < Duration::from_secs(20), "weft run {wrong}");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn kill(&mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("kill");
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "weft run does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A process of its own: its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A download of `alpha`'s at a limited rate, beside everything else.
pub(crate) struct Transfer {
    curl: Child,
    got: PathBuf,
    blob: Vec<u8>,
}

impl Transfer {
    /// Makes `www` in the directory with what is to be fetched; returns it and the directory.
    pub(crate) fn blob(dir: &Path, len: u32) -> (Vec<u8>, PathBuf) {
        let root = dir.join("www");
        let blob: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::create_dir(&root).expect("directory");
        fs::write(root.join("blob"), &blob).expect("write");
        (blob, root)
    }

    /// `rate` is in MB/s.
    pub(crate) fn start(client: &Netns, dir: &Path, blob: Vec<u8>, rate: u32) -> Transfer {
        let got = dir.join("got");
        let mut curl = client.command("curl");
        curl.args(["-sf", "--limit-rate", &format!("{rate}M"), "-o"]).arg(&got);
        curl.arg(format!("http://{}/blob", v4(ALPHA)));
        Transfer { curl: curl.spawn().expect("curl"), got, blob }
    }

    /// Waits until bytes have come.
    pub(crate) fn under_way(&self) {
        let begin = Instant::now();
        while fs::metadata(&self.got).map_or(0, |file| file.len()) < 100_000 {
            assert!(begin.elapsed() < Duration::from_secs(20), "the transfer does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn end(mut self) {
        assert!(self.curl.wait().expect("curl").success());
        assert!(fs::read(&self.got).expect("read") == self.blob, "the file came whole");
    }
}

/// Pings beyond those that count: ping does not wait for the last answers longer than for the
/// slowest before them, which a busy machine exceeds.
const FOLLOWING: usize = 500;

/// A ping each millisecond.
pub(crate) struct Pings {
    answers: Arc<AtomicUsize>,
    reader: JoinHandle<Vec<f64>>,
}

impl Pings {
    pub(crate) fn start(client: &Netns, to: &str, count: usize) -> Pings {
        let mut ping = client.command("ping");
        let sent = if count > 1 { count + FOLLOWING } else { count };
        ping.args(["-D", "-i", "0.001", "-c", &sent.to_string(), to]).stdout(Stdio::piped());
        let mut ping = ping.spawn().expect("ping");
        let answers = Arc::<AtomicUsize>::default();
        let seen = Arc::clone(&answers);
        // Read at once: who writes to a full pipe does not ping.
        let reader = std::thread::spawn(move || {
            let mut times = Vec::new();
            let lines = BufReader::new(ping.stdout.take().expect("its output")).lines();
            for line in lines.map_while(Result::ok) {
                let at = line.strip_prefix('[').and_then(|line| line.split_once(']'));
                let is_answer = |s: &str| s.contains(" bytes from ") && !s.contains("DUP!");
                let number =
                    line.split_once("icmp_seq=").and_then(|(_, rest)| rest.split_once(' '));
                let number = number.and_then(|(number, _)| number.parse::<usize>().ok());
                let counts = number.is_some_and(|number| number <= count);
                let answer = at.filter(|(_, rest)| counts && is_answer(rest));
                times.extend(answer.and_then(|(at, _)| at.parse::<f64>().ok()));
                seen.store(times.len(), Ordering::Relaxed);
            }
            ping.wait().expect("ping");
            times
        });
        Pings { answers, reader }
    }

    /// Waits until some are answered.
    pub(crate) fn under_way(&self) {
        let begin = Instant::now();
        while self.answers.load(Ordering::Relaxed) < 100 {
            assert!(begin.elapsed() < Duration::from_secs(20), "pings are not answered");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many were answered, and the longest time between two answers in milliseconds.
    pub(crate) fn end(self) -> (usize, f64) {
        let times = self.reader.join().expect("ping");
        let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3);
        (times.len(), gaps.fold(0.0, f64::max))
    }
}

/// A configuration with vserver `alpha` on the shared NIC; `services` is TOML below it.
pub(crate) fn alpha(driver: &str, dir: &Path, services: &str) -> String {
    format!(
        r#"
[host]
control = "{control}"
[nic.eth0]
device = "{nic}"
driver = "{driver}"
[alias.data0]
over = "eth0"
[vserver.alpha]
addresses = ["data0 {v4}/16", "data0 fd77::{ALPHA:x}/64"]
{services}
"#,
        control = dir.join("weft.sock").display(),
        nic = nic(0),
        v4 = v4(ALPHA),
    )
}

/// Interfaces of the machine and named namespaces: what a lab could leave behind.
pub(crate) fn leavings() -> BTreeSet<String> {
    let links = Netlink::open().and_then(|mut n| n.links()).expect("links");
    let mut found: BTreeSet<String> = links.into_iter().map(|l| l.name).collect();
    for dir in ["/var/run/netns", "/run/netns"] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(entries.map(|e| e.path().display().to_string()));
    }
    found
}

/// Processes whose command line contains `text`.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|e| fs::read(e.path().join("cmdline")).ok());
    lines
        .map(|l| String::from_utf8_lossy(&l).replace('\0', " "))
        .filter(|l| l.contains(text))
        .collect()
}

/// Runs `weft lab` with `args`; on failure shows what it printed.
pub(crate) fn lab(args: &[&str]) -> serde_json::Value {
    let output = Command::new(weft())
        .arg("lab")
        .args(args)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .expect("weft lab");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let empty = Vec::new();
    let bad: Vec<_> = report["checks"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .filter(|c| c["ok"] != true)
        .map(|c| format!("{}: {}", c["name"], c["seen"]))
        .collect();
    assert!(
        output.status.success() && bad.is_empty(),
        "weft lab {args:?} ended with {}\n{errors}\n{}",
        output.status,
        bad.join("\n")
    );
    report
}

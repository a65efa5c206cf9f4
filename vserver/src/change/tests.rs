use std::fmt::Write;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dump::dump;
use super::*;
use crate::config::{self, HostConfig};
use crate::service::Services;
use crate::{Devices, Host};

const PATIENCE: Duration = Duration::from_secs(20);

fn parsed(text: &str) -> HostConfig {
    config::parse(text, "weft.toml".as_ref()).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn head(workers: usize) -> String {
    format!(
        "[workers]\ncount = {workers}\nframes = 512\n\
         [nic.eth0]\ndevice = \"mem\"\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
         [alias.data0]\nover = \"eth0\"\nMTU0\n[alias.san0]\nover = \"eth0\"\nmac = \"02:00:00:00:00:02\"\n"
    )
}

/// Some vservers out of few names, with addresses out of few numbers, so that two of these have
/// much in common.
fn random(rng: &mut Rng, workers: usize) -> String {
    let mtu = if rng.chance(30) { "mtu = 1400" } else { "" };
    let mut text = head(workers).replace("MTU0", mtu);
    if rng.chance(20) {
        text += "[alias.data7]\nover = \"eth0\"\nmac = \"02:00:00:00:00:07\"\n";
    }
    for table in ["t1", "t2"] {
        if rng.chance(70) {
            let via = 200 + rng.below(3);
            writeln!(
                text,
                "[table.{table}]\nroutes = [{{ to = \"default\", via = \"10.0.0.{via}\", alias = \"data0\" }}]"
            )
            .unwrap();
        }
    }
    if rng.chance(60) {
        let n = rng.below(2);
        writeln!(text, "[group.g]\nlimits.udp_sockets = 10{n}\ndns.servers = [\"10.0.0.5{n}\"]")
            .unwrap();
    }
    if rng.chance(40) {
        text += "[access]\nrules = [{ drop = \"icmp\", on = \"san\" }]\n";
    }
    let head = text.clone();
    let mut free: [Vec<u64>; 2] = [(1..12).collect(), (1..12).collect()];
    for name in ["a", "b", "c", "d"] {
        if rng.chance(25) {
            continue;
        }
        let mut addresses = Vec::new();
        for _ in 0..=rng.below(3) {
            let alias = rng.below(2) as usize;
            if free[alias].is_empty() {
                continue;
            }
            let at = rng.below(free[alias].len() as u64) as usize;
            let n = free[alias].swap_remove(at);
            let prefix = if rng.chance(15) { 16 } else { 24 };
            let (alias, net) = [("data0", 0), ("san0", 1)][alias];
            addresses.push(format!("\"{alias} 10.0.{net}.{n}/{prefix}\""));
        }
        write!(text, "[vserver.{name}]\naddresses = [{}]\n", addresses.join(", ")).unwrap();
        if rng.chance(30) {
            text += "tcp.sack = false\n";
        }
        if rng.chance(30) {
            text += "limits.tcp_connections = 77\n";
        }
        if name == "a" && rng.chance(30) {
            text += "forwarding = true\n";
        }
        if name == "d" {
            // At home on one worker, the same in every host.
            text += "shim = { enabled = false }\n";
        }
        let net = u64::from(addresses.last().is_some_and(|a| a.contains("san0")));
        let (via, on) = (200 + rng.below(3), ["data0", "san0"][net as usize]);
        if !addresses.is_empty() && rng.chance(60) {
            writeln!(
                text,
                "routes = [{{ to = \"default\", via = \"10.0.{net}.{via}\", alias = \"{on}\" }}]"
            )
            .unwrap();
        }
        policy(rng, &mut text, &head);
        if rng.chance(40) {
            let port = 7 + rng.below(2);
            writeln!(text, "service = [{{ kind = \"echo\", port = {port} }}]").unwrap();
        }
    }
    text
}

/// What is inherited and shared, and what a group may say too.
fn policy(rng: &mut Rng, text: &mut String, head: &str) {
    let tables: Vec<&str> =
        ["t1", "t2"].into_iter().filter(|t| head.contains(&format!("[table.{t}]"))).collect();
    if let Some(table) = tables.first().filter(|_| rng.chance(40)) {
        writeln!(text, "tables = [\"{table}\"]").unwrap();
    }
    if let Some(table) = tables.last().filter(|_| rng.chance(50)) {
        let n = 1 + rng.below(2);
        writeln!(
            text,
            "rules = [{{ to = \"192.0.2.0/24\", table = \"{table}\", priority = {n} }},\
             {{ to = \"198.51.100.0/24\", action = \"prohibit\" }}]"
        )
        .unwrap();
    }
    if head.contains("[group.g]") && rng.chance(50) {
        *text += "group = \"g\"\n";
    }
    if rng.chance(30) {
        *text += "acd = \"off\"\n";
    }
    if rng.chance(30) {
        *text += "qos.send.limit = \"10 Mbit/s\"\n";
    }
    if rng.chance(30) {
        *text += "access = [{ drop = \"tcp/99\" }]\n";
    }
    if rng.chance(20) {
        *text += "dns.servers = [\"10.0.0.99\"]\n";
    }
}

struct Site {
    host: Arc<Host>,
    changes: Changes,
}

fn site(config: HostConfig) -> Site {
    let host = Arc::new(Host::start_with_devices(config, Devices::new()).unwrap());
    let services = Arc::new(Services::start(&host).unwrap());
    let changes = Changes::new(Arc::clone(&host), Some(services), Vec::new(), |_, _| {});
    Site { host, changes }
}

/// Workers tell each other a moment later.
fn wait_for_dump(host: &Host, wanted: &str, why: &str) {
    let begin = Instant::now();
    loop {
        let now = dump(&host.shared);
        if now == wanted {
            return;
        }
        if begin.elapsed() > PATIENCE {
            let (a, b): (Vec<_>, Vec<_>) = (wanted.lines().collect(), now.lines().collect());
            let gone: Vec<_> = a.iter().filter(|l| !b.contains(l)).collect();
            let come: Vec<_> = b.iter().filter(|l| !a.contains(l)).collect();
            panic!("{why}\nmissing: {gone:#?}\nmore: {come:#?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The dump once no stack has anything to say, nor one worker to another.
fn settled(host: &Host) -> String {
    let begin = Instant::now();
    loop {
        let mut cores: Vec<_> = host.shared.workers.iter().map(|w| w.lock()).collect();
        if cores.iter_mut().all(|core| core.is_quiet()) {
            break;
        }
        drop(cores);
        assert!(begin.elapsed() < PATIENCE, "the workers do not come to rest");
        std::thread::sleep(Duration::from_millis(1));
    }
    dump(&host.shared)
}

fn check_pair(old: &str, new: &str) {
    let (old_config, new_config) = (parsed(old), parsed(new));
    let steps = match plan(&old_config, &new_config) {
        Ok(plan) => plan.steps.len(),
        Err(obstacles) => {
            assert!(obstacles.iter().all(|o| o.object.starts_with("alias")), "{obstacles:?}");
            return;
        }
    };
    let Site { host, changes } = site(old_config.clone());
    let before = settled(&host);
    for at in 0..steps {
        let refused = changes.fail_at(new_config.clone(), at).unwrap_err();
        assert!(matches!(refused, ApplyError::Step { .. }), "{refused}");
        assert_eq!(*host.config(), old_config);
        wait_for_dump(&host, &before, &format!("step {at} failed\n{old}\n->\n{new}"));
    }
    changes.apply(new_config.clone(), &Options::default()).unwrap();
    assert_eq!(*host.config(), new_config);
    let fresh = site(new_config);
    let wanted = settled(&fresh.host);
    wait_for_dump(&host, &wanted, &format!("not as a new host\n{old}\n->\n{new}"));
    changes.revert().unwrap();
    assert_eq!(*host.config(), old_config);
    wait_for_dump(&host, &before, "not as before");
}

#[test]
fn a_plan_makes_what_a_new_host_has_and_a_failure_anywhere_changes_nothing() {
    let mut rng = Rng(0x5eed_1234_abcd_0001);
    for round in 0..18 {
        let workers = 1 + round % 2;
        let (old, new) = (random(&mut rng, workers), random(&mut rng, workers));
        check_pair(&old, &new);
    }
}

/// Few interfaces out of four NICs in many ways, and vservers on them.
fn random_interfaces(rng: &mut Rng, workers: usize) -> String {
    let mut text = format!("[workers]\ncount = {workers}\nframes = 512\n");
    for i in 0..5 {
        let nic = format!("[nic.eth{i}]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:1{i}\"\n");
        text += &nic;
    }
    let mut links = vec!["eth0".to_owned(), "eth0.5".to_owned()];
    let bonded = rng.chance(60);
    if bonded {
        let ports = ["\"eth1\"", "\"eth1\", \"eth2\""][rng.below(2) as usize];
        let mode = ["static", "active-backup", "round-robin"][rng.below(3) as usize];
        writeln!(text, "[bond.bond0]\nports = [{ports}]\nmode = \"{mode}\"").unwrap();
    }
    if rng.chance(70) {
        let mut members = vec!["eth3"];
        if rng.chance(50) {
            members.push("eth4");
        }
        if bonded && rng.chance(50) {
            members.push(["bond0", "bond0.7"][rng.below(2) as usize]);
        }
        let test =
            if rng.chance(40) { "probe = \"icmp\"\ntest = [\"eth3 10.0.9.1/24\"]" } else { "" };
        writeln!(text, "[fail.fail0]\nmembers = {members:?}\n{test}").unwrap();
        links.push("fail0".to_owned());
        if !members.contains(&"bond0.7") {
            links.push("fail0.9".to_owned());
        }
        if bonded && members.contains(&"bond0.7") {
            links.push("bond0.8".to_owned());
        }
        if bonded && !members.iter().any(|m| m.starts_with("bond")) {
            links.extend(["bond0", "bond0.5"].map(str::to_owned));
        }
    } else if bonded {
        links.extend(["bond0", "bond0.5"].map(str::to_owned));
    }
    for (i, name) in ["data0", "data1", "san0"].into_iter().enumerate() {
        let over = &links[rng.below(links.len() as u64) as usize];
        let mac =
            if rng.chance(30) { format!("mac = \"02:00:00:00:01:0{i}\"\n") } else { String::new() };
        let mtu = if rng.chance(20) { "mtu = 1400\n" } else { "" };
        if i == 2 && rng.chance(30) {
            continue;
        }
        write!(text, "[alias.{name}]\nover = \"{over}\"\n{mac}{mtu}").unwrap();
    }
    for (i, name) in ["a", "b"].into_iter().enumerate() {
        let alias = ["data0", "data1"][rng.below(2) as usize];
        writeln!(
            text,
            "[vserver.{name}]\naddresses = [\"{alias} 10.0.{i}.1/24\", \"data0 10.1.{i}.1/24\"]"
        )
        .unwrap();
        if rng.chance(40) {
            text += "qos.send.limit = \"10 Mbit/s\"\n";
        }
    }
    text
}

#[test]
fn other_interfaces_are_those_of_a_new_host_and_a_failure_anywhere_changes_nothing() {
    let mut rng = Rng(0x5eed_1234_abcd_0006);
    for round in 0..40 {
        let workers = 1 + round % 2;
        let (old, new) =
            (random_interfaces(&mut rng, workers), random_interfaces(&mut rng, workers));
        check_pair(&old, &new);
    }
}

#[test]
fn a_change_that_nobody_confirms_is_taken_back() {
    let text = head(1).replace("MTU0", "");
    let (one, two) = (
        "[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n",
        "[vserver.b]\naddresses = [\"data0 10.0.0.2/24\"]\n",
    );
    let old = parsed(&format!("{text}{one}"));
    let new = parsed(&format!("{text}{one}{two}"));
    let Site { host, changes } = site(old.clone());
    let soon = Options {
        confirm: Some(Duration::from_millis(80)),
        by: "test".into(),
        ..Options::default()
    };
    let generation = host.generation();
    assert!(changes.apply(new.clone(), &soon).unwrap().generation > generation);
    let begin = Instant::now();
    while *host.config() != old {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(host.vserver("b").is_none());

    let later = Options { confirm: Some(Duration::from_mins(10)), ..soon };
    changes.apply(new.clone(), &later).unwrap();
    assert_eq!(*host.config(), new);
    let refused = changes.apply(old.clone(), &Options::default()).unwrap_err();
    assert!(refused.to_string().contains("by test"), "{refused}");
    changes.confirm().unwrap();
    assert!(matches!(changes.confirm(), Err(ApplyError::NothingWaits)));
    assert_eq!(*host.config(), new);
    changes.apply(old.clone(), &later).unwrap();
    changes.revert().unwrap();
    assert_eq!(*host.config(), new);
}

#[test]
fn what_takes_a_restart_is_named_and_refuses_the_whole_change() {
    let text = format!(
        "{}[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n",
        head(1).replace("MTU0", "")
    );
    let Site { host, changes } = site(parsed(&text));
    for (from, to, named) in [
        ("frames = 512", "frames = 1024", "workers"),
        ("02:00:00:00:00:01", "02:00:00:00:00:09", "nic eth0"),
    ] {
        let new = text.replacen(from, to, 1).replace("10.0.0.1/", "10.0.0.3/");
        let refused = changes.apply(parsed(&new), &Options::default()).unwrap_err();
        assert!(refused.to_string().contains(named), "{refused}");
        assert_eq!(*host.config(), parsed(&text));
    }
    let on = |nic: &str| {
        let tun = "[nic.eth1]\ndevice = \"weft0\"\ndriver = \"tun\"\n";
        parsed(&format!("{}{tun}[alias.mgmt0]\nover = \"{nic}\"\n", head(1).replace("MTU0", "")))
    };
    let obstacles = plan(&on("eth0"), &on("eth1")).unwrap_err();
    assert_eq!(obstacles[0].object, "alias mgmt0");
    assert!(obstacles[0].reason.contains("bare IP packets"), "{obstacles:?}");
}

#[test]
fn a_difference_is_told_by_vserver() {
    let base = head(1).replace("MTU0", "");
    let old = format!(
        "{base}[vserver.a]\naddresses = [\"data0 10.0.0.1/24\", \"data0 10.0.0.2/24\"]\n[vserver.gone]\naddresses = [\"data0 10.0.0.9/24\"]\n"
    );
    let new = format!(
        "{base}[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\nlimits.tcp_connections = 5\nroutes = [{{ to = \"default\", via = \"10.0.0.254\" }}]\n[vserver.b]\naddresses = [\"data0 10.0.0.2/24\"]\n"
    );
    let text = plan(&parsed(&old), &parsed(&new)).unwrap().describe().text();
    let before =
        config::parse(&old, "weft.toml".as_ref()).unwrap().vservers[0].limits.tcp_connections;
    assert_eq!(
        text,
        format!(
            "vserver a\n  ~ limits.tcp_connections {before} -> 5\n  - address data0 10.0.0.2/24 (to b)\n  + route 0.0.0.0/0 via 10.0.0.254 dev data0\n\
             vserver b\n  + the vserver\n  + alias data0\n  + address data0 10.0.0.2/24 (from a)\n\
             vserver gone\n  - the vserver\n  - address data0 10.0.0.9/24\n"
        )
    );
}

#[test]
fn a_time_to_confirm_that_no_clock_can_tell_is_refused_and_changes_nothing() {
    let text = head(1).replace("MTU0", "");
    let more = "[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n";
    let (old, new) = (parsed(&text), parsed(&format!("{text}{more}")));
    let Site { host, changes } = site(old.clone());
    let never = Options { confirm: Some(Duration::from_secs(u64::MAX)), ..Options::default() };
    let refused = changes.apply(new.clone(), &never).unwrap_err().to_string();
    assert!(refused.contains("nothing was changed") && refused.contains("confirm"), "{refused}");
    assert_eq!(*host.config(), old);
    changes.apply(new, &Options::default()).unwrap();
}

/// A key, which only its owner can read.
fn key_file(directory: &std::path::Path, name: &str) -> std::path::PathBuf {
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).mode(0o600).open(&path).unwrap();
    file.write_all(b"0123456789abcdef").unwrap();
    path
}

/// A part that cannot follow a configuration in which a vserver has this name.
struct Refuses(&'static str, Arc<parking_lot::Mutex<Vec<usize>>>);

impl Follower for Refuses {
    fn name(&self) -> &'static str {
        "refusing part"
    }

    fn follow(&self, host: &Host) -> std::io::Result<()> {
        let config = host.config();
        self.1.lock().push(config.vservers.len());
        let refuses = config.vservers.iter().any(|v| v.name == self.0);
        if refuses { Err(std::io::Error::other("not this one")) } else { Ok(()) }
    }
}

#[test]
fn what_cannot_be_taken_back_is_told_and_keeps_nothing_else_from_being_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let key = |name: &str| key_file(directory.path(), name);
    let (first, second) = (key("first"), key("second"));
    let text = |key: &std::path::Path, rest: &str| {
        let key = key.display();
        parsed(&format!(
            "{}[vserver.a]\naddresses = [\"data0 2001:db8::1/64\"]\n\
             shim.keys = [\"2001:db8::/32 {key}\"]\n{rest}",
            head(1).replace("MTU0", "")
        ))
    };
    let old = text(&first, "access = [{ drop = \"tcp/99\" }]\n");
    let new = text(
        &second,
        "access = [{ drop = \"tcp/98\" }]\n[vserver.b]\n\
                    addresses = [\"data0 2001:db8::2/64\"]\n",
    );
    let host = Arc::new(Host::start_with_devices(old.clone(), Devices::new()).unwrap());
    let seen = Arc::default();
    let followers: Vec<Arc<dyn Follower>> = vec![Arc::new(Refuses("b", Arc::clone(&seen)))];
    let changes = Changes::new(Arc::clone(&host), None, followers, |_, _| {});

    let refused = changes.apply(new.clone(), &Options::default()).unwrap_err();
    assert!(matches!(refused, ApplyError::Step { .. }), "{refused}");
    assert!(refused.to_string().contains("not this one"), "{refused}");
    assert_eq!(*seen.lock(), [2, 1]);

    // The key of what is in force is gone from the disk.
    std::fs::remove_file(&first).unwrap();
    seen.lock().clear();
    let refused = changes.apply(new, &Options::default()).unwrap_err();
    let ApplyError::Stuck { failure, undo } = &refused else { panic!("{refused}") };
    assert!(failure.contains("not this one") && undo.contains("first"), "{refused}");
    assert_eq!(*host.config(), old);
    assert_eq!(*seen.lock(), [2, 1], "those after the shim are told too");
    let rules = host.access(Some("a")).unwrap();
    assert_eq!(rules.vservers[0].rules[0].ports, ["tcp/99"]);
}

#[test]
fn a_key_that_cannot_be_read_refuses_a_change_before_anything_is_done() {
    let text = |shim: &str| {
        parsed(&format!(
            "{}[vserver.a]\naddresses = [\"data0 2001:db8::1/64\"]\n{shim}",
            head(1).replace("MTU0", "")
        ))
    };
    let old = text("shim = {}\n");
    let Site { host, changes } = site(old.clone());
    let generation = host.generation();
    let directory = tempfile::tempdir().unwrap();
    let key = key_file(directory.path(), "key");
    let new = text(&format!("shim.keys = [\"2001:db8::/32 {}\"]\n", key.display()));
    std::fs::remove_file(&key).unwrap();
    let refused = changes.apply(new, &Options::default()).unwrap_err();
    assert!(matches!(refused, ApplyError::Step { .. }), "{refused}");
    assert!(refused.to_string().contains("/key: No such file"), "{refused}");
    assert_eq!((host.generation(), &*host.config()), (generation, &old));
}

//! Failover over AF_XDP, with a kernel bridge as the switch: a cable is pulled and plugged in again
//! while a transfer and 1 ms pings run.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use weft_cli::lab::topology::{CLIENT, Machine, v4};
use weft_drivers::ethtool::{self, Offload};

mod common;

use common::{ALPHA, Daemon, Pings, Transfer, ask, ask_until, cable, installed, ip, operate, xdp};

/// A machine with two cables to a switch, and what runs on the switch.
struct Lab {
    weft: Machine,
    switch: Machine,
}

const BRIDGE: &str = "br0";
/// The machine's NICs, and the ports of the switch at the other ends.
const CABLES: [(&str, &str); 2] = [("nic0", "port0"), ("nic1", "port1")];

impl Lab {
    fn new() -> Lab {
        let lab =
            Lab { weft: Machine::new("weft").unwrap(), switch: Machine::new("switch").unwrap() };
        // A MAC address of its own: a bridge without one takes that of a port, and another when that
        // port goes. No host changes its address because a cable of another is pulled.
        let bridge = ["type", "bridge", "stp_state", "0"];
        lab.ip(&[&["link", "add", BRIDGE, "address", "02:00:00:00:00:02"], &bridge[..]].concat());
        for (nic, port) in CABLES {
            cable((&lab.weft, nic), (&lab.switch, port));
            lab.ip(&["link", "set", port, "master", BRIDGE, "up"]);
            // Once out of the bridge it does not speak for the bridge's address.
            lab.switch.netns.set_sysctl(&format!("net/ipv4/conf/{port}/arp_ignore"), "1").unwrap();
        }
        lab.switch.number(BRIDGE, CLIENT).unwrap();
        let quiet = lab.switch.netns.enter(|| {
            for name in [BRIDGE, CABLES[0].1, CABLES[1].1] {
                ethtool::set_offload(name, Offload::TxChecksum, false)?;
                ethtool::set_offload(name, Offload::Tso, false)?;
                ethtool::set_offload(name, Offload::Gso, false)?;
            }
            Ok::<(), weft_drivers::device::DeviceError>(())
        });
        quiet.unwrap().unwrap();
        lab
    }

    fn ip(&self, args: &[&str]) {
        ip(&self.switch, args);
    }

    /// The MAC address that the switch's kernel has of an address.
    fn neighbour(&self, address: &str) -> String {
        let args = ["neigh", "show", address];
        let output = self.switch.netns.command("ip").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "lladdr");
        at.map_or_else(String::new, |at| words[at + 1].to_owned())
    }

    fn plug(&self, cable: usize, up: bool) {
        self.switch.netlink(|netlink| netlink.set_up(CABLES[cable].1, up)).unwrap();
    }
}

fn config(dir: &Path, root: &Path, link: &str, over: &str) -> String {
    let (first, second) = (CABLES[0].0, CABLES[1].0);
    format!(
        r#"
[host]
control = "{control}"
state_dir = "{state}"
[nic.eth0]
device = "{first}"
driver = "af-xdp"
[nic.eth1]
device = "{second}"
driver = "af-xdp"
{link}
[alias.data0]
over = "{over}"
[vserver.alpha]
addresses = ["data0 {v4}/16"]
service = [{{ kind = "http", port = 80, root = "{root}" }}]
"#,
        control = dir.join("weft.sock").display(),
        state = dir.join("state").display(),
        v4 = v4(ALPHA),
        root = root.display(),
    )
}

fn programs() -> bool {
    xdp() && installed("curl") && installed("ping") && installed("ip")
}

/// A daemon whose vserver stands on `over`, which `link` makes of the two NICs, and what it serves.
fn run(lab: &Lab, dir: &Path, (link, over): (&str, &str)) -> (Daemon, Vec<u8>) {
    let (blob, root) = Transfer::blob(dir, 40_000_000);
    let config = config(dir, &root, link, over);
    (Daemon::start(&lab.weft, &lab.switch.netns, dir, &config, 80), blob)
}

const GROUP: &str = "[fail.fail0]\nmembers = [\"eth0\", \"eth1\"]";

#[test]
fn a_pulled_cable_of_a_failover_group_costs_no_connection_and_its_return_no_ping() {
    if !programs() {
        return;
    }
    let lab = Lab::new();
    let client = &lab.switch.netns;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (_daemon, blob) = run(&lab, dir, (GROUP, "fail0"));
    let state = ["paths", "-g", "-P", "-o", "state,interfaces"];
    ask_until(dir, &state, |text| text == "ok:eth0 eth1\n");
    let inbound = ["paths", "-a", "-P", "-o", "inbound"];
    let bound = ask(dir, &inbound);
    let at = usize::from(bound == "eth1\n");
    let address = v4(ALPHA).to_string();
    let before = lab.neighbour(&address);

    let transfer = Transfer::start(client, dir, blob, 8);
    transfer.under_way();
    let ping = Pings::start(client, &v4(ALPHA).to_string(), 2000);
    ping.under_way();
    lab.plug(at, false);
    let degraded = format!("degraded:eth{} [eth{at}]\n", 1 - at);
    ask_until(dir, &state, |text| text == degraded);
    let begin = Instant::now();
    while lab.neighbour(&address) == before {
        assert!(begin.elapsed() < Duration::from_secs(20), "the switch was not told of the move");
    }
    let (answered, gap) = ping.end();
    println!("NUMBER failover group, link down: {} of 2000 lost, gap {gap:.1} ms", 2000 - answered);

    let ping = Pings::start(client, &v4(ALPHA).to_string(), 2000);
    ping.under_way();
    lab.plug(at, true);
    ask_until(dir, &state, |text| text == "ok:eth0 eth1\n");
    assert_eq!(ping.end().0, 2000, "failback loses nothing");
    transfer.end();

    let events = ask(dir, &["events"]);
    for wanted in [
        format!("interface fail0 eth{at} failed inactive"),
        format!("moved fail0 {address} eth{at} eth{}", 1 - at),
        String::from("group fail0 degraded"),
        String::from("group fail0 ok"),
    ] {
        assert!(events.contains(&wanted), "{wanted}: {events}");
    }
}

/// A member that has a carrier and reaches nobody, found by probes configured as `probe`.
fn silent_loss(probe: &str) {
    let lab = Lab::new();
    let client = &lab.switch.netns;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Where threads wait long for a CPU, members may fail and come back besides.
    let targets = format!("detect_ms = 100\nflaps_max = 255\ntargets = [\"{}\"]", v4(CLIENT));
    let link = format!("{GROUP}\n{targets}\n{probe}");
    let (_daemon, blob) = run(&lab, dir, (&link, "fail0"));
    let probes = ["paths", "-i", "-P", "-o", "probe,state"];
    ask_until(dir, &probes, |text| text == "ok:ok\nok:ok\n");
    let bound = ask(dir, &["paths", "-a", "-P", "-o", "inbound"]);
    let at = usize::from(bound == "eth1\n");

    let transfer = Transfer::start(client, dir, blob, 8);
    transfer.under_way();
    let ping = Pings::start(client, &v4(ALPHA).to_string(), 3000);
    ping.under_way();
    lab.ip(&["link", "set", CABLES[at].1, "nomaster"]);
    let state = ["paths", "-g", "-P", "-o", "state,interfaces"];
    let degraded = format!("degraded:eth{} [eth{at}]\n", 1 - at);
    ask_until(dir, &state, |text| text == degraded);
    let (answered, gap) = ping.end();
    let lost = 3000 - answered;
    println!("NUMBER failover group, silent loss, {probe}: {lost} of 3000 lost, gap {gap:.1} ms");
    lab.ip(&["link", "set", CABLES[at].1, "master", BRIDGE]);
    ask_until(dir, &state, |text| text == "ok:eth0 eth1\n");
    transfer.end();
    let links = ask(dir, &["paths", "-i", "-P", "-o", "link"]);
    assert_eq!(links, "up\nup\n");
    println!("{}{}", ask(dir, &["paths", "-t"]), ask(dir, &["events"]));
}

#[test]
fn silent_loss_is_found_by_echo_from_test_addresses() {
    if programs() {
        let test = format!("\"eth0 {}/16\", \"eth1 {}/16\"", v4(31), v4(32));
        silent_loss(&format!("probe = \"icmp\"\ntest = [{test}]"));
    }
}

#[test]
fn silent_loss_is_found_by_arp_without_test_addresses() {
    if programs() {
        silent_loss("probe = \"arp\"");
    }
}

#[test]
fn an_operator_takes_a_member_out_and_back_without_loss_and_never_the_last_one() {
    if !programs() {
        return;
    }
    let lab = Lab::new();
    let client = &lab.switch.netns;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _daemon = run(&lab, dir, (GROUP, "fail0"));
    let state = ["paths", "-g", "-P", "-o", "state,interfaces"];
    ask_until(dir, &state, |text| text == "ok:eth0 eth1\n");
    let ping = Pings::start(client, &v4(ALPHA).to_string(), 2000);
    for out in ["eth0", "eth1", "eth0", "eth1"] {
        ask(dir, &["interface", "offline", out]);
        let other = if out == "eth0" { "eth1" } else { "eth0" };
        assert_eq!(ask(dir, &["paths", "-a", "-P", "-o", "inbound"]), format!("{other}\n"));
        let refused = operate(dir, &["interface", "offline", other]);
        assert_eq!(refused.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(errors.contains(&format!("{other} stays")), "{errors}");
        ask(dir, &["interface", "undo", out]);
        ask_until(dir, &state, |text| text == "ok:eth0 eth1\n");
    }
    assert_eq!(ping.end().0, 2000);
}

#[test]
fn a_pulled_cable_of_an_active_backup_bond_costs_no_connection() {
    if !programs() {
        return;
    }
    let lab = Lab::new();
    let client = &lab.switch.netns;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let link =
        "[bond.bond0]\nports = [\"eth0\", \"eth1\"]\nmode = \"active-backup\"\nprimary = \"eth0\"";
    let (_daemon, blob) = run(&lab, dir, (link, "bond0"));
    let transfer = Transfer::start(client, dir, blob, 8);
    transfer.under_way();
    let ping = Pings::start(client, &v4(ALPHA).to_string(), 2000);
    ping.under_way();
    lab.plug(0, false);
    let events = ["events"];
    ask_until(dir, &events, |text| text.contains("bond-active bond0 eth1"));
    let (answered, gap) = ping.end();
    println!(
        "NUMBER active-backup bond, link down: {} of 2000 lost, gap {gap:.1} ms",
        2000 - answered
    );
    let ping = Pings::start(client, &v4(ALPHA).to_string(), 2000);
    lab.plug(0, true);
    let back = |text: &str| text.matches("bond-active bond0 eth0").count() == 2;
    ask_until(dir, &events, back);
    let (answered, gap) = ping.end();
    println!("NUMBER active-backup bond, back: {} of 2000 lost, gap {gap:.1} ms", 2000 - answered);
    transfer.end();
    let shown = ask(dir, &["bonds"]);
    assert!(shown.contains("active-backup"), "{shown}");
}

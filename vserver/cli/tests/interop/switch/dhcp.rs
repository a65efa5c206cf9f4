//! DHCP on an alias that has a tag of its own, from a server in that VLAN of a switch.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_cli::lab::topology::Machine;

use super::ovs::{Ovs, Running, cable};
use super::{ask, until};
use crate::common::{Daemon, installed, weft, xdp};

/// Port of the switch, what makes it one of its VLAN, the server's interface and address there.
const SERVERS: [(&str, &str, &str, &str); 2] =
    [("c0", " trunks=0", "wan0", "10.78.0.2"), ("c5", " tag=5", "wan5", "10.78.5.2")];
/// Alias, and the address of its identifier.
const LEASES: [(&str, &str); 2] = [("data0", "10.78.0.11"), ("data0.5", "10.78.5.11")];

fn configuration(dir: &Path) -> String {
    format!(
        r#"
[host]
control = "{control}"
state_dir = "{state}"
[cluster]
id = "00:07:34:04:12:0E"
[cluster.leases]
"data0:alpha:0" = "10.78.0.11"
"data0.5:alpha:0" = "10.78.5.11"
[[cluster.subnet]]
network = "10.78.0.0/24"
[[cluster.subnet]]
network = "10.78.5.0/24"
[nic.eth0]
device = "nic0"
driver = "af-xdp"
[alias.data0]
over = "eth0"
[alias."data0.5"]
[vserver.alpha]
dhcp = [{{ alias = "data0", acd = "off" }}, {{ alias = "data0.5", acd = "off" }}]
service = [{{ kind = "echo", port = 7 }}]
"#,
        control = dir.join("weft.sock").display(),
        state = dir.join("state").display(),
    )
}

/// dnsmasq at an interface, as `weft dhcp-config` configures it.
fn server(machine: &Machine, dir: &Path, interface: &str) -> Running {
    let mut command = Command::new(weft());
    command.arg("dhcp-config").arg(dir.join("weft.toml"));
    command.args(["--for", "dnsmasq", "--interface", interface]);
    let output = command.stdin(Stdio::null()).output().expect("weft dhcp-config");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = |what: &str| dir.join(format!("{interface}.{what}"));
    std::fs::write(file("conf"), output.stdout).expect("write");
    let log = File::create(file("log")).expect("log");
    let mut command = machine.netns.command("dnsmasq");
    command.args(["--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--port=0"]);
    command.args(["--user=root", "--dhcp-authoritative", "--bind-interfaces"]);
    command.arg(format!("--conf-file={}", file("conf").display()));
    command.arg(format!("--dhcp-leasefile={}", file("leases").display()));
    command.arg(format!("--pid-file={}", file("pid").display()));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
    Running(command.spawn().expect("dnsmasq"))
}

fn echoes(machine: &Machine, addr: &str) -> Result<(), String> {
    let to = SocketAddr::new(addr.parse().expect("address"), 7);
    let talk = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(1500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"tag")?;
        stream.read_exact(&mut [0; 3])
    };
    machine.netns.enter(talk).expect("enter").map_err(|e| format!("{addr}: {e}"))
}

#[test]
fn an_alias_with_a_tag_of_its_own_gets_its_lease_from_the_server_in_that_vlan() {
    if !xdp() || !Ovs::installed() || !installed("dnsmasq") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    std::fs::write(dir.join("weft.toml"), configuration(dir)).expect("write");
    let (ovs, machine) = (Ovs::start(), Machine::new("weft").expect("weft"));
    // Each server has a machine: it hears its own VLAN and no other.
    let servers = SERVERS.map(|(port, tag, interface, addr)| {
        let client = Machine::new("server").expect("server");
        cable((&client, interface), (&ovs.machine, port));
        ovs.vsctl(&format!("add-port br0 {port}{tag}"));
        let addr = addr.parse().expect("address");
        client.netlink(|netlink| netlink.add_address(interface, addr, 24)).expect("address");
        let running = server(&client, dir, interface);
        (client, running)
    });
    cable((&machine, "nic0"), (&ovs.machine, "port0"));
    ovs.vsctl("add-port br0 port0 trunks=0,5");
    let _daemon = Daemon::control(&machine, dir, &configuration(dir));
    let logs = || {
        let log = |s: &(&str, &str, &str, &str)| {
            std::fs::read_to_string(dir.join(format!("{}.log", s.2))).unwrap_or_default()
        };
        SERVERS.iter().map(log).collect::<String>()
    };
    let report = until(30, || {
        let report = ask(dir, &["dhcp", "-j"]);
        let bound = |(alias, addr): &(&str, &str)| {
            let clients = report["clients"].as_array().into_iter().flatten();
            let id = format!("00:07:34:04:12:0E:{alias}:alpha:0");
            clients.into_iter().any(|line| {
                let found = line["address"].as_str().and_then(|a| a.split('/').next());
                line["id"] == id && line["state"] == "bound" && found == Some(addr)
            })
        };
        let all = LEASES.iter().all(bound);
        if all { Ok(report) } else { Err(format!("{report}\n{}", logs())) }
    });
    for ((client, _), (alias, addr)) in servers.iter().zip(LEASES) {
        until(5, || echoes(client, addr).map_err(|e| format!("{alias}: {e}\n{report}")));
    }
    // Neither server heard of the other's client.
    for ((_, _, interface, _), (other, _)) in SERVERS.iter().zip([LEASES[1], LEASES[0]]) {
        let log = std::fs::read_to_string(dir.join(format!("{interface}.log"))).expect("log");
        assert!(log.contains("DHCPACK"), "{interface}: {log}");
        assert!(!log.contains(&format!(") {other}")), "{interface}: {log}");
    }
    // A renewal goes by unicast, with the tag.
    let acks = || logs().matches("DHCPACK").count();
    let before = acks();
    ask_text(dir, &["dhcp", "renew", "alpha", "data0.5"]);
    until(5, || if acks() > before { Ok(()) } else { Err(logs()) });
}

fn ask_text(dir: &Path, args: &[&str]) {
    let mut command = Command::new(weft());
    command.arg("--control").arg(dir.join("weft.sock")).args(args).stdin(Stdio::null());
    let output = command.output().expect("weft");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

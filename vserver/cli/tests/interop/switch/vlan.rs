//! Access, trunk and hybrid ports of the switch, and tags that nobody here has.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_cli::lab::topology::Machine;

use super::ovs::{Ovs, cable};
use super::{ask, bond, frames, sending, until};
use crate::common::{Daemon, installed, xdp};
use crate::judge_with;

/// The client's VLANs: an access port in each. Its address there is `.2`.
const VLANS: [u8; 5] = [10, 20, 30, 40, 99];

fn host(network: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, network, n)
}

fn client(ovs: &Ovs) -> Machine {
    let client = Machine::new("client").expect("client");
    for vlan in VLANS {
        let (wan, port) = (format!("wan{vlan}"), format!("c{vlan}"));
        cable((&client, &wan), (&ovs.machine, &port));
        ovs.vsctl(&format!("add-port br0 {port} tag={vlan}"));
        // who is in VLAN 99 believes to be in VLAN 20's network
        let network = if vlan == 99 { 20 } else { vlan };
        let n = if vlan == 99 { 99 } else { 2 };
        let address = IpAddr::V4(host(network, n));
        client.netlink(|netlink| netlink.add_address(&wan, address, 24)).expect("address");
    }
    client
}

fn configuration(dir: &Path) -> String {
    let mut config = format!("[host]\ncontrol = \"{}\"\n", dir.join("weft.sock").display());
    for i in 0..4 {
        let capture = dir.join(format!("captures/eth{i}.pcapng"));
        let _ = writeln!(
            config,
            "[nic.eth{i}]\ndevice = \"nic{i}\"\ndriver = \"af-xdp\"\ncapture = \"{}\"",
            capture.display()
        );
    }
    config
        + r#"
[bond.bond0]
ports = ["eth2", "eth3"]
[vlan."eth1.20"]
priority = 5
[alias.data0]
over = "eth0"
[alias.data1]
over = "eth1.20"
[alias.data2]
over = "eth1.30"
[alias.data3]
over = "eth1.40"
[alias.data4]
over = "bond0"
[alias.data5]
over = "bond0.30"
[vserver.alpha]
addresses = ["data0 10.78.10.11/24", "data1 10.78.20.11/24", "data2 10.78.30.11/24", "data3 10.78.40.11/24"]
service = [{ kind = "echo", port = 7 }]
[vserver.beta]
addresses = ["data4 10.78.10.12/24", "data5 10.78.30.12/24"]
service = [{ kind = "echo", port = 7 }]
"#
}

/// Whether an echo comes back from an address.
fn echoes(client: &Machine, network: u8, n: u8) -> bool {
    let to = SocketAddr::new(host(network, n).into(), 7);
    let talk = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(1500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"which VLAN?")?;
        stream.read_exact(&mut [0; 11])
    };
    client.netns.enter(talk).expect("enter").is_ok()
}

/// The sum of all counters of that name, of one link or in the whole document.
fn counter(document: &Value, name: &str) -> u64 {
    match document {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value.as_u64() {
                Some(n) if key == name => n,
                _ => counter(value, name),
            })
            .sum(),
        Value::Array(all) => all.iter().map(|v| counter(v, name)).sum(),
        _ => 0,
    }
}

fn link(stat: &Value, name: &str) -> Value {
    let links = stat["links"].as_array().expect("links").iter();
    links.filter(|l| l["name"] == name).map(|l| l["counters"].clone()).next().expect(name)
}

#[test]
fn access_trunk_and_hybrid_ports_carry_their_vlans_and_no_others() {
    if !xdp() || !Ovs::installed() || !installed("tshark") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    std::fs::create_dir(dir.join("captures")).expect("directory");
    let (ovs, weft) = (Ovs::start(), Machine::new("weft").expect("weft"));
    let client = client(&ovs);
    for i in 0..4 {
        cable((&weft, &format!("nic{i}")), (&ovs.machine, &format!("port{i}")));
    }
    ovs.vsctl("add-port br0 port0 tag=10 -- add-port br0 port1 trunks=20,30");
    ovs.vsctl(
        "add-bond br0 bond0 port2 port3 lacp=active bond_mode=balance-tcp \
         vlan_mode=native-untagged tag=10 trunks=10,30",
    );
    let daemon = Daemon::control(&weft, dir, &configuration(dir));
    until(15, || {
        let bond = bond(dir, "bond0");
        if sending(&bond).len() == 2 { Ok(()) } else { Err(bond.to_string()) }
    });
    for (network, n, what) in [
        (10, 11, "untagged, access port"),
        (20, 11, "tag 20 on the trunk"),
        (30, 11, "tag 30 on the trunk"),
        (10, 12, "native VLAN of a bond"),
        (30, 12, "tag 30 of a bond"),
    ] {
        until(10, || if echoes(&client, network, n) { Ok(()) } else { Err(what.to_owned()) });
    }
    assert!(!echoes(&client, 40, 11), "a VLAN that the trunk does not carry");
    let stat = ask(dir, &["stat", "-j"]);
    for name in ["eth1.20", "eth1.30", "bond0.30"] {
        let counters = link(&stat, name);
        assert!(counter(&counters, "VlanInFrames") > 3, "{name}: {counters}");
        assert!(counter(&counters, "VlanOutFrames") > 3, "{name}: {counters}");
    }
    assert_eq!(counter(&link(&stat, "eth1.40"), "VlanInFrames"), 0);

    // The trunk brings a VLAN that is nobody's here, with questions for an address of another.
    assert_eq!(counter(&stat, "VlanUnknown"), 0, "{stat}");
    ovs.vsctl("set port port1 trunks=20,30,99");
    let mut ping = client.netns.command("ping");
    ping.args(["-q", "-c", "2", "-W", "1", "-I", "wan99", "10.78.20.11"]);
    let answered = ping.output().expect("ping").status.success();
    assert!(!answered, "another VLAN's frames reach nobody");
    let unknown = counter(&ask(dir, &["stat", "-j"]), "VlanUnknown");
    assert!(unknown > 0, "they are counted");
    ovs.vsctl("set port port1 trunks=20,30");

    // An access port in the wrong VLAN, and back.
    ovs.vsctl("set port port0 tag=30");
    assert!(!echoes(&client, 10, 11), "the access port is in another VLAN");
    ovs.vsctl("set port port0 tag=10");
    until(10, || if echoes(&client, 10, 11) { Ok(()) } else { Err("never back".to_owned()) });
    drop(daemon);
    reads(dir, unknown);
}

/// What is in the captures.
fn reads(dir: &Path, unknown: u64) {
    let captures = dir.join("captures");
    let read = judge_with(&captures, &[], "!(ip.src == 10.78.0.0/16 && tcp.srcport == 7)");
    let count =
        |nic: usize, filter: &str| frames(&captures.join(format!("eth{nic}.pcapng")), filter).len();
    assert_eq!(count(0, "vlan"), 0, "nothing is tagged at an access port");
    assert_eq!(count(1, "tcp && !vlan"), 0, "all is tagged at a trunk");
    assert_eq!(count(1, "tcp.srcport == 7 && vlan.id == 20 && vlan.priority != 5"), 0);
    let marked = count(1, "tcp.srcport == 7 && vlan.id == 20 && vlan.priority == 5");
    let plain = count(1, "tcp.srcport == 7 && vlan.id == 30 && vlan.priority == 0");
    assert!(marked > 0 && plain > 0, "{marked}, {plain}");
    println!(
        "NUMBER vlan: {read} frames at access, trunk and hybrid ports read by tshark; {marked} with \
         priority 5 of eth1.20; {unknown} of an unknown VLAN counted"
    );
}

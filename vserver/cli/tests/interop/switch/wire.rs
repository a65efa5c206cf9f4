//! tshark as the judge of slow protocols, LLDP and probes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use weft_cli::lab::topology::{CLIENT, Machine, WAN, v4, v6};

use super::ovs::{Ovs, cable};
use super::{ask, bond, frames, sending, until};
use crate::common::{ALPHA, Daemon, installed, xdp};
use crate::judge;

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
    let _ = write!(
        config,
        r#"
[bond.bond0]
ports = ["eth0", "eth1"]
lacp = {{ rate = "fast" }}
[fail.fail0]
members = ["eth2", "eth3"]
probe = "transitive"
detect_ms = 1000
targets = ["{}", "{}"]
[alias.data0]
over = "bond0"
[alias.data1]
over = "fail0"
[vserver.alpha]
addresses = ["data0 {}/16"]
[vserver.beta]
addresses = ["data1 {}/16", "data1 {}/64"]
"#,
        v4(CLIENT),
        v6(CLIENT),
        v4(ALPHA),
        v4(12),
        v6(12)
    );
    config
}

/// A Marker PDU that asks (802.1AX 6.5.3.3), from a port 9 of a system, to be sent by the switch.
fn marker() -> String {
    let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x88, 0x09, 2, 1];
    frame.extend([1, 16, 0, 9, 2, 0, 0, 0, 0, 9, 0, 0, 0x12, 0x34, 0, 0]);
    frame.resize(124, 0);
    frame.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn tshark_reads_slow_protocols_lldp_and_probes_without_complaint() {
    if !xdp() || !Ovs::installed() || !installed("tshark") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let captures = dir.join("captures");
    fs::create_dir(&captures).expect("directory");
    let (ovs, weft) = (Ovs::start(), Machine::new("weft").expect("weft"));
    let client = Machine::new("client").expect("client");
    cable((&client, WAN), (&ovs.machine, "client"));
    client.number(WAN, CLIENT).expect("address");
    ovs.vsctl("add-port br0 client");
    for i in 0..4 {
        cable((&weft, &format!("nic{i}")), (&ovs.machine, &format!("port{i}")));
    }
    ovs.vsctl("add-bond br0 bond0 port0 port1 lacp=active bond_mode=balance-tcp");
    ovs.vsctl("set interface port0 lldp:enable=true -- set interface port1 lldp:enable=true");
    ovs.vsctl("add-port br0 port2 -- add-port br0 port3");
    let daemon = Daemon::control(&weft, dir, &configuration(dir));
    until(15, || {
        let bond = bond(dir, "bond0");
        if sending(&bond).len() == 2 { Ok(()) } else { Err(bond.to_string()) }
    });
    until(15, || {
        let paths = ask(dir, &["paths", "-i", "-j"]);
        let all = paths["paths"]["interfaces"].as_array().expect("interfaces");
        let probed = all.iter().all(|i| i["probe"] == "ok" && i["state"] == "ok");
        if probed { Ok(()) } else { Err(format!("{paths:#}")) }
    });
    let rule = format!("in_port=CONTROLLER packet={} actions=output:port0", marker());
    ovs.ofctl("packet-out", &rule);
    until(5, || {
        let bond = bond(dir, "bond0");
        let counters = &bond["ports"][0]["counters"];
        let answered = counters["markers_in"] == 1 && counters["marker_responses_out"] == 1;
        if answered { Ok(()) } else { Err(counters.to_string()) }
    });
    drop(daemon);
    let read = judge(&captures);
    let capture = |nic: usize| captures.join(format!("eth{nic}.pcapng"));
    for (nic, what, filter) in [
        (0, "LACPDU of weft", "lacp.actor.sys_priority == 65535 && lacp.actor.key == 1"),
        (
            1,
            "LACPDU in sync",
            "lacp.actor.state.synchronization == 1 && lacp.partner.state.synchronization == 1",
        ),
        (0, "marker response", "marker.tlvType == 2 && marker.requesterTransId == 0x1234"),
        (0, "LLDPDU of weft", "lldp && lldp.ieee.802_1.subtype == 7"),
        (0, "LLDPDU of the switch", "lldp && !(lldp.ieee.802_1.subtype == 7)"),
        (2, "ARP", "arp.opcode == 1"),
        (2, "neighbour solicitation", "icmpv6.type == 135"),
        (3, "transitive probe", "eth.type == 0x88b5"),
    ] {
        let found = frames(&capture(nic), filter);
        assert!(!found.is_empty(), "{what} on eth{nic}");
        println!("NUMBER wire: {} frames: {what}", found.len());
    }
    for nic in 0..4 {
        // severity error of tshark's own judgement
        let wrong = frames(&capture(nic), "_ws.expert.severity == 8388608");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    println!("NUMBER wire: {read} frames read by tshark, none malformed, no bad checksum");
}

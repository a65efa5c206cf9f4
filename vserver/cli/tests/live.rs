//! `weft apply` on a running daemon over AF_XDP, while a transfer and 1 ms pings run.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use weft_cli::lab::topology::{Cabling, Topology, v4};

mod common;

use common::{ALPHA, Daemon, alpha, installed, weft, xdp};

/// Rounds of three changes.
const ROUNDS: usize = 20;

fn apply(dir: &Path, file: &str) -> String {
    let output = Command::new(weft())
        .arg("--control")
        .arg(dir.join("weft.sock"))
        .arg("apply")
        .arg(dir.join(file))
        .output()
        .expect("weft apply");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn changes_break_no_transfer_and_lose_no_ping() {
    if !xdp() || !installed("curl") || !installed("ping") {
        return;
    }
    let lab = Topology::cabled(Cabling::default()).expect("topology");
    let client = &lab.client.netns;
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    let blob: Vec<u8> =
        (0..24_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::create_dir(dir.join("www")).expect("directory");
    fs::write(dir.join("www/blob"), &blob).expect("write");
    let root = dir.join("www").display().to_string();
    let service = format!("service = [{{ kind = \"http\", port = 80, root = \"{root}\" }}]\n");
    let base = alpha("af-xdp", dir, &service);
    for n in 1..=2u16 {
        let net = v4(ALPHA).octets();
        let gateway = format!("{}.{}.{}.{}", net[0], net[1], net[2], 240 + n);
        let text = format!(
            "{base}routes = [{{ to = \"default\", via = \"{gateway}\" }}]\nlimits.tcp_connections = {n}000\n\
             [vserver.more]\naddresses = [\"data0 {}/16\"]\n[[vserver.more.service]]\nkind = \"echo\"\nport = 7\n\
             [vserver.more.qos]\nsend = {{ limit = \"{n}00 Mbit/s\" }}\n",
            v4(200 + n)
        );
        fs::write(dir.join(format!("{n}.toml")), text).expect("write");
    }
    let _daemon = Daemon::start(&lab.weft, client, dir, &base, 80);

    let to = v4(ALPHA).to_string();
    let mut ping = client.command("ping");
    let ping = ping
        .args(["-q", "-i", "0.001", "-c", "3000", &to])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ping");
    let mut curl = client.command("curl");
    let url = format!("http://{to}/blob");
    let got = dir.join("got");
    let mut curl =
        curl.args(["-sf", "--limit-rate", "8M", "-o"]).arg(&got).arg(&url).spawn().expect("curl");
    for round in 0..ROUNDS {
        assert!(apply(dir, "1.toml").contains("+ the vserver"), "round {round}");
        apply(dir, "2.toml");
        assert!(apply(dir, "weft.toml").contains("removed more"), "round {round}");
    }
    assert!(curl.wait().expect("curl").success());
    assert!(fs::read(&got).expect("read") == blob, "the file came whole");
    let ping = ping.wait_with_output().expect("ping");
    let text = String::from_utf8_lossy(&ping.stdout);
    assert!(text.contains("3000 received, 0% packet loss"), "{text}");
}

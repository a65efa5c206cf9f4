//! The lab: its machines, its scenarios over every driver, and that it leaves nothing behind.
#![allow(missing_docs)]

use std::net::{IpAddr, SocketAddr};

use weft_cli::lab::client;
use weft_cli::lab::topology::{
    BANNER_PORT, Cabling, FAR, GATEWAY_A, GATEWAY_B, KERNEL, Topology, WAN, nic, v4, v6,
};
use weft_drivers::netlink::Netlink;

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Daemon, alpha, installed, lab, leavings, namespaces, processes_with, tun, weft, xdp};
use rustix::process::Signal;

#[test]
fn the_machines_reach_each_other_before_weft_runs() {
    if !namespaces() {
        return;
    }
    let cabling = Cabling { queues: 2, threaded_napi: true, ..Cabling::default() };
    let lab = Topology::cabled(cabling).expect("topology");
    let client = &lab.client.netns;
    // a macvlan and its parent interface do not hear each other, the cable's other end hears both
    for (from, to) in [
        (client, IpAddr::V4(v4(KERNEL))),
        (client, IpAddr::V6(v6(KERNEL))),
        (&lab.weft.netns, IpAddr::V4(v4(GATEWAY_A))),
        (&lab.weft.netns, IpAddr::V6(v6(GATEWAY_B))),
    ] {
        let pings = client::ping(from, to, 2, 56).expect("ping");
        assert!(pings.ok(), "{to}: {}", pings.text());
    }
    let own = IpAddr::V4(v4(KERNEL));
    lab.weft.serve_banner(own).expect("serve");
    let text = client::banner(client, SocketAddr::new(own, BANNER_PORT)).expect("banner");
    assert_eq!(text, "weft");
    let far = SocketAddr::new(IpAddr::V4(FAR), BANNER_PORT);
    for gateway in &lab.gateways {
        assert_eq!(client::banner(&gateway.netns, far).expect("banner"), gateway.name);
    }
    let facts = lab.weft.netlink(|n| n.link(nic(0))).expect("nic0");
    assert_eq!((facts.rx_queues, facts.tx_queues), (2, 2));
    assert!(lab.client.link_stats(WAN).expect("stats").tx_packets > 0);
    assert_eq!(lab.congestion_control("reno").expect("set"), "reno");
}

#[test]
fn a_failover_in_the_lab_loses_no_byte_and_its_end_no_ping() {
    if !xdp() || !installed("ip") {
        return;
    }
    let report = lab(&["--failover", "--times", "1", "--kind", "link down, IPv6"]);
    for wanted in ["every byte of every stream came", "the return of the path loses no ping"] {
        let name = format!("link down, IPv6: {wanted}");
        let mut checks = report["checks"].as_array().expect("checks").iter();
        let check = checks.find(|c| c["name"] == name.as_str()).expect(wanted);
        assert_eq!(check["ok"], true, "{check}");
    }
    let names: Vec<&str> = report["numbers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n["name"].as_str())
        .collect();
    for wanted in ["link down, IPv6: ping", "link down, IPv6: stream"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
}

/// The checks every driver with a kernel client must have made.
fn assert_traffic(report: &serde_json::Value) {
    let names: Vec<&str> = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    for wanted in [
        "download from alpha, equal checksum",
        "upload to beta, equal checksum",
        "counters agree, client to NIC",
        "counters agree, NIC to client",
        "every frame of gamma has one fate",
    ] {
        assert!(names.contains(&wanted), "{wanted} is missing in {names:?}");
    }
}

#[test]
fn traffic_over_af_xdp_on_a_shared_nic() {
    if xdp() {
        let report = lab(&["--driver", "af-xdp", "--size", "8"]);
        assert_traffic(&report);
        assert_eq!(report["driver"], "af-xdp");
        assert_eq!(report["vservers"].as_array().map(Vec::len), Some(4));
    }
}

#[test]
fn traffic_over_af_xdp_in_frames_of_several_buffers_and_over_several_queues() {
    if xdp() {
        assert_traffic(&lab(&["--mtu", "3000", "--queues", "2", "--size", "8"]));
    }
}

#[test]
fn traffic_over_af_packet() {
    if namespaces() {
        assert_traffic(&lab(&["--driver", "packet", "--size", "8"]));
    }
}

#[test]
fn traffic_over_tap() {
    if tun() {
        assert_traffic(&lab(&["--driver", "tap", "--size", "8"]));
    }
}

#[test]
fn traffic_over_tun() {
    if tun() {
        assert_traffic(&lab(&["--driver", "tun", "--size", "8"]));
    }
}

#[test]
fn connections_go_on_while_providers_fail_in_every_way() {
    if !xdp() {
        return;
    }
    let report = lab(&["--providers"]);
    let checks = report["checks"].as_array().expect("checks");
    let names: Vec<&str> = checks.iter().filter_map(|c| c["name"].as_str()).collect();
    for wanted in [
        "the provider goes dark, both go on",
        "only what comes from the left is lost, both go on",
        "only what comes from the right is lost, both go on",
        "the left address is withdrawn, both go on",
        "the left link goes down, both go on",
        "the right link goes down, both go on",
        "one stream and one conversation through all of it",
    ] {
        assert!(names.contains(&wanted), "{wanted} is missing in {names:?}");
    }
}

#[test]
fn traffic_over_memory() {
    lab(&["--driver", "mem", "--size", "8"]);
}

#[test]
fn an_ordinary_user_runs_the_lab() {
    // the program must lie where everybody may read it
    let dir = tempfile::tempdir().expect("directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    let program = dir.path().join("weft");
    // A copy may still be open for writing in a child that another test has just begun, and cannot
    // be run then.
    let linked = std::fs::hard_link(weft(), &program);
    linked.or_else(|_| std::fs::copy(weft(), &program).map(drop)).expect("copy the program");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
    command.arg(&program).args(["lab", "--size", "8", "--json"]).current_dir("/");
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(e) => return println!("SKIP: setpriv: {e}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("setresuid failed") {
        return println!("SKIP: not root, so no other user can be taken");
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(output.status.success(), "{errors}\n{report:#}");
    match report["driver"].as_str() {
        Some("packet") => assert_traffic(&report),
        Some("mem") => println!("SKIP: user namespaces are refused here; the memory driver ran"),
        other => panic!("driver {other:?}"),
    }
}

#[test]
fn where_namespaces_are_refused_the_lab_runs_in_memory_and_says_so() {
    if !installed("unshare") {
        return;
    }
    // a user namespace in which no further namespace may be made
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg(
            "echo 0 >/proc/sys/user/max_user_namespaces && \
             echo 0 >/proc/sys/user/max_net_namespaces || exit 77; exec \"$0\" lab --size 4",
        )
        .arg(weft())
        .stdin(Stdio::null())
        .output()
        .expect("unshare");
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || errors.starts_with("unshare:") {
        return println!("SKIP: no user namespace to try it in");
    }
    assert!(output.status.success(), "{errors}");
    let told = errors.lines().filter(|l| l.contains("memory driver")).count();
    assert_eq!(told, 1, "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.lines().any(|l| l.starts_with("mem: ") && l.ends_with(" 0 failed")), "{text}");
}

#[test]
fn a_stopped_or_killed_daemon_leaves_the_nic_to_the_kernel_and_starts_again_at_once() {
    if !xdp() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let (weft, client) = (&topology.weft, &topology.client.netns);
    weft.serve_banner(IpAddr::V4(v4(KERNEL))).expect("serve");
    let chargen = "[[vserver.alpha.service]]\nkind = \"chargen\"\nport = 19\n";
    let config = alpha("af-xdp", dir.path(), chargen);
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        let mut daemon = Daemon::start(weft, client, dir.path(), &config, 19);
        let source = SocketAddr::new(v4(common::ALPHA).into(), 19);
        let connect = || std::net::TcpStream::connect(source);
        let stream = client.enter(connect).expect("enter").expect("connect");
        let status = std::thread::scope(|scope| {
            // the traffic that the signal falls into
            let sink = scope.spawn(|| std::io::copy(&mut &stream, &mut std::io::sink()));
            let begin = Instant::now();
            let moving = || topology.client.link_stats(WAN).expect("stats").rx_packets > 1000;
            while !moving() {
                assert!(begin.elapsed() < Duration::from_secs(20), "no traffic to interrupt");
                std::thread::sleep(Duration::from_millis(5));
            }
            let status = daemon.kill(signal);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            let _ = sink.join();
            status
        });
        if signal == Signal::TERM {
            assert!(status.success(), "SIGTERM is an orderly end, not {status}");
        }
        for to in [IpAddr::V4(v4(KERNEL)), IpAddr::V6(v6(KERNEL))] {
            let pings = client::ping(client, to, 2, 56).expect("ping");
            assert!(pings.ok(), "after {signal:?} the kernel at {to}: {}", pings.text());
        }
        let own = SocketAddr::new(v4(KERNEL).into(), BANNER_PORT);
        assert_eq!(client::banner(client, own).expect("banner"), "weft");
    }
}

#[test]
fn a_lab_that_is_stopped_or_killed_leaves_nothing_behind() {
    if !xdp() {
        return;
    }
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let dir = tempfile::tempdir().expect("directory");
        let before = leavings();
        let mut child = Command::new(weft())
            .args(["lab", "--size", "2000"])
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("weft lab");
        // its curl downloads into that directory: then it is in the middle of its work
        let place = dir.path().display().to_string();
        let begin = Instant::now();
        let busy = || processes_with(&place).iter().any(|l| l.starts_with("curl"));
        while !busy() {
            let ended = child.try_wait().expect("wait");
            assert_eq!(ended, None, "weft lab ended before its transfers");
            assert!(begin.elapsed() < Duration::from_mins(3), "weft lab does not get on");
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = rustix::process::Pid::from_child(&child);
        // As `timeout` and terminals do it: to the process, and to its group with it.
        for _ in 0..2 {
            rustix::process::kill_process(pid, signal).expect("kill");
        }
        let status = child.wait().expect("wait");
        assert!(!status.success());
        let begin = Instant::now();
        while !processes_with(&place).is_empty() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(processes_with(&place), Vec::<String>::new(), "after {signal:?}");
        assert_eq!(leavings(), before, "after {signal:?}");
        if signal != Signal::KILL {
            assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0, "files are left");
        }
    }
}

#[test]
fn a_signal_ends_the_scenes_of_the_providers_at_once_whatever_is_broken() {
    if !xdp() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let mut child = Command::new(weft())
        .args(["lab", "--providers"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weft lab");
    let told = child.stderr.take().expect("piped");
    let mut lines = BufReader::new(told).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("the provider goes dark")), "it did not get so far");
    let begin = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).expect("kill");
    // Read on, so that it is not held up; it ends with the process.
    let rest: Vec<String> = lines.collect();
    let status = child.wait().expect("wait");
    assert!(!status.success() && rest.iter().any(|line| line.contains("interrupted")), "{rest:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited for data: {rest:?}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0, "files are left");
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    if !namespaces() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let weft_machine = &topology.weft;
    let good = alpha("af-xdp", dir.path(), "");
    let wrong = [
        good.replace("over =", "ovre ="),
        good.replace("/16\"", "/33\""),
        good.replace("over = \"eth0\"", "over = \"eth9\""),
        good.replace("data0 fd77::b/64", "data0 10.77.0.11/16"),
    ];
    let before = weft_machine.netlink(Netlink::links).expect("links");
    for text in wrong {
        assert_ne!(text, good);
        let path = dir.path().join("weft.toml");
        std::fs::write(&path, &text).expect("write");
        let output =
            weft_machine.netns.command(weft()).arg("run").arg(&path).output().expect("weft run");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        let line = errors.lines().next().unwrap_or_default();
        let place: Vec<&str> = line.split(':').collect();
        let placed = place.len() > 3 && place[1].parse::<u32>().is_ok();
        assert!(placed && line.contains("weft.toml"), "no file, line and column: {errors}");
        assert!(!dir.path().join("weft.sock").exists());
    }
    // an interface that does not exist is found only when it is opened
    let path = dir.path().join("weft.toml");
    std::fs::write(&path, good.replace(nic(0), "nic7")).expect("write");
    let output =
        weft_machine.netns.command(weft()).arg("run").arg(&path).output().expect("weft run");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nic7"));
    assert!(!dir.path().join("weft.sock").exists());
    let after = weft_machine.netlink(Netlink::links).expect("links");
    let facts = |links: &[weft_drivers::netlink::LinkFacts]| -> Vec<_> {
        links.iter().map(|l| (l.name.clone(), l.mac, l.mtu, l.up)).collect()
    };
    assert_eq!(facts(&before), facts(&after));
}

#[test]
fn a_hundred_vservers_on_one_nic_each_answer() {
    if xdp() {
        lab(&["--vservers", "100"]);
    }
}

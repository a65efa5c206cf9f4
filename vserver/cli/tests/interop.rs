//! weft and programs that others wrote. `make interop` runs it; it takes minutes.
#![allow(missing_docs)]

#[path = "interop/access.rs"]
mod access;
#[path = "interop/capture.rs"]
mod capture;
mod common;
#[path = "interop/dhcp.rs"]
mod dhcp;
#[path = "interop/dns.rs"]
mod dns;
#[path = "interop/mdns.rs"]
mod mdns;
#[path = "interop/names.rs"]
mod names;
#[path = "interop/qos.rs"]
mod qos;
#[path = "interop/relay.rs"]
mod relay;
#[path = "interop/switch/mod.rs"]
mod switch;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{ALPHA, Daemon, alpha, installed, lab, tun, xdp};
use weft_cli::lab::topology::{Cabling, Topology, v4};

#[test]
fn the_demo_with_a_quarter_of_a_gibibyte_each_way() {
    if !xdp() || !installed("curl") {
        return;
    }
    let report = lab(&["--driver", "af-xdp", "--size", "256"]);
    for transfer in report["transfers"].as_array().expect("transfers") {
        let (bytes, seconds) = (&transfer["bytes"], &transfer["seconds"]);
        let rate = bytes.as_f64().expect("bytes") * 8e-6 / seconds.as_f64().expect("seconds");
        println!("NUMBER {}: {rate:.0} Mbit/s over AF_XDP on veth", transfer["name"]);
    }
}

/// Reads captures with checksum checking on; returns how many frames there are.
fn judge(dir: &Path) -> usize {
    judge_with(dir, &[], "ip.src == 10.77.0.2 || ipv6.src == fd77::2")
}

/// As [`judge`], with more options for tshark; `completed` are the frames whose checksum the kernel
/// has completed (by default those of the lab's client).
///
/// A TCP checksum of 0xffff verifies as 0x0000 does. Linux writes it where it completes one in
/// software (`CSUM_MANGLED_0`); of weft it would be a fault.
fn judge_with(dir: &Path, options: &[&str], completed: &str) -> usize {
    let mut frames = 0;
    for entry in fs::read_dir(dir).expect("captures") {
        let path = entry.expect("entry").path();
        let tshark = |filter: &str| {
            let output = Command::new("tshark")
                .args(["-n", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"])
                .args(["-o", "udp.check_checksum:TRUE"])
                .args(options)
                .args(["-Y", filter, "-r"])
                .arg(&path)
                .stdin(Stdio::null())
                .output()
                .expect("tshark");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "tshark on {}: {errors}", path.display());
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let bad = tshark(&format!(
            "_ws.malformed || ip.checksum.status == \"Bad\" \
             || (tcp.checksum.status == \"Bad\" && !(tcp.checksum.ffff && ({completed}))) \
             || udp.checksum.status == \"Bad\" || icmp.checksum.status == \"Bad\" \
             || icmpv6.checksum.status == \"Bad\" || igmp.checksum.status == \"Bad\""
        ));
        let first: Vec<&str> = bad.lines().take(10).collect();
        assert!(first.is_empty(), "{}:\n{}", path.display(), first.join("\n"));
        frames += tshark("frame").lines().count();
    }
    frames
}

#[test]
fn tshark_finds_no_fault_in_the_frames_of_any_driver() {
    if !xdp() || !tun() || !installed("tshark") {
        return;
    }
    for driver in ["af-xdp", "packet", "tap", "tun", "mem"] {
        let dir = tempfile::tempdir().expect("directory");
        let place = dir.path().to_str().expect("UTF-8");
        lab(&["--driver", driver, "--size", "8", "--keep-captures", place]);
        let frames = judge(dir.path());
        // 8 MiB each way: at least 256 super-segments of 64 KiB
        assert!(frames > 256, "{driver}: {frames} frames captured");
        println!(
            "NUMBER {driver}: {frames} frames read by tshark, none malformed, no bad checksum"
        );
    }
}

#[test]
fn a_thousand_vservers_on_one_nic() {
    if !xdp() {
        return;
    }
    let report = lab(&["--driver", "af-xdp", "--vservers", "1000"]);
    for number in report["numbers"].as_array().expect("numbers") {
        let text = |key: &str| number[key].as_str().unwrap_or_default().to_owned();
        println!("NUMBER {}: {} ({})", text("name"), text("value"), text("method"));
    }
}

#[test]
fn redis_behind_a_proxy_serves_a_benchmark() {
    if !xdp() || !installed("redis-server") || !installed("redis-benchmark") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let mut redis = topology
        .weft
        .netns
        .command("redis-server")
        .args(["--bind", "127.0.0.1", "--port", "6379", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server");
    let proxy =
        "[[vserver.alpha.service]]\nkind = \"proxy\"\nport = 6379\nto = \"127.0.0.1:6379\"\n";
    let config = alpha("af-xdp", dir.path(), proxy);
    let client = &topology.client.netns;
    let daemon = Daemon::start(&topology.weft, client, dir.path(), &config, 6379);
    let output = client
        .command("redis-benchmark")
        .args(["-h", &v4(ALPHA).to_string(), "-p", "6379", "-n", "20000", "-c", "50", "-P", "4"])
        .args(["-d", "512", "-t", "ping,set,get,lpush,lrange_100,mset", "-q"])
        .stdin(Stdio::null())
        .output()
        .expect("redis-benchmark");
    drop(daemon);
    let _ = redis.kill();
    let _ = redis.wait();
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!text.contains("rror") && !errors.contains("rror"), "{text}\n{errors}");
    let results: Vec<&str> = text.lines().filter(|l| l.contains("requests per second")).collect();
    assert!(results.len() >= 6, "{text}");
    for line in results {
        println!("NUMBER redis {}", line.trim());
    }
}

/// Small files.
const FILES: usize = 10_000;

fn content(i: usize) -> String {
    format!("file {i} {}\n", "x".repeat(i % 1500))
}

#[test]
fn curl_fetches_ten_thousand_files_on_one_connection_and_on_as_many() {
    if !xdp() || !installed("curl") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let (root, got) = (dir.path().join("www"), dir.path().join("got"));
    fs::create_dir(&root).expect("root");
    fs::create_dir(&got).expect("got");
    let mut list = String::new();
    for i in 0..FILES {
        fs::write(root.join(i.to_string()), content(i)).expect("write");
        let to = got.join(i.to_string());
        let _ = writeln!(list, "url = \"http://{}/{i}\"", v4(ALPHA));
        let _ = writeln!(list, "output = \"{}\"", to.display());
    }
    let urls = dir.path().join("urls");
    fs::write(&urls, list).expect("write");
    let http = format!(
        "[[vserver.alpha.service]]\nkind = \"http\"\nport = 80\nroot = \"{}\"\n",
        root.display()
    );
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let client = &topology.client.netns;
    let config = alpha("af-xdp", dir.path(), &http);
    let _daemon = Daemon::start(&topology.weft, client, dir.path(), &config, 80);
    for (name, header) in [("keep-alive", "X-Weft: 1"), ("new connections", "Connection: close")] {
        let begin = std::time::Instant::now();
        let output = client
            .command("curl")
            .args(["--silent", "--show-error", "--noproxy", "*", "--header", header])
            .args(["--write-out", "%{response_code} %{num_connects}\n", "--config"])
            .arg(&urls)
            .stdin(Stdio::null())
            .output()
            .expect("curl");
        let seconds = begin.elapsed().as_secs_f64();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        assert_eq!(text.lines().filter(|l| l.starts_with("200 ")).count(), FILES, "{name}");
        let connects: usize =
            text.lines().filter_map(|l| l.split(' ').nth(1)?.parse::<usize>().ok()).sum();
        let wanted = if name == "keep-alive" { 1 } else { FILES };
        assert_eq!(connects, wanted, "{name}: connections made");
        for i in 0..FILES {
            let path = got.join(i.to_string());
            assert_eq!(fs::read_to_string(&path).expect("fetched"), content(i), "{name}");
            fs::remove_file(path).expect("remove");
        }
        println!("NUMBER curl, {FILES} files, {name}: {:.0} files/s", FILES as f64 / seconds);
    }
}

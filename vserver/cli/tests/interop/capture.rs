//! `weft capture`, read by tshark: two daemons on one cable, a kernel's client, a shim that rewrites.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use weft_cli::lab::topology::{CLIENT, Cabling, Topology, WAN, nic, v4};

use crate::common::{ALPHA, Daemon, installed, weft, xdp};

/// ULIDs and locators of the vserver `n`.
fn config(dir: &Path, driver: &str, device: &str, name: &str, n: u8) -> String {
    let (control, key) = (dir.join("weft.sock"), dir.join("peers.key"));
    fs::write(&key, "a secret of two hosts\n").expect("key");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&key, private).expect("key");
    let v4 = v4(if n == 1 { ALPHA } else { ALPHA + 1 });
    format!(
        "[host]\ncontrol = \"{}\"\n[nic.eth0]\ndevice = \"{device}\"\ndriver = \"{driver}\"\n\
         [alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth0\"\n[vserver.{name}]\n\
         addresses = [\"data0 {v4}/16\", \"data0 2001:db8:a::{n}/64\", \"data1 2001:db8:b::{n}/64\"]\n\
         [vserver.{name}.shim]\nset_up = \"immediate\"\nreap = \"rfc\"\nkeys = [\"2001:db8::/32 {}\"]\n\
         [[vserver.{name}.service]]\nkind = \"echo\"\nport = 7\n",
        control.display(),
        key.display()
    )
}

fn ask(dir: &Path, words: &str) -> Output {
    let mut command = Command::new(weft());
    command.arg("--control").arg(dir.join("weft.sock")).args(words.split(' '));
    command.stdin(Stdio::null()).output().expect("weft")
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "no {what}");
    }
}

/// `weft capture` of `alpha`, from when it says that it captures.
fn capture(dir: &Path, words: &str) -> Child {
    let mut command = Command::new(weft());
    command.arg("--control").arg(dir.join("weft.sock")).args(["capture", "alpha"]);
    command.args(words.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("weft capture");
    let mut line = String::new();
    let stderr = child.stderr.as_mut().expect("its messages");
    let mut begun = BufReader::with_capacity(1, stderr);
    begun.read_line(&mut line).expect("a line");
    assert_eq!(line, "capturing packets of vserver alpha\n");
    child
}

/// Ends it as Ctrl-C does; what it says last.
fn end(mut child: Child) -> String {
    kill_process(Pid::from_child(&child), Signal::INT).expect("kill");
    let mut said = String::new();
    child.stderr.take().expect("its messages").read_to_string(&mut said).expect("text");
    assert!(child.wait().expect("wait").success(), "{said}");
    said
}

fn tshark(file: &Path, filter: &str) -> Vec<String> {
    let options = ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"];
    let options = options.iter().flat_map(|name| [String::from("-o"), format!("{name}:TRUE")]);
    let output = Command::new("tshark")
        .arg("-n")
        .args(options)
        .args(["-Y", filter, "-r"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .expect("tshark");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// A megabyte to the echo service and back.
fn transfer() {
    let to = SocketAddr::new(v4(ALPHA).into(), 7);
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(20)).expect("connect");
    let mut back = stream.try_clone().expect("clone");
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&sent).expect("write"));
        let mut got = vec![0; sent.len()];
        back.read_exact(&mut got).expect("read");
        assert!(got == sent);
    });
}

#[test]
fn tshark_reads_what_weft_captures_above_and_below_the_shim() {
    if !xdp() || !installed("tshark") {
        return;
    }
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let (here, there) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let (here, there) = (here.path(), there.path());
    let text = config(here, "af-xdp", nic(0), "alpha", 1);
    let _daemon = Daemon::control(&topology.weft, here, &text);
    let text = config(there, "packet", WAN, "c", 2);
    let _peer = Daemon::control(&topology.client, there, &text);
    until("context", || {
        ask(there, "shim probe c 2001:db8:a::1");
        let contexts = ask(there, "shim contexts c -o state").stdout;
        String::from_utf8_lossy(&contexts).contains("established")
    });
    let file = here.join("both.pcapng");
    let child = capture(here, &format!("-w {}", file.display()));
    // The client's way is by the other network from now on.
    until("switch", || {
        ask(there, "shim switch c 2001:db8:a::1 2001:db8:b::2 2001:db8:b::1").status.success()
    });
    assert!(ask(there, "ping c 2001:db8:a::1 -c 10 -i 0.02").status.success());
    topology.client.netns.enter(transfer).expect("namespace");
    let said = end(child);
    let count = said.strip_suffix(" packets captured, 0 lost\n").expect(&said);
    let count: usize = count.parse().expect("a number");
    assert_eq!(tshark(&file, "frame").len(), count);

    // Version 4.0 looks for the fields of the shim's messages one octet too early. Of a rewritten
    // packet the checksum covers ULIDs, which are in its twin only.
    // Linux writes a TCP checksum of zero as all ones where it completes it in software.
    let kernel = v4(CLIENT);
    let bad = tshark(
        &file,
        &format!(
            "(_ws.malformed && !shim6.type) || ip.checksum.status == \"Bad\" \
             || (!(ipv6.nxt == 140) \
             && ((tcp.checksum.status == \"Bad\" && !(tcp.checksum.ffff && ip.src == {kernel})) \
             || udp.checksum.status == \"Bad\" || icmpv6.checksum.status == \"Bad\"))"
        ),
    );
    assert!(bad.is_empty(), "{bad:#?}");
    let request = "icmpv6.type == 128 && ipv6.src == 2001:db8:a::2 && ipv6.dst == 2001:db8:a::1";
    let above = tshark(&file, &format!("frame.interface_name == \"above\" && {request}"));
    assert!(above.len() >= 10, "{above:#?}");
    let rewritten = "ipv6.nxt == 140 && ipv6.src == 2001:db8:b::2";
    let below = tshark(&file, &format!("frame.interface_name == \"below\" && {rewritten}"));
    assert!(below.len() >= 10, "{below:#?}");
    let none = tshark(&file, "frame.interface_name == \"above\" && (ipv6.nxt == 140 || arp)");
    assert!(none.is_empty(), "{none:#?}");
    for side in ["above", "below"] {
        for way in ["== 1", "== 2"] {
            let filter = format!(
                "frame.interface_name == \"{side}\" && tcp.port == 7 && frame.packet_flags_direction {way}"
            );
            assert!(tshark(&file, &filter).len() > 10, "{filter}");
        }
    }
    lines(here, there);
    println!("NUMBER weft capture: {count} packets read by tshark, none malformed");
}

/// Without a file: a line for each packet on each side.
fn lines(here: &Path, there: &Path) {
    let both = capture(here, "icmp --duration 5");
    let above = capture(here, "icmp and host 2001:db8:a::2 -c 6");
    assert!(ask(there, "ping c 2001:db8:a::1 -c 5 -i 0.1").status.success());
    let text = |child: Child| {
        let output = child.wait_with_output().expect("weft");
        assert!(output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let ((above, said), (both, _)) = (text(above), text(both));
    println!("{both}");
    assert_eq!((above.lines().count(), &*said), (6, "6 packets captured, 0 lost\n"), "{above}");
    for told in [
        "above In  IP6 2001:db8:a::2 > 2001:db8:a::1: ICMP6 echo request, id ",
        "above Out IP6 2001:db8:a::1 > 2001:db8:a::2: ICMP6 echo reply, id ",
        "below In  IP6 2001:db8:b::2 > 2001:db8:b::1: shim, tag ",
    ] {
        assert!(both.contains(told), "{both}");
    }
}

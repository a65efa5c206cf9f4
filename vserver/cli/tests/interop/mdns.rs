//! weft and Avahi: services are seen on mgmt, and nothing on data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use weft_cli::lab::topology::{Cabling, Machine, Topology, nic, v4};
use weft_drivers::netns::Netns;

use crate::common::{ALPHA, Daemon, installed, xdp};

/// A process, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `avahi-daemon` with a bus of its own in a namespace.
struct Avahi {
    address: String,
    _all: Vec<Running>,
}

impl Avahi {
    fn start(netns: &Netns, dir: &Path) -> Avahi {
        fs::create_dir_all(dir).expect("directory");
        let socket = dir.join("bus");
        let address = format!("unix:path={}", socket.display());
        let bus = dir.join("bus.conf");
        fs::write(
            &bus,
            format!(
                "<busconfig><type>system</type><listen>{address}</listen>\
                 <policy context=\"default\"><allow own=\"*\"/><allow send_destination=\"*\"/>\
                 <allow eavesdrop=\"true\"/><allow user=\"*\"/></policy></busconfig>"
            ),
        )
        .expect("bus.conf");
        let conf = dir.join("avahi.conf");
        let text = "[server]\nuse-ipv4=yes\nuse-ipv6=no\nenable-dbus=yes\n[publish]\ndisable-publishing=yes\n";
        fs::write(&conf, text).expect("avahi.conf");
        let quiet = |mut c: std::process::Command| {
            c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            Running(c.spawn().expect("spawn"))
        };
        let mut daemon = netns.command("dbus-daemon");
        daemon.arg("--nofork").arg(format!("--config-file={}", bus.display()));
        let mut all = vec![quiet(daemon)];
        let begin = Instant::now();
        while !socket.exists() {
            assert!(begin.elapsed() < Duration::from_secs(10), "dbus-daemon");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut avahi = netns.command("avahi-daemon");
        avahi.args(["--no-drop-root", "--no-chroot", "--no-rlimits", "--no-proc-title", "-f"]);
        avahi.arg(&conf).env("DBUS_SYSTEM_BUS_ADDRESS", &address);
        all.push(quiet(avahi));
        Avahi { address, _all: all }
    }

    fn browse(&self, netns: &Netns, args: &[&str]) -> String {
        let mut command = netns.command("avahi-browse");
        command.args(args).env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        let output = command.stdin(Stdio::null()).output().expect("avahi-browse");
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn config(alias: &str, dir: &Path) -> (String, PathBuf) {
    let text = format!(
        "[host]\ncontrol = \"{}\"\n[nic.eth0]\ndevice = \"{}\"\n[alias.{alias}]\nover = \"eth0\"\n\
         [vserver.alpha]\naddresses = [\"{alias} {}/16\"]\n\
         [vserver.alpha.mdns]\nhost = \"weftbox\"\n\
         services = [{{ name = \"Files of the box\", type = \"_nfs._tcp\", port = 2049, txt = [\"path=/x\"] }}]\n\
         [[vserver.alpha.service]]\nkind = \"echo\"\nport = 7\n",
        dir.join("weft.sock").display(),
        nic(0),
        v4(ALPHA)
    );
    (text, dir.to_owned())
}

fn daemon(machine: &Machine, client: &Netns, alias: &str, dir: &Path) -> Daemon {
    let (text, dir) = config(alias, dir);
    Daemon::start(machine, client, &dir, &text, 7)
}

#[test]
fn avahi_browse_sees_the_services_on_mgmt_and_nothing_on_data() {
    if !xdp()
        || !installed("avahi-browse")
        || !installed("avahi-daemon")
        || !installed("dbus-daemon")
    {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let client = &topology.client.netns;
    let avahi = Avahi::start(client, &dir.path().join("avahi"));
    let resolve = ["--resolve", "--terminate", "--parsable", "_nfs._tcp"];
    let on_mgmt = daemon(&topology.weft, client, "mgmt0", dir.path());
    let begin = Instant::now();
    loop {
        let seen = avahi.browse(client, &resolve);
        let address = v4(ALPHA).to_string();
        let wanted = ["Files", "weftbox.local", &address, "2049", "path=/x"];
        if wanted.iter().all(|w| seen.contains(w)) {
            println!("NUMBER mdns: resolved by avahi in {:.1} s", begin.elapsed().as_secs_f64());
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{seen}");
    }
    drop(on_mgmt);
    drop(avahi);
    // A fresh cache: what was seen on mgmt may still be known to the old one.
    let avahi = Avahi::start(client, &dir.path().join("avahi2"));
    let _on_data = daemon(&topology.weft, client, "data0", dir.path());
    for _ in 0..3 {
        let seen = avahi.browse(client, &["--terminate", "--parsable", "--all"]);
        assert!(!seen.contains("_nfs._tcp") && !seen.contains("weftbox"), "{seen}");
        std::thread::sleep(Duration::from_millis(700));
    }
}

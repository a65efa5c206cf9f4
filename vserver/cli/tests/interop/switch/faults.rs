//! What happens to a bond's ports at the switch while a transfer and eight connections go on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_cli::lab::topology::{Machine, WAN, v4};
use weft_stack::rng::Rng;

use super::ovs::{Ovs, cable};
use super::{bond, bonded, sending, until};
use crate::common::{ALPHA, Daemon, xdp};

/// Connections that send a byte every 10 ms to a service that sends it back.
struct Pulse {
    stop: Arc<AtomicBool>,
    /// The longest silence of any since it was last asked for, in microseconds.
    gap: Arc<AtomicU64>,
    /// Answers of each.
    beats: Arc<[AtomicU64; 8]>,
    threads: Vec<JoinHandle<u64>>,
}

impl Pulse {
    fn start(client: &Machine) -> Pulse {
        let (stop, gap) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let to = SocketAddr::new(v4(ALPHA).into(), 7);
        let beats: Arc<[AtomicU64; 8]> = Arc::default();
        let threads = (0..8).map(|i| {
            let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(10));
            let stream = client.netns.enter(connect).expect("enter").expect("connect");
            let (stop, gap, beats) = (stop.clone(), gap.clone(), beats.clone());
            std::thread::spawn(move || beat(stream, &stop, &gap, &beats[i]))
        });
        Pulse { threads: threads.collect(), stop, gap, beats }
    }

    /// The longest silence of those since the last call, in milliseconds. Waits until each
    /// connection has had an answer.
    fn gap(&self) -> f64 {
        let counts = || self.beats.each_ref().map(|b| b.load(Ordering::Relaxed));
        let before = counts();
        until(30, || {
            let now = counts();
            let alive = now.iter().zip(&before).filter(|(now, before)| now > before).count();
            if alive == 8 { Ok(()) } else { Err(format!("{alive} of 8 connections go on")) }
        });
        self.gap.swap(0, Ordering::Relaxed) as f64 * 1e-3
    }

    /// Every connection got back each byte that it sent; how many.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|t| t.join().expect("a connection survived")).sum()
    }
}

fn beat(mut stream: TcpStream, stop: &AtomicBool, gap: &AtomicU64, beats: &AtomicU64) -> u64 {
    stream.set_nodelay(true).expect("no delay");
    // a connection that is silent for so long did not survive
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    let (mut sent, mut last) = (0u64, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let (byte, mut back) = ([sent as u8], [0]);
        stream.write_all(&byte).expect("write");
        stream.read_exact(&mut back).expect("read");
        assert_eq!(byte, back);
        gap.fetch_max(last.elapsed().as_micros() as u64, Ordering::Relaxed);
        last = Instant::now();
        beats.fetch_add(1, Ordering::Relaxed);
        sent += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    sent
}

/// Bytes that one connection sends at a time, every 10 ms.
const PIECE: usize = 16 << 10;

/// A connection that sends noise until it is told to stop, and gets the same noise back.
struct Transfer {
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<u64>; 2],
}

impl Transfer {
    fn start(client: &Machine) -> Transfer {
        let to = SocketAddr::new(v4(ALPHA).into(), 7);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(10));
        let mut stream = client.netns.enter(connect).expect("enter").expect("connect");
        let mut back = stream.try_clone().expect("clone");
        back.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let send = std::thread::spawn(move || {
            let (mut rng, mut piece, mut sent) = (Rng::from_u64(6), vec![0; PIECE], 0);
            while !told.load(Ordering::Relaxed) {
                fill(&mut rng, &mut piece);
                stream.write_all(&piece).expect("write");
                sent += PIECE as u64;
                std::thread::sleep(Duration::from_millis(10));
            }
            stream.shutdown(Shutdown::Write).expect("shutdown");
            sent
        });
        let receive = std::thread::spawn(move || {
            let (mut rng, mut piece, mut wanted) =
                (Rng::from_u64(6), vec![0; PIECE], vec![0; PIECE]);
            let mut got = 0;
            while back.read_exact(&mut piece).is_ok() {
                fill(&mut rng, &mut wanted);
                assert!(piece == wanted, "byte {got} and those after it came back as they went");
                got += PIECE as u64;
            }
            got
        });
        Transfer { stop, threads: [send, receive] }
    }

    /// How many bytes went and came back, all right.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let [sent, got] = self.threads.map(|t| t.join().expect("the transfer survived"));
        assert_eq!(sent, got);
        got
    }
}

fn fill(rng: &mut Rng, piece: &mut [u8]) {
    for word in piece.chunks_exact_mut(8) {
        word.copy_from_slice(&rng.next_u64().to_le_bytes());
    }
}

struct Lab {
    ovs: Ovs,
    client: Machine,
    weft: Machine,
    dir: tempfile::TempDir,
}

const LACP: &str = "lacp=active other_config:lacp-time=fast";
/// Without it a bond has the number of one of its ports, and another when that leaves.
const KEY: &str = "other_config:lacp-aggregation-key";

impl Lab {
    /// Three ports: Open vSwitch gives a bond of one another system priority and makes it individual,
    /// so its last port would negotiate anew when the other leaves.
    fn new() -> Lab {
        let (ovs, weft) = (Ovs::start(), Machine::new("weft").expect("weft"));
        let client = Machine::new("client").expect("client");
        cable((&client, WAN), (&ovs.machine, "client"));
        client.number(WAN, 2).expect("address");
        for i in 0..3 {
            cable((&weft, &format!("nic{i}")), (&ovs.machine, &format!("port{i}")));
        }
        ovs.vsctl(&format!(
            "add-port br0 client tag=10 \
             -- add-bond br0 bond0 port0 port1 port2 {LACP} bond_mode=balance-tcp tag=10 \
             -- set interface port0 {KEY}=7 -- set interface port1 {KEY}=7 \
             -- set interface port2 {KEY}=7"
        ));
        Lab { ovs, client, weft, dir: tempfile::tempdir().expect("directory") }
    }

    /// Waits until the second port is not used, and hears that key.
    fn loses_eth1_to(&self, key: u64) {
        until(30, || {
            let bond = bond(self.dir.path(), "bond0");
            let port = &bond["ports"][1];
            let why = port["unused"].as_str().unwrap_or_default();
            let known = ["other-key", "other-partner", "individual"].contains(&why);
            if sending(&bond) == ["eth0", "eth2"] && port["partner"]["key"] == key && known {
                return Ok(());
            }
            Err(format!("{}{bond:#}", self.ovs.appctl("lacp/show")))
        });
    }

    /// Waits until these ports send and the switch has as many enabled.
    fn settle(&self, ports: &[&str]) {
        until(30, || {
            let bond = bond(self.dir.path(), "bond0");
            let enabled = self.ovs.appctl("bond/show bond0").matches(": enabled").count();
            if sending(&bond) == ports && enabled == ports.len() {
                return Ok(());
            }
            Err(format!("{ports:?}: the switch has {enabled}, weft {bond}"))
        });
    }
}

#[test]
fn transfers_survive_what_is_done_to_the_ports_of_a_bond_and_a_reboot_of_the_switch() {
    if !xdp() || !Ovs::installed() {
        return;
    }
    let mut lab = Lab::new();
    let dir = lab.dir.path().to_owned();
    let service = "service = [{ kind = \"echo\", port = 7 }]\n";
    let config = bonded(&dir, 3, "lacp = { rate = \"fast\" }\n", service);
    let _daemon = Daemon::start(&lab.weft, &lab.client.netns, &dir, &config, 7);
    lab.settle(&["eth0", "eth1", "eth2"]);
    let transfers = [(); 4].map(|()| Transfer::start(&lab.client));
    let pulse = Pulse::start(&lab.client);
    std::thread::sleep(Duration::from_millis(500));
    let tell = |what: &str| {
        println!("NUMBER bond at Open vSwitch, {what}: longest silence {:.0} ms", pulse.gap());
    };
    tell("nothing");

    lab.ovs.plug("port1", false);
    lab.settle(&["eth0", "eth2"]);
    tell("port cut");
    lab.ovs.plug("port1", true);
    lab.settle(&["eth0", "eth1", "eth2"]);
    tell("port back");

    // A channel group of its own, in the same VLAN; then in another VLAN, with a key that follows.
    for (what, tag, key) in [("key", "tag=10", 4242), ("VLAN", "tag=99", 99)] {
        lab.ovs.vsctl(&format!(
            "del-bond-iface bond0 port1 -- add-port br0 port1 {LACP} {tag} \
             -- set interface port1 {KEY}={key}"
        ));
        lab.loses_eth1_to(key);
        tell(&format!("port moved to another {what}"));
        lab.ovs.vsctl(&format!(
            "del-port br0 port1 -- add-bond-iface bond0 port1 -- set interface port1 {KEY}=7"
        ));
        lab.settle(&["eth0", "eth1", "eth2"]);
        tell(&format!("port back in its {what}"));
    }

    lab.ovs.die();
    // long enough to be noticed: LACP is silent for 3 s
    until(30, || {
        let bond = bond(&dir, "bond0");
        if sending(&bond).is_empty() { Ok(()) } else { Err(bond.to_string()) }
    });
    lab.ovs.revive();
    lab.settle(&["eth0", "eth1", "eth2"]);
    tell("switch rebooted");

    let bytes: u64 = transfers.into_iter().map(Transfer::end).sum();
    println!("NUMBER bond at Open vSwitch: {bytes} bytes each way and {} echoes", pulse.end());
}

//! What a failover group of three members sends over AF_XDP, and by which: captured at the ports of
//! the switch, a kernel bridge, with AF_PACKET.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_cli::lab::topology::{CLIENT, Machine, v4, v6};
use weft_drivers::device::Device;
use weft_drivers::ethtool::{self, Offload};
use weft_drivers::packet::{Packet, PacketConfig};
use weft_interface::paths::GroupHealth;
use weft_vserver::Host;
use weft_vserver::config::parse;
use weft_vserver::service::Services;

mod common;

use common::{ALPHA, cable, installed, ip, xdp};

const BRIDGE: &str = "br0";
const MEMBERS: usize = 3;
/// Data addresses: IPv4, the vserver's name included, and IPv6 with its link-local one.
const FIRST: u16 = 1000;
const FOURS: u16 = 60;
const SIXES: u16 = 40;
/// Host numbers of more clients.
const CLIENTS: std::ops::Range<u16> = 2000..2090;
const ECHO: u16 = 7;
const PATIENCE: Duration = Duration::from_secs(20);

fn nic(at: usize) -> String {
    format!("nic{at}")
}

fn port(at: usize) -> String {
    format!("port{at}")
}

/// A frame that weft sent, at a port.
#[derive(Clone, Debug)]
struct Seen {
    port: usize,
    frame: Vec<u8>,
}

/// Records what comes in at all ports.
struct Tap {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    fn start(switch: &Machine) -> Tap {
        let open = |at| {
            let config = PacketConfig { vnet: false, ..PacketConfig::new(port(at)) };
            switch.netns.enter(|| Packet::open(&config)).unwrap().unwrap().remove(0)
        };
        let mut devices: Vec<Packet> = (0..MEMBERS).map(open).collect();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (into, end) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Acquire) {
                for (port, device) in devices.iter_mut().enumerate() {
                    let mut burst = Vec::new();
                    // A port that is down says so, and is silent.
                    let _ = device.receive(&mut burst, 64);
                    let frames = burst.iter().map(|f| Seen { port, frame: f.data().to_vec() });
                    into.lock().unwrap().extend(frames);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Tap { seen, stop, thread: Some(thread) }
    }

    /// Waits until no such frame has come for so long.
    fn is_over(&self, silence: Duration, such: impl Fn(&[u8]) -> bool) {
        let mut last = Instant::now();
        until("silence", || {
            if self.take().iter().any(|seen| such(&seen.frame)) {
                last = Instant::now();
            }
            last.elapsed() > silence
        });
    }

    /// What came since the last call.
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A machine with three cables to a switch, whose bridge is the client.
struct Lab {
    weft: Machine,
    switch: Machine,
}

impl Lab {
    fn new() -> Lab {
        let lab =
            Lab { weft: Machine::new("weft").unwrap(), switch: Machine::new("switch").unwrap() };
        lab.ip(&["link", "add", BRIDGE, "address", "02:00:00:00:00:02", "type", "bridge"]);
        for at in 0..MEMBERS {
            cable((&lab.weft, &nic(at)), (&lab.switch, &port(at)));
            lab.switch
                .netns
                .set_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", port(at)), "1")
                .unwrap();
            // Out of the bridge a port has no part in anything.
            lab.switch
                .netns
                .set_sysctl(&format!("net/ipv4/conf/{}/arp_ignore", port(at)), "8")
                .unwrap();
            lab.ip(&["link", "set", &port(at), "master", BRIDGE, "up"]);
        }
        lab.switch.number(BRIDGE, CLIENT).unwrap();
        let quiet =
            lab.switch.netns.enter(|| ethtool::set_offload(BRIDGE, Offload::TxChecksum, false));
        quiet.unwrap().unwrap();
        lab
    }

    fn ip(&self, args: &[&str]) {
        ip(&self.switch, args);
    }

    fn plug(&self, cable: usize, up: bool) {
        self.switch.netlink(|netlink| netlink.set_up(&port(cable), up)).unwrap();
    }

    /// The switch forwards nothing from or to a port, which keeps its carrier; or does again.
    fn forward(&self, cable: usize, on: bool) {
        let bridge = on.then_some(BRIDGE);
        self.switch.netlink(|netlink| netlink.set_master(&port(cable), bridge)).unwrap();
    }

    fn host(&self, dir: &std::path::Path, group: &str, vserver: &str) -> (Host, Services) {
        let mut text = format!("[host]\ncontrol = \"{}\"\n", dir.join("weft.sock").display());
        let physical =
            |at| format!("[nic.eth{at}]\ndevice = \"{}\"\ndriver = \"af-xdp\"\n", nic(at));
        text.extend((0..MEMBERS).map(physical));
        text += "[fail.fail0]\nmembers = [\"eth0\", \"eth1\", \"eth2\"]\n";
        text += group;
        text += "\n[alias.data0]\nover = \"fail0\"\n[vserver.alpha]\n";
        text += vserver;
        let config = parse(&text, &dir.join("weft.toml")).unwrap();
        let wanted = config.vservers[0].addresses.len();
        let started = self.weft.netns.enter(|| {
            let host = Host::start(config)?;
            let services = Services::start(&host).unwrap();
            Ok::<_, weft_vserver::HostError>((host, services))
        });
        let (host, services) = started.unwrap().unwrap();
        until("addresses in use", || host.vservers()[0].addresses().len() >= wanted);
        until("all members", || state(&host) == GroupHealth::Ok);
        (host, services)
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A datagram that comes. A child of another test that ends may interrupt a wait with a timeout.
fn heard(socket: &UdpSocket) -> std::io::Result<usize> {
    loop {
        match socket.recv(&mut [0; 64]) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn state(host: &Host) -> GroupHealth {
    host.paths().groups[0].state
}

/// By data address the member that it is bound to.
fn bindings(host: &Host) -> BTreeMap<IpAddr, usize> {
    let member = |name: &str| name.trim_start_matches("eth").parse().unwrap();
    let paths = host.paths();
    let bound =
        |a: &weft_interface::paths::AddressPath| Some((a.address, member(a.inbound.as_deref()?)));
    paths.addresses.iter().filter_map(bound).collect()
}

fn count(members: impl Iterator<Item = usize>) -> [usize; MEMBERS] {
    let mut counts = [0; MEMBERS];
    members.for_each(|member| counts[member] += 1);
    counts
}

/// Differ by one at most, over the members that carry frames; none by others.
fn assert_even(counts: [usize; MEMBERS], active: &[usize], what: &str) {
    let on: Vec<usize> = active.iter().map(|at| counts[*at]).collect();
    let (least, most) = (on.iter().min().unwrap(), on.iter().max().unwrap());
    assert!(most - least <= 1, "{what}: {counts:?}");
    assert_eq!(on.iter().sum::<usize>(), counts.iter().sum::<usize>(), "{what}: {counts:?}");
}

/// The address that a frame announces, if it does: gratuitous ARP, unsolicited advertisement to all.
fn announced(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x06] => {
            let (sender, target) = (frame.get(28..32)?, frame.get(38..42)?);
            let gratuitous = sender == target && frame[..6] == [0xff; 6];
            gratuitous.then(|| IpAddr::from(<[u8; 4]>::try_from(sender).unwrap()))
        }
        [0x86, 0xdd] => {
            let all = frame[..6] == [0x33, 0x33, 0, 0, 0, 1] && frame[20] == 58 && frame[54] == 136;
            all.then(|| IpAddr::from(<[u8; 16]>::try_from(&frame[62..78]).unwrap()))
        }
        _ => None,
    }
}

/// What the frames announced: how often, and by which port.
fn announcements(seen: &[Seen]) -> BTreeMap<IpAddr, (usize, Vec<usize>)> {
    let mut found: BTreeMap<IpAddr, (usize, Vec<usize>)> = BTreeMap::new();
    for Seen { port, frame } in seen {
        if let Some(address) = announced(frame) {
            let (times, ports) = found.entry(address).or_default();
            *times += 1;
            ports.push(*port);
            ports.dedup();
        }
    }
    found
}

/// Every address that moved was announced with one burst, by its new member, and no other.
fn assert_announced(
    before: &BTreeMap<IpAddr, usize>,
    after: &BTreeMap<IpAddr, usize>,
    seen: &[Seen],
) -> usize {
    let moved = after.iter().filter(|(address, member)| before.get(address) != Some(member));
    // A request and a reply in IPv4.
    let burst = |a: &IpAddr| if a.is_ipv4() { 2 } else { 1 };
    let wanted: BTreeMap<IpAddr, (usize, Vec<usize>)> =
        moved.map(|(a, member)| (*a, (burst(a), vec![*member]))).collect();
    assert_eq!(announcements(seen), wanted);
    wanted.len()
}

/// Every client asks once; by which port each was answered.
fn outbound(clients: &[UdpSocket], tap: &Tap) -> [usize; MEMBERS] {
    tap.take();
    let to = SocketAddr::new(v4(ALPHA).into(), ECHO);
    for client in clients {
        until("an answer", || {
            client.send_to(b"which way?", to).unwrap();
            client.recv(&mut [0; 64]).is_ok()
        });
    }
    std::thread::sleep(Duration::from_millis(20));
    let mut by = BTreeMap::new();
    for Seen { port, frame } in tap.take() {
        if frame.get(12..14) == Some(&[0x08, 0x00]) && frame[23] == 17 {
            let to = IpAddr::from(<[u8; 4]>::try_from(&frame[30..34]).unwrap());
            by.insert(to, port);
        }
    }
    assert_eq!(by.len(), clients.len());
    count(by.into_values())
}

fn programs() -> bool {
    xdp() && installed("ip")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_hundred_addresses_over_three_members_stay_even_and_each_move_is_announced_once() {
    if !programs() {
        return;
    }
    let lab = Lab::new();
    let dir = directory();
    let mut addresses: Vec<String> =
        (FIRST..FIRST + FOURS - 1).map(|n| format!("\"data0 {}/16\"", v4(n))).collect();
    addresses.push(format!("\"data0 {}/16\"", v4(ALPHA)));
    addresses.extend((FIRST..FIRST + SIXES - 1).map(|n| format!("\"data0 {}/64\"", v6(n))));
    let vserver = format!(
        "addresses = [{}]\nservice = [{{ kind = \"echo\", port = {ECHO} }}]\n",
        addresses.join(", ")
    );
    let (host, _services) = lab.host(dir.path(), "flaps_max = 255", &vserver);
    for n in CLIENTS {
        let address = v4(n);
        lab.switch.netlink(|n| n.add_address(BRIDGE, address.into(), 16)).unwrap();
    }
    let client = |n| {
        let socket = lab.switch.netns.enter(|| UdpSocket::bind((v4(n), 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    };
    let clients: Vec<UdpSocket> = CLIENTS.map(client).collect();
    let tap = Tap::start(&lab.switch);
    // RFC 5227 2.3: a new address is announced twice, two seconds apart.
    tap.is_over(Duration::from_millis(2200), |frame| announced(frame).is_some());

    let all = [0, 1, 2];
    let mut bound = bindings(&host);
    assert_eq!(bound.len(), usize::from(FOURS + SIXES));
    let spread = |bound: &BTreeMap<IpAddr, usize>| count(bound.values().copied());
    let out = outbound(&clients, &tap);
    assert_even(spread(&bound), &all, "inbound");
    assert_even(out, &all, "outbound");
    println!("NUMBER failover spread, 3 members: inbound {:?}, outbound {out:?}", spread(&bound));

    let steps: [(usize, bool, &[usize]); 5] = [
        (1, false, &[0, 2]),
        (1, true, &all),
        (0, false, &[1, 2]),
        (2, false, &[1]),
        (0, true, &[0, 1]),
    ];
    for (cable, up, active) in steps {
        tap.take();
        lab.plug(cable, up);
        until("the group follows", || host.paths().groups[0].active.len() == active.len());
        // Longer than a second announcement would wait, if there were one.
        std::thread::sleep(Duration::from_millis(300));
        let (seen, now) = (tap.take(), bindings(&host));
        let moves = assert_announced(&bound, &now, &seen);
        bound = now;
        let out = outbound(&clients, &tap);
        assert_even(spread(&bound), active, "inbound");
        assert_even(out, active, "outbound");
        let what = if up { "up" } else { "down" };
        println!(
            "NUMBER failover spread, eth{cable} {what}: inbound {:?}, outbound {out:?}, \
             {moves} moves, {} frames of announcements",
            spread(&bound),
            seen.iter().filter(|s| announced(&s.frame).is_some()).count(),
        );
    }
    host.stop();
}

/// Groups that a report wants: a list of IGMPv3 (RFC 3376 4.2) or MLDv2 records (RFC 3810 5.2).
fn reported(frame: &[u8]) -> Vec<IpAddr> {
    let mut groups = Vec::new();
    if frame.get(12..14) == Some(&[0x08, 0x00]) && frame[23] == 2 {
        let report = &frame[14 + usize::from(frame[14] & 15) * 4..];
        let records = usize::from(u16::from_be_bytes([report[6], report[7]]));
        for record in report[8..].chunks_exact(8).take(records).filter(|_| report[0] == 0x22) {
            groups.push(IpAddr::from(<[u8; 4]>::try_from(&record[4..8]).unwrap()));
        }
    } else if frame.get(12..14) == Some(&[0x86, 0xdd]) && frame[20] == 0 && frame[62] == 143 {
        let records = usize::from(u16::from_be_bytes([frame[68], frame[69]]));
        for record in frame[70..].chunks_exact(20).take(records) {
            groups.push(IpAddr::from(<[u8; 16]>::try_from(&record[4..20]).unwrap()));
        }
    }
    groups
}

/// Host numbers of test addresses.
const TESTS: u16 = 31;

/// Whether the member itself sent this: its test address is the sender, or it is LLDP.
fn is_own(frame: &[u8], member: usize) -> bool {
    let own = v4(TESTS + member as u16).octets();
    match frame.get(12..14) {
        Some([0x08, 0x06]) => frame[28..32] == own,
        Some([0x08, 0x00]) => frame[26..30] == own,
        // LLDP speaks for the NIC, whatever the group thinks of it.
        Some([0x88, 0xcc]) => true,
        _ => false,
    }
}

#[test]
fn what_was_asked_of_a_member_is_asked_of_its_successor_and_nothing_but_probes_leaves_by_a_failed_one()
 {
    if !programs() {
        return;
    }
    let lab = Lab::new();
    let dir = directory();
    let tests: Vec<String> =
        (0..MEMBERS as u16).map(|at| format!("\"eth{at} {}/16\"", v4(TESTS + at))).collect();
    let group = format!(
        "probe = \"icmp\"\ndetect_ms = 100\ntargets = [\"{}\"]\ntest = [{}]\nflaps_max = 255",
        v4(CLIENT),
        tests.join(", ")
    );
    let vserver = format!(
        "addresses = [\"data0 {}/16\", \"data0 {}/64\"]\n\
         service = [{{ kind = \"echo\", port = {ECHO} }}, {{ kind = \"echo\", port = 53 }}]\n\
         access = [{{ drop = \"dns\", on = \"data0\" }}]\n",
        v4(ALPHA),
        v6(ALPHA)
    );
    let (host, _services) = lab.host(dir.path(), &group, &vserver);
    let alpha = host.vserver("alpha").unwrap();
    let alias = alpha.alias("data0").unwrap();
    let groups: [IpAddr; 2] = ["239.7.7.7".parse().unwrap(), "ff15::77".parse().unwrap()];
    let joined = groups.map(|group| {
        let any = if group.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
        let port = 7000 + u16::from(group.is_ipv6());
        let socket = weft_vserver::net::UdpSocket::bind(&alpha, (any, port).into()).unwrap();
        socket.join_multicast(alias, group).unwrap();
        socket
    });
    let client = lab.switch.netns.enter(|| UdpSocket::bind((v4(CLIENT), 0))).unwrap().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_multicast_ttl_v4(1).unwrap();
    let tap = Tap::start(&lab.switch);
    let nominee = || {
        let paths = host.paths();
        let on = paths.interfaces.iter().position(|i| i.flags.multicast4 && i.flags.multicast6);
        on.unwrap()
    };
    until("probes are answered", || {
        let ok = weft_interface::paths::ProbeHealth::Ok;
        host.paths().interfaces.iter().all(|i| i.probe == ok)
    });
    // RFC 3376 5.1: who joins says so twice, within a second.
    tap.is_over(Duration::from_millis(1200), |frame| !reported(frame).is_empty());
    let to = |port| SocketAddr::new(v4(ALPHA).into(), port);
    let mut refused = 0;
    for _ in 0..MEMBERS {
        let failed = nominee();
        tap.take();
        lab.forward(failed, false);
        until("the group follows", || state(&host) == GroupHealth::Degraded);
        let successor = nominee();
        assert_ne!(successor, failed);
        // The frames of the moment of the move may still be on their way to the tap.
        std::thread::sleep(Duration::from_millis(50));
        let wanted: Vec<usize> = groups
            .map(|group| {
                let seen = tap.seen.lock().unwrap().clone();
                let by: Vec<usize> = seen
                    .iter()
                    .filter(|s| reported(&s.frame).contains(&group))
                    .map(|s| s.port)
                    .collect();
                assert!(by.contains(&successor) && !by.contains(&failed), "{group}: {by:?}");
                by.len()
            })
            .to_vec();
        println!("NUMBER reports of groups after the move to eth{successor}: {wanted:?}");
        tap.take();
        // Traffic that all members could carry, allowed and not.
        for _ in 0..20 {
            client.send_to(b"here", to(ECHO)).unwrap();
            heard(&client).unwrap();
            client.send_to(b"not here", to(53)).unwrap();
            refused += 1;
        }
        client.send_to(b"to all", ("239.7.7.7", 7000)).unwrap();
        let mut buffer = [0; 64];
        joined[0].set_read_timeout(Some(PATIENCE)).unwrap();
        let (n, _) = joined[0].recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"to all");
        joined[0].set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(joined[0].recv_from(&mut buffer).is_err(), "once");
        let stray: Vec<Seen> = tap
            .take()
            .into_iter()
            .filter(|s| s.port == failed && !is_own(&s.frame, failed))
            .collect();
        assert!(stray.is_empty(), "by the failed eth{failed}: {stray:02x?}");
        lab.forward(failed, true);
        until("the group is whole", || state(&host) == GroupHealth::Ok);
    }
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(heard(&client).is_err(), "no answer from behind the rule, by any member");
    let access = host.access(Some("alpha")).unwrap();
    assert_eq!(access.vservers[0].rules[0].hits, refused, "the rule saw each of them");
    host.stop();
}

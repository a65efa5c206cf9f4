//! A running host is changed: everything that a configuration says follows, all of it or nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{PATIENCE, Stop, addr, config, connect, echo, echo_server, nic, until, vs};
use weft_drivers::device::{AnyDevice, Device};
use weft_stack::frame::Frame;
use weft_vserver::change::{ApplyError, Changes, Follower, Options};
use weft_vserver::config::export;
use weft_vserver::mdns::Responders;
use weft_vserver::net::{AnyOptions, TcpListener, TcpStream, UdpSocket};
use weft_vserver::register::Registrar;
use weft_vserver::service::Services;
use weft_vserver::{Host, Vserver};

/// A host with everything that follows its configuration.
struct Site {
    host: Arc<Host>,
    changes: Changes,
    far: AnyDevice,
}

fn head() -> String {
    format!(
        "{}[alias.data0]\nover = \"eth0\"\n\
         [alias.mgmt0]\nover = \"eth0\"\nmac = \"02:00:00:00:00:0a\"\n\
         [alias.data1]\nover = \"eth0\"\nmac = \"02:00:00:00:00:0b\"\n",
        nic("eth0", 1)
    )
}

fn site(text: &str) -> Site {
    let host = Arc::new(Host::start(config(text)).unwrap());
    let services = Arc::new(Services::start(&host).unwrap());
    let followers: Vec<Arc<dyn Follower>> = vec![
        Arc::new(Registrar::start(&host).unwrap()),
        Arc::new(Responders::start(&host).unwrap()),
    ];
    let far = host.take_mem_peer("eth0").unwrap();
    let changes = Changes::new(Arc::clone(&host), Some(services), followers, |_, _| {});
    Site { host, changes, far }
}

impl Site {
    fn apply(&self, text: &str) {
        self.changes.apply(config(text), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    }

    /// What a reader finds, apart from what is counted.
    fn seen(&self) -> String {
        let mut snapshot = self.host.snapshot();
        snapshot.generation = 0;
        let line = |v: &weft_vserver::stats::VserverSnapshot| {
            let dns = vs(&self.host, &v.name).dns();
            let (name, at) = (&v.name, (&v.addresses, &v.routes, &v.rules, &v.tables));
            format!("{name} {at:?} {dns:?} listeners {}\n", v.tcp_listeners)
        };
        let vservers: String = snapshot.vservers.iter().map(line).collect();
        let access = self.host.access(None).unwrap().vservers;
        let rules: Vec<_> =
            access.iter().flat_map(|v| &v.rules).map(|r| (&r.ports, &r.on)).collect();
        format!("{}\n{vservers}{rules:?}", export(&self.host.config(), true))
    }
}

/// Says what `socket` receives, and answers updates as a DNS server that takes them all.
fn name_server(vserver: &Vserver) -> Receiver<Vec<u8>> {
    let socket = UdpSocket::bind(vserver, addr("10.0.0.53:53")).unwrap();
    let (say, hear) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut bytes) {
            let mut answer = bytes[..12].to_vec();
            answer[2] |= 0x80;
            answer[4..12].fill(0);
            // Said first: whoever waits for the answer finds it said.
            if say.send(bytes[..n].to_vec()).is_err() {
                return;
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    hear
}

/// Whether an update has an A record of a name in class IN, or takes it out (NONE).
fn edits(message: &[u8], name: &str, adds: bool) -> bool {
    let mut wanted = vec![name.len() as u8];
    wanted.extend(name.as_bytes());
    wanted.extend(b"\x07example\x03net\x00\x00\x01\x00");
    wanted.push(if adds { 1 } else { 254 });
    message.windows(wanted.len()).any(|w| w == wanted)
}

fn next_edit(heard: &Receiver<Vec<u8>>, name: &str, adds: bool) {
    while !edits(&heard.recv_timeout(PATIENCE).expect("an update"), name, adds) {}
}

#[test]
fn a_vserver_that_comes_is_registered_and_one_that_goes_is_withdrawn_before_it_goes() {
    let ns = "[vserver.ns]\naddresses = [\"data0 10.0.0.53/24\"]\n";
    let register = "register = { zone = \"example.net\", server = \"10.0.0.53\" }\n";
    let guest = format!("[vserver.guest]\naddresses = [\"data0 10.0.0.9/24\"]\n{register}");
    let base = head() + ns;
    let site = site(&base);
    let heard = name_server(&vs(&site.host, "ns"));
    site.apply(&(base.clone() + &guest));
    next_edit(&heard, "guest", true);
    // Another name: the old one goes.
    let renamed = guest.replace("zone =", "names = [\"other\"], zone =");
    site.apply(&(base.clone() + &renamed));
    // One that was not answered in time is said again.
    let is_repeated = |edit: &[u8]| edits(edit, "guest", true);
    let edit = std::iter::repeat_with(|| heard.recv_timeout(PATIENCE).expect("an update"))
        .find(|edit| !is_repeated(edit))
        .unwrap();
    assert!(edits(&edit, "guest", false) && edits(&edit, "other", true));
    site.apply(&base);
    let sent: Vec<_> = heard.try_iter().collect();
    assert!(sent.iter().any(|m| edits(m, "other", false)), "it is out when the change is over");
    assert!(site.host.snapshot().problems.is_empty());
}

#[test]
fn multicast_dns_begins_with_a_vserver_and_says_goodbye_with_it() {
    let base = head() + "[vserver.ear]\naddresses = [\"mgmt0 10.9.0.1/24\"]\n";
    let mdns = "mdns = { services = [{ name = \"Files\", type = \"_nfs._tcp\", port = 2049 }] }\n";
    let guest = format!("[vserver.guest]\naddresses = [\"mgmt0 10.9.0.2/24\"]\n{mdns}");
    let site = site(&base);
    let ear = vs(&site.host, "ear");
    let socket = UdpSocket::bind(&ear, addr("0.0.0.0:5353")).unwrap();
    let alias = ear.alias("mgmt0").unwrap();
    socket.join_multicast(alias, "224.0.0.251".parse().unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let times = |bytes: &[u8]| -> Vec<u32> {
        let packet = simple_dns::Packet::parse(bytes).unwrap();
        packet.answers.iter().map(|a| a.ttl).collect()
    };
    let mut bytes = [0; 2048];
    site.apply(&(base.clone() + &guest));
    loop {
        let (n, _) = socket.recv_from(&mut bytes).unwrap();
        // Probes have no answers.
        if times(&bytes[..n]).iter().any(|ttl| *ttl > 0) {
            break;
        }
    }
    site.apply(&base);
    loop {
        let (n, _) = socket.recv_from(&mut bytes).unwrap();
        let times = times(&bytes[..n]);
        if !times.is_empty() && times.iter().all(|ttl| *ttl == 0) {
            break;
        }
    }
}

#[test]
fn a_listener_of_a_group_hears_vservers_that_come_into_it_and_none_that_left() {
    let two = |group: &str| {
        head()
            + "[group.gold]\n[vserver.c]\naddresses = [\"data0 10.0.0.2/24\"]\n"
            + &format!("[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n{group}")
    };
    let site = site(&two(""));
    let how = AnyOptions { group: Some("gold".into()), ..AnyOptions::default() };
    let listener = site.host.listen_any(80, &how).unwrap();
    let c = vs(&site.host, "c");
    let refused = || TcpStream::connect(&c, addr("10.0.0.1:80")).is_err();
    assert!(refused());
    site.apply(&two("group = \"gold\"\n"));
    let stream = connect(&c, addr("10.0.0.1:80"));
    let (accepted, _) = listener.accept().unwrap();
    site.apply(&two(""));
    assert!(refused());
    // Who is in stays in.
    std::thread::scope(|s| {
        s.spawn(|| std::io::copy(&mut &accepted, &mut &accepted));
        echo(&stream, b"still here");
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    // A group that nobody knew is one like the others.
    site.apply(&(two("group = \"new\"\n") + "[group.new]\n"));
    let how = AnyOptions { group: Some("new".into()), ..AnyOptions::default() };
    let listener = site.host.listen_any(81, &how).unwrap();
    let _stream = connect(&c, addr("10.0.0.1:81"));
    listener.accept().unwrap();
}

#[test]
fn echo_answers_on_addresses_that_come_later() {
    let base = |addresses: &str| {
        head()
            + "[vserver.c]\naddresses = [\"data0 10.0.0.2/24\"]\n"
            + &format!("[vserver.a]\naddresses = [{addresses}]\n")
            + "service = [{ kind = \"echo\", port = 7 }]\n"
    };
    let site = site(&base("\"data0 10.0.0.1/24\""));
    site.apply(&base("\"data0 10.0.0.1/24\", \"data0 10.0.0.5/24\""));
    let c = vs(&site.host, "c");
    let socket = UdpSocket::bind(&c, addr("0.0.0.0:0")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; 8];
    for to in ["10.0.0.5:7", "10.0.0.1:7"] {
        socket.send_to(b"ping", addr(to)).unwrap();
        assert_eq!(socket.recv_from(&mut bytes).unwrap(), (4, addr(to)));
        echo(&connect(&c, addr(to)), b"hello");
    }
}

/// Everything that the far end gets until a frame is `wanted`.
fn frame_from(far: &mut AnyDevice, what: &str, wanted: impl Fn(&[u8]) -> bool) {
    let mut frames: Vec<Frame> = Vec::new();
    until(what, || {
        frames.clear();
        far.receive(&mut frames, 64).unwrap();
        frames.iter().any(|f| wanted(f.data()))
    });
}

// RFC 5227 3, RFC 4861 7.2.6
#[test]
fn an_address_that_goes_to_another_mac_is_announced_with_it_and_used_at_once() {
    let who = |has: &str, other: &str| {
        let net = "10.0.0.5/24";
        let six = "fd00::5/64";
        let (mine, theirs) = if has == "a" { ("data0", "data1") } else { ("data1", "data0") };
        head()
            + "[vserver.c]\naddresses = [\"data0 10.0.0.2/24\"]\n"
            + &format!("[vserver.{has}]\naddresses = [\"{mine} {net}\", \"{mine} {six}\"]\n")
            + &format!("[vserver.{other}]\naddresses = [\"{theirs} 10.0.0.7/24\"]\n")
    };
    let (at_a, at_b) = (who("a", "b"), who("b", "a"));
    let mut site = site(&at_a);
    let usable = |host: &Host, name: &str| vs(host, name).addresses();
    let five: std::net::Ipv6Addr = "fd00::5".parse().unwrap();
    until("IPv6 address", || usable(&site.host, "a").contains(&five.into()));
    for (text, owner, mac) in [(&at_b, "b", 0x0b), (&at_a, "a", 0x01), (&at_b, "b", 0x0b)] {
        let told = site.changes.plan(&config(text)).unwrap().describe().text();
        assert!(told.contains("(from "), "{told}");
        site.apply(text);
        let own = usable(&site.host, owner);
        assert!(own.contains(&five.into()), "used without waiting for duplicates: {own:?}");
        frame_from(&mut site.far, "gratuitous ARP", |f| {
            let from = f[6..12] == [2, 0, 0, 0, 0, mac] && f[12..14] == [8, 6];
            from && f[..6] == [255; 6] && f[28..32] == [10, 0, 0, 5] && f[38..42] == [10, 0, 0, 5]
        });
        // Announced in one go, so the other one may have been among the same frames: once more.
        site.apply(if owner == "b" { &at_a } else { &at_b });
        site.apply(text);
        frame_from(&mut site.far, "unsolicited advertisement", |f| {
            let advert = f[6..12] == [2, 0, 0, 0, 0, mac] && f.get(54) == Some(&136);
            advert && f[62..78] == five.octets() && f[58] & 0x20 != 0
        });
    }
}

#[test]
fn a_conversation_with_an_address_beside_one_that_moves_goes_on() {
    let text = |owner: &str, other: &str| {
        head()
            + "[vserver.c]\naddresses = [\"data0 10.0.0.2/24\"]\n"
            + &format!(
                "[vserver.{owner}]\naddresses = [\"data0 10.0.0.{}/24\", \"data0 10.0.0.5/24\"]\n",
                owner.len()
            )
            + &format!("[vserver.{other}]\naddresses = [\"data0 10.0.0.{}/24\"]\n", other.len())
    };
    let (one, two) = (text("a", "bbb"), text("bbb", "a"));
    let site = site(&one);
    let _servers = [("a", "10.0.0.1:7"), ("bbb", "10.0.0.3:7")]
        .map(|(v, at)| echo_server(&vs(&site.host, v), addr(at)));
    let c = vs(&site.host, "c");
    let talks = [connect(&c, addr("10.0.0.1:7")), connect(&c, addr("10.0.0.3:7"))];
    for round in 0..40 {
        site.apply(if round % 2 == 0 { &two } else { &one });
        for stream in &talks {
            echo(stream, &[round; 3000]);
        }
    }
}

/// Everything that can be changed, in one state (1) and another (2).
fn all(n: u8) -> String {
    let guest = "[vserver.guest]\naddresses = [\"data0 10.0.0.9/24\"]\ntables = [\"late\"]\n\
                 [table.late]\nroutes = [{ to = \"198.51.100.0/24\", via = \"10.0.0.250\", alias = \"data0\" }]\n";
    head()
        + &format!(
            "[table.transit]\nroutes = [{{ to = \"192.0.2.0/24\", via = \"10.0.0.24{n}\", alias = \"data0\" }}]\n\
             [group.gold]\nlimits.udp_sockets = 10{n}\ndns.servers = [\"10.0.0.5{n}\"]\n\
             [access]\nrules = [{{ drop = \"tcp/9{n}\" }}]\n\
             [vserver.a]\ngroup = \"gold\"\n\
             addresses = [\"data0 10.0.0.1/24\", \"data0 10.0.0.1{n}/24\", \"mgmt0 10.9.0.1/24\"]\n\
             tables = [\"transit\"]\nacd = \"{}\"\n\
             rules = [{{ dscp = {n}, action = \"prohibit\" }}]\n\
             routes = [{{ to = \"default\", via = \"10.0.0.24{n}\" }}]\n\
             access = [{{ drop = \"tcp/8{n}\" }}]\nqos.send.limit = \"{n}0 Mbit/s\"\n\
             register = {{ zone = \"example.net\", server = \"10.0.0.53\", ttl_s = {n}00 }}\n\
             mdns = {{ host = \"host{n}\", services = [] }}\n\
             service = [{{ kind = \"echo\", port = 7 }}, {{ kind = \"discard\", port = 1{n} }}]\n\
             [vserver.b]\naddresses = [\"data1 10.0.0.2/24\"{}]\n",
            if n == 1 { "defend" } else { "off" },
            if n == 2 {
                ", \"mgmt0 10.9.0.2/24\"]\nmdns = { services = [] }\nroles = ["
            } else {
                ""
            },
        )
        + if n == 2 { guest } else { "" }
}

fn same(now: &str, wanted: &str, why: &str) {
    let more: Vec<_> = now.lines().filter(|l| !wanted.lines().any(|w| w == *l)).collect();
    let less: Vec<_> = wanted.lines().filter(|l| !now.lines().any(|w| w == *l)).collect();
    assert!(now == wanted, "{why}: more {more:#?}, missing {less:#?}");
}

#[test]
fn what_fails_or_is_not_confirmed_leaves_everything_as_it_was() {
    let (one, two) = (all(1), all(2));
    let site = site(&one);
    let before = site.seen();
    let fails = |why: &str| {
        let before = site.seen();
        let e = site.changes.apply(config(&two), &Options::default()).unwrap_err();
        assert!(matches!(&e, ApplyError::Step { .. }) && e.to_string().contains(why), "{e}");
        same(&site.seen(), &before, why);
    };
    // Somebody has the port of a service; later, that of multicast DNS, when all the rest is done.
    let taken = TcpListener::bind(&vs(&site.host, "a"), addr("[::]:12")).unwrap();
    fails("discard");
    drop(taken);
    let taken = UdpSocket::bind(&vs(&site.host, "b"), addr("0.0.0.0:5353")).unwrap();
    fails("multicast DNS");
    drop(taken);
    // Nobody confirms: it was made, and is taken back.
    let soon = Options { confirm: Some(Duration::from_millis(60)), ..Options::default() };
    let generation = site.host.snapshot().generation;
    let applied = site.changes.apply(config(&two), &soon).unwrap();
    assert!(applied.generation > generation);
    until("going back", || *site.host.config() == config(&one) && site.seen() == before);
    assert!(site.host.snapshot().generation > applied.generation);
    // And it is there as a whole when it is made.
    site.changes.apply(config(&two), &Options::default()).unwrap();
    let (after, fresh) = (site.seen(), self::site(&two));
    same(&after, &fresh.seen(), "as a new host");
    site.changes.revert().unwrap();
    same(&site.seen(), &before, "back");
}

#[test]
fn a_cluster_id_and_a_state_directory_take_a_restart_and_say_why() {
    let text = |id: &str, dir: &str| {
        format!(
            "[host]\nstate_dir = \"{dir}\"\n[cluster]\nid = \"{id}\"\n{}\
             [vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\ndhcp = [{{ alias = \"data0\" }}]\n",
            head()
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let site = site(&text("00:07:34:04:12:0E", dir));
    for (id, dir, named) in [
        ("00:07:34:04:12:0F", dir, "cluster: id, node"),
        ("00:07:34:04:12:0E", "/nowhere", "state_dir: leases"),
    ] {
        let new = text(id, dir).replace("10.0.0.1/24", "10.0.0.3/24");
        let refused = site.changes.apply(config(&new), &Options::default()).unwrap_err();
        assert!(refused.to_string().contains(named), "{refused}");
        assert!(refused.to_string().contains("restart"), "{refused}");
        let own = [addr("10.0.0.1:0").ip()];
        until("the old address alone", || vs(&site.host, "a").addresses() == own);
    }
}

#[test]
fn readers_see_one_configuration_or_the_other_and_never_a_part_of_one() {
    let text = |n: u8| {
        head()
            + &format!(
                "[vserver.a]\naddresses = [\"data0 10.0.0.{n}/24\", \"data0 10.0.0.1{n}/24\"]\n\
                 routes = [{{ to = \"default\", via = \"10.0.0.24{n}\" }}]\n\
                 rules = [{{ dscp = {n}, action = \"prohibit\" }}]\n\
                 access = [{{ drop = \"tcp/{n}\" }}]\n"
            )
    };
    let site = site(&text(1));
    let (stop, seen) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    std::thread::scope(|scope| {
        let (host, stop) = (&site.host, Stop(&stop));
        for seen in &seen {
            let stop = stop.0;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let s = host.snapshot();
                    let (v, n) = (&s.vservers[0], if s.generation % 2 == 1 { 1 } else { 2 });
                    let wanted = [1, 10].map(|ten| {
                        format!("data0 10.0.0.{}/24", if ten == 1 { n } else { 10 + n })
                    });
                    let mut wanted = wanted.to_vec();
                    wanted.sort();
                    assert_eq!(v.addresses, wanted, "generation {}", s.generation);
                    assert!(v.routes.iter().any(|r| r.contains(&format!("10.0.0.24{n}"))));
                    assert!(v.rules[0].contains(&format!("dscp {n} ")), "{:?}", v.rules);
                    let config = host.config();
                    let all = export(&config, false);
                    let other = 3 - n;
                    let parts = [format!("10.0.0.24{n}"), format!("10.0.0.24{other}")];
                    assert_ne!(all.contains(&parts[0]), all.contains(&parts[1]), "{all}");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut round = 0;
        until("readers that have seen something", || {
            site.apply(&text(2 - round % 2));
            round += 1;
            round >= 60 && seen.iter().all(|seen| seen.load(Ordering::Relaxed) > 0)
        });
    });
}

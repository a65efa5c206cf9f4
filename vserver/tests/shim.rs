//! Connections of vservers that outlive their paths: two hosts, two networks between them, over
//! memory and over AF_XDP on veth pairs in namespaces that the tests make.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{
    PATIENCE, addr, cabled, config, connect, echo, echo_server, nic, pattern, start, start_on,
    until, vs, write_key,
};
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_shim::hba::{Search, SigningKey, prefix_of};
use weft_stack::rng::Rng;
use weft_stack::shard::flow_owner;
use weft_vserver::app::{Cx, Service, SocketId};
use weft_vserver::change::{ApplyError, Changes, Options};
use weft_vserver::net::{
    AnyOptions, Family, IcmpSocket, RawSocket, ShimOption, ShimValue, TcpStream, UdpSend, UdpSocket,
};
use weft_vserver::{Devices, Host, ShimContext, ShimError, ShimWish, Vserver};

const SERVER: &str = "2001:db8:a::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two networks, `a` and `b`, a vserver with an address in each; locators are proved by a key.
fn network(n: u8, key: &Path) -> String {
    let name = if n == 1 { "web" } else { "c" };
    format!(
        "[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth1\"\n[vserver.{name}]\n\
         addresses = [\"data0 2001:db8:a::{n}/64\", \"data1 2001:db8:b::{n}/64\"]\n\
         [vserver.{name}.shim]\nset_up = \"immediate\"\nreap = \"rfc\"\nkeys = [\"2001:db8::/32 {}\"]\n",
        key.display()
    )
}

/// Several workers, and a vserver that may have a shim before all others: it is at home on worker 0,
/// so that the next one is not where all else is.
fn workers(count: usize, n: u8) -> String {
    if count == 1 {
        return String::new();
    }
    format!(
        "[workers]\ncount = {count}\nframes = 4096\n[vserver.aa]\n\
         addresses = [\"data0 2001:db8:a::a{n}/64\"]\n[vserver.aa.shim]\nenabled = false\n"
    )
}

/// The only context of a host, once it is established.
fn context(host: &Host) -> Option<ShimContext> {
    let mut report = host.shims(None).unwrap();
    assert!(report.contexts.len() <= 1, "{:?}", report.contexts);
    report.contexts.pop().filter(|c| c.state == "established")
}

fn by(host: &Host) -> Option<(IpAddr, IpAddr)> {
    context(host).map(|c| (c.locator, c.peer_locator))
}

fn pair_of(network: char, from: u8) -> (IpAddr, IpAddr) {
    let at = |n: u8| ip(&format!("2001:db8:{network}::{n}"));
    (at(from), at(3 - from))
}

fn wish(peer: &str, switch: Option<(IpAddr, IpAddr)>) -> ShimWish {
    ShimWish { vserver: String::from("c"), peer: ip(peer), local: None, switch }
}

/// Both vservers have an address in each network.
fn are_ready(server: &Host, client: &Host) -> bool {
    [(server, "web", 1), (client, "c", 2)].iter().all(|(host, name, n)| {
        let addresses = vs(host, name).addresses();
        ["a", "b"].iter().all(|net| addresses.contains(&ip(&format!("2001:db8:{net}::{n}"))))
    })
}

/// Sends something by the pair that is wished for. Where threads wait long for a CPU, TCP of either
/// side may find no progress, and the probes of that another pair: then once more.
fn transfer_by(client: &Host, wish: &ShimWish, stream: &TcpStream) {
    until("a transfer by the pair", || {
        client.shim_wish(wish).unwrap();
        echo(stream, &pattern(300_000));
        let all = contexts_of(client, &wish.vserver);
        all.iter().any(|c| Some((c.locator, c.peer_locator)) == wish.switch)
    });
}

fn connection_moves(server: &Host, client: &Host) {
    let _listening = echo_server(&vs(server, "web"), addr(&format!("[{SERVER}]:7")));
    let c = vs(client, "c");
    until("addresses", || are_ready(server, client));
    let stream = connect(&c, addr(&format!("[{SERVER}]:7")));
    echo(&stream, &pattern(100_000));
    until("context", || context(server).is_some() && context(client).is_some());
    assert_eq!(by(client), Some(pair_of('a', 2)), "ULIDs are locators");
    assert!(!context(client).unwrap().rewritten);
    // To the other network and back, by command.
    for network in ['b', 'a', 'b'] {
        let pair = pair_of(network, 2);
        transfer_by(client, &wish(SERVER, Some(pair)), &stream);
        assert_eq!(context(client).unwrap().rewritten, network == 'b');
    }
    let report = client.shims(Some("c")).unwrap();
    let counter =
        |name: &str| report.vservers[0].counters.iter().find(|(n, _)| n == name).unwrap().1;
    assert!(counter("rewritten_out") > 0 && counter("control_sent") > 0, "{report:?}");
    let refused = client.shim_wish(&wish(SERVER, Some((ip("2001:db8:c::1"), ip("2001:db8:c::2")))));
    assert!(matches!(refused, Err(ShimError::Pair(..))), "{refused:?}");
    events_tell_the_moves(client);
}

fn events_tell_the_moves(client: &Host) {
    let (_, all) = client.shim_events(None, &BTreeMap::new()).unwrap();
    let page = &all.iter().find(|(vserver, _)| vserver == "c").unwrap().1;
    assert_eq!((page.lost, page.next), (0, page.items.len() as u64));
    assert_eq!((page.items[0].event.as_str(), page.items[0].number), ("established", 1));
    let manual: Vec<_> = page.items.iter().filter(|e| e.why.as_deref() == Some("manual")).collect();
    assert!(manual.len() >= 3, "{page:?}");
    assert_eq!((manual[0].event.as_str(), manual[0].at_us > 0), ("switched", true));
    assert_eq!((manual[0].from, manual[0].to), (Some(pair_of('a', 2)), Some(pair_of('b', 2))));
    let after = BTreeMap::from([(String::from("c"), page.next - 1)]);
    let (_, last) = client.shim_events(Some("c"), &after).unwrap();
    assert_eq!(last[0].1.items.first(), page.items.last());
}

#[test]
fn a_connection_moves_between_networks_over_memory() {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let text = |n: u8| {
        let nics = [0, 1].map(|i| nic(&format!("eth{i}"), 16 * n + i)).concat();
        format!("{nics}{}", network(n, &key))
    };
    let (server, peers) = start(&text(1));
    let client = start_on(&text(2), peers);
    connection_moves(&server, &client);
}

#[test]
fn a_probe_sets_a_context_up_and_measures_its_pairs() {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let text = |n: u8| {
        let nics = [0, 1].map(|i| nic(&format!("eth{i}"), 16 * n + i)).concat();
        format!("{nics}{}", network(n, &key))
    };
    let (server, peers) = start(&text(1));
    let client = start_on(&text(2), peers);
    until("addresses", || are_ready(&server, &client));
    client.shim_wish(&wish(SERVER, None)).unwrap();
    until("context", || context(&client).is_some());
    client.shim_wish(&wish(SERVER, None)).unwrap();
    until("round trips", || {
        let works = |p: &&weft_vserver::ShimPath| p.state == "works" && p.rtt_us.is_some();
        context(&client).is_some_and(|c| c.paths.iter().filter(works).count() >= 2)
    });
    let nobody = ShimWish { vserver: String::from("x"), ..wish(SERVER, None) };
    assert_eq!(client.shim_wish(&nobody), Err(ShimError::NoSuchVserver(String::from("x"))));
}

/// IPv6 by one network and IPv4 by the other, where shim packets go in UDP; and a vserver beside it
/// with the same port.
fn mixed(n: u8, key: &Path, shim: &str) -> String {
    let name = if n == 1 { "web" } else { "c" };
    let one = |name: &str, v6: &str, last: u8| {
        format!(
            "[vserver.{name}]\naddresses = [\"data0 2001:db8:a::{v6}/64\", \"data1 10.0.0.{last}/24\"]\n\
             [vserver.{name}.shim]\nset_up = \"immediate\"\nreap = \"rfc\"\n\
             keys = [\"2001:db8::/32 {}\"]\n{shim}\n",
            key.display()
        )
    };
    let nics = [0, 1].map(|i| nic(&format!("eth{i}"), 16 * n + i)).concat();
    let own = one(name, &n.to_string(), n);
    let beside = one("beside", &format!("b{n}"), 10 + n);
    format!("{nics}[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth1\"\n{own}{beside}")
}

fn over_v4() -> (IpAddr, IpAddr) {
    (ip("10.0.0.2"), ip("10.0.0.1"))
}

/// Contexts of one vserver that are established.
fn contexts_of(host: &Host, vserver: &str) -> Vec<ShimContext> {
    let mut all = host.shims(Some(vserver)).unwrap().contexts;
    all.retain(|c| c.state == "established");
    all
}

fn have_addresses(host: &Host, vserver: &str, addresses: &[&str]) -> bool {
    let has = vs(host, vserver).addresses();
    addresses.iter().all(|a| has.contains(&ip(a)))
}

fn mixed_ready(server: &Host, client: &Host) -> bool {
    have_addresses(server, "web", &[SERVER, "10.0.0.1"])
        && have_addresses(client, "c", &["2001:db8:a::2", "10.0.0.2"])
        && have_addresses(server, "beside", &["2001:db8:a::b1", "10.0.0.11"])
        && have_addresses(client, "beside", &["2001:db8:a::b2", "10.0.0.12"])
}

#[test]
fn udp_of_the_shim_finds_its_vserver_among_others_with_the_same_port() {
    udp_finds_its_vserver(1, 1);
}

#[test]
fn udp_of_the_shim_finds_the_home_of_its_vserver() {
    udp_finds_its_vserver(2, 3);
    udp_finds_its_vserver(3, 2);
}

fn udp_finds_its_vserver(server_workers: usize, client_workers: usize) {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let text = |n, count| workers(count, n) + &mixed(n, &key, "udp_port = 4140");
    let (server, peers) = start(&text(1, server_workers));
    let client = start_on(&text(2, client_workers), peers);
    until("addresses", || mixed_ready(&server, &client));
    let taken = UdpSocket::bind(&vs(&client, "c"), addr("[::]:4140")).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse, "the port is the shim's");
    let beside = "2001:db8:a::b1";
    let mut streams = Vec::new();
    for (at, name, from) in [(SERVER, "web", "c"), (beside, "beside", "beside")] {
        let to = addr(&format!("[{at}]:7"));
        let _listening = echo_server(&vs(&server, name), to);
        streams.push(connect(&vs(&client, from), to));
        echo(streams.last().unwrap(), &pattern(10_000));
        until("context", || contexts_of(&client, from).len() == 1);
    }
    let pair = (ip("10.0.0.12"), ip("10.0.0.11"));
    let other = ShimWish { vserver: String::from("beside"), ..wish(beside, Some(pair)) };
    let wishes = [wish(SERVER, Some(over_v4())), other];
    for (wish, stream) in wishes.iter().zip(&streams) {
        transfer_by(&client, wish, stream);
        let vserver = &*wish.vserver;
        assert!(contexts_of(&client, vserver)[0].rewritten);
        let line = &client.shims(Some(vserver)).unwrap().vservers[0];
        assert_eq!((line.udp_port, line.contexts), (Some(4140), 1));
    }
}

#[test]
fn a_shim_that_runs_takes_another_table() {
    takes_another_table(1);
}

#[test]
fn a_shim_that_runs_on_one_of_several_workers_takes_another_table() {
    takes_another_table(3);
}

fn takes_another_table(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let mixed = |n, key: &Path, shim: &str| workers(count, n) + &mixed(n, key, shim);
    let (server, peers) = start(&mixed(1, &key, "udp_port = 4140"));
    let client = Arc::new(start_on(&mixed(2, &key, ""), peers));
    let changes = Changes::new(Arc::clone(&client), None, Vec::new(), |_, _| {});
    let apply = |text: &str| changes.apply(config(text), &Options::default());
    until("addresses", || mixed_ready(&server, &client));
    let _listening = echo_server(&vs(&server, "web"), addr(&format!("[{SERVER}]:7")));
    let stream = connect(&vs(&client, "c"), addr(&format!("[{SERVER}]:7")));
    echo(&stream, &pattern(10_000));
    until("context", || contexts_of(&client, "c").len() == 1);
    let shown = || client.shims(Some("c")).unwrap().vservers.remove(0);
    assert_eq!((shown().udp_port, &*shown().policy), (None, "failover"));

    apply(&mixed(
        2,
        &key,
        "udp_port = 4140\npolicy = \"prefer\"\ncontexts = 7\naccept = [\"keyed\"]",
    ))
    .unwrap();
    let line = shown();
    assert_eq!((line.udp_port, &*line.policy, line.contexts_max), (Some(4140), "prefer", 7));
    // Errors about what the peer sent to the port before may have made it ask the IPv4 address too.
    assert_eq!(line.accept, [String::from("keyed")]);
    assert_eq!(contexts_of(&client, "c").len(), 1);
    client.shim_wish(&wish(SERVER, Some(over_v4()))).unwrap();
    echo(&stream, &pattern(300_000));

    // A file that is no key: everything stays.
    std::fs::write(&key, "short").unwrap();
    let failed = apply(&mixed(2, &key, "")).unwrap_err().to_string();
    assert!(failed.contains("shim: vserver ") && failed.contains("16 to 64 bytes"), "{failed}");
    assert_eq!((shown().udp_port, &*shown().policy), (Some(4140), "prefer"));
    write_key(directory.path());
    echo(&stream, &pattern(10_000));

    let off = apply(&mixed(2, &key, "enabled = false")).unwrap_err();
    let ApplyError::Obstacles(obstacles) = off else { panic!("{off}") };
    assert!(obstacles.iter().any(|o| o.object == "shim of vserver c"), "{obstacles:?}");
}

#[test]
fn a_shim_is_switched_on_under_a_connection() {
    is_switched_on(1);
}

#[test]
fn a_shim_is_switched_on_under_a_connection_that_is_at_home_already() {
    is_switched_on(2);
}

fn is_switched_on(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let mixed = |n, key: &Path, shim: &str| workers(count, n) + &mixed(n, key, shim);
    let (server, peers) = start(&mixed(1, &key, "udp_port = 4140"));
    let client = Arc::new(start_on(&mixed(2, &key, "enabled = false"), peers));
    let changes = Changes::new(Arc::clone(&client), None, Vec::new(), |_, _| {});
    until("addresses", || mixed_ready(&server, &client));
    let _listening = echo_server(&vs(&server, "web"), addr(&format!("[{SERVER}]:7")));
    let stream = connect(&vs(&client, "c"), addr(&format!("[{SERVER}]:7")));
    echo(&stream, &pattern(10_000));
    assert_eq!(client.shims(None).unwrap().vservers, []);
    let on = mixed(2, &key, "udp_port = 4140");
    changes.apply(config(&on), &Options::default()).unwrap();
    // The peer asked in vain before; it is asked now.
    echo(&stream, &pattern(10_000));
    until("context", || contexts_of(&client, "c").len() == 1);
    client.shim_wish(&wish(SERVER, Some(over_v4()))).unwrap();
    echo(&stream, &pattern(300_000));
}

#[test]
fn sockets_read_and_choose_the_locators_of_their_context() {
    sockets_choose(1);
    sockets_choose(3);
}

fn sockets_choose(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let text = |n| workers(count, n) + &mixed(n, &key, "udp_port = 4140");
    let (server, peers) = start(&text(1));
    let client = start_on(&text(2), peers);
    until("addresses", || mixed_ready(&server, &client));
    let c = vs(&client, "c");
    let _listening = echo_server(&vs(&server, "web"), addr(&format!("[{SERVER}]:7")));
    let stream = connect(&c, addr(&format!("[{SERVER}]:7")));
    echo(&stream, &pattern(10_000));
    until("context", || contexts_of(&client, "c").len() == 1);
    let flag = |on| ShimValue::Flag(on);
    let at = |text: &str| ShimValue::Addr(ip(text));
    assert_eq!(stream.shim_option(ShimOption::Associated).unwrap(), flag(true));
    assert_eq!(stream.shim_option(ShimOption::PeerSend).unwrap(), at(SERVER));
    let ShimValue::List(list) = stream.shim_option(ShimOption::PeerList).unwrap() else { panic!() };
    assert!(list.contains(ip("10.0.0.1")));
    // No pair of two families: the context is moved as a whole, and a datagram socket sees it.
    let refused = stream.set_shim_option(ShimOption::PeerSend, &at("10.0.0.1")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    client.shim_wish(&wish(SERVER, Some(over_v4()))).unwrap();
    let datagrams = UdpSocket::bind(&c, addr("[::]:0")).unwrap();
    let unconnected = datagrams.shim_option(ShimOption::PeerSend).unwrap_err();
    assert_eq!(unconnected.kind(), std::io::ErrorKind::NotConnected);
    datagrams.connect(addr(&format!("[{SERVER}]:9"))).unwrap();
    assert_eq!(datagrams.shim_option(ShimOption::PeerSend).unwrap(), at("10.0.0.1"));
    let why = stream.shim_option(ShimOption::DontShim).unwrap_err();
    assert_eq!(why.kind(), std::io::ErrorKind::Unsupported);
}

const KEY: &[u8] = include_bytes!("../../shim/tests/data/cga-test-key.pem");

/// A vserver with an address of a set in network `a`, and one in `b` that nobody knew of when the set
/// was made: it is signed for. Its file, and the first address.
fn signed(n: u8, directory: &Path, with_key: bool) -> (String, Ipv6Addr) {
    use std::io::Write;
    let key = SigningKey::from_pkcs8(KEY).unwrap();
    let prefixes = ["2001:db8:a::", "2001:db8:c::"].map(|p| prefix_of(p.parse().unwrap()));
    let der = with_key.then(|| key.public_der());
    let mut search = Search::new(&prefixes, 0, der, 1, &mut Rng::from_u64(n.into())).unwrap();
    let set = search.advance(1).unwrap().unwrap();
    let (pds, pem) = (directory.join(format!("{n}.pds")), directory.join(format!("{n}.pem")));
    std::fs::write(&pds, set.parameters().emit()).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&pem).unwrap();
    file.write_all(KEY).unwrap();
    let (name, first) = (if n == 1 { "web" } else { "c" }, set.addresses()[0]);
    let nics = [0, 1].map(|i| nic(&format!("eth{i}"), 16 * n + i)).concat();
    let text = format!(
        "{nics}[alias.data0]\nover = \"eth0\"\n[alias.data1]\nover = \"eth1\"\n[vserver.{name}]\n\
         addresses = [\"data0 {first}/64\", \"data1 2001:db8:b::{n}/64\"]\n\
         [vserver.{name}.shim]\nset_up = \"immediate\"\nreap = \"rfc\"\naccept = [\"cga\"]\n\
         offer = [\"cga\"]\nparameters = \"{}\"\nsigning_key = \"{}\"\n",
        pds.display(),
        pem.display()
    );
    (text, first)
}

#[test]
fn an_address_that_came_later_is_signed_for() {
    let directory = tempfile::tempdir().unwrap();
    let (one, at) = signed(1, directory.path(), true);
    let (two, from) = signed(2, directory.path(), true);
    let (server, peers) = start(&one);
    let client = start_on(&two, peers);
    until("addresses", || {
        have_addresses(&server, "web", &[&at.to_string(), "2001:db8:b::1"])
            && have_addresses(&client, "c", &[&from.to_string(), "2001:db8:b::2"])
    });
    let to = addr(&format!("[{at}]:7"));
    let _listening = echo_server(&vs(&server, "web"), to);
    let stream = connect(&vs(&client, "c"), to);
    echo(&stream, &pattern(10_000));
    until("context", || context(&client).is_some());
    let proved = context(&client).unwrap().peer_locators;
    let signed = proved.iter().find(|l| l.address == ip("2001:db8:b::1")).unwrap();
    assert_eq!(signed.verification, "cga");
    transfer_by(&client, &wish(&at.to_string(), Some(pair_of('b', 2))), &stream);
    assert!(context(&client).unwrap().rewritten);
}

#[test]
fn a_key_that_the_set_was_not_made_with_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (text, _) = signed(1, directory.path(), false);
    let Err(why) = Host::start(config(&text)) else { panic!("it started") };
    let why = why.to_string();
    assert!(why.contains("not the key that the set was made with"), "{why}");
}

#[test]
fn a_vserver_without_a_shim_says_so() {
    let text = format!(
        "{}[alias.data0]\nover = \"eth0\"\n[vserver.c]\naddresses = [\"data0 fd00::1/64\"]\n",
        nic("eth0", 1)
    );
    let (host, _peers) = start(&text);
    assert_eq!(host.shim_wish(&wish(SERVER, None)), Err(ShimError::Off(String::from("c"))));
    assert_eq!(host.shims(None).unwrap().vservers, []);
    assert_eq!(host.shims(Some("x")), None);
    assert_eq!(host.shim_events(Some("x"), &BTreeMap::new()), None);
}

/// The hosts' cables are veth pairs: w0 is network a, w1 is b; with as many queues as workers.
fn over_veth(key: &Path, count: usize) -> Option<(Host, Host, Netns, Netns)> {
    let (a, b) = cabled(2, count)?;
    let one =
        |i| format!("[nic.eth{i}]\ndevice = \"w{i}\"\ndriver = \"af-xdp\"\nqueues = {count}\n");
    let nics = [0, 1].map(one).concat();
    let pool = if count == 1 { "[workers]\nframes = 4096\n" } else { "" };
    let text = |n: u8| format!("{pool}{}{nics}{}", workers(count, n), network(n, key));
    let mut started = Vec::new();
    for (space, n) in [(&a, 1), (&b, 2)] {
        match space.enter(|| Host::start(config(&text(n)))).unwrap() {
            Ok(host) => started.push(host),
            Err(e) => {
                println!("SKIP: {e}");
                return None;
            }
        }
    }
    let client = started.pop()?;
    Some((started.pop()?, client, a, b))
}

#[test]
fn protocol_140_is_steered_to_its_vserver_and_a_link_that_goes_down_is_left_at_once() {
    is_steered(1);
}

#[test]
fn protocol_140_finds_the_home_of_its_vserver_by_any_queue() {
    is_steered(2);
}

fn is_steered(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let Some((server, client, _a, b)) = over_veth(&write_key(directory.path()), count) else {
        return;
    };
    connection_moves(&server, &client);
    let stream = connect(&vs(&client, "c"), addr(&format!("[{SERVER}]:7")));
    let a = pair_of('a', 2);
    client.shim_wish(&wish(SERVER, Some(a))).unwrap();
    echo(&stream, &pattern(100_000));
    // The alias's link is gone, so is the locator; the connection is not.
    b.enter(|| Netlink::open().unwrap().set_up("w0", false).unwrap()).unwrap();
    until("switch", || by(&client) == Some(pair_of('b', 2)));
    echo(&stream, &pattern(300_000));
}

/// As [`network`], over `count` workers and NICs of several queues, with vservers that have no shim.
fn crowd(n: u8, key: &Path, (count, queues): (usize, usize)) -> String {
    let nics =
        [0, 1].map(|i| nic(&format!("eth{i}"), 16 * n + i) + &format!("queues = {queues}\n"));
    let plain = format!(
        "[vserver.plain]\naddresses = [\"data0 2001:db8:a::1{n}/64\", \"data1 10.0.0.{n}/24\"]\n"
    );
    let limits = "limits = { raw_sockets = 4, icmp_sockets = 4 }\n";
    let network = network(n, key).replace("addresses", &format!("{limits}addresses"));
    format!("{}{}{network}{plain}", workers(count, n), nics.concat())
}

fn crowds(server: usize, client: usize, queues: usize, key: &Path) -> (Host, Host) {
    let text = crowd(1, key, (server, queues));
    let server = Host::start(config(&text)).unwrap_or_else(|e| panic!("{e}"));
    let far = |nic: &str| (nic.to_owned(), server.take_mem_peers(nic).unwrap());
    let devices = Devices::from(["eth0", "eth1"].map(far));
    let text = crowd(2, key, (client, queues));
    let client = Host::start_with_devices(config(&text), devices).unwrap_or_else(|e| panic!("{e}"));
    until("addresses", || {
        let plain = |host, n| {
            let all = [format!("2001:db8:a::1{n}"), format!("10.0.0.{n}")];
            have_addresses(host, "plain", &[&all[0], &all[1]])
        };
        are_ready(&server, &client) && plain(&server, 1) && plain(&client, 2)
    });
    (server, client)
}

/// Whatever was received has one fate, and nothing was lost on the way between workers.
fn check_fates(host: &Host) {
    let snapshot = host.snapshot();
    let sum = |v: &str| -> u64 { snapshot.vservers.iter().map(|s| s.counters[v]).sum() };
    let fates = ["FrameInDelivered", "FrameInForwarded", "FrameInConsumed", "FrameInDropped"];
    assert_eq!(sum("FrameInFrames"), fates.iter().map(|f| sum(f)).sum::<u64>());
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    let full = ["HomeFull", "HandOverFull"].map(|r| snapshot.drops.get(r).copied());
    assert_eq!(full, [None, None]);
}

fn home_of(host: &Host, vserver: &str) -> usize {
    host.shims(Some(vserver)).unwrap().vservers[0].worker
}

#[test]
fn connections_find_the_home_of_their_vserver_by_any_queue() {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    for (server, client, queues) in [(2, 2, 1), (2, 3, 2), (3, 2, 2), (3, 1, 3)] {
        let (web, c) = crowds(server, client, queues, &key);
        connection_moves(&web, &c);
        assert_eq!((home_of(&web, "web"), home_of(&c, "c")), (1, usize::from(client > 1)));
        // Beside them, and with them, vservers whose flows are on all workers.
        let (at, beside) = (addr(&format!("[{SERVER}]:7")), addr("[2001:db8:a::11]:7"));
        let _echo = echo_server(&vs(&web, "plain"), beside);
        let mut owners = HashSet::new();
        // One of three would be left out by 24 flows once in 5,000 times, by 200 never.
        for flow in 0..200 {
            if flow >= 24 && owners.len() == server {
                break;
            }
            let stream = connect(&vs(&c, "plain"), beside);
            owners.insert(flow_owner(stream.local_addr().unwrap(), beside, server as u16));
            echo(&stream, &pattern(3_000));
            echo(&connect(&vs(&c, "c"), at), &pattern(3_000));
        }
        assert_eq!(owners.len(), server);
        for (from, to) in [("c", beside), ("plain", at)] {
            echo(&connect(&vs(&c, from), to), &pattern(30_000));
        }
        assert!(web.snapshot().hand_over["HandOverHome"] > 0);
        check_fates(&web);
        check_fates(&c);
    }
}

/// Datagrams, whole and in fragments, echoes, errors and groups, between `c` and `web`.
fn everything_but_tcp(web: &Vserver, c: &Vserver) {
    let patient = |v: &Vserver| {
        let socket = UdpSocket::bind(v, addr("[::]:0")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let asker = patient(c);
    for _ in 0..8 {
        let socket = patient(web);
        let to = SocketAddr::new(ip(SERVER), socket.local_addr().unwrap().port());
        for len in [1, 1400, 9000] {
            let sent = pattern(len);
            asker.send_to(&sent, to).unwrap();
            let got = socket.recv_datagram().unwrap();
            assert!(got.payload == sent);
            socket.send_to(&got.payload, got.from).unwrap();
            assert!(asker.recv_datagram().unwrap().payload == sent);
        }
    }
    asker.connect(addr(&format!("[{SERVER}]:9"))).unwrap();
    asker.send(b"x").unwrap();
    let refused = asker.recv_datagram().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let ping = IcmpSocket::open(c, Family::V6).unwrap();
    ping.set_read_timeout(Some(PATIENCE)).unwrap();
    for sequence in 0..8 {
        ping.send_echo(sequence, &pattern(4000), Some(addr(&format!("[{SERVER}]:0")))).unwrap();
        assert_eq!(ping.recv_answer().unwrap().sequence, sequence);
    }
    let raw = RawSocket::open(web, Family::V6, 17).unwrap();
    raw.set_read_timeout(Some(PATIENCE)).unwrap();
    let from = patient(c);
    for port in 7000..7008u16 {
        from.send_to(b"x", SocketAddr::new(ip(SERVER), port)).unwrap();
        assert_eq!(raw.recv_packet().unwrap().payload[2..4], port.to_be_bytes());
    }
    let (group, alias) = (ip("ff0e::77"), web.alias("data0").unwrap());
    let member = patient(web);
    member.join_multicast(alias, group).unwrap();
    member.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
    let to = SocketAddr::new(group, member.local_addr().unwrap().port());
    let how = UdpSend { to: Some(to), alias: c.alias("data0"), ..UdpSend::default() };
    until("a datagram to the group", || {
        from.send_with(b"all", &how).unwrap();
        member.recv_datagram().is_ok_and(|d| d.payload == b"all"[..])
    });
}

#[test]
fn all_that_is_not_tcp_finds_the_home_of_its_vserver_too() {
    let directory = tempfile::tempdir().unwrap();
    let (web, c) = crowds(3, 2, 1, &write_key(directory.path()));
    until("context", || {
        c.shim_wish(&wish(SERVER, None)).unwrap();
        context(&c).is_some() && context(&web).is_some()
    });
    for network in ['a', 'b'] {
        c.shim_wish(&wish(SERVER, Some(pair_of(network, 2)))).unwrap();
        everything_but_tcp(&vs(&web, "web"), &vs(&c, "c"));
        assert_eq!(context(&c).unwrap().rewritten, network == 'b');
    }
    assert!(vs(&web, "web").addresses().contains(&ip(SERVER)));
    let counters =
        web.snapshot().vservers.iter().find(|v| v.name == "web").unwrap().counters.clone();
    assert!(counters["NeighOutGroupReports"] > 0, "shard 0 tells routers of groups");
    check_fates(&web);
    check_fates(&c);
}

#[test]
fn vservers_of_one_host_reach_each_other_wherever_they_are_at_home() {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let one = |name: &str, n: u8, shim: bool| {
        let table =
            format!("[vserver.{name}.shim]\nkeys = [\"2001:db8::/32 {}\"]\n", key.display());
        let table = if shim { &table[..] } else { "" };
        format!("[vserver.{name}]\naddresses = [\"data0 2001:db8:a::{n}/64\"]\n{table}")
    };
    let names = ["p", "q", "r", "s"];
    let all: String = (1..).zip(names).map(|(n, name)| one(name, n, n < 4)).collect();
    let text =
        format!("[workers]\ncount = 3\n{}[alias.data0]\nover = \"eth0\"\n{all}", nic("eth0", 1));
    let (host, _far) = start(&text);
    assert_eq!([0, 1, 2].map(|i| home_of(&host, names[i])), [0, 1, 2]);
    let address = |n: usize| format!("2001:db8:a::{}", n + 1);
    until("addresses", || (0..4).all(|n| have_addresses(&host, names[n], &[&address(n)])));
    for (n, name) in names.iter().enumerate() {
        let _echo = echo_server(&vs(&host, name), addr("[::]:7"));
        let datagrams = UdpSocket::bind(&vs(&host, name), addr("[::]:7")).unwrap();
        datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
        for from in names {
            let to = addr(&format!("[{}]:7", address(n)));
            echo(&connect(&vs(&host, from), to), &pattern(100_000));
            let asker = UdpSocket::bind(&vs(&host, from), addr("[::]:0")).unwrap();
            asker.set_read_timeout(Some(PATIENCE)).unwrap();
            asker.send_to(b"hello", to).unwrap();
            let got = datagrams.recv_datagram().unwrap();
            datagrams.send_to(&got.payload, got.from).unwrap();
            assert_eq!(asker.recv_datagram().unwrap().payload, b"hello"[..]);
        }
    }
    assert!(host.snapshot().hand_over["HandOverHome"] > 0);
    check_fates(&host);
}

#[test]
fn a_vserver_is_at_home_where_its_table_says_until_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let one = |(n, name, home): (usize, &str, Option<u16>)| {
        let home = home.map_or_else(String::new, |home| format!("home = {home}\n"));
        format!(
            "[vserver.{name}]\naddresses = [\"data0 2001:db8:a::{n}/64\"]\n\
             [vserver.{name}.shim]\nkeys = [\"2001:db8::/32 {}\"]\n{home}",
            key.display()
        )
    };
    let text = |all: &[(&str, Option<u16>)]| {
        let all: String = (1..).zip(all).map(|(n, (name, home))| one((n, name, *home))).collect();
        format!("[workers]\ncount = 3\n{}[alias.data0]\nover = \"eth0\"\n{all}", nic("eth0", 1))
    };
    let (host, _far) = start(&text(&[("p", Some(2)), ("q", None), ("r", Some(2))]));
    let host = Arc::new(host);
    assert_eq!(["p", "q", "r"].map(|name| home_of(&host, name)), [2, 0, 2]);
    let named = |name: &str| host.shims(Some(name)).unwrap().vservers[0].home;
    assert_eq!(["p", "q", "r"].map(named), [Some(2), None, Some(2)]);
    until("addresses", || have_addresses(&host, "p", &["2001:db8:a::1"]));
    until("addresses", || have_addresses(&host, "q", &["2001:db8:a::2"]));
    let to = addr("[2001:db8:a::1]:7");
    let _echo = echo_server(&vs(&host, "p"), to);
    echo(&connect(&vs(&host, "q"), to), &pattern(30_000));

    let changes = Changes::new(Arc::clone(&host), None, Vec::new(), |_, _| {});
    let apply =
        |all: &[(&str, Option<u16>)]| changes.apply(config(&text(all)), &Options::default());
    // A name that is no longer there moves nothing, and a new vserver is where it is to be.
    apply(&[("p", Some(2)), ("q", None), ("r", None), ("s", Some(1))]).unwrap();
    assert_eq!(["p", "q", "r", "s"].map(|name| home_of(&host, name)), [2, 0, 2, 1]);
    assert_eq!(named("r"), None);
    for q in [Some(0), Some(1)] {
        let refused = apply(&[("p", Some(2)), ("q", q), ("r", None), ("s", Some(1))]).unwrap_err();
        let ApplyError::Obstacles(obstacles) = refused else { panic!("{refused}") };
        assert_eq!(obstacles.len(), 1);
        assert_eq!(obstacles[0].object, "shim of vserver q");
        assert!(obstacles[0].reason.contains("or restart"), "{}", obstacles[0].reason);
    }
    assert_eq!(home_of(&host, "q"), 0);
}

/// Tells on which worker it was called.
struct Where(Arc<Mutex<Vec<usize>>>);

impl Service for Where {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.listen(addr("[::]:70"), 16).unwrap();
    }
    fn accepted(&mut self, cx: &mut Cx<'_>, _: SocketId, _: SocketAddr) {
        self.0.lock().unwrap().push(cx.worker());
    }
}

#[test]
fn services_and_sockets_for_any_vserver_are_at_home_where_the_vserver_is() {
    let directory = tempfile::tempdir().unwrap();
    let (web, c) = crowds(3, 2, 2, &write_key(directory.path()));
    let called = Arc::new(Mutex::new(Vec::new()));
    let mut instances = Vec::new();
    let service = web.run_service(&vs(&web, "web"), |worker| {
        instances.push(worker);
        Where(Arc::clone(&called))
    });
    let _service = service.unwrap();
    assert_eq!(instances, [1]);
    let any = web.listen_any(71, &AnyOptions::default()).unwrap();
    any.set_timeout(Some(PATIENCE)).unwrap();
    let datagrams = web.bind_any_udp(71, &AnyOptions::default()).unwrap();
    datagrams.set_timeout(Some(PATIENCE)).unwrap();
    let c = vs(&c, "c");
    for _ in 0..8 {
        drop(connect(&c, addr(&format!("[{SERVER}]:70"))));
        for (at, name) in [(SERVER, "web"), ("2001:db8:a::11", "plain")] {
            let to = addr(&format!("[{at}]:71"));
            let stream = connect(&c, to);
            let (accepted, peer) = any.accept().unwrap();
            assert_eq!(peer, stream.local_addr().unwrap());
            assert_eq!(accepted.vserver().name(), name);
            let asker = UdpSocket::bind(&c, addr("[::]:0")).unwrap();
            asker.set_read_timeout(Some(PATIENCE)).unwrap();
            asker.send_to(b"hello", to).unwrap();
            let (got, arrival) = datagrams.recv_datagram().unwrap();
            datagrams.send_to(&got.payload, got.from, &arrival).unwrap();
            assert_eq!(asker.recv_datagram().unwrap().payload, b"hello"[..]);
        }
    }
    until("callbacks", || called.lock().unwrap().len() == 8);
    assert!(called.lock().unwrap().iter().all(|worker| *worker == 1));
}

#[test]
fn vservers_with_a_shim_come_and_go_and_their_homes_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let key = write_key(directory.path());
    let (web, c) = crowds(3, 2, 1, &key);
    let c = Arc::new(c);
    let changes = Changes::new(Arc::clone(&c), None, Vec::new(), |_, _| {});
    let text = crowd(2, &key, (2, 1));
    let more = |name: &str, n: u8| {
        let key = key.display();
        format!(
            "[vserver.{name}]\naddresses = [\"data0 2001:db8:a::{n}/64\", \"data1 2001:db8:b::{n}/64\"]\n\
             [vserver.{name}.shim]\nset_up = \"immediate\"\nkeys = [\"2001:db8::/32 {key}\"]\n"
        )
    };
    let at = addr(&format!("[{SERVER}]:7"));
    let _echo = echo_server(&vs(&web, "web"), at);
    let first = connect(&vs(&c, "c"), at);
    let both = format!("{text}{}{}", more("d", 33), more("e", 34));
    changes.apply(config(&both), &Options::default()).unwrap();
    assert_eq!(["c", "d", "e"].map(|v| home_of(&c, v)), [1, 0, 1]);
    for (name, n) in [("d", 33), ("e", 34)] {
        until("addresses", || have_addresses(&c, name, &[&format!("2001:db8:a::{n}")]));
        echo(&connect(&vs(&c, name), at), &pattern(30_000));
        until("context", || contexts_of(&c, name).len() == 1);
    }
    changes.apply(config(&format!("{text}{}", more("e", 34))), &Options::default()).unwrap();
    echo(&first, &pattern(30_000));
    echo(&connect(&vs(&c, "e"), at), &pattern(30_000));
    // A vserver whose flows are everywhere cannot be given a shim.
    let shim = format!("{text}[vserver.plain.shim]\nset_up = \"immediate\"\n");
    let refused = changes.apply(config(&shim), &Options::default()).unwrap_err();
    let ApplyError::Obstacles(obstacles) = refused else { panic!("{refused}") };
    assert!(obstacles.iter().any(|o| o.object == "shim of vserver plain"), "{obstacles:?}");
    changes.apply(config(&text), &Options::default()).unwrap();
    echo(&first, &pattern(30_000));
    check_fates(&c);
}

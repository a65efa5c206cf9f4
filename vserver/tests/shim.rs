//! Connections of vservers that outlive their paths: two hosts, two networks between them, over
//! memory and over AF_XDP on veth pairs in namespaces that the tests make.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use common::{addr, config, connect, echo, echo_server, nic, pattern, start, start_on, until, vs};
use weft_drivers::ethtool::{Offload, set_offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_vserver::{Host, ShimContext, ShimError, ShimWish};

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

fn write_key(directory: &Path) -> std::path::PathBuf {
    use std::io::Write;
    let path = directory.join("peers.key");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&path).unwrap();
    file.write_all(b"a secret of two hosts\n").unwrap();
    path
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
        client.shim_wish(&wish(SERVER, Some(pair))).unwrap();
        assert_eq!(by(client), Some(pair));
        echo(&stream, &pattern(300_000));
        assert_eq!(context(client).unwrap().rewritten, network == 'b');
    }
    let report = client.shims(Some("c")).unwrap();
    let counter =
        |name: &str| report.vservers[0].counters.iter().find(|(n, _)| n == name).unwrap().1;
    assert!(counter("rewritten_out") > 0 && counter("control_sent") > 0, "{report:?}");
    let refused = client.shim_wish(&wish(SERVER, Some((ip("2001:db8:c::1"), ip("2001:db8:c::2")))));
    assert!(matches!(refused, Err(ShimError::Pair(..))), "{refused:?}");
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
}

/// The hosts' cables are veth pairs: w0 is network a, w1 is b.
fn over_veth(key: &Path) -> Option<(Host, Host, Netns, Netns)> {
    let (Ok(a), Ok(b)) = (Netns::new(), Netns::new()) else {
        println!("SKIP: network namespaces need root");
        return None;
    };
    for i in 0..2 {
        let name = format!("w{i}");
        let other = b.clone();
        a.enter(|| {
            let ends = [(1, None), (2, Some(other.as_fd()))];
            let ends = ends.map(|(n, netns)| VethEnd {
                name: &name,
                netns,
                mac: Some([2, 0, 0, 0, n, i]),
            });
            let mut netlink = Netlink::open().unwrap();
            netlink.add_veth(&ends[0], &ends[1], 1, 1500).unwrap();
            netlink.set_up(&name, true).unwrap();
            // A veth never completes the checksums that the kernel leaves to it.
            set_offload(&name, Offload::TxChecksum, false).unwrap();
        })
        .unwrap();
        b.enter(|| Netlink::open().unwrap().set_up(&name, true).unwrap()).unwrap();
    }
    let one = |i| format!("[nic.eth{i}]\ndevice = \"w{i}\"\ndriver = \"af-xdp\"\n");
    let nics = [0, 1].map(one).concat();
    let text = |n: u8| format!("[workers]\nframes = 4096\n{nics}{}", network(n, key));
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
    let directory = tempfile::tempdir().unwrap();
    let Some((server, client, _a, b)) = over_veth(&write_key(directory.path())) else { return };
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

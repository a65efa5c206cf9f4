//! Namespaces, links and offloads against the kernel.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::ethtool::{self, Offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::{Netns, may_make_namespaces};
use weft_drivers::nic::{LinkChange, LinkMonitor, Nic};

fn pair() -> Option<(Netns, Netns)> {
    if !may_make_namespaces() {
        println!("SKIP: network namespaces need root");
        return None;
    }
    let (a, b) = (Netns::new().expect("a"), Netns::new().expect("b"));
    let made = a.enter(|| {
        let mut netlink = Netlink::open()?;
        let near = VethEnd { name: "va", netns: None, mac: Some([2, 0, 0, 0, 0, 1]) };
        let far = VethEnd { name: "vb", netns: Some(b.as_fd()), mac: Some([2, 0, 0, 0, 0, 2]) };
        netlink.add_veth(&near, &far, 2, 1500)?;
        netlink.set_up("lo", true)?;
        netlink.set_up("va", true)
    });
    made.expect("enter").expect("veth");
    b.enter(|| Netlink::open().and_then(|mut n| n.set_up("vb", true))).expect("enter").expect("up");
    Some((a, b))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_veth_pair_has_the_facts_it_was_made_with() {
    let Some((a, b)) = pair() else { return };
    let facts = b.enter(|| Nic::query("vb")).expect("enter").expect("query");
    assert_eq!(facts.mac, Some([2, 0, 0, 0, 0, 2]));
    assert_eq!((facts.mtu, facts.rx_queues, facts.tx_queues), (1500, 2, 2));
    assert!(facts.up);
    assert_eq!(facts.driver, "veth");
    let names =
        a.enter(|| Netlink::open().and_then(|mut n| n.links())).expect("enter").expect("links");
    let names: Vec<&str> = names.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["lo", "va"]);
}

#[test]
fn tcp_crosses_the_pair_over_both_families_and_the_link_counts_it() {
    let Some((a, b)) = pair() else { return };
    for (ns, name, v4, v6) in [(&a, "va", "10.9.0.1", "fd09::1"), (&b, "vb", "10.9.0.2", "fd09::2")]
    {
        ns.enter(|| {
            let mut netlink = Netlink::open()?;
            netlink.add_address(name, address(v4), 24)?;
            netlink.add_address(name, address(v6), 64)
        })
        .expect("enter")
        .expect("addresses");
    }
    for to in ["10.9.0.1", "fd09::1"] {
        let listener =
            a.enter(|| TcpListener::bind((address(to), 0))).expect("enter").expect("bind");
        let port = listener.local_addr().expect("local").port();
        let stream = b.enter(|| TcpStream::connect((address(to), port))).expect("enter");
        drop(stream.expect("connects at once, without waiting for address detection"));
    }
    let stats = a.enter(|| Netlink::open().and_then(|mut n| n.link("va"))).expect("enter");
    assert!(stats.expect("link").stats.rx_packets >= 4);
    let neighbours = b.enter(|| Netlink::open().and_then(|mut n| n.neighbours())).expect("enter");
    let neighbours = neighbours.expect("neighbours");
    assert!(neighbours.iter().any(|n| n.mac == Some([2, 0, 0, 0, 0, 1])), "{neighbours:?}");
}

#[test]
fn routes_and_addresses_can_be_taken_back() {
    let Some((a, _b)) = pair() else { return };
    a.enter(|| {
        let mut netlink = Netlink::open().expect("open");
        netlink.add_address("va", address("10.9.0.1"), 24).expect("add");
        netlink.add_route(address("0.0.0.0"), 0, Some(address("10.9.0.9")), None).expect("default");
        netlink.add_route(address("fd77::"), 64, None, Some("va")).expect("on link");
        netlink.delete_address("va", address("10.9.0.1"), 24).expect("delete");
        let again = netlink.delete_address("va", address("10.9.0.1"), 24).expect_err("gone");
        assert!(again.to_string().contains("10.9.0.1/24 of va"), "{again}");
    })
    .expect("enter");
}

#[test]
fn the_monitor_tells_of_a_link_going_down_and_away() {
    let Some((a, b)) = pair() else { return };
    let mut monitor = a.enter(LinkMonitor::open).expect("enter").expect("open");
    // What is left of setting it up may come late; when nothing waits, it says so.
    while monitor.poll().expect("poll").is_some() {}
    let index = a.enter(|| Nic::query("va")).expect("enter").expect("query").index;
    b.enter(|| Netlink::open().and_then(|mut n| n.set_up("vb", false)))
        .expect("enter")
        .expect("down");
    wait_for(
        &mut monitor,
        |c| matches!(c, LinkChange::Changed(f) if f.index == index && !f.carrier),
    );
    a.enter(|| Netlink::open().and_then(|mut n| n.delete_link("va")))
        .expect("enter")
        .expect("delete");
    wait_for(&mut monitor, |c| *c == LinkChange::Gone(index));
}

/// The kernel tells of carrier from a work queue, so a change may take a moment to come.
fn wait_for(monitor: &mut LinkMonitor, wanted: impl Fn(&LinkChange) -> bool) {
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    loop {
        let mut fds = [PollFd::from_borrowed_fd(monitor.fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&patience)).expect("poll"), 1, "no such change came");
        if monitor.poll().expect("read").iter().flatten().any(&wanted) {
            return;
        }
    }
}

#[test]
fn offloads_sysctls_and_threaded_napi_are_per_namespace() {
    let Some((a, _b)) = pair() else { return };
    a.enter(|| {
        ethtool::set_offload("va", Offload::TxChecksum, false)?;
        ethtool::set_offload("va", Offload::Gro, true)
    })
    .expect("enter")
    .expect("offloads");
    a.enter_with_sysfs(|| ethtool::set_threaded_napi("va", true)).expect("enter").expect("napi");
    assert!(!std::path::Path::new("/sys/class/net/va").exists(), "the mount must stay private");
    let before = Netns::current().expect("current").sysctl("net/ipv4/ip_forward").expect("read");
    a.set_sysctl("net/ipv4/ip_forward", "1").expect("write");
    assert_eq!(a.sysctl("net/ipv4/ip_forward").expect("read"), "1");
    let after = Netns::current().expect("current").sysctl("net/ipv4/ip_forward").expect("read");
    assert_eq!(before, after);
}

#[test]
fn a_child_starts_inside_and_missing_interfaces_are_named() {
    let Some((a, _b)) = pair() else { return };
    let output = a.command("cat").arg("/proc/self/net/dev").output().expect("cat");
    assert!(String::from_utf8_lossy(&output.stdout).contains("va:"));
    let error = a.enter(|| Nic::query("eth7")).expect("enter").expect_err("absent");
    assert!(error.to_string().starts_with("find interface on eth7"), "{error}");
}

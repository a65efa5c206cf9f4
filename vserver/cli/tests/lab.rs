//! The lab: its machines, its scenarios over every driver, and that it leaves nothing behind.
#![allow(missing_docs)]

use std::net::{IpAddr, SocketAddr};

use weft_cli::lab::client;
use weft_cli::lab::topology::{
    BANNER_PORT, Cabling, FAR, GATEWAY_A, GATEWAY_B, KERNEL, Topology, WAN, nic, v4, v6,
};
use weft_drivers::netns::may_make_namespaces;

#[test]
fn the_machines_reach_each_other_before_weft_runs() {
    if !may_make_namespaces() {
        println!("SKIP: network namespaces need root");
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

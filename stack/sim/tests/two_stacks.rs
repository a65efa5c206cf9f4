//! Two stacks over a bad link: every byte once and in order, and nothing left behind.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{HostSpec, LinkSpec, Net, Peer, Role, each_seed};
use weft_stack::time::Duration;

/// Five in a hundred lost, some reordered, some twice.
fn bad() -> LinkSpec {
    LinkSpec {
        latency: Duration::from_millis(1),
        jitter: Duration::from_micros(300),
        loss: 0.05,
        reorder: 0.05,
        reorder_delay: Duration::from_millis(3),
        duplicate: 0.03,
        ..LinkSpec::default()
    }
}

/// Transfers in both directions over one family.
fn transfer(seed: u64, spec: LinkSpec, v6: bool) -> Result<(), String> {
    let mut net = Net::new(seed);
    let lan = net.add_segment(spec);
    let client = net.add_host(HostSpec::named("client"));
    let server = net.add_host(HostSpec::named("server"));
    let (a, b, remote) = if v6 {
        ("fd00::1/64", "fd00::2/64", "[fd00::2]:80")
    } else {
        ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:80")
    };
    net.attach(client, lan, &[a]);
    net.attach(server, lan, &[b]);
    let up = net.rng().below(150_000);
    let down = net.rng().below(150_000);
    let remote = remote.parse().unwrap();
    let listen = Peer::new(Role::Server(remote), 1, 2).sending(down).expecting(up);
    net.add_actor(server, listen);
    net.add_actor(client, Peer::new(Role::Client(remote), 2, 1).sending(up).expecting(down));
    net.run_until(Duration::from_mins(10), Net::all_done);
    net.check_at_rest()
}

#[test]
fn every_byte_arrives_once_and_in_order_over_v4() {
    each_seed("every_byte_arrives_once_and_in_order_over_v4", 200, |s| transfer(s, bad(), false));
}

#[test]
fn every_byte_arrives_once_and_in_order_over_v6() {
    each_seed("every_byte_arrives_once_and_in_order_over_v6", 200, |s| transfer(s, bad(), true));
}

//! Networks of usual shapes. Hosts are made from [`Net::set_template`] and have an IPv4 and an IPv6
//! address per attachment; see [`Net::address`].

use crate::link::LinkSpec;
use crate::net::{HostId, Net, SegmentId};

/// Two hosts on one segment.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// One.
    pub left: HostId,
    /// The other.
    pub right: HostId,
    /// Between them.
    pub segment: SegmentId,
}

/// Hosts on one switch.
#[derive(Clone, Debug)]
pub struct Star {
    /// All of them.
    pub hosts: Vec<HostId>,
    /// The switch.
    pub segment: SegmentId,
}

/// Hosts on both sides of a bottleneck between two routers.
#[derive(Clone, Debug)]
pub struct Dumbbell {
    /// Hosts on the left.
    pub left: Vec<HostId>,
    /// As many on the right.
    pub right: Vec<HostId>,
    /// The routers, left and right.
    pub routers: [HostId; 2],
    /// What each host of the left is attached to, then of the right.
    pub access: Vec<SegmentId>,
    /// Between the routers.
    pub bottleneck: SegmentId,
}

/// Two hosts with routers in a row between them.
#[derive(Clone, Debug)]
pub struct Chain {
    /// One end.
    pub left: HostId,
    /// The other.
    pub right: HostId,
    /// From left to right.
    pub routers: Vec<HostId>,
    /// From left to right, one more than routers.
    pub segments: Vec<SegmentId>,
}

/// Two hosts with two segments between them: attachment 0 of both is on the first, 1 on the second.
#[derive(Clone, Copy, Debug)]
pub struct MultiHomed {
    /// One.
    pub left: HostId,
    /// The other.
    pub right: HostId,
    /// Both ways.
    pub segments: [SegmentId; 2],
}

fn both(net: u32, host: u32) -> [String; 2] {
    [format!("10.{}.{}.{host}/24", net >> 8, net & 255), format!("fd00:{net:x}::{host:x}/64")]
}

fn attach(net: &mut Net, host: HostId, segment: SegmentId, network: u32, number: u32) {
    let [v4, v6] = both(network, number);
    net.attach(host, segment, &[&v4, &v6]);
}

/// Routes of `host`, by attachment, to the networks of `to` by way of host `via` on `network`.
fn route(net: &mut Net, host: HostId, attachment: u16, network: u32, via: u32, to: &[u32]) {
    let alias = weft_stack::ip::address::AliasId(attachment);
    let via4 = format!("10.{}.{}.{via}", network >> 8, network & 255);
    let via6 = format!("fd00:{network:x}::{via:x}");
    for n in to {
        net.route(host, alias, &format!("10.{}.{}.0/24", n >> 8, n & 255), &via4);
        net.route(host, alias, &format!("fd00:{n:x}::/64"), &via6);
    }
}

/// Two hosts on a segment.
pub fn pair(net: &mut Net, spec: LinkSpec) -> Pair {
    let segment = net.add_segment(spec);
    let left = net.host_like_template("left", false);
    let right = net.host_like_template("right", false);
    attach(net, left, segment, 1, 1);
    attach(net, right, segment, 1, 2);
    Pair { left, right, segment }
}

/// `count` hosts on a switch.
pub fn star(net: &mut Net, count: u32, spec: LinkSpec) -> Star {
    let segment = net.add_segment(spec);
    let mut hosts = Vec::new();
    for i in 1..=count {
        let host = net.host_like_template(&format!("host{i}"), false);
        attach(net, host, segment, 1, i);
        hosts.push(host);
    }
    Star { hosts, segment }
}

/// `count` hosts on each side of a bottleneck, each on an access link of its own.
pub fn dumbbell(net: &mut Net, count: u32, access: LinkSpec, bottleneck: LinkSpec) -> Dumbbell {
    let middle = net.add_segment(bottleneck);
    let routers =
        [net.host_like_template("router-left", true), net.host_like_template("router-right", true)];
    for (i, router) in (1..).zip(routers) {
        attach(net, router, middle, 0, i);
    }
    // Networks 256.. are left, 512.. right.
    let networks = |side: u32| (0..count).map(|i| 256 * (side + 1) + i).collect::<Vec<_>>();
    let mut sides = [Vec::new(), Vec::new()];
    let mut access_segments = Vec::new();
    for side in 0..2u32 {
        let router = routers[side as usize];
        for (i, network) in (0..).zip(networks(side)) {
            let segment = net.add_segment(access);
            access_segments.push(segment);
            let name = ["left", "right"][side as usize];
            let host = net.host_like_template(&format!("{name}{i}"), false);
            attach(net, host, segment, network, 1);
            attach(net, router, segment, network, 254);
            let others: Vec<u32> =
                networks(0).into_iter().chain(networks(1)).filter(|n| *n != network).collect();
            route(net, host, 0, network, 254, &others);
            sides[side as usize].push(host);
        }
        route(net, router, 0, 0, 2 - side, &networks(1 - side));
    }
    let [left, right] = sides;
    Dumbbell { left, right, routers, access: access_segments, bottleneck: middle }
}

/// Two hosts with a router between any two of `specs`, in a row.
///
/// # Panics
/// If `specs` is empty.
pub fn chain(net: &mut Net, specs: &[LinkSpec]) -> Chain {
    assert!(!specs.is_empty(), "a chain has a link");
    let segments: Vec<_> = specs.iter().map(|s| net.add_segment(*s)).collect();
    let last = specs.len() as u32 - 1;
    let left = net.host_like_template("left", false);
    let right = net.host_like_template("right", false);
    let names = 0..last;
    let routers: Vec<_> =
        names.map(|i| net.host_like_template(&format!("router{i}"), true)).collect();
    // Segment i is network i; 1 is who is on its left, 2 on its right.
    let mut nodes = vec![left];
    nodes.extend(&routers);
    nodes.push(right);
    for (i, segment) in (0..).zip(&segments) {
        attach(net, nodes[i as usize], *segment, i, 1);
        attach(net, nodes[i as usize + 1], *segment, i, 2);
    }
    // A router's attachment 0 looks left, 1 right; an end has one.
    for i in 0..=last {
        let beyond_right: Vec<u32> = (i + 1..=last).collect();
        let beyond_left: Vec<u32> = (0..i).collect();
        let (l, r) = (nodes[i as usize], nodes[i as usize + 1]);
        route(net, l, u16::from(i > 0), i, 2, &beyond_right);
        route(net, r, 0, i, 1, &beyond_left);
    }
    Chain { left, right, routers, segments }
}

/// Two hosts with two ways between them.
pub fn multi_homed(net: &mut Net, specs: [LinkSpec; 2]) -> MultiHomed {
    let segments = specs.map(|s| net.add_segment(s));
    let left = net.host_like_template("left", false);
    let right = net.host_like_template("right", false);
    for (i, segment) in (1..).zip(segments) {
        attach(net, left, segment, i, 1);
        attach(net, right, segment, i, 2);
    }
    MultiHomed { left, right, segments }
}

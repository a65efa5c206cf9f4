//! UDP with fragmentation over a bad link, group membership, addresses from a router.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{HostSpec, LinkSpec, Net, UdpEcho, UdpRole, each_seed};
use weft_stack::drop::DropReason;
use weft_stack::ip::address::AddressState;
use weft_stack::stack::Change;
use weft_stack::time::Duration;

fn exchange(seed: u64, spec: LinkSpec, answered_min: u64) -> Result<Net, String> {
    let mut net = Net::new(seed);
    let lan = net.add_segment(spec);
    let (a, b) = (net.add_host(HostSpec::named("client")), net.add_host(HostSpec::named("server")));
    net.attach(a, lan, &["10.0.0.1/24", "fd00::1/64"]);
    net.attach(b, lan, &["10.0.0.2/24", "fd00::2/64"]);
    net.run_for(Duration::from_secs(2));
    let server = UdpRole::Server("[::]:7".parse().unwrap(), Duration::from_secs(10));
    net.add_actor(b, UdpEcho::new(server, 0));
    let remote = if seed.is_multiple_of(2) { "10.0.0.2:7" } else { "[fd00::2]:7" };
    let client = UdpRole::Client { remote: remote.parse().unwrap(), count: 200, size_max: 6_000 };
    net.add_actor(a, UdpEcho::new(client, answered_min));
    net.run_until(Duration::from_mins(2), Net::all_done);
    net.check_at_rest()?;
    let stats = net.stack(a).mib();
    let created = stats.ip4.frag_creates + stats.ip6.frag_creates;
    if created < 300 { Err(format!("{created} fragments")) } else { Ok(net) }
}

#[test]
fn large_datagrams_arrive_whole_or_not_at_all() {
    let spec = LinkSpec { loss: 0.02, reorder: 0.2, duplicate: 0.05, ..LinkSpec::default() };
    each_seed("large_datagrams_arrive_whole_or_not_at_all", 20, |seed| {
        // A lost solicitation costs a second, and what does not fit the neighbour's queue.
        exchange(seed, spec, 60).map(drop)
    });
}

#[test]
fn a_clean_link_loses_none() {
    each_seed("a_clean_link_loses_none", 4, |seed| {
        exchange(seed, LinkSpec::default(), 200).map(drop)
    });
}

#[test]
fn two_hosts_that_want_one_address() {
    each_seed("two_hosts_that_want_one_address", 50, |seed| {
        let mut net = Net::new(seed);
        let lan = net.add_segment(LinkSpec { duplicate: 0.2, ..LinkSpec::default() });
        let (a, b) = (net.add_host(HostSpec::named("a")), net.add_host(HostSpec::named("b")));
        let alias = net.attach(a, lan, &["fd00::1/64"]);
        let apart = Duration::from_millis(net.rng().below(3_000));
        net.run_for(apart);
        net.attach(b, lan, &["fd00::1/64"]);
        net.run_for(Duration::from_secs(5));
        let addr: std::net::IpAddr = "fd00::1".parse().unwrap();
        let has = |net: &Net, host| {
            let all = net.stack(host).addresses(alias).iter();
            all.filter(|x| x.cidr.addr == addr && x.state == AddressState::Preferred).count()
        };
        // One at most, and both link-local addresses all the same.
        let owners = has(&net, a) + has(&net, b);
        let usable = [a, b]
            .map(|h| net.stack(h).addresses(alias).iter().filter(|x| x.state.usable()).count());
        if owners > 1 || usable.iter().sum::<usize>() != 2 + owners {
            return Err(format!("{owners} owners, {usable:?} usable"));
        }
        net.check_at_rest()
    });
}

#[test]
fn an_absent_neighbour_is_given_up() {
    let mut net = Net::new(1);
    let lan = net.add_segment(LinkSpec::default());
    let a = net.add_host(HostSpec::named("a"));
    let alias = net.attach(a, lan, &["10.0.0.1/24", "fd00::1/64"]);
    net.run_for(Duration::from_secs(2));
    let id = net.with_stack(a, |s, now| s.udp_bind(now, "[::]:0".parse().unwrap()).unwrap());
    for to in ["10.0.0.9:7", "[fd00::9]:7"] {
        let to = to.parse().unwrap();
        for _ in 0..40 {
            net.with_stack(a, |s, now| s.udp_send(now, id, b"anybody?", Some(to)).unwrap());
        }
    }
    assert_eq!(net.stack(a).memory().neighbour_frames, 32, "two queues of sixteen");
    net.run_for(Duration::from_secs(10));
    let drops = &net.stack(a).mib().drops;
    assert_eq!(drops.get(DropReason::NeighbourQueueFull), 48);
    assert_eq!(drops.get(DropReason::NeighbourUnreachable), 32);
    net.change(a, Change::AliasRemove(alias));
    net.with_stack(a, |s, _| s.udp_close(id));
    net.check_at_rest().unwrap();
    assert_eq!(net.stack(a).memory().neighbours, 0);
}

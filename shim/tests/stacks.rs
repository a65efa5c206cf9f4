//! Whole stacks over the shim: TCP between stable addresses while providers fail below it.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use support::ip;
use support::net::{MS, Net, immediately, pair, transfer};
use weft_shim::config::ShimConfig;
use weft_shim::contexts::Flow;
use weft_shim::encap::EncapConfig;
use weft_shim::locator::Pair;
use weft_stack::ip::address::AliasId;
use weft_stack::link::gro::Gro;
use weft_stack::stack::Change;
use weft_stack::time::Duration;

#[test]
fn a_transfer_goes_on_when_a_provider_goes_dark() {
    for directions in [[true, true], [true, false], [false, true]] {
        let mut net = Net::new(&immediately());
        let mut failed = false;
        let gap = transfer(&mut net, 3_000_000, |net, got| {
            if got > 1_000_000 && !failed {
                failed = true;
                net.dark[0] = directions;
            }
        });
        assert!(gap <= Duration::from_millis(200), "{directions:?}: {gap:?} without progress");
        // Acknowledgements alone are fewer.
        assert!(net.carried[1] > 100, "{directions:?}: the other provider carries it");
    }
}

#[test]
fn a_transfer_goes_on_when_its_address_is_taken_away() {
    let mut net = Net::new(&immediately());
    let mut taken = false;
    let gap = transfer(&mut net, 3_000_000, |net, got| {
        if got > 1_000_000 && !taken {
            taken = true;
            let change = Change::AddressRemove { alias: AliasId(0), addr: ip(1, 1) };
            net.stacks[0].handle_config(net.now, change).unwrap();
        }
    });
    assert!(gap <= Duration::from_millis(100), "{gap:?} without progress");
    assert_eq!(pair(&net).0, ip(1, 2));
}

#[test]
fn a_transfer_survives_one_provider_after_the_other() {
    let mut net = Net::new(&immediately());
    let mut step = 0;
    let gap = transfer(&mut net, 6_000_000, |net, got| {
        if got > (step + 1) * 1_000_000 && step < 4 {
            step += 1;
            // One of both is dark, in turn.
            net.dark = [[step % 2 == 1; 2], [step % 2 == 0; 2]];
        }
    });
    assert_eq!(step, 4);
    assert!(gap <= Duration::from_millis(200), "{gap:?} without progress");
}

// RFC 5533 9 SHOULD
#[test]
fn a_context_lives_as_long_as_sockets_are_connected_between_its_ulids() {
    let mut net = Net::new(&immediately());
    let (client, server) = net.connect(80);
    let ask = |net: &mut Net| {
        net.stacks[0].tcp_send(net.now, client, b"a question").unwrap();
        net.run(500 * MS);
        net.stacks[1].tcp_recv(net.now, server, &mut [0; 99])
    };
    assert_eq!(ask(&mut net), Ok(10));
    net.run(Duration::from_mins(31));
    let count = |net: &Net| {
        let shim = |host: usize| net.stacks[host].path().shim().unwrap();
        [0, 1].map(|host| (shim(host).len(), shim(host).stats().contexts_kept))
    };
    assert_eq!(count(&net), [(1, 6); 2]);
    // What it is there for.
    net.dark[0] = [true; 2];
    assert_eq!(ask(&mut net), Ok(10));
    assert_eq!(pair(&net).1, ip(2, 2));
    for (stack, socket) in [(0, client), (1, server)] {
        net.stacks[stack].tcp_close(net.now, socket);
    }
    net.run(Duration::from_mins(12));
    assert_eq!(count(&net).map(|(contexts, _)| contexts), [0; 2], "nobody keeps it");
    // A connected datagram socket does as well.
    net.dark[0] = [false; 2];
    let at = |host, port| SocketAddr::new(ip(host, 1), port);
    let now = net.now;
    let socket = net.stacks[0].udp_bind(now, at(1, 0)).unwrap();
    net.stacks[0].udp_connect(now, socket, at(2, 9)).unwrap();
    net.stacks[0]
        .with_path_mut(now, |l| l.shim_mut().unwrap().start(now, support::ulids(), 0))
        .unwrap();
    net.run(Duration::from_mins(12));
    assert_eq!(count(&net)[0].0, 1);
}

/// Receive merging makes one frame of datagrams of a flow, and all packets in UDP are of one.
#[test]
fn a_transfer_in_udp_loses_nothing_when_datagrams_are_merged() {
    let mut net = Net::new(&immediately());
    net.gro = Some(Gro::default());
    let now = net.now;
    for host in [1u16, 2] {
        net.stacks[usize::from(host) - 1].with_path_mut(now, |layer| {
            let shim = layer.shim_mut().unwrap();
            let mut list = support::list_of(host, 2);
            list.generation += 1;
            list.locators[1].port = Some(4140);
            shim.set_encap(now, Some(EncapConfig::new(4140)));
            shim.set_own(now, list);
        });
    }
    let mut moved = false;
    transfer(&mut net, 1_000_000, |net, got| {
        if got > 100_000 && !moved {
            moved = true;
            let (now, by) = (net.now, Pair::new(ip(1, 2), ip(2, 2)));
            for (host, by) in [by, by.reversed()].into_iter().enumerate() {
                let ulids = if host == 0 { support::ulids() } else { support::ulids().reversed() };
                net.stacks[host].with_path_mut(now, |layer| {
                    layer.shim_mut().unwrap().switch(now, ulids, 0, by).unwrap();
                });
            }
        }
    });
    assert_eq!(pair(&net), (ip(1, 2), ip(2, 2)));
    let shim = |host: usize| net.stacks[host].path().shim().unwrap();
    let (out, into) = (shim(0).encap().unwrap().stats(), shim(1).encap().unwrap().stats());
    assert!(out.packets_out > 500 && out.packets_out == into.packets_in, "{out:?} {into:?}");
    assert_eq!(net.stacks[0].mib().tcp.retrans_segs, 0);
    for stack in &net.stacks {
        assert_eq!(stack.mib().tcp.in_csum_errors, 0);
        stack.mib().check_sums().unwrap();
    }
}

// RFC 5533 4.2
#[test]
fn a_forked_flow_has_the_packet_size_of_its_own_pair() {
    let mut net = Net::new(&immediately());
    let (forked, at_forked) = net.connect(80);
    let (common, at_common) = net.connect(81);
    let (local, peer) = net.stacks[0].tcp_addrs(forked).unwrap();
    let (ulids, ports) = (support::ulids(), (local.port(), peer.port()));
    let flow = Flow { ulids, protocol: 6, ports };
    let now = net.now;
    net.stacks[0].with_path_mut(now, |l| l.shim_mut().unwrap().fork(now, flow, 9)).unwrap();
    net.run(100 * MS);
    let (now, by) = (net.now, Pair::new(ip(1, 2), ip(2, 2)));
    net.stacks[0].with_path_mut(now, |l| l.shim_mut().unwrap().switch(now, ulids, 9, by)).unwrap();
    net.run(100 * MS);
    // A router of the second provider takes less than the link does.
    net.mtu[1] = 1400;
    for id in [forked, common] {
        assert_eq!(net.stacks[0].tcp_send(net.now, id, &vec![7; 30_000]), Ok(30_000));
    }
    net.run(Duration::from_secs(2));
    let pmtu = |id| net.stacks[0].tcp_info(net.now, id).unwrap().pmtu;
    // The header of the shim less; the other flow is neither rewritten nor cut smaller.
    assert_eq!((pmtu(forked), pmtu(common)), (1400 - 8, 1500));
    for id in [at_forked, at_common] {
        let (mut got, mut buffer) = (0, [0; 4096]);
        while let Ok(n @ 1..) = net.stacks[1].tcp_recv(net.now, id, &mut buffer) {
            got += n;
        }
        assert_eq!(got, 30_000);
    }
}

#[test]
fn a_transfer_with_the_shim_on_and_nothing_failing_is_not_rewritten() {
    let mut net = Net::new(&ShimConfig::default());
    transfer(&mut net, 1_000_000, |_, _| {});
    let stats = net.stacks[0].path().shim().unwrap().stats();
    assert_eq!((stats.contexts_established, stats.rewritten_out), (1, 0));
    assert_eq!(pair(&net), (ip(1, 1), ip(2, 1)));
}

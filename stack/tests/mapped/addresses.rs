//! Addresses: ULIDs outlive their aliases, the layer hears of every change, rules match ULIDs.

use std::net::IpAddr;
use std::sync::Arc;

use weft_stack::admission::{First, Rules, Verdict, Watch};
use weft_stack::drop::DropReason;
use weft_stack::ip::address::AliasId;
use weft_stack::path::PathEvent;
use weft_stack::socket::tcp::{TcpError, TcpState};
use weft_stack::stack::Change;
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::checksum;

use crate::layer::SHIM6;
use crate::world::{A, B, Carrier, World, packet6, pattern, v6};

const ONE: AliasId = AliasId(0);

#[test]
fn a_connection_outlives_the_address_that_it_was_opened_with() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    let mut carrier = Carrier::new(pair.0, pair.1, &pattern(5_000_000));
    while carrier.got.len() < 1_000_000 {
        carrier.turn(&mut w);
        w.step(w.now + Duration::from_secs(1));
    }
    w.change(A, Change::AddressRemove { alias: ONE, addr: v6(A, 0) });
    assert_eq!(w.layer(A).log.removed, [v6(A, 0)]);
    assert_eq!(w.stacks[A].tcp_state(pair.0), TcpState::Established);
    // Nothing leaves or comes by the address any longer; the layer has to go elsewhere.
    assert!(!w.stacks[A].is_local(v6(A, 0)));
    w.switch(1, 0, true);
    w.run_until(Duration::from_mins(1), |w| carrier.turn(w));
    carrier.check();
    // A second connection is opened with it, too: the context has it.
    let second = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(second, &pattern(10_000));
    // Without the context it is gone.
    let gone = PathEvent::Released(v6(A, 0));
    w.stacks[A].with_path_mut(w.now, |l| {
        l.contexts.clear();
        l.events.push_back(gone);
    });
    for socket in [pair.0, second.0] {
        assert_eq!(w.stacks[A].tcp_take_error(socket), Some(TcpError::Aborted));
    }
    w.check();
}

#[test]
fn a_removed_ulid_is_taken_from_the_layer_only() {
    let mut w = World::new();
    w.context_by(1, 1);
    let server = w.stacks[B].udp_bind(w.now, (v6(B, 0), 9).into()).unwrap();
    let client = w.stacks[A].udp_bind(w.now, (v6(A, 0), 0).into()).unwrap();
    w.change(B, Change::AddressRemove { alias: ONE, addr: v6(B, 0) });
    w.stacks[A].udp_send(w.now, client, b"by context", Some((v6(B, 0), 9).into())).unwrap();
    w.run_for(Duration::from_millis(20));
    assert_eq!(&w.stacks[B].udp_recv(server).unwrap().payload[..], b"by context");
    // The same from the wire is for nobody.
    let datagram = vec![0, 7, 0, 9, 0, 9, 0, 0, 1];
    for alias in [0, 1] {
        let bare = packet6(v6(A, 0), v6(B, 0), 17, datagram.clone(), Some(6));
        w.stacks[B].handle_frame(w.now, AliasId(alias), bare);
    }
    assert!(w.stacks[B].udp_recv(server).is_err());
    assert_eq!(w.stacks[B].mib().drops.get(DropReason::IpDestinationNotOurs), 2);
}

#[test]
fn without_a_context_connections_end_with_their_address() {
    let mut w = World::new();
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.change(A, Change::AddressRemove { alias: ONE, addr: v6(A, 0) });
    assert_eq!(w.stacks[A].tcp_take_error(pair.0), Some(TcpError::Aborted));
}

#[test]
fn the_layer_hears_of_addresses_and_links() {
    let mut w = World::new();
    let global = |all: &[IpAddr]| -> Vec<IpAddr> {
        let local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        all.iter().filter(|a| !local(a)).copied().collect()
    };
    assert_eq!(global(&w.layer(A).log.added).len(), 4);
    let cidr = "2001:db8:0:5::1/64".parse().unwrap();
    w.change(A, Change::AddressAdd { alias: ONE, cidr });
    w.run_for(Duration::from_secs(3));
    assert!(w.layer(A).log.added.contains(&cidr.addr));
    let link = |up| Change::AliasLink { alias: ONE, up, mtu: 1500 };
    w.change(A, link(true));
    assert_eq!(w.layer(A).log.links, [], "it was up");
    w.change(A, link(false));
    w.change(A, link(true));
    let links = &w.layer(A).log.links;
    assert!(links.contains(&(v6(A, 0), false)) && links.contains(&(v6(A, 0), true)));
    assert!(links.iter().all(|(addr, _)| *addr != v6(A, 1)));
    w.change(A, Change::AddressRemove { alias: ONE, addr: cidr.addr });
    assert_eq!(w.layer(A).log.removed, [cidr.addr]);
}

/// Lets some addresses in.
#[derive(Debug)]
struct Only(Vec<IpAddr>, Arc<Watch>);

impl Rules for Only {
    fn watch(&self) -> &Arc<Watch> {
        &self.1
    }

    fn judge(&self, _: Instant, first: &First, _: u64) -> Verdict {
        if self.allows(first) { Verdict::Allow } else { Verdict::Reject }
    }

    fn allows(&self, first: &First) -> bool {
        self.0.contains(&first.src)
    }
}

#[test]
fn access_rules_match_ulids_and_never_locators() {
    for (allowed, open) in [(v6(A, 0), true), (v6(A, 1), false)] {
        let mut w = World::new();
        w.context_by(1, 1);
        let mut watch = Watch::default();
        watch.add(6, 80, 80);
        w.stacks[B].set_access(Some(Arc::new(Only(vec![allowed], Arc::new(watch)))));
        w.stacks[B].tcp_listen(w.now, (v6(B, 0), 80).into(), 16).unwrap();
        let from = Some((v6(A, 0), 0).into());
        let c = w.stacks[A].tcp_connect(w.now, from, (v6(B, 0), 80).into()).unwrap();
        w.run_for(Duration::from_millis(50));
        let state = w.stacks[A].tcp_state(c);
        assert_eq!(state == TcpState::Established, open, "{allowed}: {state:?}");
        w.check();
    }
}

/// Gives B a packet with the tag of its first context, by the second locators, as from the link.
fn give(w: &mut World, protocol: u8, payload: &[u8]) {
    let tag = w.layer(B).contexts[0].tag_in | 1 << 47;
    let mut packet = tag.to_be_bytes();
    packet[..2].copy_from_slice(&[protocol, 0]);
    let packet = [&packet[..], payload].concat();
    let mut frame = packet6(v6(A, 1), v6(B, 1), SHIM6, packet, None);
    frame.data_mut()[7] = 255;
    w.stacks[B].handle_frame(w.now, AliasId(1), frame);
}

// RFC 5533 16
#[test]
fn who_has_not_shown_his_ulid_is_let_in_by_both_his_addresses_only() {
    let (ulid, locator) = (v6(A, 0), v6(A, 1));
    for (allowed, open) in
        [(vec![ulid], false), (vec![locator], false), (vec![ulid, locator], true)]
    {
        let mut w = World::new();
        w.context_by(1, 1);
        w.stacks[B].with_path_mut(w.now, |l| l.unshown = true);
        let mut watch = Watch::default();
        watch.add(6, 80, 80);
        watch.add(17, 9, 9);
        w.stacks[B].set_access(Some(Arc::new(Only(allowed.clone(), Arc::new(watch)))));
        w.stacks[B].tcp_listen(w.now, (v6(B, 0), 80).into(), 16).unwrap();
        let from = Some((ulid, 0).into());
        let c = w.stacks[A].tcp_connect(w.now, from, (v6(B, 0), 80).into()).unwrap();
        // In pieces that are cut above the layer, and in one.
        let there = w.stacks[B].udp_bind(w.now, (v6(B, 0), 9).into()).unwrap();
        let here = w.stacks[A].udp_bind(w.now, (ulid, 0).into()).unwrap();
        for len in [100, 4000] {
            w.stacks[A].udp_send(w.now, here, &pattern(len), Some((v6(B, 0), 9).into())).unwrap();
        }
        w.run_for(Duration::from_millis(50));
        let state = w.stacks[A].tcp_state(c);
        assert_eq!(state == TcpState::Established, open, "{allowed:?}: {state:?}");
        let got = (0..2).filter(|_| w.stacks[B].udp_recv(there).is_ok());
        assert_eq!(got.count(), if open { 2 } else { 0 }, "{allowed:?}");
        w.check();
    }
}

#[test]
fn no_peer_speaks_from_an_address_of_ours() {
    let mut w = World::new();
    let ours = v6(B, 1);
    w.context((ours, v6(A, 1)), (v6(B, 0), v6(B, 1)));
    w.stacks[B].set_access(Some(Arc::new(Only(vec![], Arc::default()))));
    let there = w.stacks[B].udp_bind(w.now, (v6(B, 0), 9).into()).unwrap();
    let mut datagram = vec![0, 7, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4];
    let sum = checksum::combine(
        checksum::pseudo(ours, v6(B, 0), 17, datagram.len()),
        checksum::sum(&datagram),
    );
    datagram[6..8].copy_from_slice(&checksum::finish(sum).to_be_bytes());
    give(&mut w, 17, &datagram);
    assert!(w.stacks[B].udp_recv(there).is_err());
    assert_eq!(w.stacks[B].mib().drops.get(DropReason::IpSourceIsUs), 1);
}

// RFC 4861 7.1.1
#[test]
fn neighbour_discovery_never_comes_through_the_layer() {
    let mut w = World::new();
    w.context_by(1, 1);
    let (ulid, target) = (v6(A, 0), v6(B, 0));
    let std::net::IpAddr::V6(asked) = target else { panic!() };
    let mut solicit = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicit.extend(asked.octets());
    let sum = checksum::combine(
        checksum::pseudo(ulid, target, 58, solicit.len()),
        checksum::sum(&solicit),
    );
    solicit[2..4].copy_from_slice(&checksum::finish(sum).to_be_bytes());
    w.sent.clear();
    give(&mut w, 58, &solicit);
    w.run_for(Duration::from_millis(50));
    assert_eq!(w.stacks[B].mib().drops.get(DropReason::NdpInvalid), 1);
    assert!(w.sent.is_empty(), "no answer");
}

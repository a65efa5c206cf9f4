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

/// Lets one address in.
#[derive(Debug)]
struct Only(IpAddr, Watch);

impl Rules for Only {
    fn watch(&self) -> &Watch {
        &self.1
    }

    fn judge(&self, _: Instant, first: &First, _: u64) -> Verdict {
        if first.src == self.0 { Verdict::Allow } else { Verdict::Reject }
    }

    fn allows(&self, first: &First) -> bool {
        first.src == self.0
    }
}

#[test]
fn access_rules_match_ulids_and_never_locators() {
    for (allowed, open) in [(v6(A, 0), true), (v6(A, 1), false)] {
        let mut w = World::new();
        w.context_by(1, 1);
        let mut watch = Watch::default();
        watch.add(6, 80, 80);
        w.stacks[B].set_access(Some(Arc::new(Only(allowed, watch))));
        w.stacks[B].tcp_listen(w.now, (v6(B, 0), 80).into(), 16).unwrap();
        let from = Some((v6(A, 0), 0).into());
        let c = w.stacks[A].tcp_connect(w.now, from, (v6(B, 0), 80).into()).unwrap();
        w.run_for(Duration::from_millis(50));
        let state = w.stacks[A].tcp_state(c);
        assert_eq!(state == TcpState::Established, open, "{allowed}: {state:?}");
        w.check();
    }
}

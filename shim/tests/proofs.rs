//! Contexts whose locators are proved for real: by hash-based set, by signature, by a shared key.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, Ipv6Addr};

use support::*;
use weft_shim::config::ShimConfig;
use weft_shim::context::State;
use weft_shim::contexts::Contexts;
use weft_shim::hba::{Prefix, Search, SigningKey, prefix_of};
use weft_shim::layer::Layer;
use weft_shim::locator::{Locator, LocatorList, Pair, Verification};
use weft_shim::own::Change;
use weft_shim::reap::ReapConfig;
use weft_shim::trust::Proofs;
use weft_shim::verify::{KeyedPeers, OwnSet, SharedKey, TrustConfig};
use weft_shim::wire::Body;
use weft_stack::rng::Rng;
use weft_stack::time::Duration;

/// A host with a set over two prefixes.
fn set(seed: u64, prefixes: [&str; 2], key: Option<SigningKey>) -> OwnSet {
    let prefixes: [Prefix; 2] = prefixes.map(|p| prefix_of(p.parse::<Ipv6Addr>().unwrap()));
    let der = key.as_ref().map(SigningKey::public_der);
    let mut rng = Rng::from_u64(seed);
    let mut search = Search::new(&prefixes, 0, der, 1, &mut rng).unwrap();
    OwnSet { set: search.advance(1).unwrap(), key, ..OwnSet::default() }
}

fn addresses(own: &OwnSet) -> Vec<IpAddr> {
    own.set.as_ref().unwrap().addresses().iter().map(|a| IpAddr::V6(*a)).collect()
}

/// Two hosts with these sets and addresses; the first of each is its ULID.
fn lab(hosts: [(OwnSet, Vec<IpAddr>); 2], keyed: &[KeyedPeers]) -> (Lab, Pair) {
    let ulids = Pair::new(hosts[0].1[0], hosts[1].1[0]);
    let trust = TrustConfig { keyed: keyed.to_vec(), ..TrustConfig::default() };
    let mut all = Vec::new();
    let mut shims = Vec::new();
    for (n, (own, addrs)) in hosts.into_iter().enumerate() {
        let locators = addrs.iter().map(|a| Locator::new(*a, Verification::Hba)).collect();
        let list = LocatorList { generation: 0, locators };
        let proofs = Box::new(Proofs::new(&trust, own));
        let (config, reap) = (ShimConfig::default(), ReapConfig::default());
        let shim = Contexts::new(config, reap, list, proofs, [n as u8; 16]);
        shims.push((n as u16 + 1, 0, Layer::on(shim)));
        all.push(addrs);
    }
    let mut lab = Lab::new(1, shims);
    for (host, addrs) in lab.hosts.iter_mut().zip(all) {
        host.addrs = addrs.into_iter().collect();
    }
    (lab, ulids)
}

/// Sets a context up, breaks the ULIDs' path, and sees traffic go on elsewhere.
fn survives(lab: &mut Lab, ulids: Pair, locators: usize) {
    let now = lab.now;
    lab.shim(0).start(now, ulids, 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let now = lab.now;
    assert_eq!(lab.shim(0).state(now, ulids, 0), State::Established);
    assert_eq!(lab.shim(0).report_contexts(now, 1)[0].peer.len(), locators);
    lab.kill(ulids.local, ulids.remote);
    lab.kill(ulids.remote, ulids.local);
    for n in 0..200 {
        lab.send(0, ulids, n);
        lab.send(1, ulids.reversed(), n);
        lab.run(Duration::from_millis(5));
    }
    let now = lab.now;
    for host in 0..2 {
        assert!(lab.hosts[host].got.iter().any(|g| g.number == 199), "host {}", host + 1);
        let report = &lab.shim(host).report_contexts(now, 1)[0];
        assert!(report.rewritten && report.switches > 0);
        assert_eq!(lab.shim(host).stats().locator_unproved, 0);
    }
}

// RFC 5533 7.2 MUST
// RFC 5533 7.2 SHOULD
#[test]
fn a_context_between_hash_based_sets_survives_its_ulids() {
    let a = set(1, ["2001:db8:1::", "2001:db8:2::"], None);
    let b = set(2, ["2001:db8:3::", "2001:db8:4::"], None);
    let (of_a, of_b) = (addresses(&a), addresses(&b));
    let (mut lab, ulids) = lab([(a, of_a), (b, of_b)], &[]);
    survives(&mut lab, ulids, 2);
}

// RFC 5533 5.6 MUST
// RFC 5533 5.15.5 MUST
#[test]
fn a_signed_locator_outside_the_set_is_taken() {
    let pem = include_str!("data/cga-test-key.pem");
    let key = SigningKey::from_pkcs8(pem.as_bytes()).unwrap();
    let a = set(1, ["2001:db8:1::", "2001:db8:2::"], None);
    let b = set(2, ["2001:db8:3::", "2001:db8:4::"], Some(key));
    let (of_a, mut of_b) = (addresses(&a), addresses(&b));
    of_b.push("2001:db8:5::77".parse().unwrap());
    let (mut lab, ulids) = lab([(a, of_a), (b, of_b)], &[]);
    survives(&mut lab, ulids, 3);
}

#[test]
fn locators_under_a_shared_key_are_taken_only_by_who_has_it() {
    let peers = |secret: &[u8]| KeyedPeers {
        peers: "2001:db8::/32".parse().unwrap(),
        key: SharedKey::new(secret).unwrap(),
    };
    let key = peers(b"a secret of sixteen bytes or more");
    let own = || OwnSet { keyed: vec![key.clone()], ..OwnSet::default() };
    let of = |host| vec![ip(host, 1), ip(host, 2)];
    let (mut good, ulids) = lab([(own(), of(1)), (own(), of(2))], std::slice::from_ref(&key));
    survives(&mut good, ulids, 2);
    let other = peers(b"another secret, as long as the first");
    let (mut bad, ulids) = lab([(own(), of(1)), (own(), of(2))], &[other]);
    let now = bad.now;
    bad.shim(0).start(now, ulids, 0).unwrap();
    bad.pump(0);
    bad.run(Duration::from_millis(100));
    let now = bad.now;
    assert_ne!(bad.shim(0).state(now, ulids, 0), State::Established);
    assert_eq!(bad.shim(1).stats().locator_unproved, 1);
}

// RFC 5533 10.1
// RFC 5533 10.4
// RFC 5533 16
#[test]
fn a_keyed_list_older_than_the_last_is_never_taken_however_many_came_since() {
    let key = KeyedPeers {
        peers: "2001:db8::/32".parse().unwrap(),
        key: SharedKey::new(b"a secret of sixteen bytes or more").unwrap(),
    };
    let own = || OwnSet { keyed: vec![key.clone()], ..OwnSet::default() };
    let of = |host| vec![ip(host, 1), ip(host, 2)];
    let (mut lab, ulids) = lab([(own(), of(1)), (own(), of(2))], std::slice::from_ref(&key));
    let now = lab.now;
    lab.shim(0).start(now, ulids, 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    lab.log = Some(Vec::new());
    for n in 0..101 {
        let (now, change) = (lab.now, if n % 2 == 0 { Change::Removed } else { Change::Added });
        lab.shim(1).address_changed(now, ip(2, 2), change);
        lab.pump(1);
        lab.run(Duration::from_millis(20));
    }
    let is_update = |p: &Packet| p.message().is_some_and(|m| matches!(m.body, Body::Update { .. }));
    let all = lab.log.take().unwrap().into_iter().map(|(_, p)| p);
    let updates: Vec<Packet> = all.filter(|p| is_update(p) && host_of(p.dst) == 1).collect();
    assert_eq!(updates.len(), 101);
    let broken = |lab: &mut Lab| -> Vec<bool> {
        let now = lab.now;
        lab.shim(0).report_contexts(now, 1)[0].peer.iter().map(|l| l.broken).collect()
    };
    assert_eq!(broken(&mut lab), [false, true]);
    assert_eq!(lab.shim(0).stats().replayed, 0);
    // The first ones are not among those that are remembered.
    for (n, update) in updates[..100].iter().enumerate() {
        lab.deliver(0, update);
        assert!(taken(lab.shim(0)).is_empty(), "no answer");
        assert_eq!(lab.shim(0).stats().replayed, n as u64 + 1);
    }
    assert_eq!(broken(&mut lab), [false, true]);
}

#[test]
fn what_a_method_proved_that_is_taken_no_longer_is_left_at_once() {
    let key = SigningKey::from_pkcs8(include_bytes!("data/cga-test-key.pem")).unwrap();
    let own = || set(1, ["2001:db8:1::", "2001:db8:2::"], None);
    let b = set(2, ["2001:db8:3::", "2001:db8:4::"], Some(key));
    let (of_a, mut of_b) = (addresses(&own()), addresses(&b));
    let signed: IpAddr = "2001:db8:5::77".parse().unwrap();
    of_b.push(signed);
    let (mut lab, ulids) = lab([(own(), of_a.clone()), (b, of_b)], &[]);
    let now = lab.now;
    lab.shim(0).start(now, ulids, 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let now = lab.now;
    lab.shim(0).switch(now, ulids, 0, Pair::new(of_a[1], signed)).unwrap();
    lab.pump(0);
    let traffic = |lab: &mut Lab| {
        for n in 0..50 {
            lab.send(0, ulids, n);
            lab.send(1, ulids.reversed(), n);
            lab.run(Duration::from_millis(5));
        }
        std::mem::take(&mut lab.hosts[1].got).len()
    };
    assert_eq!(traffic(&mut lab), 50);
    assert_eq!(lab.shim(0).pair(ulids, 0).unwrap().remote, signed);
    let now = lab.now;
    let trust = |hba, cga| TrustConfig { hba, cga, keyed: Vec::new() };
    lab.shim(0).set_trust(now, Box::new(Proofs::new(&trust(true, false), own())));
    lab.pump(0);
    assert_eq!(lab.shim(0).stats().locators_revoked, 1);
    lab.log = Some(Vec::new());
    assert_eq!(traffic(&mut lab), 50, "and nothing is lost");
    assert!(lab.log.iter().flatten().all(|(_, p)| p.dst != signed), "nor sent there");
    let report = lab.shim(0).report_contexts(now, 1).remove(0);
    assert!(report.peer.len() == 2 && report.peer.iter().all(|l| l.addr != signed));
    // Nothing but the ULID is left where nothing is believed.
    lab.shim(0).set_trust(now, Box::new(Proofs::new(&trust(false, false), own())));
    lab.pump(0);
    assert_eq!(lab.shim(0).stats().locators_revoked, 2);
    assert_eq!(traffic(&mut lab), 50);
    assert_eq!(lab.shim(0).pair(ulids, 0).unwrap().remote, ulids.remote);
}

#[test]
fn a_peer_whose_list_did_not_name_its_ulid_is_left_with_that_when_the_list_is_revoked() {
    let own = || set(1, ["2001:db8:1::", "2001:db8:2::"], None);
    let b = set(2, ["2001:db8:3::", "2001:db8:4::"], None);
    let (of_a, of_b) = (addresses(&own()), addresses(&b));
    let (mut lab, ulids) = lab([(own(), of_a.clone()), (b, of_b.clone())], &[]);
    let now = lab.now;
    lab.shim(0).start(now, ulids, 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let other = [Locator::new(of_b[1], Verification::Hba)];
    let now = lab.now;
    lab.shim(1).set_own(now, LocatorList { generation: 0, locators: other[..].into() });
    lab.pump(1);
    lab.run(Duration::from_millis(500));
    assert_eq!(lab.shim(0).pair(ulids, 0).unwrap().remote, of_b[1]);
    let now = lab.now;
    let none = TrustConfig { hba: false, cga: false, keyed: Vec::new() };
    lab.shim(0).set_trust(now, Box::new(Proofs::new(&none, own())));
    lab.pump(0);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.shim(0).pair(ulids, 0).unwrap().remote, ulids.remote);
}

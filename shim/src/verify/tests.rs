use core::net::Ipv6Addr;

use super::*;
use crate::hba::{Prefix, Search, prefix_of};
use crate::locator::Locator;
use crate::trust::{Proofs, Trust as _};

const SECRET: &[u8] = b"sixteen bytes and more";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rng() -> Rng {
    Rng::from_u64(7)
}

fn signing_key() -> SigningKey {
    SigningKey::from_pkcs8(include_bytes!("../../tests/data/cga-test-key.pem")).unwrap()
}

/// A host with a set over two prefixes, with a key if wanted.
fn host(key: Option<SigningKey>) -> OwnSet {
    let prefixes: [Prefix; 2] =
        ["2001:db8:1::", "2001:db8:2::"].map(|p| prefix_of(p.parse::<Ipv6Addr>().unwrap()));
    let der = key.as_ref().map(SigningKey::public_der);
    let mut search = Search::new(&prefixes, 0, der, 1, &mut rng()).unwrap();
    OwnSet { set: search.advance(1).unwrap(), key, ..OwnSet::default() }
}

fn shared(peers: &str, secret: &[u8]) -> KeyedPeers {
    KeyedPeers { peers: peers.parse().unwrap(), key: SharedKey::new(secret).unwrap() }
}

fn addresses(own: &OwnSet) -> Vec<IpAddr> {
    own.set.as_ref().unwrap().addresses().iter().map(|a| IpAddr::V6(*a)).collect()
}

/// The list that a host would send for these addresses, each with the method it has for it.
fn list(own: &OwnSet, ulid: IpAddr, peer: IpAddr, addrs: &[IpAddr]) -> LocatorList {
    let locator = |a: &IpAddr| Locator::new(*a, own.method(ulid, peer, *a).expect("a method"));
    LocatorList { generation: 3, locators: addrs.iter().map(locator).collect() }
}

fn received<'a>(proof: &'a Proof, binding: &'a [u8]) -> Received<'a> {
    Received {
        pds: proof.pds.as_deref(),
        signature: proof.signature.as_deref(),
        keyed: proof.keyed.as_deref(),
        binding,
    }
}

fn trusting(keyed: Vec<KeyedPeers>) -> Verifier {
    Verifier::new(&TrustConfig { keyed, ..TrustConfig::default() })
}

// RFC 5533 16
// RFC 5535 7
#[test]
fn what_differs_from_an_address_of_a_set_beside_the_hash_is_another_hosts() {
    let own = host(None);
    let addrs = addresses(&own);
    let list = list(&own, addrs[0], ip("2001:db8:9::1"), &addrs);
    let proof = own.proof(addrs[0], ip("2001:db8:9::1"), &list, b"", &mut rng());
    // The universal and the group bit, and Sec.
    for bit in [57, 56, 61, 62, 63] {
        let IpAddr::V6(locator) = addrs[1] else { panic!() };
        let mut other = list.clone();
        other.locators[1].addr = Ipv6Addr::from_bits(locator.to_bits() ^ 1 << bit).into();
        let verdicts = trusting(Vec::new()).check(addrs[0], &other, &received(&proof, b""));
        assert_eq!(verdicts.unwrap()[1], Verdict::NotInSet(Unbound::Bits), "{bit}");
    }
}

// RFC 5533 7.2
#[test]
fn a_hash_based_set_proves_its_addresses_and_no_other() {
    let own = host(None);
    let addrs = addresses(&own);
    let (ulid, peer) = (addrs[1], ip("2001:db8:9::1"));
    let mut list = list(&own, ulid, peer, &addrs);
    let proof = own.proof(ulid, peer, &list, b"", &mut rng());
    assert_eq!((proof.signature.is_some(), proof.keyed.is_some()), (false, false));
    let verifier = trusting(Vec::new());
    let got = received(&proof, b"");
    assert_eq!(verifier.check(ulid, &list, &got).unwrap()[..], [Verdict::Proved; 2]);
    // A victim's address added on the way.
    list.locators.push(Locator::new(ip("2001:db8:66::6"), Verification::Hba));
    list.locators.push(Locator::new(ip("192.0.2.6"), Verification::Hba));
    let verdicts = verifier.check(ulid, &list, &got).unwrap();
    assert_eq!(verdicts[2..], [Verdict::NotInSet(Unbound::Prefix); 2]);
    // The parameters of somebody else's set.
    let Err(VerifyError::Ulid(_)) = verifier.check(ip("2001:db8:1::1"), &list, &got) else {
        panic!("parameters of another address were taken");
    };
    let nothing = Received::default();
    let verdicts = verifier.check(ulid, &list, &nothing).unwrap();
    assert_eq!(verdicts[..2], [Verdict::Missing, Verdict::Proved], "the ULID needs no proof");
    let garbage = Received { pds: Some(b"short"), ..nothing };
    assert!(matches!(verifier.check(ulid, &list, &garbage), Err(VerifyError::Parameters(_))));
}

// RFC 5533 5.15.5
#[test]
fn a_signature_proves_an_address_that_came_later() {
    let own = host(Some(signing_key()));
    let mut addrs = addresses(&own);
    addrs.push(ip("2001:db8:33::3"));
    let (ulid, peer) = (addrs[0], ip("2001:db8:9::1"));
    let list = list(&own, ulid, peer, &addrs);
    let methods: Vec<_> = list.locators.iter().map(|l| l.verification).collect();
    assert_eq!(methods, [Verification::Hba, Verification::Hba, Verification::Cga]);
    let proof = own.proof(ulid, peer, &list, b"", &mut rng());
    let verifier = trusting(Vec::new());
    let got = received(&proof, b"");
    assert_eq!(verifier.check(ulid, &list, &got).unwrap()[..], [Verdict::Proved; 3]);
    let mut other = list.clone();
    other.locators[2].addr = ip("2001:db8:66::6");
    let verdicts = verifier.check(ulid, &other, &got).unwrap();
    assert_eq!(verdicts[..], [Verdict::Proved, Verdict::Proved, Verdict::BadSignature]);
    let later = LocatorList { generation: 4, ..list.clone() };
    assert_eq!(verifier.check(ulid, &later, &got).unwrap()[2], Verdict::BadSignature);
    let unsigned = Received { signature: None, ..got };
    assert_eq!(verifier.check(ulid, &list, &unsigned).unwrap()[2], Verdict::Missing);
}

#[test]
fn random_bits_in_the_place_of_a_key_sign_nothing() {
    let own = host(None);
    let addrs = addresses(&own);
    let mut list = list(&own, addrs[0], ip("2001:db8:9::1"), &addrs);
    list.locators[1].verification = Verification::Cga;
    let pds = own.set.as_ref().unwrap().parameters().emit();
    let got = Received { pds: Some(&pds), signature: Some(&[7; 128]), ..Received::default() };
    let verdicts = trusting(Vec::new()).check(addrs[0], &list, &got).unwrap();
    assert_eq!(verdicts[1], Verdict::BadSignature);
}

#[test]
fn addresses_of_a_set_are_signed_where_the_peer_is_to_take_signatures_only() {
    let own = OwnSet { sign_all: true, ..host(Some(signing_key())) };
    let addrs = addresses(&own);
    let list = list(&own, addrs[0], ip("2001:db8:9::1"), &addrs);
    let methods: Vec<_> = list.locators.iter().map(|l| l.verification).collect();
    assert_eq!(methods, [Verification::Hba, Verification::Cga], "the ULID needs no proof");
    let proof = own.proof(addrs[0], ip("2001:db8:9::1"), &list, b"", &mut rng());
    let got = received(&proof, b"");
    let takes = |hba, cga| {
        let verifier = Verifier::new(&TrustConfig { hba, cga, keyed: Vec::new() });
        verifier.check(addrs[0], &list, &got).unwrap()[1]
    };
    assert_eq!((takes(false, true), takes(true, false)), (Verdict::Proved, Verdict::Refused));
}

#[test]
fn a_shared_key_proves_ipv4_locators_and_ipv4_ulids() {
    for ulid in [ip("2001:db8:1::7"), ip("192.0.2.7")] {
        let peer = ip("2001:db8:9::1");
        let own = OwnSet { keyed: vec![shared("2001:db8:9::/48", SECRET)], ..OwnSet::default() };
        let addrs = [ulid, ip("198.51.100.7"), ip("2001:db8:5::7")];
        let mut list = list(&own, ulid, peer, &addrs);
        assert!(list.locators.iter().all(|l| l.verification == Verification::Keyed));
        list.locators[1].port = Some(4500);
        let proof = own.proof(ulid, peer, &list, b"nonces", &mut rng());
        assert_eq!(proof.keyed.as_ref().map(Vec::len), Some(KEYED_BYTES));
        // The peer has an old key beside the one in use.
        let keys = || {
            vec![
                shared("0.0.0.0/0", b"the key of last year"),
                shared("::/0", b"the key of last year"),
                shared("192.0.2.0/24", SECRET),
                shared("2001:db8:1::/48", SECRET),
            ]
        };
        let verifier = trusting(keys());
        let got = received(&proof, b"nonces");
        assert_eq!(verifier.check(ulid, &list, &got).unwrap()[..], [Verdict::Proved; 3]);

        let bad = |list: &LocatorList, got: &Received<'_>, why| {
            let verdicts = verifier.check(ulid, list, got).unwrap();
            assert_eq!(verdicts[1], why, "{list:?}");
        };
        bad(&list, &Received { binding: b"another exchange", ..got }, Verdict::BadMac);
        bad(
            &list,
            &Received { keyed: Some(&proof.keyed.as_ref().unwrap()[..35]), ..got },
            Verdict::BadMac,
        );
        bad(&list, &Received { keyed: None, ..got }, Verdict::Missing);
        let mut other = list.clone();
        other.locators[1].port = Some(53);
        bad(&other, &got, Verdict::BadMac);
        other = list.clone();
        other.locators[2].addr = ip("2001:db8:66::6");
        bad(&other, &got, Verdict::BadMac);
        other = LocatorList { generation: 9, ..list.clone() };
        bad(&other, &got, Verdict::BadMac);
        let stranger = trusting(vec![shared("203.0.113.0/24", SECRET)]);
        assert_eq!(stranger.check(ulid, &list, &got).unwrap()[1], Verdict::Refused);
        let wrong = trusting(keys()[..2].to_vec());
        assert_eq!(wrong.check(ulid, &list, &got).unwrap()[1], Verdict::BadMac);
    }
}

#[test]
fn a_proof_that_is_switched_off_proves_nothing() {
    let own = host(Some(signing_key()));
    let mut addrs = addresses(&own);
    addrs.push(ip("2001:db8:33::3"));
    let (ulid, peer) = (addrs[0], ip("2001:db8:9::1"));
    let list = list(&own, ulid, peer, &addrs);
    let proof = own.proof(ulid, peer, &list, b"", &mut rng());
    let none = TrustConfig { hba: false, cga: false, keyed: Vec::new() };
    let verifier = Verifier::new(&none);
    let got = received(&proof, b"");
    let verdicts = verifier.check(ulid, &list, &got).unwrap();
    assert_eq!(verdicts[..], [Verdict::Proved, Verdict::Refused, Verdict::Refused]);
}

#[test]
fn what_cannot_be_proved_is_not_named() {
    let own = host(None);
    let addrs = addresses(&own);
    let peer = ip("2001:db8:9::1");
    assert_eq!(own.method(addrs[0], peer, addrs[1]), Some(Verification::Hba));
    assert_eq!(own.method(addrs[0], peer, ip("192.0.2.1")), None);
    assert_eq!(own.method(addrs[0], peer, ip("2001:db8:33::3")), None);
    // Another address as ULID: the set says nothing of it.
    let other = ip("2001:db8:1::1");
    assert_eq!(own.method(other, peer, addrs[1]), None);
    assert_eq!(own.method(other, peer, other), Some(Verification::Hba));
}

#[test]
fn keys_have_a_length_and_are_not_shown() {
    assert!(SharedKey::new(&[1; 15]).is_none() && SharedKey::new(&[1; 65]).is_none());
    let key = SharedKey::new(SECRET).unwrap();
    assert_eq!(format!("{key:?}"), "SharedKey(..)");
    assert_eq!(format!("{:?}", signing_key()), "SigningKey(..)");
}

#[test]
fn a_list_is_signed_once_for_each_ulid_and_not_for_each_peer() {
    let own = host(Some(signing_key()));
    let ulids = addresses(&own);
    let mut addrs = ulids.clone();
    addrs.push(ip("2001:db8:33::3"));
    let peer = |n: u16| IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, 0, n]);
    let lists: Vec<LocatorList> = ulids.iter().map(|u| list(&own, *u, peer(1), &addrs)).collect();
    let mut proofs = Proofs::new(&TrustConfig::default(), own);
    let mut rng = rng();
    // Signing is blinded: it takes random numbers, and an answer that is known takes none.
    let mut signs = |proofs: &mut Proofs, n: usize, list: &LocatorList, to: IpAddr| {
        let mut before = rng.clone();
        let proof = proofs.prove(ulids[n], to, list, b"", &mut rng);
        assert!(proof.signature.is_some() && proof.pds.is_some());
        before.next_u64() != rng.clone().next_u64()
    };
    for (n, list) in lists.iter().enumerate() {
        assert!(signs(&mut proofs, n, list, peer(1)));
    }
    for to in 2..40 {
        for (n, list) in lists.iter().enumerate() {
            assert!(!signs(&mut proofs, n, list, peer(to)), "as of the ULID before");
        }
    }
    let later = LocatorList { generation: 4, ..lists[0].clone() };
    assert!(signs(&mut proofs, 0, &later, peer(1)));
    assert!(!signs(&mut proofs, 0, &later, peer(2)) && !signs(&mut proofs, 1, &lists[1], peer(2)));
}

use core::net::Ipv6Addr;

use proptest::prelude::*;
use weft_stack::rng::Rng;

use super::parameters::MULTI_PREFIX;
use super::*;

const RFC_KEY: &str = "305c300d06092a864886f70d0101010500034b003048024100c2c2f137305454f10bd9cea3\
    6844b530e9211a4b262b16467cb7dfba1f595c0194f275be5a4d386f2c3c2382508773c7867f9b3b9e63a09c7bc48f\
    7a54ebefaf0203010001";
/// Made with another implementation (Python's hashlib), Sec 1, three prefixes.
const SET: &str = "3a996a2e36bd7a465eee9321c1dbd43b20010db80001000000304c300d06092a864886f70d01010\
    10500033b00303802310084b444cb9d600bbb1a1e160ef6ade5f9a4eb7f2c880024ae9470b7ac09fe0e3a21d0c90e8\
    954e925934ac54d9fc6e9a302030100010012001c0000000020010db80001000020010db80002000020010db8ffff0\
    003";

fn hex(text: &str) -> Vec<u8> {
    let pair = |p: &[u8]| u8::from_str_radix(core::str::from_utf8(p).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(pair).collect()
}

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    prefix_of(ip(text))
}

fn set_of(prefixes: &[&str], sec: u8, key: Option<&[u8]>) -> HbaSet {
    let prefixes: Vec<Prefix> = prefixes.iter().map(|p| prefix(p)).collect();
    let mut rng = Rng::from_u64(5535);
    let mut search = Search::new(&prefixes, sec, key, 1 << 24, &mut rng).unwrap();
    loop {
        if let Some(set) = search.advance(4096).unwrap() {
            return set;
        }
    }
}

fn signing_key() -> SigningKey {
    SigningKey::from_pkcs8(include_bytes!("../../tests/data/cga-test-key.pem")).unwrap()
}

// RFC 3972 4
#[test]
fn the_example_of_rfc_3972_comes_out() {
    let mut parameters = Parameters {
        modifier: hex("89a8a8b2e858d8b8f2633f44d2d4ce9a").try_into().unwrap(),
        prefix: prefix("fe80::"),
        collisions: 0,
        key: hex(RFC_KEY),
        extensions: Vec::new(),
    };
    let mut search = Search::over(parameters.clone(), 1, 10);
    assert!(search.advance(10).unwrap().is_some());
    parameters.modifier = hex("89a8a8b2e858d8b8f2633f44d2d4ce9b").try_into().unwrap();
    assert_eq!(search.parameters(), &parameters);
    assert_eq!(parameters.address(prefix("fe80::"), 1), ip("fe80::3c4a:5bf6:ffb4:ca6c"));
    parameters.verify(ip("fe80::3c4a:5bf6:ffb4:ca6c")).unwrap();
    assert!(parameters.has_key(), "a CGA without a list of prefixes has a key");
}

// RFC 5535 6
#[test]
fn a_set_made_elsewhere_is_read_and_made_again() {
    let parameters = Parameters::parse(&hex(SET)).unwrap();
    assert_eq!(parameters.emit(), hex(SET));
    assert!(!parameters.has_key());
    let mut set = HbaSet::restore(parameters, 1);
    let first = [
        "2001:db8:1:0:30e2:1cb7:aac3:3392",
        "2001:db8:2:0:302f:8d0b:f380:c484",
        "2001:db8:ffff:3:24dc:b68d:af70:1368",
    ];
    assert_eq!(set.addresses(), first.map(ip));
    set.collided().unwrap();
    let second = [
        "2001:db8:1:0:34f6:59ab:a48c:e030",
        "2001:db8:2:0:308a:9498:e55e:89ef",
        "2001:db8:ffff:3:2425:acbe:42c5:cf84",
    ];
    assert_eq!(set.addresses(), second.map(ip));
}

// RFC 5535 7.2
#[test]
fn every_address_of_a_set_proves_every_other() {
    for sec in [0, 1] {
        let set = set_of(&["2001:db8:1::", "2001:db8:2::", "fd00:7::"], sec, None);
        for ulid in set.addresses() {
            assert_eq!(sec_of(*ulid), sec);
            let sent = Parameters::parse(&set.parameters_of(*ulid).emit()).unwrap();
            sent.verify(*ulid).unwrap();
            for other in set.addresses() {
                sent.verify_member(*other).unwrap();
            }
        }
    }
}

// RFC 5535 7.2
#[test]
fn an_address_outside_a_set_is_refused_with_the_reason() {
    let set = set_of(&["2001:db8:1::", "2001:db8:2::"], 1, None);
    let ulid = set.addresses()[0];
    let parameters = set.parameters_of(ulid);
    let id = ulid.to_bits() as u64;
    let with = |prefix: &str, id: u64| Ipv6Addr::from_bits(ip(prefix).to_bits() | u128::from(id));
    assert_eq!(parameters.verify(set.addresses()[1]), Err(Unbound::Prefix));
    assert_eq!(parameters.verify_member(with("2001:db8:3::", id)), Err(Unbound::Prefix));
    // The identifier of one prefix under the other.
    assert_eq!(parameters.verify_member(with("2001:db8:2::", id)), Err(Unbound::Hash1));
    assert_eq!(parameters.verify(with("2001:db8:1::", id ^ 1)), Err(Unbound::Hash1));
    // More work claimed than done.
    assert_eq!(parameters.verify(with("2001:db8:1::", id ^ 0b011 << 61)), Err(Unbound::Hash2));
    assert_eq!(parameters.verify(with("2001:db8:1::", id ^ 0b100 << 61)), Err(Unbound::Sec));
    // u and g are nobody's business (RFC 3972 5, step 4).
    parameters.verify(with("2001:db8:1::", id | 0b11 << 56)).unwrap();
    let many = Parameters { collisions: 3, ..parameters };
    assert_eq!(many.verify(ulid), Err(Unbound::Collisions));
}

// RFC 3972 4
#[test]
fn a_set_is_given_up_after_three_collisions() {
    let mut set = set_of(&["2001:db8:1::", "2001:db8:2::"], 0, None);
    let before = set.addresses().to_vec();
    set.collided().unwrap();
    assert!(set.addresses().iter().all(|a| !before.contains(a)));
    set.collided().unwrap();
    assert_eq!(set.collided(), Err(GenerateError::Collisions));
}

// RFC 5535 5
#[test]
fn the_p_bit_tells_a_key_from_random_bits() {
    let key = signing_key();
    let set = set_of(&["2001:db8:1::", "2001:db8:2::"], 0, Some(key.public_der()));
    assert!(set.parameters().has_key());
    assert_eq!(set.parameters().extensions[0].data[..4], [0x80, 0, 0, 0]);
    assert_eq!(set.parameters().key, key.public_der());
    let set = set_of(&["2001:db8:1::"], 0, None);
    assert!(!set.parameters().has_key());
    assert_eq!(set.parameters().extensions[0].data[..4], [0; 4]);
}

// RFC 5535 5
#[test]
fn reserved_bits_of_a_prefix_list_mean_nothing() {
    let set = set_of(&["2001:db8:1::", "2001:db8:2::"], 0, None);
    let mut parameters = set.parameters().clone();
    parameters.extensions[0].data[..4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    let parameters = Parameters::parse(&parameters.emit()).unwrap();
    assert!(!parameters.has_key());
    assert_eq!(parameters.prefixes().count(), 2);
}

// RFC 5535 6
#[test]
fn random_bits_have_the_form_of_a_key() {
    use rsa::pkcs8::DecodePublicKey;
    use rsa::traits::PublicKeyParts;
    let set = set_of(&["2001:db8:1::"], 0, None);
    let key = rsa::RsaPublicKey::from_public_key_der(&set.parameters().key).unwrap();
    assert_eq!(key.n().bits(), 384);
    let other = Search::new(&[prefix("::")], 0, None, 1, &mut Rng::from_u64(1)).unwrap();
    assert_ne!(other.parameters().key, set.parameters().key);
}

#[test]
fn the_search_can_be_watched_and_has_an_end() {
    let mut rng = Rng::from_u64(1);
    let mut search = Search::new(&[prefix("2001:db8::")], 2, None, 1000, &mut rng).unwrap();
    assert_eq!(search.expected(), 1 << 32);
    assert_eq!(search.advance(600).unwrap(), None);
    assert_eq!(search.tried(), 600);
    assert_eq!(search.advance(600), Err(GenerateError::Exhausted(1000)));
    let p = prefix("2001:db8::");
    for (prefixes, sec) in [(&[][..], 0), (&[p, p], 0), (&[p; 17], 0), (&[p], 3)] {
        assert!(Search::new(prefixes, sec, None, 1, &mut rng).is_err());
    }
}

#[test]
fn what_is_no_parameters_is_refused() {
    let good = hex(SET);
    for len in 0..good.len() {
        let cut = Parameters::parse(&good[..len]);
        // At the end of the key, parameters without extensions stand.
        assert_eq!(cut.is_ok(), len == 25 + 78, "{len} bytes gave {cut:?}");
    }
    let change = |at: usize, value: u8| {
        let mut bad = good.clone();
        bad[at] = value;
        Parameters::parse(&bad)
    };
    assert_eq!(change(25, 0x31), Err(PdsError::Key));
    assert_eq!(change(26, 0x80), Err(PdsError::Key));
    let mut long = good.clone();
    long.resize(1025, 0);
    assert_eq!(Parameters::parse(&long), Err(PdsError::Long(1025)));
    let with = |data: Vec<u8>| {
        let mut p = Parameters::parse(&good).unwrap();
        p.extensions = vec![Extension { kind: MULTI_PREFIX, data }];
        Parameters::parse(&p.emit())
    };
    assert!(with(vec![0; 4]).is_ok());
    for len in [0, 3, 11, 4 + 8 * 17] {
        assert_eq!(with(vec![0; len]), Err(PdsError::Prefixes), "{len} bytes");
    }
    let mut p = Parameters::parse(&good).unwrap();
    p.extensions = vec![Extension { kind: 7, data: Vec::new() }; 9];
    assert_eq!(Parameters::parse(&p.emit()), Err(PdsError::Extensions));
}

// RFC 3972 6
#[test]
fn signatures_are_those_of_openssl() {
    let key = signing_key();
    let message = [&SIGNATURE_TAG[..], b"locators"].concat();
    let theirs = include_bytes!("../../tests/data/cga-test-signature.bin");
    assert!(verify_signature(key.public_der(), &message, theirs));
    assert_eq!(key.sign(&message, &mut Rng::from_u64(9)), theirs);
    let mut forged = *theirs;
    forged[5] ^= 1;
    assert!(!verify_signature(key.public_der(), &message, &forged));
    assert!(!verify_signature(key.public_der(), b"other", theirs));
    assert!(!verify_signature(key.public_der(), &message, &theirs[1..]));
    assert!(!verify_signature(&hex(RFC_KEY), &message, theirs), "512 bits prove nothing");
    assert_eq!(SigningKey::from_pkcs8(b"no key").unwrap_err(), KeyError::Form);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_and_what_is_read_is_written_again(
        head in prop::collection::vec(any::<u8>(), 0..40),
        tail in prop::collection::vec(any::<u8>(), 0..200),
        real in any::<bool>(),
    ) {
        let mut bytes = if real { hex(SET)[..103].to_vec() } else { head };
        bytes.extend(tail);
        if let Ok(p) = Parameters::parse(&bytes) {
            prop_assert_eq!(p.emit(), bytes);
            let _ = p.verify_member(ip("2001:db8::1"));
        }
    }
}

//! Whatever is written is read again; whatever arrives does not panic.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use proptest::prelude::*;
use smallvec::SmallVec;

use super::header::{Header, MESSAGE_BYTES_MAX, Tag, seal};
use super::message::{Body, Message};
use super::option::{Options, Preferences};
use super::probe::KeepaliveTimeout;
use crate::locator::{Locator, LocatorList, Pair, Preference, Verification, is_unicast};

fn address() -> impl Strategy<Value = IpAddr> {
    let v6 = any::<u128>().prop_map(|b| IpAddr::V6(Ipv6Addr::from_bits(b)).to_canonical());
    let v4 = any::<u32>().prop_map(|b| IpAddr::V4(Ipv4Addr::from_bits(b)));
    prop_oneof![v6, v4]
}

fn ulids() -> impl Strategy<Value = Pair> {
    (address(), address())
        .prop_map(|(a, b)| Pair::new(a, b))
        .prop_filter("unicast of one family", |p| {
            p.same_family() && is_unicast(p.local) && is_unicast(p.remote)
        })
}

fn locators() -> impl Strategy<Value = LocatorList> {
    let locator =
        (address(), any::<u8>()).prop_map(|(a, m)| Locator::new(a, Verification::from_octet(m)));
    (any::<u32>(), prop::collection::vec(locator, 1..=16)).prop_map(|(generation, locators)| {
        LocatorList { generation, locators: SmallVec::from_vec(locators) }
    })
}

fn preferences() -> impl Strategy<Value = Preferences> {
    let element = any::<(u8, u8, u8)>().prop_map(|(flags, priority, weight)| Preference {
        flags,
        priority,
        weight,
    });
    (any::<u32>(), prop::collection::vec(element, 0..=16)).prop_map(|(generation, elements)| {
        Preferences { generation, elements: SmallVec::from_vec(elements) }
    })
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn list_options() -> impl Strategy<Value = Options> {
    (
        prop::option::of(locators()),
        prop::option::of(preferences()),
        prop::option::of(bytes(200)),
        prop::option::of(bytes(200)),
        prop::option::of(
            (1..=u16::MAX).prop_map(|s| KeepaliveTimeout(Duration::from_secs(u64::from(s)))),
        ),
        prop::option::of(prop::collection::vec(any::<u16>(), 0..16)),
        prop::option::of(bytes(40)),
    )
        .prop_map(
            |(locators, preferences, pds, signature, keepalive_timeout, ports, keyed)| Options {
                locators,
                preferences,
                pds,
                signature,
                keepalive_timeout,
                ports: ports.map(SmallVec::from_vec),
                keyed,
                ..Options::default()
            },
        )
}

fn names() -> impl Strategy<Value = Options> {
    (prop::option::of(ulids()), prop::option::of(any::<u32>())).prop_map(|(ulids, fii)| Options {
        ulids,
        fii,
        ..Options::default()
    })
}

fn validator() -> impl Strategy<Value = Options> {
    prop::option::of(bytes(64))
        .prop_map(|v| Options { validator: v.map(SmallVec::from_vec), ..Options::default() })
}

fn all() -> impl Strategy<Value = Options> {
    (list_options(), names(), validator()).prop_map(|(list, names, validator)| Options {
        ulids: names.ulids,
        fii: names.fii,
        validator: validator.validator,
        ..list
    })
}

fn tag() -> impl Strategy<Value = Tag> {
    any::<u64>().prop_map(Tag::new)
}

/// A probe's body that reports `n` probes.
fn report(n: usize) -> Vec<u8> {
    let mut report = vec![7; 4 + 40 * n];
    report[0] = n as u8;
    report
}

fn message() -> impl Strategy<Value = Message> {
    let message = |(body, options)| Message { body, options };
    let n = any::<u32>;
    let i1 = (tag(), n()).prop_map(|(t, a)| Body::I1 { initiator_tag: t, initiator_nonce: a });
    let r1 = (n(), n()).prop_map(|(a, b)| Body::R1 { initiator_nonce: a, responder_nonce: b });
    let i2 = (tag(), n(), n()).prop_map(|(t, a, b)| Body::I2 {
        initiator_tag: t,
        initiator_nonce: a,
        responder_nonce: b,
    });
    let r2 = (tag(), n()).prop_map(|(t, a)| Body::R2 { responder_tag: t, initiator_nonce: a });
    let r1bis = (tag(), n()).prop_map(|(t, a)| Body::R1bis { packet_tag: t, responder_nonce: a });
    let i2bis = (tag(), n(), n(), tag()).prop_map(|(t, a, b, p)| Body::I2bis {
        initiator_tag: t,
        initiator_nonce: a,
        responder_nonce: b,
        packet_tag: p,
    });
    let update = (tag(), n()).prop_map(|(t, a)| Body::Update { receiver_tag: t, nonce: a });
    let bare = prop_oneof![
        (tag(), n()).prop_map(|(t, a)| Body::UpdateAck { receiver_tag: t, nonce: a }),
        tag().prop_map(|t| Body::Keepalive { receiver_tag: t }),
        (tag(), 0usize..16).prop_map(|(t, n)| Body::Probe { receiver_tag: t, report: report(n) }),
        (0u8..128, any::<u16>(), 1usize..100).prop_map(|(code, pointer, n)| Body::Error {
            code,
            pointer,
            packet: vec![9; 8 * n]
        }),
    ];
    prop_oneof![
        (i1, names()).prop_map(message),
        (r1, validator()).prop_map(message),
        (i2, all()).prop_map(message),
        (r2, list_options()).prop_map(message),
        (r1bis, validator()).prop_map(message),
        (i2bis, all()).prop_map(message),
        (update, list_options()).prop_map(message),
        bare.prop_map(Message::new),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in message()) {
        if let Some(bytes) = message.write() {
            prop_assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            prop_assert_eq!(Header::read(&bytes), Some(Header::Control { len: bytes.len() }));
            prop_assert_eq!(Message::read(&bytes).map(|(m, _)| m), Ok(message));
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(mut data in bytes(2100), kind in 0u8..70) {
        let _ = Message::context_tag(&data);
        if let Some(Header::Control { len }) = Header::read(&data) {
            let _ = Message::read(&data[..len]);
        }
        // The same with a checksum that is right, so that the rest is looked at.
        let len = data.len() / 8 * 8;
        data.truncate(len);
        if len >= 8 {
            data[2] = kind;
            data[3] &= 0xfe;
            seal(&mut data);
            if let Some(Header::Control { len }) = Header::read(&data) {
                let _ = Message::read(&data[..len]);
            }
        }
    }

    #[test]
    fn a_flipped_message_is_read_without_panic(
        message in message(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        if let Some(mut bytes) = message.write() {
            for (at, bits) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            seal(&mut bytes);
            if let Some(Header::Control { len }) = Header::read(&bytes) {
                let _ = Message::read(&bytes[..len]);
            }
        }
    }
}

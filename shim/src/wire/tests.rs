//! Formats byte by byte.

use core::net::IpAddr;
use core::time::Duration;

use smallvec::smallvec;

use super::header::{MESSAGE_BYTES_MAX, Tag, payload_header, seal};
use super::message::{Body, Message, ReadError, kind};
use super::option::{Options, Preferences, total_bytes};
use super::probe::KeepaliveTimeout;
use super::{Header, option};
use crate::locator::{Locator, LocatorList, Pair, Preference, Verification};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn list(n: usize) -> LocatorList {
    let locator = |i: usize| {
        let method = [Verification::Hba, Verification::Cga, Verification::Keyed][i % 3];
        Locator::new(ip(&format!("2001:db8:{i}::1")), method)
    };
    LocatorList { generation: 0x0102_0304, locators: (0..n).map(locator).collect() }
}

/// Recomputes length and checksum of what a test changed.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    seal(&mut bytes);
    bytes
}

fn read(bytes: &[u8]) -> Result<Message, ReadError> {
    Message::read(bytes).map(|(message, _)| message)
}

// RFC 5533 5.2
#[test]
fn the_payload_header_is_eight_bytes_with_the_top_bit_set() {
    let header = payload_header(6, Tag::new(0x1234_5678_9abc));
    assert_eq!(header, [6, 0, 0x92, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
    let tag = Tag::new(0x1234_5678_9abc);
    assert_eq!(Header::read(&header), Some(Header::Payload { next: 6, tag }));
    let mut longer = [0; 16];
    longer[..8].copy_from_slice(&header);
    longer[1] = 1;
    assert_eq!(Header::read(&longer), None, "a payload header of another length");
}

// RFC 5533 5.3
#[test]
fn the_last_bit_of_the_fourth_octet_tells_hip_from_shim6() {
    let mut bytes =
        Message::new(Body::I1 { initiator_tag: Tag::new(1), initiator_nonce: 2 }).write().unwrap();
    assert_eq!(Header::read(&bytes), Some(Header::Control { len: 16 }));
    bytes[3] |= 1;
    assert_eq!(Header::read(&bytes), None);
}

// RFC 5533 12.3
#[test]
fn a_message_that_ends_behind_its_packet_is_not_read() {
    let bytes =
        Message::new(Body::I1 { initiator_tag: Tag::new(1), initiator_nonce: 2 }).write().unwrap();
    for len in 0..bytes.len() {
        assert_eq!(Header::read(&bytes[..len]), None, "{len} bytes");
    }
}

// RFC 5533 5.3
// RFC 5533 12.3
#[test]
fn the_checksum_covers_the_message_and_no_pseudo_header() {
    let good = Message::new(Body::Update { receiver_tag: Tag::new(7), nonce: 9 }).write().unwrap();
    let sum: u32 = good.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert_eq!(read(&bad), Err(ReadError::Checksum), "octet {at}");
    }
}

// RFC 5533 5.4 MUST
// RFC 5533 5.6 MUST
// RFC 5533 5.9 MUST
// RFC 5533 5.10 MUST
// RFC 5533 5.11 MUST
#[test]
fn reserved_fields_are_zero_when_sent_and_ignored_when_received() {
    let tag = Tag::new(0x7fff_ffff_ffff);
    let (initiator_nonce, responder_nonce) = (u32::MAX, u32::MAX);
    let cases: [(Body, &[usize]); 8] = [
        (Body::I1 { initiator_tag: tag, initiator_nonce }, &[]),
        (Body::R1 { initiator_nonce, responder_nonce }, &[6, 7]),
        (Body::I2 { initiator_tag: tag, initiator_nonce, responder_nonce }, &[20, 21, 22, 23]),
        (Body::R2 { responder_tag: tag, initiator_nonce }, &[]),
        (Body::R1bis { packet_tag: tag, responder_nonce }, &[]),
        (
            Body::I2bis { initiator_tag: tag, initiator_nonce, responder_nonce, packet_tag: tag },
            &[20, 21, 22, 23, 24, 25],
        ),
        (Body::Update { receiver_tag: tag, nonce: u32::MAX }, &[]),
        (Body::UpdateAck { receiver_tag: tag, nonce: u32::MAX }, &[]),
    ];
    for (body, reserved) in cases {
        let message = Message::new(body);
        let mut bytes = message.write().unwrap();
        assert_eq!(bytes[3], 0);
        assert!(reserved.iter().all(|at| bytes[*at] == 0), "{message:?}");
        // The bit before a tag of ones, too.
        if !matches!(message.body, Body::R1 { .. }) {
            assert_eq!(bytes[6] & 0x80, 0);
            bytes[6] |= 0x80;
        }
        bytes[3] |= 0xfe;
        for at in reserved {
            bytes[*at] = 0xff;
        }
        assert_eq!(read(&sealed(bytes)), Ok(message));
    }
}

// RFC 5533 7.9 MUST
// RFC 5533 7.11 MUST
// RFC 5533 7.13 MUST
// RFC 5533 7.16 MUST
// RFC 5533 7.18 MUST
// RFC 5533 7.20 MUST
// RFC 5533 10.4 MUST
// RFC 5533 10.5 MUST
#[test]
fn messages_shorter_than_their_fixed_part_are_not_read() {
    let shortest = [
        (kind::I1, 16),
        (kind::R1, 16),
        (kind::I2, 24),
        (kind::R2, 16),
        (kind::R1BIS, 16),
        (kind::I2BIS, 32),
        (kind::UPDATE, 16),
        (kind::UPDATE_ACK, 16),
        (kind::KEEPALIVE, 16),
        (kind::PROBE, 16),
        (kind::ERROR, 16),
    ];
    for (kind, bytes) in shortest {
        let message = |len: usize| {
            let mut m = vec![0; len];
            (m[0], m[2]) = (59, kind);
            sealed(m)
        };
        assert_eq!(read(&message(bytes - 8)), Err(ReadError::Malformed), "type {kind}");
        assert!(read(&message(bytes)).is_ok(), "type {kind}");
    }
}

// RFC 5533 5.15 MUST
#[test]
fn options_are_padded_with_zeros_to_eight_bytes_and_say_their_length_without() {
    for len in 0..40 {
        let padding = 7 - ((len + 3) % 8);
        assert_eq!(total_bytes(len), 4 + len + padding);
        let validator = Some(smallvec![0xff; len]);
        let options = Options { validator, ..Options::default() };
        let body = Body::R1 { initiator_nonce: 1, responder_nonce: 2 };
        let mut bytes = Message { body, options: options.clone() }.write().unwrap();
        assert_eq!(bytes.len(), 16 + total_bytes(len));
        assert_eq!(bytes[16..18], [0, 2], "type 1, not critical");
        assert_eq!(usize::from(bytes[19]), len);
        assert!(bytes[20 + len..].iter().all(|b| *b == 0));
        // What the padding is, nobody asks.
        bytes[20 + len..].fill(0xaa);
        assert_eq!(read(&sealed(bytes)).unwrap().options, options);
    }
}

// RFC 5533 5.15 MUST
#[test]
fn an_unknown_option_is_skipped_unless_it_is_critical() {
    let body = Body::Update { receiver_tag: Tag::new(3), nonce: 4 };
    let plain = Message::new(body);
    for kind in [8u16, 9, 11, 0x7fff, option::kind::ULIDS] {
        let mut bytes = plain.write().unwrap();
        bytes.extend_from_slice(&(kind << 1).to_be_bytes());
        bytes.extend_from_slice(&[0, 4, 1, 2, 3, 4]);
        assert_eq!(read(&sealed(bytes.clone())).as_ref(), Ok(&plain), "option {kind}");
        bytes[17] |= 1;
        assert_eq!(read(&sealed(bytes)), Err(ReadError::CriticalOption { at: 16 }));
    }
}

#[test]
fn an_option_twice_is_malformed() {
    let fii = Options { fii: Some(1), ..Options::default() };
    let body = Body::I1 { initiator_tag: Tag::new(3), initiator_nonce: 4 };
    let mut bytes = Message { body, options: fii }.write().unwrap();
    let twice = bytes[16..].to_vec();
    bytes.extend(twice);
    assert_eq!(read(&sealed(bytes)), Err(ReadError::Malformed));
}

// RFC 5533 12.3
#[test]
fn an_unknown_type_is_told_apart_from_a_bad_message() {
    for kind in (0..=127).filter(|k| !(1..=6).contains(k) && !(64..=68).contains(k)) {
        let mut bytes = vec![0; 16];
        (bytes[0], bytes[2]) = (59, kind);
        assert_eq!(read(&sealed(bytes)), Err(ReadError::UnknownType { kind }));
    }
}

// RFC 5533 5.15.2
#[test]
fn locators_start_on_a_multiple_of_eight_bytes() {
    for n in 1..=16 {
        let options = Options { locators: Some(list(n)), ..Options::default() };
        let body = Body::R2 { responder_tag: Tag::new(1), initiator_nonce: 2 };
        let message = Message { body, options };
        let bytes = message.write().unwrap();
        let content = usize::from(u16::from_be_bytes([bytes[18], bytes[19]]));
        assert_eq!(16 + 4 + content, bytes.len(), "inner padding counts, there is none at the end");
        assert_eq!((content + 4) % 8, 0);
        let (back, places) = Message::read(&bytes).unwrap();
        assert_eq!(back, message);
        assert_eq!(places.methods, 25);
        assert_eq!(bytes[25], Verification::Hba.octet());
    }
}

#[test]
fn a_list_of_more_locators_than_the_limit_is_malformed() {
    let options = Options { locators: Some(list(17)), ..Options::default() };
    let body = Body::R2 { responder_tag: Tag::new(1), initiator_nonce: 2 };
    let bytes = Message { body, options }.write().unwrap();
    assert_eq!(read(&bytes), Err(ReadError::Malformed));
}

// RFC 5533 5.15.3 MUST
#[test]
fn preferences_have_elements_of_one_two_three_or_more_octets() {
    let body = Body::Update { receiver_tag: Tag::new(3), nonce: 4 };
    let elements = smallvec![Preference { flags: 1, priority: 0, weight: 0 }; 3];
    let preferences = Some(Preferences { generation: 5, elements });
    let options = Options { preferences, ..Options::default() };
    let bytes = Message { body: body.clone(), options }.write().unwrap();
    assert_eq!(bytes[24], 1, "flags only");
    for len in [1usize, 2, 3, 5] {
        let mut content = vec![0, 0, 0, 5, len as u8];
        for element in [[1, 7, 9, 0, 0], [2, 8, 10, 0, 0]] {
            content.extend_from_slice(&element[..len]);
        }
        let mut bytes = Message::new(body.clone()).write().unwrap();
        bytes.extend_from_slice(&[0, 6, 0, content.len() as u8]);
        bytes.extend_from_slice(&content);
        bytes.resize(16 + total_bytes(content.len()), 0);
        let (message, places) = Message::read(&sealed(bytes)).unwrap();
        let told = message.options.preferences.unwrap();
        let (priority, weight) = (if len > 1 { 7 } else { 0 }, if len > 2 { 9 } else { 0 });
        assert_eq!(told.elements[0], Preference { flags: 1, priority, weight });
        assert_eq!(told.elements.len(), 2);
        assert_eq!((places.preferences_length, places.preferences_generation), (18, 20));
    }
}

// RFC 5533 5.15.6 MUST
#[test]
fn the_ulid_pair_option_has_36_bytes_and_unicast_addresses() {
    let body = Body::I1 { initiator_tag: Tag::new(3), initiator_nonce: 4 };
    let ulids = Some(Pair::new(ip("2001:db8::1"), ip("2001:db8::2")));
    let message = Message { body, options: Options { ulids, ..Options::default() } };
    let mut bytes = message.write().unwrap();
    assert_eq!(bytes[16..20], [0, 12, 0, 36]);
    assert_eq!(bytes[20..24], [0; 4]);
    bytes[20..24].fill(0xff);
    assert_eq!(read(&sealed(bytes.clone())), Ok(message));
    bytes[24] = 0xff;
    assert_eq!(read(&sealed(bytes)), Err(ReadError::Malformed), "a multicast ULID");
}

// RFC 5533 5.14
#[test]
fn an_error_carries_as_much_of_the_packet_as_fits() {
    for len in [0, 1, 8, 9, 100, 3000] {
        let packet: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let body = Body::Error { code: 2, pointer: 77, packet: packet.clone() };
        let bytes = Message::new(body).write().unwrap();
        assert!(bytes.len() >= 16 && bytes.len() <= MESSAGE_BYTES_MAX);
        let Ok(Message { body: Body::Error { code: 2, pointer: 77, packet: back }, .. }) =
            read(&bytes)
        else {
            panic!("{len}")
        };
        let kept = back.len().min(len);
        assert_eq!(back[..kept], packet[..kept]);
        assert!(kept >= len.min(MESSAGE_BYTES_MAX - 8));
    }
}

// RFC 5533 5.1
#[test]
fn a_message_longer_than_1280_bytes_with_its_ip_header_is_not_made() {
    let options = Options { pds: Some(vec![0; 1300]), ..Options::default() };
    let body = Body::R2 { responder_tag: Tag::new(1), initiator_nonce: 2 };
    assert_eq!(Message { body, options }.write(), None);
}

// RFC 5533 5.1
#[test]
fn the_longest_list_fits_with_hash_based_or_signed_proofs() {
    let elements = smallvec![Preference { flags: 1, priority: 2, weight: 3 }; 16];
    let options = Options {
        validator: Some(smallvec![1; 16]),
        locators: Some(list(16)),
        preferences: Some(Preferences { generation: 1, elements }),
        // 25 bytes, a 2,048-bit key, 16 prefixes.
        pds: Some(vec![1; 25 + 294 + 8 + 128]),
        signature: Some(vec![2; 256]),
        ulids: Some(Pair::new(ip("2001:db8::1"), ip("2001:db8::2"))),
        fii: Some(1),
        keepalive_timeout: Some(KeepaliveTimeout(Duration::from_secs(15))),
        ..Options::default()
    };
    let (tag, nonce) = (Tag::new(1), 2);
    let body = Body::I2bis {
        initiator_tag: tag,
        initiator_nonce: nonce,
        responder_nonce: nonce,
        packet_tag: tag,
    };
    assert!(Message { body, options }.write().is_some());
}

// RFC 5533 5.3
#[test]
fn only_messages_of_contexts_have_a_tag_to_ask_back_for() {
    let tag = Tag::new(0x0a0b_0c0d_0e0f);
    let bodies = [
        (Body::Update { receiver_tag: tag, nonce: 1 }, true),
        (Body::UpdateAck { receiver_tag: tag, nonce: 1 }, true),
        (Body::Keepalive { receiver_tag: tag }, true),
        (Body::Probe { receiver_tag: tag, report: vec![0; 44] }, true),
        (Body::I1 { initiator_tag: tag, initiator_nonce: 1 }, false),
        (Body::R2 { responder_tag: tag, initiator_nonce: 1 }, false),
        (Body::R1bis { packet_tag: tag, responder_nonce: 1 }, false),
        (Body::Error { code: 0, pointer: 0, packet: vec![0; 48] }, false),
    ];
    for (body, has) in bodies {
        let bytes = Message::new(body).write().unwrap();
        assert_eq!(Message::context_tag(&bytes), has.then_some(tag));
    }
}

// RFC 5533 5.15 MUST
// RFC 5534 5.2
#[test]
fn a_critical_option_behind_a_probe_is_not_overlooked() {
    for (sent, received) in [(1, 0), (2, 3)] {
        let mut report = vec![received << 4 | sent, 0, 0, 0];
        report.resize(4 + 40 * usize::from(sent + received), 7);
        let body = Body::Probe { receiver_tag: Tag::new(5), report };
        let bytes = Message::new(body).write().unwrap();
        let end = bytes.len();
        assert!(read(&bytes).is_ok());
        let with = |option: &[u8]| read(&sealed([&bytes[..], option].concat()));
        assert!(with(&[0, 0xfe, 0, 4, 1, 2, 3, 4]).is_ok(), "skipped");
        let critical = with(&[0, 0xff, 0, 4, 1, 2, 3, 4]);
        assert_eq!(critical, Err(ReadError::CriticalOption { at: end }));
        assert_eq!(with(&[0, 0xfe, 0, 5, 1, 2, 3, 4]), Err(ReadError::Malformed));
        assert_eq!(read(&sealed(bytes[..end - 40].to_vec())), Err(ReadError::Malformed));
    }
}

use super::*;
use proptest::prelude::*;

/// A LACPDU of an active, fast, aggregatable port, field by field in the order of 802.1AX 6.4.2.3.
const LACPDU: &str = "
    0180c2000002 020000000001 8809
    01 01
    01 14 8000 020000000001 0007 00ff 0001 3f 000000
    02 14 ffff 0a0000000002 0011 0080 0102 3d 000000
    03 10 0032 000000000000000000000000
    00 00
    00000000000000000000 00000000000000000000 00000000000000000000 00000000000000000000
    00000000000000000000";

/// A marker, field by field in the order of 802.1AX 6.5.3.3.
const MARKER: &str = "
    0180c2000002 020000000001 8809
    02 01
    01 10 0003 020000000009 deadbeef 0000
    00 00
    00000000000000000000 00000000000000000000 00000000000000000000 00000000000000000000
    00000000000000000000 00000000000000000000 00000000000000000000 00000000000000000000
    00000000000000000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn lacpdu() -> Lacpdu {
    Lacpdu {
        version: 1,
        actor: Info {
            system: SystemId { priority: 0x8000, mac: [2, 0, 0, 0, 0, 1] },
            key: 7,
            port: PortId { priority: 255, number: 1 },
            state: State(0x3f),
        },
        partner: Info {
            system: SystemId { priority: 0xffff, mac: [10, 0, 0, 0, 0, 2] },
            key: 0x11,
            port: PortId { priority: 128, number: 0x102 },
            state: State(0x3d),
        },
        max_delay: 50,
    }
}

// 802.1AX 6.4.2.3
#[test]
fn a_lacpdu_has_the_bytes_of_the_standard() {
    assert_eq!(bytes(LACPDU).len(), 124);
    assert_eq!(lacpdu().emit([2, 0, 0, 0, 0, 1]), bytes(LACPDU));
    assert_eq!(parse(&bytes(LACPDU)), Ok(Pdu::Lacp(lacpdu())));
}

// 802.1AX 6.5.3.3
#[test]
fn a_marker_and_its_response_have_the_bytes_of_the_standard() {
    let marker =
        Marker { response: false, port: 3, system: [2, 0, 0, 0, 0, 9], transaction: 0xdead_beef };
    assert_eq!(bytes(MARKER).len(), 124);
    assert_eq!(marker.emit([2, 0, 0, 0, 0, 1]), bytes(MARKER));
    assert_eq!(parse(&bytes(MARKER)), Ok(Pdu::Marker(marker)));
    let mut answer = bytes(MARKER);
    answer[16] = 2;
    assert_eq!(Marker { response: true, ..marker }.emit([2, 0, 0, 0, 0, 1]), answer);
}

// 802.1AX 6.4.12: version, TLV types and reserved fields are not validated
#[test]
fn later_versions_longer_tlvs_and_odd_reserved_fields_are_read() {
    let mut frame = bytes(LACPDU);
    frame[15] = 9; // version
    frame[16] = 0x41; // TLV type of the actor
    frame[33..36].fill(0xaa); // reserved behind the state
    frame[80..].fill(0x55); // reserved behind the terminator
    assert_eq!(parse(&frame), Ok(Pdu::Lacp(Lacpdu { version: 9, ..lacpdu() })));
    let mut longer = bytes(LACPDU);
    longer[17] = 24;
    longer.splice(36..36, [1, 2, 3, 4]);
    assert_eq!(parse(&longer), Ok(Pdu::Lacp(lacpdu())));
    let mut behind = bytes(LACPDU);
    behind.extend_from_slice(&[0xee; 60]);
    assert_eq!(parse(&behind), Ok(Pdu::Lacp(lacpdu())));
}

#[test]
fn what_cannot_be_read_is_named() {
    let changed = |at: usize, value: u8| {
        let mut frame = bytes(LACPDU);
        frame[at] = value;
        parse(&frame)
    };
    assert_eq!(changed(5, 3), Err(Ignored::NotSlow));
    assert_eq!(changed(13, 0x08), Err(Ignored::NotSlow));
    assert_eq!(changed(14, 0), Err(Ignored::IllegalSubtype));
    assert_eq!(changed(14, 11), Err(Ignored::IllegalSubtype));
    assert_eq!(changed(14, 3), Err(Ignored::OtherProtocol));
    assert_eq!(changed(17, 19), Err(Ignored::BadLength));
    assert_eq!(changed(17, 255), Err(Ignored::BadLength));
    assert_eq!(changed(37, 0), Err(Ignored::BadLength));
    assert_eq!(changed(57, 15), Err(Ignored::BadLength));
    for len in 0..124 {
        assert_eq!(parse(&bytes(LACPDU)[..len]), Err(Ignored::Short), "{len}");
    }
    let mut marker = bytes(MARKER);
    marker[16] = 3;
    assert_eq!(parse(&marker), Err(Ignored::UnknownMarker));
    marker[16..18].copy_from_slice(&[1, 15]);
    assert_eq!(parse(&marker), Err(Ignored::BadLength));
}

fn info() -> impl Strategy<Value = Info> {
    (any::<(u16, Mac, u16)>(), any::<(u16, u16, u8)>()).prop_map(|(a, b)| Info {
        system: SystemId { priority: a.0, mac: a.1 },
        key: a.2,
        port: PortId { priority: b.0, number: b.1 },
        state: State(b.2),
    })
}

proptest! {
    #[test]
    fn reading_never_panics(mut frame in proptest::collection::vec(any::<u8>(), 0..200), slow: bool,
        subtype in 0u8..4) {
        if slow && frame.len() > 14 {
            frame[..6].copy_from_slice(&SLOW_PROTOCOLS_MAC);
            frame[12..14].copy_from_slice(&ETHERTYPE_SLOW.to_be_bytes());
            frame[14] = subtype;
        }
        let _ = parse(&frame);
    }

    #[test]
    fn what_is_written_is_read(actor in info(), partner in info(), max_delay: u16, version: u8) {
        let pdu = Lacpdu { version, actor, partner, max_delay };
        prop_assert_eq!(parse(&pdu.emit([2; 6])), Ok(Pdu::Lacp(pdu)));
    }

    #[test]
    fn a_changed_byte_is_read_or_refused(at in 0usize..124, value: u8) {
        let mut frame = bytes(LACPDU);
        frame[at] = value;
        let _ = parse(&frame);
        let mut frame = bytes(MARKER);
        frame[at] = value;
        let _ = parse(&frame);
    }
}

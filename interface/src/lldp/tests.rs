use core::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use weft_stack::time::{Duration, Instant};

use super::wire::*;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const CHASSIS: Mac = [2, 0, 0, 0, 0, 0xaa];

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
        .collect()
}

/// As Open vSwitch 3.1 sends it, with an auto-attach TLV of Avaya's.
const OVS: &str = "0180c200000e 8673346ec5e6 88cc 0207 04 8673346ec5e6 0404 05 646230 0602 0078
    0c11 6f70656e767377697463682033 2e312e30 0e04 00040004 fe32 00040d 0b
    0000000000000000000000000000000000000000000000000000000000000000 00000038
    000000 8673346ec5e6 0000000000";

#[test]
fn what_open_vswitch_sends_is_read() {
    let frame = bytes(OVS);
    let (pdu, tlvs) = parse(&frame).expect("legal");
    assert_eq!(pdu.chassis.to_string(), "86:73:34:6e:c5:e6");
    assert_eq!((pdu.port.kind, pdu.port.to_string()), (IdKind::InterfaceName, "db0".to_owned()));
    assert_eq!((pdu.ttl, pdu.system_description.as_deref()), (120, Some("openvswitch 3.1.0")));
    assert_eq!(pdu.system_name, None);
    assert_eq!(pdu.capabilities.map(|c| c.enabled), Some(CAPABILITY_BRIDGE));
    assert_eq!(tlvs.unrecognized, 1);
}

/// As lldpd 1.0.16 sends it, with a shorter system description.
const LLDPD: &str =
    "0180c200000e 2ab5321ed658 88cc 0207 04 2ab5321ed658 0407 03 2ab5321ed658 0602 0078
    0a02 766d 0c06 44656269616e 0e04 009c 0080 100c 0501c0000201 0200000002 00
    1018 1102fe8000000000000028b532fffe1ed658 0200000002 00 0803 646430
    fe09 00120f 03 01 00000000 fe09 00120f 01 00 8000 0036 0000";

#[test]
fn what_lldpd_sends_is_read() {
    let (pdu, tlvs) = parse(&bytes(LLDPD)).expect("legal");
    assert_eq!(
        (pdu.port.kind, pdu.port.to_string()),
        (IdKind::Mac, "2a:b5:32:1e:d6:58".to_owned())
    );
    assert_eq!((pdu.ttl, pdu.system_name.as_deref()), (120, Some("vm")));
    assert_eq!(pdu.port_description.as_deref(), Some("dd0"));
    let addresses: Vec<_> = pdu.management.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "fe80::28b5:32ff:fe1e:d658"]);
    assert_eq!(pdu.aggregation, Some(Aggregation { capable: true, enabled: false, id: 0 }));
    assert_eq!(pdu.mac_phy, Some(MacPhy { autoneg_able: false, autoneg: false, mau: 0x36 }));
    assert_eq!(tlvs, Tlvs::default());
}

fn full() -> Lldpdu {
    let vlan = |id: u16, name: &str| VlanName { id, name: name.to_owned() };
    Lldpdu {
        ttl: 121,
        port_description: Some("uplink".to_owned()),
        system_name: Some("sw1".to_owned()),
        system_description: Some("a switch".to_owned()),
        capabilities: Some(Capabilities { able: 0x14, enabled: CAPABILITY_BRIDGE }),
        pvid: Some(7),
        vlans: vec![vlan(5, "storage"), vlan(9, "")],
        aggregation: Some(Aggregation { capable: true, enabled: true, id: 0x0102_0304 }),
        max_frame: Some(1518),
        mac_phy: Some(MacPhy { autoneg_able: true, autoneg: false, mau: 30 }),
        ..Lldpdu::new(Id::mac(IdKind::Mac, [1; 6]), Id::text(IdKind::Local, "Gi1/0/7"))
    }
}

#[test]
fn what_is_written_is_read_back() {
    let pdu = full();
    assert_eq!(parse(&pdu.emit([2; 6])), Ok((pdu, Tlvs::default())));
    let last = Lldpdu::new(Id::mac(IdKind::Mac, [1; 6]), Id::text(IdKind::InterfaceName, "eth0"));
    let frame = last.emit([2; 6]);
    assert_eq!((frame.len(), parse(&frame)), (60, Ok((last, Tlvs::default()))));
}

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    [
        &bytes("0180c200000e 020000000001 88cc 0207 04 020000000001 0404 05 616263 0602 0078")[..],
        tlvs,
    ]
    .concat()
}

#[test]
fn management_addresses_are_kept_up_to_a_limit() {
    let mut tlvs = bytes("100c 05 01 c0000201 02 00000003 00");
    let (pdu, _) = parse(&with_tlvs(&tlvs)).expect("legal");
    assert_eq!(pdu.management, [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))]);
    for last in 2..9 {
        tlvs.extend(bytes(&format!("100c 05 01 c00002{last:02x} 02 00000003 00")));
    }
    let (pdu, read) = parse(&with_tlvs(&tlvs)).expect("legal");
    assert_eq!((pdu.management.len(), read.discarded), (MANAGEMENT_MAX, 4));
}

// IEEE 802.1AB 9.2.7.7.1
#[test]
fn without_the_three_mandatory_tlvs_in_their_order_nothing_is_taken() {
    let head = "0180c200000e 020000000001 88cc";
    for (tlvs, why) in [
        ("", Discarded::Short),
        ("0404 05 616263 0207 04 020000000001 0602 0078", Discarded::Mandatory),
        ("0207 04 020000000001 0602 0078", Discarded::Mandatory),
        ("0201 04 0404 05 616263 0602 0078", Discarded::Mandatory),
        ("0207 04 020000000001 0404 05 616263 0601 00", Discarded::Mandatory),
        ("0207 04 020000000001 0404 05 616263 0602 0078 0602 0078", Discarded::Mandatory),
        ("0207 04 020000000001 0404 05 616263 0602 0078 0a05 41", Discarded::Short),
    ] {
        assert_eq!(parse(&bytes(&format!("{head}{tlvs}"))), Err(why), "{tlvs}");
    }
    let other = bytes("0180c2000002 020000000001 88cc 0000");
    assert_eq!(parse(&other), Err(Discarded::NotLldp));
}

// IEEE 802.1AB 9.2.7.7.2
#[test]
fn an_optional_tlv_that_cannot_be_read_costs_only_itself() {
    let tlvs = bytes("0e01 00 fe05 0080c2 01 00 fe02 0080 1001 09 fe06 0080c2 01 0005 1200 0000");
    let (pdu, tlvs) = parse(&with_tlvs(&tlvs)).expect("legal");
    assert_eq!(pdu.pvid, Some(5));
    assert_eq!(tlvs, Tlvs { discarded: 4, unrecognized: 1 });
}

#[test]
fn control_characters_do_not_reach_a_terminal() {
    let (pdu, _) = parse(&with_tlvs(&bytes("0a06 1b5b324a4100"))).expect("legal");
    assert_eq!(pdu.system_name.as_deref(), Some(" [2JA"));
    let id = Id::text(IdKind::Local, "\u{1b}[2J");
    assert_eq!(id.to_string(), "1b:5b:32:4a");
}

#[test]
fn the_older_aggregation_tlv_counts_only_without_the_newer() {
    let old = "fe09 00120f 03 03 00000007";
    let new = "fe09 0080c2 07 01 00000009";
    let read = |tlvs: &str| parse(&with_tlvs(&bytes(tlvs))).expect("legal").0.aggregation;
    let of = |enabled, id| Some(Aggregation { capable: true, enabled, id });
    assert_eq!(read(old), of(true, 7));
    assert_eq!(read(&format!("{old}{new}")), of(false, 9));
    assert_eq!(read(&format!("{new}{old}")), of(false, 9));
}

fn local(name: &str) -> LocalPort {
    LocalPort { name: name.to_owned(), mac: [2, 0, 0, 0, 0, 1], max_frame: 1518 }
}

fn agents() -> Lldp {
    let system =
        LocalSystem { chassis: CHASSIS, name: "host".to_owned(), description: "weft".to_owned() };
    Lldp::new(LldpConfig::default(), system, &[local("eth0"), local("eth1")])
}

/// What is sent until `end`, with the time of each.
fn run(lldp: &mut Lldp, from: Instant, end: Instant) -> Vec<(Instant, usize, Lldpdu)> {
    let mut sent = Vec::new();
    let mut now = from;
    loop {
        while let Some((port, frame)) = lldp.poll_transmit() {
            sent.push((now, port, parse(&frame).expect("ours is legal").0));
        }
        match lldp.poll_timeout().filter(|at| *at <= end) {
            Some(at) => {
                assert!(at > now, "a timer does not go off");
                now = at;
                lldp.handle_timeout(now);
            }
            None => return sent,
        }
    }
}

fn seconds(n: u64) -> Instant {
    Instant::from_millis(n * 1000)
}

#[test]
fn a_port_with_a_link_tells_fast_first_then_every_thirty_seconds() {
    let mut lldp = agents();
    assert_eq!(run(&mut lldp, seconds(0), seconds(100)), []);
    lldp.handle_link(seconds(100), 1, true);
    let sent = run(&mut lldp, seconds(100), seconds(200));
    let at: Vec<_> = sent.iter().map(|s| (s.0.as_millis() / 1000, s.1)).collect();
    assert_eq!(at, [100, 101, 102, 103, 133, 163, 193].map(|s| (s, 1)));
    let pdu = &sent[0].2;
    assert_eq!(
        (pdu.chassis.to_string(), pdu.port.to_string()),
        ("02:00:00:00:00:aa".into(), "eth1".into())
    );
    assert_eq!((pdu.ttl, pdu.max_frame, pdu.aggregation), (121, Some(1518), None));
    lldp.handle_link(seconds(200), 1, false);
    assert_eq!(run(&mut lldp, seconds(200), seconds(300)), []);
}

#[test]
fn a_change_of_the_aggregation_is_told_at_once_but_not_without_limit() {
    let mut lldp = agents();
    lldp.handle_link(seconds(1), 0, true);
    run(&mut lldp, seconds(1), seconds(20));
    let is = Aggregation { capable: true, enabled: true, id: 3 };
    lldp.set_aggregation(seconds(20), 0, Some(is));
    let sent = run(&mut lldp, seconds(20), seconds(20));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].2.aggregation, Some(is));
    let mut sent = 0;
    for id in 0..50 {
        lldp.set_aggregation(seconds(20), 0, Some(Aggregation { id, ..is }));
        sent += run(&mut lldp, seconds(20), seconds(20)).len();
    }
    assert_eq!(sent, usize::from(CREDIT_MAX) - 1);
    let sent = run(&mut lldp, seconds(20), seconds(22));
    assert_eq!(sent.len(), 1, "the last one, when there is credit again");
    assert_eq!(sent[0].2.aggregation.map(|a| a.id), Some(49));
}

#[test]
fn the_end_of_the_process_is_told_where_there_is_a_link() {
    let mut lldp = agents();
    lldp.handle_link(seconds(1), 0, true);
    run(&mut lldp, seconds(1), seconds(20));
    lldp.shutdown();
    let sent = run(&mut lldp, seconds(20), seconds(500));
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].1, sent[0].2.ttl, sent[0].2.system_name.clone()), (0, 0, None));
}

#[test]
fn neighbours_live_as_long_as_they_say() {
    let mut lldp = agents();
    let frame = full().emit([2; 6]);
    lldp.handle_frame(seconds(1), 0, &frame);
    assert_eq!(lldp.neighbours(0), [], "without a link nobody is there");
    lldp.handle_link(seconds(1), 0, true);
    run(&mut lldp, seconds(1), seconds(10));
    lldp.handle_frame(seconds(10), 0, &frame);
    assert_eq!(run(&mut lldp, seconds(10), seconds(13)).len(), 4, "it hears of us soon");
    run(&mut lldp, seconds(13), seconds(40));
    lldp.handle_frame(seconds(40), 0, &frame);
    run(&mut lldp, seconds(40), seconds(50));
    let report = &lldp.report(seconds(50))[0];
    assert_eq!(report.port, "eth0");
    let [n] = &report.neighbours[..] else { panic!("{report:?}") };
    assert_eq!((n.known_ms, n.age_ms, n.left_ms), (40_000, 10_000, 111_000));
    assert_eq!((n.port.as_str(), n.pvid, &n.vlans[..]), ("Gi1/0/7", Some(7), &[5, 9][..]));
    assert_eq!(n.bridge, Some(true));
    run(&mut lldp, seconds(50), seconds(161));
    assert_eq!((lldp.neighbours(0).len(), lldp.agents[0].counters.ageouts), (0, 1));
    run(&mut lldp, seconds(161), seconds(170));
    // And may say that they go away.
    lldp.handle_frame(seconds(170), 0, &frame);
    lldp.handle_frame(seconds(170), 0, &Lldpdu { ttl: 0, ..full() }.emit([2; 6]));
    assert_eq!(lldp.neighbours(0), []);
    lldp.handle_frame(seconds(170), 0, &frame);
    lldp.handle_link(seconds(171), 0, false);
    assert_eq!(lldp.neighbours(0), []);
}

#[test]
fn neighbours_are_bounded_and_we_are_none_of_our_own() {
    let mut lldp = agents();
    lldp.handle_link(seconds(1), 0, true);
    for n in 0..20 {
        let pdu = Lldpdu { port: Id::text(IdKind::Local, &n.to_string()), ..full() };
        lldp.handle_frame(seconds(1), 0, &pdu.emit([2; 6]));
    }
    assert_eq!(lldp.neighbours(0).len(), NEIGHBOURS_MAX);
    assert_eq!(lldp.agents[0].counters.too_many_neighbours, 12);
    let (_, own) = lldp.poll_transmit().expect("it begins");
    lldp.handle_link(seconds(1), 1, true);
    lldp.handle_frame(seconds(1), 1, &own);
    assert_eq!((lldp.neighbours(1).len(), lldp.agents[1].counters.own), (0, 1));
    lldp.handle_frame(seconds(1), 1, &own[..20]);
    assert_eq!(lldp.agents[1].counters.frames_discarded, 1);
}

#[test]
fn what_is_not_wanted_is_neither_sent_nor_read() {
    let off = LldpConfig { receive: false, transmit: false };
    let mut lldp = agents();
    lldp = Lldp::new(off, lldp.system.clone(), &[local("eth0")]);
    lldp.handle_link(seconds(1), 0, true);
    lldp.handle_frame(seconds(1), 0, &full().emit([2; 6]));
    lldp.shutdown();
    assert_eq!((lldp.neighbours(0).len(), lldp.poll_transmit()), (0, None));
    assert_eq!(lldp.poll_timeout(), None);
}

#[test]
fn what_is_wanted_changes_while_links_are_up() {
    let both = LldpConfig::default();
    let listen = LldpConfig { transmit: false, ..both };
    let off = LldpConfig { receive: false, transmit: false };
    let mut lldp = agents();
    lldp.handle_link(seconds(1), 0, true);
    lldp.handle_frame(seconds(1), 0, &full().emit([2; 6]));
    run(&mut lldp, seconds(1), seconds(20));
    lldp.set_config(seconds(20), listen);
    let sent = run(&mut lldp, seconds(20), seconds(80));
    let told: Vec<_> = sent.iter().map(|s| (s.0, s.1, s.2.ttl)).collect();
    assert_eq!(told, [(seconds(20), 0, 0)], "we are forgotten at once, where there is a link");
    lldp.handle_frame(seconds(80), 0, &full().emit([2; 6]));
    assert_eq!(lldp.neighbours(0).len(), 1);
    lldp.set_config(seconds(81), off);
    assert_eq!(lldp.neighbours(0).len(), 0);
    lldp.handle_frame(seconds(82), 0, &full().emit([2; 6]));
    assert_eq!((lldp.neighbours(0).len(), lldp.poll_transmit()), (0, None));
    assert_eq!(lldp.poll_timeout(), None);
    lldp.set_config(seconds(90), both);
    let sent = run(&mut lldp, seconds(90), seconds(95));
    let told: Vec<_> = sent.iter().map(|s| (s.0, s.2.ttl)).collect();
    assert_eq!(told, [90, 91, 92, 93].map(|s| (seconds(s), 121)), "as when a link comes up");
    lldp.handle_frame(seconds(95), 0, &full().emit([2; 6]));
    assert_eq!(lldp.neighbours(0).len(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(tail in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
        let frame = with_tlvs(&tail);
        let _ = parse(&frame[..cut.min(frame.len())]);
        if let Ok((pdu, _)) = parse(&frame) {
            prop_assert!(pdu.vlans.len() <= VLANS_MAX && pdu.management.len() <= MANAGEMENT_MAX);
            let _ = pdu.emit([2; 6]);
        }
    }

    #[test]
    fn a_changed_byte_is_read_without_panic(at in 14usize..200, to: u8) {
        for mut frame in [full().emit([2; 6]), bytes(OVS)] {
            let at = at % frame.len();
            frame[at] = to;
            let _ = parse(&frame);
        }
    }

    #[test]
    fn timers_always_go_off_and_no_more_is_sent_than_credit_allows(
        events in prop::collection::vec((0u64..40, 0u8..5, 0u16..3), 1..60)
    ) {
        let mut lldp = agents();
        let mut now = seconds(1);
        let mut sent = Vec::new();
        for (wait, what, n) in events {
            let end = now + SECOND * wait as u32;
            sent.extend(run(&mut lldp, now, end));
            now = end;
            match what {
                0 => lldp.handle_link(now, 0, n == 0),
                1 | 2 => {
                    let pdu = Lldpdu { pvid: Some(n), ttl: n * 20, ..full() };
                    lldp.handle_frame(now, 0, &pdu.emit([2; 6]));
                }
                _ => lldp.set_aggregation(now, 0, Some(Aggregation { id: u32::from(n), ..Aggregation::default() })),
            }
            sent.extend(run(&mut lldp, now, now));
        }
        let most = usize::from(CREDIT_MAX) + 1;
        for window in sent.windows(most) {
            prop_assert!(window[most - 1].0 - window[0].0 >= SECOND);
        }
    }
}

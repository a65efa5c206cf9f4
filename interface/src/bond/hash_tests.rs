use super::*;
use proptest::prelude::*;

const POLICIES: [HashPolicy; 4] =
    [HashPolicy::L2, HashPolicy::L3, HashPolicy::L34, HashPolicy::Symmetric];

/// Ethernet, optional tags, and a packet.
fn ethernet(from: u8, to: u8, tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from];
    for tag in tags {
        frame.extend_from_slice(&[0x81, 0x00]);
        frame.extend_from_slice(&tag.to_be_bytes());
    }
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

fn ip4(from: u8, to: u8, fragment: u16, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0];
    p.extend_from_slice(&fragment.to_be_bytes());
    p.extend_from_slice(&[64, protocol, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    p.extend_from_slice(l4);
    p
}

fn ip6(from: u8, to: u8, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    for last in [from, to] {
        p.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    p.extend_from_slice(rest);
    p
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    let mut l4 = from.to_be_bytes().to_vec();
    l4.extend_from_slice(&to.to_be_bytes());
    l4.extend_from_slice(&[0; 16]);
    l4
}

fn tcp4(from: u8, to: u8, sport: u16, dport: u16) -> Vec<u8> {
    ethernet(1, 2, &[], 0x0800, &ip4(from, to, 0, 6, &ports(sport, dport)))
}

fn selection(ports: &[u16]) -> BondSelection {
    BondSelection { distributing: ports.into(), collecting: ports.into() }
}

fn distributor(mode: Mode, policy: HashPolicy, ports: &[u16]) -> Distributor {
    let config = BondConfig { mode, hash: policy, ..BondConfig::default() };
    let mut d = Distributor::new(&config);
    d.apply(&selection(ports));
    d
}

#[test]
fn each_policy_looks_at_its_layer_only() {
    let base = tcp4(1, 2, 1000, 80);
    let other_port = tcp4(1, 2, 1001, 80);
    let other_address = tcp4(1, 3, 1000, 80);
    let other_mac = ethernet(7, 2, &[], 0x0800, &ip4(1, 2, 0, 6, &ports(1000, 80)));
    let differs = |p, frame: &[u8]| hash(p, &base) != hash(p, frame);
    assert!(!differs(HashPolicy::L2, &other_address) && differs(HashPolicy::L2, &other_mac));
    assert!(!differs(HashPolicy::L3, &other_port) && differs(HashPolicy::L3, &other_address));
    assert!(!differs(HashPolicy::L3, &other_mac));
    for policy in [HashPolicy::L34, HashPolicy::Symmetric] {
        assert!(differs(policy, &other_port) && differs(policy, &other_address));
        assert!(!differs(policy, &other_mac));
    }
}

#[test]
fn both_directions_hash_alike_with_the_symmetric_policy_only() {
    let there = tcp4(1, 2, 1000, 80);
    let back = ethernet(2, 1, &[], 0x0800, &ip4(2, 1, 0, 6, &ports(80, 1000)));
    assert_eq!(hash(HashPolicy::Symmetric, &there), hash(HashPolicy::Symmetric, &back));
    assert_ne!(hash(HashPolicy::L34, &there), hash(HashPolicy::L34, &back));
    let there = ethernet(1, 2, &[], 0x86dd, &ip6(1, 2, 17, &ports(5000, 53)));
    let back = ethernet(2, 1, &[], 0x86dd, &ip6(2, 1, 17, &ports(53, 5000)));
    assert_eq!(hash(HashPolicy::Symmetric, &there), hash(HashPolicy::Symmetric, &back));
    // Also without IP, and between ports of one host.
    let there = ethernet(1, 2, &[5], 0x0806, &[0; 28]);
    let back = ethernet(2, 1, &[5], 0x0806, &[0; 28]);
    assert_eq!(hash(HashPolicy::Symmetric, &there), hash(HashPolicy::Symmetric, &back));
    let (there, back) = (tcp4(1, 1, 1000, 80), tcp4(1, 1, 80, 1000));
    assert_eq!(hash(HashPolicy::Symmetric, &there), hash(HashPolicy::Symmetric, &back));
}

#[test]
fn fragments_of_a_datagram_stay_together() {
    let frame =
        |fragment: u16, l4: &[u8]| ethernet(1, 2, &[], 0x0800, &ip4(1, 2, fragment, 17, l4));
    let first = frame(0x2000, &ports(5000, 53));
    let middle = frame(0x2010, &ports(0xdead, 0xbeef));
    let last = frame(0x0020, &ports(1, 2));
    let v6 = |offset: u16, l4: &[u8]| {
        let mut rest = vec![17, 0];
        rest.extend_from_slice(&offset.to_be_bytes());
        rest.extend_from_slice(&[0, 0, 0, 9]);
        rest.extend_from_slice(l4);
        ethernet(1, 2, &[], 0x86dd, &ip6(1, 2, 44, &rest))
    };
    let (first6, last6) = (v6(1, &ports(5000, 53)), v6(0x80, &ports(7, 8)));
    for policy in POLICIES {
        assert_eq!(hash(policy, &first), hash(policy, &middle));
        assert_eq!(hash(policy, &first), hash(policy, &last));
        assert_eq!(hash(policy, &first6), hash(policy, &last6));
    }
    // Do-not-fragment does not make a fragment.
    assert_ne!(
        hash(HashPolicy::L34, &frame(0x4000, &ports(1, 2))),
        hash(HashPolicy::L34, &frame(0x4000, &ports(3, 2)))
    );
}

#[test]
fn tags_and_extension_headers_do_not_hide_a_conversation() {
    let packet = ip4(1, 2, 0, 6, &ports(1000, 80));
    let plain = ethernet(1, 2, &[], 0x0800, &packet);
    let tagged = ethernet(1, 2, &[0x6005], 0x0800, &packet);
    let twice = ethernet(1, 2, &[7, 5], 0x0800, &packet);
    assert_eq!(hash(HashPolicy::L34, &plain), hash(HashPolicy::L34, &tagged));
    assert_eq!(hash(HashPolicy::L34, &plain), hash(HashPolicy::L34, &twice));
    // The VLAN counts where MAC addresses do, its priority never.
    let other_priority = ethernet(1, 2, &[0x0005], 0x0800, &packet);
    assert_ne!(hash(HashPolicy::L2, &plain), hash(HashPolicy::L2, &tagged));
    assert_eq!(hash(HashPolicy::L2, &other_priority), hash(HashPolicy::L2, &tagged));
    // Hop-by-hop and destination options before the ports.
    let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 0, 6, 1];
    rest.extend_from_slice(&[0; 14]);
    rest.extend_from_slice(&ports(1000, 80));
    let long = ethernet(1, 2, &[], 0x86dd, &ip6(1, 2, 0, &rest));
    let short = ethernet(1, 2, &[], 0x86dd, &ip6(1, 2, 6, &ports(1000, 80)));
    assert_eq!(hash(HashPolicy::L34, &long), hash(HashPolicy::L34, &short));
}

#[test]
fn conversations_spread_evenly() {
    for policy in [HashPolicy::L34, HashPolicy::Symmetric] {
        for n in [2u16, 3, 4, 8] {
            let ports: Vec<u16> = (0..n).collect();
            let mut d = distributor(Mode::Lacp, policy, &ports);
            let mut counts = vec![0u32; usize::from(n)];
            for flow in 0..8000u16 {
                let frame = tcp4(1, (flow % 100) as u8, 20_000 + flow, 443);
                counts[usize::from(d.choose(&frame).expect("ports"))] += 1;
            }
            let share = 8000 / u32::from(n);
            assert!(
                counts.iter().all(|c| c.abs_diff(share) < share / 5),
                "{policy:?} over {n} ports: {counts:?}"
            );
        }
    }
}

#[test]
fn only_conversations_of_the_port_that_left_move() {
    let frames: Vec<_> = (0..2000).map(|f| tcp4(1, 2, f, 80)).collect();
    let mut d = distributor(Mode::Lacp, HashPolicy::L34, &[0, 1, 2, 3]);
    let before: Vec<_> = frames.iter().map(|f| d.choose(f)).collect();
    d.apply(&selection(&[0, 1, 3]));
    for (frame, was) in frames.iter().zip(&before) {
        let is = d.choose(frame);
        assert!(is == *was || *was == Some(2), "{was:?} -> {is:?}");
        assert_ne!(is, Some(2));
    }
    // When it is back, everything is as before; an order of ports does not matter.
    d.apply(&selection(&[3, 2, 1, 0]));
    let after: Vec<_> = frames.iter().map(|f| d.choose(f)).collect();
    assert_eq!(before, after);
}

#[test]
fn other_modes_choose_without_a_hash() {
    let frame = tcp4(1, 2, 1000, 80);
    let mut turns = distributor(Mode::RoundRobin, HashPolicy::L34, &[0, 2, 5]);
    let seen: Vec<_> = (0..6).filter_map(|_| turns.choose(&frame)).collect();
    assert_eq!(seen, [2, 5, 0, 2, 5, 0]);
    turns.apply(&selection(&[5]));
    assert_eq!(turns.choose(&frame), Some(5));
    let mut one = distributor(Mode::ActiveBackup, HashPolicy::L34, &[1]);
    assert_eq!(one.choose(&frame), Some(1));
    one.apply(&selection(&[]));
    assert_eq!(one.choose(&frame), None);
}

proptest! {
    #[test]
    fn any_bytes_have_a_hash(frame in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
        let mut frame = frame;
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        }
        for policy in POLICIES {
            prop_assert_eq!(hash(policy, &frame), hash(policy, &frame.clone()));
        }
    }
}

use std::net::IpAddr;

use weft_stack::time::{Duration, Instant};

use super::bfd::State;
use super::lab_tests::{Lab, MS, S, host, icmp, ip, member};
use super::*;

use ProbeState::{Disabled, Failed, Ok, Unknown};

fn fast(peers: &[&str]) -> ProbeConfig {
    let peers = peers.iter().map(|p| ip(p)).collect();
    ProbeConfig {
        fast: Some(FastConfig { peers, ..FastConfig::default() }),
        ..ProbeConfig::default()
    }
}

/// Two hosts of two members each; each has a session to the same member of the other.
fn two_hosts(a: &[&str; 2], b: &[&str; 2]) -> Lab {
    let members = |p: u8, t: &[&str; 2]| vec![member(p, 0, &t[..1]), member(p, 1, &t[1..])];
    let one = |p: u8, own: &[&str; 2], peer: &[&str; 2]| (fast(peer), members(p, own));
    let mut lab = Lab::new(&[one(0, a, b), one(1, b, a)], vec![]);
    let end = lab.now + 10 * S;
    assert!(lab.run_until(end, |l| l.states() == [Ok, Ok]), "{:?}", lab.states());
    lab.run(5 * S);
    lab
}

fn sessions(lab: &Lab, prober: usize) -> Vec<SessionRow> {
    lab.probers[prober].report(lab.now).sessions
}

#[test]
fn sessions_between_two_hosts_come_up_and_run_every_few_milliseconds() {
    for (a, b) in [
        (["10.0.0.201", "10.0.0.202"], ["10.0.0.101", "10.0.0.102"]),
        (["fe80::201", "fe80::202"], ["fe80::101", "fe80::102"]),
    ] {
        let mut lab = two_hosts(&a, &b);
        for prober in [0, 1] {
            let rows = sessions(&lab, prober);
            assert_eq!(rows.len(), 4, "each member to each peer");
            assert!(rows.iter().all(|r| r.state == State::Up), "{rows:?}");
            assert!(rows.iter().all(|r| (r.tx_us, r.detect_us) == (3000, 9000)));
        }
        lab.wire.clear();
        lab.run(S);
        let sent = lab.wire.iter().filter(|w| (w.1, w.2) == (0, 0)).count();
        // Two sessions, jitter of 75 to 100 %.
        assert!((2 * 333..2 * 445).contains(&sent), "{sent}");
        let taken = lab.probers[0].report(lab.now).bfd.received;
        assert!(taken > sent as u64, "{taken} since the start, {sent} of one member in a second");
    }
}

#[test]
fn a_cut_is_seen_within_the_detection_time_and_told_from_a_dead_peer() {
    let mut lab = two_hosts(&["10.0.0.201", "10.0.0.202"], &["10.0.0.101", "10.0.0.102"]);
    let cut = lab.now;
    lab.cut(0);
    assert!(lab.run_until(cut + 9 * MS + MS, |l| l.states() == [Failed, Ok]), "{:?}", lab.states());
    let verdict = lab.probers[0].verdict(0);
    assert!(verdict.first_loss <= Some(cut + 4 * MS));
    assert!(lab.probers[0].verdict(1).last_success > verdict.first_loss);
    lab.mend(0);
    let end = lab.now + 5 * S;
    assert!(lab.run_until(end, |l| l.states() == [Ok, Ok]));

    lab.run(S);
    // The other host dies: nobody has a success since.
    (0..2).for_each(|m| (lab.cables[1][m].tx, lab.cables[1][m].rx) = (false, false));
    lab.run(20 * MS);
    assert_eq!(lab.states(), [Failed, Failed]);
    for (suspect, other) in [(0, 1), (1, 0)] {
        let first_loss = lab.probers[0].verdict(suspect).first_loss;
        assert!(lab.probers[0].verdict(other).last_success < first_loss);
    }
}

/// Two members with a session each to one peer, and a target that answers ICMP.
fn one_peer_and_a_target() -> Lab {
    let config = ProbeConfig { method: ProbeMode::Icmp, ..fast(&["10.0.0.101"]) };
    let config = ProbeConfig { targets: vec![ip("10.0.0.1")], detect: 100 * MS, ..config };
    let members = vec![member(0, 0, &["10.0.0.201"]), member(0, 1, &["10.0.0.202"])];
    let other = (fast(&["10.0.0.201", "10.0.0.202"]), vec![member(1, 0, &["10.0.0.101"])]);
    let mut lab = Lab::new(&[(config, members), other], vec![host(1, &["10.0.0.1"])]);
    lab.run(5 * S);
    assert!(sessions(&lab, 0).iter().all(|r| r.state == State::Up));
    lab
}

#[test]
fn a_dead_peer_fails_no_member_that_other_targets_answer() {
    let mut lab = one_peer_and_a_target();
    lab.cables[1][0].tx = false;
    lab.run(S);
    assert!(sessions(&lab, 0).iter().all(|r| r.state != State::Up));
    assert_eq!(lab.states(), [Ok, Ok]);
    // A cut of our own is seen by BFD before five probes are lost.
    lab.cables[1][0].tx = true;
    lab.run(5 * S);
    lab.cut(1);
    lab.run(12 * MS);
    assert_eq!(lab.states(), [Ok, Failed]);
}

#[test]
fn a_member_that_lost_a_dying_peer_before_the_others_is_cleared() {
    let mut lab = one_peer_and_a_target();
    lab.cut(0);
    lab.run(12 * MS);
    assert_eq!(lab.states(), [Failed, Ok]);
    lab.cables[1][0].tx = false;
    lab.mend(0);
    let end = lab.now + S;
    assert!(lab.run_until(end, |l| l.states() == [Ok, Ok]), "{:?}", lab.states());
    assert!(sessions(&lab, 0).iter().all(|r| r.state != State::Up));
}

#[test]
fn one_way_loss_takes_a_session_down_at_both_ends() {
    let mut lab = two_hosts(&["10.0.0.201", "10.0.0.202"], &["10.0.0.101", "10.0.0.102"]);
    lab.cables[0][0].tx = false;
    lab.run(12 * MS);
    // We still hear the other end, and it says that it does not hear us.
    assert_eq!(lab.state(0), Failed);
    let row = &sessions(&lab, 0)[0];
    assert_eq!(row.diagnostic, bfd::Diagnostic::NEIGHBOR_DOWN);
    assert_eq!(row.remote_diagnostic, bfd::Diagnostic::EXPIRED);
}

#[test]
fn sessions_hold_with_some_loss_and_come_back_after_much() {
    let mut lab = two_hosts(&["10.0.0.201", "10.0.0.202"], &["10.0.0.101", "10.0.0.102"]);
    lab.notices.clear();
    lab.cables[0][0].loss = 60;
    lab.run(5 * S);
    assert!(lab.notices.iter().any(|n| matches!(n.1, ProbeNotice::Session { .. })));
    lab.cables[0][0].loss = 0;
    lab.run(5 * S);
    assert_eq!(lab.states(), [Ok, Ok]);
    assert!(sessions(&lab, 0).iter().all(|r| r.state == State::Up && r.tx_us == 3000));
}

#[test]
fn an_offline_member_tells_its_peers_that_it_is_on_purpose() {
    let mut lab = two_hosts(&["10.0.0.201", "10.0.0.202"], &["10.0.0.101", "10.0.0.102"]);
    lab.probers[0].handle_offline(lab.now, 0, true);
    lab.drain(0);
    lab.run(50 * MS);
    assert_eq!(sessions(&lab, 0)[0].state, State::AdminDown);
    let row = &sessions(&lab, 1)[0];
    assert_eq!(row.remote_diagnostic, bfd::Diagnostic::ADMIN_DOWN);
    assert_eq!(lab.probers[1].verdict(0).state, Ok, "the other session is up");
    lab.probers[0].handle_offline(lab.now, 0, false);
    lab.run(5 * S);
    assert!(sessions(&lab, 0).iter().all(|r| r.state == State::Up));
}

#[test]
fn a_link_that_is_down_stops_its_sessions() {
    let mut lab = two_hosts(&["10.0.0.201", "10.0.0.202"], &["10.0.0.101", "10.0.0.102"]);
    lab.probers[0].handle_link(lab.now, 0, false);
    lab.drain(0);
    assert_eq!(sessions(&lab, 0)[0].diagnostic, bfd::Diagnostic::PATH_DOWN);
    assert_eq!(lab.state(0), Failed);
    lab.probers[0].handle_link(lab.now, 0, true);
    lab.run(5 * S);
    assert_eq!(lab.states(), [Ok, Ok]);
}

fn one_session() -> Lab {
    let members = vec![member(0, 0, &["10.0.0.201"])];
    Lab::new(&[(fast(&["10.0.0.9"]), members)], vec![host(1, &["10.0.0.9"])])
}

/// A BFD packet to the member, as from `src`.
fn datagram(src: &str, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for half in [50000, BFD_PORT, 8 + body.len() as u16, 0] {
        message.extend_from_slice(&half.to_be_bytes());
    }
    message.extend_from_slice(body);
    let envelope = wire::Envelope {
        src_mac: [2, 0, 0, 1, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 0],
        src: ip(src),
        dst: ip("10.0.0.201"),
        hop_limit,
        traffic_class: 0,
    };
    envelope.frame(wire::UDP, 6, message)
}

// RFC 5881 5
#[test]
fn packets_that_are_not_from_a_neighbour_and_peer_are_refused() {
    let mut lab = one_session();
    lab.run(100 * MS);
    let packet = bfd::Packet {
        state: State::Down,
        multiplier: 3,
        my_discriminator: 7,
        desired_tx_us: 1_000_000,
        required_rx_us: 1000,
        ..bfd::Packet::default()
    };
    let mut give = |frame: Vec<u8>| {
        lab.probers[0].handle_frame(lab.now, 0, &frame);
        lab.probers[0].report(lab.now).bfd
    };
    assert_eq!(give(datagram("10.0.0.9", 254, &packet.emit())).hop_limit, 1);
    assert_eq!(give(datagram("10.0.0.8", 255, &packet.emit())).peer, 1);
    let other = bfd::Packet { your_discriminator: 12345, ..packet };
    assert_eq!(give(datagram("10.0.0.9", 255, &other.emit())).your_discriminator, 1);
    assert_eq!(give(datagram("10.0.0.9", 255, &packet.emit()[..23])).length, 1);
    let counters = give(datagram("10.0.0.9", 255, &packet.emit()));
    assert_eq!(counters.received, 1);
    assert_eq!(sessions(&lab, 0)[0].state, State::Init);
}

// RFC 5881 4
#[test]
fn packets_go_to_port_3784_from_one_high_port_with_hop_limit_255() {
    let mut lab = one_session();
    lab.run(5 * S);
    let packets: Vec<_> = lab.wire.iter().map(|w| &w.3).filter(|f| f[12..14] == [8, 0]).collect();
    assert!(packets.len() > 3);
    let ports: std::collections::BTreeSet<_> =
        packets.iter().map(|f| u16::from_be_bytes([f[34], f[35]])).collect();
    assert_eq!(ports.len(), 1);
    assert!(ports.iter().all(|p| *p >= 49152));
    for frame in packets {
        assert_eq!((frame[22], frame[36], frame[37]), (255, 0x0e, 0xc8));
        let packet = wire::Ip::parse_v4(&frame[14..]).expect("a packet");
        assert!(packet.sum_is_valid());
    }
}

#[test]
fn only_members_with_a_test_address_have_sessions() {
    let members = vec![member(0, 0, &["10.0.0.201"]), member(0, 1, &[])];
    let mut lab = Lab::new(&[(fast(&["10.0.0.9", "fe80::9"]), members)], vec![]);
    lab.run(S);
    assert_eq!(sessions(&lab, 0).len(), 1);
    assert_eq!(lab.states(), [Unknown, Disabled]);
    assert_eq!(sessions(&lab, 0)[0].peer, IpAddr::from([10, 0, 0, 9]));
    let verdict = lab.probers[0].verdict(0);
    assert_eq!((verdict.first_loss, verdict.last_success), (None, None::<Instant>));
    assert_eq!(lab.probers[0].verdict(9).state, Disabled);
    assert_eq!(icmp(100, &[]).detect, Duration::from_millis(100));
}

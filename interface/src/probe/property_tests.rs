use proptest::prelude::*;
use weft_stack::time::{Duration, Instant};

use super::lab_tests::{Lab, S, host, icmp, member};
use super::*;

fn config() -> ProbeConfig {
    let fast = FastConfig { peers: vec![[10, 0, 0, 9].into()], ..FastConfig::default() };
    ProbeConfig { fast: Some(fast), ..icmp(100, &["10.0.0.1", "fe80::1"]) }
}

fn members() -> Vec<ProbeMember> {
    vec![
        member(0, 0, &["10.0.0.201", "fe80::201"]),
        member(0, 1, &["10.0.0.202"]),
        member(0, 2, &[]),
    ]
}

/// Frames of a group at work, those of all its methods.
fn traffic() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for method in [ProbeMode::Icmp, ProbeMode::Arp, ProbeMode::Transitive] {
        let config = ProbeConfig { method, ..config() };
        let hosts = vec![host(1, &["10.0.0.1", "10.0.0.9"]), host(2, &["fe80::1"])];
        let mut lab = Lab::new(&[(config, members())], hosts);
        lab.run(S);
        out.extend(lab.wire.into_iter().map(|w| w.3).take(200));
    }
    out
}

/// Nothing grows, timers are in the future once they were served.
fn check(prober: &mut Prober, now: Instant) {
    prober.handle_timeout(now);
    assert!(prober.poll_timeout().is_none_or(|at| at > now));
    let mut frames = 0;
    while prober.poll_transmit().is_some() {
        frames += 1;
    }
    assert!(frames <= 512);
    let report = prober.report(now);
    assert!(report.rows.iter().all(|r| r.targets.len() <= 32));
}

fn ready(method: ProbeMode) -> Prober {
    let mut prober = Prober::new(&ProbeConfig { method, ..config() }, &members(), 1);
    (0..3).for_each(|m| prober.handle_link(Instant::ZERO, m, true));
    prober
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_do_no_harm(
        frames in prop::collection::vec((0usize..4, prop::collection::vec(any::<u8>(), 0..200)), 1..20),
    ) {
        let mut prober = ready(ProbeMode::Transitive);
        for (i, (member, frame)) in frames.iter().enumerate() {
            let now = Instant::from_millis(i as u64 * 5);
            prober.handle_frame(now, *member, frame);
            check(&mut prober, now);
        }
    }

    #[test]
    fn mutated_frames_do_no_harm(
        picks in prop::collection::vec((any::<u16>(), 0usize..3, any::<u16>(), any::<u8>(), any::<u16>()), 1..60),
        method in prop::sample::select(vec![ProbeMode::Icmp, ProbeMode::Arp, ProbeMode::Transitive]),
    ) {
        thread_local!(static TRAFFIC: Vec<Vec<u8>> = traffic());
        let mut prober = ready(method);
        for (i, (which, member, at, value, cut)) in picks.into_iter().enumerate() {
            let mut frame = TRAFFIC.with(|t| t[usize::from(which) % t.len()].clone());
            // As from another host, and to us.
            frame[0..6].copy_from_slice(&[2, 0, 0, 0, 0, member as u8]);
            frame[6..12].copy_from_slice(&[2, 7, 7, 7, 7, value]);
            let len = frame.len();
            frame[usize::from(at) % len] = value;
            if cut % 4 == 0 {
                frame.truncate(usize::from(cut) % (len + 1));
            }
            let now = Instant::from_millis(i as u64 * 7);
            prober.handle_frame(now, member, &frame);
            check(&mut prober, now);
        }
    }

    #[test]
    fn random_bfd_packets_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(packet) = bfd::Packet::parse(&bytes) {
            prop_assert_eq!(bfd::Packet::parse(&packet.emit()), Ok(packet));
        }
    }

    #[test]
    fn a_member_is_failed_only_after_five_losses_and_works_only_after_ten_answers(
        seed in any::<u64>(),
        steps in prop::collection::vec((0usize..2, 0u64..100, 1u64..500), 1..30),
    ) {
        let mut lab = Lab::pair(&icmp(100, &["10.0.0.1"]), &["10.0.0.1"]);
        lab.probers[0] = Prober::new(&icmp(100, &["10.0.0.1"]), &members()[..2], seed);
        (0..2).for_each(|m| lab.probers[0].handle_link(lab.now, m, true));
        let mut before = lab.states();
        for (member, loss, ms) in steps {
            lab.cables[0][member].loss = loss;
            let end = lab.now + Duration::from_millis(ms);
            let was = before.clone();
            while lab.run_until(end, |l| l.states() != was) {
                let rows = lab.probers[0].report(lab.now).rows;
                for (m, (old, new)) in before.iter().zip(lab.states()).enumerate() {
                    let row = rows.iter().find(|r| r.member == m).expect("IPv4 comes first");
                    match (old, new) {
                        (ProbeState::Failed, ProbeState::Ok) => prop_assert_eq!(row.acks, ACKS_REPAIR),
                        (ProbeState::Ok, ProbeState::Failed) => prop_assert_eq!(row.losses, LOSSES_FAIL),
                        _ => {}
                    }
                }
                before = lab.states();
                if lab.states() != was {
                    break;
                }
            }
            before = lab.states();
        }
    }
}

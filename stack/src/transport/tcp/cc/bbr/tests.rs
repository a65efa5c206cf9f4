//! The draft's example test cases (its appendix) and the model in a closed loop.

use super::super::closed_loop::{Loop, MSS, Path};
use super::super::testing::acked;
use super::*;

const MBIT: u64 = 1_000_000 / 8;

fn path(mbit: u64, rtt_ms: u64) -> super::super::closed_loop::Path {
    let rtt = Duration::from_millis(rtt_ms);
    let bdp = mbit * MBIT * rtt_ms / 1000;
    let queue_bytes = (2 * bdp).max(30_000);
    Path { rate: mbit * MBIT, rtt, queue_bytes, loss: 0.0, mark_bytes: None }
}

fn flow(path: Path) -> Loop<Bbr> {
    Loop::new(Bbr::new(MSS, 7), path, 1)
}

/// Runs until the state is `state`.
fn until(l: &mut Loop<Bbr>, state: State) {
    let end = l.now + secs(30);
    while l.step(end) {
        if l.cc.state == state {
            return;
        }
    }
    panic!("never in {state:?}, but in {:?}", l.cc.state);
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

// draft-ietf-ccwg-bbr 5.3.1.2
// draft-ietf-ccwg-bbr 5.5.5
#[test]
fn startup_ends_on_a_plateau_with_the_bandwidth_known() {
    for (mbit, rtt) in [(1, 100), (10, 20), (100, 40), (1000, 20)] {
        let mut l = flow(path(mbit, rtt));
        until(&mut l, State::Drain);
        assert!(l.cc.full_bw_reached);
        let off = l.cc.max_bw.abs_diff(mbit * MBIT) * 100 / (mbit * MBIT);
        assert!(off <= 2, "{mbit} Mbit/s, {rtt} ms: {} B/s", l.cc.max_bw);
    }
}

// draft-ietf-ccwg-bbr 5.3.3
#[test]
fn a_flow_fills_the_path_and_keeps_the_queue_small() {
    for (mbit, rtt) in [(10, 20), (100, 20), (300, 10), (50, 100)] {
        let mut l = flow(path(mbit, rtt));
        l.run(secs(3));
        let goodput = l.run(secs(20));
        let bdp = mbit * MBIT * rtt / 1000;
        assert!(goodput > (mbit * MBIT) as f64 * 0.93, "{mbit} Mbit/s, {rtt} ms: {goodput}");
        assert!(l.queue_mean() < bdp / 4, "{mbit} Mbit/s, {rtt} ms: {}", l.queue_mean());
        assert_eq!(l.lost, 0);
    }
}

// draft-ietf-ccwg-bbr 5.3.2
#[test]
fn drain_ends_when_the_queue_is_gone() {
    let mut l = flow(path(100, 40));
    until(&mut l, State::Drain);
    assert_eq!(l.cc.pacing_gain(), 50);
    let start = l.cc.round_count;
    // DOWN has nothing left to do.
    until(&mut l, State::ProbeBwCruise);
    assert!(l.cc.round_count <= start + 3, "not by the time limit");
    assert!(l.cc.path.inflight <= l.cc.inflight(100));
}

// draft-ietf-ccwg-bbr 5.3.2
#[test]
fn drain_ends_after_three_rounds_even_if_the_queue_stays() {
    let mut l = flow(path(100, 40));
    until(&mut l, State::Drain);
    let start = l.cc.round_count;
    // The path is slower than it was thought to be.
    l.path.rate /= 4;
    until(&mut l, State::ProbeBwDown);
    assert!(l.cc.round_count >= start + 4);
}

// draft-ietf-ccwg-bbr 5.3.3.6
#[test]
fn probing_goes_down_cruise_refill_up_and_ends_on_a_plateau() {
    let mut l = flow(path(100, 40));
    for state in [
        State::ProbeBwDown,
        State::ProbeBwCruise,
        State::ProbeBwRefill,
        State::ProbeBwUp,
        State::ProbeBwDown,
    ] {
        until(&mut l, state);
    }
    assert!(!l.cc.prev_probe_too_high && l.cc.full_bw_now);
    assert_eq!(l.cc.pacing_gain(), 90);
    until(&mut l, State::ProbeBwCruise);
    assert!(l.cc.path.inflight <= l.cc.inflight_at(l.cc.max_bw, 100));
}

// draft-ietf-ccwg-bbr 5.3.3.5.3
#[test]
fn the_wait_between_probes_is_two_to_three_seconds_and_follows_the_seed() {
    let mut waits = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut cc = Bbr::new(MSS, seed);
        cc.start_probe_bw_down();
        assert!((secs(2)..=secs(3)).contains(&cc.bw_probe_wait));
        assert!(cc.rounds_since_probe_up <= 1);
        let mut again = Bbr::new(MSS, seed);
        again.start_probe_bw_down();
        assert_eq!(again.bw_probe_wait, cc.bw_probe_wait);
        waits.insert(cc.bw_probe_wait);
    }
    assert!(waits.len() > 15);
}

// draft-ietf-ccwg-bbr 5.3.4.3
#[test]
fn probe_rtt_comes_after_five_seconds_and_lasts_200_ms() {
    let mut l = flow(path(100, 40));
    // The path grows longer: the old minimum is never seen again.
    until(&mut l, State::ProbeBwCruise);
    l.path.rtt = Duration::from_millis(45);
    let before = l.now;
    until(&mut l, State::ProbeRtt);
    let waited = l.now - before;
    assert!(waited > secs(4) && waited < secs(7), "{waited:?}");
    let entered = l.now;
    let bdp = l.cc.bdp(100);
    l.run(Duration::from_millis(150));
    assert!(l.cc.cwnd <= bdp * 51 / 100);
    until(&mut l, State::ProbeBwCruise);
    let lasted = l.now - entered;
    assert!(lasted >= Duration::from_millis(200) && lasted < Duration::from_millis(400));
    let rtt = l.cc.probe_rtt_min_delay.unwrap();
    assert!(rtt >= Duration::from_millis(45) && rtt < Duration::from_millis(46), "{rtt:?}");
    // Rates while the window was small say nothing about the path.
    assert!(l.cc.max_bw > 95 * MBIT);
}

// draft-ietf-ccwg-bbr 5.3.4.3
// draft-ietf-ccwg-bbr 5.4.1
#[test]
fn idleness_makes_probe_rtt_unnecessary() {
    let mut l = flow(path(100, 40));
    until(&mut l, State::ProbeBwCruise);
    l.silent_until = l.now + secs(6);
    l.run(secs(6) + Duration::from_millis(20));
    assert!(l.cc.idle_restart);
    assert_eq!(l.cc.pacing_rate, l.cc.bw * 99 / 100);
    l.run(Duration::from_millis(100));
    assert!(l.cc.state.is_probe_bw() && !l.cc.idle_restart);
    assert!(l.cc.max_bw > 95 * MBIT);
}

// draft-ietf-ccwg-bbr 5.3.4.4
#[test]
fn probe_rtt_during_startup_leads_back_to_startup() {
    let mut l = flow(path(100, 40));
    l.app_rate = Some(MBIT);
    l.run(secs(2));
    assert_eq!(l.cc.state, State::Startup);
    l.path.rtt = Duration::from_millis(60);
    until(&mut l, State::ProbeRtt);
    until(&mut l, State::Startup);
    assert!(!l.cc.full_bw_reached);
}

// draft-ietf-ccwg-bbr 5.3.1.2
#[test]
fn an_application_that_holds_back_never_ends_startup() {
    let mut l = flow(path(100, 40));
    l.app_rate = Some(MBIT);
    l.run(secs(4));
    assert_eq!(l.cc.state, State::Startup);
    assert_eq!(l.cc.full_bw_count, 0);
}

// draft-ietf-ccwg-bbr 5.3.1.3
#[test]
fn startup_ends_on_loss_before_it_fills_a_tiny_queue_for_long() {
    let spec = Path { queue_bytes: 30_000, ..path(100, 40) };
    let mut l = flow(spec);
    until(&mut l, State::Drain);
    l.run(secs(2));
    let goodput = l.run(secs(10));
    assert!(goodput > 100.0 * MBIT as f64 * 0.75, "{goodput}");
    assert!(l.lost * 100 < l.delivered * 3, "{} of {}", l.lost, l.delivered);
}

// draft-ietf-ccwg-bbr 5.6.4.3
#[test]
fn a_path_shorter_than_a_segment_has_four_segments_in_flight() {
    let mut l = flow(Path { queue_bytes: 60_000, ..path(1, 5) });
    l.run(secs(5));
    assert!(l.cc.cwnd >= 4 * MSS as u64);
    assert!(l.run(secs(10)) > MBIT as f64 * 0.9);
}

// draft-ietf-ccwg-bbr 5.3.3.4.1
#[test]
fn ten_times_the_bandwidth_is_found() {
    let mut l = flow(path(10, 20));
    l.run(secs(5));
    l.path = path(100, 20);
    l.run(secs(15));
    assert!(l.cc.max_bw > 95 * MBIT, "{}", l.cc.max_bw / MBIT);
}

// draft-ietf-ccwg-bbr 5.5.10.3
// draft-ietf-ccwg-bbr 5.5.6
#[test]
fn a_tenth_of_the_bandwidth_is_respected_at_once_and_learned() {
    let mut l = flow(Path { queue_bytes: 250_000, ..path(100, 20) });
    l.run(secs(5));
    l.path.rate = 10 * MBIT;
    l.run(secs(2));
    assert!(l.cc.bw < 40 * MBIT, "{}", l.cc.bw / MBIT);
    l.run(secs(15));
    assert!(l.cc.max_bw < 12 * MBIT, "{}", l.cc.max_bw / MBIT);
    assert!(l.run(secs(10)) > 9.0 * MBIT as f64);
}

// draft-ietf-ccwg-bbr 5.5.10.2
#[test]
fn loss_while_probing_sets_the_long_term_limit_and_goes_down() {
    let mut l = flow(path(100, 40));
    until(&mut l, State::ProbeBwUp);
    let target = l.cc.target_inflight();
    l.path.loss = 0.2;
    until(&mut l, State::ProbeBwDown);
    assert!(l.cc.prev_probe_too_high);
    assert!(l.cc.inflight_longterm >= target * 69 / 100);
    assert!(l.cc.inflight_longterm < INFINITE);
    assert_eq!(l.cc.undo.state, Some(State::ProbeBwUp));
}

// draft-ietf-ccwg-bbr 5.3.3.4.2
#[test]
fn after_too_much_loss_the_next_probe_is_precautionary() {
    let mut l = flow(path(100, 40));
    until(&mut l, State::ProbeBwUp);
    l.path.loss = 0.2;
    until(&mut l, State::ProbeBwDown);
    l.path.loss = 0.0;
    until(&mut l, State::ProbeBwUp);
    until(&mut l, State::ProbeBwDown);
    assert!(l.cc.prev_probe_precautionary && !l.cc.prev_probe_too_high);
    // No loss came of it: it goes on without cruising.
    until(&mut l, State::ProbeBwRefill);
    until(&mut l, State::ProbeBwUp);
    assert!(!l.cc.prev_probe_precautionary);
}

// draft-ietf-ccwg-bbr 5.5.11.2
#[test]
fn a_spurious_loss_in_startup_leads_back_to_startup() {
    let mut l = flow(Path { queue_bytes: 30_000, ..path(100, 40) });
    until(&mut l, State::Drain);
    assert_eq!(l.cc.undo.state, Some(State::Startup));
    l.cc.undo(l.now);
    assert_eq!(l.cc.state, State::Startup);
    assert!(!l.cc.full_bw_reached && l.cc.inflight_longterm == INFINITE);
}

// draft-ietf-ccwg-bbr 5.5.11.2
#[test]
fn a_spurious_timeout_restores_window_and_model() {
    let mut l = flow(path(100, 40));
    until(&mut l, State::ProbeBwCruise);
    let (cwnd, bw) = (l.cc.cwnd, l.cc.bw_shortterm);
    l.cc.on_timeout(l.now, 100_000, true);
    assert_eq!(l.cc.cwnd(), MSS);
    l.cc.undo(l.now);
    assert_eq!((l.cc.cwnd, l.cc.bw_shortterm), (cwnd, bw));
}

// draft-ietf-ccwg-bbr 5.6.4.4
#[test]
fn a_timeout_lets_one_segment_go_and_recovery_restores_the_window() {
    let mut l = flow(path(100, 40));
    until(&mut l, State::ProbeBwCruise);
    let cwnd = l.cc.cwnd;
    l.cc.on_timeout(l.now, 100_000, true);
    l.run(Duration::from_millis(400));
    assert!(l.cc.cwnd > cwnd / 2, "{} {cwnd}", l.cc.cwnd);
}

// draft-ietf-ccwg-bbr 5.6.2
#[test]
fn pacing_starts_from_the_initial_window_and_the_first_round_trip() {
    let mut cc = Bbr::new(1000, 1);
    assert_eq!(cc.pacing_rate(), Some(27_700_000));
    let (rtt, now) = (Some(Duration::from_millis(100)), Instant::from_millis(100));
    cc.on_ack(&Acked { rtt, srtt: rtt, now, ..acked(1000, 10_000) });
    assert_eq!(cc.pacing_rate(), Some(277_000));
}

// draft-ietf-ccwg-bbr 3.6
#[test]
fn marks_keep_the_queue_short_without_loss() {
    let spec = path(100, 5);
    let mut plain = flow(spec);
    let mut marked = flow(Path { mark_bytes: Some(10_000), ..spec });
    plain.run(secs(2));
    marked.run(secs(2));
    let goodput = marked.run(secs(10));
    plain.run(secs(10));
    assert!(goodput > 100.0 * MBIT as f64 * 0.8, "{goodput}");
    assert!(marked.queue_mean() <= plain.queue_mean());
    assert_eq!(marked.lost, 0);
}

// draft-ietf-ccwg-bbr 2.5
#[test]
fn one_percent_of_random_loss_costs_little() {
    for (mbit, loss, at_least) in [(100, 0.01, 0.85), (400, 0.01, 0.92)] {
        let mut l = flow(Path { loss, ..path(mbit, 20) });
        l.run(secs(3));
        let goodput = l.run(secs(12)) / (mbit * MBIT) as f64;
        assert!(goodput > at_least, "{mbit} Mbit/s at {loss}: {goodput:.3}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut l = Loop::new(Bbr::new(MSS, seed), Path { loss: 0.02, ..path(50, 30) }, 5);
        l.run(secs(10));
        (l.delivered, l.lost, l.cc.cwnd, l.cc.max_bw)
    };
    assert_eq!(run(1), run(1));
}

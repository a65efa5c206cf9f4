use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use super::*;

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);
const FAST: Timers = Timers { desired_tx_us: 3000, required_rx_us: 3000, multiplier: 3 };

fn session(timers: Timers, discriminator: u32) -> Session {
    Session::new(timers, discriminator, Rng::from_u64(u64::from(discriminator)))
}

/// Two sessions and a path that delays and loses.
struct Pair {
    now: Instant,
    ends: [Session; 2],
    flying: Vec<(Instant, usize, Packet)>,
    /// Of a hundred, by who sends.
    loss: [u64; 2],
    sent: Vec<(Instant, usize, Packet)>,
    rng: Rng,
}

impl Pair {
    fn new(a: Timers, b: Timers) -> Pair {
        let mut ends = [session(a, 11), session(b, 22)];
        let now = Instant::from_millis(5000);
        for end in &mut ends {
            end.start(now);
        }
        Pair {
            now,
            ends,
            flying: Vec::new(),
            loss: [0; 2],
            sent: Vec::new(),
            rng: Rng::from_u64(4),
        }
    }

    fn up() -> Pair {
        let mut pair = Pair::new(FAST, FAST);
        pair.run(5000 * MS);
        assert_eq!(pair.states(), [State::Up; 2]);
        pair.sent.clear();
        pair
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn drain(&mut self) {
        for end in 0..2 {
            while let Some(packet) = self.ends[end].poll_transmit(self.now) {
                self.sent.push((self.now, end, packet));
                if self.rng.below(100) >= self.loss[end] {
                    self.flying.push((self.now + 100 * US, 1 - end, packet));
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain();
            let timers = self.ends.iter().filter_map(Session::poll_timeout);
            let next = timers.chain(self.flying.iter().map(|f| f.0)).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            let (due, rest) = self.flying.drain(..).partition(|f| f.0 <= now);
            self.flying = rest;
            for (_, to, packet) in due {
                let again = Packet::parse(&packet.emit()).expect("we read what we write");
                assert_eq!(again, packet);
                let _ = self.ends[to].receive(now, &packet);
            }
            self.ends.iter_mut().for_each(|e| e.handle_timeout(now));
        }
        self.now = end;
    }
}

fn from_peer(state: State) -> Packet {
    Packet {
        state,
        multiplier: 3,
        my_discriminator: 99,
        your_discriminator: 11,
        desired_tx_us: 3000,
        required_rx_us: 3000,
        ..Packet::default()
    }
}

/// A session that has come up with a peer that is played by the test.
fn up(timers: Timers, now: Instant) -> Session {
    let mut session = session(timers, 11);
    session.start(now);
    session.receive(now, &from_peer(State::Down)).expect("taken");
    session.receive(now, &from_peer(State::Init)).expect("taken");
    assert_eq!(session.state(), State::Up);
    session
}

fn parse_with(change: impl FnOnce(&mut Vec<u8>)) -> Result<Packet, Refused> {
    let mut bytes = from_peer(State::Up).emit().to_vec();
    change(&mut bytes);
    Packet::parse(&bytes)
}

// RFC 5880 4.1
#[test]
fn a_control_packet_is_laid_out_as_the_figure() {
    let packet = Packet {
        diagnostic: Diagnostic::EXPIRED,
        state: State::Init,
        poll: true,
        last: false,
        independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 0x0102_0304,
        your_discriminator: 0x0506_0708,
        desired_tx_us: 1_000_000,
        required_rx_us: 3000,
        required_echo_us: 0,
    };
    let hex = packet.emit().map(|b| format!("{b:02x}")).concat();
    assert_eq!(hex, "21a003180102030405060708000f424000000bb800000000");
    assert_eq!(Packet::parse(&packet.emit()), Ok(packet));
}

// RFC 5880 6.8.6
#[test]
fn a_packet_of_another_version_is_discarded() {
    assert_eq!(parse_with(|b| b[0] = 0), Err(Refused::Version));
}

// RFC 5880 6.8.6
#[test]
fn a_packet_with_a_wrong_length_is_discarded() {
    assert_eq!(parse_with(|b| b[3] = 23), Err(Refused::Length));
    assert_eq!(parse_with(|b| b[3] = 25), Err(Refused::Length), "longer than the datagram");
    assert_eq!(parse_with(|b| b.truncate(23)), Err(Refused::Length));
    assert_eq!(parse_with(|b| b[1] |= 4), Err(Refused::Length), "26 bytes with authentication");
    assert!(parse_with(|b| b.push(0)).is_ok());
}

// RFC 5880 6.8.6
#[test]
fn a_packet_without_a_multiplier_or_discriminator_is_discarded() {
    assert_eq!(parse_with(|b| b[2] = 0), Err(Refused::Multiplier));
    assert_eq!(parse_with(|b| b[1] |= 1), Err(Refused::Multipoint));
    assert_eq!(parse_with(|b| b[4..8].fill(0)), Err(Refused::MyDiscriminator));
}

// RFC 5880 6.8.6
#[test]
fn only_who_is_down_may_not_know_our_discriminator() {
    for state in [State::Init, State::Up] {
        let bytes = Packet { your_discriminator: 0, ..from_peer(state) }.emit();
        assert_eq!(Packet::parse(&bytes), Err(Refused::YourDiscriminator));
    }
    for state in [State::Down, State::AdminDown] {
        let bytes = Packet { your_discriminator: 0, ..from_peer(state) }.emit();
        assert!(Packet::parse(&bytes).is_ok());
    }
}

// RFC 5880 6.8.6
#[test]
fn an_authenticated_packet_is_discarded() {
    let with = |b: &mut Vec<u8>| {
        b[1] |= 4;
        b[3] = 28;
        b.extend_from_slice(&[1, 4, 1, b'x']);
    };
    assert_eq!(parse_with(with), Err(Refused::Authentication));
}

// RFC 5880 6.8.6
#[test]
fn a_packet_for_another_session_changes_nothing() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    let other = Packet { your_discriminator: 12, ..from_peer(State::Down) };
    assert_eq!(session.receive(now, &other), Err(Refused::YourDiscriminator));
    assert_eq!(session.state(), State::Up);
}

// RFC 5880 6.2
#[test]
fn the_state_machine_is_that_of_the_figure() {
    use State::{AdminDown, Down, Init, Up};
    let now = Instant::from_millis(1);
    let from = |state| {
        if state == Up {
            up(FAST, now)
        } else {
            let mut session = session(FAST, 11);
            session.start(now);
            if state == Init {
                session.receive(now, &from_peer(Down)).expect("taken");
            }
            if state == AdminDown {
                session.set_admin_down(now, true);
            }
            session
        }
    };
    let table = [
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
        (AdminDown, [AdminDown; 4]),
    ];
    for (state, next) in table {
        for (heard, want) in [AdminDown, Down, Init, Up].into_iter().zip(next) {
            let want = if state == Down { [Down, Init, Up, Down][heard as usize] } else { want };
            let mut session = from(state);
            assert_eq!(session.state(), state);
            let _ = session.receive(now, &from_peer(heard));
            assert_eq!(session.state(), want, "{state:?} hears {heard:?}");
        }
    }
}

// RFC 5880 6.8.6
#[test]
fn a_session_that_is_held_down_takes_nothing_and_says_so() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    session.set_admin_down(now, true);
    assert_eq!(session.receive(now, &from_peer(State::Up)), Err(Refused::AdminDown));
    let packet = session.poll_transmit(now).expect("told at once");
    assert_eq!((packet.state, packet.diagnostic), (State::AdminDown, Diagnostic::ADMIN_DOWN));
    assert_eq!(session.lost(), None, "no failure");
    session.set_admin_down(now, false);
    assert_eq!(session.state(), State::Down);
}

// RFC 5880 6.8.6
#[test]
fn a_peer_that_is_held_down_is_no_failure_of_the_path() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    session.receive(now, &from_peer(State::AdminDown)).expect("taken");
    assert_eq!(session.state(), State::Down);
    assert_eq!(session.diagnostics().0, Diagnostic::NEIGHBOR_DOWN);
    assert_eq!(session.lost(), None);
}

// RFC 5880 6.8.4
#[test]
fn the_detection_time_is_that_of_both_ends_to_the_microsecond() {
    for (theirs_us, multiplier) in [(3000, 3), (2000, 3), (10_000, 5), (50_000, 1)] {
        let now = Instant::from_millis(1);
        let mut session = up(FAST, now);
        let packet = Packet { desired_tx_us: theirs_us, multiplier, ..from_peer(State::Up) };
        let last = now + 7 * MS;
        session.receive(last, &packet).expect("taken");
        let detect = Duration::from_micros(u64::from(theirs_us.max(3000))) * u32::from(multiplier);
        assert_eq!(session.detection_time(), detect);
        session.handle_timeout(last + detect.checked_sub(Duration::from_nanos(1)).unwrap());
        assert_eq!(session.state(), State::Up);
        session.handle_timeout(last + detect);
        assert_eq!(session.state(), State::Down);
        assert_eq!(session.diagnostics().0, Diagnostic::EXPIRED);
        let first_missing = last + detect / u32::from(multiplier);
        assert_eq!(session.lost(), Some(first_missing));
        let packet = session.poll_transmit(last + detect).expect("told at once");
        assert_eq!((packet.state, packet.your_discriminator), (State::Down, 0));
    }
}

// RFC 5880 6.8.3
#[test]
fn a_session_that_is_not_up_sends_no_more_than_once_a_second() {
    let mut pair = Pair::new(FAST, FAST);
    pair.loss = [100, 100];
    pair.run(60_000 * MS);
    let times: Vec<_> = pair.sent.iter().filter(|s| s.1 == 0).map(|s| s.0).collect();
    assert!(times.windows(2).all(|w| w[1] - w[0] >= 750 * MS && w[1] - w[0] <= 1000 * MS));
    assert!(pair.sent.iter().all(|s| s.2.desired_tx_us == SLOW_TX_US));
}

// RFC 5880 6.8.7
#[test]
fn packets_are_jittered_between_75_and_100_percent() {
    let mut pair = Pair::up();
    pair.run(2000 * MS);
    let times: Vec<_> = pair.sent.iter().filter(|s| s.1 == 0).map(|s| s.0).collect();
    let gaps: Vec<_> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.iter().all(|g| *g >= 2250 * US && *g <= 3000 * US));
    assert!(gaps.iter().any(|g| *g < 2400 * US) && gaps.iter().any(|g| *g > 2850 * US));
}

// RFC 5880 6.8.7
#[test]
fn with_a_multiplier_of_1_jitter_is_at_most_90_percent() {
    let one = Timers { multiplier: 1, ..FAST };
    let mut pair = Pair::new(one, one);
    pair.run(5000 * MS);
    pair.sent.clear();
    pair.run(2000 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
    let times: Vec<_> = pair.sent.iter().filter(|s| s.1 == 0).map(|s| s.0).collect();
    assert!(times.len() > 700);
    assert!(times.windows(2).all(|w| w[1] - w[0] <= 2700 * US));
}

// RFC 5880 6.8.7
#[test]
fn the_slower_of_what_we_want_and_they_take_is_sent() {
    let slow = Timers { required_rx_us: 20_000, ..FAST };
    let mut pair = Pair::new(FAST, slow);
    pair.run(5000 * MS);
    assert_eq!(pair.ends[0].tx_interval(), 20 * MS);
    assert_eq!(pair.ends[1].tx_interval(), 3 * MS);
    assert_eq!(pair.ends[1].detection_time(), 60 * MS);
    assert_eq!(pair.ends[0].detection_time(), 9 * MS);
}

// RFC 5880 6.8.7
#[test]
fn nothing_is_sent_periodically_to_who_takes_nothing() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    while session.poll_transmit(now).is_some() {}
    let mute = Packet { required_rx_us: 0, ..from_peer(State::Up) };
    session.receive(now, &mute).expect("taken");
    assert_eq!(session.poll_transmit(now + 100 * MS), None);
    session.receive(now, &Packet { poll: true, ..mute }).expect("taken");
    assert!(session.poll_transmit(now + 100 * MS).is_some_and(|p| p.last), "polls are answered");
}

// RFC 5880 6.5
#[test]
fn a_poll_is_answered_at_once_and_never_with_a_poll() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    while session.poll_transmit(now).is_some() {}
    session.receive(now, &Packet { poll: true, ..from_peer(State::Up) }).expect("taken");
    let packet = session.poll_transmit(now).expect("at once");
    assert!(packet.last && !packet.poll);
    let mut pair = Pair::up();
    pair.run(5000 * MS);
    assert!(pair.sent.iter().all(|s| !(s.2.poll && s.2.last)));
}

// RFC 5880 6.8.3
#[test]
fn coming_up_is_followed_by_a_poll_until_it_is_answered() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    let mut polls = 0;
    for ms in 0..30 {
        while let Some(packet) = session.poll_transmit(now + ms * MS) {
            assert_eq!(packet.desired_tx_us, 3000);
            polls += usize::from(packet.poll);
        }
    }
    assert!(polls >= 9);
    session.receive(now, &Packet { last: true, ..from_peer(State::Up) }).expect("taken");
    assert!(session.poll_transmit(now + 40 * MS).is_some_and(|p| !p.poll));
}

// RFC 5880 6.8.3
#[test]
fn slower_timers_are_used_only_when_the_other_end_knows_them() {
    let mut pair = Pair::up();
    pair.loss = [100, 0];
    let slow = Timers { desired_tx_us: 30_000, required_rx_us: 30_000, multiplier: 3 };
    pair.ends[0].set_timers(pair.now, slow);
    assert_eq!(pair.ends[0].tx_interval(), 3 * MS);
    assert_eq!(pair.ends[0].detection_time(), 90 * MS, "slower detection at once");
    pair.loss = [0, 0];
    pair.run(100 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.ends[0].tx_interval(), 30 * MS);
    assert_eq!(pair.ends[1].tx_interval(), 30 * MS);
    assert_eq!(pair.ends[1].detection_time(), 90 * MS);
    // Faster: we send so at once, and expect it only after the answer.
    pair.ends[0].set_timers(pair.now, FAST);
    assert_eq!(pair.ends[0].tx_interval(), 3 * MS);
    assert_eq!(pair.ends[0].detection_time(), 90 * MS);
    pair.run(100 * MS);
    assert_eq!(pair.ends[0].detection_time(), 9 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
}

// RFC 5880 6.8.6
#[test]
fn demand_mode_of_the_other_end_is_obeyed_and_never_asked_for() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    let demand = Packet { demand: true, last: true, ..from_peer(State::Up) };
    session.receive(now, &demand).expect("taken");
    while session.poll_transmit(now).is_some() {}
    assert_eq!(session.poll_transmit(now + 100 * MS), None);
    session.receive(now + MS, &Packet { poll: true, ..demand }).expect("taken");
    let answer = session.poll_transmit(now + MS).expect("polls are answered");
    assert!(answer.last && !answer.demand);
    assert_eq!(answer.required_echo_us, 0);
}

// RFC 5880 6.8.1
#[test]
fn the_other_ends_discriminator_is_forgotten_with_it() {
    let mut pair = Pair::up();
    pair.loss = [0, 100];
    pair.run(15 * MS);
    assert_eq!(pair.ends[0].state(), State::Down);
    pair.sent.clear();
    pair.run(2000 * MS);
    let mut mine = pair.sent.iter().filter(|s| s.1 == 0);
    assert!(mine.all(|s| s.2.your_discriminator == 0 && s.2.state == State::Down));
    pair.loss = [0, 0];
    pair.run(5000 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.ends[0].lost(), None, "repaired");
}

#[test]
fn sessions_survive_loss_that_is_shorter_than_the_detection_time() {
    for seed in 0..20 {
        let mut pair = Pair::up();
        pair.rng = Rng::from_u64(seed);
        pair.loss = [5, 5];
        pair.run(2000 * MS);
        // Of three packets in a row all are lost in one of 8000 cases: it comes back.
        pair.loss = [0, 0];
        pair.run(3000 * MS);
        assert_eq!(pair.states(), [State::Up; 2]);
    }
}

// RFC 5880 6.8.16
#[test]
fn a_session_that_is_held_down_is_silent_after_it_was_heard() {
    let now = Instant::from_millis(1);
    let mut session = up(FAST, now);
    session.set_admin_down(now, true);
    let mut told = 0;
    for ms in 0..10_000 {
        while let Some(packet) = session.poll_transmit(now + ms * MS) {
            assert_eq!(packet.state, State::AdminDown);
            told += 1;
        }
    }
    assert!((2..5).contains(&told), "{told}");
    assert_eq!(session.poll_transmit(now + 20_000 * MS), None);
}

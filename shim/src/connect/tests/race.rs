//! Races in virtual time: addresses that answer, refuse, are unreachable or say nothing; DNS that
//! answers late or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use core::net::IpAddr;

use smallvec::SmallVec;
use weft_stack::rng::{Key, Rng};
use weft_stack::time::{Duration, Instant};

use crate::connect::{
    Action, Addresses, Answer, AttemptId, Ends, Failure, Form, History, Labels, Outcome,
    PolicyTable, Protocol, Question, Race, Request, Row, Rule, Source, Treatment, World,
};
use crate::locator::Pair;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What a pair does with an attempt.
#[derive(Clone, Copy, Debug)]
enum Way {
    Answers(u64),
    Refuses(u64),
    Unreachable(u64),
    /// The SYN, or the answer to it, is lost for ever.
    Silent,
}

struct Ours(Vec<Source>);

impl Addresses for Ours {
    fn sources(&self, dst: IpAddr) -> SmallVec<[Source; 4]> {
        self.0.iter().filter(|s| s.addr.is_ipv4() == dst.is_ipv4()).copied().collect()
    }
}

enum Event {
    Attempt(AttemptId, Result<(), Failure>),
    Answer(Question, Answer),
}

struct Lab {
    ours: Ours,
    policy: PolicyTable,
    labels: Labels,
    history: History,
    ways: HashMap<(IpAddr, IpAddr), Way>,
    /// By question: after how long, what. Others are never answered.
    dns: HashMap<Question, (u64, Answer)>,
    now: Instant,
}

/// What a race did.
#[derive(Debug)]
struct Run {
    outcome: Option<Outcome>,
    took: Duration,
    attempts: Vec<(Duration, Ends)>,
    cancelled: Vec<AttemptId>,
    questions: Vec<(Duration, Question)>,
    winners: usize,
    counters: crate::connect::Counters,
}

impl Lab {
    fn new(form: Form, ours: &[&str]) -> Lab {
        let source = |a: &&str| Source { addr: ip(a), prefix_len: 64, deprecated: false };
        Lab {
            ours: Ours(ours.iter().map(source).collect()),
            policy: PolicyTable { rules: Vec::new(), default: Treatment::of(form) },
            labels: Labels::default(),
            history: History::new(64, Key::generate(&mut Rng::from_u64(1))),
            ways: HashMap::new(),
            dns: HashMap::new(),
            now: Instant::from_millis(1000),
        }
    }

    fn way(&mut self, local: &str, remote: &str, way: Way) {
        self.ways.insert((ip(local), ip(remote)), way);
    }

    fn says(&mut self, question: Question, after_ms: u64, answer: Answer) {
        self.dns.insert(question, (after_ms, answer));
    }

    fn names(&mut self, name: &str, after_ms: u64, addrs: &[&str]) {
        let addrs: Vec<IpAddr> = addrs.iter().map(|a| ip(a)).collect();
        for (v6, question) in
            [(true, Question::Aaaa(name.into())), (false, Question::A(name.into()))]
        {
            let some: Vec<_> = addrs.iter().filter(|a| a.is_ipv6() == v6).copied().collect();
            let answer = if some.is_empty() { Answer::Nothing } else { Answer::Addresses(some) };
            self.says(question, after_ms, answer);
        }
    }

    fn what_comes(&self, ends: Ends) -> Way {
        let local = ends.local.or_else(|| self.ours.sources(ends.remote).first().map(|s| s.addr));
        let Some(local) = local else { return Way::Unreachable(0) };
        self.ways.get(&(local, ends.remote)).copied().unwrap_or(Way::Silent)
    }

    /// Runs until the race is over, or nothing happens any more.
    fn run(&mut self, request: Request) -> Run {
        let start = self.now;
        let (mut run, mut events, mut number) = (
            Run {
                outcome: None,
                took: Duration::ZERO,
                attempts: Vec::new(),
                cancelled: Vec::new(),
                questions: Vec::new(),
                winners: 0,
                counters: crate::connect::Counters::default(),
            },
            BTreeMap::new(),
            0,
        );
        macro_rules! world {
            () => {
                &mut World {
                    addresses: &self.ours,
                    policy: &self.policy,
                    labels: &self.labels,
                    history: &mut self.history,
                }
            };
        }
        let mut race = Race::new(self.now, request, world!());
        for _ in 0..10_000 {
            while let Some(action) = race.poll_action() {
                let since = self.now.saturating_since(start);
                number += 1;
                let mut at = |after, event| events.insert((self.now + ms(after), number), event);
                match action {
                    Action::Look(question) => {
                        if let Some((after, answer)) = self.dns.get(&question) {
                            at(*after, Event::Answer(question.clone(), answer.clone()));
                        }
                        run.questions.push((since, question));
                    }
                    Action::Attempt(id, ends) => {
                        assert_eq!(id, run.attempts.len(), "attempts are numbered in order");
                        run.attempts.push((since, ends));
                        match self.what_comes(ends) {
                            Way::Answers(rtt) => at(rtt, Event::Attempt(id, Ok(()))),
                            Way::Refuses(rtt) => at(rtt, Event::Attempt(id, Err(Failure::Refused))),
                            Way::Unreachable(rtt) => {
                                at(rtt, Event::Attempt(id, Err(Failure::Unreachable)))
                            }
                            Way::Silent => None,
                        };
                    }
                    Action::Cancel(id) => run.cancelled.push(id),
                }
            }
            if race.outcome().is_some() {
                break;
            }
            let event = events.keys().next().map(|(at, _)| *at);
            let Some(next) = [event, race.poll_timeout()].into_iter().flatten().min() else {
                break;
            };
            self.now = self.now.max(next);
            if event == Some(next) {
                match events.pop_first().unwrap().1 {
                    Event::Attempt(id, result) => {
                        run.winners +=
                            usize::from(result.is_ok() && race.pending().any(|p| p == id));
                        race.handle_attempt(self.now, id, result, world!());
                    }
                    Event::Answer(question, answer) => {
                        race.handle_answer(self.now, &question, answer, world!());
                    }
                }
            } else {
                race.handle_timeout(self.now, world!());
            }
        }
        // What still arrives finds nobody.
        let (outcome, before) = (race.outcome(), race.counters());
        for event in events.into_values() {
            if let Event::Attempt(id, result) = event {
                race.handle_attempt(self.now, id, result, world!());
            }
        }
        assert_eq!((race.outcome(), race.counters()), (outcome, before));
        assert_eq!(race.poll_action(), None);
        assert!(outcome.is_none() || (race.pending().count(), race.poll_timeout()) == (0, None));
        run.took = self.now.saturating_since(start);
        Run { outcome, counters: race.counters(), ..run }
    }
}

const OURS: [&str; 3] = ["2001:db8:a::1", "2001:db8:b::1", "2001:db8:c::1"];
const THEIRS: [&str; 5] =
    ["2001:db8:1::9", "2001:db8:2::9", "2001:db8:3::9", "2001:db8:4::9", "2001:db8:5::9"];

fn won(run: &Run) -> (IpAddr, IpAddr) {
    match run.outcome {
        Some(Outcome::Won(id, ends)) => {
            assert_eq!(run.attempts[id].1, ends);
            (ends.local.expect("a source"), ends.remote)
        }
        other => panic!("{other:?}: {run:?}"),
    }
}

// RFC 8305 5
#[test]
fn one_live_pair_among_five_by_three_is_found_within_delay_times_rank_and_a_round_trip() {
    let mut ranks = BTreeSet::new();
    for local in OURS {
        for remote in THEIRS {
            let mut lab = Lab::new(Form::Full, &OURS);
            lab.way(local, remote, Way::Answers(30));
            lab.names("db.example", 5, &THEIRS);
            let run = lab.run(Request::to_name("db.example", 5432));
            assert_eq!(won(&run), (ip(local), ip(remote)));
            let Some(Outcome::Won(rank, _)) = run.outcome else { unreachable!() };
            ranks.insert(rank);
            assert!(run.took <= ms(5 + 250 * rank as u64 + 30), "{rank}: {:?}", run.took);
            assert_eq!(run.cancelled.len(), run.attempts.len() - 1);
        }
    }
    assert_eq!(ranks, (0..15).collect(), "each pair has its own rank");
}

#[test]
fn the_second_attempt_goes_by_another_source_already() {
    let mut lab = Lab::new(Form::Full, &OURS);
    lab.names("db.example", 0, &THEIRS);
    for remote in THEIRS {
        // One provider of ours works.
        lab.way(OURS[1], remote, Way::Answers(20));
    }
    let run = lab.run(Request::to_name("db.example", 5432));
    assert_eq!(won(&run), (ip(OURS[1]), ip(THEIRS[1])));
    assert_eq!(run.attempts.len(), 2);
}

#[test]
fn a_dead_first_address_costs_one_delay_and_the_next_time_nothing() {
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.names("www.example", 0, &THEIRS[..2]);
    lab.way(OURS[0], THEIRS[1], Way::Answers(20));
    let run = lab.run(Request::to_name("www.example", 80));
    assert_eq!((won(&run).1, run.took), (ip(THEIRS[1]), ms(270)));
    assert_eq!(run.cancelled, [0]);
    assert_eq!(run.counters.won_by_later, 1);
    let run = lab.run(Request::to_name("www.example", 80));
    assert_eq!((won(&run).1, run.took), (ip(THEIRS[1]), ms(20)));
    assert_eq!(run.counters.won_by_first, 1);
}

#[test]
fn unreachable_and_refused_are_followed_at_once() {
    for way in [Way::Unreachable(7), Way::Refuses(7)] {
        let mut lab = Lab::new(Form::Full, &OURS[..1]);
        lab.names("www.example", 0, &THEIRS[..3]);
        lab.way(OURS[0], THEIRS[0], way);
        lab.way(OURS[0], THEIRS[1], way);
        lab.way(OURS[0], THEIRS[2], Way::Answers(20));
        let run = lab.run(Request::to_name("www.example", 80));
        assert_eq!((won(&run).1, run.took), (ip(THEIRS[2]), ms(7 + 7 + 20)));
        assert!(run.cancelled.is_empty(), "nothing is left to cancel");
        let failing =
            |n: usize| lab.history.is_failing(lab.now, Pair::new(ip(OURS[0]), ip(THEIRS[n])));
        let refused = matches!(way, Way::Refuses(_));
        assert_eq!((failing(0), failing(2)), (!refused, false), "who refuses is there");
    }
}

#[test]
fn when_all_fail_the_error_is_the_one_that_says_most() {
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.names("www.example", 0, &THEIRS[..2]);
    lab.way(OURS[0], THEIRS[0], Way::Unreachable(5));
    lab.way(OURS[0], THEIRS[1], Way::Refuses(5));
    let run = lab.run(Request::to_name("www.example", 80));
    assert_eq!(run.outcome, Some(Outcome::Failed(Failure::Refused, Some(1))));
    assert_eq!((run.took, run.counters.lost), (ms(10), 1));
    // Nothing is known of anybody.
    lab.dns.clear();
    lab.names("nobody.example", 3, &[]);
    let run = lab.run(Request::to_name("nobody.example", 80));
    assert_eq!((run.outcome, run.took), (Some(Outcome::NoAddress), ms(3)));
}

#[test]
fn a_blackhole_that_swallows_answers_ends_with_the_applications_patience() {
    let mut lab = Lab::new(Form::Full, &OURS);
    lab.names("www.example", 0, &THEIRS[..2]);
    let request = Request { timeout: Some(ms(3000)), ..Request::to_name("www.example", 80) };
    let run = lab.run(request);
    assert_eq!(run.outcome, Some(Outcome::Failed(Failure::TimedOut, None)));
    assert_eq!((run.took, run.attempts.len(), run.cancelled.len()), (ms(3000), 6, 6));
}

#[test]
fn a_dead_dns_server_does_not_hinder_an_address() {
    let mut lab = Lab::new(Form::Full, &OURS[..2]);
    lab.way(OURS[1], THEIRS[0], Way::Answers(20));
    let run = lab.run(Request::to(ip(THEIRS[0]), 80));
    assert_eq!((won(&run), run.took), ((ip(OURS[1]), ip(THEIRS[0])), ms(270)));
    // It was asked only when the first attempt was slow.
    assert_eq!(run.questions, [(ms(250), Question::Ptr(ip(THEIRS[0])))]);
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.way(OURS[0], THEIRS[0], Way::Answers(20));
    let run = lab.run(Request::to(ip(THEIRS[0]), 80));
    assert!(run.questions.is_empty() && run.took == ms(20));
}

#[test]
fn one_family_of_a_half_dead_dns_server_is_enough() {
    let mut lab = Lab::new(Form::Full, &["2001:db8:a::1", "192.0.2.1"]);
    // AAAA is never answered.
    lab.says(Question::A("w".into()), 10, Answer::Addresses(vec![ip("198.51.100.9")]));
    lab.way("192.0.2.1", "198.51.100.9", Way::Answers(20));
    let run = lab.run(Request::to_name("w", 80));
    assert_eq!(won(&run).1, ip("198.51.100.9"));
    assert_eq!(run.took, ms(10 + 50 + 20), "the resolution delay, then at once");
}

// RFC 8305 3
#[test]
fn ipv6_addresses_are_waited_for_a_little_and_taken_late_too() {
    let ours = ["2001:db8:a::1", "192.0.2.1"];
    let (v6, v4) = ("2001:db8:1::9", "198.51.100.9");
    for (aaaa_after, first) in [(30, v6), (200, v4)] {
        let mut lab = Lab::new(Form::Full, &ours);
        lab.says(Question::A("w".into()), 10, Answer::Addresses(vec![ip(v4)]));
        lab.says(Question::Aaaa("w".into()), aaaa_after, Answer::Addresses(vec![ip(v6)]));
        lab.way(ours[0], v6, Way::Answers(20));
        let run = lab.run(Request::to_name("w", 80));
        assert_eq!(run.attempts[0].1.remote, ip(first));
        assert_eq!(won(&run).1, ip(v6));
        let questions: Vec<_> = run.questions.iter().map(|(at, q)| (*at, q.clone())).collect();
        let both = [Question::Aaaa("w".into()), Question::A("w".into())];
        assert_eq!(questions, both.map(|q| (ms(0), q)), "together, IPv6 first");
        // IPv4 answered at 10, waited 50; the next attempt is a delay later.
        let took = if first == v6 { 30 + 20 } else { 10 + 50 + 250 + 20 };
        assert_eq!(run.took, ms(took));
    }
    // AAAA first: nothing is waited for. No AAAA: neither.
    for (aaaa, took) in [(Answer::Addresses(vec![ip(v6)]), 5 + 20), (Answer::Nothing, 10 + 20)] {
        let mut lab = Lab::new(Form::Full, &ours);
        lab.says(Question::Aaaa("w".into()), 5, aaaa);
        lab.says(Question::A("w".into()), 10, Answer::Addresses(vec![ip(v4)]));
        lab.way(ours[0], v6, Way::Answers(20));
        lab.way(ours[1], v4, Way::Answers(20));
        assert_eq!(lab.run(Request::to_name("w", 80)).took, ms(took));
    }
}

// RFC 6724 2.1
// RFC 8305 3
#[test]
fn addresses_of_the_family_that_the_policy_table_prefers_are_waited_for() {
    let (global, local, v4) = ("2001:db8:1::9", "fd00::9", "198.51.100.9");
    let prefers_v4 = Row::new("0.0.0.0/0".parse().unwrap(), 100, 4);
    let prefers_local = Row::new("fd00::/8".parse().unwrap(), 45, 13);
    // What comes first, after 5 ms, the other after 30, and when the first attempt goes where.
    for (rows, v6, v6_first, at, to) in [
        (&[][..], global, true, 5, global),
        (&[], local, true, 30, v4),
        (&[prefers_local], local, true, 5, local),
        (&[prefers_v4], global, true, 30, v4),
        (&[prefers_v4], global, false, 5, v4),
        (&[], global, false, 30, global),
    ] {
        let ours = ["2001:db8:a::1", "fd00::1", "192.0.2.1"];
        let mut lab = Lab::new(Form::Full, &ours);
        lab.labels = Labels::with(rows);
        let (aaaa, a) = if v6_first { (5, 30) } else { (30, 5) };
        lab.says(Question::Aaaa("w".into()), aaaa, Answer::Addresses(vec![ip(v6)]));
        lab.says(Question::A("w".into()), a, Answer::Addresses(vec![ip(v4)]));
        let run = lab.run(Request::to_name("w", 80));
        let (when, ends) = (run.attempts[0].0, run.attempts[0].1);
        assert_eq!((when, ends.remote), (ms(at), ip(to)), "{rows:?} {v6}");
    }
}

// RFC 8305 4
#[test]
fn families_take_turns() {
    let mut lab = Lab::new(Form::Full, &["2001:db8:a::1", "192.0.2.1"]);
    lab.names("w", 0, &["2001:db8:1::9", "2001:db8:2::9", "198.51.100.1", "198.51.100.2"]);
    let request = Request { timeout: Some(ms(1500)), ..Request::to_name("w", 80) };
    let run = lab.run(request);
    let families: Vec<bool> = run.attempts.iter().map(|(_, e)| e.remote.is_ipv6()).collect();
    assert_eq!(families, [true, false, true, false]);
    let starts: Vec<_> = run.attempts.iter().map(|(at, _)| *at).collect();
    assert_eq!(starts, [ms(0), ms(250), ms(500), ms(750)]);
}

#[test]
fn the_weak_form_keeps_the_destination_and_cycles_sources() {
    let mut lab = Lab::new(Form::Weak, &OURS);
    lab.way(OURS[2], THEIRS[0], Way::Answers(20));
    let request = Request { known: vec![ip(THEIRS[1])], ..Request::to(ip(THEIRS[0]), 80) };
    let run = lab.run(request.clone());
    assert_eq!((won(&run), run.took), ((ip(OURS[2]), ip(THEIRS[0])), ms(520)));
    assert!(run.questions.is_empty());
    assert!(run.attempts.iter().all(|(_, e)| e.remote == ip(THEIRS[0])));
    // Bound to one address, there is nothing to cycle.
    let mut lab = Lab::new(Form::Weak, &OURS);
    let bound = Request { bound: Some(ip(OURS[1])), timeout: Some(ms(5000)), ..request };
    let run = lab.run(bound);
    assert_eq!(run.attempts.len(), 1);
    assert_eq!(run.attempts[0].1.local, Some(ip(OURS[1])));
}

#[test]
fn off_is_one_attempt_from_where_the_stack_chooses() {
    let mut lab = Lab::new(Form::Off, &OURS);
    let request = Request { timeout: Some(ms(9000)), ..Request::to(ip(THEIRS[0]), 80) };
    let run = lab.run(request.clone());
    let only = Ends { local: None, remote: ip(THEIRS[0]) };
    assert_eq!(run.attempts, [(ms(0), only)]);
    assert!(run.questions.is_empty());
    lab.way(OURS[0], THEIRS[0], Way::Refuses(4));
    let run = lab.run(request.clone());
    assert_eq!(run.outcome, Some(Outcome::Failed(Failure::Refused, Some(0))));
    // The socket says more than the table.
    let run = lab.run(Request { form: Some(Form::Weak), ..request });
    assert_eq!(run.attempts.len(), 3);
}

#[test]
fn full_takes_known_locators_and_what_dns_says_of_the_address() {
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.says(Question::Ptr(ip(THEIRS[0])), 10, Answer::Names(vec!["db.example".into()]));
    lab.names("db.example", 10, &[THEIRS[0], THEIRS[2], "198.51.100.9"]);
    lab.way(OURS[0], THEIRS[2], Way::Answers(20));
    let known = vec![ip(THEIRS[1])];
    let run = lab.run(Request { known, ..Request::to(ip(THEIRS[0]), 80) });
    let order: Vec<_> = run.attempts.iter().map(|(_, e)| e.remote).collect();
    assert_eq!(order[0], ip(THEIRS[0]), "the address given is first");
    assert_eq!(order[1], ip(THEIRS[1]), "what is known needs no look-up");
    assert_eq!(won(&run).1, ip(THEIRS[2]));
    assert!(run.attempts.iter().all(|(_, e)| e.remote != ip("198.51.100.9")) || order.len() > 3);
}

#[test]
fn a_name_that_does_not_know_the_address_is_not_believed() {
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.says(Question::Ptr(ip(THEIRS[0])), 1, Answer::Names(vec!["evil.example".into()]));
    lab.names("evil.example", 1, &[THEIRS[2]]);
    lab.way(OURS[0], THEIRS[2], Way::Answers(1));
    let request = Request { timeout: Some(ms(5000)), ..Request::to(ip(THEIRS[0]), 80) };
    let run = lab.run(request);
    assert_eq!(run.attempts.len(), 1, "{run:?}");
    assert_eq!(run.outcome, Some(Outcome::Failed(Failure::TimedOut, None)));
}

#[test]
fn reverse_look_up_can_be_switched_off() {
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.policy.default.reverse = false;
    let request = Request { timeout: Some(ms(5000)), ..Request::to(ip(THEIRS[0]), 80) };
    assert!(lab.run(request).questions.is_empty());
}

#[test]
fn the_budget_bounds_attempts_and_is_told() {
    let mut lab = Lab::new(Form::Full, &OURS);
    lab.policy.default.pairs_max = 4;
    lab.names("w", 0, &THEIRS);
    let request = Request { timeout: Some(ms(60_000)), ..Request::to_name("w", 80) };
    let run = lab.run(request);
    assert_eq!((run.attempts.len(), run.counters.over_budget), (4, 11));
}

#[test]
fn a_rule_for_addresses_is_honoured_for_each_address_of_a_name() {
    let rule = |to: &str, form| Rule {
        class: None,
        protocol: None,
        ports: None,
        to: Some(to.parse().unwrap()),
        treatment: Treatment::of(form),
    };
    let mut lab = Lab::new(Form::Full, &OURS);
    lab.policy.rules = vec![rule("2001:db8:1::/48", Form::Off)];
    lab.names("w", 0, &THEIRS[..2]);
    let request = Request { timeout: Some(ms(9000)), ..Request::to_name("w", 80) };
    let count =
        |run: &Run, to: &str| run.attempts.iter().filter(|(_, e)| e.remote == ip(to)).count();
    let run = lab.run(request.clone());
    assert_eq!((count(&run, THEIRS[0]), count(&run, THEIRS[1])), (1, 3));
    // The other way round: off, but for one prefix.
    lab.policy.default = Treatment::of(Form::Off);
    lab.policy.rules = vec![rule("2001:db8:2::/48", Form::Weak)];
    let run = lab.run(request);
    assert_eq!((count(&run, THEIRS[0]), count(&run, THEIRS[1])), (1, 3));
}

#[test]
fn a_known_round_trip_time_shortens_the_wait() {
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.names("w", 0, &THEIRS[..2]);
    lab.history.connected(Pair::new(ip(OURS[0]), ip(THEIRS[0])), ms(5));
    lab.way(OURS[0], THEIRS[1], Way::Answers(5));
    let run = lab.run(Request::to_name("w", 80));
    assert_eq!((won(&run).1, run.took), (ip(THEIRS[1]), ms(105)));
}

#[test]
fn a_request_in_a_datagram_is_repeated_only_where_it_may_be() {
    let request = Request {
        protocol: Protocol::Udp,
        known: vec![ip(THEIRS[1])],
        ..Request::to(ip(THEIRS[0]), 53)
    };
    let mut lab = Lab::new(Form::Full, &OURS[..1]);
    lab.way(OURS[0], THEIRS[1], Way::Answers(20));
    let run = lab.run(request.clone());
    assert_eq!(run.attempts.len(), 1, "once, and no other address");
    assert_eq!(run.outcome, Some(Outcome::Failed(Failure::TimedOut, Some(0))));
    assert_eq!(run.took, Duration::from_secs(5));
    lab.policy.default.repeat = true;
    let mut lab = Lab { history: History::new(9, Key::generate(&mut Rng::from_u64(1))), ..lab };
    let run = lab.run(request.clone());
    assert_eq!((won(&run).1, run.took), (ip(THEIRS[1]), ms(270)));
    // Nobody answers: again over the pairs, at growing distances, within the budget.
    lab.ways.clear();
    lab.policy.default.pairs_max = 6;
    lab.history.forget_local(ip(OURS[0]));
    let run = lab.run(request.clone());
    assert_eq!(run.attempts.len(), 6);
    let starts: Vec<_> = run.attempts.iter().map(|(at, _)| *at).collect();
    assert_eq!(starts, [0, 250, 500, 1000, 1500, 2500].map(ms));
    // A port unreachable is an answer of a kind.
    lab.history.forget_local(ip(OURS[0]));
    lab.way(OURS[0], THEIRS[0], Way::Refuses(3));
    lab.way(OURS[0], THEIRS[1], Way::Refuses(3));
    let run = lab.run(request);
    assert_eq!(run.outcome, Some(Outcome::Failed(Failure::Refused, Some(0))));
    // DNS is dead: it is waited for a second, not longer.
    assert_eq!((run.took, run.attempts.len()), (ms(1003), 2));
}

#[test]
fn an_application_that_gives_up_leaves_nothing_behind() {
    let lab = &mut Lab::new(Form::Full, &OURS);
    let mut world = World {
        addresses: &lab.ours,
        policy: &lab.policy,
        labels: &lab.labels,
        history: &mut lab.history,
    };
    let mut race = Race::new(lab.now, Request::to(ip(THEIRS[0]), 80), &mut world);
    assert!(matches!(race.poll_action(), Some(Action::Attempt(0, _))));
    race.handle_timeout(lab.now + ms(250), &mut world);
    race.abort();
    // The second attempt was never begun, so that it need not end.
    assert_eq!(race.poll_action(), Some(Action::Cancel(0)));
    assert_eq!((race.poll_action(), race.poll_timeout()), (None, None));
    assert_eq!(race.counters().cancelled, 2);
}

/// Any mixture of ways, names and forms: the budget holds, nobody wins twice, no attempt stays, and
/// who can be reached within the budget is reached.
#[test]
fn random_worlds_keep_the_promises() {
    let v4 = ["192.0.2.1", "198.51.100.1"];
    for seed in 0..1500 {
        let mut rng = Rng::from_u64(seed);
        let form = [Form::Off, Form::Weak, Form::Full][rng.below(3) as usize];
        let mut ours: Vec<&str> = OURS[..=rng.below(3) as usize].to_vec();
        ours.extend(&v4[..rng.below(3) as usize]);
        let mut lab = Lab::new(form, &ours);
        lab.policy.default.pairs_max = 1 + rng.below(20) as usize;
        lab.policy.default.repeat = rng.below(2) == 0;
        let mut theirs: Vec<&str> = THEIRS[..=rng.below(5) as usize].to_vec();
        theirs.extend(&["203.0.113.1", "203.0.113.2"][..rng.below(3) as usize]);
        for local in &ours {
            for remote in &theirs {
                let rtt = rng.below(400);
                let way = match rng.below(8) {
                    0 => Way::Answers(rtt),
                    1 => Way::Refuses(rtt),
                    2 => Way::Unreachable(rtt),
                    _ => Way::Silent,
                };
                lab.way(local, remote, way);
            }
        }
        let mut request = if rng.below(2) == 0 {
            if rng.below(8) > 0 {
                lab.names("w", rng.below(300), &theirs);
            }
            Request::to_name("w", 80)
        } else {
            if rng.below(2) == 0 {
                lab.says(
                    Question::Ptr(ip(theirs[0])),
                    rng.below(300),
                    Answer::Names(vec!["w".into()]),
                );
                lab.names("w", rng.below(300), &theirs);
            }
            Request::to(ip(theirs[0]), 80)
        };
        request.timeout = Some(Duration::from_secs(100));
        if rng.below(4) == 0 {
            request.protocol = Protocol::Udp;
        }
        for _ in 0..3 {
            check(&mut lab, &request, seed);
        }
    }
}

fn check(lab: &mut Lab, request: &Request, seed: u64) {
    let treatment = lab.policy.default.clone();
    let run = lab.run(request.clone());
    assert!(run.outcome.is_some(), "seed {seed}: no end: {run:?}");
    assert!(run.attempts.len() <= treatment.pairs_max, "seed {seed}: {run:?}");
    let win = usize::from(matches!(run.outcome, Some(Outcome::Won(..))));
    assert_eq!(run.winners, win, "seed {seed}");
    let c = run.counters;
    assert_eq!(c.attempts as usize, run.attempts.len());
    let over = c.refused + c.unreachable + c.local + c.timed_out + c.cancelled;
    assert_eq!(c.attempts, over + win as u64, "seed {seed}: each attempt has one end");
    assert_eq!((c.won_by_first + c.won_by_later, c.lost), (win as u64, 1 - win as u64));
    if request.protocol == Protocol::Tcp {
        let distinct: BTreeSet<String> =
            run.attempts.iter().map(|(_, e)| format!("{e:?}")).collect();
        assert_eq!(distinct.len(), run.attempts.len(), "seed {seed}: a pair was tried twice");
    }
    // Whoever answers among the pairs that were tried is connected to.
    let alive = run.attempts.iter().any(|(_, e)| matches!(lab.what_comes(*e), Way::Answers(_)));
    assert_eq!(alive, win == 1, "seed {seed}: {run:?}");
    if form_covers_all(&treatment, request) && run.counters.over_budget == 0 && win == 0 {
        let tried: BTreeSet<String> = run.attempts.iter().map(|(_, e)| format!("{e:?}")).collect();
        for remote in &request.given {
            for s in lab.ours.sources(*remote) {
                let ends = Ends { local: Some(s.addr), remote: *remote };
                assert!(tried.contains(&format!("{ends:?}")), "seed {seed}: {ends:?} untried");
            }
        }
    }
}

fn form_covers_all(treatment: &Treatment, request: &Request) -> bool {
    treatment.form != Form::Off && (request.protocol == Protocol::Tcp || treatment.repeat)
}

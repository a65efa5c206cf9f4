//! One race: look-ups and attempts over time, until one answers or none is left (RFC 8305).

use std::collections::VecDeque;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;
use weft_stack::time::{Duration, Instant};

use super::history::History;
use super::order::Labels;
use super::policy::{Form, PolicyTable, Protocol, Treatment, Wanted};
use super::slate::{Addresses, Ends, Slate, Source};
use crate::locator::Pair;

/// Names of an address that are looked up forward.
const NAMES_MAX: usize = 2;
/// A look-up by reverse is waited for so long, where nothing else is left to wait for.
const REVERSE_PATIENCE: Duration = Duration::from_secs(1);
/// An attempt is given as long as three round trips, but no less than this, where they are known
/// (RFC 8305 5 recommends 100 ms at least).
const DELAY_KNOWN_MIN: Duration = Duration::from_millis(100);

/// One of the addresses that the Internet has.
const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);

/// Which attempt of a race; from 0 in the order of starting.
pub type AttemptId = usize;

/// What an application wants.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is set up.
    pub protocol: Protocol,
    /// The kind of application, if it says.
    pub class: Option<String>,
    /// Addresses that it named, in its order.
    pub given: Vec<IpAddr>,
    /// The name that it named.
    pub name: Option<String>,
    /// The peer's port.
    pub port: u16,
    /// It is bound to this address.
    pub bound: Option<IpAddr>,
    /// Further addresses of the peer: locators of a context with it.
    pub known: Vec<IpAddr>,
    /// Says more than the table.
    pub form: Option<Form>,
    /// Gives up after this time.
    pub timeout: Option<Duration>,
    /// DNS may be asked about an address given.
    pub look_up: bool,
}

impl Request {
    /// A connection to `given`.
    pub fn to(given: IpAddr, port: u16) -> Request {
        Request {
            protocol: Protocol::Tcp,
            class: None,
            given: vec![given],
            name: None,
            port,
            bound: None,
            known: Vec::new(),
            form: None,
            timeout: None,
            look_up: true,
        }
    }

    /// A connection to whatever has this name.
    pub fn to_name(name: &str, port: u16) -> Request {
        let mut request = Request::to(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        request.given.clear();
        request.name = Some(name.to_owned());
        request
    }

    fn wanted(&self, address: Option<IpAddr>) -> Wanted<'_> {
        let (class, protocol, port) = (self.class.as_deref(), self.protocol, self.port);
        Wanted { class, protocol, port, address }
    }

    /// What the table, or the application itself, says of the request.
    pub fn treatment(&self, table: &PolicyTable, address: Option<IpAddr>) -> Treatment {
        let mut treatment = table.treatment(&self.wanted(address)).clone();
        treatment.form = self.form.unwrap_or(treatment.form);
        treatment
    }
}

/// A question for DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// IPv6 addresses of a name.
    Aaaa(String),
    /// IPv4 addresses of a name.
    A(String),
    /// Names of an address.
    Ptr(IpAddr),
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// Names.
    Names(Vec<String>),
    /// There is none, or nobody answered.
    Nothing,
}

/// Why an attempt is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The peer said no (RST, port unreachable): the way works.
    Refused,
    /// A router, or this host, says that there is no way.
    Unreachable,
    /// This host could not: no port, no room. Says nothing of the way.
    Local,
    /// Nobody said anything.
    TimedOut,
}

/// What the host is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask DNS; answered with [`Race::handle_answer`].
    Look(Question),
    /// Start an attempt, or send the request; answered with [`Race::handle_attempt`].
    Attempt(AttemptId, Ends),
    /// End an attempt without a trace.
    Cancel(AttemptId),
}

/// How a race ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This attempt is the application's.
    Won(AttemptId, Ends),
    /// All failed; the attempt whose error says most, if there was one.
    Failed(Failure, Option<AttemptId>),
    /// No address was found for the name.
    NoAddress,
}

/// What happened in races, summed by whoever runs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Races begun.
    pub races: u64,
    /// Races won by the first attempt.
    pub won_by_first: u64,
    /// Races won by a later attempt: without this shim they would have waited or failed.
    pub won_by_later: u64,
    /// Races that nobody won.
    pub lost: u64,
    /// Attempts started.
    pub attempts: u64,
    /// Attempts refused by the peer.
    pub refused: u64,
    /// Attempts that found no way.
    pub unreachable: u64,
    /// Attempts that this host had no port or no room for.
    pub local: u64,
    /// Attempts that nobody answered.
    pub timed_out: u64,
    /// Attempts ended because another won.
    pub cancelled: u64,
    /// Questions asked.
    pub questions: u64,
    /// Pairs left untried because the budget was spent.
    pub over_budget: u64,
}

impl core::ops::AddAssign for Counters {
    fn add_assign(&mut self, o: Counters) {
        self.races += o.races;
        self.won_by_first += o.won_by_first;
        self.won_by_later += o.won_by_later;
        self.lost += o.lost;
        self.attempts += o.attempts;
        self.refused += o.refused;
        self.unreachable += o.unreachable;
        self.local += o.local;
        self.timed_out += o.timed_out;
        self.cancelled += o.cancelled;
        self.questions += o.questions;
        self.over_budget += o.over_budget;
    }
}

/// What a race looks at and writes down.
pub struct World<'a> {
    /// Our addresses.
    pub addresses: &'a dyn Addresses,
    /// The vserver's table.
    pub policy: &'a PolicyTable,
    /// Precedences and labels of addresses.
    pub labels: &'a Labels,
    /// Earlier connections.
    pub history: &'a mut History,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Failed(Failure),
    Cancelled,
    Won,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    ends: Ends,
    started: Instant,
    state: State,
}

/// Reverse, then forward look-up of the address given.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reverse {
    /// Not wanted, or over.
    No,
    /// When the first attempt turns out slow.
    Ready(IpAddr),
    /// Under way; addresses found by each name, kept until one answer has the address given.
    Asked(IpAddr, SmallVec<[(String, Vec<IpAddr>); NAMES_MAX]>),
}

/// Setting up one connection, or one UDP transaction.
#[derive(Debug)]
pub struct Race {
    request: Request,
    treatment: Treatment,
    slate: Slate,
    attempts: Vec<Attempt>,
    questions: SmallVec<[Question; 4]>,
    reverse: Reverse,
    /// No attempt before: the next one's turn.
    next_at: Instant,
    /// When the look-up by reverse began.
    reverse_at: Instant,
    /// No attempt before: IPv6 addresses may still come.
    hold_until: Option<Instant>,
    deadline: Option<Instant>,
    actions: VecDeque<Action>,
    outcome: Option<Outcome>,
    /// Pairs that wait for their turn.
    waiting: usize,
    counters: Counters,
}

impl Race {
    /// Begins a race; its first actions wait to be polled.
    pub fn new(now: Instant, request: Request, world: &mut World<'_>) -> Race {
        let treatment = request.treatment(world.policy, request.given.first().copied());
        let mut race = Race {
            deadline: request.timeout.map(|t| now + t),
            treatment,
            slate: Slate::default(),
            attempts: Vec::new(),
            questions: SmallVec::new(),
            reverse: Reverse::No,
            next_at: now,
            reverse_at: now,
            hold_until: None,
            actions: VecDeque::new(),
            outcome: None,
            waiting: 0,
            counters: Counters { races: 1, ..Counters::default() },
            request,
        };
        race.begin(now, world);
        race
    }

    fn begin(&mut self, now: Instant, world: &mut World<'_>) {
        for addr in self.request.given.clone() {
            self.add(addr, true, world);
        }
        if self.treatment.form == Form::Full {
            for addr in self.request.known.clone() {
                self.add(addr, false, world);
            }
            let look_up = self.treatment.reverse && self.request.look_up;
            if let (Some(given), true) = (self.request.given.first(), look_up) {
                self.reverse = Reverse::Ready(*given);
            }
        }
        if let Some(name) = self.request.name.clone() {
            // AAAA first (RFC 8305 3).
            self.ask(Question::Aaaa(name.clone()));
            self.ask(Question::A(name));
        }
        self.pump(now, world);
    }

    /// A destination. For a name, only rules without addresses were asked until now.
    fn add(&mut self, addr: IpAddr, given: bool, world: &World<'_>) {
        let mut form = self.treatment.form;
        if self.request.name.is_some() {
            let treatment = self.request.treatment(world.policy, Some(addr));
            form = treatment.form;
            // A rule for this address where none for the name was.
            if self.treatment.form == Form::Off && form != Form::Off {
                self.treatment = treatment;
            }
        }
        let mut sources: SmallVec<[Source; 4]> = world.addresses.sources(addr);
        if let Some(bound) = self.request.bound {
            sources.retain(|s| s.addr == bound);
        }
        self.slate.add(addr, given, form, sources);
    }

    fn ask(&mut self, question: Question) {
        if !self.questions.contains(&question) {
            self.counters.questions += 1;
            self.questions.push(question.clone());
            self.actions.push_back(Action::Look(question));
        }
    }

    /// What is to be done next; until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How it ended; there is nothing more to do then but the actions still to be polled.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Attempts that are under way.
    pub fn pending(&self) -> impl Iterator<Item = AttemptId> + '_ {
        let under_way = |a: &&Attempt| a.state == State::Pending;
        self.attempts.iter().enumerate().filter(move |(_, a)| under_way(a)).map(|(id, _)| id)
    }

    /// DNS answered, or did not.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        question: &Question,
        answer: Answer,
        world: &mut World<'_>,
    ) {
        let Some(at) = self.questions.iter().position(|q| q == question) else { return };
        self.questions.remove(at);
        if self.outcome.is_some() {
            return;
        }
        match answer {
            Answer::Names(names) => self.found_names(question, names),
            Answer::Addresses(addrs) => self.found(now, question, addrs, world),
            Answer::Nothing => self.found(now, question, Vec::new(), world),
        }
        self.pump(now, world);
    }

    fn found_names(&mut self, question: &Question, names: Vec<String>) {
        let (Question::Ptr(_), Reverse::Asked(_, found)) = (question, &mut self.reverse) else {
            return;
        };
        found.extend(names.into_iter().take(NAMES_MAX).map(|name| (name, Vec::new())));
        let names: SmallVec<[String; NAMES_MAX]> = found.iter().map(|(n, _)| n.clone()).collect();
        for name in names {
            self.ask(Question::Aaaa(name.clone()));
            self.ask(Question::A(name));
        }
    }

    fn found(
        &mut self,
        now: Instant,
        question: &Question,
        addrs: Vec<IpAddr>,
        world: &mut World<'_>,
    ) {
        let name = match question {
            Question::Aaaa(name) | Question::A(name) => name,
            Question::Ptr(_) => return,
        };
        if self.request.name.as_ref() == Some(name) {
            self.hold(now, question, &addrs, world.labels);
            for addr in addrs {
                self.add(addr, false, world);
            }
            return;
        }
        let Reverse::Asked(given, found) = &mut self.reverse else { return };
        let Some((_, all)) = found.iter_mut().find(|(n, _)| n == name) else { return };
        all.extend(addrs);
        // Whoever may write names for an address could send us anywhere; only the owner of the name
        // can say that the address is one of its own.
        if all.contains(given) {
            for addr in core::mem::take(all) {
                self.add(addr, false, world);
            }
            // So that the other family's answer is taken too.
            let Reverse::Asked(given, found) = &mut self.reverse else { return };
            if let Some((_, all)) = found.iter_mut().find(|(n, _)| n == name) {
                all.push(*given);
            }
        }
    }

    /// Holds attempts back while better addresses may come, of the family that the policy table
    /// prefers (RFC 8305 3): IPv6, unless those that came are none it would choose, or it says else.
    fn hold(&mut self, now: Instant, question: &Question, addrs: &[IpAddr], labels: &Labels) {
        let name = self.request.name.as_ref();
        let asked =
            |q: &Question| matches!(q, Question::Aaaa(n) | Question::A(n) if Some(n) == name);
        if !self.questions.iter().any(asked) {
            self.hold_until = None;
            return;
        }
        let other = match question {
            Question::Aaaa(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => IpAddr::V6(GLOBAL),
        };
        let best = addrs.iter().map(|addr| labels.precedence(*addr)).max();
        let waits = best.is_some_and(|best| best < labels.precedence(other));
        if waits && self.attempts.is_empty() {
            self.hold_until = Some(now + self.treatment.resolution_delay);
        }
    }

    /// An attempt is over: `Ok` if the peer answered it. Of one cancelled nothing is heard any more.
    pub fn handle_attempt(
        &mut self,
        now: Instant,
        id: AttemptId,
        result: Result<(), Failure>,
        world: &mut World<'_>,
    ) {
        let Some(attempt) = self.attempts.get_mut(id).filter(|a| a.state == State::Pending) else {
            return;
        };
        match result {
            Ok(()) => {
                attempt.state = State::Won;
                let (ends, started) = (attempt.ends, attempt.started);
                if let Some(pair) = self.pair_of(ends, world) {
                    world.history.connected(pair, now.saturating_since(started));
                }
                self.won(now, id, ends, world);
            }
            Err(failure) => {
                self.fail(now, id, failure, world);
                // Nothing to wait for (RFC 8305 5).
                self.next_at = now;
                self.hold_until = None;
                self.pump(now, world);
            }
        }
    }

    fn fail(&mut self, now: Instant, id: AttemptId, failure: Failure, world: &mut World<'_>) {
        let attempt = &mut self.attempts[id];
        attempt.state = State::Failed(failure);
        let ends = attempt.ends;
        match failure {
            Failure::Refused => self.counters.refused += 1,
            Failure::Unreachable => self.counters.unreachable += 1,
            Failure::Local => self.counters.local += 1,
            Failure::TimedOut => self.counters.timed_out += 1,
        }
        // Who refuses is there.
        let of_way = matches!(failure, Failure::Unreachable | Failure::TimedOut);
        if let (Some(pair), true) = (self.pair_of(ends, world), of_way) {
            world.history.failed(now, pair);
        }
    }

    fn pair_of(&self, ends: Ends, world: &World<'_>) -> Option<Pair> {
        let first = || world.addresses.sources(ends.remote).first().map(|s| s.addr);
        let local = ends.local.or(self.request.bound).or_else(first)?;
        Some(Pair::new(local, ends.remote))
    }

    fn won(&mut self, now: Instant, id: AttemptId, ends: Ends, world: &mut World<'_>) {
        if id == 0 {
            self.counters.won_by_first += 1;
        } else {
            self.counters.won_by_later += 1;
        }
        let slow: Vec<Ends> = self
            .attempts
            .iter()
            .filter(|a| a.state == State::Pending)
            .filter(|a| now.saturating_since(a.started) >= self.treatment.delay())
            .map(|a| a.ends)
            .collect();
        for loser in slow {
            if let Some(pair) = self.pair_of(loser, world) {
                world.history.failed(now, pair);
            }
        }
        self.cancel_all();
        self.outcome = Some(Outcome::Won(id, ends));
    }

    fn cancel_all(&mut self) {
        // What was not begun yet need not begin.
        let (kept, unbegun): (VecDeque<_>, VecDeque<_>) =
            self.actions.drain(..).partition(|a| matches!(a, Action::Cancel(_)));
        self.actions = kept;
        let begun = |id| !unbegun.iter().any(|a| matches!(a, Action::Attempt(i, _) if *i == id));
        for (id, attempt) in self.attempts.iter_mut().enumerate() {
            if attempt.state == State::Pending {
                attempt.state = State::Cancelled;
                self.counters.cancelled += 1;
                if begun(id) {
                    self.actions.push_back(Action::Cancel(id));
                }
            }
        }
    }

    /// The application does not want it any more.
    pub fn abort(&mut self) {
        if self.outcome.is_none() {
            self.lose(Some(Failure::TimedOut));
        }
    }

    /// Nobody won: because of `why`, or because every attempt failed.
    fn lose(&mut self, why: Option<Failure>) {
        self.cancel_all();
        self.counters.lost += 1;
        let failed = |a: &Attempt| match a.state {
            State::Failed(f) => Some(f),
            _ => None,
        };
        let told = self.attempts.iter().enumerate().filter_map(|(id, a)| Some((failed(a)?, id)));
        self.outcome = Some(match (why, told.min()) {
            (None, Some((failure, id))) => Outcome::Failed(failure, Some(id)),
            (Some(why), _) => Outcome::Failed(why, None),
            (None, None) if self.request.name.is_some() => Outcome::NoAddress,
            (None, None) => Outcome::Failed(Failure::Unreachable, None),
        });
    }

    /// Time has come to the one [`Race::poll_timeout`] gave.
    pub fn handle_timeout(&mut self, now: Instant, world: &mut World<'_>) {
        if self.outcome.is_some() {
            return;
        }
        if self.deadline.is_some_and(|d| d <= now) {
            return self.lose(Some(Failure::TimedOut));
        }
        if self.request.protocol == Protocol::Udp {
            let patience = self.treatment.answer_timeout;
            let old = |a: &Attempt| a.state == State::Pending && a.started + patience <= now;
            let over: Vec<AttemptId> =
                (0..self.attempts.len()).filter(|id| old(&self.attempts[*id])).collect();
            for id in over {
                self.fail(now, id, Failure::TimedOut, world);
                self.actions.push_back(Action::Cancel(id));
            }
        }
        self.pump(now, world);
    }

    /// When to call [`Race::handle_timeout`]; `None` while only answers are waited for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outcome.is_some() {
            return None;
        }
        let turn = (!self.is_exhausted()).then(|| match self.hold_until {
            Some(hold) => hold.max(self.next_at),
            None => self.next_at,
        });
        let pending = self.attempts.iter().filter(|a| a.state == State::Pending);
        let patience = pending
            .map(|a| a.started + self.treatment.answer_timeout)
            .min()
            .filter(|_| self.request.protocol == Protocol::Udp);
        let idle = self.waiting == 0 && self.pending().next().is_none();
        let look_up = self.reverse_patience().filter(|_| idle && !self.may_ask());
        [turn, patience, look_up, self.deadline].into_iter().flatten().min()
    }

    /// No further attempt waits for its turn.
    fn is_exhausted(&self) -> bool {
        self.waiting == 0 && !self.may_ask()
    }

    /// Starts what is due, and ends the race when nothing can come any more.
    fn pump(&mut self, now: Instant, world: &mut World<'_>) {
        let held = self.hold_until.is_some_and(|hold| now < hold);
        while !held && self.next_at <= now && self.outcome.is_none() {
            if !self.attempts.is_empty() {
                self.ask_reverse(now);
            }
            let Some(ends) = self.untried(now, world).first().copied() else { break };
            self.start(now, ends, world);
        }
        self.waiting = self.untried(now, world).len();
        let spent = self.attempts.len() >= self.budget();
        if spent {
            self.counters.over_budget = self.untried_anyway(now, world) as u64;
        }
        let over = self.waiting == 0
            && !self.is_awaiting(now)
            && !self.may_ask()
            && self.pending().next().is_none();
        if over && self.outcome.is_none() {
            self.lose(None);
        }
    }

    /// Attempts that this race may make in all.
    fn budget(&self) -> usize {
        let once = self.request.protocol == Protocol::Udp && !self.treatment.repeat;
        if once || self.treatment.form == Form::Off {
            1
        } else {
            self.treatment.pairs_max.clamp(1, Treatment::PAIRS_MAX)
        }
    }

    /// Pairs to be tried, in order; none once the budget is spent.
    fn untried(&self, now: Instant, world: &World<'_>) -> Vec<Ends> {
        let left = self.budget().saturating_sub(self.attempts.len());
        if left == 0 {
            return Vec::new();
        }
        let pairs = self.slate.pairs(now, world.labels, world.history);
        let mut fresh: Vec<Ends> = pairs.iter().copied().filter(|e| self.tries(*e) == 0).collect();
        if fresh.is_empty() && self.request.protocol == Protocol::Udp {
            // A datagram may be lost: again over the pairs that said nothing.
            fresh = pairs.into_iter().filter(|e| !self.said_no(*e)).collect();
            fresh.sort_by_key(|e| self.tries(*e));
        }
        fresh.truncate(left);
        fresh
    }

    /// Pairs that nobody tried, whatever the budget.
    fn untried_anyway(&self, now: Instant, world: &World<'_>) -> usize {
        let pairs = self.slate.pairs(now, world.labels, world.history);
        pairs.into_iter().filter(|e| self.tries(*e) == 0).count()
    }

    fn tries(&self, ends: Ends) -> usize {
        self.attempts.iter().filter(|a| a.ends == ends).count()
    }

    fn said_no(&self, ends: Ends) -> bool {
        let no = |s| matches!(s, State::Failed(Failure::Refused | Failure::Unreachable));
        self.attempts.iter().any(|a| a.ends == ends && no(a.state))
    }

    fn start(&mut self, now: Instant, ends: Ends, world: &World<'_>) {
        // Each round of a request waits twice as long as the one before.
        let round = self.tries(ends) as u32;
        let known = self.pair_of(ends, world).and_then(|pair| world.history.rtt(pair));
        let delay = match known {
            Some(rtt) => self.treatment.delay().min(DELAY_KNOWN_MIN.max(rtt * 3)),
            None => self.treatment.delay(),
        };
        let delay = (delay * 2u32.saturating_pow(round.min(8))).min(Treatment::DELAY_MAX);
        self.next_at = now + delay;
        self.actions.push_back(Action::Attempt(self.attempts.len(), ends));
        self.attempts.push(Attempt { ends, started: now, state: State::Pending });
        self.counters.attempts += 1;
    }

    /// An answer that is waited for, and how long: one about the name as long as the resolver takes.
    fn is_awaiting(&self, now: Instant) -> bool {
        let about_name = |q: &Question| match q {
            Question::Aaaa(name) | Question::A(name) => Some(name) == self.request.name.as_ref(),
            Question::Ptr(_) => false,
        };
        self.questions.iter().any(about_name) || self.reverse_patience().is_some_and(|t| now < t)
    }

    /// Until when answers to a look-up by reverse are worth waiting for.
    fn reverse_patience(&self) -> Option<Instant> {
        let asked = matches!(self.reverse, Reverse::Asked(..)) && !self.questions.is_empty();
        asked.then(|| self.reverse_at + REVERSE_PATIENCE)
    }

    /// The address given is looked up as soon as something else waits, or nothing is left.
    fn may_ask(&self) -> bool {
        matches!(self.reverse, Reverse::Ready(_)) && self.attempts.len() < self.budget()
    }

    fn ask_reverse(&mut self, now: Instant) {
        if let (Reverse::Ready(given), true) = (&self.reverse, self.may_ask()) {
            let given = *given;
            self.reverse = Reverse::Asked(given, SmallVec::new());
            self.reverse_at = now;
            self.ask(Question::Ptr(given));
        }
    }
}

//! The thread that asks for all vservers, and timers for those who follow names.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Token;
use parking_lot::Mutex;
use slab::Slab;

use super::cache::Known;
use super::exchange::{Exchange, Outcome, Watch};
use super::message::Reply;
use super::{Done, Lookup, ResolveError, State, Wanted, combine, kinds};
use crate::Vserver;
use crate::net::{Poller, Ready};

/// Names that one vserver asks for at a time.
const JOBS_MAX: usize = 256;
/// Callers that wait for one name.
const WAITERS_MAX: usize = 1024;
/// The longest wait, in case a wake-up is lost.
const WAIT_MAX: Duration = Duration::from_secs(10);

type Task = Box<dyn FnOnce() + Send>;

/// What other threads ask of this one.
enum Command {
    Ask { vserver: Vserver, state: Arc<State>, wanted: Wanted, candidates: Vec<String>, done: Done },
    At(Instant, Task),
}

/// The thread, seen from outside.
pub(crate) struct Engine {
    poller: Poller,
    inbox: Mutex<Vec<Command>>,
    stop: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    pub(super) fn start() -> io::Result<Arc<Engine>> {
        let engine = Arc::new(Engine {
            poller: Poller::new()?,
            inbox: Mutex::default(),
            stop: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let run = Loop::new(Arc::clone(&engine));
        let thread = std::thread::Builder::new()
            .name(String::from("weft-resolver"))
            .spawn(move || run.run())?;
        *engine.thread.lock() = Some(thread);
        Ok(engine)
    }

    pub(super) fn ask(
        &self,
        vserver: Vserver,
        state: Arc<State>,
        wanted: Wanted,
        candidates: Vec<String>,
        done: Done,
    ) {
        self.tell(Command::Ask { vserver, state, wanted, candidates, done });
    }

    /// Runs `task` on the thread after a time; it must not wait for anything.
    pub(crate) fn after(&self, delay: Duration, task: impl FnOnce() + Send + 'static) {
        self.tell(Command::At(Instant::now() + delay, Box::new(task)));
    }

    fn tell(&self, command: Command) {
        let mut inbox = self.inbox.lock();
        if self.stop.load(Ordering::Acquire) {
            drop(inbox);
            return command.refuse();
        }
        inbox.push(command);
        drop(inbox);
        // Without it the thread looks within its longest wait.
        let _ = self.poller.wake();
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.poller.wake();
        let thread = self.thread.lock().take();
        // A task of the thread itself may have dropped the host.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            // A panic of the thread has been printed by the panic hook.
            let _ = thread.join();
        }
        let left = std::mem::take(&mut *self.inbox.lock());
        left.into_iter().for_each(Command::refuse);
    }
}

impl Command {
    /// It came too late: who asks is told so.
    fn refuse(self) {
        if let Command::Ask { done, .. } = self {
            done(Err(ResolveError::Stopped));
        }
    }
}

/// One name of one vserver, and who waits for it.
struct Job {
    vserver: Vserver,
    state: Arc<State>,
    wanted: Wanted,
    candidates: VecDeque<String>,
    current: String,
    parts: Vec<Option<Part>>,
    waiters: Vec<Done>,
    /// What the candidates so far came to.
    no_name: bool,
    negative_ttl: Option<Duration>,
}

/// What is known about one type of the current candidate.
type Part = Result<(Known, Duration), String>;

struct Running {
    generation: u32,
    exchange: Exchange,
    job: usize,
    part: usize,
    /// As it stands among the deadlines.
    deadline: Instant,
}

struct Loop {
    engine: Arc<Engine>,
    running: Slab<Running>,
    generation: u32,
    jobs: Slab<Job>,
    by_wanted: HashMap<(u32, Wanted), usize>,
    per_vserver: HashMap<u32, usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    timers: BTreeMap<(Instant, u64), Task>,
    timer: u64,
    /// Jobs whose current candidate is known in full.
    complete: Vec<usize>,
}

fn token(slot: usize, generation: u32) -> Token {
    Token(slot << 32 | generation as usize)
}

impl Loop {
    fn new(engine: Arc<Engine>) -> Loop {
        Loop {
            engine,
            running: Slab::new(),
            generation: 0,
            jobs: Slab::new(),
            by_wanted: HashMap::new(),
            per_vserver: HashMap::new(),
            deadlines: BTreeSet::new(),
            timers: BTreeMap::new(),
            timer: 0,
            complete: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut ready: Vec<Ready> = Vec::new();
        let engine = Arc::clone(&self.engine);
        while !engine.stop.load(Ordering::Acquire) {
            let commands = std::mem::take(&mut *engine.inbox.lock());
            for command in commands {
                self.obey(command);
            }
            self.settle();
            if engine.poller.wait(&mut ready, Some(self.timeout())).is_err() {
                break;
            }
            for r in &ready {
                self.ready(r.token);
            }
            self.expire(Instant::now());
            self.settle();
        }
        for (_, job) in std::mem::take(&mut self.jobs) {
            finish(job, &Err(ResolveError::Stopped));
        }
    }

    fn timeout(&self) -> Duration {
        if !self.engine.inbox.lock().is_empty() {
            return Duration::ZERO;
        }
        let deadline = self.deadlines.first().map(|d| d.0);
        let timer = self.timers.first_key_value().map(|(t, _)| t.0);
        let next = deadline.into_iter().chain(timer).min();
        next.map_or(WAIT_MAX, |at| at.saturating_duration_since(Instant::now())).min(WAIT_MAX)
    }

    fn obey(&mut self, command: Command) {
        let (vserver, state, wanted, candidates, done) = match command {
            Command::At(at, task) => {
                self.timer += 1;
                self.timers.insert((at, self.timer), task);
                return;
            }
            Command::Ask { vserver, state, wanted, candidates, done } => {
                (vserver, state, wanted, candidates, done)
            }
        };
        let key = (vserver.index(), wanted.clone());
        if let Some(job) = self.by_wanted.get(&key).and_then(|j| self.jobs.get_mut(*j)) {
            if job.waiters.len() < WAITERS_MAX {
                job.waiters.push(done);
            } else {
                State::count(&state.counters.refused);
                done(Err(ResolveError::Busy(JOBS_MAX)));
            }
            return;
        }
        let count = self.per_vserver.entry(key.0).or_default();
        if *count >= JOBS_MAX {
            State::count(&state.counters.refused);
            return done(Err(ResolveError::Busy(*count)));
        }
        *count += 1;
        let slot = self.jobs.insert(Job {
            vserver,
            state,
            wanted,
            candidates: candidates.into(),
            current: String::new(),
            parts: Vec::new(),
            waiters: vec![done],
            no_name: true,
            negative_ttl: None,
        });
        self.by_wanted.insert(key, slot);
        self.next_candidate(slot);
    }

    /// Asks for the next candidate of a job, or ends it.
    fn next_candidate(&mut self, slot: usize) {
        let job = &mut self.jobs[slot];
        let Some(name) = job.candidates.pop_front() else {
            let name = match &job.wanted {
                Wanted::Name(name) | Wanted::Ipv4(name) | Wanted::Ipv6(name) => name.clone(),
                Wanted::Address(address) => address.to_string(),
            };
            let (no_name, ttl) = (job.no_name, job.negative_ttl);
            return self.end(slot, &Err(ResolveError::Nothing { name, no_name, ttl }));
        };
        let kinds = kinds(&job.wanted);
        job.parts = kinds.iter().map(|k| job.state.known(&name, *k).map(Ok)).collect();
        job.current = name;
        for (part, kind) in kinds.iter().enumerate() {
            let job = &self.jobs[slot];
            if job.parts[part].is_some() {
                continue;
            }
            self.generation = self.generation.wrapping_add(1).max(1);
            let generation = self.generation;
            let entry = self.running.vacant_entry();
            let token = token(entry.key(), generation);
            let watch = Watch { poller: &self.engine.poller, token };
            let (exchange, outcome) =
                Exchange::start(&job.vserver, &job.state, &job.current, *kind, watch);
            let deadline = exchange.deadline;
            self.deadlines.insert((deadline, entry.key()));
            let place = entry.key();
            entry.insert(Running { generation, exchange, job: slot, part, deadline });
            if let Some(outcome) = outcome {
                self.answered(place, outcome);
            }
        }
        if self.jobs[slot].parts.iter().all(Option::is_some) && !self.complete.contains(&slot) {
            self.complete.push(slot);
        }
    }

    /// Ends jobs, or goes on to their next candidates, until nothing moves.
    fn settle(&mut self) {
        while let Some(slot) = self.complete.pop() {
            let job = &mut self.jobs[slot];
            let parts: Vec<Part> = job.parts.drain(..).flatten().collect();
            let known: Vec<_> = parts.iter().flatten().cloned().collect();
            if let Some(found) = combine(&job.current, &known) {
                self.end(slot, &Ok(found));
                continue;
            }
            if let Some(Err(why)) = parts.iter().find(|p| p.is_err()) {
                let (name, why) = (job.current.clone(), why.clone());
                self.end(slot, &Err(ResolveError::Unanswered { name, why }));
                continue;
            }
            for (known, ttl) in known {
                job.no_name &= known == Known::Nothing { no_name: true };
                if ttl != Duration::MAX {
                    job.negative_ttl = Some(job.negative_ttl.map_or(ttl, |t| t.min(ttl)));
                }
            }
            self.next_candidate(slot);
        }
    }

    fn end(&mut self, slot: usize, outcome: &Result<Lookup, ResolveError>) {
        let job = self.jobs.remove(slot);
        let index = job.vserver.index();
        self.by_wanted.remove(&(index, job.wanted.clone()));
        if let Some(count) = self.per_vserver.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                self.per_vserver.remove(&index);
            }
        }
        finish(job, outcome);
    }

    fn ready(&mut self, t: Token) {
        let (slot, generation) = (t.0 >> 32, t.0 as u32);
        let Some(r) = self.running.get_mut(slot).filter(|r| r.generation == generation) else {
            return;
        };
        let outcome = r.exchange.advance(Watch { poller: &self.engine.poller, token: t });
        self.after_step(slot, outcome);
    }

    fn after_step(&mut self, slot: usize, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            return self.answered(slot, outcome);
        }
        let r = &mut self.running[slot];
        if r.deadline != r.exchange.deadline {
            self.deadlines.remove(&(r.deadline, slot));
            r.deadline = r.exchange.deadline;
            self.deadlines.insert((r.deadline, slot));
        }
    }

    /// A question has its outcome.
    fn answered(&mut self, slot: usize, outcome: Outcome) {
        let r = self.running.remove(slot);
        self.deadlines.remove(&(r.deadline, slot));
        let Some(job) = self.jobs.get_mut(r.job) else { return };
        let kind = kinds(&job.wanted)[r.part];
        let part = outcome.map(|reply| {
            let (known, ttl) = match reply {
                Reply::Found(values, ttl) => (Known::Found(values), Some(ttl)),
                Reply::Nothing { no_name, ttl } => (Known::Nothing { no_name }, ttl),
                // Those do not end a question.
                Reply::Alias(_) | Reply::Truncated | Reply::Failed(_) => {
                    (Known::Nothing { no_name: false }, None)
                }
            };
            let ttl = ttl.map(|t| Duration::from_secs(t.into()));
            let mut cache = job.state.cache.lock();
            cache.put(&job.current, kind, known.clone(), ttl.unwrap_or_default(), Instant::now());
            (known, ttl.unwrap_or(Duration::MAX))
        });
        job.parts[r.part] = Some(part);
        if job.parts.iter().all(Option::is_some) {
            self.complete.push(r.job);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, slot)) = self.deadlines.first().copied().filter(|d| d.0 <= now) {
            let r = &mut self.running[slot];
            let watch = Watch { poller: &self.engine.poller, token: token(slot, r.generation) };
            let outcome = r.exchange.expired(watch);
            self.after_step(slot, outcome);
        }
        while self.timers.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            if let Some((_, task)) = self.timers.pop_first() {
                task();
            }
        }
    }
}

fn finish(job: Job, outcome: &Result<Lookup, ResolveError>) {
    for done in job.waiters {
        done(outcome.clone());
    }
}

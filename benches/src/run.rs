//! One run of one cell: makes the place, starts both sides, passes the marks on, reads the CPUs,
//! and takes everything down. Bounded in time; what fails is a reason, not an end.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::outcome::{Outcome, Run};
use crate::place::{CLIENT, End, Place, SERVER};
use crate::plan::{Cell, Plan, Scene, SideSpec};
use crate::report::terminal::Progress;
use crate::spec::{Role, Side};
use crate::{Error, cpu, engine, facts};

/// Beyond warm-up and measured time: starting, connecting, ending.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is kept of what a side says on standard error.
const STDERR_BYTES: usize = 600;

/// The runs of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CellResult {
    pub(crate) cell: Cell,
    pub(crate) runs: Vec<Run>,
    /// Why runs failed.
    pub(crate) failures: Vec<String>,
    /// Why it was not tried: something is not installed.
    pub(crate) missing: Option<String>,
}

/// The cells of one scene.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SceneResult {
    pub(crate) scene: Scene,
    pub(crate) cells: Vec<CellResult>,
}

/// Everything of one run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// [`SCHEMA`] of the program that wrote it.
    pub(crate) schema: u32,
    pub(crate) facts: facts::Facts,
    pub(crate) full: bool,
    pub(crate) repetitions: usize,
    pub(crate) seconds: f64,
    pub(crate) interrupted: bool,
    pub(crate) scenes: Vec<SceneResult>,
}

/// Raised when the meaning of a field changes.
pub(crate) const SCHEMA: u32 = 1;

impl Results {
    /// Every contestant ran every time.
    pub(crate) fn complete(&self) -> bool {
        let cells = || self.scenes.iter().flat_map(|s| &s.cells);
        !self.interrupted && cells().all(|c| c.failures.is_empty())
    }
}

/// Runs the plan. Ctrl-C ends it early with what there is. `keep` is called after each scene, and at
/// the end.
pub(crate) fn all(
    plan: &Plan,
    progress: &mut Progress,
    keep: impl Fn(&Results) -> Result<(), Error>,
) -> Result<Results, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut results = Results {
        schema: SCHEMA,
        facts: facts::Facts::gather(),
        full: plan.full,
        repetitions: plan.repetitions,
        seconds: plan.seconds,
        // until the end is reached
        interrupted: true,
        scenes: plan.scenes.iter().map(empty).collect(),
    };
    let mut at = 0;
    for (s, c, repetition) in plan.order() {
        if s != at {
            at = s;
            keep(&results)?;
        }
        let scene = &plan.scenes[s];
        let result = &mut results.scenes[s].cells[c];
        progress.next(&scene.name, &scene.cells[c].contestant, repetition);
        // a contestant that failed twice would fail again, and take its patience each time
        if result.missing.is_some() || result.failures.len() >= 2 {
            continue;
        }
        match once(plan, scene, &scene.cells[c], &stop) {
            Ok((run, congestion)) => {
                let sides = [&run.server, &run.client];
                let told = sides.iter().find_map(|s| s.facts.get("congestion")).cloned();
                if told.is_some() || results.facts.congestion.is_empty() {
                    results.facts.congestion = told.unwrap_or(congestion);
                }
                progress.done(&run, scene.unit);
                result.runs.push(run);
            }
            Err(_) if stop.load(Relaxed) => {}
            Err(e) => {
                progress.failed(&e.to_string());
                result.failures.push(e.to_string());
            }
        }
        if stop.load(Relaxed) {
            break;
        }
    }
    results.interrupted = stop.load(Relaxed);
    progress.end();
    keep(&results)?;
    Ok(results)
}

fn empty(scene: &Scene) -> SceneResult {
    let cells = scene.cells.iter().map(|cell| CellResult {
        cell: cell.clone(),
        runs: Vec::new(),
        failures: Vec::new(),
        missing: sides(cell).find_map(|s| engine::find(&s.engine)?.missing()),
    });
    SceneResult { scene: Scene { cells: Vec::new(), ..scene.clone() }, cells: cells.collect() }
}

fn sides(cell: &Cell) -> impl Iterator<Item = &SideSpec> {
    std::iter::once(&cell.server).chain(&cell.client)
}

/// One run, and the congestion control of its kernels.
fn once(
    plan: &Plan,
    scene: &Scene,
    cell: &Cell,
    stop: &AtomicBool,
) -> Result<(Run, String), Error> {
    let in_kernel = |side: Option<&SideSpec>| {
        side.and_then(|s| engine::find(&s.engine)).is_some_and(engine::Engine::in_kernel)
    };
    let owned = [in_kernel(Some(&cell.server)), in_kernel(cell.client.as_ref())];
    let place = Place::make(&cell.wiring, owned)?;
    let (warmup_s, seconds) = plan.times(scene);
    let own_s = 3.0 * cell.start_s + warmup_s + seconds;
    let deadline = Instant::now() + PATIENCE + Duration::from_secs_f64(own_s);
    let start = |spec: &SideSpec, role| {
        let end = if role == Role::Server { &place.server } else { &place.client };
        Proc::start(&side(plan, scene, cell, spec, role), end, deadline)
    };
    let Some(client) = &cell.client else {
        let run = alone(start(&cell.server, Role::Client)?, stop)?;
        return Ok((run, place.congestion));
    };
    let mut server = start(&cell.server, Role::Server)?;
    server.expect("READY", stop)?;
    let mut client = start(client, Role::Client)?;
    let threads = cpu::device_threads();
    let measured = between(&mut server, &mut client, &threads, stop);
    // a client that cannot connect often does so because the server is gone: tell that first
    let (before, after) = measured.map_err(|e| server.died().unwrap_or(e))?;
    let client = client.outcome(stop)?;
    server.tell("stop");
    let server = server.outcome(stop)?;
    let machine = after.since(before, server.cpu.total() + client.cpu.total());
    Ok((Run { server, client, machine }, place.congestion))
}

/// Waits for the client's marks and passes them on.
fn between(
    server: &mut Proc,
    client: &mut Proc,
    threads: &[u32],
    stop: &AtomicBool,
) -> Result<(cpu::Snapshot, cpu::Snapshot), Error> {
    client.expect("BEGIN", stop)?;
    server.tell("begin");
    let before = cpu::Snapshot::take(threads);
    client.expect("END", stop)?;
    server.tell("end");
    Ok((before, cpu::Snapshot::take(threads)))
}

/// A workload of one process.
fn alone(mut proc: Proc, stop: &AtomicBool) -> Result<Run, Error> {
    proc.expect("BEGIN", stop)?;
    let before = cpu::Snapshot::take(&[]);
    proc.expect("END", stop)?;
    let after = cpu::Snapshot::take(&[]);
    let client = proc.outcome(stop)?;
    let machine = after.since(before, client.cpu.total());
    Ok(Run { server: Outcome::default(), client, machine })
}

fn side(plan: &Plan, scene: &Scene, cell: &Cell, spec: &SideSpec, role: Role) -> Side {
    let (warmup_s, seconds) = plan.times(scene);
    let (local, peer) = if role == Role::Server { (SERVER, CLIENT) } else { (CLIENT, SERVER) };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    Side {
        engine: spec.engine.clone(),
        role,
        workload: scene.workload,
        poll: spec.poll,
        carrier: cell.wiring.carrier,
        device: crate::place::DEVICE.to_owned(),
        mtu: cell.wiring.mtu,
        bytes: scene.bytes,
        connections: scene.connections,
        local: local.into(),
        peer: peer.into(),
        port: 5001,
        warmup_s,
        seconds,
        operations_max: scene.operations_max,
        queues: cell.wiring.queues,
        // the client on the first CPU, the server on the second
        cpu: (cpus > 1).then_some(usize::from(role == Role::Server)),
        extra: spec.extra.clone(),
    }
}

/// A child process and its lines. Killed when dropped.
struct Proc {
    who: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<thread::JoinHandle<String>>,
    deadline: Instant,
}

impl Proc {
    fn start(side: &Side, end: &End, deadline: Instant) -> Result<Proc, Error> {
        let engine = engine::find(&side.engine)
            .ok_or_else(|| format!("there is no engine '{}'", side.engine))?;
        let mut command = match engine.command(side) {
            Some(foreign) => {
                let mut command = end.netns.command(foreign.get_program());
                command.args(foreign.get_args());
                command
            }
            None => end.netns.command(std::env::current_exe()?),
        };
        command.args(side.to_args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (tell, lines) = channel();
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(Result::ok);
                // nobody listens any more: the run is over
                lines.take_while(|line| tell.send(line.clone()).is_ok()).for_each(drop);
            });
        }
        let errors = child.stderr.take().map(|mut err| {
            thread::spawn(move || {
                let mut text = String::new();
                // what cannot be read is no reason
                let _ = err.read_to_string(&mut text);
                text
            })
        });
        let stdin = child.stdin.take();
        let who = format!("{} {:?}", side.engine, side.role).to_lowercase();
        Ok(Proc { who, child, stdin, lines, errors, deadline })
    }

    /// A line to its standard input; if it is gone, its end tells why.
    fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "{line}");
        }
    }

    fn line(&mut self, stop: &AtomicBool) -> Result<String, Error> {
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.reason().into()),
                Err(RecvTimeoutError::Timeout) if stop.load(Relaxed) => {
                    return Err("interrupted".into());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > self.deadline => {
                    return Err(format!("{}: not done after its time", self.who).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn expect(&mut self, wanted: &str, stop: &AtomicBool) -> Result<(), Error> {
        let line = self.line(stop)?;
        if line == wanted {
            return Ok(());
        }
        Err(format!("{}: said {line:?} instead of {wanted}", self.who).into())
    }

    fn outcome(&mut self, stop: &AtomicBool) -> Result<Outcome, Error> {
        let line = self.line(stop)?;
        serde_json::from_str(&line).map_err(|e| format!("{}: {e} in {line}", self.who).into())
    }

    /// Its reason, if it ended by itself.
    fn died(&mut self) -> Option<Error> {
        let status = self.child.try_wait().ok()??;
        (!status.success()).then(|| self.reason().into())
    }

    fn reason(&mut self) -> String {
        let _ = self.child.kill();
        let status = self.child.wait().map(|s| s.to_string()).unwrap_or_default();
        let text = self.errors.take().and_then(|t| t.join().ok()).unwrap_or_default();
        let text: String = text.trim().chars().take(STDERR_BYTES).collect();
        if text.is_empty() {
            format!("{}: {status}", self.who)
        } else {
            format!("{}: {text}", self.who)
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // it has ended already, or shall now
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

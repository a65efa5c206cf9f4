//! One change at a time, whole or not at all, confirmed or taken back.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::describe::Described;
use super::execute::{Run, StepError};
use super::obstacle::Obstacle;
use super::plan::{Plan, plan};
use super::publish::Follower;
use crate::config::HostConfig;
use crate::host::{Host, HostError, build};
use crate::service::Services;
use crate::stats::VserverSnapshot;

/// How a change is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only check it and tell the difference.
    pub dry_run: bool,
    /// Take it back unless it is confirmed within this time.
    pub confirm: Option<Duration>,
    /// Who makes it, to tell others.
    pub by: String,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// What differs.
    pub changes: Described,
    /// Number of the configuration in force now.
    pub generation: u64,
    /// It was not made, only looked at.
    #[serde(default)]
    pub dry_run: bool,
    /// Seconds within which it has to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_s: Option<u64>,
    /// Last statistics of the vservers that were removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<VserverSnapshot>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Something differs that a running host cannot change.
    #[error("nothing was changed: {}", lines(.0))]
    Obstacles(Vec<Obstacle>),
    /// The configuration contradicts itself.
    #[error("nothing was changed: {0}")]
    Check(Box<HostError>),
    /// A step failed; those before it were taken back.
    #[error("nothing was changed: step {number} of {count}, {step}: {source}")]
    Step {
        /// From 1.
        number: usize,
        /// Of how many.
        count: usize,
        /// Which.
        step: String,
        /// Why.
        source: Box<StepError>,
    },
    /// A step failed, and so did taking another one back: the host is in between.
    #[error("{failure}; taking back failed too: {undo}; restart the daemon")]
    Stuck {
        /// The failure.
        failure: String,
        /// What could not be taken back, and why.
        undo: String,
    },
    /// The clock does not go that far.
    #[error("nothing was changed: {0} s are too long a time to confirm a change in")]
    ConfirmTime(u64),
    /// Somebody else's change is on its way or waits to be confirmed.
    #[error("{0} waits to be confirmed; 'weft confirm' keeps it, 'weft revert' takes it back")]
    Waiting(String),
    /// Nothing to confirm.
    #[error("no change waits to be confirmed")]
    NothingWaits,
    /// Nothing to take back.
    #[error("there is no earlier configuration to go back to")]
    NothingBefore,
}

fn lines(all: &[Obstacle]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// How a change that waited ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// It stays.
    Confirmed,
    /// It was taken back, because its time was over.
    Missed,
}

/// What is told after every change: the new configuration, and how a change that waited ended.
type Watcher =
    dyn Fn(&HostConfig, Option<(Confirmation, &Result<Applied, ApplyError>)>) + Send + Sync;

/// The changes of a host. Dropping it keeps what is in force.
pub struct Changes {
    inner: Arc<Inner>,
}

struct Inner {
    host: Arc<Host>,
    services: Option<Arc<Services>>,
    followers: Vec<Arc<dyn Follower>>,
    state: Mutex<State>,
    ended: Condvar,
    watcher: Box<Watcher>,
}

#[derive(Default)]
struct State {
    /// A change that has to be confirmed.
    waiting: Option<Waiting>,
    /// What was in force before the last change.
    before: Option<Arc<HostConfig>>,
    /// Counts changes that waited.
    serial: u64,
}

struct Waiting {
    by: String,
    until: Instant,
    before: Arc<HostConfig>,
    serial: u64,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("host", &self.inner.host).finish_non_exhaustive()
    }
}

impl Changes {
    /// Of a host, its built-in services, and what else follows what is configured, in order. `watcher` is called after each change, on the thread
    /// that made it.
    pub fn new(
        host: Arc<Host>,
        services: Option<Arc<Services>>,
        followers: Vec<Arc<dyn Follower>>,
        watcher: impl Fn(&HostConfig, Option<(Confirmation, &Result<Applied, ApplyError>)>)
        + Send
        + Sync
        + 'static,
    ) -> Changes {
        let (state, ended) = (Mutex::default(), Condvar::new());
        let watcher = Box::new(watcher);
        Changes { inner: Arc::new(Inner { host, services, followers, state, ended, watcher }) }
    }

    /// What would change, and whether anything stands against it.
    pub fn plan(&self, config: &HostConfig) -> Result<Plan, ApplyError> {
        checked(&self.inner.host.config(), config)
    }

    /// Makes `config` the host's configuration, or changes nothing.
    pub fn apply(&self, config: HostConfig, options: &Options) -> Result<Applied, ApplyError> {
        let mut state = self.inner.state.lock();
        if let Some(w) = &state.waiting {
            return Err(ApplyError::Waiting(w.text()));
        }
        let before = self.inner.host.config();
        if options.dry_run {
            let changes = checked(&before, &config)?.describe();
            let generation = self.inner.host.generation();
            return Ok(Applied { changes, generation, dry_run: true, ..Applied::default() });
        }
        let clock = |time| Instant::now().checked_add(time);
        if let Some(time) = options.confirm.filter(|time| clock(*time).is_none()) {
            return Err(ApplyError::ConfirmTime(time.as_secs()));
        }
        let mut applied = self.inner.change(Arc::new(config))?;
        if applied.changes.lines.is_empty() {
            return Ok(applied);
        }
        state.before = Some(Arc::clone(&before));
        if let Some(time) = options.confirm {
            applied.confirm_s = Some(time.as_secs());
            state.serial += 1;
            let serial = state.serial;
            let until = clock(time).unwrap_or_else(Instant::now);
            state.waiting = Some(Waiting { by: options.by.clone(), until, before, serial });
            drop(state);
            self.inner.watch(serial);
        }
        Ok(applied)
    }

    /// Keeps a change that waits.
    pub fn confirm(&self) -> Result<(), ApplyError> {
        let taken = self.inner.state.lock().waiting.take();
        taken.ok_or(ApplyError::NothingWaits)?;
        self.inner.ended.notify_all();
        Ok(())
    }

    /// Goes back to what was in force before the last change; done twice, forth again.
    pub fn revert(&self) -> Result<Applied, ApplyError> {
        let mut state = self.inner.state.lock();
        let before = state.before.clone().ok_or(ApplyError::NothingBefore)?;
        let now = self.inner.host.config();
        let applied = self.inner.change(before)?;
        state.before = Some(now);
        state.waiting = None;
        drop(state);
        self.inner.ended.notify_all();
        Ok(applied)
    }

    /// What [`Changes::revert`] goes back to.
    pub fn before(&self) -> Option<Arc<HostConfig>> {
        self.inner.state.lock().before.clone()
    }

    /// A change that waits to be confirmed, and for how long.
    pub fn waiting(&self) -> Option<(String, Duration)> {
        let state = self.inner.state.lock();
        let w = state.waiting.as_ref()?;
        Some((w.by.clone(), w.until.saturating_duration_since(Instant::now())))
    }

    #[cfg(test)]
    pub(super) fn fail_at(&self, config: HostConfig, at: usize) -> Result<Applied, ApplyError> {
        self.inner.change_or_fail(Arc::new(config), Some(at))
    }
}

impl Waiting {
    fn text(&self) -> String {
        let left = self.until.saturating_duration_since(Instant::now()).as_secs();
        format!("a change by {}, taken back in {left} s,", self.by)
    }
}

/// The plan, after everything was checked that can be before the first step.
fn checked(before: &HostConfig, config: &HostConfig) -> Result<Plan, ApplyError> {
    let plan = plan(before, config).map_err(ApplyError::Obstacles)?;
    build::check(config, &crate::Devices::new()).map_err(|e| ApplyError::Check(Box::new(e)))?;
    build::check_limits(config).map_err(|e| ApplyError::Check(Box::new(e)))?;
    Ok(plan)
}

impl Inner {
    fn change(&self, config: Arc<HostConfig>) -> Result<Applied, ApplyError> {
        self.change_or_fail(config, None)
    }

    /// One transaction.
    fn change_or_fail(
        &self,
        config: Arc<HostConfig>,
        fail_at: Option<usize>,
    ) -> Result<Applied, ApplyError> {
        let shared = &self.host.shared;
        let mut changing = shared.changing.lock();
        let plan = checked(&self.host.config(), &config)?;
        let changes = plan.describe();
        if plan.is_empty() && *self.host.config() == *config {
            let generation = self.host.generation();
            return Ok(Applied { changes, generation, ..Applied::default() });
        }
        let mut run = Run::new(
            &self.host,
            (self.services.as_deref(), &self.followers),
            &mut changing,
            config,
        );
        for (number, step) in plan.steps.iter().enumerate() {
            let done = match fail_at {
                Some(at) if at == number => Err(StepError::OnPurpose),
                _ => run.perform(step),
            };
            if let Err(source) = done {
                return Err(take_back(&mut run, &plan, number, source));
            }
        }
        let removed = run.removed;
        drop(changing);
        (self.watcher)(&self.host.config(), None);
        Ok(Applied { changes, generation: self.host.generation(), removed, ..Applied::default() })
    }

    /// Takes a change back on a thread of its own when its time is over.
    fn watch(self: &Arc<Inner>, serial: u64) {
        let inner = Arc::downgrade(self);
        let watch = move || {
            while let Some(inner) = inner.upgrade() {
                if inner.wait_or_take_back(serial) {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name(String::from("weft-confirm")).spawn(watch);
        if started.is_err() {
            // Better at once than never.
            let mut state = self.state.lock();
            self.missed(&mut state);
        }
    }

    /// Whether the change no longer waits.
    fn wait_or_take_back(&self, serial: u64) -> bool {
        let mut state = self.state.lock();
        let Some(until) = state.waiting.as_ref().filter(|w| w.serial == serial).map(|w| w.until)
        else {
            return true;
        };
        // Not longer, so that it ends soon after its host.
        let step = (Instant::now() + Duration::from_millis(500)).min(until);
        if Instant::now() < until {
            self.ended.wait_until(&mut state, step);
            return false;
        }
        self.missed(&mut state);
        true
    }

    fn missed(&self, state: &mut State) {
        let Some(waiting) = state.waiting.take() else { return };
        let before = self.host.config();
        let result = self.change(Arc::clone(&waiting.before));
        if result.is_ok() {
            state.before = Some(before);
        }
        (self.watcher)(&self.host.config(), Some((Confirmation::Missed, &result)));
    }
}

/// Takes the steps before `failed` back, last first.
fn take_back(run: &mut Run<'_>, plan: &Plan, failed: usize, source: StepError) -> ApplyError {
    let mut undo = Vec::new();
    if let StepError::Between { undo: left, .. } = &source {
        undo.push(format!("{}: {left}", plan.name_of(&plan.steps[failed])));
    }
    for step in plan.steps[..failed].iter().rev() {
        let inverse = step.inverse();
        if let Err(e) = run.perform(&inverse) {
            undo.push(format!("{}: {e}", plan.name_of(&inverse)));
        }
    }
    let step = plan.name_of(&plan.steps[failed]);
    let failure = ApplyError::Step {
        number: failed + 1,
        count: plan.steps.len(),
        step,
        source: Box::new(source),
    };
    if undo.is_empty() {
        return failure;
    }
    ApplyError::Stuck { failure: failure.to_string(), undo: undo.join("; ") }
}

//! Names that stand where an address could: resolved again when their time is over, and told when
//! they changed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Lookup, ResolveError};
use crate::Vserver;
use crate::stats::NameSnapshot;

/// However short an answer holds, and however long.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));
/// After the first failure, doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// How a followed name stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// The addresses last heard of, sorted; they are kept while the name cannot be resolved.
    pub addresses: Vec<IpAddr>,
    /// Why the last attempt failed; `None`: it did not.
    pub error: Option<String>,
    /// How often the addresses changed, the first ones included.
    pub changes: u64,
}

type Changed = Box<dyn FnMut(&[IpAddr]) + Send>;

/// A name that is followed until this is dropped.
pub struct Follow {
    name: String,
    /// `None` once nobody follows any more.
    changed: Arc<Mutex<Option<Changed>>>,
    status: Arc<Mutex<Following>>,
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Follow {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it stands, for a snapshot; `used_for` as in [`NameSnapshot`].
    pub(crate) fn snapshot(&self, used_for: &str) -> NameSnapshot {
        let status = self.status();
        NameSnapshot {
            name: self.name.clone(),
            used_for: used_for.to_owned(),
            addresses: status.addresses.iter().map(ToString::to_string).collect(),
            error: status.error,
            changes: status.changes,
        }
    }

    /// How it stands.
    pub fn status(&self) -> Following {
        self.status.lock().clone()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let changed = self.changed.lock().take();
        // Not under the lock: what it owns may do more on its own end.
        drop(changed);
    }
}

struct Inner {
    vserver: Vserver,
    name: String,
    changed: Arc<Mutex<Option<Changed>>>,
    status: Arc<Mutex<Following>>,
    failures: AtomicU32,
}

impl Vserver {
    /// Resolves a name now and again whenever the answer's time is over, at most once a second.
    /// `changed` is called with the addresses when they are first known and each time they are
    /// others, on the resolver's thread, where it must not wait for anything. While the name cannot
    /// be resolved the addresses last known stay.
    pub fn follow(&self, name: &str, changed: impl FnMut(&[IpAddr]) + Send + 'static) -> Follow {
        let changed: Arc<Mutex<Option<Changed>>> = Arc::new(Mutex::new(Some(Box::new(changed))));
        let follow = Follow { name: name.to_owned(), changed, status: Arc::default() };
        let inner = Arc::new(Inner {
            vserver: self.clone(),
            name: name.to_owned(),
            changed: Arc::clone(&follow.changed),
            status: Arc::clone(&follow.status),
            failures: AtomicU32::new(0),
        });
        step(inner);
        follow
    }
}

fn step(inner: Arc<Inner>) {
    if inner.changed.lock().is_some() {
        let vserver = inner.vserver.clone();
        let name = inner.name.clone();
        vserver.resolve_with(&name, move |outcome| took(inner, outcome));
    }
}

fn took(inner: Arc<Inner>, outcome: Result<Lookup, ResolveError>) {
    if inner.changed.lock().is_none() {
        return;
    }
    let delay = match outcome {
        Ok(lookup) => {
            inner.failures.store(0, Ordering::Relaxed);
            let (ttl, mut addresses) = (lookup.ttl, lookup.addresses);
            addresses.sort_unstable();
            addresses.dedup();
            let mut status = inner.status.lock();
            status.error = None;
            if status.addresses != addresses {
                status.addresses.clone_from(&addresses);
                status.changes += 1;
                drop(status);
                if let Some(changed) = &mut *inner.changed.lock() {
                    changed(&addresses);
                }
            }
            ttl.clamp(AGAIN.0, AGAIN.1)
        }
        Err(e) => {
            inner.status.lock().error = Some(e.to_string());
            let failures = inner.failures.fetch_add(1, Ordering::Relaxed).min(16);
            RETRY.0.saturating_mul(1 << failures).min(RETRY.1)
        }
    };
    // Without its thread the host has stopped.
    if let Ok(engine) = inner.vserver.resolvers().engine() {
        engine.after(delay, move || step(inner));
    }
}

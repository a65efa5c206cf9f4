//! Who may use the unlocked free lists of a worker's pools.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::FramePool;

thread_local! {
    /// The domain that this thread is inside of, 0 for none. A drop has no argument that could
    /// tell it, so this is the one thing that the crate keeps per thread.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is inside the domain with this token; 0 is no domain.
#[inline]
pub(super) fn is_inside(token: usize) -> bool {
    token != 0 && INSIDE.get() == token
}

/// The pools of one worker, and the right to take and give their frames without a lock.
///
/// It belongs where the worker's lock guards it. A thread that holds the lock enters while it
/// works; frames that it drops or allocates meanwhile cost neither an atomic instruction nor a
/// lock. Outside everything works as well, slower.
#[derive(Debug, Default)]
pub struct FrameDomain {
    /// Its address is the token of the domain. Leaked with the pools if a guard was forgotten.
    entered: Arc<AtomicBool>,
    pools: Vec<FramePool>,
}

/// Inside a domain until dropped.
#[derive(Debug)]
pub struct Entered {
    entered: Option<Arc<AtomicBool>>,
    /// The right belongs to the thread that entered.
    _not_send: PhantomData<*const ()>,
}

fn token(entered: &Arc<AtomicBool>) -> usize {
    Arc::as_ptr(entered).addr()
}

impl FrameDomain {
    /// A domain without pools.
    pub fn new() -> FrameDomain {
        FrameDomain::default()
    }

    /// Makes `pool` one of the domain's, which keeps a handle on it. `false`: it is already one of
    /// some domain's, nothing changes.
    pub fn adopt(&mut self, pool: &FramePool) -> bool {
        let adopted = pool.settle(token(&self.entered));
        if adopted {
            self.pools.push(pool.clone());
        }
        adopted
    }

    /// Enters, until the guard is dropped. Without effect while the calling thread is inside
    /// another domain, or somebody inside this one.
    pub fn enter(&mut self) -> Entered {
        // Exclusive access orders this after every earlier `enter`; the guard that left did so
        // with release.
        let taken = INSIDE.get() != 0 || self.entered.load(Ordering::Acquire);
        if taken {
            return Entered { entered: None, _not_send: PhantomData };
        }
        self.entered.store(true, Ordering::Relaxed);
        INSIDE.set(token(&self.entered));
        Entered { entered: Some(Arc::clone(&self.entered)), _not_send: PhantomData }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(entered) = self.entered.take() {
            // Nothing else changed it: a second guard on this thread is without effect.
            INSIDE.set(0);
            entered.store(false, Ordering::Release);
        }
    }
}

impl Drop for FrameDomain {
    fn drop(&mut self) {
        if self.entered.load(Ordering::Acquire) {
            // A guard outlives the domain: its thread may use the lists for ever.
            std::mem::forget(Arc::clone(&self.entered));
            std::mem::forget(std::mem::take(&mut self.pools));
            return;
        }
        for pool in &self.pools {
            // SAFETY: nobody is inside, nobody can enter any more.
            unsafe { pool.unsettle() };
        }
    }
}

//! Who may use the unlocked free lists of a worker's pools.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;
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
#[derive(Debug)]
pub struct FrameDomain {
    /// Whether somebody is inside. From a box, whose address is the token of the domain; leaked
    /// with the pools if a guard outlives the domain.
    entered: NonNull<AtomicBool>,
    pools: Vec<FramePool>,
}

// SAFETY: the flag is an atomic of its own.
unsafe impl Send for FrameDomain {}
// SAFETY: as above.
unsafe impl Sync for FrameDomain {}

/// Inside a domain until dropped.
#[derive(Debug)]
pub struct Entered {
    entered: Option<NonNull<AtomicBool>>,
    /// The right belongs to the thread that entered.
    _not_send: PhantomData<*const ()>,
}

impl Default for FrameDomain {
    fn default() -> FrameDomain {
        let entered = NonNull::from(Box::leak(Box::new(AtomicBool::new(false))));
        FrameDomain { entered, pools: Vec::new() }
    }
}

impl FrameDomain {
    /// A domain without pools.
    pub fn new() -> FrameDomain {
        FrameDomain::default()
    }

    fn token(&self) -> usize {
        self.entered.addr().get()
    }

    fn entered(&self) -> &AtomicBool {
        // SAFETY: freed by the domain's drop only.
        unsafe { self.entered.as_ref() }
    }

    /// Makes `pool` one of the domain's, which keeps a handle on it. `false`: it is already one of
    /// some domain's, nothing changes.
    pub fn adopt(&mut self, pool: &FramePool) -> bool {
        let adopted = pool.settle(self.token());
        if adopted {
            self.pools.push(pool.clone());
        }
        adopted
    }

    /// Enters, until the guard is dropped. Without effect while the calling thread is inside
    /// another domain, or somebody inside this one.
    #[inline]
    pub fn enter(&mut self) -> Entered {
        // Exclusive access orders this after every earlier `enter`; the guard that left did so
        // with release.
        let taken = INSIDE.get() != 0 || self.entered().load(Ordering::Acquire);
        if taken {
            return Entered { entered: None, _not_send: PhantomData };
        }
        self.entered().store(true, Ordering::Relaxed);
        INSIDE.set(self.token());
        Entered { entered: Some(self.entered), _not_send: PhantomData }
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        if let Some(entered) = self.entered.take() {
            // Nothing else changed it: a second guard on this thread is without effect.
            INSIDE.set(0);
            // SAFETY: a domain that ends while somebody is inside leaks its flag.
            unsafe { entered.as_ref() }.store(false, Ordering::Release);
        }
    }
}

impl Drop for FrameDomain {
    fn drop(&mut self) {
        if self.entered().load(Ordering::Acquire) {
            // A guard outlives the domain: its thread may use the lists for ever.
            std::mem::forget(std::mem::take(&mut self.pools));
            return;
        }
        for pool in &self.pools {
            // SAFETY: nobody is inside, nobody can enter any more.
            unsafe { pool.unsettle() };
        }
        // SAFETY: from a box, and no guard is left that would use it.
        drop(unsafe { Box::from_raw(self.entered.as_ptr()) });
    }
}

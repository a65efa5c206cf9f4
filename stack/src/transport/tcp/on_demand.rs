//! State that most connections never need.

use core::ops::{Deref, DerefMut};

/// Reads as blank, and takes eight bytes, until it is first changed.
#[derive(Debug, Default)]
pub(crate) struct OnDemand<T>(Option<Box<T>>);

/// What has a value that stands for "nothing happened yet", which is also the default.
pub(crate) trait Blank: Default + 'static {
    fn blank() -> &'static Self;
}

impl<T: Blank> Deref for OnDemand<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(state) => state,
            None => T::blank(),
        }
    }
}

impl<T: Blank> DerefMut for OnDemand<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

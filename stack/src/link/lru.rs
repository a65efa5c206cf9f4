//! Doubly linked lists through a slab: least recently used in front. Constant time, no allocation.

use slab::Slab;

/// Neighbours of an entry in its list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

impl Default for Links {
    fn default() -> Links {
        Links { prev: NONE, next: NONE }
    }
}

/// What a list needs of its entries.
pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
    fn next(&self) -> u32;
}

impl Links {
    pub(super) fn next(self) -> u32 {
        self.next
    }
}

/// One list. An entry is in at most one.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: usize,
}

impl Default for List {
    fn default() -> List {
        List { head: NONE, tail: NONE, len: 0 }
    }
}

impl List {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, at: u32) {
        *slab[at as usize].links() = Links { prev: self.tail, next: NONE };
        match self.tail {
            NONE => self.head = at,
            tail => slab[tail as usize].links().next = at,
        }
        self.tail = at;
        self.len += 1;
    }

    pub(super) fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, at: u32) {
        let Links { prev, next } = core::mem::take(slab[at as usize].links());
        match prev {
            NONE => self.head = next,
            prev => slab[prev as usize].links().next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => slab[next as usize].links().prev = prev,
        }
        self.len -= 1;
    }

    /// Marks an entry as the most recently used.
    pub(super) fn touch<T: Linked>(&mut self, slab: &mut Slab<T>, at: u32) {
        if self.tail != at {
            self.remove(slab, at);
            self.push_back(slab, at);
        }
    }

    /// Entries from the front, at most `max`.
    pub(super) fn front_entries<'a, T: Linked>(
        &self,
        slab: &'a Slab<T>,
        max: usize,
    ) -> impl Iterator<Item = u32> + 'a {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let this = at;
            at = slab.get(this as usize)?.next();
            Some(this)
        })
        .take(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct E(Links);
    impl Linked for E {
        fn links(&mut self) -> &mut Links {
            &mut self.0
        }
        fn next(&self) -> u32 {
            self.0.next()
        }
    }

    #[test]
    fn order_is_least_recently_used_first() {
        let mut slab = Slab::new();
        let mut list = List::default();
        for _ in 0..4 {
            let at = slab.insert(E(Links::default())) as u32;
            list.push_back(&mut slab, at);
        }
        list.touch(&mut slab, 0);
        list.remove(&mut slab, 2);
        let order: Vec<_> = list.front_entries(&slab, 9).collect();
        assert_eq!(order, [1, 3, 0]);
        assert_eq!((list.len(), list.front()), (3, Some(1)));
        for at in order {
            list.remove(&mut slab, at);
        }
        assert_eq!((list.len(), list.front()), (0, None));
    }
}

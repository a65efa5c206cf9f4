//! Sockets of the host in the stacks of all its vservers: who takes what arrives there.
//!
//! What is ready stands in a ring of vservers, each once. A taker gets one connection or datagram of
//! the first, which goes to the end if it has more: however much one vserver is called, the others
//! have their turn.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use weft_stack::socket::{Readiness, SocketId};
use weft_stack::time::Instant;

use super::{Core, NodeId, Notify};

/// Who takes what arrives for a binding, on one worker.
pub(crate) enum Taker {
    /// A service, by its slot.
    Service(u16),
    /// A handle.
    Socket(Ring),
}

/// Vservers with something to take, by number, and their socket.
#[derive(Default)]
pub(crate) struct Ring {
    order: VecDeque<(u32, SocketId)>,
    within: HashSet<(u32, SocketId)>,
    notify: Arc<Notify>,
}

impl Ring {
    pub(crate) fn new(notify: Arc<Notify>) -> Ring {
        Ring { notify, ..Ring::default() }
    }

    /// The vserver has something to take.
    fn push(&mut self, place: (u32, SocketId)) {
        if self.within.insert(place) {
            self.order.push_back(place);
        }
    }

    /// Whose turn it is.
    fn pop(&mut self) -> Option<(u32, SocketId)> {
        let place = self.order.pop_front()?;
        self.within.remove(&place);
        Some(place)
    }

    /// A vserver is no more: its socket's name is another's in the vserver that comes next.
    fn forget(&mut self, vserver: u32) {
        self.order.retain(|(index, _)| *index != vserver);
        self.within.retain(|(index, _)| *index != vserver);
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// The bindings for any vserver, by number.
pub(crate) type Takers = HashMap<u32, Taker>;

impl Core {
    /// A socket that is neither a service's nor a handle's has something to tell; returns whether a
    /// service was called.
    #[cold]
    pub(super) fn any_event(
        &mut self,
        now: Instant,
        index: u32,
        id: SocketId,
        ready: Readiness,
    ) -> bool {
        let node = &mut self.nodes[index as usize];
        let taker = node.stack.any_of(id).and_then(|number| self.any.get_mut(&number));
        match taker {
            Some(Taker::Service(service)) => {
                node.owners.add(id, *service, 0);
                self.apps.event(node, now, index, id, ready)
            }
            Some(Taker::Socket(ring)) => {
                if ready.contains(Readiness::READABLE) {
                    ring.push((index, id));
                }
                ring.notify.fire(ready);
                false
            }
            // Closed meanwhile.
            None => false,
        }
    }

    fn ring(&mut self, number: u32) -> Option<&mut Ring> {
        match self.any.get_mut(&number) {
            Some(Taker::Socket(ring)) => Some(ring),
            _ => None,
        }
    }

    /// Whose turn it is to be taken from.
    pub(super) fn any_next(&mut self, number: u32) -> Option<(u32, SocketId)> {
        self.ring(number)?.pop()
    }

    /// There is more where something was taken.
    pub(super) fn any_more(&mut self, number: u32, place: (u32, SocketId)) {
        if let Some(ring) = self.ring(number) {
            ring.push(place);
        }
    }

    /// A vserver is no more.
    pub(super) fn any_forget(&mut self, index: u32) {
        for taker in self.any.values_mut() {
            if let Taker::Socket(ring) = taker {
                ring.forget(index);
            }
        }
    }

    /// Whether something waits to be taken.
    pub(crate) fn any_is_ready(&mut self, number: u32) -> bool {
        self.ring(number).is_some_and(|ring| !ring.is_empty())
    }

    /// The socket of a binding in a vserver's stack, made if there is none.
    pub(crate) fn any_socket(&mut self, id: NodeId, addr: IpAddr, port: u16) -> Option<SocketId> {
        self.node_mut(id)?.stack.any_udp(addr, port)
    }

    /// Ends a binding: what waits in the stacks is reset. Looks at every vserver.
    pub(crate) fn any_close(&mut self, now: Instant, number: u32) {
        self.any.remove(&number);
        for index in 0..self.nodes.len() as u32 {
            let stack = &mut self.nodes[index as usize].stack;
            if stack.close_any(now, number) {
                self.mark_dirty(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_stack::socket::SocketKind;

    #[test]
    fn whoever_has_more_goes_to_the_end_and_stands_there_once() {
        let id = |index| SocketId { kind: SocketKind::TcpListener, index, generation: 1 };
        let mut ring = Ring::default();
        for place in [(1, id(0)), (2, id(0)), (1, id(0)), (2, id(1))] {
            ring.push(place);
        }
        assert_eq!(ring.pop(), Some((1, id(0))));
        ring.push((1, id(0)));
        let rest: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
        assert_eq!(rest, [(2, id(0)), (2, id(1)), (1, id(0))]);
        assert!(ring.is_empty());
        for place in [(1, id(0)), (2, id(0)), (1, id(1))] {
            ring.push(place);
        }
        ring.forget(1);
        assert_eq!((ring.pop(), ring.pop()), (Some((2, id(0))), None));
        // Its successor is no stranger.
        ring.push((1, id(0)));
        assert_eq!(ring.pop(), Some((1, id(0))));
    }
}

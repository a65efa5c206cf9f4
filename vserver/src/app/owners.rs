//! Which service a socket belongs to, found without hashing.

use weft_stack::socket::{SocketId, SocketKind};

/// A connect that has not ended.
pub(crate) const CONNECTING: u8 = 1;
/// A send took less than it was given: whoever sent wants to know when there is room.
pub(crate) const WANTS_WRITE: u8 = 2;
/// A listener whose connections wait in the backlog.
pub(crate) const PAUSED: u8 = 4;

/// One slot of a stack's socket table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    generation: u32,
    /// Slot of the service, [`NOBODY`] if none.
    pub(crate) service: u16,
    pub(crate) flags: u8,
}

const NOBODY: u16 = u16::MAX;
const FREE: Owner = Owner { generation: 0, service: NOBODY, flags: 0 };

/// The sockets of one vserver that belong to services, by slot of the stack's tables. Their size is
/// that of the tables, which the vserver's limits bound.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    tables: [Vec<Owner>; 3],
}

/// Services have sockets of these kinds only.
fn table(kind: SocketKind) -> Option<usize> {
    match kind {
        SocketKind::TcpStream => Some(0),
        SocketKind::TcpListener => Some(1),
        SocketKind::Udp => Some(2),
        SocketKind::Raw | SocketKind::Icmp => None,
    }
}

const KINDS: [SocketKind; 3] = [SocketKind::TcpStream, SocketKind::TcpListener, SocketKind::Udp];

impl Owners {
    /// The entry of a socket that a service owns.
    pub(crate) fn get(&mut self, id: SocketId) -> Option<&mut Owner> {
        let owner = self.tables[table(id.kind)?].get_mut(id.index as usize)?;
        (owner.generation == id.generation && owner.service != NOBODY).then_some(owner)
    }

    pub(crate) fn add(&mut self, id: SocketId, service: u16, flags: u8) {
        let Some(table) = table(id.kind) else { return };
        let (table, index) = (&mut self.tables[table], id.index as usize);
        if index >= table.len() {
            table.resize(index + 1, FREE);
        }
        table[index] = Owner { generation: id.generation, service, flags };
    }

    /// Returns whether a service owned it.
    pub(crate) fn remove(&mut self, id: SocketId) -> bool {
        match self.get(id) {
            Some(owner) => {
                *owner = FREE;
                true
            }
            None => false,
        }
    }

    /// Takes a socket of `service` out, looking at no more than `budget` entries from `at` on;
    /// `at` moves. `None` with budget left: there is none any more.
    pub(crate) fn take_next(
        &mut self,
        service: u16,
        at: &mut (usize, usize),
        budget: &mut usize,
    ) -> Option<SocketId> {
        while at.0 < KINDS.len() && *budget > 0 {
            let (kind, index) = (KINDS[at.0], at.1);
            let Some(owner) = self.tables[at.0].get_mut(index) else {
                *at = (at.0 + 1, 0);
                continue;
            };
            *budget -= 1;
            at.1 += 1;
            if owner.service == service {
                let generation = owner.generation;
                *owner = FREE;
                return Some(SocketId { kind, index: index as u32, generation });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: SocketKind, index: u32, generation: u32) -> SocketId {
        SocketId { kind, index, generation }
    }

    #[test]
    fn a_stale_handle_belongs_to_nobody() {
        let mut owners = Owners::default();
        let old = id(SocketKind::TcpStream, 3, 1);
        owners.add(old, 0, 0);
        assert_eq!(owners.get(old).map(|o| o.service), Some(0));
        assert!(owners.get(id(SocketKind::TcpStream, 3, 2)).is_none());
        assert!(owners.get(id(SocketKind::Udp, 3, 1)).is_none());
        assert!(owners.remove(old) && !owners.remove(old));
    }

    #[test]
    fn sockets_of_one_service_are_taken_within_a_budget() {
        let mut owners = Owners::default();
        for index in 0..10 {
            owners.add(id(SocketKind::TcpStream, index, 1), (index % 2) as u16, 0);
        }
        owners.add(id(SocketKind::Udp, 0, 9), 1, 0);
        let (mut at, mut taken, mut rounds) = ((0, 0), Vec::new(), 0);
        loop {
            let mut budget = 3;
            while let Some(id) = owners.take_next(1, &mut at, &mut budget) {
                taken.push((id.kind, id.index));
            }
            rounds += 1;
            if budget > 0 {
                break;
            }
        }
        let stream = SocketKind::TcpStream;
        let streams = [1, 3, 5, 7, 9].map(|index| (stream, index));
        assert_eq!(taken[..5], streams);
        assert_eq!(taken[5..], [(SocketKind::Udp, 0)]);
        assert!(rounds > 3, "{rounds}");
        assert!(owners.get(id(stream, 0, 1)).is_some(), "the other service keeps its own");
    }
}

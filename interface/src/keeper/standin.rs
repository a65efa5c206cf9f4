use std::collections::VecDeque;
use std::net::IpAddr;

use weft_stack::time::Instant;

use crate::{GroupSelection, Mac};

#[derive(Clone, Copy, Debug)]
pub(super) struct Announcement {
    pub(super) member: u16,
    pub(super) address: IpAddr,
    pub(super) mac: Option<Mac>,
}

#[derive(Debug)]
pub(super) struct Group {
    up: Vec<bool>,
    selection: GroupSelection,
    addresses: Vec<(IpAddr, Option<Mac>)>,
    announcements: VecDeque<Announcement>,
}

impl Group {
    pub(super) fn new(members: usize) -> Group {
        Group {
            up: vec![false; members],
            selection: GroupSelection::default(),
            addresses: Vec::new(),
            announcements: VecDeque::new(),
        }
    }

    pub(super) fn handle_health(&mut self, _now: Instant, member: usize, up: bool) {
        self.up[member] = up;
        self.rebind();
    }

    pub(super) fn address_added(&mut self, addr: IpAddr, mac: Option<Mac>) {
        self.addresses.push((addr, mac));
        self.rebind();
    }

    pub(super) fn address_removed(&mut self, addr: IpAddr, mac: Option<Mac>) {
        self.addresses.retain(|a| *a != (addr, mac));
        self.rebind();
    }

    fn rebind(&mut self) {
        let s = &mut self.selection;
        s.active = (0..self.up.len() as u16).filter(|m| self.up[usize::from(*m)]).collect();
        (s.nominee4, s.nominee6) = (s.active.first().copied(), s.active.first().copied());
        let before = std::mem::take(&mut s.bindings);
        for (at, (addr, mac)) in self.addresses.iter().enumerate() {
            if s.active.is_empty() {
                continue;
            }
            let was = before.get(addr).copied().filter(|m| s.active.contains(m));
            let member = was.unwrap_or(s.active[at % s.active.len()]);
            s.bindings.insert(*addr, member);
            if before.get(addr) != Some(&member) {
                let (address, mac) = (*addr, *mac);
                self.announcements.push_back(Announcement { member, address, mac });
            }
        }
    }

    pub(super) fn selection(&self) -> &GroupSelection {
        &self.selection
    }

    pub(super) fn poll_announcement(&mut self) -> Option<Announcement> {
        self.announcements.pop_front()
    }
}

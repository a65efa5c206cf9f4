//! Members with one MAC address: a switch would see it at two ports, so all but one go offline
//! until it is unique. One that the operator has put offline does not use its address.

use weft_stack::time::Instant;

use super::event::what_of;
use super::group::Group;
use super::member::Offline;
use crate::Mac;

const UNKNOWN: Mac = [0; 6];

impl Group {
    /// The MAC address of a member is another.
    pub fn handle_mac(&mut self, now: Instant, member: u16, mac: Mac) {
        let Some(m) = self.members.get_mut(usize::from(member)) else { return };
        if m.info.mac != mac {
            m.info.mac = mac;
            self.settle(now);
        }
    }

    /// Another member that uses the MAC address of this one.
    pub(super) fn twin(&self, i: usize) -> Option<usize> {
        let mac = self.members[i].mac();
        let uses =
            |j: usize| self.members[j].mac() == mac && self.members[j].offline.is_none() && j != i;
        (0..self.members.len()).find(|j| mac != UNKNOWN && uses(*j))
    }

    /// True if somebody went offline or came back.
    pub(super) fn check_duplicates(&mut self) -> bool {
        let mut changed = false;
        for i in 0..self.members.len() {
            let Some(twin) = self.twin(i) else {
                // First come, first served, where several wait for one address.
                if self.members[i].offline == Some(Offline::Duplicate) {
                    self.notice(Some(i), what_of::unique(self.members[i].mac()));
                    self.bring_online(i);
                    changed = true;
                }
                continue;
            };
            if self.members[i].offline.is_none() {
                let loser = self.loser(i, twin);
                let winner = i + twin - loser;
                let other = &self.members[winner].info;
                self.notice(Some(loser), what_of::duplicate(other.mac, &other.name));
                self.members[loser].counters.duplicates += 1;
                self.take_offline(loser, Offline::Duplicate);
                changed = true;
            }
        }
        changed
    }

    /// The one that carries frames stays, else the one that could, else the first.
    fn loser(&self, a: usize, b: usize) -> usize {
        let worth = |i: usize| (self.members[i].is_active(), self.members[i].is_usable());
        let (first, second) = (a.min(b), a.max(b));
        if worth(second) > worth(first) { first } else { second }
    }
}

//! Who of the usable members carries frames, and who waits.

use super::group::Group;

/// Why a member that was not usable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    /// It is new, or the operator or a unique MAC address brings it back.
    Online,
    /// It failed and works again.
    Repair,
}

impl Group {
    /// As many members carry frames as are not standby.
    fn capacity(&self) -> usize {
        self.members.iter().filter(|m| !m.standby).count().max(1)
    }

    fn active_count(&self) -> usize {
        self.members.iter().filter(|m| m.is_active()).count()
    }

    /// A member is usable from now on.
    pub(super) fn place(&mut self, i: usize, how: Return) {
        self.members[i].inactive = true;
        let active = self.active_count();
        let member = &mut self.members[i];
        let waits = if member.standby {
            active >= 1 && active >= self.members.iter().filter(|m| !m.standby).count()
        } else {
            let is_new = how == Return::Online || !member.worked;
            let comes_back = is_new || self.config.failback || member.with_group;
            active >= 1 && !comes_back
        };
        let member = &mut self.members[i];
        member.inactive = waits;
        member.with_group = false;
        member.worked = true;
        self.trim();
    }

    /// Standby members beyond the capacity wait, the last one first.
    pub(super) fn trim(&mut self) {
        while self.active_count() > self.capacity() {
            let spare = self.members.iter_mut().rev().find(|m| m.is_active() && m.standby);
            let Some(spare) = spare else { return };
            spare.inactive = true;
        }
    }

    /// An active member went: one that waits takes its place, standby preferred.
    pub(super) fn replace(&mut self) {
        let waiting = |standby: bool| {
            self.members.iter().position(|m| m.is_waiting() && m.standby == standby)
        };
        if let Some(i) = waiting(true).or_else(|| waiting(false)) {
            self.members[i].inactive = false;
        }
    }

    /// `failback` was switched on: whoever waits for nothing else comes back.
    pub(super) fn fail_back(&mut self) {
        for member in self.members.iter_mut().filter(|m| m.is_waiting() && !m.standby) {
            member.inactive = false;
        }
        self.trim();
    }
}

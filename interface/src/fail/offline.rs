//! What the operator takes out and brings back.

use thiserror::Error;
use weft_stack::time::Instant;

use super::group::Group;
use super::member::{Cause, Offline};
use super::policy::Return;

/// Why a member is not put offline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OfflineError {
    /// Too few members would be left (`IPMP_EMINRED`).
    #[error("{member} stays: {left} usable members of {group} would be left, {wanted} are wanted")]
    Redundancy {
        /// The member.
        member: String,
        /// Its group.
        group: String,
        /// Usable ones without it.
        left: usize,
        /// As many as asked for.
        wanted: usize,
    },
    /// There is no such member (`IPMP_EUNKIF`).
    #[error("{group} has no member number {member}")]
    Unknown {
        /// The group.
        group: String,
        /// The number.
        member: u16,
    },
}

/// Why a member is not brought back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UndoError {
    /// It is not offline (`IPMP_EINVAL`).
    #[error("{0} is not offline")]
    NotOffline(String),
    /// Another member has its MAC address (`IPMP_EHWADDRDUP`).
    #[error("{member} stays offline: {other} has the same hardware address; change one of them")]
    DuplicateMac {
        /// The member.
        member: String,
        /// The other.
        other: String,
    },
    /// There is no such member (`IPMP_EUNKIF`).
    #[error("{group} has no member number {member}")]
    Unknown {
        /// The group.
        group: String,
        /// The number.
        member: u16,
    },
}

impl Group {
    /// Takes a member out until [`Group::undo`]. Refused if fewer than `redundancy` usable members
    /// (1 is usual) would be left; while the group as a whole has failed any that is not offline
    /// counts as one. No effect on one that is offline already, but that it stays so when its MAC
    /// address becomes unique.
    pub fn offline(
        &mut self,
        now: Instant,
        member: u16,
        redundancy: usize,
    ) -> Result<(), OfflineError> {
        let i = usize::from(member);
        let Some(m) = self.members.get_mut(i) else {
            return Err(OfflineError::Unknown { group: self.name.clone(), member });
        };
        if m.offline.is_some() {
            m.offline = Some(Offline::Operator);
            self.settle(now);
            return Ok(());
        }
        let group_failed = self.members.iter().all(|m| !m.is_usable());
        let others = self.members.iter().enumerate().filter(|(j, _)| *j != i);
        let counts = others.filter(|(_, m)| m.is_usable() || group_failed && m.offline.is_none());
        let left = counts.count();
        if left < redundancy {
            return Err(OfflineError::Redundancy {
                member: self.members[i].info.name.clone(),
                group: self.name.clone(),
                left,
                wanted: redundancy,
            });
        }
        self.take_offline(i, Offline::Operator);
        self.settle(now);
        Ok(())
    }

    /// Brings back a member that is offline. It comes back failed if it is.
    pub fn undo(&mut self, now: Instant, member: u16) -> Result<(), UndoError> {
        let i = usize::from(member);
        let Some(m) = self.members.get(i) else {
            return Err(UndoError::Unknown { group: self.name.clone(), member });
        };
        let name = m.info.name.clone();
        if m.offline.is_none() {
            return Err(UndoError::NotOffline(name));
        }
        if let Some(twin) = self.twin(i) {
            let other = self.members[twin].info.name.clone();
            return Err(UndoError::DuplicateMac { member: name, other });
        }
        self.members[i].quiet_since = Some(now);
        self.bring_online(i);
        self.settle(now);
        Ok(())
    }

    pub(super) fn take_offline(&mut self, i: usize, why: Offline) {
        let m = &mut self.members[i];
        let was_active = m.is_active();
        m.offline = Some(why);
        m.inactive = false;
        m.damped = false;
        if was_active {
            self.replace();
        }
    }

    pub(super) fn bring_online(&mut self, i: usize) {
        let other_usable = self.is_other_usable(i);
        let m = &mut self.members[i];
        m.offline = None;
        m.inactive = true;
        // What its link did while it was out is over.
        if m.failed.is_some_and(|f| f.cause == Cause::Link) && m.looks_repaired(other_usable) {
            m.failed = None;
        }
        if m.failed.is_some() {
            m.inactive = false;
        } else if m.link.is_some() {
            self.place(i, Return::Online);
        }
    }
}

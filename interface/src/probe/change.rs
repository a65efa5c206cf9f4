//! A prober whose configuration changes while it runs: what was learned of members, targets and
//! peers that stay goes on.

use weft_stack::time::Instant;

use super::config::{ProbeConfig, ProbeMember};
use super::fast::{self, FastSession};
use super::group::{Member, PEERS, Prober};

impl Prober {
    /// The configuration and the members are others from now on; `from` gives the former position
    /// of each member that stays.
    pub fn update(
        &mut self,
        now: Instant,
        config: &ProbeConfig,
        members: &[ProbeMember],
        from: &[Option<usize>],
    ) {
        let mut next = Prober::new(config, members, self.rng.next_u64());
        next.now = self.now.max(now);
        let same_way = config.method == self.config.method;
        let mut anew = Vec::new();
        for (new, old) in from.iter().enumerate().take(next.members.len()) {
            let Some(before) = old.and_then(|old| self.members.get(old)) else {
                anew.push(new);
                continue;
            };
            let member = &mut next.members[new];
            let same = same_way && is_same(member, before);
            (member.binding, member.up, member.offline) =
                (before.binding, before.up, before.offline);
            if same {
                let paths = member.paths.clone();
                *member = before.clone();
                // Other members are named by their positions, which are others now.
                member.paths[PEERS] = paths[PEERS].clone();
            } else {
                (member.failed, member.first_loss) = (before.failed, before.first_loss);
                member.last_success = before.last_success;
                anew.push(new);
            }
        }
        next.keep_sessions(now, self, from);
        for far in &mut next.far {
            if let Some(before) = self.far.iter().find(|f| f.target == far.target) {
                *far = before.clone();
                far.renumber();
            }
        }
        next.routers = std::mem::take(&mut self.routers);
        next.gates = std::mem::take(&mut self.gates);
        (next.counters, next.bfd_counters) = (self.counters, self.bfd_counters);
        if config.detect == self.config.detect {
            (next.interval, next.raised_at) = (self.interval, self.raised_at);
        }
        next.take_queues(self);
        *self = next;
        self.rebuild_targets();
        for index in anew {
            self.restart(now, index);
        }
        self.run(now);
    }

    /// Sessions of members and peers that stay go on, with the timers of the configuration.
    fn keep_sessions(&mut self, now: Instant, old: &mut Prober, from: &[Option<usize>]) {
        let Some(fast) = self.config.fast.clone() else { return };
        for entry in &mut self.sessions {
            let member = from.get(entry.member).copied().flatten();
            let same = |s: &FastSession| Some(s.member) == member && s.peer == entry.peer;
            let Some(at) = old.sessions.iter().position(same) else { continue };
            let held = |m: &Member| m.held.map(|h| h.map(|h| h.test.address));
            if member.map(|m| held(&old.members[m])) != Some(held(&self.members[entry.member])) {
                continue;
            }
            let before = old.sessions.swap_remove(at);
            let member = entry.member;
            *entry = before;
            entry.member = member;
            entry.session.set_timers(now, fast::timers(&fast));
        }
    }

    /// Tells peers that sessions end on purpose: those of members that are not in `stay`, and with
    /// peers that are not in the configuration any more.
    pub fn farewell(&mut self, now: Instant, config: &ProbeConfig, stay: impl Fn(usize) -> bool) {
        let peers = config.fast.as_ref().map_or(&[][..], |fast| &fast.peers);
        for session in &mut self.sessions {
            if !stay(session.member) || !peers.contains(&session.peer) {
                session.session.set_admin_down(now, true);
            }
        }
        self.run(now);
    }
}

fn is_same(new: &Member, before: &Member) -> bool {
    let held = |m: &Member| m.held.map(|h| h.map(|h| h.test));
    new.mac == before.mac && held(new) == held(before)
}

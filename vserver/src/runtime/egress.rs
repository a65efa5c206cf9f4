//! The way out: frames of the stacks, shaped, to the NICs and to neighbours on this
//! host.

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::ip::address::AliasId;
use weft_stack::time::Instant;

use super::core::{BURST, LOCAL_FRAMES_MAX, LOCAL_QUEUE};
use super::shares::Shares;
use super::stages::Stage;
use super::tx_queue::IN_ORDER;
use super::{Core, Nic};
use crate::demux::Target;
use crate::facts::Facts;

/// Frames taken at a time from a stack in a shared round.
const SHARED_BURST: usize = 4;
/// So many bytes taken at a time leave on the time of who sent them, not with everybody's.
const LONG_BYTES: usize = 32 << 10;

/// What has no room.
enum Full {
    /// The shaper's queue of a link.
    Lane(usize),
    Nic(usize),
}

impl Core {
    /// Polls every stack that is dirty now, once; returns whether one had frames.
    pub(super) fn run_dirty(&mut self, now: Instant) -> bool {
        let mut moved = false;
        let waiting = self.dirty.len();
        for _ in 0..waiting {
            if let Some(index) = self.dirty.pop_front() {
                if self.shares.active && !self.is_due(index) {
                    self.dirty.push_back(index);
                    continue;
                }
                self.nodes[index as usize].dirty = false;
                moved |= self.poll_node(now, index, waiting == 1) > 0;
            }
        }
        moved
    }

    /// Polls the dirty stacks of vservers that have no backlog. What they send leaves before others
    /// work theirs off.
    pub(super) fn run_light(&mut self, now: Instant) -> bool {
        let mut moved = false;
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.pop_front() else { break };
            if self.nodes[index as usize].share.waiting() > 0 || !self.is_due(index) {
                self.dirty.push_back(index);
                continue;
            }
            self.nodes[index as usize].dirty = false;
            moved |= self.poll_node(now, index, false) > 0;
        }
        moved && self.flush(now)
    }

    /// Whether a vserver may go on in this round.
    fn is_due(&mut self, index: u32) -> bool {
        let share = &mut self.nodes[index as usize].share;
        let due = self.shares.may_run(share);
        if !due {
            share.defer();
        }
        due
    }

    /// Takes events, at most a burst of frames and the next deadline from one stack; returns how
    /// many frames. Events come first, so that what services answer leaves in the same burst. The
    /// burst of a stack that is `alone` in this turn leaves before what else is to be done.
    pub(super) fn poll_node(&mut self, now: Instant, index: u32, alone: bool) -> usize {
        if index != self.shares.last {
            self.shares.changes(now, index);
        }
        if self.shares.active {
            self.book(|shares| shares.run(index));
        }
        if std::mem::take(&mut self.nodes[index as usize].overdue) {
            self.nodes[index as usize].stack.handle_timeout(now);
        }
        self.run_events(now, index);
        let room = self.room(index);
        let mut got = 0;
        if room == 0 {
            self.block(index);
        } else {
            let most = room.min(BURST);
            let mut more = true;
            while more && got < most {
                let (sent, full) = self.transmit_some(now, index, most - got);
                got += sent;
                more = full && self.shares.active && !self.is_spent(index);
                if full && !(more && got < most) {
                    self.mark_dirty(index);
                }
            }
        }
        if alone && got > 0 {
            self.flush(now);
        }
        if self.run_events(now, index) {
            // A service may have answered to what the transmit gave rise to.
            self.mark_dirty(index);
        }
        if self.mesh.count() > 1 {
            self.hand_moved(index);
        }
        self.deadlines.update(index, self.nodes[index as usize].poll_timeout());
        self.book(Shares::rest);
        got
    }

    /// Takes a burst of frames from one stack; returns how many, and whether it may have more. In shared rounds bursts are small, and long ones leave at once, on the sender's time: a
    /// few super-segments may take longer than a round is meant to.
    fn transmit_some(&mut self, now: Instant, index: u32, room: usize) -> (usize, bool) {
        let shared = self.shares.active;
        let mut tx = std::mem::take(&mut self.tx);
        tx.max = room.min(if shared { SHARED_BURST } else { BURST });
        if shared {
            let left = Shares::packets_left(&self.nodes[index as usize].share);
            tx.max = tx.max.min(left);
        }
        self.stages.start();
        let got = self.nodes[index as usize].stack.poll_transmit(now, &mut tx);
        if !self.captures.is_empty() {
            self.capture_sent(index, &tx.frames);
        }
        let mut bytes = 0;
        if shared {
            let share = &mut self.nodes[index as usize].share;
            for (_, frame) in &tx.frames {
                share.count(frame);
                bytes += frame.total_len();
            }
        }
        let before = self.stages.sent();
        for (alias, frame) in tx.frames.drain(..) {
            self.stages.sends(&frame);
            self.emit(now, index, alias, frame);
        }
        self.stages.lap(Stage::Output, self.stages.sent() - before);
        let full = got >= tx.max;
        self.tx = tx;
        if bytes >= LONG_BYTES {
            self.flush(now);
        }
        if !full && self.nodes[index as usize].stack.wants_transmit() {
            // It found no free frame.
            self.starve(index);
        }
        (got, full)
    }

    /// Frames that every NIC of the vserver's links has room for, and the local queue.
    pub(super) fn room(&mut self, index: u32) -> usize {
        let mut room = LOCAL_QUEUE.saturating_sub(self.local.len());
        let shaped = self.qos.is_active();
        for link in &self.nodes[index as usize].links {
            let lane = self.links[*link].lane;
            if shaped && self.qos.shapes(lane) {
                room = room.min(self.qos.room(lane, index));
                continue;
            }
            for nic in &self.links[*link].nics {
                let nic = &mut self.nics[*nic];
                let free = if let Some(worker) = nic.via {
                    self.mesh.tx_room(worker)
                } else {
                    if nic.room() < BURST {
                        nic.transmit(&mut self.drops);
                    }
                    nic.room_of(index)
                };
                room = room.min(free);
            }
        }
        room
    }

    /// Frames that a vserver may send to a NIC.
    fn room_for(&mut self, nic: usize, index: u32) -> usize {
        let nic = &self.nics[nic];
        nic.via.map_or_else(|| nic.room_of(index), |worker| self.mesh.tx_room(worker))
    }

    /// Frames that every NIC of a link takes.
    fn link_room(&mut self, link: usize) -> usize {
        let (nics, mesh) = (&self.nics, &mut self.mesh);
        let room = |nic: &usize| {
            let nic = &nics[*nic];
            nic.via.map_or_else(|| nic.room(), |worker| mesh.tx_room(worker))
        };
        self.links[link].nics.iter().map(room).min().unwrap_or(0)
    }

    /// What a vserver waits for, if there is no room: the lane of a link, or a NIC.
    fn full(&mut self, index: u32) -> Option<Full> {
        for at in 0..self.nodes[index as usize].links.len() {
            let link = self.nodes[index as usize].links[at];
            let lane = self.links[link].lane;
            if self.qos.is_active() && self.qos.shapes(lane) {
                if self.qos.room(lane, index) == 0 {
                    return Some(Full::Lane(lane));
                }
                continue;
            }
            for below in 0..self.links[link].nics.len() {
                let nic = self.links[link].nics[below];
                if self.room_for(nic, index) == 0 {
                    return Some(Full::Nic(nic));
                }
            }
        }
        None
    }

    /// Its NIC takes no more: not polled until it drained. Frames stay in the stack, whose own
    /// limit is the backpressure that applications see.
    fn block(&mut self, index: u32) {
        let Some(full) = self.full(index) else { return self.mark_dirty(index) };
        let node = &mut self.nodes[index as usize];
        if self.qos.is_active() {
            node.stack.spare_frames();
        }
        if node.blocked {
            return;
        }
        node.blocked = true;
        match full {
            Full::Lane(link) => self.qos.await_room(link, index),
            Full::Nic(nic) => self.nics[nic].blocked.push(index),
        }
    }

    /// Polled again when frames came back to the pool, or after the retry time.
    fn starve(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if !node.starved {
            node.starved = true;
            self.starved.push(index);
        }
    }

    /// Sent frames came back, or time has passed: whoever found no free frame tries again.
    pub(super) fn feed(&mut self) {
        for index in std::mem::take(&mut self.starved) {
            self.nodes[index as usize].starved = false;
            self.mark_dirty(index);
        }
    }

    fn emit(&mut self, now: Instant, sender: u32, alias: AliasId, frame: Frame) {
        let link = self.aliases[alias.0 as usize].link();
        self.targets.clear();
        let only_here = self.demux.local(link, frame.data(), sender, &mut self.targets);
        if self.mesh.count() > 1 {
            return self.emit_across(now, link, (sender, alias), frame, only_here);
        }
        for target in &self.targets {
            if self.local.len() >= LOCAL_FRAMES_MAX {
                self.drops.count(DropReason::OutQueueFull);
                continue;
            }
            // Linear, so that the payload no longer belongs to the sender's buffer.
            self.local.push_back((*target, frame.to_heap()));
        }
        if !only_here {
            self.send_out(now, link, (sender, alias), frame);
        } else if self.targets.is_empty() {
            self.drops.count(DropReason::DemuxNoVserver);
        }
    }

    /// A vserver's frame for a link, by way of the shaper if the link has one.
    #[inline]
    pub(super) fn send_out(
        &mut self,
        now: Instant,
        link: usize,
        (vserver, alias): (u32, AliasId),
        frame: Frame,
    ) {
        let lane = self.links[link].lane;
        if self.qos.is_active() && self.qos.shapes(lane) {
            let of = Target { alias, vserver };
            // What is not IP keeps the link alive and is little: it does not wait.
            if let Some(facts) = Facts::of(&frame, self.links[link].ethernet, of) {
                if self.qos.enqueue(now, lane, &facts, frame).is_err() {
                    let stack = &mut self.nodes[vserver as usize].stack;
                    stack.lose_sent(DropReason::QosQueueFull);
                }
                return;
            }
        }
        self.give(link, vserver, frame);
    }

    /// Moves what may leave from the shaper to the NICs.
    fn unshape(&mut self, now: Instant) -> bool {
        let mut moved = false;
        for link in 0..self.links.len() {
            while self.qos.waits(link) && self.link_room(link) > 0 {
                let Some((alias, frame)) = self.qos.dequeue(now, link) else { break };
                let link = self.aliases[alias.0 as usize].link();
                self.give(link, IN_ORDER, frame);
                moved = true;
            }
        }
        self.count_lost();
        while let Some(index) = self.qos.take_ready() {
            self.nodes[index as usize].blocked = false;
            self.mark_dirty(index);
            moved = true;
        }
        moved
    }

    /// When the shaper has something for a link with room.
    pub(super) fn shaped_until(&self) -> Option<Instant> {
        if !self.qos.is_active() {
            return None;
        }
        let has_room = |nic: &usize| self.nics[*nic].via.is_some() || self.nics[*nic].room() > 0;
        self.qos.next_deadline(|link| self.links[link].nics.iter().all(has_room))
    }

    /// Gives the devices what waits and ends the batch; returns whether frames moved.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        let shaped = self.qos.is_active() && self.unshape(now);
        if !self.nics.iter().any(Nic::is_unsettled) {
            return shaped;
        }
        self.stages.start();
        let moved = self.flush_nics() | shaped;
        self.stages.lap(Stage::Tx, self.stages.sent());
        moved
    }

    fn flush_nics(&mut self) -> bool {
        let mut moved = false;
        for i in 0..self.nics.len() {
            let nic = &mut self.nics[i];
            moved |= nic.transmit(&mut self.drops) > 0;
            nic.flush();
            if nic.blocked.is_empty() {
                continue;
            }
            for index in std::mem::take(&mut nic.blocked) {
                if self.room_for(i, index) > 0 {
                    self.nodes[index as usize].blocked = false;
                    self.mark_dirty(index);
                    moved = true;
                } else {
                    self.nics[i].blocked.push(index);
                }
            }
        }
        moved
    }
}

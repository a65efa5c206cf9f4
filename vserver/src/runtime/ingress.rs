//! The way in: frames of a queue, sorted by receiver, policed, admitted, merged, to the stacks.

use weft_drivers::ticks;
use weft_shim::encap::Encap;
use weft_stack::drop::DropReason;
use weft_stack::frame::{Frame, prefetch};
use weft_stack::link::gro::Takes;
use weft_stack::time::Instant;

use super::Core;
use super::core::BURST;
use super::handover::is_to_many;
use super::node::Node;
use super::shares::Shares;
use super::stages::Stage;
use crate::demux::Target;
use crate::facts::Facts;
use crate::qos;

/// A stack is asked for so many frames before its own is handled.
const PREFETCH_AHEAD: usize = 4;
/// Frames of one NIC that end their wait in one turn.
const RELEASED: usize = 256;
/// Bursts taken from a queue in one turn; less than a queue has, which is refilled after the turn.
const BURSTS_MAX: usize = 8;

/// What a vserver takes merged.
fn units_of(node: &Node) -> Takes {
    let Some(shim) = node.stack.path().shim() else { return Takes::Units };
    Takes::Rewritten { udp_port: shim.encap().map(Encap::own_port) }
}

impl Core {
    /// Takes a burst from a queue; several if vservers share the round, so that what is for one does
    /// not wait behind what is for another.
    pub(super) fn receive(&mut self, now: Instant, nic: usize, port: usize) -> usize {
        let mut all = 0;
        for _ in 0..BURSTS_MAX {
            let got = self.receive_burst(now, nic, port);
            all += got;
            if got < BURST || !self.shares.active {
                break;
            }
        }
        all
    }

    fn receive_burst(&mut self, now: Instant, nic: usize, port: usize) -> usize {
        let mut rx = std::mem::take(&mut self.rx);
        let port = &mut self.nics[nic].ports[port];
        self.stages.start();
        let got = port.receive(&mut rx, BURST);
        let packets = self.stages.packets(&rx);
        self.stages.lap(Stage::Rx, packets);
        if got == 0 {
            self.rx = rx;
            return 0;
        }
        // The frames' slots went up with them; the next flush refills the ring.
        port.unflushed = true;
        self.poll.account.frames_received += got as u64;
        for frame in rx.drain(..) {
            self.sort(now, nic, frame);
        }
        self.rx = rx;
        self.stages.lap(Stage::Demux, packets);
        self.deliver(now, nic);
        got
    }

    /// Finds the receivers of a frame that a queue of this worker gave, or its worker.
    fn sort(&mut self, now: Instant, nic: usize, mut frame: Frame) {
        let Some(link) = self.climb(nic, &mut frame) else { return };
        if let Some(tap) = &self.dhcp
            && tap.take(link, frame.data(), frame.meta.checksum)
        {
            return;
        }
        if self.mesh.count() == 1 {
            self.classify(now, link, frame);
        } else if let Some(frame) = self.keep(now, link, frame) {
            self.classify(now, link, frame);
        }
    }

    /// Finds the receivers of a frame; it waits in `burst`.
    pub(super) fn classify(&mut self, now: Instant, link: usize, frame: Frame) {
        self.targets.clear();
        if let Err(reason) = self.demux.classify(link, frame.data(), &mut self.targets) {
            return self.drops.count(reason);
        }
        if self.pins.is_empty() {
            self.queue(now, frame);
        } else if let Some(frame) = self.sift(link, frame) {
            self.queue(now, frame);
        }
    }

    /// The same for a frame brought home by another worker.
    pub(super) fn classify_home(&mut self, now: Instant, link: usize, frame: Frame) {
        self.targets.clear();
        let found = self.demux.classify(link, frame.data(), &mut self.targets);
        self.keep_at_home(link, &frame);
        if self.targets.is_empty() {
            return self.lose_here(link, &frame, found.err());
        }
        self.queue(now, frame);
    }

    /// A frame of another worker, for nobody here. A copy of one to many is no loss: whoever gave it
    /// did not know who is among them.
    pub(super) fn lose_here(&mut self, link: usize, frame: &Frame, why: Option<DropReason>) {
        if !is_to_many(frame.data(), self.links[link].ethernet) {
            self.drops.count(why.unwrap_or(DropReason::DemuxNoVserver));
        }
    }

    /// A frame for `self.targets` waits in `burst`.
    #[inline]
    fn queue(&mut self, now: Instant, frame: Frame) {
        let watched = self.is_guarded();
        if let Some((last, more)) = self.targets.split_last() {
            for target in more {
                self.burst.push((*target, Some(frame.to_heap())));
            }
            self.burst.push((*last, Some(frame)));
        }
        if watched {
            self.admit_last(now, self.targets.len());
        }
    }

    /// Whether any vserver has a policy for what arrives.
    #[inline]
    fn is_guarded(&self) -> bool {
        self.qos.is_active()
    }

    /// Policing of the last frames of `burst`, before merging makes of many packets one.
    fn admit_last(&mut self, now: Instant, count: usize) {
        let first = self.burst.len() - count;
        let mut fresh = self.burst.split_off(first);
        for (to, frame) in fresh.drain(..) {
            if let Some(frame) = frame.and_then(|f| self.admit(now, to, f)) {
                self.burst.push((to, Some(frame)));
            }
        }
    }

    /// What QoS lets through of what arrives for a vserver. Access rules are asked by the stack, of
    /// the first packet of a flow only.
    fn admit(&mut self, now: Instant, to: Target, frame: Frame) -> Option<Frame> {
        if !self.qos.polices(to) {
            return Some(frame);
        }
        let ethernet = self.links[self.aliases[to.alias.0 as usize].link()].ethernet;
        let Some(facts) = Facts::of(&frame, ethernet, to) else { return Some(frame) };
        self.police(now, &facts, frame)
    }

    /// What is within its rate; what is over it waits or is lost.
    fn police(&mut self, now: Instant, facts: &Facts, frame: Frame) -> Option<Frame> {
        match self.qos.police(now, facts, frame) {
            qos::Verdict::Pass(frame) => Some(frame),
            qos::Verdict::Wait => None,
            qos::Verdict::Drop(frame) => {
                let stack = &mut self.nodes[facts.vserver as usize].stack;
                stack.lose_received(&frame, DropReason::QosPoliced);
                None
            }
        }
    }

    /// Received frames that waited for their turn go on.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        let mut work = false;
        for link in 0..self.links.len() {
            for _ in 0..RELEASED {
                let Some((to, frame)) = self.qos.release(now, link) else { break };
                work = true;
                self.burst.push((to, Some(frame)));
            }
            if !self.burst.is_empty() {
                self.deliver_link(now, link);
            }
        }
        self.count_lost();
        work
    }

    /// What queues of QoS lost is the vservers' loss.
    pub(super) fn count_lost(&mut self) {
        while let Some(lost) = self.qos.take_lost() {
            let Some(node) = self.nodes.get_mut(lost.vserver as usize) else { continue };
            match lost.way {
                qos::Way::Send => node.stack.lose_sent(DropReason::QosQueueFull),
                qos::Way::Receive => node.stack.lose_received(&lost.frame, DropReason::QosPoliced),
            }
        }
    }

    /// The same for a burst that came by any NIC of a link; what holds for its first holds for all.
    pub(super) fn deliver_link(&mut self, now: Instant, link: usize) {
        let nic = self.links[link].nics.first().copied();
        self.deliver(now, nic.unwrap_or(0));
    }

    /// Hands the burst to its receivers, what can be merged as one.
    pub(super) fn deliver(&mut self, now: Instant, nic: usize) {
        let mut burst = std::mem::take(&mut self.burst);
        if let Some(facts) = self.nics[nic].merging {
            let (demux, nodes, shims) = (&self.demux, &self.nodes, self.shims);
            let takes = |to: &Target| match nodes.get(to.vserver as usize) {
                _ if demux.forwards(*to) => Takes::Frames,
                // Without a question to the stack, which is not in the cache yet.
                Some(node) if shims => units_of(node),
                _ => Takes::Units,
            };
            self.stages.start();
            let merged = self.gro.merge(&mut burst, facts, takes);
            self.stages.lap(Stage::Gro, burst.len() as u64);
            self.nics[nic].merged.merge(&merged);
        }
        let mut units = 0;
        for i in 0..burst.len() {
            self.prefetch(&burst, i);
            let target = burst[i].0;
            // `None`: merged into one before.
            let Some(frame) = burst[i].1.take() else { continue };
            units += 1;
            if !self.takes(now, target, &frame) {
                self.hold(target, frame);
                continue;
            }
            if let Some(packets) = self.stages.sample(units - 1, &frame) {
                if !self.captures.is_empty() {
                    self.capture_received(target, &frame);
                }
                let stack = &mut self.nodes[target.vserver as usize].stack;
                let spent = stack.handle_frame_timed(now, target.alias, frame, ticks::now);
                self.stages.sampled(packets, spent);
                self.mark_dirty(target.vserver);
            } else {
                self.hand_over(now, target, frame);
            }
        }
        burst.clear();
        self.burst = burst;
        self.book(Shares::rest);
    }

    /// Whether a vserver may have a frame in this round.
    #[inline]
    fn takes(&mut self, now: Instant, to: Target, frame: &Frame) -> bool {
        if to.vserver != self.shares.last {
            self.shares.changes(now, to.vserver);
        }
        !self.shares.active || self.takes_in_turn(to.vserver, frame)
    }

    fn takes_in_turn(&mut self, vserver: u32, frame: &Frame) -> bool {
        self.book(|shares| shares.run(vserver));
        let share = &mut self.nodes[vserver as usize].share;
        let takes = share.waiting() == 0 && self.shares.may_run(share);
        if takes {
            share.count(frame);
        }
        takes
    }

    /// Books the time of who ran last.
    #[inline]
    pub(super) fn book(&mut self, next: impl FnOnce(&mut Shares) -> Option<(u32, u64)>) {
        if let Some((before, ticks)) = next(&mut self.shares) {
            self.shares.book(&mut self.nodes[before as usize].share, ticks);
        }
    }

    /// A frame waits for another round, behind those of its vserver that do.
    fn hold(&mut self, to: Target, frame: Frame) {
        let node = &mut self.nodes[to.vserver as usize];
        let first = node.share.waiting() == 0;
        match node.share.wait(to.alias, frame) {
            Ok(()) if first => self.shares.backlog.push_back(to.vserver),
            Ok(()) => {}
            Err(frame) => node.stack.lose_received(&frame, DropReason::InputQueueFull),
        }
    }

    /// Gives every vserver with frames that wait its part of the round.
    pub(super) fn run_backlog(&mut self, now: Instant) -> bool {
        let mut work = false;
        for _ in 0..self.shares.backlog.len() {
            let Some(vserver) = self.shares.backlog.pop_front() else { break };
            self.book(|shares| shares.run(vserver));
            let mut share = &mut self.nodes[vserver as usize].share;
            while let Some((alias, frame)) = self.shares.next_waiting(share) {
                share.count(&frame);
                self.hand_over(now, Target { alias, vserver }, frame);
                share = &mut self.nodes[vserver as usize].share;
                work = true;
            }
            if share.waiting() > 0 {
                self.shares.backlog.push_back(vserver);
            }
        }
        self.book(Shares::rest);
        work
    }

    /// With many vservers each frame of a burst finds its stack in no cache: the stacks of frames
    /// that come soon are asked for. A burst for one vserver pays a comparison.
    #[inline]
    fn prefetch(&self, burst: &[(Target, Option<Frame>)], at: usize) {
        let ahead = at + PREFETCH_AHEAD;
        let first = if at == 0 { 1 } else { ahead };
        for i in first..=ahead {
            if let Some((to, Some(frame))) = burst.get(i)
                && burst[i - 1].0.vserver != to.vserver
            {
                let node = &self.nodes[to.vserver as usize];
                prefetch(&node.dirty);
                prefetch(&node.links);
                node.share.prefetch();
                node.stack.prefetch(frame);
            }
        }
        if let [(here, _), (next, _), ..] = burst[at..]
            && here.vserver != next.vserver
        {
            std::hint::black_box(self.nodes[next.vserver as usize].stack.touch());
        }
    }

    pub(super) fn hand_over(&mut self, now: Instant, to: Target, frame: Frame) {
        if !self.captures.is_empty() {
            self.capture_received(to, &frame);
        }
        self.nodes[to.vserver as usize].stack.handle_frame(now, to.alias, frame);
        self.mark_dirty(to.vserver);
    }

    pub(super) fn run_local(&mut self, now: Instant) -> bool {
        let waiting = self.local.len();
        for _ in 0..waiting {
            let Some((target, frame)) = self.local.pop_front() else { break };
            let frame =
                if self.is_guarded() { self.admit(now, target, frame) } else { Some(frame) };
            match frame {
                Some(frame) if self.takes(now, target, &frame) => {
                    self.hand_over(now, target, frame);
                }
                Some(frame) => self.hold(target, frame),
                None => {}
            }
        }
        self.book(Shares::rest);
        waiting > 0
    }
}

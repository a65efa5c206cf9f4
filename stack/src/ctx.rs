//! What every layer needs and none owns: time, randomness, counters, timers, the way out.

use std::collections::VecDeque;

use crate::admission::Admission;
use crate::drop::DropReason;
use crate::frame::{Frame, FramePool};
use crate::ip::address::AliasId;
use crate::lower::OutPacket;
use crate::rng::{Rng, Secrets};
use crate::shard::Shard;
use crate::socket::Event;
use crate::stack::Limits;
use crate::stats::Mib;
use crate::time::Instant;
use crate::timer_wheel::TimerWheel;

/// Who set a timer, and for what. Small and `Copy`: the wheel holds one per pending timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A TCP connection's next deadline, by slot and generation.
    Tcp { index: u32, generation: u32 },
    /// The neighbour table: one timer for its earliest deadline.
    Neighbour,
    /// DAD, router solicitation, lifetimes of addresses, prefixes and routers.
    Ndp,
    /// IGMP and MLD reports.
    Membership,
    /// Reassembly timeouts.
    Reassembly,
}

/// Frames on their way out and events on their way up; part of [`Ctx`] because every layer may
/// produce them.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Link frames ready for the device. Bounded by [`Limits::out_queue`].
    pub(crate) frames: VecDeque<(AliasId, Frame)>,
    /// Packets from this stack to itself (IP header at the front), taken by `Stack`.
    pub(crate) looped: VecDeque<(AliasId, Frame)>,
    /// Address and group events. Socket events are kept as a dirty list by the socket tables.
    pub(crate) events: VecDeque<Event>,
    /// Packets of other shards: see [`Moved`].
    pub(crate) moved: VecDeque<Moved>,
    /// What IP has to say, on its way through a path layer that maps packets; emptied by `Stack`.
    pub(crate) mapped: VecDeque<(OutPacket, Frame)>,
    /// Something was put there, or into [`crate::ip::Ip::added`]: one question instead of two, asked
    /// several times a packet.
    pub(crate) for_path: bool,
    /// While transports send into a burst: how long `frames` may grow.
    pub(crate) burst: Option<usize>,
    /// While a frame is timed.
    pub(crate) probe: Option<Probe>,
}

/// Notes when a packet reaches its transport.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) clock: fn() -> u64,
    pub(crate) transport_at: Option<u64>,
}

impl Outbox {
    /// A packet leaves IP for its transport.
    #[inline]
    pub(crate) fn reached_transport(&mut self) {
        if let Some(probe) = &mut self.probe
            && probe.transport_at.is_none()
        {
            probe.transport_at = Some((probe.clock)());
        }
    }
}

/// A packet (IP header at the front) that turned out to be another shard's: reassembled here, or
/// sent by the vserver to itself.
#[derive(Debug)]
pub struct Moved {
    /// Whose it is.
    pub to: u16,
    /// The alias it came by.
    pub alias: AliasId,
    /// It was sent by the vserver to itself.
    pub looped: bool,
    /// The packet.
    pub frame: Frame,
}

/// Borrowed by every call into a layer.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Instant,
    pub(crate) rng: &'a mut Rng,
    pub(crate) secrets: &'a Secrets,
    pub(crate) limits: &'a Limits,
    pub(crate) shard: Shard,
    pub(crate) admission: &'a mut Admission,
    pub(crate) mib: &'a mut Mib,
    pub(crate) pool: &'a FramePool,
    pub(crate) timers: &'a mut TimerWheel<Timer>,
    pub(crate) outbox: &'a mut Outbox,
}

/// What became of a received frame (or packet): exactly one of these, counted once, by `Stack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Fate {
    Delivered,
    Forwarded,
    Consumed,
    Dropped(DropReason),
}

impl Ctx<'_> {
    /// Counts a packet lost on the way out.
    pub(crate) fn drop_out(&mut self, reason: DropReason) {
        self.mib.frames.tx_dropped += 1;
        self.mib.drops.count(reason);
    }

    /// Leaves a packet of IP's own to the path layer.
    pub(crate) fn leave_to_path(&mut self, packet: OutPacket, frame: Frame) {
        if self.outbox.mapped.len() >= self.limits.out_queue {
            return self.drop_out(DropReason::OutQueueFull);
        }
        self.outbox.mapped.push_back((packet, frame));
        self.outbox.for_path = true;
    }

    /// Leaves a packet to the shard that owns it.
    pub(crate) fn move_to(&mut self, to: u16, alias: AliasId, looped: bool, frame: Frame) {
        if self.outbox.moved.len() >= self.limits.out_queue {
            return self.drop_out(DropReason::OutQueueFull);
        }
        self.outbox.moved.push_back(Moved { to, alias, looped, frame });
    }

    /// Tells whoever runs several shards that addresses of an alias are not what they were.
    pub(crate) fn addresses_changed(&mut self, alias: AliasId) {
        if self.shard.has_peers() && self.shard.is_home() {
            let event = Event::AddressesChanged { alias };
            if self.outbox.events.back() != Some(&event) {
                self.outbox.events.push_back(event);
            }
        }
    }

    /// Room in the transmit queues.
    pub(crate) fn out_room(&self) -> usize {
        let limit = self.limits.out_queue;
        let frames = limit.min(self.outbox.burst.unwrap_or(usize::MAX));
        let frames = frames.saturating_sub(self.outbox.frames.len());
        frames.min(limit.saturating_sub(self.outbox.looped.len()))
    }
}

/// A [`Ctx`] for tests of single layers.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) struct World {
        pub(crate) now: Instant,
        pub(crate) rng: Rng,
        pub(crate) secrets: Secrets,
        pub(crate) limits: Limits,
        pub(crate) shard: Shard,
        pub(crate) admission: Admission,
        pub(crate) mib: Mib,
        pub(crate) pool: FramePool,
        pub(crate) timers: TimerWheel<Timer>,
        pub(crate) outbox: Outbox,
    }

    impl World {
        pub(crate) fn new() -> World {
            let mut rng = Rng::from_u64(1);
            let secrets = Secrets::generate(&mut rng);
            World {
                admission: Admission::new(&secrets),
                now: Instant::from_millis(1_000),
                rng,
                secrets,
                limits: Limits::default(),
                shard: Shard::ONLY,
                mib: Mib::default(),
                pool: FramePool::heap(256, 2048),
                timers: TimerWheel::default(),
                outbox: Outbox::default(),
            }
        }

        pub(crate) fn ctx(&mut self) -> Ctx<'_> {
            Ctx {
                now: self.now,
                rng: &mut self.rng,
                secrets: &self.secrets,
                limits: &self.limits,
                shard: self.shard,
                admission: &mut self.admission,
                mib: &mut self.mib,
                pool: &self.pool,
                timers: &mut self.timers,
                outbox: &mut self.outbox,
            }
        }

        /// The oldest frame for the device.
        pub(crate) fn sent(&mut self) -> Option<Vec<u8>> {
            self.outbox.frames.pop_front().map(|(_, f)| f.to_heap().data().to_vec())
        }

        pub(crate) fn all_sent(&mut self) -> Vec<Vec<u8>> {
            core::iter::from_fn(|| self.sent()).collect()
        }

        pub(crate) fn events(&mut self) -> Vec<Event> {
            self.outbox.events.drain(..).collect()
        }
    }
}

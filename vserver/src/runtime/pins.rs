//! Vservers whose flows are all on one worker, their *home*: those with a multipath shim, whose
//! contexts are in the memory of one stack.
//!
//! The owner of a packet is then not a function of the packet alone, so whoever has a frame looks up
//! its receiver first. A host without such vservers pays one branch for that, and a frame that
//! arrives at the owner of its flow does so anywhere. Shard 0 speaks for these vservers as for all
//! others; `stack/src/shard.rs` has the rule.

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::shard::{Owner, pinned_owner};
use weft_stack::time::Instant;

use super::Core;
use super::handover::is_to_many;
use super::mesh::Message;

/// No home: the flows are spread.
const SPREAD: u16 = u16::MAX;

/// Where vservers are at home.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins {
    /// By vserver.
    homes: Vec<u16>,
    /// Vservers at home, by worker.
    at: Vec<usize>,
}

impl Pins {
    /// Whether no vserver has a home.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// The home of a vserver.
    #[inline]
    pub(crate) fn home(&self, vserver: u32) -> Option<u16> {
        self.homes.get(vserver as usize).copied().filter(|home| *home != SPREAD)
    }

    /// The worker with the fewest vservers at home.
    pub(crate) fn emptiest(&self, workers: usize) -> u16 {
        let load = |w: &usize| self.at.get(*w).copied().unwrap_or(0);
        (0..workers).min_by_key(load).unwrap_or(0) as u16
    }

    /// A vserver has this home from now on, or none.
    pub(crate) fn set(&mut self, vserver: u32, home: Option<u16>) {
        let slot = vserver as usize;
        if let Some(old) = self.home(vserver) {
            self.at[usize::from(old)] -= 1;
        }
        if self.homes.len() <= slot && home.is_some() {
            self.homes.resize(slot + 1, SPREAD);
        }
        if let Some(place) = self.homes.get_mut(slot) {
            *place = home.unwrap_or(SPREAD);
        }
        if let Some(home) = home.map(usize::from) {
            self.at.resize(self.at.len().max(home + 1), 0);
            self.at[home] += 1;
        }
        if self.at.iter().all(|n| *n == 0) {
            *self = Pins::default();
        }
    }

    /// Workers that are somebody's home.
    fn homes(&self) -> impl Iterator<Item = u16> + '_ {
        self.at.iter().enumerate().filter(|(_, n)| **n > 0).map(|(worker, _)| worker as u16)
    }
}

impl Core {
    /// The worker of a frame, for a vserver that is at home on `home`.
    fn owner_at(&self, link: usize, frame: &Frame, home: u16) -> Owner {
        pinned_owner(frame.data(), self.links[link].ethernet, home)
    }

    fn is_mine(&self, owner: Owner) -> bool {
        owner == Owner::Shard(self.mesh.me() as u16)
    }

    /// Workers that have to see a frame to many, because vservers are at home there that may be
    /// among them.
    fn homes_of(&self, link: usize, frame: &Frame) -> Vec<usize> {
        let mut workers: Vec<usize> = self
            .pins
            .homes()
            .filter_map(|home| match self.owner_at(link, frame, home) {
                Owner::Shard(worker) => Some(worker.into()),
                Owner::All => None,
            })
            .collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// To a home, for a vserver or for many; what has no room there leaves some to other vservers.
    fn send_home(&mut self, worker: usize, whose: Option<u32>, message: Message) {
        if !self.mesh.send_home(worker, whose, message) {
            self.drops.count(DropReason::HomeFull);
        }
    }

    fn hand_home(&mut self, worker: usize, vserver: u32, link: usize, frame: Frame) {
        self.mesh.stats.home += 1;
        self.send_home(worker, Some(vserver), Message::Home { link, frame });
    }

    /// A frame that arrived here, whose flow is on `worker` unless its vserver has a home; `Some`:
    /// it is for this one.
    pub(super) fn keep_or_send_home(
        &mut self,
        now: Instant,
        link: usize,
        frame: Frame,
        worker: usize,
    ) -> Option<Frame> {
        let me = self.mesh.me();
        if is_to_many(frame.data(), self.links[link].ethernet) {
            for home in self.homes_of(link, &frame) {
                self.mesh.stats.copies += 1;
                let copy = frame.to_heap();
                if home == me {
                    self.classify_home(now, link, copy);
                } else {
                    self.send_home(home, None, Message::Home { link, frame: copy });
                }
            }
        } else if worker != me {
            // One that is kept is looked up anyway.
            self.targets.clear();
            let known = self.demux.classify(link, frame.data(), &mut self.targets).is_ok();
            if let [target] = self.targets[..]
                && known
                && let Some(home) = self.pins.home(target.vserver)
                && let Owner::Shard(worker) = self.owner_at(link, &frame, home)
            {
                if usize::from(worker) == me {
                    return Some(frame);
                }
                self.hand_home(worker.into(), target.vserver, link, frame);
                return None;
            }
        }
        if worker == me {
            return Some(frame);
        }
        self.hand_arrived(worker, link, frame);
        None
    }

    /// Takes those from `self.targets` that have their home elsewhere; a frame to them alone goes
    /// there. `None`: nobody is left.
    pub(super) fn sift(&mut self, link: usize, frame: Frame) -> Option<Frame> {
        if self.targets.iter().all(|t| self.pins.home(t.vserver).is_none()) {
            return Some(frame);
        }
        // Whoever had it first sent copies home.
        let to_many = is_to_many(frame.data(), self.links[link].ethernet);
        let mut away: Option<(usize, u32)> = None;
        let mut kept = 0;
        for i in 0..self.targets.len() {
            let target = self.targets[i];
            let owner = self.pins.home(target.vserver).map(|h| self.owner_at(link, &frame, h));
            match owner {
                None | Some(Owner::All) => {}
                Some(owner) if self.is_mine(owner) && !to_many => {}
                Some(Owner::Shard(_)) if to_many => continue,
                Some(Owner::Shard(worker)) => {
                    // Directed broadcasts of a link without addresses have several.
                    if let Some((before, whose)) = away.filter(|a| a.0 != usize::from(worker)) {
                        self.hand_home(before, whose, link, frame.to_heap());
                    }
                    away = Some((worker.into(), target.vserver));
                    continue;
                }
            }
            self.targets[kept] = target;
            kept += 1;
        }
        self.targets.truncate(kept);
        match away {
            Some((worker, whose)) if kept == 0 => self.hand_home(worker, whose, link, frame),
            Some((worker, whose)) => {
                self.hand_home(worker, whose, link, frame.to_heap());
                return Some(frame);
            }
            None if kept > 0 => return Some(frame),
            None => {}
        }
        None
    }

    /// Keeps those of `self.targets` that a frame brought home is for.
    pub(super) fn keep_at_home(&mut self, link: usize, frame: &Frame) {
        let mut targets = std::mem::take(&mut self.targets);
        targets.retain(|t| {
            let home = self.pins.home(t.vserver);
            home.is_some_and(|home| self.is_mine(self.owner_at(link, frame, home)))
        });
        self.targets = targets;
    }

    /// Keeps those of `self.targets` that a frame of another worker is for by its flow.
    pub(super) fn keep_spread(&mut self, link: usize, frame: &Frame) {
        if self.pins.is_empty() || self.owner(link, frame) == Owner::All {
            return;
        }
        let pins = &self.pins;
        self.targets.retain(|t| pins.home(t.vserver).is_none());
    }

    /// A frame of a vserver, for those in `self.targets` that have a home and for others of its
    /// group that do; leaves the others there. Whether there was somebody.
    pub(super) fn emit_home(&mut self, link: usize, sender: u32, frame: &Frame) -> bool {
        if self.owner(link, frame) == Owner::All {
            return false;
        }
        let to_many = is_to_many(frame.data(), self.links[link].ethernet);
        let whose = self.targets.first().filter(|_| !to_many).map(|t| t.vserver);
        let homes = if to_many {
            self.homes_of(link, frame)
        } else {
            let with_home = self.targets.iter().filter_map(|t| self.pins.home(t.vserver));
            let owners = with_home.filter_map(|home| match self.owner_at(link, frame, home) {
                Owner::Shard(worker) => Some(usize::from(worker)),
                Owner::All => None,
            });
            let mut homes: Vec<usize> = owners.collect();
            homes.sort_unstable();
            homes.dedup();
            homes
        };
        if homes.is_empty() {
            return false;
        }
        let all = self.targets.clone();
        for home in &homes {
            if *home == self.mesh.me() {
                self.keep_at_home(link, frame);
                self.push_local(frame);
                self.targets.clone_from(&all);
            } else {
                self.mesh.stats.home += 1;
                let frame = frame.to_heap();
                self.send_home(*home, whose, Message::HomeLocal { link, sender, frame });
            }
        }
        self.keep_spread(link, frame);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::SocketAddr;

    use weft_stack::ip::address::AliasId;
    use weft_stack::shard::frame_owner;
    use weft_stack::time::Instant;

    use crate::host::build::standing_still;
    use crate::runtime::mesh::{RING, RING_NOT_HOME};

    /// UDP to `to`, padded.
    fn frame(to: SocketAddr) -> Frame {
        let SocketAddr::V4(to) = to else { panic!("IPv4") };
        let mut bytes =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17];
        bytes.extend([0, 0, 10, 0, 0, 9]);
        bytes.extend(to.ip().octets());
        bytes.extend(7u16.to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        bytes.extend([0; 16]);
        Frame::from_heap(0, &bytes)
    }

    #[test]
    fn a_home_that_does_not_keep_up_loses_its_own_frames_and_not_those_of_flows() {
        let text = "[workers]\ncount = 3\n[nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
                    [alias.data0]\nover = \"eth0\"\n";
        let (mut cores, _far) = standing_still(text);
        let addresses: [SocketAddr; 3] =
            ["10.0.0.1:1000", "10.0.0.2:1000", "10.0.0.3:1000"].map(|a| a.parse().unwrap());
        for core in &mut cores {
            for (vserver, addr) in (0..).zip(addresses) {
                core.demux.add_address(AliasId(0), addr.ip(), vserver);
            }
            core.pins.set(0, Some(1));
            core.pins.set(2, Some(1));
        }
        // Whatever the flow: worker 0 keeps nothing for vserver 0, and of vserver 1 what is its own.
        let (mut flows, mut kept) = (0, 0);
        for port in 0..RING as u16 {
            let mut to = addresses[0];
            to.set_port(port);
            cores[0].targets.clear();
            if let Some(frame) = cores[0].keep(Instant::ZERO, 0, frame(to)) {
                // The look-up that is made anyway finds the home.
                cores[0].classify(Instant::ZERO, 0, frame);
            }
        }
        assert!(cores[0].burst.is_empty(), "nothing stayed");
        // Three quarters of what homes may have.
        let most = (RING - RING_NOT_HOME) * 3 / 4;
        assert_eq!(cores[0].drops.get(DropReason::HomeFull), (RING - most) as u64);
        assert_eq!(cores[1].mesh.waiting(0), most);
        // So that another vserver with the same home is not shut out.
        if let Some(frame) = cores[0].keep(Instant::ZERO, 0, frame(addresses[2])) {
            cores[0].classify(Instant::ZERO, 0, frame);
        }
        assert_eq!(cores[0].drops.get(DropReason::HomeFull), (RING - most) as u64);
        assert_eq!(cores[1].mesh.waiting(0), most + 1);
        for port in 0..300 {
            let mut to = addresses[1];
            to.set_port(port);
            match frame_owner(frame(to).data(), true, 3) {
                Owner::Shard(0) => {
                    let frame = cores[0].keep(Instant::ZERO, 0, frame(to)).unwrap();
                    cores[0].classify(Instant::ZERO, 0, frame);
                    kept += 1;
                }
                Owner::Shard(worker) => {
                    assert!(cores[0].keep(Instant::ZERO, 0, frame(to)).is_none());
                    flows += usize::from(worker == 1);
                }
                Owner::All => panic!("discovery"),
            }
        }
        assert_eq!((cores[0].burst.len(), cores[2].mesh.waiting(0)), (kept, 300 - kept - flows));
        assert_eq!(cores[1].mesh.waiting(0), most + 1 + flows);
        assert_eq!(cores[0].drops.get(DropReason::HandOverFull), 0);
    }

    #[test]
    fn a_frame_brought_to_a_worker_where_nobody_has_it_is_counted_unless_it_is_a_copy_to_many() {
        let text = "[workers]\ncount = 2\n[nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
                    [alias.data0]\nover = \"eth0\"\n";
        let (mut cores, _far) = standing_still(text);
        let core = &mut cores[1];
        core.pins.set(0, Some(1));
        let one = || frame("10.0.0.1:1000".parse().unwrap());
        let many = || {
            let mut frame = frame("224.0.0.251:5353".parse().unwrap());
            frame.data_mut()[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 0xfb]);
            frame
        };
        let link = 0;
        let messages: [fn(Frame) -> Message; 3] = [
            |frame| Message::Home { link: 0, frame },
            |frame| Message::HomeLocal { link: 0, sender: 9, frame },
            |frame| Message::Local { link: 0, sender: 9, frame },
        ];
        for (lost, message) in (1..).zip(messages) {
            for frame in [many(), one()] {
                match message(frame) {
                    Message::Home { frame, .. } => core.classify_home(Instant::ZERO, link, frame),
                    other => core.take(Instant::ZERO, other),
                }
            }
            assert_eq!(core.drops.get(DropReason::DemuxNoVserver), lost);
        }
        assert_eq!((core.drops.total(), core.local.len(), core.burst.len()), (3, 0, 0));
    }

    #[test]
    fn homes_are_dealt_evenly_and_given_back() {
        let mut pins = Pins::default();
        assert!(pins.is_empty() && pins.home(0).is_none());
        for vserver in [0, 2, 4, 7] {
            let home = pins.emptiest(3);
            pins.set(vserver, Some(home));
        }
        assert_eq!([0, 2, 4, 7].map(|v| pins.home(v)), [Some(0), Some(1), Some(2), Some(0)]);
        assert_eq!((pins.home(1), pins.home(100)), (None, None));
        assert_eq!(pins.homes().collect::<Vec<_>>(), [0, 1, 2]);
        pins.set(2, None);
        pins.set(3, None);
        assert_eq!(pins.homes().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(pins.emptiest(3), 1);
        // A slot that is used again.
        pins.set(4, Some(1));
        assert_eq!(pins.homes().collect::<Vec<_>>(), [0, 1]);
        for vserver in [0, 4, 7] {
            pins.set(vserver, None);
        }
        assert!(pins.is_empty(), "one branch again");
    }
}

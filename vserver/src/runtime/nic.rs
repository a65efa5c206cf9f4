//! A NIC as a worker uses it: its queues, what waits for them, what is steered to them.

use std::io;
use std::net::IpAddr;

use hashbrown::HashMap;
use weft_drivers::device::{AnyDevice, Device, DeviceStats, Link, Medium, Steer};
use weft_interface::Mac;
use weft_stack::drop::{DropReason, Drops};
use weft_stack::frame::{Frame, FramePool};
use weft_stack::link::gro::{BurstFacts, GroStats};

use super::tx_queue::TxQueue;

/// One queue of a device.
pub(crate) struct Port {
    pub(crate) device: AnyDevice,
    tx: TxQueue,
    /// Frames were given to the device since the last flush, or are in flight.
    pub(crate) unflushed: bool,
    /// The device asked to be flushed again soon.
    pub(crate) in_flight: bool,
    /// Why the device cannot be used any more.
    pub(crate) failed: Option<io::Error>,
    failure_told: bool,
}

impl Port {
    fn new(device: AnyDevice) -> Port {
        Port {
            device,
            tx: TxQueue::default(),
            unflushed: false,
            in_flight: false,
            failed: None,
            failure_told: false,
        }
    }

    pub(crate) fn room(&self) -> usize {
        self.tx.room()
    }

    /// Frames wait that the device did not take.
    pub(crate) fn stalled(&self) -> bool {
        !self.tx.is_empty()
    }

    /// Frames wait for the device, or something of it for a flush.
    fn is_unsettled(&self) -> bool {
        self.unflushed || self.in_flight || self.stalled()
    }

    /// A turn may find something to do here.
    fn has_work(&mut self) -> bool {
        match self.failed {
            None => self.is_unsettled() || self.device.may_receive(),
            Some(_) => !self.failure_told || self.stalled(),
        }
    }

    pub(crate) fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> usize {
        if self.failed.is_some() {
            return 0;
        }
        self.device.receive(burst, max).unwrap_or_else(|e| {
            self.failed = Some(e);
            0
        })
    }

    /// Offers what waits to the device; returns how many frames it took. Without a link they are
    /// dropped: a vserver that waits for room here sends nothing on its other NICs either.
    fn transmit(&mut self, link_up: bool, drops: &mut Drops) -> usize {
        if self.tx.is_empty() {
            return 0;
        }
        let mut taken = 0;
        if self.failed.is_none() && link_up {
            // What vservers have waiting follows once the rest is gone.
            while self.failed.is_none() && self.tx.refill() {
                match self.device.transmit(&mut self.tx.ready) {
                    Ok(n) => taken += n,
                    Err(e) => self.failed = Some(e),
                }
                if !self.tx.is_empty() {
                    break;
                }
            }
        }
        if self.failed.is_some() || !link_up {
            drops.add(DropReason::DeviceTransmitRefused, self.tx.clear() as u64);
        }
        self.unflushed |= taken > 0;
        taken
    }

    pub(crate) fn flush(&mut self) {
        // A device that took nothing may have room after a flush.
        if self.failed.is_some() || !(self.unflushed || self.in_flight || self.stalled()) {
            return;
        }
        self.unflushed = false;
        match self.device.flush() {
            Ok(in_flight) => self.in_flight = in_flight,
            Err(e) => self.failed = Some(e),
        }
    }
}

/// One NIC, as one worker has it.
pub(crate) struct Nic {
    /// The worker's queues: of n workers, the one with number q mod n has queue q.
    pub(crate) ports: Vec<Port>,
    /// Where the worker's stacks take frames for this NIC from.
    pub(crate) pool: FramePool,
    /// How many vservers want each address or group.
    steered: HashMap<IpAddr, u32>,
    /// How many aliases take frames for each MAC address that is not the NIC's.
    macs: HashMap<Mac, u32>,
    /// Vservers that had frames when there was no room.
    pub(crate) blocked: Vec<u32>,
    /// Link state last told to the stacks.
    pub(crate) link: Link,
    /// How received bursts are merged; `None`: they are not.
    pub(crate) merging: Option<BurstFacts>,
    pub(crate) merged: GroStats,
    /// Frames start with an Ethernet header.
    pub(crate) ethernet: bool,
    /// The worker that transmits for this one, if it has no queue.
    pub(crate) via: Option<usize>,
    /// A queue of another worker failed.
    failed_elsewhere: bool,
}

impl Nic {
    /// # Panics
    /// If there is no device; the host checks that.
    pub(crate) fn new(devices: Vec<AnyDevice>) -> Nic {
        let first = devices.first().expect("a NIC has at least one queue");
        let (link, ethernet) = (first.link(), first.caps().medium == Medium::Ethernet);
        Nic {
            pool: first.pool().clone(),
            ports: devices.into_iter().map(Port::new).collect(),
            steered: HashMap::new(),
            macs: HashMap::new(),
            blocked: Vec::new(),
            link,
            ethernet,
            via: None,
            failed_elsewhere: false,
            merging: None,
            merged: GroStats::default(),
        }
    }

    /// Merges received bursts from now on; `trust`: transport checksums are not verified.
    pub(crate) fn merge_bursts(&mut self, trust: bool) {
        self.merging = Some(BurstFacts { ethernet: self.ethernet, trust });
    }

    /// The same NIC for each of `count` workers, with its share of the queues. With fewer queues
    /// than workers, some have none and transmit through one that has.
    pub(crate) fn split(self, count: usize) -> Vec<Nic> {
        let queues = self.ports.len();
        let mut all: Vec<Nic> = (0..count)
            .map(|worker| Nic {
                ports: Vec::new(),
                pool: self.ports[worker % queues].device.pool().clone(),
                steered: HashMap::new(),
                macs: HashMap::new(),
                blocked: Vec::new(),
                link: self.link,
                ethernet: self.ethernet,
                via: (worker >= queues).then(|| worker % queues),
                failed_elsewhere: false,
                merging: self.merging,
                merged: GroStats::default(),
            })
            .collect();
        for (queue, port) in self.ports.into_iter().enumerate() {
            all[queue % count].ports.push(port);
        }
        all
    }

    /// A queue of another worker failed: the NIC is out of use here, too.
    pub(crate) fn fail(&mut self) {
        self.failed_elsewhere = true;
    }

    /// Takes over what the kernel tells of the link. Returns whether state or MTU changed for the
    /// stacks. A NIC with a queue that failed stays down, and the MAC address is the device's own.
    pub(crate) fn set_link(&mut self, mut link: Link) -> bool {
        link.up &= !self.failed_elsewhere && self.ports.iter().all(|p| p.failed.is_none());
        if link.mtu == 0 {
            link.mtu = self.link.mtu;
        }
        let before = self.link;
        for port in &mut self.ports {
            port.device.set_link(link);
            // What the kernel left lying while the link was down.
            port.unflushed |= link.up;
        }
        let own = self.ports.first().map_or(before, |p| p.device.link());
        self.link = Link { mac: own.mac, ..link };
        (before.up, before.mtu) != (link.up, link.mtu)
    }

    /// Whether [`Nic::transmit`] or [`Nic::flush`] has something to do.
    #[inline]
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.blocked.is_empty() || self.ports.iter().any(Port::is_unsettled)
    }

    /// A turn may find something to do here.
    #[inline]
    pub(crate) fn has_work(&mut self) -> bool {
        !self.blocked.is_empty() || self.ports.iter_mut().any(Port::has_work)
    }

    /// Room on the fullest of its queues.
    pub(crate) fn room(&self) -> usize {
        self.ports.iter().map(Port::room).min().unwrap_or(0)
    }

    /// What one vserver may add to each of its queues.
    pub(crate) fn room_of(&self, vserver: u32) -> usize {
        self.ports.iter().map(|p| p.tx.room_of(vserver)).min().unwrap_or(0)
    }

    /// Queues a frame of a vserver; its flow hash chooses the queue, so that a flow stays in order.
    pub(crate) fn enqueue(&mut self, vserver: u32, frame: Frame) {
        let queue = frame.meta.flow_hash as usize % self.ports.len();
        self.ports[queue].tx.push(vserver, frame);
    }

    /// Offers what waits on every queue.
    pub(crate) fn transmit(&mut self, drops: &mut Drops) -> usize {
        let up = self.link.up;
        self.ports.iter_mut().map(|p| p.transmit(up, drops)).sum()
    }

    pub(crate) fn flush(&mut self) {
        self.ports.iter_mut().for_each(Port::flush);
    }

    /// Why a queue failed, once.
    pub(crate) fn take_failure(&mut self) -> Option<String> {
        let fresh = |p: &&mut Port| p.failed.is_some() && !p.failure_told;
        let port = self.ports.iter_mut().find(fresh)?;
        port.failure_told = true;
        port.failed.as_ref().map(io::Error::to_string)
    }

    /// One more vserver wants frames for `addr`. For worker 0, which has queue 0, to call.
    /// Errors are the device's; the address counts as
    /// steered.
    pub(crate) fn steer_add(&mut self, addr: IpAddr) -> io::Result<()> {
        let Some(first) = self.ports.first_mut() else { return Ok(()) };
        let count = self.steered.entry(addr).or_insert(0);
        *count += 1;
        if *count == 1 { first.device.steer(Steer::Add(addr)) } else { Ok(()) }
    }

    /// One vserver less does.
    pub(crate) fn steer_remove(&mut self, addr: IpAddr) -> io::Result<()> {
        let Some(count) = self.steered.get_mut(&addr) else { return Ok(()) };
        *count -= 1;
        if *count > 0 {
            return Ok(());
        }
        self.steered.remove(&addr);
        self.ports.first_mut().map_or(Ok(()), |p| p.device.steer(Steer::Remove(addr)))
    }

    /// One more alias takes frames for a MAC address that is not the NIC's, or one less.
    pub(crate) fn want_mac(&mut self, mac: Mac, wanted: bool) -> io::Result<()> {
        let Some(first) = self.ports.first_mut() else { return Ok(()) };
        let count = self.macs.entry(mac).or_insert(0);
        let before = *count;
        *count = if wanted { before + 1 } else { before.saturating_sub(1) };
        let change = match (before, *count) {
            (0, 1) => Steer::AddMac(mac),
            (1, 0) => Steer::RemoveMac(mac),
            _ => return Ok(()),
        };
        if !wanted {
            self.macs.remove(&mac);
        }
        first.device.steer(change)
    }

    /// Frames of a protocol of the link are wanted, or no longer.
    pub(crate) fn want_protocol(&mut self, ethertype: u16, wanted: bool) -> io::Result<()> {
        let add = Steer::AddEthertype(ethertype);
        let change = if wanted { add } else { add.undone() };
        self.ports.first_mut().map_or(Ok(()), |p| p.device.steer(change))
    }

    /// Addresses steered, and for how many vservers.
    #[cfg(test)]
    pub(crate) fn steered(&self) -> impl Iterator<Item = (&IpAddr, &u32)> {
        self.steered.iter()
    }

    /// MAC addresses taken besides its own, and for how many aliases.
    #[cfg(test)]
    pub(crate) fn macs(&self) -> impl Iterator<Item = (&Mac, &u32)> {
        self.macs.iter()
    }

    /// Counters of all queues.
    pub(crate) fn stats(&self) -> DeviceStats {
        let mut sum = DeviceStats::default();
        self.ports.iter().for_each(|p| sum.merge(&p.device.stats()));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tx_queue::TX_QUEUE;

    use weft_drivers::mem::{MemConfig, pair};

    /// A NIC whose only queue takes two frames, and its far end.
    fn nic() -> (Nic, AnyDevice) {
        let (near, far) = pair(&MemConfig { queue_frames: 2, ..MemConfig::default() }).unwrap();
        (Nic::new(vec![Box::new(near)]), Box::new(far))
    }

    fn fill(nic: &mut Nic, drops: &mut Drops) {
        while nic.room() > 0 {
            nic.enqueue(0, Frame::from_heap(0, &[0; 60]));
        }
        nic.transmit(drops);
    }

    #[test]
    fn a_nic_without_a_link_blocks_nobody() {
        let (mut nic, _far) = nic();
        let mut drops = Drops::default();
        fill(&mut nic, &mut drops);
        assert!(nic.ports[0].stalled() && nic.room() < TX_QUEUE);
        let waiting = (TX_QUEUE - nic.room()) as u64;
        let up = nic.link;
        assert!(nic.set_link(Link { up: false, ..up }));
        nic.transmit(&mut drops);
        assert_eq!(nic.room(), TX_QUEUE);
        let lost: u64 = drops.iter().map(|(_, n)| n).sum();
        assert_eq!(lost, waiting, "every lost frame is counted");
        assert!(nic.set_link(up) && !nic.set_link(up), "told once");
    }

    #[test]
    fn queues_are_dealt_to_workers() {
        let devices = |n| (0..n).map(|_| Box::new(pair(&MemConfig::default()).unwrap().0) as _);
        let ports = |queues, workers| -> Vec<(usize, Option<usize>)> {
            let all = Nic::new(devices(queues).collect()).split(workers);
            all.iter().map(|n| (n.ports.len(), n.via)).collect()
        };
        assert_eq!(ports(4, 2), [(2, None), (2, None)]);
        assert_eq!(ports(3, 2), [(2, None), (1, None)]);
        assert_eq!(ports(1, 3), [(1, None), (0, Some(0)), (0, Some(0))]);
        assert_eq!(ports(2, 4), [(1, None), (1, None), (0, Some(0)), (0, Some(1))]);
    }

    #[test]
    fn a_nic_that_failed_elsewhere_stays_down_here() {
        let (nic, _far) = nic();
        let mut all = nic.split(2);
        let without_queue = &mut all[1];
        let up = without_queue.link;
        without_queue.fail();
        assert!(without_queue.set_link(up));
        assert!(!without_queue.set_link(up) && !without_queue.link.up);
        assert_eq!(without_queue.link.mac, up.mac);
    }

    #[test]
    fn a_nic_that_failed_stays_down_whatever_the_kernel_says() {
        let (mut nic, _far) = nic();
        nic.ports[0].failed = Some(io::Error::other("the device is gone"));
        let up = nic.link;
        assert!(nic.set_link(Link { up: false, ..up }));
        assert!(!nic.set_link(up));
        assert!(!nic.link.up);
    }

    #[test]
    fn a_link_that_is_gone_keeps_its_mtu() {
        let (mut nic, _far) = nic();
        let before = nic.link;
        nic.set_link(Link { up: false, mtu: 0, mac: None });
        assert_eq!(nic.link, Link { up: false, mtu: before.mtu, mac: None });
    }
}

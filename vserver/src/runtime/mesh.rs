//! Between the workers of a host: bounded rings for one writer and one reader each, and a bell per
//! worker that is rung once per batch, only if it sleeps.
//!
//! Nothing here takes a lock. A full ring loses frames (counted by whoever writes), never control
//! messages: those wait with their writer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

use rtrb::{Consumer, Producer, RingBuffer};
use weft_drivers::device::Link;
use weft_interface::{LinkId, Selection};
use weft_stack::counters;
use weft_stack::frame::Frame;
use weft_stack::ip::address::{Address, AliasId};
use weft_stack::stack::GroupFilter;

use super::NodeId;
use super::sleeper::Sleeper;

/// Messages on the way from one worker to another: more than a queue of a device gives in a burst
/// or two, few enough that nothing waits long.
pub(crate) const RING: usize = 1024;
/// Of these so many are not for frames to the homes of vservers: those of one vserver all go to one
/// worker, and must leave room for the flows of others.
pub(crate) const RING_NOT_HOME: usize = RING / 4;
/// One vserver may have so many times the places that are left to homes. Alone it has three quarters
/// of them, several hogs have as much each, and whoever comes last still finds some.
const HOME_SHARE: usize = 3;
/// Frames on the way to a worker that has a queue of the NIC.
pub(crate) const TX_RING: usize = 512;

/// What one worker hands to another.
pub(crate) enum Message {
    /// A frame that arrived for a link on one of its queues.
    Arrived { link: usize, frame: Frame },
    /// A frame that a vserver sent on a link to others of this host.
    Local { link: usize, sender: u32, frame: Frame },
    /// A frame that arrived for a vserver that is at home there.
    Home { link: usize, frame: Frame },
    /// A frame that a vserver sent to one that is at home there.
    HomeLocal { link: usize, sender: u32, frame: Frame },
    /// A frame for the machines, to worker 0.
    Control { link: LinkId, frame: Frame },
    /// A packet that one shard of a vserver found to be another's.
    Moved { vserver: NodeId, alias: AliasId, looped: bool, frame: Frame },
    /// Not a frame.
    Told(Box<Control>),
}

/// What workers tell each other besides frames.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    /// To the other shards: the addresses of an alias are these, after the change of this number.
    Addresses { vserver: NodeId, edition: u64, alias: AliasId, addresses: Vec<Address> },
    /// To shard 0: what the shard of a worker wants of a group.
    Group { vserver: NodeId, worker: usize, alias: AliasId, group: IpAddr, filter: GroupFilter },
    /// The kernel told of a link.
    Link { nic: usize, link: Link },
    /// A queue of a NIC failed; the NIC is out of use.
    Failed { nic: usize },
    /// What may be used of bonds and failover groups.
    Selection(Arc<Selection>),
}

counters! {
    /// What the workers of a host handed to each other.
    pub struct HandOverStats, "HandOver" {
        /// Frames that arrived on a queue of another worker than their flow's.
        arrived: "Arrived",
        /// Frames for vservers with a shim, given to the worker where those are at home.
        home: "Home",
        /// Frames between vservers of this host whose flows are on different workers.
        local: "Local",
        /// Packets reassembled on shard 0, or sent by a vserver to itself, for another shard.
        moved: "Moved",
        /// Copies of ARP and neighbour discovery for other shards, and of frames to groups.
        copies: "Copies",
        /// Frames sent through the queue of another worker.
        transmits: "Transmits",
        /// Messages for vservers that were removed or changed meanwhile.
        stale: "Stale",
        /// Times a sleeping worker was woken.
        wakes: "Wakes",
    }
}

/// Wakes one worker's thread.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    sleeper: OnceLock<Arc<Sleeper>>,
}

impl Bell {
    /// Who rings calls this once, after everything it wrote; returns whether that woke the worker.
    fn ring(&self) -> bool {
        // With the fence of `lie_down`: either it sees what was written, or we see it asleep.
        fence(Ordering::SeqCst);
        let asleep = self.asleep.load(Ordering::Relaxed);
        if asleep
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(sleeper) = self.sleeper.get()
        {
            sleeper.ring();
            return true;
        }
        false
    }
}

/// Frames to homes that are on their way in one ring, as its writer knows them.
#[derive(Debug, Default)]
struct Homeward {
    /// Messages written to the ring so far.
    written: u64,
    /// Which of these are frames to a home, and whose, oldest first.
    order: VecDeque<(u64, usize)>,
    /// How many of these are whose.
    counts: Vec<u16>,
}

impl Homeward {
    /// Frames to many are nobody's: they have a place of their own.
    fn place(whose: Option<u32>) -> usize {
        whose.map_or(0, |vserver| vserver as usize + 1)
    }

    /// Whether one more may go into the ring, of which so many places are free.
    fn has_room(&mut self, whose: Option<u32>, free: usize) -> bool {
        let read = self.written.saturating_sub((RING - free) as u64);
        while let Some((_, place)) = self.order.front().filter(|(number, _)| *number < read) {
            self.counts[*place] -= 1;
            self.order.pop_front();
        }
        let own = self.counts.get(Homeward::place(whose)).copied().unwrap_or(0);
        usize::from(own) < HOME_SHARE * free.saturating_sub(RING_NOT_HOME)
    }

    /// The next message is one.
    fn add(&mut self, whose: Option<u32>) {
        let place = Homeward::place(whose);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        self.order.push_back((self.written, place));
    }
}

/// Both directions between this worker and another.
struct Peer {
    bell: Arc<Bell>,
    out: Producer<Message>,
    homeward: Homeward,
    /// Control messages that found the ring full.
    later: VecDeque<Box<Control>>,
    inbox: Consumer<Message>,
    tx_out: Producer<(usize, Frame)>,
    tx_in: Consumer<(usize, Frame)>,
    /// This worker waits for room in `tx_out`; the other one for room in `tx_in`.
    wants_room: Arc<AtomicBool>,
    other_wants_room: Arc<AtomicBool>,
    /// Something was written since the last ring.
    touched: bool,
}

/// One worker's place among the workers of a host.
#[derive(Default)]
pub(crate) struct Mesh {
    me: usize,
    /// By worker; `None` for itself.
    peers: Vec<Option<Peer>>,
    bell: Arc<Bell>,
    pub(crate) stats: HandOverStats,
}

impl Mesh {
    /// Joins `count` workers.
    pub(crate) fn join(count: usize) -> Vec<Mesh> {
        let bells: Vec<Arc<Bell>> = (0..count).map(|_| Arc::default()).collect();
        let mut all: Vec<Mesh> = (0..count)
            .map(|me| Mesh {
                me,
                peers: (0..count).map(|_| None).collect(),
                bell: Arc::clone(&bells[me]),
                stats: HandOverStats::default(),
            })
            .collect();
        for a in 0..count {
            for b in a + 1..count {
                let (to_b, from_a) = RingBuffer::new(RING);
                let (to_a, from_b) = RingBuffer::new(RING);
                let (tx_to_b, tx_from_a) = RingBuffer::new(TX_RING);
                let (tx_to_a, tx_from_b) = RingBuffer::new(TX_RING);
                let (a_wants, b_wants) = (Arc::<AtomicBool>::default(), Arc::default());
                let peer = |bell, out, inbox, tx_out, tx_in, (wants_room, other_wants_room)| Peer {
                    bell,
                    out,
                    homeward: Homeward::default(),
                    later: VecDeque::new(),
                    inbox,
                    tx_out,
                    tx_in,
                    wants_room,
                    other_wants_room,
                    touched: false,
                };
                let wants = (Arc::clone(&a_wants), Arc::clone(&b_wants));
                let bell = Arc::clone(&bells[b]);
                all[a].peers[b] = Some(peer(bell, to_b, from_b, tx_to_b, tx_from_b, wants));
                let bell = Arc::clone(&bells[a]);
                let wants = (b_wants, a_wants);
                all[b].peers[a] = Some(peer(bell, to_a, from_a, tx_to_a, tx_from_a, wants));
            }
        }
        all
    }

    /// What others ring when they wrote something and nobody polls here.
    pub(crate) fn set_bell(&self, sleeper: &Arc<Sleeper>) {
        // It is set once, when the worker is made.
        let _ = self.bell.sleeper.set(Arc::clone(sleeper));
    }

    /// This worker's number.
    pub(crate) fn me(&self) -> usize {
        self.me
    }

    /// Workers, this one counted.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.peers.len().max(1)
    }

    /// Whether this worker has shard 0 of every vserver.
    pub(crate) fn is_home(&self) -> bool {
        self.me == 0
    }

    /// The other workers.
    pub(crate) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.peers.len()).filter(move |w| *w != me)
    }

    fn peer(&mut self, worker: usize) -> Option<&mut Peer> {
        self.peers.get_mut(worker)?.as_mut()
    }

    /// Hands a frame over; `false`: the ring is full and the frame is gone.
    pub(crate) fn send(&mut self, worker: usize, message: Message) -> bool {
        let Some(peer) = self.peer(worker) else { return false };
        peer.touched = true;
        let sent = peer.out.push(message).is_ok();
        peer.homeward.written += u64::from(sent);
        sent
    }

    /// The same for a frame to the home of a vserver: homes may not have the whole ring, nor one
    /// vserver all of what they may have. `whose`: that of the vserver, `None` if it is to many.
    pub(crate) fn send_home(
        &mut self,
        worker: usize,
        whose: Option<u32>,
        message: Message,
    ) -> bool {
        let Some(peer) = self.peer(worker) else { return false };
        let free = peer.out.slots();
        if !peer.homeward.has_room(whose, free) {
            return false;
        }
        // There is room, and nobody else writes.
        peer.homeward.add(whose);
        self.send(worker, message)
    }

    /// Tells another worker something, now or when there is room.
    pub(crate) fn tell(&mut self, worker: usize, control: Control) {
        if let Some(peer) = self.peer(worker) {
            peer.later.push_back(Box::new(control));
            peer.push_later();
        }
    }

    /// Tells all other workers something.
    pub(crate) fn tell_all(&mut self, control: &Control) {
        for worker in self.others() {
            self.tell(worker, control.clone());
        }
    }

    /// The next message of another worker.
    pub(crate) fn receive(&mut self, worker: usize) -> Option<Message> {
        self.peer(worker)?.inbox.pop().ok()
    }

    /// Messages of another worker that wait.
    pub(crate) fn waiting(&self, worker: usize) -> usize {
        self.peers[worker].as_ref().map_or(0, |p| p.inbox.slots())
    }

    /// Frames that may be given to [`Mesh::transmit`]. With none, the other worker rings when
    /// there is room again.
    pub(crate) fn tx_room(&mut self, worker: usize) -> usize {
        let Some(peer) = self.peer(worker) else { return 0 };
        let room = peer.tx_out.slots();
        if room > 0 {
            return room;
        }
        peer.wants_room.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        peer.tx_out.slots()
    }

    /// Gives a frame to a worker that has a queue of the NIC; `false`: the ring was full.
    pub(crate) fn transmit(&mut self, worker: usize, nic: usize, frame: Frame) -> bool {
        let Some(peer) = self.peer(worker) else { return false };
        peer.touched = true;
        peer.tx_out.push((nic, frame)).is_ok()
    }

    /// The NIC that the next frame of another worker is for.
    pub(crate) fn transmit_waits(&self, worker: usize) -> Option<usize> {
        self.peers[worker].as_ref()?.tx_in.peek().ok().map(|(nic, _)| *nic)
    }

    /// Takes that frame.
    pub(crate) fn take_transmit(&mut self, worker: usize) -> Option<(usize, Frame)> {
        let peer = self.peer(worker)?;
        let taken = peer.tx_in.pop().ok()?;
        fence(Ordering::SeqCst);
        if peer.other_wants_room.load(Ordering::Relaxed) {
            peer.other_wants_room.store(false, Ordering::Relaxed);
            peer.touched = true;
        }
        Some(taken)
    }

    /// The end of a batch: wakes whoever got something and sleeps.
    pub(crate) fn ring(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            if !peer.later.is_empty() {
                peer.push_later();
            }
            if std::mem::take(&mut peer.touched) {
                self.stats.wakes += u64::from(peer.bell.ring());
            }
        }
    }

    /// Nobody polls this worker from now on: others ring. Ask [`Mesh::has_mail`] after it.
    pub(crate) fn lie_down(&self) {
        if self.peers.len() > 1 {
            self.bell.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }

    /// Somebody polls it again.
    pub(crate) fn get_up(&self) {
        if self.peers.len() > 1 {
            self.bell.asleep.store(false, Ordering::Relaxed);
        }
    }

    /// Whether something of another worker waits; frames to transmit only if `can_send` of their
    /// NIC.
    pub(crate) fn has_mail(&self, can_send: impl Fn(usize) -> bool) -> bool {
        self.peers
            .iter()
            .flatten()
            .any(|p| !p.inbox.is_empty() || p.tx_in.peek().is_ok_and(|(nic, _)| can_send(*nic)))
    }

    /// Whether [`Mesh::ring`] has something to do.
    pub(crate) fn is_to_ring(&self) -> bool {
        self.peers.iter().flatten().any(|p| p.touched || !p.later.is_empty())
    }

    /// Whether control messages wait for room in a ring.
    pub(crate) fn has_later(&self) -> bool {
        self.peers.iter().flatten().any(|p| !p.later.is_empty())
    }
}

impl Peer {
    fn push_later(&mut self) {
        while let Some(control) = self.later.pop_front() {
            self.touched = true;
            match self.out.push(Message::Told(control)) {
                Ok(()) => self.homeward.written += 1,
                Err(rtrb::PushError::Full(Message::Told(control))) => {
                    return self.later.push_front(control);
                }
                // It comes back as it was.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame::from_heap(0, &[0; 60])
    }

    fn pair() -> (Mesh, Mesh) {
        let mut all = Mesh::join(2);
        let b = all.pop().unwrap();
        (all.pop().unwrap(), b)
    }

    #[test]
    fn a_full_ring_loses_frames_and_keeps_what_is_told() {
        let (mut a, mut b) = pair();
        for _ in 0..RING {
            assert!(a.send(1, Message::Arrived { link: 0, frame: frame() }));
        }
        assert!(!a.send(1, Message::Arrived { link: 0, frame: frame() }));
        a.tell(1, Control::Failed { nic: 3 });
        assert!(a.has_later() && b.waiting(0) == RING);
        for _ in 0..RING {
            assert!(matches!(b.receive(0), Some(Message::Arrived { .. })));
        }
        a.ring();
        let Some(Message::Told(control)) = b.receive(0) else { panic!("it was told") };
        assert!(matches!(*control, Control::Failed { nic: 3 }));
        assert!(b.receive(0).is_none() && !a.has_later());
    }

    #[test]
    fn frames_to_homes_leave_room_to_flows_and_those_of_one_vserver_to_others() {
        let (mut a, mut b) = pair();
        let fill = |a: &mut Mesh, whose: Option<u32>| {
            let home = || Message::Home { link: 0, frame: frame() };
            (0..RING).take_while(|_| a.send_home(1, whose, home())).count()
        };
        let homes = RING - RING_NOT_HOME;
        assert_eq!(fill(&mut a, Some(7)), homes * 3 / 4);
        assert_eq!(fill(&mut a, Some(7)), 0);
        assert_eq!(fill(&mut a, Some(9)), homes / 4 * 3 / 4, "of what is left");
        assert_eq!(fill(&mut a, None), homes / 16 * 3 / 4);
        for _ in 0..RING_NOT_HOME {
            assert!(a.send(1, Message::Arrived { link: 0, frame: frame() }));
        }
        a.tell(1, Control::Failed { nic: 3 });
        // What was read makes room, and is not counted any more.
        for _ in 0..homes * 3 / 4 {
            assert!(matches!(b.receive(0), Some(Message::Home { .. })));
        }
        assert_eq!(fill(&mut a, Some(9)), 213, "beside the 144 of before, of 331 places");
        assert_eq!(fill(&mut a, Some(7)), 89);
        while b.receive(0).is_some() {}
        assert_eq!(fill(&mut a, Some(9)), homes * 3 / 4);
    }

    #[test]
    fn vservers_that_flood_their_homes_have_equal_parts() {
        let (mut a, _b) = pair();
        let mut sent = [0_usize; 3];
        for turn in 0..3 * RING {
            let home = Message::Home { link: 0, frame: frame() };
            sent[turn % 3] += usize::from(a.send_home(1, Some(turn as u32 % 3), home));
        }
        // 3 x 768 / (1 + 3 x 3) each.
        assert!(sent.iter().all(|n| (230..=231).contains(n)), "{sent:?}");
        let home = Message::Home { link: 0, frame: frame() };
        assert!(a.send_home(1, Some(3), home), "there is room for another");
    }

    #[test]
    fn whoever_sleeps_is_woken_once_per_batch() {
        let (mut a, b) = pair();
        b.set_bell(&Arc::new(Sleeper::new().unwrap()));
        a.send(1, Message::Arrived { link: 0, frame: frame() });
        a.ring();
        assert_eq!(a.stats.wakes, 0, "it is awake");
        b.lie_down();
        a.ring();
        assert_eq!(a.stats.wakes, 0, "nothing new");
        for _ in 0..3 {
            a.send(1, Message::Arrived { link: 0, frame: frame() });
        }
        a.ring();
        a.send(1, Message::Arrived { link: 0, frame: frame() });
        a.ring();
        assert_eq!(a.stats.wakes, 1);
        assert!(b.has_mail(|_| false));
    }

    #[test]
    fn whoever_waits_for_room_is_woken_by_room() {
        let (mut a, mut b) = pair();
        a.set_bell(&Arc::new(Sleeper::new().unwrap()));
        for _ in 0..TX_RING {
            assert!(a.tx_room(1) > 0 && a.transmit(1, 2, frame()));
        }
        assert!(!a.transmit(1, 2, frame()));
        assert_eq!(a.tx_room(1), 0);
        a.lie_down();
        assert_eq!(b.transmit_waits(0), Some(2));
        assert!(b.has_mail(|nic| nic == 2) && !b.has_mail(|_| false));
        b.take_transmit(0).unwrap();
        b.ring();
        assert_eq!(b.stats.wakes, 1);
        assert_eq!(a.tx_room(1), 1);
    }
}

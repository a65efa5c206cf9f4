//! One vserver as three shards, with a plain stack as its neighbour, in virtual time: shard 0
//! speaks for all, the others learn, and every packet ends at its owner.
#![allow(missing_docs)]

use std::net::{IpAddr, SocketAddr};

use weft_stack::frame::{Frame, FramePool};
use weft_stack::ip::address::{AddressState, AliasConfig, AliasId, AliasMedium};
use weft_stack::shard::{Owner, Shard, flow_owner, frame_owner, port_owner};
use weft_stack::socket::tcp::TcpState;
use weft_stack::socket::{Event, SocketId};
use weft_stack::stack::{Change, GroupFilter, Stack, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};

const A: AliasId = AliasId(0);
const SHARDS: u16 = 3;
/// The neighbour's place in [`Link::stacks`], behind the shards.
const FAR: usize = SHARDS as usize;

/// Shards of a vserver at 10.0.0.1 and fd00::1, a neighbour at .2, and the cable between.
struct Link {
    now: Instant,
    stacks: Vec<Stack>,
    /// What the shards sent, by shard.
    sent: Vec<(usize, Vec<u8>)>,
    events: Vec<(usize, Event)>,
    /// The neighbour does not answer.
    deaf: bool,
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn alias(mac: u8) -> AliasConfig {
    AliasConfig::up_without_offload(A, AliasMedium::Ethernet { mac: [2, 0, 0, 0, 0, mac] })
}

impl Link {
    fn new() -> Link {
        let now = Instant::from_millis(1000);
        let stack = |seed, shard| {
            let config = StackConfig { seed: [seed; 16], shard, ..StackConfig::default() };
            Stack::new(config, FramePool::heap(512, 2048), now)
        };
        let shards = (0..SHARDS).map(|index| stack(1, Shard { index, count: SHARDS, flows: None }));
        let mut stacks: Vec<Stack> = shards.collect();
        stacks.push(stack(2, Shard::ONLY));
        for (i, stack) in stacks.iter_mut().enumerate() {
            let host = if i == FAR { 2 } else { 1 };
            let mut changes = vec![Change::AliasAdd(alias(host))];
            for cidr in [format!("10.0.0.{host}/24"), format!("fd00::{host}/64")] {
                let cidr = cidr.parse().expect("a network");
                changes.push(Change::AddressAdd { alias: A, cidr });
            }
            for change in changes {
                stack.handle_config(now, change).expect("a change that fits");
            }
        }
        let mut link = Link { now, stacks, sent: Vec::new(), events: Vec::new(), deaf: false };
        link.run_for(Duration::from_secs(3));
        link
    }

    /// To the shards of its owner, as a worker does.
    fn arrive(&mut self, frame: &[u8]) {
        for shard in 0..SHARDS {
            let owner = frame_owner(frame, true, SHARDS);
            if owner == Owner::All || owner == Owner::Shard(shard) {
                let copy = Frame::from_heap(128, frame);
                self.stacks[usize::from(shard)].handle_frame(self.now, A, copy);
            }
        }
    }

    fn event(&mut self, shard: usize, event: Event) {
        match event {
            Event::AddressesChanged { alias } => {
                let addresses = self.stacks[shard].addresses(alias).to_vec();
                for other in 1..usize::from(SHARDS) {
                    let change = Change::AddressesAdopt { alias, addresses: addresses.clone() };
                    self.stacks[other].handle_config(self.now, change).expect("an alias");
                }
            }
            Event::GroupChanged { alias, group } => {
                let filter = self.stacks[shard].group_filter(alias, group);
                let (before, after) = match &filter {
                    GroupFilter::Nothing => (GroupFilter::All, GroupFilter::Nothing),
                    _ => (GroupFilter::Nothing, filter.clone()),
                };
                self.stacks[0].adopt_group(self.now, (alias, group), &before, &after);
            }
            _ => {}
        }
        self.events.push((shard, event));
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for i in 0..self.stacks.len() {
                let mut burst = TxBurst::new(64);
                moved |= self.stacks[i].poll_transmit(self.now, &mut burst) > 0;
                for (_, frame) in burst.frames {
                    let bytes = frame.to_heap().data().to_vec();
                    if i == FAR {
                        self.arrive(&bytes);
                    } else {
                        self.sent.push((i, bytes.clone()));
                        if !self.deaf {
                            let copy = Frame::from_heap(128, &bytes);
                            self.stacks[FAR].handle_frame(self.now, A, copy);
                        }
                    }
                }
                while let Some(moved) = self.stacks[i].poll_moved() {
                    let to = &mut self.stacks[usize::from(moved.to)];
                    to.handle_moved(self.now, moved.alias, moved.looped, moved.frame);
                }
                while let Some(event) = self.stacks[i].poll_event() {
                    self.event(i, event);
                }
            }
        }
        for stack in &self.stacks {
            stack.mib().check_sums().expect("one fate for every frame");
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(at) = self.stacks.iter().filter_map(Stack::poll_timeout).min() {
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            for stack in &mut self.stacks {
                if stack.poll_timeout().is_some_and(|due| due <= self.now) {
                    stack.handle_timeout(self.now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// A connection from a shard to port 80 of the neighbour, which listens.
    fn connect(&mut self, shard: usize) -> SocketId {
        let id = self.stacks[shard].tcp_connect(self.now, None, addr("10.0.0.2:80"));
        let id = id.expect("a way to the neighbour");
        self.run_for(Duration::from_millis(100));
        id
    }

    /// ARP requests that a shard sent.
    fn questions(&self, shard: usize) -> usize {
        let is_question = |f: &[u8]| f[12..14] == [8, 6] && f[20..22] == [0, 1];
        self.sent.iter().filter(|(by, f)| *by == shard && is_question(f)).count()
    }
}

#[test]
fn shard_0_speaks_for_all_and_the_others_take_its_addresses() {
    let link = Link::new();
    assert!(link.sent.iter().all(|(shard, _)| *shard == 0), "nobody else spoke");
    assert!(link.sent.iter().any(|(_, f)| f[12..14] == [8, 6]), "an announcement");
    for shard in 0..usize::from(SHARDS) {
        let addresses = link.stacks[shard].addresses(A);
        assert_eq!(addresses.len(), 3, "two configured, one link-local");
        assert!(addresses.iter().all(|a| a.state == AddressState::Preferred));
        let added = |e: &&(usize, Event)| e.0 == shard && matches!(e.1, Event::AddressAdded { .. });
        assert_eq!(link.events.iter().filter(added).count(), 3);
    }
}

#[test]
fn an_address_that_goes_goes_everywhere_and_a_duplicate_is_nowhere() {
    let mut link = Link::new();
    let gone: IpAddr = "fd00::1".parse().expect("an address");
    let change = Change::AddressRemove { alias: A, addr: gone };
    link.stacks[0].handle_config(link.now, change).expect("it is there");
    // The neighbour's own address.
    let cidr = "fd00::2/64".parse().expect("a network");
    for shard in 0..usize::from(SHARDS) {
        let change = Change::AddressAdd { alias: A, cidr };
        link.stacks[shard].handle_config(link.now, change).expect("a change that fits");
    }
    link.run_for(Duration::from_secs(3));
    for shard in 0..usize::from(SHARDS) {
        let stack = &link.stacks[shard];
        assert!(!stack.is_local(gone) && !stack.is_local("fd00::2".parse().expect("one")));
        let state = stack.addresses(A).iter().find(|a| a.cidr == cidr).map(|a| a.state);
        assert_eq!(state, Some(AddressState::Duplicate));
    }
    assert!(link.sent.iter().all(|(shard, _)| *shard == 0));
}

#[test]
fn a_shard_resolves_its_neighbours_and_only_shard_0_answers() {
    let mut link = Link::new();
    link.stacks[FAR].tcp_listen(link.now, addr("0.0.0.0:80"), 16).expect("listen");
    for shard in 1..usize::from(SHARDS) {
        let id = link.connect(shard);
        assert_eq!(link.stacks[shard].tcp_state(id), TcpState::Established);
        let (from, to) = link.stacks[shard].tcp_addrs(id).expect("it is open");
        assert_eq!(usize::from(flow_owner(from, to, SHARDS)), shard);
    }
    // An answer fills an entry that waits for it, and makes none (as on one stack).
    assert_eq!((link.questions(1), link.questions(2)), (1, 1));
    let before = link.sent.len();
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 8, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([2, 0, 0, 0, 0, 8, 10, 0, 0, 8, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    link.arrive(&arp);
    link.settle();
    let answers: Vec<usize> = link.sent[before..].iter().map(|(shard, _)| *shard).collect();
    assert_eq!(answers, [0]);
    let known = |s: &Stack| s.neighbours().any(|n| n.mac == Some([2, 0, 0, 0, 0, 8]));
    assert!(link.stacks[..FAR].iter().all(known), "whoever asks is known to all");
}

#[test]
fn a_neighbour_expires_on_a_shard_and_is_asked_for_again() {
    let mut link = Link::new();
    link.stacks[FAR].tcp_listen(link.now, addr("0.0.0.0:80"), 16).expect("listen");
    let id = link.connect(2);
    let asked = link.questions(2);
    link.run_for(Duration::from_mins(2));
    assert_eq!(link.questions(2), asked, "nothing was sent, so nothing is asked");
    // Stale by now: used, then asked for, alone.
    link.stacks[2].tcp_send(link.now, id, b"hello").expect("room");
    link.run_for(Duration::from_secs(10));
    assert_eq!(link.stacks[2].tcp_state(id), TcpState::Established);
    link.run_for(Duration::from_mins(2));
    // The neighbour goes deaf: the shard finds out by itself.
    link.deaf = true;
    link.stacks[2].tcp_send(link.now, id, b"hello").expect("room");
    link.run_for(Duration::from_mins(1));
    let asked = link.questions(2);
    assert!(asked >= 3, "{asked}");
    let known = link.stacks[2].neighbours().any(|n| n.mac.is_some() && n.addr.is_ipv4());
    assert!(!known, "it is not reachable");
}

#[test]
fn a_moved_neighbour_is_learned_by_every_shard() {
    let mut link = Link::new();
    link.stacks[FAR].tcp_listen(link.now, addr("0.0.0.0:80"), 16).expect("listen");
    for shard in 0..usize::from(SHARDS) {
        link.connect(shard);
    }
    // An entry that was just confirmed is not changed unasked.
    link.run_for(Duration::from_secs(10));
    // RFC 826 announcement of 10.0.0.2 at another MAC address.
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([2, 0, 0, 0, 0, 9, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    link.arrive(&arp);
    for stack in &link.stacks[..FAR] {
        let moved = stack.neighbours().find(|n| n.addr.is_ipv4()).and_then(|n| n.mac);
        assert_eq!(moved, Some([2, 0, 0, 0, 0, 9]));
    }
}

#[test]
fn fragments_become_whole_at_home_and_go_to_the_port() {
    let mut link = Link::new();
    let to = (1000..2000).find(|p| port_owner(*p, SHARDS) == 2).expect("one of many");
    let there = SocketAddr::new([10, 0, 0, 1].into(), to);
    let socket = link.stacks[2].udp_bind(link.now, there).expect("bind");
    let asker = link.stacks[FAR].udp_bind(link.now, addr("0.0.0.0:9")).expect("bind");
    let now = link.now;
    link.stacks[FAR].udp_send(now, asker, &[7; 5000], Some(there)).expect("room");
    link.run_for(Duration::from_secs(1));
    assert_eq!(link.stacks[2].udp_recv(socket).map(|d| d.payload.len()), Ok(5000));
    assert_eq!(link.stacks[0].mib().ip4.reasm_oks, 1);
    assert_eq!(link.stacks[2].mib().ip4.reasm_reqds, 0);
}

#[test]
fn an_answer_to_a_cookie_is_taken_by_the_same_secrets_on_every_shard() {
    // What a peer can compare: the sequence number of a flow at one instant.
    let syn_of = |shard: Shard| {
        let config = StackConfig { seed: [1; 16], shard, ..StackConfig::default() };
        let now = Instant::from_millis(1000);
        let mut stack = Stack::new(config, FramePool::heap(64, 2048), now);
        let alias = AliasConfig { medium: AliasMedium::Ip, ..alias(1) };
        stack.handle_config(now, Change::AliasAdd(alias)).expect("it fits");
        let cidr = "10.0.0.1/24".parse().expect("a network");
        stack.handle_config(now, Change::AddressAdd { alias: A, cidr }).expect("it fits");
        let mut burst = TxBurst::new(64);
        stack.poll_transmit(now, &mut burst);
        burst.frames.clear();
        let from = Some(addr("10.0.0.1:4000"));
        stack.tcp_connect(now, from, addr("10.0.0.2:80")).ok()?;
        stack.poll_transmit(now, &mut burst);
        Some(burst.frames.pop()?.1.data().to_vec())
    };
    let owner = flow_owner(addr("10.0.0.1:4000"), addr("10.0.0.2:80"), SHARDS);
    let alone = syn_of(Shard::ONLY).expect("a SYN");
    for index in 0..SHARDS {
        let sent = syn_of(Shard { index, count: SHARDS, flows: None });
        match sent {
            Some(syn) => assert_eq!((index, &syn[24..28]), (owner, &alone[24..28])),
            None => assert_ne!(index, owner, "another's flow is refused"),
        }
    }
}

#[test]
fn groups_of_other_shards_are_reported_by_shard_0() {
    let mut link = Link::new();
    let group: IpAddr = "239.1.2.3".parse().expect("a group");
    let before = link.sent.len();
    let port = (1000..2000).find(|p| port_owner(*p, SHARDS) == 1).expect("one of many");
    let socket = link.stacks[1].udp_bind(link.now, SocketAddr::new([0; 4].into(), port));
    let socket = socket.expect("bind");
    link.stacks[1].udp_join(link.now, socket, A, group).expect("join");
    link.run_for(Duration::from_secs(5));
    let reports = link.sent[before..].iter().filter(|(_, f)| f[23] == 2);
    let by: Vec<usize> = reports.map(|(shard, _)| *shard).collect();
    assert!(!by.is_empty() && by.iter().all(|shard| *shard == 0), "{by:?}");
    link.stacks[1].udp_close(socket);
    link.run_for(Duration::from_secs(5));
    assert_eq!(link.stacks[0].group_filter(A, group), GroupFilter::Nothing);
}

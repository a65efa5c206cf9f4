use super::*;
use crate::ctx::Fate;
use crate::ctx::testing::World;
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ip::address::{AcdPace, AddressTerms, AliasConfig, AliasMedium, Cidr};
use crate::ip::{configure, ndp};
use crate::link::LinkInput;
use crate::socket::Event;
use crate::stack::{Change, ChangeError, StackConfig};
use crate::time::{Duration, Instant};

const ID: AliasId = AliasId(1);
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ADDR: [u8; 4] = [10, 0, 0, 7];
const NOBODY: [u8; 4] = [0; 4];

struct Bench {
    world: World,
    link: Link,
    ip: Ip,
}

fn addr() -> IpAddr {
    IpAddr::from(ADDR)
}

fn cidr() -> Cidr {
    Cidr { addr: addr(), prefix_len: 24 }
}

fn leased(acd: Acd) -> AddressTerms {
    AddressTerms { origin: Origin::Dhcp, acd, ..AddressTerms::default() }
}

fn configured(acd: Acd) -> AddressTerms {
    AddressTerms { acd, ..AddressTerms::default() }
}

fn bench() -> Bench {
    let world = World::new();
    let ip = Ip::new(&StackConfig::default(), &world.secrets, world.now);
    let config = AliasConfig::up_without_offload(ID, AliasMedium::Ethernet { mac: OURS });
    let mut b = Bench { world, link: Link::default(), ip };
    b.apply(Change::AliasAdd(config)).unwrap();
    b.world.events();
    b
}

/// An ARP packet that was sent: when, from which address, for which.
type Sent = (Instant, [u8; 4], [u8; 4]);

impl Bench {
    fn apply(&mut self, change: Change) -> Result<(), ChangeError> {
        let (ctx, link) = (&mut self.world.ctx(), &mut self.link);
        let result = configure::apply(ctx, link, &mut self.ip, change);
        ndp::link_work(ctx, link, &mut self.ip);
        result
    }

    fn assign(&mut self, terms: AddressTerms) {
        self.apply(Change::AddressAssign { alias: ID, cidr: cidr(), terms }).unwrap();
    }

    /// Time passes; what was sent meanwhile.
    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let mut sent = self.sent();
        let end = self.world.now + time + Duration::from_micros(100);
        while let Some(at) = self.world.timers.next_deadline().filter(|at| *at <= end) {
            self.world.now = self.world.now.max(at);
            let ctx = &mut self.world.ctx();
            match ctx.timers.pop_expired(ctx.now) {
                Some(crate::ctx::Timer::Ndp) => ndp::timeout(ctx, &mut self.link, &mut self.ip),
                Some(crate::ctx::Timer::Neighbour) => self.link.timeout(ctx, &self.ip.aliases),
                _ => {}
            }
            ndp::link_work(ctx, &mut self.link, &mut self.ip);
            sent.extend(self.sent());
        }
        self.world.now = end;
        sent
    }

    fn sent(&mut self) -> Vec<Sent> {
        let now = self.world.now;
        let frames = self.world.all_sent();
        let arp = frames.iter().filter(|f| f[12..14] == [8, 6]);
        arp.map(|f| {
            assert_eq!((&f[..6], &f[20..22]), (&[0xff; 6][..], &[0, 1][..]), "a broadcast request");
            let at = |i: usize| <[u8; 4]>::try_from(&f[i..i + 4]).unwrap();
            (now, at(28), at(38))
        })
        .collect()
    }

    fn hear(&mut self, op: u8, sender: [u8; 4], target: [u8; 4]) {
        let mut data = [[0xff; 6], PEER].concat();
        data.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
        data.extend(PEER);
        data.extend(sender);
        data.extend([0; 6]);
        data.extend(target);
        let ctx = &mut self.world.ctx();
        let frame = Frame::from_heap(0, &data);
        let LinkInput::Done(fate) = self.link.input(ctx, &self.ip.aliases[&ID], frame) else {
            panic!("ARP is the link's");
        };
        let lost = Fate::Dropped(DropReason::ArpNotForUs);
        assert!(fate == Fate::Consumed || fate == lost, "{fate:?}");
        ndp::link_work(ctx, &mut self.link, &mut self.ip);
    }

    fn state(&self) -> Option<AddressState> {
        self.ip.aliases[&ID].address(addr()).map(|a| a.state)
    }
}

const DUPLICATE: Event =
    Event::AddressDuplicate { alias: ID, addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)), mac: PEER };
const ADDED: Event =
    Event::AddressAdded { alias: ID, addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)) };
const REMOVED: Event =
    Event::AddressRemoved { alias: ID, addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)) };
const PROBED: Event =
    Event::AddressProbed { alias: ID, addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)) };

// RFC 5227 2.1.1, 2.3
#[test]
fn an_address_is_probed_three_times_then_used_and_announced_twice() {
    let mut b = bench();
    let begin = b.world.now;
    b.assign(leased(Acd::On));
    assert_eq!(b.state(), Some(AddressState::Tentative));
    let sent = b.pass(Duration::from_secs(12));
    let times: Vec<Instant> = sent.iter().map(|s| s.0).collect();
    let what: Vec<_> = sent.iter().map(|s| (s.1, s.2)).collect();
    assert_eq!(what[..3], [(NOBODY, ADDR); 3], "probes name no sender");
    assert_eq!(what[3..], [(ADDR, ADDR); 2], "announcements");
    let slack = Duration::from_millis(1);
    let between = |i: usize| times[i + 1].saturating_since(times[i]);
    assert!(times[0].saturating_since(begin) <= Duration::from_secs(1) + slack, "PROBE_WAIT");
    for i in 0..2 {
        let gap = between(i);
        assert!(gap >= Duration::from_secs(1) && gap <= Duration::from_secs(2) + slack, "{gap:?}");
    }
    let (wait, interval) = (Duration::from_secs(2), Duration::from_secs(2));
    assert!(between(2) >= wait && between(2) <= wait + slack, "ANNOUNCE_WAIT");
    assert!(between(3) >= interval && between(3) <= interval + slack, "ANNOUNCE_INTERVAL");
    assert_eq!(b.state(), Some(AddressState::Preferred));
    assert_eq!(b.world.events(), [PROBED, ADDED]);
}

#[test]
fn an_address_may_be_probed_faster() {
    let mut b = bench();
    let begin = b.world.now;
    let pace = AcdPace { interval: Duration::from_millis(50), probes: 1 };
    b.assign(AddressTerms { pace, ..configured(Acd::On) });
    let sent = b.pass(Duration::from_millis(150));
    assert_eq!(sent.iter().filter(|s| s.1 == NOBODY).count(), 1);
    assert_eq!(sent[1].0.saturating_since(sent[0].0).as_millis(), 100, "two intervals");
    assert!(sent[0].0.saturating_since(begin) <= Duration::from_millis(51));
    assert_eq!(b.world.events(), [PROBED, ADDED]);
}

// RFC 5227 2.1.1
#[test]
fn an_answer_to_a_probe_and_a_rivals_probe_are_conflicts() {
    for (op, sender, target) in [(2, ADDR, NOBODY), (1, ADDR, [10, 0, 0, 9]), (1, NOBODY, ADDR)] {
        let mut b = bench();
        b.assign(leased(Acd::On));
        b.pass(Duration::from_secs(1));
        b.hear(op, sender, target);
        assert_eq!(b.state(), Some(AddressState::Duplicate));
        assert_eq!(b.world.events(), [PROBED, DUPLICATE, REMOVED]);
        assert_eq!(b.pass(Duration::from_mins(5)), [], "a leased one is not tried again");
    }
}

// RFC 5227 2.1.1: not more often than RATE_LIMIT_INTERVAL
#[test]
fn a_configured_address_is_tried_again_every_minute() {
    let mut b = bench();
    b.assign(configured(Acd::On));
    b.pass(Duration::from_secs(1));
    b.hear(2, ADDR, NOBODY);
    b.world.events();
    assert_eq!(b.pass(Duration::from_secs(59)), []);
    let sent = b.pass(Duration::from_secs(12));
    assert_eq!(sent.iter().filter(|s| s.1 == NOBODY).count(), 3);
    assert_eq!(b.state(), Some(AddressState::Preferred));
    assert_eq!(b.world.events(), [PROBED, ADDED]);
}

#[test]
fn what_others_say_of_other_addresses_is_no_conflict() {
    let mut b = bench();
    b.assign(leased(Acd::On));
    b.pass(Duration::from_secs(1));
    b.hear(1, [10, 0, 0, 9], ADDR);
    b.hear(1, NOBODY, [10, 0, 0, 9]);
    b.hear(2, [10, 0, 0, 9], NOBODY);
    assert_eq!(b.state(), Some(AddressState::Tentative));
    b.pass(Duration::from_secs(7));
    assert_eq!(b.state(), Some(AddressState::Preferred));
}

// RFC 5227 2.4 (b)
#[test]
fn a_probed_address_is_defended_once_and_given_up_to_who_insists() {
    let mut b = bench();
    b.assign(leased(Acd::On));
    b.pass(Duration::from_secs(12));
    b.world.events();
    b.hear(1, ADDR, ADDR);
    assert_eq!(b.pass(Duration::from_secs(9)).len(), 1, "defended");
    assert_eq!((b.state(), b.world.events()), (Some(AddressState::Preferred), vec![]));
    b.hear(1, ADDR, ADDR);
    assert_eq!(b.pass(Duration::ZERO), []);
    assert_eq!(b.state(), Some(AddressState::Duplicate));
    assert_eq!(b.world.events(), [DUPLICATE, REMOVED]);

    // Not within DEFEND_INTERVAL: defended each time.
    let mut b = bench();
    b.assign(leased(Acd::On));
    b.pass(Duration::from_secs(12));
    for _ in 0..3 {
        b.hear(1, ADDR, ADDR);
        assert_eq!(b.pass(Duration::from_secs(11)).len(), 1);
    }
    assert_eq!(b.state(), Some(AddressState::Preferred));
}

// RFC 5227 2.4 (c)
#[test]
fn a_configured_address_is_used_at_once_and_kept() {
    let mut b = bench();
    b.assign(configured(Acd::Defend));
    assert_eq!(b.state(), Some(AddressState::Preferred));
    let sent = b.pass(Duration::from_secs(5));
    let what: Vec<_> = sent.iter().map(|s| (s.1, s.2)).collect();
    assert_eq!(what, [(NOBODY, ADDR), (ADDR, ADDR), (ADDR, ADDR)], "asked for once, announced");
    b.world.events();
    for _ in 0..4 {
        b.hear(2, ADDR, NOBODY);
    }
    assert_eq!(b.pass(Duration::from_secs(9)).len(), 1, "one defence in ten seconds");
    assert_eq!(b.world.events(), [DUPLICATE]);
    assert_eq!(b.state(), Some(AddressState::Preferred));
    b.pass(Duration::from_secs(2));
    b.hear(2, ADDR, NOBODY);
    assert_eq!((b.sent().len(), b.world.events()), (1, vec![DUPLICATE]), "and one in the next");
}

#[test]
fn without_detection_a_conflict_is_only_told() {
    let mut b = bench();
    b.assign(configured(Acd::Off));
    let sent = b.pass(Duration::from_secs(5));
    assert!(sent.iter().all(|s| s.1 == ADDR), "announced, not asked for");
    b.world.events();
    b.hear(1, ADDR, ADDR);
    b.hear(1, ADDR, ADDR);
    assert_eq!((b.sent(), b.world.events()), (vec![], vec![DUPLICATE]));
    assert_eq!(b.state(), Some(AddressState::Preferred));
}

#[test]
fn probing_starts_again_when_the_link_is_back() {
    let mut b = bench();
    b.assign(leased(Acd::On));
    b.pass(Duration::from_secs(2));
    b.apply(Change::AliasLink { alias: ID, up: false, mtu: 1500 }).unwrap();
    b.sent();
    assert_eq!(b.pass(Duration::from_mins(1)), []);
    b.apply(Change::AliasLink { alias: ID, up: true, mtu: 1500 }).unwrap();
    let sent = b.pass(Duration::from_secs(12));
    assert_eq!(sent.iter().filter(|s| s.1 == NOBODY).count(), 3);
    assert_eq!(b.state(), Some(AddressState::Preferred));
}

#[test]
fn a_lease_is_renewed_in_place_then_deprecated_then_gone() {
    let mut b = bench();
    let secs = |n| Some(Duration::from_secs(n));
    let terms = AddressTerms { preferred: secs(50), valid: secs(100), ..leased(Acd::Off) };
    b.assign(terms);
    b.pass(Duration::from_secs(40));
    assert_eq!(b.world.events(), [ADDED]);
    b.assign(terms);
    b.pass(Duration::from_secs(45));
    assert_eq!(b.state(), Some(AddressState::Preferred));
    b.pass(Duration::from_secs(10));
    assert_eq!(b.state(), Some(AddressState::Deprecated));
    b.assign(terms);
    assert_eq!(b.state(), Some(AddressState::Preferred), "renewed late");
    b.pass(Duration::from_secs(101));
    assert_eq!((b.state(), b.world.events()), (None, vec![REMOVED]));
    assert!(b.ip.aliases[&ID].terms.is_empty());
    assert_eq!(b.world.timers.len(), 0);
}

#[test]
fn an_address_of_another_origin_is_left_alone() {
    let mut b = bench();
    b.apply(Change::AddressAdd { alias: ID, cidr: cidr() }).unwrap();
    let terms = leased(Acd::On);
    let taken = b.apply(Change::AddressAssign { alias: ID, cidr: cidr(), terms });
    assert_eq!(taken, Err(ChangeError::AddressExists(addr())));
    assert!(b.ip.aliases[&ID].terms.is_empty());
    let gone = b.apply(Change::AddressRemove { alias: ID, addr: addr() });
    assert_eq!(gone, Ok(()));
}

#[test]
fn an_address_that_is_taken_away_is_no_longer_probed() {
    let mut b = bench();
    b.assign(leased(Acd::On));
    b.pass(Duration::from_secs(1));
    b.apply(Change::AddressRemove { alias: ID, addr: addr() }).unwrap();
    b.sent();
    assert_eq!(b.pass(Duration::from_secs(20)), []);
    assert_eq!(b.world.events(), [PROBED, REMOVED]);
    assert_eq!(b.state(), None);
}

#[test]
fn an_alias_that_moves_keeps_its_address_and_announces_it_from_its_new_hardware_address() {
    let mut b = bench();
    b.assign(configured(Acd::Defend));
    b.pass(Duration::from_secs(10));
    let mut config = b.ip.aliases[&ID].config.clone();
    config.medium = AliasMedium::Ethernet { mac: [2, 0, 0, 0, 0, 9] };
    config.mtu = 1400;
    let change = |config, elsewhere| Change::AliasMove { config, elsewhere };
    b.apply(change(config.clone(), true)).unwrap();
    let frames = b.world.all_sent();
    let first = frames.iter().find(|f| f[12..14] == [8, 6]).expect("an announcement");
    assert_eq!((&first[6..12], &first[22..28]), (&[2, 0, 0, 0, 0, 9][..], &[2, 0, 0, 0, 0, 9][..]));
    assert_eq!((&first[28..32], &first[38..42]), (&ADDR[..], &ADDR[..]));
    let entry = &b.ip.aliases[&ID];
    assert!(entry.address(addr()).is_some_and(|a| a.state.usable()));
    assert_eq!(entry.config.mtu, 1400);
    b.pass(Duration::from_secs(10));

    config.mtu = 1300;
    b.apply(change(config.clone(), false)).unwrap();
    assert_eq!(b.world.all_sent().len(), 0, "it stands where it stood");
    config.medium = AliasMedium::Ip;
    assert_eq!(b.apply(change(config, true)), Err(ChangeError::MediumOther(ID)));
}

use super::*;
use crate::ctx::testing::World;
use crate::ip::address::{AddressState, AliasConfig, AliasMedium, Origin};

const ID: AliasId = AliasId(1);

struct Bench {
    world: World,
    link: Link,
    ip: Ip,
}

fn bench() -> Bench {
    let world = World::new();
    let mut ip = Ip::new(&crate::stack::StackConfig::default(), &world.secrets, world.now);
    let config =
        AliasConfig::up_without_offload(ID, AliasMedium::Ethernet { mac: [2, 0, 0, 0, 0, 1] });
    let mut alias = Alias::new(config);
    for cidr in ["10.0.0.1/24", "fe80::1/64"] {
        alias.addresses.push(crate::ip::address::Address {
            cidr: cidr.parse().unwrap(),
            state: AddressState::Preferred,
            origin: Origin::Static,
        });
    }
    ip.aliases.insert(ID, alias);
    Bench { world, link: Link::default(), ip }
}

fn g(s: &str) -> IpAddr {
    s.parse().unwrap()
}

impl Bench {
    fn join(&mut self, group: &str) -> Result<(), ChangeError> {
        let mut ctx = self.world.ctx();
        may_join(&mut ctx, &self.ip, ID, g(group))?;
        join_internal(&mut ctx, &mut self.ip, ID, g(group));
        Ok(())
    }

    fn leave(&mut self, group: &str) {
        leave(&mut self.world.ctx(), &mut self.ip, ID, g(group));
    }

    /// Time passes; returns the messages sent, with their destination MAC.
    fn pass(&mut self, time: Duration) -> Vec<(Vec<u8>, Vec<u8>)> {
        // Timers fire within a tick of the wheel, not before.
        let end = self.world.now + time + Duration::from_micros(100);
        while let Some(at) = self.world.timers.next_deadline().filter(|at| *at <= end) {
            self.world.now = self.world.now.max(at);
            let ctx = &mut self.world.ctx();
            if ctx.timers.pop_expired(ctx.now) == Some(Timer::Membership) {
                timeout(ctx, &mut self.link, &mut self.ip);
            }
        }
        self.world.now = end;
        let sent = self.world.all_sent();
        sent.into_iter().map(|f| (f[..6].to_vec(), payload(&f))).collect()
    }

    fn igmp(&mut self, message: &[u8]) -> Fate {
        let mut m = message.to_vec();
        if m.len() >= 8 {
            let sum = checksum::finish(checksum::sum(&m));
            m[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let packet = Self::packet("10.0.0.254", "224.0.0.1", 2);
        let frame = Frame::from_heap(0, &m);
        input_igmp(&mut self.world.ctx(), &mut self.ip, &packet, &frame)
    }

    fn mld(&mut self, src: &str, message: &[u8]) -> Fate {
        let packet = Self::packet(src, "ff02::1", 58);
        let frame = Frame::from_heap(0, message);
        input_mld(&mut self.world.ctx(), &mut self.ip, &packet, &frame)
    }

    fn packet(src: &str, dst: &str, protocol: u8) -> InPacket {
        InPacket {
            src: g(src),
            dst: g(dst),
            protocol,
            traffic_class: 0,
            hop_limit: 1,
            alias: ID,
            to_many: true,
            below: None,
        }
    }
}

/// Checks the IP header (hop limit 1, router alert) and returns what follows.
fn payload(frame: &[u8]) -> Vec<u8> {
    let ip = &frame[14..];
    if ip[0] >> 4 == 4 {
        assert_eq!((ip[0], ip[8], ip[9], &ip[20..24]), (0x46, 1, 2, &[148, 4, 0, 0][..]));
        assert!(checksum::is_valid(checksum::sum(&ip[24..])));
        return ip[24..].to_vec();
    }
    assert_eq!((ip[6], ip[7], &ip[40..46]), (0, 1, &[58, 0, 5, 2, 0, 0][..]));
    ip[48..].to_vec()
}

fn mld_query(group: &str, ms: u16, v2: bool) -> Vec<u8> {
    let mut m = vec![130, 0, 0, 0];
    m.extend(ms.to_be_bytes());
    m.extend([0, 0]);
    m.extend(group.parse::<Ipv6Addr>().unwrap().octets());
    if v2 {
        m.extend([2, 125, 0, 0]);
    }
    m
}

#[test]
fn joining_and_leaving_is_reported_twice() {
    let mut b = bench();
    b.join("239.1.2.3").unwrap();
    b.join("239.1.2.3").unwrap();
    b.join("ff02::abcd").unwrap();
    let reports = b.pass(Duration::from_secs(3));
    assert_eq!(reports.len(), 4);
    let v4: Vec<_> = reports.iter().filter(|r| r.0 == [1, 0, 0x5e, 0, 0, 22]).collect();
    let joined = [0x22, 0, v4[0].1[2], v4[0].1[3], 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 2, 3];
    assert!(v4.len() == 2 && v4.iter().all(|r| r.1 == joined));
    let v6: Vec<_> = reports.iter().filter(|r| r.0 == [0x33, 0x33, 0, 0, 0, 0x16]).collect();
    assert!(v6.len() == 2 && v6.iter().all(|r| r.1[0] == 143 && r.1[8] == 4));

    b.leave("239.1.2.3");
    assert!(b.ip.aliases[&ID].groups.contains(g("239.1.2.3")), "one user left");
    assert!(b.pass(Duration::from_secs(3)).is_empty());
    b.leave("239.1.2.3");
    b.leave("239.1.2.3");
    assert!(!b.ip.aliases[&ID].groups.contains(g("239.1.2.3")));
    let reports = b.pass(Duration::from_secs(3));
    assert!(reports.len() == 2 && reports.iter().all(|r| r.1[8] == 3));
    let events = b.world.events();
    let want = [
        Event::GroupJoined { alias: ID, group: g("239.1.2.3") },
        Event::GroupJoined { alias: ID, group: g("ff02::abcd") },
        Event::GroupLeft { alias: ID, group: g("239.1.2.3") },
    ];
    assert_eq!(events, want);
    assert_eq!(b.ip.aliases[&ID].groups.members.len(), 1);
    assert_eq!((b.world.timers.len(), b.world.mib.neighbour.out_group_reports), (0, 6));
}

#[test]
fn queries_are_answered_once_within_their_time() {
    let mut b = bench();
    for group in ["239.1.1.1", "239.1.1.2", "224.0.0.1", "ff05::1", "ff01::9", "ff02::1"] {
        b.join(group).unwrap();
    }
    b.pass(Duration::from_secs(3));
    let general = [0x11, 50, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
    assert_eq!(b.igmp(&general), Fate::Consumed);
    assert_eq!(b.igmp(&general), Fate::Consumed);
    let answers = b.pass(Duration::from_secs(5));
    let records: Vec<&[u8]> = answers.iter().flat_map(|a| a.1[8..].chunks(8)).collect();
    assert_eq!(records, [[2, 0, 0, 0, 239, 1, 1, 1], [2, 0, 0, 0, 239, 1, 1, 2]]);
    let specific = [0x11, 10, 0, 0, 239, 1, 1, 2, 2, 125, 0, 0];
    assert_eq!(b.igmp(&specific), Fate::Consumed);
    let answers = b.pass(Duration::from_secs(1));
    assert_eq!((answers.len(), &answers[0].1[8..]), (1, &[2, 0, 0, 0, 239, 1, 1, 2][..]));
    let _ = b.igmp(&[0x11, 10, 0, 0, 239, 9, 9, 9, 2, 125, 0, 0]);
    assert!(b.pass(Duration::from_secs(9)).is_empty(), "not a member");

    assert_eq!(b.mld("fe80::9", &mld_query("::", 1000, true)), Fate::Consumed);
    let answers = b.pass(Duration::from_secs(1));
    assert_eq!((answers.len(), answers[0].1[7], answers[0].1[8]), (1, 1, 2));
    assert_eq!(b.world.mib.neighbour.in_group_queries, 5);
}

#[test]
fn older_queriers_are_answered_in_their_language() {
    let mut b = bench();
    b.join("239.1.1.1").unwrap();
    b.join("ff05::1").unwrap();
    b.pass(Duration::from_secs(3));
    let _ = b.igmp(&[0x11, 10, 0, 0, 0, 0, 0, 0]);
    let _ = b.mld("fe80::9", &mld_query("::", 1000, false));
    let answers = b.pass(Duration::from_secs(2));
    let mut kinds: Vec<u8> = answers.iter().map(|a| a.1[0]).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [0x16, 131]);
    assert!(answers.iter().any(|a| a.0 == [1, 0, 0x5e, 1, 1, 1]), "to the group itself");
    // Another member's report answers for us.
    let _ = b.igmp(&[0x11, 10, 0, 0, 0, 0, 0, 0]);
    let _ = b.igmp(&[0x16, 0, 0, 0, 239, 1, 1, 1]);
    assert!(b.pass(Duration::from_secs(2)).is_empty());
    b.leave("239.1.1.1");
    let left = b.pass(Duration::from_secs(3));
    assert_eq!((left.len(), left[0].1[0]), (1, 0x17));
    assert_eq!(left[0].0, [1, 0, 0x5e, 0, 0, 2]);
    // The older querier falls silent: version 3 again.
    b.pass(Duration::from_mins(5));
    b.join("239.1.1.7").unwrap();
    assert_eq!(b.pass(Duration::ZERO)[0].1[0], 0x22);
}

#[test]
fn groups_are_bounded_and_garbage_is_refused() {
    const INVALID: Fate = Fate::Dropped(DropReason::MembershipInvalid);
    let mut b = bench();
    b.world.limits.groups = 2;
    b.join("239.1.1.1").unwrap();
    b.join("239.1.1.2").unwrap();
    assert_eq!(b.join("239.1.1.3"), Err(ChangeError::Limit("multicast groups")));
    b.join("239.1.1.1").unwrap();
    assert!(b.join("10.0.0.1").is_err());
    b.leave("239.9.9.9");
    let good = [0x11, 50, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
    for len in (0..8).chain(9..12) {
        assert_eq!(b.igmp(&good[..len]), INVALID, "{len}");
    }
    assert_eq!(b.igmp(&[0x11, 50, 0, 0, 10, 0, 0, 1, 2, 125, 0, 0]), INVALID);
    assert_eq!(b.igmp(&[0x99, 0, 0, 0, 0, 0, 0, 0]), INVALID);
    let query = mld_query("::", 1000, true);
    for len in (0..24).chain(25..28) {
        assert_eq!(b.mld("fe80::9", &query[..len]), INVALID, "{len}");
    }
    assert_eq!(b.mld("2001:db8::9", &query), INVALID, "from off the link");
    assert_eq!(b.mld("::", &query), INVALID);
    assert_eq!(b.mld("fe80::9", &[143, 0, 0, 0, 0, 0, 0, 0]), Fate::Consumed);
    b.pass(Duration::from_secs(3));
    assert_eq!(b.world.timers.len(), 0);
}

#[test]
fn two_hundred_groups_share_reports_that_fit() {
    let mut b = bench();
    for i in 0..200 {
        b.join(&format!("ff05::{i:x}:1")).unwrap();
    }
    let reports = b.pass(Duration::ZERO);
    assert_eq!(reports.len(), 4);
    assert!(reports.iter().all(|r| r.1.len() + 48 <= 1280));
}

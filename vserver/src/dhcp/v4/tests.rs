use super::super::bench;
use super::super::message4::tests::reply;
use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 1];
const OTHER: [u8; 4] = [10, 0, 0, 2];
const ADDR: [u8; 4] = [10, 0, 0, 5];

type Bench = bench::Bench<Client4>;

fn settings() -> Settings {
    Settings {
        client: b"\0id".to_vec(),
        class: String::from("weft"),
        mac: MAC,
        servers: Vec::new(),
        prefer: Vec::new(),
        vendor_only: false,
        cached_after: Duration::from_secs(5),
        keep_expired: false,
        spread: Duration::ZERO,
    }
}

fn lease(seconds: u32) -> Lease {
    let data = reply(Kind::Ack, 0, ADDR, &options(SERVER, &seconds.to_be_bytes()));
    Reply::parse(&data).unwrap().lease().unwrap().0
}

fn options(server: [u8; 4], seconds: &[u8]) -> Vec<(u8, &[u8])> {
    let server: &'static [u8; 4] = if server == SERVER { &SERVER } else { &OTHER };
    vec![(54, server), (51, seconds), (1, &[255, 255, 255, 0])]
}

fn bench_with(settings: Settings, cached: Option<(Lease, Duration)>) -> Bench {
    Bench::new(|now| Client4::start(settings, 3, now, cached))
}

fn bench() -> Bench {
    bench_with(settings(), None)
}

/// Type, xid, ciaddr, requested address and server of a message that was sent.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: u8,
    ciaddr: [u8; 4],
    requested: Option<[u8; 4]>,
    server: Option<[u8; 4]>,
}

fn seen(data: &[u8]) -> Seen {
    let find = |code: u8| {
        let mut at = 240;
        while data[at] != 255 {
            if data[at] == code {
                return Some(data[at + 2..at + 2 + usize::from(data[at + 1])].to_vec());
            }
            at += 2 + usize::from(data[at + 1]);
        }
        None
    };
    let addr = |code| find(code).map(|d| <[u8; 4]>::try_from(d).unwrap());
    Seen {
        kind: find(53).unwrap()[0],
        ciaddr: data[12..16].try_into().unwrap(),
        requested: addr(50),
        server: addr(54),
    }
}

impl Bench {
    fn hear(&mut self, kind: Kind, addr: [u8; 4], options: &[(u8, &[u8])]) {
        let data = reply(kind, self.client.xid(), addr, options);
        self.client.receive(self.now, &data);
        self.drain();
    }

    fn sent(&mut self) -> Vec<(Instant, To, Seen)> {
        let all = std::mem::take(&mut self.actions);
        all.into_iter()
            .filter_map(|(at, a)| match a {
                Action::Send { to, data } => Some((at, to, seen(&data))),
                _ => None,
            })
            .collect()
    }

    fn bind(&mut self, seconds: u32) {
        let seconds = seconds.to_be_bytes();
        self.hear(Kind::Offer, ADDR, &options(SERVER, &seconds));
        self.hear(Kind::Ack, ADDR, &options(SERVER, &seconds));
        self.client.checked(self.now, ADDR.into(), None);
        assert_eq!(self.client.state(), State::Bound);
    }

    fn gaps(&mut self) -> Vec<f64> {
        let times: Vec<Instant> = self.sent().iter().map(|s| s.0).collect();
        bench::gaps(&times)
    }
}

// RFC 2131 4.1
#[test]
fn discovers_are_repeated_with_doubling_waits() {
    let mut b = bench();
    b.secs(400);
    let gaps = b.gaps();
    for (gap, base) in gaps.iter().zip([4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0]) {
        assert!((gap - base).abs() <= 1.0, "{gaps:?}");
    }
    assert!(gaps.len() >= 7);
    assert_eq!(b.client.state(), State::Selecting);
}

// RFC 2131 3.1, 4.3.1, 4.3.2, table 5
#[test]
fn an_offer_is_requested_and_the_address_checked_before_it_counts() {
    let mut b = bench();
    let first = b.sent();
    let discover = Seen { kind: 1, ciaddr: [0; 4], requested: None, server: None };
    assert_eq!((first[0].1, &first[0].2), (To::Everybody, &discover));
    b.hear(Kind::Offer, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    let request = Seen { kind: 3, ciaddr: [0; 4], requested: Some(ADDR), server: Some(SERVER) };
    assert_eq!(b.sent()[0].2, request);
    assert_eq!(b.client.state(), State::Requesting);
    b.hear(Kind::Ack, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    assert_eq!(b.client.state(), State::Checking);
    assert_eq!(b.done(), ["assign", "store"]);
    b.client.checked(b.now, ADDR.into(), None);
    assert_eq!(b.client.state(), State::Bound);
    assert_eq!(b.client.common.counts.acks, 1);
}

#[test]
fn a_request_without_an_answer_ends_in_a_new_search() {
    let mut b = bench();
    b.hear(Kind::Offer, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    b.sent();
    b.secs(70);
    let kinds: Vec<u8> = b.sent().iter().map(|s| s.2.kind).collect();
    assert_eq!(kinds[..4], [3, 3, 3, 1]);
    let late = reply(Kind::Ack, 1, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    b.client.receive(b.now, &late);
    assert_eq!(b.client.common.counts.not_asked, 1);
}

// RFC 2131 4.4.5
#[test]
fn a_lease_is_renewed_at_t1_rebound_at_t2_and_lost_at_its_end() {
    let mut b = bench();
    b.bind(8000);
    b.sent();
    let begin = b.now;
    b.secs(3999);
    assert!(b.sent().is_empty());
    b.secs(2);
    assert_eq!(b.client.state(), State::Renewing);
    let renew = Seen { kind: 3, ciaddr: ADDR, requested: None, server: None };
    let unicast = To::Server { from: ADDR.into(), to: SERVER.into() };
    let first = b.sent();
    assert_eq!((first[0].1, &first[0].2), (unicast, &renew));
    b.secs(2998);
    // half of what remains until T2, at least a minute
    let gaps = b.gaps();
    assert!(gaps[0] > 740.0 && gaps.iter().all(|g| *g >= 59.9), "{gaps:?}");
    b.secs(5);
    assert_eq!(b.client.state(), State::Rebinding);
    let first = b.sent();
    assert_eq!((first[0].1, &first[0].2), (To::Everybody, &renew));
    b.secs(1000);
    assert!(b.now.saturating_since(begin) > Duration::from_secs(8000));
    assert_eq!(b.client.state(), State::Selecting);
    assert_eq!((b.done(), b.client.common.counts.expired), (vec!["withdraw", "forget"], 1));
}

// RFC 2131 4.4.5
#[test]
fn a_renewed_lease_keeps_its_address_in_use() {
    let mut b = bench();
    b.bind(8000);
    b.secs(4001);
    b.actions.clear();
    b.hear(Kind::Ack, ADDR, &options(SERVER, &8000_u32.to_be_bytes()));
    assert_eq!((b.client.state(), b.done()), (State::Bound, vec!["assign", "store"]));
    // another server, when rebinding, with another address
    b.secs(7002);
    assert_eq!(b.client.state(), State::Rebinding);
    b.actions.clear();
    b.hear(Kind::Ack, [10, 0, 0, 6], &options(OTHER, &[0, 0, 1, 0]));
    assert_eq!(b.done(), ["withdraw", "assign", "store"]);
    assert_eq!(b.client.state(), State::Checking, "the new one is checked first");
    let held = b.client.common.held.as_ref().unwrap();
    assert_eq!(held.lease.server_text(), "10.0.0.2");
}

// RFC 2131 3.1 4, 3.2 3, 4.4.5
#[test]
fn a_refusal_takes_the_address_away_and_slows_down_what_repeats() {
    let mut b = bench();
    b.bind(8000);
    b.secs(4001);
    b.actions.clear();
    b.hear(Kind::Nak, [0; 4], &[(54, &SERVER), (56, b"moved away")]);
    assert_eq!(b.done(), ["withdraw", "forget"]);
    assert_eq!(b.client.common.error.as_deref(), Some("refused by the server: moved away"));
    b.secs(1);
    let again = b.sent();
    assert_eq!((again[0].2.kind, again[0].2.requested), (1, None));
    let mut last = b.now;
    for n in 0..4 {
        b.hear(Kind::Offer, ADDR, &options(SERVER, &[0, 0, 1, 0]));
        b.hear(Kind::Nak, [0; 4], &[(54, &SERVER)]);
        b.actions.clear();
        b.secs(70);
        let at = b.sent()[0].0;
        assert!(at.saturating_since(last) >= Duration::from_secs(4 << n), "round {n}");
        last = b.now;
    }
    assert_eq!(b.client.common.counts.naks, 5);
}

// RFC 2131 3.1 5, 4.4.4
#[test]
fn an_address_that_another_host_has_is_declined() {
    let mut b = bench();
    b.hear(Kind::Offer, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    b.hear(Kind::Ack, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    b.actions.clear();
    b.client.checked(b.now, ADDR.into(), Some("02:00:00:00:00:99"));
    b.drain();
    let decline = Seen { kind: 4, ciaddr: [0; 4], requested: Some(ADDR), server: Some(SERVER) };
    let Action::Send { data, .. } = &b.actions[0].1 else { panic!("{:?}", b.actions) };
    assert_eq!(seen(data), decline);
    assert_eq!(b.done(), ["withdraw", "forget"]);
    assert_eq!(b.client.state(), State::Waiting);
    assert!(b.client.common.error.as_ref().unwrap().contains("02:00:00:00:00:99"));
    b.secs(9);
    assert!(b.sent().is_empty());
    b.secs(2);
    assert_eq!(b.sent()[0].2.kind, 1);
}

// RFC 2131 3.2, 4.3.2, 4.4.2
#[test]
fn the_address_of_the_cache_is_confirmed() {
    let mut b = bench_with(settings(), Some((lease(8000), Duration::from_secs(1000))));
    assert_eq!(b.client.state(), State::Confirming);
    let confirm = Seen { kind: 3, ciaddr: [0; 4], requested: Some(ADDR), server: None };
    assert_eq!(b.sent()[0].2, confirm);
    b.hear(Kind::Ack, ADDR, &options(SERVER, &8000_u32.to_be_bytes()));
    assert_eq!((b.client.state(), b.done()), (State::Checking, vec!["assign", "store"]));
}

// RFC 2131 3.2 3: what remains of the lease
#[test]
fn without_a_server_the_cache_is_used_and_servers_are_still_tried() {
    let mut b = bench_with(settings(), Some((lease(8000), Duration::from_secs(1000))));
    b.secs(4);
    assert!(b.done().is_empty());
    b.secs(2);
    assert_eq!(b.client.state(), State::Checking);
    let left = b.actions.iter().find_map(|(_, a)| match a {
        Action::Assign { left, .. } => *left,
        _ => None,
    });
    assert_eq!(left, Some(Duration::from_secs(6995)), "five seconds after the start");
    b.client.checked(b.now, ADDR.into(), None);
    assert_eq!(b.client.state(), State::Cached);
    b.secs(200);
    assert!(b.sent().iter().any(|s| s.2.kind == 1), "it looks for servers");
    assert_eq!(b.client.state(), State::Cached);
    b.hear(Kind::Offer, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    b.hear(Kind::Ack, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    assert_eq!((b.client.state(), b.done()), (State::Bound, vec!["assign", "store"]));
    assert_eq!(b.client.common.error, None);
}

#[test]
fn the_cache_ends_with_its_lease_unless_it_is_kept() {
    let old = Some((lease(8000), Duration::from_secs(7000)));
    let mut b = bench_with(settings(), old.clone());
    b.secs(1100);
    assert_eq!((b.client.state(), b.client.common.counts.expired), (State::Selecting, 1));
    let keep = Settings { keep_expired: true, ..settings() };
    let mut b = bench_with(keep.clone(), old);
    b.secs(6);
    b.client.checked(b.now, ADDR.into(), None);
    b.secs(10_000);
    assert_eq!(b.client.state(), State::Cached);

    let stale = Some((lease(8000), Duration::from_mins(150)));
    let b = bench_with(settings(), stale.clone());
    assert_eq!(b.client.state(), State::Selecting, "its time is over");
    let mut b = bench_with(keep, stale);
    b.secs(6);
    assert_eq!(b.client.state(), State::Checking);
}

#[test]
fn a_preferred_server_is_waited_for_and_another_one_taken_without_it() {
    let prefer = Settings { prefer: vec![SERVER.into()], ..settings() };
    let second = [10, 0, 0, 6];
    let hour = [0, 0, 14, 16];
    let mut b = bench_with(prefer.clone(), None);
    b.hear(Kind::Offer, second, &options(OTHER, &hour));
    b.pass(Duration::from_millis(1900));
    assert_eq!(b.client.state(), State::Selecting);
    b.hear(Kind::Offer, ADDR, &options(SERVER, &hour));
    let asked = b.sent();
    assert_eq!(asked.last().unwrap().2.server, Some(SERVER));
    // Without it the first offer is taken, before servers are asked again.
    let mut b = bench_with(prefer, None);
    b.sent();
    b.hear(Kind::Offer, second, &options(OTHER, &hour));
    b.hear(Kind::Offer, ADDR, &options(OTHER, &hour));
    b.secs(2);
    let asked: Vec<Seen> = b.sent().into_iter().map(|s| s.2).collect();
    let request = Seen { kind: 3, ciaddr: [0; 4], requested: Some(second), server: Some(OTHER) };
    assert_eq!(asked, [request]);
}

#[test]
fn only_the_servers_that_may_are_heard() {
    let only = Settings { servers: vec![SERVER.into()], ..settings() };
    let mut b = bench_with(only, None);
    b.hear(Kind::Offer, ADDR, &options(OTHER, &[0, 0, 1, 0]));
    assert_eq!(b.client.state(), State::Selecting);
    assert_eq!(b.client.common.counts.strange_server, 1);
    assert!(b.client.common.error.as_ref().unwrap().starts_with("10.0.0.2 answers"));
    b.bind(256);

    let vendor = Settings { vendor_only: true, ..settings() };
    let mut b = bench_with(vendor, None);
    b.hear(Kind::Offer, ADDR, &options(OTHER, &[0, 0, 1, 0]));
    assert_eq!((b.client.state(), b.client.common.counts.no_vendor), (State::Selecting, 1));
    let with = [&options(SERVER, &[0, 0, 1, 0])[..], &[(43, &[1, 1, 1][..])]].concat();
    b.hear(Kind::Offer, ADDR, &with);
    assert_eq!(b.client.state(), State::Requesting);
}

// RFC 6842: clients that share a MAC address
#[test]
fn answers_to_others_are_left_to_them() {
    let mut b = bench();
    let wrong = [&options(SERVER, &[0, 0, 1, 0])[..], &[(61, &b"\0other"[..])]].concat();
    b.hear(Kind::Offer, ADDR, &wrong);
    let right = [&options(SERVER, &[0, 0, 1, 0])[..], &[(61, &b"\0id"[..])]].concat();
    assert_eq!((b.client.state(), b.client.common.counts.not_asked), (State::Selecting, 1));
    b.hear(Kind::Offer, ADDR, &right);
    assert_eq!(b.client.state(), State::Requesting);
    // an acknowledgement of a server that was not chosen
    b.hear(Kind::Ack, ADDR, &options(OTHER, &[0, 0, 1, 0]));
    assert_eq!((b.client.state(), b.client.common.counts.not_asked), (State::Requesting, 2));
}

#[test]
fn malformed_messages_are_counted_by_reason_and_change_nothing() {
    let mut b = bench();
    b.client.receive(b.now, &[0; 10]);
    b.hear(Kind::Offer, ADDR, &options(SERVER, &[0, 1]));
    b.hear(Kind::Offer, [0; 4], &options(SERVER, &[0, 0, 1, 0]));
    b.hear(Kind::Discover, ADDR, &options(SERVER, &[0, 0, 1, 0]));
    let c = &b.client.common.counts;
    assert_eq!((c.truncated, c.bad_lease, c.bad_address, c.not_dhcp), (1, 1, 1, 1));
    assert_eq!((c.received, b.client.state()), (4, State::Selecting));
}

// RFC 2131 4.4.6
#[test]
fn an_operator_renews_and_releases() {
    let mut b = bench();
    b.bind(8000);
    b.sent();
    b.client.renew(b.now);
    b.drain();
    assert_eq!((b.client.state(), b.sent()[0].2.ciaddr), (State::Renewing, ADDR));
    b.client.release(b.now);
    b.drain();
    let Action::Send { to, data } = &b.actions[0].1 else { panic!("{:?}", b.actions) };
    assert_eq!(*to, To::Farewell { from: ADDR.into(), to: SERVER.into() });
    let release = Seen { kind: 7, ciaddr: ADDR, requested: None, server: Some(SERVER) };
    assert_eq!(seen(data), release);
    assert_eq!((b.done(), b.client.state()), (vec!["withdraw", "forget"], State::Released));
    assert_eq!(b.client.deadline(), None);
    b.client.renew(b.now);
    b.drain();
    let again = b.sent();
    assert_eq!((again[0].2.kind, again[0].2.requested), (1, Some(ADDR)), "the one it had");
}

#[test]
fn a_lease_for_ever_has_no_deadline() {
    let mut b = bench();
    b.bind(u32::MAX);
    assert_eq!(b.client.deadline(), None);
}

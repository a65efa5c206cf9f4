use super::super::bench;
use super::super::message6::tests::{CLIENT, SERVER, answer, ia};
use super::*;

const ADDR: &str = "fd00::5";
const IAID: u32 = 2;

type Bench = bench::Bench<Client6>;

fn settings() -> Settings {
    Settings {
        client: CLIENT.to_vec(),
        iaid: IAID,
        enterprise: 32_473,
        class: String::from("weft"),
        rapid_commit: false,
        vendor_only: false,
        cached_after: Duration::from_secs(5),
        keep_expired: false,
        spread: Duration::ZERO,
    }
}

fn one(addr: &str, times: (u32, u32)) -> Vec<u8> {
    ia(IAID, 1000, 1600, addr, times)
}

fn lease() -> Lease {
    let data = answer(Kind::Reply, [0; 3], &[(3, &one(ADDR, (2000, 3000)))]);
    Answer::parse(&data).unwrap().lease(IAID, 1).unwrap().unwrap().0
}

fn bench_with(settings: Settings, cached: Option<(Lease, Duration)>) -> Bench {
    Bench::new(|now| Client6::start(settings, 3, now, cached))
}

impl Bench {
    fn hear(&mut self, kind: Kind, options: &[(u16, &[u8])]) {
        let data = answer(kind, self.client.xid(), options);
        self.client.receive(self.now, &data);
        self.drain();
    }

    /// When, which message, whether it names a server.
    fn sent(&mut self) -> Vec<(Instant, u8, bool)> {
        let all = std::mem::take(&mut self.actions);
        all.into_iter()
            .filter_map(|(at, a)| match a {
                Action::Send { to: To::Servers6, data } => {
                    let named = data.windows(SERVER.len()).any(|w| w == SERVER);
                    Some((at, data[0], named))
                }
                _ => None,
            })
            .collect()
    }

    fn bind(&mut self) {
        let ia = one(ADDR, (2000, 3000));
        self.hear(Kind::Advertise, &[(3, &ia), (7, &[255])]);
        self.hear(Kind::Reply, &[(3, &ia)]);
        self.client.checked(self.now, ADDR.parse().unwrap(), None);
        assert_eq!(self.client.state(), State::Bound);
        self.actions.clear();
    }

    fn gaps(&mut self) -> Vec<f64> {
        let times: Vec<Instant> = self.sent().iter().map(|s| s.0).collect();
        bench::gaps(&times)
    }
}

// RFC 8415 15, 18.2.1, 21.24
#[test]
fn solicits_back_off_to_what_a_server_may_set() {
    let mut b = bench_with(settings(), None);
    b.secs(20_000);
    let gaps = b.gaps();
    assert!(gaps[0] >= 1.0 && gaps[0] <= 1.1, "not below a second: {gaps:?}");
    for pair in gaps.windows(2).take(10) {
        let factor = pair[1] / pair[0];
        assert!((1.89..=2.11).contains(&factor), "{gaps:?}");
    }
    assert!(gaps.iter().all(|g| *g <= 3960.0), "{gaps:?}");
    let none = [0, 2, b'n', b'o'];
    b.hear(Kind::Advertise, &[(13, &none), (82, &60_u32.to_be_bytes())]);
    assert_eq!(b.client.common.error.as_deref(), Some("the server has no address for us: no"));
    b.secs(10_000);
    b.actions.clear();
    b.secs(1000);
    assert!(b.gaps().iter().all(|g| *g <= 66.0), "SOL_MAX_RT of the server");
}

// RFC 8415 18.2.1, 18.2.9
#[test]
fn the_best_advertisement_of_the_first_wait_is_requested() {
    let mut b = bench_with(settings(), None);
    b.hear(Kind::Advertise, &[(3, &one("fd00::9", (2000, 3000)))]);
    b.hear(Kind::Advertise, &[(3, &one(ADDR, (2000, 3000))), (7, &[9])]);
    b.hear(Kind::Advertise, &[(3, &one("fd00::8", (2000, 3000))), (7, &[8])]);
    assert_eq!(b.sent().len(), 1);
    b.secs(2);
    let sent = b.sent();
    assert_eq!((sent[0].1, sent[0].2), (3, true), "a request that names the server");
    b.hear(Kind::Reply, &[(3, &one(ADDR, (2000, 3000)))]);
    assert_eq!((b.client.state(), b.done()), (State::Checking, vec!["assign", "store"]));
    let held = b.client.common.held.as_ref().unwrap();
    assert_eq!(held.lease.address.to_string(), ADDR);
}

// RFC 8415 18.2.1, 21.14
#[test]
fn a_reply_with_rapid_commit_is_taken_where_it_was_asked_for() {
    let rapid = Settings { rapid_commit: true, ..settings() };
    let reply: [(u16, &[u8]); 2] = [(3, &one(ADDR, (2000, 3000))), (14, &[])];
    let mut b = bench_with(rapid, None);
    b.hear(Kind::Reply, &reply);
    assert_eq!(b.client.state(), State::Checking);
    let mut b = bench_with(settings(), None);
    b.hear(Kind::Reply, &reply);
    assert_eq!((b.client.state(), b.client.common.counts.not_asked), (State::Selecting, 1));
}

// RFC 8415 15, 18.2.2
#[test]
fn a_request_ends_after_ten_messages() {
    let mut b = bench_with(settings(), None);
    b.hear(Kind::Advertise, &[(3, &one(ADDR, (2000, 3000))), (7, &[255])]);
    b.secs(300);
    let kinds: Vec<u8> = b.sent().iter().map(|s| s.1).collect();
    assert!(kinds[1..11].iter().all(|k| *k == 3), "{kinds:?}");
    assert_eq!(kinds[11], 1, "then it looks for servers again");
}

// RFC 8415 18.2.4, 18.2.5, 18.2.10.1
#[test]
fn a_lease_is_renewed_rebound_and_lost() {
    let mut b = bench_with(settings(), None);
    b.bind();
    b.secs(1001);
    let sent = b.sent();
    assert_eq!((sent[0].1, sent[0].2, b.client.state()), (5, true, State::Renewing));
    b.secs(200);
    let gaps = b.gaps();
    assert!(gaps[0] > 17.0 && gaps[0] < 23.0, "{gaps:?}");
    b.hear(Kind::Reply, &[(3, &one(ADDR, (2000, 3000)))]);
    assert_eq!((b.client.state(), b.done()), (State::Bound, vec!["assign", "store"]));
    b.secs(1601);
    let last = b.sent().pop().unwrap();
    assert_eq!((last.1, last.2, b.client.state()), (6, false, State::Rebinding));
    b.secs(1400);
    assert_eq!((b.client.state(), b.client.common.counts.expired), (State::Selecting, 1));
    assert_eq!(b.done(), ["withdraw", "forget"]);
}

// RFC 8415 18.2.10.1
#[test]
fn a_server_that_knows_no_lease_is_asked_for_it() {
    let mut b = bench_with(settings(), None);
    b.bind();
    b.secs(1001);
    b.actions.clear();
    let mut no_binding = ia(IAID, 0, 0, ADDR, (0, 0));
    no_binding.truncate(12);
    no_binding.extend([0, 13, 0, 2, 0, 3]);
    b.hear(Kind::Reply, &[(3, &no_binding)]);
    let sent = b.sent();
    assert_eq!((sent[0].1, sent[0].2), (3, true));
    b.hear(Kind::Reply, &[(3, &one(ADDR, (2000, 3000)))]);
    assert_eq!(b.client.state(), State::Bound, "it was in use all the time");
}

// RFC 8415 18.2.8
#[test]
fn an_address_that_another_host_has_is_declined() {
    let mut b = bench_with(settings(), None);
    b.hear(Kind::Advertise, &[(3, &one(ADDR, (2000, 3000))), (7, &[255])]);
    b.hear(Kind::Reply, &[(3, &one(ADDR, (2000, 3000)))]);
    b.actions.clear();
    b.client.checked(b.now, ADDR.parse().unwrap(), Some("02:00:00:00:00:99"));
    b.drain();
    assert_eq!(b.client.state(), State::Waiting);
    b.secs(5);
    let sent = b.sent();
    assert!(sent.len() >= 2 && sent.iter().all(|s| s.1 == 9 && s.2), "{sent:?}");
    b.hear(Kind::Reply, &[(13, &[0, 0])]);
    b.secs(9);
    assert!(b.sent().is_empty());
    b.secs(2);
    assert_eq!(b.sent()[0].1, 1);
}

// RFC 8415 18.2.3, 18.2.12
#[test]
fn the_address_of_the_cache_is_confirmed_or_refused_or_used() {
    let cached = Some((lease(), Duration::from_secs(500)));
    let mut b = bench_with(settings(), cached.clone());
    let first = b.sent();
    assert_eq!((b.client.state(), first[0].1, first[0].2), (State::Confirming, 4, false));
    b.hear(Kind::Reply, &[(13, &[0, 0])]);
    assert_eq!((b.client.state(), b.done()), (State::Checking, vec!["assign"]));
    b.client.checked(b.now, ADDR.parse().unwrap(), None);
    b.secs(501);
    assert_eq!(b.client.state(), State::Renewing, "the times are those of before");

    let mut b = bench_with(settings(), cached.clone());
    b.hear(Kind::Reply, &[(13, &[0, 4])]);
    assert_eq!((b.client.state(), b.client.common.counts.naks), (State::Waiting, 1));

    let mut b = bench_with(settings(), cached);
    b.secs(6);
    assert_eq!((b.client.state(), b.done()), (State::Checking, vec!["assign"]));
    b.secs(6);
    assert_eq!(b.sent().pop().unwrap().1, 1, "a search, after CNF_MAX_RD");
    b.client.checked(b.now, ADDR.parse().unwrap(), None);
    assert_eq!(b.client.state(), State::Cached);
    b.hear(Kind::Advertise, &[(3, &one(ADDR, (2000, 3000))), (7, &[255])]);
    b.hear(Kind::Reply, &[(3, &one(ADDR, (2000, 3000)))]);
    assert_eq!(b.client.state(), State::Bound);
}

// RFC 8415 18.2.7
#[test]
fn a_release_is_repeated_until_it_is_answered() {
    let mut b = bench_with(settings(), None);
    b.bind();
    b.client.release(b.now);
    b.drain();
    assert_eq!(b.client.state(), State::Released);
    b.secs(100);
    let sent = b.sent();
    assert_eq!(sent.iter().filter(|s| s.1 == 8).count(), 4);
    assert_eq!(b.client.deadline(), None);
    b.client.renew(b.now);
    b.drain();
    assert_eq!((b.client.state(), b.sent()[0].1), (State::Selecting, 1));
}

#[test]
fn what_is_not_for_it_or_malformed_is_counted() {
    let mut b = bench_with(settings(), None);
    b.client.receive(b.now, &[7]);
    b.hear(Kind::Advertise, &[(3, &ia(IAID, 9, 8, ADDR, (2000, 3000)))]);
    let other = answer(Kind::Advertise, [9, 9, 9], &[(3, &one(ADDR, (2000, 3000)))]);
    b.client.receive(b.now, &other);
    let c = &b.client.common.counts;
    assert_eq!((c.truncated, c.bad_lease, c.not_asked), (1, 1, 1));
    let vendor = Settings { vendor_only: true, ..settings() };
    let mut b = bench_with(vendor, None);
    b.hear(Kind::Advertise, &[(3, &one(ADDR, (2000, 3000))), (7, &[255])]);
    assert_eq!((b.client.common.counts.no_vendor, b.client.state()), (1, State::Selecting));
}

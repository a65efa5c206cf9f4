//! Ranks of destinations, history, table.

use core::net::IpAddr;

use weft_stack::rng::{Key, Rng};
use weft_stack::time::{Duration, Instant};

use crate::connect::order::{Facts, rank};
use crate::connect::{
    Form, History, Labels, PolicyTable, Protocol, Row, Rule, Source, Treatment, Wanted, scope,
};
use crate::locator::Pair;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pair(local: &str, remote: &str) -> Pair {
    Pair::new(ip(local), ip(remote))
}

/// A source by its text: `addr`, or `addr deprecated`; its prefix has 64 bits, or 24.
fn source(text: &str) -> Source {
    let (addr, deprecated) = match text.strip_suffix(" deprecated") {
        Some(addr) => (ip(addr), true),
        None => (ip(text), false),
    };
    Source { addr, prefix_len: if addr.is_ipv4() { 24 } else { 64 }, deprecated }
}

/// Destinations, each with the source it is reached from, in order.
fn sorted(labels: &Labels, list: &[(&str, &str)]) -> Vec<String> {
    let mut list: Vec<_> = list.to_vec();
    list.sort_by_cached_key(|(dst, src)| {
        let source = (!src.is_empty()).then(|| source(src));
        let facts = Facts { addr: ip(dst), source: source.as_ref(), failing: false, rtt: None };
        rank(labels, &facts)
    });
    list.into_iter().map(|(dst, _)| dst.to_owned()).collect()
}

// RFC 6724 6
#[test]
fn the_table_of_rfc_6724_10_2() {
    let labels = Labels::default();
    // Each list is in the order wanted.
    let table: &[&[(&str, &str)]] = &[
        // Matching scope.
        &[("2001:db8:1::1", "2001:db8:1::2"), ("198.51.100.121", "169.254.13.78")],
        &[("198.51.100.121", "198.51.100.117"), ("2001:db8:1::1", "fe80::1")],
        // Higher precedence.
        &[("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4")],
        // Smaller scope.
        &[("fe80::1", "fe80::2"), ("2001:db8:1::1", "2001:db8:1::2")],
        // Avoid deprecated.
        &[("2001:db8:1::1", "2001:db8:1::2"), ("fe80::1", "fe80::2 deprecated")],
        // Longest matching prefix.
        &[("2001:db8:1::1", "2001:db8:1::2"), ("2001:db8:3ffe::1", "2001:db8:3f44::2")],
        // Matching label.
        &[("2002:c633:6401::1", "2002:c633:6401::2"), ("2001:db8:1::1", "2002:c633:6401::2")],
        // Higher precedence, where both labels match.
        &[("2001:db8:1::1", "2001:db8:1::2"), ("2002:c633:6401::1", "2002:c633:6401::2")],
        // Avoid what cannot be reached.
        &[("10.1.2.3", "10.1.2.4"), ("2001:db8:1::1", "")],
        // Nothing to choose by: as they came.
        &[("10.1.2.9", "10.1.2.4"), ("10.1.2.3", "10.1.2.4"), ("10.1.2.5", "10.1.2.4")],
    ];
    for wanted in table {
        let names: Vec<String> = wanted.iter().map(|(d, _)| (*d).to_owned()).collect();
        assert_eq!(sorted(&labels, wanted), names);
        if wanted.len() == 2 {
            let other: Vec<_> = wanted.iter().rev().copied().collect();
            assert_eq!(sorted(&labels, &other), names, "whatever order they come in");
        }
    }
}

// RFC 6724 2.1
#[test]
fn an_administrator_may_prefer_ipv4() {
    let row = |prefix: &str, precedence, label| Row {
        prefix: prefix.parse().unwrap(),
        precedence,
        label,
    };
    let labels = Labels::new(vec![row("::/0", 40, 1), row("::ffff:0:0/96", 100, 4)]);
    let list = [("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4")];
    assert_eq!(sorted(&labels, &list), ["10.1.2.3", "2001:db8:1::1"]);
}

// RFC 6724 2.1
#[test]
fn a_row_takes_the_place_of_the_standards_and_leaves_the_others() {
    let row =
        |network: &str, precedence, label| Row::new(network.parse().unwrap(), precedence, label);
    let rows = [row("0.0.0.0/0", 100, 4), row("2001:db8::7/32", 45, 1), row("10.0.0.0/8", 9, 8)];
    assert_eq!(
        rows.map(|r| r.to_string()),
        ["::ffff:0.0.0.0/96 100 4", "2001:db8::/32 45 1", "::ffff:10.0.0.0/104 9 8"]
    );
    let labels = Labels::with(&rows);
    let of = |addr: &str| (labels.precedence(ip(addr)), labels.label(ip(addr)));
    assert_eq!((of("192.0.2.1"), of("10.1.2.3")), ((100, 4), (9, 8)));
    assert_eq!((of("2001:db8::1"), of("2001:db9::1")), ((45, 1), (40, 1)));
    assert_eq!((of("fd00::1"), of("::1")), ((3, 13), (50, 0)));
    assert_eq!(Labels::with(&[]), Labels::default());
    // A label that the source does not have comes before precedence (6, rule 5).
    let list = [("2001:db9::1", "2001:db9::2"), ("10.1.2.3", "192.0.2.2")];
    assert_eq!(sorted(&labels, &list), ["2001:db9::1", "10.1.2.3"]);
    let list = [("2001:db9::1", "2001:db9::2"), ("192.0.2.3", "192.0.2.2")];
    assert_eq!(sorted(&labels, &list), ["192.0.2.3", "2001:db9::1"]);
}

// RFC 6724 2.1
#[test]
fn the_policy_table_is_that_of_the_standard() {
    let labels = Labels::default();
    let table = [
        ("::1", 50, 0),
        ("2001:db8::1", 40, 1),
        ("192.0.2.1", 35, 4),
        ("2002:c000:201::1", 30, 2),
        ("2001::1", 5, 5),
        ("fd00::1", 3, 13),
        ("::192.0.2.1", 1, 3),
        ("fec0::1", 1, 11),
        ("3ffe::1", 1, 12),
    ];
    for (addr, precedence, label) in table {
        assert_eq!(
            (labels.precedence(ip(addr)), labels.label(ip(addr))),
            (precedence, label),
            "{addr}"
        );
    }
}

// RFC 6724 3.2
#[test]
fn scopes_are_those_of_multicast() {
    let table = [
        ("fe80::1", 2),
        ("::1", 2),
        ("fec0::1", 5),
        ("2001:db8::1", 14),
        ("ff05::1", 5),
        ("169.254.1.1", 2),
        ("127.0.0.1", 2),
        ("10.0.0.1", 14),
    ];
    for (addr, wanted) in table {
        assert_eq!(scope(ip(addr)), wanted, "{addr}");
    }
}

// RFC 8305 4
#[test]
fn a_destination_that_was_near_before_comes_earlier_and_a_dead_one_last() {
    let labels = Labels::default();
    let near = source("2001:db8:1::2");
    let key = |addr: &str, failing, rtt: Option<u64>| {
        let rtt = rtt.map(Duration::from_millis);
        rank(&labels, &Facts { addr: ip(addr), source: Some(&near), failing, rtt })
    };
    // Rule 9 would have the first two the other way round.
    assert!(key("2001:db8:2::1", false, Some(10)) < key("2001:db8:1::1", false, Some(30)));
    assert!(key("2001:db8:2::1", false, Some(10)) < key("2001:db8:1::1", false, None));
    assert!(key("2001:db8:1::1", true, Some(10)) > key("10.0.0.1", false, None));
}

#[test]
fn history_forgets_the_pair_not_used_for_longest() {
    let key = Key::generate(&mut Rng::from_u64(1));
    let mut history = History::new(3, key);
    let pairs: Vec<Pair> =
        (1..=4).map(|n| pair("2001:db8::1", &format!("2001:db8::{n}:9"))).collect();
    for p in &pairs[..3] {
        history.connected(*p, Duration::from_millis(8));
    }
    history.connected(pairs[0], Duration::from_millis(16));
    assert_eq!(history.rtt(pairs[0]), Some(Duration::from_millis(9)));
    history.failed(Instant::ZERO, pairs[3]);
    assert_eq!((history.len(), history.evicted()), (3, 1));
    assert_eq!(history.rtt(pairs[1]), None, "the oldest is forgotten");
    assert!(history.rtt(pairs[0]).is_some() && history.rtt(pairs[2]).is_some());
    history.resize(2);
    assert_eq!((history.len(), history.evicted()), (2, 2));
    assert_eq!(history.rtt(pairs[2]), None);
    history.forget_local(ip("2001:db8::1"));
    assert!(history.is_empty());
}

#[test]
fn a_pair_that_fails_is_avoided_longer_each_time_until_it_answers() {
    let mut history = History::new(8, Key::generate(&mut Rng::from_u64(1)));
    let p = pair("10.0.0.1", "10.0.0.2");
    let mut now = Instant::ZERO;
    for secs in [60, 120, 240, 480, 600, 600] {
        history.failed(now, p);
        now += Duration::from_millis(secs * 1000 - 1);
        assert!(history.is_failing(now, p));
        now += Duration::from_millis(1);
        assert!(!history.is_failing(now, p), "{secs} s are over");
    }
    let entry = &history.report(now)[0];
    assert_eq!((entry.failures, entry.avoided, entry.rtt_us), (6, false, None));
    history.failed(now, p);
    history.connected(p, Duration::from_millis(3));
    assert!(!history.is_failing(now, p));
    assert_eq!(history.report(now)[0].rtt_us, Some(3000));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rule =
        |class: Option<&str>, protocol, ports: Option<(u16, u16)>, to: Option<&str>, form| {
            let class = class.map(str::to_owned);
            let ports = ports.map(|(a, b)| a..=b);
            let to = to.map(|t| t.parse().unwrap());
            Rule { class, protocol, ports, to, treatment: Treatment::of(form) }
        };
    let table = PolicyTable {
        rules: vec![
            rule(Some("backup"), None, None, None, Form::Off),
            rule(None, Some(Protocol::Udp), Some((53, 53)), None, Form::Full),
            rule(None, Some(Protocol::Udp), None, None, Form::Off),
            rule(None, None, None, Some("2001:db8::/32"), Form::Full),
            rule(None, None, Some((8000, 8999)), None, Form::Weak),
        ],
        default: Treatment::of(Form::Off),
    };
    let form = |class, protocol, port, address: Option<&str>| {
        let address = address.map(ip);
        table.treatment(&Wanted { class, protocol, port, address }).form
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    assert_eq!(form(Some("backup"), tcp, 8080, Some("2001:db8::1")), Form::Off);
    assert_eq!(form(Some("web"), tcp, 8080, Some("2001:db8::1")), Form::Full);
    assert_eq!(form(None, udp, 53, Some("10.0.0.1")), Form::Full);
    assert_eq!(form(None, udp, 54, Some("2001:db8::1")), Form::Off);
    assert_eq!(form(None, tcp, 8999, Some("10.0.0.1")), Form::Weak);
    assert_eq!(form(None, tcp, 9000, Some("10.0.0.1")), Form::Off);
    assert_eq!(form(None, tcp, 80, None), Form::Off, "a name has no prefix yet");
    assert!(!table.is_off() && PolicyTable::default().is_off());
}

// RFC 8305 5
#[test]
fn the_attempt_delay_stays_within_its_bounds() {
    let of = |ms| Treatment::of(Form::Full).with_delay(Duration::from_millis(ms)).delay();
    assert_eq!(Treatment::of(Form::Full).delay(), Duration::from_millis(250));
    assert_eq!(of(1), Duration::from_millis(10));
    assert_eq!(of(100), Duration::from_millis(100));
    assert_eq!(of(5000), Duration::from_secs(2));
}

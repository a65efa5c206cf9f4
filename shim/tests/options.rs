//! Socket options of RFC 6316 over two hosts.
#![allow(clippy::unwrap_used)]

mod support;

use support::*;
use weft_shim::config::ShimConfig;
use weft_shim::options::{Of, OptionError, ShimOption, Value, get, set};
use weft_shim::reap::ReapConfig;
use weft_stack::time::Duration;

#[test]
fn a_socket_sees_its_context_and_chooses_its_locators() {
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::rfc(), [2, 2]);
    let of = Of { ulids: ulids(), fii: 0 };
    let now = lab.now;
    let read = |lab: &mut Lab, option| {
        let now = lab.now;
        get(lab.shim(0), now, of, option)
    };
    assert_eq!(read(&mut lab, ShimOption::Associated), Ok(Value::Flag(false)));
    assert_eq!(read(&mut lab, ShimOption::LocalSend), Err(OptionError::NoContext));
    assert_eq!(read(&mut lab, ShimOption::DeferredSetUp), Ok(Value::Flag(true)));
    // No longer deferred: it is set up at once, and asking twice does no harm.
    for _ in 0..2 {
        set(lab.shim(0), now, of, ShimOption::DeferredSetUp, &Value::Flag(false)).unwrap();
    }
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    assert_eq!(read(&mut lab, ShimOption::Associated), Ok(Value::Flag(true)));
    assert_eq!(read(&mut lab, ShimOption::LocalSend), Ok(Value::Addr(of.ulids.local)));
    let Ok(Value::List(ours)) = read(&mut lab, ShimOption::LocalList) else { panic!("no list") };
    let Ok(Value::List(peers)) = read(&mut lab, ShimOption::PeerList) else { panic!("no list") };
    assert_eq!((ours.locators.len(), peers.locators.len()), (2, 2));
    let Ok(Value::Locator(Some(best))) = read(&mut lab, ShimOption::PeerPreference) else {
        panic!("no preference")
    };
    assert!(peers.contains(best.addr));
    // Another locator of the peer, one that it does not have, one of the other kind of value.
    let other = peers.locators.iter().find(|l| l.addr != of.ulids.remote).unwrap().addr;
    let now = lab.now;
    set(lab.shim(0), now, of, ShimOption::PeerSend, &Value::Addr(other)).unwrap();
    assert_eq!(read(&mut lab, ShimOption::PeerSend), Ok(Value::Addr(other)));
    let stranger = Value::Addr("2001:db8:66::6".parse().unwrap());
    let refused = set(lab.shim(0), now, of, ShimOption::LocalSend, &stranger);
    assert_eq!(refused, Err(OptionError::InvalidLocator));
    let refused = set(lab.shim(0), now, of, ShimOption::PeerSend, &Value::Flag(true));
    assert_eq!(refused, Err(OptionError::Value));
    assert_eq!(read(&mut lab, ShimOption::DontShim), Err(OptionError::NotSupported));
    for option in [ShimOption::PathExplore, ShimOption::DontShim] {
        let refused = set(lab.shim(0), now, of, option, &Value::Flag(true));
        assert_eq!(refused, Err(OptionError::NotSupported));
    }
    let Ok(Value::Exploring(by)) = read(&mut lab, ShimOption::PathExplore) else {
        panic!("unread")
    };
    assert_eq!((by.initial_probes, by.keepalive_timeout), (4, Duration::from_secs(15)));
}

/// A lab with a context, and when the left host gave up on its pair after everything went dark.
fn left_after(timeout: Option<Duration>) -> Duration {
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::default(), [2, 2]);
    let of = Of { ulids: ulids(), fii: 0 };
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let now = lab.now;
    let app = ShimOption::AppTimeout;
    if let Some(time) = timeout {
        set(lab.shim(0), now, of, app, &Value::Time(time)).unwrap();
        assert_eq!(get(lab.shim(0), now, of, app), Ok(Value::Time(time)));
    }
    for (a, b) in [(ip(1, 1), ip(2, 1)), (ip(2, 1), ip(1, 1))] {
        lab.kill(a, b);
    }
    let from = lab.now;
    while lab.shim(0).pair(ulids(), 0) == Some(ulids()) {
        assert!(lab.now - from < Duration::from_secs(20));
        // One way only: the peer has nothing to look for.
        lab.send(0, ulids(), 1);
        lab.run(Duration::from_millis(1));
    }
    lab.now - from
}

#[test]
fn a_socket_that_can_wait_longer_says_so() {
    let (usual, patient) = (left_after(None), left_after(Some(Duration::from_secs(2))));
    assert!(usual < Duration::from_millis(200), "{usual:?}");
    let more = Duration::from_millis(1920);
    assert!(patient + Duration::from_millis(100) >= usual + more, "{patient:?}");
    assert!(patient < usual + more + Duration::from_millis(500), "{patient:?}");

    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::default(), [2, 2]);
    let of = Of { ulids: ulids(), fii: 0 };
    let (now, app) = (lab.now, ShimOption::AppTimeout);
    let long = Value::Time(Duration::from_secs(1));
    assert_eq!(set(lab.shim(0), now, of, app, &long), Err(OptionError::NoContext));
    assert_eq!(get(lab.shim(0), now, of, app), Err(OptionError::NoContext));
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let now = lab.now;
    // Keepalives come by what the peer was told; and a time without end is none.
    for wrong in [Duration::from_millis(79), Duration::from_mins(11), Duration::ZERO] {
        let refused = set(lab.shim(0), now, of, app, &Value::Time(wrong));
        assert_eq!(refused, Err(OptionError::Value), "{wrong:?}");
    }
    assert_eq!(set(lab.shim(0), now, of, app, &Value::Flag(true)), Err(OptionError::Value));
    set(lab.shim(0), now, of, app, &long).unwrap();
}

// RFC 6316 7
#[test]
fn what_an_application_knows_of_its_packets_is_a_hint() {
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::rfc(), [2, 2]);
    let of = Of { ulids: ulids(), fii: 0 };
    let now = lab.now;
    let bad = Value::Flag(false);
    let none = set(lab.shim(0), now, of, ShimOption::Feedback, &bad);
    assert_eq!(none, Err(OptionError::NoContext));
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let now = lab.now;
    assert_eq!(get(lab.shim(0), now, of, ShimOption::Feedback), Err(OptionError::Value));
    set(lab.shim(0), now, of, ShimOption::Feedback, &Value::Flag(true)).unwrap();
    let state = |lab: &mut Lab| {
        let now = lab.now;
        lab.shim(0).report_contexts(now, 1).remove(0).reap.unwrap().state
    };
    assert_eq!(state(&mut lab), "operational");
    set(lab.shim(0), now, of, ShimOption::Feedback, &bad).unwrap();
    assert_eq!(state(&mut lab), "exploring");
    lab.pump(0);
    lab.run(Duration::from_secs(2));
    assert_eq!(state(&mut lab), "operational", "it works, and stays");
    assert_eq!(lab.shim(0).pair(ulids(), 0), Some(ulids()));
}

#[test]
fn a_socket_is_told_by_which_locators_the_last_packet_came() {
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::default(), [2, 2]);
    let of = Of { ulids: ulids(), fii: 0 };
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let read = |lab: &mut Lab, option| {
        let now = lab.now;
        get(lab.shim(0), now, of, option)
    };
    assert_eq!(read(&mut lab, ShimOption::PeerReceive), Err(OptionError::NoContext), "none came");
    for n in 1..=2 {
        let (now, pair) = (lab.now, weft_shim::locator::Pair::new(ip(2, n), ip(1, n)));
        lab.shim(1).switch(now, ulids().reversed(), 0, pair).unwrap();
        lab.send(1, ulids().reversed(), 1);
        lab.run(Duration::from_millis(20));
        assert_eq!(read(&mut lab, ShimOption::LocalReceive), Ok(Value::Addr(pair.remote)));
        assert_eq!(read(&mut lab, ShimOption::PeerReceive), Ok(Value::Addr(pair.local)));
    }
    let now = lab.now;
    set(lab.shim(0), now, of, ShimOption::PeerReceive, &Value::Flag(true)).unwrap();
}

#[test]
fn alternatives_are_ready_where_they_are_measured() {
    for (reap, hot) in [(ReapConfig::default(), true), (ReapConfig::rfc(), false)] {
        let mut lab = Lab::two(3, &ShimConfig::default(), reap, [2, 2]);
        let of = Of { ulids: ulids(), fii: 0 };
        let now = lab.now;
        let standby = ShimOption::HotStandby;
        assert_eq!(get(lab.shim(0), now, of, standby), Ok(Value::Flag(false)), "no context");
        lab.shim(0).start(now, ulids(), 0).unwrap();
        lab.pump(0);
        lab.run(Duration::from_millis(100));
        let now = lab.now;
        assert_eq!(get(lab.shim(0), now, of, standby), Ok(Value::Flag(hot)));
        let done = set(lab.shim(0), now, of, standby, &Value::Flag(true));
        assert_eq!(done, if hot { Ok(()) } else { Err(OptionError::NotSupported) });
        let off = set(lab.shim(0), now, of, standby, &Value::Flag(false));
        assert_eq!(off, Err(OptionError::NotSupported), "it is the vserver's to say");
    }
}

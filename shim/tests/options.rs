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
    for option in [ShimOption::AppTimeout, ShimOption::PathExplore, ShimOption::DontShim] {
        assert_eq!(read(&mut lab, option), Err(OptionError::NotSupported));
        let refused = set(lab.shim(0), now, of, option, &Value::Flag(true));
        assert_eq!(refused, Err(OptionError::NotSupported));
    }
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

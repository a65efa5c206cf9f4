//! What operators are told of contexts.
#![allow(clippy::unwrap_used)]

mod support;

use support::*;
use weft_shim::config::ShimConfig;
use weft_shim::locator::Pair;
use weft_shim::log::What;
use weft_shim::reap::{ReapConfig, Why};
use weft_stack::time::Duration;

fn happened(lab: &mut Lab, host: usize, after: u64) -> Vec<What> {
    let log = lab.shim(host).log();
    assert!(log.after(0).all(|e| e.fii == 0));
    log.after(after).map(|e| e.what).collect()
}

fn talk(lab: &mut Lab, for_ms: u64) {
    for n in 0..for_ms / 10 {
        lab.send(0, ulids(), n);
        lab.send(1, ulids().reversed(), n);
        lab.run(Duration::from_millis(10));
    }
}

#[test]
fn the_life_of_a_context_stands_in_the_log_of_each_host() {
    let mut lab = Lab::two(5, &ShimConfig::default(), ReapConfig::default(), [2, 2]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    talk(&mut lab, 500);
    assert_eq!(happened(&mut lab, 0, 0), [What::Established]);
    assert_eq!(happened(&mut lab, 1, 0), [What::Established]);

    for (a, b) in [(ip(1, 1), ip(2, 1)), (ip(1, 1), ip(2, 2)), (ip(1, 2), ip(2, 1))] {
        lab.kill(a, b);
        lab.kill(b, a);
    }
    talk(&mut lab, 1000);
    let second = Pair::new(ip(1, 2), ip(2, 2));
    let told = happened(&mut lab, 0, 1);
    let switched = |why| What::Switched { from: ulids(), to: second, why };
    let expected = [switched(Why::SendTimeout), switched(Why::Peer)];
    assert!(told.len() == 1 && expected.contains(&told[0]), "{told:?}");

    lab.kill(second.local, second.remote);
    lab.kill(second.remote, second.local);
    talk(&mut lab, 3000);
    assert_eq!(happened(&mut lab, 0, 2), [What::NoPath]);
    lab.dead.clear();
    talk(&mut lab, 3000);
    let told = happened(&mut lab, 0, 3);
    assert_eq!(told.iter().filter(|w| **w == What::PathFound).count(), 1, "{told:?}");

    let (now, newest) = (lab.now, lab.shim(0).log().newest());
    lab.shim(0).end(now, ulids(), 0);
    assert_eq!(happened(&mut lab, 0, newest), [What::Ended]);
    let newest = lab.shim(1).log().newest();
    talk(&mut lab, 500);
    assert_eq!(happened(&mut lab, 1, newest), [What::Lost, What::Established]);
}

#[test]
fn a_peer_that_does_not_answer_is_told_once() {
    let mut lab = Lab::two(5, &ShimConfig::default(), ReapConfig::default(), [1, 1]);
    lab.kill(ip(1, 1), ip(2, 1));
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_mins(5));
    assert_eq!(happened(&mut lab, 0, 0), [What::NoAnswer]);
    assert!(happened(&mut lab, 1, 0).is_empty());
}

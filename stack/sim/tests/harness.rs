//! The simulation itself: it repeats to the byte, and it notices what is wrong.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{HostId, HostSpec, LinkSpec, Net, Peer, Role, SegmentId, each_seed};
use weft_stack::time::Duration;

fn build(seed: u64, recv_key: u64) -> (Net, SegmentId, HostId) {
    let mut net = Net::new(seed);
    net.start_capture();
    let spec = LinkSpec { loss: 0.1, reorder: 0.1, duplicate: 0.1, ..LinkSpec::default() };
    let lan = net.add_segment(spec);
    let (a, b) = (net.add_host(HostSpec::named("a")), net.add_host(HostSpec::named("b")));
    net.attach(a, lan, &["10.0.0.1/24"]);
    net.attach(b, lan, &["10.0.0.2/24"]);
    let remote = "10.0.0.2:80".parse().unwrap();
    net.add_actor(b, Peer::new(Role::Server(remote), 1, 2).sending(20_000).expecting(3_000));
    let client = Peer::new(Role::Client(remote), 2, recv_key);
    net.add_actor(a, client.sending(3_000).expecting(20_000));
    net.run_until(Duration::from_mins(5), Net::all_done);
    (net, lan, a)
}

#[test]
fn a_seed_repeats_to_the_byte() {
    let run = |seed| {
        let (net, lan, _) = build(seed, 1);
        (net.capture().unwrap().bytes().to_vec(), net.link_stats(lan), net.now())
    };
    assert!(run(5) == run(5));
    assert!(run(5) != run(6));
    let (_, stats, _) = run(5);
    assert!(stats.lost > 0 && stats.reordered > 0 && stats.duplicated > 0, "{stats:?}");
}

#[test]
fn a_wrong_byte_is_noticed() {
    let (net, _, _) = build(5, 99);
    let problem = net.check().unwrap_err();
    assert!(problem.contains("byte 0 is"), "{problem}");
}

#[test]
fn what_is_left_open_is_noticed() {
    let (mut net, _, a) = build(5, 1);
    net.with_stack(a, |s, now| s.udp_bind(now, "[::]:9".parse().unwrap()).unwrap());
    let problem = net.check_at_rest().unwrap_err();
    assert!(problem.contains("a still holds"), "{problem}");
    net.close_all();
    net.check_memory().unwrap();
}

#[test]
#[should_panic(expected = "replay: WEFT_SEED=0 cargo test -p weft-sim a_failing_run")]
fn a_failing_run_says_how_to_replay_it() {
    each_seed("a_failing_run", 3, |_| Err("on purpose".into()));
}

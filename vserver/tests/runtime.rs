//! The account of a worker: every stage that a packet passes costs something, and time adds up.
#![allow(missing_docs)]

mod common;

use common::{addr, connect, echo, echo_server, pair, until, vs};

#[test]
fn bulk_passes_every_stage_and_a_cleared_account_begins_anew() {
    let (server, client) = pair();
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    let echo_thread = echo_server(&web, addr("10.0.0.1:7"));
    let stream = connect(&c, addr("10.0.0.1:7"));
    let seen = |host: &weft_vserver::Host, stage: &str| {
        let runtime = host.runtime(false);
        let found = runtime.workers[0].stages.iter().find(|s| s.stage == stage);
        found.is_some_and(|s| s.batches > 0 && s.packets >= s.batches && s.cycles_per_packet > 0.0)
    };
    let stages = ["rx", "demux", "ip", "tcp", "app", "output", "tx"];
    until("cost in every stage", || {
        echo(&stream, &vec![7; 20_000]);
        stages.iter().all(|stage| seen(&server, stage) && seen(&client, stage))
    });

    let w = server.runtime(true).workers.remove(0);
    assert_eq!(w.bursts.iter().sum::<u64>() > 0, w.frames > 0);
    assert!(w.turns >= w.turns_working && w.turns_working > 0 && w.calls > 0, "{w:?}");
    // The account and the stages began within the start of the host.
    let booked = w.idle_ns + w.polling_ns + w.working_ns;
    assert!(w.working_ns > 0 && booked.abs_diff(w.elapsed_ns) < 1_000_000_000, "{w:?}");
    let after = server.runtime(false).workers.remove(0);
    assert!(after.frames < w.frames && after.elapsed_ns < w.elapsed_ns);
    assert_eq!(after.since(&w), after, "counted anew");

    drop(stream);
    server.stop();
    drop(echo_thread);
}

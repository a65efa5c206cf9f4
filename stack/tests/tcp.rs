//! TCP end to end: two stacks over a line that loses, delays, reorders and duplicates.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::missing_panics_doc)]

mod net;

use std::time::Duration;

use net::{A, B, Line, Net, pattern, v4, v6};

#[test]
fn bulk_arrives_in_both_directions_over_v4_and_v6() {
    for addr in [v4, v6] {
        let mut net = Net::new(Line::default(), 1);
        let (c, s) = net.connected(addr);
        let data = pattern(3_000_000);
        net.transfer((A, c), s, &data);
        net.transfer((B, s), c, &data[..1_000_000]);
        net.stacks[A].tcp_close(net.now, c);
        net.stacks[B].tcp_close(net.now, s);
        net.check_empty();
        let stats = &net.stacks[A].mib().tcp;
        assert_eq!(
            (stats.retrans_segs, stats.out_octets, stats.in_octets),
            (0, 3_000_000, 1_000_000)
        );
    }
}

#[test]
fn super_segments_cross_whole() {
    let mut net = Net::new(Line { gso: 65_000, ..Line::default() }, 1);
    let (c, s) = net.connected(v4);
    net.transfer((A, c), s, &pattern(5_000_000));
    assert!(net.frames[A] < 1000, "{} frames", net.frames[A]);
    net.transfer((B, s), c, &pattern(1000));
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn nothing_is_lost_over_a_bad_line() {
    for seed in 0..8 {
        let line = Line {
            loss: 50,
            duplicate: 20,
            reorder: 50,
            ethernet: seed % 2 == 0,
            ..Line::default()
        };
        let mut net = Net::new(line, seed);
        let (c, s) = net.connected(if seed % 4 < 2 { v4 } else { v6 });
        net.transfer((A, c), s, &pattern(400_000));
        net.transfer((B, s), c, &pattern(200_000));
        net.stacks[A].tcp_close(net.now, c);
        net.stacks[B].tcp_close(net.now, s);
        net.run_for(Duration::from_mins(1));
        net.check_empty();
        assert!(net.stacks[A].mib().tcp.retrans_segs > 0);
    }
}

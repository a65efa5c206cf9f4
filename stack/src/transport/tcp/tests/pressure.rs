//! Memory of the stack runs out.

use super::*;
use crate::drop::DropReason;
use crate::frame::FramePool;
use crate::socket::tcp::TcpSendError;

/// Tight: 80 of 100 KB are held, by two connections.
const TIGHT: Budget = Budget { held: 80_000, limit: 100_000, holders: 2 };
const FULL: Budget = Budget { held: 100_000, limit: 100_000, holders: 2 };

#[test]
fn a_tight_stack_offers_no_more_than_a_fair_share_and_takes_nothing_back() {
    let mut b = Bench::established_sack();
    b.send(1, ack(5001, 1001).data(&[0; 1000]));
    b.send(1, ack(6001, 1001).data(&[0; 1000]));
    b.recv(1, &[ack(1001, 7001).win(58_000)]);
    b.budget = Budget { holders: 10, ..TIGHT };
    b.send(2, ack(7001, 1001).data(&[0; 1000]));
    b.send(2, ack(8001, 1001).data(&[0; 1000]));
    // The edge stays where it was.
    b.recv(2, &[ack(1001, 9001).win(56_000)]);
    assert_eq!(b.read().len(), 4000);
    // 10,000 bytes would be fair, and more was promised.
    b.recv_nothing(3);
    assert_eq!(b.c.rcv_wnd(), 56_000);
    b.budget = UNLIMITED;
    b.send(4, ack(9001, 1001).data(&[0; 1000]));
    b.read();
    b.at(50);
    let (header, _) = b.poll().unwrap();
    assert_eq!(header.window, 60_000);
}

#[test]
fn a_tight_stack_opens_a_closed_window_by_a_share() {
    let mut b = Bench::established();
    let mut seq = 5001;
    while b.c.rcv_wnd() > 0 {
        let len = b.c.rcv_wnd().min(1460);
        b.send(1, ack(seq, 1001).data(&vec![0; len as usize]));
        seq += len;
        while b.poll().is_some() {}
    }
    b.budget = Budget { holders: 10, ..TIGHT };
    assert_eq!(b.read().len(), 60_000);
    b.recv(2, &[ack(1001, seq).win(10_000)]);
}

#[test]
fn data_out_of_order_beyond_a_share_is_refused_when_memory_is_tight() {
    let mut b = Bench::established_sack();
    b.budget = Budget { holders: 20, ..TIGHT };
    let mut seq = 6001;
    let refused = loop {
        let outcome = b.send(1, ack(seq, 1001).data(&[0; 1000]));
        if let Some(reason) = outcome.dropped {
            break reason;
        }
        seq += 1000;
    };
    assert_eq!(refused, DropReason::TcpMemory);
    assert_eq!((b.stats.rcv_q_drop, b.stats.ofo_queue), (1, u64::from(seq - 6001) / 1000));
    assert!(b.c.held() >= 4000 && b.c.held() <= 6000, "{}", b.c.held());
}

// RFC 2018 8
#[test]
fn at_the_limit_data_out_of_order_gives_way_to_data_in_order() {
    let mut b = Bench::established_sack();
    for seq in [6001, 7001, 8001, 9001, 10_001, 11_001] {
        b.send(1, ack(seq, 1001).data(&[0; 1000]));
    }
    while b.poll().is_some() {}
    b.budget = FULL;
    let outcome = b.send(2, ack(5001, 1001).data(&[1; 1000]));
    assert_eq!(outcome.dropped, None);
    // What was given up stands in no report any more, and will be sent again.
    assert_eq!(b.stats.ofo_pruned, 1);
    b.recv(2, &[ack(1001, 11_001).sack(&[])]);
    assert_eq!(b.read().len(), 6000);
}

#[test]
fn at_the_limit_data_is_refused_and_every_connection_still_goes_on() {
    let mut b = Bench::established();
    b.budget = FULL;
    let mut seq = 5001;
    let refused = loop {
        let outcome = b.send(1, ack(seq, 1001).data(&[0; 1000]));
        if let Some(reason) = outcome.dropped {
            break reason;
        }
        seq += 1000;
    };
    assert_eq!((refused, seq), (DropReason::TcpMemory, 9001), "4 KiB are everybody's");
    assert_eq!(b.stats.rcv_q_drop, 1);
    assert!(b.c.ack_now);
    while b.poll().is_some() {}
    assert_eq!(b.read().len(), 4000);
    assert_eq!(b.send(2, ack(seq, 1001).data(&[0; 1000])).dropped, None);
}

#[test]
fn writes_stop_at_a_share_when_memory_is_tight_and_at_4_kib_when_it_is_used_up() {
    let mut b = Bench::established();
    b.budget = Budget { holders: 10, ..TIGHT };
    assert_eq!(b.write(&vec![0; 50_000]), 10_000);
    assert_eq!(b.cx(|c, cx| c.write(cx, b"x")), Err(TcpSendError::WouldBlock));
    assert_eq!(b.stats.snd_memory_refused, 1);
    let mut b = Bench::established();
    b.budget = FULL;
    assert_eq!(b.write(&vec![0; 50_000]), 4096);
    // Acknowledgements make room again.
    let sent: Vec<_> = std::iter::from_fn(|| b.poll()).map(|(_, data)| data.len()).collect();
    assert_eq!(sent, [1000, 1000, 1000, 1000, 96]);
    b.send(1, ack(5001, 3001));
    assert_eq!(b.write(&vec![0; 50_000]), 2000);
}

#[test]
fn small_frames_are_copied_together_when_memory_is_tight() {
    let pool = FramePool::heap(200, 4096);
    let mut b = Bench::established();
    let mut seq = 5001;
    let mut send = |b: &mut Bench| {
        let mut frame = pool.alloc().unwrap();
        frame.append(&[7; 500]);
        let header = ack(seq, 1001).header();
        seq += 500;
        b.cx(|c, cx| c.on_segment(cx, &header, frame))
    };
    (0..20).for_each(|_| {
        send(&mut b);
    });
    assert!(b.c.held() > 80_000);
    b.budget = TIGHT;
    send(&mut b);
    assert_eq!(b.stats.rcv_collapsed, 20);
    assert!(b.c.held() < 2 * 10_500 + 2048, "{}", b.c.held());
    // The newest came when enough was free again.
    assert_eq!(pool.free(), 199);
    assert_eq!(b.read(), vec![7; 10_500]);
}

#[test]
fn an_orphan_is_given_up_when_memory_is_used_up() {
    let mut b = Bench::established();
    b.write_bytes(1000);
    b.cx(Connection::close);
    while b.poll().is_some() {}
    b.budget = FULL;
    b.at(5000);
    assert!(b.c.notes.abort);
    assert_eq!(b.stats.abort_on_memory, 1);
}

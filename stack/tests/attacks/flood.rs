//! Floods of SYNs (RFC 4987).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::rng::Rng;
use weft_stack::seq::SeqNum;
use weft_stack::socket::tcp::TcpState;
use weft_stack::stack::{FastOpen, SynCookies};
use weft_stack::wire::tcp::{FastOpenCookie, Flags, Header, Options};

use crate::fixture::segment;
use crate::net::{A, ALIAS, B, Line, Net, at, pattern, v4};

const SYNS: usize = 100_000;

/// A SYN from a random address of B's network.
fn spoofed_syn(rng: &mut Rng) -> Frame {
    let from = IpAddr::from([10, 0, 0, 10 + rng.below(200) as u8]);
    let from = SocketAddr::new(from, 1024 + rng.below(60_000) as u16);
    let syn = Header {
        seq: SeqNum(rng.next_u32()),
        flags: Flags::SYN,
        window: 60_000,
        options: Options {
            mss: Some(1460),
            sack_permitted: true,
            window_scale: Some(7),
            timestamp: Some((rng.next_u32(), 0)),
            ..Options::default()
        },
        ..Header::default()
    };
    segment(from, at(v4(B), 80), syn, &[])
}

/// How long a transfer takes, with so many SYNs in every millisecond of it.
fn transfer_under_flood(per_ms: usize, cookies: SynCookies) -> (Duration, Net) {
    let mut net = Net::with(Line::default(), 1, 8192, |c| {
        c.tcp.syn_cookies = cookies;
        // A window that the path fills: goodput is what the window allows per round trip.
        c.tcp.recv_buffer = 256 << 10;
        c.tcp.recv_buffer_max = 0;
    });
    let (c, s) = net.connected(v4);
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 128).unwrap();
    let data = pattern(12_000_000);
    let mut rng = Rng::from_u64(4);
    let (mut sent, mut got) = (0, 0);
    let mut out = vec![0; 300_000];
    let start = net.now;
    let mut flood = SYNS;
    while got < data.len() {
        while let Ok(n @ 1..) = net.stacks[A].tcp_send(net.now, c, &data[sent..]) {
            sent += n;
        }
        for _ in 0..per_ms.min(flood) {
            flood -= 1;
            let frame = spoofed_syn(&mut rng);
            net.stacks[B].handle_frame(net.now, ALIAS, frame);
        }
        net.run_for(Duration::from_millis(1));
        while let Ok(n @ 1..) = net.stacks[B].tcp_recv(net.now, s, &mut out) {
            assert!(out[..n] == data[got..got + n]);
            got += n;
        }
        assert!(net.now - start < Duration::from_mins(10), "{got} bytes");
    }
    let took = net.now - start;
    if per_ms > 0 {
        assert_eq!(flood, 0, "the flood lasts as long as the transfer");
        // A new client gets through all the same.
        let new = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
        net.run_for(Duration::from_millis(100));
        let connected = net.stacks[A].tcp_state(new) == TcpState::Established;
        assert_eq!(connected, cookies == SynCookies::Pressure);
        if connected {
            let accepted = net.stacks[B].tcp_accept(l).unwrap();
            net.transfer((A, new), accepted.id, b"through the flood");
            net.stacks[B].tcp_close(net.now, accepted.id);
        }
        net.stacks[A].tcp_close(net.now, new);
    }
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.stacks[B].tcp_close(net.now, l);
    (took, net)
}

// RFC 4987 3.6
#[test]
fn established_flows_keep_their_goodput_under_a_syn_flood_and_new_clients_come_through() {
    let (quiet, mut net) = transfer_under_flood(0, SynCookies::Pressure);
    net.check_empty();
    let (flooded, mut net) = transfer_under_flood(250, SynCookies::Pressure);
    assert!(flooded.as_secs_f64() * 0.9 <= quiet.as_secs_f64(), "{flooded:?} and {quiet:?}");
    let stats = &net.stacks[B].mib().tcp;
    assert!(stats.syncookies_sent > 99_000, "{}", stats.syncookies_sent);
    assert_eq!((stats.syncookies_recv, stats.syn_queue_overflows), (1, 0));
    net.check_empty();
}

// RFC 4987 3.6
#[test]
fn without_cookies_a_flood_is_refused_and_counted_and_takes_no_memory() {
    let (_, mut net) = transfer_under_flood(250, SynCookies::Off);
    let stats = &net.stacks[B].mib().tcp;
    assert!(stats.syn_queue_overflows > 99_000, "{}", stats.syn_queue_overflows);
    let refused = net.stacks[B].mib().drops.get(DropReason::TcpSynQueueFull);
    assert_eq!(refused, stats.syn_queue_overflows);
    net.check_empty();
}

#[test]
fn guessed_cookies_are_refused_counted_and_answered_by_a_reset() {
    let mut net = Net::with(Line::default(), 2, 8192, |c| c.tcp.syn_cookies = SynCookies::Always);
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 128).unwrap();
    let mut rng = Rng::from_u64(5);
    net.stacks[B].handle_frame(net.now, ALIAS, spoofed_syn(&mut rng));
    for _ in 0..20_000 {
        let ack = Header {
            seq: SeqNum(rng.next_u32()),
            ack: SeqNum(rng.next_u32()),
            flags: Flags::ACK,
            window: 1000,
            ..Header::default()
        };
        let frame = segment(at([10, 0, 0, 9].into(), 4000), at(v4(B), 80), ack, &[]);
        net.stacks[B].handle_frame(net.now, ALIAS, frame);
        net.run_for(Duration::from_micros(50));
    }
    let stats = &net.stacks[B].mib().tcp;
    assert_eq!((stats.syncookies_failed, stats.syncookies_recv), (20_000, 0));
    assert_eq!(net.stacks[B].memory().tcp_connections, 0);
    net.stacks[B].tcp_close(net.now, l);
    net.check_empty();
}

// RFC 7413 5.1
#[test]
fn fast_open_with_guessed_cookies_delivers_nothing() {
    let mut net = Net::with(Line::default(), 3, 8192, |c| c.tcp.fast_open = FastOpen::Server);
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 1024).unwrap();
    let mut rng = Rng::from_u64(5);
    for i in 0..1000 {
        let guess = FastOpenCookie::new(&rng.next_u64().to_be_bytes());
        let syn = Header {
            seq: SeqNum(rng.next_u32()),
            flags: Flags::SYN,
            window: 1000,
            options: Options { fast_open: guess, ..Options::default() },
            ..Header::default()
        };
        let from = at([10, 0, 0, 9].into(), 4000 + i);
        let frame = segment(from, at(v4(B), 80), syn, b"evil");
        net.stacks[B].handle_frame(net.now, ALIAS, frame);
        net.run_for(Duration::from_micros(50));
    }
    let stats = &net.stacks[B].mib().tcp;
    assert_eq!((stats.fast_open_passive_fails, stats.fast_open_passive), (1000, 0));
    assert!(net.stacks[B].tcp_accept(l).is_none());
    net.stacks[B].tcp_close(net.now, l);
    net.check_empty();
}

#[test]
fn half_open_connections_stop_at_the_limit_and_go_after_their_time() {
    let mut net = Net::with(Line::default(), 4, 8192, |c| {
        c.limits.tcp_half_open = 64;
        c.tcp.syn_cookies = SynCookies::Off;
    });
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 1024).unwrap();
    let mut rng = Rng::from_u64(6);
    for _ in 0..500 {
        net.stacks[B].handle_frame(net.now, ALIAS, spoofed_syn(&mut rng));
    }
    assert_eq!(net.stacks[B].memory().tcp_connections, 64);
    net.run_for(Duration::from_mins(4));
    assert_eq!(net.stacks[B].memory().tcp_connections, 0);
    assert_eq!(net.stacks[B].mib().tcp.attempt_fails, 64);
    net.stacks[B].tcp_close(net.now, l);
    net.check_empty();
}

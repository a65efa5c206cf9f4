//! Bytes copied for each byte that applications move, by the counters.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut, Read, Write};

use bytes::Bytes;
use common::{PATIENCE, addr, connect, pair, vs};
use weft_vserver::Host;
use weft_vserver::net::{TcpListener, TcpStream, UdpOption, UdpSend, UdpSocket};
use weft_vserver::stats::{CopiedPerByte, copied_per_byte};

const BYTES: usize = 4 << 20;

/// `send` writes [`BYTES`], `receive` reads what it finds and tells how much; what the client
/// copied, and the server.
fn transfer(
    send: impl Fn(&TcpStream) + Sync,
    receive: impl Fn(&TcpStream) -> usize,
) -> [CopiedPerByte; 2] {
    let (server, client) = pair();
    let listener = TcpListener::bind(&vs(&server, "web"), addr("10.0.0.1:9")).unwrap();
    let out = connect(&vs(&client, "c"), addr("10.0.0.1:9"));
    let (stream, _) = listener.accept().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&out);
            // The last acknowledgement comes before the end of the peer.
            out.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!((&out).read(&mut [0]).unwrap(), 0);
        });
        let mut left = BYTES;
        while left > 0 {
            left -= receive(&stream);
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
    [client, server].map(|host: Host| copied_per_byte(&host.snapshot()))
}

/// Counters of a sender of `count` datagrams and of the receiver, which takes them with `receive`.
fn datagrams(
    count: usize,
    send: impl Fn(&UdpSocket),
    receive: impl Fn(&UdpSocket) -> usize,
) -> [CopiedPerByte; 2] {
    let (server, client) = pair();
    let socket = UdpSocket::bind(&vs(&server, "web"), addr("10.0.0.1:9")).unwrap();
    socket.set_option(UdpOption::KeepSegments(true)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let out = UdpSocket::bind(&vs(&client, "c"), addr("10.0.0.2:0")).unwrap();
    out.connect(addr("10.0.0.1:9")).unwrap();
    let mut left = count;
    while left > 0 {
        send(&out);
        left = left.checked_sub(receive(&socket)).unwrap();
    }
    [client, server].map(|host: Host| copied_per_byte(&host.snapshot()))
}

fn filled(socket: &UdpSocket, len: usize) -> Bytes {
    let mut buf = socket.alloc(len).unwrap();
    buf.fill(7);
    buf.freeze()
}

#[test]
fn datagrams_from_pool_memory_are_views_of_it_to_the_reader() {
    let send = |out: &UdpSocket| {
        out.send_bytes(&filled(out, 1200), &UdpSend::default()).unwrap();
    };
    let view = |socket: &UdpSocket| {
        let (view, from) = socket.recv_bytes().unwrap();
        assert!(view.len() == 1200 && view.iter().all(|b| *b == 7) && from.port() != 0);
        1
    };
    let [client, server] = datagrams(50, send, view);
    assert_eq!((client.sent, client.device_sent), (0.0, 0.0));
    assert_eq!((server.received, server.device_received), (0.0, 0.0));
}

#[test]
fn many_datagrams_cross_in_one_call_each_without_a_copy() {
    let send = |out: &UdpSocket| {
        let one = UdpSend::default();
        let cut = UdpSend { segment_bytes: Some(500), ..one };
        let messages = [(filled(out, 400), one), (filled(out, 1800), cut), (filled(out, 300), one)];
        assert_eq!(out.send_many(&messages).unwrap(), 3);
    };
    let take = |socket: &UdpSocket| {
        let mut all = Vec::new();
        while all.len() < 3 {
            let before = all.len();
            assert_eq!(socket.recv_many(&mut all, 8).unwrap(), all.len() - before);
        }
        let shape: Vec<_> = all.iter().map(|d| (d.payload.len(), d.segment_bytes)).collect();
        assert_eq!(shape, [(400, None), (1800, Some(500)), (300, None)]);
        assert!(all.iter().all(|d| d.payload.iter().all(|b| *b == 7)));
        6
    };
    let [client, server] = datagrams(60, send, take);
    assert_eq!((client.sent, client.device_sent), (0.0, 0.0));
    assert_eq!((server.received, server.device_received), (0.0, 0.0));
}

#[test]
fn datagrams_of_other_memory_are_copied_once_on_each_side() {
    let send = |out: &UdpSocket| {
        assert_eq!(out.send(&[7; 1200]).unwrap(), 1200);
    };
    let read = |socket: &UdpSocket| {
        let mut buf = [0; 1500];
        assert_eq!(socket.recv(&mut buf).unwrap(), 1200);
        1
    };
    let [client, server] = datagrams(50, send, read);
    assert_eq!((client.sent, client.device_sent), (1.0, 0.0));
    assert_eq!((server.received, server.device_received), (1.0, 0.0));
}

#[test]
fn vectored_calls_keep_the_order_of_their_pieces() {
    let send = |stream: &TcpStream| {
        let all = common::pattern(BYTES);
        let mut at = 0;
        while at < BYTES {
            let rest = &all[at..];
            let mut pieces = rest.chunks(777).take(40).map(IoSlice::new).collect::<Vec<_>>();
            pieces.insert(1, IoSlice::new(&[]));
            let mut to = stream;
            at += to.write_vectored(&pieces).unwrap();
        }
    };
    let expected = common::pattern(BYTES);
    let at = Cell::new(0);
    let read = |stream: &TcpStream| {
        let (mut a, mut b, mut c) = ([0; 100], [0; 5000], [0; 900]);
        let mut from = stream;
        let n = from
            .read_vectored(&mut [&mut a[..], &mut [], &mut b, &mut c].map(IoSliceMut::new))
            .unwrap();
        let got = [&a[..], &b, &c].concat();
        assert!(got[..n] == expected[at.get()..at.get() + n]);
        at.set(at.get() + n);
        n
    };
    let [client, server] = transfer(send, read);
    assert_eq!((server.received, client.device_sent), (1.0, 0.0));
}

fn pool_memory(stream: &TcpStream) {
    let mut left = BYTES;
    while left > 0 {
        // A refusal ends when the peer acknowledges what is held.
        let Some(mut buf) = stream.alloc(2048.min(left)) else {
            std::thread::yield_now();
            continue;
        };
        buf.fill(7);
        left -= buf.len();
        stream.send_bytes(&mut buf.freeze()).unwrap();
    }
}

fn view(stream: &TcpStream) -> usize {
    let view = stream.recv_bytes(usize::MAX).unwrap();
    assert!(view.iter().all(|b| *b == 7));
    view.len()
}

fn written(stream: &TcpStream) {
    let mut to = stream;
    to.write_all(&vec![7; BYTES]).unwrap();
}

#[test]
fn pool_memory_and_views_are_copied_by_nobody() {
    let [client, server] = transfer(pool_memory, view);
    assert_eq!((server.received, server.device_received, client.device_sent), (0.0, 0.0, 0.0));
    // Ends of bursts shorter than a segment are.
    assert!(client.sent < 0.01, "{client}");
}

#[test]
fn large_bytes_of_any_memory_are_not_copied_either() {
    let send = |stream: &TcpStream| {
        let all = Bytes::from(vec![7; BYTES]);
        stream.send_bytes(&mut all.clone()).unwrap();
    };
    let [client, server] = transfer(send, view);
    assert_eq!((server.received, client.device_sent), (0.0, 0.0));
    assert!(client.sent < 0.01, "{client}");
}

#[test]
fn reading_and_writing_copy_once() {
    let read = |stream: &TcpStream| {
        let mut from = stream;
        from.read(&mut [0; 16 << 10]).unwrap()
    };
    let [client, server] = transfer(written, read);
    assert_eq!((server.received, client.device_sent), (1.0, 0.0));
    assert!((1.0..1.01).contains(&client.sent), "{client}");
}

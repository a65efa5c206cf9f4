//! Bytes copied for each byte that applications move, by the counters.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};

use bytes::Bytes;
use common::{addr, connect, pair, vs};
use weft_vserver::Host;
use weft_vserver::net::{TcpListener, TcpStream};
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
    assert_eq!((server.received, server.devices, client.devices), (0.0, 0.0, 0.0));
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
    assert_eq!((server.received, client.devices), (0.0, 0.0));
    assert!(client.sent < 0.01, "{client}");
}

#[test]
fn reading_and_writing_copy_once() {
    let read = |stream: &TcpStream| {
        let mut from = stream;
        from.read(&mut [0; 16 << 10]).unwrap()
    };
    let [client, server] = transfer(written, read);
    assert_eq!((server.received, client.devices), (1.0, 0.0));
    assert!((1.0..1.01).contains(&client.sent), "{client}");
}

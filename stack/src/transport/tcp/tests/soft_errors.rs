//! ICMP errors of connections that are established.

use crate::socket::tcp::TcpError;

use super::*;

/// Writes, lets every retransmission run out, and gives the reason told.
fn run_out(mut b: Bench, from_ms: u64) -> Option<TcpError> {
    let mut at = from_ms;
    while b.state() != TcpState::Closed {
        b.at(at);
        while b.poll().is_some() {}
        at += 1000;
        assert!(at < 10_000_000, "it never gives up");
    }
    b.c.take_error()
}

// RFC 1122 4.2.3.9
#[test]
fn a_soft_error_is_the_reason_when_the_connection_times_out() {
    let mut b = Bench::established();
    b.write(b"hello");
    b.c.notes.soft_error = Some(TcpError::HostUnreachable);
    assert_eq!(b.state(), TcpState::Established, "it does not end by it");
    assert_eq!(run_out(b, 0), Some(TcpError::HostUnreachable));
}

// RFC 1122 4.2.3.9
#[test]
fn progress_forgets_a_soft_error() {
    let mut b = Bench::established();
    b.write(b"hello");
    b.recv(0, &[ack(1001, 5001).data(b"hello")]);
    b.c.notes.soft_error = Some(TcpError::HostUnreachable);
    b.send(10, ack(5001, 1006));
    b.write(b"world");
    assert_eq!(run_out(b, 20), Some(TcpError::TimedOut));
}

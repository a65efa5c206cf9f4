//! What a service does with the bytes of one connection, without doing I/O on it: bytes come in,
//! bytes and decisions go out. The connection that carries it applies backpressure by not asking.

use std::sync::LazyLock;

use bytes::Bytes;

use super::counters::Counters;
use super::http;

/// What a session wants done next on its connection.
#[derive(Debug)]
pub(super) enum Output {
    /// Send this, then ask again.
    Data(Bytes),
    /// Nothing until more is received.
    Nothing,
    /// Everything was said: send FIN. Input is still taken while [`Session::wants_input`].
    End,
    /// Something broke that the peer must not take for an end of the data: reset.
    Reset,
}

/// How long the peer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as bytes move.
    WhileBytesMove,
    /// A fixed time from now on, however the bytes drip: a request head, the rest after an error.
    Short,
}

/// One connection of a service other than proxy.
#[derive(Debug)]
pub(super) enum Session {
    /// RFC 862.
    Echo(Echo),
    /// RFC 863.
    Discard {
        /// The peer has closed.
        ended: bool,
    },
    /// RFC 864.
    Chargen,
    /// RFC 9112.
    Http(Box<http::Connection>),
}

/// What was received and not yet sent back.
#[derive(Debug, Default)]
pub(super) struct Echo {
    data: Bytes,
    ended: bool,
}

impl Session {
    pub(super) fn wants_input(&self) -> bool {
        match self {
            Session::Echo(e) => e.data.is_empty() && !e.ended,
            Session::Discard { .. } | Session::Chargen => true,
            Session::Http(c) => c.wants_input(),
        }
    }

    /// Takes received bytes; call only while it wants input.
    pub(super) fn receive(&mut self, data: Bytes, counters: &Counters) {
        match self {
            Session::Echo(e) => e.data = data,
            Session::Discard { .. } | Session::Chargen => {}
            Session::Http(c) => c.receive(data, counters),
        }
    }

    /// The peer has sent its last byte.
    pub(super) fn receive_end(&mut self) {
        match self {
            Session::Echo(e) => e.ended = true,
            Session::Discard { ended } => *ended = true,
            // Half-closed clients are still served, until they are gone.
            Session::Chargen => {}
            Session::Http(c) => c.receive_end(),
        }
    }

    pub(super) fn next_output(&mut self, counters: &Counters) -> Output {
        match self {
            Session::Echo(e) if !e.data.is_empty() => Output::Data(std::mem::take(&mut e.data)),
            Session::Echo(Echo { ended: true, .. }) | Session::Discard { ended: true } => {
                Output::End
            }
            Session::Echo(_) | Session::Discard { .. } => Output::Nothing,
            Session::Chargen => Output::Data(CHARGEN.clone()),
            Session::Http(c) => c.next_output(counters),
        }
    }

    pub(super) fn patience(&self) -> Patience {
        match self {
            Session::Http(c) => c.patience(),
            _ => Patience::WhileBytesMove,
        }
    }
}

/// Lines of 72 printable characters, each starting one later than the last, until the first comes
/// again; as often as makes a piece worth sending.
static CHARGEN: LazyLock<Bytes> = LazyLock::new(|| {
    let printable: Vec<u8> = (b' '..=b'~').collect();
    let mut pattern = Vec::with_capacity(printable.len() * 74);
    for first in 0..printable.len() {
        pattern.extend(printable.iter().cycle().skip(first).take(72));
        pattern.extend(b"\r\n");
    }
    Bytes::from(pattern.repeat(36))
});

#[cfg(test)]
mod tests {
    use super::*;

    fn data(out: Output) -> Bytes {
        match out {
            Output::Data(b) => b,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn echo_takes_no_more_than_it_gives_back() {
        let c = Counters::default();
        let mut s = Session::Echo(Echo::default());
        assert!(matches!(s.next_output(&c), Output::Nothing));
        s.receive(Bytes::from_static(b"hello"), &c);
        assert!(!s.wants_input());
        assert_eq!(data(s.next_output(&c)), "hello");
        assert!(s.wants_input());
        s.receive_end();
        assert!(matches!(s.next_output(&c), Output::End));
    }

    #[test]
    fn discard_ends_when_the_peer_does() {
        let c = Counters::default();
        let mut s = Session::Discard { ended: false };
        s.receive(Bytes::from_static(b"hello"), &c);
        assert!(matches!(s.next_output(&c), Output::Nothing));
        s.receive_end();
        assert!(matches!(s.next_output(&c), Output::End));
    }

    #[test]
    fn chargen_repeats_without_a_seam() {
        let piece = data(Session::Chargen.next_output(&Counters::default()));
        let lines: Vec<_> = piece.chunks(74).collect();
        assert_eq!(piece.len() % 74, 0);
        assert!(lines[0].starts_with(b" !\"#$%&'()*"));
        assert!(lines.iter().all(|l| l.ends_with(b"\r\n")));
        assert_eq!(lines[94][0], b'~');
        assert_eq!(lines[95], lines[0]);
        assert_eq!(lines.len() % 95, 0);
    }
}

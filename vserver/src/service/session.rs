//! What http wants done on its connection, without doing I/O on it: bytes come in, bytes and
//! decisions go out. The connection that carries it applies backpressure by not asking.

use bytes::Bytes;

/// What is wanted done next on its connection.
#[derive(Debug)]
pub(super) enum Output {
    /// Send this, then ask again.
    Data(Bytes),
    /// Nothing until more is received.
    Nothing,
    /// Everything was said: send FIN. Input is still taken while [`super::http::Connection::wants_input`].
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

//! What a connection remembers of how it was opened.

/// Of the handshake.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Nobody knows when the SYN-ACK left: it was a cookie, or the ACK was kept back.
    pub(crate) untimed: bool,
}

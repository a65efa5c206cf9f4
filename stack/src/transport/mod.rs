//! Segments and datagrams: flow demultiplexing, TCP, UDP, raw and ICMP sockets.

pub(crate) mod raw;
pub mod tcp;
pub(crate) mod udp;
mod waiting;

/// Everything above the path layer, borrowed for one call.
pub(crate) struct Transports<'a> {
    pub(crate) tcp: &'a mut tcp::Tcp,
    pub(crate) udp: &'a mut udp::Udp,
    pub(crate) raw: &'a mut raw::Raw,
}

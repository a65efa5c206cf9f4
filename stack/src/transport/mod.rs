//! Segments and datagrams: flow demultiplexing, TCP, UDP.

pub mod tcp;
pub(crate) mod udp;

//! Frame to packet: Ethernet, and neighbours (ARP, NDP).

/// The link layer of one stack: neighbours of all its aliases.
#[derive(Debug, Default)]
pub(crate) struct Link {}

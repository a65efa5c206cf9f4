//! What a stack holds.

/// What a stack holds, in numbers. All but `neighbours` and `path_mtus`, which are caches, return
/// to zero when the sockets are closed and the timers have run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// TCP connections, half-open ones and TIME-WAIT included.
    pub tcp_connections: usize,
    /// TCP listeners.
    pub tcp_listeners: usize,
    /// Bytes that connections hold in their buffers, whole frames counted.
    pub tcp_bytes: usize,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Bytes that UDP sockets hold unread.
    pub udp_bytes: usize,
    /// Raw and ICMP sockets.
    pub raw_sockets: usize,
    /// Bytes that they hold unread.
    pub raw_bytes: usize,
    /// Packets being reassembled.
    pub reassemblies: usize,
    /// Bytes they hold.
    pub reassembly_bytes: usize,
    /// Frames that wait for neighbours.
    pub neighbour_frames: usize,
    /// Frames that wait for [`Stack::poll_transmit`], and packets of the stack to itself.
    pub out_frames: usize,
    /// Entries of the neighbour table.
    pub neighbours: usize,
    /// Path MTU entries.
    pub path_mtus: usize,
}

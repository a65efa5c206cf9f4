//! TCP (RFC 9293), split by direction.

use core::net::IpAddr;

use crate::ctx::Fate;
use crate::frame::Frame;
use crate::lower::{IcmpError, InPacket, Lower};
use crate::path::PathLayer;
use crate::rng::Secrets;
use crate::socket::{Event, SocketInfo};
use crate::stack::StackConfig;

/// TCP of one stack: listeners, connections, the flow table.
#[derive(Debug)]
pub(crate) struct Tcp {}

impl Tcp {
    /// An empty table.
    pub(crate) fn new(config: &StackConfig, secrets: &Secrets) -> Tcp {
        let _ = (config, secrets);
        Tcp {}
    }

    /// A segment arrived; `frame` starts with the TCP header and is as long as the IP payload.
    pub(crate) fn input<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        frame: Frame,
    ) -> Fate {
        let _ = (lower, packet, frame);
        todo!()
    }

    /// An ICMP error about a segment; whether a connection recognised it.
    pub(crate) fn icmp_error<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        error: &IcmpError<'_>,
    ) -> bool {
        let _ = (lower, error);
        false
    }

    /// `Timer::Tcp` fired.
    pub(crate) fn timeout<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        index: u32,
        generation: u32,
    ) {
        let _ = (lower, index, generation);
    }

    /// Sends what dirty connections may send while `lower.ctx.out_room() > 0`.
    pub(crate) fn transmit<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        let _ = lower;
    }

    /// Whether [`Tcp::transmit`] has something to do.
    pub(crate) fn wants_transmit(&self) -> bool {
        false
    }

    /// The next event from the dirty list.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The address is gone: its connections are reset, its listeners closed.
    pub(crate) fn address_removed<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, addr: IpAddr) {
        let _ = (lower, addr);
    }

    /// Calls `f` for each socket.
    pub(crate) fn for_each_socket(&self, f: &mut dyn FnMut(SocketInfo)) {
        let _ = f;
    }

    /// Connections (TIME-WAIT included) and listeners held.
    pub(crate) fn held(&self) -> (usize, usize) {
        (0, 0)
    }
}

//! What a host does with the sockets that it has in a stack for any vserver.

use core::net::{IpAddr, SocketAddr};

use super::Stack;
use crate::any::AnyScopes;
use crate::ip::address::AliasId;
use crate::path::PathLayer;
use crate::socket::SocketId;
use crate::time::Instant;

impl<P: PathLayer> Stack<P> {
    /// The binding for any vserver that a listener or UDP socket belongs to; `None`: it is the
    /// vserver's own.
    pub fn any_of(&self, id: SocketId) -> Option<u32> {
        self.tcp.any_of(id).or_else(|| self.udp.any_of(id))
    }

    /// Closes what the stack has of a binding for any vserver: connections that wait to be accepted
    /// are reset, accepted ones stay. Returns whether it had something.
    pub fn close_any(&mut self, now: Instant, number: u32) -> bool {
        let (mut lower, tcp, udp) = self.parts(now);
        tcp.close_any(&mut lower, number) | udp.close_any(&mut lower, number)
    }

    /// The UDP socket of the host for any vserver that takes datagrams to `addr` and `port`, made if
    /// this stack has none yet; `None`: there is no such port.
    pub fn any_udp(&mut self, addr: IpAddr, port: u16) -> Option<SocketId> {
        self.udp.any_id(self.limits.udp_recv_bytes, addr.is_ipv4(), port)
    }

    /// Where a connection arrived, or leaves: its alias, our address and port.
    pub fn tcp_arrival(&self, id: SocketId) -> Option<(AliasId, SocketAddr)> {
        self.tcp.connection(id).map(|c| (c.alias, c.key.local()))
    }

    /// Which ports of the host concern this stack from now on. What it has of others is closed, as
    /// by [`Stack::close_any`].
    pub fn set_any(&mut self, now: Instant, scopes: &AnyScopes) {
        for number in self.tcp.any.left_for(scopes) {
            self.close_any(now, number);
        }
        self.tcp.any = scopes.clone();
        self.udp.any = scopes.clone();
    }
}

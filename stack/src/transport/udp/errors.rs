//! ICMP errors about datagrams (RFC 1122 4.1.3.3): the pending error of a socket, told once by its
//! next call, and a bounded queue for applications that want to know of each.

use core::net::SocketAddr;

use bytes::Bytes;

use super::{ANY4, ANY6, HEADER_LEN, Udp, peer_addr};
use crate::ip::rule::Via;
use crate::lower::{IcmpError, IcmpErrorKind, Lower};
use crate::path::{PathFlow, PathLayer};
use crate::socket::SocketId;
use crate::socket::udp::{UdpError, UdpErrorReport};
use crate::wire::protocol;

/// Reports that wait for one socket.
const ERRORS_MAX: usize = 64;
/// Payload kept of each: as much as RFC 792 asks routers to quote, and some more.
const QUOTE_BYTES_MAX: usize = 128;

pub(crate) fn meaning(kind: IcmpErrorKind) -> UdpError {
    match kind {
        IcmpErrorKind::NetUnreachable => UdpError::NetUnreachable,
        IcmpErrorKind::HostUnreachable => UdpError::HostUnreachable,
        IcmpErrorKind::ProtocolUnreachable => UdpError::ProtocolUnreachable,
        IcmpErrorKind::PortUnreachable => UdpError::Refused,
        IcmpErrorKind::AdminProhibited => UdpError::Prohibited,
        IcmpErrorKind::TooBig { mtu } => UdpError::TooBig { mtu },
        IcmpErrorKind::TimeExceeded => UdpError::TimeExceeded,
        IcmpErrorKind::ParameterProblem => UdpError::ParameterProblem,
    }
}

impl Udp {
    /// An ICMP error about a datagram; whether a socket sent it.
    pub(crate) fn icmp_error<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        error: &IcmpError<'_>,
    ) -> bool {
        let [a, b, c, d, ..] = *error.transport else { return false };
        let (src_port, dst_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let any = if error.src.is_ipv4() { ANY4 } else { ANY6 };
        let connected = self.flows.get(&(error.src, src_port, error.dst, dst_port)).copied();
        let index = connected.or_else(|| {
            [error.src, any].into_iter().find_map(|addr| {
                // Of those that share a port any may have sent it.
                self.bound.get(&(addr, src_port))?.open.first().copied()
            })
        });
        let of_any =
            |(_, index): &&(u32, u32)| self.sockets[*index as usize].local.port() == src_port;
        let index = index.or_else(|| self.any_in_use.iter().find(of_any).map(|(_, index)| *index));
        let Some(index) = index else { return false };
        if let IcmpErrorKind::TooBig { mtu } = error.kind {
            let flow = PathFlow { protocol: protocol::UDP, ports: (src_port, dst_port) };
            lower.lower_pmtu((error.src, error.dst), Some(flow), mtu);
        }
        let alias =
            lower.route(None, error.dst, Via::default()).map_or(crate::ip::LOOPBACK, |i| i.alias);
        let report = UdpErrorReport {
            error: meaning(error.kind),
            to: peer_addr(error.dst, dst_port, alias),
            origin: error.origin,
            payload: quote(error.transport.get(HEADER_LEN..).unwrap_or_default()),
        };
        self.fail(lower, index, report);
        true
    }

    /// A datagram was refused here because it is too long for the path (RFC 8085 3.2).
    pub(super) fn too_big<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        index: u32,
        (to, mtu): (SocketAddr, usize),
        payload: &[u8],
    ) {
        let error = UdpError::TooBig { mtu };
        if self.sockets[index as usize].options.error_queue {
            let report = UdpErrorReport { error, to, origin: None, payload: quote(payload) };
            self.enqueue(lower, index, report);
        }
    }

    fn fail<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32, report: UdpErrorReport) {
        let socket = &mut self.sockets[index as usize];
        // RFC 1122 4.1.3.3, as Linux has it: what may pass by itself is told to those who ask.
        let hard = match report.error {
            UdpError::Refused
            | UdpError::ProtocolUnreachable
            | UdpError::Prohibited
            | UdpError::ParameterProblem => true,
            UdpError::TooBig { .. } => socket.options.dont_fragment,
            UdpError::NetUnreachable | UdpError::HostUnreachable | UdpError::TimeExceeded => false,
        };
        let wants_all = socket.options.error_queue;
        if wants_all || (hard && socket.peer.is_some()) {
            socket.pending = Some(report.error);
            self.tell(index);
        }
        if wants_all {
            self.enqueue(lower, index, report);
        }
    }

    fn enqueue<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        index: u32,
        report: UdpErrorReport,
    ) {
        let socket = &mut self.sockets[index as usize];
        if socket.errors.len() >= ERRORS_MAX {
            lower.ctx.mib.udp.error_queue_full += 1;
            return;
        }
        socket.errors.push_back(report);
        self.tell(index);
    }

    /// Takes the pending error.
    pub(crate) fn take_error(&mut self, id: SocketId) -> Option<UdpError> {
        self.get_mut(id)?.pending.take()
    }

    /// Takes the oldest report.
    pub(crate) fn recv_error(&mut self, id: SocketId) -> Option<UdpErrorReport> {
        let socket = self.get_mut(id)?;
        let report = socket.errors.pop_front();
        if socket.errors.is_empty() {
            // Told by the queue.
            socket.pending = None;
        }
        report
    }
}

fn quote(payload: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&payload[..payload.len().min(QUOTE_BYTES_MAX)])
}

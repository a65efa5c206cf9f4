//! The socket options of RFC 6316, on connected sockets of vservers with a shim.

use std::io;
use std::net::SocketAddr;

use weft_shim::contexts::Contexts;
use weft_shim::locator::Pair;
use weft_shim::options::{Of, OptionError, ShimOption, Value, get, set};
use weft_stack::time::Instant;

use super::socket::{Socket, not_connected};
use super::{TcpStream, UdpSocket};
use crate::runtime::Node;

/// The errors that RFC 6316 names, in the kinds of the standard library.
fn error(e: OptionError) -> io::Error {
    let kind = match e {
        OptionError::NoContext => io::ErrorKind::NotFound,
        OptionError::UnreachableLocator => io::ErrorKind::AddrNotAvailable,
        OptionError::SetUp(_) => io::ErrorKind::WouldBlock,
        OptionError::NotSupported => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, e)
}

fn without_shim() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the vserver has no shim")
}

/// Does something to the shim of a socket's vserver, for the context between its addresses.
fn with_shim<R>(
    socket: &Socket,
    (local, peer): (SocketAddr, SocketAddr),
    f: impl FnOnce(&mut Contexts, Instant, Of) -> Result<R, OptionError>,
) -> io::Result<R> {
    let of = Of { ulids: Pair::new(local.ip(), peer.ip()), fii: 0 };
    socket.call(|node: &mut Node, now| {
        node.stack.with_path_mut(now, |layer| {
            let contexts = layer.shim_mut().ok_or_else(without_shim)?;
            f(contexts, now, of).map_err(error)
        })
    })?
}

macro_rules! shim_options {
    ($type:ty, $addrs:expr) => {
        impl $type {
            /// Reads an option of RFC 6316: what its connection's context is, and by which
            /// locators packets go and come. See `docs/shim.md`.
            ///
            /// Errors: `Unsupported` (the vserver has no shim, or the option is one of the
            /// vserver), `NotFound` (no context yet), `NotConnected`.
            pub fn shim_option(&self, option: ShimOption) -> io::Result<Value> {
                let read = |contexts: &mut Contexts, now, of| get(contexts, now, of, option);
                with_shim(&self.socket, $addrs(&self.socket)?, read)
            }

            /// Sets an option of RFC 6316, for every socket between the two addresses.
            ///
            /// Errors: as [`Self::shim_option`]; `InvalidInput` (no locator of the context, no
            /// value of the option), `AddrNotAvailable` (a locator that is gone), `WouldBlock` (no
            /// context can be set up now).
            pub fn set_shim_option(&self, option: ShimOption, value: &Value) -> io::Result<()> {
                let write =
                    |contexts: &mut Contexts, now, of| set(contexts, now, of, option, value);
                with_shim(&self.socket, $addrs(&self.socket)?, write)
            }
        }
    };
}

fn tcp_ends(socket: &Socket) -> io::Result<(SocketAddr, SocketAddr)> {
    socket.peek(|node| node.stack.tcp_addrs(socket.id))?.ok_or_else(not_connected)
}

fn udp_ends(socket: &Socket) -> io::Result<(SocketAddr, SocketAddr)> {
    let ends = |node: &mut Node| {
        let (local, peer) = (node.stack.udp_local(socket.id)?, node.stack.udp_peer(socket.id)?);
        Some((local, peer))
    };
    socket.peek(ends)?.ok_or_else(not_connected)
}

shim_options!(TcpStream, tcp_ends);
shim_options!(UdpSocket, udp_ends);

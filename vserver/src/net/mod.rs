//! Sockets of a vserver, in the style of the standard library and of mio.
//!
//! Each type blocks by default, and does not after `set_nonblocking(true)`. Registered with a
//! `mio::Poll` (each is a [`mio::event::Source`]) or with a [`Poller`], readiness is reported by
//! edges: after a report, use the socket until it says `WouldBlock`. Spurious reports happen.
//!
//! [`Poller`] is for many sockets: it is a queue in user space with one descriptor, where a
//! registered socket costs no system call per event.

mod any;
mod poller;
mod raw;
mod shim;
pub(crate) mod socket;
pub(crate) mod tcp;
mod udp;

pub use crate::connect::{Connecting, Form, UdpAnswer, UdpRequest};
pub(crate) use any::Binding;
pub use any::{AnyFamily, AnyListener, AnyOptions, AnyUdpSocket};
pub use poller::{Pollable, Poller, Ready};
pub use raw::{EchoAnswer, Family, IcmpFilter, IcmpSocket, RawOption, RawPacket, RawSocket};
pub use tcp::{TcpConnect, TcpListener, TcpStream};
pub use udp::{
    Datagram, SourceFilter, UdpBind, UdpError, UdpErrorReport, UdpOption, UdpSend, UdpSocket,
};
pub(crate) use udp::{recv_error, send_error};
pub use weft_shim::options::{OptionError, ShimOption, Value as ShimValue};
pub use weft_stack::socket::TcpOptions;
pub use weft_stack::socket::tcp::{CongestionControl, Retransmits, TcpInfo, TcpOption, TcpState};

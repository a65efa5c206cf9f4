//! What applications call: connections and requests by address or by name.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_shim::connect::{Form, PolicyTable, Request};

use super::driven::Plan;
use super::racing::{Connecting, UdpAnswer, UdpRequest, Want};
use crate::Vserver;
use crate::net::socket::{Socket, connect_error};
use crate::net::tcp::start_somewhere;
use crate::net::{TcpConnect, TcpStream};

/// Whom a connection or a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Address(SocketAddr),
    Name(&'a str, u16),
}

impl Target<'_> {
    pub(super) fn request(&self) -> Request {
        match self {
            Target::Address(addr) => Request::to(addr.ip(), addr.port()),
            Target::Name(name, port) => Request::to_name(name, *port),
        }
    }
}

/// The request of `how`, and whether the table has anything for it.
fn tcp_request(target: Target<'_>, how: &TcpConnect<'_>, policy: &PolicyTable) -> (Request, bool) {
    let mut request = target.request();
    request.class = how.class.map(str::to_owned);
    request.form = how.form;
    request.bound = how.local.map(|l| l.ip()).filter(|ip| !ip.is_unspecified());
    request.timeout = how.timeout;
    let form = request.treatment(policy, request.given.first().copied()).form;
    (request, form != Form::Off)
}

impl TcpStream {
    /// Connects to whatever has this name (RFC 8305): its addresses are tried one after the other,
    /// in the order of RFC 6724, as the vserver's `connect` table says; with `"off"` only the first.
    ///
    /// Errors: those of [`TcpStream::connect`], and `NotFound` for a name without addresses.
    pub fn connect_name(vserver: &Vserver, name: &str, port: u16) -> io::Result<TcpStream> {
        TcpStream::connect_name_with(vserver, name, port, TcpConnect::default())
            .map(|(stream, _)| stream)
    }

    /// As [`TcpStream::connect_name`], with options and first data; see
    /// [`TcpStream::connect_with`].
    pub fn connect_name_with(
        vserver: &Vserver,
        name: &str,
        port: u16,
        how: TcpConnect<'_>,
    ) -> io::Result<(TcpStream, usize)> {
        let stream = Connecting::to_name(vserver, name, port, how)?.wait()?;
        stream.write_first(how.data)
    }

    /// As [`TcpStream::connect_with`] where the vserver's table, or the call, wants alternatives;
    /// `None` where it does not.
    pub(crate) fn connect_over_alternatives(
        vserver: &Vserver,
        addr: SocketAddr,
        how: TcpConnect<'_>,
    ) -> Option<io::Result<(TcpStream, usize)>> {
        // In a callback nobody can wait; the plain way says so.
        if how.form == Some(Form::Off) || crate::app::in_callback() {
            return None;
        }
        let policy = vserver.connect_policy();
        if how.form.is_none() && policy.is_off() {
            return None;
        }
        let (request, wanted) = tcp_request(Target::Address(addr), &how, &policy);
        wanted.then(|| {
            let stream: TcpStream = Connecting::new(vserver, request, Want::tcp(&how))?.wait()?;
            stream.write_first(how.data)
        })
    }
}

impl TcpStream {
    /// As [`TcpStream::start_connect_with`] where the vserver's table, or the call, wants
    /// alternatives: the worker tries them. `None` where they are not wanted, or cannot be tried:
    /// first data would belong to one attempt, and a port of ours leads each pair of addresses to
    /// another worker.
    pub(crate) fn start_over_alternatives(
        vserver: &Vserver,
        addr: SocketAddr,
        how: TcpConnect<'_>,
    ) -> Option<io::Result<TcpStream>> {
        let port = how.local.map_or(0, |l| l.port());
        let cannot = !how.data.is_empty() || (port != 0 && vserver.places().len() > 1);
        if cannot || how.form == Some(Form::Off) || crate::app::in_callback() {
            return None;
        }
        let policy = vserver.connect_policy();
        if how.form.is_none() && policy.is_off() {
            return None;
        }
        let (request, wanted) = tcp_request(Target::Address(addr), &how, &policy);
        if !wanted {
            return None;
        }
        let state = vserver.second_shim();
        let begin = |worker: usize| {
            let (request, state) =
                (Request { timeout: None, ..request.clone() }, Arc::clone(&state));
            let plan = Plan { request, state, port, options: how.options.to_vec() };
            let begun = vserver.worker(worker).call(vserver.node(), |node, now| {
                let id = node.races.begin(&mut node.stack, now, plan).map_err(connect_error)?;
                Ok::<_, io::Error>(id.map(|id| (id, Socket::watch(node, id))))
            })??;
            Ok(begun.map(|(id, notify)| {
                let socket = Socket::adopt(vserver, worker, id, notify);
                socket.set_nonblocking(true);
                TcpStream::of(socket)
            }))
        };
        start_somewhere(vserver, addr, how, begin).transpose()
    }
}

impl Connecting<TcpStream> {
    /// Begins to connect to an address without waiting; see [`Connecting`].
    pub fn to(
        vserver: &Vserver,
        addr: SocketAddr,
        how: TcpConnect<'_>,
    ) -> io::Result<Connecting<TcpStream>> {
        let (request, _) = tcp_request(Target::Address(addr), &how, &vserver.connect_policy());
        Connecting::new(vserver, request, Want::tcp(&how))
    }

    /// Begins to connect to whatever has this name without waiting; see [`Connecting`].
    pub fn to_name(
        vserver: &Vserver,
        name: &str,
        port: u16,
        how: TcpConnect<'_>,
    ) -> io::Result<Connecting<TcpStream>> {
        let (request, _) = tcp_request(Target::Name(name, port), &how, &vserver.connect_policy());
        Connecting::new(vserver, request, Want::tcp(&how))
    }
}

impl UdpAnswer {
    /// Sends a request of one datagram to an address and waits for the answer. It is sent again, and
    /// from other addresses or to other ones, only where the vserver's `connect` table says that
    /// such requests may be repeated.
    ///
    /// Errors: `TimedOut`, `ConnectionRefused`, `HostUnreachable`, `NetworkUnreachable`.
    pub fn ask(
        vserver: &Vserver,
        addr: SocketAddr,
        payload: &[u8],
        how: UdpRequest<'_>,
    ) -> io::Result<UdpAnswer> {
        ask(vserver, Target::Address(addr), payload, how)
    }

    /// As [`UdpAnswer::ask`], of whatever has this name.
    pub fn ask_name(
        vserver: &Vserver,
        name: &str,
        port: u16,
        payload: &[u8],
        how: UdpRequest<'_>,
    ) -> io::Result<UdpAnswer> {
        ask(vserver, Target::Name(name, port), payload, how)
    }
}

fn ask(
    vserver: &Vserver,
    target: Target<'_>,
    payload: &[u8],
    how: UdpRequest<'_>,
) -> io::Result<UdpAnswer> {
    let mut request = target.request();
    request.protocol = weft_shim::connect::Protocol::Udp;
    request.class = how.class.map(str::to_owned);
    request.form = how.form;
    request.bound = how.local;
    request.timeout = how.timeout;
    Connecting::new(vserver, request, Want::Udp(payload.to_vec()))?.wait()
}

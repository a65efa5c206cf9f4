//! The kernel's stack through its sockets: blocking calls or epoll where a side may sleep,
//! non-blocking calls in a loop where it polls.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketType};

use super::{Engine, unsupported};
use crate::side::Control;
use crate::spec::{Role, Side, Workload};

mod bulk;
mod exchange;
mod short;
mod udp;
mod vectored;

/// `kernel`.
pub(crate) struct Kernel;

impl Engine for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn in_kernel(&self) -> bool {
        true
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        if side.workload != Workload::UdpEcho {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            congest(&socket)?;
            control.fact("congestion", rustix::net::sockopt::tcp_congestion(&socket)?);
        }
        match (side.workload, side.role) {
            (Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth, Role::Server) => {
                bulk::serve(side, control)
            }
            (Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth, Role::Client) => {
                bulk::drive(side, control)
            }
            (Workload::RequestResponse, Role::Server) => exchange::serve(side, control),
            (Workload::RequestResponse, Role::Client) => exchange::drive(side, control),
            (Workload::ConnectClose, Role::Server) => exchange::serve(side, control),
            (Workload::ConnectClose, Role::Client) => short::drive(side, control),
            (Workload::UdpEcho, Role::Server) => udp::serve(side, control),
            (Workload::UdpEcho, Role::Client) => udp::drive(side, control),
            _ => Err(unsupported(side)),
        }
    }
}

/// How long a wait lasts at most, so that a server sees that it shall stop.
const WAIT: Duration = Duration::from_millis(50);
/// How long a client tries to connect: the server is there, its device may still come up.
const CONNECT: Duration = Duration::from_secs(5);

fn listen(side: &Side) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &side.server())?;
    congest(&socket)?;
    // the standard library's backlog is 128: less than the connections that come at once
    listen(&socket, 65_535)?;
    Ok(TcpListener::from(socket))
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let patience = Instant::now() + CONNECT;
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                congest(&stream)?;
                return Ok(stream);
            }
            Err(e) if Instant::now() > patience => {
                return Err(io::Error::new(e.kind(), format!("connect to {to}: {e}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// A namespace may be refused all but the machine's default; its sockets may not.
pub(super) fn congest(socket: impl rustix::fd::AsFd) -> io::Result<()> {
    rustix::net::sockopt::set_tcp_congestion(socket, crate::place::CONGESTION)?;
    Ok(())
}

/// Nothing now, ask again.
fn again(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::TimedOut)
}

/// `kernel-mmsg`: the kernel's UDP sockets with many datagrams in each call.
pub(crate) struct KernelVectored;

impl Engine for KernelVectored {
    fn name(&self) -> &'static str {
        "kernel-mmsg"
    }

    fn in_kernel(&self) -> bool {
        true
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        match (side.workload, side.role) {
            (Workload::UdpEcho, Role::Server) => vectored::serve(side, control),
            (Workload::UdpEcho, Role::Client) => vectored::drive(side, control),
            _ => Err(unsupported(side)),
        }
    }
}

/// Waits for events: not at all if the side polls.
fn wait(
    epoll: impl rustix::fd::AsFd,
    events: &mut Vec<epoll::Event>,
    busy: bool,
) -> io::Result<()> {
    let timeout = if busy { Duration::ZERO } else { WAIT };
    let timeout = rustix::event::Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    events.clear();
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

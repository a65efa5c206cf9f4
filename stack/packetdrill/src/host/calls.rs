//! The calls of an application.

use std::net::{IpAddr, SocketAddr};

use weft_stack::socket::SocketId;
use weft_stack::socket::tcp::{ShutdownHow, TcpRecvError, TcpSendError, TcpState};

use super::{Host, Kind, Stream, wait};
use crate::errno::{AGAIN, Errno};

const EINVAL: Errno = Errno(libc::EINVAL);
const ENOTSOCK: Errno = Errno(libc::ENOTSOCK);
const ENOTCONN: Errno = Errno(libc::ENOTCONN);
/// Bytes of a datagram at most.
const DATAGRAM_BYTES: usize = 65_536;

/// What a read gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The bytes; none is the end of the stream.
    pub data: Vec<u8>,
    /// Sender of a datagram.
    pub from: Option<SocketAddr>,
}

impl Host {
    /// `socket`: TCP or UDP over IPv4 or IPv6.
    pub fn socket(&mut self, domain: i32, kind: i32, protocol: i32) -> Result<i32, Errno> {
        if domain != libc::AF_INET && domain != libc::AF_INET6 {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        let flags = kind & (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        let made = match (kind & !flags, protocol) {
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Kind::Tcp { bound: None },
            (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => Kind::Udp { id: None, peer: None },
            _ => return Err(Errno(libc::EPROTONOSUPPORT)),
        };
        let fd = self.insert(made, domain == libc::AF_INET6);
        self.descriptor(fd)?.nonblocking = flags & libc::SOCK_NONBLOCK != 0;
        Ok(fd)
    }

    /// `bind`. A TCP socket is only really bound by `listen` or `connect`.
    pub fn bind(&mut self, fd: i32, addr: SocketAddr) -> Result<(), Errno> {
        let now = self.now;
        let ip = addr.ip();
        if !ip.is_unspecified() && !self.stack.is_local(ip) {
            return Err(Errno(libc::EADDRNOTAVAIL));
        }
        match &mut self.descriptors.get_mut(&fd).ok_or(Errno(libc::EBADF))?.kind {
            Kind::Tcp { bound } if bound.is_none() => *bound = Some(addr),
            Kind::Udp { id, .. } if id.is_none() => *id = Some(self.stack.udp_bind(now, addr)?),
            Kind::Epoll(_) => return Err(ENOTSOCK),
            _ => return Err(EINVAL),
        }
        self.pump();
        Ok(())
    }

    /// `listen`.
    pub fn listen(&mut self, fd: i32, backlog: i32) -> Result<(), Errno> {
        let now = self.now;
        let descriptor = self.descriptors.get_mut(&fd).ok_or(Errno(libc::EBADF))?;
        let local = match &descriptor.kind {
            Kind::Tcp { bound } => bound.unwrap_or(unspecified(descriptor.v6)),
            Kind::Listener(_) => return Ok(()),
            Kind::Epoll(_) => return Err(ENOTSOCK),
            Kind::Stream(_) => return Err(EINVAL),
            Kind::Udp { .. } => return Err(Errno(libc::EOPNOTSUPP)),
        };
        let id = self.stack.tcp_listen(now, local, backlog.max(1) as usize)?;
        descriptor.kind = Kind::Listener(id);
        self.apply_options(fd, id);
        self.pump();
        Ok(())
    }

    /// `accept`: the new descriptor and the peer.
    pub fn accept(&mut self, fd: i32) -> Result<(i32, SocketAddr), Errno> {
        let descriptor = self.descriptor(fd)?;
        let v6 = descriptor.v6;
        let options = descriptor.options.clone();
        let Kind::Listener(id) = descriptor.kind else { return Err(EINVAL) };
        let Some(accepted) = self.stack.tcp_accept(id) else { return Err(AGAIN) };
        self.pump();
        let stream = Stream { id: accepted.id, connecting: false, told: false };
        let fd = self.insert(Kind::Stream(stream), v6);
        self.descriptor(fd)?.options = options;
        Ok((fd, accepted.peer))
    }

    /// `connect`. Gives `EINPROGRESS` when it began, `EALREADY` while it goes on.
    pub fn connect(&mut self, fd: i32, peer: SocketAddr) -> Result<(), Errno> {
        let now = self.now;
        let descriptor = self.descriptors.get_mut(&fd).ok_or(Errno(libc::EBADF))?;
        match &mut descriptor.kind {
            Kind::Tcp { bound } => {
                let id = self.stack.tcp_connect(now, *bound, peer)?;
                let stream = Stream { id, connecting: true, told: false };
                descriptor.kind = Kind::Stream(stream);
                self.apply_options(fd, id);
                self.pump();
                Err(Errno(libc::EINPROGRESS))
            }
            Kind::Stream(_) => self.connected(fd),
            Kind::Udp { .. } => {
                let id = self.udp_id(fd)?;
                self.stack.udp_connect(now, id, peer)?;
                if let Kind::Udp { peer: known, .. } = &mut self.descriptor(fd)?.kind {
                    *known = Some(peer);
                }
                Ok(())
            }
            Kind::Listener(_) => Err(Errno(libc::EISCONN)),
            Kind::Epoll(_) => Err(ENOTSOCK),
        }
    }

    /// Connects and sends with the SYN, if a cookie is known (RFC 7413). What was queued counts as
    /// sent; without room for any of it (or nothing to send) the connect is just in progress.
    fn connect_with(&mut self, fd: i32, peer: SocketAddr, data: &[u8]) -> Result<usize, Errno> {
        let now = self.now;
        let descriptor = self.descriptors.get_mut(&fd).ok_or(Errno(libc::EBADF))?;
        let Kind::Tcp { bound } = descriptor.kind else { return Err(Errno(libc::EISCONN)) };
        let (id, queued) = self.stack.tcp_connect_with(now, bound, peer, data)?;
        descriptor.kind = Kind::Stream(Stream { id, connecting: true, told: false });
        self.apply_options(fd, id);
        self.pump();
        if queued > 0 { Ok(queued) } else { Err(Errno(libc::EINPROGRESS)) }
    }

    /// How a connect that began stands.
    fn connected(&mut self, fd: i32) -> Result<(), Errno> {
        let Some(Kind::Stream(stream)) = self.descriptors.get_mut(&fd).map(|d| &mut d.kind) else {
            return Err(EINVAL);
        };
        if !stream.connecting {
            return Err(Errno(libc::EISCONN));
        }
        if let Some(error) = self.stack.tcp_take_error(stream.id) {
            (stream.connecting, stream.told) = (false, true);
            return Err(error.into());
        }
        match self.stack.tcp_state(stream.id) {
            TcpState::SynSent | TcpState::SynReceived => Err(Errno(libc::EALREADY)),
            _ => {
                stream.connecting = false;
                Ok(())
            }
        }
    }

    fn stream(&mut self, fd: i32) -> Result<&mut Stream, Errno> {
        match &mut self.descriptor(fd)?.kind {
            Kind::Stream(stream) => Ok(stream),
            Kind::Epoll(_) => Err(ENOTSOCK),
            _ => Err(ENOTCONN),
        }
    }

    /// The UDP socket of a descriptor, bound to any port if it is not bound.
    fn udp_id(&mut self, fd: i32) -> Result<SocketId, Errno> {
        let now = self.now;
        let descriptor = self.descriptors.get_mut(&fd).ok_or(Errno(libc::EBADF))?;
        let local = unspecified(descriptor.v6);
        match &mut descriptor.kind {
            Kind::Udp { id: Some(id), .. } => Ok(*id),
            Kind::Udp { id, .. } => Ok(*id.insert(self.stack.udp_bind(now, local)?)),
            _ => Err(ENOTSOCK),
        }
    }

    pub(super) fn is_udp(&self, fd: i32) -> bool {
        matches!(self.descriptors.get(&fd).map(|d| &d.kind), Some(Kind::Udp { .. }))
    }

    /// `read`, `recv` and the like: at most `max` bytes.
    pub fn recv(&mut self, fd: i32, max: usize) -> Result<Received, Errno> {
        if self.is_udp(fd) {
            let id = self.udp_id(fd)?;
            let datagram = self.stack.udp_recv(id)?;
            let data = datagram.payload[..datagram.payload.len().min(max)].to_vec();
            return Ok(Received { data, from: Some(datagram.from) });
        }
        let now = self.now;
        let stream = self.stream(fd)?;
        let (id, told) = (stream.id, stream.told);
        let mut data = vec![0; max];
        let result = match self.stack.tcp_recv(now, id, &mut data) {
            Ok(n) => {
                data.truncate(n);
                Ok(Received { data, from: None })
            }
            Err(TcpRecvError::Failed(_)) if told => Ok(Received { data: Vec::new(), from: None }),
            Err(TcpRecvError::Failed(error)) => {
                self.stack.tcp_take_error(id);
                self.stream(fd)?.told = true;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        };
        self.pump();
        result
    }

    /// `recv` with `MSG_PEEK`: as [`Host::recv`] on a stream, and everything stays.
    pub fn peek(&mut self, fd: i32, max: usize) -> Result<Received, Errno> {
        let id = self.stream(fd)?.id;
        let mut data = vec![0; max];
        let n = self.stack.tcp_peek(id, &mut data)?;
        data.truncate(n);
        Ok(Received { data, from: None })
    }

    /// `write`, `send` and the like: how many bytes went.
    pub fn send(
        &mut self,
        fd: i32,
        data: &[u8],
        flags: i32,
        to: Option<SocketAddr>,
    ) -> Result<usize, Errno> {
        let now = self.now;
        if self.is_udp(fd) {
            if data.len() > DATAGRAM_BYTES {
                return Err(Errno(libc::EMSGSIZE));
            }
            let id = self.udp_id(fd)?;
            self.stack.udp_send(now, id, data, to)?;
            self.pump();
            return Ok(data.len());
        }
        if flags & libc::MSG_FASTOPEN != 0 && matches!(self.descriptor(fd)?.kind, Kind::Tcp { .. })
        {
            return self.connect_with(fd, to.ok_or(Errno(libc::EDESTADDRREQ))?, data);
        }
        if matches!(self.descriptor(fd)?.kind, Kind::Tcp { .. } | Kind::Listener(_)) {
            return Err(Errno(libc::EPIPE));
        }
        let stream = self.stream(fd)?;
        let (id, told) = (stream.id, stream.told);
        let sent = if flags & libc::MSG_OOB != 0 {
            self.stack.tcp_send_urgent(now, id, data)
        } else if flags & libc::MSG_MORE != 0 {
            self.stack.tcp_send_more(now, id, data)
        } else {
            self.stack.tcp_send(now, id, data)
        };
        let result = match sent {
            Ok(n) => Ok(n),
            Err(TcpSendError::Failed(_)) if told => Err(Errno(libc::EPIPE)),
            Err(TcpSendError::Failed(error)) => {
                self.stack.tcp_take_error(id);
                self.stream(fd)?.told = true;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        };
        self.pump();
        result
    }

    /// `shutdown`.
    pub fn shutdown(&mut self, fd: i32, how: i32) -> Result<(), Errno> {
        let now = self.now;
        let how = match how {
            libc::SHUT_RD => ShutdownHow::Read,
            libc::SHUT_WR => ShutdownHow::Write,
            libc::SHUT_RDWR => ShutdownHow::Both,
            _ => return Err(EINVAL),
        };
        let stream = self.stream(fd)?;
        let (id, over) = (stream.id, stream.told);
        if over || self.stack.tcp_state(id) == TcpState::Closed {
            return Err(ENOTCONN);
        }
        self.stack.tcp_shutdown(now, id, how);
        self.pump();
        Ok(())
    }

    /// `close`.
    pub fn close(&mut self, fd: i32) -> Result<(), Errno> {
        let descriptor = self.descriptors.remove(&fd).ok_or(Errno(libc::EBADF))?;
        let now = self.now;
        match descriptor.kind {
            Kind::Stream(stream) => {
                self.stack.tcp_close(now, stream.id);
            }
            Kind::Listener(id) => self.stack.tcp_close(now, id),
            Kind::Udp { id: Some(id), .. } => self.stack.udp_close(id),
            _ => {}
        }
        for other in self.descriptors.values_mut() {
            if let Kind::Epoll(epoll) = &mut other.kind {
                epoll.forget(fd);
            }
        }
        self.pump();
        Ok(())
    }

    /// `fcntl` with `F_GETFL` or `F_SETFL`.
    pub fn fcntl(&mut self, fd: i32, command: i32, argument: i32) -> Result<i32, Errno> {
        let descriptor = self.descriptor(fd)?;
        match command {
            libc::F_GETFL => {
                Ok(libc::O_RDWR | if descriptor.nonblocking { libc::O_NONBLOCK } else { 0 })
            }
            libc::F_SETFL => {
                descriptor.nonblocking = argument & libc::O_NONBLOCK != 0;
                Ok(0)
            }
            _ => Err(EINVAL),
        }
    }

    /// `ioctl` with `SIOCINQ`, `SIOCOUTQ` or `SIOCOUTQNSD`: the answer.
    pub fn ioctl(&mut self, fd: i32, request: u64) -> Result<i32, Errno> {
        let id = self.stream(fd)?.id;
        let info = self.stack.tcp_info(self.now, id).ok_or(EINVAL)?;
        match request {
            0x541b => Ok(info.unread as i32),
            0x5411 => Ok((info.in_flight + info.unsent) as i32),
            0x894b => Ok(info.unsent as i32),
            _ => Err(EINVAL),
        }
    }

    /// Local address and peer.
    pub fn addresses(&mut self, fd: i32) -> Result<(SocketAddr, SocketAddr), Errno> {
        let id = self.stream(fd)?.id;
        self.stack.tcp_addrs(id).ok_or(ENOTCONN)
    }

    /// What a TCP socket is bound to, if it is.
    pub fn bound(&self, fd: i32) -> Option<SocketAddr> {
        match self.descriptors.get(&fd)?.kind {
            Kind::Tcp { bound } => bound,
            Kind::Listener(id) => self.stack.tcp_addrs(id).map(|a| a.0),
            _ => None,
        }
    }

    /// Whether addresses of a descriptor are shown as IPv6 ones.
    pub fn is_v6(&self, fd: i32) -> bool {
        self.descriptors.get(&fd).is_some_and(|d| d.v6)
    }

    /// Whether a descriptor is a UDP socket.
    pub fn is_datagram(&self, fd: i32) -> bool {
        self.is_udp(fd)
    }

    /// The address of a UDP socket that has one.
    pub fn udp_local(&self, fd: i32) -> Option<SocketAddr> {
        match self.descriptors.get(&fd)?.kind {
            Kind::Udp { id: Some(id), .. } => self.stack.udp_local(id),
            _ => None,
        }
    }

    /// The peer of a connected UDP socket.
    pub fn udp_peer(&self, fd: i32) -> Option<SocketAddr> {
        match self.descriptors.get(&fd)?.kind {
            Kind::Udp { peer, .. } => peer,
            _ => None,
        }
    }

    /// The dump of a descriptor's connection.
    pub fn tcp_info(&self, fd: i32) -> Option<weft_stack::socket::tcp::TcpInfo> {
        self.stack.tcp_info(self.now, self.socket_of(fd)?)
    }

    /// `epoll_create`.
    pub fn epoll_create(&mut self) -> i32 {
        self.insert(Kind::Epoll(wait::Epoll::default()), false)
    }
}

fn unspecified(v6: bool) -> SocketAddr {
    let ip: IpAddr = if v6 {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, 0)
}

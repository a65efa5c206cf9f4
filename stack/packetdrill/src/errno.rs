//! Errors of system calls by number and name.

use core::fmt;

use weft_stack::socket::tcp::{ConnectError, ListenError, TcpError, TcpRecvError, TcpSendError};
use weft_stack::socket::udp::{BindError, UdpError, UdpRecvError, UdpSendError};

/// An error as the C library numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

macro_rules! names {
    ($($name:ident)*) => {
        const NAMES: &[(&str, i32)] = &[$((stringify!($name), libc::$name)),*];
    };
}

names! {
    EPERM ENOENT EINTR EIO EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EINVAL EPIPE
    ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT EOPNOTSUPP EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN
    ETIMEDOUT ECONNREFUSED EHOSTUNREACH EALREADY EINPROGRESS EMFILE EPROTO ENOSYS
}

impl Errno {
    /// The error with this name.
    pub fn by_name(name: &str) -> Option<Errno> {
        // The two are one on Linux.
        let name = if name == "EWOULDBLOCK" { "EAGAIN" } else { name };
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, v)| Errno(*v))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, v)| *v == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

/// Nothing now.
pub(crate) const AGAIN: Errno = Errno(libc::EAGAIN);

impl From<TcpError> for Errno {
    fn from(e: TcpError) -> Errno {
        Errno(match e {
            TcpError::Refused => libc::ECONNREFUSED,
            TcpError::Reset => libc::ECONNRESET,
            TcpError::TimedOut => libc::ETIMEDOUT,
            TcpError::HostUnreachable => libc::EHOSTUNREACH,
            TcpError::Aborted => libc::ECONNABORTED,
            _ => libc::EIO,
        })
    }
}

impl From<TcpRecvError> for Errno {
    fn from(e: TcpRecvError) -> Errno {
        match e {
            TcpRecvError::WouldBlock => AGAIN,
            TcpRecvError::Failed(e) => e.into(),
            _ => Errno(libc::ENOTCONN),
        }
    }
}

impl From<TcpSendError> for Errno {
    fn from(e: TcpSendError) -> Errno {
        match e {
            TcpSendError::WouldBlock => AGAIN,
            TcpSendError::Failed(e) => e.into(),
            _ => Errno(libc::EPIPE),
        }
    }
}

impl From<ConnectError> for Errno {
    fn from(e: ConnectError) -> Errno {
        Errno(match e {
            ConnectError::Unreachable => libc::ENETUNREACH,
            ConnectError::NotAvailable => libc::EADDRNOTAVAIL,
            ConnectError::InUse => libc::EADDRINUSE,
            ConnectError::TooMany => libc::EAGAIN,
            _ => libc::EINVAL,
        })
    }
}

impl From<ListenError> for Errno {
    fn from(e: ListenError) -> Errno {
        Errno(match e {
            ListenError::InUse => libc::EADDRINUSE,
            ListenError::NotAvailable => libc::EADDRNOTAVAIL,
            _ => libc::ENOBUFS,
        })
    }
}

impl From<BindError> for Errno {
    fn from(e: BindError) -> Errno {
        Errno(match e {
            BindError::InUse => libc::EADDRINUSE,
            BindError::NotAvailable => libc::EADDRNOTAVAIL,
            _ => libc::ENOBUFS,
        })
    }
}

impl From<UdpError> for Errno {
    fn from(e: UdpError) -> Errno {
        Errno(match e {
            UdpError::Refused => libc::ECONNREFUSED,
            UdpError::NetUnreachable => libc::ENETUNREACH,
            UdpError::ProtocolUnreachable => libc::ENOPROTOOPT,
            UdpError::Prohibited => libc::EACCES,
            UdpError::TooBig { .. } => libc::EMSGSIZE,
            UdpError::ParameterProblem => libc::EPROTO,
            _ => libc::EHOSTUNREACH,
        })
    }
}

impl From<UdpSendError> for Errno {
    fn from(e: UdpSendError) -> Errno {
        Errno(match e {
            UdpSendError::WouldBlock => libc::EAGAIN,
            UdpSendError::Closed => libc::EBADF,
            UdpSendError::NoDestination => libc::EDESTADDRREQ,
            UdpSendError::Unreachable => libc::ENETUNREACH,
            UdpSendError::TooLong | UdpSendError::TooBig { .. } => libc::EMSGSIZE,
            UdpSendError::Broadcast => libc::EACCES,
            UdpSendError::InUse => libc::EADDRINUSE,
            UdpSendError::Failed(e) => return e.into(),
            _ => libc::EINVAL,
        })
    }
}

impl From<UdpRecvError> for Errno {
    fn from(e: UdpRecvError) -> Errno {
        match e {
            UdpRecvError::WouldBlock => AGAIN,
            UdpRecvError::Failed(e) => e.into(),
            _ => Errno(libc::EBADF),
        }
    }
}

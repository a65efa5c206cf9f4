//! `setsockopt` and `getsockopt`, with the numbers and layouts of Linux.

use std::time::Duration;

use weft_stack::socket::SocketId;
use weft_stack::socket::tcp::{CongestionControl, TcpOption};

use super::{Host, Kind, tcp_info_bytes};
use crate::errno::Errno;

const SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::SOL_TCP;
const TCP_CC_INFO: i32 = 26;
const SO_MEMINFO: i32 = 55;
const KEEPALIVE_IDLE_S: u64 = 7200;
const KEEPALIVE_INTERVAL_S: u64 = 75;
const KEEPALIVE_COUNT: u32 = 9;

impl Host {
    /// `setsockopt`; `value` is what its pointer points to.
    pub fn set_option(
        &mut self,
        fd: i32,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        check(level, name, value)?;
        self.descriptor(fd)?.options.insert((level, name), value.to_vec());
        if let Some(id) = self.socket_of(fd) {
            self.apply_option(fd, id, level, name);
        }
        self.pump();
        Ok(())
    }

    /// Gives a new socket what its descriptor was told before it had one.
    pub(super) fn apply_options(&mut self, fd: i32, id: SocketId) {
        let Some(descriptor) = self.descriptors.get(&fd) else { return };
        let mut set: Vec<(i32, i32)> = descriptor.options.keys().copied().collect();
        set.sort_unstable();
        for (level, name) in set {
            self.apply_option(fd, id, level, name);
        }
    }

    fn apply_option(&mut self, fd: i32, id: SocketId, level: i32, name: i32) {
        let Some(descriptor) = self.descriptors.get(&fd) else { return };
        if matches!(descriptor.kind, Kind::Udp { .. }) {
            return;
        }
        let number = |level, name, default| {
            descriptor.options.get(&(level, name)).map_or(default, |v| integer(v) as u64)
        };
        let value = number(level, name, 0);
        let option = match (level, name) {
            (SOCKET, libc::SO_SNDBUF) => TcpOption::SendBuffer(value as usize),
            (SOCKET, libc::SO_RCVBUF) => TcpOption::RecvBuffer(value as usize),
            (TCP, libc::TCP_NODELAY) => TcpOption::NoDelay(value != 0),
            (TCP, libc::TCP_USER_TIMEOUT) => {
                TcpOption::UserTimeout(Some(Duration::from_millis(value)))
            }
            (TCP, libc::TCP_CORK) => TcpOption::Cork(value != 0),
            (TCP, libc::TCP_QUICKACK) => TcpOption::QuickAck(value != 0),
            (TCP, libc::TCP_MAXSEG) => {
                TcpOption::MaxSegment(u16::try_from(value).ok().filter(|v| *v > 0))
            }
            (TCP, libc::TCP_NOTSENT_LOWAT) => {
                // The kernel's value for "no bound" is all ones.
                let value = value as u32;
                TcpOption::NotSentLowat((value < u32::MAX).then_some(value as usize))
            }
            (TCP, libc::TCP_DEFER_ACCEPT) => {
                TcpOption::DeferAccept((value > 0).then(|| Duration::from_secs(value)))
            }
            (TCP, libc::TCP_FASTOPEN) => TcpOption::FastOpen(value != 0),
            (SOCKET, libc::SO_MAX_PACING_RATE) => {
                TcpOption::PacingRateMax((value as u32 != u32::MAX).then_some(value))
            }
            (libc::SOL_IP, libc::IP_TOS) | (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                TcpOption::TrafficClass(value as u8)
            }
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS) => {
                TcpOption::HopLimit(u8::try_from(value).ok().filter(|v| *v > 0))
            }
            (SOCKET, libc::SO_LINGER) => {
                let seconds = integer(&descriptor.options[&(level, name)][4..]);
                let on = value != 0;
                TcpOption::Linger(on.then(|| Duration::from_secs(seconds.max(0) as u64)))
            }
            (TCP, libc::TCP_CONGESTION) => {
                let text = &descriptor.options[&(level, name)];
                match congestion(text) {
                    Some(kind) => TcpOption::Congestion(kind),
                    None => return,
                }
            }
            (SOCKET, libc::SO_KEEPALIVE)
            | (TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT) => {
                let idle = number(TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
                let interval = number(TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
                let count = number(TCP, libc::TCP_KEEPCNT, u64::from(KEEPALIVE_COUNT));
                let on = number(SOCKET, libc::SO_KEEPALIVE, 0) != 0;
                TcpOption::KeepAlive(on.then_some((
                    Duration::from_secs(idle),
                    Duration::from_secs(interval),
                    count as u32,
                )))
            }
            _ => return,
        };
        self.stack.tcp_set_option(self.now, id, option);
    }

    /// `getsockopt`: the bytes of the value.
    pub fn get_option(&mut self, fd: i32, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let now = self.now;
        let id = self.socket_of(fd);
        let info = id.and_then(|id| self.stack.tcp_info(now, id));
        let set = self.descriptor(fd)?.options.get(&(level, name)).cloned();
        let bytes = |n: i64| (n as i32).to_ne_bytes().to_vec();
        Ok(match (level, name) {
            (SOCKET, libc::SO_ERROR) => {
                if self.is_udp(fd) {
                    let error = id.and_then(|id| self.stack.udp_take_error(id));
                    return Ok(bytes(error.map_or(0, |e| i64::from(Errno::from(e).0))));
                }
                let error = id.and_then(|id| self.stack.tcp_take_error(id));
                if error.is_some()
                    && let Kind::Stream(stream) = &mut self.descriptor(fd)?.kind
                {
                    stream.told = true;
                }
                bytes(error.map_or(0, |e| i64::from(Errno::from(e).0)))
            }
            (TCP, libc::TCP_INFO) => {
                tcp_info_bytes(&info.ok_or(Errno(libc::EINVAL))?, self.stack.mib())
            }
            // Controllers show no structure of their own, and memory is not counted Linux's way.
            (TCP, TCP_CC_INFO) => Vec::new(),
            (SOCKET, SO_MEMINFO) => vec![0; 36],
            (TCP, libc::TCP_MAXSEG) => bytes(
                info.map_or_else(|| set.as_ref().map_or(536, |v| integer(v)), |i| i.mss as i64),
            ),
            (TCP, libc::TCP_CONGESTION) => {
                let kind = info.map(|i| i.congestion.name().as_bytes().to_vec());
                kind.or(set).unwrap_or_else(|| b"cubic".to_vec())
            }
            // Linux counts its own overhead, as much again.
            (SOCKET, libc::SO_SNDBUF | libc::SO_RCVBUF) => match (set, info) {
                (Some(set), _) => bytes(2 * integer(&set)),
                (None, Some(i)) if name == libc::SO_SNDBUF => bytes(i.send_buffer as i64),
                (None, Some(i)) => bytes(i.recv_buffer as i64),
                (None, None) => return Err(Errno(libc::ENOPROTOOPT)),
            },
            _ => {
                check(level, name, &[0; 8])?;
                set.unwrap_or_else(|| bytes(0))
            }
        })
    }
}

/// Refuses what the stack has no option for.
fn check(level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let known = match level {
        SOCKET => [
            libc::SO_REUSEADDR,
            libc::SO_REUSEPORT,
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
            libc::SO_KEEPALIVE,
            libc::SO_LINGER,
            libc::SO_ERROR,
            libc::SO_MAX_PACING_RATE,
            libc::SO_TYPE,
        ]
        .contains(&name),
        TCP => [
            libc::TCP_NODELAY,
            libc::TCP_USER_TIMEOUT,
            libc::TCP_CONGESTION,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_KEEPCNT,
            libc::TCP_CORK,
            libc::TCP_QUICKACK,
            libc::TCP_MAXSEG,
            libc::TCP_NOTSENT_LOWAT,
            libc::TCP_DEFER_ACCEPT,
            libc::TCP_FASTOPEN,
        ]
        .contains(&name),
        libc::SOL_IP => [libc::IP_TOS, libc::IP_TTL].contains(&name),
        libc::SOL_IPV6 => [libc::IPV6_TCLASS, libc::IPV6_UNICAST_HOPS].contains(&name),
        _ => false,
    };
    if !known {
        return Err(Errno(libc::ENOPROTOOPT));
    }
    if (level, name) == (TCP, libc::TCP_CONGESTION) {
        return if value.iter().all(|b| *b == 0) || congestion(value).is_some() {
            Ok(())
        } else {
            Err(Errno(libc::ENOENT))
        };
    }
    let least = if (level, name) == (SOCKET, libc::SO_LINGER) { 8 } else { 4 };
    if value.len() < least {
        return Err(Errno(libc::EINVAL));
    }
    Ok(())
}

fn congestion(name: &[u8]) -> Option<CongestionControl> {
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    CongestionControl::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
}

/// The first four bytes as an `int`.
pub(super) fn integer(value: &[u8]) -> i64 {
    value.first_chunk().map_or(0, |b| i64::from(i32::from_ne_bytes(*b)))
}

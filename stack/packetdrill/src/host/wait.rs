//! `poll` and `epoll`, without waiting.

use std::collections::BTreeMap;

use weft_stack::socket::{Readiness, SocketId};

use super::{Host, Kind};
use crate::errno::Errno;

/// What an epoll descriptor watches.
#[derive(Debug, Default)]
pub(super) struct Epoll {
    watched: BTreeMap<i32, Watch>,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    events: u32,
    data: u64,
    /// The edge that was reported last.
    seen: Option<(u64, u32)>,
}

impl Epoll {
    pub(super) fn forget(&mut self, fd: i32) {
        self.watched.remove(&fd);
    }
}

/// One result of `epoll_wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollEntry {
    /// `EPOLLIN` and the like.
    pub events: u32,
    /// As given to `epoll_ctl`.
    pub data: u64,
}

impl Host {
    /// Whether there is such a descriptor.
    pub fn has(&self, fd: i32) -> bool {
        self.descriptors.contains_key(&fd)
    }

    /// What `poll` would report of `fd` if it asked for everything.
    pub fn readiness(&self, fd: i32) -> i16 {
        let Some(descriptor) = self.descriptors.get(&fd) else { return libc::POLLNVAL };
        let Some(id) = self.socket_of(fd) else {
            return match descriptor.kind {
                // A fresh TCP socket is neither connected nor will it be.
                Kind::Tcp { .. } => libc::POLLOUT | libc::POLLHUP,
                Kind::Udp { .. } => libc::POLLOUT,
                _ => 0,
            };
        };
        let ready = self.stack.readiness(id);
        let mut events = 0;
        for (bit, event) in [
            (Readiness::READABLE, libc::POLLIN | libc::POLLRDNORM),
            (Readiness::WRITABLE, libc::POLLOUT | libc::POLLWRNORM),
            (Readiness::READ_CLOSED, libc::POLLRDHUP),
            (Readiness::PRIORITY, libc::POLLPRI),
            (Readiness::ERROR, libc::POLLERR),
            (Readiness::READ_CLOSED | Readiness::WRITE_CLOSED, libc::POLLHUP),
        ] {
            if ready.contains(bit) {
                events |= event;
            }
        }
        events
    }

    /// `epoll_ctl`.
    pub fn epoll_control(
        &mut self,
        epoll: i32,
        operation: i32,
        fd: i32,
        events: u32,
        data: u64,
    ) -> Result<(), Errno> {
        self.descriptor(fd)?;
        let Kind::Epoll(set) = &mut self.descriptor(epoll)?.kind else {
            return Err(Errno(libc::EINVAL));
        };
        let watch = Watch { events, data, seen: None };
        match (operation, set.watched.contains_key(&fd)) {
            (libc::EPOLL_CTL_ADD, false) | (libc::EPOLL_CTL_MOD, true) => {
                set.watched.insert(fd, watch);
            }
            (libc::EPOLL_CTL_DEL, true) => {
                set.watched.remove(&fd);
            }
            (libc::EPOLL_CTL_ADD, true) => return Err(Errno(libc::EEXIST)),
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, false) => return Err(Errno(libc::ENOENT)),
            _ => return Err(Errno(libc::EINVAL)),
        }
        Ok(())
    }

    /// `epoll_wait`: what is ready now, at most `max`.
    pub fn epoll_ready(&mut self, epoll: i32, max: usize) -> Result<Vec<EpollEntry>, Errno> {
        let Kind::Epoll(set) = &self.descriptor(epoll)?.kind else {
            return Err(Errno(libc::EINVAL));
        };
        let mut watched = set.watched.clone();
        let mut out = Vec::new();
        for (fd, watch) in &mut watched {
            let always = (libc::POLLERR | libc::POLLHUP) as u32;
            let ready = u32::from(self.readiness(*fd) as u16) & (watch.events | always);
            let edge = self
                .socket_of(*fd)
                .map_or(0, |id: SocketId| self.edges.get(&id).copied().unwrap_or_default());
            let triggered = watch.events & libc::EPOLLET as u32 != 0;
            let news = !triggered || watch.seen != Some((edge, ready));
            if ready == 0 {
                watch.seen = None;
            } else if news && out.len() < max {
                watch.seen = Some((edge, ready));
                out.push(EpollEntry { events: ready, data: watch.data });
                if watch.events & libc::EPOLLONESHOT as u32 != 0 {
                    watch.events = 0;
                }
            }
        }
        if let Kind::Epoll(set) = &mut self.descriptor(epoll)?.kind {
            set.watched = watched;
        }
        Ok(out)
    }
}

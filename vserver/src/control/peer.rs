//! Who is at the other end of the socket, by what the kernel says.

use std::io;
use std::os::fd::AsFd;

use weft_drivers::peer::{peer_credentials, peer_groups};

/// A process that connected, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups; empty on kernels that do not tell (before 4.13).
    pub groups: Vec<u32>,
    /// Process; 0 if it is not visible from here.
    pub pid: u32,
}

impl Peer {
    /// Of a connected unix stream socket.
    pub fn of(socket: impl AsFd) -> io::Result<Peer> {
        let (pid, uid, gid) = peer_credentials(socket.as_fd())?;
        Ok(Peer { uid, gid, groups: peer_groups(socket).unwrap_or_default(), pid })
    }

    /// This process.
    pub fn own() -> Peer {
        Peer {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
            pid: std::process::id(),
        }
    }

    /// Whether it is in a group of users.
    pub(super) fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

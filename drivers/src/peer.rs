//! Who is at the other end of a unix socket, as far as no crate tells.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{gid_t, socklen_t};

use crate::sockopt::get_option;

/// Groups of a process: the kernel's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65_536;

/// Process (0: not visible from here), effective user and effective group of the process that
/// connected a unix stream socket, as they were then (`SO_PEERCRED`).
pub fn peer_credentials(socket: impl AsFd) -> io::Result<(u32, u32, u32)> {
    let none = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let found = get_option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, none)?;
    Ok((found.pid.cast_unsigned(), found.uid, found.gid))
}

/// Supplementary groups of the process that connected a unix stream socket, as they were then
/// (`SO_PEERGROUPS`).
///
/// Errors: those of getsockopt; `InvalidData` if the kernel names more than a process can have.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<gid_t> = vec![0; 64];
    loop {
        let mut len = (groups.len() * size_of::<gid_t>()) as socklen_t;
        // SAFETY: the kernel writes at most `len` bytes of a live vector of integers.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let wanted = len as usize / size_of::<gid_t>();
        if result == 0 {
            groups.truncate(wanted);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too short: `len` says how long it must be.
        if error.raw_os_error() != Some(libc::ERANGE) || wanted <= groups.len() {
            return Err(error);
        }
        if wanted > GROUPS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        groups.resize(wanted, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn we_are_our_own_peer() {
        let (a, _b) = UnixStream::pair().unwrap();
        let (pid, uid, gid) = peer_credentials(&a).unwrap();
        assert_eq!(pid, std::process::id());
        assert_eq!(uid, rustix::process::geteuid().as_raw());
        assert_eq!(gid, rustix::process::getegid().as_raw());
    }

    #[test]
    fn our_own_groups_are_those_of_the_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(&a).unwrap();
        groups.sort_unstable();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap();
        let mut own: Vec<u32> = line.split_whitespace().map(|g| g.parse().unwrap()).collect();
        own.sort_unstable();
        assert_eq!(groups, own);
    }
}

//! The socket's file: made, replaced when nobody answers on it, removed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::ControlError;
use crate::config::Privilege;

/// A bound control socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
    /// Directory made for it.
    made: Option<PathBuf>,
}

/// The file of a socket, removed on drop if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            // Nobody is left to tell; the next daemon replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

impl Socket {
    /// Binds `path` for the owner alone (mode 0600), making its directory if that is missing. A
    /// socket file that nobody answers on is replaced.
    pub fn bind(path: &Path) -> Result<Socket, ControlError> {
        let os = |operation, source| ControlError::Os { path: path.to_owned(), operation, source };
        let made = make_directory_of(path).map_err(|e| os("make its directory", e))?;
        clear_stale(path)?;
        let listener = listen(path).map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => ControlError::InUse(path.to_owned()),
            _ => os("bind", e),
        })?;
        let file = SocketFile { path: path.to_owned(), identity: identity(path) };
        Ok(Socket { listener, file, made })
    }

    /// Lets others connect as the configuration says: by the group of its file and its mode. Who may
    /// do what is decided by the roles; who has none is refused.
    pub fn open_to(&self, p: &Privilege) -> Result<(), ControlError> {
        let path = &self.file.path;
        let os = |operation| {
            move |source: rustix::io::Errno| ControlError::Os {
                path: path.clone(),
                operation,
                source: source.into(),
            }
        };
        if let Some(group) = p.control_group {
            let group = Some(rustix::fs::Gid::from_raw(group));
            rustix::fs::chown(path, None, group).map_err(os("give it to its group"))?;
        }
        let by_default = match (p.control_group, p.roles.is_empty()) {
            (Some(_), _) => 0o660,
            (None, true) => 0o600,
            (None, false) => 0o666,
        };
        let mode = Mode::from_raw_mode(p.control_mode.unwrap_or(by_default));
        rustix::fs::chmod(path, mode).map_err(os("set its mode"))
    }

    /// What it has made: to be given to the user that is to remove it.
    pub fn files(&self) -> Vec<PathBuf> {
        self.made.iter().cloned().chain([self.file.path.clone()]).collect()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// Makes the directory of a file if it is missing, and returns it then.
pub(super) fn make_directory_of(path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) else {
        return Ok(None);
    };
    std::fs::create_dir_all(directory)?;
    Ok(Some(directory.to_owned()))
}

/// Removes a socket file that nobody answers on.
fn clear_stale(path: &Path) -> Result<(), ControlError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ControlError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|source| ControlError::Os {
                path: path.to_owned(),
                operation: "remove the socket of a daemon that is gone",
                source,
            }),
        // Gone meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(ControlError::InUse(path.to_owned())),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let fd: OwnedFd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // The file gets the mode of the socket, so that it never is open to others.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&fd, 64)?;
    Ok(fd.into())
}

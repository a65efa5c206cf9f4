//! Files below a directory. The kernel resolves names with `RESOLVE_BENEATH`, so that neither `..`
//! nor a symbolic link leads out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

/// Bytes read from a file at a time.
const CHUNK_BYTES: u64 = 256 << 10;

/// Names that the server gives to files it has not received whole; never served.
pub(super) const PART_PREFIX: &str = ".weft-part-";

/// The name below a directory that a request path stands for; `None` if it stands for none
/// (undecodable, `..`, a NUL, a file not received whole).
pub(super) fn name_of(path: &str) -> Option<PathBuf> {
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    if decoded.contains(&0) {
        return None;
    }
    let mut name = PathBuf::new();
    for part in decoded.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            p if p.starts_with(PART_PREFIX.as_bytes()) => return None,
            p => name.push(OsStr::from_bytes(p)),
        }
    }
    Some(name)
}

/// Opens `name` below `directory`; the directory itself if `name` is empty.
pub(super) fn open_beneath(directory: &OwnedFd, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    Ok(rustix::fs::openat2(
        directory,
        name,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// What a name turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file.
    File(FileInfo),
    /// A directory.
    Directory,
    /// Nothing that can be served.
    Nothing,
    /// The server may not read it.
    Forbidden,
}

/// An open file.
#[derive(Debug)]
pub(super) struct FileInfo {
    pub(super) file: File,
    pub(super) len: u64,
    /// Whole seconds, as HTTP dates are.
    pub(super) modified: SystemTime,
}

/// Looks a name up. Devices, sockets and pipes are nothing; opening one does not block.
pub(super) fn find(root: &OwnedFd, name: &Path) -> Found {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match open_beneath(root, name, flags) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Found::Forbidden,
        Err(_) => return Found::Nothing,
    };
    let Ok(stat) = rustix::fs::fstat(&fd) else { return Found::Nothing };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Directory,
        FileType::RegularFile => Found::File(FileInfo {
            file: File::from(fd),
            len: stat.st_size as u64,
            modified: UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)),
        }),
        _ => Found::Nothing,
    }
}

/// The part of a file that is still to be sent.
#[derive(Debug)]
pub(super) struct Body {
    file: File,
    at: u64,
    left: u64,
}

impl Body {
    pub(super) fn new(file: File, at: u64, len: u64) -> Body {
        Body { file, at, left: len }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Appends up to a chunk to `buf`. An error if the file is shorter than it was: its length has
    /// been announced.
    pub(super) fn read(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        let want = self.left.min(CHUNK_BYTES);
        buf.reserve_exact(want as usize);
        let end = buf.len() + want as usize;
        while buf.len() < end {
            let room = end - buf.len();
            let spare = rustix::buffer::spare_capacity(buf);
            let got = rustix::io::pread(&self.file, spare, self.at)?.min(room);
            // The vector may have more room than was asked for.
            buf.truncate(end);
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.at += got as u64;
            self.left -= got as u64;
        }
        Ok(())
    }

    /// The next chunk.
    pub(super) fn next(&mut self) -> io::Result<Bytes> {
        let mut buf = Vec::new();
        self.read(&mut buf)?;
        Ok(Bytes::from(buf))
    }
}

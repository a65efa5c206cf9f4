//! A PUT: written under a name of our own, renamed when it is complete. What is not complete is
//! removed, whatever ended it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::files::{PART_PREFIX, open_beneath};
use super::request::Framing;

/// A chunk's size line, or the trailer section, longer than this is refused.
const LINE_BYTES_MAX: usize = 4096;

/// A body on its way into a file.
#[derive(Debug)]
pub(super) struct Upload {
    part: Part,
    decoder: Decoder,
    /// Bytes that may still come.
    room: u64,
}

/// Where the body's reader is (RFC 9112 7.1).
#[derive(Debug)]
enum Decoder {
    /// So many bytes and the body is complete.
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailer,
    Complete,
}

/// What became of bytes given to an upload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is needed.
    Incomplete,
    /// The body ended; what is left in the input belongs to the next request.
    Complete,
    /// Refused with this status.
    Refused(u16),
}

impl Upload {
    /// Starts an upload to `name` below `directory`. `Err` is the status to refuse it with.
    pub(super) fn start(
        directory: &OwnedFd,
        name: &Path,
        framing: Framing,
        bytes_max: u64,
    ) -> Result<Upload, u16> {
        let decoder = match framing {
            Framing::None => return Err(411),
            Framing::Length(n) if n > bytes_max => return Err(413),
            Framing::Length(n) => Decoder::Length(n),
            Framing::Chunked => Decoder::ChunkSize,
        };
        let part = Part::create(directory, name).map_err(|e| status(&e))?;
        Ok(Upload { part, decoder, room: bytes_max })
    }

    /// Takes what belongs to the body off the front of `input`.
    pub(super) fn receive(&mut self, input: &mut Bytes) -> Progress {
        loop {
            match self.decoder {
                Decoder::Complete | Decoder::Length(0) => return Progress::Complete,
                _ if input.is_empty() => return Progress::Incomplete,
                Decoder::Length(left) => match self.write(left, input) {
                    Ok(n) => self.decoder = Decoder::Length(left - n),
                    Err(s) => return Progress::Refused(s),
                },
                Decoder::ChunkData(left) => match self.write(left, input) {
                    Ok(n) if n == left => self.decoder = Decoder::ChunkEnd,
                    Ok(n) => self.decoder = Decoder::ChunkData(left - n),
                    Err(s) => return Progress::Refused(s),
                },
                Decoder::ChunkSize => match httparse::parse_chunk_size(input) {
                    Ok(httparse::Status::Complete((len, size))) if len <= LINE_BYTES_MAX => {
                        input.advance(len);
                        self.decoder =
                            if size == 0 { Decoder::Trailer } else { Decoder::ChunkData(size) };
                    }
                    Ok(httparse::Status::Partial) if input.len() < LINE_BYTES_MAX => {
                        return Progress::Incomplete;
                    }
                    _ => return Progress::Refused(400),
                },
                Decoder::ChunkEnd => match &input[..] {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.decoder = Decoder::ChunkSize;
                    }
                    b"\r" => return Progress::Incomplete,
                    _ => return Progress::Refused(400),
                },
                Decoder::Trailer => {
                    match httparse::parse_headers(input, &mut [httparse::EMPTY_HEADER; 16]) {
                        Ok(httparse::Status::Complete((len, _))) => {
                            input.advance(len);
                            self.decoder = Decoder::Complete;
                        }
                        Ok(httparse::Status::Partial) if input.len() < LINE_BYTES_MAX => {
                            return Progress::Incomplete;
                        }
                        _ => return Progress::Refused(400),
                    }
                }
            }
        }
    }

    /// Writes at most `most` bytes; returns how many.
    fn write(&mut self, most: u64, input: &mut Bytes) -> Result<u64, u16> {
        let n = most.min(input.len() as u64);
        if n > self.room {
            return Err(413);
        }
        self.room -= n;
        let data = input.split_to(n as usize);
        self.part.file.write_all(&data).map_err(|e| status(&e))?;
        Ok(n)
    }

    /// Gives the file its name. The status: 201 for a new file, 204 for one replaced.
    pub(super) fn finish(mut self) -> u16 {
        self.part.rename().unwrap_or_else(|e| status(&e))
    }
}

/// The status that tells a client what the file system said.
fn status(e: &io::Error) -> u16 {
    match e.kind() {
        io::ErrorKind::NotFound => 404,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => 409,
        io::ErrorKind::PermissionDenied | io::ErrorKind::CrossesDevices => 403,
        io::ErrorKind::InvalidFilename => 414,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            507
        }
        _ => 500,
    }
}

/// A file under a name of our own, removed on drop unless renamed.
#[derive(Debug)]
struct Part {
    directory: OwnedFd,
    temporary: OsString,
    name: OsString,
    file: File,
    renamed: bool,
}

impl Part {
    fn create(root: &OwnedFd, name: &Path) -> io::Result<Part> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let file_name = name.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        let parent = name.parent().unwrap_or(Path::new(""));
        let directory = open_beneath(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        if is_directory(&directory, &file_name) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = OsString::from(format!("{PART_PREFIX}{}-{n}", std::process::id()));
        // What a killed process with our id left behind is nobody's.
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &temporary, flags, Mode::from_raw_mode(0o644))?;
        Ok(Part { directory, temporary, name: file_name, file: file.into(), renamed: false })
    }

    fn rename(&mut self) -> io::Result<u16> {
        let existed =
            rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        rustix::fs::renameat(&self.directory, &self.temporary, &self.directory, &self.name)?;
        self.renamed = true;
        Ok(if existed { 204 } else { 201 })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.renamed {
            // If it is gone already, that is what was wanted.
            let _ = rustix::fs::unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

fn is_directory(directory: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir())
}

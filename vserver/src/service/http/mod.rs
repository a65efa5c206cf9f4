//! An HTTP/1.1 server of static files, and of uploads when allowed, without I/O on the connection.
//!
//! One request is answered at a time: the next of a pipeline is read when the last byte of the
//! answer was taken. GET and HEAD serve regular files (single ranges, `If-Modified-Since`,
//! `index.html` of directories); PUT writes below the upload directory.

mod files;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod upload;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::counters::Counters;
use super::session::{Output, Patience};
use files::{Body, FileInfo, Found};
use request::{Framing, Method, Range, Refused, Request};
use response::Head;
use upload::{Progress, Upload};

/// A body up to this size travels in one piece with its head.
const INLINE_BODY_BYTES_MAX: u64 = 64 << 10;

/// What one http service serves; shared by its connections.
#[derive(Debug)]
pub(crate) struct Site {
    root: OwnedFd,
    upload: Option<OwnedFd>,
    upload_bytes_max: u64,
}

impl Site {
    /// Opens the directories. Names are resolved below these descriptors, also if the directories
    /// are renamed later.
    pub(crate) fn open(
        root: &Path,
        upload: Option<&Path>,
        upload_bytes_max: u64,
    ) -> io::Result<Site> {
        let upload = upload.map(File::open).transpose()?.map(OwnedFd::from);
        Ok(Site { root: File::open(root)?.into(), upload, upload_bytes_max })
    }
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    site: Arc<Site>,
    /// Received and not yet used.
    input: Bytes,
    /// To be sent before `body`.
    output: Bytes,
    body: Option<Body>,
    state: State,
    /// The client has sent its last byte.
    ended: bool,
}

#[derive(Debug)]
enum State {
    /// Waits for a request, or sends the answer to the last one.
    Head,
    /// Receives a body; the request's persistence and version answer it.
    Upload { upload: Upload, keep_alive: bool, http_1_1: bool },
    /// The last answer is on its way; what still comes is not looked at, so that no reset destroys
    /// the answer.
    Last,
    /// The announced body cannot be sent to its end.
    Broken,
}

impl Connection {
    pub(super) fn new(site: Arc<Site>) -> Connection {
        Connection {
            site,
            input: Bytes::new(),
            output: Bytes::new(),
            body: None,
            state: State::Head,
            ended: false,
        }
    }

    pub(super) fn wants_input(&self) -> bool {
        !self.ended
            && match self.state {
                State::Head => self.is_idle(),
                State::Upload { .. } | State::Last => true,
                State::Broken => false,
            }
    }

    pub(super) fn patience(&self) -> Patience {
        match self.state {
            State::Head if self.is_idle() && !self.input.is_empty() => Patience::Short,
            State::Last if self.is_idle() => Patience::Short,
            _ => Patience::WhileBytesMove,
        }
    }

    pub(super) fn receive(&mut self, data: Bytes, counters: &Counters) {
        if self.input.is_empty() {
            self.input = data;
        } else {
            let mut both = BytesMut::with_capacity(self.input.len() + data.len());
            both.extend_from_slice(&self.input);
            both.extend_from_slice(&data);
            self.input = both.freeze();
        }
        self.advance(counters);
    }

    pub(super) fn receive_end(&mut self) {
        self.ended = true;
        // A body that will not come to its end is removed now.
        if matches!(self.state, State::Upload { .. }) {
            self.state = State::Last;
        }
    }

    pub(super) fn next_output(&mut self, counters: &Counters) -> Output {
        loop {
            if !self.output.is_empty() {
                return Output::Data(std::mem::take(&mut self.output));
            }
            if let Some(body) = &mut self.body {
                if body.left() == 0 {
                    self.body = None;
                    continue;
                }
                if let Ok(data) = body.next() {
                    return Output::Data(data);
                }
                self.body = None;
                self.state = State::Broken;
            }
            if matches!(self.state, State::Head) && !self.input.is_empty() {
                self.advance(counters);
                if !self.is_idle() {
                    continue;
                }
            }
            return match self.state {
                State::Broken => Output::Reset,
                State::Last => Output::End,
                _ if self.ended => Output::End,
                _ => Output::Nothing,
            };
        }
    }

    /// Whether everything that was answered has been taken.
    fn is_idle(&self) -> bool {
        self.output.is_empty() && self.body.is_none()
    }

    /// Uses as much of the input as can be used now.
    fn advance(&mut self, counters: &Counters) {
        loop {
            match &mut self.state {
                State::Head if self.body.is_some() || !self.output.is_empty() => return,
                State::Head => {
                    // RFC 9112 2.2: empty lines before a request are skipped.
                    while matches!(self.input.first(), Some(b'\r' | b'\n')) {
                        self.input.advance(1);
                    }
                    match request::parse(&self.input) {
                        Ok(None) => return,
                        Ok(Some((request, len))) => {
                            self.input.advance(len);
                            self.answer(&request, counters);
                        }
                        Err(Refused(status)) => self.refuse(status, counters),
                    }
                }
                State::Upload { upload, .. } => match upload.receive(&mut self.input) {
                    Progress::Incomplete => return,
                    Progress::Refused(status) => self.refuse(status, counters),
                    Progress::Complete => self.finish_upload(counters),
                },
                State::Last | State::Broken => {
                    self.input.clear();
                    return;
                }
            }
        }
    }

    fn answer(&mut self, r: &Request, counters: &Counters) {
        // RFC 9112 9.6: a body nobody asked for is not read; the connection ends instead.
        let unread = r.method != Method::Put && r.framing != Framing::None;
        let keep_alive = r.keep_alive && !unread;
        match r.method {
            Method::Get | Method::Head => self.serve(r, keep_alive, counters),
            Method::Put => self.start_upload(r, counters),
            Method::Other => {
                let allowed =
                    if self.site.upload.is_some() { "GET, HEAD, PUT" } else { "GET, HEAD" };
                let head = Head::new(405).field("Allow", allowed);
                self.short(405, head, r.method, keep_alive, r.http_1_1, counters);
            }
        }
    }

    fn serve(&mut self, r: &Request, keep_alive: bool, counters: &Counters) {
        let Some(mut name) = files::name_of(&r.path) else {
            return self.status(404, r, keep_alive, counters);
        };
        let mut found = files::find(&self.site.root, &name);
        if matches!(found, Found::Directory) {
            if !r.path.ends_with('/') {
                let head = Head::new(301).field("Location", format_args!("{}/", r.path));
                return self.short(301, head, r.method, keep_alive, r.http_1_1, counters);
            }
            name.push("index.html");
            found = files::find(&self.site.root, &name);
        } else if r.path.ends_with('/') {
            found = Found::Nothing;
        }
        match found {
            Found::File(file) => self.send_file(file, &name, r, keep_alive, counters),
            Found::Forbidden => self.status(403, r, keep_alive, counters),
            Found::Directory | Found::Nothing => self.status(404, r, keep_alive, counters),
        }
    }

    fn send_file(
        &mut self,
        f: FileInfo,
        name: &Path,
        r: &Request,
        keep_alive: bool,
        counters: &Counters,
    ) {
        let modified = httpdate::HttpDate::from(f.modified);
        // RFC 9110 13.1.3
        if r.if_modified_since.is_some_and(|since| f.modified <= since) {
            counters.requests.add(1);
            let head = Head::new(304).field("Last-Modified", modified);
            return self.put(head.connection(keep_alive, r.http_1_1).finish(), keep_alive);
        }
        let asked = match &r.range {
            // RFC 9110 13.1.5: a part only of what the client has the rest of.
            Some(field) if r.if_range.is_none_or(|date| date == f.modified) => {
                request::range(field, f.len)
            }
            _ => Range::Whole,
        };
        let (status, at, len) = match asked {
            Range::Whole => (200, 0, f.len),
            Range::Part(at, len) => (206, at, len),
            Range::Unsatisfiable => {
                let head = Head::new(416).field("Content-Range", format_args!("bytes */{}", f.len));
                return self.short(416, head, r.method, keep_alive, r.http_1_1, counters);
            }
        };
        counters.requests.add(1);
        let mut head = Head::new(status)
            .field("Content-Type", mime_guess::from_path(name).first_or_octet_stream())
            .field("Content-Length", len)
            .field("Last-Modified", modified)
            .field("Accept-Ranges", "bytes");
        if status == 206 {
            let last = at + len - 1;
            head = head.field("Content-Range", format_args!("bytes {at}-{last}/{}", f.len));
        }
        let mut out = head.connection(keep_alive, r.http_1_1).finish();
        if r.method == Method::Get && len > 0 {
            let mut body = Body::new(f.file, at, len);
            if len <= INLINE_BODY_BYTES_MAX && body.read(&mut out).is_err() {
                self.state = State::Broken;
                return;
            }
            self.body = Some(body);
        }
        self.put(out, keep_alive);
    }

    fn start_upload(&mut self, r: &Request, counters: &Counters) {
        let Some(directory) = &self.site.upload else {
            let head = Head::new(405).field("Allow", "GET, HEAD");
            return self.short(405, head, r.method, false, r.http_1_1, counters);
        };
        let name = files::name_of(&r.path).filter(|_| !r.path.ends_with('/'));
        let Some(name) = name.filter(|n| n.file_name().is_some()) else {
            return self.refuse(403, counters);
        };
        match Upload::start(directory, &name, r.framing, self.site.upload_bytes_max) {
            Err(status) => self.refuse(status, counters),
            Ok(upload) => {
                // RFC 9110 10.1.1: unless the body has begun to come anyway.
                if r.expects_continue && self.input.is_empty() {
                    self.output = Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                let (keep_alive, http_1_1) = (r.keep_alive, r.http_1_1);
                self.state = State::Upload { upload, keep_alive, http_1_1 };
            }
        }
    }

    fn finish_upload(&mut self, counters: &Counters) {
        let state = std::mem::replace(&mut self.state, State::Head);
        let State::Upload { upload, keep_alive, http_1_1 } = state else { return };
        let status = upload.finish();
        if status >= 400 {
            return self.refuse(status, counters);
        }
        counters.requests.add(1);
        let mut head = Head::new(status);
        if status != 204 {
            head = head.field("Content-Length", 0);
        }
        self.put(head.connection(keep_alive, http_1_1).finish(), keep_alive);
    }

    fn status(&mut self, status: u16, r: &Request, keep_alive: bool, counters: &Counters) {
        self.short(status, Head::new(status), r.method, keep_alive, r.http_1_1, counters);
    }

    /// An error after which the bytes that follow cannot be told apart.
    fn refuse(&mut self, status: u16, counters: &Counters) {
        self.short(status, Head::new(status), Method::Other, false, true, counters);
        self.input.clear();
    }

    /// An answer whose body is its status in words.
    fn short(
        &mut self,
        status: u16,
        head: Head,
        method: Method,
        keep_alive: bool,
        http_1_1: bool,
        counters: &Counters,
    ) {
        counters.requests.add(1);
        if status >= 400 {
            counters.error_responses.add(1);
        }
        let text = format!("{status} {}\n", response::reason(status));
        let mut out = head
            .field("Content-Type", "text/plain; charset=utf-8")
            .field("Content-Length", text.len())
            .connection(keep_alive, http_1_1)
            .finish();
        if method != Method::Head {
            out.extend_from_slice(text.as_bytes());
        }
        self.put(out, keep_alive);
    }

    fn put(&mut self, out: Vec<u8>, keep_alive: bool) {
        // A "100 Continue" may still be waiting.
        let mut all = BytesMut::from(self.output.as_ref());
        if all.is_empty() {
            self.output = Bytes::from(out);
        } else {
            all.extend_from_slice(&out);
            self.output = all.freeze();
        }
        self.state = if keep_alive { State::Head } else { State::Last };
    }
}

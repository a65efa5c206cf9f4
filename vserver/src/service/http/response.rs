//! The head of a response.

use std::fmt::Write as _;
use std::time::SystemTime;

/// A head under construction; fields are added by [`Head::field`].
#[derive(Debug)]
pub(super) struct Head(String);

impl Head {
    /// Status line, date and server.
    pub(super) fn new(status: u16) -> Head {
        let mut text = String::with_capacity(256);
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            text,
            "HTTP/1.1 {status} {}\r\nServer: weft\r\nDate: {}\r\n",
            reason(status),
            httpdate::HttpDate::from(SystemTime::now())
        );
        Head(text)
    }

    pub(super) fn field(mut self, name: &str, value: impl std::fmt::Display) -> Head {
        let _ = write!(self.0, "{name}: {value}\r\n");
        self
    }

    /// Says whether the connection goes on, as the client's version needs it.
    pub(super) fn connection(self, keep_alive: bool, http_1_1: bool) -> Head {
        match (keep_alive, http_1_1) {
            (false, _) => self.field("Connection", "close"),
            (true, false) => self.field("Connection", "keep-alive"),
            (true, true) => self,
        }
    }

    /// The head with its end, as the start of a buffer that a body can follow in.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push_str("\r\n");
        self.0.into_bytes()
    }
}

/// RFC 9110 15 names.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    }
}

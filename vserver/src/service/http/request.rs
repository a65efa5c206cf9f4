//! The head of a request: RFC 9112 (message), RFC 9110 (semantics).

use std::time::SystemTime;

/// A request head longer than this is refused.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;
/// More header fields than this are refused.
const FIELDS_MAX: usize = 64;

/// What a method means to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Put,
    /// Known or not, refused.
    Other,
}

/// How the body is delimited (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A parsed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Path as sent, without query.
    pub(super) path: String,
    /// HTTP/1.1; else 1.0.
    pub(super) http_1_1: bool,
    pub(super) keep_alive: bool,
    pub(super) framing: Framing,
    /// `Expect: 100-continue`.
    pub(super) expects_continue: bool,
    pub(super) if_modified_since: Option<SystemTime>,
    /// `Range`, unless `If-Range` could not be judged.
    pub(super) range: Option<String>,
    /// `If-Range` with a date.
    pub(super) if_range: Option<SystemTime>,
}

/// Why a head is refused: the status to answer with. The connection cannot be used further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) u16);

/// Parses a head at the front of `input`; `Ok(None)`: more is needed. The `usize` is its length.
pub(super) fn parse(input: &[u8]) -> Result<Option<(Request, usize)>, Refused> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let len = match head.parse(input) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_BYTES_MAX => len,
        Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refused(431)),
        Err(httparse::Error::Version) => return Err(Refused(505)),
        Err(_) => return Err(Refused(400)),
    };
    let method = match head.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "PUT" => Method::Put,
        _ => Method::Other,
    };
    let mut request = Request {
        method,
        path: path_of(head.path.unwrap_or_default()).ok_or(Refused(400))?,
        http_1_1: head.version == Some(1),
        keep_alive: head.version == Some(1),
        framing: Framing::None,
        expects_continue: false,
        if_modified_since: None,
        range: None,
        if_range: None,
    };
    read_fields(&mut request, head.headers)?;
    Ok(Some((request, len)))
}

/// The path of origin-form and absolute-form targets (RFC 9112 3.2), without query.
fn path_of(target: &str) -> Option<String> {
    let rest = match target.split_once("://") {
        Some(("http" | "https", rest)) => match rest.find('/') {
            Some(i) => &rest[i..],
            None => "/",
        },
        _ => target,
    };
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    // `*` is for OPTIONS, which is refused by method; as a path it names nothing.
    (path.starts_with('/') || path == "*").then(|| path.to_owned())
}

fn read_fields(r: &mut Request, fields: &[httparse::Header]) -> Result<(), Refused> {
    let mut hosts = 0;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut if_range_unknown = false;
    for f in fields {
        let Ok(value) = std::str::from_utf8(f.value) else { continue };
        let value = value.trim();
        let is = |name: &str| f.name.eq_ignore_ascii_case(name);
        if is("host") {
            hosts += 1;
        } else if is("connection") {
            read_connection(r, value);
        } else if is("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            let n = value.parse().ok().filter(|_| digits).ok_or(Refused(400))?;
            // RFC 9112 6.3: differing lengths could hide a second request.
            if length.is_some_and(|other| other != n) {
                return Err(Refused(400));
            }
            length = Some(n);
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") || chunked {
                return Err(Refused(501));
            }
            chunked = true;
        } else if is("expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(Refused(417));
            }
            r.expects_continue = r.http_1_1;
        } else if is("if-modified-since") {
            r.if_modified_since = httpdate::parse_http_date(value).ok();
        } else if is("range") {
            r.range = Some(value.to_owned());
        } else if is("if-range") {
            r.if_range = httpdate::parse_http_date(value).ok();
            if_range_unknown = r.if_range.is_none();
        }
    }
    if if_range_unknown {
        r.range = None;
    }
    // RFC 9112 3.2: exactly one Host in HTTP/1.1.
    if hosts > 1 || (r.http_1_1 && hosts == 0) {
        return Err(Refused(400));
    }
    r.framing = match (length, chunked) {
        // RFC 9112 6.1: both could be an attempt at smuggling.
        (Some(_), true) => return Err(Refused(400)),
        (None, true) => Framing::Chunked,
        (Some(0), false) if r.method != Method::Put => Framing::None,
        (Some(n), false) => Framing::Length(n),
        (None, false) => Framing::None,
    };
    Ok(())
}

fn read_connection(r: &mut Request, value: &str) {
    for word in value.split(',').map(str::trim) {
        if word.eq_ignore_ascii_case("close") {
            r.keep_alive = false;
        } else if word.eq_ignore_ascii_case("keep-alive") && !r.http_1_1 {
            r.keep_alive = true;
        }
    }
}

/// What part of `len` bytes a `Range` field asks for (RFC 9110 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// All: no range, one this server does not serve (several), or a malformed one.
    Whole,
    /// From, and how many.
    Part(u64, u64),
    /// None of it exists.
    Unsatisfiable,
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n`.
pub(super) fn range(field: &str, len: u64) -> Range {
    let Some((unit, spec)) = field.split_once('=') else { return Range::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Range::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Range::Whole };
    let number = |s: &str| -> Option<u64> {
        (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten()
    };
    match (first, last) {
        ("", n) => match number(n) {
            None => Range::Whole,
            Some(0) => Range::Unsatisfiable,
            Some(_) if len == 0 => Range::Unsatisfiable,
            Some(n) => Range::Part(len.saturating_sub(n), n.min(len)),
        },
        (a, b) => match (number(a), number(b), b) {
            (Some(a), _, "") if a < len => Range::Part(a, len - a),
            (Some(a), Some(b), _) if a <= b && a < len => Range::Part(a, b.min(len - 1) - a + 1),
            (Some(_), _, "") => Range::Unsatisfiable,
            (Some(a), Some(b), _) if a <= b => Range::Unsatisfiable,
            _ => Range::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Request, Refused> {
        parse(text.as_bytes()).map(|r| {
            let (r, len) = r.expect("complete");
            assert_eq!(len, text.len());
            r
        })
    }

    #[test]
    fn a_plain_request() {
        let r = one("GET /a/b.html?x=1 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!((r.method, r.path.as_str()), (Method::Get, "/a/b.html"));
        assert!(r.keep_alive && r.http_1_1);
        assert_eq!(r.framing, Framing::None);
    }

    #[test]
    fn persistence_follows_version_and_connection() {
        let keeps = |t: &str| one(t).unwrap().keep_alive;
        assert!(!keeps("GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn targets_become_paths() {
        assert_eq!(path_of("http://h:80/x?y").as_deref(), Some("/x"));
        assert_eq!(path_of("http://h").as_deref(), Some("/"));
        assert_eq!(path_of("x"), None);
    }

    #[test]
    fn framing_that_could_hide_a_request_is_refused() {
        let put = |f: &str| one(&format!("PUT / HTTP/1.1\r\nHost: h\r\n{f}\r\n"));
        let framing = |f: &str| put(f).map(|r| r.framing);
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Transfer-Encoding: chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing(""), Ok(Framing::None));
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 6\r\n"), Err(Refused(400)));
        assert_eq!(framing("Content-Length: +5\r\n"), Err(Refused(400)));
        assert_eq!(framing("Content-Length: 99999999999999999999\r\n"), Err(Refused(400)));
        assert_eq!(
            framing("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            Err(Refused(400))
        );
        assert_eq!(framing("Transfer-Encoding: gzip\r\n"), Err(Refused(501)));
        assert_eq!(framing("Expect: 200-maybe\r\n"), Err(Refused(417)));
    }

    #[test]
    fn heads_are_bounded_and_checked() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost"), Ok(None));
        assert_eq!(parse(b"GET / HTTP/3.7\r\n\r\n"), Err(Refused(505)));
        assert_eq!(parse(b"\x00\x01\x02"), Err(Refused(400)));
        assert_eq!(one("GET / HTTP/1.1\r\n\r\n"), Err(Refused(400)));
        assert_eq!(one("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Err(Refused(400)));
        let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()), Err(Refused(431)));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(parse(many.as_bytes()), Err(Refused(431)));
    }

    #[test]
    fn ranges() {
        assert_eq!(range("bytes=0-0", 10), Range::Part(0, 1));
        assert_eq!(range("bytes=2-", 10), Range::Part(2, 8));
        assert_eq!(range("bytes=2-100", 10), Range::Part(2, 8));
        assert_eq!(range("bytes=-3", 10), Range::Part(7, 3));
        assert_eq!(range("bytes=-30", 10), Range::Part(0, 10));
        assert_eq!(range("bytes=10-", 10), Range::Unsatisfiable);
        assert_eq!(range("bytes=10-12", 10), Range::Unsatisfiable);
        assert_eq!(range("bytes=-0", 10), Range::Unsatisfiable);
        assert_eq!(range("bytes=-1", 0), Range::Unsatisfiable);
        assert_eq!(range("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(range("bytes=5-2", 10), Range::Whole);
        assert_eq!(range("bytes=0-1,3-4", 10), Range::Whole);
        assert_eq!(range("lines=0-1", 10), Range::Whole);
        assert_eq!(range("bytes=a-b", 10), Range::Whole);
        assert_eq!(range("bytes=+1-2", 10), Range::Whole);
        assert_eq!(range("bytes", 10), Range::Whole);
    }
}

//! The server over an in-memory transport: bytes in, bytes out.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

struct Client {
    directory: TempDir,
    connection: Connection,
    counters: Counters,
    /// FIN came.
    ended: bool,
    reset: bool,
}

impl Client {
    /// `www/` has files, `in/` takes uploads of up to 1000 bytes.
    fn new() -> Client {
        let directory = tempfile::tempdir().unwrap();
        let path = |n: &str| directory.path().join(n);
        fs::create_dir_all(path("www/dir")).unwrap();
        fs::create_dir_all(path("www/empty")).unwrap();
        fs::create_dir_all(path("in/sub")).unwrap();
        fs::write(path("www/hello.txt"), "hello world").unwrap();
        fs::write(path("www/nothing"), "").unwrap();
        fs::write(path("www/dir/index.html"), "<p>index").unwrap();
        fs::write(path("www/.weft-part-1-1"), "half").unwrap();
        fs::write(path("www/a b%.txt"), "spaced").unwrap();
        fs::write(path("secret"), "secret").unwrap();
        fs::write(path("www/large"), large()).unwrap();
        symlink("../secret", path("www/escape")).unwrap();
        symlink("/etc/passwd", path("www/absolute")).unwrap();
        symlink("..", path("www/up")).unwrap();
        symlink("hello.txt", path("www/inside")).unwrap();
        symlink("..", path("in/up")).unwrap();
        let site = Site::open(&path("www"), Some(&path("in")), 1000).unwrap();
        let connection = Connection::new(Arc::new(site));
        Client { directory, connection, counters: Counters::default(), ended: false, reset: false }
    }

    fn read_only() -> Client {
        let mut c = Client::new();
        let site = Site::open(&c.directory.path().join("www"), None, 0).unwrap();
        c.connection = Connection::new(Arc::new(site));
        c
    }

    fn send(&mut self, data: impl AsRef<[u8]>) {
        assert!(self.connection.wants_input());
        self.connection.receive(Bytes::copy_from_slice(data.as_ref()), &self.counters);
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.connection.next_output(&self.counters) {
                Output::Data(b) => {
                    assert!(!b.is_empty());
                    all.extend_from_slice(&b);
                }
                Output::Nothing => return all,
                Output::End => {
                    self.ended = true;
                    return all;
                }
                Output::Reset => {
                    self.reset = true;
                    return all;
                }
            }
        }
    }

    /// Status, fields in lower case, body; `request` without the final empty line.
    fn ask(&mut self, request: &str) -> (u16, String, Vec<u8>) {
        self.send(format!("{request}\r\nHost: h\r\n\r\n"));
        let all = self.receive();
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), all[end..].to_vec())
    }

    fn status(&mut self, request: &str) -> u16 {
        self.ask(request).0
    }

    fn uploaded(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.directory.path().join("in").join(name)).ok()
    }

    fn parts(&self) -> usize {
        fs::read_dir(self.directory.path().join("in"))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".weft"))
            .count()
    }
}

fn large() -> Vec<u8> {
    (0..1_000_000_u32).flat_map(u32::to_le_bytes).take(1_000_003).collect()
}

#[test]
fn a_file() {
    let mut c = Client::new();
    let (status, head, body) = c.ask("GET /hello.txt?v=1 HTTP/1.1");
    assert_eq!((status, body.as_slice()), (200, &b"hello world"[..]));
    assert!(head.contains("content-type: text/plain\r\n"), "{head}");
    assert!(head.contains("content-length: 11\r\n"), "{head}");
    assert!(head.contains("accept-ranges: bytes\r\n"), "{head}");
    assert!(head.contains("last-modified: "), "{head}");
    assert!(!c.ended);
    let (status, head, body) = c.ask("HEAD /hello.txt HTTP/1.1");
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 11\r\n"), "{head}");
    assert_eq!(c.ask("GET /nothing HTTP/1.1").2, b"");
    assert_eq!(c.ask("GET /a%20b%25.txt HTTP/1.1").2, b"spaced");
    assert_eq!(c.counters.requests.get(), 4);
    assert_eq!(c.counters.error_responses.get(), 0);
}

#[test]
fn a_large_file_comes_in_pieces() {
    let mut c = Client::new();
    let (_, head, body) = c.ask("GET /large HTTP/1.1");
    assert!(head.contains("content-length: 1000003\r\n"), "{head}");
    assert!(head.contains("content-type: application/octet-stream\r\n"), "{head}");
    assert!(body == large());
    let (status, _, body) = c.ask("GET /large HTTP/1.1\r\nRange: bytes=300000-900000");
    assert_eq!(status, 206);
    assert!(body == large()[300_000..=900_000]);
}

#[test]
fn ranges_of_a_file() {
    let mut c = Client::new();
    let (status, head, body) = c.ask("GET /hello.txt HTTP/1.1\r\nRange: bytes=6-8");
    assert_eq!((status, body.as_slice()), (206, &b"wor"[..]));
    assert!(head.contains("content-range: bytes 6-8/11\r\n"), "{head}");
    assert_eq!(c.ask("GET /hello.txt HTTP/1.1\r\nRange: bytes=-5").2, b"world");
    let (status, head, _) = c.ask("GET /hello.txt HTTP/1.1\r\nRange: bytes=11-");
    assert_eq!(status, 416);
    assert!(head.contains("content-range: bytes */11\r\n"), "{head}");
    assert_eq!(c.status("GET /hello.txt HTTP/1.1\r\nRange: bytes=0-1,3-4"), 200);
    let old = "If-Range: Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(c.status(&format!("GET /hello.txt HTTP/1.1\r\nRange: bytes=0-1\r\n{old}")), 200);
}

#[test]
fn unmodified_files_are_not_sent() {
    let mut c = Client::new();
    let ask = |c: &mut Client, at: SystemTime| {
        let date = httpdate::fmt_http_date(at);
        c.ask(&format!("GET /hello.txt HTTP/1.1\r\nIf-Modified-Since: {date}"))
    };
    let (status, head, body) = ask(&mut c, SystemTime::now());
    assert_eq!((status, body.len()), (304, 0));
    assert!(!head.contains("content-length"), "{head}");
    assert_eq!(ask(&mut c, SystemTime::now() - Duration::from_hours(24)).0, 200);
}

#[test]
fn directories() {
    let mut c = Client::new();
    assert_eq!(c.ask("GET /dir/ HTTP/1.1").2, b"<p>index");
    let (status, head, _) = c.ask("GET /dir HTTP/1.1");
    assert_eq!(status, 301);
    assert!(head.contains("location: /dir/\r\n"), "{head}");
    assert_eq!(c.status("GET /empty/ HTTP/1.1"), 404);
    assert_eq!(c.status("GET / HTTP/1.1"), 404);
    assert_eq!(c.status("GET /hello.txt/ HTTP/1.1"), 404);
}

#[test]
fn nothing_outside_the_root_is_served() {
    let mut c = Client::new();
    for path in [
        "/../secret",
        "/dir/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/escape",
        "/absolute",
        "/up/secret",
        "//etc/passwd",
        "/hello.txt%00.html",
        "/.weft-part-1-1",
        "/missing",
        "*",
    ] {
        assert_eq!(c.status(&format!("GET {path} HTTP/1.1")), 404, "{path}");
    }
    assert_eq!(c.ask("GET /inside HTTP/1.1").2, b"hello world");
    assert_eq!(c.counters.error_responses.get(), 12);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut c = Client::new();
    c.send("GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\nGET /dir/ HTTP/1.1\r\nHost: h\r\n\r\n\r\nGET /mis");
    let text = String::from_utf8(c.receive()).unwrap();
    let (a, b) = (text.find("hello world").unwrap(), text.find("<p>index").unwrap());
    assert!(a < b);
    c.send("sing HTTP/1.0\r\n\r\n");
    let text = String::from_utf8(c.receive()).unwrap();
    assert!(text.starts_with("HTTP/1.1 404 ") && text.contains("Connection: close"), "{text}");
    assert!(c.ended);
}

#[test]
fn one_answer_at_a_time_bounds_what_is_held() {
    let mut c = Client::new();
    c.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\nGET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(!c.connection.wants_input());
    assert!(matches!(c.connection.next_output(&c.counters), Output::Data(_)));
    assert!(!c.connection.wants_input());
}

#[test]
fn bad_requests_end_the_connection() {
    for (text, status) in [
        ("\x01\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/2.0\r\n\r\n", "505"),
        ("GET /x\r\n\r\n", "400"),
    ] {
        let mut c = Client::new();
        c.send(text);
        let answer = String::from_utf8(c.receive()).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {answer}");
        assert!(answer.contains("Connection: close\r\n"));
        assert!(c.ended);
        // What still comes is swallowed, so that no reset destroys the answer.
        c.send("GET /hello.txt HTTP/1.1\r\n\r\n");
        assert!(c.receive().is_empty());
    }
}

#[test]
fn a_request_head_has_a_short_time() {
    let mut c = Client::new();
    assert_eq!(c.connection.patience(), Patience::WhileBytesMove);
    c.send("GET / HT");
    assert_eq!(c.connection.patience(), Patience::Short);
    c.send("TP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(c.connection.patience(), Patience::WhileBytesMove);
}

#[test]
fn other_methods_are_refused() {
    let mut c = Client::new();
    let (status, head, _) = c.ask("POST /hello.txt HTTP/1.1");
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head, put\r\n"), "{head}");
    assert!(!c.ended);
    let (status, head, _) = c.ask("DELETE /hello.txt HTTP/1.1\r\nContent-Length: 5");
    assert_eq!(status, 405);
    assert!(head.contains("connection: close"), "{head}");
    let mut c = Client::read_only();
    let (status, head, _) = c.ask("PUT /new HTTP/1.1\r\nContent-Length: 3");
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head\r\n"), "{head}");
}

#[test]
fn an_upload_with_its_length() {
    let mut c = Client::new();
    c.send("PUT /new HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhell");
    assert!(c.receive().is_empty());
    assert_eq!((c.uploaded("new"), c.parts()), (None, 1));
    c.send("o, you");
    let text = String::from_utf8(c.receive()).unwrap();
    assert!(text.starts_with("HTTP/1.1 201 Created\r\n"), "{text}");
    assert_eq!((c.uploaded("new").unwrap(), c.parts()), (b"hello, you".to_vec(), 0));
    assert_eq!(c.status("PUT /new HTTP/1.1\r\nContent-Length: 0"), 204);
    assert_eq!(c.uploaded("new").unwrap(), b"");
    assert_eq!(c.status("GET /hello.txt HTTP/1.1"), 200);
}

#[test]
fn an_upload_in_chunks_of_any_cut() {
    let request = "PUT /sub/new HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5;x=y\r\nhello\r\n1\r\n,\r\n0\r\nTrailer: x\r\n\r\nGET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\n";
    for step in [1, 2, 3, 7, 1000] {
        let mut c = Client::new();
        let mut answer = Vec::new();
        for piece in request.as_bytes().chunks(step) {
            c.send(piece);
            answer.extend(c.receive());
        }
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 201 Created\r\n"), "{text}");
        assert!(text.ends_with("hello world"), "{text}");
        assert_eq!(c.uploaded("sub/new").unwrap(), b"hello,");
    }
}

#[test]
fn an_upload_waits_for_permission_when_asked() {
    let mut c = Client::new();
    c.send("PUT /new HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(c.receive(), b"HTTP/1.1 100 Continue\r\n\r\n");
    c.send("abc");
    assert!(c.receive().starts_with(b"HTTP/1.1 201 "));
    let (status, _, _) = c.ask("PUT /new HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3000");
    assert_eq!(status, 413);
}

#[test]
fn uploads_are_refused_when_they_must_be() {
    let put = |fields: &str| {
        let mut c = Client::new();
        let status = c.status(&format!("PUT {fields}"));
        assert!(c.ended && c.parts() == 0, "{fields}");
        status
    };
    assert_eq!(put("/new HTTP/1.1"), 411);
    assert_eq!(put("/new HTTP/1.1\r\nContent-Length: 1001"), 413);
    assert_eq!(put("/sub HTTP/1.1\r\nContent-Length: 3"), 409);
    assert_eq!(put("/none/new HTTP/1.1\r\nContent-Length: 3"), 404);
    assert_eq!(put("/up/new HTTP/1.1\r\nContent-Length: 3"), 403);
    assert_eq!(put("/../new HTTP/1.1\r\nContent-Length: 3"), 403);
    assert_eq!(put("/dir/ HTTP/1.1\r\nContent-Length: 3"), 403);
    assert_eq!(put("/ HTTP/1.1\r\nContent-Length: 3"), 403);
    assert_eq!(put("/.weft-part-0-0 HTTP/1.1\r\nContent-Length: 3"), 403);
}

#[test]
fn chunks_are_bounded_and_checked() {
    let put = |body: &str| {
        let mut c = Client::new();
        c.send("PUT /new HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        c.send(body);
        let answer = String::from_utf8(c.receive()).unwrap();
        assert_eq!((c.uploaded("new"), c.parts()), (None, 0));
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(put("xyz\r\n"), "400");
    assert_eq!(put("3\r\nabcdef\r\n"), "400");
    assert_eq!(put(&format!("5;{}", "x".repeat(5000))), "400");
    assert_eq!(put(&format!("7d0\r\n{}\r\n", "x".repeat(2000))), "413");
    assert_eq!(put("ffffffffffffffffff\r\n"), "400");
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let mut c = Client::new();
    c.send("PUT /new HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhell");
    c.connection.receive_end();
    assert!(c.receive().is_empty());
    assert!(c.ended);
    assert_eq!((c.uploaded("new"), c.parts()), (None, 0));
}

#[test]
fn a_file_that_shrinks_resets_instead_of_lying() {
    let mut c = Client::new();
    c.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(matches!(c.connection.next_output(&c.counters), Output::Data(_)));
    let file = fs::OpenOptions::new().write(true).open(c.directory.path().join("www/large"));
    file.unwrap().set_len(10).unwrap();
    c.receive();
    assert!(c.reset);
}

#[test]
fn a_client_that_is_done_is_answered_and_closed() {
    let mut c = Client::new();
    c.send("GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\n");
    c.connection.receive_end();
    assert!(c.receive().ends_with(b"hello world"));
    assert!(c.ended);
}

/// Numbers that look random, the same on every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn mutated_requests_neither_panic_nor_escape() {
    const REQUESTS: [&str; 4] = [
        "GET /hello.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=2-5\r\n\r\n",
        "PUT /new HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        "PUT /sub/new HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HEAD /../dir/%2e%2e/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ];
    const PIECES: [&[u8]; 8] =
        [b"/../", b"%2f", b"\0", b"\r\n", b"\r\n\r\n", b"99999999999", b": ", b"\xff"];
    let mut c = Client::new();
    let mut random = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..3000 {
        let mut text = REQUESTS[random.below(4)].as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len());
            match random.below(4) {
                0 => text[at] = random.below(256) as u8,
                1 => text.truncate(at.max(1)),
                2 => drop(text.splice(at..at, PIECES[random.below(8)].iter().copied())),
                _ => drop(text.splice(at.., REQUESTS[random.below(4)].bytes())),
            }
        }
        c.connection = Connection::new(Arc::clone(&c.connection.site));
        let mut answer = Vec::new();
        for piece in text.chunks(1 + random.below(text.len())) {
            if !c.connection.wants_input() {
                break;
            }
            c.connection.receive(Bytes::copy_from_slice(piece), &c.counters);
            answer.extend(c.receive());
        }
        c.connection.receive_end();
        answer.extend(c.receive());
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "round {round}");
        assert!(!answer.windows(6).any(|w| w == b"secret"), "round {round}");
    }
    c.connection = Connection::new(Arc::clone(&c.connection.site));
    assert_eq!(c.parts(), 0);
    assert_eq!(fs::read(c.directory.path().join("secret")).unwrap(), b"secret");
}

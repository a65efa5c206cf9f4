//! Kernel clients in a namespace: ping, curl, a TCP banner, UDP echo.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
    socket_with,
};
use serde::Deserialize;
use weft_drivers::netns::Netns;

/// Patience with one answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a ping saw.
#[derive(Clone, Debug, Default)]
pub struct Pings {
    /// Requests sent.
    pub sent: usize,
    /// Right answers.
    pub answered: usize,
    /// Best round trip.
    pub best: Duration,
    /// Sequence numbers without a right answer.
    pub lost: Vec<u16>,
}

impl Pings {
    /// Whether all were answered.
    pub fn ok(&self) -> bool {
        self.sent > 0 && self.sent == self.answered
    }

    /// `3/3 answered, best 0.08 ms`.
    pub fn text(&self) -> String {
        let count = format!("{}/{} answered", self.answered, self.sent);
        if self.answered == 0 {
            return count;
        }
        let lost =
            if self.lost.is_empty() { String::new() } else { format!(", lost {:?}", self.lost) };
        format!("{count}, best {:.2} ms{lost}", self.best.as_secs_f64() * 1e3)
    }
}

/// Sends `count` echo requests of `bytes` payload to `to` from inside `netns`, each after the
/// answer to the one before; waits [`PATIENCE`] for an answer.
pub fn ping(netns: &Netns, to: IpAddr, count: usize, bytes: usize) -> io::Result<Pings> {
    let socket = netns.enter(|| icmp_socket(to)).map_err(io::Error::other)??;
    let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let mut result = Pings { best: Duration::MAX, ..Pings::default() };
    for sequence in 0..count as u16 {
        let mut packet = vec![request, 0, 0, 0, 0, 0];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend((0..bytes).map(|i| i as u8));
        let start = Instant::now();
        send(&socket, &packet, SendFlags::empty())?;
        result.sent += 1;
        let mut answer = vec![0; bytes + 8];
        let received = match recv(&socket, answer.as_mut_slice(), RecvFlags::empty()) {
            Ok((n, _)) => n,
            Err(rustix::io::Errno::AGAIN) => {
                result.lost.push(sequence);
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let right = received == packet.len()
            && answer[0] == reply
            && answer[6..8] == packet[6..8]
            && answer[8..] == packet[8..];
        if right {
            result.answered += 1;
            result.best = result.best.min(start.elapsed());
        } else {
            result.lost.push(sequence);
        }
    }
    Ok(result)
}

pub(super) fn icmp_socket(to: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    // a ping socket: the kernel fills identifier and checksum, and needs no privilege
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    connect(&socket, &SocketAddr::new(to, 0))?;
    Ok(socket)
}

/// Connects from inside `netns` and reads to the end.
pub fn banner(netns: &Netns, to: SocketAddr) -> io::Result<String> {
    let connect = || TcpStream::connect_timeout(&to, PATIENCE);
    let mut stream = netns.enter(connect).map_err(io::Error::other)??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Sends `data` to a UDP echo service and says whether the same came back, trying three times.
pub fn udp_echo(netns: &Netns, to: SocketAddr, data: &[u8]) -> io::Result<bool> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = netns.enter(|| UdpSocket::bind(any)).map_err(io::Error::other)??;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut answer = vec![0; data.len() + 1];
    for _ in 0..3 {
        socket.send(data)?;
        if let Ok(n) = socket.recv(&mut answer) {
            return Ok(&answer[..n] == data);
        }
    }
    Ok(false)
}

/// What curl says about a transfer (`--write-out %{json}`).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Curl {
    /// HTTP status; 0 if there was no answer.
    #[serde(rename = "response_code")]
    pub status: u32,
    /// Exit code of curl.
    #[serde(rename = "exitcode")]
    pub exit: i32,
    /// Body bytes received.
    #[serde(rename = "size_download")]
    pub body_in: f64,
    /// Header bytes received.
    #[serde(rename = "size_header")]
    pub header_in: f64,
    /// Body bytes sent.
    #[serde(rename = "size_upload")]
    pub body_out: f64,
    /// Header bytes sent.
    #[serde(rename = "size_request")]
    pub header_out: f64,
    /// Seconds.
    #[serde(rename = "time_total")]
    pub seconds: f64,
    /// curl's own words when it failed.
    #[serde(rename = "errormsg")]
    pub error: Option<String>,
}

impl Curl {
    /// Whether it is a success.
    pub fn ok(&self) -> bool {
        self.exit == 0 && (200..300).contains(&self.status)
    }

    /// Bytes that went to the server over TCP.
    pub fn tcp_out(&self) -> u64 {
        (self.body_out + self.header_out) as u64
    }

    /// Bytes that came from the server over TCP.
    pub fn tcp_in(&self) -> u64 {
        (self.body_in + self.header_in) as u64
    }
}

/// Runs curl inside `netns`: fetches `url` into `to`, or uploads `upload` to it.
///
/// Returns early, with curl killed, when `stop` is set.
pub fn curl(
    netns: &Netns,
    url: &str,
    to: &Path,
    upload: Option<&Path>,
    stop: &AtomicBool,
) -> io::Result<Curl> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--globoff", "--noproxy", "*", "--max-time", "300"]);
    command.args(["--write-out", "%{stdout}%{json}", "--output"]).arg(to);
    if let Some(file) = upload {
        // without it curl waits a second for "100 Continue", which a server need not send
        command.args(["--header", "Expect:", "--upload-file"]).arg(file);
    }
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{e} (install it: apt-get install curl)")))?;
    wait(&mut child, stop)?;
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text)?;
    }
    serde_json::from_str(&text).map_err(|e| io::Error::other(format!("curl printed {text:?}: {e}")))
}

/// Waits for a child; kills it when `stop` is set.
pub fn wait(child: &mut Child, stop: &AtomicBool) -> io::Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `http://10.0.0.1/x`, `http://[fd00::1]/x`.
pub fn url(address: IpAddr, path: &str) -> String {
    match address {
        IpAddr::V4(a) => format!("http://{a}/{path}"),
        IpAddr::V6(a) => format!("http://[{a}]/{path}"),
    }
}

//! System calls of a script.
//!
//! Each becomes an attempt that is repeated until it does not have to wait any more: at once for
//! most calls, while the clock moves for those that block.

use std::net::SocketAddr;
use std::time::Duration;

use weft_stack::time::Instant;

use super::arguments::{
    address, argument, field, integer, number, number_or, option_value, vector_len,
};
use super::packets::pattern;
use super::{Fault, PATIENCE, Runner};
use crate::errno::{AGAIN, Errno};
use crate::script::{Call, Expr};
use crate::token::Position;

/// What an attempt gave: a number, or an error.
type Outcome = Result<i64, Errno>;

/// `Ok(None)`: it has to wait. `Err`: what it gave besides its number is wrong.
type Attempt = Box<dyn FnMut(&mut Runner) -> Result<Option<Outcome>, String>>;

/// A call that has not returned.
pub(super) struct Blocked {
    at: Position,
    call: Call,
    attempt: Attempt,
    /// When it returns by itself.
    pub(super) deadline: Option<Instant>,
    /// When the script says that it returns, microseconds.
    end: Option<u64>,
}

/// Reads and writes at most this many bytes at once.
const BYTES_MAX: i64 = 64 << 20;

impl Runner {
    /// Makes a call; `end`: when it shall return, if it blocks.
    pub(super) fn call(
        &mut self,
        at: Position,
        call: &Call,
        end: Option<u64>,
    ) -> Result<(), Fault> {
        let (attempt, deadline) = self.prepare(call).map_err(|e| (at, e))?;
        self.blocked = Some(Blocked { at, call: call.clone(), attempt, deadline, end });
        self.retry_blocked()?;
        if end.is_none() {
            self.finish_blocked()?;
        }
        Ok(())
    }

    /// Tries the call that waits again.
    pub(super) fn retry_blocked(&mut self) -> Result<(), Fault> {
        let Some(mut blocked) = self.blocked.take() else { return Ok(()) };
        let at = blocked.at;
        match (blocked.attempt)(self) {
            Err(what) => Err((at, format!("{}(): {what}", blocked.call.name))),
            Ok(None) => {
                self.blocked = Some(blocked);
                Ok(())
            }
            Ok(Some(outcome)) => {
                let now = self.micros(self.host.now());
                if let Some(end) = blocked.end
                    && now.abs_diff(end) > self.settings.tolerance_us
                {
                    let (end, now) =
                        (self.seconds(self.instant(end)), self.seconds(self.host.now()));
                    let name = &blocked.call.name;
                    let what =
                        format!("timing: {name}() should return at {end}, returned at {now}");
                    return Err((at, what));
                }
                self.judge(&blocked.call, outcome).map_err(|e| (at, e))
            }
        }
    }

    /// Waits until no call waits.
    pub(super) fn finish_blocked(&mut self) -> Result<(), Fault> {
        let until = self.host.now() + PATIENCE;
        while let Some(blocked) = &self.blocked {
            if self.host.now() >= until {
                let name = blocked.call.name.clone();
                return Err((blocked.at, format!("{name}() does not return")));
            }
            self.step(until)?;
        }
        Ok(())
    }

    /// Compares what a call gave with what the script says.
    fn judge(&mut self, call: &Call, outcome: Outcome) -> Result<(), String> {
        let name = &call.name;
        let shown = match outcome {
            Ok(n) => n.to_string(),
            Err(e) => format!("-1 {e}"),
        };
        if let Expr::Ellipsis = call.result {
            return Ok(());
        }
        let wanted = integer(&call.result)?;
        let errno = match &call.errno {
            None => None,
            Some(word) => Some(Errno::by_name(word).ok_or(format!("`{word}` is no error"))?),
        };
        let opens = matches!(name.as_str(), "socket" | "accept" | "accept4" | "epoll_create");
        match (outcome, errno) {
            (Ok(fd), None) if opens && wanted >= 0 => {
                self.descriptors.insert(wanted, fd as i32);
                Ok(())
            }
            (Ok(n), None) if n == wanted => Ok(()),
            (Err(_), None) if wanted == -1 => Ok(()),
            (Err(e), Some(want)) if e == want && wanted == -1 => Ok(()),
            (_, want) => {
                let want = want.map_or(String::new(), |e| format!(" {e}"));
                Err(format!("{name}() returned {shown}, expected {wanted}{want}"))
            }
        }
    }

    fn fd(&self, call: &Call) -> Result<i32, String> {
        let script = number(call, 0)?;
        // A number that was never opened is passed on: EBADF may be what is wanted.
        Ok(self.descriptors.get(&script).copied().unwrap_or(script as i32 + 10_000))
    }

    fn prepare(&mut self, call: &Call) -> Result<(Attempt, Option<Instant>), String> {
        let attempt = match call.name.as_str() {
            "socket" => self.socket(call)?,
            "bind" | "listen" | "connect" => self.open(call)?,
            "accept" | "accept4" => self.accept(call)?,
            "read" | "recv" | "recvfrom" | "readv" | "recvmsg" => self.reading(call)?,
            "write" | "send" | "sendto" | "writev" | "sendmsg" => self.writing(call)?,
            "close" | "shutdown" | "fcntl" | "ioctl" => self.control(call)?,
            "setsockopt" => self.set_option(call)?,
            "getsockopt" => self.get_option(call)?,
            "poll" | "epoll_wait" => return self.waiting(call),
            "epoll_create" | "epoll_create1" => {
                Box::new(|r: &mut Runner| at_once(Ok(i64::from(r.host.epoll_create()))))
            }
            "epoll_ctl" => self.epoll_control(call)?,
            other => return Err(format!("system call {other}() is not known here")),
        };
        Ok((attempt, None))
    }

    fn socket(&self, call: &Call) -> Result<Attempt, String> {
        let default = if self.settings.v6_sockets { libc::AF_INET6 } else { libc::AF_INET };
        let domain = number_or(call, 0, i64::from(default))? as i32;
        let kind = number(call, 1)? as i32;
        let protocol = number_or(call, 2, 0)? as i32;
        Ok(Box::new(move |r| at_once(r.host.socket(domain, kind, protocol).map(i64::from))))
    }

    fn open(&mut self, call: &Call) -> Result<Attempt, String> {
        let fd = self.fd(call)?;
        if call.name == "listen" {
            let backlog = number(call, 1)? as i32;
            return Ok(Box::new(move |r| {
                let port = r.host.bound(fd).map_or(0, |a| a.port());
                let result = r.host.listen(fd, backlog);
                if result.is_ok() {
                    r.flows.listening = Some(SocketAddr::new(r.settings.local, port));
                }
                at_once(result.map(|()| 0))
            }));
        }
        let written = address(argument(call, 1)?)?;
        if call.name == "bind" {
            let addr =
                written.unwrap_or(SocketAddr::new(self.settings.local, self.settings.bind_port));
            return Ok(Box::new(move |r| {
                let result = r.host.bind(fd, addr);
                r.note_udp(fd);
                at_once(result.map(|()| 0))
            }));
        }
        let peer =
            written.unwrap_or(SocketAddr::new(self.settings.remote, self.settings.connect_port));
        let mut began = false;
        Ok(Box::new(move |r| {
            let result = r.host.connect(fd, peer);
            r.note_udp(fd);
            if !began && let Ok((local, remote)) = r.host.addresses(fd) {
                // A second call only asks how the first one stands.
                if result == Err(Errno(libc::EINPROGRESS)) {
                    r.flows.add(local, remote);
                } else {
                    r.flows.add_once(local, remote);
                }
                r.asked = Some(fd);
            }
            let waits = matches!(result, Err(Errno(libc::EINPROGRESS | libc::EALREADY)));
            if waits && r.host.is_blocking(fd) {
                began = true;
                return Ok(None);
            }
            at_once(result.map(|()| 0))
        }))
    }

    /// Packets of UDP without ports are those of the last socket bound or connected.
    fn note_udp(&mut self, fd: i32) {
        if let Some(local) = self.host.udp_local(fd) {
            let remote = SocketAddr::new(self.settings.remote, self.settings.connect_port);
            let local = SocketAddr::new(self.settings.local, local.port());
            self.flows.udp = Some((local, self.host.udp_peer(fd).unwrap_or(remote)));
        }
    }

    fn accept(&mut self, call: &Call) -> Result<Attempt, String> {
        let fd = self.fd(call)?;
        Ok(Box::new(move |r| {
            let result = r.host.accept(fd).map(|(new, _)| {
                r.asked = Some(new);
                i64::from(new)
            });
            r.unless_waiting(fd, result, true)
        }))
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of an attempt")]
    /// `None` if the call would block and the descriptor lets it.
    fn unless_waiting(
        &mut self,
        fd: i32,
        result: Outcome,
        may_wait: bool,
    ) -> Result<Option<Outcome>, String> {
        if result == Err(AGAIN) && may_wait && self.host.is_blocking(fd) {
            return Ok(None);
        }
        Ok(Some(result))
    }

    fn reading(&mut self, call: &Call) -> Result<Attempt, String> {
        let fd = self.fd(call)?;
        let (len, flags) = match call.name.as_str() {
            "read" => (number(call, 2)?, 0),
            "readv" => (vector_len(argument(call, 1)?)? as i64, 0),
            "recvmsg" => (message_len(call)?, number(call, 2)?),
            _ => (number(call, 2)?, number(call, 3)?),
        };
        let flags = flags as i32;
        supported(call, flags, libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_PEEK)?;
        let peek = flags & libc::MSG_PEEK != 0;
        let len = len.clamp(0, BYTES_MAX) as usize;
        let whole = flags & libc::MSG_WAITALL != 0;
        let mut total = 0;
        Ok(Box::new(move |r| {
            let may_wait = flags & libc::MSG_DONTWAIT == 0;
            loop {
                let result = if peek { r.host.peek(fd, len) } else { r.host.recv(fd, len - total) };
                let got = match result {
                    Ok(got) => got,
                    Err(_) if total > 0 && !may_wait => return at_once(Ok(total as i64)),
                    Err(e) => return r.unless_waiting(fd, Err(e), may_wait),
                };
                let n = got.data.len();
                r.check_pattern(fd, &got.data, got.from.is_some(), peek)?;
                total += n;
                if peek || !whole || n == 0 || total == len {
                    return at_once(Ok(total as i64));
                }
            }
        }))
    }

    /// What was read is what the peer sent.
    fn check_pattern(
        &mut self,
        fd: i32,
        data: &[u8],
        datagram: bool,
        peek: bool,
    ) -> Result<(), String> {
        let offset = self.read.entry(fd).or_default();
        let from = if datagram { 0 } else { *offset };
        if let Some(i) = data.iter().zip(from..).position(|(b, at)| *b != pattern(at)) {
            return Err(format!("byte {} read is not what the peer sent", from + i as u64));
        }
        *offset += if peek { 0 } else { data.len() as u64 };
        Ok(())
    }

    fn writing(&mut self, call: &Call) -> Result<Attempt, String> {
        let fd = self.fd(call)?;
        let mut to = None;
        let (len, flags) = match call.name.as_str() {
            "write" => (number(call, 2)?, 0),
            "writev" => (vector_len(argument(call, 1)?)? as i64, 0),
            "sendmsg" => (message_len(call)?, number(call, 2)?),
            _ => (number(call, 2)?, number(call, 3)?),
        };
        let flags = flags as i32;
        let known = libc::MSG_DONTWAIT
            | libc::MSG_NOSIGNAL
            | libc::MSG_MORE
            | libc::MSG_OOB
            | libc::MSG_FASTOPEN;
        supported(call, flags, known)?;
        if call.name == "sendto" {
            to = address(argument(call, 4)?)?;
        }
        let len = len.clamp(0, BYTES_MAX) as usize;
        let text = match argument(call, 1)? {
            Expr::Text(text) => Some(text.clone().into_bytes()),
            _ => None,
        };
        self.own_text |= text.is_some();
        let mut done = 0;
        Ok(Box::new(move |r| {
            let may_wait = flags & libc::MSG_DONTWAIT == 0 && r.host.is_blocking(fd);
            let udp = r.host.udp_local(fd).is_some();
            if udp || r.host.is_datagram(fd) {
                let data: Vec<u8> = text.clone().unwrap_or((0..len as u64).map(pattern).collect());
                let to = to.or_else(|| r.host.udp_peer(fd).is_none().then(|| r.default_peer()));
                let result = r.host.send(fd, &data, flags, to);
                r.note_udp(fd);
                return r.unless_waiting(fd, result.map(|n| n as i64), may_wait);
            }
            loop {
                let from = r.written.get(&fd).copied().unwrap_or_default();
                let data: Vec<u8> = match &text {
                    Some(text) => text[done..len.min(text.len())].to_vec(),
                    None => (from..from + (len - done) as u64).map(pattern).collect(),
                };
                let fast = flags & libc::MSG_FASTOPEN != 0;
                let to = fast.then(|| to.unwrap_or(r.default_peer()));
                let result = r.host.send(fd, &data, flags, to);
                if fast
                    && done == 0
                    && let Ok((local, remote)) = r.host.addresses(fd)
                {
                    r.flows.add_once(local, remote);
                    r.asked = Some(fd);
                }
                match result {
                    Ok(n) => {
                        done += n;
                        *r.written.entry(fd).or_default() += n as u64;
                        if done >= len || n == data.len() {
                            return at_once(Ok(done as i64));
                        }
                    }
                    Err(AGAIN) if may_wait => return Ok(None),
                    Err(_) if done > 0 => return at_once(Ok(done as i64)),
                    Err(e) => return at_once(Err(e)),
                }
            }
        }))
    }

    fn default_peer(&self) -> SocketAddr {
        SocketAddr::new(self.settings.remote, self.settings.connect_port)
    }

    fn control(&mut self, call: &Call) -> Result<Attempt, String> {
        let fd = self.fd(call)?;
        let script = number(call, 0)?;
        Ok(match call.name.as_str() {
            "close" => Box::new(move |r| {
                let result = r.host.close(fd);
                if result.is_ok() {
                    r.descriptors.remove(&script);
                    r.read.remove(&fd);
                    r.written.remove(&fd);
                    r.asked = r.asked.filter(|asked| *asked != fd);
                }
                at_once(result.map(|()| 0))
            }),
            "shutdown" => {
                let how = number(call, 1)? as i32;
                Box::new(move |r| at_once(r.host.shutdown(fd, how).map(|()| 0)))
            }
            "fcntl" => {
                let command = number(call, 1)? as i32;
                let value = if call.args.len() > 2 { number(call, 2)? as i32 } else { 0 };
                Box::new(move |r| at_once(r.host.fcntl(fd, command, value).map(i64::from)))
            }
            _ => {
                let request = number(call, 1)? as u64;
                let wanted = argument(call, 2)?.clone();
                Box::new(move |r| match r.host.ioctl(fd, request) {
                    Ok(value) => {
                        expect("the value", &wanted, i64::from(value))?;
                        at_once(Ok(0))
                    }
                    Err(e) => at_once(Err(e)),
                })
            }
        })
    }

    fn set_option(&mut self, call: &Call) -> Result<Attempt, String> {
        let fd = self.fd(call)?;
        let (level, name) = (number(call, 1)? as i32, number(call, 2)? as i32);
        let value = option_value(argument(call, 3)?)?;
        Ok(Box::new(move |r| at_once(r.host.set_option(fd, level, name, &value).map(|()| 0))))
    }

    fn get_option(&mut self, call: &Call) -> Result<Attempt, String> {
        let fd = self.fd(call)?;
        let (level, name) = (number(call, 1)? as i32, number(call, 2)? as i32);
        let wanted = argument(call, 3)?.clone();
        Ok(Box::new(move |r| {
            let value = match r.host.get_option(fd, level, name) {
                Ok(value) => value,
                Err(e) => return at_once(Err(e)),
            };
            match &wanted {
                Expr::Ellipsis => {}
                // Kernels add an end to names.
                Expr::Text(text) if value.starts_with(text.as_bytes()) => {}
                other => {
                    let bytes = option_value(other)?;
                    if value.get(..bytes.len()) != Some(&bytes[..]) {
                        return Err(format!("the value is {value:?}, expected {other}"));
                    }
                }
            }
            at_once(Ok(0))
        }))
    }

    /// `poll` and `epoll_wait`, which may return by themselves.
    fn waiting(&mut self, call: &Call) -> Result<(Attempt, Option<Instant>), String> {
        let poll = call.name == "poll";
        let timeout = number(call, if poll { 2 } else { 3 })?;
        let deadline =
            u64::try_from(timeout).ok().map(|ms| self.host.now() + Duration::from_millis(ms));
        let attempt: Attempt = if poll {
            self.poll(call, deadline)?
        } else {
            let (fd, max) = (self.fd(call)?, number(call, 2)? as usize);
            let wanted = match argument(call, 1)? {
                Expr::List(items) => items.clone(),
                other => vec![other.clone()],
            };
            Box::new(move |r| {
                let ready = match r.host.epoll_ready(fd, max) {
                    Ok(ready) => ready,
                    Err(e) => return at_once(Err(e)),
                };
                if ready.is_empty() && deadline.is_none_or(|d| r.host.now() < d) {
                    return Ok(None);
                }
                for (entry, wanted) in ready.iter().zip(&wanted) {
                    let events = field(wanted, "events").unwrap_or(&Expr::Ellipsis);
                    expect("the events", events, i64::from(entry.events))?;
                }
                at_once(Ok(ready.len() as i64))
            })
        };
        Ok((attempt, deadline))
    }

    fn poll(&mut self, call: &Call, deadline: Option<Instant>) -> Result<Attempt, String> {
        let Expr::List(items) = argument(call, 0)? else {
            return Err("the first argument of poll() is a list [{fd=..., events=...}]".into());
        };
        let mut watched = Vec::new();
        for item in items {
            let get = |name| field(item, name).ok_or(format!("`{item}` has no {name}"));
            let script = integer(get("fd")?)?;
            let fd = self.descriptors.get(&script).copied().unwrap_or(-1);
            let events = integer(get("events")?)? as i16;
            let revents = field(item, "revents").map_or(Ok(0), integer)? as i16;
            watched.push((fd, events, revents));
        }
        Ok(Box::new(move |r| {
            let always = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
            let ready =
                |(fd, events, _): &(i32, i16, i16)| r.host.readiness(*fd) & (events | always);
            let count = watched.iter().filter(|w| ready(w) != 0).count();
            if count == 0 && deadline.is_none_or(|d| r.host.now() < d) {
                return Ok(None);
            }
            for entry in &watched {
                let (have, want) = (ready(entry), entry.2);
                if have != want {
                    return Err(format!("revents are {have:#x}, expected {want:#x}"));
                }
            }
            at_once(Ok(count as i64))
        }))
    }

    fn epoll_control(&mut self, call: &Call) -> Result<Attempt, String> {
        let epoll = self.fd(call)?;
        let operation = number(call, 1)? as i32;
        let script = number(call, 2)?;
        let fd = self.descriptors.get(&script).copied().unwrap_or(-1);
        let event = argument(call, 3)?;
        let events = field(event, "events").map_or(Ok(0), integer)? as u32;
        Ok(Box::new(move |r| {
            let result = r.host.epoll_control(epoll, operation, fd, events, script as u64);
            at_once(result.map(|()| 0))
        }))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of an attempt")]
fn at_once(outcome: Outcome) -> Result<Option<Outcome>, String> {
    Ok(Some(outcome))
}

/// Flags beyond `known` would be silently ignored: refuse them.
fn supported(call: &Call, flags: i32, known: i32) -> Result<(), String> {
    if flags & !known == 0 {
        return Ok(());
    }
    Err(format!("{}() with flags {:#x} is not known here", call.name, flags & !known))
}

fn message_len(call: &Call) -> Result<i64, String> {
    let message = argument(call, 1)?;
    let vector = field(message, "msg_iov").ok_or(format!("`{message}` has no msg_iov"))?;
    Ok(vector_len(vector)? as i64)
}

fn expect(what: &str, wanted: &Expr, have: i64) -> Result<(), String> {
    if *wanted == Expr::Ellipsis {
        return Ok(());
    }
    let want = integer(wanted)?;
    if want == have { Ok(()) } else { Err(format!("{what} is {have}, expected {want}")) }
}

//! Connections of one request: the client waits for the answer and for the server's close.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::{again, connect, wait};
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::Side;

pub(super) fn drive(side: &Side, control: &Control) -> io::Result<()> {
    if side.connections == 1 { one_by_one(side, control) } else { many(side, control) }
}

fn one_by_one(side: &Side, control: &Control) -> io::Result<()> {
    let mut message = vec![1; side.bytes + 1];
    // the device may still come up
    drop(connect(side.server())?);
    let mut meter = Meter::start(side, control);
    loop {
        let began = Instant::now();
        let mut stream = TcpStream::connect(side.server())?;
        stream.set_nodelay(true)?;
        stream.write_all(&message[..side.bytes])?;
        stream.set_nonblocking(side.busy())?;
        let mut done = 0;
        loop {
            match stream.read(&mut message[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if again(&e) => {}
                Err(e) => return Err(e),
            }
        }
        if done != side.bytes {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        drop(stream);
        if !meter.operation(began, Instant::now()) {
            return Ok(());
        }
    }
}

/// A connection in progress.
struct Short {
    stream: TcpStream,
    sent: bool,
    done: usize,
    began: Instant,
}

fn many(side: &Side, control: &Control) -> io::Result<()> {
    drop(connect(side.server())?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut message = vec![1; side.bytes + 1];
    let mut connections = Vec::with_capacity(side.connections);
    for i in 0..side.connections {
        connections.push(begin(side, &epoll, i)?);
    }
    let mut meter = Meter::start(side, control);
    let mut events = Vec::with_capacity(1024);
    loop {
        wait(&epoll, &mut events, side.busy())?;
        for event in events.drain(..) {
            let i = event.data.u64() as usize;
            let conn = &mut connections[i];
            if !conn.sent {
                conn.stream.write_all(&message[..side.bytes])?;
                conn.sent = true;
                let data = EventData::new_u64(i as u64);
                epoll::modify(&epoll, &conn.stream, data, EventFlags::IN)?;
                continue;
            }
            match conn.stream.read(&mut message[conn.done..]) {
                Ok(0) if conn.done == side.bytes => {
                    let more = meter.operation(conn.began, Instant::now());
                    *conn = begin(side, &epoll, i)?;
                    if !more {
                        return Ok(());
                    }
                }
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => conn.done += n,
                Err(e) if again(&e) => {}
                Err(e) => return Err(e),
            }
        }
        if !meter.tick(Instant::now()) {
            return Ok(());
        }
    }
}

fn begin(side: &Side, epoll: &rustix::fd::OwnedFd, i: usize) -> io::Result<Short> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &side.server()) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(e) => return Err(e.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    epoll::add(epoll, &stream, EventData::new_u64(i as u64), EventFlags::OUT)?;
    Ok(Short { stream, sent: false, done: 0, began: Instant::now() })
}

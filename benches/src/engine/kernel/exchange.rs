//! Requests and responses of one size, one in flight on each connection; the server also serves
//! connections of one request.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::{WAIT, again, connect, listen, wait};
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::{Side, Workload};

const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 1024;

/// A connection and how much of the message in progress it has.
struct Conn {
    stream: TcpStream,
    done: usize,
    began: Instant,
}

pub(super) fn serve(side: &Side, control: &Control) -> io::Result<()> {
    let listener = listen(side)?;
    control.ready();
    if side.connections == 1 && side.workload == Workload::RequestResponse {
        return serve_one(&listener, side, control);
    }
    Server::new(listener, side)?.run(control)
}

/// One connection: blocking calls, or non-blocking ones in a loop.
fn serve_one(listener: &TcpListener, side: &Side, control: &Control) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(side.busy())?;
    stream.set_read_timeout(Some(WAIT))?;
    let mut message = vec![0; side.bytes];
    while !control.stopped() {
        match exact(&mut stream, &mut message, control) {
            Ok(true) => {
                write_all(&mut stream, &message)?;
                control.work().add_operations(1);
            }
            Ok(false) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// `false`: the other side closed, or it is time to stop.
fn exact(stream: &mut TcpStream, message: &mut [u8], control: &Control) -> io::Result<bool> {
    let mut done = 0;
    while done < message.len() {
        match stream.read(&mut message[done..]) {
            Ok(0) => return Ok(false),
            Ok(n) => done += n,
            Err(e) if again(&e) => {
                if control.stopped() {
                    return Ok(false);
                }
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Socket buffers hold a message of a cell; if not, this waits by asking again.
fn write_all(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < message.len() {
        match stream.write(&message[done..]) {
            Ok(n) => done += n,
            Err(e) if again(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Many connections and an epoll.
struct Server {
    epoll: rustix::fd::OwnedFd,
    listener: TcpListener,
    connections: Vec<Option<Conn>>,
    free: Vec<usize>,
    message: Vec<u8>,
    busy: bool,
    once: bool,
}

impl Server {
    fn new(listener: TcpListener, side: &Side) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Server {
            epoll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            message: vec![0; side.bytes],
            busy: side.busy(),
            once: side.workload == Workload::ConnectClose,
        })
    }

    fn run(mut self, control: &Control) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        while !control.stopped() {
            wait(&self.epoll, &mut events, self.busy)?;
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    i => self.answer(i as usize, control),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                // the other side has gone meanwhile
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e),
            };
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            epoll::add(&self.epoll, &stream, EventData::new_u64(slot as u64), EventFlags::IN)?;
            self.connections[slot] = Some(Conn { stream, done: 0, began: Instant::now() });
        }
    }

    fn answer(&mut self, slot: usize, control: &Control) {
        let Some(conn) = &mut self.connections[slot] else { return };
        let closed = match conn.stream.read(&mut self.message[conn.done..]) {
            Ok(0) => true,
            Ok(n) => {
                conn.done += n;
                if conn.done == self.message.len() {
                    conn.done = 0;
                    control.work().add_operations(1);
                    write_all(&mut conn.stream, &self.message).is_err() || self.once
                } else {
                    false
                }
            }
            Err(e) => !again(&e),
        };
        if closed {
            // closing takes it out of the epoll
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

pub(super) fn drive(side: &Side, control: &Control) -> io::Result<()> {
    if side.connections == 1 {
        return drive_one(side, control);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut message = vec![1; side.bytes];
    let mut connections = Vec::with_capacity(side.connections);
    for i in 0..side.connections {
        let stream = connect(side.server())?;
        stream.set_nonblocking(true)?;
        epoll::add(&epoll, &stream, EventData::new_u64(i as u64), EventFlags::IN)?;
        connections.push(Conn { stream, done: 0, began: Instant::now() });
    }
    let mut meter = Meter::start(side, control);
    for conn in &mut connections {
        conn.began = Instant::now();
        write_all(&mut conn.stream, &message)?;
    }
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        wait(&epoll, &mut events, side.busy())?;
        for event in events.drain(..) {
            let conn = &mut connections[event.data.u64() as usize];
            match conn.stream.read(&mut message[conn.done..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => conn.done += n,
                Err(e) if again(&e) => continue,
                Err(e) => return Err(e),
            }
            if conn.done < message.len() {
                continue;
            }
            conn.done = 0;
            let now = Instant::now();
            if !meter.operation(conn.began, now) {
                return Ok(());
            }
            conn.began = now;
            write_all(&mut conn.stream, &message)?;
        }
        if !meter.tick(Instant::now()) {
            return Ok(());
        }
    }
}

fn drive_one(side: &Side, control: &Control) -> io::Result<()> {
    let mut stream = connect(side.server())?;
    stream.set_nonblocking(side.busy())?;
    let mut message = vec![1; side.bytes];
    let mut meter = Meter::start(side, control);
    let mut began = Instant::now();
    loop {
        write_all(&mut stream, &message)?;
        if !exact(&mut stream, &mut message, control)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let now = Instant::now();
        if !meter.operation(began, now) {
            return Ok(());
        }
        began = now;
    }
}

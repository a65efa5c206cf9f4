//! weft's blocking sockets from threads, in the shape of the kernel's engine.

use std::io::{self, ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Interest, Token};
use weft_vserver::Vserver;
use weft_vserver::net::{Poller, TcpListener, TcpStream};

use crate::engine::unsupported;
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::{Role, Side, Workload};

const CHUNK: usize = 128 << 10;
const WAIT: Duration = Duration::from_millis(50);
const CONNECT: Duration = Duration::from_secs(5);

pub(super) fn run(vserver: &Vserver, side: &Side, control: &Control) -> io::Result<()> {
    match (side.workload, side.role) {
        (Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth, Role::Server) => {
            let listener = TcpListener::bind(vserver, side.server())?;
            control.ready();
            let (stream, _) = listener.accept()?;
            flow(&stream, side, control)
        }
        (Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth, Role::Client) => {
            drive_bulk(vserver, side, control)
        }
        (Workload::RequestResponse, Role::Server) => serve(vserver, side, control),
        (Workload::RequestResponse, Role::Client) if side.connections == 1 => {
            drive(vserver, side, control)
        }
        (Workload::RequestResponse, Role::Client) => drive_many(vserver, side, control),
        _ => Err(unsupported(side)),
    }
}

fn again(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn connect(vserver: &Vserver, side: &Side) -> io::Result<TcpStream> {
    let patience = Instant::now() + CONNECT;
    loop {
        match TcpStream::connect_timeout(vserver, side.server(), Duration::from_secs(1)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) if Instant::now() > patience => return Err(e),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn flow(stream: &TcpStream, side: &Side, control: &Control) -> io::Result<()> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    thread::scope(|scope| {
        let sender = side.sends().then(|| scope.spawn(|| send(stream, control)));
        while side.receives() && !control.stopped() {
            match stream.recv_bytes(usize::MAX) {
                Ok(data) if data.is_empty() => break,
                Ok(data) => control.work().add_received(data.len()),
                Err(e) if again(&e) => {}
                Err(_) => break,
            }
        }
        let sent = sender.map_or(Ok(()), thread::ScopedJoinHandle::join);
        sent.map_err(|_| io::Error::other("a thread panicked"))
    })
}

fn send(stream: &TcpStream, control: &Control) {
    let chunk = Bytes::from(vec![0x5a; CHUNK]);
    let mut left = chunk.clone();
    while !control.stopped() {
        if left.is_empty() {
            left = chunk.clone();
        }
        match stream.send_bytes(&mut left) {
            Ok(n) => control.work().add_sent(n),
            Err(e) if again(&e) => {}
            Err(_) => break,
        }
    }
}

fn drive_bulk(vserver: &Vserver, side: &Side, control: &Control) -> io::Result<()> {
    let stream = connect(vserver, side)?;
    let mut meter = Meter::start(side, control);
    thread::scope(|scope| {
        let flow = scope.spawn(|| flow(&stream, side, control));
        while !flow.is_finished() && meter.tick(Instant::now()) {
            thread::sleep(Duration::from_millis(1));
        }
        stream.abort();
        let result = flow.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        if meter.over() { Ok(()) } else { result }
    })
}

/// `false`: the other side closed, or it is time to stop.
fn exact(stream: &mut TcpStream, message: &mut [u8], control: &Control) -> io::Result<bool> {
    let mut done = 0;
    while done < message.len() {
        match stream.read(&mut message[done..]) {
            Ok(0) => return Ok(false),
            Ok(n) => done += n,
            Err(e) if again(&e) && !control.stopped() => {}
            Err(e) if control.stopped() || e.kind() == ErrorKind::ConnectionReset => {
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

fn serve(vserver: &Vserver, side: &Side, control: &Control) -> io::Result<()> {
    let listener = TcpListener::bind_with_backlog(vserver, side.server(), 65_535)?;
    control.ready();
    if side.connections > 1 {
        return serve_many(&listener, side, control);
    }
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT))?;
    let mut message = vec![0; side.bytes];
    while exact(&mut stream, &mut message, control)? {
        stream.write_all(&message)?;
        control.work().add_operations(1);
    }
    Ok(())
}

/// A connection and how much of the message in progress it has.
struct Conn {
    stream: TcpStream,
    done: usize,
    began: Instant,
}

fn serve_many(listener: &TcpListener, side: &Side, control: &Control) -> io::Result<()> {
    const LISTENER: Token = Token(usize::MAX);
    let poller = Poller::new()?;
    listener.set_nonblocking(true)?;
    poller.register(listener, LISTENER, Interest::READABLE)?;
    let mut connections: Vec<Option<Conn>> = Vec::new();
    let mut message = vec![0; side.bytes];
    let mut ready = Vec::new();
    while !control.stopped() {
        poller.wait(&mut ready, Some(WAIT))?;
        for event in &ready {
            if event.token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    poller.register(&stream, Token(connections.len()), Interest::READABLE)?;
                    connections.push(Some(Conn { stream, done: 0, began: Instant::now() }));
                }
                continue;
            }
            let Some(conn) = &mut connections[event.token.0] else { continue };
            let open = pump(conn, &mut message, |conn, message| {
                control.work().add_operations(1);
                conn.stream.write_all(message).is_ok()
            });
            if !open {
                connections[event.token.0] = None;
            }
        }
    }
    Ok(())
}

/// Reads what there is; `whole` is called with each message. `false`: the connection is over.
fn pump(
    conn: &mut Conn,
    message: &mut [u8],
    mut whole: impl FnMut(&mut Conn, &[u8]) -> bool,
) -> bool {
    loop {
        match conn.stream.read(&mut message[conn.done..]) {
            Ok(0) => return false,
            Ok(n) if conn.done + n < message.len() => conn.done += n,
            Ok(_) => {
                conn.done = 0;
                if !whole(conn, message) {
                    return false;
                }
            }
            Err(e) => return again(&e),
        }
    }
}

fn drive(vserver: &Vserver, side: &Side, control: &Control) -> io::Result<()> {
    let mut stream = connect(vserver, side)?;
    let mut message = vec![1; side.bytes];
    let mut meter = Meter::start(side, control);
    let mut began = Instant::now();
    loop {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let now = Instant::now();
        if !meter.operation(began, now) {
            return Ok(());
        }
        began = now;
    }
}

fn drive_many(vserver: &Vserver, side: &Side, control: &Control) -> io::Result<()> {
    let poller = Poller::new()?;
    let mut message = vec![1; side.bytes];
    let mut connections = Vec::with_capacity(side.connections);
    for i in 0..side.connections {
        let stream = connect(vserver, side)?;
        stream.set_nonblocking(true)?;
        poller.register(&stream, Token(i), Interest::READABLE)?;
        connections.push(Conn { stream, done: 0, began: Instant::now() });
    }
    let mut meter = Meter::start(side, control);
    for conn in &mut connections {
        conn.began = Instant::now();
        conn.stream.write_all(&message)?;
    }
    let mut ready = Vec::new();
    loop {
        poller.wait(&mut ready, Some(WAIT))?;
        for event in &ready {
            let open = pump(&mut connections[event.token.0], &mut message, |conn, message| {
                let now = Instant::now();
                let more = meter.operation(conn.began, now);
                conn.began = now;
                more && conn.stream.write_all(message).is_ok()
            });
            if meter.over() {
                return Ok(());
            }
            if !open {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        if !meter.tick(Instant::now()) {
            return Ok(());
        }
    }
}

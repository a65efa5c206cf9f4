//! Bulk, requests and responses, connections of one request.

use std::io;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use weft_drivers::device::AnyDevice;

use super::Net;
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::{Side, Workload};

/// Buffer bytes of a socket in each direction, for bulk.
const BULK_BUFFER: usize = 1 << 20;
const CHUNK: usize = 128 << 10;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const FIRST_PORT: u16 = 10_000;

pub(super) fn does(workload: Workload) -> bool {
    is_bulk(workload) || matches!(workload, Workload::RequestResponse | Workload::ConnectClose)
}

fn is_bulk(workload: Workload) -> bool {
    matches!(workload, Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth)
}

/// A socket and how far its message is.
struct Conn {
    handle: SocketHandle,
    received: usize,
    to_send: usize,
    /// A server has answered, a client has its answer.
    answered: bool,
    began: Instant,
}

impl Conn {
    fn new(handle: SocketHandle) -> Conn {
        Conn { handle, received: 0, to_send: 0, answered: false, began: Instant::now() }
    }
}

/// The data of messages and the counters.
struct App<'a> {
    side: &'a Side,
    control: &'a Control,
    data: Vec<u8>,
    congestion: CongestionControl,
}

impl App<'_> {
    fn new<'a>(side: &'a Side, control: &'a Control) -> App<'a> {
        let none = side.extra("congestion") == Some("none");
        let congestion = if none { CongestionControl::None } else { CongestionControl::Cubic };
        let app = App { side, control, data: vec![0x5a; CHUNK.max(side.bytes)], congestion };
        let buffer = app.buffer_bytes();
        control.fact("stack", format!("smoltcp 0.14, {congestion:?}, buffers {buffer} B"));
        app
    }

    fn buffer_bytes(&self) -> usize {
        if is_bulk(self.side.workload) { BULK_BUFFER } else { (2 * self.side.bytes).max(4096) }
    }

    fn socket(&self) -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; self.buffer_bytes()]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(self.congestion);
        if !is_bulk(self.side.workload) {
            socket.set_nagle_enabled(false);
        }
        socket
    }

    /// Receives and sends as much as goes. `None` when the connection is over.
    fn flow(&self, socket: &mut Socket<'_>) -> bool {
        while socket.can_recv() {
            let Ok(n) = socket.recv(|data| (data.len(), data.len())) else { break };
            self.control.work().add_received(n);
        }
        while self.side.sends() && socket.can_send() {
            match socket.send_slice(&self.data) {
                Ok(n) if n > 0 => self.control.work().add_sent(n),
                _ => break,
            }
        }
        socket.may_recv() || socket.may_send()
    }

    /// Takes what came into the message and sends what is left of the answer.
    fn exchange(&self, conn: &mut Conn, socket: &mut Socket<'_>) {
        while socket.can_recv() {
            let Ok(n) = socket.recv(|data| (data.len(), data.len())) else { break };
            conn.received += n;
        }
        self.send_rest(conn, socket);
    }

    fn send_rest(&self, conn: &mut Conn, socket: &mut Socket<'_>) {
        if conn.to_send > 0 && socket.can_send() {
            conn.to_send -= socket.send_slice(&self.data[..conn.to_send]).unwrap_or(0);
        }
    }
}

pub(super) fn serve(net: &mut Net<AnyDevice>, side: &Side, control: &Control) -> io::Result<()> {
    let app = App::new(side, control);
    // a listening socket becomes the connection: as many as may come before we look again
    let listeners = if side.workload == Workload::ConnectClose {
        4 * side.connections
    } else {
        side.connections
    };
    let mut conns = Vec::new();
    for _ in 0..listeners + 8 {
        conns.push(Conn::new(listen(net, &app)?));
    }
    control.ready();
    let mut operations = 0;
    while !control.stopped() {
        if !net.poll()? {
            net.wait()?;
            continue;
        }
        for conn in &mut conns {
            let socket = net.sockets.get_mut::<Socket>(conn.handle);
            let over = match socket.state() {
                State::Listen | State::SynReceived => continue,
                // it would stay for ten seconds and its socket with it
                State::Closed | State::TimeWait => true,
                _ => false,
            };
            if over {
                net.sockets.remove(conn.handle);
                *conn = Conn::new(listen(net, &app)?);
                continue;
            }
            serve_one(&app, conn, socket, &mut operations);
        }
        control.work().set_operations(operations);
    }
    Ok(())
}

fn listen(net: &mut Net<AnyDevice>, app: &App<'_>) -> io::Result<SocketHandle> {
    let mut socket = app.socket();
    socket.listen(app.side.port).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(net.sockets.add(socket))
}

fn serve_one(app: &App<'_>, conn: &mut Conn, socket: &mut Socket<'_>, operations: &mut u64) {
    if is_bulk(app.side.workload) {
        if !app.flow(socket) {
            socket.close();
        }
        return;
    }
    app.exchange(conn, socket);
    if conn.received >= app.side.bytes {
        conn.received -= app.side.bytes;
        conn.to_send += app.side.bytes;
        conn.answered = true;
        *operations += 1;
        app.send_rest(conn, socket);
    }
    let short = app.side.workload == Workload::ConnectClose;
    if (short && conn.answered && conn.to_send == 0) || socket.state() == State::CloseWait {
        socket.close();
    }
}

pub(super) fn drive(net: &mut Net<AnyDevice>, side: &Side, control: &Control) -> io::Result<()> {
    let app = App::new(side, control);
    if side.workload == Workload::ConnectClose {
        return drive_short(net, &app);
    }
    let mut ports = Ports::default();
    let mut conns = Vec::new();
    for _ in 0..side.connections {
        conns.push(Conn::new(connect(net, &app, &mut ports)?));
    }
    establish(net, &conns)?;
    let mut meter = Meter::start(side, control);
    if is_bulk(side.workload) {
        return drive_bulk(net, &app, &conns[0], &mut meter);
    }
    for conn in &mut conns {
        conn.began = Instant::now();
        conn.to_send = side.bytes;
        app.send_rest(conn, net.sockets.get_mut::<Socket>(conn.handle));
    }
    loop {
        if net.poll()? {
            for conn in &mut conns {
                let socket = net.sockets.get_mut::<Socket>(conn.handle);
                app.exchange(conn, socket);
                if conn.received < side.bytes {
                    continue;
                }
                let now = Instant::now();
                if !meter.operation(conn.began, now) {
                    return Ok(());
                }
                (conn.received, conn.to_send, conn.began) = (0, side.bytes, now);
                app.send_rest(conn, socket);
            }
        } else {
            net.wait()?;
        }
        if !meter.tick(Instant::now()) {
            return Ok(());
        }
    }
}

fn drive_bulk(
    net: &mut Net<AnyDevice>,
    app: &App<'_>,
    conn: &Conn,
    meter: &mut Meter,
) -> io::Result<()> {
    app.flow(net.sockets.get_mut::<Socket>(conn.handle));
    while meter.tick(Instant::now()) {
        if !net.poll()? {
            net.wait()?;
        } else if !app.flow(net.sockets.get_mut::<Socket>(conn.handle)) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
    Ok(())
}

fn drive_short(net: &mut Net<AnyDevice>, app: &App<'_>) -> io::Result<()> {
    let mut ports = Ports::default();
    let mut conns = Vec::new();
    let mut closing = Vec::new();
    for _ in 0..app.side.connections {
        let mut conn = Conn::new(connect(net, app, &mut ports)?);
        conn.to_send = app.side.bytes;
        conns.push(conn);
    }
    let mut meter = Meter::start(app.side, app.control);
    loop {
        if net.poll()? {
            for conn in &mut conns {
                let socket = net.sockets.get_mut::<Socket>(conn.handle);
                app.exchange(conn, socket);
                match socket.state() {
                    State::CloseWait if conn.received == app.side.bytes => {}
                    State::Closed => return Err(io::ErrorKind::ConnectionReset.into()),
                    _ => continue,
                }
                socket.close();
                let more = meter.operation(conn.began, Instant::now());
                closing.push(conn.handle);
                *conn = Conn::new(connect(net, app, &mut ports)?);
                conn.to_send = app.side.bytes;
                if !more {
                    return Ok(());
                }
            }
            closing.retain(|handle| {
                let over = net.sockets.get::<Socket>(*handle).state() == State::Closed;
                if over {
                    net.sockets.remove(*handle);
                }
                !over
            });
        } else {
            net.wait()?;
        }
        if !meter.tick(Instant::now()) {
            return Ok(());
        }
    }
}

/// Own ports, one after the other.
#[derive(Default)]
struct Ports(u16);

impl Ports {
    fn next(&mut self) -> u16 {
        self.0 = (self.0 + 1) % (u16::MAX - FIRST_PORT);
        FIRST_PORT + self.0
    }
}

fn connect(net: &mut Net<AnyDevice>, app: &App<'_>, ports: &mut Ports) -> io::Result<SocketHandle> {
    let mut socket = app.socket();
    let to = (smoltcp::wire::IpAddress::from(app.side.peer), app.side.port);
    socket
        .connect(net.iface.context(), to, ports.next())
        .map_err(|e| io::Error::other(e.to_string()))?;
    Ok(net.sockets.add(socket))
}

fn establish(net: &mut Net<AnyDevice>, conns: &[Conn]) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let open = |c: &Conn| net.sockets.get::<Socket>(c.handle).may_send();
        if conns.iter().all(open) {
            return Ok(());
        }
        if began.elapsed() > CONNECT_LIMIT {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !net.poll()? {
            net.wait()?;
        }
    }
}

//! Requests and responses of one size; the server also serves connections of one request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_vserver::app::{Cx, Service, SocketId, TcpError, TcpOption, TcpRecvError};

use super::Common;
use crate::meter::Meter;
use crate::spec::Workload;

const TICK: Duration = Duration::from_millis(1);
/// Connections begun and not yet established, at most.
const BEGUN_MAX: usize = 512;

pub(super) struct Server {
    common: Common,
    /// Bytes of the request in progress, by the index of the connection.
    done: Vec<usize>,
    message: Vec<u8>,
    once: bool,
}

impl Server {
    pub(super) fn new(common: Common) -> Server {
        let once = common.side.workload == Workload::ConnectClose;
        let message = vec![1; common.side.bytes];
        Server { common, done: Vec::new(), message, once }
    }
}

impl Service for Server {
    fn start(&mut self, cx: &mut Cx<'_>) {
        if let Err(e) = cx.listen(self.common.side.server(), 65_535) {
            self.common.end(Err(e.to_string()));
        }
    }

    fn accepted(&mut self, cx: &mut Cx<'_>, conn: SocketId, _: SocketAddr) {
        let slot = conn.index as usize;
        if slot >= self.done.len() {
            self.done.resize(slot + 1, 0);
        }
        self.done[slot] = 0;
        cx.set_option(conn, TcpOption::NoDelay(true));
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let slot = id.index as usize;
        loop {
            let done = self.done[slot];
            match cx.recv(id, &mut self.message[done..]) {
                Ok(0) => return cx.close(id),
                Ok(n) if done + n < self.message.len() => self.done[slot] = done + n,
                Ok(_) => {
                    self.done[slot] = 0;
                    self.common.control.work().add_operations(1);
                    // a response fits the empty send buffer: no more is asked before it is read
                    let sent = cx.send(id, &self.message);
                    if self.once || sent != Ok(self.message.len()) {
                        return cx.close(id);
                    }
                }
                Err(TcpRecvError::WouldBlock) => return,
                Err(_) => return cx.close(id),
            }
        }
    }
}

/// A connection of the client.
struct Conn {
    id: SocketId,
    done: usize,
    began: Instant,
}

pub(super) struct Client {
    common: Common,
    meter: Option<Meter>,
    connections: Vec<Option<Conn>>,
    established: usize,
    begun: usize,
    failed: usize,
    message: Vec<u8>,
}

impl Client {
    pub(super) fn new(common: Common) -> Client {
        let message = vec![1; common.side.bytes];
        Client {
            common,
            meter: None,
            connections: Vec::new(),
            established: 0,
            begun: 0,
            failed: 0,
            message,
        }
    }

    fn connect(&mut self, cx: &mut Cx<'_>) {
        let wanted = self.common.side.connections;
        while self.begun < wanted && self.begun - self.established < BEGUN_MAX {
            match cx.connect(None, self.common.side.server()) {
                Ok(_) => self.begun += 1,
                Err(e) => return self.common.end(Err(e.to_string())),
            }
        }
    }

    fn ask_all(&mut self, cx: &mut Cx<'_>) {
        self.meter = Some(Meter::start(&self.common.side, &self.common.control));
        for conn in self.connections.iter_mut().flatten() {
            conn.began = Instant::now();
            if let Err(e) = cx.send(conn.id, &self.message) {
                return self.common.end(Err(e.to_string()));
            }
        }
        cx.set_timer(TICK, 1);
    }
}

impl Service for Client {
    fn start(&mut self, cx: &mut Cx<'_>) {
        self.connect(cx);
    }

    fn connected(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        cx.set_option(id, TcpOption::NoDelay(true));
        let slot = id.index as usize;
        if slot >= self.connections.len() {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] = Some(Conn { id, done: 0, began: Instant::now() });
        self.established += 1;
        if self.established == self.common.side.connections {
            self.ask_all(cx);
        } else {
            self.connect(cx);
        }
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let Some(conn) = self.connections.get_mut(id.index as usize).and_then(Option::as_mut)
        else {
            return;
        };
        let Some(meter) = &mut self.meter else { return };
        loop {
            match cx.recv(id, &mut self.message[conn.done..]) {
                Ok(0) => return self.common.end(Err("the server closed".into())),
                Ok(n) if conn.done + n < self.message.len() => conn.done += n,
                Ok(_) => {
                    conn.done = 0;
                    let now = Instant::now();
                    if !meter.operation(conn.began, now) {
                        return self.common.end(Ok(()));
                    }
                    conn.began = now;
                    if let Err(e) = cx.send(id, &self.message) {
                        return self.common.end(Err(e.to_string()));
                    }
                }
                Err(TcpRecvError::WouldBlock) => return,
                Err(e) => return self.common.end(Err(e.to_string())),
            }
        }
    }

    fn closed(&mut self, cx: &mut Cx<'_>, _: SocketId, error: Option<TcpError>) {
        if self.meter.is_some() {
            return self.common.end(Err(format!("a connection ended: {error:?}")));
        }
        // the device may still come up
        self.begun -= 1;
        self.failed += 1;
        if self.failed > 1000 {
            return self.common.end(Err(format!("connect: {error:?}")));
        }
        cx.set_timer(TICK, 0);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, token: u64) {
        let Some(meter) = self.meter.as_mut().filter(|_| token == 1) else {
            return self.connect(cx);
        };
        if meter.tick(Instant::now()) {
            cx.set_timer(TICK, 1);
        } else {
            self.common.end(Ok(()));
        }
    }
}

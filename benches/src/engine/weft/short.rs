//! The client of connections of one request: waits for the answer and for the server's close.

use std::time::{Duration, Instant};

use weft_vserver::app::{Cx, Service, SocketId, TcpError, TcpOption, TcpRecvError};

use super::Common;
use crate::meter::Meter;

const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
struct Conn {
    done: usize,
    began: Instant,
}

pub(super) struct Client {
    common: Common,
    meter: Option<Meter>,
    connections: Vec<Conn>,
    message: Vec<u8>,
    failed: usize,
}

impl Client {
    pub(super) fn new(common: Common) -> Client {
        let message = vec![1; common.side.bytes + 1];
        Client { common, meter: None, connections: Vec::new(), message, failed: 0 }
    }

    fn connect(&mut self, cx: &mut Cx<'_>) {
        let began = Instant::now();
        match cx.connect(None, self.common.side.server()) {
            Ok(id) => {
                let slot = id.index as usize;
                let conn = Conn { done: 0, began };
                if slot >= self.connections.len() {
                    self.connections.resize(slot + 1, conn);
                }
                self.connections[slot] = conn;
            }
            Err(e) => self.common.end(Err(e.to_string())),
        }
    }
}

impl Service for Client {
    fn start(&mut self, cx: &mut Cx<'_>) {
        self.connect(cx);
    }

    fn connected(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if self.meter.is_none() {
            self.meter = Some(Meter::start(&self.common.side, &self.common.control));
            (1..self.common.side.connections).for_each(|_| self.connect(cx));
        }
        cx.set_option(id, TcpOption::NoDelay(true));
        if let Err(e) = cx.send(id, &self.message[..self.common.side.bytes]) {
            self.common.end(Err(e.to_string()));
        }
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let slot = id.index as usize;
        let conn = &mut self.connections[slot];
        loop {
            match cx.recv(id, &mut self.message[conn.done..]) {
                Ok(0) => break,
                Ok(n) => conn.done += n,
                Err(TcpRecvError::WouldBlock) => return,
                Err(e) => return self.common.end(Err(e.to_string())),
            }
        }
        cx.close(id);
        if conn.done != self.common.side.bytes {
            return self.common.end(Err(format!("{} bytes of an answer", conn.done)));
        }
        let Some(meter) = &mut self.meter else { return };
        if meter.operation(conn.began, Instant::now()) {
            self.connect(cx);
        } else {
            self.common.end(Ok(()));
        }
    }

    fn closed(&mut self, cx: &mut Cx<'_>, _: SocketId, error: Option<TcpError>) {
        self.failed += 1;
        if self.meter.is_some() || self.failed > 1000 {
            return self.common.end(Err(format!("connect: {error:?}")));
        }
        // the device may still come up
        cx.set_timer(TICK, 0);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _: u64) {
        if self.meter.is_none() {
            self.connect(cx);
        }
    }
}

//! As much as goes on one connection, both roles.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_vserver::app::{Cx, Service, SocketId, TcpError, TcpRecvError};

use super::Common;
use crate::meter::Meter;
use crate::spec::Role;

/// Bytes of one call, as iperf3 has it.
const CHUNK: usize = 128 << 10;
/// What a frame of the device holds beside a full segment's headers, at most: one piece of it.
const POOL_CHUNK: usize = 1448;
const TICK: Duration = Duration::from_millis(1);

pub(super) struct Bulk {
    common: Common,
    meter: Option<Meter>,
    chunk: Bytes,
    /// What of it is not sent yet.
    left: Bytes,
    tries: usize,
}

impl Bulk {
    pub(super) fn new(common: Common) -> Bulk {
        let chunk = Bytes::from(vec![0x5a; CHUNK]);
        Bulk { common, meter: None, left: chunk.clone(), chunk, tries: 0 }
    }

    /// With `--extra pool=yes`, what is sent lies in the device's memory.
    fn fill(&mut self, cx: &mut Cx<'_>) {
        if self.common.side.extra("pool").is_none() {
            return;
        }
        match cx.alloc(POOL_CHUNK) {
            Some(mut buffer) => {
                buffer.fill(0x5a);
                self.chunk = buffer.freeze();
                self.left = self.chunk.clone();
            }
            None => self.common.end(Err("the device gives no memory".into())),
        }
    }

    fn send(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if !self.common.side.sends() {
            return;
        }
        loop {
            if self.left.is_empty() {
                self.left = self.chunk.clone();
            }
            match cx.send_bytes(id, &mut self.left) {
                Ok(n) => self.common.control.work().add_sent(n),
                Err(_) => return,
            }
            if !self.left.is_empty() {
                return;
            }
        }
    }
}

impl Service for Bulk {
    fn start(&mut self, cx: &mut Cx<'_>) {
        self.fill(cx);
        let to = self.common.side.server();
        let begun = match self.common.side.role {
            Role::Server => cx.listen(to, 16).map(drop).map_err(|e| e.to_string()),
            Role::Client => cx.connect(None, to).map(drop).map_err(|e| e.to_string()),
        };
        if let Err(e) = begun {
            self.common.end(Err(e));
        }
    }

    fn accepted(&mut self, cx: &mut Cx<'_>, conn: SocketId, _: SocketAddr) {
        self.send(cx, conn);
    }

    fn connected(&mut self, cx: &mut Cx<'_>, conn: SocketId) {
        self.meter = Some(Meter::start(&self.common.side, &self.common.control));
        cx.set_timer(TICK, 0);
        self.send(cx, conn);
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        loop {
            match cx.recv_bytes(id, usize::MAX) {
                Ok(data) if data.is_empty() => return cx.close(id),
                Ok(data) => self.common.control.work().add_received(data.len()),
                Err(TcpRecvError::WouldBlock) => return,
                Err(_) => return cx.close(id),
            }
        }
    }

    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.send(cx, id);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _: u64) {
        let Some(meter) = &mut self.meter else {
            return self.start(cx);
        };
        if meter.tick(Instant::now()) {
            cx.set_timer(TICK, 0);
        } else {
            self.common.end(Ok(()));
        }
    }

    fn closed(&mut self, cx: &mut Cx<'_>, _: SocketId, error: Option<TcpError>) {
        if self.common.side.role == Role::Server || self.meter.as_ref().is_some_and(Meter::over) {
            return;
        }
        self.tries += 1;
        if self.meter.is_none() && self.tries < 1000 {
            cx.set_timer(TICK, 0);
            return;
        }
        self.common.end(Err(format!("the connection ended: {error:?}")));
    }
}

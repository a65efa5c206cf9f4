//! Datagrams echoed, a window of them in flight.

use std::time::{Duration, Instant};

use weft_vserver::app::{Cx, Service, SocketId};

use super::Common;
use crate::meter::Meter;

const TICK: Duration = Duration::from_millis(1);
/// A datagram that did not come back by then is lost, and its place in the window free.
const LOST: Duration = Duration::from_millis(20);

pub(super) struct Server {
    common: Common,
}

impl Server {
    pub(super) fn new(common: Common) -> Server {
        Server { common }
    }
}

impl Service for Server {
    fn start(&mut self, cx: &mut Cx<'_>) {
        if let Err(e) = cx.udp_bind(self.common.side.server()) {
            self.common.end(Err(e.to_string()));
        }
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        while let Ok(datagram) = cx.udp_recv(id) {
            // a full queue drops it, as a wire would
            let _ = cx.udp_send(id, &datagram.payload, Some(datagram.from));
            self.common.control.work().add_operations(1);
        }
    }
}

pub(super) struct Client {
    common: Common,
    meter: Meter,
    socket: Option<SocketId>,
    data: Vec<u8>,
    in_flight: usize,
    lost: u64,
    last: Instant,
}

impl Client {
    pub(super) fn new(common: Common) -> Client {
        let meter = Meter::start(&common.side, &common.control);
        let data = vec![0x5a; common.side.bytes.max(1)];
        let last = Instant::now();
        Client { common, meter, socket: None, data, in_flight: 0, lost: 0, last }
    }

    fn fill(&mut self, cx: &mut Cx<'_>) {
        let Some(id) = self.socket else { return };
        while self.in_flight < self.common.side.connections {
            if cx.udp_send(id, &self.data, Some(self.common.side.server())).is_err() {
                return;
            }
            self.in_flight += 1;
        }
    }

    fn end(&mut self) {
        self.common.control.number("lost", self.lost as f64);
        self.common.end(Ok(()));
    }
}

impl Service for Client {
    fn start(&mut self, cx: &mut Cx<'_>) {
        match cx.udp_bind(std::net::SocketAddr::new(self.common.side.local, 0)) {
            Ok(id) => self.socket = Some(id),
            Err(e) => return self.common.end(Err(e.to_string())),
        }
        self.fill(cx);
        cx.set_timer(TICK, 0);
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        while cx.udp_recv(id).is_ok() {
            self.in_flight = self.in_flight.saturating_sub(1);
            let now = Instant::now();
            let began = std::mem::replace(&mut self.last, now);
            if !self.meter.operation(began, now) {
                return self.end();
            }
        }
        self.fill(cx);
    }

    fn writable(&mut self, cx: &mut Cx<'_>, _: SocketId) {
        self.fill(cx);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _: u64) {
        let now = Instant::now();
        if now - self.last > LOST {
            self.lost += self.in_flight as u64;
            (self.in_flight, self.last) = (0, now);
            self.fill(cx);
        }
        if !self.meter.over() && !self.meter.tick(now) {
            return self.end();
        }
        cx.set_timer(TICK, 0);
    }
}

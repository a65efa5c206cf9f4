//! Datagrams echoed by `recvmmsg` and `sendmmsg`: a batch of them in each call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use super::udp::LOST;
use super::{WAIT, again};
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::Side;

/// Datagrams of one call.
const BATCH: usize = 64;
const DATAGRAM_BYTES: usize = 2048;

/// Datagrams that came together, to be sent back.
struct Batch {
    /// Of its own for each direction: where a sender's address was, a receiver's would be written.
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    data: Vec<[u8; DATAGRAM_BYTES]>,
    /// Of those that are in it: length and sender.
    came: Vec<(usize, Option<SockaddrIn>)>,
    flags: MsgFlags,
}

impl Batch {
    fn new(busy: bool) -> Batch {
        Batch {
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            data: vec![[0x5a; DATAGRAM_BYTES]; BATCH],
            came: Vec::with_capacity(BATCH),
            flags: if busy { MsgFlags::MSG_DONTWAIT } else { MsgFlags::MSG_WAITFORONE },
        }
    }

    /// How many came: none if the wait was in vain.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.came.clear();
        let mut slices: Vec<_> = self.data.iter_mut().map(|d| [IoSliceMut::new(d)]).collect();
        let fd = socket.as_raw_fd();
        match recvmmsg(fd, &mut self.incoming, slices.iter_mut(), self.flags, None) {
            Ok(results) => self.came.extend(results.map(|r| (r.bytes, r.address))),
            Err(e) if again(&e.into()) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(self.came.len())
    }

    /// Sends what is in it; a full queue drops the rest, as a wire would.
    fn send(&mut self, socket: &UdpSocket) -> usize {
        let parts = self.data.iter().zip(&self.came);
        let slices: Vec<_> = parts.map(|(d, (len, _))| [IoSlice::new(&d[..*len])]).collect();
        let to: Vec<_> = self.came.iter().map(|(_, from)| *from).collect();
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        sendmmsg(fd, &mut self.outgoing, &slices, &to, [], flags).map_or(0, Iterator::count)
    }
}

pub(super) fn serve(side: &Side, control: &Control) -> io::Result<()> {
    let socket = UdpSocket::bind(side.server())?;
    socket.set_read_timeout(Some(WAIT))?;
    control.ready();
    let mut batch = Batch::new(side.busy());
    while !control.stopped() {
        let n = batch.receive(&socket)?;
        if n > 0 {
            batch.send(&socket);
            control.work().add_operations(n as u64);
        }
    }
    Ok(())
}

pub(super) fn drive(side: &Side, control: &Control) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(side.server())?;
    socket.set_read_timeout(Some(LOST))?;
    let mut batch = Batch::new(side.busy());
    let mut meter = Meter::start(side, control);
    let (mut in_flight, mut lost) = (0, 0);
    let mut last = Instant::now();
    while !meter.over() {
        batch.came.clear();
        let free = side.connections.saturating_sub(in_flight).min(BATCH);
        batch.came.resize(free, (side.bytes.clamp(1, DATAGRAM_BYTES), None));
        if free > 0 {
            in_flight += batch.send(&socket);
        }
        let n = receive_answers(&mut batch, &socket)?;
        let now = Instant::now();
        for _ in 0..n {
            meter.operation(last, now);
        }
        in_flight = in_flight.saturating_sub(n);
        if n > 0 {
            last = now;
        } else if now - last > LOST {
            lost += in_flight;
            (in_flight, last) = (0, now);
        }
        meter.tick(now);
    }
    control.number("lost", lost as f64);
    Ok(())
}

/// Nobody listens yet is nothing, too.
fn receive_answers(batch: &mut Batch, socket: &UdpSocket) -> io::Result<usize> {
    match batch.receive(socket) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
        other => other,
    }
}

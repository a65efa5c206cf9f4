//! Datagrams echoed, a window of them in flight.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::{WAIT, again};
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::Side;

/// A datagram that did not come back by then is lost, and its place in the window free.
pub(super) const LOST: Duration = Duration::from_millis(20);

pub(super) fn serve(side: &Side, control: &Control) -> io::Result<()> {
    let socket = UdpSocket::bind(side.server())?;
    socket.set_nonblocking(side.busy())?;
    socket.set_read_timeout(Some(WAIT))?;
    control.ready();
    let mut data = vec![0; 65_536];
    while !control.stopped() {
        match socket.recv_from(&mut data) {
            Ok((n, from)) => {
                // a full queue drops it, as a wire would
                let _ = socket.send_to(&data[..n], from);
                control.work().add_operations(1);
            }
            Err(e) if again(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub(super) fn drive(side: &Side, control: &Control) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(side.server())?;
    socket.set_nonblocking(side.busy())?;
    socket.set_read_timeout(Some(LOST))?;
    let mut data = vec![0x5a; side.bytes.max(1)];
    let mut meter = Meter::start(side, control);
    let (mut in_flight, mut lost) = (0, 0u64);
    let mut last = Instant::now();
    loop {
        while in_flight < side.connections {
            match socket.send(&data) {
                Ok(_) => in_flight += 1,
                Err(e) if again(&e) => break,
                // nobody listens yet
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => break,
                Err(e) => return Err(e),
            }
        }
        let now = match socket.recv(&mut data) {
            Ok(_) => {
                in_flight = in_flight.saturating_sub(1);
                let now = Instant::now();
                let began = last;
                last = now;
                if !meter.operation(began, now) {
                    break;
                }
                continue;
            }
            Err(_) => Instant::now(),
        };
        if now - last > LOST {
            lost += in_flight as u64;
            in_flight = 0;
            last = now;
        }
        if !meter.tick(now) {
            break;
        }
    }
    control.number("lost", lost as f64);
    Ok(())
}

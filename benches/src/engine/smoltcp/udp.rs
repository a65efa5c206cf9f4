//! Datagrams echoed, a window of them in flight.

use std::io;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use smoltcp::wire::{IpAddress, IpEndpoint};
use weft_drivers::device::AnyDevice;

use super::Net;
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::{Role, Side};

/// A datagram that did not come back by then is lost, and its place in the window free.
const LOST: Duration = Duration::from_millis(20);
const QUEUE: usize = 512;

fn bind(net: &mut Net<AnyDevice>, side: &Side) -> io::Result<SocketHandle> {
    let buffer = || {
        let bytes = QUEUE * side.bytes.max(64);
        PacketBuffer::new(vec![PacketMetadata::EMPTY; QUEUE], vec![0; bytes])
    };
    let mut socket = Socket::new(buffer(), buffer());
    let port = if side.role == Role::Server { side.port } else { side.port + 1 };
    socket.bind(port).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(net.sockets.add(socket))
}

pub(super) fn serve(net: &mut Net<AnyDevice>, side: &Side, control: &Control) -> io::Result<()> {
    let handle = bind(net, side)?;
    control.ready();
    let mut data = vec![0; side.bytes.max(64)];
    while !control.stopped() {
        if !net.poll()? {
            net.wait()?;
            continue;
        }
        let socket = net.sockets.get_mut::<Socket>(handle);
        while socket.can_recv() && socket.can_send() {
            let Ok((n, from)) = socket.recv_slice(&mut data) else { break };
            if socket.send_slice(&data[..n], from.endpoint).is_err() {
                break;
            }
            control.work().add_operations(1);
        }
    }
    Ok(())
}

pub(super) fn drive(net: &mut Net<AnyDevice>, side: &Side, control: &Control) -> io::Result<()> {
    let handle = bind(net, side)?;
    let to = IpEndpoint::new(IpAddress::from(side.peer), side.port);
    let data = vec![0x5a; side.bytes.max(1)];
    let mut meter = Meter::start(side, control);
    let (mut in_flight, mut lost) = (0, 0u64);
    let mut last = Instant::now();
    loop {
        let socket = net.sockets.get_mut::<Socket>(handle);
        while in_flight < side.connections && socket.send_slice(&data, to).is_ok() {
            in_flight += 1;
        }
        if !net.poll()? {
            net.wait()?;
        }
        let socket = net.sockets.get_mut::<Socket>(handle);
        let now = Instant::now();
        while socket.recv().is_ok() {
            in_flight = in_flight.saturating_sub(1);
            let began = std::mem::replace(&mut last, now);
            if !meter.operation(began, now) {
                control.number("lost", lost as f64);
                return Ok(());
            }
        }
        if now - last > LOST {
            lost += in_flight as u64;
            (in_flight, last) = (0, now);
        }
        if !meter.tick(now) {
            control.number("lost", lost as f64);
            return Ok(());
        }
    }
}

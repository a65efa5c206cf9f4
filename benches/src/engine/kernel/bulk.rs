//! As much as goes on one connection: a thread that sends, a thread that receives.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{WAIT, again, connect, listen};
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::Side;

/// Bytes of one call, as iperf3 has it.
const CHUNK: usize = 128 << 10;

pub(super) fn serve(side: &Side, control: &Control) -> io::Result<()> {
    let listener = listen(side)?;
    control.ready();
    let (stream, _) = listener.accept()?;
    flow(&stream, side, control, || control.stopped())
}

pub(super) fn drive(side: &Side, control: &Control) -> io::Result<()> {
    let stream = connect(side.server())?;
    let mut meter = Meter::start(side, control);
    thread::scope(|scope| {
        let flow = scope.spawn(|| flow(&stream, side, control, || control.stopped()));
        while !flow.is_finished() && meter.tick(Instant::now()) {
            thread::sleep(Duration::from_millis(1));
        }
        // ends the calls that wait
        let _ = stream.shutdown(Shutdown::Both);
        let result = flow.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        if meter.over() { Ok(()) } else { result }
    })
}

/// Sends, receives, or both at once, until the other side ends or `stopped`.
fn flow(
    stream: &TcpStream,
    side: &Side,
    control: &Control,
    stopped: impl Fn() -> bool + Copy + Send,
) -> io::Result<()> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    thread::scope(|scope| {
        let sender = side.sends().then(|| scope.spawn(move || send(stream, control, stopped)));
        if side.receives() {
            receive(stream, control, stopped);
        }
        let sent = sender.map_or(Ok(()), thread::ScopedJoinHandle::join);
        sent.map_err(|_| io::Error::other("a thread panicked"))
    })
}

fn send(mut stream: &TcpStream, control: &Control, stopped: impl Fn() -> bool) {
    let data = vec![0x5a; CHUNK];
    while !stopped() {
        match stream.write(&data) {
            Ok(n) => control.work().add_sent(n),
            Err(e) if again(&e) => {}
            // the other side has enough
            Err(_) => break,
        }
    }
}

fn receive(mut stream: &TcpStream, control: &Control, stopped: impl Fn() -> bool) {
    let mut data = vec![0; CHUNK];
    while !stopped() {
        match stream.read(&mut data) {
            Ok(0) => break,
            Ok(n) => control.work().add_received(n),
            Err(e) if again(&e) => {}
            Err(_) => break,
        }
    }
}

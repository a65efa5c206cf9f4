//! Two hosts joined by a memory pair.
#![allow(missing_docs, dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_drivers::device::AnyDevice;
use weft_vserver::config::{self, HostConfig};
use weft_vserver::net::TcpStream;
use weft_vserver::{Devices, Host, Vserver};

/// Longer than anything here takes, so that a lost wake-up fails a test instead of hanging it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn config(text: &str) -> HostConfig {
    config::parse(text, Path::new("test.toml")).unwrap_or_else(|e| panic!("{e}"))
}

pub fn nic(name: &str, mac: u8) -> String {
    format!(
        "[nic.{name}]\ndevice = \"mem-{name}\"\ndriver = \"mem\"\nmac = \"02:00:00:00:00:{mac:02x}\"\n"
    )
}

/// A host over memory, and the far ends of its NICs in order.
pub fn start(text: &str) -> (Host, Vec<AnyDevice>) {
    let config = config(text);
    let names: Vec<_> = config.nics.iter().map(|n| n.name.clone()).collect();
    let host = Host::start(config).unwrap_or_else(|e| panic!("{e}"));
    let peers = names.iter().map(|n| host.take_mem_peer(n).expect("a mem NIC")).collect();
    (host, peers)
}

/// A host on given devices, for the NICs of its configuration in order.
pub fn start_on(text: &str, devices: Vec<AnyDevice>) -> Host {
    let config = config(text);
    let names = config.nics.iter().map(|n| n.name.clone());
    let devices: Devices = names.zip(devices.into_iter().map(|d| vec![d])).collect();
    Host::start_with_devices(config, devices).unwrap_or_else(|e| panic!("{e}"))
}

/// `server` with `web` at 10.0.0.1 and fd00::1, `client` with `c` at 10.0.0.2 and fd00::2.
pub fn pair() -> (Host, Host) {
    let one = |name: &str, mac, n: u8| {
        format!(
            "{}[alias.data0]\nover = \"eth0\"\n[vserver.{name}]\n\
             addresses = [\"data0 10.0.0.{n}/24\", \"data0 fd00::{n}/64\"]\n",
            nic("eth0", mac)
        )
    };
    let (server, peers) = start(&one("web", 1, 1));
    let client = start_on(&one("c", 2, 2), peers);
    (server, client)
}

pub fn vs(host: &Host, name: &str) -> Vserver {
    host.vserver(name).expect("the vserver is configured")
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Waits for what the far side does in its own time: duplicate address detection, mostly.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "no {what} in {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Echoes every connection of a listener until the host stops.
pub fn echo_server(vserver: &Vserver, at: SocketAddr) -> std::thread::JoinHandle<()> {
    let listener = weft_vserver::net::TcpListener::bind(vserver, at).expect("bind");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    })
}

pub fn connect(vserver: &Vserver, to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(vserver, to, PATIENCE)
        .unwrap_or_else(|e| panic!("{} to {to}: {e}", vserver.name()));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Sends `bytes` and wants them back.
pub fn echo(stream: &TcpStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut to = stream;
            to.write_all(bytes).expect("write");
        });
        let mut got = vec![0; bytes.len()];
        let mut from = stream;
        from.read_exact(&mut got).expect("read");
        assert!(got == bytes, "{} bytes came back wrong", bytes.len());
    });
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

//! An echo service that runs on the worker, over the driver of your choice:
//!
//! ```text
//! cargo run --release --example echo -- afxdp-or-tap.toml VSERVER
//! ```
//!
//! Without arguments it asks itself, over memory, and tells what an answer took.

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use weft_vserver::app::{Cx, Service, SocketId, TcpError};
use weft_vserver::config::{self, PollMode};
use weft_vserver::net::TcpStream;
use weft_vserver::{Devices, Host};

/// Port 7 of every address. What the peer does not take yet stays here.
#[derive(Default)]
struct Echo {
    left: HashMap<SocketId, Bytes>,
}

impl Echo {
    /// Sends back what there is, until there is nothing or no room.
    fn pump(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let mut data = self.left.remove(&id).unwrap_or_default();
        loop {
            if data.is_empty() {
                match cx.recv_bytes(id, usize::MAX) {
                    Ok(received) if received.is_empty() => return cx.close(id),
                    Ok(received) => data = received,
                    // Nothing more now, or the connection failed: `closed` tells.
                    Err(_) => return,
                }
            }
            // The frame goes back as it came: no byte is copied.
            let _ = cx.send_bytes(id, &mut data);
            if !data.is_empty() {
                self.left.insert(id, data);
                return;
            }
        }
    }
}

impl Service for Echo {
    fn start(&mut self, cx: &mut Cx<'_>) {
        if let Err(e) = cx.listen("[::]:7".parse().expect("an address"), 1024) {
            eprintln!("echo on worker {}: {e}", cx.worker());
        }
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.pump(cx, id);
    }
    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.pump(cx, id);
    }
    fn closed(&mut self, _: &mut Cx<'_>, id: SocketId, _: Option<TcpError>) {
        self.left.remove(&id);
    }
}

const NIC: &str =
    "[nic.eth0]\ndevice = \"mem0\"\ndriver = \"mem\"\n[alias.data0]\nover = \"eth0\"\n";

/// A second host at the other end of a memory wire asks, with a blocking socket.
fn ask_itself() -> Result<(), Box<dyn Error>> {
    let text = |v: &str, mac: u8, n: u8| {
        let mac = format!("mac = \"02:00:00:00:00:0{mac}\"\n[alias");
        NIC.replace("[alias", &mac)
            + &format!("[vserver.{v}]\naddresses = [\"data0 10.0.0.{n}/24\"]\n")
    };
    let server = Host::start(config::parse(&text("web", 1, 1), Path::new("server"))?)?;
    let wire = server.take_mem_peer("eth0").ok_or("no wire")?;
    let devices = Devices::from([(String::from("eth0"), vec![wire])]);
    let config = config::parse(&text("c", 2, 2), Path::new("client"))?;
    let client = Host::start_with_devices(config, devices)?;
    let web = server.vserver("web").ok_or("no vserver")?;
    let _echo = server.run_service(&web, |_| Echo::default())?;
    let c = client.vserver("c").ok_or("no vserver")?;
    let mut stream = TcpStream::connect(&c, "10.0.0.1:7".parse()?)?;
    stream.set_nodelay(true)?;
    for mode in [PollMode::Interrupt, PollMode::Adaptive, PollMode::Busy] {
        server.set_poll_mode(None, mode)?;
        client.set_poll_mode(None, mode)?;
        let mut took: Vec<_> = (0..20_000)
            .map(|_| {
                let begun = Instant::now();
                stream.write_all(b"x")?;
                stream.read_exact(&mut [0; 1])?;
                Ok(begun.elapsed())
            })
            .collect::<std::io::Result<_>>()?;
        took.sort_unstable();
        println!("{:9} p50 {:?}, p99 {:?}", mode.name(), took[10_000], took[19_800]);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(name)) = (args.next(), args.next()) else { return ask_itself() };
    let host = Host::start(config::parse(&std::fs::read_to_string(&path)?, path.as_ref())?)?;
    let vserver = host.vserver(&name).ok_or("no vserver of that name")?;
    let _echo = host.run_service(&vserver, |_| Echo::default())?;
    println!("echo on port 7 of {name}; enter ends it");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

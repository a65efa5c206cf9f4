//! One listener for vservers behind two gateways, over AF_XDP with several workers: the client has
//! the same address behind both.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as KernelStream, UdpSocket as KernelUdp};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::kernel::{cable, namespace};
use common::{PATIENCE, config};
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_vserver::Host;
use weft_vserver::net::AnyOptions;

const EACH: u8 = 20;
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 9);

/// The kernel as gateway 10.n.255.1 and as the client behind it, on the cable k0 to wn.
fn gateway(n: u8, weft: &Netns) -> Option<Netns> {
    let kernel = namespace()?;
    // The first address is what the kernel speaks from.
    let addresses = [format!("{CLIENT}/24"), format!("10.{n}.255.1/32")];
    cable(&kernel, weft, &format!("w{n}"), 2, &[&addresses[0], &addresses[1]]);
    let route = || Netlink::open().unwrap().add_route([10, n, 0, 0].into(), 16, None, Some("k0"));
    kernel.enter(route).unwrap().unwrap();
    Some(kernel)
}

fn text() -> String {
    let mut text = String::from("[workers]\ncount = 2\nframes = 4096\n");
    for (n, name) in [(1, "red"), (2, "blue")] {
        let _ = write!(
            text,
            "[nic.eth{n}]\ndevice = \"w{n}\"\ndriver = \"af-xdp\"\nqueues = 2\n\
             [alias.data{n}]\nover = \"eth{n}\"\n\
             [vserver.{name}]\ncount = {EACH}\naddresses = [\"data{n} 10.{n}.0.1/16\"]\n\
             routes = [{{ to = \"default\", via = \"10.{n}.255.1\" }}]\n"
        );
    }
    text
}

#[test]
fn one_listener_answers_the_same_client_address_by_the_gateway_of_each_vserver() {
    let Some(weft) = namespace() else { return };
    let (Some(red), Some(blue)) = (gateway(1, &weft), gateway(2, &weft)) else { return };
    let host = match weft.enter(|| Host::start(config(&text()))).unwrap() {
        Ok(host) => host,
        Err(e) => return println!("SKIP: af-xdp: {e}"),
    };
    let listener = host.listen_any(7, &AnyOptions::default()).unwrap();
    let udp = host.bind_any_udp(7, &AnyOptions::default()).unwrap();
    let wait = Some(Duration::from_millis(20));
    listener.set_timeout(wait).unwrap();
    udp.set_timeout(wait).unwrap();
    let (stop, host) = (AtomicBool::new(false), &host);
    let name = |a: weft_vserver::Arrival| host.vserver_of(a.vserver).unwrap().name().to_owned();
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut stream, peer)) = listener.accept() else { continue };
                assert_eq!(peer.ip(), CLIENT);
                stream.write_all(name(stream.arrival().unwrap()).as_bytes()).unwrap();
            }
        });
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((datagram, arrival)) = udp.recv_datagram() else { continue };
                let _ = udp.send_to(name(arrival).as_bytes(), datagram.from, &arrival);
            }
        });
        let asked = [(red, 1u8, "red"), (blue, 2, "blue")].map(|(kernel, n, colour)| {
            s.spawn(move || kernel.enter(move || ask(n, colour)).unwrap())
        });
        let asked = asked.map(std::thread::ScopedJoinHandle::join);
        stop.store(true, Ordering::Relaxed);
        assert!(asked.iter().all(Result::is_ok));
    });
}

/// As the kernel: every vserver by TCP and UDP.
fn ask(n: u8, colour: &str) {
    let socket = KernelUdp::bind((CLIENT, 5353)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    for i in 1..=EACH {
        let to = SocketAddr::from(([10, n, 0, i], 7));
        let mut told = String::new();
        let mut stream = KernelStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.read_to_string(&mut told).unwrap();
        assert_eq!(told, format!("{colour}{i}"));
        let mut buf = [0; 64];
        let answer = (0..20).find_map(|_| {
            socket.send_to(b"?", to).unwrap();
            socket.recv_from(&mut buf).ok().filter(|(_, from)| *from == to)
        });
        let (len, _) = answer.unwrap();
        assert_eq!(&buf[..len], told.as_bytes());
    }
}

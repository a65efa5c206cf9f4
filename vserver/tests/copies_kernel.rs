//! Bytes copied for each byte that crosses to and from the kernel, by the counters: AF_XDP over
//! veth and TAP, in namespaces that the test makes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{
    Shutdown, TcpListener as KernelListener, TcpStream as KernelStream, UdpSocket as KernelUdp,
};

use bytes::Bytes;
use common::kernel::Kernel;
use common::{PATIENCE, addr, connect, vs};
use weft_vserver::Host;
use weft_vserver::net::{TcpListener, TcpStream, UdpSend, UdpSocket};
use weft_vserver::stats::{CopiedPerByte, copied_per_byte};

const BYTES: usize = 8 << 20;
const GATHERING: &str = "gather = \"always\"";

struct Lab {
    kernel: Kernel,
    host: Host,
}

impl Lab {
    /// The kernel at 10.9.0.1, and weft at 10.9.0.2 on the other end of a veth pair.
    fn af_xdp(nic: &str) -> Option<Lab> {
        Lab::start(Kernel::behind_cable(1, &["10.9.0.1/24"])?, nic)
    }

    fn tap() -> Option<Lab> {
        Lab::start(Kernel::beside(&["10.9.0.1/24"])?, "driver = \"tap\"")
    }

    fn start(kernel: Kernel, nic: &str) -> Option<Lab> {
        let host = kernel.start(&format!(
            "[nic.eth0]\ndevice = \"w0\"\n{nic}\n[alias.data0]\nover = \"eth0\"\n\
             [vserver.v]\naddresses = [\"data0 10.9.0.2/24\"]\n"
        ))?;
        Some(Lab { kernel, host })
    }

    /// The kernel reads all that `send` writes.
    fn sends(&self, send: impl Fn(&TcpStream)) -> CopiedPerByte {
        let listener =
            self.kernel.netns.enter(|| KernelListener::bind("10.9.0.1:9")).unwrap().unwrap();
        let out = connect(&vs(&self.host, "v"), addr("10.9.0.1:9"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut from, _) = listener.accept().unwrap();
                from.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut all = Vec::new();
                from.read_to_end(&mut all).unwrap();
                assert!(all.len() == BYTES && all.iter().all(|b| *b == 7));
            });
            send(&out);
            // The last acknowledgement comes before the end of the peer.
            out.shutdown(Shutdown::Write).unwrap();
            assert_eq!((&out).read(&mut [0]).unwrap(), 0);
        });
        copied_per_byte(&self.host.snapshot())
    }

    /// The kernel writes, `receive` reads what it finds and tells how much.
    fn receives(&self, receive: impl Fn(&TcpStream) -> usize) -> CopiedPerByte {
        let listener = TcpListener::bind(&vs(&self.host, "v"), addr("10.9.0.2:9")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut to = self
                    .kernel
                    .netns
                    .enter(|| KernelStream::connect_timeout(&addr("10.9.0.2:9"), PATIENCE))
                    .unwrap()
                    .unwrap();
                to.write_all(&vec![7; BYTES]).unwrap();
            });
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut left = BYTES;
            while left > 0 {
                left -= receive(&stream);
            }
        });
        copied_per_byte(&self.host.snapshot())
    }
}

fn pool_memory(stream: &TcpStream) {
    let mut left = BYTES;
    while left > 0 {
        // A refusal ends when the peer acknowledges what is held.
        let Some(mut buf) = stream.alloc(2048.min(left)) else {
            std::thread::yield_now();
            continue;
        };
        buf.fill(7);
        left -= buf.len();
        let mut data = buf.freeze();
        while !data.is_empty() {
            stream.send_bytes(&mut data).unwrap();
        }
    }
}

fn written(stream: &TcpStream) {
    let mut to = stream;
    to.write_all(&vec![7; BYTES]).unwrap();
}

fn view(stream: &TcpStream) -> usize {
    let view = stream.recv_bytes(usize::MAX).unwrap();
    assert!(view.iter().all(|b| *b == 7));
    view.len()
}

fn read(stream: &TcpStream) -> usize {
    let mut from = stream;
    from.read(&mut [0; 16 << 10]).unwrap()
}

/// Datagrams that each side sends to the other.
const DATAGRAMS: usize = 200;

/// The kernel reads each datagram that `send` makes, and answers; `receive` reads the answer.
fn datagrams(lab: &Lab, send: impl Fn(&UdpSocket), receive: impl Fn(&UdpSocket)) -> CopiedPerByte {
    let kernel = lab.kernel.netns.enter(|| KernelUdp::bind("10.9.0.1:9")).unwrap().unwrap();
    kernel.set_read_timeout(Some(PATIENCE)).unwrap();
    let socket = UdpSocket::bind(&vs(&lab.host, "v"), addr("10.9.0.2:9")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(addr("10.9.0.1:9")).unwrap();
    for _ in 0..DATAGRAMS {
        send(&socket);
        let mut buf = [0; 2000];
        let (len, from) = kernel.recv_from(&mut buf).unwrap();
        assert!(buf[..len] == [7; 1200]);
        kernel.send_to(&buf[..len], from).unwrap();
        receive(&socket);
    }
    copied_per_byte(&lab.host.snapshot())
}

/// Datagrams from pool memory, and views of those that come back.
fn check_datagrams(lab: &Lab) {
    let send = |socket: &UdpSocket| {
        let mut buf = socket.alloc(1200).unwrap();
        buf.fill(7);
        socket.send_bytes(&buf.freeze(), &UdpSend::default()).unwrap();
    };
    let receive = |socket: &UdpSocket| {
        let (view, _) = socket.recv_bytes().unwrap();
        assert!(view[..] == [7; 1200]);
    };
    let copied = datagrams(lab, send, receive);
    assert_eq!((copied.sent, copied.device_sent, copied.received), (0.0, 0.0, 0.0), "{copied}");
    // Broadcast comes to the device as a copy.
    assert!(copied.device_received < 0.01, "{copied}");
}

/// Up to 256 bytes at the end of a burst are copied behind the header.
const ENDS_OF_BURSTS: f64 = 0.001;

#[test]
fn pool_memory_leaves_over_af_xdp_without_a_copy() {
    let Some(lab) = Lab::af_xdp(GATHERING) else { return };
    let copied = lab.sends(pool_memory);
    assert!(copied.sent < ENDS_OF_BURSTS && copied.device_sent < ENDS_OF_BURSTS, "{copied}");
}

#[test]
fn other_memory_is_copied_once_into_the_umem() {
    let Some(lab) = Lab::af_xdp("") else { return };
    let copied = lab.sends(|stream| {
        stream.send_bytes(&mut Bytes::from(vec![7; BYTES])).unwrap();
    });
    assert!(copied.sent < ENDS_OF_BURSTS && copied.device_sent <= 1.0, "{copied}");
}

#[test]
fn frames_of_af_xdp_are_views_to_the_reader() {
    let Some(lab) = Lab::af_xdp("") else { return };
    let copied = lab.receives(view);
    assert!(copied.received == 0.0 && copied.device_received < ENDS_OF_BURSTS, "{copied}");
}

#[test]
fn reading_from_af_xdp_copies_once() {
    let Some(lab) = Lab::af_xdp("") else { return };
    let copied = lab.receives(read);
    assert_eq!((copied.received, copied.sent), (1.0, 0.0));
    assert!(copied.device_received < ENDS_OF_BURSTS, "{copied}");
}

#[test]
fn tap_sends_from_where_the_bytes_lie_and_gives_views() {
    let Some(lab) = Lab::tap() else { return };
    let copied = lab.sends(pool_memory);
    assert!(copied.sent < ENDS_OF_BURSTS && copied.device_sent == 0.0, "{copied}");
    let Some(lab) = Lab::tap() else { return };
    let copied = lab.receives(view);
    // What a unit has in a large buffer is copied out if that were nearly empty.
    assert!(copied.received == 0.0 && copied.device_received < 0.1, "{copied}");
}

#[test]
fn writing_to_tap_and_reading_copy_once() {
    let Some(lab) = Lab::tap() else { return };
    let copied = lab.sends(written);
    let range = 1.0..1.0 + ENDS_OF_BURSTS;
    assert!(range.contains(&copied.sent) && copied.device_sent < ENDS_OF_BURSTS, "{copied}");
    let Some(lab) = Lab::tap() else { return };
    let copied = lab.receives(read);
    assert_eq!((copied.received, copied.sent), (1.0, 0.0));
    assert!(copied.device_received < 0.1, "{copied}");
}

#[test]
fn datagrams_cross_af_xdp_without_a_copy_in_any_mode() {
    for nic in ["", GATHERING] {
        let Some(lab) = Lab::af_xdp(nic) else { return };
        check_datagrams(&lab);
    }
}

#[test]
fn datagrams_cross_tap_without_a_copy() {
    let Some(lab) = Lab::tap() else { return };
    check_datagrams(&lab);
}

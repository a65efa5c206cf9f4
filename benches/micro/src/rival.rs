//! smoltcp in the place of [`crate::receive::Receiver`], with the same frames.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::peer::{self, End, HOST, HOST_MAC, MSS, PEER, PORT};
use crate::receive::Delivery;

/// Buffers of each direction, as large as weft's grow to in this harness at most.
const BUFFER_BYTES: usize = 1 << 20;

/// Two queues in memory.
#[derive(Default)]
struct Wire {
    arrived: VecDeque<Vec<u8>>,
    /// The last frame that was sent.
    sent: Vec<u8>,
}

/// A frame that arrived.
struct Rx(Vec<u8>);

/// Where a frame to send goes.
struct Tx<'a>(&'a mut Vec<u8>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.resize(len, 0);
        f(self.0)
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((Rx(frame), Tx(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.sent))
    }
}

/// smoltcp taking in full segments, in order, of one connection.
pub struct Receiver {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    id: SocketHandle,
    now_us: i64,
    peer: End,
    delivery: Delivery,
    buffer: Vec<u8>,
    payload: Vec<u8>,
}

impl Receiver {
    /// Connected, nothing received yet.
    ///
    /// # Panics
    /// If the handshake fails.
    pub fn new(delivery: Delivery) -> Receiver {
        let mut wire = Wire::default();
        let mut config = Config::new(EthernetAddress(HOST_MAC).into());
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addrs| {
            addrs.push(IpCidr::new(HOST.into(), 8)).expect("room for an address");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(PORT).expect("a fresh socket");
        let mut sockets = SocketSet::new(Vec::new());
        let id = sockets.add(socket);
        let mut receiver = Receiver {
            wire,
            interface,
            sockets,
            id,
            now_us: 1000,
            peer: End::new(PEER, 4000),
            delivery,
            buffer: vec![0; 64 * MSS],
            payload: (0..MSS).map(|i| i as u8).collect(),
        };
        // It learns the neighbour from the request.
        receiver.deliver(peer::arp_request());
        let syn = receiver.peer.syn();
        receiver.deliver(syn);
        receiver.peer.hear(&receiver.wire.sent);
        let ack = receiver.peer.acknowledge(1, receiver.peer.ack);
        receiver.deliver(ack);
        assert!(receiver.sockets.get::<tcp::Socket<'_>>(id).may_recv(), "connected");
        for _ in 0..32 {
            receiver.load(16);
            assert_eq!(receiver.run(), 16 * MSS, "all of it is delivered");
        }
        receiver
    }

    fn deliver(&mut self, frame: Vec<u8>) {
        self.wire.arrived.push_back(frame);
        self.run();
    }

    /// As [`crate::receive::Receiver::load`].
    pub fn load(&mut self, count: usize) {
        self.now_us += count as i64;
        for _ in 0..count {
            let frame = self.peer.data(self.now_us as u64 / 1000, &self.payload);
            self.wire.arrived.push_back(frame);
        }
    }

    /// As [`crate::receive::Receiver::run`].
    pub fn run(&mut self) -> usize {
        let now = Instant::from_micros(self.now_us);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.id);
        let mut got = 0;
        while socket.can_recv() {
            got += match self.delivery {
                Delivery::Copied => socket.recv_slice(&mut self.buffer),
                Delivery::InPlace | Delivery::Views => socket.recv(|view| (view.len(), view.len())),
            }
            .unwrap_or(0);
        }
        got
    }
}

//! One flow received by one stack: the sender's segments are made beforehand.

use std::net::{Ipv4Addr, SocketAddr};

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool};
use weft_stack::link::gro::{BurstFacts, Gro, Takes};
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, TxBurst};
use weft_stack::time::{Duration, Instant};

use crate::peer::{self, ALIAS, End, HOST, MSS, PEER, PORT, START};

/// How the application takes what arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Copied into its buffer.
    Copied,
    /// As views of the frames, to keep (weft), or looked at in place (smoltcp).
    Views,
    /// Looked at in place.
    InPlace,
}

/// A stack that takes in full segments, in order, of one connection.
pub struct Receiver {
    stack: Stack,
    pool: FramePool,
    now: Instant,
    id: SocketId,
    peer: End,
    gro: Gro,
    merging: bool,
    frames: Vec<((), Option<Frame>)>,
    burst: TxBurst,
    delivery: Delivery,
    buffer: Vec<u8>,
    payload: Vec<u8>,
}

impl Receiver {
    /// Connected, with an open window; `merging`: bursts are merged before the stack.
    ///
    /// # Panics
    /// If the handshake fails.
    pub fn new(delivery: Delivery, merging: bool) -> Receiver {
        Receiver::beside(delivery, merging, 0)
    }

    /// As [`Receiver::new`], beside `idle` connections that say nothing.
    ///
    /// # Panics
    /// If a handshake fails.
    pub fn beside(delivery: Delivery, merging: bool, idle: usize) -> Receiver {
        let (mut stack, pool) = peer::host(0, 1 + idle);
        let now = START;
        let any = SocketAddr::new(HOST.into(), PORT);
        let listener = stack.tcp_listen(now, any, 64).expect("the port is free");
        for i in 0..idle as u32 {
            open_nth(&mut stack, &pool, now, listener, i);
        }
        let mut peer = End::new(PEER, 4000);
        let id = open(&mut stack, &pool, now, listener, &mut peer);
        let mut receiver = Receiver {
            stack,
            pool,
            gro: Gro::default(),
            merging,
            now,
            id,
            peer,
            frames: Vec::with_capacity(64),
            burst: TxBurst::new(64),
            delivery,
            buffer: vec![0; 64 * MSS],
            payload: (0..MSS).map(|i| i as u8).collect(),
        };
        // The window opens beyond what a SYN can say.
        for _ in 0..32 {
            receiver.load(16);
            assert_eq!(receiver.run(), 16 * MSS, "all of it is delivered");
            receiver.rest();
        }
        receiver
    }

    /// The next `count` segments arrive at the driver, up to 64.
    pub fn load(&mut self, count: usize) {
        self.now += Duration::from_micros(count as u64);
        for _ in 0..count {
            let bytes = self.peer.data(self.now.as_millis(), &self.payload);
            self.frames.push(((), Some(peer::received(&self.pool, &bytes))));
        }
    }

    /// What is measured: the receive path, acknowledgement and delivery. Returns the bytes that the
    /// application got.
    pub fn run(&mut self) -> usize {
        if self.merging {
            let facts = BurstFacts { ethernet: true, trust: false };
            self.gro.merge(&mut self.frames, facts, |()| Takes::Units);
        }
        for ((), frame) in self.frames.drain(..) {
            // Merged into an earlier one.
            let Some(frame) = frame else { continue };
            self.stack.handle_frame(self.now, ALIAS, frame);
        }
        while self.stack.poll_event().is_some() {}
        let mut got = 0;
        match self.delivery {
            Delivery::Copied => {
                while let Ok(n @ 1..) = self.stack.tcp_recv(self.now, self.id, &mut self.buffer) {
                    got += n;
                }
            }
            Delivery::InPlace => {
                let look = |piece: &[u8]| {
                    std::hint::black_box(piece);
                };
                while let Ok(n @ 1..) =
                    self.stack.tcp_recv_in_place(self.now, self.id, usize::MAX, look)
                {
                    got += n;
                }
            }
            Delivery::Views => {
                while let Ok(view) = self.stack.tcp_recv_bytes(self.now, self.id, usize::MAX)
                    && !view.is_empty()
                {
                    got += view.len();
                }
            }
        }
        self.stack.poll_transmit(self.now, &mut self.burst);
        self.burst.frames.clear();
        got
    }

    /// Runs what time has brought, outside of what is measured.
    pub fn rest(&mut self) {
        if self.stack.poll_timeout().is_some_and(|at| at <= self.now) {
            self.stack.handle_timeout(self.now);
        }
    }
}

/// Makes the connection of peer number `n` of many and accepts it.
///
/// # Panics
/// If the handshake fails.
pub fn open_nth(
    stack: &mut Stack,
    pool: &FramePool,
    now: Instant,
    listener: SocketId,
    n: u32,
) -> End {
    // The peer answers for whom it is a gateway.
    let mut end = End::new(PEER, 5000 + (n % 60_000) as u16);
    end.seq += n;
    if n >= 60_000 {
        end.addr = Ipv4Addr::from(u32::from(PEER) + 256 + n / 60_000);
        let (addr, mac) = (end.addr.into(), peer::PEER_MAC);
        let pin = Change::NeighbourAdd { alias: ALIAS, addr, mac };
        stack.handle_config(now, pin).expect("room for a neighbour");
    }
    open(stack, pool, now, listener, &mut end);
    end
}

/// Makes a connection of `peer` to a listening stack and accepts it.
///
/// # Panics
/// If the handshake fails.
pub fn open(
    stack: &mut Stack,
    pool: &FramePool,
    now: Instant,
    listener: SocketId,
    peer: &mut End,
) -> SocketId {
    let mut burst = TxBurst::new(4);
    stack.handle_frame(now, ALIAS, peer::received(pool, &peer.syn()));
    stack.poll_transmit(now, &mut burst);
    let (_, answer) = burst.frames.pop().expect("a SYN-ACK");
    peer.hear(answer.data());
    let ack = peer.acknowledge(now.as_millis(), peer.ack);
    stack.handle_frame(now, ALIAS, peer::received(pool, &ack));
    while stack.poll_event().is_some() {}
    stack.tcp_accept(listener).expect("the handshake is done").id
}

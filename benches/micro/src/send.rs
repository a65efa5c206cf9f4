//! One flow sent by one stack to a peer that acknowledges every second segment.

use std::net::SocketAddr;

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool};
use weft_stack::seq::SeqNum;
use weft_stack::socket::SocketId;
use weft_stack::stack::TxBurst;
use weft_stack::time::{Duration, Instant};

use crate::peer::{self, ALIAS, End, HOST, MSS, PEER, PORT, START};
use crate::receive::open;

/// Segments of a round.
const ROUND: usize = 32;

/// A stack that sends full segments of one connection.
pub struct Sender {
    stack: Stack,
    pool: FramePool,
    now: Instant,
    id: SocketId,
    peer: End,
    /// Acknowledged so far.
    una: SeqNum,
    /// Sent so far.
    nxt: SeqNum,
    acks: Vec<Frame>,
    burst: TxBurst,
    data: Vec<u8>,
}

impl Sender {
    /// Connected, and with a window that takes a round; super-segments up to `gso_bytes_max`.
    ///
    /// # Panics
    /// If the handshake fails.
    pub fn new(gso_bytes_max: usize) -> Sender {
        let (mut stack, pool) = peer::host(gso_bytes_max, 1);
        let now = START;
        let any = SocketAddr::new(HOST.into(), PORT);
        let listener = stack.tcp_listen(now, any, 4).expect("the port is free");
        let mut peer = End::new(PEER, 4000);
        let id = open(&mut stack, &pool, now, listener, &mut peer);
        let nxt = peer.ack;
        let mut sender = Sender {
            stack,
            pool,
            now,
            id,
            peer,
            una: nxt,
            nxt,
            acks: Vec::with_capacity(ROUND),
            burst: TxBurst::new(64),
            data: vec![0x5a; ROUND * MSS],
        };
        // Slow start.
        for _ in 0..40 {
            sender.fill();
            sender.send();
            sender.load_acks(2);
            sender.take_acks();
        }
        sender
    }

    /// The application writes a round.
    ///
    /// # Panics
    /// If the send buffer is full.
    pub fn fill(&mut self) {
        let n = self.stack.tcp_send(self.now, self.id, &self.data);
        assert_eq!(n, Ok(ROUND * MSS), "room for a round");
    }

    /// Everything written leaves; returns how many segments that are, cut or not.
    pub fn send(&mut self) -> usize {
        let mut bytes = 0;
        while bytes < ROUND * MSS {
            self.stack.poll_transmit(self.now, &mut self.burst);
            if self.burst.frames.is_empty() {
                // Paced, or the window is full.
                self.wait();
            }
            for (_, frame) in self.burst.frames.drain(..) {
                let len = frame.total_len() - peer::IP_END - 32;
                bytes += len;
                self.peer.hear(frame.data());
                self.nxt += len as u32;
            }
        }
        ROUND
    }

    fn wait(&mut self) {
        match self.stack.poll_timeout() {
            Some(at) if at < self.now + Duration::from_millis(1) => {
                self.now = self.now.max(at);
                self.stack.handle_timeout(self.now);
            }
            // A window that has not opened yet.
            _ => {
                self.load_acks(2);
                self.take_acks();
            }
        }
    }

    /// Acknowledgements of what is in flight, each of `segments`, arrive at the driver.
    pub fn load_acks(&mut self, segments: usize) {
        self.now += Duration::from_micros(100);
        while self.una < self.nxt {
            let step = (segments * MSS).min((self.nxt - self.una) as usize);
            self.una += step as u32;
            let ack = self.peer.acknowledge(self.now.as_millis(), self.una);
            self.acks.push(peer::received(&self.pool, &ack));
        }
    }

    /// They are processed; returns how many.
    pub fn take_acks(&mut self) -> usize {
        let count = self.acks.len();
        for frame in self.acks.drain(..) {
            self.stack.handle_frame(self.now, ALIAS, frame);
        }
        while self.stack.poll_event().is_some() {}
        count
    }
}

//! What `weft-count` counts, one after the other.

use std::net::SocketAddr;

use weft_stack::stack::TxBurst;
use weft_stack::time::Duration;

use crate::pair::Pair;
use crate::peer::{self, ALIAS, End, HOST, MSS, PEER, PORT, START};
use crate::receive::{Delivery, Receiver, open, open_nth};
use crate::send::Sender;
use crate::shim::{Hosts, Many, Way};

/// Runs `f`; callgrind counts only what happens in here, by the name of this function.
#[inline(never)]
pub fn measured(f: &mut dyn FnMut()) {
    f();
}

/// Something to be counted.
pub struct Scenario {
    /// Its name in the baseline.
    pub name: &'static str,
    /// What the count is divided by.
    pub unit: &'static str,
    /// Calls [`measured`] and returns the number of units that it worked on.
    pub run: fn() -> usize,
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "receive_segment", unit: "segment", run: || receive(64, Delivery::Views) },
    Scenario {
        name: "receive_segment_by_two",
        unit: "segment",
        run: || receive(2, Delivery::Views),
    },
    Scenario {
        name: "receive_segment_copied",
        unit: "segment",
        run: || receive(64, Delivery::Copied),
    },
    Scenario { name: "receive_segment_merged", unit: "segment", run: || merged(Delivery::Views) },
    Scenario {
        name: "receive_segment_in_place",
        unit: "segment",
        run: || merged(Delivery::InPlace),
    },
    Scenario { name: "receive_ack", unit: "ACK", run: acks },
    Scenario { name: "send_segment", unit: "segment", run: || send(0) },
    Scenario { name: "send_in_super_segments", unit: "segment", run: || send(64_000) },
    Scenario { name: "request_response_1_byte", unit: "round trip, both ends", run: round_trips },
    Scenario { name: "connect_and_close", unit: "connection, both ends", run: connections },
    Scenario { name: "udp_echo_64_bytes", unit: "datagram", run: udp_echo },
    Scenario { name: "arp_answer", unit: "request", run: arp },
    Scenario { name: "delayed_ack_timer", unit: "segment and timeout", run: timers },
    Scenario { name: "flow_lookup_of_20000", unit: "bare ACK", run: || lookup(20_000) },
    Scenario { name: "shim_off", unit: SHIM_UNIT, run: || shim_trips(Way::Off) },
    Scenario { name: "shim_plain", unit: SHIM_UNIT, run: || shim_trips(Way::Plain) },
    Scenario { name: "shim_rewritten", unit: SHIM_UNIT, run: || shim_trips(Way::Rewritten) },
    Scenario { name: "shim_udp", unit: SHIM_UNIT, run: || shim_trips(Way::Udp) },
    Scenario { name: "shim_off_bulk", unit: BULK_UNIT, run: || shim_bulk(Way::Off) },
    Scenario { name: "shim_plain_bulk", unit: BULK_UNIT, run: || shim_bulk(Way::Plain) },
    Scenario { name: "shim_rewritten_bulk", unit: BULK_UNIT, run: || shim_bulk(Way::Rewritten) },
    Scenario { name: "shim_udp_bulk", unit: BULK_UNIT, run: || shim_bulk(Way::Udp) },
    Scenario {
        name: "shim_packets_of_100",
        unit: "packet out and packet in",
        run: || shim_packets(100),
    },
    Scenario {
        name: "shim_packets_of_100000",
        unit: "packet out and packet in",
        run: || shim_packets(100_000),
    },
];

const SHIM_UNIT: &str = "round trip, both ends";
/// Of payload: how much a segment holds depends on the way.
const BULK_UNIT: &str = "KiB, both ends";

fn shim_trips(way: Way) -> usize {
    const ROUND_TRIPS: usize = 200;
    let mut hosts = Hosts::new(way);
    (0..50).for_each(|_| hosts.ping_pong());
    measured(&mut || (0..ROUND_TRIPS).for_each(|_| hosts.ping_pong()));
    ROUND_TRIPS
}

fn shim_bulk(way: Way) -> usize {
    let mut hosts = Hosts::new(way);
    let data = vec![0x5a; 1 << 20];
    let mut read = vec![0; 256 << 10];
    hosts.bulk(&data, &mut read);
    measured(&mut || hosts.bulk(&data, &mut read));
    data.len() >> 10
}

fn shim_packets(count: usize) -> usize {
    const PACKETS: usize = 1000;
    let mut many = Many::new(count);
    // The first packet of each sets its timers.
    (0..count.max(PACKETS)).for_each(|_| many.packets());
    measured(&mut || (0..PACKETS).for_each(|_| many.packets()));
    PACKETS
}

fn receive(batch: usize, delivery: Delivery) -> usize {
    let mut receiver = Receiver::new(delivery, false);
    let mut segments = 0;
    for round in 0..512 / batch + 8 {
        receiver.load(batch);
        if round < 8 {
            receiver.run();
        } else {
            let mut got = 0;
            measured(&mut || got = receiver.run());
            assert_eq!(got, batch * MSS, "all of it is delivered");
            segments += batch;
        }
        receiver.rest();
    }
    segments
}

fn merged(delivery: Delivery) -> usize {
    let segments = 44;
    let mut receiver = Receiver::new(delivery, true);
    for round in 0..40 {
        receiver.load(segments);
        if round < 8 {
            receiver.run();
        } else {
            let mut got = 0;
            measured(&mut || got = receiver.run());
            assert_eq!(got, segments * MSS, "all of it is delivered");
        }
        receiver.rest();
    }
    32 * segments
}

fn acks() -> usize {
    let mut sender = Sender::new(0);
    let mut acks = 0;
    for _ in 0..32 {
        sender.fill();
        sender.send();
        sender.load_acks(2);
        measured(&mut || acks += sender.take_acks());
    }
    acks
}

fn send(gso_bytes_max: usize) -> usize {
    let mut sender = Sender::new(gso_bytes_max);
    let mut segments = 0;
    for _ in 0..16 {
        sender.fill();
        measured(&mut || segments += sender.send());
        sender.load_acks(2);
        sender.take_acks();
    }
    segments
}

fn round_trips() -> usize {
    const ROUND_TRIPS: usize = 200;
    let mut pair = Pair::new(1, 0);
    (0..50).for_each(|_| pair.ping_pong(0));
    measured(&mut || (0..ROUND_TRIPS).for_each(|_| pair.ping_pong(0)));
    ROUND_TRIPS
}

fn connections() -> usize {
    const CONNECTIONS: usize = 100;
    let mut pair = Pair::new(1, 0);
    (0..20).for_each(|_| pair.open_and_close());
    measured(&mut || (0..CONNECTIONS).for_each(|_| pair.open_and_close()));
    CONNECTIONS
}

fn udp_echo() -> usize {
    const DATAGRAMS: usize = 200;
    let (mut stack, pool) = peer::host(0, 1);
    let mut now = START;
    let id = stack.udp_bind(now, SocketAddr::new(HOST.into(), PORT)).expect("the port is free");
    let mut burst = TxBurst::new(64);
    let bytes = peer::datagram(4000, &[7; 64]);
    for i in 0..DATAGRAMS + 50 {
        let mut frame = Some(peer::received(&pool, &bytes));
        now += Duration::from_micros(10);
        let mut echo = || {
            stack.handle_frame(now, ALIAS, frame.take().expect("once"));
            while stack.poll_event().is_some() {}
            let datagram = stack.udp_recv(id).expect("it is there");
            let sent = stack.udp_send(now, id, &datagram.payload, Some(datagram.from));
            assert_eq!(sent, Ok(()));
            assert_eq!(stack.poll_transmit(now, &mut burst), 1);
            burst.frames.clear();
        };
        if i < 50 {
            echo();
        } else {
            measured(&mut echo);
        }
    }
    DATAGRAMS
}

fn arp() -> usize {
    let (mut stack, pool) = peer::host(0, 1);
    let mut now = START;
    let mut burst = TxBurst::new(64);
    for _ in 0..64 {
        let mut frame = Some(peer::received(&pool, &peer::arp_request()));
        now += Duration::from_secs(1);
        burst.frames.clear();
        measured(&mut || {
            stack.handle_frame(now, ALIAS, frame.take().expect("once"));
            stack.poll_transmit(now, &mut burst);
        });
    }
    64
}

/// A lone segment each, whose acknowledgement leaves by the timer.
fn timers() -> usize {
    let (mut stack, pool) = peer::host(0, 1);
    let mut now = START;
    let any = SocketAddr::new(HOST.into(), PORT);
    let listener = stack.tcp_listen(now, any, 4).expect("the port is free");
    let mut end = End::new(PEER, 4000);
    let id = open(&mut stack, &pool, now, listener, &mut end);
    let mut burst = TxBurst::new(64);
    let mut byte = [0];
    for i in 0..80 {
        now += Duration::from_micros(500);
        let mut frame = Some(peer::received(&pool, &end.data(now.as_millis(), &[1])));
        let mut turn = || {
            stack.handle_frame(now, ALIAS, frame.take().expect("once"));
            assert_eq!(stack.tcp_recv(now, id, &mut byte), Ok(1));
            // The first segment opens the window beyond that of a SYN, which is told at once.
            let waits = stack.poll_transmit(now, &mut burst) == 0;
            assert!(waits || i == 0, "the ACK waits");
            now = now.max(stack.poll_timeout().expect("for its timer"));
            stack.handle_timeout(now);
            stack.poll_transmit(now, &mut burst);
            burst.frames.clear();
        };
        if i < 16 {
            turn();
        } else {
            measured(&mut turn);
        }
    }
    64
}

/// Bare ACKs that find one of many idle connections and say nothing new.
pub fn lookup(count: usize) -> usize {
    let mut lookups = Lookups::new(count);
    for i in 0..320 {
        lookups.load();
        if i < 64 {
            lookups.run();
        } else {
            measured(&mut || lookups.run());
        }
    }
    256
}

/// A stack with many idle connections, any of which a bare ACK may be for.
pub struct Lookups {
    stack: weft_stack::Stack,
    pool: weft_stack::frame::FramePool,
    ends: Vec<End>,
    at: usize,
    frame: Option<weft_stack::frame::Frame>,
}

impl Lookups {
    /// With `count` connections.
    ///
    /// # Panics
    /// If one cannot be made.
    pub fn new(count: usize) -> Lookups {
        let (mut stack, pool) = peer::host(0, count);
        let now = START;
        let any = SocketAddr::new(HOST.into(), PORT);
        let listener = stack.tcp_listen(now, any, 64).expect("the port is free");
        let ends = (0..count as u32).map(|n| open_nth(&mut stack, &pool, now, listener, n));
        let ends = ends.collect();
        Lookups { stack, pool, ends, at: 0, frame: None }
    }

    /// The ACK of another connection arrives at the driver.
    pub fn load(&mut self) {
        self.at = (self.at + 7919) % self.ends.len();
        let end = &mut self.ends[self.at];
        let ack = end.acknowledge(1, end.ack);
        self.frame = Some(peer::received(&self.pool, &ack));
    }

    /// It is processed.
    pub fn run(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.stack.handle_frame(START + Duration::from_millis(1), ALIAS, frame);
        }
    }
}

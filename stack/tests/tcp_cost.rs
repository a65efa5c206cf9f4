//! What an established connection costs the allocator: blocks of the send buffer, nothing per
//! segment.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};

use allocation_counter::measure;
use weft_stack::Stack;
use weft_stack::frame::FramePool;
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::Instant;

const ALIAS: AliasId = AliasId(0);

/// Two stacks; frames are copied between two pools, as two NICs do.
struct Pair {
    stacks: [Stack; 2],
    pools: [FramePool; 2],
    burst: TxBurst,
    now: Instant,
    frames: usize,
}

fn addr(host: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, host as u8 + 1])
}

impl Pair {
    fn new() -> Pair {
        let pools = [FramePool::heap(4096, 2048), FramePool::heap(4096, 2048)];
        let now = Instant::from_millis(1);
        let make = |host: usize| {
            let config = StackConfig { seed: [host as u8; 16], ..Default::default() };
            let mut stack = Stack::new(config, pools[host].clone(), now);
            let alias = AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip);
            stack.handle_config(now, Change::AliasAdd(alias)).unwrap();
            let cidr = Cidr::new(addr(host), 24).unwrap();
            stack.handle_config(now, Change::AddressAdd { alias: ALIAS, cidr }).unwrap();
            stack
        };
        let stacks = [make(0), make(1)];
        Pair { stacks, pools, burst: TxBurst::new(64), now, frames: 0 }
    }

    /// Frames go to and fro until none is left.
    fn exchange(&mut self) {
        loop {
            let mut moved = 0;
            for host in 0..2 {
                self.now += std::time::Duration::from_micros(50);
                let n = self.stacks[host].poll_transmit(self.now, &mut self.burst);
                for (alias, frame) in self.burst.frames.drain(..) {
                    let mut copy = self.pools[1 - host].alloc().unwrap();
                    frame.copy_to(copy.push_back(frame.total_len()));
                    self.stacks[1 - host].handle_frame(self.now, alias, copy);
                }
                moved += n;
                while self.stacks[host].poll_event().is_some() {}
            }
            self.frames += moved;
            if moved == 0 {
                return;
            }
        }
    }

    fn connect(&mut self) -> (SocketId, SocketId) {
        let to = SocketAddr::new(addr(1), 80);
        let listener = self.stacks[1].tcp_listen(self.now, to, 4).unwrap();
        let client = self.stacks[0].tcp_connect(self.now, None, to).unwrap();
        self.exchange();
        let server = self.stacks[1].tcp_accept(listener).unwrap().id;
        self.stacks[1].tcp_close(self.now, listener);
        (client, server)
    }
}

#[test]
fn bulk_data_costs_nothing() {
    let mut pair = Pair::new();
    let (client, server) = pair.connect();
    let data = vec![7; 64 << 10];
    let mut out = vec![0; 64 << 10];
    let mut round = |pair: &mut Pair| {
        let now = pair.now;
        assert_eq!(pair.stacks[0].tcp_send(now, client, &data), Ok(data.len()));
        let mut got = 0;
        while got < data.len() {
            pair.exchange();
            while let Ok(n) = pair.stacks[1].tcp_recv(pair.now, server, &mut out) {
                got += n;
            }
        }
    };
    (0..50).for_each(|_| round(&mut pair));
    let before = pair.frames;
    let cost = measure(|| (0..100).for_each(|_| round(&mut pair)));
    let frames = pair.frames - before;
    assert!(frames > 4500, "{frames}");
    assert_eq!(cost.count_total, 0, "allocations for {frames} frames");
    assert_eq!(pair.stacks[0].mib().tcp.retrans_segs, 0);
}

#[test]
fn a_small_question_and_answer_costs_nothing() {
    let mut pair = Pair::new();
    let (client, server) = pair.connect();
    let mut out = [0; 256];
    let mut round = |pair: &mut Pair| {
        for (host, from, to) in [(0, client, server), (1, server, client)] {
            assert_eq!(pair.stacks[host].tcp_send(pair.now, from, &[1; 100]), Ok(100));
            pair.exchange();
            assert_eq!(pair.stacks[1 - host].tcp_recv(pair.now, to, &mut out), Ok(100));
        }
    };
    (0..500).for_each(|_| round(&mut pair));
    let cost = measure(|| (0..1000).for_each(|_| round(&mut pair)));
    assert_eq!(cost.count_total, 0);
}

#[test]
fn views_of_received_frames_cost_their_owner() {
    let mut pair = Pair::new();
    let (client, server) = pair.connect();
    let data = vec![7; 64 << 10];
    let mut views = Vec::with_capacity(64);
    let mut round = |pair: &mut Pair| -> u64 {
        let now = pair.now;
        assert_eq!(pair.stacks[0].tcp_send(now, client, &data), Ok(data.len()));
        let (mut got, mut count) = (0, 0);
        while got < data.len() {
            pair.exchange();
            while let Ok(view) = pair.stacks[1].tcp_recv_bytes(pair.now, server, usize::MAX) {
                got += view.len();
                views.push(view);
            }
            count += views.len() as u64;
            views.clear();
        }
        count
    };
    (0..50).for_each(|_| assert!(round(&mut pair) > 0));
    let (mut views, copied) = (0, pair.stacks[1].mib().tcp.rcv_copied_octets);
    let cost = measure(|| views = (0..100).map(|_| round(&mut pair)).sum());
    assert!(views > 4500, "{views}");
    assert_eq!(cost.count_total, views);
    assert_eq!(pair.stacks[1].mib().tcp.rcv_copied_octets, copied);
}

#[test]
fn an_idle_stack_costs_nothing() {
    let mut pair = Pair::new();
    pair.connect();
    let mut burst = TxBurst::new(64);
    let cost = measure(|| {
        for _ in 0..10_000 {
            pair.now += std::time::Duration::from_millis(20);
            for stack in &mut pair.stacks {
                while let Some(at) = stack.poll_timeout().filter(|at| *at <= pair.now) {
                    stack.handle_timeout(at);
                }
                stack.poll_transmit(pair.now, &mut burst);
                burst.frames.clear();
                while stack.poll_event().is_some() {}
            }
        }
    });
    assert_eq!(cost.count_total, 0);
}

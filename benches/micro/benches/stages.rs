//! Stages by themselves: what reads headers, sums, finds flows, answers.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weft_micro::peer::{End, IP_END, PEER};
use weft_micro::scenario::{Lookups, SCENARIOS};
use weft_micro::send::Sender;
use weft_stack::seq::SeqNum;
use weft_stack::wire::checksum;
use weft_stack::wire::tcp::Header;

fn header(c: &mut Criterion) {
    let mut end = End::new(PEER, 4000);
    let segment = end.acknowledge(1, SeqNum(7));
    let tcp = &segment[IP_END..];
    c.bench_function("tcp_header_parse", |b| b.iter(|| Header::parse(black_box(tcp))));
    let (header, len) = Header::parse(tcp).expect("a header");
    let mut out = vec![0; len];
    c.bench_function("tcp_header_emit", |b| b.iter(|| header.emit(black_box(&mut out))));
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    let data: Vec<u8> = (0..1 << 16).map(|i| i as u8).collect();
    for len in [20, 64, 1460, 9000, 1 << 16] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len}"), |b| {
            b.iter(|| checksum::sum(black_box(&data[..len])));
        });
        let mut copy = vec![0; len];
        group.bench_function(format!("{len} fused with a copy"), |b| {
            b.iter(|| checksum::copy_and_sum(black_box(&mut copy), black_box(&data[..len])));
        });
        group.bench_function(format!("{len} copied, then summed"), |b| {
            b.iter(|| {
                black_box(&mut copy).copy_from_slice(black_box(&data[..len]));
                checksum::sum(black_box(&copy))
            });
        });
    }
    group.finish();
}

/// A bare ACK through the link, IP and the flow table to one of many connections.
fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("bare_ack_by_connections");
    for connections in [10, 10_000, 1_000_000] {
        let mut lookups = Lookups::new(connections);
        group.bench_function(format!("{connections}"), |b| {
            b.iter_custom(|rounds| {
                let mut time = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    lookups.load();
                    let start = std::time::Instant::now();
                    lookups.run();
                    time += start.elapsed();
                }
                time
            });
        });
    }
    group.finish();
}

fn sending(c: &mut Criterion) {
    let mut group = c.benchmark_group("send_32_segments");
    for (name, gso_bytes_max) in [("mtu 1500", 0), ("super-segments", 64_000)] {
        let mut sender = Sender::new(gso_bytes_max);
        group.bench_function(format!("output, {name}"), |b| {
            b.iter_custom(|rounds| {
                rounds_of(
                    rounds,
                    &mut sender,
                    Sender::fill,
                    |s| {
                        s.send();
                    },
                    |s| {
                        s.load_acks(2);
                        s.take_acks();
                    },
                )
            });
        });
        group.bench_function(format!("16 ACKs, {name}"), |b| {
            b.iter_custom(|rounds| {
                rounds_of(
                    rounds,
                    &mut sender,
                    |s| {
                        s.fill();
                        s.send();
                        s.load_acks(2);
                    },
                    |s| {
                        s.take_acks();
                    },
                    |_| (),
                )
            });
        });
    }
    group.finish();
}

fn rounds_of(
    rounds: u64,
    sender: &mut Sender,
    before: impl Fn(&mut Sender),
    timed: impl Fn(&mut Sender),
    after: impl Fn(&mut Sender),
) -> std::time::Duration {
    let mut time = std::time::Duration::ZERO;
    for _ in 0..rounds {
        before(sender);
        let start = std::time::Instant::now();
        timed(sender);
        time += start.elapsed();
        after(sender);
    }
    time
}

/// What the counted scenarios take as a whole, their preparation included: UDP, ARP, timers.
fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("scenario_with_setup");
    for name in ["udp_echo_64_bytes", "arp_answer", "delayed_ack_timer"] {
        let scenario = SCENARIOS.iter().find(|s| s.name == name).expect("a scenario");
        group.bench_function(name, |b| {
            b.iter_batched(|| (), |()| (scenario.run)(), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, header, checksums, lookups, sending, whole);
criterion_main!(benches);

//! What a segment costs: against the number of idle connections, and in bulk with and without
//! super-segments. Wall-clock figures; compare within one run only.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_micro::pair::Pair;

/// Flat if no path walks the connections.
fn ping_pong(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcp_ping_pong_by_idle_connections");
    for connections in [10, 10_000, 50_000] {
        let mut pair = Pair::new(connections, 0);
        let mut i = 0;
        group.bench_function(BenchmarkId::from_parameter(connections), |b| {
            b.iter(|| {
                i = (i + 7919) % connections;
                pair.ping_pong(black_box(i));
            });
        });
    }
    group.finish();
}

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// One connection that talks beside many that do not: what it touches must not grow with them. All
/// sizes take turns, and the best turn of each counts, so that other load hits them alike.
fn idle_connections(c: &mut Criterion) {
    const TURNS: usize = 60;
    const ROUND_TRIPS: usize = 2000;
    let sizes = [10, 10_000, 100_000, 1_000_000];
    let mut pairs = Vec::new();
    for idle in sizes {
        let mut pair = Pair::new(1, 0);
        let before = resident_bytes();
        pair.add_idle(idle);
        if idle >= 100_000 {
            let bytes = (resident_bytes() - before) / idle;
            println!("{idle} idle connections: {bytes} bytes each");
        }
        pairs.push(pair);
    }
    let mut best = [f64::INFINITY; 4];
    for _ in 0..TURNS {
        for (pair, best) in pairs.iter_mut().zip(&mut best) {
            pair.ping_pong(0);
            let start = std::time::Instant::now();
            (0..ROUND_TRIPS).for_each(|_| pair.ping_pong(black_box(0)));
            *best = best.min(start.elapsed().as_secs_f64() / ROUND_TRIPS as f64);
        }
    }
    for (idle, best_s) in sizes.iter().zip(best) {
        let (us, ratio) = (best_s * 1e6, best_s / best[0]);
        println!(
            "beside {idle} idle connections: {us:.3} us a round trip, {ratio:.2} of the first"
        );
    }
    drop(pairs);
    let mut pair = Pair::new(1, 0);
    c.bench_function("tcp_round_trip", |b| b.iter(|| pair.ping_pong(black_box(0))));
}

/// A connection made, accepted and closed on both sides.
fn open_and_close(c: &mut Criterion) {
    let mut pair = Pair::new(1, 0);
    c.bench_function("tcp_open_accept_close", |b| b.iter(|| pair.open_and_close()));
}

fn bulk(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcp_bulk_1_MiB");
    let data = vec![0x5a; 1 << 20];
    let mut read = vec![0; 256 << 10];
    group.throughput(Throughput::Bytes(data.len() as u64));
    for (name, gso_bytes_max) in [("mtu 1500", 0), ("super-segments", 64_000)] {
        let mut pair = Pair::new(1, gso_bytes_max);
        group.bench_function(name, |b| b.iter(|| pair.bulk(black_box(&data), &mut read)));
    }
    group.finish();
}

criterion_group!(benches, ping_pong, idle_connections, open_and_close, bulk);
criterion_main!(benches);

//! What a segment costs: against the number of idle connections, and in bulk with and without
//! super-segments. Wall-clock figures; compare within one run only.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_benches::Pair;

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

criterion_group!(benches, ping_pong, bulk);
criterion_main!(benches);

//! What the multipath shim costs: off, on without rewriting, rewriting, in UDP; and by the number of
//! contexts. Wall-clock figures; compare within one run only.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_micro::shim::{Hosts, Many, Way};

const TURNS: usize = 60;

/// All ways take turns and the best turn of each counts, so that other load hits them alike.
fn ratios(what: &str, hosts: &mut [Hosts; 4], mut work: impl FnMut(&mut Hosts)) {
    let mut best = [f64::INFINITY; 4];
    for _ in 0..TURNS {
        for (hosts, best) in hosts.iter_mut().zip(&mut best) {
            let start = Instant::now();
            work(hosts);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    for (way, best_s) in Way::ALL.iter().zip(best) {
        println!("{what}, {way:?}: {:.1} us, {:.3} of the first", best_s * 1e6, best_s / best[0]);
    }
}

fn ways(c: &mut Criterion) {
    let data = vec![0x5a; 1 << 20];
    let mut read = vec![0; 256 << 10];
    let mut hosts = Way::ALL.map(Hosts::new);
    ratios("1,000 round trips", &mut hosts, |h| (0..1000).for_each(|_| h.ping_pong()));
    ratios("1 MiB", &mut hosts, |h| h.bulk(black_box(&data), &mut read));
    let mut group = c.benchmark_group("shim_round_trip");
    for (way, hosts) in Way::ALL.iter().zip(&mut hosts) {
        group.bench_function(format!("{way:?}"), |b| b.iter(|| hosts.ping_pong()));
    }
    group.finish();
    let mut group = c.benchmark_group("shim_bulk_1_MiB");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for (way, hosts) in Way::ALL.iter().zip(&mut hosts) {
        group.bench_function(format!("{way:?}"), |b| {
            b.iter(|| hosts.bulk(black_box(&data), &mut read));
        });
    }
    group.finish();
}

/// Flat if no packet walks the contexts; the caches' part in it grows with them.
fn contexts(c: &mut Criterion) {
    let mut group = c.benchmark_group("shim_packets_by_contexts");
    for count in [100, 10_000, 100_000] {
        let mut many = Many::new(count);
        group.bench_function(BenchmarkId::from_parameter(count), |b| b.iter(|| many.packets()));
    }
    group.finish();
}

criterion_group!(benches, ways, contexts);
criterion_main!(benches);

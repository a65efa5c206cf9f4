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

/// What contexts cost beside their packets: made one after the other, each with a peer whose work
/// counts too, and ended by five minutes of silence.
fn lifetime(count: usize) -> Many {
    let (before, start) = (resident_bytes(), Instant::now());
    let mut many = Many::new(count);
    let each = start.elapsed().as_secs_f64() / count as f64;
    let bytes = (resident_bytes() - before) / count as f64;
    (0..count).for_each(|_| many.packets());
    let start = Instant::now();
    for _ in 0..1000 {
        black_box(many.poll_timeout());
    }
    let asked = start.elapsed().as_secs_f64() / 1000.0;
    println!(
        "{count} contexts: {:.1} us to set up (both ends), {bytes:.0} bytes, {:.0} ns for the next deadline",
        each * 1e6,
        asked * 1e9
    );
    let mut ending = Many::new(count);
    let start = Instant::now();
    ending.end();
    println!("{:.2} us to end each", start.elapsed().as_secs_f64() / count as f64 * 1e6);
    many
}

fn resident_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default() * 4096.0
}

/// Flat if no packet walks the contexts; the caches' part in it grows with them.
fn contexts(c: &mut Criterion) {
    let mut group = c.benchmark_group("shim_packets_by_contexts");
    for count in [1, 1_000, 100_000] {
        let mut many = lifetime(count);
        group.bench_function(BenchmarkId::from_parameter(count), |b| b.iter(|| many.packets()));
    }
    group.finish();
}

criterion_group!(benches, ways, contexts);
criterion_main!(benches);

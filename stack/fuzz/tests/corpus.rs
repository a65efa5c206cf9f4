//! The corpus, as it is and mutated: nothing panics, every frame is counted, limits hold.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use weft_fuzz::{Target, frames, join, mutate, split};
use weft_stack::rng::Rng;
use weft_stack::time::Duration;

/// Frames of each mutating test.
const ITERATIONS: usize = 200_000;

/// The generator of a test: of `WEFT_SEED` if set, else always the same.
fn rng(test: u64) -> Rng {
    let seed = std::env::var("WEFT_SEED").ok().map(|s| s.parse().expect("WEFT_SEED is a number"));
    Rng::from_u64(test + 1000 * seed.unwrap_or(0u64))
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/ingress");
    let entries = fs::read_dir(&dir).expect("the corpus is committed");
    let mut files: Vec<_> = entries
        .map(|e| {
            let path = e.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() > 30, "{} files", files.len());
    files
}

#[test]
fn the_corpus_is_what_the_builders_make() {
    let files = corpus();
    for (name, frames) in frames::all() {
        let file = files.iter().find(|f| f.0 == name);
        let file = file.unwrap_or_else(|| panic!("{name} is not in the corpus"));
        assert_eq!(file.1, join(&frames), "{name}: run the example `corpus`");
    }
}

#[test]
fn every_seed_is_taken_as_it_is() {
    for (name, data) in corpus() {
        let mut target = Target::new();
        let before = target.stack().mib().frames.clone();
        weft_fuzz::ingress_into(&mut target, &data);
        let after = target.stack().mib().frames.clone();
        assert!(after.rx_frames > before.rx_frames, "{name}");
        target.finish();
        weft_fuzz::ingress(&data);
    }
}

#[test]
fn every_input_that_once_meant_something_is_harmless() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut count = 0;
    for (name, run) in weft_fuzz::TARGETS {
        let inputs = fs::read_dir(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        for input in inputs {
            run(&fs::read(input.unwrap().path()).unwrap());
            count += 1;
        }
    }
    println!("{count} inputs of {} targets", weft_fuzz::TARGETS.len());
    assert!(count > 60, "{count} inputs");
}

#[test]
fn good_seeds_are_not_dropped() {
    let good = [
        "arp-request",
        "ns",
        "na",
        "ra",
        "mld-query",
        "igmp-query",
        "icmp-echo",
        "icmp6-echo",
        "udp4",
        "udp6",
        "udp4-padded",
        "fragments4",
        "fragments6",
        "fragment6-atomic",
        "ip6-hop-by-hop",
        "ip6-destination-options",
        "tcp4-syn",
        "tcp6-syn",
        "tcp4-data",
        "tcp4-out-of-order",
        "tcp4-fin-then-data",
    ];
    let corpus = corpus();
    for name in good {
        let data = &corpus.iter().find(|f| f.0 == name).expect(name).1;
        let mut target = Target::new();
        let before = target.stack().mib().frames.rx_dropped;
        weft_fuzz::ingress_into(&mut target, data);
        let drops: Vec<_> = target.stack().mib().drops.iter().filter(|d| d.1 > 0).collect();
        assert_eq!(target.stack().mib().frames.rx_dropped, before, "{name}: {drops:?}");
    }
}

#[test]
fn mutated_frames_are_harmless() {
    let seeds: Vec<Vec<u8>> = corpus().iter().flat_map(|f| split(&f.1)).collect();
    let mut rng = rng(2);
    let mut target = Target::new();
    let mut reasons = BTreeSet::new();
    for i in 0..ITERATIONS {
        let pick = |rng: &mut Rng| &seeds[rng.below(seeds.len() as u64) as usize];
        let mut frame = pick(&mut rng).clone();
        if rng.below(2) == 0 {
            target.aim(&mut frame);
        }
        let other = pick(&mut rng);
        mutate::frame(&mut rng, &mut frame, other);
        target.frame(&frame);
        if i % 64 == 0 {
            target.pass(Duration::from_millis(rng.below(5_000)));
            target.reconnect();
        }
        if i % 20_000 == 0 {
            reasons.extend(target.stack().mib().drops.iter().filter(|d| d.1 > 0).map(|d| d.0));
            target.finish();
            target = Target::new();
        }
    }
    target.finish();
    // Fewer would mean that the mutations no longer get past the first checks.
    assert!(reasons.len() >= 35, "{}: {reasons:?}", reasons.len());
}

#[test]
fn random_frames_are_harmless() {
    let mut rng = rng(3);
    let mut target = Target::new();
    for _ in 0..20_000 {
        let len = rng.below(200) as usize;
        let mut frame: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
        if len > 14 {
            // To our MAC, and of a type that is looked at.
            frame[..6].copy_from_slice(&weft_fuzz::build::OUR_MAC);
            let kinds = [[8, 0], [8, 6], [0x86, 0xdd]];
            frame[12..14].copy_from_slice(&kinds[rng.below(3) as usize]);
        }
        target.frame(&frame);
    }
    target.finish();
}

fn random_inputs(seed: u64, count: usize, len: u64, f: fn(&mut Target, &[u8])) {
    let mut rng = rng(seed);
    let mut target = Target::new();
    for i in 0..count {
        let len = rng.below(len);
        let data: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
        f(&mut target, &data);
        if i % 64 == 0 {
            target.pass(Duration::from_millis(rng.below(3_000)));
            target.reconnect();
        }
    }
    target.finish();
}

#[test]
fn random_tcp_options_are_harmless() {
    random_inputs(4, 10_000, 44, weft_fuzz::tcp_options_into);
}

#[test]
fn random_neighbour_messages_are_harmless() {
    random_inputs(5, 30_000, 80, weft_fuzz::neighbours_into);
    // Messages with a plausible beginning.
    let mut rng = rng(6);
    let mut target = Target::new();
    for _ in 0..20_000 {
        let kind = [133, 134, 135, 136, 137][rng.below(5) as usize];
        let len = 8 + rng.below(80) as usize;
        let mut data: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
        data[..3].copy_from_slice(&[1, kind, 0]);
        weft_fuzz::neighbours_into(&mut target, &data);
    }
    target.finish();
}

#[test]
fn random_fragments_are_harmless() {
    random_inputs(7, 3_000, 64, weft_fuzz::reassembly_into);
}

#[test]
fn random_fates_of_packets_are_survived() {
    let mut rng = rng(8);
    for _ in 0..150 {
        let len = 16 + rng.below(400) as usize;
        let data: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
        weft_fuzz::two_stacks(&data);
    }
}

#[test]
fn random_segments_of_a_connection_are_harmless() {
    random_inputs(9, 1_000, 120, weft_fuzz::segments_into);
}

#[test]
fn random_bursts_are_merged_without_loss() {
    random_inputs(10, 2_000, 4 * 64, weft_fuzz::gro_into);
}

//! Fuzz targets: bytes in, a panic if something misbehaves.
//!
//! Targets of one stack make a [`Target`] (listeners, sockets, an established connection), feed it
//! what the bytes describe, and assert that nothing panics, that every frame has exactly one fate
//! and that limits hold. [`two_stacks`] lets the bytes decide what becomes of every packet between
//! two. The rest are parsers of text. All run under `cargo test` over the committed corpus, some
//! with mutations, and under libFuzzer (`scripts/fuzz`).

pub mod build;
pub mod frames;
mod gro;
pub mod mutate;
mod parsers;
mod segments;
mod target;
mod two_stacks;

pub use gro::{gro, gro_into};
pub use parsers::{config, control, extensions, icmp, packetdrill, socket_filter, tcp_header, udp};
pub use segments::{segments, segments_into};
pub use target::Target;
pub use two_stacks::two_stacks;

use build::{NDP_HOPS, Proto};
use weft_stack::time::Duration;

/// A fuzz target: it panics if what the bytes describe is not taken well.
pub type Run = fn(&[u8]);

/// Every target with its name, which is that of its directory in `corpus/`.
pub const TARGETS: &[(&str, Run)] = &[
    ("ingress", ingress),
    ("tcp_options", tcp_options),
    ("neighbours", neighbours),
    ("reassembly", reassembly),
    ("extensions", extensions),
    ("icmp", icmp),
    ("udp", udp),
    ("tcp_header", tcp_header),
    ("segments", segments),
    ("gro", gro),
    ("two_stacks", two_stacks),
    ("config", config),
    ("control", control),
    ("socket_filter", socket_filter),
    ("packetdrill", packetdrill),
];

/// The target of that name.
pub fn target_named(name: &str) -> Option<Run> {
    TARGETS.iter().find(|t| t.0 == name).map(|t| t.1)
}

/// Splits an input into frames: each is preceded by its length, two bytes, big end first.
pub fn split(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let [a, b, rest @ ..] = data {
        let len = (usize::from(*a) << 8 | usize::from(*b)).min(rest.len());
        frames.push(rest[..len].to_vec());
        data = &rest[len..];
    }
    frames
}

/// The reverse of [`split`].
pub fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        out.extend((frame.len() as u16).to_be_bytes());
        out.extend(frame);
    }
    out
}

/// Whole frames, as they are, but for TCP segments of the connection, which are [aimed](Target::aim).
pub fn ingress(data: &[u8]) {
    let mut target = Target::new();
    ingress_into(&mut target, data);
    target.finish();
}

/// As [`ingress`], into a target that lives on.
pub fn ingress_into(target: &mut Target, data: &[u8]) {
    for mut frame in split(data) {
        target.aim(&mut frame);
        target.frame(&frame);
    }
}

/// The bytes become the options of TCP segments: of a SYN to a listener and of a segment of an
/// established connection.
pub fn tcp_options(data: &[u8]) {
    let mut target = Target::new();
    tcp_options_into(&mut target, data);
    target.finish();
}

/// As [`tcp_options`], into a target that lives on.
pub fn tcp_options_into(target: &mut Target, data: &[u8]) {
    let options = &data[..data.len().min(40)];
    target.frame(&build::tcp4(5000, 80, 1, 0, build::SYN, options, &[]));
    target.frame(&build::tcp6(5000, 80, 1, 0, build::SYN, options, &[]));
    let mut segment = build::tcp4(4000, 80, 0, 0, build::ACK, options, b"data");
    target.aim(&mut segment);
    target.frame(&segment);
}

/// The first byte picks ARP, neighbour discovery, MLD or IGMP; the rest is the message, with
/// checksum, hop limit and addresses made right.
pub fn neighbours(data: &[u8]) {
    let mut target = Target::new();
    neighbours_into(&mut target, data);
    target.finish();
}

/// As [`neighbours`], into a target that lives on.
pub fn neighbours_into(target: &mut Target, data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    let frame = match kind % 4 {
        0 => build::arp(message),
        1 => build::icmp6("fe80::2", "ff02::1", NDP_HOPS, message),
        2 => build::icmp6("fe80::2", "ff02::1", 1, message),
        _ => build::igmp(message),
    };
    target.frame(&frame);
}

/// Every four bytes describe a fragment: family and identification, offset, length, more.
pub fn reassembly(data: &[u8]) {
    let mut target = Target::new();
    reassembly_into(&mut target, data);
    target.finish();
}

/// As [`reassembly`], into a target that lives on.
pub fn reassembly_into(target: &mut Target, data: &[u8]) {
    for four in data.chunks_exact(4) {
        let [head, offset, len, more] = [four[0], four[1], four[2], four[3]];
        let payload = vec![offset; usize::from(len) * 4];
        let offset = u16::from(offset) * (1 + u16::from(more >> 1 & 3));
        let (id, more) = (u32::from(head >> 1 & 3), more & 1 != 0);
        let frame = if head & 1 == 0 {
            build::fragment4(id as u16, offset, more, Proto::Udp, &payload)
        } else {
            build::fragment6(id, offset, more, Proto::Udp, &payload)
        };
        target.frame(&frame);
        if head & 0x80 != 0 {
            target.pass(Duration::from_secs(20));
        }
    }
}

//! Every message on the wire. With `WEFT_TSHARK` set, `tshark` is asked what it thinks of them
//! (`make interop` does).
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Command;

use support::*;
use weft_shim::config::ShimConfig;
use weft_shim::locator::{Pair, to_octets};
use weft_shim::own::Change;
use weft_shim::reap::ReapConfig;
use weft_shim::wire::{Body, Message, Tag};
use weft_stack::time::Duration;

/// A lab in which everything happens.
fn all_messages() -> Lab {
    let mut lab = Lab::two(1, &ShimConfig::default(), ReapConfig::default(), [3, 2]);
    lab.log = Some(Vec::new());
    let now = lab.now;
    // Two instances, so that there is one with a name; preferences of three octets.
    let mut list = list_of(1, 3);
    list.locators[1].preference.priority = 2;
    lab.shim(0).set_own(now, list);
    for fii in [0, 7] {
        lab.shim(0).start(now, ulids(), fii).unwrap();
    }
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    // Update; keepalives for a peer that only sends; probes when the ULIDs go dark.
    let now = lab.now;
    lab.shim(0).address_changed(now, ip(1, 3), Change::Removed);
    lab.pump(0);
    for n in 0..100 {
        if n == 50 {
            lab.kill(ip(1, 1), ip(2, 1));
            lab.kill(ip(2, 1), ip(1, 1));
        }
        lab.send(0, ulids(), n);
        lab.run(Duration::from_millis(10));
    }
    // Recovery.
    let now = lab.now;
    assert!(lab.shim(1).end(now, ulids().reversed(), 0));
    lab.send(0, ulids(), 100);
    lab.run(Duration::from_millis(200));
    // An error: a message of a type to come.
    let bytes = Message::new(Body::Keepalive { receiver_tag: Tag::new(1) }).write().unwrap();
    let mut bytes = bytes;
    bytes[2] = 99;
    bytes[4..6].fill(0);
    let sum = weft_stack::wire::checksum::sum(&bytes);
    bytes[4..6].copy_from_slice(&weft_stack::wire::checksum::finish(sum).to_be_bytes());
    let now = lab.now;
    lab.shim(0).receive(now, Pair::new(ip(1, 2), ip(2, 2)), &bytes);
    lab.pump(0);
    lab
}

/// A capture file of raw IPv6 packets.
fn pcap(lab: &Lab) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 101] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for (at, p) in lab.log.iter().flatten() {
        let len = (40 + p.data.len()) as u32;
        let (s, us) = (at.as_millis() / 1000, at.as_micros() % 1_000_000);
        for word in [s as u32, us as u32, len, len] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&[0x60, 0, 0, 0]);
        out.extend_from_slice(&(p.data.len() as u16).to_be_bytes());
        out.extend_from_slice(&[p.protocol, 64]);
        out.extend_from_slice(&to_octets(p.src));
        out.extend_from_slice(&to_octets(p.dst));
        out.extend_from_slice(&p.data);
    }
    out
}

#[test]
fn every_type_of_message_is_sent_and_well_formed() {
    let lab = all_messages();
    let messages = lab.log.iter().flatten().filter_map(|(_, p)| p.message());
    let kinds: BTreeSet<u8> = messages.map(|m| m.body.kind()).collect();
    assert_eq!(kinds, BTreeSet::from([1, 2, 3, 4, 5, 6, 64, 65, 66, 67, 68]));
    if std::env::var_os("WEFT_TSHARK").is_some() {
        let mut control = lab.log.iter().flatten().filter(|(_, p)| p.message().is_some());
        let first = &control.next().unwrap().1.data;
        ask_tshark(&pcap(&lab), u16::from_be_bytes([first[4], first[5]]));
    }
}

/// `first`: the checksum of the first message.
fn ask_tshark(pcap: &[u8], first: u16) {
    let path = std::env::temp_dir().join(format!("weft-shim-{}.pcap", std::process::id()));
    std::fs::File::create(&path).unwrap().write_all(pcap).unwrap();
    let run = |arguments: &[&str]| {
        let out = Command::new("tshark").arg("-r").arg(&path).args(arguments).output();
        let out = out.expect("tshark is installed");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let fields = ["-T", "fields", "-e", "shim6.type", "-e", "shim6.checksum"];
    let good = run(&[&["-Y", "shim6.type && shim6.checksum.status == 1"], &fields[..]].concat());
    let all_of_them = run(&[&["-Y", "shim6.type"], &fields[..]].concat());
    let malformed = run(&["-Y", "_ws.malformed"]);
    let all = run(&["-V"]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(good, all_of_them, "every checksum is right");
    let lines: Vec<(&str, &str)> = good.lines().filter_map(|l| l.split_once('\t')).collect();
    let types: BTreeSet<&str> = lines.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(types.len(), 11, "{types:?}");
    // Version 4.0 looks for everything behind the type one octet too early, and takes what it then
    // finds for malformed.
    if lines[0].1 != format!("0x{first:04x}") {
        return;
    }
    assert_eq!(malformed, "");
    for text in [
        "ULID Pair",
        "Forked Instance Identifier",
        "Locator List",
        "Locator Preferences",
        "Responder Validator",
        "CGA Parameter Data Structure",
        "Update Request",
        "Probe",
    ] {
        assert!(all.contains(text), "{text}");
    }
}

//! Floods below TCP: neighbour tables and reassembly. A connection goes on beside them.

use std::net::IpAddr;
use std::time::Duration;

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::rng::Rng;
use weft_stack::wire::checksum;

use crate::fixture::packet;
use crate::net::{A, ALIAS, B, Line, Net, pattern, v4, v6};

const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Frame {
    let mut bytes = Vec::new();
    bytes.extend(to);
    bytes.extend(from);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    Frame::from_heap(64, &bytes)
}

fn random_mac(rng: &mut Rng) -> [u8; 6] {
    let n = rng.next_u64().to_be_bytes();
    [2, 1, n[0], n[1], n[2], n[3]]
}

/// An ARP request for B's address from a host that is not there.
fn arp(rng: &mut Rng) -> Frame {
    let mac = random_mac(rng);
    let mut p = vec![0, 1, 8, 0, 6, 4, 0, 1];
    p.extend(mac);
    p.extend([10, 0, 0, 3 + rng.below(250) as u8]);
    p.extend([0; 6]);
    p.extend([10, 0, 0, 2]);
    ethernet([0xff; 6], mac, 0x0806, &p)
}

/// A neighbour solicitation for B's address, the same way.
fn solicitation(rng: &mut Rng) -> Frame {
    let mac = random_mac(rng);
    let (from, to) = (v6(10 + rng.below(60_000) as usize), v6(B));
    let IpAddr::V6(target) = to else { unreachable!() };
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.octets());
    icmp.extend([1, 1]);
    icmp.extend(mac);
    let pseudo = checksum::pseudo(from, to, 58, icmp.len());
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&icmp)));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = packet(from, to, 58, &icmp);
    ip[7] = 255;
    ethernet(MAC_B, mac, 0x86dd, &ip)
}

// RFC 6583 4
#[test]
fn arp_and_neighbour_floods_leave_a_bounded_table_and_connections_alone() {
    for (addr, make) in
        [(v4 as fn(usize) -> IpAddr, arp as fn(&mut Rng) -> Frame), (v6, solicitation)]
    {
        let line = Line { ethernet: true, ..Line::default() };
        let mut net = Net::with(line, 1, 8192, |c| c.limits.neighbours = 64);
        let (c, s) = net.connected(addr);
        let mut rng = Rng::from_u64(2);
        for round in 0..20 {
            for _ in 0..500 {
                let frame = make(&mut rng);
                net.stacks[B].handle_frame(net.now, ALIAS, frame);
            }
            assert!(net.stacks[B].memory().neighbours <= 64);
            net.transfer_open((A, c), s, &pattern(20_000));
            net.transfer_open((B, s), c, &pattern(1000 + round));
        }
        assert!(net.stacks[B].mib().neighbour.evicted > 1000);
        net.stacks[A].tcp_close(net.now, c);
        net.stacks[B].tcp_close(net.now, s);
        net.check_empty();
    }
}

/// A fragment of a TCP packet from A to B.
fn fragment(ident: u16, offset: u16, more: bool, data: &[u8]) -> Frame {
    let mut ip = packet(v4(A), v4(B), 6, data);
    ip[4..6].copy_from_slice(&ident.to_be_bytes());
    let field = (offset / 8) | if more { 0x2000 } else { 0 };
    ip[6..8].copy_from_slice(&field.to_be_bytes());
    ip[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum::finish(checksum::sum(&ip[..20]));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    Frame::from_heap(64, &ip)
}

// RFC 4963
// RFC 5722 4
#[test]
fn fragment_floods_and_overlaps_are_bounded_counted_and_harmless() {
    let mut net = Net::new(Line::default(), 3);
    let (c, s) = net.connected(v4);
    for ident in 0..5000 {
        let frame = fragment(ident, 0, true, &[7; 512]);
        net.stacks[B].handle_frame(net.now, ALIAS, frame);
    }
    let memory = net.stacks[B].memory();
    assert!(memory.reassemblies <= 64 && memory.reassembly_bytes <= 1 << 20);
    let refused = net.stacks[B].mib().drops.get(DropReason::FragmentTooMany);
    assert!(refused >= 4900, "{refused}");
    net.transfer_open((A, c), s, &pattern(100_000));
    // Their time runs out; then overlaps.
    net.run_for(Duration::from_secs(31));
    assert_eq!(net.stacks[B].memory().reassemblies, 0);
    for ident in 0..50 {
        for (offset, more) in [(0, true), (8, true), (256, false)] {
            let frame = fragment(ident, offset, more, &[ident as u8; 256]);
            net.stacks[B].handle_frame(net.now, ALIAS, frame);
        }
    }
    assert!(net.stacks[B].mib().drops.get(DropReason::FragmentOverlap) >= 50);
    net.transfer_open((B, s), c, &pattern(100_000));
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

//! The classic BPF program that keeps frames for the kernel's own addresses from being copied to
//! us: ARP by target, IPv4 and IPv6 by destination, with the groups that IPv6 needs. It has no
//! loops and no tables, so it is one comparison per address; beyond [`V4_MAX`] and [`V6_MAX`]
//! everything is copied and user space sorts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::sock_filter;

/// Most IPv4 addresses that a program compares.
const V4_MAX: usize = 512;
/// Most IPv6 addresses; each also needs its solicited-node group.
const V6_MAX: usize = 128;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const ACCEPT: u32 = u32::MAX;
const DROP: u32 = 0;
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();

const ARP: u32 = 0x0806;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
/// Tags left in the frame: rare, taken whole.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Most ethertypes beside those.
const ETHERTYPES_MAX: usize = 16;

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Goes on if the accumulator is `k`, else skips `skip` instructions.
fn unless_equal_skip(k: u32, skip: u8) -> sock_filter {
    sock_filter { code: JUMP_EQUAL, jt: 0, jf: skip, k }
}

/// A program that only drops what this machine itself sends.
pub(super) fn incoming() -> Vec<sock_filter> {
    let mut program = drop_outgoing();
    program.push(op(RETURN, ACCEPT));
    program
}

fn drop_outgoing() -> Vec<sock_filter> {
    vec![
        op(LOAD_WORD, PACKET_TYPE),
        unless_equal_skip(u32::from(libc::PACKET_OUTGOING), 1),
        op(RETURN, DROP),
    ]
}

/// A program for Ethernet frames to these addresses or of these ethertypes, or `None` if there are
/// too many.
pub(super) fn wanted(
    ours: &BTreeSet<IpAddr>,
    ethertypes: &BTreeSet<u16>,
) -> Option<Vec<sock_filter>> {
    let mut v4 = vec![Ipv4Addr::new(224, 0, 0, 1)];
    let mut v6 = vec![Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)];
    for address in ours {
        match address {
            IpAddr::V4(address) => v4.push(*address),
            IpAddr::V6(address) if address.is_multicast() => v6.push(*address),
            IpAddr::V6(address) => v6.extend([*address, solicited_node(*address)]),
        }
    }
    if v4.len() > V4_MAX || v6.len() > 2 * V6_MAX || ethertypes.len() > ETHERTYPES_MAX {
        return None;
    }
    let (v4, v6) = (v4_part(&v4), v6_part(&v6));
    let mut program = drop_outgoing();
    program.push(op(LOAD_HALF, 12));
    // What follows the dispatch: 3 + 3 + 2 instructions, two per other type, one return.
    let others = (2 * (TAGS.len() + ethertypes.len()) + 1) as u32;
    program.extend([
        unless_equal_skip(IPV4, 2),
        op(LOAD_WORD, 30),
        op(JUMP, 5 + others),
        unless_equal_skip(ARP, 2),
        op(LOAD_WORD, 38),
        op(JUMP, 2 + others),
        unless_equal_skip(IPV6, 1),
        op(JUMP, others + v4.len() as u32),
    ]);
    for ethertype in TAGS.iter().chain(ethertypes) {
        program.extend([unless_equal_skip(u32::from(*ethertype), 1), op(RETURN, ACCEPT)]);
    }
    program.push(op(RETURN, DROP));
    program.extend(v4);
    program.extend(v6);
    Some(program)
}

/// RFC 4291 section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = u128::from(address) & 0xff_ffff;
    Ipv6Addr::from(0xff02_0000_0000_0000_0000_0001_ff00_0000_u128 | low)
}

/// Compares the accumulator with every address.
fn v4_part(addresses: &[Ipv4Addr]) -> Vec<sock_filter> {
    let mut part = Vec::with_capacity(addresses.len() * 2 + 1);
    for address in addresses {
        part.extend([unless_equal_skip(u32::from(*address), 1), op(RETURN, ACCEPT)]);
    }
    part.push(op(RETURN, DROP));
    part
}

/// Compares the destination with every address, last word first: it differs most.
fn v6_part(addresses: &[Ipv6Addr]) -> Vec<sock_filter> {
    let mut part = Vec::with_capacity(addresses.len() * 9 + 1);
    for address in addresses {
        let octets = address.octets();
        for (i, word) in octets.chunks_exact(4).enumerate().rev() {
            let word = u32::from_be_bytes(word.try_into().expect("chunks of four bytes"));
            part.push(op(LOAD_WORD, 38 + 4 * i as u32));
            // Two instructions for each word left, and the return.
            part.push(unless_equal_skip(word, 2 * i as u8 + 1));
        }
        part.push(op(RETURN, ACCEPT));
    }
    part.push(op(RETURN, DROP));
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the instructions used here; out of bounds ends with a drop, as in the kernel.
    fn run(program: &[sock_filter], frame: &[u8], packet_type: u32) -> bool {
        let (mut a, mut at) = (0u32, 0usize);
        loop {
            let i = program[at];
            at += 1;
            let k = i.k as usize;
            match i.code {
                LOAD_WORD if i.k == PACKET_TYPE => a = packet_type,
                LOAD_WORD => match frame.get(k..k + 4) {
                    Some(b) => a = u32::from_be_bytes(b.try_into().unwrap()),
                    None => return false,
                },
                LOAD_HALF => match frame.get(k..k + 2) {
                    Some(b) => a = u32::from(u16::from_be_bytes(b.try_into().unwrap())),
                    None => return false,
                },
                JUMP => at += k,
                JUMP_EQUAL => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                RETURN => return i.k != 0,
                _ => panic!("instruction {:#x}", i.code),
            }
        }
    }

    fn frame(ethertype: u32, at: usize, address: IpAddr) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&(ethertype as u16).to_be_bytes());
        match address {
            IpAddr::V4(a) => frame[at..at + 4].copy_from_slice(&a.octets()),
            IpAddr::V6(a) => frame[at..at + 16].copy_from_slice(&a.octets()),
        }
        frame
    }

    #[test]
    fn only_frames_to_our_addresses_pass() {
        let ours: BTreeSet<IpAddr> =
            ["10.0.0.1", "10.0.0.9", "239.1.2.3", "fd00::1", "fd00::abcd:1234", "ff05::5"]
                .iter()
                .map(|a| a.parse().unwrap())
                .collect();
        let program = wanted(&ours, &BTreeSet::from([0x8809, 0x88b5])).unwrap();
        let passes = |ethertype, at, address: &str| {
            run(&program, &frame(ethertype, at, address.parse().unwrap()), 0)
        };
        for address in &ours {
            let (ethertype, at) = if address.is_ipv4() { (IPV4, 30) } else { (IPV6, 38) };
            assert!(passes(ethertype, at, &address.to_string()), "{address}");
            assert!(!run(&program, &frame(ethertype, at, *address), 4), "our own sending");
        }
        assert!(passes(ARP, 38, "10.0.0.9") && !passes(ARP, 38, "10.0.0.2"));
        assert!(!passes(IPV4, 30, "10.0.0.2") && passes(IPV4, 30, "224.0.0.1"));
        assert!(passes(IPV6, 38, "ff02::1:ffcd:1234") && !passes(IPV6, 38, "ff02::1:ffcd:1235"));
        assert!(passes(IPV6, 38, "ff02::1") && !passes(IPV6, 38, "fd01::1"));
        assert!(passes(0x8809, 30, "0.0.0.0") && passes(0x8100, 30, "0.0.0.0"));
        assert!(passes(0x88b5, 30, "0.0.0.0"));
        assert!(!passes(0x88cc, 30, "0.0.0.0"));
        assert!(!run(&program, &[0; 20], 0), "truncated");
        assert!(run(&incoming(), &[0; 20], 0) && !run(&incoming(), &[0; 20], 4));
    }

    #[test]
    fn the_longest_program_fits_the_kernel_and_more_is_refused() {
        let v4 = (0..V4_MAX as u32 - 1).map(|i| IpAddr::V4((0x0a00_0000 + i).into()));
        let v6 = (0..V6_MAX as u128 - 1).map(|i| IpAddr::V6(((0xfd << 120) + i).into()));
        let mut ours: BTreeSet<IpAddr> = v4.chain(v6).collect();
        let protocols: BTreeSet<u16> = (0x8809..).take(ETHERTYPES_MAX).collect();
        let program = wanted(&ours, &protocols).unwrap();
        assert!(program.len() <= 4096, "{}", program.len());
        assert!(run(&program, &frame(IPV6, 38, *ours.last().unwrap()), 0));
        ours.insert("10.9.9.9".parse().unwrap());
        assert!(wanted(&ours, &protocols).is_none());
    }
}

//! Whatever comes in, nothing panics and every frame is accounted for.

use crate::fixture::*;
use proptest::prelude::*;
use weft_stack::stack::{Change, TxBurst};
use weft_stack::time::Duration;
use weft_stack::wire::checksum;

/// A stack with everything that packets could hit.
fn target() -> Net {
    let mut net = Net::alone();
    net.alias(0, alias(A1, 2, 1400));
    net.addr(0, A1, "10.1.0.1/24");
    net.addr(0, A1, "fd00:0:0:1::1/64");
    net.change(0, Change::Forwarding(true));
    let now = net.now;
    for port in [9, 1000] {
        let local = std::net::SocketAddr::new(ip("::"), port);
        net.stacks[0].udp_bind(now, local).unwrap();
        net.stacks[0].tcp_listen(now, local, 4).unwrap();
    }
    net.run_for(Duration::from_secs(3));
    net
}

/// Valid packets of every kind, to be mutated.
fn seeds() -> Vec<Vec<u8>> {
    let (us, them, us6, them6) = ("10.0.0.1", "10.0.0.9", "fd00::1", "fd00::9");
    let datagram = udp(them, us, (5, 9), b"some data");
    let datagram6 = udp(them6, us6, (5, 9), b"some data");
    let syn =
        [0, 5, 3, 232, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4];
    let quote = [&[0; 4][..], &ip4(us, them, 17, &udp(us, them, (9, 5), b""))].concat();
    let quote6 = [&[0, 0, 5, 0][..], &ip6(us6, them6, 17, &udp(us6, them6, (9, 5), b""))].concat();
    let target: std::net::Ipv6Addr = us6.parse().unwrap();
    let solicit = [&[0; 4][..], &target.octets(), &[1, 1], &mac(9)].concat();
    let arp = [
        &[255; 6][..],
        &mac(9),
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac(9),
        &[10, 0, 0, 9],
        &[0; 6],
        &[10, 0, 0, 1],
        &[0; 18],
    ]
    .concat();
    let v6 = |next, payload: &[u8]| ether(&ip6(them6, us6, next, payload));
    vec![
        ether(&ip4(them, us, 17, &datagram)),
        v6(17, &datagram6),
        ether(&ip4(them, us, 6, &syn)),
        v6(6, &syn),
        ether(&ip4_with(them, us, 17, &[], 0x2000, &datagram[..16])),
        ether(&ip4_with(them, us, 17, &[], 2, &datagram[16..])),
        v6(44, &[&[17, 0, 0, 1, 0, 0, 0, 1], &datagram6[..16]].concat()),
        v6(44, &[&[17, 0, 0, 16, 0, 0, 0, 1], &datagram6[16..]].concat()),
        v6(0, &[&[60, 0, 5, 2, 0, 0, 1, 0, 17, 0, 1, 4, 0, 0, 0, 0], &datagram6[..]].concat()),
        ether(&ip4(them, us, 1, &icmp(them, us, 8, 0, &[0; 20]))),
        ether(&ip4(them, us, 1, &icmp(them, us, 3, 4, &quote))),
        v6(58, &icmp(them6, us6, 2, 0, &quote6)),
        v6(58, &icmp(them6, us6, 135, 0, &solicit)),
        v6(
            58,
            &icmp(them6, us6, 134, 0, &[&[64, 0, 7, 8][..], &[0; 8], &[1, 1], &mac(9)].concat()),
        ),
        v6(58, &icmp(them6, us6, 130, 0, &[0; 24])),
        ether_to([1, 0, 0x5e, 0, 0, 1], &ip4(them, "224.0.0.1", 2, &[0x11, 100, 0, 0, 0, 0, 0, 0])),
        ether(&ip4(them, "10.1.0.9", 17, &datagram)),
        ether(&ip6(them6, "fd00:0:0:1::9", 17, &datagram6)),
        arp,
    ]
}

/// Makes the checksums right again, so that mutations reach deeper than the first check.
fn repair(frame: &mut [u8]) {
    let Some(p) = frame.get_mut(14..).filter(|p| p.len() >= 20) else { return };
    if p[0] >> 4 == 4 {
        let header_len = usize::from(p[0] & 15) * 4;
        if header_len >= 20 && header_len <= p.len() {
            fix_ip4_sum(p);
            let at = match p[9] {
                1 | 2 => header_len + 2,
                6 => header_len + 16,
                17 => header_len + 6,
                _ => return,
            };
            let (src, dst) = ([p[12], p[13], p[14], p[15]], [p[16], p[17], p[18], p[19]]);
            let len = p.len() - header_len;
            let pseudo = checksum::pseudo(src.into(), dst.into(), p[9], len);
            let pseudo = if p[9] <= 2 { 0 } else { pseudo };
            fix_transport_sum(p, header_len, at, pseudo);
        }
    } else if p[0] >> 4 == 6 && p.len() >= 40 {
        let at = match p[6] {
            58 => 42,
            6 => 56,
            17 => 46,
            _ => return,
        };
        let addr = |at: usize| -> std::net::Ipv6Addr {
            <[u8; 16]>::try_from(&p[at..at + 16]).unwrap().into()
        };
        let pseudo = checksum::pseudo(addr(8).into(), addr(24).into(), p[6], p.len() - 40);
        fix_transport_sum(p, 40, at, pseudo);
    }
}

fn fix_transport_sum(p: &mut [u8], from: usize, at: usize, pseudo: u16) {
    if at + 2 <= p.len() {
        p[at..at + 2].fill(0);
        let sum = checksum::finish_udp(checksum::combine(pseudo, checksum::sum(&p[from..])));
        p[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..50),
    ) {
        let mut net = target();
        for frame in &frames {
            net.inject(0, A0, frame);
        }
        net.check();
    }

    #[test]
    fn mutated_packets_never_panic(
        edits in proptest::collection::vec(
            (
                any::<prop::sample::Index>(),
                proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
                proptest::option::of(any::<prop::sample::Index>()),
                any::<bool>(),
            ),
            1..100,
        ),
    ) {
        let mut net = target();
        let seeds = seeds();
        for (which, bytes, cut, fix) in edits {
            let mut frame = which.get(&seeds).clone();
            for (at, value) in bytes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            if fix {
                repair(&mut frame);
            }
            net.inject(0, A0, &frame);
        }
        net.run_for(Duration::from_secs(1));
        net.check();
        // Whatever came, the stack gives back what it held for peers.
        net.run_for(Duration::from_mins(10));
        let mut burst = TxBurst::new(1024);
        net.stacks[0].poll_transmit(net.now, &mut burst);
        let memory = net.stacks[0].memory();
        prop_assert_eq!((memory.reassemblies, memory.reassembly_bytes), (0, 0));
        prop_assert_eq!((memory.neighbour_frames, memory.tcp_connections), (0, 0));
        net.check();
    }
}

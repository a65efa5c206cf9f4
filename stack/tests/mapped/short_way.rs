//! Rewritten segments by the short ways up and down: they leave what the long ways leave.

use std::net::IpAddr;

use weft_stack::frame::Frame;
use weft_stack::ip::address::AliasId;
use weft_stack::time::Duration;

use crate::layer::Layer;
use crate::world::{A, B, Carrier, Setup, World, pattern, v4, v6};

type End = (IpAddr, IpAddr);

/// What can be wrong with a packet between IPv6 locators, and what is right though it looks odd.
fn mangled(packet: &[u8]) -> Vec<Vec<u8>> {
    let with = |change: fn(&mut Vec<u8>)| {
        let mut packet = packet.to_vec();
        change(&mut packet);
        packet
    };
    let cut = |p: &mut Vec<u8>, to: usize| {
        p.truncate(to);
        p[4..6].copy_from_slice(&(to as u16 - 40).to_be_bytes());
    };
    let mut all = vec![
        packet.to_vec(),
        with(|p| p.extend([0; 6])),
        with(|p| *p.last_mut().unwrap() ^= 1),
        // The tag, the protocol behind the header, and the reserved length.
        with(|p| p[47] ^= 1),
        with(|p| p[40] = 17),
        with(|p| p[40] = 140),
        with(|p| p[41] = 1),
        // No payload but a control message.
        with(|p| p[42] &= 0x7f),
        // Ports of nobody, flags that nobody sends, marked on its way.
        with(|p| p[49] ^= 1),
        with(|p| p[48 + 13] = 0xff),
        with(|p| p[1] |= 0x30),
        // A length that is that of the padding, and nobody's destination.
        with(|p| p[5] = 4),
        with(|p| p[39] ^= 0x40),
        with(|p| p[8] = 0xff),
    ];
    for to in [44, 48, 60, packet.len() - 1] {
        let mut short = packet.to_vec();
        cut(&mut short, to);
        all.push(short);
    }
    all
}

/// A transfer, then packets of it once more in every shape, then more of it.
fn run(peeks: bool, a: End, b: End) -> World {
    let layer = || Layer { peeks, ..Layer::on() };
    let mut w = World::with(Setup { gso: 0, layers: [layer(), layer()] });
    w.context(a, b);
    let pair = w.connected(a.0, b.0);
    w.transfer(pair, &pattern(200_000));
    let data = pattern(100_000);
    let mut carrier = Carrier::new(pair.0, pair.1, &data);
    let mut done = carrier.turn(&mut w);
    for round in 0..40 {
        w.step(w.now + Duration::from_millis(1));
        let last = w.sent.iter().rev().find(|(_, host, ..)| *host == round % 2);
        let packet = last.unwrap().3.to_heap().data().to_vec();
        let to = if round % 2 == A { B } else { A };
        for packet in mangled(&packet) {
            w.stacks[to].handle_frame(w.now, AliasId(1), Frame::from_heap(64, &packet));
        }
        done = carrier.turn(&mut w);
    }
    w.run_until(Duration::from_mins(1), |w| done || carrier.turn(w));
    carrier.check();
    w.check();
    w
}

fn compare(a: End, b: End) {
    let (short, long) = (run(true, a, b), run(false, a, b));
    assert!(short.layer(B).log.restored > 200, "{}", short.layer(B).log.restored);
    assert!(short.layer(A).log.restored > 20, "{}", short.layer(A).log.restored);
    assert!(short.layer(A).log.rewritten > 200, "{}", short.layer(A).log.rewritten);
    assert_eq!((long.layer(B).log.restored, long.layer(A).log.rewritten), (0, 0));
    for host in [A, B] {
        let (s, l) = (&short.layer(host).log, &long.layer(host).log);
        assert_eq!(s.restored + s.ingress, l.ingress, "every packet is told once");
        assert_eq!(s.rewritten + s.egress, l.egress, "every packet is told once");
        let mib = |w: &World| format!("{:#?}", w.stacks[host].mib());
        assert_eq!(mib(&short), mib(&long));
        assert_eq!(short.events[host], long.events[host]);
    }
    let sent = |w: &World| -> Vec<_> {
        let all = w.sent.iter();
        all.map(|(at, host, on, f)| (*at, *host, *on, f.to_heap().data().to_vec())).collect()
    };
    assert!(sent(&short) == sent(&long), "frames differ");
}

#[test]
fn rewritten_segments_leave_the_same_by_short_ways() {
    compare((v6(A, 0), v6(A, 1)), (v6(B, 0), v6(B, 1)));
}

#[test]
fn segments_of_ipv4_ulids_between_ipv6_locators_leave_the_same_by_short_ways() {
    compare((v4(A, 0), v6(A, 1)), (v4(B, 0), v6(B, 1)));
}

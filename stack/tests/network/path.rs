//! The seam of the path layer: upper-layer identifiers above, locators below.

use std::net::IpAddr;

use weft_stack::Stack;
use weft_stack::drop::DropReason;
use weft_stack::frame::{Frame, FramePool, HEADROOM_BYTES};
use weft_stack::path::{Pass, PathAddrs, PathLayer};
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::Instant;

use crate::fixture::*;

const TAG: u8 = 140;

/// Peers fd00::N are known above as fd99::N; packets between them carry a tag of eight bytes.
struct Tagged;

fn renumber(addr: IpAddr, from: u16, to: u16) -> IpAddr {
    match addr {
        IpAddr::V6(a) if a.segments()[0] == from => {
            let mut s = a.segments();
            s[0] = to;
            IpAddr::from(s)
        }
        other => other,
    }
}

impl PathLayer for Tagged {
    fn egress(
        &mut self,
        _: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        (addrs.src, addrs.dst) = self.locators(addrs.src, addrs.dst);
        frame.push_front(8).copy_from_slice(&[addrs.protocol, 0, 0, 0, 0, 0, 0, 0]);
        addrs.protocol = TAG;
        Ok(())
    }

    fn ingress(
        &mut self,
        _: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<Pass, DropReason> {
        if addrs.protocol == TAG {
            if frame.len() < 8 {
                return Err(DropReason::IpExtensionMalformed);
            }
            addrs.protocol = frame.data()[0];
            frame.pull_front(8);
            addrs.dst = renumber(addrs.dst, 0xfd00, 0xfd99);
        }
        Ok(Pass::Up)
    }

    fn overhead_bytes(&self, _: IpAddr, _: IpAddr) -> usize {
        8
    }

    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr) {
        (renumber(src, 0xfd99, 0xfd00), renumber(dst, 0xfd99, 0xfd00))
    }
}

#[test]
fn sockets_see_identifiers_and_the_wire_sees_locators() {
    let mut now = Instant::from_millis(1);
    let make = |n: u8| {
        let config = StackConfig { seed: [n; 16], ..StackConfig::default() };
        let pool = FramePool::heap(64, 2048);
        let mut stack = Stack::with_path(config, pool, Instant::from_millis(1), Tagged);
        let add = |s: &mut Stack<Tagged>, change| s.handle_config(now, change).unwrap();
        add(&mut stack, Change::AliasAdd(alias(A0, n, 1500)));
        let other = 3 - n;
        let addr = ip(&format!("fd00::{other}"));
        add(&mut stack, Change::NeighbourAdd { alias: A0, addr, mac: mac(other) });
        let cidr = format!("fd00::{n}/64").parse().unwrap();
        add(&mut stack, Change::AddressAdd { alias: A0, cidr });
        stack
    };
    let mut stacks = [make(1), make(2)];
    for _ in 0..4 {
        now = Instant::from_millis(now.as_millis() + 1000);
        for stack in &mut stacks {
            stack.handle_timeout(now);
            stack.poll_transmit(now, &mut TxBurst::new(64));
        }
    }
    let [a, b] = &mut stacks;
    let server = b.udp_bind(now, "[::]:9".parse().unwrap()).unwrap();
    let client = a.udp_bind(now, "[::]:0".parse().unwrap()).unwrap();
    a.udp_send(now, client, b"above", Some("[fd99::2]:9".parse().unwrap())).unwrap();
    let mut burst = TxBurst::new(64);
    assert_eq!(a.poll_transmit(now, &mut burst), 1);
    let (_, frame) = burst.frames.pop().unwrap();
    let bytes = frame.data().to_vec();
    assert_eq!((bytes[14 + 6], bytes[14 + 40]), (TAG, 17));
    assert_eq!(bytes[14 + 24..14 + 40], bytes_of("fd00::2"));
    b.handle_frame(now, A0, Frame::from_heap(HEADROOM_BYTES, &bytes));
    let got = b.udp_recv(server).unwrap();
    assert_eq!((&got.payload[..], got.to), (&b"above"[..], ip("fd99::2")));
    b.mib().check_sums().unwrap();
    // A tag that is cut off is the layer's to refuse.
    b.handle_frame(
        now,
        A0,
        Frame::from_heap(0, &ether_to(mac(2), &ip6("fd00::1", "fd00::2", TAG, &[17]))),
    );
    assert_eq!(b.mib().drops.get(DropReason::IpExtensionMalformed), 1);
}

fn bytes_of(addr: &str) -> Vec<u8> {
    addr.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()
}

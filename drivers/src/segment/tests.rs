use std::net::IpAddr;

use bytes::Bytes;
use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::*;

const ETH: usize = 14;

/// Headers of a super-segment with a partial checksum, as the stack builds them.
struct Template {
    v6: bool,
    tcp: bool,
    vlan: bool,
    medium: Medium,
    seq: u32,
    flags: u8,
}

impl Template {
    fn link(&self) -> Vec<u8> {
        let ethertype = if self.v6 { IPV6 } else { IPV4 };
        let mut link = Vec::new();
        if self.medium == Medium::Ethernet {
            link.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            if self.vlan {
                link.extend([0x81, 0, 0, 5]);
            }
            link.extend(ethertype.to_be_bytes());
        }
        link
    }

    fn ip(&self, len: usize) -> (Vec<u8>, u16) {
        let protocol = if self.tcp { TCP } else { UDP };
        if self.v6 {
            let (src, dst) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend((len as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend(std::net::Ipv6Addr::octets(&src));
            ip.extend(std::net::Ipv6Addr::octets(&dst));
            return (ip, checksum::pseudo_v6(src, dst, protocol, len));
        }
        let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut ip = vec![0x45, 0];
        ip.extend(((20 + len) as u16).to_be_bytes());
        ip.extend([0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum::sum(&ip);
        put16(&mut ip, 10, checksum::finish(sum));
        (ip, checksum::pseudo_v4(src, dst, protocol, len))
    }

    fn transport(&self, len: usize) -> Vec<u8> {
        let mut out = vec![0x30, 0x39, 0, 80];
        if self.tcp {
            out.extend(self.seq.to_be_bytes());
            out.extend([0, 0, 0, 9, 0x80, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            out.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        } else {
            out.extend((len as u16).to_be_bytes());
            out.extend([0, 0]);
        }
        out
    }

    fn frame(&self, payload: &[u8], linear: usize, frag: usize, size: u16) -> Frame {
        let header = if self.tcp { 32 } else { 8 };
        let mut data = self.link();
        let (ip, pseudo) = self.ip(header + payload.len());
        data.extend(ip);
        let start = data.len();
        let mut transport = self.transport(header + payload.len());
        let offset = if self.tcp { 16 } else { 6 };
        put16(&mut transport, offset, pseudo);
        data.extend(transport);
        let linear = linear.min(payload.len());
        data.extend(&payload[..linear]);
        let mut frame = Frame::from_heap(64, &data);
        frame.frags = payload[linear..].chunks(frag.max(1)).map(Bytes::copy_from_slice).collect();
        frame.meta.checksum = Checksum::Partial { start: start as u16, offset: offset as u16 };
        frame.meta.gso = match (self.tcp, self.v6) {
            (true, false) => Gso::Tcp4 { mss: size },
            (true, true) => Gso::Tcp6 { mss: size },
            (false, _) => Gso::Udp { size },
        };
        frame
    }

    /// Strips link and IP header of a cut frame, checking both.
    fn transport_of<'a>(&self, wire: &'a [u8]) -> (IpAddress, IpAddress, &'a [u8], Option<u16>) {
        let ip = if self.medium == Medium::Ethernet {
            let eth = EthernetFrame::new_checked(wire).unwrap();
            assert_eq!(u16::from(eth.ethertype()) == 0x8100, self.vlan);
            &wire[ETH + if self.vlan { 4 } else { 0 }..]
        } else {
            wire
        };
        if self.v6 {
            let p = Ipv6Packet::new_checked(ip).unwrap();
            assert_eq!(p.total_len(), ip.len());
            return (p.src_addr().into(), p.dst_addr().into(), &ip[40..], None);
        }
        let p = Ipv4Packet::new_checked(ip).unwrap();
        assert!(p.verify_checksum());
        assert_eq!(usize::from(p.total_len()), ip.len());
        (p.src_addr().into(), p.dst_addr().into(), &ip[20..], Some(p.ident()))
    }
}

fn cut(frame: &Frame, medium: Medium) -> Vec<Vec<u8>> {
    let mut cut = Cut::new(frame, medium).unwrap();
    let (frames, max) = (cut.frames(), cut.frame_bytes_max());
    let mut out = Vec::new();
    while let Some(len) = cut.next_len() {
        let mut buffer = vec![0xaa; len];
        cut.write_next(&mut buffer);
        out.push(buffer);
    }
    assert_eq!(out.len(), frames);
    assert_eq!(out.iter().map(Vec::len).max().unwrap(), max);
    assert_eq!(cut_into_parts(frame, medium), out);
    if frame.meta.gso != Gso::None {
        assert_eq!(gathered(frame, medium), out);
    }
    out
}

/// The same through buffers of odd sizes.
fn cut_into_parts(frame: &Frame, medium: Medium) -> Vec<Vec<u8>> {
    let mut cut = Cut::new(frame, medium).unwrap();
    let first = cut.header_bytes().max(frame.len()).next_multiple_of(2) + 1;
    let mut out = Vec::new();
    while let Some(len) = cut.next_len() {
        let mut buffer = vec![0xaa; len];
        let (head, rest) = buffer.split_at_mut(first.min(len));
        let mut parts = vec![head];
        parts.extend(rest.chunks_mut(333));
        cut.write_next_into(&mut parts);
        out.push(buffer);
    }
    out
}

/// The same from headers and pieces where they lie.
fn gathered(frame: &Frame, medium: Medium) -> Vec<Vec<u8>> {
    let mut cut = Cut::new(frame, medium).unwrap();
    let mut out = Vec::new();
    while let Some(len) = cut.next_len() {
        let mut head = vec![0xaa; cut.header_bytes()];
        let mut payload: Vec<u8> = Vec::new();
        cut.gather_next(&mut head, |piece| payload.extend(piece));
        head.extend(payload);
        assert_eq!(head.len(), len);
        out.push(head);
    }
    out
}

fn check_tcp(t: &Template, wires: &[Vec<u8>], payload: &[u8], size: usize) {
    let mut joined: Vec<u8> = Vec::new();
    for (i, wire) in wires.iter().enumerate() {
        let (src, dst, segment, id) = t.transport_of(wire);
        let tcp = TcpPacket::new_checked(segment).unwrap();
        assert!(tcp.verify_checksum(&src, &dst), "segment {i}");
        assert_eq!(tcp.seq_number().0 as u32, t.seq.wrapping_add(joined.len() as u32));
        let (first, last) = (i == 0, i + 1 == wires.len());
        assert_eq!(tcp.fin(), last && t.flags & 1 != 0);
        assert_eq!(tcp.psh(), last && t.flags & 8 != 0);
        assert_eq!(tcp.cwr(), first && t.flags & 0x80 != 0);
        assert_eq!(tcp.ece(), t.flags & 0x40 != 0);
        assert!(tcp.ack());
        if let Some(id) = id {
            assert_eq!(id, 0xfffe_u16.wrapping_add(i as u16));
        }
        assert!(last || tcp.payload().len() == size);
        joined.extend(tcp.payload());
    }
    assert_eq!(joined, payload);
}

fn check_udp(t: &Template, wires: &[Vec<u8>], payload: &[u8], size: usize) {
    let mut joined: Vec<u8> = Vec::new();
    for (i, wire) in wires.iter().enumerate() {
        let (src, dst, datagram, _) = t.transport_of(wire);
        let udp = UdpPacket::new_checked(datagram).unwrap();
        assert!(udp.checksum() != 0 && udp.verify_checksum(&src, &dst), "datagram {i}");
        assert_eq!(usize::from(udp.len()), datagram.len());
        assert!(i + 1 == wires.len() || udp.payload().len() == size);
        joined.extend(udp.payload());
    }
    assert_eq!(joined, payload);
}

proptest! {
    #[test]
    fn a_cut_super_segment_is_the_same_stream(
        (v6, tcp, vlan, ethernet) in any::<(bool, bool, bool, bool)>(),
        seq in any::<u32>(),
        flags in any::<u8>(),
        payload in proptest::collection::vec(any::<u8>(), 0..20_000),
        linear in 0usize..3000,
        frag in 1usize..9000,
        size in 1u16..3000,
    ) {
        let size = size.max((payload.len() / 60) as u16 + 1);
        let medium = if ethernet { Medium::Ethernet } else { Medium::Ip };
        // No URG, SYN or RST in a super-segment; ACK always.
        let flags = (flags & 0xc9) | 0x10;
        let t = Template { v6, tcp, vlan: vlan && ethernet, medium, seq, flags };
        let frame = t.frame(&payload, linear, frag, size);
        let wires = cut(&frame, medium);
        let check = if tcp { check_tcp } else { check_udp };
        check(&t, &wires, &payload, usize::from(size));

        // The complete checksum of the IP header's own addresses leads to the same bytes.
        let mut complete = t.frame(&payload, linear, frag, size);
        prop_assert!(complete_checksum(&mut complete));
        prop_assert_eq!(&cut(&complete, medium), &wires);

        // Uncut but completed, it is one valid large packet.
        let mut whole = t.frame(&payload, linear, frag, size);
        whole.meta.gso = Gso::None;
        let one = cut(&whole, medium);
        check(&t, &one, &payload, payload.len());
        prop_assert!(complete_checksum(&mut whole));
        let linear = linearise(whole, &FramePool::heap(1, 2048));
        prop_assert_eq!(linear.data(), &one[0][..]);
    }

    #[test]
    fn damaged_frames_are_errors_not_panics(
        damage in proptest::collection::vec((0usize..80, any::<u8>()), 0..8),
        len in 0usize..200,
        ethernet in any::<bool>(),
        start in any::<u16>(),
        offset in 0u16..100,
    ) {
        let medium = if ethernet { Medium::Ethernet } else { Medium::Ip };
        let t = Template { v6: start % 2 == 0, tcp: true, vlan: false, medium, seq: 1, flags: 16 };
        let mut frame = t.frame(&[7; 100], 100, 1, 30);
        for (at, byte) in damage {
            frame.data_mut()[at] = byte;
        }
        frame.truncate(len);
        if len % 3 == 0 {
            frame.meta.checksum = Checksum::Partial { start: start % 300, offset };
        }
        if let Ok(mut cut) = Cut::new(&frame, medium) {
            while let Some(len) = cut.next_len() {
                cut.write_next(&mut vec![0; len]);
            }
        }
        complete_checksum(&mut frame);
    }
}

#[test]
fn an_ordinary_frame_is_copied() {
    let mut frame = Frame::from_heap(0, b"arp or whatever");
    frame.frags.push(Bytes::from_static(b" and more"));
    assert_eq!(cut(&frame, Medium::Ethernet), [b"arp or whatever and more"]);
}

#[test]
fn udp_without_checksum_stays_without() {
    let t = Template { v6: false, tcp: false, vlan: false, medium: Medium::Ip, seq: 0, flags: 0 };
    let mut frame = t.frame(&[1; 50], 50, 1, 20);
    frame.meta.checksum = Checksum::Complete;
    frame.data_mut()[26..28].fill(0);
    let wires = cut(&frame, Medium::Ip);
    assert_eq!(wires.len(), 3);
    assert!(wires.iter().all(|w| w[26..28] == [0, 0]));
}

#[test]
fn wrong_segmentation_state_is_refused() {
    let t = Template { v6: false, tcp: true, vlan: false, medium: Medium::Ip, seq: 0, flags: 16 };
    let refused = |gso| {
        let mut frame = t.frame(&[1; 50], 50, 1, 20);
        frame.meta.gso = gso;
        Cut::new(&frame, Medium::Ip).err()
    };
    assert_eq!(refused(Gso::Tcp4 { mss: 0 }), Some(CutError::SegmentSizeZero));
    assert_eq!(refused(Gso::Udp { size: 9 }), Some(CutError::TransportMismatch));
    let mut arp = Frame::from_heap(0, &[0; 60]);
    arp.meta.gso = Gso::Tcp4 { mss: 9 };
    assert_eq!(Cut::new(&arp, Medium::Ethernet).err(), Some(CutError::NotIp));
}

#[test]
fn linear_frames_are_not_copied_and_tailroom_is_used() {
    let pool = FramePool::heap(2, 2048);
    let mut small = pool.alloc().unwrap();
    small.append(b"head");
    small.frags.push(Bytes::from_static(b"tail"));
    let slot = small.slot();
    let small = linearise(small, &pool);
    assert_eq!((small.data(), small.slot()), (&b"headtail"[..], slot));
    let mut foreign = Frame::from_heap(0, b"head");
    foreign.frags.push(Bytes::from_static(b"tail"));
    let copied = linearise(foreign, &pool);
    assert!(pool.owns(&copied) && copied.data() == b"headtail");
}

#[test]
fn a_cut_goes_into_the_pool_all_or_nothing_and_jumbo_frames_to_the_heap() {
    let t = Template { v6: true, tcp: true, vlan: false, medium: Medium::Ip, seq: 0, flags: 16 };
    let frame = t.frame(&[1; 5000], 0, 5000, 1000);
    let mut out = VecDeque::new();
    let cut = || Cut::new(&frame, Medium::Ip).unwrap();
    let small = FramePool::heap(4, 2048);
    assert_eq!(cut_into_pool(cut(), &small, &mut out), None);
    assert_eq!((out.len(), small.free()), (0, 4));
    let enough = FramePool::heap(5, 2048);
    assert_eq!(cut_into_pool(cut(), &enough, &mut out), Some(5000));
    assert_eq!((out.len(), enough.free()), (5, 0));
    assert!(cut_into_pool(cut(), &FramePool::heap(0, 1024), &mut out).is_some());
    assert_eq!(out.len(), 10);
}

#[test]
fn a_shims_header_is_repeated_before_each_segment_and_the_checksum_is_that_of_the_ulids() {
    let ulid = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1]);
    let locator = |n: u8| [0x20, 1, 0xd, 0xb8, 0, 0, 0xff, n, 0, 0, 0, 0, 0, 0, 0, 1];
    let payload: Vec<u8> = (0..5000u32).map(|n| (n * 7) as u8).collect();
    let shim = [6, 0, 0x80, 1, 2, 3, 4, 5];
    let mut data = vec![0x60, 0, 0, 0, 0, 0, 140, 64];
    put16(&mut data, 4, (8 + 20 + payload.len()) as u16);
    data.extend(locator(1));
    data.extend(locator(2));
    data.extend(shim);
    let mut tcp = [0; 20];
    (tcp[12], tcp[13]) = (0x50, 0x18);
    put16(&mut tcp, 16, checksum::pseudo(ulid(1), ulid(2), 6, 20 + payload.len()));
    data.extend(tcp);
    let mut frame = Frame::from_heap(64, &data);
    frame.frags = payload.chunks(1700).map(Bytes::copy_from_slice).collect();
    frame.meta.checksum = Checksum::Partial { start: 48, offset: 16 };
    frame.meta.gso = Gso::Tcp6 { mss: 1400 };
    let wires = cut(&frame, Medium::Ip);
    assert_eq!(wires.len(), 4);
    let mut at = 0;
    for wire in &wires {
        assert_eq!(wire.len(), 40 + usize::from(u16::from_be_bytes([wire[4], wire[5]])));
        assert_eq!((wire[6], &wire[40..48]), (140, &shim[..]));
        let segment = &wire[48..];
        let pseudo = checksum::pseudo(ulid(1), ulid(2), 6, segment.len());
        assert!(checksum::is_valid(checksum::combine(pseudo, checksum::sum(segment))));
        assert_eq!(segment[4..8], (at as u32).to_be_bytes());
        assert_eq!(&segment[20..], &payload[at..at + segment.len() - 20]);
        at += segment.len() - 20;
    }
    assert_eq!(at, payload.len());
}

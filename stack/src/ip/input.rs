//! Received packets: checked, assembled, and handed to ICMP, a transport or the way out.

use core::net::{IpAddr, Ipv6Addr};

use super::address::AliasId;
use super::extension::{self, Refusal};
use super::header::{Header, parse_v4, parse_v6, trim};
use super::icmp::{self, Problem};
use super::reassembly::{Fragment, FragmentKey, Reassembled, Whole};
use super::{Ip, forward, multicast, ndp, output};
use crate::ctx::{Ctx, Fate};
use crate::drop::DropReason;
use crate::frame::{Frame, Gso};
use crate::link::{Link, unicast_ip};
use crate::lower::{IcmpErrorKind, InPacket};
use crate::shard::Owner;
use crate::stats::{IpStats, Mib};
use crate::wire::header::{IPV4_LEN, IPV6_LEN, IpHeader, MF};
use crate::wire::plain::PlainIp;
use crate::wire::protocol;

/// What a packet turned out to be.
pub(crate) enum Input {
    /// For the path layer and a transport; the frame starts with the transport header.
    Up {
        packet: InPacket,
        frame: Frame,
        /// Where the header names the protocol, for a parameter problem (IPv6).
        pointer: u32,
    },
    /// An ICMP error, and who sent it; the frame starts with its ICMP header.
    Error(IcmpErrorKind, IpAddr, Frame),
    /// An ICMP echo reply, which starts the frame.
    EchoReply(InPacket, Frame),
    /// Nothing is left to do.
    Done(Fate),
}

/// How a packet came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) alias: AliasId,
    /// From this stack itself.
    pub(crate) looped: bool,
}

/// The headers of a frame to this host alone that has nothing unusual below its transport, seen at
/// one glance. Whether IP takes such packets is another question: [`accepts`].
pub(crate) struct Glance {
    pub(crate) alias: AliasId,
    /// The device has checked sums.
    pub(crate) trust: bool,
    /// Bytes of the link header.
    pub(crate) link: usize,
    pub(crate) ip: PlainIp,
}

impl Glance {
    /// `None`: look closer.
    #[inline(always)]
    pub(crate) fn at(ip: &Ip, alias: AliasId, frame: &Frame) -> Option<Glance> {
        let entry = ip.aliases.get(&alias)?;
        let (link, is_v4) = unicast_ip(entry, frame)?;
        let ip = PlainIp::look(frame, link)?;
        if is_v4.is_some_and(|is_v4| is_v4 != ip.src.is_ipv4()) {
            return None;
        }
        Some(Glance { alias, trust: entry.config.rx_checksum_trust, link, ip })
    }

    /// Counts the packet, whose transport header has so many bytes, and takes the headers below it
    /// off; returns how many packets of the wire it stands for.
    #[inline(always)]
    pub(crate) fn take_headers(&self, mib: &mut Mib, frame: &mut Frame, transport: usize) -> u64 {
        frame.pull_front(self.link);
        let stats = output::stats(mib, self.ip.src.is_ipv4());
        stats.in_receives += 1;
        stats.in_octets += frame.total_len() as u64;
        if frame.meta.gso == Gso::None {
            frame.truncate(self.ip.total_len);
        }
        frame.mark_network_header();
        let headers = self.ip.header_len + transport;
        let packets = count_codepoint(stats, self.ip.traffic_class, headers, frame);
        stats.in_delivers += packets;
        frame.pull_front(self.ip.header_len);
        packets
    }

    /// What is behind the `skip` bytes of a path layer's header, as if it had come with a plain header
    /// between its ULIDs: that header is what is below the transport.
    #[inline]
    pub(crate) fn above(&self, (src, dst): (IpAddr, IpAddr), protocol: u8, skip: usize) -> Glance {
        let header_len = self.ip.header_len + skip;
        Glance { ip: PlainIp { src, dst, protocol, header_len, ..self.ip }, ..*self }
    }

    /// [`Glance::take_headers`] of a packet that `above` is behind a header of the path layer: it is
    /// received between locators, and delivered between ULIDs. Takes the transport's off as well, of
    /// so many bytes.
    #[inline(always)]
    pub(crate) fn take_mapped_headers(
        &self,
        mib: &mut Mib,
        frame: &mut Frame,
        above: &Glance,
        transport: usize,
    ) {
        frame.pull_front(self.link);
        let stats = output::stats(mib, self.ip.src.is_ipv4());
        stats.in_receives += 1;
        stats.in_octets += frame.total_len() as u64;
        frame.truncate(self.ip.total_len);
        frame.mark_network_header();
        count_codepoint(stats, self.ip.traffic_class, 0, frame);
        output::stats(mib, above.ip.src.is_ipv4()).in_delivers += 1;
        frame.pull_front(above.ip.header_len + transport);
    }

    #[inline]
    pub(crate) fn packet(&self) -> InPacket {
        InPacket {
            src: self.ip.src,
            dst: self.ip.dst,
            protocol: self.ip.protocol,
            traffic_class: self.ip.traffic_class,
            hop_limit: self.ip.hop_limit,
            alias: self.alias,
            to_many: false,
            below: None,
        }
    }
}

enum Destination {
    One,
    Many,
    Elsewhere,
}

/// A packet with its IP header at the front.
pub(crate) fn input(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    arrival: Arrival,
    is_v4: bool,
    mut frame: Frame,
) -> Input {
    let stats = output::stats(ctx.mib, is_v4);
    stats.in_receives += 1;
    stats.in_octets += frame.total_len() as u64;
    let header = if is_v4 { parse_v4(&frame, arrival.looped) } else { parse_v6(&frame) };
    let checked = header.and_then(|h| {
        trim(&mut frame, h.total_len);
        frame.mark_network_header();
        if !arrival.looped {
            check_source(ip, h.src, h.dst, h.protocol)?;
        }
        Ok((h, destination(ip, arrival, h.dst)?))
    });
    let (header, destination) = match checked {
        Ok(checked) => checked,
        Err(reason) => return Input::Done(lost(ctx, is_v4, reason)),
    };
    count_packets(output::stats(ctx.mib, is_v4), &header, &frame);
    if header.dst.is_multicast() {
        output::stats(ctx.mib, is_v4).in_mcast_pkts += 1;
    }
    let to_many = match destination {
        Destination::One => false,
        Destination::Many => true,
        Destination::Elsewhere => {
            let addrs = (header.src, header.dst);
            return Input::Done(forward::forward(ctx, link, ip, arrival.alias, addrs, frame));
        }
    };
    let local = Local { arrival, header, to_many, mapped: false, below: None };
    if is_v4 { local.input_v4(ctx, link, ip, frame) } else { local.input_v6(ctx, link, ip, frame) }
}

/// A packet whose ULIDs the path layer gave back, its own header pulled: from here on it is what it
/// would be had it come with a plain header between them. It may be a piece that was cut above the
/// layer of the peer.
pub(crate) fn restored(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    mut packet: InPacket,
    mut frame: Frame,
) -> Input {
    let len = output::header_len(packet.dst);
    let header = Header {
        src: packet.src,
        dst: packet.dst,
        traffic_class: packet.traffic_class,
        hop_limit: packet.hop_limit,
        protocol: packet.protocol,
        len,
        total_len: len + frame.total_len(),
        ident: 0,
        flags_offset: 0,
    };
    let arrival = Arrival { alias: packet.alias, looped: true };
    // Neither the peer nor its proofs make our addresses his: rules let what is ours pass.
    if let Err(reason) = check_source(ip, packet.src, packet.dst, packet.protocol) {
        return Input::Done(lost(ctx, packet.dst.is_ipv4(), reason));
    }
    let below = packet.below;
    let local = Local { arrival, header, to_many: false, mapped: true, below };
    local.restore_header(&packet, &mut frame);
    if packet.dst.is_ipv6() {
        if matches!(packet.protocol, protocol::TCP | protocol::UDP) {
            // No chain to walk: the pointer is that of the header's next one.
            return deliver(ctx, link, ip, packet, 6, frame);
        }
        frame.push_front(len);
        return local.input_v6(ctx, link, ip, frame);
    }
    if packet.protocol == protocol::FRAGMENT {
        match local.fragment_v6(ctx, link, ip, frame) {
            Ok(whole) => {
                packet.traffic_class = packet.traffic_class & !3 | whole.ecn;
                packet.protocol = whole.next_header;
                frame = whole.frame;
                local.restore_header(&packet, &mut frame);
            }
            Err(fate) => return Input::Done(fate),
        }
    }
    deliver(ctx, link, ip, packet, 9, frame)
}

fn count_packets(stats: &mut IpStats, header: &Header, frame: &Frame) {
    let mut headers = 0;
    if frame.meta.gso != Gso::None {
        headers = header.len + headers_behind_ip(header.protocol, frame, header.len);
    }
    count_codepoint(stats, header.traffic_class, headers, frame);
}

/// ECN codepoints as they arrive (RFC 3168 section 5), each packet of a merged unit by itself. The
/// unit was counted as one packet; the others count as the wire carried them, with their `headers`
/// of so many bytes. Returns how many packets that are.
pub(crate) fn count_codepoint(
    stats: &mut IpStats,
    traffic_class: u8,
    headers: usize,
    frame: &Frame,
) -> u64 {
    let mut packets = 1;
    if frame.meta.gso != Gso::None {
        packets = frame.packets(headers);
        stats.in_receives += packets - 1;
        stats.in_octets += (packets - 1) * headers as u64;
    }
    let counter = match traffic_class & 3 {
        0 => &mut stats.in_no_ect_pkts,
        1 => &mut stats.in_ect1_pkts,
        2 => &mut stats.in_ect0_pkts,
        _ => &mut stats.in_ce_pkts,
    };
    *counter += packets;
    packets
}

/// Bytes that each packet of a super-segment, whose transport header stands at `at`, has behind its IP
/// header and before its payload.
fn headers_behind_ip(protocol: u8, frame: &Frame, at: usize) -> usize {
    let is_tcp = matches!(frame.meta.gso, Gso::Tcp4 { .. } | Gso::Tcp6 { .. });
    let below = match protocol {
        protocol::TCP => 0,
        // A header of the path layer, or a datagram around it.
        protocol::SHIM6 if is_tcp => 8,
        protocol::UDP if is_tcp => 16,
        _ => return 8,
    };
    let offset = frame.data().get(at + below + 12);
    below + offset.map_or(0, |b| usize::from(b >> 4) * 4)
}

fn lost(ctx: &mut Ctx<'_>, is_v4: bool, reason: DropReason) -> Fate {
    count(output::stats(ctx.mib, is_v4), reason);
    Fate::Dropped(reason)
}

/// RFC 4293's counter for a reason.
fn count(stats: &mut IpStats, reason: DropReason) {
    match reason {
        DropReason::IpTruncated => stats.in_truncated_pkts += 1,
        DropReason::IpSourceInvalid
        | DropReason::IpSourceIsUs
        | DropReason::IpDestinationNotOurs
        | DropReason::MulticastNotMember => stats.in_addr_errors += 1,
        DropReason::FragmentTooMany => {
            stats.in_discards += 1;
            stats.reasm_fails += 1;
        }
        DropReason::FragmentEcnMixed => stats.reasm_fails += 1,
        DropReason::FragmentOverlap | DropReason::FragmentMalformed => {
            stats.reasm_fails += 1;
            stats.in_hdr_errors += 1;
        }
        _ => stats.in_hdr_errors += 1,
    }
}

/// Whether a unicast packet of a transport, received on `alias`, is one for this host.
pub(crate) fn accepts(ip: &Ip, alias: AliasId, src: IpAddr, dst: IpAddr) -> bool {
    !dst.is_multicast()
        && ip.is_local_on(alias, dst)
        && check_source(ip, src, dst, protocol::TCP).is_ok()
}

/// Addresses that nobody sends from (RFC 1122 3.2.1.3, RFC 4291 2.5.3, RFC 6890).
fn check_source(
    ip: &Ip,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
) -> Result<(), DropReason> {
    let invalid = match (source, destination) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [first, ..] = src.octets();
            // Hosts without an address yet speak IGMP from 0.0.0.0.
            let nobody = first == 0
                && !(src.is_unspecified() && dst.is_multicast() && protocol == protocol::IGMP);
            nobody || first == 127 || first >= 224 || dst.is_loopback() || ip.is_broadcast(source)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mapped = |a: Ipv6Addr| a.to_ipv4_mapped().is_some();
            // RFC 4862 5.4.2: only DAD (to a group) comes from nobody.
            let nobody = src.is_unspecified() && !dst.is_multicast();
            let scope_of_host = dst.is_multicast() && dst.octets()[1] & 15 <= 1;
            nobody
                || scope_of_host
                || src.is_multicast()
                || src.is_loopback()
                || dst.is_loopback()
                || mapped(src)
                || mapped(dst)
        }
        _ => true,
    };
    if invalid {
        Err(DropReason::IpSourceInvalid)
    } else if ip.is_local(source) && !link_local(source) {
        Err(DropReason::IpSourceIsUs)
    } else {
        Ok(())
    }
}

/// Two aliases may have the same link-local address.
fn link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// RFC 1122 3.3.4.2: a host takes packets only on the alias that has the address; a router on all.
fn destination(ip: &Ip, arrival: Arrival, dst: IpAddr) -> Result<Destination, DropReason> {
    let ours = ip.is_local_on(arrival.alias, dst)
        || ((arrival.looped || ip.forwarding) && ip.is_local(dst));
    if ours {
        return Ok(Destination::One);
    }
    if dst.is_multicast() {
        let groups = ip.aliases.get(&arrival.alias).map(|a| &a.groups);
        return match groups {
            Some(groups) if groups.contains(dst) => Ok(Destination::Many),
            _ => Err(DropReason::MulticastNotMember),
        };
    }
    if dst == super::BROADCAST || ip.is_broadcast_on(arrival.alias, dst) {
        return Ok(Destination::Many);
    }
    if ip.forwarding && !arrival.looped && !ip.is_broadcast(dst) {
        return Ok(Destination::Elsewhere);
    }
    Err(DropReason::IpDestinationNotOurs)
}

/// A packet that ends here.
struct Local {
    arrival: Arrival,
    header: Header,
    to_many: bool,
    /// The path layer gave it its addresses.
    mapped: bool,
    /// [`InPacket::below`].
    below: Option<IpAddr>,
}

impl Local {
    fn packet(&self, protocol: u8, traffic_class: u8) -> InPacket {
        InPacket {
            src: self.header.src,
            dst: self.header.dst,
            protocol,
            traffic_class,
            hop_limit: self.header.hop_limit,
            alias: self.arrival.alias,
            to_many: self.to_many,
            below: self.below,
        }
    }

    fn input_v4(&self, ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, mut frame: Frame) -> Input {
        let h = &self.header;
        let mut packet = self.packet(h.protocol, h.traffic_class);
        let offset = usize::from(h.flags_offset & 0x1fff) * 8;
        let more = h.flags_offset & MF != 0;
        frame.pull_front(h.len);
        if offset != 0 || more {
            let fragment = Fragment {
                key: FragmentKey {
                    src: h.src,
                    dst: h.dst,
                    ident: u32::from(h.ident),
                    protocol: h.protocol,
                    alias: self.arrival.alias,
                },
                offset,
                more,
                ecn: h.traffic_class & 3,
                next_header: h.protocol,
            };
            match reassemble(ctx, ip, &fragment, IPV4_LEN, &frame) {
                Ok(whole) => {
                    packet.traffic_class = h.traffic_class & !3 | whole.ecn;
                    frame = whole.frame;
                    self.restore_header(&packet, &mut frame);
                    frame = match self.find_shard(ctx, IPV4_LEN, frame) {
                        Some(frame) => frame,
                        None => return Input::Done(Fate::Consumed),
                    };
                }
                Err(fate) => return Input::Done(fate),
            }
        }
        deliver(ctx, link, ip, packet, 9, frame)
    }

    fn input_v6(&self, ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, mut frame: Frame) -> Input {
        let h = &self.header;
        let mut packet = self.packet(h.protocol, h.traffic_class);
        // Once for the packet, once more for what fragments hold. Fragments of fragments are not.
        for round in 0..2 {
            // RFC 8200 4.1: hop-by-hop options follow the IPv6 header itself.
            if round > 0 && packet.protocol == protocol::HOP_BY_HOP {
                break;
            }
            let chain = match extension::walk(frame.data(), self.to_many) {
                Ok(chain) => chain,
                Err(refusal) => {
                    return Input::Done(self.refuse(ctx, link, ip, refusal, &frame));
                }
            };
            frame.pull_front(chain.offset);
            packet.protocol = chain.protocol;
            if chain.protocol == protocol::FRAGMENT && round == 0 {
                match self.fragment_v6(ctx, link, ip, frame) {
                    Ok(whole) => {
                        packet.traffic_class = h.traffic_class & !3 | whole.ecn;
                        packet.protocol = whole.next_header;
                        frame = whole.frame;
                        self.restore_header(&packet, &mut frame);
                        frame = match self.find_shard(ctx, IPV6_LEN, frame) {
                            Some(frame) => frame,
                            None => return Input::Done(Fate::Consumed),
                        };
                        frame.push_front(IPV6_LEN);
                    }
                    Err(fate) => return Input::Done(fate),
                }
                continue;
            }
            return match chain.protocol {
                protocol::FRAGMENT => {
                    Input::Done(lost(ctx, false, DropReason::IpExtensionMalformed))
                }
                protocol::NO_NEXT => Input::Done(Fate::Consumed),
                // RFC 6980 5: never in fragments, which switches that guard a link cannot judge; no
                // more can they judge what is behind a header of the path layer.
                protocol::ICMPV6
                    if (round > 0 || self.mapped) && ndp::is_discovery(frame.data()) =>
                {
                    Input::Done(Fate::Dropped(DropReason::NdpInvalid))
                }
                _ if h.src.is_unspecified() && chain.protocol != protocol::ICMPV6 => {
                    Input::Done(lost(ctx, false, DropReason::IpSourceInvalid))
                }
                _ => deliver(ctx, link, ip, packet, chain.pointer as u32, frame),
            };
        }
        Input::Done(lost(ctx, false, DropReason::IpExtensionMalformed))
    }

    fn refuse(
        &self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        ip: &mut Ip,
        refusal: Refusal,
        frame: &Frame,
    ) -> Fate {
        if let Some((code, pointer)) = refusal.problem {
            let problem = Problem::Parameter { code, pointer };
            icmp::send_error(ctx, link, ip, self.arrival.alias, problem, frame.network_header());
        }
        lost(ctx, false, refusal.reason)
    }

    /// `frame` starts with the fragment header.
    fn fragment_v6(
        &self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        ip: &mut Ip,
        mut frame: Frame,
    ) -> Result<Whole, Fate> {
        let Some(f) = frame.data().first_chunk::<8>().copied() else {
            return Err(lost(ctx, false, DropReason::IpExtensionMalformed));
        };
        let field = u16::from_be_bytes([f[2], f[3]]);
        let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
        frame.pull_front(8);
        let ecn = self.header.traffic_class & 3;
        if offset == 0 && !more {
            // RFC 6946: an atomic fragment stands alone.
            return Ok(Whole { frame, next_header: f[0], ecn });
        }
        // RFC 8200 4.5: the two ways to be malformed, and their pointers.
        let end = offset + frame.total_len();
        let pointer = if more && !frame.total_len().is_multiple_of(8) {
            Some(4)
        } else if end > 0xffff {
            Some((self.header.total_len - frame.total_len() - 6) as u32)
        } else {
            None
        };
        if let Some(pointer) = pointer {
            let refusal = Refusal {
                reason: DropReason::FragmentMalformed,
                problem: Some((extension::ERRONEOUS_FIELD, pointer)),
            };
            return Err(self.refuse(ctx, link, ip, refusal, &frame));
        }
        let fragment = Fragment {
            key: FragmentKey {
                src: self.header.src,
                dst: self.header.dst,
                ident: u32::from_be_bytes([f[4], f[5], f[6], f[7]]),
                protocol: 0,
                alias: self.arrival.alias,
            },
            offset,
            more,
            ecn,
            next_header: f[0],
        };
        reassemble(ctx, ip, &fragment, 0, &frame)
    }

    /// A packet that is whole again goes to the shard of its flow; `Some`: it is here.
    fn find_shard(&self, ctx: &mut Ctx<'_>, header_len: usize, mut frame: Frame) -> Option<Frame> {
        if !ctx.shard.has_peers() {
            return Some(frame);
        }
        frame.push_front(header_len);
        match ctx.shard.owner(frame.data()) {
            Owner::Shard(to) if to != ctx.shard.index => {
                ctx.move_to(to, self.arrival.alias, self.arrival.looped, frame);
                None
            }
            _ => {
                frame.pull_front(header_len);
                Some(frame)
            }
        }
    }

    /// A whole packet gets a plain header in front, for quotes, and pulled again.
    fn restore_header(&self, packet: &InPacket, frame: &mut Frame) {
        let mut header =
            IpHeader::new(packet.src, packet.dst, packet.protocol, self.header.hop_limit);
        header.traffic_class = packet.traffic_class;
        header.ident = self.header.ident;
        let header_len = output::header_len(packet.dst);
        if frame.headroom() < header_len {
            *frame = icmp::with_headroom(core::mem::replace(frame, Frame::from_heap(0, &[])));
        }
        header.push(frame);
        frame.pull_front(header_len);
    }
}

/// The packet is whole, `frame` starts with what its IP header carries.
fn deliver(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: InPacket,
    pointer: u32,
    frame: Frame,
) -> Input {
    // Of discovery every shard has a copy; shard 0's is for raw sockets.
    let copied_before = !ctx.shard.is_home()
        && packet.protocol == protocol::ICMPV6
        && ndp::is_discovery(frame.data());
    if !copied_before {
        ip.taps.copy(&packet, &frame);
    }
    match (packet.protocol, packet.dst) {
        (protocol::ICMP, IpAddr::V4(_)) | (protocol::ICMPV6, IpAddr::V6(_)) => {
            output::stats(ctx.mib, packet.dst.is_ipv4()).in_delivers += 1;
            icmp::input(ctx, link, ip, &packet, frame)
        }
        (protocol::IGMP, IpAddr::V4(_)) => {
            ctx.mib.ip4.in_delivers += 1;
            Input::Done(multicast::input_igmp(ctx, ip, &packet, &frame))
        }
        _ => Input::Up { packet, frame, pointer },
    }
}

/// Adds a fragment; `Ok` when the packet is whole. `header_len`: what counts against 64 KiB beside
/// the payload.
fn reassemble(
    ctx: &mut Ctx<'_>,
    ip: &mut Ip,
    fragment: &Fragment,
    header_len: usize,
    frame: &Frame,
) -> Result<Whole, Fate> {
    let is_v4 = fragment.key.src.is_ipv4();
    let len = frame.total_len();
    output::stats(ctx.mib, is_v4).reasm_reqds += 1;
    // A device may give a long frame in several buffers; what waits is copied anyway.
    let linear;
    let frame = if frame.frags.is_empty() {
        frame
    } else {
        linear = frame.to_heap();
        &linear
    };
    if len == 0
        || (fragment.more && !len.is_multiple_of(8))
        || fragment.offset + len + header_len > 0xffff
    {
        return Err(lost(ctx, is_v4, DropReason::FragmentMalformed));
    }
    match ip.reassembly.input(ctx, fragment, frame) {
        Reassembled::Whole(whole) => {
            output::stats(ctx.mib, is_v4).reasm_oks += 1;
            Ok(whole)
        }
        Reassembled::Done(fate) => {
            if let Fate::Dropped(reason) = fate {
                count(output::stats(ctx.mib, is_v4), reason);
            }
            Err(fate)
        }
    }
}

/// `Timer::Reassembly` fired: reports the packets that never became whole.
pub(crate) fn reassembly_timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    while let Some(gone) = ip.reassembly.expire(ctx) {
        let is_v4 = gone.is_v4;
        output::stats(ctx.mib, is_v4).reasm_fails += 1;
        // RFC 792, RFC 4443 3.3: only who has the first fragment may report.
        if !gone.quote.is_empty() {
            let problem = Problem::ReassemblyTimeout;
            icmp::send_error(ctx, link, ip, gone.alias, problem, &gone.quote);
        }
    }
}

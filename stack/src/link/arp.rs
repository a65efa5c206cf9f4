//! ARP for IPv4 over Ethernet (RFC 826), announcements and conflicts (RFC 5227).
//!
//! Only a request addressed to us makes a neighbour entry; everything else at most updates one.

use core::net::{IpAddr, Ipv4Addr};

use super::Link;
use super::ethernet::{self, BROADCAST, EtherType};
use super::neighbour::Answer;
use crate::ctx::{Ctx, Fate};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ip::address::{Alias, AliasId, Cidr};
use crate::time::{Duration, Instant};

const PACKET_BYTES: usize = 28;
/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4.
const PREFIX: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
/// RFC 5227 1.1.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Request,
    Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    op: Op,
    pub(super) sender_mac: [u8; 6],
    pub(super) sender: Ipv4Addr,
    target_mac: [u8; 6],
    pub(super) target: Ipv4Addr,
}

impl Packet {
    fn parse(data: &[u8]) -> Option<Packet> {
        let data: &[u8; PACKET_BYTES] = data.get(..PACKET_BYTES)?.try_into().ok()?;
        if data[..6] != PREFIX {
            return None;
        }
        let op = match [data[6], data[7]] {
            [0, 1] => Op::Request,
            [0, 2] => Op::Reply,
            _ => return None,
        };
        let mac = |at: usize| core::array::from_fn(|i| data[at + i]);
        let addr = |at: usize| Ipv4Addr::new(data[at], data[at + 1], data[at + 2], data[at + 3]);
        let packet = Packet {
            op,
            sender_mac: mac(8),
            sender: addr(14),
            target_mac: mac(18),
            target: addr(24),
        };
        let s = packet.sender;
        let never = s.is_multicast() || s.is_broadcast() || s.is_loopback();
        (!never && ethernet::is_host(packet.sender_mac)).then_some(packet)
    }

    fn emit(&self, out: &mut [u8]) {
        out[..6].copy_from_slice(&PREFIX);
        out[6..8].copy_from_slice(if self.op == Op::Request { &[0, 1] } else { &[0, 2] });
        out[8..14].copy_from_slice(&self.sender_mac);
        out[14..18].copy_from_slice(&self.sender.octets());
        out[18..24].copy_from_slice(&self.target_mac);
        out[24..28].copy_from_slice(&self.target.octets());
    }
}

/// A second announcement that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announcement {
    pub(super) at: Instant,
    pub(super) alias: AliasId,
    pub(super) addr: Ipv4Addr,
}

/// IPv4 addresses in use on an alias.
fn addrs(alias: &Alias) -> impl Iterator<Item = (Ipv4Addr, Cidr)> + '_ {
    alias.addresses.iter().filter(|a| a.state.usable()).filter_map(|a| match a.cidr.addr {
        IpAddr::V4(addr) => Some((addr, a.cidr)),
        IpAddr::V6(_) => None,
    })
}

fn is_ours(alias: &Alias, addr: Ipv4Addr) -> bool {
    addrs(alias).any(|(a, _)| a == addr)
}

fn on_link(alias: &Alias, addr: Ipv4Addr) -> bool {
    addrs(alias).any(|(_, cidr)| cidr.contains(addr.into()))
}

/// The address to ask from: the packet's own, else one of the target's network (so that the answer
/// comes back), else any; a probe if there is none.
fn source(alias: &Alias, target: Ipv4Addr, src: Option<IpAddr>) -> Ipv4Addr {
    if let Some(IpAddr::V4(src)) = src
        && is_ours(alias, src)
    {
        return src;
    }
    let near = addrs(alias).find(|(_, cidr)| cidr.contains(target.into()));
    near.or_else(|| addrs(alias).next()).map_or(Ipv4Addr::UNSPECIFIED, |(a, _)| a)
}

impl Link {
    /// A received ARP packet, Ethernet header pulled. `to_us`: sent to our MAC, not to all.
    pub(super) fn arp_input(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        frame: &Frame,
        to_us: bool,
    ) -> Fate {
        let (Some(packet), Some(mac)) = (Packet::parse(frame.data()), alias.mac()) else {
            return Fate::Dropped(DropReason::ArpMalformed);
        };
        match packet.op {
            Op::Request => ctx.mib.neighbour.in_arp_requests += 1,
            Op::Reply => ctx.mib.neighbour.in_arp_replies += 1,
        }
        // Stacks of one host share their NIC's MAC address; our own frame has our address, too.
        let ours = is_ours(alias, packet.sender);
        if packet.sender_mac == mac && (ours || packet.sender.is_unspecified()) {
            return Fate::Dropped(DropReason::IpSourceIsUs);
        }
        if ours {
            return self.conflict(ctx, alias, &packet);
        }
        if self.is_probing() && ctx.shard.is_home() && self.probe_met(alias, &packet) {
            return Fate::Consumed;
        }
        match packet.op {
            Op::Request => self.arp_request(ctx, alias, mac, &packet),
            Op::Reply => self.arp_reply(ctx, alias, &packet, to_us),
        }
    }

    fn arp_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        mac: [u8; 6],
        packet: &Packet,
    ) -> Fate {
        let ours = is_ours(alias, packet.target);
        if packet.sender == packet.target {
            self.announced(ctx, alias, packet.sender.into(), packet.sender_mac);
        } else if !packet.sender.is_unspecified() {
            let create = ours && on_link(alias, packet.sender);
            self.heard(ctx, alias, packet.sender.into(), packet.sender_mac, create);
        }
        // Shard 0 answers, the others listen.
        if ours && !ctx.shard.is_home() {
            return Fate::Consumed;
        }
        if !ours {
            let announcement = packet.sender == packet.target;
            let not_for_us = Fate::Dropped(DropReason::ArpNotForUs);
            return if announcement { Fate::Consumed } else { not_for_us };
        }
        let reply = Packet {
            op: Op::Reply,
            sender_mac: mac,
            sender: packet.target,
            target_mac: packet.sender_mac,
            target: packet.sender,
        };
        send(ctx, alias, &reply, packet.sender_mac);
        Fate::Consumed
    }

    fn arp_reply(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        packet: &Packet,
        to_us: bool,
    ) -> Fate {
        let solicited = to_us && is_ours(alias, packet.target);
        let mac = Some(packet.sender_mac);
        let announced = !to_us && packet.sender == packet.target;
        let answer = Answer { mac, solicited, overrides: true, router: false, announced };
        self.answered(ctx, alias, packet.sender.into(), answer);
        Fate::Consumed
    }

    /// RFC 5227 2.3: two announcements, two seconds apart.
    pub(super) fn arp_announce(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, addr: Ipv4Addr) {
        let id = alias.config.id;
        announce_once(ctx, alias, addr);
        self.announcements.retain(|a| (a.alias, a.addr) != (id, addr));
        let at = ctx.now + ANNOUNCE_INTERVAL;
        self.announcements.push_back(Announcement { at, alias: id, addr });
    }
}

/// Announces an address that is still ours.
pub(super) fn announce_once(ctx: &mut Ctx<'_>, alias: &Alias, addr: Ipv4Addr) {
    let Some(mac) = alias.mac().filter(|_| alias.config.up && is_ours(alias, addr)) else {
        return;
    };
    let packet =
        Packet { op: Op::Request, sender_mac: mac, sender: addr, target_mac: [0; 6], target: addr };
    send(ctx, alias, &packet, BROADCAST);
}

/// Asks who has `target`: a known neighbour (`mac`) or everybody.
pub(super) fn ask(
    ctx: &mut Ctx<'_>,
    alias: &Alias,
    target: Ipv4Addr,
    mac: Option<[u8; 6]>,
    src: Option<IpAddr>,
) {
    let sender = source(alias, target, src);
    send_request(ctx, alias, sender, target, mac.unwrap_or(BROADCAST));
}

/// Sends a request; from 0.0.0.0 it is a probe (RFC 5227 1.1).
pub(super) fn send_request(
    ctx: &mut Ctx<'_>,
    alias: &Alias,
    sender: Ipv4Addr,
    target: Ipv4Addr,
    to: [u8; 6],
) {
    let Some(sender_mac) = alias.mac() else { return };
    let packet = Packet { op: Op::Request, sender_mac, sender, target_mac: [0; 6], target };
    send(ctx, alias, &packet, to);
}

fn send(ctx: &mut Ctx<'_>, alias: &Alias, packet: &Packet, dst: [u8; 6]) {
    let Some(mut frame) = ctx.pool.alloc() else {
        return ctx.drop_out(DropReason::FramePoolEmpty);
    };
    packet.emit(frame.push_back(PACKET_BYTES));
    ethernet::push(&mut frame, dst, packet.sender_mac, EtherType::Arp);
    match packet.op {
        Op::Request => ctx.mib.neighbour.out_arp_requests += 1,
        Op::Reply => ctx.mib.neighbour.out_arp_replies += 1,
    }
    super::transmit(ctx, alias.config.id, frame);
}

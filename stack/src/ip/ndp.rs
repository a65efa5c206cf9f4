//! Neighbour discovery (RFC 4861), duplicate address detection and SLAAC (RFC 4862).

use core::net::Ipv6Addr;

use super::Ip;
use super::address::AliasId;
use crate::ctx::{Ctx, Fate};
use crate::frame::Frame;
use crate::link::{Link, NeighbourTimes};
use crate::lower::InPacket;

/// Per-alias state of router discovery and SLAAC.
#[derive(Debug, Default)]
pub(crate) struct AliasNdp {
    /// Times of the alias's neighbours.
    pub(crate) times: NeighbourTimes,
}

/// Sends what the link layer asked for, and takes note of neighbours that stopped answering. To be
/// called after every call into the stack that may send.
pub(crate) fn link_work(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    let _ = (ctx, link, ip);
}

/// ICMPv6 types 133 to 137, checksum verified. `frame` starts with the ICMPv6 header.
pub(crate) fn input(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    frame: Frame,
) -> Fate {
    let _ = (ctx, link, ip, packet, frame);
    Fate::Consumed
}

/// `Timer::Ndp` fired.
pub(crate) fn timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    let _ = (ctx, link, ip);
}

/// The alias came up: makes a link-local address, solicits routers.
pub(crate) fn alias_up(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    let _ = (ctx, link, ip, alias);
}

/// The alias went down: DAD and router discovery stop.
pub(crate) fn alias_down(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    let _ = (ctx, link, ip, alias);
}

/// A tentative address is in the table: joins the solicited-node group, starts DAD, and calls
/// [`Ip::address_ready`] when it ends well (at once where there is no link to ask, `AliasMedium::Ip`).
pub(crate) fn address_added(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
) {
    let _ = link;
    ip.address_ready(ctx, alias, addr.into());
}

/// The address left the table: leaves its solicited-node group, ends its DAD.
pub(crate) fn address_removed(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
) {
    let _ = (ctx, link, ip, alias, addr);
}

//! Group membership: IGMPv3 (RFC 3376) and MLDv2 (RFC 3810).

use core::net::IpAddr;

use super::Ip;
use super::address::AliasId;
use crate::ctx::{Ctx, Fate};
use crate::frame::Frame;
use crate::link::Link;
use crate::lower::InPacket;
use crate::stack::ChangeError;

/// Groups of one alias.
#[derive(Debug, Default)]
pub(crate) struct Groups {}

impl Groups {
    /// Whether packets to `group` are wanted (224.0.0.1 and ff02::1 always are).
    pub(crate) fn contains(&self, group: IpAddr) -> bool {
        let _ = group;
        true
    }
}

/// One more user of `group` on the alias; the first makes a report and `Event::GroupJoined`.
pub(crate) fn join(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    group: IpAddr,
) -> Result<(), ChangeError> {
    let _ = (ctx, link, ip, alias, group);
    Ok(())
}

/// One user of `group` less; the last makes a report and `Event::GroupLeft`.
pub(crate) fn leave(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    group: IpAddr,
) {
    let _ = (ctx, link, ip, alias, group);
}

/// An IGMP message; `frame` starts with it, the checksum is not verified.
pub(crate) fn input_igmp(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    frame: Frame,
) -> Fate {
    let _ = (ctx, link, ip, packet, frame);
    Fate::Consumed
}

/// ICMPv6 types 130, 131, 132 and 143; `frame` starts with it, the checksum is verified.
pub(crate) fn input_mld(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    frame: Frame,
) -> Fate {
    let _ = (ctx, link, ip, packet, frame);
    Fate::Consumed
}

/// `Timer::Membership` fired.
pub(crate) fn timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    let _ = (ctx, link, ip);
}

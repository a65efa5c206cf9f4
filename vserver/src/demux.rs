//! Which vserver a frame belongs to: link and destination MAC give the alias, alias and destination
//! address give the vserver. Sans-IO.
//!
//! Every decision is a constant number of hash look-ups (times the few aliases of one link that
//! share a MAC address), whatever the number of vservers; only a frame for many takes as long as
//! its list of receivers. The tables follow the stacks' events: an address is here from
//! `AddressAdded` to `AddressRemoved`, a group from `GroupJoined` to `GroupLeft`.
//!
//! The hash tables are not keyed with a secret: all keys in them come from this host.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use weft_stack::drop::DropReason;
use weft_stack::ip::address::AliasId;

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IP4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IP6: u16 = 0x86dd;
const ALL_HOSTS: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));
const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

/// One receiver of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) alias: AliasId,
    pub(crate) vserver: u32,
}

#[derive(Clone, Debug)]
struct LinkAlias {
    id: AliasId,
    /// `None` on an L3 device.
    mac: Option<[u8; 6]>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Demux {
    /// By link.
    aliases: Vec<Vec<LinkAlias>>,
    unicast: HashMap<(AliasId, IpAddr), u32>,
    /// Who has an address too that was another vserver's when it came. Stacks do not tell of their
    /// changes in the order in which these were made, so the other one may only seem to have it.
    claims: HashMap<(AliasId, IpAddr), Vec<u32>>,
    /// Multicast groups and directed broadcast addresses.
    groups: HashMap<(AliasId, IpAddr), Vec<u32>>,
    /// Everybody attached to an alias, for what goes to all nodes of a link.
    attached: HashMap<AliasId, BTreeSet<u32>>,
    /// Who takes packets for foreign destinations.
    forwarders: HashMap<AliasId, u32>,
}

/// A frame without its link header.
#[derive(Clone, Copy)]
struct Parsed<'a> {
    /// Destination; none on an L3 device.
    mac: Option<[u8; 6]>,
    ethertype: u16,
    packet: &'a [u8],
}

/// What the headers say of the destination.
enum Destination {
    /// Of the alias with this MAC address (`None`: any), to this address.
    One(IpAddr),
    /// To a group, a broadcast address.
    Many(IpAddr),
}

impl Demux {
    pub(crate) fn add_link(&mut self) {
        self.aliases.push(Vec::new());
    }

    /// An alias on a link, with the MAC address it answers for.
    pub(crate) fn add_alias(&mut self, link: usize, id: AliasId, mac: Option<[u8; 6]>) {
        self.aliases[link].push(LinkAlias { id, mac });
    }

    /// There are so many links from now on, and aliases stand on them like this.
    pub(crate) fn set_links(
        &mut self,
        links: usize,
        aliases: impl Iterator<Item = (usize, AliasId, Option<[u8; 6]>)>,
    ) {
        self.aliases = vec![Vec::new(); links];
        for (link, id, mac) in aliases {
            self.add_alias(link, id, mac);
        }
    }

    /// An alias is gone; nobody is attached to it.
    pub(crate) fn remove_alias(&mut self, link: usize, id: AliasId) {
        self.aliases[link].retain(|a| a.id != id);
        self.attached.remove(&id);
    }

    /// Whether the vserver could take packets to foreign destinations.
    pub(crate) fn may_forward(&self, alias: AliasId, vserver: u32) -> bool {
        self.forwarders.get(&alias).is_none_or(|f| *f == vserver)
    }

    pub(crate) fn attach(&mut self, alias: AliasId, vserver: u32) {
        self.attached.entry(alias).or_default().insert(vserver);
    }

    /// It is attached no longer, and takes no packets to foreign destinations there.
    pub(crate) fn detach(&mut self, alias: AliasId, vserver: u32) {
        self.claims.retain(|(on, _), all| {
            all.retain(|v| *on != alias || *v != vserver);
            !all.is_empty()
        });
        if let Some(attached) = self.attached.get_mut(&alias) {
            attached.remove(&vserver);
        }
        self.clear_forwarder(alias, vserver);
    }

    /// The vserver no longer takes packets to foreign destinations.
    pub(crate) fn clear_forwarder(&mut self, alias: AliasId, vserver: u32) {
        if self.forwarders.get(&alias) == Some(&vserver) {
            self.forwarders.remove(&alias);
        }
    }

    /// Who is attached to an alias.
    pub(crate) fn attached(&self, alias: AliasId) -> Vec<u32> {
        self.attached.get(&alias).into_iter().flatten().copied().collect()
    }

    /// The vserver takes packets to foreign destinations; `false` if another does already.
    pub(crate) fn set_forwarder(&mut self, alias: AliasId, vserver: u32) -> bool {
        *self.forwarders.entry(alias).or_insert(vserver) == vserver
    }

    /// Whether a frame may go on to another alias: forwarders get packets as the wire carried them,
    /// with the flags that cutting a merged one would lose.
    pub(crate) fn forwards(&self, to: Target) -> bool {
        !self.forwarders.is_empty() && self.forwarders.get(&to.alias) == Some(&to.vserver)
    }

    /// `Some(other)` if another vserver has the address on the alias: this one comes after it.
    pub(crate) fn add_address(
        &mut self,
        alias: AliasId,
        addr: IpAddr,
        vserver: u32,
    ) -> Option<u32> {
        let owner = *self.unicast.entry((alias, addr)).or_insert(vserver);
        if owner == vserver {
            return None;
        }
        let claims = self.claims.entry((alias, addr)).or_default();
        if !claims.contains(&vserver) {
            claims.push(vserver);
        }
        Some(owner)
    }

    /// A vserver's entry goes, or its claim on another's; entries of others stay.
    pub(crate) fn remove_address(&mut self, alias: AliasId, addr: IpAddr, vserver: u32) {
        if self.unicast.get(&(alias, addr)) == Some(&vserver) {
            self.unicast.remove(&(alias, addr));
        }
        if let Some(claims) = self.claims.get_mut(&(alias, addr)) {
            claims.retain(|v| *v != vserver);
            if claims.is_empty() {
                self.claims.remove(&(alias, addr));
            }
        }
    }

    /// Who claims an address that nobody has.
    pub(crate) fn heir(&self, alias: AliasId, addr: IpAddr) -> Option<u32> {
        if self.unicast.contains_key(&(alias, addr)) {
            return None;
        }
        self.claims.get(&(alias, addr))?.first().copied()
    }

    /// Also takes directed broadcast addresses.
    pub(crate) fn join(&mut self, alias: AliasId, group: IpAddr, vserver: u32) {
        let members = self.groups.entry((alias, group)).or_default();
        if !members.contains(&vserver) {
            members.push(vserver);
        }
    }

    pub(crate) fn leave(&mut self, alias: AliasId, group: IpAddr, vserver: u32) {
        if let Some(members) = self.groups.get_mut(&(alias, group)) {
            members.retain(|m| *m != vserver);
            if members.is_empty() {
                self.groups.remove(&(alias, group));
            }
        }
    }

    /// All entries, a line each.
    #[cfg(test)]
    pub(crate) fn describe(&self, name: &dyn Fn(u32) -> String) -> Vec<String> {
        let mut lines = Vec::new();
        for (link, aliases) in self.aliases.iter().enumerate().filter(|(_, a)| !a.is_empty()) {
            lines.push(format!("link {link}: {aliases:?}"));
        }
        for ((alias, addr), v) in &self.unicast {
            lines.push(format!("{alias:?} {addr} is {}", name(*v)));
        }
        for ((alias, addr), all) in &self.claims {
            lines.extend(all.iter().map(|v| format!("{alias:?} {addr} claimed by {}", name(*v))));
        }
        for ((alias, group), members) in &self.groups {
            lines.extend(members.iter().map(|v| format!("{alias:?} {group} has {}", name(*v))));
        }
        for (alias, all) in &self.attached {
            lines.extend(all.iter().map(|v| format!("{alias:?} attached {}", name(*v))));
        }
        for (alias, v) in &self.forwarders {
            lines.push(format!("{alias:?} forwards by {}", name(*v)));
        }
        lines
    }

    /// Appends the receivers of a frame from `link` to `out`, or says why there is none.
    pub(crate) fn classify(
        &self,
        link: usize,
        frame: &[u8],
        out: &mut Vec<Target>,
    ) -> Result<(), DropReason> {
        let parsed = self.split_link(link, frame)?;
        let mac = parsed.mac;
        let before = out.len();
        match destination(parsed)? {
            Destination::One(addr) => self.one(link, mac, addr, out)?,
            Destination::Many(group) => {
                self.solicited(link, mac, parsed.packet, out);
                if out.len() == before {
                    self.many(link, mac, group, out);
                }
            }
        }
        if out.len() == before && parsed.ethertype == ETHERTYPE_ARP {
            // Somebody else speaks from it: a conflict, or the answer to a probe (RFC 5227 2.4).
            self.one(link, mac, ip4(&parsed.packet[14..]), out)?;
        }
        if out.len() == before && is_announcement(parsed) {
            // An address is elsewhere now: who has its sender as a neighbour learns that.
            self.all(link, mac, out);
        }
        match parsed.ethertype {
            _ if out.len() > before => Ok(()),
            ETHERTYPE_ARP => Err(DropReason::ArpNotForUs),
            _ if mac.is_none_or(|m| m[0] & 1 == 0) => Err(DropReason::DemuxNoVserver),
            _ => Err(DropReason::DemuxMulticastUnwanted),
        }
    }

    fn split_link<'a>(&self, link: usize, frame: &'a [u8]) -> Result<Parsed<'a>, DropReason> {
        let ethernet = self.aliases[link].first().is_none_or(|a| a.mac.is_some());
        if !ethernet {
            let ethertype = match frame.first().map(|b| b >> 4) {
                Some(4) => ETHERTYPE_IP4,
                Some(6) => ETHERTYPE_IP6,
                Some(_) => return Err(DropReason::IpVersionWrong),
                None => return Err(DropReason::IpTruncated),
            };
            return Ok(Parsed { mac: None, ethertype, packet: frame });
        }
        let Some((header, packet)) = frame.split_first_chunk::<ETHERNET_BYTES>() else {
            return Err(DropReason::EthernetTruncated);
        };
        let mac = header.first_chunk::<6>().copied();
        let ethertype = u16::from_be_bytes([header[12], header[13]]);
        Ok(Parsed { mac, ethertype, packet })
    }

    /// Aliases of the link that a frame to `mac` can be for.
    fn candidates(&self, link: usize, mac: Option<[u8; 6]>) -> impl Iterator<Item = AliasId> + '_ {
        let for_alias = move |a: &&LinkAlias| match (mac, a.mac) {
            (Some(to), Some(own)) => to[0] & 1 == 1 || to == own,
            _ => true,
        };
        self.aliases[link].iter().filter(for_alias).map(|a| a.id)
    }

    fn one(
        &self,
        link: usize,
        mac: Option<[u8; 6]>,
        addr: IpAddr,
        out: &mut Vec<Target>,
    ) -> Result<(), DropReason> {
        let before = out.len();
        let mut any = false;
        for alias in self.candidates(link, mac) {
            any = true;
            if let Some(vserver) = self.unicast.get(&(alias, addr)) {
                out.push(Target { alias, vserver: *vserver });
            }
        }
        if !any {
            return Err(DropReason::NotForThisHost);
        }
        let to_group = mac.is_some_and(|m| m[0] & 1 == 1);
        if out.len() == before && (to_group || mac.is_none()) {
            self.members(link, mac, addr, out);
        }
        if out.len() == before && !to_group {
            let forwards = |alias| Some(Target { alias, vserver: *self.forwarders.get(&alias)? });
            out.extend(self.candidates(link, mac).find_map(forwards));
        }
        Ok(())
    }

    fn many(&self, link: usize, mac: Option<[u8; 6]>, group: IpAddr, out: &mut Vec<Target>) {
        if to_all(group) {
            self.all(link, mac, out);
        } else {
            self.members(link, mac, group, out);
        }
    }

    /// Everybody on the aliases that a frame can be for.
    fn all(&self, link: usize, mac: Option<[u8; 6]>, out: &mut Vec<Target>) {
        for alias in self.candidates(link, mac) {
            let attached = self.attached.get(&alias).into_iter().flatten();
            out.extend(attached.map(|v| Target { alias, vserver: *v }));
        }
    }

    fn members(&self, link: usize, mac: Option<[u8; 6]>, group: IpAddr, out: &mut Vec<Target>) {
        for alias in self.candidates(link, mac) {
            let members = self.groups.get(&(alias, group)).into_iter().flatten();
            out.extend(members.map(|v| Target { alias, vserver: *v }));
        }
    }

    /// A multicast neighbour solicitation goes by its target, so that vservers whose addresses
    /// share a solicited-node group do not see each other's.
    fn solicited(&self, link: usize, mac: Option<[u8; 6]>, packet: &[u8], out: &mut Vec<Target>) {
        const NEXT_HEADER: usize = 6;
        const ICMP: usize = 40;
        const TARGET: usize = ICMP + 8;
        let solicitation = packet.len() >= TARGET + 16
            && packet[0] >> 4 == 6
            && packet[NEXT_HEADER] == 58
            && packet[ICMP] == 135;
        if !solicitation {
            return;
        }
        let target = ip6(&packet[TARGET..]);
        for alias in self.candidates(link, mac) {
            if let Some(vserver) = self.unicast.get(&(alias, target)) {
                out.push(Target { alias, vserver: *vserver });
            }
        }
    }

    /// Appends receivers on this host of a frame that `sender` transmits on `link`: vservers that
    /// share a link reach each other without the wire. Returns whether the frame is for them only.
    pub(crate) fn local(
        &self,
        link: usize,
        frame: &[u8],
        sender: u32,
        out: &mut Vec<Target>,
    ) -> bool {
        let Ok(parsed) = self.split_link(link, frame) else { return false };
        let mac = parsed.mac;
        let to_group = mac.is_some_and(|m| m[0] & 1 == 1);
        if !to_group && mac.is_some() && self.candidates(link, mac).next().is_none() {
            return false;
        }
        let before = out.len();
        match destination(parsed) {
            // To all nodes of a link: of each vserver to each other, that is a square.
            Ok(Destination::Many(group)) if to_all(group) => return false,
            Ok(Destination::One(addr)) => drop(self.one(link, mac, addr, out)),
            Ok(Destination::Many(group)) => {
                self.solicited(link, mac, parsed.packet, out);
                if out.len() == before {
                    self.many(link, mac, group, out);
                }
            }
            Err(_) => return false,
        }
        let mut kept = before;
        for i in before..out.len() {
            if out[i].vserver != sender {
                out[kept] = out[i];
                kept += 1;
            }
        }
        out.truncate(kept);
        // On an L3 device a packet to nobody here is for the far side.
        !to_group && (mac.is_some() || out.len() > before)
    }
}

/// ARP to everybody whose sender names itself (RFC 5227 3): nobody is asked, all are told.
fn is_announcement(parsed: Parsed<'_>) -> bool {
    let Parsed { mac, ethertype, packet } = parsed;
    ethertype == ETHERTYPE_ARP
        && mac.is_some_and(|m| m[0] & 1 == 1)
        && packet[14..18] == packet[24..28]
        && packet[14..18] != [0; 4]
}

fn to_all(group: IpAddr) -> bool {
    group == ALL_HOSTS || group == ALL_NODES || group == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn ip4(bytes: &[u8]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
}

fn ip6(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[..16]);
    IpAddr::V6(octets.into())
}

fn destination(parsed: Parsed<'_>) -> Result<Destination, DropReason> {
    let Parsed { ethertype, packet, .. } = parsed;
    match ethertype {
        ETHERTYPE_IP4 if packet.len() < 20 => Err(DropReason::IpTruncated),
        ETHERTYPE_IP4 => {
            let dst = ip4(&packet[16..]);
            let many = dst.is_multicast() || dst == IpAddr::V4(Ipv4Addr::BROADCAST);
            Ok(if many { Destination::Many(dst) } else { Destination::One(dst) })
        }
        ETHERTYPE_IP6 if packet.len() < 40 => Err(DropReason::IpTruncated),
        ETHERTYPE_IP6 => {
            let dst = ip6(&packet[24..]);
            let many = dst.is_multicast();
            Ok(if many { Destination::Many(dst) } else { Destination::One(dst) })
        }
        // Requests and replies alike go by the target protocol address (RFC 826).
        ETHERTYPE_ARP if packet.len() < 28 => Err(DropReason::ArpMalformed),
        ETHERTYPE_ARP => Ok(Destination::One(ip4(&packet[24..]))),
        _ => Err(DropReason::EthertypeUnknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const DATA: AliasId = AliasId(0);
    const SAN: AliasId = AliasId(1);

    fn addr(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    /// NIC 0: `data0` with the NIC's MAC, `san0` with its own. NIC 1: an L3 device.
    fn demux() -> Demux {
        let mut d = Demux::default();
        d.add_link();
        d.add_alias(0, DATA, Some(NIC_MAC));
        d.add_alias(0, SAN, Some(OWN_MAC));
        d.add_link();
        d.add_alias(1, AliasId(2), None);
        for v in 0..3 {
            d.attach(DATA, v);
        }
        d.attach(SAN, 1);
        assert_eq!(d.add_address(DATA, addr("10.0.0.1"), 0), None);
        assert_eq!(d.add_address(DATA, addr("10.0.0.2"), 1), None);
        assert_eq!(d.add_address(DATA, addr("fd00::1"), 0), None);
        d
    }

    fn frame(mac: [u8; 6], packet: &[u8], ethertype: u16) -> Vec<u8> {
        let mut f = mac.to_vec();
        f.extend([2, 0, 0, 0, 0, 9]);
        f.extend(ethertype.to_be_bytes());
        f.extend(packet);
        f
    }

    fn packet(dst: &str) -> Vec<u8> {
        match addr(dst) {
            IpAddr::V4(a) => {
                let mut p = vec![0; 20];
                p[0] = 0x45;
                p[16..].copy_from_slice(&a.octets());
                p
            }
            IpAddr::V6(a) => {
                let mut p = vec![0; 40];
                p[0] = 0x60;
                p[24..].copy_from_slice(&a.octets());
                p
            }
        }
    }

    fn to(d: &Demux, mac: [u8; 6], dst: &str) -> Result<Vec<(u16, u32)>, DropReason> {
        let ethertype = if addr(dst).is_ipv4() { ETHERTYPE_IP4 } else { ETHERTYPE_IP6 };
        classify(d, 0, &frame(mac, &packet(dst), ethertype))
    }

    fn classify(d: &Demux, link: usize, frame: &[u8]) -> Result<Vec<(u16, u32)>, DropReason> {
        let mut out = Vec::new();
        d.classify(link, frame, &mut out)?;
        Ok(out.iter().map(|t| (t.alias.0, t.vserver)).collect())
    }

    #[test]
    fn address_and_mac_choose_the_vserver() {
        let d = demux();
        assert_eq!(to(&d, NIC_MAC, "10.0.0.1"), Ok(vec![(0, 0)]));
        assert_eq!(to(&d, NIC_MAC, "10.0.0.2"), Ok(vec![(0, 1)]));
        assert_eq!(to(&d, NIC_MAC, "fd00::1"), Ok(vec![(0, 0)]));
        assert_eq!(to(&d, NIC_MAC, "10.0.0.9"), Err(DropReason::DemuxNoVserver));
        assert_eq!(to(&d, [2, 9, 9, 9, 9, 9], "10.0.0.1"), Err(DropReason::NotForThisHost));
    }

    #[test]
    fn the_same_address_on_two_aliases_does_not_mix() {
        let mut d = demux();
        assert_eq!(d.add_address(SAN, addr("10.0.0.1"), 1), None);
        assert_eq!(to(&d, NIC_MAC, "10.0.0.1"), Ok(vec![(0, 0)]));
        assert_eq!(to(&d, OWN_MAC, "10.0.0.1"), Ok(vec![(1, 1)]));
        assert_eq!(d.add_address(DATA, addr("10.0.0.1"), 2), Some(0), "never twice on one");
        d.remove_address(DATA, addr("10.0.0.1"), 2);
        assert_eq!(to(&d, NIC_MAC, "10.0.0.1"), Ok(vec![(0, 0)]), "only its owner removes it");
        d.remove_address(DATA, addr("10.0.0.1"), 0);
        assert_eq!(to(&d, NIC_MAC, "10.0.0.1"), Err(DropReason::DemuxNoVserver));
        assert_eq!(d.heir(DATA, addr("10.0.0.1")), None, "whoever gave up its claim has none");
    }

    #[test]
    fn who_came_second_to_an_address_is_known_until_it_gives_it_up() {
        let (mut d, a) = (demux(), addr("10.0.0.1"));
        for late in [2, 1, 2] {
            assert_eq!(d.add_address(DATA, a, late), Some(0));
        }
        assert_eq!(d.heir(DATA, a), None, "it has an owner");
        d.remove_address(DATA, a, 0);
        assert_eq!(d.heir(DATA, a), Some(2));
        assert_eq!(d.add_address(DATA, a, 2), None);
        d.remove_address(DATA, a, 2);
        assert_eq!(d.heir(DATA, a), Some(1), "it had one claim only");
        d.remove_address(DATA, a, 1);
        assert_eq!((d.heir(DATA, a), d.claims.len()), (None, 0));
        // Whoever leaves the alias claims nothing on it.
        for vserver in [0, 1] {
            d.add_address(DATA, a, vserver);
        }
        d.detach(DATA, 1);
        assert_eq!(d.claims.len(), 0);
    }

    #[test]
    fn arp_goes_by_its_target() {
        let d = demux();
        let mut arp = vec![0; 28];
        arp[24..].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(classify(&d, 0, &frame([0xff; 6], &arp, ETHERTYPE_ARP)), Ok(vec![(0, 1)]));
        arp[27] = 77;
        arp[14..18].copy_from_slice(&[10, 0, 0, 1]);
        let rival = classify(&d, 0, &frame([0xff; 6], &arp, ETHERTYPE_ARP));
        assert_eq!(rival, Ok(vec![(0, 0)]), "by its sender, if that is an address of ours");
        arp[17] = 78;
        let miss = classify(&d, 0, &frame([0xff; 6], &arp, ETHERTYPE_ARP));
        assert_eq!(miss, Err(DropReason::ArpNotForUs));
        let short = classify(&d, 0, &frame([0xff; 6], &arp[..27], ETHERTYPE_ARP));
        assert_eq!(short, Err(DropReason::ArpMalformed));
    }

    #[test]
    fn groups_have_their_members_and_all_nodes_everybody() {
        let mut d = demux();
        let mac = [0x33, 0x33, 0, 0, 0, 1];
        d.join(DATA, addr("ff02::5"), 2);
        d.join(DATA, addr("ff02::5"), 0);
        d.join(DATA, addr("ff02::5"), 0);
        assert_eq!(to(&d, mac, "ff02::5"), Ok(vec![(0, 2), (0, 0)]));
        d.leave(DATA, addr("ff02::5"), 2);
        d.leave(DATA, addr("ff02::5"), 0);
        assert_eq!(to(&d, mac, "ff02::5"), Err(DropReason::DemuxMulticastUnwanted));
        assert!(d.groups.is_empty());
        assert_eq!(to(&d, mac, "ff02::1"), Ok(vec![(0, 0), (0, 1), (0, 2), (1, 1)]));
        assert_eq!(to(&d, [0xff; 6], "255.255.255.255").unwrap().len(), 4);
        d.join(DATA, addr("10.0.0.255"), 1);
        assert_eq!(to(&d, [0xff; 6], "10.0.0.255"), Ok(vec![(0, 1)]));
    }

    #[test]
    fn a_solicitation_goes_by_its_target_and_else_by_its_group() {
        let mut d = demux();
        let group = "ff02::1:ff00:1";
        d.join(DATA, addr(group), 0);
        d.join(DATA, addr(group), 2);
        let mut p = packet(group);
        p[6] = 58;
        p.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        let at = p.len();
        p.extend(match addr("fd00::1") {
            IpAddr::V6(a) => a.octets(),
            IpAddr::V4(_) => unreachable!(),
        });
        let mac = [0x33, 0x33, 0xff, 0, 0, 1];
        assert_eq!(classify(&d, 0, &frame(mac, &p, ETHERTYPE_IP6)), Ok(vec![(0, 0)]));
        p[at] = 0xfe;
        let tentative = classify(&d, 0, &frame(mac, &p, ETHERTYPE_IP6));
        assert_eq!(tentative, Ok(vec![(0, 0), (0, 2)]));
    }

    #[test]
    fn foreign_destinations_go_to_the_forwarder_only() {
        let mut d = demux();
        assert!(d.set_forwarder(DATA, 2));
        assert!(!d.set_forwarder(DATA, 1));
        assert_eq!(to(&d, NIC_MAC, "192.0.2.1"), Ok(vec![(0, 2)]));
        assert_eq!(to(&d, [0xff; 6], "192.0.2.1"), Err(DropReason::DemuxMulticastUnwanted));
    }

    #[test]
    fn an_l3_device_has_no_mac() {
        let mut d = demux();
        d.add_address(AliasId(2), addr("10.0.0.1"), 2);
        assert_eq!(classify(&d, 1, &packet("10.0.0.1")), Ok(vec![(2, 2)]));
        assert_eq!(classify(&d, 1, &packet("10.0.0.7")), Err(DropReason::DemuxNoVserver));
        assert_eq!(classify(&d, 1, &[]), Err(DropReason::IpTruncated));
        assert_eq!(classify(&d, 1, &[0x10; 40]), Err(DropReason::IpVersionWrong));
    }

    #[test]
    fn vservers_of_one_nic_reach_each_other_and_never_themselves() {
        let d = demux();
        let mut out = Vec::new();
        let f = frame(NIC_MAC, &packet("10.0.0.2"), ETHERTYPE_IP4);
        assert!(d.local(0, &f, 0, &mut out));
        assert_eq!(out, [Target { alias: DATA, vserver: 1 }]);
        out.clear();
        let away = frame([2, 9, 9, 9, 9, 9], &packet("10.0.0.2"), ETHERTYPE_IP4);
        assert!(!d.local(0, &away, 0, &mut out));
        let mut arp = vec![0; 28];
        arp[24..].copy_from_slice(&[10, 0, 0, 2]);
        let arp = frame([0xff; 6], &arp, ETHERTYPE_ARP);
        assert!(!d.local(0, &arp, 1, &mut out), "an announcement leaves the host");
        assert!(out.is_empty(), "and does not come back to its sender");
        assert!(!d.local(0, &arp, 0, &mut out));
        assert_eq!(out, [Target { alias: DATA, vserver: 1 }]);
    }

    #[test]
    fn an_announcement_is_told_to_everybody_on_the_network() {
        let mut d = demux();
        d.attach(DATA, 1);
        d.attach(DATA, 4);
        let arp = |to: [u8; 6], sender: [u8; 4], target: [u8; 4]| {
            let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 9, 9, 9, 9, 9];
            packet.extend(sender);
            packet.extend([0; 6]);
            packet.extend(target);
            frame(to, &packet, ETHERTYPE_ARP)
        };
        let (there, other) = ([10, 0, 0, 77], [10, 0, 0, 78]);
        let told = classify(&d, 0, &arp([0xff; 6], there, there)).unwrap();
        assert!(told.contains(&(DATA.0, 1)) && told.contains(&(DATA.0, 4)), "{told:?}");
        for quiet in [
            arp([0xff; 6], there, other),
            arp(NIC_MAC, there, there),
            arp([0xff; 6], [0; 4], [0; 4]),
        ] {
            assert_eq!(classify(&d, 0, &quiet), Err(DropReason::ArpNotForUs));
        }
    }

    #[test]
    fn truncated_frames_have_a_reason() {
        let d = demux();
        let whole = frame(NIC_MAC, &packet("fd00::1"), ETHERTYPE_IP6);
        for len in 0..whole.len() {
            assert!(classify(&d, 0, &whole[..len]).is_err());
        }
        assert_eq!(
            classify(&d, 0, &frame(NIC_MAC, &[], 0x1234)),
            Err(DropReason::EthertypeUnknown)
        );
    }
}

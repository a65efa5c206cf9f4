//! LLDPDUs (IEEE 802.1AB clause 8, annexes D and F), as frames without FCS.
//!
//! The three mandatory TLVs come first and once. Any other that cannot be read is left out and
//! counted, as 802.1AB 9.2.7.7 asks; the rest of the LLDPDU holds. Text loses its control
//! characters here: it is shown on terminals.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::Mac;

/// Ethertype of LLDP.
pub const ETHERTYPE_LLDP: u16 = 0x88cc;
/// Destination that no bridge passes on.
pub const NEAREST_BRIDGE: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
/// Destination that only two-port relays pass on.
pub const NEAREST_NON_TPMR: Mac = [0x01, 0x80, 0xc2, 0, 0, 3];
/// Destination that provider bridges pass on.
pub const NEAREST_CUSTOMER: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];
/// VLANs of one port that are kept.
pub const VLANS_MAX: usize = 256;
/// Management addresses that are kept.
pub const MANAGEMENT_MAX: usize = 4;
/// Capability bit of a bridge.
pub const CAPABILITY_BRIDGE: u16 = 1 << 2;

const HEADER_BYTES: usize = 14;
/// Shorter frames do not exist on a wire.
const FRAME_BYTES_MIN: usize = 60;
const OUI_8021: [u8; 3] = [0x00, 0x80, 0xc2];
const OUI_8023: [u8; 3] = [0x00, 0x12, 0x0f];
const TEXT_BYTES_MAX: usize = 255;

/// What the bytes of an identifier are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdKind {
    /// A component (`entPhysicalAlias`).
    Component,
    /// `ifAlias`.
    Alias,
    /// A port of the backplane.
    PortComponent,
    /// A MAC address.
    Mac,
    /// A network address.
    Address,
    /// The name of an interface.
    InterfaceName,
    /// A circuit of an agent (DHCP).
    Circuit,
    /// Known to the sender only.
    Local,
    /// Of a later standard.
    Reserved(u8),
}

/// By subtype, from 1 on.
const CHASSIS_KINDS: [IdKind; 7] = [
    IdKind::Component,
    IdKind::Alias,
    IdKind::PortComponent,
    IdKind::Mac,
    IdKind::Address,
    IdKind::InterfaceName,
    IdKind::Local,
];
const PORT_KINDS: [IdKind; 7] = [
    IdKind::Alias,
    IdKind::PortComponent,
    IdKind::Mac,
    IdKind::Address,
    IdKind::InterfaceName,
    IdKind::Circuit,
    IdKind::Local,
];

/// The identifier of a chassis or port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// What it is.
    pub kind: IdKind,
    /// Its 1 to 255 bytes.
    pub bytes: Vec<u8>,
}

impl Id {
    /// A MAC address.
    pub fn mac(kind: IdKind, mac: Mac) -> Id {
        Id { kind, bytes: mac.to_vec() }
    }

    /// A name.
    pub fn text(kind: IdKind, name: &str) -> Id {
        Id { kind, bytes: name.as_bytes().to_vec() }
    }

    fn read(kinds: &[IdKind; 7], value: &[u8]) -> Result<Id, Discarded> {
        // 802.1AB 8.5.2.2, 8.5.3.2
        let (subtype, bytes) = value.split_first().ok_or(Discarded::Mandatory)?;
        if bytes.is_empty() || bytes.len() > TEXT_BYTES_MAX {
            return Err(Discarded::Mandatory);
        }
        let at = usize::from(*subtype).wrapping_sub(1);
        let kind = kinds.get(at).copied().unwrap_or(IdKind::Reserved(*subtype));
        Ok(Id { kind, bytes: bytes.to_vec() })
    }

    fn subtype(&self, kinds: &[IdKind; 7]) -> u8 {
        match self.kind {
            IdKind::Reserved(subtype) => subtype,
            kind => kinds.iter().position(|k| *k == kind).map_or(7, |i| i as u8 + 1),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = (self.kind == IdKind::Address).then(|| ip(&self.bytes)).flatten();
        if let Some(ip) = address {
            return ip.fmt(f);
        }
        let text = core::str::from_utf8(&self.bytes).ok();
        let text = text.filter(|t| self.kind != IdKind::Mac && !t.chars().any(char::is_control));
        if let Some(text) = text {
            return f.write_str(text);
        }
        for (i, byte) in self.bytes.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// What a system can do and does; bits of 802.1AB table 8-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It can.
    pub able: u16,
    /// It does.
    pub enabled: u16,
}

impl Capabilities {
    /// A host.
    pub const STATION: Capabilities = Capabilities { able: 1 << 7, enabled: 1 << 7 };
}

/// Link aggregation of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Aggregation {
    /// It may be aggregated.
    pub capable: bool,
    /// It is.
    pub enabled: bool,
    /// The `ifIndex` of its aggregate; 0 if it is in none.
    pub id: u32,
}

impl Aggregation {
    fn read(value: &[u8]) -> Option<Aggregation> {
        let [status, id @ ..] = value.first_chunk::<5>()?;
        Some(Aggregation {
            capable: status & 1 != 0,
            enabled: status & 2 != 0,
            id: u32::from_be_bytes(*id),
        })
    }
}

/// State of the physical layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacPhy {
    /// It can negotiate speed and duplex.
    pub autoneg_able: bool,
    /// It does.
    pub autoneg: bool,
    /// `ifMauType`.
    pub mau: u16,
}

/// A VLAN of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanName {
    /// Its tag.
    pub id: u16,
    /// Its name.
    pub name: String,
}

/// A LLDPDU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lldpdu {
    /// Chassis identifier.
    pub chassis: Id,
    /// Port identifier.
    pub port: Id,
    /// Seconds that this is to be kept; 0: the sender goes away.
    pub ttl: u16,
    /// Port description.
    pub port_description: Option<String>,
    /// System name.
    pub system_name: Option<String>,
    /// System description.
    pub system_description: Option<String>,
    /// Capabilities.
    pub capabilities: Option<Capabilities>,
    /// Management addresses that are IP.
    pub management: Vec<IpAddr>,
    /// VLAN of untagged frames (802.1); 0 if none is known.
    pub pvid: Option<u16>,
    /// VLANs of the port (802.1).
    pub vlans: Vec<VlanName>,
    /// There were more of them.
    pub vlans_cut: bool,
    /// Link aggregation (802.1, before that 802.3).
    pub aggregation: Option<Aggregation>,
    /// Longest frame with header and FCS (802.3).
    pub max_frame: Option<u16>,
    /// Physical layer (802.3).
    pub mac_phy: Option<MacPhy>,
}

/// TLVs that were not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// Could not be read, or had no room.
    pub discarded: u32,
    /// Are of an unknown kind.
    pub unrecognized: u32,
}

/// Why a frame was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discarded {
    /// Not to an address of LLDP, or of another ethertype.
    NotLldp,
    /// A TLV goes on after the end of the frame.
    Short,
    /// The mandatory TLVs are not the first three, come again, or are illegal.
    Mandatory,
}

impl Lldpdu {
    /// Nothing but who it is.
    pub fn new(chassis: Id, port: Id) -> Lldpdu {
        Lldpdu {
            chassis,
            port,
            ttl: 0,
            port_description: None,
            system_name: None,
            system_description: None,
            capabilities: None,
            management: Vec::new(),
            pvid: None,
            vlans: Vec::new(),
            vlans_cut: false,
            aggregation: None,
            max_frame: None,
            mac_phy: None,
        }
    }

    /// The frame, sent by a port with MAC address `source`. Text is cut to 255 bytes.
    pub fn emit(&self, source: Mac) -> Vec<u8> {
        let mut frame = Vec::with_capacity(256);
        frame.extend_from_slice(&NEAREST_BRIDGE);
        frame.extend_from_slice(&source);
        frame.extend_from_slice(&ETHERTYPE_LLDP.to_be_bytes());
        put(&mut frame, 1, &[&[self.chassis.subtype(&CHASSIS_KINDS)], &self.chassis.bytes]);
        put(&mut frame, 2, &[&[self.port.subtype(&PORT_KINDS)], &self.port.bytes]);
        put(&mut frame, 3, &[&self.ttl.to_be_bytes()]);
        let texts = [&self.port_description, &self.system_name, &self.system_description];
        for (kind, text) in (4..).zip(texts) {
            if let Some(text) = text {
                put(&mut frame, kind, &[cut(text).as_bytes()]);
            }
        }
        if let Some(c) = self.capabilities {
            put(&mut frame, 7, &[&c.able.to_be_bytes(), &c.enabled.to_be_bytes()]);
        }
        self.emit_organizational(&mut frame);
        put(&mut frame, 0, &[]);
        frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
        frame
    }

    fn emit_organizational(&self, frame: &mut Vec<u8>) {
        if let Some(pvid) = self.pvid {
            put(frame, 127, &[&OUI_8021, &[1], &pvid.to_be_bytes()]);
        }
        for vlan in &self.vlans {
            let name = &vlan.name.as_bytes()[..vlan.name.len().min(32)];
            put(frame, 127, &[&OUI_8021, &[3], &vlan.id.to_be_bytes(), &[name.len() as u8], name]);
        }
        if let Some(a) = self.aggregation {
            let status = u8::from(a.capable) | u8::from(a.enabled) << 1;
            // As 802.1AX has it now, and as older receivers look for it.
            for (oui, subtype) in [(OUI_8021, 7), (OUI_8023, 3)] {
                put(frame, 127, &[&oui, &[subtype, status], &a.id.to_be_bytes()]);
            }
        }
        if let Some(m) = self.mac_phy {
            let status = u8::from(m.autoneg_able) | u8::from(m.autoneg) << 1;
            put(frame, 127, &[&OUI_8023, &[1, status, 0, 0], &m.mau.to_be_bytes()]);
        }
        if let Some(bytes) = self.max_frame {
            put(frame, 127, &[&OUI_8023, &[4], &bytes.to_be_bytes()]);
        }
    }

    /// Reads an optional TLV; `None` if it is illegal.
    fn take(&mut self, kind: u8, value: &[u8], tlvs: &mut Tlvs) -> Option<()> {
        match kind {
            // 802.1AB 9.2.7.7.2: the first one counts.
            4 => self.port_description = self.port_description.take().or(Some(text(value)?)),
            5 => self.system_name = self.system_name.take().or(Some(text(value)?)),
            6 => self.system_description = self.system_description.take().or(Some(text(value)?)),
            7 => {
                let able = be16(value)?;
                self.capabilities = Some(Capabilities { able, enabled: be16(value.get(2..)?)? });
            }
            8 => {
                let (len, rest) = value.split_first()?;
                let address = rest.get(..usize::from(*len))?;
                if let Some(ip) = ip(address).filter(|ip| !self.management.contains(ip)) {
                    if self.management.len() == MANAGEMENT_MAX {
                        return None;
                    }
                    self.management.push(ip);
                }
            }
            127 => {
                let (head, value) = value.split_first_chunk::<4>()?;
                let [a, b, c, subtype] = *head;
                self.take_organizational([a, b, c], subtype, value, tlvs)?;
            }
            _ => tlvs.unrecognized += 1,
        }
        Some(())
    }

    fn take_organizational(
        &mut self,
        oui: [u8; 3],
        subtype: u8,
        value: &[u8],
        tlvs: &mut Tlvs,
    ) -> Option<()> {
        match (oui, subtype) {
            (OUI_8021, 1) => self.pvid = Some(be16(value)?),
            (OUI_8021, 3) => self.take_vlan(value)?,
            (OUI_8021, 7) => self.aggregation = Some(Aggregation::read(value)?),
            (OUI_8023, 3) => {
                let read = Aggregation::read(value)?;
                self.aggregation.get_or_insert(read);
            }
            (OUI_8023, 4) => self.max_frame = Some(be16(value)?),
            (OUI_8023, 1) => {
                let status = *value.first()?;
                self.mac_phy = Some(MacPhy {
                    autoneg_able: status & 1 != 0,
                    autoneg: status & 2 != 0,
                    mau: be16(value.get(3..)?)?,
                });
            }
            _ => tlvs.unrecognized += 1,
        }
        Some(())
    }

    fn take_vlan(&mut self, value: &[u8]) -> Option<()> {
        let id = be16(value)?;
        let len = usize::from(*value.get(2)?);
        let name = text(value.get(3..3 + len)?)?;
        if self.vlans.iter().any(|v| v.id == id) {
            return None;
        }
        if self.vlans.len() == VLANS_MAX {
            self.vlans_cut = true;
            return None;
        }
        self.vlans.push(VlanName { id, name });
        Some(())
    }
}

/// Reads a frame, from its destination address on.
pub fn parse(frame: &[u8]) -> Result<(Lldpdu, Tlvs), Discarded> {
    let (header, mut rest) = frame.split_at_checked(HEADER_BYTES).ok_or(Discarded::Short)?;
    let to = [NEAREST_BRIDGE, NEAREST_NON_TPMR, NEAREST_CUSTOMER];
    if !to.iter().any(|mac| header[..6] == *mac) || header[12..] != ETHERTYPE_LLDP.to_be_bytes() {
        return Err(Discarded::NotLldp);
    }
    let mut mandatory = |kind: u8| match tlv(&mut rest)? {
        (k, value) if k == kind => Ok(value),
        _ => Err(Discarded::Mandatory),
    };
    let chassis = Id::read(&CHASSIS_KINDS, mandatory(1)?)?;
    let port = Id::read(&PORT_KINDS, mandatory(2)?)?;
    let ttl = be16(mandatory(3)?).ok_or(Discarded::Mandatory)?;
    let mut pdu = Lldpdu { ttl, ..Lldpdu::new(chassis, port) };
    let mut tlvs = Tlvs::default();
    // One that goes away says no more, and the end is often left out.
    while ttl != 0 && !rest.is_empty() {
        match tlv(&mut rest)? {
            (0, _) => break,
            (1..=3, _) => return Err(Discarded::Mandatory),
            (kind, value) => {
                if pdu.take(kind, value, &mut tlvs).is_none() {
                    tlvs.discarded += 1;
                }
            }
        }
    }
    Ok((pdu, tlvs))
}

/// Takes the first TLV off `rest`: type and value.
fn tlv<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), Discarded> {
    let (head, after) = rest.split_first_chunk::<2>().ok_or(Discarded::Short)?;
    let head = u16::from_be_bytes(*head);
    let (value, after) =
        after.split_at_checked(usize::from(head & 0x1ff)).ok_or(Discarded::Short)?;
    *rest = after;
    Ok(((head >> 9) as u8, value))
}

fn put(frame: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let head = u16::from(kind) << 9 | (len as u16 & 0x1ff);
    frame.extend_from_slice(&head.to_be_bytes());
    for part in parts {
        frame.extend_from_slice(part);
    }
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*value.first_chunk()?))
}

fn text(value: &[u8]) -> Option<String> {
    if value.len() > TEXT_BYTES_MAX {
        return None;
    }
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    Some(String::from_utf8_lossy(value).trim_end_matches('\0').chars().map(clean).collect())
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// An address with its family (of IANA) before it.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.split_first()? {
        (1, v4) => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?))),
        (2, v6) => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(v6).ok()?))),
        _ => None,
    }
}

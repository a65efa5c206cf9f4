//! IPv6 extension headers (RFC 8200 4).

use crate::drop::DropReason;
use crate::wire::header::IPV6_LEN;
use crate::wire::protocol;

/// Headers in a chain, more than any honest sender uses.
const HEADERS_MAX: usize = 8;

/// ICMPv6 parameter problem codes (RFC 4443 3.4).
pub(crate) const ERRONEOUS_FIELD: u8 = 0;
pub(crate) const UNRECOGNIZED_NEXT_HEADER: u8 = 1;
const UNRECOGNIZED_OPTION: u8 = 2;

/// A refusal, and the parameter problem to report: code and pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    pub(crate) problem: Option<(u8, u32)>,
}

impl Refusal {
    fn silent(reason: DropReason) -> Refusal {
        Refusal { reason, problem: None }
    }

    fn tell(reason: DropReason, code: u8, pointer: usize) -> Refusal {
        Refusal { reason, problem: Some((code, pointer as u32)) }
    }
}

/// Where a walk along the chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Protocol of what stands at `offset`: a transport, or `FRAGMENT`.
    pub(crate) protocol: u8,
    /// Of the end of the chain, from the start of the IPv6 header.
    pub(crate) offset: usize,
    /// Of the field that names `protocol`.
    pub(crate) pointer: usize,
}

/// Walks the headers of a packet for this host, from its IPv6 header on (`packet` is long enough
/// for that), to the transport or a fragment header. `to_many`: the destination is multicast.
pub(crate) fn walk(packet: &[u8], to_many: bool) -> Result<Chain, Refusal> {
    let mut chain = Chain { protocol: packet[6], offset: IPV6_LEN, pointer: 6 };
    for count in 0..=HEADERS_MAX {
        match chain.protocol {
            // RFC 8200 4.1: hop-by-hop options stand first or not at all.
            protocol::HOP_BY_HOP if count > 0 => {
                return Err(Refusal::tell(
                    DropReason::IpExtensionMalformed,
                    UNRECOGNIZED_NEXT_HEADER,
                    chain.pointer,
                ));
            }
            protocol::HOP_BY_HOP | protocol::DEST_OPTIONS => {
                let len = header_len(packet, chain.offset)?;
                options(packet, chain.offset, len, to_many)?;
                advance(packet, &mut chain, len);
            }
            protocol::ROUTING => {
                let len = header_len(packet, chain.offset)?;
                // RFC 5095: type 0, and any other that is not known, only if nothing is left to do.
                if packet[chain.offset + 3] != 0 {
                    return Err(Refusal::tell(
                        DropReason::IpExtensionUnknown,
                        ERRONEOUS_FIELD,
                        chain.offset + 2,
                    ));
                }
                advance(packet, &mut chain, len);
            }
            _ => return Ok(chain),
        }
    }
    Err(Refusal::silent(DropReason::IpExtensionTooMany))
}

/// Looks at the hop-by-hop options of a packet to be forwarded.
pub(crate) fn hop_by_hop(packet: &[u8], to_many: bool) -> Result<(), Refusal> {
    if packet[6] != protocol::HOP_BY_HOP {
        return Ok(());
    }
    let len = header_len(packet, IPV6_LEN)?;
    options(packet, IPV6_LEN, len, to_many)
}

fn advance(packet: &[u8], chain: &mut Chain, len: usize) {
    chain.protocol = packet[chain.offset];
    chain.pointer = chain.offset;
    chain.offset += len;
}

/// Length of the extension header at `offset`, which is then wholly in `packet`.
fn header_len(packet: &[u8], offset: usize) -> Result<usize, Refusal> {
    let malformed = Refusal::silent(DropReason::IpExtensionMalformed);
    let len = 8 * (usize::from(*packet.get(offset + 1).ok_or(malformed)?) + 1);
    if offset + len > packet.len() { Err(malformed) } else { Ok(len) }
}

/// RFC 8200 4.2: unknown options by the two high bits of their type.
fn options(packet: &[u8], offset: usize, len: usize, to_many: bool) -> Result<(), Refusal> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let malformed = Refusal::silent(DropReason::IpExtensionMalformed);
    let (mut at, end) = (offset + 2, offset + len);
    while at < end {
        let kind = packet[at];
        if kind == PAD1 {
            at += 1;
            continue;
        }
        let data_len = usize::from(*packet[..end].get(at + 1).ok_or(malformed)?);
        if at + 2 + data_len > end {
            return Err(malformed);
        }
        if kind != PADN && kind != ROUTER_ALERT {
            let refused = DropReason::IpExtensionUnknown;
            match kind >> 6 {
                0 => {}
                1 => return Err(Refusal::silent(refused)),
                3 if to_many => return Err(Refusal::silent(refused)),
                _ => return Err(Refusal::tell(refused, UNRECOGNIZED_OPTION, at)),
            }
        }
        at += 2 + data_len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next: u8, headers: &[&[u8]]) -> Vec<u8> {
        let mut p = vec![0u8; IPV6_LEN];
        p[6] = next;
        for h in headers {
            p.extend_from_slice(h);
        }
        p
    }

    #[test]
    fn chains_end_at_the_transport() {
        let p = packet(0, &[&[60, 0, 1, 4, 0, 0, 0, 0], &[17, 0, 0x1e, 4, 9, 9, 9, 9], &[1, 2]]);
        assert_eq!(walk(&p, false), Ok(Chain { protocol: 17, offset: 56, pointer: 48 }));
        let p = packet(44, &[&[17, 0, 0, 0, 0, 0, 0, 1]]);
        assert_eq!(walk(&p, false), Ok(Chain { protocol: 44, offset: 40, pointer: 6 }));
    }

    #[test]
    fn options_are_judged_by_their_action_bits() {
        let with = |kind: u8| packet(60, &[&[17, 0, kind, 0, 1, 2, 0, 0]]);
        assert!(walk(&with(0x1e), false).is_ok());
        let refused = |kind, to_many| walk(&with(kind), to_many).unwrap_err();
        assert_eq!(refused(0x5e, false).problem, None);
        assert_eq!(refused(0x9e, true).problem, Some((2, 42)));
        assert_eq!(refused(0xde, false).problem, Some((2, 42)));
        assert_eq!(refused(0xde, true).problem, None);
    }

    #[test]
    fn bad_chains_are_refused() {
        let reason = |p: &[u8]| walk(p, false).unwrap_err().reason;
        assert_eq!(
            reason(&packet(60, &[&[17, 9, 0, 0, 0, 0, 0, 0]])),
            DropReason::IpExtensionMalformed
        );
        assert_eq!(reason(&packet(60, &[&[17]])), DropReason::IpExtensionMalformed);
        assert_eq!(
            reason(&packet(60, &[&[17, 0, 1, 9, 0, 0, 0, 0]])),
            DropReason::IpExtensionMalformed
        );
        let hop_late: [&[u8]; 2] = [&[0, 0, 1, 4, 0, 0, 0, 0], &[17, 0, 1, 4, 0, 0, 0, 0]];
        assert_eq!(reason(&packet(60, &hop_late)), DropReason::IpExtensionMalformed);
        let many: Vec<&[u8]> = vec![&[60, 0, 1, 4, 0, 0, 0, 0]; 12];
        assert_eq!(reason(&packet(60, &many)), DropReason::IpExtensionTooMany);
        // Routing type 0 with segments left (RFC 5095) and without.
        let rh0 = packet(43, &[&[17, 0, 0, 1, 0, 0, 0, 0]]);
        assert_eq!(walk(&rh0, false).unwrap_err().problem, Some((0, 42)));
        assert!(walk(&packet(43, &[&[17, 0, 0, 0, 0, 0, 0, 0]]), false).is_ok());
    }
}

//! A segment becomes a frame: header in the linear part, payload as shared pieces behind it,
//! checksum complete or left to the device.

use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame, Gso};
use crate::ip::address::AliasId;
use crate::ip::output::{flow_hash, stats};
use crate::ip::ready::Ready;
use crate::lower::{Lower, Mapped, OutPacket};
use crate::path::PathLayer;
use crate::wire::checksum::{combine, finish, pseudo};
use crate::wire::tcp::{CHECKSUM_OFFSET, Flags, Header};
use crate::wire::{frame_sum, protocol};

use super::flow_table::FlowKey;
use super::output::SegmentOut;
use super::send_buffer::SendBuffer;
use super::state::Connection;

/// Payloads up to this are copied behind the header: cheaper than a piece of their own.
const COPY_BYTES_MAX: usize = 256;

/// Puts the payload of a segment into an empty frame.
#[inline]
fn put_payload(frame: &mut Frame, send: &mut SendBuffer, offset: usize, len: usize) {
    if len == 0 {
        return;
    }
    if len <= COPY_BYTES_MAX && len <= frame.tailroom() {
        send.copy_to(offset, frame.push_back(len));
    } else {
        frame.frags = send.slice(offset, len);
    }
}

/// Writes `segment`, whose payload is in `send`, into an empty frame. `pseudo` gives the sum of a
/// pseudo header.
#[inline]
fn build(
    mut frame: Frame,
    (is_v4, pseudo): (bool, impl FnOnce(usize) -> u16),
    segment: &SegmentOut,
    send: &mut SendBuffer,
    tx_checksum: bool,
) -> Frame {
    let SegmentOut { header, offset, payload_len, mss } = segment;
    let (payload_len, mss) = (*payload_len, *mss);
    put_payload(&mut frame, send, *offset, payload_len);
    let header_len = header.len();
    let header_sum = header.emit_and_sum(frame.push_front(header_len));
    let sum = pseudo(header_len + payload_len);
    if tx_checksum {
        frame.meta.checksum = Checksum::Partial { start: 0, offset: CHECKSUM_OFFSET as u16 };
        put_checksum(&mut frame, sum);
    } else {
        // A header has an even number of bytes.
        let mut sum = combine(sum, header_sum);
        if payload_len > 0 {
            sum = frame_sum::sum_from(sum, &frame, header_len);
        }
        put_checksum(&mut frame, finish(sum));
    }
    if payload_len > mss {
        let mss = mss as u16;
        frame.meta.gso = if is_v4 { Gso::Tcp4 { mss } } else { Gso::Tcp6 { mss } };
    }
    frame
}

/// The same for any segment of a flow.
pub(crate) fn build_for(
    frame: Frame,
    key: &FlowKey,
    segment: &SegmentOut,
    send: &mut SendBuffer,
    tx_checksum: bool,
) -> Frame {
    let sum = |len| pseudo(key.local, key.peer, protocol::TCP, len);
    build(frame, (key.local.is_ipv4(), sum), segment, send, tx_checksum)
}

/// Sends a segment by a way that is ready; `Err`: it does not fit there.
#[inline]
pub(crate) fn send_ready(
    ctx: &mut Ctx<'_>,
    ready: &Ready,
    frame: Frame,
    (segment, send): (&SegmentOut, &mut SendBuffer),
    fields: IpFields,
) -> Result<(), Frame> {
    let len = segment.header.len() + segment.payload_len;
    if !ready.takes(len, segment.payload_len > segment.mss) {
        return Err(frame);
    }
    let is_v4 = ready.route.src.is_ipv4();
    let pseudo = (is_v4, |len| ready.pseudo(protocol::TCP, len));
    let mut frame = build(frame, pseudo, segment, send, ready.route.tx_checksum);
    if frame.frags.is_empty() {
        ctx.mib.tcp.snd_copied_octets += segment.payload_len as u64;
    }
    let ip = stats(ctx.mib, is_v4);
    ready.push(ip, &mut frame, protocol::TCP, fields.traffic_class, fields.hop_limit);
    ctx.outbox.frames.push_back((ready.route.alias, frame));
    Ok(())
}

/// Sends a segment of a connection that the path layer rewrites by its short way, of which the layer
/// is to be told; `Err`: it does not fit there, or has to be cut.
#[inline(never)]
pub(crate) fn send_mapped(
    ctx: &mut Ctx<'_>,
    (mapped, ready): (&Mapped, &Ready),
    c: &mut Connection,
    frame: Frame,
    segment: &SegmentOut,
) -> Result<(), Frame> {
    let header = &mapped.rewriting.header;
    let len = segment.header.len() + segment.payload_len + header.len();
    if segment.payload_len > segment.mss || !ready.takes(len, false) {
        return Err(frame);
    }
    let fields = c.settings.ip_fields(segment.header.ecn);
    let pseudo = (c.key.local.is_ipv4(), |len| mapped.pseudo(len));
    let mut frame = build(frame, pseudo, segment, &mut c.send, false);
    if frame.frags.is_empty() {
        ctx.mib.tcp.snd_copied_octets += segment.payload_len as u64;
    }
    if c.notes.known.flow_hash == 0 {
        c.notes.known.flow_hash = flow_hash(c.key.local, c.key.peer, protocol::TCP, &frame);
    }
    // Of the ports that are out of sight below.
    frame.meta.flow_hash = c.notes.known.flow_hash;
    frame.push_front(header.len()).copy_from_slice(header);
    let ip = stats(ctx.mib, ready.route.src.is_ipv4());
    let (number, class) = (mapped.rewriting.protocol, fields.traffic_class);
    ready.push_headers(ip, &mut frame, number, class, fields.hop_limit);
    ctx.outbox.frames.push_back((ready.route.alias, frame));
    Ok(())
}

fn put_checksum(frame: &mut Frame, value: u16) {
    frame.data_mut()[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&value.to_be_bytes());
}

/// The alias a packet must leave by: link-local addresses mean nothing elsewhere.
pub(crate) fn bound_alias(key: &FlowKey, alias: AliasId) -> Option<AliasId> {
    let link_local = match key.peer {
        core::net::IpAddr::V6(a) => a.is_unicast_link_local(),
        core::net::IpAddr::V4(a) => a.is_link_local(),
    };
    link_local.then_some(alias)
}

/// What a connection decides about the IP header of its segments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IpFields {
    /// DiffServ and ECN; each segment of a super-segment gets it.
    pub(crate) traffic_class: u8,
    /// `None`: the stack's.
    pub(crate) hop_limit: Option<u8>,
    /// What policy routing rules look at.
    pub(crate) mark: u32,
}

/// Hands a frame down. A loss is counted below; retransmission makes good for it.
pub(crate) fn send<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    key: &FlowKey,
    alias: AliasId,
    fields: IpFields,
    frame: Frame,
) {
    let packet = OutPacket {
        src: key.local,
        dst: key.peer,
        protocol: protocol::TCP,
        traffic_class: fields.traffic_class,
        hop_limit: fields.hop_limit,
        dont_fragment: true,
        alias: bound_alias(key, alias),
        mark: fields.mark,
    };
    let _counted_below = lower.send(packet, frame);
}

/// Sends a segment without payload that belongs to no connection's output: RST, TIME-WAIT's ACK.
pub(crate) fn send_header<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    key: &FlowKey,
    alias: AliasId,
    header: Header,
) {
    let fields = IpFields { traffic_class: header.ecn, ..IpFields::default() };
    send_header_as(lower, key, alias, fields, header);
}

/// The same, with fields of its own in the IP header.
pub(crate) fn send_header_as<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    key: &FlowKey,
    alias: AliasId,
    fields: IpFields,
    header: Header,
) {
    let Some(frame) = lower.ctx.pool.alloc() else {
        lower.ctx.drop_out(DropReason::FramePoolEmpty);
        return;
    };
    lower.ctx.mib.tcp.out_segs += 1;
    if header.flags.has(Flags::RST) {
        lower.ctx.mib.tcp.out_rsts += 1;
    }
    let segment = SegmentOut { header, offset: 0, payload_len: 0, mss: 1 };
    let frame = build_for(frame, key, &segment, &mut SendBuffer::default(), false);
    send(lower, key, alias, fields, frame);
}

//! From a received packet to the connection, TIME-WAIT entry or listener that takes it.

use core::net::SocketAddr;

use crate::ctx::Fate;
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::lower::{InPacket, Lower};
use crate::path::PathLayer;
use crate::time::Duration;
use crate::wire::tcp::{Flags, Header};
use crate::wire::{frame_sum, protocol};

use super::flow_table::{Flow, FlowKey};
use super::input::Reply;
use super::paths::{advise_progress, flow_of};
use super::state::Cx;
use super::time_wait::Verdict;
use super::{Tcp, emit, payload};

/// RFC 4861 7.3.1 asks for hints of reachability; one per second is plenty.
pub(super) const CONFIRM_EVERY: Duration = Duration::from_secs(1);

impl Tcp {
    /// A segment arrived; `frame` starts with the TCP header and is as long as the IP payload.
    pub(crate) fn input<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        mut frame: Frame,
    ) -> Fate {
        let (mut seg, header_len) = match check(lower, packet, &frame) {
            Ok(parsed) => parsed,
            Err(reason) => {
                lower.ctx.mib.tcp.in_segs += 1;
                lower.ctx.mib.tcp.in_errs += 1;
                return Fate::Dropped(reason);
            }
        };
        // A merged super-segment has one codepoint: receive offload joins only what is alike
        // (RFC 9768 3.2.2.2.1).
        seg.ecn = packet.traffic_class & 3;
        frame.pull_front(header_len);
        lower.ctx.mib.tcp.in_segs += payload::segments(&frame);
        let key = FlowKey::new(
            SocketAddr::new(packet.dst, seg.dst_port),
            SocketAddr::new(packet.src, seg.src_port),
        );
        match self.flow(&key) {
            Some(Flow::Connection(index)) => {
                self.give_connection(lower, packet, index, &seg, frame)
            }
            Some(Flow::TimeWait(slot)) => {
                self.give_time_wait(lower, packet, (key, slot), &seg, frame)
            }
            Some(Flow::HalfOpen(slot)) => self.give_half_open(lower, packet, slot, &seg, frame),
            None => self.give_listener(lower, packet, key, &seg, frame),
        }
    }

    pub(super) fn give_connection<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        index: u32,
        seg: &Header,
        frame: Frame,
    ) -> Fate {
        let c = &mut self.connections[index as usize];
        let before = c.snd_una;
        let now = lower.ctx.now;
        let outcome = c.on_segment(
            &mut Cx { now, stats: &mut lower.ctx.mib.tcp, budget: self.budget },
            seg,
            frame,
        );
        let (key, alias) = (c.key, c.alias);
        let progress = c.snd_una != before;
        let confirm = progress && now - c.notes.confirmed_at >= CONFIRM_EVERY;
        if confirm {
            c.notes.confirmed_at = now;
        }
        match outcome.reply {
            Reply::None => {}
            Reply::Challenge => {
                if c.notes.challenges.take(now) && self.challenge.take(now, lower.ctx.rng) {
                    lower.ctx.mib.tcp.challenge_acks += 1;
                    c.ack_now = true;
                } else {
                    lower.ctx.mib.tcp.challenge_acks_limited += 1;
                }
            }
            Reply::Reset(rst) => emit::send_header(lower, &key, alias, rst),
        }
        if confirm && packet.alias == alias {
            lower.confirm_reachable((key.local, key.peer), Some(flow_of(&key)));
        }
        if !lower.path.is_transparent() && progress {
            advise_progress(lower, &mut self.connections[index as usize]);
        }
        self.settle(lower, index);
        outcome.dropped.map_or(Fate::Delivered, Fate::Dropped)
    }

    fn give_time_wait<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        (key, slot): (FlowKey, u32),
        seg: &Header,
        frame: Frame,
    ) -> Fate {
        let Some(entry) = self.time_waits.get(slot).copied() else {
            return Fate::Dropped(DropReason::TcpStateRefused);
        };
        let verdict = entry.judge(seg, frame.total_len());
        if let Verdict::Reuse(after) = verdict {
            if let Some(fate) = self.refuses(lower, packet, &key, seg, &frame) {
                return fate;
            }
            if self.listener_for(packet.dst, seg.dst_port).is_some() {
                return self.open_passive(lower, packet, key, seg, frame, Some((slot, after)));
            }
            return self.refuse(lower, packet, key, seg, frame.total_len());
        }
        if verdict == Verdict::AckAndRestart {
            self.time_waits.restart(slot, lower.ctx.now);
        }
        if verdict == Verdict::Ignore {
            return Fate::Dropped(DropReason::TcpStateRefused);
        }
        // An ACK that anybody can ask for counts as a challenge.
        if self.challenge.take(lower.ctx.now, lower.ctx.rng) {
            emit::send_header(lower, &key, entry.alias, entry.ack(lower.ctx.now));
        } else {
            lower.ctx.mib.tcp.challenge_acks_limited += 1;
        }
        Fate::Delivered
    }

    /// RFC 9293 3.10.7.1, 3.10.7.2.
    fn give_listener<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        key: FlowKey,
        seg: &Header,
        frame: Frame,
    ) -> Fate {
        let listens = self.listener_for(packet.dst, seg.dst_port).is_some();
        if seg.flags.has(Flags::RST) {
            return Fate::Dropped(DropReason::TcpPortClosed);
        }
        if let Some(fate) = self.refuses(lower, packet, &key, seg, &frame) {
            return fate;
        }
        if listens && seg.flags.has(Flags::ACK) && !seg.flags.has(Flags::SYN) {
            match self.open_by_cookie(lower, packet, key, seg) {
                Some(Ok(index)) => return self.give_connection(lower, packet, index, seg, frame),
                Some(Err(reason)) => return Fate::Dropped(reason),
                None => {}
            }
        }
        if !listens || seg.flags.has(Flags::ACK) {
            return self.refuse(lower, packet, key, seg, frame.total_len());
        }
        if !seg.flags.has(Flags::SYN) {
            return Fate::Dropped(DropReason::TcpFlagsInvalid);
        }
        self.open_passive(lower, packet, key, seg, frame, None)
    }

    /// Answers with a RST.
    fn refuse<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        key: FlowKey,
        seg: &Header,
        payload_len: usize,
    ) -> Fate {
        self.answer_reset(lower, packet, &key, seg, payload_len);
        Fate::Dropped(DropReason::TcpPortClosed)
    }
}

fn check<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    packet: &InPacket,
    frame: &Frame,
) -> Result<(Header, usize), DropReason> {
    let parsed = Header::parse(frame.data()).ok_or(DropReason::TcpMalformed)?;
    let trusted = frame.meta.checksum.is_settled()
        || lower.ip.aliases.get(&packet.alias).is_some_and(|a| a.config.rx_checksum_trust);
    if !trusted && !frame_sum::is_valid(packet.src, packet.dst, protocol::TCP, frame) {
        lower.ctx.mib.tcp.in_csum_errors += 1;
        return Err(DropReason::TcpChecksumBad);
    }
    if packet.to_many {
        return Err(DropReason::TcpStateRefused);
    }
    let flags = parsed.0.flags;
    let syn = flags.has(Flags::SYN);
    if syn && (flags.has(Flags::FIN) || flags.has(Flags::RST)) {
        return Err(DropReason::TcpFlagsInvalid);
    }
    Ok(parsed)
}

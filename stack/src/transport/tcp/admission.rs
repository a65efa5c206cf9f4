//! TCP's questions to the access rules: about segments that the flow table does not know, and about
//! connections when the rules have changed.

use std::borrow::Cow;
use std::sync::Arc;

use crate::admission::{First, Rules};
use crate::ctx::Fate;
use crate::frame::Frame;
use crate::ip::address::AliasId;
use crate::lower::{InPacket, Lower, Refusal};
use crate::path::PathLayer;
use crate::socket::tcp::{TcpError, TcpState};
use crate::wire::protocol;
use crate::wire::tcp::Header;

use super::flow_table::FlowKey;
use super::input::reset_for;
use super::settings::Settings;
use super::state::Cx;
use super::{Tcp, emit, payload};

fn first(key: &FlowKey, alias: AliasId) -> First {
    First { alias, protocol: protocol::TCP, src: key.peer, port: key.local_port }
}

/// What a listener decided about a connection, with the mark of the rule that lets it in; one that
/// the application has set stays.
#[inline]
pub(super) fn marked<'s, P: PathLayer>(
    lower: &Lower<'_, P>,
    settings: &'s Arc<Settings>,
    key: &FlowKey,
    alias: AliasId,
) -> Cow<'s, Arc<Settings>> {
    let mark = lower.ctx.admission.mark(|| first(key, alias));
    if mark == 0 || settings.mark != 0 {
        return Cow::Borrowed(settings);
    }
    Cow::Owned(Arc::new(Settings { mark, ..**settings }))
}

impl Tcp {
    /// Judges a segment that belongs to nothing, whatever its flags are: a scan must not tell a
    /// denied port without a listener from one with. `Some`: it goes no further.
    #[inline]
    pub(super) fn refuses<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        key: &FlowKey,
        seg: &Header,
        frame: &Frame,
    ) -> Option<Fate> {
        let refusal = lower.refuses(packet, key.local_port, payload::segments(frame))?;
        match refusal {
            Refusal::Drop => {}
            Refusal::Reject => self.answer_reset(lower, packet, key, seg, frame.total_len()),
            Refusal::Prohibit => lower.prohibited(packet, frame),
        }
        Some(Fate::Dropped(refusal.reason()))
    }

    /// Answers a segment that belongs to nothing with a RST, within the limit: which holds for closed
    /// ports too, lest the two differ.
    pub(super) fn answer_reset<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        key: &FlowKey,
        seg: &Header,
        payload_len: usize,
    ) {
        if self.resets.take(lower.ctx.now, lower.ctx.limits.tcp_resets_per_second) {
            emit::send_header(lower, key, packet.alias, reset_for(seg, payload_len));
        } else {
            lower.ctx.mib.tcp.resets_limited += 1;
        }
    }

    /// Resets every connection that the peer opened and that `rules` would not let it open now;
    /// returns how many.
    pub(crate) fn end_denied<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        rules: &dyn Rules,
    ) -> usize {
        let (ip, watch) = (&*lower.ip, rules.watch());
        let denied = |key: &FlowKey, alias| {
            !ip.is_local(key.peer)
                && watch.covers(protocol::TCP, key.local_port)
                && !rules.allows(&first(key, alias))
        };
        let mut ended = self.forget_half_open_if(|r| denied(&r.key, r.alias));
        let lost = self.connections.iter().filter(|(_, c)| {
            c.notes.opening.passive
                && !matches!(c.state, TcpState::Closed | TcpState::TimeWait)
                && denied(&c.key, c.alias)
        });
        let lost: Vec<u32> = lost.map(|(i, _)| i as u32).collect();
        ended += lost.len() as u64;
        for index in lost {
            let c = &mut self.connections[index as usize];
            let (key, alias, rst) = (c.key, c.alias, c.reset_header(lower.ctx.now));
            let mut cx =
                Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
            // Its owner learns of it, so the handle stays.
            c.fail(&mut cx, TcpError::Aborted);
            emit::send_header(lower, &key, alias, rst);
            self.settle(lower, index);
        }
        ended as usize
    }
}

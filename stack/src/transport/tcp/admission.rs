//! TCP's questions to the access rules: about segments that the flow table does not know, and about
//! connections when the rules have changed.

use crate::admission::{First, Rules};
use crate::ctx::Fate;
use crate::frame::Frame;
use crate::lower::{InPacket, Lower, Refusal};
use crate::path::PathLayer;
use crate::socket::tcp::{TcpError, TcpState};
use crate::wire::protocol;
use crate::wire::tcp::Header;

use super::flow_table::FlowKey;
use super::input::reset_for;
use super::state::Cx;
use super::{Tcp, emit};

fn first(key: &FlowKey, alias: crate::ip::address::AliasId) -> First {
    First { alias, protocol: protocol::TCP, src: key.peer, port: key.local_port }
}

/// Judges a segment that belongs to nothing, whatever its flags are: a scan must not tell a denied
/// port without a listener from one with. `Some`: it goes no further.
#[inline]
pub(super) fn refuses<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    packet: &InPacket,
    key: &FlowKey,
    seg: &Header,
    frame: &Frame,
) -> Option<Fate> {
    let refusal = lower.refuses(packet, key.local_port)?;
    match refusal {
        Refusal::Drop => {}
        Refusal::Reject => {
            let rst = reset_for(seg, frame.total_len());
            emit::send_header(lower, key, packet.alias, rst);
        }
        Refusal::Prohibit => lower.prohibited(packet, frame),
    }
    Some(Fate::Dropped(refusal.reason()))
}

impl Tcp {
    /// Resets every connection that the peer opened and that `rules` would not let it open now;
    /// returns how many.
    pub(crate) fn end_denied<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        rules: &dyn Rules,
    ) -> usize {
        let ip = &*lower.ip;
        let denied = |key: &FlowKey, alias| {
            !ip.is_local(key.peer)
                && rules.watch().covers(protocol::TCP, key.local_port)
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

//! ICMP errors about packets that the shim sent or rewrote (RFC 5533 8).

use weft_stack::path::IcmpErrorKind;
use weft_stack::time::Instant;

use super::Contexts;
use crate::context::Given;
use crate::context::table::{Action, Event};
use crate::locator::Pair;
use crate::reap::Hint;
use crate::wire::Tag;
use crate::wire::header::{Header, PAYLOAD_HEADER_BYTES};
use crate::wire::message::kind;

/// What a quoted packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotedWas {
    /// Nothing of the shim's: transports are told of it as it is.
    Plain,
    /// A rewritten packet between these ULIDs, of this protocol behind so many bytes of header.
    Rewritten(Pair, u8, usize),
    /// The shim acted on the error, or the packet was its own, or nobody's.
    Done,
}

/// Errors that another pair of locators may avoid.
const fn is_of_the_path(kind: IcmpErrorKind) -> bool {
    matches!(
        kind,
        IcmpErrorKind::NetUnreachable
            | IcmpErrorKind::HostUnreachable
            | IcmpErrorKind::AdminProhibited
            | IcmpErrorKind::TimeExceeded
    )
}

impl Contexts {
    /// An error about a packet of protocol 140 that went by `pair`.
    pub fn icmp_about_shim(
        &mut self,
        now: Instant,
        error: IcmpErrorKind,
        pair: Pair,
        quoted: &[u8],
    ) -> QuotedWas {
        let Some(&head) = quoted.first_chunk::<8>() else {
            self.env.stats.icmp_unmatched += 1;
            return QuotedWas::Done;
        };
        if let Some(Header::Payload { next, tag }) = Header::read(&head) {
            return self.icmp_about_payload(now, error, pair, next, tag);
        }
        // The nonce shows that whoever sent the error saw the message.
        let unknown =
            matches!(error, IcmpErrorKind::ProtocolUnreachable | IcmpErrorKind::ParameterProblem);
        let nonce = quoted.get(12..16).and_then(|n| n.try_into().ok()).map(u32::from_be_bytes);
        let is_i1 = head[2] == kind::I1;
        let found = nonce.filter(|_| unknown && is_i1).and_then(|n| {
            let ids = self.by_nonce.get(&n)?;
            let fits = |id: &&u32| {
                let exchange = self.slots[**id as usize].exchange.as_ref();
                exchange.is_some_and(|e| e.nonce == n && e.pair == pair)
            };
            ids.iter().find(fits).copied()
        });
        match found {
            Some(id) => {
                self.env.stats.icmp_used += 1;
                if self.fire(id, now, Event::NoHeader, &Given::nothing(pair)) == Action::Hold {
                    self.env.stats.initiations_unsupported += 1;
                }
            }
            None => self.env.stats.icmp_unmatched += 1,
        }
        QuotedWas::Done
    }

    fn icmp_about_payload(
        &mut self,
        now: Instant,
        error: IcmpErrorKind,
        pair: Pair,
        next: u8,
        tag: Tag,
    ) -> QuotedWas {
        let ids = self.by_peer_tag.get(&tag).map_or(&[][..], |ids| ids);
        let found = ids.iter().copied().find(|id| {
            let context = &self.slots[*id as usize];
            let own = self.env.own.contains(pair.local) || context.ulids.local == pair.local;
            own && context.peer.contains(pair.remote)
        });
        let Some(id) = found else {
            self.env.stats.icmp_unmatched += 1;
            return QuotedWas::Done;
        };
        let ulids = self.slots[id as usize].ulids;
        if self.acts_on(now, id, error, pair) {
            return QuotedWas::Done;
        }
        self.env.stats.icmp_mapped += 1;
        QuotedWas::Rewritten(ulids, next, PAYLOAD_HEADER_BYTES)
    }

    /// An error about a packet that went between two ULIDs as it was.
    pub fn icmp_about_plain(
        &mut self,
        now: Instant,
        error: IcmpErrorKind,
        ulids: Pair,
    ) -> QuotedWas {
        let Some(&id) = self.by_ulids.get(&(ulids, 0)) else { return QuotedWas::Plain };
        if self.slots[id as usize].tag_out().is_some() && self.acts_on(now, id, error, ulids) {
            return QuotedWas::Done;
        }
        QuotedWas::Plain
    }

    /// Whether a context can do something about an error, and transports need not know of it.
    fn acts_on(&mut self, now: Instant, id: u32, error: IcmpErrorKind, pair: Pair) -> bool {
        let own = self.env.own.list().locators.len();
        let context = &mut self.slots[id as usize];
        let alternatives = own.max(1) * context.peer.locators.len() > 1;
        if !is_of_the_path(error) || !alternatives {
            return false;
        }
        self.env.stats.icmp_used += 1;
        context.hint(now, Hint::Icmp(pair));
        self.settle(id, now);
        !self.env.config.deliver_icmp
    }
}

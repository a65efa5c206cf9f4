//! What happened to the contexts of vservers, as their shims keep it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_interface::events::{Page, micros};
use weft_shim::log::{Entry, Log, What};

use super::Host;
use super::shim::word;

/// Version of what is told of an event; see [`ShimEvent::version`].
const VERSION: u8 = 1;

/// Something that happened to a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimEvent {
    /// It grows when a field changes its meaning or goes.
    pub version: u8,
    /// The vserver.
    pub vserver: String,
    /// Counts events of the vserver from 1.
    pub number: u64,
    /// When: microseconds of the host's clock.
    pub at_us: u64,
    /// ULID of the vserver.
    pub local: IpAddr,
    /// The peer's.
    pub peer: IpAddr,
    /// Forked instance; 0: the context of all.
    pub instance: u32,
    /// `established`, `lost`, `ended`, `no-answer`, `no-support`, `switched`, `no-path` or
    /// `path-found`.
    pub event: String,
    /// `switched`: the pair that was left (here, there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<(IpAddr, IpAddr)>,
    /// `switched`: the pair that is used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<(IpAddr, IpAddr)>,
    /// `switched`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Events by vserver, each with numbers of its own.
pub type ShimEventPages = Vec<(String, Page<ShimEvent>)>;

const fn name(what: What) -> &'static str {
    match what {
        What::Established => "established",
        What::Lost => "lost",
        What::Ended => "ended",
        What::NoAnswer => "no-answer",
        What::NoSupport => "no-support",
        What::Switched { .. } => "switched",
        What::NoPath => "no-path",
        What::PathFound => "path-found",
    }
}

impl ShimEvent {
    fn of(vserver: &str, entry: &Entry) -> ShimEvent {
        let (from, to, why) = match entry.what {
            What::Switched { from, to, why } => {
                let ends = |p: weft_shim::locator::Pair| Some((p.local, p.remote));
                (ends(from), ends(to), Some(word(&why)))
            }
            _ => (None, None, None),
        };
        ShimEvent {
            version: VERSION,
            vserver: vserver.to_owned(),
            number: entry.number,
            at_us: micros(entry.at),
            local: entry.ulids.local,
            peer: entry.ulids.remote,
            instance: entry.fii,
            event: name(entry.what).to_owned(),
            from,
            to,
            why,
        }
    }
}

fn page(vserver: &str, log: &Log, after: u64) -> Page<ShimEvent> {
    let items: Vec<ShimEvent> = log.after(after).map(|e| ShimEvent::of(vserver, e)).collect();
    let next = log.newest();
    // A number of a former log stands for none.
    let seen = if after > next { 0 } else { after };
    let lost = (next - seen).saturating_sub(items.len() as u64);
    Page { items, next, lost }
}

impl Host {
    /// What happened to the contexts of vservers, of one or of all, after the number that `after`
    /// has for each; for one that is not in it, all that is kept; with the time, which they are dated in. `None`:
    /// there is no such vserver.
    pub fn shim_events(
        &self,
        vserver: Option<&str>,
        after: &BTreeMap<String, u64>,
    ) -> Option<(u64, ShimEventPages)> {
        let mut pages = Vec::new();
        self.each_shim(vserver, |v, _, at| {
            let after = after.get(&v.name).copied().unwrap_or(0);
            let page = at.look(|contexts, _| page(&v.name, contexts.log(), after));
            pages.extend(page.map(|page| (v.name.clone(), page)));
        })
        .then(|| (micros(self.now()), pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_shim::locator::Pair;
    use weft_shim::reap::Why;
    use weft_stack::time::Instant;

    #[test]
    fn a_switch_tells_both_pairs_and_why_and_json_leaves_out_what_there_is_not() {
        let pair = |n: u8| Pair::new(IpAddr::from([10, n, 0, 1]), IpAddr::from([10, n, 0, 2]));
        let what = What::Switched { from: pair(0), to: pair(1), why: Why::LinkDown };
        let at = Instant::from_millis(7);
        let entry = Entry { number: 3, at, ulids: pair(0), fii: 0, what };
        let told = ShimEvent::of("web", &entry);
        assert_eq!((told.at_us, told.event.as_str()), (7000, "switched"));
        assert_eq!(told.to, Some((pair(1).local, pair(1).remote)));
        assert_eq!(told.why.as_deref(), Some("link-down"));
        let ended = ShimEvent::of("web", &Entry { what: What::Ended, ..entry });
        let json = serde_json::to_string(&ended).unwrap();
        assert!(json.ends_with(r#""instance":0,"event":"ended"}"#), "{json}");
        assert_eq!(serde_json::from_str::<ShimEvent>(&json).unwrap(), ended);
    }
}

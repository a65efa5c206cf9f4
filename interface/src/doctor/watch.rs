//! Counters that only grow, as what happened lately.

use super::Recent;

/// Counters of a NIC since the host began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Frames that came in, but for those of control protocols.
    pub frames: u64,
    /// Of those, our own.
    pub own: u64,
    /// By VLAN; those are there that were looked for.
    pub tags: Vec<(u16, u64)>,
    /// Of those, the ones that a switch sends out of every port, and that are not from this host.
    pub flooded: Vec<(u16, u64)>,
}

fn add(to: &mut Vec<(u16, u64)>, more: &[(u16, u64)]) {
    for (tag, n) in more {
        match to.iter_mut().find(|t| t.0 == *tag) {
            Some(known) => known.1 += n,
            None => to.push((*tag, *n)),
        }
    }
}

impl Sample {
    /// What came in by other queues of the NIC.
    pub fn add(&mut self, other: &Sample) {
        self.frames += other.frames;
        self.own += other.own;
        add(&mut self.tags, &other.tags);
        add(&mut self.flooded, &other.flooded);
    }
}

/// The difference, of VLANs that were counted before.
fn since(base: &[(u16, u64)], now: &[(u16, u64)]) -> Vec<(u16, u64)> {
    let one = |(tag, n): &(u16, u64)| {
        let before = base.iter().find(|b| b.0 == *tag)?;
        Some((*tag, n.saturating_sub(before.1)))
    };
    now.iter().filter_map(one).collect()
}

/// Samples that [`Watch`] keeps apart, in milliseconds.
const STEP_MS: u64 = 60_000;

/// The counters of one NIC one to two minutes ago.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// The older, and when it was taken.
    base: Option<(u64, Sample)>,
    next: Option<(u64, Sample)>,
}

impl Watch {
    /// Takes the counters; call it at least every minute.
    pub fn observe(&mut self, now_ms: u64, sample: &Sample) {
        match &self.next {
            None => self.next = Some((now_ms, sample.clone())),
            Some((at, _)) if now_ms.saturating_sub(*at) >= STEP_MS => {
                self.base = self.next.replace((now_ms, sample.clone()));
            }
            Some(_) => {}
        }
    }

    /// What came in since one to two minutes ago; `None` until that is known.
    pub fn recent(&self, now_ms: u64, sample: &Sample) -> Option<Recent> {
        let (at, base) = self.base.as_ref()?;
        Some(Recent {
            window_ms: now_ms.saturating_sub(*at),
            frames: sample.frames.saturating_sub(base.frames),
            own: sample.own.saturating_sub(base.own),
            tags: since(&base.tags, &sample.tags),
            flooded: since(&base.flooded, &sample.flooded),
        })
    }
}

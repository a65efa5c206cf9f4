//! Counters that only grow, as what happened lately.

use super::Recent;

/// Counters of a NIC since the host began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Frames that came in, but for those of control protocols.
    pub frames: u64,
    /// Of those, our own.
    pub own: u64,
    /// By VLAN, 0 for untagged.
    pub tags: Vec<(u16, u64)>,
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
        let before = |tag| base.tags.iter().find(|t| t.0 == tag).map_or(0, |t| t.1);
        Some(Recent {
            window_ms: now_ms.saturating_sub(*at),
            frames: sample.frames.saturating_sub(base.frames),
            own: sample.own.saturating_sub(base.own),
            tags: sample
                .tags
                .iter()
                .map(|(tag, n)| (*tag, n.saturating_sub(before(*tag))))
                .collect(),
        })
    }
}

//! What came in on each port of a bond: evidence for those who look for errors of a switch.

use smallvec::SmallVec;

use crate::{Mac, vlan};

/// Frames of one port of a bond, control protocols left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSeen {
    /// All.
    pub frames: u64,
    /// Sent by this bond itself, and brought back.
    pub own: u64,
    /// By VLAN, of those that stand on the bond.
    pub tags: SmallVec<[(u16, u64); 4]>,
}

impl PortSeen {
    /// Nothing came in yet; `tags` are the VLANs on the bond.
    pub(super) fn new(tags: impl Iterator<Item = u16>) -> PortSeen {
        PortSeen { tags: tags.map(|tag| (tag, 0)).collect(), ..PortSeen::default() }
    }

    /// What was counted before goes on.
    pub(super) fn go_on(&mut self, before: &PortSeen) {
        (self.frames, self.own) = (before.frames, before.own);
        for (tag, count) in &mut self.tags {
            *count = before.tags.iter().find(|(t, _)| t == tag).map_or(0, |(_, n)| *n);
        }
    }

    /// Counts a frame; tells whether a bond with this MAC address sent it itself.
    pub(super) fn count(&mut self, mac: Option<Mac>, frame: &[u8]) -> bool {
        self.frames += 1;
        if !self.tags.is_empty()
            && let Some([a, b, c, d]) = frame.get(12..16)
            && vlan::is_tag(u16::from_be_bytes([*a, *b]))
        {
            let tag = u16::from_be_bytes([*c, *d]) & vlan::ID_MASK;
            if let Some((_, count)) = self.tags.iter_mut().find(|(t, _)| *t == tag) {
                *count += 1;
            }
        }
        let own = mac.is_some_and(|mac| frame.get(6..12) == Some(&mac[..]));
        self.own += u64::from(own);
        own
    }
}

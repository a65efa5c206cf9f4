//! Captures that are live on a worker. Without one a frame costs one branch.

use std::sync::Arc;

use weft_stack::frame::Frame;
use weft_stack::ip::address::AliasId;
use weft_stack::shard::Owner;

use super::{Core, NodeId};
use crate::capture::Feed;
use crate::demux::Target;

/// By vserver; as few as there may be at a time.
pub(crate) type LiveCaptures = Vec<(NodeId, Arc<Feed>)>;

impl Core {
    /// Offers frames of a vserver to a capture from now on; whether the first of its links has
    /// Ethernet headers, if it has one.
    pub(crate) fn add_capture(&mut self, node: NodeId, feed: Arc<Feed>) -> Option<bool> {
        self.captures.push((node, feed));
        let link = *self.node(node)?.links.first()?;
        Some(self.links[link].ethernet)
    }

    /// The capture is over.
    pub(crate) fn forget_capture(&mut self, feed: &Arc<Feed>) {
        self.captures.retain(|(_, other)| !Arc::ptr_eq(feed, other));
    }

    /// A frame for a vserver's stack.
    #[cold]
    #[inline(never)]
    pub(super) fn capture_received(&self, to: Target, frame: &Frame) {
        let link = self.aliases[to.alias.0 as usize].link();
        // Of discovery every worker has a copy.
        let is_copy = self.mesh.count() > 1
            && !self.mesh.is_home()
            && matches!(self.owner(link, frame), Owner::All);
        if !is_copy {
            self.capture(to.vserver, link, false, frame);
        }
    }

    /// Frames of a vserver's stack.
    #[cold]
    #[inline(never)]
    pub(super) fn capture_sent(&self, vserver: u32, frames: &[(AliasId, Frame)]) {
        for (alias, frame) in frames {
            self.capture(vserver, self.aliases[alias.0 as usize].link(), true, frame);
        }
    }

    fn capture(&self, vserver: u32, link: usize, out: bool, frame: &Frame) {
        let (id, ethernet) = (self.id_of(vserver), self.links[link].ethernet);
        for (_, feed) in self.captures.iter().filter(|(node, _)| *node == id) {
            feed.offer(frame, ethernet, out, self.nodes[vserver as usize].stack.path());
        }
    }
}

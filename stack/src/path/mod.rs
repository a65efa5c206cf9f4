//! The seam where the multipath shim plugs in: upper-layer identifiers above, locators below.

use core::net::IpAddr;

use crate::drop::DropReason;
use crate::frame::Frame;
use crate::time::Instant;

/// Addresses of a packet as it crosses the path layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathAddrs {
    /// Source: a ULID above, a locator below.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// IP protocol of the payload; a rewriting layer replaces it by its own header's.
    pub protocol: u8,
}

/// Between transport and IP. [`Direct`] is the identity.
pub trait PathLayer: Send {
    /// Packets pass unchanged, and nothing need be asked about them.
    const TRANSPARENT: bool = false;

    /// A packet on its way down, its transport header at the front of `frame`: maps ULIDs to the
    /// current locators and may push a header. `Err` drops the packet.
    fn egress(
        &mut self,
        now: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<(), DropReason>;

    /// A packet on its way up, IP header pulled: maps locators to ULIDs and pulls its header.
    fn ingress(
        &mut self,
        now: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<(), DropReason>;

    /// Bytes that [`PathLayer::egress`] may add to a packet between two ULIDs; taken off the MSS.
    fn overhead_bytes(&self, src: IpAddr, dst: IpAddr) -> usize;

    /// The locator pair that a packet between two ULIDs would use now. An unspecified `src` has
    /// not been chosen yet and stays so.
    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr);
}

/// ULIDs are locators; costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl PathLayer for Direct {
    const TRANSPARENT: bool = true;

    #[inline]
    fn egress(&mut self, _: Instant, _: &mut PathAddrs, _: &mut Frame) -> Result<(), DropReason> {
        Ok(())
    }

    #[inline]
    fn ingress(&mut self, _: Instant, _: &mut PathAddrs, _: &mut Frame) -> Result<(), DropReason> {
        Ok(())
    }

    #[inline]
    fn overhead_bytes(&self, _: IpAddr, _: IpAddr) -> usize {
        0
    }

    #[inline]
    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr) {
        (src, dst)
    }
}

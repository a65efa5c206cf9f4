//! Every way to lose a packet: one name, one sentence, one remedy. Nothing is dropped without one.

macro_rules! drop_reasons {
    ($( $name:ident, $text:literal, $remedy:literal; )*) => {
        /// Why a packet was lost. The discriminant indexes [`Drops`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $( #[doc = $text] $name, )* }

        impl DropReason {
            /// Every reason, in order.
            pub const ALL: &'static [DropReason] = &[ $( DropReason::$name, )* ];

            /// The stable name operators see.
            pub const fn name(self) -> &'static str {
                match self { $( DropReason::$name => stringify!($name), )* }
            }

            /// What happened, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $( DropReason::$name => $text, )* }
            }

            /// What an operator can do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $( DropReason::$name => $remedy, )* }
            }
        }
    };
}

drop_reasons! {
    // link
    EthernetTruncated, "The frame is shorter than an Ethernet header.", "Look at the sender or the cable.";
    EthertypeUnknown, "The ethertype is none that weft speaks.", "None needed; the frame was not for this stack.";
    NotForThisHost, "Unicast frame to another MAC address.", "Check the alias's MAC address and promiscuous senders.";
    AliasUnknown, "The frame came for an alias that this stack does not have.", "Check the aliases of the vserver.";
    ArpMalformed, "An ARP packet has wrong lengths or types.", "Look at the sender.";
    ArpNotForUs, "An ARP request asks for an address that is not ours.", "None needed.";
    NeighbourTableFull, "The neighbour table is at its limit and no entry could be replaced.", "Raise the neighbour limit, or look for an address scan.";
    NeighbourQueueFull, "Too many packets wait for one neighbour's address.", "None needed for single packets; the neighbour is slow or absent.";
    NeighbourUnreachable, "The neighbour did not answer ARP or neighbour solicitation.", "Check that the host or gateway is up and on this link.";
    // ip
    IpTruncated, "The packet is shorter than its IP header says.", "Look at the sender or a broken link.";
    IpVersionWrong, "The IP version field does not match the ethertype.", "Look at the sender.";
    IpHeaderMalformed, "The IP header has impossible lengths.", "Look at the sender.";
    IpChecksumBad, "The IPv4 header checksum is wrong.", "Look for a broken link or NIC.";
    IpOptionRefused, "An IPv4 source-route option, refused (RFC 7126).", "None needed.";
    IpExtensionMalformed, "An IPv6 extension header is malformed or out of order.", "Look at the sender.";
    IpExtensionTooMany, "An IPv6 header chain is longer than the limit.", "None needed; likely an attack.";
    IpExtensionUnknown, "An IPv6 extension or option that must be understood is not.", "Look at the sender.";
    IpSourceInvalid, "The source address can never be a source (multicast, broadcast, loopback).", "Look for spoofed traffic.";
    IpSourceIsUs, "The source address is one of our own.", "Look for a loop, a duplicate address or spoofing.";
    IpDestinationNotOurs, "The destination is none of the vserver's addresses and forwarding is off.", "Check the addresses; enable forwarding if this vserver routes.";
    IpNoRoute, "No route leads to the destination.", "Add a route or a default gateway.";
    RuleProhibit, "A policy routing rule prohibits the packet.", "Look at the vserver's rules: weft routes.";
    RuleBlackhole, "A policy routing rule drops the packet in silence.", "Look at the vserver's rules: weft routes.";
    RuleUnreachable, "A policy routing rule says that the destination cannot be reached.", "Look at the vserver's rules: weft routes.";
    IpNoSourceAddress, "No usable source address for the destination.", "Add an address of that family to the alias.";
    IpTtlExceeded, "TTL or hop limit reached zero while forwarding.", "Look for a routing loop.";
    IpTooBig, "The packet is larger than the MTU and may not be fragmented.", "Check the path MTU and that ICMP passes.";
    IpProtocolUnknown, "No transport for this protocol number.", "None needed.";
    FragmentMalformed, "A fragment has an impossible offset or length.", "Likely an attack.";
    FragmentOverlap, "Fragments overlap; the whole packet is discarded (RFC 5722).", "Likely an attack.";
    FragmentEcnMixed, "Some fragments are marked as congested, others are not ECN-capable; the whole packet is discarded (RFC 3168 5.3).", "Look for a router that changes ECN bits.";
    FragmentTooMany, "The reassembly limits of the vserver are reached.", "Raise the fragment limits, or look for an attack.";
    FragmentTimeout, "The missing fragments did not arrive in time.", "Look for loss on the path; avoid fragmentation.";
    // icmp
    IcmpMalformed, "An ICMP message is truncated, or claims an IPv6 link below 1,280 bytes.", "Look at the sender.";
    IcmpChecksumBad, "The ICMP checksum is wrong.", "Look for a broken link.";
    IcmpTypeUnknown, "No use for this ICMP type.", "None needed.";
    IcmpErrorUnmatched, "An ICMP error quotes a packet that no socket sent.", "Likely spoofed, or late.";
    IcmpEchoSuppressed, "Echo to a broadcast or multicast address is not answered.", "None needed.";
    NdpInvalid, "A neighbour discovery message fails the checks of RFC 4861.", "Look for spoofed neighbour discovery.";
    NdpNotForUs, "A neighbour solicitation asks for an address that is not ours.", "None needed.";
    MembershipInvalid, "An IGMP or MLD message fails the checks of RFC 3376 or RFC 3810.", "Look at the sender.";
    MulticastNotMember, "Nobody joined that group.", "None needed.";
    // access
    AccessDenied, "An access rule drops the first packet of a flow without an answer.", "See `weft access` for the rule, its hits and the last client.";
    AccessRejected, "An access rule refuses the first packet of a flow, with an answer.", "See `weft access` for the rule, its hits and the last client.";
    // shim
    ShimMalformed, "A packet of protocol 140 (Shim6) has an impossible header.", "Look at the sender.";
    ShimNoContext, "A packet's Shim6 tag names no context here, or one that is not set up yet.", "None needed: the peer is told and sets the context up again.";
    // transport
    UdpMalformed, "A UDP header with a wrong length or port 0.", "Look at the sender.";
    UdpChecksumBad, "The UDP checksum is wrong.", "Look for a broken link; on veth turn transmit checksum offload off or trust it.";
    UdpPortClosed, "No socket is bound to the UDP port.", "Start the service or ignore.";
    UdpBufferFull, "The receive buffer of the UDP socket is full.", "Read faster or raise the buffer.";
    TcpMalformed, "A TCP header with a wrong length.", "Look at the sender.";
    TcpChecksumBad, "The TCP checksum is wrong.", "Look for a broken link; on veth turn transmit checksum offload off or trust it.";
    TcpPortClosed, "No listener and no connection for the TCP segment.", "Start the service or ignore.";
    TcpFlagsInvalid, "An impossible combination of TCP flags.", "Likely a scan.";
    TcpOutOfWindow, "The segment lies outside the receive window.", "None needed for single segments.";
    TcpAckInvalid, "The segment acknowledges what was never sent.", "Likely an attack, or a peer that restarted.";
    TcpPaws, "The timestamp is older than one already seen (RFC 7323).", "None needed for single segments.";
    TcpBufferFull, "No room in the receive buffer for the segment.", "Read faster or raise the buffer.";
    TcpMemory, "The memory of the vserver's TCP connections is used up.", "Raise `tcp_bytes`, or find who does not read; see the sockets' memory.";
    TcpReassemblyFull, "Too many holes or bytes out of order.", "Look for loss on the path.";
    TcpSynQueueFull, "Too many half-open connections.", "Raise the backlog, or look for a SYN flood.";
    TcpAcceptQueueFull, "The application does not accept fast enough.", "Accept faster or raise the backlog; of a built-in service, its `connections`.";
    TcpConnectionLimit, "The vserver's connection limit is reached.", "Raise the limit.";
    TcpRstInvalid, "A RST outside the exact sequence number (RFC 5961).", "Likely an attack.";
    TcpStateRefused, "The connection's state does not take this segment.", "None needed for single segments.";
    // both ways
    OutQueueFull, "The stack's transmit queue is full.", "The device is slower than the senders; see its counters.";
    FramePoolEmpty, "No free frame.", "Raise the pool size, or find who holds frames.";
    AliasDown, "The alias or the link below it is down.", "Check the cable or the alias.";
    // host
    DemuxNoVserver, "No vserver has the destination address on that alias.", "Check the addresses; the steering map may lag behind a change.";
    DemuxMulticastUnwanted, "No vserver joined the destination group.", "None needed.";
    HandOverFull, "The ring to the worker of the packet's flow is full.", "That worker is overloaded; give it a CPU of its own, or spread the flows.";
    HomeFull, "The ring to the worker with the flows of the packet's vserver has no more room for such.", "A vserver with a shim has one worker, which is overloaded: give it a CPU of its own, or less to do.";
    QosPoliced, "The packet is over a rate limit for what arrives.", "See which class with `weft qos`; raise its rate or slow the sender.";
    QosQueueFull, "The queue of the packet's class is full on the way out.", "See which class with `weft qos`; raise its rate.";
    InputQueueFull, "The vserver's input queue is full while others have their turn.", "Its part of the worker is too small for what arrives: raise its `weight` or `input_frames`, or look for a flood.";
    // interfaces
    VlanUnknown, "The frame has a VLAN tag that no interface here has.", "Make the VLAN, or take it off the switch port.";
    BondNotCollecting, "The frame came by a port that its bond does not take frames from now.", "See `weft interfaces`; the switch should not use the port either.";
    MemberNotNominee, "A frame to many came by a member of a failover group that is not the one for them.", "None needed: the group takes one copy.";
    OwnFrameReflected, "The network gave back a frame that a member of a failover group sent.", "None needed for broadcasts; of others: look for a loop.";
    LinkHasNoMember, "No port of the bond, or member of the group, can send now.", "See `weft interfaces` for why.";
    DeviceTransmitRefused, "The device did not take the frame.", "See the device's counters.";
    FrameTooLong, "The frame is longer than the alias can carry.", "Check MTUs and segmentation offload on the peer.";
}

/// One counter per [`DropReason`].
#[derive(Clone, Debug)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Drops {
        Drops([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// Counts one lost packet.
    #[inline]
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts `n` lost packets.
    #[inline]
    pub fn add(&mut self, reason: DropReason, n: u64) {
        self.0[reason as usize] += n;
    }

    /// Packets lost for one reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All packets lost.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Reasons and their counts, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|r| (*r, self.get(*r)))
    }

    /// Adds another shard's counters.
    pub fn merge(&mut self, other: &Drops) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a += b;
        }
    }
}

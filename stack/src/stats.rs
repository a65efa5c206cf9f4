//! MIB counters of one stack: RFC 4293 (IP, ICMP), 4022 (TCP), 4113 (UDP) names, and Linux's
//! `TcpExt`/`IpExt` names where the meaning is the same, so that users of `nstat` recognise them.
//!
//! Counters are plain `u64`, per shard, summed when read.

use crate::drop::Drops;
use crate::frame::prefetch;
use crate::wire::protocol;

/// Declares a struct of counters, its names, and how shards are summed.
#[macro_export]
macro_rules! counters {
    ($(#[$meta:meta])* $vis:vis struct $name:ident, $prefix:literal {
        $( $(#[$fmeta:meta])* $field:ident : $label:literal, )*
    }) => {
        // In the order given, which puts what every packet counts in one cache line.
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[repr(C, align(64))]
        $vis struct $name { $( $(#[$fmeta])* pub $field: u64, )* }

        impl $name {
            /// Calls `f` with the stable name and value of every counter.
            pub fn for_each(&self, mut f: impl FnMut(&'static str, u64)) {
                $( f(concat!($prefix, $label), self.$field); )*
            }

            /// Adds another shard's counters.
            pub fn merge(&mut self, other: &Self) {
                $( self.$field += other.$field; )*
            }
        }
    };
}

counters! {
    /// What became of every frame. `rx_frames = delivered + forwarded + consumed + dropped on
    /// receive`, always; see [`Mib::check_sums`].
    pub struct FrameStats, "Frame" {
        /// Frames handed to the stack.
        rx_frames: "InFrames",
        /// Their bytes, link header included.
        rx_bytes: "InBytes",
        /// Ended at a transport or a raw socket.
        delivered: "InDelivered",
        /// Taken by the stack itself: ARP, ND, echo, IGMP/MLD, a fragment that waits.
        consumed: "InConsumed",
        /// Frames given to the caller for transmission.
        tx_frames: "OutFrames",
        /// Their bytes.
        tx_bytes: "OutBytes",
        /// Sent on to another alias.
        forwarded: "InForwarded",
        /// Lost on the way in; the reasons are in [`Drops`].
        rx_dropped: "InDropped",
        /// Lost on the way out; the reasons are in [`Drops`].
        tx_dropped: "OutDropped",
        /// Buffers in the device's memory that an application did not get.
        pool_bufs_refused: "PoolBufsRefused",
        /// Timers that a service did not get.
        service_timers_refused: "ServiceTimersRefused",
        /// Datagrams sent whose answer access rules will judge like a stranger's: too many are waited
        /// for.
        access_states_refused: "AccessStatesRefused",
    }
}

counters! {
    /// IPv4 or IPv6 (RFC 4293).
    pub struct IpStats, "" {
        /// Packets received, errors included.
        in_receives: "InReceives",
        /// Bytes received.
        in_octets: "InOctets",
        /// Delivered to a protocol.
        in_delivers: "InDelivers",
        /// Packets received that are not ECN-capable.
        in_no_ect_pkts: "InNoECTPkts",
        /// Packets received with ECT(0).
        in_ect0_pkts: "InECT0Pkts",
        /// Packets that protocols asked to send.
        out_requests: "OutRequests",
        /// Bytes sent.
        out_octets: "OutOctets",
        /// Handed to the link.
        out_transmits: "OutTransmits",
        /// Discarded for header errors.
        in_hdr_errors: "InHdrErrors",
        /// Discarded: no route while forwarding.
        in_no_routes: "InNoRoutes",
        /// Discarded: not our address.
        in_addr_errors: "InAddrErrors",
        /// Discarded: unknown protocol.
        in_unknown_protos: "InUnknownProtos",
        /// Discarded: truncated.
        in_truncated_pkts: "InTruncatedPkts",
        /// Discarded for want of resources.
        in_discards: "InDiscards",
        /// Multicast packets received.
        in_mcast_pkts: "InMcastPkts",
        /// Packets received with ECT(1).
        in_ect1_pkts: "InECT1Pkts",
        /// Packets received with the mark "congestion experienced".
        in_ce_pkts: "InCEPkts",
        /// Discarded: no route.
        out_no_routes: "OutNoRoutes",
        /// Discarded for want of resources.
        out_discards: "OutDiscards",
        /// Forwarded.
        forw_datagrams: "ForwDatagrams",
        /// Fragments received.
        reasm_reqds: "ReasmReqds",
        /// Packets reassembled.
        reasm_oks: "ReasmOKs",
        /// Reassemblies given up.
        reasm_fails: "ReasmFails",
        /// Packets fragmented.
        frag_oks: "FragOKs",
        /// Packets that could not be fragmented.
        frag_fails: "FragFails",
        /// Fragments made.
        frag_creates: "FragCreates",
    }
}

counters! {
    /// ICMPv4 or ICMPv6 (RFC 4293), with neighbour discovery and membership.
    pub struct IcmpStats, "" {
        /// Messages received.
        in_msgs: "InMsgs",
        /// Echo requests received.
        in_echos: "InEchos",
        /// Messages sent.
        out_msgs: "OutMsgs",
        /// Echo replies sent.
        out_echo_reps: "OutEchoReps",
        /// Received with errors.
        in_errors: "InErrors",
        /// Echo replies received.
        in_echo_reps: "InEchoReps",
        /// Destination unreachable received.
        in_dest_unreachs: "InDestUnreachs",
        /// Packet too big (v6) or fragmentation needed (v4) received.
        in_pkt_too_bigs: "InPktTooBigs",
        /// Time exceeded received.
        in_time_excds: "InTimeExcds",
        /// Destination unreachable sent.
        out_dest_unreachs: "OutDestUnreachs",
        /// Packet too big sent.
        out_pkt_too_bigs: "OutPktTooBigs",
        /// Time exceeded sent.
        out_time_excds: "OutTimeExcds",
        /// Errors not sent because of the rate limit.
        out_rate_limited: "OutRateLimited",
    }
}

counters! {
    /// ARP, neighbour discovery and group membership.
    pub struct NeighbourStats, "Neigh" {
        /// ARP requests received.
        in_arp_requests: "InArpRequests",
        /// ARP replies received.
        in_arp_replies: "InArpReplies",
        /// ARP requests sent.
        out_arp_requests: "OutArpRequests",
        /// ARP replies sent.
        out_arp_replies: "OutArpReplies",
        /// Neighbour solicitations received.
        in_solicits: "InSolicits",
        /// Neighbour advertisements received.
        in_adverts: "InAdverts",
        /// Neighbour solicitations sent.
        out_solicits: "OutSolicits",
        /// Neighbour advertisements sent.
        out_adverts: "OutAdverts",
        /// Router advertisements received.
        in_router_adverts: "InRouterAdverts",
        /// Redirects received, and ignored.
        in_redirects: "InRedirects",
        /// Router solicitations sent.
        out_router_solicits: "OutRouterSolicits",
        /// Duplicate addresses found (RFC 4862, RFC 5227).
        duplicate_addresses: "DuplicateAddresses",
        /// Entries created.
        created: "Created",
        /// Entries removed to make room.
        evicted: "Evicted",
        /// Resolutions that failed.
        res_failed: "ResFailed",
        /// Neighbours taken from a shared table instead of asked for.
        shared_taken: "SharedTaken",
        /// Questions left to another vserver of a shared table.
        shared_waits: "SharedWaits",
        /// IGMP or MLD queries received.
        in_group_queries: "InGroupQueries",
        /// IGMP or MLD reports sent.
        out_group_reports: "OutGroupReports",
    }
}

counters! {
    /// UDP (RFC 4113), v4 and v6 together.
    pub struct UdpStats, "Udp" {
        /// Datagrams delivered to sockets.
        in_datagrams: "InDatagrams",
        /// Datagrams sent.
        out_datagrams: "OutDatagrams",
        /// Payload bytes delivered.
        in_octets: "InOctets",
        /// Payload bytes sent.
        out_octets: "OutOctets",
        /// Datagrams to a closed port.
        no_ports: "NoPorts",
        /// Malformed datagrams.
        in_errors: "InErrors",
        /// Checksum errors.
        in_csum_errors: "InCsumErrors",
        /// Lost because a receive buffer was full.
        rcvbuf_errors: "RcvbufErrors",
        /// ICMP errors lost because a socket's error queue was full.
        error_queue_full: "ErrQueueFull",
        /// Payload bytes copied out by receive calls.
        in_copied_octets: "InCopiedOctets",
        /// Payload bytes copied by send calls.
        out_copied_octets: "OutCopiedOctets",
    }
}

counters! {
    /// Raw and ICMP sockets.
    pub struct RawStats, "Raw" {
        /// Packets and answers given to sockets.
        in_packets: "InPackets",
        /// Lost because a receive buffer was full.
        rcvbuf_errors: "RcvbufErrors",
        /// Packets and requests sent.
        out_packets: "OutPackets",
    }
}

counters! {
    /// TCP (RFC 4022 names; Linux `TcpExt` names behind them).
    pub struct TcpStats, "Tcp" {
        /// Segments received.
        in_segs: "InSegs",
        /// Segments sent, retransmissions excluded.
        out_segs: "OutSegs",
        /// Payload bytes delivered to applications.
        in_octets: "InOctets",
        /// Payload bytes acknowledged by peers.
        out_octets: "OutOctets",
        /// Received bytes that were copied: to the application, or to save memory.
        rcv_copied_octets: "ExtRcvCopiedOctets",
        /// Bytes copied into send buffers.
        snd_copied_octets: "ExtSndCopiedOctets",
        /// Delayed ACKs sent.
        delayed_acks: "ExtDelayedACKs",
        /// Connections we opened.
        active_opens: "ActiveOpens",
        /// Connections we accepted.
        passive_opens: "PassiveOpens",
        /// Handshakes that failed.
        attempt_fails: "AttemptFails",
        /// Established connections that were reset.
        estab_resets: "EstabResets",
        /// Connections in ESTABLISHED or CLOSE-WAIT now (a gauge).
        curr_estab: "CurrEstab",
        /// Segments sent again.
        retrans_segs: "RetransSegs",
        /// Segments received with errors.
        in_errs: "InErrs",
        /// Checksum errors.
        in_csum_errors: "InCsumErrors",
        /// RSTs sent.
        out_rsts: "OutRsts",
        /// Retransmission timeouts.
        timeouts: "ExtTCPTimeouts",
        /// Connections that sent again at once because a failover group or bond below moved.
        path_moved_retrans: "ExtTCPPathMovedRetrans",
        /// SYNs and SYN-ACKs sent again.
        syn_retrans: "ExtTCPSynRetrans",
        /// Fast retransmissions.
        fast_retrans: "ExtTCPFastRetrans",
        /// Segments resent because SACK showed a hole.
        sack_recovery: "ExtTCPSackRecovery",
        /// Recoveries started by duplicate ACKs without SACK.
        reno_recovery: "ExtTCPRenoRecovery",
        /// Segments lost again after they were sent again (RACK).
        lost_retransmit: "ExtTCPLostRetransmit",
        /// Duplicates reported by peers (RFC 2883).
        dsack_recv: "ExtTCPDSACKRecv",
        /// Reported segments that a peer dropped again (RFC 2018 section 8).
        sack_reneging: "ExtTCPSACKReneging",
        /// Tail loss probes sent (RFC 8985 section 7).
        loss_probes: "ExtTCPLossProbes",
        /// Losses that a tail loss probe repaired.
        loss_probe_recovery: "ExtTCPLossProbeRecovery",
        /// Timeouts found spurious by what arrived next (F-RTO, RFC 5682).
        spurious_rtos: "ExtTCPSpuriousRTOs",
        /// Timeouts found spurious by timestamps (RFC 3522).
        loss_undo: "ExtTCPLossUndo",
        /// Fast recoveries found spurious by timestamps (RFC 3522).
        full_undo: "ExtTCPFullUndo",
        /// Recoveries found spurious by duplicates that the peer reported (RFC 3708).
        dsack_undo: "ExtTCPDSACKUndo",
        /// Times reordering was seen in the order of SACK reports.
        sack_reorder: "ExtTCPSACKReorder",
        /// SACK blocks that were not noted in full because a connection's records were at their limit.
        sack_blocks_ignored: "ExtSackBlocksIgnored",
        /// Segments that share a record because a connection's records were at their limit.
        sent_records_shared: "ExtSentRecordsShared",
        /// Out-of-order segments queued.
        ofo_queue: "ExtTCPOFOQueue",
        /// Segments with nothing new.
        duplicate_segs: "ExtTCPDuplicateSegs",
        /// Challenge ACKs sent (RFC 5961).
        challenge_acks: "ExtTCPChallengeACK",
        /// Challenge ACKs not sent because of the limit.
        challenge_acks_limited: "ExtTCPChallengeACKLimited",
        /// RSTs to segments that belong to no connection, not sent because of the limit.
        resets_limited: "ExtTCPResetsLimited",
        /// SYNs refused because the accept queue was full.
        listen_overflows: "ExtListenOverflows",
        /// SYNs refused because the SYN queue was full and cookies are off.
        syn_queue_overflows: "ExtTCPReqQFullDrop",
        /// SYNs answered by a cookie.
        syncookies_sent: "ExtSyncookiesSent",
        /// Cookies that came back and made a connection.
        syncookies_recv: "ExtSyncookiesRecv",
        /// ACKs that looked like cookies and were not.
        syncookies_failed: "ExtSyncookiesFailed",
        /// Connects whose SYN's data was taken (RFC 7413).
        fast_open_active: "ExtTCPFastOpenActive",
        /// Connects whose SYN's data was not.
        fast_open_active_fails: "ExtTCPFastOpenActiveFail",
        /// Connections accepted with data of the SYN.
        fast_open_passive: "ExtTCPFastOpenPassive",
        /// SYNs with a Fast Open cookie that is not ours, or too old.
        fast_open_passive_fails: "ExtTCPFastOpenPassiveFail",
        /// SYNs whose data was not taken because too many such connections were pending.
        fast_open_overflows: "ExtTCPFastOpenListenOverflow",
        /// Fast Open cookies asked for.
        fast_open_cookies_requested: "ExtTCPFastOpenCookieReqd",
        /// Peers to which Fast Open was given up for a while.
        fast_open_blackholes: "ExtTCPFastOpenBlackhole",
        /// Keepalive probes sent.
        keepalives: "ExtTCPKeepAlive",
        /// Zero-window probes sent.
        window_probes: "ExtTCPWinProbe",
        /// Connections that entered TIME-WAIT.
        time_waits: "ExtTW",
        /// TIME-WAIT entries taken over by a new connection of the same tuple (RFC 6191).
        time_waits_reused: "ExtTWRecycled",
        /// TIME-WAIT entries that made room for connections.
        time_wait_overflows: "ExtTCPTimeWaitOverflow",
        /// Connections aborted on timeout.
        abort_on_timeout: "ExtTCPAbortOnTimeout",
        /// Connections aborted because data came after close.
        abort_on_data: "ExtTCPAbortOnData",
        /// Connections reset because their time to linger was over.
        abort_on_linger: "ExtTCPAbortOnLinger",
        /// Corked tails sent because they had waited for 200 ms.
        cork_timeouts: "ExtTCPCorkTimeouts",
        /// Urgent pointers received that announced something new.
        urgent_marks: "ExtTCPUrgentMarks",
        /// Segments rejected by PAWS.
        paws_rejected: "ExtPAWSEstab",
        /// Times that the memory of all connections came to three quarters of its limit.
        memory_pressures: "ExtTCPMemoryPressures",
        /// Probes of the path MTU that arrived.
        mtu_probes_passed: "ExtTCPMTUPSuccess",
        /// Probes of the path MTU that were lost.
        mtu_probes_failed: "ExtTCPMTUPFail",
        /// Times that full segments vanished and smaller ones were tried.
        mtu_black_holes: "ExtTCPMTUBlackHole",
        /// Connections whose packets a multipath shim moved to another pair of locators.
        path_switches: "ExtPathSwitches",
        /// Segments that peers reported as marked "congestion experienced".
        delivered_ce: "ExtTCPDeliveredCE",
        /// Small frames copied together because memory was tight.
        rcv_collapsed: "ExtTCPRcvCollapsed",
        /// Segments out of order given up because memory was used up (RFC 2018 section 8).
        ofo_pruned: "ExtOfoPruned",
        /// Segments refused because memory was used up.
        rcv_q_drop: "ExtTCPRcvQDrop",
        /// Writes refused because memory was tight.
        snd_memory_refused: "ExtTCPSndMemoryRefused",
        /// Connections nobody holds that were reset because memory was used up.
        abort_on_memory: "ExtTCPAbortOnMemory",
    }
}

counters! {
    /// What limits refused where no packet was lost by it; see [`crate::stack::Limits`].
    pub struct LimitStats, "Limit" {
        /// Connects refused: too many connections.
        tcp_connects: "TcpConnects",
        /// Listeners refused.
        tcp_listeners: "TcpListeners",
        /// UDP sockets refused.
        udp_sockets: "UdpSockets",
        /// Raw sockets refused, or not allowed at all.
        raw_sockets: "RawSockets",
        /// ICMP echo sockets refused, or not allowed at all.
        icmp_sockets: "IcmpSockets",
        /// Routes refused, configured or learned.
        routes: "Routes",
        /// Addresses refused, configured or learned.
        addresses: "Addresses",
        /// Joins of multicast groups refused.
        groups: "Groups",
        /// Path MTUs forgotten before their time, to make room.
        path_mtus: "PathMtus",
    }
}

/// Every counter of one stack (one shard).
#[derive(Clone, Debug, Default)]
pub struct Mib {
    /// Fate of frames.
    pub frames: FrameStats,
    /// IPv4.
    pub ip4: IpStats,
    /// IPv6.
    pub ip6: IpStats,
    /// ICMPv4.
    pub icmp4: IcmpStats,
    /// ICMPv6.
    pub icmp6: IcmpStats,
    /// ARP, ND, IGMP, MLD.
    pub neighbour: NeighbourStats,
    /// UDP.
    pub udp: UdpStats,
    /// Raw and ICMP sockets.
    pub raw: RawStats,
    /// TCP.
    pub tcp: TcpStats,
    /// What limits refused.
    pub limits: LimitStats,
    /// Lost packets by reason, both directions.
    pub drops: Drops,
}

impl Mib {
    /// Asks for the counters of a usual packet of a protocol.
    #[inline]
    pub(crate) fn prefetch(&self, number: u8) {
        prefetch(&self.frames.rx_frames);
        prefetch(&self.ip4.in_receives);
        match number {
            protocol::TCP => prefetch(&self.tcp.in_segs),
            protocol::UDP => prefetch(&self.udp.in_datagrams),
            _ => prefetch(&self.icmp4.in_msgs),
        }
    }

    /// Adds another shard's counters.
    pub fn merge(&mut self, other: &Mib) {
        self.frames.merge(&other.frames);
        self.ip4.merge(&other.ip4);
        self.ip6.merge(&other.ip6);
        self.icmp4.merge(&other.icmp4);
        self.icmp6.merge(&other.icmp6);
        self.neighbour.merge(&other.neighbour);
        self.udp.merge(&other.udp);
        self.raw.merge(&other.raw);
        self.tcp.merge(&other.tcp);
        self.limits.merge(&other.limits);
        self.drops.merge(&other.drops);
    }

    /// Calls `f` with every counter's name and value, drops as `Drop<Reason>`.
    pub fn for_each(&self, mut f: impl FnMut(&str, u64)) {
        self.frames.for_each(&mut f);
        self.ip4.for_each(|n, v| f(&format!("Ip{n}"), v));
        self.ip6.for_each(|n, v| f(&format!("Ip6{n}"), v));
        self.icmp4.for_each(|n, v| f(&format!("Icmp{n}"), v));
        self.icmp6.for_each(|n, v| f(&format!("Icmp6{n}"), v));
        self.neighbour.for_each(&mut f);
        self.udp.for_each(&mut f);
        self.raw.for_each(&mut f);
        self.tcp.for_each(&mut f);
        self.limits.for_each(&mut f);
        for (reason, n) in self.drops.iter() {
            f(&format!("Drop{}", reason.name()), n);
        }
    }

    /// Whether every received frame has exactly one fate. Tests call it after every run.
    pub fn check_sums(&self) -> Result<(), String> {
        let f = &self.frames;
        let fates = f.delivered + f.forwarded + f.consumed + f.rx_dropped;
        if f.rx_frames != fates {
            return Err(format!(
                "{} frames came in, {fates} are accounted for: {f:?}",
                f.rx_frames
            ));
        }
        let dropped = f.rx_dropped + f.tx_dropped;
        if self.drops.total() != dropped {
            return Err(format!("{dropped} drops, {} with a reason", self.drops.total()));
        }
        Ok(())
    }
}

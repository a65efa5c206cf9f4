//! Passive opens: from a SYN through the SYN queue, or through a cookie, to the accept queue.

use crate::ctx::{Fate, Timer};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::lower::{InPacket, Lower};
use crate::path::PathLayer;
use crate::seq::SeqNum;
use crate::socket::tcp::{EcnState, TcpState};
use crate::socket::{SocketId, SocketKind};
use crate::stack::SynCookies;
use crate::time::Instant;
use crate::wire::protocol;
use crate::wire::tcp::{Flags, Header, Options};

use super::ecn::Negotiated;
use super::fast_open;
use super::flow_table::{Flow, FlowKey};
use super::half_open::{Due, Request, Verdict};
use super::input::reset_for;
use super::isn::{initial_sequence, timestamp_offset};
use super::paths::flow_of;
use super::settings::Settings;
use super::state::{Connection, Cx, Origin, Owner, mss_of_mtu};
use super::syn_cookie;
use super::{HALF_OPEN_TIMER, Tcp, admission, emit};

/// RFC 6191: a tuple's next incarnation starts this far behind the last one.
pub(super) const REUSE_GAP: u32 = 1 << 17;

/// Entries of the SYN queue looked at by one timer.
const DUE_PER_TIMER: usize = 256;

/// How a SYN may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// An entry of the SYN queue remembers it.
    Entry,
    /// Nothing is kept.
    Cookie,
}

/// What a SYN means for Fast Open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FastOpening {
    /// Nothing.
    No,
    /// The SYN-ACK brings a cookie.
    Cookie,
    /// The data is taken now.
    Early,
}

impl Tcp {
    /// A SYN for a listener; `old` is what remains of the tuple's last connection: its TIME-WAIT
    /// slot, and the sequence number to start behind.
    pub(super) fn open_passive<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        key: FlowKey,
        seg: &Header,
        frame: Frame,
        old: Option<(u32, SeqNum)>,
    ) -> Fate {
        let Some(slot) = self.listener_for(packet.dst, seg.dst_port) else {
            return Fate::Dropped(DropReason::TcpPortClosed);
        };
        let (answer, mtu) = match self.admit(lower, slot, &key, packet, seg) {
            Ok(answer) => answer,
            Err(reason) => return Fate::Dropped(reason),
        };
        if let Some((slot, _)) = old {
            self.time_waits.remove(slot);
            self.flows.remove(&key, Flow::TimeWait(slot));
            lower.ctx.mib.tcp.time_waits_reused += 1;
        }
        let now = lower.ctx.now;
        let iss = if answer == Answer::Cookie {
            syn_cookie::make(&lower.ctx.secrets.syn_cookie, &key, seg, now)
        } else {
            let clock = initial_sequence(lower.ctx.secrets, &key, now);
            old.map_or(clock, |(_, after)| clock.max(after + REUSE_GAP))
        };
        let fast_open = self.judge_fast_open(lower, slot, &key, seg, frame.total_len());
        if fast_open == FastOpening::Early {
            self.open_early(lower, packet, (key, slot, iss, mtu), seg, frame);
            return Fate::Delivered;
        }
        let Some(listener) = self.listeners.get_mut(slot) else {
            return Fate::Dropped(DropReason::TcpPortClosed);
        };
        let name = (key, packet.alias, slot);
        let settings = admission::marked(lower, &listener.settings, &key, packet.alias);
        let mut request = Request::new(name, iss, seg, &settings, now);
        request.gives_cookie = fast_open == FastOpening::Cookie && answer == Answer::Entry;
        send_syn_ack(lower, &settings, &request, mtu, answer);
        let stats = &mut lower.ctx.mib.tcp;
        if answer == Answer::Cookie {
            listener.cookie_sent_at = Some(now);
            stats.syncookies_sent += 1;
            return Fate::Delivered;
        }
        stats.passive_opens += 1;
        listener.half_open += 1;
        let slot = self.half_open.insert(request);
        self.flows.insert(&key, Flow::HalfOpen(slot));
        self.arm_half_open(lower);
        Fate::Delivered
    }

    /// RFC 7413 section 4.2.2.
    fn judge_fast_open<P: PathLayer>(
        &self,
        lower: &mut Lower<'_, P>,
        slot: u32,
        key: &FlowKey,
        seg: &Header,
        payload_len: usize,
    ) -> FastOpening {
        let Some(shown) = seg.options.fast_open else { return FastOpening::No };
        if !self.listeners.get(slot).is_some_and(|l| l.settings.fast_open) {
            return FastOpening::No;
        }
        let stats = &mut lower.ctx.mib.tcp;
        if shown.is_request() {
            stats.fast_open_cookies_requested += 1;
            return FastOpening::Cookie;
        }
        if !fast_open::is_valid(&lower.ctx.secrets.fast_open, key, &shown, lower.ctx.now) {
            stats.fast_open_passive_fails += 1;
            return FastOpening::Cookie;
        }
        if payload_len == 0 {
            return FastOpening::No;
        }
        if self.fast_opens >= lower.ctx.limits.tcp_fast_open {
            stats.fast_open_overflows += 1;
            return FastOpening::No;
        }
        FastOpening::Early
    }

    /// A SYN with a good cookie and data: the connection is accepted before its handshake is over.
    fn open_early<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        (key, slot, iss, mtu): (FlowKey, u32, SeqNum, usize),
        seg: &Header,
        frame: Frame,
    ) {
        let Some(listener) = self.listeners.get(slot) else { return };
        let settings = admission::marked(lower, &listener.settings, &key, packet.alias);
        let settings = settings.into_owned();
        let ts_offset = timestamp_offset(lower.ctx.secrets, &key);
        let origin = Origin { key, alias: packet.alias, iss, ts_offset, mtu };
        let mut cx = Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
        cx.stats.passive_opens += 1;
        let syn = (seg.seq, seg.window, &seg.options);
        let mut c = Connection::accept(origin, settings, slot, syn, &mut cx);
        c.marks_on_syn(&mut cx, seg);
        c.take_syn_data(&mut cx, seg.seq, frame);
        c.notes.generation = self.next_generation();
        c.notes.embryo = true;
        self.fast_opens += 1;
        let index = self.connections.insert(Box::new(c)) as u32;
        self.flows.insert(&key, Flow::Connection(index));
        self.pairs.insert(&key, index);
        self.queue_for_accept(slot, index);
        self.settle(lower, index);
    }

    /// Whether and how a SYN to a listener may be answered, and the MTU of the way back.
    fn admit<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        slot: u32,
        key: &FlowKey,
        packet: &InPacket,
        seg: &Header,
    ) -> Result<(Answer, usize), DropReason> {
        let listener = self.listeners.get(slot).ok_or(DropReason::TcpPortClosed)?;
        let limits = lower.ctx.limits;
        let stats = &mut lower.ctx.mib.tcp;
        if listener.is_accept_queue_full() {
            stats.listen_overflows += 1;
            return Err(DropReason::TcpAcceptQueueFull);
        }
        let full = listener.is_syn_queue_full() || self.half_open.len() >= limits.tcp_half_open;
        // A segment size that a cookie cannot name would be exceeded (RFC 9293 3.7.1 MUST-16).
        let cookies =
            if syn_cookie::can_name(key, seg) { self.syn_cookies } else { SynCookies::Off };
        let answer = match (cookies, full) {
            (SynCookies::Always, _) | (SynCookies::Pressure, true) => Answer::Cookie,
            (SynCookies::Off, true) => {
                stats.syn_queue_overflows += 1;
                return Err(DropReason::TcpSynQueueFull);
            }
            (SynCookies::Pressure | SynCookies::Off, false) => Answer::Entry,
        };
        if !self.make_room(lower) {
            return Err(DropReason::TcpConnectionLimit);
        }
        let hint = emit::bound_alias(key, packet.alias);
        let listener = self.listeners.get(slot).ok_or(DropReason::TcpPortClosed)?;
        let settings = admission::marked(lower, &listener.settings, key, packet.alias);
        let via = settings.via(lower.ip, key, hint);
        let route = lower.route_of(Some(key.local), key.peer, via, Some(flow_of(key)))?;
        Ok((answer, route.mtu))
    }

    /// A segment for a half-open connection.
    pub(super) fn give_half_open<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        slot: u32,
        seg: &Header,
        frame: Frame,
    ) -> Fate {
        let Some(request) = self.half_open.get_mut(slot) else {
            return Fate::Dropped(DropReason::TcpStateRefused);
        };
        let Some(listener) = self.listeners.get(request.listener) else {
            return Fate::Dropped(DropReason::TcpPortClosed);
        };
        let window = listener.settings.window_of_syn();
        let (key, alias) = (request.key, request.alias);
        let stats = &mut lower.ctx.mib.tcp;
        match request.judge(seg, frame.total_len(), window) {
            Verdict::Complete => {
                let waits = listener.settings.defer_accept.is_some_and(|limit| {
                    request.keep_ack(seg, frame.total_len(), lower.ctx.now, limit)
                });
                if waits {
                    return Fate::Delivered;
                }
                self.complete(lower, packet, slot, seg, frame)
            }
            Verdict::Repeat => {
                stats.duplicate_segs += 1;
                if !request.marks.repeat(seg) {
                    // RFC 9768 3.1.5
                    let rst = reset_for(seg, frame.total_len());
                    stats.attempt_fails += 1;
                    emit::send_header(lower, &key, alias, rst);
                    self.forget_half_open(slot);
                    return Fate::Dropped(DropReason::TcpFlagsInvalid);
                }
                request.take_timestamp(seg);
                self.repeat_syn_ack(lower, slot);
                Fate::Delivered
            }
            Verdict::Forget => {
                stats.attempt_fails += 1;
                self.forget_half_open(slot);
                Fate::Delivered
            }
            Verdict::Challenge(reason) => {
                if self.challenge.take(lower.ctx.now, lower.ctx.rng) {
                    stats.challenge_acks += 1;
                    let ack = request.bare_ack(clock_of(lower, &key), window);
                    emit::send_header(lower, &key, alias, ack);
                } else {
                    stats.challenge_acks_limited += 1;
                }
                Fate::Dropped(reason)
            }
            Verdict::Reset(reason) => {
                emit::send_header(lower, &key, alias, reset_for(seg, frame.total_len()));
                Fate::Dropped(reason)
            }
            Verdict::Drop(reason) => Fate::Dropped(reason),
        }
    }

    /// The ACK of our SYN is here: the entry becomes a connection, which takes the segment.
    fn complete<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        slot: u32,
        seg: &Header,
        frame: Frame,
    ) -> Fate {
        let Some(request) = self.half_open.get(slot).cloned() else {
            return Fate::Dropped(DropReason::TcpStateRefused);
        };
        match self.promote(lower, &request, request.is_timed()) {
            Ok(index) => {
                self.unlist_half_open(slot);
                let (from, to) = (Flow::HalfOpen(slot), Flow::Connection(index));
                self.flows.replace(&request.key, from, to);
                self.give_connection(lower, packet, index, seg, frame)
            }
            // The SYN-ACK goes out again; there may be room by then.
            Err(reason) => Fate::Dropped(reason),
        }
    }

    /// An ACK for a listener without an entry: does it bring a cookie back? `None`: it has nothing
    /// to do with cookies.
    pub(super) fn open_by_cookie<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        key: FlowKey,
        seg: &Header,
    ) -> Option<Result<u32, DropReason>> {
        let slot = self.listener_for(packet.dst, seg.dst_port)?;
        let listener = self.listeners.get(slot)?;
        let now = lower.ctx.now;
        let recent = |at: Instant| now.saturating_since(at) < syn_cookie::VALID_FOR;
        if self.syn_cookies == SynCookies::Off || !listener.cookie_sent_at.is_some_and(recent) {
            return None;
        }
        let Some(mss) = syn_cookie::check(&lower.ctx.secrets.syn_cookie, &key, seg, now) else {
            lower.ctx.mib.tcp.syncookies_failed += 1;
            // It may have overtaken the segment that does, whose connection a reset would end.
            let early = syn_cookie::may_follow(&lower.ctx.secrets.syn_cookie, &key, seg, now);
            return early.then_some(Err(DropReason::TcpAckInvalid));
        };
        let mut syn = Header { seq: seg.seq - 1, window: seg.window, ..Header::default() };
        let mut classic = false;
        if let Some((value, echo)) = seg.options.timestamp {
            let offset = timestamp_offset(lower.ctx.secrets, &key);
            (syn.options, classic) = syn_cookie::decode(echo.wrapping_sub(offset));
            syn.options.timestamp = Some((value, 0));
        }
        syn.options.mss = Some(mss);
        let name = (key, packet.alias, slot);
        let mut request = Request::new(name, seg.ack - 1, &syn, &listener.settings, now);
        request.marks = Negotiated::of_cookie(listener.settings.ecn, classic, seg);
        let made = self.promote(lower, &request, false);
        if let Ok(index) = made {
            lower.ctx.mib.tcp.passive_opens += 1;
            lower.ctx.mib.tcp.syncookies_recv += 1;
            self.flows.insert(&key, Flow::Connection(index));
        }
        Some(made)
    }

    /// Makes the connection of a request whose ACK is here, in SYN-RECEIVED; the ACK comes next.
    fn promote<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        request: &Request,
        timed: bool,
    ) -> Result<u32, DropReason> {
        let listener = self.listeners.get(request.listener).ok_or(DropReason::TcpPortClosed)?;
        if listener.is_accept_queue_full() {
            lower.ctx.mib.tcp.listen_overflows += 1;
            return Err(DropReason::TcpAcceptQueueFull);
        }
        let key = request.key;
        let settings = admission::marked(lower, &listener.settings, &key, request.alias);
        let settings = settings.into_owned();
        if !self.make_room(lower) {
            return Err(DropReason::TcpConnectionLimit);
        }
        let hint = emit::bound_alias(&key, request.alias);
        let via = settings.via(lower.ip, &key, hint);
        let mtu = lower.route_of(Some(key.local), key.peer, via, Some(flow_of(&key)))?.mtu;
        let ts_offset = timestamp_offset(lower.ctx.secrets, &key);
        let origin = Origin { key, alias: request.alias, iss: request.iss, ts_offset, mtu };
        let mut cx = Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
        let syn = (request.irs, request.window, &request.options());
        let mut c = Connection::accept(origin, settings, request.listener, syn, &mut cx);
        c.resume_handshake(request, timed);
        c.notes.generation = self.next_generation();
        c.notes.embryo = true;
        let index = self.connections.insert(Box::new(c)) as u32;
        self.pairs.insert(&key, index);
        Ok(index)
    }

    /// Whether one more connection fits; TIME-WAIT gives way.
    pub(super) fn make_room<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) -> bool {
        while self.connections.len() + self.time_waits.len() >= lower.ctx.limits.tcp_connections {
            let Some((slot, entry)) = self.time_waits.evict() else { return false };
            self.flows.remove(&entry.key, Flow::TimeWait(slot));
            lower.ctx.mib.tcp.time_wait_overflows += 1;
        }
        true
    }

    /// A connection of a listener is half open no more: to the accept queue, or gone.
    pub(super) fn leave_handshake(&mut self, index: u32) {
        let c = &mut self.connections[index as usize];
        c.notes.embryo = false;
        if c.notes.opening.early {
            // It is in the accept queue, or accepted.
            self.fast_opens -= 1;
            return;
        }
        let Owner::Listener(slot) = c.owner else { return };
        if c.state == TcpState::Closed {
            c.owner = Owner::Nobody;
            return;
        }
        self.queue_for_accept(slot, index);
    }

    pub(super) fn queue_for_accept(&mut self, slot: u32, index: u32) {
        let Some(listener) = self.listeners.get_mut(slot) else { return };
        listener.accept_queue.push_back(index);
        if !listener.event_queued {
            listener.event_queued = true;
            let generation = listener.generation;
            let kind = SocketKind::TcpListener;
            self.events.push_back(SocketId { kind, index: slot, generation });
        }
    }

    /// Takes an entry out of the SYN queue; the flow table still leads to it.
    fn unlist_half_open(&mut self, slot: u32) -> Option<Request> {
        let request = self.half_open.remove(slot)?;
        if let Some(listener) = self.listeners.get_mut(request.listener) {
            listener.half_open -= 1;
        }
        Some(request)
    }

    /// A half-open connection is over.
    fn forget_half_open(&mut self, slot: u32) {
        if let Some(request) = self.unlist_half_open(slot) {
            self.flows.remove(&request.key, Flow::HalfOpen(slot));
        }
    }

    /// Forgets the half-open connections that `over` names; nobody is told. Returns how many.
    pub(super) fn forget_half_open_if(&mut self, over: impl Fn(&Request) -> bool) -> u64 {
        let slots = self.half_open.iter().filter(|(_, r)| over(r)).map(|(slot, _)| slot);
        let slots: Vec<u32> = slots.collect();
        for slot in &slots {
            self.forget_half_open(*slot);
        }
        slots.len() as u64
    }

    /// The timer of the SYN queue fired.
    pub(super) fn expire_half_open<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        self.half_open_armed = None;
        for _ in 0..DUE_PER_TIMER {
            match self.half_open.pop_due(lower.ctx.now) {
                Some(Due::Again(slot)) => {
                    lower.ctx.mib.tcp.timeouts += 1;
                    self.repeat_syn_ack(lower, slot);
                }
                Some(Due::Deferred { slot, last }) => self.end_deferral(lower, slot, last),
                Some(Due::GiveUp(slot)) => {
                    lower.ctx.mib.tcp.attempt_fails += 1;
                    self.forget_half_open(slot);
                }
                None => break,
            }
        }
        self.arm_half_open(lower);
    }

    fn arm_half_open<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        let Some(at) = self.half_open.next_deadline() else { return };
        match self.half_open_armed {
            Some((armed, _)) if armed <= at => return,
            Some((_, timer)) => drop(lower.ctx.timers.cancel(timer)),
            None => {}
        }
        let timer = Timer::Tcp { index: HALF_OPEN_TIMER, generation: 0 };
        self.half_open_armed = Some((at, lower.ctx.timers.schedule(at, timer)));
    }

    pub(super) fn repeat_syn_ack<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, slot: u32) {
        let Some(request) = self.half_open.get(slot) else { return };
        let Some(listener) = self.listeners.get(request.listener) else { return };
        let hint = emit::bound_alias(&request.key, request.alias);
        // Without a route there may be one at the next turn.
        let settings = admission::marked(lower, &listener.settings, &request.key, request.alias);
        let via = settings.via(lower.ip, &request.key, hint);
        let (key, flow) = (&request.key, Some(flow_of(&request.key)));
        let Ok(route) = lower.route_of(Some(key.local), key.peer, via, flow) else { return };
        let before = lower.ctx.mib.tcp.out_segs;
        send_syn_ack(lower, &settings, request, route.mtu, Answer::Entry);
        // What left was counted as sent for the first time; without a frame nothing has.
        let sent = lower.ctx.mib.tcp.out_segs - before;
        lower.ctx.mib.tcp.out_segs -= sent;
        lower.ctx.mib.tcp.retrans_segs += sent;
        lower.ctx.mib.tcp.syn_retrans += sent;
    }

    /// `TCP_DEFER_ACCEPT`: the application may have waited long enough.
    fn end_deferral<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, slot: u32, last: bool) {
        let Some(request) = self.half_open.get(slot).cloned() else { return };
        let limit = self.listeners.get(request.listener).and_then(|l| l.settings.defer_accept);
        let waited = lower.ctx.now - request.sent_at;
        if !last && limit.is_some_and(|limit| waited < limit) {
            return;
        }
        let packet = InPacket {
            src: request.key.peer,
            dst: request.key.local,
            protocol: protocol::TCP,
            traffic_class: 0,
            hop_limit: 0,
            alias: request.alias,
            to_many: false,
            below: None,
        };
        let ack = request.kept_ack();
        let _counted = self.complete(lower, &packet, slot, &ack, Frame::from_heap(0, &[]));
        if last && self.half_open.get(slot).is_some_and(|r| r.key == request.key) {
            // No room for it to the end.
            lower.ctx.mib.tcp.attempt_fails += 1;
            self.forget_half_open(slot);
        }
    }
}

/// Our timestamp clock for a tuple.
fn clock_of<P: PathLayer>(lower: &Lower<'_, P>, key: &FlowKey) -> u32 {
    let offset = timestamp_offset(lower.ctx.secrets, key);
    (lower.ctx.now.as_millis() as u32).wrapping_add(offset)
}

fn send_syn_ack<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    settings: &Settings,
    request: &Request,
    mtu: usize,
    answer: Answer,
) {
    let clock = lower.ctx.now.as_millis() as u32;
    let clock = match answer {
        Answer::Entry => clock,
        Answer::Cookie => {
            let classic = request.marks.state == EcnState::Classic;
            syn_cookie::encode(clock, &request.options(), classic)
        }
    };
    let offset = timestamp_offset(lower.ctx.secrets, &request.key);
    let clock = clock.wrapping_add(offset);
    let mss =
        mss_of_mtu(mtu, request.key.local.is_ipv4()).min(usize::from(settings.mss_max)) as u16;
    let mut header = request.syn_ack(clock, mss, settings.window_of_syn());
    if answer == Answer::Cookie && header.options.timestamp.is_none() {
        // What only a timestamp would remind us of is not agreed to.
        header.flags = Flags::SYN.with(Flags::ACK);
        header.options = Options { mss: header.options.mss, ..Options::default() };
    }
    if request.gives_cookie {
        let key = &lower.ctx.secrets.fast_open;
        let accurate = header.options.accurate_ecn.take();
        header.options.fast_open = Some(fast_open::give(key, &request.key, lower.ctx.now));
        let room = header.options.room();
        header.options.accurate_ecn = accurate.and_then(|option| option.fit(room));
    }
    let fields = settings.ip_fields(header.ecn);
    emit::send_header_as(lower, &request.key, request.alias, fields, header);
}

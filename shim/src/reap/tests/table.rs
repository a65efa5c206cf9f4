//! Every event in every state, against the tables of RFC 5534 6 and what is added to them.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    PayloadIn,
    PayloadOut,
    KeepaliveTimeout,
    SendTimeout,
    Retransmission,
    KeepaliveIn,
    ProbeExploring,
    ProbeInboundOk,
    ProbeInboundOkWithoutReports,
    ProbeInboundOkForged,
    ProbeOperational,
    ProbeOperationalWithoutReports,
    ProbeOperationalForged,
    Measured,
    MeasureAnswerForged,
    CurrentGone,
    CurrentLinkDown,
    OtherGone,
    OtherBack,
    IcmpCurrent,
    IcmpOther,
    NoProgress,
    Progress,
    Manual,
    ManualToNoPair,
    LocatorsWithoutCurrent,
    MoreLocators,
}

use Event::*;

const EVENTS: [Event; 27] = [
    PayloadIn,
    PayloadOut,
    KeepaliveTimeout,
    SendTimeout,
    Retransmission,
    KeepaliveIn,
    ProbeExploring,
    ProbeInboundOk,
    ProbeInboundOkWithoutReports,
    ProbeInboundOkForged,
    ProbeOperational,
    ProbeOperationalWithoutReports,
    ProbeOperationalForged,
    Measured,
    MeasureAnswerForged,
    CurrentGone,
    CurrentLinkDown,
    OtherGone,
    OtherBack,
    IcmpCurrent,
    IcmpOther,
    NoProgress,
    Progress,
    Manual,
    ManualToNoPair,
    LocatorsWithoutCurrent,
    MoreLocators,
];

/// What becomes of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Same,
    Start,
    Restart,
    Stop,
}

use Timer::*;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    Nothing,
    Keepalive,
    /// A probe in this state.
    P(ReapState),
}

use Sends::{Nothing, P};

const OP: ReapState = ReapState::Operational;
const EX: ReapState = ReapState::Exploring;
const IN: ReapState = ReapState::InboundOk;

/// State, event, what is sent, send timer, keepalive timer, next state.
type Row = (ReapState, Event, Sends, Timer, Timer, ReapState);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (OP, PayloadIn,                      Nothing,          Stop,    Start, OP),
    (EX, PayloadIn,                      P(IN),            Start,   Same,  IN),
    (IN, PayloadIn,                      Nothing,          Stop,    Same,  IN),
    (OP, PayloadOut,                     Nothing,          Start,   Stop,  OP),
    (EX, PayloadOut,                     Nothing,          Same,    Same,  EX),
    (IN, PayloadOut,                     Nothing,          Start,   Same,  IN),
    (OP, KeepaliveTimeout,               Sends::Keepalive, Same,    Stop,  OP),
    (EX, KeepaliveTimeout,               Nothing,          Same,    Same,  EX),
    (IN, KeepaliveTimeout,               Nothing,          Same,    Same,  IN),
    (OP, SendTimeout,                    P(EX),            Stop,    Stop,  EX),
    (EX, SendTimeout,                    Nothing,          Same,    Same,  EX),
    (IN, SendTimeout,                    P(EX),            Stop,    Same,  EX),
    (OP, Retransmission,                 Nothing,          Same,    Same,  OP),
    (EX, Retransmission,                 P(EX),            Same,    Same,  EX),
    (IN, Retransmission,                 P(IN),            Start,   Same,  IN),
    (OP, KeepaliveIn,                    Nothing,          Stop,    Same,  OP),
    (EX, KeepaliveIn,                    P(IN),            Start,   Same,  IN),
    (IN, KeepaliveIn,                    Nothing,          Stop,    Same,  IN),
    (OP, ProbeExploring,                 P(IN),            Restart, Stop,  IN),
    (EX, ProbeExploring,                 P(IN),            Start,   Same,  IN),
    (IN, ProbeExploring,                 P(IN),            Restart, Same,  IN),
    (OP, ProbeInboundOk,                 P(OP),            Restart, Stop,  OP),
    (EX, ProbeInboundOk,                 P(OP),            Restart, Same,  OP),
    (IN, ProbeInboundOk,                 P(OP),            Restart, Same,  OP),
    (OP, ProbeInboundOkWithoutReports,   P(OP),            Restart, Stop,  OP),
    (EX, ProbeInboundOkWithoutReports,   P(OP),            Restart, Same,  OP),
    (IN, ProbeInboundOkWithoutReports,   P(OP),            Restart, Same,  OP),
    // Heard, and no more: the nonce is none of ours.
    (OP, ProbeInboundOkForged,           Nothing,          Stop,    Same,  OP),
    (EX, ProbeInboundOkForged,           P(IN),            Start,   Same,  IN),
    (IN, ProbeInboundOkForged,           Nothing,          Stop,    Same,  IN),
    (OP, ProbeOperational,               Nothing,          Stop,    Start, OP),
    (EX, ProbeOperational,               Nothing,          Stop,    Start, OP),
    (IN, ProbeOperational,               Nothing,          Stop,    Start, OP),
    (OP, ProbeOperationalWithoutReports, Nothing,          Stop,    Start, OP),
    (EX, ProbeOperationalWithoutReports, Nothing,          Stop,    Start, OP),
    (IN, ProbeOperationalWithoutReports, Nothing,          Stop,    Start, OP),
    (OP, ProbeOperationalForged,         Nothing,          Stop,    Start, OP),
    (EX, ProbeOperationalForged,         P(IN),            Start,   Same,  IN),
    (IN, ProbeOperationalForged,         Nothing,          Stop,    Same,  IN),
    // Measurements change nothing; they are answered.
    (OP, Measured,                       P(OP),            Same,    Same,  OP),
    (EX, Measured,                       P(EX),            Same,    Same,  EX),
    (IN, Measured,                       P(IN),            Same,    Same,  IN),
    (OP, MeasureAnswerForged,            Nothing,          Same,    Same,  OP),
    (EX, MeasureAnswerForged,            Nothing,          Same,    Same,  EX),
    (IN, MeasureAnswerForged,            Nothing,          Same,    Same,  IN),
    (OP, CurrentGone,                    P(EX),            Stop,    Stop,  EX),
    (EX, CurrentGone,                    P(EX),            Same,    Same,  EX),
    (IN, CurrentGone,                    P(IN),            Start,   Same,  IN),
    (OP, CurrentLinkDown,                P(EX),            Stop,    Stop,  EX),
    (EX, CurrentLinkDown,                P(EX),            Same,    Same,  EX),
    (IN, CurrentLinkDown,                P(IN),            Start,   Same,  IN),
    (OP, OtherGone,                      Nothing,          Same,    Same,  OP),
    (EX, OtherGone,                      Nothing,          Same,    Same,  EX),
    (IN, OtherGone,                      Nothing,          Same,    Same,  IN),
    (OP, OtherBack,                      Nothing,          Same,    Same,  OP),
    (EX, OtherBack,                      P(EX),            Same,    Same,  EX),
    (IN, OtherBack,                      P(IN),            Same,    Same,  IN),
    (OP, IcmpCurrent,                    P(EX),            Stop,    Stop,  EX),
    (EX, IcmpCurrent,                    Nothing,          Same,    Same,  EX),
    (IN, IcmpCurrent,                    Nothing,          Same,    Same,  IN),
    (OP, IcmpOther,                      Nothing,          Same,    Same,  OP),
    (EX, IcmpOther,                      Nothing,          Same,    Same,  EX),
    (IN, IcmpOther,                      Nothing,          Same,    Same,  IN),
    (OP, NoProgress,                     P(EX),            Stop,    Stop,  EX),
    (EX, NoProgress,                     Nothing,          Same,    Same,  EX),
    (IN, NoProgress,                     Nothing,          Same,    Same,  IN),
    (OP, Progress,                       Nothing,          Stop,    Same,  OP),
    (EX, Progress,                       Nothing,          Same,    Same,  EX),
    (IN, Progress,                       Nothing,          Same,    Same,  IN),
    (OP, Manual,                         P(EX),            Stop,    Stop,  EX),
    (EX, Manual,                         P(EX),            Same,    Same,  EX),
    (IN, Manual,                         P(IN),            Same,    Same,  IN),
    (OP, ManualToNoPair,                 Nothing,          Same,    Same,  OP),
    (EX, ManualToNoPair,                 Nothing,          Same,    Same,  EX),
    (IN, ManualToNoPair,                 Nothing,          Same,    Same,  IN),
    (OP, LocatorsWithoutCurrent,         P(EX),            Stop,    Stop,  EX),
    (EX, LocatorsWithoutCurrent,         P(EX),            Same,    Same,  EX),
    (IN, LocatorsWithoutCurrent,         P(IN),            Start,   Same,  IN),
    (OP, MoreLocators,                   Nothing,          Same,    Same,  OP),
    (EX, MoreLocators,                   P(EX),            Same,    Same,  EX),
    (IN, MoreLocators,                   P(IN),            Start,   Same,  IN),
];

/// A REAP in `state`, and what it sent last to be reported; the timers run or do not.
fn in_state(state: ReapState, send: bool, keepalive: bool) -> (Reap, Report, Instant) {
    let mut reap = reap(&ReapConfig::rfc(), 2, 2);
    let mut now = Instant::from_millis(2_000);
    match state {
        ReapState::Operational => {
            // A completed exploration lies behind, so that there is a probe to report.
            reap.explore(now, Why::SendTimeout, false);
            let reports = reports_of(&drain(&mut reap, now));
            reap.probe_received(now, pair(1, 1), &from_peer(IN, &reports));
            drain(&mut reap, now);
            reap.detector.stop_send();
            reap.hints_after = now;
            if send {
                reap.payload_sent(now);
            } else if keepalive {
                reap.payload_received(now, pair(1, 1));
            }
        }
        ReapState::Exploring => {
            reap.payload_sent(now);
            now += Duration::from_secs(15);
            reap.handle_timeout(now);
        }
        ReapState::InboundOk => {
            reap.probe_received(now, pair(1, 1), &from_peer(EX, &[]));
            if !send {
                reap.payload_received(now, pair(1, 1));
            }
        }
    }
    drain(&mut reap, now);
    let report = reap.explorer.retold()[0];
    assert_eq!(reap.state, state);
    assert_eq!(reap.detector.send.is_some(), send);
    assert_eq!(reap.detector.keepalive.is_some(), keepalive);
    events(&mut reap);
    (reap, report, now + ms(100))
}

fn happen(reap: &mut Reap, event: Event, ours: Report, now: Instant) {
    let forged = Report { nonce: ours.nonce ^ 1, ..ours };
    // The pair in use, and one that shares no locator with it.
    let by = pair(1, 1);
    let current = reap.current();
    let other = |reap: &Reap| {
        let differs = |p: &Pair| p.local != current.local && p.remote != current.remote;
        reap.paths.all.iter().map(|p| p.pair).find(differs).unwrap()
    };
    let probe = |reap: &mut Reap, state, received: &[Report]| {
        reap.probe_received(now, by, &from_peer(state, received));
    };
    match event {
        PayloadIn => reap.payload_received(now, by),
        PayloadOut => reap.payload_sent(now),
        KeepaliveTimeout => {
            if let Some(at) = reap.detector.keepalive {
                reap.detector.handle_timeout(at, &mut reap.rng);
            }
        }
        SendTimeout => {
            reap.detector.stop_send();
            reap.send_timeout(now);
        }
        Retransmission => {
            if let Some(at) = &mut reap.explorer.timer {
                *at = now;
            }
            reap.handle_timeout(now);
        }
        KeepaliveIn => reap.keepalive_received(now, by),
        ProbeExploring => probe(reap, EX, &[]),
        ProbeInboundOk => probe(reap, IN, &[ours]),
        ProbeInboundOkWithoutReports => probe(reap, IN, &[]),
        ProbeInboundOkForged => probe(reap, IN, &[forged]),
        ProbeOperational => probe(reap, OP, &[ours]),
        ProbeOperationalWithoutReports => probe(reap, OP, &[]),
        ProbeOperationalForged => probe(reap, OP, &[forged]),
        Measured => {
            let mut probe = from_peer(OP, &[]);
            probe.sent[0].data = Mark::Request.data(5);
            reap.probe_received(now, by, &probe);
        }
        MeasureAnswerForged => {
            let mut probe = from_peer(OP, &[forged]);
            probe.sent[0].data = Mark::Answer.data(5);
            reap.probe_received(now, by, &probe);
        }
        CurrentGone => reap.hint(now, Hint::LocatorGone(current.local)),
        CurrentLinkDown => reap.hint(now, Hint::LinkDown(current.local)),
        OtherGone => reap.hint(now, Hint::LocatorGone(other(reap).local)),
        OtherBack => reap.hint(now, Hint::LocatorBack(other(reap).local)),
        IcmpCurrent => reap.hint(now, Hint::Icmp(current)),
        IcmpOther => reap.hint(now, Hint::Icmp(other(reap))),
        Event::NoProgress => reap.hint(now, Hint::NoProgress),
        Event::Progress => reap.hint(now, Hint::Progress),
        Event::Manual => reap.switch(now, other(reap)).unwrap(),
        ManualToNoPair => {
            let no_pair = Pair::new(ip(1, 9), ip(2, 9));
            assert_eq!(reap.switch(now, no_pair), Err(SwitchError::NotAPair));
        }
        LocatorsWithoutCurrent => {
            let keep = other(reap).local;
            let local = locators(1, 2).into_iter().filter(|l| l.addr == keep);
            reap.set_paths(now, &local.collect::<Vec<_>>(), &locators(2, 2));
        }
        MoreLocators => reap.set_paths(now, &locators(1, 3), &locators(2, 2)),
    }
}

fn check_timer(name: &str, timer: Timer, was: Option<Instant>, is: Option<Instant>, full: Instant) {
    match timer {
        Same => assert_eq!(is, was, "{name}"),
        Start => assert_eq!(is, Some(was.unwrap_or(full)), "{name}"),
        Restart => assert_eq!(is, Some(full), "{name}"),
        Stop => assert_eq!(is, None, "{name}"),
    }
}

fn check(row: Row, send: bool, keepalive: bool) {
    let (state, event, sends, send_timer, keepalive_timer, next) = row;
    let (mut reap, ours, now) = in_state(state, send, keepalive);
    if event == OtherBack {
        let gone = reap.paths.all.iter().map(|p| p.pair.local).find(|l| *l != reap.current.local);
        reap.hint(now, Hint::LocatorGone(gone.unwrap()));
        drain(&mut reap, now);
    }
    if event == SendTimeout {
        reap.detector.stop_send();
    }
    let before = (reap.detector.send, reap.detector.keepalive);
    let name = format!("{event:?} in {state:?}, send {send}, keepalive {keepalive}");
    happen(&mut reap, event, ours, now);
    let sent: Vec<_> = drain(&mut reap, now)
        .into_iter()
        .map(|(_, out)| match out {
            Outgoing::Probe(probe) => P(probe.state),
            Outgoing::Keepalive => Sends::Keepalive,
        })
        .collect();
    let some = event != KeepaliveTimeout || keepalive;
    let expected = if sends == Nothing || !some { vec![] } else { vec![sends] };
    // A link that comes back brings all its pairs.
    let sent = if event == OtherBack { sent[..sent.len().min(1)].to_vec() } else { sent };
    assert_eq!(sent, expected, "{name}");
    assert_eq!(reap.state, next, "{name}");
    let full = now + Duration::from_secs(15);
    check_timer(&format!("send timer: {name}"), send_timer, before.0, reap.detector.send, full);
    let is = reap.detector.keepalive;
    check_timer(&format!("keepalive timer: {name}"), keepalive_timer, before.1, is, full);
}

// RFC 5534 6, 6.1, 6.2, 6.3, 6.4, 6.5, 6.6, 6.7, 6.8, 6.9
#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    for state in [OP, EX, IN] {
        for event in EVENTS {
            let rows: Vec<_> = TABLE.iter().filter(|r| (r.0, r.1) == (state, event)).collect();
            assert_eq!(rows.len(), 1, "{event:?} in {state:?} has one row");
            let running: &[(bool, bool)] = match state {
                ReapState::Operational => &[(false, false), (true, false), (false, true)],
                ReapState::Exploring => &[(false, false)],
                ReapState::InboundOk => &[(false, false), (true, false)],
            };
            for (send, keepalive) in running {
                check(*rows[0], *send, *keepalive);
            }
        }
    }
    assert_eq!(TABLE.len(), 3 * EVENTS.len());
}

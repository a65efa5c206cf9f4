//! The state machine of RFC 5533 as a table: for each state and event what is done and the state
//! after it. `docs/shim.md` has the same table in words; a test holds them together, and another
//! drives a host through every cell.
//!
//! Messages count as events once they passed the checks of their sections (nonce, validator,
//! locators); one that fails them is dropped in every state and is no event.

use serde::Serialize;

/// States (RFC 5533 6.2). [`State::Idle`] is the state of a context that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No context.
    Idle,
    /// An I1 was sent.
    I1Sent,
    /// An I2 was sent.
    I2Sent,
    /// Both ends know each other's tag and locators.
    Established,
    /// The peer seems to have lost the context; an I2bis was sent.
    I2bisSent,
    /// The peer did not answer; not tried again for a while.
    EFailed,
    /// The peer's stack does not know the protocol; not tried again for a long while.
    NoSupport,
}

/// What can happen to a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Traffic or an operator wants the context.
    Start,
    /// An I1 from a locator of the peer; of an established context also with the peer's tag.
    I1,
    /// Any other I1 for these ULIDs.
    I1Other,
    /// An R1 with our nonce.
    R1,
    /// An I2 with a fresh validator of ours, from a proved locator.
    I2,
    /// An R2 with our nonce.
    R2,
    /// An R1bis that names the peer's tag, over the locators in use.
    R1bis,
    /// An I2bis with a fresh validator of ours, from a proved locator.
    I2bis,
    /// A payload header with our tag.
    Payload,
    /// An update, acknowledgement, keepalive or probe with our tag.
    Control,
    /// No answer in time, retries are left.
    Retry,
    /// No answer in time, no retries are left.
    GiveUp,
    /// ICMP says that the peer does not know the next header of our I1.
    NoHeader,
    /// The peer uses the tag of this context for another one.
    Confused,
    /// Nothing was sent or received for long.
    Quiet,
    /// The hold-down is over.
    HoldOver,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Cannot happen, or means nothing.
    Nothing,
    /// The message is dropped.
    Discard,
    /// I1 is sent, again or for the first time.
    SendI1,
    /// R1 is sent; nothing is remembered.
    SendR1,
    /// I2 is sent.
    SendI2,
    /// R2 is sent.
    SendR2,
    /// R1bis is sent; nothing is remembered.
    SendR1bis,
    /// I2bis is sent.
    SendI2bis,
    /// The peer's tag and locators are taken over, R2 is sent.
    RecordSendR2,
    /// The peer's tag and locators are taken over.
    Record,
    /// The packet is taken.
    Process,
    /// The packet is taken and I2 sent again: the R2 was probably lost.
    ProcessSendI2,
    /// The packet is taken and I2bis sent again.
    ProcessSendI2bis,
    /// The context ends; the peer is not asked again for a while.
    Hold,
    /// The context ends.
    Release,
}

/// All states, in order.
pub const STATES: [State; 7] = [
    State::Idle,
    State::I1Sent,
    State::I2Sent,
    State::Established,
    State::I2bisSent,
    State::EFailed,
    State::NoSupport,
];

/// All events, in order.
pub const EVENTS: [Event; 16] = [
    Event::Start,
    Event::I1,
    Event::I1Other,
    Event::R1,
    Event::I2,
    Event::R2,
    Event::R1bis,
    Event::I2bis,
    Event::Payload,
    Event::Control,
    Event::Retry,
    Event::GiveUp,
    Event::NoHeader,
    Event::Confused,
    Event::Quiet,
    Event::HoldOver,
];

/// What `event` does to a context in `state`.
pub const fn step(state: State, event: Event) -> (Action, State) {
    match state {
        State::Idle => without_context(State::Idle, event),
        State::EFailed | State::NoSupport => match event {
            Event::Start => (Action::Nothing, state),
            Event::HoldOver => (Action::Nothing, State::Idle),
            event => without_context(state, event),
        },
        State::I1Sent => i1_sent(event),
        State::I2Sent => i2_sent(event),
        State::I2bisSent => i2bis_sent(event),
        State::Established => established(event),
    }
}

const fn without_context(state: State, event: Event) -> (Action, State) {
    match event {
        Event::Start => (Action::SendI1, State::I1Sent),
        Event::I1 | Event::I1Other => (Action::SendR1, state),
        Event::I2 | Event::I2bis => (Action::RecordSendR2, State::Established),
        Event::R1 | Event::R2 | Event::R1bis => (Action::Discard, state),
        Event::Payload | Event::Control => (Action::SendR1bis, state),
        _ => (Action::Nothing, state),
    }
}

const fn i1_sent(event: Event) -> (Action, State) {
    const HERE: State = State::I1Sent;
    match event {
        Event::I1 => (Action::SendR2, HERE),
        Event::I1Other => (Action::SendR1, HERE),
        Event::R1 => (Action::SendI2, State::I2Sent),
        Event::I2 | Event::I2bis => (Action::RecordSendR2, State::Established),
        Event::R2 => (Action::Record, State::Established),
        Event::R1bis | Event::Payload | Event::Control => (Action::Discard, HERE),
        Event::Retry => (Action::SendI1, HERE),
        Event::GiveUp => (Action::Hold, State::EFailed),
        Event::NoHeader => (Action::Hold, State::NoSupport),
        Event::Quiet => (Action::Release, State::Idle),
        Event::Start | Event::Confused | Event::HoldOver => (Action::Nothing, HERE),
    }
}

const fn i2_sent(event: Event) -> (Action, State) {
    const HERE: State = State::I2Sent;
    match event {
        Event::I1 => (Action::SendR2, HERE),
        Event::I1Other => (Action::SendR1, HERE),
        Event::I2 | Event::I2bis => (Action::RecordSendR2, HERE),
        Event::R2 => (Action::Record, State::Established),
        Event::R1 | Event::R1bis | Event::NoHeader => (Action::Discard, HERE),
        Event::Payload | Event::Control => (Action::ProcessSendI2, HERE),
        Event::Retry => (Action::SendI2, HERE),
        Event::GiveUp => (Action::SendI1, State::I1Sent),
        Event::Quiet => (Action::Release, State::Idle),
        Event::Start | Event::Confused | Event::HoldOver => (Action::Nothing, HERE),
    }
}

const fn i2bis_sent(event: Event) -> (Action, State) {
    const HERE: State = State::I2bisSent;
    match event {
        Event::I1 => (Action::SendR2, HERE),
        Event::I1Other => (Action::SendR1, HERE),
        Event::I2 | Event::I2bis => (Action::RecordSendR2, HERE),
        Event::R2 => (Action::Record, State::Established),
        Event::R1 | Event::NoHeader => (Action::Discard, HERE),
        // Unlike the RFC, which drops it: see `docs/shim.md`.
        Event::R1bis => (Action::SendI2bis, HERE),
        Event::Payload | Event::Control => (Action::ProcessSendI2bis, HERE),
        Event::Retry => (Action::SendI2bis, HERE),
        Event::GiveUp | Event::Confused => (Action::SendI1, State::I1Sent),
        Event::Quiet => (Action::Release, State::Idle),
        Event::Start | Event::HoldOver => (Action::Nothing, HERE),
    }
}

const fn established(event: Event) -> (Action, State) {
    const HERE: State = State::Established;
    match event {
        Event::I1 => (Action::SendR2, HERE),
        Event::I1Other => (Action::SendR1, HERE),
        Event::I2 | Event::I2bis => (Action::RecordSendR2, HERE),
        Event::R1 | Event::R2 | Event::NoHeader => (Action::Discard, HERE),
        Event::R1bis => (Action::SendI2bis, State::I2bisSent),
        Event::Payload | Event::Control => (Action::Process, HERE),
        Event::Confused => (Action::SendI1, State::I1Sent),
        Event::Quiet => (Action::Release, State::Idle),
        Event::Start | Event::Retry | Event::GiveUp | Event::HoldOver => (Action::Nothing, HERE),
    }
}

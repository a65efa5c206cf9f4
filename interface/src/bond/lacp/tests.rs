//! Each machine against its table: (state, what it sees) -> state.

use super::{ChurnState, MuxState, PeriodicState, ReceiveState, Selected};
use super::{churn, mux, periodic, receive};

// 802.1AX 6.4.12
#[test]
fn the_receive_machine_is_that_of_the_standard() {
    use ReceiveState::{Current, Defaulted, Expired, Initialize, LacpDisabled, PortDisabled};
    let none = receive::Inputs::default();
    let up = receive::Inputs { port_enabled: true, lacp_enabled: true, ..none };
    let half = receive::Inputs { lacp_enabled: false, ..up };
    let pdu = receive::Inputs { pdu: true, ..up };
    let late = receive::Inputs { expired: true, ..up };
    let both = receive::Inputs { expired: true, ..pdu };
    let down = receive::Inputs { lacp_enabled: true, ..none };
    let moved = receive::Inputs { port_moved: true, ..down };
    let table = [
        (Initialize, down, Some(PortDisabled)),
        (Initialize, up, Some(PortDisabled)),
        (Initialize, moved, Some(PortDisabled)),
        (PortDisabled, down, None),
        (PortDisabled, moved, Some(Initialize)),
        (PortDisabled, up, Some(Expired)),
        (PortDisabled, pdu, Some(Expired)),
        (PortDisabled, half, Some(LacpDisabled)),
        (Expired, up, None),
        (Expired, pdu, Some(Current)),
        (Expired, late, Some(Defaulted)),
        (Expired, both, Some(Current)),
        (Expired, down, Some(PortDisabled)),
        (Expired, half, Some(LacpDisabled)),
        (Defaulted, up, None),
        (Defaulted, late, None),
        (Defaulted, pdu, Some(Current)),
        (Defaulted, down, Some(PortDisabled)),
        (Defaulted, half, Some(LacpDisabled)),
        (Current, up, None),
        (Current, pdu, Some(Current)),
        (Current, late, Some(Expired)),
        (Current, both, Some(Current)),
        (Current, down, Some(PortDisabled)),
        (Current, half, Some(LacpDisabled)),
        (LacpDisabled, half, None),
        (LacpDisabled, receive::Inputs { pdu: true, ..half }, None),
        (LacpDisabled, up, Some(PortDisabled)),
        (LacpDisabled, down, Some(PortDisabled)),
    ];
    for (state, inputs, expected) in table {
        assert_eq!(receive::next(state, inputs), expected, "{state:?} {inputs:?}");
    }
}

// 802.1AX 6.4.13
#[test]
fn the_periodic_machine_is_that_of_the_standard() {
    use PeriodicState::{Fast, NoPeriodic, Slow, Transmit};
    let off = periodic::Inputs::default();
    let slow = periodic::Inputs { enabled: true, ..off };
    let fast = periodic::Inputs { partner_short: true, ..slow };
    let slow_late = periodic::Inputs { expired: true, ..slow };
    let fast_late = periodic::Inputs { expired: true, ..fast };
    let passive = periodic::Inputs { both_passive: true, ..fast };
    let table = [
        (NoPeriodic, off, None),
        (NoPeriodic, passive, None),
        (NoPeriodic, slow, Some(Fast)),
        (NoPeriodic, fast, Some(Fast)),
        (Fast, off, Some(NoPeriodic)),
        (Fast, passive, Some(NoPeriodic)),
        (Fast, fast, None),
        (Fast, slow, Some(Slow)),
        (Fast, fast_late, Some(Transmit)),
        (Slow, off, Some(NoPeriodic)),
        (Slow, slow, None),
        (Slow, slow_late, Some(Transmit)),
        (Slow, fast, Some(Transmit)),
        (Transmit, fast, Some(Fast)),
        (Transmit, slow, Some(Slow)),
        (Transmit, off, Some(NoPeriodic)),
    ];
    for (state, inputs, expected) in table {
        assert_eq!(periodic::next(state, inputs), expected, "{state:?} {inputs:?}");
    }
}

// 802.1AX 6.4.15
#[test]
fn the_mux_machine_is_that_of_the_standard_with_both_kinds_of_control() {
    use MuxState::{Attached, Collecting, Detached, Distributing, Waiting};
    let out = mux::Inputs { independent: true, ..mux::Inputs::default() };
    let standby = mux::Inputs { selected: Selected::Standby, ready: true, ..out };
    let waits = mux::Inputs { selected: Selected::Selected, ..out };
    let ready = mux::Inputs { ready: true, ..waits };
    let sync = mux::Inputs { partner_sync: true, ..ready };
    let taken = mux::Inputs { partner_collecting: true, ..sync };
    let drains = mux::Inputs { draining: true, ..taken };
    let lost = mux::Inputs { partner_collecting: true, ..ready };
    let independent = [
        (Detached, out, None),
        (Detached, waits, Some(Waiting)),
        (Detached, standby, Some(Waiting)),
        (Waiting, out, Some(Detached)),
        (Waiting, waits, None),
        (Waiting, standby, None),
        (Waiting, ready, Some(Attached)),
        (Attached, ready, None),
        (Attached, out, Some(Detached)),
        (Attached, standby, Some(Detached)),
        (Attached, sync, Some(Collecting)),
        (Collecting, sync, None),
        (Collecting, lost, Some(Attached)),
        (Collecting, out, Some(Attached)),
        (Collecting, standby, Some(Attached)),
        (Collecting, taken, Some(Distributing)),
        (Collecting, drains, None),
        (Distributing, taken, None),
        (Distributing, sync, Some(Collecting)),
        (Distributing, lost, Some(Collecting)),
        (Distributing, out, Some(Collecting)),
        (Distributing, standby, Some(Collecting)),
        (Distributing, drains, Some(Collecting)),
    ];
    let coupled = [
        (Detached, waits, Some(Waiting)),
        (Waiting, ready, Some(Attached)),
        (Attached, ready, None),
        (Attached, sync, Some(Distributing)),
        (Attached, taken, Some(Distributing)),
        (Distributing, sync, None),
        (Distributing, taken, None),
        (Distributing, drains, None),
        (Distributing, lost, Some(Attached)),
        (Distributing, out, Some(Attached)),
        (Distributing, standby, Some(Attached)),
    ];
    for (state, inputs, expected) in independent {
        assert_eq!(mux::next(state, inputs), expected, "{state:?} {inputs:?}");
    }
    for (state, inputs, expected) in coupled {
        let inputs = mux::Inputs { independent: false, ..inputs };
        assert_eq!(mux::next(state, inputs), expected, "coupled {state:?} {inputs:?}");
    }
}

// 802.1AX 6.4.17
#[test]
fn the_churn_machine_is_that_of_the_standard() {
    use ChurnState::{Churn, Monitor, None as NoChurn};
    let table = [
        (Monitor, (false, false, true), None),
        (Monitor, (true, false, false), None),
        (Monitor, (true, false, true), Some(Churn)),
        (Monitor, (true, true, true), Some(NoChurn)),
        (NoChurn, (true, true, false), None),
        (NoChurn, (true, false, false), Some(Monitor)),
        (NoChurn, (false, true, false), Some(Monitor)),
        (Churn, (true, false, true), None),
        (Churn, (true, true, false), Some(NoChurn)),
        (Churn, (false, false, false), Some(Monitor)),
    ];
    for (state, (enabled, sync, expired), expected) in table {
        let is = churn::next(state, enabled, sync, expired);
        assert_eq!(is, expected, "{state:?} {enabled} {sync} {expired}");
    }
}

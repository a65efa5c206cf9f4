//! The limits of the devices, with no stack at all: what the kernel's side of a device gives to
//! anybody who moves frames through it as fast as they can.
//!
//! Over AF_XDP these are bare rings on both ends; over TUN and TAP bare descriptors, and bulk is
//! kernel TCP through a relay that only copies frames from one device to another.

use std::io;

use super::{Engine, unsupported};
use crate::side::Control;
use crate::spec::{Carrier, Role, Side, Workload};

mod frame;
mod queue;
mod relay;
mod tun;

/// The engine.
pub(super) struct Raw;

impl Engine for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        use Workload::{
            BulkBoth, BulkIn, BulkOut, FrameForward, FramePingPong, Frames, RequestResponse,
            UdpEcho,
        };
        match (side.carrier, side.workload, side.role) {
            (Carrier::Veth, Frames | BulkIn | BulkOut | BulkBoth, _) => queue::flow(side, control),
            (
                Carrier::Veth,
                RequestResponse | FramePingPong | UdpEcho | FrameForward,
                Role::Server,
            ) => queue::bounce(side, control),
            (Carrier::Veth, RequestResponse | FramePingPong, Role::Client) => {
                queue::ping_pong(side, control)
            }
            (Carrier::Veth, UdpEcho | FrameForward, Role::Client) => queue::window(side, control),
            (Carrier::Tun | Carrier::Tap, Frames, Role::Client) => tun::frames(side, control),
            (Carrier::Tun | Carrier::Tap, BulkIn | BulkOut | BulkBoth, Role::Client) => {
                relay::run(side, control)
            }
            _ => Err(unsupported(side)),
        }
    }
}

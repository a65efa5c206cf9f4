//! A seeded network of weft stacks in virtual time.
//!
//! A [`Net`] holds hosts (one [`weft_stack::Stack`] each), segments between them with the faults of
//! a [`LinkSpec`], and actors that use the sockets. It is a discrete-event simulation: nothing
//! waits, nothing depends on the machine, and the same seed gives the same run to the last frame.
//!
//! ```
//! use weft_sim::{HostSpec, LinkSpec, Net, Peer, Role};
//! use weft_stack::time::Duration;
//!
//! let mut net = Net::new(7);
//! let lan = net.add_segment(LinkSpec { loss: 0.05, ..LinkSpec::default() });
//! let (a, b) = (net.add_host(HostSpec::named("a")), net.add_host(HostSpec::named("b")));
//! net.attach(a, lan, &["10.0.0.1/24"]);
//! net.attach(b, lan, &["10.0.0.2/24"]);
//! let server = Role::Server("10.0.0.2:80".parse().unwrap());
//! let client = Role::Client("10.0.0.2:80".parse().unwrap());
//! net.add_actor(b, Peer::new(server, 1, 2).sending(10_000).expecting(500));
//! net.add_actor(a, Peer::new(client, 2, 1).sending(500).expecting(10_000));
//! assert!(net.run_until(Duration::from_mins(2), Net::all_done));
//! net.check().unwrap();
//! ```

mod actor;
mod bulk;
mod capture;
mod check;
mod echo;
mod fate;
mod host;
mod link;
mod net;
mod peer;
mod queue;
mod relay;
mod run;
pub mod scenario;
mod seeds;
mod station;
mod timeline;
pub mod topology;
mod witness;

pub use actor::{Actor, Io};
pub use bulk::{Sink, Source};
pub use capture::Capture;
pub use echo::{UdpEcho, UdpRole};
pub use fate::{Blackhole, Burst, GilbertElliott};
pub use host::HostSpec;
pub use link::{LinkSpec, LinkStats, Medium};
pub use net::{ActorId, HostId, Net, SegmentId};
pub use peer::{Manner, Peer, Role, stream_byte, stream_bytes};
pub use queue::Discipline;
pub use relay::Relay;
pub use seeds::each_seed;
pub use station::{Fate, Fates, Station};
pub use timeline::Fault;
pub use witness::{Seen, Witness};

//! What one side of one run is told, as plain command line options: a side can be repeated by hand,
//! and a program in another language can read them too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Answers; prints `READY` when it does.
    Server,
    /// Asks, and decides when the measured time begins and ends.
    Client,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// TCP, client to server, as much as goes.
    BulkIn,
    /// TCP, server to client.
    BulkOut,
    /// TCP, both ways at once on one connection.
    BulkBoth,
    /// TCP, `--bytes` there and `--bytes` back on each of `--connections`, one in flight on each.
    RequestResponse,
    /// TCP, connect, request, answer, the server closes, the client closes; `--connections` at once.
    ConnectClose,
    /// UDP, `--bytes` echoed, `--connections` datagrams in flight.
    UdpEcho,
    /// Raw frames one way, no stack.
    Frames,
    /// One raw frame there and back, no stack.
    FramePingPong,
    /// Raw frames received and sent back, `--connections` in flight, no stack.
    FrameForward,
    /// HTTP requests.
    Http,
    /// Cost per packet beside `--connections` idle connections, in one process over memory.
    Idle,
    /// Cost per packet with `--connections` vservers, in one process over memory.
    Vservers,
    /// Cost per segment of one flow in one process over memory.
    Segments,
}

/// How a side waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Poll {
    /// Never sleeps.
    Busy,
    /// Sleeps until there is something.
    Interrupt,
    /// Spins while there is work and a little longer, then sleeps; only weft knows it.
    Adaptive,
}

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Carrier {
    /// A veth pair between two namespaces; AF_XDP for who is not the kernel.
    Veth,
    /// A TUN interface of the kernel's side; the other holds its descriptor.
    Tun,
    /// As TUN, with Ethernet.
    Tap,
    /// TAPs in two namespaces, joined by a long path with loss; AF_PACKET for who is not the kernel.
    Wan,
    /// Nothing: one process does all of it.
    Mem,
}

/// Options of `weft-bench side`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Side {
    /// What does the work
    #[arg(long)]
    pub(crate) engine: String,
    /// Which end
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    /// What is done
    #[arg(long, value_enum)]
    pub(crate) workload: Workload,
    /// How it waits
    #[arg(long, value_enum, default_value_t = Poll::Busy)]
    pub(crate) poll: Poll,
    /// What carries the frames
    #[arg(long, value_enum, default_value_t = Carrier::Veth)]
    pub(crate) carrier: Carrier,
    /// Interface, in the namespace of the side
    #[arg(long, default_value = crate::place::DEVICE)]
    pub(crate) device: String,
    /// L3 MTU of the interface
    #[arg(long, default_value_t = 1500)]
    pub(crate) mtu: usize,
    /// Bytes of a request, of a datagram, of a frame
    #[arg(long, default_value_t = 1)]
    pub(crate) bytes: usize,
    /// Connections, or datagrams in flight
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Own address
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) local: IpAddr,
    /// The other side's address
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) peer: IpAddr,
    /// The server's port
    #[arg(long, default_value_t = 5001)]
    pub(crate) port: u16,
    /// Seconds before the measured time
    #[arg(long, default_value_t = 0.2)]
    pub(crate) warmup_s: f64,
    /// Measured seconds
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// The measured time ends after so many operations too
    #[arg(long, default_value_t = u64::MAX)]
    pub(crate) operations_max: u64,
    /// Queues of the interface
    #[arg(long, default_value_t = 1)]
    pub(crate) queues: usize,
    /// CPU to stay on
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// What only one engine understands, as `key=value`
    #[arg(long)]
    pub(crate) extra: Vec<String>,
}

impl Side {
    /// The command line that gives this.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let name = |v: Option<clap::builder::PossibleValue>| {
            v.map(|v| v.get_name().to_owned()).unwrap_or_default()
        };
        let mut args = vec![String::from("side")];
        let mut push = |key: &str, value: String| args.extend([format!("--{key}"), value]);
        push("engine", self.engine.clone());
        push("role", name(self.role.to_possible_value()));
        push("workload", name(self.workload.to_possible_value()));
        push("poll", name(self.poll.to_possible_value()));
        push("carrier", name(self.carrier.to_possible_value()));
        push("device", self.device.clone());
        push("mtu", self.mtu.to_string());
        push("bytes", self.bytes.to_string());
        push("connections", self.connections.to_string());
        push("local", self.local.to_string());
        push("peer", self.peer.to_string());
        push("port", self.port.to_string());
        push("warmup-s", self.warmup_s.to_string());
        push("seconds", self.seconds.to_string());
        push("operations-max", self.operations_max.to_string());
        push("queues", self.queues.to_string());
        if let Some(cpu) = self.cpu {
            push("cpu", cpu.to_string());
        }
        self.extra.iter().for_each(|e| push("extra", e.clone()));
        args
    }

    /// Where the server listens.
    pub(crate) fn server(&self) -> SocketAddr {
        let address = if self.role == Role::Server { self.local } else { self.peer };
        SocketAddr::new(address, self.port)
    }

    /// Time before the measured time.
    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_s)
    }

    /// The measured time.
    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Whether it spins.
    pub(crate) fn busy(&self) -> bool {
        self.poll == Poll::Busy
    }

    /// Whether this side sends in bulk.
    pub(crate) fn sends(&self) -> bool {
        match self.workload {
            Workload::BulkIn => self.role == Role::Client,
            Workload::BulkOut => self.role == Role::Server,
            Workload::BulkBoth => true,
            _ => false,
        }
    }

    /// Whether this side receives in bulk.
    pub(crate) fn receives(&self) -> bool {
        match self.workload {
            Workload::BulkIn => self.role == Role::Server,
            Workload::BulkOut => self.role == Role::Client,
            Workload::BulkBoth => true,
            _ => false,
        }
    }

    /// The value of an `--extra key=value`.
    pub(crate) fn extra(&self, key: &str) -> Option<&str> {
        self.extra.iter().find_map(|e| e.strip_prefix(key)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Sub,
    }
    #[derive(clap::Subcommand)]
    enum Sub {
        Side(Side),
    }

    #[test]
    fn a_side_survives_its_command_line() {
        let line = "x side --engine weft --role client --workload udp-echo --carrier tap \
                    --poll interrupt --bytes 7 --connections 9 --cpu 1 --extra a=b --seconds 0.25 \
                    --local 10.0.0.2 --peer 10.0.0.1 --mtu 9000";
        let Sub::Side(side) = Line::parse_from(line.split_whitespace()).command;
        let again = std::iter::once(String::from("x")).chain(side.to_args());
        let Sub::Side(again) = Line::parse_from(again).command;
        assert_eq!(format!("{side:?}"), format!("{again:?}"));
        assert_eq!(again.extra("a"), Some("b"));
        assert_eq!(again.server(), "10.0.0.1:5001".parse().unwrap());
    }
}

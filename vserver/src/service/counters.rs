//! Counters of one service. The service thread writes, snapshots read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! service_counters {
    ($( $(#[$meta:meta])* $field:ident: $label:literal, )*) => {
        /// What a service did since it started.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            /// Connections open now.
            pub(crate) connections: Counter,
            $( $(#[$meta])* pub(crate) $field: Counter, )*
        }

        impl Counters {
            /// Every counter by name, zeros included.
            pub(crate) fn collect(&self) -> BTreeMap<String, u64> {
                BTreeMap::from([ $( (String::from($label), self.$field.get()), )* ])
            }
        }
    };
}

service_counters! {
    /// Connections accepted.
    accepted: "Accepted",
    /// Times accepting paused because `connections` was reached.
    accept_paused: "AcceptPaused",
    /// Bytes received from clients.
    in_bytes: "InBytes",
    /// Bytes queued to clients.
    out_bytes: "OutBytes",
    /// HTTP requests answered.
    requests: "Requests",
    /// Of these, with a status of 400 or above.
    error_responses: "ErrorResponses",
    /// Connections closed because nothing moved, or a request did not come to its end in time.
    timeouts: "Timeouts",
    /// Connections that failed: reset by the peer, timed out in TCP, or a file that shrank.
    failed: "Failed",
    /// Proxy targets that did not take the connection.
    connect_failed: "ConnectFailed",
    /// Datagrams received.
    in_datagrams: "InDatagrams",
    /// Datagrams sent.
    out_datagrams: "OutDatagrams",
    /// Datagrams not answered: no room, or the answer could start a loop between two services.
    dropped_datagrams: "DroppedDatagrams",
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

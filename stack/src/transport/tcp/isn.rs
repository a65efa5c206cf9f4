//! Initial sequence numbers and timestamp offsets: keyed hashes of the four-tuple, so that neither
//! can be guessed from those of other connections.

use crate::rng::Secrets;
use crate::seq::SeqNum;
use crate::time::Instant;

use super::flow_table::FlowKey;

/// RFC 6528: a 4 us clock plus a keyed hash of the tuple.
pub(crate) fn initial_sequence(secrets: &Secrets, flow: &FlowKey, now: Instant) -> SeqNum {
    let clock = (now.as_micros() / 4) as u32;
    SeqNum((flow.hash(&secrets.isn) as u32).wrapping_add(clock))
}

/// RFC 7323 section 7.1: the timestamp clock of a connection starts at a keyed offset; the same for
/// each incarnation of a tuple, so that RFC 6191 can compare them.
pub(crate) fn timestamp_offset(secrets: &Secrets, flow: &FlowKey) -> u32 {
    flow.hash(&secrets.timestamp) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    // RFC 6528 3
    // RFC 7323 5.4
    // RFC 7323 7.1
    #[test]
    fn grows_with_time_and_differs_by_tuple_and_secret() {
        let secrets = Secrets::generate(&mut Rng::from_u64(1));
        let other = Secrets::generate(&mut Rng::from_u64(2));
        let a = FlowKey::new("10.0.0.1:80".parse().unwrap(), "10.0.0.2:1000".parse().unwrap());
        let b = FlowKey { peer_port: 1001, ..a };
        let t = Instant::from_micros(1_000_000);
        let isn = initial_sequence(&secrets, &a, Instant::ZERO);
        assert_eq!(initial_sequence(&secrets, &a, t), isn + 250_000);
        assert_ne!(initial_sequence(&secrets, &b, Instant::ZERO), isn);
        assert_ne!(initial_sequence(&other, &a, Instant::ZERO), isn);
        assert_ne!(timestamp_offset(&secrets, &a), timestamp_offset(&secrets, &b));
    }
}

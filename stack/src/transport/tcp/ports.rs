//! Ephemeral ports (RFC 6056 algorithm 3): successive for one destination, so that a tuple is not
//! used again soon, and unpredictable for anybody else.

use core::net::IpAddr;

use crate::rng::Key;

const FIRST: u16 = 32_768;
const LAST: u16 = 60_999;
const COUNT: u32 = (LAST - FIRST) as u32 + 1;

#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// RFC 6056 `next_ephemeral`.
    next: u32,
}

impl Ports {
    /// The next port for `seed` (both addresses and the peer's port) that `is_free`; at most one
    /// round through the range.
    pub(crate) fn pick(
        &mut self,
        key: &Key,
        (local, peer, peer_port): (IpAddr, IpAddr, u16),
        is_free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let offset = key.hash(&[&octets(local), &octets(peer), &peer_port.to_be_bytes()]) as u32;
        for _ in 0..COUNT {
            let port = FIRST + (self.next.wrapping_add(offset) % COUNT) as u16;
            self.next = (self.next + 1) % COUNT;
            if is_free(port) {
                return Some(port);
            }
        }
        None
    }
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn walks_the_whole_range_once() {
        let key = Key::generate(&mut Rng::from_u64(3));
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut ports = Ports::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..COUNT {
            let port = ports.pick(&key, (a, b, 80), |p| !seen.contains(&p)).unwrap();
            assert!((FIRST..=LAST).contains(&port));
            assert!(seen.insert(port));
        }
        assert_eq!(ports.pick(&key, (a, b, 80), |p| !seen.contains(&p)), None);
    }

    #[test]
    fn the_start_depends_on_secret_and_destination() {
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = |seed, port| {
            let key = Key::generate(&mut Rng::from_u64(seed));
            Ports::default().pick(&key, (a, b, port), |_| true)
        };
        assert_ne!(first(1, 80), first(2, 80));
        assert_ne!(first(1, 80), first(1, 81));
    }
}

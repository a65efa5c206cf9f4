//! Faults of a link that act on single frames: which are lost, held back, damaged, swallowed.

use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

/// Losses in bursts that end by the clock, whatever is sent meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Chance per frame that a burst begins.
    pub enter: f64,
    /// How long it lasts at most.
    pub lasts: Duration,
    /// Chance that a frame is lost while it lasts.
    pub loss: f64,
}

/// After so long without a frame a burst that ends by frames is over. A sender that backs off is
/// silent ever longer (a closed connection's eight tries, the last after 26 s): with more patience
/// than this all of them may fall into one burst of a few frames, and giving up is right then.
const BURST_FORGOTTEN: Duration = Duration::from_secs(5);

/// Losses in bursts that end by frames: the model of Gilbert and Elliott, a chain of a good and a
/// bad state. Its mean loss is that of [`GilbertElliott::mean_loss`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// Chance per frame to go from good to bad.
    pub to_bad: f64,
    /// Chance per frame to go from bad to good; its inverse is the mean length of a burst.
    pub to_good: f64,
    /// Chance that a frame is lost in the good state.
    pub loss_good: f64,
    /// Chance that a frame is lost in the bad state.
    pub loss_bad: f64,
}

impl GilbertElliott {
    /// The share of frames lost in the long run.
    pub fn mean_loss(&self) -> f64 {
        let bad = self.to_bad / (self.to_bad + self.to_good);
        bad * self.loss_bad + (1.0 - bad) * self.loss_good
    }
}

/// What a link swallows without a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blackhole {
    /// Nothing.
    #[default]
    Off,
    /// Everything.
    All,
    /// IP packets longer than so many bytes.
    Longer(usize),
    /// ICMP errors (packet too big, unreachable), so that path MTU discovery has to do without.
    IcmpErrors,
}

impl Blackhole {
    pub(crate) fn takes(self, ip: &[u8]) -> bool {
        match self {
            Blackhole::Off => false,
            Blackhole::All => true,
            Blackhole::Longer(bytes) => ip.len() > bytes,
            Blackhole::IcmpErrors => is_icmp_error(ip),
        }
    }
}

fn is_icmp_error(ip: &[u8]) -> bool {
    match ip.first().map(|b| b >> 4) {
        Some(4) if ip.len() > 20 && ip[9] == 1 => {
            let header = usize::from(ip[0] & 15) * 4;
            ip.get(header).is_some_and(|kind| matches!(kind, 3 | 11 | 12))
        }
        Some(6) if ip.len() > 40 && ip[6] == 58 => ip[40] < 128,
        _ => false,
    }
}

/// What one direction of a link remembers about losses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    burst_until: Instant,
    bad: bool,
    /// When the last frame came.
    seen_at: Instant,
}

impl Losses {
    pub(crate) fn burst(&mut self, burst: &Burst, rng: &mut Rng, now: Instant) -> bool {
        if now >= self.burst_until && chance(rng, burst.enter) {
            self.burst_until = now + up_to(rng, burst.lasts);
        }
        now < self.burst_until && chance(rng, burst.loss)
    }

    pub(crate) fn gilbert(&mut self, g: &GilbertElliott, now: Instant, rng: &mut Rng) -> bool {
        // Whoever backs off from a burst would otherwise find it as it was minutes later, and the
        // longer he waits the longer it lasts.
        self.bad &= now.saturating_since(self.seen_at) < BURST_FORGOTTEN;
        self.seen_at = now;
        if chance(rng, if self.bad { g.to_good } else { g.to_bad }) {
            self.bad = !self.bad;
        }
        chance(rng, if self.bad { g.loss_bad } else { g.loss_good })
    }
}

/// No number is drawn for what cannot happen: switching a fault off leaves the rest of a run be.
pub(crate) fn chance(rng: &mut Rng, p: f64) -> bool {
    p > 0.0 && (rng.below(1 << 32) as f64) < p * f64::from(2.0f32).powi(32)
}

pub(crate) fn up_to(rng: &mut Rng, max: Duration) -> Duration {
    if max.is_zero() { max } else { Duration::from_nanos(rng.below(max.as_nanos() as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_two_states_loses_what_its_formula_says() {
        let g = GilbertElliott { to_bad: 0.02, to_good: 0.25, loss_good: 0.001, loss_bad: 0.7 };
        let (mut losses, mut rng) = (Losses::default(), Rng::from_u64(3));
        let now = Instant::ZERO;
        let lost = (0..200_000).filter(|_| losses.gilbert(&g, now, &mut rng)).count();
        let share = lost as f64 / 200_000.0;
        assert!((share / g.mean_loss() - 1.0).abs() < 0.05, "{share} {}", g.mean_loss());
    }

    #[test]
    fn a_burst_that_ends_by_frames_does_not_outlast_silence() {
        let g = GilbertElliott { to_bad: 1.0, to_good: 0.0, loss_good: 0.0, loss_bad: 1.0 };
        let (mut losses, mut rng) = (Losses::default(), Rng::from_u64(3));
        assert!(losses.gilbert(&g, Instant::ZERO, &mut rng));
        let never = GilbertElliott { to_bad: 0.0, ..g };
        assert!(losses.gilbert(&never, Instant::from_millis(4_900), &mut rng));
        assert!(!losses.gilbert(&never, Instant::from_millis(10_000), &mut rng));
    }

    #[test]
    fn a_blackhole_of_icmp_errors_lets_the_rest_through() {
        let mut ip4 = vec![0; 48];
        (ip4[0], ip4[9]) = (0x45, 1);
        for (kind, taken) in [(3, true), (11, true), (0, false), (8, false)] {
            ip4[20] = kind;
            assert_eq!(Blackhole::IcmpErrors.takes(&ip4), taken, "{kind}");
        }
        let mut ip6 = vec![0; 48];
        (ip6[0], ip6[6]) = (0x60, 58);
        for (kind, taken) in [(2, true), (1, true), (135, false), (128, false)] {
            ip6[40] = kind;
            assert_eq!(Blackhole::IcmpErrors.takes(&ip6), taken, "{kind}");
        }
        assert!(Blackhole::Longer(40).takes(&ip6) && !Blackhole::Longer(48).takes(&ip6));
    }
}

//! Proportional rate reduction (RFC 9937): how much leaves in fast recovery. What was in flight
//! falls to `ssthresh` in step with what is delivered; below it, sending keeps up with delivery,
//! and grows like slow start while recovery goes well.
//!
//! Used with SACK, and unless the controller governs recovery itself.

/// One recovery. Sizes are bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Prr {
    /// Delivered in this recovery.
    delivered: u64,
    /// Sent in this recovery.
    out: u64,
    /// In flight at the start.
    recover_fs: u64,
    /// What may be in flight now.
    window: usize,
}

/// What an acknowledgement in recovery shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Newly delivered, cumulatively or by SACK.
    pub(crate) delivered: usize,
    /// In flight now.
    pub(crate) pipe: usize,
    pub(crate) ssthresh: usize,
    pub(crate) mss: usize,
    /// `snd_una` moved, and no further loss showed.
    pub(crate) safe: bool,
}

impl Prr {
    /// Recovery begins: `recover_fs` bytes were in flight before the acknowledgement that shows
    /// it, and not reported; `pipe` are in flight now. The first retransmission always goes.
    pub(crate) fn new(recover_fs: usize, pipe: usize, mss: usize) -> Prr {
        Prr { recover_fs: recover_fs.max(1) as u64, window: pipe + mss, ..Prr::default() }
    }

    /// RFC 9937 section 6.2.
    pub(crate) fn on_ack(&mut self, p: &Progress) {
        if p.delivered == 0 {
            return;
        }
        self.delivered += p.delivered as u64;
        let mut send = if p.pipe > p.ssthresh {
            let share = u128::from(self.delivered) * p.ssthresh as u128;
            let share = share.div_ceil(u128::from(self.recover_fs));
            u64::try_from(share).unwrap_or(u64::MAX).saturating_sub(self.out) as usize
        } else {
            // The conservative bound, and the slow-start bound while all goes well.
            let owed = self.delivered.saturating_sub(self.out) as usize;
            let most = owed.max(p.delivered) + if p.safe { p.mss } else { 0 };
            most.min(p.ssthresh - p.pipe)
        };
        if self.out == 0 && send == 0 {
            // The fast retransmission itself.
            send = p.mss;
        }
        self.window = p.pipe + send;
    }

    pub(crate) fn on_send(&mut self, bytes: u32) {
        self.out += u64::from(bytes);
    }

    pub(crate) fn window(&self) -> usize {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(delivered: usize, pipe: usize) -> Progress {
        Progress { delivered, pipe, ssthresh: 5000, mss: 1000, safe: true }
    }

    // RFC 9937 6.1, 6.2, 6.3
    #[test]
    fn above_the_threshold_sending_is_a_share_of_what_is_delivered() {
        let mut prr = Prr::new(10_000, 8000, 1000);
        prr.on_ack(&progress(1000, 8000));
        assert_eq!(prr.window(), 8000 + 500);
        prr.on_send(500);
        prr.on_ack(&progress(1000, 7500));
        assert_eq!(prr.window(), 7500 + 500);
    }

    // RFC 9937 6.2
    #[test]
    fn below_the_threshold_it_keeps_up_with_delivery_and_catches_up_when_safe() {
        let mut prr = Prr::new(10_000, 2000, 1000);
        prr.on_ack(&Progress { safe: false, ..progress(1000, 2000) });
        assert_eq!(prr.window(), 3000, "conservative");
        prr.on_send(1000);
        prr.on_ack(&progress(1000, 2000));
        assert_eq!(prr.window(), 4000, "one segment more");
        prr.on_send(2000);
        prr.on_ack(&progress(1000, 4500));
        assert_eq!(prr.window(), 5000, "never above the threshold");
    }

    // RFC 9937 6.2, 6.3
    #[test]
    fn the_first_retransmission_always_goes() {
        let mut prr = Prr::new(100_000, 99_000, 1000);
        prr.on_ack(&Progress { ssthresh: 0, ..progress(1, 99_000) });
        assert_eq!(prr.window(), 100_000);
        prr.on_send(1000);
        prr.on_ack(&Progress { ssthresh: 0, ..progress(1, 99_000) });
        assert_eq!(prr.window(), 99_000);
    }
}

//! Urgent data (RFC 9293 3.8.5, RFC 6093): a mark in the stream, not a channel beside it. The data
//! is delivered in line, wherever the mark is; the pointer names the byte behind the urgent data.

use crate::seq::SeqNum;
use crate::socket::tcp::{TcpSendError, TcpState};
use crate::wire::tcp::{Flags, Header};

use super::state::{Connection, Cx};

/// The marks of a connection that ever had one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Urgent {
    /// SND.UP, until it is acknowledged.
    send: Option<SeqNum>,
    /// RCV.UP, until it is read past.
    recv: Option<SeqNum>,
}

impl Connection {
    /// Writes data and marks its end as urgent.
    pub(crate) fn write_urgent(
        &mut self,
        cx: &mut Cx<'_>,
        data: &[u8],
    ) -> Result<usize, TcpSendError> {
        let taken = self.write(cx, data)?;
        let end = self.data_end();
        self.urgent.get_or_insert_default().send = Some(end);
        if self.usable_window() == 0 {
            // The mark goes ahead of data that has to wait (RFC 9293 3.8.5).
            self.ack_now = true;
        }
        Ok(taken)
    }

    /// `snd_una` moved: a mark that is behind it would be ahead again after two gigabytes.
    pub(crate) fn urgent_on_ack(&mut self) {
        if let Some(u) = &mut self.urgent {
            u.send = u.send.filter(|end| *end > self.snd_una);
        }
    }

    /// The application has read: the same for the peer's mark.
    pub(crate) fn urgent_on_read(&mut self) {
        let at = self.read_seq();
        if let Some(u) = &mut self.urgent {
            u.recv = u.recv.filter(|mark| *mark >= at);
        }
    }

    /// Where our mark is, while the peer has not acknowledged it.
    pub(crate) fn urgent_end(&self) -> Option<SeqNum> {
        self.urgent.as_ref()?.send.filter(|end| *end > self.snd_una)
    }

    /// Puts the mark into a segment that lies before it.
    pub(crate) fn mark_urgent(&self, header: &mut Header) {
        if let Some(end) = self.urgent_end().filter(|end| *end > header.seq) {
            header.flags = header.flags.with(Flags::URG);
            header.urgent = (end - header.seq).min(0xffff) as u16;
        }
    }

    /// RFC 9293 3.10.7.4, sixth: the peer's mark, even at a closed window.
    pub(crate) fn take_urgent(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        let open =
            matches!(self.state, TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2);
        if !seg.flags.has(Flags::URG) || !open {
            return;
        }
        let mark = seg.seq + u32::from(seg.urgent);
        let known = self.urgent.as_ref().and_then(|u| u.recv);
        if mark <= self.read_seq() || known.is_some_and(|known| mark <= known) {
            return;
        }
        cx.stats.urgent_marks += 1;
        self.urgent.get_or_insert_default().recv = Some(mark);
        self.wake = true;
    }

    /// Sequence number of the next byte the application reads.
    pub(crate) fn read_seq(&self) -> SeqNum {
        self.rcv_nxt - u32::from(self.fin_received) - self.recv.len() as u32
    }

    /// Whether everything up to the peer's mark was read, and nothing behind it.
    pub(crate) fn is_at_mark(&self) -> bool {
        self.urgent.as_ref().and_then(|u| u.recv).is_some_and(|mark| mark == self.read_seq())
    }

    /// Bytes up to the peer's mark that were not read; `None`: no mark is ahead.
    pub(crate) fn urgent_left(&self) -> Option<usize> {
        let mark = self.urgent.as_ref()?.recv?;
        let left = mark.diff(self.read_seq());
        (left > 0).then_some(left as usize)
    }
}

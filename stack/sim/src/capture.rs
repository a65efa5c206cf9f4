//! Frames of a run as a pcapng file, in virtual time.

/// A pcapng file in memory (one section, one interface per attachment).
#[derive(Clone, Debug)]
pub struct Capture {
    bytes: Vec<u8>,
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

impl Default for Capture {
    fn default() -> Capture {
        let mut c = Capture { bytes: Vec::new() };
        let mut body = 0x1a2b_3c4du32.to_le_bytes().to_vec();
        body.extend([1, 0, 0, 0]);
        body.extend([0xff; 8]);
        c.block(SECTION, &body);
        c
    }
}

impl Capture {
    /// The file so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let padding = body.len().next_multiple_of(4) - body.len();
        let len = (12 + body.len() + padding) as u32;
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend(body);
        self.bytes.extend(&[0; 4][..padding]);
        self.bytes.extend(len.to_le_bytes());
    }

    /// Adds an interface; they are numbered from 0.
    pub(crate) fn interface(&mut self, name: &str, ethernet: bool) {
        let link_type: u16 = if ethernet { 1 } else { 101 };
        let mut body = link_type.to_le_bytes().to_vec();
        body.extend([0; 6]);
        let option = |body: &mut Vec<u8>, code: u16, value: &[u8]| {
            body.extend(code.to_le_bytes());
            body.extend((value.len() as u16).to_le_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        option(&mut body, 2, name.as_bytes());
        // if_tsresol: nanoseconds.
        option(&mut body, 9, &[9]);
        option(&mut body, 0, &[]);
        self.block(INTERFACE, &body);
    }

    pub(crate) fn frame(&mut self, interface: usize, at_ns: u64, frame: &[u8]) {
        let mut body = (interface as u32).to_le_bytes().to_vec();
        body.extend(((at_ns >> 32) as u32).to_le_bytes());
        body.extend((at_ns as u32).to_le_bytes());
        body.extend((frame.len() as u32).to_le_bytes());
        body.extend((frame.len() as u32).to_le_bytes());
        body.extend(frame);
        self.block(PACKET, &body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_framed_by_their_length() {
        let mut c = Capture::default();
        c.interface("a.0", true);
        c.frame(0, 5, &[1, 2, 3]);
        let mut at = 0;
        let mut kinds = Vec::new();
        while at < c.bytes.len() {
            let word =
                |i: usize| u32::from_le_bytes(c.bytes[at + i..at + i + 4].try_into().unwrap());
            let len = word(4) as usize;
            assert_eq!((len % 4, word(len - 4) as usize), (0, len));
            kinds.push(word(0));
            at += len;
        }
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET]);
    }
}

//! Where a message begins and ends in a byte stream that may lose, cut or garble any part of it.
//!
//! ```text
//!   0x00 | COBS( body | CRC-32 of body, little endian ) | 0x00
//! ```
//!
//! COBS keeps 0x00 out of the inside, so a zero is always a border, whatever was lost before it. A frame takes
//! at most [`MAX_FRAME`] bytes between two borders; longer runs are dropped as they arrive and never stored.
//! The CRC is checked before anything is decoded. Each frame also *begins* with a zero: that ends the half
//! frame which a former peer may have left behind.

use crc::{CRC_32_ISO_HDLC, Crc};

/// Longest frame, both borders included.
pub const MAX_FRAME: usize = 4096;

/// Longest body: a frame less its borders, COBS's overhead (one in 254, rounded up) and the CRC.
pub const MAX_BODY: usize = MAX_FRAME - 2 - (MAX_FRAME / 254 + 1) - CRC_LEN;

const CRC_LEN: usize = 4;
/// COBS's first byte, one byte of body, the CRC. Shorter runs are not worth storing.
const SHORTEST_RUN: usize = 1 + 1 + CRC_LEN;
/// The common CRC-32 (zlib, Ethernet, Python's `zlib.crc32`).
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// A body that does not fit a frame. Every message type's limits make this impossible; see `tests/limits.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame's body may have {MAX_BODY} bytes, this one has {0}")]
pub struct TooLong(pub usize);

/// Appends one frame around `body` to `out`.
pub fn encode(body: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    if body.len() > MAX_BODY {
        return Err(TooLong(body.len()));
    }
    let mut raw = Vec::with_capacity(body.len() + CRC_LEN);
    raw.extend_from_slice(body);
    raw.extend_from_slice(&CRC.checksum(body).to_le_bytes());
    out.push(0);
    let start = out.len();
    out.resize(start + cobs::max_encoding_length(raw.len()), 0);
    let written = cobs::encode(&raw, &mut out[start..]);
    out.truncate(start + written);
    out.push(0);
    Ok(())
}

/// What was thrown away so far. Only ever counts up (saturating).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameErrors {
    /// Runs without a border that outgrew [`MAX_FRAME`].
    pub too_long: u64,
    /// Runs that were no COBS, or too short to hold a CRC.
    pub malformed: u64,
    /// Runs whose CRC did not match.
    pub bad_crc: u64,
}

/// Takes a stream apart. Holds at most one frame.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
    /// The run being read is already too long: drop everything up to the next border.
    skipping: bool,
    errors: FrameErrors,
}

impl Decoder {
    /// A decoder at a border.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes are missing here: drops the frame that they were part of.
    pub fn skip_to_border(&mut self) {
        self.held = Vec::new();
        self.skipping = true;
    }

    /// What was thrown away so far.
    pub fn errors(&self) -> FrameErrors {
        self.errors
    }

    /// Forgets a half frame, for a link that was cut.
    pub fn reset(&mut self) {
        self.held = Vec::new();
        self.skipping = false;
    }

    /// Reads from `input` up to and including the next whole, undamaged frame and returns its body; `input` is
    /// moved past what was read. None: `input` is used up.
    pub fn next_frame(&mut self, input: &mut &[u8]) -> Option<Vec<u8>> {
        while !input.is_empty() {
            let Some(border) = input.iter().position(|&b| b == 0) else {
                self.hold(input);
                *input = &[];
                return None;
            };
            let (run, rest) = (&input[..border], &input[border + 1..]);
            *input = rest;
            let length = self.held.len() + run.len();
            if length < SHORTEST_RUN || self.skipping {
                let told = u64::from(length > 0 && !self.skipping);
                self.errors.malformed = self.errors.malformed.saturating_add(told);
                self.skipping = false;
                self.held.clear();
                continue;
            }
            self.hold(run);
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            // The buffer becomes the body: an idle link holds no memory.
            let mut frame = std::mem::take(&mut self.held);
            match self.open(&mut frame) {
                Some(len) => {
                    frame.truncate(len);
                    return Some(frame);
                }
                None => continue,
            }
        }
        None
    }

    fn hold(&mut self, run: &[u8]) {
        if self.skipping {
            return;
        }
        if self.held.len() + run.len() > MAX_FRAME - 2 {
            self.errors.too_long = self.errors.too_long.saturating_add(1);
            self.skipping = true;
            self.held = Vec::new();
            return;
        }
        self.held.extend_from_slice(run);
    }

    /// Undoes COBS in place and checks the CRC; the body's length.
    fn open(&mut self, frame: &mut [u8]) -> Option<usize> {
        let Some(len) = cobs::decode_in_place(frame).ok().and_then(|n| n.checked_sub(CRC_LEN)) else {
            self.errors.malformed = self.errors.malformed.saturating_add(1);
            return None;
        };
        let (body, crc) = frame[..len + CRC_LEN].split_at(len);
        if crc != CRC.checksum(body).to_le_bytes() {
            self.errors.bad_crc = self.errors.bad_crc.saturating_add(1);
            return None;
        }
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(decoder: &mut Decoder, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| decoder.next_frame(&mut bytes)).collect()
    }

    #[test]
    fn longest_body_fits_the_longest_frame() {
        for fill in [0u8, 1, 255] {
            let mut out = Vec::new();
            encode(&vec![fill; MAX_BODY], &mut out).unwrap();
            assert!(out.len() <= MAX_FRAME, "{} bytes", out.len());
            assert_eq!(all(&mut Decoder::new(), &out), vec![vec![fill; MAX_BODY]]);
        }
        assert_eq!(encode(&vec![1; MAX_BODY + 1], &mut Vec::new()), Err(TooLong(MAX_BODY + 1)));
    }

    #[test]
    fn resyncs_after_garbage_a_half_frame_and_an_endless_one() {
        let mut good = Vec::new();
        encode(b"whole", &mut good).unwrap();
        let mut stream = good[..4].to_vec();
        stream.extend(&good);
        stream.extend(std::iter::repeat_n(7u8, 100_000));
        stream.extend(&good);
        let mut d = Decoder::new();
        assert_eq!(all(&mut d, &stream), vec![b"whole".to_vec(), b"whole".to_vec()]);
        assert_eq!(d.errors().too_long, 1);
        assert!(d.held.capacity() == 0);
    }

    #[test]
    fn a_flipped_bit_is_caught_before_decoding() {
        let mut good = Vec::new();
        encode(b"figures", &mut good).unwrap();
        for i in 1..good.len() - 1 {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[i] ^= 1 << bit;
                assert!(!all(&mut Decoder::new(), &bad).contains(&b"figures".to_vec()));
            }
        }
    }
}

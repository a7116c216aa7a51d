//! Frames in a file, in the format of pcap.

use std::{
    fs::File,
    io::{BufReader, BufWriter, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::error::{Doing as _, Error, Result};

/// Times in microseconds, numbers in this machine's order.
const MAGIC: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];
const ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl Writer {
    pub(super) fn create(path: &Path, longest: usize) -> Result<Writer> {
        let file = File::create(path).doing(|| format!("making {}", path.display()))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut writer = Writer { path: path.to_owned(), file, bytes: 0 };
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend(MAGIC.to_ne_bytes());
        header.extend(VERSION.iter().flat_map(|number| number.to_ne_bytes()));
        // Time zone and accuracy: nobody sets them.
        header.extend([0; 8]);
        header.extend([of_32(longest), ETHERNET].iter().flat_map(|number| number.to_ne_bytes()));
        writer.put(&header)?;
        Ok(writer)
    }

    pub(super) fn write(&mut self, since_1970: Duration, frame: &[u8]) -> Result<()> {
        let seconds = u32::try_from(since_1970.as_secs()).unwrap_or(u32::MAX);
        let length = of_32(frame.len());
        let header = [seconds, since_1970.subsec_micros(), length, length];
        let header: Vec<u8> = header.iter().flat_map(|number| number.to_ne_bytes()).collect();
        self.put(&header)?;
        self.put(frame)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.file.flush().doing(|| format!("writing {}", self.path.display()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).doing(|| format!("writing {}", self.path.display()))
    }
}

fn of_32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// One after the other, with room for one.
#[derive(Debug)]
pub(super) struct Frames {
    path: PathBuf,
    file: BufReader<File>,
    longest: usize,
    frame: Vec<u8>,
}

impl Frames {
    pub(super) fn open(path: &Path) -> Result<Frames> {
        let doing = || format!("reading {}", path.display());
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).doing(doing)?);
        let mut header = [0; FILE_HEADER];
        file.read_exact(&mut header).doing(doing)?;
        let number = |at: usize| number(&header, at);
        if number(0) != MAGIC || number(20) != ETHERNET {
            return Err(Error::Unfit(format!("{} is no capture of Ethernet frames", path.display())));
        }
        Ok(Frames { path: path.to_owned(), file, longest: number(16) as usize, frame: Vec::new() })
    }

    /// None: there are no more.
    pub(super) fn next_frame(&mut self) -> Result<Option<&[u8]>> {
        let doing = || format!("reading {}", self.path.display());
        let mut header = [0; FRAME_HEADER];
        match self.file.read_exact(&mut header[..1]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other.doing(doing)?,
        }
        self.file.read_exact(&mut header[1..]).doing(doing)?;
        let length = number(&header, 8) as usize;
        if length > self.longest {
            return Err(Error::Unfit(format!("{}: a frame of {length} bytes", self.path.display())));
        }
        self.frame.resize(length, 0);
        self.file.read_exact(&mut self.frame).doing(doing)?;
        Ok(Some(&self.frame))
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    u32::from_ne_bytes(four.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_off_is_an_error() -> Result<()> {
        let path = std::env::temp_dir().join(format!("coms-frames-{}.pcap", std::process::id()));
        let mut writer = Writer::create(&path, 100)?;
        for frame in [&b"first"[..], b"", b"third"] {
            writer.write(Duration::from_micros(1_500_000), frame)?;
        }
        assert_eq!(writer.bytes(), 24 + 3 * 16 + 10);
        writer.finish()?;
        let mut frames = Frames::open(&path)?;
        for frame in [&b"first"[..], b"", b"third"] {
            assert_eq!(frames.next_frame()?, Some(frame));
        }
        assert_eq!(frames.next_frame()?, None);

        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let mut frames = Frames::open(&path)?;
        frames.next_frame()?;
        frames.next_frame()?;
        assert!(frames.next_frame().is_err());
        std::fs::write(&path, &whole[4..]).unwrap();
        assert!(Frames::open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        Ok(())
    }
}

//! A serial line: ISA or PCI UART, or hvc. Opened, made raw and kept exclusive by tokio-serial.
//!
//! A line says nothing about its other end: there is no hang-up, and what is said to nobody is lost. So it counts as
//! up as long as it is open; that the host is gone, or is another one, the session finds by silence and epochs.
//!
//! Not for the virtio port: that is no terminal (tokio-serial's open fails with ENOTTY), and it does hang up, for
//! which tokio-serial has no sign. Of its stream only the poll functions are used: what `readable()` saw once it
//! sees for ever, at 100 % CPU.

use coms_protocol::LINE_ALIAS;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{SerialPortBuilderExt, SerialStream};

/// A virtual UART transmits as fast as its host takes; the number matters to hardware that is not there.
const BAUD: u32 = 115_200;
/// Read at once; the kernel has no more than this.
const READ: usize = 4096;

/// An open line.
pub(super) struct Line {
    stream: SerialStream,
}

impl Line {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Its flock keeps a second agent out, also one of root's.
        let stream = tokio_serial::new(path.to_string_lossy(), BAUD).open_native_async()?;
        Ok(Self { stream })
    }

    /// Waits until something was read into `early`, or something may be written if that is wanted. Cancel safe: what
    /// was read is in `early`.
    pub(super) async fn wait(&mut self, write: bool, early: &mut Vec<u8>) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let mut bytes = [0u8; READ];
            let mut buffer = ReadBuf::new(&mut bytes);
            if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                early.extend_from_slice(buffer.filled());
                // A raw line has no end; one that gives nothing was taken away.
                let gone = read.is_ok() && buffer.filled().is_empty();
                return Poll::Ready(if gone { Err(io::ErrorKind::UnexpectedEof.into()) } else { read });
            }
            if !write {
                return Poll::Pending;
            }
            // Writes nothing; ready when something could be.
            Pin::new(&mut self.stream).poll_write(cx, &[]).map_ok(|_| ())
        })
        .await
    }

    /// Writes what it takes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody is woken: `wait` asks again, with a waker of its own.
        let mut nobody = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.stream).poll_write(&mut nobody, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

pub(super) fn explain(path: &Path, e: &io::Error) -> String {
    let what = path.display();
    // serialport says "no device" of a busy line too.
    let (missing, busy) = (e.kind() == io::ErrorKind::NotFound, e.kind() == io::ErrorKind::WouldBlock);
    if missing && !path.exists() {
        return format!(
            "{what}: there is no such line; the VM needs a <serial> whose alias is {LINE_ALIAS} (the operator adds it), and port.path its device"
        );
    }
    if missing || busy {
        return format!(
            "{what}: another process has the line open; only one may (a getty? systemctl mask serial-getty@NAME)"
        );
    }
    format!("{what}: cannot be opened as a serial line: {e}")
}

//! From bytes to text: gzip and zstd are unpacked, and what is no text is called by its name.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::error::TraceError;

/// What begins so is no text, what it is, and what makes text of it.
const NOT_TEXT: [(&[u8], &str, &str); 7] = [
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8 makes it"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8 makes it"),
    (b"\xfd7zXZ\0", "xz", "xz -dc FILE | balanceroute ... - reads it"),
    (b"BZh", "bzip2", "bzip2 -dc FILE | balanceroute ... - reads it"),
    (b"PK\x03\x04", "a zip archive or a workbook", "unzip it, or export it as CSV"),
    (b"PAR1", "Parquet", "export it as CSV or JSON lines"),
    (b"\x28\xb5\x2f\xfd", "zstd within another compression", "unpack it once"),
];
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// A zstd file may begin with a frame to be skipped, which begins with 0x50 to 0x5f and this.
const ZSTD_SKIPPED: &[u8] = b"\x2a\x4d\x18";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

type Text<'a> = Box<dyn BufRead + 'a>;

/// The text of a trace.
pub(super) fn text<'a>(mut reader: impl BufRead + 'a, file: &str) -> Result<Text<'a>, TraceError> {
    let io = |source| TraceError::Io { file: file.to_owned(), source };
    let start = beginning(&mut reader).map_err(io)?;
    let whole = io::Cursor::new(start.clone()).chain(reader);
    if start.starts_with(GZIP) {
        plain(BufReader::new(MultiGzDecoder::new(whole)), file)
    } else if start.starts_with(ZSTD)
        || start.first().is_some_and(|byte| byte >> 4 == 5) && start.get(1..4) == Some(ZSTD_SKIPPED)
    {
        plain(BufReader::new(Frames::new(whole)), file)
    } else {
        plain(whole, file)
    }
}

fn plain<'a>(mut reader: impl BufRead + 'a, file: &str) -> Result<Text<'a>, TraceError> {
    let start = beginning(&mut reader).map_err(|source| TraceError::Io { file: file.to_owned(), source })?;
    if let Some(&(_, found, hint)) = NOT_TEXT.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Err(TraceError::Encoding { file: file.to_owned(), found, hint });
    }
    let from = if start.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    Ok(Box::new(io::Cursor::new(start[from..].to_vec()).chain(reader)))
}

/// The first bytes, as many as tell what it is.
fn beginning(reader: impl BufRead) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    reader.take(6).read_to_end(&mut start)?;
    Ok(start)
}

/// All frames of a zstd file, one after another.
struct Frames<R> {
    decoder: FrameDecoder,
    source: R,
    within_frame: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        Self { decoder: FrameDecoder::new(), source, within_frame: false }
    }

    /// Begins the next frame; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = self.source.by_ref().take(u64::from(length));
                    io::copy(&mut skipped, &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within_frame {
                self.within_frame = self.next_frame()?;
                if !self.within_frame {
                    return Ok(0);
                }
            }
            let length = self.decoder.read(into)?;
            if length > 0 || into.is_empty() {
                return Ok(length);
            }
            if !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, some).map_err(io::Error::other)?;
                continue;
            }
            let written = self.decoder.get_checksum_from_data();
            if written.is_some() && written != self.decoder.get_calculated_checksum() {
                return Err(io::Error::other("a zstd frame whose checksum is another"));
            }
            self.within_frame = false;
        }
    }
}

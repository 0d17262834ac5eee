//! What a file holds, by its first bytes: text, compressed text, a table of Parquet, or something that only looks like a file of text.
//!
//! Owns: telling these apart, unpacking gzip, zstd and Parquet on the way. Never: decodes characters.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::parquet;
use crate::error::{Error, Result, bad};
use crate::files;

/// Endings of compressed files, which are read as what they hold.
pub const COMPRESSED_ENDINGS: [&str; 3] = ["gz", "zst", "zstd"];
/// Bytes that are looked at.
const HEAD_BYTES: usize = 4096;
/// One byte in so many may be a control character that no text has; more is no text.
const STRANGE_SHARE: usize = 50;

/// What begins a file that is not text, what it is called and what to do.
const KNOWN: [(&[u8], &str, &str); 11] = [
    (b"PK\x03\x04", "a zip archive, or an Excel or Word file", "unpack it, or save the table as CSV"),
    (b"\xFD7zXZ\x00", "compressed with xz", "unpack it: xz -d"),
    (b"BZh", "compressed with bzip2", "unpack it: bunzip2"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive", "unpack it"),
    (b"Rar!\x1A\x07", "a rar archive", "unpack it"),
    (b"ARROW1", "an Arrow file", "save it as CSV or JSONL, for example with pandas"),
    (b"\xD0\xCF\x11\xE0", "an old Excel or Word file", "save the table as CSV"),
    (b"%PDF-", "a PDF", "extract its text"),
    (b"SQLite format 3\x00", "a SQLite database", "export the table as CSV"),
    (b"\xFF\xFE\x00\x00", "UTF-32", "save it as UTF-8"),
    (b"\x00\x00\xFE\xFF", "UTF-32", "save it as UTF-8"),
];

/// Bytes of text, unpacked where the file is compressed. A table of Parquet is text, too: a JSON object a line.
pub(crate) struct Content {
    reader: Box<dyn Read + Send>,
    /// The length of the file in bytes; `None` where that of the text is another.
    pub length: Option<u64>,
    /// Whether it is UTF-8 whatever a user says of files: the strings of Parquet are.
    pub is_utf8: bool,
}

impl Content {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened; [`Error::BadInput`] when it is a folder or no text.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |e| Error::io("read", path)(e);
        let mut file = files::open_regular(path)?;
        let metadata = file.metadata().map_err(read)?;
        let (head, rest) = look(&mut file).map_err(read)?;
        if head.starts_with(parquet::MAGIC) {
            return Ok(Self {
                reader: Box::new(BufReader::new(parquet::Lines::open(path, file)?)),
                length: None,
                is_utf8: true,
            });
        }
        let mut content = Self { reader: Box::new(rest.chain(file)), length: None, is_utf8: false };
        if head.starts_with(b"\x1F\x8B") {
            content.reader = Box::new(MultiGzDecoder::new(BufReader::new(content.reader)));
        } else if head.starts_with(b"\x28\xB5\x2F\xFD") {
            content.reader = Box::new(Zstd::new(content.reader));
        } else {
            refuse(path, &head)?;
            content.length = Some(metadata.len());
            return Ok(content);
        }
        let (head, rest) = look(&mut content.reader).map_err(read)?;
        refuse(path, &head)?;
        content.reader = Box::new(rest.chain(content.reader));
        Ok(content)
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("length", &self.length).finish_non_exhaustive()
    }
}

/// The name of a file without the ending of its compression.
pub fn plain_name(path: &Path) -> PathBuf {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if COMPRESSED_ENDINGS.contains(&ending.as_str()) { path.with_extension("") } else { path.to_path_buf() }
}

/// The first bytes, and a reader that gives them again.
fn look(reader: &mut impl Read) -> io::Result<(Vec<u8>, Cursor<Vec<u8>>)> {
    let mut head = Vec::new();
    reader.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head)))
}

/// An error for what is no text, and says what it is.
fn refuse(path: &Path, head: &[u8]) -> Result<()> {
    if let Some((_, name, fix)) = KNOWN.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(bad(path, None, format!("is {name}, not text"), *fix));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Err(bad(path, None, "is a tar archive, not text".into(), "unpack it, and name a file in it"));
    }
    // Half of the bytes of UTF-16 can be zero; its own decoder tells whether it is text.
    let zeros = |odd: usize| head.iter().skip(odd).step_by(2).filter(|&&b| b == 0).count();
    let wide =
        head.starts_with(b"\xFF\xFE") || head.starts_with(b"\xFE\xFF") || (zeros(0) == 0) != (zeros(1) == 0);
    let strange = |b: &u8| matches!(b, 0..=8 | 14..=26 | 28..=31 | 127);
    let count = head.iter().filter(|b| strange(b)).count();
    if !wide && count * STRANGE_SHARE > head.len() {
        let what =
            format!("is binary, not text: {count} of its first {} bytes stand for no character", head.len());
        return Err(bad(path, None, what, "give a text file"));
    }
    Ok(())
}

/// A zstd stream: frame after frame, each compared with its checksum where it has one.
struct Zstd<R: Read> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: Read> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source: BufReader::new(source), decoder: FrameDecoder::new(), in_frame: false }
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        use FrameDecoderError::ReadFrameHeaderError as Header;
        match self.decoder.init(&mut self.source) {
            Ok(()) => self.in_frame = true,
            Err(Header(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
            }
            Err(error) => return Err(damaged(&error)),
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.in_frame = false;
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(stored), Some(found)) if stored != found => Err(damaged(&"a checksum differs")),
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.in_frame {
                if self.source.fill_buf()?.is_empty() {
                    break;
                }
                self.begin_frame()?;
                continue;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let blocks = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, blocks).map_err(|e| damaged(&e))?;
            }
            match self.decoder.read(buffer)? {
                0 => self.end_frame()?,
                n => return Ok(n),
            }
        }
        Ok(0)
    }
}

fn damaged(what: &dyn fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the zstd data is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut content = Content::open(&path)?;
        let mut all = Vec::new();
        content.read_to_end(&mut all).map_err(Error::io("read", &path))?;
        Ok(all)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    #[test]
    fn compressed_text_is_read_as_what_it_holds_whatever_its_name() {
        let text = "the old harbour .\n".repeat(50_000).into_bytes();
        for compressed in [gzip(&text), zstd(&text), text.clone()] {
            assert!(read("train.txt", &compressed).unwrap() == text);
        }
        let twice = [text.clone(), text.clone()].concat();
        assert!(read("x", &[gzip(&text), gzip(&text)].concat()).unwrap() == twice);
        // Frames in a row, with one between that is to be skipped.
        let skipped = b"\x50\x2A\x4D\x18\x03\0\0\0abc";
        assert!(read("x", &[&zstd(&text)[..], skipped, &zstd(&text)].concat()).unwrap() == twice);
        assert_eq!(read("x", b"").unwrap(), b"");
        assert_eq!(read("x", &gzip(b"")).unwrap(), b"");
    }

    #[test]
    fn damaged_files_are_errors() {
        let text = "the old harbour .\n".repeat(5_000).into_bytes();
        for good in [gzip(&text), zstd(&text)] {
            for length in [4, 12, good.len() / 2, good.len() - 1] {
                assert!(read("train.txt.gz", &good[..length]).is_err(), "{length} of {}", good.len());
            }
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x55;
                // A flipped bit in a header's free fields may go unnoticed; other text may not.
                assert!(read("x", &bad).is_err() || read("x", &bad).unwrap() == text || at < 10, "byte {at}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_named() {
        let mut tar = vec![b'a'; 600];
        tar[257..262].copy_from_slice(b"ustar");
        let noise: Vec<u8> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (bytes, says) in [
            (&b"PK\x03\x04...."[..], "is a zip archive, or an Excel or Word file, not text"),
            (b"\xFD7zXZ\x00...", "compressed with xz"),
            (b"PAR1....", "a Parquet file"),
            (b"\xFF\xFE\x00\x00a\0\0\0", "UTF-32"),
            (&tar, "a tar archive"),
            (&gzip(&tar), "a tar archive"),
            (&noise, "is binary, not text"),
        ] {
            let message = read("train.csv", bytes).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains("fix: "), "{message}");
        }
        for text in [&b"caf\xE9 \x93quoted\x94"[..], b"\xFF\xFEa\0b\0", b"a\0b\0c\0", b"a\tb\r\nc\x0C\x1B[0m"]
        {
            assert_eq!(read("x", text).unwrap(), text);
        }
    }

    #[test]
    fn names_lose_the_ending_of_their_compression() {
        for (name, plain) in [("a.csv.gz", "a.csv"), ("a.TXT.ZST", "a.TXT"), ("a.csv", "a.csv"), ("a", "a")] {
            assert_eq!(plain_name(Path::new(name)), Path::new(plain));
        }
    }
}

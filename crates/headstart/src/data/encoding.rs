//! Bytes on disk become text: strict UTF-8, or another encoding by its label.
//!
//! Owns: decoding, the byte order mark, CRLF, and where an invalid byte stands. Never: splits text into examples.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::watch::Watch;
use crate::error::{Error, Result, bad};
use crate::event::{Listener, Signal};
use crate::memory;

/// Bytes read at a time. Large enough that the threads behind have work, small enough for a lively progress bar.
const BLOCK_BYTES: usize = 2 << 20;

/// How the bytes of a text file are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextEncoding {
    /// Strict UTF-8: an invalid byte is an error, never a replacement character.
    #[default]
    Utf8,
    /// ISO-8859-1, byte for byte: 0xF0 is U+00F0 and 0x80 is U+0080 (not the euro sign of windows-1252).
    Latin1,
    /// Any other encoding of the WHATWG list.
    Other(&'static encoding_rs::Encoding),
}

impl TextEncoding {
    /// The encoding with the given label: `utf-8`, `latin1`, `windows-1252`, `utf-16le`, `gbk`, ...
    ///
    /// # Errors
    /// [`Error::Config`] when no encoding has that label.
    pub fn from_label(label: &str) -> Result<Self> {
        let plain = label.trim().to_ascii_lowercase();
        // The WHATWG list reads these as windows-1252, which gives control codes other characters.
        if matches!(plain.as_str(), "latin1" | "latin-1" | "l1" | "iso-8859-1" | "iso8859-1" | "iso_8859-1") {
            return Ok(Self::Latin1);
        }
        match encoding_rs::Encoding::for_label_no_replacement(plain.as_bytes()) {
            Some(encoding) if encoding == encoding_rs::UTF_8 => Ok(Self::Utf8),
            Some(encoding) => Ok(Self::Other(encoding)),
            None => Err(Error::Config {
                key: "encoding".into(),
                what: format!("no text encoding is called `{label}`"),
                fix: "use a label such as utf-8, latin1, windows-1252, utf-16le, shift_jis or gbk".into(),
            }),
        }
    }

    /// The encoding's usual name, in lower case.
    pub fn name(self) -> String {
        match self {
            Self::Utf8 => "utf-8".into(),
            Self::Latin1 => "iso-8859-1".into(),
            Self::Other(encoding) => encoding.name().to_ascii_lowercase(),
        }
    }

    /// Whether byte 0x0A is a line end wherever it stands, so that raw bytes may be cut there.
    pub(super) fn cuts_at_line_ends(self) -> bool {
        match self {
            Self::Utf8 | Self::Latin1 => true,
            Self::Other(encoding) => encoding.is_ascii_compatible() && encoding != encoding_rs::ISO_2022_JP,
        }
    }
}

/// A stretch of a text file: whole lines (only the file's last may lack its line end), decoded, CRLF as LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextBlock {
    /// The text.
    pub text: String,
    /// The number of the first line, counted from 1.
    pub first_line: u64,
    /// Bytes this block had in the file, unpacked.
    pub file_bytes: u64,
}

/// Reads a text file block by block, so that a corpus never has to fit into memory.
#[derive(Debug)]
pub struct TextBlocks {
    path: PathBuf,
    content: Content,
    encoding: TextEncoding,
    rest: Vec<u8>,
    line: u64,
    offset: u64,
    ended: bool,
}

impl TextBlocks {
    /// Opens `path`, which may be compressed with gzip or zstd.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened; [`Error::BadInput`] when it is empty, a folder or no text.
    pub fn open(path: &Path, encoding: TextEncoding) -> Result<Self> {
        let blocks = Self::open_any(path, encoding)?;
        if blocks.content.length == Some(0) && path.is_file() {
            return Err(empty(path));
        }
        Ok(blocks)
    }

    /// As [`Self::open`], where an empty file is as good as any.
    ///
    /// # Errors
    /// As there.
    pub fn open_any(path: &Path, encoding: TextEncoding) -> Result<Self> {
        let content = Content::open(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            encoding: if content.is_utf8 { TextEncoding::Utf8 } else { encoding },
            content,
            rest: Vec::new(),
            line: 1,
            offset: 0,
            ended: false,
        })
    }

    /// The text's length in bytes, for progress; 0 where the file is compressed and does not tell.
    pub fn total_bytes(&self) -> u64 {
        self.content.length.unwrap_or(0)
    }

    /// The next block, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`] when reading fails; [`Error::BadInput`] with line and byte when bytes are not valid in the
    /// encoding.
    pub fn next_block(&mut self) -> Result<Option<TextBlock>> {
        let Some(bytes) = self.next_bytes()? else { return Ok(None) };
        let first_line = self.line;
        let text = self.decode(&bytes)?;
        self.line += text.bytes().filter(|&b| b == b'\n').count() as u64;
        self.offset += bytes.len() as u64;
        Ok(Some(TextBlock { text, first_line, file_bytes: bytes.len() as u64 }))
    }

    /// The next raw bytes, cut behind a line end where the encoding allows.
    fn next_bytes(&mut self) -> Result<Option<Vec<u8>>> {
        while !self.ended {
            let wanted = if self.encoding.cuts_at_line_ends() { BLOCK_BYTES as u64 } else { u64::MAX };
            let start = self.rest.len();
            let read = (&mut self.content).take(wanted).read_to_end(&mut self.rest);
            let read = read.map_err(Error::io("read", &self.path))?;
            self.ended = (read as u64) < wanted;
            if self.ended {
                break;
            }
            if let Some(at) = self.rest[start..].iter().rposition(|&b| b == b'\n') {
                let tail = self.rest.split_off(start + at + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, tail)));
            }
        }
        let last = std::mem::take(&mut self.rest);
        Ok(if last.is_empty() { None } else { Some(last) })
    }

    fn decode(&self, bytes: &[u8]) -> Result<String> {
        let text = match self.encoding {
            TextEncoding::Utf8 => {
                let body = match bytes.strip_prefix(b"\xEF\xBB\xBF") {
                    Some(body) if self.offset == 0 => body,
                    _ => bytes,
                };
                match std::str::from_utf8(body) {
                    Ok(text) => text.to_owned(),
                    Err(e) => return Err(self.invalid(bytes, bytes.len() - body.len() + e.valid_up_to())),
                }
            }
            TextEncoding::Latin1 => encoding_rs::mem::decode_latin1(bytes).into_owned(),
            TextEncoding::Other(encoding) => {
                let body = match encoding_rs::Encoding::for_bom(bytes) {
                    Some((found, length)) if found == encoding && self.offset == 0 => &bytes[length..],
                    _ => bytes,
                };
                match encoding.decode_without_bom_handling_and_without_replacement(body) {
                    Some(text) => text.into_owned(),
                    None => return Err(self.invalid(bytes, first_invalid(encoding, bytes))),
                }
            }
        };
        Ok(if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text })
    }

    fn invalid(&self, bytes: &[u8], at: usize) -> Error {
        let before = &bytes[..at];
        let line = self.line + before.split(|&b| b == b'\n').count() as u64 - 1;
        let column = at - before.iter().rposition(|&b| b == b'\n').map_or(0, |p| p + 1) + 1;
        let what = format!(
            "byte {column} of the line (0x{:02X}, byte {} of the file) is not valid {}",
            bytes.get(at).copied().unwrap_or_default(),
            self.offset + at as u64 + 1,
            self.encoding.name().to_ascii_uppercase(),
        );
        bad(&self.path, Some(line), what, encoding_fix(bytes, self.encoding, self.offset == 0))
    }
}

/// The way out for bytes that are not valid in the encoding they were read in; `first` are those at the beginning of a file.
pub(super) fn encoding_fix(bytes: &[u8], encoding: TextEncoding, first: bool) -> &'static str {
    if first && (bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF")) {
        "the file looks like UTF-16: pass `--encoding utf-16le` or `--encoding utf-16be`"
    } else if encoding == TextEncoding::Utf8 && has_windows_bytes(bytes) {
        "save the file as UTF-8, or name its encoding: it looks like `--encoding windows-1252`"
    } else if encoding == TextEncoding::Utf8 {
        "save the file as UTF-8, or name its encoding: `--encoding latin1`, `--encoding windows-1252`, ..."
    } else {
        "name the encoding the file really has with `--encoding`"
    }
}

/// Reads a whole text file: decoded, without byte order mark, CRLF as LF.
///
/// # Errors
/// As for [`TextBlocks`].
pub fn read_text(path: &Path, encoding: TextEncoding) -> Result<String> {
    read_text_watched(path, encoding, &mut |_| Signal::Continue)
}

/// As [`read_text`], while `listener` says so.
pub(super) fn read_text_watched(
    path: &Path,
    encoding: TextEncoding,
    listener: &mut Listener<'_>,
) -> Result<String> {
    let text = read_blocks(path, encoding, listener)?;
    if text.trim().is_empty() { Err(empty(path)) } else { Ok(text) }
}

/// As [`read_text`], where an empty file is an empty text.
pub(crate) fn read_any_text(path: &Path, encoding: TextEncoding) -> Result<String> {
    read_blocks(path, encoding, &mut |_| Signal::Continue)
}

fn read_blocks(path: &Path, encoding: TextEncoding, listener: &mut Listener<'_>) -> Result<String> {
    let mut blocks = TextBlocks::open_any(path, encoding)?;
    memory::check_fits(&format!("the text of {}", path.display()), blocks.total_bytes().saturating_mul(2))?;
    let total = blocks.total_bytes();
    let mut watch = Watch::new(listener, format!("reading {}", path.display()), total);
    let (mut text, mut done) = (String::new(), 0);
    while let Some(block) = blocks.next_block()? {
        done += block.file_bytes;
        watch.at(done)?;
        if text.is_empty() {
            text = block.text;
        } else {
            text.push_str(&block.text);
        }
    }
    Ok(text)
}

/// The error for a file without any text.
pub(crate) fn empty(path: &Path) -> Error {
    bad(path, None, "the file is empty".into(), "give a file with text in it")
}

/// Whether bytes that are not UTF-8 are among those that windows-1252 has quotation marks and dashes for, and Latin-1
/// nothing that is printed.
fn has_windows_bytes(bytes: &[u8]) -> bool {
    bytes.utf8_chunks().flat_map(|chunk| chunk.invalid()).any(|b| matches!(b, 0x80..=0x9F))
}

/// Where the first sequence that does not decode begins, found by feeding one byte at a time.
fn first_invalid(encoding: &'static encoding_rs::Encoding, bytes: &[u8]) -> usize {
    let mut decoder = encoding.new_decoder_with_bom_removal();
    let mut sink = [0_u8; 64];
    for at in 0..bytes.len() {
        let last = at + 1 == bytes.len();
        let (result, _, _) = decoder.decode_to_utf8_without_replacement(&bytes[at..=at], &mut sink, last);
        if let encoding_rs::DecoderResult::Malformed(length, behind) = result {
            return (at + 1).saturating_sub(usize::from(length) + usize::from(behind));
        }
    }
    bytes.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], encoding: TextEncoding) -> Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.txt");
        std::fs::write(&path, bytes).unwrap();
        read_text(&path, encoding)
    }

    #[test]
    fn reads_utf8_with_bom_and_crlf() {
        assert_eq!(read(b"\xEF\xBB\xBFone\r\ntwo\n", TextEncoding::Utf8).unwrap(), "one\ntwo\n");
        assert_eq!(
            read("caf\u{e9} \u{feff}x".as_bytes(), TextEncoding::Utf8).unwrap(),
            "caf\u{e9} \u{feff}x"
        );
    }

    #[test]
    fn an_invalid_byte_is_named_with_line_and_byte() {
        let message = read(b"fine\r\nbad \xF0 here\n", TextEncoding::Utf8).unwrap_err().to_string();
        assert!(message.contains("text.txt:2:"), "{message}");
        assert!(
            message.contains("byte 5 of the line (0xF0, byte 11 of the file) is not valid UTF-8"),
            "{message}"
        );
        assert!(message.contains("--encoding latin1"), "{message}");
    }

    #[test]
    fn bytes_of_windows_1252_are_told_from_latin1() {
        let fix = |bytes: &[u8]| read(bytes, TextEncoding::Utf8).unwrap_err().to_string();
        assert!(fix(b"caf\xE9 \x93so\x94\n").contains("it looks like `--encoding windows-1252`"));
        let message = fix("caf\u{e9} \u{201c}".bytes().chain(*b"caf\xE9\n").collect::<Vec<_>>().as_slice());
        assert!(message.contains("`--encoding latin1`"), "{message}");
    }

    #[test]
    fn an_invalid_byte_in_a_later_block_is_counted_from_the_start_of_the_file() {
        let mut bytes = b"0123456\n".repeat(BLOCK_BYTES / 8 + 100);
        let lines = bytes.len() / 8;
        bytes.extend_from_slice(b"x\xFF\n");
        let message = read(&bytes, TextEncoding::Utf8).unwrap_err().to_string();
        assert!(message.contains(&format!("text.txt:{}:", lines + 1)), "{message}");
        assert!(
            message.contains(&format!("byte 2 of the line (0xFF, byte {} of", bytes.len() - 1)),
            "{message}"
        );
    }

    #[test]
    fn utf16_is_read_by_label_and_recognised_without() {
        let bytes = b"\xFF\xFEh\0i\0\r\0\n\0";
        let label = TextEncoding::from_label("UTF-16LE").unwrap();
        assert_eq!(read(bytes, label).unwrap(), "hi\n");
        assert!(read(bytes, TextEncoding::Utf8).unwrap_err().to_string().contains("utf-16le"));
    }

    #[test]
    fn latin1_is_byte_for_byte_and_windows_1252_is_not() {
        let latin1 = TextEncoding::from_label("Latin1").unwrap();
        let windows = TextEncoding::from_label("windows-1252").unwrap();
        assert_eq!(read(b"\xF0\x80", latin1).unwrap(), "\u{f0}\u{80}");
        assert_eq!(read(b"\xF0\x80", windows).unwrap(), "\u{f0}\u{20ac}");
    }

    #[test]
    fn other_encodings_are_strict_too() {
        let sjis = TextEncoding::from_label("shift_jis").unwrap();
        let message = read(b"ok\nab\x82\xFF\n", sjis).unwrap_err().to_string();
        assert!(message.contains("text.txt:2:") && message.contains("byte 3 of the line (0x82"), "{message}");
    }

    #[test]
    fn unknown_labels_and_empty_files_are_errors() {
        assert!(TextEncoding::from_label("latin-99").unwrap_err().is_usage());
        for nothing in [&b""[..], b"\xEF\xBB\xBF", b" \r\n\n"] {
            assert!(read(nothing, TextEncoding::Utf8).unwrap_err().to_string().contains("is empty"));
        }
    }

    #[test]
    fn blocks_are_whole_lines_and_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.txt");
        let text = "a line of some length\r\n\n".repeat(BLOCK_BYTES / 10);
        std::fs::write(&path, &text).unwrap();
        let mut blocks = TextBlocks::open(&path, TextEncoding::Utf8).unwrap();
        let (mut all, mut count, mut bytes) = (String::new(), 0, 0);
        while let Some(block) = blocks.next_block().unwrap() {
            assert!(block.text.ends_with('\n'));
            assert_eq!(block.first_line, 1 + all.matches('\n').count() as u64);
            (all, count, bytes) = (all + &block.text, count + 1, bytes + block.file_bytes);
        }
        assert!(count > 2);
        assert_eq!(bytes, blocks.total_bytes());
        assert_eq!(all, text.replace("\r\n", "\n"));
    }
}

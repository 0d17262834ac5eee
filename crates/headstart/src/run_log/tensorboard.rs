//! TensorBoard event files: scalars that the real TensorBoard shows.
//!
//! Owns: the TFRecord frame (length, CRC-32C of the length, data, CRC-32C of the data), the few fields of the
//! `Event` message that scalars need, a reader that checks every CRC, and cutting a file back to a step. Never:
//! images, text, graphs.
//!
//! `Event { 1: wall_time double, 2: step int64, 3: file_version string, 5: Summary { 1: repeated Value { 1: tag
//! string, 2: simple_value float } } }`, encoded as protocol buffers encode them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::{Extent, Kind, Record, not_as_logged, precedes};
use crate::error::{Error, Result};
use crate::files::cannot_write;

/// The folder of the event files in a run folder.
pub(super) const FOLDER: &str = "tensorboard";
const PREFIX: &str = "events.out.tfevents.";
const FILE_VERSION: &str = "brain.Event:2";

/// One value of an event file.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Optimizer steps done.
    pub step: u64,
    /// When, in seconds since 1970.
    pub wall_time_s: f64,
    /// `kind/name`, for example `train/loss`.
    pub tag: String,
    /// The value; event files hold single precision.
    pub value: f32,
}

/// The event files of a folder, in the order of their names, which is that of their making. None if there is no
/// such folder.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
pub fn event_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let items = match fs::read_dir(folder) {
        Ok(items) => items,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", folder)(e)),
    };
    let mut files = Vec::new();
    for item in items {
        let item = item.map_err(Error::io("read", folder))?;
        if item.file_name().to_string_lossy().starts_with(PREFIX) {
            files.push(item.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Every scalar of an event file, in order.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Checkpoint`] when a frame is incomplete, a CRC is wrong
/// or a message is not an event.
pub fn read_scalars(path: &Path) -> Result<Vec<Scalar>> {
    let mut frames = Frames::open(path)?;
    let mut scalars = Vec::new();
    loop {
        match frames.next()? {
            Frame::Event(event) => scalars.extend(event.scalars()),
            Frame::End => return Ok(scalars),
            Frame::Torn => return Err(frames.damaged("ends in the middle of a record")),
        }
    }
}

/// The open event file.
#[derive(Debug)]
pub(super) struct EventFile {
    file: File,
    path: PathBuf,
    /// Of all files of the folder.
    sum: Extent,
}

impl EventFile {
    /// Opens the newest event file of `folder` for appending, after cutting what comes after the checkpoint of `step` off
    /// all of them; creates folder and file if they are not there. What stays must be what the checkpoint knows of it,
    /// `expected`.
    pub fn open_cut_back(
        folder: &Path,
        step: u64,
        expected: Option<Extent>,
        wall_time_s: f64,
    ) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        let files = event_files(folder)?;
        let (mut sum, mut kept) = (Extent::default(), Vec::new());
        for path in &files {
            let most = expected.map(|expected| expected.bytes - sum.bytes);
            let keep_bytes = bytes_up_to(path, step, most)?;
            add_content(&mut sum, path, keep_bytes)?;
            kept.push(keep_bytes);
        }
        // Files that were moved away are begun anew.
        if let (Some(expected), Some(last)) = (expected, files.last())
            && sum != expected
        {
            return Err(not_as_logged(last, step, "metrics.jsonl holds the same values"));
        }
        for (path, keep_bytes) in files.iter().zip(kept) {
            let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
            file.set_len(keep_bytes).map_err(Error::io("shorten", path))?;
        }
        let name = format!("{PREFIX}{:010}.headstart.0", wall_time_s as u64);
        let path = files.into_iter().next_back().unwrap_or_else(|| folder.join(name));
        let file =
            OpenOptions::new().append(true).create(true).open(&path).map_err(Error::io("open", &path))?;
        let is_new = file.metadata().map_err(Error::io("read", &path))?.len() == 0;
        let mut events = Self { file, path, sum };
        if is_new {
            events.write(&version_event(wall_time_s))?;
        }
        Ok(events)
    }

    pub fn append(&mut self, record: &Record) -> Result<()> {
        self.write(&scalar_event(record))
    }

    /// Waits until everything is on the disk; returns what that is.
    pub fn sync(&self) -> Result<Extent> {
        self.file.sync_data().map_err(cannot_write(&self.path))?;
        Ok(self.sum)
    }

    /// One write call per frame, so that a running TensorBoard sees whole ones.
    fn write(&mut self, event: &[u8]) -> Result<()> {
        let frame = frame(event);
        self.file.write_all(&frame).map_err(cannot_write(&self.path))?;
        self.sum.add(&frame);
        Ok(())
    }
}

/// The length of the file without the first record after the checkpoint of `step` and everything behind it; where the
/// checkpoint knows how much there was, of the records that lie within these `most` bytes.
fn bytes_up_to(path: &Path, step: u64, most: Option<u64>) -> Result<u64> {
    let mut frames = Frames::open(path)?;
    loop {
        let start = frames.offset;
        match frames.next()? {
            Frame::Event(_) if most.is_some_and(|most| frames.offset <= most) => {}
            _ if most.is_some() => return Ok(start),
            // The first event has no values; it names the format.
            Frame::Event(event) if event.values.is_empty() => {}
            Frame::Event(event) if precedes(step, event.step, event.is_test()) => {}
            _ => return Ok(start),
        }
    }
}

/// Adds the first `bytes` of a file.
fn add_content(sum: &mut Extent, path: &Path, bytes: u64) -> Result<()> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut reader = BufReader::new(file.take(bytes));
    loop {
        let content = reader.fill_buf().map_err(Error::io("read", path))?;
        if content.is_empty() {
            return Ok(());
        }
        sum.add(content);
        let read = content.len();
        reader.consume(read);
    }
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn frame(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(event.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(event);
    bytes.extend(masked_crc(event).to_le_bytes());
    bytes
}

fn version_event(wall_time_s: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time_s);
    put_bytes(&mut event, 3, FILE_VERSION.as_bytes());
    event
}

fn scalar_event(record: &Record) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in &record.values {
        let mut scalar = Vec::new();
        put_bytes(&mut scalar, 1, format!("{}/{name}", record.kind.as_str()).as_bytes());
        put_float(&mut scalar, 2, *value as f32);
        put_bytes(&mut summary, 1, &scalar);
    }
    let mut event = Vec::new();
    put_double(&mut event, 1, record.wall_time_s);
    put_varint(&mut event, 2 << 3);
    put_varint(&mut event, record.step);
    put_bytes(&mut event, 5, &summary);
    event
}

// Wire types of protocol buffers, the low three bits of a key.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_varint(out, field << 3 | FIXED_64);
    out.extend(value.to_le_bytes());
}

fn put_float(out: &mut Vec<u8>, field: u64, value: f32) {
    put_varint(out, field << 3 | FIXED_32);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

enum Frame {
    Event(Event),
    End,
    /// The file ends in the middle of a record.
    Torn,
}

struct Event {
    step: u64,
    wall_time_s: f64,
    values: Vec<(String, f32)>,
}

impl Event {
    fn is_test(&self) -> bool {
        let word = Kind::Test.as_str();
        self.values.iter().any(|(tag, _)| tag.strip_prefix(word).is_some_and(|name| name.starts_with('/')))
    }

    fn scalars(self) -> impl Iterator<Item = Scalar> {
        let Self { step, wall_time_s, values } = self;
        values.into_iter().map(move |(tag, value)| Scalar { step, wall_time_s, tag, value })
    }
}

/// Reads a file frame by frame.
struct Frames {
    reader: BufReader<File>,
    path: PathBuf,
    size_bytes: u64,
    /// Where the next frame starts.
    offset: u64,
}

impl Frames {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let size_bytes = file.metadata().map_err(Error::io("read", path))?.len();
        Ok(Self { reader: BufReader::new(file), path: path.to_path_buf(), size_bytes, offset: 0 })
    }

    fn next(&mut self) -> Result<Frame> {
        let left = self.size_bytes - self.offset;
        if left == 0 {
            return Ok(Frame::End);
        }
        if left < 12 {
            return Ok(Frame::Torn);
        }
        let header = self.read(12)?;
        let (length_bytes, crc) = header.split_at(8);
        let length = u64::from_le_bytes(array(length_bytes));
        if masked_crc(length_bytes) != u32::from_le_bytes(array(crc)) {
            // A machine that lost its power may have grown the file without filling it.
            return self.torn_if(header.iter().all(|b| *b == 0), "has a wrong checksum of a length");
        }
        if length.checked_add(16).is_none_or(|needed| needed > left) {
            return Ok(Frame::Torn);
        }
        let data = self.read(length)?;
        let crc = self.read(4)?;
        if masked_crc(&data) != u32::from_le_bytes(array(&crc)) {
            return self.torn_if(left == length + 16, "has a wrong checksum of a record");
        }
        let event = parse_event(&data).ok_or_else(|| self.damaged("holds a record that is no event"))?;
        self.offset += length + 16;
        Ok(Frame::Event(event))
    }

    fn read(&mut self, bytes: u64) -> Result<Vec<u8>> {
        let mut data = vec![0; bytes as usize];
        self.reader.read_exact(&mut data).map_err(Error::io("read", &self.path))?;
        Ok(data)
    }

    /// Damage that a crash explains is a torn end; any other is an error.
    fn torn_if(&self, explained: bool, what: &str) -> Result<Frame> {
        if explained { Ok(Frame::Torn) } else { Err(self.damaged(what)) }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::Checkpoint {
            path: self.path.clone(),
            what: format!("{what} at byte {}", self.offset),
            fix: "move the file away; metrics.jsonl holds the same values".into(),
        }
    }
}

/// A slice of known length as an array; a wrong length cannot happen and gives zeros.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

fn parse_event(data: &[u8]) -> Option<Event> {
    let mut event = Event { step: 0, wall_time_s: 0.0, values: Vec::new() };
    for_each_field(data, |field, value| {
        match (field, value) {
            (1, Field::Fixed64(bits)) => event.wall_time_s = f64::from_bits(bits),
            (2, Field::Varint(step)) => event.step = step,
            (5, Field::Bytes(summary)) => for_each_field(summary, |field, value| {
                if let (1, Field::Bytes(scalar)) = (field, value) {
                    event.values.extend(parse_scalar(scalar)?);
                }
                Some(())
            })?,
            _ => {}
        }
        Some(())
    })?;
    Some(event)
}

/// A summary value; the inner `None` is one that is not a scalar.
#[allow(clippy::option_option)] // outer: is it well-formed, inner: is it ours
fn parse_scalar(data: &[u8]) -> Option<Option<(String, f32)>> {
    let (mut tag, mut number) = (None, None);
    for_each_field(data, |field, value| {
        match (field, value) {
            (1, Field::Bytes(text)) => tag = Some(String::from_utf8(text.to_vec()).ok()?),
            (2, Field::Fixed32(bits)) => number = Some(f32::from_bits(bits)),
            _ => {}
        }
        Some(())
    })?;
    Some(tag.zip(number))
}

enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Calls `visit` with every field of a message; `None` when it is not well-formed.
fn for_each_field<'a>(mut data: &'a [u8], mut visit: impl FnMut(u64, Field<'a>) -> Option<()>) -> Option<()> {
    while !data.is_empty() {
        let key = take_varint(&mut data)?;
        let value = match key & 7 {
            VARINT => Field::Varint(take_varint(&mut data)?),
            FIXED_64 => Field::Fixed64(u64::from_le_bytes(array(data.split_off(..8)?))),
            FIXED_32 => Field::Fixed32(u32::from_le_bytes(array(data.split_off(..4)?))),
            BYTES => {
                let length = usize::try_from(take_varint(&mut data)?).ok()?;
                Field::Bytes(data.split_off(..length)?)
            }
            _ => return None,
        };
        visit(key >> 3, value)?;
    }
    Some(())
}

fn take_varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *data.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

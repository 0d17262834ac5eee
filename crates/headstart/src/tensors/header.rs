//! The header of a safetensors file: which arrays there are and where they lie.
//!
//! Owns: writing it and what it describes, reading it without trusting a byte. Never: knows what the arrays are.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::files::{FileSum, SummedFile};

/// safetensors is little-endian, and values go to and from it as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// The length field in front of the header.
const LENGTH_BYTES: usize = size_of::<u64>();
/// Headers of the largest models have a tenth of this. The format allows 100 MB, which would take gigabytes of memory to
/// look through.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Writes named arrays with their shapes as a safetensors file, in the order given and without a second copy in memory.
///
/// # Errors
/// What the operating system says; nothing is removed.
pub fn write_tensors<'a>(path: &Path, tensors: &[(String, &'a [usize], &'a [f32])]) -> io::Result<FileSum> {
    let arrays: Vec<_> = tensors.iter().map(|(name, shape, _)| (name.clone(), *shape)).collect();
    let mut writer = TensorWriter::create(path, &arrays)?;
    for (_, _, values) in tensors {
        writer.write(values)?;
    }
    writer.finish()
}

/// A safetensors file whose values come piece by piece, in the order of its arrays.
#[derive(Debug)]
pub struct TensorWriter {
    file: SummedFile,
    /// Bytes that are still to come.
    left: usize,
}

impl TensorWriter {
    /// A new file with these arrays, named and with their shapes.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(path: &Path, arrays: &[(String, &[usize])]) -> io::Result<Self> {
        let mut end = 0;
        let infos = arrays.iter().map(|(name, shape)| {
            let start = end;
            end += shape.iter().product::<usize>() * size_of::<f32>();
            (
                name.clone(),
                TensorInfo { dtype: Dtype::F32, shape: shape.to_vec(), data_offsets: (start, end) },
            )
        });
        // Hugging Face's reader insists on this note.
        let note = HashMap::from([("format".into(), "pt".into())]);
        let metadata = Metadata::new(Some(note), infos.collect()).map_err(io::Error::other)?;
        let mut header = serde_json::to_vec(&metadata)?;
        header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
        let mut file = SummedFile::create(path)?;
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(&header)?;
        Ok(Self { file, left: end })
    }

    /// The next values.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn write(&mut self, values: &[f32]) -> io::Result<()> {
        self.left = self.left.checked_sub(size_of_val(values)).ok_or_else(wrong_length)?;
        self.file.write(bytemuck::cast_slice(values))
    }

    /// The whole file's sums, once it is on the disk.
    ///
    /// # Errors
    /// What the operating system says; values that did not come.
    pub fn finish(self) -> io::Result<FileSum> {
        if self.left == 0 { self.file.finish() } else { Err(wrong_length()) }
    }
}

fn wrong_length() -> io::Error {
    io::Error::other("the values are not as many as the arrays have")
}

/// Where the arrays begin, and the header. The crate's own entry point adds up the lengths of a hostile header
/// unchecked, so its end is compared here; the crate checks order, gaps, shapes and types.
pub(super) fn parse(bytes: &[u8]) -> Result<(usize, Metadata), String> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or("it ends in the first 8 bytes")?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        let (most, found) = (MAX_HEADER_BYTES >> 20, bytes.len());
        return Err(format!(
            "its header of {length} bytes is longer than {most} MiB or than the file of {found} bytes"
        ));
    }
    let (header, data) = rest.split_at(length as usize);
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| format!("its header: {e}"))?;
    if metadata.data_len() != data.len() {
        let (expected, found) = (metadata.data_len(), data.len());
        return Err(format!("its header describes {expected} bytes of data, the file has {found}"));
    }
    Ok((LENGTH_BYTES + header.len(), metadata))
}

//! The files of `torch.save` since PyTorch 1.6: a zip of a pickle and of one file per storage.
//!
//! Owns: finding these in the mapped file, comparing their checksums. Never: what is in the pickle.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::ops::Range;

use rayon::prelude::*;
use zip::{CompressionMethod, ZipArchive};

use super::{Saved, machine};

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Whether a file begins like a zip.
pub(super) fn is_zip(file: &[u8]) -> bool {
    file.starts_with(b"PK\x03\x04")
}

/// Opens a zip, whose checksums are all compared.
pub(super) fn open(file: &[u8]) -> Result<Saved<'_>, String> {
    let archive = ZipArchive::new(Cursor::new(file)).map_err(|e| format!("is no whole zip: {e}"))?;
    let entries = entries(file, archive)?;
    let mut pickles =
        entries.keys().filter(|name| name.as_str() == "data.pkl" || name.ends_with("/data.pkl"));
    let (Some(name), None) = (pickles.next(), pickles.next()) else {
        return Err("is a zip, but not one of torch.save: there is not one `data.pkl` in it".into());
    };
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    if entries.contains_key(&format!("{folder}constants.pkl")) {
        return Err("holds a TorchScript program, not weights alone".into());
    }
    if let Some(range) = entries.get(&format!("{folder}byteorder")) {
        let order = file[range.clone()].trim_ascii();
        if order != b"little" {
            return Err(format!(
                "was saved in another byte order: {:?}",
                String::from_utf8_lossy(&order[..order.len().min(20)])
            ));
        }
    }
    let pickle = machine::run(&file[entries[name].clone()])?;
    let mut storages = BTreeMap::new();
    for storage in pickle.storages() {
        let range = entries.get(&format!("{folder}data/{}", storage.key));
        let range = range.ok_or_else(|| format!("the storage {:?} is missing in the zip", storage.key))?;
        storages.insert(storage.key, range.clone());
    }
    Ok(Saved { pickle, storages })
}

/// Where the content of each entry lies.
fn entries(file: &[u8], mut archive: Archive<'_>) -> Result<BTreeMap<String, Range<usize>>, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("is a damaged zip: {e}");
    let mut entries = BTreeMap::new();
    let mut total = 0_u64;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|e| damaged(&e))?;
        let name = entry.name().map_err(|e| damaged(&e))?.into_owned();
        let bytes = entry.size();
        if entry.compression() != CompressionMethod::Stored || entry.compressed_size() != bytes {
            return Err(format!("its entry `{name}` is compressed, which torch.save never does"));
        }
        let start = entry.data_start().unwrap_or(u64::MAX);
        let end = start.checked_add(bytes).filter(|end| *end <= file.len() as u64);
        let Some(end) = end else { return Err(format!("its entry `{name}` is truncated")) };
        // Entries that share their bytes would make checksums endless.
        total = total.saturating_add(bytes);
        if total > file.len() as u64 {
            return Err("its entries overlap".into());
        }
        if entries.insert(name.clone(), start as usize..end as usize).is_some() {
            return Err(format!("two of its entries are called `{name}`"));
        }
    }
    (0..archive.len()).into_par_iter().try_for_each(|index| compare_checksum(archive.clone(), index))?;
    Ok(entries)
}

fn compare_checksum(mut archive: Archive<'_>, index: usize) -> Result<(), String> {
    let mut entry = archive.by_index(index).map_err(|e| format!("is a damaged zip: {e}"))?;
    io::copy(&mut entry, &mut io::sink()).map_err(|e| {
        let name = entry.name().map_or_else(|_| String::new(), Cow::into_owned);
        format!("its entry `{name}` is not what was written ({e})")
    })?;
    Ok(())
}

//! Every parser of ours and every guard around one that is not: from bytes to an answer or an error.
//!
//! Owns: the list, and what an answer is used for afterwards. Never: judges an error; that there is an end is all.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use headstart::checkpoint::{
    Checkpoint, FileSum, ModelPath, RunFolder, load_model, load_model_and_tokenizer,
};
use headstart::data::cache::CacheUse;
use headstart::data::catalog;
use headstart::data::classification::raw::RawData;
use headstart::data::classification::{ClassificationOptions, LabelKind};
use headstart::data::corpus::TokenStream;
use headstart::data::download::unpack::{Format, unpack};
use headstart::data::encoding::{TextEncoding, read_text};
use headstart::data::rows::{RowFormat, Rows, TextFields};
use headstart::data::running_text::Reading;
use headstart::data::source;
use headstart::data::template::Template;
use headstart::event::Signal;
use headstart::hub;
use headstart::interop::{read_config, read_sentence_settings};
use headstart::run_log::{self, RunLog, tensorboard};
use headstart::tensors::{Dtype, TensorFile, Tensors, plain_values};
use headstart::tokenizer::{Case, Tokenizer};
use serde_json::{Map, Value, json};

use crate::seeds;

/// Where a target works, and what it may use.
pub struct Work {
    /// The two runs and what they were made from.
    pub place: PathBuf,
    /// The target's own folder.
    pub own: PathBuf,
}

/// A parser or guard.
pub struct Target {
    pub name: &'static str,
    /// Whole files, to be damaged.
    pub seeds: fn(&Work) -> Vec<Vec<u8>>,
    /// Puts sums right after damage, so that what they guard is reached; used for every other input.
    pub mend: fn(Vec<u8>) -> Vec<u8>,
    /// Puts up what the target needs besides the input.
    pub prepare: fn(&Work),
    /// Whether it was accepted, which few damaged inputs are.
    pub run: fn(&Work, &[u8]) -> bool,
}

/// What most targets are like.
const PLAIN: Target =
    Target { name: "", seeds: |_| Vec::new(), mend: |bytes| bytes, prepare: |_| (), run: |_, _| false };

/// All of them.
pub const TARGETS: [Target; 42] = [
    Target { name: "safetensors", seeds: |_| seeds::safetensors(), run: safetensors, ..PLAIN },
    Target {
        name: "safetensors-header",
        seeds: |_| seeds::safetensors_headers().map(|(header, _)| header.into_bytes()).to_vec(),
        run: |work, bytes| safetensors(work, &seeds::tensor_file(bytes, 56)),
        ..PLAIN
    },
    Target {
        name: "weights-index",
        seeds: weights_index_seeds,
        prepare: weights_index_place,
        run: weights_index,
        ..PLAIN
    },
    Target {
        name: "torch-zip",
        seeds: |_| {
            seeds::torch(&[
                "state_zip.bin",
                "state_zip_4.bin",
                "wrapped_zip.bin",
                "settings_zip.bin",
                "float8_zip.bin",
            ])
        },
        run: torch,
        ..PLAIN
    },
    Target {
        name: "torch-legacy",
        seeds: |_| {
            seeds::torch(&[
                "state_legacy.bin",
                "state_legacy_4.bin",
                "wrapped_legacy.bin",
                "settings_legacy.bin",
                "hostile_legacy.bin",
            ])
        },
        run: torch,
        ..PLAIN
    },
    Target {
        name: "model-config",
        seeds: |work| seeds::read(&work.place, &["lm/final/config.json", "clf/final/config.json"]),
        mend: seal_config,
        prepare: |work| copy_folder(&work.place.join("clf/final"), &work.own.join("model")),
        run: model_config,
    },
    Target {
        name: "own-config",
        seeds: |work| seeds::read(&work.place, &["bert/final/headstart.json"]),
        mend: seal_config,
        prepare: |work| copy_folder(&work.place.join("bert/final"), &work.own.join("model")),
        run: own_config,
    },
    Target {
        name: "published-config",
        seeds: |_| seeds::published_configs(),
        run: published_config,
        ..PLAIN
    },
    Target {
        name: "published-model",
        seeds: |_| seeds::published_configs().drain(..1).collect(),
        prepare: |work| seeds::published_model(&work.own.join("model")),
        run: model_config,
        ..PLAIN
    },
    Target {
        name: "peft-config",
        seeds: |_| seeds::peft_configs(),
        prepare: |work| {
            seeds::published_model(&work.own.join("model"));
            copy_folder(&seeds::peft_folder("bert_lora"), &work.own.join("adapter"));
        },
        run: peft_config,
        ..PLAIN
    },
    Target {
        name: "adapter",
        seeds: |work| seeds::read(&work.place, &["scaled/final/adapter/adapter.json"]),
        mend: seal_config,
        prepare: |work| copy_folder(&work.place.join("scaled/final/adapter"), &work.own.join("adapter")),
        run: adapter,
    },
    Target {
        name: "published-tokenizer",
        seeds: |_| seeds::tokenizer_settings(),
        prepare: |work| seeds::published_model(&work.own.join("model")),
        run: published_tokenizer,
        ..PLAIN
    },
    Target {
        name: "sentence-settings",
        seeds: |_| seeds::sentence_settings(),
        run: sentence_settings,
        ..PLAIN
    },
    Target {
        name: "hub-record",
        seeds: |work| {
            seeds::read(&work.own, &["records/models--a--b/0123456789012345678901234567890123456789.json"])
        },
        prepare: hub_place,
        run: hub_record,
        ..PLAIN
    },
    Target {
        name: "trainer-state",
        seeds: |work| seeds::read(&work.place, &["lm/checkpoints/step-00000004/trainer_state.json"]),
        mend: |bytes| seal(bytes, "content"),
        prepare: |work| copy_folder(&work.place.join("lm/checkpoints/step-00000004"), &work.own.join("step")),
        run: trainer_state,
    },
    Target {
        name: "best",
        seeds: |work| seeds::read(&work.place, &["lm/checkpoints/best.json"]),
        mend: |bytes| seal(bytes, "best"),
        prepare: |work| copy_folder(&work.place.join("lm"), &work.own.join("lm")),
        run: best,
    },
    Target {
        name: "run-settings",
        seeds: |work| seeds::read(&work.place, &["lm/config.toml", "clf/config.toml"]),
        prepare: |work| copy_folder(&work.place.join("lm"), &work.own.join("lm")),
        mend: seal_settings,
        run: run_settings,
    },
    Target {
        name: "settings-file",
        seeds: |work| seeds::read(&work.place, &["lm/config.toml", "clf/config.toml"]),
        run: settings_file,
        ..PLAIN
    },
    Target {
        name: "metrics",
        seeds: |work| seeds::read(&work.place, &["lm/metrics.jsonl", "clf/metrics.jsonl"]),
        run: metrics,
        ..PLAIN
    },
    Target {
        name: "predictions",
        seeds: |work| seeds::read(&work.place, &["clf/predictions.jsonl"]),
        run: predictions,
        ..PLAIN
    },
    Target {
        name: "summary",
        seeds: |work| seeds::read(&work.place, &["clf/summary.json"]),
        prepare: |work| copy_folder(&work.place.join("clf"), &work.own.join("run")),
        run: summary,
        ..PLAIN
    },
    Target {
        name: "tensorboard",
        seeds: |work| seeds::named_like(&work.place.join("lm/tensorboard"), "tfevents"),
        mend: sum_events,
        run: events,
        ..PLAIN
    },
    Target {
        name: "tokenizer-json",
        seeds: |work| seeds::tokenizers(seeds::read(&work.place, &["tok.json"]).remove(0)),
        run: tokenizer_json,
        ..PLAIN
    },
    Target {
        name: "vocab-txt",
        seeds: |_| vec![b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n##e\r\ncat\n".to_vec()],
        run: vocab_txt,
        ..PLAIN
    },
    Target {
        name: "vocab-merges",
        seeds: |_| vec![b"{\"a\":0,\"b\":1,\"ab\":2,\"<|endoftext|>\":3}\0#version: 0.2\na b\n".to_vec()],
        run: vocab_merges,
        ..PLAIN
    },
    Target {
        name: "csv",
        seeds: |_| seeds::tables(','),
        run: |work, bytes| labelled(work, "data.csv", bytes),
        ..PLAIN
    },
    Target {
        name: "tsv",
        seeds: |_| seeds::tables('\t'),
        run: |work, bytes| labelled(work, "data.tsv", bytes),
        ..PLAIN
    },
    Target {
        name: "semicolons",
        seeds: |_| seeds::tables(';'),
        run: |work, bytes| labelled(work, "data.csv", bytes),
        ..PLAIN
    },
    Target {
        name: "jsonl",
        seeds: |_| seeds::json_lines(),
        run: |work, bytes| labelled(work, "data.jsonl", bytes),
        ..PLAIN
    },
    Target {
        name: "json-list",
        seeds: |_| seeds::json_lists(),
        run: |work, bytes| labelled(work, "data.json", bytes),
        ..PLAIN
    },
    Target {
        name: "parquet",
        seeds: |_| seeds::parquet(),
        run: |work, bytes| labelled(work, "data.parquet", bytes),
        ..PLAIN
    },
    Target {
        name: "labelled-lines",
        seeds: |_| seeds::labelled_lines(),
        run: |work, bytes| labelled(work, "data.txt", bytes),
        ..PLAIN
    },
    Target {
        name: "rows",
        seeds: |_| [seeds::tables(','), seeds::tables('\t'), seeds::json_lines(), seeds::texts()].concat(),
        run: rows,
        ..PLAIN
    },
    Target { name: "text", seeds: |_| seeds::texts(), run: text, ..PLAIN },
    Target { name: "template", seeds: |_| vec![(0..80).collect()], run: template, ..PLAIN },
    Target {
        name: "zip",
        seeds: |_| {
            vec![seeds::zip(&[("d/train.txt", b"the cat\n"), ("b.txt", b"")]), seeds::zip(&[("d/", b"")])]
        },
        run: |work, bytes| unpacked(work, "a.zip", bytes),
        ..PLAIN
    },
    Target {
        name: "tar",
        seeds: |_| vec![seeds::tar()],
        mend: seeds::tar_summed,
        run: |work, bytes| unpacked(work, "a.tar.gz", &seeds::gzip(bytes)),
        ..PLAIN
    },
    Target {
        name: "gzip",
        seeds: |_| vec![seeds::gzip(&seeds::tar()), seeds::gzip(b"")],
        run: |work, bytes| unpacked(work, "a.tgz", bytes),
        ..PLAIN
    },
    Target {
        name: "token-cache",
        seeds: |work| seeds::named_like(&token_cache(work), ".tokens"),
        mend: sum_cache,
        prepare: token_cache_place,
        run: cache,
    },
    Target {
        name: "download-record",
        seeds: |_| vec![record_of_a_download()],
        prepare: |work| {
            fs::create_dir_all(downloaded(work)).unwrap();
            write(&downloaded(work).join("a.txt"), b"the cat\n");
        },
        run: download_record,
        ..PLAIN
    },
    Target {
        name: "names",
        seeds: |_| {
            [
                "minilm-l6",
                "owner/name@main",
                "trec",
                "https://localhost:1/a/b.zip?x=%20#y",
                "./x",
                "starter",
                "a/b@c",
            ]
            .map(|name| name.as_bytes().to_vec())
            .to_vec()
        },
        run: names,
        ..PLAIN
    },
    Target {
        name: "encoding-label",
        seeds: |_| {
            ["utf-8", "latin1", "windows-1252", "utf-16le"].map(|name| name.as_bytes().to_vec()).to_vec()
        },
        run: |_, bytes| TextEncoding::from_label(&String::from_utf8_lossy(bytes)).is_ok(),
        ..PLAIN
    },
];

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn safetensors(work: &Work, bytes: &[u8]) -> bool {
    let path = work.own.join("a.safetensors");
    write(&path, bytes);
    if let Ok(file) = TensorFile::open(&path, None) {
        let mut values = [0.0; 64];
        for name in file.names() {
            let _ = (file.copy_to(name, &mut values), file.describe(name), file.fits(name, &[2]));
        }
    }
    let tensors = Tensors::open_file(&path);
    tensors.is_ok_and(|tensors| read_all(&tensors, bytes.len()))
}

/// Reads every tensor in every way. Where a file opens, none can be larger than the file.
fn read_all(tensors: &Tensors, file_bytes: usize) -> bool {
    for name in tensors.names() {
        let shape = tensors.shape(name).unwrap();
        if matches!(tensors.dtype(name), Some(Dtype::Other { .. })) {
            assert!(tensors.copy_to(name, &mut []).is_err());
            continue;
        }
        let zero = shape.contains(&0);
        let count = if zero { 0 } else { shape.iter().product() };
        assert!(count <= file_bytes, "{name}: {shape:?} of {file_bytes} bytes");
        let mut values = vec![0.0; count];
        if tensors.copy_to(name, &mut values).is_ok() {
            assert!(values.iter().all(|value| value.is_finite()));
            if let (Some(rows), false) = (shape.first(), zero) {
                let len = count / rows;
                let mut row = vec![0.0; len];
                tensors.copy_rows_to(name, rows - 1..*rows, &mut row).unwrap();
                assert_eq!(row, values[count - len..]);
            }
        }
        let _ = (tensors.in_place(name), tensors.describe(name), tensors.path_of(name));
    }
    true
}

fn weights_index_seeds(_: &Work) -> Vec<Vec<u8>> {
    let parts = json!({ "f": "a.safetensors", "h": "a.safetensors", "weight": "b.safetensors" });
    vec![json!({ "metadata": { "total_size": 64 }, "weight_map": parts }).to_string().into_bytes()]
}

fn weights_index_place(work: &Work) {
    for (name, bytes) in ["a.safetensors", "b.safetensors"].iter().zip(seeds::safetensors()) {
        write(&work.own.join(name), &bytes);
    }
}

fn weights_index(work: &Work, bytes: &[u8]) -> bool {
    write(&work.own.join("model.safetensors.index.json"), bytes);
    Tensors::open(&work.own).is_ok_and(|tensors| read_all(&tensors, 1000))
}

fn torch(work: &Work, bytes: &[u8]) -> bool {
    let path = work.own.join("a.bin");
    write(&path, bytes);
    let read = Tensors::open_file(&path).is_ok_and(|tensors| read_all(&tensors, bytes.len()));
    plain_values(&path).is_ok() || read
}

/// A JSON object whose sum is put right.
fn seal_config(bytes: Vec<u8>) -> Vec<u8> {
    let Ok(mut map) = serde_json::from_slice::<Map<String, Value>>(&bytes) else { return bytes };
    map.remove("sha256");
    let sum = FileSum::of(Value::Object(map.clone()).to_string().as_bytes()).sha256;
    map.insert("sha256".into(), sum.into());
    Value::Object(map).to_string().into_bytes()
}

/// A JSON object with the sum of one of its values.
fn seal(bytes: Vec<u8>, key: &str) -> Vec<u8> {
    let Ok(mut map) = serde_json::from_slice::<Map<String, Value>>(&bytes) else { return bytes };
    let Some(content) = map.get(key) else { return bytes };
    let sum = FileSum::of(content.to_string().as_bytes()).sha256;
    map.insert("sha256".into(), sum.into());
    Value::Object(map).to_string().into_bytes()
}

fn model_config(work: &Work, bytes: &[u8]) -> bool {
    let folder = work.own.join("model");
    write(&folder.join("config.json"), bytes);
    load_model_and_tokenizer(&folder).is_ok()
}

fn own_config(work: &Work, bytes: &[u8]) -> bool {
    let folder = work.own.join("model");
    write(&folder.join("headstart.json"), bytes);
    load_model_and_tokenizer(&folder).is_ok()
}

fn peft_config(work: &Work, bytes: &[u8]) -> bool {
    let folder = work.own.join("adapter");
    write(&folder.join("adapter_config.json"), bytes);
    load_model(ModelPath { path: &folder, base: Some(&work.own.join("model")) }).is_ok()
}

fn adapter(work: &Work, bytes: &[u8]) -> bool {
    let folder = work.own.join("adapter");
    write(&folder.join("adapter.json"), bytes);
    load_model(ModelPath { path: &folder, base: Some(&work.place.join("lm")) }).is_ok()
}

fn published_config(_: &Work, bytes: &[u8]) -> bool {
    read_config(Path::new("config.json"), bytes).is_ok()
}

/// tokenizer_config.json, of a bare vocabulary and of a tokenizer.json.
fn published_tokenizer(work: &Work, bytes: &[u8]) -> bool {
    let folder = work.own.join("model");
    write(&folder.join("tokenizer_config.json"), bytes);
    write(
        &folder.join("added_tokens.json"),
        if bytes.len().is_multiple_of(2) { b"{\"extra\": 97}" } else { b"{}" },
    );
    Tokenizer::published(&folder).is_ok_and(|tokenizer| use_tokenizer(&tokenizer))
}

/// Three files with zero bytes between them.
fn sentence_settings(work: &Work, bytes: &[u8]) -> bool {
    fs::create_dir_all(work.own.join("1_Pooling")).unwrap();
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    for name in ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"] {
        write(&work.own.join(name), parts.next().unwrap_or_default());
    }
    read_sentence_settings(&work.own).is_ok()
}

fn hub_options(work: &Work) -> hub::HubOptions {
    hub::HubOptions {
        endpoint: "http://localhost:9".into(),
        cache_dir: work.own.join("hub"),
        records_dir: work.own.join("records"),
        token: None,
        offline: true,
        mirror: None,
    }
}

/// A model in the cache as another program puts it there; its record is made by looking at it.
fn hub_place(work: &Work) {
    let repo = work.own.join("hub/models--a--b");
    let snapshot = repo.join("snapshots/0123456789012345678901234567890123456789");
    seeds::published_model(&snapshot);
    fs::create_dir_all(repo.join("refs")).unwrap();
    write(&repo.join("refs/main"), b"0123456789012345678901234567890123456789");
    hub::resolve("a/b", &hub_options(work), &mut |_| Signal::Continue).unwrap();
}

fn hub_record(work: &Work, bytes: &[u8]) -> bool {
    write(&work.own.join("records/models--a--b/0123456789012345678901234567890123456789.json"), bytes);
    hub::resolve("a/b", &hub_options(work), &mut |_| Signal::Continue).is_ok()
}

fn trainer_state(work: &Work, bytes: &[u8]) -> bool {
    let folder = work.own.join("step");
    write(&folder.join("trainer_state.json"), bytes);
    Checkpoint::open(&folder).and_then(|checkpoint| checkpoint.model()).is_ok()
}

fn best(work: &Work, bytes: &[u8]) -> bool {
    write(&work.own.join("lm/checkpoints/best.json"), bytes);
    let Ok(run) = RunFolder::open(&work.own.join("lm")) else { return false };
    run.best().is_ok() && run.latest().is_ok()
}

/// The sum in the last line is of those above it.
fn seal_settings(bytes: Vec<u8>) -> Vec<u8> {
    const SEAL: &str = "# sha256 of the lines above: ";
    let Ok(text) = String::from_utf8(bytes.clone()) else { return bytes };
    let settings = text.rsplit_once(SEAL).map_or(&*text, |(settings, _)| settings);
    format!("{settings}{SEAL}{}\n", FileSum::of(settings.as_bytes()).sha256).into_bytes()
}

fn run_settings(work: &Work, bytes: &[u8]) -> bool {
    let run = work.own.join("lm");
    write(&run.join("config.toml"), bytes);
    RunFolder::settings(&run).is_ok() && RunFolder::is_run(&run)
}

/// The only one that needs the program itself, whose settings these are.
fn settings_file(work: &Work, bytes: &[u8]) -> bool {
    write(&work.own.join("run.toml"), bytes);
    let pretrain = bytes.starts_with(b"objective");
    let (command, also) = if pretrain { ("pretrain", "--tokenizer") } else { ("finetune", "--model") };
    let flags =
        ["--config", "run.toml", "--data", "./nowhere", also, "./nowhere", "--offline", "--out", "out"];
    let mut program = Command::new(env!("CARGO_BIN_EXE_headstart"));
    program.arg(command).args(flags).current_dir(&work.own).env("HEADSTART_CACHE", work.own.join("cache"));
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}: {said}", output.status);
    assert!(!said.contains("panicked") && said.contains("fix: "), "{said}");
    said.contains("nowhere")
}

fn metrics(work: &Work, bytes: &[u8]) -> bool {
    write(&work.own.join("metrics.jsonl"), bytes);
    let read = run_log::read_metrics(&work.own).is_ok();
    let log = RunLog::open(&work.own, bytes.len() as u64 % 5, None, 0.0);
    log.is_ok_and(|mut log| log.flush().is_ok()) && read
}

fn predictions(work: &Work, bytes: &[u8]) -> bool {
    let path = work.own.join("predictions.jsonl");
    write(&path, bytes);
    headstart::predictions::read(&path).is_ok()
}

fn summary(work: &Work, bytes: &[u8]) -> bool {
    let run = work.own.join("run");
    write(&run.join("summary.json"), bytes);
    headstart::history::show(&run).is_ok_and(|shown| shown.summary.is_some())
        && headstart::history::compare(&run, &run).is_ok()
}

fn events(work: &Work, bytes: &[u8]) -> bool {
    let folder = work.own.join("tensorboard");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("events.out.tfevents.0000000001.headstart.0");
    write(&path, bytes);
    let read = tensorboard::read_scalars(&path).is_ok();
    RunLog::open(&work.own, bytes.len() as u64 % 5, None, 0.0).is_ok() && read
}

/// Frames of a length, its sum, a message and its sum.
fn sum_events(mut bytes: Vec<u8>) -> Vec<u8> {
    let masked = |part: &[u8]| crc32c(part).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let mut at = 0;
    while let Some(length) =
        bytes.get(at..at + 8).map(|length| u64::from_le_bytes(length.try_into().unwrap()))
    {
        let sum = masked(&bytes[at..at + 8]);
        let (Some(end), true) = ((at as u64 + 12).checked_add(length), at + 12 <= bytes.len()) else { break };
        bytes[at + 8..at + 12].copy_from_slice(&sum);
        if end + 4 > bytes.len() as u64 {
            break;
        }
        let end = end as usize;
        let sum = masked(&bytes[at + 12..end]);
        bytes[end..end + 4].copy_from_slice(&sum);
        at = end + 4;
    }
    bytes
}

fn crc32c(part: &[u8]) -> u32 {
    u32::from_str_radix(&FileSum::of(part).crc32c.unwrap(), 16).unwrap()
}

const SAMPLE: &str = "The cat sat, caf\u{e9} abc \u{4e2d}\u{1f600} 12.\n\u{0}  the\t";

fn tokenizer_json(_: &Work, bytes: &[u8]) -> bool {
    let tokenizer = Tokenizer::from_json_bytes(bytes, Path::new("tokenizer.json"));
    tokenizer.is_ok_and(|tokenizer| use_tokenizer(&tokenizer))
}

fn use_tokenizer(tokenizer: &Tokenizer) -> bool {
    if let Ok(ids) = tokenizer.encode(SAMPLE) {
        assert!(tokenizer.knows(&ids), "{ids:?} of {}", tokenizer.vocab_size());
        let _ = tokenizer.decode(&ids);
    }
    let all: Vec<u32> = (0..tokenizer.vocab_size().min(300) as u32).collect();
    let _ = tokenizer.decode(&all);
    tokenizer.encode_corpus_line("the cat", &mut Vec::new()).is_ok()
}

fn vocab_txt(_: &Work, bytes: &[u8]) -> bool {
    let case = if bytes.len().is_multiple_of(2) { Case::Lower } else { Case::Keep };
    let tokenizer = Tokenizer::from_vocab_bytes(bytes, case, Path::new("vocab.txt"));
    tokenizer.is_ok_and(|tokenizer| use_tokenizer(&tokenizer))
}

/// The two files with a zero byte between them.
fn vocab_merges(work: &Work, bytes: &[u8]) -> bool {
    let cut = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    write(&work.own.join("vocab.json"), &bytes[..cut]);
    write(&work.own.join("merges.txt"), bytes.get(cut + 1..).unwrap_or_default());
    let tokenizer = Tokenizer::from_file(&work.own.join("vocab.json"), Case::Keep);
    tokenizer.is_ok_and(|tokenizer| use_tokenizer(&tokenizer))
}

fn labelled(work: &Work, name: &str, bytes: &[u8]) -> bool {
    let path = work.own.join(name);
    write(&path, bytes);
    let kinds = [LabelKind::Single, LabelKind::Multi, LabelKind::Regression];
    let read = kinds.map(|label_kind| {
        let options = ClassificationOptions { label_kind, ..ClassificationOptions::default() };
        RawData::read(&path, &options, 2, &mut |_| Signal::Continue).is_ok()
    });
    read.contains(&true)
}

fn rows(_: &Work, bytes: &[u8]) -> bool {
    let formats = [RowFormat::Text, RowFormat::Csv, RowFormat::Tsv, RowFormat::Jsonl];
    let encodings = [TextEncoding::Utf8, TextEncoding::Latin1, TextEncoding::from_label("utf-16le").unwrap()];
    let mut read = 0;
    for format in formats {
        let encoding = encodings[bytes.len() % encodings.len()];
        let source = Box::new(Cursor::new(bytes.to_vec()));
        let mut rows = Rows::new(source, Path::new("rows"), format, encoding, TextFields::default());
        while let Ok(some) = rows.next_rows(7) {
            if some.is_empty() {
                break;
            }
            read += some.iter().filter(|row| row.content.is_ok()).count();
        }
    }
    read > 0
}

fn text(work: &Work, bytes: &[u8]) -> bool {
    let path = work.own.join("a.txt");
    write(&path, bytes);
    let labels = ["utf-8", "latin1", "windows-1252", "utf-16le", "utf-16be", "gbk", "iso-2022-jp"];
    labels.map(|label| read_text(&path, TextEncoding::from_label(label).unwrap()).is_ok()).contains(&true)
}

/// Numbers for sizes and lengths out of the bytes; what comes out must be an input.
fn template(_: &Work, bytes: &[u8]) -> bool {
    let number = |at: usize| usize::from(*bytes.get(at).unwrap_or(&0));
    let ids = |from: usize| (0..number(from)).map(|i| number(from + i) as u32).collect::<Vec<_>>();
    let roles = headstart::tokenizer::RoleIds { cls: 1, sep: 2, eos: 3, mask: 4, unk: 5, pad: None };
    let most = number(0);
    for template in [
        Template::naacl2019(roles, most),
        Template::bert(roles, most),
        Template::roberta(roles, most),
        Template::bare(roles, most),
    ] {
        if template.validate(2).is_err() {
            continue;
        }
        let (first, second) = (ids(1), ids(2));
        for encoded in [template.encode(&first, None), template.encode(&first, Some(&second))] {
            let length = encoded.input_ids.len();
            assert!(length > 0 && encoded.classified_row < length);
            assert_eq!(encoded.token_type_ids().count(), length);
        }
        let one = template.encode(&first, None);
        assert!(one.input_ids.len() <= most.max(1), "{} of {most}", one.input_ids.len());
    }
    true
}

/// Nothing may come to lie outside the folder.
fn unpacked(work: &Work, name: &str, bytes: &[u8]) -> bool {
    let archive = work.own.join(name);
    write(&archive, bytes);
    let outer = work.own.join("outer");
    let into = outer.join("into");
    fs::create_dir_all(&into).unwrap();
    let done = unpack(&archive, Format::of_name(name), &into, &mut |_| Signal::Continue);
    let names: Vec<_> = fs::read_dir(&outer).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["into"]);
    fs::remove_dir_all(&outer).unwrap();
    done.is_ok()
}

fn token_cache(work: &Work) -> PathBuf {
    work.own.join("tokens")
}

fn tokens_of(work: &Work) -> headstart::Result<TokenStream> {
    let tokenizer = Tokenizer::from_file(&work.place.join("tok.json"), Case::Keep)?;
    let path = work.own.join("small.txt");
    TokenStream::load(&[path], &Reading::default(), &tokenizer, &token_cache(work), &mut |_, _| {
        Signal::Continue
    })
}

fn token_cache_place(work: &Work) {
    write(&work.own.join("small.txt"), b"the old river\nthe small tower\n");
    tokens_of(work).unwrap();
}

/// Whatever lies in the cache, the ids are those of the text, or at least of the tokenizer.
fn cache(work: &Work, bytes: &[u8]) -> bool {
    let path = fs::read_dir(token_cache(work)).unwrap().next().unwrap().unwrap().path();
    write(&path, bytes);
    let stream = tokens_of(work).unwrap();
    assert!(stream.ids().iter().all(|id| *id < 1 << 20) && stream.cache_use() != CacheUse::Built);
    stream.cache_use() == CacheUse::Hit
}

/// The sum stands behind three numbers, and is of everything behind the header.
fn sum_cache(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= 64 {
        let sum = crc32c(&bytes[64..]);
        bytes[24..28].copy_from_slice(&sum.to_ne_bytes());
    }
    bytes
}

const ADDRESS: &str = "https://localhost:9/a.txt";

/// Where the file of an address lies.
fn downloaded(work: &Work) -> PathBuf {
    let sum = FileSum::of(ADDRESS.as_bytes()).sha256;
    work.own.join(format!("urls/{}-a.txt", &sum[..12]))
}

fn record_of_a_download() -> Vec<u8> {
    let sum = FileSum::of(b"the cat\n").sha256;
    let source = json!({ "file": "a.txt", "from": ADDRESS, "sha256": sum, "published": false });
    json!({ "sources": [source], "files": { "a.txt": sum } }).to_string().into_bytes()
}

fn download_record(work: &Work, bytes: &[u8]) -> bool {
    let mut path = downloaded(work).into_os_string();
    path.push(".provenance.json");
    write(Path::new(&path), bytes);
    resolve(work, ADDRESS).is_ok_and(|found| found.files.len() == 1)
}

fn resolve(work: &Work, name: &str) -> headstart::Result<catalog::Resolved> {
    let locations = catalog::Locations { cache_dir: work.own.clone(), offline: true, mirror: None };
    catalog::resolve(name, &locations, &mut |_| Signal::Continue)
}

fn names(work: &Work, bytes: &[u8]) -> bool {
    let name = String::from_utf8_lossy(bytes);
    let _ = (Format::of_name(&name), RowFormat::of_name(Path::new(&*name)), source::is_local(&name));
    let _ = hub::describe(&name, &hub_options(work));
    let found = resolve(work, &name);
    found.is_ok() || catalog::is_named(&name)
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

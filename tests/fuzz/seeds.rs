//! Whole files, as the program and PyTorch write them, to be damaged.
//!
//! Owns: how each kind is made. Never: damages them (`mutate`), reads them (`targets`).

use std::fs;
use std::path::{Path, PathBuf};

use headstart::tensors::{TensorFile, write_tensors};
use serde_json::json;

use crate::support::{Place, sentences, topics};

/// A few small runs, for what only a run has.
pub fn make(place: &Place) {
    place.books();
    place.topics();
    let steps = "--train_batch_size 4 --max_steps 4 --eval_every 2 --save_every 2 --n_warmup 1 --n_epochs 1";
    place
        .run(&format!("pretrain --data books --tokenizer tok.json --preset micro {steps} --out lm"))
        .succeeds();
    let arch = "--arch bert --out bert";
    place
        .run(&format!("pretrain --data books --tokenizer tok.json --preset micro {steps} {arch}"))
        .succeeds();
    place.run(&format!("finetune --model lm --data topics {steps} --out clf")).succeeds();
    place.run(&format!("finetune --model lm --data topics {steps} --method ia3 --out scaled")).succeeds();
}

/// The files that PyTorch wrote.
pub fn torch(names: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/headstart/src/tensors/pickle/cases");
    names.iter().map(|name| fs::read(folder.join(name)).unwrap()).collect()
}

const PUBLISHED: &str = "tests/golden/hf";

/// Each family's config.json, as `transformers` writes it.
pub fn published_configs() -> Vec<Vec<u8>> {
    named_like(&Path::new(env!("CARGO_MANIFEST_DIR")).join(PUBLISHED), ".json")
}

/// A list of objects in one line, and as people lay it out.
pub fn json_lists() -> Vec<Vec<u8>> {
    let rows = json!([{"text": "a \"film\"", "label": 1}, {"label": 0, "text": "so ]}, so"}, {"text": "h\u{e9}", "label": 1}]);
    vec![rows.to_string().into_bytes(), format!("{rows:#}\n").into_bytes()]
}

/// The files that other libraries wrote.
pub fn parquet() -> Vec<Vec<u8>> {
    named_like(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet"), ".parquet")
}

/// A folder that PEFT saved.
pub fn peft_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft/folders").join(name)
}

/// What PEFT says of adapters of two kinds.
pub fn peft_configs() -> Vec<Vec<u8>> {
    let config = |name| fs::read(peft_folder(name).join("adapter_config.json")).unwrap();
    ["bert_lora", "bert_ia3"].map(config).into()
}

/// A small BERT with a classifier, in the folder of another program.
pub fn published_model(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(PUBLISHED);
    fs::copy(golden.join("bert_clf.json"), folder.join("config.json")).unwrap();
    let golden = TensorFile::open(&golden.join("bert_clf.safetensors"), None).unwrap();
    let weights = golden.names().filter(|name| name.starts_with("bert.") || name.starts_with("classifier."));
    let weights: Vec<_> = weights
        .map(|name| {
            let shape = golden.shape(name).unwrap();
            let mut values = vec![0.0; shape.iter().product()];
            golden.copy_to(name, &mut values).unwrap();
            (name.to_owned(), shape, values)
        })
        .collect();
    let borrowed: Vec<_> =
        weights.iter().map(|(name, shape, values)| (name.clone(), *shape, &values[..])).collect();
    write_tensors(&folder.join("model.safetensors"), &borrowed).unwrap();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##e", "cat", "c", "##a", "##t"]
        .map(String::from);
    let pieces: Vec<String> = special.into_iter().chain((11..97).map(|id| format!("piece{id}"))).collect();
    fs::write(folder.join("vocab.txt"), pieces.join("\n")).unwrap();
}

/// What tokenizer_config.json says.
pub fn tokenizer_settings() -> Vec<Vec<u8>> {
    let bert = json!({
        "do_lower_case": true, "unk_token": "[UNK]", "sep_token": { "content": "[SEP]", "lstrip": false }, "cls_token": "[CLS]",
        "pad_token": "[PAD]", "mask_token": "[MASK]", "strip_accents": null, "tokenize_chinese_chars": true,
        "model_max_length": 1e30, "tokenizer_class": "BertTokenizer",
        "added_tokens_decoder": { "97": { "content": "[NEW]", "special": true, "normalized": false } },
    });
    vec![bert.to_string().into_bytes(), b"{}".to_vec()]
}

/// The three files of sentence-transformers, with a zero byte between them.
pub fn sentence_settings() -> Vec<Vec<u8>> {
    let module = |idx: u32, path: &str, kind: &str| json!({ "idx": idx, "name": idx.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let modules = json!([
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Normalize", "Normalize")
    ]);
    let pooling = json!({ "word_embedding_dimension": 384, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true });
    let bert = json!({ "max_seq_length": 256, "do_lower_case": false });
    vec![format!("{modules}\0{pooling}\0{bert}").into_bytes()]
}

/// Files of a place.
pub fn read(folder: &Path, names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))).collect()
}

/// Every file below a folder whose name contains `part`.
pub fn named_like(folder: &Path, part: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().contains(part)).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Headers of safetensors files, and how many bytes of data they describe.
pub fn safetensors_headers() -> [(String, usize); 2] {
    let header = json!({
        "__metadata__": { "format": "pt" },
        "f": { "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24] },
        "h": { "dtype": "F16", "shape": [4], "data_offsets": [24, 32] },
        "b": { "dtype": "BF16", "shape": [2, 2], "data_offsets": [32, 40] },
        "d": { "dtype": "F64", "shape": [], "data_offsets": [40, 48] },
        "i": { "dtype": "I64", "shape": [1, 1], "data_offsets": [48, 56] },
        "e": { "dtype": "F32", "shape": [0, 7], "data_offsets": [56, 56] },
    });
    let one = json!({ "weight": { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] } });
    [(header.to_string(), 56), (one.to_string(), 8)]
}

pub fn safetensors() -> Vec<Vec<u8>> {
    safetensors_headers().map(|(header, data)| tensor_file(header.as_bytes(), data)).to_vec()
}

pub fn tensor_file(header: &[u8], data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Tokenizers of every kind in `tokenizer.json`.
pub fn tokenizers(trained: Vec<u8>) -> Vec<Vec<u8>> {
    let added = json!([{
        "id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    }]);
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = |normalizer, pre_tokenizer, decoder, model| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
        })
    };
    let bpe = json!({
        "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": { "<unk>": 0, "a": 1, "b": 2, "ab": 3, "c": 4, "abc": 5, "\u{120}": 6 }, "merges": [["a", "b"], ["ab", "c"]],
    });
    let unigram = json!({
        "type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["\u{2581}", -2.0], ["the", -3.5], ["t", -5.0], ["h", -5.0], ["e", -5.5]],
    });
    let words =
        json!({ "type": "WordLevel", "unk_token": "<unk>", "vocab": { "<unk>": 0, "the": 1, "cat": 2 } });
    let pieces = json!({
        "type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": { "<unk>": 0, "the": 1, "##e": 2, "c": 3, "##a": 4, "##t": 5, "[CLS]": 6, "[SEP]": 7 },
    });
    let normalizer = json!({ "type": "Sequence", "normalizers": [
        { "type": "NFC" }, { "type": "Lowercase" }, { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " },
        { "type": "Precompiled", "precompiled_charsmap": "" }, { "type": "Strip", "strip_left": true, "strip_right": true },
    ] });
    let split = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "\\s+|[a-z]+" }, "behavior": "Isolated", "invert": false },
        { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true },
        { "type": "Digits", "individual_digits": true }, { "type": "Punctuation", "behavior": "Isolated" },
    ] });
    let decoder = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ] });
    let bert = json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
    });
    let all = [
        tokenizer(json!(null), byte_level.clone(), byte_level, bpe),
        tokenizer(normalizer, split, decoder, unigram),
        tokenizer(json!({ "type": "Lowercase" }), json!({ "type": "Whitespace" }), json!(null), words),
        tokenizer(
            bert,
            json!({ "type": "BertPreTokenizer" }),
            json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
            pieces,
        ),
    ];
    all.into_iter().map(|value| value.to_string().into_bytes()).chain([trained]).collect()
}

/// Tables and the like, each format with its quirks.
pub fn tables(delimiter: char) -> Vec<Vec<u8>> {
    let plain = topics(7, 12).replace(',', &delimiter.to_string());
    let quoted =
        "id,sentence,label\n1,\"a \"\"quoted\"\", text\nof two lines\",water\n2,\"\",land\n3,plain,water\n";
    let glue = "sentence\tlabel\nhide new secretions\t0\ncontains no wit\t1\n";
    [plain, quoted.replace(',', &delimiter.to_string()), glue.replace('\t', &delimiter.to_string())]
        .map(String::into_bytes)
        .to_vec()
}

pub fn json_lines() -> Vec<Vec<u8>> {
    [
        "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": \"y\"}\n",
        "{\"text\": \"a\", \"labels\": [\"x\", \"y\"]}\n{\"text\": \"b\", \"labels\": []}\n",
        "{\"text\": \"a\", \"cats\": {\"x\": 1, \"y\": 0}}\n{\"text\": \"b\", \"cats\": {\"x\": 0, \"y\": 1.0}}\n",
        "{\"review\": \"a\", \"stars\": 4.5}\n\n{\"review\": \"b\", \"stars\": -1e3}\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn labelled_lines() -> Vec<Vec<u8>> {
    [
        "__label__water the old river\n__label__land __label__water the green tower\n__label__land a garden\n",
        "NUM:count How many ?\nLOC:city Where is it ?\nHUM:ind Who ?\n",
        "the old river\nthe tower\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Texts in many encodings, compressed and not, and what only looks like text.
pub fn texts() -> Vec<Vec<u8>> {
    let text = sentences(9, 5) + "caf\u{e9} \u{201c}\u{fb01}\u{4e2d}\u{1f600}\n";
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut marked = b"\xFF\xFE".to_vec();
    marked.extend(&wide);
    let zstd = b"\x28\xB5\x2F\xFD\x04\x00\x31\x00\x00the ol\x7a\x12\x34\x56".to_vec();
    vec![
        text.clone().into_bytes(),
        b"caf\xE9 \x93quoted\x94 text\n".to_vec(),
        wide,
        marked,
        gzip(text.as_bytes()),
        zstd,
        b"\xEF\xBB\xBFthe cat\r\nsat\r".to_vec(),
        tar(),
    ]
}

/// A tar of two files in a folder, and a comment of its archiver's.
pub fn tar() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, content) in [
        ("d/", b'5', &b""[..]),
        ("d/train.txt", b'0', b"the cat\n"),
        ("pax", b'g', b"18 comment=a text\n"),
        ("b.txt", b'0', b"b"),
    ] {
        let mut head = [0_u8; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..107].copy_from_slice(b"0000644");
        head[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        head[136..147].copy_from_slice(b"00000000000");
        head[156] = kind;
        head[257..263].copy_from_slice(b"ustar\0");
        head[263..265].copy_from_slice(b"00");
        bytes.extend(head);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    tar_summed(bytes)
}

/// The same with the sums of its heads put right, so that what stands in them counts.
pub fn tar_summed(mut bytes: Vec<u8>) -> Vec<u8> {
    for head in bytes.as_chunks_mut::<512>().0 {
        if head[257..262] == *b"ustar" {
            head[148..156].fill(b' ');
            let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
            head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// A gzip of stored blocks.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blocks: Vec<&[u8]> = if content.is_empty() { vec![&[]] } else { content.chunks(0xffff).collect() };
    for (number, block) in blocks.iter().enumerate() {
        bytes.push(u8::from(number + 1 == blocks.len()));
        let length = block.len() as u16;
        bytes.extend(length.to_le_bytes());
        bytes.extend((!length).to_le_bytes());
        bytes.extend(*block);
    }
    bytes.extend(crc32(content).to_le_bytes());
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes
}

/// A zip of stored files.
pub fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let mut about = Vec::new();
        about.extend([0; 8]); // flags, stored, no date
        about.extend(crc32(content).to_le_bytes());
        about.extend([(content.len() as u32).to_le_bytes(); 2].concat());
        about.extend((name.len() as u16).to_le_bytes());
        about.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend(&about);
        directory.extend([0; 10]);
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend(b"PK\x03\x04\x14\x00");
        bytes.extend(&about);
        bytes.extend(name.as_bytes());
        bytes.extend(*content);
    }
    let (count, start, length) = (files.len() as u16, bytes.len() as u32, directory.len() as u32);
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count.to_le_bytes(); 2].concat());
    bytes.extend(length.to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn crc32(content: &[u8]) -> u32 {
    !content.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

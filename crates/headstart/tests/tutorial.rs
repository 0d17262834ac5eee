//! The files of the tutorial's own program: a model is opened from them and computes what PyTorch does.
//!
//! Owns: that comparison. Never: the reader of pickles, which has tests of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use headstart::checkpoint::{load_model, load_model_and_tokenizer};
use headstart::config::{Arch, ModelConfig, ObjectiveName};
use headstart::model::{Inputs, Model};
use headstart::tensors::Tensors;
use headstart_engine::{CodePath, Device, Packing, Precision, Tape};

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tutorial")
}

/// A copy of the files without the one of this name.
fn without(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in
        ["model_checkpoint.pth", "model_training_args.bin", "vocab.txt"].iter().filter(|f| **f != name)
    {
        fs::copy(files().join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn the_tutorials_model_computes_what_pytorch_does() {
    let (loaded, tokenizer) = load_model_and_tokenizer(&files()).unwrap();
    let ModelConfig { arch, vocab_size, embed_dim, hidden_dim, num_heads, num_layers, causal, .. } =
        loaded.files.config;
    assert_eq!((arch, vocab_size, embed_dim, hidden_dim), (Arch::Naacl2019, 29, 15, 22));
    assert_eq!((num_heads, num_layers, causal, loaded.files.config.num_max_positions), (3, 2, true, 13));
    assert_eq!((loaded.files.objective, tokenizer.roles().cls), (Some(ObjectiveName::Lm), 2));
    let expected = Tensors::open_file(&files().join("expected.safetensors")).unwrap();
    let mut logits = vec![0.0; expected.shape("logits").unwrap().iter().product()];
    expected.copy_to("logits", &mut logits).unwrap();
    // As in the script that wrote them.
    let ids = [5, 6, 7, 8, 5, 10, 25, 3, 9, 14, 1, 28];
    let model = Model::new(&loaded.files.config).unwrap();
    let weights = loaded.mapped_weights(model.table()).unwrap();
    let device = Device::cpu(NonZeroUsize::new(1), CodePath::Auto).unwrap();
    let packing = Packing::new(&[ids.len()], &[0]);
    let mut tape = Tape::inference(&device, &weights, &packing, Precision::F32);
    let hidden = model.trunk(&mut tape, Inputs::new(&ids), None);
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    let found = model.lm_logits(&mut tape, &hidden, &rows).to_f32_vec();
    let largest = logits.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let apart = found.iter().zip(&logits).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    assert_eq!(found.len(), logits.len());
    assert!(apart <= 2e-6 * largest, "{apart} of {largest}");
    let report = loaded.weights_for(model.table(), 1).unwrap().1;
    assert!(report.discarded.is_empty() && report.added.is_empty(), "{report:?}");
}

#[test]
fn what_is_missing_or_is_another_models_is_named() {
    let message = |folder: &Path| load_model(folder).unwrap_err().to_string();
    let folder = without("model_training_args.bin");
    assert!(message(folder.path()).contains("no model_training_args.bin"), "{}", message(folder.path()));
    let folder = without("vocab.txt");
    let said = message(folder.path());
    assert!(said.contains("no tokenizer") && said.contains("bert-base-cased"), "{said}");
    // A vocabulary of fewer pieces than the model has rows.
    fs::write(folder.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n").unwrap();
    let said = load_model_and_tokenizer(folder.path()).unwrap_err().to_string();
    assert!(said.contains("6 pieces") && said.contains("29"), "{said}");
    // Weights alone, and half of them.
    let folder = without("model_checkpoint.pth");
    assert!(message(folder.path()).contains("no config.json"), "{}", message(folder.path()));
    let whole = fs::read(files().join("model_checkpoint.pth")).unwrap();
    fs::write(folder.path().join("model_checkpoint.pth"), &whole[..whole.len() / 2]).unwrap();
    assert!(message(folder.path()).contains("model_checkpoint.pth"), "{}", message(folder.path()));
    // Arguments of another model: one number of the pickle is changed.
    let folder = without("");
    let path = folder.path().join("model_training_args.bin");
    let mut arguments = fs::read(&path).unwrap();
    let at = arguments.windows(10).position(|bytes| bytes == b"num_layers").unwrap();
    let number = arguments[at..].iter().position(|&byte| byte == b'K').unwrap();
    assert_eq!(arguments[at + number + 1], 2);
    arguments[at + number + 1] = 3;
    fs::write(&path, &arguments).unwrap();
    let said = message(folder.path());
    assert!(said.contains("transformer.layers.2") && said.contains("attentions.2.in_proj_weight"), "{said}");
}

//! Model folders: config.json, and weights that go into another model.

use std::fs;

use serde_json::Value;

use super::*;
use crate::checkpoint::{GrownRows, LoadedModel, StoredWeights, TensorFile, load_model};
use crate::config::{Activation, InitScheme, LayoutChanges, NormPlace, Positions};

/// A stored model of some configuration.
fn stored(config: &ModelConfig) -> (Setup, LoadedModel) {
    let setup = Setup::of(config);
    let run = setup.create();
    let folder = run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    let model = load_model(&folder).unwrap();
    (setup, model)
}

/// The values of one parameter.
fn values<'a>(table: &ParamTable, weights: &'a [f32], name: &str) -> &'a [f32] {
    let param = table.params().iter().find(|param| param.name == name).unwrap();
    &weights[param.offset..param.offset + param.len()]
}

const TOKENS: &str = "transformer.token_embedding.weight";

#[test]
fn config_json_is_for_people_and_other_programs() {
    let (setup, model) = stored(&with_head(3));
    assert_eq!(model.files, setup.files);
    let text = fs::read_to_string(model.folder.join("config.json")).unwrap();
    assert!(text.contains("\"dropout\": 0.1,"), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["model_type"], "headstart");
    assert_eq!(json["embed_dim"], 4);
    assert_eq!(json["problem_type"], "single_label_classification");
    assert_eq!(json["objective"], "mlm");
    assert_eq!(json["id2label"]["0"], "class \"2\"");
    assert_eq!(json["label2id"]["class \"2\""], 0);
    assert_eq!(json["special_ids"]["mask"], 3);
    assert!(json["files"]["model.safetensors"]["sha256"].is_string());
    assert!(json["files"]["model.safetensors"]["crc32c"].is_string());
}

#[test]
fn folders_of_version_1_are_read_with_the_roles_names_of_then() {
    let (setup, model) = stored(&with_head(3));
    let path = model.folder.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["special_ids"], json!({"cls": 2, "sep": 1, "eos": 1, "mask": 3, "unk": 4, "pad": null}));
    json["format_version"] = json!(1);
    json["special_ids"] =
        json!({"end_of_line": 1, "classification": 2, "mask": 3, "unknown": 4, "pad": null});
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(load_model(&model.folder).unwrap().files, setup.files);
}

#[test]
fn weights_are_used_where_they_lie_or_copied_into_order() {
    let (setup, model) = stored(&config());
    assert_eq!(model.mapped_weights(setup.table()).unwrap().values(), setup.weights);
    let mut tensors: Vec<_> = setup
        .table()
        .params()
        .iter()
        .map(|p| (p.name.clone(), &p.shape[..], &setup.weights[p.offset..p.offset + p.len()]))
        .collect();
    tensors.reverse();
    let path = setup.temp.path().join("other.safetensors");
    super::super::weights::write_tensors(&path, &tensors).unwrap();
    let model = LoadedModel { stored: StoredWeights::Own(TensorFile::open(&path, None).unwrap()), ..model };
    assert_eq!(model.mapped_weights(setup.table()).unwrap().values(), setup.weights);
    let larger = Model::new(&with_head(2)).unwrap();
    assert_says(model.mapped_weights(larger.table()), &["classification_head.weight"]);
}

#[test]
fn every_option_comes_back() {
    let full = ModelConfig {
        attention_dropout: Some(0.3),
        adapters_dim: Some(2),
        offset_token: Some(6),
        positions: Positions::Sinusoidal,
        arch: crate::config::Arch::Gpt2,
        causal: false,
        initializer_range: 0.017,
        layout: LayoutChanges {
            norm: Some(NormPlace::After),
            norm_eps: Some(1e-6),
            final_norm: Some(false),
            activation: Some(Activation::Relu),
            bias: Some(false),
            position_offset: Some(2),
            rotary_theta: Some(500.0),
            local_rotary_theta: Some(100.0),
            window: Some(2),
            global_every: Some(3),
            init: Some(InitScheme::Normal),
            embedding_norm: Some(true),
            gated: Some(true),
            norm_bias: Some(false),
            token_types: Some(2),
            first_norm: Some(false),
            cls_first: Some(true),
            pooler: Some(Activation::Tanh),
            prediction_head: Some(true),
            head_dropout: Some(crate::config::HeadDropout::Around),
            head_bias: Some(false),
            lm_transform: Some(true),
            lm_bias: Some(true),
        },
        ..with_head(12)
    };
    let (setup, model) = stored(&full);
    assert_eq!(model.files, setup.files);
    assert_eq!(bits(&model.exact_weights(setup.table()).unwrap()), bits(&setup.weights));
}

#[test]
fn other_programs_read_the_weights() {
    let (setup, model) = stored(&config());
    let bytes = fs::read(model.folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), setup.table().params().len());
    let view = tensors.tensor(TOKENS).unwrap();
    assert_eq!((view.dtype(), view.shape()), (safetensors::Dtype::F32, &[7, 4][..]));
    let expected: Vec<u8> =
        values(setup.table(), &setup.weights, TOKENS).iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(view.data(), expected);
}

#[test]
fn a_trunk_goes_into_a_classifier_with_adapters() {
    let (setup, model) = stored(&config());
    let larger = ModelConfig { adapters_dim: Some(2), offset_token: Some(2), ..with_head(4) };
    let table = Model::new(&larger).unwrap().table().clone();
    let (weights, report) = model.weights_for(&table, 9).unwrap();
    assert!(report.discarded.is_empty() && report.grown.is_empty());
    let fresh = table.initial_values(9);
    for param in table.params() {
        let from = if report.added.contains(&param.name) {
            values(&table, &fresh, &param.name)
        } else {
            values(setup.table(), &setup.weights, &param.name)
        };
        assert_eq!(values(&table, &weights, &param.name), from, "{}", param.name);
    }
    assert_eq!(report.added.len(), table.params().len() - setup.table().params().len());
    assert!(report.added.contains(&"transformer.cls_offset.weight".to_owned()));
    let lines = report.lines();
    assert!(
        lines.len() == 1 && lines[0].contains("added to the pretrained model: transformer."),
        "{lines:?}"
    );
}

#[test]
fn another_head_is_discarded_and_the_same_one_kept() {
    let (setup, model) = stored(&with_head(3));
    let trunk = Model::new(&config()).unwrap();
    let (_, report) = model.weights_for(trunk.table(), 9).unwrap();
    let head = ["classification_head.bias", "classification_head.weight"];
    assert_eq!(report.discarded, head);
    assert!(report.added.is_empty());

    let other = Model::new(&with_head(5)).unwrap();
    let (weights, report) = model.weights_for(other.table(), 9).unwrap();
    assert_eq!(report.discarded, head);
    assert_eq!(report.added, ["classification_head.weight", "classification_head.bias"]);
    let fresh = other.table().initial_values(9);
    assert_eq!(values(other.table(), &weights, head[1]), values(other.table(), &fresh, head[1]));
    assert_eq!(report.lines().len(), 2);

    let (weights, report) = model.weights_for(setup.table(), 9).unwrap();
    assert_eq!(bits(&weights), bits(&setup.weights));
    assert!(report.lines().is_empty());
}

#[test]
fn the_vocabulary_may_grow_and_not_shrink() {
    let (setup, model) = stored(&config());
    let larger = Model::new(&ModelConfig { vocab_size: 9, ..config() }).unwrap();
    let (weights, report) = model.weights_for(larger.table(), 9).unwrap();
    assert_eq!(report.grown, [GrownRows { name: TOKENS.into(), stored: 7, rows: 9 }]);
    assert_eq!(report.lines(), [format!("{TOKENS}: 7 rows kept, 2 added")]);
    let found = values(larger.table(), &weights, TOKENS);
    let fresh = larger.table().initial_values(9);
    assert_eq!(found[..7 * 4], *values(setup.table(), &setup.weights, TOKENS));
    assert_eq!(found[7 * 4..], values(larger.table(), &fresh, TOKENS)[7 * 4..]);

    let smaller = Model::new(&ModelConfig { vocab_size: 6, ..config() }).unwrap();
    let parts = ["model.safetensors", TOKENS, "expected [6, 4], found [7, 4]", "tokenizer"];
    assert_says(model.weights_for(smaller.table(), 9), &parts);
    assert_says(model.exact_weights(larger.table()), &["expected [9, 4], found [7, 4]"]);
}

#[test]
fn other_sizes_are_an_error_that_lists_them() {
    let (_, model) = stored(&config());
    let other = ModelConfig { hidden_dim: 8, num_max_positions: 6, ..config() };
    let other = Model::new(&other).unwrap();
    let parts = ["position_embedding", "expected [6, 4], found [5, 4]", "[8, 4]", "[6, 4]"];
    assert_says(model.weights_for(other.table(), 9), &parts);
    let deeper = Model::new(&ModelConfig { num_layers: 2, ..config() }).unwrap();
    assert_says(model.exact_weights(deeper.table()), &["found nothing", "and ", " more"]);
    let headed = Model::new(&with_head(2)).unwrap();
    assert_says(model.exact_weights(headed.table()), &["`classification_head.weight`: expected [2, 4]"]);
}

#[test]
fn what_is_no_model_says_what_was_looked_for() {
    let setup = Setup::new();
    let temp = setup.temp.path();
    assert_says(load_model(temp), &["neither", "config.json", "final/", "checkpoints/step-*"]);
    assert_says(load_model(&temp.join("gone")), &["there is no", "gone"]);
    fs::write(temp.join("model.safetensors"), "").unwrap();
    assert_says(load_model(&temp.join("model.safetensors")), &["is a file", "folder it is in"]);
}

#[test]
fn a_model_that_could_not_be_loaded_is_not_saved() {
    let mut setup = Setup::new();
    let run = setup.create();
    setup.files.config.num_layers = 2;
    let result = run.write_final(&setup.files, setup.table(), &setup.weights, "");
    assert_says(result, &["config.json", "does not describe its parameters"]);
    setup.files = files(&with_head(3));
    setup.files.labels.pop();
    assert_says(
        run.write_final(&setup.files, setup.table(), &setup.weights, ""),
        &["2 labels for 3 classes"],
    );
    setup.files = files(&with_head(3));
    let bad =
        TrainerState { best: Some(BestCheckpoint { step: 1, value: f64::NAN, loss: None }), ..state(1, 1) };
    assert_says(setup.save_as(&run, &bad, 3), &["trainer_state.json", "not finite"]);
    assert!(names(&run.checkpoints()).is_empty());
    assert!(!names(run.dir()).iter().any(|name| name.contains("final")));
}

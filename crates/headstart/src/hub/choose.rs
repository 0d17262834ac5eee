//! Which files of a model are needed: configuration, weights in one format, tokenizer, a sentence encoder's modules.
//!
//! Owns: their names, and which weights are preferred. Never: where they are, or what is in them.

/// What weights are looked for, best first: one file, or an index with the parts that it names.
const WEIGHTS: [(&str, Option<(&str, &str)>); 4] = [
    ("model.safetensors", None),
    ("model.safetensors.index.json", Some(("model-", ".safetensors"))),
    ("pytorch_model.bin", None),
    ("pytorch_model.bin.index.json", Some(("pytorch_model-", ".bin"))),
];

/// What goes with them, where it is there. Of the ends of names `.onnx`, `.h5`, `.msgpack` and the like nothing is.
const BESIDE: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "chat_template.jinja",
];

/// The files of `names` (paths with `/`) that are needed, small ones before weights, so that weights that are there mean
/// that all is there. A folder of a sentence encoder's module (`1_Pooling`) counts like the model's own.
pub(super) fn needed<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut modules: Vec<&str> =
        names.iter().filter_map(|name| name.split_once('/')).map(|(folder, _)| folder).collect();
    modules.retain(|folder| is_module(folder));
    modules.sort_unstable();
    modules.dedup();
    let folders: Vec<String> =
        modules.iter().map(|folder| format!("{folder}/")).chain([String::new()]).collect();
    let inside = |folder: &str| -> Vec<(&'a str, &'a str)> {
        let named = |name: &&'a str| name.strip_prefix(folder).map(|inner| (inner, *name));
        names.iter().filter_map(named).collect()
    };
    let beside = folders.iter().flat_map(|folder| inside(folder)).filter(|(inner, _)| BESIDE.contains(inner));
    let weights = folders.iter().flat_map(|folder| weights(&inside(folder)));
    beside.map(|(_, name)| name).chain(weights).collect()
}

/// The best weights in a folder, whose files are given by their names in it and their whole names.
fn weights<'a>(files: &[(&'a str, &'a str)]) -> Vec<&'a str> {
    for (file, parts) in WEIGHTS {
        let Some((_, whole)) = files.iter().find(|(inner, _)| *inner == file) else { continue };
        let is_part = |inner: &str| {
            parts.is_some_and(|(start, end)| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
                inner.starts_with(start) && inner.ends_with(end) && inner.bytes().all(plain)
            })
        };
        let parts = files.iter().filter(|(inner, _)| is_part(inner)).map(|(_, name)| *name);
        return [*whole].into_iter().chain(parts).collect();
    }
    Vec::new()
}

/// A folder of a sentence encoder: `0_Transformer`, `1_Pooling`, `2_Dense`.
fn is_module(folder: &str) -> bool {
    let Some((number, name)) = folder.split_once('_') else { return false };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    digits && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether the file holds weights or says where they are.
pub(super) fn is_weights(name: &str) -> bool {
    [".safetensors", ".bin", ".index.json"].iter().any(|end| name.ends_with(end))
}

/// Whether the file says in which others the weights are.
pub(super) fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

#[cfg(test)]
mod tests {
    use super::needed;

    #[test]
    fn one_format_of_weights_and_what_goes_with_it() {
        let sentence_encoder = [
            ".gitattributes",
            "1_Pooling/config.json",
            "2_Normalize/nothing.txt",
            "README.md",
            "config.json",
            "model.safetensors",
            "modules.json",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino/openvino_model.bin",
            "pytorch_model.bin",
            "rust_model.ot",
            "tf_model.h5",
            "tokenizer.json",
            "vocab.txt",
        ];
        assert_eq!(
            needed(&sentence_encoder),
            [
                "1_Pooling/config.json",
                "config.json",
                "modules.json",
                "tokenizer.json",
                "vocab.txt",
                "model.safetensors"
            ]
        );
        let parts = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        ];
        let mut chosen = needed(&parts);
        chosen.sort_unstable();
        assert_eq!(chosen, &parts[..4]);
        let old = ["config.json", "pytorch_model.bin", "flax_model.msgpack", "vocab.txt"];
        assert_eq!(needed(&old), ["config.json", "vocab.txt", "pytorch_model.bin"]);
        let dense = ["2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"];
        assert_eq!(needed(&dense), &dense[..2]);
        assert!(needed(&["tf_model.h5", "x_y/config.json", "1_/config.json"]).is_empty());
    }
}

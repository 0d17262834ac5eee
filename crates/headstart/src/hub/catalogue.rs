//! The published models that have a short name here, with the sums of their files where they are known.
//!
//! Owns: names, places, licences, sums. Never: what is on this machine, or how a family is computed.

/// A published model.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What it is called here; the first is its short name.
    pub names: &'static [&'static str],
    /// Its places on the hub, `owner/name`; behind the first those that it had before, under which it may still be cached.
    pub repos: &'static [&'static str],
    /// Its family, as `config.json` calls it in `model_type`.
    pub family: &'static str,
    /// Parameters of the trunk, without heads.
    pub parameters: u64,
    /// About what its weights take on the disk and on the line.
    pub weights_bytes: u64,
    /// Its licence, as the model card names it.
    pub licence: &'static str,
    /// The commit that its short name means; without one, whatever stands in `main`.
    pub commit: Option<&'static str>,
    /// What is known of its files.
    pub pins: &'static [Pin],
    /// What the program that the model comes from computes with it, where that is known.
    pub golden: Option<Golden>,
}

impl Entry {
    /// Its short name.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    /// Its place on the hub.
    pub fn repo(&self) -> &'static str {
        self.repos.first().copied().unwrap_or_default()
    }

    /// What is known of the file of this name.
    pub fn pin(&self, file: &str) -> Option<&'static Pin> {
        self.pins.iter().find(|pin| pin.file == file)
    }
}

/// The beginning of the vector that sentence-transformers makes of a text (`tools/interop_models.py vector`).
#[derive(Debug, Clone, Copy)]
pub struct Golden {
    /// The text.
    pub text: &'static str,
    /// Its first numbers.
    pub vector: &'static [f32],
}

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
pub struct Pin {
    /// Its name.
    pub file: &'static str,
    /// Its length, where it is known.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hex.
    pub sha256: &'static str,
}

/// The entry of this name, short or `owner/name`.
pub fn find(name: &str) -> Option<&'static Entry> {
    let is_it = |entry: &&Entry| entry.names.contains(&name) || entry.repos.contains(&name);
    ENTRIES.iter().find(is_it)
}

const fn pin(file: &'static str, sha256: &'static str) -> Pin {
    Pin { file, bytes: None, sha256 }
}

const fn sized(file: &'static str, bytes: u64, sha256: &'static str) -> Pin {
    Pin { file, bytes: Some(bytes), sha256 }
}

/// All of them, smallest first within a family.
pub const ENTRIES: &[Entry] = &[
    Entry {
        names: &["bert-tiny"],
        repos: &["prajjwal1/bert-tiny"],
        family: "bert",
        parameters: 4_385_920,
        weights_bytes: 17_756_393,
        licence: "MIT",
        commit: Some("6f75de8b60a9f8a2fdf7b69cbd86d9e64bcb3837"),
        pins: &[sized(
            "pytorch_model.bin",
            17_756_393,
            "dab2c2bddcfb48ea430ef63fd76d46d67d704487844d967256a50dd7d7fd0a66",
        )],
        golden: None,
    },
    Entry {
        names: &["minilm-l6", "all-MiniLM-L6-v2"],
        repos: &["sentence-transformers/all-MiniLM-L6-v2"],
        family: "bert",
        parameters: 22_713_216,
        weights_bytes: 90_868_376,
        licence: "Apache-2.0",
        commit: Some("1110a243fdf4706b3f48f1d95db1a4f5529b4d41"),
        pins: &[
            sized(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            sized(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            sized("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ],
        golden: Some(Golden {
            text: "The old harbour guards the river.",
            vector: &[
                0.012_089_625,
                0.096_874_55,
                -0.018_705_837,
                0.003_847_730_3,
                0.066_344_4,
                0.012_959_524,
                0.015_523_978,
                -0.062_146_567,
            ],
        }),
    },
    Entry {
        names: &["minilm-l12"],
        repos: &["microsoft/MiniLM-L12-H384-uncased"],
        family: "bert",
        parameters: 33_360_000,
        weights_bytes: 133_000_000,
        licence: "MIT",
        commit: Some("44acabbec0ef496f6dbc93adadea57f376b7c0ec"),
        pins: &[],
        golden: None,
    },
    Entry {
        names: &["e5-small-v2"],
        repos: &["intfloat/e5-small-v2"],
        family: "bert",
        parameters: 33_360_000,
        weights_bytes: 133_000_000,
        licence: "MIT",
        commit: None,
        pins: &[pin("model.safetensors", "45bfa60070649aae2244fbc9d508537779b93b6f353c17b0f95ceccb1c5116c1")],
        golden: None,
    },
    Entry {
        names: &["bert-base-cased"],
        repos: &["google-bert/bert-base-cased", "bert-base-cased"],
        family: "bert",
        parameters: 108_310_272,
        weights_bytes: 435_755_784,
        licence: "Apache-2.0",
        commit: Some("cd5ef92a9fb2f889e972770a36d4ed042daf221e"),
        pins: &[sized(
            "model.safetensors",
            435_755_784,
            "1d8bdcee6021e2c25f0325e84889b61c2eb26b843eef5659c247af138d64f050",
        )],
        golden: None,
    },
    Entry {
        names: &["bert-base-uncased"],
        repos: &["google-bert/bert-base-uncased", "bert-base-uncased"],
        family: "bert",
        parameters: 109_482_240,
        weights_bytes: 440_449_768,
        licence: "Apache-2.0",
        commit: Some("86b5e0934494bd15c9632b12f734a8a67f723594"),
        pins: &[
            sized(
                "model.safetensors",
                440_449_768,
                "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
            ),
            sized(
                "pytorch_model.bin",
                440_473_133,
                "097417381d6c7230bd9e3557456d726de6e83245ec8b24f529f60198a67b203a",
            ),
            pin("tokenizer.json", "ce64fce797c24f68df90b40a3f74f579b336a493db14bd583fd520ea0d8c9a98"),
            pin("config.json", "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20"),
            pin("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ],
        golden: None,
    },
    Entry {
        names: &["distilbert", "distilbert-base-uncased"],
        repos: &["distilbert/distilbert-base-uncased", "distilbert-base-uncased"],
        family: "distilbert",
        parameters: 66_362_880,
        weights_bytes: 267_954_768,
        licence: "Apache-2.0",
        commit: Some("12040accade4e8a0f71eabdb258fecc2e7e948be"),
        pins: &[
            sized(
                "model.safetensors",
                267_954_768,
                "5e3f1108e3cb34ee048634875d8482665b65ac713291a7e32396fb18f6ff0063",
            ),
            pin("config.json", "69c94b0222d5d1f4b0ad027ca7416cdafb98378cbbb8305d0bf47c9365c60c83"),
        ],
        golden: None,
    },
    Entry {
        names: &["roberta-base", "roberta"],
        repos: &["FacebookAI/roberta-base", "roberta-base"],
        family: "roberta",
        parameters: 124_645_632,
        weights_bytes: 498_818_054,
        licence: "MIT",
        commit: Some("e2da8e2f811d1448a5b465c236feacd80ffbac7b"),
        pins: &[
            sized(
                "model.safetensors",
                498_818_054,
                "5bde1d28afb363d0103324efeb5afc8b2b397fe5e04beabb9b1ef355255ade81",
            ),
            pin("pytorch_model.bin", "278b7a95739c4392fae9b818bb5343dde20be1b89318f37a6d939e1e1b9e461b"),
        ],
        golden: None,
    },
    Entry {
        names: &["electra-small", "electra-small-discriminator"],
        repos: &["google/electra-small-discriminator"],
        family: "electra",
        parameters: 13_483_008,
        weights_bytes: 54_000_000,
        licence: "Apache-2.0",
        commit: None,
        pins: &[],
        golden: None,
    },
    Entry {
        names: &["electra-base", "electra-base-discriminator"],
        repos: &["google/electra-base-discriminator"],
        family: "electra",
        parameters: 108_891_648,
        weights_bytes: 440_000_000,
        licence: "Apache-2.0",
        commit: None,
        pins: &[],
        golden: None,
    },
    Entry {
        names: &["distilgpt2"],
        repos: &["distilbert/distilgpt2", "distilgpt2"],
        family: "gpt2",
        parameters: 81_912_576,
        weights_bytes: 352_824_413,
        licence: "Apache-2.0",
        commit: Some("2290a62682d06624634c1f46a6ad5be0f47f38aa"),
        pins: &[sized(
            "model.safetensors",
            352_824_413,
            "e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b",
        )],
        golden: None,
    },
    Entry {
        names: &["gpt2"],
        repos: &["openai-community/gpt2", "gpt2"],
        family: "gpt2",
        parameters: 124_439_808,
        weights_bytes: 548_105_171,
        licence: "MIT",
        commit: Some("607a30d783dfa663caf39e06633721c8d4cfcd7e"),
        pins: &[
            sized(
                "model.safetensors",
                548_105_171,
                "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
            ),
            sized(
                "pytorch_model.bin",
                548_118_077,
                "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421",
            ),
            pin("vocab.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
            pin("merges.txt", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
            pin("tokenizer.json", "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6"),
            pin("config.json", "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4"),
        ],
        golden: None,
    },
    Entry {
        names: &["modernbert-base", "modernbert"],
        repos: &["answerdotai/ModernBERT-base"],
        family: "modernbert",
        parameters: 149_014_272,
        weights_bytes: 598_635_032,
        licence: "Apache-2.0",
        commit: Some("8949b909ec900327062f0ebf497f51aef5e6f0c8"),
        pins: &[
            sized(
                "model.safetensors",
                598_635_032,
                "340ac08b74eef0d7bdec2d7981a6a3d4249bf0e6aab60634b72ad02c2b8023a9",
            ),
            sized("config.json", 1_193, "1609d59e627c33eaed524b4f01e546d42e84190a079a5a5ded84b212c41c324f"),
            sized(
                "tokenizer.json",
                2_132_967,
                "9fd55248d51d33976b324fc11592e28071da7d41e0e9401dfb7082e30574b7b1",
            ),
        ],
        golden: None,
    },
];

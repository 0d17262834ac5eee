//! The table of named data: what each set is, where it comes from, how its files are laid out.
//!
//! Owns: names, addresses, licences, published checksums, label orders, encodings. Never: reads or writes
//! anything. A checksum stands here only if it was published; none is made up.

use crate::data::download::unpack::Format;

/// What a named thing is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Running text for language modelling.
    LanguageModel,
    /// Labelled texts.
    Classification,
    /// A vocabulary.
    Tokenizer,
}

/// What a file of a data set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// Training data.
    Train,
    /// Validation data.
    Valid,
    /// Test data.
    Test,
    /// A `vocab.txt` of word pieces.
    Vocabulary,
    /// Everything: data addressed by URL, whose splits only its reader can tell.
    Everything,
}

/// One download: an archive, or a file that needs no unpacking.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The name it is stored under, and under which it may be put into the cache by hand.
    pub file: &'a str,
    /// Where it can be had; tried in this order.
    pub urls: &'a [&'a str],
    /// How it is packed.
    pub format: Format,
    /// The published SHA-256, where there is one.
    pub sha256: Option<&'a str>,
}

/// One file or folder that the unpacked data must have.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// What it is for.
    pub role: FileRole,
    /// Its path below [`Entry::root`], with `/`.
    pub path: &'a str,
    /// Where it is a folder: the subfolders that count (and go into its checksum); empty: all of it.
    pub subfolders: &'a [&'a str],
    /// The published SHA-256 of the unpacked file, where there is one.
    pub sha256: Option<&'a str>,
}

/// Something the catalogue knows by name.
#[derive(Debug)]
pub struct Entry {
    /// The name to type.
    pub name: &'static str,
    /// What it is for.
    pub kind: Kind,
    /// One sentence.
    pub description: &'static str,
    /// The terms it comes under.
    pub licence: &'static str,
    /// The size of the download in bytes, as published or measured; for information only.
    pub download_bytes: u64,
    /// The character encoding of its text: `utf-8` or `latin-1`.
    pub encoding: &'static str,
    /// The labels in the order of their class numbers; empty for what has none.
    pub labels: &'static [&'static str],
    /// The folder that holds it, below the cache or a mirror, with `/`.
    pub root: &'static str,
    /// What has to be downloaded.
    pub sources: &'static [Source<'static>],
    /// What is then there.
    pub members: &'static [Member<'static>],
}

const WIKIPEDIA: &str = "CC BY-SA 3.0 (text of Wikipedia)";
const BERT: &str = "Apache-2.0 (BERT, Google Research)";
const GUTENBERG: &str = "books of Project Gutenberg, public domain in the USA; no separate licence stated";

const fn file(role: FileRole, path: &'static str) -> Member<'static> {
    Member { role, path, subfolders: &[], sha256: None }
}

const fn known_file(role: FileRole, path: &'static str, sha256: &'static str) -> Member<'static> {
    Member { role, path, subfolders: &[], sha256: Some(sha256) }
}

/// The class folders of IMDb, in label order.
const IMDB_LABELS: &[&str] = &["pos", "neg"];

/// One archive holds all variants of SimpleBooks.
const SIMPLEBOOKS: &[Source<'static>] = &[Source {
    file: "simplebooks.zip",
    urls: &["https://dldata-public.s3.us-east-2.amazonaws.com/simplebooks.zip"],
    format: Format::Zip,
    sha256: None,
}];
const SIMPLEBOOKS_BYTES: u64 = 282_386_239;

/// Every name there is, in the order of `data list`.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "wikitext-2",
        kind: Kind::LanguageModel,
        description: "Good and featured Wikipedia articles, word-tokenised, rare words as <unk>; 2.1 M words",
        licence: WIKIPEDIA,
        download_bytes: 4_475_746,
        encoding: "utf-8",
        labels: &[],
        root: "wikitext-2",
        sources: &[Source {
            file: "wikitext-2-v1.zip",
            urls: &["https://wikitext.smerity.com/wikitext-2-v1.zip"],
            format: Format::Zip,
            sha256: Some("92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"),
        }],
        members: &[
            file(FileRole::Train, "wiki.train.tokens"),
            known_file(
                FileRole::Valid,
                "wiki.valid.tokens",
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            ),
            known_file(
                FileRole::Test,
                "wiki.test.tokens",
                "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            ),
        ],
    },
    Entry {
        name: "wikitext-2-raw",
        kind: Kind::LanguageModel,
        description: "WikiText-2 with every word written out, no <unk>",
        licence: WIKIPEDIA,
        download_bytes: 4_721_645,
        encoding: "utf-8",
        labels: &[],
        root: "wikitext-2-raw",
        sources: &[Source {
            file: "wikitext-2-raw-v1.zip",
            urls: &[
                "https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip",
                "https://wikitext.smerity.com/wikitext-2-raw-v1.zip",
            ],
            format: Format::Zip,
            sha256: Some("ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11"),
        }],
        members: &[
            file(FileRole::Train, "wiki.train.raw"),
            file(FileRole::Valid, "wiki.valid.raw"),
            known_file(
                FileRole::Test,
                "wiki.test.raw",
                "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
            ),
        ],
    },
    Entry {
        name: "wikitext-103",
        kind: Kind::LanguageModel,
        description: "As wikitext-2, fifty times larger: 103 M words, the same valid and test articles",
        licence: WIKIPEDIA,
        download_bytes: 190_229_076,
        encoding: "utf-8",
        labels: &[],
        root: "wikitext-103",
        sources: &[Source {
            file: "wikitext-103-v1.zip",
            urls: &["https://wikitext.smerity.com/wikitext-103-v1.zip"],
            format: Format::Zip,
            sha256: Some("242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"),
        }],
        members: &[
            file(FileRole::Train, "wiki.train.tokens"),
            file(FileRole::Valid, "wiki.valid.tokens"),
            file(FileRole::Test, "wiki.test.tokens"),
        ],
    },
    Entry {
        name: "wikitext-103-raw",
        kind: Kind::LanguageModel,
        description: "WikiText-103 with every word written out, no <unk>",
        licence: WIKIPEDIA,
        download_bytes: 191_984_949,
        encoding: "utf-8",
        labels: &[],
        root: "wikitext-103-raw",
        sources: &[Source {
            file: "wikitext-103-raw-v1.zip",
            urls: &[
                "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
                "https://huggingface.co/datasets/mattdangerw/wikitext-103-raw/resolve/main/wikitext-103-raw-v1.zip",
            ],
            format: Format::Zip,
            sha256: Some("91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794"),
        }],
        members: &[
            file(FileRole::Train, "wiki.train.raw"),
            file(FileRole::Valid, "wiki.valid.raw"),
            file(FileRole::Test, "wiki.test.raw"),
        ],
    },
    Entry {
        name: "simplebooks-2",
        kind: Kind::LanguageModel,
        description: "Long books in simple words, word-tokenised; about 2 M words",
        licence: GUTENBERG,
        download_bytes: SIMPLEBOOKS_BYTES,
        encoding: "utf-8",
        labels: &[],
        root: "simplebooks",
        sources: SIMPLEBOOKS,
        members: &[
            file(FileRole::Train, "simplebooks-2/train.txt"),
            file(FileRole::Valid, "simplebooks-2/valid.txt"),
            file(FileRole::Test, "simplebooks-2/test.txt"),
        ],
    },
    Entry {
        name: "simplebooks-2-raw",
        kind: Kind::LanguageModel,
        description: "The books of simplebooks-2 as they were printed, not tokenised",
        licence: GUTENBERG,
        download_bytes: SIMPLEBOOKS_BYTES,
        encoding: "utf-8",
        labels: &[],
        root: "simplebooks",
        sources: SIMPLEBOOKS,
        members: &[
            file(FileRole::Train, "simplebooks-2-raw/train.txt"),
            file(FileRole::Valid, "simplebooks-2-raw/valid.txt"),
            file(FileRole::Test, "simplebooks-2-raw/test.txt"),
        ],
    },
    Entry {
        name: "simplebooks-92",
        kind: Kind::LanguageModel,
        description: "1,573 books in simple words, word-tokenised; about 92 M words",
        licence: GUTENBERG,
        download_bytes: SIMPLEBOOKS_BYTES,
        encoding: "utf-8",
        labels: &[],
        root: "simplebooks",
        sources: SIMPLEBOOKS,
        members: &[
            file(FileRole::Train, "simplebooks-92/train.txt"),
            file(FileRole::Valid, "simplebooks-92/valid.txt"),
            file(FileRole::Test, "simplebooks-92/test.txt"),
        ],
    },
    Entry {
        name: "simplebooks-92-raw",
        kind: Kind::LanguageModel,
        description: "The books of simplebooks-92 as they were printed, not tokenised",
        licence: GUTENBERG,
        download_bytes: SIMPLEBOOKS_BYTES,
        encoding: "utf-8",
        labels: &[],
        root: "simplebooks",
        sources: SIMPLEBOOKS,
        members: &[
            file(FileRole::Train, "simplebooks-92-raw/train.txt"),
            file(FileRole::Valid, "simplebooks-92-raw/valid.txt"),
            file(FileRole::Test, "simplebooks-92-raw/test.txt"),
        ],
    },
    Entry {
        name: "imdb",
        kind: Kind::Classification,
        description: "Film reviews, positive or negative: 25,000 to train on, 25,000 to test on",
        licence: "research use, cite Maas et al., ACL 2011; the reviews are their authors'",
        download_bytes: 84_125_825,
        encoding: "utf-8",
        labels: IMDB_LABELS,
        root: "aclImdb",
        sources: &[Source {
            file: "aclImdb_v1.tar.gz",
            urls: &["https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"],
            format: Format::TarGz,
            sha256: Some("c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"),
        }],
        members: &[
            Member { role: FileRole::Train, path: "train", subfolders: IMDB_LABELS, sha256: None },
            Member { role: FileRole::Test, path: "test", subfolders: IMDB_LABELS, sha256: None },
        ],
    },
    Entry {
        name: "trec",
        kind: Kind::Classification,
        description: "Questions by what they ask for, six classes: 5,452 to train on, 500 to test on",
        licence: "published for research (Li and Roth, COLING 2002); no licence stated",
        download_bytes: 359_212,
        encoding: "latin-1",
        labels: &["NUM", "LOC", "HUM", "DESC", "ENTY", "ABBR"],
        root: "trec",
        sources: &[
            Source {
                file: "train_5500.label",
                urls: &[
                    "https://cogcomp.seas.upenn.edu/Data/QA/QC/train_5500.label",
                    "http://cogcomp.org/Data/QA/QC/train_5500.label",
                ],
                format: Format::Plain,
                sha256: Some(TREC_TRAIN),
            },
            Source {
                file: "TREC_10.label",
                urls: &[
                    "https://cogcomp.seas.upenn.edu/Data/QA/QC/TREC_10.label",
                    "http://cogcomp.org/Data/QA/QC/TREC_10.label",
                ],
                format: Format::Plain,
                sha256: Some(TREC_TEST),
            },
        ],
        members: &[
            known_file(FileRole::Train, "train_5500.label", TREC_TRAIN),
            known_file(FileRole::Test, "TREC_10.label", TREC_TEST),
        ],
    },
    Entry {
        name: "bert-base-cased",
        kind: Kind::Tokenizer,
        description: "The 28,996 word pieces of BERT-base, cased",
        licence: BERT,
        download_bytes: 213_450,
        encoding: "utf-8",
        labels: &[],
        root: "vocab/bert-base-cased",
        sources: &[Source {
            file: "vocab.txt",
            urls: &["https://huggingface.co/google-bert/bert-base-cased/resolve/main/vocab.txt"],
            format: Format::Plain,
            sha256: Some(BERT_CASED),
        }],
        members: &[known_file(FileRole::Vocabulary, "vocab.txt", BERT_CASED)],
    },
    Entry {
        name: "bert-base-uncased",
        kind: Kind::Tokenizer,
        description: "The 30,522 word pieces of BERT-base, lower-cased",
        licence: BERT,
        download_bytes: 231_508,
        encoding: "utf-8",
        labels: &[],
        root: "vocab/bert-base-uncased",
        sources: &[Source {
            file: "vocab.txt",
            urls: &["https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt"],
            format: Format::Plain,
            sha256: Some(BERT_UNCASED),
        }],
        members: &[known_file(FileRole::Vocabulary, "vocab.txt", BERT_UNCASED)],
    },
];

const TREC_TRAIN: &str = "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3";
const TREC_TEST: &str = "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e";
const BERT_CASED: &str = "eeaa9875b23b04b4c54ef759d03db9d1ba1554838f8fb26c5d96fa551df93d02";
const BERT_UNCASED: &str = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3";

//! Tests of the tokenizer as its users see it.

use super::*;

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\n[\n]\nC\n##LS\n";

fn small() -> Tokenizer {
    Tokenizer::from_vocab_bytes(VOCAB.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap()
}

fn spell(tokenizer: &Tokenizer, text: &str) -> String {
    let ids = tokenizer.encode(text).unwrap();
    ids.iter().map(|&id| tokenizer.id_to_piece(id).unwrap()).collect::<Vec<_>>().join(" ")
}

const TEXT: &str = "The river ran low. The lower river runs slowly, and the slow runner lowers his head.\n\
                    Lower and lower runs the river; slower and slower runs the runner.\n";

fn train(kind: TokenizerKind, vocab_size: usize) -> Tokenizer {
    Tokenizer::train(TEXT, TrainOptions { kind, vocab_size, case: Case::Keep }).unwrap()
}

#[test]
fn a_vocab_file_is_cased_word_piece() {
    let tokenizer = small();
    assert_eq!(tokenizer.vocab_size(), 12);
    assert_eq!(spell(&tokenizer, "the cats The"), "the cat ##s [UNK]");
    let roles = RoleIds { unk: 1, cls: 2, sep: 3, eos: 3, mask: 4, pad: Some(0) };
    assert_eq!((tokenizer.roles(), tokenizer.added_roles()), (roles, &[][..]));
    let lower = Tokenizer::from_vocab_bytes(VOCAB.as_bytes(), Case::Lower, Path::new("vocab.txt")).unwrap();
    assert_eq!(spell(&lower, "the CATS Th\u{e9}"), "the cat ##s the");
    assert_ne!(lower.content_hash(), tokenizer.content_hash());
}

#[test]
fn special_tokens_in_text_are_plain_text() {
    let tokenizer = small();
    assert_eq!(spell(&tokenizer, "the [CLS] cat"), "the [ C ##LS ] cat");
    assert_eq!(spell(&tokenizer, "[MASK]"), "[ [UNK] ]");
    // Even where the vocabulary could spell one as an ordinary word.
    let json = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"WhitespaceSplit"},
        "model":{"type":"WordLevel","unk_token":"<unk>","vocab":{"<unk>":0,"a":1,"</s>":2}}}"#;
    let word_level = Tokenizer::from_json_bytes(json.as_bytes(), Path::new("tokenizer.json")).unwrap();
    assert_eq!(spell(&word_level, "a </s> a"), "a <unk> a");
}

#[test]
fn unk_means_unknown_in_corpus_lines_only() {
    let tokenizer = small();
    let mut ids = Vec::new();
    tokenizer.encode_corpus_line(" the <unk> cat<unk>", &mut ids).unwrap();
    assert_eq!(ids, [5, 1, 6, 1]);
    assert_eq!(spell(&tokenizer, "<unk>"), "[UNK] [UNK] [UNK]");
}

#[test]
fn missing_roles_are_appended_and_reported_once() {
    let name = Path::new("vocab.txt");
    let tokenizer = Tokenizer::from_vocab_bytes(b"the\n[SEP]\ncat", Case::Keep, name).unwrap();
    let added: Vec<_> = tokenizer.added_roles().iter().map(|a| (a.role, a.piece.as_str(), a.id)).collect();
    let expected = [(Role::Unk, "[UNK]", 3), (Role::Cls, "[CLS]", 4), (Role::Mask, "[MASK]", 5)];
    assert_eq!((added.as_slice(), tokenizer.vocab_size()), (&expected[..], 6));
    assert_eq!(tokenizer.encode("cat dog [CLS]").unwrap(), [2, 3, 3, 3, 3]);
    assert_eq!(tokenizer.piece_to_id("[MASK]"), Some(5));
    let again = Tokenizer::from_json_bytes(tokenizer.to_json().as_bytes(), name).unwrap();
    assert_eq!((again.roles(), again.added_roles()), (tokenizer.roles(), &[][..]));
    assert_eq!(again.content_hash(), tokenizer.content_hash());
}

#[test]
fn gpt2_files_keep_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let vocab = r#"{"a":0,"b":1,"ab":2,"\u0120":3,"\u0120ab":4,"<|endoftext|>":5}"#;
    std::fs::write(dir.path().join("vocab.json"), vocab).unwrap();
    std::fs::write(dir.path().join("merges.txt"), "#version: 0.2\na b\n\u{120} ab\n").unwrap();
    let tokenizer = Tokenizer::from_file(dir.path(), Case::Keep).unwrap();
    assert_eq!(tokenizer.encode("ab ab").unwrap(), [2, 4]);
    assert_eq!(tokenizer.decode(&[2, 4, 5, 0]), "ab ab\na");
    assert_eq!((tokenizer.roles().eos, tokenizer.vocab_size()), (5, 9));
    std::fs::write(dir.path().join("merges.txt"), "a b\nab\n").unwrap();
    let message = Tokenizer::from_file(dir.path(), Case::Keep).unwrap_err().to_string();
    assert!(message.contains("merges.txt:2:"), "{message}");
}

#[test]
fn decoding_joins_pieces_and_breaks_lines() {
    assert_eq!(small().decode(&[5, 6, 7, 3, 5, 999]), "the cats\nthe");
}

#[test]
fn training_depends_on_the_text_alone() {
    for kind in [TokenizerKind::WordPiece, TokenizerKind::ByteLevelBpe] {
        let size = if kind == TokenizerKind::WordPiece { 60 } else { 275 };
        let first = train(kind, size);
        assert_eq!(first.vocab_size(), size);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| train(kind, size)).to_json(), first.to_json());
        }
        let mut trainer =
            TokenizerTrainer::new(TrainOptions { kind, vocab_size: size, case: Case::Keep }).unwrap();
        for line in TEXT.lines() {
            trainer.feed(line).unwrap();
        }
        assert_eq!(trainer.finish().unwrap().tokenizer.content_hash(), first.content_hash());
    }
}

#[test]
fn trained_tokenizers_spell_frequent_words_whole() {
    let word_piece = train(TokenizerKind::WordPiece, 110);
    assert_eq!(spell(&word_piece, "the river lower"), "the river lower");
    assert!(word_piece.added_roles().is_empty());
    let byte_level = train(TokenizerKind::ByteLevelBpe, 300);
    assert_eq!(spell(&byte_level, " river"), "\u{120}river");
    let text = "Any \u{1f600} bytes\tat  all, <|endoftext|> [SEP]";
    let ids = byte_level.encode(text).unwrap();
    assert_eq!(byte_level.decode(&ids), text);
    assert!(!ids.contains(&byte_level.roles().eos));
}

#[test]
fn merges_prefer_the_frequent_and_then_the_lower_id() {
    // Pairs: a##b 2 times, ##b##c 2 times, x##y 3 times; a##b wins its tie as the lower pair of ids.
    let options = TrainOptions { kind: TokenizerKind::WordPiece, vocab_size: 5 + 10 + 3, case: Case::Keep };
    let tokenizer = Tokenizer::train("abc abc xy xy xy", options).unwrap();
    let learned: Vec<_> = (15..18).map(|id| tokenizer.id_to_piece(id).unwrap()).collect();
    assert_eq!(learned, ["xy", "ab", "abc"]);
}

/// What training on a text says.
fn notes(text: &str, kind: TokenizerKind, vocab_size: usize) -> (Tokenizer, Vec<String>) {
    let options = TrainOptions { kind, vocab_size, case: Case::Keep };
    let mut trainer = TokenizerTrainer::new(options).unwrap();
    trainer.feed(text).unwrap();
    let Trained { tokenizer, notes } = trainer.finish().unwrap();
    (tokenizer, notes)
}

#[test]
fn text_without_spaces_is_learned_by_bpe_and_named_by_word_piece() {
    let mut state = 7_u32;
    let dna: String = (0..60_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b"ACGT"[(state >> 30) as usize])
        })
        .collect();
    let (bpe, said) = notes(&dna, TokenizerKind::ByteLevelBpe, 500);
    assert_eq!((bpe.vocab_size(), said.len()), (500, 0));
    assert!(bpe.encode(&dna).unwrap().len() < dna.len() / 3);
    let options = TrainOptions { kind: TokenizerKind::WordPiece, vocab_size: 500, case: Case::Keep };
    let message = Tokenizer::train(&dna, options).unwrap_err().to_string();
    assert!(message.contains("longer than 100 characters") && message.contains("--kind bpe"), "{message}");
    let (_, said) = notes(&format!("{dna} the cat the cat"), TokenizerKind::WordPiece, 30);
    assert!(said.iter().any(|note| note.contains("1 of 5 words (20.00 %) cannot be spelled")), "{said:?}");
}

#[test]
fn rare_characters_fill_a_vocabulary_that_has_room() {
    // Chinese characters are words each: no merges, and more characters than an alphabet begins with.
    let characters: Vec<char> = ('\u{4e00}'..).take(1500).collect();
    let text: String = characters.iter().enumerate().flat_map(|(i, c)| vec![*c; 1501 - i]).collect();
    let (full, said) = notes(&text, TokenizerKind::WordPiece, 1505);
    assert_eq!((full.vocab_size(), said.len()), (1505, 0), "{said:?}");
    assert!(characters.iter().all(|c| full.piece_to_id(&c.to_string()).is_some()));
    let (small, said) = notes(&text, TokenizerKind::WordPiece, 1405);
    assert_eq!((small.vocab_size(), said.len()), (1405, 1));
    assert!(said[0].contains("words (0.46 %) cannot be spelled"), "{said:?}");
    let (_, said) = notes("the cat the cat", TokenizerKind::WordPiece, 500);
    assert!(said[0].contains("pieces of the 500 asked for"), "{said:?}");
}

#[test]
fn long_texts_have_the_ids_they_have_in_one_piece() {
    let text = TEXT.replace('\n', " ").repeat(3 * LONG_TEXT_BYTES / TEXT.len());
    assert!(text.len() > 2 * LONG_TEXT_BYTES);
    let pieces: Vec<&str> = pieces_of_long_text(&text).collect();
    assert!(pieces.len() > 2 && pieces.concat() == text);
    assert!(pieces.iter().all(|piece| piece.len() <= LONG_TEXT_BYTES));
    for tokenizer in [train(TokenizerKind::WordPiece, 90), train(TokenizerKind::ByteLevelBpe, 290)] {
        let mut whole = Vec::new();
        tokenizer.encode_piece(&text, &mut whole).unwrap();
        assert!(tokenizer.encode(&text).unwrap() == whole);
    }
    // Nowhere a space: characters stay whole.
    let text = "\u{4e00}".repeat(LONG_TEXT_BYTES);
    assert!(pieces_of_long_text(&text).all(|p| p.len() <= LONG_TEXT_BYTES));
    assert!(pieces_of_long_text(&text).collect::<String>() == text);
    assert_eq!(pieces_of_long_text("").collect::<Vec<_>>(), [""]);
}

#[test]
fn impossible_training_is_refused() {
    let options = TrainOptions { kind: TokenizerKind::ByteLevelBpe, vocab_size: 100, case: Case::Keep };
    assert!(Tokenizer::train(TEXT, options).unwrap_err().is_usage());
    let options = TrainOptions { kind: TokenizerKind::WordPiece, vocab_size: 100, case: Case::Keep };
    assert!(Tokenizer::train(" \n", options).unwrap_err().to_string().contains("no text"));
}

#[test]
fn bad_files_are_named() {
    let load = |name: &str, bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Tokenizer::from_file(&path, Case::Keep).unwrap_err().to_string()
    };
    let cases: [(&str, &[u8], &str); 12] = [
        ("vocab.txt", b"a\nb\na\n", "vocab.txt:3: the piece `a` stands on line 1"),
        ("vocab.txt", b"a\n\nb\n", "vocab.txt:2: an empty line"),
        ("vocab.txt", b"", "vocab.txt:1: an empty line"),
        ("vocab.txt", b"a\nb\xFF\n", "vocab.txt:2: byte 2 is not valid UTF-8"),
        ("tokenizer.json", b"{\"model\":\n oops", "tokenizer.json:2: is not a tokenizer.json"),
        ("tokenizer.json", b"[1]", "no `model`"),
        ("tokenizer.json", b"{\"model\":{}}", "no vocabulary"),
        (
            "tokenizer.json",
            br#"{"model":{"type":"BPE","vocab":{"a":0,"b":7},"merges":[]}}"#,
            "has 2 pieces, but ids up to 7",
        ),
        (
            "tokenizer.json",
            br#"{"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}}"#,
            "both have the id 0",
        ),
        ("tokenizer.json", br#"{"model":{"type":"BPE","vocab":{"a":"x"},"merges":[]}}"#, "not a number"),
        ("tokenizer.json", br#"{"model":{"type":"BPE","vocab":{"a":0},"merges":["a q"]}}"#, "not a usable"),
        (
            "tokenizer.json",
            br#"{"added_tokens":[{"content":"x"}],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
            "without `content` or `id`",
        ),
    ];
    for (name, bytes, expected) in cases {
        let message = load(name, bytes);
        assert!(message.contains(expected), "{message}");
    }
    let nowhere = Tokenizer::from_file(Path::new("no/such/folder"), Case::Keep).unwrap_err().to_string();
    assert!(nowhere.contains("no tokenizer at no/such/folder") && nowhere.contains("tokenizer train"));
}

#[test]
fn a_vocabulary_with_a_byte_order_mark_is_read_and_a_repeated_line_says_what_to_put_there() {
    let load = |bytes: &[u8]| Tokenizer::from_vocab_bytes(bytes, Case::Keep, Path::new("vocab.txt"));
    let marked = load(&[b"\xEF\xBB\xBF", VOCAB.as_bytes()].concat()).unwrap();
    assert_eq!(marked.content_hash(), small().content_hash());
    let message = load(b"[UNK]\nthe\nthe\n").unwrap_err().to_string();
    assert!(message.contains("vocab.txt:3:") && message.contains("`[unused_2]`"), "{message}");
}

#[test]
fn holes_among_ids_are_filled_and_nothing_moves() {
    let word_piece = r###"{"version":"1.0","added_tokens":[{"id":9,"content":"[CLS]","single_word":false,
        "lstrip":false,"rstrip":false,"normalized":false,"special":true}],
        "normalizer":null,"pre_tokenizer":{"type":"BertPreTokenizer"},"model":{"type":"WordPiece","unk_token":"[UNK]",
        "continuing_subword_prefix":"##","max_input_chars_per_word":100,
        "vocab":{"[UNK]":0,"the":2,"cat":3,"##s":6,"[SEP]":7,"[MASK]":1}}}"###;
    let tokenizer = Tokenizer::from_json_bytes(word_piece.as_bytes(), Path::new("t.json")).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.added_roles()), (10, &[][..]));
    assert_eq!(tokenizer.encode("the cats [no piece 4] x").unwrap()[..3], [2, 3, 6]);
    assert!(!tokenizer.encode("[no piece 4]").unwrap().contains(&4));
    assert_eq!((tokenizer.roles().cls, tokenizer.id_to_piece(9)), (9, Some("[CLS]")));
    let again = Tokenizer::from_json_bytes(tokenizer.to_json().as_bytes(), Path::new("t.json")).unwrap();
    assert_eq!(again.content_hash(), tokenizer.content_hash());

    let token = |id: u32, piece: &str| {
        format!(
            r#"{{"id":{id},"content":"{piece}","single_word":false,"lstrip":false,"rstrip":false,
            "normalized":false,"special":true}}"#
        )
    };
    let unigram = format!(
        r#"{{"version":"1.0","added_tokens":[{},{}],"normalizer":null,"pre_tokenizer":null,
        "model":{{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0],["b",-2.0],["ab",-2.5]]}}}}"#,
        token(4, "</s>"),
        token(6, "<mask>")
    );
    let tokenizer = Tokenizer::from_json_bytes(unigram.as_bytes(), Path::new("t.json")).unwrap();
    assert_eq!(tokenizer.encode("abb").unwrap(), [3, 2]);
    let roles = tokenizer.roles();
    assert_eq!((roles.unk, roles.eos, roles.mask, roles.cls, tokenizer.vocab_size()), (0, 4, 6, 7, 8));
}

#[test]
fn saving_never_overwrites_another_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let tokenizer = small();
    tokenizer.save(&path).unwrap();
    tokenizer.save(&path).unwrap();
    assert_eq!(
        Tokenizer::from_file(dir.path(), Case::Keep).unwrap().content_hash(),
        tokenizer.content_hash()
    );
    let other = train(TokenizerKind::WordPiece, 90);
    assert!(other.save(&path).unwrap_err().to_string().contains("exists already"));
}

#[test]
fn files_on_which_the_crate_panics_are_refused_by_name() {
    let json = |normalizer: &str, model: &str| {
        format!(r#"{{"version":"1.0","added_tokens":[],"normalizer":{normalizer},"model":{model}}}"#)
    };
    let unigram = r#"{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0]]}"#;
    // A map of characters whose table is shorter than it says.
    let map = r#"{"type":"Precompiled","precompiled_charsmap":"CAAAAAEAAAABAAAAYQA="}"#;
    let unknown = unigram.replace("\"unk_id\":0", "\"unk_id\":7");
    // A merge whose second half is shorter than the prefix that it should begin with.
    let merges = r#"{"type":"BPE","continuing_subword_prefix":"@@@@","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}"#;
    for (text, reason) in [
        (json(map, unigram), "the `tokenizers` crate gave up on it"),
        (json("null", &unknown), "its unknown token has the id 7, but there are only 2 pieces"),
        (json("null", merges), "the `tokenizers` crate gave up on it"),
    ] {
        let error =
            Tokenizer::from_json_bytes(text.as_bytes(), Path::new("odd.json")).unwrap_err().to_string();
        assert!(error.contains("odd.json") && error.contains(reason), "{error}");
    }
    Tokenizer::from_json_bytes(json("null", unigram).as_bytes(), Path::new("fine.json")).unwrap();
}

#[test]
fn batches_are_consecutive_and_long_texts_stand_alone() {
    let long = LONG_TEXT_BYTES + 1;
    assert_eq!(batches([1, 2, long, 3, 4].into_iter()), [0..2, 2..3, 3..5]);
    let most = BATCH_BYTES * rayon::current_num_threads();
    let lengths = vec![most / 2; 5];
    assert_eq!(batches(lengths.into_iter().map(|n| n.min(LONG_TEXT_BYTES))).last().unwrap().end, 5);
    assert!(batches(std::iter::empty()).is_empty());
}

/// A folder with these files, opened as a published model's.
fn published(files: &[(&str, &str)]) -> Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    Tokenizer::published(dir.path())
}

#[test]
fn what_stands_beside_a_published_vocabulary_counts() {
    let vocab =
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncafe\ncaf\u{e9}\nCafe\n\u{4e2d}\n\u{6587}\n\u{4e2d}\u{6587}\n";
    let ids = |files: &[(&str, &str)], text: &str| {
        published(&[&[("vocab.txt", vocab)], files].concat()).unwrap().encode(text).unwrap()
    };
    let config = |text: &'static str| [("tokenizer_config.json", text)];
    assert_eq!(ids(&[], "Cafe Caf\u{e9}"), [7, 1], "a vocabulary with a capital keeps them");
    assert_eq!(ids(&config(r#"{"do_lower_case":true}"#), "Cafe Caf\u{e9}"), [5, 5]);
    let keep = r#"{"do_lower_case":true,"strip_accents":false,"tokenize_chinese_chars":false}"#;
    assert_eq!(ids(&config(keep), "Caf\u{e9} \u{4e2d}\u{6587}"), [6, 10]);
    assert_eq!(ids(&config(r#"{"do_lower_case":null}"#), "Cafe \u{4e2d}\u{6587}"), [7, 8, 9]);
    let small = published(&[("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncafe\n")]).unwrap();
    assert_eq!(small.encode("CAFE").unwrap(), [5], "one without lower-cases");

    // Named special tokens come before usual names, in both forms; pieces behind the vocabulary are there.
    let named = [
        ("vocab.txt", "<u>\n<c>\n[CLS]\n[SEP]\nword\n"),
        (
            "tokenizer_config.json",
            r#"{"cls_token":{"content":"<c>"},"mask_token":null,"added_tokens_decoder":{"5":{"content":"<m>","special":true},"6":{"content":"own","normalized":false}}}"#,
        ),
        ("special_tokens_map.json", r#"{"cls_token":"[CLS]","unk_token":"<u>","mask_token":"<m>"}"#),
        ("added_tokens.json", r#"{"more":7,"own":6}"#),
    ];
    let tokenizer = published(&named).unwrap();
    let roles = RoleIds { unk: 0, cls: 1, sep: 3, eos: 3, mask: 5, pad: None };
    assert_eq!((tokenizer.roles(), tokenizer.vocab_size()), (roles, 8));
    assert_eq!(tokenizer.encode("word own more other").unwrap(), [4, 6, 7, 0]);
    // The same pieces under other roles are another tokenizer.
    let other = RoleIds { cls: 2, ..roles };
    let name = Path::new("saved");
    let other = Tokenizer::from_json_bytes_with_roles(tokenizer.to_json().as_bytes(), name, other).unwrap();
    assert_ne!(other.content_hash(), tokenizer.content_hash());
    let own = Tokenizer::train(
        "a b a b\n",
        TrainOptions { kind: TokenizerKind::WordPiece, vocab_size: 20, case: Case::Keep },
    )
    .unwrap();
    let again = Tokenizer::from_json_bytes_with_roles(own.to_json().as_bytes(), name, own.roles()).unwrap();
    assert_eq!((again.content_hash(), again.to_json()), (own.content_hash(), own.to_json()));
    let wrong = RoleIds { eos: 99, ..own.roles() };
    let message =
        Tokenizer::from_json_bytes_with_roles(own.to_json().as_bytes(), name, wrong).unwrap_err().to_string();
    assert!(message.contains("special token has the id 99"), "{message}");
}

#[test]
fn published_folders_that_are_none_are_named() {
    let vocab = ("vocab.txt", "[UNK]\n[CLS]\n[SEP]\nword\n");
    for (files, expected) in [
        (&[("config.json", "{}")][..], "no tokenizer at"),
        (&[("spiece.model", "x")], "has its vocabulary in spiece.model alone"),
        (&[vocab, ("tokenizer_config.json", "{\n]")], "tokenizer_config.json:2: is not a JSON object"),
        (&[vocab, ("special_tokens_map.json", "[]")], "special_tokens_map.json:1: is not a JSON object"),
        (&[("tokenizer.json", "[1]")], "tokenizer.json: is not a tokenizer.json: it has no `model`"),
        (&[("vocab.txt", "a\nb\n")], "its unknown token `[UNK]` is not in its vocabulary"),
        (&[("vocab.json", "{\"a\":0,\"b\":1}"), ("merges.txt", "")], "vocab.json: has no special token"),
        (&[("vocab.json", "{\"a\":0}")], "merges.txt"),
    ] {
        let message = published(files).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

//! Bad input: each mistake ends with its exit code (2 called wrongly, 1 failed), names the thing, its place and the
//! way out, and leaves nothing behind that was not there before.
//!
//! Owns: what a user is told. Never: what happens when all is well (workflow.rs).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use support::{Done, Place, trunks};

/// The shared place, whose runs `lm`, `mlm` and `tuned` are not to be changed.
fn shared() -> &'static Place {
    static TUNED: OnceLock<&'static Place> = OnceLock::new();
    TUNED.get_or_init(|| {
        let place = trunks("bad-input");
        let data = place.path("topics");
        let call = format!("finetune --model lm --data {} --max_steps 6 --save_every 3", data.display());
        place.run(&format!("{call} --n_warmup 1 --out tuned")).succeeds();
        place
    })
}

fn path(name: &str) -> String {
    shared().path(name).to_str().unwrap().to_owned()
}

fn pretrain(place: &Place, flags: &str) -> Done {
    place.run(&format!("pretrain --tokenizer {} --preset micro --out run {flags}", path("tok.json")))
}

fn finetune(place: &Place, flags: &str) -> Done {
    place.run(&format!("finetune --model {} --max_steps 2 --out run {flags}", path("lm")))
}

/// Nothing of a run that could not start is left.
fn assert_no_run(place: &Place) {
    assert!(!place.path("run").exists(), "a run folder was made for nothing");
}

#[test]
fn text_that_cannot_be_read_is_named_with_its_place() {
    let place = Place::new();
    place.write("empty.txt", "");
    place.write("blank.txt", "\n \n\n");
    place.write("latin.txt", b"fine\nbad \xff x\n");
    place.write("wide.txt", b"\xff\xfet\0e\0x\0t\0");
    place.write("short.txt", "the old harbour .\n");
    place.write("folder/notes.pdf", "text\n");
    place.write("valid/train.txt", support::sentences(1, 50));
    place.write("valid/valid.txt", b"fine\n\nfine\ncaf\xe9\n");
    for (data, words) in [
        ("empty.txt", &["empty.txt", "the file is empty"][..]),
        ("blank.txt", &["blank.txt", "the file is empty"]),
        (
            "latin.txt",
            &["latin.txt:2", "byte 5 of the line", "byte 10 of the file", "0xFF", "--encoding latin1"],
        ),
        ("wide.txt", &["wide.txt:1", "utf-16"]),
        ("valid", &["valid.txt:4", "byte 4 of the line", "0xE9"]),
        ("short.txt", &["short.txt: has ", "less than one block of 64", "--num_max_positions"]),
        ("folder", &["no train.txt", "folder"]),
        ("nothing.txt", &["nothing.txt", "no file or folder", "starter"]),
    ] {
        let words = [words, &["fix: "]].concat();
        pretrain(&place, &format!("--data {data}")).refuses(1, &words);
        assert_no_run(&place);
    }
    pretrain(&place, "--data latin.txt --encoding klingon").refuses(2, &["klingon", "latin1", "fix: "]);
    place.run("tokenizer train latin.txt --out t.json").refuses(1, &["latin.txt:2", "byte 5"]);
    place.run("tokenizer train empty.txt --out t.json").refuses(1, &["empty.txt"]);
    assert!(!place.path("t.json").exists());
    // The way out works.
    pretrain(&place, "--data valid --encoding latin1 --max_steps 1 --num_max_positions 4").succeeds();
}

#[test]
fn labels_that_are_missing_or_unusable_are_named_with_their_line() {
    let place = Place::new();
    place.write("empty.csv", "");
    place.write("header.csv", "text,label\n");
    place.write("gap.csv", "text,label\nthe lake,a\nthe river,\nthe tower,b\n");
    place.write("gap.jsonl", "{\"text\":\"x\",\"label\":\"a\"}\n{\"text\":\"y\"}\n");
    place.write("broken.jsonl", "{\"text\":\"x\",\"label\":\"a\"}\n{\"text\":\n");
    place.write("open.csv", "text,label\nthe lake,a\n\"the river,b\nthe tower,b\n");
    place.write(
        "swallowed.csv",
        "text,label\nthe lake,a\n\"the river,b\nthe sea,a\n\"the tower\",b\nthe hill,a\n",
    );
    place.write("gap.txt", "__label__a the lake\nthe river\n");
    place.write("one.csv", "text,label\nthe lake,a\nthe river,a\n");
    place.write("pair.txt", "the lake\nthe river\nthe tower\n");
    place.write("pair.labels", "a\nb\n");
    place.write("latin.tsv", b"text\tlabel\nfine\ta\nc\xe9\tb\n");
    place.write("columns.csv", "id,words,mood\n1,the lake,a\n2,the river,b\n");
    place.write("plain.txt", "the lake\nthe river\n");
    place.write("new/train.csv", "text,label\nthe lake,a\nthe river,b\nthe sea,a\n");
    place.write("new/valid.csv", "text,label\nthe lake,a\nthe tower,c\n");
    place.write("folders/pos/1.txt", "the lake\n");
    fs::create_dir_all(place.path("folders/neg")).unwrap();
    for (data, words) in [
        ("empty.csv", &["empty.csv"][..]),
        ("header.csv", &["header.csv", "no examples"]),
        ("gap.csv", &["gap.csv:3", "the label is missing"]),
        ("gap.jsonl", &["gap.jsonl:2", "the label is missing"]),
        ("broken.jsonl", &["broken.jsonl:2", "JSON"]),
        ("open.csv", &["open.csv:3", "quote"]),
        ("swallowed.csv", &["swallowed.csv:3", "over 3 lines", "`the river,b`"]),
        ("gap.txt", &["gap.txt:2", "the label is missing"]),
        ("one.csv", &["one.csv", "all 2 examples have the label `a`", "two classes"]),
        ("pair.txt", &["pair.labels", "2 labels", "pair.txt has 3 texts"]),
        ("latin.tsv", &["latin.tsv:3", "byte 2 of the line"]),
        ("columns.csv", &["columns.csv:1", "id, words, mood", "column"]),
        ("plain.txt", &["plain.txt", "no labels", "__label__"]),
        ("new", &["valid.csv:3", "`c`", "a, b"]),
        ("folders", &["folders", ".txt"]),
    ] {
        let words = [words, &["fix: "]].concat();
        finetune(&place, &format!("--data {data}")).refuses(1, &words);
        assert_no_run(&place);
    }
    finetune(&place, "--data columns.csv --text_column text").refuses(1, &["`text`", "words"]);
    place.write("pairs.csv", "id,one,other,mood\n1,the lake,the river,a\n2,the river,,b\n");
    for (columns, what) in [
        ("one,two", "no text column `two`; the columns are id, one, other, mood"),
        ("one,one", "the text column `one` is named twice"),
        ("id,one,other", "3 text columns are named, and an example is one text or a pair"),
    ] {
        let words = ["pairs.csv:1", what, "fix: ", "--text_column"];
        finetune(&place, &format!("--data pairs.csv --label_column mood --text_column {columns}"))
            .refuses(1, &words);
        assert_no_run(&place);
    }
    place.write("odd.toml", "[data]\ntext_column = 3\n");
    finetune(&place, "--data pairs.csv --config odd.toml").refuses(2, &["odd.toml:2", "a list of two names"]);
    let scores = "text,score\nthe lake,1.5\nthe river,high\n";
    place.write("scores.csv", scores);
    place.write("nan.csv", scores.replace("high", "NaN"));
    for name in ["scores.csv", "nan.csv"] {
        let flags = format!("--data {name} --problem regression --label_column score");
        finetune(&place, &flags).refuses(1, &[&format!("{name}:3"), "is not a number", "fix: "]);
    }
    // The way out works.
    finetune(&place, "--data columns.csv --text_column words --label_column mood").succeeds();
    fs::remove_dir_all(place.path("run")).unwrap();
    let said = finetune(&place, "--data pairs.csv --text_column one,other --label_column mood");
    said.succeeds().says(&["train: 2 examples (a 1, b 1); 1 pairs have an empty text"]);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_or_does_not_fit_is_refused_before_it_is_read_or_made() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.path("pipe.csv")).status().unwrap().success());
    assert!(Command::new("mkfifo").arg(place.path("pipe.json")).status().unwrap().success());
    let no_file = "is a pipe, a socket or a device, not a file";
    place.write("fine.txt", "the lake .\n".repeat(200));
    for call in [
        "data inspect pipe.csv".to_owned(),
        format!("finetune --model {} --data pipe.csv --out run", path("lm")),
        "pretrain --data /dev/zero --tokenizer pipe.json --preset micro --out run".to_owned(),
        "pretrain --data fine.txt --tokenizer pipe.json --preset micro --out run".to_owned(),
        "tokenizer train pipe.csv --out new.json".to_owned(),
    ] {
        place.run(&call).refuses(1, &[no_file]);
        assert_no_run(&place);
    }
    pretrain(&place, "--data fine.txt --embed_dim 65536 --num_max_positions 16")
        .refuses(2, &["GiB, and this machine has"]);
    assert_no_run(&place);
}

#[test]
fn a_label_column_of_ids_is_refused_unless_it_is_meant() {
    let place = Place::new();
    let mut rows = String::from("text,label\n");
    for at in 0..1500 {
        let _ = writeln!(rows, "the lake {at},row-{at}");
    }
    place.write("ids.csv", &rows);
    let expected = ["ids.csv", "different labels", "row-0", "looks like ids or text", "--num_classes 1500"];
    finetune(&place, "--data ids.csv").refuses(1, &expected);
    finetune(&place, "--data ids.csv --num_classes 1500 --max_train_examples 4 --eval_every 0").succeeds();
}

#[test]
fn what_a_tokenizer_does_not_know_is_said() {
    let place = Place::new();
    let rows: String = (0..20)
        .map(|at| format!("\u{436}\u{430}\u{431}\u{430} {at},{}\n", ["land", "water"][at % 2]))
        .collect();
    place.write("far.csv", format!("text,label\n{rows}"));
    let words = ["tokens of the train texts (", "are unknown to the tokenizer, such as `"];
    let done = finetune(&place, "--data far.csv");
    let evaluated = place.run(&format!("eval {} --data far.csv --split train", path("tuned")));
    for said in [&done.succeeds().stderr, &evaluated.stderr] {
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
    }
    place.write("far.txt", "\u{436}\u{430}\u{431}\u{430}\n");
    let predicted = place.run(&format!("predict {} --input far.txt", path("tuned")));
    assert!(predicted.succeeds().stderr.contains("are unknown to the tokenizer"), "{}", predicted.stderr);
}

#[test]
fn texts_longer_than_the_positions_are_cut_counted_and_said() {
    let place = Place::new();
    let long = "the lake ".repeat(100);
    place.write(
        "long.csv",
        format!("text,label\n{long},a\nthe river,b\n{long},a\nthe tower,b\n,a\na lake,b\n"),
    );
    let done = finetune(&place, "--data long.csv");
    done.succeeds();
    // Both are said, whichever split they went to.
    let before = done.stderr.split(" texts longer than 64 tokens were cut");
    let counts: Vec<u32> = before.filter_map(|text| text.rsplit(' ').next()?.parse().ok()).collect();
    assert_eq!(counts.iter().sum::<u32>(), 2, "{}", done.stderr);
    assert!(done.stderr.contains("texts are empty"), "{}", done.stderr);
    let inspected =
        place.run(&format!("data inspect long.csv --tokenizer {} --num_max_positions 64", path("tok.json")));
    assert!(inspected.succeeds().stdout.contains('2'), "{}", inspected.stdout);
}

#[test]
fn what_validates_is_said() {
    let place = Place::new();
    place.write("four.csv", "text,label\nthe lake,a\nthe river,a\nthe tower,b\nthe sea,a\n");
    let done = finetune(&place, "--data four.csv");
    done.succeeds();
    for words in [
        "there is no validation data: 1 of 4",
        "train: 3 examples (a 2, b 1)",
        "valid: 1 examples (a 1, b 0)",
    ] {
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    let place = Place::new();
    place.write("both/train.csv", "text,label\nthe lake,a\nthe river,b\nthe sea,a\n");
    place.write("both/valid.csv", "text,label\nthe lake,a\nthe sea,b\nthe mill,b\n");
    place.write("both/test.csv", "text,label\nthe mill,a\n");
    let done = finetune(&place, "--data both");
    done.succeeds();
    for words in [
        "warning: 2 of 3 validation texts stand in the training data, too",
        "warning: 1 of 1 test texts stand in the validation data, too",
    ] {
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    assert!(!done.stderr.contains("test texts stand in the training data"), "{}", done.stderr);
}

#[test]
fn impossible_settings_are_refused_before_anything_is_made() {
    let place = Place::new();
    let data = format!("--data {}", path("books"));
    for (flags, words) in [
        ("--embed_dim 30 --num_heads 4", &["num_heads", "4 heads do not divide embed_dim 30"][..]),
        ("--num_layers 0", &["num_layers", "0"]),
        ("--embed_dim 0", &["embed_dim", "0"]),
        ("--embed_dim 99999999 --num_heads 1", &["embed_dim", "99999999"]),
        ("--hidden_dim 18446744073709551615", &["hidden_dim", "18446744073709551615"]),
        ("--num_max_positions 4000000000", &["num_max_positions", "4000000000"]),
        ("--num_max_positions 1", &["num_max_positions"]),
        ("--dropout 1", &["dropout", "not a probability below 1"]),
        ("--dropout NaN", &["dropout"]),
        ("--attention_dropout 1.5", &["attention_dropout"]),
        ("--initializer_range 0", &["initializer_range"]),
        ("--train_batch_size 0", &["train_batch_size"]),
        ("--grad_accum_steps 0", &["grad_accum_steps"]),
        ("--lr 0", &["lr"]),
        ("--lr inf", &["lr"]),
        ("--lr=-1", &["lr"]),
        ("--max_norm=-1", &["max_norm"]),
        ("--max_steps 0", &["max_steps", "n_epochs"]),
        ("--max_time 0", &["max_time"]),
        ("--keep 0", &["keep"]),
        ("--mlm --mlm_probability 0", &["mlm_probability"]),
        ("--threads 1000000", &["threads"]),
        ("--local_rank 0", &["--local_rank 0", "leave it out", "--threads"]),
    ] {
        let words = [words, &["fix: "]].concat();
        pretrain(&place, &format!("{data} {flags}")).refuses(2, &words);
        assert_no_run(&place);
    }
    // What clap refuses by itself has usage instead of a fix.
    for flags in [
        "--num_layers=-3",
        "--num_layers two",
        "--seed=-1",
        "--precision f16",
        "--arch llama",
        "--n_epoch 1",
        "--max_time 4x",
    ] {
        pretrain(&place, &format!("{data} {flags}")).refuses(2, &["--help"]);
        assert_no_run(&place);
    }
    let data = format!("--data {}", path("topics"));
    for (flags, words) in [
        ("--num_classes 3", &["num_classes", "3 classes", "has 2: land, water"][..]),
        ("--adapters_dim 65537", &["adapters_dim"]),
        ("--method head --adapters_dim 4", &["adapters_dim", "head", "--method adapters"]),
        ("--method bitfit --adapters_dim 4", &["adapters_dim", "bitfit"]),
        ("--lora_rank 4", &["lora_rank", "`full`", "--method lora"]),
        ("--method adapters --rslora", &["rslora", "`adapters`"]),
        ("--method lora --lora_rank 0", &["lora_rank", "0 is no rank"]),
        ("--method lora --lora_rank 60000", &["lora_rank", "use a number from 1 to"]),
        ("--method lora --lora_dropout 1", &["lora_dropout"]),
        ("--method lora --ia3_targets k", &["ia3_targets", "`lora`", "--method ia3"]),
        ("--method ia3 --lora_rank 4", &["lora_rank", "`ia3`"]),
        ("--method ia3 --adapters_reduction 4", &["adapters_reduction", "`ia3`"]),
        ("--adapters_kind pfeiffer", &["adapters_kind", "no adapters are added"]),
        ("--method adapters --adapters_scale 2", &["adapters_scale", "parallel"]),
        ("--method adapters --adapters_kind parallel --adapters_scale 0", &["adapters_scale", "positive"]),
        ("--method adapters --adapters_dim 4 --adapters_reduction 4", &["adapters_reduction", "given twice"]),
        ("--method adapters --adapters_reduction 0", &["adapters_reduction", "divided by 0"]),
        ("--base .", &["base", "whole model"]),
        ("--clf_loss_coef 0", &["clf_loss_coef"]),
        ("--lm_loss_coef NaN", &["lm_loss_coef"]),
        ("--dropout 1", &["dropout"]),
        ("--problem regression --class_weights balanced", &["class_weights"]),
        ("--finetuning_model_class TransformerWithClfHeadAndAdapters", &["--adapters_dim 32"]),
        ("--local_rank=1", &["--local_rank 1"]),
    ] {
        let words = [words, &["fix: "]].concat();
        finetune(&place, &format!("{data} {flags}")).refuses(2, &words);
        assert_no_run(&place);
    }
    // As long as can be asked for is not too long.
    pretrain(&place, &format!("--data {} --n_epochs 9223372036854775807 --max_steps 1", path("books")))
        .succeeds();
}

#[test]
fn settings_files_are_read_strictly() {
    let place = Place::new();
    place.write("typo.toml", "[train]\nlr = 0.1\nn_epoch = 3\n");
    place.write("kind.toml", "[model]\nnum_layers = \"two\"\n");
    place.write("torn.toml", "[model\n");
    place.write("value.toml", "[model]\nnum_layers = 0\n");
    for (file, words) in [
        ("typo.toml", &["typo.toml:3", "`n_epoch`", "n_epochs", "fix: "][..]),
        ("kind.toml", &["kind.toml:2", "fix: "]),
        ("torn.toml", &["torn.toml:1", "fix: "]),
        ("value.toml", &["num_layers", "fix: "]),
        ("none.toml", &["none.toml"]),
    ] {
        let data = format!("--data {} --config {file}", path("books"));
        place.run(&format!("pretrain {data} --out run")).refuses(2, words);
        assert_no_run(&place);
    }
}

#[test]
fn folders_that_are_taken_are_left_alone() {
    let place = Place::new();
    let data = format!("--data {} --max_steps 1", path("books"));
    place.write("run/thesis.tex", "the only copy");
    pretrain(&place, &data).refuses(2, &["run", "exists and is not empty", "--resume", "--out"]);
    finetune(&place, &format!("--data {}", path("topics"))).refuses(2, &["run", "exists and is not empty"]);
    assert_eq!(place.names("run"), ["thesis.tex"]);
    assert_eq!(place.bytes("run/thesis.tex"), b"the only copy");
    place.write("file", "a file");
    let call = format!("pretrain --tokenizer {} --preset micro {data}", path("tok.json"));
    place.run(&format!("{call} --out file")).refuses(2, &["file", "is a file", "--out"]);
    place
        .run(&format!("{call} --out file/run"))
        .refuses(1, &["file/run", "file is a file", "fix: ", "--out"]);
    assert_eq!(place.bytes("file"), b"a file");
    // An empty folder is nobody's.
    fs::create_dir(place.path("free")).unwrap();
    place.run(&format!("{call} --out free")).succeeds();

    place.run("pretrain --resume nowhere").refuses(2, &["nowhere", "no run in this folder", "fix: "]);
    place.run(&format!("finetune --resume {}", path("lm"))).refuses(2, &["headstart pretrain --resume"]);
    place.run("pretrain --resume free --lr 1").refuses(2, &["--lr 1", "keeps its settings", "fix: "]);
    place.run("pretrain --resume free --out other").refuses(2, &["--out", "fix: "]);
}

#[test]
fn models_that_are_not_there_or_of_the_wrong_kind_are_refused() {
    let place = Place::new();
    let topics = path("topics");
    let nowhere = place.run(&format!("finetune --model nowhere --data {topics} --out run"));
    nowhere.refuses(1, &["nowhere", "fix: "]);
    place.write("empty/x.txt", "no model");
    for call in ["predict empty", "generate empty --prompt a", &format!("eval empty --data {topics}")] {
        place.run(call).refuses(1, &["empty", "neither a run folder nor", "fix: "]);
    }
    place.run("predict empty/x.txt").refuses(1, &["x.txt", "fix: "]);
    place
        .run(&format!("predict {}", path("lm")))
        .refuses(1, &["without a classification head", "headstart finetune"]);
    let masked = place.run(&format!("generate {} --prompt the", path("mlm")));
    masked.refuses(1, &["masked language model", "--objective lm"]);
    // A run that was started and has saved nothing yet.
    let evaluated =
        format!("pretrain --data {} --tokenizer {} --preset micro", path("books"), path("tok.json"));
    place.run(&format!("{evaluated} --n_epochs 0 --out unborn")).succeeds();
    place.run("generate unborn --prompt the").refuses(1, &["unborn", "fix: "]);
    assert_no_run(&place);
}

#[test]
fn use_that_cannot_be_is_refused() {
    let place = Place::new();
    let (lm, tuned) = (path("lm"), path("tuned"));
    let prompt = "the ".repeat(100);
    place
        .run_with(&format!("generate {lm} --prompt"), &prompt)
        .refuses(2, &["prompt", "64 positions", "fix: "]);
    for flags in ["--temperature=-1", "--temperature NaN", "--top_p 0", "--top_p 2"] {
        let key = flags.trim_start_matches('-').split(['=', ' ']).next().unwrap();
        place.run(&format!("generate {lm} --prompt the {flags}")).refuses(2, &[key, "fix: "]);
    }
    place.write("new.csv", "text,label\nthe lake,water\nthe sky,air\n");
    place
        .run(&format!("eval {tuned} --data new.csv"))
        .refuses(1, &["new.csv:3", "`air`", "land, water", "fix: "]);
    let split = place.run(&format!("eval {lm} --data {} --split test", path("books")));
    split.refuses(1, &["split", "fix: "]);
    place.write("notes/README.md", "no text to learn from\n");
    place.run(&format!("eval {lm} --data notes")).refuses(1, &["notes", "train.txt", "fix: "]);
    place.run(&format!("predict {tuned} --input none.txt")).refuses(1, &["none.txt"]);
    // A row that cannot be read is answered with an error, or ends it where that is asked for.
    let input = [b"the lake\n".repeat(300), b"bad \xff\nthe lake\n".to_vec()].concat();
    let answers =
        place.feed(&format!("predict {tuned}"), &input).says(&["rows could not be read"]).json_lines();
    assert_eq!((answers.len(), &answers[300]["line"], answers[300].get("label")), (302, &301.into(), None));
    assert!(answers[300]["error"].as_str().unwrap().contains("byte 5") && answers[301]["label"].is_string());
    let done = place.feed(&format!("predict {tuned} --strict"), &input);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains(":301: byte 5") && done.stderr.contains("--encoding"), "{}", done.stderr);
    assert_eq!(done.stdout.lines().count(), 300);
}

#[test]
fn data_that_is_not_here_is_named_with_its_place() {
    let place = Place::new();
    let tokenizer = path("tok.json");
    let call = format!("pretrain --tokenizer {tokenizer} --offline --out run --data");
    for (name, file) in [("wikitext-2", "wikitext-2-v1.zip"), ("wikitext-103", "wikitext-103-v1.zip")] {
        let done = place.run(&format!("{call} {name}"));
        done.refuses(1, &[name, file, "cache", "--offline", "--mirror", "fix: "]);
    }
    finetune(&place, "--data imdb --offline").refuses(1, &["aclImdb_v1.tar.gz", "--mirror", "fix: "]);
    finetune(&place, "--data imdb --offline --mirror none").refuses(2, &["mirror", "none"]);
    finetune(&place, "--data movies").refuses(1, &["`movies`", "imdb", "starter-questions", "fix: "]);
    place.write("some.txt", "some text of one's own\n");
    let done = place.run("pretrain --data some.txt --offline --out run");
    done.refuses(1, &["bert-base-cased", "--mirror", "--tokenizer", "tokenizer train"]);
    // A set of the other kind.
    place.run(&format!("{call} starter-questions")).refuses(2, &["starter-questions", "fix: "]);
    finetune(&place, "--data starter").refuses(2, &["starter", "starter-questions", "fix: "]);
    place.run(&format!("{call} trec")).refuses(1, &["trec"]);
    place.run("tokenizer train starter-questions --out t.json").refuses(2, &["starter-questions", "fix: "]);
    place.run("pretrain --data starter --tokenizer nothing.json --out run").refuses(1, &["nothing.json"]);
    place.write("bad.json", "{\"model\": 3}");
    let done = place.run("pretrain --data starter --tokenizer bad.json --out run");
    done.refuses(1, &["bad.json", "fix: "]);
    assert_no_run(&place);
}

/// Cuts the last bytes off a file.
fn truncate(file: &Path) {
    let content = fs::read(file).unwrap();
    fs::write(file, &content[..content.len() - 9]).unwrap();
}

/// Changes one character in the middle of a file to another of its kind.
fn alter(file: &Path) {
    let mut content = fs::read(file).unwrap();
    let text = std::str::from_utf8(&content).is_ok();
    let middle = content.len() / 2;
    let at = if text {
        (middle..content.len()).find(|&at| content[at].is_ascii_digit()).unwrap_or(middle)
    } else {
        middle
    };
    content[at] = if content[at] == b'7' { b'8' } else { b'7' };
    fs::write(file, content).unwrap();
}

fn empty(file: &Path) {
    fs::write(file, b"").unwrap();
}

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

const DAMAGES: [fn(&Path); 4] = [truncate, alter, empty, remove];

#[test]
fn damaged_models_are_refused_by_name() {
    let place = Place::new();
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        for damage in DAMAGES {
            place.copy(&shared().path("tuned"), "tuned");
            damage(&place.path(&format!("tuned/final/{file}")));
            // An altered number in config.json is told by what it no longer fits.
            let named = if file == "config.json" { "final/" } else { file };
            place.feed("predict tuned", b"the lake\n").refuses(1, &[named, "fix: "]);
            fs::remove_dir_all(place.path("tuned")).unwrap();
        }
    }
    // Whole files of another model.
    for (file, named) in [("tokenizer.json", "tokenizer.json"), ("model.safetensors", "model.safetensors")] {
        place.copy(&shared().path("tuned"), "mixed");
        place.run("tokenizer train starter --vocab_size 300 --out other.json").succeeds();
        let other = if file == "tokenizer.json" {
            place.path("other.json")
        } else {
            shared().path("mlm/final").join(file)
        };
        fs::copy(other, place.path(&format!("mixed/final/{file}"))).unwrap();
        place.run("predict mixed").refuses(1, &[named, "fix: "]);
        let tuned = place.run(&format!("finetune --model mixed --data {} --out run", path("topics")));
        tuned.refuses(1, &[named, "fix: "]);
        fs::remove_dir_all(place.path("mixed")).unwrap();
        fs::remove_file(place.path("other.json")).unwrap();
    }
    assert_no_run(&place);
}

#[test]
fn damaged_checkpoints_are_never_resumed_from() {
    let place = Place::new();
    let checkpoints = shared().names("tuned/checkpoints");
    let steps: Vec<&String> = checkpoints.iter().filter(|name| name.starts_with("step-")).collect();
    let (newest, older) = (steps[steps.len() - 1], steps[0]);
    assert_ne!(newest, older);
    for file in
        ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json", "tokenizer.json"]
    {
        for damage in DAMAGES {
            place.copy(&shared().path("tuned"), "tuned");
            damage(&place.path(&format!("tuned/checkpoints/{newest}/{file}")));
            let done = place.run("finetune --resume tuned");
            // The newest is named as damaged, an older one as the way out.
            let words = [newest, file, "fix: ", older, "is whole"];
            done.refuses(1, &words);
            fs::remove_dir_all(place.path("tuned")).unwrap();
        }
    }
    // And the way out works: to the same weights.
    place.copy(&shared().path("tuned"), "tuned");
    fs::remove_dir_all(place.path(&format!("tuned/checkpoints/{newest}"))).unwrap();
    place.run("finetune --resume tuned").succeeds();
    assert_eq!(place.bytes("tuned/final/model.safetensors"), shared().bytes("tuned/final/model.safetensors"));
}

#[test]
fn a_damaged_log_is_named_with_its_line() {
    let place = Place::new();
    place.copy(&shared().path("tuned"), "tuned");
    let metrics = String::from_utf8(place.bytes("tuned/metrics.jsonl")).unwrap();
    place.write("tuned/metrics.jsonl", metrics.replacen("{\"step\":2", "{step:2", 1));
    place.run("finetune --resume tuned").refuses(1, &["metrics.jsonl:2", "fix: "]);
}

#[test]
fn losses_that_are_no_numbers_stop_after_five() {
    let place = Place::new();
    let call = format!("--data {} --lr 1e30 --n_warmup 0 --max_steps 20", path("books"));
    let words = [
        "step 2 is skipped: its training loss is not finite",
        "step 6 is skipped",
        "step 6: the training loss is not finite; 5 steps in a row were skipped",
        "--lr",
    ];
    // All of them hold what update 1 left, and nothing finite came of that.
    let saved = [&words[..], &["there is no good checkpoint"]].concat();
    pretrain(&place, &format!("{call} --save_every 1 --keep 9")).refuses(1, &saved);
    // Nothing was saved after the stop, and what was saved on the way is what the last update left.
    let steps = place.names("run/checkpoints").into_iter().filter(|name| name.starts_with("step-"));
    assert_eq!(steps.max().unwrap(), "step-00000005");
    let weights = |step: u64| place.tensors(&format!("run/checkpoints/step-{step:08}/model.safetensors"));
    assert!(weights(1).values().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
    assert!(weights(1) == weights(5));
    assert_eq!(place.skipped("run"), [2, 3, 4, 5, 6]);
    // Continued, it is the same run: one more step without a number, and it has had its five.
    let metrics = place.metrics("run");
    place.run("pretrain --resume run").refuses(1, &saved[1..]);
    assert!(place.metrics("run") == metrics);

    fs::remove_dir_all(place.path("run")).unwrap();
    pretrain(&place, &call).refuses(1, &[&words[..], &["no good checkpoint"]].concat());
    assert!(place.names("run/checkpoints").is_empty() && !place.path("run/final").exists());
    // A rate beyond f32, and no next step to tell: weights that are no numbers are not saved.
    fs::remove_dir_all(place.path("run")).unwrap();
    let call = format!("--data {} --lr 1e39 --n_warmup 0 --max_steps 1", path("books"));
    pretrain(&place, &call).refuses(1, &["step 1: not all weights are finite", "no good checkpoint", "--lr"]);
    assert!(place.names("run/checkpoints").is_empty() && !place.path("run/final").exists());
}

/// A disk that takes no more, as far as one process can tell: files may not grow beyond a limit.
#[cfg(unix)]
fn cramped(place: &Place, blocks: u32, arguments: &str) -> Done {
    let mut shell = Command::new("sh");
    let mut script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\"");
    for argument in arguments.split_whitespace() {
        let _ = write!(script, " '{argument}'");
    }
    shell.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_headstart"));
    Done::new(arguments, place.prepare(shell).output().unwrap())
}

#[cfg(unix)]
#[test]
fn a_full_disk_fails_by_name_and_what_was_saved_stays() {
    let place = Place::new();
    let flags = format!(
        "--data {} --tokenizer {} --preset micro --max_steps 4 --save_every 2 --n_warmup 1",
        path("books"),
        path("tok.json")
    );
    // First with room, so that the tokens are in the cache already.
    place.run(&format!("pretrain {flags} --out other")).succeeds();
    let full = cramped(&place, 100, &format!("pretrain {flags} --out run"));
    full.refuses(1, &["safetensors", "cannot be written", "make room", "--resume"]);
    // Nothing half-written under a proper name, and room was made again.
    assert_eq!(place.names("run/checkpoints"), Vec::<String>::new());
    assert!(!place.path("run/final").exists());
    // With room it goes on, to where it would have been.
    place.run("pretrain --resume run").succeeds();
    assert_eq!(place.bytes("run/final/model.safetensors"), place.bytes("other/final/model.safetensors"));
    assert_eq!(place.metrics("run"), place.metrics("other"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output_is_a_failure() {
    let place = Place::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    place.write("in.txt", "the lake\n");
    let call = format!("predict {} --input in.txt", path("tuned"));
    let output = place.command(&call).stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output") && !said.contains("panicked"), "{said}");
}

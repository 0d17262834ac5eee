//! The program as a user meets it: exit codes, help, guidance, data on stdout, and one small run from end to end.
//!
//! Owns: what is promised about the command line. Never: numbers of a training, which the library's tests judge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A working folder of its own, with its own cache, where nothing reaches the network.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
        command.args(arguments).current_dir(self.path()).env("HEADSTART_CACHE", self.path().join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::new(arguments, self.command(arguments).output().unwrap())
    }

    /// Runs it with `input` on standard input.
    fn feed(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        Done::new(arguments, child.wait_with_output().unwrap())
    }

    /// A small tokenizer in tok.json.
    fn tokenizer(&self) {
        self.run(&["tokenizer", "train", "starter", "--vocab_size", "600", "--out", "tok.json"]).succeeds();
    }
}

/// A finished call.
struct Done {
    call: String,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Done {
    fn new(arguments: &[&str], output: Output) -> Self {
        let done = Self {
            call: format!("headstart {}", arguments.join(" ")),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!done.stderr.contains("panicked"), "{}: {}", done.call, done.stderr);
        done
    }

    fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}: {}", self.call, self.stderr);
        self
    }

    /// Ends with this exit code and says all of this; standard output stays clean.
    fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}: {}", self.call, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{}: no `{word}` in {}", self.call, self.stderr);
        }
        assert_eq!(self.stdout, "", "{}", self.call);
    }

    fn json(&self) -> Value {
        self.succeeds();
        assert_eq!(self.stdout.lines().count(), 1, "{}: {}", self.call, self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    for command in
        ["quickstart", "data", "tokenizer", "pretrain", "finetune", "eval", "predict", "generate", "doctor"]
    {
        assert!(help.succeeds().stdout.contains(&format!("\n  {command}")), "{}", help.stdout);
        assert!(place.run(&[command, "--help"]).succeeds().stdout.contains("Usage: headstart"), "{command}");
    }
    assert_eq!(
        place.run(&["--version"]).succeeds().stdout,
        concat!("headstart ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn wrong_calls_end_with_2() {
    let place = Place::new();
    place.run(&[]).refuses(2, &["Usage: headstart"]);
    place.run(&["train"]).refuses(2, &["unrecognized subcommand 'train'"]);
    place.run(&["pretrain", "--learning_rate", "1"]).refuses(2, &["--learning_rate"]);
    place.run(&["pretrain", "--objective", "clm"]).refuses(2, &["lm, mlm"]);
    place.run(&["pretrain", "--mlm", "--objective", "lm"]).refuses(2, &["cannot be used with"]);
    place.run(&["pretrain", "--max-steps", "0"]).refuses(2, &["max_steps", "fix:"]);
    place.run(&["pretrain", "--num_heads", "7"]).refuses(2, &["num_heads", "410"]);
    place.run(&["pretrain", "--preset", "huge"]).refuses(2, &["huge", "naacl2019"]);
    place.run(&["finetune", "--data", "starter-questions"]).refuses(2, &["model", "pretrain"]);
}

#[test]
fn flags_of_the_tutorial_without_a_key_get_guidance() {
    let place = Place::new();
    for command in ["pretrain", "finetune"] {
        place.run(&[command, "--local_rank", "0"]).refuses(2, &["--local_rank 0", "fix: leave it out"]);
        place.run(&[command, "--device", "cuda"]).refuses(2, &["GPU", "--device cpu"]);
        place.run(&[command, "--device", "tpu"]).refuses(2, &["no such device"]);
    }
    let class = ["finetune", "--finetuning_model_class", "TransformerWithAdapters"];
    place.run(&class).refuses(2, &["--adapters_dim", "--lm_loss_coef"]);
}

#[test]
fn a_settings_file_is_read_strictly() {
    let place = Place::new();
    place.write("run.toml", "objective = \"lm\"\n\n[train]\nn_epoch = 3\n");
    place.run(&["pretrain", "--config", "run.toml"]).refuses(2, &["run.toml:4", "`n_epoch`", "`n_epochs`"]);
    place.run(&["pretrain", "--config", "none.toml"]).refuses(2, &["cannot read the settings none.toml"]);
    place.run(&["pretrain", "--resume", "runs/none"]).refuses(2, &["runs/none", "no run in this folder"]);
}

#[test]
fn data_that_is_not_here_is_named_with_its_place() {
    let place = Place::new();
    place.tokenizer();
    let arguments =
        ["pretrain", "--data", "wikitext-2", "--tokenizer", "tok.json", "--offline", "--out", "r"];
    place.run(&arguments).refuses(1, &["wikitext-2", "--mirror", "wikitext-2-v1.zip"]);
    let arguments = ["pretrain", "--data", "starter", "--offline", "--out", "r"];
    place.run(&arguments).refuses(1, &["bert-base-cased", "--mirror", "--tokenizer", "tokenizer train"]);
    place.run(&["pretrain", "--data", "nothing", "--tokenizer", "tok.json"]).refuses(1, &["nothing"]);
    assert!(!place.path().join("r").exists(), "a run folder was made for nothing");
}

#[test]
fn the_list_of_data_is_readable_and_parsable() {
    let place = Place::new();
    place.write("mirror/trec/train_5500.label", "HUM:ind Who wrote it ?\nNUM:count How many are there ?\n");
    place.write("mirror/trec/TREC_10.label", "HUM:ind Who ?\n");
    let text = place.run(&["data", "list"]);
    assert!(text.succeeds().stdout.contains("wikitext-103") && text.stdout.contains("starter-questions"));
    let lines = place.run(&["data", "list", "--json", "--mirror", "mirror"]);
    let lines: Vec<Value> =
        lines.succeeds().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let trec = lines.iter().find(|line| line["name"] == "trec").unwrap();
    assert_eq!((&trec["origin"], &trec["kind"]), (&Value::from("mirror"), &Value::from("labelled")));
    assert_eq!(lines.iter().find(|line| line["name"] == "imdb").unwrap()["origin"], Value::Null);
    place.run(&["data", "prepare", "wikitext-2", "--offline"]).refuses(1, &["wikitext-2-v1.zip"]);
}

#[test]
fn own_data_is_inspected_and_its_faults_are_located() {
    let place = Place::new();
    place.tokenizer();
    place.write(
        "good.csv",
        "text,label\nThe harbour is calm,calm\n\"Waves, and wind\",wild\nStill water,calm\n",
    );
    let inspect = |name: &str| place.run(&["data", "inspect", name, "--tokenizer", "tok.json", "--json"]);
    let found = inspect("good.csv").json();
    assert_eq!(found["train"]["examples"], 3);
    assert_eq!(found["train"]["label_balance"], serde_json::json!([["calm", 2], ["wild", 1]]));
    place.write("bad.csv", "text,label\nThe harbour is calm,calm\nno label here,\n");
    inspect("bad.csv").refuses(1, &["bad.csv:3", "fix:"]);
    place.write("latin.csv", b"text,label\nfine,a\ncaf\xe9,b\n");
    inspect("latin.csv").refuses(1, &["latin.csv:3", "byte 4", "--encoding"]);
    place.write("empty.csv", "");
    inspect("empty.csv").refuses(1, &["empty.csv"]);
    place.write("one.csv", "text,label\na,x\nb,x\n");
    inspect("one.csv").refuses(1, &["one.csv"]);
    place.write("books/train.txt", "The harbour is calm .\n\nThe harbour is old .\n");
    let found = inspect("books").json();
    assert_eq!(
        (&found["train"]["counts"]["lines"], &found["train"]["counts"]["words"]),
        (&3.into(), &13.into())
    );
}

#[test]
fn tokenizers_are_trained_and_imported_but_never_overwritten() {
    let place = Place::new();
    place.write("text.txt", "the cat sat on the mat and the cats sat too\n".repeat(50));
    let train = ["tokenizer", "train", "text.txt", "--vocab_size", "60", "--out", "tok.json", "--json"];
    let trained = place.run(&train).json();
    assert_eq!(trained["file"], "tok.json");
    place.run(&train).refuses(2, &["tok.json", "exists"]);
    place
        .run(&["tokenizer", "train", "text.txt", "--out", "small.json", "--vocab_size", "2"])
        .refuses(2, &["vocab_size"]);
    place.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncat\n");
    let imported = place.run(&["tokenizer", "import", "vocab.txt", "--out", "imported.json"]);
    assert!(imported.succeeds().stderr.contains("`[MASK]`"), "{}", imported.stderr);
    assert_eq!(imported.stdout, "imported.json: 7 pieces\n");
    place.run(&["tokenizer", "import", "nothing", "--out", "x.json"]).refuses(1, &["nothing"]);
}

#[test]
fn the_doctor_reports() {
    let found = Place::new().run(&["doctor", "--json"]).json();
    assert!(found["threads"].as_u64().unwrap() >= 1);
    assert!(found["cache_dir"].as_str().unwrap().ends_with("cache"));
    assert!(Place::new().run(&["doctor"]).succeeds().stdout.contains("processor"));
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = place.command(&["data", "list"]).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn one_small_run_from_text_to_answers() {
    let place = Place::new();
    place.tokenizer();
    let pretrain = |extra: &[&str]| {
        let fixed =
            ["pretrain", "--data", "starter", "--tokenizer", "tok.json", "--preset", "micro", "--json"];
        place.run(&[&fixed[..], &["--warmup_steps", "2", "--threads", "1"], extra].concat())
    };
    let trunk = pretrain(&["--max_steps", "6", "--out", "trunk"]).json();
    assert_eq!((&trunk["steps"], &trunk["total_steps"]), (&6.into(), &6.into()));
    assert!(trunk["metrics"]["valid/nll"].as_f64().unwrap() > 0.0);
    pretrain(&["--max_steps", "6", "--out", "trunk"]).refuses(2, &["trunk"]);
    assert!(fs::read_to_string(place.path().join("trunk/command.txt")).unwrap().contains("--preset micro"));

    let finetune =
        ["finetune", "--model", "trunk", "--data", "starter-questions", "--max_steps", "4", "--json"];
    let tuned = place.run(&[&finetune[..], &["--out", "questions", "--n_warmup", "1"]].concat()).json();
    assert!(tuned["metrics"]["test/accuracy"].as_f64().is_some(), "{tuned}");
    assert_eq!(tuned["confusion"].as_array().unwrap().len(), 6);
    let page = fs::read_to_string(place.path().join("questions/report.html")).unwrap();
    assert!(page.contains("Headstart run questions") && page.contains("Confusion matrix, test"));

    let evaluated = place.run(&["eval", "questions", "--data", "starter-questions", "--json"]).json();
    assert_eq!(evaluated["split"], "test");
    assert_eq!(evaluated["metrics"]["accuracy"], tuned["metrics"]["test/accuracy"]);
    assert!(place.run(&["eval", "trunk", "--data", "starter"]).succeeds().stdout.contains("nll"));

    let questions = "Who is the mayor ?\n\nHow long is the river ?\n";
    let answers = place.feed(&["predict", "questions", "--with_text"], questions);
    let answers: Vec<Value> =
        answers.succeeds().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<&str> = answers.iter().map(|answer| answer["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["Who is the mayor ?", "", "How long is the river ?"]);
    let probabilities = answers[0]["probabilities"].as_object().unwrap();
    assert!((probabilities.values().map(|p| p.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-4);
    assert!(probabilities.contains_key(answers[0]["label"].as_str().unwrap()));
    place.run(&["predict", "trunk"]).refuses(1, &["trunk", "finetune"]);
    place.run(&["predict", "questions", "--input", "none.txt"]).refuses(1, &["none.txt"]);

    let generate = |seed: &str| {
        let arguments =
            ["generate", "trunk", "--prompt", "The river", "--max-new-tokens", "8", "--seed", seed];
        place.run(&arguments).succeeds().stdout.clone()
    };
    assert!(generate("1").starts_with("The river"));
    assert_eq!(generate("1"), generate("1"));
    assert_ne!(generate("1"), generate("2"));
    place.run(&["generate", "trunk", "--prompt", "x", "--top_p", "2"]).refuses(2, &["top_p"]);
}

/// The first signal ends the run with everything saved, and the run goes on from there to the end it was to have.
#[cfg(unix)]
#[test]
fn a_stopped_run_can_be_continued() {
    let place = Place::new();
    place.tokenizer();
    let start = ["pretrain", "--data", "starter", "--tokenizer", "tok.json", "--preset", "micro", "--json"];
    let start = [&start[..], &["--n_epochs", "1", "--out", "run"]].concat();
    let mut child = place.command(&start).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("step 1/")), "no first step");
    let signal = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{said:?}");
    let stopped: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stopped["stopped"], "signal");
    assert!(said.iter().any(|line| line.contains("stopping")), "{said:?}");

    place.run(&["pretrain", "--resume", "run", "--lr", "0.5"]).refuses(2, &["--lr 0.5", "0.00025"]);
    place.run(&["finetune", "--resume", "run"]).refuses(2, &["headstart pretrain --resume run"]);
    let limited = place.run(&["pretrain", "--resume", "run", "--max_time", "0.05", "--json"]).json();
    assert_eq!(limited["stopped"], "max_time");
    assert!(limited["steps"].as_u64() > stopped["steps"].as_u64());
}

//! What the tests that call the program share: a working folder, finished calls, small data, one small trunk each.
//!
//! Owns: how the program is called, and data small enough to train on in a second. Never: judges a result.

#![allow(dead_code, reason = "every test binary uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

pub mod published;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use headstart::checkpoint::TensorFile;
use headstart::run_log::{self, is_timing, tensorboard};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything a test waits for may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Ends a run after one step on any machine: a time that is over when the first step is done, and is looked at after each.
/// A time that a run may or may not need would stop some machines' runs and not others'.
pub const ONE_STEP: &str = "--max_time 0.000001";

/// A working folder of its own, with its own cache, where nothing reaches the network.
pub struct Place {
    dir: PathBuf,
    environment: Vec<(&'static str, String)>,
    // Removed with the place; the places shared by a whole test binary lie in the build folder instead.
    _temporary: Option<TempDir>,
}

impl Place {
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// A place in a folder of one's choice.
    pub fn within(folder: &Path) -> Self {
        let temporary = tempfile::tempdir_in(folder).unwrap();
        Self { dir: temporary.path().to_path_buf(), environment: Vec::new(), _temporary: Some(temporary) }
    }

    /// A place for the whole test binary, in the build folder, since statics are never dropped.
    fn shared(name: &str) -> Self {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{profile}"));
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir_all(&dir).unwrap();
        Self { dir, environment: Vec::new(), _temporary: None }
    }

    /// The same, with an environment variable for all that is called in it.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The program, called in this folder. Flags stand in one string, separated by spaces.
    pub fn command(&self, arguments: &str) -> Command {
        // Where tests are carried to another machine, the program lies elsewhere.
        let program = std::env::var_os("HEADSTART_TEST_PROGRAM");
        let mut command =
            Command::new(program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_headstart").as_ref()));
        command.args(arguments.split_whitespace());
        self.prepare(command)
    }

    /// Any command, called in this folder.
    pub fn prepare(&self, mut command: Command) -> Command {
        command.current_dir(&self.dir).env("HEADSTART_CACHE", self.dir.join("cache"));
        command.env("HF_HOME", self.dir.join("huggingface")).env("HF_HUB_OFFLINE", "1");
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // Nobody listens there: a test that reaches for the network fails.
        command.env("https_proxy", "http://127.0.0.1:9").env("http_proxy", "http://127.0.0.1:9");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &str) -> Done {
        Done::new(arguments, self.command(arguments).output().unwrap())
    }

    /// Runs it with a last argument that may hold spaces.
    pub fn run_with(&self, arguments: &str, last: &str) -> Done {
        Done::new(arguments, self.command(arguments).arg(last).output().unwrap())
    }

    /// Runs it with `input` on standard input.
    pub fn feed(&self, arguments: &str, input: &[u8]) -> Done {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A program that answers while it reads would otherwise wait for us, and we for it. One that refuses early
        // closes the pipe.
        let writer = thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Done::new(arguments, output)
    }

    /// Starts it, to be interrupted.
    pub fn start(&self, arguments: &str) -> Running {
        let mut command = self.command(arguments);
        // Files instead of pipes: a full pipe would hold up a program that is only watched.
        let said = self.path("said.txt");
        command.stderr(fs::File::create(&said).unwrap()).stdout(Stdio::null());
        Running { call: arguments.into(), child: command.spawn().unwrap(), said }
    }

    /// A corpus of simple sentences in `books/`, with a tokenizer in `tok.json`.
    pub fn books(&self) {
        self.write("books/train.txt", sentences(1, 2_000));
        self.write("books/valid.txt", sentences(2, 200));
        self.run("tokenizer train books --vocab_size 200 --out tok.json").succeeds();
    }

    /// The same sentences with a label that follows from their words, as `topics/{train,valid,test}.csv`.
    pub fn topics(&self) {
        for (seed, name, lines) in [(3, "train", 400), (4, "valid", 60), (5, "test", 60)] {
            self.write(&format!("topics/{name}.csv"), topics(seed, lines));
        }
    }

    /// The same sentences with a number instead, as `scores/{train,valid}.csv`. The square of one of them is beyond f32:
    /// the batch that has it has no finite loss, and all others do.
    pub fn scores(&self) {
        for (seed, name, lines) in [(3, "train", 160), (4, "valid", 40)] {
            let scores = topics(seed, lines).replace(",water", ",1.5").replace(",land", ",-0.5");
            let scores = if name == "train" { scores.replacen(",1.5", ",1e30", 1) } else { scores };
            self.write(&format!("scores/{name}.csv"), scores);
        }
    }

    /// The training steps that a run skipped.
    pub fn skipped(&self, run: &str) -> Vec<u64> {
        let skipped = |values: &[(String, u64)]| values.iter().any(|(name, _)| name == "skipped");
        self.metrics(run).iter().filter(|metrics| skipped(&metrics.2)).map(|metrics| metrics.0).collect()
    }

    /// The metrics a run logged, without what depends on the clock.
    pub fn metrics(&self, run: &str) -> Vec<Metrics> {
        let records = run_log::read_metrics(&self.path(run)).unwrap();
        let metrics = |r: run_log::Record| {
            let values = r.values.into_iter().filter(|(name, _)| !is_timing(name));
            (r.step, r.kind.as_str(), values.map(|(name, value)| (name, value.to_bits())).collect())
        };
        records.into_iter().map(metrics).collect()
    }

    /// Steps, tags and values of a run's TensorBoard files, without what depends on the clock.
    pub fn scalars(&self, run: &str) -> Vec<(u64, String, u32)> {
        let files = tensorboard::event_files(&self.path(run).join("tensorboard")).unwrap();
        assert!(!files.is_empty(), "{run} has no TensorBoard file");
        let scalars = files.iter().flat_map(|file| tensorboard::read_scalars(file).unwrap());
        scalars.filter(|s| !is_timing(&s.tag)).map(|s| (s.step, s.tag, s.value.to_bits())).collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The files of a finished model, and of the adapter in its folder: names and bytes.
    pub fn finished(&self, run: &str) -> Vec<(String, Vec<u8>)> {
        let mut files = self.names(&format!("{run}/final"));
        if let Some(at) = files.iter().position(|name| name == "adapter") {
            files.remove(at);
            let inside = self.names(&format!("{run}/final/adapter"));
            files.extend(inside.into_iter().map(|name| format!("adapter/{name}")));
        }
        let file = |name: String| (name.clone(), self.bytes(&format!("{run}/final/{name}")));
        files.into_iter().map(file).collect()
    }

    /// The names in a folder, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn json_file(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap()
    }

    /// The tensors of a safetensors file, as bits.
    pub fn tensors(&self, name: &str) -> BTreeMap<String, Vec<u32>> {
        let file = TensorFile::open(&self.path(name), None).unwrap();
        let read = |name: &str| {
            let mut values = vec![0.0_f32; file.shape(name).unwrap().iter().product()];
            file.copy_to(name, &mut values).unwrap();
            (name.to_owned(), values.into_iter().map(f32::to_bits).collect())
        };
        file.names().map(read).collect()
    }

    /// Copies a folder to be damaged.
    pub fn copy(&self, from: &Path, to: &str) {
        copy_folder(from, &self.path(to));
    }
}

/// Step, kind, and the metrics with their bits.
pub type Metrics = (u64, &'static str, Vec<(String, u64)>);

/// Copies a folder with all it has.
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

/// A finished call.
pub struct Done {
    pub call: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn new(arguments: &str, output: Output) -> Self {
        let done = Self {
            call: format!("headstart {arguments}"),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!done.stderr.contains("panicked"), "{}: {}", done.call, done.stderr);
        done
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}: {}", self.call, self.stderr);
        self
    }

    /// Succeeds and says all of this on standard error.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> &Self {
        self.succeeds();
        self.mentions(words);
        self
    }

    /// Ends with this exit code and names all of this, with a way out; standard output stays clean.
    #[track_caller]
    pub fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}: {}", self.call, self.stderr);
        self.mentions(words);
        assert_eq!(self.stdout, "", "{}", self.call);
    }

    #[track_caller]
    fn mentions(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "{}: no `{word}` in {}", self.call, self.stderr);
        }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        self.succeeds();
        assert_eq!(self.stdout.lines().count(), 1, "{}: {}", self.call, self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// One JSON object a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        self.succeeds();
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A call that is going on.
pub struct Running {
    call: String,
    child: Child,
    said: PathBuf,
}

impl Running {
    /// Waits until `ready` holds, without a pause, so that short moments are met; whether it did before the end.
    pub fn until(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        let since = Instant::now();
        while !ready() {
            if self.child.try_wait().unwrap().is_some() {
                return ready();
            }
            assert!(since.elapsed() < PATIENCE, "{}: {}", self.call, self.said());
            thread::yield_now();
        }
        true
    }

    /// What it has said so far on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Ends it as the kernel does: at once, with nothing tidied up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        assert!(!self.said().contains("panicked"), "{}: {}", self.call, self.said());
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.unwrap().success(), "{}", self.call);
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(!self.said().contains("panicked"), "{}: {}", self.call, self.said());
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "{}: {}", self.call, self.said());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A failed test leaves no process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A metric of a result.
pub fn metric(result: &Value, name: &str) -> f64 {
    result["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {result}"))
}

/// The call as two processes, which both succeed.
pub fn as_two(place: &Place, call: &str) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let of = |rank| {
        let ranks = format!("--rank {rank} --world_size 2 --rendezvous 127.0.0.1:{port} --comm_timeout 20");
        place.command(&format!("{call} {ranks}")).spawn().unwrap()
    };
    let running: Vec<_> = (0..2).map(of).collect();
    for child in running {
        Done::new(call, child.wait_with_output().unwrap()).succeeds();
    }
}

/// Number of whole lines in a file; 0 before it is there.
pub fn lines(path: &Path) -> usize {
    fs::read(path).map_or(0, |content| content.split(|b| *b == b'\n').count() - 1)
}

/// A place with `books`, `topics`, and the finished runs `lm` and `mlm`, made once for a test binary. Read only.
pub fn trunks(binary: &str) -> &'static Place {
    static TRUNKS: OnceLock<Place> = OnceLock::new();
    TRUNKS.get_or_init(|| {
        let place = Place::shared(binary);
        place.books();
        place.topics();
        // The tutorial's layout learns the topics after some pretrainings and not after others, as rounding has it, at
        // every rate tried; what must be learned is learned on the other layout.
        for (name, flags) in [
            ("lm", "--objective lm --arch gpt2 --lr 3e-3"),
            ("mlm", "--objective mlm --arch gpt2 --lr 3e-3"),
            ("naacl2019", "--objective lm --arch naacl2019 --lr 1e-2"),
        ] {
            // On every machine the same.
            let call = format!("pretrain {flags} --precision f32 --out {name} {TRUNK}");
            place.run(&call).succeeds();
        }
        place
    })
}

/// The settings that the shared trunks have in common.
pub const TRUNK: &str = "--data books --tokenizer tok.json --preset micro --train_batch_size 8 --n_epochs 5 --n_warmup 10 --max_norm 1";

/// A small generator of numbers, the same everywhere.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        // Knuth's MMIX generator; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn one<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

const KINDS: [&str; 5] = ["old", "small", "quiet", "green", "broken"];
const WATER: [&str; 3] = ["harbour", "river", "lake"];
const LAND: [&str; 3] = ["tower", "garden", "market"];
const DEEDS: [&str; 4] = ["watches", "crosses", "guards", "paints"];

/// A sentence, and whether it is about water.
pub fn sentence(draws: &mut Draws) -> (String, bool) {
    let water = draws.below(2) == 0;
    let things = if water { WATER } else { LAND };
    let mut text = format!("the {} {}", draws.one(&KINDS), draws.one(&things));
    // Of different lengths, as texts are.
    for _ in 0..=draws.below(3) {
        let _ = write!(text, " {} the {} {}", draws.one(&DEEDS), draws.one(&KINDS), draws.one(&things));
    }
    (text + " .", water)
}

pub fn sentences(seed: u64, lines: usize) -> String {
    let mut draws = Draws::new(seed);
    (0..lines).fold(String::new(), |text, _| text + &sentence(&mut draws).0 + "\n")
}

pub fn topics(seed: u64, lines: usize) -> String {
    let mut draws = Draws::new(seed);
    (0..lines).fold("text,label\n".into(), |table, _| {
        let (text, water) = sentence(&mut draws);
        format!("{table}{text},{}\n", if water { "water" } else { "land" })
    })
}

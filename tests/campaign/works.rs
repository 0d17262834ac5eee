//! Small runs of each kind, and what they are when nobody touches them.
//!
//! Owns: their calls, what of a folder must not depend on interruptions, what a folder may answer. Never: interrupts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::Counts;
use crate::support::{Draws, Metrics, Place, sentences, topics};

/// The processes of one start: of `call` in `place`, with more flags.
pub type Starts = dyn Fn(&Place, &str) -> Vec<Command> + Sync;

/// One process.
pub fn alone(place: &Place, call: &str) -> Vec<Command> {
    vec![place.command(call)]
}

/// A kind of run.
pub struct Work {
    pub name: &'static str,
    /// `pretrain` or `finetune`.
    pub command: &'static str,
    flags: String,
    /// What is asked of its models.
    questions: Vec<String>,
    /// What the run leaves, with the bits of each checkpoint on the way.
    pub left: Left,
    checkpoints: BTreeMap<String, Vec<u8>>,
    answers: BTreeSet<String>,
}

/// All kinds, and their data.
pub struct Works {
    pub works: Vec<Work>,
    // Until the last of them is done.
    _data: Place,
}

/// What a run left that must not depend on interruptions.
#[derive(PartialEq)]
pub struct Left {
    /// The files of `final/`.
    model: Vec<(String, Vec<u8>)>,
    best: String,
    metrics: Vec<Metrics>,
    scalars: Vec<(u64, String, u32)>,
}

const COMMON: &str = "--threads 1 --seed 42 --keep 2";

impl Works {
    pub fn cache() -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("campaign-cache")
    }

    /// Makes the data and runs each kind once.
    pub fn make() -> Self {
        let steps = "--max_steps 7 --n_warmup 2 --lr 3e-3 --eval_every 3 --save_every 2";
        Self::of(&[
            ("lm", "pretrain", &format!("--arch gpt2 {steps}")),
            ("adapters", "finetune", "--adapters_dim 4 --n_epochs 2 --eval_every 3 --save_every 2"),
            ("bert", "pretrain", &format!("--arch bert --precision bf16 {steps}")),
        ])
    }

    /// The kinds whose bits must not depend on the number of ranks, with dropout and a last batch that is not full.
    pub fn of_ranks() -> Self {
        let steps = "--max_steps 7 --n_warmup 2 --lr 3e-3 --eval_every 3 --save_every 2 --reduction_groups 4";
        let epochs = "--n_epochs 2 --eval_every 3 --save_every 2 --reduction_groups 4";
        Self::of(&[
            ("lm", "pretrain", &format!("--arch gpt2 {steps}")),
            ("lm, bf16", "pretrain", &format!("--arch gpt2 --precision bf16 {steps}")),
            ("mlm", "pretrain", &format!("--objective mlm --arch gpt2 {steps}")),
            ("mlm, bert, bf16", "pretrain", &format!("--arch bert --precision bf16 {steps}")),
            ("full", "finetune", &format!("--lm_loss_coef 0.5 {epochs}")),
            ("full, bf16", "finetune", &format!("--precision bf16 {epochs}")),
            ("adapters", "finetune", &format!("--method adapters --adapters_dim 4 {epochs}")),
        ])
    }

    fn of(kinds: &[(&'static str, &'static str, &str)]) -> Self {
        let data = Place::new().with("HEADSTART_CACHE", Self::cache().display().to_string());
        data.write("books/train.txt", sentences(1, 120));
        data.write("books/valid.txt", sentences(2, 12));
        data.write("books/test.txt", sentences(6, 12));
        for (seed, name, lines) in [(3, "train", 37), (4, "valid", 12), (5, "test", 12)] {
            data.write(&format!("topics/{name}.csv"), topics(seed, lines));
        }
        data.run("tokenizer train books --vocab_size 150 --out tok.json").succeeds();
        let trunk = "pretrain --data books --tokenizer tok.json --preset micro --arch gpt2 --max_steps 4 --lr 3e-3 \
                     --n_warmup 1 --threads 1";
        data.run(&format!("{trunk} --out trunk")).succeeds();
        let at = data.path("").display().to_string();
        let at = at.trim_end_matches('/');
        let work = |(name, command, flags): &(&'static str, &'static str, &str)| {
            let books = format!(
                "--data {at}/books --tokenizer {at}/tok.json --preset micro --train_batch_size 5 {flags}"
            );
            let topics = format!(
                "--model {at}/trunk --data {at}/topics --train_batch_size 8 --lr 3e-3 --n_warmup 2 {flags}"
            );
            let ask = |data: &str| format!("eval MODEL --data {at}/{data} --threads 1 --json");
            let predict = format!("predict MODEL --input {at}/topics/test.csv --threads 1");
            match *command {
                "pretrain" => Work::make(name, command, books, vec![ask("books")]),
                _ => Work::make(name, command, topics, vec![ask("topics"), predict]),
            }
        };
        Self { works: kinds.iter().map(work).collect(), _data: data }
    }
}

impl Work {
    fn make(name: &'static str, command: &'static str, flags: String, questions: Vec<String>) -> Self {
        let left = Left { model: Vec::new(), best: String::new(), metrics: Vec::new(), scalars: Vec::new() };
        let mut work = Self {
            name,
            command,
            flags,
            questions,
            left,
            checkpoints: BTreeMap::new(),
            answers: BTreeSet::new(),
        };
        let run = |place: &Place| place.run(&work.start("run")).succeeds().code;
        let place = Place::new().with("HEADSTART_CACHE", Works::cache().display().to_string());
        run(&place);
        let left = Left::of(&place, "run");
        // Once more, with a checkpoint after every step.
        let all =
            work.start("run").replace("--keep 2", "--keep 99").replace("--save_every 2", "--save_every 1");
        let place = Place::new().with("HEADSTART_CACHE", Works::cache().display().to_string());
        place.run(&all).succeeds();
        for step in place.names("run/checkpoints").into_iter().filter(|step| step.starts_with("step-")) {
            for file in place
                .names(&format!("run/checkpoints/{step}"))
                .iter()
                .filter(|file| *file != "trainer_state.json")
            {
                let name = format!("{step}/{file}");
                let bytes = place.bytes(&format!("run/checkpoints/{name}"));
                work.checkpoints.insert(name, bytes);
            }
            for question in &work.questions {
                let output = answer(&place, question, &format!("run/checkpoints/{step}"));
                work.answers.insert(plain(&output, &format!("run/checkpoints/{step}")));
            }
        }
        for question in &work.questions {
            work.answers.insert(plain(&answer(&place, question, "run"), "run"));
        }
        work.left = left;
        work
    }

    /// The call that starts it.
    pub fn start(&self, out: &str) -> String {
        format!("{} {} {COMMON} --out {out}", self.command, self.flags)
    }

    /// The call that goes on where it stands.
    pub fn go_on(&self, place: &Place, run: &str) -> String {
        if place.path(&format!("{run}/config.toml")).exists() {
            format!("{} --resume {run}", self.command)
        } else {
            self.start(run)
        }
    }

    /// Asks the models of a folder. Each answer is one that a whole model gives, or an error that has a name.
    pub fn ask(&self, place: &Place, run: &str, counts: &Counts) -> Result<(), String> {
        for question in &self.questions {
            let output = answer(place, question, run);
            if output.status.success() {
                counts.add("answers of folders");
                let found = plain(&output, run);
                if !self.answers.contains(&found) {
                    return Err(format!("`{question}` of {run} gave what no whole model gives: {found}"));
                }
            } else {
                named(&output, &[]).map_err(|what| format!("`{question}` of {run}: {what}"))?;
                counts.add("named errors of eval and predict");
            }
        }
        Ok(())
    }

    /// Every checkpoint there is has the bits it would have had.
    pub fn whole_checkpoints(&self, place: &Place, run: &str) -> Result<Vec<String>, String> {
        let checkpoints = format!("{run}/checkpoints");
        if !place.path(&checkpoints).is_dir() {
            return Ok(Vec::new());
        }
        let steps: Vec<String> =
            place.names(&checkpoints).into_iter().filter(|name| name.starts_with("step-")).collect();
        for step in &steps {
            for (name, bytes) in self.checkpoints.iter().filter(|(name, _)| name.starts_with(step.as_str())) {
                if fs::read(place.path(&format!("{checkpoints}/{name}"))).ok().as_ref() != Some(bytes) {
                    return Err(format!("{checkpoints}/{name} is not what it would have been"));
                }
            }
        }
        Ok(steps)
    }

    /// Goes on to the end, and is then the run that nobody touched.
    pub fn ends_as_it_would_have(
        &self,
        place: &Place,
        run: &str,
        starts: &Starts,
        counts: &Counts,
    ) -> Result<(), String> {
        let call = self.go_on(place, run);
        for output in all_end(starts(place, &call))? {
            counts.add("runs");
            if !output.status.success() {
                return Err(format!("`{call}` does not go on: {}", said(&output)));
            }
        }
        self.same(place, run)?;
        counts.add("same-bit comparisons");
        Ok(())
    }

    /// Whether a finished run is the one that nobody touched.
    pub fn same(&self, place: &Place, run: &str) -> Result<(), String> {
        self.left.same(&Left::of(place, run))?;
        let rests: Vec<String> =
            ["", "/checkpoints"].iter().flat_map(|at| place.names(&format!("{run}{at}"))).collect();
        match rests.iter().find(|name| name.starts_with('.')) {
            Some(rest) => Err(format!("{rest} is left behind")),
            None => Ok(()),
        }
    }
}

impl Left {
    pub fn of(place: &Place, run: &str) -> Self {
        Self {
            model: place.finished(run),
            best: place.json_file(&format!("{run}/checkpoints/best.json")).to_string(),
            metrics: place.metrics(run),
            scalars: place.scalars(run),
        }
    }

    /// What differs from a run that must have the same bits.
    pub fn same(&self, found: &Self) -> Result<(), String> {
        let names = |left: &Self| left.model.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if names(self) != names(found) {
            return Err(format!("final/ holds {:?}, not {:?}", names(found), names(self)));
        }
        if let Some(((name, _), _)) = self.model.iter().zip(&found.model).find(|(a, b)| a != b) {
            return Err(format!("final/{name} has other bits"));
        }
        if let Some((expected, found)) = self.metrics.iter().zip(&found.metrics).find(|(a, b)| a != b) {
            return Err(format!("metrics.jsonl has {found:?}, not {expected:?}"));
        }
        if self.metrics.len() != found.metrics.len() {
            return Err(format!(
                "metrics.jsonl has {} lines, not {}",
                found.metrics.len(),
                self.metrics.len()
            ));
        }
        if self.scalars != found.scalars {
            return Err("the TensorBoard files have other scalars".into());
        }
        if self.best != found.best {
            return Err(format!("best.json is {}, not {}", found.best, self.best));
        }
        Ok(())
    }
}

fn answer(place: &Place, question: &str, model: &str) -> Output {
    place.command(&question.replace("MODEL", model)).output().unwrap()
}

/// What a folder answered, whatever its name.
fn plain(output: &Output, model: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_str(&text) else {
        return text.replace(model, "MODEL");
    };
    fields.remove("model");
    serde_json::Value::Object(fields).to_string()
}

/// What an end may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Starts processes together and waits until all have ended, which they must within a minute.
pub fn all_end(commands: Vec<Command>) -> Result<Vec<Output>, String> {
    let children = commands.into_iter().map(|mut command| command.spawn().unwrap()).collect();
    wait(children)
}

/// Waits for the end of processes, which must come within a minute.
pub fn wait(mut children: Vec<Child>) -> Result<Vec<Output>, String> {
    let began = Instant::now();
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        if began.elapsed() > PATIENCE {
            for child in &mut children {
                child.kill().unwrap();
            }
            let outputs = children.into_iter().map(|child| said(&child.wait_with_output().unwrap()));
            return Err(format!(
                "no end in {} s: {}",
                PATIENCE.as_secs(),
                outputs.collect::<Vec<_>>().join("\n")
            ));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(children.into_iter().map(|child| child.wait_with_output().unwrap()).collect())
}

/// What a process said.
pub fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = text.lines().rev().take(6).collect();
    format!("{}: {}", output.status, tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

/// Whether a process ended with an error that says one of these words, and a way out.
pub fn named(output: &Output, words: &[String]) -> Result<(), String> {
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("panicked") {
        return Err(format!("it panicked: {}", said(output)));
    }
    if !matches!(output.status.code(), Some(1 | 2)) {
        return Err(format!("no error, and no success: {}", said(output)));
    }
    // What the system says needs no other way out than to see to it.
    if !text.contains("error: ") || !["fix: ", "(os error "].iter().any(|word| text.contains(word)) {
        return Err(format!("the error has no name or no way out: {}", said(output)));
    }
    if !words.is_empty() && !words.iter().any(|word| text.contains(word.as_str())) {
        return Err(format!("the error names none of {words:?}: {}", said(output)));
    }
    Ok(())
}

/// The numbers of a case.
pub fn draws(case: u64) -> Draws {
    Draws::new(case.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

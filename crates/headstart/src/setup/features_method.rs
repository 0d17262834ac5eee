//! `finetune --method features`: the trunk runs once over all texts as it is, and a linear head is fitted to what comes out.
//!
//! Owns: the order of that run, and the vectors' cache. Never: the fit (`baseline`), what a vector is (`head_fit`).
//!
//! Vectors are kept in the folder of the token caches, a few thousand texts to a file, under a sum of everything they depend on: the trunk's
//! weights and sizes, the pooling, the precision, the device's code path, and the inputs as the trunk reads them. So a second start,
//! or another problem on the same texts, takes no pass at all, and what a stop cuts short costs one file at most.

use std::path::PathBuf;
use std::time::Instant;

use headstart_engine::Weights;
use rayon::prelude::*;

use crate::baseline::LinearModel;
use crate::batch::Examples;
use crate::checkpoint::{ModelFiles, RunFolder};
use crate::config::{Arch, FinetuneConfig, HeadConfig, HeadPooling, Method, ModelConfig, Problem, Task};
use crate::data::cache::{CacheKey, CacheUse, load_or_build};
use crate::data::source;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval::{self, Calibration};
use crate::event::{Event, Listener, Signal};
use crate::head_fit::{Trunk, fitted, put, sequence, strengths};
use crate::infer::not_finite;
use crate::memory;
use crate::model::Model;
use crate::predictions::Line;
use crate::ranks::Ranks;
use crate::report::{Report, Table};
use crate::run_log::{Kind, RunLog, read_metrics};
use crate::setup::bag_of_words::interrupted;
use crate::setup::examples::class_weights;
use crate::setup::pace::amount_of;
use crate::tensors::all_finite;
use crate::train::{
    Bar, EvaluationSplit, Finished, FittedHead, OriginsOf, Summary, add_verdict, record_predictions,
    summarise, thousands, to_record, unix_seconds, write_summary,
};
use crate::train_log::TrainLog;

/// Texts to a file of vectors.
const FILE_TEXTS: usize = 4_096;
/// Forward and backward are three times the work of forward.
const FULL_WORK: f64 = 3.0;

/// Everything such a run needs; `finetune` puts it together.
pub(crate) struct FeaturesRun<'a> {
    pub(crate) config: &'a FinetuneConfig,
    pub(crate) device: Device,
    pub(crate) ranks: Ranks,
    pub(crate) model: Model,
    pub(crate) weights: Vec<f32>,
    pub(crate) train: Examples<'a>,
    pub(crate) valid: Option<EvaluationSplit<'a>>,
    pub(crate) test: Option<EvaluationSplit<'a>>,
    pub(crate) bar: Option<Bar>,
    pub(crate) notes: Vec<String>,
    pub(crate) files: ModelFiles,
    pub(crate) folder: RunFolder,
    pub(crate) origins: Option<OriginsOf<'a>>,
    /// When the work for this run began.
    pub(crate) since: Instant,
}

/// Vectors of some examples.
struct Made {
    values: Vec<f32>,
    /// Tokens that the trunk has seen for them just now, and the seconds that took.
    tokens: usize,
    seconds: f64,
}

impl FeaturesRun<'_> {
    /// Computes, fits, evaluates and saves; rank 0 does so for all.
    ///
    /// # Errors
    /// What goes wrong on the device or the disk; [`Error::Interrupted`] when the listener said stop.
    pub(crate) fn run(self, listener: &mut Listener<'_>) -> Result<Summary> {
        let mut summary = Summary { steps: 1, total_steps: 1, metrics_step: Some(1), ..Summary::default() };
        let ranks = self.ranks.clone();
        let run_dir: PathBuf = ranks.of_leader(|| {
            let dir = self.folder.dir().to_path_buf();
            self.lead(&mut summary, listener)?;
            Ok(dir)
        })?;
        Ok(Summary { run_dir, ..summary })
    }

    fn lead(mut self, summary: &mut Summary, listener: &mut Listener<'_>) -> Result<()> {
        let mut log = self.folder.train_log().map(|path| TrainLog::open(&path, &self.notes)).transpose()?;
        let (max_time, since, mut late) = (self.config.train.max_time, self.since, false);
        let listener: &mut Listener<'_> = &mut |event| {
            if let Some(log) = &mut log {
                log.event(&event);
            }
            let signal = listener(event);
            if !late && max_time.is_some_and(|most| since.elapsed().as_secs_f64() > most) {
                listener(Event::Message("the time of max_time is over; vectors that are done are kept"));
                late = true;
            }
            if late { Signal::Stop } else { signal }
        };
        let weights = Weights::new(std::mem::take(&mut self.weights));
        let trunk = Trunk {
            device: &self.device,
            model: &self.model,
            weights: &weights,
            precision: self.config.train.precision(),
        };
        let width = trunk.width();
        let splits = [
            Some(&self.train),
            self.valid.as_ref().map(|s| &s.examples),
            self.test.as_ref().map(|s| &s.examples),
        ];
        let texts: usize = splits.iter().flatten().map(|examples| examples.len()).sum();
        let what = format!("{} vectors of {width} numbers, three times over,", thousands(texts));
        memory::check_fits(&what, 12 * (texts * width) as u64)?;
        let key = self.key(&weights);
        let vectors = |examples: &Examples<'_>, listener: &mut Listener<'_>| {
            self.vectors(&trunk, &key, examples, listener)
        };
        let made = vectors(&self.train, listener)?;
        let clock = Instant::now();
        let (problem, outputs) = self.head();
        let mut done = 0;
        let mut go_on = || {
            done += 1;
            listener(Event::Progress { what: "fitting the head", done, total: 0 }) == Signal::Continue
        };
        let class_weights = class_weights(self.config, &self.train, outputs);
        let weighted = class_weights.as_deref();
        let linear = fitted(&self.train, &made.values, (problem, outputs), weighted, &mut go_on)
            .ok_or_else(interrupted)?;
        let fit_s = clock.elapsed().as_secs_f64();
        let (mut tokens, mut seconds) = (made.tokens, made.seconds);
        let mut run_log = RunLog::open(self.folder.dir(), 0, None, unix_seconds())?;
        let (mut evaluations, mut temperature) = (Vec::new(), None);
        for (name, kind, split) in [("valid", Kind::Valid, &self.valid), ("test", Kind::Test, &self.test)] {
            let Some(split) = split else { continue };
            let made = vectors(&split.examples, listener)?;
            (tokens, seconds) = (tokens + made.tokens, seconds + made.seconds);
            let rows: Vec<f32> =
                made.values.par_chunks(width).flat_map_iter(|vector| linear.outputs(vector)).collect();
            let scored = (problem, self.config.clf_loss_coef);
            let mut evaluation =
                eval::of_logits(name, &rows, &split.examples.labels, scored, &self.files.labels);
            if name == "valid" {
                let answers = evaluation.answers.as_ref();
                summary.calibration = answers.and_then(|answers| Calibration::kept(answers, listener));
                temperature = summary.calibration.map(|calibration| calibration.temperature);
            }
            evaluation.calibrate(temperature);
            evaluation.add_intervals();
            summarise(summary, &evaluation);
            let record = to_record(kind, 1, &evaluation);
            run_log.log(&record)?;
            let metric = problem.judged_by();
            listener(Event::Evaluation { record: &record, metric, best_so_far: kind == Kind::Valid });
            evaluations.push((name, evaluation));
        }
        run_log.flush()?;
        let head = self.told(&linear, (tokens, seconds), fit_s, texts * width);
        listener(Event::Message(&format!("the head: {head}")));
        self.files.temperature = temperature;
        let mut values = weights.values().to_vec();
        put(&linear, &self.model, &mut values);
        let evaluated =
            |name: &str| evaluations.iter().find(|(of, _)| *of == name).map(|(_, evaluation)| evaluation);
        let card = Finished {
            folder: &self.folder,
            files: &self.files,
            table: self.model.table(),
            weights: &values,
            data: &self.config.data.path,
            valid: evaluated("valid"),
            test: evaluated("test"),
        };
        let path = self.folder.write_final(&self.files, self.model.table(), &values, &card.card()?)?;
        listener(Event::Saved(&path));
        summary.final_dir = Some(path);
        summary.labels.clone_from(&self.files.labels);
        summary.bow = self.bar;
        let mistakes = match (evaluations.last(), &self.origins) {
            (Some((_, evaluation)), Some(origins)) => {
                record_predictions(&self.folder, evaluation, origins, summary, listener)?
            }
            _ => Vec::new(),
        };
        self.report(summary, &head, &mistakes)?;
        summary.fitted = Some(head);
        self.folder.dir().clone_into(&mut summary.run_dir);
        write_summary(&self.folder, summary, self.since.elapsed().as_secs_f64())
    }

    fn head(&self) -> (Problem, usize) {
        self.model
            .config()
            .head
            .as_ref()
            .map_or_else(Default::default, |head| (head.problem, head.num_classes))
    }

    /// What all vectors of this run depend on, but for the inputs.
    fn key(&self, weights: &Weights) -> CacheKey {
        // What the head says of its outputs changes no vector.
        let mut config = self.model.config().clone();
        config.head = config.head.map(|head| HeadConfig {
            num_classes: 1,
            problem: Problem::SingleLabel,
            max_length: None,
            dropout: None,
            ..head
        });
        let own: Vec<usize> = self
            .model
            .last_linear()
            .map(|(parts, bias)| parts.iter().chain(&bias).map(|view| view.offset).collect())
            .unwrap_or_default();
        let mut key = CacheKey::new("vectors")
            .with(serde_json::to_string(&config).unwrap_or_default().as_bytes())
            .with(format!("{:?}", self.config.train.precision()).as_bytes())
            .with(self.device.name().as_bytes())
            .with(self.device.code_path().to_string().as_bytes());
        for param in self.model.table().params().iter().filter(|param| !own.contains(&param.offset)) {
            let values = &weights.values()[param.offset..][..param.len()];
            key = key.with(param.name.as_bytes()).with(bytemuck::cast_slice(values));
        }
        key
    }

    /// The vectors of examples, from the cache where they are there.
    fn vectors(
        &self,
        trunk: &Trunk<'_>,
        key: &CacheKey,
        examples: &Examples<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Made> {
        let folder = source::cache_dir(&self.config.data).join("vectors");
        let width = trunk.width();
        let mut all = Made { values: Vec::with_capacity(examples.len() * width), tokens: 0, seconds: 0.0 };
        for first in (0..examples.len()).step_by(FILE_TEXTS) {
            let places = first..examples.len().min(first + FILE_TEXTS);
            let mut key = key.clone();
            let mut tokens = 0;
            for at in places.clone() {
                let sequence = sequence(examples, at);
                let types = sequence.token_type_ids.unwrap_or_default();
                tokens += sequence.input_ids.len();
                key = key.with(bytemuck::cast_slice(&sequence.input_ids)).with(bytemuck::cast_slice(&types));
            }
            let clock = Instant::now();
            let count = places.len() * width;
            let sound = |numbers: &[u32], (): &()| {
                numbers.len() == count && all_finite(bytemuck::cast_slice(numbers))
            };
            let (store, (), usage) = load_or_build(&folder, &key, sound, |file| {
                let values = trunk.vectors(examples, places, listener)?.ok_or_else(interrupted)?;
                if !all_finite(&values) {
                    return Err(not_finite(self.config.model.as_deref().unwrap_or(self.folder.dir())));
                }
                file.append(bytemuck::cast_slice(&values))
            })?;
            if usage != CacheUse::Hit {
                all.tokens += tokens;
                all.seconds += clock.elapsed().as_secs_f64();
            }
            all.values.extend_from_slice(bytemuck::cast_slice(store.ids()));
        }
        Ok(all)
    }

    /// What was done, and what fine-tuning everything would take.
    fn told(
        &self,
        linear: &LinearModel,
        (tokens, seconds): (usize, f64),
        fit_s: f64,
        numbers: usize,
    ) -> FittedHead {
        let mut full = self.config.train.clone();
        let task = Task::Finetuning { method: Method::Full, from_scratch: self.config.from_scratch };
        full.choose(task, self.model.config(), amount_of(&self.train));
        let epochs =
            full.total_steps(self.train.len()) as f64 / full.steps_per_epoch(self.train.len()) as f64;
        let work = FULL_WORK * epochs * self.train.tokens() as f64;
        let computed = (tokens > 0).then_some(seconds);
        let table = self.model.table().len();
        FittedHead {
            width: linear.weights.len() / linear.biases.len().max(1),
            examples: self.train.len(),
            strengths: strengths(linear),
            vectors_s: computed,
            fit_s,
            memory_bytes: 4 * (table + numbers) as u64,
            full: Some((computed.map(|seconds| seconds / tokens as f64 * work), 16 * table as u64)),
        }
    }

    fn report(&self, summary: &Summary, head: &FittedHead, mistakes: &[Line]) -> Result<()> {
        let dir = self.folder.dir();
        let title = format!("Headstart run {}", dir.file_name().unwrap_or_default().display());
        let line = "The model's trunk is as it was; its head was fitted to vectors of the training texts. The settings are in \
                    config.toml, all metrics in metrics.jsonl, beside this page.";
        let mut report = Report::of_run(&read_metrics(dir)?, Some(1), title, vec![line.to_owned()]);
        let model = self.config.model.as_ref().map_or_else(String::new, |model| model.display().to_string());
        let vector =
            self.model.config().head.as_ref().map(|head| head.pooling.in_words()).unwrap_or_default();
        let rows = [
            ("data", self.config.data.path.clone()),
            ("method", "features: the trunk once, a linear head".to_owned()),
            ("started from", model),
            ("vector", vector),
            ("the head", head.to_string()),
            ("a bag of words", summary.bow.map_or_else(String::new, |bar| bar.to_string())),
            ("command", self.folder.command()),
        ];
        report.tables.insert(
            0,
            Table {
                title: "This run".into(),
                rows: rows
                    .into_iter()
                    .filter(|(_, what)| !what.is_empty())
                    .map(|(name, what)| vec![name.to_owned(), what])
                    .collect(),
                ..Table::default()
            },
        );
        add_verdict(&mut report, summary, mistakes);
        report.write(&self.folder.report_html())
    }
}

/// The model of a method that fits its head: nothing that would have to be trained stands between trunk and head.
pub(crate) fn plain_head(model: &mut ModelConfig, own_head: bool) {
    if !own_head && model.arch == Arch::Modernbert {
        model.layout.prediction_head = Some(false);
    }
    // A fitted head needs its constants.
    model.layout.head_bias = None;
}

/// Refuses a pooler that the model does not bring along: nothing would train it.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn check_pooler(pooling: HeadPooling, is_there: bool) -> Result<()> {
    if pooling != HeadPooling::Pooler || is_there {
        return Ok(());
    }
    Err(Error::Config {
        key: "pooling".into(),
        what: "the model brings no pooler along, and this method trains none".into(),
        fix: "use --pooling mean or cls, or another --method".into(),
    })
}

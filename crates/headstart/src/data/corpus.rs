//! Language-model corpora: text files become one stream of token ids per split, cut into equal blocks.
//!
//! Owns: what a line becomes, how words are counted. Never: shuffles blocks or masks
//! tokens.

use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::{self, CacheKey, CacheUse, Progress, TokenStore};
use super::encoding;
use super::running_text::{self, Reading, RunningText};
use crate::error::{Result, bad};
use crate::tokenizer::{self, Tokenizer, TokenizerTrainer, TrainOptions, Trained};

/// What was counted while a text became tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusCounts {
    /// Lines, empty ones included.
    pub lines: u64,
    /// Words as the tutorial counts them: what stands between single spaces, and every line end.
    pub words: u64,
    /// Bytes of the text in UTF-8, line ends included.
    pub bytes: u64,
}

impl AddAssign for CorpusCounts {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
        self.bytes += other.bytes;
    }
}

/// The ids of the text of an input, or of the two of a pair.
pub type Texts<'a> = (&'a [u32], Option<&'a [u32]>);

/// One split of a corpus as token ids: each line's pieces, then the end-of-line token, line after line.
#[derive(Debug)]
pub struct TokenStream {
    store: TokenStore,
    counts: CorpusCounts,
    cache: CacheUse,
    source: PathBuf,
}

impl TokenStream {
    /// The stream of text files or tables' texts, one behind the other, from the cache where it was made before.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; [`crate::Error::BadInput`] when they are empty or not valid in their encoding; as [`RunningText::open`].
    pub fn load(
        files: &[PathBuf],
        reading: &Reading,
        tokenizer: &Tokenizer,
        cache_folder: &Path,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let mut key = CacheKey::new("lm")
            .with(tokenizer.content_hash().as_bytes())
            .with(reading.encoding.name().as_bytes());
        if let Some(columns) = running_text::text_columns(files, reading)? {
            key = columns.iter().fold(key.with(b"table"), |key, column| key.with(column.as_bytes()));
        }
        for path in files {
            key = key.with_file(path, progress)?;
        }
        let source = name_of(files);
        let build = |writer: &mut cache::CacheWriter| {
            let mut text = RunningText::open(files, reading)?;
            let (mut counts, mut done) = (CorpusCounts::default(), 0);
            let total = text.total_bytes();
            while let Some((block, bytes)) = text.next_block()? {
                let mut watch = |part| cache::go_on(progress, done + part, total);
                for (ids, part) in tokenise(&block, tokenizer, &mut watch)? {
                    writer.append(&ids)?;
                    counts += part;
                }
                done += bytes;
                cache::go_on(progress, done, total)?;
            }
            // Nothing but line ends.
            if counts.words == counts.lines { Err(encoding::empty(&source)) } else { Ok(counts) }
        };
        let sound = |ids: &[u32], _: &CorpusCounts| tokenizer.knows(ids);
        let (store, counts, cache) = cache::load_or_build(cache_folder, &key, sound, build)?;
        Ok(Self { store, counts, cache, source })
    }

    /// The stream of a text in memory; `name` is what errors call it.
    ///
    /// # Errors
    /// [`crate::Error::BadInput`] when the tokenizer fails.
    pub fn from_text(text: &str, tokenizer: &Tokenizer, name: &str) -> Result<Self> {
        let (mut all, mut counts) = (Vec::new(), CorpusCounts::default());
        for (ids, part) in tokenise(text, tokenizer, &mut |_| Ok(()))? {
            all.extend_from_slice(&ids);
            counts += part;
        }
        Ok(Self { store: TokenStore::from_vec(all), counts, cache: CacheUse::Memory, source: name.into() })
    }

    /// All ids.
    pub fn ids(&self) -> &[u32] {
        self.store.ids()
    }

    /// Lines, words and bytes of the text, its tail included.
    pub fn counts(&self) -> CorpusCounts {
        self.counts
    }

    /// Whether the ids came from the cache.
    pub fn cache_use(&self) -> CacheUse {
        self.cache
    }

    /// The file, or the name of the text in memory.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The lines of the text, without the token `end` behind each; in `pairs`, two by two. What has no token is passed over, and of a pair the
    /// other text stands alone.
    ///
    /// # Errors
    /// [`crate::Error::BadInput`] when no line has a token.
    pub fn texts(&self, end: u32, pairs: bool) -> Result<Vec<Texts<'_>>> {
        let lines = self.ids().split(|&id| id == end).map(|line| [line]);
        Ok(self.together(lines, pairs)?.into_iter().map(|[texts]| texts).collect())
    }

    /// As [`TokenStream::texts`], of one text in the pieces of two tokenizers, each with its own end. Passed over is what has no token in
    /// either.
    ///
    /// # Errors
    /// [`crate::Error::BadInput`] as there, and where lines cannot be told apart because one holds an end within.
    pub fn texts_beside<'a>(
        &'a self,
        end: u32,
        (other, others_end): (&'a Self, u32),
        pairs: bool,
    ) -> Result<Vec<[Texts<'a>; 2]>> {
        let split = |stream: &'a Self, end: u32| stream.ids().split(move |&id| id == end);
        let counts = [split(self, end).count(), split(other, others_end).count()];
        if counts[0] != counts[1] {
            let what = format!(
                "has {} lines in one model's pieces and {} in the other's: a line holds the special token that ends lines in one of them",
                counts[0] - 1,
                counts[1] - 1
            );
            return Err(bad(
                &self.source,
                None,
                what,
                "take the names of special tokens, such as [SEP], out of the text",
            ));
        }
        self.together(split(self, end).zip(split(other, others_end)).map(<[_; 2]>::from), pairs)
    }

    /// Lines of one text, in the pieces of so many tokenizers, as inputs.
    fn together<'a, const N: usize>(
        &self,
        mut lines: impl Iterator<Item = [&'a [u32]; N]>,
        pairs: bool,
    ) -> Result<Vec<[Texts<'a>; N]>> {
        let mut texts = Vec::new();
        while let Some(first) = lines.next() {
            let second = if pairs { lines.next() } else { None };
            let [first, second] =
                [Some(first), second].map(|line| line.filter(|all| !all.iter().any(|ids| ids.is_empty())));
            match (first, second) {
                (Some(first), Some(second)) => {
                    texts.push(std::array::from_fn(|i| (first[i], Some(second[i]))));
                }
                (Some(alone), None) | (None, Some(alone)) => texts.push(alone.map(|ids| (ids, None))),
                (None, None) => {}
            }
        }
        if texts.is_empty() {
            return Err(bad(&self.source, None, "has no line with a token".into(), "give text"));
        }
        Ok(texts)
    }

    /// The stream as blocks of `num_max_positions` consecutive tokens; the tail that fills no block is dropped.
    ///
    /// # Errors
    /// [`crate::Error::BadInput`] when the stream is shorter than one block.
    pub fn blocks(&self, num_max_positions: usize) -> Result<Blocks<'_>> {
        let ids = self.ids();
        if num_max_positions == 0 || ids.len() < num_max_positions {
            let what =
                format!("has {} tokens, less than one block of {num_max_positions} positions", ids.len());
            let fix = "give more text, or a smaller `--block_size` or `--num_max_positions`";
            return Err(bad(&self.source, None, what, fix));
        }
        Ok(Blocks { ids, num_max_positions })
    }
}

/// A stream cut into equal blocks.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    ids: &'a [u32],
    num_max_positions: usize,
}

impl<'a> Blocks<'a> {
    /// The number of blocks, at least 1.
    pub fn count(&self) -> usize {
        self.ids.len() / self.num_max_positions
    }

    /// The ids of block `index`, `num_max_positions` of them; an empty slice past the last block.
    pub fn get(&self, index: usize) -> &'a [u32] {
        self.ids.chunks_exact(self.num_max_positions).nth(index).unwrap_or_default()
    }
}

/// What errors call the text of these files: the only one, or the folder of the first.
fn name_of(files: &[PathBuf]) -> PathBuf {
    match files {
        [only] => only.clone(),
        _ => files.first().and_then(|first| first.parent()).unwrap_or(Path::new("")).to_path_buf(),
    }
}

/// Learns a tokenizer from corpora, each of them text files or tables, in the order given.
///
/// # Errors
/// [`crate::Error::Config`] when the vocabulary is too small; [`crate::Error::Io`] and [`crate::Error::BadInput`] as for reading text.
pub fn train_tokenizer(
    corpora: &[Vec<PathBuf>],
    reading: &Reading,
    options: TrainOptions,
    progress: Progress<'_>,
) -> Result<Trained> {
    let mut trainer = TokenizerTrainer::new(options)?;
    let mut readers: Vec<RunningText> =
        corpora.iter().map(|files| RunningText::open(files, reading)).collect::<Result<_>>()?;
    let total = readers.iter().map(RunningText::total_bytes).sum();
    let mut done = 0;
    for reader in &mut readers {
        while let Some((block, bytes)) = reader.next_block()? {
            trainer.feed_watched(&block, &mut || cache::go_on(progress, done, total))?;
            done += bytes;
            cache::go_on(progress, done, total)?;
        }
    }
    trainer.finish_watched(&mut || cache::go_on(progress, done, total))
}

/// The ids of whole lines, on all threads, in order. Lines are independent, so where the work is cut cannot matter.
/// `watch` is told the bytes that are done, several times a second, and can end the work.
fn tokenise(
    text: &str,
    tokenizer: &Tokenizer,
    watch: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<(Vec<u32>, CorpusCounts)>> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (mut all, mut done) = (Vec::new(), 0);
    for batch in tokenizer::batches(lines.iter().map(|line| line.len())) {
        if done > 0 {
            watch(done)?;
        }
        let lines = &lines[batch];
        if let [line] = lines {
            all.push(tokenise_lines(&[line], tokenizer, &mut || watch(done))?);
        } else {
            let parts = lines.par_chunks(64).map(|lines| tokenise_lines(lines, tokenizer, &mut || Ok(())));
            all.append(&mut parts.collect::<Result<Vec<_>>>()?);
        }
        done += lines.iter().map(|line| line.len() as u64).sum::<u64>();
    }
    Ok(all)
}

fn tokenise_lines(
    lines: &[&str],
    tokenizer: &Tokenizer,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<(Vec<u32>, CorpusCounts)> {
    let (mut ids, mut counts) = (Vec::new(), CorpusCounts::default());
    for &line in lines {
        let content = line.strip_suffix('\n').unwrap_or(line);
        tokenizer.encode_corpus_line_watched(content, &mut ids, go_on)?;
        ids.push(tokenizer.roles().eos);
        counts += CorpusCounts { lines: 1, words: count_words(content), bytes: line.len() as u64 };
    }
    Ok((ids, counts))
}

/// Words of one line: what stands between single spaces, and the line end.
pub(super) fn count_words(line: &str) -> u64 {
    line.split(' ').filter(|word| !word.is_empty()).count() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::event::Signal;
    use crate::tokenizer::{Case, TokenizerKind};

    fn tokenizer() -> Tokenizer {
        let vocab = "[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\nsat\n.\n=\n";
        Tokenizer::from_vocab_bytes(vocab.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap()
    }

    fn pieces(stream: &TokenStream, tokenizer: &Tokenizer) -> String {
        stream.ids().iter().map(|&id| tokenizer.id_to_piece(id).unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_of_two_tokenizers_are_the_same_lines() {
        let own = tokenizer();
        let vocab = "[UNK]\n[SEP]\n[CLS]\n[MASK]\nt\n##h\n##e\nc\n##a\n##t\n";
        let other =
            Tokenizer::from_vocab_bytes(vocab.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap();
        let stream = |text: &str, tokenizer| TokenStream::from_text(text, tokenizer, "text").unwrap();
        let text = "the cat\n\nthe\n";
        let (a, b) = (stream(text, &own), stream(text, &other));
        let ends = [own.roles().eos, other.roles().eos];
        let both = a.texts_beside(ends[0], (&b, ends[1]), false).unwrap();
        let expected = [[&[4, 5][..], &[4, 5, 6, 7, 8, 9]], [&[4], &[4, 5, 6]]];
        assert_eq!(both, expected.map(|both| both.map(|ids| (ids, None))));
        assert_eq!(a.texts(ends[0], false).unwrap(), expected.map(|[own, _]| (own, None)));
        // One more line than the other has.
        let more = stream("the\ncat\n\nthe\n", &other);
        let error = a.texts_beside(ends[0], (&more, ends[1]), false).unwrap_err().to_string();
        assert!(error.contains("3 lines") && error.contains("4 in the other's"), "{error}");
    }

    #[test]
    fn lines_two_by_two_are_pairs_and_what_has_nothing_beside_it_stands_alone() {
        let own = tokenizer();
        let stream = |text| TokenStream::from_text(text, &own, "text").unwrap();
        let end = own.roles().eos;
        let text = "the\ncat\nsat\n\n\n.\n\n\nthe\nsat\ncat";
        let [the, cat, sat, stop] = [[4], [5], [7], [8]];
        let expected: [Texts<'_>; 5] =
            [(&the, Some(&cat)), (&sat, None), (&stop, None), (&the, Some(&sat)), (&cat, None)];
        assert_eq!(stream(text).texts(end, true).unwrap(), expected);
        // With a line end behind the last line, too; and where the other has nothing of a line, neither has it here.
        let (all, fewer) = (stream("the\ncat\nsat\n.\n"), stream("sat\n\n\nthe\n"));
        assert_eq!(all.texts(end, true).unwrap(), [(&the[..], Some(&cat[..])), (&sat, Some(&stop))]);
        let both = all.texts_beside(end, (&fewer, end), true).unwrap();
        assert_eq!(both, [[(&the[..], None), (&sat[..], None)], [(&stop, None), (&the, None)]]);
        assert!(stream("\n\n").texts(end, true).unwrap_err().to_string().contains("no line with a token"));
    }

    #[test]
    fn lines_become_pieces_and_a_line_end_each() {
        let tokenizer = tokenizer();
        let text = " = the cat = \n \n the cats <unk> sat [SEP] . \nthe";
        let stream = TokenStream::from_text(text, &tokenizer, "text").unwrap();
        let expected = "= the cat = [SEP] [SEP] the cat ##s [UNK] sat [UNK] [UNK] [UNK] . [SEP] the [SEP]";
        assert_eq!(pieces(&stream, &tokenizer), expected);
        let words = (4 + 1) + 1 + (6 + 1) + (1 + 1);
        assert_eq!(stream.counts(), CorpusCounts { lines: 4, words, bytes: text.len() as u64 });
    }

    #[test]
    fn loading_caches_by_content_and_gives_what_memory_gives() {
        let dir = tempfile::tempdir().unwrap();
        let (tokenizer, path, cache) = (tokenizer(), dir.path().join("train.txt"), dir.path().join("cache"));
        let text = " the cats sat . \n".repeat(500);
        std::fs::write(&path, text.replace('\n', "\r\n")).unwrap();
        let mut calls = Vec::new();
        let load = |calls: &mut Vec<(u64, u64)>| {
            let mut progress = |done, total| {
                calls.push((done, total));
                Signal::Continue
            };
            TokenStream::load(
                std::slice::from_ref(&path),
                &Reading::default(),
                &tokenizer,
                &cache,
                &mut progress,
            )
            .unwrap()
        };
        let first = load(&mut calls);
        let memory = TokenStream::from_text(&text, &tokenizer, "memory").unwrap();
        assert_eq!((first.ids(), first.counts()), (memory.ids(), memory.counts()));
        let size = text.len() as u64 + 500;
        assert_eq!((first.cache_use(), calls.as_slice()), (CacheUse::Built, &[(size, size)][..]));
        calls.clear();
        let second = load(&mut calls);
        assert_eq!((second.cache_use(), calls.len()), (CacheUse::Hit, 0));
        assert_eq!((second.ids(), second.counts()), (memory.ids(), memory.counts()));
        std::fs::write(&path, "the cat\n").unwrap();
        assert_eq!(load(&mut calls).cache_use(), CacheUse::Built);
    }

    #[test]
    fn blocks_drop_the_tail_and_need_at_least_one() {
        let stream = TokenStream::from_text("the cat sat .\nthe cat", &tokenizer(), "small.txt").unwrap();
        assert_eq!(stream.ids().len(), 8);
        let blocks = stream.blocks(3).unwrap();
        assert_eq!((blocks.count(), blocks.get(1), blocks.get(2)), (2, &stream.ids()[3..6], &[][..]));
        let message = stream.blocks(256).unwrap_err().to_string();
        assert!(message.contains("small.txt: has 8 tokens, less than one block of 256"), "{message}");
    }

    #[test]
    fn a_stop_ends_the_work_within_a_batch_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cache) = (dir.path().join("train.txt"), dir.path().join("cache"));
        let tokenizer = tokenizer();
        // Lines, and a single line: both many times as long as a batch.
        for text in [" the cats sat . \n".repeat(200_000), " the cats sat .".repeat(200_000)] {
            std::fs::write(&path, &text).unwrap();
            let mut answers = 0;
            let mut stop = |_, _| {
                answers += 1;
                if answers < 2 { Signal::Continue } else { Signal::Stop }
            };
            let error = TokenStream::load(
                std::slice::from_ref(&path),
                &Reading::default(),
                &tokenizer,
                &cache,
                &mut stop,
            )
            .unwrap_err();
            assert!(matches!(error, Error::Interrupted { .. }), "{error}");
            assert_eq!((answers, std::fs::read_dir(&cache).unwrap().count()), (2, 0));
            let options = TrainOptions { kind: TokenizerKind::default(), vocab_size: 50, case: Case::Keep };
            let corpora = [vec![path.clone()]];
            let error = train_tokenizer(&corpora, &Reading::default(), options, &mut |_, _| Signal::Stop);
            assert!(matches!(error.unwrap_err(), Error::Interrupted { .. }));
        }
    }

    #[test]
    fn empty_text_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.txt");
        for nothing in ["", "\n \n\n"] {
            std::fs::write(&path, nothing).unwrap();
            let go_on = &mut |_, _| Signal::Continue;
            let load = TokenStream::load(
                std::slice::from_ref(&path),
                &Reading::default(),
                &tokenizer(),
                dir.path(),
                go_on,
            );
            assert!(load.unwrap_err().to_string().contains("is empty"));
        }
    }
}

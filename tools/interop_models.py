"""Holds the program against `transformers` and sentence-transformers, on real models and real texts.

    python tools/interop_models.py features MODEL TEXTS...    vectors of a sentence-transformers folder
    python tools/interop_models.py roundtrip MODEL TEXTS...   models out of this program, into `transformers`, and back
    python tools/interop_models.py golden [--check]           writes tests/golden/sentences, or compares with it
    python tools/interop_models.py code                       small models of ours, with our code in `transformers`
    python tools/interop_models.py vector MODEL TEXT          the numbers that the catalogue (hub/catalogue.rs) has of a model

MODEL is the folder of a published model; TEXTS are files of lines, or folders of .txt files, of which a sample is taken.
Needs torch, transformers, sentence-transformers, safetensors, and the program (--binary). Nothing is downloaded.

`golden` makes a tiny encoder with random weights as sentence-transformers saves it, with its vectors of a few texts.

Owns: the comparisons and their limits, that folder. Never: goldens of single families (`golden_hf.py`).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LIMIT = 1e-5
# What people write and files hold: nothing, spaces, one letter, other scripts, what normalisation changes, one long word.
ODD = ["", " ", "a", "\t tabs\tand  spaces ", "Ünïcödé çà et là", "日本語のテキスト", "Привет, мир!", "😀 emoji 👩‍👩‍👧",
       "ﬁ ﬂ ① Å é", "x" * 300, "?!...", "don't can't won't", "1,234.56 % $ €", "مرحبا بالعالم", "שלום", "\u200bzero\u00adwidth\u2060"]


def sample(paths, count, seed=1):
    """Lines of files, and whole files of folders, in a random order; the odd ones first."""
    texts = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path.rglob("*.txt"))
            random.Random(seed).shuffle(files)
            texts += [file.read_text(encoding="utf-8", errors="replace") for file in files[:count]]
        else:
            texts += path.read_text(encoding="utf-8", errors="replace").splitlines()
    random.Random(seed).shuffle(texts)
    if len(texts) < count - len(ODD):
        sys.exit(f"only {len(texts)} texts were found")
    return ODD + texts[: count - len(ODD)]


def call(binary, *args):
    """Runs the program; what it says goes to standard error."""
    subprocess.run([str(binary), *map(str, args)], check=True)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def judge(what, difference, limit=LIMIT):
    """Prints a figure and says whether it is within its limit."""
    good = difference <= limit
    print(f"{what}: largest difference {difference:.1e}, limit {limit:.0e}: {'good' if good else 'BAD'}", flush=True)
    return good


def judge_logits(what, ours, theirs):
    """The same of logits, which must differ among the texts for the figure to say anything."""
    spread = float(theirs.std(axis=0).min())
    return judge(f"{what} (spread {spread:.2g})", float(abs(ours - theirs).max())) and spread > 0.01


# features -------------------------------------------------------------------------------------


def features(args):
    import numpy as np
    from sentence_transformers import SentenceTransformer

    texts = sample(args.texts, args.count)
    model = SentenceTransformer(args.model, device="cpu")
    expected = model.encode(texts, batch_size=32, convert_to_numpy=True, show_progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "texts.jsonl", Path(folder) / "vectors.npy"
        write_lines(source, [{"text": text} for text in texts])
        call(args.binary, "features", "--precision", "f32", args.model, "--input", source, "--output", output)
        ours = np.load(output)
    assert ours.shape == expected.shape, (ours.shape, expected.shape)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in texts]
    print(f"{len(texts)} texts of {min(lengths)} to {max(lengths)} tokens, {ours.shape[1]} numbers each")
    return [judge("features", float(np.abs(ours - expected).max()))]


# roundtrip ------------------------------------------------------------------------------------

# Labels as people have them.
ODD_LABELS = ['yes: "quoted"', "Ünï, cödé", "3"]
TASKS = ["single", "pairs", "regression", "multi-label"]
SIZES = {"vocab_size": 700, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80,
         "max_position_embeddings": 66}


def tokenizer_of(family, texts):
    """A small tokenizer of a family's kind, in the class of `transformers`."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if family in ("roberta", "gpt2", "modernbert"):
        special = {"roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "gpt2": ["<|endoftext|>"],
                   "modernbert": ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]}[family]
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if family == "roberta":
        roles = dict(bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", unk_token="<unk>",
                     pad_token="<pad>", mask_token="<mask>")
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    elif family == "gpt2":
        roles = dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    else:
        # No post-processor: what stands beside the result must have one all the same.
        roles = dict(cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **roles)


def random_model(family, tokenizer):
    """A small language model of a family, with random weights that are not small."""
    import torch
    import transformers

    pad = {"pad_token_id": tokenizer.pad_token_id}
    if family == "gpt2":
        config = transformers.GPT2Config(vocab_size=700, n_embd=48, n_layer=3, n_head=4, n_positions=64,
                                         bos_token_id=0, eos_token_id=0)
        model = transformers.GPT2LMHeadModel(config)
    elif family == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=700, dim=48, n_layers=3, n_heads=4, hidden_dim=80,
                                               max_position_embeddings=66, **pad)
        model = transformers.DistilBertForMaskedLM(config)
    elif family == "modernbert":
        config = transformers.ModernBertConfig(**SIZES | {"num_hidden_layers": 4}, local_attention=8, **pad,
                                               bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
        model = transformers.ModernBertForMaskedLM(config)
    else:
        name = {"bert": "Bert", "roberta": "Roberta", "electra": "Electra"}[family]
        more = {"embedding_size": 24} if family == "electra" else {}
        more |= {"type_vocab_size": 1} if family == "roberta" else {}
        config = getattr(transformers, f"{name}Config")(**SIZES, **more, **pad)
        model = getattr(transformers, f"{name}ForMaskedLM")(config)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.1)
    return model


def rows_of(task, texts):
    """Labelled rows of a task, their labels told by the texts."""
    rows = []
    for at, text in enumerate(texts):
        row = {"text": text}
        if task == "pairs":
            row = {"a": text, "b": texts[(7 * at + 3) % len(texts)]}
        if task == "regression":
            row["label"] = (len(text) % 50) / 10
        elif task == "multi-label":
            row["label"] = [label for place, label in enumerate(ODD_LABELS) if (len(text) >> place) % 2]
        else:
            row["label"] = ODD_LABELS[len(text) % 3]
        rows.append(row)
    return rows


def fine_tuned(args, folder, model, task, texts):
    """A few steps of fine-tuning; returns the finished model's folder."""
    data, out = folder / f"{task}.jsonl", folder / f"run-{task}"
    write_lines(data, rows_of(task, [text for text in texts if text.strip()]))
    more = ["--text_column", "a,b"] if task == "pairs" else []
    more += ["--problem", task] if task in ("regression", "multi-label") else []
    call(args.binary, "finetune", "--model", model, "--data", data, "--max_steps", 5, "--lr", 1e-3, "--train_batch_size", 8,
         "--max_length", 48, "--truncation", "head", "--initializer_range", 0.2, "--out", out, "--precision", "f32", *more)
    return out / "final"


def our_logits(args, folder, final, task, texts):
    """Logits of `predict`, where it prints probabilities up to a number that is the same for all classes."""
    import numpy as np

    source, output = folder / "in.jsonl", folder / "out.jsonl"
    output.unlink(missing_ok=True)
    write_lines(source, [{key: row[key] for key in row if key != "label"} for row in rows_of(task, texts)])
    call(args.binary, "predict", "--precision", "f32", "--uncalibrated", final, "--input", source, "--output", output)
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    if task == "regression":
        return np.array([[float(answer["label"])] for answer in answers])
    own = final / "headstart.json"
    labels = json.loads((own if own.exists() else final / "config.json").read_text(encoding="utf-8"))["id2label"]
    names = [labels[str(at)] for at in range(len(labels))]
    p = np.array([[answer["probabilities"][name] for name in names] for answer in answers], dtype=np.float64)
    return np.log(p) - np.log1p(-p) if task == "multi-label" else np.log(p)


def their_logits(final, task, texts):
    """The same by `transformers`, with what it reads from the folder and nothing else."""
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(final)
    model, report = AutoModelForSequenceClassification.from_pretrained(final, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    rows, logits = rows_of(task, texts), []
    for start in range(0, len(rows), 16):
        part = rows[start:start + 16]
        columns = [[row[key] for row in part] for key in (("a", "b") if task == "pairs" else ("text",))]
        batch = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            logits.append(model.eval()(**batch).logits.double())
    logits = torch.cat(logits)
    if task in ("single", "pairs"):
        names = [model.config.id2label[at] for at in range(len(ODD_LABELS))]
        assert sorted(names) == sorted(ODD_LABELS), names
        logits = logits.log_softmax(-1)
    return np.array(logits)


def tensors(folder):
    from safetensors.numpy import load_file

    return load_file(Path(folder) / "model.safetensors")


def same_tensors(what, first, second, ignored=()):
    """Whether two folders hold the same bits under the same names."""
    first, second = tensors(first), tensors(second)
    names = {name for name in first if not name.endswith(ignored)} if ignored else set(first)
    same = names == set(second) and all(first[name].tobytes() == second[name].tobytes() for name in names)
    print(f"{what}: {len(names)} tensors, {'the same bits' if same else 'BAD: not the same'}", flush=True)
    if not same:
        print("  differ:", sorted(names ^ set(second))[:8])
    return same


def language_model(args, folder, model, texts):
    """The loss of a short text, by both."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    # A few lines, each with its end, of which one block is measured.
    lines = [text for text in texts if text.strip() and text.isascii()][:60]
    ids = []
    for line in lines:
        more = tokenizer(" ".join(line.split()), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        ids += more
        if len(ids) >= network.config.n_positions:
            break
    count = ids.count(tokenizer.eos_token_id)
    source = folder / "lines.txt"
    source.write_text("".join(" ".join(line.split()) + "\n" for line in lines[:count]), encoding="utf-8")
    with torch.no_grad():
        batch = torch.tensor([ids[: network.config.n_positions]])
        theirs = float(network(input_ids=batch, labels=batch).loss)
    result = subprocess.run([str(args.binary), "eval", "--precision", "f32", str(model), "--data", str(source), "--split", "train", "--json"],
                            check=True, capture_output=True)
    ours = json.loads(result.stdout)["metrics"]["nll"]
    return judge(f"gpt2, language model's loss {theirs:.4f}", abs(theirs - ours))


def continued(args, folder, name, model, texts):
    """A few steps of pretraining more, out as a language model, in and out again; and the vectors of its trunk."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    for split in ("train", "valid"):
        (folder / "text").mkdir(exist_ok=True)
        lines = [" ".join(text.split()) for text in texts if text.strip()]
        (folder / "text" / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    call(args.binary, "pretrain", "--from", model, "--data", folder / "text", "--max_steps", 3, "--lr", 1e-3,
         "--precision", "f32", "--train_batch_size", 4, "--out", folder / "run-text")
    final, saved = folder / "out-text", folder / "saved-text"
    call(args.binary, "export", folder / "run-text", "--to", "hf", "--output", final)
    kind = AutoModelForCausalLM if name == "gpt2" else AutoModelForMaskedLM
    network, report = kind.from_pretrained(final, output_loading_info=True)
    clean = not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    print(f"{name}, {type(network).__name__}: {'every tensor used' if clean else f'BAD: {report}'}", flush=True)
    network.save_pretrained(saved)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (saved / file).write_bytes((final / file).read_bytes())
    call(args.binary, "export", saved, "--to", "hf", "--output", folder / "saved-text-again")
    results = [clean, same_tensors(f"{name}, language model out, in, out", final, folder / "saved-text-again")]

    source = folder / "vectors.jsonl"
    write_lines(source, [{"text": text} for text in texts])
    call(args.binary, "features", "--precision", "f32", folder / "run-text", "--input", source, "--output", folder / "vectors.npy")
    tokenizer, trunk, theirs = AutoTokenizer.from_pretrained(final), AutoModel.from_pretrained(final).eval(), []
    for text in texts:
        with torch.no_grad():
            batch = tokenizer(text, truncation=True, return_tensors="pt")
            theirs.append(trunk(**batch).last_hidden_state[0].double().mean(0))
    difference = np.abs(np.load(folder / "vectors.npy") - np.array(torch.stack(theirs))).max()
    return [*results, judge(f"{name}, mean hidden states", float(difference))]


def family(args, name, folder, texts):
    """A family: published, in and out, fine-tuned and out, by `transformers` in and out again."""
    from transformers import AutoModelForSequenceClassification

    folder.mkdir()
    if name == "gpt2":
        # A text without tokens has no last one; `transformers` takes a padding token's row, this program the end of a text's.
        texts = [text for text in texts if text]
    published = folder / "published"
    tokenizer = tokenizer_of(name, texts)
    random_model(name, tokenizer).save_pretrained(published)
    tokenizer.save_pretrained(published)
    results = []
    call(args.binary, "export", published, "--to", "hf", "--output", folder / "again")
    results.append(same_tensors(f"{name}, in and out", published, folder / "again"))
    if name == "gpt2":
        results += [language_model(args, folder, folder / "again", texts)]
    results += continued(args, folder, name, published, texts)
    for task in TASKS:
        final = fine_tuned(args, folder, published, task, texts)
        ours = our_logits(args, folder, final, task, texts)
        if name == "gpt2":
            call(args.binary, "export", final, "--to", "hf", "--output", folder / f"out-{task}")
            final = folder / f"out-{task}"
        results.append(judge_logits(f"{name}, {task}", ours, their_logits(final, task, texts)))
    saved = folder / "saved"
    AutoModelForSequenceClassification.from_pretrained(final).save_pretrained(saved)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (saved / file).write_bytes((final / file).read_bytes())
    call(args.binary, "export", saved, "--to", "hf", "--output", folder / "saved-again")
    results.append(same_tensors(f"{name}, out, in, out", final, folder / "saved-again"))
    return results


def real(args, folder, texts):
    """The real model: fine-tuned a little, by both; its trunk as vectors."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    results = []
    folder.mkdir()
    call(args.binary, "export", args.model, "--to", "hf", "--output", folder / "again")
    results.append(same_tensors("real model, in and out", args.model, folder / "again", ("position_ids",)))
    for task in TASKS[:2]:
        final = fine_tuned(args, folder, args.model, task, texts[:200])
        ours = our_logits(args, folder, final, task, texts)
        results.append(judge_logits(f"real model, {task}", ours, their_logits(final, task, texts)))
    out = folder / "vectors"
    call(args.binary, "export", final, "--to", "sentence-transformers", "--normalize", "--output", out)
    source = folder / "texts.jsonl"
    write_lines(source, [{"text": text} for text in texts])
    call(args.binary, "features", "--precision", "f32", out, "--input", source, "--output", folder / "out.npy")
    expected = SentenceTransformer(str(out), device="cpu").encode(texts, show_progress_bar=False)
    difference = np.abs(np.load(folder / "out.npy") - expected).max()
    results.append(judge("its trunk by sentence-transformers", float(difference)))
    saved = folder / "saved"
    SentenceTransformer(str(out), device="cpu").save(str(saved))
    call(args.binary, "features", "--precision", "f32", saved, "--input", source, "--output", folder / "saved.npy")
    difference = np.abs(np.load(folder / "saved.npy") - expected).max()
    results.append(judge("the same, saved by sentence-transformers", float(difference)))
    return results


def roundtrip(args):
    texts = sample(args.texts, args.count)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ["bert", "roberta", "distilbert", "electra", "modernbert", "gpt2"]:
            results += family(args, name, Path(folder) / name, texts)
        results += real(args, Path(folder) / "real", texts)
    return results


# golden ---------------------------------------------------------------------------------------

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "sentences"
PIECES = ("[PAD] [UNK] [CLS] [SEP] [MASK] the a boat river runs slow ##ly ##s old is on by night day . , ! good bad was food "
          "very not").split()
SENTENCES = ["", "The boat runs slowly on the river.", "a good day", "Bad food!", "unknown words, by night",
             "the old boats was not very good, the food was bad, the river is slow by night, by day, by night.", "river"]


def golden(args):
    import numpy as np
    import tokenizers
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    tokenizer = tokenizers.Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = PIECES.index("[CLS]"), PIECES.index("[SEP]")
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=16, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        pad_token="[PAD]", mask_token="[MASK]")
    config = transformers.BertConfig(vocab_size=len(PIECES), hidden_size=10, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=14, max_position_embeddings=18)
    model = transformers.BertModel(config).eval()
    random_state = np.random.RandomState(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = random_state.standard_normal(parameter.shape)
            values = 1 + 0.2 * values if "LayerNorm.weight" in name else 0.4 * values
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder / "model")
        fast.save_pretrained(folder / "model")
        module = Transformer(str(folder / "model"))
        sentences = SentenceTransformer(modules=[module, Pooling(10, "mean"), Normalize()], device="cpu")
        sentences.save(str(folder / "saved"))
        vectors = sentences.double().encode(SENTENCES, convert_to_numpy=True, show_progress_bar=False)
        expected = {"texts": SENTENCES, "vectors": vectors.astype(np.float64).round(9).tolist()}
        # The same with two linears behind the pooling, of which the first has a tanh.
        linears = [Dense(10, 7), Dense(7, 4, bias=False, activation_function=torch.nn.Identity())]
        with torch.no_grad():
            for parameter in (p for linear in linears for p in linear.parameters()):
                parameter.copy_(torch.from_numpy(random_state.standard_normal(parameter.shape).astype(np.float32)))
        behind = SentenceTransformer(modules=[module.float(), Pooling(10, "mean"), *linears, Normalize()], device="cpu")
        behind.save(str(folder / "linears"))
        through = behind.double().encode(SENTENCES, convert_to_numpy=True, show_progress_bar=False)
        expected["through_linears"] = through.astype(np.float64).round(9).tolist()
        if args.check:
            known = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
            difference = np.abs(np.array(known["vectors"]) - vectors).max()
            difference = max(difference, np.abs(np.array(known["through_linears"]) - through).max())
            return [known["texts"] == SENTENCES, judge("golden", float(difference), 1e-8),
                    same_tensors("golden", GOLDEN, folder / "saved")]
        for file in ["config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "tokenizer.json",
                     "tokenizer_config.json", "1_Pooling/config.json", "2_Normalize/config.json"]:
            (GOLDEN / file).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / file).write_bytes((folder / "saved" / file).read_bytes())
        for file in ["modules.json", *(f"{at}_Dense/{name}" for at in (2, 3) for name in ("config.json", "model.safetensors"))]:
            (GOLDEN / "linears" / file).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / "linears" / file).write_bytes((folder / "linears" / file).read_bytes())
        (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    return [True]


# code ------------------------------------------------------------------------------------------

# Options of trunks, as flags and as a table of a settings file, each with a fine-tuning.
CODED = [
    ("as the tutorial's", ["--arch", "naacl2019"], "", "single", []),
    ("as GPT-2's, with [CLS]", ["--arch", "gpt2"], "", "single", ["--method", "head"]),
    ("masked, sines", ["--arch", "naacl2019", "--objective", "mlm", "--positions", "sinusoidal"], "", "pairs", []),
    ("rotary, windows, gated", ["--arch", "naacl2019", "--positions", "rotary"],
     'norm = "before"\nfinal_norm = true\ngated = true\nactivation = "silu"\nbias = false\nwindow = 3\nglobal_every = 2\n'
     'first_norm = false\nembedding_norm = true\nnorm_bias = false\n', "multi-label", ["--pooling", "max"]),
    ("post-norm, adapters", ["--arch", "naacl2019"], 'norm = "after"\nactivation = "gelu"\nposition_offset = 2\n', "regression",
     ["--pooling", "mean", "--adapters_dim", "6"]),
]
WORDS = "the old harbour guards a river of stone and light under seven hills where nobody counts boats , at night .".split()


def coded(args, folder, name, flags, layout, task, more):
    """A model of the tutorial's family: pretrained, fine-tuned, out with code, in `transformers`, and in again."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

    folder.mkdir()
    draw = random.Random(7)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(300)]
    for split in ("train", "valid"):
        (folder / "text").mkdir(exist_ok=True)
        (folder / "text" / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = folder / "settings.toml"
    settings.write_text(f"[model.layout]\n{layout}", encoding="utf-8")
    call(args.binary, "tokenizer", "train", folder / "text", "--vocab_size", 300, "--out", folder / "tok.json")
    call(args.binary, "pretrain", "--config", settings, "--preset", "micro", "--tokenizer", folder / "tok.json", "--data",
         folder / "text", "--max_steps", 5, "--lr", 1e-3, "--initializer_range", 0.2, "--num_max_positions", 24, "--precision", "f32",
         "--out", folder / "trunk", *flags)
    source = folder / f"{task}.jsonl"
    write_lines(source, rows_of(task, lines))
    data = ["--text_column", "a,b"] if task == "pairs" else []
    data += ["--problem", task] if task in ("regression", "multi-label") else []
    call(args.binary, "finetune", "--model", folder / "trunk", "--data", source, "--max_steps", 5, "--lr", 1e-3,
         "--initializer_range", 0.2, "--max_length", 20, "--precision", "f32", "--out", folder / "tuned", *data, *more)
    for run in ("trunk", "tuned"):
        call(args.binary, "export", folder / run, "--to", "hf", "--with-code", "--output", folder / f"{run}-out")

    final, texts, results = folder / "tuned-out", lines[:64], []
    ours = our_logits(args, folder, folder / "tuned" / "final", task, texts)
    tokenizer = AutoTokenizer.from_pretrained(final)
    model, report = AutoModelForSequenceClassification.from_pretrained(final, trust_remote_code=True, output_loading_info=True)
    results.append(not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")))
    print(f"{name}: {'every tensor used' if results[-1] else f'BAD: {report}'}")
    logits = []
    for side in ("right", "left"):
        tokenizer.padding_side = side
        rows = rows_of(task, texts)
        columns = [[row[key] for row in rows] for key in (("a", "b") if task == "pairs" else ("text",))]
        batch = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            logits.append(model.eval()(**batch).logits.double())
        if task in ("single", "pairs"):
            logits[-1] = logits[-1].log_softmax(-1)
        results.append(judge_logits(f"{name}, {task}, padded on the {side}", ours, np.array(logits[-1])))

    masked = "mlm" in flags
    network = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(
        folder / "trunk-out", trust_remote_code=True).eval()
    if not masked:
        ids, tokenizer = [], AutoTokenizer.from_pretrained(folder / "trunk-out")
        for count, line in enumerate(lines):
            ids += tokenizer(line, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            if len(ids) >= 24:
                break
        part = folder / "part.txt"
        part.write_text("".join(line + "\n" for line in lines[: count + 1]), encoding="utf-8")
        with torch.no_grad():
            tokens = torch.tensor([ids[:24]])
            theirs = float(network(input_ids=tokens, labels=tokens).loss)
        result = subprocess.run([str(args.binary), "eval", "--precision", "f32", str(folder / "trunk"), "--data", str(part), "--split", "train",
                                 "--json"], check=True, capture_output=True)
        results.append(judge(f"{name}, language model's loss {theirs:.4f}",
                             abs(theirs - json.loads(result.stdout)["metrics"]["nll"])))
    else:
        # The hidden states of the trunk are those that `features` gives.
        vectors, source = folder / "vectors.npy", folder / "lines.jsonl"
        write_lines(source, [{"text": text} for text in texts])
        call(args.binary, "features", "--precision", "f32", folder / "trunk", "--input", source, "--output", vectors, "--pooling", "mean")
        tokenizer, theirs = AutoTokenizer.from_pretrained(folder / "trunk-out"), []
        for text in texts:
            with torch.no_grad():
                batch = tokenizer(text, return_tensors="pt")
                theirs.append(network.transformer(**batch).last_hidden_state[0].double().mean(0))
        results.append(judge(f"{name}, mean hidden states",
                             float(np.abs(np.load(vectors) - np.array(torch.stack(theirs))).max())))
    call(args.binary, "export", final, "--to", "hf", "--with-code", "--output", folder / "again")
    return [*results, same_tensors(f"{name}, out, in, out", final, folder / "again")]


def code(args):
    with tempfile.TemporaryDirectory() as folder:
        return [good for at, case in enumerate(CODED) for good in coded(args, Path(folder) / str(at), *case)]


# vector ----------------------------------------------------------------------------------------


def vector(args):
    from sentence_transformers import SentenceTransformer

    numbers = SentenceTransformer(args.model, device="cpu").encode([args.text], show_progress_bar=False)[0][:8]
    print(", ".join(f"{float(number):.8g}" for number in numbers))
    return [True]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, count in [("features", features, 2000), ("roundtrip", roundtrip, 300)]:
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("model", help="the folder of a published model")
        command.add_argument("texts", nargs="+", help="files of lines, or folders of .txt files")
        command.add_argument("--count", type=int, default=count, help="texts that are compared")
        command.add_argument("--binary", default="target/release/headstart")
    command = commands.add_parser("golden")
    command.set_defaults(run=golden)
    command.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    command = commands.add_parser("code")
    command.set_defaults(run=code)
    command.add_argument("--binary", default="target/release/headstart")
    command = commands.add_parser("vector")
    command.set_defaults(run=vector)
    command.add_argument("model", help="the folder of a published sentence-transformers model")
    command.add_argument("text")
    args = parser.parse_args()
    sys.exit(0 if all(args.run(args)) else 1)


if __name__ == "__main__":
    main()

"""Headstart held against the libraries that published models come from.

    python tools/interop.py ids --texts FILE FOLDER...   # token ids of real texts, by `transformers` and by Headstart
    python tools/interop.py tokenizers [--check]         # writes tests/golden/tokenizers, or compares with it

`ids` takes folders with a tokenizer and a config.json that names the family. Each of the first --count texts (one a line)
goes through AutoTokenizer and through `headstart tokenizer encode`: alone without special tokens, alone with them, cut, and
as a pair with the text behind it, whole and cut. All ids and token types have to be the same. Texts that hold a special token
of the tokenizer word for word are left out and counted: Headstart reads them as text. Accents, CJK and emoji are added to
every seventh text.

Owns: the calls and the comparison. Never: a part of the program, needed to build or test it.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/golden/tokenizers"
ODD = ["naïve café façade", "Ünïcödé ÅNGSTRÖM", "漢字かな交じり文", "한국어 텍스트", "😀👩‍👩‍👧", "e\u0301 n\u0303", "\u00a0\u2009x\u200b", "Ⅳ ﬁ ½ ™"]
# The family's --arch, and --pooling where the input depends on it.
FAMILIES = {
    "bert": ["--arch", "bert"],
    "roberta": ["--arch", "roberta"],
    "distilbert": ["--arch", "distilbert"],
    "electra": ["--arch", "electra"],
    "modernbert": ["--arch", "modernbert"],
    "gpt2": ["--arch", "gpt2", "--pooling", "last"],
}
# Tokens of the cut inputs: of a text alone, of a pair.
CUT = (24, 40)


def headstart(binary, folder, lines, *flags):
    """What `tokenizer encode` prints for each line: ids and token types."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", suffix=".txt") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        call = [binary, "tokenizer", "encode", str(folder), "--input", file.name, *flags]
        out = subprocess.run(call, capture_output=True, check=True).stdout.decode("utf-8")
    answers = [json.loads(line) for line in out.split("\n") if line]
    assert len(answers) == len(lines), (len(answers), len(lines))
    return [(answer["input_ids"], answer["token_type_ids"]) for answer in answers]


def transformers(tokenizer, firsts, seconds, **options):
    """The same of AutoTokenizer; families without token types have 0 everywhere."""
    encoded = tokenizer(firsts, seconds, **options)
    types = encoded.get("token_type_ids") or [[0] * len(ids) for ids in encoded["input_ids"]]
    return list(zip(encoded["input_ids"], types))


def cases(family):
    """Name, flags of Headstart, options of transformers, whether it is of pairs."""
    flags = FAMILIES[family]
    bare = {"add_special_tokens": False}
    cut = [{"truncation": True, "max_length": length} for length in CUT]
    yield "bare", [], bare, False
    yield "single", flags, {}, False
    yield "single, cut", [*flags, "--num_max_positions", str(CUT[0])], cut[0], False
    yield "pair", [*flags, "--pairs"], {}, True
    yield "pair, cut", [*flags, "--pairs", "--num_max_positions", str(CUT[1])], cut[1], True


def load(folder):
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()
    family = json.loads((folder / "config.json").read_text())["model_type"]
    return AutoTokenizer.from_pretrained(str(folder)), family


def encode_all(folder, texts, wanted=None):
    """By `transformers`: for each case a list of ids and token types."""
    tokenizer, family = load(folder)
    others = texts[1:] + texts[:1]
    return {
        name: transformers(tokenizer, texts, others if pairs else None, **options)
        for name, _, options, pairs in cases(family)
        if wanted is None or name in wanted
    }


def ids(args):
    lines = (" ".join(line.split("\t")).replace("\r", " ").strip("\n") for line in open(args.texts, encoding="utf-8", newline="\n"))
    texts = [line for line in lines if line.strip()][: args.count]
    texts = [f"{text} {ODD[at // 7 % len(ODD)]} {text[:20]}" if at % 7 == 0 else text for at, text in enumerate(texts)]
    wrong = 0
    for folder in map(pathlib.Path, args.folder):
        tokenizer, family = load(folder)
        special = set(tokenizer.all_special_tokens)
        own = [text for text in texts if not any(token in text for token in special)]
        others = own[1:] + own[:1]
        expected = encode_all(folder, own)
        for name, flags, _, pairs in cases(family):
            given = [f"{a}\t{b}" for a, b in zip(own, others)] if pairs else own
            found = headstart(args.headstart, folder, given, *flags)
            differ = [at for at, (a, b) in enumerate(zip(found, expected[name])) if a != (list(b[0]), list(b[1]))]
            wrong += len(differ)
            tokens = sum(len(ids) for ids, _ in found)
            print(f"{folder.name:24} {name:12} {len(own):6} inputs {tokens:9} tokens {len(differ):5} differ")
            for at in differ[:3]:
                print(f"    {given[at]!r}\n      headstart    {found[at]}\n      transformers {expected[name][at]}")
        if len(own) < len(texts):
            print(f"{folder.name:24} {len(texts) - len(own)} texts with a special token word for word are left out")
    return 1 if wrong else 0


def golden_texts():
    """Sentences of the project's own starter data, and odd ones."""
    lines = (ROOT / "crates/headstart/src/data/starter/text/articles.txt").read_text(encoding="utf-8").splitlines()
    plain = [line for line in lines if len(line) > 30][:6]
    odd = [f"the {text} of it" for text in ODD]
    more = [
        "", " ", "a", "  two  spaces  ", "UPPER lower MiXed", "it's we'll don't they've", "3.14, 1,000 & 50%", "under_score-and-dash",
        "what?!...", "(in) [brackets] {all}", "\"quoted\" 'single'", "x" * 101, "emoji at the end 🚀", "tab-free line", "trailing space ",
        "ﬀ ligature", "Straße ẞ", "İstanbul ı", "\u202eright to left", "\ufeffmark", "null\u0000byte", "soft\u00adhyphen", "кириллица текст",
        "العربية", "mixed漢字and letters", "a\u0300\u0301\u0302 stacked", "#hashtag @name", "http://example.org/a?b=c", "1st 2nd 3rd", "re-re-repeated",
    ]
    return plain + odd + more


def corpus():
    folder = ROOT / "crates/headstart/src/data/starter/text"
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / name).write_text(text.removesuffix("\n") + "\n", encoding="utf-8", newline="\n")


def make_vocabularies(folder):
    """Small vocabularies of the three kinds, in the layouts that models are published in."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for name, lower in [("bert_uncased", True), ("bert_cased", False)]:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, limit_alphabet=70, show_progress=False)
        tokenizer.train_from_iterator(corpus(), trainer)
        vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        settings = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
        write(folder / name, "config.json", {"model_type": "bert"})
        write(folder / name, "tokenizer_config.json", settings)
        if lower:
            write(folder / name, "vocab.txt", "".join(piece + "\n" for piece, _ in vocab))
        else:
            # As in all-MiniLM-L6-v2, with truncation and padding that must not apply.
            tokenizer.decoder = decoders.WordPiece()
            tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
            tokenizer.enable_truncation(6)
            tokenizer.enable_padding(length=12, pad_id=0, pad_token="[PAD]")
            write(folder / name, "tokenizer.json", json.loads(tokenizer.to_str()))
    for name, special, family in [
        ("gpt2", ["<|endoftext|>"], "gpt2"),
        ("roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "roberta"),
    ]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(corpus(), trainer)
        write(folder / name, "config.json", {"model_type": family})
        tokenizer.model.save(str(folder / name))
        if family == "roberta":
            named = {"cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>"}
            mask = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
            write(folder / name, "special_tokens_map.json", {**named, "mask_token": mask})
            write(folder / name, "tokenizer_config.json", {"add_prefix_space": True, "tokenizer_class": "RobertaTokenizer"})
        else:
            write(folder / name, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})


def tokenizers(args):
    texts = golden_texts()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        # The trainers break ties by chance, so the vocabularies stay once they are there.
        kept = GOLDEN if GOLDEN.exists() else folder
        if kept is folder:
            make_vocabularies(folder)
        names = sorted(path.name for path in kept.iterdir() if path.is_dir())
        content = {"texts": texts, "cut": CUT}
        for name in names:
            found = encode_all(kept / name, texts, ["bare", "single, cut", "pair, cut"])
            content[name] = {case: [[list(ids), list(types)] for ids, types in all] for case, all in found.items()}
        text = golden_json(content)
        if args.check:
            same = (GOLDEN / "ids.json").read_text(encoding="utf-8") == text
            print("the same" if same else "tests/golden/tokenizers/ids.json differs")
            return 0 if same else 1
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                write(GOLDEN / path.parent.name, path.name, path.read_text(encoding="utf-8"))
        write(GOLDEN, "ids.json", text)
    return 0


def golden_json(content):
    """One input a line. Types are left out where all are 0: [ids] or [ids, length of the first segment]."""
    def short(pair):
        ids, types = pair
        return json.dumps([ids, types.index(1)] if 1 in types else [ids], separators=(",", ":"))

    parts = ['"texts":[\n' + ",\n".join(json.dumps(text, ensure_ascii=True) for text in content["texts"]) + "\n]"]
    parts.append('"cut":' + json.dumps(content["cut"]))
    for name, found in content.items():
        if name not in ("texts", "cut"):
            inner = [f'"{case}":[\n' + ",\n".join(map(short, all)) + "\n]" for case, all in found.items()]
            parts.append(f'"{name}":{{' + ",\n".join(inner) + "}")
    return "{" + ",\n".join(parts) + "}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    compare = commands.add_parser("ids")
    compare.add_argument("folder", nargs="+")
    compare.add_argument("--texts", required=True)
    compare.add_argument("--count", type=int, default=10_000)
    compare.add_argument("--headstart", default=str(ROOT / "target/release/headstart"))
    compare.set_defaults(work=ids)
    golden = commands.add_parser("tokenizers")
    golden.add_argument("--check", action="store_true")
    golden.set_defaults(work=tokenizers)
    args = parser.parse_args()
    return args.work(args)


if __name__ == "__main__":
    sys.exit(main())

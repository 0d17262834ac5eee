#!/usr/bin/env python3
"""Text of today in the public domain for `headstart distill`, beside the books: prose, and lines that are written here.

    python tools/modern_text.py OUT SOURCES VOCABULARY [--lines 150000] [--seed 1]

SOURCES is a folder with checkouts, by these names, of GSA/digitalgov.gov, 18F/18f.gsa.gov (United States government, public domain),
factbook/factbook.json (The World Factbook, public domain), common-voice/common-voice (server/data/en, CC0), sonos/nlu-benchmark (CC0) and dariusk/corpora
(lists of things, CC0); what is missing is passed by. VOCABULARY is the teacher's vocab.txt: a word of it is what the teacher knows.
OUT becomes a folder of .txt files whose paragraphs stand between empty lines, as `tools/distill_text.py` takes them: `prose-*.txt`, and
`written.txt` with questions and sentences whose words are drawn from the lists and the vocabulary. They mean nothing; what the
teacher makes of their words is what is learned. Needs Python only.
"""
import argparse
import json
import pathlib
import random
import re

# {word}: any word that the teacher knows; {thing}: an entry of a list; {kind}: what that list is of; {name}, {place}, {year}, {number}.
PATTERNS = """
what is {a_thing} ?|what is {a_word} ?|what are {word} {word} ?|what is the {word} of {thing} ?|what is the {word} of the {word} ?
what does {word} mean ?|what does the {kind} {thing} {word} ?|what {kind} is {word} ?|what {kind} {word} in {place} ?|which {kind} has the most {word} ?
who is {name} ?|who was the first {word} to {word} {thing} ?|who wrote {thing} ?|who is the {word} of {place} ?|who invented the {word} ?
what {word} did {name} {word} ?|what {word} is {name} famous for ?|name a {kind} .|name the {word} that {word} {thing} .|name {number} {word} {word} .
where is {place} ?|where is the {word} {word} ?|where does {thing} come from ?|where can i find {a_word} {word} ?|what {word} is {place} in ?
when was {thing} {word} ?|when did {name} {word} ?|in what year did the {word} {word} ?|what year was the {word} of {place} ?|on what {word} is {word} ?
how many {word} are in {a_word} ?|how many {word} does {place} have ?|how much does {a_thing} {word} ?|how long is {a_word} {word} ?|how far is {place} from {place} ?
how do you {word} {a_word} ?|how does {a_thing} {word} ?|how did {name} {word} ?|how can i {word} my {word} ?|why does {thing} {word} ?
why do {word} {word} ?|why did {name} {word} the {word} ?|what causes {word} ?|what is the difference between {thing} and {thing} ?|what is the origin of {word} ?
what does {word} stand for ?|what is the abbreviation for {word} {word} ?|what is the full form of {word} ?|what is {name} 's {word} ?|what is the {word} 's {word} called ?
{thing} is a kind of {kind} .|{thing} , {thing} and {thing} : {kind} .|{name} is {a_word} {word} from {place} .|{place} has {number} {word} .|the {word} {word} was {word} in {year} .
the {word} of {thing} is {word} and {word} .|i like {thing} but not {thing} .|{word} {word}|{word} {word} {word}|{thing}|{word}|{kind} : {thing}
this {word} is very {word} .|a {word} for {thing} , {word} and {word}|{name} and {name} {word} in {place}|{word} , {word} , {word} , {word}|find {a_thing} near {place} .|add {thing} to my {word} .
""".replace("\n", "|").strip("|").split("|")

# Lists of numbers, colours as codes, rules of games, and texts that others have rights in.
NOT_LISTS = re.compile(r"jeopardy|quotes|pokemon|dulux|paints|primes|fibonnaci|palettes|thirdPerson|tarot|hexagrams|presidential|instructionset|dark_souls|sandwiches")


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in ("description", "source", "url", "sources", "license"):
                yield from strings(one)


def lists(folder):
    """What kind of thing, and things of it."""
    for path in sorted(folder.rglob("*.json")):
        if NOT_LISTS.search(str(path)):
            continue
        things = [" ".join(text.split()) for text in strings(json.loads(path.read_text(encoding="utf8")))]
        things = sorted({t for t in things if 2 < len(t) < 40 and len(t.split()) <= 4 and re.fullmatch(r"[A-Za-z][A-Za-z .'&-]*", t)})
        if len(things) >= 10:
            kind = re.sub(r"[_-]", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", path.stem)).lower()
            kind = re.sub(r"^(a list of|list of|us|uk|common) ", "", kind)
            yield (kind[:-1] if kind.endswith("s") and not kind.endswith("ss") else kind), things[:1000]


def markdown(text):
    text = re.sub(r"\A---.*?\n---", "", text, flags=re.S)
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|<[^>]*>|!\[[^\]]*\]\([^)]*\)|```.*?```", " ", text, flags=re.S)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|\[([^\]]*)\]\[[^\]]*\]", lambda m: m.group(1) or m.group(2) or "", text)
    return re.sub(r"https?://\S+|&[a-z]+;|\{:[^}]*\}", " ", text)


def prose(sources):
    for name, under, suffix in [("digitalgov.gov", "content", ".md"), ("18f.gsa.gov", "_posts", ".md"), ("18f.gsa.gov", "pages", ".md")]:
        for path in sorted((sources / name / under).rglob("*" + suffix)):
            for block in re.split(r"\n\s*\n", markdown(path.read_text(encoding="utf8", errors="replace"))):
                block = " ".join(re.sub(r"^[#>*+\-\s\d.]+", "", line) for line in block.splitlines())
                if len(block.split()) >= 4 and block.count("|") < 3:
                    yield "government", " ".join(block.split())
    for path in sorted((sources / "factbook.json").rglob("*.json")):
        for text in strings(json.loads(path.read_text(encoding="utf8"))):
            text = re.sub(r"<[^>]*>|&[a-z]+;", " ", text)
            if len(text.split()) >= 6 and sum(c.isalpha() or c == " " for c in text) > 0.85 * len(text):
                yield "factbook", " ".join(text.split())
    for path in sorted((sources / "common-voice" / "server/data/en").glob("*.txt")):
        if path.name.startswith("wiki"):  # Sentences of Wikipedia.
            continue
        for line in path.read_text(encoding="utf8", errors="replace").splitlines():
            if len(line.split()) >= 3:
                yield "voice", " ".join(line.split())
    for path in sorted((sources / "nlu-benchmark").rglob("train_*_full.json")):
        for intent in json.loads(path.read_text(encoding="utf8", errors="replace")).values():
            for query in intent:
                yield "voice", " ".join("".join(part["text"] for part in query["data"]).split())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("sources", type=pathlib.Path)
    p.add_argument("vocabulary", type=pathlib.Path)
    p.add_argument("--lines", type=int, default=150_000)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    seen, files = set(), {}
    for name, text in prose(a.sources):
        if text not in seen:
            seen.add(text)
            files.setdefault(name, []).append(text)
    for name, texts in files.items():
        (a.out / f"prose-{name}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf8")
        print(f"{name}: {len(texts)} paragraphs, {sum(len(t.split()) for t in texts)} words")

    words = [w for w in a.vocabulary.read_text(encoding="utf8").splitlines() if re.fullmatch(r"[a-z]{3,}", w)]
    kinds = list(lists(a.sources / "corpora" / "data"))
    of = dict(kinds)
    draw = random.Random(a.seed)

    def names():
        pick = lambda kind: draw.choice(of.get(kind) or words)
        if draw.random() < 0.4:
            return pick(draw.choice(["celebritie", "british actor", "author", "scientist", "richpeople"]))
        return f"{pick('first name')} {pick('last name') if draw.random() < 0.6 else draw.choice(words).title()}"

    places = [k for k in of if k in ("countrie", "citie", "river", "ocean", "english towns citie", "county", "canadian municipalitie", "nationalitie")]
    an = lambda text: ("an " if text[0].lower() in "aeiou" else "a ") + text

    def written():
        kind, things = draw.choice(kinds)
        thing = lambda: draw.choice(things)
        fill = {"word": lambda: draw.choice(words), "thing": thing, "kind": lambda: kind, "name": names,
                "place": lambda: draw.choice(of[draw.choice(places)]) if places else draw.choice(words),
                "year": lambda: str(draw.randint(1500, 2025)), "number": lambda: str(draw.randint(2, 500)),
                "a_word": lambda: an(draw.choice(words)), "a_thing": lambda: an(thing())}
        text = re.sub(r"\{(\w+)\}", lambda m: fill[m.group(1)](), draw.choice(PATTERNS))
        how = draw.random()
        return text if how < 0.5 else text.replace(" ?", "?").replace(" .", ".").replace(" ,", ",") if how < 0.7 else text[0].upper() + text[1:]

    lines = [written() for _ in range(a.lines)]
    (a.out / "written.txt").write_text("\n\n".join(lines) + "\n", encoding="utf8")
    print(f"written: {len(lines)} lines of {len(kinds)} lists and {len(words)} words, {sum(len(t.split()) for t in lines)} words")


main()

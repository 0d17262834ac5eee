#!/usr/bin/env python3
"""Text for `headstart distill --inputs lines`: a line of one to six sentences each, of as many lengths as tasks have.

    python tools/distill_text.py OUT.txt BOOK_OR_FOLDER... [--most_words 5000000] [--seed 1] [--long 0.25] [--questions] [--pairs 0.5]

`--long` is the share of paragraphs that become long lines instead, of 150 to 380 words in a row as reviews and articles have
them; with `--questions` each question that stands among other sentences gets a line of its own as well. `--pairs` is the share of inputs that
become two lines, for `--inputs pairs`: with the one behind it, with another of the same book, or with itself, of which words are
dropped, exchanged or moved; all others have an empty line behind them.

Takes .txt and .md files and wikitext's .tokens; folders are searched. Files are taken in the order of the SHA-256 of their
path and the seed, so that a prefix of the result is a sample of all. Paragraphs are joined lines between empty ones; markup
of Markdown goes. Says how many files, lines and words there are, and the SHA-256 of the result. Needs Python only.
"""
import argparse
import hashlib
import pathlib
import random
import re
import sys


def paragraphs(path, text):
    if path.suffix == ".tokens":
        for line in text.splitlines():
            line = line.strip()
            if line and not line.startswith("="):
                yield re.sub(r" @(.)@ ", r"\1", line).replace("<unk>", "something")
        return
    for block in re.split(r"\n\s*\n", text):
        block = re.sub(r"<br\s*/?>", " ", block)
        block = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", block)
        block = re.sub(r"^[#>*\-\s]+", "", block)
        block = re.sub(r"[*_`|\\]+", "", block)
        block = " ".join(block.split())
        if len(block.split()) >= 3:
            yield block


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("sources", nargs="+")
    p.add_argument("--most_words", type=int, default=5_000_000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--long", type=float, default=0.0)
    p.add_argument("--questions", action="store_true")
    p.add_argument("--pairs", type=float, default=0.0)
    a = p.parse_args()
    files = []
    for source in map(pathlib.Path, a.sources):
        found = [source] if source.is_file() else [f for f in source.rglob("*") if f.suffix in (".txt", ".md", ".tokens")]
        files += [(hashlib.sha256(f"{a.seed} {f.relative_to(source.parent)}".encode()).digest(), f) for f in found]
    files.sort(key=lambda pair: pair[0])
    draw, sum_ = random.Random(a.seed), hashlib.sha256()
    lines, words, used = 0, 0, 0
    with open(a.out, "w", encoding="utf8", newline="\n") as out:
        for _, path in files:
            if words >= a.most_words:
                break
            used += 1
            found = texts(paragraphs(path, path.read_text(encoding="utf8", errors="replace")), draw, a.long, a.questions)
            found = (line for line in found if len(line.split()) >= 3)
            for line in paired(list(found), draw, a.pairs) if a.pairs > 0 else found:
                out.write(line + "\n")
                sum_.update((line + "\n").encode())
                lines, words = lines + 1, words + len(line.split())
    print(f"{used} files, {lines} lines, {words} words, sha256 {sum_.hexdigest()}", file=sys.stderr)


def texts(paragraphs, draw, long, questions):
    """The lines of a book's paragraphs."""
    running, enough = [], 0
    for paragraph in paragraphs:
        if not running and long > 0 and draw.random() < long:
            enough = draw.randint(150, 380)
        if enough:
            running += paragraph.split()
            if len(running) >= enough:
                yield " ".join(running[:enough])
                running, enough = [], 0
            continue
        sentences = re.split(r"(?<=[.!?])[\"')\u201d\u2019]*\s+(?=[\"'(\u201c\u2018]?[A-Z])", paragraph)
        at = 0
        while at < len(sentences):
            take = draw.choice([1, 1, 1, 2, 2, 3, 4, 6])
            chosen = sentences[at : at + take]
            yield " ".join(chosen)
            if questions and len(chosen) > 1:
                yield from (one for one in chosen if one.rstrip("\"')\u201d\u2019").endswith("?"))
            at += take


def paired(lines, draw, share):
    """Two lines for each input."""
    at = 0
    while at < len(lines):
        line, second = lines[at], ""
        at += 1
        # Two long ones have no room in one input.
        if len(line.split()) < 80 and draw.random() < share:
            kind = draw.random()
            if kind < 0.3 and at < len(lines):
                second = lines[at]
                at += 1
            elif kind < 0.5:
                second = draw.choice(lines)
            else:
                second = altered(line.split(), draw.choice(lines).split(), draw)
                if draw.random() < 0.5:
                    line, second = second, line
        yield line
        yield second


def altered(words, others, draw):
    """A text with some words dropped, exchanged for those of another, or moved."""
    share = draw.choice([0.1, 0.2, 0.3, 0.5])
    some = [word for word in words if draw.random() >= share] or words[:1]
    how = draw.randrange(4)
    if how == 1:
        some = [draw.choice(others) if draw.random() < share else word for word in words]
    elif how == 2:
        cut = draw.randrange(1, len(words))
        some = words[cut:] + words[:cut]
    elif how == 3:
        cut = draw.randrange(len(words) // 2 + 1)
        some = words[cut : cut + (len(words) + 1) // 2]
    return " ".join(some)


main()

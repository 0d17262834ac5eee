#!/usr/bin/env python3
"""One training text and one validation text from folders of books, split by author.

    python tools/books.py --out books FOLDER...

A file belongs to the author that its name or its folder begins with (`Author_Title_Year.txt`, `First Last/Title.md`);
all books of one author in forty, drawn by a checksum of the name, are held out. So no held-out book, and no other edition
of it, is trained on. Writes train.txt and valid.txt, and says how much is in each. Needs the standard library only.
"""
import argparse, pathlib, sys, unicodedata, zlib

HELD_OUT = 40


def author(path, root):
    parts = path.relative_to(root).parts
    # The last name alone: the collections write the first one differently.
    name = parts[-2].split()[-1] if len(parts) > 1 else parts[-1].split("_")[0]
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "".join(c for c in plain.lower() if c.isalpha())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    with open(flags.out / "train.txt", "w", encoding="utf-8") as train, open(flags.out / "valid.txt", "w", encoding="utf-8") as valid:
        counts = {train: [0, 0], valid: [0, 0]}
        for folder in flags.folders:
            books = [p for p in sorted(folder.rglob("*")) if p.suffix in (".txt", ".md") and p.stem != "README"]
            for path in books:
                text = path.read_text(encoding="utf-8", errors="replace").strip()
                to = valid if zlib.crc32(author(path, folder).encode()) % HELD_OUT == 0 else train
                to.write(text + "\n")
                counts[to][0] += 1
                counts[to][1] += len(text.split())
    for name, (books, words) in zip(("train", "valid"), counts.values()):
        print(f"{name}: {books} books, {words:,} words")
    return 0 if all(books for books, _ in counts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

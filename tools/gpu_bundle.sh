#!/usr/bin/env bash
# Everything that tools/gpu_queue.sh needs on a machine with a GPU and without Rust, in one folder, and that folder in
# one archive, which is what travels.
#
#   tools/gpu_bundle.sh FOLDER [MIRROR [BOOKS]]      writes FOLDER (which must be new) and FOLDER.tar.xz
#
# MIRROR has trec, aclImdb and vocab/bert-base-cased (docs/data.md); BOOKS has train.txt and valid.txt (tools/books.py).
# A subset travels, so that the archive stays below 50 MiB: every tenth labelled review of IMDb, and the first BOOKS_MIB
# (default 100) of train.txt. The binaries are those of this machine: x86-64, and a glibc no newer than the other machine's.
set -euo pipefail
folder=$(realpath -m "${1:?"usage: tools/gpu_bundle.sh FOLDER [MIRROR [BOOKS]]"}")
mirror=${2:+$(realpath "$2")} books=${3:+$(realpath "$3")}
cd "$(dirname "$0")/.."
if [ -e "$folder" ]; then
    echo "$folder is there already" >&2
    exit 2
fi
mkdir -p "$folder/bin" "$folder/tools" "$folder/data"

cargo build --release
cp target/release/headstart "$folder/bin/"
# The test binaries' names have a hash in them; cargo says which they are.
test_binary() { # test_binary NAME CARGO-ARGUMENTS...
    local name=$1
    shift
    local said built
    said=$(cargo test --release --no-run "$@" 2>&1) || { echo "$said" >&2; return 1; }
    built=$(sed -n 's/.*Executable.*(\(.*\))$/\1/p' <<< "$said" | tail -1)
    cp "$built" "$folder/bin/$name"
}
test_binary engine-tests -p headstart-engine --lib
test_binary driver-tests -p headstart-engine --test cuda_emulator
test_binary cuda-tests --test cuda
strip "$folder"/bin/*

cp tools/*.py tools/gpu_queue.sh "$folder/tools/"
git describe --always --dirty --abbrev=40 > "$folder/commit.txt"
if [ -n "$mirror" ]; then
    mkdir -p "$folder/data/vocab"
    cp -r "$mirror/trec" "$folder/data/"
    cp -r "$mirror/vocab/bert-base-cased" "$folder/data/vocab/"
    for part in train/pos train/neg test/pos test/neg; do
        mkdir -p "$folder/data/aclImdb/$part"
        (cd "$mirror/aclImdb/$part" && find . -name '*.txt' | LC_ALL=C sort | awk 'NR % 10 == 1' |
            xargs cp -t "$folder/data/aclImdb/$part")
    done
fi
if [ -n "$books" ]; then
    mkdir "$folder/data/books"
    # Without the line that is cut in two.
    head -c "${BOOKS_MIB:-100}M" "$books/train.txt" | sed '$d' > "$folder/data/books/train.txt"
    cp "$books/valid.txt" "$folder/data/books/"
fi
# Fast rather than small: a higher level takes minutes for a few per cent.
tar -C "$(dirname "$folder")" -c "$(basename "$folder")" | xz -3 -T0 > "$folder.tar.xz"
du -sh "$folder"/* "$folder.tar.xz"

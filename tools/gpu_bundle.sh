#!/usr/bin/env bash
# Everything that tools/gpu_queue.sh needs on a machine with a GPU and without Rust, in one folder.
#
#   tools/gpu_bundle.sh FOLDER [MIRROR [BOOKS]]
#
# MIRROR has trec, aclImdb and vocab/bert-base-cased (docs/data.md); BOOKS has train.txt and valid.txt (tools/books.py).
# The binaries are those of this machine: x86-64, and a glibc no newer than the other machine's.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?"usage: tools/gpu_bundle.sh FOLDER [MIRROR [BOOKS]]"}
mkdir -p "$folder/bin" "$folder/tools" "$folder/data"

cargo build --release
cp target/release/headstart "$folder/bin/"
# The test binaries' names have a hash in them; cargo says which they are.
test_binary() { # test_binary NAME CARGO-ARGUMENTS...
    local name=$1
    shift
    local built
    built=$(cargo test --release --no-run "$@" 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p' | tail -1)
    cp "$built" "$folder/bin/$name"
}
test_binary engine-tests -p headstart-engine --lib
test_binary driver-tests -p headstart-engine --test cuda_emulator
test_binary cuda-tests --test cuda
strip "$folder"/bin/*

cp tools/*.py tools/gpu_queue.sh "$folder/tools/"
git rev-parse HEAD > "$folder/commit.txt"
if [ $# -ge 2 ]; then
    for part in trec aclImdb vocab; do
        if [ -d "$2/$part" ]; then cp -r "$2/$part" "$folder/data/"; fi
    done
fi
if [ $# -ge 3 ]; then cp -r "$3" "$folder/data/books"; fi
du -sh "$folder"/*

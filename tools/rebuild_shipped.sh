#!/usr/bin/env bash
# Makes the model in the program anew (docs/shipped-model.md), one command a step:
#
#     tools/rebuild_shipped.sh BOOKS INDEX TEACHER OUT MODERN [--prefix]
#
# BOOKS    the folder of mlschmitt/classic-books-markdown at commit 944882722e9a96fa6cf2739dc2ea757e101f412f
# INDEX    a table of path, year of the first edition, bytes, words (tabs, one header line) of those books
# TEACHER  the folder of all-MiniLM-L6-v2, with its vocab.txt
# OUT      where texts and runs go; what is there already is not made again, and a stopped run goes on
# MODERN   a folder with checkouts of today's text, under the names and of the commits that docs/shipped-model.md lists
#
# --prefix  only the texts and a run of 40 steps, whose weights must have a known sum on processors with AVX-512 and bf16
#
# Takes some four hours and a half on two cores; Python needs numpy, safetensors and tokenizers. Ends with model.int8.safetensors and its SHA-256.
set -euo pipefail

[ $# -ge 5 ] || { sed -n '2,15p' "$0"; exit 2; }
books=$1 index=$2 teacher=$3 out=$4 modern=$5 mode=${6:-whole}
here=$(cd "$(dirname "$0")/.." && pwd)
headstart=${HEADSTART:-$here/target/release/headstart}

say() { echo "-- $*" >&2; }

# Sums of what every step must have made.
check() { # FILE SUM
    local found
    found=$(sha256sum "$1" | cut -d' ' -f1)
    [ "$found" = "$2" ] || { say "$1 has the SHA-256 $found, expected $2"; exit 1; }
}

# A run that is done is left, one that was stopped goes on.
learn() { # RUN, then the options of headstart distill
    local run=$1
    shift
    if [ -d "$run/final" ]; then return; fi
    if [ -d "$run/checkpoints" ]; then "$headstart" distill --resume "$run"; else
        "$headstart" distill --teacher "$teacher" --precision bf16 --schedule trapezoidal --train_batch_size 64\
            --lr "${rate:-1e-3}" --save_every 250 --keep 1 --cache_dir "$out/cache" --out "$run" "$@"
    fi
}

mkdir -p "$out/pd" "$out/c1" "$out/c2" "$out/c3" "$out/c4" "$out/c8" "$out/narrow" "$out/bytes5" "$out/modern/w"

say "1: the books of 1930 and before, one folder"
awk -F'\t' 'NR > 1 && $2 != "" && $2 <= 1930 { print $1 }' "$index" | while IFS= read -r path; do
    [ -e "$out/pd/${path/\//__}" ] || cp "$books/$path" "$out/pd/${path/\//__}"
done

say "2: lines of one to six sentences"
[ -s "$out/c1/train.txt" ] || {
    python3 "$here/tools/distill_text.py" "$out/books.txt" "$out/pd" --most_words 20000000
    check "$out/books.txt" ca32273ad4570008d5d90c495a92d31dd3380e942b581896905daef0ff1d3c11
    tail -n 600 "$out/books.txt" > "$out/c1/valid.txt"
    head -n 300000 "$out/books.txt" > "$out/c1/train.txt"
}
say "3: lines with more questions, and some as long as reviews"
[ -s "$out/c2/train.txt" ] || {
    python3 "$here/tools/distill_text.py" "$out/books2.txt" "$out/pd" --most_words 40000000 --seed 2 --long 0.04 --questions
    check "$out/books2.txt" a056382e8f26ee856b012b8ba0a2d3f30bbbe6b4d8b0b027d92730cc8928fe24
    tail -n 600 "$out/books2.txt" > "$out/c2/valid.txt"
    head -n -600 "$out/books2.txt" > "$out/c2/train.txt"
}

say "4: lines and pairs of lines"
[ -s "$out/c3/train.txt" ] || {
    python3 "$here/tools/distill_text.py" "$out/books3.txt" "$out/pd" --most_words 24000000 --seed 3 --long 0.04 --questions --pairs 0.6
    check "$out/books3.txt" a26e88ec6d51a0449b09dc5570be573a65e6d1113af9b3fa5934bbb30bd7bc5b
    tail -n 1200 "$out/books3.txt" > "$out/c3/valid.txt"
    head -n -1200 "$out/books3.txt" > "$out/c3/train.txt"
}

say "4: lines, and pairs of half of them"
[ -s "$out/c4/train.txt" ] || {
    python3 "$here/tools/distill_text.py" "$out/books4.txt" "$out/pd" --most_words 48000000 --seed 4 --long 0.04 --questions --pairs 0.5
    check "$out/books4.txt" 08d4d094026429a9eb70349aef83bf835f8dc7b21e5d028a8b7854c31845c77c
    tail -n 1200 "$out/books4.txt" > "$out/c4/valid.txt"
    head -n -1200 "$out/books4.txt" > "$out/c4/train.txt"
}

first=(--data "$out/c1" --inputs lines --block_size 128 --arch electra --embed_dim 256 --embedding_size 128 --hidden_dim 1024
    --num_layers 4 --num_heads 4 --num_max_positions 512 --dropout 0)
if [ "$mode" = --prefix ]; then
    say "5: a run of 40 steps"
    learn "$out/prefix" "${first[@]}" --max_steps 40 --eval_every 1000
    check "$out/prefix/final/model.safetensors" 3657bb761cad7aa9e07d33274fd4e18716ec0750abccecbedb5e728d82566554
    say "as it should be"
    exit
fi

say "5: learning from short lines"
learn "$out/r1" "${first[@]}" --max_steps 8000 --eval_every 500
say "6: learning from longer ones"
learn "$out/r2" --data "$out/c2" --inputs lines --from "$out/r1" --linears random --block_size 512 --max_steps 7000 --eval_every 1000
say "7: a vocabulary of its own, and the rows for it"
[ -s "$out/vocabulary.json" ] || {
    "$headstart" tokenizer train "$out/c2/train.txt" --vocab_size 16000 --lowercase --out "$out/vocabulary.json"
    check "$out/vocabulary.json" f242b468c9a2d3379fff2138258639c7c50c5b54ee8fee643a204b9af4e25057
}
[ -d "$out/folder2" ] || "$headstart" export "$out/r2" --to sentence-transformers --output "$out/folder2"
[ -d "$out/start3" ] || python3 "$here/tools/transfer_vocabulary.py" "$out/folder2" "$out/vocabulary.json" "$out/start3"
say "8: learning on with it, where pieces of both end together"
learn "$out/r3" --data "$out/c2" --inputs lines --from "$out/start3" --linears random --block_size 512 --max_steps 6500 --eval_every 1000 --seed 43
say "9: and from pairs"
learn "$out/r4" --data "$out/c3" --inputs pairs --from "$out/r3" --linears random --block_size 512 --max_steps 5000 --eval_every 1000 --seed 44
pack() { # FOLDER INTO
    (cd "$here" && cargo run --release -q -p headstart --example pack -- "$1" "$2")
}
say "10: embeddings as wide as the layers, from its weights at a byte each"
[ -d "$out/folder4" ] || "$headstart" export "$out/r4" --to sentence-transformers --normalize --output "$out/folder4"
[ -d "$out/start5" ] || {
    pack "$out/folder4" "$out/narrow"
    python3 "$here/tools/widen_embeddings.py" "$out/folder4" "$out/start5" "$out/c1/train.txt" --packed "$out/narrow/model.int8.safetensors"
}
say "11: learning on with those, from lines and pairs"
learn "$out/r5" --data "$out/c4" --inputs pairs --from "$out/start5" --linears random --block_size 512 --max_steps 6500 --eval_every 1000 --seed 45
say "12: a folder, its weights at a byte each, and those as numbers again"
[ -d "$out/folder5" ] || "$headstart" export "$out/r5" --to sentence-transformers --normalize --output "$out/folder5"
mix() { # FOLDER INTO SAFETENSORS...: the folder with the mean of these weights, which may have a byte each
    python3 - "$@" <<'MIX'
import shutil, sys
import numpy as np
from safetensors.numpy import load_file, save_file
folder, into, files = sys.argv[1], sys.argv[2], sys.argv[3:]
def weights(file):
    q = load_file(file)
    return {n: q[n].astype(np.float32) * q[n + ".scale"][:, None] if n + ".scale" in q else q[n] for n in q if not n.endswith(".scale")}
all_of = [weights(file) for file in files]
shutil.copytree(folder, into, ignore=shutil.ignore_patterns("headstart.json"))
mean = {n: (sum(w[n] for w in all_of) / len(all_of)).astype(np.float32) for n in all_of[0]}
save_file(mean, into + "/model.safetensors", metadata={"format": "pt"})
MIX
}
[ -d "$out/start8" ] || {
    pack "$out/folder5" "$out/bytes5"
    mix "$out/folder5" "$out/start8" "$out/bytes5/model.int8.safetensors"
}
say "13: text of today, and lines that are written for their words"
[ -s "$out/c8/train.txt" ] || {
    python3 "$here/tools/modern_text.py" "$out/modern/out" "$modern" "$teacher/vocab.txt"
    mv "$out/modern/out/written.txt" "$out/modern/w/"
    python3 "$here/tools/distill_text.py" "$out/modern/m.txt" "$out/modern/out" --most_words 9000000 --seed 8 --long 0.04 --questions --pairs 0.25
    check "$out/modern/m.txt" 76e178649ad3012727235ee60d6cc21fde5db2aef7badf7dd0b9fd7cc403170e
    python3 "$here/tools/distill_text.py" "$out/modern/w.txt" "$out/modern/w" --most_words 9000000 --seed 8 --pairs 0.25
    check "$out/modern/w.txt" 64e45c48e0bec6c396f5a48dd54595ac99ee22bb8f85186563ee7ffc44edb949
    python3 "$here/tools/distill_text.py" "$out/modern/b.txt" "$out/pd" --most_words 3000000 --seed 8 --long 0.03 --questions --pairs 0.5
    check "$out/modern/b.txt" a3f05ea6f710d38f6900bca17205b8087cb05a776aee7b22e5dcac42e33787cc
    for part in m w b; do tail -n 400 "$out/modern/$part.txt"; done > "$out/c8/valid.txt"
    for part in m w b; do head -n -400 "$out/modern/$part.txt"; done > "$out/c8/train.txt"
}
say "14: learning on with that"
rate=7e-4 learn "$out/r8" --data "$out/c8" --inputs pairs --from "$out/start8" --block_size 512 --max_steps 6000 --eval_every 1000 --seed 48
say "15: the mean of the weights before and behind that stage, at a byte each"
[ -d "$out/folder8" ] || "$headstart" export "$out/r8" --to sentence-transformers --normalize --output "$out/folder8"
[ -d "$out/folder" ] || mix "$out/folder8" "$out/folder" "$out/folder8/model.safetensors" "$out/start8/model.safetensors"
pack "$out/folder" "$out"
sha256sum "$out/model.int8.safetensors"

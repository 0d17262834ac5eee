#!/usr/bin/env bash
# The queue of docs/gpu.md, on a machine with an NVIDIA GPU: run in the folder that tools/gpu_bundle.sh made.
#
#   tools/gpu_queue.sh ITEM...        each item at most ten minutes; a failing one does not stop the others
#   tools/gpu_queue.sh list           what there is
#
# From the environment:
#   PYTHON      the Python that has torch (default python3); its packages' NVIDIA libraries are used where the system has none
#   RESULTS     where everything is written (default results)
#   PACK        an archive that gets the small files of RESULTS after each item, for machines that give few files back
#   DATA        the mirror (default data)
#   LIMIT       seconds for one item (default 590); TOTAL: for all of them together; what has no time left is skipped
#   BATCHES, ROUNDS, STEPS, DEVICE    instead of what the comparisons below say
#   BOOKS_SECONDS                     of training on the books, each side (default 420)
#   TEACHER, START, LINES             of distill: the teacher's folder, what the student starts from (default shipped), and its text (default
#                                     DATA/lines: train.txt and valid.txt, lines and pairs as tools/distill_text.py makes them)
#   DISTILL_SECONDS                   of distill (default 240)
# The exit code is 1 if any item failed or was skipped.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PACK=${PACK:+$(realpath -m "$PACK")}
cd "$root"
PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-results}
DATA=${DATA:-data}
LIMIT=${LIMIT:-590}
TOTAL=${TOTAL:-1000000}
DEVICE=${DEVICE:-cuda}
hs=$root/bin/headstart
# The program looks into the environment of the Python it finds first.
PATH=$(dirname "$(command -v "$PYTHON")"):$PATH
export PATH HEADSTART_CACHE=${HEADSTART_CACHE:-$root/cache} HEADSTART_TEST_CUDA=${HEADSTART_TEST_CUDA:-real} HEADSTART_TEST_PROGRAM=$hs
# The engine's tests look nowhere by themselves, and a Python may keep its packages where the program does not look.
alone=${LD_LIBRARY_PATH:-}
packages=$("$PYTHON" -c '
import glob, importlib.util
found = importlib.util.find_spec("nvidia")
print(":".join(lib for place in (found.submodule_search_locations if found else []) for lib in sorted(glob.glob(place + "/*/lib"))))')
export LD_LIBRARY_PATH=$alone${alone:+:}$packages${packages:+:}/usr/local/cuda/lib64

compare() {
    "$PYTHON" tools/gpu_compare.py "$@" --headstart "$hs" --python "$PYTHON" --mirror "$DATA" --device "$DEVICE" --out "$RESULTS/compare.jsonl" \
        ${BATCHES:+--batches $BATCHES} ${ROUNDS:+--rounds "$ROUNDS"} ${STEPS:+--steps "$STEPS"}
}

# What is there. The program is asked as a user would ask it, without our search path.
item_device() {
    nvidia-smi || echo "no nvidia-smi"
    uname -sr; nproc; ldd --version | head -1; cat commit.txt
    local ok=0
    "$PYTHON" -c 'import torch; print("torch", torch.__version__, torch.version.cuda, torch.cuda.get_device_name())' || ok=1
    if ! LD_LIBRARY_PATH=$alone "$hs" doctor | tee "$RESULTS/doctor.txt" | grep "^gpu *cuda:0"; then
        cat "$RESULTS/doctor.txt"
        echo "the program finds no GPU by itself; with LD_LIBRARY_PATH=$LD_LIBRARY_PATH:"
        "$hs" doctor
        ok=1
    fi
    return $ok
}
# The driver, NVRTC and cuBLASLt do what the engine's tests take for granted.
item_driver() { bin/driver-tests --test-threads 1; }
# Every op on the GPU against its plain reference, forward and backward.
# A failure is said at once, so that it is known where the clock cuts the others off.
item_gradchecks() { bin/engine-tests --test-threads 12 --nocapture; }
# 200 steps against the processor, resume, moving between devices, generation.
item_overlay() { bin/cuda-tests --test-threads 1 --nocapture; }
# What replaying captured graphs is worth: the same steps in turn with it switched off. Below 5 % it is deleted.
item_graphs() {
    local round batch graphs
    for round in $(seq "${ROUNDS:-3}"); do
        for batch in ${BATCHES:-8 256}; do
            for graphs in on off; do
                printf 'round %s, batch %s, graphs %s: ' "$round" "$batch" "$graphs"
                HEADSTART_CUDA_GRAPHS=$graphs "$hs" bench train --device "$DEVICE" --preset naacl2019 --precision bf16 --batch "$batch" \
                    --warmup 4 --steps "${STEPS:-40}" --json | tee -a "$RESULTS/graphs.jsonl" |
                    "$PYTHON" -c 'import json, sys; r = json.loads(sys.stdin.read()); print(round(r["tokens_per_s"]), "tokens/s,", r.get("replayed"), "replayed")' || return 1
            done
        done
    done
}
# Compiles the peers of train, gpt2 and finetune_trec side by side, for their compiler's cache; nothing here is timed. What is compared after it
# takes 20 s a peer instead of a minute.
item_warm() {
    local batch
    for batch in ${BATCHES:-128}; do
        "$PYTHON" tools/torch_baseline.py --train-only --shape naacl2019 --device "$DEVICE" --compile --batch "$batch" --steps 2 --warmup 2 &
    done
    "$PYTHON" tools/torch_baseline.py --train-only --shape gpt2 --seq 1024 --device "$DEVICE" --compile --batch 16 --steps 2 --warmup 2 &
    "$PYTHON" tools/torch_peers.py finetune --data trec --vocab "$DATA/vocab/bert-base-cased/vocab.txt" "$DATA/trec" --device "$DEVICE" --compile --batch 64 \
        --steps 4 --warmup 4 &
    wait
}
# The tutorial's model against torch.compile.
item_train() { compare train --batches 64 128 256; }
item_train_large() { compare train --batches 512 1024 --rounds 2; }
item_train_no_attention_dropout() { compare train-no-attention-dropout --batches 128 256 512; }
item_train_f32() { compare train-f32 --batches 64 128 --rounds 1; }
item_gpt2() { compare gpt2 --batches 16 32 64; }
item_gpt2_no_dropout() { compare gpt2-no-dropout --batches 16 32 64; }
# The sizes that `warm` compiles for.
item_compare_all() {
    compare train --batches ${BATCHES:-128} && BATCHES="" compare gpt2 --batches 16 && BATCHES="" compare finetune-trec --batches 64 --steps 40
}
item_finetune_trec() { compare finetune-trec --batches 16 64 256 --steps 40; }
item_finetune_imdb() { compare finetune-imdb --batches 16 64 --steps 20; }
# Where the time of a step goes.
item_profile() {
    "$hs" bench train --device "$DEVICE" --preset naacl2019 --precision bf16 --batch 256 --steps 20 --profile &&
        "$hs" bench train --device "$DEVICE" --preset gpt2 --num_max_positions 1024 --seq 1024 --precision bf16 --batch 32 --steps 20 --profile
}
# What the GPU reaches at most: matmuls at our shapes, padded or not, and a copy.
item_ceilings() { "$PYTHON" tools/gpu_ceilings.py; }
# The kernels of two steps by the time they take, as NVIDIA's profiler reads it from the GPU (ncu, of the CUDA toolkit).
kernels_of() {
    local out=$RESULTS/kernels-$1-$2.csv
    shift
    HEADSTART_CUDA_GRAPHS=off timeout 120 ncu --clock-control none --metrics gpu__time_duration.sum --csv --log-file "$out" \
        "$hs" bench train --device "$DEVICE" --precision bf16 --batch "$@" --warmup 1 --steps 1 > /dev/null || return 1
    "$PYTHON" - "$out" <<'END'
import csv, sys
rows = csv.DictReader(line for line in open(sys.argv[1]) if line.startswith('"'))
times = {}
scale = {"ns": 1e-6, "nsecond": 1e-6, "us": 1e-3, "usecond": 1e-3, "ms": 1.0, "msecond": 1.0, "s": 1e3, "second": 1e3}
for row in rows:
    if row["Metric Name"] == "gpu__time_duration.sum":
        times.setdefault(row["Kernel Name"].split("(")[0][:90], []).append(float(row["Metric Value"].replace(",", "")) * scale[row["Metric Unit"]])
total = sum(map(sum, times.values()))
print(f"{total:.1f} ms in {sum(map(len, times.values()))} launches")
for name, values in sorted(times.items(), key=lambda item: -sum(item[1]))[:40]:
    print(f"{sum(values):9.2f} ms  {100 * sum(values) / total:5.1f} %  {len(values):6d} x  {name}")
END
}
item_kernels() {
    kernels_of naacl2019 128 --preset naacl2019 &&
        kernels_of gpt2 16 --preset gpt2 --num_max_positions 1024 --seq 1024
}
# Whether the GPU waits between steps: the share of samples in which it did nothing.
item_idle() {
    nvidia-smi --query-gpu=utilization.gpu,power.draw,clocks.sm --format=csv,noheader,nounits -lms 200 > "$RESULTS/idle.csv" &
    local watch=$!
    "$hs" bench train --device "$DEVICE" --preset naacl2019 --precision bf16 --batch 256 --steps 300
    local code=$?
    kill "$watch"
    awk -F, '{ n++; busy += $1; if ($1 == 0) zero++ } END { if (n) printf "%d samples: busy %.1f %% of the time, idle in %d of them (start included)\n", n, busy / n, zero }' "$RESULTS/idle.csv"
    return $code
}
# Memory at equal batch: the MiB columns.
item_memory() { compare train --batches 32 64 --rounds 1 --steps 5; }
# The books, as long for each side, the same recipe. The first call also makes the token caches.
books_tokens() {
    "$hs" pretrain --data "$DATA/books" --tokenizer "$DATA/vocab/bert-base-cased/vocab.txt" --device "$DEVICE" --precision bf16 --n_epochs 0 \
        --out "$RESULTS/books-tokens-$(date +%s)"
}
item_books_tokens() { books_tokens && ls -lS "$HEADSTART_CACHE"/tokens/; }
item_books() {
    "$hs" pretrain --data "$DATA/books" --tokenizer "$DATA/vocab/bert-base-cased/vocab.txt" --device "$DEVICE" --precision bf16 \
        --train_batch_size 256 --lr 1e-3 --n_warmup 500 --max_norm 0.25 --schedule constant --eval_every 500 --max_time "$BOOKS_SECONDS" --out "$RESULTS/books" &&
        grep '"valid"' "$RESULTS/books/metrics.jsonl" | tail -20
}
item_books_peer() {
    # The caches of the training and the validation text: the largest, and the next one.
    local caches
    mapfile -t caches < <(ls -S "$HEADSTART_CACHE"/tokens/lm-*.tokens)
    "$PYTHON" tools/torch_peers.py train --ids "${caches[0]}" --valid "${caches[1]}" --device "$DEVICE" --compile --batch 256 --lr 1e-3 \
        --warmup-steps 500 --seconds "$BOOKS_SECONDS" | tee "$RESULTS/books-peer.jsonl"
}
# A trunk from the books, tuned on TREC-6.
item_trec() {
    "$hs" finetune --model "$RESULTS/books" --data trec --mirror "$DATA" --offline --device "$DEVICE" --precision bf16 --out "$RESULTS/trec-$(date +%s)"
}
# The model in the program learns on from its teacher, in large batches: how fast that is, and weights to judge (docs/shipped-model.md). They
# come back in pieces, for machines that give only small files back.
item_distill() {
    local out=$RESULTS/distilled
    "$hs" distill --teacher "${TEACHER:?the folder of all-MiniLM-L6-v2}" --from "${START:-shipped}" --data "${LINES:-$DATA/lines}" --inputs pairs --block_size 512 \
        --device "$DEVICE" --precision bf16 --lr 1e-3 --schedule trapezoidal --train_batch_size 256 --budget "${DISTILL_SECONDS:-240}s" --eval_every 1000 \
        --out "$out" && "$hs" export "$out" --to sentence-transformers --normalize --output "$out-folder" &&
        tar -C "$RESULTS" -c distilled-folder | xz -1 -T0 | split -b 15M - "$RESULTS/distilled.txz."
}

# Exchanges between ranks, as far as this machine has GPUs for them.
item_nccl() { bin/engine-tests --test-threads 1 --nocapture cuda::nccl cuda::ops::parts; }
# The same with several ranks on one GPU: as ranks of one machine, and as if each were a machine of its own.
item_nccl_shared() {
    local ok=0
    for shared in ranks hosts; do
        echo "-- $shared"
        HEADSTART_TEST_SHARED_GPU=$shared bin/engine-tests --test-threads 1 --nocapture cuda::nccl || ok=1
    done
    return $ok
}
# What ranks send to each other in a second.
item_nccl_speed() { bin/engine-tests --test-threads 1 --nocapture --ignored cuda::nccl::tests::speed | tee "$RESULTS/nccl-speed.txt"; }
# The same weights from any number of ranks, a GPU for each.
item_ranks() {
    local gpus precision world rank out sums code=0
    gpus=$(nvidia-smi -L | wc -l)
    for precision in f32 bf16; do
        sums=()
        for world in 1 2 4 8; do
            [ "$world" -le "$gpus" ] || continue
            out=$RESULTS/ranks-$precision-$world-$(date +%s)
            local started=()
            for ((rank = 0; rank < world; rank++)); do
                "$hs" pretrain --data "$DATA/books" --tokenizer "$DATA/vocab/bert-base-cased/vocab.txt" --device "cuda:$rank" \
                    --precision "$precision" --train_batch_size 256 --reduction_groups 8 --max_steps 60 --rank "$rank" \
                    --world_size "$world" --rendezvous 127.0.0.1:29555 --out "$out" &
                started+=($!)
            done
            for rank in "${!started[@]}"; do
                wait "${started[$rank]}" || { echo "rank $rank of $world failed"; code=1; }
            done
            sums+=("$(cd "$out/final" && find . -type f -name '*.safetensors' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)")
            echo "$precision, $world ranks: ${sums[-1]}"
        done
        [ "$(printf '%s\n' "${sums[@]}" | sort -u | wc -l)" -eq 1 ] || { echo "$precision: the weights differ"; code=1; }
    done
    return $code
}

items=$(declare -F | sed -n 's/^declare -f item_//p')
if [ $# -eq 0 ] || [ "$1" = list ]; then
    printf '%s\n' "$items"
    exit 0
fi
mkdir -p "$RESULTS"
failed=()
for name in "$@"; do
    if ! declare -F "item_$name" > /dev/null; then
        echo "no item $name; there are:" $items >&2
        exit 2
    fi
done
export -f compare books_tokens kernels_of
export hs RESULTS DATA PYTHON DEVICE root alone BOOKS_SECONDS=${BOOKS_SECONDS:-420}
# Logs and figures; no models, no token caches.
pack() {
    [ -z "$PACK" ] || (cd "$RESULTS" && find . -type f -size -8192k \( -name '*.log' -o -name '*.txt' -o -name '*.csv' -o -name environment.json \
        -o -name '*.jsonl' -o -name '*.toml' \) -print0 | tar --null -T - -czf "$PACK")
}
for name in "$@"; do
    printf '\n== %s (%s)\n' "$name" "$(date -u +%H:%M:%S)"
    began=$SECONDS
    export -f "item_$name"
    left=$((TOTAL - SECONDS))
    if [ "$left" -lt 10 ]; then
        echo "== $name: skipped, no time is left"
        failed+=("$name")
        continue
    fi
    timeout --kill-after 5 $((left < LIMIT ? left : LIMIT)) bash -o pipefail -c "item_$name" 2>&1 | tee "$RESULTS/$name.log"
    code=${PIPESTATUS[0]}
    printf '== %s: %s, %d s\n' "$name" "$([ "$code" -eq 0 ] && echo ok || echo "failed ($code)")" $((SECONDS - began))
    [ "$code" -eq 0 ] || failed+=("$name")
    pack
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi

#!/usr/bin/env bash
# Measures the CPU: ours and PyTorch's in turns with as many threads, then benches and charts: bench-cpu.sh [THREADS...], default all of them.
#
# Wants a Python with benches/peers/requirements.txt (PYTHON says which) and a machine that does little else. Leaves benches/results.
set -euo pipefail
cd "$(dirname "$0")/.."

work=target/bench-cpu
mkdir -p "$work"
cargo build --release --locked --example time_case --example report
model=$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | sed 's/(R)\|(TM)//g;s/[, ]\+/ /g;q')
commit=$(git describe --always --abbrev=12 --exclude='*' --dirty)
files=()
for threads in "${@:-$(nproc)}"; do
    unit=threads
    [[ $threads != 1 ]] || unit=thread
    export LOGIT_PERTURB_HOST="$model $threads $unit,,,$(date -u +%F),$commit" RAYON_NUM_THREADS=$threads
    file=$work/$threads.csv
    "${PYTHON:-python3}" benches/peers/peers.py --device cpu --threads "$threads" --seconds 540 \
        --ours "${CARGO_TARGET_DIR:-target}/release/examples/time_case" >"$file"
    files+=("$file")
done
# The benches' times are rows of the last of these.
CRITERION_HOME=$PWD/$work/criterion cargo bench --locked --bench cpu
CRITERION_HOME=$PWD/$work/criterion cargo bench --locked -p logit-perturb-candle --bench cpu
"${CARGO_TARGET_DIR:-target}/release/examples/report" --criterion "$work/criterion" "${files[@]}"

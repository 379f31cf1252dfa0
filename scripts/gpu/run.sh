#!/usr/bin/env bash
# Runs one part of the bundle on a GPU host without Rust: run.sh OUT PART [FILTER], PART in probe | tests | sanitize | bench | peers.
#
# Leaves OUT/PART.tar.gz (logs, results.csv) and OUT/PART.txt (summary, whose last line is `N passed, M failed`), whatever happens. What the host
# refuses (no such tool, no permission) is recorded as refused, not as failed. Exit status: 0 the part ran; 1 something in it failed, or nothing
# in it could run; 2 wrong usage. FILTER chooses tests, benchmarks or peers' points by a part of their name.
set -euo pipefail

usage() {
    echo "usage: run.sh OUT probe|tests|sanitize|bench|peers [FILTER]" >&2
    exit 2
}

[[ $# -ge 2 && $# -le 3 ]] || usage
out=$1 part=$2 filter=${3:-}
case $part in
probe) minutes=1 ;;
tests | peers) minutes=4 ;;
sanitize) minutes=5 ;;
bench) minutes=6 ;;
*) usage ;;
esac

bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
commit=$(sed -n 's/^commit: //p' "$bundle/MANIFEST")
mkdir -p "$out"
out=$(cd "$out" && pwd)
# Beside the bundle, and not only in OUT: `peers` compares with the times that `bench` left here.
work=$bundle/results/$part
rm -rf "$work"
mkdir -p "$work"
steps=$work/steps.txt results=$work/results.csv
: >"$steps"
echo device,driver,cuda,date,commit,what,variant,dtype,n,c,bytes,us,share_of_copy,peer,ratio >"$results"
passed=0 failed=0 refused=0 ended=no
# The rest is for the last step's end by force, and for packing.
readonly deadline=$((minutes * 60 - 10))

# ---- steps

note() { echo "$*" | tee -a "$steps"; }

pass() {
    passed=$((passed + 1))
    note "passed   $*"
}

fail() {
    failed=$((failed + 1))
    note "FAILED   $*"
    return 1
}

refuse() {
    refused=$((refused + 1))
    note "refused  $*"
    return 1
}

# step NAME SECONDS COMMAND...: its output goes to NAME.log; it is stopped after its seconds or at the part's deadline. A line of the log that
# matches $refusal means that the host refused.
step() {
    local name=$1 seconds=$2 status=0 start=$SECONDS left=$((deadline - SECONDS)) took log=$work/$1.log
    shift 2
    ((left > 0)) || fail "$name: not reached, the part's time was up" || return
    timeout --kill-after=5 "$((seconds < left ? seconds : left))" "$@" >"$log" 2>&1 </dev/null || status=$?
    took="$((SECONDS - start)) s"
    if [[ -n ${refusal:-} ]] && grep -qE "$refusal" "$log"; then
        refuse "$name: $(grep -m 1 -E "$refusal" "$log")"
    elif ((status == 124 || status == 137)); then
        fail "$name: stopped after $took"
    elif ((status != 0)); then
        fail "$name: exit status $status ($took)"
    elif grep -q '^test result: ok. 0 passed' "$log"; then
        fail "$name: no test ran"
    else
        pass "$name ($took)"
    fi
}

# Adds a step's rows to the results: the lines with as many columns.
keep_rows() { awk -F, 'NF == 15 && $1 != "device"' "$work/$1.log" >>"$results"; }

finish() {
    local log
    [[ $ended == yes ]] || fail "$part: stopped before its end" || true
    {
        echo "$part: ${LOGIT_PERTURB_HOST:-}"
        echo "nvrtc: ${LOGIT_PERTURB_NVRTC:-not found}"
        cat "$steps"
        for log in "$work"/*.log; do
            [[ -s $log ]] || continue
            echo "--- the end of ${log##*/}"
            awk -F, 'NF != 15' "$log" | tail -n 20
        done
        echo "--- results.csv"
        cat "$results"
        echo "$refused refused"
        echo "$passed passed, $failed failed"
    } >"$out/$part.txt"
    # The probe's program is no log.
    tar -czf "$out/$part.tar.gz" -C "$bundle/results" --exclude="$part/probe" "$part"
    tail -n 1 "$out/$part.txt"
    ((failed == 0 && passed > 0)) || exit 1
}

# ---- what the host has

find_nvrtc() {
    local folder nvcc
    {
        printf '%s\n' "${CUDA_HOME:-/usr/local/cuda}/lib64" /usr/local/cuda*/lib64
        nvcc=$(command -v nvcc) && echo "$(dirname "$(readlink -f "$nvcc")")/../lib64"
        # nvidia/cu13/lib or nvidia/cuda_nvrtc/lib, by the wheel's age.
        python3 -c 'import glob, nvidia; print(*(d for p in nvidia.__path__ for d in glob.glob(p + "/*/lib")), sep="\n")' 2>/dev/null || true
    } | while read -r folder; do
        compgen -G "$folder/libnvrtc.so.[0-9][0-9]" || true
    done | sed -n 1p
}

# The first five columns of every row.
describe_host() {
    local device cuda
    device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | sed -n '1s/, */,/p') || device=,
    cuda=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9.]*\).*/\1/p') || cuda=
    echo "$device,$cuda,$(date -u +%F),$commit"
}

has_torch() { python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; }

has_device() { nvidia-smi -L >/dev/null 2>&1 || has_torch; }

# Sets `probe` to the probe's command: built where there is nvcc; else PyTorch measures what it can.
find_probe() {
    if command -v nvcc >/dev/null && step build-probe 40 nvcc -O3 -std=c++17 -arch=native -o "$work/probe" "$bundle/probe.cu"; then
        probe=("$work/probe")
    elif has_torch; then
        probe=(python3 "$bundle/peers/probe.py")
    else
        refuse "probe: neither nvcc nor PyTorch with CUDA"
    fi
}

# ---- the parts

probe() {
    find_probe || return
    step probe 40 "${probe[@]}" || true
    keep_rows probe
    if ! command -v ncu >/dev/null; then
        refuse "counters: ncu is not installed"
    else
        refusal='ERR_NVGPUCTRPERM|LibraryNotLoaded|Failed to initialize the profiler|==ERROR==' step counters 25 \
            ncu --clock-control none --metrics dram__bytes_read.sum,dram__bytes_write.sum --launch-count 1 "${probe[@]}" copy
    fi
}

tests() {
    step cuda-tests 150 "$bundle/bin/cuda" ${filter:+"$filter"} || true
    step check-cuda 40 "$bundle/bin/check" --backend cuda "$LOGIT_PERTURB_GOLDEN"/*.safetensors || true
    step check-all 60 "$bundle/bin/check" --backend all "$LOGIT_PERTURB_GOLDEN"/*.safetensors
}

# Over the tests whose name has FILTER, else `sanitize`: the tools slow kernels down too much for all of them.
sanitize() {
    local tool left=4
    for tool in memcheck racecheck initcheck synccheck; do
        command -v compute-sanitizer >/dev/null || refuse "$tool: compute-sanitizer is not installed" || continue
        # An equal share of the time left.
        refusal='Device not supported|Unable to find injection library' step "$tool" $(((deadline - SECONDS) / left)) \
            compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 --target-processes all \
            "$bundle/bin/cuda" --test-threads 1 "${filter:-sanitize}" || true
        left=$((left - 1))
    done
}

# Each has its part of the time, of which the benches know.
bench() {
    local name seconds
    while read -r name seconds; do
        # Criterion would look for Cargo to learn where its files go.
        CRITERION_HOME=$work/criterion LOGIT_PERTURB_CSV=$results step "$name" "$seconds" "$bundle/bin/$name" --bench ${filter:+"$filter"} || true
    done <<'END'
cross_entropy 165
learner 85
binary_cross_entropy 60
overhead 30
END
}

peers() {
    local ours=$bundle/results/bench/results.csv
    [[ -e $ours ]] || ours=/dev/null
    has_torch || refuse "peers: no PyTorch with CUDA" || return
    step peers 225 python3 "$bundle/peers/peers.py" --seconds 200 --filter "$filter" --ours "$ours" || true
    keep_rows peers
}

trap finish EXIT
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export LOGIT_PERTURB_HOST LOGIT_PERTURB_NVRTC LOGIT_PERTURB_GOLDEN=$bundle/golden
# A GPU host is no place for tests to skip themselves.
export LOGIT_PERTURB_REQUIRE=gpu,nvrtc
LOGIT_PERTURB_HOST=$(describe_host)
LOGIT_PERTURB_NVRTC=${LOGIT_PERTURB_NVRTC:-$(find_nvrtc)}
# An empty path would be looked up as one.
[[ -n $LOGIT_PERTURB_NVRTC ]] || unset LOGIT_PERTURB_NVRTC
if has_device; then
    "$part" || true
else
    refuse "$part: neither nvidia-smi nor PyTorch finds a device" || true
fi
ended=yes

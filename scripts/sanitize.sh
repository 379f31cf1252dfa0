#!/usr/bin/env bash
# Replays launches of the kernels in the emulator under the address and undefined-behaviour sanitizers, and under the thread sanitizer.
#
# usage: scripts/sanitize.sh [RECORDS]
#   RECORDS  a folder of launches (emulator option `record`); without it those of the short rows of tests/grid and of the multi-label learner's
#            random batches are recorded first.
# CXX names the compiler, JOBS how many run at a time. Ends with an error if any launch fails.
set -euo pipefail
cd "$(dirname "$0")/.."
cxx=${CXX:-g++}
jobs=${JOBS:-$(nproc)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ $# -ge 1 ]; then
    records=$1
else
    records=$work/records
    EMULATOR_RECORDS=$records cargo test --quiet --locked --test grid emulated::
    EMULATOR_RECORDS=$records cargo test --quiet --locked --test emulated_binary_learn every_option
    EMULATOR_RECORDS=$records cargo test --quiet --locked --test emulated_learn -- work_is_taken columns_do_not
fi
mapfile -t launches < <(find "$records" -name '*.launch' | sort)
[ ${#launches[@]} -gt 0 ] || { echo "no launches in $records" >&2; exit 1; }
sources=$(cargo run --quiet --locked -p logit-perturb-emulator --example generated_sources)
emulator=tests/emulator/cpp
common=(-std=c++17 -O1 -g -fno-strict-aliasing -ffp-contract=off -DEMULATED "-I${EMULATED_KERNELS:-kernels}" "-I$emulator")

# build NAME RUNTIME_FLAGS KERNEL_FLAGS: the driver, as $work/NAME/driver
build() {
    local out=$work/$1 runtime=$2 kernels=$3
    mkdir -p "$out"
    {
        printf '%s\n' "$emulator"/*.cpp | sed "s|\$| $runtime|"
        printf '%s\n' "$sources"/*.cpp | sed "s|\$| $kernels|"
    } | xargs -P "$jobs" -L 1 sh -c '
        cxx=$1 out=$2; shift 2
        while [ "$1" != -- ]; do set -- "$@" "$1"; shift; done; shift
        source=$1; shift
        exec "$cxx" "$@" -c "$source" -o "$out/$(basename "$source" .cpp).o"
    ' sh "$cxx" "$out" "${common[@]}" --
    "$cxx" $kernels "$out"/*.o -o "$out/driver"
}

# replay NAME: all launches, some in each of $jobs processes
replay() {
    printf '%s\0' "${launches[@]}" |
        { xargs -0 -P "$jobs" -n $(((${#launches[@]} + jobs - 1) / jobs)) "${run[@]}" "$work/$1/driver" || true; } |
        awk '{ passed += $1; failed += $3 } END { print passed + 0, failed + 0 }'
}

failures=0
report() {
    local name=$1 passed failed start=$SECONDS
    read -r passed failed < <(replay "$name")
    # A driver that died counted nothing.
    failed=$((${#launches[@]} - passed))
    echo "$name: $passed passed, $failed failed ($((SECONDS - start)) s)"
    failures=$((failures + failed))
}

export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
run=(env)

address="-fsanitize=address,undefined -fno-sanitize-recover=all"
build address+undefined "$address -DEMULATOR_ASAN" "$address"
report address+undefined

# The runtime itself is not instrumented: the order in which threads take turns orders nothing that they do.
build thread "-DEMULATOR_TSAN" "-fsanitize=thread"
# Its shadow memory wants addresses where they usually are.
if setarch "$(uname -m)" -R true 2>/dev/null; then run=(setarch "$(uname -m)" -R); fi
report thread

exit $((failures > 0))

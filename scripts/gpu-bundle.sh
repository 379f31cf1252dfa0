#!/usr/bin/env bash
# Packs all that a GPU host without Rust needs into one archive: gpu-bundle.sh [OUT_DIR], default target/gpu-bundle. Needs no GPU, no toolkit.
#
# The archive holds the folder gpu-bundle: bin/ (tests, check, benchmarks), golden/, peers/, run.sh (what to call there), probe.cu, MANIFEST.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly limit=48000000 # bytes; hosts are fed through narrow channels
out=${1:-target/gpu-bundle}
bundle=$out/gpu-bundle
archive=$out/gpu-bundle.tar.gz

die() {
    echo "gpu-bundle: $*" >&2
    exit 1
}

# What is built: Cargo's kind of target, its name, its source, and how Cargo is asked for it.
readonly programs=(
    "example check examples/check/main.rs build --release --example check"
    "test cuda tests/cuda.rs test --release --no-run --test cuda"
    "bench cross_entropy benches/cross_entropy.rs bench --no-run --bench cross_entropy"
    "bench binary_cross_entropy benches/binary_cross_entropy.rs bench --no-run --bench binary_cross_entropy"
    "bench learner benches/learner.rs bench --no-run --bench learner"
    "bench overhead benches/overhead.rs bench --no-run --bench overhead"
)

for program in "${programs[@]}"; do
    read -r kind name source _ <<<"$program"
    [[ -e $source ]] || die "the $kind '$name' is missing: there is no $source"
done

rm -rf "$bundle" "$archive"
mkdir -p "$bundle/bin" "$bundle/peers"
for program in "${programs[@]}"; do
    read -r kind name _ arguments <<<"$program"
    # The arguments are words without spaces.
    # shellcheck disable=SC2086
    messages=$(cargo $arguments --locked -p logit-perturb --message-format=json-render-diagnostics) || die "the $kind '$name' does not build"
    built=$(sed -n "/\"kind\":\[\"$kind\"\].*\"name\":\"$name\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" <<<"$messages")
    [[ -x $built ]] || die "cargo named no program for the $kind '$name'"
    strip -o "$bundle/bin/$name" "$built"
done

cp -r tests/golden "$bundle/golden"
cp benches/peers/*.py benches/peers/requirements.txt "$bundle/peers/"
cp scripts/gpu/run.sh scripts/gpu/probe.cu "$bundle/"

# Rows carry the commit: one that is not what was built must show.
commit=$(git describe --always --abbrev=12 --exclude='*' --dirty)
[[ -z $(git ls-files --others --exclude-standard) ]] || commit=${commit%-dirty}-dirty
{
    echo "commit: $commit"
    echo "date: $(date -u +%FT%TZ)"
    echo "rustc: $(rustc --version)"
    echo "machine: $(uname -sm), glibc $(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)"
    echo "bytes, file:"
    (cd "$bundle" && find . -type f ! -name MANIFEST -printf '%s %P\n' | sort -k 2)
} >"$bundle/MANIFEST"

tar -czf "$archive" -C "$out" gpu-bundle
size=$(stat -c %s "$archive")
((size < limit)) || die "$archive has $size bytes, the limit is $limit"
echo "$archive: $size bytes"

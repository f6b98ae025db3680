#!/bin/sh
# The regression gate for speed that no noise can hide: instructions per decision of `level` at N x G x K = 512 x 64 x 8, counted by
# callgrind on the scalar and the AVX2 path, against tests/instructions.json. BALANCEROUTE_BLESS=1 writes the figures found.
set -eu
cd "$(dirname "$0")/.."
stored=tests/instructions.json

if ! command -v valgrind >/dev/null 2>&1; then
    echo "instructions: SKIPPED, valgrind is not installed"
    # Where everything is meant to run, a silent skip would be a hole.
    [ "${CI:-}" = true ] || [ "${BALANCEROUTE_CI:-}" = 1 ] && exit 1
    exit 0
fi

field() { # field NAME: a number of the stored file
    sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" "$stored"
}

cargo build --release --quiet --example decisions
target=${CARGO_TARGET_DIR:-target}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
few=10
many=210

count() { # count ISA DECISIONS: instructions of the whole program
    BALANCEROUTE_ISA=$1 valgrind --tool=callgrind --callgrind-out-file="$scratch/out" \
        "$target/release/examples/decisions" level "$2" >"$scratch/log" 2>&1 || {
        cat "$scratch/log" >&2
        return 1
    }
    sed -n 's/^summary: *//p' "$scratch/out"
}

failed=0
tolerance=$(field tolerance_percent)
for isa in scalar avx2; do
    if [ "$isa" = avx2 ] && ! grep -qw avx2 /proc/cpuinfo 2>/dev/null; then
        echo "instructions: $isa SKIPPED, this CPU has none"
        continue
    fi
    # The difference of two runs: neither start-up nor the making of the step is in it.
    a=$(count $isa $few)
    b=$(count $isa $many)
    found=$(((b - a) / (many - few)))
    expected=$(field $isa)
    limit=$((expected + expected * tolerance / 100))
    if [ "${BALANCEROUTE_BLESS:-}" = 1 ]; then
        sed -i "s/\"$isa\": *[0-9][0-9]*/\"$isa\": $found/" "$stored"
        echo "instructions: $isa $found per decision, was $expected; written"
    elif [ "$found" -gt "$limit" ]; then
        echo "instructions: $isa FAILED, $found per decision, at most $limit ($expected + $tolerance %)"
        failed=1
    elif [ "$found" -lt $((expected - expected * tolerance / 100)) ]; then
        echo "instructions: $isa $found per decision, below $expected by more than $tolerance %: BALANCEROUTE_BLESS=1 keeps the gain"
    else
        echo "instructions: $isa $found per decision, stored $expected"
    fi
done
exit $failed

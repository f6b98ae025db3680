#!/bin/sh
# The regression gate for speed that no noise can hide: instructions per decision of `level` at
# N x G x K = 512 x 64 x 8, counted by callgrind on the scalar and the AVX2 path, and of `exact` with affinity
# and masks at that size, against tests/instructions.json. BALANCEROUTE_BLESS=1 writes the figures found. Then
# what an event of a router costs where 10,000 requests wait and where 160,000 do: no more than half as much
# again (trees and caches grow by a little). `tests/instructions.sh events` counts these alone.
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

cargo build --release --quiet --example decisions --example events
target=${CARGO_TARGET_DIR:-target}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
few=10
many=210

count() { # count ISA DECISIONS POLICY [affinity]: instructions of the whole program
    BALANCEROUTE_ISA=$1 valgrind --tool=callgrind --callgrind-out-file="$scratch/out" \
        "$target/release/examples/decisions" "$3" "$2" ${4:+"$4"} >"$scratch/log" 2>&1 || {
        cat "$scratch/log" >&2
        return 1
    }
    sed -n 's/^summary: *//p' "$scratch/out"
}

count_events() { # count_events KIND WAITING COUNT: instructions of the whole program
    valgrind --tool=callgrind --callgrind-out-file="$scratch/out" \
        "$target/release/examples/events" "$@" >"$scratch/log" 2>&1 || {
        cat "$scratch/log" >&2
        return 1
    }
    sed -n 's/^summary: *//p' "$scratch/out"
}

# Instructions of one event of this kind with so many waiting: without those of letting them wait.
an_event() { # an_event KIND WAITING
    events=$2 times=1
    if [ "$1" = churn ]; then events=2000 times=2000; fi
    before=$(count_events "$1" "$2" 0)
    after=$(count_events "$1" "$2" $times)
    echo $(((after - before) / events))
}

failed=0
for kind in churn expire remove never-fits; do
    of_few=$(an_event "$kind" 10000)
    of_many=$(an_event "$kind" 160000)
    told="$of_few per event with 10,000 waiting, $of_many with 160,000"
    if [ "$of_many" -gt $((of_few + of_few / 2)) ]; then
        echo "instructions: events $kind FAILED, $told"
        failed=1
    else
        echo "instructions: events $kind $told"
    fi
done
[ "${1:-}" != events ] || exit $failed
tolerance=$(field tolerance_percent)
for counted in scalar avx2 scalar_affinity avx2_affinity; do
    isa=${counted%_affinity}
    case $counted in
    *_affinity) step="exact affinity" ;;
    *) step=level ;;
    esac
    if [ "$isa" = avx2 ] && ! grep -qw avx2 /proc/cpuinfo 2>/dev/null; then
        echo "instructions: $counted SKIPPED, this CPU has none"
        continue
    fi
    # The difference of two runs: neither start-up nor the making of the step is in it.
    # shellcheck disable=SC2086
    a=$(count $isa $few $step)
    # shellcheck disable=SC2086
    b=$(count $isa $many $step)
    found=$(((b - a) / (many - few)))
    expected=$(field $counted)
    limit=$((expected + expected * tolerance / 100))
    if [ "${BALANCEROUTE_BLESS:-}" = 1 ]; then
        sed -i "s/\"$counted\": *[0-9][0-9]*/\"$counted\": $found/" "$stored"
        echo "instructions: $counted $found per decision, was $expected; written"
    elif [ "$found" -gt "$limit" ]; then
        echo "instructions: $counted FAILED, $found per decision, at most $limit ($expected + $tolerance %)"
        failed=1
    elif [ "$found" -lt $((expected - expected * tolerance / 100)) ]; then
        echo "instructions: $counted $found per decision, below $expected by more than $tolerance %:" \
            "BALANCEROUTE_BLESS=1 keeps the gain"
    else
        echo "instructions: $counted $found per decision, stored $expected"
    fi
done
exit $failed

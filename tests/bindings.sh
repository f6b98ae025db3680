#!/usr/bin/env bash
# C and Python: real C under sanitizers and valgrind, the header, an installed library, a wheel in a clean
# venv with its own tests. What this machine cannot run is named in a line that begins with NOT RUN. With
# BALANCEROUTE_INSTALL=no nothing is fetched for the wheel.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "-- lints"
if cargo clippy --version >/dev/null 2>&1; then
  cargo clippy --quiet -p balanceroute-capi -p balanceroute-python --all-targets -- -D warnings
else
  echo "NOT RUN: lints of C and Python: need clippy"
fi

if command -v "${CC:-cc}" >/dev/null; then
  echo "-- C: guards, router, golden vectors, example, header"
  cargo test --quiet -p balanceroute-capi -- --nocapture 2>&1 | grep -vE '^$|^\.+$|^running |: 0 passed'

  echo "-- C: an installed library"
  prefix=target/c-prefix
  ffi/capi/install.sh "$prefix"
  if [ "$(uname -s)" = Linux ] && command -v nm >/dev/null; then
    # Programs ask for the major number of the ABI, which stays while it only grows.
    [ -f "$prefix/lib/libbalanceroute.so.1" ] || { ls "$prefix/lib"; echo "no libbalanceroute.so.1"; exit 1; }
    exported=$(nm -D --defined-only "$prefix/lib/libbalanceroute.so" | awk '{ print $3 }' | sort -u)
    others=$(grep -v '^br_' <<<"$exported" || true)
    declared=$(grep -oE '\bbr_[a-z_]+\(' "$prefix/include/balanceroute.h" | tr -d '(' | sort -u)
    if [ -n "$others" ] || [ "$declared" != "$exported" ]; then
      echo "exported symbols are not those of the header: $others"
      diff <(echo "$declared") <(echo "$exported") || true
      exit 1
    fi
    echo "$(echo "$exported" | wc -l) symbols, all of the header"
  else
    echo "NOT RUN: exported symbols: needs Linux and nm"
  fi
  if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$PWD/$prefix/lib/pkgconfig
    compile=("${CC:-cc}" -std=c11 -O2 ffi/capi/examples/loop.c)
    read -ra include < <(pkg-config --cflags balanceroute)
    read -ra link < <(pkg-config --libs balanceroute)
    "${compile[@]}" "${include[@]}" -o target/loop-installed "${link[@]}"
    LD_LIBRARY_PATH=$prefix/lib DYLD_LIBRARY_PATH=$prefix/lib target/loop-installed
    "${compile[@]}" "${include[@]}" -o target/loop-static "$prefix/lib/libbalanceroute.a" -lpthread -ldl -lm
    target/loop-static
  else
    echo "NOT RUN: the example against an installed library: pkg-config is not installed"
  fi
  if command -v "${CXX:-c++}" >/dev/null; then
    "${CXX:-c++}" -x c++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only "$prefix/include/balanceroute.h"
    echo "the header is C++ too"
  else
    echo "NOT RUN: the header as C++: needs a C++ compiler"
  fi
else
  echo "NOT RUN: C: needs a C compiler"
fi

echo "-- Python: a wheel in a clean venv"
venv=target/python-venv
has_python() { python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
install=("$venv/bin/pip" install --quiet --disable-pip-version-check)
if [ "${BALANCEROUTE_INSTALL:-yes}" = no ]; then
  echo "NOT RUN: Python: its wheel takes maturin, numpy, pytest and hypothesis from a package index"
elif has_python; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  if "${install[@]}" './ffi/python[test]' 2>target/pip-errors.txt; then
    "$venv/bin/python" -m balanceroute
    if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
      echo "NOT RUN: queries of the Grafana board, alert rules: need prometheus and promtool"
    fi
    "$venv/bin/python" -m pytest --quiet ffi/python/tests
    echo "-- Python: a wheel of the simulator"
    "${install[@]}" ./sim
    "$venv/bin/balanceroute" --version
    "$venv/bin/balanceroute" simulate --policy level --seeds 1 --steps 20 --warmup 0 --quiet --format csv |
      grep -q '^level,'
    echo "-- Python: a wheel that can be made to panic"
    faulty=target/python-faults
    rm -rf "$faulty"
    MATURIN_PEP517_ARGS="--features faults" "${install[@]}" --no-deps --target "$faulty" ./ffi/python
    PYTHONPATH=$PWD/$faulty "$venv/bin/python" -m pytest --quiet ffi/python/tests/test_threads.py -k panic |
      tee target/python-faults.txt
    if grep -q skipped target/python-faults.txt; then exit 1; fi
  elif "$venv/bin/pip" download --quiet --no-deps --dest target/pip-probe maturin >/dev/null 2>&1; then
    cat target/pip-errors.txt
    exit 1
  else
    echo "NOT RUN: Python: no package index that has maturin, numpy, pytest and hypothesis is within reach"
  fi
else
  echo "NOT RUN: Python: needs Python 3.10 or newer with venv and pip"
fi

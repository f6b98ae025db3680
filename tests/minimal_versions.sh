#!/bin/sh
# The library builds with the least versions of dependencies that its Cargo.toml allows. What is given away
# is taken out of the workspace, resolved so, and checked with every feature that needs no toolkit. Needs a
# nightly toolchain and the index of crates.io.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}"
work=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/minimal
export CARGO_TARGET_DIR="$work"
rm -rf "$work/package"
cargo package --quiet --package balanceroute --no-verify --allow-dirty
cd "$work/package"
tar -xzf balanceroute-*.crate
cd balanceroute-*/
rm -f Cargo.lock
# It may lie below a workspace, the one that it was packed from.
printf '\n[workspace]\n' >>Cargo.toml
cargo +nightly -Zdirect-minimal-versions update --quiet
cargo +nightly tree --locked --edges normal --depth 1 --features serde,tracing,record,ascend
cargo +nightly check --quiet --locked --lib
cargo +nightly check --quiet --locked --lib --features serde,tracing,record,ascend
echo "least versions: build"

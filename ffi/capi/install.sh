#!/usr/bin/env bash
# Builds the C library and installs it with its header and pkg-config file:
#
#   ffi/capi/install.sh [PREFIX]    /usr/local by default
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:-/usr/local}
mkdir -p "$prefix/lib/pkgconfig" "$prefix/include"
prefix=$(cd "$prefix" && pwd)
manifest=$here/Cargo.toml
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$manifest" | head -n 1)
# The upper half of BR_ABI_VERSION.
abi=$(sed -n 's/^#define BR_ABI_VERSION (*\([0-9]*\) << 16.*$/\1/p' "$here/include/balanceroute.h")
[ -n "$abi" ] || { echo "balanceroute.h: BR_ABI_VERSION does not begin with its major number" >&2; exit 1; }
target=$(cargo metadata --format-version 1 --no-deps --manifest-path "$manifest" |
  sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
built=$target/release

case $(uname -s) in
Darwin)
  shared=libbalanceroute.$abi.dylib link=libbalanceroute.dylib made=libbalanceroute_capi.dylib
  name=-Wl,-install_name,$prefix/lib/$shared ;;
*)
  shared=libbalanceroute.so.$abi link=libbalanceroute.so made=libbalanceroute_capi.so
  name=-Wl,-soname,$shared ;;
esac
cargo rustc --quiet --release --manifest-path "$manifest" --lib --crate-type staticlib
cargo rustc --quiet --release --manifest-path "$manifest" --lib --crate-type cdylib -- -C "link-arg=$name"

install -m 644 "$built/libbalanceroute_capi.a" "$prefix/lib/libbalanceroute.a"
install -m 755 "$built/$made" "$prefix/lib/$shared"
ln -sf "$shared" "$prefix/lib/$link"
install -m 644 "$here/include/balanceroute.h" "$prefix/include/balanceroute.h"
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|" "$here/balanceroute.pc.in" \
  >"$prefix/lib/pkgconfig/balanceroute.pc"
echo "installed balanceroute $version (ABI $abi) in $prefix"

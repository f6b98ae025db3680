#!/usr/bin/env bash
# Builds the kernel on the model as a shared library. Needs g++ (or CXX) only.
#
#   kernels/model/build.sh DIRECTORY [plain|seeded|sanitized]
#
# plain      the kernel as it is: libbalanceroute_model_kernel.so, what the fake runtime and the tests load
# seeded     the same with seeded bugs in it, one of which the exported variable br_seed_bug switches on
# sanitized  the kernel as it is under AddressSanitizer and UndefinedBehaviourSanitizer; a program that loads it preloads libasan
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
directory=${1:?usage: build.sh DIRECTORY [plain|seeded|sanitized]}
kind=${2:-plain}
flags=(-std=c++17 -O2 -g1 -fPIC -shared -ffp-contract=off -Wall -Wextra -Werror -I "$here" -I "$here/../ascendc")
case $kind in
plain) ;;
seeded) flags+=(-DBR_SEED_BUG=br_seed_bug) ;;
sanitized) flags+=(-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer) ;;
*) echo "build.sh: unknown kind $kind" >&2; exit 2 ;;
esac
mkdir -p "$directory"
library=$directory/libbalanceroute_model_kernel.so
# Written beside and moved, so that nobody loads half a library.
"${CXX:-g++}" "${flags[@]}" "$here/machine.cpp" "$here/launch.cpp" "$here/../ascendc/balanceroute.cpp" -o "$library.$$"
mv "$library.$$" "$library"
echo "$library"

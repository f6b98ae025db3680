# compile.sh FAULT SOURCE OBJECT SOC INCLUDE: the stand-in's object compiler. Its object says what it is made
# of.
set -eu
fault=$(cat "$1" 2>/dev/null || true)
echo "compiling $2"
if [ "$fault" = compiler ]; then
  echo "$2:12:3: error: the stand-in knows no such call" >&2
  exit 1
fi
[ -f "$5/tiling.h" ] || { echo "$2:1:10: fatal error: tiling.h: no such file" >&2; exit 1; }
mkdir -p "$(dirname "$3")"
{
  echo "stand-in object of $(basename "$2") for $4"
  cat "$2"
} >"$3"

# merge.sh "FAULT PART OBJECT": the stand-in's linker. As in the toolkit, the words are split at blanks, and a
# failure is not reported.
set -- $1
fault=$(cat "$1" 2>/dev/null)
case $fault in
silent) exit 0 ;;
esac
mkdir -p "$(dirname "$3")"
cp "$2" "$3"
case $fault in
empty) : >"$3" ;;
stale) touch -t 200001010000 "$3" ;;
esac
exit 0

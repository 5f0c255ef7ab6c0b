#!/usr/bin/env bash
# Whether a GPU does here what it should, and how quickly, in at most 8 minutes beside the install.
#   bash launch/gpu_check.sh [--json FILE] [--data DIR] [-- arguments for flm bench gpu …]
# Runs the tests marked `gpu`, measures, and writes all of it into FILE (gpu_check.json). DIR holds shards; rendered
# faces if not given. Without a GPU it runs on the processor, skips what needs one, and says so.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

json=$(realpath -m gpu_check.json) data="" arguments=()
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$project/launch/gpu_check.sh"; exit ;;
    --) arguments=("${@:2}"); break ;;
    --json | --data)
      if (($# < 2)); then echo "error: $1 needs a value; see --help" >&2; exit 2; fi ;;
    *) echo "error: $1 is unknown; see --help" >&2; exit 2 ;;
  esac
  case $1 in
    --json) json=$(realpath -m -- "$2") ;;
    --data) data=$(realpath -m -- "$2") ;;
  esac
  shift 2
done

cd "$project"
source launch/environment.sh all
SECONDS=0 # the limit begins here

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [[ -z $data ]]; then
  echo "== shards"
  data=$folder/shards
  python -m shards convert synthetic --num-faces 640 --out "$data"
fi

echo "== tests marked gpu"
# What fails is in the file, and ends nothing else. A warning of a driver is no failure.
python -m pytest -m gpu -W default --timeout 180 --session-timeout 200 --junit-xml "$folder/tests.xml" \
  $(grep -l 'mark\.gpu' tests/test_*.py) || true

echo "== measuring"
flm bench gpu --data "$data" --tests "$folder/tests.xml" --json "$json" --limit-s $((420 - SECONDS)) \
  ${arguments[@]+"${arguments[@]}"}

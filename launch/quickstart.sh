#!/usr/bin/env bash
# From nothing to a trained and measured network: install, shards, training on two CPU processes, evaluation.
#   bash launch/quickstart.sh                 rendered faces, no download
#   bash launch/quickstart.sh --source DIR    the same on an iBUG 300-W archive (its folder, or a tar of it)
# Options: --num-faces N (rendered), --data DIR (for the shards), --out RUN, and after -- further fields of the
# recipe, such as -- --steps 100. A run that was interrupted goes on where it stopped.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

archive="" num_faces=4000 data="" run="" fields=()
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$project/launch/quickstart.sh"; exit ;;
    --) fields=("${@:2}"); break ;;
    --source | --num-faces | --data | --out)
      if (($# < 2)); then echo "error: $1 needs a value; see --help" >&2; exit 2; fi ;;
    *) echo "error: $1 is unknown; see --help" >&2; exit 2 ;;
  esac
  case $1 in
    --source) archive=$(realpath -m -- "$2") ;;
    --num-faces) num_faces=$2 ;;
    --data) data=$(realpath -m -- "$2") ;;
    --out) run=$(realpath -m -- "$2") ;;
  esac
  shift 2
done

cd "$project"
source launch/environment.sh train

if [[ -n $archive ]]; then
  convert=(ibug --source "$archive")
  data=${data:-data/quickstart-ibug} run=${run:-runs/quickstart-ibug}
else
  convert=(synthetic --num-faces "$num_faces")
  data=${data:-data/quickstart} run=${run:-runs/quickstart}
fi

echo "== shards in $data"
if [[ -e $data/manifest.json && ! -e $data/.made-by ]]; then
  echo "error: --data $data: has shards that this script has not made; give another folder" >&2
  exit 2
fi
# A conversion that is not through leaves no manifest, and its options are noted last.
if [[ ! -e $data/manifest.json || "$(cat "$data/.made-by")" != "${convert[*]}" ]]; then
  mkdir -p "$data"
  : > "$data/.made-by"
  python -m shards convert "${convert[@]}" --out "$data"
  echo "${convert[*]}" > "$data/.made-by"
fi

echo "== training in $run"
accelerate launch --config_file launch/cpu.yaml -m flm.train quickstart \
  --data "$data" --out "$run" ${fields[@]+"${fields[@]}"}

echo "== evaluation on faces that the network has not seen"
flm evaluate "$run" --data "$data" --split test --json "$run/report.json" --plot "$run/ced.png" \
  --predictions "$run/predictions.png" --worst "$run/worst.png"

cat <<TEXT

$run now holds
  report.json       the numbers above
  ced.png           share of the faces below each error
  predictions.png   prediction over truth, faces from all over the split
  worst.png         the faces that went worst
  best/             the checkpoint; config.json what was trained, log.jsonl how it went

next
  flm predict PICTURE --checkpoint $run --overlay --out predictions
  bash launch/quickstart.sh --source DIR      the same on the real iBUG 300-W archive
  flm recipes                                 what else can be trained
TEXT

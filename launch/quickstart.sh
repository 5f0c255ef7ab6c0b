#!/usr/bin/env bash
# From nothing to a trained and measured network: installs, makes shards, trains on two CPU processes, evaluates.
#   bash launch/quickstart.sh                   rendered faces, no download
#   bash launch/quickstart.sh --source DIR      the same on an iBUG 300-W archive (a folder or its tar)
#   bash launch/quickstart.sh [--num-faces N] [--out RUN] [-- further fields of the recipe, such as --steps 100]
# A run that was interrupted goes on where it stopped.
set -euo pipefail

source_archive="" num_faces=4000 run="" further=()
while (($#)); do
  case $1 in
    --source | --num-faces | --out)
      (($# > 1)) || { echo "error: $1 needs a value; see the head of ${BASH_SOURCE[0]}" >&2; exit 2; }
      case $1 in
        --source) source_archive=$(realpath -m -- "$2") ;;
        --num-faces) num_faces=$2 ;;
        --out) run=$(realpath -m -- "$2") ;;
      esac
      shift 2 ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    --) shift; further=("$@"); break ;;
    *) echo "error: $1 is unknown; see the head of ${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh train

if [[ -n $source_archive ]]; then
  data=data/quickstart-ibug run=${run:-runs/quickstart-ibug}
  convert=(ibug --source "$source_archive")
else
  data=data/quickstart-synthetic run=${run:-runs/quickstart}
  convert=(synthetic --num-faces "$num_faces")
fi

echo "== shards"
# Conversion replaces shards only when it is through, so half a folder is never taken for a whole one.
if [[ "$(cat "$data/.made-by" 2>/dev/null)" != "${convert[*]}" ]]; then
  python -m shards convert "${convert[@]}" --out "$data"
  echo "${convert[*]}" > "$data/.made-by"
fi

echo "== training"
accelerate launch --config_file launch/cpu.yaml -m flm.train quickstart --data "$data" --out "$run" "${further[@]}"

echo "== evaluation on faces that the network has not seen"
flm evaluate "$run" --data "$data" --split test --json "$run/report.json" --plot "$run/ced.png" \
  --predictions "$run/predictions.png" --worst "$run/worst.png"

cat <<TEXT

$run/ now holds
  report.json        the numbers above
  ced.png            share of the faces below each error
  predictions.png    prediction over truth
  worst.png          the faces that went worst
  config.json        what was trained; log.jsonl how it went; best/ the checkpoint

next
  flm predict $run PICTURE --box LEFT,TOP,WIDTH,HEIGHT --out predictions
  bash launch/quickstart.sh --source DIR           the same on the real iBUG 300-W archive
  flm recipes                                      what else can be trained
TEXT

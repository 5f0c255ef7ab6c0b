#!/usr/bin/env bash
# The two networks of 68 points as they were made: ibug68-xception teaches itself on faces without good labels,
# then teaches ibug68-compact, which comes with flm. Five and a half hours on two processor cores with bf16.
#   bash launch/ibug68.sh --source ARCHIVE --youtube FOLDER
# ARCHIVE is dlib's iBUG 300-W, FOLDER faces of videos with a points_csv table, whose labels are not trusted.
# Options: --weights FILE (ImageNet's, for legacy_xception; timm's hub by default), --out DIR (runs/ibug68),
# --seed N (0; another one wants another --out), --dry-run (says the commands).
# What was interrupted goes on where it stopped.
# The numbers of these networks are of a chain whose first round, pupil and larger, also had the 345 relabelled
# faces of the videos' own validation part.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

archive="" youtube="" weights="" out="" seed=0 dry_run=""
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$project/launch/ibug68.sh"; exit ;;
    --dry-run) dry_run=yes; shift; continue ;;
    --source | --youtube | --weights | --out | --seed)
      if (($# < 2)); then echo "error: $1 needs a value; see --help" >&2; exit 2; fi ;;
    *) echo "error: $1 is unknown; see --help" >&2; exit 2 ;;
  esac
  case $1 in
    --source) archive=$(realpath -m -- "$2") ;;
    --youtube) youtube=$(realpath -m -- "$2") ;;
    --weights) weights=$(realpath -m -- "$2") ;;
    --out) out=$(realpath -m -- "$2") ;;
    --seed) seed=$2 ;;
  esac
  shift 2
done
if [[ -z $archive || -z $youtube ]]; then echo "error: --source and --youtube are needed; see --help" >&2; exit 2; fi

cd "$project"
[[ $dry_run ]] || source launch/environment.sh train
export ACCELERATE_MIXED_PRECISION=${ACCELERATE_MIXED_PRECISION:-bf16}
out=${out:-runs/ibug68}

say_and_do() {
  echo "$*"
  [[ $dry_run ]] || "$@"
}

# A folder of shards has its manifest last, so one that is there is whole.
shards() {
  local folder=$1
  shift
  if [[ -e $folder/manifest.json ]]; then echo "== $folder is there"; else say_and_do "$@" --out "$folder"; fi
}

# A run that is through ends at once when it is asked again.
train() {
  local run=$1 recipe=$2 data=$3
  shift 3
  say_and_do python -m flm.train "$recipe" --data "$data" --out "$out/$run" --resume auto --seed "$seed" "$@"
}

shards "$out/300w" python -m shards convert ibug --source "$archive" --protocol 300w
shards "$out/youtube" python -m shards convert points_csv --source "$youtube" --licence "YouTube Faces is for research only"

start=(--epochs 30 --model.input-size-px 128 --optimizer.learning-rate 3e-3 --optimizer.backbone-factor 0.33 --optimizer.warmup-steps 100 --eval-every-steps 340)
milder=(--augment.rotation-deg 20 --augment.hue-deg 10 --augment.occlusion-probability 0.2)
train start ibug68-xception "$out/300w" "${start[@]}" "${milder[@]}" ${weights:+--model.weights "$weights"}
train teacher ibug68-xception "$out/300w" --init-from "$out/start" --model.no-pretrained --epochs 14 --optimizer.backbone-factor 0.5 --optimizer.warmup-steps 30 "${milder[@]}"

shards "$out/youtube-1" flm relabel "$out/youtube" --checkpoint "$out/teacher"
shards "$out/mixed-1" python -m shards merge "$out/300w" --only-train "$out/300w" "$out/youtube-1"
train pupil ibug68-xception "$out/mixed-1" --init-from "$out/start" --model.no-pretrained --epochs 12 --model.input-size-px 128 --optimizer.learning-rate 2.5e-3 --optimizer.backbone-factor 0.33 --eval-every-steps 500
train larger ibug68-xception "$out/mixed-1" --init-from "$out/pupil" --model.no-pretrained --epochs 4.5 --optimizer.warmup-steps 30 --eval-every-steps 249

shards "$out/youtube-2" flm relabel "$out/youtube" --checkpoint "$out/larger"
shards "$out/mixed-2" python -m shards merge "$out/300w" --only-train "$out/300w" "$out/youtube-2"
train second ibug68-xception "$out/mixed-2" --init-from "$out/larger" --model.no-pretrained --epochs 5 --eval-every-steps 270
mildest=(--augment.rotation-deg 15 --augment.scale 0.1 --augment.translation 0.03 --augment.hue-deg 0 --augment.grey-probability 0.05 --augment.gamma-probability 0 --augment.blur-probability 0.05 --augment.noise-probability 0 --augment.jpeg-probability 0.05)
train xception ibug68-xception "$out/mixed-2" --init-from "$out/second" --model.no-pretrained --epochs 3 --model.input-size-px 256 --optimizer.learning-rate 1e-3 --optimizer.warmup-steps 30 --eval-every-steps 210 "${mildest[@]}"

# The labels of the 300-W faces once as they are, once as a large network sees them.
shards "$out/300w-taught" flm relabel "$out/300w" --splits train --checkpoint "$out/second"
shards "$out/mixed-3" python -m shards merge "$out/300w" --only-train "$out/300w-taught" "$out/youtube-2"
train small ibug68-compact "$out/mixed-3" --epochs 45 --eval-every-steps 500
train compact ibug68-compact "$out/mixed-3" --init-from "$out/small" --epochs 40 --optimizer.learning-rate 2e-3 --eval-every-steps 500

for run in xception compact; do
  say_and_do flm calibrate "$out/$run" --data "$out/300w"
  say_and_do flm evaluate "$out/$run" --data "$out/300w" --split validation --json "$out/$run/validation.json"
done

#!/usr/bin/env bash
# The web page on this machine, installed where it is missing: open the address that it says.
#   bash launch/demo.sh [--checkpoint runs/quickstart] [--help and what else demo/app.py takes]
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Names of files are of the folder that the command is given in.
folder=$(pwd)
# YuNet, which finds the faces, is fetched once; dlib's detector is there where that cannot be.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-0}
cd "$project"
source launch/environment.sh demo,dlib
cd "$folder"
exec python "$project/demo/app.py" "$@"

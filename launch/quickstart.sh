#!/usr/bin/env bash
# The whole job on a fresh machine that has Python 3.11 to 3.13: installs jdance into .venv, draws
# a data set, trains, evaluates, and recognises an image that no part of it has seen.
#
#   bash launch/quickstart.sh [DIR]      DIR for the results: runs/quickstart
#
# Every part that is done already is left as it is.
set -euo pipefail
dir=${1:-runs/quickstart}
case ${1-} in "" | /*) ;; *) dir=$PWD/$1 ;; esac
cd "$(dirname "$0")/.."
source launch/environment.sh

environment_for_gpu

echo "1/4 drawing StageDance, a synthetic stage, and finding its dancers by the pose network 'stage'"
[ -e "$dir/data/dataset.json" ] ||
  python launch/prepare.py --source=stage:quickstart --pose=stage --output="$dir/data" --workers=2

echo "2/4 training a small fused network"
python launch/train.py --config=configs/quickstart.py --workdir="$dir" --config.data.dir="$dir/data"

echo "3/4 evaluating on groups that training never saw"
python launch/evaluate.py --workdir="$dir" --split=test --nearest_mean

echo "4/4 recognising fresh scenes, from pixels to motions"
python launch/stage.py --output="$dir/scenes" --scenes=3 --dancers=5 --seed=2021
python launch/recognize.py --model="$dir" --input="$dir/scenes" --pose=stage \
  --output="$dir/recognized"

echo
echo "Look at:"
echo "  $dir/recognized/scene-0.jpg   the annotated image; scene-0.json holds the numbers"
echo "  $dir/report.html              how training went, accuracy, confusion, mistakes; one page"
echo "  $dir/eval_test.json           the same numbers"

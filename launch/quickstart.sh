#!/usr/bin/env bash
# Runs the whole pipeline on a fresh machine with Python 3.11 to 3.13: installs jdance into .venv,
# renders a data set, trains, evaluates, and recognizes new scenes.
#
#   bash launch/quickstart.sh [DIR]      results go to DIR, by default runs/quickstart
#
# Completed steps are not repeated.
set -euo pipefail
dir=${1:-runs/quickstart}
case ${1-} in "" | /*) ;; *) dir=$PWD/$1 ;; esac
cd "$(dirname "$0")/.."
source launch/environment.sh

environment_for_gpu baselines

echo "1/4 rendering StageDance, a synthetic stage, and detecting its dancers with --pose=stage"
[ -e "$dir/data/dataset.json" ] ||
  python launch/prepare.py --source=stage:quickstart --pose=stage --output="$dir/data" --workers=2

echo "2/4 training a small fused network"
python launch/train.py --config=configs/quickstart.py --workdir="$dir" --config.data.dir="$dir/data"

echo "3/4 evaluating on held-out groups, beside simple classifiers of key points"
python launch/evaluate.py --workdir="$dir" --split=test --baselines

echo "4/4 recognizing new scenes, from pixels to motions"
python launch/stage.py --output="$dir/scenes" --scenes=3 --dancers=5 --seed=2021
python launch/recognize.py --model="$dir" --input="$dir/scenes" --pose=stage \
  --output="$dir/recognized"

echo
echo "Look at:"
echo "  $dir/recognized/scene-0.jpg   the annotated image; its results are in scene-0.json"
echo "  $dir/report.html              learning curves, accuracy, confusion, misclassified images"
echo "  $dir/eval_test.json           the evaluation as JSON"

#!/usr/bin/env bash
# LeRobot's ACT on the data of ten_tasks.sh (run that first), for the same time on the same cores, the same rollouts.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/first}
# Set it so that training takes as long as that of ten_tasks.sh on your machine.
STEPS=${STEPS:-3000}

train "$OUT/ten_act" --config_path=eval/peers/act.yaml --dataset.repo_id=local/libero_spatial_scripted \
  --dataset.root="$OUT/spatial10" --job_name=ten_act --steps="$STEPS" --num_workers=2 --save_freq=1000

"$BIN/python" -m eval.run --checkpoint="$OUT/ten_act/checkpoints/last" --output_dir="$OUT/eval_ten_act" --episodes=20
"$BIN/python" -m eval.report --run="[$OUT/eval_ten_atlasvla,$OUT/eval_ten_act]" --labels='[AtlasVLA, ACT]' \
  --name=ten_tasks_act
"$BIN/python" -m eval.camera_shift --checkpoints="[$OUT/ten_atlasvla/checkpoints/last,$OUT/ten_act/checkpoints/last]" \
  --labels='[AtlasVLA, ACT]' --output_dir="$OUT/camera_shift" --episodes=2
"$BIN/python" -m eval.results_table

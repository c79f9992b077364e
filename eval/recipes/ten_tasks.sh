#!/usr/bin/env bash
# Ten tasks, one atlasvla_tiny policy, from scratch on two CPU cores: collect, train, 200 rollouts, report.
# About two hours of collecting and training.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/first}

# Reflections off, on one box of the stove; the rollouts below are rendered in LIBERO's own look.
ATLASVLA_LIBERO_LOOK=fast "$BIN/atlasvla-collect" --root="$OUT/spatial10" --repo_id=local/libero_spatial_scripted \
  --episodes_per_task=40 --image_size=64 --workers=2 --seed=1000

train "$OUT/ten_atlasvla" --config_path=configs/policy/atlasvla_tiny.yaml \
  --dataset.repo_id=local/libero_spatial_scripted --dataset.root="$OUT/spatial10" --job_name=ten_atlasvla \
  --steps=7000 --policy.scheduler_warmup_steps=100 --num_workers=2 --save_freq=1750

"$BIN/python" -m eval.run --checkpoint="$OUT/ten_atlasvla/checkpoints/last" --output_dir="$OUT/eval_ten_atlasvla" \
  --episodes=20 --image_size=256
"$BIN/python" -m eval.report --run="$OUT/eval_ten_atlasvla" --name=ten_tasks
"$BIN/python" -m eval.results_table

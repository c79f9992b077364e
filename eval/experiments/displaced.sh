#!/usr/bin/env bash
# Ten tasks with displaced objects, one policy and its blind twin, on two CPU cores: collect, train, keep in half precision,
# roll out on LIBERO's own placements and on displaced ones, reliance, reports. Demonstrations and rollouts have the same
# render quality.
# EPISODES demonstrations a task, HARD of the drawer (4) and the cabinet top (9), where the arm has least room; PRESET, for
# atlasvla_small a GPU is advised (TRAIN="--policy.device=cuda", STEPS=3600); STEPS training
# steps, ROLLOUTS and DISPLACED rollouts a task.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/displaced}
EPISODES=${EPISODES:-40}
HARD=${HARD:-$((2 * EPISODES))}
PRESET=${PRESET:-atlasvla_tiny}
STEPS=${STEPS:-7000}
TRAIN=${TRAIN:-}
ROLLOUTS=${ROLLOUTS:-20}
DISPLACED=${DISPLACED:-10}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

collect() {
  "$BIN/atlasvla-collect" --root="$OUT/data" --repo_id=local/libero_spatial_displaced --image_size=64 --displace_cm=8 \
    --recovery_share=0.25 --workers=2 --seed=1000 "$@"
}
collect --episodes_per_task="$EPISODES"
collect --episodes_per_task="$HARD" --task_ids='[4, 9]'

declare -A FLAGS=([seeing]="" [blind]="--policy.views=none")
for policy in seeing blind; do
  # shellcheck disable=SC2086 (several flags in one string)
  train "$OUT/$policy" --config_path="configs/policy/$PRESET.yaml" ${FLAGS[$policy]} $TRAIN \
    --dataset.repo_id=local/libero_spatial_displaced --dataset.root="$OUT/data" --dataset.eval_split=0.05 \
    --job_name="$policy" --steps="$STEPS" --policy.scheduler_warmup_steps=100 --num_workers=1 --save_freq="$((STEPS / 4))"
  kept=$OUT/kept_$policy
  [ -d "$kept" ] || "$BIN/python" -m eval.keep_checkpoint --checkpoint="$OUT/$policy/checkpoints/last" --output_dir="$kept"
  "$BIN/python" -m eval.run --checkpoint="$kept" --output_dir="$OUT/nominal_$policy" --episodes="$ROLLOUTS"
  "$BIN/python" -m eval.run --checkpoint="$kept" --output_dir="$OUT/displaced_$policy" --episodes="$DISPLACED" --displace_cm=6
  "$BIN/python" -m eval.reliance --checkpoint="$kept" --dataset_root="$OUT/data" --output_dir="$OUT/reliance_$policy"
done
for placement in nominal displaced; do
  "$BIN/python" -m eval.report --run="[$OUT/${placement}_seeing, $OUT/${placement}_blind]" --labels='[AtlasVLA, blind]' \
    --reliance="[$OUT/reliance_seeing, $OUT/reliance_blind]" --name="ten_tasks_$placement"
done
"$BIN/python" -m eval.results_table

#!/usr/bin/env bash
# LIBERO's object suite, one policy for ten things to put in the basket, beside a blind one: collect, train, roll out on LIBERO's
# own placements, which hardly vary, and on displaced ones, reliance, reports.
# EPISODES demonstrations a task; STEPS training steps; START a policy to train on from (empty: from random weights);
# TRAIN more flags of training, such as --policy.device=cuda; ROLLOUTS, CONTROL and DISPLACED rollouts a task of the
# policy, of its control and of both with displaced objects.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/object}
EPISODES=${EPISODES:-20}
STEPS=${STEPS:-2000}
START=${START-checkpoints/atlasvla_small_spatial}
TRAIN=${TRAIN:-}
ROLLOUTS=${ROLLOUTS:-20}
CONTROL=${CONTROL:-10}
DISPLACED=${DISPLACED:-5}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

"$BIN/atlasvla-collect" --root="$OUT/data" --repo_id=local/libero_object --suite=libero_object --image_size=64 \
  --recovery_share=0.25 --workers=2 --seed=1000 --episodes_per_task="$EPISODES"

PRESET=--config_path=configs/policy/atlasvla_small.yaml
declare -A FLAGS=([seeing]="${START:+--policy.path=$START --policy.push_to_hub=false --policy.actions_in_memory=true --policy.optimizer_lr=8e-4 --batch_size=256}"
  [blind]="$PRESET --policy.views=none")
for policy in seeing blind; do
  # shellcheck disable=SC2086 (several flags in one string)
  train "$OUT/$policy" ${FLAGS[$policy]:-$PRESET} $TRAIN --dataset.repo_id=local/libero_object --dataset.root="$OUT/data" \
    --dataset.eval_split=0.05 --job_name="$policy" --steps="$STEPS" --save_freq="$((STEPS / 4))"
done
for policy in seeing blind; do
  episodes=$CONTROL
  [ "$policy" != seeing ] || episodes=$ROLLOUTS
  "$BIN/python" -m eval.run --checkpoint="$OUT/$policy/checkpoints/last" --output_dir="$OUT/nominal_$policy" \
    --suites='[libero_object]' --episodes="$episodes"
  "$BIN/python" -m eval.run --checkpoint="$OUT/$policy/checkpoints/last" --output_dir="$OUT/displaced_$policy" \
    --suites='[libero_object]' --episodes="$DISPLACED" --displace_cm=6
done
"$BIN/python" -m eval.reliance --checkpoint="$OUT/seeing/checkpoints/last" --dataset_root="$OUT/data" \
  --output_dir="$OUT/reliance"
for placement in nominal displaced; do
  "$BIN/python" -m eval.report --run="[$OUT/${placement}_seeing, $OUT/${placement}_blind]" --labels='[AtlasVLA, blind]' \
    --reliance="[$OUT/reliance]" --name="object_$placement"
done
"$BIN/python" -m eval.results_table

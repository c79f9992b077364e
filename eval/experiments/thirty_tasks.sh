#!/usr/bin/env bash
# One policy for the thirty tasks of libero_spatial, libero_object and libero_goal, beside a blind one: merge the
# demonstrations that displaced.sh, object.sh and goal.sh collect, train, keep in half precision, roll out, report.
# Only run with a few steps by us, to see that it works.
# SPATIAL, OBJECT and GOAL are their data; START and BLIND_START policies to train on from; STEPS and BLIND_STEPS of training;
# TRAIN more flags of both; EXECUTED actions of a chunk before the policy looks again; ROLLOUTS and CONTROL rollouts a task.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/thirty}
SPATIAL=${SPATIAL:-outputs/displaced/data}
OBJECT=${OBJECT:-outputs/object/data}
GOAL=${GOAL:-outputs/goal/data}
START=${START:-checkpoints/atlasvla_tiny_goal}
BLIND_START=${BLIND_START:-checkpoints/atlasvla_tiny_spatial_blind}
STEPS=${STEPS:-18000}
BLIND_STEPS=${BLIND_STEPS:-9000}
TRAIN=${TRAIN:-}
EXECUTED=${EXECUTED:-3}
ROLLOUTS=${ROLLOUTS:-10}
CONTROL=${CONTROL:-5}
SUITES='[libero_spatial, libero_object, libero_goal]'
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

[ -e "$OUT/data/meta/info.json" ] || "$BIN/lerobot-edit-dataset" --new_repo_id=local/libero_thirty --new_root="$OUT/data" \
  --operation.type=merge --operation.repo_ids='[local/spatial, local/object, local/goal]' \
  --operation.roots="[$SPATIAL, $OBJECT, $GOAL]"

policy() { # policy NAME START STEPS ROLLOUTS
  # shellcheck disable=SC2086 (several flags in one string)
  train "$OUT/$1" --policy.path="$2" --policy.push_to_hub=false --policy.actions_in_memory=true \
    --policy.n_action_steps="$EXECUTED" --batch_size=64 --num_workers=1 --log_freq=50 --env_eval_freq=0 --seed=1000 $TRAIN \
    --dataset.repo_id=local/libero_thirty --dataset.root="$OUT/data" --dataset.eval_split=0.05 --job_name="$1" \
    --steps="$3" --save_freq="$(($3 / 4))"
  [ -d "$OUT/kept_$1" ] || "$BIN/python" -m eval.keep_checkpoint --checkpoint="$OUT/$1" --output_dir="$OUT/kept_$1"
  "$BIN/python" -m eval.run --checkpoint="$OUT/kept_$1" --output_dir="$OUT/nominal_$1" --suites="$SUITES" --episodes="$4" \
    --n_action_steps="$EXECUTED"
}
policy seeing "$START" "$STEPS" "$ROLLOUTS"
policy blind "$BLIND_START" "$BLIND_STEPS" "$CONTROL"
"$BIN/python" -m eval.report --run="[$OUT/nominal_seeing, $OUT/nominal_blind]" --labels='[AtlasVLA, blind]' --name=thirty_tasks
"$BIN/python" -m eval.results_table

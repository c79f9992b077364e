#!/usr/bin/env bash
# The policy of thirty_tasks.sh learns libero_10 as well, and so does its blind control: collect, train on with all
# demonstrations, roll out on libero_10 and again on the other three suites, report.
# Needs what thirty_tasks.sh leaves in THIRTY.
# EPISODES demonstrations a task of libero_10, on LIBERO's own placements. START and BLIND_START are policies to train on from,
# for STEPS and BLIND_STEPS, TRAIN more flags of both; EXECUTED actions of a chunk before the policy looks again. ROLLOUTS and
# CONTROL rollouts a task of libero_10, of the policy and of its control, AGAIN of both on the other suites.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/forty}
THIRTY=${THIRTY:-outputs/thirty}
EPISODES=${EPISODES:-12}
START=${START:-checkpoints/atlasvla_tiny_thirty}
BLIND_START=${BLIND_START:-$THIRTY/kept_blind}
STEPS=${STEPS:-8000}
BLIND_STEPS=${BLIND_STEPS:-4000}
TRAIN=${TRAIN:-}
EXECUTED=${EXECUTED:-3}
ROLLOUTS=${ROLLOUTS:-10}
CONTROL=${CONTROL:-3}
AGAIN=${AGAIN:-3}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

collect ten libero_10 '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]' "$EPISODES"
# All parts at once: LeRobot 0.6.1 cannot merge again what it has merged.
merge forty "$THIRTY"/{spatial,spatial_fixed,object,goal_displaced,goal_fixed} "$OUT/ten"
train_on seeing forty "$START" "$STEPS" --policy.optimizer_lr=6e-4
train_on blind forty "$BLIND_START" "$BLIND_STEPS"
roll ten_seeing "$OUT/kept_seeing" '[libero_10]' "$ROLLOUTS"
roll ten_blind "$OUT/kept_blind" '[libero_10]' "$CONTROL"
for policy in seeing blind; do
  roll "nominal_$policy" "$OUT/kept_$policy" '[libero_spatial, libero_object, libero_goal]' "$AGAIN"
done
"$BIN/python" -m eval.reliance --checkpoint="$OUT/kept_seeing" --dataset_root="$OUT/forty" --output_dir="$OUT/reliance"
"$BIN/python" -m eval.report --run="[$OUT/ten_seeing, $OUT/ten_blind]" --labels='[AtlasVLA, blind]' --reliance="[$OUT/reliance]" \
  --name=libero_10_nominal
"$BIN/python" -m eval.report --run="[$OUT/nominal_seeing, $OUT/nominal_blind]" --labels='[AtlasVLA, blind]' --name=forty_tasks_other_suites
"$BIN/python" -m eval.results_table

#!/usr/bin/env bash
# How many actions of a chunk to execute before looking again: a sweep on the two hardest tasks, with displacements that
# nothing else uses, then the choice on all ten tasks. No training, except that BLIND is the control that displaced.sh trains
# (PRESET=atlasvla_small).
# POLICY the policy; STEPS the choice; SWEEP, DISPLACED, CONTROL and ROLLOUTS rollouts a task.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/replan}
POLICY=${POLICY:-checkpoints/atlasvla_small_spatial}
BLIND=${BLIND:-outputs/displaced/kept_blind}
STEPS=${STEPS:-3}
SWEEP=${SWEEP:-10}
DISPLACED=${DISPLACED:-10}
CONTROL=${CONTROL:-5}
ROLLOUTS=${ROLLOUTS:-20}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

# roll_out NAME CHECKPOINT STEPS FLAGS...
roll_out() {
  "$BIN/python" -m eval.run --checkpoint="$2" --output_dir="$OUT/$1" --n_action_steps="$3" --videos=0 "${@:4}"
}
for steps in 1 3 5 10; do
  roll_out "looks_$steps" "$POLICY" "$steps" --task_ids='[4, 9]' --seeds='[3000]' --episodes="$SWEEP" --displace_cm=6
done
for steps in "$STEPS" 10; do
  roll_out "displaced_$steps" "$POLICY" "$steps" --episodes="$DISPLACED" --displace_cm=6
  roll_out "nominal_$steps" "$POLICY" "$steps" --episodes="$ROLLOUTS"
done
roll_out displaced_blind "$BLIND" "$STEPS" --episodes="$CONTROL" --displace_cm=6
roll_out nominal_blind "$BLIND" "$STEPS" --episodes="$((2 * CONTROL))"

CHOICE="$STEPS of 10 actions"
"$BIN/python" -m eval.report --name=replan_steps --run="[$OUT/looks_3, $OUT/looks_1, $OUT/looks_5, $OUT/looks_10]" \
  --labels='[3 of 10 actions, 1 of 10 actions, 5 of 10 actions, whole chunks]'
"$BIN/python" -m eval.report --name=replan_displaced --run="[$OUT/displaced_$STEPS, $OUT/displaced_10, $OUT/displaced_blind]" \
  --labels="['AtlasVLA, $CHOICE', 'AtlasVLA, whole chunks', 'blind, $CHOICE']"
"$BIN/python" -m eval.report --name=replan_nominal --run="[$OUT/nominal_$STEPS, $OUT/nominal_10, $OUT/nominal_blind]" \
  --labels="['AtlasVLA, $CHOICE', 'AtlasVLA, whole chunks', 'blind, $CHOICE']"
"$BIN/python" -m eval.results_table

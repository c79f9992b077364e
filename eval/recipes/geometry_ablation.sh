#!/usr/bin/env bash
# Do the frame and global blocks earn their place? Three displaced tasks of the data of displaced.sh (run its collection
# first), two training seeds, every variant trained anew: normal, removed, frozen as they start, and no images at all.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/displaced}
EPISODES=${EPISODES:-40}
STEPS=${STEPS:-1000}
ROLLOUTS=${ROLLOUTS:-10}
TASKS=${TASKS:-"0 2 5"}
export ATLASVLA_LIBERO_LOOK=plain
# The tasks' demonstrations, in the order of collection.
CHOSEN=$("$BIN/python" -c 'import sys; n, *tasks = map(int, sys.argv[1:]); print([t * n + i for t in tasks for i in range(n)])' \
  "$EPISODES" $TASKS)

declare -A FLAGS=(
  [full]=""
  [blocks_removed]="--policy.vggt_blocks=removed"
  [blocks_frozen]="--policy.vggt_blocks=frozen"
  [blind]="--policy.views=none"
)
runs=() variants=()
for variant in full blocks_removed blocks_frozen blind; do
  for seed in 1000 1001; do
    name=geometry_${variant}_$seed
    # shellcheck disable=SC2086 (several flags in one string)
    train "$OUT/$name" --config_path=configs/policy/atlasvla_tiny.yaml ${FLAGS[$variant]} \
      --dataset.repo_id=local/libero_spatial_displaced --dataset.root="$OUT/data" "--dataset.episodes=$CHOSEN" \
      --dataset.eval_split=0.1 --eval_steps="$STEPS" --job_name="$name" --steps="$STEPS" --seed="$seed" \
      --num_workers=1 --save_freq="$STEPS"
    "$BIN/python" -m eval.run --checkpoint="$OUT/$name/checkpoints/last" --output_dir="$OUT/eval_$name" \
      --task_ids="[${TASKS// /,}]" --episodes="$ROLLOUTS" --displace_cm=8 --videos=0
    runs+=("$OUT/eval_$name") variants+=("$variant")
  done
done
join() { local IFS=,; echo "[$*]"; }
"$BIN/python" -m eval.ablations --runs="$(join "${runs[@]}")" --variants="$(join "${variants[@]}")" \
  --name=geometry_ablation --title="Do the geometry blocks earn their place?"
"$BIN/python" -m eval.results_table

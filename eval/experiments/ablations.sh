#!/usr/bin/env bash
# What each part is worth, above all the frame and global blocks: three displaced tasks of the data of displaced.sh (run
# its collection first), two training seeds, every variant trained anew. Held-out loss is in each training's log.
# VARIANTS and TASKS choose; STEPS training steps, ROLLOUTS rollouts a task.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/displaced}
EPISODES=${EPISODES:-40} # a task, as in displaced.sh
STEPS=${STEPS:-1000}
ROLLOUTS=${ROLLOUTS:-20}
TASKS=${TASKS:-"0 2 5"}
VARIANTS=${VARIANTS:-"full blocks_removed blocks_frozen blind scene_only wrist_only no_state early_fusion learned_queries"}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain
CHOSEN=$(chosen "$OUT/data" "$TASKS" "$EPISODES" 1)

declare -A FLAGS=(
  [full]=""
  [blocks_removed]="--policy.vggt_blocks=removed"
  [blocks_frozen]="--policy.vggt_blocks=frozen"
  [blind]="--policy.views=none"
  [scene_only]="--policy.views=[observation.images.image]"
  [wrist_only]="--policy.views=[observation.images.wrist_image]"
  [no_state]="--policy.use_state=false"
  [early_fusion]="--policy.fusion=early"
  [learned_queries]="--policy.query_conditioning=none --policy.num_action_queries=10"
)
runs=() variants=()
for variant in $VARIANTS; do
  for seed in 1000 1001; do
    name=ablation_${variant}_$seed
    # shellcheck disable=SC2086 (several flags in one string)
    train "$OUT/$name" --config_path=configs/policy/atlasvla_tiny.yaml ${FLAGS[$variant]} \
      --dataset.repo_id=local/libero_spatial_displaced --dataset.root="$OUT/data" "--dataset.episodes=$CHOSEN" \
      --dataset.eval_split=0.1 --eval_steps="$STEPS" --job_name="$name" --steps="$STEPS" --seed="$seed" \
      --num_workers=1 --save_freq="$STEPS"
    "$BIN/python" -m eval.run --checkpoint="$OUT/$name/checkpoints/last" --output_dir="$OUT/eval_$name" \
      --task_ids="[${TASKS// /,}]" --episodes="$ROLLOUTS" --displace_cm=6 --videos=0
    "$BIN/python" -m eval.reliance --checkpoint="$OUT/$name/checkpoints/last" --dataset_root="$OUT/data" \
      --frames_per_episode=16
    runs+=("$OUT/eval_$name") variants+=("$variant")
  done
done
"$BIN/python" -m eval.ablations --runs="$(join "${runs[@]}")" --variants="$(join "${variants[@]}")" \
  --name=displaced_ablations --title="What each part is worth on displaced tasks"
"$BIN/python" -m eval.results_table

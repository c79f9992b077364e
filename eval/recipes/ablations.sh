#!/usr/bin/env bash
# What each part is worth: three tasks of the data of ten_tasks.sh (run that first), two training seeds, 1000 steps each
# (about five minutes on one core), 20 rollouts a task. Trainings are counted in steps, so several may run side by side.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/first}
STEPS=${STEPS:-1000}
# Tasks 0, 2 and 5: their 40 demonstrations each, in the order of collection.
EPISODES=$("$BIN/python" -c 'print([*range(0, 40), *range(80, 120), *range(200, 240)])')

declare -A FLAGS=(
  [full]=""
  [no_state]="--policy.use_state=false"
  [scene_view_only]="--policy.views=[observation.images.image]"
  [early_fusion]="--policy.fusion=early"
  [learned_queries]="--policy.condition_queries=false --policy.num_action_queries=10"
)
for seed in 1000 1001; do
  for variant in full no_state scene_view_only early_fusion learned_queries; do
    name=ablation_${variant}_$seed
    # shellcheck disable=SC2086 (several flags in one string)
    train "$OUT/$name" --config_path=configs/policy/atlasvla_tiny.yaml ${FLAGS[$variant]} \
      --dataset.repo_id=local/libero_spatial_scripted --dataset.root="$OUT/spatial10" "--dataset.episodes=$EPISODES" \
      --job_name="$name" --steps="$STEPS" --seed="$seed" --num_workers=1 --save_freq="$STEPS"
    "$BIN/python" -m eval.run --checkpoint="$OUT/$name/checkpoints/last" --output_dir="$OUT/eval_$name" \
      --task_ids='[0,2,5]' --episodes=20 --videos=0
  done
  for n in 1 5; do
    "$BIN/python" -m eval.run --checkpoint="$OUT/ablation_full_$seed/checkpoints/last" --n_action_steps=$n \
      --output_dir="$OUT/eval_ablation_full_${seed}_n$n" --task_ids='[0,2,5]' --episodes=20 --videos=0
  done
done

runs=() variants=()
for variant in full full_n1 full_n5 no_state scene_view_only early_fusion learned_queries; do
  for seed in 1000 1001; do
    case $variant in
      full_n*) runs+=("$OUT/eval_ablation_full_${seed}_${variant#full_}") ;;
      *) runs+=("$OUT/eval_ablation_${variant}_$seed") ;;
    esac
    variants+=("$variant")
  done
done
join() { local IFS=,; echo "[$*]"; }
"$BIN/python" -m eval.ablations --runs="$(join "${runs[@]}")" --variants="$(join "${variants[@]}")" --name=ablations
"$BIN/python" -m eval.results_table

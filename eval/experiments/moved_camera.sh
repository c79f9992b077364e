#!/usr/bin/env bash
# Does frozen geometry bear a moved camera? One task with displaced objects, policies that see through the scene camera
# alone (no pixel of the wrist camera enters the network), on two CPU cores: geometry data, pretraining, demonstrations,
# two training seeds a policy, rollouts with the camera moved and turned.
#   fixed             end to end, demonstrations from LIBERO's camera
#   random            end to end, the same demonstrations re-rendered from random cameras as well (CAMERAS more of each)
#   landmarks         the frozen pretrained backbone's 3-D landmarks, demonstrations from LIBERO's camera
#   landmarks_random  the same, demonstrations from random cameras as well
#   untrained         landmarks of a frozen backbone that has learned nothing
#   untrained_random  the same, demonstrations from random cameras as well
#   act_random        LeRobot's ACT, demonstrations from random cameras as well, for ACT_STEPS of 16
# POLICIES are those to train. BACKBONE is a pretrained one instead of its own (then without the untrained ones), SUITE and
# TASK what is demonstrated and tested (TASK=0,1,2,3,4,5,6,7,8,9: ten tasks); with those of another suite than the backbone's,
# it acts in a scene that it has not seen. GEOMETRY episodes of states a task, PRETRAIN steps on them, EPISODES demonstrations
# a task, STEPS training steps (of random RANDOM_STEPS), ROLLOUTS per camera pose and task, NOMINAL a task on LIBERO's own
# placements, EXECUTED actions of a chunk before the policy looks again. HOLD_OUT are flags that keep poses out of every
# image, the backbone's and the demonstrations', such as
#   HOLD_OUT='--hold_out_azimuth=[30,45] --hold_out_distance=[105,200]'
# SHIFTS are the poses of the test, which then go there:
#   SHIFTS='--right_cm=[] --pan_deg=[] --azimuth_deg=[-38,-20,20,38] --distance_percent=[15,30]'
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/geometry}
GEOMETRY=${GEOMETRY:-16}
PRETRAIN=${PRETRAIN:-5000}
BACKBONE=${BACKBONE:-}
SUITE=${SUITE:-libero_spatial}
TASK=${TASK:-0}
EPISODES=${EPISODES:-100}
CAMERAS=${CAMERAS:-3}
STEPS=${STEPS:-2000}
RANDOM_STEPS=${RANDOM_STEPS:-4000}
ACT_STEPS=${ACT_STEPS:-6000}
SEEDS=${SEEDS:-"1000 1001"}
ROLLOUTS=${ROLLOUTS:-10}
NOMINAL=${NOMINAL:-0}
EXECUTED=${EXECUTED:-3}
NAME=${NAME:-replan_camera_shift}
HOLD_OUT=${HOLD_OUT:-}
SHIFTS=${SHIFTS:-"--right_cm=[-20,-10,10,20] --pan_deg=[-10,-5,5,10]"}
POLICIES=${POLICIES:-"landmarks random landmarks_random fixed untrained"}
export ATLASVLA_LIBERO_RENDER_QUALITY=plain

RANGES="$CAMERA_RANGES $HOLD_OUT"
if [ -z "$BACKBONE" ]; then
  BACKBONE=$OUT/backbone_scene
  # shellcheck disable=SC2086 (several flags in one string)
  "$BIN/atlasvla-collect-geometry" --root="$OUT/data" --episodes_per_task="$GEOMETRY" --random_cameras=2 --image_size=96 $RANGES
  "$BIN/atlasvla-pretrain" --dataset_root="$OUT/data" --output_dir="$BACKBONE" --views='[scene]' --frame=base \
    --steps="$PRETRAIN" --eval_every=500
  "$BIN/atlasvla-pretrain" --dataset_root="$OUT/data" --output_dir="$OUT/backbone_untrained" --views='[scene]' \
    --frame=base --steps=0
fi
# shellcheck disable=SC2086
"$BIN/atlasvla-collect" --root="$OUT/demos" --repo_id=local/cameras --suite="$SUITE" --task_ids="[$TASK]" \
  --episodes_per_task="$EPISODES" --seed=1000 --image_size=96 --random_cameras="$CAMERAS" --displace_cm=8 \
  --recovery_share=0.1 $RANGES

ours() { printf '%s ' --config_path=configs/policy/atlasvla_tiny.yaml; }
# What a frozen backbone makes of the demonstrations is computed once (atlasvla-cache, below).
mini() { printf '%s ' --config_path=configs/policy/atlasvla_mini.yaml --policy.vggt_model="$1" --policy.feature_cache="$2"; }
SCENE=--policy.views=[observation.images.image]
# ACT takes every view of the dataset unless it is told which, and has no augmentation: 8 of 96 pixels are 4 of 48.
ACT_INPUT='{"observation.images.image":{"type":"VISUAL","shape":[3,96,96]},"observation.state":{"type":"STATE","shape":[8]}}'
ACT_SHIFT='{"shift":{"type":"RandomCrop","kwargs":{"size":[96,96],"padding":8,"padding_mode":"edge"}}}'
declare -A FLAGS=(
  [fixed]="$(ours) $SCENE"
  [random]="$(ours) $SCENE"
  [landmarks]="$(mini "$BACKBONE" "$OUT/features") $SCENE"
  [landmarks_random]="$(mini "$BACKBONE" "$OUT/features_random") $SCENE"
  [untrained]="$(mini "$OUT/backbone_untrained" "$OUT/features_untrained") $SCENE"
  [untrained_random]="$(mini "$OUT/backbone_untrained" "$OUT/features_untrained_random") $SCENE"
  [act_random]="--config_path=eval/experiments/baselines/act.yaml --policy.input_features=$ACT_INPUT
    --dataset.image_transforms.enable=true --dataset.image_transforms.tfs=$ACT_SHIFT"
)
# Of the copies of each demonstration every one, or the first, which is LIBERO's own camera. The last tenth is held out.
copies=$((CAMERAS + 1))
first=$((EPISODES * 9 / 10 * copies))
all=$(chosen "$OUT/demos" "$TASK" "$first" 1)
own=$(chosen "$OUT/demos" "$TASK" "$first" "$copies")
checkpoints=() labels=()
for seed in $SEEDS; do
  for policy in $POLICIES; do
    name=${policy}_$seed
    episodes=$own
    [[ $policy != *random ]] || episodes=$all
    steps=$STEPS
    [[ $policy != random ]] || steps=$RANDOM_STEPS
    [[ $policy != act_random ]] || steps=$ACT_STEPS
    data=(--dataset.repo_id=local/cameras --dataset.root="$OUT/demos" "--dataset.episodes=$episodes")
    # shellcheck disable=SC2086 (several flags in one string)
    {
      [[ ${FLAGS[$policy]} != *feature_cache* ]] || "$BIN/atlasvla-cache" ${FLAGS[$policy]} "${data[@]}"
      train "$OUT/$name" ${FLAGS[$policy]} "${data[@]}" --job_name="$name" --steps="$steps" --seed="$seed" --num_workers=1 \
        --save_freq="$steps"
    }
    checkpoints+=("$OUT/$name/checkpoints/last") labels+=("${policy//_/ } $seed")
  done
done
# The control that sees nothing is deaf to the camera; its rate is that of the unshifted one.
train "$OUT/blind" $(ours) --policy.views=none --dataset.repo_id=local/cameras --dataset.root="$OUT/demos" \
  "--dataset.episodes=$own" --job_name=blind --steps="$STEPS" --num_workers=1 --save_freq="$STEPS"
"$BIN/python" -m eval.run --checkpoint="$OUT/blind/checkpoints/last" --output_dir="$OUT/eval_blind" --suites="[$SUITE]" --task_ids="[$TASK]" \
  --episodes="$((2 * ROLLOUTS))" --displace_cm=6 --n_action_steps="$EXECUTED"
# shellcheck disable=SC2086
"$BIN/python" -m eval.camera_shift --output_dir="$OUT/camera_shift" --suites="[$SUITE]" --task_ids="[$TASK]" \
  --episodes="$ROLLOUTS" --displace_cm=6 --n_action_steps="$EXECUTED" \
  --checkpoints="$(join "${checkpoints[@]}")" --labels="$(join "${labels[@]}")" \
  $SHIFTS --name="$NAME"
if [ "$NOMINAL" != 0 ]; then
  checkpoints+=("$OUT/blind/checkpoints/last") labels+=(blind)
  runs=()
  for checkpoint in "${checkpoints[@]}"; do
    run=$OUT/nominal_$(basename "${checkpoint%/checkpoints/last}")
    "$BIN/python" -m eval.run --checkpoint="$checkpoint" --output_dir="$run" --suites="[$SUITE]" --task_ids="[$TASK]" \
      --episodes="$NOMINAL" --n_action_steps="$EXECUTED"
    runs+=("$run")
  done
  "$BIN/python" -m eval.report --run="$(join "${runs[@]}")" --labels="$(join "${labels[@]}")" --name="${NAME}_nominal"
fi
"$BIN/python" -m eval.results_table

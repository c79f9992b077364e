#!/usr/bin/env bash
# LeRobot's ACT and diffusion policy on the data of ten_tasks.sh (run that first), for the same time on the same cores,
# the same rollouts; then all of them with the camera moved. Diffusion needs pip install 'lerobot[diffusion]==0.6.1'.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/first}
# As long as the training of ten_tasks.sh took on your machine. ACT has no schedule that ends, so it can just be stopped.
SECONDS_OF_TRAINING=${SECONDS_OF_TRAINING:-3034}
# Diffusion's schedule has to know its end: as many steps as fit, of 0.85 s on two cores.
DIFFUSION_STEPS=${DIFFUSION_STEPS:-3000}
DATA=(--dataset.repo_id=local/libero_spatial_scripted --dataset.root="$OUT/spatial10")

if [ ! -e "$OUT/ten_act/train_command.txt" ]; then
  rm -rf "$OUT/ten_act" # a run that was stopped earlier would have had another amount of time
  flags=(--config_path=eval/peers/act.yaml "${DATA[@]}" --job_name=ten_act --steps=1000000 --num_workers=1 --save_freq=500
    --output_dir="$OUT/ten_act")
  # ACT is limited by its network, so both cores are the network's.
  OMP_NUM_THREADS=2 timeout "$SECONDS_OF_TRAINING" "$BIN/lerobot-train" "${flags[@]}" || [ $? -eq 124 ]
  echo "OMP_NUM_THREADS=2 timeout $SECONDS_OF_TRAINING lerobot-train ${flags[*]}" > "$OUT/ten_act/train_command.txt"
fi
OMP_NUM_THREADS=2 train "$OUT/ten_diffusion" --config_path=eval/peers/diffusion.yaml "${DATA[@]}" \
  --job_name=ten_diffusion --steps="$DIFFUSION_STEPS" --num_workers=1 --save_freq=500

# The peers as LeRobot ships them have no augmentation, so ACT is trained once more with the same as ours: 5 of 64 pixels
# are 4 of 48. As many steps as ten_act made.
SHIFT='{"shift": {"type": "RandomCrop", "kwargs": {"size": [64, 64], "padding": 5, "padding_mode": "edge"}}}'
OMP_NUM_THREADS=2 train "$OUT/ten_act_shifted" --config_path=eval/peers/act.yaml "${DATA[@]}" \
  --job_name=ten_act_shifted --steps="${ACT_STEPS:-6500}" --num_workers=1 --save_freq=500 \
  --dataset.image_transforms.enable=true --dataset.image_transforms.tfs="$SHIFT"

# Pictures of the demonstrations' size for all: ACT fails on any other.
beside=(ten_atlasvla ten_act ten_diffusion ten_act_shifted)
for policy in "${beside[@]}"; do
  "$BIN/python" -m eval.run --checkpoint="$OUT/$policy/checkpoints/last" --output_dir="$OUT/eval_${policy}_64px" \
    --episodes=20
done
runs=$(printf ",$OUT/eval_%s_64px" "${beside[@]}")
"$BIN/python" -m eval.report --run="[${runs:1}]" --name=ten_tasks_peers \
  --labels='[AtlasVLA, ACT, Diffusion, ACT with the same augmentation]'
# What the augmentation gives ACT; the report only has ours against each of the others.
"$BIN/python" -m eval.compare "$OUT/eval_ten_act_shifted_64px" "$OUT/eval_ten_act_64px"

# With the camera moved, and ours trained once more without its augmentation.
train "$OUT/ten_atlasvla_no_shift" --config_path=configs/policy/atlasvla_tiny.yaml "${DATA[@]}" \
  --job_name=ten_atlasvla_no_shift --steps=7000 --policy.scheduler_warmup_steps=100 --num_workers=2 --save_freq=500 \
  --policy.random_shift=0
compared=(ten_atlasvla ten_act_shifted ten_atlasvla_no_shift ten_act ten_diffusion)
checkpoints=$(printf ",$OUT/%s/checkpoints/last" "${compared[@]}")
"$BIN/python" -m eval.camera_shift --checkpoints="[${checkpoints:1}]" --output_dir="$OUT/camera_shift" --episodes=2 \
  --labels='[AtlasVLA, ACT with the same augmentation, AtlasVLA without augmentation, ACT, Diffusion]'
"$BIN/python" -m eval.results_table

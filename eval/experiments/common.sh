# Functions of the experiments; sourced, not run. Every stage continues where it was stopped, or is skipped when it is done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
BIN=${BIN:-.venv/bin}
# Shares the cores among training, data loader and simulators; each of them would otherwise take all.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Without these, glibc hands memory back between steps and takes it again.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=16000000000 MALLOC_TOP_PAD_=268435456

# Where random cameras stand. What moved_camera.sh tests lies within, as does half of LIBERO-Plus's.
CAMERA_RANGES="--azimuth=[-40,40] --elevation=[-10,15] --distance=[80,140] --right=[-30,30] --up=[-20,20]
  --forward=[-25,25] --pan=[-12,12] --tilt=[-8,8] --roll=[-6,6]"

# ACT as LeRobot ships it has no augmentation: this moves the image by the share that the policy's own random_shift does, 5 of
# 64 pixels being 4 of 48.
SHIFT='{"shift": {"type": "RandomCrop", "kwargs": {"size": [64, 64], "padding": 5, "padding_mode": "edge"}}}'

# join VALUES...: a list as the commands take it.
join() { local IFS=,; echo "[$*]"; }

# train FOLDER FLAGS...: lerobot-train into FOLDER, resumed if FOLDER has a checkpoint.
train() {
  local folder=$1
  shift
  local command=("$BIN/lerobot-train" "$@" "--output_dir=$folder")
  if [ -d "$folder/checkpoints/last" ]; then
    "$BIN/lerobot-train" "--config_path=$folder/checkpoints/last/pretrained_model/train_config.json" --resume=true
  else
    rm -rf "$folder" # LeRobot refuses a folder that a run without a checkpoint left behind
    "${command[@]}"
  fi
  # What reports call the training command; quoted, so that it can be pasted into a shell.
  { printf 'OMP_NUM_THREADS=%s lerobot-train' "$OMP_NUM_THREADS"; printf ' %q' "${command[@]:1}"; echo; } \
    > "$folder/train_command.txt"
}

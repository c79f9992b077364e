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

# train FOLDER FLAGS...: lerobot-train into FOLDER, resumed if FOLDER has a checkpoint. A resumed run has the flags and the data that
# it began with, so others are refused.
train() {
  local folder=$1 begun=$1.command asked flag data=
  shift
  local command=("$BIN/lerobot-train" "$@" "--output_dir=$folder")
  for flag; do
    [[ $flag != --dataset.root=* ]] || data=" # $(episodes "${flag#*=}") episodes"
  done
  asked="$(printf 'lerobot-train'; printf ' %q' "${command[@]:1}")$data" # quoted, so that it can be pasted into a shell
  if [ -d "$folder/checkpoints/last" ]; then
    if [ ! -e "$begun" ]; then
      echo "warning: it is not known with which flags $folder was begun; it goes on with them." >&2
    elif [ "$(cut -d' ' -f2- "$begun")" != "$asked" ]; then
      echo "error: $folder was begun with other flags or data than now. Remove it, or choose another OUT. Now and then:" >&2
      echo "$asked" | cat - "$begun" >&2
      return 1
    fi
    "$BIN/lerobot-train" "--config_path=$folder/checkpoints/last/pretrained_model/train_config.json" --resume=true
  else
    rm -rf "$folder" # LeRobot refuses a folder that a run without a checkpoint left behind
    mkdir -p "$(dirname "$folder")"
    echo "OMP_NUM_THREADS=$OMP_NUM_THREADS $asked" > "$begun"
    "${command[@]}"
  fi
  [ ! -e "$begun" ] || cp "$begun" "$folder/train_command.txt" # what reports call the training command
}

# collect PART SUITE TASKS EPISODES FLAGS...: demonstrations of 64 pixels into OUT/PART, as all recipes of several suites have.
collect() {
  "$BIN/atlasvla-collect" --root="$OUT/$1" --repo_id="local/$1" --suite="$2" --task_ids="$3" --episodes_per_task="$4" \
    --image_size=64 --recovery_share=0.25 --workers=2 --seed=1000 "${@:5}"
}

# episodes FOLDERS...: how many these datasets have together; nothing if one is missing.
episodes() {
  "$BIN/python" -c 'import json, sys
print(sum(json.load(open(f"{folder}/meta/info.json"))["total_episodes"] for folder in sys.argv[1:]))' "$@" 2>/dev/null || true
}

# merge NAME FOLDERS...: datasets into OUT/NAME, again if they have grown.
merge() {
  local folders=("${@:2}")
  local names=("${folders[@]##*/}")
  local there
  there=$(episodes "$OUT/$1")
  [ -z "$there" ] || [ "$there" != "$(episodes "${folders[@]}")" ] || return 0
  rm -rf "${OUT:?}/$1.merging"
  "$BIN/lerobot-edit-dataset" --new_repo_id="local/$1" --new_root="$OUT/$1.merging" --operation.type=merge \
    --operation.repo_ids="$(join "${names[@]/#/local/}")" --operation.roots="$(join "${folders[@]}")"
  rm -rf "${OUT:?}/$1"
  mv "$OUT/$1.merging" "$OUT/$1"
}

# train_on NAME DATA START STEPS FLAGS...: one of our policies on OUT/DATA, on from START, and kept in half precision.
train_on() {
  # shellcheck disable=SC2086 (several flags in one string)
  train "$OUT/$1" --policy.path="$3" --policy.push_to_hub=false --policy.actions_in_memory=true \
    --policy.n_action_steps="$EXECUTED" --batch_size=64 --log_freq=50 "${@:5}" --dataset.repo_id="local/$2" \
    --dataset.root="$OUT/$2" --dataset.eval_split=0.05 --num_workers=1 --env_eval_freq=0 --seed=1000 --job_name="$1" \
    --steps="$4" --save_freq="$(($4 / 4))" ${TRAIN:-}
  [ -d "$OUT/kept_$1" ] || "$BIN/python" -m eval.keep_checkpoint --checkpoint="$OUT/$1/checkpoints/last" --output_dir="$OUT/kept_$1"
}

# roll RUN CHECKPOINT SUITES EPISODES FLAGS...: rollouts into OUT/RUN.
roll() {
  "$BIN/python" -m eval.run --checkpoint="$2" --output_dir="$OUT/$1" --suites="$3" --episodes="$4" \
    --n_action_steps="$EXECUTED" "${@:5}"
}

# chosen ROOT TASKS COUNT EVERY: the numbers of the first COUNT episodes of each of these tasks of a dataset of atlasvla-collect,
# or of every EVERY-th of them. They are looked up: a dataset that grew has its tasks mixed.
chosen() {
  "$BIN/python" - "$@" <<'PYTHON'
import json, sys
from pathlib import Path
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

root, tasks, count, every = Path(sys.argv[1]), sys.argv[2].replace(",", " ").split(), int(sys.argv[3]), int(sys.argv[4])
record = json.loads((root / "meta/atlasvla_collect.json").read_text())["tasks"]
of_task = {record[task]["instruction"]: [] for task in tasks}
for index, episode in enumerate(LeRobotDatasetMetadata("local/chosen", root=root).episodes):
    if (instruction := episode["tasks"][0]) in of_task:
        of_task[instruction].append(index)
print(sorted(index for indices in of_task.values() for index in indices[:count:every]))
PYTHON
}

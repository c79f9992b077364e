#!/usr/bin/env bash
# Speed, memory and size, on idle cores; nothing here says how well a policy acts. Needs 14 GB of disk for weights and
# caches, and 16 GiB of memory. On a machine with a GPU the last part runs there and is the one that matters.
source "$(dirname "$0")/common.sh"
OUT=${OUT:-outputs/benchmark}
WEIGHTS=$OUT/weights
unset OMP_NUM_THREADS # every process has the machine to itself

"$BIN/python" -m eval.benchmark.full_size.weights --root="$WEIGHTS"

# The reader, which limits small networks: two episodes at the published size.
[ -e "$OUT/spatial256/meta/info.json" ] || "$BIN/atlasvla-collect" --root="$OUT/spatial256" \
  --repo_id=local/spatial256 --task_ids='[0]' --episodes_per_task=2 --workers=2
"$BIN/python" -m eval.benchmark.reading_speed --root="$OUT/spatial256" --repo_id=local/spatial256

# What frozen VGGT costs in training, and what its features on disk save.
if [ ! -e eval/results/benchmark-feature-cache/report.json ]; then
  rm -rf "$OUT/feature_cache"
  "$BIN/python" -m eval.benchmark.feature_cache_speed --root="$OUT/feature_cache" --weights="$WEIGHTS"
fi

# The small policies, many times, ours also at the batch size of its preset; the large ones at their true size, a few times.
"$BIN/python" -m eval.benchmark --policies='[atlasvla_tiny,atlasvla_tiny+compile,act]' --device=cpu \
  --name=benchmark-cpu-small
"$BIN/python" -m eval.benchmark --policies='[atlasvla_tiny,atlasvla_tiny+compile]' --batch_sizes='[16,64,128]' \
  --device=cpu --name=benchmark-cpu-tiny
"$BIN/python" -m eval.benchmark --policies='[atlasvla_libero,smolvla,act,xvla,atlasvla_base]' --device=cpu \
  --weights="$WEIGHTS" --batch_sizes='[1,4]' --repetitions=3 --warmup=1 --train_steps=2 --rounds=1 \
  --name=benchmark-cpu-large
"$BIN/python" -m eval.benchmark --policies='[atlasvla_libero+cache,atlasvla_libero,smolvla]' --device=cpu \
  --weights="$WEIGHTS" --batch_sizes='[4,16]' --repetitions=3 --warmup=1 --train_steps=2 --rounds=1 \
  --name=benchmark-cpu-cache
# A CPU with bfloat16 arithmetic; SmolVLA has its language model in bfloat16 anyway, and may have the rest too.
"$BIN/python" -m eval.benchmark --policies='[atlasvla_libero,smolvla,smolvla+amp]' --dtype=bfloat16 --device=cpu \
  --weights="$WEIGHTS" --batch_sizes='[1,4]' --repetitions=5 --warmup=1 --train_steps=2 --rounds=1 \
  --name=benchmark-cpu-bfloat16
# Training memory at the batch sizes of the targets; late fusion, and early fusion with checkpointing.
"$BIN/python" -m eval.benchmark --policies='[atlasvla_libero,atlasvla_base]' --dtype=bfloat16 --device=cpu \
  --weights="$WEIGHTS" --batch_sizes='[8,16]' --repetitions=1 --warmup=1 --train_steps=1 --rounds=1 \
  --name=benchmark-cpu-memory
# DA3's presets beside the one with VGGT and LeRobot's policies, at the batch sizes of the targets. pi0.5 has 3.6 B
# parameters: a chunk takes the better part of a minute, and its training out of memory is recorded as that.
for dtype in float32 bfloat16; do
  "$BIN/python" -m eval.benchmark --policies='[atlasvla_da3_small,atlasvla_da3_base,atlasvla_libero,smolvla,act]' \
    --dtype="$dtype" --device=cpu --weights="$WEIGHTS" --batch_sizes='[8,16]' --repetitions=5 --warmup=1 \
    --train_steps=3 --rounds=2 --timeout_s=7200 --name="benchmark-cpu-da3-$dtype"
done
"$BIN/python" -m eval.benchmark --policies='[atlasvla_da3_small,atlasvla_da3_base,pi05]' --dtype=bfloat16 --device=cpu \
  --weights="$WEIGHTS" --batch_sizes='[1]' --repetitions=2 --warmup=1 --train_steps=1 --rounds=1 --timeout_s=7200 \
  --name=benchmark-cpu-da3-pi05

if "$BIN/python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
  "$BIN/python" -m eval.benchmark --device=cuda --weights="$WEIGHTS" --name=benchmark-gpu
fi

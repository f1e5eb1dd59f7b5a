#!/usr/bin/env bash
# Everything that waits for a GPU, in order of worth: correctness of the block in bf16, the benchmark
# of the block at every width, that of whole networks, then the EM and the MRI networks at the paper's
# width on the real sample (PSC_SAMPLE_DATA).
#   scripts/gpu_session.sh OUTPUT_FOLDER [MINUTES_PER_NETWORK]
# Copy the records (result.json, metrics.csv) from OUTPUT_FOLDER/runs to experiments/ afterwards.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${1:?usage: scripts/gpu_session.sh OUTPUT_FOLDER [MINUTES_PER_NETWORK]}"
minutes="${2:-8}"
python="${PYTHON:-python3}"
[[ -x .venv/bin/python && -z "${PYTHON:-}" ]] && python=.venv/bin/python
mkdir -p "$out"
failed=0

step() { # a step that fails must not take the others with it
  echo "=== $1"
  shift
  "$@" 2>&1 || { echo "FAILED: $*"; failed=1; }
}

step 'bf16 against fp32' "$python" -m pytest -q -m gpu tests
for benchmark in block networks; do
  step "benchmark: $benchmark" "$python" scripts/benchmark.py "$benchmark" \
    --out "$out/benchmark_$benchmark.json" --csv "$out/benchmark_$benchmark.csv" \
    --markdown "$out/benchmark_$benchmark.md"
done
for block in 3d p2sc2; do
  step "EM at full width: $block" "$python" train.py \
    backbone=unet block="$block" budget=paper dataset=fibsem_sample \
    recipe.max_minutes="$minutes" recipe.validate_every=500 \
    trainer.progress_bar=false output_directory="$out/runs" resume=true
done
for network in densenet/3d densenet/p1sc1 densenet/p2sc2 densenet/p2sc3 densenet_bui/3d; do
  step "MRI at full width: $network" "$python" train.py \
    backbone="${network%/*}" block="${network#*/}" budget=paper dataset=ibsr_sample \
    recipe.max_minutes="$minutes" recipe.validate_every=500 \
    trainer.progress_bar=false output_directory="$out/runs" resume=true
done
step 'summary' "$python" scripts/summarize.py "$out/runs"
exit "$failed"

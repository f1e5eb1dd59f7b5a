#!/usr/bin/env bash
# Everything that waits for a GPU, in order of worth: correctness of the block in bf16, the benchmark
# of the block at every width, that of whole networks, then the EM and the MRI networks at the paper's
# width on the real sample (PSC_SAMPLE_DATA), then the EM network converted and trained on.
#   scripts/gpu_session.sh OUTPUT_FOLDER [MINUTES_PER_NETWORK]
# If experiments/ of this checkout is lost with the machine, collect the records afterwards:
#   scripts/paper.py collect table-6d OUTPUT_FOLDER/runs/table-6d-gpu
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
    --out "$out/benchmark_$benchmark.json" --csv "$out/benchmark_$benchmark.csv"
done
for table in 6d 5d; do
  step "table $table at full width, real sample" "$python" scripts/paper.py run "table-$table" \
    --protocol gpu --output "$out/runs" "recipe.max_minutes=$minutes" trainer.progress_bar=false
  step "summary $table" "$python" scripts/compare.py "$out/runs/table-$table-gpu"
done
step 'converted networks' "$python" experiments/conversion/study.py --output "$out/runs/conversion" \
  --into "$out/conversion" --iterations 1000 --learning-rate 1e-4 \
  backbone=unet budget=paper dataset=fibsem_sample recipe.malis_from=null recipe.iterations=4000 \
  recipe.validate_every=500 "recipe.max_minutes=$minutes" trainer.progress_bar=false
step 'report of converted networks' "$python" experiments/conversion/study.py \
  --report --into "$out/conversion"
exit "$failed"

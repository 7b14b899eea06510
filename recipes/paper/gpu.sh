#!/usr/bin/env bash
# The paper's T5 on one GPU: several trainings at a time, results and models in one folder of small files.
#   bash recipes/paper/gpu.sh sweep.yaml OUT [--set key=value ...]    what validation on Beauty says of settings
#   bash recipes/paper/gpu.sh final.yaml OUT [...]                    all three sets, evaluated on test
#   bash recipes/paper/gpu.sh long.yaml OUT [...]                     longer runs of them, a second seed, random codes
#   bash recipes/paper/gpu.sh together.yaml OUT [...]                 one tokenizer and one T5 for all three
# Wants datasets/<set> and runs/paper/<set>/tokenizer (recipes/tokenizer.py recipes/paper/<set>/tokenizer.yaml).
# DEVICE=cpu bash recipes/paper/gpu.sh final.yaml OUT --set max_steps=20    tries it without a GPU
set -euo pipefail
runs=$1 out=$2
shift 2
here=$(dirname "$0")
work=$(mktemp -d)
overlay=()
if [ "${DEVICE:-cuda}" = cuda ]; then overlay=(--overlay recipes/gpu.yaml); fi
status=0
"${PYTHON:-python3}" "$here/runs.py" "$here/$runs" --out "$work" "${overlay[@]}" "$@" 2>&1 | tee "$out/table.txt" || status=$?
# Everything but models; then the best finished model of each set, in pieces.
(cd "$work" && tar czf "$out/results.tgz" --exclude='*.safetensors' --exclude='*.pt' --exclude='*.pth' \
    --exclude='*.bin' --exclude=quantizer --exclude=encoder --exclude='*.parquet' .)
(cd "$work" && find . -path '*/ranks/*.safetensors' -print0 | tar czf "$out/ranks.tgz" --null -T -)
models=()
if [ -f "$work/best.txt" ]; then
    while read -r name; do models+=("$name/model"); done < "$work/best.txt"
fi
if [ ${#models[@]} -gt 0 ]; then
    (cd "$work" && tar cf - "${models[@]}" | gzip -1 | split -b 15m - "$out/models.tgz.")
fi
exit $status

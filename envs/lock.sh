#!/usr/bin/env bash
# Makes the locks and the conda files from the *.in files: run by `make lock`, after a change of one of those.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
versions() { pip freeze --exclude pip --exclude setuptools | sed 's/+cpu$//' | LC_ALL=C sort -f; }

# Everything is installed with --no-deps from the complete lock.
echo "cpu.lock"
cp cpu.in "$work/cpu.in"
pip install -q -r "$work/cpu.in"
versions > "$work/cpu"
{ echo "# Made by \`make lock\` from cpu.in: every package that the rules run with, its exact version."; cat "$work/cpu"; } > cpu.lock

# fschat asks for a web server that its templates and data tools do not need, and mistral-common is there for the
# tokenizer model that it carries: both come without their dependencies.
echo "dev.lock"
grep -v '^mistral-common\|^fschat' dev.in > "$work/dev.in"
pip install -q -r "$work/dev.in" -c "$work/cpu"
pip install -q --no-deps "$(grep -o '^mistral-common[^ ]*' dev.in)" "$(grep -o '^fschat[^ ]*' dev.in)"
{ echo "# Made by \`make lock\` from dev.in: what the tests need besides cpu.lock."; comm -13 <(LC_ALL=C sort "$work/cpu") <(versions | LC_ALL=C sort); } > dev.lock

# Resolved without being installed; the versions of cpu.lock hold, and torch brings its CUDA packages. Three equals signs
# take PyPI's torch, which has CUDA: to two, a CPU build (2.13.0+cpu) of another index, or already installed, would do.
# cpu.lock has no hashes: torch's CPU build differs from index to index.
echo "gpu.lock"
pip install -q uv
"$work/venv/bin/uv" pip compile -q --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --no-emit-index-url --no-header --no-annotate "$work/cpu.in" -c "$work/cpu" -o "$work/gpu"
{
  echo "# Made by \`make lock\` from cpu.in: every package that the rules run with on GPUs, its exact version and files."
  sed 's/^torch==/torch===/' "$work/gpu"
} > gpu.lock

for name in cpu gpu; do
  {
    echo "# Made by \`make lock\` from $name.lock, for \`snakemake --sdm conda\`."
    if [ $name = gpu ]; then echo "# Untested: pip resolves its packages, and no machine with conda and a GPU has built it yet."; fi
    echo "channels: [conda-forge, nodefaults]"
    echo "dependencies:"
    echo "  - python=3.11"
    echo "  - pip"
    echo "  - pip:"
    sed -n 's/^\([^ #]*==[^ ]*\).*/      - \1/p' "$name.lock"
  } > "$name.yaml"
done

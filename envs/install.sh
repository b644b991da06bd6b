#!/usr/bin/env bash
# Puts the locked environment into .venv: envs/install.sh cpu|gpu [PYTHON]. Run by make; can be interrupted and repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=envs/$1.lock
python=${2:-python3.11}

command -v "$python" > /dev/null || {
  echo "Python 3.11 is needed and $python was not found. Install it, or name it: make PYTHON=/path/to/python3.11" >&2
  exit 1
}
# A virtual environment that was cut short while being made has no pip yet.
.venv/bin/python -m pip --version > /dev/null 2>&1 || "$python" -m venv --clear .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

count() { grep -c '^[A-Za-z]' "$1"; }
echo "Installing $(count "$lock") packages of $lock and $(count envs/dev.lock) of envs/dev.lock"
# The locks are complete, so nothing is resolved. One after the other: pip would ask for hashes of both where one has them.
pip install --quiet --no-deps -r "$lock"
pip install --quiet --no-deps -r envs/dev.lock
if [ "$1" = gpu ]; then
  PYTHONPATH=scripts .venv/bin/python envs/check_gpu.py
fi

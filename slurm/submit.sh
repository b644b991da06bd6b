#!/usr/bin/env bash
# Runs the pipeline itself as a small Slurm job, so that no terminal has to stay open for days:
#   slurm/submit.sh [SBATCH OPTIONS] [-- SNAKEMAKE ARGUMENTS]
#   slurm/submit.sh --partition=cpu --time=3-00 -- ambersafe --configfile mine.yaml
# It prints into .snakemake/pipeline-JOB.log. When its own time is over, type the same again.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p .snakemake
options=()
while (($#)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done
shift $(($# > 0))

# A name unlike those of the jobs that it submits: the next start must not take it for one that was left.
sbatch --job-name=amberline --cpus-per-task=1 --mem=4G --time=7-00 --requeue --open-mode=append \
  --output=.snakemake/pipeline-%j.log "${options[@]}" \
  --wrap "exec $(printf '%q ' "$PWD/.venv/bin/snakemake" --profile slurm "$@")"

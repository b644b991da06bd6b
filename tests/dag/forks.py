"""Run Snakemake in forks of one process that has imported it already: importing takes longer than planning.

Reads a request from each line of its input, as JSON: the working folder, the arguments, the environment, and the file
to print to. Only Snakemake is shared; each fork reads the workflow, and Amberline's own code, from its own folder.
"""

import json
import os
import sys

import snakemake.cli


def run(request: dict) -> None:
    """Run Snakemake in this process as a user's command would."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    printed = os.open(request["printed"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, printed), (2, printed)):
        os.dup2(source, target)
    sys.argv = ["snakemake", *request["arguments"]]
    snakemake.cli.main()


def main() -> None:
    while line := sys.stdin.readline():
        if (child := os.fork()) == 0:
            run(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()

"""Where everything made lies under the results folder: the one place for names of files.

What is made for several nodes has a name that ends in a digest of the settings that it depends on, so that nodes share
it. A recipe in which two nodes would make the same file is refused (`recipe.edges`).
"""

from pathlib import PurePosixPath

PACKED = (".xz", ".gz", ".zst", "")
ENDINGS = (*(f"{kind}{packed}" for kind in (".jsonl", ".json") for packed in PACKED), ".parquet")
FILES = ".files"  # of a raw folder of several files
FOLDERS = ("models", "tokens", "scores")  # in which what is made is a folder


def raw(name: str, file: str | None) -> str:
    """The raw file of a source, with the ending of the file that it is a copy of; None: the folder of several."""
    if file is None:
        return f"raw/{name}{FILES}"
    return f"raw/{name}{next((ending for ending in ENDINGS if file.endswith(ending)), '.json')}"


def part_name(name: str, part: str) -> str:
    """The name of a part of something; of all of it, where the part is empty."""
    return f"{name}-{part}" if part else name


def data(dataset: str, part: str = "") -> str:
    """A file of a dataset: all of it, or one of its parts."""
    return f"data/{part_name(dataset, part)}.json"


def row_sources(dataset: str, part: str = "") -> str:
    """The number of the source of each row of a mix."""
    return f"data/{part_name(dataset, part)}.sources.npy"


def pair_lines(dataset: str, part: str) -> str:
    """The pairs of a dataset as JSON lines."""
    return f"data/{dataset}-{part}.jsonl"


def tokens(name: str) -> str:
    """A token folder."""
    return f"tokens/{name}"


def scores(name: str) -> str:
    """Log-probabilities of a reference model."""
    return f"scores/{name}"


def model(name: str) -> str:
    """A model's folder."""
    return f"models/{name}"


def card(name: str) -> str:
    """A model's card."""
    return f"models/{name}/README.md"


def run(name: str) -> str:
    """The summary of a finished training."""
    return f"training/{name}/run.json"


def metrics(name: str) -> str:
    """The curve of a training."""
    return f"training/{name}/metrics.jsonl"


def evaluation(name: str, of: str) -> str:
    """What an evaluation found of a model."""
    return f"evaluations/{name}/{of}.json"


def funnel(stage: str, name: str) -> str:
    """The account of a data stage."""
    return f"funnels/{stage}/{name}.json"


def both_modes(name: str) -> str:
    """The accounts of both modes of cutting, side by side."""
    return f"funnels/both_modes/{name}.json"


def rejects(stage: str, name: str) -> str:
    """The rejected rows of a data stage."""
    return f"rejects/{stage}/{name}.jsonl"


def log(rule: str, *names: str) -> str:
    """The log of a job."""
    return f"logs/{'/'.join([rule, '-on-'.join(names)] if names else [rule])}.log"


def manifest(path: str) -> str:
    """The manifest of something made, a folder or a file."""
    parts = PurePosixPath(path).parts
    return f"{path}/manifest.json" if parts[0] in FOLDERS and len(parts) == 2 else f"{path}.manifest.json"

"""What can be known to be wrong before any job starts, said in a way that fixes it."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from amberline.core.digests import file_digest
from amberline.core.settings import Kind, leaves
from amberline.objectives.settings import Training
from amberline.recipe.cluster import Cluster
from amberline.recipe.config import Config, explain
from amberline.recipe.data import BaseModelSource, Source

# A local file up to this size is checked against its sha256 at every start; a larger one by its size here and by
# its sha256 in the job that acquires it.
HASHED_AT_START = 64 * 2**20


class ConfigurationError(Exception):
    """The configuration or a target is wrong. The message names it, what was found, what is allowed, and the fix."""


def check_configuration(values: Mapping[str, Any], *, files: bool = True) -> Config:
    """Read the configuration and check it, all faults at once; with `files`, also the local files that it names.

    Raises ConfigurationError.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(_message([_with_hint(line) for line in explain(error)])) from None
    faults = list(_faults(config)) + (list(_file_faults(config)) if files else [])
    if faults:
        raise ConfigurationError(_message(faults))
    return config


def check_cluster(values: Mapping[str, Any] | None) -> Cluster:
    """Read what is particular to a cluster. Raises ConfigurationError."""
    try:
        return Cluster.model_validate(values)
    except ValidationError as error:
        lines = "\n".join(f"  - cluster.{fault}" for fault in explain(error))
        raise ConfigurationError(
            f"the description of the cluster is wrong, nothing was started:\n{lines}\n"
            "Fix: correct slurm/site.yaml (every key is explained there), or the file given with --configfile."
        ) from None


def _message(faults: Sequence[str]) -> str:
    lines = "\n".join(f"  - {fault}" for fault in faults)
    return (
        f"the configuration is wrong, nothing was started:\n{lines}\n"
        "Fix: correct the file given with --configfile, or config.yaml (every key is explained there)."
    )


def _with_hint(line: str) -> str:
    """For an unknown key, the known one that it most resembles."""
    if "unknown key" not in line:
        return line
    path = line.split(":", 1)[0]
    known = sorted(_known_keys())
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    allowed = sorted({key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == path.rpartition(".")[0]})
    return f"{line}; " + (f"did you mean {near[0]}?" if near else f"allowed there: {', '.join(allowed)}")


def _known_keys() -> Iterator[str]:
    """Every key of the published config.yaml, dotted."""
    published = yaml.safe_load(Path(__file__).parents[3].joinpath("config.yaml").read_text(encoding="utf-8"))
    return (path for path, _ in leaves(published, inner=True))


def _faults(config: Config) -> Iterator[str]:
    """What no single key can tell."""
    if config.amberchat.tokens.max_length < config.amberchat.split.max_length:
        yield (
            f"amberchat.tokens.max_length: found {config.amberchat.tokens.max_length}, less than "
            f"amberchat.split.max_length ({config.amberchat.split.max_length}): chunks would be cut; make them equal"
        )
    tiny = config.base_model.tiny
    if tiny and config.amberchat.tokens.max_length > tiny.context:
        yield (
            f"amberchat.tokens.max_length: found {config.amberchat.tokens.max_length}, more than "
            f"base_model.tiny.context ({tiny.context}); lower it or raise the context"
        )
    if config.amberchat.split.keep_leading_answer and config.amberchat.split.mode != "lossless":
        yield "amberchat.split.keep_leading_answer: works with amberchat.split.mode: lossless alone; set it to false"
    stages: dict[str, Training] = {
        "amberchat.training": config.amberchat.training,
        "ambersafe.sft": config.ambersafe.sft,
        "ambersafe.dpo": config.ambersafe.dpo,
    }
    for path, stage in stages.items():
        if bool(stage.evaluation.examples) != bool(stage.evaluation.every_examples):
            yield f"{path}.evaluation: examples and every_examples must be both 0 or both positive"
    if config.amberchat.training.evaluation.examples and not config.amberchat.mix.heldout_conversations:
        yield (
            "amberchat.training.evaluation.examples: found "
            f"{config.amberchat.training.evaluation.examples}, but amberchat.mix.heldout_conversations is 0: "
            "withhold some conversations, or set it to 0"
        )
    for name in ("amberchat", "sft", "reference", "dpo", "evaluation"):
        hardware = getattr(config.hardware, name)
        if hardware.device == "cpu" and hardware.attention in {"varlen", "flash"}:
            yield f"hardware.{name}.attention: found {hardware.attention!r}, which needs device: cuda; use auto or sdpa"


def _file_faults(config: Config) -> Iterator[str]:
    """Local files that are missing or others than the configuration says."""
    for name in type(config.sources).model_fields:
        source: Source = getattr(config.sources, name)
        if source.path is not None:
            yield from (f"sources.{name}.{fault}" for fault in _source_faults(source, Path(source.path)))
    yield from _model_faults(config.base_model)


def _source_faults(source: Source, path: Path) -> Iterator[str]:
    if not path.is_file():
        yield (
            f"path: found {str(path)!r}, and there is no such file (looked in {os.getcwd()}); "  # noqa: PTH109
            "give the path of the raw file, or null to download it"
        )
        return
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        yield (
            f"bytes: {path} has {size}, but {source.bytes} are expected; restore the file, "
            "or set bytes to its size if you mean to use this one (null: not checked)"
        )
    elif source.sha256 is not None and size <= HASHED_AT_START:
        found = file_digest(path)
        if found != source.sha256:
            yield (
                f"sha256: {path} has {found}, but {source.sha256} is expected; restore the file, "
                "or set sha256 to its own if you mean to use this one (null: not checked)"
            )


def _model_faults(source: BaseModelSource) -> Iterator[str]:
    if source.tiny is None and source.path is not None:
        folder = Path(source.path)
        if not (folder / "config.json").is_file():
            yield (
                f"base_model.path: found {source.path!r}, and there is no Hugging Face model in it (no config.json); "
                "give the folder of a model, or null to download it"
            )


def check_target(target: str, names: Sequence[str], results: str) -> None:
    """Raise ConfigurationError for a target that is neither a rule's name nor a file under the results folder."""
    if target in names or os.path.normpath(target).startswith(os.path.normpath(results) + os.sep):
        return
    near = difflib.get_close_matches(target, names, n=3, cutoff=0.5)
    raise ConfigurationError(
        f"there is no target {target!r}, nothing was started. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + "Named targets: evol_mix, amberchat, safe_pairs, ambersafe_sft, ambersafe, evaluation, report, all; "
        f"or any file that a rule makes under {results}/. (After --configfile, put -- before the target.)"
    )


def deviations(values: Mapping[str, Any], published: str | Path) -> dict[str, dict[str, Any]]:
    """Keys whose value differs from the published recipe: `{key: {"published": …, "here": …}}`.

    What something runs on, and what is kept and watched on the way, does not count.
    """
    recipe = yaml.safe_load(Path(published).read_text(encoding="utf-8"))
    here, there = (
        dict(leaves(Config.model_validate(each).of(Kind.RESULT, Kind.DESCRIPTION))) for each in (values, recipe)
    )
    return {
        key: {"published": there.get(key), "here": here.get(key)}
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    }

"""The raw files: downloaded or local, and verified."""

from amberline.core.manifests import read_manifest
from amberline.formats.registry import format_file
from amberline.hub.origins import find_misfit, find_model_misfit
from amberline.recipe import sources_lock
from amberline.recipe.files import find_file
from amberline.recipe.nodes import PretrainedModel


def source_of(wildcards):
    """The source of a raw file, its local path as found from here."""
    source = RECIPE.nodes.sources[wildcards.source]
    return source.model_copy(update={"path": str(find_file(source.path))}) if source.path else source


def source_misfit(wildcards):
    """Why the raw file that is there is not the one that is asked for."""
    manifest, source = manifest_of_made(RECIPE.raw(wildcards.source)), source_of(wildcards)
    if manifest is None:
        return None
    try:
        held = None if source.sha256 else sources_lock.SourcesLock(sources_lock.PLACE).held(wildcards.source)
    except sources_lock.SourcesLockError as error:
        return str(error)
    return find_misfit(source, manifest, held)


def manifest_of_made(path):
    """The manifest of something made; nothing if it is not there."""
    return read_manifest(Path(place(path))) if Path(manifest_at(path)).exists() else None


def acquired(programs, path, misfit):
    """As `depends`, without packages: what is acquired is verified, and fetching it again may take hours."""
    params = depends(programs, path, misfit=misfit)
    return {name: param for name, param in params.items() if name != "packages"}


rule acquire:
    output:
        file=made("raw/{source}.{ending}"),
    log:
        result(paths.log("acquire", "{source}.{ending}")),
    wildcard_constraints:
        source=alternatives(list(RECIPE.nodes.sources)),
        ending=r"jsonl?(\.xz|\.gz|\.zst)?|parquet|files",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **acquired(
            lambda wildcards: with_registered("acquire.py", format_file(source_of(wildcards).format)),
            "raw/{source}.{ending}",
            misfit=source_misfit,
        ),
        source=lambda wildcards: Untracked(source_of(wildcards).model_dump(mode="json")),
        lock=Untracked(str(sources_lock.PLACE)),
        made=files_made,
    shell:
        "{params.tell} python {params.scripts:q}/acquire.py --name {wildcards.source:q} --source {params.source:q} --output {params.made.file:q}"
        " --sources-lock {params.lock:q} 2>&1 | tee {log:q}"


def described(names):
    """What cards and the report say of sources and pretrained models. Of a local copy it is not claimed whose it is."""
    sources = [described_source(name) for name in RECIPE.nodes.sources if name in names]
    return sources + [described_model(name) for name in RECIPE.models(PretrainedModel) if name in names]


def described_source(name):
    source = RECIPE.nodes.sources[name]
    published = source.path is None
    return {
        "name": name,
        "repository": source.repository if published else None,
        "revision": source.revision if published else None,
        "file": source.files or (source.file if published else os.path.basename(source.path)),
        "licence": source.licence,
    }


def described_model(name):
    model = RECIPE.pretrained(name)
    published = model.folder is None
    return {
        "name": name,
        "repository": model.pretrained if published else None,
        "revision": model.revision if published else None,
        "file": None if published else os.path.basename(model.pretrained),
        "licence": model.licence,
    }

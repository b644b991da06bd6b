"""Whether log-probabilities of a reference are those that are needed."""

from amberline.core.manifests import Manifest


def unlike(reference: Manifest, *, tokens: Manifest, precision: str, tf32: bool, model: Manifest | None = None) -> str:
    """What they were computed with, where that is not what is asked for, as a phrase; empty where all is alike.

    They are used only for the pairs and the arithmetic that they were computed with, and for `model` if it is given.
    """
    found, computed = reference["inputs"], reference["settings"]
    alike = {
        "another model": model is None or found.get("model", {}).get("digest") == model["digest"],
        "other pairs": found.get("tokens", {}).get("digest") == tokens["digest"],
        "another precision": computed.get("precision") == precision,
        "another tf32": computed.get("tf32", tf32) == tf32,
    }
    return " and ".join(phrase for phrase, is_alike in alike.items() if not is_alike)

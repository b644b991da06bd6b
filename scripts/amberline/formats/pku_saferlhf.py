"""What both versions of PKU-SafeRLHF share: their columns, and how one is told from the other."""

from typing import Any, Literal

from amberline.data.conversations import BadRecord, WrongFile, kind_of
from amberline.data.preferences import Preference
from amberline.formats.base import PreferenceFormat, columns_of, text_of

TEXTS = ("prompt", "response_0", "response_1")
SAFE = ("is_response_0_safe", "is_response_1_safe")
COLUMNS = (*TEXTS, *SAFE, "better_response_id", "safer_response_id")
# Columns that v1 has beside those.
V1_COLUMNS = ("response_0_harm_category", "response_1_harm_category")

Version = Literal["v0", "v1"]


class PkuSafeRlhf(PreferenceFormat):
    """A prompt with two responses, and for each whether it is safe."""

    keys = frozenset(COLUMNS)
    selections = frozenset({"exactly_one_safe"})
    shape = "{" + ", ".join(map(repr, COLUMNS)) + "}, the labels true or false"

    def __init__(self, version: Version, fix: str) -> None:
        """`fix` is said when a file turns out to be of the other version."""
        self._version = version
        self._fix = fix

    def preference(self, row: Any) -> Preference:
        """See PreferenceFormat."""
        columns = columns_of(row, COLUMNS)
        found = "v1" if any(column in columns for column in V1_COLUMNS) else "v0"
        if found != self._version:
            raise WrongFile(
                f"the columns are those of PKU-SafeRLHF {found}, but {self._version} is asked for", self._fix
            )
        prompt, first, second = (text_of(columns, column) for column in TEXTS)
        first_safe, second_safe = (_is_safe(columns, column) for column in SAFE)
        return Preference(prompt, (first, second), safe=(first_safe, second_safe))


def _is_safe(row: dict[str, Any], column: str) -> bool:
    value = row[column]
    if not isinstance(value, bool):
        raise BadRecord("safe_wrong_type", f"{column!r} is {kind_of(value)}, not true or false")
    return value

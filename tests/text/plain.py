"""A template in one file: `test_new_template.py` puts it among the others."""

from amberline.templates.base import TurnByTurn


class Plain(TurnByTurn):
    """Names, and the end of sequence behind every turn."""

    behind = "\n"

    def opening_of(self, speaker: str) -> str:
        """See TurnByTurn."""
        return {"system": "Task: ", "human": "Q: ", "gpt": "A:"}[speaker]


TEMPLATE = Plain()

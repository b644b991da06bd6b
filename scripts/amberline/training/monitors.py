"""What stops a run before harm is done, and what only warns."""

import math
import statistics
from collections import deque
from collections.abc import Mapping

from amberline.objectives.settings import Monitors, PreferenceMonitors

WINDOW = 50  # steps over which the curve is watched


class TrainingStopped(Exception):
    """A guard has stopped the run; the weights are those of the last good step."""


class Monitor:
    """Rules on the curve of one run."""

    def __init__(self, settings: Monitors) -> None:
        self._settings = settings
        self._recent: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self._broken: set[str] = set()

    def remember(self, metrics: Mapping[str, float]) -> None:
        """Take note of a step without judging it: one from before a resume."""
        self._recent.append(metrics)

    def judge(self, metrics: Mapping[str, float]) -> list[str]:
        """Rules that this step breaks and the one before did not, each as a sentence."""
        broken = self._broken_rules(metrics)
        self._recent.append(metrics)
        news = [sentence for rule, sentence in broken.items() if rule not in self._broken]
        self._broken = set(broken)
        return news

    def _broken_rules(self, metrics: Mapping[str, float]) -> dict[str, str]:
        settings = self._settings
        broken: dict[str, str] = {}
        if len(self._recent) < WINDOW:
            return broken
        if settings.loss_spike is not None:
            usual = statistics.median(each["loss"] for each in self._recent)
            if metrics["loss"] > settings.loss_spike * usual > 0:
                broken["loss_spike"] = (
                    f"the loss is {metrics['loss']:.4g}, more than {settings.loss_spike:g} times the usual {usual:.4g}"
                )
        if isinstance(settings, PreferenceMonitors):
            for rule, name, least in (
                ("reward_accuracy", "rewards/accuracies", settings.reward_accuracy),
                ("reward_margin", "rewards/margins", settings.reward_margin),
            ):
                window = [*self._recent, metrics][-WINDOW:]
                mean = statistics.fmean(each[name] for each in window)
                if least is not None and mean < least:
                    broken[rule] = f"mean {name} of the last {WINDOW} steps is {mean:.4g}, below {least:g}"
        return broken


def is_sound(loss: float, gradient_norm: float) -> bool:
    """Whether a step may be taken."""
    return math.isfinite(loss) and math.isfinite(gradient_norm)

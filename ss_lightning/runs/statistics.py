"""Mean and deviation over seeds or folds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class GroupStatistics:
    """A value over groups, such as an accuracy over folds.

    Attributes:
        means: the mean of each group, such as that of a fold over its seeds.
    """

    means: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over the groups; NaN without any."""
        return statistics.fmean(self.means.values()) if self.means else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample of groups; NaN for fewer than two."""
        return statistics.stdev(self.means.values()) if len(self.means) > 1 else math.nan

    @property
    def lowest_group(self) -> str:
        """The group with the lowest mean."""
        return min(self.means, key=self.means.__getitem__)

    @property
    def lowest(self) -> float:
        """The lowest mean of a group."""
        return self.means[self.lowest_group]


def over_groups(values: Iterable[tuple[str, float]]) -> GroupStatistics:
    """Statistics over groups.

    Args:
        values: pairs of a group and one of its values.
    """
    groups: dict[str, list[float]] = {}
    for group, value in values:
        groups.setdefault(group, []).append(value)
    return GroupStatistics({group: statistics.fmean(found) for group, found in groups.items()})

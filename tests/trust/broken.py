"""Data whose second process ends in the middle of the training, in several ways."""

import os
import signal

from ss_lightning.data import EventDataset, YinYangData
from ss_lightning.errors import DataError


class BrokenDataset(EventDataset):
    """Breaks at the third batch of process ``rank``; ``how`` says how."""

    rank, how, count = 1, "", 0

    def __getitems__(self, indices):
        self.count += 1
        if self.count == 3 and int(os.environ.get("LOCAL_RANK", 0)) == self.rank:
            if self.how == "raises":
                raise RuntimeError("this process is broken")
            if self.how == "data":
                raise DataError("data/file.h5: this file is broken. Mend it")
            if self.how == "exits":
                os._exit(7)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitems__(indices)


class BrokenData(YinYangData):
    """Yin-Yang, the training set of which breaks."""

    def __init__(self, how: str = "raises", rank: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.how, self.rank = how, rank

    def dataset(self, subset):
        made = super().dataset(subset)
        if subset is self.splits.train:
            made.__class__ = BrokenDataset
            made.how, made.rank = self.how, self.rank
        return made

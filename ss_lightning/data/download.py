"""Data in files below a folder: where they are, how missing ones are downloaded, and what is prepared from them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ss_lightning.data.cache import cache_folder, cached_stores, preparation_lock
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.store import EventStore
from ss_lightning.data.validation import refuse_broken_link
from ss_lightning.errors import DataError
from ss_lightning.signatures import passes_on_to


@contextmanager
def download_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` to download to, so that only whole files are ever moved to ``target``.

    Call it under :func:`~ss_lightning.data.cache.preparation_lock`. What a download that was killed has left there is
    removed.
    """
    folder = target.with_name(f".{target.name}.download")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_missing(
    wanted: Iterable[Path],
    get: Callable[[Path], Path],
    *,
    target: Path,
    download: bool,
    message: Callable[[str, str], str],
    is_there: Callable[[Path], bool] = Path.is_file,
) -> None:
    """Download those of some files, or folders of files, that are missing.

    Args:
        wanted: the files, or the folders.
        get: downloads to the folder it is given, and returns the folder that then has them under the same names.
        target: the folder that gets them, or the one file or folder. The scratch folder of the download lies beside it.
        download: whether to download at all.
        message: makes the error message from the names that are missing and the reason.
        is_there: whether a file, or a folder, is complete.

    Raises:
        DataError: some are still missing.
    """
    missing = [path for path in wanted if not is_there(path)]
    if not missing:
        return
    for path in missing:
        refuse_broken_link(path)
        refuse_broken_link(path.with_name(f"{path.name}.gz"))
    reason = "download is off"
    if download:
        try:
            with download_folder(target) as scratch:
                folder = get(scratch)
                for path in missing:
                    if is_there(folder / path.name):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        if path.is_dir():
                            path.rmdir()  # there is nothing in it
                        os.replace(folder / path.name, path)
            reason = "the download did not bring it"
        except Exception as error:  # whatever stopped it, the way out is the same
            reason = f"the download failed: {type(error).__name__}: {error}"
    names = ", ".join(path.name for path in missing if not is_there(path))
    if names:
        raise DataError(message(names, reason))


@passes_on_to(EventDataModule)
class DownloadedData(EventDataModule):
    """The parent of data modules that read files, and download those that are missing.

    Args:
        root: folder that has, or gets, the files of the data set. It may be read-only if the files are there.
        download: get missing files from the network.
        cache_dir: folder for prepared data and for the lock of their preparation; null for $SS_LIGHTNING_CACHE or the
            user's cache folder.

    Raises:
        UsageError: an argument is out of range.
    """

    def __init__(self, root: str = "data", download: bool = True, cache_dir: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.root = root
        self.download = download
        self.cache_dir = cache_dir

    @property
    def root_path(self) -> Path:
        """The folder ``root``."""
        return Path(self.root).expanduser()

    def preparation_lock(self, folder: Path) -> Any:
        """The lock for preparing the files of ``folder``, see :func:`~ss_lightning.data.cache.preparation_lock`."""
        return preparation_lock(cache_folder(self.cache_dir), folder)

    def stores_from_files(
        self,
        folder: Path,
        sources: Mapping[str, Path],
        fetch: Callable[[Path], None],
        build: Callable[[Path], Iterable[EventStore]],
        settings: tuple,
    ) -> dict[str, EventStore]:
        """The stores made from files: out of the cache where possible, after the download of missing files.

        Args:
            folder: the folder of all the files.
            sources: the source file of each store, or the folder of its files.
            fetch: downloads a source if it is missing.
            build: makes the parts of a store from its source.
            settings: what else the stores depend on.
        """
        with self.preparation_lock(folder) as writable:
            for source in sources.values():
                fetch(source)
            return cached_stores(cache_folder(self.cache_dir), sources, build, writable=writable, settings=settings)

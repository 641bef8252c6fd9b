"""Where the recordings of a folder are, and what their paths say: class, group (such as the speaker) and part.

Layouts that are known without a word, the first that fits::

    <root>/{train,val,test}/<class>/**/<recording>
    <root>/{train,val,test}/<class>_<speaker>_<index>.<suffix>
    <root>/<class>/**/<recording>              beside validation_list.txt and testing_list.txt (Speech Commands)
    <root>/<class>/**/<recording>
    <root>/<class>_<speaker>_<index>.<suffix>  as in the Free Spoken Digit Dataset

A regular expression with named groups says what else a path holds.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ss_lightning.data.validation import refuse_broken_link
from ss_lightning.errors import DataError, UsageError

PARTS = ("train", "val", "test")
_PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Files with the paths of the recordings of a part, as Speech Commands has them.
_LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}
_FLAT = re.compile(r"(?P<class>[^_]+)_(?P<speaker>[^_]+)_\d+")
_SPEECH_COMMANDS = re.compile(r"(?P<speaker>[0-9a-f]+)_nohash_\d+")
_MEANINGS = ("class", "speaker", "group", "split")

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SOUND_SUFFIXES = (".flac", ".ogg", ".wav")
EVENT_SUFFIXES = (".aedat", ".aedat4", ".bin", ".csv", ".dat", ".h5", ".hdf5", ".npy", ".npz", ".parquet", ".raw")
_USED_BY = {"ImageFolderData": IMAGE_SUFFIXES, "AudioFolderData": SOUND_SUFFIXES, "EventFolderData": EVENT_SUFFIXES}


class Found(NamedTuple):
    """A recording.

    Attributes:
        path: from the root on, with ``/`` between the folders.
        label: name of its class.
        group: name of its speaker or other group, or None.
        part: "train", "val" or "test"; "" where the folder does not say.
    """

    path: str
    label: str
    group: str | None
    part: str


class _Entry(NamedTuple):
    path: str
    state: tuple[int, int, int]


@dataclass(frozen=True)
class Listing:
    """The recordings of a folder, in the order of their paths.

    Attributes:
        root: the folder.
        found: the recordings.
        states: what changes when a file changes, for each of them.
    """

    root: Path
    found: list[Found]
    states: list[tuple[int, int, int]]

    def paths(self) -> list[Path]:
        """The files."""
        return [self.root / found.path for found in self.found]

    def parts(self) -> set[str]:
        """The parts that there are recordings of."""
        return {found.part for found in self.found}

    def class_names(self) -> tuple[str, ...]:
        """All classes: numbers in their order, other names in that of the alphabet."""
        return ordered({found.label for found in self.found})

    def group_names(self) -> tuple[str, ...]:
        """All groups, likewise; empty if the paths tell of none."""
        return ordered({found.group for found in self.found if found.group is not None})


def ordered(names: Collection[str]) -> tuple[str, ...]:
    """Names in order: numbers by their value if all are numbers, else by the alphabet."""
    numbers = all(re.fullmatch(r"\d{1,9}", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))


def checked_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """A regular expression that says what the paths mean.

    Raises:
        UsageError: it is none, or names none of ``class``, ``speaker``, ``group`` and ``split``.
    """
    if pattern is None:
        return None
    how = r"expected a regular expression such as (?P<class>[^/]+)/(?P<speaker>[^_]+)_"
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UsageError(f"pattern is {pattern!r}, which cannot be read ({error}); {how}") from error
    unknown = sorted(set(compiled.groupindex) - set(_MEANINGS))
    if unknown or not compiled.groupindex:
        found = f"names {', '.join(unknown)}" if unknown else "names no part of the path"
        raise UsageError(f"pattern is {pattern!r}, which {found}; {how}, with the names {', '.join(_MEANINGS)}")
    if {"speaker", "group"} <= set(compiled.groupindex):
        raise UsageError(f"pattern is {pattern!r}; speaker and group mean the same, so name one of them")
    return compiled


def list_recordings(
    root: Path, suffixes: Sequence[str], pattern: re.Pattern[str] | None, user: str, skip_broken: bool = False
) -> Listing:
    """All recordings below a folder.

    Args:
        root: the folder.
        suffixes: of the files, in small letters.
        pattern: says what the paths mean, see :func:`checked_pattern`; what it does not name follows from the layout.
        user: the class that asks, for messages.
        skip_broken: list links that lead to no file as well: they are left out with what cannot be read.

    Raises:
        DataError: there are none, a class has none, one has two files, the folder has another layout, or a folder or
            link in it leads nowhere.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "is missing"
        raise DataError(f"{root}: {what}; expected a folder of recordings. Set data.root.")
    folders: list[str] = []
    entries = sorted(_walk(root, "", folders, skip_broken))
    lists = _read_lists(root, {entry.path for entry in entries})
    if lists is not None:
        # What stands in no class, such as background noise, is no recording of one.
        entries = [entry for entry in entries if not entry.path.startswith("_")]
    mine = [entry for entry in entries if _suffix(entry.path) in suffixes]
    if not mine:
        raise DataError(_nothing_here(root, [entry.path for entry in entries], suffixes, user))
    paths = [entry.path for entry in mine]
    _refuse_twins(root, paths)
    by_part = lists is None and _has_part_folders(root, paths, pattern)
    meanings = [_meaning(path, by_part, pattern) for path in paths]
    if unclear := [path for path, meaning in zip(paths, meanings, strict=True) if meaning is None]:
        raise DataError(_unclear(root, unclear, pattern))
    found = [meaning for meaning in meanings if meaning is not None]
    if lists is not None:
        found = [one._replace(part=lists.get(one.path, "train")) for one in found]
    if pattern is None or "class" not in pattern.groupindex:
        _refuse_empty_classes(root, folders, found, by_part, suffixes)
        if not by_part and lists is None:
            _refuse_parts_below_a_class(root, folders)
    _refuse_missing_classes(root, found)
    return Listing(root, found, [entry.state for entry in mine])


def _walk(root: Path, inside: str, folders: list[str], skip_broken: bool) -> Iterator[_Entry]:
    """All files below a folder; those that a system puts there are passed over, and pipes. Notes the folders."""
    try:
        content = os.scandir(root / inside)
    except OSError as error:
        raise DataError(
            f"{root / inside}: this folder cannot be read ({error.strerror}). Allow it (chmod), or move it away."
        ) from error
    with content:
        for entry in content:
            if entry.name.startswith(".") or entry.name in ("__MACOSX", "Thumbs.db"):
                continue
            path = f"{inside}/{entry.name}" if inside else entry.name
            is_folder = entry.is_dir()
            if entry.is_symlink() and (is_folder or not skip_broken):
                refuse_broken_link(Path(entry.path))
            if is_folder:
                folders.append(path)
                yield from _walk(root, path, folders, skip_broken)
            elif entry.is_file():
                status = entry.stat()
                # Copying tools set the modification time back, but not the other one.
                yield _Entry(path, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))
            elif entry.is_symlink():
                yield _Entry(path, (0, 0, 0))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _nothing_here(root: Path, paths: Sequence[str], suffixes: Sequence[str], user: str) -> str:
    """What to say of a folder without any recording of ours: perhaps it is for another class."""
    kinds = Counter(_suffix(path) for path in paths)
    text = f"{root}: no recordings ({', '.join(suffixes)}) in this folder or below it"
    names = {os.path.basename(path) for path in paths}
    for other, telling in (
        ("SHDData", {"shd_train.h5", "shd_test.h5"}),
        ("CIFAR10Data", {"data_batch_1", "test_batch"}),
        ("MNISTData or FashionMNISTData", {"train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"}),
    ):
        if names & telling:
            return f"{text}, but {sorted(names & telling)[0]}. Use ss_lightning.data.{other}"
    for other, theirs in _USED_BY.items():
        if other != user and (number := sum(kinds[suffix] for suffix in theirs)):
            like = other.removesuffix("Data")
            example = next(path for path in paths if _suffix(path) in theirs)
            return (
                f"{text}, but {number:,} files such as {example}: this looks like an {like}; use "
                f"--data ss_lightning.data.{other}"
            )
    if not paths:
        return f"{text}: it is empty. Set data.root to the folder that has them"
    counts = ", ".join(f"{number:,} of {suffix or 'no suffix'}" for suffix, number in kinds.most_common(5))
    return f"{text}; found {counts}. Convert them, or set data.root to another folder"


def _read_lists(root: Path, paths: Collection[str]) -> dict[str, str] | None:
    """The part of each path that a list names; None if there is no list.

    Raises:
        DataError: a list names none of the files, which would all be trained on.
    """
    lists = {name: root / name for name in _LISTS if (root / name).is_file()}
    parts: dict[str, str] = {}
    for name, path in lists.items():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.strip().replace("\\", "/").removeprefix("./") for line in lines if line.strip()]
        if named and not any(line in paths for line in named):
            raise DataError(
                f"{path}: none of its {len(named):,} paths is a file here, such as {named[0]}; expected "
                "<class>/<recording>. Correct the list, or remove it."
            )
        parts |= dict.fromkeys(named, _LISTS[name])
    return parts if lists else None


def _has_part_folders(root: Path, paths: Sequence[str], pattern: re.Pattern[str] | None) -> bool:
    """Whether the folders at the top are those of train, val and test.

    Raises:
        DataError: some are, others are not, or there is none to train on.
    """
    if pattern is not None and "split" in pattern.groupindex:
        return False
    tops = {path.partition("/")[0] for path in paths}
    named = {top for top in tops if top.lower() in _PART_NAMES and (root / top).is_dir()}
    if not named or (len(named) == 1 and tops != named and all(path.count("/") < 2 for path in paths)):
        return False  # a class may be called train
    parts = Counter(_PART_NAMES[top.lower()] for top in named)
    if (twice := [part for part, number in parts.items() if number > 1]) or tops != named:
        what = f"two folders for {twice[0]}" if twice else f"{sorted(tops - named)[0]} beside {sorted(named)[0]}"
        raise DataError(
            f"{root}: {what}; expected at the top train, val and test (val and test may be missing), or the classes. "
            "Take out what does not belong there."
        )
    if "train" not in parts:
        raise DataError(
            f"{root}: {', '.join(sorted(named))} but no train; expected train, val and test (val and test may be "
            "missing), or the classes themselves. Set data.root to the folder that has train."
        )
    return True


def _meaning(path: str, by_part: bool, pattern: re.Pattern[str] | None) -> Found | None:
    """What a path says; None if it does not say the class."""
    *folders, name = path.split("/")
    stem = os.path.splitext(name)[0]
    part = _PART_NAMES[folders.pop(0).lower()] if by_part else ""
    label, group = folders[0] if folders else None, None
    if pattern is not None:
        match = pattern.search(path)
        said = {} if match is None else match.groupdict()
        if any(said.get(name) is None for name in pattern.groupindex):
            return None
        label = said.get("class", label)
        group = said.get("speaker", said.get("group"))
        part = said.get("split", part)
        if "split" in said:
            if part.lower() not in _PART_NAMES:
                return None
            part = _PART_NAMES[part.lower()]
    elif label is None:
        match = _FLAT.fullmatch(stem)
        label, group = (None, None) if match is None else (match["class"], match["speaker"])
    elif (match := _SPEECH_COMMANDS.fullmatch(stem)) is not None:
        group = match["speaker"]
    return None if label is None else Found(path, label, group, part)


def _unclear(root: Path, paths: Sequence[str], pattern: re.Pattern[str] | None) -> str:
    more = f" ({len(paths):,} such files)" if len(paths) > 1 else ""
    if pattern is not None:
        names = ", ".join(pattern.groupindex)
        return (
            f"{root / paths[0]}: data.pattern {pattern.pattern} does not find {names} in {paths[0]}{more}. Correct "
            "the pattern, or take the file out."
        )
    return (
        f"{root / paths[0]}: lies in no folder of a class{more}; expected <class>/<recording>, "
        "<part>/<class>/<recording> with a part train, val or test, or the name <class>_<speaker>_<index>. Say what "
        "the paths mean with data.pattern, such as '(?P<class>[^_]+)_(?P<speaker>[^_.]+)'."
    )


def _refuse_twins(root: Path, paths: Sequence[str]) -> None:
    """Two files of one name but for the suffix hold the same recording, as a rule."""
    seen: dict[str, str] = {}
    for path in paths:
        stem = os.path.splitext(path)[0]
        if stem in seen:
            raise DataError(
                f"{root / path}: two recordings of one name, {os.path.basename(seen[stem])} and "
                f"{os.path.basename(path)}; expected each recording once. Remove or rename one of them."
            )
        seen[stem] = path


def _refuse_empty_classes(
    root: Path, folders: Sequence[str], found: Sequence[Found], by_part: bool, suffixes: Sequence[str]
) -> None:
    depth = 2 if by_part else 1
    filled = {"/".join(path.split("/")[:depth]) for path, *_ in found if path.count("/") >= depth}
    if not filled:
        return  # the names say the class, not the folders
    tops = {path.partition("/")[0] for path, *_ in found}
    for folder in sorted(folders):
        of_a_class = folder.count("/") == depth - 1 and (not by_part or folder.partition("/")[0] in tops)
        if of_a_class and folder not in filled and not folder.startswith("_"):
            raise DataError(
                f"{root / folder}: no recordings of the class {folder.rpartition('/')[2]} "
                f"({', '.join(suffixes)}). Put some there, or remove the folder."
            )


def _refuse_parts_below_a_class(root: Path, folders: Sequence[str]) -> None:
    """A folder that holds train, val and test is no class, if it is the only one."""
    tops = [folder for folder in folders if "/" not in folder]
    inside = sorted(folder.partition("/")[2] for folder in folders if folder.count("/") == 1)
    if len(tops) == 1 and any(_PART_NAMES.get(name.lower()) == "train" for name in inside):
        raise DataError(
            f"{root}: its only folder is {tops[0]}, which has {', '.join(inside)}. Set data.root to {root / tops[0]}."
        )


def _refuse_missing_classes(root: Path, found: Sequence[Found]) -> None:
    to_train = {label for _, label, _, part in found if part in ("train", "")}
    for path, label, _, part in found:
        if label not in to_train:
            known = ordered(to_train)
            shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise DataError(
                f"{root / path}: class {label} is in {part} but not in train, whose classes are {shown}. Add "
                f"recordings of {label} to train, or take the class out of {part}."
            )

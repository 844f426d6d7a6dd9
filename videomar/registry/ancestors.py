"""The models that a version's weights come from: its parent, the parent's parent, and so on.

A training run that starts from weights keeps, beside them, the record of the model that they are from. When
its result is registered, that record becomes part of its evidence. So the lineage of a version is complete in
its own run, also after a parent was deleted:

    evidence/parents/01_3f0c2a9be1d4/    parent.json, and of the parent's own evidence: clips, checksums,
    evidence/parents/02_.../             parameters, dvc.lock, metrics; the nearest ancestor first
"""

import json
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import yaml

from videomar.config.layout import AVERAGED, SEEN, UNKNOWN, Layout
from videomar.files import write_json
from videomar.provenance.checkout import outputs_of
from videomar.provenance.made_with import BESIDE, content_sha256
from videomar.registry.evidence import (
    CLIP_COLUMNS,
    FILES,
    LINEAGE,
    Checksum,
    read_checksums,
    read_lineage,
    text_of,
)
from videomar.registry.versions import MODEL, Version, download_evidence

TRAIN_SPLIT = "train"
PARENTS = "parents"
"""Folder of the evidence with a folder for each ancestor."""
_ABOUT, _ORIGIN, _KEY = "parent.json", "origin.json", "train.start_from"
_COPIED = (
    *(LINEAGE, FILES, "params.yaml", "dvc.lock", "evaluation.json", "origin.json"),
    *("metrics/evaluate.json", "metrics/train.json"),
)
_DIGITS = 12


def kept_start(weights_sha256: str) -> Path:
    """Folder that keeps weights which runs start from; it need not exist."""
    run = Layout().training_run
    return run.with_name(f"{run.name}.start") / weights_sha256[:_DIGITS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ancestor:
    """A model that weights come from, as it was recorded when they were taken."""

    name: str
    """As `videomar version 3`, or the folder that it was taken from."""
    weights_sha256: str
    """Of the averaged weights that were taken."""
    version: str | None
    """Its number in the registry; None for a model that is not from this registry."""
    run_id: str | None
    training_run: str | None
    clips: pandas.DataFrame | None
    """Kept clips as in `Trace.clips`; None if what it was trained on is not known."""
    files: Sequence[Checksum]
    params: Mapping[str, Any]
    lock: str
    metrics: Mapping[str, float]
    """Of its evaluation when it was registered."""
    details: Mapping[str, Any]
    """evaluation.json of the same."""

    @property
    def raw_files(self) -> dict[str, str]:
        """sha256 of each raw file by its path; of the videos alone where no more was recorded."""
        return raw_files_of(self.files, self.clips)

    @property
    def trained_videos(self) -> dict[str, str]:
        """sha256 of each video that it was trained on, by its path."""
        return {} if self.clips is None else videos_of(self.clips[self.clips["split"] == TRAIN_SPLIT])

    def to_dict(self) -> dict[str, Any]:
        """The ancestor as plain values, ready for JSON."""
        saw = self.trained_videos
        return {
            "model": self.name,
            "version": self.version,
            "run_id": self.run_id,
            "training_run": self.training_run,
            "weights_sha256": self.weights_sha256,
            "params": dict(self.params),
            "outputs_md5": outputs_of(self.lock),
            "clips_known": self.clips is not None,
            "raw": [{"path": path, "sha256": sha256} for path, sha256 in self.raw_files.items()],
            "saw": sorted(saw),
        }


def read_ancestors(evidence: Path) -> list[Ancestor]:
    """Read the ancestors of a version from its evidence, the nearest first."""
    return [_read(about.parent) for about in sorted((evidence / PARENTS).glob(f"*/{_ABOUT}"))]


def write_ancestors(folder: Path, origin: Mapping[str, Any], evidence: Path | None) -> None:
    """Record a model that weights are taken from, and its own ancestors, in `folder/parents`.

    Args:
        folder: Where the weights are kept.
        origin: `name`, `weights_sha256` and, if known, `version`, `run_id`, `training_run`.
        evidence: Evidence of the model, with that of its ancestors; None = it has none.
    """
    digest = str(origin["weights_sha256"])[:_DIGITS]
    parent = folder / PARENTS / f"01_{digest}"
    parent.mkdir(parents=True)
    write_json(parent / _ABOUT, dict(origin))
    if evidence is None:
        return
    for name in _COPIED:
        if (evidence / name).is_file():
            (parent / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(evidence / name, parent / name)
    for before in sorted((evidence / PARENTS).glob("*/")):
        number, _, rest = before.name.partition("_")
        shutil.copytree(before, folder / PARENTS / f"{int(number) + 1:02d}_{rest}")


def copy_ancestors(made_with: Mapping[str, Any], evidence: Path) -> dict[str, str]:
    """Copy what `write_ancestors` recorded into the evidence of a version; return the version's tags.

    Args:
        made_with: Identity of its training run: `start` is the hash of the weights that it started from.
        evidence: Folder that becomes its evidence.
    """
    sha256 = made_with.get("start")
    if sha256 is None:
        return {}
    kept = kept_start(sha256) / PARENTS
    if kept.is_dir():
        shutil.copytree(kept, evidence / PARENTS)
    else:  # it was removed since; the run knows the model's name
        origin = {"name": "unknown weights", **made_with.get(BESIDE, {}).get("start", {})}
        write_ancestors(evidence, {**origin, "weights_sha256": sha256}, None)
    parent = read_ancestors(evidence)[0]
    return {
        "parent": parent.name,
        "parent_version": parent.version or "none",
        "parent_run": parent.run_id or "none",
        "parent_weights_sha256": parent.weights_sha256,
    }


def write_evidence_of_shipped(origin: Path, evidence: Path) -> None:
    """Write what stands beside the packaged model as evidence: metrics, and the clips that it was made from.

    Where there is no table of clips, each video is one, of unknown times; so are those of its own ancestors.
    """
    about = json.loads(origin.read_text("utf-8"))
    (evidence / "metrics").mkdir()
    write_json(evidence / "metrics/evaluate.json", about.get("metrics", {}))
    known = origin.with_name(LINEAGE)
    rows = read_lineage(known).to_dict("records") if known.is_file() else []
    rows += [
        {
            "video": row["path"],
            "video_sha256": row["sha256"],
            "split": TRAIN_SPLIT if row["path"] in set(model.get("saw", ())) else None,
        }
        for model in (*([] if rows else [about]), *about.get("parents", ()))
        for row in model.get("raw", ())
    ]
    if rows:
        clips = pandas.DataFrame(rows).reindex(columns=[*CLIP_COLUMNS, "key"])
        clips.to_parquet(evidence / LINEAGE, index=False)


def seen_parts(ancestors: Sequence[Ancestor]) -> dict[str, str]:
    """Seconds of each video that ancestors were trained on, by the video's sha256, as `held_out` reads it."""
    return parts_of_split([each.clips for each in ancestors if each.clips is not None], TRAIN_SPLIT)


def parts_of_split(tables: Sequence[pandas.DataFrame], split: str) -> dict[str, str]:
    """Seconds of each video that are in a split, by the video's sha256, as `describe_parts` writes them."""
    parts: dict[str, list[tuple[float, float]]] = {}
    for clips in tables:
        columns = clips[clips["split"] == split].dropna(subset=["video_sha256"])
        for sha256, start_s, end_s in columns[["video_sha256", "start_s", "end_s"]].itertuples(index=False):
            parts.setdefault(sha256, []).append((start_s, end_s))
    return {sha256: describe_parts(parts[sha256]) for sha256 in sorted(parts)}


def describe_parts(parts: Sequence[tuple[float, float]]) -> str:
    """Join parts of a video that overlap, and write them as `0.000-12.500 20.000-31.000`, in seconds.

    `all` if the times of one are not known.
    """
    if any(math.isnan(start_s) or math.isnan(end_s) for start_s, end_s in parts):
        return "all"
    joined: list[tuple[float, float]] = []
    for start_s, end_s in sorted(parts):
        if joined and start_s <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end_s, joined[-1][1])
        else:
            joined.append((start_s, end_s))
    return " ".join(f"{start_s:.3f}-{end_s:.3f}" for start_s, end_s in joined)


def trained_clips(
    judged: pandas.DataFrame, trained: Sequence[pandas.DataFrame], in_part: Collection[str]
) -> set[str]:
    """Ids of judged clips that are no held-out clips for models which were trained on others.

    Args:
        judged: Clips with `clip_id`, `video_sha256`, `start_s` and `end_s`.
        trained: The same of the clips that each model was trained on.
        in_part: Hashes of the videos of which a part is held out and another trained on today. A clip of them
            counts as seen if it overlaps with a clip that was trained on; one of another video, if any part
            of the video was.
    """
    parts: dict[str, list[tuple[float, float]]] = {}
    for clips in trained:
        for sha256, start_s, end_s in clips[["video_sha256", "start_s", "end_s"]].itertuples(index=False):
            parts.setdefault(sha256, []).append((start_s, end_s))
    found = {clip for clips in trained for clip in clips["clip_id"]} & set(judged["clip_id"])
    for clip in judged.itertuples():
        seen = parts.get(str(clip.video_sha256), [])
        if clip.video_sha256 in in_part:  # where an old record has no times, nobody can say that it was apart
            seen = [(start, end) for start, end in seen if not (start >= clip.end_s or end <= clip.start_s)]
        if seen:
            found.add(str(clip.clip_id))
    return found


def named_by(starts: Sequence[Path], with_tokenizer: bool) -> dict[str, dict[str, dict[str, str]]]:
    """Return what each stage depends on because of weights to start from, as `listing.write_named` takes it.

    The weights, their tokenizer, and what their models were trained on: videos by hash, and their seconds;
    never the name.

    Args:
        starts: Folders of `kept_start`.
        with_tokenizer: Whether their tokenizer is that of the latents.
    """
    if not starts:
        return {}
    ancestors = [ancestor for folder in starts for ancestor in read_ancestors(folder)]
    weights = [str(json.loads((folder / _ORIGIN).read_text("utf-8"))["weights_sha256"]) for folder in starts]
    named = {"train": {_KEY: {"weights": " ".join(sorted(weights))}}}
    tokenizers = [folder / "tokenizer" for folder in starts if (folder / "tokenizer").is_dir()]
    if with_tokenizer and tokenizers:
        named["train_tokenizer"] = {_KEY: {"tokenizer": content_sha256(tokenizers[0])}}
    unknown = {each.name: each.weights_sha256 for each in ancestors if each.clips is None}
    named["sample"] = {SEEN: seen_parts(ancestors), UNKNOWN: unknown}
    return named


def usage_by_ancestors(ancestors: Sequence[Ancestor], digest: str) -> dict[str, bool | None]:
    """Whether each ancestor was trained on a video, by name; None if its clips are not known."""
    return {
        ancestor.name: None if ancestor.clips is None else digest in ancestor.trained_videos.values()
        for ancestor in ancestors
    }


def version_by_weights(sha256: str, versions: Sequence[Version], into: Path) -> Version | None:
    """The oldest of these versions whose averaged weights have this hash.

    Args:
        sha256: Of `ema.safetensors`.
        versions: The oldest first.
        into: A temporary folder.
    """
    for version in versions:
        known = version.tags.get("weights_sha256")
        if known is None:  # registered before this tag was written
            files = download_evidence(version, into / version.number) / FILES
            rows = read_checksums(files) if files.is_file() else []
            known = next((row.sha256 for row in rows if row.path == AVERAGED), None)
        if known == sha256:
            return version
    return None


def origin_of(version: Version, sha256: str) -> dict[str, Any]:
    """What is recorded of a registered version that weights are taken from."""
    about = {"name": f"{MODEL} version {version.number}", "version": version.number, "run_id": version.run_id}
    training_run = version.tags.get("training_run", "none")
    return {**about, "training_run": training_run, "step": version.step, "weights_sha256": sha256}


def _read(folder: Path) -> Ancestor:
    about = json.loads((folder / _ABOUT).read_text("utf-8"))
    return Ancestor(
        name=about["name"],
        weights_sha256=about["weights_sha256"],
        version=about.get("version"),
        run_id=about.get("run_id"),
        training_run=about.get("training_run"),
        clips=read_lineage(folder / LINEAGE) if (folder / LINEAGE).is_file() else None,
        files=read_checksums(folder / FILES) if (folder / FILES).is_file() else [],
        params=yaml.safe_load(text_of(folder / "params.yaml")) or {},
        lock=text_of(folder / "dvc.lock"),
        metrics=json.loads(text_of(folder / "metrics/evaluate.json") or "{}"),
        details=json.loads(text_of(folder / "evaluation.json") or "{}"),
    )


def raw_files_of(files: Sequence[Checksum], clips: pandas.DataFrame | None) -> dict[str, str]:
    """sha256 of each raw file among recorded ones, by path; of the clips' videos if none were recorded."""
    if files or clips is None:
        return {row.path: row.sha256 for row in files if row.kind == "raw"}
    return videos_of(clips)


def videos_of(clips: pandas.DataFrame) -> dict[str, str]:
    """sha256 of the videos that clips are from, by path."""
    videos = clips.dropna(subset=["video_sha256"]).drop_duplicates("video")
    return dict(zip(videos["video"], videos["video_sha256"], strict=True))

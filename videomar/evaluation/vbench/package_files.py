"""Inputs of the public `vbench` package: clips, their pictures, a list of both, and the weights.

Source: vbench 0.1.5, vbench/__init__.py (build_full_info_json), vbench2_beta_i2v/utils.py
(load_i2v_dimension_info, init_submodules) and camera_motion.py (get_type). The package looks for PROMPT-0.mp4
to PROMPT-4.mp4, and for pictures below its working folder. No dimension of VBench-I2V reads the prompt except
camera motion, which takes it from the file name. So ids are used in place of prompts.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from videomar.evaluation.generated import Clip, ClipKinds
from videomar.evaluation.vbench.dimensions import DIMENSIONS
from videomar.files import sha256_of, write_json
from videomar.media.mp4 import write_mp4
from videomar.sampling.tasks import of_seed

CLIPS_PER_PICTURE = 5
"""The benchmark's own number; it ignores clips of further seeds."""
RESOLUTION = "1-1"
"""Name of the folder of pictures, whose size is that of the clips all the same."""
FULL_INFO, VIDEOS = "full_info.json", "videos"
CAMERA_MOTIONS = (
    *("camera pans left", "camera pans right", "camera tilts up", "camera tilts down"),
    *("camera zooms in", "camera zooms out", "camera static"),
)
_PICTURES = Path("vbench2_beta_i2v/data/crop") / RESOLUTION
HUB = "torch/hub"
"""The folder of `torch.hub`; also that of DreamSim, which looks for DINO beside its own files."""
_DINO = (f"{HUB}/facebookresearch_dino_main", f"{HUB}/checkpoints/dino_vitbase16_pretrain.pth")
WEIGHTS = {
    "camera_motion": (f"{HUB}/facebookresearch_co-tracker_main", f"{HUB}/checkpoints/cotracker2.pth"),
    "i2v_subject": _DINO,
    "i2v_background": (
        *_DINO,
        f"{HUB}/dino_vitb16_pretrain.pth",
        f"{HUB}/clip_vitb16_pretrain.pth.tar",
        f"{HUB}/open_clip_vitb16_pretrain.pth.tar",
        f"{HUB}/ensemble_lora",
    ),
    "subject_consistency": _DINO,
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "aesthetic_quality": (
        "clip_model/ViT-L-14.pt",
        "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    ),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
}
"""Files and folders that each dimension reads, below the folder of weights."""


def clips_to_judge(clips: Sequence[ClipKinds], num_seeds: int) -> list[list[Clip]]:
    """Clips generated from the first picture and the right prompt, by held-out clip and by seed."""
    kinds = [of_seed("image", seed) for seed in range(min(num_seeds, CLIPS_PER_PICTURE))]
    chosen = [[of_clip[kind] for kind in kinds if kind in of_clip] for of_clip in clips]
    return [made for made in chosen if made]


def write_inputs(clips: Sequence[ClipKinds], made: Sequence[Sequence[Clip]], folder: Path) -> dict[str, int]:
    """Write clips, pictures and their list below the package's working folder.

    Returns:
        Number of videos by dimension; 0 for camera motion if no prompt names one.
    """
    pictures, videos, entries = folder / _PICTURES, folder / VIDEOS, []
    pictures.mkdir(parents=True)
    videos.mkdir()
    truths = {of_clip["truth"].clip_id: of_clip["truth"].frames for of_clip in clips}
    videos_of = {dimension.key: 0 for dimension in DIMENSIONS}
    for of_clip in made:
        clip_id, prompt = of_clip[0].clip_id, of_clip[0].prompt
        camera = next((motion for motion in CAMERA_MOTIONS if motion in prompt.lower()), None)
        name = clip_id if camera is None else f"{clip_id}, {camera}"
        Image.fromarray(truths[clip_id][0]).save(pictures / f"{clip_id}.png")
        for number, clip in enumerate(of_clip):
            write_mp4(videos / f"{name}-{number}.mp4", clip.frames, clip.fps)
        dimensions = [key for key in videos_of if key != "camera_motion" or camera is not None]
        entries.append({"prompt_en": name, "image_name": f"{clip_id}.png", "dimension": dimensions})
        for key in dimensions:
            videos_of[key] += len(of_clip)
    write_json(folder / FULL_INFO, entries)
    return videos_of


def missing_weights(folder: Path, dimension: str) -> list[str]:
    """Files that the dimension reads and the folder of weights does not contain."""
    return [name for name in WEIGHTS[dimension] if not (folder / name).exists()]


def weights_sha256(folder: Path, dimensions: Sequence[str]) -> dict[str, str]:
    """Hash of each file or folder that these dimensions read."""
    names = sorted({name for dimension in dimensions for name in WEIGHTS[dimension]})
    return {name: _sha256(folder / name) for name in names}


def _sha256(path: Path) -> str:
    """Hash of a file, or of the names and bytes of a folder's files without compiled Python."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for part in sorted(part for part in path.rglob("*") if part.is_file() and part.suffix != ".pyc"):
        digest.update(str(part.relative_to(path)).encode() + _sha256(part).encode())
    return digest.hexdigest()

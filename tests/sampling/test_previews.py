import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.conftest import lively_model
from tests.support.fake_cuda import FakeCuda
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.latents.shards import write_shards
from videomar.media.probe import probe
from videomar.sampling.previews import CLIPS, FILM, SHEET, Previews


def write_val(folder, clips, split):
    generator = np.random.default_rng(0)
    row = {"text_key": "t", "shape": [4, 3, 2, 2], "dtype": "float16", "text_shape": [2, 6], "caption": ""}
    row |= {"group": "simulated", "split": split, "fps": 8.0, "motion": 1.0, "size_px": 16, "view": 0}
    rows = [
        row
        | {"clip_id": f"clip{number}", "key": f"key{number}"}
        | {"latents": generator.standard_normal((4, 3, 2, 2)).astype("float16").tobytes()}
        | {"text": generator.standard_normal((2, 6)).astype("float16").tobytes()}
        for number in range(clips)
    ]
    write_shards(folder, rows, 100)


@pytest.fixture
def previews(params, tmp_path):
    write_val(tmp_path / "latents", 6, "val")
    coder = CausalTokenizer(params.tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(coder, tmp_path / "tokenizer")
    sampling = dataclasses.replace(params.sample, num_unmask_steps=2, num_diffusion_steps=2)
    return Previews(
        latents=tmp_path / "latents",
        tokenizer=tmp_path / "tokenizer",
        max_text_tokens=5,
        sampling=sampling,
        fps=8.0,
    )


def test_preview_is_a_sheet_and_a_film_of_truth_and_model(previews, model, tmp_path):
    files = previews.write(model, tmp_path / "out")
    assert [file.name for file in files] == [SHEET, FILM]
    sheet = np.asarray(Image.open(tmp_path / "out" / SHEET))
    assert sheet.shape == (CLIPS * 2 * 16, 8 * 16, 3)
    rows = sheet.reshape(CLIPS, 2, 16, 8, 16, 3)
    # 9 frames: the first is given, and the tokenizer's second latent frame begins at frame 1.
    assert np.abs(rows[:, 0, :, 0].astype(int) - rows[:, 1, :, 0]).max() <= 1
    assert (rows[:, 0, :, 4] != rows[:, 1, :, 4]).any()
    film = probe(tmp_path / "out" / FILM)
    assert (film.width, film.height) == (CLIPS * 16, 2 * 16)


def test_preview_is_made_on_the_device_of_the_model(previews, params, tmp_path):
    with FakeCuda():
        files = previews.write(lively_model(params.model).to("cuda"), tmp_path / "out")
    assert np.asarray(Image.open(files[0])).shape == (CLIPS * 2 * 16, 8 * 16, 3)


def test_previews_differ_by_the_model_alone(previews, model, params, tmp_path):
    first, again = (previews.write(model, tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == again
    for carry in (0.0, 0.5):  # there are no pictures to carry anything from
        sampling = dataclasses.replace(previews.sampling, carry=carry)
        shown = dataclasses.replace(previews, sampling=sampling).write(model, tmp_path / f"carry {carry}")
        assert shown[0].read_bytes() == first
    other = lively_model(params.model)
    other.head.net.final.bias.data += 1
    assert previews.write(other, tmp_path / "c")[0].read_bytes() != first


def test_cache_without_held_out_clips_has_no_preview(previews, model, tmp_path):
    write_val(tmp_path / "train_only", 2, "train")
    assert dataclasses.replace(previews, latents=tmp_path / "train_only").write(model, tmp_path / "d") == []
    assert not (tmp_path / "d").exists()

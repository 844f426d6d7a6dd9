"""A tiny model learns one clip by heart. The picture of it: `python -m tests.training.test_overfit`."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import small_params
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, start_from_pca
from videomar.encoders.tokenizer import to_pictures, to_unit_range
from videomar.evaluation.generated import psnr_db, repeat_last
from videomar.model.objective import Clips
from videomar.model.videomar import VideoMAR
from videomar.sources.simulate import draw_scene, render
from videomar.training.optim import ema_decay_at, learning_rate_at, make_optimizer, update_ema

PICTURE = Path(__file__).parents[2] / "docs/images/overfit.png"
STEPS = 500


def overfit(objective, head):
    """A simulated clip, and what is made again from its first picture: (F, H, W, 3) each."""
    params = small_params()
    clip = render(draw_scene(np.random.default_rng(7)), 32)[None, :17]
    video = to_unit_range(torch.from_numpy(clip))
    coder = CausalTokenizer(dataclasses.replace(params.tokenizer, channels=24)).eval()
    start_from_pca(coder, video)
    latents = coder.encode(video)
    # The paper's head in the paper's form: of changes, whose tails are long, it learns less in these steps.
    form = {"residual": False, "feed_previous": False} if head == "ddpm" else {}
    shape = dataclasses.replace(params.model, head=head, head_width=96, **form)
    train = dataclasses.replace(
        params.train,
        curriculum=(dataclasses.replace(params.train.curriculum[-1], steps=STEPS),),
        objective=objective,
        learning_rate=4e-3,
        warmup_steps=50,
        cond_drop_prob=0.0,
    )
    model = VideoMAR(shape, 24, 1, 1).initialise(step_generator(0, -1))
    average, optimizer = VideoMAR(shape, 24, 1, 1), make_optimizer(model, train)
    average.load_state_dict(model.state_dict())
    nothing = torch.zeros(8, 1, 1), torch.zeros(8, 1, dtype=torch.bool)
    batch = Clips(latents.expand(8, -1, -1, -1, -1), *nothing)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, train)
        loss = model.loss(batch, train, step_generator(0, step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_ema(average, model, ema_decay_at(step, 0.97))
    steps = {"flow": 25, "ddpm": 100}[head]
    sampling = dataclasses.replace(
        params.sample, num_unmask_steps=2, num_diffusion_steps=steps, final_diffusion_steps=steps
    )
    alone = (part[:1] for part in nothing)
    again = average.eval().generate(latents[:, :, :1], 5, *alone, sampling, step_generator(0, 0))
    return clip[0], to_pictures(coder.decode(again))[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "head"), [("single_frame", "flow"), ("all_frames", "ddpm")])
def test_one_clip_learnt_by_heart_comes_back_above_30_db(objective, head, measured):
    clip, again = overfit(objective, head)
    assert psnr_db(clip[1:], repeat_last(clip, 1)[1:]) < 20
    error_db = -psnr_db(clip[1:], again[1:])
    measured(f"{objective}, {head}: one clip learnt by heart, decibels of error", error_db, -30.0)


if __name__ == "__main__":
    clip, again = overfit("all_frames", "flow")
    rows = [np.concatenate(list(frames[::2]), axis=1) for frames in (clip, again)]
    line = np.full((4, *rows[0].shape[1:]), 255, np.uint8)
    sheet = Image.fromarray(np.concatenate([rows[0], line, rows[1]]))
    sheet.resize((sheet.width * 3, sheet.height * 3), Image.Resampling.NEAREST).save(PICTURE)

from dataclasses import replace

from videomar.provenance.card import CardFacts, model_card

FACTS = CardFacts(
    name="videomar version 7",
    clips={("simulated", "train"): 20, ("real", "test"): 3},
    num_videos=5,
    credits="Film A: CC BY 3.0\n\nFilm B: CC0\n",
    training={"steps": "5600", "seconds": "657", "machine": "x86_64, 2 cores"},
    figures=[{"name": "gain | over repeat", "value": 7.656, "low": 7.1, "high": 8.2, "n": 64}],
    reasons=["Better: by far."],
    metrics={"sim_psnr_db": 26.3834},
    lineage={"git_commit": "abc"},
    registered=True,
)


def test_card_states_every_fact() -> None:
    card = model_card(FACTS)
    for text in (
        "# videomar version 7",
        "23 clips of 5 videos",
        "| simulated | train | 20 |",
        "- Film A: CC BY 3.0\n- Film B: CC0",
        "| seconds | 657 |",
        "| gain \\| over repeat | +7.66 dB | +7.10 to +8.20 | 64 |",
        "Gate: Better: by far.",
        "| sim_psnr_db | 26.3834 |",
        "## Limits",
        'load_model("models:/videomar@champion")',
        "| git_commit | abc |",
    ):
        assert text in card


def test_card_says_what_it_does_not_know() -> None:
    card = model_card(replace(FACTS, credits="", figures=(), reasons=(), training={}))
    assert "Not stated: the clips are the user's own" in card
    assert "No comparison with an interval yet." in card
    assert "Gate:" not in card
    assert "## Training" not in card

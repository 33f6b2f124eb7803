"""What objectives over views report has curves of its own, one line an objective, and is drawn once."""

from mmclip_eval.report.training.curves import chapters
from mmclip_eval.report.training.history import History

STEPS = (10, 20, 30)
SLIP = {
    "train/loss": (9.0, 8.0, 7.0),
    "train/main/loss": (4.0, 3.0, 2.0),
    "train/dino/loss": (5.0, 5.0, 5.0),
    "train/dino/teacher_entropy": (3.0, 2.0, 1.0),
    "train/dino/prototype_use": (0.9, 0.8, 0.7),
    "train/gradient_cosine/main/dino": (0.1, 0.2, -0.1),
    "train/gradient_norm/main": (1.0, 1.0, 1.0),
    "train/gradient_norm/dino": (2.0, 2.0, 2.0),
    "train/queue_agreement": (float("nan"), float("nan"), 0.9),
    "train/positive_similarity": (0.1, 0.2, 0.3),
    "health/pooled_raw_std": (1.0, 1.1, 1.2),
    "health/pooled_effective_rank": (10.0, 11.0, 12.0),
    "health/pooled_dimensions": (64.0, 64.0, 64.0),
    "health/dino/projected_raw_std": (0.5, 0.6, 0.7),
}


def drawn(figures: dict[str, tuple[float, ...]]) -> dict[str, str]:
    config = {
        "objective": {"type": "clip"},
        "global_batch_size": 64,
        "auxiliary": [{"objective": {"type": "dino", "prototypes": 64}}],
    }
    history = History(figures={name: (STEPS, values) for name, values in figures.items()}, config=config)
    return {chapter.anchor: " ".join(card.svg for card in chapter.cards) for chapter in chapters(history)}


def test_figures_of_objectives_have_a_chapter_with_a_line_for_each():
    found = drawn(SLIP)
    for words in (
        "Losses of the objectives",
        "Prototypes in use",
        "ln K: nothing is assigned",
        "main and dino",
        "clip",
    ):
        assert words in found["objectives"], words
    assert "teacher entropy" not in found["training"]
    assert "positive" not in found["objectives"]
    assert "progress" not in found


def test_points_that_are_no_numbers_are_left_out_of_the_queue_and_alone_draw_nothing():
    assert "Freshness of the queue" in drawn(SLIP)["objectives"]
    silent = {**SLIP, "train/queue_agreement": (float("nan"),) * 3}
    assert "Freshness of the queue" not in drawn(silent)["objectives"]


def test_health_of_features_is_drawn_together_and_their_dimensions_are_not():
    found = drawn(SLIP)["health"]
    assert found.count("Features: deviation") >= 1
    for words in ("pooled", "dino/projected", "Features: effective rank"):
        assert words in found, words
    assert "dimensions" not in found


def test_a_run_of_pairs_alone_has_no_such_chapter():
    assert set(drawn({"train/loss": (3.0, 2.0, 1.0), "train/logit_scale": (1.0, 2.0, 3.0)})) == {"training"}

"""The losses against their definition, one pair at a time, and against torch's and open_clip's own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, DistillClipLoss, SigLipLoss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmclip.batch import PairLabels
from mmclip.errors import UserError
from mmclip.ops.distill import distill
from mmclip.ops.infonce import infonce
from mmclip.ops.sigmoid import sigmoid
from mmclip.ops.tiles import tile_size

LOSSES: dict[str, Callable[..., Any]] = {"infonce": infonce, "sigmoid": sigmoid}
KINDS = ("diagonal", "positive", "ignored")
BY_PRODUCTS = ("top_1", "positive_similarity", "negative_similarity")


@dataclass
class Case:
    """Embeddings with labels of two factors: few captions, so that they repeat, and some pictures that come twice."""

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor
    labels: PairLabels

    def arguments(self, loss: str) -> tuple[Tensor, ...]:
        parameters = (self.scale,) if loss == "infonce" else (self.scale, self.bias)
        return self.image, self.text, *parameters

    def options(self, kind: str) -> dict[str, Any]:
        return {} if kind == "diagonal" else {"labels": self.labels, "duplicates": kind}


def case(images: int, texts: int | None = None, seed: int = 0, scale: float = 14.3, dtype=torch.float64) -> Case:
    torch.manual_seed(seed)
    texts = images if texts is None else texts
    rows = [F.normalize(torch.randn(n, 5, dtype=torch.float64), dim=1).to(dtype) for n in (images, texts)]
    bias = torch.tensor([-3.0], dtype=dtype)
    columns = [torch.stack([torch.arange(n) * 5 % 4, torch.arange(n) // 2 * 3 % 5 + 10], 1) for n in (images, texts)]
    if images != texts:  # images and texts without a partner
        columns = [torch.cat([columns[0], torch.tensor([[50, 50]])]), torch.cat([columns[1], torch.tensor([[60, 60]])])]
        columns = [column[1:] for column in columns]
    tensors = [tensor.requires_grad_() for tensor in (*rows, torch.tensor([scale], dtype=dtype), bias)]
    return Case(*tensors, PairLabels(*columns))


def kind_of_pair(given: Case, kind: str, i: int, j: int) -> str:
    agrees = any(a == b for a, b in zip(given.labels.image[i].tolist(), given.labels.text[j].tolist(), strict=True))
    if kind == "positive":
        return "positive" if agrees else "negative"
    if i == j:
        return "positive"
    return "ignored" if kind == "ignored" and agrees else "negative"


def table(given: Case, kind: str) -> list[list[tuple[str, Tensor]]]:
    """Kind and cosine of every pair."""
    return [
        [(kind_of_pair(given, kind, i, j), torch.dot(image, text)) for j, text in enumerate(given.text)]
        for i, image in enumerate(given.image)
    ]


def infonce_by_definition(given: Case, kind: str, smoothing: float) -> Tensor:
    pairs = table(given, kind)
    directions = []
    for lines in (pairs, [list(column) for column in zip(*pairs, strict=True)]):
        terms = []
        for line in lines:
            candidates = torch.stack([given.scale[0] * cosine for what, cosine in line if what != "ignored"])
            positives = [given.scale[0] * cosine for what, cosine in line if what == "positive"]
            if positives:
                target = (1 - smoothing) * torch.stack(positives).mean() + smoothing * candidates.mean()
                terms.append(torch.logsumexp(candidates, 0) - target)
        directions.append(torch.stack(terms).mean())
    return (directions[0] + directions[1]) / 2


def sigmoid_by_definition(given: Case, kind: str, smoothing: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for line in table(given, kind):
        for what, cosine in line:
            logit = (given.scale[0] * cosine + given.bias[0]) * (1 if what == "positive" else -1)
            right, wrong = torch.log1p(torch.exp(-logit)), torch.log1p(torch.exp(logit))
            total = total + (what != "ignored") * ((1 - smoothing / 2) * right + smoothing / 2 * wrong)
    return total / len(given.image)


DEFINITIONS = {"infonce": infonce_by_definition, "sigmoid": sigmoid_by_definition}


def close(first: Tensor, second: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True)


def same(first: Tensor, second: Tensor, inputs: tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    """Values and gradients, the error of a gradient in units of its largest entry."""
    assert first.item() == pytest.approx(second.item(), rel=tolerance, abs=tolerance * 1e-3)
    gradients = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (first, second))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= tolerance * max(b.abs().max(), 1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("implementation", ["reference", "tiled"])
def test_losses_equal_their_definition_one_pair_at_a_time(implementation: str, loss: str, kind: str, smoothing: float):
    given = case(7)
    options = {"label_smoothing": smoothing, "implementation": implementation, "tile": 3}
    found = LOSSES[loss](*given.arguments(loss), **given.options(kind), **options)
    same(found.loss, DEFINITIONS[loss](given, kind, smoothing), given.arguments(loss))
    pairs = table(given, kind)
    cosines = {what: [c for line in pairs for w, c in line if w == what] for what in ("positive", "negative")}
    close(found.positive_similarity, torch.stack(cosines["positive"]).mean().detach())
    close(found.negative_similarity, torch.stack(cosines["negative"]).mean().detach())
    best = [max((cosine, what) for what, cosine in line if what != "ignored")[1] for line in pairs]
    assert found.top_1.item() == pytest.approx(best.count("positive") / 7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("images", "texts"), [(6, 11), (13, 5)])
def test_several_captions_a_picture_and_rows_without_a_partner(loss: str, images: int, texts: int, smoothing: float):
    given = case(images, texts)
    assert any("positive" not in [what for what, _ in line] for line in table(given, "positive"))
    for implementation in ("reference", "tiled"):
        options = {"label_smoothing": smoothing, "implementation": implementation, "tile": 4}
        found = LOSSES[loss](*given.arguments(loss), **given.options("positive"), **options)
        same(found.loss, DEFINITIONS[loss](given, "positive", smoothing), given.arguments(loss))


@pytest.mark.parametrize(("rows", "tile"), [(1, 4), (2, 1), (9, 4), (8, 4), (5, 64), (33, 7), (300, None)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_tiles_of_any_size_give_the_reference(loss: str, kind: str, rows: int, tile: int | None):
    given = case(rows, seed=rows)
    call = partial(LOSSES[loss], *given.arguments(loss), **given.options(kind), label_smoothing=0.1)
    tiled, reference = call(tile=tile), call(implementation="reference")
    same(2 * tiled.loss, 2 * reference.loss, given.arguments(loss))
    for name in BY_PRODUCTS:
        close(getattr(tiled, name), getattr(reference, name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_tiles_agree_with_finite_differences(loss: str, kind: str):
    given = case(4)
    call = partial(LOSSES[loss], **given.options(kind), label_smoothing=0.1, tile=2)
    assert torch.autograd.gradcheck(lambda *inputs: call(*inputs).loss, given.arguments(loss))


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
def test_smoothing_and_several_positives_are_those_of_torchs_cross_entropy(implementation: str):
    given = case(9)
    options = {"label_smoothing": 0.3, "implementation": implementation, "tile": 4}
    logits = given.scale * given.image @ given.text.T
    own = torch.arange(9)
    expected = [F.cross_entropy(side, own, label_smoothing=0.3) for side in (logits, logits.T)]
    same(infonce(*given.arguments("infonce"), **options).loss, sum(expected) / 2, given.arguments("infonce"))
    mask = torch.tensor([[kind_of_pair(given, "positive", i, j) == "positive" for j in own] for i in own]).double()
    assert mask.sum() > 9
    targets = mask / mask.sum(1, keepdim=True), mask.T / mask.T.sum(1, keepdim=True)
    expected = [
        F.cross_entropy(side, target, label_smoothing=0.3)
        for side, target in zip((logits, logits.T), targets, strict=True)
    ]
    found = infonce(*given.arguments("infonce"), **given.options("positive"), **options)
    same(found.loss, sum(expected) / 2, given.arguments("infonce"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
def test_losses_equal_the_peers(dtype: torch.dtype, tolerance: float):
    given = case(300, scale=30.0, dtype=dtype)
    image, text, scale, bias = given.arguments("sigmoid")
    same(infonce(image, text, scale).loss, ClipLoss()(image, text, scale), (image, text, scale), tolerance)
    peer = SigLipLoss()(image, text, scale, bias)
    same(sigmoid(image, text, scale, bias).loss, peer, (image, text, scale, bias), tolerance)
    teacher = case(300, seed=1, scale=50.0, dtype=dtype).arguments("infonce")
    peer = DistillClipLoss()(image, text, scale, *(tensor.detach() for tensor in teacher))[1]
    same(distill(image, text, scale, *teacher), peer, (image, text, scale), tolerance)


@pytest.mark.parametrize(("images", "texts", "tile"), [(7, 7, 3), (6, 11, 4), (13, 5, 64), (1, 1, 1)])
def test_distillation_equals_its_definition_one_pair_at_a_time(images: int, texts: int, tile: int):
    given = case(images, texts)
    teacher = [torch.randn(n, 3, dtype=torch.float64) for n in (images, texts)]
    logits = [[given.scale[0] * torch.dot(x, y) for y in given.text] for x in given.image]
    taught = [[9 * torch.dot(x, y) for y in teacher[1]] for x in teacher[0]]
    total = torch.zeros((), dtype=torch.float64)
    for student, wise in ((logits, taught), (list(zip(*logits, strict=True)), list(zip(*taught, strict=True)))):
        for row, target in zip(student, wise, strict=True):
            probability = torch.stack(list(target)).softmax(0)
            whole = torch.logsumexp(torch.stack(list(row)), 0)
            total = total - sum(p * (s - whole) for p, s in zip(probability, row, strict=True)) / len(student) / 2
    inputs = given.arguments("infonce")
    for implementation in ("reference", "tiled"):
        options = {"implementation": implementation, "tile": tile}
        found = distill(*inputs, *teacher, torch.tensor(9.0, dtype=torch.float64), **options)
        same(found, total, inputs)
    if tile == 3:
        call = partial(distill, **options)
        scale = torch.tensor(9.0, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda *student: call(*student, *teacher, scale), inputs)


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
def test_a_scale_of_100_keeps_single_precision_where_a_fixed_maximum_underflows(implementation: str):
    """All cosines of the first row are near -1: exp(100 (cosine - 1)) is zero in single precision."""
    given = case(40, scale=100.0)
    with torch.no_grad():
        given.image[0] = -given.text.mean(0) / given.text.mean(0).norm()
        given.text.mul_(0.1).sub_(given.image[0])
        given.text.copy_(F.normalize(given.text, dim=1))
    assert (given.image[0] @ given.text.T).max() < -0.9
    single = [tensor.detach().float().requires_grad_() for tensor in given.arguments("infonce")]
    found = infonce(*single, implementation=implementation, tile=16).loss
    assert found.dtype == torch.float32
    expected = infonce_by_definition(given, "diagonal", 0.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    exact = torch.autograd.grad(expected, given.arguments("infonce"))
    for a, b in zip(torch.autograd.grad(found, single), exact, strict=True):
        close(a.double() / b.abs().max(), b / b.abs().max(), 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_embeddings_are_accumulated_in_single_precision(loss: str, dtype: torch.dtype):
    image, text, *parameters = (tensor.detach().float() for tensor in case(40, scale=100.0).arguments(loss))
    half = [tensor.to(dtype).requires_grad_() for tensor in (image, text)]
    single = [tensor.detach().float().requires_grad_() for tensor in half]
    found, expected = (LOSSES[loss](*inputs, *parameters, tile=16).loss for inputs in (half, single))
    assert (found.dtype, found.item()) == (torch.float32, expected.item())
    for a, b in zip(torch.autograd.grad(found, half), torch.autograd.grad(expected, single), strict=True):
        assert torch.equal(a, b.to(dtype))


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
@pytest.mark.parametrize("loss", [*LOSSES, "distill"])
def test_losses_are_computed_in_single_precision_under_autocast(loss: str, implementation: str):
    given = case(7, scale=100.0, dtype=torch.float32)
    inputs, options = given.arguments(loss), {"implementation": implementation}

    def value() -> Tensor:
        if loss == "distill":
            return distill(*inputs[:3], *(tensor.flip(0) for tensor in inputs[:3]), **options)
        return LOSSES[loss](*inputs, **options).loss

    outside = value()
    expected = torch.autograd.grad(outside, inputs[:3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value()
        # Autograd's own backward follows the mode it is called in; ours does not.
        found = torch.autograd.grad(inside, inputs[:3]) if implementation == "tiled" else None
    found = found or torch.autograd.grad(inside, inputs[:3])
    assert (inside.dtype, inside.item()) == (torch.float32, outside.item())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation inside makes or writes to."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [*LOSSES, "distill"])
def test_memory_grows_with_the_batch_and_the_tile_and_never_with_the_square_of_the_batch(loss: str, kind: str):
    if loss == "distill" and kind != "diagonal":
        return
    largest = {}
    for implementation in ("reference", "tiled"):
        for rows in (256, 512):
            given = case(rows)
            inputs, options = given.arguments(loss), {"implementation": implementation, "tile": 32}
            with LargestTensor() as seen:
                if loss == "distill":
                    distill(*inputs[:3], *(tensor.flip(0) for tensor in inputs[:3]), **options).backward()
                else:
                    LOSSES[loss](*inputs, **given.options(kind), label_smoothing=0.1, **options).loss.backward()
            largest[implementation, rows] = seen.elements
    assert [largest["reference", rows] for rows in (256, 512)] == [256**2, 512**2]  # the count sees what there is
    assert all(largest["tiled", rows] <= 5 * rows for rows in (256, 512))  # five numbers a row: the embeddings


def test_default_tiles_fill_the_budget_of_their_device():
    assert tile_size(torch.float32, torch.device("cpu")) == 512
    assert tile_size(torch.float64, torch.device("cpu")) == 256
    assert tile_size(torch.float32, torch.device("cuda")) == 8192
    assert tile_size(torch.float32, torch.device("cpu"), 100) == 100


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
@pytest.mark.parametrize("loss", LOSSES)
def test_top_1_counts_images_whose_own_caption_is_nearest_and_no_ties(loss: str, implementation: str):
    image = torch.eye(4)
    scale, bias = torch.tensor([10.0]), torch.tensor([-10.0])
    parameters = (scale,) if loss == "infonce" else (scale, bias)
    for text, right in ((torch.eye(4)[[0, 1, 3, 2]], 0.5), (torch.eye(4)[[0, 1, 2, 2]], 0.5), (torch.ones(4, 4), 0)):
        assert LOSSES[loss](image, text, *parameters, implementation=implementation, tile=3).top_1.item() == right
    twice = PairLabels(torch.tensor([[0], [1], [2], [2]]), torch.tensor([[0], [1], [2], [2]]))
    text = torch.eye(4)[[0, 1, 2, 2]]
    for duplicates, right in (("positive", 0.75), ("ignored", 0.75)):  # image 3 is like no text
        options = {"labels": twice, "duplicates": duplicates, "implementation": implementation, "tile": 3}
        assert LOSSES[loss](image, text, *parameters, **options).top_1.item() == right


@pytest.mark.parametrize("loss", LOSSES)
def test_hashes_serve_as_labels(loss: str):
    given = case(12)
    table_of_hashes = torch.randint(-(2**63), 2**63 - 1, (16,))
    hashed = PairLabels(table_of_hashes[given.labels.image], table_of_hashes[given.labels.text])
    call = partial(LOSSES[loss], *given.arguments(loss), tile=5)
    for kind in ("positive", "ignored"):
        close(call(labels=hashed, duplicates=kind).loss, call(labels=given.labels, duplicates=kind).loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_second_backward_through_a_kept_graph_gives_the_same_gradients(loss: str):
    given = case(9)
    inputs = given.arguments(loss)
    found = LOSSES[loss](*inputs, tile=4).loss
    first, second = (torch.autograd.grad(found, inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (1, 2)])
def test_what_is_locked_gets_no_gradient_and_the_rest_keeps_its_own(loss: str, trained: tuple[int, ...]):
    given = case(9)
    inputs = given.arguments(loss)
    expected = torch.autograd.grad(LOSSES[loss](*inputs).loss, inputs)
    locked = [tensor.detach().requires_grad_(number in trained) for number, tensor in enumerate(inputs)]
    LOSSES[loss](*locked, tile=4).loss.backward()
    for number, tensor in enumerate(locked):
        assert (tensor.grad is not None) == (number in trained)
        if tensor.grad is not None:
            close(tensor.grad, expected[number])


def test_what_does_not_fit_is_refused_by_name():
    given = case(4, 6)
    with pytest.raises(UserError, match="4 images and 6 texts"):
        infonce(*given.arguments("infonce"))
    with pytest.raises(UserError, match="duplicates='positive'"):
        sigmoid(*given.arguments("sigmoid"), labels=given.labels, duplicates="ignored")
    with pytest.raises(UserError, match=r"shapes \(4, 2\) and \(4, 2\).* 6 texts"):
        infonce(*given.arguments("infonce"), labels=PairLabels(given.labels.image, given.labels.image))
    with pytest.raises(UserError, match=r"label_smoothing=1\.5"):
        infonce(*case(4).arguments("infonce"), label_smoothing=1.5)
    with pytest.raises(UserError, match="the teacher 4 and 5"):
        distill(*case(4).arguments("infonce"), *case(4, 5).arguments("infonce"))

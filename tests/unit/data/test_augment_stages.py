import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image

from mmclip.ops import pixels as ops
from mmclip.preprocess import ImageSpec
from mmclip.randomness import Stream, uniform, uniform_of_keys
from mmclip_data.loading.augment import (
    LUMA,
    AugmentConfig,
    View,
    ViewConfig,
    augment,
    augment_batch,
    fill_view,
    views_of,
)
from mmclip_data.loading.decode import PillowPicture

SPEC = ImageSpec(size=(24, 20))
EVERYTHING = AugmentConfig(
    crop_area=(0.3, 0.9),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    grayscale=0.3,
    hue=0.2,
    blur=0.5,
    solarise=0.4,
)


def noise(batch: int = 6, height: int = 24, width: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (batch, 3, height, width), dtype=np.uint8))


def picture(width: int = 90, height: int = 70) -> Image.Image:
    low = np.random.default_rng(5).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC)


def each(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images]


def test_recolouring_equals_pillows_matrix_to_the_last_bit():
    images, rng = noise(), np.random.default_rng(1)
    affine = rng.normal(0, 0.6, (6, 3, 4)) + np.eye(3, 4)
    affine[:, :, 3] *= 100
    got = ops.recolour(images, torch.from_numpy(affine).float())
    for image, matrix, result in zip(each(images), affine, got, strict=True):
        expected = np.asarray(image.convert("RGB", tuple(matrix.ravel().tolist())))
        assert np.array_equal(result.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(24, 20), (1, 7), (224, 224), (31, 333)])
def test_mean_colour_is_pillows_one_pixel(size: tuple[int, int]):
    images = noise(3, *size)
    for image, mean in zip(each(images), ops.mean_colour(images).tolist(), strict=True):
        assert image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) == tuple(mean)


@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.0, 0.05, 0.33, 0.5])
def test_hue_turns_as_in_torchvision(turn: float):
    images = torch.cat([noise(2), noise(1) // 255 * 255, noise(1)[:, :1].expand(1, 3, 24, 20)])
    got = ops.shift_hue(images, torch.full((4,), turn))
    expected = tv.adjust_hue(images, turn)
    difference = (got.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.51, "torchvision cuts where this rounds"


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions(sigma: float):
    images = noise()
    got = ops.blur(images, torch.ones(6, dtype=torch.bool), torch.full((6,), sigma), radius=6)
    expected = tv.gaussian_blur(images, [13, 13], [sigma, sigma])
    assert (got.int() - expected.int()).abs().max() <= 1


def test_blur_keeps_a_flat_picture_flat():
    images = torch.full((2, 3, 30, 30), 137, dtype=torch.uint8)
    assert torch.equal(ops.blur(images, torch.tensor([True, True]), torch.tensor([0.1, 2.0]), 6), images)


@pytest.mark.parametrize("threshold", [0, 128, 255])
def test_solarising_is_torchvisions(threshold: int):
    images = noise()
    got = ops.solarise(images, torch.ones(6, dtype=torch.bool), threshold)
    assert torch.equal(got, tv.solarize(images, threshold))


def test_only_the_chosen_pictures_change():
    images, chosen = noise(), torch.tensor([True, False, True, False, False, True])
    sigma = torch.full((6,), 1.0)
    for result in (ops.flip(images, chosen), ops.solarise(images, chosen, 100), ops.blur(images, chosen, sigma, 3)):
        same = [torch.equal(a, b) for a, b in zip(result, images, strict=True)]
        assert same == (~chosen).tolist()


def test_draws_of_many_keys_are_those_of_each():
    keys = np.array([0, 1, 12345, 2**62 + 17, 2**63 - 1], dtype=np.uint64)
    for stream, count, view in ((Stream.FLIP, 1, 0), (Stream.COLOUR, 4, 1), (Stream.CROP, 9, 7)):
        got = uniform_of_keys(keys, stream, count, view)
        expected = [uniform(int(key), stream, 0, count, view) for key in keys]
        assert np.array_equal(got, np.stack(expected))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batch_on_a_device_equals_each_sample_alone(device: str):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    images, keys = noise(40), torch.arange(40) * 7_919 + 2**61
    together = augment_batch(images.to(device), keys, EVERYTHING).cpu()
    alone = [augment_batch(images[i : i + 1], keys[i : i + 1], EVERYTHING)[0] for i in range(40)]
    assert torch.equal(together, torch.stack(alone))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment_batch(images[order], keys[order], EVERYTHING), together[order])
    assert not torch.equal(augment_batch(images, keys, EVERYTHING, view=1), together)


def test_device_and_loader_do_the_same_to_equal_draws():
    """The loader draws from (seed, position), a device from the key: with key as seed at position 0 they must agree."""
    crop_only = AugmentConfig(crop_area=EVERYTHING.crop_area)
    for key in (3, 99, 12345678901):
        plain = augment(picture(), SPEC, crop_only, key, 0)
        expected = augment(picture(), SPEC, EVERYTHING, key, 0)
        assert torch.equal(augment_batch(plain[None], torch.tensor([key]), EVERYTHING)[0], expected)


@pytest.mark.parametrize(
    "purpose", ["flip", "brightness", "contrast", "saturation", "grayscale", "hue", "blur", "solarise"]
)
def test_a_purpose_moves_no_other(purpose: str):
    """A purpose that draws but changes nothing leaves every other draw where it was."""
    settings = {field: getattr(EVERYTHING, field) for field in EVERYTHING.__dataclass_fields__}
    without, idle = AugmentConfig(**{**settings, purpose: 0.0}), AugmentConfig(**{**settings, purpose: 1e-12})
    for position in range(12):
        expected = augment(picture(), SPEC, without, 0, position)
        assert torch.equal(augment(picture(), SPEC, idle, 0, position), expected)


def test_a_view_depends_on_its_number_alone():
    first, second = AugmentConfig(crop_area=(0.3, 1.0)), EVERYTHING
    few = views_of(SPEC, first, (ViewConfig(augment=second),))
    many = views_of(SPEC, first, (ViewConfig(augment=second), ViewConfig(copies=3, size=8)))
    assert [(view.number, view.size) for view in many] == [
        (0, (24, 20)),
        (1, (24, 20)),
        *((n, (8, 8)) for n in (2, 3, 4)),
    ]
    assert many[:2] == few
    assert np.array_equal(made(few[1]), made(many[1]))
    assert not np.array_equal(made(many[2]), made(many[3]))
    assert np.array_equal(made(many[0]), augment(picture(), SPEC, first, 0, 5).permute(1, 2, 0).numpy())


def made(view: View) -> np.ndarray:
    out = np.zeros((*view.size, 3), np.uint8)
    fill_view(out, PillowPicture(picture()), SPEC, view, 0, 5)
    return out


def test_jitter_through_the_config_equals_the_maths_of_pillow():
    """The whole chain, written out with Pillow: crop, matrix from the drawn factors, rounding."""
    config = AugmentConfig(crop_area=(0.5, 1.0), brightness=0.4, contrast=0.3, saturation=0.5, grayscale=0.3)
    for position in range(30):
        view = augment(picture(), SPEC, AugmentConfig(crop_area=(0.5, 1.0)), 1, position)
        image = Image.fromarray(view.permute(1, 2, 0).contiguous().numpy())
        draws = uniform(1, Stream.COLOUR, position, 4)
        bright, contrast, saturation = 1 + np.array([0.4, 0.3, 0.5]) * (2 * draws[:3] - 1)
        saturation = 0.0 if draws[3] < 0.3 else saturation
        channels = bright * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
        mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        pivot = bright * (1 - contrast) * float(LUMA @ np.array(mean))
        matrix = np.column_stack([channels, np.full(3, pivot)]).ravel()
        expected = np.asarray(image.convert("RGB", tuple(matrix.tolist())))
        got = augment(picture(), SPEC, config, 1, position)
        assert np.array_equal(got.permute(1, 2, 0).numpy(), expected)


def test_a_probability_of_colour_moves_no_other_draw():
    """Each picture is either what it is with colour or what it is without, and the share is the probability."""
    always = AugmentConfig(**{**vars(EVERYTHING), "colour": 1.0})
    never = AugmentConfig(**{**vars(EVERYTHING), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0})
    sometimes = AugmentConfig(**{**vars(EVERYTHING), "colour": 0.3})
    coloured = 0
    for position in range(200, 400):
        applies = uniform(0, Stream.COLOUR_CHANCE, position, 1)[0] < 0.3
        expected = augment(picture(), SPEC, always if applies else never, 0, position)
        assert torch.equal(augment(picture(), SPEC, sometimes, 0, position), expected)
        coloured += applies
    assert 40 < coloured < 80


def test_a_blur_follows_the_side_of_the_view():
    """At half the side that it is meant for, it is half as wide."""
    crop = {"crop_area": (0.5, 1.0), "blur": 1.0}
    follows = AugmentConfig(**crop, blur_sigma=(0.4, 4.0), blur_side=40)  # the shorter side of SPEC is 20
    for position in range(5):
        expected = augment(picture(), SPEC, AugmentConfig(**crop, blur_sigma=(0.2, 2.0)), 0, position)
        assert torch.equal(augment(picture(), SPEC, follows, 0, position), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"blur": -0.1},
        {"solarise": 2.0},
        {"colour": -1.0},
        {"blur_side": 0},
        {"blur_sigma": (0.0, 1.0)},
        {"blur_sigma": (2.0, 1.0)},
    ],
)
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"copies": 0}, {"size": 0}, {"patch": (0, 1)}, {"share": 1.5}, {"share": 0.5, "size": 8}]
)
def test_impossible_views_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=r"data\.views"):
        ViewConfig(**wrong)

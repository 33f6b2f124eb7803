"""`conse:`: an image is the names of its likeliest classes, in the shares of their probability."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from mmclip.errors import UserError
from mmclip.release import create, load
from mmclip.release.sources.conse import class_names
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.weights import save_weights
from mmclip_launch import evaluate


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("image") / "test_resnet.pth"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


def test_embeddings_are_those_of_the_paper(image_file: Path, tiny_bert: Path, pictures: list[Image.Image]):
    pair = f"timm:test_resnet@{image_file}+hf:{tiny_bert}"
    model = load(f"conse:{pair}#image_size=64,top=3")
    texts = load(f"{pair}#text_proj=none,image_size=64")
    classifier = timm.create_model("test_resnet", pretrained=False).eval()
    classifier.load_state_dict(torch.load(image_file, weights_only=True))
    pixels = torch.stack([texts.spec.to_uint8(picture) for picture in pictures])
    with torch.no_grad():
        probabilities = classifier(texts.spec.normalise(pixels, torch.float32)).softmax(dim=1)
    names = texts.embed_texts(class_names())
    for embed, shares in zip(model.embed_images(pictures), probabilities, strict=True):
        best = sorted(range(1000), key=lambda number: -shares[number])[:3]
        mixed = torch.stack([shares[number] * names[number] for number in best]).sum(dim=0) / shares[best].sum()
        assert (embed - F.normalize(mixed, dim=0)).abs().max() < 1e-5
    assert torch.equal(model.embed_texts(["a red cat"]), texts.embed_texts(["a red cat"]))


def test_a_class_is_told_by_a_template(image_file: Path, tiny_bert: Path):
    source = f"conse:timm:test_resnet@{image_file}+hf:{tiny_bert}#image_size=64,template=a cat {{}}"
    model = load(source)
    expected = model.embed_texts([f"a cat {name}" for name in class_names()])
    assert torch.equal(model.backbone.visual.class_embeds, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("top=0", "#top=0: expected 1 to 1000"),
        ("template=a cat", "expected a place for the name of a class"),
        ("embed_dim=3", "#embed_dim=3: expected one of top, template"),
    ],
)
def test_wrong_options_are_named(options: str, message: str, image_file: Path, tiny_bert: Path):
    with pytest.raises(UserError, match=message):
        load(f"conse:timm:test_resnet@{image_file}+hf:{tiny_bert}#{options}")


def test_a_tower_without_the_classifier_of_imagenet_is_refused(tmp_path: Path, tiny_bert: Path):
    for classes, message in ((0, "the file has no classifier"), (7, "the classifier has 7 classes")):
        model = timm.create_model("test_resnet", pretrained=False, num_classes=classes)
        torch.save(model.state_dict(), tmp_path / f"{classes}.pth")
        with pytest.raises(UserError, match=message):
            load(f"conse:timm:test_resnet@{tmp_path / f'{classes}.pth'}+hf:{tiny_bert}")
    with pytest.raises(UserError, match="is no pair of towers"):
        load("conse:ViT-B-32")


def test_nothing_of_it_is_trained_or_saved(image_file: Path, tiny_bert: Path, tmp_path: Path):
    source = f"conse:timm:test_resnet@{image_file}+hf:{tiny_bert}#image_size=64"
    with pytest.raises(UserError, match="ConSE has no weights of its own"):
        create(ModelConfig(init=source), needs_logit_bias=False)
    with pytest.raises(UserError, match="ConSE has no weights of its own"):
        save_weights(load(source), tmp_path)


def test_it_is_evaluated_as_any_model(image_file: Path, tiny_bert: Path, tmp_path: Path):
    pair = f"timm:test_resnet@{image_file}+hf:{tiny_bert}#image_size=32"
    words = ["--dataset", "pairs=embedded:emoji/unseen-concept-noto.tar", "--task", "zero_shot_retrieval"]
    evaluate.main(
        [pair, f"conse:{pair}", *words, "--output", str(tmp_path), "--device", "cpu", "--no-cache", "--no-report"]
    )
    assert len([*tmp_path.glob("*.json")]) == 2

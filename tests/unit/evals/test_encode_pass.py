import pytest
import torch

from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.features.encode import encode_images, encode_texts

SPEC = ImageSpec(size=(4, 4))


class Pictures:
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def sample_id(self, index):
        return f"set/0.tar/{index}"

    def image_bytes(self, index):
        return self.pictures[index]


def mean_colour(images):
    return images.float().mean(dim=(2, 3)) + 1


def test_rows_come_in_the_order_of_the_source_whatever_the_number_of_threads(picture):
    colours = ["red", "green", "blue", "white", "black", "red", "blue"] * 3
    source = Pictures([picture(colour) for colour in colours])
    once = encode_images(source, SPEC.to_uint8, mean_colour, chunk_size=4, decode_threads=1)
    assert torch.equal(once, encode_images(source, SPEC.to_uint8, mean_colour, chunk_size=4, decode_threads=5))
    assert torch.allclose(once.norm(dim=1), torch.ones(21))
    assert once[:3].argmax(dim=1).tolist() == [0, 1, 2]
    assert torch.equal(once[0], once[5])


def test_the_tower_sees_chunks_of_one_size_and_the_filler_is_cut_off(picture):
    sizes = []

    def embed(images):
        sizes.append(len(images))
        return mean_colour(images)

    progress = []
    source = Pictures([picture("red")] * 9)
    rows = encode_images(
        source, SPEC.to_uint8, embed, chunk_size=4, progress=lambda done, total: progress.append((done, total))
    )
    assert sizes == [4, 4, 4]
    assert len(rows) == 9
    assert progress == [(4, 9), (8, 9), (9, 9)]


def test_equal_texts_are_encoded_once_in_padded_chunks_and_keep_their_places():
    seen = []

    def embed(texts):
        seen.append(list(texts))
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    rows = encode_texts(["a", "bb", "a", "cccc", "bb"], embed, chunk_size=2)
    assert seen == [["a", "bb"], ["cccc", "cccc"]]
    expected = torch.nn.functional.normalize(torch.tensor([[1.0, 1], [2, 1], [1, 1], [4, 1], [2, 1]]), dim=-1)
    assert torch.allclose(rows, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_names_its_sample(picture, bad):
    def embed(images):
        embeds = mean_colour(images)
        embeds[images.float().mean(dim=(1, 2, 3)) > 250, 1] = bad  # the white picture alone
        return embeds

    source = Pictures([picture(colour) for colour in ("red", "blue", "green", "black", "white", "red")])
    with pytest.raises(UserError, match=r"sample set/0\.tar/4: its embedding is not finite \(1 such"):
        encode_images(source, SPEC.to_uint8, embed, chunk_size=4)


def test_a_text_whose_embedding_is_not_finite_is_quoted():
    def embed(texts):
        return torch.tensor([[float("nan") if text == "dog" else 1.0] for text in texts])

    with pytest.raises(UserError, match="text 'dog': its embedding is not finite"):
        encode_texts(["cat", "dog"], embed)


def test_a_picture_that_cannot_be_decoded_names_its_sample(picture):
    source = Pictures([picture("red"), b"\x89PNG is not enough"])
    with pytest.raises(UserError, match=r"sample set/0\.tar/1 cannot be decoded"):
        encode_images(source, SPEC.to_uint8, mean_colour)


def test_a_tower_that_returns_another_number_of_rows_is_refused(picture):
    with pytest.raises(ValueError, match=r"returned shape \(3, 3\) for 4 rows"):
        encode_images(Pictures([picture("red")]), SPEC.to_uint8, lambda images: mean_colour(images)[1:], chunk_size=4)


def test_nothing_to_encode_is_an_error_and_not_an_empty_answer():
    with pytest.raises(UserError, match="no sample"):
        encode_images(Pictures([]), SPEC.to_uint8, mean_colour)
    with pytest.raises(UserError, match="list of texts is empty"):
        encode_texts([], lambda texts: torch.zeros(len(texts), 2))

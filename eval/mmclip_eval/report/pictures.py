"""Pictures inside the page: small, sharp, and decoded by the same code that the model sees them through."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.decode import decode_image
from mmclip_eval.samples import Samples

PIXELS_PER_CSS_PIXEL = 2
QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """A picture as the page shows it; one that cannot be shown says why."""

    uri: str
    """`data:image/webp;base64,...`; empty where it cannot be shown."""
    width: int
    """In CSS pixels, never more than it has."""
    height: int
    problem: str = ""


class Album:
    """Thumbnails of one set, up to a sum of bytes: what comes later is left out, so that a page stays small."""

    def __init__(self, samples: Samples, budget_bytes: int) -> None:
        self.samples = samples
        self.left_bytes = budget_bytes
        self.problems: dict[int, str] = {}
        """Samples whose picture could not be read, and why."""

    def picture(self, index: int, side: int) -> Picture:
        """Sample `index` within `side` x `side` CSS pixels."""
        try:
            image = decode_image(self.samples.image_bytes(index))
        except (BadSampleError, UserError, OSError) as error:
            self.problems[index] = f"{self.samples.sample_id(index)}: {error}"
            return Picture("", side, side, "picture cannot be read")
        data, width, height = thumbnail(image, side)
        if len(data) > self.left_bytes:
            return Picture("", width, height, "left out: page full")
        self.left_bytes -= len(data)
        return Picture(f"data:image/webp;base64,{base64.b64encode(data).decode()}", width, height)


def thumbnail(image: Image.Image, side: int) -> tuple[bytes, int, int]:
    """WebP bytes, and the width and height in CSS pixels to show them at.

    Large pictures keep two pixels for each CSS pixel. Small ones are shown as they are, very small ones enlarged by a
    whole number of times without smoothing: their pixels are what the model got.
    """
    longest = max(image.size)
    most = side * PIXELS_PER_CSS_PIXEL
    if longest > most:
        size = (max(1, round(image.width * most / longest)), max(1, round(image.height * most / longest)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    times = side // longest
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    shrink = min(1.0, side / max(image.size))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, lossless=times > 1, method=4)
    return buffer.getvalue(), max(1, round(image.width * shrink)), max(1, round(image.height * shrink))

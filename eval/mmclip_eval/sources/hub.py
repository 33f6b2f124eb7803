"""The form `hub`: a CLIP_benchmark folder on the Hugging Face Hub, by the address that its page has in a browser.

https://huggingface.co/datasets/USER/NAME/tree/BRANCH[/FOLDER]; small files come from /raw/, tars from /resolve/.
"""

import os
import re

from mmclip.errors import UserError
from mmclip_data.stores.urls import StoreUrl, public
from mmclip_eval.sources.clip_benchmark import RemoteRoot, open_folder
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.form import Form, OpenedSamples

HUB = "https://huggingface.co"
PAGE = re.compile(r"/datasets/([^/]+/[^/]+)/tree/([^/]+)((?:/[^/]+)*)/?")


def hub_address() -> str:
    """The Hub, or the mirror that `HF_ENDPOINT` names, as huggingface_hub has it."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def recognises(config: SourceConfig) -> bool:
    """Whether it is a page of a data set on the Hub or its mirror."""
    return any(config.path.startswith(f"{address}/datasets/") for address in (HUB, hub_address()))


def open_hub(config: SourceConfig) -> OpenedSamples:
    """Open the folder that the page shows.

    Raises:
        UserError: the address has no branch, or there is no such folder.
        StoreError: the Hub does not answer.
    """
    address = next(address for address in (hub_address(), HUB) if config.path.startswith(f"{address}/datasets/"))
    page = PAGE.fullmatch(config.path.removeprefix(address))
    if page is None:
        raise UserError(
            f"{config.name}: {public(config.path)}: expected {HUB}/datasets/USER/NAME/tree/BRANCH; a data set of another "
            "form is read by `hf:USER/NAME`"
        )
    name, branch, folder = page.groups()
    texts, tars = (StoreUrl(f"{hub_address()}/datasets/{name}/{kind}/{branch}{folder}") for kind in ("raw", "resolve"))
    return open_folder(config, RemoteRoot(texts, tars, config.cache))


FORM = Form(
    "CLIP_benchmark folder on the Hub",
    f"{HUB}/datasets/USER/NAME/tree/BRANCH with such a folder in it",
    recognises,
    open_hub,
    options=("objective",),
)

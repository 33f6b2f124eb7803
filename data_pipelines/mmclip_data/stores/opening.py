"""Which class serves a protocol."""

from mmclip.errors import UserError
from mmclip_data.stores.config import CacheConfig
from mmclip_data.stores.filesystems import Store


def open_store(protocol: str, config: CacheConfig) -> Store:
    """The store of a protocol.

    Raises:
        UserError: its package is not installed.
    """
    if protocol in ("http", "https"):
        try:
            from mmclip_data.stores.web import WebStore
        except ImportError as error:
            raise UserError(f"{protocol}:// needs aiohttp: pip install 'mmclip[stores]'") from error
        return WebStore(protocol, config)
    return Store(protocol, config)

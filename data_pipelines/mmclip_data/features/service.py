"""What the ranks beside the first do: encode what they are asked to, until they are let go."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmclip.errors import UserError
from mmclip_data.features.encoder import FingerprintedSource, Pace, image_share, text_share
from mmclip_data.features.model import Towers
from mmclip_data.features.ranks import Ranks, answers
from mmclip_data.features.shared_pass import Share, follow, own_share

OpenSource = Callable[[Mapping[str, Any]], FingerprintedSource]
"""Opens the pictures of a place, as `Encoder.images` names it."""
Load = Callable[[Mapping[str, Any]], tuple[Towers, Any]]
"""Brings the towers that a request names, and what to answer about them."""


class Service:
    """A rank that serves; what goes wrong is told to the first rank, which decides what becomes of the command."""

    def __init__(
        self,
        ranks: Ranks,
        open_source: OpenSource,
        *,
        towers: Towers | None = None,
        load: Load | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.ranks = ranks
        self.towers = towers
        self._open_source = open_source
        self._load = load
        self._pace = pace or Pace()
        self._sources: dict[str, FingerprintedSource] = {}

    def run(self) -> None:
        """Answer until the first rank says that it is done."""
        while (asked := self.ranks.hear())["ask"] != "leave":
            if asked["ask"] == "load":
                self._take_towers(asked)
            else:
                follow(self.ranks, self._share(asked))

    def _take_towers(self, asked: Mapping[str, Any]) -> None:
        assert self._load is not None, "towers are loaded where a command names them"
        self.towers, answer, error = None, None, None
        try:
            self.towers, answer = self._load(asked)
        except Exception as failure:  # the first rank has to know, whatever it is
            error = failure
        answers(self.ranks, answer, error)

    def _share(self, asked: Mapping[str, Any]) -> Share:
        """As a generator, so that what fails here fails where it is handed over."""
        towers, numbers = self.towers, own_share(asked["chunks"], self.ranks)
        assert towers is not None, "a first rank without towers asks for none"
        assert towers.chunk_size == asked["chunk_size"], "all ranks are given the same"
        if asked["ask"] == "texts":
            yield from text_share(towers, asked["texts"], towers.threads(self._pace.batch_size))(numbers)
        elif numbers:
            yield from self._images(towers, asked, numbers)

    def _images(self, towers: Towers, asked: Mapping[str, Any], numbers: Sequence[int]) -> Share:
        fingerprint = asked["fingerprint"]
        if fingerprint not in self._sources:
            source = self._open_source(asked["place"])
            if source.fingerprint != fingerprint:
                raise UserError(
                    f"rank {self.ranks.rank} finds other samples at {asked['place']} than the first rank "
                    f"({len(source):,}, there {asked['rows']:,}): every process needs the same data at the same path"
                )
            self._sources[fingerprint] = source
        try:
            threads = towers.threads(self._pace.batch_size)
            yield from image_share(towers, self._sources[fingerprint], self._pace, threads)(numbers)
        finally:
            self._sources[fingerprint].close()

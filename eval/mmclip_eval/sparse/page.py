"""A page about the sparse autoencoder of one model."""

from pathlib import Path

from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.report.environment import environment, stylesheet
from mmclip_eval.report.pictures import Album
from mmclip_eval.results.result import recorded_versions
from mmclip_eval.sparse.section import SparseSection

PAGE = Path("report") / "sparse.html"
PICTURE_BYTES = 2_000_000
"""Of all pictures of the page together."""
SHOWN_PROBLEMS = 3


def write_sparse_page(
    path: Path, section: SparseSection, album: Album, checkpoint: str, lead: str, command: str, machine: str
) -> int:
    """Put the page at `path`, atomically; its size in bytes is returned. `album` is the one that the section was drawn from."""
    page = (
        environment()
        .get_template("sparse_page.html.j2")
        .render(
            section=section,
            checkpoint=checkpoint,
            lead=lead,
            command=command,
            machine=machine,
            problems=list(album.problems.values())[:SHOWN_PROBLEMS],
            version=recorded_versions()["mmclip"],
            stylesheet=stylesheet(),
        )
    )
    data = page.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        handle.write(data)
    return len(data)

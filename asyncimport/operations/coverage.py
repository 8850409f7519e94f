"""Whether a run sees all files that earlier runs saw: else none that it does not find is taken for deleted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncimport.journal import Journal
from asyncimport.source.folder import FileSource
from asyncimport.system.mounts import tree_identity

if TYPE_CHECKING:
    from asyncimport.cluster.source import ClusterSource


def check_coverage(source: "FileSource | ClusterSource", journal: Journal) -> Sequence[str]:
    """Tell a source which of its places may have files that nobody sees now, and return them. It blocks.

    Workers see file systems that another worker, or this machine, does not. The journal keeps which ones.
    """
    if isinstance(source, FileSource) and not journal.has_trees():
        return ()
    uncovered = []
    for place in source.places:
        tree = tree_identity(place)
        here = "" if tree is None else tree.lasting
        seen = {here} if isinstance(source, FileSource) else source.trees[place]
        if not journal.note_trees(place, seen, here):
            uncovered.append(place)
    source.uncovered = uncovered
    return uncovered

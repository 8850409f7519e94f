"""Whether a run sees all files that earlier runs saw: else none that it does not find is taken for deleted."""

from collections.abc import Sequence

from asyncimport.cluster.source import ClusterSource
from asyncimport.journal import Journal
from asyncimport.model.ports import Source
from asyncimport.source.folder import FileSource
from asyncimport.system.mounts import tree_identity


def check_coverage(source: Source, journal: Journal) -> Sequence[str]:
    """Tell a source which of its places may have files that nobody sees now, and return them. It blocks.

    Workers see file systems that another worker, or this machine, does not. The journal keeps which ones.
    """
    if not isinstance(source, ClusterSource | FileSource) or (
        isinstance(source, FileSource) and not journal.has_trees()
    ):
        return ()
    uncovered = []
    for place in source.places:
        tree = tree_identity(place)
        here = "" if tree is None else tree.lasting
        seen = source.trees[place] if isinstance(source, ClusterSource) else {here}
        if not journal.note_trees(place, seen, here):
            uncovered.append(place)
    source.uncovered = uncovered
    return uncovered

"""Files that workers do not see: who else gets them, and how long they wait for others."""

from collections.abc import Sequence

from asyncimport.cluster.sending_workers import SendingWorker
from asyncimport.model.deliveries import Claim, Failed

# How many outcomes are kept before nothing more is handed out: memory does not grow with the number of files.
_MOST_KEPT = 1000


class UnseenFiles:
    """Files that no worker sees wait for one that does. When none has joined for a while, they `go_to_others`.

    These say that they cannot read them. Such an outcome counts if no worker is left that has not tried: it is kept
    while others begin.
    """

    def __init__(self, workers: Sequence[SendingWorker]) -> None:
        self._sending = workers
        self._tried: dict[int, set[SendingWorker]] = {}
        """The workers that do not see a file, by its key."""
        self._kept: dict[int, Failed] = {}
        self.go_to_others = False
        self._is_waiting = False
        self._has_joined = False

    @property
    def are_kept(self) -> bool:
        """Whether outcomes are kept."""
        return bool(self._kept)

    @property
    def is_full(self) -> bool:
        """Whether too many outcomes are kept for more files to be handed out."""
        return len(self._kept) >= _MOST_KEPT

    def give(self, claim: Claim) -> bool:
        """Give a file to a worker that sees it and has not failed to; return whether there is any."""
        path, tried = claim.instance.file.path, self._tried.get(claim.key, set())
        able = [worker for worker in self._sending if worker not in tried]
        if not able:
            return False
        max(able, key=lambda worker: (worker.link.sees(path), worker.room / worker.ahead)).add([claim])
        return True

    def pass_on(self, outcome: Failed, worker: SendingWorker, *, others_begin: bool) -> bool:
        """Give a file that a worker does not have to another, or keep it; return False if nobody is left to try."""
        if not outcome.may_be_elsewhere:
            return False
        key = outcome.claim.key
        self._tried.setdefault(key, set()).add(worker)
        if self.give(outcome.claim):
            return True
        if others_begin and not self.go_to_others:
            self._kept[key] = outcome
        return key in self._kept

    def forget(self, claim: Claim) -> None:
        """Forget who has tried a file."""
        self._tried.pop(claim.key, None)

    def take_kept(self) -> list[Failed]:
        """Return the outcomes that were kept, and keep none."""
        kept, self._kept = self._kept, {}
        return [*kept.values()]

    def begin_wait(self) -> bool:
        """Begin to wait; return False if that has begun, or is over."""
        if self._is_waiting or self.go_to_others:
            return False
        self._is_waiting, self._has_joined = True, False
        return True

    def note_worker(self) -> None:
        """Note that a worker has joined, which may see what others do not."""
        self._has_joined, self.go_to_others = True, False
        for outcome in self.take_kept():
            self.give(outcome.claim)

    def end_wait(self) -> None:
        """Wait no more, unless a worker has joined."""
        self._is_waiting, self.go_to_others = False, not self._has_joined

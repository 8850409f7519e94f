"""What can go wrong, and what it means for the run.

AsyncimportError                 every error of ours; `exit_code` and `hint` are for the command line
├── FatalError                   ends the run
│   ├── UsageError               2  the command, its options or its source make no sense
│   ├── LoginRefusedError        3  XNAT does not take the user name and password
│   ├── UnavailableError         4  no server, no network, not an XNAT, a certificate not trusted
│   ├── ProjectMissingError      5  no such project, or not for this user
│   ├── ProjectReadOnlyError     6  the project may be read, but not edited
│   ├── JournalBusyError         7  another run holds the journal
│   └── JournalError             1  the journal is torn, foreign, of other rules, or cannot be written
├── TransientError               repeat the call; `overload` also slows all other calls down
│   ├── LoginExpiredError        log in again, then repeat
│   ├── SessionChangedError      look at the session anew, as a whole
│   └── NothingStoredError             XNAT answered 200 and kept nothing
├── RefusedError                 XNAT's last word on this file, or (`whole_session`) on its session
│   └── SessionConflictError            something else is where the session would go; nothing is said of the file
└── SourceError                  the file cannot be read as it was found
"""

__all__ = [
    "FILES_MISSING",
    "SESSION_HELD",
    "AsyncimportError",
    "FatalError",
    "JournalBusyError",
    "JournalError",
    "LoginExpiredError",
    "LoginRefusedError",
    "NothingStoredError",
    "ProjectMissingError",
    "ProjectReadOnlyError",
    "RefusedError",
    "SessionChangedError",
    "SessionConflictError",
    "SourceError",
    "TransientError",
    "UnavailableError",
    "UsageError",
    "primary_error",
]


# How a run ends that came to its end, and not with all done; errors have exit codes of their own.
FILES_MISSING = 8
SESSION_HELD = 9


class AsyncimportError(Exception):
    """Base of all our errors: a one-line message, and a hint that says what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class FatalError(AsyncimportError):
    """Ends the run; its subclass says with which exit code."""


class UsageError(FatalError):
    """The command cannot be carried out as it was given."""

    exit_code = 2


class LoginRefusedError(FatalError):
    """XNAT refused the credentials; trying again could lock the account (20 failures lock it for an hour)."""

    exit_code = 3


class UnavailableError(FatalError):
    """The server or the network is not there, or what answers is not an XNAT."""

    exit_code = 4


class ProjectMissingError(FatalError):
    """The project does not exist, or XNAT hides it from this user (it answers 404 to both)."""

    exit_code = 5


class ProjectReadOnlyError(FatalError):
    """The user may read the project but not edit it: import would work, build and archive would not."""

    exit_code = 6


class JournalBusyError(FatalError):
    """Another run holds the lock of this journal."""

    exit_code = 7


class JournalError(FatalError):
    """The journal cannot be used: torn, not ours, of another destination or other rules, or not writable."""


class TransientError(AsyncimportError):
    """The call may succeed when repeated.

    `retry_after` is the server's own wish in seconds; `overload` means that the server, not this call, is in trouble;
    `unreachable` that no connection came about; `may_have_taken_effect` that the call may have taken effect, wholly or
    in part, or may yet; `idle` that the connection had served other calls, and the server may have closed it before
    this one; `is_file_verdict` that a repeated answer of this kind is a verdict on the file; `blames_file` that it is,
    and that XNAT says so of sound files too when it is in trouble itself.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        overload: bool = False,
        unreachable: bool = False,
        may_have_taken_effect: bool = False,
        idle: bool = False,
        is_file_verdict: bool = False,
        blames_file: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.overload = overload
        self.unreachable = unreachable
        self.may_have_taken_effect = may_have_taken_effect
        self.idle = idle
        self.is_file_verdict = is_file_verdict or blames_file
        self.blames_file = blames_file


class LoginExpiredError(TransientError):
    """The login (the cookie) is no longer valid: one new login, then the same call again."""


class SessionChangedError(TransientError):
    """A session of the archive was moved, renamed or changed while it was looked at: look at all of it anew."""


class NothingStoredError(TransientError):
    """XNAT took the file and kept nothing of it: its empty 200. A filter's verdict, if there is one, else a riddle."""


class RefusedError(AsyncimportError):
    """XNAT will not take this file, or with `whole_session` anything more of its session.

    `never_reached_xnat`: a proxy turned it away, so that XNAT has nothing of it, whatever became of earlier attempts.
    `dropped`: a rule of the site, a filter or a script, does not let it in. `blames_server`: it is the state of the
    server that stands in the way, and not the file. `second_row`: XNAT has put it into another row than those before
    it.
    """

    def __init__(
        self,
        message: str,
        *,
        whole_session: bool = False,
        never_reached_xnat: bool = False,
        dropped: bool = False,
        blames_server: bool = False,
        second_row: bool = False,
    ) -> None:
        super().__init__(message)
        self.whole_session = whole_session or second_row
        self.never_reached_xnat = never_reached_xnat
        self.dropped = dropped
        self.blames_server = blames_server or self.whole_session
        self.second_row = second_row


class SessionConflictError(RefusedError):
    """XNAT has something else in the place of the session, so that nothing of it may be sent; the file is as it was."""

    def __init__(self, message: str) -> None:
        super().__init__(message, whole_session=True)


class SourceError(AsyncimportError):
    """A file is gone, has changed since it was scanned, or cannot be read."""


def primary_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Choose the one error to show of those that ended a task group.

    One that ends the run goes before a usage error, that before any other of ours, and that before the rest.
    """
    leaves: list[BaseException] = []
    groups: list[BaseExceptionGroup[BaseException]] = [errors]
    while groups:
        for error in groups.pop(0).exceptions:
            if isinstance(error, BaseExceptionGroup):
                groups.append(error)
            else:
                leaves.append(error)
    fatal = [error for error in leaves if isinstance(error, FatalError)]
    fatal.sort(key=lambda error: isinstance(error, UsageError))
    ours = [error for error in leaves if isinstance(error, AsyncimportError)]
    return [*fatal, *ours, *leaves][0]

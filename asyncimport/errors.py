"""What can go wrong, and what it means for the run.

AsyncimportError                 every error of ours; `exit_code` and `hint` are for the command line
├── FatalError                   ends the run
│   ├── UsageError               2  invalid command, options or source
│   │   └── InvalidOptionError   2  a value of an option is not one of the valid ones
│   ├── LoginRefusedError        3  XNAT refuses the user name or password
│   ├── UnavailableError         4  no server, no network, not an XNAT, or an untrusted certificate
│   ├── ProjectMissingError      5  no such project, or not for this user
│   ├── ProjectReadOnlyError     6  this user may read the project, but not edit it
│   ├── JournalBusyError         7  another run holds the journal
│   └── JournalError             1  the journal is damaged, foreign, of other rules, or cannot be written
├── TransientError               repeat the call; `overload` also slows all other calls down
│   ├── LoginExpiredError        log in again, then repeat
│   ├── SessionChangedError      read the whole session again
│   ├── ZipFailedError           the server failed on a zip of a file
│   └── NothingStoredError       XNAT answered 200 and stored nothing
├── RefusedError                 XNAT's last word on this file, or (`whole_session`) on its session
│   ├── SessionConflictError     something else has the place of the session; the file may be sound
│   └── MergeRefusedError        an old XNAT merges only if it is asked to
├── ZipRefusedError              the answer to a zip is no verdict: the file goes as it is
└── SourceError                  the file cannot be read as it was found
"""

# Exit codes of runs that ended, but not with everything done; errors have their own exit codes.
FILES_MISSING = 8
SESSION_HELD = 9


class AsyncimportError(Exception):
    """Base of all our errors: a one-line message, and a hint that says what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class FatalError(AsyncimportError):
    """Ends the run, with the exit code of its subclass."""


class UsageError(FatalError):
    """The command cannot be carried out as given."""

    exit_code = 2


class InvalidOptionError(UsageError):
    """The value of an option, `option` by its name, is not one of the valid ones."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message, hint="correct the option, its environment variable or the profile")
        self.option = option


class LoginRefusedError(FatalError):
    """XNAT refused the credentials; repeating could lock the account (20 failures lock it for an hour)."""

    exit_code = 3


class UnavailableError(FatalError):
    """The server or the network is unavailable, or the server is not an XNAT."""

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
    """The journal cannot be used: damaged, not ours, of another destination or other rules, or not writable."""


class TransientError(AsyncimportError):
    """The call may succeed when repeated.

    `retry_after` is the server's request, in seconds. `overload`: the server is in trouble, not this call.
    `unreachable`: no connection was made. `may_have_taken_effect`: the call may have taken effect, wholly or in part,
    or still may. `idle`: the connection had been idle, and the server may have closed it. `is_file_verdict`: if it
    repeats, it is a verdict on the file. `blames_file`: likewise, but XNAT in trouble says it of sound files too.
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
    """The login (the cookie) is no longer valid: log in again and repeat the call."""


class SessionChangedError(TransientError):
    """An archived session was moved, renamed or changed while it was read: read all of it again."""


class NothingStoredError(TransientError):
    """XNAT accepted the file and stored nothing: its empty 200, a filter's verdict if there is a filter."""


class ZipFailedError(TransientError):
    """The server failed on a zip of a file (500), which may have taken effect: the file as it is may succeed."""


class ZipRefusedError(AsyncimportError):
    """The answer to a zip of a file is no verdict on the file.

    With `ends_zips`, no zip would fare better. With `leaves_part`, XNAT may keep a part of the file.
    """

    def __init__(self, message: str, *, ends_zips: bool = False, leaves_part: bool = False) -> None:
        super().__init__(message)
        self.ends_zips = ends_zips
        self.leaves_part = leaves_part


class RefusedError(AsyncimportError):
    """XNAT refuses this file or, with `whole_session`, anything more of its session.

    `never_reached_xnat`: a proxy refused it, so XNAT has nothing of it from this attempt. `dropped`: a filter or script
    of the site drops it. `blames_server`: because of the server's state, not the file. `second_row`: XNAT put it into
    another row than earlier files.
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
    """XNAT has something else in the place of the session, so nothing of it may be sent; the file may be sound."""

    def __init__(self, message: str) -> None:
        super().__init__(message, whole_session=True)


class MergeRefusedError(RefusedError):
    """XNAT merges into a session that exists only if it is asked to, as versions before 1.7 do."""


class SourceError(AsyncimportError):
    """A file is gone, has changed since the scan, or cannot be read; `may_be_elsewhere`: another machine may have it.

    `may_have_taken_effect`: that was found out while it was sent, and the server may keep a part of it.
    """

    may_have_taken_effect = False

    def __init__(self, message: str, *, may_be_elsewhere: bool = False) -> None:
        super().__init__(message)
        self.may_be_elsewhere = may_be_elsewhere


def primary_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Choose the error to show of those that ended a task group.

    Order: errors that end the run, then usage errors, then our other errors, then the rest.
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

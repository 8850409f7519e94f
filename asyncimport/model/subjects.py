"""What is told of subjects: fields by XNAT's names, never their values."""

from asyncimport.model.record import record


@record
class SubjectReport:
    """What became of a subject's demographics: `state` is stored, refused (all or a part of them) or failed.

    `written` fields were sent and have arrived, `kept` ones have another value in XNAT, which was left alone. `taken`
    are those of the fields that come from headers.
    """

    project: str
    subject: str
    state: str
    written: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    reason: str | None = None

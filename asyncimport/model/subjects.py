"""Reports about subjects: fields by XNAT's names, never their values."""

from asyncimport.model.record import record


@record
class SubjectReport:
    """What became of a subject's demographics; `state` is stored, refused (all or a part) or failed.

    `written` fields were sent and have arrived. XNAT has another value of `kept` ones, which stays. `taken` fields come
    from headers.
    """

    project: str
    subject: str
    state: str
    written: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    reason: str | None = None

"""One file on its way: as a zip where that is worth it, else as it is."""

from time import monotonic

from asyncimport.errors import (
    LoginExpiredError,
    NothingStoredError,
    RefusedError,
    TransientError,
    UnavailableError,
    ZipFailedError,
    ZipRefusedError,
)
from asyncimport.model.deliveries import Claim
from asyncimport.model.events import RetryScheduled
from asyncimport.model.files import Body, Zip
from asyncimport.pipeline.context import SendContext


class FileSender:
    """Sends one file, several times if need be.

    Only its stored address is a verdict on a zip. Without one the file goes as it is, and so do all its later attempts.
    """

    def __init__(self, context: SendContext, claim: Claim, body: Body) -> None:
        self._context = context
        self._claim = claim
        self._body = body
        # The first file of a delivery shows where the others go, which a zip is checked against.
        self._may_be_zip = claim.delivery.uri is not None
        self._refusal: ZipRefusedError | None = None
        self._has_lost_login = False
        self._loss: tuple[float, TransientError] | None = None
        """When a zip of it began that got no answer, and why."""
        self._failure = ""
        """What the server said when it failed on a zip of it."""
        self._has_failed_as_file = False
        """Whether the file itself fared no better: that says nothing about zips."""
        self.zip_size: int | None = None
        """Bytes of the zip that was stored; None if the file went as it is."""

    @property
    def sent_size(self) -> int:
        """Bytes that were sent at the attempt that succeeded."""
        return self._claim.instance.file.size if self.zip_size is None else self.zip_size

    @property
    def may_have_left_part(self) -> bool:
        """Whether XNAT may keep a part of the file, of a zip that it refused."""
        return self._refusal is not None and self._refusal.leaves_part

    async def store(self, attempt: int) -> str:
        """Make one attempt, and return the address of the row. Raises: as `Destination.store`, but for zips."""
        compression = self._context.compression
        if compression.has_ended and self._refusal is None:
            return await self._context.destination.store(self._claim, self._body)
        uri = await self._store_zip(attempt) if compression.is_on else None
        return uri or await self._store_file()

    async def _store_zip(self, attempt: int) -> str | None:
        """Send the file as a zip; return None if it is to go as it is. Raises: TransientError."""
        began = monotonic()
        try:
            packed = await self._make_zip()
            if packed is None:
                return None
            uri = await self._context.destination.store(self._claim, packed)
        except ZipRefusedError as error:
            self._note_refusal(error, attempt)
        except UnavailableError as error:
            # A gateway may redirect zips only. The file itself shows whether that ends the run.
            self._note_refusal(ZipRefusedError(str(error)), attempt)
        except ZipFailedError as error:
            self._may_be_zip, self._failure = False, str(error)
            raise
        except LoginExpiredError as error:
            # It says nothing about zips, unless the new login fares no better.
            if not self._has_lost_login:
                self._has_lost_login = True
                raise
            self._note_refusal(ZipRefusedError(f"a zip gets no login ({error})"), attempt)
        except TransientError as error:
            self._may_be_zip, self._loss = False, (began, error)
            raise
        else:
            self.zip_size = packed.size
            self._record_success(monotonic() - began)
            return uri
        return None

    async def _store_file(self) -> str:
        """Send the file as it is: how that ends also says what zips of it were worth."""
        began = monotonic()
        try:
            uri = await self._context.destination.store(self._claim, self._body)
        except (NothingStoredError, RefusedError):
            self._record_end_of_zip(is_stored=False)
            raise
        except TransientError:
            self._has_failed_as_file = True
            raise
        if self._refusal is None:
            self._record_success(monotonic() - began)
        self._record_end_of_zip(is_stored=True)
        if self._loss is not None:
            zip_began, loss = self._loss
            at_once = not self._has_failed_as_file
            seconds = began - zip_began if at_once else 0.0
            has_stopped_all = at_once and loss.retry_after is not None
            if self._context.compression.record_loss(zip_began, seconds=seconds, has_stopped_all=has_stopped_all):
                self._context.end_zips(str(loss))
        return uri

    async def _make_zip(self) -> Zip | None:
        series, compression = self._claim.instance.series_uid, self._context.compression
        if not self._may_be_zip or not compression.is_worth_trying(series):
            return None
        packed = await self._context.destination.make_zip(self._body)
        compression.record_size(series, self._claim.instance.file.size, None if packed is None else packed.size)
        self._may_be_zip = packed is not None
        return packed

    def _note_refusal(self, error: ZipRefusedError, attempt: int) -> None:
        self._may_be_zip, self._refusal = False, error
        self._context.report(RetryScheduled(str(error), self._claim, attempt))

    def _record_success(self, seconds: float) -> None:
        context = self._context
        context.compression.record_success(
            self._claim.instance.series_uid,
            seconds,
            self._claim.instance.file.size,
            is_zip=self.zip_size is not None,
            # A worker of another machine may be let begin none.
            in_flight=max(1, context.throttle.limit),
            blocked_seconds=context.destination.blocked_seconds,
            link_seconds=context.destination.link_seconds,
        )
        context.throttle.is_frozen = context.compression.is_comparing

    def _record_end_of_zip(self, *, is_stored: bool) -> None:
        """Record how a zip ended without a verdict, and whether its file was then stored."""
        compression, failure, self._failure = self._context.compression, self._failure, ""
        if self._has_failed_as_file:
            return
        if failure and compression.record_failure():
            self._context.end_zips(failure)
        refusal, series = self._refusal, self._claim.instance.series_uid
        if refusal is not None:
            is_last = compression.record_refusal(series, is_stored=is_stored)
            # If the file itself fares no better, it is not for being a zip.
            if is_last or (is_stored and refusal.ends_zips):
                self._context.end_zips(str(refusal))

"""What the tests must notice: each handling that keeps data from being lost, taken out, must turn a test red.

    python tests/mutants.py [NAME...] [-j N]

works on copies of the checkout. It first runs all the tests that the mutants name, which must be green, and then,
mutant by mutant, edits one file, runs the mutant's tests and wants a failure. The exit code is 0 if all are red, 1 if
one survived, is stale (its text is no longer there exactly once) or broken (it fails, but not in a test).
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent
# What a test may take before it counts as hanging (less where that is expected), and all tests of a mutant together.
_TEST_SECONDS = 15
_HANGING_SECONDS = 2
_MUTANT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Mutant:
    """An edit of `file` (below asyncimport/), why it would cost data, and the tests (below tests/) that notice it.

    With `hang` a test that does not end has noticed it too.
    """

    name: str
    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    hang: bool = False


# --- What XNAT does that decides correctness

_SAME = "test_file_identity.py::"
_IMPORT = ("test_images.py::test_every_import_is_as_xnat_needs_it",)

XNAT = (
    Mutant(
        "rename",
        "XNAT names files as it pleases: parallel files collide, and a repeated file becomes a second one.",
        "xnat/images.py",
        "&rename=true&prevent",
        "&prevent",
        _IMPORT,
    ),
    Mutant(
        "prevent-auto-commit",
        "XNAT's idle builder archives half a session while the rest is still on its way.",
        "xnat/images.py",
        "&prevent_auto_commit=true",
        "",
        _IMPORT,
    ),
    Mutant(
        "source-uploader",
        "XNAT takes the session for a scanner's, and its idle builder takes half of it.",
        "xnat/images.py",
        "&prevent_auto_commit=true&SOURCE=uploader",
        "&prevent_auto_commit=true",
        _IMPORT,
    ),
    Mutant(
        "import-handler",
        "XNAT's default importer unpacks archives: a single DICOM file is dropped.",
        "xnat/images.py",
        "import-handler=gradual-DICOM&",
        "",
        _IMPORT,
    ),
    Mutant(
        "project-id",
        "XNAT ignores `project` and routes by the header, into whichever project that names.",
        "xnat/images.py",
        "&PROJECT_ID=",
        "&project=",
        _IMPORT,
    ),
    Mutant(
        "content-type",
        "XNAT does not take the body of another media type for a DICOM file.",
        "xnat/images.py",
        '"Content-Type": "application/dicom"',
        '"Content-Type": "application/octet-stream"',
        _IMPORT,
    ),
    Mutant(
        "content-length",
        "A streamed body becomes chunked, and XNAT refuses every large file.",
        "xnat/sending.py",
        '{**headers, "Content-Length": str(body.size)}',
        "headers",
        _IMPORT,
    ),
    Mutant(
        "empty-200",
        "A file that a filter or an anonymisation script rejected counts as stored.",
        "replies/images.py",
        "    if not text:\n        raise",
        '    if not text:\n        return expected or ""\n        raise',
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "other-project",
        "Files that XNAT put into Unassigned, or into another's project, count as stored in ours.",
        "replies/images.py",
        'if match["project"] != project:',
        "if not project:",
        ("test_pipeline.py::test_misrouting_stops_a_session_after_its_first_file",),
    ),
    Mutant(
        "second-uri",
        "Files in a second prearchive session are never committed: they count as stored and are never archived.",
        "replies/images.py",
        "if expected is not None and match[1] != expected:",
        "if expected is not None and not match[1]:",
        ("test_replies.py::TestMisplaced::test_a_second_row_stops_the_session",),
    ),
    Mutant(
        "delivery-uri-fixed",
        "The one prearchive row of a delivery could be exchanged for another, and the first one forgotten.",
        "journal/schema.sql",
        "WHEN old.uri IS NOT NULL AND new.uri IS NOT old.uri",
        "WHEN old.uri IS NOT NULL AND new.uri IS NULL AND 0",
        ("test_journal.py::test_the_address_of_a_delivery_never_changes",),
    ),
    Mutant(
        "unable-to-read-is-repeated",
        "XNAT's full disk or exhausted database refuses sound files for good.",
        "replies/images.py",
        'raise TransientError("XNAT could not read the file (400: unable to read DICOM object)", blames_file=True)',
        'raise RefusedError("XNAT could not read the file (400: unable to read DICOM object)")',
        ("test_pipeline.py::test_a_fault_for_a_time_costs_nothing",),
    ),
    Mutant(
        "unable-to-read-is-judged",
        "A broken file is repeated and never refused: its session stays open for ever.",
        "pipeline.py",
        "        if not error.judges_file:\n",
        "        if True:\n",
        ("test_pipeline.py::test_a_file_that_xnat_never_reads_is_refused_and_holds_its_session",),
    ),
    Mutant(
        "refused-files-are-lacking",
        "A session is archived without a file that a gateway or a full disk refused, and called verified.",
        "journal/intake.py",
        "\"count(*) FILTER (WHERE state = 'REFUSED' AND refusal IS NOT 'DROPPED'), \"",
        '"0, "',
        (
            "test_journal.py::test_only_what_a_rule_of_the_site_drops_is_not_lacking",
            "test_nothing_lost.py::test_what_a_gateway_refuses_once_is_not_left_out",
        ),
    ),
    Mutant(
        "lacking-refused-files-are-told",
        "A session that was archived without a refused file looks whole in each later run.",
        "journal/ledger.py",
        "sum(i.state = 'REFUSED' AND i.refusal IS NOT 'DROPPED') AS refused",
        "0 AS refused",
        ("test_journal_migration.py::test_sessions_that_were_archived_without_refused_files_say_so",),
    ),
    Mutant(
        "refusals-are-no-filters",
        "Whatever refuses a file is taken for a filter of the site.",
        "pipeline.py",
        "return Refusal.DROPPED if error.dropped else",
        "return Refusal.DROPPED if not error.whole_session else",
        ("test_nothing_lost.py::test_what_a_gateway_refuses_once_is_not_left_out",),
    ),
    Mutant(
        "empty-answers-are-no-filters",
        "An empty answer that no filter explains lets a session go without the file.",
        "pipeline.py",
        "    return Refusal.SERVER if error.blames_file else Refusal.FILE\n",
        "    return Refusal.DROPPED\n",
        ("test_nothing_lost.py::test_an_empty_answer_that_stays_and_that_nothing_explains",),
    ),
    Mutant(
        "what-the-server-refused-is-sent-again",
        "A file that a gateway refused once stays out for ever, unless somebody thinks of it.",
        "journal/intake.py",
        'or (state == "REFUSED" and (retry_refused or refusal == "SERVER"))',
        'or (state == "REFUSED" and retry_refused)',
        ("test_nothing_lost.py::test_what_a_gateway_refuses_once_is_not_left_out",),
    ),
    Mutant(
        "barred-sessions-are-not-sealed",
        "A session of which XNAT would not take more is archived as it is, with --partial archive.",
        "journal/intake.py",
        "        if self._is_barred(session):\n            self._db",
        "        if False:\n            self._db",
        ("test_journal.py::test_a_barred_session_is_not_archived_in_part",),
    ),
    Mutant(
        "refused-after-a-cut",
        "A session is archived with a part of a file, which an attempt that broke off left behind.",
        "pipeline.py",
        "if trail.unsure and not at_the_door:",
        "if not reason:",
        ("test_pipeline.py::test_a_refusal_after_a_broken_attempt_does_not_let_the_session_go",),
    ),
    Mutant(
        "broken-connections-are-cuts",
        "What a connection that broke may have left in XNAT is not reckoned with.",
        "xnat/client.py",
        'return TransientError(f"the connection broke ({type(error).__name__})", cut=True)',
        'return TransientError(f"the connection broke ({type(error).__name__})")',
        ("test_pipeline.py::test_a_refusal_after_a_broken_attempt_does_not_let_the_session_go",),
    ),
    Mutant(
        "concurrent-sends",
        "A file that met its own repetition in XNAT is refused for good.",
        "replies/images.py",
        'if "concurrent file sends" in lowered:',
        'if "CONCURRENT" in lowered:',
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "retry",
        "A fault for a moment leaves files behind.",
        "pipeline.py",
        "await retrying(attempt, self._policy, spend=self._budget.spend, sleep=self._stop.sleep)",
        "await attempt()",
        ("test_pipeline.py::test_a_fault_for_a_time_costs_nothing",),
    ),
    Mutant(
        "no-delivery-beside-a-sealed-one",
        "New files of a session go to XNAT while it is being archived, and are lost with an answer of 200.",
        "journal/queue.py",
        'row[1] in {"SEALED", "HELD"}',
        'row[1] in {"HELD"}',
        ("test_journal.py::test_new_files_wait_for_the_end_of_a_sealed_delivery",),
    ),
    Mutant(
        "hand-out-of-open-deliveries",
        "New files of an archived session are sent into the row that was archived, and are lost with an answer of 200.",
        "journal/queue.py",
        "WHERE d.session = ? AND d.state = 'OPEN'\"",
        'WHERE d.session = ?"',
        ("test_journal.py::test_new_files_of_an_archived_session_are_a_new_delivery",),
    ),
    Mutant(
        "commit-301",
        "A session that an auto-archive project has archived with the commit is held as an error.",
        "replies/images.py",
        "    if reply.status == 301:\n        return _archive_uri(reply)",
        "    if reply.status == 301 and not reply.text:\n        return _archive_uri(reply)",
        ("test_images.py::test_a_delivery_is_archived_and_verified",),
    ),
    Mutant(
        "archive-uri-in-the-body",
        "The 301 of a commit has no Location: what it archived is not found.",
        "replies/images.py",
        "_ARCHIVE_URI.fullmatch(reply.text.strip()) or _ARCHIVE_URI.search",
        "_ARCHIVE_URI.search",
        ("test_replies.py::test_values",),
    ),
    Mutant(
        "build-without-archive",
        "With --no-archive, auto-archive projects archive all the same.",
        "xnat/images.py",
        'action = "commit" if self._archive else "build"',
        'action = "commit"',
        ("test_images.py::test_without_archiving_a_delivery_is_built_and_never_committed",),
    ),
    Mutant(
        "archive-303",
        "A session that XNAT has archived with a 303 is held as an error.",
        "replies/images.py",
        "if reply.status in {200, 301, 303} and",
        "if reply.status in {200, 301} and",
        ("test_images.py::test_an_archive_step_that_redirects_has_succeeded",),
    ),
    Mutant(
        "conflict-500",
        "XNAT's refusal to archive is taken for trouble of the moment, and asked for again and again.",
        "replies/images.py",
        '    check(reply, server_errors=False)\n    advice = ""',
        '    check(reply)\n    advice = ""',
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "gateway-504",
        "A proxy that gives up while XNAT goes on archiving holds the session.",
        "xnat/images.py",
        "                if failures >= self._policy.attempts:",
        "                if failures:",
        ("test_images.py::test_a_gateway_that_gives_up_is_no_verdict",),
    ),
    Mutant(
        "lost-answer",
        "An archive step whose answer was lost is asked for blindly once more.",
        "xnat/images.py",
        "step = next_step(row, archived=archived, asked=asked)",
        "step = Step.FINISH if asked else next_step(row, archived=archived, asked=asked)",
        ("test_images.py::test_an_answer_that_gets_lost_is_found_out_by_looking",),
    ),
    Mutant(
        "busy-row",
        "A session that XNAT is at work on is committed once more, under its hands.",
        "xnat/images.py",
        "    if row.is_busy:",
        "    if row.is_busy and row.is_stuck:",
        ("test_images.py::test_a_row_that_xnat_works_on_is_left_alone",),
    ),
    Mutant(
        "still-archiving",
        "A 500 that means `still at work` holds the session.",
        "replies/images.py",
        '"session processing may already be in progress",',
        "",
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "single-flight",
        "Each of 32 requests that met an expired login logs in anew, and XNAT's sessions run out.",
        "xnat/client.py",
        "            if self._logins == login:",
        "            if self._logins:",
        ("test_client.py::test_an_expired_login_is_renewed_once_for_all_calls",),
    ),
    Mutant(
        "renewal",
        "The run ends in errors as soon as the login expires.",
        "xnat/client.py",
        "            return read(answer)\n        except LoginExpiredError:\n            await self._renew(login)\n",
        "            return read(answer)\n        except LoginExpiredError:\n",
        ("test_client.py::test_asking_goes_on_after_an_expiry",),
    ),
    Mutant(
        "refused-password-is-remembered",
        "Every worker tries the refused password, and 20 refusals lock the account.",
        "xnat/client.py",
        "                    self._refused = error\n",
        "",
        ("test_sharpness.py::test_a_refused_password_is_tried_once_by_all_workers_together",),
    ),
    Mutant(
        "refused-password-stops",
        "A refused password is tried again, and 20 refusals lock the account.",
        "replies/logins.py",
        "    if reply.status == 401:\n        raise LoginRefusedError(\n",
        '    if reply.status == 401:\n        raise TransientError("401")\n        raise LoginRefusedError(\n',
        ("test_client.py::test_a_wrong_password_is_tried_once",),
    ),
    Mutant(
        "guest-cookie",
        "The guest's cookie that XNAT sends with a 401 replaces the good one.",
        "xnat/client.py",
        "                return await _read(response)\n",
        '                if self._headers and (guest := response.cookies.get("JSESSIONID")) is not None:\n'
        '                    self._headers = {"Cookie": f"JSESSIONID={guest.value}"}\n'
        "                return await _read(response)\n",
        ("test_client.py::test_a_guests_cookie_does_not_replace_ours",),
    ),
    Mutant(
        "cookie-jar",
        "The guest's cookie goes out beside the good one, in one header.",
        "xnat/client.py",
        "cookie_jar=aiohttp.DummyCookieJar()",
        "cookie_jar=aiohttp.CookieJar(unsafe=True)",
        ("test_client.py::test_a_guests_cookie_does_not_replace_ours",),
    ),
    Mutant(
        "guest-login",
        "A login that XNAT took for a guest's counts as ours.",
        "replies/logins.py",
        'if match.group(1).lower() == "guest" != name.lower():',
        'if match.group(1).lower() == "":',
        ("test_client.py::test_a_guest_is_not_logged_in",),
    ),
    Mutant(
        "logout",
        "Each run leaves a login open, and XNAT's sessions run out.",
        "xnat/client.py",
        "            await client.log_out()\n",
        "            pass\n",
        ("test_client.py::test_a_login_is_made_and_given_back",),
    ),
    Mutant(
        "logout-is-shielded",
        "A run that was cancelled leaves its login open.",
        "xnat/client.py",
        "        with anyio.CancelScope(shield=True):",
        "        with anyio.CancelScope():",
        ("test_client.py::test_a_login_is_given_back_after_a_cancellation",),
    ),
    Mutant(
        "user-agent",
        "XNAT answers what it takes for a browser with login pages and 200, and CSRF errors.",
        "xnat/client.py",
        'f"asyncimport/{__version__}"',
        'f"Mozilla/5.0 (compatible; asyncimport/{__version__})"',
        ("test_client.py::test_the_user_agent_is_not_a_browsers",),
    ),
    Mutant(
        "login-page",
        "XNAT's login page with 200 is repeated under the dead login until the attempts are used up.",
        "replies/reply.py",
        'return LoginExpiredError("XNAT answers with its login page")',
        'return TransientError("XNAT answers with its login page")',
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "page-instead-of-answer",
        "A proxy's page with 200 is judged as XNAT's answer to an import, and ends the session.",
        "replies/images.py",
        "    if reply.status == 200 and not reply.is_html:\n        return _stored_uri",
        "    if reply.status == 200:\n        return _stored_uri",
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "dropped-connection",
        "Tomcat closes each connection after 100 requests: the file on its way is given up.",
        "xnat/client.py",
        'return TransientError(f"the connection broke ({type(error).__name__})", cut=True)',
        'return UnavailableError(f"the connection broke ({type(error).__name__})")',
        ("test_images.py::test_a_connection_that_is_reset_in_mid_body_is_transient",),
    ),
    Mutant(
        "redirects",
        "A redirect is followed to another host, with the cookie and the patient's data.",
        "xnat/client.py",
        "allow_redirects=False",
        "allow_redirects=True",
        ("test_client.py::test_redirects_are_not_followed",),
    ),
    Mutant(
        "missing-instance",
        "A session that lacks instances is reported as archived and verified.",
        "xnat/archive.py",
        "    missing = sent - held\n",
        "    missing = frozenset()\n",
        ("test_images.py::test_missing_instances_are_told",),
    ),
    Mutant(
        "verified-by-uids",
        "What is compared is how many instances there are, not which: those of an older session stand in for ours.",
        "xnat/archive.py",
        "    missing = sent - held\n",
        "    missing = sent - held if len(held) < len(sent) else frozenset()\n",
        ("test_sharpness.py::test_as_many_other_instances_are_no_substitute",),
    ),
    Mutant(
        "count-only-under-a-script",
        "Instances under other UIDs than ours stand in for ours, though nothing in XNAT gives new UIDs.",
        "xnat/archive.py",
        " and (await rules.of(session.project)).maps_instances:",
        ":",
        ("test_sharpness.py::test_as_many_other_instances_are_no_substitute",),
    ),
    Mutant(
        "count-only-where-all-uids-are-new",
        "Under an anonymisation script any loss is made up for by instances that were there before.",
        "xnat/archive.py",
        "if len(missing) == len(sent) <= len(held) and",
        "if len(sent) <= len(held) and",
        ("test_sharpness.py::test_some_missing_instances_are_missing_under_a_script_too",),
    ),
    Mutant(
        "divided-study",
        "Where XNAT divides a study, its instances are held to be missing.",
        "xnat/archive.py",
        "Found(parts_among(listed, session))",
        "Found()",
        ("test_verification.py::test_a_study_that_xnat_divides_is_found_whole",),
    ),
    Mutant(
        "study-elsewhere-is-no-proof",
        "Instances that XNAT lost of a session count as there, because another session of the study has them.",
        "xnat/archive.py",
        "return tuple(parts) if {one.type for one in parts} == {_MR, _PET} else ()",
        "return tuple(found)",
        (
            "test_verification.py::test_the_same_study_under_another_label_proves_nothing",
            "test_verification.py::test_parts_are_those_that_xnat_has_made",
        ),
    ),
    Mutant(
        "other-study-under-the-label",
        "The instances of another study that has the label stand in for those of ours.",
        "xnat/archive.py",
        "    problem = replies.other_session(there, session)\n    return Found",
        "    problem = None\n    return Found",
        ("test_images.py::test_another_study_under_the_label_is_not_ours",),
    ),
    Mutant(
        "not-verified-is-said",
        "A session that could not be looked into is reported as verified.",
        "xnat/images.py",
        "return Archived(delivery, uri, None)",
        'return Archived(delivery, uri, "uids")',
        ("test_sharpness.py::test_what_could_not_be_compared_is_not_called_verified",),
    ),
    Mutant(
        "verified-by-the-next-run",
        "A session that could not be verified once is never looked at again, and what it lacks is never sent.",
        "journal/intake.py",
        "AND d.verified IS NULL AND d.number =",
        "AND d.verified IS NULL AND NOT d.number =",
        (
            "test_verification.py::test_an_archive_that_cannot_be_read_is_archived_but_not_verified",
            "test_verification.py::test_what_was_not_verified_may_be_lacking_when_it_is",
        ),
    ),
    Mutant(
        "secondary-resource",
        "Instances that XNAT files under `secondary` are held to be missing.",
        "replies/archive.py",
        '(result.get("format") == "DICOM" or result.get("label") == "DICOM")',
        'result.get("label") == "DICOM"',
        ("test_images.py::test_all_dicom_of_all_scans_is_looked_at",),
    ),
    Mutant(
        "all-resources",
        "Only the first scan is compared, and instances of the others are held to be missing.",
        "xnat/archive.py",
        "for resource in resources:",
        "for resource in resources[:1]:",
        ("test_images.py::test_all_dicom_of_all_scans_is_looked_at",),
    ),
    Mutant(
        "another-study-under-the-label",
        "An archived session of another study under our label is taken for ours.",
        "xnat/archive.py",
        'found.study_uid not in {"", session.study_uid}',
        'found.study_uid == ""',
        ("test_images.py::test_another_study_under_the_label_is_not_ours",),
    ),
    Mutant(
        "read-only-project",
        "Everything is sent, and nothing can be archived.",
        "xnat/site.py",
        "    if found not in editable:",
        "    if found in editable and not found:",
        ("test_client.py::test_a_project_that_may_only_be_read_is_refused",),
    ),
    Mutant(
        "stalled-body",
        "A server that stops reading holds a worker for ever.",
        "xnat/sending.py",
        "anyio.current_time() + self._timeouts.stall",
        "anyio.current_time() + 1e9",
        ("test_images.py::test_a_server_that_stops_reading_is_given_up",),
        hang=True,
    ),
)

# --- The line and its journal

_SYNCED = "test_journal_file.py::"

LINE = (
    Mutant(
        "first-file-alone",
        "A whole session is in the wrong project before the first answer shows it.",
        "journal/queue.py",
        "            room = 0 if flying else 1\n",
        "",
        ("test_sharpness.py::test_one_file_of_a_session_goes_without_an_address",),
    ),
    Mutant(
        "seal",
        "A kill after the commit leaves the delivery open, and the next run sends into an archived row.",
        "journal/queue.py",
        "\"UPDATE delivery SET state = 'SEALED', partial = ? WHERE key = ?\"",
        '"UPDATE delivery SET partial = ? WHERE key = ?"',
        ("test_sharpness.py::test_the_seal_is_on_disk_before_xnat_is_called",),
    ),
    Mutant(
        "durable",
        "After a power cut the journal has forgotten that a run began, and what it made of an older journal.",
        "journal/database.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = OFF",
        (f"{_SYNCED}test_what_must_not_be_forgotten_is_synced",),
    ),
    Mutant(
        "durable-is-full",
        "After a power cut the journal has forgotten all that it said was for good.",
        "journal/store.py",
        "'FULL' if durable else 'NORMAL'",
        "'NORMAL'",
        (f"{_SYNCED}test_what_must_not_be_forgotten_is_synced",),
    ),
    Mutant(
        "durable-seal",
        "After a power cut the journal has forgotten a seal that XNAT has acted upon, and sends behind it.",
        "journal/queue.py",
        '(durable=True):\n            row = self._db.execute(\n                "SELECT d.key, d.number',
        '():\n            row = self._db.execute(\n                "SELECT d.key, d.number',
        (f"{_SYNCED}test_what_must_not_be_forgotten_is_synced",),
    ),
    Mutant(
        "settling-syncs-by-age",
        "A power cut takes back hours of acknowledgements.",
        "journal/queue.py",
        "due = not 0 <= now - self._synced_at < self.SYNC_SECONDS",
        "due = False",
        (f"{_SYNCED}test_acknowledgements_are_synced_by_age",),
    ),
    Mutant(
        "settling-syncs-after-a-clock-was-set-back",
        "A power cut takes back all acknowledgements since the clock was set back.",
        "journal/queue.py",
        "due = not 0 <= now - self._synced_at < self.SYNC_SECONDS",
        "due = now - self._synced_at >= self.SYNC_SECONDS",
        (f"{_SYNCED}test_acknowledgements_are_synced_by_age",),
    ),
    Mutant(
        "unsure-after-a-power-cut",
        "What was in flight into a delivery that the journal has forgotten takes effect behind the seal.",
        "journal/queue.py",
        "            self._sync()\n",
        "            pass\n",
        (f"{_SYNCED}test_what_must_not_be_forgotten_is_synced",),
    ),
    Mutant(
        "known-instances-are-not-entered",
        "A second file with an instance's UID passes for sent, whatever its bytes.",
        "journal/intake.py",
        "DELETE FROM file WHERE key >= ? AND key NOT IN (SELECT key FROM instance)",
        "DELETE FROM file WHERE key >= ? AND 0",
        ("test_journal.py::test_twins",),
    ),
    Mutant(
        "the-order-of-a-batch",
        "Which of two files with one instance's UID is sent depends on how the walk was cut.",
        "journal/intake.py",
        "if file.path not in met and identity not in met:",
        "if True:",
        ("test_journal.py::test_the_first_of_two_is_sent_though_its_path_was_known",),
    ),
    Mutant(
        "nothing-behind-the-seal",
        "A file that XNAT acknowledged behind the seal, and may have lost, counts as stored.",
        "journal/schema.sql",
        "    WHERE new.state = 'STORED'\n",
        "    WHERE new.state = 'STORED' AND 0\n",
        ("test_journal.py::test_nothing_is_stored_behind_the_seal",),
    ),
    Mutant(
        "nothing-unsettled-is-sealed",
        "A session is archived while some of its files are still on their way.",
        "journal/schema.sql",
        "    WHERE new.state = 'SEALED' AND old.state = 'OPEN'\n",
        "    WHERE new.state = 'SEALED' AND old.state = 'OPEN' AND 0\n",
        ("test_journal.py::test_no_seal_while_something_is_pending",),
    ),
    Mutant(
        "legal-changes-of-an-instance",
        "What XNAT has acknowledged could become pending again, and be sent behind the seal.",
        "journal/schema.sql",
        "    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'instance'",
        "    WHERE 0 AND NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'instance'",
        ("test_journal.py::test_illegal_changes_of_an_instance",),
    ),
    Mutant(
        "legal-changes-of-a-delivery",
        "A seal could be broken, and files be sent into a row that XNAT archives.",
        "journal/schema.sql",
        "    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'delivery'",
        "    WHERE 0 AND NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'delivery'",
        ("test_journal.py::test_illegal_changes_of_a_delivery",),
    ),
    Mutant(
        "lacking-files-keep-the-session-open",
        "A session is archived without the files that failed.",
        "journal/intake.py",
        "uri is not None and not lacking:",
        "uri is not None:",
        ("test_journal.py::test_a_session_with_failed_files_is_not_sealed",),
    ),
    Mutant(
        "session-waits-for-the-scan",
        "A session is archived before the scan has met the rest of it.",
        "journal/queue.py",
        "if self._scan_finished or session in self._complete:",
        "if True:",
        ("test_journal.py::test_a_session_is_ready_only_after_the_scan",),
    ),
    Mutant(
        "early-end-of-one-source",
        "Of two sources with one session the first ends it, and what the second has of it goes into another delivery.",
        "pipeline.py",
        "if depth is None or len(self._source.places) > 1:",
        "if depth is None:",
        ("test_pipeline.py::test_two_sources_may_have_one_session",),
    ),
    Mutant(
        "early-end-of-what-lacks",
        "A session that ends while the scan goes on is archived though a file of it cannot be read.",
        "journal/intake.py",
        "lacking = pending or (any(self._lacking(session)) and not self._partial)",
        "lacking = pending",
        ("test_pipeline.py::test_a_session_that_lacks_a_file_does_not_end_so",),
    ),
    Mutant(
        "one-subject-at-a-time",
        "XNAT's archive step locks on the subject: the second session of a subject runs into its time-out.",
        "journal/queue.py",
        '"WHERE NOT EXISTS (SELECT 1 FROM busy WHERE busy.subject = s.subject) "',
        '"WHERE NOT EXISTS (SELECT 1 FROM busy WHERE busy.subject = s.label) "',
        ("test_pipeline.py::test_deliveries_of_a_subject_are_finalised_one_at_a_time",),
    ),
    Mutant(
        "cap-of-begun-sessions",
        "A run of days fills the server's prearchive.",
        "journal/queue.py",
        "while len(claims) < limit and begun < most_begun:",
        "while len(claims) < limit:",
        ("test_pipeline.py::test_few_sessions_are_open_at_a_time",),
    ),
    Mutant(
        "sealed-is-resumed",
        "What was sealed when the run was killed is never archived.",
        "journal/store.py",
        "                self._db.execute(\"INSERT INTO ready SELECT key FROM delivery WHERE state = 'SEALED'\")\n",
        "",
        ("test_journal.py::test_sealed_deliveries_are_ready_at_once",),
    ),
    Mutant(
        "in-flight-is-not-durable",
        "What was in flight when the run was killed is never sent again.",
        "journal/ephemeral.sql",
        "CREATE TEMP TABLE flying",
        "CREATE TABLE IF NOT EXISTS flying",
        ("test_journal.py::test_a_kill_leaves_what_was_claimed_pending",),
    ),
    Mutant(
        "failed-is-taken-up-again",
        "A file that failed once is left behind for ever.",
        "journal/intake.py",
        'if state == "FAILED" or (state == "REFUSED" and',
        'if (state == "REFUSED" and',
        ("test_journal.py::test_failed_files_are_always_taken_up",),
    ),
    Mutant(
        "refused-only-when-asked",
        "What XNAT has refused is sent again with each run.",
        "journal/intake.py",
        'if state == "FAILED" or (state == "REFUSED" and (retry_refused or refusal == "SERVER")):',
        'if state in {"FAILED", "REFUSED"}:',
        ("test_journal.py::test_refused_files_are_taken_up_only_when_asked",),
    ),
    Mutant(
        "changed-files-are-noticed",
        "A file that was rewritten passes for the one that XNAT holds.",
        "journal/facts.py",
        "if size != file.size or mtime_ns != str(file.mtime_ns):",
        "if size != file.size:",
        ("test_journal.py::test_changed_files_are_looked_into_again",),
    ),
    Mutant(
        "replaced-files-are-noticed",
        "Other bytes under the size and the time of what was sent are never read.",
        "journal/facts.py",
        "    return (inode, ctime_ns) == (file.inode, file.ctime_ns)",
        "    return True",
        (f"{_SAME}test_other_bytes_under_the_same_size_and_time",),
    ),
    Mutant(
        "touched-since-it-was-stored",
        "A journal of an older version takes whatever lies there now for what it sent.",
        "journal/facts.py",
        "file.ctime_ns is not None and file.ctime_ns < settled_at * 1e9",
        "True",
        (f"{_SAME}test_a_journal_of_before_proves_nothing_about_what_was_touched",),
    ),
    Mutant(
        "not-known-to-be-what-was-sent",
        "What has the name and the size of what was sent is called safe to delete.",
        "journal/intake.py",
        "known = unproven(file) if stored and same and not proven else facts_of(file)",
        "known = facts_of(file)",
        (f"{_SAME}test_a_journal_of_before_proves_nothing_about_what_was_touched",),
    ),
    Mutant(
        "digests-are-compared",
        "A file that was replaced counts as sent, whatever is in it.",
        "pipeline.py",
        "proofs[instance.file.path] = is_same",
        "proofs[instance.file.path] = True",
        (f"{_SAME}test_other_bytes_under_the_same_size_and_time",),
    ),
    Mutant(
        "copy-of-what-was-not-sent",
        "A copy of a file that was changed passes for a copy of what was sent.",
        "journal/intake.py",
        "            if not proof and not own:",
        "            if proof and not own:",
        (f"{_SAME}test_a_copy_of_a_changed_file_is_no_copy_of_what_was_sent",),
    ),
    Mutant(
        "made-up-inodes",
        "On a disk whose inodes have another number each time, nothing that was scanned can be sent.",
        "disks.py",
        'return not (kind in _NO_INODES or kind.startswith("fuse")',
        'return not (kind.startswith("fuse")',
        ("test_journal_disk.py::test_which_disks_keep_their_inodes",),
    ),
    Mutant(
        "changed-after-stored",
        "Bytes that XNAT never got count as stored.",
        "journal/intake.py",
        "        if stored and not same and not again:",
        "        if stored and not state:",
        ("test_journal.py::test_a_file_rewritten_after_it_was_stored",),
    ),
    Mutant(
        "twins-are-compared",
        "A second file under the same SOPInstanceUID, with other bytes, is passed over in silence.",
        "pipeline.py",
        "        if same:\n",
        "        if True:\n",
        ("test_pipeline.py::test_unequal_twins_are_skipped",),
    ),
    Mutant(
        "same-bytes-to-the-last",
        "Files that differ at their end pass for duplicates.",
        "source.py",
        "                if not piece:\n                    return True",
        "                return True",
        ("test_source.py::test_same_bytes_compares_to_the_last_byte",),
    ),
    Mutant(
        "duplicate-stands-in",
        "An instance is lost though there is a second, sound copy of it.",
        "journal/queue.py",
        "                    self._fall_back(outcome.claim.key, outcome.reason)\n",
        "                    pass\n",
        ("test_pipeline.py::test_equal_twins_are_duplicates_and_stand_in",),
    ),
    Mutant(
        "late-duplicate-stands-in",
        "A copy that the scan meets after the first one could not be read is never sent.",
        "journal/intake.py",
        "            self._stand_in()\n",
        "",
        ("test_journal.py::test_a_duplicate_met_later_stands_in_at_the_end_of_the_scan",),
    ),
    Mutant(
        "label-collision",
        "Two studies end in one session.",
        "journal/registry.py",
        "if reason := self._label_taken(session) or self._meet(session, patient, None):",
        "if reason := self._meet(session, patient, None):",
        ("test_journal.py::test_one_label_for_two_studies",),
    ),
    Mutant(
        "label-collision-up-to-case",
        "Labels that differ by case are one to XNAT's archive: two studies end in one session.",
        "journal/registry.py",
        "project = ? AND label = ? COLLATE NOCASE",
        "project = ? AND label = ?",
        ("test_journal.py::test_one_label_for_two_studies",),
    ),
    Mutant(
        "labels-are-unique",
        "The database would let two studies share a label.",
        "journal/schema.sql",
        "CREATE UNIQUE INDEX session_label ON session (project, label COLLATE NOCASE)",
        "CREATE INDEX session_label ON session (project, label COLLATE NOCASE)",
        ("test_journal.py::test_labels_and_identities_are_unique",),
    ),
    Mutant(
        "one-study-one-session",
        "A study is torn into two sessions.",
        "journal/registry.py",
        "        elif known.session != session:",
        "        elif known.session.project != session.project:",
        ("test_journal.py::test_one_study_under_two_names",),
    ),
    Mutant(
        "two-patients-of-a-subject",
        "Two patients end in one subject.",
        "journal/registry.py",
        "WHERE project = ? AND subject = ? AND id <> ?",
        "WHERE project = ? AND subject = ? AND id <> ? AND 0",
        ("test_patients.py::test_two_studies_of_one_subject",),
    ),
    Mutant(
        "two-patients-of-a-study",
        "A study with files of two patients ends under one of them.",
        "journal/registry.py",
        "(key,)) != (patient.id,):",
        "(key,)) == ():",
        ("test_sharpness.py::test_a_study_of_merged_patients_takes_no_third",),
    ),
    Mutant(
        "one-id-two-names",
        "Two patients under one PatientID (`ANON`, `1`) end in one subject.",
        "journal/registry.py",
        "                value\n                and self",
        "                value == column\n                and self",
        ("test_patients.py::test_two_studies_of_one_subject",),
    ),
    Mutant(
        "changed-before-it-is-sent",
        "A file that was rewritten since the scan is sent under the labels of what it was.",
        "source.py",
        "            _check(file, os.fstat(handle))\n            body",
        "            body",
        ("test_source.py::test_what_changed_after_the_walk_is_not_read[touched-100]",),
    ),
    Mutant(
        "rewritten-before-it-is-sent",
        "A file that was rewritten since the scan, with its size and time, is sent under the labels of what it was.",
        "model/files.py",
        "            and (self.ctime_ns is None or now.st_ctime_ns == self.ctime_ns)\n",
        "",
        ("test_source.py::test_what_changed_after_the_walk_is_not_read[rewritten-100]",),
    ),
    Mutant(
        "large-file-changed-before-it-is-sent",
        "A large file that was rewritten since the scan is sent under the labels of what it was.",
        "source.py",
        "            _check(file, os.stat(file.path))  # noqa: PTH116 - the path need not be text\n",
        "",
        ("test_source.py::test_what_changed_after_the_walk_is_not_read[touched-1048577]",),
    ),
    Mutant(
        "mounts-below-a-source",
        "A file server that goes away stops the loop, and with it all that is under way.",
        "disks.py",
        "        or any(_network(mount) and Path(mount.mountpoint).is_relative_to(place) for mount in table)\n",
        "",
        ("test_journal_disk.py::test_what_a_source_is_or_holds",),
    ),
    Mutant(
        "shrinking-body",
        "A file that shrinks while it is sent leaves the server waiting for the rest.",
        "source.py",
        '                        raise SourceError("the file shrank while it was sent")',
        "                        break",
        ("test_source.py::test_a_file_that_shrinks_while_it_is_streamed",),
    ),
    Mutant(
        "growing-body",
        "A file that grows while it is sent is cut to its old length, and acknowledged.",
        "source.py",
        "                        await anyio.to_thread.run_sync(_check_open, self._file, handle.fileno())\n",
        "",
        ("test_source.py::test_a_file_that_grows_while_it_is_streamed",),
    ),
    Mutant(
        "recorder-is-shielded",
        "What XNAT acknowledged while the run was cancelled is not written down, and sent once more.",
        "pipeline.py",
        "        # Shielded, because what has been taken from the stream stands nowhere else.\n"
        "        with anyio.CancelScope(shield=True):",
        "        with anyio.CancelScope():",
        ("test_pipeline.py::test_outcomes_that_wait_for_the_journal_outlive_a_cancellation",),
    ),
    Mutant(
        "outcome-is-handed-in",
        "An acknowledgement that came as the run was cancelled never reaches the recorder.",
        "pipeline.py",
        "            with anyio.CancelScope(shield=True):\n                await outcomes.send(outcome)",
        "            await outcomes.send(outcome)",
        ("test_pipeline.py::test_outcomes_that_wait_for_the_journal_outlive_a_cancellation",),
    ),
    Mutant(
        "rest-is-recorded",
        "What XNAT acknowledged before another stage failed is not written down.",
        "pipeline.py",
        "                while rest := _at_hand(outcomes):",
        "                while rest := []:",
        ("test_pipeline.py::test_outcomes_that_wait_for_the_journal_outlive_a_cancellation",),
    ),
    Mutant(
        "in-flight-of-a-refused-session",
        "What XNAT acknowledges of a session after it was refused is not recorded: the delivery is held too early.",
        "journal/queue.py",
        'if not self._one("SELECT EXISTS (SELECT 1 FROM flying WHERE session = ?)", (session,))[0]:',
        "if True:",
        ("test_journal.py::test_what_is_in_flight_of_a_refused_session_is_still_recorded",),
    ),
    Mutant(
        "landed-is-in-flight",
        "What has landed counts as on its way for ever: its session is never finalised.",
        "journal/ephemeral.sql",
        "    DELETE FROM flying WHERE session = new.session AND instance = new.key;",
        "    SELECT 1;",
        ("test_journal.py::test_a_batch_is_written_to_the_last_row_however_many_there_are[3]",),
    ),
    Mutant(
        "refused-session-is-barred",
        "The rest of a misrouted session follows its first file into the wrong project.",
        "journal/queue.py",
        "if isinstance(outcome, Refused) and outcome.whole_session:",
        "if False:",
        ("test_journal.py::test_nothing_more_of_a_refused_session_is_sent",),
    ),
    Mutant(
        "gone-files-fail",
        "A file that vanished before it was sent is forgotten, and its session archived without a word.",
        "journal/intake.py",
        '                self._fail(instance, "the file is gone")\n',
        "",
        ("test_journal.py::test_gone_files",),
    ),
    Mutant(
        "journal-lock",
        "Two runs on one journal send behind each other's seals.",
        "journal/store.py",
        "        self._lock: FileLock = locked(path)",
        '        self._lock: FileLock = locked(path.with_name(f"{path.name}.{id(self)}"))',
        ("test_journal_file.py::test_a_second_run_is_refused",),
    ),
    Mutant(
        "journal-of-another-server",
        "What one server holds counts as stored on another.",
        "journal/database.py",
        'if stored.get("destination", destination) != destination:',
        'if not stored.get("destination", destination):',
        ("test_journal_file.py::test_another_server",),
    ),
    Mutant(
        "rules-of-a-journal",
        "A resumed run with other templates tears sessions in two.",
        "journal/database.py",
        "if changed := [name for name in wanted if stored.get(name) != wanted[name]]:",
        "if changed := [name for name in () if stored.get(name) != wanted[name]]:",
        ("test_journal_file.py::test_other_rules",),
    ),
    Mutant(
        "scan-first-waits",
        "--scan-first sends before the scan has found the collision.",
        "pipeline.py",
        "self._may_feed = not options.scan_first",
        "self._may_feed = True",
        ("test_pipeline.py::test_scan_first_waits_though_an_older_delivery_ends",),
    ),
    Mutant(
        "scan-first-refuses",
        "--scan-first sends though studies collide.",
        "pipeline.py",
        "if options.scan_first and (collisions",
        "if not options.scan_first and (collisions",
        ("test_pipeline.py::test_scan_first_refuses_a_source_with_collisions",),
    ),
    Mutant(
        "stop-hands-out-no-more",
        "A run that was asked to stop goes on for as long as it has files.",
        "pipeline.py",
        "                if self._stop.requested:\n                    raise StoppedError\n",
        "",
        ("test_sharpness.py::test_a_stop_leaves_the_rest_of_what_is_in_hand",),
    ),
    Mutant(
        "all-rows-of-a-batch",
        "Of a large batch only the first rows reach the journal: the others are never sent, or sent again.",
        "journal/store.py",
        "range(0, len(rows), _ROWS_AT_ONCE)",
        "range(0, min(len(rows), _ROWS_AT_ONCE), _ROWS_AT_ONCE)",
        ("test_journal.py::test_a_batch_is_written_to_the_last_row_however_many_there_are[1300]",),
    ),
    Mutant(
        "outage-is-no-verdict",
        "Each file of a server that is away is marked failed, and the run says it is done.",
        "pipeline.py",
        "                if not self._outage.is_on(error, trail.times[-2]):\n",
        "                if True:\n",
        ("test_pipeline.py::test_no_file_is_to_blame_for_an_outage",),
    ),
    Mutant(
        "one-files-trouble-is-no-outage",
        "One file that a proxy cannot cope with makes the whole run wait for an hour.",
        "limits/outage.py",
        "        if self._succeeded_at > since:\n            return False\n",
        "",
        ("test_pipeline.py::test_a_file_that_fails_while_others_get_through_fails_for_itself",),
        hang=True,
    ),
    Mutant(
        "a-full-disk-is-an-outage",
        "XNAT's full disk refuses a whole collection, file by file.",
        "limits/outage.py",
        "return not error.judges_file or (error.blames_file and len(self._blamed) >= self._TOO_MANY_BLAMED)",
        "return not error.judges_file",
        ("test_pipeline.py::test_no_file_is_to_blame_for_an_outage",),
    ),
    Mutant(
        "outage-while-finalising",
        "A session whose archiving meets an outage is held, and waits for a person.",
        "pipeline.py",
        "self._outage.through(partial(self._destination.finalize, sealed), sealed.delivery)",
        "self._destination.finalize(sealed)",
        ("test_pipeline.py::test_an_outage_while_finalising_is_waited_for",),
    ),
    Mutant(
        "longest-outage",
        "A run waits for ever for a server that never comes back.",
        "limits/outage.py",
        "if waited > self._longest:",
        "if False:",
        ("test_pipeline.py::test_a_server_that_stays_away_ends_the_run",),
        hang=True,
    ),
    Mutant(
        "retry-after",
        "The run beats on a server that has asked for time.",
        "retry.py",
        "return spread if hint is None else min(hint, 300.0) + spread",
        "return spread",
        ("test_retry.py::test_honours_retry_after",),
    ),
    Mutant(
        "retry-after-is-read",
        "XNAT's wish for time is not heard.",
        "replies/reply.py",
        "return float(value) if value.isdecimal() else None",
        "return None",
        ("test_replies.py::test_retry_after",),
    ),
    Mutant(
        "retry-after-holds-all",
        "One worker waits as the server asked, and all the others beat on it.",
        "limits/throttle.py",
        "self._resume_at = max(self._resume_at, now + min(hint, _LONGEST_WISH))",
        "pass",
        ("test_limits.py::test_retry_after_holds_back_every_call",),
    ),
    Mutant(
        "overload-slows-all",
        "A sick server gets as many files at once as a healthy one.",
        "pipeline.py",
        "            self._throttle.overloaded(error.retry_after)\n",
        "            pass\n",
        ("test_sharpness.py::test_one_retry_after_holds_all_workers_back",),
    ),
    Mutant(
        "truncated-files",
        "Half an image is archived as a whole one.",
        "pipeline.py",
        "truncated = identity.truncated if not self._options.send_truncated else None",
        "truncated = None",
        ("test_nothing_lost.py::test_partial_sessions_are_held_or_archived",),
    ),
    Mutant(
        "image-without-pixels",
        "An image that ends before its pixel data is archived as a whole one.",
        "dicom/look.py",
        'return identity(fields, shortfall(file, at, encoding, fields.get("SOPClassUID", "")))',
        'return identity(fields, shortfall(file, at, encoding, ""))',
        ("test_sharpness.py::test_a_truncated_file_is_told_from_a_whole_one",),
    ),
    Mutant(
        "pixels-to-the-last",
        "An image whose last pixels are missing is archived as a whole one.",
        "dicom/ending.py",
        "end == source.size < UNDEFINED",
        "end >= source.size",
        ("test_sharpness.py::test_a_truncated_file_is_told_from_a_whole_one",),
    ),
    Mutant(
        "bomb-of-deflate",
        "A deflated file of 3 MB stands for as many GB, and a scan inflates them all.",
        "dicom/source.py",
        "if self.size > self._most:",
        "if not self._most:",
        ("test_hostile_dicom.py::test_what_is_too_large_behind_the_header_is_told[3 GiB of pixels]",),
    ),
    Mutant(
        "bomb-of-delimiters",
        "A file of nothing but delimiters holds the scan.",
        "dicom/ending.py",
        "if stray > _MOST_BEFORE:",
        "if stray < 0:",
        ("test_hostile_dicom.py::test_a_scan_goes_on_behind_a_bomb",),
    ),
    Mutant(
        "bomb-for-pydicom",
        "A list of a million references is read into memory, item by item.",
        "dicom/reader.py",
        "if self._reads < 0 or self._bytes < 0:",
        "if self._bytes < 0:",
        ("test_hostile_dicom.py::test_what_is_too_large_before_the_uids_is_told[items for pydicom]",),
    ),
    Mutant(
        "another-files-character-set",
        "A name is decoded by the character set of the file before, and its session gets another's label.",
        "dicom/peek.py",
        "key = last, codec, explicit",
        "key = last, explicit",
        ("test_dicom.py::test_a_character_set_is_not_taken_from_the_file_before",),
    ),
    Mutant(
        "another-files-header",
        "A file is routed by the header of the file before.",
        "dicom/peek.py",
        "(known := _latest.get(key)) and head.startswith(known[0], at)",
        "(known := _latest.get(key)) and head.startswith(known[0][:4], at)",
        ("test_dicom.py::test_what_came_before_changes_nothing",),
    ),
    Mutant(
        "looks-in-their-order",
        "Files that are looked at together are sent under the labels of each other.",
        "source.py",
        "[shares[index % together][0][index // together] for index in range(len(items))]",
        "[result for share_of, _ in shares for result in share_of]",
        ("test_source.py::test_where_opening_is_slow_many_are_opened_at_once",),
    ),
    Mutant(
        "a-long-answer-may-follow-an-effect",
        "A session is sealed though what came in place of XNAT's answer says nothing of the file that was sent.",
        "replies/reply.py",
        "which is none of XNAT's\", cut=True)",
        "which is none of XNAT's\")",
        ("test_reading.py::test_an_answer_without_end_is_judged_by_its_beginning",),
    ),
    Mutant(
        "a-packed-answer-that-breaks-off",
        "What the archive lacks is not seen in half a listing.",
        "xnat/reading.py",
        "if not unpacking.eof:",
        "if not unpacking:",
        ("test_reading.py::test_what_cannot_be_unpacked_may_come_again",),
    ),
    Mutant(
        "headers-of-a-dead-worker",
        "What stands behind a file that ends the process that reads headers is not sent, and nobody hears of it.",
        "source.py",
        'looks.append((FileKind.UNREADABLE, "to read its header ends the process that reads it", True))',
        'looks += [(FileKind.NOT_DICOM, "not DICOM", False)] * (len(paths) - number)\n                return looks',
        ("test_source.py::test_a_file_that_ends_the_process_twice_is_unreadable",),
    ),
    Mutant(
        "path-of-an-interpreter",
        "A module that somebody put among the files to be sent is run.",
        "interpreter.py",
        "del entries[0]",
        "pass",
        ("test_interpreter.py::test_the_current_directory_is_left_out",),
    ),
    Mutant(
        "environment-of-an-interpreter",
        "The process that reads what strangers have written knows the password.",
        "interpreter.py",
        "if name.upper() in _NEEDED or name.upper().startswith(_NEEDED_BEGINNINGS)",
        "if name",
        ("test_interpreter.py::test_a_worker_gets_no_secret",),
    ),
    Mutant(
        "archives-in-the-tree",
        "A zip of a thousand images is passed over as a file that is not DICOM.",
        "source.py",
        "if not ignore_archives and (kind",
        "if ignore_archives and (kind",
        ("test_sharpness.py::test_a_zip_of_images_is_not_passed_over_in_silence",),
    ),
    Mutant(
        "uids-of-the-data-set",
        "A file whose meta information names another instance is looked for in the archive under the wrong UID.",
        "dicom/identity.py",
        '"SOPInstanceUID": 0x0008_0018',
        '"SOPInstanceUID": 0x0002_0003',
        ("test_odd_files.py::test_odd_images_are_known_and_whole[meta names another instance]",),
    ),
    Mutant(
        "fifo",
        "A pipe in the tree holds the scan for ever.",
        "dicom/look.py",
        'os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)',
        "os.O_RDONLY",
        ("test_dicom.py::test_a_fifo_does_not_hang",),
        hang=True,
    ),
)

# --- Who may see what, and what is told

MANNERS = (
    Mutant(
        "umask",
        "Everybody on the machine may read the patients' identifiers in what SQLite makes beside the journal.",
        "cli/app.py",
        "    os.umask(0o077)\n",
        "",
        ("test_sharpness.py::test_what_the_command_line_makes_is_its_owners",),
    ),
    Mutant(
        "journal-mode",
        "Everybody on the machine may read the patients' identifiers in the journal.",
        "journal/database.py",
        "os.O_CREAT | os.O_RDWR, 0o600",
        "os.O_CREAT | os.O_RDWR, 0o644",
        ("test_journal_file.py::test_a_new_journal_is_its_owners_alone",),
    ),
    Mutant(
        "password-in-repr",
        "Tracebacks and logs show the password.",
        "xnat/client.py",
        'return f"Credentials({self.user!r}, ...)"',
        'return f"Credentials({self.user!r}, {self.password!r})"',
        ("test_client.py::test_credentials_show_in_no_repr",),
    ),
    Mutant(
        "patient-in-repr",
        "Tracebacks and logs show the patient.",
        "model/files.py",
        "@dataclass(frozen=True, slots=True, repr=False)\nclass Patient:",
        "@dataclass(frozen=True, slots=True)\nclass Patient:",
        ("test_sharpness.py::test_no_repr_shows_the_patient",),
    ),
    Mutant(
        "netrc-is-private",
        "A password that everybody may read is used without a word.",
        "credentials/lookup.py",
        'if os.name == "posix" and path.stat()',
        'if os.name == "none" and path.stat()',
        ("test_credentials.py::TestNetrc::test_open_to_others",),
    ),
    Mutant(
        "plain-http",
        "Password and patients cross the network in the clear.",
        "credentials/hosts.py",
        "parts.hostname not in _LOOPBACK and not insecure:",
        "not parts.hostname:",
        ("test_credentials.py::TestHost::test_plain_http_to_another_machine",),
    ),
    Mutant(
        "password-of-another-server",
        "The environment's password goes to whichever server --host names.",
        "credentials/lookup.py",
        'if not named or named.rstrip("/") == host:',
        "if host:",
        ("test_credentials.py::TestEnvironment::test_bound_to_another_server",),
    ),
    Mutant(
        "addresses-in-reasons",
        "XNAT's error pages put labels, which are patients, into messages and logs.",
        "replies/reply.py",
        '_ADDRESS.sub("…", " ".join(html.unescape(_TAGS.sub(" ", text)).split()))',
        '" ".join(html.unescape(_TAGS.sub(" ", text)).split())',
        ("test_replies.py::test_reasons_of_the_session_keep_the_words_of_xnat", "test_replies.py::test_errors"),
    ),
    Mutant(
        "exit-8",
        "A scheduler takes a run with lost files for one with sessions to look at, or for a good one.",
        "cli/output.py",
        "files.failed or summary.containers:\n        return 8\n",
        "files.failed or summary.containers:\n        return 9\n",
        ("test_output.py::test_exit_code",),
    ),
    Mutant(
        "exit-8-of-archives",
        "A scheduler takes a run that passed over a zip of images for a good one.",
        "cli/output.py",
        " or summary.containers:",
        ":",
        ("test_sharpness.py::test_a_zip_of_images_is_not_passed_over_in_silence",),
    ),
    Mutant(
        "exit-9",
        "A scheduler takes a run with held sessions for a good one.",
        "cli/output.py",
        'if report.state in {"held", "open"} and report.reason != NOTHING_KEPT:',
        'if report.state in {"open"} and report.reason != NOTHING_KEPT:',
        ("test_output.py::test_exit_code",),
    ),
    Mutant(
        "exit-9-of-what-is-left",
        "A scheduler takes a run that left files behind for a good one.",
        "cli/output.py",
        "return 9 if files.left or waits else 0",
        "return 9 if waits else 0",
        ("test_output.py::test_exit_code",),
    ),
    Mutant(
        "verify-exit-9",
        "A scheduler takes an archive that has lost instances for a complete one.",
        "cli/verify.py",
        "return 0 if all(problem is None for problem in problems) and not self.unrepaired else 9",
        "return 0",
        ("test_verification.py::test_new_uids_are_not_believed_without_a_script_that_makes_them",),
    ),
    Mutant(
        "control-characters",
        "The name of a file writes what it likes on the terminal, a clean summary for instance.",
        "cli/output.py",
        "character if character.isprintable() else _spelt(character)",
        "character",
        ("test_output.py::test_plain_is_harmless",),
    ),
)

# --- Plans, and parts of a source

_PLAN = "test_plan.py::"
_REPAIR = "test_journal_repair.py::"
_LOST = "test_nothing_lost.py::"

PLANS = (
    Mutant(
        "only-what-is-in-the-plan",
        "A study that somebody took out of the plan is sent all the same, somewhere.",
        "plan.py",
        'raise LeftOutError("it is not in the plan")',
        'return Session(self._project or "demo", "S", "E" + study_uid.replace(".", "_"), study_uid)',
        (f"{_PLAN}test_upload_does_what_the_plan_says_and_nothing_else",),
    ),
    Mutant(
        "skip-means-skip",
        "A row marked skip is sent.",
        "plan.py",
        "        if row.skip:\n            raise",
        "        if False:\n            raise",
        (f"{_PLAN}test_upload_does_what_the_plan_says_and_nothing_else",),
    ),
    Mutant(
        "a-plan-is-checked-first",
        "Half of a plan is sent before its first error is met.",
        "cli/transfer.py",
        "    if strict and found.errors:\n",
        "    if False:\n",
        (f"{_PLAN}test_a_plan_with_an_error_sends_nothing",),
    ),
    Mutant(
        "one-label-one-study-in-a-plan",
        "Two studies share a label in a plan, and the second ends as a conflict on the server.",
        "plan.py",
        "        if owner != draft.study.study_uid:\n",
        "        if False:\n",
        (f"{_PLAN}test_each_problem_is_told_with_its_code[label-taken]",),
    ),
    Mutant(
        "one-subject-one-patient-in-a-plan",
        "Two patients share a subject, and nobody is told.",
        "plan.py",
        "    if not merge_patients:\n",
        "    if False:\n",
        (f"{_PLAN}test_each_problem_is_told_with_its_code",),
    ),
    Mutant(
        "label-on-server",
        "A dry run does not see that the label is another study's in the archive.",
        "plan.py",
        'if there is not None and there.study_uid not in {"", row.study_uid}:',
        "if False:",
        (f"{_PLAN}test_a_dry_run_asks_the_server_and_sends_nothing",),
    ),
    Mutant(
        "a-part-is-not-the-whole",
        "A run over a part marks everything else as gone, and failed.",
        "source.py",
        "return () if self._include or self._exclude else self.places",
        "return self.places",
        (f"{_PLAN}test_what_a_pattern_passes_over_is_not_gone",),
    ),
    Mutant(
        "being-written",
        "Half a study is taken from a drop directory while the scanner is still writing.",
        "plan.py",
        "    if draft.session is None or draft.study.newest <= since:\n",
        "    if True:\n",
        ("test_watching.py::test_a_study_that_is_being_written_waits",),
    ),
    Mutant(
        "excluded-is-no-problem",
        "Whoever sends a pilot gets an exit code as if something had gone wrong.",
        "cli/output.py",
        'if problem.kind == "excluded")',
        "if False)",
        (f"{_PLAN}test_a_part_of_the_source",),
    ),
    Mutant(
        "closed-projects",
        "One project that is missing ends a run with ten others.",
        "cli/transfer.py",
        "            if len(projects) == 1:\n",
        "            if True:\n",
        (f"{_PLAN}test_a_run_goes_on_without_a_project_that_is_closed",),
    ),
    Mutant(
        "resend-only-when-asked",
        "A rewritten file takes the place of what is in the archive, though nobody asked for it.",
        "journal/intake.py",
        "        again = resend_changed and own",
        "        again = own",
        (f"{_LOST}test_rewritten_files_are_sent_again_only_when_asked",),
    ),
)

# --- What is lacking, late or gone

LACKING = (
    Mutant(
        "quiet-period",
        "An upload that broke off takes effect behind the seal: XNAT answers 200, and may lose the file.",
        "journal/queue.py",
        "            if wait:\n",
        "            if False:\n",
        (f"{_REPAIR}test_a_delivery_waits_for_quiet",),
    ),
    Mutant(
        "unsure-is-on-disk",
        "An attempt that broke off is forgotten, and its session sealed at once.",
        "journal/queue.py",
        "                if outcome.unsure:\n",
        "                if False:\n",
        (f"{_REPAIR}test_a_delivery_waits_for_quiet",),
    ),
    Mutant(
        "the-time-of-day-decides-no-wait",
        "A clock that is set forwards ends the wait for an upload that broke off, one that is set back prolongs it.",
        "journal/queue.py",
        "(quiet_period, self._ticks()),",
        "(quiet_period, self._ticks() + self._clock() % 86_400),",
        (f"{_REPAIR}test_a_wait_is_what_it_is_though_the_clock_is_set",),
    ),
    Mutant(
        "a-clock-that-was-ahead",
        "A run whose clock was a day ahead makes the next one wait for a day.",
        "journal/store.py",
        "max(0, ? - unsure_at)",
        "(? - unsure_at)",
        (f"{_REPAIR}test_a_clock_that_was_a_day_ahead",),
    ),
    Mutant(
        "cut-is-unsure",
        "The line does not tell the journal of attempts that broke off.",
        "pipeline.py",
        "        trail.unsure |= error.cut\n",
        "",
        (f"{_LOST}test_a_late_effect_within_the_quiet_period_does_no_harm",),
    ),
    Mutant(
        "unsure-after-a-kill",
        "What was in flight when the process was killed takes effect behind the seal.",
        "journal/store.py",
        "                if self._was_killed():\n",
        "                if False:\n",
        (f"{_REPAIR}test_after_a_kill_everything_open_is_unsure",),
    ),
    Mutant(
        "unsure-after-a-stop",
        "What was dropped by a second Ctrl-C takes effect behind the seal.",
        "journal/store.py",
        "AND session IN (SELECT session FROM flying)",
        "AND 0",
        (f"{_REPAIR}test_after_an_orderly_end_only_what_was_in_flight_is_unsure",),
    ),
    Mutant(
        "a-gateways-504-is-unsure",
        "What a gateway did not wait for takes effect behind the seal.",
        "replies/reply.py",
        "            cut=reply.status >= 500,\n",
        "",
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "a-500-is-unsure",
        "What a gateway did not wait for, and calls a 500 or a 520, takes effect behind the seal.",
        "replies/reply.py",
        "retry_after=retry_after(reply), cut=True\n        )\n    if reply.status == 200",
        "retry_after=retry_after(reply)\n        )\n    if reply.status == 200",
        ("test_replies.py::test_errors", f"{_LOST}test_a_late_effect_of_what_a_gateway_called_an_error"),
    ),
    Mutant(
        "maintenance-is-an-outage",
        "A run of days ends with the first page of maintenance, and nobody starts it again.",
        "replies/reply.py",
        "    if at_login or reply.status in _PERMANENT:\n",
        "    if True:\n",
        (f"{_LOST}test_a_page_that_tells_of_maintenance_is_an_outage",),
    ),
    Mutant(
        "sweep",
        "What took effect late stays in the prearchive, and nobody is told.",
        "cli/transfer.py",
        "                        outcome.strays = await _sweep(client, journal, err)\n",
        "                        outcome.strays = []\n",
        (f"{_LOST}test_a_stray_session_is_reported_and_removed_when_asked",),
    ),
    Mutant(
        "strays-bear-our-label",
        "Another session of the same study is taken for a stray of ours, and deleted.",
        "xnat/strays.py",
        "ours.get((row.study_uid, row.label))",
        "next((s for u, s in ((s.study_uid, s) for s in ours.values()) if u == row.study_uid), None)",
        (f"{_LOST}test_rows_of_others_are_no_strays",),
    ),
    Mutant(
        "live-deliveries-are-no-strays",
        "Our own session in the prearchive is taken for a stray, and deleted.",
        "verification.py",
        'live = {one.uri for one in deliveries if one.uri and one.state != "ARCHIVED"}',
        "live: set[str] = set()",
        (f"{_LOST}test_rows_of_others_are_no_strays",),
    ),
    Mutant(
        "strays-are-removed-with-proof",
        "The only copy of an instance is deleted.",
        "xnat/strays.py",
        "    if lacking := uids - held:\n",
        "    if lacking := uids - uids:\n",
        (f"{_LOST}test_a_stray_with_something_the_archive_lacks_stays",),
    ),
    Mutant(
        "strays-of-others-stay",
        "What another program has sent is deleted under its hands.",
        "xnat/strays.py",
        '    if stray.source not in {"", OUR_SOURCE}:\n',
        "    if False:\n",
        (f"{_LOST}test_what_is_not_ours_to_delete_stays",),
    ),
    Mutant(
        "busy-strays-stay",
        "A row that XNAT is at work on is deleted.",
        "xnat/strays.py",
        "    if row.is_busy:\n",
        "    if False:\n",
        (f"{_LOST}test_what_is_not_ours_to_delete_stays",),
    ),
    Mutant(
        "changed-strays-stay",
        "A file that came in between the download and the DELETE is lost, though XNAT has acknowledged it.",
        "xnat/strays.py",
        "    if await _state(client, stray, policy) != before:\n",
        "    if False:\n",
        ("test_strays.py::test_a_file_that_comes_in_while_the_row_is_looked_at_is_not_lost",),
    ),
    Mutant(
        "strays-of-late-stay",
        "A file that came in within the 15 s that XNAT does not tell apart is deleted unseen.",
        "xnat/strays.py",
        "    if row.quiet_seconds < _QUIET_SECONDS:\n",
        "    if False:\n",
        ("test_strays.py::test_a_row_of_late_stays", "test_strays.py::test_the_clock_is_the_servers"),
    ),
    Mutant(
        "strays-that-grow-in-a-build-stay",
        "A file that came in while the row was built is deleted unseen: XNAT says READY all the same.",
        "xnat/strays.py",
        " or state.row.lastmod != row.lastmod:",
        ":",
        ("test_strays.py::test_a_file_that_comes_in_while_it_is_built_keeps_the_row",),
    ),
    Mutant(
        "strays-of-nothing-stay",
        "A zip without files is taken for proof that the archive has all of them.",
        "xnat/strays.py",
        '    if not found:\n        raise RefusedError("XNAT handed out no file of it")\n',
        "",
        ("test_strays.py::test_a_row_whose_files_cannot_be_told_stays[no entry]",),
    ),
    Mutant(
        "strays-that-are-no-dicom-stay",
        "A file that nobody knows is deleted with its row.",
        "xnat/strays.py",
        'raise RefusedError(f"a file in it is no DICOM file ({outcome.reason})") from None',
        "continue",
        ("test_strays.py::test_a_row_whose_files_cannot_be_told_stays[no DICOM]",),
    ),
    Mutant(
        "strays-are-seen-whole",
        "A file that the zip lacks is deleted unseen.",
        "xnat/strays.py",
        "    if len(found) < before.files:\n",
        "    if False:\n",
        ("test_strays.py::test_a_zip_that_lacks_files_keeps_the_row",),
    ),
    Mutant(
        "one-journal-has-one-lock",
        "Two runs at once, under two names of one journal, send everything twice.",
        "journal/database.py",
        'lock = filelock.FileLock(f"{real}.lock"',
        'lock = filelock.FileLock(f"{path}.lock"',
        ("test_journal_file.py::test_a_link_and_what_it_leads_to_are_one_journal",),
    ),
    Mutant(
        "locks-of-others-are-waited-for",
        "A backup of the journal ends the run.",
        "journal/database.py",
        "                if not is_busy(error) or monotonic() > until:\n",
        "                if True:\n",
        ("test_journal_file.py::test_another_programs_lock_is_waited_for",),
    ),
    Mutant(
        "journals-of-others-are-not-used",
        "A journal that somebody else put there says what is sent already, and what may be deleted.",
        "journal/database.py",
        "        check_trusted(real)\n",
        "",
        ("test_journal_file.py::test_a_journal_of_another_user",),
    ),
    Mutant(
        "logs-of-others-are-not-used",
        "SQLite takes in what somebody else put beside the journal.",
        "journal/database.py",
        "            check_trusted(place)\n",
        "",
        ("test_journal_file.py::test_a_journal_of_another_user",),
    ),
    Mutant(
        "links-of-others-are-not-followed",
        "A log, or a list, takes the place of a file that another user has chosen.",
        "outputs.py",
        '            _check_owner(found, place, "the link")\n',
        "            pass\n",
        ("test_outputs.py::test_a_link_that_another_has_put_there_is_not_followed",),
    ),
    Mutant(
        "only-files-are-replaced",
        "A device, or the pipe to another program, becomes a file.",
        "outputs.py",
        "if old is not None and (place.startswith(_GIVEN) or not stat.S_ISREG(old.st_mode)):",
        "if False:",
        ("test_outputs.py::test_a_pipe_is_written_to", "test_outputs.py::test_what_a_process_was_given_open"),
    ),
    Mutant(
        "repair",
        "What the archive lacks is not sent again.",
        "journal/queue.py",
        '                self._take_back(session, verdict.missing, "PENDING", None)\n            elif',
        "                pass\n            elif",
        (f"{_LOST}test_what_the_archive_lacks_is_sent_again",),
    ),
    Mutant(
        "repair-once",
        "What is lost again and again is sent again and again, for ever.",
        "journal/queue.py",
        'return self._db.execute("INSERT OR IGNORE INTO repaired VALUES (?)", (session,)).rowcount == 1',
        "return True",
        (f"{_REPAIR}test_what_is_missing_again_is_held",),
        hang=True,
    ),
    Mutant(
        "taken-out-is-not-put-back",
        "A scan that somebody has deleted from the archive on purpose comes back.",
        "journal/queue.py",
        "AND d.verified = 'uids'\"",
        'AND 0"',
        (f"{_REPAIR}test_what_was_seen_in_the_archive_and_taken_out_is_not_put_back",),
    ),
    Mutant(
        "the-feed-waits-for-verdicts",
        "A repair waits for a feed that has ended, and the run ends without it.",
        "journal/queue.py",
        '"OR EXISTS (SELECT 1 FROM ready) OR EXISTS (SELECT 1 FROM busy)"',
        '""',
        (f"{_LOST}test_what_the_archive_lacks_is_sent_again",),
    ),
    Mutant(
        "stored-stays-stored",
        "A defect sends again what XNAT holds, into a session that is being archived.",
        "journal/schema.sql",
        "    WHERE old.state = 'STORED'\n      AND EXISTS",
        "    WHERE 0 AND EXISTS",
        ("test_journal_repair.py::test_the_database_keeps_what_is_stored",),
    ),
    Mutant(
        "rejected-is-not-lost",
        "What a project's script rejects is sent again, and again lost.",
        "xnat/images.py",
        "if dropping else None",
        "if False else None",
        (f"{_LOST}test_what_a_projects_script_rejects_is_told_apart",),
    ),
    Mutant(
        "only-a-rejecting-script-explains",
        "Any script of the project is an excuse for any loss.",
        "replies/site.py",
        "return _REJECTS.search(reply.text) is not None if reply.status == 200 else None",
        "return True if reply.status == 200 else None",
        (f"{_LOST}test_a_script_that_rejects_nothing_explains_nothing",),
    ),
    Mutant(
        "empty-without-a-filter",
        "A mishap on the way is taken for a filter's verdict, and the file is left out of its session.",
        "xnat/images.py",
        '            if found.on_import == "":\n',
        "            if False:\n",
        (f"{_LOST}test_an_empty_answer_without_a_filter_is_not_believed_at_once",),
    ),
    Mutant(
        "an-empty-answer-is-no-outage",
        "A file that something unknown drops makes the whole run wait for an hour.",
        "limits/outage.py",
        "return not error.judges_file or",
        "return not error.blames_file or",
        (f"{_LOST}test_an_empty_answer_that_stays_and_that_nothing_explains",),
        hang=True,
    ),
    Mutant(
        "at-the-door",
        "A file too large for the proxy is tried again in every run, because one of its answers got lost.",
        "pipeline.py",
        "if trail.unsure and not at_the_door:",
        "if trail.unsure:",
        ("test_pipeline.py::test_a_file_that_was_turned_away_at_the_door_is_refused_after_a_cut_too",),
    ),
    Mutant(
        "partial-is-held",
        "Half a session is archived without a word.",
        "journal/intake.py",
        "lacking = pending or (any(self._lacking(session)) and not self._partial)",
        "lacking = pending",
        (f"{_REPAIR}test_a_session_that_lacks_files_is_held",),
    ),
    Mutant(
        "partial-when-asked",
        "A session that lacks a file for good is never archived.",
        "journal/intake.py",
        "(any(self._lacking(session)) and not self._partial)",
        "any(self._lacking(session))",
        (f"{_REPAIR}test_a_partial_session_is_archived_when_asked",),
    ),
    Mutant(
        "damaged-beside-a-session",
        "A file that cannot be opened is missing from its session, which is archived without it.",
        "journal/intake.py",
        "return found[0][0] if len(found) == 1 else None",
        "return None",
        (f"{_REPAIR}test_a_session_that_lacks_files_is_held",),
    ),
    Mutant(
        "damaged-among-many",
        "One unreadable file in a flat directory holds up all sessions in it.",
        "journal/intake.py",
        "return found[0][0] if len(found) == 1 else None",
        "return found[0][0] if found else None",
        (f"{_REPAIR}test_what_a_session_does_not_lack",),
    ),
    Mutant(
        "receipts-tell-what-was-sent",
        "A receipt names no digest, or one of something else.",
        "pipeline.py",
        "hashlib.sha256(body).digest() if isinstance(body, bytes)",
        "hashlib.sha256(b'').digest() if isinstance(body, bytes)",
        (f"{_LOST}test_receipts_tell_what_arrived",),
    ),
    Mutant(
        "large-files-are-digested",
        "A receipt of a large file names no digest.",
        "source.py",
        "sha256.digest() if sha256 is not None else None",
        "None",
        (f"{_LOST}test_receipts_tell_what_arrived",),
    ),
    Mutant(
        "receipts-of-the-stored-only",
        "A receipt tells of a report that XNAT refused.",
        "journal/filed.py",
        "WHERE f.kind = 'ATTACHMENT' AND a.state = 'STORED' ORDER BY a.session, a.resource, a.name",
        "WHERE f.kind = 'ATTACHMENT' ORDER BY a.session, a.resource, a.name",
        ("test_beside.py::test_receipts_tell_of_attachments",),
    ),
    Mutant(
        "not-ours-is-not-created",
        "The undo sheet names a session that was there before: whoever follows it deletes what others have made.",
        "receipts.py",
        "if one.number == 1 and not one.merges:",
        "if one.number == 1:",
        (f"{_LOST}test_what_the_archive_had_before_is_not_called_created",),
    ),
    Mutant(
        "safe-to-delete-is-unchanged",
        "A file that was rewritten after the upload is called safe to delete, and nobody has what is in it.",
        "verification.py",
        "return None if now is None else (file, _holds(now, file, digest))",
        "return None if now is None else (file, True)",
        (f"{_LOST}test_what_is_safe_to_delete",),
    ),
    Mutant(
        "safe-to-delete-by-its-digest",
        "A file that was replaced by one of its size is called safe to delete, and nobody has what is in it.",
        "verification.py",
        "return now.size == sent.size and has_digest(now, digest) is True",
        "return now.size == sent.size",
        (f"{_SAME}test_other_bytes_under_the_same_size_and_time",),
    ),
    Mutant(
        "safe-to-delete-without-a-digest",
        "A file that was replaced by one of its size and time is called safe to delete.",
        "verification.py",
        "return now == sent or (or_looks_so and ",
        "return now == sent or (",
        (f"{_SAME}test_a_journal_of_before_proves_nothing_about_what_was_touched",),
    ),
    Mutant(
        "safe-to-delete-is-there",
        "A file is called safe to delete whose instance the archive lacks.",
        "verification.py",
        "for one in sources if one.sop_uid not in finding.missing)",
        "for one in sources)",
        (f"{_LOST}test_what_is_safe_to_delete",),
    ),
    Mutant(
        "counted-is-not-safe",
        "Files are called safe to delete that were only counted.",
        "verification.py",
        'if finding.verified == "uids" or finding.missing:',
        "if finding.verified or finding.missing:",
        (f"{_LOST}test_nothing_is_safe_to_delete_that_was_only_counted",),
    ),
    Mutant(
        "retry-budget",
        "A server in trouble gets every call eight times.",
        "retry.py",
        "spare=spend()",
        "spare=True",
        ("test_retry.py::test_without_repetitions_to_spare_every_pause_is_long",),
    ),
    Mutant(
        "the-last-file-may-be-hopeless",
        "A file that a proxy cannot cope with ends every run after an hour, as if the server were away.",
        "limits/outage.py",
        "                    if await self._is_hopeless(error, waited):\n",
        "                    if False:\n",
        ("test_pipeline.py::test_the_last_file_may_be_hopeless",),
    ),
    Mutant(
        "many-are-not-hopeless",
        "While XNAT lets no file in, each of them is marked failed after a few minutes.",
        "limits/outage.py",
        "or len(self._struck) > 1 or",
        "or",
        ("test_pipeline.py::test_many_files_are_not_all_hopeless",),
    ),
    Mutant(
        "commit-that-archives",
        "A commit that archives, and takes its time, is taken for one that failed.",
        "replies/images.py",
        '({reply.status}: {reply.message})")\n    _check_archiving(reply)\n',
        '({reply.status}: {reply.message})")\n',
        ("test_replies.py::test_errors",),
    ),
    Mutant(
        "parts-of-refused-files",
        "Half of a file that XNAT refused is archived as if it were whole.",
        "xnat/images.py",
        "if leftover := sealed.refused & found.held:",
        "if leftover := sealed.refused & frozenset():",
        (f"{_LOST}test_a_part_of_a_refused_file_in_the_archive_is_told",),
    ),
    Mutant(
        "caches-lag",
        "A project that was made a moment ago does not exist.",
        "xnat/site.py",
        "return await retrying(check, caches)",
        "return await check()",
        ("test_fault_table.py::test_a_fault_at_a_login[preflight: project-unseen]",),
    ),
    Mutant(
        "login-while-stopping",
        "A run that is stopped while it logs in leaves a login behind, and a thousand of them lock the user out.",
        "xnat/client.py",
        "            with anyio.CancelScope(shield=True) as scope:\n                tasks",
        "            with anyio.CancelScope() as scope:\n                tasks",
        ("test_logins.py::test_a_run_that_is_stopped_while_it_logs_in_leaves_no_login",),
    ),
    Mutant(
        "old-login-is-given-back",
        "Each denial that was none leaves a login behind.",
        "xnat/client.py",
        "would stay open beside the new one.\n                await self.log_out()\n",
        "would stay open beside the new one.\n",
        ("test_logins.py::test_denials_without_an_expiry_do_not_add_up",),
    ),
    Mutant(
        "migration-in-one-transaction",
        "A kill while a journal is brought forward leaves one that no version can read.",
        "journal/database.py",
        'connection.executescript(f"BEGIN IMMEDIATE; {steps}")\n    _set',
        'connection.executescript(steps)\n    connection.execute("BEGIN")\n    _set',
        ("test_journal_migration.py::test_a_step_that_fails_leaves_it_as_it_was",),
    ),
)

# --- Demographics of subjects

_SUBJECTS = "test_subjects.py::"
_TABLES = "test_demographics.py::"
_ANSWERS = "test_subject_replies.py::"

SUBJECTS = (
    Mutant(
        "subjects-heed-a-stop",
        "After a Ctrl-C all other subjects are described all the same.",
        "cli/subjects.py",
        "takewhile(lambda _: not stop.requested, rows)",
        "rows",
        ("test_cli_subjects.py::test_a_stop_in_the_middle",),
    ),
    Mutant(
        "subjects-in-hand",
        "A stop drops what is under way, and nobody knows whether XNAT has it.",
        "cli/subjects.py",
        "with stop.after_grace():",
        "with stop.at_once():",
        ("test_cli_subjects.py::test_a_stop_in_the_middle",),
    ),
    Mutant(
        "subject-label",
        "XNAT stops reading at `label`, answers 200, and saves nothing of a subject that is there.",
        "xnat/subjects.py",
        "fields = {**values,",
        'fields = {"label": wish.subject, **values,',
        (f"{_SUBJECTS}TestWhen::test_after_archiving",),
    ),
    Mutant(
        "subject-empty-200",
        "An answer without an accession ID is taken for success, and nothing was saved.",
        "replies/subjects.py",
        'raise RefusedError(f"XNAT answered, but saved nothing (empty {reply.status})")',
        'return ""',
        (f"{_SUBJECTS}TestWhen::test_the_call_that_does_not_work_after_archiving", f"{_ANSWERS}test_an_empty_200"),
    ),
    Mutant(
        "subject-read-back",
        "A field that XNAT dropped on the way counts as written.",
        "xnat/subjects.py",
        "if missing := lacking(values, after.values):",
        "if missing := ():",
        (f"{_SUBJECTS}TestTrouble::test_what_does_not_arrive",),
    ),
    Mutant(
        "subject-kept",
        "Values that somebody has entered are replaced unasked.",
        "demographics/comparison.py",
        "if differing and not overwrite:",
        "if False:",
        (f"{_SUBJECTS}TestWhatIsThere::test_kept",),
    ),
    Mutant(
        "subject-one-birth",
        "A subject gets a date of birth beside a year of birth that says otherwise.",
        "demographics/comparison.py",
        "if name in BIRTH and value != NULL:",
        "if False:",
        (f"{_SUBJECTS}TestWhatIsThere::test_one_birth",),
    ),
    Mutant(
        "subject-room",
        "A year of birth stays beside the date that replaces it.",
        "demographics/comparison.py",
        "write |= {one.instead: NULL for one in differing if one.instead}",
        "pass",
        (f"{_TABLES}TestComparison::test_another_birth_is_another_value",),
    ),
    Mutant(
        "subject-spelling",
        "A subject that an import has made under another spelling gets a twin, which is described in its place.",
        "xnat/subjects.py",
        "self._labels.get(label) or self._folded.get(_key(label))",
        "self._labels.get(label)",
        (f"{_SUBJECTS}TestLabels::test_other_spellings",),
    ),
    Mutant(
        "subject-accession",
        "A label that is the accession ID of somebody else describes that somebody.",
        "xnat/subjects.py",
        "if item.label != wish.subject:",
        "if False:",
        (f"{_SUBJECTS}TestLabels::test_the_id_of_another_subject",),
    ),
    Mutant(
        "subject-another",
        "Values that went to another subject count as arrived.",
        "xnat/subjects.py",
        "if before is not None and accession != before.accession:",
        "if False:",
        (f"{_SUBJECTS}TestTrouble::test_another_subject_answers",),
    ),
    Mutant(
        "subject-encoded",
        "A value with an ampersand ends there, and what follows is another field.",
        "xnat/subjects.py",
        "={quote(value, safe='')}\" for name, value in fields.items())",
        '={value}" for name, value in fields.items())',
        (f"{_SUBJECTS}TestWhen::test_before_the_import",),
    ),
    Mutant(
        "subject-reason",
        "Sites that want reasons fail without a word, and nothing is saved.",
        "xnat/subjects.py",
        '**({"event_reason": self._event_reason} if self._event_reason else {})',
        "**{}",
        (f"{_SUBJECTS}TestRights::test_a_site_that_wants_reasons",),
    ),
    Mutant(
        "subject-turns",
        "Two rows of one subject make two of it.",
        "xnat/subjects.py",
        "turn = self._turns.setdefault((wish.project, _key(wish.subject)), anyio.Lock())",
        "turn = anyio.Lock()",
        (f"{_SUBJECTS}TestManyAtATime::test_eight_subjects_and_never_one_twice",),
    ),
    Mutant(
        "subject-race",
        "Values of a subject that somebody else has just made are replaced unasked.",
        "xnat/subjects.py",
        "if not error.cut:",
        "if False:",
        (f"{_SUBJECTS}TestTrouble::test_somebody_else_makes_it_too",),
    ),
    Mutant(
        "subject-lost-answer",
        "What a call has written whose answer got lost is told as having been there.",
        "xnat/subjects.py",
        "if setting.decision is None:",
        "if True:",
        (f"{_SUBJECTS}TestTrouble::test_an_answer_that_got_lost",),
    ),
    Mutant(
        "subject-dry-run",
        "A comparison writes.",
        "xnat/subjects.py",
        "if not self._dry_run and (missing",
        "if (missing",
        (f"{_SUBJECTS}TestWhatIsThere::test_compared_only",),
    ),
    Mutant(
        "subject-away",
        "A server that is away makes every subject that is left a failure, one after the other.",
        "xnat/subjects.py",
        "if error.unreachable or error.overload or error.cut:",
        "if False:",
        (f"{_SUBJECTS}TestTrouble::test_the_server_goes_away",),
    ),
    Mutant(
        "subject-history",
        "What a subject's demographics once were is taken for what they are.",
        "replies/subjects.py",
        'if not item.get("meta", {}).get("isHistory")][:1]',
        "][:1]",
        (f"{_ANSWERS}test_an_item",),
    ),
    Mutant(
        "subject-value-told",
        "XNAT repeats the value that it refuses, and so a report does.",
        "replies/subjects.py",
        'said = ", ".join(rules) or "it does not say why"',
        "said = message",
        (f"{_ANSWERS}test_a_value_that_xnat_refuses",),
    ),
    Mutant(
        "subject-repr",
        "A traceback shows a patient's data.",
        "demographics/table.py",
        "field(default_factory=dict, repr=False, hash=False)",
        "field(default_factory=dict, hash=False)",
        (f"{_TABLES}TestTables::test_a_repr_tells_no_value",),
    ),
    Mutant(
        "subject-null",
        "A person of the name Null loses a field.",
        "demographics/table.py",
        "if text.upper() != NULL:",
        "if True:",
        (f"{_TABLES}TestCells::test_refused",),
    ),
    Mutant(
        "subject-future",
        "A date that nobody was born on is entered.",
        "demographics/fields.py",
        "year >= _FIRST_YEAR and born <= today",
        "True",
        (f"{_TABLES}TestCells::test_refused", f"{_TABLES}TestHeaders::test_one"),
    ),
    Mutant(
        "subject-order-of-dates",
        "XNAT takes 31/01/1970 for another day without a word.",
        "demographics/fields.py",
        "    if born is None:",
        "    if born is None:\n        return today\n    if born is None:",
        (f"{_TABLES}TestCells::test_refused",),
    ),
    Mutant(
        "subject-contradiction",
        "Of two rows that say different things of a subject the first one wins.",
        "demographics/table.py",
        "contradicted.add(key)",
        "pass",
        (f"{_TABLES}TestTables::test_twice",),
    ),
    Mutant(
        "subject-placeholder",
        "What stands where a birth date must is taken for one.",
        "demographics/headers.py",
        "born is None or born in _PLACEHOLDERS",
        "born is None",
        (f"{_TABLES}TestHeaders::test_one",),
    ),
    Mutant(
        "subject-units",
        "Metres and kilograms are entered where XNAT shows inches and pounds.",
        "demographics/headers.py",
        'f"{float(text) / unit:.1f}"',
        'f"{float(text):.1f}"',
        (f"{_TABLES}TestHeaders::test_one",),
    ),
    Mutant(
        "subject-overruled",
        "A header overrules what the table says.",
        "demographics/table.py",
        "if name not in given.values and not (name in BIRTH and has_birth)",
        "if True",
        (f"{_TABLES}TestHeaders::test_headers_fill_gaps_only",),
    ),
)

_INTO = "test_resources.py::"
_BOOK = "test_enclosures_journal.py::"
_BESIDE = "test_beside.py::"
_ATTACH = "test_cli_attach.py::"

ATTACHMENTS = (
    Mutant(
        "attach-looks-again",
        "XNAT answers 200 to a user who may not edit, and stores nothing: the file counts as stored.",
        "xnat/resources.py",
        "if found is not None and _fits(load, found):",
        "if not load.trouble or (found is not None and _fits(load, found)):",
        (f"{_INTO}test_an_empty_200_is_not_believed",),
    ),
    Mutant(
        "attach-probes-first",
        "A user without the right to edit is told nothing of it, and every file is sent twice for nothing.",
        "xnat/resources.py",
        "        if waiting:\n            await self._make(base, resource)\n",
        "        if waiting:\n",
        (f"{_INTO}test_a_user_who_may_only_read",),
    ),
    Mutant(
        "attach-over-remains",
        "What a broken transfer left on XNAT's disk keeps the file out for ever.",
        "xnat/resources.py",
        "                    load.overwrite = True\n                    left.append(load)",
        "                    left.append(load)",
        (f"{_INTO}test_duplicates_that_no_listing_shows", f"{_INTO}test_a_transfer_that_breaks_in_the_middle"),
    ),
    Mutant(
        "attach-keeps-theirs",
        "Somebody else's file that came between look and sending is written over.",
        "xnat/resources.py",
        "elif found and not load.overwrite and (",
        "elif found and load.overwrite and (",
        (f"{_INTO}test_somebody_else_is_faster",),
    ),
    Mutant(
        "attach-keeps-theirs-unseen",
        "The same, when the connection broke before XNAT could say that it has kept it.",
        "xnat/resources.py",
        "elif found and not load.overwrite and (",
        "elif found and load.kept and (",
        (f"{_INTO}test_somebody_else_is_faster_and_the_connection_breaks",),
    ),
    Mutant(
        "attach-name-taken",
        "Another file of the same name is written over without being asked.",
        "xnat/resources.py",
        "        return Filed(attachment, AttachmentState.REFUSED, _TAKEN)",
        "        load.overwrite = True\n        return None",
        (f"{_INTO}test_other_bytes_are_there",),
    ),
    Mutant(
        "attach-replaces-its-own",
        "What somebody has put in the place of an earlier state is written over with it.",
        "xnat/resources.py",
        "self._replace_changed and attachment.previous == md5",
        "self._replace_changed and attachment.previous is not None",
        (f"{_INTO}test_other_bytes_are_there",),
    ),
    Mutant(
        "attach-compares-bytes",
        "Another file of the same size is taken for ours, which is never sent.",
        "xnat/resources.py",
        "if (size, md5) == (attachment.file.size, load.md5):",
        "if size == attachment.file.size:",
        (f"{_INTO}test_without_checksums_bytes_are_compared",),
    ),
    Mutant(
        "attach-size-and-digest",
        "A transfer that broke over a whole file leaves its digest in the catalog: the rest of it is lost.",
        "xnat/resources.py",
        "return there.md5 == load.md5 and there.size in {None, size}",
        "return there.md5 == load.md5",
        (f"{_INTO}test_a_damaged_file_under_its_own_digest",),
    ),
    Mutant(
        "attach-own-digest",
        "A file that a broken transfer has damaged is taken for somebody else's, and stays so.",
        "xnat/resources.py",
        "if md5 in (beginning, load.md5):",
        "if md5 == beginning:",
        (f"{_INTO}test_a_damaged_file_under_its_own_digest",),
    ),
    Mutant(
        "attach-own-beginning",
        "Any shorter file of the same name is taken for the beginning of ours, and written over.",
        "xnat/resources.py",
        "if md5 in (beginning, load.md5):",
        "if True:",
        (f"{_INTO}test_the_beginning_of_a_file_is_ours",),
    ),
    Mutant(
        "attach-size-proves-little",
        "On a site without checksums a replacement that never arrived counts as done.",
        "xnat/resources.py",
        "return there.size == size and not load.kept and not load.trouble",
        "return there.size == size and not load.kept",
        (f"{_INTO}test_replacing_without_checksums_is_not_taken_for_done",),
    ),
    Mutant(
        "attach-kept-is-not-ours",
        "On a site without checksums somebody else's file of the same size counts as ours.",
        "xnat/resources.py",
        "return there.size == size and not load.kept and not load.trouble",
        "return there.size == size and not load.trouble",
        (f"{_INTO}test_without_checksums_a_duplicate_is_compared",),
    ),
    Mutant(
        "attach-one-write-at-a-time",
        "XNAT loses one of two files that are written into one resource at a time.",
        "xnat/resources.py",
        'async with self._turns.setdefault(f"{base}/{resource.label}", anyio.Lock()):',
        "async with anyio.Lock():",
        (f"{_INTO}test_one_resource_by_several_names",),
    ),
    Mutant(
        "attach-no-silent-repetition",
        "aiohttp repeats a PUT by itself: an older one sends what is left of the body as the whole of it.",
        "xnat/resources.py",
        'await send(self._client, "POST", url',
        'await send(self._client, "PUT", url',
        (f"{_INTO}test_it_is_sent_again",),
    ),
    Mutant(
        "attach-extract",
        "XNAT keeps the zip as it is, and its files arrive nowhere.",
        "xnat/resources.py",
        'name, how["extract"] = "attachments.zip", "true"',
        'name = "attachments.zip"',
        (f"{_INTO}test_many_small_files_go_in_few_requests",),
    ),
    Mutant(
        "attach-zips-of-a-kind",
        "Files of one zip get the format and content of another.",
        "xnat/resources.py",
        "kind = (attachment.format, attachment.content, load.overwrite)",
        'kind = ("", "", load.overwrite)',
        (f"{_INTO}test_zips_are_of_a_kind_and_of_a_size",),
    ),
    Mutant(
        "attach-event-reason",
        "A site with an audit trail answers 500 to everything, and the run waits for a server that is not away.",
        "xnat/resources.py",
        'event_reason or "attachments"',
        "event_reason",
        (f"{_INTO}test_sites_with_an_audit_trail",),
    ),
    Mutant(
        "attach-tags-once",
        "XNAT adds the tags of a resource once more with each request.",
        "xnat/resources.py",
        "            **self._reason,\n        }\n        small",
        '            **self._reason,\n            "tags": "x,y",\n        }\n        small',
        (f"{_INTO}test_tags_are_given_once",),
    ),
    Mutant(
        "attach-label-and-study",
        "A file goes to another study that has the label by now.",
        "xnat/resources.py",
        'place.study_uid and found.study_uid not in {"", place.study_uid}',
        "False",
        (f"{_INTO}test_the_session_by_its_study",),
    ),
    Mutant(
        "attach-one-session-of-a-study",
        "Of two sessions of a study one gets the file, whichever XNAT lists first.",
        "xnat/resources.py",
        "if len(sessions) != 1:",
        "if not sessions:",
        (f"{_INTO}test_the_session_by_its_study",),
    ),
    Mutant(
        "attach-scan",
        "XNAT takes `ALL` and `*` for scans, and a file lands on one that nobody has named.",
        "xnat/resources.py",
        'raise RefusedError(f"the session has no scan {place.scan}")',
        "pass",
        (f"{_INTO}test_a_scan_that_is_not_there",),
    ),
    Mutant(
        "attach-files-of-another-resource",
        "Files that XNAT lists of something else count as what is there: ours are never sent.",
        "replies/resources.py",
        'if path and row.get("collection", resource) == resource:',
        "if path:",
        (f"{_INTO}test_files_that_belong_elsewhere_are_left_out",),
    ),
    Mutant(
        "attach-listed-and-gone",
        "One file that XNAT lists and cannot hand out ends the whole run.",
        "xnat/resources.py",
        '        except RefusedError:\n            return 0, ""\n',
        "",
        (f"{_INTO}test_a_file_that_is_listed_and_gone",),
    ),
    Mutant(
        "attach-rest-of-a-pile",
        "Of a resource with very many files all but the first five hundred are forgotten.",
        "enclosing.py",
        "            self._left.append(rest)\n",
        "            pass\n",
        (f"{_INTO}test_a_pile_hands_out_all_there_is",),
    ),
    Mutant(
        "attach-numeric-label",
        "XNAT takes the label for the number of some resource of the site: another project's files are looked at.",
        "routing/attachments.py",
        "if label.isdecimal():",
        "if False:",
        ("test_attachments.py::TestRules",),
    ),
    Mutant(
        "attach-names",
        "XNAT stores names with blanks or accents under others, where nobody finds them again.",
        "routing/attachments.py",
        'return _STRANGE.sub("_", letters) if letters.strip(".") else',
        'return part if letters.strip(".") else',
        ("test_attachments.py::TestNames",),
    ),
    Mutant(
        "attach-empty-files",
        "XNAT answers 500 to an empty file, as if it were away.",
        "routing/attachments.py",
        "if not size:",
        "if False:",
        ("test_attachments.py::TestNames", f"{_BOOK}TestWhose::test_what_cannot_be_stored"),
    ),
    Mutant(
        "beside-excluded",
        "The report of a patient who is left out goes to the session in the next directory.",
        "journal/attachments.py",
        "CASE WHEN f.kind = 'EXCLUDED' THEN",
        "CASE WHEN f.kind = 'NONE' THEN",
        (f"{_BOOK}TestWhose::test_beside_a_study_that_nobody_asks_for",),
    ),
    Mutant(
        "beside-several",
        "A file that lies beside several sessions goes to one of them.",
        "journal/attachments.py",
        '                "LIMIT 2",\n',
        '                "LIMIT 1",\n',
        (f"{_BOOK}TestWhose::test_among_several_sessions", f"{_BOOK}TestWhose::test_above_several_sessions"),
    ),
    Mutant(
        "beside-within-the-source",
        "A file beside nothing is given to whatever lies above the source.",
        "journal/attachments.py",
        'os.path.join(directory, "") != top:  # noqa: PTH118',
        'directory != "/":',
        (f"{_BOOK}TestWhose::test_beside_nothing",),
    ),
    Mutant(
        "beside-series-names",
        "Files of one name in the directories of several series meet, and all but one stay behind.",
        "journal/attachments.py",
        "return session, own if common is None else os.path.commonpath([own, common])",
        "return session, own",
        (f"{_BOOK}TestWhose::test_a_session_in_several_directories",),
    ),
    Mutant(
        "beside-same-name",
        "Two files that have one name in XNAT are sent over one another.",
        "journal/attachments.py",
        '            session, state, reason = None, "SKIPPED", _SAME_NAME\n',
        '            name = f"{name}.{file}"\n',
        (f"{_BOOK}TestWhose::test_two_of_one_name",),
    ),
    Mutant(
        "beside-archived-only",
        "Attachments are sent to a session that is not in the archive yet, and refused.",
        "journal/attachments.py",
        "\"AND EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND state = 'ARCHIVED') \"",
        '""',
        (f"{_BOOK}TestLaterRuns::test_the_session_is_not_archived_yet",),
    ),
    Mutant(
        "beside-one-at-a-time",
        "A resource is handed out twice at a time, and its files are sent twice.",
        "journal/attachments.py",
        'self._db.execute("INSERT INTO filling VALUES (?, ?)", (session, resource))',
        'self._db.execute("INSERT OR IGNORE INTO filling VALUES (NULL, ?)", (resource,))',
        (f"{_BOOK}TestHandedOut::test_a_resource_to_one_at_a_time",),
        hang=True,
    ),
    Mutant(
        "beside-changed",
        "A file that changed since it was stored is never looked at again.",
        "journal/attachments.py",
        "                    if not is_settled:\n",
        "                    if False:\n",
        (f"{_BOOK}TestLaterRuns::test_a_changed_file_is_compared_again",),
    ),
    Mutant(
        "beside-moved",
        "After a tree was moved, what still waits in it is skipped for good.",
        "journal/attachments.py",
        "if taken is not None and not taken[1]:",
        "if False:",
        (f"{_BOOK}TestLaterRuns::test_a_visit_that_is_moved",),
    ),
    Mutant(
        "beside-gone",
        "A file that vanished before it was sent is not missed.",
        "journal/attachments.py",
        "                self._miss(root)\n",
        "                pass\n",
        (f"{_BOOK}TestLaterRuns::test_what_is_gone",),
    ),
    Mutant(
        "beside-rerouted",
        "--reroute forgets which bytes XNAT has of a file that changed, and what may be replaced.",
        "journal/store.py",
        "DELETE FROM attachment WHERE md5 IS NULL",
        "DELETE FROM attachment WHERE state <> 'STORED'",
        (f"{_BOOK}TestLaterRuns::test_a_changed_file_that_is_refused",),
    ),
    Mutant(
        "attach-links-that-lead-nowhere",
        "One dangling link in a directory, and what comes after it is left behind without a word.",
        "cli/attaching.py",
        "            unread.append(path)\n            continue\n",
        "            return\n",
        (f"{_ATTACH}test_what_cannot_be_attached_is_told",),
    ),
    Mutant(
        "attach-exit-8",
        "A scheduler takes files that were refused for attached ones.",
        "cli/attaching.py",
        "any(one.state in bad for _, one in self.filed)",
        "False",
        (f"{_ATTACH}test_names_that_are_taken",),
    ),
    Mutant(
        "exit-8-of-attachments",
        "A scheduler takes a run that left reports behind for a good one.",
        "cli/output.py",
        "if attachments.skipped or attachments.refused or attachments.failed:",
        "if False:",
        (f"{_BESIDE}test_what_belongs_nowhere",),
    ),
    Mutant(
        "verify-altered-attachments",
        "Files that were replaced in the archive count as they were stored, and as safe to delete.",
        "verification.py",
        "return there.md5 == attachment.previous if there.md5 else there.size == attachment.file.size",
        "return True",
        (f"{_BESIDE}test_verify_and_repair",),
    ),
    Mutant(
        "verify-attachments-that-cannot-be-put-back",
        "What the archive lacks and nobody has any more is forgotten by the repair that could not mend it.",
        "verification.py",
        "there = [one for one in missing if _is_unchanged(one.file)]",
        "there = missing",
        (f"{_BESIDE}test_what_cannot_be_put_back",),
    ),
)

# --- How much is in flight, and how fast it goes

_AUTO = "test_limiter_simulation.py::"

FLIGHT = (
    Mutant(
        "overload-halves",
        "A server that is overloaded gets as much as before.",
        "limits/throttle.py",
        "self._set(max(1, self._limit // 2))",
        "self._set(max(1, self._limit))",
        ("test_limits.py::test_overload_halves_once_a_second",),
    ),
    Mutant(
        "overload-forgets-the-measure",
        "In the middle of a probe an overload halves half the limit only, and then the whole is back.",
        "limits/knee.py",
        "            self._limit = self._before\n            self._probed = None\n",
        "            pass\n",
        ("test_limits.py::test_trouble_in_a_probe_ends_it",),
    ),
    Mutant(
        "found-number-waits-for-recovery",
        "What was found before an overload is back with the first success after it.",
        "limits/throttle.py",
        "        if self._limit < self._ceiling:\n            if not self.is_crowded:",
        "        if self._knee is None and self._limit < self._ceiling:\n            if not self.is_crowded:",
        ("test_limits.py::test_an_overload_cuts_what_was_found_too",),
    ),
    Mutant(
        "crowded-slots-yield",
        "After a cut as many calls as before go on, to the end of all they have in hand.",
        "limits/throttle.py",
        "            if self._is_held and throttle.is_crowded:\n                self.leave()\n",
        "",
        ("test_limits.py::test_a_slot_serves_calls_that_follow_each_other",),
    ),
    Mutant(
        "retry-after-holds-kept-slots",
        "Who holds a slot goes on, though the server wants to be left alone.",
        "limits/throttle.py",
        "            if not await throttle.rest():\n                return\n",
        "            return\n",
        ("test_limits.py::test_a_retry_after_holds_back_the_next_call_of_a_slot",),
    ),
    Mutant(
        "given-slot-of-a-cancelled",
        "A slot is lost with who was cancelled, and in the end all wait for ever.",
        "limits/throttle.py",
        "                self.leave()\n            else:\n                self._waiting.remove(given)",
        "                pass\n            else:\n                self._waiting.remove(given)",
        ("test_limits.py::test_no_slot_is_lost_to_who_is_cancelled_just_then",),
    ),
    Mutant(
        "slot-of-a-cancelled-wait",
        "A slot is lost with who was cancelled while the server wanted to be left alone.",
        "limits/throttle.py",
        "        except BaseException:\n            self.leave()\n            raise\n        return self",
        "        except BaseException:\n            raise\n        return self",
        ("test_limits.py::test_no_slot_is_lost_to_who_is_cancelled_in_a_retry_after",),
    ),
    Mutant(
        "no-barging",
        "Whoever comes takes the slot that another has waited for.",
        "limits/throttle.py",
        "if self._held >= self._limit or self._waiting:",
        "if self._held > self._limit:",
        ("test_limits.py::test_slots_bound_what_is_in_flight",),
    ),
    Mutant(
        "latency-tells",
        "With -w auto the number in flight grows until the server breaks down.",
        "limits/knee.py",
        "target = max(self._target(limit / slowness), quick)",
        "target = max(self._target(limit), quick)",
        ("test_limits.py::test_it_stops_a_little_above_the_knee",),
    ),
    Mutant(
        "it-doubles-at-first",
        "It takes many rounds to find out that a server far away takes dozens at once.",
        "limits/knee.py",
        "if self._is_new and slowness < _HARDLY_NOTICEABLE:",
        "if False:",
        ("test_limits.py::test_it_grows_as_long_as_calls_take_no_longer",),
    ),
    Mutant(
        "it-doubles-below-the-knee-only",
        "Where calls just begin to wait for each other, twice as many are sent.",
        "limits/knee.py",
        "if self._is_new and slowness < _HARDLY_NOTICEABLE:",
        "if self._is_new:",
        (f"{_AUTO}test_as_good_as_the_best_fixed_number",),
    ),
    Mutant(
        "it-doubles-at-first-only",
        "Once a queue was seen, it is overshot by twice whenever calls take no longer for a while.",
        "limits/knee.py",
        "was_new, self._is_new = self._is_new, self._is_new and slowness < _NOTICEABLE",
        "was_new = self._is_new",
        (
            "test_limits.py::test_it_grows_with_care_once_it_has_seen_a_queue",
            "test_limits.py::test_it_stops_a_little_above_the_knee",
        ),
    ),
    Mutant(
        "no-probe-at-once",
        "It has hardly found how many the server takes, and leaves it half idle to find out how long one takes alone.",
        "limits/knee.py",
        "if was_new and not self._is_new and limit > 2 * _LEAST:",
        "if False:",
        ("test_limits.py::test_what_has_just_been_measured_needs_no_probe",),
    ),
    Mutant(
        "quick-calls-may-wait",
        "At a server that is quicker than the client, the client is idle while a few replies are on their way.",
        "limits/knee.py",
        "target = max(self._target(limit / slowness), quick)",
        "target = self._target(limit / slowness)",
        ("test_limits.py::test_quick_calls_may_wait_for_each_other",),
    ),
    Mutant(
        "quick-calls-need-no-probe",
        "A server that is quicker than the client is left idle now and then, to find out what nobody needs to know.",
        "limits/knee.py",
        " and mean > _SPARE * _QUICK",
        "",
        ("test_limits.py::test_quick_calls_may_wait_for_each_other",),
    ),
    Mutant(
        "a-probe-ends-at-what-is-known",
        "Each probe leaves the server idle for a third of a second, also where nothing is to be found out.",
        "limits/knee.py",
        "is_known = 1 / _NOTICEABLE < slowness < _NOTICEABLE",
        "is_known = False",
        ("test_limits.py::test_a_probe_goes_no_deeper_than_it_must",),
    ),
    Mutant(
        "slow-files-go-alone",
        "At the end of a run some workers have a parcel of files that take long, and the others nothing to do.",
        "pipeline.py",
        "-(-claims // slots), in_time))",
        "-(-claims // slots)))",
        ("test_pipeline.py::test_a_parcel_takes_no_worker_long",),
    ),
    Mutant(
        "slower-server-is-noticed",
        "A server that has lost most of its capacity gets as much at once as before.",
        "limits/knee.py",
        "if limit > 1 and not is_known and slowness < _NOTICEABLE * slowness_before * limit / before:",
        "if False:",
        ("test_limits.py::test_it_follows_a_server_that_takes_fewer", f"{_AUTO}test_as_good_as_the_best_fixed_number"),
    ),
    Mutant(
        "old-latency-is-forgotten",
        "A server that answers more slowly than in the beginning is used less and less.",
        "limits/knee.py",
        "            self._scale(slowness)\n        for kind",
        "            pass\n        for kind",
        ("test_limits.py::test_it_follows_a_way_that_becomes_longer", f"{_AUTO}test_as_good_as_the_best_fixed_number"),
    ),
    Mutant(
        "unused-slots-do-not-grow",
        "While the scan is slow the limit grows, and what comes then is a flood.",
        "limits/knee.py",
        "elif target > limit and not is_used:",
        "elif False:",
        ("test_limits.py::test_slots_that_are_not_at_work_do_not_want_more",),
    ),
    Mutant(
        "one-alarm-is-none",
        "Whenever the client pauses, the limit falls.",
        "limits/knee.py",
        "if is_far_below and not self._is_alarmed:",
        "if False:",
        ("test_limits.py::test_one_odd_measure_is_no_alarm", f"{_AUTO}test_as_good_as_the_best_fixed_number"),
    ),
    Mutant(
        "rate-is-of-all",
        "Each worker for itself keeps to --max-rate.",
        "limits/rate.py",
        "self._free_at = begin + size / self._bytes_per_second",
        "self._free_at = now + size / self._bytes_per_second",
        ("test_limits.py::test_a_rate_is_kept_by_all_together",),
    ),
)

MUTANTS = (*XNAT, *LINE, *MANNERS, *PLANS, *LACKING, *SUBJECTS, *ATTACHMENTS, *FLIGHT)


# --- The runner


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: red, SURVIVED, STALE, HANGS or BROKEN; what pytest said, if that needs a look."""

    mutant: Mutant
    verdict: str
    seconds: float
    said: str = ""


class Copy:
    """A copy of the checkout, in which one thing at a time is edited and tested."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        unwanted = shutil.ignore_patterns("__pycache__")
        for name in ("asyncimport", "tests"):
            shutil.copytree(ROOT / name, place / name, ignore=unwanted)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / name, place / name)
        self._env = {**os.environ, "PYTHONPATH": str(place)}
        self._env.pop("PYTEST_ADDOPTS", None)
        # Compiled files that are known by their source's digest: an edit may leave size and second as they were.
        self._python("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "asyncimport")
        where = self._python("-c", "import asyncimport; print(asyncimport.__file__)").stdout.strip()
        if not Path(where).is_relative_to(place):
            raise SystemExit(f"the tests would not test the copy, but {where}")

    def test(
        self, tests: Sequence[str], *, seconds: int = _TEST_SECONDS, in_all: int | None = _MUTANT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run tests up to the first failure, each for `seconds` at most, all for `in_all` (None: as long as they take).

        Raises: subprocess.TimeoutExpired.
        """
        return self._python(
            *("-m", "pytest", "-n0", "-x", "-q", "--tb=short", f"--timeout={seconds}"),
            # Hypothesis works without its plugin, which would be imported for every test.
            *("-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
            *(f"tests/{test}" for test in tests),
            seconds=in_all,
        )

    def try_out(self, mutant: Mutant) -> Result:
        """Edit, test, and put things back."""
        began = monotonic()
        file = self.place / "asyncimport" / mutant.file
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        if source.count(mutant.old) != 1:
            return Result(mutant, "STALE", 0.0, f"{mutant.file} has its text {source.count(mutant.old)} times")
        try:
            file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
            done = self.test(mutant.tests, seconds=_HANGING_SECONDS if mutant.hang else _TEST_SECONDS)
            verdict, said = _judge(mutant, done.returncode, done.stdout), done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            verdict, said = "red" if mutant.hang else "HANGS", ""
        finally:
            file.write_text(source, encoding="utf-8")
        return Result(mutant, verdict, monotonic() - began, "" if verdict == "red" else said)

    def _python(self, *words: str, seconds: int | None = _MUTANT_SECONDS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.place,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


def _judge(mutant: Mutant, code: int, out: str) -> str:
    if code == 0:
        return "SURVIVED"
    # Red is a test that failed: not one that could not be collected or set up, nor one that stumbled over the edit.
    if (
        code != 1
        or not re.search(r"^FAILED ", out, re.MULTILINE)
        or re.search(r"^E +(Name|Type)Error:", out, re.MULTILINE)
    ):
        return "BROKEN"
    if "from pytest-timeout" in out and not mutant.hang:
        return "HANGS"
    return "red"


def run(mutants: Sequence[Mutant], jobs: int) -> list[Result]:
    """Try all mutants out, in parallel; each worker has a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="asyncimport-mutants-") as name:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(Path(name).resolve() / str(number)))

        def try_out(mutant: Mutant) -> Result:
            copy = copies.get()
            try:
                return copy.try_out(mutant)
            finally:
                copies.put(copy)

        _want_green(copies, jobs, sorted({test for mutant in mutants for test in mutant.tests}))
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(try_out, mutants))


def _want_green(copies: queue.SimpleQueue[Copy], jobs: int, tests: list[str]) -> None:
    """Run the tests on what they are tests of: a test that is red anyway notices nothing."""

    def test(some: list[str]) -> str:
        copy = copies.get()
        try:
            # Each has its time; how long all take grows with their number, and on a slow machine.
            done = copy.test(some, in_all=None)
        finally:
            copies.put(copy)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    shares = [share for start in range(jobs) if (share := tests[start::jobs])]
    with ThreadPoolExecutor(jobs) as pool:
        if said := "\n".join(filter(None, pool.map(test, shares))):
            raise SystemExit(f"{said}\nwithout any mutant these tests must be green")


def main() -> int:
    """Try out the mutants that are named, or all, and write a table."""
    parser = argparse.ArgumentParser(description="Take handlings out, and see whether a test turns red.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try; all, if none is named")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="how many to try at a time (2)")
    arguments = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    if len(known) != len(MUTANTS):
        parser.error("two mutants have one name")
    if unknown := set(arguments.names) - known.keys():
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    began = monotonic()
    results = run([known[name] for name in arguments.names] or MUTANTS, arguments.jobs)
    width = max(len(result.mutant.name) for result in results)
    for result in results:
        sys.stdout.write(f"{result.mutant.name:<{width}}  {result.verdict:<8}  {result.seconds:5.1f} s\n")
    bad = [result for result in results if result.verdict != "red"]
    for result in bad:
        mutant = result.mutant
        sys.stdout.write(f"\n{mutant.name}: {result.verdict}. {mutant.why}\n{result.said}\n")
    sys.stdout.write(f"\n{len(results) - len(bad)} of {len(results)} are red, in {monotonic() - began:.0f} s\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

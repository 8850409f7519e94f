"""Move large DICOM collections from disk into an XNAT archive, fast, and with proof that nothing was lost.

What the commands do is offered here without a terminal: a request, a call, a result.

    server = Server("https://xnat.example.org", Credentials("anna", password))
    request = UploadRequest(server=server, sources=[Path("/data")], project="P", routes=rules_from("P"))
    result = (await upload(request)).raise_for_error()

`run_sync(upload, request)` is for those without an event loop, and for notebooks.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncimport.errors import AsyncimportError
    from asyncimport.operations.attach import AttachRequest, AttachResult, attach
    from asyncimport.operations.doctor import DoctorRequest, DoctorResult, doctor
    from asyncimport.operations.dry_run import DryRunResult, dry_run
    from asyncimport.operations.forget import ForgetRequest, ForgetResult, forget
    from asyncimport.operations.planning import PlanRequest, PlanResult, plan
    from asyncimport.operations.report import ReportRequest, ReportResult, report
    from asyncimport.operations.result import Observer, run_sync
    from asyncimport.operations.rules import plan_from, rules_from
    from asyncimport.operations.server import Server
    from asyncimport.operations.status import StatusRequest, StatusResult, status
    from asyncimport.operations.subjects import SubjectsRequest, SubjectsResult, subjects
    from asyncimport.operations.upload import upload
    from asyncimport.operations.upload_request import UploadRequest, UploadResult
    from asyncimport.operations.verify import VerifyRequest, VerifyResult, verify
    from asyncimport.operations.watch import watch
    from asyncimport.pacing.shutdown import Stop
    from asyncimport.xnat.login import Credentials

__all__ = [
    "AsyncimportError",
    "AttachRequest",
    "AttachResult",
    "Credentials",
    "DoctorRequest",
    "DoctorResult",
    "DryRunResult",
    "ForgetRequest",
    "ForgetResult",
    "Observer",
    "PlanRequest",
    "PlanResult",
    "ReportRequest",
    "ReportResult",
    "Server",
    "StatusRequest",
    "StatusResult",
    "Stop",
    "SubjectsRequest",
    "SubjectsResult",
    "UploadRequest",
    "UploadResult",
    "VerifyRequest",
    "VerifyResult",
    "attach",
    "doctor",
    "dry_run",
    "forget",
    "plan",
    "plan_from",
    "report",
    "rules_from",
    "run_sync",
    "status",
    "subjects",
    "upload",
    "verify",
    "watch",
]

__version__ = "0.1.0"

# Where each is. It is imported when it is asked for: all together take longer than a command should to start.
_MODULES = {
    "errors": ["AsyncimportError"],
    "operations.attach": ["AttachRequest", "AttachResult", "attach"],
    "operations.doctor": ["DoctorRequest", "DoctorResult", "doctor"],
    "operations.dry_run": ["DryRunResult", "dry_run"],
    "operations.forget": ["ForgetRequest", "ForgetResult", "forget"],
    "operations.planning": ["PlanRequest", "PlanResult", "plan"],
    "operations.report": ["ReportRequest", "ReportResult", "report"],
    "operations.result": ["Observer", "run_sync"],
    "operations.rules": ["plan_from", "rules_from"],
    "operations.server": ["Server"],
    "operations.status": ["StatusRequest", "StatusResult", "status"],
    "operations.subjects": ["SubjectsRequest", "SubjectsResult", "subjects"],
    "operations.upload": ["upload"],
    "operations.upload_request": ["UploadRequest", "UploadResult"],
    "operations.verify": ["VerifyRequest", "VerifyResult", "verify"],
    "operations.watch": ["watch"],
    "pacing.shutdown": ["Stop"],
    "xnat.client": ["Credentials"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'asyncimport' has no attribute '{name}'")
    return getattr(import_module(f"asyncimport.{_HOMES[name]}"), name)

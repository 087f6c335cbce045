"""The intake: from a file in the inbox to a job in the queue, or into `failed/` with the reason why not.

A file is read only when it is complete, copied before it is looked at, kept under its hash, and taken out of the inbox
only after the job is in the ledger. `Intake.accept` is the one commit point: before it everything can be thrown away,
after it everything can be done again. Invariant: whatever dies whenever, no file is lost and none becomes two jobs
(tests/arena/test_intake_crashes.py).
"""

from arena.intake.intake import Intake
from arena.intake.records import Arrival, ArrivingFile, IntakeResult, RefusedArrival, ScanResult
from arena.intake.upload import Upload, accept_upload, safe_name

__all__ = [
    "Arrival",
    "ArrivingFile",
    "Intake",
    "IntakeResult",
    "RefusedArrival",
    "ScanResult",
    "Upload",
    "accept_upload",
    "safe_name",
]

"""The gatekeepers: what is let into the queue, and the report that says why.

Two layers, deny by default. The spec layer knows the kinds of rows and refuses a file of none of them. The content
layer looks at the rows, as deeply as it is told to: QUICK, STANDARD or DEEP. Bad rows go into quarantine with line
numbers and reasons; past a share of them the file is refused as a whole; a file without one usable row always is.
"""

from arena.gatekeepers.gate import Verdict, inspect_file, inspect_rows
from arena.gatekeepers.policy import Depth, Lengths, Policy
from arena.gatekeepers.preview import preview, preview_rows
from arena.gatekeepers.report import Refusal, RejectedRow, Report, render

__all__ = [
    "Depth",
    "Lengths",
    "Policy",
    "Refusal",
    "RejectedRow",
    "Report",
    "Verdict",
    "inspect_file",
    "inspect_rows",
    "preview",
    "preview_rows",
    "render",
]

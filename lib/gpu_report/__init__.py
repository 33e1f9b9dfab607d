# SPDX-License-Identifier: Apache-2.0
"""The report: what the verdicts of a lab say, as one HTML page, as JUnit and as a table for a terminal.

Everything here comes from hosts, so it is taken as text and never as markup, and a document that is not what it should
be is shown as unknown, never as a success.
"""

from __future__ import annotations

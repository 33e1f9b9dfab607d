# SPDX-License-Identifier: Apache-2.0
"""Keeping the tables fresh: ask machine-readable sources, show the differences, take them over on consent."""

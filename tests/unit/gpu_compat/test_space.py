# SPDX-License-Identifier: Apache-2.0
"""Free space that a change needs."""

from __future__ import annotations

import pytest
from gpu_compat import lacking_space


def test_a_full_disk_is_named_with_what_is_needed_for_what() -> None:
    (said,) = lacking_space({"/var": 3 << 30, "/usr": None, "/boot": 20 << 20}, "driver")
    assert said == "/boot has 20 MiB free, and 100 MiB are needed for a new initramfs"


@pytest.mark.parametrize("free", [None, {}, {"/boot": 100 << 20}])
def test_enough_and_unknown_space_is_no_fault(free: dict[str, int] | None) -> None:
    assert lacking_space(free, "driver") == []

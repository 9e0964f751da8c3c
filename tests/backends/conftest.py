"""How the backends' tests run."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.backends.shared.indexed_turns")

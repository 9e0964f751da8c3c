"""Importing a kernel imports no Triton, which takes seconds and which not every platform has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import memagent.kernels

# One process for all kernels: torch alone takes seconds. Each is named that has imported Triton.
SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"memagent.kernels.{name}")
    assert "triton" not in sys.modules, name
"""


def test_importing_a_kernel_imports_no_triton() -> None:
    (folder,) = memagent.kernels.__path__
    names = sorted(path.parent.name for path in Path(folder).glob("*/__init__.py"))
    assert {"cmm", "lsh", "memory_attention", "neural_memory"} <= set(names)
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

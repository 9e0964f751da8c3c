"""Run the official conformance scenarios of the Model Context Protocol against `memagent mcp --http`.

    python benchmarks/mcp_conformance.py                  # installs Node 22 and the suite from npm into a temporary folder
    python benchmarks/mcp_conformance.py --into FOLDER    # keeps them there for the next time
    python benchmarks/mcp_conformance.py --scenario ping  # one scenario

It needs `npm` and a registry. The scenarios are those whose subject this server has: tools, both ways of connecting (with and
without a handshake), and the protection against foreign web pages. The others test prompts, resources, completion, sampling,
elicitation, tasks and sessions, which it does not offer, or call tools of a fixture by name. Of the scenario server-stateless, two
checks do so too, and are left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("node@22", "@modelcontextprotocol/conformance@0.2.0-alpha.12")
SCENARIOS = (
    "server-initialize",
    "server-stateless",
    "ping",
    "tools-list",
    "dns-rebinding-protection",
    "caching",
    "http-header-validation",
)
FIXTURE_CHECKS = {"sep-2575-server-rejects-undeclared-capability", "sep-2575-missing-capability-http-400"}
"""They call the tool test_missing_capability, which only a test server has."""


def install(folder: Path) -> tuple[Path, Path]:
    """Install what is missing; return the program node and the suite's script."""
    modules = folder / "node_modules"
    script = modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    node = modules / "node" / "bin" / "node"
    if not (script.exists() and node.exists()):
        npm = shutil.which("npm")
        assert npm, "npm is not installed"
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--silent", *PACKAGES], cwd=folder, check=True
        )
    return node, script


@contextmanager
def serving(home: str) -> Iterator[str]:
    """Run a server with a memory of its own, and yield its URL."""
    command = [sys.executable, "-m", "memagent.cli.main", "mcp", "--backend", "bm25", "--http", "--port", "0"]
    environment = os.environ | {"MEMAGENT_HOME": home, "MEMAGENT_EMBEDDER": "hashing"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield server.stderr.readline().split()[-1]
        finally:
            server.terminate()


def main() -> None:
    """Run the scenarios and print what each found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="install there, and keep it")
    parser.add_argument("--scenario", action="append", help="a scenario; may be given several times")
    chosen = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary, serving(str(Path(temporary, "home"))) as url:
        folder = chosen.into or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        node, script = install(folder)
        for scenario in chosen.scenario or SCENARIOS:
            command = [node, script, "server", "--url", url, "--scenario", scenario]
            done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
            output = re.sub(r"\x1b\[\d*m", "", done.stdout)
            checks = re.findall(r"^\S+Z \[(\S+) *\] (SUCCESS|FAILURE)", output, re.MULTILINE)
            counted = [result for check, result in checks if check not in FIXTURE_CHECKS]
            print(f"{scenario:<28}{counted.count('SUCCESS'):>3} of {len(counted)}", flush=True)
            if not counted or "FAILURE" in counted:
                failed += 1
                print(output[-3000:], done.stderr[-1000:], sep="\n", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

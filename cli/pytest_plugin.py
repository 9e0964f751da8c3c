"""The pytest plugin: it collects ``*.recall.yaml`` files and plays each scenario on each chosen backend.

    pytest --memagent-backend rag --memagent-backend none tests/

Settings for a project stand in its pytest configuration::

    [tool.pytest.ini_options]
    memagent_backends = ["rag"]
    memagent_model = "qwen2.5-coder-0.5b"
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from memagent.agent.evaluation.scenarios import LocatedScenario, ScenarioResult
    from memagent.agent.models.models import Models

# So that a failing case of the contract suite says what it compared.
pytest.register_assert_rewrite("memagent.agent.testing")

_SUFFIXES = (".recall.yaml", ".recall.yml")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the configuration values of the plugin."""
    group = parser.getgroup("memagent", "recall scenarios (*.recall.yaml)")
    group.addoption(
        "--memagent-backend",
        action="append",
        metavar="NAME",
        help="memory to play recall scenarios on, or all; may be given several times",
    )
    group.addoption("--memagent-model", metavar="MODEL", help="chat model for expectations of replies")
    group.addoption(
        "--memagent-isolated", action="store_true", help="each session of a scenario in a process of its own"
    )
    group.addoption(
        "--memagent-recall-only", action="store_true", help="ask no chat model; replies are not judged"
    )
    parser.addini("memagent_backends", "memories to play recall scenarios on", type="args", default=["rag"])
    parser.addini("memagent_model", "chat model for expectations of replies")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a file if its name ends in ``.recall.yaml`` or ``.recall.yml``."""
    if not file_path.name.endswith(_SUFFIXES):
        return None
    return RecallFile.from_parent(parent, path=file_path)


class RecallFile(pytest.File):
    """A scenario file: an item for every scenario on every backend."""

    def collect(self) -> Iterator[RecallItem]:
        """Yield an item for each scenario on each backend that it is meant for."""
        from memagent.agent.evaluation.scenarios import read
        from memagent.backends.errors import MemagentError
        from memagent.cli.rendering.output import one_line, printable

        try:
            scenarios = read(self.path)
            backends = _backends(self.config)
        except MemagentError as error:
            raise self.CollectError(printable(str(error))) from error
        for located in scenarios:
            for backend in backends:
                if not located.scenario.backends or backend in located.scenario.backends:
                    name = one_line(f"{located.scenario.name}[{backend}]")
                    yield RecallItem.from_parent(self, name=name, located=located, backend=backend)


class RecallError(Exception):
    """A scenario failed.

    Args:
        result: of the scenario.
    """

    def __init__(self, result: ScenarioResult) -> None:
        super().__init__(result.name)
        self.result = result


class RecallItem(pytest.Item):
    """One scenario on one backend.

    Args:
        located: the scenario, and where it is written.
        backend: its name.
        options: of ``pytest.Item``.
    """

    def __init__(self, *, located: LocatedScenario, backend: str, **options: Any) -> None:
        super().__init__(**options)
        self.located = located
        self.backend = backend
        self.extra_keyword_matches.update(located.scenario.tags)

    def runtest(self) -> None:
        """Play the scenario."""
        from memagent.agent.evaluation.scenarios import Options, run
        from memagent.agent.models.catalogue import DEFAULT_MODEL

        option = self.config.getoption
        options = Options(
            model=option("memagent_model") or self.config.getini("memagent_model") or DEFAULT_MODEL,
            recall_only=option("memagent_recall_only"),
        )
        result = run(self.located, self.backend, options, _models(), isolated=option("memagent_isolated"))
        if not result.passed:
            raise RecallError(result)
        if not any(probe.judged for probe in result.probes):
            pytest.skip("all its expectations are of replies, and no model was asked")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what failed, for pytest's report."""
        from memagent.agent.evaluation.scenarios.report import explain
        from memagent.backends.errors import MemagentError
        from memagent.cli.rendering.output import printable

        if isinstance(excinfo.value, RecallError):
            return printable(explain(excinfo.value.result))
        if isinstance(excinfo.value, MemagentError):
            return printable(str(excinfo.value))
        return printable(str(super().repr_failure(excinfo, style)))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the scenario's file, line and name."""
        return self.path, self.located.line - 1, f"recall scenario: {self.name}"


def _backends(config: pytest.Config) -> list[str]:
    from memagent.cli.opening import expand_backends

    return expand_backends(config.getoption("memagent_backend") or config.getini("memagent_backends"))


@cache
def _models() -> Models:
    """Return the models of this test run, loaded once."""
    from memagent.agent.home import Home
    from memagent.agent.models.models import Models

    return Models.shared(Home.from_environment().models)

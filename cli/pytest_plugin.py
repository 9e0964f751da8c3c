"""The pytest plugin: collects ``*.recall.yaml`` and plays each scenario on each chosen backend.

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
    from memagent.agent.evaluation.scenarios import LocatedScenario, Models, ScenarioResult

# So that a failing case of the contract suite says what it compared.
pytest.register_assert_rewrite("memagent.agent.testing")

_SUFFIXES = (".recall.yaml", ".recall.yml")


def pytest_addoption(parser: pytest.Parser) -> None:
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
    if not file_path.name.endswith(_SUFFIXES):
        return None
    return RecallFile.from_parent(parent, path=file_path)


class RecallFile(pytest.File):
    """A scenario file: an item for every scenario on every backend."""

    def collect(self) -> Iterator[RecallItem]:
        from memagent.agent.evaluation.scenarios import read
        from memagent.backends.errors import MemagentError
        from memagent.cli.rendering.output import one_line, printable

        try:
            found = read(self.path)
            backends = _backends(self.config)
        except MemagentError as error:
            raise self.CollectError(printable(str(error))) from error
        for one in found:
            for backend in backends:
                if not one.scenario.backends or backend in one.scenario.backends:
                    name = one_line(f"{one.scenario.name}[{backend}]")
                    yield RecallItem.from_parent(self, name=name, located=one, backend=backend)


class RecallError(Exception):
    """A scenario did not come out as expected."""

    def __init__(self, result: ScenarioResult) -> None:
        super().__init__(result.name)
        self.result = result


class RecallItem(pytest.Item):
    """One scenario on one backend."""

    def __init__(self, *, located: LocatedScenario, backend: str, **other: Any) -> None:
        super().__init__(**other)
        self.located = located
        self.backend = backend
        self.extra_keyword_matches.update(located.scenario.tags)

    def runtest(self) -> None:
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
        from memagent.agent.evaluation.scenarios.report import explain
        from memagent.backends.errors import MemagentError
        from memagent.cli.rendering.output import printable

        if isinstance(excinfo.value, RecallError):
            return printable(explain(excinfo.value.result))
        if isinstance(excinfo.value, MemagentError):
            return printable(str(excinfo.value))
        return printable(str(super().repr_failure(excinfo, style)))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.located.line - 1, f"recall scenario: {self.name}"


def _backends(config: pytest.Config) -> list[str]:
    from memagent.cli.opening import choose_backends

    return list(
        choose_backends(config.getoption("memagent_backend") or config.getini("memagent_backends"), None)
    )


@cache
def _models() -> Models:
    """The models of this test run, loaded once."""
    from memagent.agent.evaluation.scenarios import Models
    from memagent.agent.home import Home

    return Models.shared(Home.from_environment().models)

"""Agents in processes of their own: a second one remembers; none loads LangChain that does not need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.backends.errors import MissingExtraError
from tests.scripts import run_script

EXAMPLE = Path(__file__).parents[4] / "examples" / "langgraph_agent.py"
HELP = """
import sys
sys.argv = ["memagent", "--help"]
from memagent.cli.main import main
try:
    main()
except SystemExit:
    pass
"""
FRAMEWORKS = ("langchain", "langchain_core", "langgraph")


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_agent_remembers_in_a_second_process(home: Home) -> None:
    output = run(str(EXAMPLE), "--model", "echo", "--backend", "bm25")
    monday, tuesday = output.split("[tuesday]")
    assert "<memory>" not in monday
    assert "session monday, user] My dog is called Biscuit." in tuesday


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "channel"), [("rag", "text"), ("titans", "model")])
def test_an_agent_with_the_default_model_remembers_in_a_second_process(
    backend: str, channel: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMAGENT_EMBEDDER")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    output = run(str(EXAMPLE), "--backend", backend, "--channel", channel)
    print(output)
    assert "Biscuit" in output.split("[tuesday]")[1]


@pytest.mark.parametrize(
    "command",
    [
        "import memagent; memagent.Agent, memagent.Memory",
        "import memagent.langchain, memagent.agent.integrations.langchain",
        HELP,
    ],
)
def test_nothing_of_langchain_is_loaded_before_it_is_used(command: str) -> None:
    loaded = run(
        "-c", f"{command}\nimport sys; print('loaded', *sorted(set(sys.modules) & set({FRAMEWORKS})))"
    )
    assert loaded.splitlines()[-1] == "loaded"


@pytest.mark.parametrize(
    ("name", "module", "feature"),
    [("MemoryMiddleware", "middleware", "MemoryMiddleware"), ("memory_tools", "tools", "memory_tools")],
)
def test_without_the_extra_the_message_names_the_command(
    name: str, module: str, feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import memagent.langchain

    own_module = f"memagent.agent.integrations.langchain.{module}"
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "langchain"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delitem(sys.modules, own_module, raising=False)
    monkeypatch.setitem(sys.modules, "langchain", None)
    with pytest.raises(MissingExtraError, match=rf"{feature} needs .*`pip install 'memagent\[langchain\]'`"):
        getattr(memagent.langchain, name)


def test_retriever_and_chat_model_need_no_extra() -> None:
    run(
        "-c",
        "import sys; sys.modules['langchain'] = sys.modules['langgraph'] = None\n"
        "from memagent.langchain import ChatMemagent, MemagentRetriever, MemoryContext, MemoryPool",
    )


def test_an_unknown_name_is_none_of_the_package() -> None:
    import memagent.langchain

    with pytest.raises(AttributeError, match="no attribute 'Memory'"):
        memagent.langchain.Memory  # noqa: B018


def test_a_memory_is_the_retriever_of_a_chain(home: Home) -> None:
    done = run_script(EXAMPLE.with_name("langchain_retriever.py"), "echo")
    dog, _, sister = done.stdout.partition("What does my sister play?\n")
    assert "] My dog is called Biscuit." in dog
    assert "] My sister Rita plays the cello." in sister

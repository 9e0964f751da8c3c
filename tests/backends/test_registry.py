"""Finding backends, reading their settings, deriving what they can do."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path

import pytest

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends import registry
from memagent.backends.errors import MissingExtraError, NotFoundError, SettingError
from memagent.backends.in_memory import InMemory, InMemoryConfig
from memagent.backends.none import NoMemory
from memagent.backends.protocol import MemoryBackend, Resources
from memagent.backends.rag import Rag, RagConfig


def install(folder: Path, name: str, source: str) -> None:
    """Make a package of somebody else's whose one backend is the class ``Backend`` in ``source``."""
    (folder / f"someones_{name}.py").write_text(source)
    info = folder / f"someones_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: someones-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[memagent.backends]\n{name} = someones_{name}:Backend\n")


def test_the_built_in_backends_are_found_by_name() -> None:
    assert {"none", "in_memory", "rag"} <= set(registry.names())
    assert registry.names() == sorted(registry.names())
    assert registry.get("rag") is Rag
    assert registry.get("in_memory") is InMemory
    assert registry.get("none") is NoMemory


@pytest.mark.parametrize("name", registry.names())
def test_a_backend_is_registered_under_its_own_name(name: str) -> None:
    assert registry.get(name).name == name


def test_a_mistyped_name_suggests_the_near_one() -> None:
    with pytest.raises(NotFoundError, match=r"no backend 'ragg'\. Did you mean rag\?"):
        registry.get("ragg")


def test_a_name_like_nothing_lists_all() -> None:
    with pytest.raises(NotFoundError, match="Known: .*in_memory.*none.*rag"):
        registry.get("xyzzy")


def test_a_backend_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "notebook",
        "from memagent.backends.in_memory import InMemory\nclass Backend(InMemory): name = 'notebook'\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "notebook" in registry.names()
    assert issubclass(registry.get("notebook"), InMemory)


def test_a_backend_that_lacks_a_package_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "needy", "import package_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        MissingExtraError,
        match="The backend needy needs the Python module package_nobody_has, .* `pip install someones-needy` installs",
    ):
        registry.get("needy")


def test_a_built_in_backend_that_lacks_a_module_names_a_package_pip_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in [name for name in sys.modules if name.startswith("memagent.backends.in_memory")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "memagent.backends.in_memory.backend", None)
    with pytest.raises(MissingExtraError, match="`pip install memagent` installs what it needs"):
        registry.get("in_memory")


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("default", ["default"], "There is no user 'default'. There is no other."),
        ("ana", ["ana", "anna"], "There is no user 'ana'. Did you mean anna?"),
        ("ana", ["ana", "ben"], "There is no user 'ana'. Known: ben."),
        ("ana", [], "There is no user 'ana'. There is none yet."),
        ("ana", ["ana\n\x1b"], "There is no user 'ana'. Did you mean 'ana\\n\\x1b'?"),
        ("x", ["ben\u202e"], "There is no user 'x'. Known: 'ben\\u202e'."),
    ],
)
def test_what_is_not_found_is_never_suggested(name: str, known: list[str], said: str) -> None:
    assert str(NotFoundError("user", name, known)) == said


def test_without_settings_the_defaults_hold() -> None:
    assert registry.configure(Rag, {}) == RagConfig()


def test_settings_are_converted_to_their_fields_types() -> None:
    config = registry.configure(
        Rag,
        {
            "abstain": "false",
            "candidates": "7",
            "margin": "1",
            "threshold": "0.5",
            "url": "http://h:1",
        },
    )
    assert config == RagConfig(abstain=False, candidates=7, margin=1.0, threshold=0.5, url="http://h:1")
    assert isinstance(config.margin, float)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("abstain", "maybe"),
        ("candidates", "many"),
        ("candidates", "1.5"),
        ("candidates", "0"),
        ("candidates", "-1"),
        ("candidates", "9" * 30),
        ("margin", ""),
        ("margin", "-1"),
        ("margin", "nan"),
        ("margin", "inf"),
        ("threshold", "0,36"),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"rag: {key}='{value}' does not fit: .*backends show rag"):
        registry.configure(Rag, {key: value})


NUMBERS = [
    (name, field.name, value)
    for name in registry.names()
    for field in fields(registry.get(name).Config)
    if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
    for value in (str(2**63), str(2**64), "-1", str(10**30), "9" * 5000, "nan", "inf", "-inf", "1e400")
]


@pytest.mark.parametrize(("name", "field", "value"), NUMBERS)
def test_no_setting_takes_a_number_that_is_not_finite_or_has_more_than_64_bits(
    name: str, field: str, value: str
) -> None:
    try:
        config = registry.configure(registry.get(name), {field: value})
    except SettingError as error:
        message = str(error)
        assert message.startswith(f"{name}: {field}=")
        assert len(message) < 400
    else:
        number = getattr(config, field)
        assert isfinite(number)
        assert isinstance(number, float) or -(2**63) <= number < 2**63


@dataclass(frozen=True)
class Loose:
    """A config of somebody else's, who thought of no bounds."""

    count: int = 1
    weight: float = 0.5
    on: bool = True
    text: str = ""


class Careless(NoMemory):
    """A backend of somebody else's."""

    name = "careless"
    Config = Loose  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("count", str(2**63), "Expected a number of 64 bits"),
        ("count", str(-(2**63) - 1), "Expected a number of 64 bits"),
        ("count", "9" * 5000, "exceeded maximum size"),
        ("weight", "nan", "Expected a finite number"),
        ("weight", "-inf", "Expected a finite number"),
        ("weight", "1e999", "Expected a finite number"),
    ],
)
def test_no_backend_has_to_think_of_impossible_numbers(key: str, value: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        registry.configure(Careless, {key: value})
    config = registry.configure(Careless, {"count": str(2**63 - 1), "weight": "-1e300", "text": value})
    assert (config.count, config.weight, config.text) == (2**63 - 1, -1e300, value)


def test_an_unknown_setting_suggests_the_near_one() -> None:
    with pytest.raises(NotFoundError, match=r"no setting of rag 'abstian'\. Did you mean abstain\?"):
        registry.configure(Rag, {"abstian": "false"})


@pytest.mark.parametrize("key", ["threshold", "rag.threshold"])
def test_a_setting_of_one_backend_may_name_it(key: str) -> None:
    """As it has to with several. One that names another backend is refused."""
    (choice,) = registry.choose("rag", {key: "0.3"})
    assert choice.config.threshold == 0.3
    with pytest.raises(NotFoundError, match=r"no setting of rag 'bm25\.threshold'"):
        registry.choose("rag", {"bm25.threshold": "0.3"})


def test_a_setting_of_a_backend_without_any_is_refused() -> None:
    with pytest.raises(NotFoundError, match="There is none yet"):
        registry.configure(NoMemory, {"margin": "1"})


def test_capabilities_are_what_the_class_says() -> None:
    rag, none = registry.capabilities(Rag), registry.capabilities(NoMemory)
    assert rag.exact_forget
    assert rag.consolidates
    assert rag.needs_embedder
    assert not rag.needs_local_model
    assert not rag.model_channel
    assert not rag.fixed_size
    assert not rag.regenerates
    assert none.fixed_size
    assert none.exact_forget
    assert not none.consolidates
    assert not none.needs_embedder


def test_flags_hold_for_subclasses_too() -> None:
    class Keeper(InMemory):
        exact_forget = False
        fixed_size = True
        model_channel = True
        needs = frozenset({"local_model"})

    found = registry.capabilities(Keeper)
    assert not found.exact_forget
    assert found.fixed_size
    assert found.model_channel
    assert found.needs_local_model
    assert registry.capabilities(InMemory).exact_forget


def test_a_backend_without_recall_cannot_be_made(tmp_path: Path) -> None:
    class Forgetful(InMemory):
        recall = MemoryBackend.recall

    with pytest.raises(TypeError, match="recall"):
        Forgetful(InMemoryConfig(), Resources(tmp_path, HashingEmbedder))


def test_several_backends_are_chosen_with_their_own_settings() -> None:
    rag, plain = registry.choose("rag+in_memory", {"rag.margin": "0.25", "in_memory.threshold": "0.5"})
    assert (rag.config.margin, plain.config.threshold) == (0.25, 0.5)
    assert (rag.settings, plain.settings) == ({"margin": "0.25"}, {"threshold": "0.5"})
    for settings in ({"k": "5"}, {"titans.k": "5"}):
        with pytest.raises(SettingError, match=r"expected for instance rag\.abstain"):
            registry.choose("rag+in_memory", settings)
    with pytest.raises(SettingError, match="twice"):
        registry.choose("rag+rag", {})
    with pytest.raises(NotFoundError, match="ragg"):
        registry.choose("in_memory+ragg", {})

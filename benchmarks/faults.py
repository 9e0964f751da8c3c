"""The fault campaign: what memagent acknowledged is there, what it forgot is gone, whatever fails meanwhile.

    python benchmarks/faults.py kills --kills 1000          # SIGKILL at every commit, sync, rename and removal
    python benchmarks/faults.py kills --operation forget --kills 200
    python benchmarks/faults.py stress --minutes 10         # ten processes that do everything at once
    python benchmarks/faults.py disk --rounds 20            # full and failing disks (Debian: fiu-utils)
    python benchmarks/faults.py mutations                   # damaged exports, scenarios, journals and stored states
    python benchmarks/faults.py servers --kills 30          # PostgreSQL and Chroma killed and started again
    python benchmarks/faults.py short                       # a little of each, some minutes

Exit code 1 if anything was lost, came back, leaked, crashed or ended in a traceback. Texts are generated, so that every
word is known; backends that need a language model get SmolLM2 135M. Linux only: processes are forked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # tests/mutation.py

from faults_common import Models
from rich.console import Console
from rich.progress import track

from memagent.agent.home import Home
from memagent.backends import registry
from memagent.backends.protocol import LocalModel

Result = dict[str, Any]
AUTOENCODERS = Path(__file__).parents[1] / "tests" / "data" / "autoencoders"
"""Those of `context_bank` for SmolLM2."""
MUTATED = ("exports", "scenarios", "journals", "states", "commands")


@cache
def small_model() -> LocalModel:
    """SmolLM2 135M, loaded before any fork and on one thread, which a forked process can use."""
    import torch

    from memagent.agent.models.loader import as_local, load_chat_model

    torch.set_num_threads(1)
    return as_local(
        load_chat_model("smollm2-135m", model_folder(), notify=lambda said: print(said, file=sys.stderr))
    )


def model_folder() -> Path:
    return Home.from_environment().models


def ready(backends: Iterable[str], folder: Path) -> Models:
    """Import and load what the forked processes use; calibrate a memory map once, and take a bank's weights, outside of them."""
    import chromadb  # noqa: F401 - before the fork

    import memagent.cli.main  # noqa: F401 - before the fork

    models = Models(small_model)
    if any("local_model" in registry.get(name).needs for name in backends):
        small_model()
        if "rope_map" in backends:
            with models.open(Home(folder / "calibrating", model_folder()), "rope_map") as memory:
                memory.remember("s", "user", "The first reading calibrates the model's heads.")
        if "context_bank" in backends:
            derived = model_folder() / "derived"
            derived.mkdir(parents=True, exist_ok=True)
            for weights in AUTOENCODERS.glob("*.safetensors"):
                shutil.copy(weights, derived)
    return models


def kills(arguments: argparse.Namespace, folder: Path) -> Result:
    from faults_kills import OPERATIONS, Campaign

    models = ready(arguments.backend, folder)
    chosen = [one for one in OPERATIONS if not arguments.operation or one.name in arguments.operation]
    pairs = [(one, name) for one in chosen for name in (arguments.backend if one.of_backends else ["none"])]
    campaigns = [
        Campaign(folder / f"{one.name}-{name}", one, name, models, model_folder())
        for one, name in progress(pairs, "preparing")
    ]
    points = [(one, point) for one in campaigns for point in range(1, one.points() + 1)]
    # All of them, or so many evenly spread; more than there are begin again.
    wanted = arguments.kills or len(points)
    if wanted < len(points):
        points = [points[place * len(points) // wanted] for place in range(wanted)]
    else:
        points = [points[place % len(points)] for place in range(wanted)]
    done: Counter[str] = Counter()
    faults = []
    for campaign, point in progress(points, "kills"):
        kill = campaign.kill(point)
        done[f"{kill.operation} {kill.backend}"] += kill.reached
        faults += [f"{kill.operation} of {kill.backend} at {kill.point}: {fault}" for fault in kill.faults]
    return {"kills": done.total(), "by operation and backend": dict(done), "faults": faults}


def stress(arguments: argparse.Namespace, folder: Path) -> Result:
    from faults_stress import stress as run

    from memagent.agent.models.chat import ChatModel

    with_model = arguments.processes > 8
    models = ready(["rope_map", "titans"] if with_model else [], folder)
    model: ChatModel | None = small_model() if with_model else None  # type: ignore[assignment]
    home = Home(folder / "home", model_folder())
    seconds = 60 * arguments.minutes
    return run(
        home, folder / "outside", seconds=seconds, processes=arguments.processes, models=models, model=model
    )


def disk(arguments: argparse.Namespace, folder: Path) -> Result:
    from faults_disk import KINDS, NOT_OF_CHROMA, Round, run_under_fiu

    run_under_fiu()
    models = ready([], folder)
    rounds = [
        (kind, name, seed)
        for kind in KINDS
        for name in ("in_memory", "rag")
        if not (name == "rag" and kind in NOT_OF_CHROMA)
        for seed in range(arguments.rounds)
    ]
    done: dict[str, Counter[str]] = {}
    faults = []
    for kind, name, seed in progress(rounds, "rounds on failing disks"):
        place = folder / f"{kind}-{name}-{seed}".replace(" ", "-")
        outcomes, found = Round(place, kind, name, seed, models, model_folder()).run()
        done.setdefault(f"{kind}, {name}", Counter()).update(outcomes)
        faults += found
    return {
        "rounds": len(rounds),
        "outcomes": {key: dict(value) for key, value in done.items()},
        "faults": faults,
    }


def mutations(arguments: argparse.Namespace, folder: Path) -> Result:
    import faults_mutations as part

    models = ready(arguments.backend if "states" in arguments.kind else [], folder)
    os.environ |= {"MEMAGENT_EMBEDDER": "hashing", "MEMAGENT_MODEL": "echo", "MEMAGENT_USER": "ana"}
    models_states = (arguments.checkpoints, folder / "states", arguments.seed, models, arguments.backend)
    kinds = {
        "exports": part.imports(arguments.count, folder / "imports", arguments.seed),
        "scenarios": part.scenarios(arguments.count, folder / "scenarios", arguments.seed),
        "journals": part.journals(arguments.count, folder / "journals", arguments.seed),
        "states": part.checkpoints(*models_states),
        "commands": part.commands(arguments.commands, folder / "commands", arguments.seed, models),
    }
    tallies: dict[str, part.Tally] = {}
    for name in arguments.kind:
        for tally in progress(kinds[name], name):
            tallies[tally.kind] = tally
    return {
        "outcomes": {kind: dict(tally.outcomes) for kind, tally in tallies.items()},
        "faults": [fault for tally in tallies.values() for fault in tally.faults],
    }


def servers(arguments: argparse.Namespace, folder: Path) -> Result:
    from faults_servers import chroma, postgres

    models = ready([], folder)
    parts: dict[str, Result] = {
        "postgresql": postgres(folder / "postgresql", arguments.kills, models),
        "chroma": chroma(folder / "chroma", arguments.kills, models),
    }
    return _joined(parts)


def short(arguments: argparse.Namespace, folder: Path) -> Result:
    """The parts that need no server, no preload library and no language model."""
    results: dict[str, Result] = {}
    for name, part, options in (
        ("kills", kills, ["kills", "--kills", "30", "--backend", "in_memory"]),
        ("stress", stress, ["stress", "--minutes", "0.15", "--processes", "8"]),
        (
            "mutations",
            mutations,
            [
                "mutations",
                "--count",
                "300",
                "--checkpoints",
                "20",
                "--commands",
                "3",
                "--backend",
                "in_memory",
                "rag",
            ],
        ),
    ):
        results[name] = part(parser().parse_args(options), folder / name)
    return _joined(results)


def _joined(parts: dict[str, Result]) -> Result:
    faults = [f"{name}: {fault}" for name, part in parts.items() for fault in part.pop("faults")]
    return {**parts, "faults": faults}


def progress(items: Any, label: str) -> Iterator[Any]:
    """Show how far it is, on standard error, to a person at a terminal."""
    console = Console(stderr=True)
    return iter(track(items, description=label, console=console, disable=not console.is_terminal))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", choices=("text", "json"), default="text")
    made.add_argument("--keep", type=Path, help="a new folder for the homes, kept afterwards")
    parts = made.add_subparsers(dest="part", required=True)
    every = [name for name in registry.names() if not registry.get(name).__module__.startswith("tests")]
    one = parts.add_parser("kills")
    one.add_argument("--kills", type=int, default=0, help="how many; all points once if left out")
    one.add_argument("--backend", nargs="+", default=every)
    one.add_argument("--operation", nargs="+", default=[])
    one.set_defaults(run=kills)
    one = parts.add_parser("stress")
    one.add_argument("--minutes", type=float, default=10.0)
    one.add_argument("--processes", type=int, default=10, help="of more than 8, two work inside SmolLM2 135M")
    one.set_defaults(run=stress)
    one = parts.add_parser("disk")
    one.add_argument("--rounds", type=int, default=20, help="of each kind and backend")
    one.set_defaults(run=disk)
    one = parts.add_parser("mutations")
    one.add_argument(
        "--count", type=int, default=100_000, help="of exports, scenario files and journals each"
    )
    one.add_argument("--kind", nargs="+", choices=MUTATED, default=MUTATED)
    one.add_argument("--checkpoints", type=int, default=2000, help="over all backends")
    one.add_argument("--commands", type=int, default=200, help="of each kind, through the command line")
    one.add_argument("--backend", nargs="+", default=[name for name in every if name != "none"])
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=mutations)
    one = parts.add_parser("servers")
    one.add_argument("--kills", type=int, default=30)
    one.set_defaults(run=servers)
    parts.add_parser("short").set_defaults(run=short)
    return made


def main() -> None:
    arguments = parser().parse_args()
    began = time.monotonic()
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True)
        result = arguments.run(arguments, arguments.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
            result = arguments.run(arguments, Path(folder))
    faults = result.pop("faults")
    result |= {"seconds": round(time.monotonic() - began), "faults": len(faults)}
    if arguments.output == "json":
        print(json.dumps({**result, "faults": faults}, indent=1))
    else:
        print(json.dumps(result, indent=1))
        for fault in faults[:50]:
            print(f"FAULT {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

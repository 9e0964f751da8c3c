"""Many requests at once: each gets its own memory, and none of the others'."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from memagent.agent.home import Home
from tests.agent.integrations.http.serving import Served, ask, serving

_USERS = 32


def test_32_requests_at_once_get_their_own_memory_and_none_of_the_others(home: Home) -> None:
    with serving(home, local_user=None) as served:
        keys = [served.keys.add(f"user{number}")[0] for number in range(_USERS)]
        with ThreadPoolExecutor(_USERS) as threads:
            list(threads.map(lambda number: tell(served, keys[number], number), range(_USERS)))
            replies = list(threads.map(lambda key: question(served, key), keys))
    for number, reply in enumerate(replies):
        assert f"Dog{number}." in reply
        assert reply.count("Dog") == 1


def tell(served: Served, key: str, number: int) -> None:
    with served.client(key) as client:
        ask(client, f"My dog is called Dog{number}.")


def question(served: Served, key: str) -> str:
    with served.client(key) as client:
        return ask(client, "What is my dog called?")

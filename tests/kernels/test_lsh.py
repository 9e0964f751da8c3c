"""The hashing index: its pieces against their plain loops, and what it finds, keeps and forgets."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memagent.kernels.lsh import Hits, LSHIndex, hash_codes, naive, rerank
from memagent.kernels.lsh import eager as fast
from memagent.kernels.switch import use_fused

DIMS = [60, 64, 80]
COUNTS = [0, 1, 63, 500, 5000]

# A process of its own: Triton decides at its first import whether it interprets, also for its own functions.
INTERPRETED = """
import sys
import torch
from memagent.kernels.lsh import LSHIndex, hash_codes, naive, rerank
assert "triton" not in sys.modules
torch.set_num_threads(1)
for dim, count, dtype in ((60, 1, torch.float32), (64, 63, torch.bfloat16), (80, 200, torch.float16)):
    draw = torch.Generator().manual_seed(dim)
    keys = torch.randn(count, dim, generator=draw).to(dtype)
    planes, queries = torch.randn(dim, 5, generator=draw), torch.randn(3, dim, generator=draw)
    rows = torch.randint(-1, count, (3, 70), generator=draw)
    assert torch.equal(hash_codes(keys, planes), naive.hash_codes(keys, planes))
    torch.testing.assert_close(rerank(queries, keys, rows), naive.rerank(queries, keys, rows), rtol=1e-5, atol=1e-4)
assert hash_codes(torch.empty(0, 60), torch.randn(60, 5)).shape == (0,)
assert rerank(queries, keys, rows[:, :0]).shape == (3, 0)
assert "memagent.kernels.lsh.fused" in sys.modules
"""


EXACT = 8192


@pytest.fixture(autouse=True)
def _hash_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let indexes hash from some thousand keys on, so that tests need no more."""
    monkeypatch.setattr("memagent.kernels.lsh.index.EXACT", EXACT)


def drawn(*shape: int, seed: int = 42) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clustered(count: int, dim: int = 64, seed: int = 42) -> torch.Tensor:
    """Keys as attention has them: a large common part, and groups that share a direction."""
    draw = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(200, dim, generator=draw)
    of = torch.randint(200, (count,), generator=draw)
    return 3 + centres[of] + torch.randn(count, dim, generator=draw)


def recall(hits: Hits, queries: torch.Tensor, keys: torch.Tensor) -> float:
    """Share of the exact top keys found; ids are places in ``keys``."""
    limit = hits.ids.shape[1]
    truth = (queries @ keys.float().T).topk(limit).indices
    return float((hits.ids[:, :, None] == truth[:, None, :]).any(2).float().mean())


def filled(keys: torch.Tensor) -> LSHIndex:
    index = LSHIndex()
    index.insert(torch.arange(len(keys)), keys)
    return index


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", COUNTS)
def test_hash_codes(dim: int, count: int) -> None:
    keys, planes = drawn(count, dim), drawn(dim, 5, seed=1)
    torch.testing.assert_close(hash_codes(keys, planes), naive.hash_codes(keys, planes), rtol=0, atol=0)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", COUNTS)
def test_exact_top(dim: int, count: int) -> None:
    keys, queries = drawn(count, dim), drawn(3, dim, seed=1)
    scores, rows = fast.exact_top(queries, keys, 7)
    expected, expected_rows = naive.exact_top(queries, keys, 7)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(rows, expected_rows)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rerank(dim: int, dtype: torch.dtype) -> None:
    keys, queries = drawn(500, dim).to(dtype), drawn(3, dim, seed=1)
    rows = torch.randint(-1, 500, (3, 63), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        rerank(queries, keys, rows), naive.rerank(queries, keys, rows), rtol=1e-5, atol=1e-4
    )


def test_rerank_in_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_ROWS", 10)
    keys, queries, rows = drawn(63, 60), drawn(4, 60, seed=1), torch.arange(63).expand(4, -1)
    torch.testing.assert_close(
        fast.rerank(queries, keys, rows), naive.rerank(queries, keys, rows), rtol=1e-5, atol=1e-4
    )


def test_bucket_rows() -> None:
    offsets = torch.tensor([0, 3, 4, 9, 10])
    buckets = torch.tensor([[0, 2], [3, 1], [2, 3]])
    assert torch.equal(fast.bucket_rows(buckets, offsets), naive.bucket_rows(buckets, offsets))
    assert fast.bucket_rows(buckets[:0], offsets).shape == (0, 0)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_triton_agrees_with_naive() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], check=False, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_index_imports_no_triton() -> None:
    code = "import sys, memagent.kernels.lsh; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", COUNTS)
def test_a_small_index_is_exact(dim: int, count: int) -> None:
    keys, queries = drawn(count, dim), drawn(3, dim, seed=1)
    hits = filled(keys).query(queries, 70)
    expected, rows = fast.exact_top(queries, keys, 70)
    assert torch.equal(hits.scores, expected)
    assert torch.equal(hits.ids, rows)
    assert hits.touched == (1.0 if count else 0.0)


def test_finds_most_of_the_nearest_in_few_keys() -> None:
    keys = clustered(20_000)
    queries = keys[::2000] - keys.mean(0)
    hits = filled(keys).query(queries, 32)
    assert recall(hits, queries, keys) > 0.85
    assert hits.touched < 0.35
    assert (hits.scores.diff(dim=1) <= 0).all()
    torch.testing.assert_close(hits.scores, (queries[:, None] * keys[hits.ids]).sum(-1), rtol=1e-4, atol=1e-2)


def test_all_probes_are_exact_search() -> None:
    keys, queries = clustered(10_000), drawn(5, 64, seed=1)
    index = filled(keys)
    assert index.buckets > 64
    for probes in (index.buckets, 10**6):
        hits = index.query(queries, 64, probes=probes)
        assert recall(hits, queries, keys) == 1
        assert hits.touched == 1


def test_more_probes_touch_more_and_find_more() -> None:
    keys = clustered(20_000)
    queries, index = keys[::500] - keys.mean(0), filled(keys)
    asked = [index.query(queries, 32, probes=probes) for probes in (4, 32, 256)]
    found = [recall(hits, queries, keys) for hits in asked]
    assert found[0] < found[1] < found[2]
    assert asked[0].touched < asked[1].touched < asked[2].touched


def test_inserting_in_parts_recalls_as_inserting_at_once() -> None:
    keys = clustered(30_000)
    queries = keys[::1500] - keys.mean(0)
    parts = LSHIndex()
    for ids in torch.split(torch.arange(len(keys)), 1777):
        parts.insert(ids, keys[ids])
    assert len(parts) == len(keys)
    found = [recall(index.query(queries, 32), queries, keys) for index in (parts, filled(keys))]
    assert min(found) > 0.85
    assert abs(found[0] - found[1]) < 0.05


def test_the_same_inserts_give_the_same_answers() -> None:
    keys, queries = clustered(12_000), drawn(5, 64, seed=1)
    first, second = (filled(keys).query(queries, 64) for _ in range(2))
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.scores, second.scores)


def test_the_order_of_a_batch_does_not_matter() -> None:
    index, queries = filled(clustered(12_000)), drawn(7, 64, seed=1)
    turned = index.query(queries.flip(0), 32)
    straight = index.query(queries, 32)
    torch.testing.assert_close(turned.scores.flip(0), straight.scores, rtol=1e-5, atol=1e-4)
    assert (turned.ids.flip(0).sort().values == straight.ids.sort().values).float().mean() > 0.99


def test_a_key_stored_twice_is_found_twice() -> None:
    keys = clustered(10_000)
    keys[7000] = keys[3]
    query = (keys[3] - keys.mean(0))[None] * 100
    ids = filled(keys).query(query, 64).ids[0].tolist()
    assert {3, 7000} <= set(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("count", [500, 20_000])
def test_a_deleted_key_is_gone_and_the_others_stay(count: int) -> None:
    keys = clustered(count)
    queries = keys[:: count // 10] - keys.mean(0)
    index = filled(keys)
    gone = torch.arange(0, count, 5)
    before = index.query(queries, 32)
    index.delete(gone)
    after = index.query(queries, 32)
    assert len(index) == count - len(gone)
    assert not torch.isin(after.ids, gone).any()
    left = before.ids[~torch.isin(before.ids, gone)]
    assert torch.isin(left, after.ids).float().mean() > 0.99
    index.insert(gone, keys[gone])
    again = index.query(queries, 32)
    assert recall(again, queries, keys) >= recall(before, queries, keys) - 0.02


@pytest.mark.parametrize("count", [500, 12_000])
def test_no_bytes_of_a_deleted_key_stay_in_the_state(count: int, tmp_path: Path) -> None:
    keys = clustered(count).half()
    index = filled(keys)
    secret = keys[17].clone()

    def stored() -> bool:
        save_file(index.state(), tmp_path / "state.safetensors")
        raw = (tmp_path / "state.safetensors").read_bytes()
        return any(secret.to(kind).numpy().tobytes() in raw for kind in (torch.float16, torch.float32))

    assert stored()
    index.delete(torch.tensor([17]))
    assert not stored()


def test_deleting_most_keys_leaves_an_exact_index() -> None:
    keys, queries = clustered(3 * EXACT), drawn(3, 64, seed=1)
    index = filled(keys)
    assert index.buckets > 0
    index.delete(torch.arange(2 * EXACT))
    index.delete(torch.arange(2 * EXACT, 3 * EXACT - 20))
    assert (len(index), index.buckets) == (20, 0)
    assert index.query(queries, 64).ids.ge(0).sum(1).tolist() == [20, 20, 20]
    index.delete(torch.arange(3 * EXACT - 20, 3 * EXACT))
    assert len(index) == 0
    assert index.query(queries, 2).ids.tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("count", [0, 500, 12_000])
def test_a_state_comes_back_identical(count: int, tmp_path: Path) -> None:
    keys, queries = clustered(count).bfloat16(), drawn(3, 64, seed=1)
    index = filled(keys)
    save_file(index.state(), tmp_path / "state.safetensors")
    back = LSHIndex.from_state(load_file(tmp_path / "state.safetensors"))
    assert {name: tensor.tolist() for name, tensor in back.state().items()} == {
        name: tensor.tolist() for name, tensor in index.state().items()
    }
    more = clustered(9000, seed=7).bfloat16()
    for each in (index, back):
        each.insert(torch.arange(count, count + 9000), more)
    first, second = index.query(queries, 64), back.query(queries, 64)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.scores, second.scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keys_are_kept_as_given_and_scored_in_float32(dtype: torch.dtype) -> None:
    keys, queries = clustered(10_000).to(dtype), drawn(3, 64, seed=1)
    index = filled(keys)
    hits = index.query(queries.to(dtype), 8)
    assert index.state()["keys"].dtype == dtype
    assert hits.scores.dtype == torch.float32
    expected = (queries.to(dtype).float()[:, None] * keys[hits.ids].float()).sum(-1)
    torch.testing.assert_close(hits.scores, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("ids", "keys", "message"),
    [
        (
            torch.arange(2),
            drawn(3, 64),
            r"ids int64 \[n\] and keys \[n, dim\], got torch.int64 \[2\] and \[3, 64\]",
        ),
        (torch.arange(3.0), drawn(3, 64), "got torch.float32"),
        (torch.arange(9, 12), drawn(3, 60), "dimension 64, as those stored, got 60"),
        (torch.arange(9, 12), drawn(3, 64).double(), "keys of torch.float32, got torch.float64"),
        (torch.tensor([9, 9]), drawn(2, 64), "each id once, got 2 ids of which 1 differ"),
        (torch.tensor([4, 9]), drawn(2, 64), r"new ids, got 1 that are stored: \[4\]"),
        (torch.tensor([-1, 9]), drawn(2, 64), "ids of 0 and above, got -1"),
        (torch.tensor([9]), torch.full((1, 64), torch.nan), "finite keys"),
    ],
    ids=["count", "type", "dimension", "dtype", "twice", "stored", "negative", "nan"],
)
def test_insert_says_what_it_refuses(ids: torch.Tensor, keys: torch.Tensor, message: str) -> None:
    index = filled(drawn(5, 64))
    with pytest.raises(ValueError, match=message):
        index.insert(ids, keys)
    assert len(index) == 5


def test_the_others_say_what_they_refuse() -> None:
    index = filled(drawn(5, 64))
    with pytest.raises(ValueError, match=r"ids that are stored, got 1 others: \[7\]"):
        index.delete(torch.tensor([1, 7]))
    assert len(index) == 5
    with pytest.raises(ValueError, match=r"queries \[q, 64\], got torch.float32 \[3, 60\]"):
        index.query(drawn(3, 60), 5)
    with pytest.raises(ValueError, match="limit of at least 1, got 0"):
        index.query(drawn(3, 64), 0)
    with pytest.raises(ValueError, match="probes of at least 1 or None, got 0"):
        index.query(drawn(3, 64), 5, probes=0)
    with pytest.raises(ValueError, match=r"planes \[dim, bits\], got \[3, 64\] and \[60, 5\]"):
        hash_codes(drawn(3, 64), drawn(60, 5))
    with pytest.raises(ValueError, match="at most 62 bits, which an int64 holds, got 63"):
        hash_codes(drawn(3, 64), drawn(64, 63))
    with pytest.raises(ValueError, match=r"rows \[q, c\], got \[3, 64\], \[5, 64\], \[2, 1\]"):
        rerank(drawn(3, 64), drawn(5, 64), torch.zeros(2, 1, dtype=torch.int64))


@pytest.mark.parametrize("count", [5, 12_000])
def test_a_state_of_something_else_is_refused(count: int) -> None:
    state = filled(clustered(count)).state()
    assert ("means" in state) == (count > EXACT)
    for missing in state:
        with pytest.raises(ValueError, match="state of an LSHIndex"):
            LSHIndex.from_state({name: part for name, part in state.items() if name != missing})
    with pytest.raises(ValueError, match="keys, .*, got .*settings"):
        LSHIndex.from_state(state | {"settings": torch.arange(7)})


def test_triton_runs_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_processor = torch.empty(0, device="cpu")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not use_fused(on_the_processor)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert use_fused(on_the_processor) == (find_spec("triton") is not None)

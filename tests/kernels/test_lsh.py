"""The LSH index: its kernels against naive, its recall, deletion and stored state."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memagent.kernels.lsh import Hits, LSHIndex, eager, hash_codes, naive, rerank
from memagent.kernels.switch import use_fused

DIMS = [60, 64, 80]
COUNTS = [0, 1, 63, 500, 5000]

# Runs in a process of its own, because Triton reads TRITON_INTERPRET when it is imported.
INTERPRETED = """
import sys
import torch
from memagent.kernels.lsh import LSHIndex, hash_codes, naive, rerank
assert "triton" not in sys.modules
torch.set_num_threads(1)
for dim, count, dtype in ((60, 1, torch.float32), (64, 63, torch.bfloat16), (80, 200, torch.float16)):
    generator = torch.Generator().manual_seed(dim)
    keys = torch.randn(count, dim, generator=generator).to(dtype)
    planes, queries = torch.randn(dim, 5, generator=generator), torch.randn(3, dim, generator=generator)
    rows = torch.randint(-1, count, (3, 70), generator=generator)
    assert torch.equal(hash_codes(keys, planes), naive.hash_codes(keys, planes))
    torch.testing.assert_close(rerank(queries, keys, rows), naive.rerank(queries, keys, rows), rtol=1e-5, atol=1e-4)
assert hash_codes(torch.empty(0, 60), torch.randn(60, 5)).shape == (0,)
assert rerank(queries, keys, rows[:, :0]).shape == (3, 0)
assert "memagent.kernels.lsh.fused" in sys.modules
"""


EXACT = 8192


@pytest.fixture(autouse=True)
def _low_exact_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let indexes hash from 8192 keys on, so that tests need fewer keys."""
    monkeypatch.setattr("memagent.kernels.lsh.index.EXACT", EXACT)


def random_normal(*shape: int, seed: int = 42) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clustered(count: int, dim: int = 64, seed: int = 42) -> torch.Tensor:
    """Return keys like those of attention: a large common part, and clusters that share a direction."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(200, dim, generator=generator)
    assignments = torch.randint(200, (count,), generator=generator)
    return 3 + centres[assignments] + torch.randn(count, dim, generator=generator)


def recall(hits: Hits, queries: torch.Tensor, keys: torch.Tensor) -> float:
    """Return the share of the exact top keys that are among the hits; ids are rows of ``keys``."""
    limit = hits.ids.shape[1]
    exact = (queries @ keys.float().T).topk(limit).indices
    return float((hits.ids[:, :, None] == exact[:, None, :]).any(2).float().mean())


def index_of(keys: torch.Tensor) -> LSHIndex:
    index = LSHIndex()
    index.insert(torch.arange(len(keys)), keys)
    return index


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", COUNTS)
def test_hash_codes(dim: int, count: int) -> None:
    keys, planes = random_normal(count, dim), random_normal(dim, 5, seed=1)
    torch.testing.assert_close(hash_codes(keys, planes), naive.hash_codes(keys, planes), rtol=0, atol=0)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", COUNTS)
def test_exact_top(dim: int, count: int) -> None:
    keys, queries = random_normal(count, dim), random_normal(3, dim, seed=1)
    scores, rows = eager.exact_top(queries, keys, 7)
    expected, expected_rows = naive.exact_top(queries, keys, 7)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(rows, expected_rows)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rerank(dim: int, dtype: torch.dtype) -> None:
    keys, queries = random_normal(500, dim).to(dtype), random_normal(3, dim, seed=1)
    rows = torch.randint(-1, 500, (3, 63), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        rerank(queries, keys, rows), naive.rerank(queries, keys, rows), rtol=1e-5, atol=1e-4
    )


def test_rerank_in_several_steps() -> None:
    keys, queries = random_normal(9000, 60), random_normal(2, 60, seed=1)
    rows = torch.arange(9000).expand(2, -1)  # a step takes 16,384 rows of all queries together
    torch.testing.assert_close(
        eager.rerank(queries, keys, rows), naive.rerank(queries, keys, rows), rtol=1e-5, atol=1e-4
    )


def test_bucket_rows() -> None:
    offsets = torch.tensor([0, 3, 4, 9, 10])
    buckets = torch.tensor([[0, 2], [3, 1], [2, 3]])
    assert torch.equal(eager.bucket_rows(buckets, offsets), naive.bucket_rows(buckets, offsets))
    assert eager.bucket_rows(buckets[:0], offsets).shape == (0, 0)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_fused_kernels_match_naive() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", INTERPRETED], check=False, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", COUNTS)
def test_a_small_index_is_exact(dim: int, count: int) -> None:
    keys, queries = random_normal(count, dim), random_normal(3, dim, seed=1)
    hits = index_of(keys).query(queries, 70)
    expected, rows = eager.exact_top(queries, keys, 70)
    assert torch.equal(hits.scores, expected)
    assert torch.equal(hits.ids, rows)
    assert hits.touched == (1.0 if count else 0.0)


def test_recall_is_high_though_few_keys_are_touched() -> None:
    keys = clustered(20_000)
    queries = keys[::2000] - keys.mean(0)
    hits = index_of(keys).query(queries, 32)
    assert recall(hits, queries, keys) > 0.85
    assert hits.touched < 0.35
    assert (hits.scores.diff(dim=1) <= 0).all()
    torch.testing.assert_close(hits.scores, (queries[:, None] * keys[hits.ids]).sum(-1), rtol=1e-4, atol=1e-2)


def test_probing_all_buckets_is_exact_search() -> None:
    keys, queries = clustered(10_000), random_normal(5, 64, seed=1)
    index = index_of(keys)
    assert index.buckets > 64
    for probes in (index.buckets, 10**6):
        hits = index.query(queries, 64, probes=probes)
        assert recall(hits, queries, keys) == 1
        assert hits.touched == 1


def test_more_probes_raise_recall_and_touched_keys() -> None:
    keys = clustered(20_000)
    queries, index = keys[::500] - keys.mean(0), index_of(keys)
    all_hits = [index.query(queries, 32, probes=probes) for probes in (4, 32, 256)]
    recalls = [recall(hits, queries, keys) for hits in all_hits]
    assert recalls[0] < recalls[1] < recalls[2]
    assert all_hits[0].touched < all_hits[1].touched < all_hits[2].touched


def test_inserting_in_batches_has_the_recall_of_inserting_at_once() -> None:
    keys = clustered(30_000)
    queries = keys[::1500] - keys.mean(0)
    batched = LSHIndex()
    for ids in torch.split(torch.arange(len(keys)), 1777):
        batched.insert(ids, keys[ids])
    assert len(batched) == len(keys)
    recalls = [recall(index.query(queries, 32), queries, keys) for index in (batched, index_of(keys))]
    assert min(recalls) > 0.85
    assert abs(recalls[0] - recalls[1]) < 0.05


def test_the_same_inserts_give_the_same_answers() -> None:
    keys, queries = clustered(12_000), random_normal(5, 64, seed=1)
    first, second = (index_of(keys).query(queries, 64) for _ in range(2))
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.scores, second.scores)


def test_the_order_of_a_batch_does_not_matter() -> None:
    index, queries = index_of(clustered(12_000)), random_normal(7, 64, seed=1)
    reversed_hits = index.query(queries.flip(0), 32)
    hits = index.query(queries, 32)
    torch.testing.assert_close(reversed_hits.scores.flip(0), hits.scores, rtol=1e-5, atol=1e-4)
    assert (reversed_hits.ids.flip(0).sort().values == hits.ids.sort().values).float().mean() > 0.99


def test_a_key_stored_twice_is_found_twice() -> None:
    keys = clustered(10_000)
    keys[7000] = keys[3]
    query = (keys[3] - keys.mean(0))[None] * 100
    ids = index_of(keys).query(query, 64).ids[0].tolist()
    assert {3, 7000} <= set(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("count", [500, 20_000])
def test_delete_removes_these_keys_and_keeps_the_others(count: int) -> None:
    keys = clustered(count)
    queries = keys[:: count // 10] - keys.mean(0)
    index = index_of(keys)
    deleted = torch.arange(0, count, 5)
    before = index.query(queries, 32)
    index.delete(deleted)
    after = index.query(queries, 32)
    assert len(index) == count - len(deleted)
    assert not torch.isin(after.ids, deleted).any()
    remaining = before.ids[~torch.isin(before.ids, deleted)]
    assert torch.isin(remaining, after.ids).float().mean() > 0.99
    index.insert(deleted, keys[deleted])
    restored = index.query(queries, 32)
    assert recall(restored, queries, keys) >= recall(before, queries, keys) - 0.02


@pytest.mark.parametrize("count", [500, 12_000])
def test_no_bytes_of_a_deleted_key_stay_in_the_state(count: int, tmp_path: Path) -> None:
    keys = clustered(count).half()
    index = index_of(keys)
    secret = keys[17].clone()

    def stored() -> bool:
        save_file(index.state(), tmp_path / "state.safetensors")
        raw = (tmp_path / "state.safetensors").read_bytes()
        return any(secret.to(kind).numpy().tobytes() in raw for kind in (torch.float16, torch.float32))

    assert stored()
    index.delete(torch.tensor([17]))
    assert not stored()


def test_deleting_most_keys_leaves_an_exact_index() -> None:
    keys, queries = clustered(3 * EXACT), random_normal(3, 64, seed=1)
    index = index_of(keys)
    assert index.buckets > 0
    index.delete(torch.arange(2 * EXACT))
    index.delete(torch.arange(2 * EXACT, 3 * EXACT - 20))
    assert (len(index), index.buckets) == (20, 0)
    assert index.query(queries, 64).ids.ge(0).sum(1).tolist() == [20, 20, 20]
    index.delete(torch.arange(3 * EXACT - 20, 3 * EXACT))
    assert len(index) == 0
    assert index.query(queries, 2).ids.tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("count", [0, 500, 12_000])
def test_a_loaded_state_is_identical(count: int, tmp_path: Path) -> None:
    keys, queries = clustered(count).bfloat16(), random_normal(3, 64, seed=1)
    index = index_of(keys)
    save_file(index.state(), tmp_path / "state.safetensors")
    loaded = LSHIndex.from_state(load_file(tmp_path / "state.safetensors"))
    assert {name: tensor.tolist() for name, tensor in loaded.state().items()} == {
        name: tensor.tolist() for name, tensor in index.state().items()
    }
    more = clustered(9000, seed=7).bfloat16()
    for index_copy in (index, loaded):
        index_copy.insert(torch.arange(count, count + 9000), more)
    first, second = index.query(queries, 64), loaded.query(queries, 64)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.scores, second.scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keys_are_kept_as_given_and_scored_in_float32(dtype: torch.dtype) -> None:
    keys, queries = clustered(10_000).to(dtype), random_normal(3, 64, seed=1)
    index = index_of(keys)
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
            random_normal(3, 64),
            r"ids int64 \[n\] and keys \[n, dim\], got torch.int64 \[2\] and \[3, 64\]",
        ),
        (torch.arange(3.0), random_normal(3, 64), "got torch.float32"),
        (torch.arange(9, 12), random_normal(3, 60), "dimension 64, as those stored, got 60"),
        (torch.arange(9, 12), random_normal(3, 64).double(), "keys of torch.float32, got torch.float64"),
        (torch.tensor([9, 9]), random_normal(2, 64), "each id once, got 2 ids of which 1 differ"),
        (torch.tensor([4, 9]), random_normal(2, 64), r"new ids, got 1 that are stored: \[4\]"),
        (torch.tensor([-1, 9]), random_normal(2, 64), "ids of 0 and above, got -1"),
        (torch.tensor([9]), torch.full((1, 64), torch.nan), "finite keys"),
    ],
    ids=["count", "type", "dimension", "dtype", "twice", "stored", "negative", "nan"],
)
def test_insert_names_what_it_refuses(ids: torch.Tensor, keys: torch.Tensor, message: str) -> None:
    index = index_of(random_normal(5, 64))
    with pytest.raises(ValueError, match=message):
        index.insert(ids, keys)
    assert len(index) == 5


def test_the_other_functions_name_what_they_refuse() -> None:
    index = index_of(random_normal(5, 64))
    with pytest.raises(ValueError, match=r"ids that are stored, got 1 others: \[7\]"):
        index.delete(torch.tensor([1, 7]))
    assert len(index) == 5
    with pytest.raises(ValueError, match=r"queries \[q, 64\], got torch.float32 \[3, 60\]"):
        index.query(random_normal(3, 60), 5)
    with pytest.raises(ValueError, match="limit of at least 1, got 0"):
        index.query(random_normal(3, 64), 0)
    with pytest.raises(ValueError, match="probes of at least 1 or None, got 0"):
        index.query(random_normal(3, 64), 5, probes=0)
    with pytest.raises(ValueError, match=r"planes \[dim, bits\], got \[3, 64\] and \[60, 5\]"):
        hash_codes(random_normal(3, 64), random_normal(60, 5))
    with pytest.raises(ValueError, match="at most 62 bits, which an int64 holds, got 63"):
        hash_codes(random_normal(3, 64), random_normal(64, 63))
    with pytest.raises(ValueError, match=r"rows \[q, c\], got \[3, 64\], \[5, 64\], \[2, 1\]"):
        rerank(random_normal(3, 64), random_normal(5, 64), torch.zeros(2, 1, dtype=torch.int64))


@pytest.mark.parametrize("count", [5, 12_000])
def test_a_state_that_is_incomplete_or_of_another_kind_is_refused(count: int) -> None:
    state = index_of(clustered(count)).state()
    assert ("means" in state) == (count > EXACT)
    for missing in state:
        with pytest.raises(ValueError, match="state of an LSHIndex"):
            LSHIndex.from_state({name: part for name, part in state.items() if name != missing})
    with pytest.raises(ValueError, match="keys, .*, got .*settings"):
        LSHIndex.from_state(state | {"settings": torch.arange(7)})


def test_the_fused_version_runs_on_cuda_or_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_tensor = torch.empty(0, device="cpu")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not use_fused(cpu_tensor)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert use_fused(cpu_tensor) == (find_spec("triton") is not None)

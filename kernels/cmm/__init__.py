"""Correlation matrix memories: sums of outer products of keys and values (Kohonen 1972; MeMo, arXiv 2502.12851).

    C = sum_i k_i v_i^T                       (MeMo, eq. 1)
    y = q^T C = sum_i (q . k_i) v_i           (eq. 3)
    token = argmax_t (code_t . y)             (eq. 4)

Matrices are int32 with int8 keys and values, or floating with keys and values of the same type. Sums of integers are exact:
they do not depend on the order, and subtracting a pair restores every bit. Sums of floats do neither.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from memagent.kernels.cmm import eager
from memagent.kernels.cmm.checks import check_codes, check_finite, check_pairs, check_queries, check_range
from memagent.kernels.switch import use_fused

__all__ = ["accumulate", "nearest_codes", "retrieve"]


def accumulate(matrix: Tensor, keys: Tensor, values: Tensor, *, subtract: bool = False) -> None:
    """Add the outer products of keys and values to a matrix, in place, or subtract them.

    A call that raises leaves the matrix unchanged.

    Args:
        matrix: ``[d_in, d_out]``, contiguous; int32, float32 or float64.
        keys: ``[pairs, d_in]``, int8 for an int32 matrix, otherwise of the matrix's type; ``pairs`` may be 0. Of an int32
            matrix only the rows are touched in which a key is not 0, if these are few.
        values: ``[pairs, d_out]``, of the keys' type.
        subtract: Whether to subtract instead of adding.

    Raises:
        ValueError: Shapes or types do not fit, or a key or value is inf or NaN.
        OverflowError: An element of the matrix would leave the range of its type.
    """
    check_pairs(matrix, keys, values)
    if not len(keys):
        return
    if not matrix.is_floating_point():
        rows = eager.used_rows(keys)
        part = matrix if rows is None else matrix[rows]
        part_keys = keys if rows is None else keys[:, rows]
        check_range(part, part_keys, values, subtract=subtract)
        _version(part).accumulate(part, part_keys, values, subtract=subtract)
        if rows is not None:
            matrix[rows] = part
        return
    check_finite(keys=keys, values=values)
    # Only a product shows whether a sum of floats overflows, so the matrix is replaced after it.
    total = matrix.clone()
    _version(total).accumulate(total, keys, values, subtract=subtract)
    if not total.isfinite().all():
        raise OverflowError(f"the sums are expected to stay within {matrix.dtype}, but some overflow to inf")
    matrix.copy_(total)


def _version(matrix: Tensor) -> ModuleType:
    """Return the fused version where it runs, otherwise the eager one."""
    if use_fused(matrix):
        from memagent.kernels.cmm import fused

        return fused
    return eager


def retrieve(queries: Tensor, matrix: Tensor) -> Tensor:
    """Return the sum of the stored values, each weighted by its key's inner product with the query.

    Args:
        queries: ``[n, d_in]``, int8 or floating.
        matrix: ``[d_in, d_out]``, as `accumulate` fills it, or a floating copy.

    Returns:
        ``[n, d_out]``, in the type of floating queries, otherwise float32. Divided by the squared norm of a key it is the
        stored value plus cross-talk. Results of integers are exact while every partial sum is below 2^24.

    Raises:
        ValueError: Shapes do not fit, or queries are inf or NaN.
    """
    check_queries(queries, matrix)
    return eager.retrieve(queries, matrix)


def nearest_codes(vectors: Tensor, codes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the codes with the largest inner products, without storing the products with all codes.

    Args:
        vectors: ``[n, dim]``, float32 or float64, such as what `retrieve` returns.
        codes: ``[tokens, dim]``, int8 or floating: a code for each token.
        limit: Codes for each vector, 1 or more.

    Returns:
        Inner products ``[n, k]`` in the vectors' type, descending, and the rows of the codes ``[n, k]``, int64; k is the
        lower of ``limit`` and the number of codes. The order of equal products is not defined.

    Raises:
        ValueError: Shapes do not fit, ``limit`` is below 1, there are no codes, or vectors are inf or NaN.
    """
    check_codes(vectors, codes, limit)
    return eager.nearest_codes(vectors, codes, limit)

"""Which of many bit strings are near to one of many others: a nanosecond a pair on two cores.

    near(test, train, np.uint64(12))             # (T, 4), (N, 4) uint64 -> (T,) bool
"""
import numpy as np
from numba import njit, prange

_BLOCK = 4096                    # rows that stay in a core's cache


@njit(cache=True, inline='always')
def _popcount(x):
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0f0f0f0f0f0f0f0f)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, parallel=True)
def near(test: np.ndarray, train: np.ndarray, limit: np.uint64) -> np.ndarray:
    """Return which rows of test (T, 4) uint64 differ from a row of train (N, 4) in at most `limit` bits, a uint64."""
    found = np.zeros(len(test), np.bool_)
    for block in prange((len(train) + _BLOCK - 1) // _BLOCK):
        some = train[block * _BLOCK:(block + 1) * _BLOCK]
        for t in range(len(test)):
            a, b, c, d = test[t, 0], test[t, 1], test[t, 2], test[t, 3]
            for i in range(len(some)):
                if _popcount(a ^ some[i, 0]) <= limit and _popcount(a ^ some[i, 0]) + _popcount(b ^ some[i, 1]) + \
                        _popcount(c ^ some[i, 2]) + _popcount(d ^ some[i, 3]) <= limit:
                    found[t] = True
    return found

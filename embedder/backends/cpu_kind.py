"""The kind of CPU: prepacked weights of one kind are right on every CPU of the same kind.

onnxruntime chooses its kernels by the features of the CPU. Many kernels share one layout of the weights. So the kind
has only those features at which the layout changes; onnxruntime/core/mlas/lib/platform.cpp shows them. A machine of
AVX2 and one of AVX-512 write the same bytes, for example; `tests/export/test_emulated_cpus.py` compares them.

onnxruntime 1.32 compares prepacked weights with those of its own kernels, and refuses others. onnxruntime 1.23 does
not: weights of another kind would give wrong vectors.
"""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress
from pathlib import Path

from embedder.common.files import open_regular

_CPUINFO = Path("/proc/cpuinfo")
# Features of x86, by their names in /proc/cpuinfo. With FMA and AVX2, unsigned by signed integers have another layout.
_AVX2 = frozenset(("fma", "avx2"))
# With these tiles they have a third one, if the system grants them to the process.
_AMX = frozenset(("amx_tile", "amx_int8"))
# With this feature, other pairs of integers have another layout.
_AVX_VNNI_INT8 = frozenset(("avx_vnni_int8",))
# With this feature, a convolution works on blocks of 16 channels, otherwise of 8. The packed graph names the blocks.
_AVX512 = frozenset(("avx512f",))
# Features of 64-bit ARM that choose a kernel of matrix products. Each may change the layout.
_ARM_FEATURES = frozenset(
    ("asimd", "asimddp", "asimdhp", "bf16", "fphp", "i8mm", "sme", "sme2", "sve", "sve2", "svebf16", "svei8mm")
)
# The system call arch_prctl of Linux on x86-64, its request for a feature, and the feature of the tiles.
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18


def cpu_kind(*, convolutions: bool = False) -> str | None:
    """Return a text that is the same on two machines only if they lay the weights out in the same way.

    Returns None if the kind is unknown, because Linux does not show the features of the CPU. Then no prepacked weights
    may be used. Other systems do not show them to anybody, so there the text has a digest of the machine's name.

    Args:
        convolutions: whether the graph has convolutions, as those of images do. More features matter to them.

    Example:
        >>> cpu_kind()  # doctest: +SKIP
        'x86_64 avx2 fma'
    """
    machine = platform.machine()
    if platform.system() != "Linux":
        import hashlib  # here, as it takes milliseconds of the start of every process

        return f"{platform.system()} {machine} {hashlib.sha256(platform.node().encode()).hexdigest()[:16]}"
    found = _features()
    if machine == "x86_64" and "sse2" in found:
        relevant = _x86_features(found) | (found & _AVX512 if convolutions else frozenset())
    elif machine == "aarch64" and "asimd" in found:
        relevant = found & _ARM_FEATURES
    else:
        return None
    return " ".join([machine, *sorted(relevant)])


def _x86_features(found: frozenset[str]) -> frozenset[str]:
    if not found >= _AVX2:
        return frozenset()
    amx = _AMX if found >= _AMX and _may_use_tiles() else frozenset()
    return _AVX2 | amx | found & _AVX_VNNI_INT8


def _features() -> frozenset[str]:
    """Return the features of the first core. The system shows only features that all cores have."""
    with suppress(OSError), open_regular(_CPUINFO) as stream:
        for line in stream:  # only as far as needed, as hundreds of cores take the system milliseconds
            name, _, value = line.decode(errors="replace").partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


def _may_use_tiles() -> bool:
    """Ask the system for the tiles of AMX, as onnxruntime does. It may show the feature, and refuse it in a sandbox."""
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA) == 0)

"""The machine a script runs on: device target, device id, rank. The one home of MindSpore's global state.

`set_up` is the first MindSpore call of every entry script. Nothing here imports MindSpore before it has to, so the
modules that need none stay free of it.
"""
import ctypes
import importlib.metadata
import os
import signal
from collections.abc import MutableMapping
from typing import Any, NamedTuple, Optional

TARGETS = ('Ascend', 'GPU', 'CPU')
SHARED_MEMORY = 'LIGHTCNN_SHARED_MEMORY'        # a launcher's ranks find the number of an open file in it
LAUNCHER = 'LIGHTCNN_LAUNCHER'                  # and the launcher's process number in this


class Device(NamedTuple):
    """Where this process runs; one card is rank 0 of 1."""

    target: str
    device_id: int
    rank: int
    rank_size: int


def guard_onednn(version: Optional[str] = None, environ: MutableMapping = os.environ) -> None:
    """Keep oneDNN 3 (in MindSpore 2.9 and later) off its reference convolution on AVX-512 machines.

    There, the convolution kernels that MindSpore's plain layout can use exist for AVX2 only: 50 times faster.
    Must run before `import mindspore`. A value that the user has set stays, and counts for oneDNN 2 as well, which
    reads it under its older name.
    """
    if 'ONEDNN_MAX_CPU_ISA' in environ:
        environ.setdefault('DNNL_MAX_CPU_ISA', environ['ONEDNN_MAX_CPU_ISA'])
    try:
        major, minor = (int(part) for part in (version or importlib.metadata.version('mindspore')).split('.')[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return
    if (major, minor) >= (2, 9):
        environ.setdefault('ONEDNN_MAX_CPU_ISA', 'AVX2')


def quiet_log(environ: MutableMapping = os.environ) -> None:
    """Have MindSpore report errors only, unless the user has set a level: it warns of every card that is not there."""
    environ.setdefault('GLOG_v', '3')


def set_up(device_target: str = 'auto', device_id: Optional[str] = None, run_distribute: bool = False) -> Device:
    """Choose the device for this process and return a `Device`.

    device_id: None takes the environment's DEVICE_ID, else 0. Raises ValueError for a target that is not there.
    """
    target = _known_target(device_target)
    device_id = _device_id(device_id)
    rank, size = (_environment_rank() if run_distribute else (0, 1))
    if run_distribute:
        _end_with_launcher()
    if size > 1:
        _use_own_cores(rank, size)                     # threads of the pools inherit it: before the import
        # a rank may wait this long for another that saves or is slow; 15 s, the default on the CPU, kills whole runs
        os.environ.setdefault('MS_RECEIVE_MSG_TIMEOUT', '600')
    import mindspore as ms
    available = [t for t in TARGETS if is_available(ms, t)]
    if target == 'auto':
        target = available[0]
    if target not in available:
        raise ValueError(f"--device_target {target}: MindSpore {ms.__version__} finds no such device here; "
                         f"available: {', '.join(available)}")
    ms.set_context(mode=ms.GRAPH_MODE)
    if run_distribute:
        # Under a launcher the local rank picks the card; an explicit id would put all ranks on one.
        ms.set_device(target)
        from mindspore.communication import get_group_size, get_rank, init
        init()
        rank, size = get_rank(), get_group_size()
        device_id = int(os.environ.get('DEVICE_ID', rank))
    else:
        ms.set_device(target, device_id)
    return Device(target, device_id, rank, size)


def is_available(ms: Any, target: str) -> bool:
    """Whether MindSpore `ms` can use `target`; a package that knows nothing of it cannot."""
    if target == 'CPU':
        return True
    backend = getattr(getattr(ms, 'device_context', None), target.lower(), None)
    return bool(backend and backend.is_available())


def _known_target(name):
    by_lower = {t.lower(): t for t in ('auto', *TARGETS)}
    if str(name).lower() not in by_lower:
        raise ValueError(f"--device_target '{name}' is not one of auto, {', '.join(TARGETS)}")
    return by_lower[name.lower()]


def _device_id(value):
    text = os.environ.get('DEVICE_ID', '0') if value is None else str(value)
    if not text.isdigit():
        raise ValueError(f"device id '{text}' is not a number from 0 (from --device_id or DEVICE_ID)")
    return int(text)


def _environment_rank():
    """Rank and number of ranks as msrun, mpirun or a rank table's launcher hand them over; (0, 1) if they do not."""
    rank = os.environ.get('RANK_ID') or os.environ.get('MS_NODE_ID') or '0'
    size = os.environ.get('RANK_SIZE') or os.environ.get('MS_WORKER_NUM') or '1'
    return (int(rank), int(size)) if rank.isdigit() and size.isdigit() else (0, 1)


def _end_with_launcher():
    """Have Linux kill this process when the launcher that started it is gone, as nobody else would."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)                  # PR_SET_PDEATHSIG
    if launcher != str(os.getppid()):
        raise RuntimeError('the launcher that started this process is gone')


def _use_own_cores(rank, size):
    """Give each of `size` processes on this host its own share of the cores: they would fight for them otherwise."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= size:
        os.sched_setaffinity(0, cores[rank % size::size])

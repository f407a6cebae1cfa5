"""The machine a script runs on: device target, device id, rank. The one home of MindSpore's global state.

`set_up` is the first MindSpore call of every entry script. Nothing here imports MindSpore before it has to, so the
modules that need none stay free of it.
"""
import contextlib
import ctypes
import importlib.metadata
import os
import signal
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple, Optional

from src.cores import local_place, use_own_cores

TARGETS = ('Ascend', 'GPU', 'CPU')
SHARED_MEMORY = 'LIGHTCNN_SHARED_MEMORY'        # a launcher's ranks find the number of an open file in it
LAUNCHER = 'LIGHTCNN_LAUNCHER'                  # and the launcher's process number in this
CONNECT_SECONDS = 1800           # that cards wait for each other at the start; HCCL's own 120 are fewer than a compile


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


def set_up(device_target: str = 'auto', device_id: Optional[str] = None, run_distribute: bool = False, *,
           deterministic: bool = False) -> Device:
    """Choose the device for this process and return a `Device`.

    device_id: None takes the environment's DEVICE_ID, else 0. deterministic: cards give the same bits every time, and
    take longer. Raises ValueError for a target that is not there.
    """
    target = _known_target(device_target)
    device_id = _device_id(device_id)
    rank, size = (_environment_rank() if run_distribute else (0, 1))
    if run_distribute:
        _end_with_launcher()
    if size > 1:
        use_own_cores(*local_place(os.environ, rank, size))      # threads of the pools inherit it: before the import
        wait_long_enough(os.environ)
    import mindspore as ms
    target = _available_target(ms, target)
    ms.set_context(mode=ms.GRAPH_MODE)
    if deterministic:                                            # before `init`, which takes it over for HCCL
        os.environ['HCCL_DETERMINISTIC'] = 'true'
        ms.set_deterministic(True)
    if not run_distribute:
        _set_device(ms, target, device_id)
        return Device(target, device_id, rank, size)
    _set_device_of_rank(ms, target)
    from mindspore.communication import get_group_size, get_rank, init
    init()
    return Device(target, int(os.environ.get('DEVICE_ID', get_rank())), get_rank(), get_group_size())


@contextlib.contextmanager
def step_by_step() -> Iterator:
    """While it is entered, networks run operator by operator (PyNative), so that hooks of cells are called."""
    import mindspore as ms
    before = ms.get_context('mode')
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=before)


def simulated(rank_size: int) -> Device:
    """Return rank 0 of so many Ascend cards that are not there: MS_SIMULATION_LEVEL compiles for them."""
    import mindspore as ms
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        ms.set_device('Ascend')
        from mindspore.communication import init
        init()
    except RuntimeError as error:
        raise RuntimeError(f"MindSpore cannot simulate an Ascend: {str(error).strip().splitlines()[0]}") from None
    return Device('Ascend', 0, 0, rank_size)


def wait_long_enough(environ: MutableMapping) -> None:
    """Have ranks wait for one that checks its images, compiles, saves or is slow, unless the user has set how long.

    MindSpore's 15 s on the CPU kill whole runs, and HCCL's 120 s (it takes 120 to 7200) those of cards where one host
    compiles and another has it cached.
    """
    environ.setdefault('MS_RECEIVE_MSG_TIMEOUT', '600')
    environ.setdefault('HCCL_CONNECT_TIMEOUT', str(CONNECT_SECONDS))


def _available_target(ms: Any, target: str) -> str:
    available = [t for t in TARGETS if is_available(ms, t)]
    if target == 'auto':
        return available[0]
    if target not in available:
        raise ValueError(f"--device_target {target}: MindSpore {ms.__version__} finds no such device here; "
                         f"available: {', '.join(available)}")
    return target


def _set_device(ms: Any, target: str, device_id: int) -> None:
    """Choose the device; where MindSpore has run already it must be the one that it runs on."""
    try:
        ms.set_device(target, device_id)
    except RuntimeError:
        running = ms.get_current_device()
        if running.device_target != target or target != 'CPU' and running.device_id != device_id:
            raise ValueError(f"MindSpore runs on {running.device_target} {running.device_id} in this process already, "
                             f"so it cannot run on {target} {device_id}") from None


def _set_device_of_rank(ms: Any, target: str) -> None:
    """Choose a rank's card. Under msrun MindSpore does: an explicit id would put all ranks on one.

    With a rank table and no id it would take card 0 for all of them.
    """
    if target == 'Ascend' and os.environ.get('RANK_TABLE_FILE'):
        warn_of_hidden_card(os.environ)
        ms.set_device(target, _device_id(None))
    else:
        ms.set_device(target)


def warn_of_hidden_card(environ: Mapping) -> None:
    """Say on stderr if DEVICE_ID is no place in ASCEND_RT_VISIBLE_DEVICES: it counts the visible cards, from 0."""
    visible, device_id = environ.get('ASCEND_RT_VISIBLE_DEVICES', ''), environ.get('DEVICE_ID', '0')
    cards = [card for card in visible.split(',') if card.strip()]
    if cards and not (device_id.isdigit() and int(device_id) < len(cards)):
        print(f"warning: DEVICE_ID {device_id} is beyond the {len(cards)} cards of ASCEND_RT_VISIBLE_DEVICES="
              f"{visible}: it counts visible cards, 0 to {len(cards) - 1}; unset one of the two", file=sys.stderr,
              flush=True)


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


def _end_with_launcher() -> None:
    """Have Linux kill this process when the launcher that started it is gone, as nobody else would."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)                  # PR_SET_PDEATHSIG
    if launcher != str(os.getppid()):
        raise RuntimeError('the launcher that started this process is gone')

"""Which cores a rank computes on: its share of this host's, next to each other.

    use_own_cores(local_rank, local_size)              # before the first import of MindSpore
"""
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Optional

SYSTEM = '/sys/devices/system'
# how launchers tell a process its place among those of its host: ours, Open MPI, Slurm
LOCAL_PLACES = (('LIGHTCNN_LOCAL_RANK', 'LIGHTCNN_LOCAL_SIZE'),
                ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_SIZE'),
                ('SLURM_LOCALID', 'SLURM_NTASKS_PER_NODE'))


def local_place(environ: Mapping, rank: int, size: int, parent: Optional[str] = None) -> tuple:
    """Return (place of this process among the ranks of this host, their number).

    parent: the command line of the process that started this one, as msrun's tells the number; None: looked up. A
    launcher that does not tell is taken to have all `size` ranks on this host.
    """
    for names in LOCAL_PLACES:
        place, number = (environ.get(name, '') for name in names)
        if place.isdigit() and number.isdigit() and int(place) < int(number):
            return int(place), int(number)
    told = re.search(r'--local_worker_num[= ](\d+)', _command_of_parent() if parent is None else parent)
    number, place = int(told[1]) if told else size, environ.get('DEVICE_ID', '')
    if 0 < number < size and place.isdigit():            # msrun's DEVICE_ID is the place on this host
        return int(place) % number, number
    return rank, size


def _command_of_parent() -> str:
    try:
        return Path(f'/proc/{os.getppid()}/cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
    except OSError:
        return ''


def use_own_cores(place: int, number: int, parents_cores: Optional[Iterable] = None) -> None:
    """Give each of `number` processes on this host its own share of the cores: they would fight for them otherwise.

    Where this process may use fewer cores than the one that started it, somebody has chosen them already (msrun
    --bind_core, numactl, taskset, Slurm) and they stay. parents_cores: those of the process that started this one.
    """
    cores = os.sched_getaffinity(0)
    allowed = set(parents_cores) if parents_cores is not None else _cores_of_parent(cores)
    if len(cores) >= number and cores >= allowed:
        os.sched_setaffinity(0, share(in_order(cores), place, number))


def _cores_of_parent(cores: set) -> set:
    try:
        return set(os.sched_getaffinity(os.getppid()))
    except OSError:                                      # it has ended, or belongs to another user
        return set(cores)


def share(cores: list, place: int, number: int) -> list:
    """Return consecutive cores for process `place` of `number`, as equal parts as can be."""
    return cores[place * len(cores) // number:(place + 1) * len(cores) // number]


def in_order(cores: Iterable, system: str = SYSTEM) -> list:
    """Return cores so that neighbours share memory (a NUMA node), then a physical core's two threads."""
    nodes = {core: number for number, node in enumerate(sorted(Path(system, 'node').glob('node[0-9]*'), key=_number))
             for core in _listed(node / 'cpulist')}

    def place(core: int) -> tuple:
        threads = _listed(Path(system, 'cpu', f'cpu{core}', 'topology', 'thread_siblings_list'))
        return nodes.get(core, 0), min(threads, default=core), core
    return sorted(cores, key=place)


def _number(path: Path) -> int:
    return int(path.name[4:])


def _listed(file: Path) -> list:
    """Return the numbers of a list such as '0-3,8'; none if the system does not tell."""
    try:
        parts = file.read_text().strip().split(',')
        ranges = [[int(end) for end in part.split('-')] for part in parts if part]
    except (OSError, ValueError):
        return []
    return [core for low_high in ranges for core in range(low_high[0], low_high[-1] + 1)]

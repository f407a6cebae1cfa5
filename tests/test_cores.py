"""Which cores the ranks of a host get."""
import os
import subprocess
import sys

import pytest
from conftest import PROJECT

from src import cores


@pytest.mark.parametrize('environ, parent, expected', [
    ({'LIGHTCNN_LOCAL_RANK': '3', 'LIGHTCNN_LOCAL_SIZE': '8'}, '', (3, 8)),
    ({'OMPI_COMM_WORLD_LOCAL_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_SIZE': '4'}, '', (1, 4)),
    ({'SLURM_LOCALID': '1', 'SLURM_NTASKS_PER_NODE': '4(x2)'}, '', (11, 16)),
    ({'DEVICE_ID': '3'}, 'python msrun --worker_num=16 --local_worker_num=8 train.py', (3, 8)),
    ({'DEVICE_ID': '3'}, 'python msrun --worker_num 16 --local_worker_num 8 train.py', (3, 8)),
    ({}, 'bash', (11, 16))])
def test_a_rank_knows_its_place_on_its_host(environ, parent, expected):
    """Rank 11 of 16: what counts is the number of ranks here, not in all."""
    assert cores.local_place(environ, 11, 16, parent) == expected


@pytest.mark.parametrize('mine, parents, chosen', [
    (range(8), range(8), {4, 5}),                        # the whole host: the third quarter
    ({1, 2}, range(8), None),                            # narrowed by msrun --bind_core or numactl: it stays
    ({4, 5, 6, 7}, {4, 5, 6, 7}, {6}),                   # a container's cores are divided
    ({0, 1, 2}, {0, 1, 2}, None)])                       # fewer cores than ranks
def test_a_rank_takes_its_share(monkeypatch, mine, parents, chosen):
    taken = []
    monkeypatch.setattr(cores.os, 'sched_getaffinity', lambda pid: set(mine))
    monkeypatch.setattr(cores.os, 'sched_setaffinity', lambda pid, given: taken.append(set(given)))
    monkeypatch.setattr(cores, 'in_order', sorted)
    cores.use_own_cores(2, 4, parents)
    assert taken == ([] if chosen is None else [chosen])


def test_two_hosts_of_two_ranks_use_all_their_cores():
    """Four ranks on two hosts: the two here share all cores of this one."""
    parts = [cores.share(list(range(10)), place, 2) for place in (0, 1)]
    assert parts == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_neighbours_share_memory_and_a_core(tmp_path):
    """Two nodes of two cores of two threads, numbered as Linux does: first threads first."""
    for node, cpus in ((0, '0-1,4-5'), (1, '2-3,6-7')):
        (tmp_path / 'node' / f'node{node}').mkdir(parents=True)
        (tmp_path / 'node' / f'node{node}' / 'cpulist').write_text(cpus + '\n')
    for cpu in range(8):
        (tmp_path / 'cpu' / f'cpu{cpu}' / 'topology').mkdir(parents=True)
        (tmp_path / 'cpu' / f'cpu{cpu}' / 'topology' / 'thread_siblings_list').write_text(f'{cpu % 4},{cpu % 4 + 4}\n')
    assert cores.in_order(range(8), str(tmp_path)) == [0, 4, 1, 5, 2, 6, 3, 7]
    assert cores.in_order({3, 6, 1}, str(tmp_path)) == [1, 6, 3]
    assert cores.in_order({3, 1}, str(tmp_path / 'absent')) == [1, 3]


def test_a_process_is_bound():
    """The second of two ranks of this host, as a process of its own."""
    mine = os.sched_getaffinity(0)
    code = 'import os; from src import cores; cores.use_own_cores(1, 2); print(sorted(os.sched_getaffinity(0)))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=PROJECT)
    expected = cores.share(cores.in_order(mine), 1, 2) if len(mine) > 1 else mine
    assert done.stdout.strip() == str(sorted(expected)), done.stderr

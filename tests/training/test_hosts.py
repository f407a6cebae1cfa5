"""Training over two hosts: two network namespaces of this machine, joined by a cable that can be cut."""
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import PROJECT, TINY

from src.data.lists import read_json
from src.training import checkpoint, hccl

HOSTS = [f'lightcnn{os.getpid() % 10000}{i}' for i in (1, 2)]
ENV = {**os.environ, 'VIRTUAL_ENV': sys.prefix, 'PATH': f"{sys.prefix}/bin:{os.environ['PATH']}",
       'DEVICE_TARGET': 'CPU'}
SETTINGS = [*TINY[5:], 'batch_size=4', 'epochs=500', 'log_steps=1', 'save_checkpoint_steps=2']


def ip(*arguments):
    done = subprocess.run(['ip', *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


def connect():
    """Make two namespaces with a cable between them: 10.77.0.1 and 10.77.0.2."""
    for host in HOSTS:
        ip('netns', 'add', host)
        ip('-n', host, 'link', 'set', 'lo', 'up')
    ip('link', 'add', 'cable', 'netns', HOSTS[0], 'type', 'veth', 'peer', 'name', 'cable', 'netns', HOSTS[1])
    for i, host in enumerate(HOSTS, 1):
        ip('-n', host, 'addr', 'add', f'10.77.0.{i}/24', 'dev', 'cable')
        ip('-n', host, 'link', 'set', 'cable', 'up')


@pytest.fixture
def hosts():
    """The names of the two hosts; removed afterwards with all that runs on them."""
    if shutil.which('ip') is None:
        pytest.skip('no ip command (Debian: iproute2): hosts cannot be made of network namespaces')
    try:
        connect()
    except OSError as error:
        remove()
        pytest.skip(f'this kernel or container forbids network namespaces: {error}')
    yield HOSTS
    remove()


def remove():
    for host in HOSTS:
        kill(host)
        subprocess.run(['ip', 'netns', 'del', host], capture_output=True)


def kill(host):
    """SIGKILL to everything on a host at once, as a power cut."""
    pids = subprocess.run(['ip', 'netns', 'pids', host], capture_output=True, text=True).stdout.split()
    if pids:
        subprocess.run(['kill', '-9', *pids])


def rank_table(folder, ids=('10.77.0.1', '10.77.0.2')):
    servers = []
    for rank, server_id in enumerate(ids):
        servers += hccl.rank_table(server_id, {0: f'192.168.{rank}.1'})['server_list']
        servers[-1]['device'][0]['rank_id'] = str(rank)
    file = folder / 'hccl.json'
    file.write_text(json.dumps({'version': '1.0', 'server_count': str(len(ids)), 'server_list': servers}))
    return file


def start(host, folder, synthetic, table, number=2, settings=SETTINGS):
    """Start the launcher on a host; its output goes to out.txt of a folder of its own."""
    place = folder / host
    place.mkdir(exist_ok=True)
    command = ['ip', 'netns', 'exec', host, 'bash', PROJECT / 'scripts' / 'train_distribute.sh', table, number,
               '--recipe', 'quickstart', '--set', *settings, '--dataset_path', synthetic, '--resume', 'auto']
    with open(place / 'out.txt', 'w') as out:
        return subprocess.Popen(list(map(str, command)), cwd=place, env=ENV, stdout=out, stderr=subprocess.STDOUT)


def trained_for(steps, place, process, seconds=300):
    """Wait until a checkpoint of so many steps is there."""
    for _ in range(seconds * 5):
        if (place / 'ckpt').is_dir() and any((read_json(str(f)).get('step') or 0) >= steps
                                             for f in (place / 'ckpt').glob('lightcnn-*.json')):
            return
        assert process.poll() is None, (place / 'out.txt').read_text()
        time.sleep(0.2)
    raise AssertionError((place / 'out.txt').read_text())


@pytest.mark.parametrize('what', ['killed', 'cut off'])
def test_a_host_that_goes_away_ends_the_job_everywhere(tmp_path, synthetic, hosts, what):
    """One line on every host that still runs, a valid checkpoint, and the training goes on with one host."""
    table = rank_table(tmp_path)
    running = [start(host, tmp_path, synthetic, table) for host in hosts]
    first = tmp_path / hosts[0]
    trained_for(4, first, running[0])
    if what == 'killed':
        kill(hosts[1])
    else:
        ip('-n', hosts[1], 'link', 'set', 'cable', 'down')
    codes = [process.wait(240) for process in running]
    for host, code in zip(hosts, codes):
        if what == 'cut off' or host == hosts[0]:
            lines = (tmp_path / host / 'out.txt').read_text().splitlines()
            assert code == 1 and any(line.startswith('error: ') for line in lines), lines[-5:]
    assert checkpoint.newest(str(first / 'ckpt'), with_metadata=True)
    alone = start(hosts[0], tmp_path, synthetic, rank_table(tmp_path, ('10.77.0.1',)), 1,
                  [s.replace('batch_size=4', 'batch_size=8') for s in SETTINGS[:-3]] + ['epochs=500'])
    trained_for(20, first, alone)
    alone.kill()
    assert 'resuming from' in (first / 'out.txt').read_text()


def test_two_hosts_train_to_the_end(tmp_path, synthetic, hosts):
    table = rank_table(tmp_path)
    settings = [s.replace('epochs=500', 'epochs=1') for s in SETTINGS]
    running = [start(host, tmp_path, synthetic, table, settings=settings) for host in hosts]
    assert [process.wait(240) for process in running] == [0, 0], (tmp_path / hosts[0] / 'out.txt').read_text()
    assert 'CPU, 2 x batch 4' in (tmp_path / hosts[0] / 'out.txt').read_text()
    assert checkpoint.read_metadata(str(tmp_path / hosts[0] / 'ckpt' / 'lightcnn-1_6.ckpt'))['step'] == 6


def test_ipv6_servers_are_refused_in_one_line(tmp_path, synthetic, hosts):
    """MindSpore 2.8 on the CPU: "The tcp server ip ... is illegal"."""
    for i, host in enumerate(hosts, 1):
        ip('-n', host, 'addr', 'add', f'fd77::{i}/64', 'dev', 'cable', 'nodad')
    process = start(hosts[1], tmp_path, synthetic, rank_table(tmp_path, ('fd77::1', 'fd77::2')))
    assert process.wait(60) == 2
    assert (tmp_path / hosts[1] / 'out.txt').read_text().count('error: ') == 1

"""hccl.json and its mistakes, the launcher's processes, and real data-parallel training on CPU processes."""
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT, TINY, parted, script, weights_of

from src.config import get_config
from src.training import hccl, launch

ENV = {**os.environ, 'VIRTUAL_ENV': sys.prefix, 'PATH': f"{sys.prefix}/bin:{os.environ['PATH']}",
       'DEVICE_TARGET': 'CPU'}


def table(*servers):
    """A rank table of servers with so many devices each, ranks counted on."""
    rank, listed = 0, []
    for number, count in enumerate(servers, 1):
        listed += hccl.rank_table(f'10.0.0.{number}', {d: f'192.168.{number}.{d + 1}' for d in range(count)})[
            'server_list']
        for device in listed[-1]['device']:
            device['rank_id'], rank = str(rank), rank + 1
    return {'version': '1.0', 'server_count': str(len(servers)), 'server_list': listed}


def written(folder, content):
    file = folder / 'hccl.json'
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_a_rank_table_is_read(tmp_path):
    servers = hccl.read_rank_table(written(tmp_path, table(2, 2)))
    assert [card.rank for card in servers['10.0.0.2']] == [2, 3]
    assert servers['10.0.0.1'][1] == hccl.Card(1, 1, '192.168.1.2')


def spoil(change):
    content = copy.deepcopy(table(2, 2))
    change(content)
    return content


def device(content, server, number):
    return content['server_list'][server]['device'][number]


@pytest.mark.parametrize('content, message', [
    ('{', 'not readable as JSON'), ('[]', 'has no server_list'), ('[' * 100_000, 'not readable as JSON'),
    (spoil(lambda t: t.update(version='1.1')), "version '1.1', expected '1.0'"),
    (spoil(lambda t: t.update(version='1.2')), "version '1.2' is that of super nodes (Atlas A3)"),
    (spoil(lambda t: t.update(server_count='3')), 'server_count is 3, server_list holds 2'),
    (spoil(lambda t: t['server_list'].append(5)), 'server 3: expected a server_id'),
    (spoil(lambda t: t['server_list'][1].update(device=[])), 'server 2: expected a server_id and a list'),
    (spoil(lambda t: t['server_list'][1].update(server_id='10.0.0.1')), 'the server_id 10.0.0.1 is there twice'),
    (spoil(lambda t: device(t, 0, 1).update(rank_id='7')), 'ranks 0, 2, 3, 7; expected 0..3, each once: 1 is missing'),
    (spoil(lambda t: device(t, 0, 1).update(rank_id='0')), '1 is missing or there twice'),
    (spoil(lambda t: device(t, 0, 1).update(rank_id='-1')), 'device 2: rank_id is -1'),
    (spoil(lambda t: device(t, 0, 1).update(device_id='0')), 'server 1: the device_id 0 is there twice'),
    (spoil(lambda t: device(t, 0, 1).update(device_ip='192.168.1.1')), 'the device_ip 192.168.1.1 is there twice'),
    (spoil(lambda t: device(t, 1, 0).update(device_ip='here')), 'server 2, device 1: device_ip is here')])
def test_a_wrong_rank_table_is_one_line(tmp_path, content, message):
    with pytest.raises(ValueError) as error:
        hccl.read_rank_table(written(tmp_path, content))
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('ids, warned', [
    (('10.0.0.1', '10.0.0.2'), False), (('10.0.0.2', '10.0.0.1'), True), (('10.0.0.10', '10.0.0.9'), False),
    (('10.0.0.9', '10.0.0.10'), True)])
def test_ranks_against_the_order_of_servers_are_said(tmp_path, capsys, monkeypatch, ids, warned):
    """Servers in the order of their ids as text: 10.0.0.10 comes before 10.0.0.9."""
    content = table(2, 2)
    for server, server_id in zip(content['server_list'], ids):
        server['server_id'] = server_id
    monkeypatch.setenv('LIGHTCNN_SERVER_ID', ids[0])
    monkeypatch.setattr(hccl, 'check_visible', lambda *_: None)
    arguments, _ = launch.parse(['--device_num', '4', '--hccl_json', written(tmp_path, content), '--device_target',
                                 'Ascend'])
    assert [e['RANK_ID'] for e in launch.plan(arguments)] == ['0', '1']
    assert ('do not follow the order of the server_ids' in capsys.readouterr().err) == warned


def test_cards_that_are_not_there(tmp_path):
    for card in (0, 2):
        (tmp_path / f'davinci{card}').touch()
    hccl.check_visible('f', [hccl.Card(0, 0, ''), hccl.Card(1, 2, '')], str(tmp_path))
    with pytest.raises(ValueError, match='device 1 not found'):
        hccl.check_visible('f', [hccl.Card(0, 0, ''), hccl.Card(1, 1, '')], str(tmp_path))


def test_each_host_starts_its_own_part(tmp_path, monkeypatch):
    """Up to the call: what the ranks of the second host of an Ascend rank table are started with."""
    file = written(tmp_path, table(2, 2))
    arguments, further = launch.parse(['--device_num', '4', '--hccl_json', file, '--device_target', 'Ascend', '--',
                                       '-x'])
    assert further == ['-x']
    with pytest.raises(ValueError, match='none of the servers 10.0.0.1, 10.0.0.2 is this host'):
        launch.plan(arguments)
    monkeypatch.setenv('LIGHTCNN_SERVER_ID', '10.0.0.2')
    with pytest.raises(ValueError, match='device 0, 1 not found'):
        launch.plan(arguments)
    monkeypatch.setattr(hccl, 'check_visible', lambda *_: None)
    assert launch.plan(arguments) == [{'RANK_TABLE_FILE': file, 'RANK_ID': str(2 + i), 'RANK_SIZE': '4',
                                       'DEVICE_ID': str(i), 'LIGHTCNN_LOCAL_RANK': str(i), 'LIGHTCNN_LOCAL_SIZE': '2'}
                                      for i in range(2)]
    alone, _ = launch.parse(['--device_num', '2', '--device_target', 'Ascend'])     # one host, no table: a cluster
    assert [(e['MS_ROLE'], e.get('DEVICE_ID')) for e in launch.plan(alone)] == [
        ('MS_SCHED', None), ('MS_WORKER', '0'), ('MS_WORKER', '1')]
    arguments.device_target = 'GPU'
    started = launch.plan(arguments)                                # the scheduler is on the host of rank 0
    assert [e['RANK_ID'] for e in started] == ['2', '3'] and started[0]['MS_SCHED_HOST'] == '10.0.0.1'
    arguments.device_num = 8
    with pytest.raises(ValueError, match='holds 4 devices, 8 were asked for'):
        launch.plan(arguments)


def test_memory_is_shared_by_cpu_ranks_of_one_host():
    ranks = launch.cluster(2, [(0, 0), (1, 1)], '127.0.0.1')
    memory = launch.memory_for('CPU', 2, ranks)
    os.close(memory)
    others = ('GPU', 2, ranks), ('Ascend', 2, ranks), ('CPU', 4, ranks), ('CPU', 1, launch.cluster(1, [(0, 0)], 'a'))
    assert [launch.memory_for(*other) for other in others] == [None] * 4


def test_hccl_json_is_written_from_the_cards(tmp_path):
    (tmp_path / 'hccn.conf').write_text('address_0=192.168.100.101\nnetmask_0=255.255.255.0\n'
                                        'address_1=192.168.101.101\n')
    run = ['scripts/make_hccl_json.py', '--hccn_conf', tmp_path / 'hccn.conf', '--out', tmp_path / 'hccl.json']
    done = script(*run, '--server_ip', '10.1.1.1')
    assert done.returncode == 0, done.stderr
    assert hccl.read_rank_table(str(tmp_path / 'hccl.json')) == {
        '10.1.1.1': [hccl.Card(0, 0, '192.168.100.101'), hccl.Card(1, 1, '192.168.101.101')]}
    assert script(*run, '--devices', '1').returncode == 0
    done = script(*run, '--devices', '1,4')
    assert done.returncode == 2 and 'has no address of device 4; it has 0, 1' in done.stderr


CHILD = "import os, sys, time; rank = os.environ.get('RANK_ID'); "


def ranks(number):
    return [{'RANK_ID': str(rank)} for rank in range(number)]


def test_all_ranks_are_logged_and_rank_0_is_shown(tmp_path, capfdbinary):
    code = launch.run(ranks(3), [sys.executable, '-c', CHILD + "print('hello from', rank)"], str(tmp_path))
    assert code == 0 and capfdbinary.readouterr().out == b'hello from 0\n'
    assert [(tmp_path / f'rank_{r}.log').read_text() for r in range(3)] == [f'hello from {r}\n' for r in range(3)]


def test_one_failure_stops_all(tmp_path, capfd):
    child = CHILD + "print('error: no luck') if rank == '2' else time.sleep(600); sys.exit(7)"
    start = time.time()
    assert launch.run(ranks(3), [sys.executable, '-c', child], str(tmp_path)) == 7
    assert time.time() - start < 60
    error = capfd.readouterr().err
    assert 'rank 2 failed with code 7' in error and '  error: no luck' in error


def test_a_killed_rank_is_a_failure(tmp_path, capfd):
    child = CHILD + "os.kill(os.getpid(), 9) if rank == '1' else time.sleep(600)"
    assert launch.run(ranks(2), [sys.executable, '-c', child], str(tmp_path)) == 128 + 9
    assert 'rank 1 failed with code -9' in capfd.readouterr().err


def launched(command, cwd, **env):
    return subprocess.Popen(['bash', '-c', command], cwd=cwd, env={**ENV, **env}, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize('script_name, arguments', [
    ('train_distribute', ''), ('train_distribute', 'hccl.json'), ('train_distribute_8p', '')])
def test_launchers_say_how_they_are_called(tmp_path, script_name, arguments):
    process = launched(f'bash {PROJECT}/scripts/{script_name}.sh {arguments}', tmp_path, DEVICE_TARGET='Ascend')
    assert 'usage: ' in process.communicate(timeout=60)[0] and process.returncode == 2


@pytest.mark.parametrize('cores, settings, ranks', [
    (1, [], 1), (2, [], 2), (6, [], 4), (64, [], 8), (64, ['batch_size=20'], 1), (3, ['batch_size=96'], 3)])
def test_cores_share_the_batch(cores, settings, ranks):
    found, arguments = launch.share_batch(['--set', *settings] if settings else [], cores)
    batch = get_config(settings=settings).batch_size
    assert found == ranks and arguments[-2:] == ['--set', f'batch_size={batch // ranks}']


def test_standalone_on_the_cpu_uses_the_cores_as_ranks(tmp_path, synthetic):
    settings = ' '.join(TINY[:2] + TINY[4:]).replace('batch_size=8', 'batch_size=32').replace('log_steps=2',
                                                                                              'log_steps=1')
    process = launched(f'START_SECONDS=600 bash {PROJECT}/scripts/train_standalone.sh 0 {settings} --dataset_path '
                       f'{synthetic}', tmp_path)
    out = process.communicate(timeout=900)[0]
    assert process.returncode == 0 and 'training has ended' in out, out
    number = 2 if len(os.sched_getaffinity(0)) > 1 else 1
    log = (tmp_path / 'train_standalone_log.log').read_text()
    assert f'{number} processes share the batch of 32' in log and f'CPU, {number} x batch {32 // number}' in log
    assert (tmp_path / 'ckpt' / 'lightcnn-2_1.ckpt').exists()


SETTINGS = ' '.join(TINY).replace('batch_size=8', 'batch_size=1') + ' check_every=2'


def test_eight_ranks_from_an_eight_card_file(tmp_path, synthetic, trained):
    """8 x batch 1 runs to the end and follows one process of batch 8."""
    written(tmp_path, table(8))
    process = launched(f'bash {PROJECT}/scripts/train_distribute_8p.sh hccl.json {SETTINGS} --dataset_path {synthetic}',
                       tmp_path)
    out = process.communicate(timeout=900)[0]
    assert process.returncode == 0, out
    assert 'CPU, 8 x batch 1' in out and 'epoch: 2 step: 6, loss is' in out
    assert sorted(p.name for p in (tmp_path / 'train_parallel').glob('rank_*')) == [f'rank_{r}.log' for r in range(8)]
    a, b = (weights_of(folder / 'lightcnn-2_6.ckpt') for folder in (trained, tmp_path / 'ckpt'))
    assert parted(a, b) < 0.02


def wait_for(text, file, process, seconds=300):
    for _ in range(seconds * 5):
        if file.exists() and re.search(text, file.read_text()):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    raise AssertionError(f'{text} never came')


def test_sigterm_saves_and_a_resumed_run_ends_the_same(tmp_path, synthetic):
    """Two ranks, stopped in the middle, resumed by one process of the same global batch: the weights of two at once."""
    settings = SETTINGS.replace('batch_size=1', 'batch_size=4').replace('epochs=2', 'epochs=6').replace(
        'log_steps=2', 'log_steps=1')
    command = f'exec bash {PROJECT}/scripts/train_distribute.sh 2 {settings} --dataset_path {synthetic}'
    whole = launched(f'{command} --ckpt_path whole', tmp_path)
    assert whole.wait(600) == 0
    shutil.rmtree(tmp_path / 'train_parallel')
    process = launched(f'{command} --ckpt_path ckpt', tmp_path)
    wait_for('epoch: 2 step: 1,', tmp_path / 'train_parallel' / 'rank_0.log', process)
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + 15 and 'SIGTERM: saved after' in out, out
    one = script('train.py', *settings.replace('batch_size=4', 'batch_size=8').split(), '--dataset_path', synthetic,
                 '--ckpt_path', tmp_path / 'ckpt', '--resume', 'auto')
    assert one.returncode == 0 and 'resuming from' in one.stdout, one.stderr
    a, b = (weights_of(tmp_path / folder / 'lightcnn-6_6.ckpt') for folder in ('whole', 'ckpt'))
    assert parted(a, b) < 0.02


def processes_of(text):
    """The process numbers of the ranks, and their scheduler, that have `text` in their arguments."""
    found = subprocess.run(['pgrep', '-f', f'train.py --run_distribute.*{text}'], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_ranks_end_with_a_killed_launcher(tmp_path, synthetic):
    """kill -9 on the launcher alone: nothing goes on behind it, and the run is resumed at once in the same folder."""
    settings = SETTINGS.replace('epochs=2', 'epochs=500').replace('log_steps=2', 'log_steps=1')
    command = f'exec bash {PROJECT}/scripts/train_distribute.sh 2 {{}} --dataset_path {synthetic} ' \
              f'--ckpt_path {tmp_path}/ckpt --resume auto'
    process = launched(command.format(settings + ' save_checkpoint_steps=2'), tmp_path)
    wait_for('epoch: 1 step: 3,', tmp_path / 'train_parallel' / 'rank_0.log', process)
    before = processes_of(f'{tmp_path}/ckpt')
    assert len(before) == 3, before
    process.kill()
    process.wait()
    process = launched(command.format(SETTINGS.replace('epochs=2', 'epochs=5')), tmp_path)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and 'resuming from' in out, out
    assert not processes_of(f'{tmp_path}/ckpt')


def test_a_rank_that_hangs_ends_the_job(tmp_path, synthetic):
    settings = SETTINGS.replace('epochs=2', 'epochs=500').replace('log_steps=2', 'log_steps=1')
    process = launched(f'exec bash {PROJECT}/scripts/train_distribute.sh 2 {settings} hang_seconds=20 '
                       f'--dataset_path {synthetic}', tmp_path)
    wait_for('epoch: 1 step: 3,', tmp_path / 'train_parallel' / 'rank_0.log', process)
    stopped = next(pid for pid in processes_of(synthetic)
                   if b'\0RANK_ID=1\0' in b'\0' + Path(f'/proc/{pid}/environ').read_bytes())
    os.kill(stopped, signal.SIGSTOP)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and 'error: no step for 20 s' in out, out

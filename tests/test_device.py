import subprocess
import os
import sys
import types

import pytest
from conftest import PROJECT

from src import device


@pytest.mark.parametrize('version, guarded', [('2.7.0', False), ('2.8.0', False), ('2.9.0', True), ('2.10.0', True),
                                              ('2.10.0rc1', True), ('odd', False)])
def test_onednn_guard(version, guarded):
    environ = {}
    device.guard_onednn(version, environ)
    assert environ == ({'ONEDNN_MAX_CPU_ISA': 'AVX2'} if guarded else {})


def test_onednn_guard_keeps_the_users_value():
    environ = {'ONEDNN_MAX_CPU_ISA': 'AVX512_CORE'}
    device.guard_onednn('2.10.0', environ)
    assert environ['ONEDNN_MAX_CPU_ISA'] == 'AVX512_CORE'


class FakeMindSpore(types.ModuleType):
    """MindSpore as far as `set_up` calls it, with cards that this machine does not have."""

    GRAPH_MODE, __version__ = 0, '2.8.0'

    def __init__(self, *targets):
        super().__init__('mindspore')
        self.calls = []
        backends = {t.lower(): types.SimpleNamespace(is_available=lambda there=t in targets: there)
                    for t in ('Ascend', 'GPU')}
        self.device_context = types.SimpleNamespace(**backends)

    def set_context(self, **kwargs):
        self.calls.append(('set_context', kwargs))

    def set_device(self, *args):
        self.calls.append(('set_device', *args))

    def set_deterministic(self, value):
        self.calls.append(('set_deterministic', value))


@pytest.mark.parametrize('there, asked, expected', [
    (('Ascend', 'GPU'), 'auto', 'Ascend'), (('GPU',), 'auto', 'GPU'), ((), 'auto', 'CPU'), (('GPU',), 'cpu', 'CPU'),
    (('Ascend',), 'ascend', 'Ascend')])
def test_target(monkeypatch, there, asked, expected):
    fake = FakeMindSpore(*there)
    monkeypatch.setitem(sys.modules, 'mindspore', fake)
    monkeypatch.setenv('DEVICE_ID', '3')
    assert device.set_up(asked) == (expected, 3, 0, 1)
    assert fake.calls[-1] == ('set_device', expected, 3)
    assert device.set_up(asked, '5').device_id == 5


def test_absent_target_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mindspore', FakeMindSpore())
    with pytest.raises(ValueError, match='available: CPU'):
        device.set_up('Ascend')


@pytest.mark.parametrize('target, device_id', [('TPU', None), ('CPU', '-1'), ('CPU', 'first')])
def test_bad_flags(target, device_id):
    with pytest.raises(ValueError):
        device.set_up(target, device_id)


def rank_environment(monkeypatch, **environ):
    for name in ('RANK_TABLE_FILE', 'ASCEND_RT_VISIBLE_DEVICES', 'HCCL_CONNECT_TIMEOUT', 'MS_RECEIVE_MSG_TIMEOUT',
                 'HCCL_DETERMINISTIC', 'DEVICE_ID'):
        monkeypatch.setenv(name, '')                             # so that what `set_up` sets is taken back
        monkeypatch.delenv(name)
    for name, value in {'RANK_ID': '5', 'RANK_SIZE': '16', **environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, 'use_own_cores', lambda *_: None)
    fake = FakeMindSpore('Ascend')
    communication = types.ModuleType('mindspore.communication')
    communication.get_rank, communication.get_group_size = lambda: 5, lambda: 16
    communication.init = lambda: fake.calls.append(('init', dict(os.environ)))
    monkeypatch.setitem(sys.modules, 'mindspore', fake)
    monkeypatch.setitem(sys.modules, 'mindspore.communication', communication)
    return fake


@pytest.mark.parametrize('environ, expected', [
    ({'RANK_TABLE_FILE': 'hccl.json', 'DEVICE_ID': '5'}, ('set_device', 'Ascend', 5)),
    ({'MS_WORKER_NUM': '16', 'DEVICE_ID': '5'}, ('set_device', 'Ascend'))])
def test_a_rank_table_needs_the_card(monkeypatch, environ, expected):
    """MindSpore finds a rank's card itself under msrun only; a rank table's ranks would all be on card 0."""
    fake = rank_environment(monkeypatch, **environ)
    assert device.set_up('Ascend', run_distribute=True) == ('Ascend', 5, 5, 16)
    assert [call for call in fake.calls if call[0] == 'set_device'] == [expected]


@pytest.mark.parametrize('given, expected', [({}, '1800'), ({'HCCL_CONNECT_TIMEOUT': '300'}, '300')])
def test_ranks_wait_for_a_slow_one(monkeypatch, given, expected):
    """HCCL waits half an hour at the start, not two minutes, unless the user has said how long."""
    fake = rank_environment(monkeypatch, **given)
    device.set_up('Ascend', run_distribute=True)
    assert fake.calls[-1][0] == 'init' and fake.calls[-1][1]['HCCL_CONNECT_TIMEOUT'] == expected


@pytest.mark.parametrize('environ, warned', [
    ({'ASCEND_RT_VISIBLE_DEVICES': '4,5', 'DEVICE_ID': '4'}, True), ({'ASCEND_RT_VISIBLE_DEVICES': '4,5'}, False),
    ({'ASCEND_RT_VISIBLE_DEVICES': '4,5', 'DEVICE_ID': '1'}, False), ({'DEVICE_ID': '7'}, False)])
def test_a_card_that_is_hidden_is_said(environ, warned, capsys):
    device.warn_of_hidden_card(environ)
    assert ('warning: DEVICE_ID 4 is beyond the 2 cards' in capsys.readouterr().err) == warned


def test_determinism_is_set_before_the_ranks_meet(monkeypatch):
    fake = rank_environment(monkeypatch)
    device.set_up('Ascend', run_distribute=True, deterministic=True)
    names = [call[0] for call in fake.calls]
    assert names.index('set_deterministic') < names.index('init')
    assert fake.calls[-1][1]['HCCL_DETERMINISTIC'] == 'true'
    fake.calls.clear()
    device.set_up('Ascend')
    assert 'set_deterministic' not in [call[0] for call in fake.calls]


def test_a_process_in_which_mindspore_has_run():
    """MindSpore takes no device once it has computed something; the one that it computes on is fine."""
    code = ("import mindspore as ms; ms.ops.ones((2,)).asnumpy(); from src import device; "
            "print(device.set_up('CPU'), device.set_up('CPU'))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=PROJECT, timeout=300)
    assert done.returncode == 0 and done.stdout.count("target='CPU'") == 2, done.stderr


@pytest.mark.parametrize('flags', [[], ['--deterministic']])
def test_the_flag_of_train_reaches_the_device(monkeypatch, flags):
    import train

    def set_up(*_, deterministic):
        raise KeyError(deterministic)
    monkeypatch.setattr(device, 'set_up', set_up)
    monkeypatch.setattr(sys, 'argv', ['train.py', '--recipe', 'quickstart', *flags])
    with pytest.raises(KeyError, match=str(bool(flags))):
        train.main()

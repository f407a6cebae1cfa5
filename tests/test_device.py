import sys
import types

import pytest

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


def test_ranks_share_the_cores(monkeypatch):
    chosen = []
    monkeypatch.setattr(device.os, 'sched_getaffinity', lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(device.os, 'sched_setaffinity', lambda pid, cores: chosen.append(list(cores)))
    device._use_own_cores(0, 2)
    device._use_own_cores(1, 2)
    device._use_own_cores(0, 8)                                  # more ranks than cores: left alone
    assert chosen == [[0, 2], [1, 3]]

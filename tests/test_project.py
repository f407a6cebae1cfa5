"""The house itself: imports, launchers, the synthetic data. The documents have tests of their own."""
import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, TINY

from src.data import lists
from src.data.synthetic import draw_face, write_dataset

COMMANDS = {'train', 'evaluate', 'prepare', 'eval_lfw', 'eval_blufr', 'export', 'preprocess', 'postprocess',
            'recognise', 'verify', 'plan'}
# from the bottom up: a module imports from its own layer or a lower one, wherever the import stands
LAYERS = [
    {'options', 'device', 'cores', 'lr_generator', 'data', 'scoring'},
    {'cpu', 'initializers', 'backbone', 'lightcnn', 'backbones', 'heads', 'weights', 'dataset', 'embedding'},
    {'settings', 'recipes', 'config', 'cli'},
    {'training', 'protocols', 'deploy'},
    {'evaluation', 'sources', 'certificate', 'recognition', 'api', 'zoo', 'plan'},
    {'compare', 'convert', 'get_list'},          # commands that stand in src
]
NEED_NO_MINDSPORE = [
    'settings', 'recipes', 'config', 'cli', 'lr_generator', 'options', 'evaluation', 'sources', 'certificate',
    'protocols', 'compare', 'convert', 'get_list', 'training.log', 'training.hccl', 'training.launch',
    'training.plot', 'deploy.exchange', 'deploy.onnx_backend',
    *(f'{folder}.{file.stem}' for folder in ('data', 'scoring')
      for file in (PROJECT / 'src' / folder).glob('[a-z]*.py'))]
SOURCES = [*sorted((PROJECT / 'src').rglob('*.py')), *sorted(PROJECT.glob('*.py'))]
ENV = {**os.environ, 'VIRTUAL_ENV': sys.prefix, 'PATH': f"{sys.prefix}/bin:{os.environ['PATH']}",
       'DEVICE_TARGET': 'CPU'}


def imports(file):
    """Return the modules a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return found


def layer_of(module):
    """Return the place in LAYERS of 'src.x.y'; None for the package itself."""
    part = module.split('.')[1] if module.startswith('src.') else None
    found = [i for i, layer in enumerate(LAYERS) if part in layer]
    assert found or part is None, f'{module} stands in no layer'
    return found[0] if found else None


def test_arrows_point_one_way():
    """Commands -> api -> (training, protocols, deploy) -> config -> parts -> (data, scoring, device)."""
    for file in (PROJECT / 'src').rglob('*.py'):
        own = '.'.join(file.relative_to(PROJECT).with_suffix('').parts).removesuffix('.__init__')
        found = imports(file)
        assert not {m.split('.')[0] for m in found} & COMMANDS, file
        for module in found:
            if module.startswith('src.') and own != 'src' and Path(PROJECT, *module.split('.')[:2]).with_suffix(
                    '').exists() | Path(PROJECT, *module.split('.')[:2]).with_suffix('.py').exists():
                assert layer_of(module) <= layer_of(own), f'{own} imports {module}'
    for file in PROJECT.glob('*.py'):
        assert not {m.split('.')[0] for m in imports(file)} & COMMANDS, file


def test_only_commands_in_src_change_the_path():
    """`python src/convert.py` and `python src/get_list.py` are called as they always were; nothing else needs it."""
    patched = {file.name for file in (PROJECT / 'src').rglob('*.py') if 'sys.path' in file.read_text()}
    assert patched == {'convert.py', 'get_list.py'}


def test_commands_are_short():
    for name in COMMANDS:
        assert len((PROJECT / f'{name}.py').read_text().splitlines()) <= 100, name


def functions(node, is_public=True):
    """Yield (function, whether it is public) of everything defined in a syntax tree, nested functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            named = child.name == '__init__' or child.name[0] != '_'
            yield child, is_public and named and child.name not in ('construct', 'bprop')      # MindSpore's own
            yield from functions(child, False)
        else:
            yield from functions(child, is_public)


def untyped(function):
    """Return the arguments of a function that have no annotation, and 'return' if its result has none."""
    spec = function.args
    arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    names = [a.arg for a in arguments if a.annotation is None and a.arg not in ('self', 'cls')]
    return names + ['return'] * (function.returns is None and function.name != '__init__')


def test_public_functions_are_typed():
    found = [f'{file.relative_to(PROJECT)}:{function.lineno} {function.name}: {", ".join(names)}'
             for file in SOURCES for function, is_public in functions(ast.parse(file.read_text()))
             if is_public and (names := untyped(function))]
    assert not found, '\n'.join(found)


def test_functions_and_files_are_short():
    long = [f'{file.relative_to(PROJECT)}: {count} lines' for file in SOURCES
            if (count := len(file.read_text().splitlines())) > 350]
    long += [f'{file.relative_to(PROJECT)}:{function.lineno} {function.name}: {count} lines' for file in SOURCES
             for function, _ in functions(ast.parse(file.read_text()))
             if (count := function.end_lineno - function.lineno + 1) > 50]
    assert not long, '\n'.join(long)


def test_these_need_no_mindspore():
    code = "import sys; sys.modules['mindspore'] = None; import " + ', '.join(f'src.{n}' for n in NEED_NO_MINDSPORE)
    subprocess.run([sys.executable, '-c', code], cwd=PROJECT, check=True)


def test_same_bits_for_the_same_seed():
    assert np.array_equal(draw_face(1, 2, 3), draw_face(1, 2, 3))
    assert not np.array_equal(draw_face(1, 2, 3), draw_face(2, 2, 3))
    assert draw_face(1, 2, 3).shape == (144, 144)


def test_faces_of_a_person_are_alike():
    """Within a person the mean squared difference is clearly smaller than across people: identity shows."""
    faces = np.array([[draw_face(1, p, i) for i in range(4)] for p in range(6)], float)
    faces -= faces.mean((2, 3), keepdims=True)
    faces /= faces.std((2, 3), keepdims=True)
    flat = faces.reshape(24, -1)
    alike = flat @ flat.T / flat.shape[1]
    same = np.kron(np.eye(6), np.ones((4, 4))).astype(bool)
    assert alike[same & ~np.eye(24, dtype=bool)].mean() > alike[~same].mean() + 0.1


def test_protocol_files_are_the_real_format(synthetic):
    blufr = lists.load_blufr(str(synthetic / 'mat_files' / 'blufr_lfw_config.mat'))
    pairs = lists.load_lfw_pairs(str(synthetic / 'mat_files' / 'lfw_pairs.mat'), len(blufr.names))
    names, labels = lists.list_for_lfw(blufr)
    assert len(names) == 14 * 24 and len(blufr.trials) == 10 and [len(p) for p in pairs] == [3000, 3000]
    assert (labels[pairs[0][:, 0]] == labels[pairs[0][:, 1]]).all() and \
        (labels[pairs[1][:, 0]] != labels[pairs[1][:, 1]]).all()
    for trial in blufr.trials:
        assert set(trial['gallery']) | set(trial['probe']) == set(trial['test'])
        assert not set(trial['gallery']) & set(trial['probe'])


def test_drawing_again_keeps_what_is_there(tmp_path):
    write_dataset(str(tmp_path), 1, 2, 14, 22, 1)
    file = tmp_path / 'train' / '0000' / '0001.png'
    first, when = file.read_bytes(), file.stat().st_mtime_ns
    os.remove(tmp_path / 'train' / '0000' / '0000.png')
    write_dataset(str(tmp_path), 1, 2, 14, 22, 1)
    assert file.read_bytes() == first and file.stat().st_mtime_ns == when
    assert (tmp_path / 'train' / '0000' / '0000.png').exists()


def bash(command, cwd, **env):
    return subprocess.run(['bash', '-c', command], cwd=cwd, env={**ENV, **env}, capture_output=True, text=True,
                          timeout=900)


def test_standalone_shows_a_start_that_fails(tmp_path):
    done = bash(f'bash {PROJECT}/scripts/train_standalone.sh 0 --recipe nonsense', tmp_path)
    assert done.returncode == 1 and "unknown recipe 'nonsense'" in done.stderr
    assert "unknown recipe" in (tmp_path / 'train_standalone_log.log').read_text()


def test_standalone_goes_on_in_the_background(tmp_path, synthetic):
    settings = ' '.join(TINY).replace('epochs=2', 'epochs=500')
    done = bash(f'bash {PROJECT}/scripts/train_standalone.sh 0 {settings} --dataset_path {synthetic}', tmp_path,
                START_SECONDS='5')
    assert done.returncode == 0 and 'train_standalone_log.log' in done.stdout
    pid = int(re.search(r'pid (\d+)', done.stdout).group(1))
    os.kill(pid, 0)                                            # it is there
    os.kill(pid, 9)
    time.sleep(0.2)


@pytest.mark.parametrize('launcher', ['train_standalone', 'eval_lfw', 'eval_blufr'])
def test_launchers_say_how_they_are_called(launcher, tmp_path):
    done = bash(f'bash {PROJECT}/scripts/{launcher}.sh', tmp_path)
    assert done.returncode == 2 and done.stderr.startswith('usage: ')


def test_a_failed_evaluation_is_passed_on(tmp_path):
    done = bash(f'bash {PROJECT}/scripts/eval_lfw.sh 0 nowhere', tmp_path)
    assert done.returncode == 2 and 'error: ' in done.stdout
    assert 'error: ' in (tmp_path / 'eval_lfw.log').read_text()

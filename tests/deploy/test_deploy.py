"""The 310 path on the CPU: inputs bit for bit, the C++ program and its errors under sanitizers, the same numbers."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT, script

from src.config import get_config
from src.data.face_format import FACE_FORMATS
from src.data.images import face_for_test, find_images, read_face
from src.deploy import exchange
from src.protocols.lfw import LFW
from src.protocols.protocol import image_id, in_order

ENV = {**os.environ, 'VIRTUAL_ENV': sys.prefix, 'PATH': f"{sys.prefix}/bin:{os.environ['PATH']}",
       'DEVICE_TARGET': 'CPU', 'ASAN_OPTIONS': 'detect_leaks=0'}        # MindSpore Lite leaks at every start
ENV.pop('GLOG_v', None)


@pytest.fixture(scope='module')
def ckpt(trained, tmp_path_factory):
    """A copy of the tiny checkpoint: what evaluation keeps beside it must not meet other tests."""
    out = tmp_path_factory.mktemp('ckpt')
    for suffix in ('.ckpt', '.json'):
        shutil.copy(trained / f'lightcnn-2_6{suffix}', out)
    return out


@pytest.fixture(scope='module')
def mindir(ckpt, tmp_path_factory):
    """The tiny network as a MINDIR for MindSpore Lite 2.0, and one for newer ones beside it."""
    out = tmp_path_factory.mktemp('mindir')
    for name, further in (('model', ['--ir', '1']), ('new', [])):
        done = script('export.py', '--ckpt_file', ckpt, '--file_name', out / name, *further)
        assert done.returncode == 0, done.stderr
    return out / 'model.mindir'


@pytest.fixture(scope='module')
def inputs(synthetic, mindir, tmp_path_factory):
    """The synthetic test faces as preprocess.py writes them."""
    out = tmp_path_factory.mktemp('inputs')
    done = script('preprocess.py', '--data_path', synthetic, '--model', mindir, '--result_path', out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope='module')
def sanitized():
    """The C++ program under AddressSanitizer and UndefinedBehaviorSanitizer."""
    done = subprocess.run(['bash', PROJECT / 'ascend310_infer' / 'build.sh'], env={**ENV, 'SANITIZE': 'ON'},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program = done.stdout.splitlines()[-1]

    def run(*arguments):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=600, env=ENV)
    return run


def infer(program, mindir, inputs, out, *further):
    return program('--mindir_path', mindir, '--dataset_path', inputs, '--device_target', 'CPU', '--result_path',
                   out / 'result', '--time_path', out / 'time', *further)


def test_inputs_are_what_evaluation_feeds(synthetic, inputs):
    cfg = get_config(dataset_path=str(synthetic))
    names, _ = LFW.images(cfg)
    lines = (inputs / 'manifest.tsv').read_text().splitlines()
    assert lines[0] == exchange.HEADER and len(lines) == 1 + len(names) == 1 + len(list(inputs.glob('*.bin')))
    files = dict(line.split('\t') for line in lines[1:])
    for name, path in list(zip(names, find_images(cfg.root_path, names)))[::37]:
        expected = FACE_FORMATS['lightcnn'].to_input(face_for_test(read_face(path), image_size=16)[None])
        assert (inputs / files[image_id(name)]).read_bytes() == expected.tobytes()


def test_inputs_are_made_again_only_when_they_must(synthetic, mindir, tmp_path):
    arguments = ['--data_path', synthetic / 'lfw', '--model', mindir, '--result_path', tmp_path]
    assert 'up to date' not in script('preprocess.py', *arguments).stdout
    assert 'up to date' in script('preprocess.py', *arguments).stdout
    (tmp_path / '000003.bin').unlink()
    assert 'up to date' not in script('preprocess.py', *arguments).stdout and (tmp_path / '000003.bin').exists()


def test_the_program_gives_the_checkpoints_features(sanitized, ckpt, synthetic, mindir, inputs, tmp_path):
    done = script('eval_lfw.py', '--resume', ckpt, '--dataset_path', synthetic, '--save_features',
                  tmp_path / 'f.npy', '--thresholds', tmp_path / 't.json')
    assert done.returncode == 0, done.stderr
    names, _ = LFW.images(get_config(dataset_path=str(synthetic)))
    expected = np.load(tmp_path / 'f.npy')
    for further in (['--threads', 1], ['--threads', 3, '--batch_size', 5, '--write_bins']):
        done = infer(sanitized, mindir, inputs, tmp_path, *further)
        assert done.returncode == 0 and not done.stderr, done.stderr
        ids, features = exchange.read_features(str(tmp_path / 'result' / 'features.bin'))
        rows = [ids.index(image_id(name)) for name in names]
        assert np.abs(features[rows] - expected).max() < 1e-4 * np.abs(expected).max()
    one = np.fromfile(tmp_path / 'result' / f'{ids[7]}_0.bin', np.float32)
    assert np.array_equal(one, features[7])
    times = (tmp_path / 'time' / 'test_perform_static.txt').read_text()
    assert times.startswith('NN inference cost average time: ') and f'of infer_count {-(-len(ids) // 5)}\n' in times
    assert 'p50' in times and 'p99' in times and 'images/s' in times


def spoiled(inputs, out, change):
    """A copy of the inputs' manifest and a few of its files, changed."""
    lines = (inputs / 'manifest.tsv').read_text().splitlines()[:9]
    out.mkdir()
    for i in range(8):
        (out / f'{i:06d}.bin').write_bytes((inputs / f'{i:06d}.bin').read_bytes())
    (out / 'manifest.tsv').write_text('\n'.join(lines) + '\n')
    change(out)
    return out


def replace(old, new):
    def change(folder):
        text = (folder / 'manifest.tsv').read_text()
        assert old in text
        (folder / 'manifest.tsv').write_text(text.replace(old, new))
    return change


@pytest.mark.parametrize('change, message', [
    (lambda f: (f / 'manifest.tsv').unlink(), 'manifest.tsv: cannot be read'),
    (replace('# lightcnn', '# other'), 'the first line is not'),
    (replace('000002.bin', '../000002.bin'), 'line 4: \'../000002.bin\' is not a file of this folder'),
    (replace('\t000002', '\t/etc/passwd\t000002'), "line 4: expected 'id<TAB>file'"),
    (replace('000005.bin', '000099.bin'), '000099.bin: cannot be read'),
    (lambda f: (f / '000004.bin').write_bytes(b'short'), '000004.bin: 5 bytes, the model takes 1024 an image'),
    (lambda f: (f / '000000.bin').write_bytes(b'\0' * 2048), '000000.bin: 2048 bytes'),
    (lambda f: (f / 'manifest.tsv').write_text('# lightcnn manifest 1\n'), 'lists no image'),
    (lambda f: (f / '000001.bin').write_bytes(np.full(256, np.nan, '<f4').tobytes()), 'its feature is not finite')])
def test_a_wrong_input_is_one_line(sanitized, mindir, inputs, tmp_path, change, message):
    done = infer(sanitized, mindir, spoiled(inputs, tmp_path / 'in', change), tmp_path)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and message in done.stderr, done.stderr
    assert not (tmp_path / 'result').exists()


def test_a_wrong_model_device_or_flag_is_one_line(sanitized, mindir, inputs, tmp_path):
    (tmp_path / 'broken.mindir').write_bytes(mindir.read_bytes()[:5000])
    new = mindir.with_name('new.mindir')
    full = spoiled(inputs, tmp_path / 'in', lambda folder: None)
    for arguments, message in (
            (['--mindir_path', tmp_path / 'broken.mindir'], 'cannot load it on the CPU'),
            (['--mindir_path', new], "needs a file of 'export.py --ir 1'"),
            (['--mindir_path', tmp_path / 'absent'], 'no such model file'),
            (['--device_target', 'Ascend', '--device_id', 7], 'on Ascend device 7'),
            (['--device_target', 'TPU'], 'expected Ascend or CPU'), (['--device_id', '-1'], 'expected a number'),
            (['--batch_size', '9x'], 'expected a number from 1 to 4096'), (['--fast'], 'no such flag'),
            (['--threads'], 'needs a value'), (['--result_path', '/dev/null/x'], 'cannot be made')):
        done = sanitized('--mindir_path', mindir, '--dataset_path', full, '--device_target', 'CPU', '--result_path',
                         tmp_path / 'result', '--time_path', tmp_path / 'time', *arguments)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr
    assert sanitized().returncode == 1 and 'main --mindir_path' in sanitized('--help').stdout


def test_a_full_disk_leaves_no_half_result(sanitized, mindir, inputs, tmp_path):
    limited = ['bash', '-c', 'ulimit -f 1; trap "" XFSZ; exec "$@"', 'bash']
    found = sanitized('--help').args[0]
    done = subprocess.run([*limited, found, '--mindir_path', mindir, '--dataset_path', inputs, '--device_target', 'CPU',
                           '--result_path', tmp_path / 'r', '--time_path', tmp_path / 't'], capture_output=True,
                          text=True, env=ENV)
    assert done.returncode == 1 and 'features.bin: cannot be written' in done.stderr, done.stderr
    assert not list((tmp_path / 'r').iterdir())


def test_pictures_are_decoded_in_the_program(sanitized, synthetic, mindir, inputs, tmp_path):
    """--images gives the features of the .bin way; --compare the cosine of two of them; wrong pictures are one line."""
    folder = tmp_path / 'pictures'
    cfg = get_config(dataset_path=str(synthetic))
    names = LFW.images(cfg)[0][:5]
    for name, path in zip(names, find_images(cfg.root_path, names)):
        target = folder / image_id(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target.with_suffix(os.path.splitext(path)[1]))
    files = sorted(folder.rglob('*.*'))
    on_cpu = ['--mindir_path', mindir, '--device_target', 'CPU', '--threads', '1']
    out = ['--result_path', tmp_path / 'result', '--time_path', tmp_path / 'time']
    done = sanitized(*on_cpu, '--images', folder, *out)
    if 'built without OpenCV' in done.stderr:
        pytest.skip('OpenCV is not there for C++ (libopencv-imgcodecs-dev, libopencv-imgproc-dev): pictures are not '
                    'decoded in the program')
    assert done.returncode == 0, done.stderr
    ids, features = exchange.read_features(str(tmp_path / 'result' / 'features.bin'))
    infer(sanitized, mindir, inputs, tmp_path / 'bins')
    other_ids, others = exchange.read_features(str(tmp_path / 'bins' / 'result' / 'features.bin'))
    assert sorted(ids) == sorted(image_id(name) for name in names)
    wanted = others[[other_ids.index(name) for name in ids]]
    assert np.abs(features - wanted).max() < 1e-4 * np.abs(wanted).max()
    done = sanitized(*on_cpu, '--compare', files[0], files[1], '--threshold', '-1')
    a, b = wanted[:2] / np.linalg.norm(wanted[:2], axis=1, keepdims=True)
    assert done.stdout.endswith(', the same person\n') and abs(float(done.stdout.split()[1].strip(',')) - a @ b) < 2e-4
    assert 'different people' in sanitized(*on_cpu, '--compare', files[0], files[1], '--threshold', '1').stdout
    (folder / 'cut.jpg').write_bytes(files[0].read_bytes()[:900])
    (tmp_path / 'empty').mkdir()
    for arguments, message in ((['--images', folder], 'cut'), (['--images', tmp_path / 'empty'], 'no .jpg, .png or'),
                               (['--compare', files[0]], 'needs two pictures'),
                               (['--images', folder, '--threshold', '0.3'], '--threshold is for --compare'),
                               (['--images', folder, '--dataset_path', inputs], 'three ways where faces come from')):
        done = sanitized(*on_cpu, *arguments, *out)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr


@pytest.mark.parametrize('change, message', [
    (lambda held: held['output'].update(shape=[1, 7]), 'its metadata say 7; export it again'),
    (lambda held: held['input'].update(shape=[1, 1, 32, 32]), 'its metadata say 1024'),
    (lambda held: held.update(face_format={'colour': 'green'}), 'does not tell the colour of the faces'),
    (lambda held: held['face_format'].update(scale=0), 'does not tell the scale of the values')])
def test_metadata_that_do_not_fit_the_model_are_one_line(sanitized, mindir, inputs, tmp_path, change, message):
    shutil.copy(mindir, tmp_path / 'model.mindir')
    held = json.loads(mindir.with_suffix('.json').read_text())
    change(held)
    (tmp_path / 'model.json').write_text(json.dumps(held))
    done = infer(sanitized, tmp_path / 'model.mindir', inputs, tmp_path)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and message in done.stderr, done.stderr


def test_the_readers_stand_a_short_fuzzing(tmp_path):
    done = subprocess.run(['bash', PROJECT / 'ascend310_infer' / 'fuzz' / 'run.sh', '2', tmp_path],
                          capture_output=True, text=True)
    if 'clang++ is not there' in done.stderr or 'libclang_rt' in done.stderr:
        pytest.skip('clang++ with libFuzzer is not there (clang, libclang-rt-14-dev): the readers are not fuzzed')
    assert done.returncode == 0 and done.stdout.count('no finding') == 4, done.stderr


def result(folder, ids, features, head=None):
    head = head or f'lightcnn features 1 {len(ids)} {features.shape[1]}'
    text = head + '\n' + ''.join(f'{name}\n' for name in ids)
    (folder / 'features.bin').write_bytes(text.encode() + features.astype('<f4').tobytes())


def test_a_wrong_result_is_named(synthetic, tmp_path):
    cfg = get_config(dataset_path=str(synthetic))
    ids = list(exchange.listed_images(cfg))
    good = np.random.default_rng(0).standard_normal((len(ids), 4)).astype(np.float32)
    result(tmp_path, ids, good)
    names, _ = LFW.images(cfg)
    features_of = in_order(*exchange.read_results(str(tmp_path), cfg))
    assert np.array_equal(features_of(names)[5], good[ids.index(image_id(names[5]))])
    bad = good.copy()
    bad[3, 1] = np.nan
    for arguments, message in (
            ((ids[1:], good[1:]), f'1 of {len(ids)} results are missing: {ids[0]}'),
            (([*ids, 'Nobody_0001'], np.vstack([good, good[:1]])), 'not in the lists: Nobody_0001'),
            ((ids, bad), f'the feature of {ids[3]} is not finite'), ((ids, good[1:]), 'cut off or too long'),
            ((ids, np.vstack([good, good[:1]])), 'cut off or too long'),
            (([ids[1], *ids[1:]], good), '1 ids are there twice'),
            ((ids, good, 'lightcnn features 2 5 4'), 'not the features of ascend310_infer'),
            ((ids, good, 'lightcnn features 1 999999999 4'), 'cut off or too long')):
        result(tmp_path, *arguments)
        with pytest.raises(ValueError) as error:
            exchange.read_results(str(tmp_path), cfg)
        assert message in str(error.value)
    done = script('postprocess.py', '--result_path', tmp_path / 'nowhere', '--data_path', synthetic)
    assert done.returncode == 2 and 'no such result' in done.stderr


def run_310(folder, *arguments, **env):
    return subprocess.run(['bash', PROJECT / 'scripts' / 'run_infer_310.sh', *map(str, arguments)], cwd=folder,
                          capture_output=True, text=True, timeout=900, env={**ENV, **env})


def test_the_310_script_stops_at_the_first_failure(synthetic, mindir, tmp_path):
    assert run_310(tmp_path).returncode == 2
    done = run_310(tmp_path, mindir, tmp_path / 'nowhere', 0)
    assert done.returncode == 2 and 'error: preprocess failed with code 2, log' in done.stderr
    done = run_310(tmp_path, mindir, synthetic, 0, LITE_HOME=str(tmp_path))
    assert done.returncode == 1 and 'error: build failed with code 1' in done.stderr
    assert 'expected an unpacked MindSpore Lite tarball' in (tmp_path / 'build.log').read_text()
    done = run_310(tmp_path, mindir, synthetic, 0, DEVICE_TARGET='Ascend')
    assert done.returncode == 1 and 'error: infer failed with code 1' in done.stderr
    assert not (tmp_path / 'acc.log').exists()


def numbers(value, key=''):
    """Yield (path, number) of everything in a result but scores and thresholds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        if name not in ('scores', 'threshold'):
            yield from numbers(inner, f'{key}/{name}')
    if isinstance(value, (int, float)):
        yield key, value


def same_as_eval(ckpt, data, mindir, folder):
    done = run_310(folder, mindir, data / 'lfw', 0)
    assert done.returncode == 0, done.stdout + done.stderr
    for protocol in ('lfw', 'blufr'):
        own = folder / f'eval_{protocol}.json'
        done = script(f'eval_{protocol}.py', '--resume', ckpt, '--dataset_path', data, '--json', own, '--thresholds',
                      folder / 't.json')
        assert done.returncode == 0, done.stderr
        expected, found = (dict(numbers(json.loads(file.read_text()))) for file in (own, folder / f'{protocol}.json'))
        assert expected.keys() == found.keys() and len(expected) > 8
        # points of percent; how many people a promise needs is no percentage
        limits = {key: 1e-2 * expected[key] if 'people' in key else 0.02 for key in expected}
        apart = {key: (value, found[key]) for key, value in expected.items() if abs(value - found[key]) > limits[key]}
        assert not apart
    assert 'LFW, ' in (folder / 'acc.log').read_text() and (folder / 'thresholds.json').exists()


def test_the_310_script_scores_as_the_eval_scripts_do(ckpt, synthetic, mindir, tmp_path):
    same_as_eval(ckpt, synthetic, mindir, tmp_path)
    assert 'up to date' in run_310(tmp_path, mindir, synthetic, 0).stdout
    done = script('postprocess.py', '--result_path', tmp_path / 'result_Files', '--mat_files_path',
                  synthetic / 'mat_files', '--data_path', synthetic, '--out', tmp_path / 'out', '--report',
                  tmp_path / 'report')
    assert done.returncode == 0 and done.stdout.startswith((tmp_path / 'acc.log').read_text()), done.stderr
    assert 'features.bin' in (tmp_path / 'report' / 'report.html').read_text()


def test_all_real_faces_score_the_same(ckpt, real_faces, mindir, tmp_path):
    """13,233 faces through the C++ program and through MindSpore."""
    same_as_eval(ckpt, real_faces, mindir, tmp_path)
    assert len((tmp_path / 'preprocess_Result' / 'manifest.tsv').read_text().splitlines()) == 13_234

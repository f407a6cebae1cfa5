"""Exported files against the checkpoint, what is refused, and the ONNX backend of the evaluation."""
import json

import mindspore as ms
import numpy as np
import pytest
from conftest import LIGHTCNNS, lightcnn, lightcnn_in_numpy, rounding, script, terms_of
from mindspore.train.mind_ir_pb2 import ModelProto

from src.data.face_format import FACE_FORMATS
from src.data.lists import file_sha256
from src.data.synthetic import faces_as_input
from src.deploy import export, onnx_backend
from src.deploy.inside import Deployed, Inside
from src.initializers import Init


def exported(ckpt, out, *arguments):
    done = script('export.py', '--ckpt_file', ckpt, '--file_name', out, '--device_target', 'CPU', *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.with_suffix('.json').read_text()), done.stdout


@pytest.mark.parametrize('suffix, arguments, batch', [
    ('.mindir', [], 1), ('.mindir', ['--ir', '1', '--batch_size', '4'], 4),
    ('.mindir', ['--batch_size', 'dynamic'], 'N'),
    ('.onnx', ['--file_format', 'ONNX', '--batch_size', 'dynamic'], 'N'), ('.onnx', ['--file_format', 'ONNX'], 1)])
def test_an_export_holds_the_embedding_and_its_metadata(trained, synthetic, tmp_path, suffix, arguments, batch):
    metadata, out = exported(trained, tmp_path / 'model', *arguments, '--dataset_path', synthetic)
    file = tmp_path / f'model{suffix}'
    assert metadata['sha256'] == file_sha256(str(file)) and metadata['bytes'] == file.stat().st_size
    assert metadata['input'] == {'name': 'x', 'shape': [batch, 1, 16, 16], 'dtype': 'float32', 'values': 'grey / 255',
                                 'scaling': 'outside'}
    assert metadata['compared_on'] == 8 and metadata['largest_difference'] < 1e-4 * metadata['largest_feature']
    assert 'largest difference' in out and sorted(p.name for p in tmp_path.iterdir()) == ['model.json', file.name]
    if suffix == '.mindir':
        model = ModelProto.FromString(file.read_bytes())
        assert (model.mind_ir_version == 1) == ('--ir' in arguments)
        names = [p.name for p in model.graph.parameter]
        assert len(names) > 10 and not any('head' in name for name in names)     # no head


@pytest.mark.parametrize('name', LIGHTCNNS)
def test_the_plain_form_is_the_same_function(name):
    network = lightcnn(name, 32, Init('centred', 1)).set_train(False)
    rng = np.random.default_rng(0)
    for p in network.get_parameters():
        if p.name.endswith('bias'):
            p.set_data(ms.Tensor(rng.standard_normal(p.shape).astype(np.float32) / 10))
    faces = faces_as_input(32, 3)
    before, reference = network(ms.Tensor(faces)).asnumpy(), lightcnn_in_numpy(network, name, faces.astype(np.float64))
    job = export.Job(Deployed(network, FACE_FORMATS['lightcnn'], Inside()), ir=1)
    found = export.plain_form(job)(ms.Tensor(faces)).asnumpy()
    allowed = rounding(*terms_of(network)) * np.abs(reference).max()
    assert np.abs(found - reference).max() < allowed and np.abs(before - reference).max() < allowed
    assert np.array_equal(network(ms.Tensor(faces)).asnumpy(), before)   # the network itself is left as it was


@pytest.mark.parametrize('off', [lambda x: x + 1, lambda x: x[:2], lambda x: x * np.nan])
def test_a_file_that_differs_is_not_left_behind(monkeypatch, tmp_path, off):
    network = lightcnn('LightCNN_9Layers', 16, Init('centred', 1)).set_train(False)
    write, read = export.FORMATS['MINDIR']
    monkeypatch.setitem(export.FORMATS, 'MINDIR', (write, lambda *args: off(read(*args))))
    with pytest.raises(RuntimeError, match="not written, its features differ from the checkpoint's"):
        export.export_backbone(network, str(tmp_path / 'm'), 'MINDIR', face=FACE_FORMATS['lightcnn'],
                               faces=faces_as_input(16))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('arguments, message', [
    (['--file_format', 'AIR'], 'only MindSpore on an Ascend card can write it'),
    (['--ir', '1', '--batch_size', 'dynamic'], 'a MINDIR of --ir 1 has a fixed batch'),
    (['--ir', '1', '--file_format', 'ONNX'], '--ir 1 is a version of MINDIR'),
    (['--int8'], '--int8 is for --file_format ONNX'),
    (['--batch_size', '0'], 'expected 1 to 4096, or dynamic'),
    (['--ckpt_file', 'absent'], 'no such checkpoint')])
def test_what_cannot_be_exported_is_one_line(trained, tmp_path, arguments, message):
    done = script('export.py', '--ckpt_file', trained, '--file_name', tmp_path / 'm', '--device_target', 'CPU',
                  *arguments)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_onnx_backend_scores_as_mindspore_does(trained, synthetic, tmp_path):
    numbers = []
    for backend in ('mindspore', 'onnx'):
        json_file = tmp_path / f'{backend}.json'
        done = script('eval_lfw.py', '--resume', trained, '--dataset_path', synthetic, '--backend', backend,
                      '--no_cache', '--json', json_file, '--thresholds', tmp_path / 't.json')
        assert done.returncode == 0, done.stderr
        numbers.append(json.loads(json_file.read_text()))
    assert 'on ONNX Runtime' in done.stdout
    assert all(abs(numbers[0][key] - numbers[1][key]) <= 0.02 for key in ('eer100', 'auc'))


def test_int8_is_close_and_smaller(trained, synthetic, tmp_path):
    metadata, _ = exported(trained, tmp_path / 'int8', '--file_format', 'ONNX', '--batch_size', 'dynamic', '--int8',
                        '--dataset_path', synthetic)
    whole, _ = exported(trained, tmp_path / 'whole', '--file_format', 'ONNX')
    assert 0.8 < metadata['int8_smallest_cosine'] < 1 and metadata['bytes'] < 0.4 * whole['bytes']
    done = script('eval_lfw.py', '--resume', tmp_path / 'int8.onnx', '--dataset_path', synthetic, '--thresholds',
                  tmp_path / 't.json')
    assert done.returncode == 0 and 'for 16x16 faces, on ONNX Runtime' in done.stdout
    done = script('eval_lfw.py', '--resume', tmp_path / 'whole.onnx', '--dataset_path', synthetic, '--thresholds',
                  tmp_path / 't.json')
    assert done.returncode == 0 and 'embedded 336 images' in done.stdout         # a fixed batch of 1, one by one


def test_a_broken_onnx_file_is_one_line(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'not a network')
    with pytest.raises(ValueError, match='ONNX Runtime cannot load it'):
        onnx_backend.onnx_network(str(tmp_path / 'x.onnx'))
    with pytest.raises(FileNotFoundError, match='no such ONNX file'):
        onnx_backend.onnx_network(str(tmp_path / 'y.onnx'))

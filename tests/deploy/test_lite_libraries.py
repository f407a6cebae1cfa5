"""The C++ program against an unpacked Lite tarball, the precision of an Ascend 310, and where exports are computed."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, script

from src import device

ENV = {**os.environ, 'VIRTUAL_ENV': sys.prefix, 'PATH': f"{sys.prefix}/bin:{os.environ['PATH']}", 'GLOG_v': '4'}
ENV.pop('LD_LIBRARY_PATH', None)
FURTHER = {'libdnnl.so.2': 'runtime/third_party/dnnl', 'libmindspore_core.so': 'tools/converter/lib',
           'libmindspore_glog.so.0': 'tools/converter/lib'}


def built(folder, **environ):
    done = subprocess.run(['bash', PROJECT / 'ascend310_infer' / 'build.sh'], capture_output=True, text=True,
                          env={**ENV, **environ})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The unpacked wheel of MindSpore Lite, which a build without LITE_HOME fetches."""
    program = Path(built(tmp_path_factory.mktemp('wheel')))
    cache = program.parent.parent
    return next(cache.glob('mindspore_lite-*')) / 'mindspore_lite'


@pytest.fixture(scope='module')
def tarball(wheel, tmp_path_factory):
    """A folder laid out as the official tarball, from the wheel's files: libraries in three places."""
    home = tmp_path_factory.mktemp('lite') / 'mindspore-lite-2.0.0-linux-x64'
    for folder in ('runtime/lib', *FURTHER.values()):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / 'runtime' / 'include').symlink_to(wheel / 'include')
    for library in (wheel / 'lib').glob('lib*.so*'):
        target = home / FURTHER.get(library.name, 'runtime/lib')
        shutil.copy(library, target / library.name)
    shutil.copy(wheel / 'lib' / 'libmindspore-extendrt_python.so', home / 'runtime' / 'lib' / 'libmindspore-lite.so')
    return home


def test_a_tarballs_libraries_are_found(tarball, tmp_path):
    """Built against the tarball and started without LD_LIBRARY_PATH: oneDNN and the converter's are found too."""
    program = built(tmp_path, LITE_HOME=str(tarball), LIGHTCNN_CACHE=str(tmp_path))
    run_path = subprocess.run(['readelf', '-d', program], capture_output=True, text=True).stdout
    for folder in ('runtime/lib', 'runtime/third_party/dnnl', 'tools/converter/lib'):
        assert str(tarball / folder) in run_path, run_path
    done = subprocess.run([program, '--help'], capture_output=True, text=True, env=ENV)
    assert done.returncode == 0 and '--precision_mode' in done.stdout, done.stderr
    bound = subprocess.run(['ldd', program], capture_output=True, text=True, env=ENV).stdout
    assert 'not found' not in bound and 'tools/converter/lib' in bound, bound


def test_the_310_script_finds_them_too(tarball, synthetic, tmp_path):
    """The script hands the three folders on: the program of another Lite would need them."""
    steps = tmp_path / 'python'
    steps.write_text('#!/usr/bin/env bash\necho "$LD_LIBRARY_PATH"\nexit 3\n')
    steps.chmod(0o755)
    done = subprocess.run(['bash', PROJECT / 'scripts' / 'run_infer_310.sh', 'model.mindir', str(synthetic)],
                          capture_output=True, text=True, cwd=tmp_path,
                          env={**ENV, 'PYTHON': str(steps), 'LITE_HOME': str(tarball), 'LD_LIBRARY_PATH': '/opt/own'})
    assert done.returncode == 3
    assert done.stdout.splitlines()[0].split(':') == ['/opt/own', *(
        str(tarball / f) for f in ('runtime/lib', 'runtime/third_party/dnnl', 'tools/converter/lib'))]


def test_precision_modes(wheel, tmp_path):
    program = built(tmp_path)
    for mode, message in (('fp16', 'expected enforce_fp16'), ('enforce_fp32', '--mindir_path is missing')):
        done = subprocess.run([program, '--precision_mode', mode], capture_output=True, text=True, env=ENV)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr


TOLERANCES = """
#include <cstdio>
#include "inc/embedder.h"
int main() {
  Options options;
  std::printf("%g", PlaceTolerance(options));
  options.precision_mode = "enforce_fp32";
  std::printf(" %g", PlaceTolerance(options));
  options = Options();
  options.device_target = "CPU";
  std::printf(" %g\\n", PlaceTolerance(options));
}
"""


def test_tolerance_follows_precision(wheel, tmp_path):
    """Half precision rounds to 11 bits: 30 layers of it differ by more than the 0.001 that float32 is held to."""
    (tmp_path / 'tolerances.cc').write_text(TOLERANCES)
    source = PROJECT / 'ascend310_infer'
    command = ['g++', '-std=c++17', '-D_GLIBCXX_USE_CXX11_ABI=0', f'-I{source}', f'-I{wheel}', f'-I{wheel}/include',
               str(tmp_path / 'tolerances.cc'), str(source / 'src' / 'embedder.cc'), '-o', str(tmp_path / 'tolerances'),
               f'-L{wheel}/lib', '-lmindspore-extendrt_python', '-Wl,--allow-shlib-undefined',
               f'-Wl,--disable-new-dtags,-rpath,{wheel}/lib']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = subprocess.run([tmp_path / 'tolerances'], capture_output=True, text=True, env=ENV)
    assert found.stdout.split() == ['0.02', '0.001', '0.001'], found.stderr


@pytest.mark.parametrize('arguments, target', [([], 'CPU'), (['--device_target', 'Ascend'], 'CPU'),
                                               (['--file_format', 'ONNX'], 'CPU'), (['--file_format', 'AIR'], 'auto')])
def test_exports_are_computed_on_the_cpu(monkeypatch, trained, arguments, target):
    """A card would be compared at 1e-4 in whatever precision it has; AIR files are the exception."""
    import export

    class Chosen(Exception):
        pass

    def set_up(device_target, device_id):
        raise Chosen(device_target)
    monkeypatch.setattr(device, 'set_up', set_up)
    monkeypatch.setattr(sys, 'argv', ['export.py', '--ckpt_file', str(trained), *arguments])
    with pytest.raises(Chosen, match=target):
        export.main()


def test_an_export_with_a_card_asked_for(trained, tmp_path):
    done = script('export.py', '--ckpt_file', trained, '--file_name', tmp_path / 'model', '--device_target', 'Ascend')
    assert done.returncode == 0 and (tmp_path / 'model.mindir').exists(), done.stderr

"""The documents: every command and every example runs, and both languages say the same of what there is."""
import importlib
import json
import re
import sys

import cv2
import numpy as np
import pytest
from conftest import PROJECT, TINY, rounding
from protocols.twins import write_ijb, write_megaface, write_rfw
from test_convert import make_tsv
from test_project import bash

import prepare
from src import api, zoo
from src.backbones import BACKBONES, build_backbone
from src.config import RECIPES, get_config
from src.data.augment import AUGMENTS
from src.data.face_format import FACE_FORMATS
from src.device import set_up
from src.heads import HEADS, build_head
from src.lr_generator import SCHEDULES, WARMUPS
from src.protocols import PROTOCOLS, protocol
from src.training import checkpoint
from src.training.hccl import rank_table
from src.training.optimizers import OPTIMIZERS

# in reading order
DOCS = ['README', *(f'docs/{name}' for name in ('data', 'train', 'cards', 'evaluate', 'deploy', 'zoo', 'results',
                                                'extend'))]
OURS = r'(?<=\s)(scripts/|(?:train|eval\w*|export|prepare|recognise|verify|plan)\.py|src/)(?=\S* |\S*$)'


def text_of(document, language=''):
    return (PROJECT / f'{document}{language}.md').read_text(encoding='utf-8')


def blocks_of(document, language=''):
    """Return [(language tag, text)] of what can be run in a document, in its order."""
    return re.findall(r'^```(bash|python)\n(.*?)^```', text_of(document, language), re.S | re.M)


def commands_of(text):
    """Return the commands of a bash block, comments taken off, continued lines joined."""
    lines = text.replace('\\\n', ' ').splitlines()
    return [command for line in lines if (command := re.sub(r'\s+#.*', '', line).strip()) and command[0] != '#']


def rows_of(document, language, first):
    """Return {name: cells} of the table whose first header cell is `first`; names are in backticks."""
    table = re.search(rf'^\| {first} \|.*?\n\|[- |]+\n(.*?)(?:\n\n|\Z)', text_of(document, language), re.S | re.M)
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.group(1).splitlines()]
    return {cells[0].strip('`'): cells for cells in rows}


@pytest.mark.parametrize('document', DOCS)
def test_both_languages_carry_the_same_blocks_and_headings(document):
    assert blocks_of(document) == blocks_of(document, '_CN')
    levels = [re.findall(r'^(#+) ', text_of(document, language), re.M) for language in ('', '_CN')]
    assert levels[0] == levels[1] != []


def test_readme_fits_on_two_screens():
    for language in ('', '_CN'):
        assert len(text_of('README', language).splitlines()) <= 80


@pytest.mark.parametrize('document', [*DOCS, 'CONTRIBUTING'])
def test_links_lead_somewhere(document):
    for language in ('', '_CN') if document != 'CONTRIBUTING' else ('',):
        for target in re.findall(r'\]\(([^)#]+)\)', text_of(document, language)):
            if '://' not in target:
                assert (PROJECT / document).parent.joinpath(target).is_file(), target


@pytest.mark.parametrize('document', DOCS)
def test_chinese_has_chinese_punctuation(document):
    text = re.sub(r'^```.*?^```', '', text_of(document, '_CN'), flags=re.S | re.M)
    assert re.findall(r'.{0,20}[\u4e00-\u9fff][,;:!?].{0,20}', text) == []


def test_everything_there_is_has_a_name_in_the_documents():
    for language in ('', '_CN'):
        for document, tables in (('docs/zoo', (HEADS, BACKBONES)), ('docs/evaluate', (PROTOCOLS,)),
                                 ('docs/data', (FACE_FORMATS,)),
                                 ('docs/train', (RECIPES, SCHEDULES, WARMUPS, AUGMENTS, OPTIMIZERS))):
            text = text_of(document, language)
            assert [name for table in tables for name in table if f'`{name}`' not in text] == [], document
        everything = ''.join(text_of(document, language) for document in DOCS)
        assert [tool for tool in prepare.TOOLS if f'python prepare.py {tool}' not in everything] == []


@pytest.mark.parametrize('language, first', [('', 'head'), ('_CN', '损失头')])
def test_the_table_of_heads_tells_options_and_defaults(language, first):
    """All options of a head but those that the page lists once for many heads."""
    rows = rows_of('docs/zoo', language, first)
    assert list(rows) == list(HEADS)
    common = rows_of('docs/zoo', language, 'option' if not language else '选项')
    for name, (_, _, _, options, _) in rows.items():
        told = dict(re.findall(r'`(\w+)` ([\w.]+)', options))
        declared = {key: option.default for key, option in HEADS[name].OPTIONS.items()}
        for key, default in declared.items():
            if key not in common or key in told:
                shown = str(default).lower() if isinstance(default, bool) else f'{default:g}' \
                    if isinstance(default, float) else str(default)
                assert told.get(key) == shown, f'{name}, {key}'
        assert told.keys() <= declared.keys(), name


@pytest.mark.parametrize('language, first', [('', 'backbone'), ('_CN', '骨干网络')])
def test_the_table_of_backbones_tells_what_prepare_zoo_prints(language, first):
    rows = rows_of('docs/zoo', language, first)
    assert list(rows) == list(BACKBONES)
    for name, cells in rows.items():
        kind = BACKBONES[name]
        sizes = [str(kind.OPTIONS[key].default) for key in ('image_size', 'embedding_size')]
        assert cells[3:6] == [f'`{kind.face_format}`', *sizes], name
        printed = next(line for line in zoo.table().splitlines() if line.split()[0] == name).split()
        assert [*cells[1:3], *cells[4:9]] == printed[1:8], name


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_tells_result_cost_and_command(recipe):
    words = re.findall(r'^ +(\w+): ', RECIPES[recipe].__doc__, re.M)
    assert words == ['Result', 'Cost', 'Command']


def raw_downloads(folder):
    """Write what the data commands start from: a TSV with its clean list, photos with points."""
    tsv_rows, _ = make_tsv(folder / 'ms1m.tsv', 60, 20)
    (folder / 'clean_list.txt').write_text(''.join(f'{name} {i}\n' for i, name in enumerate(sorted(tsv_rows))))
    (folder / 'photos').mkdir()
    cv2.imwrite(str(folder / 'photos' / 'a.png'), np.zeros((260, 240, 3), np.uint8))
    (folder / 'points.txt').write_text('a.png 90 100 130 100 110 125 95 150 125 150\n')
    (folder / 'lists').mkdir()


def faces_in_arcface_format(folder, synthetic):
    """Write the training faces as 112x112 colour pictures, with their list."""
    for path in (synthetic / 'train').rglob('*.png'):
        target = folder / 'train' / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), cv2.resize(cv2.imread(str(path), cv2.IMREAD_COLOR), (112, 112)))
    (folder / 'train_list.txt').write_text((synthetic / 'train_list.txt').read_text())


def with_tiny_settings(command):
    """Return a documented command for the tiny synthetic faces."""
    if 'run_tests.sh' in command:
        return command + ' --collect-only -q'
    if not re.search(r'train\.py|train_standalone|train_distribute|quickstart\.sh', command):
        return command
    ranks = 8 if '_8p' in command else 2 if 'train_distribute' in command else 1
    small = ' '.join(TINY[4:]).replace('batch_size=8', f'batch_size={8 // ranks}')
    # what is trained again, or by many ranks, is taken to the end elsewhere
    return f'{command} {small}' + ('' if re.search(r'ckpt_path ckpt( |$)|quickstart', command) else ' epochs=1')


def test_commands_run(tmp_path, synthetic):
    """Every command and every Python block in reading order, each once, on the tiny synthetic faces."""
    (tmp_path / 'faces').symlink_to(synthetic)
    quick = tmp_path / 'quickstart'
    quick.mkdir()
    (quick / 'data').symlink_to(synthetic)
    raw_downloads(tmp_path)
    faces_in_arcface_format(tmp_path / 'faces112', synthetic)
    write_ijb(tmp_path, subjects=3, unknown=1, pictures=True)
    write_megaface(tmp_path / 'megaface', people=2, each=2, distractors=12, pictures=True)
    write_rfw(tmp_path / 'RFW', people=3, each=2, pairs=10, pictures=True)
    people = sorted({name.split('/')[0] for name in protocol('lfw').images(get_config(dataset_path=str(synthetic)))[0]})
    (tmp_path / 'groups.tsv').write_text(''.join(f'{p}\t{("even", "odd")[i % 2]}\n' for i, p in enumerate(people)))
    (tmp_path / 'hccl.json').write_text(json.dumps(rank_table('10.0.0.1', {d: f'192.168.1.{d + 1}' for d in range(8)})))
    ran = set()
    for document in DOCS:
        for kind, text in blocks_of(document):
            if kind == 'python' and document == 'docs/extend':
                continue                                         # these have tests of their own
            commands = commands_of(text) if kind == 'bash' else [text]
            for command in [command for command in commands if command not in ran]:
                ran.add(command)
                if kind == 'python':
                    (tmp_path / 'block.py').write_text(command)
                line = 'python block.py' if kind == 'python' else re.sub(OURS, rf'{PROJECT}/\1',
                                                                          with_tiny_settings(command))
                done = bash(line, tmp_path, START_SECONDS='300', QUICKSTART_DIR=str(quick), PYTHONPATH=str(PROJECT))
                assert done.returncode == 0, f'{document}: {line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'
    assert 'Synthetic faces' in (quick / 'report.html').read_text() and (quick / 'trained_lfw.json').exists()


def example(name, folder, monkeypatch):
    """Return the class `name` of an example in docs/extend.md, imported from a file as a user would."""
    text = next(text for kind, text in blocks_of('docs/extend') if kind == 'python' and f'class {name}(' in text)
    assert len(text.splitlines()) < 30
    (folder / f'example_{name.lower()}.py').write_text(text)
    monkeypatch.syspath_prepend(folder)
    return getattr(importlib.import_module(f'example_{name.lower()}'), name)


def test_the_example_of_a_head(tmp_path, synthetic, monkeypatch):
    import mindspore as ms
    set_up('CPU')
    monkeypatch.setitem(HEADS, 'li_arcface', example('LiArcFace', tmp_path, monkeypatch))
    head = build_head('li_arcface', 5, 8, margin=0.3)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((6, 8)).astype(np.float32), rng.integers(0, 5, 6)
    loss, hits = head(ms.Tensor(x), ms.Tensor(labels, ms.int32))
    w = head.weight.asnumpy().astype(float)
    cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    theta = np.arccos(cosine)
    logits = 64 * (np.pi - 2 * (theta + 0.3 * np.eye(5)[labels])) / np.pi
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels])
    # a cosine is a sum of 8 terms; its error grows by 1 / sin(theta) in the angle, and by 128 / pi in the logit
    assert abs(float(loss) - expected) < 2 * 128 / np.pi * rounding(8) / np.sin(theta).min() + rounding(5) * expected
    assert int(hits) == (logits.argmax(1) == labels).sum()
    cfg = get_config('quickstart', [*TINY[5:], 'epochs=1', 'head=li_arcface', 'head.margin=0.3'], str(synthetic))
    assert api.train(cfg, recipe='quickstart', ckpt_dir=str(tmp_path / 'ckpt'), device_target='CPU') == 6


def test_the_example_of_a_backbone(tmp_path, synthetic, monkeypatch):
    monkeypatch.setitem(BACKBONES, 'plainnet', example('PlainNet', tmp_path, monkeypatch))
    cfg = get_config('quickstart', [*TINY[5:], 'epochs=1', 'backbone=plainnet', 'backbone.width=4'], str(synthetic))
    assert api.train(cfg, recipe='quickstart', ckpt_dir=str(tmp_path / 'ckpt'), device_target='CPU') == 6
    network = api.load_network(str(tmp_path / 'ckpt'), device_target='CPU')
    features = network(np.random.default_rng(0).random((3, 1, 16, 16), np.float32))
    assert network.name == 'plainnet' and features.shape == (3, 512) and np.isfinite(features).all()
    trained = checkpoint.load_backbone(checkpoint.newest(str(tmp_path / 'ckpt')), None, None)
    metadata = api.export(trained, str(tmp_path / 'model'), batch_size=2)
    assert metadata['input']['shape'] == [2, 1, 16, 16] and (tmp_path / 'model.mindir').exists()
    assert build_backbone('plainnet', image_size=112).fc.in_channels == 8 * 16 * 7 * 7


def test_the_example_of_a_protocol(tmp_path, synthetic, monkeypatch, capsys):
    monkeypatch.setitem(PROTOCOLS, 'rank1', example('Rank1', tmp_path, monkeypatch)())
    cfg = get_config(dataset_path=str(synthetic))
    names, labels = PROTOCOLS['rank1'].images(cfg)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((len(names), 16)).astype(np.float32)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest = [max((j for j in range(len(names)) if j != i), key=lambda j: units[i] @ units[j])
               for i in range(len(names))]
    expected = 100 * np.mean(labels[nearest] == labels)
    assert api.score('rank1', features, names, cfg).numbers['rank1'] == pytest.approx(expected, abs=1e-9)
    apart = np.eye(labels.max() + 1, dtype=np.float32)[labels] + 0.01 * rng.random((len(names), 1), np.float32)
    np.save(tmp_path / 'apart.npy', apart)
    import evaluate
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, (
        '--protocol', 'rank1', 'lfw', '--features', tmp_path / 'apart.npy', '--dataset_path', synthetic, '--json',
        tmp_path / 'j', '--report', tmp_path / 'report'))])
    evaluate.main()
    assert 'Rank-1, percent:  100.0000' in capsys.readouterr().out
    assert json.loads((tmp_path / 'j').read_text())['rank1']['rank1'] == 100
    assert 'Rank-1' in (tmp_path / 'report' / 'report.html').read_text()

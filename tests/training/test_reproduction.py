"""The card of a training: written, kept by a run that goes on, verified, and what differs is said."""
import json
import os
import shutil

import pytest
from conftest import TINY, run_in_process, script, weights_of

from src import device
from src.config import get_config
from src.data.pack import pack
from src.training import repeat, reproduction
from src.training.checkpoint import newest
from src.training.guards import StopSignals
from src.training.reproduction import read_card, settings_sha256

CPU = device.Device('CPU', 0, 0, 1)


@pytest.fixture(scope='module')
def carded(synthetic, tmp_path_factory):
    """(a folder with the card of a training of 24 steps in this process, a copy of its faces that may be changed)."""
    out = tmp_path_factory.mktemp('card')
    faces = out / 'faces'
    shutil.copytree(synthetic / 'train', faces / 'train')
    shutil.copy(synthetic / 'train_list.txt', faces)
    device.set_up('CPU')
    run_in_process(get_config('quickstart', [*TINY[5:], 'epochs=4'], str(faces)), out)
    return out, faces


def card_of(folder):
    return json.loads((folder / 'card.json').read_text())


def test_a_training_writes_its_card(carded):
    out, _ = carded
    card = read_card(str(out / 'card.json'))
    assert [mark['step'] for mark in card['steps']] == [1, 2, 5, 10, 20]
    assert len({mark['weights'] for mark in card['steps']}) == 5
    assert card['settings']['batch_size'] == 8 and card['recipe'] == 'quickstart' and card['seed'] == 1
    assert card['data']['num_pictures'] == 48 == len(card['data']['rows']) and card['versions']['mindspore']
    assert card['machine']['ranks'] == 1 and card['machine']['cores'] >= 1 and card['machine']['processor']
    last = card['last_checkpoint']
    metadata = json.loads((out / last['file'].replace('.ckpt', '.json')).read_text())
    assert last['step'] == 24 == metadata['step'] and last['sha256'] == metadata['sha256']


def test_the_same_training_is_equal(carded, tmp_path):
    out, faces = carded
    shutil.copytree(faces, tmp_path / 'elsewhere')
    shutil.copy(out / 'card.json', tmp_path)
    result = repeat.verify(str(tmp_path / 'card.json'), str(tmp_path / 'elsewhere'), CPU)
    assert result.difference is None and result.steps == [1, 2, 5, 10, 20] and len(result.notes) == 1
    assert 'checkpoint' in result.notes[0]


def test_one_flipped_bit_in_one_picture_is_named(carded, tmp_path):
    out, faces = carded
    shutil.copytree(faces, tmp_path / 'faces')
    name = (faces / 'train_list.txt').read_text().splitlines()[30].split()[0]
    picture = tmp_path / 'faces' / 'train' / name
    data = bytearray(picture.read_bytes())
    data[-1] ^= 1                                    # in the checksum at the file's end: the face is the same
    picture.write_bytes(bytes(data))
    difference = repeat.verify(str(out / 'card.json'), str(tmp_path / 'faces'), CPU).difference
    assert difference.startswith(f'data: picture 31 of the list, {name}')
    os.remove(picture)
    difference = repeat.verify(str(out / 'card.json'), str(tmp_path / 'faces'), CPU).difference
    assert difference.startswith(f'data: picture 31 of the list, {name}, which cannot be opened')


@pytest.mark.parametrize('what', ['fewer', 'label', 'name'])
def test_another_list_is_said(carded, tmp_path, what):
    out, faces = carded
    shutil.copytree(faces, tmp_path / 'faces')
    file = tmp_path / 'faces' / 'train_list.txt'
    lines = file.read_text().splitlines()
    if what == 'fewer':
        lines = lines[:-1]
    elif what == 'label':
        lines[7] = lines[7].split()[0] + ' 1'
    else:
        (tmp_path / 'faces' / 'train' / lines[7].split()[0]).rename(tmp_path / 'faces' / 'train' / 'x.png')
        lines[7] = 'x.png ' + lines[7].split()[1]
    file.write_text('\n'.join(lines) + '\n')
    difference = repeat.verify(str(out / 'card.json'), str(tmp_path / 'faces'), CPU).difference
    assert {'fewer': 'data: 47 pictures here, 48 in the card', 'label': 'data: picture 8 of the list',
            'name': 'data: the list'}[what] in difference


def changed_card(carded, tmp_path, change, seal=False):
    out, faces = carded
    card = card_of(out)
    change(card)
    if seal:
        card['settings_sha256'] = settings_sha256(card['settings'])
    (tmp_path / 'card.json').write_text(json.dumps(card))
    return str(tmp_path / 'card.json'), str(faces)


def test_settings_and_versions_are_compared(carded, tmp_path):
    out, faces = carded
    card = changed_card(carded, tmp_path, lambda card: card['settings'].update(lr=0.002))
    assert repeat.verify(*card, CPU).difference.startswith('settings: ')
    card = changed_card(carded, tmp_path, lambda card: card['settings'].update(unheard_of=1), seal=True)
    assert 'settings: the card has unheard_of' in repeat.verify(*card, CPU).difference
    card = changed_card(carded, tmp_path, lambda card: card['settings'].pop('clip_norm'), seal=True)
    assert 'settings: the card does not have clip_norm' in repeat.verify(*card, CPU).difference
    card = changed_card(carded, tmp_path, lambda card: card['versions'].update(mindspore='1.2.3'))
    assert repeat.verify(*card, CPU).difference.startswith('versions: mindspore 1.2.3 in the card')
    card = changed_card(carded, tmp_path, lambda card: card['machine'].update(target='Ascend'))
    assert repeat.verify(*card, CPU).difference == 'machine: Ascend in the card, CPU here'
    own = get_config('quickstart', [*TINY[5:], 'epochs=4', 'lr=0.5', 'num_workers=7'], str(faces))
    assert repeat.verify(str(out / 'card.json'), str(faces), CPU, own=own).difference == (
        'settings: lr 0.001 in the card, 0.5 here')


def test_the_first_step_that_differs_is_said(carded, tmp_path):
    def other_weights(card):
        for mark in card['steps'][2:]:
            mark['weights'] = '0' * 64
    result = repeat.verify(*changed_card(carded, tmp_path, other_weights), CPU)
    assert result.difference.startswith('step 5: ') and 'after step 2' in result.difference and result.steps == [1, 2]


def test_a_card_that_goes_on_keeps_what_is_there(carded, tmp_path, monkeypatch):
    """A run stopped after 7 steps and resumed has the card of one that was never stopped."""
    out, faces = carded
    cfg = get_config('quickstart', [*TINY[5:], 'epochs=4'], str(faces))
    stop = iter([None] * 7)
    monkeypatch.setattr(StopSignals, 'number', property(lambda self: next(stop, 15), lambda self, value: None),
                        raising=False)
    with pytest.raises(SystemExit):
        run_in_process(cfg, tmp_path)
    monkeypatch.undo()
    before = card_of(tmp_path)
    stopped = before['last_checkpoint']['step']
    assert 0 < stopped < 20 and [mark['step'] for mark in before['steps']] == [
        step for step in (1, 2, 5, 10, 20) if step <= stopped]
    run_in_process(cfg, tmp_path, resume='auto')
    card = card_of(tmp_path)
    assert card['resumed'] == [{'step': stopped, 'differs': []}] and card['data']
    assert card['steps'][:len(before['steps'])] == before['steps']
    # bit for bit the same run
    assert card['steps'] == card_of(out)['steps']
    assert card['last_checkpoint']['weights'] == card_of(out)['last_checkpoint']['weights']


def test_a_run_that_goes_on_with_other_settings_adds_no_steps(carded, tmp_path, monkeypatch):
    out, faces = carded
    cfg = get_config('quickstart', [*TINY[5:], 'epochs=1'], str(faces))
    run_in_process(cfg, tmp_path)
    first = card_of(tmp_path)
    assert [mark['step'] for mark in first['steps']] == [1, 2, 5, 6]
    run_in_process(get_config('quickstart', [*TINY[5:], 'epochs=4'], str(faces)), tmp_path, resume='auto')
    card = card_of(tmp_path)
    assert card['steps'] == first['steps'] and card['resumed'] == [{'step': 6, 'differs': ['settings_sha256']}]
    assert card['last_checkpoint']['step'] == 24


def test_a_pack_and_other_weights_to_start_from(carded, tmp_path):
    out, faces = carded
    pack(str(faces / 'train'), str(faces / 'train_list.txt'), str(tmp_path / 'p' / 'pack'), size=18, num_shards=2,
         workers=1)
    start = newest(str(out))
    cfg = get_config('quickstart', [*TINY[5:], 'epochs=1', 'train_list=p/pack.json'], str(tmp_path))
    run_in_process(cfg, tmp_path / 'ckpt', finetune=start)
    card = str(tmp_path / 'ckpt' / 'card.json')
    assert repeat.verify(card, str(tmp_path), CPU, finetune=start).difference is None
    with pytest.raises(FileNotFoundError, match='--finetune'):
        repeat.verify(card, str(tmp_path), CPU)
    with pytest.raises(ValueError, match='not the weights'):
        repeat.verify(card, str(tmp_path), CPU, finetune=str(out / 'lightcnn-4_2.ckpt'))


def replace(key, value):
    return lambda card: card.update({key: value})


@pytest.mark.parametrize('change', [
    replace('format', 2), replace('steps', [{'step': 2, 'weights': '0' * 64}, {'step': 1, 'weights': '0' * 64}]),
    replace('steps', [{'step': 10**9, 'weights': '0' * 64}]), replace('steps', [5]), replace('steps', 'x'),
    replace('steps', [{'step': 1, 'weights': '../x'}]), replace('data', 5), replace('settings', []),
    replace('started_from', {'file': '../../etc/passwd', 'sha256': '0' * 64}), replace('machine', {}),
    replace('last_checkpoint', {'file': '/etc/passwd', 'step': 1, 'sha256': '0' * 64}), replace('versions', {'a': []}),
    replace('stage', {'number': 3, 'of': 2}), lambda card: card.pop('seed'), lambda card: card['data'].pop('rows')])
def test_what_is_no_card_is_refused(carded, tmp_path, change):
    with pytest.raises(ValueError, match='not a reproduction card'):
        repeat.verify(*changed_card(carded, tmp_path, change), CPU)


@pytest.mark.parametrize('settings', [{'num_classes': 10**8}, {'lr': 'x'}, {'image_size': 10**6}, {'batch_size': -1},
                                      {'train_list': 5}, {'backbone_options': [1]}])
def test_settings_of_a_card_are_checked(carded, tmp_path, settings):
    with pytest.raises(ValueError):
        repeat.verify(*changed_card(carded, tmp_path, lambda card: card['settings'].update(settings), seal=True), CPU)


def test_cards_without_pictures_steps_or_ranks(carded, tmp_path):
    for change, said in ((replace('data', None), 'no digests'), (replace('steps', []), 'no weights'),
                         (lambda card: card['machine'].update(ranks=2), '--worker_num=2')):
        with pytest.raises(ValueError, match=said):
            repeat.verify(*changed_card(carded, tmp_path, change), CPU)


def test_a_card_names_no_file_that_is_written(carded):
    out, faces = carded
    card = card_of(out)
    card['settings']['progress_file'] = str(out / 'written')
    assert repeat.settings_of(card, str(faces)).progress_file == ''


def test_files_are_looked_for_under_the_folder_only(tmp_path):
    (tmp_path / 'a' / 'train').mkdir(parents=True)
    assert repeat.located('/x/a/train', str(tmp_path)) == str(tmp_path / 'a' / 'train')
    assert repeat.located('../../etc/passwd', str(tmp_path)) == str(tmp_path / 'passwd')
    assert repeat.located('/etc/passwd', str(tmp_path)) == str(tmp_path / 'passwd')


def test_the_hash_tells_every_bit_of_every_parameter(carded):
    class Held:
        def __init__(self, name, array):
            self.name, self.array = name, array

        def asnumpy(self):
            return self.array

    class Step:
        weights, state = [Held(name, array) for name, array in weights_of(newest(str(carded[0]))).items()], []

    first = reproduction.weights_sha256(Step)
    Step.weights.reverse()
    assert reproduction.weights_sha256(Step) == first
    name = max(Step.weights, key=lambda held: held.array.size)
    name.array = name.array.copy()
    name.array.view('u1').reshape(-1)[5] ^= 1
    assert reproduction.weights_sha256(Step) != first


def test_the_command(carded, tmp_path):
    out, faces = carded
    done = script('verify.py', out / 'card.json', '--dataset_path', faces, '--device_target', 'CPU')
    assert done.returncode == 0 and 'equal: ' in done.stdout and 'note: ' not in done.stdout, done.stdout + done.stderr
    done = script('verify.py', out / 'card.json', '--dataset_path', faces, '--device_target', 'CPU', '--recipe',
                  'quickstart')
    assert done.returncode == 1 and 'differs: settings: ' in done.stdout
    done = script('verify.py', tmp_path / 'no.json', '--dataset_path', faces)
    assert done.returncode == 2 and 'error: ' in done.stderr

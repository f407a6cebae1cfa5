"""Heads that compare faces get batches with genuine pairs, or say in one line why not; and such trainings run."""
import numpy as np
import pytest
from conftest import run_in_process
from toy_backbone import NAME as TOY
from toy_backbone import register

from src.config import get_config
from src.dataset import TrainingBatches
from src.heads import build_head
from src.training.genuine import batch_notes
from src.training.log import read_log


class Faces:
    """Labels of a training set."""

    list_file = 'list.txt'

    def __init__(self, labels):
        self.labels = np.asarray(labels, np.int32)

    def __len__(self):
        return len(self.labels)


def notes(labels, *settings, **options):
    cfg = get_config('quickstart', [*settings, 'epochs=1'])
    return batch_notes(build_head(cfg.loss, 9, 4, **options), TrainingBatches(Faces(labels), cfg))


def test_batches_without_any_pair_are_refused():
    with pytest.raises(ValueError, match='triplet compares .*none of the first 10 batches .*faces_per_person=4'):
        notes(np.arange(40), 'head=triplet', 'batch_size=4')


def test_a_share_without_pairs_is_a_warning():
    told = notes(np.arange(400) // 4, 'head=contrastive', 'batch_size=8')
    assert len(told) == 1 and told[0].startswith('warning: ') and 'of the first 50 batches hold no two' in told[0]
    assert notes(np.arange(40) % 2, 'head=triplet', 'batch_size=4') == []
    assert notes(np.arange(40), 'head=arcface', 'batch_size=4') == []


def test_people_and_faces_are_told():
    told = notes([0, 0, 0, 1, 1, 2, 2, 2], 'head=arcface', 'batch_size=6', 'faces_per_person=3')
    assert told == ['batches of 2 people x 3 faces; of 1 people with fewer faces some come twice']


@pytest.mark.parametrize('head, settings, options, message', [
    ('mps', ['faces_per_person=4'], {}, 'mps .*faces_per_person=2'), ('mps', [], {}, 'mps .*faces_per_person=2'),
    ('triplet', ['faces_per_person=4'], {'mining': 'given'}, 'mining=given'),
    ('contrastive', [], {'pairs': 'halves'}, 'pairs=halves')])
def test_batches_of_another_layout_are_refused(head, settings, options, message):
    with pytest.raises(ValueError, match=message):
        notes(np.arange(40) % 4, f'head={head}', 'batch_size=8', *settings, **options)


def test_the_setting_is_checked():
    for text in ('faces_per_person=1', 'faces_per_person=3'):
        with pytest.raises(ValueError, match='faces_per_person'):
            get_config('quickstart', ['batch_size=8', text])


@pytest.mark.parametrize('head, num_faces', [('triplet', 4), ('contrastive', 2), ('mps', 2)])
def test_heads_that_compare_faces_train(synthetic, tmp_path, head, num_faces):
    register()
    settings = [f'network_type={TOY}', f'head={head}', f'faces_per_person={num_faces}', 'num_classes=6', 'lr=0.005',
                'image_size=16', 'resize_size=18', 'batch_size=8', 'epochs=2', 'warmup_steps=2', 'log_steps=6']
    run_in_process(get_config('quickstart', settings, str(synthetic)), tmp_path)
    rows = read_log(str(tmp_path / 'train_log.jsonl'))
    assert [row['step'] for row in rows] == [6, 12] and all(np.isfinite(row['loss']) for row in rows)
    assert rows[-1]['embedding_norm'] > 0 and -1 <= rows[-1]['target_cosine'] <= 1

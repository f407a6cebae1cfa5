from pathlib import Path

import numpy as np
import pytest
from easydict import EasyDict as edict

from src.config import get_config
from src.data.low_quality import KINDS
from src.dataset import FaceFolder, TrainingBatches, check_images, prefetch


@pytest.fixture
def cfg(synthetic):
    return get_config('quickstart', ['num_classes=6', 'batch_size=8', 'epochs=3', 'image_size=128', 'resize_size=144'],
                      str(synthetic))


def test_a_batch(cfg):
    images, labels, noise = TrainingBatches(FaceFolder(cfg), cfg)[0]
    assert images.shape == (8, 1, 128, 128) and images.dtype == np.float32 and 0 <= images.min() <= images.max() <= 1
    assert labels.shape == (8,) and labels.dtype == np.int32
    assert noise.shape == (8, 256) and noise.dtype == np.float32 and 0 <= noise.min() < noise.max() < 1


def test_an_epoch_is_a_permutation(cfg):
    batches = TrainingBatches(FaceFolder(cfg), cfg)
    assert len(batches) == 18 and batches.steps_per_epoch == 6
    for epoch in range(2):
        labels = np.concatenate([batches[6 * epoch + i][1] for i in range(6)])
        assert np.bincount(labels).tolist() == [8] * 6
    assert not np.array_equal(batches.permutation(0), batches.permutation(1))


@pytest.mark.parametrize('augment', ['crop_flip', 'strong'])
def test_batches_depend_on_the_step_alone(cfg, augment):
    cfg.augment = augment
    one, other = TrainingBatches(FaceFolder(cfg), cfg), TrainingBatches(FaceFolder(cfg), cfg)
    for step in (11, 2, 7):
        other[step]
    assert all(np.array_equal(a, b) for a, b in zip(one[7], other[7]))
    assert not np.array_equal(one[7][0], one[8][0])


@pytest.mark.parametrize('augment', ['crop_flip', 'strong'])
def test_ranks_share_what_one_process_sees(cfg, augment):
    cfg.augment = augment
    whole = TrainingBatches(FaceFolder(cfg), cfg)[3]
    cfg.batch_size = 2
    parts = [TrainingBatches(FaceFolder(cfg), cfg, rank, 4)[3] for rank in range(4)]
    assert all(np.array_equal(np.concatenate(p), w) for p, w in zip(zip(*parts), whole))


@pytest.mark.parametrize('augment', ['crop_flip', 'strong'])
@pytest.mark.parametrize('setting', ['mask', 'low_quality'])
def test_masks_and_low_quality_draw_numbers_of_their_own(cfg, augment, setting):
    """About the share of faces is changed; all other numbers and faces stay what they are; ranks agree."""
    cfg.augment, cfg.batch_size = augment, 8
    plain, masked = [], []
    for share, batches in ((0.0, plain), (0.4, masked)):
        cfg[setting] = share
        batches += [TrainingBatches(FaceFolder(cfg), cfg)[step] for step in range(18)]
    for one, other in zip(plain, masked):
        assert np.array_equal(one[1], other[1]) and np.array_equal(one[2], other[2])
    differs = [(a != b).any((1, 2, 3)) for one, other in zip(plain, masked) for a, b in [(one[0], other[0])]]
    # 144 draws, five standard deviations; a face of low quality has none of six kinds with probability 0.65 ** 6
    share = 0.4 if setting == 'mask' else 0.4 * (1 - 0.65 ** 6)
    assert abs(np.mean(differs) - share) < 0.21
    cfg.batch_size = 2
    parts = [TrainingBatches(FaceFolder(cfg), cfg, rank, 4)[3] for rank in range(4)]
    assert all(np.array_equal(np.concatenate(p), w) for p, w in zip(zip(*parts), masked[3]))


def test_low_quality_is_as_strong_as_is_said(cfg):
    def batch(*settings):
        changed = edict({**cfg, **dict(settings)})
        return TrainingBatches(FaceFolder(cfg), changed)[2][0]
    plain = batch()
    off = [(f'low_quality_{kind}', 0.0) for kind in KINDS]
    assert np.array_equal(batch(('low_quality', 0.5), *off), plain)
    assert not np.array_equal(batch(('low_quality', 0.9), *off, ('low_quality_light', 1.0)), plain)


@pytest.mark.parametrize('in_halves', [False, True])
def test_ranks_share_batches_of_people_and_faces(cfg, in_halves):
    cfg.faces_per_person = 2
    whole = TrainingBatches(FaceFolder(cfg), cfg, in_halves=in_halves)
    cfg.batch_size = 4
    ranks = [TrainingBatches(FaceFolder(cfg), cfg, rank, 2, in_halves=in_halves) for rank in range(2)]
    for step in (0, 5):
        parts, order = [rank[step] for rank in ranks], np.argsort(np.concatenate([np.arange(8)[r.mine] for r in ranks]))
        assert in_halves or (order == np.arange(8)).all()
        for part, every in zip(zip(*parts), whole[step]):
            assert np.array_equal(np.concatenate(part)[order], every)
        for _, labels, _ in parts:
            pairs = labels.reshape(2, 2).T if in_halves else labels.reshape(2, 2)
            assert (pairs[:, 0] == pairs[:, 1]).all() and pairs[0, 0] != pairs[1, 0]


def test_crops_come_from_the_picture(cfg):
    faces = FaceFolder(cfg)
    batches = TrainingBatches(faces, cfg)
    images = np.rint(batches[0][0][:, 0] * 255).astype(np.uint8)
    for image, row in zip(images, batches.permutation(0)):
        face = faces.read([row])[0]
        crops = [face[t:t + 128, x:x + 128] for t in range(17) for x in range(17)]
        assert any(np.array_equal(image, c) or np.array_equal(image[:, ::-1], c) for c in crops)


def test_memory_and_disk_give_the_same(cfg):
    kept = TrainingBatches(FaceFolder(cfg), cfg)[1]
    cfg.cache_images_mb = 0
    assert all(np.array_equal(a, b) for a, b in zip(TrainingBatches(FaceFolder(cfg), cfg)[1], kept))


@pytest.fixture
def spoiled(cfg, tmp_path):
    """A list of 48 good and 2 bad images."""
    lines = Path(cfg.train_list).read_text() + 'none/0.png 0\ncut.png 1\n'
    (tmp_path / 'list.txt').write_text(lines)
    whole = Path(cfg.data_path, '0000', '0000.png').read_bytes()
    link = tmp_path / 'train'
    link.mkdir()
    for person in range(6):
        (link / f'{person:04d}').symlink_to(f'{cfg.data_path}/{person:04d}')
    (link / 'cut.png').write_bytes(whole[:500])
    cfg.train_list, cfg.data_path = str(tmp_path / 'list.txt'), str(link)
    return cfg


def test_bad_images_are_named_counted_and_left_out(spoiled, tmp_path):
    for _ in range(2):                                  # the second time from the verdict that was kept
        faces = FaceFolder(spoiled)
        assert check_images(faces, 2, str(tmp_path), 0.05) == 2 and len(faces) == 48
    lines = (tmp_path / 'bad_images.txt').read_text().splitlines()
    assert [line.split(': ')[0].rpartition('/')[2] for line in lines] == ['0.png', 'cut.png']
    assert len(TrainingBatches(faces, spoiled)) == 18


def test_too_many_bad_images_stop_the_run(spoiled, tmp_path):
    with pytest.raises(ValueError, match='2 of 50 .*max_bad_images=0.01.*0.png'):
        check_images(FaceFolder(spoiled), 2, str(tmp_path), 0.01)
    assert len((tmp_path / 'bad_images.txt').read_text().splitlines()) == 2


def test_too_few_images_for_a_batch(cfg):
    cfg.batch_size = 49
    with pytest.raises(ValueError, match='do not fill one global batch'):
        TrainingBatches(FaceFolder(cfg), cfg)


def test_prefetch_keeps_order_and_passes_errors_on():
    assert list(prefetch(lambda x: x * x, range(20), 3)) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda x: 1 / x, [1, 0, 2], 2))

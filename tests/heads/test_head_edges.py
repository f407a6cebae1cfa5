"""Every head with the least that it can be given: one row, two classes, one number; other types; other names."""
import mindspore as ms
import numpy as np
import pytest
from head_goldens import CASES, Runner
from mindspore import Tensor

from src.heads import ALIASES, HEADS, build_head, head_class


@pytest.fixture(autouse=True)
def eager_mode():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('rows, size', [(1, 1), (2, 1)])
def test_the_least_of_everything(name, rows, size):
    features, labels = np.full((rows, size), 2.0, np.float16), np.arange(rows)[::-1].astype(np.int64)
    found = Runner(build_head(name, 2, size).set_train()).run(features, labels.copy())
    assert all(np.isfinite(value).all() for value in found.values()) and 0 <= found['hits'] <= rows
    assert found['grad_features'].shape == (rows, size)


@pytest.mark.parametrize('name', HEADS)
def test_types_of_labels_and_features_do_not_matter(name):
    rng = np.random.default_rng(0)
    features = rng.integers(-8, 9, (8, 4)).astype(np.float16)                # exact in every type
    labels = rng.permutation(np.arange(8) // 2)
    types = (np.float32, np.int32), (np.float32, np.int64), (np.float16, np.int32), (np.float32, np.uint8)
    head = build_head(name, 5, 4).set_train(False)
    found = [head(Tensor(features.astype(x)), Tensor(labels.astype(y))) for x, y in types]
    losses, hits = zip(*([float(x.asnumpy()) for x in pair] for pair in found))
    assert losses == pytest.approx(np.full(4, losses[0]), rel=1e-6) and len(set(hits)) == 1


def test_a_head_goes_by_its_names_in_papers_and_repositories():
    papers = {'AM-Softmax': 'cosface', 'ArcFace': 'arcface', 'CircleLoss': 'circle', 'coco': 'normface',
              'MV-Softmax': 'mv_softmax', 'SphereFace-R v2': 'sphereface_r', 'L-GM': 'lgm', 'Ring loss': 'ring',
              'spherefaceRv2': 'sphereface_r', 'ArcNegFace': 'arcnegface'}
    for given, name in papers.items():
        assert head_class(given) is HEADS[name], given
    for key, case in CASES.items():
        family = key.partition('.')[2].split('_')[0]
        if family not in ('margin', 'type0', 'type2', 'type4', 'atriplet', 'mv', 'unified', 'svx', 'am', 'adam'):
            assert issubclass(head_class(family), head_class(case.head)) or key == 'insight.combined_1_0.3_0.2', key
    for other, name in ALIASES.items():
        assert head_class(other) is HEADS[name]


@pytest.mark.parametrize('name, sizes, options, message', [
    ('arcface', (5, 4), {'margin': 3.5}, 'margin'), ('arcface', (5, 4), {'hard_region': 'steep'}, 'hard_region'),
    ('cosface', (5, 4), {'scale': 'large'}, 'scale'), ('triplet', (5, 4), {'mining': 'hard'}, 'mining'),
    ('adaface', (5, 4), {'h': 0.3}, 'no option'), ('arcfase', (5, 4), {}, 'unknown head'),
    ('arcface', (0, 4), {}, 'num_classes=0'), ('arcface', (5, 2.5), {}, 'embedding_size=2.5')])
def test_what_cannot_be_is_one_clear_line(name, sizes, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_head(name, *sizes, **options)
    assert '\n' not in str(error.value)

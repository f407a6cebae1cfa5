"""Which golden numbers of the original programs belong to which head with which options, and how a head is run.

../shared/goldens/heads.md says how the numbers were made. Every key of the file is in CASES or in LEFT_OUT.
"""
from functools import lru_cache
from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest
from conftest import PROJECT
from mindspore import Tensor, nn

from src.heads import build_head
from src.initializers import Init

GOLDENS = PROJECT.parent / 'shared' / 'goldens' / 'heads.npz'
NUM_CLASSES, SIZE = 40, 32
LINEAR = {'scale': 64.0, 'hard_region': 'linear'}
STRAIGHT = {'derivative': 'straight_through'}
MOVED = np.linspace(-0.05, 1.05, 40, dtype=np.float32)


class Case(NamedTuple):
    """A golden key: the head, its options, and what to set before the call ({parameter: array}, scale of inputs)."""

    head: str
    options: dict = {}
    values: dict = {}                    # {parameter: array, or a number to multiply the class vectors with}
    features: float = 1.0                # what the features are multiplied with
    gradients: dict = {}                 # {golden key: our parameter}, beside grad_features and grad_weight
    states: dict = {}                    # {golden key: our parameter}
    layout: str = 'features'             # or what the inputs of pair losses are
    saturates: bool = False              # whether the golden loss of a sample ends at -ln(1e-30)


def _margin(m1, m2, m3, **more):
    return {'scale': 64.0, 'm1': float(m1), 'm2': float(m2), 'm3': float(m3), **more}


ADAFACE = {'batch_mean': 'batch_mean', 'batch_std': 'batch_std'}
MAGFACE = {'magnitude': 20.0, 'hard_region': 'facexzoo'}
SPHERE = {'margin': 4.0, 'scale': 64.0}
EXACT_SPHERE = {'margin': 1.7, 'scale': 32.0, 'anneal_start': 0.0, 'anneal_min': 0.0}
CENTERS = {'weight': 0.05, 'penalties.centers': 3.0}
UNIFIED_BIAS = {'bias': np.array([np.log(400)], np.float32)}
PLAIN = {'pairs': 'halves', 'normalise': False}

CASES = {
    'facex.am_softmax': Case('am_softmax', {'scale': 32, 'margin': 0.35}),
    'facex.arcface': Case('arcface', {'scale': 32, 'margin': 0.35, 'hard_region': 'facexzoo'}),
    'facex.arcface_m05_am01_s64': Case('arcface', {'scale': 64, 'margin': 0.5, 'hard_region': 'facexzoo',
                                                   'margin_am': 0.1}),
    'facex.adacos': Case('adacos', states={'scale': 'scale'}),
    'facex.adam_softmax': Case('adam_softmax', {'scale': 32.0, 'pressure': 70.0}, {'margins': MOVED},
                               gradients={'grad_adam': 'margins'}, states={'adam_after': 'margins'}),
    'facex.arcneg': Case('arcnegface', {'margin': 0.5, 'scale': 64}),
    'facex.circle': Case('circle', {'margin': 0.25, 'scale': 256}),
    'facex.curricular': Case('curricularface', {'margin': 0.5, 'scale': 64}, states={'t': 't'}),
    'facex.mv_softmax_am': Case('mv_softmax', {'margin': 0.35, 'mv_weight': 1.12, 'scale': 32}),
    'facex.mv_softmax_arc': Case('mv_arc_softmax', {'margin': 0.35, 'mv_weight': 1.12, 'scale': 32}),
    'facex.magface': Case('magface', MAGFACE),
    'facex.magface_la5_ua30': Case('magface', {**MAGFACE, 'low_norm': 5.0, 'high_norm': 30.0}),
    'facex.npcface': Case('npcface', {'margin': 0.35, 'scale': 32}),
    'facex.contrastive_hardneg_m1': Case('contrastive', {'margin': 1.0}),
    'facex.contrastive_hardneg_m2.5': Case('contrastive', {'margin': 2.5}),
    'facex.triplet_hardest_m0.3': Case('triplet', {'margin': 0.3, 'mining': 'hardest'}),
    'facex.triplet_hardest_m2.5': Case('triplet', {'margin': 2.5, 'mining': 'hardest'}),
    'facex.triplet_semihard_first_m0.3': Case('triplet', {'margin': 0.3, 'mining': 'semihard', 'choice': 'first'}),
    'facex.triplet_semihard_first_m2.5': Case('triplet', {'margin': 2.5, 'mining': 'semihard', 'choice': 'first'}),
    'facex.triplet_all_m0.3': Case('triplet', {'margin': 0.3, 'mining': 'all'}),
    'insight.combined_1_0.5_0': Case('combined', _margin(1, 0.5, 0, **STRAIGHT), saturates=True),
    'insight.combined_1_0_0.4': Case('combined', _margin(1, 0, 0.4, **STRAIGHT), saturates=True),
    'insight.combined_1_0_0.4_filter0.4': Case('combined', _margin(1, 0, 0.4, filter=0.4), saturates=True),
    'insight.combined_s4_1_0_0.4_filter0.4': Case('combined', {**_margin(1, 0, 0.4, filter=0.4), 'scale': 4.0},
                                                  saturates=True),
    'insight.combined_1_0.5_0_filter0.4': Case('combined', _margin(1, 0.5, 0, filter=0.4, **STRAIGHT), saturates=True),
    'insight.combined_1_0.3_0.2': Case('cosface', {'scale': 64.0, 'margin': 0.2}, saturates=True),
    'exp.expface_m0.7': Case('expface', STRAIGHT),
    'exp.arcface': Case('arcface', {'hard_region': 'none', **STRAIGHT}),
    'exp.sphereface_m1.7_s32': Case('sphereface', {**EXACT_SPHERE, **STRAIGHT}),
    'exp.spherefaceRv2_m1.4_s60': Case('sphereface_r', STRAIGHT),
    'exp.naiveface': Case('normface', {'scale': 64}),
    'exp.magface': Case('magface', {'magnitude': 20.0}),
    'exp.curricular': Case('curricularface', {'kernel': 'expface'}, states={'t': 't'}),
    'exp.unified_cosface': Case('unified_cosface', {}, UNIFIED_BIAS, gradients={'grad_bias': 'bias'},
                                states={'bias': 'bias'}),
    'exp.unified_expface': Case('unified_expface', STRAIGHT, UNIFIED_BIAS, gradients={'grad_bias': 'bias'},
                                states={'bias': 'bias'}),
    'adaface.adaface_t0.01': Case('adaface', {'momentum': 0.01}, states=ADAFACE),
    'adaface.adaface_t1': Case('adaface', {'momentum': 1.0}, states=ADAFACE),
    'adaface.arcface': Case('arcface', {'hard_region': 'clip'}),
    'adaface.cosface': Case('cosface', {'margin': 0.4}),
    'gluon.cosloss': Case('cosface', {'margin': 0.4}),
    'gluon.arcloss': Case('arcface', LINEAR),
    'gluon.arcloss_easy': Case('arcface', {'hard_region': 'easy'}),
    'gluon.l2softmax_as_written': Case('l2_softmax', {'scale': 64.0, 'reading': 'gluon', 'bias': False}),
    'gluon.asoftmax_m4': Case('sphereface', SPHERE, states={'it': 'step'}),
    'gluon.asoftmax_m2': Case('sphereface', {'margin': 2.0, 'scale': 30.0}),
    'gluon.asoftmax_m4_taylor': Case('sphereface', {**SPHERE, 'psi': 'taylor'}),
    'gluon.ringloss': Case('ring', {'ring': 0.01, 'ring_radius': 10.0}, gradients={'grad_R': 'penalties.radius'}),
    'gluon.centerloss': Case('center', {'center': 0.1}, CENTERS, gradients={'grad_centers': 'penalties.centers'}),
    'gluon.gitloss': Case('git', {'center': 0.01, 'git': 0.5}, CENTERS,
                          gradients={'grad_centers': 'penalties.centers'}),
    'gluon.cocoloss': Case('coco', {'scale': 16}, gradients={'grad_centers': 'weight'}),
    'gluon.svx_am': Case('svx_softmax', {'m3': 0.35}),
    'gluon.svx_arc': Case('svx_softmax', {'m2': 0.5, 'm3': 0.0}),
    'gluon.svx_combined': Case('svx_softmax', {'m1': 1.1, 'm2': 0.2, 'm3': 0.1}),
    'gluon.lgmloss': Case('lgm', {}, {'weight': 0.1, 'variance': np.outer(
        np.linspace(0.8, 1.2, 40), np.linspace(0.9, 1.1, 32)).astype(np.float32)}, features=0.05,
        gradients={'grad_mean': 'weight', 'grad_var': 'variance'}),
    'gluon.triplet_m1': Case('triplet', {'margin': 1.0, 'mining': 'given', 'normalise': False}, layout='three'),
    'gluon.contrastive_m1': Case('contrastive', {**PLAIN, 'pairs': 'gluon'}, layout='two'),
    'gluon.mps_m0.1': Case('mps', {'margin': 0.1, 'rule': 'gluon'}, layout='near'),
    'gluon.mps_m1': Case('mps', {'margin': 1.0, 'rule': 'gluon'}, layout='two'),
    'insight_mx.softmax': Case('softmax', {}, {'bias': np.linspace(-0.5, 0.5, 40, dtype=np.float32)},
                               gradients={'grad_bias': 'bias'}),
    'insight_mx.arcface_1_0.5_0': Case('arcface', {'hard_region': 'none'}),
    'insight_mx.cosface_1_0_0.35': Case('cosface'),
    'insight_mx.combined_1_0.3_0.2': Case('combined'),
    'insight_mx.combined_1.1_0.2_0.1': Case('combined', _margin(1.1, 0.2, 0.1)),
    'insight_mx.triplet_a0.3': Case('triplet', {'margin': 0.3, 'mining': 'given'}, layout='fifteen'),
    'insight_mx.atriplet_a0.35': Case('triplet', {'margin': 0.35, 'mining': 'given', 'distance': 'angle'},
                                      layout='fifteen'),
    'insight_old.type0_softmax_nobias': Case('softmax', {'bias': False}),
    'insight_old.type2_cosface_m0.5': Case('cosface', {'margin': 0.5}),
    'insight_old.type4_arcface': Case('arcface', LINEAR),
    'insight_old.type4_arcface_easy': Case('arcface', {'hard_region': 'easy'}),
    'formula.margin_1_0.5_0_s64': Case('combined', _margin(1, 0.5, 0)),
    'formula.margin_1_0_0.35_s64': Case('combined', _margin(1, 0, 0.35)),
    'formula.margin_1_0.3_0.2_s64': Case('combined', _margin(1, 0.3, 0.2)),
    'formula.margin_1.1_0.2_0.1_s64': Case('combined', _margin(1.1, 0.2, 0.1)),
    'formula.margin_1_0_0.5_s64': Case('combined', _margin(1, 0, 0.5)),
    'formula.softmax_bias': Case('softmax', {}, {'bias': np.linspace(-0.5, 0.5, 40, dtype=np.float32)},
                                 gradients={'grad_bias': 'bias'}),
    'formula.softmax_nobias': Case('softmax', {'bias': False}),
    'formula.expface_exact_m0.7_s64': Case('expface'),
    'formula.sphereface_exact_m1.7_s32': Case('sphereface', EXACT_SPHERE),
    'formula.asoftmax_paper_m4_lambda5': Case('sphereface', {'anneal_start': 5.0, 'anneal_rate': 0.0}),
    'formula.l2softmax_paper_alpha16': Case('l2_softmax', {'bias': False}),
    'formula.contrastive_paper_m1': Case('contrastive', PLAIN, layout='two'),
    'formula.mps_intended_m0.1': Case('mps', {'margin': 0.1}, layout='near'),
}

LEFT_OUT = {                             # {golden key: why no head has to meet it}
    'facex.sst_softmax': 'semi-siamese training is a way of training with two networks, not a head',
    'facex.sst_am_softmax': 'as above',
    'facex.sst_arc_softmax': 'as above',
    'insight.pfc_rate0.5_arcface': "sampling of classes over ranks belongs to the trainer's partial head",
    'insight.pfc_rate0.5_cosface': 'as above',
    'insight.pfc_rate0.1_arcface': 'as above',
    'insight.dist2_arcface': 'classes spread over ranks: as above; the mathematics is insight.combined_1_0.5_0',
    'exp.my_pfc_expface_rate0.5_first': 'sampling of classes: as above',
    'formula.center_paper': 'has a test of its own: it is center loss without softmax',
}


@lru_cache(None)
def goldens() -> dict:
    """Return {key: array}; the test is skipped where the shared data is absent."""
    if not GOLDENS.exists():
        pytest.skip(f"the golden files are not at {GOLDENS.parent}")
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def golden_names() -> set:
    """Return the heads of the golden file."""
    return {key.split('/')[0] for key in goldens()} - {'inputs', 'schedule', 'formula.schedule'}


def normalised(x: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def inputs(case: Case, step: int, easy: bool) -> tuple:
    """Return (features, labels) of a golden batch, as the head takes them."""
    name = '_easy' if easy else ''
    batches, labels = goldens()[f'inputs/features{name}'], goldens()[f'inputs/labels{name}']
    x = [normalised(batch.astype(np.float64)).astype(np.float32) for batch in batches]
    views = {'features': [batches[step] * np.float32(case.features)], 'fifteen': [batches[0][:15]],
             'three': x, 'two': x[:2], 'near': [x[0], x[0] + np.float32(0.8) * x[1]]}[case.layout]
    x = np.concatenate(views)
    if case.layout in ('two', 'near'):                       # label of pair i: i mod 2, 1 for the same person
        labels = np.concatenate([np.arange(16), np.where(np.arange(16) % 2, np.arange(16), 99)])
    elif case.layout in ('three', 'fifteen'):
        labels = np.zeros(len(x))
    else:
        labels = labels[step]
    return x.astype(np.float32), labels.astype(np.int32)


class Runner(nn.Cell):
    """(features, labels) -> ((loss, hits), (gradient of features, gradients of the trained parameters))."""

    def __init__(self, head: nn.Cell):
        super().__init__()
        self.head = head
        weights = ms.ParameterTuple(head.trainable_params()) if head.trainable_params() else None
        self.value_and_grad = ms.value_and_grad(head, 0, weights, has_aux=True)

    def construct(self, features, labels):
        return self.value_and_grad(features, labels)

    def run(self, features: np.ndarray, labels: np.ndarray) -> dict:
        """Return loss, hits, grad_features and a gradient for every trained parameter, by name."""
        (loss, hits), grads = self(Tensor(features), Tensor(labels))
        names = [p.name.removeprefix('head.') for p in self.head.trainable_params()]
        grads = [grads] if not names else [grads[0], *grads[1]]
        return {'loss': float(loss), 'hits': float(hits), 'grad_features': grads[0].asnumpy(),
                **{name: grad.asnumpy() for name, grad in zip(names, grads[1:])}}


def parameters(head: nn.Cell) -> dict:
    """Return {name within the head: Parameter}."""
    return {name.removeprefix('head.'): p for name, p in head.parameters_and_names()}


class GoldenHead:
    """A head with the golden class vectors, to be started afresh as often as one likes without compiling it again."""

    def __init__(self, case: Case):
        self.case = case
        self.head = build_head(case.head, NUM_CLASSES, SIZE, init=Init('xavier', 1), **case.options).set_train()
        self.first = {name: p.asnumpy().copy() for name, p in parameters(self.head).items()}
        self.runner = Runner(self.head)
        self.restart()

    def restart(self):
        """Give all parameters their values before the first call."""
        classes = goldens()['inputs/weight']
        values = {'weight': classes} if 'weight' in self.first else {}
        for name, value in self.case.values.items():
            values[name] = np.float32(value) * classes if isinstance(value, float) else value
        for name, parameter in parameters(self.head).items():
            value = np.asarray(values.get(name, self.first[name]))
            parameter.set_data(Tensor(value.reshape(parameter.shape), parameter.dtype))

    def run(self, step: int, easy: bool) -> dict:
        """Return what the head gives for a golden batch, and its states afterwards, by golden key."""
        case = self.case
        features, labels = inputs(case, step, easy)
        ours = self.runner.run(features, labels)
        if 'weight' in ours:
            ours['grad_weight'] = ours['weight']
        if case.layout in ('two', 'three', 'near'):
            parts = np.split(ours['grad_features'], len(features) // 16)
            ours.update({f'grad_{i}': part for i, part in enumerate(parts)})
        ours.update({key: ours[name] for key, name in case.gradients.items()})
        now = parameters(self.head)
        ours.update({key: now[name].asnumpy() for key, name in case.states.items()})
        if case.saturates:
            ours['loss'] = np.mean([min(loss, -np.log(1e-30)) for loss in self.sample_losses(features, labels)])
        return ours

    def sample_losses(self, features: np.ndarray, labels: np.ndarray) -> list:
        """Return the loss of every sample."""
        self.alone = getattr(self, 'alone', None) or Runner(self.head)
        return [self.alone.run(features[i:i + 1], labels[i:i + 1])['loss'] for i in range(len(features))]

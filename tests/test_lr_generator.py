import numpy as np
import pytest
from conftest import FACES

from src.config import get_config
from src.lr_generator import Mhlr, Rates, learning_rate, numbers, scale_lr

GOLDENS = FACES.parent / 'goldens' / 'heads.npz'


@pytest.fixture(scope='module')
def goldens():
    """What the original programs print, by key."""
    if not GOLDENS.exists():
        pytest.skip(f"the golden numbers are not at {GOLDENS}: they come with the real faces")
    return np.load(GOLDENS)


def test_published_steps():
    cfg = get_config()
    rates = learning_rate(np.arange(0, 80 * 5, 5), cfg, 5, 400)      # the first step of each of 80 epochs
    assert rates.dtype == np.float32
    assert np.allclose(rates[[0, 9, 10, 19, 20, 79]], [0.01, 0.01, 0.0045730505, 0.0045730505, 0.0020912791,
                                                      4.1825e-05], rtol=1e-4)


def test_warm_up_then_cosine():
    cfg = get_config(settings=['lr_schedule=cosine', 'warmup_steps=4', 'lr=1'])
    rates = learning_rate(np.arange(9), cfg, 1, 8)
    assert np.allclose(rates, [0.25, 0.481, 0.640, 0.691, 0.5, 0.309, 0.146, 0.038, 0], atol=1e-3)


def test_one_step_and_many_agree():
    cfg = get_config()
    assert learning_rate(60, cfg, 5, 400) == learning_rate(np.arange(100), cfg, 5, 400)[60]


def test_the_rate_scales_with_the_batch():
    """Eight times the recipe's batch: eight times its rate, reached over five epochs; its own batch: as it is."""
    cfg = get_config(settings=['scale_lr=true'])
    scale_lr(cfg, 128, 1024, 100)
    assert cfg.lr == 0.08 and cfg.warmup_steps == 500
    assert [learning_rate(k, cfg, 100, 8000) for k in (249, 499)] == [np.float32(0.04), np.float32(0.08)]
    cfg = get_config()
    scale_lr(cfg, 128, 128, 100)
    assert cfg.lr == 0.01 and cfg.warmup_steps == 0


ARCFACE_TORCH = ['lr=0.1', 'lr_schedule=poly', 'warmup=arcface_torch']
GLUON = ['lr=0.1', 'warmup=linear']


MULTISTEP = ['lr=0.1', 'lr_schedule=multistep', 'lr_decay=0.1']


@pytest.mark.parametrize('key, settings, num_steps, per_epoch', [
    ('poly_w100_t1000_p1', [*ARCFACE_TORCH, 'warmup_steps=100'], 1000, 1),
    ('poly_w0_t1000_p1', ARCFACE_TORCH, 1000, 1),
    ('poly_w100_t1000_p2', [*ARCFACE_TORCH, 'warmup_steps=100', 'lr_power=2'], 1000, 1),
    ('facex_multistep_10_13_16_of18', [*MULTISTEP, 'lr_epochs=10,13,16'], 18, 1),
    ('facex_sst_150_200_230_of250', [*MULTISTEP, 'lr_epochs=150,200,230'], 250, 1),
    ('adaface_12_20_24_of26', [*MULTISTEP, 'lr_steps=12,20,24'], 26, 7),
    ('exp_cosine_t1000', ['lr=0.02', 'lr_schedule=cosine'], 1000, 1),
    ('gluon_cosine_w100', [*GLUON, 'lr_schedule=cosine_after_warmup', 'lr_final=1e-6', 'warmup_steps=100',
                           'warmup_lr=0.01'], 1000, 1),
    ('gluon_poly_p2_w100', [*GLUON, 'lr_schedule=poly', 'lr_power=2', 'warmup_steps=100'], 1000, 1),
    ('gluon_poly_p0.9_w0', [*GLUON, 'lr_schedule=poly', 'lr_power=0.9'], 1000, 1),
    ('gluon_step_w50_const', [*MULTISTEP, 'lr_steps=300,600,900', 'warmup=constant', 'warmup_steps=50',
                              'warmup_lr=0.02'], 1000, 1)])
def test_schedules_of_the_well_known_repositories(goldens, key, settings, num_steps, per_epoch):
    expected = goldens[f'schedule/{key}']
    found = learning_rate(np.arange(len(expected)), get_config(settings=settings), per_epoch, num_steps)
    assert np.abs(found - expected).max() <= 2.0 ** -24 * expected.max() + 1e-12          # a float32 of the same number


def test_swin_falls_from_the_first_step_on():
    """timm's cosine is not shifted by the warm-up: the rate jumps down a little where that ends."""
    cfg = get_config(settings=['lr=5e-4', 'lr_schedule=cosine', 'lr_final=5e-6', 'warmup=linear', 'warmup_steps=50',
                               'warmup_lr=5e-7'])
    rates = learning_rate(np.arange(1001), cfg, 1, 1000)
    assert rates[0] == np.float32(5e-7) and rates[1000] == pytest.approx(5e-6) and rates[50] < rates[49] + 1e-5
    assert rates[50] == pytest.approx(5e-6 + 4.95e-4 * (1 + np.cos(0.05 * np.pi)) / 2)


def losses():
    """The losses of the golden runs."""
    steps = np.arange(20000)
    return 2 + 18 * np.exp(-steps / 3000) + 0.3 * np.random.default_rng(11).standard_normal(20000)


@pytest.mark.parametrize('key, options', [
    ('mhlr', {}), ('mhlr_tau0.01', {'tau': 0.01}),
    ('mhlr_a0.002_b0.002_l1e-4_tau0.02', {'alpha': 0.002, 'beta': 0.002, 'threshold': 1e-4, 'tau': 0.02}),
    ('fastface_mhlr', {'fastface': True}), ('fastface_mhlr_tau0.01', {'fastface': True, 'tau': 0.01})])
def test_mhlr_is_the_original(goldens, key, options):
    mhlr, rates, trends = Mhlr(20000, **options), [], []
    for step, loss in enumerate(losses()):
        rates.append(0.02 * mhlr.multiplier)
        mhlr.update(loss)
        trends.append(mhlr.state[5])
        if step == 10_000:                                       # saved and resumed: the same from here on
            state, mhlr = mhlr.state.copy(), Mhlr(20000, **options)
            mhlr.state = state
    assert np.abs(rates - goldens[f'schedule/{key}/lr']).max() <= 1e-12
    assert (np.flatnonzero(np.diff(rates)) + 1).tolist() == goldens[f'schedule/{key}/drop_steps'].tolist()
    expected = goldens[f'schedule/{key}/dema']
    assert np.abs(trends[::100] - expected).max() <= 1e-9 * np.abs(expected).max()


def test_lists_of_numbers_are_checked():
    assert numbers('') == [] and numbers('10,13') == [10, 13]
    for text in ('10;13', 'ten', '1,,2'):
        with pytest.raises(ValueError, match='whole numbers with commas'):
            numbers(text)
    with pytest.raises(ValueError, match='whole numbers with commas'):
        get_config(settings=['lr_steps=ten'])


def rates_of(losses, cfg, waits_for=()):
    """Return the rates that a training asks for: each loss comes one step late, but for steps that are waited for."""
    rates, found, done = Rates(cfg, 10, len(losses)), [], 0
    for k in range(len(losses)):
        while done < (k if k in waits_for else k - 1):
            rates.update(done + 1, losses[done])
            done += 1
        found.append(rates(k))
    return found


def test_rates_do_not_depend_on_when_a_loss_comes():
    """Fetched late or at once (before a checkpoint), and with steps that changed no weight: the same rates."""
    cfg = get_config(settings=['lr_schedule=mhlr', 'lr=0.02', 'mhlr_tau=0.05', 'mhlr_threshold=1'])
    rng = np.random.default_rng(0)
    losses = [None if rng.random() < 0.2 else 3 + 0.1 * rng.random() for _ in range(200)]
    late, settled = rates_of(losses, cfg), rates_of(losses, cfg, range(200))
    mixed = rates_of(losses, cfg, set(rng.integers(0, 200, 50)))
    assert late == settled == mixed and len(set(late)) > 3
    falls = np.flatnonzero(np.diff(late)) + 1
    for first in falls:                              # a step whose rate is halved needs no loss after two before it
        changed = [*losses[:first - 1], *(9 if loss else None for loss in losses[first - 1:])]
        assert rates_of(changed, cfg)[first] == late[first]


def test_mhlr_needs_the_loss_of_every_step():
    with pytest.raises(ValueError, match='sink_size=10: lr_schedule=mhlr needs the loss of every step'):
        get_config(settings=['lr_schedule=mhlr', 'sink_size=10'])

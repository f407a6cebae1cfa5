import numpy as np

from src.config import get_config
from src.lr_generator import learning_rate, scale_lr


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

"""Transformers, RepVGG and the wide nets give the original's embeddings from the original's weights."""
import pytest
from golden import check_embedding, table_row

KEYS = ('arcface_torch_vit_t', 'arcface_torch_vit_s', 'arcface_torch_vit_b', 'facexzoo_swin_t', 'facexzoo_swin_s',
        'facexzoo_repvgg_a0', 'facexzoo_repvgg_b0', 'facexzoo_repvgg_b1', 'facexzoo_hrnet_w18', 'facexzoo_resnest50',
        'facexzoo_attentionnet56', 'facexzoo_attentionnet92', 'facexzoo_rexnet_1.0', 'facexzoo_rexnet_1.0_se')


@pytest.mark.parametrize('key', KEYS)
def test_embedding_of_original(key):
    check_embedding(key)


@pytest.mark.parametrize('key', KEYS)
def test_number_of_parameters(key):
    """As many as the original has, without what it never reads."""
    from src.backbones import build_backbone
    held = sum(parameter.size for parameter in build_backbone(key).get_parameters()
               if not parameter.name.endswith(('moving_mean', 'moving_variance')))
    assert held == int(table_row('docs/backbones.md', key)[3].replace(',', ''))

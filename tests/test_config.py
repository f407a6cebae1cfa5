import pytest

from src.config import RECIPES, check_config, get_config, lightcnn_cfg


def test_published_defaults():
    expected = {'network_type': 'LightCNN_9Layers', 'epochs': 80, 'lr': 0.01, 'num_classes': 79077, 'momentum': 0.9,
                'weight_decay': 1e-4, 'batch_size': 128, 'image_size': 128, 'save_checkpoint_steps': 60000,
                'keep_checkpoint_max': 40, 'lfw_img_list': 'image_list_for_lfw.txt',
                'lfw_pairs_mat_path': 'mat_files/lfw_pairs.mat', 'blufr_img_list': 'image_list_for_blufr.txt',
                'blufr_config_mat_path': 'mat_files/blufr_lfw_config.mat', 'lr_decay': 0.457305051927326,
                'lr_decay_epochs': 10, 'bias_lr_mult': 2.0, 'fc2_weight_lr_mult': 10.0, 'fc2_bias_lr_mult': 20.0,
                'dropout': 0.5, 'resize_size': 144}
    assert {key: lightcnn_cfg[key] for key in expected} == expected


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_is_valid(recipe):
    check_config(get_config(recipe))


def test_recipes_do_not_touch_the_defaults():
    get_config('quickstart', ['lr=0.5'])
    assert lightcnn_cfg.lr == 0.01


@pytest.mark.parametrize('setting, message', [
    ('learning_rate=1', 'unknown setting'), ('epochs=many', 'not an integer'), ('epochs=0', 'allowed: 1 to'),
    ('lr=nan', 'out of range'), ('lr=-1', 'out of range'), ('network_type=ResNet', 'LightCNN_29Layers_v2'),
    ('image_size=100', 'multiple of 16'), ('resize_size=64', 'smaller than the crop'), ('epochs', 'key=value'),
    ('max_bad_images=2', 'out of range'), ('batch_size=1.5', 'not an integer')])
def test_a_wrong_setting_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        get_config(settings=[setting])


def test_unknown_recipe_lists_the_known():
    with pytest.raises(ValueError, match='lightcnn9_celebrities'):
        get_config('resnet')


def test_paths_are_joined_and_own_files_found(tmp_path):
    cfg = get_config(settings=['train_list=/abs/list.txt'], dataset_path=str(tmp_path))
    assert cfg.data_path == str(tmp_path / 'train') and cfg.train_list == '/abs/list.txt'
    assert cfg.lfw_pairs_mat_path == str(tmp_path / 'mat_files' / 'lfw_pairs.mat')

"""The flags that the commands share, and errors as one line."""
import argparse
import os
import sys
from collections.abc import Callable

from easydict import EasyDict as edict

from src.config import RECIPES, get_config
from src.data.face_format import FACE_FORMATS
from src.device import LAUNCHER, TARGETS


def parser(description: str, examples: str) -> argparse.ArgumentParser:
    """Return an argument parser whose --help ends with `examples`."""
    return argparse.ArgumentParser(description=description, epilog='examples:\n' + examples,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config_flags(flags: argparse.ArgumentParser, default_recipe: str = 'lightcnn9_ms1m') -> None:
    """Add --recipe, --set and --dataset_path."""
    flags.add_argument('--recipe', default=default_recipe, help=f"one of {', '.join(RECIPES)} (default %(default)s)")
    flags.add_argument('--set', nargs='+', action='extend', default=[], metavar='KEY=VALUE', dest='settings',
                       help='settings that differ from the recipe, see src/settings.py')
    flags.add_argument('--dataset_path', metavar='DIR', help='folder that relative data paths are joined to')
    flags.add_argument('--assume_format', default='', choices=list(FACE_FORMATS), help='face format '
                       'of the pictures, overrides the one that their sizes imply')


def add_device_flags(flags: argparse.ArgumentParser) -> None:
    """Add --device_target and --device_id."""
    flags.add_argument('--device_target', default='auto', help=f"auto, {', '.join(TARGETS)}; auto takes the first "
                       'of them that is available')
    flags.add_argument('--device_id', help="which card (default: the environment's DEVICE_ID, else 0)")


def add_format_flags(flags: argparse.ArgumentParser) -> None:
    """Add --face_format and --assume_format for commands that take one network."""
    flags.add_argument('--face_format', choices=list(FACE_FORMATS), help='face format of the network, overrides that '
                       'in its metadata')
    flags.add_argument('--assume_format', default='', choices=list(FACE_FORMATS), help='face format of the pictures, '
                       'overrides the one that their sizes imply')


def add_eval_flags(flags: argparse.ArgumentParser, list_key: str, list_help: str) -> None:
    """Add the flags of LFW and BLUFR: a checkpoint or ready-made features, files that override the recipe's, --json."""
    add_source_flags(flags)
    add_result_flags(flags)
    flags.add_argument('--root_path', metavar='DIR', help='image folder')
    flags.add_argument('--img_list', metavar='FILE', help=list_help, dest=list_key)
    add_protocol_file_flags(flags)


def add_protocol_file_flags(flags: argparse.ArgumentParser) -> None:
    """Add the files of LFW and BLUFR."""
    flags.add_argument('--lfw_pairs_mat', metavar='FILE', dest='lfw_pairs_mat_path', help='lfw_pairs.mat')
    flags.add_argument('--blufr_config_mat', metavar='FILE', dest='blufr_config_mat_path',
                       help='blufr_lfw_config.mat')


def add_source_flags(flags: argparse.ArgumentParser) -> None:
    """Add the source of features: a network, or a file of them."""
    add_config_flags(flags)
    add_device_flags(flags)
    source = flags.add_argument_group('models: one or several, of any of these kinds')
    source.add_argument('--resume', '--ckpt_file', metavar='CKPT', dest='ckpt', nargs='+', action='extend',
                        help='checkpoint, a folder of them (its newest one), a weight file of others, or an '
                        '.onnx or .param file of export.py')
    source.add_argument('--features', metavar='FILE.npy', nargs='+', action='extend', help='score these features, rows '
                        'in list order')
    source.add_argument('--untrained', action='store_true', help="the recipe's network with its initial weights, "
                        'not trained')
    flags.add_argument('--backend', choices=('mindspore', 'onnx', 'ncnn'), default='mindspore', help='onnx: embed '
                       'in ONNX Runtime (pip install onnx onnxruntime); ncnn: in ncnn (pip install ncnn)')
    flags.add_argument('--save_features', metavar='FILE.npy', help='keep the features, rows in list order')
    flags.add_argument('--no_cache', action='store_true', help='embed all images again; else features kept beside the '
                       'checkpoint are taken')
    flags.add_argument('--flip', choices=('none', 'sum', 'concat'), default='none', help='embed the mirror images too, '
                       'and add both embeddings or put them side by side (default %(default)s)')
    flags.add_argument('--batch_size', type=int, default=64, help='images a batch (default %(default)s)')
    flags.add_argument('--face_format', choices=list(FACE_FORMATS), nargs='+', help='face format of the network, '
                       'overrides that in its metadata; of several networks: one, or one each')


def add_result_flags(flags: argparse.ArgumentParser) -> None:
    """Add the files that can be written about a result, and --compare."""
    flags.add_argument('--json', metavar='FILE', help='write the numbers, in percent, as JSON')
    flags.add_argument('--thresholds', metavar='FILE', help='file of the operating points (default thresholds.json, '
                       'with --report in its folder)')
    flags.add_argument('--report', metavar='DIR', help='write DIR/report.html: both protocols, curves, worst pairs')
    flags.add_argument('--fingerprint', metavar='FILE.npz', help='of the training set, to say which people and '
                       'pictures of the test set are in it (default: the one beside the checkpoint)')
    flags.add_argument('--compare', metavar='FILE', help="another model's features (.npy) or --json result (.json) on "
                       'the same images: differences and whether they could be chance')


def config(args: argparse.Namespace) -> edict:
    """Return the settings that --recipe, --set, --dataset_path and --assume_format ask for."""
    assumed = [f'assume_format={args.assume_format}'] if args.assume_format else []
    return get_config(args.recipe, [*args.settings, *assumed], args.dataset_path)


def eval_config(args: argparse.Namespace, list_key: str = '') -> edict:
    """Return the settings of an evaluation: the recipe's, with the files that `args` name."""
    cfg = config(args)
    for key in ('root_path', 'lfw_pairs_mat_path', 'blufr_config_mat_path', list_key):
        if getattr(args, key, None):
            cfg[key] = getattr(args, key)
    cfg.root_given = bool(getattr(args, 'root_path', None))
    named_list = getattr(args, list_key, None)
    if named_list and not os.path.isfile(named_list):
        raise FileNotFoundError(f"--img_list {named_list}: no such file")
    if args.batch_size < 1:
        raise ValueError(f"--batch_size {args.batch_size} is not 1 or more")
    return cfg


def boolean(text: str) -> bool:
    """Return the truth that a flag's value states: 1/0, true/false, yes/no."""
    values = {'1': True, 'true': True, 'yes': True, '0': False, 'false': False, 'no': False}
    if str(text).lower() not in values:
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return values[str(text).lower()]


def run(main: Callable, *, failed: int = 1) -> None:
    """Run an entry script's `main`, whose result is the exit code: none or 0 for success.

    Bad input is one line and exit code 2, a run that failed is one line and `failed`.
    """
    try:
        code = main()
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        _fail(error, 2)
    except (OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        _fail(error, failed)
    except KeyboardInterrupt:
        _fail('interrupted', 130)
    if code:
        sys.exit(code)


def _fail(error: object, code: int) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    if LAUNCHER in os.environ:       # a rank: MindSpore waits for ever for a host that is gone before it ends
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)

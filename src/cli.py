"""What the entry scripts share: common flags, and errors as one line."""
import argparse
import sys

from src.config import RECIPES
from src.device import TARGETS


def parser(description, examples):
    """Return an argument parser whose --help ends with `examples`."""
    return argparse.ArgumentParser(description=description, epilog='examples:\n' + examples,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config_flags(flags, default_recipe='lightcnn9_ms1m'):
    """Add --recipe, --set and --dataset_path."""
    flags.add_argument('--recipe', default=default_recipe, help=f"one of {', '.join(RECIPES)} (default %(default)s)")
    flags.add_argument('--set', nargs='+', action='extend', default=[], metavar='KEY=VALUE', dest='settings',
                       help='settings that differ from the recipe, see src/config.py')
    flags.add_argument('--dataset_path', metavar='DIR', help='folder that relative data paths are joined to')


def add_device_flags(flags):
    """Add --device_target and --device_id."""
    flags.add_argument('--device_target', default='auto', help=f"auto, {', '.join(TARGETS)}; auto takes the first "
                       'of them that is there')
    flags.add_argument('--device_id', help="which card (default: the environment's DEVICE_ID, else 0)")


def boolean(text):
    """Return the truth that a flag's value states: 1/0, true/false, yes/no."""
    values = {'1': True, 'true': True, 'yes': True, '0': False, 'false': False, 'no': False}
    if str(text).lower() not in values:
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return values[str(text).lower()]


def run(main):
    """Run an entry script's `main`: bad input is one line and exit code 2, a run that failed is one line and 1."""
    try:
        main()
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        _fail(error, 2)
    except (OSError, FloatingPointError, MemoryError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail('interrupted', 130)


def _fail(error, code):
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(code)

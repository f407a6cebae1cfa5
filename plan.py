"""Say what a training needs before it is paid for: memory a card by part, batch, disk, checkpoint, hours."""
import argparse

from src import cli

EXAMPLES = """  python plan.py --people 2000000 --images 42000000 --network iresnet100 --head arcface --cards 8
  python plan.py --people 79077 --images 5049824 --network LightCNN_9Layers --head softmax --device_target CPU
  python plan.py --people 1000 --images 100000 --network mobilefacenet --head cosface --batch_size 32 --measure"""


def positive(text: str) -> int:
    """Return a whole number above 0 that a flag's value states."""
    if not text.isdecimal() or not 0 < int(text) <= 10**12:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
    flags = cli.parser(__doc__.splitlines()[0], EXAMPLES)
    for name in ('people', 'images'):
        flags.add_argument(f'--{name}', type=positive, required=True, help=f'how many {name} the training set has')
    flags.add_argument('--network', default='LightCNN_9Layers', help='backbone (default %(default)s)')
    flags.add_argument('--head', default='softmax', help='default %(default)s')
    flags.add_argument('--cards', type=positive, default=1, help='default %(default)s')
    flags.add_argument('--memory', type=float, default=32, metavar='GIB', help='of a card (default %(default)s)')
    flags.add_argument('--batch_size', type=positive, default=128, help='a card (default %(default)s)')
    flags.add_argument('--epochs', type=positive, default=20, help='default %(default)s')
    flags.add_argument('--measure', action='store_true', help='take a few steps on this machine, for the hours')
    flags.add_argument('--device_target', default='Ascend', choices=('Ascend', 'GPU', 'CPU'), help='what to plan for '
                       '(default %(default)s)')
    args = flags.parse_args()
    if not 0 < args.memory < 1e6:
        flags.error(f'--memory {args.memory:g} is not a number of GiB')
    if args.people < 2 or args.images < args.people:
        flags.error(f'{args.images} images of {args.people} people: should be two people and an image of each or more')
    return args


def main() -> None:
    """Do what the command line asks for."""
    args = parse()
    from src import device
    machine = device.set_up('auto' if args.measure else 'CPU')
    from src.plan import Wanted, count, lines, measure
    target = machine.target if args.measure else args.device_target
    wanted = Wanted(args.people, args.images, args.network, args.head, args.cards, args.memory, args.batch_size,
                    args.epochs, target)
    net = count(wanted)
    print('\n'.join(lines(wanted, net, measure(wanted, net) if args.measure else ())), flush=True)


if __name__ == '__main__':
    cli.run(main)

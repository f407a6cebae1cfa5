"""Write the test faces as network input for ascend310_infer: one .bin for each image that LFW or BLUFR lists."""
import argparse
import os

from src import cli
from src.config import get_config
from src.data.face_format import FACE_FORMATS

EXAMPLES = """  python preprocess.py --data_path faces --model model.mindir
  python preprocess.py --data_path faces --image_size 128 --result_path preprocess_Result"""


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
    flags = cli.parser(__doc__, EXAMPLES)
    flags.add_argument('--data_path', required=True, metavar='DIR',
                       help='the data set folder of docs/data.md, or lfw in it')
    flags.add_argument('--result_path', default='preprocess_Result', metavar='DIR',
                       help='where manifest.tsv and the .bin files go (default %(default)s)')
    flags.add_argument('--assume_format', default='', choices=list(FACE_FORMATS), help='what the pictures are, where '
                       'their sizes say otherwise')
    size = flags.add_mutually_exclusive_group(required=True)
    size.add_argument('--model', metavar='FILE', help='exported model: its faces are as the .json beside it says')
    size.add_argument('--image_size', type=int, metavar='S', help='side of grey LightCNN faces')
    return flags.parse_args()


def main() -> None:
    """Do what the command line asks for."""
    args = parse()
    from src.deploy import exchange
    face, size = exchange.model_input(args.model) if args.model else (FACE_FORMATS['lightcnn'], args.image_size)
    settings = [f'image_size={size}', f'resize_size={max(144, size)}', f'assume_format={args.assume_format}']
    cfg = get_config(settings=settings, dataset_path=exchange.dataset_tree(args.data_path))
    number, anew = exchange.write_inputs(cfg, face, size, args.result_path, num_workers=len(os.sched_getaffinity(0)))
    print(f"{args.result_path}: {number} faces of {size}x{size}{'' if anew else ', up to date'}")


if __name__ == '__main__':
    cli.run(main)

"""Write the test faces as network input for ascend310_infer: one .bin for each image that LFW or BLUFR lists."""
import os

from src import cli
from src.config import get_config

EXAMPLES = """  python preprocess.py --data_path faces --model model.mindir
  python preprocess.py --data_path faces --image_size 128 --result_path preprocess_Result"""


def main():
    flags = cli.parser(__doc__, EXAMPLES)
    flags.add_argument('--data_path', required=True, metavar='DIR', help="the README's data set folder, or lfw in it")
    flags.add_argument('--result_path', default='preprocess_Result', metavar='DIR',
                       help='where manifest.tsv and the .bin files go (default %(default)s)')
    size = flags.add_mutually_exclusive_group(required=True)
    size.add_argument('--model', metavar='FILE', help='exported model: its faces are as large as the .json beside it '
                      'says')
    size.add_argument('--image_size', type=int, metavar='S', help='side of the faces')
    args = flags.parse_args()
    from src.deploy import exchange
    image_size = args.image_size or exchange.model_image_size(args.model)
    cfg = get_config(settings=[f'image_size={image_size}', f'resize_size={max(144, image_size)}'],
                     dataset_path=exchange.dataset_tree(args.data_path))
    number, anew = exchange.write_inputs(cfg, image_size, args.result_path, len(os.sched_getaffinity(0)))
    print(f"{args.result_path}: {number} faces of {image_size}x{image_size}{'' if anew else ', up to date'}")


if __name__ == '__main__':
    cli.run(main)

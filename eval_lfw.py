"""Score a checkpoint, or ready-made features, on LFW's 6,000 pairs."""
from src import cli
from src.evaluation import evaluate

EXAMPLES = """  python eval_lfw.py --resume ckpt --dataset_path faces --report report
  python eval_lfw.py --resume ckpt/best.ckpt --dataset_path faces --json lfw.json --save_features lfw.npy
  python eval_lfw.py --features lfw.npy --dataset_path faces --compare other_lfw.npy
  python eval_lfw.py --resume ckpt --dataset_path faces --threshold_for 0.001"""


def main() -> None:
    """Do what the command line asks for."""
    flags = cli.parser(__doc__, EXAMPLES)
    cli.add_eval_flags(flags, 'lfw_img_list', "'path label' list in the order that lfw_pairs.mat counts")
    flags.add_argument('--threshold_for', type=float, metavar='FAR', help='print only the threshold at this false '
                       'accept rate, such as 0.001')
    args = flags.parse_args()
    evaluate(args, cli.eval_config(args, 'lfw_img_list'), ['lfw'])


if __name__ == '__main__':
    cli.run(main)

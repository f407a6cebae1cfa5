"""Score a checkpoint, or ready-made features, on the LFW BLUFR protocol: verification and open-set identification."""
from src import cli
from src.evaluation import evaluate

EXAMPLES = """  python eval_blufr.py --resume ckpt --dataset_path faces --report report
  python eval_blufr.py --resume ckpt/best.ckpt --dataset_path faces --json blufr.json --save_features blufr.npy
  python eval_blufr.py --features blufr.npy --dataset_path faces --compare other_blufr.npy"""


def main() -> None:
    """Do what the command line asks for."""
    flags = cli.parser(__doc__, EXAMPLES)
    cli.add_eval_flags(flags, 'blufr_img_list', "'path label' list in the order of blufr_lfw_config.mat")
    args = flags.parse_args()
    evaluate(args, cli.eval_config(args, 'blufr_img_list'), ['blufr'])


if __name__ == '__main__':
    cli.run(main)

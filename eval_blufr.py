"""Score a checkpoint, or ready-made features, on the LFW BLUFR protocol: verification and open-set identification."""
from functools import partial

from tqdm import tqdm

from src import cli, report
from src.evaluation import features_source, score_blufr

EXAMPLES = """  python eval_blufr.py --resume ckpt --dataset_path faces
  python eval_blufr.py --resume ckpt/best.ckpt --dataset_path faces --json blufr.json --save_features blufr.npy
  python eval_blufr.py --features blufr.npy --dataset_path faces"""


def main():
    flags = cli.parser(__doc__, EXAMPLES)
    cli.add_eval_flags(flags, 'blufr_img_list', "'path label' list in the order of blufr_lfw_config.mat")
    args = flags.parse_args()
    cfg = cli.eval_config(args, 'blufr_img_list')
    progress = partial(tqdm, desc='trials', unit='trial', disable=None, leave=False)
    numbers = report.blufr_json(score_blufr(cfg, features_source(args, cfg), progress))
    print(report.blufr_table(numbers))
    if args.json:
        report.write_json(args.json, numbers)


if __name__ == '__main__':
    cli.run(main)

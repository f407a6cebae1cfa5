"""Score a checkpoint, or ready-made features, on LFW's 6,000 pairs."""
from src import cli, report
from src.evaluation import features_source, score_lfw

EXAMPLES = """  python eval_lfw.py --resume ckpt --dataset_path faces
  python eval_lfw.py --resume ckpt/best.ckpt --dataset_path faces --json lfw.json --save_features lfw.npy
  python eval_lfw.py --features lfw.npy --dataset_path faces"""


def main():
    flags = cli.parser(__doc__, EXAMPLES)
    cli.add_eval_flags(flags, 'lfw_img_list', "'path label' list in the order that lfw_pairs.mat counts")
    args = flags.parse_args()
    cfg = cli.eval_config(args, 'lfw_img_list')
    numbers = report.lfw_json(score_lfw(cfg, features_source(args, cfg)))
    print(report.lfw_table(numbers))
    if args.json:
        report.write_json(args.json, numbers)


if __name__ == '__main__':
    cli.run(main)

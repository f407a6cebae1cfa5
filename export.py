"""Write the embedding network of a checkpoint as MINDIR, ONNX or AIR, compared with the checkpoint before it counts."""
import argparse
import os

from src import cli

EXAMPLES = """  python export.py --ckpt_file ckpt --file_name model
  python export.py --ckpt_file ckpt/best.ckpt --file_name model --ir 1             # for MindSpore Lite 2.0
  python export.py --ckpt_file ckpt --file_name model --file_format ONNX --batch_size dynamic
  python export.py --ckpt_file ckpt --file_name model_int8 --file_format ONNX --int8 --dataset_path faces"""


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
    flags = cli.parser(__doc__, EXAMPLES)
    cli.add_device_flags(flags)
    flags.add_argument('--ckpt_file', '--resume', required=True, metavar='CKPT', help='checkpoint of any LightCNN '
                       'training, or a folder (its newest one)')
    flags.add_argument('--file_format', default='MINDIR', choices=('MINDIR', 'ONNX', 'AIR'))
    flags.add_argument('--file_name', metavar='NAME', help='without extension (default: the name of the network)')
    flags.add_argument('--batch_size', default='1', metavar='N|dynamic', help='images a call (default %(default)s)')
    flags.add_argument('--ir', type=int, choices=(1,), help='1: a MINDIR that MindSpore Lite 2.0 can load, which older '
                       'Ascend 310 installations have')
    flags.add_argument('--int8', action='store_true', help='ONNX with 8-bit weights and activations, calibrated on '
                       "the data set's training faces")
    flags.add_argument('--dataset_path', metavar='DIR', help='compare on the first LFW faces of this data set '
                       '(default: on synthetic ones)')
    args = flags.parse_args()
    if args.batch_size != 'dynamic' and not (args.batch_size.isdigit() and 0 < int(args.batch_size) <= 4096):
        raise ValueError(f"--batch_size {args.batch_size}: expected 1 to 4096, or dynamic")
    if args.ir and args.file_format != 'MINDIR':
        raise ValueError(f"--ir {args.ir} is a version of MINDIR, not of {args.file_format}")
    if args.int8 and (args.file_format != 'ONNX' or not args.dataset_path):
        raise ValueError("--int8 is for --file_format ONNX and needs --dataset_path: training faces to calibrate on")
    return args


def main() -> None:
    """Do what the command line asks for."""
    args = parse()
    from src import api, device
    # a card would compute in its own precision, where the comparison expects float32; AIR files need one
    device.set_up(args.device_target if args.file_format == 'AIR' else 'CPU', args.device_id)
    from src.training import checkpoint
    ckpt = checkpoint.newest(args.ckpt_file)
    network = checkpoint.load_backbone(ckpt)
    batch_size = None if args.batch_size == 'dynamic' else int(args.batch_size)
    metadata = api.export(network, args.file_name or network.name, file_format=args.file_format, batch_size=batch_size,
                          ir=args.ir, int8=args.int8, dataset_path=args.dataset_path)
    folder = os.path.dirname(args.file_name or '')
    print(f"{ckpt}: {network.name} for {network.image_size}x{network.image_size} faces")
    taken = metadata['input']
    print(f"written: {os.path.join(folder, metadata['file'])}, {metadata['bytes']} bytes, input {taken['name']} "
          f"{taken['shape']} {taken['dtype']} {taken['values']}")
    if args.int8:
        print(f"int8, calibrated on training faces: smallest cosine to the checkpoint's features "
              f"{metadata['int8_smallest_cosine']:.4f}")
    elif metadata['compared_on']:
        print(f"compared on {metadata['compared_on']} faces: largest difference "
              f"{metadata['largest_difference']:.2g} in features up to {metadata['largest_feature']:.3g}")
    else:
        print("not compared: nothing here can read an AIR file")


if __name__ == '__main__':
    cli.run(main)

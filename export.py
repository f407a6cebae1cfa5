"""Write the embedding network of a checkpoint as MINDIR, ONNX, ncnn or AIR, compared before it counts."""
import argparse
import os

from src import cli

EXAMPLES = """  python export.py --ckpt_file ckpt --file_name model
  python export.py --ckpt_file ckpt/best.ckpt --file_name model --ir 1             # for MindSpore Lite 2.0
  python export.py --ckpt_file ckpt --file_name model --file_format ONNX --batch_size dynamic
  python export.py --ckpt_file ckpt --file_name model --file_format NCNN --storage float16 --scaling
  python export.py --ckpt_file ckpt --file_name model_int8 --file_format ONNX --int8 --dataset_path faces"""


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
    flags = cli.parser(__doc__, EXAMPLES)
    cli.add_device_flags(flags)
    flags.add_argument('--ckpt_file', '--resume', required=True, metavar='CKPT', help='checkpoint of any '
                       'training, a folder (its newest one), or a weight file of others')
    flags.add_argument('--file_format', default='MINDIR', choices=('MINDIR', 'ONNX', 'NCNN', 'AIR'))
    flags.add_argument('--file_name', metavar='NAME', help='without extension (default: the name of the network)')
    flags.add_argument('--batch_size', default='1', metavar='N|dynamic', help='images a call (default %(default)s)')
    flags.add_argument('--ir', type=int, choices=(1,), help='1: a MINDIR that MindSpore Lite 2.0 can load, which older '
                       'Ascend 310 installations have')
    flags.add_argument('--storage', default='float32', choices=('float32', 'float16'), help="of ncnn's weights")
    flags.add_argument('--normalise', action='store_true', help='the file gives embeddings of length 1')
    flags.add_argument('--flip', action='store_true', help='the file adds the embedding of the mirror image')
    flags.add_argument('--scaling', action='store_true', help='the file takes pixels, 0 to 255, and scales them')
    flags.add_argument('--int8', action='store_true', help='ONNX or ncnn with 8-bit weights and activations, '
                       "calibrated on the data set's training faces")
    flags.add_argument('--dataset_path', metavar='DIR', help='compare on the first LFW faces of this data set '
                       '(default: on synthetic ones)')
    args = flags.parse_args()
    if args.batch_size != 'dynamic' and not (args.batch_size.isdigit() and 0 < int(args.batch_size) <= 4096):
        raise ValueError(f"--batch_size {args.batch_size}: expected 1 to 4096, or dynamic")
    if args.ir and args.file_format != 'MINDIR':
        raise ValueError(f"--ir {args.ir} is a version of MINDIR, not of {args.file_format}")
    if args.int8 and (args.file_format not in ('ONNX', 'NCNN') or not args.dataset_path):
        raise ValueError("--int8 is for --file_format ONNX and NCNN and needs --dataset_path: training faces to "
                         "calibrate on")
    return args


def main() -> None:
    """Do what the command line asks for."""
    args = parse()
    from src import api, device
    # a card would compute in its own precision, where the comparison expects float32; AIR files need one
    device.set_up(args.device_target if args.file_format == 'AIR' else 'CPU', args.device_id)
    network, ckpt = api.load_backbone(args.ckpt_file)
    batch_size = None if args.batch_size == 'dynamic' else int(args.batch_size)
    metadata = api.export(network, args.file_name or network.name, file_format=args.file_format, batch_size=batch_size,
                          ir=args.ir, int8=args.int8, dataset_path=args.dataset_path, storage=args.storage,
                          normalise=args.normalise, flip=args.flip, scaling=args.scaling)
    folder = os.path.dirname(args.file_name or '')
    print(f"{ckpt}: {network.name} for {network.image_size}x{network.image_size} faces")
    taken = metadata['input']
    print(f"written: {os.path.join(folder, metadata['file'])}, {metadata['bytes']} bytes, input {taken['name']} "
          f"{taken['shape']} {taken['dtype']} {taken['values']}")
    print('\n'.join(report(metadata)))


def report(metadata: dict) -> list:
    """Return lines about folding, layers, time and the comparison."""
    lines, fold, ncnn = [], metadata.get('fold'), metadata.get('ncnn')
    if fold and fold['batch_norms']:
        kept = f", {fold['kept']} kept: {fold['why_kept']}" if fold['kept'] else ''
        lines.append(f"BatchNorm: {fold['folded_behind']} folded into the layer before, {fold['folded_before']} into "
                     f"the layer behind{kept}")
    if ncnn:
        lines.append(f"ncnn: {ncnn['layers_unfolded']} layers, {ncnn['bytes_unfolded']} bytes, "
                     f"{ncnn['milliseconds_unfolded']:.2f} ms a face unfolded in float32; {ncnn['layers']} layers, "
                     f"{ncnn['bytes']} bytes, {ncnn['milliseconds']:.2f} ms folded (one core, fastest)")
    if metadata['int8_smallest_cosine'] is not None:
        return [*lines, "int8, calibrated on training faces: smallest cosine to the checkpoint's features "
                        f"{metadata['int8_smallest_cosine']:.4f}"]
    if not metadata['compared_on']:
        return [*lines, "not compared: nothing here can read an AIR file"]
    cosine = metadata.get('float16_smallest_cosine')
    return [*lines, f"compared on {metadata['compared_on']} faces: largest difference "
                    f"{metadata['largest_difference']:.2g} in features up to {metadata['largest_feature']:.3g}"
                    + (f', smallest cosine {cosine:.6f}' if cosine else '')]


if __name__ == '__main__':
    cli.run(main)

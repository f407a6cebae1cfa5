"""Write the embedding network of a checkpoint as MINDIR, ONNX or AIR, compared with the checkpoint before it counts."""
import os

import numpy as np

from src import cli
from src.config import get_config

EXAMPLES = """  python export.py --ckpt_file ckpt --file_name model
  python export.py --ckpt_file ckpt/best.ckpt --file_name model --ir 1             # for MindSpore Lite 2.0
  python export.py --ckpt_file ckpt --file_name model --file_format ONNX --batch_size dynamic
  python export.py --ckpt_file ckpt --file_name model_int8 --file_format ONNX --int8 --dataset_path faces"""
NUM_FACES, NUM_CALIBRATION = 8, 256


def parse():
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


def calibration_faces(dataset_path, image_size):
    """Return NUM_CALIBRATION training faces, drawn over the whole list, as network input."""
    from src.data.images import find_images, read_grey, to_input, training_face_for_test
    from src.data.lists import read_image_list
    cfg = get_config(dataset_path=dataset_path)
    names, _ = read_image_list(cfg.train_list)
    rows = np.random.default_rng(0).permutation(len(names))[:NUM_CALIBRATION]
    paths = find_images(cfg.data_path, [names[row] for row in rows])
    return to_input(np.stack([training_face_for_test(read_grey(path), image_size, path) for path in paths]))


def faces_to_compare(dataset_path, image_size):
    """Return NUM_FACES faces as network input: LFW's first, or synthetic ones without a data set."""
    from src.data.images import face_for_test, find_images, read_grey, to_input
    from src.data.synthetic import faces_as_input
    from src.protocols.evaluation import lfw_images
    if not dataset_path:
        return faces_as_input(image_size, NUM_FACES)
    cfg = get_config(dataset_path=dataset_path)
    paths = find_images(cfg.root_path, lfw_images(cfg)[0][:NUM_FACES])
    return to_input(np.stack([face_for_test(read_grey(path), image_size, path) for path in paths]))


def main():
    args = parse()
    from src import device
    from src.training import checkpoint
    device.set_up(args.device_target, args.device_id)
    from src.deploy.export import export
    ckpt = checkpoint.newest(args.ckpt_file)
    network, network_type, image_size = checkpoint.load_embedding(ckpt)
    batch_size = None if args.batch_size == 'dynamic' else int(args.batch_size)
    metadata = export(network, image_size, args.file_name or network_type, args.file_format, batch_size, args.ir,
                   faces_to_compare(args.dataset_path, image_size),
                   calibration_faces(args.dataset_path, image_size) if args.int8 else None)
    folder = os.path.dirname(args.file_name or '')
    print(f"{ckpt}: {network_type} for {image_size}x{image_size} faces")
    print(f"written: {os.path.join(folder, metadata['file'])}, {metadata['bytes']} bytes, input {metadata['input']['name']} "
          f"{metadata['input']['shape']} {metadata['input']['dtype']} {metadata['input']['values']}")
    if args.int8:
        print(f"int8, calibrated on training faces: smallest cosine to the checkpoint's features "
              f"{metadata['int8_smallest_cosine']:.4f}")
    elif metadata['compared_on']:
        print(f"compared on {metadata['compared_on']} faces: largest difference {metadata['largest_difference']:.2g} in "
              f"features up to {metadata['largest_feature']:.3g}")
    else:
        print("not compared: nothing here can read an AIR file")


if __name__ == '__main__':
    cli.run(main)

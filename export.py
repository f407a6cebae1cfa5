"""Write the embedding network of a checkpoint as MINDIR, ONNX or AIR, compared with the checkpoint before it counts."""
import os

import numpy as np

from src import cli
from src.config import get_config

EXAMPLES = """  python export.py --ckpt_file ckpt --file_name model
  python export.py --ckpt_file ckpt/best.ckpt --file_name model --ir 1             # for MindSpore Lite 2.0
  python export.py --ckpt_file ckpt --file_name model --file_format ONNX --batch_size dynamic
  python export.py --ckpt_file ckpt --file_name model --dataset_path faces         # compare on LFW's faces"""
NUM_FACES = 8


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
    flags.add_argument('--dataset_path', metavar='DIR', help='compare on the first LFW faces of this data set '
                       '(default: on synthetic ones)')
    args = flags.parse_args()
    if args.batch_size != 'dynamic' and not (args.batch_size.isdigit() and 0 < int(args.batch_size) <= 4096):
        raise ValueError(f"--batch_size {args.batch_size}: expected 1 to 4096, or dynamic")
    if args.ir and args.file_format != 'MINDIR':
        raise ValueError(f"--ir {args.ir} is a version of MINDIR, not of {args.file_format}")
    return args


def faces_to_compare(dataset_path, image_size):
    """Return NUM_FACES faces as network input: LFW's first, or synthetic ones without a data set."""
    from src.evaluation import lfw_images
    from src.images import face_for_test, find_image, read_grey, to_input
    from src.synthetic import draw_face
    if dataset_path:
        cfg = get_config(dataset_path=dataset_path)
        paths = [os.path.join(cfg.root_path, name) for name in lfw_images(cfg)[0][:NUM_FACES]]
        faces = [read_grey(find_image(*os.path.split(path)) or path) for path in paths]
    else:
        faces = [draw_face(1, person, 0) for person in range(NUM_FACES)]
    return to_input(np.stack([face_for_test(face, image_size) for face in faces]))


def main():
    args = parse()
    from src import checkpoint, device
    device.set_up(args.device_target, args.device_id)
    from src.export import export
    ckpt = checkpoint.newest(args.ckpt_file)
    network, network_type, image_size = checkpoint.load_embedding(ckpt)
    batch_size = None if args.batch_size == 'dynamic' else int(args.batch_size)
    facts = export(network, image_size, args.file_name or network_type, args.file_format, batch_size, args.ir,
                   faces_to_compare(args.dataset_path, image_size))
    folder = os.path.dirname(args.file_name or '')
    print(f"{ckpt}: {network_type} for {image_size}x{image_size} faces")
    print(f"written: {os.path.join(folder, facts['file'])}, {facts['bytes']} bytes, input {facts['input']['name']} "
          f"{facts['input']['shape']} {facts['input']['dtype']} {facts['input']['values']}")
    if facts['compared_on']:
        print(f"compared on {facts['compared_on']} faces: largest difference {facts['largest_difference']:.2g} in "
              f"features up to {facts['largest_feature']:.3g}")
    else:
        print("not compared: nothing here can read an AIR file")


if __name__ == '__main__':
    cli.run(main)

"""Are two pictures of one person? Which person of a gallery is it? Exit code: 0 the same, 1 not, 2 an error."""
import json

from src import api, cli
from src.data import lists
from src.recognition import (
    DIFFERENT,
    ERROR,
    Faces,
    add_flags,
    check_flags,
    chosen_point,
    compare_pictures,
    gallery_lines,
    nearest,
    pair_lines,
)

EXAMPLES = """  python recognise.py a.jpg b.jpg --resume ckpt --thresholds thresholds.json
  python recognise.py a.jpg b.jpg --resume ckpt --thresholds thresholds.json --far 0.0001 --detect
  python recognise.py photo.jpg --gallery photos --resume ckpt --thresholds thresholds.json --json result.json"""


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    flags = cli.parser(__doc__, EXAMPLES)
    add_flags(flags)
    cli.add_device_flags(flags)
    cli.add_format_flags(flags)
    args = flags.parse_args()
    check_flags(args)
    network = api.load_network(args.ckpt, face_format=args.face_format, device_target=args.device_target,
                               device_id=args.device_id)
    point = chosen_point(args, network)
    faces = Faces(network, args.detector if args.detect else '', args.assume_format)
    result = nearest(faces, args.pictures[0], args.gallery, point, args.top) if args.gallery else \
        compare_pictures(faces, *args.pictures, point)
    text = json.dumps(result, indent=1, allow_nan=False)
    if args.json != '-':
        print('\n'.join((gallery_lines if args.gallery else pair_lines)(result)))
    if args.json:
        print(text) if args.json == '-' else lists.write_text(args.json, text + '\n')
    return DIFFERENT if result['same'] is False else 0


if __name__ == '__main__':
    cli.run(main, failed=ERROR)

"""Start one training process per card and look after them: the Python behind scripts/train_distribute*.sh.

    python -m src.training.launch --device_num 8 --hccl_json hccl.json -- --dataset_path faces
    python -m src.training.launch --device_num auto --device_target CPU -- --dataset_path faces

Rank N logs to train_parallel/rank_N.log, rank 0 also to the terminal. If one fails the others are stopped and its last
lines shown. SIGTERM and Ctrl-C go to rank 0, which saves a checkpoint; then all are stopped. If the launcher is killed
its ranks end with it. Sources are neither copied nor deleted.

Ascend with a rank table is started by it. Everything else is started as a MindSpore dynamic cluster, which is what
msrun does too (https://www.mindspore.cn/docs/en/master/model_train/parallel/dynamic_cluster.html); msrun itself kills
its ranks on SIGTERM before they can save.
"""
import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Optional, Union

from src import cli
from src.config import PROJECT_DIR, get_config
from src.cores import LOCAL_PLACES
from src.device import LAUNCHER, SHARED_MEMORY
from src.training import hccl

LOG_DIR = 'train_parallel'
LAST_LINES = 20
GRACE = 60                       # seconds that rank 0 has to save after a signal
MIN_BATCH = 16                   # images a process, below which averaging gradients costs more than a core brings


def _device_num(text: str) -> Union[int, str]:
    return text if text == 'auto' else int(text)


def parse(arguments: list) -> tuple:
    """Return (the launcher's flags, the arguments of train.py) of a command line."""
    flags = argparse.ArgumentParser(prog='launch', description=__doc__.splitlines()[0],
                                    epilog='Further arguments, after --, go to train.py.')
    flags.add_argument('--device_num', type=_device_num, required=True, metavar='N|auto', help='processes in all, over '
                       "all hosts; auto: as many as train fastest on this machine's cores, sharing the recipe's batch")
    flags.add_argument('--hccl_json', help='rank table; optional on GPU and CPU')
    flags.add_argument('--device_target', default=os.environ.get('DEVICE_TARGET', 'Ascend'))
    split = arguments.index('--') if '--' in arguments else len(arguments)
    return flags.parse_args(arguments[:split]), arguments[split + 1:]


def share_batch(arguments: list, cores: int) -> tuple:
    """Return (number of processes, train.py's arguments) so that one-core processes share the batch of `arguments`."""
    flags = argparse.ArgumentParser(add_help=False)
    cli.add_config_flags(flags)
    args, _ = flags.parse_known_args(arguments)
    batch_size = get_config(args.recipe, args.settings).batch_size
    ranks = max(n for n in range(1, cores + 1) if n == 1 or batch_size % n == 0 and batch_size // n >= MIN_BATCH)
    print(f"{ranks} processes share the batch of {batch_size}, faster than one process on {cores} cores", flush=True)
    return ranks, [*arguments, '--set', f'batch_size={batch_size // ranks}']


def plan(args: argparse.Namespace) -> list:
    """Return the environment, {} of strings, of every process of this host, the scheduler first where there is one."""
    environments = _plan(args)
    ranks = [environment for environment in environments if 'RANK_ID' in environment]
    for place, environment in enumerate(ranks):          # cores are shared by the ranks of this host, not by all
        environment.update(zip(LOCAL_PLACES[0], (str(place), str(len(ranks)))))
    return environments


def _plan(args: argparse.Namespace) -> list:
    if args.device_target not in ('Ascend', 'GPU', 'CPU'):
        raise ValueError(f"DEVICE_TARGET '{args.device_target}' is not one of Ascend, GPU, CPU")
    if args.device_num < 1:
        raise ValueError(f"{args.device_num} devices: expected 1 or more")
    if args.hccl_json is None:
        return cluster(args.device_num, [(rank, rank) for rank in range(args.device_num)], '127.0.0.1')
    servers = hccl.read_rank_table(args.hccl_json)
    total = sum(map(len, servers.values()))
    if total != args.device_num:
        raise ValueError(f"{args.hccl_json}: holds {total} devices, {args.device_num} were asked for")
    hccl.warn_of_order(args.hccl_json, servers)
    this_host = hccl.this_host(args.hccl_json, servers)
    if args.device_target != 'Ascend':
        first = next(server for server, cards in servers.items() if cards[0].rank == 0)
        if len(servers) > 1 and ':' in first:
            raise ValueError(f"{args.hccl_json}: server {first}: MindSpore's cluster on {args.device_target} takes no "
                             "IPv6 addresses, on Ascend alone; give the IPv4 addresses of the servers")
        return cluster(total, [(card.rank, card.device_id) for card in servers[this_host]],
                       '127.0.0.1' if len(servers) == 1 else first)
    hccl.check_visible(args.hccl_json, servers[this_host])
    return [{'RANK_TABLE_FILE': os.path.abspath(args.hccl_json), 'RANK_ID': str(card.rank), 'RANK_SIZE': str(total),
             'DEVICE_ID': str(card.device_id)} for card in servers[this_host]]


def cluster(total: int, ranks: list, host: str) -> list:
    """Return the environments of a dynamic cluster; the host of rank 0 runs its scheduler."""
    port = os.environ.get('MASTER_PORT') or (str(_free_port()) if host == '127.0.0.1' else '8118')
    common = {'MS_WORKER_NUM': str(total), 'MS_SCHED_HOST': host, 'MS_SCHED_PORT': port, 'MS_TOPO_TIMEOUT': '600',
              'RANK_SIZE': str(total)}
    workers = [{**common, 'MS_ROLE': 'MS_WORKER', 'MS_NODE_ID': str(rank), 'RANK_ID': str(rank),
                'DEVICE_ID': str(device)} for rank, device in ranks]
    scheduler = [{**common, 'MS_ROLE': 'MS_SCHED'}] if any(rank == 0 for rank, _ in ranks) else []
    return scheduler + workers


def _free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def memory_for(device_target: str, device_num: int, environments: list) -> Optional[int]:
    """Return a file descriptor of memory that the ranks may share: on the CPU, if all of them are on this host."""
    num_ranks = sum('RANK_ID' in environment for environment in environments)
    return os.memfd_create('lightcnn') if device_target == 'CPU' and num_ranks == device_num > 1 else None


class Rank:
    """One running process of this host and its log."""

    def __init__(self, environment: dict, command: list, log_dir: str, shared_memory: Optional[int] = None):
        self.number = int(environment['RANK_ID']) if 'RANK_ID' in environment else None       # None: the scheduler
        self.name = 'scheduler' if self.number is None else f'rank {self.number}'
        self.log = os.path.join(log_dir, f"{self.name.replace(' ', '_')}.log")
        with open(self.log, 'wb') as log:
            shown = subprocess.PIPE if self.number == 0 else log
            environment = {**os.environ, **environment, LAUNCHER: str(os.getpid())}
            if shared_memory is not None:
                environment[SHARED_MEMORY] = str(shared_memory)
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=shown,
                                            stderr=subprocess.STDOUT, start_new_session=True,
                                            pass_fds=() if shared_memory is None else (shared_memory,))
        self.tee = None
        if self.number == 0:
            self.tee = threading.Thread(target=self._copy, daemon=True)
            self.tee.start()

    def _copy(self):
        with open(self.log, 'ab', buffering=0) as log:
            for line in self.process.stdout:
                log.write(line)
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

    def last_lines(self) -> list:
        with open(self.log, encoding='utf-8', errors='replace') as log:
            return log.read()[-100_000:].splitlines()[-LAST_LINES:]

    def kill(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.tee:
            self.tee.join()


class Stopped(Exception):
    """A signal asks the launcher to stop."""


def _on_signal(number, _):
    raise Stopped(number)


def run(environments: list, command: list, log_dir: str = LOG_DIR, shared_memory: Optional[int] = None) -> int:
    """Run one process per environment to the end; return 0, or the code of the first that fails.

    shared_memory: a file descriptor that the processes inherit, see `src.cpu.host_mean`.
    """
    os.makedirs(log_dir, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    ranks = []
    try:
        for environment in environments:
            ranks.append(Rank(environment, command, log_dir, shared_memory))
        return _watch(ranks)
    except Stopped as stopped:
        return _leave(ranks, stopped.args[0])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for rank in ranks:
            rank.kill()


def _watch(ranks):
    """Wait until all ranks have ended well, or one has failed; return its code."""
    workers = [rank for rank in ranks if rank.number is not None]
    while True:
        failed = next((rank for rank in ranks if rank.process.poll() not in (None, 0)), None)
        if failed:
            time.sleep(1)                        # who failed first is not always who is seen first
            failed = _first_to_fail(ranks)
            code = failed.process.returncode
            lines = failed.last_lines()
            print(f"error: {failed.name} failed with code {code}, the others are stopped; the end of {failed.log}:",
                  file=sys.stderr)
            print('\n'.join(f'  {line}' for line in lines), file=sys.stderr, flush=True)
            return code if code > 0 else 128 - code
        if all(rank.process.poll() == 0 for rank in workers):
            return 0
        time.sleep(0.2)


def _first_to_fail(ranks):
    """Return the failed rank whose log speaks of an error of its own, else the first failed one."""
    failed = [rank for rank in ranks if rank.process.poll() not in (None, 0)]
    return next((rank for rank in failed if any(line.startswith('error: ') for line in rank.last_lines())), failed[0])


def _leave(ranks, number):
    """Pass the signal to rank 0, wait for it to save, and return the code that says which signal it was."""
    first = next((rank for rank in ranks if rank.number == 0), None)
    print(f"{signal.Signals(number).name}: stopping{', rank 0 saves' if first else ''}", file=sys.stderr, flush=True)
    if first and first.process.poll() is None:
        first.process.send_signal(number)
        try:
            first.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            print(f"rank 0 did not end within {GRACE} s and is killed", file=sys.stderr, flush=True)
    return 128 + number


def main() -> None:
    args, further = parse(sys.argv[1:])
    if args.device_num == 'auto':
        args.device_num, further = share_batch(further, len(os.sched_getaffinity(0)))
    environments = plan(args)
    command = [sys.executable, '-u', str(PROJECT_DIR / 'train.py'), '--run_distribute', '--device_target',
               args.device_target, *further]
    print(f"{args.device_num} processes on {args.device_target}, logs in {os.path.abspath(LOG_DIR)}", flush=True)
    memory = memory_for(args.device_target, args.device_num, environments)
    sys.exit(run(environments, command, shared_memory=memory))


if __name__ == '__main__':
    cli.run(main)

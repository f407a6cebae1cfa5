"""The training loop: one step as a Cell, checkpoints, the log.

    train(cfg, device, recipe='lightcnn9_celebrities', ckpt_dir='ckpt')

leaves lightcnn-<epoch>_<step>.ckpt with facts, train_log.jsonl, training.png and bad_images.txt in ckpt_dir.
"""
import contextlib
import math
import os
import signal
import sys
import threading
import time
import zlib

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src import checkpoint
from src.dataset import TrainingBatches, open_faces, prefetch
from src.lightcnn import training_network
from src.config import RECIPES
from src.lr_generator import learning_rate, scale_lr
from src.report import plot_training
from src.train_log import TrainLog, read_log


MAX_SKIPPED = 50                 # overflows in a row that a loss scale may cause; more is a training that has failed


def parameter_group(name, cfg):
    """Return (learning-rate multiple, weight decay) of a parameter: the four groups of the published recipe."""
    if name == 'classifier.fc2_weight':
        return cfg.fc2_weight_lr_mult, cfg.fc2_weight_decay
    if name == 'classifier.fc2_bias':
        return cfg.fc2_bias_lr_mult, cfg.fc2_bias_weight_decay
    if name.endswith('.bias'):
        return cfg.bias_lr_mult, cfg.bias_weight_decay
    return 1.0, cfg.weight_decay


class TrainStep(nn.Cell):
    """Forward, backward and SGD with momentum: (images, labels, mask, lr) -> (loss, top-1 hits, updated or not).

    Gradients are averaged over `rank_size` processes. With a loss scaler, a step whose gradients are not finite
    changes no weight and lowers the scale.
    """

    def __init__(self, network, cfg, rank_size=1, loss_scaler=None):
        super().__init__(auto_prefix=False)
        self.network = network
        self.weights = ParameterTuple(network.trainable_params())
        self.moments = ParameterTuple([Parameter(Tensor(np.zeros(w.shape, np.float32)), name=f'moments.{w.name}')
                                       for w in self.weights])
        groups = [parameter_group(w.name, cfg) for w in self.weights]
        self.lr_mults, self.decays = [g[0] for g in groups], [g[1] for g in groups]
        self.momentum = Tensor(cfg.momentum, ms.float32)
        self.update = ops.ApplyMomentum()
        self.rank_size = rank_size
        self.sum = ops.AllReduce() if rank_size > 1 else None
        self.scaler = loss_scaler
        self.clip_norm, self.one = cfg.clip_norm, Tensor(1.0, ms.float32)
        self.value_and_grad = ms.value_and_grad(self.forward, None, self.weights, has_aux=True)

    def forward(self, images, labels, mask):
        loss, hits = self.network(images, labels, mask)
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        return loss, hits

    def construct(self, images, labels, mask, lr):
        (loss, hits), grads = self.value_and_grad(images, labels, mask)
        if self.rank_size > 1:
            grads = self.averaged(grads)
            loss, hits = self.sum(loss) / self.rank_size, self.sum(hits)
        finite = Tensor(True)
        if self.scaler is not None:
            loss = self.scaler.unscale(loss)
            finite = ms.amp.all_finite(grads)
            grads = self.scaler.unscale(grads)
            self.scaler.adjust(finite)
            if finite:
                loss = ops.depend(loss, self.apply(grads, lr))
        else:
            loss = ops.depend(loss, self.apply(grads, lr))
        return loss, hits, finite

    def averaged(self, grads):
        """Return the mean over ranks: all gradients in one call, since each call costs its own round trip."""
        flat = ()
        for grad in grads:
            flat = flat + (grad.reshape(-1),)
        total = self.sum(ops.concat(flat)) / self.rank_size
        mean, start = (), 0
        for grad in grads:
            mean = mean + (total[start:start + grad.size].reshape(grad.shape),)
            start = start + grad.size
        return mean

    def clip_factor(self, grads):
        if self.clip_norm == 0:
            return 1.0
        power = 0.0
        for grad in grads:
            power = power + (grad * grad).sum()
        return ops.minimum(self.clip_norm / ops.sqrt(power), self.one)

    def apply(self, grads, lr):
        factor = self.clip_factor(grads)
        done = True
        for i in range(len(self.weights)):
            grad = factor * grads[i] + self.decays[i] * self.weights[i]
            done = ops.depend(done, self.update(self.weights[i], self.moments[i], lr * self.lr_mults[i], grad,
                                                self.momentum))
        return done


def build_step(cfg, device):
    """Return the `TrainStep` of a run: fp32 on the CPU, mixed precision with a dynamic loss scale elsewhere."""
    ms.set_seed(cfg.seed)
    network, scaler = training_network(cfg, fused=device.target == 'CPU'), None
    if device.target != 'CPU':
        network = ms.amp.auto_mixed_precision(network, 'O2')
        scaler = ms.amp.DynamicLossScaler(scale_value=2.0 ** 16, scale_factor=2, scale_window=2000)
    step = TrainStep(network, cfg, device.rank_size, scaler)
    step.set_train()
    return step


def step_outputs(step, batches, rate, steps, cfg):
    """Yield (number of steps done, loss, top-1 hits, updated) as floats, in order.

    With cfg.sink_size > 1 (Ascend, GPU) that many steps run per call on the device, cut so that checkpoints keep
    their steps; otherwise threads prepare the next batches while one step runs.
    """
    def get(k):
        return *batches[k], np.float32(rate(k))

    if cfg.sink_size > 1:
        yield from _sunk_outputs(step, get, steps, batches, cfg)
        return
    for k, batch in zip(steps, prefetch(get, steps, cfg.num_workers)):
        yield k + 1, *(float(x.asnumpy()) for x in step(*(Tensor(array) for array in batch)))


def _sunk_outputs(step, get, steps, batches, cfg):
    # a sink must not run over the end of an epoch or of the training, nor over a step that is saved
    size = math.gcd(cfg.sink_size, math.gcd(cfg.save_checkpoint_steps, math.gcd(batches.steps_per_epoch, steps.start)))
    if size != cfg.sink_size:
        print(f"sink_size {cfg.sink_size} does not divide {batches.steps_per_epoch} steps an epoch, "
              f"save_checkpoint_steps and the first step; {size} is used", flush=True)

    class Source:
        def __len__(self):
            return len(steps)

        def __getitem__(self, i):
            return get(steps[i])

    dataset = ms.dataset.GeneratorDataset(Source(), ['images', 'labels', 'mask', 'lr'], shuffle=False,
                                          num_parallel_workers=cfg.num_workers, python_multiprocessing=False)
    sink = ms.data_sink(step, dataset, sink_size=size, jit_config=ms.JitConfig())
    for done in range(size, len(steps) + 1, size):
        yield steps[done - 1] + 1, *(float(x.asnumpy()) for x in sink())


class Saver:
    """Writes, keeps and loads the checkpoints of one run; only rank 0 writes."""

    def __init__(self, ckpt_dir, cfg, recipe, step, batches, is_writer):
        self.ckpt_dir, self.cfg, self.recipe, self.is_writer = ckpt_dir, cfg, recipe, is_writer
        self.step, self.batches = step, batches

    def save(self, done, name=None):
        """Save after `done` steps, as lightcnn-<epoch>_<step in epoch>.ckpt unless a name is given."""
        if not self.is_writer:
            return
        per_epoch = self.batches.steps_per_epoch
        epoch = 1 + (done - 1) // per_epoch
        numbered = f'lightcnn-{epoch}_{1 + (done - 1) % per_epoch}.ckpt'
        checkpoint.save(os.path.join(self.ckpt_dir, name or numbered), self._parameters(), self._facts(done))
        checkpoint.remove_old(self.ckpt_dir, self.cfg.keep_checkpoint_max)

    def _parameters(self):
        state = {p.name: p for p in [*self.step.weights, *self.step.moments]}
        if self.step.scaler is not None:
            state['loss_scale'], state['loss_scale_steps'] = self.step.scaler.scale_value, self.step.scaler.counter
        return state

    def _facts(self, done):
        cfg = self.cfg
        return {'format': 1, 'recipe': self.recipe, 'network_type': cfg.network_type, 'num_classes': cfg.num_classes,
                'step': done, 'epoch': done / self.batches.steps_per_epoch, 'num_images': len(self.batches.faces),
                'global_batch': self.batches.global_batch, 'settings': dict(cfg), 'versions': checkpoint.versions(),
                'input': {'shape': ['N', 1, cfg.image_size, cfg.image_size], 'dtype': 'float32', 'values': 'grey / 255',
                          'face': 'centre 128x128 of the 144x144 alignment, area-resized to image_size'}}

    def restore(self, path):
        """Load the newest checkpoint that `path` means; return (number of steps it has done, its file)."""
        ckpt = checkpoint.newest(path, with_facts=True)
        facts = checkpoint.read_facts(ckpt)
        if facts is None or 'step' not in facts:
            raise ValueError(f"{ckpt}: {checkpoint.facts_file(ckpt)} does not tell the step, so it cannot be resumed")
        self._check(ckpt, facts)
        loaded, wanted = checkpoint.load_parameters(ckpt), self._parameters()
        wrong = [n for n, p in wanted.items() if n not in loaded or loaded[n].shape != p.shape]
        if wrong:
            raise ValueError(f"{ckpt}: {len(wrong)} parameters are missing or of another shape, such as {wrong[0]}")
        for name, parameter in wanted.items():
            parameter.set_data(loaded[name])
        return facts['step'], ckpt

    def _check(self, ckpt, facts):
        now = self._facts(0)
        for key in ('network_type', 'num_classes', 'num_images', 'global_batch'):
            if facts.get(key) != now[key]:
                raise ValueError(f"{ckpt}: was trained with {key} {facts.get(key)}, this run has {now[key]}")


class StopSignals:
    """While it is entered, SIGTERM and SIGINT wait in `number` for the end of the step; a second one acts at once.

    Of several ranks only rank 0 minds them: the others go on until rank 0 has saved and its launcher stops them.
    """

    def __init__(self, is_writer):
        self.is_writer, self.number, self.before = is_writer, None, {}

    def __enter__(self):
        self.before = self.hold()
        return self

    def hold(self):
        """Take the signals, again after a step: compiling may have put MindSpore's SIGINT handler in place."""
        handler = self._note if self.is_writer else signal.SIG_IGN
        return {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}

    def _note(self, number, _):
        if self.number:
            os._exit(128 + number)
        self.number = number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Watchdog:
    """Ends the process with one line and code 1 if `alive` is not called for `seconds`; 0 means never."""

    def __init__(self, seconds, ckpt_dir):
        self.seconds, self.ckpt_dir = seconds, ckpt_dir
        self.ended = threading.Event()
        self.alive()

    def alive(self):
        self.last = time.monotonic()

    def __enter__(self):
        if self.seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self):
        while not self.ended.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self.last > self.seconds:
                print(f"error: no step for {self.seconds:g} s (hang_seconds): another rank, a card or the storage "
                      f"hangs; go on with --resume {self.ckpt_dir}", file=sys.stderr, flush=True)
                os._exit(1)

    def __exit__(self, *_):
        self.ended.set()


def check_same_weights(step, device, done):
    """Raise RuntimeError unless all ranks hold the same weights, to the last bit. All ranks call it together."""
    checksum = 0
    for weight in step.weights:
        checksum = zlib.crc32(np.ascontiguousarray(weight.asnumpy()), checksum)
    sums = np.zeros((device.rank_size, 2), np.float32)
    sums[device.rank] = divmod(checksum, 1 << 16)                   # halves that float32 holds exactly
    sums = ops.AllReduce()(Tensor(sums)).asnumpy()
    different = np.flatnonzero((sums != sums[0]).any(1))
    if len(different):
        raise RuntimeError(f"after {done} steps the weights of rank {different[0]} differ from those of rank 0 "
                           f"({len(different)} of {device.rank_size} ranks): they have drifted apart")


def load_for_finetuning(step, cfg, path):
    """Take the embedding network's weights from a checkpoint; the classifier stays new. Return the file."""
    ckpt = checkpoint.newest(path)
    network, _, image_size = checkpoint.load_embedding(ckpt, cfg.network_type)
    if image_size != cfg.image_size:
        raise ValueError(f"--finetune {ckpt}: is for {image_size}x{image_size} faces, this run has image_size "
                         f"{cfg.image_size}")
    for old, new in zip(network.get_parameters(), step.network.embedding.get_parameters()):
        new.set_data(old)
    return ckpt


def train(cfg, device, recipe, ckpt_dir, resume=None, evaluate=None, eval_every=0, finetune=None):
    """Train to the end of cfg.epochs and return the number of steps done.

    resume: a checkpoint, a folder of them, or 'auto' (ckpt_dir, from the start if it holds none).
    evaluate: called with the embedding network every `eval_every` epochs; returns a dict with 'eer100'.
    finetune: a checkpoint whose embedding network is the start, unless there is something to resume.
    Raises FloatingPointError if the loss is not finite, RuntimeError if ranks drift apart, ValueError or
    FileNotFoundError for bad input. SIGTERM and SIGINT save and leave with code 128 + signal.
    """
    is_writer = device.rank == 0
    os.makedirs(ckpt_dir, exist_ok=True)
    if is_writer:
        checkpoint.remove_left_over(ckpt_dir)
    faces = open_faces(cfg)
    num_bad = faces.check(cfg, ckpt_dir, device)
    batches = TrainingBatches(faces, cfg, device.rank, device.rank_size)
    if cfg.scale_lr:
        scale_lr(cfg, RECIPES[recipe]().batch_size, batches.global_batch, batches.steps_per_epoch)
    step = build_step(cfg, device)
    saver = Saver(ckpt_dir, cfg, recipe, step, batches, is_writer)
    first = _restore(saver, ckpt_dir, resume)
    start = f", from the embedding in {load_for_finetuning(step, cfg, finetune)}" if finetune and not first else ''
    log = TrainLog(os.path.join(ckpt_dir, 'train_log.jsonl'), cfg, batches.global_batch, batches.steps_per_epoch,
                   len(batches), first, is_writer)
    log.say(f"{cfg.network_type} on {device.target}, {device.rank_size} x batch {cfg.batch_size}: {len(faces)} images "
            f"of {cfg.num_classes} people ({num_bad} unreadable left out), {batches.steps_per_epoch} steps an epoch, "
            f"steps {first} to {len(batches)}, lr {cfg.lr:g}{start}")
    best = max([row['eer100'] for row in read_log(log.file) if 'eer100' in row], default=-1)
    with StopSignals(is_writer) as stop, Watchdog(cfg.hang_seconds, ckpt_dir) as watchdog:
        return _loop(cfg, device, step, batches, saver, log, first, best, stop, watchdog, evaluate, eval_every)


def _loop(cfg, device, step, batches, saver, log, first, best, stop, watchdog, evaluate, eval_every):
    done, num_skipped = first, 0

    def rate(k):
        return learning_rate(k, cfg, batches.steps_per_epoch, len(batches))

    if device.rank_size > 1:
        check_same_weights(step, device, done)
    try:
        for done, loss, hits, updated in step_outputs(step, batches, rate, range(first, len(batches)), cfg):
            watchdog.alive()
            stop.hold()
            num_skipped = 0 if updated else num_skipped + 1
            if updated and not math.isfinite(loss) or num_skipped > MAX_SKIPPED:
                raise FloatingPointError(f"the loss is {loss} at step {done}, epoch {log.epoch_of(done)}; lower lr or "
                                         f"raise warmup_steps, then go on with --resume {saver.ckpt_dir}")
            log.step(done, loss, hits, rate(done - 1))
            if device.rank_size > 1 and cfg.check_every and done % cfg.check_every == 0:
                check_same_weights(step, device, done)
            if stop.number:
                _leave(saver, log, done, stop.number, device.rank_size)
            if done % cfg.save_checkpoint_steps == 0 and done < len(batches):
                saver.save(done)
                _plot(log)
            if eval_every and (done % (eval_every * log.steps_per_epoch) == 0 or done == len(batches)):
                best = _evaluate(evaluate, step, saver, log, done, best)
                watchdog.alive()
    except (OSError, ValueError):                # the input or the disk failed in the middle: keep what was learnt
        if done > first:
            with contextlib.suppress(OSError):
                saver.save(done)
        raise
    if done > first:
        saver.save(done)
        _plot(log)
    return done


def _leave(saver, log, done, number, ranks):
    """Save and end the process with the code that a signal stands for."""
    saver.save(done)
    log.say(f"{signal.Signals(number).name}: saved after {done} steps; go on with --resume auto")
    if ranks > 1:
        os._exit(128 + number)                   # the other ranks still wait in a collective: no orderly farewell
    sys.exit(128 + number)


def _restore(saver, ckpt_dir, resume):
    if not resume:
        return 0
    path = ckpt_dir if resume == 'auto' else resume
    try:
        done, ckpt = saver.restore(path)
    except FileNotFoundError:
        if resume == 'auto':
            return 0
        raise
    if saver.is_writer:
        print(f"resuming from {ckpt}, {done} steps done", flush=True)
    return done


def _evaluate(evaluate, step, saver, log, done, best):
    """Score the network, all ranks together; keep it as best.ckpt if it is the best so far."""
    start = time.time()
    step.set_train(False)
    result = evaluate(step.network.embedding)
    step.set_train()
    log.say(f"LFW after {done} steps: 100%eer {result['eer100']:.4f} ({time.time() - start:.0f} s)")
    log.write({'step': done, 'epoch': done / log.steps_per_epoch, **result})
    if result['eer100'] > best:
        saver.save(done, 'best.ckpt')
    return max(best, result['eer100'])


def _plot(log):
    if log.is_writer:
        plot_training(read_log(log.file), os.path.splitext(log.file)[0].replace('train_log', 'training') + '.png')

"""The training loop of ``atlasvla-pretrain``, which goes on bit for bit where it was killed."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lerobot.common.train_utils import load_training_state, save_training_state
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from lerobot_atlasvla.files.folder_lock import FolderInUseError, FolderLock
from lerobot_atlasvla.files.replacing import replacing, write_text
from lerobot_atlasvla.files.safetensors_files import save_tensors
from lerobot_atlasvla.utils.errors import brief, first_line
from lerobot_atlasvla.utils.paths import why_not

from . import folder
from .batches import make_batch
from .data import GeometryData, read_data, scales
from .evaluation import held_out_errors, write_figures
from .losses import WEIGHTS, loss_terms
from .network import PretrainingNetwork
from .settings import PretrainConfig, PretrainError

logger = logging.getLogger(__name__)

_WARMUP_STEPS = 50
_WEIGHT_DECAY = 0.01
_LARGEST_NORM = 1.0
# An odd constant without structure spreads neighboring steps over all seeds.
_SPREAD = 0x9E3779B97F4A7C15
_SEEDS = 2**63
_WEIGHTS_FILE, _RUN_FILE = "network.safetensors", "run.json"


def pretrain(config: PretrainConfig) -> dict[str, float]:
    """Train a backbone and write it to ``config.output_dir``, or go on with what is there.

    Returns:
        Its errors on held-out states.

    Raises:
        PretrainError: If a setting or the data can't work, or the folder holds something else.
    """
    config.validate()
    try:
        folder.check_free(config)
        lock = FolderLock(config.output_dir, "--output_dir")
    except FolderInUseError as error:
        raise PretrainError(str(error)) from error
    except OSError as error:
        raise PretrainError(f"{why_not(error, config.output_dir, '--output_dir')}.") from error
    try:
        if (finished := folder.finished_errors(config)) is not None:
            return finished
        return Trainer(config, read_data(config)).run()
    except OSError as error:
        raise PretrainError(f"{why_not(error, config.output_dir, '--output_dir')}.") from error
    finally:
        lock.release()


class Trainer:
    """Trains a geometry backbone with its heads, from the start or from the last checkpoint in the folder.

    Args:
        config: Valid settings.
        data: The dataset, in memory.

    Raises:
        PretrainError: If what is there was made with other settings or data, or is damaged.
    """

    def __init__(self, config: PretrainConfig, data: GeometryData):
        self.config, self.data = config, data
        self.training_N, self.held_out_N = data.split(config.held_out, config.seed)
        self.record = config.record(data.image_size, scales(config, data, self.training_N))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = PretrainingNetwork(self.record)
        try:
            self.network.to(config.device)
        except (RuntimeError, AssertionError) as error:
            raise PretrainError(f"--device={config.device} can't be used: {first_line(error)}.") from error
        decayed = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.network.parameters() if parameter.ndim <= 1]
        groups: Any = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer: Any = AdamWConfig(lr=config.lr, weight_decay=_WEIGHT_DECAY).build(groups)
        warmup = min(_WARMUP_STEPS, config.steps // 10)
        self.scheduler = CosineAnnealingWithWarmupSchedulerConfig(warmup).build(self.optimizer, max(1, config.steps))
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._resume()

    def run(self) -> dict[str, float]:
        """Train to the end, and write the backbone.

        Returns:
            Its errors on held-out states.
        """
        config = self.config
        logger.info(
            "%d states to train on, %d held out, %d parameters.",
            len(self.training_N),
            len(self.held_out_N),
            sum(parameter.numel() for parameter in self.network.parameters()),
        )
        wall, cpu = time.perf_counter(), time.process_time()
        bar = tqdm(total=config.steps, initial=self.step, desc="pretraining", unit="step")
        sums: dict[str, float] = {}
        measured = self.step
        while self.step < config.steps:
            for name, value in self._train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            bar.update()
            bar.set_postfix_str(f"loss {sums['loss'] / (self.step - measured):.3f}")
            if self.step % config.eval_every == 0 and self.step < config.steps:
                self._measure({name: value / (self.step - measured) for name, value in sums.items()}, wall, cpu)
                sums, measured = {}, self.step
                self._save()
                wall, cpu = time.perf_counter(), time.process_time()
        bar.close()
        errors = self._measure({name: value / max(1, self.step - measured) for name, value in sums.items()}, wall, cpu)
        folder.write(config, self.data, self.record, self.network.released(), self.history, self.held_out_N)
        shutil.rmtree(folder.checkpoints(config), ignore_errors=True)
        return errors

    def _train_step(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed((self.config.seed + _SPREAD * (self.step + 1)) % _SEEDS)
        chosen = torch.randint(len(self.training_N), (self.config.batch_size,), generator=generator)
        batch = make_batch(self.data, self.training_N[chosen], generator, self.config.frame).to(self.network.device)
        found, colors = self.network(batch.images_BV3HW)
        terms = loss_terms(found, colors, batch, generator)
        loss = torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.step += 1
        values = {"loss": loss.item()} | {name: term.item() for name, term in terms.items()}
        if not math.isfinite(values["loss"]):
            raise PretrainError(
                f"The loss of step {self.step} is {values['loss']}: lower --lr={self.config.lr}, in a new --output_dir."
            )
        return values

    def _measure(self, losses: dict[str, float], wall: float, cpu: float) -> dict[str, float]:
        config = self.config
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        before = self.history[-1] if self.history else dict.fromkeys(spent, 0.0)
        errors = held_out_errors(self.network, self.data, self.held_out_N, config.views, config.frame)
        self.history.append(
            {
                "step": self.step,
                **{name: round(before[name] + seconds, 1) for name, seconds in spent.items()},
                "losses": {name: round(value, 5) for name, value in losses.items()},
                "held_out": errors,
            }
        )
        tqdm.write(f"step {self.step}: " + ", ".join(f"{name} {value:.2f}" for name, value in errors.items()))
        write_figures(self.network, self.data, self.held_out_N, config.frame, config.output_dir)
        write_text(config.output_dir / folder.METRICS, json.dumps(self.history, indent=1) + "\n")
        return errors

    def _save(self) -> None:
        """Write a point from which a killed run goes on, and remove the one before."""
        place = folder.checkpoints(self.config)
        before = _saved_steps(place)
        with replacing(place / f"{self.step:09d}") as scratch:
            scratch.mkdir()
            save_training_state(scratch, self.step, self.optimizer, self.scheduler)
            tensors = {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}
            save_tensors(tensors, scratch / _WEIGHTS_FILE)
            (scratch / _RUN_FILE).write_text(
                json.dumps({"settings": self.config.fixed(), "data": self.data.digest, "history": self.history})
            )
        for old in before:
            shutil.rmtree(old)

    def _resume(self) -> None:
        saved = _saved_steps(folder.checkpoints(self.config))
        if not saved:
            return
        last = saved[-1]
        try:
            run = json.loads((last / _RUN_FILE).read_text())
            folder.check_same(self.config, run["settings"], run["data"], self.data.digest)
            self.network.load_state_dict(load_file(last / _WEIGHTS_FILE))
            self.step, _, _ = load_training_state(last, self.optimizer, self.scheduler)
            self.history = run["history"]
            # Later entries add to them.
            if not all(isinstance(self.history[-1][name], float) for name in ("wall_s", "cpu_s")):
                raise TypeError("times that are no numbers")
        # Of files cut short, changed, or of other shapes.
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, SafetensorError) as error:
            raise PretrainError(
                f"{last} is damaged ({brief(error)}): remove it, or choose a new --output_dir."
            ) from error
        logger.info("Going on from step %d.", self.step)


def _saved_steps(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*") if path.name.isdigit()) if place.is_dir() else []
